"""What the jobs of a page of time use of the machine: of its metrics, and of its resources."""

from collections import defaultdict
from collections.abc import Sequence

import numpy as np

from oar_accounting.core.columns import (
    Bools,
    Ints,
    KeyedRates,
    Spans,
    exact_sums,
    group_starts,
    ints,
    located,
    repeated,
)
from oar_accounting.database.id_blocks import id_blocks
from oar_accounting.ledger import schema
from oar_accounting.oar import machine
from oar_accounting.oar.machine import History, Stretches, UseSteps
from oar_accounting.oar.properties import Kinds
from oar_accounting.oar.resource_logs import assigned_among
from oar_accounting.oar.snapshot import Snapshot


class PageOfJobs:
    """What the jobs of a page use: of the metrics, and of resources."""

    def __init__(self, snapshot: Snapshot, kinds: Kinds, idle: Stretches) -> None:
        """*idle*: when resources were not up."""
        self._snapshot = snapshot
        self._resource_id = kinds.resource_id
        self._counts = kinds.counted()
        self._idle = idle
        self._uses: dict[int, list[tuple[Ints, Ints, Ints]]] = defaultdict(list)
        self._unknown: dict[int, list[tuple[Ints, Ints, Ints]]] = defaultdict(list)
        self._rescued: list[tuple[Ints, Ints, Ints]] = []
        self._busy: list[tuple[Ints, Ints, Ints]] = []

    def use_of_metric(
        self, spans: Spans, rates: KeyedRates, metric_id: int, unknown: Bools
    ) -> None:
        """Count what these used spans hold each second of a metric, and what *unknown* ones do."""
        job, rate = by_job(rates.take(rates.metric_id == metric_id))
        at, there = located(spans.job_id, job)
        for found, chosen in ((self._uses, there), (self._unknown, there & unknown)):
            some = spans.take(chosen)
            found[metric_id].append((some.start_time, some.stop_time, rate[at[chosen]]))

    def use_of_resources(self, block: Ints, spans: Spans, counts: tuple[Ints, Ints]) -> Ints:
        """Note which resources are used in these spans, by what OAR assigned.

        *counts*: jobs, and how many resources each holds at some time. Returns the jobs of which
        OAR has all of these.
        """
        block = np.intersect1d(block, spans.job_id)
        # Jobs that were retired have ids below zero, which OAR does not know.
        block = block[block > schema.CARRIED]
        spans = spans.take(np.argsort(spans.job_id, kind="stable"))
        most = np.zeros(len(block), np.int64)
        at, there = located(counts[0], block)
        np.maximum.at(most, at[there], counts[1][there])
        known = [ints([])]
        for some in id_blocks(block) if len(self._resource_id) else ():
            pairs = assigned_among(self._snapshot.connection, some, self._resource_id)
            for job, resource in pairs:
                known.append(self._note(job, resource, spans, (block, most)))
        return np.concatenate(known)

    def _note(self, job: Ints, resource: Ints, spans: Spans, expected: tuple[Ints, Ints]) -> Ints:
        """Note what some jobs use; those of which all that is *expected* is there."""
        owner, there = located(resource, self._resource_id)
        at, asked_about = located(job, expected[0])
        there &= asked_about
        job, owner, at = job[there], owner[there], at[there]
        found = np.bincount(at, self._counts[owner], minlength=len(expected[0])).astype(np.int64)
        whole = expected[0][(found >= expected[1]) & (found > 0)]
        first = np.searchsorted(spans.job_id, job, "left")
        pair, nth = repeated(np.searchsorted(spans.job_id, job, "right") - first)
        span = first[pair] + nth
        uses = (owner[pair], spans.start_time[span], spans.stop_time[span])
        meets = machine.touching(self._idle, *uses)
        if np.any(meets):
            self._rescued.append((uses[0][meets], uses[1][meets], uses[2][meets]))
        counts = np.isin(job[pair], whole)
        self._busy.append((uses[0][counts], uses[1][counts], uses[2][counts]))
        return whole

    def rescued(self) -> bool:
        """True where a job used what OAR says was not up."""
        return bool(self._rescued)

    def raised(self, level: History) -> History:
        """The levels, but that what a job used is up."""
        spans = map(np.concatenate, zip(*self._rescued, strict=True))
        return machine.with_busy(level, machine.busy_history(*spans))

    def busy(self) -> History:
        """When resources were used, by jobs of which it is known."""
        spans = self._busy or [(ints([]), ints([]), ints([]))]
        return machine.busy_history(*map(np.concatenate, zip(*spans, strict=True)))

    def use(self, metric_id: int) -> UseSteps:
        """What all jobs use of a metric, each for itself."""
        return _steps(self._uses[metric_id])

    def unknown_use(self, metric_id: int) -> UseSteps:
        """What those use of which it is not known which resources they used."""
        return _steps(self._unknown[metric_id])


def _steps(spans: Sequence[tuple[Ints, Ints, Ints]]) -> UseSteps:
    parts = spans or [(ints([]), ints([]), ints([]))]
    return machine.use_of(*map(np.concatenate, zip(*parts, strict=True)))


def by_job(rates: KeyedRates) -> tuple[Ints, Ints]:
    """The jobs, ascending, and what each uses each second on all its accounts together."""
    if not len(rates):
        return ints([]), ints([])
    order = np.argsort(rates.job_id, kind="stable")
    job = rates.job_id[order]
    starts = group_starts([job])
    return job[starts], exact_sums(rates.used[order], starts)

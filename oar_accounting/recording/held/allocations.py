"""What jobs hold: from the resources OAR assigned to rates per account and metric."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from oar_accounting.core.columns import (
    OPEN,
    Ints,
    JobRows,
    Rates,
    distinct,
    ints,
    located,
    numbered,
    numbered_rows,
)
from oar_accounting.core.problems import Code, Trouble, Troubles, of_metric
from oar_accounting.ledger.catalog import Names, StoredMetric
from oar_accounting.ledger.ledger import Book
from oar_accounting.metrics.composed import HeldAmounts, facts_of
from oar_accounting.metrics.formulas.evaluate import Fact
from oar_accounting.metrics.metric import Held, Metric, Resources, bad_values
from oar_accounting.oar.checking import resource_log_unread
from oar_accounting.oar.job_nodes import JobNodes
from oar_accounting.oar.job_rules import Terms, bills_containers, phases
from oar_accounting.oar.properties import Kinds, believed_of, last_logged, logged_after, read_kinds
from oar_accounting.oar.snapshot import Assigned, Snapshot
from oar_accounting.recording.held.containers import read_containers
from oar_accounting.recording.held.over_time import (
    HeldSpans,
    PartRates,
    in_kinds,
    parts_of,
    rates_over_time,
    without,
)

Types = Mapping[int, Sequence[str]]


@dataclass(frozen=True, slots=True)
class Holdings:
    """What some jobs hold per second."""

    rates: Rates
    asked_about: Ints  #: the jobs that should hold something, ascending
    counted: Ints  #: beside them, how many resources of type default OAR gives them
    counting: Ints  #: those that hold resources that count
    short: Ints  #: those of which OAR no longer describes every resource, or lists none

    def with_kept(self, jobs: Ints, recorded: Rates) -> "Holdings":
        """The same with what is *recorded* of these jobs, whatever OAR says of them now."""
        others = self.rates.take(~np.isin(self.rates.job_id, jobs))
        return replace(
            self,
            rates=Rates.concat([others, recorded]),
            counting=np.union1d(self.counting, jobs),
        )


class Holder:
    """Reads what jobs hold; reads the resources once, and again where one is new or changes."""

    def __init__(self, problems: Troubles, nodes: JobNodes | None = None) -> None:
        """*nodes*: where the nodes of the jobs are noted, if these are wanted."""
        self._problems = problems
        self._nodes = nodes
        self._kinds: Kinds | None = None
        self._metrics: frozenset[Metric] = frozenset()
        self._since = OPEN
        #: The number of OAR's last log when they were read; None where the log is not read.
        self._last_log: int | None = None

    def holdings(
        self,
        snapshot: Snapshot,
        book: Book,
        rows: JobRows,
        metrics: Sequence[StoredMetric],
        types: Types | None = None,
    ) -> Holdings:
        """What the jobs hold per second in these metrics.

        Without the jobs' *types* these are read where a metric depends on them, or what is billed.
        """
        terms = book.site.terms
        wanted = [stored.metric for stored in metrics]
        self._ask_for(snapshot, wanted, rows, terms)
        if types is None:
            needed = len(rows) and ("type" in facts_of(wanted) or bills_containers(terms))
            types = snapshot.types(rows.job_id) if needed else {}
        outer = read_containers(snapshot, book, types) if bills_containers(terms) else None
        parts, whole, counting = [Rates.concat([])], [ints([])], [ints([])]
        counted = np.zeros(len(rows), np.int64)
        for portion, pairs in snapshot.assigned(rows):
            if self._nodes is not None:
                self._nodes.note(snapshot, portion, pairs)
            pairs_held = self._located_resources(snapshot, portion, pairs, terms)
            whole.append(portion.job_id[_whole(pairs, pairs_held)])
            held = self._over_time(portion, pairs_held, terms)
            at = np.searchsorted(rows.job_id, portion.job_id)
            counted[at] = self._of_type_default(held, len(portion))
            if outer is not None:
                held = without(held, outer.cuts(held, portion, self._table.resource_id))
            counting.append(portion.job_id[np.unique(held.job)])
            parts.append(self._rates(book, portion, held, metrics, types))
        short = np.setdiff1d(rows.job_id, np.concatenate(whole))
        return Holdings(Rates.concat(parts), rows.job_id, counted, np.concatenate(counting), short)

    @property
    def _known(self) -> Kinds:
        assert self._kinds is not None
        return self._kinds

    @property
    def _table(self) -> Resources:
        return self._known.table

    def _ask_for(
        self, snapshot: Snapshot, metrics: Sequence[Metric], rows: JobRows, terms: Terms
    ) -> None:
        """Read the resources with every property that is needed, from the first job.

        What OAR logs during a pass may be of jobs that end before the pass comes to them. The
        profile "classic" knows what they are today.
        """
        since = int(rows.start_time.min(initial=OPEN))
        known = self._kinds is not None and not self._has_changed(snapshot)
        if known and set(metrics) <= self._metrics and since >= self._since:
            return
        self._metrics = self._metrics | set(metrics)
        self._since = min(self._since, since)
        self._reread(snapshot, terms)

    def _has_changed(self, snapshot: Snapshot) -> bool:
        """True where OAR has logged a property since the resources were read."""
        if self._last_log is None:
            return False
        return logged_after(snapshot.connection, self._table.properties, self._last_log)

    def _reread(self, snapshot: Snapshot, terms: Terms) -> None:
        connection, believed = snapshot.connection, believed_of(terms)
        unread = believed is None or resource_log_unread(connection)
        self._last_log = None if unread else last_logged(connection)
        self._kinds = read_kinds(snapshot, self._metrics, terms.dimension, self._since, believed)

    def _over_time(self, rows: JobRows, held: Held, terms: Terms) -> HeldSpans:
        """What jobs hold at which times."""
        if terms.profile == "classic":
            held = held.take(np.isin(held.part, _with_default(held, self._table)))
        stop = np.where(phases(rows, terms).closed, rows.stop_time, OPEN)
        return in_kinds(held, self._known, rows.start_time, stop)

    def _of_type_default(self, held: HeldSpans, jobs: int) -> Ints:
        """How many resources of type default each job holds, whenever it holds them."""
        default = self._table.of_type("default")[held.row] != 0
        job = held.job[default]
        if not self._known.unchanging:
            job = job[numbered_rows([job, self._table.resource_id[held.row[default]]])[1]]
        return np.bincount(job, minlength=jobs)

    def _rates(
        self,
        book: Book,
        rows: JobRows,
        held: HeldSpans,
        metrics: Sequence[StoredMetric],
        types: Types,
    ) -> Rates:
        """Per job, account and metric, the amounts per second; amounts of zero are left out."""
        parts = parts_of(held, len(rows))
        codes, values = self._table.values_of(book.site.terms.dimension)
        width = len(values)
        keys, number = numbered(
            parts.held.part * width + codes[parts.held.row], len(parts.job) * width
        )
        part, value = keys // width, keys % width
        job = parts.job[part]
        owners, owner = distinct(rows.names())
        pairs, account = numbered(owner[job] * width + value, len(owners) * width)
        names: list[Names] = [(*owners[p // width], values[p % width]) for p in pairs.tolist()]
        book.accounts.add(book.connection, names)
        accounts = ints(book.accounts.ids(names))[account]
        kinds, kind = distinct([tuple(types.get(number, ())) for number in rows.job_id.tolist()])
        facts = {
            "queue": Fact(owner[job], [(queue,) for _, _, queue in owners]),
            "cluster": Fact(value, [(each,) for each in values]),
            "type": Fact(kind[job], kinds),
        }
        amounts = HeldAmounts(Held(number, parts.held.row), self._table, len(keys), facts)
        found = []
        for each in metrics:
            rates, beyond = amounts.fitting_rates(each.metric)
            found.append(_above_zero(part, accounts, each.metric_id, rates))
            self._too_large(each.metric, rows.job_id[job[beyond]])
            self._with_bad_values(each.metric, rows, held)
        for name, below in amounts.below_zero:
            self._less_than_zero(name, rows.job_id[job[below]])
        return rates_over_time(PartRates.concat(found), parts, rows.job_id)

    def _less_than_zero(self, metric: str, jobs: Ints) -> None:
        said = of_metric(metric, "its formula gives less than zero; counted as zero")
        for job in jobs.tolist():
            self._problems.add(job, Trouble(Code.BELOW_ZERO, said))

    def _too_large(self, metric: Metric, jobs: Ints) -> None:
        """Tell it of the jobs."""
        said = "what it holds each second does not fit in 63 bits; counted as nothing"
        trouble = Trouble(Code.TOO_LARGE, of_metric(metric.name, said))
        for job in jobs.tolist():
            self._problems.add(job, trouble)

    def _with_bad_values(self, metric: Metric, rows: JobRows, held: HeldSpans) -> None:
        """Tell it of the jobs that hold a resource with a value that the metric cannot count."""
        bad = bad_values(metric, self._table)
        if not bad:
            return
        held = held.take(np.isin(held.row, ints(list(bad))))
        for job in np.unique(held.job).tolist():
            found = np.unique(held.row[held.job == job]).tolist()
            more = f", and {len(found) - 1} more such" if len(found) > 1 else ""
            number = self._table.resource_id[found[0]]
            said = f"resource {number}: {bad[found[0]]}{more}; counted as nothing"
            trouble = Trouble(Code.BAD_VALUE, of_metric(metric.name, said))
            self._problems.add(int(rows.job_id[job]), trouble)

    def _located_resources(
        self, snapshot: Snapshot, portion: JobRows, pairs: Assigned, terms: Terms
    ) -> Held:
        """The pairs with the row of the resource; a resource that OAR removed is reported."""
        at, there = located(pairs.resource_id, self._known.resource_id)
        if not np.all(there):
            self._reread(snapshot, terms)
            at, there = located(pairs.resource_id, self._known.resource_id)
        removed = "was assigned a resource that OAR has removed; the others are recorded"
        for job in np.unique(pairs.job[~there]).tolist():
            number = int(portion.job_id[job])
            self._problems.add(number, Trouble(Code.REMOVED_RESOURCE, removed))
        return Held(pairs.job[there], at[there])


def _above_zero(part: Ints, accounts: Ints, metric_id: int, rate: Ints) -> PartRates:
    some = np.flatnonzero(rate)
    return PartRates(part[some], accounts[some], np.full(len(some), metric_id), rate[some])


def _whole(pairs: Assigned, held: Held) -> Ints:
    """The jobs all of whose resources are there."""
    jobs, assigned = np.unique(pairs.job, return_counts=True)
    there = np.bincount(held.part, minlength=int(jobs.max(initial=0)) + 1)[jobs]
    whole: Ints = jobs[there == assigned]
    return whole


def _with_default(held: Held, resources: Resources) -> Ints:
    """The parts that hold a resource of type default."""
    return np.unique(held.part[resources.of_type("default")[held.row] != 0])

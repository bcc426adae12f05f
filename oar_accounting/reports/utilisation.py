"""How full the machine is: capacity, what was down, what slept, what was used, what was free.

    capacity = down + standby + used + free        at every second, and so in every bucket
    used + over = what the ledger says was used

What is where at which second `resource_logs` tells of OAR, and `machine` counts. A resource that
OAR calls down or absent while a job used it was used: its time is counted as if it were Alive.
What jobs share is used once: a resource, or a node of which each holds a part. What they use beyond
that, or beyond what is up, is over: resources that OAR has removed since, or that were not there,
too. Of a job of which OAR no longer has all that it was assigned it is not known what it shares.

Amounts of which no second is known (measured ones, those of purged jobs, and what was taken over
from OAR's own accounting) lie evenly over their window: they fill what their bucket has free, and
the rest is over. Adjustments change what somebody is told to have used, not the machine.
"""

from bisect import bisect_left, bisect_right
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

import numpy as np
from sqlalchemy import Connection, Select, func, select

from oar_accounting.core.columns import (
    OPEN,
    Ints,
    KeyedRates,
    Spans,
    ints,
)
from oar_accounting.core.lengths import DAY
from oar_accounting.core.parts import constant
from oar_accounting.core.periods import cuts, zone
from oar_accounting.core.windows import evenly
from oar_accounting.database import bulk
from oar_accounting.errors import BadSpan, UnknownName
from oar_accounting.ledger import schema
from oar_accounting.ledger.catalog import Site, StoredMetric, account_names, stored_metrics
from oar_accounting.ledger.job_index import job_blocks
from oar_accounting.ledger.reading import read_rates, read_spans
from oar_accounting.metrics.metric import RESOURCE, Resources, largest_values
from oar_accounting.oar import machine
from oar_accounting.oar.machine import Filled, Measure, Stretches, UseSteps, measured
from oar_accounting.oar.properties import believed_of
from oar_accounting.oar.resource_logs import MachineLog, read_machine
from oar_accounting.oar.snapshot import OarJobs, Snapshot
from oar_accounting.reports.page_of_jobs import PageOfJobs, by_job
from oar_accounting.reports.records import UtilisationReport, UtilisationRow

#: Jobs of so many seconds are held in memory at once.
PERIOD_AT_ONCE = 31 * DAY
#: Times further from 1970 than this, two thousand years, are none that somebody means.
FARTHEST_MEANT = 2**36

#: Half-open span and amount that lies evenly over it.
Even = tuple[int, int, int]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Chosen:
    """What is asked about."""

    site: Site
    metrics: Sequence[StoredMetric]
    values: frozenset[str] | None  #: of the dimension property; None: all

    def accounts(self, connection: Connection) -> Ints | None:
        """The accounts that count; None: all."""
        if self.values is None:
            return None
        names = account_names(connection, self.site.site_id)
        return ints([number for number, each in names.items() if each[3] in self.values])


def utilisation(  # noqa: PLR0913 - one question
    connection: Connection,
    site: Site,
    oar: OarJobs,
    metrics: Sequence[str] | None,
    start: int | None,
    stop: int,
    *,
    bucket: str | int | None,
    timezone: str,
    where: Mapping[str, str | Iterable[str]] | None,
) -> UtilisationReport:
    """How full the machine was within ``[start, stop)``; open jobs count until *stop*.

    See :meth:`oar_accounting.Accounting.utilisation`. Raises :class:`UnknownName`,
    :class:`BadSpan` and :class:`oar_accounting.errors.OarSchemaError`.
    """
    wanted, notes = _wanted(connection, site, metrics)
    chosen = _Chosen(site=site, metrics=wanted, values=_values(site, where))
    present = oar.properties()
    with oar.snapshot() as snapshot:
        metrics_only = [each.metric for each in wanted]
        since = -OPEN if start is None else start
        log = read_machine(
            snapshot,
            present,
            metrics_only,
            site.terms.dimension,
            since,
            believed_of(site.terms),
        )
        _check_values(connection, chosen, log)
        begin = _first(connection, site, log) if start is None else start
        bounds = _bounds(begin, stop, bucket, timezone)
        accounts = chosen.accounts(connection)
        measures = [measured(each, log.kinds.table, site.terms.dimension) for each in metrics_only]
        sums = _UsedSums(len(wanted), bounds)
        for page in _pages(begin, stop):
            inside = sums.within(page)
            found = _of_page(connection, snapshot, log, chosen, accounts, measures, inside)
            sums.add(inside, found)
    even = _evens(connection, chosen, accounts, begin, stop)
    if any(even.values()):
        notes.append(
            "what was purged, measured or taken over is known only by window: it is spread evenly "
            "over each of them"
        )
    return UtilisationReport(
        rows=tuple(
            row
            for number, stored in enumerate(wanted)
            for row in _rows(stored, bounds, sums.of(number), even[stored.metric_id])
        ),
        notes=(*notes, *log.notes),
        as_of=stop,
    )


# -- what is asked ----------------------------------------------------------------------------


def _wanted(
    connection: Connection, site: Site, names: Sequence[str] | None
) -> tuple[list[StoredMetric], list[str]]:
    """The metrics, and what is to be said of those that are left out."""
    known = {
        stored.metric.name: stored
        for stored in stored_metrics(connection, site.site_id)
        if stored.state == schema.ACTIVE
    }
    composed = [name for name, stored in known.items() if stored.metric.form == "formula"]
    if names is None:
        notes = [f"metrics with a formula have no capacity: {', '.join(composed)}"]
        held = [stored for name, stored in known.items() if name not in composed]
        return held, notes if composed else []
    for name in names:
        if name not in known:
            raise UnknownName(f"unknown metric {name!r}; recorded are {', '.join(known) or 'none'}")
        if name in composed:
            raise UnknownName(
                f"metric {name!r} has a formula, and so the machine has no capacity of it; its "
                f"parts may have: {', '.join(part.name for part in known[name].metric.parts)}"
            )
    return [known[name] for name in dict.fromkeys(names)], []


def _bounds(start: int, stop: int, bucket: str | int | None, timezone: str) -> list[int]:
    """The bounds of the buckets. Raises :class:`BadSpan`."""
    for instant in (start, stop):
        if abs(instant) > FARTHEST_MEANT:
            raise BadSpan(f"{instant} is beyond any calendar; epoch seconds were expected")
    if stop <= start:
        raise BadSpan(f"the span from {start} to {stop} is empty")
    return [start, stop] if bucket is None else cuts(start, stop, bucket, zone(timezone))


def _values(site: Site, where: Mapping[str, str | Iterable[str]] | None) -> frozenset[str] | None:
    """The values of the dimension property; None: all. Raises :class:`UnknownName`."""
    if not where:
        return None
    dimension = site.terms.dimension
    for key in where:
        if key != dimension or not dimension:
            raise UnknownName(
                f"utilisation cannot be told by {key!r}; "
                + (f"only by {dimension!r}" if dimension else "the site keeps no property apart")
            )
    given = where[dimension]
    return frozenset([given] if isinstance(given, str) else given)


def _check_values(connection: Connection, chosen: _Chosen, log: MachineLog) -> None:
    """Raise :class:`UnknownName` for a value that neither a resource nor an account ever had."""
    if chosen.values is None:
        return
    dimension = chosen.site.terms.dimension
    known = {names[3] for names in account_names(connection, chosen.site.site_id).values()}
    known |= set(log.kinds.table.values_of(dimension)[1])
    if unknown := sorted(chosen.values - known):
        raise UnknownName(
            f"unknown {dimension} {unknown[0]!r}; known are {', '.join(sorted(known - {''}))}"
        )


def _first(connection: Connection, site: Site, log: MachineLog) -> int:
    """When the first resource was logged or the first job used something."""
    spans, entries, openings = schema.spans.c, schema.entries.c, schema.openings.c
    queries = (
        select(func.min(spans.start_time)).where(spans.site_id == site.site_id, spans.asked == 0),
        select(func.min(entries.window_start)).where(entries.site_id == site.site_id),
        select(func.min(openings.window_start)).where(openings.site_id == site.site_id),
    )
    known = [connection.execute(query).scalar_one() for query in queries]
    instants = [int(each) for each in (*known, log.first) if each is not None]
    if not instants:
        raise BadSpan("OAR has logged no resource and no job is recorded: a start is needed")
    return min(instants)


# -- what is counted --------------------------------------------------------------------------


def _pages(start: int, stop: int) -> Iterator[tuple[int, int]]:
    for begin in range(start, stop, PERIOD_AT_ONCE):
        yield begin, min(begin + PERIOD_AT_ONCE, stop)


class _UsedSums:
    """The amounts of all metrics by bucket, as they are added page by page."""

    def __init__(self, metrics: int, bounds: Sequence[int]) -> None:
        self._bounds = ints(bounds)
        shape = (metrics, len(Filled.__slots__), len(bounds) - 1)
        # Python's integers: a page fits in 63 bits, as everything that is recorded.
        self._amounts = np.zeros(shape, dtype=object)

    def within(self, page: tuple[int, int]) -> Ints:
        """The bounds of buckets within a page, and its own."""
        inside = self._bounds[(self._bounds > page[0]) & (self._bounds < page[1])]
        return np.concatenate([page[:1], inside, page[1:]]).astype(np.int64)

    def add(self, inside: Ints, found: Sequence[Filled]) -> None:
        """Add what was found of each metric between bounds that are `within` a page."""
        bucket = np.searchsorted(self._bounds, inside[:-1], "right") - 1
        for number, each in enumerate(found):
            for place, column in enumerate(each.as_dict().values()):
                self._amounts[number, place, bucket] += column.astype(object)

    def of(self, number: int) -> list[list[int]]:
        """Of a metric capacity, down, standby, used, free and over of each bucket."""
        amounts: list[list[int]] = self._amounts[number].T.tolist()
        return amounts


def _of_page(  # noqa: PLR0913 - the sources of one answer
    connection: Connection,
    snapshot: Snapshot,
    log: MachineLog,
    chosen: _Chosen,
    accounts: Ints | None,
    measures: Sequence[Measure],
    bounds: Ints,
) -> list[Filled]:
    """The amounts of each metric between the *bounds*."""
    start, stop = int(bounds[0]), int(bounds[-1])
    level = machine.within(log.level, start, stop)
    there = machine.stretches(level, log.kinds.history, start, stop)
    jobs = PageOfJobs(snapshot, log.kinds, there.take(there.level != machine.UP))
    resource = _resource_metric(connection, chosen.site)
    for block in job_blocks(connection, chosen.site.site_id, start, stop):
        spans = _used_within(read_spans(connection, chosen.site.site_id, block), start, stop)
        rates = read_rates(connection, chosen.site.site_id, block)
        parts = constant(spans, KeyedRates.by_account(rates))
        held = parts.rates.take(parts.rates.used > 0)
        using = parts.spans.take(np.isin(parts.spans.job_id, held.job_id))
        counts = by_job(held.take(held.metric_id == resource))
        known = jobs.use_of_resources(
            block,
            replace(using, job_id=parts.jobs(using.job_id)),
            (parts.jobs(counts[0]), counts[1]),
        )
        if accounts is not None:
            held = held.take(np.isin(held.key, accounts))
        unknown = ~np.isin(parts.jobs(using.job_id), known)
        for stored in chosen.metrics:
            jobs.use_of_metric(using, held, stored.metric_id, unknown)
    if jobs.rescued():
        there = machine.stretches(jobs.raised(level), log.kinds.history, start, stop)
    there = _of_values(there, log, chosen)
    taken = _of_values(machine.stretches(jobs.busy(), log.kinds.history, start, stop), log, chosen)
    found = []
    for stored, measure in zip(chosen.metrics, measures, strict=True):
        shared = machine.steps_of(_whole(measure, log.kinds.table), taken)
        of_known = UseSteps(shared.since, shared.up)
        both = machine.added([of_known, jobs.unknown_use(stored.metric_id)])
        up = machine.steps_of(measure, there)
        found.append(machine.filled(up, jobs.use(stored.metric_id), both, bounds))
    return found


def _whole(measure: Measure, table: Resources) -> Measure:
    """The measure for some of the resources that share something, which is used as a whole."""
    if measure.metric.form != "sum" or not measure.metric.per:
        return measure
    return replace(measure, amounts=largest_values(measure.metric, table))


def _resource_metric(connection: Connection, site: Site) -> int:
    """The number of the built-in count of resources."""
    stored = stored_metrics(connection, site.site_id)
    return next(each.metric_id for each in stored if each.metric == RESOURCE)


def _used_within(spans: Spans, start: int, stop: int) -> Spans:
    """The parts of used spans within ``[start, stop)``."""
    spans = spans.take((spans.asked == 0) & (spans.start_time < stop) & (spans.stop_time > start))
    return replace(
        spans,
        start_time=np.maximum(spans.start_time, start),
        stop_time=np.minimum(spans.stop_time, stop),
    )


def _of_values(there: Stretches, log: MachineLog, chosen: _Chosen) -> Stretches:
    """Those of the resources that have one of the chosen values of the dimension property."""
    if chosen.values is None:
        return there
    number, values = log.kinds.table.values_of(chosen.site.terms.dimension)
    wanted = ints([value in chosen.values for value in values]) != 0
    return there.take(wanted[number[there.kind]])


# -- what is known by windows only ------------------------------------------------------------


def _evens(
    connection: Connection, chosen: _Chosen, accounts: Ints | None, start: int, stop: int
) -> defaultdict[int, list[Even]]:
    """By metric the amounts that lie evenly over spans which reach into ``[start, stop)``."""
    found: defaultdict[int, list[Even]] = defaultdict(list)
    window = chosen.site.terms.window
    entry = schema.entries.c
    ids = [stored.metric_id for stored in chosen.metrics]
    query = select(entry.metric_id, entry.window_start, entry.window_start + window).where(
        entry.site_id == chosen.site.site_id,
        entry.metric_id.in_(ids),
        entry.window_start > start - window,
        entry.window_start < stop,
    )
    for metric_id, *even in _summed(connection, query, entry.account_id, entry.used, accounts):
        found[metric_id].append((even[0], even[1], even[2]))
    opening = schema.openings.c
    for stored in chosen.metrics:
        if stored.metric.name == RESOURCE.name:
            left = opening.used - opening.covered_used
            query = select(opening.site_id, opening.window_start, opening.window_stop).where(
                opening.site_id == chosen.site.site_id,
                opening.window_start < stop,
                opening.window_stop > start,
                left > 0,
            )
            for _, *even in _summed(connection, query, opening.account_id, left, accounts):
                found[stored.metric_id].append((even[0], even[1], even[2]))
    return found


def _summed(
    connection: Connection, query: Select[Any], account_id: Any, amount: Any, accounts: Ints | None
) -> Iterator[list[int]]:
    """The rows of a query of three numbers, each with the sum of an amount of the accounts."""
    sums = bulk.exact_sum(connection, amount)
    groups = [*query.selected_columns, *([] if accounts is None else [account_id])]
    query = query.with_only_columns(*groups, *sums).group_by(*groups)
    counted = None if accounts is None else set(accounts.tolist())
    for row in connection.execute(query):
        if counted is None or row[3] in counted:
            yield [*map(int, row[:3]), bulk.whole_sum(row[len(groups) :])]


def _rows(
    stored: StoredMetric, bounds: Sequence[int], amounts: list[list[int]], even: list[Even]
) -> Iterator[UtilisationRow]:
    """The rows of a metric, what lies evenly put where there is room."""
    more = _in_buckets(bounds, even)
    for bucket, (start, stop) in enumerate(pairwise(bounds)):
        capacity, down, standby, used, free, over = amounts[bucket]
        fits = min(more[bucket], free)
        yield UtilisationRow(
            metric=stored.metric.name,
            unit=stored.metric.unit,
            scale=stored.metric.scale,
            start=start,
            stop=stop,
            capacity=capacity,
            down=down,
            standby=standby,
            used=used + fits,
            free=free - fits,
            over=over + more[bucket] - fits,
        )


def _in_buckets(bounds: Sequence[int], even: list[Even]) -> list[int]:
    """What of the amounts lies in each bucket."""
    found = [0] * (len(bounds) - 1)
    for start, stop, amount in even:
        first = max(bisect_right(bounds, start) - 1, 0)
        for bucket in range(first, min(bisect_left(bounds, stop), len(found))):
            found[bucket] += evenly(amount, start, stop, bounds[bucket], bounds[bucket + 1])
    return found

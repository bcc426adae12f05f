"""The usage that karma is made of: whole amounts over spans of time, read once for a weighting.

What lies far back is read by day, the rest by window: an amount is taken to lie evenly over its
window, and a day is short beside a half-life of a week.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from sqlalchemy import ColumnElement, Connection, Table, func, or_, select

from oar_accounting.core.columns import LARGEST, Columns, Ints, Totals, ints, numbered
from oar_accounting.core.lengths import DAY
from oar_accounting.core.windows import kept_by_day
from oar_accounting.database import bulk
from oar_accounting.errors import AmountOverflow
from oar_accounting.karma.entities import Entities
from oar_accounting.karma.policies.decay import decayed
from oar_accounting.karma.policies.weights import (
    Flat,
    Floats,
    HalfLife,
    Steps,
    Weighting,
    earliest,
    weights,
)
from oar_accounting.karma.policies.whole import FULL, whole_usage, whole_weights
from oar_accounting.ledger import schema
from oar_accounting.ledger.catalog import Site
from oar_accounting.ledger.totals import columns_of
from oar_accounting.recording.unposted import Recent
from oar_accounting.usage.from_jobs import later, of_closed_jobs, parts_within
from oar_accounting.usage.ledger_query import LedgerQuery
from oar_accounting.usage.prorated import beside_totals

#: Before everything, with room for a window.
BEGINNING = -(2**62)

#: Numbers of a table of windows and entities that is in memory at once.
CELLS_AT_ONCE = 2_000_000

#: Beside so many seconds of half-life, where in a day something was used makes 10 % at most.
LONG = 7 * DAY
#: Of a shorter half-life, so many are read by window; what is older weighs 1/65,536 of its amount.
FINE_HALF_LIVES = 16


@dataclass(frozen=True, slots=True)
class Loose(Columns):
    """Rows with spans of their own, and how much they count."""

    account_id: Ints
    metric_id: Ints
    start: Ints
    asked: Ints
    used: Ints
    weight: Floats


@dataclass(frozen=True, slots=True, kw_only=True)
class Weighed:
    """The usage of every entity, by number."""

    usage: Floats  #: weighted, in the metric's unit divided by its scale
    amount: Ints  #: as it was, of all that weighs something

    @property
    def counted(self) -> Floats:
        """The usage, 0 where corrections take away more than that."""
        return np.maximum(self.usage, 0.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class WeighedExactly(Weighed):
    """The same from weights that are whole multiples of 1 / `FULL`."""

    whole: list[int]  #: the usage times `FULL`


@dataclass(frozen=True, slots=True, kw_only=True)
class Placed:
    """Amounts of entities, by number."""

    window: Ints  #: of each row, its number
    entity: Ints
    amounts: Ints
    loose_entity: Ints  #: of each of the rows with spans of their own
    loose_amounts: Ints
    loose_weight: Floats


@dataclass(frozen=True, slots=True, kw_only=True)
class WindowUsage:
    """Amounts of accounts, with the weight of every window, which is above 0."""

    start: Ints  #: of each window, ascending
    weight: Floats  #: of each window
    window: Ints  #: of each row, its number
    rows: Totals  #: by window; several of the same where recent jobs add to one
    loose: Loose

    def of(self, metric_id: int, amount: str, entities: Entities[Any]) -> Weighed:
        """The usage of each entity. Raises :class:`AmountOverflow`."""
        rows = self._placed(metric_id, amount, entities)
        usage, counted = self._added(rows, len(entities.numbers))
        np.add.at(usage, rows.loose_entity, rows.loose_amounts * rows.loose_weight)
        np.add.at(counted, rows.loose_entity, rows.loose_amounts)
        return Weighed(usage=usage, amount=counted)

    def exactly_of(self, metric_id: int, amount: str, entities: Entities[Any]) -> WeighedExactly:
        """The same with whole weights. Raises :class:`AmountOverflow`."""
        rows = self._placed(metric_id, amount, entities)
        entity = np.concatenate([rows.entity, rows.loose_entity])
        amounts = np.concatenate([rows.amounts, rows.loose_amounts])
        weights = whole_weights(np.concatenate([self.weight[rows.window], rows.loose_weight]))
        counted = np.zeros(len(entities.numbers), np.int64)
        np.add.at(counted, entity, amounts)
        whole = whole_usage(entity, amounts, weights, len(counted))
        usage = np.array([each / FULL for each in whole], np.float64)
        return WeighedExactly(usage=usage, amount=counted, whole=whole)

    def _placed(self, metric_id: int, amount: str, entities: Entities[Any]) -> Placed:
        chosen = np.flatnonzero(self.rows.metric_id == metric_id)
        window = self.window[chosen]
        entity = entities.of(self.rows.account_id[chosen], self.start[window])
        # An account that somebody has deleted by hand is nobody's.
        known = entity >= 0
        loose = self.loose.take(self.loose.metric_id == metric_id)
        at = entities.of(loose.account_id, loose.start)
        loose, at = loose.take(at >= 0), at[at >= 0]
        amounts, extra = getattr(self.rows, amount)[chosen[known]], getattr(loose, amount)
        _check(np.concatenate([amounts, extra]))
        return Placed(
            window=window[known],
            entity=entity[known],
            amounts=amounts,
            loose_entity=at,
            loose_amounts=extra,
            loose_weight=loose.weight,
        )

    def _added(self, rows: Placed, width: int) -> tuple[Floats, Ints]:
        """Weighted, and as they are, by entity; the windows in the order of time.

        A table of so many windows as fit in memory at once is added to what those before gave.
        """
        usage, counted = np.zeros(width), np.zeros(width, np.int64)
        length = max(CELLS_AT_ONCE // max(width, 1), 1)
        for first in range(0, len(self.start), length):
            weight = self.weight[first : first + length]
            some = slice(*np.searchsorted(rows.window, [first, first + length]))
            table = np.zeros(len(weight) * width, np.int64)
            cell = (rows.window[some] - first) * width + rows.entity[some]
            np.add.at(table, cell, rows.amounts[some])
            usage = decayed(table.reshape(-1, width), weight, usage)
            counted += table.reshape(-1, width).sum(axis=0)
        return usage, counted


def _check(amounts: Ints) -> None:
    if np.abs(amounts.astype(np.float64)).sum() > LARGEST / 2:
        raise AmountOverflow(
            "what karma adds up does not fit in 63 bits; declare the metric in a larger unit"
        )


def read_usage(  # noqa: PLR0913 - one reading
    connection: Connection,
    site: Site,
    weighting: Weighting,
    metric_ids: Sequence[int],
    recent: Recent,
    now: int,
    *,
    by_day: bool,
) -> WindowUsage:
    """What counts of these metrics under the weighting at *now*; *by_day* where that will do."""
    since = earliest(weighting, now)
    begin = BEGINNING if since is None else since
    window = site.terms.window
    newest = _newest(connection, site, metric_ids, recent, now) + window
    days = (
        _days(weighting, begin, min(newest, now), now) if by_day and kept_by_day(window) else None
    )
    in_days, in_windows = _split(_wanted(recent.totals, metric_ids, begin, now), days)
    total = schema.totals.c.window_start
    outside = (total >= begin // window * window) if days is None else _outside(total, begin, days)
    stored = _read(connection, schema.totals, site, metric_ids, (total < now) & outside)
    taken = _later(connection, site, metric_ids, now)
    parts = [(Totals.concat([stored, in_windows, taken]), window)]
    if days is not None:
        day = schema.days.c.day_start
        inside = (day >= days[0]) & (day < days[1])
        stored = _read(connection, schema.days, site, metric_ids, inside)
        parts.append((Totals.concat([stored, in_days]), DAY))
    loose = _loose(connection, site, weighting, metric_ids, recent, begin, now)
    return _laid_out(parts, loose, weighting, now)


def _later(connection: Connection, site: Site, metric_ids: Sequence[int], now: int) -> Totals:
    """What the window around *now* has of what came later, as amounts to be taken from it.

    Of an instant before the last pass there is something: used from then on, and asked by jobs that
    began since. Of the present there is nothing, and schedulers do not wait for a look at the jobs.
    """
    window = site.terms.window
    start, job = now // window * window, schema.jobs.c
    if start == now or (site.last_pass is not None and site.last_pass <= now):
        return Totals.concat([])
    question = LedgerQuery(
        site=site,
        metrics=metric_ids,
        cuts=ints([now, start + window]),
        job_conditions=(or_(job.stop_time > now, job.start_time >= now),),
    )
    pieces = parts_within(question, now, start + window)
    jobs = of_closed_jobs(connection, question, pieces, lambda spans: later(spans, now))
    rows = np.full(len(jobs), start)
    return Totals(rows, jobs.account_id, jobs.metric_id, -jobs.asked, -jobs.used)


def _newest(
    connection: Connection, site: Site, metric_ids: Sequence[int], recent: Recent, now: int
) -> int:
    """The last window before *now* in which something was used."""
    table = schema.totals.c
    query = select(func.coalesce(func.max(table.window_start), BEGINNING)).where(
        table.site_id == site.site_id,
        table.metric_id.in_(metric_ids),
        table.window_start < now,
        table.used != 0,
    )
    stored = int(connection.execute(query).scalar_one())
    used = recent.totals.window_start[recent.totals.used != 0]
    return int(used.max(initial=stored))


def _days(weighting: Weighting, begin: int, newest: int, now: int) -> tuple[int, int] | None:
    """The whole days, half-open, that are read by day; None for none. Never the running one."""
    first, last = -(-begin // DAY) * DAY, now // DAY * DAY
    match weighting:
        case HalfLife(seconds=seconds) if seconds < LONG:
            last = min(last, (newest - FINE_HALF_LIVES * seconds) // DAY * DAY)
        case Flat(rule="exact") | HalfLife():
            pass
        case Steps(period=period) if period % DAY == 0:
            pass
        case _:
            return None
    return (first, last) if first < last else None


def _outside(start: ColumnElement[int], begin: int, days: tuple[int, int]) -> ColumnElement[bool]:
    """The windows that are not read by day, from the day of *begin* on."""
    return ((start >= begin // DAY * DAY) & (start < days[0])) | (start >= days[1])


def _wanted(totals: Totals, metric_ids: Sequence[int], begin: int, now: int) -> Totals:
    """What may count of recent totals; walltimes reach far into what is to come."""
    start = totals.window_start
    near = (start >= begin // DAY * DAY - DAY) & (start < now)
    return totals.take(near & np.isin(totals.metric_id, metric_ids))


def _split(totals: Totals, days: tuple[int, int] | None) -> tuple[Totals, Totals]:
    """The rows by day, and those that stay by window."""
    if days is None:
        return Totals.concat([]), totals
    inside = (totals.window_start >= days[0]) & (totals.window_start < days[1])
    by_day = totals.take(inside)
    return (
        replace(by_day, window_start=by_day.window_start // DAY * DAY),
        totals.take(~inside),
    )


def _read(
    connection: Connection,
    table: Table,
    site: Site,
    metric_ids: Sequence[int],
    chosen: ColumnElement[bool],
) -> Totals:
    columns = columns_of(table)
    of_site = table.c.site_id == site.site_id
    query = select(*columns).where(of_site, table.c.metric_id.in_(metric_ids), chosen)
    return Totals.of(bulk.read_ints(connection, query))


def _loose(  # noqa: PLR0913 - one reading
    connection: Connection,
    site: Site,
    weighting: Weighting,
    metric_ids: Sequence[int],
    recent: Recent,
    begin: int,
    now: int,
) -> Loose:
    """Opening amounts and adjustments, and what is held, which counts as if it were used now."""
    account, metric, start, stop, asked, used = beside_totals(
        connection, site, metric_ids, begin, now
    )
    # Unlike what jobs used, these lie in part after now where their span does.
    passed = (np.minimum(stop, now) - start) / (stop - start)
    weight = weights(weighting, start, stop, now) * passed
    held = recent.held.take(np.isin(recent.held.metric_id, metric_ids))
    found = Loose(
        np.concatenate([account, held.account_id]),
        np.concatenate([metric, held.metric_id]),
        np.concatenate([start, np.full(len(held), now)]),
        np.concatenate([asked, held.asked]),
        np.concatenate([used, held.used]),
        np.concatenate([weight, np.ones(len(held))]),
    )
    # Added in this order, they give the same in whatever order the database has them.
    found = found.take(found.weight > 0)
    return found.take(np.lexsort((found.used, found.asked, found.weight, found.start)))


def _laid_out(
    parts: Sequence[tuple[Totals, int]], loose: Loose, weighting: Weighting, now: int
) -> WindowUsage:
    """The windows of all parts in the order of time; each part has its length of window."""
    starts, factors, rows, first = [], [], [], 0
    for totals, length in parts:
        if not len(totals):
            continue
        lowest = int(totals.window_start.min())
        span = int(totals.window_start.max()) - lowest
        different, number = numbered((totals.window_start - lowest) // length, span // length + 1)
        start = lowest + different * length
        starts.append(start)
        factors.append(weights(weighting, start, start + length, now))
        rows.append(first + number)
        first += len(start)
    if not starts:
        nothing = ints([])
        return WindowUsage(
            start=nothing, weight=np.zeros(0), window=nothing, rows=Totals.concat([]), loose=loose
        )
    start, weight = np.concatenate(starts), np.concatenate(factors)
    every = Totals.concat([totals for totals, _ in parts if len(totals)])
    counts = np.flatnonzero(weight > 0)
    counts = counts[np.argsort(start[counts], kind="stable")]
    place = np.full(len(start), -1)
    place[counts] = np.arange(len(counts))
    window = place[np.concatenate(rows)]
    order = np.argsort(window, kind="stable")[np.count_nonzero(window < 0) :]
    return WindowUsage(
        start=start[counts],
        weight=weight[counts],
        window=window[order],
        rows=every.take(order),
        loose=loose,
    )

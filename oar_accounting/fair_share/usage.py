"""The usage that karma is made of: whole amounts over spans of time, read once for a weighting.

What lies far back is read by day, the rest by window: an amount is taken to lie evenly over its
window, and a day is short beside a half-life of a week.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from sqlalchemy import ColumnElement, Connection, Table, select

from oar_accounting import bulk, schema
from oar_accounting.amounts import beside_totals
from oar_accounting.catalog import Site
from oar_accounting.columns import LARGEST, OPEN, Columns, Ints, Totals, ints, numbered
from oar_accounting.errors import AmountOverflow
from oar_accounting.fair_share.entities import Entities
from oar_accounting.fair_share.recent import Recent
from oar_accounting.karma.decayed import decayed
from oar_accounting.karma.weights import Flat, Floats, HalfLife, Steps, Weighting, earliest, weights
from oar_accounting.windows import kept_by_day

DAY = 86_400

#: Before everything, with room for a window.
BEGINNING = -(2**62)

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


@dataclass(frozen=True, slots=True, kw_only=True)
class Usage:
    """Amounts of accounts, with the weight of every window."""

    start: Ints  #: of each window, ascending
    weight: Floats  #: of each window
    window: Ints  #: of each row, its number
    rows: Totals  #: one row per account, metric and window, more where recent jobs add to one
    loose: Loose

    def of(self, metric_id: int, amount: str, entities: Entities[Any]) -> Weighed:
        """The usage of each entity. Raises :class:`AmountOverflow`."""
        chosen = self.rows.metric_id == metric_id
        amounts = getattr(self.rows, amount)[chosen]
        window = self.window[chosen]
        entity = entities.of(self.rows.account_id[chosen], self.start[window])
        width = len(entities.numbers)
        table = _summed(window * width + entity, amounts, len(self.start) * width)
        table = table.reshape(len(self.start), width)
        usage = decayed(table, self.weight)
        loose = self.loose.take(self.loose.metric_id == metric_id)
        at = entities.of(loose.account_id, loose.start)
        extra = getattr(loose, amount)
        np.add.at(usage, at, extra * loose.weight)
        counted = table[self.weight > 0].sum(axis=0)
        np.add.at(counted, at[loose.weight > 0], extra[loose.weight > 0])
        return Weighed(usage=usage, amount=counted)


def _summed(at: Ints, amounts: Ints, size: int) -> Ints:
    """The sum of the amounts at each place."""
    if np.abs(amounts.astype(np.float64)).sum() > LARGEST / 2:
        raise AmountOverflow(
            "what karma adds up does not fit in 63 bits; declare the metric in a larger unit"
        )
    sums = np.zeros(size, np.int64)
    np.add.at(sums, at, amounts)
    return sums


def read_usage(  # noqa: PLR0913 - one reading
    connection: Connection,
    site: Site,
    weighting: Weighting,
    metric_ids: Sequence[int],
    recent: Recent,
    now: int,
) -> Usage:
    """What counts of these metrics under the weighting, as of *now*."""
    since = earliest(weighting, now)
    begin = BEGINNING if since is None else since
    window = site.terms.window
    days = _days(weighting, begin, now) if kept_by_day(window) else None
    by_day, by_window = _split(
        recent.totals.take(np.isin(recent.totals.metric_id, metric_ids)), days
    )
    total = schema.totals.c.window_start
    outside = (total >= begin // window * window) if days is None else _outside(total, begin, days)
    stored = _read(connection, schema.totals, metric_ids, (total < now) & outside)
    parts = [(Totals.concat([stored, by_window]), window)]
    if days is not None:
        day = schema.days.c.day_start
        inside = (day >= days[0]) & (day < min(days[1], now))
        stored = _read(connection, schema.days, metric_ids, inside)
        parts.append((Totals.concat([stored, by_day]), DAY))
    loose = _loose(connection, site, weighting, metric_ids, recent, begin, now)
    return _laid_out(parts, loose, weighting, now)


def _days(weighting: Weighting, begin: int, now: int) -> tuple[int, int] | None:
    """The whole days, half-open, that are read by day; None for none."""
    first = -(-begin // DAY) * DAY
    match weighting:
        case Flat(rule="exact"):
            last = OPEN
        case HalfLife(seconds=seconds):
            last = OPEN if seconds >= LONG else (now - FINE_HALF_LIVES * seconds) // DAY * DAY
        case Steps(period=period) if period % DAY == 0:
            last = OPEN
        case _:
            return None
    return (first, last) if first < min(last, now) else None


def _outside(start: ColumnElement[int], begin: int, days: tuple[int, int]) -> ColumnElement[bool]:
    """The windows that are not read by day, from the day of *begin* on."""
    return ((start >= begin // DAY * DAY) & (start < days[0])) | (start >= days[1])


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
    metric_ids: Sequence[int],
    chosen: ColumnElement[bool],
) -> Totals:
    query = select(*table.c).where(table.c.metric_id.in_(metric_ids), chosen)
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
        np.concatenate([start, held.window_start]),
        np.concatenate([asked, held.asked]),
        np.concatenate([used, held.used]),
        np.concatenate([weight, np.ones(len(held))]),
    )
    # Added in this order, they give the same in whatever order the database has them.
    return found.take(np.lexsort((found.used, found.asked, found.weight, found.start)))


def _laid_out(
    parts: Sequence[tuple[Totals, int]], loose: Loose, weighting: Weighting, now: int
) -> Usage:
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
        return Usage(
            start=nothing, weight=np.zeros(0), window=nothing, rows=Totals.concat([]), loose=loose
        )
    start = np.concatenate(starts)
    order = np.argsort(start, kind="stable")
    place = np.empty(len(order), np.int64)
    place[order] = np.arange(len(order))
    return Usage(
        start=start[order],
        weight=np.concatenate(factors)[order],
        window=place[np.concatenate(rows)],
        rows=Totals.concat([totals for totals, _ in parts if len(totals)]),
        loose=loose,
    )

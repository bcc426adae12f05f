"""What stands to the account of which group within a span: the one place that adds up for answers.

Three sources tell amounts over spans of time: totals (over their window), opening amounts (over
OAR's window) and adjustments (over the span they were posted for). What lies within the span asked
for, of an account that is in one group throughout, is summed by the database; only what a bound or
a change of group cuts is looked at row by row, and shared out by the second.
"""

from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from sqlalchemy import ColumnElement, Connection, FromClause, Select, case, func, select

from oar_accounting import bulk, formats, schema
from oar_accounting.catalog import Site
from oar_accounting.columns import OPEN, Bools, Ints, ints
from oar_accounting.errors import BadSpan
from oar_accounting.metrics import RESOURCE
from oar_accounting.records import Amounts
from oar_accounting.windows import evenly

Group = tuple[str, ...]
#: A group and when an account is in it: half-open, epoch seconds.
Stay = tuple[int, int, Group]

#: The span of an answer without bounds.
ALWAYS = (-OPEN, OPEN)

#: Rows of accounts that change their group that are held in memory at once, about.
ROWS_AT_ONCE = 200_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """What is asked: the stays of every account cover ``[start, stop)`` and follow each other."""

    site: Site
    metrics: Sequence[int]
    start: int
    stop: int
    stays: Mapping[int, Sequence[Stay]]
    nameless: Group  #: of an account that somebody has deleted by hand
    adjusted: bool = True  #: false: as it stands without adjustments

    def stays_of(self, account_id: int) -> Sequence[Stay]:
        """When the account is in which group."""
        return self.stays.get(account_id) or [(self.start, self.stop, self.nameless)]

    def moving(self) -> Ints:
        """The accounts that change their group."""
        return ints([account for account, stays in self.stays.items() if len(stays) > 1])


@dataclass(frozen=True, slots=True, kw_only=True)
class _Source:
    """Rows with an amount that lies evenly over a span."""

    rows: FromClause
    chosen: Sequence[ColumnElement[bool]]
    account_id: ColumnElement[int]
    metric_id: ColumnElement[int]
    start: ColumnElement[int]
    stop: ColumnElement[int]
    asked: ColumnElement[int]
    used: ColumnElement[int]
    in_windows: bool = False  #: true: no bound of a span asked for lies within a row

    def query(self, *columns: ColumnElement[Any]) -> Select[Any]:
        """The columns of its rows."""
        return select(*columns).select_from(self.rows).where(*self.chosen)


#: Asked and used by group and metric id.
Sums = defaultdict[tuple[Group, int], list[int]]

#: The parts of `Amounts` that each source gives beside the whole.
PARTS = ("", "opening_", "adjusted_")


def amounts_of_groups(
    connection: Connection, asked: Question
) -> Mapping[tuple[Group, int], Amounts]:
    """The amounts of every group and metric id; those that are zero in every part are left out."""
    sources = [_totals(asked), _openings(asked), _adjustments(asked)]
    amounts: defaultdict[tuple[Group, int], Amounts] = defaultdict(Amounts)
    for part, source in zip(PARTS, sources if asked.adjusted else sources[:2], strict=False):
        sums: Sums = defaultdict(lambda: [0, 0])
        _add(connection, asked, source, sums)
        for key, (of_asked, of_used) in sums.items():
            amounts[key] += _amounts(part, of_asked, of_used)
    return {key: each for key, each in amounts.items() if each != Amounts()}


def beside_totals(
    connection: Connection, site: Site, metrics: Sequence[int], start: int, stop: int
) -> list[Ints]:
    """The rows of opening amounts and adjustments that reach into ``[start, stop)``.

    Columns: account, metric, start and stop of the span over which it lies evenly, asked, used.
    """
    asked = Question(site=site, metrics=metrics, start=start, stop=stop, stays={}, nameless=())
    parts = [np.zeros((6, 0), np.int64)]
    for source in (_openings(asked), _adjustments(asked)):
        columns = (source.account_id, source.metric_id, source.start, source.stop)
        query = source.query(*columns, source.asked, source.used).where(
            source.start < stop, source.stop > start
        )
        parts.append(np.stack(bulk.read_ints(connection, query)))
    return list(np.concatenate(parts, axis=1))


def _totals(asked: Question) -> _Source:
    table = schema.totals.c
    return _Source(
        rows=schema.totals,
        chosen=(table.metric_id.in_(asked.metrics),),
        account_id=table.account_id,
        metric_id=table.metric_id,
        start=table.window_start,
        stop=table.window_start + asked.site.terms.window,
        asked=table.asked,
        used=table.used,
        in_windows=True,
    )


def _openings(asked: Question) -> _Source:
    """What is open of the amounts that were taken over from OAR's own accounting."""
    table, metric = schema.openings.c, schema.metrics.c
    return _Source(
        rows=schema.openings.join(schema.metrics, metric.site_id == table.site_id),
        chosen=(
            table.site_id == asked.site.site_id,
            metric.name == RESOURCE.name,
            metric.metric_id.in_(asked.metrics),
        ),
        account_id=table.account_id,
        metric_id=metric.metric_id,
        start=table.window_start,
        stop=table.window_stop,
        asked=_above_zero(table.asked - table.covered_asked),
        used=_above_zero(table.used - table.covered_used),
    )


def _above_zero(amount: ColumnElement[int]) -> ColumnElement[int]:
    return case((amount > 0, amount), else_=0)


def _adjustments(asked: Question) -> _Source:
    line, header, metric = schema.adjusted.c, schema.adjustments.c, schema.metrics.c
    posted = schema.adjusted.join(
        schema.adjustments, header.adjustment_id == line.adjustment_id
    ).join(schema.metrics, (metric.site_id == header.site_id) & (metric.name == line.metric))
    return _Source(
        rows=posted,
        chosen=(header.site_id == asked.site.site_id, metric.metric_id.in_(asked.metrics)),
        account_id=line.account_id,
        metric_id=metric.metric_id,
        start=line.start_time,
        stop=line.stop_time,
        asked=line.asked,
        used=line.used,
    )


def _add(connection: Connection, question: Question, source: _Source, sums: Sums) -> None:
    for account_id, metric_id, asked, used in _summed(connection, question, source):
        stays = question.stays_of(account_id)
        if len(stays) == 1:
            _count(sums[stays[0][2], metric_id], asked, used)
    for account_id, metric_id, start, stop, asked, used in _cut(connection, question, source):
        for begin, end, group in question.stays_of(account_id):
            if begin <= start and stop <= end:
                _count(sums[group, metric_id], asked, used)
            elif begin < stop and start < end:
                if source.in_windows and start < begin:
                    raise _within_a_window(question, begin, group)
                parts = (evenly(amount, start, stop, begin, end) for amount in (asked, used))
                _count(sums[group, metric_id], *parts)


def _count(amounts: list[int], asked: int, used: int) -> None:
    amounts[0] += asked
    amounts[1] += used


def _within_a_window(question: Question, instant: int, group: Group) -> BadSpan:
    return BadSpan(
        f"something comes to {', '.join(map(repr, group))} on {formats.date(instant)}, within a "
        f"window of {question.site.terms.window} s: amounts are whole in windows; set a smaller "
        "window, and run: oar-accounting rebuild"
    )


def _amounts(part: str, asked: int, used: int) -> Amounts:
    named = {f"{part}asked": asked, f"{part}used": used} if part else {}
    return Amounts(**{"asked": asked, "used": used} | named)


def _summed(
    connection: Connection, question: Question, source: _Source
) -> Iterator[tuple[int, int, int, int]]:
    """The sums, by account and metric, of what lies within the span as a whole."""
    asked, used = (bulk.exact_sum(connection, each) for each in (source.asked, source.used))
    query = source.query(source.account_id, source.metric_id, *asked, *used).where(
        source.start >= question.start, source.start < question.stop, source.stop <= question.stop
    )
    for account_id, metric_id, *parts in connection.execute(
        query.group_by(source.account_id, source.metric_id)
    ):
        half = len(asked)
        yield account_id, metric_id, bulk.whole_sum(parts[:half]), bulk.whole_sum(parts[half:])


def _cut(connection: Connection, question: Question, source: _Source) -> Iterator[tuple[int, ...]]:
    """The rows that a bound of the span cuts, and all those of accounts that change their group."""
    columns = (source.account_id, source.metric_id, source.start, source.stop)
    query = source.query(*columns, source.asked, source.used).where(
        source.start < question.stop, source.stop > question.start
    )
    moving = question.moving()
    if len(moving):
        for start, stop in _pages(connection, question, source):
            page = query.where(source.start >= start, source.start < stop)
            yield from _rows(connection, page, lambda account: np.isin(account, moving))
    if not source.in_windows:
        bounds = (source.start < question.start) | (source.stop > question.stop)
        cut = query.where(bounds)
        yield from _rows(connection, cut, lambda account: ~np.isin(account, moving))


def _pages(
    connection: Connection, question: Question, source: _Source
) -> Iterator[tuple[int, int]]:
    """Times of which each has about so many rows as fit in memory; together all of the span."""
    query = source.query(func.count(), func.min(source.start), func.max(source.start)).where(
        source.start < question.stop, source.stop > question.start
    )
    rows, first, last = connection.execute(query).one()
    if not rows:
        return
    step = (int(last) - int(first)) // (rows // ROWS_AT_ONCE + 1) + 1
    for start in range(int(first), int(last) + 1, step):
        yield start, start + step


def _rows(
    connection: Connection, query: Select[Any], chosen: Callable[[Ints], Bools]
) -> Iterator[tuple[int, ...]]:
    """The rows of those accounts, the first column, that are *chosen*."""
    columns = bulk.read_ints(connection, query)
    some = chosen(columns[0])
    return zip(*(column[some].tolist() for column in columns), strict=True)

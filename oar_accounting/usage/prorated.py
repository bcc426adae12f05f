"""Amounts that lie evenly over spans: the rows of totals, entries, opening amounts, adjustments."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

import numpy as np
from sqlalchemy import (
    ColumnElement,
    Connection,
    FromClause,
    Select,
    Table,
    and_,
    case,
    func,
    literal,
    or_,
    select,
)

from oar_accounting.core.columns import OPEN, Bools, Columns, Ints, ints
from oar_accounting.core.windows import evenly
from oar_accounting.database import bulk
from oar_accounting.ledger import schema
from oar_accounting.ledger.catalog import Site
from oar_accounting.ledger.totals import columns_of
from oar_accounting.metrics.metric import RESOURCE
from oar_accounting.usage.ledger_query import EXACT, PROPORTIONAL, WHOLE, LedgerQuery, Sums

#: Parts up to this many are summed by the database one by one; more of them from all rows.
FEW_PARTS = 64
#: Windows are named to the database where so many times more lie between them.
FEW_OF_MANY = 4
#: So many windows are named at once.
WINDOWS_AT_ONCE = 500
#: Rows that are held in memory at once, about.
PRORATED_AT_ONCE = 200_000


@dataclass(frozen=True, slots=True)
class Laid(Columns):
    """Amounts that lie evenly over half-open spans."""

    account_id: Ints
    metric_id: Ints
    start: Ints
    stop: Ints
    asked: Ints
    used: Ints

    def sums(self, part: Ints, chosen: Bools, question: LedgerQuery) -> Sums:
        """The *chosen* rows, which are of no job and lie each in one *part*."""
        rows = self.take(chosen)
        return question.of_no_job(
            part[chosen], rows.account_id, rows.metric_id, rows.asked, rows.used
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """A table whose rows tell amounts over spans."""

    rows: FromClause
    chosen: Sequence[ColumnElement[bool]]
    account_id: ColumnElement[int]
    metric_id: ColumnElement[int]
    start: ColumnElement[int]
    stop: ColumnElement[int]
    asked: ColumnElement[int]
    used: ColumnElement[int]
    job_id: ColumnElement[int] | None = None  #: of the job that an amount is for, if it is for one
    share_is_exact: bool = False  #: true: to lie evenly is what the amounts were made for
    length: int = 0  #: of every span; 0 where they differ

    def query(self, *columns: ColumnElement[Any]) -> Select[Any]:
        """The columns of its rows."""
        return select(*columns).select_from(self.rows).where(*self.chosen)

    def is_empty(self, connection: Connection) -> bool:
        """True where it has no row at all."""
        return connection.execute(self.query(literal(1)).limit(1)).first() is None

    def read(self, connection: Connection, *conditions: ColumnElement[bool]) -> Laid:
        """Its rows for which all of this holds."""
        query = self.query(*self._columns()).where(*conditions)
        return Laid.of(bulk.read_ints(connection, query))

    def read_of_jobs(
        self, connection: Connection, *conditions: ColumnElement[bool]
    ) -> tuple[Ints, Laid]:
        """The same, and the job that each is for; `schema.CARRIED` where it is for none."""
        if self.job_id is None:
            rows = self.read(connection, *conditions)
            return np.full(len(rows), schema.CARRIED), rows
        query = self.query(self.job_id, *self._columns()).where(*conditions)
        job_id, *found = bulk.read_ints(connection, query)
        return job_id, Laid.of(found)

    def _columns(self) -> tuple[ColumnElement[int], ...]:
        return (self.account_id, self.metric_id, self.start, self.stop, self.asked, self.used)

    def reaching(self, question: LedgerQuery) -> list[ColumnElement[bool]]:
        """True for rows that reach into the time of the question."""
        if self.length and question.start > -OPEN + self.length:
            # In terms of the column itself, which has an index.
            return [self.start < question.stop, self.start > question.start - self.length]
        return [self.start < question.stop, self.stop > question.start]

    def pages(self, connection: Connection, question: LedgerQuery) -> Iterator[tuple[int, int]]:
        """Times of which each has about so many rows as fit in memory; together all of them."""
        query = self.query(func.count(), func.min(self.start), func.max(self.start)).where(
            *self.reaching(question)
        )
        rows, first, last = connection.execute(query).one()
        if not rows:
            return
        step = (int(last) - int(first)) // (int(rows) // PRORATED_AT_ONCE + 1) + 1
        for start in range(int(first), int(last) + 1, step):
            yield start, start + step


def in_windows(table: Table, length: int, question: LedgerQuery) -> Source:
    """The totals, or the days, with windows of *length* seconds."""
    return by_window(table, columns_of(table)[0], length, question)


def by_window(
    table: Table, start: ColumnElement[int], length: int, question: LedgerQuery
) -> Source:
    """The rows of a table that begin at *start*, and last *length* seconds each."""
    return Source(
        rows=table,
        chosen=(
            table.c.site_id == question.site.site_id,
            question.wants(table.c.metric_id, table.c.account_id),
        ),
        account_id=table.c.account_id,
        metric_id=table.c.metric_id,
        start=start,
        stop=start + length,
        asked=table.c.asked,
        used=table.c.used,
        length=length,
    )


def measured(question: LedgerQuery) -> Source:
    """What was measured of jobs that have ended, and what is carried of purged ones."""
    table, job = schema.entries.c, schema.jobs.c
    window = question.site.terms.window
    of_job = and_(job.site_id == table.site_id, job.job_id == table.job_id)
    return Source(
        rows=schema.entries.join(schema.jobs, of_job),
        chosen=(
            table.site_id == question.site.site_id,
            question.wants(table.metric_id, table.account_id),
            job.closed != schema.OPEN_JOB,
        ),
        account_id=table.account_id,
        metric_id=table.metric_id,
        start=table.window_start,
        stop=table.window_start + window,
        asked=table.asked,
        used=table.used,
        job_id=table.job_id,
        length=window,
    )


def measured_of_jobs(question: LedgerQuery) -> Source:
    """The former alone."""
    source = measured(question)
    return replace(source, chosen=(*source.chosen, schema.entries.c.job_id != schema.CARRIED))


def carried(question: LedgerQuery) -> Source:
    """The latter alone."""
    source = measured(question)
    return replace(source, chosen=(*source.chosen, schema.entries.c.job_id == schema.CARRIED))


def openings(question: LedgerQuery) -> Source:
    """What is open of the amounts that were taken over from OAR's own accounting."""
    table, metric = schema.openings.c, schema.metrics.c
    return Source(
        rows=schema.openings.join(schema.metrics, metric.site_id == table.site_id),
        chosen=(
            table.site_id == question.site.site_id,
            metric.name == RESOURCE.name,
            question.wants(metric.metric_id, table.account_id),
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


def adjustments(question: LedgerQuery) -> Source:
    """What was corrected by hand."""
    line, header, metric = schema.adjusted.c, schema.adjustments.c, schema.metrics.c
    posted = schema.adjusted.join(
        schema.adjustments, header.adjustment_id == line.adjustment_id
    ).join(schema.metrics, (metric.site_id == header.site_id) & (metric.name == line.metric))
    return Source(
        rows=posted,
        chosen=(
            header.site_id == question.site.site_id,
            question.wants(metric.metric_id, line.account_id),
        ),
        account_id=line.account_id,
        metric_id=metric.metric_id,
        start=line.start_time,
        stop=line.stop_time,
        asked=line.asked,
        used=line.used,
        job_id=func.coalesce(line.job_id, schema.CARRIED),
        share_is_exact=True,
    )


def beside_totals(
    connection: Connection, site: Site, metrics: Sequence[int], start: int, stop: int
) -> list[Ints]:
    """The rows of opening amounts and adjustments that reach into ``[start, stop)``.

    Columns: account, metric, start and stop of the span over which it lies evenly, asked, used.
    """
    question = LedgerQuery(site=site, metrics=metrics, cuts=ints([start, stop]))
    parts = [
        source.read(connection, *source.reaching(question))
        for source in (openings(question), adjustments(question))
    ]
    return list(Laid.concat(parts).as_dict().values())


def evenly_laid(connection: Connection, question: LedgerQuery, source: Source) -> Sums:
    """The amounts of a source in every part; what a bound cuts is shared out by the second."""
    # Most sites have neither opening amounts nor adjustments.
    if not question.parts or source.is_empty(connection):
        return Sums.concat([])
    how = EXACT if source.share_is_exact else PROPORTIONAL

    def shared(*conditions: ColumnElement[bool]) -> Sums:
        job_id, rows = source.read_of_jobs(connection, *conditions, *source.reaching(question))
        return share_out(question, job_id, rows, how)

    if source.job_id is not None and question.job_keys is not None:
        return shared()
    if question.parts > FEW_PARTS:
        pages = source.pages(connection, question)
        return Sums.concat([shared(source.start >= a, source.start < b) for a, b in pages])
    found = [
        summed(connection, question, source, part, begin, end)
        for part, (begin, end) in enumerate(pairwise(question.cuts.tolist()))
    ]
    cut = [and_(source.start < at, source.stop > at) for at in question.bounds().tolist()]
    return Sums.concat([*found, shared(or_(*cut))]) if cut else Sums.concat(found)


def summed(  # noqa: PLR0913 - one reading
    connection: Connection, question: LedgerQuery, source: Source, part: int, begin: int, end: int
) -> Sums:
    """The sums, by account and metric, of what lies within ``[begin, end)`` as a whole."""
    within = [source.start >= begin, source.start < end]
    if not source.length:
        within.append(source.stop <= end)
    keys = (source.account_id, source.metric_id)
    account, metric, of_asked, of_used = bulk.read_sums(
        connection, source.query(*keys).where(*within), keys, (source.asked, source.used)
    )
    return question.of_no_job(np.full(len(account), part), account, metric, of_asked, of_used)


@dataclass(frozen=True, slots=True, kw_only=True)
class EqualParts:
    """Parts of a question that follow each other at equal distances, with what is read of each."""

    part: int  #: the number of the first
    begin: int  #: of what is read of the first part, epoch seconds
    length: int  #: of what is read of each, seconds
    stride: int  #: from the begin of one to that of the next
    count: int

    def at_most(self, count: int) -> Iterator["EqualParts"]:
        """The same in portions of so many parts."""
        for nth in range(0, self.count, count):
            begin = self.begin + nth * self.stride
            portion = min(count, self.count - nth)
            yield replace(self, part=self.part + nth, begin=begin, count=portion)

    def starts(self, length: int) -> list[int]:
        """Where the windows of this length begin."""
        return [
            start
            for begin in range(self.begin, self.begin + self.count * self.stride, self.stride)
            for start in range(begin, begin + self.length, length)
        ]

    @property
    def stop(self) -> int:
        """Where what is read of the last part ends."""
        return self.begin + (self.count - 1) * self.stride + self.length


def summed_in_steps(
    connection: Connection, question: LedgerQuery, source: Source, steps: EqualParts
) -> Iterator[Sums]:
    """The sums, by part, account and metric, of the windows of one length that lie within."""
    sparse = steps.length * FEW_OF_MANY < steps.stride
    windows = steps.length // source.length
    if sparse and windows <= WINDOWS_AT_ONCE:
        # An index finds single windows; what lies between them is not read.
        for some in steps.at_most(WINDOWS_AT_ONCE // windows):
            named = source.start.in_(some.starts(source.length))
            yield _in_steps(connection, question, source, some, named)
        return
    for some in steps.at_most(1 if sparse else FEW_PARTS):
        within: ColumnElement[bool] = and_(source.start >= some.begin, source.start < some.stop)
        if some.length < some.stride:
            within = and_(within, (source.start - some.begin) % some.stride < some.length)
        yield _in_steps(connection, question, source, some, within)


def _in_steps(
    connection: Connection,
    question: LedgerQuery,
    source: Source,
    steps: EqualParts,
    within: ColumnElement[bool],
) -> Sums:
    if source.length == steps.stride:
        # Each row is in a part of its own.
        rows = source.read(connection, within)
        part = steps.part + (rows.start - steps.begin) // steps.stride
        return rows.sums(part, np.ones(len(rows), np.bool_), question)
    nth = ((source.start - steps.begin) // steps.stride).label("nth")
    keys = (nth, source.account_id, source.metric_id)
    number, account, metric, of_asked, of_used = bulk.read_sums(
        connection, source.query(*keys).where(within), keys, (source.asked, source.used)
    )
    return question.of_no_job(steps.part + number, account, metric, of_asked, of_used)


def share_out(
    question: LedgerQuery, job_id: Ints, rows: Laid, how: int, *, carried: bool = False
) -> Sums:
    """The amounts of rows, each shared out over the parts that it reaches into.

    *how*: what a share is. Where they are *carried*, amounts of no job are those of purged ones,
    which are whole in the part in which they begin.
    """
    key, wanted = question.told_apart(job_id, rows.account_id)
    first, last = question.part_at(rows.start), question.part_at(rows.stop - 1)
    inside = wanted & (first == last) & (first >= 0) & (first < question.parts)
    some = rows.take(inside)
    exact = np.full(len(some), EXACT)
    found = Sums(
        first[inside],
        some.account_id,
        key[inside],
        some.metric_id,
        some.asked,
        some.used,
        exact,
    )
    cut = np.flatnonzero(wanted & (first != last))
    whole = (carried & (job_id[cut] == schema.CARRIED)).tolist()
    columns = (column.tolist() for column in rows.take(cut).as_dict().values())
    shares = [
        (part, account, of_job, metric, *amounts, WHOLE if is_whole else how)
        for is_whole, of_job, account, metric, *row in zip(
            whole, key[cut].tolist(), *columns, strict=True
        )
        for part, amounts in _shares(question, *row, whole=is_whole)
    ]
    return Sums.concat([found, Sums.of_rows(shares)])


def _shares(  # noqa: PLR0913 - a row
    question: LedgerQuery, start: int, stop: int, of_asked: int, of_used: int, *, whole: bool
) -> Iterator[tuple[int, tuple[int, int]]]:
    """The parts that ``[start, stop)`` reaches into, each with its share of the amounts."""
    first, last = question.part_at(ints([start, stop - 1])).tolist()
    for part in range(max(first, 0), min(last, question.parts - 1) + 1):
        begin, end = int(question.cuts[part]), int(question.cuts[part + 1])
        if whole:
            yield part, (of_asked, of_used) if part == first else (0, 0)
        else:
            share = (evenly(amount, start, stop, begin, end) for amount in (of_asked, of_used))
            yield part, (next(share), next(share))

"""What purged jobs gave to the totals: carried on as entries of one job that is none of OAR's.

So the law holds without the spans and rates of these jobs. Amounts are whole in the windows in
which they were carried: no smaller ones can be made of them.

Beside that, what each of them asked for and used stays by day: who asks for single jobs, or by
what only jobs have, is answered from these rows. Every purged job has one at least, so that jobs
without any are known to be of an earlier version, which kept none.
"""

import math
from dataclasses import dataclass, replace
from typing import Self

import numpy as np
from sqlalchemy import ColumnElement, Connection, and_, exists, literal, select

from oar_accounting.core.columns import (
    FROM_START,
    AmountColumns,
    Ints,
    KeyedRates,
    Rates,
    Spans,
    Totals,
    group_starts,
    ints,
    numbered_rows,
    row_order,
    rows_among,
    sum_up,
)
from oar_accounting.core.lengths import DAY
from oar_accounting.core.parts import constant
from oar_accounting.core.windows import amounts_in_windows
from oar_accounting.database import bulk
from oar_accounting.database.id_blocks import id_blocks, short_lists
from oar_accounting.ledger import problems, schema
from oar_accounting.ledger.catalog import StoredMetric
from oar_accounting.ledger.ledger import Book, amounts_of
from oar_accounting.ledger.reading import (
    TEXTS,
    Entries,
    JobRecords,
    known_jobs,
    read_entries,
    read_spans,
)

DETAILS = (schema.spans, schema.rates, schema.entries)


def carry(book: Book, ids: Ints, before: int) -> int:
    """Drop the details of those of the jobs that ended *before*, and carry what they gave.

    Returns how many they are.
    """
    jobs, spans = purgeable(book.connection, book.site.site_id, ids, before)
    gone = jobs.job_id
    if len(gone):
        entries = read_entries(book.connection, book.site.site_id, gone)
        rates = book.rates(gone)
        given = amounts_of(gone, spans, rates, entries, book.site.terms.window)
        _drop_details(book, gone)
        problems.remove_of_jobs(book.connection, book.site.site_id, gone)
        length = _note_lengths(book)
        _add(book, given)
        rows = _by_day(jobs, spans, rates, entries, length)
        book.insert(schema.purged, _with_a_row_each(rows, jobs, book.resource_metric()))
    return len(gone)


def purgeable(
    connection: Connection, site_id: int, ids: Ints, before: int
) -> tuple[JobRecords, Spans]:
    """Those of the jobs that ended *before*, by ascending id, and their spans.

    They are settled, and all their spans end by then, the asked ones too.
    """
    jobs = known_jobs(connection, site_id, ids)
    spans = read_spans(connection, site_id, jobs.job_id)
    later = np.union1d(spans.job_id[spans.stop_time > before], jobs.job_id[jobs.stop_time > before])
    ended = (jobs.closed == schema.CLOSED_JOB) & (jobs.unsettled == 0)
    ended &= jobs.job_id != schema.CARRIED
    jobs = jobs.take(ended & ~np.isin(jobs.job_id, later))
    return jobs, spans.take(np.isin(spans.job_id, jobs.job_id))


def _drop_details(book: Book, gone: Ints) -> None:
    job = schema.jobs.c
    for ids in short_lists(gone):
        for table in DETAILS:
            book.delete(table, table.c.job_id.in_(ids))
        book.connection.execute(
            schema.jobs.update()
            .where(job.site_id == book.site.site_id, job.job_id.in_(ids))
            .values(closed=schema.PURGED_JOB)
        )


def _add(book: Book, given: Totals) -> None:
    keys = {"site_id": book.site.site_id, "job_id": schema.CARRIED}
    columns = {name: np.full(len(given), value) for name, value in keys.items()}
    bulk.add_columns(book.connection, schema.entries, columns | given.as_dict())


# -- by job and day ---------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _DayAmounts(AmountColumns):
    """What jobs asked and used on days."""

    job_id: Ints
    account_id: Ints
    metric_id: Ints
    day_start: Ints
    asked: Ints
    used: Ints

    @classmethod
    def nothing(cls, job_id: Ints, account_id: Ints, metric_id: Ints, day_start: Ints) -> Self:
        """Rows without an amount."""
        none = np.zeros(len(job_id), np.int64)
        return cls(job_id, account_id, metric_id, day_start, none, none)


def _by_day(
    jobs: JobRecords, spans: Spans, rates: Rates, entries: Entries, length: int
) -> dict[str, Ints]:
    """Columns of `schema.purged`; whatever a job ever held stands in one row at least."""
    measured = (entries.job_id, entries.account_id, entries.metric_id)
    day = entries.window_start // length * length
    begin = _days_of(jobs, length)[np.searchsorted(jobs.job_id, rates.job_id)]
    rows = sum_up(
        _DayAmounts.concat(
            [
                _held_by_day(spans, rates, length),
                _DayAmounts(*measured, day, entries.asked, entries.used),
                _DayAmounts.nothing(rates.job_id, rates.account_id, rates.metric_id, begin),
            ]
        )
    )
    return rows.as_dict() | {"rate": _first_rates(rows, rates)}


def _days_of(jobs: JobRecords, length: int) -> Ints:
    """The day on which each job began."""
    return jobs.start_time // length * length


def _held_by_day(spans: Spans, rates: Rates, length: int) -> _DayAmounts:
    """What jobs asked for and used by the second, day by day."""
    parts = constant(spans, KeyedRates.by_account(rates))
    job_id, account_id = parts.jobs(parts.rates.job_id), parts.rates.key
    number, first = numbered_rows([job_id, account_id])
    held = amounts_in_windows(parts.spans, replace(parts.rates, key=number), length)
    owner = first[held.key]
    return _DayAmounts(
        job_id[owner],
        account_id[owner],
        held.metric_id,
        held.number * length,
        held.asked,
        held.used,
    )


def _first_rates(rows: _DayAmounts, rates: Rates) -> Ints:
    """What each job held when it began, in the first row of its account and metric."""
    rate = np.zeros(len(rows), np.int64)
    begun = rates.take(rates.start_time == FROM_START)
    if not len(begun):
        return rate
    firsts = group_starts([rows.job_id, rows.account_id, rows.metric_id])
    order = row_order([begun.job_id, begun.account_id, begun.metric_id])
    keys = [column[firsts] for column in (rows.job_id, rows.account_id, rows.metric_id)]
    wanted = [column[order] for column in (begun.job_id, begun.account_id, begun.metric_id)]
    rate[firsts[rows_among(keys, wanted)]] = begun.asked[order]
    return rate


def _with_a_row_each(
    rows: dict[str, Ints], jobs: JobRecords, metric: StoredMetric
) -> dict[str, Ints]:
    """The rows, and one without an amount, in this metric, for each job that has none."""
    bare = jobs.take(~np.isin(jobs.job_id, rows["job_id"]))
    none = np.zeros(len(bare), np.int64)
    more = {
        "job_id": bare.job_id,
        "account_id": bare.account_id,
        "metric_id": np.full(len(bare), metric.metric_id),
        "day_start": none,
        "rate": none,
        "asked": none,
        "used": none,
    }
    return {name: np.concatenate([column, more[name]]) for name, column in rows.items()}


def day_length(connection: Connection, site_id: int) -> int:
    """What is kept of single purged jobs is by so many seconds; 0 where nothing is kept.

    A day, where it is several windows, or one, of all in which jobs were purged.
    """
    job = schema.jobs.c
    query = select(job.submission_time).where(job.site_id == site_id, job.job_id == schema.CARRIED)
    return int(connection.execute(query).scalar_one_or_none() or 0)


def purged_spans(book: Book, ids: Ints) -> Spans:
    """From start to end, those of the jobs that were purged and had used something.

    Pauses are not known any more.
    """
    row, used = schema.purged.c, [ints([])]
    jobs = JobRecords.concat([book.known(block) for block in id_blocks(ids)])
    jobs = jobs.take(jobs.closed == schema.PURGED_JOB)
    for some in short_lists(jobs.job_id):
        query = select(row.job_id).where(
            row.site_id == book.site.site_id, row.job_id.in_(some), row.used > 0
        )
        used.append(bulk.read_ints(book.connection, query.distinct())[0])
    jobs = jobs.take(np.isin(jobs.job_id, np.concatenate(used)))
    return Spans(jobs.job_id, np.zeros(len(jobs), np.int64), jobs.start_time, jobs.stop_time)


def nothing_kept() -> ColumnElement[bool]:
    """True for jobs that an earlier version purged: what they asked for and used is not known."""
    job, row = schema.jobs.c, schema.purged.c
    known = exists().where(row.site_id == job.site_id, row.job_id == job.job_id)
    return and_(job.closed == schema.PURGED_JOB, ~known)


# -- windows and metrics ----------------------------------------------------------------------


def carried_window(book: Book) -> int:
    """What is carried is whole in windows of this many seconds; 0 where nothing is."""
    job = book.known(ints([schema.CARRIED]))
    return int(job.walltime[0]) if len(job) else 0


def _note_lengths(book: Book) -> int:
    """Note in the row of the job that carries in which windows, and days, it does; the days.

    The row is made if need be. The windows are in its walltime, the days in its submission: both
    are the least in which all that was purged is whole.
    """
    job, site_id, window = schema.jobs.c, book.site.site_id, book.site.terms.window
    before = carried_window(book)
    carried = math.lcm(before or 1, window)
    day = DAY if DAY % carried == 0 else carried
    length = math.lcm(day_length(book.connection, site_id) or 1, day)
    if before:
        book.connection.execute(
            schema.jobs.update()
            .where(job.site_id == site_id, job.job_id == schema.CARRIED)
            .values(walltime=carried, submission_time=length)
        )
        return length
    numbers = dict.fromkeys(JobRecords.__slots__, 0)
    numbers |= {"job_id": schema.CARRIED, "closed": schema.CLOSED_JOB}
    numbers |= {"walltime": carried, "submission_time": length}
    texts = dict.fromkeys(TEXTS) | {"state": schema.CARRYING, "types": ""}
    book.insert(schema.jobs, {name: [value] for name, value in (numbers | texts).items()})
    return length


def carried_in(book: Book, metric: StoredMetric) -> Entries:
    """The amounts that are carried in a metric."""
    every = read_entries(book.connection, book.site.site_id, ints([schema.CARRIED]))
    return every.take(every.metric_id == metric.metric_id)


def carry_on(book: Book, before: StoredMetric, metric: StoredMetric) -> None:
    """Give *metric* the amounts that are carried in *before*, which is counted alike."""
    carried = carried_in(book, before)
    carried = replace(carried, metric_id=np.full(len(carried), metric.metric_id))
    book.insert(schema.entries, carried.as_dict())
    row = schema.purged.c
    columns = [each for each in row if each is not row.metric_id]
    kept = select(literal(metric.metric_id), *columns).where(
        row.site_id == book.site.site_id, row.metric_id == before.metric_id
    )
    names = ["metric_id", *(column.name for column in columns)]
    book.connection.execute(schema.purged.insert().from_select(names, kept))
    none = (Spans.concat([]), Rates.concat([]))
    book.move(amounts_of(ints([schema.CARRIED]), *none, carried, book.site.terms.window))

"""What jobs asked for and used, by the second: their spans times their rates."""

from collections.abc import Callable, Iterable, Iterator

import numpy as np
from sqlalchemy import ColumnElement, Connection, select

from oar_accounting.core.columns import (
    OPEN,
    Ints,
    Spans,
    add_up,
)
from oar_accounting.database import bulk
from oar_accounting.database.id_blocks import id_blocks
from oar_accounting.ledger import schema
from oar_accounting.ledger.job_index import job_blocks, jobs_touching
from oar_accounting.ledger.reading import read_rates, read_spans
from oar_accounting.usage.job_amounts import Intervals, JobAmounts, JobRates
from oar_accounting.usage.ledger_query import PROPORTIONAL, LedgerQuery, Sums
from oar_accounting.usage.prorated import Laid, Source, measured_of_jobs, share_out
from oar_accounting.usage.purged_jobs import of_purged_jobs

#: Runs of intervals whose jobs are looked up one by one; of more of them neighbours are joined.
MOST_LOOK_UPS = 500
#: The same where they are too many to be held at once.
FEW_LOOK_UPS = 64

#: What of the spans of jobs is looked at.
Seen = Callable[[Spans], Spans]


def parts_within(question: LedgerQuery, begin: int, end: int) -> Intervals:
    """What lies in ``[begin, end)`` of the parts of the question; each is added to itself."""
    begins, ends = np.maximum(question.cuts[:-1], begin), np.minimum(question.cuts[1:], end)
    part = np.flatnonzero(begins < ends)
    return Intervals(begins[part], ends[part], part, np.full(len(part), -1))


def of_closed_jobs(
    connection: Connection,
    question: LedgerQuery,
    pieces: Intervals,
    seen: Seen = lambda spans: spans,
) -> Sums:
    """What closed jobs asked and used in the pieces, of what is *seen* of their spans."""
    found = [Sums.concat([])]
    for run, blocks in _looked_up(connection, question, pieces):
        rows = _amounts(connection, question, run, blocks, seen)
        for parts, sign in ((run.added_to, 1), (run.taken_from, -1)):
            part = parts[rows.interval]
            found.append(rows.take(part >= 0).sums(part[part >= 0], sign))
    return Sums.concat(found)


def _looked_up(
    connection: Connection, question: LedgerQuery, pieces: Intervals
) -> Iterator[tuple[Intervals, Iterator[Ints]]]:
    """Runs of pieces, each with the closed jobs that may touch it, in blocks of ids.

    All pieces are one run where all their jobs can be held at once: a job may touch many.
    """
    bounds = [(int(run.begin[0]), int(run.end[-1])) for run in pieces.in_runs(MOST_LOOK_UPS)]
    if len(bounds) > 1:
        conditions = (schema.jobs.c.closed != schema.OPEN_JOB, *question.job_conditions)
        ids = jobs_touching(connection, question.site.site_id, bounds, *conditions)
        if ids is not None:
            yield pieces, id_blocks(ids)
            return
    for run in pieces.in_runs(FEW_LOOK_UPS):
        yield run, closed_jobs(connection, question, int(run.begin[0]), int(run.end[-1]))


def _amounts(
    connection: Connection,
    question: LedgerQuery,
    run: Intervals,
    blocks: Iterable[Ints],
    seen: Seen,
) -> JobAmounts:
    """The amounts of the jobs in the intervals."""
    found = [JobAmounts.concat([])]
    for block in blocks:
        spans, rates = read_held(connection, question, block)
        found.append(rates.amounts_in(run, seen(spans)))
        if len(found) > 8:
            found = [add_up(JobAmounts.concat(found))]
    return JobAmounts.concat(found)


def closed_jobs(
    connection: Connection, question: LedgerQuery, begin: int, end: int
) -> Iterator[Ints]:
    """The closed jobs that are asked for and may touch ``[begin, end)``, in blocks of ids."""
    return job_blocks(
        connection,
        question.site.site_id,
        max(begin, question.jobs_within[0]),
        min(end, question.jobs_within[1]),
        schema.jobs.c.closed != schema.OPEN_JOB,
        *question.job_conditions,
    )


def open_ids(connection: Connection, question: LedgerQuery) -> Ints:
    """The jobs that are asked for and have not ended, ascending."""
    job = schema.jobs.c
    query = select(job.job_id).where(
        job.site_id == question.site.site_id,
        job.unsettled == 1,
        job.closed == schema.OPEN_JOB,
        *question.job_conditions,
    )
    return np.sort(bulk.read_ints(connection, query)[0])


def read_held(connection: Connection, question: LedgerQuery, block: Ints) -> tuple[Spans, JobRates]:
    """Spans of the jobs, and their rates in the metrics, as far as they are asked for."""
    read = read_rates(connection, question.site.site_id, block)
    read = read.take(np.isin(read.metric_id, question.metrics))
    key, chosen = question.told_apart(read.job_id, read.account_id)
    columns = (read.metric_id, read.asked, read.used, read.start_time)
    rates = JobRates(read.job_id, read.account_id, key, *columns).take(chosen)
    spans = read_spans(connection, question.site.site_id, block)
    return spans.take(np.isin(spans.job_id, rates.job_id)), rates


def of_open_jobs(connection: Connection, question: LedgerQuery, as_of: int) -> Sums:
    """What jobs that have not ended asked, and used by *as_of*."""
    spans, rates = read_held(connection, question, open_ids(connection, question))
    pieces = parts_within(question, -OPEN, OPEN)
    rows = rates.amounts_in(pieces, until(spans, as_of))
    return rows.sums(pieces.added_to[rows.interval])


def until(spans: Spans, as_of: int) -> Spans:
    """What was used before *as_of*, and what was asked, as a whole, by jobs begun by then."""
    stop = np.where(spans.asked == 0, np.minimum(spans.stop_time, as_of), spans.stop_time)
    cut = Spans(spans.job_id, spans.asked, spans.start_time, stop)
    return cut.take((cut.stop_time > cut.start_time) & (cut.start_time < as_of))


def later(spans: Spans, as_of: int) -> Spans:
    """The rest: what was used from *as_of* on, and what was asked by jobs begun since."""
    start = np.where(spans.asked == 0, np.maximum(spans.start_time, as_of), spans.start_time)
    cut = Spans(spans.job_id, spans.asked, start, spans.stop_time)
    return cut.take((cut.stop_time > cut.start_time) & (cut.start_time >= as_of))


def of_all_closed_jobs(connection: Connection, question: LedgerQuery) -> Iterator[Sums]:
    """All of closed jobs, where totals cannot tell them apart.

    That is by spans, what was measured, and what is known of purged ones.
    """
    as_of = question.as_of
    pieces = parts_within(question, -OPEN, OPEN)
    if as_of is None:
        yield of_closed_jobs(connection, question, pieces)
    else:
        yield of_closed_jobs(connection, question, pieces, lambda spans: until(spans, as_of))
    by_then = question if as_of is None else question.before(as_of)
    yield from of_what_was_measured(connection, by_then, measured_of_jobs(by_then))
    yield from of_purged_jobs(connection, question)


def of_what_was_measured(
    connection: Connection, question: LedgerQuery, source: Source
) -> Iterator[Sums]:
    """What was measured of closed jobs, or is carried of purged ones, in every part."""
    if not question.parts:
        return
    for begin, end in source.pages(connection, question):
        rows = read_measured(connection, question, source, source.start.between(begin, end - 1))
        yield share_out(question, *rows, PROPORTIONAL, carried=True)


def read_measured(
    connection: Connection, question: LedgerQuery, source: Source, chosen: ColumnElement[bool]
) -> tuple[Ints, Laid]:
    """What was measured, or is carried, and of which job, over the windows of the site."""
    window = question.site.terms.window
    job_id, rows = source.read_of_jobs(connection, chosen)
    # They were measured in the windows of their time; they fall into the one around it now.
    start = rows.start // window * window
    return job_id, Laid(
        rows.account_id, rows.metric_id, start, start + window, rows.asked, rows.used
    )

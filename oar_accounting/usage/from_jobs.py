"""What jobs asked for and used, by the second: their spans times their rates."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from sqlalchemy import ColumnElement, Connection, select

from oar_accounting.core.columns import OPEN, Columns, Ints, Rates, Spans, Totals, add_up
from oar_accounting.core.windows import amounts_between
from oar_accounting.database import bulk
from oar_accounting.database.id_blocks import id_blocks
from oar_accounting.ledger import schema
from oar_accounting.ledger.job_index import job_blocks, jobs_touching
from oar_accounting.ledger.reading import read_rates, read_spans
from oar_accounting.usage.prorated import Laid, measured, share_out
from oar_accounting.usage.request import PROPORTIONAL, Question, Sums

#: Runs of intervals whose jobs are looked up one by one; of more of them neighbours are joined.
MOST_LOOK_UPS = 500
#: The same where they are too many to be held at once.
FEW_LOOK_UPS = 64

#: What of the spans of jobs is looked at.
Seen = Callable[[Spans], Spans]


@dataclass(frozen=True, slots=True)
class Intervals(Columns):
    """Ascending pieces of time that do not overlap, half-open, with two parts of a question.

    What is found in a piece is added to the one and taken from the other; -1 is no part.
    """

    begin: Ints
    end: Ints
    added_to: Ints
    taken_from: Ints

    def in_runs(self, most: int) -> Iterator["Intervals"]:
        """The same in runs of neighbours, *most* of them at most.

        Pieces without a gap between them share their jobs: they are in one run.
        """
        if not len(self):
            return
        begins = np.concatenate([[0], np.flatnonzero(self.begin[1:] > self.end[:-1]) + 1])
        begins = begins[:: -(-len(begins) // most)]
        for first, last in pairwise([*begins.tolist(), len(self)]):
            yield self.take(slice(first, last))


def parts_within(asked: Question, begin: int, end: int) -> Intervals:
    """What lies in ``[begin, end)`` of the parts of the question; each is added to itself."""
    begins, ends = np.maximum(asked.cuts[:-1], begin), np.minimum(asked.cuts[1:], end)
    part = np.flatnonzero(begins < ends)
    return Intervals(begins[part], ends[part], part, np.full(len(part), -1))


def of_closed_jobs(
    connection: Connection, asked: Question, pieces: Intervals, seen: Seen = lambda spans: spans
) -> Sums:
    """What closed jobs asked and used in the pieces, of what is *seen* of their spans."""
    found = [Sums.concat([])]
    for run, blocks in _looked_up(connection, asked, pieces):
        rows = _amounts(connection, asked, run, blocks, seen)
        for parts, sign in ((run.added_to, 1), (run.taken_from, -1)):
            part = parts[rows.window_start]
            found.append(Sums.of_totals(part[part >= 0], rows.take(part >= 0), sign))
    return Sums.concat(found)


def _looked_up(
    connection: Connection, asked: Question, pieces: Intervals
) -> Iterator[tuple[Intervals, Iterator[Ints]]]:
    """Runs of pieces, each with the closed jobs that may touch it, in blocks of ids.

    All pieces are one run where all their jobs can be held at once: a job may touch many.
    """
    bounds = [(int(run.begin[0]), int(run.end[-1])) for run in pieces.in_runs(MOST_LOOK_UPS)]
    if len(bounds) > 1:
        conditions = (schema.jobs.c.closed != schema.OPEN_JOB, *asked.job_conditions)
        ids = jobs_touching(connection, asked.site.site_id, bounds, *conditions)
        if ids is not None:
            yield pieces, id_blocks(ids)
            return
    for run in pieces.in_runs(FEW_LOOK_UPS):
        yield run, closed_jobs(connection, asked, int(run.begin[0]), int(run.end[-1]))


def _amounts(
    connection: Connection, asked: Question, run: Intervals, blocks: Iterable[Ints], seen: Seen
) -> Totals:
    """The amounts by number of the interval, holder and metric."""
    found = [Totals.concat([])]
    for block in blocks:
        spans, rates = read_held(connection, asked, block)
        found.append(amounts_between(seen(spans), rates, run.begin, run.end))
        if len(found) > 8:
            found = [add_up(Totals.concat(found))]
    return Totals.concat(found)


def closed_jobs(connection: Connection, asked: Question, begin: int, end: int) -> Iterator[Ints]:
    """The closed jobs that are asked for and may touch ``[begin, end)``, in blocks of ids."""
    return job_blocks(
        connection,
        asked.site.site_id,
        max(begin, asked.jobs_within[0]),
        min(end, asked.jobs_within[1]),
        schema.jobs.c.closed != schema.OPEN_JOB,
        *asked.job_conditions,
    )


def open_ids(connection: Connection, asked: Question) -> Ints:
    """The jobs that are asked for and have not ended, ascending."""
    job = schema.jobs.c
    query = select(job.job_id).where(
        job.site_id == asked.site.site_id,
        job.unsettled == 1,
        job.closed == schema.OPEN_JOB,
        *asked.job_conditions,
    )
    return np.sort(bulk.read_ints(connection, query)[0])


def read_held(connection: Connection, asked: Question, block: Ints) -> tuple[Spans, Rates]:
    """Spans of the jobs, and their rates in the metrics, with the holder in the account's place."""
    rates = read_rates(connection, asked.site.site_id, block)
    rates = rates.take(np.isin(rates.metric_id, asked.metrics))
    holder, chosen = asked.holders(rates.job_id, rates.account_id)
    rates = Rates(rates.job_id, holder, rates.metric_id, rates.asked, rates.used).take(chosen)
    spans = read_spans(connection, asked.site.site_id, block)
    return spans.take(np.isin(spans.job_id, rates.job_id)), rates


def of_open_jobs(connection: Connection, asked: Question, as_of: int) -> Sums:
    """What jobs that have not ended asked, and used by *as_of*."""
    spans, rates = read_held(connection, asked, open_ids(connection, asked))
    pieces = parts_within(asked, -OPEN, OPEN)
    rows = amounts_between(until(spans, as_of), rates, pieces.begin, pieces.end)
    return Sums.of_totals(pieces.added_to[rows.window_start], rows)


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


def of_all_closed_jobs(connection: Connection, asked: Question) -> Iterator[Sums]:
    """All of closed jobs, where totals cannot tell them apart: spans, and what was measured."""
    as_of = asked.as_of
    pieces = parts_within(asked, -OPEN, OPEN)
    if as_of is None:
        yield of_closed_jobs(connection, asked, pieces)
    else:
        yield of_closed_jobs(connection, asked, pieces, lambda spans: until(spans, as_of))
    yield from of_what_was_measured(connection, asked if as_of is None else asked.before(as_of))


def of_what_was_measured(connection: Connection, asked: Question) -> Iterator[Sums]:
    """What was measured of closed jobs, and is carried of purged ones, in every part."""
    if not asked.parts:
        return
    for begin, end in measured(asked).pages(connection, asked):
        within = schema.entries.c.window_start.between(begin, end - 1)
        yield share_out(
            asked, *read_measured(connection, asked, within), PROPORTIONAL, carried=True
        )


def read_measured(
    connection: Connection, asked: Question, chosen: ColumnElement[bool]
) -> tuple[Ints, Laid]:
    """What was measured, or is carried, and of which job, over the windows of the site."""
    window = asked.site.terms.window
    job_id, rows = measured(asked).read_of_jobs(connection, chosen)
    # They were measured in the windows of their time; they fall into the one around it now.
    start = rows.start // window * window
    return job_id, Laid(rows.holder, rows.metric_id, start, start + window, rows.asked, rows.used)

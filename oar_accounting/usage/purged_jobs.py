"""What purged jobs asked for and used, each by itself.

It is known by day. Where a bound cuts a day, it lies evenly over what of the day the job had: when
it ran, or, of what it asked for, its walltime from its start. So it is right to the second unless
the job was suspended, or what it held changed, on that day.

An earlier version kept nothing of the single job: what it purged is of no job here.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from sqlalchemy import ColumnElement, Connection, select

from oar_accounting.core.columns import OPEN, Columns, Ints, Totals, add_up, difference, ints
from oar_accounting.core.windows import after
from oar_accounting.database import bulk
from oar_accounting.database.id_blocks import among
from oar_accounting.ledger import schema
from oar_accounting.ledger.catalog import Site
from oar_accounting.ledger.job_index import job_blocks
from oar_accounting.ledger.purged import day_length, nothing_kept
from oar_accounting.usage.ledger_query import PROPORTIONAL, LedgerQuery, Sums
from oar_accounting.usage.prorated import Laid, Source, by_window, carried, share_out

ROWS = schema.purged.c
PURGED = schema.jobs.c.closed == schema.PURGED_JOB


@dataclass(frozen=True, slots=True)
class PurgedRows(Columns):
    """What purged jobs asked and used on days, what they held when they began, and their times."""

    job_id: Ints
    account_id: Ints
    metric_id: Ints
    day_start: Ints
    rate: Ints
    asked: Ints
    used: Ints
    begun: Ints  #: when the job began
    ended: Ints
    walltime: Ints

    def asked_for(self, length: int) -> tuple[Ints, Laid]:
        """Of which jobs, and when, what was asked for; days have *length* seconds."""
        rows = self.take(self.asked != 0)
        return rows.job_id, rows._laid(length, after(rows.begun, rows.walltime), used=False)

    def used_up(self, length: int) -> tuple[Ints, Laid]:
        """The same of what was used."""
        rows = self.take(self.used != 0)
        return rows.job_id, rows._laid(length, rows.ended, used=True)

    def _laid(self, length: int, until: Ints, *, used: bool) -> Laid:
        day = self.day_start // length * length
        start, stop = np.maximum(day, self.begun), np.minimum(day + length, until)
        # What was measured may be of a time just before or after the job.
        own = start < stop
        start, stop = np.where(own, start, day), np.where(own, stop, day + length)
        none = np.zeros(len(self), np.int64)
        asked, spent = (none, self.used) if used else (self.asked, none)
        return Laid(self.account_id, self.metric_id, start, stop, asked, spent)


def read_purged(
    connection: Connection, site_id: int, block: Ints, *conditions: ColumnElement[bool]
) -> PurgedRows:
    """What those of the jobs of the block that were purged asked for and used."""
    job = schema.jobs.c
    own = [ROWS[name] for name in PurgedRows.__slots__[:-3]]
    query = (
        select(*own, job.start_time, job.stop_time, job.walltime)
        .join_from(
            schema.purged,
            schema.jobs,
            (job.site_id == ROWS.site_id) & (job.job_id == ROWS.job_id),
        )
        .where(ROWS.site_id == site_id, among(block, ROWS.job_id), *conditions)
    )
    rows = PurgedRows.of(bulk.read_ints(connection, query))
    return rows.take(np.isin(rows.job_id, block))


def purged_rows(connection: Connection, question: LedgerQuery, length: int) -> Iterator[PurgedRows]:
    """The rows of the jobs that are asked for and may count in its time, some at a time."""
    site_id = question.site.site_id
    # What was measured may be of the day before a job began, or of the one after it ended.
    begin = max(question.start - length, question.jobs_within[0])
    end = min(question.stop + length, question.jobs_within[1])
    wanted = question.wants(ROWS.metric_id, ROWS.account_id)
    for block in job_blocks(connection, site_id, begin, end, PURGED, *question.job_conditions):
        yield read_purged(connection, site_id, block, wanted)


def of_purged_jobs(connection: Connection, question: LedgerQuery) -> Iterator[Sums]:
    """What purged jobs asked and used in every part, and what is carried of no known job.

    As of an instant, what they asked for counts whole where they had begun by then.
    """
    as_of = question.as_of
    by_then = question if as_of is None else question.before(as_of)
    length = day_length(connection, question.site.site_id)
    for rows in purged_rows(connection, question, length) if length else ():
        begun = rows if as_of is None else rows.take(rows.begun < as_of)
        yield share_out(question, *begun.asked_for(length), PROPORTIONAL)
        yield share_out(by_then, *rows.used_up(length), PROPORTIONAL)
    yield from _of_no_job(connection, by_then, length)


def asked_since(connection: Connection, question: LedgerQuery, as_of: int) -> Iterator[Sums]:
    """What purged jobs that had begun by *as_of* asked for in the time of the question."""
    site_id = question.site.site_id
    length = day_length(connection, site_id)
    for block in job_blocks(connection, site_id, as_of - 1, as_of, PURGED) if length else ():
        wanted = question.wants(ROWS.metric_id, ROWS.account_id)
        rows = read_purged(connection, site_id, block, wanted)
        rows = rows.take(rows.begun < as_of)
        yield share_out(question, *rows.asked_for(length), PROPORTIONAL)


# -- jobs that an earlier version purged ------------------------------------------------------


def unknown_jobs(
    connection: Connection, site: Site, start: int, stop: int, *chosen: ColumnElement[bool]
) -> Iterator[Ints]:
    """The jobs that may have run in ``[start, stop)`` of which only the totals are known."""
    yield from job_blocks(connection, site.site_id, start, stop, nothing_kept(), *chosen)


def _of_no_job(connection: Connection, question: LedgerQuery, length: int) -> Iterator[Sums]:
    """What is carried of jobs of which an earlier version kept nothing else."""
    assert question.job_keys is not None
    if not question.parts or question.job_keys(ints([schema.CARRIED]))[0] < 0:
        return
    days = length or question.site.terms.window
    begin, end = max(question.start - days, -OPEN), min(question.stop + days, OPEN)
    if not any(map(len, unknown_jobs(connection, question.site, begin, end))):
        return
    source = carried(question)
    # What is known of single purged jobs.
    known = by_window(schema.purged, ROWS.day_start, days, question)
    for begin, end in _whole_days(list(source.pages(connection, question)), days):
        rest = difference(
            _by_day(connection, source, days, begin, end),
            _by_day(connection, known, days, begin, end),
        )
        start = rest.window_start
        laid = Laid(rest.account_id, rest.metric_id, start, start + days, rest.asked, rest.used)
        job_id = np.full(len(rest), schema.CARRIED)
        yield share_out(question, job_id, laid, PROPORTIONAL, carried=True)


def _whole_days(pages: list[tuple[int, int]], length: int) -> Iterator[tuple[int, int]]:
    """The same times, bounded by days."""
    bounds = [begin // length * length for begin, _ in pages]
    bounds += [-(-end // length) * length for _, end in pages[-1:]]
    yield from pairwise(bounds)


def _by_day(connection: Connection, source: Source, length: int, begin: int, end: int) -> Totals:
    rows = source.read(connection, source.start.between(begin, end - 1))
    start = rows.start // length * length
    return add_up(Totals(start, rows.account_id, rows.metric_id, rows.asked, rows.used))

"""Retired jobs: OAR gives their ids to others. They keep what they used, under ids below zero."""

import numpy as np
from sqlalchemy import func, select

from oar_accounting.adjustments.stored import follow, lines_about
from oar_accounting.database.id_blocks import short_lists
from oar_accounting.ledger import problems, schema
from oar_accounting.ledger.catalog import change_site
from oar_accounting.ledger.ledger import Book
from oar_accounting.ledger.reading import JobRecords, jobs_where
from oar_accounting.ledger.records import DryRun, PassReport
from oar_accounting.oar.snapshot import OarJobs
from oar_accounting.recording.identity import same_jobs
from oar_accounting.recording.runs import Runs
from oar_accounting.recording.upkeep.dry_runs import DryCount, rows_of

TABLES = (schema.jobs, schema.spans, schema.rates, schema.entries, schema.purged)


def retire_jobs(runs: Runs, first: int) -> int:
    """Give free the ids from *first* on, which OAR uses for other jobs; how many.

    Raises as `retire`, and :class:`oar_accounting.UnknownName` where the site is not recorded.
    """
    with runs.noted("retire", new=False) as entry:
        with runs.ledger.writing() as book:
            count = retire(book, runs.oar, first, entry.began)
        entry.report = PassReport(done=count)
    return count


def would_retire(runs: Runs, first: int) -> DryRun:
    """What `retire_jobs` would do; nothing is written. Raises as it would."""
    with runs.looking() as book:
        leaving = _leaving(book, runs.oar, first)
        site_id = book.site.site_id
        rows = rows_of(book.connection, TABLES, site_id, leaving.job_id)
        rows += lines_about(book.connection, site_id, leaving.job_id)
    counted = DryCount()
    counted.add(leaving)
    return counted.report(rows)


def _leaving(book: Book, oar: OarJobs, first: int) -> JobRecords:
    """The jobs from *first* on that OAR no longer has. Raises :class:`WriterBusy` as `retire`."""
    book.check_no_rebuild()
    recorded = jobs_where(book.connection, book.site.site_id, schema.jobs.c.job_id >= first)
    return recorded.take(~np.isin(recorded.job_id, same_jobs(oar, recorded)))


def retire(book: Book, oar: OarJobs, first: int, now: int) -> int:
    """Give free the ids from *first* on, but for jobs that OAR still has; how many.

    Jobs that had not ended did so when the last pass saw them, *now* at the latest. Raises
    :class:`oar_accounting.WriterBusy` while a metric is built.
    """
    leaving = _leaving(book, oar, first)
    connection, site_id = book.connection, book.site.site_id
    table = schema.jobs.c
    if not len(leaving):
        return 0
    running = leaving.take(leaving.closed == schema.OPEN_JOB)
    last_pass = book.site.last_pass
    if len(running):
        book.close_vanished(running, None if last_pass is None else min(last_pass, now))
    lowest = connection.execute(
        select(func.min(table.job_id)).where(table.site_id == site_id)
    ).scalar_one()
    base = min(int(lowest), schema.CARRIED) + first - 1
    for ids in short_lists(leaving.job_id):
        connection.execute(
            schema.jobs.update()
            .where(table.site_id == site_id, table.job_id.in_(ids))
            .values(unsettled=0)
        )
        for each in TABLES:
            connection.execute(
                each.update()
                .where(each.c.site_id == site_id, each.c.job_id.in_(ids))
                .values(job_id=base - each.c.job_id)
            )
    follow(connection, site_id, leaving.job_id, base)
    problems.remove_of_jobs(connection, site_id, leaving.job_id)
    if book.site.high_water_mark >= first:
        change_site(connection, book.site, high_water_mark=first - 1)
    return len(leaving)

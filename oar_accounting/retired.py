"""Retired jobs: OAR gives their ids to others. They keep what they used, under ids below zero."""

from sqlalchemy import func, select

from oar_accounting import schema
from oar_accounting.catalog import change_site
from oar_accounting.ledger import Book
from oar_accounting.recorded import jobs_where

TABLES = (schema.jobs, schema.spans, schema.rates, schema.entries)


def retire(book: Book, first: int, now: int) -> int:
    """Give free the ids from *first* on; how many jobs had one.

    Jobs that had not ended did so when the last pass saw them, *now* at the latest.
    """
    connection, site_id = book.connection, book.site.site_id
    table = schema.jobs.c
    running = jobs_where(
        connection, site_id, (table.job_id >= first) & (table.closed == schema.OPEN_JOB)
    )
    last_pass = book.site.last_pass
    if len(running):
        book.close_vanished(running, None if last_pass is None else min(last_pass, now))
    lowest = connection.execute(
        select(func.min(table.job_id)).where(table.site_id == site_id)
    ).scalar()
    count = connection.execute(
        select(func.count()).where(table.site_id == site_id, table.job_id >= first)
    ).scalar_one()
    connection.execute(
        schema.jobs.update()
        .where(table.site_id == site_id, table.job_id >= first)
        .values(unsettled=0)
    )
    base = min(int(lowest or 0), schema.CARRIED) + first - 1
    for each in TABLES:
        connection.execute(
            each.update()
            .where(each.c.site_id == site_id, each.c.job_id >= first)
            .values(job_id=base - each.c.job_id)
        )
    if book.site.high_water_mark >= first:
        change_site(connection, book.site, high_water_mark=first - 1)
    return int(count)

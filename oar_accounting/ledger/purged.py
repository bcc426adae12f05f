"""What purged jobs gave to the totals: carried on as entries of one job that is none of OAR's.

So the law holds without the spans and rates of these jobs. Amounts are whole in the windows in
which they were carried: no smaller ones can be made of them.
"""

import math
from dataclasses import replace

import numpy as np

from oar_accounting.core.columns import Ints, Rates, Spans, Totals, ints
from oar_accounting.database import bulk
from oar_accounting.database.id_blocks import short_lists
from oar_accounting.ledger import problems, schema
from oar_accounting.ledger.catalog import StoredMetric
from oar_accounting.ledger.ledger import Book, amounts_of
from oar_accounting.ledger.reading import Entries, JobRecords, read_entries

DETAILS = (schema.spans, schema.rates, schema.entries)


def carry(book: Book, ids: Ints, before: int) -> int:
    """Drop the details of those of the jobs that ended *before*, and carry what they gave.

    Returns how many they are: settled jobs all of whose spans end by then, the asked ones too.
    """
    jobs, _ = book.recorded(ids)
    spans = book.spans(jobs.job_id)
    later = np.union1d(spans.job_id[spans.stop_time > before], jobs.job_id[jobs.stop_time > before])
    ended = (jobs.closed == schema.CLOSED_JOB) & (jobs.unsettled == 0)
    ended &= jobs.job_id != schema.CARRIED
    gone = jobs.job_id[ended & ~np.isin(jobs.job_id, later)]
    if len(gone):
        entries = read_entries(book.connection, book.site.site_id, gone)
        spans = spans.take(np.isin(spans.job_id, gone))
        given = amounts_of(gone, spans, book.rates(gone), entries, book.site.terms.window)
        _drop_details(book, gone)
        problems.remove_of_jobs(book.connection, book.site.site_id, gone)
        _note_window(book)
        _add(book, given)
    return len(gone)


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


def carried_window(book: Book) -> int:
    """What is carried is whole in windows of this many seconds; 0 where nothing is."""
    job = book.known(ints([schema.CARRIED]))
    return int(job.walltime[0]) if len(job) else 0


def _note_window(book: Book) -> None:
    """Note in the row of the job that carries in which windows it does; make it if need be."""
    job, window = schema.jobs.c, book.site.terms.window
    if before := carried_window(book):
        book.connection.execute(
            schema.jobs.update()
            .where(job.site_id == book.site.site_id, job.job_id == schema.CARRIED)
            .values(walltime=math.lcm(before, window))
        )
        return
    numbers = dict.fromkeys(JobRecords.__slots__, 0)
    numbers |= {"job_id": schema.CARRIED, "closed": schema.CLOSED_JOB, "walltime": window}
    texts = {"state": schema.CARRYING, "types": ""}
    book.insert(schema.jobs, {name: [value] for name, value in (numbers | texts).items()})


def carried_in(book: Book, metric: StoredMetric) -> Entries:
    """The amounts that are carried in a metric."""
    every = read_entries(book.connection, book.site.site_id, ints([schema.CARRIED]))
    return every.take(every.metric_id == metric.metric_id)


def carry_on(book: Book, before: StoredMetric, metric: StoredMetric) -> None:
    """Give *metric* the amounts that are carried in *before*, which is counted alike."""
    carried = carried_in(book, before)
    carried = replace(carried, metric_id=np.full(len(carried), metric.metric_id))
    book.insert(schema.entries, carried.as_dict())
    none = (Spans.concat([]), Rates.concat([]))
    book.move(amounts_of(ints([schema.CARRIED]), *none, carried, book.site.terms.window))

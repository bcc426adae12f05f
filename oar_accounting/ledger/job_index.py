"""Which jobs asked for or held something in a span of time, found by an index, however long ago.

An index by start alone finds those that began within the span, but not those that had begun before
it. So each job has a *reach*, the least power of two that is longer than it asked for and held its
resources: of each reach only the jobs that began so much before the span, or later, may touch it.
"""

from collections.abc import Iterator, Sequence

import numpy as np
from sqlalchemy import (
    BigInteger,
    ColumnElement,
    Connection,
    Select,
    and_,
    bindparam,
    exists,
    or_,
    select,
)

from oar_accounting.core.columns import OPEN, Ints, ints
from oar_accounting.core.windows import after
from oar_accounting.database import bulk
from oar_accounting.database.id_blocks import id_blocks
from oar_accounting.ledger import schema
from oar_accounting.ledger.reading import LOWEST, JobRecords

#: So many jobs of a span are found by the index; more of them by going through all ids.
MOST_FOUND = 200_000
#: From so many spans on it is worth a look which reaches there are.
MANY_SPANS = 10
#: Ids read at once where all are gone through.
IDS_AT_ONCE = 10_000

_LENGTHS = 2 ** ints(schema.REACHES)
_REACHES = ints([*schema.REACHES, schema.ENDLESS])


def reach_of(jobs: JobRecords) -> Ints:
    """The reach of each job; that of a job which has not ended is `schema.ENDLESS`."""
    asked_until = after(jobs.start_time, np.maximum(jobs.walltime, 0))
    seconds = np.maximum(jobs.stop_time, asked_until) - jobs.start_time
    seconds = np.where(jobs.closed == schema.OPEN_JOB, OPEN, seconds)
    return _REACHES[np.searchsorted(_LENGTHS, seconds, "right")]


def _touching(site_id: int, reaches: Sequence[int]) -> ColumnElement[bool]:
    """True for jobs that may have asked for or held something within a span: see `_parameters`.

    In the terms of the index, of jobs of these *reaches* and of endless ones. It is true for
    others, too, that ended shortly before.
    """
    job = schema.jobs.c
    stop = bindparam("stop", type_=BigInteger)
    # The site with each of them: SQLite looks for an index for every alternative by itself.
    begun = [
        and_(
            job.site_id == site_id,
            job.reach == reach,
            job.start_time > bindparam(f"before_{reach}", type_=BigInteger),
            job.start_time < stop,
        )
        for reach in reaches
    ]
    endless = and_(job.site_id == site_id, job.reach == schema.ENDLESS, job.start_time < stop)
    return or_(*begun, endless)


def _parameters(start: int, stop: int, reaches: Sequence[int]) -> dict[str, int]:
    """The half-open span that `_touching` is about."""
    return {"stop": stop, **{f"before_{reach}": start - 2**reach for reach in reaches}}


def _reaches_there(connection: Connection, site_id: int) -> list[int]:
    """The reaches that jobs of the site have."""
    job = schema.jobs.c
    there = [exists().where(job.site_id == site_id, job.reach == reach) for reach in schema.REACHES]
    found = connection.execute(select(*there)).one()
    return [reach for reach, is_there in zip(schema.REACHES, found, strict=True) if is_there]


def _touches(start: int, stop: int) -> ColumnElement[bool]:
    """The same in terms that no index answers, for where all jobs are gone through anyway."""
    job = schema.jobs.c
    lasted = or_(
        job.closed == schema.OPEN_JOB,
        job.stop_time > start,
        job.start_time + job.walltime > start,
    )
    return and_(job.start_time < stop, lasted)


def jobs_touching(
    connection: Connection,
    site_id: int,
    some: Sequence[tuple[int, int]],
    *chosen: ColumnElement[bool],
) -> Ints | None:
    """The ids of the jobs that may touch one of *some* half-open spans, ascending, each once.

    None where they are found more than `MOST_FOUND` times.
    """
    # To say and to read a condition takes longer than to look for few rows.
    reaches = _reaches_there(connection, site_id) if len(some) > MANY_SPANS else schema.REACHES
    query: Select[tuple[int]] = select(schema.jobs.c.job_id).where(
        _touching(site_id, reaches), *chosen
    )
    read = bulk.int_reader(connection, query.limit(MOST_FOUND + 1))
    parts, count = [ints([])], 0
    for start, stop in some:
        parts.append(read(_parameters(start, stop, reaches))[0])
        count += len(parts[-1])
        if count > MOST_FOUND:
            return None
    return np.unique(np.concatenate(parts))


def job_blocks(
    connection: Connection,
    site_id: int,
    start: int,
    stop: int,
    *chosen: ColumnElement[bool],
) -> Iterator[Ints]:
    """The ids of the jobs that may touch ``[start, stop)``, epoch seconds, in ascending blocks.

    Each comes once, and some come that do not touch it. *chosen*: further conditions on the columns
    of `schema.jobs`. Memory does not grow with the number of jobs.
    """
    job = schema.jobs.c
    if start > -OPEN:
        found = jobs_touching(connection, site_id, [(start, stop)], *chosen)
        if found is not None:
            yield from id_blocks(found)
            return
        chosen = (*chosen, _touches(start, stop))
    elif stop < OPEN:
        chosen = (*chosen, job.start_time < stop)
    last = LOWEST
    while True:
        query: Select[tuple[int]] = select(job.job_id).where(
            job.site_id == site_id, job.job_id > last, *chosen
        )
        ids = bulk.read_ints(connection, query.order_by(job.job_id).limit(IDS_AT_ONCE))[0]
        yield from id_blocks(ids)
        if len(ids) < IDS_AT_ONCE:
            return
        last = int(ids[-1])

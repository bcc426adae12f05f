"""What a verb would do is counted in what is only read."""

from collections.abc import Sequence

import numpy as np
from sqlalchemy import Connection, Table, func, select

from oar_accounting.core.columns import Ints
from oar_accounting.database.id_blocks import short_lists
from oar_accounting.ledger import schema
from oar_accounting.ledger.reading import JobRecords
from oar_accounting.ledger.records import DryRun


def counted(parts: Sequence[JobRecords], rows: int, before: int | None = None) -> DryRun:
    """The report of these jobs, and of so many *rows*."""
    jobs = JobRecords.concat(parts)
    begun = jobs.take(jobs.start_time > 1)
    ended = begun.take(begun.closed != schema.OPEN_JOB)
    return DryRun(
        jobs=len(jobs),
        rows=rows,
        start=int(np.min(begun.start_time)) if len(begun) else None,
        stop=int(np.max(ended.stop_time)) if len(ended) else None,
        before=before,
    )


def rows_of(connection: Connection, tables: Sequence[Table], site_id: int, ids: Ints) -> int:
    """How many rows the jobs have in these tables."""
    count = 0
    for some in short_lists(ids):
        for table in tables:
            query = select(func.count()).where(table.c.site_id == site_id, table.c.job_id.in_(some))
            count += int(connection.execute(query).scalar_one())
    return count

"""What a verb would do is counted in what is only read."""

from collections.abc import Sequence

import numpy as np
from sqlalchemy import Connection, Table, func, select

from oar_accounting.core.columns import Ints
from oar_accounting.database.id_blocks import short_lists
from oar_accounting.ledger import schema
from oar_accounting.ledger.reading import JobRecords
from oar_accounting.ledger.records import DryRun


class DryCount:
    """Counts jobs, some at a time; what is counted is not kept."""

    def __init__(self) -> None:
        self._jobs = 0
        self._start: int | None = None
        self._stop: int | None = None

    def add(self, jobs: JobRecords) -> None:
        """These, too."""
        self._jobs += len(jobs)
        begun = jobs.take(jobs.start_time > 1)
        if len(begun):
            first = int(np.min(begun.start_time))
            self._start = first if self._start is None else min(self._start, first)
        ended = begun.take(begun.closed != schema.OPEN_JOB)
        if len(ended):
            last = int(np.max(ended.stop_time))
            self._stop = last if self._stop is None else max(self._stop, last)

    def report(self, rows: int, before: int | None = None) -> DryRun:
        """The report of these jobs, and of so many *rows*."""
        return DryRun(jobs=self._jobs, rows=rows, start=self._start, stop=self._stop, before=before)


def rows_of(connection: Connection, tables: Sequence[Table], site_id: int, ids: Ints) -> int:
    """How many rows the jobs have in these tables."""
    count = 0
    for some in short_lists(ids):
        for table in tables:
            query = select(func.count()).where(table.c.site_id == site_id, table.c.job_id.in_(some))
            count += int(connection.execute(query).scalar_one())
    return count

"""What a dry run counts is counted some at a time, and none of it is kept."""

import weakref
from typing import Any

import numpy as np

from oar_accounting.ledger import schema
from oar_accounting.ledger.reading import TEXTS, JobRecords
from oar_accounting.ledger.records import DryRun
from oar_accounting.recording.upkeep.dry_runs import DryCount


def jobs(*times: tuple[int, int], closed: int = schema.CLOSED_JOB) -> JobRecords:
    """Jobs that began and ended at these times."""
    count = len(times)
    columns: dict[str, Any] = {
        name: np.full(count, "", object) if name in TEXTS else np.zeros(count, np.int64)
        for name in JobRecords.__slots__
    }
    start, stop = (np.array([each[place] for each in times], np.int64) for place in (0, 1))
    columns |= {"start_time": start, "stop_time": stop, "closed": np.full(count, closed)}
    return JobRecords.of(columns[name] for name in JobRecords.__slots__)


def test_the_times_are_those_of_all_that_began_and_ended() -> None:
    counted = DryCount()
    assert counted.report(0) == DryRun(jobs=0, rows=0, start=None, stop=None)
    counted.add(jobs((0, 0), (100, 900)))
    counted.add(jobs())
    counted.add(jobs((50, 60)))
    counted.add(jobs((70, 5000), closed=schema.OPEN_JOB))
    assert counted.report(7, before=3) == DryRun(jobs=4, rows=7, start=50, stop=900, before=3)


def test_jobs_that_were_counted_are_let_go() -> None:
    counted, some = DryCount(), jobs((100, 900))
    kept = weakref.ref(some.name)
    counted.add(some)
    del some
    assert kept() is None

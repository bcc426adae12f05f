"""The years before: OAR's own accounting of times of which no jobs are left, taken over.

A row of OAR is taken over whole where no job that OAR or the ledger knows asked for or held
anything within its window; what is left out is told. It is set, not added: taken over twice is
taken over once, and what jobs that turned up later have covered stays covered.
"""

from collections import defaultdict
from dataclasses import dataclass

import numpy as np
from sqlalchemy import case, select

from oar_accounting.core.columns import OPEN, AmountColumns, Bools, Ints, ints, rows_among, sum_up
from oar_accounting.core.windows import after
from oar_accounting.database import bulk
from oar_accounting.database.dialects import LONGEST_NAME
from oar_accounting.errors import OarSchemaError
from oar_accounting.ledger import schema
from oar_accounting.ledger.catalog import Names
from oar_accounting.ledger.ledger import Book
from oar_accounting.ledger.openings import Openings, read_openings
from oar_accounting.ledger.recorded_names import RecordedNames
from oar_accounting.ledger.records import OpeningReport, PassReport
from oar_accounting.oar.job_rules import RUNNING
from oar_accounting.oar.snapshot import OarJobs, Snapshot
from oar_accounting.recording.runs import Runs

COVERED_AT_ONCE = 100_000


@dataclass(frozen=True, slots=True)
class OarAmounts(AmountColumns):
    """What OAR has counted; windows are half-open, *name* is a number for user, project, queue."""

    window_start: Ints
    window_stop: Ints
    name: Ints
    asked: Ints
    used: Ints


class Busy:
    """When there was a job: times with a gap between each other, ascending."""

    def __init__(self) -> None:
        self._start = ints([])
        self._stop = ints([])

    def add(self, start: Ints, stop: Ints) -> None:
        """Add half-open times; those that are empty are none."""
        some = stop > start
        start = np.concatenate([self._start, start[some]])
        stop = np.concatenate([self._stop, stop[some]])
        order = np.argsort(start, kind="stable")
        start, stop = start[order], np.maximum.accumulate(stop[order])
        apart = start[1:] > stop[:-1]
        self._start = start[np.concatenate([[True], apart])[: len(start)]]
        self._stop = stop[np.concatenate([apart, [True]])[: len(stop)]]

    def meets(self, start: Ints, stop: Ints) -> Bools:
        """The half-open times within which there was a job."""
        if not len(self._start):
            return np.zeros(len(start), np.bool_)
        at = np.searchsorted(self._stop, start, "right")
        last = len(self._start) - 1
        touched: Bools = (at <= last) & (self._start[np.minimum(at, last)] < stop)
        return touched


def import_accounting(runs: Runs, *, dry_run: bool) -> OpeningReport:
    """Take over what OAR's own accounting has of times of which no jobs are left.

    Raises :class:`oar_accounting.OarSchemaError` where that cannot be read.
    """
    if dry_run:
        with runs.looking() as book:
            return take_over(book, runs.oar, dry_run=True)
    with runs.noted("import", new=False) as entry:
        with runs.ledger.writing() as book:
            told = take_over(book, runs.oar, dry_run=False)
        entry.report = PassReport(done=told.new, changed=told.changed)
    return told


def take_over(book: Book, oar: OarJobs, *, dry_run: bool) -> OpeningReport:
    """Make opening amounts of OAR's accounting; with *dry_run* only say what would be done.

    Raises :class:`OarSchemaError` where OAR's accounting cannot be read, or is none.
    """
    with oar.snapshot() as snapshot:
        recorded = RecordedNames.of(book.connection, book.site)
        counted, names = _counted(snapshot, recorded)
        busy = _busy(book, snapshot)
    touched = busy.meets(counted.window_start, counted.window_stop)
    free = counted.take(~touched)
    if not dry_run:
        book.accounts.add(book.connection, [names[number] for number in np.unique(free.name)])
    account = ints(book.accounts.ids(names))[free.name]
    nothing = np.zeros(len(free), np.int64)
    wanted = Openings(
        free.window_start, free.window_stop, account, free.asked, free.used, nothing, nothing
    )
    standing = read_openings(book.connection, book.site.site_id)
    new = ~rows_among(_keys(wanted), _keys(standing)) | (account == 0)
    # What stands may have become nothing since.
    worth = ~new | (wanted.asked != 0) | (wanted.used != 0)
    wanted, new = wanted.take(worth), new[worth]
    changed = _changed(wanted.take(~new), standing)
    if not dry_run:
        _insert(book, wanted.take(new))
        _replace(book, changed)
    return OpeningReport(
        rows=len(wanted),
        new=int(np.count_nonzero(new)),
        changed=len(changed),
        start=int(wanted.window_start.min()) if len(wanted) else None,
        stop=int(wanted.window_stop.max()) if len(wanted) else None,
        asked=sum(wanted.asked.tolist()),
        used=sum(wanted.used.tolist()),
        left_out=int(np.count_nonzero(touched)),
        left_out_asked=sum(counted.asked[touched].tolist()),
        left_out_used=sum(counted.used[touched].tolist()),
    )


def _counted(snapshot: Snapshot, recorded: RecordedNames) -> tuple[OarAmounts, list[Names]]:
    """What OAR has counted, ASKED and USED side by side, and the names by their numbers."""
    number: dict[Names, int] = {}
    found = OarAmounts.concat([])
    for rows in snapshot.counted():
        read: defaultdict[str, list[int]] = defaultdict(list)
        for start, last, user, project, queue, kind, consumption in rows:
            names = (recorded.name(user), recorded.name(project), queue, "")
            _check(start, last, names, kind, consumption)
            read["start"].append(start)
            read["stop"].append(last + 1)
            read["name"].append(number.setdefault(names, len(number)))
            read["asked"].append(consumption if kind == "ASKED" else 0)
            read["used"].append(consumption if kind == "USED" else 0)
        columns = (ints(read[name]) for name in ("start", "stop", "name", "asked", "used"))
        found = sum_up(OarAmounts.concat([found, OarAmounts.of(columns)]))
    return found, list(number)


def _check(start: int, last: int, names: Names, kind: str, consumption: int) -> None:
    """Raise :class:`OarSchemaError` where a row is none that OAR writes."""
    length = last + 1 - start
    aligned = length > 0 and start % length == 0
    named = max(map(len, names)) <= LONGEST_NAME
    if not (aligned and named and kind in ("ASKED", "USED") and consumption >= 0):
        raise OarSchemaError(
            f"OAR's table accounting has a row that OAR does not write: window {start} to {last}, "
            f"{kind} of {consumption}; nothing was taken over"
        )


def _busy(book: Book, snapshot: Snapshot) -> Busy:
    """When OAR or the ledger knows of a job."""
    busy = Busy()
    last, start, stop = snapshot.times_held(0, COVERED_AT_ONCE)
    while last:
        busy.add(start, stop)
        last, start, stop = snapshot.times_held(last, COVERED_AT_ONCE)
    job = schema.jobs.c
    # Of a job that OAR has deleted, it is not known yet when it ended.
    runs = case(((job.closed == schema.OPEN_JOB) & job.state.in_(RUNNING), 1), else_=0)
    query = select(job.start_time, job.stop_time, job.walltime, runs).where(
        job.site_id == book.site.site_id, job.job_id != schema.CARRIED, job.start_time > 1
    )
    start, ended, walltime, running = bulk.read_ints(book.connection, query)
    ran = (running == 1) | (ended >= start)
    stop = np.where(running == 1, OPEN, np.maximum(ended, after(start, walltime)))
    busy.add(start[ran], stop[ran])
    return busy


def _keys(rows: Openings) -> tuple[Ints, Ints, Ints]:
    return rows.window_start, rows.window_stop, rows.account_id


def _changed(wanted: Openings, standing: Openings) -> Openings:
    """Those of the *wanted* that stand with other amounts; what is covered stays."""
    order = np.lexsort(_keys(standing))
    there = standing.take(order)
    there = there.take(rows_among(_keys(there), _keys(wanted)))
    wanted = wanted.take(np.lexsort(_keys(wanted)))
    other = (wanted.asked != there.asked) | (wanted.used != there.used)
    return Openings(
        *_keys(wanted), wanted.asked, wanted.used, there.covered_asked, there.covered_used
    ).take(other)


def _insert(book: Book, rows: Openings) -> None:
    site_id = np.full(len(rows), book.site.site_id)
    columns = {"site_id": site_id, **rows.as_dict()}
    bulk.insert_columns(book.connection, schema.openings, columns)


def _replace(book: Book, rows: Openings) -> None:
    keys = {"site_id": np.full(len(rows), book.site.site_id)}
    names = ("window_start", "window_stop", "account_id")
    keys |= dict(zip(names, _keys(rows), strict=True))
    if len(rows):
        bulk.delete_rows(book.connection, schema.openings, keys)
        _insert(book, rows)

"""OAR's own ``accounting``, filled as ``oaraccounting`` of OAR 2.5.9 fills it, row for row.

The only code that writes a table of OAR: ``accounting`` and ``jobs.accounted``. Everything is one
transaction under the lock that OAR's command takes. Jobs are read a block at a time, in the order
in which that command takes them: where the database takes two names for one, as MariaDB does by
default, the first writes its row.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from sqlalchemy import (
    ColumnElement,
    Connection,
    Engine,
    MetaData,
    Select,
    Subquery,
    delete,
    func,
    insert,
    literal_column,
    select,
    union_all,
    update,
)
from sqlalchemy.exc import DBAPIError
from sqlalchemy.schema import CreateTable

from oar_accounting.core import formats
from oar_accounting.core.columns import (
    Columns,
    Ints,
    Spans,
    Texts,
    exact_product,
    exact_sums,
    group_starts,
    ints,
    row_order,
)
from oar_accounting.core.progress import Progress
from oar_accounting.core.windows import in_portions, spread
from oar_accounting.database import bulk, dialects
from oar_accounting.dropin.records import StockReport
from oar_accounting.dropin.tables import accounting, due, jobs
from oar_accounting.errors import AmountOverflow, OarSchemaError
from oar_accounting.oar.checking import check_columns
from oar_accounting.oar.job_rules import ENDED
from oar_accounting.oar.oar_tables import assigned, moldables, resources
from oar_accounting.oar.spellings import holds_other_bytes
from oar_accounting.settings.load import Settings, oar_window

#: What OAR's command calls its lock on MySQL, and how many seconds it waits for it.
MUTEX, TABLE_LOCK_WAIT = "ACCOUNTING", 3_600

#: Jobs read at once.
COUNTED_AT_ONCE = 10_000
#: Rows written at once.
ROWS_AT_ONCE = 20_000

CONSUMPTION_TYPES = ("USED", "ASKED")

#: What stood in OAR's accounting; made of it, so that names are one where they are one there.
_old = accounting.to_metadata(MetaData(), name="oar_accounting_old")

Names = tuple[str, str, str]


@dataclass(frozen=True, slots=True)
class Due(Columns):
    """Jobs to count, in their turn; *account* is a number for user, project and queue."""

    start_time: Ints
    stop_time: Ints
    walltime: Ints
    held: Ints
    account: Ints


@dataclass(frozen=True, slots=True)
class CountedJobs(Columns):
    """What jobs add to rows of OAR's accounting, in the order of the jobs.

    *kind* is of `CONSUMPTION_TYPES`.
    """

    window_start: Ints
    account: Ints
    kind: Ints
    consumption: Ints


def count(
    given: Settings,
    *,
    reinitialize: bool = False,
    dry_run: bool = False,
    progress: Progress | None = None,
) -> StockReport:
    """`account` or `recount` in the database and the windows of OAR's settings."""
    engine = dialects.open_engine(given.oar_url)
    try:
        counted = recount if reinitialize else account
        return counted(engine, oar_window(given), dry_run=dry_run, progress=progress)
    finally:
        engine.dispose()


def account(
    engine: Engine, window: int, *, dry_run: bool = False, progress: Progress | None = None
) -> StockReport:
    """Count the ended jobs that are not counted yet, in windows of *window* seconds.

    Raises :class:`OarSchemaError`, :class:`WriterBusy` and :class:`AmountOverflow`.
    """
    with _alone(engine, dry_run) as connection:
        return _count_due(connection, window, progress)


def recount(
    engine: Engine, window: int, *, dry_run: bool = False, progress: Progress | None = None
) -> StockReport:
    """Empty OAR's accounting and count every job that OAR still has; else as `account`.

    What was in a row beyond that, of jobs that were deleted or counted twice, is told of.
    """
    with _alone(engine, dry_run) as connection:
        # What no job accounts for can be told only where every job has been counted.
        _count_due(connection, window, None)
        dialects.copy_for_transaction(connection, accounting, _old.name)
        removed = connection.execute(delete(accounting)).rowcount
        connection.execute(update(jobs).where(jobs.c.accounted != "NO").values(accounted="NO"))
        counted = _count_due(connection, window, progress)
        return replace(counted, removed=removed, **_lost(connection))


def delete_before(engine: Engine, instant: int, *, dry_run: bool = False) -> StockReport:
    """Remove the rows whose last second is at or before *instant*; what they held is told of.

    Their jobs stay counted. Raises :class:`OarSchemaError` and :class:`WriterBusy`.
    """
    old = accounting.c.window_stop <= instant
    with _alone(engine, dry_run) as connection:
        rows = select(accounting.c.consumption_type, accounting.c.consumption.label("lost"))
        held = _summed(connection, rows.where(old))
        removed = connection.execute(delete(accounting).where(old)).rowcount
        return StockReport(removed=removed, **held)


@contextmanager
def _alone(engine: Engine, dry_run: bool) -> Iterator[Connection]:
    """The transaction in which no other of this kind runs; a *dry_run* is undone."""
    with dialects.writing_alone(engine, MUTEX, TABLE_LOCK_WAIT) as connection:
        for table in (accounting, jobs, moldables, assigned, resources):
            check_columns(connection, table)
        names = (accounting.name, jobs.name)
        for name, storage in dialects.without_transactions(connection, names).items():
            raise OarSchemaError(
                f"{dialects.shown(engine.url)}: OAR's table {name!r} is kept by {storage}, which "
                "has no transactions: jobs would be counted twice or never after an interruption; "
                f"mend it with ALTER TABLE {name} ENGINE=InnoDB"
            )
        dialects.lock_table(connection, accounting.name, TABLE_LOCK_WAIT)
        yield connection
        if dry_run:
            connection.rollback()


def _count_due(connection: Connection, window: int, progress: Progress | None) -> StockReport:
    """Add what the jobs that are due asked for and used, and mark them as counted."""
    total = _find_due(connection)
    numbers: dict[Names, int] = {}
    written = [ints([])]
    done = 0
    for at in range(0, total, COUNTED_AT_ONCE):
        block = _block(connection, at, numbers)
        names = np.array(list(numbers), dtype=object).reshape(-1, 3)
        for rows in _counted(block, window):
            written.append(_packed(rows, window))
            _add(connection, rows, names, window)
        done += len(block)
        if progress is not None:
            progress(done, total)
    ours = jobs.c.job_id == due.c.job_id
    connection.execute(update(jobs).where(ours).values(accounted="YES"))
    return StockReport(jobs=total, rows=len(np.unique(np.concatenate(written))))


def _find_due(connection: Connection) -> int:
    """Fill `due` with the jobs that OAR's command would count; how many."""
    dialects.complete([due])
    connection.execute(CreateTable(due, if_not_exists=True))
    connection.execute(delete(due))
    held = _resources_held()
    walltime = moldables.c.moldable_walltime
    order = (jobs.c.start_time, jobs.c.stop_time, walltime, jobs.c.job_id)
    found = (
        select(
            func.row_number().over(order_by=order),
            jobs.c.job_id,
            jobs.c.start_time,
            jobs.c.stop_time,
            walltime,
            held.c.held,
            jobs.c.job_user,
            jobs.c.project,
            jobs.c.queue_name,
        )
        .join_from(jobs, held, held.c.job_id == jobs.c.job_id)
        .join(moldables, moldables.c.moldable_id == jobs.c.assigned_moldable_job)
    )
    return connection.execute(insert(due).from_select(list(due.c.keys()), found)).rowcount


def _resources_held() -> Subquery:
    """The jobs that OAR's command would count, with how many resources of type default they held.

    A job without any is not among them, and is never counted.
    """
    return (
        select(jobs.c.job_id, func.count().label("held"))
        .join_from(jobs, assigned, assigned.c.moldable_job_id == jobs.c.assigned_moldable_job)
        .join(resources, resources.c.resource_id == assigned.c.resource_id)
        .where(
            resources.c.type == "default",
            jobs.c.accounted == "NO",
            jobs.c.state.in_(ENDED),
            jobs.c.stop_time >= jobs.c.start_time,
            jobs.c.start_time > 1,
        )
        .group_by(jobs.c.job_id)
        .subquery()
    )


def _block(connection: Connection, after: int, numbers: dict[Names, int]) -> Due:
    """The jobs of the next turns; new names get their *numbers*."""
    query = select(
        due.c.start_time,
        due.c.stop_time,
        due.c.walltime,
        due.c.held,
        due.c.job_user,
        due.c.project,
        due.c.queue_name,
    ).where(due.c.turn > after, due.c.turn <= after + COUNTED_AT_ONCE)
    found = connection.execute(query.order_by(due.c.turn)).fetchall()
    for name in {name for row in found for name in row[4:7] if holds_other_bytes(name)}:
        raise OarSchemaError(
            f"OAR's jobs have '{name}', which is not UTF-8 and would stand otherwise in OAR's "
            "accounting; write it as UTF-8 in OAR's table jobs, or let OAR's command count"
        )
    accounts = [numbers.setdefault((row[4], row[5], row[6]), len(numbers)) for row in found]
    times = ints([row[:4] for row in found]).reshape(-1, 4).T
    return Due.of([*times, ints(accounts)])


def _counted(block: Due, window: int) -> Iterator[CountedJobs]:
    """What the jobs used and asked for in each window, in portions that fit in memory."""
    job = np.tile(np.arange(len(block)), 2)
    kind = np.repeat(
        [CONSUMPTION_TYPES.index("USED"), CONSUMPTION_TYPES.index("ASKED")], len(block)
    )
    start = block.start_time[job]
    stop = np.concatenate([block.stop_time, block.start_time + block.walltime])
    spans = Spans(job, kind, start, stop)
    for part in in_portions(spans.take(stop > start), window):
        if len(part):
            yield _summed_up(block, part, window)


def _summed_up(block: Due, spans: Spans, window: int) -> CountedJobs:
    pieces = spread(spans.start_time, spans.stop_time, window)
    job = spans.job_id[pieces.row]
    account, kind = block.account[job], spans.asked[pieces.row]
    keys = (pieces.number, account, kind)
    order = row_order(keys)
    starts = group_starts([key[order] for key in keys])
    amounts = exact_product(pieces.seconds, block.held[job])
    # Equal rows keep their order, so the first of each is of the first job.
    first = order[starts]
    turns = np.argsort(first)
    rows = first[turns]
    sums = exact_sums(amounts[order], starts)
    return CountedJobs(pieces.number[rows] * window, account[rows], kind[rows], sums[turns])


def _packed(rows: CountedJobs, window: int) -> Ints:
    """A number for every row of OAR's accounting."""
    return (rows.window_start // window << 32) + (rows.account << 1) + rows.kind


def _add(connection: Connection, rows: CountedJobs, names: Texts, window: int) -> None:
    """Add to OAR's accounting; *names* has user, project and queue of every account."""
    kinds = np.array(CONSUMPTION_TYPES, dtype=object)
    try:
        for at in range(0, len(rows), ROWS_AT_ONCE):
            some = rows.take(slice(at, at + ROWS_AT_ONCE))
            users, projects, queues = names[some.account].T
            columns = {
                "window_start": some.window_start,
                "window_stop": some.window_start + window - 1,
                "accounting_user": users,
                "accounting_project": projects,
                "queue_name": queues,
                "consumption_type": kinds[some.kind],
                "consumption": some.consumption,
            }
            bulk.add_columns(connection, accounting, columns)
    except DBAPIError as error:
        if not dialects.is_overflow(error):
            raise
        last = int(rows.window_start.max()) + window
        raise AmountOverflow(
            f"OAR's table 'accounting' cannot hold what there is to count, up to "
            f"{formats.date(last)} ({' '.join(str(error.orig).split())}): nothing was written"
        ) from error


def _lost(connection: Connection) -> dict[str, int]:
    """What stood in OAR's accounting, and no job that was counted anew accounts for."""
    keys = [column.name for column in accounting.primary_key]
    none: ColumnElement[int] = literal_column("0")
    sides = union_all(
        select(
            *(_old.c[key] for key in keys), _old.c.consumption.label("before"), none.label("after")
        ),
        select(*(accounting.c[key] for key in keys), none, accounting.c.consumption),
    ).subquery()
    more = func.sum(sides.c.before) - func.sum(sides.c.after)
    rows = select(sides.c.consumption_type, more.label("lost"))
    return _summed(connection, rows.group_by(*(sides.c[key] for key in keys)).having(more > 0))


def _summed(connection: Connection, rows: Select[Any]) -> dict[str, int]:
    """How many rows of ``consumption_type`` and ``lost`` there are, and the sum of either kind."""
    each = rows.subquery()
    query = select(each.c.consumption_type, func.count(), func.sum(each.c.lost))
    found = connection.execute(query.group_by(each.c.consumption_type)).all()
    sums = {kind: int(amount) for kind, _, amount in found}
    return {
        "lost": sum(count for _, count, _ in found),
        "asked": sums.get("ASKED", 0),
        "used": sums.get("USED", 0),
    }

"""Reading OAR: jobs, their pauses and types, what they were assigned, and the resources.

SELECT on six tables is all it needs; on OAR 3, `never_ran` has need of a seventh. Everything of one
`Snapshot` is one state of the database. Jobs are looked up by range where their ids lie close
together and else by short lists: a list of thousands of ids costs the planner more than the rows.
"""

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
from sqlalchemy import (
    ColumnElement,
    Connection,
    Engine,
    Select,
    case,
    column,
    func,
    null,
    select,
)

from oar_accounting.core.columns import OPEN, Columns, Ints, JobRows, ints
from oar_accounting.core.windows import after
from oar_accounting.database import bulk, dialects
from oar_accounting.database.id_blocks import SPARSE_BLOCK, among, id_blocks, short_lists
from oar_accounting.metrics.metric import Resources
from oar_accounting.oar import oar_tables
from oar_accounting.oar.checking import check_columns, resource_log_unread
from oar_accounting.oar.job_rules import ENDED, PAUSED, RUNNING
from oar_accounting.oar.never_ran import LaunchLogs
from oar_accounting.oar.requested import Requests, properties_in, sizes_of

#: Rows of OAR's own accounting held in memory at once.
ROWS_AT_ONCE = 20_000
#: Jobs looked through at once.
LOOKED_THROUGH_AT_ONCE = 100_000
#: Assigned resources held in memory at once.
PAIRS_AT_ONCE = 1_000_000


@dataclass(frozen=True, slots=True)
class Assigned(Columns):
    """Pairs: row of the job in the `JobRows` asked about, id of a resource it was assigned."""

    job: Ints
    resource_id: Ints


class OarJobs:
    """The database of one OAR server.

    The first use raises :class:`oar_accounting.errors.OarSchemaError` where a table or column
    that is read is missing.
    """

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self._checked = False
        self._launches = LaunchLogs()
        self._requests = Requests()

    @contextmanager
    def snapshot(self) -> Iterator["Snapshot"]:
        """One state of the database, for as long as the block lasts."""
        with dialects.reading(self.engine) as connection:
            if not self._checked:
                for table in oar_tables.metadata.sorted_tables:
                    check_columns(connection, table)
                self._checked = True
            yield Snapshot(connection, self._launches, self._requests)

    def properties(self) -> frozenset[str]:
        """The columns that OAR's ``resources`` have now."""
        with self.snapshot() as snapshot:
            return snapshot.properties

    def names(self) -> list[tuple[str, str]]:
        """The users and projects of OAR's jobs, each once, sorted, as which of the two and name."""
        jobs = oar_tables.jobs.c
        with dialects.reading(self.engine) as connection:
            return sorted(
                (kind, name)
                for kind, column in (("user", jobs.job_user), ("project", jobs.project))
                for name in dialects.spellings(connection, column)
            )

    def properties_unread(self) -> str:
        """Why OAR's log of what properties were cannot be read; empty where it can."""
        with dialects.reading(self.engine) as connection:
            return resource_log_unread(connection)

    def launches_unread(self) -> str:
        """Why OAR's log that says which jobs never ran cannot be read; empty where it can."""
        with dialects.reading(self.engine) as connection:
            return self._launches.unread(connection)

    def changeable(self) -> list[str] | None:
        """The tables that our role could change; None where the database knows no roles."""
        with dialects.reading(self.engine) as connection:
            return dialects.changeable(connection, list(oar_tables.metadata.tables))


class Snapshot:
    """One state of OAR's database. Blocks of ids come from `id_blocks`."""

    def __init__(
        self,
        connection: Connection,
        launches: LaunchLogs,
        requests: Requests,
    ) -> None:
        self._connection = connection
        self._launches = launches
        self._requests = requests

    @cached_property
    def properties(self) -> frozenset[str]:
        """The columns of OAR's ``resources``, which ``oarproperty`` may change at any time."""
        return check_columns(self._connection, oar_tables.resources)

    @property
    def connection(self) -> Connection:
        """What it is read through."""
        return self._connection

    def ids_above(self, last: int, most: int) -> Ints:
        """The lowest ids above *last*, ascending, *most* of them at most."""
        job_id = oar_tables.jobs.c.job_id
        query: Select[Any] = select(job_id).where(job_id > last).order_by(job_id).limit(most)
        return bulk.read_ints(self._connection, query)[0]

    def ids_ended_since(self, instant: int) -> Ints:
        """The jobs that ended at or after *instant*, ascending."""
        jobs = oar_tables.jobs.c
        query = select(jobs.job_id).where(jobs.stop_time >= instant, jobs.state.in_(ENDED))
        return np.sort(bulk.read_ints(self._connection, query)[0])

    def running(self) -> Ints:
        """The jobs that are on the machine, ascending."""
        jobs = oar_tables.jobs.c
        query = select(jobs.job_id).where(jobs.state.in_(RUNNING))
        return np.sort(bulk.read_ints(self._connection, query)[0])

    def ended_among(self, block: Ints) -> Ints:
        """Those jobs of the block that have ended, ascending."""
        jobs = oar_tables.jobs.c
        query = select(jobs.job_id).where(among(block, jobs.job_id), jobs.state.in_(ENDED))
        return np.intersect1d(bulk.read_ints(self._connection, query)[0], block)

    def highest_id(self) -> int:
        """The highest job id; 0 where there is no job."""
        query = select(func.coalesce(func.max(oar_tables.jobs.c.job_id), 0))
        return int(self._connection.execute(query).scalar_one())

    def count_above(self, last: int) -> int:
        """How many jobs have an id above *last*."""
        query = select(func.count()).where(oar_tables.jobs.c.job_id > last)
        return int(self._connection.execute(query).scalar_one())

    def rows(self, block: Ints) -> JobRows:
        """The jobs of the block that OAR has."""
        jobs, moldables = oar_tables.jobs, oar_tables.moldables
        joined = jobs.outerjoin(moldables, moldables.c.moldable_id == jobs.c.assigned_moldable_job)
        columns = jobs.c
        query = (
            select(
                columns.job_id,
                columns.job_user,
                columns.project,
                columns.queue_name,
                columns.state,
                func.coalesce(columns.submission_time, 0),
                func.coalesce(columns.start_time, 0),
                func.coalesce(columns.stop_time, 0),
                func.coalesce(columns.assigned_moldable_job, 0),
                func.coalesce(moldables.c.moldable_walltime, 0),
                columns.suspended,
                func.coalesce(columns.job_name, ""),
                columns.exit_code,
                columns.reservation,
            )
            .select_from(joined)
            .where(among(block, columns.job_id))
            .order_by(columns.job_id)
        )
        found = self._connection.execute(query).fetchall()
        lists = list(zip(*found, strict=True)) if found else [()] * 14
        texts = [np.array(values, dtype=object) for values in (*lists[1:5], *lists[11:])]
        numbers = [ints(values) for values in lists[5:10]]
        suspended = np.array([flag == "YES" for flag in lists[10]], dtype=np.bool_)
        rows = JobRows.of([ints(lists[0]), *texts[:4], *numbers, suspended, *texts[4:]])
        return self._with_walltimes_asked(rows.take(np.isin(rows.job_id, block)))

    def _with_walltimes_asked(self, rows: JobRows) -> JobRows:
        """The same; jobs that were assigned no moldable have the walltime of their first one."""
        unassigned = np.flatnonzero(rows.moldable == 0)
        if not len(unassigned):
            return rows
        table = oar_tables.moldables.c
        first: dict[int, int] = {}
        for block in id_blocks(rows.job_id[unassigned]):
            query = (
                select(table.moldable_job_id, func.coalesce(table.moldable_walltime, 0))
                .where(among(block, table.moldable_job_id))
                .order_by(table.moldable_id.desc())
            )
            jobs, seconds = bulk.read_ints(self._connection, query)
            first.update(zip(jobs.tolist(), seconds.tolist(), strict=True))
        walltime = rows.walltime.copy()
        walltime[unassigned] = [first.get(job, 0) for job in rows.job_id[unassigned].tolist()]
        return replace(rows, walltime=walltime)

    def types(self, block: Ints) -> dict[int, list[str]]:
        """The types of the jobs of the block, sorted; jobs without any are left out."""
        table = oar_tables.job_types.c
        query = select(table.job_id, table.type).where(among(block, table.job_id))
        types: defaultdict[int, list[str]] = defaultdict(list)
        for job, kind in self._connection.execute(query):
            types[int(job)].append(kind)
        return {job: sorted(kinds) for job, kinds in types.items()}

    def named_containers(self, names: Sequence[str]) -> dict[str, set[int]]:
        """The jobs that are containers under one of these names, by name; OAR 3 has such."""
        return self._with_types({f"container={name}": name for name in names})

    def inner_jobs(self, names: Sequence[str]) -> Ints:
        """The jobs that run within a container of one of these names, ascending."""
        found = self._with_types({f"inner={name}": name for name in names})
        return ints(sorted(set[int]().union(*found.values())))

    def _with_types(self, names: Mapping[str, str]) -> dict[str, set[int]]:
        """The jobs that have one of these types, by what stands for it."""
        table = oar_tables.job_types.c
        jobs: defaultdict[str, set[int]] = defaultdict(set)
        every = sorted(names)
        for at in range(0, len(every), SPARSE_BLOCK):
            query = select(table.type, table.job_id)
            query = query.where(table.type.in_(every[at : at + SPARSE_BLOCK]))
            for kind, job in self._connection.execute(query):
                # A database may not tell capital letters from small ones.
                if kind in names:
                    jobs[names[kind]].add(int(job))
        return jobs

    def ids_among(self, block: Ints) -> Ints:
        """Those jobs of the block that OAR has, ascending."""
        jobs = oar_tables.jobs.c
        query = select(jobs.job_id).where(among(block, jobs.job_id))
        return np.intersect1d(bulk.read_ints(self._connection, query)[0], block)

    def pauses(self, block: Ints) -> dict[int, list[tuple[int, int]]]:
        """When the jobs of the block were Suspended or Resuming, as half-open spans.

        A pause that lasts stops at `OPEN`. OAR 3 loses Running rows, so nothing else is read.
        """
        table = oar_tables.state_logs.c
        query = select(table.job_id, table.date_start, func.coalesce(table.date_stop, 0)).where(
            among(block, table.job_id), table.job_state.in_(PAUSED)
        )
        pauses: defaultdict[int, list[tuple[int, int]]] = defaultdict(list)
        for job, start, stop in self._connection.execute(query):
            pauses[int(job)].append((int(start), int(stop) or OPEN))
        return pauses

    def requested(self, rows: JobRows) -> dict[int, int]:
        """How many resources of type default the waiting ones of the jobs ask for, where known."""
        waiting = rows.job_id[(rows.moldable == 0) & ~np.isin(rows.state, ENDED)]
        groups = self._requests.groups(self._connection, waiting) if len(waiting) else {}
        if not groups:
            return {}
        return sizes_of(groups, self.resources(properties_in(groups, self.properties)))

    def never_ran(self, block: Ints) -> Ints:
        """The jobs of the block that OAR's logs say were given up before they ran, ascending."""
        return self._launches.never_ran(self._connection, block)

    def assigned(self, rows: JobRows) -> Iterator[tuple[JobRows, Assigned]]:
        """What the jobs were assigned, in portions that fit in memory: jobs and their pairs.

        Each job that has a moldable comes once; the pairs number the jobs of their portion.
        """
        rows = rows.take(rows.moldable > 0)
        rows = rows.take(np.argsort(rows.moldable, kind="stable"))
        at = 0
        for block in id_blocks(rows.moldable):
            yield from self._portions(rows.take(slice(at, at + len(block))))
            at += len(block)

    def _portions(self, rows: JobRows) -> Iterator[tuple[JobRows, Assigned]]:
        table = oar_tables.assigned.c
        query = select(table.moldable_job_id, table.resource_id).where(
            among(rows.moldable, table.moldable_job_id)
        )
        if len(rows) > 1:
            query = query.limit(PAIRS_AT_ONCE)
        moldable, resource_id = bulk.read_ints(self._connection, query)
        if len(moldable) == PAIRS_AT_ONCE and len(rows) > 1:
            middle = len(rows) // 2
            yield from self._portions(rows.take(slice(0, middle)))
            yield from self._portions(rows.take(slice(middle, None)))
            return
        job = np.minimum(np.searchsorted(rows.moldable, moldable), len(rows) - 1)
        ours = rows.moldable[job] == moldable
        yield rows, Assigned(job[ours], resource_id[ours])

    def times_held(self, last: int, most: int) -> tuple[int, Ints, Ints]:
        """When the next *most* jobs above id *last* asked for or held resources; the last id.

        Start and stop, half-open, the walltime within; a job that has not ended stops at `OPEN`.
        Jobs that never started are left out; the last id is 0 where there is none above.
        """
        jobs, moldables = oar_tables.jobs, oar_tables.moldables
        joined = jobs.outerjoin(moldables, moldables.c.moldable_id == jobs.c.assigned_moldable_job)
        columns = jobs.c
        walltime = func.coalesce(moldables.c.moldable_walltime, 0)
        phase = case((columns.state.in_(RUNNING), 1), (columns.state.in_(ENDED), 2), else_=0)
        start, stop = (func.coalesce(each, 0) for each in (columns.start_time, columns.stop_time))
        query: Select[Any] = (
            select(columns.job_id, start, stop, walltime, phase)
            .select_from(joined)
            .where(columns.job_id > last)
            .order_by(columns.job_id)
            .limit(most)
        )
        job, begin, ended, length, where = bulk.read_ints(self._connection, query)
        started = (begin > 1) & ((where == 1) | ((where == 2) & (ended >= begin)))
        end = np.where(where == 1, OPEN, np.maximum(ended, after(begin, length)))
        return int(job[-1]) if len(job) else 0, begin[started], end[started]

    def counted(self) -> Iterator[list[tuple[int, int, str, str, str, str, int]]]:
        """The rows of OAR's own accounting, some at a time, in no order.

        Window with its last second, user, project, queue, ASKED or USED, seconds x resources.
        Raises :class:`oar_accounting.errors.OarSchemaError` where they cannot be read.
        """
        table = oar_tables.accounting
        check_columns(self._connection, table)
        query = select(*table.columns).execution_options(yield_per=ROWS_AT_ONCE)
        for rows in self._connection.execute(query).partitions():
            yield [(r[0], r[1], r[2], r[3], r[4], r[5], int(r[6])) for r in rows]

    def addresses(self) -> dict[str, list[int]]:
        """The resources of every network address."""
        table = oar_tables.resources.c
        found: defaultdict[str, list[int]] = defaultdict(list)
        for number, address in self._connection.execute(
            select(table.resource_id, table.network_address)
        ):
            if address:
                found[address].append(int(number))
        return found

    def jobs_on(self, resource_ids: Ints) -> tuple[Ints, Ints]:
        """The jobs that were assigned any of the resources, ascending, and when each was submitted.

        OAR may have no index from a resource or a moldable to a job: each table is read once.
        """
        assigned, jobs = oar_tables.assigned.c, oar_tables.jobs.c
        moldables = [ints([])]
        for some in short_lists(resource_ids):
            query = select(assigned.moldable_job_id).where(assigned.resource_id.in_(some))
            moldables.append(bulk.read_ints(self._connection, query.distinct())[0])
        wanted = np.unique(np.concatenate(moldables))
        found, last = [np.zeros((2, 0), np.int64)], 0
        columns = (
            jobs.job_id,
            func.coalesce(jobs.submission_time, 0),
            func.coalesce(jobs.assigned_moldable_job, 0),
        )
        while True:
            query = select(*columns).where(jobs.job_id > last).order_by(jobs.job_id)
            page = bulk.read_ints(self._connection, query.limit(LOOKED_THROUGH_AT_ONCE))
            if not len(page[0]):
                break
            last = int(page[0][-1])
            found.append(np.stack(page[:2])[:, np.isin(page[2], wanted)])
        job_id, submission_time = np.concatenate(found, axis=1)
        return job_id, submission_time

    def resources(self, properties: tuple[str, ...]) -> Resources:
        """All resources with the *properties*; ids ascending.

        A property that OAR does not have (``oarproperty -d``) is NULL for all of them.
        """
        table = oar_tables.resources
        known = {c.name: c for c in table.columns}
        wanted: list[ColumnElement[Any]] = [
            known.get(name, column(name)) if name in self.properties else null().label(name)
            for name in properties
        ]
        query = (
            select(table.c.resource_id, table.c.type, *wanted)
            .select_from(table)
            .order_by(table.c.resource_id)
        )
        found = self._connection.execute(query).fetchall()
        lists = [list(values) for values in zip(*found, strict=True)] if found else []
        lists = lists or [[] for _ in range(2 + len(wanted))]
        return Resources(
            resource_id=ints(lists[0]),
            type=lists[1],
            properties=dict(zip(properties, lists[2:], strict=True)),
        )

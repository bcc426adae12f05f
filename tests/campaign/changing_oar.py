"""An OAR whose rows keep changing, and beside it what must be recorded of them.

Jobs are kept as plain values as they are written into OAR's tables; what the ledger must hold is
computed from these by the plainest arithmetic (`tests.strategies.naive_totals`).
"""

import time
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from random import Random
from typing import Any

from sqlalchemy import Connection, Engine, Table, bindparam, delete, insert, update

from tests.small_oar import MOLDABLES, oar_metadata
from tests.strategies import Amounts, Job, Key, Share, Span, naive_totals

CLUSTERS, NODES, CORES = 2, 4, 4
MEMORY = 64  #: of a node
RESOURCES = CLUSTERS * NODES * CORES
#: Ids far apart: a pass settles such jobs in several transactions.
STRIDE = 5
PARTS = 3  #: each change corrects one part of the jobs that have ended
HOUR, DAY = 3_600, 86_400
USERS = ("alice", "bob", "Bob", "zoé", "o'brien")
PROJECTS = ("green", "blue")
QUEUES = ("default", "besteffort")

OWN_METRIC = "memory"


def settings(*, window: int, scale: int) -> str:
    """The TOML file of the site."""
    return (
        f'window = {window}\n[metrics.{OWN_METRIC}]\nunit = "MiB·s"\nscale = {scale}\n'
        'sum = "mem"\nper = "network_address"\n'
    )


@dataclass(slots=True, kw_only=True)
class OarJob:
    """A job as it stands in OAR, or as it stood there last."""

    job_id: int
    owner: tuple[str, str, str]
    start: int
    stop: int  #: 0 while it runs
    walltime: int
    first: int  #: its first resource, counted from 0
    count: int  #: how many resources it has
    pause: Span | None
    old: bool  #: it ended before the days that every pass compares, and stays as it is
    vanished: bool = False  #: it still ran when it was deleted
    has_own_metric: bool = True
    purged_in: int = 0  #: the window in which its amounts stand since it was purged

    @property
    def resources(self) -> list[int]:
        """The numbers of its resources, counted from 0."""
        return [(self.first + nth) % RESOURCES for nth in range(self.count)]

    def recorded(self, scale: int) -> Job:
        """What the ledger must say of it once it has ended."""
        if self.stop <= self.start:
            return Job(job_id=self.job_id)
        return Job(
            job_id=self.job_id,
            owner=self.owner,
            asked=((self.start, self.start + self.walltime),),
            used=tuple(self._used()),
            shares=tuple(self._shares(scale)),
        )

    def _used(self) -> Iterable[Span]:
        if self.pause is None:
            return [(self.start, self.stop)]
        begin, end = self.pause
        pieces = [(self.start, min(begin, self.stop)), (end, self.stop)]
        return [(start, stop) for start, stop in pieces if start < stop]

    def _shares(self, scale: int) -> Iterable[Share]:
        for cluster in range(CLUSTERS):
            held = [n for n in self.resources if n // (NODES * CORES) == cluster]
            nodes = len({n // CORES for n in held})
            amounts = {"resource": len(held), "node": nodes}
            if self.has_own_metric:
                amounts[OWN_METRIC] = nodes * MEMORY * scale
            for metric, amount in amounts.items():
                yield Share(value=f"cluster {cluster}", metric=metric, asked=amount, used=amount)


class ChangingOar:
    """OAR's tables in the database of *engine*. Between two changes a pass must complete."""

    def __init__(self, engine: Engine, chance: Random, jobs: int) -> None:
        self.jobs: dict[int, OarJob] = {}
        self.deleted: dict[int, OarJob] = {}
        self._engine = engine
        self._chance = chance
        self._metadata = oar_metadata()
        self._last = 0
        self._logs = 0
        self._metadata.create_all(engine)
        with engine.begin() as connection:
            connection.execute(insert(self._table("resources")), [*_resources()])
            self._add(connection, jobs)

    def change(self, *, added: int = 20, deleted: int = 4) -> list[int]:
        """Delete, add, end and correct some jobs; the ids of some that have changed.

        Those are deleted that stand in OAR as the last pass recorded them.
        """
        with self._engine.begin() as connection:
            self._delete(connection, self._some(self._ended(), deleted))
            self._delete(connection, self._some(self._running(), deleted // 2))
            changed = self._end(connection, self._some(self._running(), added // 3))
            changed += self._correct(connection, self._chance.randrange(PARTS))
            changed += self._add(connection, added)
        return sorted({job.job_id for job in self._some(changed, 200)})

    def expected(self, window: int, scale: int) -> Amounts:
        """What the totals must be."""
        every = [*self.jobs.values(), *self.deleted.values()]
        sums: dict[Key, list[int]] = defaultdict(lambda: [0, 0])
        for size in {job.purged_in for job in every}:
            jobs = [job.recorded(scale) for job in every if job.stop and job.purged_in == size]
            for (at, *names), amounts in naive_totals(jobs, size or window).items():
                both = sums[at // window * window, *names]  # type: ignore[index]
                both[0] += amounts[0]
                both[1] += amounts[1]
        return {key: (asked, used) for key, (asked, used) in sums.items()}

    def purged(self, ids: Iterable[int], window: int) -> None:
        """These jobs are purged, lately under this window: only the sums per window are left."""
        for job in map(self.jobs.__getitem__, ids):
            job.purged_in = job.purged_in or window

    def lose_own_metric(self) -> None:
        """It was filled under another definition: of jobs that OAR has deleted nobody knows it."""
        for job in self.deleted.values():
            job.has_own_metric = False

    def vanished(self) -> list[OarJob]:
        """The jobs that still ran when they were deleted, and of which the end is not known."""
        return [job for job in self.deleted.values() if job.vanished and not job.stop]

    # -- below --------------------------------------------------------------------------------

    def _running(self) -> list[OarJob]:
        return [job for job in self.jobs.values() if not job.stop]

    def _ended(self) -> list[OarJob]:
        """Those that every pass compares."""
        return [job for job in self.jobs.values() if job.stop and not job.old]

    def _some(self, jobs: Sequence[OarJob], count: int) -> list[OarJob]:
        return self._chance.sample(jobs, min(len(jobs), count))

    def _table(self, name: str) -> Table:
        return self._metadata.tables[name]

    def _add(self, connection: Connection, count: int) -> list[OarJob]:
        new = [self._new() for _ in range(count)]
        rows = {
            "jobs": [_job_row(job) for job in new],
            "moldable_job_descriptions": [
                {
                    "moldable_id": MOLDABLES + job.job_id,
                    "moldable_job_id": job.job_id,
                    "moldable_walltime": job.walltime,
                }
                for job in new
            ],
            "assigned_resources": [
                {"moldable_job_id": MOLDABLES + job.job_id, "resource_id": number + 1}
                for job in new
                for number in job.resources
            ],
            "job_state_logs": [row for job in new for row in self._log_rows(job)],
        }
        for name, some in rows.items():
            if some:
                connection.execute(insert(self._table(name)), some)
        self.jobs |= {job.job_id: job for job in new}
        return new

    def _new(self) -> OarJob:
        """One in five runs, one in five ended long ago, the others within the last days."""
        chance = self._chance
        self._last += chance.randint(1, 2 * STRIDE)
        kind = chance.random()
        runs, old = kind < 0.2, kind > 0.8
        first, last = (60, DAY) if runs else (10 * DAY, 40 * DAY) if old else (DAY, 4 * DAY)
        start = int(time.time()) - chance.randint(first, last)
        pauses = not runs and chance.random() < 0.2
        return OarJob(
            job_id=self._last,
            owner=(chance.choice(USERS), chance.choice(PROJECTS), chance.choice(QUEUES)),
            start=start,
            stop=0 if runs else start + chance.randint(1, 5 * HOUR),
            walltime=chance.randint(1, 6) * HOUR,
            first=chance.randrange(RESOURCES),
            count=chance.randint(1, 2 * CORES),
            pause=(start + 100, start + 300) if pauses else None,
            old=old,
        )

    def _log_rows(self, job: OarJob) -> Iterable[dict[str, Any]]:
        if job.pause is not None:
            self._logs += 1
            yield {
                "job_state_log_id": self._logs,
                "job_id": job.job_id,
                "job_state": "Suspended",
                "date_start": job.pause[0],
                "date_stop": job.pause[1],
            }

    def _end(self, connection: Connection, jobs: list[OarJob]) -> list[OarJob]:
        for job in jobs:
            job.stop = int(time.time())
        self._write_stops(connection, jobs)
        return jobs

    def _correct(self, connection: Connection, part: int) -> list[OarJob]:
        """Other stop times for one part of the jobs that have ended."""
        jobs = [job for job in self._ended() if job.job_id % PARTS == part]
        for job in jobs:
            job.stop = job.start + self._chance.randint(1, 5 * HOUR)
        self._write_stops(connection, jobs)
        return jobs

    def _write_stops(self, connection: Connection, jobs: list[OarJob]) -> None:
        if jobs:
            table = self._table("jobs")
            own = table.c.job_id == bindparam("own")
            statement = update(table).where(own).values(state="Terminated")
            rows = [{"own": job.job_id, "stop": job.stop} for job in jobs]
            connection.execute(statement.values(stop_time=bindparam("stop")), rows)

    def _delete(self, connection: Connection, jobs: list[OarJob]) -> None:
        for job in jobs:
            job.vanished = not job.stop
            self.deleted[job.job_id] = self.jobs.pop(job.job_id)
        ids = [job.job_id for job in jobs]
        moldables = [MOLDABLES + number for number in ids]
        for name, column, gone in (
            ("assigned_resources", "moldable_job_id", moldables),
            ("moldable_job_descriptions", "moldable_id", moldables),
            ("job_state_logs", "job_id", ids),
            ("jobs", "job_id", ids),
        ):
            table = self._table(name)
            connection.execute(delete(table).where(table.c[column].in_(gone)))


def _resources() -> Iterable[dict[str, Any]]:
    for number in range(RESOURCES):
        yield {
            "resource_id": number + 1,
            "type": "default",
            "network_address": f"node-{number // CORES}",
            "cluster": f"cluster {number // (NODES * CORES)}",
            "core": number + 1,
            "mem": MEMORY,
        }


def _job_row(job: OarJob) -> dict[str, Any]:
    user, project, queue = job.owner
    return {
        "job_id": job.job_id,
        "job_user": user,
        "project": project,
        "queue_name": queue,
        "state": "Terminated" if job.stop else "Running",
        "submission_time": job.start - 60,
        "start_time": job.start,
        "stop_time": job.stop,
        "assigned_moldable_job": MOLDABLES + job.job_id,
        "suspended": "NO" if job.pause is None else "YES",
    }

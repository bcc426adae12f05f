"""A site that has been recorded for years: jobs that ended long ago, and what they amount to."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

from sqlalchemy import Engine, func, select, update

from oar_accounting.ledger import schema
from oar_accounting.ledger.ledger import Ledger
from tests.small_oar import DAY, HOUR, T0, SmallOar, opened
from tests.strategies import (
    Amounts,
    Job,
    Share,
    naive_days,
    naive_totals,
    stored_days,
    stored_totals,
)

#: A metric that counts what `resource` counts.
CORE = '[metrics.core]\ndistinct = "core"\nunit = "core·s"\n'


class OldSite:
    """An OAR, its accounting, and its jobs as the plainest arithmetic has them.

    A job runs on one cluster and has the first *cores* of the eight cores of two nodes.
    """

    def __init__(self, engine: Engine, toml: str = "") -> None:
        self.engine = engine
        self.oar = SmallOar(engine)
        self.accounting = opened(engine, toml)
        self.jobs: dict[int, Job] = {}
        self.window = self.accounting.settings.window

    def add_job(  # noqa: PLR0913 - a job has many sides
        self,
        days: int,
        *,
        user: str = "bob",
        project: str = "default",
        cores: int = 1,
        seconds: int = HOUR,
        walltime: int = 2 * HOUR,
        metrics: tuple[str, ...] = (),
        **more: Any,
    ) -> int:
        """Add a job that began so many days before `T0`, and counts in these metrics too; its id.

        It is in the arithmetic from now on, whether it is recorded or not.
        """
        start = T0 - days * DAY
        number = self.oar.add_job(
            user=user,
            project=project,
            cores=cores,
            start=start,
            stop=start + seconds,
            walltime=walltime,
            **more,
        )
        held = {"resource": cores, "node": -(-cores // 4), **dict.fromkeys(metrics, cores)}
        self.jobs[number] = Job(
            job_id=number,
            owner=(user, project, "default"),
            asked=((start, start + walltime),),
            used=((start, start + seconds),),
            shares=tuple(
                Share(value="alpha", metric=name, asked=rate, used=rate)
                for name, rate in held.items()
            ),
        )
        return number

    def rename(self, user: str, pseudonym: str) -> None:
        """Let the arithmetic know a user by another name."""
        for number, job in self.jobs.items():
            if job.owner[0] == user:
                self.jobs[number] = replace(job, owner=(pseudonym, *job.owner[1:]))

    def reopen(self, toml: str = "") -> None:
        """Other settings, as the next command would read them."""
        self.accounting = opened(self.engine, toml)

    def check(self) -> None:
        """The law holds, and the totals are those of the arithmetic, window by window."""
        assert self.accounting.verify() == []
        assert self.totals() == self.right()
        ledger = Ledger(self.accounting.engine, self.accounting.settings.site)
        assert stored_days(ledger) == naive_days(self.right(), self.window)

    def totals(self) -> Amounts:
        """The totals as they stand."""
        return stored_totals(Ledger(self.accounting.engine, self.accounting.settings.site))

    def right(self) -> Amounts:
        """The totals of the arithmetic."""
        return naive_totals(self.jobs.values(), self.window)


def row_counts(engine: Engine) -> dict[str, int]:
    """How many rows stand in the tables that grow with the jobs."""
    with engine.connect() as connection:
        return {
            table.name.removeprefix("accounting_"): connection.execute(
                select(func.count()).select_from(table)
            ).scalar_one()
            for table in (schema.jobs, schema.spans, schema.rates, schema.entries, schema.totals)
        }


def closed_of(engine: Engine) -> dict[int, int]:
    """What ``closed`` says of every recorded job of every site."""
    table = schema.jobs.c
    with engine.connect() as connection:
        query = select(table.job_id, table.closed).where(table.job_id != schema.CARRIED)
        return {row[0]: row[1] for row in connection.execute(query)}


def texts(engine: Engine) -> Iterator[tuple[str, str]]:
    """Every text in our tables, with the column in which it stands."""
    with engine.connect() as connection:
        for table in schema.metadata.sorted_tables:
            for row in connection.execute(select(table)).mappings():
                for name, value in row.items():
                    if isinstance(value, str):
                        yield f"{table.name}.{name}", value


def places_of(engine: Engine, name: str) -> set[str]:
    """The columns in which the name stands, in whatever way a text may quote it."""
    written = {name, repr(name)[1:-1]}
    return {place for place, value in texts(engine) if any(each in value for each in written)}


def tamper(engine: Engine) -> None:
    """Put wrong figures in the place of every total."""
    with engine.begin() as connection:
        for table in schema.SUMMED:
            connection.execute(update(table).values(used=table.c.used + 1, asked=0))


def once(work: Callable[[], object]) -> Callable[[int, int], None]:
    """A progress callback that does something at its first call."""
    left = [work]

    def progress(*_: int) -> None:
        if left:
            left.pop()()

    return progress

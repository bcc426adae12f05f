"""One database under attack: an OAR and its accounting, the commands, and what must hold after."""

import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from random import Random
from typing import Any

from sqlalchemy import Engine, NullPool, create_engine, event, make_url, select

from oar_accounting.database import dialects
from oar_accounting.ledger import catalog, schema
from oar_accounting.ledger.ledger import Ledger
from tests.campaign.changing_oar import DAY, HOUR, OWN_METRIC, ChangingOar, settings
from tests.campaign.commands import Commands, Running, check
from tests.campaign.killable import KillableServer, Sessions
from tests.campaign.looks import Look, LookAtMariaDB, LookAtPostgreSQL, LookAtSQLite
from tests.servers import Kind, SQLiteServer
from tests.strategies import stored_totals

SITE = "oar"
WINDOWS = (DAY, 6 * HOUR)
SCALES = (1, 1000)


@dataclass(slots=True)
class Counts:
    """What was done on one database."""

    kills: int = 0  #: commands killed while they ran
    inside: int = 0  #: of which inside an open write transaction
    rounds: int = 0  #: commands begun, to be killed or to race
    refusals: int = 0  #: commands that could not finish, and said so
    checks: int = 0  #: times that the next run completed and everything was compared
    differences: int = 0
    seconds: float = 0.0
    failure: str = ""
    by_command: dict[str, int] = field(default_factory=dict)  #: kills

    def as_dict(self) -> dict[str, Any]:
        """For a program."""
        return asdict(self)


class Stage:
    """A database with an OAR of so many *jobs*, all of them recorded."""

    def __init__(  # noqa: PLR0913 - what one database has
        self,
        kind: Kind,
        url: str,
        server: KillableServer | None,
        directory: Path,
        chance: Random,
        jobs: int,
    ) -> None:
        self.kind = kind
        self.url = url
        self.server = server
        self.directory = directory
        self.chance = chance
        self.counts = Counts()
        self.config = directory / "accounting.toml"
        self.window, self.scale = WINDOWS[0], SCALES[0]
        self.declare()
        self.commands = Commands(url, self.config, directory)
        self.engine = open_engine(url)
        self.sessions = None if server is None else Sessions(server.server, url)
        self.look = _look(kind, url, self.sessions)
        self._ledger = Ledger(self.engine, SITE)
        self._recorded_scale = self.scale
        self._last_pass: int | None = None
        self.oar = ChangingOar(self.engine, chance, jobs)
        self.commands.complete("init")
        self.settle()

    def declare(self, *, window: int | None = None, scale: int | None = None) -> None:
        """Say in the settings which window and which scale the site wants from now on."""
        self.window, self.scale = window or self.window, scale or self.scale
        text = settings(window=self.window, scale=self.scale)
        self.config.write_text(text, encoding="utf-8")

    def other_window(self) -> None:
        """Want the window that is not wanted now."""
        self.declare(window=next(each for each in WINDOWS if each != self.window))

    def other_scale(self) -> None:
        """Want the own metric in the scale that is not wanted now."""
        self.declare(scale=next(each for each in SCALES if each != self.scale))

    # -- what must hold -----------------------------------------------------------------------

    def settle(self, *, any_end: bool = False) -> None:
        """The next run completes, `verify` holds, and the totals are what OAR's rows give.

        With *any_end* a job that vanished while it ran may be recorded up to any instant until
        now, because the clock of a pass was wrong.
        """
        if self.sessions is not None:
            self.sessions.await_end()
        before = self._last_pass
        left = self.commands.complete("catch-up")
        check("nothing to do here" not in left.out, f"nobody else is at work\n{left}")
        self.verify()
        self._compare(before, any_end)
        self.counts.checks += 1

    def verify(self) -> None:
        """The law holds."""
        left = self.commands.run("verify")
        if left.code != 0:
            self.counts.differences += 1
            check(False, f"the law does not hold\n{left}")

    def _compare(self, before: int | None, any_end: bool) -> None:
        with self._ledger.reading() as (connection, site):
            assert site is not None
            metrics = catalog.stored_metrics(connection, site.site_id)
            table = schema.jobs.c
            vanished = select(table.job_id, table.stop_time).where(table.state == schema.VANISHED)
            ends = {row.job_id: row.stop_time for row in connection.execute(vanished)}
            purged = select(table.job_id).where(table.closed == schema.PURGED_JOB)
            self.oar.purged(connection.execute(purged).scalars(), site.terms.window)
        self._last_pass = site.last_pass
        (own,) = (m for m in metrics if m.metric.name == OWN_METRIC and m.state == schema.ACTIVE)
        for job in self.oar.vanished():
            check(job.job_id in ends, f"job {job.job_id} was deleted and is not closed")
            job.stop = int(ends[job.job_id])
            right = max(job.start, before or 0)
            if any_end:
                check(job.start <= job.stop <= time.time(), f"in the future: {job}")
            else:
                check(job.stop == right, f"{job} should end at {right}")
        if own.metric.scale != self._recorded_scale:
            self.oar.lose_own_metric()
        self._recorded_scale = own.metric.scale
        expected = self.oar.expected(site.terms.window, own.metric.scale)
        # A metric that is being built is in the totals, and hidden.
        found = {k: v for k, v in stored_totals(self._ledger).items() if not k[2].endswith("*")}
        if found != expected:
            wrong = [k for k in found.keys() | expected.keys() if found.get(k) != expected.get(k)]
            self.counts.differences += len(wrong)
            key = min(wrong)
            check(
                False,
                f"{len(wrong)} totals differ from OAR's rows, the first at {key}: "
                f"{found.get(key)}, not {expected.get(key)}",
            )

    # -- getting inside -----------------------------------------------------------------------

    def stopped_inside(self, running: Running, misses: int = 0) -> bool:
        """Stop a command inside an open write transaction; false where it ended before.

        Not always at the first look that finds it there: that would be before it has written much.
        Each of the *misses* before halves the number of looks and the time between them.
        """
        left = self.chance.randint(1, max(1, self.look.most >> misses))
        interval = max(0.002, self.look.interval / 2**misses)
        while running.runs:
            time.sleep(self.chance.uniform(0.002, interval))
            if not running.stop():
                break
            left -= self.look.inside()
            if not left:
                return True
            running.go_on()
        return False

    @contextmanager
    def locked(self) -> Iterator[None]:
        """While another transaction holds the lock of the site."""
        options = {"oar_writes": self.kind == "sqlite"}
        with self.engine.connect().execution_options(**options) as connection, connection.begin():
            connection.execute(select(schema.sites.c.site_id).with_for_update())
            yield


def open_engine(url: str) -> Engine:
    """An engine of the campaign's own: it keeps no connection that a server would still show."""
    options: dict[str, Any] = {"connect_args": {"timeout": 60}} if "sqlite" in url else {}
    engine = create_engine(url, poolclass=NullPool, **options)
    if engine.dialect.name == "sqlite":
        event.listen(engine, "connect", _own_transactions)
    dialects.prepare(engine)
    return engine


def _own_transactions(connection: Any, _record: object) -> None:
    connection.isolation_level = None


def _look(kind: Kind, url: str, sessions: Sessions | None) -> Look:
    if sessions is None:
        return LookAtSQLite(str(make_url(url).database))
    return LookAtPostgreSQL(sessions) if kind == "postgresql" else LookAtMariaDB(sessions)


@contextmanager
def opened_stage(kind: Kind, directory: Path, chance: Random, jobs: int) -> Iterator[Stage]:
    """A stage on a server of its own, which is gone afterwards.

    Raises :class:`tests.servers.MissingServerError`.
    """
    with ExitStack() as stack:
        if kind == "sqlite":
            files = SQLiteServer("sqlite", f"sqlite:///{directory}", "", "", directory)
            yield Stage(kind, files.create_database(), None, directory, chance, jobs)
        else:
            server = KillableServer(kind, stack)
            url = server.server.create_database()
            yield Stage(kind, url, server, directory, chance, jobs)

"""OAR 3 itself: its models and schema read, its accounting compared, its modules calling the hook.

It is not on the package index. Where it is installed beside this library, its own scheduler and
modules let some jobs live here, on its own tables; elsewhere these tests are skipped.
"""

import fcntl
import importlib
import os
import secrets
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Engine, create_engine, text
from sqlalchemy.types import Enum

from tests.database.oar.test_oar_schema import ALL_VERBS, CORE, TABLES, reader
from tests.oar3_site import (
    CHALLENGE,
    Oar3Site,
    create_from_models,
    create_from_schema_file,
    oar3,
    schema_file,
)
from tests.servers import Database
from tests.small_oar import DAY, HOUR, T0, Clock, Recorded, opened, recorded, stopped_clock

pytestmark = [pytest.mark.oar3, pytest.mark.slow]

#: An hour before midnight UTC, so that jobs lie in two windows.
S = T0 + 23 * HOUR
LICENCE = '[metrics.licence]\ncount = true\ntype = "licence"\nunit = "licence·s"\n'


@pytest.fixture(autouse=True)
def clock(tmp_path: Path) -> Iterator[Clock]:
    """The clock of the verbs and of OAR; nobody hears what OAR tells its other processes."""
    with stopped_clock() as stopped, pytest.MonkeyPatch.context() as patch:
        # Not the settings and the log of an OAR that this machine may have.
        (tmp_path / "quiet.conf").write_text('LOG_LEVEL="0"\n', encoding="utf-8")
        patch.setenv("OARCONFFILE", str(tmp_path / "quiet.conf"))
        tools = oar3().tools
        patch.setattr(tools, "get_date", lambda session: stopped.now)
        for name in (
            *("create_almighty_socket", "notify_almighty", "notify_bipbip_commander"),
            *("notify_tcp_socket", "signal_oarexec", "send_log_by_email"),
        ):
            patch.setattr(tools, name, lambda *_: "")
        stopped.now = S
        yield stopped


@pytest.fixture
def site(engine: Engine, clock: Clock) -> Oar3Site:
    """OAR 3 on the tables of its models."""
    create_from_models(engine)
    return Oar3Site(engine, clock)


@pytest.fixture
def own_site(engine: Engine, clock: Clock) -> Oar3Site:
    """OAR 3 on the tables of its own PostgreSQL schema file."""
    file = schema_file()
    if file is None:
        pytest.skip(
            "no setup/database/pg_structure.sql beside the installed OAR 3; "
            "set OAR_ACCOUNTING_TEST_OAR3 to a checkout of it"
        )
    create_from_schema_file(engine, file)
    return Oar3Site(engine, clock)


sqlite_and_postgresql = pytest.mark.databases("sqlite", "postgresql")
postgresql = pytest.mark.databases("postgresql")

# -- jobs that live ---------------------------------------------------------------------------


def live(site: Oar3Site, after_each: Callable[[], object] = lambda: None) -> None:
    """A job of each fate, of a user each; *after_each* is called when something has happened."""

    def at(seconds: int) -> None:
        after_each()
        site.clock.now = S + seconds

    alice = site.submit("alice")
    bob = site.submit("bob", "resource_id=2")
    lea = site.submit("l'éa", "resource_id=1", licences=1)
    noor = site.submit("noor", "resource_id=1", types=["noop"])
    nicole = site.submit("nicole", "", licences=1)
    site.schedule()
    site.launch(alice, bob, lea, noor, nicole)
    zoe = site.submit("zoe", "resource_id=8")
    at(50)
    site.schedule()
    site.kill(zoe)
    at(100)
    site.kill(lea)
    site.end(lea, error=3, exit_code="N")
    site.handle_events()
    at(500)
    site.kill(noor)
    at(600)
    site.suspend(bob)
    at(900)
    site.set_state(bob, "Resuming")
    at(960)
    site.set_state(bob, "Running")
    at(HOUR)
    site.end(alice)
    at(HOUR + 30)
    site.handle_events()
    at(2 * HOUR)
    cora = site.submit("cora", "network_address=1", types=["container"])
    ida = site.submit("ida", "resource_id=1", types=["idempotent"])
    mo = site.submit("mo", "resource_id=8", "resource_id=1", walltime=HOUR)
    site.schedule()
    site.launch(cora, ida, mo)
    ines = site.submit("ines", "resource_id=2", types=[f"inner={cora}"], walltime=HOUR // 2)
    at(2 * HOUR + 100)
    site.end(ida, exit_code=str(99 << 8))
    site.handle_events()
    site.schedule()
    ida_again = site.job_of("ida")
    assert ida_again != ida
    site.launch(ines, ida_again)
    at(2 * HOUR + 200)
    site.change_walltime(mo, 3 * HOUR)
    site.end(bob)
    site.handle_events()
    nil = site.submit("nil", "resource_id=1")
    site.schedule()
    site.launch(nil)
    site.end(nil, error=10)
    site.handle_events()
    at(3 * HOUR)
    for job in (ines, cora, ida_again):
        site.end(job)
    at(3 * HOUR + 50)
    site.handle_events()
    at(4 * HOUR)
    site.end(nicole)
    site.end(mo)
    site.handle_events()
    emil = site.submit("emil", "network_address=2")
    site.schedule()
    site.launch(emil)
    at(4 * HOUR + 100)
    site.kill(emil)
    site.exterminate(emil)
    at(4 * HOUR + 150)
    site.leon(str(emil))
    site.handle_events()
    at(2 * DAY)
    assert set(site.states().values()) == {"Terminated", "Error"}


#: Asked and used, in resource-seconds, of the resources of type default.
AMOUNTS = {
    "alice": (4 * 2 * HOUR, 4 * HOUR),
    "bob": (2 * 2 * HOUR, 2 * (2 * HOUR + 200 - 360)),
    "cora": (4 * 2 * HOUR, 4 * HOUR),
    "emil": (8 * 2 * HOUR, 8 * 100),
    "ida": (2 * 2 * HOUR, HOUR),
    "l'éa": (2 * HOUR, 100),
    "mo": (3 * HOUR, 2 * HOUR),
    "noor": (2 * HOUR, 500),
}
LICENCES = {"l'éa": (2 * HOUR, 100), "nicole": (2 * HOUR, 4 * HOUR)}


@dataclass(frozen=True, slots=True)
class Difference:
    """What the default reading takes from the jobs of a user, and why."""

    why: str
    asked: int
    used: int


#: Of nicole's job OAR 3 tells nothing, and so does ``classic``: it had no resource of type default.
DIFFERENCES = {
    "bob": Difference("suspended (OAR 3's bug 8)", 0, 2 * 360),
    "ines": Difference("within a container (bug 8)", 2 * (HOUR // 2), 2 * (HOUR - 100)),
    "nil": Difference("never ran", 2 * HOUR, 0),
}
CLASSIC = {
    user: (asked + gone.asked, used + gone.used)
    for user in sorted({*AMOUNTS, *DIFFERENCES})
    for asked, used in [AMOUNTS.get(user, (0, 0))]
    for gone in [DIFFERENCES.get(user, Difference("", 0, 0))]
}


def some(amounts: dict[str, tuple[int, int]]) -> dict[str, tuple[int, int]]:
    """The amounts that are not all nothing."""
    return {name: each for name, each in amounts.items() if each != (0, 0)}


def check_that_lives_are_recorded(site: Oar3Site) -> None:
    """Pass after pass while they live, and again from nothing when they are over."""
    toml = CORE + LICENCE
    accounting = opened(site.engine, toml, site="while they live")
    seen_open = set()

    def catch_up() -> None:
        report = accounting.catch_up()
        assert report.problems == ()
        assert accounting.verify() == []
        seen_open.add(report.open)

    live(site, catch_up)
    catch_up()
    living = Recorded(accounting)
    assert some(living.by("user")) == AMOUNTS
    assert living.by("user", "core") == living.by("user")
    assert some(living.by("user", "licence")) == LICENCES
    assert max(seen_open) == 6  # bob, nicole, cora, ines, mo and ida's second
    assert accounting.usage().open_jobs == 0
    assert accounting.catch_up(full=True).changed == 0
    afterwards = recorded(site.engine, toml, site="afterwards")
    assert afterwards.everything() == living.everything()


@sqlite_and_postgresql
def test_lives_on_the_tables_of_oar_3s_models_are_recorded(site: Oar3Site) -> None:
    check_that_lives_are_recorded(site)


@postgresql
def test_lives_on_the_tables_of_oar_3s_schema_file_are_recorded(own_site: Oar3Site) -> None:
    check_that_lives_are_recorded(own_site)


@postgresql
def test_the_schema_file_has_enumerated_types(own_site: Oar3Site) -> None:
    """Guards the test above: without them it would repeat the one before."""
    tables = own_site.tables().tables
    assert isinstance(tables["jobs"].c.state.type, Enum)
    assert isinstance(tables["assigned_resources"].c.assigned_resource_index.type, Enum)


@sqlite_and_postgresql
def test_the_scheduler_leaves_what_must_not_be_read(site: Oar3Site) -> None:
    """Guards the tests above: a start that was only predicted, old times, and no Running rows."""
    live(site)
    with site.engine.connect() as connection:
        jobs = connection.execute(text("SELECT * FROM jobs")).mappings().all()
        states = connection.execute(text("SELECT job_state FROM job_state_logs")).scalars()
        ran = [state for state in states if state == "Running"]
    killed = next(job for job in jobs if job["job_user"] == "zoe")
    assert killed["start_time"] == killed["stop_time"] > S
    twice = [job for job in jobs if job["job_user"] == "ida"]
    assert len({job["submission_time"] for job in twice}) == 1
    assert len(ran) == 1  # bob's, after his pause


# -- OAR 3's own accounting -------------------------------------------------------------------

Key = tuple[int, str, str, str]  # start of the window, user, project, queue


def oaraccounting(site: Oar3Site) -> dict[Key, tuple[int, int]]:
    """Asked and used by window and account, as OAR 3's table has them."""
    amounts: defaultdict[Key, dict[str, int]] = defaultdict(dict)
    with site.engine.connect() as connection:
        for row in connection.execute(text("SELECT * FROM accounting")).mappings():
            names = (row["accounting_user"], row["accounting_project"], row["queue_name"])
            amounts[row["window_start"], *names][row["consumption_type"]] = row["consumption"]
    return {key: (each.get("ASKED", 0), each.get("USED", 0)) for key, each in amounts.items()}


def totals(recorded_site: Recorded) -> dict[Key, tuple[int, int]]:
    """The same of our totals."""
    return {
        (start, user, project, queue): (asked, used)
        for start, (user, project, queue, _), metric, asked, used in recorded_site.everything()[
            "totals"
        ]
        if metric == "resource"
    }


def by_user(amounts: dict[Key, tuple[int, int]]) -> dict[str, tuple[int, int]]:
    """The sums of each user."""
    users: dict[str, tuple[int, int]] = {}
    for (_, user, _, _), (asked, used) in amounts.items():
        before = users.get(user, (0, 0))
        users[user] = (before[0] + asked, before[1] + used)
    return users


def classic(site: Oar3Site, window: int = DAY) -> Recorded:
    """What is recorded in the reading of OAR."""
    toml = f'profile = "classic"\nwindow = {window}\ndimension = ""\n'
    return recorded(site.engine, toml, site=f"classic {window}")


@sqlite_and_postgresql
@pytest.mark.parametrize("window", [DAY, HOUR])
def test_classic_is_what_oar_3_accounts_of_jobs_that_are_all_over(
    site: Oar3Site, window: int
) -> None:
    live(site)
    site.account(window)
    assert totals(classic(site, window)) == oaraccounting(site)
    assert by_user(oaraccounting(site)) == CLASSIC


@postgresql
def test_classic_is_what_oar_3_accounts_on_its_own_schema(own_site: Oar3Site) -> None:
    live(own_site)
    own_site.account()
    assert totals(classic(own_site)) == oaraccounting(own_site)


@sqlite_and_postgresql
def test_the_default_reading_differs_at_the_named_users_only(site: Oar3Site) -> None:
    live(site)
    default = some(recorded(site.engine).by("user"))
    assert default == AMOUNTS
    assert classic(site).by("user") == CLASSIC


#: What OAR 3 loses when its accounting runs while jobs live, as cron makes it do every hour: all
#: that lived when another job was accounted are flagged with it (bug 1). Of ida's, the second job.
LOST = {"alice", "bob", "cora", "ida", "ines", "mo", "noor"}


@sqlite_and_postgresql
def test_jobs_that_oar_3_loses_by_accounting_while_others_live_are_recorded(site: Oar3Site) -> None:
    live(site, site.account)
    site.account()
    kept = {user: amounts for user, amounts in CLASSIC.items() if user not in LOST}
    assert by_user(oaraccounting(site)) == kept | {"ida": (2 * HOUR, 100)}
    assert classic(site).by("user") == CLASSIC


@sqlite_and_postgresql
def test_a_job_resubmitted_after_it_was_accounted_is_recorded(site: Oar3Site) -> None:
    """OAR 3 copies the flag with the job, and never accounts the copy (bug 9)."""
    job = site.submit("ida", "resource_id=1")
    for seconds in (100, 1_000):
        site.schedule()
        site.launch(job)
        site.clock.now += seconds
        site.end(job)
        site.handle_events()
        site.account()
        job = site.resubmit(job)
    assert by_user(oaraccounting(site)) == {"ida": (2 * HOUR, 100)}
    assert some(recorded(site.engine).by("user")) == {"ida": (2 * 2 * HOUR, 1_100)}


@sqlite_and_postgresql
def test_jobs_that_oar_3_deletes_with_a_resource_are_kept_and_reported(site: Oar3Site) -> None:
    live(site)
    site.submit("alice")  # so that OAR's highest job is not among those deleted
    accounting = opened(site.engine)
    accounting.catch_up()
    before = Recorded(accounting).everything()
    gone = site.remove_resource(8)
    report = accounting.catch_up(full=True)
    assert len(gone) == 3
    assert [notice.partition(",")[0] for notice in report.notices] == [
        "recorded jobs that are no longer in OAR: 3"
    ]
    assert Recorded(accounting).everything() == before


# -- the rights that are needed ---------------------------------------------------------------


@postgresql
def test_select_is_all_that_oar_3_must_grant(own_site: Oar3Site, database: Database) -> None:
    live(own_site)
    before = own_site.everything()
    with reader(own_site.engine, TABLES) as url:
        reading = create_engine(url)
        with opened(reading, f'url = "{database.other()}"\n' + CORE) as accounting:
            for verb in ALL_VERBS:
                verb(accounting)
            assert some(Recorded(accounting).by("user")) == AMOUNTS
        reading.dispose()
    assert own_site.everything() == before


# -- the hook ---------------------------------------------------------------------------------

HOOK = Path(__file__).parents[3] / "hooks" / "server_epilogue"
#: Longer than any machine takes to record one job.
PATIENCE = 60.0


@dataclass(frozen=True, slots=True)
class Running:
    """OAR 3 with the hook in its oar.conf; its modules run as the processes that they are there."""

    site: Oar3Site
    environ: dict[str, str]
    state: Path
    almighty: Any
    recorded: Recorded

    def run(self, module: str, *arguments: object) -> None:
        """Run a module as its parent does: with pipes, and until these are closed."""
        command = [sys.executable, "-m", f"oar.modules.{module}", *map(str, arguments)]
        done = subprocess.run(
            command, env=self.environ, capture_output=True, text=True, timeout=PATIENCE
        )
        assert done.stdout == ""
        assert "trouble" not in done.stderr, done.stderr
        assert "Cannot run" not in done.stderr, done.stderr
        assert "epilogue" not in done.stderr.replace(str(HOOK), ""), done.stderr

    def heard(self) -> list[str]:
        """What almighty has been told since this was last asked."""
        commands = []
        while self.almighty.poll(500):
            commands.append(self.almighty.recv_json()["cmd"])
        return commands

    @contextmanager
    def nobody_works(self) -> Iterator[None]:
        """Hold back the worker of the hook, and wait for one that is at work."""
        with (self.state / "working").open("a") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield

    def row(self, job: int) -> dict[str, Any]:
        """The job as OAR has it."""
        query = text("SELECT * FROM jobs WHERE job_id = :job")
        with self.site.engine.connect() as connection:
            return dict(connection.execute(query, {"job": job}).mappings().one())

    def events(self, job: int) -> set[str]:
        """The types of the events of a job."""
        query = text("SELECT type FROM event_logs WHERE job_id = :job")
        with self.site.engine.connect() as connection:
            return set(connection.execute(query, {"job": job}).scalars())

    def await_record(self, job: int) -> None:
        """Wait until the ledger has the job closed, as OAR has it; nobody runs a command."""
        deadline = time.monotonic() + PATIENCE
        while not self.recorded.jobs()[job]["closed"]:
            assert time.monotonic() < deadline, "the job was not recorded"
            time.sleep(0.1)
        theirs, ours = self.row(job), self.recorded.jobs()[job]
        assert ours["stop_time"] == theirs["stop_time"] > theirs["start_time"]
        assert self.recorded.used() == 4 * (theirs["stop_time"] - theirs["start_time"])


@pytest.fixture
def running(own_site: Oar3Site, tmp_path: Path) -> Iterator[Running]:
    """OAR 3 as its own user of the database, who also owns our tables."""
    with owner(own_site.engine) as engine, almighty() as (address, socket):
        url = engine.url
        state = tmp_path / "state"
        state.mkdir()
        (tmp_path / "accounting.toml").write_text(CORE, encoding="utf-8")
        conf = {
            "DB_TYPE": "Pg",
            "DB_HOSTNAME": url.host,
            "DB_PORT": url.port,
            "DB_BASE_NAME": url.database,
            "DB_BASE_LOGIN": url.username,
            "DB_BASE_PASSWD": url.password,
            "SERVER_HOSTNAME": address,
            "SERVER_EPILOGUE_EXEC_FILE": HOOK,
            "CPUSET_PATH": "/oar",
            "LOG_LEVEL": 1,
        }
        lines = "".join(f'{key}="{value}"\n' for key, value in conf.items())
        (tmp_path / "oar.conf").write_text(lines, encoding="utf-8")
        environ = {
            **os.environ,
            "OARCONFFILE": str(tmp_path / "oar.conf"),
            "OAR_ACCOUNTING_CONF": str(tmp_path / "accounting.toml"),
            "OAR_ACCOUNTING_PYTHON": sys.executable,
            "OAR_ACCOUNTING_STATE": str(state),
            "OAR_ACCOUNTING_DELAY": "0",
        }
        server = Running(own_site, environ, state, socket, Recorded(opened(engine, CORE)))
        yield server
        with server.nobody_works():
            pass


@contextmanager
def owner(engine: Engine) -> Iterator[Engine]:
    """An engine for a role that may do in this database what OAR's own does."""
    role = f"oar_{secrets.token_hex(4)}"
    with engine.begin() as connection:
        connection.exec_driver_sql(f"CREATE ROLE {role} LOGIN PASSWORD '{role}'")
        for what in (
            "CREATE ON SCHEMA",
            "ALL ON ALL TABLES IN SCHEMA",
            "ALL ON ALL SEQUENCES IN SCHEMA",
        ):
            connection.exec_driver_sql(f"GRANT {what} public TO {role}")
    theirs = create_engine(engine.url.set(username=role, password=role))
    try:
        yield theirs
    finally:
        theirs.dispose()
        with engine.begin() as connection:
            connection.exec_driver_sql(f"DROP OWNED BY {role}")
            connection.exec_driver_sql(f"DROP ROLE {role}")


@contextmanager
def almighty() -> Iterator[tuple[str, Any]]:
    """An address, and the socket on which the others tell almighty what has happened."""
    zmq = importlib.import_module("zmq")
    # OAR 3 fails where oar.conf sets the port, so the address is one that nobody else has.
    address = "127." + ".".join(str(1 + secrets.randbelow(254)) for _ in range(3))
    with zmq.Context() as context, closing(context.socket(zmq.PULL)) as socket:
        socket.bind(f"tcp://{address}:6670")
        yield address, socket


@dataclass(frozen=True, slots=True)
class End:
    """A way in which a job ends, what almighty hears of it, and what the job is then."""

    types: tuple[str, ...]
    by: Callable[[Running, int], None]
    heard: tuple[str, ...]
    events: frozenset[str]
    state: str


def killed(running: Running, job: int) -> None:
    running.site.kill(job)
    running.run("bipbip", job, 3, "N", CHALLENGE)


def noop_killed(running: Running, job: int) -> None:
    with running.site.process() as session:
        oar3().jobs.frag_job(session, job, "oar")
    running.run("leon")


def exterminated(running: Running, job: int) -> None:
    running.site.kill(job)
    running.site.clock.now = int(time.time())
    running.site.exterminate(job)
    running.run("leon", job)


ENDS = {
    "of itself": End(
        types=(),
        by=lambda running, job: running.run("bipbip", job, 0, 0, CHALLENGE),
        heard=("ChState", "Term", "BipBip"),
        events=frozenset({"SWITCH_INTO_TERMINATE_STATE"}),
        state="Terminated",
    ),
    "killed": End(
        types=(),
        by=killed,
        heard=("ChState", "BipBip"),
        events=frozenset({"FRAG_JOB_REQUEST", "SEND_KILL_JOB", "SWITCH_INTO_ERROR_STATE"}),
        state="Error",
    ),
    "noop": End(
        types=("noop",),
        by=noop_killed,
        heard=("ChState",),
        events=frozenset({"FRAG_JOB_REQUEST"}),
        state="Terminated",
    ),
    "exterminated": End(
        types=(),
        by=exterminated,
        heard=("ChState", "ChState"),
        events=frozenset({"FRAG_JOB_REQUEST", "SEND_KILL_JOB", "EXTERMINATE_JOB"}),
        state="Error",
    ),
}


@postgresql
@pytest.mark.parametrize("end", ENDS.values(), ids=ENDS)
def test_oar_3_has_a_job_recorded_when_it_ends_and_does_not_wait_for_it(
    running: Running, clock: Clock, end: End
) -> None:
    clock.now = int(time.time()) - 100
    job = running.site.submit("alice", types=end.types)
    running.site.schedule()
    running.site.launch(job)
    running.recorded.accounting.catch_up()
    with running.nobody_works():
        end.by(running, job)
        assert running.heard() == list(end.heard)
        assert running.events(job) == end.events
        assert running.recorded.jobs()[job]["state"] == "Running"
    running.await_record(job)
    before = running.recorded.amounts()
    running.run("node_change_state")
    assert running.row(job)["state"] == end.state
    assert not {event for event in running.events(job) if "EPILOGUE" in event}
    clock.now = int(time.time())
    running.recorded.accounting.catch_up()
    assert running.recorded.jobs()[job]["state"] == end.state
    assert running.recorded.amounts() == before

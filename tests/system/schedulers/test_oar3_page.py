"""``hooks/oar3.md``: every command of it, in its order, beside the scheduler of a real OAR 3.

After every step a job is submitted, a round of ``kao`` starts it, and it ends, whereupon OAR calls
what its settings name.
"""

import re
import subprocess
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import cache
from pathlib import Path
from threading import Event, Thread
from typing import Any

import pytest
from sqlalchemy import NullPool, create_engine, text

from tests import page_server
from tests.apart import ApartError, Machine, machine
from tests.oar3_rounds import Installation, Mode, Round, Site, installation
from tests.page_server import CONF, MADE, OURS, PROGRAMS, PageServer, postgresql, psql
from tests.pages import Page
from tests.system.live.machine import free_ports

PASSWORD = "only for tests"
KAO = "/usr/lib/oar/kao"
#: Where the page says that OAR 3 has its environment, if it has one of its own.
OF_ITS_OWN = "/opt/oar3"
BEFORE = "From a version without stubs"
KARMA_LINES = "JOB_PRIORITY=|CUSTOM_JOB_SORTING|EXTRA_METASCHED"
STUB = "oar_accounting_stub"
#: A job that ran for ten minutes ends.
END = """
UPDATE jobs SET state = 'Terminated', stop_time = extract(epoch FROM now()),
    start_time = extract(epoch FROM now()) - 600
WHERE job_id = :job
"""
#: No job waits any more.
KILL = """
UPDATE jobs SET state = 'Error', stop_time = extract(epoch FROM now()), start_time = stop_time
WHERE state = 'Waiting'
"""
#: Longer than anything is waited for, in seconds.
PATIENCE = 120.0


@cache
def missing_here() -> str:
    """Why the page cannot be followed here; empty where it can."""
    found = installation()
    if isinstance(found, str):
        return found
    if found.scripts is None:
        return "the scripts of OAR 3 are nowhere to be found"
    return page_server.missing(found.python, "pg_dump", "psql", PROGRAMS)


def is_debian(oar: Installation) -> bool:
    """Whether it uses the system's Python."""
    return oar.executable.startswith("/usr/bin/")


class Oar3Server(Site):
    """An OAR 3 on the server apart; its scheduler is run as the user oar."""

    def __init__(self, server: PageServer, port: int, mode: Mode) -> None:
        """Make its database and its settings."""
        self.server = server
        self.machine = server.machine
        directory = self.machine.place / "site"
        directory.mkdir()
        directory.chmod(0o777)
        owner = f"LOGIN PASSWORD '{PASSWORD}'"
        psql(self.machine, f"CREATE ROLE oar {owner}; CREATE ROLE oar_ro {owner};")
        psql(self.machine, f"CREATE ROLE tests SUPERUSER {owner}")
        psql(self.machine, "CREATE DATABASE oar OWNER oar")
        url = f"postgresql+psycopg2://oar:{PASSWORD}@127.0.0.1:{port}/oar"
        super().__init__(url, directory)
        # Whoever the tables of ours belong to, the test looks into them.
        self.engine = create_engine(url.replace("oar:", "tests:", 1), poolclass=NullPool)
        conf = self.conf(METASCHEDULER_MODE=mode, SCHEDULERS_PATH="/usr/lib/oar")
        self.machine.run("install", "-o", "oar", "-g", "oar", "-m", "600", conf, CONF)

    def _process(self, conf: Path, command: list[str]) -> "subprocess.CompletedProcess[str]":
        words = ["runuser", "-u", "oar", "--", "env", f"OARCONFFILE={conf}", *command]
        return subprocess.run(
            self.machine.command(*words), capture_output=True, text=True, timeout=PATIENCE
        )

    def round(self) -> Round:
        """A round with the settings as they stand."""
        return self._round(Path(CONF), [KAO])

    def goes_on(self) -> int:
        """A job comes, starts in the next round and ends; its id."""
        job = self.comes("bob")
        done = self.round()
        assert (done.code, done.stopped) == (0, []), done
        assert self.state(job) != "Waiting", done
        self.end(job)
        return job

    def comes(self, user: str) -> int:
        """A job is submitted now; its id."""
        return self.submit(user, submitted=int(time.time()))

    def first(self, *users: str) -> str:
        """Whose job a round starts, of those who submit one; nothing of these is left waiting."""
        jobs = {self.comes(user): user for user in users}
        done = self.round()
        assert (done.code, done.stopped) == (0, []), done
        (started,) = (job for job in jobs if self.state(job) != "Waiting")
        self.end(started)
        self.tell(KILL)
        return jobs[started]

    def first_at_last(self, wanted: str, *users: str) -> None:
        """Wait for a round that starts that user's job first: a busy machine answers late."""
        deadline = time.monotonic() + PATIENCE
        while self.first(*users) != wanted:
            assert time.monotonic() < deadline, self.rounds()

    def end(self, job: int) -> None:
        """A job that ran for ten minutes ends."""
        self.tell(END, job)
        named = re.search(r'^SERVER_EPILOGUE_EXEC_FILE="(.*)"$', self.machine.read(CONF), re.M)
        if named is not None:
            # As OAR does it: without a shell, and it waits.
            began = time.monotonic()
            assert self.machine.run("runuser", "-u", "oar", "--", named[1], job) == ""
            assert time.monotonic() - began < 10

    def state(self, job: int) -> str:
        """The state that a job is in."""
        return str(self.ask("SELECT state FROM jobs WHERE job_id = :job", job)[0])

    def recorded(self) -> set[int]:
        """The jobs in the totals."""
        return set(map(int, self.ask("SELECT job_id FROM accounting_jobs WHERE closed = 1")))

    def rounds(self) -> list[str]:
        """Who decided the order of the rounds so far."""
        lines = self.machine.read("/var/lib/oar-accounting/rounds").splitlines()
        return [line.split(maxsplit=3)[1] for line in lines]

    def ask(self, query: str, job: int = 0) -> list[Any]:
        """The values of a column."""
        with self.engine.connect() as connection:
            return list(connection.execute(text(query), {"job": job}).scalars())

    def tell(self, statement: str, job: int = 0) -> None:
        """Change OAR's tables."""
        with self.engine.begin() as connection:
            connection.execute(text(statement), {"job": job})

    @contextmanager
    def under_load(self) -> Iterator[None]:
        """Jobs come and go, round after round, for one `with` block."""
        over, failed = Event(), list[BaseException]()

        def work() -> None:
            try:
                while not over.is_set():
                    self.goes_on()
            except BaseException as error:
                failed.append(error)

        worker = Thread(target=work)
        worker.start()
        try:
            yield
        finally:
            over.set()
            worker.join()
        assert failed == []


@contextmanager
def oar3_server(words: set[str], mode: Mode, umask: int) -> Iterator[Oar3Server]:
    """A server with OAR 3 and nothing of ours, for one `with` block."""
    if reason := missing_here():
        pytest.skip(reason)
    oar = installation()
    assert isinstance(oar, Installation)
    (port,) = free_ports(1)
    debian = is_debian(oar)
    prefix = str(Path(oar.executable).parents[1])
    elsewhere = {"@localhost/": f"@localhost:{port}/"}
    if debian:
        # As the page says in words.
        elsewhere |= {f"oar3={OF_ITS_OWN}/bin/python": "oar3=/usr/bin/python3"}
    page = Page("oar3.md", words | {"debian" if debian else "venv"}, elsewhere)
    with ExitStack() as stack:
        layers = [] if debian else [prefix]
        place = stack.enter_context(
            machine(oar.python, layers=layers, hidden=MADE, PGPORT=str(port))
        )
        server = PageServer(place, page, umask)
        server.prepare()
        put_oar_in_place(place, oar, prefix)
        stack.enter_context(postgresql(place, port))
        yield Oar3Server(server, port, mode)


def put_oar_in_place(place: Machine, oar: Installation, prefix: str) -> None:
    """Let OAR 3 be where its packages put its programs, and the page its environment."""
    if not is_debian(oar):
        place.script(f"ln -s {prefix} {OF_ITS_OWN}")
        place.script(f"rm -rf /usr/lib/oar; ln -s {oar.scripts} /usr/lib/oar")


pytestmark = pytest.mark.slow


@pytest.mark.parametrize(
    ("words", "mode", "umask"),
    [
        pytest.param({"roles", "custom"}, "external", 0o027, id="roles-custom-027"),
        pytest.param({"plain", "fairshare"}, "internal", 0o022, id="plain-fairshare-022"),
    ],
)
def test_every_command_of_the_page_does_what_it_says(
    words: set[str], mode: Mode, umask: int
) -> None:
    with oar3_server({*words, "cron", "systemd"}, mode, umask) as oar:
        server, page = oar.server, oar.server.page
        before = oar.goes_on()
        install(oar, before)
        karma(oar)
        people_ask(oar)
        keep(oar)
        uninstall(oar)
        del page._left[BEFORE]
        assert page.left() == {}
        assert server.service() == ""


def install(oar: Oar3Server, before: int) -> None:
    """From nothing to a job that is recorded because the epilogue was called."""
    server = oar.server
    server.follow("Install", oar.goes_on)
    server.follow("Roles", oar.goes_on)
    assert "jobs recorded" in server.follow("Tables")
    assert before in oar.recorded()
    server.follow("Timer")
    later = oar.goes_on()
    assert "1 jobs recorded" in server.timer()
    assert later in oar.recorded()
    # The doctor, at the end of this section, leaves with 0 only where all is well.
    said = " ".join(server.follow("What OAR calls", oar.goes_on).split())
    assert re.search(rf"beside OAR 3 \({oar.oar.executable}|{OF_ITS_OWN}/bin/python", said), said
    job = oar.goes_on()
    wait_until(lambda: job in oar.recorded(), "the epilogue brings the job")


def karma(oar: Oar3Server) -> None:
    """Who has used least is first, whoever came first."""
    server = oar.server
    assert oar.first("bob", "alice") == "bob"
    server.follow("Karma decides")
    oar.first_at_last("alice", "bob", "alice")
    server.follow("Karma service")
    server.start_cron()
    wait_until(lambda: bool(server.service()), "cron starts the service")
    wait_until(lambda: "answers at" in server.ours("stubs check"), "the service answers")
    oar.first_at_last("alice", "bob", "alice")
    assert oar.rounds()[-1] == "service"
    if "custom" in server.page.words:
        running = oar.comes("alice")
        oar.comes("bob")
        assert oar.round().code == 0
        shown = "SELECT last_karma FROM jobs WHERE state = 'Waiting' AND message LIKE '%(Karma=%'"
        wait_until(lambda: bool(oar.ask(shown)), "oarstat shows karma")
        oar.tell(KILL)
        oar.end(running)
    assert "accounted" in server.line_by_hand("OAR's own accounting")


def people_ask(oar: Oar3Server) -> None:
    """Everybody is told what is theirs; Prometheus gets its file."""
    server = oar.server
    server.follow("Users ask")
    own = "/usr/local/bin/oar-accounting-own usage --by user --json"
    assert "bob" in server.machine.script(f"su bob -s /bin/sh -c '{own}'")
    with pytest.raises(ApartError):
        server.machine.script(f"su alice -s /bin/sh -c 'cat {CONF}'")
    server.follow("Monitoring")
    file = "/var/lib/prometheus/node-exporter/oar_accounting.prom"
    assert server.machine.script(f"su alice -s /bin/sh -c 'cat {file}'").endswith("# EOF\n")


def keep(oar: Oar3Server) -> None:
    """Backup, upgrade and a new Python, while jobs come and go."""
    server = oar.server
    recorded = oar.recorded()
    with oar.under_load():
        assert "every total is what spans and rates give" in server.follow("Backup and restore")
    assert recorded <= oar.recorded()
    served = server.service()
    server.new_sources()
    with oar.under_load():
        server.follow("Upgrade")
        wait_until(lambda: server.service() not in ("", served), "the new service is started")
    oar.first_at_last("alice", "bob", "alice")
    get_a_new_python(oar)
    assert "0 jobs that ended before" in server.follow("Keeping it for years")


def get_a_new_python(oar: Oar3Server) -> None:
    """The library is not found any more, nor is the stub by OAR 3."""
    server = oar.server
    lines = [line for line in server.machine.read(CONF).splitlines() if re.match(KARMA_LINES, line)]
    server.run(server.page.blocks("Uninstall")[0])
    server.machine.script("mv /opt/oar-accounting/lib/python3.* /opt/oar-accounting/lib/older")
    server.machine.script(f"rm -r {oar.oar.purelib}/{STUB}*")
    oar.goes_on()
    with pytest.raises(ApartError, match="No module named"):
        server.ours("catch-up")
    with oar.under_load():
        server.follow("A new Python")
        wait_until(lambda: bool(server.service()), "the service is started")
    server.machine.script(f"cat >> {CONF} <<'END'\n" + "\n".join(lines) + "\nEND")
    oar.first_at_last("alice", "bob", "alice")


def uninstall(oar: Oar3Server) -> None:
    """Step by step, and OAR goes on; nothing of ours is left but what the page names."""
    server = oar.server
    with pytest.raises(ApartError, match="nothing was removed"):
        server.machine.script(f"{OURS} stubs remove")
    server.follow("Uninstall", oar.goes_on)
    wait_until(lambda: server.service() == "", "the service has ended")
    assert oar.ask("SELECT tablename FROM pg_tables WHERE tablename LIKE 'accounting\\_%'") == []
    assert server.left() == ["oar.conf"]
    assert not re.search(r'lib/oar-accounting|"accounting"', server.machine.read(CONF))
    roles = "SELECT rolname FROM pg_roles WHERE rolname LIKE '%accounting%'"
    assert oar.ask(roles) == []


# -- from a version without stubs ---------------------------------------------------------------


def test_a_library_in_oars_own_environment_leaves_it_and_oar_goes_on() -> None:
    with oar3_server({"plain", "custom", "cron", "systemd"}, "internal", 0o027) as oar:
        server, machine = oar.server, oar.server.machine
        python = "/usr/bin/python3" if is_debian(oar.oar) else f"{OF_ITS_OWN}/bin/python"
        oars_pip = f"umask 022; PIP_BREAK_SYSTEM_PACKAGES=1 {python} -m pip"
        be_without_stubs(oar, python, oars_pip)
        oar.first_at_last("alice", "bob", "alice")
        points_to_stub, leaves, shows, mends = server.page.blocks(BEFORE)
        with oar.under_load():
            server.follow("Install")
            server.run(points_to_stub)
            for title in ("Upgrade", "Timer", "Users ask"):
                server.follow(title)
            server.run(leaves)
        oar.first_at_last("alice", "bob", "alice")
        assert oar.rounds()[-1] == "library"
        job = oar.goes_on()
        wait_until(lambda: job in oar.recorded(), "the epilogue brings the job")
        assert "psycopg2-binary" in server.run(shows)
        machine.script(f"{oars_pip} install --quiet 'sqlalchemy>=2.1'")
        assert oar.round().code != 0
        server.run(mends)
        oar.goes_on()
        assert "psycopg2-binary" not in server.run(shows)
        server.follow("Uninstall", oar.goes_on)


def be_without_stubs(oar: Oar3Server, python: str, oars_pip: str) -> None:
    """What the page had administrators do before there were stubs."""
    server, machine = oar.server, oar.server.machine
    source = machine.place / "source"
    machine.script(f"{oars_pip} install --quiet '{source}[postgresql]' 'sqlalchemy<2.1'")
    machine.script("install -d -o oar -g oar -m 700 /var/lib/oar-accounting")
    hooks = machine.script(f'{python} -c "{PLACE_OF_HOOKS}"').strip()
    machine.script(f"echo 'SERVER_EPILOGUE_EXEC_FILE=\"{hooks}/server_epilogue\"' >> {CONF}")
    oar.goes_on()
    machine.script("install -m 644 /dev/null /etc/oar/accounting.toml")
    for command in ("init", "catch-up"):
        machine.script(f"su oar -s /bin/sh -c '{python} -m oar_accounting.cli {command}'")
    server.follow("Karma decides")


PLACE_OF_HOOKS = """
import sysconfig
print(sysconfig.get_path('data') + '/share/oar-accounting/hooks')
"""


def wait_until(true: Any, what: str) -> None:
    """Ask again and again until it is true."""
    deadline = time.monotonic() + PATIENCE
    while not true():
        assert time.monotonic() < deadline, f"waited in vain: {what}"
        time.sleep(0.5)

"""``oar-accounting karma-service``: a real process, which answers as the library does, for months.

The databases may go and come back, and settings, tables and the library change under it.
"""

import json
import os
import random
import shutil
import signal
import socket
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Engine, create_engine, make_url, text, update

import oar_accounting
from oar_accounting import Accounting
from oar_accounting.ledger import schema, versions
from oar_accounting.stubs import oar3
from oar_accounting.stubs.oar3 import NoAnswer, Refused, ask_service
from tests.asked import dead_soon, until
from tests.servers import Database
from tests.small_oar import DAY, NOW, T0, SmallOar, stopped_clock

pytestmark = pytest.mark.skipif(
    not Path("/proc/self/statm").exists(), reason="OAR servers are Linux with /proc"
)
ROOT = Path(__file__).parents[3]
on_sqlite = pytest.mark.databases("sqlite")
on_servers = pytest.mark.databases("postgresql", "mariadb")

#: How long may be waited, in seconds; and by far longer than anything here takes.
LIMIT, PATIENCE = 20.0, 60.0

LINEAR = """
[karma]
policy = "linear"
window = "30d"
[[karma.terms]]
by = "user"
metric = "resource"
weight = {weight}
"""
STOCK = '[karma]\npolicy = "oar"\n'
TREE = '[karma]\npolicy = "{}"\nlevels = ["project", "user"]\nmetrics = ["resource"]\n'


class Service:
    """A karma service, and how it is asked."""

    def __init__(self, directory: Path, *, root: Path = ROOT, code: str = "") -> None:
        self.path = directory / "karma.sock"
        self._root = root
        self._code = code
        self._errors = directory / "errors"
        self.process: subprocess.Popen[bytes] | None = None

    def start(self, *, umask: int = 0o022) -> "Service":
        """Start it, and wait until it answers."""
        self.run(umask=umask)
        until(self.answers, PATIENCE)
        return self

    def run(self, *, umask: int = 0o022) -> "subprocess.Popen[bytes]":
        """Start it."""
        code = f"{self._code}\nfrom oar_accounting.cli import main\nmain()"
        how = ["-c", code] if self._code else ["-m", "oar_accounting.cli"]
        with open(self._errors, "wb") as errors:
            self.process = subprocess.Popen(
                [sys.executable, *how, "karma-service", "--socket", self.path],
                env={**os.environ, "PYTHONPATH": str(self._root)},
                stdout=errors,
                stderr=errors,
                umask=umask,
            )
        return self.process

    @property
    def pid(self) -> int:
        """Its number."""
        assert self.process is not None
        return self.process.pid

    def answers(self) -> bool:
        """True once it does."""
        assert self.process is not None
        assert self.process.poll() is None, self.said()
        with suppress(OSError):
            return ask_service({"ask": "ping"}, LIMIT, str(self.path)) == []
        return False

    def said(self) -> list[str]:
        """The lines that it has printed."""
        return self._errors.read_text(encoding="utf-8").splitlines()

    def left(self, within: float = PATIENCE) -> int:
        """How it ended."""
        assert self.process is not None
        return self.process.wait(within)

    def close(self) -> None:
        """End it, whatever it does."""
        if self.process is not None:
            self.process.kill()
            self.process.wait()


class Site:
    """An OAR on which jobs wait, with settings that the service reads."""

    def __init__(self, engine: Engine, directory: Path, name: str = "site") -> None:
        self.engine = engine
        self.file = directory / f"{name}.toml"
        self.conf = directory / f"{name}.conf"
        self.conf.write_text('ACCOUNTING_WINDOW="86400"\n', encoding="utf-8")
        self.oar = SmallOar(engine)
        self.oar.add_job(user="alice", cores=3, start=T0, stop=T0 + DAY)
        self.oar.add_job(user="bob", cores=1, start=T0, stop=T0 + DAY)
        self.jobs = [self.waits(user) for user in ("alice", "bob", "carol")]
        self.configure()
        with self.accounting() as accounting:
            accounting.init()
            accounting.catch_up()

    def configure(self, karma: str = LINEAR.format(weight=1.0), url: str | None = None) -> None:
        """Let the settings be these."""
        place = url or self.engine.url.render_as_string(hide_password=False)
        new = self.file.with_suffix(".new")
        new.write_text(f'oar_url = "{place}"\n{karma}', encoding="utf-8")
        new.replace(self.file)

    @contextmanager
    def accounting(self) -> Iterator[Accounting]:
        """The library itself, now."""
        with stopped_clock(), Accounting.open(config=self.file, oar_conf=self.conf) as opened:
            yield opened

    def waits(self, user: str, **given: Any) -> int:
        """A job that waits; its id."""
        return self.oar.add_job(
            user=user, start=0, state="Waiting", moldable=False, submission=NOW - 60, **given
        )

    @property
    def question(self) -> dict[str, Any]:
        """What OAR 3 asks."""
        where = {"config": str(self.file), "oar_conf": str(self.conf)}
        return {"ask": "order", "now": NOW, "jobs": self.jobs, **where}

    def by_library(self) -> list[int]:
        """The order of all that wait."""
        with self.accounting() as accounting:
            found: list[int] = accounting.karma(now=NOW).job_id.tolist()
        return found

    def ask(self, service: Service, **changes: Any) -> list[int]:
        """The order that the service gives the jobs that wait. Raises :class:`NoAnswer`."""
        jobs = changes.pop("jobs", self.jobs)
        question = self.question | {"jobs": jobs}
        return list(map(int, ask_service(question | changes, LIMIT, str(service.path))))


@pytest.fixture
def service(tmp_path: Path) -> Iterator[Service]:
    """A service that answers."""
    found = Service(tmp_path)
    try:
        yield found.start()
    finally:
        found.close()


@pytest.fixture
def site(engine: Engine, tmp_path: Path) -> Site:
    """A site on each kind of database in turn."""
    return Site(engine, tmp_path)


ORDER = ["carol", "bob", "alice"]


# -- what it answers ---------------------------------------------------------------------------


def test_it_answers_as_the_library_does(site: Site, service: Service) -> None:
    alice, bob, carol = site.jobs
    assert site.ask(service) == site.by_library() == [carol, bob, alice]
    # About these jobs, and those that it knows.
    assert site.ask(service, jobs=[alice, 10**9, bob]) == [bob, alice]
    assert site.ask(service, jobs=[]) == []
    assert site.ask(service, jobs=[bob, bob]) == [bob]
    # As OAR 2 asks.
    question = site.question | {"queue": "default"}
    lines = ask_service(question, LIMIT, str(service.path))
    assert [line.split()[0] for line in lines] == [str(carol), str(bob), str(alice)]
    assert [float(line.split()[1]) for line in lines] == [0.0, 0.25, 0.75]
    assert ask_service(question | {"queue": "it's"}, LIMIT, str(service.path)) == []
    sums = site.question | {"ask": "sums", "start": T0, "queues": ["default"]}
    (line,) = ask_service(sums | {"metrics": {"resource": 2}}, LIMIT, str(service.path))
    assert json.loads(line)[2][1] == {"alice": 6.0 * DAY, "bob": 2.0 * DAY}


@pytest.mark.slow
def test_accounts_that_come_are_known(site: Site, service: Service) -> None:
    assert site.ask(service) == site.by_library()
    site.oar.add_job(user="carol", cores=8, start=T0, stop=T0 + DAY)
    site.jobs.append(site.waits("dave"))
    alice, bob, carol, dave = site.jobs
    # As it has ended in OAR, before anybody has recorded it.
    assert site.ask(service) == site.by_library() == [dave, bob, alice, carol]
    with site.accounting() as accounting:
        accounting.catch_up()
    assert site.ask(service) == site.by_library() == [dave, bob, alice, carol]


@pytest.mark.slow
def test_users_who_are_forgotten_are_forgotten(site: Site, service: Service) -> None:
    site.configure(LINEAR.format(weight=1.0) + "targets = { alice = 90 }\n")
    alice, bob, carol = site.jobs
    assert site.ask(service) == site.by_library() == [alice, carol, bob]
    with site.accounting() as accounting:
        accounting.forget_user("alice")
    assert site.ask(service) == site.by_library() == [carol, bob, alice]


@pytest.mark.slow
def test_tables_that_were_made_anew_are_read_anew(site: Site, service: Service) -> None:
    """As many accounts as before, the last of them the same; the others have changed places."""
    alice, bob, carol = site.jobs
    assert site.ask(service) == [carol, bob, alice]
    site.oar.update_job(1, job_user="bob")
    site.oar.update_job(2, job_user="alice")
    with site.engine.begin() as connection:
        for statement in filter(str.strip, versions.drop_ddl().split(";")):
            connection.execute(text(statement))
    with site.accounting() as accounting, stopped_clock() as clock:
        clock.now += 60
        accounting.init()
        accounting.catch_up()
    assert site.ask(service) == site.by_library() == [carol, alice, bob]


POLICIES = {
    "linear": LINEAR.format(weight=1.0),
    "halving": LINEAR.format(weight=-2.0).replace('window = "30d"', 'half_life = "7d"'),
    "stock": STOCK,
    "tree": TREE.format("tree"),
    "fair tree": TREE.format("fair_tree"),
    "dominant": '[karma]\npolicy = "dominant"\nmetrics = ["resource", "node"]\nwindow = "30d"\n',
}


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(4))
@on_sqlite
def test_any_site_gets_the_order_of_the_library(
    engine: Engine, tmp_path: Path, service: Service, seed: int
) -> None:
    """Whatever happens between two questions."""
    pick = random.Random(seed)
    site = Site(engine, tmp_path)
    users = [f"user{number}" for number in range(6)]

    def runs() -> None:
        start = NOW - pick.randint(1, 20 * DAY)
        site.oar.add_job(
            user=pick.choice(users),
            project=pick.choice("pqr"),
            queue=pick.choice(["default", "night"]),
            cores=pick.randint(1, 8),
            start=start,
            stop=min(NOW, start + pick.randint(1, 2 * DAY)),
        )

    def waits() -> None:
        job = site.waits(pick.choice(users), project=pick.choice("pqr"))
        site.jobs.append(job)

    def catches_up() -> None:
        with site.accounting() as accounting:
            accounting.catch_up()

    def forgets() -> None:
        with site.accounting() as accounting, suppress(oar_accounting.UnknownName):
            accounting.forget_user(pick.choice(users))

    def changes() -> None:
        site.configure(POLICIES[pick.choice(list(POLICIES))])

    steps = [runs, runs, runs, waits, waits, catches_up, forgets, changes]
    for _ in range(12):
        for step in pick.choices(steps, k=4):
            step()
        expected: Any = None
        try:
            expected = site.by_library()
        except oar_accounting.AccountingError as error:
            with pytest.raises(Refused) as refused:
                site.ask(service)
            assert str(refused.value) == " ".join(str(error).split())
            continue
        assert site.ask(service) == expected


@pytest.mark.slow
@on_sqlite
def test_more_sites_than_it_keeps_open(tmp_path: Path, service: Service) -> None:
    with ExitStack() as stack:
        sites = []
        for number in range(11):
            engine = create_engine(f"sqlite:///{tmp_path / f'{number}.db'}")
            stack.callback(engine.dispose)
            sites.append(Site(engine, tmp_path, f"site{number}"))
            sites[-1].configure(LINEAR.format(weight=1.0 if number % 2 else -1.0))
        for _ in range(2):
            for number, site in enumerate(sites):
                alice, bob, carol = site.jobs
                order = [carol, bob, alice] if number % 2 else [alice, bob, carol]
                assert site.ask(service) == order
        assert len(list(Path(f"/proc/{service.pid}/fd").iterdir())) < 60


# -- what it stands on changes -----------------------------------------------------------------


def test_settings_that_change_count_at_once(site: Site, service: Service) -> None:
    alice, bob, carol = site.jobs
    assert site.ask(service) == [carol, bob, alice]
    site.configure(LINEAR.format(weight=-1.0))
    assert site.ask(service) == [alice, bob, carol]
    site.configure("colour = 1\n")
    with pytest.raises(Refused, match="unknown key 'colour'"):
        site.ask(service)
    site.file.unlink()
    with pytest.raises(Refused, match="No such file"):
        site.ask(service)
    site.configure()
    assert site.ask(service) == [carol, bob, alice]
    assert service.process is not None and service.process.poll() is None


@on_servers
def test_a_password_that_changes(site: Site, service: Service, tmp_path: Path) -> None:
    """Its file is told to nobody, and is looked at nevertheless."""
    url = site.engine.url
    secret = tmp_path / "secret"
    secret.write_text(f"{url.password or 'any'}\n", encoding="utf-8")
    secret.chmod(0o600)
    place = url.set(password=None).render_as_string()
    site.configure(f'oar_password_file = "{secret}"\n' + LINEAR.format(weight=1.0), place)
    assert site.ask(service) == site.by_library()
    secret.unlink()
    with pytest.raises(Refused, match="that oar_password_file names: cannot be read"):
        site.ask(service)
    secret.write_text(f"{url.password or 'any'}\n", encoding="utf-8")
    assert site.ask(service) == site.by_library()


@pytest.mark.slow
def test_tables_of_another_version_are_told(site: Site, service: Service) -> None:
    assert site.ask(service) == site.by_library()
    version = update(schema.schema_version)
    with site.engine.begin() as connection:
        connection.execute(version.values(version=999))
    with pytest.raises(NoAnswer) as told:
        site.ask(service)
    assert not isinstance(told.value, Refused)
    assert str(told.value) == f"the tables are in version 999, it knows version {schema.VERSION}"
    with site.engine.begin() as connection:
        connection.execute(version.values(version=schema.VERSION))
    assert site.ask(service) == site.by_library()


class Forwarder:
    """A server of a database that can be down, or silent."""

    def __init__(self, host: str, port: int) -> None:
        self._to = (host, port)
        self.port = 0
        self._open: list[socket.socket] = []
        self._listener: socket.socket | None = None
        self.is_silent = False

    def up(self) -> None:
        """Let it be there."""
        self._listener = socket.create_server(("127.0.0.1", self.port))
        self.port = self._listener.getsockname()[1]
        threading.Thread(target=self._accept, args=(self._listener,), daemon=True).start()

    def down(self) -> None:
        """Let it go, with all connections."""
        assert self._listener is not None
        for each in (self._listener, *self._open):
            with suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
            each.close()
        self._open.clear()

    def _accept(self, listener: socket.socket) -> None:
        with suppress(OSError):
            while True:
                here, _ = listener.accept()
                there = socket.create_connection(self._to)
                self._open += [here, there]
                for pair in ((here, there), (there, here)):
                    threading.Thread(target=self._copy, args=pair, daemon=True).start()

    def _copy(self, one: socket.socket, other: socket.socket) -> None:
        with suppress(OSError):
            while part := one.recv(1 << 16):
                while self.is_silent:
                    time.sleep(0.01)
                other.sendall(part)
            other.shutdown(socket.SHUT_WR)


@pytest.fixture
def forwarder(database: Database) -> Iterator[Forwarder]:
    """What stands before the server of a database."""
    url = make_url(database.url)
    if not url.host or url.host.startswith("/") or not url.port:
        pytest.skip("its server has no port")
    found = Forwarder(url.host, url.port)
    found.up()
    yield found
    found.down()


def behind(forwarder: Forwarder, site: Site) -> None:
    """Let the settings name it."""
    place = site.engine.url.set(host="127.0.0.1", port=forwarder.port)
    site.configure(url=place.render_as_string(hide_password=False))


@on_servers
def test_a_database_that_goes_and_comes_back(
    site: Site, service: Service, forwarder: Forwarder
) -> None:
    behind(forwarder, site)
    assert site.ask(service) == site.by_library()
    forwarder.down()
    for _ in range(2):
        with pytest.raises(Refused) as refused:
            site.ask(service)
        assert "127.0.0.1" in str(refused.value)
        assert (
            str(site.engine.url.password) not in str(refused.value) or not site.engine.url.password
        )
    forwarder.up()
    # At once: what it had open is not what it uses now.
    assert site.ask(service) == site.by_library()
    forwarder.down()
    forwarder.up()
    assert site.ask(service) == site.by_library()


@pytest.mark.slow
@on_servers
def test_a_database_that_never_answers_is_told_in_time(
    site: Site, service: Service, forwarder: Forwarder
) -> None:
    """The reason arrives before whoever asked has gone."""
    behind(forwarder, site)
    forwarder.is_silent = True
    began = time.monotonic()
    with pytest.raises((NoAnswer, TimeoutError)):
        ask_service(site.question, 2.0, str(service.path))
    assert time.monotonic() - began < 2.5
    forwarder.is_silent = False
    assert site.ask(service) == site.by_library()


def waits_for_tables(site: Site) -> Callable[[], object]:
    """Lock what the service has to read, until that is called."""
    stack = ExitStack()
    connection = stack.enter_context(site.engine.connect())
    if site.engine.dialect.name == "postgresql":
        connection.execute(text("LOCK TABLE accounting_metrics IN ACCESS EXCLUSIVE MODE"))
    else:
        connection.execute(text("LOCK TABLES accounting_metrics WRITE"))

    def unlock() -> None:
        if site.engine.dialect.name != "postgresql":
            connection.execute(text("UNLOCK TABLES"))
        stack.close()

    return unlock


@pytest.mark.slow
@on_servers
def test_tables_that_are_locked(site: Site, service: Service) -> None:
    unlock = waits_for_tables(site)
    began = time.monotonic()
    with pytest.raises((NoAnswer, TimeoutError)):
        ask_service(site.question, 2.0, str(service.path))
    assert time.monotonic() - began < 2.5
    # Meanwhile others are answered.
    assert service.answers()
    unlock()
    assert site.ask(service) == site.by_library()


# -- who asks ----------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("umask", [0o000, 0o077])
def test_nobody_else_can_ask(tmp_path: Path, umask: int) -> None:
    service = Service(tmp_path)
    try:
        found = service.start(umask=umask).path.stat()
    finally:
        service.close()
    assert stat.S_ISSOCK(found.st_mode)
    assert stat.S_IMODE(found.st_mode) == 0o600
    assert found.st_uid == os.geteuid()


@pytest.mark.slow
def test_many_ask_at_the_same_time(site: Site, service: Service) -> None:
    alice, bob, carol = site.jobs
    other = Site.__new__(Site)
    other.__dict__.update(site.__dict__, file=site.file.with_name("other.toml"))
    other.configure(LINEAR.format(weight=-1.0))

    def asks(number: int) -> bool:
        for _ in range(5):
            if number % 2:
                assert site.ask(service) == [carol, bob, alice]
            else:
                assert other.ask(service) == [alice, bob, carol]
        return True

    with ThreadPoolExecutor(8) as threads:
        assert all(threads.map(asks, range(8)))


def line_to(service: Service) -> socket.socket:
    """A line on which nothing has been said."""
    line = socket.socket(socket.AF_UNIX)
    line.settimeout(PATIENCE)
    line.connect(str(service.path))
    return line


@on_sqlite
def test_one_who_never_asks_or_never_listens_holds_up_nobody(site: Site, service: Service) -> None:
    with ExitStack() as stack:
        lines = [stack.enter_context(line_to(service)) for _ in range(6)]
        lines[0].sendall(b'{"ask"')
        lines[1].sendall(b'{"ask": "ping"}\n' * 3)
        lines[2].shutdown(socket.SHUT_WR)
        lines[3].shutdown(socket.SHUT_RD)
        lines[3].sendall(b'{"ask": "ping"}\n')
        for _ in range(3):
            assert site.ask(service) == site.by_library()


@pytest.mark.slow
@on_sqlite
def test_settings_that_never_come_hold_up_nobody_else(
    site: Site, service: Service, tmp_path: Path
) -> None:
    never = tmp_path / "never.toml"
    os.mkfifo(never)
    with pytest.raises(TimeoutError):
        ask_service(site.question | {"config": str(never)}, 1.0, str(service.path))
    assert site.ask(service) == site.by_library()
    never.write_text("", encoding="utf-8")


HASTY = "from oar_accounting.schedulers import service\nservice.PATIENCE = 1.0"


@pytest.mark.slow
@on_sqlite
def test_those_who_say_one_letter_after_the_other_are_not_waited_for(
    site: Site, tmp_path: Path
) -> None:
    """However many: then whoever asks is soon told so, and asks the library."""
    service = Service(tmp_path, code=HASTY)
    stop = threading.Event()

    def drip(line: socket.socket) -> None:
        with suppress(OSError):
            while not stop.is_set():
                line.sendall(b" ")
                time.sleep(0.1)

    try:
        service.start()
        with ExitStack() as stack:
            stack.callback(stop.set)
            for _ in range(8):
                line = stack.enter_context(line_to(service))
                threading.Thread(target=drip, args=(line,), daemon=True).start()
            began = time.monotonic()
            with suppress(NoAnswer, OSError):
                site.ask(service)
            assert time.monotonic() - began < 1.0
            until(service_is_free(site, service), 10)
            assert time.monotonic() - began < 5.0
    finally:
        service.close()


def service_is_free(site: Site, service: Service) -> Callable[[], bool]:
    """Whether it answers."""

    def is_free() -> bool:
        with suppress(NoAnswer, OSError):
            return site.ask(service) == site.by_library()
        return False

    return is_free


QUESTIONS = [
    *(b"", b"\n", b"x\n", b"{\n", b"[]\n", b"null\n", b"\xff\xfe\n", b'"x"\n', b"{}\n", b"NaN\n"),
    *(b'{"ask": "order"}\n', b'{"ask": ["ping"]}\n', b'{"ask": "rm -rf"}\n', b'{"ask": "sums"}\n'),
    b"[" * 100_000 + b"\n",
    b'{"ask": "ping", "x": "' + b"y" * (1 << 25) + b'"}\n',
    b"y" * ((1 << 24) + (1 << 20)),
]


@on_sqlite
def test_whatever_is_asked_it_goes_on(site: Site, service: Service) -> None:
    for question in QUESTIONS:
        with line_to(service) as line:
            with suppress(OSError):
                line.sendall(question)
                line.shutdown(socket.SHUT_WR)
            reply = b""
            with suppress(ConnectionResetError):
                while part := line.recv(1 << 16):
                    reply += part
        assert b"\nend" not in reply
        if reply:
            assert reply.startswith(oar3.GREETING.encode())
            assert reply.rstrip(b"\n").rpartition(b"\n")[2].startswith((b"broken ", b"refused "))
        assert service.answers()
    changes: list[dict[str, Any]] = [
        *({"now": "x"}, {"now": 2**70}, {"now": None}, {"jobs": "x"}, {"jobs": [None]}),
        *({"jobs": [1.5]}, {"jobs": [2**70]}, {"jobs": None}, {"limit": "x"}, {"limit": 1e300}),
        *({"limit": -1}, {"limit": float("nan")}, {"limit": 0}, {"config": 5}, {"config": "\0"}),
        *({"config": "\udcff"}, {"config": ""}, {"site": 5}, {"site": "x\n"}, {"site": "y" * 999}),
        *({"queue": 5}, {"queue": None}, {"config": str(site.file.parent)}, {"oar_conf": "/"}),
    ]
    for change in changes:
        with suppress(NoAnswer, OSError):
            site.ask(service, **change)
        assert service.answers(), change
    assert site.ask(service) == site.by_library()
    assert "Traceback" not in "".join(service.said())


@pytest.mark.slow
@on_sqlite
def test_a_million_jobs_are_no_trouble(site: Site, service: Service) -> None:
    jobs = [*site.jobs, *range(10**6, 2 * 10**6)]
    assert site.ask(service, jobs=jobs) == site.by_library()


@pytest.mark.slow
def test_its_memory_does_not_grow(site: Site, service: Service) -> None:
    def pages() -> int:
        return int(Path(f"/proc/{service.pid}/statm").read_text(encoding="ascii").split()[1])

    def handles() -> int:
        return len(os.listdir(f"/proc/{service.pid}/fd"))

    for _ in range(100):
        site.ask(service)
    before, opened_before = pages(), handles()
    for number in range(300):
        assert len(site.ask(service)) == 3
        if number % 100 == 50:
            site.configure(LINEAR.format(weight=1.0 + number))
    grown = (pages() - before) * os.sysconf("SC_PAGE_SIZE")
    assert grown < 4 * 1024 * 1024
    assert handles() <= opened_before + 2


# -- its life ----------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_second_one_says_so_and_leaves(service: Service, tmp_path: Path) -> None:
    other = Service(tmp_path)
    other._errors = tmp_path / "errors of the other"
    assert other.run().wait(PATIENCE) == 3
    said = f"oar-accounting: {service.path}: a karma service is at work there already"
    assert other.said()[-1] == said
    assert [line for line in other.said() if "Traceback" in line] == []
    # The first is not disturbed.
    assert service.answers()


@pytest.mark.slow
def test_what_a_killed_one_has_left_is_no_hindrance(tmp_path: Path) -> None:
    service = Service(tmp_path)
    try:
        service.start()
        service.close()
        assert service.path.exists()
        service.start()
    finally:
        service.close()


@pytest.mark.parametrize(
    ("how", "code"), [(signal.SIGTERM, 0), (signal.SIGINT, 130)], ids=["told to end", "interrupted"]
)
def test_it_leaves_nothing_behind(service: Service, how: signal.Signals, code: int) -> None:
    os.kill(service.pid, how)
    assert service.left() == code
    assert not service.path.exists()
    assert "Traceback" not in "".join(service.said())


@pytest.mark.slow
@on_servers
def test_it_ends_in_the_midst_of_an_answer(site: Site, service: Service) -> None:
    unlock = waits_for_tables(site)

    def asks() -> None:
        with suppress(NoAnswer, OSError):
            ask_service(site.question, LIMIT, str(service.path))

    asking = threading.Thread(target=asks)
    asking.start()
    time.sleep(1)
    began = time.monotonic()
    os.kill(service.pid, signal.SIGTERM)
    assert service.left() == 0
    assert time.monotonic() - began < 5
    assert not service.path.exists()
    unlock()
    asking.join()


@pytest.mark.slow
@pytest.mark.parametrize("place", ["/nowhere/x.sock", "/proc/x.sock", f"/tmp/{'x' * 200}"])
def test_a_place_that_cannot_be_one(tmp_path: Path, place: str) -> None:
    service = Service(tmp_path)
    service.path = Path(place)
    assert service.run().wait(PATIENCE) == 3
    assert service.said()[-1].startswith(f"oar-accounting: {place}: cannot listen there: ")
    Path(f"{place}.lock").unlink(missing_ok=True)


class Copy:
    """The library as pip installs it, in a place of its own."""

    def __init__(self, directory: Path) -> None:
        self.root = directory / "copy"
        package = Path(oar_accounting.__file__).parent
        ignored = shutil.ignore_patterns("__pycache__")
        shutil.copytree(package, self.root / package.name, ignore=ignored)
        self.info = self.root / "oar_accounting-0.1.0.dist-info"
        self.info.mkdir()
        metadata = "Metadata-Version: 2.1\nName: oar-accounting\nVersion: 0.1.0\n"
        (self.info / "METADATA").write_text(metadata, encoding="utf-8")
        self.record = self.info / "RECORD"
        self.record.write_text("1", encoding="utf-8")


def removed(copy: Copy) -> None:
    shutil.rmtree(copy.info)


def replaced(copy: Copy) -> None:
    copy.info.rename(copy.info.with_name("oar_accounting-0.2.0.dist-info"))


def rewritten(copy: Copy) -> None:
    copy.record.write_text("2", encoding="utf-8")


@pytest.mark.slow
@pytest.mark.parametrize("changed", [removed, replaced, rewritten])
def test_it_ends_when_its_library_has_changed(
    tmp_path: Path, changed: Callable[[Copy], None]
) -> None:
    copy = Copy(tmp_path)
    service = Service(tmp_path, root=copy.root)
    try:
        service.start()
        question = {"ask": "ping"}
        assert ask_service(question, LIMIT, str(service.path)) == []
        changed(copy)
        # At once nobody takes its answer for that of the library.
        with suppress(OSError), pytest.raises(NoAnswer, match=r"it was started before|is empty"):
            ask_service(question, LIMIT, str(service.path))
        assert service.left(10) == 0
        assert service.said()[-1] == "the library has changed: to be started again"
        assert not service.path.exists()
    finally:
        service.close()


@pytest.mark.slow
def test_one_that_began_during_an_upgrade_ends_with_it(tmp_path: Path) -> None:
    """Half of its modules may be those of before: pip writes its list last of all."""
    copy = Copy(tmp_path)
    hidden = copy.info.rename(tmp_path / "hidden")
    service = Service(tmp_path, root=copy.root)
    try:
        service.run()
        until(lambda: service.path.exists() or service.process.poll() is not None, PATIENCE)  # type: ignore[union-attr]
        hidden.rename(copy.info)
        assert service.left(10) == 0
    finally:
        service.close()


def test_it_is_ended_with_whoever_has_started_it_by_nobody_else(service: Service) -> None:
    """No signal but those that end it does."""
    for each in (signal.SIGPIPE, signal.SIGCHLD, signal.SIGWINCH):
        os.kill(service.pid, each)
    assert service.answers()
    os.kill(service.pid, signal.SIGKILL)
    dead_soon(service.pid)


def test_nothing_is_written(site: Site, service: Service) -> None:
    """Its role need not be allowed to."""
    before = site.oar.everything()
    site.ask(service)
    assert site.oar.everything() == before

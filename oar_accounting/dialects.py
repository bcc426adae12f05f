"""What differs between SQLite, PostgreSQL and MariaDB, and nowhere else.

Names and types, transactions and locks, reading and writing columns in bulk, exact sums, and what
the drivers' errors mean. SQLAlchemy's dialects are imported where they are used: the three
together cost every command a fifth of a second.
"""

import io
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
from sqlalchemy import (
    BigInteger,
    CheckConstraint,
    ColumnElement,
    Engine,
    Select,
    SmallInteger,
    String,
    Table,
    Text,
    bindparam,
    cast,
    column,
    create_engine,
    event,
    func,
    insert,
    literal,
    literal_column,
    select,
    text,
)
from sqlalchemy.engine import URL, Connection, Dialect, make_url
from sqlalchemy.exc import (
    ArgumentError,
    DBAPIError,
    NoSuchModuleError,
    SQLAlchemyError,
)
from sqlalchemy.types import TypeDecorator, TypeEngine

from oar_accounting.columns import Ints
from oar_accounting.errors import (
    AmountOverflow,
    DatabaseError,
    SettingsError,
    WriterBusy,
)

DATABASES = ("mariadb", "postgresql", "sqlite")

#: How long a writer waits for another one of the same site, in seconds.
LOCK_WAIT = 600

#: Rows handed to the driver at once where there is no COPY.
ROWS_AT_ONCE = 20_000

TABLE: dict[str, Any] = {"mariadb_engine": "InnoDB", "mysql_engine": "InnoDB"}
#: Tables that are read and written by their primary key only.
BULK: dict[str, Any] = {**TABLE, "sqlite_with_rowid": False}

_DRIVERS = {
    "mariadb": "mariadb+pymysql",
    "mysql": "mysql+pymysql",
    "postgres": "postgresql+psycopg2",
    "postgresql": "postgresql+psycopg2",
    "sqlite": "sqlite+pysqlite",
}


class Name(TypeDecorator[str]):
    """Up to 255 characters, equal only where every byte is, a trailing blank too."""

    impl = String(255)
    cache_ok = True

    def load_dialect_impl(self, dialect: Dialect) -> TypeEngine[Any]:
        """A collation that compares bytes and pads nothing, where the database needs telling."""
        if dialect.name in ("mysql", "mariadb"):
            from sqlalchemy.dialects import mysql

            return mysql.VARCHAR(255, charset="utf8mb4", collation=_exact_collation(dialect))
        return String(255)


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


def only_where(condition: ColumnElement[bool]) -> dict[str, Any]:
    """Arguments of an index over the rows of *condition* only, where the database can."""
    return {"postgresql_where": condition, "sqlite_where": condition}


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
    if parsed.get_backend_name() == "sqlite" and parsed.database in (None, "", ":memory:"):
        raise SettingsError("database URL: a SQLite database needs a file, sqlite:///FILE")
    if parsed.get_backend_name() in ("mysql", "mariadb"):
        parsed = parsed.update_query_dict({"charset": "utf8mb4"})
    return parsed


def open_engine(url: str | URL) -> Engine:
    """An engine for *url*; nothing is connected yet. Raises :class:`SettingsError`."""
    parsed = parse_url(url)
    try:
        engine = create_engine(parsed)
    except ArgumentError as error:
        raise SettingsError(f"database URL: {shown(parsed)}: {error}") from None
    except (ImportError, NoSuchModuleError) as error:
        extra = "postgresql" if parsed.get_backend_name() == "postgresql" else "mysql"
        raise SettingsError(
            f"the driver {parsed.get_driver_name()} is not installed: "
            f"pip install 'oar-accounting[{extra}]' ({error})"
        ) from None
    prepare(engine)
    return engine


def prepare(engine: Engine) -> None:
    """Let the transactions below begin as they must, also on an engine that a caller made."""
    if engine.dialect.name == "sqlite" and not event.contains(engine, "begin", _sqlite_begin):
        event.listen(engine, "begin", _sqlite_begin)


def _set_up(connection: Connection) -> None:
    """What every connection needs once, also one that a caller opened before us."""
    driver: Any = connection.connection.dbapi_connection
    if connection.dialect.name == "sqlite":
        # The driver's own BEGIN comes too late for a reader's snapshot; _sqlite_begin sends ours.
        driver.isolation_level = None
    elif connection.dialect.name == "postgresql":
        # The driver takes the encoding of the database; COPY sends UTF-8, and so must the rest.
        driver.set_client_encoding("UTF8")
    else:
        cursor = driver.cursor()
        with _driver_errors(connection, cursor):
            # Without strict mode a name over 255 characters is cut and an overflow is clipped.
            cursor.execute("SET SESSION sql_mode = 'STRICT_ALL_TABLES,NO_ENGINE_SUBSTITUTION'")
            cursor.execute("SET SESSION innodb_lock_wait_timeout = %s", (LOCK_WAIT,))
            driver.commit()


def _sqlite_begin(connection: Connection) -> None:
    options = connection.get_execution_options()
    milliseconds = 1000 * LOCK_WAIT if options.get("oar_waits", True) else 0
    connection.exec_driver_sql(f"PRAGMA busy_timeout = {milliseconds:d}")
    connection.exec_driver_sql("BEGIN IMMEDIATE" if options.get("oar_writes") else "BEGIN")


def file_url(file: Path) -> str:
    """The URL of an embedded database in *file*."""
    return URL.create("sqlite", database=str(file)).render_as_string()


# -- transactions -----------------------------------------------------------------------------


def _connected(engine: Engine) -> Connection:
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
            yield connection
            transaction.rollback()


@contextmanager
def writing(engine: Engine, *, wait: bool = True) -> Iterator[Connection]:
    """A transaction that writes: all of it or nothing. Takes SQLite's write lock at once.

    Raises :class:`WriterBusy` where *wait* is false and another process writes (SQLite).
    """
    with _told_clearly(engine, waited=wait), _connected(engine) as connection:
        if engine.dialect.name == "sqlite":
            connection = connection.execution_options(oar_writes=True, oar_waits=wait)
        else:
            connection = connection.execution_options(isolation_level="READ COMMITTED")
        with connection.begin():
            if engine.dialect.name == "postgresql":
                waiting = func.set_config("lock_timeout", f"{LOCK_WAIT}s", True)
                connection.execute(select(waiting))
            yield connection


def let_readers_in(engine: Engine) -> None:
    """Make a SQLite file serve queries while a pass writes: write-ahead logging, kept in it."""
    if engine.dialect.name == "sqlite":
        with _told_clearly(engine), _connected(engine) as connection:
            cursor: Any = connection.connection.cursor()
            with _driver_errors(connection, cursor):
                cursor.execute("PRAGMA journal_mode = wal")


def lock_row(connection: Connection, row: Select[Any], *, wait: bool) -> Any:
    """The *row*, locked until the transaction ends; None where there is none."""
    return connection.execute(row.with_for_update(nowait=not wait)).first()


def locks_neighbours(connection: Connection) -> bool:
    """True where a delete waits for rows beside its own: writers of all sites take turns there."""
    return connection.dialect.name in ("mysql", "mariadb")


def _is_busy(error: DBAPIError) -> bool:
    code = getattr(error.orig, "pgcode", None) or getattr(error.orig, "sqlite_errorname", None)
    number = error.orig.args[0] if error.orig is not None and error.orig.args else None
    return code in ("55P03", "SQLITE_BUSY") or number in (1205, 3572)


def _is_overflow(error: DBAPIError) -> bool:
    said = str(error.orig)
    return (
        getattr(error.orig, "pgcode", None) == "22003"
        or "typeof(" in said
        or "out of range" in said
        or "integer overflow" in said
    )


@contextmanager
def _told_clearly(engine: Engine, *, waited: bool = True) -> Iterator[None]:
    """The drivers' errors as ours: which database, what it said, in one line."""
    try:
        yield
    except DBAPIError as error:
        if _is_overflow(error):
            raise AmountOverflow(
                "a total does not fit in 63 bits; declare the metric in a larger unit"
            ) from error
        if _is_busy(error) and not waited:
            raise WriterBusy("another process is writing for this site") from error
        said = " ".join(str(error.orig).split())
        raise DatabaseError(f"{shown(engine.url)}: {said}") from error
    except UnicodeError as error:
        raise DatabaseError(f"{shown(engine.url)}: {error}") from error
    except SQLAlchemyError as error:
        raise DatabaseError(f"{shown(engine.url)}: {error}") from error


def shown(url: URL) -> str:
    """The URL as it may be shown: without its password."""
    return url.set(query={}).render_as_string(hide_password=True)


# -- columns in and out -----------------------------------------------------------------------


def read_ints(connection: Connection, query: Select[Any]) -> list[Ints]:
    """The columns of a query that gives whole numbers only, none of them NULL."""
    if connection.dialect.name == "postgresql":
        return _copied_out(connection, query)
    width = len(query.selected_columns)
    parts = [np.zeros((0, width), np.int64)]
    for rows in connection.execute(query).partitions(ROWS_AT_ONCE):
        # numpy asks a row what kind of array it is; asked number by number it is ten times faster.
        flat = np.fromiter(chain.from_iterable(rows), np.int64, len(rows) * width)
        parts.append(flat.reshape(-1, width))
    table = np.concatenate(parts)
    return [np.ascontiguousarray(table[:, i]) for i in range(width)]


_HEADER = 19  # bytes: signature, flags, length of the extension
_TRAILER = 2  # bytes: a field count of -1


def _copied_out(connection: Connection, query: Select[Any]) -> list[Ints]:
    """Binary COPY: every row is a field count, then length and value of each field."""
    compiled = query.compile(
        dialect=connection.dialect, compile_kwargs={"render_postcompile": True}
    )
    buffer = io.BytesIO()
    cursor: Any = connection.connection.cursor()
    with _driver_errors(connection, cursor):
        bound = cursor.mogrify(str(compiled), compiled.construct_params())
        cursor.copy_expert(b"COPY (" + bound + b") TO STDOUT (FORMAT binary)", buffer)
    rows = buffer.getbuffer()[_HEADER:-_TRAILER]
    fields = len(query.selected_columns)
    if not len(rows):
        return [np.zeros(0, np.int64) for _ in range(fields)]
    table = np.frombuffer(rows, _row_type(rows, fields))
    for i in range(fields):
        if np.any(table[f"length{i}"] != table[f"length{i}"][0]):
            raise TypeError("a NULL among whole numbers")
    return [table[f"value{i}"].astype(np.int64) for i in range(fields)]


def _row_type(rows: memoryview, fields: int) -> np.dtype[Any]:
    """The layout of a row, from the lengths that the first row tells."""
    layout: list[tuple[str, str]] = [("count", ">i2")]
    at = 2
    for i in range(fields):
        length = int.from_bytes(rows[at : at + 4], "big", signed=True)
        layout += [(f"length{i}", ">i4"), (f"value{i}", f">i{length}")]
        at += 4 + length
    return np.dtype(layout)


def insert_columns(connection: Connection, table: Table, columns: Mapping[str, Any]) -> None:
    """Insert rows given as columns: arrays or lists, equally long; None is NULL."""
    if not columns or not len(next(iter(columns.values()))):
        return
    if connection.dialect.name == "postgresql":
        _copied_in(connection, table, columns)
    else:
        _many(connection, insert(table), list(columns), _lists(columns))


def _lists(columns: Mapping[str, Any]) -> list[list[Any]]:
    return [c.tolist() if isinstance(c, np.ndarray) else c for c in columns.values()]


def _copied_in(connection: Connection, table: Table, columns: Mapping[str, Any]) -> None:
    quote = connection.dialect.identifier_preparer.quote
    target = f"{quote(table.name)} ({', '.join(map(quote, columns))})"
    whole = all(getattr(values, "dtype", None) == np.int64 for values in columns.values())
    data = _copy_binary(table, columns) if whole else _copy_lines(columns)
    cursor: Any = connection.connection.cursor()
    with _driver_errors(connection, cursor):
        form = "binary" if whole else "text"
        cursor.copy_expert(f"COPY {target} FROM STDIN (FORMAT {form})", io.BytesIO(data))


def _copy_binary(table: Table, columns: Mapping[str, Ints]) -> bytes:
    """Whole numbers as PostgreSQL keeps them: no number is written as text and read again."""
    widths = {name: _width(table.c[name].type) for name in columns}
    layout: list[tuple[str, str]] = [("count", ">i2")]
    for name, width in widths.items():
        layout += [(f"length of {name}", ">i4"), (name, f">i{width}")]
    rows = np.zeros(len(next(iter(columns.values()))), np.dtype(layout))
    rows["count"] = len(columns)
    for name, values in columns.items():
        rows[f"length of {name}"] = widths[name]
        rows[name] = values
        if not np.array_equal(rows[name], values):
            raise OverflowError(f"{name} does not fit in {widths[name]} bytes")
    return b"PGCOPY\n\xff\r\n\0" + bytes(8) + rows.tobytes() + b"\xff\xff"


def _width(kind: TypeEngine[Any]) -> int:
    if isinstance(kind, SmallInteger):
        return 2
    return 8 if isinstance(kind, BigInteger) else 4


def _copy_lines(columns: Mapping[str, Any]) -> bytes:
    texts = [_copy_texts(values) for values in _lists(columns)]
    lines = map("\t".join, zip(*texts, strict=True))
    return ("\n".join(lines) + "\n").encode()


def _copy_texts(values: list[Any]) -> list[str]:
    if isinstance(values[0], int) and None not in values:
        return list(map(str, values))
    return [r"\N" if value is None else str(value).translate(_COPY_ESCAPES) for value in values]


_COPY_ESCAPES = str.maketrans({"\\": r"\\", "\n": r"\n", "\r": r"\r", "\t": r"\t"})


@contextmanager
def _driver_errors(connection: Connection, cursor: Any) -> Iterator[None]:
    """What the driver itself raises, as SQLAlchemy would raise it; closes the cursor."""
    try:
        yield
    except connection.dialect.loaded_dbapi.Error as error:
        base = connection.dialect.loaded_dbapi.Error
        raise DBAPIError.instance(None, None, error, base) from error
    finally:
        cursor.close()


def _many(
    connection: Connection, statement: Any, names: Sequence[str], lists: Sequence[list[Any]]
) -> None:
    """Run a statement with a row of values at a time, by the driver's own executemany."""
    keys = None if statement.is_delete else list(names)
    compiled = statement.compile(dialect=connection.dialect, column_keys=keys)
    positions = compiled.positiontup
    rows: Any
    if positions is None:
        rows = [dict(zip(names, row, strict=True)) for row in zip(*lists, strict=True)]
    else:
        by_name = dict(zip(names, lists, strict=True))
        rows = list(zip(*(by_name[name] for name in positions), strict=True))
    cursor: Any = connection.connection.cursor()
    with _driver_errors(connection, cursor):
        for at in range(0, len(rows), ROWS_AT_ONCE):
            cursor.executemany(str(compiled), rows[at : at + ROWS_AT_ONCE])


def delete_rows(connection: Connection, table: Table, keys: Mapping[str, Ints]) -> None:
    """Delete the rows with these primary keys, in this order."""
    matches = (table.c[name] == bindparam(f"of_{name}") for name in keys)
    names = [f"of_{name}" for name in keys]
    _many(connection, table.delete().where(*matches), names, _lists(keys))


def add_columns(connection: Connection, table: Table, columns: Mapping[str, Ints]) -> None:
    """Add amounts to the rows with the same primary key, making the rows that are missing.

    Rows must come sorted by key: two writers then never wait for each other in a circle.
    """
    names = list(columns)
    lists = _lists(columns)
    amounts = [name for name in names if not table.c[name].primary_key]
    keys = [column.name for column in table.primary_key]
    if connection.dialect.name == "postgresql":
        _unnested(connection, table, names, lists, keys, amounts)
    elif connection.dialect.name == "sqlite":
        from sqlalchemy.dialects import sqlite

        new = sqlite.insert(table)
        change = {name: table.c[name] + new.excluded[name] for name in amounts}
        _many(connection, new.on_conflict_do_update(index_elements=keys, set_=change), names, lists)
    else:
        from sqlalchemy.dialects import mysql

        put = mysql.insert(table)
        change = {name: table.c[name] + put.inserted[name] for name in amounts}
        _many(connection, put.on_duplicate_key_update(change), names, lists)


def _unnested(  # noqa: PLR0913 - the parts of one statement
    connection: Connection,
    table: Table,
    names: Sequence[str],
    lists: Sequence[list[int]],
    keys: Sequence[str],
    amounts: Sequence[str],
) -> None:
    from sqlalchemy.dialects import postgresql

    # An array travels as one text: thousands of bound values cost more than the insert.
    arrays = [
        cast(literal("{" + ",".join(map(str, values)) + "}", Text), postgresql.ARRAY(BigInteger))
        for values in lists
    ]
    rows = func.unnest(*arrays).table_valued(*names, name="added").render_derived()
    new = postgresql.insert(table).from_select(list(names), select(*(rows.c[n] for n in names)))
    change = {name: table.c[name] + new.excluded[name] for name in amounts}
    connection.execute(new.on_conflict_do_update(index_elements=list(keys), set_=change))


def analyze(connection: Connection, tables: Sequence[Table]) -> None:
    """Tell the planner how the tables look now; only PostgreSQL's own worker comes too late."""
    if connection.dialect.name == "postgresql":
        for table in tables:
            connection.execute(text(f"ANALYZE {table.name}"))


def exact_sum(connection: Connection, values: ColumnElement[int]) -> list[ColumnElement[Any]]:
    """Sums from which `whole_sum` gives the exact sum of a column of 63-bit amounts from 0.

    SUM is an integer in one database, a Decimal in another, and fails in SQLite where it exceeds
    63 bits: there the halves are summed, which holds for 2^31 rows.
    """
    if connection.dialect.name == "sqlite":
        return [func.sum(values.bitwise_rshift(32)), func.sum(values.bitwise_and(0xFFFFFFFF))]
    return [func.sum(values)]


def whole_sum(parts: Sequence[Any]) -> int:
    """The exact sum from the values of the columns of `exact_sum`."""
    total = 0
    for part in parts:
        total = (total << 32) + int(part)
    return total

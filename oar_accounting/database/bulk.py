"""Columns into the databases and out of them, exact sums, and the planner's figures.

What differs between databases in bulk: COPY where there is COPY, the driver's executemany where
there is none.
"""

import io
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from itertools import chain
from typing import Any

import numpy as np
from sqlalchemy import (
    BigInteger,
    Column,
    ColumnElement,
    Select,
    SmallInteger,
    String,
    Table,
    Text,
    bindparam,
    case,
    cast,
    func,
    insert,
    literal,
    select,
    text,
)
from sqlalchemy.engine import Connection
from sqlalchemy.sql.compiler import SQLCompiler
from sqlalchemy.types import TypeEngine

from oar_accounting.core.columns import LARGEST, Ints
from oar_accounting.database.dialects import driver_errors
from oar_accounting.errors import AmountOverflow

#: Rows handed to the driver at once where there is no COPY.
ROWS_AT_ONCE = 20_000


def read_ints(connection: Connection, query: Select[Any]) -> list[Ints]:
    """The columns of a query that gives whole numbers only, none of them NULL."""
    return int_reader(connection, query)({})


def int_reader(
    connection: Connection, query: Select[Any]
) -> Callable[[Mapping[str, int]], list[Ints]]:
    """The same as a function of the query's parameters, for a query that is run many times.

    To turn a query into text takes longer than to find a few rows.
    """
    if connection.dialect.name == "postgresql":
        compiled = query.compile(dialect=connection.dialect)
        assert isinstance(compiled, SQLCompiler)
        return partial(_copied_out, connection, compiled, len(query.selected_columns))
    return partial(_fetched, connection, query)


def _fetched(
    connection: Connection, query: Select[Any], parameters: Mapping[str, int]
) -> list[Ints]:
    width = len(query.selected_columns)
    parts = [np.zeros((0, width), np.int64)]
    for rows in connection.execute(query, parameters).partitions(ROWS_AT_ONCE):
        # numpy asks a row what kind of array it is; asked number by number it is ten times faster.
        flat = np.fromiter(chain.from_iterable(rows), np.int64, len(rows) * width)
        parts.append(flat.reshape(-1, width))
    table = np.concatenate(parts)
    return [np.ascontiguousarray(table[:, i]) for i in range(width)]


_HEADER = 19  # bytes: signature, flags, length of the extension
_TRAILER = 2  # bytes: a field count of -1


def _copied_out(
    connection: Connection, compiled: SQLCompiler, fields: int, parameters: Mapping[str, int]
) -> list[Ints]:
    """Binary COPY: every row is a field count, then length and value of each field."""
    buffer = io.BytesIO()
    cursor: Any = connection.connection.cursor()
    with driver_errors(connection, cursor):
        state = compiled.construct_expanded_state(parameters)
        bound = cursor.mogrify(state.statement, state.parameters)
        cursor.copy_expert(b"COPY (" + bound + b") TO STDOUT (FORMAT binary)", buffer)
    rows = buffer.getbuffer()[_HEADER:-_TRAILER]
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
    with driver_errors(connection, cursor):
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
    with driver_errors(connection, cursor):
        for at in range(0, len(rows), ROWS_AT_ONCE):
            cursor.executemany(str(compiled), rows[at : at + ROWS_AT_ONCE])


def delete_rows(connection: Connection, table: Table, keys: Mapping[str, Ints]) -> None:
    """Delete the rows with these primary keys, in this order."""
    matches = (table.c[name] == bindparam(f"of_{name}") for name in keys)
    names = [f"of_{name}" for name in keys]
    _many(connection, table.delete().where(*matches), names, _lists(keys))


def add_columns(connection: Connection, table: Table, columns: Mapping[str, Any]) -> None:
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
    lists: Sequence[list[Any]],
    keys: Sequence[str],
    amounts: Sequence[str],
) -> None:
    from sqlalchemy.dialects import postgresql

    arrays = [_array(table.c[name], values) for name, values in zip(names, lists, strict=True)]
    rows = func.unnest(*arrays).table_valued(*names, name="added").render_derived()
    new = postgresql.insert(table).from_select(list(names), select(*(rows.c[n] for n in names)))
    change = {name: table.c[name] + new.excluded[name] for name in amounts}
    connection.execute(new.on_conflict_do_update(index_elements=list(keys), set_=change))


def _array(column: Column[Any], values: list[Any]) -> ColumnElement[Any]:
    """An array as one text: thousands of bound values cost more than the insert."""
    from sqlalchemy.dialects import postgresql

    kind: type[Any] = Text if isinstance(column.type, String) else BigInteger
    if kind is Text:
        quoted = {value: f'"{value.translate(_ARRAY_ESCAPES)}"' for value in set(values)}
        values = [quoted[value] for value in values]
    return cast(literal("{" + ",".join(map(str, values)) + "}", Text), postgresql.ARRAY(kind))


_ARRAY_ESCAPES = str.maketrans({"\\": r"\\", '"': r"\""})


def analyze(connection: Connection, tables: Sequence[Table]) -> None:
    """Tell the planner how the tables look now; only PostgreSQL's own worker comes too late."""
    if connection.dialect.name == "postgresql":
        for table in tables:
            connection.execute(text(f"ANALYZE {table.name}"))


def exact_sum(connection: Connection, values: ColumnElement[int]) -> list[ColumnElement[Any]]:
    """Sums from which `whole_sum` gives the exact sum of a column of 63-bit amounts.

    SUM is an integer in one database, a Decimal in another, and fails in SQLite where it exceeds
    63 bits: there the halves are summed, which holds for 2^31 rows.
    """
    if connection.dialect.name == "sqlite":
        return [func.sum(values.bitwise_rshift(32)), func.sum(values.bitwise_and(0xFFFFFFFF))]
    return [func.sum(values)]


def read_sums(
    connection: Connection,
    query: Select[Any],
    keys: Sequence[ColumnElement[int]],
    amounts: Sequence[ColumnElement[int]],
) -> list[Ints]:
    """The keys that the rows of a query have, all of them numbers, and the exact sums for each.

    Raises :class:`AmountOverflow` where a sum exceeds 63 bits.
    """
    halves = connection.dialect.name == "sqlite"
    sums = [part for each in amounts for part in exact_sum(connection, each)]
    if not halves:
        # A sum that does not fit must be no error of the database: that would end a transaction.
        sums = [
            case((each.between(-LARGEST, LARGEST), whole_number(each)), else_=_TOO_SMALL)
            for each in sums
        ]
    wanted: Sequence[ColumnElement[Any]] = [*keys, *sums]
    columns = read_ints(connection, query.with_only_columns(*wanted).group_by(*keys))
    found = columns[len(keys) :]
    if halves:
        found = [_joined(*found[at : at + 2]) for at in range(0, len(found), 2)]
    if any(np.any(column == _TOO_SMALL) for column in found):
        raise AmountOverflow.of_a_sum()
    return [*columns[: len(keys)], *found]


#: Stands for a sum that does not fit: no amount is so small.
_TOO_SMALL = -LARGEST - 1


def _joined(high: Ints, low: Ints) -> Ints:
    """The sums whose halves these are; `_TOO_SMALL` where one does not fit."""
    high = high + (low >> 32)
    joined: Ints = (high << 32) + (low & 0xFFFFFFFF)
    return np.where((high >= -(2**31)) & (high < 2**31), joined, _TOO_SMALL)


def whole_number(value: ColumnElement[Any]) -> ColumnElement[int]:
    """A sum or the like as a whole number of 63 bits; one that does not fit is an error."""
    return cast(value, BigInteger)


def whole_sum(parts: Sequence[Any]) -> int:
    """The exact sum from the values of the columns of `exact_sum`."""
    total = 0
    for part in parts:
        total = (total << 32) + int(part)
    return total

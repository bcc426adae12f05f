"""Has OAR the tables and columns that are read, and may our role read them?"""

from typing import Any

from sqlalchemy import Connection, Select, Table, false, literal_column, select
from sqlalchemy.exc import DBAPIError

from oar_accounting.database import dialects
from oar_accounting.errors import OarSchemaError
from oar_accounting.oar import oar_tables


def check_columns(connection: Connection, table: Table) -> frozenset[str]:
    """The columns that a table of OAR has.

    Raises :class:`OarSchemaError` where it cannot be read, or lacks a column of *table*.
    """
    present = _columns_of(connection, table)
    missing = sorted(set(table.columns.keys()) - present)
    if missing:
        raise OarSchemaError(
            f"{dialects.shown(connection.engine.url)}: OAR's table {table.name!r} has no "
            f"column {missing[0]!r}; is this the database of an OAR 2.5.9 or later?"
        )
    return present


def resource_log_unread(connection: Connection) -> str:
    """Why OAR's log of what resources were cannot be read; empty where it can."""
    try:
        check_columns(connection, oar_tables.resource_logs)
    except OarSchemaError as error:
        return str(error)
    return ""


def _columns_of(connection: Connection, table: Table) -> frozenset[str]:
    query: Select[Any] = select(literal_column("*")).select_from(table).where(false())
    try:
        with connection.begin_nested():
            return frozenset(connection.execute(query).keys())
    except DBAPIError as error:
        said = " ".join(str(error.orig).split())
        raise OarSchemaError(
            f"{dialects.shown(connection.engine.url)}: OAR's table {table.name!r} cannot be read "
            f"({said}); is this OAR's database, and has the role SELECT on the table?"
        ) from error

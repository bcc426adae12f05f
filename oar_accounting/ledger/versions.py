"""What each version of our tables added, and how tables of an earlier one are brought to it.

``sql/<database>/schema.sql`` and ``upgrade-to-N.sql`` are generated from here.
"""

from collections.abc import Sequence
from typing import Any

from sqlalchemy import (
    Column,
    Connection,
    Index,
    MetaData,
    PrimaryKeyConstraint,
    Table,
    inspect,
    select,
    text,
)
from sqlalchemy.schema import CreateIndex, CreateTable

from oar_accounting.core.columns import FROM_START
from oar_accounting.database import bulk, dialects, table_changes
from oar_accounting.ledger import schema

#: The tables that each version added to the one before.
ADDED: dict[int, tuple[Table, ...]] = {
    2: (schema.passes, schema.forgotten),
    3: (schema.openings, schema.adjustments, schema.adjusted, schema.attributes),
    4: (schema.days,),
    5: (),
    6: (schema.purged, schema.problems),
}
#: The columns and indexes that it added to tables which were there before.
ADDED_COLUMNS: dict[int, tuple[Column[Any], ...]] = {
    5: (schema.jobs.c.reach,),
    6: (
        schema.sites.c.grace,
        schema.sites.c.names,
        schema.sites.c.property_since,
        *(schema.jobs.c[name] for name in ("name", "exit_code", "nodes", "reservation")),
        schema.rates.c.start_time,
        schema.totals.c.site_id,
        schema.days.c.site_id,
    ),
}
ADDED_INDEXES = {5: ("accounting_entries_times", "accounting_jobs_times")}
SUMMED_NAMES = tuple(table.name for table in schema.SUMMED)
#: The tables whose primary key it changed.
REKEYED: dict[int, tuple[Table, ...]] = {6: (schema.rates, schema.totals, schema.days)}
#: The tables that it reads or writes as a whole, or locks, and how much longer than for a new key
#: that takes.
TAKES_TIME: dict[int, dict[Table, float]] = {
    4: {schema.totals: 1},
    5: {schema.jobs: 2.5},
    6: {schema.rates: 1, schema.totals: 1, schema.days: 1, schema.jobs: 0},
}

# A remainder has the sign of what is divided, in every database, and a time may be negative.
_FILL_DAYS = """\
INSERT INTO accounting_days (day_start, account_id, metric_id, asked, used)
SELECT
    t.window_start - (t.window_start % 86400 + 86400) % 86400,
    t.account_id,
    t.metric_id,
    SUM(t.asked),
    SUM(t.used)
FROM accounting_totals t
JOIN accounting_accounts a ON a.account_id = t.account_id
JOIN accounting_sites s ON s.site_id = a.site_id
WHERE s.window_seconds < 86400 AND 86400 % s.window_seconds = 0
GROUP BY 1, 2, 3"""
_SHORTER = "WHEN stop_time - start_time < {length} AND walltime < {length} THEN {reach}"
_FILL_REACH = "\n".join(
    (
        "UPDATE accounting_jobs SET reach = CASE",
        f"    WHEN closed = 0 THEN {schema.ENDLESS}",
        *(f"    {_SHORTER.format(length=2**reach, reach=reach)}" for reach in schema.REACHES),
        f"    ELSE {schema.ENDLESS}",
        "END",
    )
)
#: The site of the metric: somebody may have deleted an account by hand.
_FILL_SITE = """\
UPDATE {table} SET site_id = COALESCE((
    SELECT m.site_id FROM accounting_metrics m WHERE m.metric_id = {table}.metric_id
), 0)"""
#: The statements that fill what a version added from what stood there before.
FILLED: dict[int, tuple[str, ...]] = {
    4: (_FILL_DAYS,),
    5: (_FILL_REACH,),
    6: tuple(_FILL_SITE.format(table=table.name) for table in schema.SUMMED),
}


def ddl(database: str) -> str:
    """The statements that create our tables on *database* (postgresql, mariadb or sqlite)."""
    return _created(database, schema.metadata.sorted_tables) + (
        f"\n\nINSERT INTO {schema.schema_version.name} (version) VALUES ({schema.VERSION});\n"
    )


def upgrade_ddl(database: str, version: int) -> str:
    """The statements that bring our tables from the version before to *version*."""
    statements = _added(database, version) + _changed(database, version)
    statements.append(f"UPDATE {schema.schema_version.name} SET version = {version}")  # noqa: S608
    parts = [dialects.plain_sql(database)] if version in FILLED else []
    if version in REKEYED:
        parts = [table_changes.FIRST.get(database, ""), *parts]
        parts += table_changes.in_transaction(database, statements)
    else:
        parts += [f"{each};" for each in statements]
    return "\n\n".join(filter(None, parts)) + "\n"


def _added(database: str, version: int) -> list[str]:
    """The statements that add the tables of a version."""
    tables = [as_of(table, version) for table in ADDED[version]]
    return [_created(database, tables).removesuffix(";")] if tables else []


def _changed(database: str, version: int) -> list[str]:
    """The statements that change tables which were there before, and fill those that were not."""
    dialect = dialects.dialect_of(database)
    statements = [_add_column(database, column) for column in ADDED_COLUMNS.get(version, ())]
    statements += FILLED.get(version, ())
    for table in REKEYED.get(version, ()):
        statements += _rekey(database, as_of(table, version))
    for index in _indexes_added(version):
        statements.append(str(CreateIndex(index).compile(dialect=dialect)).strip())
    return statements


def as_of(table: Table, version: int, name: str | None = None) -> Table:
    """A table as it was in a version, without what later ones added; under another *name*."""
    later = {
        (column.table.name, column.name)
        for each, columns in ADDED_COLUMNS.items()
        for column in columns
        if each > version
    }
    kept = [column for column in table.columns if (table.name, column.name) not in later]
    if len(kept) == len(table.columns) and name is None:
        return table
    key = [column.name for column in table.primary_key.columns if column in kept]
    columns = [
        Column(c.name, c.type, nullable=c.nullable, server_default=c.server_default) for c in kept
    ]
    checks = dialects.whole_numbers("asked", "used") if table.name in SUMMED_NAMES else []
    # What else a table may have is copied when the first one of these has it.
    assert not table.indexes and len(table.constraints) == len(checks) + 1, table.name
    key_columns = PrimaryKeyConstraint(*key)
    return Table(name or table.name, MetaData(), *columns, key_columns, *checks, info=table.info)


def _add_column(database: str, column: Column[Any]) -> str:
    """The statement that adds a column; one that is filled later may be empty until then."""
    dialect = dialects.dialect_of(database)
    compiler: Any = CreateTable(column.table).compile(dialect=dialect)
    described = compiler.get_column_specification(column)
    if column.server_default is None:
        described = described.removesuffix(" NOT NULL")
    return _plain_defaults(f"ALTER TABLE {column.table.name} ADD COLUMN {described}")


def _rekey(database: str, table: Table) -> list[str]:
    """The statements that give a table its primary key in the place of another."""
    key = [column.name for column in table.primary_key.columns]
    anew = _created(database, [as_of(table, schema.VERSION, f"{table.name}_new")]).removesuffix(";")
    return table_changes.rekey(database, table.name, key, table.c.keys(), anew)


def _indexes_added(version: int) -> list[Index]:
    every = {str(index.name): index for t in schema.metadata.sorted_tables for index in t.indexes}
    return [every[name] for name in ADDED_INDEXES.get(version, ())]


def drop_ddl() -> str:
    """The statements that remove our tables and all that is recorded."""
    return "".join(
        f"DROP TABLE {table.name};\n" for table in reversed(schema.metadata.sorted_tables)
    )


def _created(database: str, tables: Sequence[Table]) -> str:
    dialects.complete(tables)
    dialect = dialects.dialect_of(database)
    statements = []
    for table in tables:
        statements.append(CreateTable(table).compile(dialect=dialect))
        statements += [
            CreateIndex(index).compile(dialect=dialect)
            for index in sorted(table.indexes, key=lambda index: str(index.name))
        ]
    texts = [str(statement).strip().replace("\t", "    ") for statement in statements]
    lines = "\n".join(f"{text};\n" for text in texts).splitlines()
    return _plain_defaults("\n".join(line.rstrip() for line in lines))


def _plain_defaults(statement: str) -> str:
    """The same without brackets around a number below zero, which not every SQLAlchemy writes.

    SQLite adds no column with such a default.
    """
    return statement.replace(f"({FROM_START})", str(FROM_START))


def create(connection: Connection) -> None:
    """Create what is missing of our tables, fill it where they are older, write the version."""
    before = schema.version_of(connection)
    dialects.complete(schema.metadata.sorted_tables)
    if before is None:
        schema.metadata.create_all(connection)
    else:
        _upgrade(connection, before)
    if not connection.execute(
        schema.schema_version.update().values(version=schema.VERSION)
    ).rowcount:
        connection.execute(schema.schema_version.insert().values(version=schema.VERSION))


def _upgrade(connection: Connection, before: int) -> None:
    """Add what came after the version *before*, also where an upgrade to it was interrupted."""
    # A writer of that version, which knows nothing of the new tables, is waited for; in MariaDB
    # another one may begin after the first change, and what it adds makes a later one fail.
    connection.execute(
        select(schema.sites.c.site_id).order_by(schema.sites.c.site_id).with_for_update()
    ).all()
    database = dialects.database_name(connection.engine)
    for version in range(before + 1, schema.VERSION + 1):
        added = [as_of(table, version) for table in ADDED[version]]
        dialects.complete(added)
        for table in added:
            table.create(connection, checkfirst=True)
        _add_columns(connection, database, version)
        if version in FILLED:
            # An upgrade by hand that was interrupted may have filled them.
            for table in added:
                connection.execute(table.delete())
        for statement in FILLED.get(version, ()):
            connection.execute(text(statement))
        for table in REKEYED.get(version, ()):
            _change_key(connection, database, as_of(table, version))
        for index in _indexes_added(version):
            index.create(connection, checkfirst=True)
        # MariaDB ends a transaction with every change: the next version may be interrupted.
        connection.execute(schema.schema_version.update().values(version=version))
    bulk.analyze(connection, [table for tables in REKEYED.values() for table in tables])


def _add_columns(connection: Connection, database: str, version: int) -> None:
    for column in ADDED_COLUMNS.get(version, ()):
        there = inspect(connection).get_columns(column.table.name)
        if column.name not in {each["name"] for each in there}:
            connection.execute(text(_add_column(database, column)))


def _change_key(connection: Connection, database: str, table: Table) -> None:
    key = inspect(connection).get_pk_constraint(table.name)["constrained_columns"]
    if key != [column.name for column in table.primary_key.columns]:
        for statement in _rekey(database, table):
            connection.execute(text(statement))

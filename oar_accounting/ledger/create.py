"""Our tables: created, brought to this version, or found to be there."""

from collections.abc import Callable

from sqlalchemy import Connection, Engine, Table, func, inspect, select

from oar_accounting.database import dialects, table_changes
from oar_accounting.errors import DatabaseError, SchemaError
from oar_accounting.ledger import schema, versions
from oar_accounting.ledger.ledger import check_version
from oar_accounting.ledger.records import UpgradePlan, UpgradeStep

#: How often tables are tried to be created while another process may be creating them.
CREATE_ATTEMPTS = 8
#: Seconds between two of these.
PAUSE = 0.2


def plan_upgrade(engine: Engine) -> UpgradePlan:
    """What :func:`create_tables` would do; nothing is changed.

    Raises :class:`SchemaError` where the tables are of a later version, or not complete.
    """
    with dialects.reading(engine) as connection:
        found = schema.version_of(connection)
        if found is None or found >= schema.VERSION:
            if found is not None:
                _check_complete(connection)
            return UpgradePlan(found=found, version=schema.VERSION, steps=())
        database = dialects.database_name(engine)
        times: dict[Table, float] = {}
        for version in range(found + 1, schema.VERSION + 1):
            for table, times_longer in versions.TAKES_TIME.get(version, {}).items():
                times[table] = times.get(table, 0) + times_longer
        there = [table for table in times if inspect(connection).has_table(table.name)]
        return UpgradePlan(
            found=found,
            version=schema.VERSION,
            steps=tuple(_step(connection, database, table, times[table]) for table in there),
            locks=table_changes.LOCKS[database],
        )


def _step(connection: Connection, database: str, table: Table, times: float) -> UpgradeStep:
    rows = int(connection.execute(select(func.count()).select_from(table)).scalar_one())
    seconds = rows / 1_000_000 * times * table_changes.SECONDS_A_MILLION[database]
    return UpgradeStep(table=table.name, rows=rows, seconds=seconds)


def create_tables(engine: Engine, wait: Callable[[float], None]) -> bool:
    """Create our tables, or bring them to this version; false where nothing was to do.

    *wait*: lets so many seconds pass. Raises :class:`SchemaError`, whose text ends with the SQL to
    run, where the role may not create tables, and where they are of another version.
    """
    if _are_there(engine):
        return False
    refused = ""
    for _ in range(CREATE_ATTEMPTS):
        try:
            dialects.let_readers_in(engine)
            with dialects.writing(engine) as connection:
                versions.create(connection)
            return True
        except DatabaseError as error:
            # Another process may be creating them at this moment.
            if _are_there(engine):
                return False
            refused = str(error)
            wait(PAUSE)
    raise SchemaError(
        f"the tables cannot be created: {refused}\nA role that may create tables can run this:"
        f"\n\n{_missing_ddl(engine)}"
    )


def _missing_ddl(engine: Engine) -> str:
    database = dialects.database_name(engine)
    with dialects.reading(engine) as connection:
        version = schema.version_of(connection)
    if version is None:
        return versions.ddl(database)
    missing = range(version + 1, schema.VERSION + 1)
    return "\n".join(versions.upgrade_ddl(database, each) for each in missing)


def _are_there(engine: Engine) -> bool:
    """True where our tables are there, in this version. Raises :class:`SchemaError`."""
    with dialects.reading(engine) as connection:
        if not schema.is_complete(connection):
            return False
        if (found := schema.version_of(connection)) is not None and found < schema.VERSION:
            return False
        _check_complete(connection)
    return True


def _check_complete(connection: Connection) -> None:
    """Raise :class:`SchemaError` unless tables of this version are there as they must be."""
    check_version(connection)
    if (missing := schema.first_missing(connection)) is not None:
        raise SchemaError(
            f"{dialects.shown(connection.engine.url)}: {missing} is missing; the tables were "
            "changed by hand, or restored in part"
        )

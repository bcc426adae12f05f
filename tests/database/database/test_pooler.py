"""Behind pgbouncer, where a connection to PostgreSQL is somebody else's after each transaction."""

import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import replace
from typing import Any

import pytest
from sqlalchemy import Engine, create_engine, make_url, text
from sqlalchemy.engine import URL

from oar_accounting import Accounting, DatabaseError
from oar_accounting.database import dialects
from oar_accounting.dropin import tables
from oar_accounting.settings.load import load_settings
from tests.database.ledger.test_roles import tell
from tests.servers import MissingServerError, NetworkServer, pooler
from tests.small_oar import DAY, NOW, T0, SmallOar, stopped_clock

pytestmark = pytest.mark.databases("postgresql")

#: What the administrator has set for everybody, in milliseconds.
DEFAULTS = {
    "statement_timeout": "123000",
    "lock_timeout": "45000",
    "idle_in_transaction_session_timeout": "67000",
}
#: All that a client can leave behind.
LEFT = {
    "settings": "SELECT name, setting FROM pg_settings WHERE source = 'session' AND name NOT IN"
    # These the pooler itself keeps for each of its clients.
    " ('client_encoding', 'application_name', 'DateStyle', 'TimeZone',"
    " 'standard_conforming_strings')",
    "encoding": "SELECT current_setting('client_encoding')",
    "role": "SELECT current_user, session_user",
    "temporary": "SELECT relname FROM pg_class WHERE relpersistence = 't'",
    "prepared": "SELECT name FROM pg_prepared_statements",
    "cursors": "SELECT name FROM pg_cursors WHERE is_holdable",
    "locks": "SELECT objid FROM pg_locks WHERE locktype = 'advisory'",
    "channels": "SELECT pg_listening_channels()",
    "timeouts": "SELECT name, setting FROM pg_settings WHERE name LIKE '%\\_timeout'"
    " AND source = 'database'",
}


class Pool:
    """A pooler, and databases behind it with one connection each that all clients share."""

    def __init__(self, server: NetworkServer, stack: ExitStack) -> None:
        self._server = server
        self._stack = stack
        self._url = pooler(server, stack)

    def add_database(self, encoding: str) -> str:
        """A database in this encoding with limits for everybody; its name."""
        url = self._server.create_database()
        name = str(make_url(url).database)
        tell(self._server.url, f"DROP DATABASE {name}")
        tell(
            self._server.url,
            f"CREATE DATABASE {name} TEMPLATE template0 ENCODING '{encoding}'"
            " LC_COLLATE 'C' LC_CTYPE 'C'",
        )
        for setting, milliseconds in DEFAULTS.items():
            tell(self._server.url, f"ALTER DATABASE {name} SET {setting} = {milliseconds}")
        self._stack.callback(self._server.drop_database, url)
        return name

    def url(self, name: str) -> URL:
        """The database by way of the pooler."""
        return self._url.set(database=name)

    def direct(self, name: str) -> Engine:
        """The database itself."""
        engine = create_engine(make_url(self._server.url).set(database=name))
        self._stack.callback(engine.dispose)
        return engine

    def found(self, name: str) -> dict[str, list[Any]]:
        """What a client finds in the connection, that sets nothing itself."""
        engine = create_engine(self.url(name))
        with engine.connect() as connection:
            found = {
                what: sorted(map(tuple, connection.execute(text(query))))
                for what, query in LEFT.items()
            }
        engine.dispose()
        return found


@pytest.fixture
def pool(server: NetworkServer) -> Iterator[Pool]:
    """A pooler before the server."""
    with ExitStack() as stack:
        try:
            made = Pool(server, stack)
        except MissingServerError as reason:
            pytest.skip(f"no pgbouncer: {reason}")
        yield made


def small_oar(engine: Engine) -> None:
    """An OAR with jobs of all kinds, and its own accounting."""
    oar = SmallOar(engine)
    for user in ("alice", "bob", "zoé"):
        oar.add_job(user=user)
    oar.add_job(state="Running", start=T0 + DAY)
    oar.add_job(state="Waiting", start=0, moldable=False)
    with engine.begin() as connection:
        tables.accounting.create(connection)


def use(accounting: Accounting) -> None:
    """Ask everything once, and write everything."""
    accounting.init()
    accounting.catch_up()
    accounting.record([1])
    accounting.rebuild(from_oar=True)
    assert [row.group for row in accounting.usage(("user",), ("node",)).rows]
    accounting.usage(("user",), start=T0, stop=T0 + DAY, bucket="day")
    accounting.utilisation(start=T0, stop=T0 + DAY)
    accounting.jobs()
    assert len(accounting.karma(now=NOW).job_id) == 1
    assert accounting.oaraccounting().jobs == 3
    assert accounting.oaraccounting(reinitialize=True).jobs == 3
    accounting.oaraccounting(reinitialize=True, dry_run=True)
    accounting.import_accounting()
    assert accounting.verify() == []


@pytest.mark.slow
@pytest.mark.parametrize("encoding", ["UTF8", "LATIN1"])
@pytest.mark.parametrize("limit", [None, 30.0])
def test_nothing_is_left_to_who_gets_the_connection_next(
    pool: Pool, encoding: str, limit: float | None
) -> None:
    oar, ours = (pool.add_database(encoding) for _ in range(2))
    small_oar(pool.direct(oar))
    before = [pool.found(name) for name in (oar, ours)]
    assert dict(before[0]["timeouts"]) == DEFAULTS
    assert before[0]["encoding"] == [(encoding,)]
    given = replace(load_settings(url=pool.url(oar)), url=pool.url(ours))
    with stopped_clock(), Accounting(given, limit=limit) as accounting:
        use(accounting)
        # Our connections to the pooler are still open.
        assert [pool.found(name) for name in (oar, ours)] == before
    assert [pool.found(name) for name in (oar, ours)] == before


@pytest.mark.slow
def test_each_transaction_has_its_limits(pool: Pool) -> None:
    url = pool.url(pool.add_database("UTF8"))
    engine = dialects.open_engine(url, limit=0.4)
    for transaction in (dialects.reading, dialects.writing):
        for _ in range(2):
            with transaction(engine) as connection:
                for name in DEFAULTS:
                    assert connection.execute(text(f"SHOW {name}")).scalar_one() == "400ms"
            with (
                pytest.raises(DatabaseError, match="statement timeout"),
                transaction(engine) as connection,
            ):
                connection.execute(text("SELECT pg_sleep(60)"))
            with pytest.raises(DatabaseError), transaction(engine) as connection:
                time.sleep(1)
                connection.execute(text("SELECT 1"))
    engine.dispose()


def test_a_lock_is_waited_for_as_long_as_the_limit_says(pool: Pool) -> None:
    name = pool.add_database("UTF8")
    with pool.direct(name).begin() as other:
        other.execute(text("CREATE TABLE held ()"))
    engine = dialects.open_engine(pool.url(name), limit=0.4)
    with pool.direct(name).begin() as other:
        other.execute(text("LOCK TABLE held"))
        for transaction in (dialects.reading, dialects.writing):
            with (
                pytest.raises(DatabaseError, match=r"waited 0\.4 s|statement timeout"),
                transaction(engine) as connection,
            ):
                connection.execute(text("SELECT * FROM held"))
    engine.dispose()

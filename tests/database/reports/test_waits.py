"""How long we wait for a server that does not answer, and for another writer; and what is said."""

import socket
import time
from collections.abc import Iterator
from typing import Any

import pytest

from oar_accounting import Accounting
from oar_accounting.database import dialects
from tests.servers import Database
from tests.small_oar import SmallOar
from tests.system.cli.test_cli import run, said


@pytest.fixture
def silent() -> Iterator[str]:
    """A server that accepts connections and never says a word; where it is."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield f"127.0.0.1:{server.getsockname()[1]}"


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["postgresql", "mysql", "mariadb"])
def test_a_server_that_never_answers_is_named_in_time(
    silent: str, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    # PostgreSQL's client waits two seconds at least.
    monkeypatch.setattr(dialects, "CONNECT_WAIT", 2)
    began = time.monotonic()
    done = run("--url", f"{kind}://u@{silent}/oar", "catch-up")
    assert 1 < time.monotonic() - began < 8
    assert f"u@{silent}/oar: the server does not answer" in said(done)
    assert done.returncode == 3


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["postgresql", "mysql"])
def test_the_url_may_say_how_long_to_wait(silent: str, kind: str) -> None:
    began = time.monotonic()
    done = run("--url", f"{kind}://u@{silent}/oar?connect_timeout=2", "usage")
    assert 1 < time.monotonic() - began < 8
    assert "does not answer" in said(done)


@pytest.mark.parametrize("kind", ["postgresql", "mysql"])
def test_a_wait_that_is_no_number_is_named(kind: str) -> None:
    done = run("--url", f"{kind}://u@127.0.0.1:1/oar?connect_timeout=soon", "usage")
    assert "soon" in said(done)
    assert done.returncode in (2, 3)


@pytest.mark.databases("mariadb")
def test_an_answer_may_take_longer_than_a_greeting(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dialects, "CONNECT_WAIT", 1)
    engine = dialects.open_engine(database.url)
    with dialects.reading(engine) as connection:
        assert connection.exec_driver_sql("SELECT SLEEP(2)").scalar_one() == 0
    engine.dispose()


@pytest.mark.slow
def test_a_writer_that_never_ends_is_told_in_our_words(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Accounting.open(url=database.url) as accounting:
        job = SmallOar(accounting.oar_engine).add_job()
        accounting.init()
        accounting.catch_up()
        monkeypatch.setattr(dialects, "LOCK_WAIT", 1)
        with accounting._ledger.writing():
            done = run("--url", database.url, "record", str(job))
    assert "waited 1 s for another writer of this site\n" in done.stderr
    assert done.returncode == 3


@pytest.mark.databases("postgresql")
def test_a_server_that_is_gone_is_noticed_unless_the_url_says_otherwise(database: Database) -> None:
    for url, idle in ((database.url, "60"), (f"{database.url}?keepalives_idle=7", "7")):
        engine = dialects.open_engine(url)
        connection: Any = engine.raw_connection()
        assert connection.dbapi_connection.info.dsn_parameters["keepalives_idle"] == idle
        connection.close()
        engine.dispose()

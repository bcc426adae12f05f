"""A server on this machine is reached by its socket where other clients reach it so."""

import gc
import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from secrets import token_hex

import pytest
from sqlalchemy import create_engine, make_url, text
from sqlalchemy.engine import URL

from oar_accounting import Accounting
from oar_accounting.database import sockets
from oar_accounting.database.dialects import parse_url
from tests.database.ledger.test_roles import tell
from tests.rules.settings.test_oar_conf import EITHER, OAR_3, read
from tests.servers import Database
from tests.system.cli.test_cli import run, said

DEBIANS = """
[mysqld]
socket = /of/the/server
[client-server]
socket = "/run/my sql/mysqld.sock"   # as the server has it
; socket = /commented/out
#socket = /commented/out
[mysql]
socket = /of/one/client
"""
INCLUDING = """
[client]
socket=/first
!includedir {directory}/conf.d
[mysqld]
socket = /of/the/server
!include {directory}/extra.cnf
!include {directory}/missing.cnf
"""


@pytest.fixture(autouse=True)
def nothing_set(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let this machine have no settings for clients, and no server in a usual place."""
    monkeypatch.setattr(sockets, "FILES", (str(tmp_path / "my.cnf"),))
    monkeypatch.setattr(
        sockets, "SOCKET_PLACES", (str(tmp_path / "a.sock"), str(tmp_path / "b.sock"))
    )


def socket_of(url: str) -> str | None:
    return sockets.socket_of(parse_url(url))


# -- where it is ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "url",
    [
        *("mysql://u@localhost/d", "mysql://u@localhost:3307/d", "mariadb://u:p@localhost/d"),
        *("mysql://u@/d", "mysql:///d", "mysql+pymysql://u@localhost/d?charset=utf8mb4"),
    ],
)
def test_localhost_and_no_host_mean_the_socket(url: str) -> None:
    assert socket_of(url) == sockets.SOCKET_PLACES[0]


@pytest.mark.parametrize(
    "host", ["127.0.0.1", "127.0.0.1:3307", "[::1]", "db.example.org", "localhost.localdomain"]
)
def test_every_other_host_means_an_address(host: str) -> None:
    assert socket_of(f"mysql://u@{host}/d") is None


def test_the_url_goes_first_then_the_clients_settings_then_the_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "b.sock").touch()
    assert socket_of("mysql://u@localhost/d") == str(tmp_path / "b.sock")
    monkeypatch.setenv("MYSQL_UNIX_PORT", "/of/the/environment")
    assert socket_of("mysql://u@localhost/d") == "/of/the/environment"
    (tmp_path / "my.cnf").write_text("[client]\nsocket=/of/my.cnf\n")
    assert socket_of("mysql://u@localhost/d") == "/of/my.cnf"
    for host in ("localhost", "db.example.org"):
        assert socket_of(f"mysql://u@{host}/d?unix_socket=/of/url") == "/of/url"
    (tmp_path / "my.cnf").write_text("[client]\nsocket=\n")
    assert socket_of("mysql://u@localhost/d") == "/of/the/environment"


@pytest.mark.parametrize(
    ("given", "found"),
    [
        ("", []),
        (DEBIANS, ["/run/my sql/mysqld.sock"]),
        (INCLUDING, ["/first", "/of/a", "/of/b", "/extra"]),
        ("[client]\nsocket='/x'\n[client]\nsocket=/y#z\n", ["/x", "/y"]),
        ("[client]\nSOCKET=/x\nsockets=/y\n[ client ]\nsocket=/z\n[clients]\nsocket=/z", []),
        ("[client]\n!include {directory}/my.cnf\nsocket=/x\n", ["/x"] * 11),
    ],
)
def test_the_clients_settings_are_read_as_they_read_them(
    tmp_path: Path, given: str, found: list[str]
) -> None:
    (tmp_path / "conf.d").mkdir()
    (tmp_path / "conf.d" / "b.cnf").write_text("[client-mariadb]\nsocket=/of/b\n")
    (tmp_path / "conf.d" / "a.cnf").write_text("[client-server]\nsocket = '/of/a'\n")
    (tmp_path / "conf.d" / "c.txt").write_text("[client]\nsocket=/not/read\n")
    (tmp_path / "extra.cnf").write_text("[client] # group\nsocket=/extra\n")
    file = tmp_path / "my.cnf"
    file.write_text(given.format(directory=tmp_path))
    assert list(sockets._sockets(file)) == found
    if shutil.which("my_print_defaults"):
        asked = ["my_print_defaults", f"--defaults-file={file}", *sockets.GROUPS]
        said = subprocess.run(asked, capture_output=True, text=True, timeout=60).stdout
        assert re.findall(r"^--socket=(.*)$", said, re.M) == found


# -- a server is reached by it ----------------------------------------------------------------


@pytest.fixture
def local(database: Database, monkeypatch: pytest.MonkeyPatch) -> Iterator[URL]:
    """The URL of a user who may only come in by the socket, beside a port that nobody has."""
    engine = create_engine(database.url)
    with engine.connect() as connection:
        socket = str(connection.execute(text("SELECT @@socket")).scalar_one())
    engine.dispose()
    if not Path(socket).is_socket():
        pytest.skip(f"the server's socket {socket} is not on this machine")
    monkeypatch.setenv("MYSQL_UNIX_PORT", socket)
    url = make_url(database.url)
    user = f"test_local_{token_hex(4)}"
    tell(database.url, f"CREATE USER {user}@localhost IDENTIFIED BY 'local'")
    tell(database.url, f"GRANT ALL ON {url.database}.* TO {user}@localhost")
    yield url.set(username=user, password="local", host="localhost", port=1)
    tell(database.url, f"DROP USER {user}@localhost")


def shown_by_doctor(*options: str) -> str:
    """OAR's database, as the doctor shows it."""
    return str(json.loads(run(*options, "doctor", "--json").stdout)["status"]["oar_database"])


@pytest.mark.databases("mariadb")
@pytest.mark.parametrize("host", ["localhost", None])
def test_a_url_comes_in_by_the_socket(local: URL, host: str | None) -> None:
    with Accounting.open(url=local.set(host=host, port=1 if host else None)) as accounting:
        assert accounting.init()
        with accounting.engine.connect() as connection:
            asked = text(
                "SELECT host FROM information_schema.processlist WHERE id = connection_id()"
            )
            assert connection.execute(asked).scalar_one() == "localhost"


@pytest.mark.databases("mariadb")
@pytest.mark.filterwarnings("ignore::ResourceWarning")
@pytest.mark.parametrize("host", ["localhost", '"localhost"', "''", '""'])
def test_so_does_oars_own_file_and_the_doctor_shows_it(
    local: URL, host: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    socket = str(sockets.socket_of(local))
    values = {"DB_TYPE": "mysql", "DB_HOSTNAME": host, "DB_PORT": "3306"}
    values |= {"DB_BASE_NAME": str(local.database), "DB_BASE_LOGIN": str(local.username)}
    read(tmp_path, EITHER, DB_BASE_PASSWD="local", **values)
    options = ("--oar-conf", f"{tmp_path}/oar.conf", "--config", f"{tmp_path}/a.toml")
    assert run(*options, "init").stderr == ""
    assert shown_by_doctor(*options).endswith(f", {socket}")
    monkeypatch.setenv("MYSQL_UNIX_PORT", str(tmp_path / "no.sock"))
    line = said(run(*options, "init"))
    name = "localhost" if "localhost" in host else "no host"
    assert line.endswith(f"; {name} means the socket {tmp_path}/no.sock, 127.0.0.1 is TCP")
    # The driver leaves open what could not be connected.
    gc.collect()


@pytest.mark.databases("mariadb")
def test_an_address_is_reached_by_tcp_whatever_socket_is_set(
    database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MYSQL_UNIX_PORT", str(tmp_path / "no.sock"))
    assert make_url(database.url).host == "127.0.0.1"
    with Accounting.open(url=database.url) as accounting:
        assert accounting.init()


@pytest.mark.databases("postgresql")
def test_no_host_is_the_socket_of_postgresql_too(
    database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As it is for OAR 3, whose library decides where that is."""
    engine = create_engine(database.url)
    with engine.connect() as connection:
        asked = text("SHOW unix_socket_directories")
        directory = str(connection.execute(asked).scalar_one()).partition(",")[0]
    engine.dispose()
    url = make_url(database.url)
    socket = Path(directory, f".s.PGSQL.{url.port}")
    if not directory or not socket.is_socket():
        pytest.skip("the server's socket is not on this machine")
    monkeypatch.setenv("PGHOST", directory)
    values = {"DB_HOSTNAME": '""', "DB_PORT": str(url.port), "DB_BASE_NAME": str(url.database)}
    values |= {"DB_BASE_LOGIN": str(url.username), "DB_BASE_PASSWD": str(url.password)}
    read(tmp_path, OAR_3, **values)
    options = ("--oar-conf", f"{tmp_path}/oar.conf", "--config", f"{tmp_path}/a.toml")
    assert run(*options, "init").stderr == ""
    assert shown_by_doctor(*options).endswith(f", {socket}")

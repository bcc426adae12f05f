"""Passwords: whatever they are made of they work, and nobody gets to see them."""

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from secrets import token_hex
from typing import Any

import pytest
from sqlalchemy import create_engine, make_url

from oar_accounting import SettingsError
from oar_accounting.settings.load import load_settings
from tests.database.ledger.test_roles import tell, without_password
from tests.servers import Database
from tests.small_oar import SmallOar
from tests.system.cli.test_cli import ROOT, Done, process, run

MARK = "geheim-7f3"
#: What an administrator may choose. OAR itself cuts a value of oar.conf at "#".
ODD = f""" {MARK} it's "odd"\\ %40 %zz @:/?&= é€ """
NETWORK = pytest.mark.databases("postgresql", "mariadb")
PLACES = ("--url", "oar.conf", "oar_url", "url", "oar_password_file", "password_file")


@pytest.fixture
def user(database: Database) -> Iterator[str]:
    """The URL by which a user comes in whose password is `ODD` and a `#`."""
    yield from logged_in(database, ODD + "#")


@pytest.fixture
def user_of_oar(database: Database) -> Iterator[str]:
    """The same without a `#`, as OAR can have it."""
    yield from logged_in(database, ODD)


def logged_in(database: Database, password: str) -> Iterator[str]:
    """A user who may do everything in the database, while the test lasts."""
    name = make_url(database.url).database
    user = f"test_secret_{token_hex(4)}"
    if database.kind == "postgresql":
        tell(database.url, f"CREATE ROLE {user} LOGIN PASSWORD %s", password)
        tell(database.url, f"GRANT ALL ON SCHEMA public TO {user}")
        gone = f"DROP OWNED BY {user} CASCADE; DROP ROLE {user}"
    else:
        tell(database.url, f"CREATE USER {user}@'%%' IDENTIFIED BY %s", password)
        tell(database.url, f"GRANT ALL ON {name}.* TO {user}@'%'")
        gone = f"DROP USER {user}@'%'"
    url = make_url(database.url).set(username=user, password=password)
    yield url.render_as_string(hide_password=False)
    tell(database.url, gone)


def arguments(directory: Path, place: str, url: str) -> list[str]:
    """The options under which the password of *url* stands in that place."""
    parsed = make_url(url)
    bare = without_password(url)
    conf, toml, secret = (directory / name for name in ("oar.conf", "a.toml", "secret"))
    for file in (conf, toml, secret):
        file.touch(mode=0o600)
    secret.write_text(f"{parsed.password}\n", encoding="utf-8")
    lines = {
        "DB_TYPE": {"postgresql": "Pg"}.get(parsed.get_backend_name(), "mysql"),
        "DB_HOSTNAME": parsed.host,
        "DB_PORT": parsed.port,
        "DB_BASE_NAME": parsed.database,
        "DB_BASE_LOGIN": parsed.username,
        "DB_BASE_PASSWD": parsed.password,
    }
    conf.write_text("".join(f'{k}="{v}"\n' for k, v in lines.items()), encoding="utf-8")
    oars = f"oar_url = '{bare}'\n"
    said = {
        "oar_url": f"oar_url = '{url}'\n",
        "oar_password_file": f"{oars}oar_password_file = '{secret}'\n",
        "url": f"{oars}url = '{url}'\n",
        "password_file": f"{oars}url = '{bare}'\npassword_file = '{secret}'\n",
    }
    if place in said:
        toml.write_text(said[place], encoding="utf-8")
        return ["--config", str(toml)]
    toml.write_text("", encoding="utf-8")
    return [
        "--config",
        str(toml),
        *({"--url": ["--url", url]}.get(place) or ["--oar-conf", str(conf)]),
    ]


# -- every password works ---------------------------------------------------------------------


@NETWORK
@pytest.mark.parametrize("place", [place for place in PLACES if place != "oar.conf"])
def test_a_password_may_be_made_of_anything(user: str, place: str, tmp_path: Path) -> None:
    done = run(*arguments(tmp_path, place, user), "init")
    assert done.returncode == 0, done.stderr
    assert MARK not in done.stdout + done.stderr


@NETWORK
def test_a_password_of_oar_may_be_made_of_anything_but_one(
    user_of_oar: str, tmp_path: Path
) -> None:
    done = run(*arguments(tmp_path, "oar.conf", user_of_oar), "init")
    assert done.returncode == 0, done.stderr
    assert MARK not in done.stdout + done.stderr


# -- and nobody gets to see it ----------------------------------------------------------------


@dataclass(frozen=True)
class Fault:
    """What is changed of a URL that works, and a word of what is said then."""

    changed: dict[str, Any]
    said: dict[str, str]


FAULTS = {
    "wrong password": Fault(
        {"password": f"{MARK} or so"},
        {"postgresql": "password authentication failed", "mariadb": "Access denied"},
    ),
    "unknown user": Fault(
        {"username": "nobody"},
        {"postgresql": "password authentication failed", "mariadb": "Access denied"},
    ),
    "unknown database": Fault(
        {"database": "nowhere"}, {"postgresql": "does not exist", "mariadb": "Access denied"}
    ),
    "no server": Fault({"port": 1}, {"postgresql": "refused", "mariadb": "refused"}),
    "no host": Fault(
        {"host": "no.such.host.invalid"}, {"postgresql": "translate host", "mariadb": "2003"}
    ),
}


@NETWORK
@pytest.mark.parametrize("fault", FAULTS)
def test_no_error_shows_it_wherever_it_stands(
    database: Database, user_of_oar: str, fault: str, tmp_path: Path
) -> None:
    url = make_url(user_of_oar).set(**FAULTS[fault].changed).render_as_string(hide_password=False)
    for place in PLACES:
        for debug in ([], ["--debug"]):
            done = run(*debug, *arguments(tmp_path, place, url), "usage")
            assert FAULTS[fault].said[database.kind] in done.stderr
            assert ("Traceback" in done.stderr) == bool(debug)
            assert MARK not in done.stdout + done.stderr
            assert done.returncode == (1 if debug else 3)


@pytest.mark.slow
@NETWORK
@pytest.mark.parametrize("place", PLACES)
def test_no_process_shows_it(
    database: Database, user_of_oar: str, place: str, tmp_path: Path
) -> None:
    url = make_url(user_of_oar).set(password=f"{MARK} or so").render_as_string(hide_password=False)
    done = process("--debug", *arguments(tmp_path, place, url), "catch-up")
    assert FAULTS["wrong password"].said[database.kind] in done.stderr
    assert MARK not in done.stdout + done.stderr


@pytest.mark.parametrize(
    "url",
    [
        f"postgresql://u:half@{MARK}@h/d",
        f"postgresql://u:half@x/{MARK}@h/d",
        f"mysql://u:half@{MARK}:1@h/d",
        f"mysql://u:{MARK}/d",
        f"mysql://u:{MARK}@h:port/d",
        f"postgresql://u@h/d?password={MARK}",
        f"postgresql://u:{MARK}%00@127.0.0.1:1/d",
        f"mysql://u:{MARK}%00€@127.0.0.1:1/d",
        f"postgresql://u:{MARK}#%@127.0.0.1:1/d",
        f"postgresql://u:{MARK}@127.0.0.1:1/d?colour=red",
        f"mysql://u:{MARK}@127.0.0.1:1/d?colour=red",
        f"postgresql+pg8000://u:{MARK}@h/d",
        f"oracle://u:{MARK}@h/d",
        f"sqlite://u:{MARK}@h/d",
        f"postgresql:/u:{MARK}@h/d",
    ],
)
def test_no_wrong_url_shows_it(url: str, tmp_path: Path) -> None:
    config = tmp_path / "a.toml"
    for debug in ([], ["--debug"]):
        for text in (f"oar_url = '{url}'", f"oar_url = 'sqlite:///x'\nurl = '{url}'"):
            config.write_text(text, encoding="utf-8")
            check_hidden(run(*debug, "--config", str(config), "usage"))
        check_hidden(run(*debug, "--url", url, "usage"))


def check_hidden(done: Done) -> None:
    """It has failed, and not said with what."""
    assert done.returncode in (1, 2, 3)
    assert "Error" in done.stderr or "oar-accounting: " in done.stderr
    assert MARK not in done.stdout + done.stderr


@pytest.mark.parametrize(
    "text",
    [
        f"url = postgresql://u:{MARK}@h/d",
        f'url = "postgresql://u:{MARK}@h/d',
        f'url = "postgresql://u:{MARK}\\@h/d"',
        f'url = "postgresql://u:{MARK}@h/d" x',
        f'url = "postgresql://u:{MARK}@h/d"\nurl = "postgresql://u:{MARK}@h/d"',
        f'url = ["postgresql://u:{MARK}@h/d"]',
        f'urls = "postgresql://u:{MARK}@h/d"',
        f'password = "{MARK}"',
        f'oar_password_file = "{MARK}"\noar_url = "postgresql://u@h/d"',
        f'password_file = ["{MARK}"]\nurl = "postgresql://u@h/d"',
    ],
)
def test_no_wrong_settings_show_it(text: str, tmp_path: Path) -> None:
    config = tmp_path / "a.toml"
    config.write_text(text, encoding="utf-8")
    for debug in ([], ["--debug"]):
        check_hidden(run(*debug, "--config", str(config), "usage"))


@pytest.mark.parametrize(
    "line",
    [f'DB_BASE_PASSWD="{MARK}#"', f'DB_BASE_PASSWD="{MARK}', f"DB_BASE_PASSWD={MARK}\udce9"],
)
def test_no_wrong_oar_conf_shows_it(line: str, tmp_path: Path) -> None:
    arguments(tmp_path, "oar.conf", "postgresql://u:p@127.0.0.1:1/d")
    conf = tmp_path / "oar.conf"
    with conf.open("a", encoding="utf-8", errors="surrogateescape") as file:
        file.write(line)
    for debug in ([], ["--debug"]):
        check_hidden(run(*debug, "--oar-conf", str(conf), "usage"))
    with pytest.raises(SettingsError, match="DB_BASE_PASSWD"):
        load_settings(oar_conf=conf, environ={})


def test_neither_the_journal_nor_the_systems_log_holds_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    logged: list[str] = []
    monkeypatch.setattr("syslog.syslog", lambda _, line: logged.append(line))
    oar = create_engine(f"sqlite:///{tmp_path}/oar.db")
    SmallOar(oar).add_job()
    oar.dispose()
    config = tmp_path / "a.toml"
    ours = tmp_path / "ours.db"
    for place in (oar.url, f"postgresql://u:{MARK}@127.0.0.1:1/oar"):
        config.write_text(f"oar_url = '{place}'\nurl = 'sqlite:///{ours}'\n", encoding="utf-8")
        run("--config", str(config), "init")
        run("--config", str(config), "catch-up", "--syslog")
    assert "1 jobs recorded" in logged[0]
    assert "u:***@127.0.0.1:1/oar" in logged[-1]
    assert MARK not in "".join(logged)
    kept = b"".join(file.read_bytes() for file in tmp_path.glob("ours.db*"))
    assert b"u:***@127.0.0.1:1/oar" in kept
    assert MARK.encode() not in kept


@pytest.mark.slow
@pytest.mark.parametrize("place", [place for place in PLACES if place != "--url"])
def test_the_list_of_processes_does_not_show_it(place: str, tmp_path: Path) -> None:
    """Nor the environment, and there are no children to have it."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"postgresql://u:{MARK}@127.0.0.1:{silent.getsockname()[1]}/oar"
        command = [sys.executable, "-m", "oar_accounting.cli", *arguments(tmp_path, place, url)]
        running = subprocess.Popen(
            [*command, "catch-up"],
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
        )
        silent.settimeout(60)
        accepted, _ = silent.accept()
        about = Path("/proc", str(running.pid))
        if about.exists():
            assert b"catch-up" in (about / "cmdline").read_bytes()
            assert MARK.encode() not in (about / "cmdline").read_bytes()
            assert MARK.encode() not in (about / "environ").read_bytes()
            children = (task / "children" for task in (about / "task").iterdir())
            assert [file.read_text() for file in children if file.read_text()] == []
        running.send_signal(signal.SIGKILL)
        running.communicate()
        accepted.close()


# -- who else can read it ---------------------------------------------------------------------


@pytest.mark.parametrize("place", [place for place in PLACES if place != "--url"])
def test_a_file_that_all_can_read_is_told_with_the_way_out(place: str, tmp_path: Path) -> None:
    chosen = arguments(tmp_path, place, f"postgresql://u:{MARK}@127.0.0.1:1/oar")
    name = {"oar.conf": "oar.conf", "oar_url": "a.toml", "url": "a.toml"}.get(place, "secret")
    assert "note:" not in run(*chosen, "usage").stderr
    for mode, told in ((0o640, 0), (0o604, 1), (0o644, 1), (0o600, 0)):
        (tmp_path / name).chmod(mode)
        done = run(*chosen, "usage")
        note, *error = done.stderr.splitlines()[-2:]
        assert len(done.stderr.splitlines()) == 1 + told
        if told:
            assert note.startswith(f"note: {tmp_path / name} holds a password")
            assert note.endswith(f"chmod o-r {tmp_path / name}")
            assert "refused" in error[0]
        assert MARK not in done.stderr


def test_a_password_on_the_command_line_is_told_with_the_way_out() -> None:
    done = run("--url", f"postgresql://u:{MARK}@127.0.0.1:1/oar", "usage")
    assert "list of processes; put it into a file that oar_password_file" in done.stderr
    assert MARK not in done.stderr
    assert "note:" not in run("--url", "postgresql://u@127.0.0.1:1/oar", "usage").stderr

"""``oar.conf`` as sites have it, from OAR 2 and from OAR 3, which do not read all of it alike."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import make_url
from sqlalchemy.engine import URL

from oar_accounting import SettingsError
from oar_accounting.settings.load import Settings, load_settings
from oar_accounting.settings.oar_conf import ONLY_OAR_2, ONLY_OAR_3
from tests.oar3_site import oar3
from tests.servers import Database
from tests.system.cli.test_cli import run
from tests.system.test_secrets import logged_in

#: What OAR 3 installs, without its comments and with its places filled in.
OAR_3 = """
DB_HOSTNAME="127.0.0.1"
DB_PORT="5432"
DB_BASE_NAME="oar"
DB_BASE_LOGIN="oar"
DB_BASE_PASSWD=""
DB_BASE_LOGIN_RO="oar_ro"
DB_BASE_PASSWD_RO=""
SERVER_HOSTNAME="localhost"
SERVER_PORT="6666"
OARSUB_DEFAULT_RESOURCES="/resource_id=1"
OARSUB_NODES_RESOURCES="network_address"
LOG_LEVEL="2"
LOG_CATEGORIES="all"
OAR_RUNTIME_DIRECTORY="/var/lib/oar"
LOG_FILE="/var/log/oar.log"
DETACH_JOB_FROM_SERVER="1"
OPENSSH_CMD="/usr/bin/ssh -p 6667"
SCHEDULER_JOB_SECURITY_TIME="60"
SCHEDULER_LOG_JOB_SCHEDULING_TIME="no"
SCHEDULER_JOB_SCHEDULING_TIME_YAML=""
SCHEDULER_RESOURCE_ORDER="scheduler_priority ASC, state_num ASC, resource_id ASC"
HIERARCHY_LABELS="resource_id,network_address,cpu,core"
MAX_JOB_PER_QUEUES_GROUP_SCHEDULING_ROUND="1000"
JOB_PRIORITY=FIFO
SCHEDULER_FAIRSHARING_MAX_JOB_PER_USER=30
JOB_RESOURCE_MANAGER_FILE="/etc/oar/job_resource_manager_systemd.pl"
CPUSET_PATH="/oar"
OARSTAT_DEFAULT_OUTPUT_FORMAT=2
API_SECRET_KEY="none"
API_ACCESS_TOKEN_EXPIRE_MINUTES="524160" # One year
ADMISSION_RULES_IN_FILES="yes"
"""

#: The same of OAR 2.5.9.
OAR_2 = """
DB_TYPE="Pg"
DB_HOSTNAME="127.0.0.1"
DB_PORT="5432"
DB_BASE_NAME="oar"
DB_BASE_LOGIN="oar"
DB_BASE_PASSWD="oar"
SERVER_HOSTNAME="localhost"
LOG_LEVEL="2"
SCHEDULER_TIMEOUT="10"
SCHEDULER_NB_PROCESSES=1
SCHEDULER_RESOURCE_ORDER="scheduler_priority ASC, state_num ASC, resource_id ASC"
SCHEDULER_RESOURCE_ORDER_ADV_RESERVATIONS="scheduler_priority ASC, resource_id ASC"
"""

#: What both know.
EITHER = """
DB_TYPE="Pg"
DB_HOSTNAME="127.0.0.1"
DB_BASE_NAME="oar"
DB_BASE_LOGIN="oar"
DB_BASE_PASSWD="oar"
"""


def read(tmp_path: Path, conf: str, toml: str = "", **values: str) -> Settings:
    """The settings where these values of *conf* are others; an empty one is left out."""
    lines = [line for line in conf.splitlines() if line.partition("=")[0] not in values]
    lines += [f"{key}={value}" for key, value in values.items() if value]
    (tmp_path / "oar.conf").write_text("\n".join(lines) + "\n", encoding="utf-8")
    (tmp_path / "oar.conf").chmod(0o600)
    (tmp_path / "a.toml").write_text(toml, encoding="utf-8")
    return load_settings(oar_conf=tmp_path / "oar.conf", config=tmp_path / "a.toml", environ={})


# -- which database ---------------------------------------------------------------------------


def test_the_file_that_oar_3_installs_means_postgresql(tmp_path: Path) -> None:
    given = read(tmp_path, OAR_3)
    assert given.oar_url == URL.create("postgresql+psycopg2", "oar", None, "127.0.0.1", 5432, "oar")
    assert given.warnings == ()
    assert read(tmp_path, OAR_3, DB_PORT="").oar_url.port == 5432


@pytest.mark.parametrize("kind", ["Pg", "pg", "psql", "pgsql", '"PgSQL"', "postgresql"])
@pytest.mark.parametrize("conf", [OAR_2, OAR_3, EITHER], ids=["OAR 2", "OAR 3", "either"])
def test_the_names_of_postgresql(tmp_path: Path, kind: str, conf: str) -> None:
    given = read(tmp_path, conf, DB_TYPE=kind)
    assert given.oar_url.drivername == "postgresql+psycopg2"


def test_a_missing_type_is_postgresql_but_for_oar_2(tmp_path: Path) -> None:
    """OAR 2 complains of it at every connection, and then takes MySQL."""
    given = read(tmp_path, EITHER, DB_TYPE="")
    assert given.oar_url.drivername == "postgresql+psycopg2"
    for conf, toml in ((OAR_2, ""), (EITHER, "oar_version = 2\n")):
        with pytest.raises(SettingsError, match="DB_TYPE is not set, and only OAR 3 has a default"):
            read(tmp_path, conf, toml, DB_TYPE="")
    given = read(tmp_path, OAR_2, "oar_version = 3\n", DB_TYPE="")
    assert given.oar_url.drivername == "postgresql+psycopg2"


# -- the password -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("conf", "toml", "password"),
    [
        (OAR_2, "", "p%40ss"),
        (OAR_3, "", "p@ss"),
        (EITHER, "oar_version = 2\n", "p%40ss"),
        (EITHER, "oar_version = 3\n", "p@ss"),
        (OAR_2, "oar_version = 3\n", "p@ss"),
        (OAR_3 + 'DB_TYPE="Pg"\n', "oar_version = 2\n", "p%40ss"),
        # An OAR 3 that goes on with the file of OAR 2.
        (OAR_2 + 'HIERARCHY_LABELS="resource_id,core"\n', "", "p@ss"),
    ],
)
def test_a_password_is_decoded_where_oar_is_3(
    tmp_path: Path, conf: str, toml: str, password: str
) -> None:
    given = read(tmp_path, conf, toml, DB_BASE_PASSWD='"p%40ss"', DB_BASE_LOGIN="o%61r")
    assert given.oar_url.password == password
    assert given.oar_url.username == ("oar" if "@" in password else "o%61r")
    assert given.warnings == ()


@pytest.mark.parametrize("only", sorted(ONLY_OAR_3))
def test_each_key_of_oar_3_alone_tells(tmp_path: Path, only: str) -> None:
    given = read(tmp_path, EITHER, DB_BASE_PASSWD="p%40ss", **{only: "x"})
    assert given.oar_url.password == "p@ss"
    assert not ONLY_OAR_2 & ONLY_OAR_3


@pytest.mark.parametrize("only", sorted(ONLY_OAR_2))
def test_each_key_of_oar_2_alone_tells(tmp_path: Path, only: str) -> None:
    given = read(tmp_path, EITHER, DB_BASE_PASSWD="p%40ss", **{only: "x"})
    assert given.oar_url.password == "p%40ss"
    assert given.warnings == ()


def test_where_nothing_tells_the_password_is_literal_and_the_key_is_named(tmp_path: Path) -> None:
    given = read(tmp_path, EITHER, DB_BASE_PASSWD="geheim%40x", DB_BASE_LOGIN="o%61r")
    assert given.oar_url.password == "geheim%40x"
    (warning,) = given.warnings
    assert "hexadecimal digits in DB_BASE_PASSWD and DB_BASE_LOGIN are one character" in warning
    assert warning.endswith(f"with oar_version = 2 or oar_version = 3 in {tmp_path}/a.toml")
    assert "geheim" not in warning
    done = run("--oar-conf", f"{tmp_path}/oar.conf", "--config", f"{tmp_path}/a.toml", "usage")
    assert done.stderr.startswith(f"note: {tmp_path}/oar.conf: a % and two hexadecimal digits in ")
    assert len(done.stderr.splitlines()) == 2
    assert read(tmp_path, EITHER, DB_BASE_PASSWD="100%+5%zz").warnings == ()
    secret = tmp_path / "secret"
    secret.write_text("p%40ss\n", encoding="utf-8")
    secret.chmod(0o600)
    toml = f'oar_password_file = "{secret}"\n'
    given = read(tmp_path, EITHER, toml, DB_BASE_PASSWD="geheim%40x")
    assert (given.oar_url.password, given.warnings) == ("p%40ss", ())


@pytest.mark.parametrize("value", ["1", "4", '"3"', "true", "3.0"])
def test_the_version_of_oar_is_2_or_3(tmp_path: Path, value: str) -> None:
    with pytest.raises(SettingsError, match=r"a\.toml: oar_version must be a whole number"):
        read(tmp_path, EITHER, f"oar_version = {value}\n")


@pytest.fixture
def user(database: Database) -> Iterator[str]:
    """The URL by which a user comes in whose password needs to be encoded in a URL."""
    yield from logged_in(database, "p@ss 50%")


@pytest.mark.databases("postgresql", "mariadb")
def test_it_is_the_password_by_which_oar_3_comes_in(
    database: Database, user: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At the first attempt; the other reading is not tried where that fails."""
    url = make_url(user)
    driver = {"postgresql": "psycopg2.connect", "mariadb": "pymysql.connections.Connection.connect"}
    attempts = counted(monkeypatch, driver[database.kind])
    values: dict[str, Any] = {
        "DB_TYPE": {"postgresql": "Pg", "mariadb": "mysql"}[database.kind],
        "DB_PORT": str(url.port),
        "DB_BASE_NAME": str(url.database),
        "DB_BASE_LOGIN": str(url.username),
        "DB_BASE_PASSWD": '"p%40ss 50%"',
    }
    options = ["--oar-conf", f"{tmp_path}/oar.conf", "--config", f"{tmp_path}/a.toml"]
    read(tmp_path, OAR_3, **values)
    done = run(*options, "init")
    assert (done.returncode, done.stderr) == (0, "")
    attempts.clear()
    read(tmp_path, OAR_3, "oar_version = 2\n", **values)
    assert run(*options, "usage").returncode == 3
    assert len(attempts) == 1


def counted(monkeypatch: pytest.MonkeyPatch, name: str) -> list[None]:
    """Something for each call of the function of this name."""
    module, _, attribute = name.rpartition(".")
    holder: Any = pytest.importorskip(module.partition(".")[0])
    for part in module.split(".")[1:]:
        holder = getattr(holder, part)
    real = getattr(holder, attribute)
    calls: list[None] = []

    def call(*arguments: Any, **keywords: Any) -> Any:
        calls.append(None)
        return real(*arguments, **keywords)

    monkeypatch.setattr(holder, attribute, call)
    return calls


# -- as OAR 3 itself --------------------------------------------------------------------------


@pytest.mark.oar3
@pytest.mark.parametrize(
    "values",
    [
        {},
        {"DB_TYPE": "psql", "DB_PORT": ""},
        {"DB_TYPE": "pgsql", "DB_HOSTNAME": "db.example.org"},
        {"DB_BASE_PASSWD": '"p%40ss"'},
        {"DB_BASE_PASSWD": "'p%25ss %C3%A9 50%+%zz&?=:/'"},
        {"DB_BASE_PASSWD": "pass'"},
        {"DB_BASE_PASSWD": '"a\'b"'},
        {"DB_BASE_PASSWD": '"it\'s \\"quoted\\""'},
        {"DB_BASE_LOGIN": '"o%61r"', "DB_BASE_PASSWD": "x # comment"},
    ],
)
def test_the_database_is_that_of_oar_3(tmp_path: Path, values: dict[str, str]) -> None:
    ours = read(tmp_path, OAR_3, **values).oar_url
    config = oar3().configuration.Configuration()
    config.load_file(str(tmp_path / "oar.conf"))
    theirs = make_url(config.get_sqlalchemy_uri())
    assert theirs.get_backend_name() == ours.get_backend_name()
    for part in ("username", "password", "host", "port", "database"):
        assert getattr(ours, part) == getattr(theirs, part), part

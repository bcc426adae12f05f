"""Settings from ``oar.conf``, from the TOML file and from arguments; every wrong one is named."""

from pathlib import Path

import pytest

from oar_accounting import SettingsError
from oar_accounting.settings import Settings, load

OAR_CONF = """
# OAR's settings, as Debian's package ships them
DB_TYPE="Pg"   # Pg or mysql
DB_HOSTNAME="db.example.org"
DB_PORT="5433"
DB_BASE_NAME="oar"
DB_BASE_LOGIN="oar"
DB_BASE_PASSWD="s3#cr'et/:@"
#ACCOUNTING_WINDOW="1"
ACCOUNTING_WINDOW = 3600
OPENSSH_CMD="/usr/bin/ssh -p 6667"
"""


def write(tmp_path: Path, name: str, text: str) -> str:
    file = tmp_path / name
    file.write_text(text, encoding="utf-8")
    return str(file)


def from_conf(tmp_path: Path, conf: str = OAR_CONF, toml: str = "") -> Settings:
    return load(
        oar_conf=write(tmp_path, "oar.conf", conf),
        config=write(tmp_path, "accounting.toml", toml),
        environ={},
    )


def from_toml(tmp_path: Path, toml: str) -> Settings:
    return load(config=write(tmp_path, "a.toml", toml), url="sqlite:///x", environ={})


def test_oar_conf_gives_database_and_window(tmp_path: Path) -> None:
    given = from_conf(tmp_path)
    assert given.oar_url.drivername == "postgresql+psycopg2"
    assert given.oar_url.host == "db.example.org"
    assert given.oar_url.port == 5433
    assert given.oar_url.password == "s3#cr'et/:@"
    assert given.url == given.oar_url
    assert given.window == 3600


def test_oar_conf_of_mysql_and_sqlite(tmp_path: Path) -> None:
    given = from_conf(tmp_path, OAR_CONF.replace('"Pg"', "mysql"))
    assert given.oar_url.drivername == "mysql+pymysql"
    assert given.oar_url.query["charset"] == "utf8mb4"
    given = from_conf(tmp_path, "DB_TYPE=sqlite\nDB_BASE_FILE=/var/oar.db\n")
    assert str(given.oar_url) == "sqlite+pysqlite:////var/oar.db"


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ('DB_TYPE="Pg"', 'DB_TYPE="Oracle"', "DB_TYPE must be Pg, mysql or sqlite, not 'Oracle'"),
        ('DB_TYPE="Pg"', "", "DB_TYPE is not set"),
        ('DB_HOSTNAME="db.example.org"', "", "DB_HOSTNAME is not set"),
        ('DB_PORT="5433"', 'DB_PORT="all"', "DB_PORT must be a number, not 'all'"),
        ("ACCOUNTING_WINDOW = 3600", "ACCOUNTING_WINDOW=1day", "ACCOUNTING_WINDOW must be"),
        ("ACCOUNTING_WINDOW = 3600", "ACCOUNTING_WINDOW=0", "ACCOUNTING_WINDOW must be"),
    ],
)
def test_a_wrong_value_of_oar_conf_is_named(tmp_path: Path, old: str, new: str, said: str) -> None:
    assert old in OAR_CONF
    with pytest.raises(SettingsError, match=said) as caught:
        from_conf(tmp_path, OAR_CONF.replace(old, new))
    assert "oar.conf" in str(caught.value)
    assert "s3#cr" not in str(caught.value)


def test_a_missing_file_names_the_way_out(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="nowhere"):
        load(oar_conf=tmp_path / "nowhere", environ={})
    with pytest.raises(SettingsError, match="nowhere"):
        load(environ={"OARCONFFILE": str(tmp_path / "nowhere")})
    with pytest.raises(SettingsError, match=r"none\.toml"):
        load(url="sqlite:///x", config=tmp_path / "none.toml", environ={})


def test_arguments_go_before_toml_and_toml_before_oar_conf(tmp_path: Path) -> None:
    conf = write(tmp_path, "oar.conf", OAR_CONF)
    toml = write(
        tmp_path,
        "a.toml",
        'oar_url = "mysql://u@h/oar"\nurl = "sqlite:///ours"\nwindow = 60\nsite = "lyon"\n',
    )
    environ = {"OARCONFFILE": conf, "OAR_ACCOUNTING_CONF": toml}
    given = load(environ=environ)
    assert given.oar_url.get_backend_name() == "mysql"
    assert given.url.database == "ours"
    assert (given.window, given.site) == (60, "lyon")
    given = load(environ=environ, url="postgresql://a@b/c", site="nancy")
    assert given.oar_url.get_backend_name() == "postgresql"
    assert given.url.database == "ours"
    assert given.site == "nancy"


def test_the_password_comes_from_a_file(tmp_path: Path) -> None:
    secret = write(tmp_path, "secret", "p@ss word\n")
    given = from_toml(tmp_path, f'url = "postgresql://w@h/d"\npassword_file = "{secret}"\n')
    assert given.url.password == "p@ss word"
    assert "p@ss" not in repr(given.url)
    given = from_toml(tmp_path, f'oar_password_file = "{secret}"\n')
    assert given.oar_url.password == "p@ss word"
    with pytest.raises(SettingsError, match="password_file goes with url"):
        from_toml(tmp_path, f'password_file = "{secret}"\n')
    empty = write(tmp_path, "empty", "")
    with pytest.raises(SettingsError, match="first line"):
        from_toml(tmp_path, f'url = "postgresql://w@h/d"\npassword_file = "{empty}"\n')


def test_metrics_are_declared_beside_the_built_in(tmp_path: Path) -> None:
    given = from_toml(tmp_path, '[metrics.core]\nunit = "core.s"\ndistinct = "core"\n')
    assert [metric.name for metric in given.metrics] == ["resource", "node", "core"]


@pytest.mark.parametrize(
    ("toml", "said"),
    [
        ("windw = 3", "unknown key 'windw'; known keys: containers, dimension"),
        ("window = 'x'", "window must be a whole number, not 'x'"),
        ("window = true", "window must be a whole number"),
        ("window = 0", "from 1 to"),
        ("site = 3", "site must be a text, not 3"),
        ("site = ''", "1 to 255 printable"),
        ("profile = 'modern'", "profile must be one of 'default', 'classic', not 'modern'"),
        ("containers = 1", "containers must be one of"),
        ("recheck_days = -1", "from 0 to"),
        ("dimension = 3", "dimension must be a text"),
        ("url = 'oracle://x'", "url: database URL: unknown kind 'oracle'"),
        ("url = 'rubbish'", "url: a database URL looks like"),
        ("metrics = 3", "metrics must be tables"),
        ("[metrics]\ncore = 3", r"metrics.core must be a table"),
        ("[metrics.core]\nunit = 'core.s'", "exactly one of"),
        ("[metrics.core]\n[metrics.core]", "not TOML"),
        ("window = ", "not TOML"),
    ],
)
def test_a_wrong_value_of_the_toml_file_is_named(tmp_path: Path, toml: str, said: str) -> None:
    with pytest.raises(SettingsError, match=said) as caught:
        from_toml(tmp_path, toml)
    assert "a.toml" in str(caught.value)


def test_a_file_that_is_no_text_is_named(tmp_path: Path) -> None:
    (tmp_path / "a.toml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(SettingsError, match="not UTF-8"):
        load(config=tmp_path / "a.toml", url="sqlite:///x", environ={})
    with pytest.raises(SettingsError, match="cannot be read"):
        load(config=tmp_path, url="sqlite:///x", environ={})


def test_a_wrong_url_never_shows_its_password() -> None:
    with pytest.raises(SettingsError) as caught:
        load(url="postgresql://u:secret@h:port/x", environ={})
    assert "secret" not in str(caught.value)

"""Settings from ``oar.conf``, from the TOML file and from arguments; every wrong one is named."""

import subprocess
from pathlib import Path

import pytest

from oar_accounting import SettingsError
from oar_accounting.settings.load import Settings, load_settings, with_karma_of

OAR_CONF = """
# OAR's settings, as Debian's package ships them
DB_TYPE="Pg"   # Pg or mysql
DB_HOSTNAME="db.example.org"
DB_PORT="5433"
DB_BASE_NAME="oar"
DB_BASE_LOGIN="oar"
DB_BASE_PASSWD="s3%cr'et/:@"
#ACCOUNTING_WINDOW="1"
ACCOUNTING_WINDOW = 3600
OPENSSH_CMD="/usr/bin/ssh -p 6667"
"""


def write(tmp_path: Path, name: str, text: str) -> str:
    file = tmp_path / name
    file.write_text(text, encoding="utf-8")
    return str(file)


def from_conf(tmp_path: Path, conf: str = OAR_CONF, toml: str = "") -> Settings:
    return load_settings(
        oar_conf=write(tmp_path, "oar.conf", conf),
        config=write(tmp_path, "accounting.toml", toml),
        environ={},
    )


def from_toml(tmp_path: Path, toml: str) -> Settings:
    return load_settings(config=write(tmp_path, "a.toml", toml), url="sqlite:///x", environ={})


def test_oar_conf_gives_database_and_window(tmp_path: Path) -> None:
    given = from_conf(tmp_path)
    assert given.oar_url.drivername == "postgresql+psycopg2"
    assert given.oar_url.host == "db.example.org"
    assert given.oar_url.port == 5433
    assert given.oar_url.password == "s3%cr'et/:@"
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
    assert "s3%cr" not in str(caught.value)


def test_a_missing_file_names_the_way_out(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="nowhere"):
        load_settings(oar_conf=tmp_path / "nowhere", environ={})
    with pytest.raises(SettingsError, match="nowhere"):
        load_settings(environ={"OARCONFFILE": str(tmp_path / "nowhere")})
    with pytest.raises(SettingsError, match=r"none\.toml"):
        load_settings(url="sqlite:///x", config=tmp_path / "none.toml", environ={})


def test_arguments_go_before_toml_and_toml_before_oar_conf(tmp_path: Path) -> None:
    conf = write(tmp_path, "oar.conf", OAR_CONF)
    toml = write(
        tmp_path,
        "a.toml",
        'oar_url = "mysql://u@h/oar"\nurl = "sqlite:///ours"\nwindow = 60\nsite = "lyon"\n',
    )
    environ = {"OARCONFFILE": conf, "OAR_ACCOUNTING_CONF": toml}
    given = load_settings(environ=environ)
    assert given.oar_url.get_backend_name() == "mysql"
    assert given.url.database == "ours"
    assert (given.window, given.site) == (60, "lyon")
    given = load_settings(environ=environ, url="postgresql://a@b/c", site="nancy")
    assert given.oar_url.get_backend_name() == "postgresql"
    assert given.url.database == "ours"
    assert given.site == "nancy"


@pytest.mark.parametrize(
    ("line", "password"),
    [
        ("DB_BASE_PASSWD=bare", "bare"),
        ("DB_BASE_PASSWD=bare#comment", "bare"),
        ("DB_BASE_PASSWD = two words  # comment", "two words"),
        ("DB_BASE_PASSWD=pass'", "pass'"),
        ("DB_BASE_PASSWD='single'", "single"),
        ("DB_BASE_PASSWD='a\"b'", 'a"b'),
        ('DB_BASE_PASSWD="it\'s \\"quoted\\""', 'it\'s \\"quoted\\"'),
        ('DB_BASE_PASSWD="a" "b"', 'a" "b'),
        ('DB_BASE_PASSWD=" 50%@:/?=é€ "', " 50%@:/?=é€ "),
        ('DB_BASE_PASSWD="old"\nDB_BASE_PASSWD="new"', "new"),
        ('DB_BASE_PASSWD=""', None),
        ('export DB_BASE_PASSWD="of a shell"', None),
    ],
)
def test_oar_conf_is_read_as_oar_reads_it(tmp_path: Path, line: str, password: str | None) -> None:
    """The expectations are what OAR 2's own Perl made of these lines; it knows no empty value."""
    conf = OAR_CONF.replace('DB_BASE_PASSWD="s3%cr\'et/:@"', line)
    assert from_conf(tmp_path, conf).oar_url.password == password


@pytest.mark.parametrize("value", ['"s3#cr"', "'s3#cr'", '"s3', '"', '"\'s3"'])
def test_a_value_that_oar_reads_in_two_ways_is_refused_where_it_is_needed(
    tmp_path: Path, value: str
) -> None:
    """OAR 2 reads what is left with the quote, OAR 3 without."""
    conf = OAR_CONF.replace('"s3%cr\'et/:@"', value)
    with pytest.raises(SettingsError, match="DB_BASE_PASSWD: OAR 2 and OAR 3 do not") as caught:
        from_conf(tmp_path, conf)
    assert "oar_password_file" in str(caught.value)
    assert "s3" not in str(caught.value)
    secret = write(tmp_path, "secret", "s3#cr\n")
    given = from_conf(tmp_path, conf, f'oar_password_file = "{secret}"\n')
    assert given.oar_url.password == "s3#cr"


def test_oar_conf_may_have_comments_in_any_encoding(tmp_path: Path) -> None:
    conf = tmp_path / "oar.conf"
    conf.write_bytes(b"# propri\xe9t\xe9s \x85\r\n" + OAR_CONF.encode())
    assert load_settings(oar_conf=conf, environ={}).window == 3600
    conf.write_bytes(OAR_CONF.replace("s3%cr", "é").encode("latin-1"))
    with pytest.raises(SettingsError, match="DB_BASE_PASSWD is not UTF-8 text"):
        load_settings(oar_conf=conf, environ={})


def test_the_password_comes_from_a_file(tmp_path: Path) -> None:
    secret = write(tmp_path, "secret", "p@ss word\u2028 \nsecond line\n")
    url = 'url = "postgresql://w@h/d"\n'
    given = from_toml(tmp_path, f'{url}password_file = "{secret}"\n')
    assert given.url.password == "p@ss word\u2028 "
    given = from_conf(tmp_path, toml=f'oar_password_file = "{secret}"\n')
    assert given.url.password == given.oar_url.password == "p@ss word\u2028 "
    Path(secret).write_bytes(b"written elsewhere\r\n")
    given = from_toml(tmp_path, f'{url}password_file = "{secret}"\n')
    assert given.url.password == "written elsewhere"
    assert from_toml(tmp_path, f'oar_password_file = "{secret}"\n').oar_url.password is None


def test_a_password_file_that_gives_none_is_named_by_its_key(tmp_path: Path) -> None:
    """Not by its name, which may be the password by mistake."""
    url = 'url = "postgresql://w@h/d"\n'
    with pytest.raises(SettingsError, match="password_file goes with url"):
        from_toml(tmp_path, 'password_file = "/dev/null"\n')
    with pytest.raises(SettingsError, match=r"a\.toml: the file that password_file .* first line"):
        from_toml(tmp_path, f'{url}password_file = "/dev/null"\n')
    with pytest.raises(SettingsError, match="password_file names: cannot be read: No") as caught:
        from_toml(tmp_path, f'{url}password_file = "geheim-7f3"\n')
    assert "geheim-7f3" not in str(caught.value)


def test_a_file_with_a_password_that_all_can_read_is_warned_about(tmp_path: Path) -> None:
    secret = write(tmp_path, "the secret", "p@ss\n")
    urls = 'oar_url = "mysql://u:p@h/oar"\nurl = "postgresql://w@h/d"\n'
    config = write(tmp_path, "a.toml", f'{urls}password_file = "{secret}"\n')
    for file in (config, secret):
        Path(file).chmod(0o604)
    by_url, by_file = load_settings(config=config, environ={}).warnings
    assert by_url.startswith(f"{config} holds a password")
    assert by_url.endswith(f"chmod o-r {config}")
    assert by_file.startswith(f"{secret} holds a password")
    assert by_file.endswith(f"chmod o-r '{secret}'")
    for file in (config, secret):
        Path(file).chmod(0o640)
    assert load_settings(config=config, environ={}).warnings == ()
    conf = write(tmp_path, "oar.conf", OAR_CONF)
    Path(conf).chmod(0o644)
    assert (
        load_settings(oar_conf=conf, environ={}).warnings[0].startswith(f"{conf} holds a password")
    )
    Path(conf).chmod(0o640)
    assert load_settings(oar_conf=conf, environ={}).warnings == ()


def test_a_file_without_a_password_may_be_read_by_all(tmp_path: Path) -> None:
    assert from_toml(tmp_path, 'url = "postgresql://w@h/d"\n').warnings == ()
    assert from_conf(tmp_path, OAR_CONF.replace("s3%cr'et/:@", "")).warnings == ()
    assert from_conf(tmp_path, "DB_TYPE=sqlite\nDB_BASE_FILE=/var/oar.db\n").warnings == ()


def test_a_variable_that_is_empty_is_not_set(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        "oar_accounting.settings.load.OAR_CONF", write(tmp_path, "o.conf", OAR_CONF)
    )
    monkeypatch.setattr("oar_accounting.settings.load.TOML", str(tmp_path / "none.toml"))
    empty = {"OARCONFFILE": "", "OAR_ACCOUNTING_CONF": ""}
    assert load_settings(environ=empty).window == 3600
    (tmp_path / "o.conf").unlink()
    with pytest.raises(SettingsError, match="there is no such file; name OAR's settings"):
        load_settings(environ=empty)


def test_metrics_are_declared_beside_the_built_in(tmp_path: Path) -> None:
    given = from_toml(tmp_path, '[metrics.core]\nunit = "core.s"\ndistinct = "core"\n')
    assert [metric.name for metric in given.metrics] == ["resource", "node", "core"]


def test_the_time_zone_is_utc_or_one_that_is_named(tmp_path: Path) -> None:
    assert from_toml(tmp_path, "").timezone == "UTC"
    assert from_toml(tmp_path, 'timezone = "Europe/Paris"\n').timezone == "Europe/Paris"


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
        ("names = 'utf-8'", "names must be one of 'stored', 'double_encoded', not 'utf-8'"),
        ("grace = -1", "grace must be a whole number from 0 to"),
        ("grace = 1.5", "grace must be a whole number, not 1.5"),
        ("grace = '1h'", "grace must be a whole number, not '1h'"),
        ("dimension = 3", "dimension must be a text"),
        ("timezone = 'Europe/Lyon'", "timezone must be a time zone like .* not 'Europe/Lyon'"),
        ("timezone = '../../etc/passwd'", "timezone must be a time zone like 'Europe/Paris'"),
        ("timezone = ''", "timezone must be a time zone like 'Europe/Paris', not ''"),
        ("timezone = 1", "timezone must be a text, not 1"),
        ("url = 'oracle://x'", "url: database URL: unknown kind 'oracle'"),
        ("url = 'rubbish'", "url: a database URL looks like"),
        ("metrics = 3", "metrics must be tables"),
        ("[metrics]\ncore = 3", r"metrics.core must be a table"),
        ("[metrics.core]\nunit = 'core.s'", "exactly one of"),
        ("[metrics.m]\nunit = 'x.s'\nformula = 'nodes'", "column 1: there is no metric 'nodes'"),
        ("[metrics.core]\n[metrics.core]", "not TOML"),
        ("window = ", "not TOML"),
    ],
)
def test_a_wrong_value_of_the_toml_file_is_named(tmp_path: Path, toml: str, said: str) -> None:
    with pytest.raises(SettingsError, match=said) as caught:
        from_toml(tmp_path, toml)
    assert "a.toml" in str(caught.value)


def test_a_byte_order_mark_is_no_part_of_what_is_written(tmp_path: Path) -> None:
    secret = write(tmp_path, "secret", "\ufeffp@ss\n")
    mark = f'\ufeffoar_url = "mysql://u@h/d"\noar_password_file = "{secret}"\nsite = "lyon"\n'
    given = load_settings(config=write(tmp_path, "a.toml", mark), environ={})
    assert given.site == "lyon"
    assert given.oar_url.password == "p@ss"
    other = write(tmp_path, "b.toml", '\ufeff[karma]\npolicy = "linear"\n')
    assert with_karma_of(given, other).karma == {"policy": "linear"}


def test_utf_16_is_named(tmp_path: Path) -> None:
    toml = 'url = "sqlite:///x"\n'
    for encoding in ("utf-16", "utf-16-le", "utf-16-be"):
        file = tmp_path / encoding
        file.write_bytes(toml.encode(encoding))
        with pytest.raises(SettingsError, match=f"{encoding}: not UTF-8 text but UTF-16"):
            load_settings(config=file, environ={})
        with pytest.raises(SettingsError, match=f"{encoding}: not UTF-8 text but UTF-16"):
            load_settings(oar_conf=file, environ={})
        with pytest.raises(SettingsError, match="the file that password_file names: not UTF-8"):
            from_toml(tmp_path, f'url = "mysql://u@h/d"\npassword_file = "{file}"\n')


def test_a_byte_order_mark_hides_the_first_line_of_oar_conf_from_oar(tmp_path: Path) -> None:
    """Both take it for the beginning of the key."""
    assert from_conf(tmp_path, "\ufeff" + OAR_CONF.lstrip()).window == 3600
    assert from_conf(tmp_path, "\ufeffOARSUB_FORCE_JOB_KEY=no" + OAR_CONF).window == 3600
    assert from_conf(tmp_path, "\ufeffDB_HOSTNAME=old.example.org" + OAR_CONF).window == 3600
    for line in ("DB_HOSTNAME=db.example.org", "ACCOUNTING_WINDOW = 3600"):
        key = line.split()[0].split("=")[0]
        conf = "\ufeff" + line + "\n" + OAR_CONF.replace(f"\n{key}", "\n#")
        with pytest.raises(SettingsError, match=f"OAR does not see {key}, .* byte order") as caught:
            from_conf(tmp_path, conf)
        command = str(caught.value).rpartition(": ")[2]
        subprocess.run(command, shell=True, check=True, timeout=60)
        given = load_settings(oar_conf=tmp_path / "oar.conf", environ={})
        assert (given.oar_url.host, given.window) == ("db.example.org", 3600)


def test_a_file_that_is_no_text_is_named(tmp_path: Path) -> None:
    (tmp_path / "a.toml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(SettingsError, match="not UTF-8"):
        load_settings(config=tmp_path / "a.toml", url="sqlite:///x", environ={})
    with pytest.raises(SettingsError, match="cannot be read"):
        load_settings(config=tmp_path, url="sqlite:///x", environ={})


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("postgresql://u:secret@h:port/x", "cannot be read as one"),
        ("postgresql://u:secret\udce9@h/x", "cannot be read as one"),
        ("mysql://u:half@secret@h/d", "is written %40"),
        ("mysql://u:half@x/secret@h/d", "is written %40"),
        ("postgresql://h/d?user=u&password=secret", "user:password@host, or in a file"),
        ("mysql://u@h/d?passwd=secret", "user:password@host, or in a file"),
        ("sqlite://u:secret@h/x", "needs a file"),
        ("mysql+aiomysql://u:secret@h/x", "driver 'aiomysql' is not used here"),
    ],
)
def test_a_wrong_url_never_shows_its_password(url: str, said: str) -> None:
    with pytest.raises(SettingsError, match=said) as caught:
        load_settings(url=url, environ={})
    assert "secret" not in str(caught.value)


def test_settings_never_show_a_password(tmp_path: Path) -> None:
    url = "postgresql://u:secret@h/x?sslpassword=secret"
    given = load_settings(url=url, environ={})
    assert "secret" not in repr(given) + str(given)

"""Settings: the database and window from ``oar.conf``, all of ours from one TOML file.

What is given on the command line goes before the TOML file, and that before ``oar.conf``. Every
wrong file, key, type or value is a :class:`SettingsError` that names it and what was expected.
"""

import os
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import date
from pathlib import Path
from typing import Any

from sqlalchemy.engine import URL

from oar_accounting.core.text_files import is_there, read_password, read_text
from oar_accounting.database.dialects import LONGEST_NAME, parse_url
from oar_accounting.errors import BadSpan, SettingsError
from oar_accounting.metrics.metric import BUILT_IN, Metric, parse_metric
from oar_accounting.oar.job_rules import CONTAINERS, PROFILES
from oar_accounting.oar.spellings import NAMES, STORED
from oar_accounting.settings import passwords
from oar_accounting.settings.oar_conf import OarConf, read_oar_conf

OAR_CONF = "/etc/oar/oar.conf"
TOML = "/etc/oar/accounting.toml"

SETTINGS_KEYS = (
    "containers",
    "dimension",
    "grace",
    "karma",
    "metrics",
    "names",
    "oar_password_file",
    "oar_url",
    "oar_version",
    "password_file",
    "profile",
    "property_since",
    "recheck_days",
    "scheduler",
    "site",
    "timezone",
    "url",
    "window",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """Everything a site can set."""

    oar_url: URL = field(repr=False)  #: OAR's database
    url: URL = field(repr=False)  #: the database of our tables
    site: str = "oar"
    window: int = 86_400  #: seconds
    dimension: str | None = None  #: None: ``cluster`` where OAR has that property
    profile: str = "default"
    containers: str = "outer"
    grace: int | None = None  #: seconds that a job may use beyond its walltime; None: any number
    names: str = STORED  #: how users and projects stand in OAR's database
    #: Properties of resources by name, and from when on OAR's log of each is believed.
    property_since: tuple[tuple[str, int], ...] = ()
    recheck_days: int = 7  #: jobs that ended within these days are compared by every pass
    timezone: str = "UTC"  #: in which people's days, weeks and months are
    metrics: tuple[Metric, ...] = BUILT_IN
    #: The table ``[karma]`` as it stands there; None without one. `karma.settings` reads it.
    karma: object = None
    #: The table ``[scheduler]`` likewise; `settings.scheduler` reads it.
    scheduler: object = None
    password_files: tuple[str, ...] = ()  #: the files that a password was read from
    file: str = TOML  #: where the settings came from, for messages
    oar_conf: str = OAR_CONF  #: OAR's own settings
    oar_version: int | None = None  #: 2 or 3; None: as the keys of `oar_conf` tell
    #: What is to be known of passwords, one line each: files that others can read, and a password
    #: that can be read in two ways.
    warnings: tuple[str, ...] = ()


def load_settings(
    *,
    oar_conf: str | Path | None = None,
    config: str | Path | None = None,
    url: str | URL | None = None,
    site: str | None = None,
    environ: Mapping[str, str] = os.environ,
) -> Settings:
    """The settings of a site.

    *oar_conf* defaults to ``$OARCONFFILE``, else /etc/oar/oar.conf; *config* to
    ``$OAR_ACCOUNTING_CONF``, else /etc/oar/accounting.toml where that exists; *url* is OAR's
    database and makes ``oar.conf`` unnecessary. Raises :class:`SettingsError`.
    """
    file, table = _toml(config, environ)
    given = _Toml(file, table)
    version = given.whole("oar_version", 2, 3) if "oar_version" in table else None
    needed = url is None and "oar_url" not in table
    conf = _oar_conf(oar_conf, environ, needed=needed, version=version)
    oar_url, own = _urls(url, given, conf)
    holding = dict.fromkeys((*conf.holding, *given.holding))
    return Settings(
        oar_url=oar_url,
        url=own,
        site=given.site() if site is None else checked_site(site, "--site"),
        window=given.whole("window", 1, 10**10) if "window" in table else conf.window(),
        dimension=given.text("dimension", "") if "dimension" in table else None,
        profile=given.one_of("profile", PROFILES),
        containers=given.one_of("containers", CONTAINERS),
        grace=given.whole("grace", 0, 9_999_999) if "grace" in table else None,
        names=given.one_of("names", NAMES),
        property_since=given.property_since(),
        recheck_days=given.whole("recheck_days", 0, 36_500) if "recheck_days" in table else 7,
        timezone=given.timezone(),
        metrics=(*BUILT_IN, *given.metrics()),
        karma=table.get("karma"),
        scheduler=table.get("scheduler"),
        password_files=tuple(given.password_files),
        file=file,
        oar_conf=str(oar_conf_file(oar_conf, environ)),
        oar_version=version,
        warnings=(
            *conf.undecided(file),
            *filter(None, map(passwords.readable_by_all, holding)),
        ),
    )


def _urls(url: str | URL | None, given: "_Toml", conf: OarConf) -> tuple[URL, URL]:
    """OAR's database and ours, with their passwords. Raises :class:`SettingsError`."""
    table = given.table
    if url is not None:
        oar_url = parse_url(url)
    elif "oar_url" in table:
        oar_url = given.url("oar_url")
    else:
        oar_url = conf.url(password="oar_password_file" not in table)
    oar_url = given.with_password(oar_url, "oar_password_file")
    if "url" in table:
        return oar_url, given.with_password(given.url("url"), "password_file")
    if "password_file" in table:
        raise SettingsError(
            f"{given.file}: password_file goes with url; OAR's is oar_password_file"
        )
    return oar_url, oar_url


def with_karma_of(given: Settings, file: str | Path) -> Settings:
    """The same settings with the ``[karma]`` of another file, and its metrics beside those given.

    Raises :class:`SettingsError`.
    """
    shown, table = _toml(file, {})
    read = _Toml(shown, table)
    if "karma" not in table:
        raise SettingsError(f"{shown}: there is no table [karma]")
    known = {metric.name for metric in given.metrics}
    others = (metric for metric in read.metrics() if metric.name not in known)
    return replace(given, karma=table["karma"], metrics=(*given.metrics, *others), file=shown)


def oar_window(given: Settings) -> int:
    """ACCOUNTING_WINDOW of ``oar.conf`` in seconds, whatever window is ours; a day without it.

    Raises :class:`SettingsError`.
    """
    return _conf_of(given).window()


def oar_login(given: Settings) -> str | None:
    """The role that OAR itself has in its database; None where ``oar.conf`` does not tell."""
    try:
        return _conf_of(given).login()
    except SettingsError:
        return None


def _conf_of(given: Settings) -> OarConf:
    environ = {"OARCONFFILE": given.oar_conf}
    return _oar_conf(None, environ, needed=False, version=given.oar_version)


def oar_values(given: Settings) -> dict[str, str]:
    """All values of ``oar.conf``, as OAR reads them; none where there is no such file.

    Raises :class:`SettingsError`.
    """
    file = Path(given.oar_conf)
    return read_oar_conf(file) if is_there(file) else {}


def oar_conf_file(named: str | Path | None = None, environ: Mapping[str, str] = os.environ) -> Path:
    """OAR's settings: the file *named*, else ``$OARCONFFILE``, else /etc/oar/oar.conf."""
    return Path(named or environ.get("OARCONFFILE") or OAR_CONF)


def checked_site(name: str, where: str) -> str:
    """The name of a site. Raises :class:`SettingsError` where it cannot be one."""
    if not 1 <= len(name) <= LONGEST_NAME or not name.isprintable():
        raise SettingsError(f"{where}: a name has 1 to {LONGEST_NAME} printable characters")
    return name


# -- the TOML file ----------------------------------------------------------------------------


def _toml(config: str | Path | None, environ: Mapping[str, str]) -> tuple[str, dict[str, Any]]:
    named = config if config is not None else environ.get("OAR_ACCOUNTING_CONF") or None
    file = Path(named or TOML)
    if named is None and not is_there(file):
        return str(file), {}
    try:
        return str(file), tomllib.loads(read_text(file, str(file)))
    except tomllib.TOMLDecodeError as error:
        raise SettingsError(f"{file}: not TOML: {error}") from None


class _Toml:
    """The checked values of the TOML file."""

    def __init__(self, file: str, table: Mapping[str, Any]) -> None:
        self.file = file
        self.table = table
        self.holding: list[str] = []  #: the files in which a password was found
        self.password_files: list[str] = []  #: those that hold nothing else
        for key in table:
            if key not in SETTINGS_KEYS:
                raise SettingsError(
                    f"{file}: unknown key {key!r}; known keys: {', '.join(SETTINGS_KEYS)}"
                )

    def _wrong(self, key: str, expected: str) -> SettingsError:
        secret = "url" in key or "password" in key
        shown = "what is there" if secret else repr(self.table[key])
        return SettingsError(f"{self.file}: {key} must be {expected}, not {shown}")

    def text(self, key: str, default: str) -> str:
        value = self.table.get(key, default)
        if not isinstance(value, str):
            raise self._wrong(key, "a text")
        return value

    def site(self) -> str:
        return checked_site(self.text("site", "oar"), f"{self.file}: site")

    def whole(self, key: str, lowest: int, highest: int) -> int:
        value = self.table[key]
        if isinstance(value, bool) or not isinstance(value, int):
            raise self._wrong(key, "a whole number")
        if not lowest <= value <= highest:
            raise self._wrong(key, f"a whole number from {lowest} to {highest}")
        return value

    def one_of(self, key: str, known: tuple[str, ...]) -> str:
        value = self.table.get(key, known[0])
        if value not in known:
            raise self._wrong(key, "one of " + ", ".join(map(repr, known)))
        return str(value)

    def timezone(self) -> str:
        """The name of a time zone."""
        if "timezone" not in self.table:
            return "UTC"
        # Most commands have no need of zones.
        from oar_accounting.core import periods

        name = self.text("timezone", "")
        try:
            periods.zone(name)
        except BadSpan:
            raise self._wrong("timezone", "a time zone like 'Europe/Paris'") from None
        return name

    def property_since(self) -> tuple[tuple[str, int], ...]:
        """From when on OAR's log of a property is believed, sorted by its name."""
        if "property_since" not in self.table:
            return ()
        # Most sites have no need of it, nor most commands of zones.
        from oar_accounting.core import periods

        table = self.table["property_since"]
        if not isinstance(table, dict):
            raise self._wrong("property_since", "a table like { mem = 2026-02-03 }")
        tz = periods.zone(self.timezone())
        found = []
        for name, said in sorted(table.items()):
            dated = isinstance(said, (str, int, date)) and not isinstance(said, bool)
            try:
                instant = periods.moment(str(said), tz) if dated else None
            except BadSpan:
                instant = None
            if instant is None:
                raise SettingsError(
                    f"{self.file}: property_since.{name} must be a date or a time like 2026-02-03 "
                    f"or '2026-02-03 12:00', not {said!r}"
                )
            found.append((name, instant))
        return tuple(found)

    def url(self, key: str) -> URL:
        """A database; its password may be within."""
        try:
            url = parse_url(self.text(key, ""))
        except SettingsError as error:
            raise SettingsError(f"{self.file}: {key}: {error}") from None
        if url.password:
            self.holding.append(self.file)
        return url

    def with_password(self, url: URL, key: str) -> URL:
        """The *url* with the password from the file that *key* names, if it names one."""
        if key not in self.table or url.get_backend_name() == "sqlite":
            return url
        # Its name is not shown: by mistake it may be the password itself.
        shown = f"{self.file}: the file that {key} names"
        file = self.text(key, "")
        password = read_password(Path(file), shown)
        self.holding.append(file)
        self.password_files.append(file)
        return url.set(password=password)

    def metrics(self) -> tuple[Metric, ...]:
        tables = self.table.get("metrics", {})
        if not isinstance(tables, dict):
            raise self._wrong("metrics", "tables like [metrics.core]")
        metrics = []
        for name, table in tables.items():
            if not isinstance(table, dict):
                raise SettingsError(
                    f"{self.file}: metrics.{name} must be a table, [metrics.{name}], not {table!r}"
                )
            metrics.append(parse_metric(name, table, self.file))
        if all(metric.form != "formula" for metric in metrics):
            return tuple(metrics)
        # Few sites have formulas, and every command would wait for what reads them.
        from oar_accounting.metrics.composed import compose

        return compose(metrics, self.file)


# -- oar.conf ---------------------------------------------------------------------------------


def _oar_conf(
    oar_conf: str | Path | None,
    environ: Mapping[str, str],
    *,
    needed: bool,
    version: int | None,
) -> OarConf:
    named = oar_conf if oar_conf is not None else environ.get("OARCONFFILE") or None
    file = oar_conf_file(oar_conf, environ)
    if oar_conf is None and not needed and not os.access(file, os.R_OK):
        return OarConf(str(file), {}, version)
    if needed and named is None and not is_there(file):
        raise SettingsError(
            f"{file}: there is no such file; name OAR's settings with --oar-conf FILE, or its "
            "database with --url URL"
        )
    return OarConf(str(file), read_oar_conf(file), version)

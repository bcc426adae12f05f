"""``oar.conf``: OAR's own settings, as OAR reads them.

OAR 2 hands login and password over as they stand. OAR 3 pastes them into a URL, in which ``%40``
is ``@``, and has all quotes taken off before.
"""

import re
from collections.abc import Mapping
from pathlib import Path
from shlex import quote
from urllib.parse import unquote

from sqlalchemy.engine import URL

from oar_accounting.core.text_files import BYTE_ORDER_MARK, is_utf_8, read_bare
from oar_accounting.database.dialects import parse_url
from oar_accounting.errors import SettingsError

# As OAR reads a line: a value ends at the first "#", also between quotes.
_LINE = re.compile(r"\s*([^#=\s]+)\s*=\s*([^#]*)")
_QUOTES = ("'", '"')
_ENCODED = re.compile("%[0-9A-Fa-f]{2}")
_DB_TYPES = {
    **dict.fromkeys(("pg", "psql", "pgsql", "postgresql"), "postgresql"),
    "mysql": "mysql",
    "sqlite": "sqlite",
}

#: Keys that one of the two sets or reads, and the other does not know.
ONLY_OAR_2 = frozenset(
    {
        "KILL_INNER_JOBS_WITH_CONTAINER",
        "MAX_DB_CONNECTION_TIMEOUT",
        "SCHEDULER_NB_PROCESSES",
        "SCHEDULER_RESOURCE_ORDER_ADV_RESERVATIONS",
    }
)
ONLY_OAR_3 = frozenset(
    {
        "ADMISSION_RULES_IN_FILES",
        "API_SECRET_KEY",
        "APPENDICE_SERVER_PORT",
        "BIPBIP_COMMANDER_PORT",
        "CUSTOM_JOB_SORTING",
        "EXTRA_METASCHED",
        "HIERARCHY_LABELS",
        "JOB_PRIORITY",
        "MAX_JOB_PER_QUEUES_GROUP_SCHEDULING_ROUND",
        "METASCHEDULER_MODE",
        "OARSTAT_DEFAULT_FIELD",
        "QUOTAS_CONF_FILE",
        "SCHEDULER_LOG_JOB_SCHEDULING_TIME",
    }
)


def read_oar_conf(file: Path) -> dict[str, str]:
    """All values of an ``oar.conf``, as OAR reads them. Raises :class:`SettingsError`."""
    # Comments may be in any encoding.
    text = read_bare(file, str(file))
    lines = map(_LINE.match, text.split("\n"))
    return {line[1]: _unquoted(line[2].strip()) for line in lines if line is not None}


def _version_of(values: Mapping[str, str]) -> int | None:
    """The version of OAR that knows these keys; None where any may."""
    # An OAR 3 may go on with the file of the OAR 2 that it replaced.
    if not ONLY_OAR_3.isdisjoint(values):
        return 3
    return None if ONLY_OAR_2.isdisjoint(values) else 2


def _unquoted(value: str) -> str:
    quoted = value.startswith(_QUOTES) and len(value) > 1 and value[0] == value[-1]
    return value[1:-1] if quoted else value


class OarConf:
    """The values of ``oar.conf`` that are read here.

    *version*: of OAR, 2 or 3, where our settings say it.
    """

    def __init__(self, file: str, values: Mapping[str, str], version: int | None = None) -> None:
        self._file = file
        self._values = values
        self._version = _version_of(values) if version is None else version
        self.holding: list[str] = []  #: this file where a password was found in it
        self._undecided: list[str] = []  #: the keys that OAR 2 and OAR 3 read in two ways

    def window(self) -> int:
        """ACCOUNTING_WINDOW in seconds; a day where it is not set."""
        said = self._value("ACCOUNTING_WINDOW", "86400")
        if not said.isascii() or not said.isdigit() or not 1 <= int(said) <= 10**10:
            raise SettingsError(
                f"{self._file}: ACCOUNTING_WINDOW must be a whole number of seconds, not {said!r}"
            )
        return int(said)

    def url(self, *, password: bool) -> URL:
        """OAR's database; without *password* that one is not looked at."""
        kind = self._kind()
        if kind == "sqlite":
            return parse_url(URL.create("sqlite", database=self._needed("DB_BASE_FILE")))
        default = "5432" if self._version == 3 and kind == "postgresql" else ""
        port = self._value("DB_PORT", default)
        if port and not (port.isascii() and port.isdigit()):
            raise SettingsError(f"{self._file}: DB_PORT must be a number, not {port!r}")
        secret = self._credential("DB_BASE_PASSWD") if password else ""
        if secret:
            self.holding.append(self._file)
        return parse_url(
            URL.create(
                kind,
                username=self.login(),
                password=secret or None,
                host=self._host(),
                port=int(port) if port else None,
                database=self._needed("DB_BASE_NAME"),
            )
        )

    def login(self) -> str:
        """The role that OAR itself has in its database."""
        self._needed("DB_BASE_LOGIN")
        return self._credential("DB_BASE_LOGIN")

    def _host(self) -> str | None:
        """DB_HOSTNAME; None where it is empty: the server's socket on this machine."""
        if "DB_HOSTNAME" in self._values:
            return self._value("DB_HOSTNAME") or None
        return self._needed("DB_HOSTNAME")

    def undecided(self, ours: str) -> list[str]:
        """A line where it matters which OAR it is and nothing tells; *ours*: our settings."""
        if not self._undecided:
            return []
        keys = " and ".join(self._undecided)
        return [
            f"{self._file}: a % and two hexadecimal digits in {keys} are one character for OAR 3, "
            "and three for OAR 2; no key tells which OAR this is, so they are taken for three; say "
            f"it with oar_version = 2 or oar_version = 3 in {ours}"
        ]

    def _kind(self) -> str:
        said = self._value("DB_TYPE")
        if not said and self._version == 2:
            raise SettingsError(f"{self._file}: DB_TYPE is not set, and only OAR 3 has a default")
        kind = _DB_TYPES.get(said.lower() or "pg")
        if kind is None:
            raise SettingsError(f"{self._file}: DB_TYPE must be Pg, mysql or sqlite, not {said!r}")
        return kind

    def _credential(self, key: str) -> str:
        """A login or a password."""
        value = self._value(key)
        if self._version == 3:
            return unquote(value.strip("".join(_QUOTES)))
        if self._version is None and _ENCODED.search(value):
            self._undecided.append(key)
        return value

    def _needed(self, key: str) -> str:
        value = self._value(key)
        if not value:
            raise SettingsError(f"{self._file}: {key} is not set")
        return value

    def _value(self, key: str, default: str = "") -> str:
        if key not in self._values and BYTE_ORDER_MARK + key in self._values:
            raise SettingsError(
                f"{self._file}: OAR does not see {key}, because the file begins with a byte order "
                f"mark; remove it with: sed -i '1s/^\\xEF\\xBB\\xBF//' {quote(self._file)}"
            )
        value = self._values.get(key, default)
        if not is_utf_8(value):
            raise SettingsError(f"{self._file}: {key} is not UTF-8 text")
        if value.startswith(_QUOTES):
            raise SettingsError(
                f"{self._file}: {key}: OAR 2 and OAR 3 do not read these quotes alike, and both "
                "cut a value off at a '#'; a password with either goes into the file that "
                "oar_password_file of our settings names"
            )
        return value

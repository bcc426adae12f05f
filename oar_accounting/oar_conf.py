"""``oar.conf``: OAR's own settings, as OAR reads them."""

import re
from collections.abc import Mapping
from pathlib import Path
from shlex import quote

from sqlalchemy.engine import URL

from oar_accounting.dialects import parse_url
from oar_accounting.errors import SettingsError
from oar_accounting.text_files import BYTE_ORDER_MARK, is_utf_8, read_bare

# As OAR reads a line: a value ends at the first "#", also between quotes.
_LINE = re.compile(r"\s*([^#=\s]+)\s*=\s*([^#]*)")
_QUOTES = ("'", '"')
_DB_TYPES = {"pg": "postgresql", "postgresql": "postgresql", "mysql": "mysql", "sqlite": "sqlite"}


def read_oar_conf(file: Path) -> dict[str, str]:
    """All values of an ``oar.conf``, as OAR reads them. Raises :class:`SettingsError`."""
    # Comments may be in any encoding.
    text = read_bare(file, str(file))
    lines = map(_LINE.match, text.split("\n"))
    return {line[1]: _unquoted(line[2].strip()) for line in lines if line is not None}


def _unquoted(value: str) -> str:
    quoted = value.startswith(_QUOTES) and len(value) > 1 and value[0] == value[-1]
    return value[1:-1] if quoted else value


class OarConf:
    """The values of ``oar.conf`` that are read here."""

    def __init__(self, file: str, values: Mapping[str, str]) -> None:
        self._file = file
        self._values = values
        self.holding: list[str] = []  #: this file where a password was found in it

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
        said = self._needed("DB_TYPE")
        kind = _DB_TYPES.get(said.lower())
        if kind is None:
            raise SettingsError(f"{self._file}: DB_TYPE must be Pg, mysql or sqlite, not {said!r}")
        if kind == "sqlite":
            return parse_url(URL.create("sqlite", database=self._needed("DB_BASE_FILE")))
        port = self._value("DB_PORT")
        if port and not (port.isascii() and port.isdigit()):
            raise SettingsError(f"{self._file}: DB_PORT must be a number, not {port!r}")
        secret = self._value("DB_BASE_PASSWD") if password else ""
        if secret:
            self.holding.append(self._file)
        return parse_url(
            URL.create(
                kind,
                username=self._needed("DB_BASE_LOGIN"),
                password=secret or None,
                host=self._needed("DB_HOSTNAME"),
                port=int(port) if port else None,
                database=self._needed("DB_BASE_NAME"),
            )
        )

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

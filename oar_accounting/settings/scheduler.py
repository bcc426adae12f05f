"""The ``[scheduler]`` section of the settings: how OAR's schedulers ask for our karma.

``oar-accounting stubs install`` writes it into the files that OAR calls.
"""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from oar_accounting.core import formats
from oar_accounting.core.lengths import length_of
from oar_accounting.core.text_files import read_password
from oar_accounting.database.dialects import as_user
from oar_accounting.errors import SettingsError
from oar_accounting.settings.load import Settings

SCHEDULER_KEYS = ("last_answer", "limit", "login", "password_file", "socket")
SOCKET = "/run/oar-accounting/karma.sock"
#: Seconds.
LAST_ANSWER = 3_600
SHORTEST, LONGEST_LIMIT = 1, 600


@dataclass(frozen=True, slots=True, kw_only=True)
class SchedulerSettings:
    """What a site sets about its schedulers."""

    socket: str = SOCKET  #: of the karma service
    limit: int | None = (
        None  #: seconds that a round may wait; None: what OAR 2 and OAR 3 usually do
    )
    last_answer: int = LAST_ANSWER  #: seconds for which an answer may be repeated; 0 for never
    login: str | None = None  #: the database user who asks for schedulers, in both databases
    password_file: str | None = None


def read_scheduler(given: Settings) -> SchedulerSettings:
    """Check the section. Raises :class:`SettingsError` with file, key and what was expected."""
    table: Any = {} if given.scheduler is None else given.scheduler
    where = f"{given.file}: [scheduler]"
    if not isinstance(table, dict):
        raise SettingsError(f"{where} must be a table, not {table!r}")
    for key in table:
        if key not in SCHEDULER_KEYS:
            raise SettingsError(
                f"{where}: unknown key {key!r}; known keys are {', '.join(SCHEDULER_KEYS)}"
            )
    found = SchedulerSettings(
        socket=_text(table, where, "socket", SOCKET),
        limit=_seconds(table, where, "limit", SHORTEST, LONGEST_LIMIT)
        if "limit" in table
        else None,
        last_answer=_seconds(table, where, "last_answer", 0, 10**9)
        if "last_answer" in table
        else LAST_ANSWER,
        login=_text(table, where, "login", None),
        password_file=_text(table, where, "password_file", None),
    )
    if not Path(str(found.socket)).is_absolute():
        raise SettingsError(f"{where}: socket must be a path from / on, not {found.socket!r}")
    if found.password_file is not None and found.login is None:
        raise SettingsError(f"{where}: password_file goes with login")
    return found


def with_its_login(given: Settings) -> Settings:
    """The same settings with the database user who asks for schedulers, where there is one.

    Raises :class:`SettingsError`.
    """
    found = read_scheduler(given)
    if found.login is None:
        return given
    password = None
    if found.password_file is not None:
        shown = f"{given.file}: the file that password_file of [scheduler] names"
        password = read_password(Path(found.password_file), shown)
    files = (*given.password_files, *filter(None, (found.password_file,)))

    url, oar_url = (as_user(each, found.login, password) for each in (given.url, given.oar_url))
    return replace(given, url=url, oar_url=oar_url, password_files=files)


def in_words(found: SchedulerSettings) -> str:
    """What a site sets, for people."""
    limit = "10 s (OAR 2) or 5 s (OAR 3)" if found.limit is None else formats.lasting(found.limit)
    last = f"for {formats.lasting(found.last_answer)}" if found.last_answer else "never"
    login = f", as {found.login}" if found.login else ""
    return f"waits {limit}, repeats the last answer {last}, asks at {found.socket}{login}"


def _text(table: dict[str, Any], where: str, key: str, default: str | None) -> Any:
    value = table.get(key, default)
    if value is not default and (not isinstance(value, str) or not value.isprintable()):
        raise SettingsError(f"{where}: {key} must be a text, not {value!r}")
    return value


def _seconds(table: dict[str, Any], where: str, key: str, lowest: int, highest: int) -> int:
    found = length_of(table[key])
    if found is None or not lowest <= found <= highest:
        raise SettingsError(
            f'{where}: {key} must be a length of time like "5s" or "1h" from {lowest} to '
            f"{highest} seconds, not {table[key]!r}"
        )
    return found

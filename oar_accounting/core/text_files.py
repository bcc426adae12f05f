"""Files of text that people write: settings and passwords."""

import re
from pathlib import Path

from oar_accounting.errors import SettingsError

#: What some editors put at the beginning of a file in UTF-8; it is no part of what is written.
BYTE_ORDER_MARK = "\ufeff"

#: What Python makes of bytes that are not UTF-8.
_NOT_UTF_8 = re.compile("[\udc80-\udcff]")


def is_there(file: Path) -> bool:
    """False where there is no such file; true too where that cannot be told."""
    try:
        return file.exists()
    except OSError:
        return True


def read_text(file: Path, shown: str) -> str:
    """The text of a *file*, which errors name as it is *shown*. Raises :class:`SettingsError`."""
    text = read_bare(file, shown)
    if not is_utf_8(text):
        raise SettingsError(f"{shown}: not UTF-8 text")
    return text.removeprefix(BYTE_ORDER_MARK)


def read_password(file: Path, shown: str) -> str:
    """The password in the first line of a *file*. Raises :class:`SettingsError`, also for none."""
    password = read_text(file, shown).split("\n")[0].removesuffix("\r")
    if not password:
        raise SettingsError(f"{shown}: the password is expected in the first line")
    return password


def read_bare(file: Path, shown: str) -> str:
    """The same with its byte order mark, and with bytes that are not UTF-8, as `is_utf_8` tells."""
    try:
        text = file.read_text(encoding="utf-8", errors="surrogateescape")
    except OSError as error:
        raise SettingsError(f"{shown}: cannot be read: {error.strerror}") from None
    # An ASCII letter has a byte of zero beside it in UTF-16, and no text has one in UTF-8.
    if "\0" in text:
        raise SettingsError(f"{shown}: not UTF-8 text but UTF-16, it seems; save it as UTF-8")
    return text


def is_utf_8(text: str) -> bool:
    """True where all of what `read_bare` gave is UTF-8."""
    return _NOT_UTF_8.search(text) is None

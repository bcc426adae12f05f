r"""Texts that are not UTF-8 are read all the same: ``\xe9`` stands for each byte that is not.

A PostgreSQL database of the encoding SQL_ASCII has whatever bytes programs have written, and so has
a file of SQLite. MariaDB knows the letters of each of its columns, and hands them on as UTF-8.
"""

import codecs
from functools import partial
from typing import Any

CODEC = "oar_accounting_utf_8"
#: The encoding of a PostgreSQL database that knows of none, and its name to the driver.
NO_ENCODING, _DRIVERS_NAME = "SQL_ASCII", "SQLASCII"


def read_with_sqlite(driver: Any) -> None:
    """Let a connection of sqlite3 read such texts."""
    driver.text_factory = partial(str, encoding="utf-8", errors="backslashreplace")


def read_with_psycopg2(driver: Any) -> None:
    """Let a connection of psycopg2 to a database without an encoding read such texts.

    What is written is UTF-8, as on every other connection.
    """
    from psycopg2.extensions import encodings

    # The driver looks up how to read when an encoding is set, and nowhere else can it be told.
    before = encodings[_DRIVERS_NAME]
    encodings[_DRIVERS_NAME] = CODEC
    try:
        driver.set_client_encoding(NO_ENCODING)
    finally:
        encodings[_DRIVERS_NAME] = before


def _decode(data: Any, _: str = "strict", /) -> tuple[str, int]:
    return codecs.utf_8_decode(data, "backslashreplace", True)


def _found(name: str) -> codecs.CodecInfo | None:
    if name != CODEC:
        return None
    return codecs.CodecInfo(encode=codecs.utf_8_encode, decode=_decode, name=CODEC)


codecs.register(_found)

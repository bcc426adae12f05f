"""The names of users and projects as OAR 2 shows them, where they stand encoded twice.

OAR 2 takes the bytes of a name for letters: ``été`` of a UTF-8 terminal stands as ``Ã©tÃ©`` in its
database, and comes out as ``été`` again where OAR prints it. Other programs see what stands there.
"""

import re

_OTHER_BYTE = re.compile(r"\\x[89a-f][0-9a-f]")

#: How the site says that names stand in OAR's database: as they are meant, or encoded twice.
NAMES = STORED, DOUBLE_ENCODED = ("stored", "double_encoded")


def decoded(name: str) -> str:
    """The name that stands there encoded twice; the same name where it does not.

    PostgreSQL has each byte as the letter of ISO 8859-1, MariaDB as that of its latin1, which is
    Windows' 1252.
    """
    if name.isascii():
        return name
    try:
        return b"".join(map(_byte, name)).decode()
    except UnicodeError:
        return name


def holds_other_bytes(text: str) -> bool:
    r"""True where ``\xe9`` or the like stands in the text, as for a byte that is not UTF-8."""
    return _OTHER_BYTE.search(text) is not None


def _byte(letter: str) -> bytes:
    """The byte that was taken for the letter. Raises UnicodeError where there is none."""
    return letter.encode("latin-1" if letter <= "\xff" else "cp1252")

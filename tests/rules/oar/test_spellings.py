"""Names that stand encoded twice in OAR 2's database, and those that only look a little like it."""

import pytest
from hypothesis import given
from hypothesis import strategies as some

from oar_accounting.oar.spellings import decoded


@pytest.mark.parametrize(
    ("stored", "shown"),
    [
        ("Ã©tÃ©", "été"),
        ("NoÃ«l", "Noël"),
        # PostgreSQL has the second byte of É as a control character, MariaDB as a sign.
        ("Ã\x89mile", "Émile"),
        ("Ã‰mile", "Émile"),
        ("Å\x93uvre", "œuvre"),
        ("Å“uvre", "œuvre"),
        ("\u00d0\u00b8", "и"),
        # As they are meant.
        ("bob", "bob"),
        ("été", "été"),
        ("Ã", "Ã"),
        ("Ã©tÃ© é", "Ã©tÃ© é"),
        ("日本", "日本"),
        ("", ""),
    ],
)
def test_a_name_is_read_as_oarstat_shows_it(stored: str, shown: str) -> None:
    assert decoded(stored) == shown


@given(some.text())
def test_every_name_that_oar_2_encodes_comes_back(name: str) -> None:
    as_postgresql_has_it = name.encode().decode("latin-1")
    assert decoded(as_postgresql_has_it) == name
    letters = [bytes([byte]) for byte in name.encode()]
    as_mariadb_has_it = "".join(
        each.decode("latin-1") if each in UNDEFINED else each.decode("cp1252") for each in letters
    )
    assert decoded(as_mariadb_has_it) == name


#: The bytes that Windows' 1252 leaves open, and MariaDB keeps.
UNDEFINED = (b"\x81", b"\x8d", b"\x8f", b"\x90", b"\x9d")

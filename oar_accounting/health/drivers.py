"""The drivers of databases in the environment that runs us: is each there, and once?

psycopg2 and psycopg2-binary hold the same files. Where both are installed, each has overwritten the
other's, and whichever is removed takes the files with it: pip then has the other on record, finds
nothing to do, and there is no driver.
"""

import sys
from collections.abc import Iterator, Sequence
from importlib.metadata import PackageNotFoundError, distribution
from importlib.util import find_spec
from pathlib import Path

from oar_accounting.health.records import Finding
from oar_accounting.stubs.oar_user import quoted

_SUBJECT = "drivers"
#: The distributions that hold the files of each module, the one that we ask for first.
DRIVERS = {"psycopg2": ("psycopg2-binary", "psycopg2"), "pymysql": ("PyMySQL",)}


def findings() -> Iterator[Finding]:
    """The drivers that are installed twice, or of which only pip's record is left."""
    for module, known in DRIVERS.items():
        places = {name: place for name in known if (place := _place(name)) is not None}
        names = list(places)
        # One beside this environment, such as the system's, is not touched by the other.
        if len(names) > len(set(places.values())):
            yield _twice(module, names)
        elif names and not _is_there(module):
            said = f"pip has {names[0]} on record, but its files are gone"
            yield Finding("bad", _SUBJECT, said, f"{_pip()} install --force-reinstall {names[0]}")


def _place(name: str) -> str | None:
    """The directory in which pip has a distribution on record."""
    try:
        return str(distribution(name).locate_file(""))
    except PackageNotFoundError:
        return None


def _is_there(module: str) -> bool:
    found = find_spec(module)
    # What is left of a directory of files counts as a package, of nothing.
    return found is not None and found.origin is not None


def _twice(module: str, names: Sequence[str]) -> Finding:
    said = (
        f"{' and '.join(names)} are both installed in {sys.prefix}, and hold the same files, those "
        f"of {module}: to remove one of the two leaves no driver"
    )
    mend = f"{_pip()} uninstall --yes {' '.join(names)} && {_pip()} install {names[0]}"
    return Finding("warning", _SUBJECT, said, mend)


def _pip() -> str:
    return f"{quoted(Path(sys.executable))} -m pip"

"""Which library this is, by the file that differs after every installation."""

import os
import sys
from pathlib import Path

import oar_accounting

#: The variable in which a process tells itself what the library was before it imported it.
BEFORE = "OAR_ACCOUNTING_LIBRARY_BEFORE"


def library_file() -> str:
    """The list that pip writes last of all, else the package itself, as in a checkout."""
    package = Path(oar_accounting.__file__)
    lists = sorted(package.parents[1].glob("oar_accounting-*.dist-info/RECORD"))
    return str(lists[-1] if lists else package)


def digest_before_imports() -> str:
    """The digest of `library_file` as it was before this process imported the library.

    Begins the process anew where that is not known: a process that begins while pip replaces the
    library may have half of either.
    """
    if (before := os.environ.pop(BEFORE, None)) is not None:
        return before
    from oar_accounting.stubs.oar3 import digest_of

    os.environ[BEFORE] = digest_of(library_file())
    os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])

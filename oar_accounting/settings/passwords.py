"""Passwords: who else can read them where they stand.

They come from ``oar.conf``, from a file of their own or from within a URL. No message, and no
``repr`` of the settings, ever shows one.
"""

import stat
from pathlib import Path
from shlex import quote

from sqlalchemy.engine import make_url


def readable_by_all(file: str) -> str | None:
    """A warning where every user of the machine may read a *file* that holds a password."""
    if not Path(file).stat().st_mode & stat.S_IROTH:
        return None
    return (
        f"{file} holds a password that every user of this machine can read; "
        f"keep it to yourself with: chmod o-r {quote(file)}"
    )


def seen_in_processes(url: str | None) -> str | None:
    """A warning where a *url* that was given on the command line has a password."""
    if url is None or not make_url(url).password:
        return None
    return (
        "every user of this machine can read the password of --url in the list of processes; "
        "put it into a file that oar_password_file of the settings names, or into ~/.pgpass"
    )

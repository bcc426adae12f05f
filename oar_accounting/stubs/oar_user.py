"""The user that OAR runs what it calls as: what that user may read and run, and what mends it.

Only mode bits are looked at: nothing is run, and nobody's identity is taken on.
"""

import os
import pwd
import shlex
from dataclasses import dataclass
from pathlib import Path
from stat import S_IMODE

from oar_accounting.stubs.plan import INSTALL

#: Who runs the hook.
USER = "oar"
#: A library that everybody can read.
LIBRARY = "/opt/oar-accounting"
AS_OAR = "su oar -s /bin/sh -c 'oar-accounting doctor'"


def way_to_run(denied: Path | None) -> str:
    """The command that lets OAR's user run a library that it may not, because of a directory.

    Somebody's home stays shut: the library then has to be where everybody can read it.
    """
    if denied is None or not _is_in_a_home(denied):
        return f"chmod a+rx {quoted(denied or Path(LIBRARY))}"
    command = f"{LIBRARY}/bin/{INSTALL}"
    return f"{install_library(Path(LIBRARY), '/usr/bin/python3', '--clear ')} && {command}"


def install_library(place: Path, python: str = "python3", how: str = "") -> str:
    """The command that installs a library of its own at a *place*."""
    pip = quoted(place / "bin" / "pip")
    return f"{python} -m venv {how}{quoted(place)} && {pip} install oar-accounting"


def _is_in_a_home(path: Path) -> bool:
    homes = {
        Path(each.pw_dir) for each in pwd.getpwall() if each.pw_uid in (0, *range(1000, 65000))
    }
    homes = {home for home in homes if len(home.parts) > 1} | {Path("/root")}
    return any(path.is_relative_to(home) or path == Path("/home") for home in homes)


@dataclass(frozen=True, slots=True, kw_only=True)
class User:
    """Somebody with an account on this machine."""

    name: str
    number: int
    groups: frozenset[int]

    @classmethod
    def named(cls, name: str) -> "User":
        """The user of this name. Raises :class:`KeyError`."""
        found = pwd.getpwnam(name)
        groups = frozenset(os.getgrouplist(name, found.pw_gid))
        return cls(name=name, number=found.pw_uid, groups=groups)

    def denied(self, path: Path, wanted: int) -> Path | None:
        """The first directory on the way that may not be entered, or the path itself."""
        for way in dict.fromkeys((path, path.resolve())):
            for each in reversed(way.parents):
                if not self._may(each, os.X_OK):
                    return each
        return None if self._may(path, wanted) else path

    def _may(self, path: Path, wanted: int) -> bool:
        try:
            found = path.stat()
        except OSError:
            return False
        whose = 6 if found.st_uid == self.number else 3 if found.st_gid in self.groups else 0
        return S_IMODE(found.st_mode) >> whose & wanted == wanted


def quoted(path: Path) -> str:
    """A path as a word of a command."""
    return shlex.quote(str(path))

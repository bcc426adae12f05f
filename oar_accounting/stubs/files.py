"""Stubs on disk: written, written down, and removed, each file at once."""

import json
import os
import shutil
import subprocess
import tempfile
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from oar_accounting.errors import StubError
from oar_accounting.site_setup import USER, User
from oar_accounting.stubs.plan import (
    DIRECTORY,
    EXECUTABLE,
    INFO,
    MODULE,
    OLD_TARGET,
    READABLE,
    STATE,
    VERSION,
    Link,
    Oar3,
    Plan,
    Stub,
    read_text,
)

#: What was written where, in the directory of the stubs.
LIST = "installed.json"
INSTALL = "oar-accounting stubs install"


# -- writing ----------------------------------------------------------------------------------


def install(planned: Plan) -> list[Path]:
    """Write what differs from the plan, each file at once; what was written.

    Modes hold whatever the umask is. Raises :class:`StubError` where something cannot be written;
    what was written by then stays, and is whole.
    """
    written = []
    try:
        for stub in planned.stubs:
            _make_directory(stub.path.parent)
            if not is_as_planned(stub):
                _replace(stub.path, stub.text, stub.mode)
                written.append(stub.path)
        for link in planned.links:
            if not (link.path.is_symlink() and link.path.readlink() == link.target):
                _relink(link)
                written.append(link.path)
        if planned.oar3 is not None:
            for other in planned.oar3.others:
                _replace(other, read_text(other).replace(OLD_TARGET, f"{MODULE}:"), READABLE)
                written.append(other)
            _compile(planned.oar3)
    except OSError as error:
        name = error.filename or planned.directory
        raise StubError(f"{name}: cannot be written: {error.strerror}") from None
    return written


def make_state(state: Path = STATE, user: str = USER) -> list[Path]:
    """Make the directory of what stubs remember, for OAR's user alone; what was made.

    Raises :class:`StubError`. A machine without that user has no OAR that would need it.
    """
    try:
        owner = User.named(user)
    except KeyError:
        return []
    if state.is_dir():
        return []
    try:
        _make_directory(state.parent)
        state.mkdir(mode=0o700)
        shutil.chown(state, owner.name, owner.name)
        state.chmod(0o700)
    except (OSError, LookupError) as error:
        raise StubError(f"{state}: cannot be made for {user}: {error}") from None
    return [state]


def is_as_planned(stub: Stub) -> bool:
    """True where the file is there with that text and mode."""
    try:
        mode = stub.path.stat().st_mode & 0o7777
        return mode == stub.mode and stub.path.read_text("utf-8") == stub.text
    except (OSError, UnicodeDecodeError):
        return False


def _make_directory(path: Path) -> None:
    """Make a directory and those above it, which everybody may enter."""
    if path.is_dir():
        return
    _make_directory(path.parent)
    path.mkdir()
    path.chmod(EXECUTABLE)


def _replace(path: Path, text: str, mode: int) -> None:
    """Put a file in the place of another, so that there is always one and it is whole."""
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=".new-")
    try:
        with open(handle, "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fchmod(file.fileno(), mode)
            os.fsync(file.fileno())
        os.replace(name, path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise


def _relink(link: Link) -> None:
    new = link.path.with_name(f".new-{link.path.name}")
    new.unlink(missing_ok=True)
    new.symlink_to(link.target)
    new.replace(link.path)


def _compile(environment: Oar3) -> None:
    """Spare every round the compiling of the stub; OAR could not keep what it compiles there."""
    with suppress(OSError, subprocess.SubprocessError):
        subprocess.run(
            [environment.python, "-I", "-m", "compileall", "-q", f"{MODULE}.py"],
            cwd=environment.packages,
            capture_output=True,
            timeout=60,
            umask=0o022,
        )


# -- what was written -------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Installed:
    """What stands on this machine, as the last ``stubs install`` wrote it down."""

    directory: Path
    version: int
    python: Path  #: of the library that the stubs run
    files: tuple[Path, ...]
    links: tuple[Path, ...]
    oar3_python: Path | None

    @property
    def schedulers(self) -> Path | None:
        """The directory of OAR 2's schedulers, where there are any."""
        return self.links[0].parent if self.links else None


def write_list(planned: Plan, python: Path, before: Installed | None = None) -> None:
    """Write down what was written, for `read_list`, and what is left of what stood *before*.

    Raises :class:`StubError`.
    """
    oar3_python = None if planned.oar3 is None else str(planned.oar3.python)
    files = [stub.path for stub in planned.stubs]
    links = [link.path for link in planned.links]
    if before is not None:
        files += [each for each in before.files if each.exists() and each not in files]
        links += [each for each in before.links if each.is_symlink() and each not in links]
    text = json.dumps(
        {
            "version": VERSION,
            "python": str(python),
            "files": list(map(str, files)),
            "links": list(map(str, links)),
            "oar3_python": oar3_python,
        },
        indent=1,
    )
    try:
        _replace(planned.directory / LIST, text + "\n", READABLE)
    except OSError as error:
        raise StubError(f"{planned.directory}: cannot be written: {error.strerror}") from None


def read_list(directory: Path = DIRECTORY) -> Installed | None:
    """What stands below *directory* and elsewhere; None where nothing was installed.

    Raises :class:`StubError` where the list cannot be read.
    """
    file = directory / LIST
    if not file.exists():
        return None
    try:
        values = json.loads(file.read_text("utf-8"))
        other = values["oar3_python"]
        return Installed(
            directory=directory,
            version=int(values["version"]),
            python=Path(values["python"]),
            files=tuple(map(Path, values["files"])),
            links=tuple(map(Path, values["links"])),
            oar3_python=None if other is None else Path(other),
        )
    except (OSError, ValueError, KeyError, TypeError):
        raise StubError(f"{file}: cannot be read; write it anew with: {INSTALL}") from None


def last_list(directory: Path) -> Installed | None:
    """The same for who writes it anew: what cannot be read was not there."""
    with suppress(StubError):
        return read_list(directory)
    return None


# -- removing ---------------------------------------------------------------------------------


def remove(installed: Installed) -> list[Path]:
    """Remove what was installed; what was there. Raises :class:`StubError`.

    What is found by others goes before what it leads to.
    """
    order = sorted(installed.files, key=lambda each: each.name != "entry_points.txt")
    removed = []
    try:
        for path in (*installed.links, *order, installed.directory / LIST):
            if path.is_symlink() or path.exists():
                path.unlink()
                removed.append(path)
        for module in (each for each in installed.files if each.name == f"{MODULE}.py"):
            for compiled in module.parent.glob(f"__pycache__/{MODULE}.*.pyc"):
                compiled.unlink()
        for directory in {path.parent for path in installed.files}:
            if directory == installed.directory or directory.name == INFO:
                directory.rmdir()
    except OSError as error:
        raise StubError(f"{error.filename}: cannot be removed: {error.strerror}") from None
    return removed

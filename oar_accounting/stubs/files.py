"""Stubs on disk: written, written down, and removed, each file at once."""

import json
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from stat import S_IMODE, S_ISREG

from oar_accounting.errors import StubError
from oar_accounting.stubs.oar_user import USER, User
from oar_accounting.stubs.plan import (
    DIRECTORY,
    EXECUTABLE,
    INFO,
    INSTALL,
    MODULE,
    NEW_TARGET,
    OLD_TARGET,
    READABLE,
    STATE_DIRECTORY,
    STUB_VERSION,
    Link,
    Oar3,
    Plan,
    Stub,
    read_text,
)

#: What was written where, in the directory of the stubs.
LIST = "installed.json"
#: How a file begins that is about to take the place of another.
NEW = ".new-"


# -- writing ----------------------------------------------------------------------------------


def install(planned: Plan) -> list[Path]:
    """Write what differs from the plan, each file at once; what was written.

    Modes hold whatever the umask is. Raises :class:`StubError` where something cannot be written;
    what was written by then stays, and is whole.
    """
    written = []
    try:
        _make_directory(planned.directory)
        # First: what stands here is known also where this ends half-way.
        _write_list(planned)
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
                _exchange(other, OLD_TARGET, NEW_TARGET)
                written.append(other)
            _compile(planned.oar3)
    except OSError as error:
        name = error.filename or planned.directory
        raise StubError(f"{name}: cannot be written: {error.strerror}") from None
    return written


def make_state(state: Path = STATE_DIRECTORY, user: str = USER) -> list[Path]:
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
    """True where the file is there with that text and mode, and nobody else can change it."""
    try:
        found = stub.path.lstat()
        is_right = S_ISREG(found.st_mode) and S_IMODE(found.st_mode) == stub.mode
        is_ours = found.st_uid in (0, os.geteuid())
        return is_right and is_ours and stub.path.read_text("utf-8") == stub.text
    except (OSError, UnicodeDecodeError):
        return False


def _make_directory(path: Path) -> None:
    """Make a directory and those above it, which everybody may enter; mend one of our own."""
    if not path.is_dir():
        _make_directory(path.parent)
        path.mkdir()
    elif not _is_ours(path) or S_IMODE(path.stat().st_mode) == EXECUTABLE:
        return
    path.chmod(EXECUTABLE)


def _is_ours(directory: Path) -> bool:
    return directory.name in (DIRECTORY.name, INFO) or (directory / LIST).exists()


def _replace(path: Path, text: str, mode: int) -> None:
    """Put a file in the place of another, so that there is always one and it is whole."""
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=NEW)
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
    new = link.path.with_name(f"{NEW}{link.path.name}")
    new.unlink(missing_ok=True)
    new.symlink_to(link.target)
    new.replace(link.path)


def _exchange(file: Path, before: str, after: str) -> None:
    """Let entry points of the library itself lead elsewhere."""
    _replace(file, read_text(file).replace(before, after), READABLE)


def _compile(environment: Oar3) -> None:
    """Spare every round the compiling of the stub; OAR could not keep what it compiles there."""
    with suppress(OSError, subprocess.SubprocessError):
        subprocess.run(
            # Not compileall: within a second, and with the same length, it takes one text for the
            # other.
            [environment.python, "-I", "-m", "py_compile", f"{MODULE}.py"],
            cwd=environment.packages,
            capture_output=True,
            timeout=60,
            umask=0o022,
        )


# -- what was written -------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Installed:
    """What stands on this machine, as ``stubs install`` wrote it down."""

    directory: Path
    version: int
    python: Path  #: of the library that the stubs run
    state: Path
    files: tuple[Path, ...]
    links: tuple[Path, ...]
    schedulers: Path | None
    oar3_python: Path | None
    led_over: tuple[Path, ...]  #: entry points of the library that name the stub

    @property
    def asking(self) -> Path:
        """What schedulers of OAR 2 are linked to."""
        return self.directory / "karma_scheduler"

    def links_to_ours(self) -> list[Path]:
        """The schedulers that lead to ours, also those that somebody else has linked."""
        found = set(self.links)
        with suppress(OSError):
            for each in self.schedulers.iterdir() if self.schedulers is not None else ():
                if each.is_symlink() and each.readlink() == self.asking:
                    found.add(each)
        return sorted(found)


def _write_list(planned: Plan) -> None:
    """Write down what is there once all is written, with what was there before."""
    files = [str(stub.path) for stub in planned.stubs]
    links = [str(link.path) for link in planned.links]
    others = [] if planned.oar3 is None else [str(each) for each in planned.oar3.others]
    with suppress(StubError):
        if (before := read_list(planned.directory)) is not None:
            files += _there(before.files)
            links += _there(before.links)
            others += _there(before.led_over)
    text = json.dumps(
        {
            "version": STUB_VERSION,
            "python": str(planned.python),
            "state": str(planned.state),
            "files": list(dict.fromkeys(files)),
            "links": list(dict.fromkeys(links)),
            "schedulers": None if planned.schedulers is None else str(planned.schedulers),
            "oar3_python": None if planned.oar3 is None else str(planned.oar3.python),
            "led_over": list(dict.fromkeys(others)),
        },
        indent=1,
    )
    _replace(planned.directory / LIST, text + "\n", READABLE)


def _there(paths: tuple[Path, ...]) -> Iterator[str]:
    return (str(path) for path in paths if os.path.lexists(path))


def read_list(directory: Path = DIRECTORY) -> Installed | None:
    """What stands below *directory* and elsewhere; None where nothing was installed.

    Raises :class:`StubError` where the list cannot be read.
    """
    file = directory / LIST
    if not file.exists():
        return None
    try:
        values = json.loads(file.read_text("utf-8"))
        schedulers, python3 = values["schedulers"], values["oar3_python"]
        return Installed(
            directory=directory,
            version=int(values["version"]),
            python=Path(values["python"]),
            state=Path(values["state"]),
            files=tuple(map(Path, values["files"])),
            links=tuple(map(Path, values["links"])),
            schedulers=None if schedulers is None else Path(schedulers),
            oar3_python=None if python3 is None else Path(python3),
            led_over=tuple(map(Path, values["led_over"])),
        )
    except (OSError, ValueError, KeyError, TypeError):
        raise StubError(f"{file}: cannot be read; write it anew with: {INSTALL}") from None


# -- removing ---------------------------------------------------------------------------------


def remove(installed: Installed) -> list[Path]:
    """Remove what was installed; what was there. Raises :class:`StubError`.

    What is found by others goes before what it leads to.
    """
    order = sorted(installed.files, key=lambda each: each.name != "entry_points.txt")
    removed = []
    try:
        for file in installed.led_over:
            if NEW_TARGET in read_text(file):
                _exchange(file, NEW_TARGET, OLD_TARGET)
        for path in (*installed.links_to_ours(), *order, installed.directory / LIST):
            if os.path.lexists(path):
                path.unlink()
                removed.append(path)
        for directory in {path.parent for path in installed.files}:
            _clear(directory, directory == installed.directory or directory.name == INFO)
    except OSError as error:
        raise StubError(f"{error.filename}: cannot be removed: {error.strerror}") from None
    return removed


def _clear(directory: Path, is_ours: bool) -> None:
    """Remove what is left of ours in a directory, and that itself if nobody else uses it."""
    for compiled in directory.glob(f"__pycache__/{MODULE}.*.pyc"):
        compiled.unlink(missing_ok=True)
    if is_ours:
        for begun in directory.glob(f"{NEW}*"):
            begun.unlink(missing_ok=True)
        # Somebody may have put a file of their own there.
        with suppress(OSError):
            directory.rmdir()

"""The library in an environment of its own, and what becomes of it while OAR goes on.

It is replaced by another version, by that of the past, removed, or broken; its tables are newer
than it; its service is killed or hangs. Each is a `Change`: done when the block begins, undone at
its end. Those of a `Kind` are made by turns.
"""

import os
import re
import signal
import subprocess
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass
from functools import wraps
from pathlib import Path
from random import Random
from typing import Protocol

from tests.pages import ROOT, copy_sources

#: The commit before what OAR calls lay where pip does not replace it.
BEFORE = "70486b9a3866a90a41e9de1092e1e0b331fd60e2"
#: How many changes of each kind are made.
REPETITIONS = int(os.environ.get("OAR_ACCOUNTING_TEST_REPETITIONS", "10"))
#: A supervisor, as systemd is one: for `sh -c`, followed by a word and what is to run for ever.
FOR_EVER = 'while :; do "$@"; sleep 1; done'
#: Debian's, where there is one: the one that runs the tests may be closed to others.
PYTHON = "/usr/bin/python3"

PATIENCE = 300.0  #: seconds, for a command; pip may have much to fetch


class Library:
    """An environment with the library, and the versions that can be installed into it."""

    def __init__(self, prefix: Path, chance: Random) -> None:
        """Install it at *prefix*; the versions lie beside it."""
        self.prefix = prefix
        self.chance = chance
        self._aside = prefix.with_name(f"{prefix.name}-aside")
        _run(PYTHON, "-m", "venv", prefix)
        self.pip("install", "setuptools>=68", "wheel")
        self.versions = self._build(prefix.with_name(f"{prefix.name}-versions"))
        self.pip("install", f"{self.versions['now']}[postgresql]")

    @property
    def command(self) -> Path:
        """The command of the library."""
        return self.prefix / "bin/oar-accounting"

    @property
    def packages(self) -> Path:
        """The directory of its packages."""
        (found,) = self.prefix.glob("lib/python3*/site-packages")
        return found

    def install(self, version: str, umask: int = 0o022) -> None:
        """Let pip replace the library by a version, whichever is there."""
        # Forced: that of the past may bear the number of now.
        options = ("--upgrade", "--force-reinstall", "--no-index", "--no-deps")
        self.pip("install", *options, self.versions[version], umask=umask)

    def uninstall(self) -> None:
        """Let pip remove the library."""
        self.pip("uninstall", "--yes", "oar-accounting")

    @contextmanager
    def away(self, path: Path) -> Iterator[None]:
        """Move what lies at *path* away, and back at the end."""
        path.rename(self._aside)
        try:
            yield
        finally:
            self._aside.rename(path)

    @contextmanager
    def half_away(self) -> Iterator[list[Path]]:
        """Move half of the modules away, and back at the end, as old as they were."""
        modules = sorted((self.packages / "oar_accounting").rglob("*.py"))
        gone = self.chance.sample(modules, len(modules) // 2)
        for module in gone:
            module.rename(module.with_suffix(".gone"))
        try:
            yield gone
        finally:
            for module in gone:
                module.with_suffix(".gone").rename(module)

    def call(self, *arguments: object, umask: int = 0o022) -> None:
        """Run the command of the library."""
        _run(self.command, *arguments, umask=umask)

    def pip(self, *arguments: object, umask: int = 0o022) -> None:
        """Run pip."""
        _run(self.prefix / "bin/pip", *arguments, umask=umask)

    def _build(self, directory: Path) -> dict[str, Path]:
        """The wheels: of now, of a next version, and of the past where its commit is at hand."""
        directory.mkdir()
        sources = {name: directory / name for name in ("now", "next")}
        for source in sources.values():
            copy_sources(source)
        setup = sources["next"] / "setup.py"
        text = setup.read_text(encoding="utf-8")
        setup.write_text(re.sub(r'(version="[^"]*)"', r'\1.1"', text), encoding="utf-8")
        if has_past():
            sources["past"] = directory / "past"
            _check_out(BEFORE, sources["past"])

        def build(source: Path) -> Path:
            self.pip("wheel", "--no-build-isolation", "--no-deps", "--wheel-dir", source, source)
            (wheel,) = source.glob("*.whl")
            return wheel

        with ThreadPoolExecutor(2) as executor:
            return dict(zip(sources, executor.map(build, sources.values()), strict=True))


def has_past() -> bool:
    """Whether the repository has the commit `BEFORE`."""
    with suppress(OSError):
        found = subprocess.run(["git", "-C", ROOT, "cat-file", "-e", f"{BEFORE}^{{commit}}"])
        return found.returncode == 0
    return False


def _check_out(commit: str, directory: Path) -> None:
    directory.mkdir()
    archive = directory / "archive.tar"
    _run("git", "-C", ROOT, "archive", f"--output={archive}", commit)
    _run("tar", "--extract", f"--directory={directory}", f"--file={archive}")


def _run(*command: object, umask: int = 0o022) -> None:
    words = [str(word) for word in command]
    done = subprocess.run(
        words,
        cwd="/",
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=PATIENCE,
        umask=umask,
    )
    assert done.returncode == 0, f"{words}:\n{done.stdout}"


class Service:
    """The karma service of a library, which somebody starts again whenever it ends."""

    def __init__(self, library: Library) -> None:
        self._words = [str(library.command), "karma-service"]

    def process(self) -> int | None:
        """Its process; None where there is none now."""
        for directory in Path("/proc").glob("[0-9]*"):
            with suppress(OSError):
                words = (directory / "cmdline").read_bytes().decode("utf-8", "replace").split("\0")
                if words[1:3] == self._words:
                    return int(directory.name)
        return None

    def send(self, number: signal.Signals) -> bool:
        """Send it a signal; false where there is nobody to receive it."""
        if (process := self.process()) is None:
            return False
        with suppress(ProcessLookupError):
            os.kill(process, number)
        return True


class Stage(Protocol):
    """What a change is done to."""

    library: Library
    service: Service

    def move_tables(self, versions: int) -> None:
        """Let the tables be newer by so many versions than they are."""

    def write_stubs(self, python: Path) -> None:
        """Write what OAR calls anew, to run that Python."""


Change = Callable[[Stage, int], AbstractContextManager[None]]


# -- replaced and removed -----------------------------------------------------------------------


@contextmanager
def upgraded(stage: Stage, number: int) -> Iterator[None]:
    """Replace one version by the other, and then, as is told, the stubs by others."""
    version, python = ("now", "python") if number % 2 else ("next", "python3")
    stage.library.install(version)
    stage.write_stubs(stage.library.prefix / "bin" / python)
    yield


@contextmanager
def back_before_stubs(stage: Stage, number: int) -> Iterator[None]:
    """Go back to the commit before there were any."""
    stage.library.install("past")
    try:
        yield
    finally:
        stage.library.install("now")


@contextmanager
def tables_newer(stage: Stage, number: int) -> Iterator[None]:
    """Let the tables be those of a later version."""
    stage.move_tables(1)
    try:
        yield
    finally:
        stage.move_tables(-1)


@contextmanager
def removed(stage: Stage, number: int) -> Iterator[None]:
    """Remove the library, and install it again."""
    stage.library.uninstall()
    try:
        yield
    finally:
        stage.library.install("now")


# -- broken -------------------------------------------------------------------------------------


def breaking(how: Callable[[Library], AbstractContextManager[None]]) -> Change:
    """Break the library so; every second time nothing is warm."""

    @contextmanager
    @wraps(how)
    def change(stage: Stage, number: int) -> Iterator[None]:
        with how(stage.library):
            if number % 2:
                stage.service.send(signal.SIGKILL)
            yield

    return change


@breaking
def moved_away(library: Library) -> AbstractContextManager[None]:
    """Move all of it."""
    return library.away(library.prefix)


@breaking
def without_python(library: Library) -> AbstractContextManager[None]:
    """Remove its Python, to which all other names of it lead."""
    return library.away(library.prefix / "bin/python3")


@breaking
def without_sqlalchemy(library: Library) -> AbstractContextManager[None]:
    """Remove what it needs."""
    return library.away(library.packages / "sqlalchemy")


@breaking
@contextmanager
def half_installed(library: Library) -> Iterator[None]:
    """Remove half of its modules."""
    with library.half_away():
        yield


@breaking
@contextmanager
def no_python_in_half(library: Library) -> Iterator[None]:
    """Write something else into half of its modules."""
    with library.half_away() as modules:
        for module in modules:
            module.write_text("<<<<<<< ours\n", encoding="utf-8")
        yield


@breaking
@contextmanager
def unreadable(library: Library) -> Iterator[None]:
    """Let nobody but root enter it."""
    library.prefix.chmod(0)
    try:
        yield
    finally:
        library.prefix.chmod(0o755)


@breaking
@contextmanager
def narrow_umask(library: Library) -> Iterator[None]:
    """Let root install it as if nobody else had to read it."""
    library.install("next", umask=0o027)
    try:
        yield
    finally:
        library.install("now")


# -- without a service ----------------------------------------------------------------------------


@contextmanager
def killed(stage: Stage, number: int) -> Iterator[None]:
    """Kill the service at any moment: while it starts, answers or rests."""
    time.sleep(stage.library.chance.uniform(0, 3))
    stage.service.send(signal.SIGKILL)
    yield


@contextmanager
def stopped(stage: Stage, number: int) -> Iterator[None]:
    """Stop the service at any moment, so that it takes questions and gives no answer."""
    time.sleep(stage.library.chance.uniform(0, 1))
    while not stage.service.send(signal.SIGSTOP):
        time.sleep(0.1)
    try:
        yield
    finally:
        stage.service.send(signal.SIGKILL if number % 4 == 1 else signal.SIGCONT)


# -- all of them ----------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Kind:
    """Changes of a kind, which are made by turns."""

    name: str
    changes: tuple[Change, ...]

    def turn(self, number: int) -> Change:
        """The change that is made at this repetition."""
        return self.changes[number % len(self.changes)]

    def told(self, orders: Sequence[str]) -> str:
        """What was done, and who gave the orders of the scheduling rounds, in percent."""
        done = Counter(self.turn(number).__name__ for number in range(REPETITIONS))
        times = ", ".join(f"{name} {n}" for name, n in done.items())
        counts = Counter(orders)
        whose = ", ".join(f"{100 * n / len(orders):.0f} % {who}" for who, n in counts.most_common())
        return (
            f"{REPETITIONS} {self.name} ({times.replace('_', ' ')}), {len(orders)} orders: {whose}"
        )


KINDS = (
    Kind("upgrades", (upgraded,)),
    Kind("downgrades", (back_before_stubs, tables_newer) if has_past() else (tables_newer,)),
    Kind("removals", (removed,)),
    Kind(
        "broken environments",
        (
            *(moved_away, without_python, without_sqlalchemy, half_installed, no_python_in_half),
            *(unreadable, narrow_umask),
        ),
    ),
    Kind("kills of the service", (killed, stopped)),
)

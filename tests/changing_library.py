"""The library in an environment of its own, and what becomes of it while OAR goes on.

It is replaced by another version, by that of the past, removed, or broken; its tables are newer
than it; its service is killed or hangs. Each is a `Change`: done when the block begins, undone at
its end.
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
from pathlib import Path
from random import Random
from typing import Protocol

import pytest

from tests.live.installed import ROOT, copy_source

#: The commit before what OAR calls lay where pip does not replace it.
BEFORE = "70486b9a3866a90a41e9de1092e1e0b331fd60e2"
#: How often each change is made.
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

    def modules(self) -> list[Path]:
        """The files of the library that are there."""
        return sorted((self.packages / "oar_accounting").rglob("*.py"))

    @contextmanager
    def away(self, path: Path) -> Iterator[None]:
        """Move what lies at *path* away, and back at the end."""
        path.rename(self._aside)
        try:
            yield
        finally:
            self._aside.rename(path)

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
            copy_source(source)
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


def told_of(orders: Sequence[str]) -> str:
    """Who gave the orders of scheduling rounds, in percent."""
    counts = Counter(orders)
    shares = {who: counts[who] for who in ("service", "library", "last", "own")}
    return ", ".join(f"{100 * n / len(orders):.0f} % by {who}" for who, n in shares.items() if n)


class Stage(Protocol):
    """What a change is done to."""

    library: Library
    service: Service

    def move_tables(self, versions: int) -> None:
        """Let the tables be newer by so many versions than they are."""

    def write_stubs(self, python: Path) -> None:
        """Write what OAR calls anew, to run that Python."""


Change = Callable[[Stage, int], AbstractContextManager[None]]


# -- the changes ------------------------------------------------------------------------------


@contextmanager
def upgraded(stage: Stage, number: int) -> Iterator[None]:
    """Replace one version by the other, and then, as is told, the stubs by others."""
    version, python = ("now", "python") if number % 2 else ("next", "python3")
    stage.library.install(version)
    stage.write_stubs(stage.library.prefix / "bin" / python)
    yield


@contextmanager
def downgraded(stage: Stage, number: int) -> Iterator[None]:
    """Go back to the commit before there were stubs."""
    if "past" not in stage.library.versions:
        pytest.skip(f"the repository does not have the commit {BEFORE}")
    stage.library.install("past")
    yield
    stage.library.install("now")


@contextmanager
def tables_newer(stage: Stage, number: int) -> Iterator[None]:
    """Let the tables be those of a later version."""
    stage.move_tables(1)
    yield
    stage.move_tables(-1)


@contextmanager
def removed(stage: Stage, number: int) -> Iterator[None]:
    """Remove the library, and install it again."""
    stage.library.uninstall()
    yield
    stage.library.install("now")


@contextmanager
def broken(stage: Stage, number: int) -> Iterator[None]:
    """Break the environment, each time in another way; every second time nothing is warm."""
    with BREAKS[number % len(BREAKS)](stage.library):
        if number % 2:
            stage.service.send(signal.SIGKILL)
        yield


@contextmanager
def service_killed(stage: Stage, number: int) -> Iterator[None]:
    """Kill the service at any moment: while it starts, answers or rests."""
    time.sleep(stage.library.chance.uniform(0, 3))
    stage.service.send(signal.SIGKILL)
    yield


@contextmanager
def service_hangs(stage: Stage, number: int) -> Iterator[None]:
    """Stop the service at any moment, so that it takes questions and gives no answer."""
    time.sleep(stage.library.chance.uniform(0, 1))
    while not stage.service.send(signal.SIGSTOP):
        time.sleep(0.1)
    yield
    stage.service.send(signal.SIGKILL if number % 2 else signal.SIGCONT)


CHANGES: tuple[Change, ...] = (
    upgraded,
    downgraded,
    tables_newer,
    removed,
    broken,
    service_killed,
    service_hangs,
)


# -- how an environment is broken ---------------------------------------------------------------


def moved_away(library: Library) -> AbstractContextManager[None]:
    """Move all of it."""
    return library.away(library.prefix)


def without_python(library: Library) -> AbstractContextManager[None]:
    """Remove its Python, to which all other names of it lead."""
    return library.away(library.prefix / "bin/python3")


def without_sqlalchemy(library: Library) -> AbstractContextManager[None]:
    """Remove what it needs."""
    return library.away(library.packages / "sqlalchemy")


@contextmanager
def half_installed(library: Library) -> Iterator[None]:
    """Remove half of its modules."""
    with half_away(library):
        yield


@contextmanager
def with_errors_of_syntax(library: Library) -> Iterator[None]:
    """Write what is no Python into half of its modules."""
    with half_away(library) as modules:
        for module in modules:
            module.write_text("<<<<<<< ours\n", encoding="utf-8")
        yield


@contextmanager
def half_away(library: Library) -> Iterator[list[Path]]:
    """Move half of the modules away, and back at the end, as old as they were."""
    modules = library.modules()
    gone = library.chance.sample(modules, len(modules) // 2)
    for module in gone:
        module.rename(module.with_suffix(".gone"))
    yield gone
    for module in gone:
        module.with_suffix(".gone").rename(module)


@contextmanager
def unreadable(library: Library) -> Iterator[None]:
    """Let nobody but root enter it."""
    library.prefix.chmod(0)
    yield
    library.prefix.chmod(0o755)


@contextmanager
def installed_under_a_narrow_umask(library: Library) -> Iterator[None]:
    """Let root install it as if nobody else had to read it."""
    library.install("next", umask=0o027)
    yield
    library.install("now")


BREAKS: tuple[Callable[[Library], AbstractContextManager[None]], ...] = (
    moved_away,
    without_python,
    without_sqlalchemy,
    half_installed,
    with_errors_of_syntax,
    unreadable,
    installed_under_a_narrow_umask,
)

"""The commands as processes: started cold as people start them, or warm, and what they left."""

import multiprocessing
import os
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from multiprocessing import forkserver
from multiprocessing.connection import wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Protocol
from unittest.mock import patch

from sqlalchemy import Engine, event

from oar_accounting import accounting
from oar_accounting.cli import app
from oar_accounting.database import dialects

ROOT = Path(__file__).parents[2]
PATIENCE = 180.0
#: What decides which database or settings are used, and must not come from whoever runs this.
FOREIGN_VARIABLES = ("OAR", "PG", "MYSQL", "MARIADB")

# Imports take a process ten times as long as its work: a warm one is forked when they are done.
_CONTEXT = multiprocessing.get_context("forkserver")
_CONTEXT.set_forkserver_preload(
    ["tests.campaign.campaign", "psycopg2", "pymysql", "sqlalchemy.dialects.postgresql"]
)
_FORKING = threading.Lock()


def warm_up() -> None:
    """Start the process that warm ones are forked from. Nothing else may run meanwhile."""
    with patch.dict(os.environ, environment(), clear=True):
        forkserver.ensure_running()


class CampaignError(Exception):
    """Something did not happen as it must."""


def check(holds: bool, otherwise: str) -> None:
    """Raise :class:`CampaignError` unless it *holds*."""
    if not holds:
        raise CampaignError(otherwise)


@dataclass(frozen=True, slots=True, kw_only=True)
class Changed:
    """What is different in a warm process from how it is delivered."""

    clock: int = 0  #: seconds that the clock is ahead
    lock_wait: int | None = None  #: seconds that a writer waits for another
    most_pages: int | None = None  #: the size in pages at which a SQLite file is full


class Process(Protocol):
    """A process that was started."""

    @property
    def pid(self) -> int | None:
        """Its number."""

    def join(self, timeout: float) -> None:
        """Wait for its end."""

    @property
    def exitcode(self) -> int | None:
        """None while it runs; the number of a signal is negative."""


class _Cold:
    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        self._process = process
        self.pid = process.pid

    def join(self, timeout: float) -> None:
        try:
            self._process.wait(timeout)
        except subprocess.TimeoutExpired:
            return

    @property
    def exitcode(self) -> int | None:
        return self._process.poll()


class _Warm:
    def __init__(self, process: BaseProcess) -> None:
        self._process = process
        self.pid = process.pid

    def join(self, timeout: float) -> None:
        wait([self._process.sentinel], timeout)

    @property
    def exitcode(self) -> int | None:
        # Whoever starts a process also reads what others left, which can be read once only.
        with _FORKING:
            return self._process.exitcode


@dataclass(frozen=True, slots=True)
class Left:
    """What a command left: its exit code, what it printed and how long it took."""

    command: str
    code: int
    out: str
    err: str
    seconds: float

    def __str__(self) -> str:
        return f"{self.command}: exit code {self.code}\n{self.out}{self.err}"


class Running:
    """A command that was started."""

    def __init__(self, command: str, process: Process, files: tuple[Path, Path]) -> None:
        self.command = command
        self._process = process
        self._files = files
        self._began = time.monotonic()

    @property
    def runs(self) -> bool:
        """True until it has ended."""
        return self._process.exitcode is None

    def signal(self, number: signal.Signals) -> None:
        """Send a signal; one that has ended meanwhile gets none."""
        if self.runs and self._process.pid is not None:
            # It may end between the question and the signal.
            with suppress(ProcessLookupError):
                os.kill(self._process.pid, number)

    def stop(self) -> bool:
        """Stop it until it is continued; false where it has ended."""
        self.signal(signal.SIGSTOP)
        return self.runs

    def go_on(self) -> None:
        """Continue it."""
        self.signal(signal.SIGCONT)

    def kill(self) -> bool:
        """End it without a word; false where it had ended before."""
        self.signal(signal.SIGKILL)
        return self.left().code == -signal.SIGKILL

    def left(self, patience: float = PATIENCE) -> Left:
        """What it left, once it has ended. No command ever ends with a traceback."""
        self._process.join(patience)
        if self.runs:
            self.signal(signal.SIGKILL)
            self._process.join(PATIENCE)
            raise CampaignError(f"{self.command}: did not end within {patience} s")
        seconds = time.monotonic() - self._began
        out, err = (file.read_text(encoding="utf-8", errors="replace") for file in self._files)
        left = Left(self.command, self._process.exitcode or 0, out, err, seconds)
        check("Traceback" not in out + err, f"a traceback\n{left}")
        return left


class Commands:
    """Starts commands on one database; their output goes to files in *directory*."""

    def __init__(self, url: str, config: Path, directory: Path) -> None:
        self.url = url
        self._config = config
        self._directory = directory
        self._count = 0

    def start(
        self, *arguments: str, cold: bool = False, url: str = "", changed: Changed | None = None
    ) -> Running:
        """Start a command: cold as ``python -m oar_accounting.cli``, or forked with its imports."""
        self._count += 1
        files = (self._directory / f"{self._count}.out", self._directory / f"{self._count}.err")
        whole = ["--url", url or self.url, "--config", str(self._config), *arguments]
        process = _cold(whole, files) if cold else _warm(whole, files, changed or Changed())
        return Running(" ".join(arguments[:3]), process, files)

    def run(self, *arguments: str, url: str = "", changed: Changed | None = None) -> Left:
        """Run a warm command to its end."""
        return self.start(*arguments, url=url, changed=changed).left()

    def complete(self, *arguments: str, changed: Changed | None = None) -> Left:
        """Run a warm command, which must end with 0."""
        left = self.run(*arguments, changed=changed)
        check(left.code == 0, f"did not complete\n{left}")
        return left


def refused(left: Left, *causes: str) -> None:
    """It could not finish: it says so in one line that names the cause, and ends with 3.

    PostgreSQL's library may write the server's last words to standard error by itself, and the
    password in the URL of the tests has a note.
    """
    lines = [line for line in left.err.splitlines() if not line.startswith(("FATAL:  ", "note: "))]
    clear = len(lines) == 1 and lines[0].startswith("oar-accounting: ")
    check(left.code == 3 and clear, f"not one line and 3\n{left}")
    named = any(cause.lower() in lines[0].lower() for cause in causes)
    check(named, f"names none of {', '.join(map(repr, causes))}\n{left}")


def environment(**more: str) -> dict[str, str]:
    """The variables of a command: none that would change what it works on, but those given."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith(FOREIGN_VARIABLES)}
    return {**kept, "PYTHONPATH": str(ROOT), **more}


def _cold(arguments: list[str], files: tuple[Path, Path]) -> Process:
    with files[0].open("wb") as out, files[1].open("wb") as err:
        process = subprocess.Popen(
            [sys.executable, "-m", "oar_accounting.cli", *arguments],
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=err,
            env=environment(),
        )
    return _Cold(process)


def _warm(arguments: list[str], files: tuple[Path, Path], changed: Changed) -> Process:
    for file in files:
        file.touch()
    process = _CONTEXT.Process(target=_command, args=(arguments, files, changed))
    with _FORKING:
        process.start()
    return _Warm(process)


def _command(arguments: list[str], files: tuple[Path, Path], changed: Changed) -> None:
    """What a warm process does: the command, with its output in the files."""
    for number, file in enumerate(files, 1):
        opened = os.open(file, os.O_WRONLY)
        os.dup2(opened, number)
        os.close(opened)
    _change(changed)
    app.main(arguments, prog_name="oar-accounting")


def _change(changed: Changed) -> None:
    if changed.clock:
        vars(accounting)["time"] = _Clock(changed.clock)
    if changed.lock_wait is not None:
        dialects.LOCK_WAIT = changed.lock_wait
    if changed.most_pages is not None:
        event.listen(Engine, "connect", partial(_limit, changed.most_pages))


def _limit(pages: int, connection: sqlite3.Connection, _record: object) -> None:
    connection.execute(f"pragma max_page_count = {pages}")


class _Clock:
    """The machine's clock, wrong by so many seconds; it stands in for the module `time`."""

    sleep = staticmethod(time.sleep)

    def __init__(self, ahead: int) -> None:
        self._ahead = ahead

    def time(self) -> float:
        return time.time() + self._ahead

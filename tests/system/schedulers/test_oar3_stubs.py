"""Whatever becomes of the library, OAR 3's scheduler goes on, as one round follows another.

What it calls is what "oar-accounting stubs install" has written. Changes of each kind are made
many times, and each time a round is run before it is undone.
"""

import os
import shutil
import signal
import subprocess
import threading
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

import pytest
from sqlalchemy import text

from oar_accounting.stubs.plan import STATE_DIRECTORY
from tests.changing_library import (
    BEFORE,
    FOR_EVER,
    KINDS,
    REPETITIONS,
    Kind,
    Library,
    Service,
)
from tests.conftest import TOLD
from tests.oar3_rounds import Installation, Mode, Round, Site, borrowed, missing
from tests.servers import Database

pytestmark = [
    pytest.mark.slow,
    pytest.mark.databases("postgresql"),
    pytest.mark.skipif(bool(missing()), reason=missing()),
]

MODES = pytest.mark.parametrize("mode", ["internal", "external"])
CUSTOM: dict[str, Any] = {"JOB_PRIORITY": "CUSTOM", "CUSTOM_JOB_SORTING": "accounting"}
USERS = ["alice", "bob", "carol"]
#: Our order; OAR's own is that of the ids.
OURS = ["carol", "bob", "alice"]
KARMA = """
[karma]
policy = "linear"
window = "30d"
[[karma.terms]]
by = "user"
metric = "resource"
targets = { alice = 10, bob = 20, carol = 30 }
"""
SCHEDULER = """
[scheduler]
socket = "{directory}/karma.sock"
limit = "4s"
"""
#: Seconds in which what is waited for must have come.
PATIENCE = 180.0


@dataclass(frozen=True, slots=True)
class Played:
    """A round that was run."""

    began: float
    done: Round
    who: list[str]  #: gave the order


class Stage:
    """A site of OAR 3 whose order is ours, the library and its service."""

    def __init__(self, site: Site, library: Library, directory: Path, mode: Mode) -> None:
        self.site = site
        self.library = library
        self.service = Service(library)
        self.rounds: list[Played] = []
        self._directory = directory
        self._mode: Mode = mode
        self._decided = 0
        self._playing: Future[None] = Future()

    # -- what is done -------------------------------------------------------------------------

    def move_tables(self, versions: int) -> None:
        """Let the tables be newer by so many versions than they are."""
        moved = text("UPDATE accounting_schema SET version = version + :by")
        with self.site.engine.begin() as connection:
            connection.execute(moved, {"by": versions})

    def write_stubs(self, python: Path) -> None:
        """Write what OAR calls anew, as a root does who lets nobody else read."""
        settings = ["--config", self._directory / "scheduler.toml", "--oar-conf", self.site.conf()]
        where = ["--directory", self._directory / "stubs", "--oar3-python", self.site.oar.python]
        # OAR 2 may be on this machine, too.
        where += ["--schedulers", self._directory / "state"]
        self.library.call(*settings, "stubs", "install", *where, "--python", python, umask=0o027)

    def remove_stubs(self) -> None:
        """Remove what OAR calls, of which its settings say nothing any more."""
        settings = ["--oar-conf", self.site.conf()]
        self.library.call(*settings, "stubs", "remove", "--directory", self._directory / "stubs")

    @contextmanager
    def serving(self) -> Iterator[None]:
        """Start the service, and again whenever it ends, for one `with` block."""
        socket = self._directory / "karma.sock"
        command: list[str | Path] = [self.library.command, "karma-service", "--socket", socket]
        with (self._directory / "service.log").open("w") as log:
            supervisor = subprocess.Popen(
                ["sh", "-c", FOR_EVER, "sh", *command],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
            try:
                yield
            finally:
                os.killpg(supervisor.pid, signal.SIGKILL)
                supervisor.wait()

    @contextmanager
    def playing(self) -> Iterator[None]:
        """Let one round follow another, for one `with` block."""
        over = threading.Event()

        def play() -> None:
            while not over.is_set():
                self.play()

        with ThreadPoolExecutor(1) as executor:
            self._playing = executor.submit(play)
            try:
                yield
            finally:
                over.set()
                self._playing.result()

    def play(self) -> None:
        """Run a round, of which nothing may be wrong."""
        began = time.time()
        self.site.forget()
        done = self.site.kao(mode=self._mode, **CUSTOM)
        decided = self.decided()
        who, self._decided = decided[self._decided :], len(decided)
        assert (done.code, done.stopped, len(done.started)) == (0, [], 1), done
        assert done.order in (USERS, OURS), done
        assert done.order == OURS or not {"service", "library"}.intersection(who), (done, who)
        self.rounds.append(Played(began, done, who))

    def decided(self) -> list[str]:
        """Who gave the orders so far."""
        file = self._directory / "state/rounds"
        lines = file.read_text(encoding="utf-8").splitlines() if file.exists() else []
        return [line.split()[1] for line in lines]

    def forget_answers(self) -> None:
        """Remove the last answers, so that nobody can repeat them."""
        for file in (self._directory / "state").glob("last-*"):
            file.unlink(missing_ok=True)

    # -- what must hold -----------------------------------------------------------------------

    def goes_on(self, by: str = "") -> None:
        """A round is run from now on; by whose order it may have to be."""
        began, deadline = time.time(), time.monotonic() + PATIENCE
        while not any(each.began > began and by in ("", *each.who) for each in self.rounds):
            assert not self._playing.done(), "a round failed"
            assert time.monotonic() < deadline, f"no round by {by}: {self.rounds[-3:]}"
            time.sleep(0.1)


@pytest.fixture(scope="module", autouse=True)
def no_state_left() -> Iterator[None]:
    """Remove the directory that the command makes where a machine has the user oar."""
    was_there = STATE_DIRECTORY.exists()
    yield
    if not was_there and STATE_DIRECTORY.exists():
        shutil.rmtree(STATE_DIRECTORY)


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Library:
    """The library in an environment of its own."""
    return Library(tmp_path_factory.mktemp("library") / "prefix", Random(6))


@pytest.fixture(scope="module")
def oar(tmp_path_factory: pytest.TempPathFactory) -> Installation:
    """OAR 3, without the library."""
    return borrowed(tmp_path_factory.mktemp("borrowed"))


@pytest.fixture
def stage(  # noqa: PLR0913 - what it consists of
    database: Database,
    tmp_path: Path,
    library: Library,
    oar: Installation,
    mode: Mode,
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator[Stage]:
    """A site where three jobs wait, of which one can start."""
    settings = {"accounting.toml": KARMA, "scheduler.toml": SCHEDULER.format(directory=tmp_path)}
    for name, content in settings.items():
        (tmp_path / name).write_text(content, encoding="utf-8")
    (tmp_path / "state").mkdir()
    monkeypatch.setenv("OAR_ACCOUNTING_CONF", str(tmp_path / "accounting.toml"))
    monkeypatch.setenv("OAR_ACCOUNTING_STATE", str(tmp_path / "state"))
    site = Site(database.url, tmp_path, oar=oar)
    for user in USERS:
        site.submit(user)
    for command in ("init", "catch-up"):
        library.call("--oar-conf", site.conf(), command)
    stage = Stage(site, library, tmp_path, mode)
    with stage.serving():
        yield stage


@MODES
@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: str(kind.name))
def test_no_round_fails(
    stage: Stage, mode: Mode, kind: Kind, request: pytest.FixtureRequest
) -> None:
    stage.write_stubs(stage.library.prefix / "bin/python")
    with stage.playing():
        stage.goes_on(by="service")
        first = len(stage.rounds)
        for number in range(REPETITIONS):
            if number % 3 == 2:
                stage.forget_answers()
            with kind.turn(number)(stage, number):
                stage.goes_on()
        rounds = stage.rounds[first:]
        stage.goes_on(by="service")
    told = kind.told([who for each in rounds for who in each.who])
    request.config.stash[TOLD].append(f"OAR 3, {mode}: {told}; none of {len(rounds)} rounds failed")


@MODES
@pytest.mark.parametrize("version", ["past", "now"])
def test_no_round_fails_where_the_library_leaves_oars_environment(
    stage: Stage, mode: Mode, version: str, request: pytest.FixtureRequest
) -> None:
    """It lay there with entry points of its own, until there were stubs."""
    if version not in stage.library.versions:
        pytest.skip(f"the repository does not have the commit {BEFORE}")
    if not stage.site.oar.has("numpy"):
        pytest.skip("the library cannot be in OAR 3's environment, which has no numpy")
    wheel, theirs = stage.library.versions[version], ["--python", stage.site.oar.python]
    for _ in range(REPETITIONS):
        stage.library.pip(*theirs, "install", "--no-index", "--no-deps", wheel)
        stage.play()
        assert stage.rounds[-1].done.order == OURS
        with stage.playing():
            stage.write_stubs(stage.library.prefix / "bin/python")
            stage.goes_on()
            stage.library.pip(*theirs, "uninstall", "--yes", "oar-accounting")
            stage.goes_on(by="service")
        stage.remove_stubs()
    times = f"{REPETITIONS} times led over from the library ({version}) in its own environment"
    none = f"none of {len(stage.rounds)} rounds failed"
    request.config.stash[TOLD].append(f"OAR 3, {mode}: {times}; {none}")

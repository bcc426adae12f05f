"""An OAR server under a stream of jobs, whose library is replaced, removed and broken meanwhile.

All lies where an administrator has it: what OAR calls, its state and the socket of the service.
"""

import re
import shutil
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from random import Random

import pytest

from oar_accounting.stubs.plan import DIRECTORY, STATE_DIRECTORY
from tests.changing_library import FOR_EVER, Library, Service
from tests.system.live import machine
from tests.system.live.installed import TOML
from tests.system.live.machine import (
    PLACE,
    MachineError,
    make_elsewhere,
    place,
    repeated,
    run,
    start_daemon,
    wait_until,
)
from tests.system.live.oar_server import ENDED, NODES, RESOURCES_PER_NODE, OarServer
from tests.system.live.reading import Asked, job_row, recorded

PREFIX = PLACE / "prefix"
VARIABLES = {"OAR_ACCOUNTING_CONF": str(TOML)}
#: What is quick: the worker of the epilogue, and the end of waiting for a service that hangs.
HASTY = {"OAR_ACCOUNTING_DELAY": "1", "OAR_ACCOUNTING_KARMA_LIMIT": "6"}
EPILOGUE = DIRECTORY / "server_epilogue"
SOCKETS = Path("/run/oar-accounting")
SCHEDULERS = Path("/usr/lib/oar/schedulers")
#: OAR's schedulers that know karma.
KNOWING = [
    f"oar_sched_gantt_with_timesharing_and_fairsharing{rest}"
    for rest in ("", "_and_placeholder", "_and_quotas")
]
MADE = [str(DIRECTORY), str(STATE_DIRECTORY), str(SOCKETS)]
MADE += [str(SCHEDULERS / f"karma_then_{name}") for name in KNOWING]

USERS = ("alice", "bob", "carol")
#: The jobs of an array, which is submitted when fewer than these wait.
JOBS = 8
KARMA = """
[karma]
policy = "linear"
window = "30d"
[[karma.terms]]
by = "user"
metric = "resource"
"""

COUNTED = """
SELECT count(*) FILTER (WHERE state = 'Waiting'),
       count(*) FILTER (WHERE state IN ('Terminated', 'Error'))
FROM jobs
"""
#: Called by OAR in the place of the stub, as by sites that have an epilogue of their own.
OWN_EPILOGUE = PLACE / "own_epilogue"
CALLING = f"""#!/bin/sh
{EPILOGUE} "$1"
"""


@dataclass(frozen=True, slots=True)
class Decision:
    """Who gave the order of a scheduling round."""

    seen: float  #: when it was found in the list
    who: str
    waited: float
    why: str


class Watch:
    """What somebody sees who looks on all the time."""

    def __init__(self, oar: Asked) -> None:
        self.shut: set[str] = set()  #: queues that were not active at any moment
        self.waiting = 0
        self.ended = 0
        self.rounds: list[Decision] = []
        self.faults: list[str] = []  #: what kept somebody from looking, or from submitting
        self._oar = oar
        self._file = STATE_DIRECTORY / "rounds"
        self._read = (0, 0)  #: the number of a file, and its bytes that were read

    def look(self) -> None:
        """Look once."""
        try:
            shut = self._oar.ask("SELECT queue_name FROM queues WHERE state <> 'Active'")
            self.shut.update(queue for (queue,) in shut)
            ((self.waiting, self.ended),) = self._oar.ask(COUNTED)
            self._look_at_rounds()
        except Exception as error:
            self.faults.append(f"looking: {error!r}")

    def _look_at_rounds(self) -> None:
        with suppress(FileNotFoundError):
            number, size = self._read
            if self._file.stat().st_ino != number:
                # A full list was put aside, and a new one begun.
                with suppress(FileNotFoundError):
                    self._read_on(self._file.with_name("rounds.1"), size if number else 0)
                size = 0
            self._read = (self._file.stat().st_ino, self._read_on(self._file, size))

    def _read_on(self, file: Path, size: int) -> int:
        """Read what is behind so many bytes; the bytes that are read then."""
        with file.open("rb") as opened:
            opened.seek(size)
            new = opened.read()
        whole = new[: new.rfind(b"\n") + 1]
        for line in whole.decode().splitlines():
            _, who, waited, why = line.split(" ", 3)
            self.rounds.append(Decision(time.time(), who, float(waited), why))
        return size + len(whole)


class Stage:
    """The OAR server, the library and its service, and who looks on."""

    def __init__(self, oar: OarServer, library: Library, watch: Watch) -> None:
        self.oar = oar
        self.library = library
        self.service = Service(library)
        self.watch = watch
        self.flows = True
        self._turn = 0
        self._checked: set[int] = set()

    # -- what is done -------------------------------------------------------------------------

    def move_tables(self, versions: int) -> None:
        """Let the tables be newer by so many versions than they are."""
        self.administer("UPDATE accounting_schema SET version = version + :by", by=versions)

    def administer(self, statement: str, **values: object) -> None:
        """Change the database of OAR."""
        script = PLACE / "statement.sql"
        script.write_text(statement, encoding="utf-8")
        given = [f"--set={name}={value}" for name, value in values.items()]
        run("psql", "--quiet", *given, f"--file={script}", "oar", **self.oar.administrator())

    def write_stubs(self, python: Path) -> None:
        """Write what OAR calls anew, as a root does who lets nobody else read."""
        command = [self.library.command, "stubs", "install", "--python", python]
        run("sh", "-c", 'umask 027 && exec "$@"', "sh", *command, **VARIABLES)

    def call(self, *arguments: str) -> str:
        """Run our command as the user oar, and return what it printed."""
        return run(self.library.command, *arguments, user="oar", **VARIABLES)

    def name_epilogue(self, own: bool) -> None:
        """Let OAR call the stub, or an epilogue of the site that calls it."""
        self.oar.configure(SERVER_EPILOGUE_EXEC_FILE=str(OWN_EPILOGUE if own else EPILOGUE))

    def forget_answers(self) -> None:
        """Remove the last answers, so that nobody can repeat them."""
        for file in STATE_DIRECTORY.glob("last-*"):
            file.unlink(missing_ok=True)

    # -- what must hold -----------------------------------------------------------------------

    def goes_on(self, *, by: str = "") -> None:
        """A job ends, and an order is given; by whom it may have to be."""
        began, ended = time.time(), self.watch.ended

        def has_gone_on() -> bool:
            new = [each for each in self.watch.rounds if each.seen - each.waited > began]
            return self.watch.ended > ended and any(by in ("", each.who) for each in new)

        wait_until(has_gone_on, "a job ends, and an order is given")
        self.check_running()

    def ends_jobs(self) -> None:
        """A job ends from now on."""
        ended = self.watch.ended
        wait_until(lambda: self.watch.ended > ended, "a job ends")

    def records(self) -> None:
        """What the epilogue starts records a job that ends from now on."""
        alive = "SELECT job_id FROM jobs WHERE state NOT IN ('Finishing', 'Terminated', 'Error')"
        jobs = [job for (job,) in self.oar.ask(alive)]
        closed = "SELECT job_id FROM accounting_jobs WHERE closed = 1 AND job_id = ANY(%s)"
        wait_until(lambda: self.oar.ask(closed, jobs) != [], "a job that has ended is recorded")

    def check_running(self) -> None:
        """Nothing stopped, and nobody complained but us."""
        assert self.watch.faults == []
        assert self.watch.shut == set()
        assert [line for line in self.errors() if "[oar-accounting]" not in line] == []
        assert self.oar.ask("SELECT type FROM event_logs WHERE type LIKE '%%EPILOGUE%%'") == []

    def errors(self) -> list[str]:
        """The errors in OAR's log, of OAR and of us."""
        log = (PLACE / "oar.log").read_text(encoding="utf-8", errors="replace")
        words = re.compile(r"^\[error\]|Disabling|bad value|Cannot find|epilogue", re.M | re.I)
        return [line for line in log.splitlines() if words.search(line)]

    def check_ledger(self) -> list[int]:
        """After one pass, all that has ended is in the ledger as OAR's rows say; these jobs."""
        with self.oar.connected() as oar:
            ended = dict(oar.ask("SELECT job_id, state FROM jobs WHERE state = ANY(%s)", [*ENDED]))
            self.call("catch-up", "--wait")
            assert set(ended.values()) == {"Terminated"}
            for job in ended.keys() - self._checked:
                row, found = job_row(oar, job), recorded(oar, job)
                # On a busy machine one that ran for no second is among them.
                assert found == row.due(), f"job {job}: {found}, not {row.due()}: {row}"
        self._checked |= ended.keys()
        self.call("verify")
        return sorted(ended)

    # -- the jobs -----------------------------------------------------------------------------

    def feed(self) -> None:
        """Let there be jobs of a second that wait, of one user after the other."""
        if not self.flows or self.watch.waiting >= JOBS:
            return
        self._turn = (self._turn + 1) % len(USERS)
        every = f"resource_id={RESOURCES_PER_NODE}"
        try:
            self.oar.submit(
                USERS[self._turn], "sleep 1", "--array", JOBS, request=every, nodes=NODES
            )
        except MachineError as error:
            self.watch.faults.append(f"submitting: {error}")

    def run_dry(self) -> None:
        """Submit nothing any more, and wait until all jobs have ended."""
        self.flows = False
        query = "SELECT count(*) FROM jobs WHERE state <> ALL(%s)"
        wait_until(lambda: self.oar.ask(query, [*ENDED]) == [(0,)], "all jobs end")


@contextmanager
def opened_stage() -> Iterator[Stage]:
    """A server with the library installed as is told, and a stream of jobs on it."""
    with pytest.MonkeyPatch.context() as patch, ExitStack() as stack:
        patch.setattr(machine, "USERS", USERS)
        stack.enter_context(place())
        make_elsewhere(MADE)
        library = Library(PREFIX, Random(6))
        TOML.write_text(KARMA, encoding="utf-8")
        oar = OarServer()
        oar.configure(LOG_LEVEL="2")
        stage = Stage(oar, library, Watch(stack.enter_context(oar.connected())))
        stage.write_stubs(PREFIX / "bin/python")
        OWN_EPILOGUE.write_text(CALLING, encoding="utf-8")
        OWN_EPILOGUE.chmod(0o755)
        stage.name_epilogue(own=False)
        stage.call("init")
        policy = "UPDATE queues SET scheduler_policy = 'karma_then_' || scheduler_policy"
        stage.administer(f"{policy} WHERE queue_name = 'default'")
        start_service(stage)
        oar.start(**VARIABLES, **HASTY)
        stack.enter_context(repeated(0.05, stage.watch.look))
        stack.enter_context(repeated(0.3, stage.feed))
        yield stage


def start_service(stage: Stage) -> None:
    """Start the service, and again whenever it ends."""
    SOCKETS.mkdir()
    shutil.chown(SOCKETS, "oar", "oar")
    # Not runuser: it stops when what it runs is stopped, and goes on for nobody's end.
    user = ["setpriv", "--reuid=oar", "--regid=oar", "--init-groups"]
    command = [*user, stage.library.command, "karma-service"]
    start_daemon("sh", "-c", FOR_EVER, "sh", *command, log="service.log", **VARIABLES)

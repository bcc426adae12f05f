"""A karma service as a process, and the processor time that asking it costs."""

import os
import resource
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from oar_accounting.stubs import oar3
from tests.bench.processes import ROOT

#: Seconds to start.
PATIENCE = 30.0
_TICKS = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True, slots=True)
class Cost:
    """What something took, in seconds."""

    wall: float
    cpu: float  #: of the processes that were started for it, and of the service


@dataclass(frozen=True, slots=True)
class Service:
    """One that answers at a socket."""

    socket: Path
    process: int

    def cpu(self) -> float:
        """The seconds of processor time that it has used."""
        stat = Path(f"/proc/{self.process}/stat").read_text(encoding="utf-8")
        user, system = stat.rpartition(")")[2].split()[11:13]
        return (int(user) + int(system)) / _TICKS

    def cost(self, work: Callable[[], object]) -> Cost:
        """Do some *work* in processes that end with it, and see what it takes."""
        began, before = time.perf_counter(), self.cpu() + _children()
        work()
        return Cost(time.perf_counter() - began, self.cpu() + _children() - before)


def _children() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def _answers(path: Path) -> bool:
    try:
        oar3.ask_service({"ask": "ping"}, PATIENCE, str(path))
    except OSError:
        return False
    return True


@contextmanager
def karma_service(directory: Path) -> Iterator[Service]:
    """A service for one `with` block."""
    socket = directory / "karma.sock"
    code = "from oar_accounting.cli import main; main(prog_name='oar-accounting')"
    command = [sys.executable, "-c", code, "karma-service", "--socket", str(socket)]
    # Where the package is not installed, it is beside the tests.
    with subprocess.Popen(command, cwd=ROOT, stderr=subprocess.DEVNULL) as process:
        try:
            deadline = time.monotonic() + PATIENCE
            while not _answers(socket):
                if time.monotonic() > deadline or process.poll() is not None:
                    raise RuntimeError("the karma service does not start")
                time.sleep(0.05)
            yield Service(socket, process.pid)
        finally:
            process.terminate()

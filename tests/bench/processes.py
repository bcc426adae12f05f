"""``oar-accounting`` as a process of its own, with its time and the most memory it had."""

import os
import re
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]

# Its peak is read by the process itself where the system tells it: what wait4 tells of a child
# is at least what its parent had when it forked.
PROGRAM = """
import sys
from oar_accounting.cli import main
try:
    main(prog_name="oar-accounting")
finally:
    try:
        with open("/proc/self/status") as status:
            sys.stderr.write("".join(line for line in status if line.startswith("VmHWM")))
    except OSError:
        pass
"""


@dataclass(frozen=True, slots=True)
class Run:
    """One run of the program."""

    seconds: float
    peak: int  #: bytes
    said: str


def oar_accounting(url: str, config: Path, *command: str) -> Run:
    """Run a command of ours. Raises :class:`subprocess.CalledProcessError` where it fails."""
    return python(PROGRAM, "--url", url, "--config", str(config), *command)


def python(program: str, *given: str) -> Run:
    """Run a program that tells its own peak. Raises as `oar_accounting`."""
    arguments = [sys.executable, "-c", program, *given]
    began = time.perf_counter()
    with subprocess.Popen(
        arguments, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    ) as process:
        assert process.stdout is not None
        said = process.stdout.read().decode(errors="replace")
        _, status, used = os.wait4(process.pid, 0)
        seconds = time.perf_counter() - began
        process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise subprocess.CalledProcessError(process.returncode, arguments, said)
    own = re.search(r"^VmHWM:\s+(\d+) kB$", said, re.MULTILINE)
    waited = used.ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    return Run(seconds, int(own[1]) * 1024 if own else waited, said)

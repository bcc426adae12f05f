"""The library on the OAR server: installed, and called by its timer, as the README tells."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager

from tests.pages import copy_sources
from tests.system.live.machine import PLACE, MachineError, repeated, run

SOURCE = PLACE / "source"
PREFIX = PLACE / "prefix"
HOOK = PREFIX / "share/oar-accounting/hooks/server_epilogue"
TOML = PLACE / "accounting.toml"
STATE = PLACE / "state"

#: What our programs find in their environment: no file that this machine has for them counts.
VARIABLES = {"OAR_ACCOUNTING_CONF": str(TOML), "OAR_ACCOUNTING_STATE": str(STATE)}


def install() -> None:
    """Install the library and its hook where the user oar can read them."""
    copy_sources(SOURCE)
    # Debian's Python: the one that runs the tests may be closed to the user oar.
    run("/usr/bin/python3", "-m", "venv", PREFIX)
    # The variables of whoever runs the tests tell pip how to reach its index.
    run(PREFIX / "bin/pip", "install", "--quiet", f"{SOURCE}[postgresql]", **os.environ)
    TOML.touch()
    STATE.mkdir(mode=0o700)
    shutil.chown(STATE, "oar", "oar")


def call(*arguments: str) -> str:
    """Run our command as the user oar, and return what it printed."""
    return run(PREFIX / "bin/oar-accounting", *arguments, user="oar", **VARIABLES)


@contextmanager
def timer(every: float) -> Iterator[list[str]]:
    """Catch up every few seconds, as cron does every few minutes; gives what was printed."""
    printed: list[str] = []

    def catch_up() -> None:
        try:
            printed.append(call("catch-up"))
        except MachineError as error:
            printed.append(str(error))

    with repeated(every, catch_up):
        yield printed

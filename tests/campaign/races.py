"""Everything at once: catch-ups, a rebuild, hooks, changes in OAR, and somebody who verifies."""

import fcntl
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from sqlalchemy import URL, make_url

from tests.campaign.commands import ROOT, CampaignError, Left, Running, check, environment
from tests.campaign.stage import Stage

HOOK = ROOT / "hooks" / "server_epilogue"
HOOKS = 3
DB_TYPES = {"postgresql": "Pg", "mariadb": "mysql"}

# Its worker speaks to nobody, so what it left is written down in its place.
PROGRAM = """#!/bin/sh
"{python}" "$@" 2>>"{errors}"
code=$?
echo "$code" >>"{codes}"
exit "$code"
"""


def race(stage: Stage) -> None:
    """All begin at the same moment; nobody is refused, and at no time does the law not hold."""
    stage.counts.rounds += 1
    stage.oar.change()
    rebuild = stage.chance.choice((["rebuild"], ["rebuild", "--from-oar"], _metric(stage)))
    with _hooks(stage):
        running = [
            stage.commands.start(*arguments)
            for arguments in (["catch-up"], ["catch-up", "--full", "--wait"], rebuild, rebuild)
        ]
        stage.oar.change(deleted=0)
        while any(each.runs for each in running):
            stage.verify()
    for each in running:
        check(_may_end_so(each), str(each.left()))
    stage.settle()


def _metric(stage: Stage) -> list[str]:
    if stage.chance.random() < 0.5:
        stage.other_scale()
    return ["rebuild", "--metric", "memory"]


def _may_end_so(running: Running) -> bool:
    """It has done its work, or another one does it."""
    left: Left = running.left()
    return left.code == 0 or (
        left.code == 3 and "another rebuild of metric memory has begun since" in left.err
    )


@contextmanager
def _hooks(stage: Stage) -> Iterator[None]:
    """Call OAR's hook some times; in the end all its workers have done their work."""
    directory = stage.directory / "hooks"
    directory.mkdir(exist_ok=True)
    program, codes, errors = (directory / name for name in ("python", "codes", "errors"))
    program.write_text(PROGRAM.format(python=sys.executable, errors=errors, codes=codes))
    program.chmod(0o755)
    conf = directory / "oar.conf"
    conf.write_text(_oar_conf(make_url(stage.url)), encoding="utf-8")
    variables = environment(
        OARCONFFILE=str(conf),
        OAR_ACCOUNTING_CONF=str(stage.config),
        OAR_ACCOUNTING_PYTHON=str(program),
        OAR_ACCOUNTING_STATE=str(directory),
        OAR_ACCOUNTING_DELAY="0",
    )
    codes.write_text("")
    with _until_all_have_ended() as held_open:
        for number in range(HOOKS):
            command = [str(HOOK), str(number)]
            done = subprocess.run(
                command, env=variables, pass_fds=[held_open], capture_output=True, check=False
            )
            left = (done.returncode, done.stdout, done.stderr)
            check(left == (0, b"", b""), f"a hook says nothing and leaves with 0, not {left}")
        yield
    ended = codes.read_text().split()
    check(bool(ended) and set(ended) == {"0"}, f"workers: {ended}\n{_text(errors)}")


@contextmanager
def _until_all_have_ended() -> Iterator[int]:
    """A file that is passed to processes, at the end waits until none has it open any more."""
    reading, writing = os.pipe()
    # The hook closes those below 10.
    passed = fcntl.fcntl(writing, fcntl.F_DUPFD, 10)
    os.close(writing)
    try:
        yield passed
    finally:
        os.close(passed)
        os.read(reading, 1)
        os.close(reading)


def _text(file: Path) -> str:
    return file.read_text(encoding="utf-8") if file.exists() else ""


def _oar_conf(url: URL) -> str:
    if url.get_backend_name() == "sqlite":
        return f'DB_TYPE="sqlite"\nDB_BASE_FILE="{url.database}"\n'
    kind = "postgresql" if url.get_backend_name() == "postgresql" else "mariadb"
    if url.password is None:
        raise CampaignError("a server of the campaign has a password")
    return (
        f'DB_TYPE="{DB_TYPES[kind]}"\nDB_HOSTNAME="{url.host}"\nDB_PORT="{url.port}"\n'
        f'DB_BASE_NAME="{url.database}"\nDB_BASE_LOGIN="{url.username}"\n'
        f'DB_BASE_PASSWD="{url.password}"\n'
    )

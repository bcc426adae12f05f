"""The timers that an administrator copies: what they run, as whom, and that systemd takes them."""

import re
import shlex
import shutil
import subprocess
from configparser import ConfigParser
from pathlib import Path

import pytest

from oar_accounting import cli

HOOKS = Path(__file__).parents[1] / "hooks"
PROGRAM = "/opt/oar-accounting/bin/oar-accounting"


def unit(kind: str) -> ConfigParser:
    read = ConfigParser(interpolation=None, strict=True)
    read.optionxform = str  # type: ignore[assignment, method-assign]
    assert read.read(HOOKS / f"oar-accounting.{kind}")
    return read


def assert_catches_up(words: list[str]) -> None:
    """The command line is one that our program takes, and it catches up."""
    assert words[0] == PROGRAM
    context = cli.main.make_context("oar-accounting", words[1:])
    name, command, arguments = cli.main.resolve_command(context, words[1:])
    assert name == "catch-up"
    assert command
    assert command.make_context(name, arguments, parent=context)


def test_systemd_catches_up_as_oar_for_a_limited_time() -> None:
    service = unit("service")["Service"]
    assert_catches_up(shlex.split(service["ExecStart"]))
    assert service["User"] == "oar"
    assert service["Type"] == "oneshot"
    assert re.fullmatch(r"\d+min", service["TimeoutStartSec"])


def test_systemd_makes_the_place_of_the_hook_s_locks() -> None:
    service = unit("service")["Service"]
    hook = (HOOKS / "server_epilogue").read_text()
    assert f"OAR_ACCOUNTING_STATE:-/var/lib/{service['StateDirectory']}}}" in hook
    assert service["StateDirectoryMode"] == "0700"


def test_cron_catches_up_as_oar_for_a_limited_time() -> None:
    text = (HOOKS / "oar-accounting.cron").read_text()
    # cron drops a last line that does not end.
    assert text.endswith("\n")
    (line,) = (line for line in text.splitlines() if not line.startswith("#"))
    times, (user, command) = line.split()[:5], line.split(maxsplit=6)[5:]
    assert times == ["*/5", "*", "*", "*", "*"]
    assert user == "oar"
    # A percent sign would end the command.
    assert "%" not in command
    words = shlex.split(command)
    assert words[:3] == ["timeout", "--kill-after=10", "30m"]
    assert words[-1] == ">/dev/null"
    assert_catches_up(words[3:-1])


@pytest.mark.skipif(not shutil.which("systemd-analyze"), reason="no systemd-analyze here")
def test_systemd_takes_its_units(tmp_path: Path) -> None:
    for kind in ("service", "timer"):
        # It wants the program to be there.
        text = (HOOKS / f"oar-accounting.{kind}").read_text().replace(PROGRAM, "/bin/true")
        (tmp_path / f"oar-accounting.{kind}").write_text(text)
    done = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", *sorted(tmp_path.iterdir())],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    # It also tells what is wrong with other units of this machine.
    assert "oar-accounting" not in done.stderr
    assert done.returncode == 0, done.stderr


@pytest.mark.skipif(not shutil.which("systemd-analyze"), reason="no systemd-analyze here")
def test_systemd_calls_it_every_five_minutes() -> None:
    done = subprocess.run(
        ["systemd-analyze", "calendar", "--iterations=3", unit("timer")["Timer"]["OnCalendar"]],
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    minutes = [int(minute) for minute in re.findall(r"\d\d:(\d\d):00", done.stdout)]
    assert len(minutes) >= 3
    assert {minute % 5 for minute in minutes} == {0}

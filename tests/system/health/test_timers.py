"""Units of systemd and lines of cron: what they run, as whom, and that both take them."""

import re
import shlex
import shutil
import subprocess
from configparser import ConfigParser
from pathlib import Path

import pytest

from oar_accounting.cli import app
from oar_accounting.settings.scheduler import SOCKET
from oar_accounting.stubs.plan import STATE_DIRECTORY

HOOKS = Path(__file__).parents[3] / "hooks"
PROGRAM = "/opt/oar-accounting/bin/oar-accounting"
UNITS = ("oar-accounting.service", "oar-accounting.timer", "oar-accounting-karma.service")


def unit(kind: str, name: str = "oar-accounting") -> ConfigParser:
    read = ConfigParser(interpolation=None, strict=True)
    read.optionxform = str  # type: ignore[assignment, method-assign]
    assert read.read(HOOKS / f"{name}.{kind}")
    return read


def cron_lines(name: str) -> list[tuple[list[str], str, str]]:
    """When, as whom and what, line by line."""
    text = (HOOKS / f"{name}.cron").read_text()
    # cron drops a last line that does not end, and a percent sign would end a command.
    assert text.endswith("\n")
    assert "%" not in text
    lines = [line.split(maxsplit=6) for line in text.splitlines() if not line.startswith("#")]
    return [(line[:5], line[5], line[6]) for line in lines]


def assert_runs(wanted: str, words: list[str]) -> None:
    """The command line is one that our program takes, and runs the command that is wanted."""
    assert words[0] == PROGRAM
    context = app.main.make_context("oar-accounting", words[1:])
    name, command, arguments = app.main.resolve_command(context, words[1:])
    assert name == wanted
    assert command
    assert command.make_context(name, arguments, parent=context)


def test_systemd_catches_up_as_oar_for_a_limited_time() -> None:
    service = unit("service")["Service"]
    assert_runs("catch-up", shlex.split(service["ExecStart"]))
    assert service["User"] == "oar"
    assert service["Type"] == "oneshot"
    assert re.fullmatch(r"\d+min", service["TimeoutStartSec"])


def test_systemd_makes_the_place_of_the_hook_s_locks() -> None:
    service = unit("service")["Service"]
    hook = (HOOKS / "server_epilogue").read_text()
    assert f"state='/var/lib/{service['StateDirectory']}'" in hook
    assert service["StateDirectoryMode"] == "0700"


def test_cron_catches_up_as_oar_for_a_limited_time() -> None:
    ((times, user, command),) = cron_lines("oar-accounting")
    assert times == ["*/5", "*", "*", "*", "*"]
    assert user == "oar"
    words = shlex.split(command)
    assert words[:3] == ["timeout", "--kill-after=10", "30m"]
    assert words[-1] == ">/dev/null"
    assert_runs("catch-up", words[3:-1])


def test_systemd_starts_the_karma_service_again_and_again() -> None:
    read = unit("service", "oar-accounting-karma")
    service = read["Service"]
    assert_runs("karma-service", shlex.split(service["ExecStart"]))
    assert service["User"] == "oar"
    assert (service["Restart"], read["Unit"]["StartLimitIntervalSec"]) == ("always", "0")
    assert read["Install"]["WantedBy"] == "multi-user.target"


def test_systemd_makes_the_place_of_the_socket_for_oar_alone() -> None:
    service = unit("service", "oar-accounting-karma")["Service"]
    assert Path("/run", service["RuntimeDirectory"]) == Path(SOCKET).parent
    assert service["RuntimeDirectoryMode"] == "0700"


def test_the_two_services_are_confined_alike() -> None:
    timed, karma = (
        dict(unit("service", name)["Service"])
        for name in ("oar-accounting", "oar-accounting-karma")
    )
    own = {"ExecStart", "Type", "TimeoutStartSec", "Restart", "RestartSec"}
    own |= {"RuntimeDirectory", "RuntimeDirectoryMode"}
    assert {key: value for key, value in timed.items() if key not in own} == {
        key: value for key, value in karma.items() if key not in own
    }


def test_cron_starts_one_karma_service_where_there_is_none() -> None:
    (makes, starts) = cron_lines("oar-accounting-karma")
    assert makes[:2] == (["*"] * 5, "root")
    assert makes[2] == f"install -d -o oar -g oar -m 700 {Path(SOCKET).parent}"
    assert starts[:2] == (["*"] * 5, "oar")
    words = shlex.split(starts[2])
    assert words[:2] == ["flock", "--nonblock"]
    assert Path(words[2]).parent == STATE_DIRECTORY
    # What it says would be sent by mail, every minute in which one is at work.
    assert words[-2:] == [">/dev/null", "2>&1"]
    assert_runs("karma-service", words[3:-2])


@pytest.mark.skipif(not shutil.which("systemd-analyze"), reason="no systemd-analyze here")
def test_systemd_takes_its_units(tmp_path: Path) -> None:
    for name in UNITS:
        # It wants the program to be there.
        text = (HOOKS / name).read_text().replace(PROGRAM, "/bin/true")
        (tmp_path / name).write_text(text)
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

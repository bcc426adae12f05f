"""A machine apart keeps to itself."""

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests import apart
from tests.apart import ApartError, Machine, machine

pytestmark = pytest.mark.skipif(bool(apart.missing()), reason=apart.missing())


@pytest.fixture
def here() -> Iterator[Machine]:
    with machine(sys.executable, hidden=["/etc/hidden", "/usr/local/lib/hidden"]) as found:
        yield found


def test_what_is_written_is_not_kept(here: Machine) -> None:
    for layer in ("/etc", "/opt", "/root", "/usr/local/bin", "/var/lib"):
        here.script(f"echo text > {layer}/written-apart; cat {layer}/written-apart")
        assert not Path(layer, "written-apart").exists()
    assert here.written("written-apart") == ["written-apart"] * 5


@pytest.mark.parametrize("where", ["/", "/tmp", "/var/tmp", "/srv"])
def test_nothing_else_can_be_written_or_removed(here: Machine, where: str, tmp_path: Path) -> None:
    kept = tmp_path / "kept"
    kept.write_text("text", encoding="utf-8")
    with pytest.raises(ApartError):
        here.script(f"rm -f {kept}")
    with pytest.raises(ApartError, match="Read-only file system"):
        here.script(f"echo text > {where}/written-apart")
    assert kept.read_text(encoding="utf-8") == "text"


def test_there_is_room_for_what_is_temporary(here: Machine) -> None:
    name = here.script("su nobody -s /bin/sh -c mktemp").strip()
    assert Path(name).parent == here.place / "tmp"


def test_it_has_processes_of_its_own_which_end_with_it() -> None:
    with machine(sys.executable) as here:
        here.start("sleep", "1000")
        assert here.run("sh", "-c", "echo $$").strip() in map(str, range(2, 100))
    assert here.started[0].poll() is not None
    assert not here.place.exists()


def test_what_is_hidden_is_not_there_and_can_be_made(here: Machine) -> None:
    assert not here.has("/etc/hidden")
    assert here.script("mkdir /etc/hidden; ls -A /etc/hidden; rmdir /etc/hidden") == ""


def test_a_command_that_fails_is_told(here: Machine) -> None:
    with pytest.raises(ApartError, match="not today"):
        here.script("echo not today; exit 3")

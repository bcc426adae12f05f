"""A state directory on which nobody can write, whatever its modes are."""

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from oar_accounting.health import state_directory
from tests.database.health import test_doctor
from tests.database.health.test_doctor import Site

machine, clock, site = test_doctor.machine, test_doctor.clock, test_doctor.site

ROOM: dict[str, Any] = {"f_bavail": 4096, "f_frsize": 4096, "f_files": 9, "f_favail": 9}


def said(directory: Path) -> list[str]:
    """What is found about it."""
    found = list(state_directory.findings(directory))
    assert {each.level for each in found} <= {"bad"}
    assert {each.subject for each in found} <= {"state directory"}
    assert all(str(directory) in each.mend for each in found)
    return [each.said.partition(";")[0] for each in found]


@pytest.mark.parametrize(
    ("changed", "expected"),
    [
        ({}, None),
        ({"f_bavail": 255}, "the file system of {} is full: 1,020 KiB are left"),
        ({"f_bavail": 0}, "the file system of {} is full: 0 KiB are left"),
        ({"f_favail": 0}, "the file system of {} is full: no more files can be made there"),
        # As many as anybody wants.
        ({"f_favail": 0, "f_files": 0}, None),
        ({"f_flag": os.ST_RDONLY}, "{} is on a file system that is mounted for reading only"),
    ],
)
def test_what_a_file_system_tells(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, changed: dict[str, int], expected: str | None
) -> None:
    told = SimpleNamespace(**{"f_flag": 0, **ROOM, **changed})
    monkeypatch.setattr(os, "statvfs", lambda _: told)
    assert said(tmp_path) == ([] if expected is None else [expected.format(tmp_path)])


def test_what_is_not_there_is_told_by_the_hook_alone(tmp_path: Path) -> None:
    assert said(tmp_path / "none") == []


@pytest.fixture
def small(site: Site) -> Iterator[Path]:
    """The state directory, on a file system of its own that has little room."""
    place = site.machine.state
    command = ["mount", "-t", "tmpfs", "-o", "size=8m,nr_inodes=3", "none", str(place)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    except OSError as error:
        pytest.skip(f"mount: {error.strerror}")
    if done.returncode:
        pytest.skip(done.stderr.strip())
    yield place
    subprocess.run(["umount", str(place)], check=True)


@test_doctor.on_sqlite
def test_a_real_file_system_that_fills_up(site: Site, small: Path) -> None:
    site.machine.give(small)
    assert site.wrong() == []
    (small / "large").write_bytes(bytes(7 * 1024 * 1024 + 4096))
    found = site.only("state directory")
    assert "is full: 1,020 KiB are left; no job is recorded when it ends" in found.said
    (small / "large").write_bytes(b"")
    (small / "other").touch()
    assert "no more files can be made" in site.only("state directory").said
    (small / "other").unlink()
    assert site.wrong() == []
    subprocess.run(["mount", "-o", "remount,ro", str(small)], check=True)
    found = site.only("state directory")
    assert "mounted for reading only" in found.said
    shown = subprocess.run(found.mend, shell=True, capture_output=True, text=True, check=True)
    assert str(small) in shown.stdout

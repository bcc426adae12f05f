"""``stubs install`` once more: where OAR is not found, it is where it was said to be before."""

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from oar_accounting.cli import app
from oar_accounting.cli.commands import scheduling
from oar_accounting.stubs.files import LIST, read_list

KARMA = "#!/usr/bin/perl\nsub karma { 1 }\n"


class Places:
    """A machine on which OAR is nowhere to be found."""

    def __init__(self, directory: Path) -> None:
        self.stubs = directory / "stubs"
        self.schedulers = directory / "schedulers"
        self.schedulers.mkdir()
        (self.schedulers / "fair").write_text(KARMA)
        self.python, self.packages = self.oar3(directory / "oar3")
        self.conf = directory / "oar.conf"
        self.conf.write_text('DB_TYPE="sqlite"\nDB_BASE_FILE="nowhere.db"\n')

    def oar3(self, directory: Path) -> tuple[Path, Path]:
        """A Python of OAR 3, and where it finds modules."""
        python, packages = directory / "python", directory / "packages"
        packages.mkdir(parents=True)
        python.write_text(f"#!/bin/sh\necho '{json.dumps([str(packages), []])}'\n")
        python.chmod(0o755)
        return python, packages

    def run(self, *arguments: object) -> str:
        """Run a command about stubs."""
        options = ["--directory", str(self.stubs)]
        words = ["--oar-conf", str(self.conf), "stubs", *map(str, arguments), *options]
        done = CliRunner().invoke(app.main, words)
        assert done.exit_code == 0, done.output
        return done.output

    def links(self) -> list[str]:
        """The names of the links beside OAR's schedulers."""
        return [each.name for each in self.schedulers.iterdir() if each.is_symlink()]


@pytest.fixture
def places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Places:
    """A machine of its own: nothing outside of the test's directory is looked at or written."""
    for name in ("find_oar3", "find_schedulers"):
        monkeypatch.setattr(scheduling, name, lambda: None)
        monkeypatch.setattr(f"oar_accounting.stubs.plan.{name}", lambda: None)
    monkeypatch.setattr(scheduling, "make_state", lambda _: [])
    return Places(tmp_path)


def install(places: Places, *more: object) -> str:
    return places.run(
        "install", "--schedulers", places.schedulers, "--oar3-python", places.python, *more
    )


def test_what_was_said_once_holds_for_the_next_time(places: Places) -> None:
    install(places)
    stub = places.packages / "oar_accounting_stub.py"
    stub.write_text("")
    assert f"wrote {stub}" in places.run("install")
    found = read_list(places.stubs)
    assert found is not None
    assert (found.oar3_python, found.schedulers) == (places.python, places.schedulers)
    places.run("remove", "--force")
    assert (list(places.packages.iterdir()), places.links()) == ([], [])


def test_what_is_said_anew_holds_from_then_on_and_nothing_is_forgotten(
    places: Places, tmp_path: Path
) -> None:
    install(places)
    python, packages = places.oar3(tmp_path / "newer")
    places.run("install", "--oar3-python", python)
    assert "all stubs" in places.run("install")
    for each in (packages, places.packages):
        assert (each / "oar_accounting_stub.py").exists()
    places.run("remove", "--force")
    assert [*packages.iterdir(), *places.packages.iterdir()] == []


def test_what_is_no_longer_there_is_not_asked(places: Places) -> None:
    install(places)
    places.python.unlink()
    places.run("install")
    found = read_list(places.stubs)
    assert found is not None
    assert found.oar3_python is None
    assert places.packages / "oar_accounting_stub.py" in found.files


def test_a_list_that_cannot_be_read_is_written_anew(places: Places) -> None:
    install(places)
    (places.stubs / LIST).write_text("{")
    places.run("install")
    assert read_list(places.stubs) is not None

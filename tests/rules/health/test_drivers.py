"""Two distributions of one driver, and one of which only the record is left."""

import sys
from pathlib import Path

import pytest

from oar_accounting.health import drivers

PIP = f"{sys.executable} -m pip"


class Environment:
    """A directory in which pip has installed distributions."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.package = directory / "psycopg9"

    def install(self, name: str) -> None:
        """One that holds the files of the driver."""
        self.package.mkdir(exist_ok=True)
        (self.package / "__init__.py").write_text(f"whose = {name!r}\n")
        record = self.directory / f"{name.replace('-', '_')}-2.9.dist-info"
        record.mkdir()
        (record / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 2.9\n")
        (record / "RECORD").write_text(f"psycopg9/__init__.py,,\n{record.name}/METADATA,,\n")


@pytest.fixture
def environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Environment:
    known = {"psycopg9": ("psycopg9-binary", "psycopg9")}
    monkeypatch.setattr(drivers, "DRIVERS", known)
    monkeypatch.syspath_prepend(tmp_path)
    return Environment(tmp_path)


def test_here_each_driver_is_there_once() -> None:
    assert list(drivers.findings()) == []


def test_what_is_not_installed_is_no_fault(environment: Environment) -> None:
    assert list(drivers.findings()) == []


def test_both_are_named_with_the_way_out(environment: Environment) -> None:
    environment.install("psycopg9")
    assert list(drivers.findings()) == []
    environment.install("psycopg9-binary")
    (found,) = drivers.findings()
    assert (found.level, found.subject) == ("warning", "drivers")
    assert found.said.startswith("psycopg9-binary and psycopg9 are both installed in ")
    assert found.mend == (
        f"{PIP} uninstall --yes psycopg9-binary psycopg9 && {PIP} install psycopg9-binary"
    )


def test_one_in_another_directory_is_not_touched(
    environment: Environment, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    environment.install("psycopg9")
    system = tmp_path / "system"
    system.mkdir()
    Environment(system).install("psycopg9-binary")
    monkeypatch.syspath_prepend(system)
    assert list(drivers.findings()) == []


def test_a_record_without_files_is_told(environment: Environment) -> None:
    """What is left when one of two was removed, with or without a directory."""
    environment.install("psycopg9-binary")
    (environment.package / "__init__.py").unlink()
    (found,) = drivers.findings()
    assert found.level == "bad"
    assert found.said == "pip has psycopg9-binary on record, but its files are gone"
    assert found.mend == f"{PIP} install --force-reinstall psycopg9-binary"
    environment.package.rmdir()
    assert list(drivers.findings()) == [found]

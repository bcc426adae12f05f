"""``oar-accounting stubs``: what OAR calls is there, whole, and runs, whatever is done to it.

Nothing outside the test's directory is looked at or written: every place is named. A virtual
environment stands for that of OAR 3, in which Python's own metadata find what OAR would.
"""

import json
import os
import re
import shutil
import stat
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Engine, create_engine, make_url, text

from oar_accounting.errors import StubError
from oar_accounting.settings.scheduler import SchedulerSettings
from oar_accounting.stubs import files, plan, use
from oar_accounting.stubs.files import LIST, install, read_list, remove
from oar_accounting.stubs.plan import DEFAULT, INSTALL, MODULE, STUB_VERSION, filled, python_of
from tests.asked import service, until, whole
from tests.servers import Database
from tests.small_oar import SmallOar
from tests.system.cli.test_cli import Done, run
from tests.system.schedulers.test_oar2_scheduler import ITS_OWN, SCHEDULER, STOCK
from tests.system.stubs.test_hook import AS_NOBODY, NOBODY, ROOT_IS_HERE, STUB, a_place

ROOT = Path(__file__).parents[3]
HOOKS = ROOT / "hooks"
LINK = f"karma_then_{STOCK}"
GROUPS = ("oar.jobs_sorting_func", "oar.extra_metasched_func")
on_sqlite = pytest.mark.databases("sqlite")
as_root = pytest.mark.skipif(not ROOT_IS_HERE, reason="only root can be another user")

#: What OAR 3 makes of the entry points that it finds, and what is in them.
FIND = """
import importlib.metadata, json, sys
found = {}
for group in json.loads(sys.argv[1]):
    for each in importlib.metadata.entry_points(group=group):
        function = each.load()
        values = {k: v for k, v in vars(sys.modules[function.__module__]).items() if k.isupper()}
        values = {k: v for k, v in values.items() if isinstance(v, str | int | float)}
        found.setdefault(group, []).append([each.name, function.__name__, values])
print(json.dumps(found))
"""


class Machine:
    """An OAR server, on which everything is below one directory that everybody may enter."""

    def __init__(self, root: Path, templates: "Templates") -> None:
        self.root = root
        self.stubs = root / "lib" / "oar-accounting"
        self.schedulers = root / "schedulers"
        self.state = root / "state"
        self.conf = root / "etc" / "oar.conf"
        self.toml = root / "etc" / "accounting.toml"
        self.python = root / "library" / "bin" / "python"
        for each in (self.schedulers, self.conf.parent, self.python.parent, self.state):
            each.mkdir(parents=True)
        self.configure()
        self.toml.write_text(f'[scheduler]\nsocket = "{root / "karma.sock"}"\n', encoding="utf-8")
        self.write(self.python, f'#!/bin/sh\nexec {sys.executable} "$@"\n')
        self.write(self.schedulers / STOCK, SCHEDULER)
        self.write(self.schedulers / "oar_sched_gantt", "#!/usr/bin/perl\nexit 0\n")
        self.oar3 = root / "oar3"
        shutil.copytree(templates.environment, self.oar3, symlinks=True)
        shutil.copy(templates.database, root / "oar.db")
        self.python3 = self.oar3 / "bin" / "python"
        (self.packages,) = self.oar3.glob("lib/python*/site-packages")

    def write(self, file: Path, content: str, mode: int = 0o755) -> Path:
        """A file with a mode."""
        file.write_text(content, encoding="utf-8")
        file.chmod(mode)
        return file

    def configure(self, *lines: str) -> None:
        """Let oar.conf have these lines beside those of a database."""
        database = ('DB_TYPE="sqlite"', f'DB_BASE_FILE="{self.root / "oar.db"}"')
        self.conf.write_text("\n".join([*database, *lines, ""]), encoding="utf-8")

    def run(self, *words: str | Path, umask: int = 0o022) -> Done:
        """Run a command about stubs."""
        options = ["--oar-conf", self.conf, "--config", self.toml, "stubs", *words]
        before = os.umask(umask)
        try:
            done = run(*map(str, options), "--directory", str(self.stubs))
        finally:
            os.umask(before)
        assert "Traceback" not in done.stderr, done.stderr
        return done

    def install(self, *words: str | Path, umask: int = 0o022) -> Done:
        """Install them, as for the first time."""
        places = {"--schedulers": self.schedulers, "--oar3-python": self.python3}
        places |= {"--python": self.python, "--state": self.state}
        options = [word for pair in places.items() if pair[0] not in words for word in pair]
        return self.run("install", *options, *words, umask=umask)

    def update(self) -> Done:
        """Install them once more; where OAR is need not be said."""
        return self.run("install", "--python", self.python)

    def planned(self, **changes: Any) -> plan.Plan:
        """The same without a process."""
        given: dict[str, Any] = {
            "python": self.python,
            "scheduler": SchedulerSettings(socket=str(self.root / "karma.sock")),
            "directory": self.stubs,
            "state": self.state,
            "schedulers": self.schedulers,
            "oar3_python": self.python3,
        }
        return plan.plan(**given | changes)

    def check(self) -> Done:
        """Check them."""
        return self.run("check")

    def wrong(self) -> str:
        """What is said of something that needs attention, in one line."""
        done = self.check()
        assert done.returncode == 1
        return " ".join(done.stdout.split())

    def found(self) -> dict[str, list[Any]]:
        """What OAR 3 finds by metadata: the name, the function, and values of its module."""
        done = subprocess.run(
            [self.python3, "-I", "-c", FIND, json.dumps(GROUPS)],
            capture_output=True,
            text=True,
            timeout=60,
        )
        assert done.returncode == 0, done.stderr
        found: dict[str, list[Any]] = json.loads(done.stdout)
        return found

    def everything(self) -> dict[str, tuple[int, str | bytes]]:
        """All that is there, with modes and contents; but what is remembered of answers."""
        found = {}
        for path in sorted(self.root.rglob("*")):
            mode = stat.S_IMODE(path.lstat().st_mode)
            content: str | bytes = ""
            if path.is_symlink():
                content = os.readlink(path)
            elif path.is_file():
                content = path.read_bytes()
            if not path.is_relative_to(self.state) and path.name != "__pycache__":
                found[str(path.relative_to(self.root))] = (mode, content)
        return found


@dataclass(frozen=True)
class Templates:
    """What every machine has a copy of."""

    environment: Path  #: that of OAR 3
    database: Path  #: of an OAR, a file of SQLite


@pytest.fixture(scope="session")
def templates(tmp_path_factory: pytest.TempPathFactory) -> Templates:
    """A virtual environment and a database."""
    place = tmp_path_factory.mktemp("templates")
    made = Templates(environment=place / "oar3", database=place / "oar.db")
    command = [sys.executable, "-m", "venv", "--without-pip", str(made.environment)]
    subprocess.run(command, check=True)
    engine = create_engine(f"sqlite:///{made.database}")
    SmallOar(engine)
    engine.dispose()
    return made


@pytest.fixture
def machine(templates: Templates) -> Iterator[Machine]:
    """A machine with OAR 2 and OAR 3, on which nothing of ours is."""
    with tempfile.TemporaryDirectory(prefix="stubs-") as name:
        root = Path(name)
        root.chmod(0o755)
        yield Machine(root, templates)


@pytest.fixture
def installed(machine: Machine) -> Machine:
    """The same with all stubs."""
    done = machine.install()
    assert done.returncode == 0, done.stderr
    return machine


def commands(said: str) -> list[str]:
    """The commands that have to come first."""
    return re.findall(r"; first: (.*)", said)


def shell(command: str, environment: Mapping[str, str] | None = None) -> None:
    """Run a command that was printed, as it was printed."""
    subprocess.run(
        command, shell=True, check=True, timeout=60, env={**os.environ, **(environment or {})}
    )


# -- they are there ----------------------------------------------------------------------------


@pytest.mark.parametrize("umask", [0o000, 0o022, 0o027, 0o077, 0o777])
def test_all_are_there_under_any_umask(machine: Machine, umask: int) -> None:
    before = set(machine.everything())
    done = machine.install(umask=umask)
    assert (done.returncode, done.stderr) == (0, "")
    found = machine.everything()
    info = (machine.packages / plan.INFO).relative_to(machine.root)
    modes = {
        "lib": 0o755,
        "lib/oar-accounting": 0o755,
        "lib/oar-accounting/server_epilogue": 0o755,
        "lib/oar-accounting/karma_scheduler": 0o755,
        "lib/oar-accounting/OARAccountingKarma.pm": 0o644,
        f"lib/oar-accounting/{LIST}": 0o644,
        f"{info}": 0o755,
        **{f"{info}/{name}": 0o644 for name in ("METADATA", "INSTALLER", "entry_points.txt")},
        f"{info.parent}/{MODULE}.py": 0o644,
    }
    compiled = {name for name in found if name.endswith(".pyc")}
    assert {name: found[name][0] for name in set(found) - before - compiled} == {
        **modes,
        f"schedulers/{LINK}": 0o777,
    }
    # Not what another user could not read.
    assert {found[name][0] for name in compiled} == {0o644}
    assert f"wrote {machine.stubs / 'server_epilogue'}" in done.stdout
    assert machine.check().returncode == 0
    assert [len(each) for each in machine.found().values()] == [1, 1]


def test_oar_3_finds_exactly_one_of_each(installed: Machine) -> None:
    found = installed.found()
    assert [(group, each[0][:2], len(each)) for group, each in found.items()] == [
        (GROUPS[0], ["accounting", "sort_jobs"], 1),
        (GROUPS[1], ["accounting", "count_usage"], 1),
    ]
    values = found[GROUPS[0]][0][2]
    assert values["PYTHON"] == str(installed.python)
    assert values["SOCKET"] == str(installed.root / "karma.sock")
    assert values["STATE"] == str(installed.state)
    assert values["VERSION"] == str(STUB_VERSION)
    assert (values["LIMIT"], values["LAST_ANSWER"]) == (5, 3600)


def test_the_values_of_the_settings_are_in_all(machine: Machine) -> None:
    machine.toml.write_text(
        '[scheduler]\nlimit = "7s"\nlast_answer = "2h"\nsocket = "/x y/é.sock"\n', encoding="utf-8"
    )
    assert machine.install().returncode == 0
    values = machine.found()[GROUPS[0]][0][2]
    wanted = {"LIMIT": 7, "LAST_ANSWER": 7200, "SOCKET": "/x y/é.sock"}
    assert {key: values[key] for key in wanted} == wanted
    perl = (machine.stubs / "karma_scheduler").read_text(encoding="utf-8")
    for line in ("$LIMIT = 7;", "$LAST_ANSWER = 7200;", "$SOCKET = '/x y/é.sock';"):
        assert line in perl
    # Where they change, it is told, and the same command mends it.
    machine.toml.write_text('[scheduler]\nlimit = "8s"\n', encoding="utf-8")
    assert "is not what this library and its settings would write" in machine.wrong()
    assert machine.update().returncode == 0
    assert machine.found()[GROUPS[0]][0][2]["LIMIT"] == 8


def test_what_is_right_is_left_alone(installed: Machine) -> None:
    before = {path: path.stat().st_ino for path in installed.stubs.iterdir() if path.name != LIST}
    done = installed.update()
    assert "all stubs are as they should be" in done.stdout
    assert {path: path.stat().st_ino for path in before} == before


def test_oars_scheduler_runs_through_the_link(installed: Machine) -> None:
    """It asks, and where nobody answers goes on by itself."""
    link = installed.schedulers / LINK
    bare = {"PATH": "/usr/bin:/bin", "OAR_ACCOUNTING_CONF": "/nowhere"}
    bare["OAR_ACCOUNTING_KARMA_LIMIT"] = "20"
    done = subprocess.run(
        [link, "default", "1700000000", "x"], env=bare, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0
    assert done.stdout.splitlines()[0] == ITS_OWN
    facts = whole("1 3.0", "2 1.0", "3 2.0", "4 0.0")
    with service(installed.root / "karma.sock", facts):
        done = subprocess.run(
            [link, "default", "1700000005", "x"], env=bare, capture_output=True, text=True
        )
    assert done.stdout.splitlines()[0] == "4=0.000 2=1.000 3=2.000 1=3.000"


@pytest.mark.parametrize("umask", [0o022, 0o027, 0o077])
@pytest.mark.parametrize("missing", ["nothing", "python", "state", "both"])
def test_the_epilogue_ends_well(missing: str, umask: int) -> None:
    with a_place() as place:
        values = {"version": 1, "python": str(place.python), "state": str(place.state)}
        hook = place.directory / "server_epilogue"
        source = (HOOKS / "server_epilogue").read_text(encoding="utf-8")
        hook.write_text(filled(source, values), encoding="utf-8")
        hook.chmod(0o755)
        if missing in ("python", "both"):
            place.python.unlink()
        if missing in ("state", "both"):
            place.state.rmdir()
        bare = {"PATH": "/usr/bin:/bin", "OAR_ACCOUNTING_DELAY": "0"}
        place.call(hook, "42", env=bare, umask=umask, **AS_NOBODY)
        if missing == "nothing":
            until(lambda: place.log() == ["start", "end"])
        place.gone()
        assert place.log() == (["start", "end"] if missing == "nothing" else [])
        assert STUB.startswith("#!")


# -- one at a time -----------------------------------------------------------------------------

LOOK = """
import importlib.metadata, os, sys, time
while not os.path.exists(sys.argv[1]):
    for group in ("oar.jobs_sorting_func", "oar.extra_metasched_func"):
        (found,) = importlib.metadata.entry_points(group=group)
        for name in [name for name in sys.modules if "stub" in name]:
            del sys.modules[name]
        module = sys.modules[found.load().__module__]
        assert module.LIMIT in (11, 222), module.LIMIT
    print(module.LIMIT, flush=True)
    time.sleep(0.01)
"""


@pytest.mark.slow
def test_a_reader_never_sees_a_file_that_is_missing_or_half(machine: Machine) -> None:
    plans = [machine.planned(scheduler=SchedulerSettings(limit=limit)) for limit in (11, 222)]
    texts = {stub.path: {stub.text} for stub in plans[0].stubs}
    for stub in plans[1].stubs:
        texts[stub.path].add(stub.text)
    assert sum(len(each) > 1 for each in texts.values()) == 2
    for each in plans:
        install(each)
    ended, seen = threading.Event(), 0

    def read() -> None:
        nonlocal seen
        while not ended.is_set():
            for path, known in texts.items():
                assert path.read_text(encoding="utf-8") in known
                assert path.stat().st_mode & 0o444 == 0o444
            assert (machine.schedulers / LINK).resolve().exists()
            assert read_list(machine.stubs) is not None
            seen += 1
            time.sleep(0.002)

    stop = machine.root / "stop"
    loader = subprocess.Popen(
        [machine.python3, "-I", "-c", LOOK, stop],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    failed: list[BaseException] = []
    reader = threading.Thread(target=lambda: _kept(read, failed))
    reader.start()
    try:
        for number in range(200):
            assert len(install(plans[number % 2])) == 2
    finally:
        ended.set()
        reader.join()
        stop.touch()
        out, errors = loader.communicate(timeout=60)
    assert failed == []
    assert (loader.returncode, errors) == (0, "")
    assert seen > 20
    assert {"11", "222"} == set(out.split())


def _kept(function: Any, failed: list[BaseException]) -> None:
    try:
        function()
    except BaseException as error:
        failed.append(error)


def test_what_was_compiled_is_what_was_written(machine: Machine) -> None:
    """Also within a second, and where both are as long."""
    for limit in (5, 6, 7, 8):
        install(machine.planned(scheduler=SchedulerSettings(limit=limit)))
        assert machine.found()[GROUPS[0]][0][2]["LIMIT"] == limit


def test_one_that_was_killed_leaves_nothing_behind(installed: Machine) -> None:
    (installed.stubs / f"{files.NEW}x1").write_text("half", encoding="utf-8")
    (installed.packages / plan.INFO / f"{files.NEW}x2").write_text("half", encoding="utf-8")
    assert installed.run("remove").returncode == 0
    assert not installed.stubs.exists()
    assert not (installed.packages / plan.INFO).exists()


# -- what may be wrong -------------------------------------------------------------------------


def spoilt(machine: Machine) -> dict[str, tuple[Path, str]]:
    """What may be wrong with which file, and what is said of it."""
    hook = machine.stubs / "server_epilogue"
    module = machine.packages / f"{MODULE}.py"
    return {
        "missing": (hook, "is missing"),
        "mode": (hook, "its mode is 600, not 755"),
        "writable": (hook, "can be changed by others than root (mode 777)"),
        "owner": (hook, "can be changed by others than root (mode 755)"),
        "text": (machine.stubs / "OARAccountingKarma.pm", "is not what this library and its"),
        "empty": (machine.packages / plan.INFO / "entry_points.txt", "is not what this library"),
        "unreadable": (module, "cannot read"),
        "link": (machine.schedulers / LINK, "does not lead to"),
        "old": (module, f"is of version 0, older than this library's {STUB_VERSION}"),
        "directory": (machine.stubs, "because of"),
        "copy": (hook, "is not what this library"),
    }


FAULTS = (
    *("missing", "mode", "writable", "owner", "text", "empty", "unreadable", "link", "old"),
    *("directory", "copy"),
)


@pytest.mark.parametrize("fault", FAULTS)
def test_what_is_wrong_is_told_with_the_command_that_mends_it(
    installed: Machine, fault: str
) -> None:
    path, said = spoilt(installed)[fault]
    if fault in ("owner", "directory") and not ROOT_IS_HERE:
        pytest.skip("only root can be another user")
    if fault == "owner":
        os.chown(path, NOBODY, NOBODY)
    elif fault in ("mode", "writable", "unreadable", "directory"):
        path.chmod({"mode": 0o600, "writable": 0o777, "unreadable": 0o600}.get(fault, 0o700))
    elif fault == "old":
        content = path.read_text(encoding="utf-8")
        path.write_text(content.replace(f'VERSION = "{STUB_VERSION}"', 'VERSION = "0"'))
    elif fault == "copy":
        content = path.read_text(encoding="utf-8")
        path.unlink()
        path.symlink_to(installed.write(installed.root / "other", content))
    else:
        path.unlink()
        if fault in ("text", "empty"):
            path.write_text("" if fault == "empty" else "1;\n")
    done = installed.check()
    if fault == "directory" and done.returncode == 0:
        pytest.skip("there is no user oar here")
    assert done.returncode == 1
    assert said in " ".join(done.stdout.split())
    for line in re.findall(r"^ *\$ (.*)$|^ +(chmod .*|chown .*)$", done.stdout, re.M):
        command = "".join(line)
        if command.startswith("ch"):
            shell(command.partition(" && ")[0])
    assert installed.update().returncode == 0
    assert installed.check().returncode == 0


def test_a_newer_one_is_good(installed: Machine) -> None:
    """Another library has written it, and this one is about to go."""
    hook = installed.stubs / "server_epilogue"
    content = hook.read_text(encoding="utf-8")
    hook.write_text(content.replace(f"version='{STUB_VERSION}'", "version='99'"), encoding="utf-8")
    done = installed.check()
    assert done.returncode == 0
    assert f"is of version 99, newer than this library's {STUB_VERSION}" in " ".join(
        done.stdout.split()
    )
    assert f"wrote {hook}" in installed.update().stdout
    assert hook.read_text(encoding="utf-8") == content


def test_a_library_that_is_not_there(installed: Machine) -> None:
    installed.python.unlink()
    done = installed.check()
    assert done.returncode == 1
    assert f"they run {installed.python}, which is not there" in " ".join(done.stdout.split())


@pytest.mark.parametrize("letter", ["'", '"', "\\", "$", "`", "@", "\n", "\x7f"])
def test_what_a_stub_cannot_say_is_an_error(machine: Machine, letter: str) -> None:
    before = machine.everything()
    done = machine.install("--python", f"/opt/a{letter}b/bin/python")
    assert done.returncode != 0
    assert done.stdout == ""
    (line,) = done.stderr.splitlines()
    assert line.startswith("oar-accounting: python: ")
    assert "has letters that a stub cannot have" in line
    assert machine.everything() == before


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--schedulers", "/nowhere"], "/nowhere: there is no such directory of schedulers"),
        (["--oar3-python", "/nowhere/python"], "/nowhere/python: is not a Python"),
        (["--oar3-python", "/bin/true"], "/bin/true: is not a Python"),
        (["--oar3-python", "/bin/false"], "/bin/false: is not a Python"),
    ],
)
def test_places_that_are_not_there(machine: Machine, options: list[str], said: str) -> None:
    done = machine.install(*options)
    assert done.returncode != 0
    (line,) = done.stderr.splitlines()
    assert line.startswith(f"oar-accounting: {said}")
    assert not machine.stubs.exists()


def test_settings_that_are_wrong(machine: Machine) -> None:
    machine.toml.write_text("[scheduler]\ncolour = 1\n", encoding="utf-8")
    done = machine.install()
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert "[scheduler]: unknown key 'colour'" in line


def test_what_ends_half_way_is_known_and_goes_on(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A full disk, or an environment of OAR 3 that may not be written."""
    planned = machine.planned()
    replace = files._replace

    def fails(path: Path, content: str, mode: int) -> None:
        if path.name == "METADATA":
            raise OSError(28, "No space left on device", str(path))
        replace(path, content, mode)

    with monkeypatch.context() as patch:
        patch.setattr(files, "_replace", fails)
        with pytest.raises(StubError, match="METADATA: cannot be written: No space left"):
            install(planned)
    found = read_list(machine.stubs)
    assert found is not None
    assert "METADATA is missing" in machine.wrong()
    remove(found)
    assert not machine.stubs.exists()
    assert not (machine.packages / f"{MODULE}.py").exists()
    install(planned)
    assert machine.check().returncode == 0


@as_root
def test_without_the_right_to_write_it_is_one_error(machine: Machine) -> None:
    planned = machine.planned()
    reading, writing = os.pipe()
    child = os.fork()
    if not child:
        os.setgid(NOBODY)
        os.setuid(NOBODY)
        try:
            install(planned)
        except StubError as error:
            os.write(writing, str(error).encode())
        finally:
            os._exit(0)
    os.close(writing)
    os.waitpid(child, 0)
    with open(reading, encoding="utf-8") as said:
        text = said.read()
    assert re.fullmatch(rf"{machine.root}/lib\S*: cannot be written: Permission denied", text)


# -- those that were there before --------------------------------------------------------------


def old_place(machine: Machine) -> Path:
    """Where pip has put what OAR calls."""
    place = machine.root / "library" / "share" / "oar-accounting" / "hooks"
    shutil.copytree(HOOKS, place)
    return place


def test_links_to_what_pip_replaces_are_led_over(machine: Machine) -> None:
    old = old_place(machine) / "oar2" / "karma_scheduler"
    own = machine.schedulers / "ours"
    for link in (machine.schedulers / LINK, own):
        link.symlink_to(old)
    done = machine.install()
    assert done.returncode == 0
    for link in (machine.schedulers / LINK, own):
        assert link.readlink() == machine.stubs / "karma_scheduler"
        assert f"wrote {link}" in done.stdout
    assert machine.check().returncode == 0


def library_of(machine: Machine, version: str = "0.1.0") -> Path:
    """Metadata of the library in OAR 3's own environment, as pip writes them."""
    info = machine.packages / f"oar_accounting-{version}.dist-info"
    info.mkdir()
    metadata = f"Metadata-Version: 2.1\nName: oar-accounting\nVersion: {version}\n"
    (info / "METADATA").write_text(metadata, encoding="utf-8")
    names = "\n".join(
        f"[{group}]\naccounting = oar_accounting.schedulers.oar3:{name}\n"
        for group, name in zip(GROUPS, ("sort_jobs", "count_usage"), strict=True)
    )
    scripts = "[console_scripts]\noar-accounting = oar_accounting.cli:main\n\n"
    (info / "entry_points.txt").write_text(scripts + names, encoding="utf-8")
    return info / "entry_points.txt"


def test_entry_points_of_the_library_itself_are_led_over_and_back(machine: Machine) -> None:
    """Here they cannot be loaded: pip is about to replace it."""
    names = library_of(machine)
    before = names.read_bytes()
    done = machine.install()
    assert f"wrote {names}" in done.stdout
    found = machine.found()
    # OAR 3 takes the first of the name; all are the stub.
    for group in GROUPS:
        assert {each[0] for each in found[group]} == {"accounting"}
        assert {each[2]["PYTHON"] for each in found[group]} == {str(machine.python)}
    assert machine.check().returncode == 0
    # pip writes them anew with every version.
    names.write_bytes(before)
    done = machine.check()
    assert done.returncode == 1
    assert f"{names} names entry points of the library" in " ".join(done.stdout.split())
    assert machine.update().returncode == 0
    # Without us, nothing must lead to where we were: OAR 3 loads all that it finds.
    assert machine.run("remove").returncode == 0
    assert names.read_bytes() == before


@pytest.mark.parametrize("arguments", ["", " --nudge"])
def test_a_setting_that_names_the_old_place_is_told(machine: Machine, arguments: str) -> None:
    old = old_place(machine) / "server_epilogue"
    machine.configure(f'SERVER_EPILOGUE_EXEC_FILE="{old}{arguments}"')
    assert machine.check().returncode == 1
    done = machine.install()
    assert done.returncode == 0
    said = f"sed -i 's|{old}|{machine.stubs / 'server_epilogue'}|' {machine.conf}"
    assert said in done.stdout
    assert machine.check().returncode == 1
    shell(said)
    assert machine.check().returncode == 0
    assert f'"{machine.stubs / "server_epilogue"}{arguments}"' in machine.conf.read_text()


def test_a_script_that_calls_the_old_place_is_told(machine: Machine) -> None:
    old = old_place(machine) / "server_epilogue"
    script = machine.write(machine.root / "epilogue", f'#!/bin/sh\n"{old}" "$@"\n')
    machine.configure(f'SERVER_EPILOGUE_EXEC_FILE="{script}"')
    machine.install()
    done = machine.check()
    assert done.returncode == 1
    said = f"sed -i 's|{old}|{machine.stubs / 'server_epilogue'}|' {script}"
    assert said in done.stdout
    shell(said)
    assert machine.check().returncode == 0


@pytest.mark.parametrize(
    ("script", "python"),
    [
        ("#!/usr/bin/python3\n", "/usr/bin/python3"),
        ("#!/opt/oar/bin/python3.11 -sE\nimport x\n", "/opt/oar/bin/python3.11"),
        ("#! /opt/oar/bin/python\n", "/opt/oar/bin/python"),
        ("#!/usr/bin/env perl\n", None),
        ("#!/bin/sh\n'''exec' \"/a b/bin/python3\" \"$0\" \"$@\"\n' '''\n", "/a b/bin/python3"),
        ("#!/bin/sh\n'''exec' /a/bin/python3 \"$0\" \"$@\"\n' '''\n", "/a/bin/python3"),
        ('#!/bin/sh\n"exec" "/a/bin/python3" "$0" "$@"\n', "/a/bin/python3"),
        ("#!/bin/sh\nexec perl\n", None),
        ("#!/usr/bin/perl\n", None),
        ("#!\n", None),
        ("", None),
        ("\x7fELF", None),
    ],
)
def test_the_python_of_a_script_is_known(script: str, python: str | None) -> None:
    assert python_of(script.encode()) == (None if python is None else Path(python))


def test_the_python_that_env_finds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "which", {"python3": "/found/python3"}.get)
    for line in ("env python3", "env -S python3 -sE", "env -i A=b python3"):
        assert python_of(f"#!/usr/bin/{line}\n".encode()) == Path("/found/python3")
    assert python_of(b"#!/usr/bin/env python9\n") is None


# -- they go -----------------------------------------------------------------------------------


def refused(machine: Machine) -> list[str]:
    """Nothing goes; the commands that have to come first."""
    before = machine.everything()
    done = machine.run("remove")
    assert done.returncode != 0
    assert done.stderr.startswith("oar-accounting: nothing was removed: ")
    assert machine.everything() == before
    return commands(done.stderr)


def goes(machine: Machine, before: Mapping[str, object]) -> None:
    """All goes, and everything is as it was before."""
    done = machine.run("remove")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.count("removed ") == len(done.stdout.splitlines())
    after = machine.everything()
    assert set(after) - set(before) == {"lib"}
    changed = {name for name in before if before[name] != after[name]}
    assert changed <= {"etc/oar.conf", "etc/accounting.toml"}
    assert "no stubs are installed" in machine.run("remove").stdout


SETTINGS = {
    "itself": ['SERVER_EPILOGUE_EXEC_FILE="{hook}"'],
    "with arguments": ["SERVER_EPILOGUE_EXEC_FILE=\"{hook} STOP --x='a b'\""],
    "behind another": ['SERVER_EPILOGUE_EXEC_FILE="/usr/bin/env A=1 {hook}"'],
    "indented": ['  SERVER_EPILOGUE_EXEC_FILE = "{hook}"'],
    "twice": ["SERVER_EPILOGUE_EXEC_FILE=/x", "SERVER_EPILOGUE_EXEC_FILE={hook}"],
    "a link": ['SERVER_EPILOGUE_EXEC_FILE="{link}"'],
    "order": [
        'JOB_PRIORITY="CUSTOM"',
        'CUSTOM_JOB_SORTING="accounting"',
        "CUSTOM_JOB_SORTING_CONFIG='{{\"limit\": 5}}'",
    ],
    "order, half": ['JOB_PRIORITY="FAIRSHARE"', "CUSTOM_JOB_SORTING='accounting'"],
    "sums": ['EXTRA_METASCHED="accounting"', 'EXTRA_METASCHED_CONFIG=\'{{"metric": "core"}}\''],
}


@pytest.mark.parametrize("kind", SETTINGS)
def test_none_goes_as_long_as_a_setting_names_one(machine: Machine, kind: str) -> None:
    before = machine.everything()
    machine.install()
    hook, link = machine.stubs / "server_epilogue", machine.root / "my_epilogue"
    if kind == "a link":
        link.symlink_to(hook)
    others = ["# a comment, and what is not ours", 'EXTRA="accounting"', "SCHEDULER_X_CONFIG=1"]
    machine.configure(*(line.format(hook=hook, link=link) for line in SETTINGS[kind]), *others)
    (command,) = refused(machine)
    shell(command)
    left = machine.conf.read_text(encoding="utf-8").splitlines()[2:]
    kept = [line for line in SETTINGS[kind] if "FAIRSHARE" in line]
    assert left == kept + others
    link.unlink(missing_ok=True)
    goes(machine, before)


def test_all_that_has_to_change_is_told_at_once(machine: Machine) -> None:
    before = machine.everything()
    machine.install()
    machine.configure(
        f"SERVER_EPILOGUE_EXEC_FILE={machine.stubs / 'server_epilogue'}",
        *SETTINGS["order"],
        *SETTINGS["sums"],
    )
    first = refused(machine)
    assert len(first) == 3
    for command in first:
        shell(command)
    goes(machine, before)


def test_a_script_that_calls_one(machine: Machine) -> None:
    before = machine.everything()
    machine.install()
    lines = "#!/bin/sh\ntrue\n{} # ours\n"
    script = machine.root / "my epilogue"
    machine.write(script, lines.format(f'"{machine.stubs / "server_epilogue"}" "$@"'))
    machine.configure(f"SERVER_EPILOGUE_EXEC_FILE=\"'{script}'\"")
    (command,) = refused(machine)
    shell(command)
    assert script.read_text(encoding="utf-8") == "#!/bin/sh\ntrue\n"
    script.unlink()
    goes(machine, before)


def place_of(database: Database) -> dict[str, str]:
    """What lets the client of a database find a server as it would find OAR's."""
    url = make_url(database.url)
    if database.kind == "postgresql":
        parts = {"PGHOST": url.host, "PGPORT": url.port, "PGUSER": url.username}
        parts["PGPASSWORD"] = url.password
        return {key: str(value) for key, value in parts.items() if value is not None}
    if database.kind == "mariadb":
        home = Path(tempfile.mkdtemp())
        options = f"[client]\nhost={url.host}\nport={url.port}\nuser={url.username}\n"
        (home / ".my.cnf").write_text(f"{options}password={url.password}\n", encoding="utf-8")
        return {"HOME": str(home)}
    return {}


CLIENTS = {"postgresql": "psql", "mariadb": "mariadb", "sqlite": "sqlite3"}


def test_none_goes_as_long_as_a_queue_needs_one(
    machine: Machine, database: Database, engine: Engine
) -> None:
    if shutil.which(CLIENTS[database.kind]) is None:
        pytest.skip(f"no {CLIENTS[database.kind]} here")
    before = machine.everything()
    assert machine.install().returncode == 0
    (machine.schedulers / "ours").symlink_to(machine.stubs / "karma_scheduler")
    (machine.schedulers / "it's").symlink_to(machine.stubs / "karma_scheduler")
    machine.toml.write_text(f'oar_url = "{database.url}"\n[scheduler]\n', encoding="utf-8")
    machine.toml.chmod(0o600)
    policies = {
        "default": LINK,
        "night": LINK,
        "other": "oar_sched_gantt",
        "third": "ours",
        "fourth": "it's",
        "fifth": "karma_then_somebody_elses",
    }
    oar = SmallOar(engine)
    oar.set_queue("default", scheduler_policy=LINK)
    for queue in list(policies)[1:]:
        oar.add_queue(queue, policy=policies[queue])
    first = refused(machine)
    assert len(first) == 3
    where = place_of(database)
    for command in first:
        shell(command, where)
    with engine.connect() as connection:
        found = connection.execute(text("SELECT queue_name, scheduler_policy FROM queues"))
        assert dict(map(tuple, found.all())) == policies | {
            "default": STOCK,
            "night": STOCK,
            "third": DEFAULT,
            "fourth": DEFAULT,
        }
    goes(machine, before)


def test_a_database_that_cannot_be_asked(machine: Machine) -> None:
    before = machine.everything()
    machine.install()
    (machine.root / "oar.db").write_bytes(b"")
    done = machine.run("remove")
    assert done.returncode != 0
    (line,) = done.stderr.splitlines()
    assert "whether a queue still needs the stubs cannot be told (" in line
    assert line.endswith("if you know that none does, add --force")
    assert machine.stubs.exists()
    # Where none is a scheduler, no queue has to be asked.
    machine.run("remove", "--force")
    (machine.schedulers / STOCK).unlink()
    machine.install()
    for name in (f"schedulers/{STOCK}", "oar.db"):
        del before[name]
    (machine.root / "oar.db").unlink()
    goes(machine, before)


def test_a_list_that_cannot_be_read(installed: Machine) -> None:
    for content in ("", "{", "[]", '{"version": 1}', "\0"):
        (installed.stubs / LIST).write_text(content, encoding="utf-8")
        done = installed.run("remove")
        assert done.returncode != 0
        assert done.stderr.endswith(f"{LIST}: cannot be read; write it anew with: {INSTALL}\n")
        assert installed.check().returncode == 1
    assert installed.install().returncode == 0
    assert installed.run("remove", "--force").returncode == 0
    assert not installed.stubs.exists()


def test_what_somebody_else_put_there_stays(installed: Machine) -> None:
    other = installed.write(installed.stubs / "notes", "x", 0o644)
    assert installed.run("remove", "--force").returncode == 0
    assert list(installed.stubs.iterdir()) == [other]


def test_what_is_gone_already_is_no_error(installed: Machine) -> None:
    (installed.stubs / "server_epilogue").unlink()
    shutil.rmtree(installed.packages / plan.INFO)
    assert installed.run("remove", "--force").returncode == 0
    assert not installed.stubs.exists()


def test_words_of_a_setting_that_cannot_be_parted() -> None:
    assert use._words("it's") == []
    assert use._words("") == []

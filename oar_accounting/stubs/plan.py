"""Which stubs a machine needs, and what stands in them.

A stub is a file of ours with the lines that end with ``# stub: name`` filled in.
"""

import json
import os
import re
import shutil
import subprocess
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from oar_accounting.core.shared_files import shared
from oar_accounting.errors import StubError
from oar_accounting.settings.scheduler import SchedulerSettings
from oar_accounting.stubs import oar3

#: Counted up whenever stubs that are in use have to be written anew.
STUB_VERSION = 1

INSTALL = "oar-accounting stubs install"

DIRECTORY = Path("/usr/local/lib/oar-accounting")
STATE_DIRECTORY = Path("/var/lib/oar-accounting")
#: Where OAR 2 has its schedulers, and OAR 3's scheduler may be found.
SCHEDULERS = (Path("/usr/lib/oar/schedulers"), Path("/usr/local/lib/oar/schedulers"))
KAO = ("/usr/lib/oar/kao", "/usr/local/lib/oar/kao", "/usr/local/bin/kao", "/usr/bin/kao")
#: What a scheduler of OAR 2 that asks us is called, before the name of OAR's own.
PREFIX = "karma_then_"
#: The one that it becomes where its own name does not say which.
DEFAULT = "oar_sched_gantt_with_timesharing_and_fairsharing_and_quotas"

MODULE = "oar_accounting_stub"
INFO = f"{MODULE}-1.dist-info"
METADATA = """Metadata-Version: 2.1
Name: oar-accounting-stub
Version: 1
Summary: What OAR 3 calls of oar_accounting; written and removed by "oar-accounting stubs"
"""
ENTRY_POINTS = f"""[oar.jobs_sorting_func]
accounting = {MODULE}:sort_jobs

[oar.extra_metasched_func]
accounting = {MODULE}:count_usage
"""
#: What entry points of the library itself name, where it lies in OAR 3's own environment; and then.
OLD_TARGET, NEW_TARGET = "oar_accounting.schedulers.oar3:", f"{MODULE}:"
#: Where pip puts the scheduler of OAR 2 that asks us.
OLD_SCHEDULER = "/share/oar-accounting/hooks/oar2/karma_scheduler"

EXECUTABLE, READABLE = 0o755, 0o644
_FILLED = re.compile(r"^(.*?=\s*)('[^']*'|\"[^\"]*\"|[0-9.]+)(;?\s*# stub: (\w+))$", re.M)


@dataclass(frozen=True, slots=True, kw_only=True)
class Stub:
    """A file that OAR calls, or that one of these needs."""

    path: Path
    text: str
    mode: int = READABLE


@dataclass(frozen=True, slots=True, kw_only=True)
class Link:
    """A scheduler of OAR 2 that asks us, beside the one of OAR's that it becomes."""

    path: Path
    target: Path


@dataclass(frozen=True, slots=True, kw_only=True)
class Oar3:
    """The environment in which OAR 3 finds entry points."""

    python: Path
    packages: Path  #: where its modules are installed
    others: tuple[Path, ...] = ()  #: metadata in which our library names entry points of its own


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """All that is written on a machine; what is not there of OAR gets nothing."""

    directory: Path
    python: Path  #: of the library that the stubs run
    state: Path  #: the directory of what they remember
    stubs: tuple[Stub, ...]
    links: tuple[Link, ...]
    schedulers: Path | None  #: where OAR 2 has them
    oar3: Oar3 | None


def plan(  # noqa: PLR0913 - what may be told apart from what is found
    *,
    python: Path,
    scheduler: SchedulerSettings,
    directory: Path = DIRECTORY,
    state: Path = STATE_DIRECTORY,
    schedulers: Path | None = None,
    oar3_python: Path | None = None,
) -> Plan:
    """What the stubs of this machine are.

    *python*: of the library that they run. *schedulers*: where OAR 2 has them, *oar3_python*: the
    one that runs OAR 3's; None where there are none. Raises :class:`StubError` where one that is
    named cannot be used.
    """
    values: dict[str, object] = {
        "version": str(STUB_VERSION),
        "python": str(python),
        "socket": scheduler.socket,
        "state": str(state),
        "last_answer": scheduler.last_answer,
    }
    if scheduler.limit is not None:
        values["limit"] = scheduler.limit
    stubs = [_stub(directory / "server_epilogue", shared("hooks/server_epilogue"), values)]
    links = []
    if schedulers is not None:
        hooks = shared("hooks/oar2")
        asking = directory / "karma_scheduler"
        stubs.append(_stub(asking, hooks / "karma_scheduler", values))
        module = "OARAccountingKarma.pm"
        stubs.append(_stub(directory / module, hooks / module, values, READABLE))
        names = {f"{PREFIX}{name}" for name in _with_karma(schedulers)} | _old_links(schedulers)
        links = [Link(path=schedulers / name, target=asking) for name in sorted(names)]
    environment = None if oar3_python is None else environment_of(oar3_python)
    if environment is not None:
        stubs += _oar3_stubs(environment, values)
    return Plan(
        directory=directory,
        python=python,
        state=state,
        stubs=tuple(stubs),
        links=tuple(links),
        schedulers=schedulers,
        oar3=environment,
    )


def _stub(path: Path, source: Path, values: Mapping[str, object], mode: int = EXECUTABLE) -> Stub:
    return Stub(path=path, text=filled(source.read_text("utf-8"), values), mode=mode)


def _oar3_stubs(environment: Oar3, values: Mapping[str, object]) -> list[Stub]:
    """The module before the metadata: OAR imports what the metadata names."""
    source = Path(oar3.__file__).read_text("utf-8")
    info = environment.packages / INFO
    return [
        Stub(path=environment.packages / f"{MODULE}.py", text=filled(source, values)),
        Stub(path=info / "METADATA", text=METADATA),
        Stub(path=info / "INSTALLER", text="oar-accounting stubs\n"),
        Stub(path=info / "entry_points.txt", text=ENTRY_POINTS),
    ]


def filled(text: str, values: Mapping[str, object]) -> str:
    """The text of a stub with these values; what is not among them stays.

    Raises :class:`StubError` for a value that no language could read as it is meant.
    """

    def line(match: re.Match[str]) -> str:
        before, default, after, name = match.groups()
        if name not in values:
            return match[0]
        value = values[name]
        if isinstance(value, str):
            if not value.isprintable() or set(value) & set("'\"\\$@`"):
                raise StubError(f"{name}: {value!r} has letters that a stub cannot have")
            return f"{before}{default[0]}{value}{default[0]}{after}"
        return f"{before}{value}{after}"

    found = _FILLED.sub(line, text)
    if found == text:
        raise StubError("a stub has no lines to be filled in: is this library whole?")
    return found


# -- where OAR is -----------------------------------------------------------------------------


def find_schedulers() -> Path | None:
    """The directory of OAR 2's schedulers; None where there is none that knows karma."""
    return next((each for each in SCHEDULERS if each.is_dir() and _with_karma(each)), None)


def _with_karma(directory: Path) -> list[str]:
    """The schedulers in Perl whose karma can be replaced."""
    if not directory.is_dir():
        raise StubError(f"{directory}: there is no such directory of schedulers")
    found = []
    for file in sorted(directory.iterdir()):
        if file.name.startswith(PREFIX) or not file.is_file():
            continue
        text = file.read_text("utf-8", errors="replace")
        if re.match(r"#!.*perl", text) and re.search(r"^sub karma\b", text, re.M):
            found.append(file.name)
    return found


def _old_links(directory: Path) -> set[str]:
    """The names of links, whoever gave them, to what pip removes."""
    links = (each for each in directory.iterdir() if each.is_symlink())
    return {link.name for link in links if str(link.readlink()).endswith(OLD_SCHEDULER)}


def find_oar3() -> Path | None:
    """The Python of OAR 3's scheduler; None where there is none."""
    for name in (*KAO, shutil.which("kao") or ""):
        with suppress(OSError):
            if (found := python_of(Path(name).read_bytes()[:4096])) is not None:
                return found
    return None


def python_of(script: bytes) -> Path | None:
    """The Python that runs a script, by its first lines; None where none does."""
    first, _, rest = os.fsdecode(script).partition("\n")
    if not first.startswith("#!"):
        return None
    words = first[2:].split()
    if words == ["/bin/sh"]:
        # So pip begins a script where the path is too long for the first line, or has blanks.
        wrapped = re.match(r"['\"]+exec['\"]+\s+(?:\"([^\"]+)\"|(\S+))", rest)
        words = [] if wrapped is None else [wrapped[1] or wrapped[2]]
    elif words and Path(words[0]).name == "env":
        named = next((word for word in words[1:] if word[0] != "-" and "=" not in word), "")
        words = [shutil.which(named) or ""]
    return Path(words[0]) if words and "python" in words[0] else None


#: Run by OAR 3's own Python, which knows where it looks.
_LOOK = """
import importlib.metadata, json, os, sysconfig
found = [
    str(each._path) for each in importlib.metadata.distributions()
    if (each.metadata["Name"] or "").replace("_", "-").lower() == "oar-accounting"
]
print(json.dumps([sysconfig.get_path("purelib"), found]))
"""


def environment_of(python: Path) -> Oar3:
    """Where a Python of OAR 3 looks for entry points. Raises :class:`StubError`."""
    try:
        done = subprocess.run(
            [python, "-I", "-c", _LOOK], capture_output=True, text=True, timeout=60, check=True
        )
        packages, found = json.loads(done.stdout)
    except (OSError, subprocess.SubprocessError, ValueError) as error:
        raise StubError(f"{python}: is not a Python that can be asked: {error}") from None
    return Oar3(
        python=python,
        packages=Path(packages),
        others=tuple(
            Path(each, "entry_points.txt")
            for each in found
            if OLD_TARGET in read_text(Path(each, "entry_points.txt"))
        ),
    )


def read_text(file: Path) -> str:
    """What a file holds; nothing where it cannot be read."""
    try:
        return file.read_text("utf-8", errors="replace")
    except OSError:
        return ""

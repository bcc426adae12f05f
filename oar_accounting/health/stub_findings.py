"""Are the stubs those that this library would write, can OAR run them, and what do they run?"""

import os
import re
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from shlex import quote
from stat import S_IMODE, S_IWGRP, S_IWOTH, S_IXOTH

from oar_accounting.errors import SettingsError, StubError
from oar_accounting.health.records import Finding
from oar_accounting.settings.load import Settings
from oar_accounting.settings.oar_conf import read_oar_conf
from oar_accounting.settings.scheduler import SchedulerSettings, read_scheduler
from oar_accounting.stubs import oar3
from oar_accounting.stubs.files import Installed, is_as_planned, read_list
from oar_accounting.stubs.oar_user import USER, User, way_to_run
from oar_accounting.stubs.plan import DIRECTORY, INSTALL, STUB_VERSION, Plan, Stub, plan, read_text
from oar_accounting.stubs.use import old_names

_SUBJECT = "stubs"
_VERSION = re.compile(r"ersion\s*=\s*['\"]?(\d+)", re.I)


def machine_findings(given: Settings | None, oar_conf: Path, root: Path) -> list[Finding]:
    """What is said of the stubs and the service of a machine with its files below *root*.

    *given*: None where the settings cannot be used; then they are those that nobody has changed.
    """
    scheduler = SchedulerSettings()
    with suppress(SettingsError):
        # What is wrong with them is told by whoever asks for karma.
        scheduler = scheduler if given is None else read_scheduler(given)
    directory, socket = (root / str(each).lstrip("/") for each in (DIRECTORY, scheduler.socket))
    found = stub_findings(scheduler, oar_conf, directory)
    if os.path.exists(oar_conf) and socket.exists():
        found += service_findings(socket)
    return found


def stub_findings(
    scheduler: SchedulerSettings, oar_conf: Path, directory: Path = DIRECTORY
) -> list[Finding]:
    """What is wrong with what stands below *directory*; one good finding where all is well."""
    if not os.path.exists(oar_conf):
        return []
    try:
        installed = read_list(directory)
        if installed is None:
            return [_none_installed(oar_conf)]
        return compared(plan_again(installed, scheduler), installed, values_of(oar_conf), oar_conf)
    except (StubError, SettingsError) as error:
        return [Finding("bad", _SUBJECT, str(error), INSTALL)]


def values_of(oar_conf: Path) -> dict[str, str]:
    """The settings of OAR; none where the file is missing. Raises :class:`SettingsError`."""
    return read_oar_conf(oar_conf) if os.path.exists(oar_conf) else {}


def plan_again(installed: Installed, scheduler: SchedulerSettings) -> Plan:
    """What this library would write where these are installed. Raises :class:`StubError`."""
    return plan(
        python=installed.python,
        scheduler=scheduler,
        directory=installed.directory,
        state=installed.state,
        schedulers=installed.schedulers,
        oar3_python=installed.oar3_python,
    )


def _none_installed(oar_conf: Path) -> Finding:
    use = old_names(values_of(oar_conf), str(oar_conf), DIRECTORY / "server_epilogue")
    said = "none are installed: what OAR calls is missing while pip replaces this library"
    return Finding("warning" if use is None else "bad", _SUBJECT, said, INSTALL)


def compared(
    planned: Plan, installed: Installed, conf: Mapping[str, str], oar_conf: Path
) -> list[Finding]:
    """What differs between the plan and what stands; *conf* is what *oar_conf* sets."""
    found = [
        *(finding for stub in planned.stubs for finding in _file(stub)),
        *_links(planned),
        *_target(planned, installed),
        *_old_names(planned, conf, oar_conf),
    ]
    if any(each.level != "good" for each in found):
        return found
    where = f"in version {installed.version} in {installed.directory}"
    if installed.oar3_python is not None:
        where += f" and beside OAR 3 ({installed.oar3_python})"
    return [*found, Finding("good", _SUBJECT, f"{where}; they run {installed.python}")]


def _file(stub: Stub) -> Iterator[Finding]:
    """The first thing that is wrong with a file."""
    try:
        found = stub.path.stat()
    except OSError:
        yield Finding("bad", _SUBJECT, f"{stub.path} is missing", INSTALL)
        return
    mode = S_IMODE(found.st_mode)
    needed = "run" if stub.mode & S_IXOTH else "read"
    if found.st_uid not in (0, os.geteuid()) or mode & (S_IWGRP | S_IWOTH):
        said = f"{stub.path} can be changed by others than root (mode {mode:o})"
        yield Finding("bad", _SUBJECT, said, f"chown root: {quote(str(stub.path))} && {INSTALL}")
    elif mode != stub.mode:
        said = f"the user {USER} cannot {needed} {stub.path}: its mode is {mode:o}"
        said += f", not {stub.mode:o}"
        yield Finding("bad", _SUBJECT, said, f"chmod {stub.mode:o} {quote(str(stub.path))}")
    elif (denied := _denied(stub.path, os.R_OK)) is not None:
        said = f"the user {USER} cannot {needed} {stub.path}, because of {denied}"
        yield Finding("bad", _SUBJECT, said, f"chmod a+x {quote(str(denied))}")
    elif not is_as_planned(stub):
        yield _other_version(stub)


def _other_version(stub: Stub) -> Finding:
    version = _VERSION.search(read_text(stub.path))
    if version is not None and int(version[1]) > STUB_VERSION:
        said = f"{stub.path} is of version {version[1]}, newer than this library's {STUB_VERSION}"
        return Finding("good", _SUBJECT, said)
    if version is not None and int(version[1]) < STUB_VERSION:
        said = f"{stub.path} is of version {version[1]}, older than this library's {STUB_VERSION}"
    else:
        said = f"{stub.path} is not what this library and its settings would write"
    return Finding("warning", _SUBJECT, said, INSTALL)


def _links(planned: Plan) -> Iterator[Finding]:
    for link in planned.links:
        if not link.path.is_symlink() or link.path.readlink() != link.target:
            said = f"{link.path} does not lead to {link.target}"
            yield Finding("warning", _SUBJECT, said, INSTALL)


def _target(planned: Plan, installed: Installed) -> Iterator[Finding]:
    """What the stubs run, and what they are found by."""
    if not installed.python.exists():
        said = (
            f"they run {installed.python}, which is not there: no job is recorded when it ends, "
            "and OAR's own order decides"
        )
        yield Finding("bad", _SUBJECT, said, INSTALL)
    elif (denied := _denied(installed.python, os.X_OK)) is not None:
        said = f"the user {USER} may not run {installed.python}, because of {denied}"
        yield Finding("bad", _SUBJECT, said, way_to_run(denied))
    for other in planned.oar3.others if planned.oar3 is not None else ():
        said = (
            f"{other} names entry points of the library in OAR 3's own environment, which are "
            "missing while pip replaces it: OAR 3 then starts no job"
        )
        yield Finding("warning", _SUBJECT, said, INSTALL)


def _denied(file: Path, wanted: int) -> Path | None:
    """What keeps OAR's user from a file; None where nothing does, or there is no such user."""
    with suppress(KeyError):
        return User.named(USER).denied(file, wanted)
    return None


def _old_names(planned: Plan, conf: Mapping[str, str], oar_conf: Path) -> Iterator[Finding]:
    use = old_names(conf, str(oar_conf), planned.directory / "server_epilogue")
    if use is not None:
        yield Finding("bad", _SUBJECT, use.what, use.first)


def service_findings(socket: Path) -> list[Finding]:
    """Does the karma service answer, with the library that is installed now?"""
    subject = "karma service"
    if not socket.exists():
        said = f"there is none at {socket}: each scheduling round starts the library anew"
        return [Finding("good", subject, said)]
    try:
        oar3.ask_service({"ask": "ping"}, oar3.LIMIT, str(socket))
    except (oar3.NoAnswer, OSError) as error:
        said = f"the one at {socket} does not serve the schedulers: {error}"
        return [Finding("bad", subject, said, "systemctl restart oar-accounting-karma.service")]
    return [Finding("good", subject, f"answers at {socket}")]

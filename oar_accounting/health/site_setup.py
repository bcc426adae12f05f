"""How the accounting is set up on this machine: OAR's hook, the timers, OAR's own accounting.

Only files are looked at, by their mode bits: nothing is run, and nobody's identity is taken on.
*root* stands before every path that is not named in a setting.
"""

import os
import re
import shlex
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from oar_accounting.core import formats
from oar_accounting.core.lengths import LATE
from oar_accounting.core.shared_files import shared
from oar_accounting.errors import SettingsError
from oar_accounting.health.records import Finding
from oar_accounting.health.state_directory import state_directory
from oar_accounting.ledger.journal import is_at_work
from oar_accounting.ledger.records import PassRecord
from oar_accounting.settings.oar_conf import read_oar_conf
from oar_accounting.stubs.oar_user import (
    AS_OAR,
    LIBRARY,
    USER,
    User,
    install_library,
    quoted,
    way_to_run,
)
from oar_accounting.stubs.plan import DIRECTORY, INSTALL

KEY = "SERVER_EPILOGUE_EXEC_FILE"
CRON = "etc/cron.d/oar-accounting"
TIMER = "etc/systemd/system/oar-accounting.timer"
ENABLED = "etc/systemd/system/timers.target.wants/oar-accounting.timer"

#: Where OAR logs to, unless its settings say otherwise.
OAR_LOG = "/var/log/oar.log"

#: What OAR is to call, below the root.
STUB = str(DIRECTORY / "server_epilogue").lstrip("/")


def oar_log(oar_conf: Path) -> str:
    """The file that OAR logs to."""
    with suppress(SettingsError):
        return read_oar_conf(oar_conf).get("LOG_FILE") or OAR_LOG
    return OAR_LOG


# -- the hook ---------------------------------------------------------------------------------

#: What our hook alone has, and the lines of a stub that were filled in.
_OURS = "from oar_accounting."
_FILLED = re.compile(r"^(\w+)='([^']+)' # stub: \1$", re.M)


def hook_findings(oar_conf: Path, root: Path, environ: Mapping[str, str]) -> list[Finding]:
    """Does OAR call our hook, may it, and can the hook do its work?"""
    if not os.path.exists(oar_conf):
        return [Finding("good", "hook", f"not looked for: there is no {oar_conf} on this machine")]
    try:
        said = read_oar_conf(oar_conf).get(KEY, "")
        named = Path("/", *shlex.split(said)[:1])
    except (SettingsError, ValueError) as error:
        return [Finding("bad", "hook", f"{KEY} cannot be read: {error}", AS_OAR)]
    if not said.strip():
        return [_not_set(oar_conf, root / STUB)]
    if not os.path.exists(named):
        return [
            Finding(
                "bad",
                "hook",
                f"{oar_conf} names {named}, which is not there: OAR stops all queues at the end of "
                "the next job",
                _then(
                    root / STUB, f"sed -i 's|^{KEY}=.*|{KEY}=\"{root / STUB}\"|' {quoted(oar_conf)}"
                ),
            )
        ]
    return _runnable(named, root, environ) or [Finding("good", "hook", str(named))]


def _then(stub: Path, command: str) -> str:
    """A command that makes OAR call the stub, behind the one that writes it."""
    return command if os.path.exists(stub) else f"{INSTALL} && {command}"


def _not_set(oar_conf: Path, stub: Path) -> Finding:
    return Finding(
        "warning",
        "hook",
        f"{oar_conf} does not set {KEY}: a job is recorded when the timer is due, not when it ends",
        _then(stub, f"echo '{KEY}=\"{stub}\"' >> {quoted(oar_conf)}"),
    )


def _runnable(named: Path, root: Path, environ: Mapping[str, str]) -> list[Finding]:
    """What keeps the user oar from running the file, and the hook from its work."""
    try:
        user = User.named(USER)
    except KeyError:
        said = f"there is no user {USER} on this machine; whether OAR may run {named} is not known"
        return [Finding("warning", "hook", said, f"getent passwd {USER}")]
    try:
        hook = _our_hook(named)
    except OSError as error:
        return [Finding("bad", "hook", f"{named} cannot be read: {error.strerror}", AS_OAR)]
    stub = root / STUB
    if hook is not None and not os.path.exists(hook):
        said = f"{named} calls {hook}, which is not there: no job is recorded when it ends"
        mend = _then(stub, f"sed -i 's|{hook}|{stub}|' {quoted(named)}")
        return [Finding("bad", "hook", said, INSTALL if hook == stub else mend)]
    # Whoever looks at the stubs looks at one of them.
    looks = [None if named == stub else _denied(user, named, os.R_OK | os.X_OK, "run", 755)]
    if hook is None:
        looks.append(_not_ours(named, stub))
    else:
        filled = dict(_FILLED.findall(_read_active(hook)))
        filled = filled if "python" in filled else {}
        state = environ.get("OAR_ACCOUNTING_STATE") or filled.get("state")
        looks.append(_state(user, Path(state) if state else state_directory(root, environ)))
        if hook != stub:
            looks.append(_denied(user, hook, os.R_OK | os.X_OK, "run", 755))
        if hook != stub or "OAR_ACCOUNTING_PYTHON" in environ:
            looks.append(_interpreter(user, hook, filled.get("python"), environ))
    # A directory on the way to several of them is told once.
    return list({found.mend: found for found in looks if found is not None}.values())


def _our_hook(named: Path) -> Path | None:
    """Our hook: the file itself, or one that it calls; None where it seems to do neither."""
    text = _active(named)
    if _OURS in text:
        return named
    for called in map(Path, re.findall(r"/[^\s\"'=]*/server_epilogue\b", text)):
        if _OURS in _read_active(called) or not os.path.exists(called):
            return called
    return None


def _not_ours(named: Path, stub: Path) -> Finding:
    return Finding(
        "warning",
        "hook",
        f"OAR runs {named}, which does not seem to call our epilogue: a job is then recorded when "
        "the timer is due, not when it ends. Make the script call this before it exits",
        _then(stub, str(stub)),
    )


def _interpreter(
    user: "User", hook: Path, filled: str | None, environ: Mapping[str, str]
) -> Finding | None:
    """The Python that the hook starts, found as the hook finds it; *filled*: as a stub says."""
    prefix, found, _ = str(hook).partition("/share/oar-accounting/hooks/")
    default = filled or Path(prefix if found else LIBRARY, "bin", "python")
    python = Path(environ.get("OAR_ACCOUNTING_PYTHON") or default)
    if not os.path.exists(python):
        said = f"{hook} starts {python}, which is not there: no job is recorded when it ends"
        mend = install_library(python.parent.parent)
        return Finding("bad", "hook", said, f"{mend} && {INSTALL}" if filled else mend)
    found_denied = _denied(user, python, os.X_OK, "run", 755)
    if found_denied is not None and (at := user.denied(python, os.X_OK)) != python:
        return replace(found_denied, mend=way_to_run(at))
    return found_denied


def _state(user: "User", state: Path) -> Finding | None:
    """The directory of the hook's locks."""
    mend = f"install -d -o {USER} -g {USER} -m 700 {quoted(state)}"
    if not os.path.exists(state):
        said = f"the directory {state} of the epilogue's locks is not there: it records no job"
        return Finding("bad", "hook", said, mend)
    if user.denied(state, os.R_OK | os.W_OK | os.X_OK) == state:
        said = f"the user {USER} may not write to {state}: the epilogue records no job"
        return Finding("bad", "hook", said, mend)
    return _denied(user, state, os.X_OK, "use", 700)


def _denied(user: "User", path: Path, wanted: int, verb: str, mode: int) -> Finding | None:
    """A finding where the user may not use the path, or one of the directories above."""
    at = user.denied(path, wanted)
    if at is None:
        return None
    where = "" if at == path else f", because of {at}"
    mend = f"chmod {mode} {quoted(at)}" if at == path else f"chmod a+x {quoted(at)}"
    return Finding("bad", "hook", f"the user {user.name} may not {verb} {path}{where}", mend)


# -- timers -----------------------------------------------------------------------------------


def timers(root: Path) -> list[Path]:
    """The timers of this machine that are installed and switched on."""
    cron, enabled = root / CRON, root / ENABLED
    found = [cron] if "catch-up" in _read_active(cron) else []
    return found + ([root / TIMER] if os.path.lexists(enabled) else [])


def timer_finding(last_try: PassRecord | None, now: int, root: Path) -> Finding:
    """Is there a timer, and does it do anything?"""
    there = timers(root)
    said = "installed: " + ", ".join(map(str, there)) if there else "none is installed here"
    if last_try is None:
        if there:
            return Finding("good", "timer", said)
    elif now - last_try.began <= LATE or is_at_work(last_try, now):
        ago = formats.lasting(now - last_try.began)
        return Finding("good", "timer", f"{said}; a catch-up began {ago} ago")
    else:
        said += f"; no catch-up has begun for {formats.lasting(now - last_try.began)}"
    return Finding("bad", "timer", said, start_timer(root))


def start_timer(root: Path) -> str:
    """The command that starts the timer, or installs one."""
    if os.path.lexists(root / TIMER):
        return "systemctl enable --now oar-accounting.timer"
    if timers(root):
        return "service cron restart"
    return f"install -m 644 {quoted(shared('hooks/oar-accounting.cron'))} {quoted(root / CRON)}"


def stock_findings(root: Path) -> list[Finding]:
    """OAR's own accounting, where its cron runs it."""
    return [
        Finding(
            "good",
            "oaraccounting",
            f"runs too, from {cron}; neither harms the other",
        )
        for cron in sorted((root / "etc/cron.d").glob("oar-server*"))
        # cron does not read a file whose name has a dot.
        if "." not in cron.name and "oaraccounting" in _read_active(cron)
    ]


def _read_active(file: Path) -> str:
    """The lines that are no comments; none where the file cannot be read."""
    try:
        return _active(file)
    except OSError:
        return ""


def _active(file: Path) -> str:
    lines = file.read_text(encoding="utf-8", errors="replace").splitlines()
    return "\n".join(line for line in lines if not line.lstrip().startswith("#"))

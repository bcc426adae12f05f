"""What a live test does to the machine it runs on, and how all of it is undone.

Everything lies in `PLACE`, and every process carries `MARK`. OAR looks for its settings in one
place only, so /etc/oar/oar.conf is changed, and put back at the end. What a run leaves behind that
was killed, the next one clears away.
"""

import os
import pwd
import shutil
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

PLACE = Path("/var/tmp/oar-accounting-live")
HOME = PLACE / "home"
OAR_CONF = Path("/etc/oar/oar.conf")

#: What `clear_away` puts back.
SAVED_CONF = PLACE / "oar.conf.saved"
NEW_USERS = PLACE / "new-users"
#: What a test may make outside of `PLACE`; `clear_away` removes it.
MADE_ELSEWHERE = PLACE / "made-elsewhere"

#: The variable that every process of a run carries, so that none is lost, whoever its parent is.
MARK = f"LIVE_TEST_OF_OAR_ACCOUNTING={PLACE}"

PACKAGES = (
    "oar-node",
    "oar-server",
    "oar-server-pgsql",
    "oar-user",
    "oar-user-pgsql",
    "postgresql",
    "procps",
    "python3-venv",
)
USERS = ("alice", "bob")
PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

PATIENCE = 180.0  #: seconds, for anything that is waited for
COMMAND_SECONDS = 300.0  #: for a command; pip may have much to fetch


class MachineError(Exception):
    """A program did not do what it was asked, or not in time."""


def missing() -> str:
    """Why no OAR can be stood up here; empty where one can."""
    if os.geteuid() != 0:
        return "only root can stand up an OAR server"
    if shutil.which("dpkg-query") is None:
        return "OAR is installed from Debian's packages, and this is no Debian"
    known = subprocess.run(
        ["dpkg-query", "--show", "--showformat=${Package} ${db:Status-Status}\n", *PACKAGES],
        capture_output=True,
        text=True,
    ).stdout.splitlines()
    absent = [package for package in PACKAGES if f"{package} installed" not in known]
    if absent:
        return f"Debian's packages are not installed: {' '.join(absent)}"
    try:
        socket.gethostbyname(socket.gethostname())
    except OSError:
        return "this machine's name has no address, and OAR's nodes call its server by that name"
    return ""


@contextmanager
def place() -> Iterator[None]:
    """`PLACE`, for one `with` block: new at first, gone at the end."""
    clear_away()
    if any(process.name == "Almighty" for process in processes()):
        raise MachineError("an OAR server runs on this machine: a test must not take its place")
    try:
        HOME.mkdir(parents=True)
        HOME.chmod(0o1777)
        save_conf()
        add_users()
        yield
    finally:
        clear_away()


def clear_away() -> None:
    """End everything that lives in `PLACE`, put back what it changed, and remove it."""
    if not PLACE.exists():
        return
    # PostgreSQL, if killed, would leave shared memory behind.
    send(signal.SIGQUIT, ours("postgres"))
    wait_until(lambda: not ours("postgres"), "PostgreSQL ends")
    while rest := ours():
        send(signal.SIGKILL, rest)
        time.sleep(0.1)
    if SAVED_CONF.exists():
        write_conf(SAVED_CONF.read_text(encoding="utf-8"))
    new = NEW_USERS.read_text(encoding="utf-8").split() if NEW_USERS.exists() else []
    for user in all_users().intersection(new):
        run("userdel", "--force", user)
    made = MADE_ELSEWHERE.read_text(encoding="utf-8") if MADE_ELSEWHERE.exists() else ""
    for path in map(Path, made.splitlines()):
        shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
    shutil.rmtree(PLACE)


def make_elsewhere(paths: Sequence[str]) -> None:
    """Claim paths outside of `PLACE`, to be removed at the end, or by the next run.

    Raises:
        MachineError: somebody else's file or directory is there.
    """
    if standing := [path for path in paths if Path(path).exists()]:
        raise MachineError(f"a test must not take the place of {', '.join(standing)}")
    listed = MADE_ELSEWHERE.with_suffix(".new")
    listed.write_text("".join(f"{path}\n" for path in paths), encoding="utf-8")
    listed.rename(MADE_ELSEWHERE)


# -- settings and users -----------------------------------------------------------------------


def save_conf() -> None:
    """Save oar.conf, by a renaming, so that never half of it is put back."""
    copied = PLACE / "oar.conf.copied"
    shutil.copy(OAR_CONF, copied)
    copied.rename(SAVED_CONF)


def write_conf(text: str) -> None:
    """Replace oar.conf, by a renaming, because OAR reads it anew in every process."""
    new = OAR_CONF.with_name("oar.conf.new")
    new.touch(mode=0o600)
    new.write_text(text, encoding="utf-8")
    old = OAR_CONF.stat()
    os.chown(new, old.st_uid, old.st_gid)
    new.chmod(old.st_mode)
    new.rename(OAR_CONF)


def add_users() -> None:
    """Add those users that the machine does not have."""
    new = sorted(set(USERS) - all_users())
    NEW_USERS.write_text(" ".join(new), encoding="utf-8")
    for user in new:
        run("useradd", "--no-create-home", "--shell=/bin/bash", user)


def all_users() -> set[str]:
    """The names of all users."""
    return {entry.pw_name for entry in pwd.getpwall()}


# -- processes --------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Process:
    """A process of the machine."""

    number: int
    name: str
    session: int
    marked: bool


def processes() -> list[Process]:
    """All processes that have not ended."""
    found = []
    for directory in Path("/proc").glob("[0-9]*"):
        try:
            stat = (directory / "stat").read_text(encoding="utf-8", errors="replace")
            carried = (directory / "environ").read_bytes() + (directory / "cmdline").read_bytes()
        except OSError:
            continue
        name, _, rest = stat.partition("(")[2].rpartition(")")
        state, _, _, session = rest.split()[:4]
        if state != "Z":
            process = Process(
                number=int(directory.name),
                name=name,
                session=int(session),
                marked=MARK.encode() in carried,
            )
            found.append(process)
    return found


def ours(name: str = "") -> list[Process]:
    """The processes of a run; with a name, those of that name.

    Perl and sshd overwrite their variables when they rename themselves; but what the OAR server
    starts stays in its session, and sshd has the mark among its options. No session of a run
    holds anything else.
    """
    every = processes()
    sessions = {process.session for process in every if process.marked}
    return [
        process
        for process in every
        if (process.marked or process.session in sessions) and name in ("", process.name)
    ]


def send(number: signal.Signals, to: Iterable[Process]) -> None:
    """Send a signal to those that are still there."""
    for process in to:
        with suppress(ProcessLookupError):
            os.kill(process.number, number)


def run(*command: object, user: str = "root", **variables: str) -> str:
    """Run a command as a user, to its end, and return what it printed."""
    # A job runs where PWD was when it was submitted.
    always = {"PATH": PATH, "LC_ALL": "C.UTF-8", "TZ": "UTC", "HOME": str(HOME), "PWD": str(HOME)}
    done = subprocess.run(
        ["runuser", "-u", user, "--", *map(str, command)],
        cwd=HOME,
        env=always | variables | dict([MARK.split("=")]),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=COMMAND_SECONDS,
        start_new_session=True,
    )
    if done.returncode != 0:
        raise MachineError(f"{' '.join(map(str, command))} failed:\n{done.stdout}")
    return done.stdout


def start_daemon(*command: object, log: str, **variables: str) -> None:
    """Start what runs until it is killed."""
    script = f'cd / && exec setsid --fork "$@" >>{PLACE}/{log} 2>&1'
    run("sh", "-c", script, "sh", *command, **variables)


# -- time and ports ---------------------------------------------------------------------------


def wait_until(true: Callable[[], bool], what: str, seconds: float = PATIENCE) -> None:
    """Ask again and again until it is true."""
    deadline = time.monotonic() + seconds
    while not true():
        if time.monotonic() > deadline:
            raise MachineError(f"waited {seconds:.0f} s in vain: {what}")
        time.sleep(0.5)


@contextmanager
def repeated(every: float, action: Callable[[], None]) -> Iterator[None]:
    """Do it every few seconds in the background, for one `with` block."""
    over = threading.Event()

    def work() -> None:
        while not over.wait(every):
            action()

    worker = threading.Thread(target=work)
    worker.start()
    try:
        yield
    finally:
        over.set()
        worker.join()


def free_ports(number: int) -> list[int]:
    """Ports that nobody listens at."""
    with ExitStack() as stack:
        probes = [stack.enter_context(socket.create_server(("", 0))) for _ in range(number)]
        return [int(probe.getsockname()[1]) for probe in probes]


def answers(port: int) -> bool:
    """Whether somebody listens at a port."""
    try:
        socket.create_connection(("127.0.0.1", port), timeout=5).close()
    except OSError:
        return False
    return True

"""The hook at a job's end, run as OAR 2 and OAR 3 run it: the real file, whatever is broken."""

import fcntl
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Engine

from oar_accounting import Accounting
from tests.bench.hook import HOOK, measured
from tests.servers import Database
from tests.small_oar import SmallOar

pytestmark = pytest.mark.skipif(
    not Path("/proc/self/environ").exists() or not shutil.which("flock"),
    reason="OAR servers are Linux with util-linux",
)
slow = pytest.mark.slow

#: Far longer than anything here takes on a busy machine.
PATIENCE = 60.0
#: What the hook gives a worker that does not end when told to.
KILL_AFTER = 5
ROOT_IS_HERE = os.geteuid() == 0
NOBODY = 65534
AS_NOBODY: dict[str, Any] = (
    {"user": NOBODY, "group": NOBODY, "extra_groups": []} if ROOT_IS_HERE else {}
)

# It stands for Python: tells how it was called, and works for as long as there is a file "hold".
STUB = """#!/bin/sh
here=${0%/*}
trap 'echo told >>"$here/log"; exit' TERM
{ pwd; umask; echo "$PATH"; printf '%s\\n' "$@"; } >"$here/call"
echo start >>"$here/log"
while [ -e "$here/hold" ]; do sleep 0.05; done
echo end >>"$here/log"
"""
# Neither it nor its child listens.
STUBBORN = """#!/bin/sh
trap '' HUP INT TERM
echo start >>"${0%/*}/log"
sleep 1000 &
sleep 1000
"""


def until(condition: Callable[[], object], within: float = PATIENCE) -> None:
    """Wait for the *condition*; fail where it does not come."""
    last = time.monotonic() + within
    while not condition():
        assert time.monotonic() < last, "it did not come to that"
        time.sleep(0.02)


class Place:
    """A hook with a place of its own: its locks, its Python, and the processes that it left."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.state = directory / "state"
        self.python = directory / "bin" / "python"
        #: A copy, where pip would put it, which an unprivileged user can read.
        self.hook = directory / "share" / "oar-accounting" / "hooks" / HOOK.name
        self.environment = {
            "PATH": "/usr/bin:/bin",
            "OAR_ACCOUNTING_PYTHON": str(self.python),
            "OAR_ACCOUNTING_STATE": str(self.state),
            "OAR_ACCOUNTING_DELAY": "0",
        }
        for each in (self.state, self.python.parent, self.hook.parent):
            each.mkdir(parents=True)
        shutil.copy(HOOK, self.hook)
        self.stub(STUB)
        self._log = self.python.with_name("log")
        self._hold = self.python.with_name("hold")
        self._log.touch()
        for each in (self.state, self.python.parent):
            each.chmod(0o777)
        self._log.chmod(0o666)

    def stub(self, text: str) -> None:
        """Let *text* be the program that stands for Python."""
        self.python.write_text(text)
        self.python.chmod(0o755)

    def call(self, *command: str | Path, **given: Any) -> None:
        """Run the hook as OAR 3 does: it must succeed, silent, with every stream closed."""
        given = {"cwd": "/", "env": self.environment, **given}
        done = subprocess.run(
            command or (HOOK, "42"),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            check=False,
            timeout=PATIENCE,
            **given,
        )
        assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")

    def changed(self, **settings: str) -> dict[str, str]:
        """The environment with other OAR_ACCOUNTING_* in it."""
        return self.environment | {f"OAR_ACCOUNTING_{k}": v for k, v in settings.items()}

    def log(self) -> list[str]:
        """What the workers told."""
        return self._log.read_text().split()

    def told_call(self) -> list[str]:
        """How the last worker was called: directory, umask, PATH, arguments."""
        return self.python.with_name("call").read_text().splitlines()

    @contextmanager
    def holding(self) -> Iterator[None]:
        """Workers that start in this time work until its end."""
        self._hold.touch()
        try:
            yield
        finally:
            self._hold.unlink()

    def processes(self, *words: str) -> dict[int, list[str]]:
        """The processes that the hook left, those with these *words* in their command line."""
        mark = os.fsencode(self.directory)
        found = {}
        for process in Path("/proc").glob("[0-9]*"):
            try:
                command = (process / "cmdline").read_bytes()
                marked = mark in command or mark in (process / "environ").read_bytes()
            except OSError:
                continue
            line = os.fsdecode(command).split("\0")[:-1]
            if marked and set(words) <= set(line):
                found[int(process.name)] = line
        return found

    def empty(self) -> bool:
        """Whether no process is left."""
        # One that just becomes another program is seen as neither.
        for _ in range(2):
            if self.processes():
                return False
            time.sleep(0.03)
        return True

    def gone(self, within: float = PATIENCE) -> None:
        """Wait until no process is left."""
        until(self.empty, within)

    def kill(self, *words: str) -> None:
        """Kill the processes with these *words* in their command line, as anybody may any time."""
        for process in self.processes(*words):
            kill(process)


def kill(process: int) -> None:
    """End a process at once."""
    with suppress(ProcessLookupError):
        os.kill(process, signal.SIGKILL)


@contextmanager
def a_place() -> Iterator[Place]:
    """A place that leaves no process behind."""
    # Not pytest's own: only its owner can enter that.
    with tempfile.TemporaryDirectory(prefix="oar hook ") as name:
        directory = Path(name)
        directory.chmod(0o755)
        here = Place(directory)
        try:
            yield here
        finally:
            while not here.empty():
                here.kill()


@pytest.fixture
def place() -> Iterator[Place]:
    with a_place() as here:
        yield here


# -- as OAR calls it ---------------------------------------------------------------------------


def test_the_worker_catches_up_in_an_environment_of_its_own(place: Place) -> None:
    with place.holding():
        place.call(cwd=place.directory, umask=0o022)
        until(lambda: place.log() == ["start"])
        # A terminal that closes ends what belongs to its session.
        assert os.getsid(0) not in map(os.getsid, place.processes())
    directory, mask, path, *arguments = place.told_call()
    assert (directory, mask) == ("/", "0077")
    assert {"/usr/sbin", "/usr/bin", "/sbin", "/bin"} < set(path.split(":"))
    assert arguments[0] == "-I"
    assert arguments[-3:] == ["catch-up", "--wait", "--syslog"]


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        [""],
        ["0"],
        ["-1"],
        ["x"],
        ["4" * 1000],
        ["42; exit 1"],
        ["$(exit 1)", "*", "\n"],
        ["--help"],
        ["extra", "--words=a b", "42"],
    ],
)
def test_its_arguments_do_not_matter(place: Place, arguments: list[str]) -> None:
    place.call(HOOK, *arguments)
    until(lambda: place.log() == ["start", "end"])


# As OAR::IO does it; Almighty and Leon ignore these signals, and children inherit that.
OAR_2 = """
$SIG{$_} = "IGNORE" for qw(PIPE USR1 INT TERM);
my $pid = fork();
if ($pid == 0) {
    exec($ARGV[0]);
    exit(-1);
}
waitpid($pid, 0);
exit($? >> 8 || $? & 127);
"""


@pytest.mark.skipif(not shutil.which("perl"), reason="OAR 2 is written in Perl; there is none here")
@pytest.mark.parametrize("words", ["", "STOP --x='a b' ", "é -- 'it''s' "])
def test_oar_2_runs_it(place: Place, words: str) -> None:
    environment = {
        **place.environment,
        "HOME": "/var/lib/oar",
        "OARCONFFILE": "/etc/oar/oar.conf",
        "OARDIR": "/usr/lib/oar",
        "PERL5LIB": "/usr/lib/oar",
        "SHELL": "/usr/lib/oar/oarsh_shell",
    }
    with place.holding():
        place.call("perl", "-e", OAR_2, f"{HOOK} {words}42", env=environment, umask=0o022)
        until(lambda: place.log() == ["start"])
    place.gone()
    assert place.log() == ["start", "end"]


@pytest.mark.parametrize(
    "before",
    [
        "exec 3>&1 4>&1 5>&1 6>&1 7>&1 8>&1 9>&1;",
        "exec <&- >&- 2>&-;",
        "exec </dev/full >/dev/full 2>&1;",
        "trap '' HUP INT QUIT PIPE ALRM TERM CHLD USR1;",
        "umask 777;",
        "cd /proc;",
    ],
)
def test_no_stream_is_held_while_a_worker_waits_or_works(place: Place, before: str) -> None:
    command = ("/bin/sh", "-c", f'{before} exec "$0" 42', HOOK)
    with place.holding():
        # A call ends when all copies of its streams are closed.
        place.call(*command)
        until(lambda: place.log() == ["start"])
        place.call(*command)
        until(lambda: place.processes("timeout", "flock"))
    place.gone()
    assert place.log() == ["start", "end"] * 2


@pytest.mark.parametrize("shell", ["dash", "bash --posix", "busybox sh"])
def test_any_shell_will_do(place: Place, shell: str) -> None:
    name, *options = shell.split()
    program = shutil.which(name)
    if program is None:
        pytest.skip(f"no {name} here")
    place.call(program, *options, HOOK, "42")
    until(lambda: place.log() == ["start", "end"])
    place.call(program, *options, HOOK, "42", env=place.changed(STATE="/nonexistent"))
    place.gone()
    assert place.log() == ["start", "end"]


def test_it_finds_the_python_that_it_was_installed_with(place: Place) -> None:
    del place.environment["OAR_ACCOUNTING_PYTHON"]
    place.call(place.hook, "42")
    until(lambda: place.log() == ["start", "end"])


def test_a_link_to_it_will_do(place: Place) -> None:
    link = place.directory / "epilogue"
    link.symlink_to(place.hook)
    place.call(link, "42")
    until(lambda: place.log() == ["start", "end"])


@slow
def test_it_takes_no_longer_than_three_bare_shells() -> None:
    # What else the machine does can only slow it.
    rounds = (measured(20) for _ in range(5))
    assert any(r["starting_ratio"] <= 3 and r["waiting_ratio"] <= 3 for r in rounds)


# -- what may be broken ------------------------------------------------------------------------


@pytest.mark.parametrize("path", [None, "", "/nonexistent", ".:x"])
def test_any_path_will_do(place: Place, path: str | None) -> None:
    environment = {k: v for k, v in place.environment.items() if k != "PATH"}
    if path is not None:
        environment["PATH"] = path
    place.call(env=environment)
    until(lambda: place.log() == ["start", "end"])


def test_an_empty_environment_is_no_error(place: Place) -> None:
    place.call(place.hook, "42", env={})
    place.gone()


@pytest.mark.parametrize(
    "settings",
    [
        {"HOME": "/nonexistent"},
        {"HOME": ""},
        {"IFS": "/a"},
        {"ENV": "/dev/full", "BASH_ENV": "/dev/full"},
        {"LANG": "xx_YY.\udcff", "TZ": "nowhere"},
        {"PYTHONPATH": "/dev/full", "PYTHONHOME": "/nonexistent"},
        {"PS4": "$(exit 1)", "TMPDIR": "/nonexistent", "OARCONFFILE": "\n"},
    ],
    ids=lambda settings: " ".join(settings),
)
def test_a_strange_environment_is_no_error(place: Place, settings: dict[str, str]) -> None:
    place.call(env=place.environment | settings)
    until(lambda: place.log() == ["start", "end"])


@pytest.mark.parametrize(
    "limit", ["", "x", "0", "-5", "1.5", "08", "9" * 30, "a[$(exit 1)]", "1 1"]
)
def test_a_limit_that_is_none_is_the_default(place: Place, limit: str) -> None:
    with place.holding():
        place.call(env=place.changed(LIMIT=limit))
        until(lambda: place.processes("timeout", "-k", "5", "120"))
        until(lambda: place.log() == ["start"])


@pytest.mark.parametrize("delay", ["", "x", "-1", "infinity", "9" * 30, "1;exit 1", "1 1"])
def test_a_delay_that_is_none_is_the_default(place: Place, delay: str) -> None:
    place.call(env=place.changed(DELAY=delay))
    until(lambda: place.processes("sleep", "3"))


@pytest.mark.parametrize("python", ["/nonexistent", "/", "/dev/null", "\n", "-x"])
def test_without_python_nothing_is_left(place: Place, python: str) -> None:
    place.call(env=place.changed(PYTHON=python))
    place.gone()
    assert place.log() == []


@pytest.mark.parametrize("state", ["/nonexistent", "/dev/null", "state", "\n", "/proc/self"])
def test_without_a_place_for_its_locks_no_worker_starts(place: Place, state: str) -> None:
    place.call(place.hook, "42", env=place.changed(STATE=state), **AS_NOBODY)
    place.gone()
    assert place.log() == []


def _read_only(state: Path) -> None:
    state.chmod(0o555)


def _another_one_s(state: Path) -> None:
    (state / "waiting").touch(mode=0o000)


def _directories(state: Path) -> None:
    (state / "waiting").mkdir()


def _unwritable_second(state: Path) -> None:
    (state / "working").touch(mode=0o000)


@pytest.mark.parametrize("spoil", [_read_only, _another_one_s, _directories, _unwritable_second])
def test_locks_that_cannot_be_written_are_no_error(
    place: Place, spoil: Callable[[Path], None]
) -> None:
    spoil(place.state)
    home = place.environment | {"HOME": str(place.state)}
    place.call(place.hook, "42", env=home, **AS_NOBODY)
    place.gone()
    assert place.log() == []


@pytest.mark.parametrize("name", ["waiting", "working"])
def test_nobody_need_read_what_lies_in_the_place_of_a_lock(place: Place, name: str) -> None:
    os.mkfifo(place.state / name)
    place.call()
    until(lambda: place.log() == ["start", "end"])


@pytest.mark.skipif(not ROOT_IS_HERE, reason="only root can be another user")
def test_locks_that_root_made_do_not_shut_others_out(place: Place) -> None:
    place.state.chmod(0o700)
    os.chown(place.state, NOBODY, NOBODY)
    place.call(umask=0o077)
    until(lambda: place.log() == ["start", "end"])
    place.gone()
    place.call(place.hook, "42", **AS_NOBODY)
    until(lambda: place.log() == ["start", "end"] * 2)


@pytest.mark.skipif(not shutil.which("prlimit"), reason="no prlimit here")
def test_it_succeeds_where_no_process_can_be_started(place: Place) -> None:
    place.call("prlimit", "--nproc=1", place.hook, "42", **AS_NOBODY)
    place.gone()
    assert place.log() == []


@contextmanager
def mounted(directory: Path, options: str) -> Iterator[None]:
    """A file system of its own in *directory*."""
    if not ROOT_IS_HERE:
        pytest.skip("only root can mount")
    mount = ["mount", "-t", "tmpfs", "-o", f"mode=777,{options}", "tmpfs", str(directory)]
    done = subprocess.run(mount, capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(f"root cannot mount here: {done.stderr.strip()}")
    try:
        yield
    finally:
        subprocess.run(["umount", "--lazy", directory], check=True)


def fill(directory: Path) -> None:
    """Write files until there is no room for another, nor for more in one."""
    for number in range(10_000):
        try:
            (directory / f"filler-{number}").write_bytes(b"x" * 1024)
        except OSError:
            return
    raise AssertionError("it is not full")


@pytest.mark.parametrize("room", ["size=64k", "size=1m,nr_inodes=8"])
def test_a_full_disk_is_no_error(place: Place, room: str) -> None:
    with mounted(place.state, room):
        home = place.environment | {"HOME": str(place.state), "TMPDIR": str(place.state)}
        fill(place.state)
        place.call(place.hook, "42", env=home, **AS_NOBODY)
        place.gone()
        for file in place.state.iterdir():
            file.unlink()
        place.call(place.hook, "42", env=home, **AS_NOBODY)
        place.gone()
        done = place.log()
        assert done
        # Once there are locks, they need no room.
        fill(place.state)
        place.call(place.hook, "42", env=home, **AS_NOBODY)
        place.gone()
        assert place.log() == [*done, "start", "end"]


def test_a_read_only_disk_is_no_error(place: Place) -> None:
    with mounted(place.state, "size=64k,ro"):
        place.call(place.hook, "42", **AS_NOBODY)
        place.gone()
        assert place.log() == []


# -- workers -----------------------------------------------------------------------------------


@slow
def test_a_hundred_jobs_ending_in_one_second_start_one_worker(place: Place) -> None:
    environment = place.changed(DELAY="6")
    calls = [
        subprocess.Popen((HOOK, str(job)), env=environment, stdin=subprocess.DEVNULL)
        for job in range(100)
    ]
    assert [each.wait(PATIENCE) for each in calls] == [0] * 100
    # All but one have found it, and left.
    until(lambda: len(place.processes(str(HOOK))) == 1)
    assert len(place.processes("sleep", "6")) == 1
    assert place.log() == []
    place.gone()
    assert place.log() == ["start", "end"]


def test_jobs_that_end_while_one_works_are_recorded_by_the_next(place: Place) -> None:
    with place.holding():
        place.call()
        until(lambda: place.log() == ["start"])
        for _ in range(20):
            place.call()
        until(lambda: len(place.processes(str(HOOK))) == 1)
        assert place.processes("timeout", "flock")
        assert place.log() == ["start"]
    place.gone()
    assert place.log() == ["start", "end"] * 2


def test_a_worker_is_told_when_its_time_is_over(place: Place) -> None:
    with place.holding():
        place.call(env=place.changed(LIMIT="1"))
        place.gone(within=1 + KILL_AFTER)
    assert place.log() == ["start", "told"]


@slow
def test_a_worker_that_does_not_listen_is_killed_with_its_children(place: Place) -> None:
    place.stub(STUBBORN)
    place.call(env=place.changed(LIMIT="1"))
    until(lambda: len(place.processes("sleep", "1000")) == 2)
    place.gone(within=1 + KILL_AFTER + 5)
    assert place.log() == ["start"]


@slow
def test_a_worker_does_not_wait_for_ever(place: Place) -> None:
    with (place.state / "working").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        # As Almighty calls it: what is ignored then, is so in every child.
        place.call(
            "/bin/sh", "-c", 'trap "" TERM; exec "$0" 42', HOOK, env=place.changed(LIMIT="1")
        )
        until(lambda: place.processes("timeout", "flock"))
        place.gone(within=1 + 2 * KILL_AFTER + 5)
    assert place.log() == []


def test_a_worker_killed_while_it_waits_is_in_nobody_s_way(place: Place) -> None:
    environment = place.changed(DELAY="30")
    place.call(env=environment)
    until(lambda: place.processes("sleep", "30"))
    place.kill(str(HOOK))
    until(lambda: not place.processes(str(HOOK)))
    assert len(place.processes("sleep", "30")) == 1
    place.call(env=environment)
    until(lambda: len(place.processes("sleep", "30")) == 2)


def test_a_worker_killed_while_another_works_is_in_nobody_s_way(place: Place) -> None:
    with place.holding():
        place.call()
        until(lambda: place.log() == ["start"])
        place.call()
        until(lambda: place.processes("timeout", "flock"))
        place.kill(str(HOOK))
        until(lambda: not place.processes(str(HOOK)))
        assert len(place.processes("timeout", "flock")) == 1
        place.call()
        until(lambda: len(place.processes("timeout", "flock")) == 2)
    place.gone()
    assert place.log() == ["start", "end"] * 2


@slow
def test_killed_at_any_moment_it_leaves_nothing_behind(place: Place) -> None:
    chance = random.Random(3)
    environment = place.changed(DELAY="0.05", LIMIT="2")
    for _ in range(60):
        with subprocess.Popen(
            (HOOK, "42"),
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        ) as call:
            time.sleep(chance.choice((0, 0.001, 0.01, 0.1, 0.2)) * chance.random())
            for process in place.processes():
                if chance.random() < 0.5:
                    kill(process)
            assert call.communicate(timeout=PATIENCE)[0] == b""
            assert call.returncode in (0, -signal.SIGKILL)
    place.gone()
    before = len(place.log())
    place.call()
    place.gone()
    assert place.log()[before:] == ["start", "end"]


# -- with the real worker ----------------------------------------------------------------------


def settings(place: Place, url: str) -> None:
    """Let the real program be the worker, with OAR's database at *url*."""
    file = place.directory / "accounting.toml"
    file.write_text(f'oar_url = "{url}"\n')
    place.environment |= {
        "OAR_ACCOUNTING_PYTHON": sys.executable,
        "OAR_ACCOUNTING_CONF": str(file),
    }


@pytest.mark.databases("sqlite")
def test_it_records_the_job_that_ended(place: Place, engine: Engine, database: Database) -> None:
    SmallOar(engine).add_job()
    with Accounting.open(url=database.url) as accounting:
        accounting.init()
        settings(place, database.url)
        place.call()
        place.gone()
        assert [row.group for row in accounting.usage(("user",)).rows] == [("bob",), ("bob",)]
    assert sorted(os.listdir(place.state)) == ["waiting", "working"]


@pytest.mark.slow
@pytest.mark.parametrize(
    "url",
    [
        "postgresql://oar:x@127.0.0.1:1/oar",
        "mysql://oar:x@127.0.0.1:1/oar",
        "sqlite:////nonexistent/oar.db",
        "no url",
        '"',
    ],
)
def test_a_database_that_is_down_is_no_error(place: Place, url: str) -> None:
    settings(place, url)
    place.call()
    place.gone()


def test_without_settings_nothing_is_left(place: Place) -> None:
    settings(place, "sqlite:////nonexistent/oar.db")
    del place.environment["OAR_ACCOUNTING_CONF"]
    place.environment["OARCONFFILE"] = "/nonexistent/oar.conf"
    place.call()
    place.gone()


def let_in(server: socket.socket) -> socket.socket:
    """Let a client of PostgreSQL log in, and then answer no more."""
    server.settimeout(PATIENCE)
    connection, _ = server.accept()
    asked = connection.recv(1000)
    # It may ask for encryption first.
    while len(asked) == 8:
        connection.sendall(b"N")
        asked = connection.recv(1000)
    connection.sendall(b"R\0\0\0\x08\0\0\0\0")
    for name, value in (("server_version", "15.1"), ("client_encoding", "UTF8")):
        told = f"{name}\0{value}\0".encode()
        connection.sendall(b"S" + (4 + len(told)).to_bytes(4, "big") + told)
    connection.sendall(b"Z\0\0\0\x05I")
    # Its first statement.
    assert connection.recv(1000).startswith(b"Q")
    return connection


@slow
def test_a_database_that_hangs_is_left_in_time() -> None:
    with ExitStack() as stack:
        servers = [stack.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(3)]
        silent, hanging, unwatched = places = [stack.enter_context(a_place()) for _ in servers]
        kinds = ("mysql", "postgresql", "postgresql")
        for kind, place, server in zip(kinds, places, servers, strict=True):
            settings(place, f"{kind}://oar:x@127.0.0.1:{server.getsockname()[1]}/oar")
            place.call(env=place.changed(LIMIT="10"))
        servers[0].settimeout(PATIENCE)
        stack.enter_context(servers[0].accept()[0])
        for server in servers[1:]:
            stack.enter_context(let_in(server))
        assert silent.processes("catch-up")
        assert hanging.processes("timeout", "catch-up")
        # Somebody kills what should end it.
        unwatched.kill("timeout")
        for place in places:
            place.gone(within=10 + KILL_AFTER + 5)

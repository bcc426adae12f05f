"""An answer from a child process, within a time that nothing can stretch.

Time-outs bound most waits for a database, but not a resolver of names, a server that is frozen, a
file system that hangs, or a loop of our own; and nothing but another process bounds a crash or what
is told to the process's streams. So the child is forked, which costs milliseconds where starting
Python anew costs half a second. It touches nothing that it shares with its parent: it closes all
files that were open, those of the parent's database too, and leaves without clearing up.

Only the standard library is imported: a scheduler must be able to import this whatever is broken.
"""

import gc
import os
import select
import signal
import warnings
from collections.abc import Callable
from contextlib import suppress
from math import ceil
from typing import NoReturn

#: Bytes of what a child says went wrong; fewer than a pipe takes at once.
LONGEST_MESSAGE = 1_000
#: How long a child that was killed may take to go, in milliseconds; then it is left to the system.
FAREWELL = 200

_DONE, _FAILED = b"+", b"-"
#: Those that a parent may have handlers for, or may ignore.
_SIGNALS = (
    *(signal.SIGALRM, signal.SIGCHLD, signal.SIGHUP, signal.SIGINT, signal.SIGPIPE),
    *(signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2),
)


class NoAnswer(Exception):
    """The child failed or was too late; the text says which, in one line."""


def answer(ask: Callable[[], bytes], seconds: float) -> bytes:
    """What *ask* returns in a child process. Raises :class:`NoAnswer`, and OSError for no child."""
    written = os.memfd_create("answer")
    told, tell = os.pipe()
    try:
        child = _fork()
        if child == 0:
            _be_child(ask, written, tell, seconds)
        os.close(tell)
        tell = -1
        try:
            said = os.read(told, 1 + LONGEST_MESSAGE) if _ready(told, 1000 * seconds) else None
        finally:
            _end(child, told)
        return _understood(said, written, seconds)
    finally:
        for file in (written, told, tell):
            if file >= 0:
                os.close(file)


def _fork() -> int:
    with warnings.catch_warnings():
        # That a parent with threads may hold locks: the child takes none that they could hold.
        warnings.simplefilter("ignore", DeprecationWarning)
        return os.fork()


def _ready(file: int, milliseconds: float) -> bool:
    poll = select.poll()
    poll.register(file, select.POLLIN)
    return bool(poll.poll(ceil(milliseconds)))


def _end(child: int, told: int) -> None:
    """Let nothing of the child stay, unless the system itself cannot end it."""
    try:
        # With all that it has started, unless it was too young to be a group.
        for number in (-child, child):
            with suppress(ProcessLookupError):
                os.kill(number, signal.SIGKILL)
        # What it has said is read; the next that is heard is that it is gone.
        gone = _ready(told, FAREWELL)
        os.waitpid(child, 0 if gone else os.WNOHANG)
    except ChildProcessError:
        pass  # where the parent ignores its children, the system has taken it away


def _understood(said: bytes | None, written: int, seconds: float) -> bytes:
    if said is None:
        raise NoAnswer(f"no answer within {seconds:g} s")
    if not said:
        raise NoAnswer("the process that asks was killed")
    if said[:1] != _DONE:
        raise NoAnswer(said[1:].decode("utf-8", "replace"))
    parts, place = [], 0
    while part := os.pread(written, 1 << 20, place):
        parts.append(part)
        place += len(part)
    return b"".join(parts)


# -- the child --------------------------------------------------------------------------------


def _be_child(ask: Callable[[], bytes], written: int, tell: int, seconds: float) -> NoReturn:
    try:
        os.setpgid(0, 0)
        gc.freeze()
        gc.disable()
        _forget_parent(seconds)
        written, tell = _keep_only(written, tell)
        try:
            _write_all(written, ask())
            said = _DONE
        except BaseException as error:
            said = _FAILED + one_line(error).encode("utf-8", "replace")
        os.write(tell, said[: 1 + LONGEST_MESSAGE])
    finally:
        os._exit(0)


def _forget_parent(seconds: float) -> None:
    """Take the parent's signals for what they are, and end by one should the parent be gone."""
    for each in _SIGNALS:
        signal.signal(each, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, _SIGNALS)
    signal.setitimer(signal.ITIMER_REAL, seconds + 1)
    # Where memory runs out, it is not the scheduler that goes.
    with suppress(OSError), open("/proc/self/oom_score_adj", "w", encoding="ascii") as file:
        file.write("1000")


def _keep_only(written: int, tell: int) -> tuple[int, int]:
    """Close every file but these two, which get other numbers; nothing is heard or said."""
    first = 1 + max(written, tell, 4)
    os.dup2(written, first)
    os.dup2(tell, first + 1)
    nothing = os.open(os.devnull, os.O_RDWR)
    for stream in (0, 1, 2):
        os.dup2(nothing, stream)
    os.dup2(first, 3, inheritable=False)
    os.dup2(first + 1, 4, inheritable=False)
    # Not by their numbers: a process may be allowed a billion of them.
    for each in map(int, os.listdir("/proc/self/fd")):
        if each > 4:
            with suppress(OSError):
                os.close(each)
    return 3, 4


def _write_all(file: int, data: bytes) -> None:
    rest = memoryview(data)
    while rest:
        rest = rest[os.write(file, rest) :]


def one_line(error: BaseException) -> str:
    """What an error says, in one line; of what kind it is, where it is none of ours."""
    said = " ".join(str(error).split())
    if type(error).__module__.startswith("oar_accounting."):
        return said
    return f"{type(error).__name__}: {said}"

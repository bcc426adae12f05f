"""An answer from a child process: it comes whole, in time, or with a reason, and leaves nothing."""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from oar_accounting.errors import DatabaseError
from oar_accounting.schedulers.bounded import LONGEST_MESSAGE, NoAnswer, answer
from tests.test_oar3_order import nothing_left


@pytest.mark.parametrize("size", [0, 1, 4_096, 65_537, 5_000_000])
def test_an_answer_comes_whole(size: int) -> None:
    expected = os.urandom(size)
    with nothing_left():
        assert answer(lambda: expected, 30) == expected


def fails(error: BaseException) -> Callable[[], bytes]:
    """Something that raises."""

    def ask() -> bytes:
        raise error

    return ask


@pytest.mark.parametrize(
    ("ask", "why"),
    [
        (fails(DatabaseError("no\n database")), "no database"),
        (fails(ZeroDivisionError("of ours")), "ZeroDivisionError: of ours"),
        (fails(SystemExit(0)), "SystemExit: 0"),
        (fails(KeyboardInterrupt()), "KeyboardInterrupt: "),
        (fails(ValueError("é" * 2 * LONGEST_MESSAGE)), "ValueError: éé"),
        (lambda: os.abort(), "the process that asks was killed"),
        (lambda: os._exit(0), "the process that asks was killed"),
        (lambda: os.kill(os.getpid(), signal.SIGKILL), "the process that asks was killed"),
        (lambda: time.sleep(60), "no answer within 0.5 s"),
        (lambda: os.kill(os.getpid(), signal.SIGSTOP), "no answer within 0.5 s"),
        (lambda: "text", "TypeError"),
    ],
    # Those that pytest would make differ from process to process.
    ids=[
        *("ours", "another", "exit", "interrupt", "long", "abort", "leave", "killed"),
        *("sleep", "stopped", "text"),
    ],
)
def test_what_fails_says_why_and_leaves_nothing(ask: Callable[[], bytes], why: str) -> None:
    began = time.monotonic()
    with nothing_left(), pytest.raises(NoAnswer) as told:
        answer(ask, 0.5)
    assert str(told.value).startswith(why)
    assert len(str(told.value)) <= LONGEST_MESSAGE
    assert time.monotonic() - began < 3


def test_what_the_child_has_started_goes_with_it(tmp_path: Path) -> None:
    file = tmp_path / "pid"

    def ask() -> bytes:
        child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
        file.write_text(str(child.pid), encoding="ascii")
        return bytes(child.wait())

    with pytest.raises(NoAnswer, match="no answer"):
        answer(ask, 1)
    stat = Path("/proc", file.read_text(encoding="ascii"), "stat")
    deadline = time.monotonic() + 10
    while stat.exists() and stat.read_text(encoding="utf-8").rpartition(")")[2].split()[0] != "Z":
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_the_child_says_nothing_and_holds_nothing(capfd: pytest.CaptureFixture[str]) -> None:
    read, write = os.pipe()

    def ask() -> bytes:
        os.write(1, b"said")
        os.write(2, b"said")
        assert os.read(0, 10) == b""
        return " ".join(sorted(os.listdir("/proc/self/fd"))).encode()

    # 5 is that of the directory that is listed.
    assert answer(ask, 30) == b"0 1 2 3 4 5"
    os.close(read)
    os.close(write)
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("handler", [signal.SIG_IGN, lambda *_: None], ids=["ignored", "handled"])
def test_a_parent_that_ignores_its_children(handler: Any) -> None:
    before = signal.signal(signal.SIGCHLD, handler)
    try:
        with nothing_left():
            assert answer(lambda: b"here", 30) == b"here"
            with pytest.raises(NoAnswer):
                answer(lambda: os._exit(0), 30)
    finally:
        signal.signal(signal.SIGCHLD, before)


def test_signals_that_the_parent_blocks_end_the_child() -> None:
    blocked = {signal.SIGTERM, signal.SIGALRM}
    before = signal.pthread_sigmask(signal.SIG_BLOCK, blocked)
    try:
        assert answer(lambda: str(signal.pthread_sigmask(signal.SIG_BLOCK, ())).encode(), 30) == (
            b"set()"
        )
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def test_a_parent_with_threads() -> None:
    """They do not exist in the child, and what they hold it does not ask for."""
    over = threading.Event()
    threads = [threading.Thread(target=over.wait) for _ in range(5)]
    for each in threads:
        each.start()
    try:
        assert answer(lambda: str(threading.active_count()).encode(), 30) == b"1"
    finally:
        over.set()
        for each in threads:
            each.join()


def test_a_parent_that_is_gone_takes_the_child_along() -> None:
    code = """
import os, sys, time
from oar_accounting.schedulers.bounded import answer
def ask():
    os.write(4, b"")
    time.sleep(60)
print(os.getpid(), flush=True)
answer(ask, 1.0)
"""
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE) as parent:
        assert parent.stdout is not None
        parent.stdout.readline()
        children = Path(f"/proc/{parent.pid}/task/{parent.pid}/children")
        while not (found := children.read_text(encoding="ascii").split()):
            time.sleep(0.01)
        parent.kill()
    stat = Path("/proc", found[0], "stat")
    deadline = time.monotonic() + 10
    while stat.exists() and stat.read_text(encoding="utf-8").rpartition(")")[2].split()[0] != "Z":
        assert time.monotonic() < deadline
        time.sleep(0.05)

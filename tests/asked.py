"""Whoever may be asked for karma: services and libraries that answer, refuse, hang or break.

They stand for ours, in threads and processes of their own, so that what asks them can be watched.
"""

import json
import os
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from oar_accounting.stubs.oar3 import GREETING, digest_of

#: For what takes no time, on a machine with much else to do; in seconds.
PATIENCE = 20.0

#: Has the line to the one who asks.
Handler = Callable[[socket.socket], None]


def until(condition: Callable[[], object], within: float = PATIENCE) -> None:
    """Wait for the *condition*; fail where it does not come."""
    last = time.monotonic() + within
    while not condition():
        assert time.monotonic() < last, "it did not come to that"
        time.sleep(0.01)


def whole(*lines: object, facts: Mapping[str, str] | None = None, version: int = 8) -> bytes:
    """An answer with these lines; *facts* are files with what their digest is said to be."""
    if facts is None:
        facts = {__file__: digest_of(__file__)}
    files = [f"file {digest} {file}" for file, digest in facts.items()]
    head = [f"{GREETING} 0.1.0", *files, f"tables {version} {version}", ""]
    return "\n".join([*head, *map(str, lines), f"end {len(lines)}", ""]).encode()


def ending(last: str, facts: Mapping[str, str] | None = None) -> bytes:
    """An answer that says no more than this line."""
    return whole(facts=facts).replace(b"end 0\n", last.encode() + b"\n")


class Service:
    """A karma service that does with each question what it is told to."""

    def __init__(self, path: Path, handler: Handler) -> None:
        self.questions: list[Any] = []
        self._handler = handler
        self._open: list[socket.socket] = []
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(str(path))
        self._listener.listen(64)
        self._path = path
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                line, _ = self._listener.accept()
                self._open.append(line)
                threading.Thread(target=self._serve, args=(line,), daemon=True).start()

    def _serve(self, line: socket.socket) -> None:
        with suppress(OSError):
            self._handler(line)

    def close(self) -> None:
        """Hang up, and be gone."""
        for each in (self._listener, *self._open):
            # The thread that waits on it does not notice a closing.
            with suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
            each.close()
        self._path.unlink(missing_ok=True)


def question_of(line: socket.socket) -> bytes:
    """What is asked, to the end of its line."""
    parts = b""
    while not parts.endswith(b"\n") and (part := line.recv(1 << 16)):
        parts += part
    return parts


@contextmanager
def service(path: Path, *replies: bytes | Handler) -> Iterator[Service]:
    """A service at *path* that gives each of these answers in turn, and then the last for ever.

    A `Handler` may stand for an answer.
    """
    left = list(replies)

    def handler(line: socket.socket) -> None:
        reply = left.pop(0) if len(left) > 1 else left[0]
        if callable(reply):
            reply(line)
            return
        found.questions.append(json.loads(question_of(line)))
        line.sendall(reply)
        line.close()

    found = Service(path, handler)
    try:
        yield found
    finally:
        found.close()


def silent(line: socket.socket) -> None:
    """Read the question, and say nothing until the other side has gone."""
    question_of(line)
    line.recv(1)


def deaf(line: socket.socket) -> None:
    """Read nothing."""
    time.sleep(PATIENCE)


def dripping(reply: bytes, pause: float) -> Handler:
    """Say one byte after the other."""

    def say(line: socket.socket) -> None:
        question_of(line)
        for byte in reply:
            line.sendall(bytes([byte]))
            time.sleep(pause)

    return say


def endless(line: socket.socket) -> None:
    """Say an answer that has no end."""
    question_of(line)
    line.sendall(whole().partition(b"end")[0])
    while True:
        line.sendall(b"1\n" * 65536)


def slow_to_listen(seconds: float, reply: bytes | None) -> Handler:
    """Begin to read after some time, then answer or, without a *reply*, say nothing."""

    def hear(line: socket.socket) -> None:
        time.sleep(seconds)
        question_of(line)
        if reply is None:
            line.recv(1)
        else:
            line.sendall(reply)
            line.close()

    return hear


# -- the library -------------------------------------------------------------------------------

#: It notes what it was asked and with which words, before it does anything.
LIBRARY = """#!{python} -IS
import os, sys, time
asked = sys.stdin.read()
with open({log!r}, "a", encoding="utf-8") as file:
    file.write(repr((sys.argv[1:], asked)) + chr(10))
{code}
"""


class Library:
    """A program in the place of the library's Python."""

    def __init__(self, directory: Path) -> None:
        self.python = directory / "python"
        self._log = directory / "library.log"

    def does(self, code: str) -> None:
        """Let it run this."""
        text = LIBRARY.format(python=sys.executable, log=str(self._log), code=code)
        self.python.write_text(text, encoding="utf-8")
        self.python.chmod(0o755)

    def says(self, reply: bytes) -> None:
        """Let it answer so."""
        self.does(f"sys.stdout.buffer.write({reply!r})")

    def hangs(self) -> None:
        """Let it never answer."""
        self.does("time.sleep(600)")

    def calls(self) -> list[tuple[list[str], str]]:
        """How it was called, and what it was asked."""
        if not self._log.exists():
            return []
        return [eval(line) for line in self._log.read_text(encoding="utf-8").splitlines()]


# -- what is left ------------------------------------------------------------------------------


def is_alive(process: int) -> bool:
    """False where it has ended, also where nobody has heard of that yet."""
    try:
        stat = Path(f"/proc/{process}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return False
    return stat.rpartition(")")[2].split()[0] not in "ZX"


def dead_soon(process: int, within: float = PATIENCE) -> None:
    """Wait until the process has ended."""
    until(lambda: not is_alive(process), within)


def children() -> list[str]:
    """The processes that this one has started and not heard the end of."""
    return Path(f"/proc/self/task/{os.getpid()}/children").read_text(encoding="ascii").split()


def open_files() -> list[str]:
    """The numbers of what is open here."""
    return sorted(os.listdir("/proc/self/fd"))

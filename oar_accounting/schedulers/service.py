"""The karma service: answers schedulers through a Unix socket, without starting up each time.

Nothing is remembered that could be out of date: databases are read for every question. When the
files of the library or its settings change, whoever asks can tell so from the answer; the service
itself ends when its library has changed, and is started again by whoever looks after it.
"""

import fcntl
import gc
import json
import os
import select
import socket
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from threading import BoundedSemaphore, Thread

from oar_accounting.errors import ServiceError
from oar_accounting.schedulers.answers import Answers
from oar_accounting.stubs.oar3 import after, wait_until

#: Questions that are answered at the same time; who comes then is sent away at once.
MOST_AT_ONCE = 8
#: Bytes of a question: room for a million jobs.
LONGEST_QUESTION = 1 << 24
#: Seconds that somebody may take to ask, or to listen.
PATIENCE = 10.0
#: Seconds between looks at the library.
LOOK = 2.0


def serve(path: Path, library: str) -> None:
    """Answer until the library is no longer that of *library*, its digest.

    Raises :class:`ServiceError` where nobody can be heard.
    """
    # What a question leaves behind is cleared away when it is answered, not while somebody waits.
    gc.freeze()
    gc.disable()
    with Answers(library) as answers, listening(path) as listener:
        free = BoundedSemaphore(MOST_AT_ONCE)
        while not answers.is_stale():
            if not select.select([listener], [], [], LOOK)[0]:
                continue
            line, _ = listener.accept()
            if free.acquire(blocking=False):
                Thread(target=_serve_one, args=(answers, line, free), daemon=True).start()
            else:
                line.close()


@contextmanager
def listening(path: Path) -> Iterator[socket.socket]:
    """A socket at *path* that only its owner may use; gone at the end.

    Raises :class:`ServiceError` where another service is at work there, or none can be.
    """
    try:
        # The lock goes with the process that has it, however that ends; a socket's file stays.
        with open(path.with_name(f"{path.name}.lock"), "w", encoding="ascii") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            path.unlink(missing_ok=True)
            with closing(socket.socket(socket.AF_UNIX)) as listener:
                before = os.umask(0o177)
                try:
                    listener.bind(str(path))
                finally:
                    os.umask(before)
                listener.listen(64)
                try:
                    yield listener
                finally:
                    path.unlink(missing_ok=True)
    except BlockingIOError:
        raise ServiceError(f"{path}: a karma service is at work there already") from None
    except OSError as error:
        raise ServiceError(f"{path}: cannot listen there: {error.strerror or error}") from None


def _serve_one(answers: Answers, line: socket.socket, free: BoundedSemaphore) -> None:
    # Whoever asked may be gone, or have said anything.
    with line, suppress(OSError, ValueError, RecursionError):
        try:
            reply = answers.reply(json.loads(_question(line)))
            line.settimeout(PATIENCE)
            # A name of a file may hold what is no text.
            line.sendall(reply.encode("utf-8", "backslashreplace"))
        finally:
            # Before the line ends: then the same one may ask again.
            free.release()
    gc.collect()


def _question(line: socket.socket) -> bytes:
    """One line. Raises ValueError where it is too long, OSError where it does not come in time."""
    parts, length = [], 0
    until = after(PATIENCE)
    while length <= LONGEST_QUESTION and wait_until(until, line) and (part := line.recv(1 << 18)):
        parts.append(part)
        length += len(part)
        if part.endswith(b"\n"):
            return b"".join(parts)
    raise ValueError("no question")

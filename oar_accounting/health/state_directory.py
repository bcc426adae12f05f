"""Our state directory on the OAR server: the hook's locks, and who decided OAR's rounds.

A program that runs there as the user oar must be able to write. The mode of the directory is not
all: its file system may be full, or be mounted for reading only.
"""

import os
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from shlex import quote
from typing import TextIO

from oar_accounting.health import rounds
from oar_accounting.health.records import Finding, Rounds

_SUBJECT = "state directory"
#: Where it is, unless the environment says otherwise.
USUAL = "var/lib/oar-accounting"
#: What must be left of the file system, bytes: the two files of rounds are half of it.
LEAST = 1_048_576


def state_directory(root: Path, environ: Mapping[str, str]) -> Path:
    """Where it is, below *root* unless the environment says otherwise."""
    return Path(environ.get("OAR_ACCOUNTING_STATE") or root / USUAL)


def findings(state: Path) -> Iterator[Finding]:
    """What keeps everybody from writing there, whatever the modes are; nothing where it is not."""
    try:
        found = os.statvfs(state)
    except OSError:
        return
    left = found.f_bavail * found.f_frsize
    look = f"df {quote(str(state))}"
    if found.f_flag & os.ST_RDONLY:
        said = f"{state} is on a file system that is mounted for reading only"
        yield _bad(said, f"findmnt --target {quote(str(state))}")
    elif left < LEAST:
        yield _bad(f"the file system of {state} is full: {left // 1024:,} KiB are left", look)
    # Some file systems have as many as anybody wants, and tell 0 of 0.
    elif found.f_files and not found.f_favail:
        yield _bad(f"the file system of {state} is full: no more files can be made there", look)


def _bad(said: str, mend: str) -> Finding:
    harm = "no job is recorded when it ends, and nobody will know what became of OAR's rounds"
    return Finding("bad", _SUBJECT, f"{said}; {harm}", mend)


def read_rounds(state: Path, now: int) -> Rounds:
    """What became of OAR's rounds in the day before *now*. Raises OSError."""
    with ExitStack() as files:
        newer, older = (
            _opened(files, state / name) for name in (rounds.ROUNDS_FILE, rounds.OLDER_FILE)
        )
        # It was renamed in the meantime: the one is the other.
        if newer is not None and older is not None and _is_same(newer, older):
            older = None
        known = [[] if file is None else list(rounds.read(file)) for file in (older, newer)]
    return rounds.summary(known[0], known[1], now)


def _opened(files: ExitStack, file: Path) -> TextIO | None:
    try:
        return files.enter_context(file.open(encoding="utf-8", errors="replace"))
    except FileNotFoundError:
        return None


def _is_same(one: TextIO, other: TextIO) -> bool:
    return os.path.samestat(os.fstat(one.fileno()), os.fstat(other.fileno()))

"""What OAR 3's scheduler calls: the order of its jobs, and the sums that its own karma is made of.

``sort_jobs`` is what CUSTOM_JOB_SORTING names in ``oar.conf`` where JOB_PRIORITY is CUSTOM;
``count_usage`` is what EXTRA_METASCHED names. An error of either would end the scheduler, and no
job of any queue would start. So neither raises. Within one limit, the karma service is asked, else
the library in a process of its own, else the last good answer is repeated, else the jobs go back in
the order they came in, or OAR's own sums count. One line in OAR's log says why. The jobs and the
session that OAR hands over are not touched: what is assigned to a job is written to OAR's table,
with a commit for each.

``oar-accounting stubs install`` copies this file into the environment of OAR 3, where the library
is not, and fills in the lines that end with ``# stub: name``. So it imports the standard library
alone, and nothing that Python 3.10 does not have.
"""

import fcntl
import json
import logging
import os
import select
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass
from hashlib import sha256
from typing import Any

#: Of this file, where it was copied.
VERSION = "0"  # stub: version
#: The Python of the library; empty for the one that runs this.
PYTHON = ""  # stub: python
SOCKET = "/run/oar-accounting/karma.sock"  # stub: socket
#: The directory of what is remembered from one round to the next.
STATE = "/var/lib/oar-accounting"  # stub: state
#: Seconds that a scheduler waits for an answer.
LIMIT = 5.0  # stub: limit
#: Seconds for which an answer may be repeated.
LAST_ANSWER = 3600.0  # stub: last_answer

SHORTEST, LONGEST = 0.1, 600.0
#: Part of the time that one who is asked may take, which its steps on a database have together
#: with the rest: so that the reason arrives before nobody waits for it any more.
STEP = 0.8
#: How long a process that was killed may take to go, in seconds; then it is left to the system.
FAREWELL = 0.2
#: The first words of every answer.
GREETING = "oar-accounting-karma 1"
#: Bytes of an answer: room for a million jobs.
LONGEST_ANSWER = 1 << 26
#: Seconds that a clock may have been set back since the last answer.
SET_BACK = 60.0
#: Bytes of the list of rounds; then a new one is begun, and the one before is kept.
MOST_ROUNDS = 256 * 1024

#: What a platform, of which every round has its own, is marked with: it has been shown to us, or
#: none could answer.
SEEN, FAILED = "oar_accounting_seen", "oar_accounting_failed"

#: Of OAR's own logger, which writes to its LOG_FILE.
_log = logging.getLogger("oar.accounting")


class BadConfig(Exception):
    """The value in oar.conf cannot be used; the text says what was expected."""


class NoAnswer(Exception):
    """Nobody answered in time, or what came is no answer; the text says why, in one line."""


class Refused(NoAnswer):
    """The reason is one that any other would give: settings, tables, a database."""


@dataclass(frozen=True)
class Config:
    """The value that ``oar.conf`` gives an entry point, a JSON object."""

    limit: float = LIMIT  #: seconds
    last_answer: float = LAST_ANSWER  #: seconds
    config: str | None = None  #: our settings; None for where they always are
    oar_conf: str | None = None  #: OAR's settings; likewise
    site: str | None = None
    show: bool | str = False  #: write what users see; a text is the settings to do it under
    metrics: Mapping[str, float] | None = None  #: how much each counts in sums; None for an order

    def where(self) -> dict[str, str]:
        """The settings that whoever is asked must read, as this process would find them."""
        environment = {"oar_conf": "OARCONFFILE", "config": "OAR_ACCOUNTING_CONF"}
        found = {"site": self.site}
        for key, variable in environment.items():
            if file := getattr(self, key) or os.environ.get(variable):
                # Whoever is asked may be in another directory.
                found[key] = os.path.abspath(file)
        return {key: value for key, value in found.items() if value is not None}


@dataclass(frozen=True)
class Answer:
    """The lines of an answer, and who gave it."""

    lines: list[str]
    who: str  #: ``service`` or ``library``
    why: str  #: why it was not the service


# -- the entry points -------------------------------------------------------------------------


def sort_jobs(  # noqa: PLR0913 - OAR 3 calls it so
    queues: Sequence[str],
    now: int,
    jids: Sequence[int],
    jobs: Mapping[int, Any],
    config: object,
    plt: object,
) -> list[int]:
    """Return the ids *jids* in the order of our karma as of *now*, epoch seconds.

    *config*: CUSTOM_JOB_SORTING_CONFIG of ``oar.conf``, a JSON object with the keys of `Config`.
    Jobs that our side does not know of come last. After a failure nobody is asked again in the same
    round: the last answers are repeated where they are not too old; else the jobs stay as they are.
    Never raises.
    """
    received = list(jids)
    try:
        return _sorted(queues, now, received, config, plt)
    except Exception as error:
        _warn(f"jobs of {_named(queues)} stay as they are", error)
        return received


def _sorted(
    queues: Sequence[str], now: int, received: list[int], config: object, plt: object
) -> list[int]:
    began, this = time.monotonic(), Round(now)
    try:
        read = read_config(config, "CUSTOM_JOB_SORTING_CONFIG")
    except BadConfig as error:
        this.note("own", began, error)
        raise
    memory = Memory(question_of(queues, read.where()))
    if getattr(plt, FAILED, False) or this.has_failed():
        return _repeated(memory, read, received)[0]
    try:
        jobs = list(map(int, received))
        request = {"ask": "order", "now": int(now), "jobs": jobs, **read.where()}
        answer = ask(request, read.limit)
        known = _known(answer, received)
    except Exception as error:
        with suppress(Exception):
            setattr(plt, FAILED, True)
        this.fail()
        ordered, age = _repeated(memory, read, received)
        done = "stay as they are" if age is None else f"keep the order of {age:.0f} s ago"
        _warn(f"jobs of {_named(queues)} {done}", error)
        this.note("own" if age is None else "last", began, error)
        return ordered
    memory.keep(known)
    this.note(answer.who, began, answer.why)
    if read.show:
        _show(read)
    return _merged(known, received)


def _known(answer: "Answer", received: Sequence[int]) -> list[int]:
    """The jobs of an answer, in its order. Raises :class:`NoAnswer` where it is about others."""
    known = list(map(int, answer.lines))
    if len(set(known)) < len(known) or not set(known) <= set(received):
        raise NoAnswer("the answer is not about these jobs")
    return known


def count_usage(  # noqa: PLR0913 - OAR 3 calls it so
    session: object,
    prev_queues: object,
    plt: Any,
    scheduled_jobs: object,
    all_slot_sets: object,
    job_security_time: object,
    queues: object,
    now: object,
    config: object,
) -> None:
    """Let OAR's own FAIRSHARE and MULTIFACTOR see our sums in the place of its accounting's.

    *config*: EXTRA_METASCHED_CONFIG of ``oar.conf``, a JSON object with the keys of `Config` but
    ``show``, and ``metrics`` as ``{"core": 1, "gpu": 20}``, or one as ``"metric": "core"``. Never
    raises.
    """
    try:
        # OAR calls once for every group of queues, with the same platform.
        if not hasattr(plt, SEEN):
            setattr(plt, SEEN, True)
            sums = _Sums(read_metrics(config, "EXTRA_METASCHED_CONFIG"))
            theirs = [getattr(plt, name) for name in ASKED_BY]
            for place, name in enumerate(ASKED_BY):
                setattr(plt, name, _Replaced(sums, place, theirs[place]))
    except Exception as error:
        _warn("OAR's own sums count", error)


def _merged(known: Sequence[int], received: Sequence[int]) -> list[int]:
    """The jobs *received*: those that are known in that order, the others behind them."""
    place = {jid: number for number, jid in enumerate(known)}
    return sorted(received, key=lambda jid: place.get(jid, len(place)))


def _repeated(
    memory: "Memory", read: Config, received: Sequence[int]
) -> tuple[list[int], float | None]:
    """The jobs in the order of the last good answer, and its age; as they are where there is none.

    A job that the answer does not name is behind those that it does.
    """
    try:
        known, age = memory.recall(read.last_answer)
    except Exception:
        return list(received), None
    return _merged(known, received), age


def _warn(what: str, error: Exception) -> None:
    # A name or a message may hold anything; this is one line.
    with suppress(Exception):
        why = str(error) if _is_ours(error) else _shown(error)
        line = " ".join(f"{what}: {why}".split())
        _log.warning("oar_accounting: %s", line.encode("utf-8", "backslashreplace").decode())


def _shown(error: Exception) -> str:
    return f"{type(error).__name__}: {error}"


def _named(queues: Sequence[str]) -> str:
    try:
        return ", ".join(map(str, queues))
    except TypeError:
        return repr(queues)


# -- oar.conf ---------------------------------------------------------------------------------


def read_config(config: object, where: str) -> Config:
    """Check the value of *where*. Raises :class:`BadConfig`."""
    return Config(**_checked(_object(config, where), where, without=("metrics",)))


def read_metrics(config: object, where: str) -> Config:
    """Check the same, and with how much each metric counts. Raises :class:`BadConfig`."""
    values = _object(config, where)
    if "metric" in values and "metrics" not in values:
        if not isinstance(values["metric"], str):
            raise BadConfig(f'{where}: "metric" must be a name')
        values["metrics"] = {values.pop("metric"): 1}
    metrics = values.pop("metrics", None)
    if not isinstance(metrics, dict) or not metrics or not all(map(_is_weight, metrics.values())):
        raise BadConfig(
            f'{where}: "metrics" must be an object like {{"core": 1, "gpu": 20}} with numbers '
            'above 0, or "metric" a name'
        )
    return Config(**_checked(values, where, without=("metrics", "show")), metrics=metrics)


def _object(config: object, where: str) -> dict[Any, Any]:
    # OAR makes a number of what looks like one, and "" of what is not set.
    if config in (None, ""):
        return {}
    try:
        found = json.loads(config) if isinstance(config, str) else None
    except ValueError:
        found = None
    if not isinstance(found, dict):
        raise BadConfig(f'{where} must be a JSON object like {{"limit": 5}}, not {config!r:.100}')
    return found


def _checked(values: dict[str, Any], where: str, without: Sequence[str] = ()) -> dict[str, Any]:
    known = [name for name in Config.__dataclass_fields__ if name not in without]
    for key, value in values.items():
        if key not in known:
            raise BadConfig(f"{where}: unknown key {key!r}; known keys are {', '.join(known)}")
        if key == "limit" and not (_is_weight(value) and SHORTEST <= value <= LONGEST):
            raise BadConfig(f"{where}: limit must be seconds from {SHORTEST:g} to {LONGEST:g}")
        if key == "last_answer" and not (value == 0 or _is_weight(value)):
            raise BadConfig(f"{where}: last_answer must be seconds, 0 for never")
        if key == "show" and not isinstance(value, bool | str):
            raise BadConfig(f"{where}: show must be true, false or a file of settings")
        if key in ("config", "oar_conf", "site") and not isinstance(value, str):
            raise BadConfig(f"{where}: {key} must be a text")
    return values


def _is_weight(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 < value < 1e12


# -- who is asked -----------------------------------------------------------------------------


def ask(request: Mapping[str, Any], limit: float) -> Answer:
    """Ask the service, else the library, within *limit* seconds. Raises :class:`NoAnswer`."""
    until = after(limit)
    why = ""
    if os.path.exists(SOCKET):
        try:
            return Answer(ask_service(request, limit / 2, SOCKET), "service", "")
        except Refused:
            raise
        except (NoAnswer, OSError) as error:
            why = f"the karma service: {_silence(error)}"
    try:
        return Answer(_ask_library(request, until - time.monotonic()), "library", why)
    except (NoAnswer, OSError) as error:
        raise NoAnswer("; ".join(filter(None, (_silence(error), why)))) from None


def _silence(error: Exception) -> str:
    if isinstance(error, NoAnswer):
        return str(error)
    return "no answer in time" if isinstance(error, TimeoutError) else _shown(error)


def ask_service(request: Mapping[str, Any], seconds: float, path: str = SOCKET) -> list[str]:
    """Ask the karma service at *path*. Raises :class:`NoAnswer`, OSError where nobody answers."""
    until = after(seconds)
    with socket.socket(socket.AF_UNIX) as line:
        wait_until(until, line)
        line.connect(path)
        wait_until(until, line)
        line.sendall(json.dumps({**request, "limit": STEP * seconds}).encode() + b"\n")
        parts, length = [], 0
        while wait_until(until, line) and (part := line.recv(1 << 18)):
            parts.append(part)
            if (length := length + len(part)) > LONGEST_ANSWER:
                raise NoAnswer("the answer is too long")
    return read_answer(b"".join(parts), check=True)


def after(seconds: float) -> float:
    """The instant so many seconds from now, for `wait_until`."""
    return time.monotonic() + seconds


def wait_until(until: float, line: socket.socket) -> bool:
    """Let the next wait for the line end by then. Raises TimeoutError where that has passed."""
    if (left := until - time.monotonic()) <= 0:
        raise TimeoutError
    line.settimeout(left)
    return True


def read_answer(reply: bytes, *, check: bool) -> list[str]:
    """The lines of an answer that is whole. Raises :class:`NoAnswer`.

    With *check*, also where it was given with another library, other settings or other tables than
    those that are there now.
    """
    if not reply:
        raise NoAnswer("the answer is empty")
    head, _, body = reply.decode("utf-8", "replace").partition("\n\n")
    greeting, *facts = head.split("\n")
    if not greeting.startswith(f"{GREETING} "):
        raise NoAnswer("the answer cannot be read")
    if check:
        _check_facts(facts)
    *lines, last, nothing = ["", *body.split("\n")]
    kind, _, text = last.partition(" ")
    if kind in ("refused", "broken") and text and lines == [""] and not nothing:
        raise (Refused if kind == "refused" else NoAnswer)(text)
    if kind != "end" or nothing or text != str(len(lines) - 1):
        raise NoAnswer("the answer has no end")
    return lines[1:]


def _check_facts(facts: Sequence[str]) -> None:
    if not any(fact.startswith("file ") for fact in facts):
        raise NoAnswer("the answer says not by which library")
    for fact in facts:
        kind, first, second = [*fact.split(" ", 2), "", ""][:3]
        if kind == "file" and digest_of(second) != first:
            raise NoAnswer(f"it was started before {second} changed")
        if kind == "tables" and first != second:
            raise NoAnswer(f"the tables are in version {first}, it knows version {second}")


def digest_of(file: str) -> str:
    """SHA-256 of what a file holds; ``-`` where it cannot be read."""
    try:
        with open(file, "rb") as opened:
            return sha256(opened.read()).hexdigest()
    except (OSError, ValueError):
        return "-"


def _ask_library(request: Mapping[str, Any], seconds: float) -> list[str]:
    """Ask in a process of its own, within a time that nothing can stretch.

    Time-outs bound most waits for a database, but not a resolver of names, a server that is frozen,
    a file system that hangs, a loop of our own, or a crash; the end of a process does.
    """
    # Not pipes: something that outlives the process would keep them open.
    with (
        closing(_nameless("request")) as asked,
        closing(_nameless("answer")) as answer,
        closing(_nameless("errors")) as errors,
    ):
        asked.write(json.dumps({**request, "limit": STEP * seconds}).encode())
        asked.seek(0)
        # Where the library shares this environment, its variables may say where the library is;
        # not where the scheduler happens to be.
        python = [PYTHON, "-I"] if PYTHON else [sys.executable, "-P"]
        words = ["-m", "oar_accounting.schedulers.answer", f"{seconds + 1:.0f}"]
        child = subprocess.Popen(
            [*_LIMITED, *python, *words],
            stdin=asked,
            stdout=answer,
            stderr=errors,
            start_new_session=True,
        )
        status = _end(child, seconds)
        if status is None:
            raise NoAnswer(f"no answer within {seconds:.2g} s")
        reply, text = _end_of(answer, LONGEST_ANSWER), _end_of(errors, 4096)
    try:
        return read_answer(reply, check=False)
    except Refused:
        raise
    except NoAnswer:
        last = text.decode("utf-8", "replace").strip().rpartition("\n")[2]
        if reply and not status:
            raise
        raise NoAnswer(f"the library: {last or _ended(status)}") from None


#: Runs a program that may not write more than that to a file, nor more than it might before. Who
#: starts another waits until its file is read, and as long as that of the library may take; the
#: shell's is always at hand.
_LIMITED = ("/bin/sh", "-c", f'ulimit -f {LONGEST_ANSWER // 512} 2>&-; exec "$@"', "sh")


def _nameless(name: str) -> Any:
    """A file that goes with the last who has it open; in memory, if the system has such files."""
    try:
        return open(os.memfd_create(name), "w+b", buffering=0)
    except (OSError, AttributeError):
        return tempfile.TemporaryFile(buffering=0)


def _end_of(file: Any, most: int) -> bytes:
    size = os.fstat(file.fileno()).st_size
    return os.pread(file.fileno(), most, max(size - most, 0))


def _end(child: "subprocess.Popen[bytes]", seconds: float) -> int | None:
    """The status with which a child ended; None where it had to be ended. Nothing of it stays."""
    ended = False
    try:
        ended = _await(child, seconds)
    finally:
        # With all that it has started; before its end is heard of, and its number is another's.
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(child.pid, signal.SIGKILL)
        with suppress(subprocess.TimeoutExpired):
            child.wait(FAREWELL)
    return child.returncode if ended else None


def _await(child: "subprocess.Popen[bytes]", seconds: float) -> bool:
    """Whether a child ends in time; by the system's own word where there is one, at once."""
    try:
        handle = os.pidfd_open(child.pid)
    except (OSError, AttributeError):
        with suppress(subprocess.TimeoutExpired):
            child.wait(max(seconds, 0))
        return child.returncode is not None
    try:
        poll = select.poll()
        poll.register(handle, select.POLLIN)
        return bool(poll.poll(max(1000 * seconds, 0)))
    finally:
        os.close(handle)


def _ended(status: int) -> str:
    how = f"signal {-status}" if status < 0 else f"exit code {status}"
    return f"its process ended with {how}"


# -- from one round to the next ---------------------------------------------------------------


def _state(name: str) -> str:
    return os.path.join(os.environ.get("OAR_ACCOUNTING_STATE") or STATE, name)


class Round:
    """A scheduling round. Where one process serves each group of queues, several share one."""

    def __init__(self, now: object) -> None:
        """*now*: the instant of the round, which all its processes are given."""
        self._now = now

    def has_failed(self) -> bool:
        """True where nobody answered another process of this round."""
        try:
            return _read(_state("failed")) == self._name()
        except (OSError, ValueError, IndexError):
            return False

    def fail(self) -> None:
        """Let the other processes of this round not wait for the limit again."""
        with suppress(OSError, ValueError, IndexError):
            _write(_state("failed"), self._name())

    def note(self, who: str, began: float, why: object) -> None:
        """Write down who decided the order, and why nobody better did; the doctor reads it."""
        text = _shown(why) if isinstance(why, Exception) and not _is_ours(why) else str(why)
        waited = time.monotonic() - began
        line = f"{int(time.time())} {who} {waited:.3f} {' '.join(text.split())[:1000]}\n"
        with suppress(OSError):
            file = _state("rounds")
            with open(file, "ab", buffering=0, opener=_open_now) as opened:
                opened.write(line.encode("utf-8", "replace"))
                if opened.tell() > MOST_ROUNDS:
                    _begin_anew(file, opened.fileno())

    def _name(self) -> str:
        """The process that called this one and began at that time, and the instant it gave."""
        parent = os.getppid()
        with open(f"/proc/{parent}/stat", encoding="utf-8", errors="replace") as file:
            began = file.read().rpartition(")")[2].split()[19]
        return f"{parent} {began} {self._now}"


def _is_ours(error: object) -> bool:
    return isinstance(error, NoAnswer | BadConfig)


def _begin_anew(file: str, handle: int) -> None:
    """Keep the list that is open as the one before, unless another process has done that."""
    fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    if os.path.samestat(os.stat(file), os.fstat(handle)):
        os.replace(file, f"{file}.1")


def question_of(queues: Sequence[str], where: Mapping[str, str]) -> list[object]:
    """What must be the same for the order of some jobs to hold for others."""
    return ["order", list(map(str, queues)), dict(where)]


class Memory:
    """The last good answer to a question."""

    def __init__(self, question: Sequence[object]) -> None:
        """*question*: what must be the same for the answer to hold."""
        name = sha256(json.dumps(question, sort_keys=True).encode()).hexdigest()[:16]
        self._file = _state(f"last-{name}")

    def keep(self, known: Sequence[int]) -> None:
        """Remember the order of these jobs."""
        with suppress(OSError):
            _write(self._file, f"{' '.join(map(str, known))} end\n")

    def recall(self, seconds: float) -> tuple[list[int], float]:
        """The order and its age. Raises OSError or ValueError where there is none so young."""
        *known, end = _read(self._file).split()
        age = time.time() - os.stat(self._file).st_mtime
        if not seconds or not -SET_BACK <= age <= seconds or end != "end":
            raise ValueError("too old")
        return list(map(int, known)), max(age, 0.0)


def _open_now(file: str, flags: int) -> int:
    """Open a file without waiting for whoever else has it open, whatever it is."""
    return os.open(file, flags | os.O_NONBLOCK, 0o600)


def _read(file: str) -> str:
    with open(file, encoding="utf-8", opener=_open_now) as opened:
        return opened.read(LONGEST_ANSWER)


def _write(file: str, text: str) -> None:
    """Replace a file at once."""
    handle, name = tempfile.mkstemp(dir=os.path.dirname(file), prefix=".new-")
    try:
        with open(handle, "w", encoding="utf-8") as opened:
            opened.write(text)
        os.replace(name, file)
    except BaseException:
        with suppress(OSError):
            os.unlink(name)
        raise


# -- what users see ---------------------------------------------------------------------------

#: The processes that let users see it: one that was forked from such a one has not.
_started: list[int] = []


def _show(read: Config) -> None:
    """Start ``show-karma``, which waits for the end of this process; OAR writes until then."""
    if os.getpid() in _started:
        return
    try:
        options = read.where() | ({"config": read.show} if isinstance(read.show, str) else {})
        words = [f"--{key.replace('_', '-')}={value}" for key, value in options.items()]
        python = [PYTHON, "-I"] if PYTHON else [sys.executable, "-P"]
        nothing = [(os.POSIX_SPAWN_OPEN, stream, os.devnull, os.O_RDWR, 0) for stream in (0, 1, 2)]
        command = [*python, "-m", "oar_accounting.cli", *words]
        os.posix_spawn(
            command[0],
            [*command, "show-karma", "--after", str(os.getpid()), "--syslog"],
            os.environ,
            file_actions=nothing,
            setsid=True,
        )
        _started.append(os.getpid())
    except Exception as error:
        _warn("users do not see this karma", error)


# -- the sums ---------------------------------------------------------------------------------

#: The methods of OAR's platform that its karma asks, in the order of an answer.
ASKED_BY = (
    "get_sum_accounting_window",
    "get_sum_accounting_by_project",
    "get_sum_accounting_by_user",
)


class _Sums:
    """Our sums of a scheduling round; once they cannot be had, OAR's own count until its end."""

    def __init__(self, read: Config) -> None:
        self._read = read
        self._known: dict[tuple[tuple[str, ...], int, int], list[Any]] = {}
        self._failed = False

    def of(self, queues: Sequence[str], start: int, stop: int) -> list[Any] | None:
        """Of all, by project and by user, each as asked and used; None where OAR's own count."""
        if self._failed:
            return None
        try:
            key = (tuple(queues), int(start), int(stop))
            if key not in self._known:
                self._known[key] = self._ask(*key)
            return self._known[key]
        except Exception as error:
            self._failed = True
            _warn("OAR's own sums count", error)
            return None

    def _ask(self, queues: Sequence[str], start: int, stop: int) -> list[Any]:
        began = time.monotonic()
        request = {
            "ask": "sums",
            "now": stop,
            "start": start,
            "queues": queues,
            "metrics": self._read.metrics,
        }
        try:
            answer = ask({**request, **self._read.where()}, self._read.limit)
            found = _pairs(answer.lines)
        except Exception as error:
            Round(stop).note("own", began, error)
            raise
        Round(stop).note(answer.who, began, answer.why)
        return found


def _pairs(lines: Sequence[str]) -> list[Any]:
    """The sums of an answer: asked and used, of each of `ASKED_BY`. Raises :class:`NoAnswer`."""
    with suppress(AttributeError, TypeError, ValueError):
        (line,) = lines
        window, by_project, by_user = found = json.loads(line)
        amounts = list(window)
        for asked, used in (by_project, by_user):
            amounts += [*asked.values(), *used.values()]
        if len(window) == 2 and all(map(_is_amount, amounts)):
            return list(found)
    raise NoAnswer("the answer is not one of sums")


def _is_amount(value: object) -> bool:
    return isinstance(value, int | float) and 0 < value < float("inf")


class _Replaced:
    """One of OAR's methods, answered by our sums."""

    def __init__(self, sums: _Sums, place: int, theirs: Callable[..., Any]) -> None:
        self._sums = sums
        self._place = place
        self._theirs = theirs

    def __call__(self, session: object, queues: Sequence[str], start: int, stop: int) -> Any:
        found = self._sums.of(queues, start, stop)
        if found is None:
            return self._theirs(session, queues, start, stop)
        return tuple(found[self._place])

"""Answers to what schedulers ask, as text, and on what they rest.

An answer begins with facts that whoever asked can check: what this library and the settings that
it read are, by the SHA-256 of files, and in which version the tables are. After an empty line come
a line for each job, the next to start first, and ``end`` with their number; or one line,
``refused`` or ``broken``, with the reason: ``refused`` where anybody else would find the same. A
job's line is its id, and its karma where the jobs of a queue were asked for.
"""

import json
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from threading import Lock
from typing import Any, Self

from sqlalchemy import Engine

from oar_accounting.database import dialects
from oar_accounting.errors import AccountingError, SchemaError, SettingsError
from oar_accounting.karma.fair_share import FairShare
from oar_accounting.karma.known import KnownAccounts
from oar_accounting.karma.report import KarmaReport
from oar_accounting.ledger import schema
from oar_accounting.ledger.ledger import Ledger
from oar_accounting.oar.snapshot import OarJobs
from oar_accounting.schedulers.library import library_file
from oar_accounting.settings.load import Settings, load_settings
from oar_accounting.settings.scheduler import with_its_login
from oar_accounting.stubs.oar3 import GREETING, digest_of

#: Sites whose databases are kept open at the same time; more of them are for a mistake.
MOST_SITES = 8
#: Seconds that a step on a database may take where the question does not say so.
STEP_LIMIT = 5.0

#: So often settings may change while they are read.
CHANGES = 5

#: What says which settings are meant, in the order of the key of a site.
WHERE = ("oar_conf", "config", "site")

Question = Mapping[str, Any]

#: What may be asked, and what must be said with it.
NEEDED_KEYS: Mapping[str, Mapping[str, type]] = {
    "order": {"now": int},
    "ping": {},
    "sums": {"now": int, "start": int, "queues": list, "metrics": dict},
}


class Answers:
    """Whoever answers, with databases and accounts at hand for the next question."""

    def __init__(self, library: str | None = None) -> None:
        """*library*: its digest before any of it was imported; see `library_digest`."""
        self._sites: dict[tuple[Any, ...], _Site] = {}
        self._lock = Lock()
        self._file = library_file()
        self._library = digest_of(self._file) if library is None else library

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for site in self._sites.values():
            site.close()

    def is_stale(self) -> bool:
        """True where the files of the library are no longer those that are at work."""
        # A file that cannot be read is one that is being replaced. A service that began in the
        # meantime has found none, and took the package itself for it.
        is_other = library_file() != self._file or digest_of(self._file) != self._library
        return self._library == "-" or is_other

    def reply(self, question: object) -> str:
        """Answer a question, whatever it is."""
        facts = [f"file {self._library} {self._file}"]
        try:
            body = self._answer(_checked(question), facts)
        except AccountingError as error:
            body = f"refused {_one_line(error)}\n"
        except Exception as error:
            body = f"broken {type(error).__name__}: {_one_line(error)}\n"
        return "\n".join([f"{GREETING} {_version()}", *facts, "", body])

    def _answer(self, question: Question, facts: list[str]) -> str:
        if question["ask"] == "ping":
            return "end 0\n"
        limit = float(question.get("limit", STEP_LIMIT))
        site = self._site(question, limit)
        facts += [f"file {digest} {file}" for file, digest in site.digests.items()]
        if not site.lock.acquire(timeout=limit):
            raise TimeoutError("it is still busy with another question")
        try:
            with self._noting_tables(site, facts):
                return site.answer(question)
        except Exception:
            # Whatever it knows may be what is wrong.
            site.is_usable = False
            raise
        finally:
            site.lock.release()

    @contextmanager
    def _noting_tables(self, site: "_Site", facts: list[str]) -> Iterator[None]:
        """Add to the facts in which version the tables are, also where that is what is wrong."""
        try:
            yield
            facts.append(f"tables {schema.VERSION} {schema.VERSION}")
        except SchemaError:
            facts.append(f"tables {site.version()} {schema.VERSION}")
            raise

    def _site(self, question: Question, limit: float) -> "_Site":
        """The site of a question, opened anew where its settings have changed."""
        key = (*(question.get(name) for name in WHERE), limit)
        if (known := self._sites.get(key)) is not None and known.is_current():
            return known
        # Not behind the lock: a file may never come, and others must not wait for it.
        opened = _Site.open(dict(zip(WHERE, key, strict=False)), limit)
        with self._lock:
            closed = [self._sites.pop(key)] if key in self._sites else []
            if len(self._sites) >= MOST_SITES:
                closed.append(self._sites.pop(next(iter(self._sites))))
            self._sites[key] = opened
        for each in closed:
            each.close()
        return opened


@dataclass(slots=True, kw_only=True)
class _Site:
    """A site with its databases open."""

    given: Settings
    engine: Engine
    oar: OarJobs
    is_usable: bool = True
    digests: dict[str, str]  #: of its files of settings
    stamps: tuple[object, ...]  #: of those with passwords, whose digest is nobody's business
    known: KnownAccounts = field(default_factory=KnownAccounts)
    lock: Lock = field(default_factory=Lock)
    _stack: ExitStack

    @classmethod
    def open(cls, where: Mapping[str, Any], limit: float) -> "_Site":
        """Read the settings; nothing is connected yet. Raises :class:`SettingsError`."""
        given, digests, stamps = _settings(where)
        with ExitStack() as stack:
            engines = stack.enter_context(dialects.both_open(given.url, given.oar_url, limit))
            return cls(
                given=given,
                engine=engines[0],
                oar=OarJobs(engines[1]),
                digests=digests,
                stamps=stamps,
                _stack=stack.pop_all(),
            )

    def close(self) -> None:
        """Close what is open, once nobody uses it."""
        self._stack.close()

    def is_current(self) -> bool:
        """True where the settings are those that were read."""
        if not self.is_usable:
            return False
        return self.digests == _digests(self.given) and self.stamps == _stamps(self.given)

    def version(self) -> str:
        """The version of the tables; ``-`` where it is not known."""
        try:
            with dialects.reading(self.engine) as connection:
                return str(schema.version_of(connection) or "-")
        except AccountingError:
            return "-"

    def answer(self, question: Question) -> str:
        """The lines of an answer. Raises :class:`AccountingError`, ValueError for no number."""
        ledger = Ledger(self.engine, self.given.site)
        asked = FairShare(self.given, ledger, self.oar, question["now"], self.known)
        if question["ask"] == "sums":
            return _sums(asked, question)
        if "queue" in question:
            report = asked.karma()
            return lines_of(report.take(report.queue == question["queue"]))
        jobs = asked.karma(question["jobs"]).job_id.tolist()
        return "".join([f"{job}\n" for job in jobs]) + f"end {len(jobs)}\n"


def _checked(question: object) -> Question:
    """A question of which all is there that is asked. Raises :class:`ValueError`."""
    if not isinstance(question, dict) or question.get("ask") not in NEEDED_KEYS:
        raise ValueError("a question was expected")
    if question["ask"] == "order" and "queue" not in question and "jobs" not in question:
        raise ValueError("a queue or jobs are missing in the question")
    for key, kind in NEEDED_KEYS[question["ask"]].items():
        if not isinstance(question.get(key), kind):
            raise ValueError(f"{key} is missing in the question")
    return question


def lines_of(report: KarmaReport) -> str:
    """A line ``JOB KARMA`` for each job, and ``end`` with their number. Raises ValueError."""
    jobs = list(zip(report.job_id.tolist(), report.karma.tolist(), strict=True))
    for job, karma in jobs:
        if karma != karma:
            raise ValueError(f"the karma of job {job} is not a number")
    return "".join([f"{job} {karma!r}\n" for job, karma in jobs]) + f"end {len(jobs)}\n"


def _sums(asked: FairShare, question: Question) -> str:
    sums = asked.sums(question["metrics"], question["queues"], question["start"])
    line = json.dumps([sums.window, sums.by_project, sums.by_user], allow_nan=False)
    return f"{line}\nend 1\n"


def _version() -> str:
    try:
        return version("oar-accounting")
    except PackageNotFoundError:
        return "unknown"  # as where a checkout is run


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())


# -- files ------------------------------------------------------------------------------------


def _settings(where: Mapping[str, Any]) -> tuple[Settings, dict[str, str], tuple[object, ...]]:
    """The settings of a site, and the digests of files that said so before and afterwards.

    Raises :class:`SettingsError`.
    """

    def read() -> Settings:
        # What this process was started with is not what the scheduler was started with.
        return with_its_login(load_settings(**where, environ={}))

    given = read()
    for _ in range(CHANGES):
        before = (_digests(given), _stamps(given))
        given = read()
        if before == (_digests(given), _stamps(given)):
            return given, *before
    raise SettingsError(f"{given.file} or {given.oar_conf} changes all the time")


def _digests(given: Settings) -> dict[str, str]:
    return {file: digest_of(file) for file in (given.file, given.oar_conf)}


def _stamps(given: Settings) -> tuple[object, ...]:
    stamps: list[object] = []
    for file in given.password_files:
        try:
            found = Path(file).stat()
            stamps.append((file, found.st_mtime_ns, found.st_size, found.st_ino))
        except OSError:
            stamps.append((file, None))
    return tuple(stamps)

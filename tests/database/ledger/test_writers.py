"""Processes that write at the same time: nothing is lost or doubled, and nobody is refused."""

import multiprocessing
import os
import random
import signal
import sqlite3
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from multiprocessing.connection import Connection
from multiprocessing.pool import Pool
from multiprocessing.synchronize import Barrier
from pathlib import Path
from typing import Any

import pytest

from oar_accounting.accounting import Accounting
from oar_accounting.database import dialects
from oar_accounting.errors import WriterBusy
from oar_accounting.ledger import schema, verify, versions
from oar_accounting.ledger.ledger import Ledger
from oar_accounting.settings.load import Settings
from tests.servers import Database, Kind
from tests.strategies import (
    DAY,
    HOUR,
    NAMES,
    Job,
    Share,
    contents,
    naive_totals,
    open_ledger,
    post,
    post_all,
    stored_totals,
)

pytestmark = pytest.mark.slow

SPAWN = multiprocessing.get_context("spawn")
MOST = 8
WRITERS: dict[Kind, int] = {"sqlite": 2, "postgresql": MOST, "mariadb": MOST}
PATIENCE = 120.0


class Crew:
    """Processes that do things at the same moment."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool

    def run(self, work: Callable[..., Any], arguments: Sequence[tuple[Any, ...]]) -> list[Any]:
        """Do *work* in as many processes as there are *arguments*; what they return."""
        # Each waits at the barrier, so no process can take two.
        calls = [(len(arguments), work, each) for each in arguments]
        results = [self._pool.apply_async(_at_once, call) for call in calls]
        return [result.get(PATIENCE) for result in results]


@pytest.fixture(scope="module")
def crew() -> Iterator[Crew]:
    barriers = {size: SPAWN.Barrier(size) for size in (2, MOST)}
    with SPAWN.Pool(MOST, _meet_at, (barriers,)) as pool:
        yield Crew(pool)


_barriers: dict[int, Barrier] = {}


def _meet_at(barriers: dict[int, Barrier]) -> None:
    _barriers.update(barriers)


def _at_once(size: int, work: Callable[..., Any], arguments: tuple[Any, ...]) -> Any:
    _barriers[size].wait(PATIENCE)
    return work(*arguments)


@pytest.fixture
def tables(database: Database) -> Database:
    """A database with our tables."""
    assert _init(database.url)
    return database


def _init(url: str) -> bool:
    with _accounting(url) as accounting:
        return accounting.init()


def _accounting(url: str) -> Accounting:
    return Accounting(Settings(oar_url=dialects.parse_url(url), url=dialects.parse_url(url)))


@contextmanager
def _ledger(url: str, site: str = "here") -> Iterator[Ledger]:
    engine = dialects.open_engine(url)
    try:
        yield Ledger(engine, site)
    finally:
        engine.dispose()


def _jobs(first: int, last: int, version: int) -> list[Job]:
    """Jobs of a few owners in the same few windows; each version says other amounts."""
    jobs = []
    for number in range(first, last + 1):
        owner = NAMES[number % 7]
        start = number % 5 * DAY - number * HOUR
        share = Share(value=f"cluster {number % 3}", metric="resource", asked=1, used=version)
        jobs.append(
            Job(
                job_id=number,
                owner=(owner, "", "default"),
                asked=((start, start + version * DAY),),
                used=((start, start + version * number * HOUR),) if version else (),
                shares=(share, replace(share, metric="node")) if version else (),
            )
        )
    return jobs


def _portions(jobs: Sequence[Job], seed: int) -> list[list[Job]]:
    """The jobs in an order and in portions of their own."""
    chance = random.Random(seed)
    rest = list(jobs)
    chance.shuffle(rest)
    portions = []
    while rest:
        size = chance.randint(1, 25)
        portions.append(rest[:size])
        rest = rest[size:]
    return portions


def _post(url: str, site: str, portions: Sequence[Sequence[Job]]) -> None:
    with _ledger(url, site) as ledger:
        post_all(ledger, portions)


def _open_and_post(url: str, site: str, portions: Sequence[Sequence[Job]]) -> None:
    with _ledger(url, site) as ledger:
        post_all(open_ledger(ledger), portions)


def _assert_recorded(url: str, jobs: Sequence[Job], site: str = "here") -> None:
    """The site says exactly this, as one process would have written it."""
    with _ledger(url, site) as ledger, _ledger(url, f"{site}, but one by one") as alone:
        post_all(open_ledger(alone), [jobs])
        assert contents(ledger) == contents(alone)
        assert stored_totals(ledger) == naive_totals(jobs, DAY)
        with ledger.reading() as (connection, recorded):
            assert recorded is not None
            assert verify.first_differences(connection, recorded, 10) == []


# -- at the same time -------------------------------------------------------------------------


def test_writers_of_the_same_jobs_lose_and_double_nothing(tables: Database, crew: Crew) -> None:
    """All correct what stands there; every job is posted by about half of them."""
    jobs = _jobs(1, 200, version=2)
    with _ledger(tables.url) as ledger:
        post_all(open_ledger(ledger), [_jobs(1, 150, version=1)])
    count = WRITERS[tables.kind]
    shares = [
        [job for job in jobs if job.job_id % count == part or random.Random(part).random() < 0.5]
        for part in range(count)
    ]
    crew.run(
        _post,
        [(tables.url, "here", _portions(some, seed)) for seed, some in enumerate(shares)],
    )
    _assert_recorded(tables.url, jobs)


def test_writers_of_a_new_site_add_it_and_its_accounts_once(tables: Database, crew: Crew) -> None:
    jobs = _jobs(1, 30, version=1)
    count = WRITERS[tables.kind]
    for site in ("here", "there"):
        arguments = [(tables.url, site, _portions(jobs, seed)) for seed in range(count)]
        crew.run(_open_and_post, arguments)
        _assert_recorded(tables.url, jobs, site)
    with _ledger(tables.url) as ledger, ledger.reading() as (connection, site_):
        assert site_ is not None
        sites = connection.execute(schema.sites.select()).all()
        assert len(sites) == 4
        accounts = connection.execute(schema.accounts.select()).all()
        assert len(accounts) == len({(row.site_id, row.digest) for row in accounts})
        metrics = connection.execute(schema.metrics.select()).all()
        assert len(metrics) == 2 * len(sites)


def test_writers_of_different_sites_do_not_hinder_each_other(tables: Database, crew: Crew) -> None:
    """The sites have the same windows; totals rise, fall and go, in all of them at once."""
    count = WRITERS[tables.kind]
    for number in range(count):
        with _ledger(tables.url, f"site {number}") as ledger:
            open_ledger(ledger)
    versions = (1, 3, 0, 2) * 2
    crew.run(
        _post,
        [
            (
                tables.url,
                f"site {number}",
                [each for v in versions for each in _portions(_jobs(1, 30, v), number)],
            )
            for number in range(count)
        ],
    )
    for number in range(count):
        _assert_recorded(tables.url, _jobs(1, 30, versions[-1]), f"site {number}")


def test_writers_of_one_site_may_each_correct_their_own_jobs(tables: Database, crew: Crew) -> None:
    """Totals that all of them share rise, fall and go."""
    with _ledger(tables.url) as ledger:
        open_ledger(ledger)
    count = WRITERS[tables.kind]
    own = [(20 * number + 1, 20 * number + 20) for number in range(count)]
    versions = (1, 3, 0, 2)
    crew.run(
        _post,
        [
            (tables.url, "here", [p for v in versions for p in _portions(_jobs(*ids, v), v)])
            for ids in own
        ],
    )
    _assert_recorded(tables.url, _jobs(1, 20 * count, versions[-1]))


def test_tables_created_twice_at_once_are_created(database: Database, crew: Crew) -> None:
    """Both succeed, in whatever order; five times, because it is a matter of moments."""
    for url in (database.url, *(database.other() for _ in range(4))):
        assert any(crew.run(_init, [(url,), (url,)]))
        assert not _init(url)
        _open_and_post(url, "here", [_jobs(1, 5, version=1)])
        _assert_recorded(url, _jobs(1, 5, version=1))


# -- one at a time ----------------------------------------------------------------------------


@contextmanager
def _process(work: Callable[..., None], *arguments: object) -> Iterator[Connection]:
    """A process that works; gives what it says, and kills it in the end."""
    here, there = SPAWN.Pipe()
    process = SPAWN.Process(target=work, args=(there, *arguments))
    process.start()
    there.close()
    try:
        yield here
    finally:
        assert process.pid is not None
        os.kill(process.pid, signal.SIGKILL)
        process.join()
        process.close()
        here.close()


def _hold(told: Connection, url: str, site: str) -> None:
    """Write, and do not end before told so."""
    with _ledger(url, site) as ledger:
        with ledger.writing() as book:
            post(book, _jobs(1, 30, version=3))
            told.send("holding")
            told.recv()
        told.send("ended")
        told.recv()


def test_second_writer_is_told_that_there_is_one_and_may_come_back(
    tables: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dialects, "LOCK_WAIT", 5)
    with _ledger(tables.url) as ledger:
        post_all(open_ledger(ledger), [_jobs(1, 10, version=1)])
        with _process(_hold, tables.url, "here") as process:
            assert process.recv() == "holding"
            began = time.monotonic()
            with (
                pytest.raises(WriterBusy, match="another process is writing for this site"),
                ledger.writing(wait=False),
            ):
                pass
            assert time.monotonic() - began < 2
            assert stored_totals(ledger) == naive_totals(_jobs(1, 10, version=1), DAY)
            process.send("end")
            assert process.recv() == "ended"
            with ledger.writing(wait=False) as book:
                post(book, _jobs(31, 40, version=1))
        _assert_recorded(tables.url, [*_jobs(1, 30, version=3), *_jobs(31, 40, version=1)])


@pytest.mark.databases("postgresql")
def test_writer_of_another_site_is_not_in_the_way(tables: Database) -> None:
    """SQLite locks the file, MariaDB the rows beside those it deletes: there they take turns."""
    with _ledger(tables.url) as ledger, _ledger(tables.url, "there") as other:
        open_ledger(ledger)
        open_ledger(other)
        with _process(_hold, tables.url, "there") as process:
            assert process.recv() == "holding"
            with ledger.writing(wait=False) as book:
                post(book, _jobs(1, 30, version=2))
            post_all(ledger, [_jobs(1, 30, version=1)])
        assert stored_totals(ledger) == naive_totals(_jobs(1, 30, version=1), DAY)


def _wait_and_post(told: Connection, url: str) -> None:
    told.send("waiting")
    _post(url, "here", [_jobs(20, 40, version=2)])
    told.send("posted")
    told.recv()


def test_writer_that_waits_goes_on_when_the_other_ends(tables: Database) -> None:
    with _ledger(tables.url) as ledger:
        post_all(open_ledger(ledger), [_jobs(1, 40, version=1)])
    with _process(_hold, tables.url, "here") as holder:
        assert holder.recv() == "holding"
        with _process(_wait_and_post, tables.url) as waiter:
            assert waiter.recv() == "waiting"
            assert not waiter.poll(0.5)
            holder.send("end")
            assert waiter.recv() == "posted"
    _assert_recorded(
        tables.url,
        [*_jobs(1, 19, version=3), *_jobs(20, 40, version=2)],
    )


@pytest.mark.databases("sqlite")
def test_reader_waits_for_a_commit_also_after_a_writer_that_would_not(
    database: Database, tmp_path: Path
) -> None:
    """In a file without write-ahead logging, as ``sqlite3 FILE < schema.sql`` makes it."""
    with _ledger(database.url) as ledger:
        with dialects.writing(ledger.engine) as connection:
            versions.create(connection)
        open_ledger(ledger)
        with ledger.writing(wait=False):
            pass
        path = database.url.removeprefix("sqlite:///")
        with _process(_lock_file, path, 0.5) as process:
            assert process.recv() == "locked"
            assert stored_totals(ledger) == {}
            assert process.recv() == "unlocked"


def _lock_file(told: Connection, path: str, seconds: float) -> None:
    connection = sqlite3.connect(path, isolation_level=None)
    connection.execute("begin exclusive")
    told.send("locked")
    time.sleep(seconds)
    connection.execute("commit")
    connection.close()
    told.send("unlocked")
    told.recv()


# -- killed -----------------------------------------------------------------------------------


def test_writer_killed_in_the_middle_leaves_what_was(tables: Database) -> None:
    """It had corrected, added and withdrawn; the next writer need not wait for anything."""
    with _ledger(tables.url) as ledger:
        post_all(open_ledger(ledger), [_jobs(1, 10, version=1)])
        with _process(_hold, tables.url, "here") as process:
            assert process.recv() == "holding"
        _assert_recorded(tables.url, _jobs(1, 10, version=1))
        post_all(ledger, [_jobs(1, 10, version=2)])
    with _ledger(tables.url) as ledger:
        assert stored_totals(ledger) == naive_totals(_jobs(1, 10, version=2), DAY)


def _post_on(told: Connection, url: str) -> None:
    """Write without an end, and tell after each transaction what stands there."""
    chance = random.Random(7)
    with _ledger(url) as ledger:
        while True:
            version = chance.randint(0, 3)
            post_all(ledger, [_jobs(1, 60, version)])
            told.send(version)


@pytest.mark.parametrize("moment", [0.001, 0.004, 0.011, 0.03])
def test_writer_killed_at_any_moment_leaves_a_whole_transaction(
    tables: Database, moment: float
) -> None:
    with _ledger(tables.url) as ledger:
        open_ledger(ledger)
        versions = []
        with _process(_post_on, tables.url) as process:
            versions.append(process.recv())
            time.sleep(moment)
        # What it told last; the transaction after that may have been committed or not.
        post_all(ledger, [[]])
        standing = stored_totals(ledger)
        assert standing in [naive_totals(_jobs(1, 60, version), DAY) for version in range(4)]
        with ledger.reading() as (connection, site):
            assert site is not None
            assert verify.first_differences(connection, site, 10) == []
        post_all(ledger, [_jobs(1, 60, version=1)])
    _assert_recorded(tables.url, _jobs(1, 60, version=1))

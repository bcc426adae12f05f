"""A ledger of two years, filled through its own posting: there is no OAR behind it.

Everybody has a few projects. Most jobs last an hour or so, some for days; some run on two clusters.
"""

from collections.abc import Iterator
from typing import Any

import numpy as np
from sqlalchemy import Engine

from oar_accounting.accounting import Accounting
from oar_accounting.core.columns import OPEN, Ints, Rates, Spans, difference, ints
from oar_accounting.ledger import totals, verify
from oar_accounting.ledger.catalog import Names
from oar_accounting.ledger.ledger import Book, Ledger
from oar_accounting.ledger.reading import JobRecords
from oar_accounting.ledger.totals import by_table
from oar_accounting.oar.job_rules import Terms
from tests.bench import oar_data

SEED = 20_240_331
HOUR, DAY = 3_600, 86_400
#: The first instants of 2024 and 2026, UTC.
BEGIN, END = 1_704_067_200, 1_767_225_600

USERS, PROJECTS, PROJECTS_A_USER = 100, 20, 3
QUEUES, CLUSTERS = ("default", "besteffort"), 3
WIDEST = 64
WALLTIMES = ints([1, 2, 4, 12, 24, 72, 168]) * HOUR
TYPES = ("", "", "", "", "deploy", "besteffort", "inner=12", "allow_classic_ssh,timesharing=*,user")
#: The last jobs of all run; so many of a hundred have failed.
RUNNING, FAILED = 50, 8
AT_ONCE = 10_000

METRICS = ("resource", "node", "memory", "gpu")
SETTINGS = """
[metrics.memory]
unit = "MiB.s"
sum = "memnode"
per = "network_address"

[metrics.gpu]
unit = "gpu.s"
sum = "gpu"
per = "network_address"
"""


def fill(  # noqa: PLR0913 - what is recorded where
    engine: Engine, accounting: Accounting, jobs: int, window: int, first: int, last: int
) -> None:
    """Create our tables and record of so many jobs those from the *first* to before the *last*."""
    accounting.init()
    ledger = Ledger(engine, accounting.settings.site)
    ledger.open_site(Terms(window=window, dimension="cluster"), accounting.settings.metrics)
    rng = np.random.default_rng([SEED, first])
    for at in range(first, last, AT_ONCE):
        with ledger.writing() as book:
            ids = np.arange(at, min(at + AT_ONCE, last))
            book.post(*_jobs(book, rng, ids, jobs))
    oar_data.settle(engine)
    _check(ledger)


def _jobs(book: Book, rng: np.random.Generator, ids: Ints, all_jobs: int) -> Any:
    """Rows of jobs, their spans and their rates."""
    count = len(ids)
    submitted = BEGIN + (ids - 1) * (END - BEGIN) // all_jobs
    walltime = WALLTIMES[rng.integers(len(WALLTIMES), size=count) * rng.integers(2, size=count)]
    length = 1 + (walltime * rng.random(count) ** 2).astype(np.int64)
    start = submitted + rng.integers(10, 6 * HOUR, size=count)
    runs = ids > all_jobs - min(RUNNING, all_jobs // 10)
    failed = rng.integers(100, size=count) < FAILED
    owners = list(_owners(rng, count))
    book.accounts.add(book.connection, [(*each, "") for each in owners])
    types = rng.integers(len(TYPES), size=count)
    jobs = JobRecords(
        ids,
        ints(book.accounts.ids((*each, "") for each in owners)),
        np.where(runs, "Running", np.where(failed, "Error", "Terminated")).astype(object),
        submitted,
        start,
        np.where(runs, 0, start + length),
        walltime,
        np.array([TYPES[each] for each in types.tolist()], dtype=object),
        np.where(runs, 0, 1),
        runs.astype(np.int64),
        *(np.full(count, None) for _ in range(4)),
    )
    stop = np.where(runs, OPEN, start + length)
    twice = np.concatenate([ids, ids])
    asked = np.repeat(ints([1, 0]), count)
    spans = Spans(
        twice, asked, np.concatenate([start, start]), np.concatenate([start + walltime, stop])
    )
    return jobs, spans, _rates(book, rng, ids, owners)


def _owners(rng: np.random.Generator, count: int) -> Iterator[tuple[str, str, str]]:
    users = rng.integers(USERS, size=count) * rng.integers(1, 3, size=count) % USERS
    nth = rng.integers(PROJECTS_A_USER, size=count)
    queue = rng.integers(len(QUEUES), size=count)
    for user, project, number in zip(users.tolist(), nth.tolist(), queue.tolist(), strict=True):
        yield f"user{user}", f"project{(3 * user + 7 * project) % PROJECTS}", QUEUES[number]


def _rates(
    book: Book, rng: np.random.Generator, ids: Ints, owners: list[tuple[str, str, str]]
) -> Rates:
    """What each holds of the metrics on its cluster; one of twenty has a second one."""
    first = rng.integers(CLUSTERS, size=len(ids))
    second = np.flatnonzero(rng.integers(20, size=len(ids)) == 0)
    row = np.concatenate([np.arange(len(ids)), second])
    cluster = np.concatenate([first, (first[second] + 1) % CLUSTERS])
    names: list[Names] = [
        (*owners[job], f"cluster-{number}")
        for job, number in zip(row.tolist(), cluster.tolist(), strict=True)
    ]
    book.accounts.add(book.connection, names)
    account = ints(book.accounts.ids(names))
    known = {each.metric.name: each.metric_id for each in book.metrics()}
    cores = rng.integers(1, WIDEST + 1, size=len(row))
    nodes = -(-cores // 16)
    held = {"resource": cores, "node": nodes, "memory": nodes * 64_000, "gpu": (cores % 3) * nodes}
    parts = [
        Rates.unchanging(ids[row], account, np.full(len(row), known[name]), held[name], held[name])
        for name in METRICS
    ]
    rates = Rates.concat(parts)
    return rates.take(rates.asked > 0)


def _check(ledger: Ledger) -> None:
    """Refuse to measure totals that are not what the law says, by a sample of the accounts."""
    with ledger.reading() as (connection, site):
        assert site is not None
        first, last = verify.account_ranges(connection, site.site_id)[0]
        some = (first, min(last, first + 20))
        right = verify.expected_totals(connection, site.site_id, some, site.terms.window)
        for table, should in by_table(right, site.terms.window):
            if len(difference(should, totals.stored(connection, table, site.site_id, some))):
                raise RuntimeError(f"{table.name} is not what the jobs give")

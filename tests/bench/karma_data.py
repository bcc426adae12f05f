"""A site in full use: jobs that wait and run in OAR, and a month of hourly totals.

Of the month only the totals are there, as where its jobs were purged. Whoever uses something does
so for some hours on end, and a few do far more often than most; how long decides how many rows a
day has beside those of its hours.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from sqlalchemy import Column, Engine, Integer, MetaData, String, Table, Text

from oar_accounting.accounting import Accounting
from oar_accounting.core.columns import Bools, Ints, Totals, ints
from oar_accounting.database import bulk, dialects
from oar_accounting.ledger.catalog import Names
from oar_accounting.ledger.ledger import Book, Ledger
from tests.bench import oar_data

SEED = 20_240_301
HOUR, DAY = 3_600, 86_400
DAYS = 30
BEGIN = 1_699_920_000  # a midnight, UTC
#: The instant as of which karma is asked for.
NOW = BEGIN + DAYS * DAY

USERS, PROJECTS = 1_000, 100
QUEUES = ("default", "besteffort")
#: Users times the projects of each: combinations of user, project and queue.
PROJECTS_A_USER = 4
ACCOUNTS = USERS * PROJECTS_A_USER
CLUSTERS, NODES, CORES_A_NODE = 2, 40, 16
RESOURCES = NODES * CORES_A_NODE
#: Resources that a job on the machine holds.
HELD = 2
WALLTIME = 12 * HOUR

METRICS = ("resource", "node", "memory")
SETTINGS = """
window = 3600

[metrics.memory]
unit = "MiB.s"
sum = "memnode"
per = "network_address"
"""
LINEAR = """
[karma]
policy = "linear"
half_life = "7d"

[[karma.terms]]
by = "user"
metric = "resource"

[[karma.terms]]
by = "project"
metric = "node"

[[karma.terms]]
by = "user"
metric = "memory"
"""
TREE = """
[karma]
policy = "{policy}"
half_life = "7d"
levels = ["queue", "projects", "user"]
metrics = {{ resource = 1, node = 2, memory = 1 }}

[karma.shares.user]
user7 = {{ project49 = 3 }}
"""
#: What each policy is measured with.
POLICIES = {
    "linear": SETTINGS + LINEAR,
    "tree": SETTINGS + TREE.format(policy="tree"),
    "fair_tree": SETTINGS + TREE.format(policy="fair_tree"),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Size:
    """How much there is of what."""

    waiting: int = 10_000
    running: int = 300
    active: int = 463  #: accounts that use something in an hour
    stretch: int = 8  #: hours that an account is active on end; divides a day


def fill(engine: Engine, accounting: Accounting, size: Size) -> None:
    """Create OAR's tables and ours, and fill both."""
    metadata = _tables(engine)
    metadata.create_all(engine)
    rng = np.random.default_rng(SEED)
    with engine.begin() as connection:
        for name, columns in _oar(rng, size).items():
            bulk.insert_columns(connection, metadata.tables[name], columns)
    accounting.init()
    report = accounting.catch_up()
    if report.problems or report.open != size.running:
        raise RuntimeError(f"not what karma should be measured on: {report}")
    ledger = Ledger(engine, accounting.settings.site)
    with ledger.writing() as book:
        for totals in _totals(book, rng, size):
            book.move(totals)
    oar_data.settle(engine)


def names() -> list[Names]:
    """User, project, queue and cluster of every account that ever used something."""
    return [
        (
            f"user{user}",
            f"project{(7 * user + 13 * nth) % PROJECTS}",
            QUEUES[nth % 2],
            f"cluster-{(user + nth) % CLUSTERS}",
        )
        for nth in range(PROJECTS_A_USER)
        for user in range(USERS)
    ]


# -- OAR --------------------------------------------------------------------------------------


def _tables(engine: Engine) -> MetaData:
    """OAR's tables, with what tells whose turn it is, and when resources were there."""
    metadata = oar_data.tables(dialects.database_name(engine))
    metadata.tables["jobs"].append_column(Column("properties", Text))
    Table(
        "resource_logs",
        metadata,
        Column("resource_log_id", Integer, primary_key=True, autoincrement=False),
        Column("resource_id", Integer, nullable=False, index=True),
        Column("attribute", String(255), nullable=False, index=True),
        Column("value", String(255), nullable=False, index=True),
        Column("date_start", Integer, nullable=False, index=True),
        Column("date_stop", Integer, index=True),
    )
    return metadata


def _oar(rng: np.random.Generator, size: Size) -> dict[str, dict[str, Any]]:
    """The rows of OAR's tables, as columns; the jobs on the machine have the lowest ids."""
    jobs = size.running + size.waiting
    ids = np.arange(1, jobs + 1)
    runs = ids <= size.running
    submitted = np.where(runs, NOW - WALLTIME, NOW - DAY) + rng.integers(0, 6 * HOUR, jobs)
    started = np.where(runs, submitted + 60, 0)
    held = np.arange(size.running * HELD)
    return {
        "resources": _resources(),
        "resource_logs": _resource_logs(),
        "jobs": _jobs(rng, runs, submitted, started),
        "moldable_job_descriptions": {
            "moldable_id": ids,
            "moldable_job_id": ids,
            "moldable_walltime": np.full(jobs, WALLTIME),
        },
        "assigned_resources": {
            "moldable_job_id": 1 + held // HELD,
            "resource_id": 1 + held % RESOURCES,
        },
        "job_state_logs": _state_logs(ids, runs, submitted, started),
    }


def _jobs(rng: np.random.Generator, runs: Bools, submitted: Ints, started: Ints) -> dict[str, Any]:
    every = names()
    owners = [every[row] for row in rng.integers(ACCOUNTS, size=len(runs))]
    ids = np.arange(1, len(runs) + 1)
    return {
        "job_id": ids,
        "job_user": [user for user, *_ in owners],
        "project": [project for _, project, *_ in owners],
        "queue_name": [queue for *_, queue, _ in owners],
        "state": np.where(runs, "Running", "Waiting").tolist(),
        "submission_time": submitted,
        "start_time": started,
        "stop_time": np.zeros(len(runs), np.int64),
        "assigned_moldable_job": np.where(runs, ids, 0),
        "suspended": ["NO"] * len(runs),
        "reservation": ["None"] * len(runs),
        "properties": [f"cluster = '{cluster}'" for *_, cluster in owners],
    }


def _resources() -> dict[str, Any]:
    nodes = [row // CORES_A_NODE for row in range(RESOURCES)]
    return {
        "resource_id": list(range(1, RESOURCES + 1)),
        "type": ["default"] * RESOURCES,
        "network_address": [f"node-{node}.site" for node in nodes],
        "cluster": [f"cluster-{node % CLUSTERS}" for node in nodes],
        "memnode": [64_000 + 10 * node for node in nodes],
    }


def _resource_logs() -> dict[str, Any]:
    """Every node was lost for an hour in the month, and slept for two before it was back."""
    row = np.repeat(np.arange(RESOURCES), 4)
    lost = BEGIN + (1 + row // CORES_A_NODE) * (DAYS - 2) * DAY // NODES
    starts = [np.full(len(row), BEGIN - 300 * DAY), lost, lost + HOUR, lost + 3 * HOUR]
    stops = [*starts[1:], np.zeros(len(row), np.int64)]
    nth = np.arange(len(row)) % 4
    states: dict[str, Any] = {
        "resource_log_id": oar_data.FIRST_OF_STATES + np.arange(len(row)),
        "resource_id": row + 1,
        "attribute": ["state"] * len(row),
        "value": ["Alive", "Suspected", "Absent", "Alive"] * RESOURCES,
        "date_start": np.choose(nth, starts),
        "date_stop": np.choose(nth, stops),
    }
    properties = oar_data.property_logs(_resources(), BEGIN - 300 * DAY, BEGIN + 15 * DAY)
    return {name: [*properties[name], *states[name]] for name in properties}


def _state_logs(ids: Ints, runs: Bools, submitted: Ints, started: Ints) -> dict[str, Any]:
    """The states that OAR logs, up to the one that lasts."""
    on = ids[runs]
    states = {"Waiting": ids, "toLaunch": on, "Launching": on, "Running": on}
    begins = [submitted, started[runs] - 40, started[runs] - 30, started[runs]]
    ends = [np.where(runs, started - 40, 0), begins[2], begins[3], np.zeros(len(on), np.int64)]
    job_id = np.concatenate(list(states.values()))
    return {
        "job_state_log_id": np.arange(1, len(job_id) + 1),
        "job_id": job_id,
        "job_state": [state for state, some in states.items() for _ in range(len(some))],
        "date_start": np.concatenate(begins),
        "date_stop": np.concatenate(ends),
    }


# -- ours -------------------------------------------------------------------------------------


def _totals(book: Book, rng: np.random.Generator, size: Size) -> Iterator[Totals]:
    """The totals of the month, day by day, sorted by key."""
    every = names()
    book.accounts.add(book.connection, every)
    accounts = np.sort(ints(book.accounts.ids(every)))
    known = {each.metric.name: each.metric_id for each in book.metrics()}
    metrics = np.sort(ints([known[name] for name in METRICS]))
    popularity = 1 / (10 + rng.permutation(ACCOUNTS)) ** 0.5
    popularity /= popularity.sum()
    for day in range(DAYS):
        active = [
            np.sort(rng.choice(accounts, size.active, replace=False, p=popularity))
            for _ in range(24 // size.stretch)
        ]
        yield _of_day(rng, BEGIN + day * DAY, active, metrics, size.stretch)


def _of_day(
    rng: np.random.Generator, start: int, active: list[Ints], metrics: Ints, stretch: int
) -> Totals:
    """The totals of a day in whose stretches these accounts are active."""
    held = [np.tile(np.repeat(some, len(metrics)), stretch) for some in active]
    account = np.concatenate(held)
    hour = np.repeat(np.arange(24), len(account) // 24)
    asked = rng.integers(1, 64 * HOUR, size=len(hour))
    used = (asked * rng.random(len(hour))).astype(np.int64)
    metric = np.tile(metrics, len(hour) // len(metrics))
    return Totals(start + hour * HOUR, account, metric, asked, used)

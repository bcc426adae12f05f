"""A large OAR database: finished jobs over 90 days, the same distribution on every database.

100 users, 20 projects and 2 queues, each drawn on its own, so that there are far more accounts
than a real site has; 1 to 64 resources a job, side by side, of 1,024: 4 clusters of 16 nodes of 16
cores. Everything ended long ago, so that a later pass compares no job again.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from sqlalchemy import (
    Column,
    Engine,
    Index,
    Integer,
    MetaData,
    PrimaryKeyConstraint,
    String,
    Table,
    func,
    select,
    text,
)

from oar_accounting.database import bulk, dialects
from oar_accounting.oar import oar_tables

SEED = 20_240_229
BEGIN = 1_699_920_000  # a midnight, UTC
DAYS = 90
SIZES = {
    "begin": BEGIN,
    "period": DAYS * 86_400,
    "users": 100,
    "projects": 20,
    "resources": 1_024,
    "most_held": 64,
    "most_seconds": 16_200,
    "walltime": 20_000,
}
CORES_A_NODE, CORES_A_CLUSTER = 16, 256


def tables(kind: str) -> MetaData:
    """OAR 2.5.9's tables: the columns that are read, its types and its indexes."""
    metadata = MetaData()
    options: dict[str, Any] = {"prefixes": ["UNLOGGED"] if kind == "postgresql" else []}
    Table(
        "jobs",
        metadata,
        _id("job_id"),
        Column("job_user", String(255), nullable=False),
        Column("project", String(255), nullable=False),
        Column("queue_name", String(100), nullable=False, index=True),
        Column("state", String(16), nullable=False, index=True),
        *(_whole(name) for name in ("submission_time", "start_time", "stop_time")),
        Column("assigned_moldable_job", Integer),
        Column("suspended", String(3), nullable=False, index=True),
        Column("job_name", String(100)),
        Column("exit_code", Integer),
        Column("reservation", String(10), nullable=False, server_default="None", index=True),
        **options,
    )
    Table(
        "moldable_job_descriptions",
        metadata,
        _id("moldable_id"),
        Column("moldable_job_id", Integer, nullable=False, index=True),
        _whole("moldable_walltime"),
        **options,
    )
    Table(
        "assigned_resources",
        metadata,
        _whole("moldable_job_id"),
        _whole("resource_id"),
        PrimaryKeyConstraint("moldable_job_id", "resource_id", name="assigned_resources_pkey"),
        Index("mjob_id", "moldable_job_id"),
        **options,
    )
    _small_tables(metadata, options)
    return metadata


#: The ids of logs of states begin here, those of properties at 1.
FIRST_OF_STATES = 10_000_000

LogColumns = dict[str, list[Any]]


def add_logs(engine: Engine, changes: int) -> int:
    """Log that every resource changed its state so many times over the 90 days; the rows."""
    table = oar_tables.resource_logs.to_metadata(MetaData())
    rng = np.random.default_rng(SEED)
    resources, rows = SIZES["resources"], SIZES["resources"] * changes
    start = np.sort(rng.integers(BEGIN, BEGIN + SIZES["period"], size=(resources, changes)))
    start[:, 0] = BEGIN
    stop = np.concatenate([start[:, 1:], np.zeros((resources, 1), np.int64)], axis=1)
    states = np.array(["Alive", "Absent", "Suspected"])
    columns = {
        "resource_log_id": FIRST_OF_STATES + np.arange(rows),
        "resource_id": np.repeat(np.arange(1, resources + 1), changes),
        "attribute": ["state"] * rows,
        "value": states[rng.choice(3, size=rows, p=(0.8, 0.1, 0.1))].tolist(),
        "date_start": start.ravel(),
        "date_stop": stop.ravel(),
    }
    with engine.begin() as connection:
        bulk.insert_columns(connection, table, columns)
    settle(engine)
    return rows


def property_logs(resources: Mapping[str, Sequence[Any]], begin: int, changed: int) -> LogColumns:
    """Log all properties of the resources at creation, and one change of 1 % of the nodes.

    *begin*: when they were created; *changed*: when a hundredth of the nodes got the memory that
    they have today. In columns of OAR's ``resource_logs``.
    """
    rows: list[tuple[int, str, str, int, int]] = []
    for number, cluster, memory in zip(
        *(resources[name] for name in ("resource_id", "cluster", "memnode")), strict=True
    ):
        rows.append((number, "cluster", cluster, begin, 0))
        if (number - 1) // CORES_A_NODE % 100:
            rows.append((number, "memnode", str(memory), begin, 0))
        else:
            rows.append((number, "memnode", "32000", begin, changed))
            rows.append((number, "memnode", str(memory), changed, 0))
    names = ("resource_id", "attribute", "value", "date_start", "date_stop")
    columns = dict(zip(names, map(list, zip(*rows, strict=True)), strict=True))
    return {"resource_log_id": list(range(1, len(rows) + 1)), **columns}


def _small_tables(metadata: MetaData, options: dict[str, Any]) -> None:
    Table(
        "resources",
        metadata,
        _id("resource_id"),
        Column("type", String(100), nullable=False),
        Column("network_address", String(100), nullable=False),
        Column("cluster", String(255)),
        Column("memnode", Integer),
        **options,
    )
    Table(
        "job_types",
        metadata,
        _id("job_type_id"),
        Column("job_id", Integer, nullable=False, index=True),
        Column("type", String(255), nullable=False),
        **options,
    )
    Table(
        "job_state_logs",
        metadata,
        _id("job_state_log_id"),
        Column("job_id", Integer, nullable=False, index=True),
        Column("job_state", String(16), nullable=False, index=True),
        Column("date_start", Integer, nullable=False),
        Column("date_stop", Integer),
        **options,
    )


def _id(name: str) -> Column[int]:
    return Column(name, Integer, primary_key=True, autoincrement=False)


def _whole(name: str) -> Column[int]:
    return Column(name, Integer, nullable=False)


def fill(engine: Engine, jobs: int) -> int:
    """Create OAR's tables with so many jobs; the number of assigned resources."""
    metadata = tables(dialects.database_name(engine))
    metadata.create_all(engine)
    logs = oar_tables.resource_logs.to_metadata(MetaData())
    logs.create(engine)
    if engine.dialect.name == "postgresql":
        _fill_there(engine, jobs)
    else:
        _fill_from_here(engine, metadata, jobs)
    middle = BEGIN + SIZES["period"] // 2
    with engine.begin() as connection:
        bulk.insert_columns(connection, logs, property_logs(_resources(), BEGIN, middle))
    settle(engine)
    with engine.connect() as connection:
        query = select(func.count()).select_from(metadata.tables["assigned_resources"])
        return int(connection.execute(query).scalar_one())


def settle(engine: Engine) -> None:
    """Leave nothing for a worker in the background to do while something is measured."""
    if engine.dialect.name == "postgresql":
        with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
            connection.execute(text("VACUUM (ANALYZE, FREEZE)"))
            connection.execute(text("CHECKPOINT"))


# -- on PostgreSQL, by the server -------------------------------------------------------------

STATEMENTS = (
    "SET LOCAL maintenance_work_mem = '256MB'",
    "SELECT setseed(CAST(:seed AS float8) / 2147483647)",
    # A primary key is made faster when the rows are there.
    "ALTER TABLE assigned_resources DROP CONSTRAINT assigned_resources_pkey",
    "DROP INDEX mjob_id",
    """
    INSERT INTO resources (resource_id, type, network_address, cluster, memnode)
    SELECT i + 1, 'default', 'node-' || i / :node || '.site', 'cluster-' || i / :cluster,
        64000 + i / :node * 10
    FROM generate_series(0, :resources - 1) i
    """,
    """
    INSERT INTO jobs (job_id, job_user, project, queue_name, state, submission_time, start_time,
        stop_time, assigned_moldable_job, suspended, job_name, exit_code)
    SELECT i, 'user' || floor(random() * :users), 'project' || floor(random() * :projects),
        CASE WHEN random() < 0.8 THEN 'default' ELSE 'besteffort' END, 'Terminated', t, t + 60,
        t + 61 + floor(random() * :most_seconds), i, 'NO', 'train-' || i % 100, i % 10 / 9 * 256
    FROM (SELECT i, :begin + CAST(i AS bigint) * :period / :jobs AS t
        FROM generate_series(1, :jobs) i) AS submitted
    """,
    """
    INSERT INTO moldable_job_descriptions (moldable_id, moldable_job_id, moldable_walltime)
    SELECT i, i, :walltime FROM generate_series(1, :jobs) i
    """,
    """
    INSERT INTO assigned_resources (moldable_job_id, resource_id)
    SELECT i, 1 + (first + nth) % :resources
    FROM (SELECT i, CAST(floor(random() * :resources) AS integer) AS first,
            CAST(floor(random() * :most_held) AS integer) AS others
        FROM generate_series(1, :jobs) i) AS placed,
        generate_series(0, others) AS nth
    """,
    """
    ALTER TABLE assigned_resources
    ADD CONSTRAINT assigned_resources_pkey PRIMARY KEY (moldable_job_id, resource_id)
    """,
    "CREATE INDEX mjob_id ON assigned_resources (moldable_job_id)",
)


def _fill_there(engine: Engine, jobs: int) -> None:
    values = {**SIZES, "seed": SEED, "jobs": jobs, "node": CORES_A_NODE, "cluster": CORES_A_CLUSTER}
    with engine.begin() as connection:
        for statement in STATEMENTS:
            clause = text(statement)
            connection.execute(clause, {name: values[name] for name in clause._bindparams})


# -- elsewhere, from here ---------------------------------------------------------------------


def _fill_from_here(engine: Engine, metadata: MetaData, jobs: int) -> None:
    rng = np.random.default_rng(SEED)
    columns = {
        "resources": _resources(),
        "jobs": _jobs(rng, jobs),
        "moldable_job_descriptions": {
            "moldable_id": np.arange(1, jobs + 1),
            "moldable_job_id": np.arange(1, jobs + 1),
            "moldable_walltime": np.full(jobs, SIZES["walltime"]),
        },
        "assigned_resources": _assigned(rng, jobs),
    }
    with engine.begin() as connection:
        for name, values in columns.items():
            bulk.insert_columns(connection, metadata.tables[name], values)


def _resources() -> dict[str, Any]:
    rows = range(SIZES["resources"])
    return {
        "resource_id": [row + 1 for row in rows],
        "type": ["default" for _ in rows],
        "network_address": [f"node-{row // CORES_A_NODE}.site" for row in rows],
        "cluster": [f"cluster-{row // CORES_A_CLUSTER}" for row in rows],
        "memnode": [64_000 + row // CORES_A_NODE * 10 for row in rows],
    }


def _jobs(rng: np.random.Generator, jobs: int) -> dict[str, Any]:
    ids = np.arange(1, jobs + 1)
    submitted = BEGIN + ids * SIZES["period"] // jobs
    return {
        "job_id": ids,
        "job_user": [f"user{n}" for n in rng.integers(SIZES["users"], size=jobs)],
        "project": [f"project{n}" for n in rng.integers(SIZES["projects"], size=jobs)],
        "queue_name": np.where(rng.random(jobs) < 0.8, "default", "besteffort").tolist(),
        "state": ["Terminated"] * jobs,
        "submission_time": submitted,
        "start_time": submitted + 60,
        "stop_time": submitted + 61 + rng.integers(SIZES["most_seconds"], size=jobs),
        "assigned_moldable_job": ids,
        "suspended": ["NO"] * jobs,
        "job_name": [f"train-{number % 100}" for number in ids.tolist()],
        "exit_code": ids % 10 // 9 * 256,
    }


def _assigned(rng: np.random.Generator, jobs: int) -> dict[str, Any]:
    held = rng.integers(1, SIZES["most_held"] + 1, size=jobs)
    first = rng.integers(SIZES["resources"], size=jobs)
    nth = np.arange(held.sum()) - np.repeat(np.cumsum(held) - held, held)
    return {
        "moldable_job_id": np.repeat(np.arange(1, jobs + 1), held),
        "resource_id": 1 + (np.repeat(first, held) + nth) % SIZES["resources"],
    }

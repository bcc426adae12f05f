"""What stands in the ledger: jobs, spans, rates and entries, read back as columns."""

from dataclasses import dataclass, fields
from typing import Any, TypeVar

import numpy as np
from sqlalchemy import ColumnElement, Connection, Select, Table, func, select

from oar_accounting.core.columns import OPEN, Columns, Ints, Rates, Spans, Texts
from oar_accounting.database import bulk
from oar_accounting.database.id_blocks import among, id_blocks
from oar_accounting.ledger import schema
from oar_accounting.oar.job_rules import RUNNING

T = TypeVar("T", bound=Columns)

#: So many ids below the highest seen are looked for again.
OVERLAP = 10_000
#: Below every id: those of retired jobs are below zero.
LOWEST = -(2**63)


@dataclass(frozen=True, slots=True)
class JobRecords(Columns):
    """Jobs as the ledger has them."""

    job_id: Ints
    account_id: Ints
    state: Texts
    submission_time: Ints
    start_time: Ints
    stop_time: Ints
    walltime: Ints
    types: Texts  #: sorted, with a comma between
    closed: Ints
    unsettled: Ints
    # None: not recorded, as in jobs that an earlier version recorded.
    name: Texts
    exit_code: Texts  #: as OAR has it; None also where it has none
    nodes: Texts  #: a list of `node_lists`
    reservation: Texts  #: OAR's word


#: What is told of a job beside what it asked for and used.
DESCRIPTION = ("name", "exit_code", "nodes", "reservation")
#: The columns of jobs that are no arrays of whole numbers.
TEXTS = ("state", "types", *DESCRIPTION)


@dataclass(frozen=True, slots=True)
class Entries(Columns):
    """Measured amounts of jobs: only what is not a rate."""

    job_id: Ints
    window_start: Ints
    account_id: Ints
    metric_id: Ints
    asked: Ints
    used: Ints


def known_jobs(connection: Connection, site_id: int, block: Ints) -> JobRecords:
    """The jobs of the block that are recorded for the site."""
    found = jobs_where(connection, site_id, among(block, schema.jobs.c.job_id))
    return found.take(np.isin(found.job_id, block))


def jobs_where(connection: Connection, site_id: int, chosen: ColumnElement[bool]) -> JobRecords:
    """The jobs recorded for the site where *chosen* holds, by ascending id."""
    table = schema.jobs.c
    columns = [table[field.name] for field in fields(JobRecords)]
    query = select(*columns).where(table.site_id == site_id, chosen).order_by(table.job_id)
    found = connection.execute(query).fetchall()
    if not found:
        return JobRecords.concat([])
    return JobRecords.of(
        np.array(values, dtype=object if name in TEXTS else np.int64)
        for name, values in zip(JobRecords.__slots__, zip(*found, strict=True), strict=True)
    )


def unsettled_ids(connection: Connection, site_id: int) -> Ints:
    """The recorded jobs that OAR may still change, ascending."""
    table = schema.jobs.c
    query = select(table.job_id).where(table.site_id == site_id, table.unsettled == 1)
    return np.sort(bulk.read_ints(connection, query)[0])


def recorded_ids(
    connection: Connection, site_id: int, block: Ints, *conditions: ColumnElement[bool]
) -> Ints:
    """Which ids of the block are recorded, of jobs for which the conditions hold."""
    table = schema.jobs.c
    query = select(table.job_id).where(
        table.site_id == site_id, among(block, table.job_id), *conditions
    )
    return np.intersect1d(bulk.read_ints(connection, query)[0], block)


def recorded_above(connection: Connection, site_id: int, last: int, most: int) -> Ints:
    """The lowest recorded ids above *last*, ascending, *most* of them at most."""
    table = schema.jobs.c
    query: Select[Any] = (
        select(table.job_id)
        .where(table.site_id == site_id, table.job_id > last)
        .order_by(table.job_id)
        .limit(most)
    )
    return bulk.read_ints(connection, query)[0]


def recorded_below(connection: Connection, site_id: int, first: int, most: int) -> Ints:
    """The highest recorded ids of OAR's below *first*, ascending, *most* of them at most."""
    table = schema.jobs.c
    query: Select[Any] = (
        select(table.job_id)
        .where(table.site_id == site_id, table.job_id < first, table.job_id > schema.CARRIED)
        .order_by(table.job_id.desc())
        .limit(most)
    )
    return np.sort(bulk.read_ints(connection, query)[0])


def count_jobs(connection: Connection, site_id: int) -> int:
    """How many jobs are recorded."""
    table = schema.jobs.c
    query = select(func.count()).where(table.site_id == site_id, table.job_id != schema.CARRIED)
    return int(connection.execute(query).scalar_one())


def open_jobs(connection: Connection, site_id: int) -> int:
    """How many jobs hold resources now."""
    table = schema.jobs.c
    query = select(func.count()).where(
        table.site_id == site_id,
        table.unsettled == 1,
        table.closed == schema.OPEN_JOB,
        table.state.in_(RUNNING),
    )
    return int(connection.execute(query).scalar_one())


def read_spans(connection: Connection, site_id: int, block: Ints) -> Spans:
    """The spans of the jobs of the block."""
    return _rows(connection, site_id, block, schema.spans, Spans)


def read_rates(connection: Connection, site_id: int, block: Ints) -> Rates:
    """The rates of the jobs of the block."""
    return _rows(connection, site_id, block, schema.rates, Rates)


def read_entries(connection: Connection, site_id: int, block: Ints) -> Entries:
    """The measured amounts of the jobs of the block."""
    return _rows(connection, site_id, block, schema.entries, Entries)


def _rows(connection: Connection, site_id: int, ids: Ints, table: Table, kind: type[T]) -> T:
    columns = [func.coalesce(table.c[f.name], OPEN) for f in fields(kind)]
    parts = []
    for block in id_blocks(ids):
        query = select(*columns).where(table.c.site_id == site_id, among(block, table.c.job_id))
        rows = kind.of(bulk.read_ints(connection, query))
        parts.append(rows.take(np.isin(rows.as_dict()["job_id"], block)))
    return kind.concat(parts)

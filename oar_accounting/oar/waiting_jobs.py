"""The jobs that wait in OAR's queues, as its schedulers see them. They are only read."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from sqlalchemy import Connection, func, select

from oar_accounting.core.columns import Columns, Ints, Texts, ints
from oar_accounting.database.id_blocks import among, id_blocks
from oar_accounting.oar import oar_tables
from oar_accounting.oar.checking import check_columns

#: The state of a job that a scheduler may start.
WAITING = "Waiting"
#: What OAR calls a job that was not promised a time; those that were are not sorted.
NO_RESERVATION = ("None", "none")


@dataclass(frozen=True, slots=True)
class Queued(Columns):
    """Jobs by ascending id."""

    job_id: Ints
    user: Texts
    project: Texts
    queue: Texts
    properties: Texts  #: the condition on the resources, in SQL; empty for none


def read_waiting(connection: Connection) -> Queued:
    """The jobs that a scheduler sorts: waiting, without a reservation.

    Raises :class:`oar_accounting.errors.OarSchemaError` where OAR's table cannot be read.
    """
    table = oar_tables.queued.c
    return _read(connection, [(table.state == WAITING) & table.reservation.in_(NO_RESERVATION)])


def read_jobs(connection: Connection, jobs: Ints) -> Queued:
    """These jobs, in whatever state; what OAR does not have is left out. Raises as above."""
    wanted = np.unique(jobs)
    conditions = [among(block, oar_tables.queued.c.job_id) for block in id_blocks(wanted)]
    found = _read(connection, conditions)
    return found.take(np.isin(found.job_id, wanted))


def waiting_since(connection: Connection) -> dict[str, int]:
    """Since when, epoch seconds UTC, the first of the jobs waits that a scheduler sorts, by queue.

    Raises as `read_waiting`.
    """
    table = oar_tables.started.c
    check_columns(connection, oar_tables.started)
    query = (
        select(table.queue_name, func.min(table.submission_time))
        .where(table.state == WAITING, table.reservation.in_(NO_RESERVATION))
        .group_by(table.queue_name)
    )
    return {queue: int(since or 0) for queue, since in connection.execute(query)}


def _read(connection: Connection, conditions: Sequence[Any]) -> Queued:
    table = oar_tables.queued.c
    check_columns(connection, oar_tables.queued)
    rows: list[Any] = []
    for condition in conditions:
        query = select(
            table.job_id,
            table.job_user,
            table.project,
            table.queue_name,
            func.coalesce(table.properties, ""),
        )
        rows += connection.execute(query.where(condition).order_by(table.job_id)).fetchall()
    columns = list(zip(*rows, strict=True)) if rows else [()] * 5
    return Queued(ints(columns[0]), *(np.array(each, dtype=object) for each in columns[1:]))


def named_value(properties: str, name: str) -> str:
    """The value that a condition demands of the property *name*; empty where that is not told.

    Told is it where ``name = 'value'`` stands in it, with one value, and neither OR nor NOT.
    """
    if not name or re.search(r"\b(or|not)\b|!", properties, re.IGNORECASE):
        return ""
    found = set(re.findall(rf"\b{re.escape(name)}\s*=\s*'([^']*)'", properties, re.IGNORECASE))
    return found.pop() if len(found) == 1 else ""

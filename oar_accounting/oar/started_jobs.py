"""The jobs that OAR started, each with how many resources it was given. They are only read."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from sqlalchemy import ColumnElement, Connection, Select, func, select

from oar_accounting.core.columns import Ints, ints
from oar_accounting.oar import oar_tables
from oar_accounting.oar.checking import check_columns
from oar_accounting.oar.job_rules import ENDED
from oar_accounting.oar.waiting_jobs import NO_RESERVATION, Queued

#: The states of a job that has started, and of one that has ended: it may never have started.
RAN = ("Launching", "Running", "Suspended", "Resuming", "Finishing", *ENDED)


@dataclass(frozen=True, slots=True, kw_only=True)
class Started:
    """Jobs that started in a time, by ascending id."""

    jobs: Queued
    submitted: Ints
    start: Ints
    resources: Ints
    reservations: int  #: how many others started then at a time that they were promised


def read_starts(connection: Connection, begin: int, end: int) -> Started:
    """The jobs that started within [begin, end). Raises as `read_waiting`."""
    check_columns(connection, oar_tables.started)
    ran = _started_within(begin, end)
    promised = oar_tables.started.c.reservation.not_in(NO_RESERVATION)
    reservations = connection.execute(
        select(func.count()).select_from(oar_tables.started).where(ran, promised)
    ).scalar_one()
    rows = connection.execute(_with_resources(ran & ~promised)).fetchall()
    columns = list(zip(*rows, strict=True)) if rows else [()] * 8
    jobs = Queued(ints(columns[0]), *(np.array(each, dtype=object) for each in columns[1:5]))
    submitted, start, resources = (ints(each) for each in columns[5:])
    return Started(
        jobs=jobs,
        # OAR's clock may have been set back in between.
        submitted=np.minimum(submitted, start),
        start=start,
        resources=resources,
        reservations=int(reservations),
    )


def _started_within(begin: int, end: int) -> ColumnElement[bool]:
    """True for jobs that started then."""
    table = oar_tables.started.c
    # Of a job that was deleted before it started, OAR says that it started and stopped at once.
    return (
        table.state.in_(RAN)
        & (table.start_time >= begin)
        & (table.start_time < end)
        & ((table.stop_time == 0) | (table.stop_time > table.start_time))
    )


def _with_resources(chosen: ColumnElement[bool]) -> Select[Any]:
    """The chosen jobs, by ascending id: who, when, and how many resources they were given."""
    table, assigned = oar_tables.started.c, oar_tables.assigned.c
    held = (
        select(table.job_id, func.count().label("resources"))
        .join_from(
            oar_tables.started,
            oar_tables.assigned,
            assigned.moldable_job_id == table.assigned_moldable_job,
        )
        .where(chosen)
        .group_by(table.job_id)
        .subquery()
    )
    return (
        select(
            table.job_id,
            table.job_user,
            table.project,
            table.queue_name,
            func.coalesce(table.properties, ""),
            table.submission_time,
            table.start_time,
            held.c.resources,
        )
        .join_from(oar_tables.started, held, held.c.job_id == table.job_id)
        .order_by(table.job_id)
    )

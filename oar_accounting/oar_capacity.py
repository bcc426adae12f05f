"""What the machine could give: when OAR's resources were there, and how much of a metric they are.

A resource is there while its state is Alive or Absent: a node that sleeps to save energy is Absent,
and OAR wakes it. What its properties are now, they are taken to have been always.
"""

from dataclasses import dataclass

import numpy as np
from sqlalchemy import Connection, func, select

from oar_accounting import bulk, oar_tables
from oar_accounting.columns import OPEN, Columns, Ints
from oar_accounting.metrics import Held, Metric, Resources, held_amounts, rates_of
from oar_accounting.oar_jobs import check_columns

THERE = ("Alive", "Absent")


@dataclass(frozen=True, slots=True)
class Capacity(Columns):
    """Half-open spans with the amount per second that was there, in unit / scale of a metric."""

    start: Ints
    stop: Ints
    rate: Ints


@dataclass(frozen=True, slots=True)
class Presence(Columns):
    """When which resource was there, half-open; `OPEN` while it is."""

    resource_id: Ints
    start: Ints
    stop: Ints


def read_presence(connection: Connection, since: int | None) -> Presence:
    """When OAR's resources were there, of what lasted beyond *since*, epoch seconds.

    Raises :class:`oar_accounting.errors.OarSchemaError` where OAR's table cannot be read.
    """
    check_columns(connection, oar_tables.resource_logs)
    table = oar_tables.resource_logs.c
    query = select(table.resource_id, table.date_start, func.coalesce(table.date_stop, 0)).where(
        table.attribute == "state", table.value.in_(THERE)
    )
    if since is not None:
        lasted = func.coalesce(table.date_stop, 0)
        query = query.where((lasted == 0) | (lasted > since))
    resource_id, start, stop = bulk.read_ints(connection, query)
    found = Presence(resource_id, start, np.where(stop == 0, OPEN, stop))
    return found.take(found.stop > found.start)


def capacity_of(metric: Metric, resources: Resources, presence: Presence) -> Capacity | None:
    """What there was of a metric; None for a formula, and where OAR has logged no resource.

    A value that several resources share, as the address of a node, is there while one of them is.
    """
    if metric.form == "formula" or not len(presence):
        return None
    rows = np.arange(len(resources.resource_id))
    rates = rates_of(metric, held_amounts(metric, Held(rows, rows), resources, len(rows)))
    shared = metric.of if metric.form == "distinct" else metric.per
    codes = resources.codes(shared) if shared else rows
    row = np.searchsorted(resources.resource_id, presence.resource_id)
    row = np.minimum(row, max(len(rows) - 1, 0))
    known = resources.resource_id[row] == presence.resource_id if len(rows) else rows != rows
    presence, row = presence.take(known), row[known]
    counts = (codes[row] >= 0) & (rates[row] > 0)
    return _joined(codes[row[counts]], presence.take(counts), rates[row[counts]])


def _joined(code: Ints, presence: Presence, rate: Ints) -> Capacity:
    """The spans of each code, those that overlap or touch made one."""
    count = len(code)
    instant = np.concatenate([presence.start, presence.stop])
    step = np.repeat([1, -1], count)
    # Of a code the spans that begin at an instant come before those that end.
    order = np.lexsort((-step, instant, np.concatenate([code, code])))
    instant, step = instant[order], step[order]
    there = np.cumsum(step)
    begins = np.flatnonzero((step == 1) & (there == 1))
    ends = np.flatnonzero(there == 0)
    return Capacity(instant[begins], instant[ends], rate[order[begins]])

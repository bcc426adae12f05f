"""What the machine could give: when OAR's resources were there, and how much of a metric they are.

For karma a resource is there while its state is Alive or Absent: a node that sleeps to save energy
is Absent, and OAR wakes it. For `utilisation` every second is told as OAR's ``resource_logs`` has
it. What the properties of a resource are is told by `properties`, for both. OAR logs the state of
a resource from its creation on:

* before the first log of its state a resource was not there; one that has none was always as it is
  now, and the `MachineLog.notes` say how many these are;
* a state holds until the next one begins, also over a gap between two logs; of logs that overlap
  the one that began later holds, and of those that began together the one with the higher id;
* after its last log, where that is closed, a resource is in the state that it has now;
* a log that stops before it starts, or when it starts, takes no time;
* a resource is standby, not down, while it is Absent and its ``available_upto`` has not passed: so
  OAR itself tells what sleeps to save energy. Where OAR has no such column, Absent is down;
* what OAR no longer has in ``resources`` has no capacity: ``oarremoveresource`` takes its logs and
  its jobs with it, and logs that are left are not counted, which the notes say.
"""

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from sqlalchemy import Connection, Select, case, func, select

from oar_accounting.core.columns import (
    LARGEST,
    OPEN,
    Bools,
    Columns,
    Ints,
    ints,
    located,
    repeated,
)
from oar_accounting.database import bulk
from oar_accounting.database.id_blocks import SPARSE_BLOCK, among, is_dense
from oar_accounting.metrics.metric import Held, Metric, held_amounts, rates_of
from oar_accounting.oar import oar_tables
from oar_accounting.oar.checking import check_columns
from oar_accounting.oar.machine import (
    ABSENT,
    ALIVE,
    OTHER,
    UP,
    History,
    Logs,
    Stretches,
    best_of,
    levels,
    state_history,
    until,
)
from oar_accounting.oar.properties import Believed, Kinds, PropertyLogs, read_kinds
from oar_accounting.oar.snapshot import PAIRS_AT_ONCE, Snapshot

THERE = ("Alive", "Absent")

STATE, AVAILABLE_UPTO = "state", "available_upto"


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


def capacity_of(metric: Metric, kinds: Kinds, presence: Presence) -> Capacity | None:
    """What there was of a metric; None for a formula, and where OAR has logged no resource.

    A value that several resources share, as the address of a node, is there while one of them is.
    """
    if metric.form == "formula" or not len(presence):
        return None
    table = kinds.table
    rows = np.arange(len(table.resource_id))
    rates = rates_of(metric, held_amounts(metric, Held(rows, rows), table, len(rows)))
    shared = metric.of if metric.form == "distinct" else metric.per
    codes = table.codes(shared) if shared else _owners(kinds)
    spans, kind = _in_kinds(kinds, presence)
    counts = (codes[kind] >= 0) & (rates[kind] > 0)
    spans, kind = spans.take(counts), kind[counts]
    varying = _varying(codes, rates)[codes[kind]]
    steady = _joined(codes[kind[~varying]], spans.take(~varying), rates[kind[~varying]])
    if not varying.any():
        return steady
    spans, kind = spans.take(varying), kind[varying]
    level = np.full(len(spans), UP)
    stretches = Stretches(spans.resource_id, spans.start, spans.stop, level, kind)
    best, most = best_of(codes[kind], rates[kind], stretches)
    return Capacity.concat([steady, Capacity(best.start, best.stop, most)])


def _owners(kinds: Kinds) -> Ints:
    """Per row of the table the number of its resource."""
    owner: Ints = np.zeros(len(kinds.table.resource_id), np.int64)
    owner[kinds.history.value] = kinds.history.owner
    return owner


def _varying(codes: Ints, rates: Ints) -> Bools:
    """By code, whether its rows do not all have the same rate."""
    known = codes >= 0
    size = int(codes.max(initial=0)) + 1
    lowest, highest = np.full(size, LARGEST), np.zeros(size, np.int64)
    np.minimum.at(lowest, codes[known], rates[known])
    np.maximum.at(highest, codes[known], rates[known])
    return lowest < highest


def _in_kinds(kinds: Kinds, presence: Presence) -> tuple[Presence, Ints]:
    """What was there of each kind: the spans cut where kinds change, and their rows of the table.

    Resources that OAR no longer has are left out.
    """
    owner, known = located(presence.resource_id, kinds.resource_id)
    presence, owner = presence.take(known), owner[known]
    history = kinds.history
    if kinds.unchanging:
        return presence, history.value[owner]
    first = np.searchsorted(history.owner, owner, "left")
    span, nth = repeated(np.searchsorted(history.owner, owner, "right") - first)
    row = first[span] + nth
    start = np.maximum(presence.start[span], history.since[row])
    stop = np.minimum(presence.stop[span], until(history)[row])
    found = Presence(presence.resource_id[span], start, stop)
    lasts = start < stop
    return found.take(lasts), history.value[row[lasts]]


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


# -- every second -----------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class MachineLog:
    """What OAR tells of its resources over time; owners are rows of *resource_id*."""

    level: History  #: UP, STANDBY or DOWN, by row of the resources of *kinds*
    kinds: Kinds
    first: int | None  #: epoch seconds UTC: when a resource was logged first
    notes: tuple[str, ...]  #: what an administrator should know, one line each


def read_machine(  # noqa: PLR0913 - one reading
    snapshot: Snapshot,
    present: Collection[str],
    metrics: Sequence[Metric],
    dimension: str,
    since: int,
    believed: Believed | None,
) -> MachineLog:
    """OAR's resources with what the metrics need, from *since* on; states from the first on.

    *present*: the columns that OAR has; *believed* as for `read_kinds`. Raises
    :class:`oar_accounting.errors.OarSchemaError` where OAR's logs cannot be read.
    """
    check_columns(snapshot.connection, oar_tables.resource_logs)
    kinds = read_kinds(snapshot, metrics, dimension, since, believed)
    own = [name for name in (STATE, AVAILABLE_UPTO) if name in present]
    resources = snapshot.resources(tuple(own))
    logged = _state_logs(snapshot.connection)
    told, known = _of_owners(logged, resources.resource_id)
    # Without a column that tells their state, resources are taken to be alive.
    now = resources.properties.get(STATE) or ["Alive"] * len(resources.resource_id)
    states = state_history(told, ints([_state_number(each) for each in now]))
    upto = None
    if AVAILABLE_UPTO in own:
        logs = PropertyLogs(snapshot.connection, resources, {AVAILABLE_UPTO}, since)
        upto = logs.history(AVAILABLE_UPTO, _seconds)
    return MachineLog(
        level=levels(states, upto),
        kinds=kinds,
        first=int(told.start.min()) if len(told) else None,
        notes=tuple(_notes(len(resources.resource_id), told, logged.owner[~known])),
    )


def _state_number(state: Any) -> int:
    return {"Alive": ALIVE, "Absent": ABSENT}.get(str(state), OTHER)


def _seconds(value: Any) -> int:
    """The instant that OAR has as a number, or as its text; 0 for what is none."""
    try:
        return int(value or 0)
    except ValueError:
        return 0


def _state_logs(connection: Connection) -> Logs:
    """The logs of states; their owners are ids of resources as yet."""
    table = oar_tables.resource_logs.c
    state = case((table.value == "Alive", ALIVE), (table.value == "Absent", ABSENT), else_=OTHER)
    query = select(
        table.resource_id,
        table.resource_log_id,
        table.date_start,
        func.coalesce(table.date_stop, 0),
        state,
    ).where(table.attribute == STATE)
    resource_id, number, start, stop, value = bulk.read_ints(connection, query)
    stop = np.where(stop == 0, OPEN, stop)
    return Logs(resource_id, number, start, stop, value)


def _of_owners(logs: Logs, resource_id: Ints) -> tuple[Logs, Bools]:
    """The logs of resources that are there, with their rows as owners; and which these are."""
    row, known = located(logs.owner, resource_id)
    return replace(logs, owner=row).take(known), known


def _notes(resources: int, told: Logs, strange: Ints) -> Iterator[str]:
    if silent := resources - len(np.unique(told.owner)):
        yield (
            f"resources of which OAR has logged no state: {silent}; they count as they are now, "
            "at all times"
        )
    if gone := len(np.unique(strange)):
        yield f"resources that OAR has logs of, but no longer has: {gone}; they have no capacity"


def assigned_among(
    connection: Connection, block: Ints, resource_id: Ints
) -> Iterator[tuple[Ints, Ints]]:
    """The jobs of a block and the resources they were assigned, as pairs, some at a time.

    *block*: of `id_blocks`. The pairs have all of these resources, which ascend, and may have
    others.
    """
    jobs, assigned = oar_tables.jobs.c, oar_tables.assigned.c
    joined_tables = oar_tables.jobs.join(
        oar_tables.assigned, assigned.moldable_job_id == jobs.assigned_moldable_job
    )
    query: Select[Any] = (
        select(jobs.job_id, assigned.resource_id)
        .select_from(joined_tables)
        .where(among(block, jobs.job_id))
    )
    if len(resource_id) <= SPARSE_BLOCK or is_dense(resource_id):
        query = query.where(among(resource_id, assigned.resource_id))
    limited = query.limit(PAIRS_AT_ONCE) if len(block) > 1 else query
    job_id, found = bulk.read_ints(connection, limited)
    if len(job_id) == PAIRS_AT_ONCE and len(block) > 1:
        for half in np.array_split(block, 2):
            yield from assigned_among(connection, half, resource_id)
    else:
        yield job_id, found

"""What the properties of OAR's resources were at every instant; one function for all who ask.

OAR logs a property in ``resource_logs`` where somebody changes it: the open row is closed, and a
new one begins. Never logged are a value that equals the column's default or that a node was
created with, one that was written by hand, and what a column that is added gives to all. So
a property is, at any instant,

* what the row says that is open then; of several the one that began last, of those that began
  together the one with the highest id;
* where none is open, what the next row says;
* where none follows, what it is today: nothing, if it was dropped (``oarproperty -d``, which keeps
  the log).

A row that stops before it starts, or when it starts, takes no time and tells nothing; the text
``<unset>`` is no value. Before the instant from which a site believes the log of a property, the
value is the one of that instant: a mistake that was mended is in the log, too.
"""

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from sqlalchemy import Connection, func, or_, select

from oar_accounting.core.columns import OPEN, Bools, Ints, ints, located, repeated
from oar_accounting.core.exact import Exact
from oar_accounting.database import bulk
from oar_accounting.metrics.metric import (
    Metric,
    Resources,
    largest_values,
    own_values,
    summed_per,
)
from oar_accounting.oar import oar_tables
from oar_accounting.oar.checking import resource_log_unread
from oar_accounting.oar.job_rules import Terms
from oar_accounting.oar.machine import (
    UP,
    History,
    Logs,
    Stretches,
    best_of,
    changes_of,
    joined,
    property_history,
    steady_until,
    until,
)
from oar_accounting.oar.snapshot import Snapshot

#: What OAR logs of a property that has no value.
UNSET = "<unset>"

Believed = Mapping[str, int]


@dataclass(frozen=True, slots=True, kw_only=True)
class Kinds:
    """What OAR's resources were."""

    resource_id: Ints  #: ascending
    history: History  #: row of the *table*, by row of *resource_id*
    table: Resources  #: every resource with its properties, once more after each change

    @property
    def unchanging(self) -> bool:
        """True where every resource is of one kind, whose row in the table is its own."""
        return len(self.history) == len(self.resource_id)

    def counted(self) -> Ints:
        """1 for the resources that ever were of type default, by row of *resource_id*, else 0."""
        default = self.table.of_type("default")[self.history.value]
        found = np.zeros(len(self.resource_id), np.int64)
        np.maximum.at(found, self.history.owner, default)
        return found


def believed_of(terms: Terms) -> Believed | None:
    """From when on a site believes the log of properties.

    None in the profile "classic", which knows only what they are today, of jobs and of the machine.
    """
    return None if terms.profile == "classic" else dict(terms.property_since)


def read_kinds(
    snapshot: Snapshot,
    metrics: Iterable[Metric],
    dimension: str,
    since: int,
    believed: Believed | None,
) -> Kinds:
    """OAR's resources with what the metrics and the *dimension* need, from *since* on.

    *since*: epoch seconds UTC. *believed*: by property, from when on its log is believed. Where
    this is None, or the log cannot be read, the properties are those of today.
    """
    held = [part for metric in metrics for part in (metric, *metric.parts)]
    properties = properties_of(held, dimension)
    resources = snapshot.resources(properties)
    if believed is None or resource_log_unread(snapshot.connection):
        return of_today(resources)
    logs = PropertyLogs(snapshot.connection, resources, {"type", *properties}, since)
    if not logs.any():
        return of_today(resources)
    kinds = kinds_of(logs, resources, properties, believed)
    for summed in {summed_per(part) for part in held if part.form == "sum" and part.per}:
        kinds = with_largest(kinds, summed)
    return kinds


def properties_of(metrics: Iterable[Metric], dimension: str) -> tuple[str, ...]:
    """The properties that the metrics and the dimension need, sorted."""
    wanted = {name for metric in metrics for name in metric.properties}
    return tuple(sorted(wanted | ({dimension} - {""})))


def of_today(resources: Resources) -> Kinds:
    """The resources, taken to have been always as they are."""
    rows = np.arange(len(resources.resource_id))
    history = History(rows, np.full(len(rows), -OPEN), rows)
    return Kinds(resource_id=resources.resource_id, history=history, table=resources)


class PropertyLogs:
    """The logs of properties, read at once, and the values as they are now."""

    def __init__(
        self, connection: Connection, resources: Resources, names: Collection[str], since: int
    ) -> None:
        """*since*: epoch seconds; rows that ended by then are not read."""
        self._resources = resources
        table = oar_tables.resource_logs.c
        stop = func.coalesce(table.date_stop, 0)
        query = select(
            table.attribute,
            table.resource_id,
            table.resource_log_id,
            table.date_start,
            stop,
            table.value,
        ).where(table.attribute.in_(sorted(names)), or_(stop == 0, stop > since))
        self._rows: dict[str, list[Any]] = {name: [] for name in names}
        for name, *row in connection.execute(query):
            # A database may not tell capital letters from small ones.
            if name in self._rows:
                self._rows[name].append(row)

    def any(self) -> bool:
        """True where something is logged."""
        return any(self._rows.values())

    def history(
        self, name: str, number_of: Callable[[Any], int], believed: int | None = None
    ) -> History:
        """What a property was, each value by the number that is given to it."""
        rows = self._rows[name]
        columns = [ints([row[place] for row in rows]) for place in range(4)]
        values = ints([number_of(None if row[4] == UNSET else row[4]) for row in rows])
        stop = np.where(columns[3] == 0, OPEN, columns[3])
        resources = self._resources
        owner, known = located(columns[0], resources.resource_id)
        logs = Logs(owner, columns[1], columns[2], stop, values).take(known)
        current = resources.type if name == "type" else resources.properties[name]
        now = ints([number_of(value) for value in current])
        found = property_history(logs, now)
        return found if believed is None else steady_until(found, believed)


class _ValueNumbers:
    """A number for each different value, in the order in which they are seen."""

    def __init__(self) -> None:
        self.seen: dict[str | None, int] = {}

    def of(self, value: Any) -> int:
        """The number of a value."""
        return self.seen.setdefault(text_of(value), len(self.seen))


def kinds_of(
    logs: PropertyLogs, resources: Resources, properties: Sequence[str], believed: Believed
) -> Kinds:
    """Every resource with the properties that it had, and when it had them."""
    names = ("type", *(name for name in properties if name != "type"))
    histories, values = [], {}
    for name in names:
        numbers = _ValueNumbers()
        histories.append(logs.history(name, numbers.of, believed.get(name)))
        values[name] = list(numbers.seen)
    kind, numbered = joined(histories)
    texts = {
        name: [values[name][number] for number in column.tolist()]
        for name, column in zip(names, numbered, strict=True)
    }
    table = Resources(
        resource_id=resources.resource_id[kind.owner], type=texts["type"], properties=texts
    )
    return Kinds(resource_id=resources.resource_id, history=kind, table=table)


def with_largest(kinds: Kinds, metric: Metric) -> Kinds:
    """The same with what a metric, summed once per value of a property, takes at every time.

    Raises as :func:`oar_accounting.metrics.metric.held_amounts`.
    """
    whole = largest_values(metric, kinds.table)
    if kinds.unchanging:
        return kinds
    history = kinds.history
    values, shared = own_values(metric, kinds.table), kinds.table.codes(metric.per)
    changing = np.zeros(int(shared.max(initial=0)) + 1, np.bool_)
    several = np.bincount(history.owner, minlength=len(kinds.resource_id)) > 1
    changing[shared[several[history.owner] & (shared >= 0)]] = True
    cut = (shared >= 0) & changing[shared]
    of_time = _largest_of_time(history, shared, values.numbers, cut)
    rest = History(history.owner, history.since, whole.numbers).take(~cut)
    largest = changes_of(History.concat([rest, of_time]))
    found, (row, value) = joined([history, largest])
    table = kinds.table.taken(row)
    return replace(
        kinds,
        history=found,
        table=replace(table, largest={**table.largest, metric: Exact(value, values.step)}),
    )


def _largest_of_time(history: History, shared: Ints, values: Ints, chosen: Bools) -> History:
    """At every time the largest of the *values* of those that share a number, for each owner."""
    stop, shared, values = until(history)[chosen], shared[chosen], values[chosen]
    rows = history.take(chosen)
    level = np.full(len(rows), UP)
    best, most = best_of(shared, values, Stretches(rows.owner, rows.since, stop, level, level))
    first = np.searchsorted(best.owner, shared, "left")
    row, nth = repeated(np.searchsorted(best.owner, shared, "right") - first)
    one = first[row] + nth
    start = np.maximum(rows.since[row], best.start[one])
    found = History(rows.owner[row], start, most[one])
    return found.take(start < np.minimum(stop[row], best.stop[one]))


def text_of(value: Any) -> str | None:
    """A value as OAR logs it: numbers as text, and an empty text is no value."""
    return None if value is None or value == "" else str(value)


def logged_since(connection: Connection, properties: Collection[str], since: int) -> Ints:
    """The resources of which OAR has logged one of the *properties* since then, ascending."""
    table = oar_tables.resource_logs.c
    query = (
        select(table.resource_id)
        .where(table.attribute.in_(sorted({"type", *properties})), table.date_start >= since)
        .distinct()
    )
    return np.sort(bulk.read_ints(connection, query)[0])


def last_logged(connection: Connection) -> int:
    """The number of OAR's last log of a resource; 0 where there is none."""
    query = select(func.coalesce(func.max(oar_tables.resource_logs.c.resource_log_id), 0))
    return int(connection.execute(query).scalar_one())


def logged_after(connection: Connection, properties: Collection[str], number: int) -> bool:
    """True where one of the *properties* was logged after the log of this *number*."""
    table = oar_tables.resource_logs.c
    query = select(table.resource_log_id).where(
        table.resource_log_id > number, table.attribute.in_(sorted({"type", *properties}))
    )
    return connection.execute(query.limit(1)).first() is not None


@dataclass(frozen=True, slots=True, kw_only=True)
class Assumed:
    """What is not known of a property, as numbers of resources."""

    property: str
    unlogged: int  #: of which nothing is logged: it is taken to have been always as it is today
    differing: int  #: that are otherwise today than the open row says, which counts


def assumed(snapshot: Snapshot, properties: Sequence[str]) -> list[Assumed]:
    """What is assumed of these properties."""
    resources = snapshot.resources(tuple(properties))
    table = oar_tables.resource_logs.c
    query = select(
        table.attribute, table.resource_id, func.coalesce(table.date_stop, 0), table.value
    ).where(table.attribute.in_(sorted(properties)))
    logged: dict[str, set[int]] = {name: set() for name in properties}
    last: dict[tuple[str, int], str | None] = {}
    for name, resource, stop, value in snapshot.connection.execute(query):
        if name in logged:
            logged[name].add(resource)
            if not stop:
                last[name, resource] = None if value == UNSET else text_of(value)
    found = []
    for name in properties:
        current = zip(resources.resource_id.tolist(), resources.properties[name], strict=True)
        today = {resource: text_of(value) for resource, value in current}
        others = sum(last.get((name, each), now) != now for each, now in today.items())
        unlogged = len(today.keys() - logged[name])
        found.append(Assumed(property=name, unlogged=unlogged, differing=others))
    return found

"""The machine over time: what its resources were at every second, and how much that is of a metric.

Pure arithmetic over columns. Times are epoch seconds UTC, spans are half-open. What lasts is told
by its changes: a `History` holds from each of its rows until the next one of the same owner.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from oar_accounting.core.columns import (
    LARGEST,
    OPEN,
    Bools,
    Columns,
    Ints,
    exact_product,
    exact_sums,
    group_starts,
    ints,
    row_order,
)
from oar_accounting.core.exact import Exact
from oar_accounting.errors import AmountOverflow
from oar_accounting.metrics.metric import Held, Metric, Resources, held_amounts, rates_of

#: States as OAR logs them: only these two matter, all others are OTHER.
ALIVE, ABSENT, OTHER = 0, 1, 2

#: Levels of a resource, the best first; before its first log it is not there.
GONE, UP, STANDBY, DOWN = -1, 0, 1, 2
LEVELS = (UP, STANDBY, DOWN)


@dataclass(frozen=True, slots=True)
class Logs(Columns):
    """What was logged of some owners: half-open, `OPEN` while it lasts; *number* breaks ties."""

    owner: Ints
    number: Ints
    start: Ints
    stop: Ints
    value: Ints


@dataclass(frozen=True, slots=True)
class History(Columns):
    """From *since* on the owner has the value, until its next row; sorted by owner and time."""

    owner: Ints
    since: Ints
    value: Ints


@dataclass(frozen=True, slots=True)
class Stretches(Columns):
    """Half-open spans in which a resource was there, on one level and of one kind."""

    owner: Ints
    start: Ints
    stop: Ints
    level: Ints
    kind: Ints  #: row of the `Resources` that tell the kinds


@dataclass(frozen=True, slots=True, kw_only=True)
class Measure:
    """A held metric, and by kind of resource: how much one is, whether it counts at all."""

    metric: Metric
    amounts: Exact
    counts: Bools
    shared: Ints | None  #: a number for what several resources share; None: each counts for itself


@dataclass(frozen=True, slots=True)
class Levels(Columns):
    """Amounts per second from *since* on, until the next row; nothing before the first."""

    since: Ints
    up: Ints
    awake: Ints  #: up or standby
    there: Ints  #: these or down


@dataclass(frozen=True, slots=True)
class UseSteps(Columns):
    """What jobs use per second from *since* on, until the next row; nothing before the first."""

    since: Ints
    rate: Ints


@dataclass(frozen=True, slots=True)
class Filled(Columns):
    """Amounts per bucket: ``capacity = down + standby + used + free``."""

    capacity: Ints
    down: Ints
    standby: Ints
    used: Ints
    free: Ints
    over: Ints


# -- histories --------------------------------------------------------------------------------


def state_history(logs: Logs, now: Ints) -> History:
    """What the logs tell of each owner's state; *now* is that of every owner, from 0 on.

    A state holds until the next one begins, also over a gap or into another that was not closed;
    what begins together is told by the highest number. After the last log, where it is closed, the
    state is what it is *now*; so it is throughout where there is no log. What takes no time tells
    nothing but that the owner was there. Before the first log there is nothing.
    """
    timed = logs.take(logs.stop > logs.start)
    timed = timed.take(np.lexsort((timed.number, timed.start, timed.owner)))
    last = _ends([timed.owner])
    closed = timed.take(last).take(timed.stop[last] != OPEN)
    rest = np.setdiff1d(np.arange(len(now)), timed.owner)
    found = History.concat(
        [
            History(timed.owner, timed.start, timed.value),
            History(closed.owner, closed.stop, now[closed.owner]),
            History(rest, _first_seen(logs, rest), now[rest]),
        ]
    )
    return _in_order(found)


def property_history(logs: Logs, now: Ints) -> History:
    """What the logs tell of each owner's property, for ever; *now* is that of every owner, from 0.

    At any instant it is what the log says that is open then: of several the one that began last,
    of these the one with the highest number. Where none is, it is what the next one says, and
    *now* where none follows. A log that takes no time tells nothing.
    """
    timed = logs.take(logs.stop > logs.start)
    timed = timed.take(np.lexsort((timed.number, timed.start, timed.owner)))
    follows = timed.owner[1:] == timed.owner[:-1]
    tangled = np.unique(timed.owner[1:][follows & (timed.start[1:] < timed.stop[:-1])])
    mixed = np.isin(timed.owner, tangled)
    plain = timed.take(~mixed)
    since = np.full(len(plain), -OPEN)
    follows = plain.owner[1:] == plain.owner[:-1]
    since[1:][follows] = plain.stop[:-1][follows]
    last = _ends([plain.owner])
    ended = plain.take(last).take(plain.stop[last] != OPEN)
    rest = np.setdiff1d(np.arange(len(now)), timed.owner)
    return changes_of(
        History.concat(
            [
                History(plain.owner, since, plain.value),
                History(ended.owner, ended.stop, now[ended.owner]),
                History(rest, np.full(len(rest), -OPEN), now[rest]),
                _untangled(timed.take(mixed), now),
            ]
        )
    )


def _untangled(timed: Logs, now: Ints) -> History:
    """The same of owners whose logs overlap, which only a hand can have written."""
    rows: list[tuple[int, int, int]] = []
    for owner in np.unique(timed.owner).tolist():
        own = timed.take(timed.owner == owner)
        for instant in np.unique(np.concatenate([[-OPEN], own.start, own.stop])).tolist():
            rows.append((owner, instant, _value_at(own, instant, int(now[owner]))))
    owners, since, values = zip(*rows, strict=True) if rows else ((), (), ())
    return History(ints(owners), ints(since), ints(values)).take(ints(since) != OPEN)


def _value_at(logs: Logs, instant: int, now: int) -> int:
    """By one owner's logs, sorted by start and number."""
    found = np.flatnonzero((logs.start <= instant) & (instant < logs.stop))
    if len(found):
        return int(logs.value[found[-1]])
    later = logs.take(logs.start > instant)
    if not len(later):
        return now
    return int(later.value[np.flatnonzero(later.start == later.start[0])[-1]])


def steady_until(rows: History, instant: int) -> History:
    """The same, but that until *instant* each owner has the value of that instant."""
    rows = rows.take(until(rows) > instant)
    return replace(rows, since=np.where(rows.since <= instant, -OPEN, rows.since))


def changes_of(rows: History) -> History:
    """In order, without what says the same as what is before it."""
    rows = _in_order(rows)
    same = (rows.owner[1:] == rows.owner[:-1]) & (rows.value[1:] == rows.value[:-1])
    return rows.take(np.append(np.ones(min(len(rows), 1), np.bool_), ~same))


def _first_seen(logs: Logs, owners: Ints) -> Ints:
    """When each owner first stands in the logs; always, where it does not."""
    seen = np.full(int(owners.max(initial=-1)) + 1, OPEN)
    ours = logs.take(np.isin(logs.owner, owners))
    np.minimum.at(seen, ours.owner, ours.start)
    return np.where(seen[owners] == OPEN, -OPEN, seen[owners])


def _in_order(rows: History) -> History:
    """Sorted, of what begins together the last."""
    rows = rows.take(np.lexsort((rows.since, rows.owner)))
    return rows.take(_ends([rows.owner, rows.since]))


def _ends(keys: Sequence[Ints]) -> Ints:
    """Where each run of equal keys ends; the keys are sorted."""
    starts = group_starts(keys)
    return np.append(starts[1:], len(keys[0]))[: len(starts)] - 1


def until(rows: History) -> Ints:
    """When each row of a history ends; `OPEN` for the last of an owner."""
    stop = np.full(len(rows), OPEN)
    follows = rows.owner[1:] == rows.owner[:-1]
    stop[:-1][follows] = rows.since[1:][follows]
    return stop


def joined(histories: Sequence[History]) -> tuple[History, list[Ints]]:
    """One history that changes whenever any of them does, and the values of each along it.

    The value is -1 before the first of an owner; those of the joined history are row numbers.
    """
    owner, since = (
        np.concatenate([getattr(each, name) for each in histories]) for name in ("owner", "since")
    )
    source = np.repeat(np.arange(len(histories)), [len(each) for each in histories])
    value = np.concatenate([each.value for each in histories])
    order = np.lexsort((since, owner))
    owner, since, source, value = owner[order], since[order], source[order], value[order]
    ends = _ends([owner, since])
    values = []
    for number in range(len(histories)):
        at = np.maximum.accumulate(np.where(source == number, np.arange(len(owner)), -1))[ends]
        known = (at >= 0) & (owner[at] == owner[ends])
        values.append(np.where(known, value[at], -1))
    return History(owner[ends], since[ends], np.arange(len(ends))), values


def levels(states: History, available_upto: History | None) -> History:
    """The level of each owner: UP while Alive, STANDBY while Absent and available, else DOWN.

    *available_upto*: the last second in which OAR would wake it; None: it wakes nothing.
    """
    if available_upto is None:
        return replace(states, value=np.where(states.value == ALIVE, UP, DOWN))
    found, (state, upto) = joined([states, available_upto])
    sleeps = (state == ABSENT) & (upto >= found.since)
    level = np.select([state == GONE, state == ALIVE, sleeps], [GONE, UP, STANDBY], DOWN)
    ends = sleeps & (upto < until(found) - 1)
    late = History(found.owner[ends], upto[ends] + 1, np.full(int(ends.sum()), DOWN))
    return _in_order(History.concat([replace(found, value=level), late]))


def busy_history(owner: Ints, start: Ints, stop: Ints) -> History:
    """UP while an owner is in one of these spans, which may overlap, and GONE between them."""
    instant = np.concatenate([start, stop])
    step = np.repeat([1, -1], len(owner))
    whose = np.concatenate([owner, owner])
    order = row_order([whose, instant]) if len(owner) else ints([])
    whose, instant = whose[order], instant[order]
    jobs = np.cumsum(step[order])
    ends = _ends([whose, instant])
    return changes_of(History(whose[ends], instant[ends], np.where(jobs[ends] > 0, UP, GONE)))


def with_busy(level: History, busy: History) -> History:
    """The levels, but that what is there is UP while it is *busy*."""
    if not len(busy):
        return level
    found, (before, used) = joined([level, busy])
    return replace(found, value=np.where((used == UP) & (before != GONE), UP, before))


def stretches(level: History, kinds: History, start: int, stop: int) -> Stretches:
    """What was there within ``[start, stop)``, by owner and time."""
    found, (at_level, kind) = joined([within(level, start, stop), within(kinds, start, stop)])
    rows = Stretches(found.owner, found.since, until(found), at_level, kind)
    rows = replace(rows, start=np.maximum(rows.start, start), stop=np.minimum(rows.stop, stop))
    return rows.take((rows.level != GONE) & (rows.kind >= 0) & (rows.start < rows.stop))


def within(rows: History, start: int, stop: int) -> History:
    """The rows that hold within ``[start, stop)``."""
    return rows.take((rows.since < stop) & (until(rows) > start))


def touching(spans: Stretches, owner: Ints, start: Ints, stop: Ints) -> Bools:
    """Which of these spans of owners meet a stretch of the same owner.

    The *spans* are those of one page, by owner and time, apart from each other.
    """
    if not len(spans) or not len(owner):
        return np.zeros(len(owner), np.bool_)
    first, width = int(spans.start.min()), int(spans.stop.max() - spans.start.min()) + 1
    begin = np.clip(start - first, 0, width - 1)
    at = np.searchsorted(spans.owner * width + spans.stop - first, owner * width + begin, "right")
    near = np.minimum(at, len(spans) - 1)
    meets: Bools = (at < len(spans)) & (spans.owner[near] == owner) & (spans.start[near] < stop)
    return meets


# -- amounts ----------------------------------------------------------------------------------


def measured(metric: Metric, kinds: Resources, dimension: str) -> Measure:
    """How much of a held metric each kind of resource is.

    A value that several resources share, as the address of a node, is counted once for each value
    of the *dimension* property. Raises as :func:`oar_accounting.metrics.metric.held_amounts`.
    """
    rows = np.arange(len(kinds.resource_id))
    amounts = held_amounts(replace(metric, per=""), Held(rows, rows), kinds, len(rows))
    counts = kinds.of_type(metric.type) != 0
    shared = metric.of if metric.form == "distinct" else metric.per
    if not shared:
        return Measure(metric=metric, amounts=amounts, counts=counts, shared=None)
    code = kinds.codes(shared)
    key = _keys(kinds.values_of(dimension)[0], code)
    return Measure(metric=metric, amounts=amounts, counts=counts & (code >= 0), shared=key)


def steps_of(measure: Measure, found: Stretches) -> Levels:
    """What of a metric was up, awake and there, per second in unit / scale.

    What is shared is there while one of its resources is, on the best of their levels, and is as
    much as the largest of them. Rounded once for all of the machine, half to even.
    Raises :class:`AmountOverflow`.
    """
    found = found.take(measure.counts[found.kind])
    amount = measure.amounts.numbers[found.kind]
    if measure.shared is not None:
        found, amount = best_of(measure.shared[found.kind], amount, found)
    exact = _stacked(found, amount)
    step = measure.amounts.step
    parts = (rates_of(measure.metric, Exact(p, step)) for p in (exact.up, exact.awake, exact.there))
    return Levels(exact.since, *parts)


def _keys(value: Ints, code: Ints) -> Ints:
    """A number per row for the pair of a value of the dimension and a code."""
    width = int(code.max(initial=-1)) + 2
    number: Ints = np.unique(value * width + code + 1, return_inverse=True)[1]
    return number


def best_of(key: Ints, amount: Ints, found: Stretches) -> tuple[Stretches, Ints]:
    """Of each key the best level and the largest amount of what is there, where it changes."""
    if not len(key):
        return found, amount
    whose, instant = np.concatenate([key, key]), np.concatenate([found.start, found.stop])
    order = row_order([whose, instant])
    whose, instant = whose[order], instant[order]
    row, step = order % len(key), np.where(order < len(key), 1, -1)
    ends = _ends([whose, instant])

    def counted(chosen: Bools) -> Ints:
        there: Ints = np.cumsum(np.where(chosen[row], step, 0))[ends]
        return there

    up, awake = counted(found.level <= UP) > 0, counted(found.level <= STANDBY) > 0
    there = counted(found.level <= DOWN) > 0
    most = np.zeros(len(ends), np.int64)
    rank, values = _ranked(key, amount)
    open_rows = there.copy()
    for place in range(values.shape[1]):
        these = open_rows & (counted(rank == place) > 0)
        most[these] = values[whose[ends[these]], place]
        open_rows &= ~these
    # A key always ends with nothing there, so that what follows a row with something is its end.
    follows = np.flatnonzero(there)
    owner, since = whose[ends], instant[ends]
    level = np.select([up, awake], [UP, STANDBY], DOWN)
    best = Stretches(
        owner[follows],
        since[follows],
        since[follows + 1],
        level[follows],
        np.zeros(len(follows), np.int64),
    )
    return best, most[follows]


def _ranked(key: Ints, amount: Ints) -> tuple[Ints, Ints]:
    """Per row the rank of its amount among those of its key, the largest first; and the amounts.

    These are by key and rank; a rank that a key has not got is 0.
    """
    order = np.lexsort((-amount, key))
    starts = group_starts([key[order], amount[order]])
    fresh = np.zeros(len(key), np.int64)
    fresh[starts] = 1
    number = np.cumsum(fresh) - 1  # of the pair of key and amount
    first = number[group_starts([key[order]])]
    whose = key[order[starts]]
    place = np.arange(len(starts)) - np.repeat(first, np.diff(np.append(first, len(starts))))
    values = np.zeros((int(key.max()) + 1, int(place.max()) + 1), np.int64)
    values[whose, place] = amount[order[starts]]
    rank = np.zeros(len(key), np.int64)
    rank[order] = place[number]
    return rank, values


def _stacked(found: Stretches, amount: Ints) -> Levels:
    """What is on each level and on those above it, all owners together."""
    columns = [np.where(found.level <= level, amount, 0) for level in LEVELS]
    return Levels(*_stepped(found.start, found.stop, columns))


def use_of(start: Ints, stop: Ints, rate: Ints) -> UseSteps:
    """What spans with a rate each use together. Raises :class:`AmountOverflow`."""
    return UseSteps(*_stepped(start, stop, [rate]))


def added(steps: Sequence[UseSteps]) -> UseSteps:
    """What all of them are together. Raises :class:`AmountOverflow`."""
    parts = [each for each in steps if len(each)]
    stops = [np.append(each.since[1:], OPEN) for each in parts]
    none = [ints([])]
    return UseSteps(
        *_stepped(
            np.concatenate([*none, *(each.since for each in parts)]),
            np.concatenate([*none, *stops]),
            [np.concatenate([*none, *(each.rate for each in parts)])],
        )
    )


def _stepped(start: Ints, stop: Ints, columns: Sequence[Ints]) -> list[Ints]:
    """The instants at which the sums over the spans change, and the sums from then on."""
    instant = np.concatenate([start, stop])
    order = np.argsort(instant, kind="stable")
    instant = instant[order]
    ends = _ends([instant])
    sums = [instant[ends]]
    for column in columns:
        change = np.concatenate([column, -column])[order]
        if float(np.cumsum(change.astype(np.float64)).max(initial=0)) > LARGEST / 2:
            raise AmountOverflow(
                "what there is each second does not fit in 63 bits; declare the metric in a larger "
                "unit"
            )
        sums.append(np.cumsum(change)[ends])
    return sums


def filled(machine: Levels, use: UseSteps, taken: UseSteps, bounds: Ints) -> Filled:
    """The amounts of each bucket between two of the ascending *bounds*.

    *use*: what jobs use, each for itself; *taken*: what of the machine that is, where they share.
    At every second used is the least of these and of what is up; what jobs use more is over.
    Raises :class:`AmountOverflow`.
    """
    changes = (machine.since, use.since, taken.since)
    inside = [each[(each > bounds[0]) & (each < bounds[-1])] for each in changes]
    instants = np.unique(np.concatenate([bounds, *inside]))
    at, seconds = instants[:-1], np.diff(instants)
    up, awake, there = (
        _at(machine.since, part, at) for part in (machine.up, machine.awake, machine.there)
    )
    jobs = _at(use.since, use.rate, at)
    used = np.minimum(np.minimum(jobs, _at(taken.since, taken.rate, at)), up)
    buckets = np.searchsorted(at, bounds[:-1])
    parts = (there, there - awake, awake - up, used, up - used, jobs - used)
    return Filled.of(exact_sums(exact_product(part, seconds), buckets) for part in parts)


def _at(since: Ints, values: Ints, instants: Ints) -> Ints:
    """The values at these instants; 0 before the first."""
    row = np.searchsorted(since, instants, "right") - 1
    if not len(since):
        return ints(np.zeros(len(instants)))
    return np.where(row >= 0, values[np.maximum(row, 0)], 0)

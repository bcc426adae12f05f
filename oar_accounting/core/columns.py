"""Bulk data: columns of numpy arrays, one element a row, never an object per row.

All columns of one value have the same length. Times are epoch seconds UTC and every span is
half-open, ``[start, stop)``. Everything whole is ``int64``; sums that would wrap are refused.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields
from typing import Any, Self, TypeVar

import numpy as np
import numpy.typing as npt

from oar_accounting.errors import AmountOverflow

Ints = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]
Texts = npt.NDArray[np.object_]

#: Keys up to this are told apart by a table of ticks, above it by sorting.
MOST_TICKED = 20_000_000

LARGEST = int(np.iinfo(np.int64).max)
#: Stop of a span that has not ended; stored as NULL.
OPEN = LARGEST
#: Start of a rate that holds from the start of its job.
FROM_START = -OPEN


@dataclass(frozen=True, slots=True)
class Columns:
    """Base of the tables below: equally long columns that are cut and joined together."""

    def __len__(self) -> int:
        return len(getattr(self, fields(self)[0].name))

    def take(self, chosen: Bools | Ints | slice) -> Self:
        """The chosen rows: a mask, row numbers or a slice."""
        return type(self)(*(getattr(self, f.name)[chosen] for f in fields(self)))

    @classmethod
    def of(cls, columns: Iterable[Any]) -> Self:
        """The table with these columns, in order."""
        return cls(*columns)

    @classmethod
    def concat(cls, parts: Sequence[Self]) -> Self:
        """The rows of all parts, in order; no part gives no row."""
        names = [f.name for f in fields(cls)]
        if not parts:
            return cls(*(np.zeros(0, np.int64) for _ in names))
        return cls(*(np.concatenate([getattr(part, name) for part in parts]) for name in names))

    def as_dict(self) -> dict[str, Any]:
        """Column name to array, in the order of the table."""
        return {f.name: getattr(self, f.name) for f in fields(self)}


@dataclass(frozen=True, slots=True)
class JobRows(Columns):
    """Jobs as OAR has them, by ascending id. ``moldable`` is 0 before the start."""

    job_id: Ints
    user: Texts
    project: Texts
    queue: Texts
    state: Texts
    submission_time: Ints
    start_time: Ints
    stop_time: Ints
    moldable: Ints
    walltime: Ints
    suspended: Bools

    def names(self) -> list[tuple[str, str, str]]:
        """User, project and queue of every job."""
        return list(zip(self.user, self.project, self.queue, strict=True))


@dataclass(frozen=True, slots=True)
class Spans(Columns):
    """When jobs asked for and used their resources; ``stop`` is `OPEN` while a job runs."""

    job_id: Ints
    asked: Ints
    start_time: Ints
    stop_time: Ints


@dataclass(frozen=True, slots=True)
class Rates(Columns):
    """What jobs held: amounts per second, in the metric's unit divided by its scale.

    A rate holds from its start until that of the next one of the same job, account and metric; one
    of zero ends what was held. `FROM_START` is the start of what a job began with.
    """

    job_id: Ints
    account_id: Ints
    metric_id: Ints
    asked: Ints
    used: Ints
    start_time: Ints

    @classmethod
    def unchanging(
        cls, job_id: Ints, account_id: Ints, metric_id: Ints, asked: Ints, used: Ints
    ) -> Self:
        """Rates that hold as long as their jobs."""
        return cls(job_id, account_id, metric_id, asked, used, np.full(len(job_id), FROM_START))


@dataclass(frozen=True, slots=True)
class KeyedRates(Columns):
    """The same, told apart by a key of any kind: who makes the table says which.

    Where rates change, a job has one at a time of each key and metric.
    """

    job_id: Ints
    key: Ints
    metric_id: Ints
    asked: Ints
    used: Ints
    start_time: Ints

    @classmethod
    def by_account(cls, rates: Rates) -> Self:
        """With the account for the key."""
        return cls.of(rates.as_dict().values())


@dataclass(frozen=True, slots=True)
class AmountColumns(Columns):
    """Base of tables that have the amounts `asked` and `used` in rows told apart by the rest."""

    def keys(self) -> list[Ints]:
        """The columns that tell the rows apart."""
        return [column for name, column in self.as_dict().items() if name not in ("asked", "used")]

    def with_amounts(self, asked: Ints, used: Ints) -> Self:
        """The same rows with other amounts."""
        return type(self).of((self.as_dict() | {"asked": asked, "used": used}).values())


@dataclass(frozen=True, slots=True)
class Totals(AmountColumns):
    """Amounts per window, account and metric."""

    window_start: Ints
    account_id: Ints
    metric_id: Ints
    asked: Ints
    used: Ints


@dataclass(frozen=True, slots=True)
class AccountAmounts(AmountColumns):
    """Amounts per account and metric, at no time in particular."""

    account_id: Ints
    metric_id: Ints
    asked: Ints
    used: Ints


@dataclass(frozen=True, slots=True)
class KeyedAmounts(AmountColumns):
    """Amounts per window or interval, by its number, per key as in `KeyedRates`, and metric."""

    number: Ints
    key: Ints
    metric_id: Ints
    asked: Ints
    used: Ints


def ints(values: Any) -> Ints:
    """An ``int64`` array of *values*."""
    return np.asarray(values, dtype=np.int64)


def row_order(keys: Sequence[Ints]) -> Ints:
    """The row numbers that sort the keys, the first key first; equal rows keep their order."""
    lowest = [int(key.min()) for key in keys]
    widths = [int(key.max()) - low + 1 for key, low in zip(keys, lowest, strict=True)]
    room = 1
    for width in widths:
        room *= width
    if room > LARGEST:
        return np.lexsort(tuple(reversed(keys)))
    packed = np.zeros(len(keys[0]), np.int64)
    for key, low, width in zip(keys, lowest, widths, strict=True):
        packed = packed * width + (key - low)
    return np.argsort(packed, kind="stable")


def rows_among(rows: Sequence[Ints], others: Sequence[Ints]) -> Bools:
    """Which *rows*, given by their keys, are among the *others*; neither has a row twice."""
    if not len(rows[0]):
        return np.zeros(0, np.bool_)
    keys = [np.concatenate(pair) for pair in zip(others, rows, strict=True)]
    order = row_order(keys)
    keys = [key[order] for key in keys]
    same = np.ones(len(order), np.bool_)
    same[:1] = False
    for key in keys:
        same[1:] &= key[1:] == key[:-1]
    found = np.zeros(len(order), np.bool_)
    # Equal rows keep their order, so the second of two is ours.
    found[order[same]] = True
    return found[len(others[0]) :]


def numbered(keys: Ints, size: int) -> tuple[Ints, Ints]:
    """The different keys, which are from 0 to below *size*, ascending, and the number of each key.

    As ``numpy.unique`` with its inverse, without sorting where the keys are few enough to tick off.
    """
    if size > MOST_TICKED:
        different, number = np.unique(keys, return_inverse=True)
        return different, number
    there = np.zeros(size, np.bool_)
    there[keys] = True
    return np.flatnonzero(there), (np.cumsum(there) - 1)[keys]


def repeated(counts: Ints) -> tuple[Ints, Ints]:
    """Row *i* as often as ``counts[i]``, and beside each the number of the repetition from 0."""
    row = np.repeat(np.arange(len(counts)), counts)
    nth = np.arange(len(row)) - np.repeat(np.cumsum(counts) - counts, counts)
    return row, nth


def group_starts(keys: Sequence[Ints]) -> Ints:
    """Where each run of equal keys begins; the keys are sorted."""
    fresh = np.zeros(len(keys[0]), np.bool_)
    fresh[:1] = True
    for key in keys:
        fresh[1:] |= key[1:] != key[:-1]
    return np.flatnonzero(fresh)


def numbered_rows(keys: Sequence[Ints]) -> tuple[Ints, Ints]:
    """Which of the different rows each row is, by number; and a row of each number."""
    if not len(keys[0]):
        return ints([]), ints([])
    order = row_order(keys)
    starts = group_starts([key[order] for key in keys])
    number = np.empty(len(order), np.int64)
    number[order] = np.repeat(np.arange(len(starts)), np.diff(np.append(starts, len(order))))
    return number, order[starts]


def exact_sums(values: Ints, starts: Ints) -> Ints:
    """The sum of each run of *values*.

    Raises :class:`AmountOverflow` where a sum does not fit in 63 bits: numpy would wrap it.
    """
    rough = np.add.reduceat(np.abs(values.astype(np.float64)), starts)
    if np.any(rough > LARGEST / 2):
        for total in np.add.reduceat(values.astype(object), starts):
            _fitting(total)
    sums: Ints = np.add.reduceat(values, starts)
    return sums


def exact_product(left: Ints, right: Ints) -> Ints:
    """*left* times *right*, element by element.

    Raises :class:`AmountOverflow` where a product does not fit in 63 bits.
    """
    rough = np.abs(left.astype(np.float64)) * np.abs(right.astype(np.float64))
    for row in np.flatnonzero(rough > LARGEST / 2):
        _fitting(int(left[row]) * int(right[row]))
    return left * right


def _fitting(amount: int) -> None:
    if not -LARGEST <= amount <= LARGEST:
        raise AmountOverflow(
            f"an amount of {amount} does not fit in 63 bits; declare the metric in a larger unit"
        )


A = TypeVar("A", bound=AmountColumns)


def sum_up(rows: A) -> A:
    """One row for all that have the same keys, sorted by these. Raises :class:`AmountOverflow`."""
    if not len(rows):
        return rows
    rows = rows.take(row_order(rows.keys()))
    starts = group_starts(rows.keys())
    amounts = rows.as_dict()
    return rows.take(starts).with_amounts(
        exact_sums(amounts["asked"], starts), exact_sums(amounts["used"], starts)
    )


def add_up(rows: A) -> A:
    """The same, without rows that are all zero. Raises :class:`AmountOverflow`."""
    summed = sum_up(rows)
    amounts = summed.as_dict()
    return summed.take((amounts["asked"] != 0) | (amounts["used"] != 0))


def difference(new: A, old: A) -> A:
    """What must be added to *old* to give *new*."""
    amounts = old.as_dict()
    taken = old.with_amounts(-amounts["asked"], -amounts["used"])
    return add_up(type(new).concat([new, taken]))


V = TypeVar("V")


def distinct(values: Sequence[V]) -> tuple[list[V], Ints]:
    """The different values, and per value its number among them."""
    number: dict[V, int] = {}
    numbers = ints([number.setdefault(value, len(number)) for value in values])
    return list(number), numbers


def located(wanted: Ints, among: Ints) -> tuple[Ints, Bools]:
    """Per wanted id its row in *among*, which ascends, and whether it is there at all."""
    if not len(among):
        return np.zeros(len(wanted), np.int64), np.zeros(len(wanted), np.bool_)
    at = np.minimum(np.searchsorted(among, wanted), len(among) - 1)
    there: Bools = among[at] == wanted
    return at, there

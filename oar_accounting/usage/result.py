"""An answer about usage as columns: one row per bucket of time, group and metric.

All columns are numpy arrays; names stand once, and rows have their numbers. From these, Arrow and
pandas make their own dictionaries and categories, without a look at the single row.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from oar_accounting.core.columns import OPEN, Ints, exact_sums, group_starts, ints
from oar_accounting.errors import UnknownName
from oar_accounting.usage.keys import Group
from oar_accounting.usage.ledger_query import FoundSums, Sums
from oar_accounting.usage.records import ACCURACIES, ShownMetric, Usage

if TYPE_CHECKING:
    import pandas
    import pyarrow

#: What of an answer stands in which columns: of jobs, of opening amounts, of adjustments.
SHARES = ("", "opening_", "adjusted_")
AMOUNT_COLUMNS = tuple(f"{share}{amount}" for share in SHARES for amount in ("asked", "used"))


@dataclass(frozen=True, slots=True, kw_only=True)
class UsageColumns:
    """Rows sorted by bucket, group and metric. Amounts are in the metric's unit / scale."""

    by: tuple[str, ...]
    groups: tuple[Group, ...]  #: the different groups, sorted
    metrics: tuple[ShownMetric, ...]
    group: Ints  #: number of the group
    metric: Ints  #: number of the metric
    start: Ints  #: of the bucket, epoch seconds UTC
    stop: Ints  #: exclusive
    asked: Ints
    used: Ints
    opening_asked: Ints  #: within *asked*
    opening_used: Ints
    adjusted_asked: Ints
    adjusted_used: Ints
    accuracy: Ints  #: number of `ACCURACIES`

    def __len__(self) -> int:
        return len(self.group)

    def names(self, key: str) -> tuple[Ints, list[str]]:
        """The values of a key: per row the number of its value, and the values by number.

        Raises :class:`UnknownName`.
        """
        if key not in self.by:
            raise UnknownName(f"there is no key {key!r} in this answer; it has {list(self.by)}")
        place = self.by.index(key)
        numbers: dict[str, int] = {}
        number = ints([numbers.setdefault(g[place], len(numbers)) for g in self.groups])
        return number[self.group] if len(self) else ints([]), list(numbers)

    def rows(self) -> Iterator[Usage]:
        """The rows as records."""
        columns = (self.group, self.metric, self.start, self.stop, self.accuracy)
        amounts = (getattr(self, name) for name in AMOUNT_COLUMNS)
        rows = zip(*(column.tolist() for column in (*columns, *amounts)), strict=True)
        for group, metric, start, stop, accuracy, *values in rows:
            asked, used, opening_asked, opening_used, adjusted_asked, adjusted_used = values
            shown = self.metrics[metric]
            yield Usage(
                group=self.groups[group],
                metric=shown.name,
                unit=shown.unit,
                scale=shown.scale,
                start=None if start == -OPEN else start,
                stop=None if stop == OPEN else stop,
                asked=asked,
                used=used,
                opening_asked=opening_asked,
                opening_used=opening_used,
                adjusted_asked=adjusted_asked,
                adjusted_used=adjusted_used,
                accuracy=ACCURACIES[accuracy],
            )

    def _dictionaries(self) -> Iterator[tuple[str, Ints, list[str]]]:
        """The columns of names: number per row, and the names by number."""
        for key in self.by:
            yield (key, *self.names(key))
        yield "metric", self.metric, [each.name for each in self.metrics]
        yield "unit", self.metric, [each.unit for each in self.metrics]
        yield "accuracy", self.accuracy, list(ACCURACIES)

    def _numbers(self) -> dict[str, Ints]:
        scales = ints([each.scale for each in self.metrics])
        scale = scales[self.metric] if len(self) else ints([])
        amounts = {name: getattr(self, name) for name in AMOUNT_COLUMNS}
        return {"start": self.start, "stop": self.stop, "scale": scale, **amounts}

    def to_arrow(self) -> "pyarrow.Table":
        """The same as a table of Arrow; pyarrow must be installed: the extra ``arrow``."""
        import pyarrow

        columns: dict[str, Any] = {
            name: pyarrow.DictionaryArray.from_arrays(
                pyarrow.array(number, pyarrow.int32()), pyarrow.array(names, pyarrow.string())
            )
            for name, number, names in self._dictionaries()
        }
        return pyarrow.table(columns | {n: pyarrow.array(c) for n, c in self._numbers().items()})

    def to_pandas(self) -> "pandas.DataFrame":
        """The same as a data frame; pandas must be installed: the extra ``pandas``."""
        import pandas

        columns: dict[str, Any] = {
            # Two metrics may have one unit, and a category stands once.
            name: pandas.Series(names, dtype="category").take(number).reset_index(drop=True)
            for name, number, names in self._dictionaries()
        }
        return pandas.DataFrame(columns | dict(self._numbers()))


def added_up(  # noqa: PLR0913 - the parts of an answer
    by: Sequence[str],
    groups: Sequence[Group],
    metrics: Sequence[ShownMetric],
    keys: tuple[Ints, Ints, Ints, Ints],
    amounts: Sequence[Ints],
    accuracy: Ints,
    order: Sequence[Any],
) -> UsageColumns:
    """One row per bucket, group and metric; rows that are zero in every column are left out.

    *keys*: start, stop, number of the group and of the metric, per row; *order*: what each group is
    sorted by. Raises :class:`oar_accounting.AmountOverflow`.
    """
    ranked = sorted(range(len(groups)), key=order.__getitem__)
    rank = np.empty(len(groups), np.int64)
    rank[ranked] = np.arange(len(groups))
    start, stop, group, metric = keys
    group = rank[group] if len(group) else group
    rows = np.lexsort((metric, group, stop, start))
    sorted_keys = [key[rows] for key in (start, stop, group, metric)]
    firsts = group_starts(sorted_keys)
    if len(firsts):
        sums = [_summed(amount, rows, firsts) for amount in amounts]
        worst = np.maximum.reduceat(accuracy[rows], firsts)
    else:
        sums, worst = [ints([]) for _ in amounts], ints([])
    some = np.any(np.array(sums) != 0, axis=0) if len(firsts) else np.zeros(0, np.bool_)
    start, stop, group, metric = (key[firsts][some] for key in sorted_keys)
    met, group = np.unique(group, return_inverse=True)
    return UsageColumns(
        by=tuple(by),
        groups=tuple(groups[ranked[number]] for number in met.tolist()),
        metrics=tuple(metrics),
        group=ints(group),
        metric=metric,
        start=start,
        stop=stop,
        accuracy=worst[some],
        **{name: each[some] for name, each in zip(AMOUNT_COLUMNS, sums, strict=True)},
    )


def _summed(amount: Ints, rows: Ints, firsts: Ints) -> Ints:
    """The sums of runs of these rows; most sites have no opening amounts, and no adjustments."""
    return exact_sums(amount[rows], firsts) if np.any(amount) else np.zeros(len(firsts), np.int64)


def amounts_by_share(answer: FoundSums) -> tuple[Sums, list[Ints]]:
    """The rows of all shares of an answer, and their columns of `AMOUNT_COLUMNS`."""
    parts = (answer.jobs, answer.openings, answer.adjustments)
    every = Sums.concat(parts)
    share = np.repeat(np.arange(len(parts)), [len(part) for part in parts])
    columns = [every.asked, every.used]
    for number in range(1, len(parts)):
        columns += [np.where(share == number, each, 0) for each in (every.asked, every.used)]
    return every, columns

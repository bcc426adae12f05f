"""Tables of what jobs hold each second, and of what they asked and used in pieces of time."""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from oar_accounting.core.columns import (
    AmountColumns,
    Columns,
    Ints,
    KeyedRates,
    Spans,
    numbered_rows,
)
from oar_accounting.core.windows import amounts_between
from oar_accounting.usage.ledger_query import EXACT, Sums


@dataclass(frozen=True, slots=True)
class Intervals(Columns):
    """Ascending pieces of time that do not overlap, half-open, with two parts of a question.

    What is found in a piece is added to the one and taken from the other; -1 is no part.
    """

    begin: Ints
    end: Ints
    added_to: Ints
    taken_from: Ints

    def in_runs(self, most: int) -> Iterator["Intervals"]:
        """The same in runs of neighbours, *most* of them at most.

        Pieces without a gap between them share their jobs: they are in one run.
        """
        if not len(self):
            return
        begins = np.concatenate([[0], np.flatnonzero(self.begin[1:] > self.end[:-1]) + 1])
        begins = begins[:: -(-len(begins) // most)]
        for first, last in pairwise([*begins.tolist(), len(self)]):
            yield self.take(slice(first, last))


@dataclass(frozen=True, slots=True)
class JobAmounts(AmountColumns):
    """What jobs asked and used in intervals, by account, key of the job and metric."""

    interval: Ints
    account_id: Ints
    job_key: Ints
    metric_id: Ints
    asked: Ints
    used: Ints

    def sums(self, part: Ints, sign: int = 1) -> Sums:
        """The amounts in these parts; with a *sign* of -1 they are taken away."""
        return Sums(
            part,
            self.account_id,
            self.job_key,
            self.metric_id,
            sign * self.asked,
            sign * self.used,
            np.full(len(self), EXACT),
        )


@dataclass(frozen=True, slots=True)
class JobRates(Columns):
    """What jobs hold each second, with their keys; 0 where jobs are not told apart."""

    job_id: Ints
    account_id: Ints
    job_key: Ints
    metric_id: Ints
    asked: Ints
    used: Ints
    start_time: Ints

    def amounts_in(self, intervals: Intervals, spans: Spans) -> JobAmounts:
        """What the jobs asked and used in the intervals, by these spans."""
        owner, account_id, job_key = self.owners()
        found = amounts_between(spans, self.keyed(owner), intervals.begin, intervals.end)
        return JobAmounts(
            found.number,
            account_id[found.key],
            job_key[found.key],
            found.metric_id,
            found.asked,
            found.used,
        )

    def keyed(self, key: Ints) -> KeyedRates:
        """The rates, with a key for account and job key of each row."""
        return KeyedRates(self.job_id, key, self.metric_id, self.asked, self.used, self.start_time)

    def owners(self) -> tuple[Ints, Ints, Ints]:
        """A number for account and job key of each row; account and job key by this number."""
        number, first = numbered_rows([self.account_id, self.job_key])
        return number, self.account_id[first], self.job_key[first]

"""What is asked of the ledger, and the form of what is found."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Self

import numpy as np
from sqlalchemy import ColumnElement, and_

from oar_accounting.core.columns import OPEN, Bools, Columns, Ints, ints
from oar_accounting.errors import AmountOverflow
from oar_accounting.ledger import schema
from oar_accounting.ledger.catalog import Site

#: How an amount was found: to the second, in proportion within a window, or in whole windows.
EXACT, PROPORTIONAL, WHOLE = 0, 1, 2

#: Accounts up to this many are named to the database; more of them are picked from all rows.
MOST_ACCOUNTS_NAMED = 500

#: Gives the keys by which jobs are told apart, by their ids; -1 for jobs that are not asked for.
JobKeys = Callable[[Ints], Ints]


@dataclass(frozen=True, slots=True)
class Sums(Columns):
    """Amounts by part of time, account, key of the job and metric.

    The same may come in several rows.
    """

    part: Ints
    account_id: Ints
    job_key: Ints  #: 0 where jobs are not told apart
    metric_id: Ints
    asked: Ints
    used: Ints
    accuracy: Ints

    @classmethod
    def of_rows(cls, rows: Sequence[tuple[int, ...]]) -> Self:
        """The rows as columns. Raises :class:`AmountOverflow` where a sum exceeds 63 bits."""
        try:
            return cls.of(np.array(rows, np.int64).T) if rows else cls.concat([])
        except OverflowError:
            raise AmountOverflow.of_a_sum() from None


@dataclass(frozen=True, slots=True, kw_only=True)
class LedgerQuery:
    """What is asked of the ledger: a `UsageQuery` of one site, with ids for names."""

    site: Site
    metrics: Sequence[int]
    cuts: Ints  #: ascending instants; part *i* is ``[cuts[i], cuts[i + 1])``
    accounts: Ints | None = None  #: those that count; None: all
    as_of: int | None = None  #: open jobs count, as used by then; None: only those that have ended
    adjusted: bool = True  #: false: as it stands without adjustments
    job_keys: JobKeys | None = None  #: tells jobs apart; None: accounts are enough
    job_conditions: Sequence[ColumnElement[bool]] = ()  #: true for jobs that may be asked for
    jobs_within: tuple[int, int] = (-OPEN, OPEN)  #: these jobs all touch this span

    @property
    def start(self) -> int:
        """The first instant that counts."""
        return int(self.cuts[0])

    @property
    def stop(self) -> int:
        """The first instant that no longer counts."""
        return int(self.cuts[-1])

    @property
    def parts(self) -> int:
        """How many parts there are."""
        return len(self.cuts) - 1

    def before(self, instant: int) -> Self:
        """The same of what lies before an instant; the parts that are left keep their numbers."""
        if instant >= self.stop:
            return self
        left = self.cuts[self.cuts < instant]
        return replace(self, cuts=np.append(left, instant) if len(left) else self.cuts[:1])

    def since(self, instant: int) -> tuple[Self, int]:
        """The same from an instant within the span on, and the number that its first part had."""
        left = np.concatenate([[instant], self.cuts[self.cuts > instant]])
        return replace(self, cuts=left), int(self.part_at(ints([instant]))[0])

    def part_at(self, instants: Ints) -> Ints:
        """The part that each instant is in; -1, or `parts`, before the first and after the last."""
        part: Ints = np.searchsorted(self.cuts, instants, "right") - 1
        return part

    def bounds(self) -> Ints:
        """The cuts that are instants: what is without bound has none there."""
        return self.cuts.compress(np.abs(self.cuts) != OPEN)

    def wants(
        self, metric_id: ColumnElement[int], account_id: ColumnElement[int]
    ) -> ColumnElement[bool]:
        """True for rows that may count, as far as that is a matter for the database."""
        wanted: ColumnElement[bool] = metric_id.in_(self.metrics)
        if self.accounts is not None and len(self.accounts) <= MOST_ACCOUNTS_NAMED:
            wanted = and_(wanted, account_id.in_(self.accounts.tolist()))
        return wanted

    def told_apart(self, job_id: Ints, account_id: Ints) -> tuple[Ints, Bools]:
        """The keys of the jobs in rows of what they gave to accounts, and the rows asked for."""
        chosen = np.ones(len(account_id), np.bool_)
        if self.accounts is not None:
            chosen = np.isin(account_id, self.accounts)
        if self.job_keys is None:
            return np.zeros(len(account_id), np.int64), chosen
        jobs, at = np.unique(job_id, return_inverse=True)
        key = self.job_keys(jobs)[at]
        return key, chosen & (key >= 0)

    def of_no_job(
        self, part: Ints, account_id: Ints, metric_id: Ints, asked: Ints, used: Ints
    ) -> Sums:
        """Exact amounts that no single job gave, as far as they are asked for."""
        key, chosen = self.told_apart(np.full(len(part), schema.CARRIED), account_id)
        exact = np.full(len(part), EXACT)
        return Sums(part, account_id, key, metric_id, asked, used, exact).take(chosen)


@dataclass(frozen=True, slots=True, kw_only=True)
class FoundSums:
    """What was found, apart: of jobs, and of what no recorded job accounts for."""

    jobs: Sums
    openings: Sums
    adjustments: Sums

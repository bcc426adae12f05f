"""What is asked of the ledger, and the form of what is found."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Self

import numpy as np
from sqlalchemy import ColumnElement, and_

from oar_accounting.core.columns import OPEN, Bools, Columns, Ints, Totals, ints
from oar_accounting.errors import AmountOverflow
from oar_accounting.ledger import schema
from oar_accounting.ledger.catalog import Site

#: How an amount was found: to the second, in proportion within a window, or in whole windows.
EXACT, PROPORTIONAL, WHOLE = 0, 1, 2

#: Accounts up to this many are named to the database; more of them are picked from all rows.
MOST_ACCOUNTS_NAMED = 500
#: Bits of an account's id below the key in a holder.
ACCOUNT_BITS = 32

#: Gives the keys by which jobs are told apart, by their ids; -1 for jobs that are not asked for.
JobKeys = Callable[[Ints], Ints]


@dataclass(frozen=True, slots=True)
class Sums(Columns):
    """Amounts by part of time, holder and metric; the same may come in several rows.

    A holder is an account's id, plus 2^32 times the key of the job where jobs are told apart.
    """

    part: Ints
    holder: Ints
    metric_id: Ints
    asked: Ints
    used: Ints
    accuracy: Ints

    @classmethod
    def of_totals(cls, part: Ints, rows: Totals, sign: int = 1) -> Self:
        """Rows of exact amounts in these parts; with a *sign* of -1 they are taken away."""
        exact = np.full(len(rows), EXACT)
        return cls(
            part, rows.account_id, rows.metric_id, sign * rows.asked, sign * rows.used, exact
        )

    @classmethod
    def of_rows(cls, rows: Sequence[tuple[int, ...]]) -> Self:
        """The rows as columns. Raises :class:`AmountOverflow` where a sum exceeds 63 bits."""
        try:
            return cls.of(np.array(rows, np.int64).T) if rows else cls.concat([])
        except OverflowError:
            raise AmountOverflow.of_a_sum() from None


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """What is asked."""

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

    def holders(self, job_id: Ints, account_id: Ints) -> tuple[Ints, Bools]:
        """The holder of what jobs gave to accounts, and which of it is asked for."""
        chosen = np.ones(len(account_id), np.bool_)
        if self.accounts is not None:
            chosen = np.isin(account_id, self.accounts)
        if self.job_keys is None:
            return account_id, chosen
        jobs, at = np.unique(job_id, return_inverse=True)
        key = self.job_keys(jobs)[at]
        return (key << ACCOUNT_BITS) + account_id, chosen & (key >= 0)

    def of_no_job(self, sums: Sums) -> Sums:
        """The rows of what no job gave, which have accounts for holders, that are asked for."""
        holder, chosen = self.holders(np.full(len(sums), schema.CARRIED), sums.holder)
        named = Sums(sums.part, holder, sums.metric_id, sums.asked, sums.used, sums.accuracy)
        return named.take(chosen)


@dataclass(frozen=True, slots=True, kw_only=True)
class FoundSums:
    """What was found, apart: of jobs, and of what no recorded job accounts for."""

    jobs: Sums
    openings: Sums
    adjustments: Sums

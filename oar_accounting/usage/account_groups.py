"""In which group an account is in which part of time, and which accounts are asked for."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from operator import itemgetter

import numpy as np
from sqlalchemy import ColumnElement, Connection

from oar_accounting.core.columns import Ints, distinct, ints, located
from oar_accounting.ledger import schema
from oar_accounting.ledger.catalog import Names, Site, account_names
from oar_accounting.usage.job_keys import KeysOfJobs
from oar_accounting.usage.keys import (
    DIMENSIONS,
    JOB_KEYS,
    Group,
    Key,
    SiteName,
    Stay,
    Visible,
    find_place,
    stays,
)
from oar_accounting.usage.ledger_query import MOST_ACCOUNTS_NAMED

#: Shown for an account that somebody has deleted by hand.
NAMELESS_GROUP = "?"


def visible_names(
    connection: Connection, site: Site, visible_to: Visible | None
) -> dict[int, Names]:
    """The names of the accounts that may be seen, by their ids; without a viewer, of all.

    Every answer starts here: what is left out here is in none.
    """
    names = account_names(connection, site.site_id)
    if visible_to is None:
        return names
    return {number: each for number, each in names.items() if visible_to.shows(each)}


def _nobody(_: Names) -> tuple[str, ...]:
    """What accounts are told apart by where nothing tells them apart."""
    return ()


def _every_stay(
    keys: Sequence[Key | SiteName], names: Sequence[Names], start: int, stop: int
) -> tuple[Ints, list[list[Stay]]]:
    """The owner of each account, and where each owner stays within ``[start, stop)``.

    Accounts may be many, but those with equal names where the keys look stay together.
    """
    seen = [key.place for key in keys if isinstance(key, Key)]
    owner_of = itemgetter(*seen) if seen else _nobody
    _, owner = distinct([owner_of(each) for each in names])
    firsts = np.unique(owner, return_index=True)[1]
    return owner, [stays(keys, names[first], start, stop) for first in firsts.tolist()]


def _numbered(
    every: Sequence[Sequence[Stay]],
    cuts: Ints | None,
    wanted: Mapping[int, frozenset[str]],
    width: int,
) -> tuple[Ints, list[Group]]:
    """The number of the group by owner and part, and the groups; -1 for what is not *wanted*.

    *wanted*: the values that count, by the place of the key; the first *width* keys make the group.
    Without *cuts* nobody moves, and one column stands for all parts.
    """
    numbers: dict[Group, int] = {}
    number = np.full((len(every), 1 if cuts is None else len(cuts) - 1), -1)
    for row, some in enumerate(every):
        for begin, end, values in some:
            if all(values[place] in these for place, these in wanted.items()):
                first, last = (0, 1) if cuts is None else np.searchsorted(cuts, [begin, end])
                number[row, first:last] = numbers.setdefault(values[:width], len(numbers))
    return number, list(numbers)


@dataclass(frozen=True, slots=True, kw_only=True)
class AccountGroups:
    """In which group an account is in which part of time."""

    by: tuple[str, ...]
    cuts: Ints
    account_id: Ints  #: ascending
    number: Ints  #: of the group, by account and part; -1 where it is not asked for
    groups: list[Group]  #: the values of the keys of accounts, by number
    nameless: int  #: the group of the accounts that have no names; -1: they are not asked for
    filtered: bool
    restricted: bool  #: not all accounts may be seen
    names: Mapping[int, Names]

    @classmethod
    def of(  # noqa: PLR0913 - one question
        cls,
        connection: Connection,
        site: Site,
        by: Sequence[str],
        where: Mapping[str, frozenset[str]],
        buckets: Ints,
        visible_to: Visible | None = None,
    ) -> "AccountGroups":
        """The groups of the site's accounts, with more cuts where an account changes its group.

        Of accounts that are not *visible_to* whom it is told nothing is known here.
        """
        names = visible_names(connection, site, visible_to)
        by = [name for name in by if name not in JOB_KEYS]
        filters = {n: values for n, values in where.items() if n not in JOB_KEYS}
        keys = {name: find_place(connection, site, name) for name in (*by, *filters)}
        account_id = ints(sorted(names))
        owner, every = _every_stay(
            list(keys.values()),
            [names[account] for account in account_id.tolist()],
            int(buckets[0]),
            int(buckets[-1]),
        )
        moves = {begin for some in every for begin, _, _ in some[1:]}
        cuts = np.union1d(buckets, ints(sorted(moves)))
        wanted = {list(keys).index(name): values for name, values in filters.items()}
        number, groups = _numbered(every, cuts if moves else None, wanted, len(by))
        filtered = bool(filters) or visible_to is not None
        unnamed = tuple(NAMELESS_GROUP for _ in by)
        if not filtered and unnamed not in groups:
            groups.append(unnamed)
        return cls(
            by=tuple(by),
            cuts=cuts,
            account_id=account_id,
            number=number[owner],
            groups=groups,
            nameless=-1 if filtered else groups.index(unnamed),
            filtered=filtered,
            restricted=visible_to is not None,
            names=names,
        )

    def chosen(self) -> Ints | None:
        """The accounts that are asked for at some time; None where all are."""
        return self.account_id[np.any(self.number >= 0, axis=1)] if self.filtered else None

    def job_conditions(self, where: Mapping[str, frozenset[str]]) -> list[ColumnElement[bool]]:
        """What the accounts that are asked for say of jobs: few of them tell the rest apart."""
        of_jobs = self.owners()
        if of_jobs is None or not (self.restricted or {*where} & {*DIMENSIONS}):
            return []
        if len(of_jobs) > MOST_ACCOUNTS_NAMED:
            return []
        return [schema.jobs.c.account_id.in_(of_jobs)]

    def owners(self) -> list[int] | None:
        """The accounts of jobs that may have accounts which are asked for; None where all are."""
        chosen = self.chosen()
        if chosen is None:
            return None
        owners = {self.names[account][:3] for account in chosen.tolist()}
        return [account for account, names in self.names.items() if names[:3] in owners]

    def groups_of(
        self, account_id: Ints, part: Ints, key: Ints, keys: KeysOfJobs | None, by: Sequence[str]
    ) -> tuple[Ints, list[Group]]:
        """The number of the group of each row, -1 for one not asked for, and the groups by number.

        *key*: that of the job among the *keys*.
        """
        at, known = located(account_id, self.account_id)
        column = part if self.number.shape[1] > 1 else np.zeros(len(part), np.int64)
        number = np.full(len(part), self.nameless)
        number[known] = self.number[at[known], column[known]]
        if keys is None:
            return number, self.groups
        values = keys.values
        width = max(len(values), 1)
        met, place = np.unique(number * width + key, return_inverse=True)
        groups: list[Group] = []
        numbers: list[int] = []
        for each in met.tolist():
            if each // width < 0:
                numbers.append(-1)
                continue
            numbers.append(len(groups))
            of_account = dict(zip(self.by, self.groups[each // width], strict=True))
            of_job = dict(zip((n for n in by if n in JOB_KEYS), values[each % width], strict=True))
            groups.append(tuple((of_account | of_job)[name] for name in by))
        return (ints(numbers)[place] if len(place) else ints([])), groups

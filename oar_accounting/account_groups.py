"""In which group an account is in which part of time, and which accounts are asked for."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from operator import itemgetter

import numpy as np
from sqlalchemy import ColumnElement, Connection

from oar_accounting import schema
from oar_accounting.amounts.question import MOST_NAMED
from oar_accounting.catalog import Names, Site, account_names
from oar_accounting.columns import Ints, ints
from oar_accounting.groupings import DIMENSIONS, JOB_KEYS, Group, Key, Visible, find_place, stays
from oar_accounting.holdings import distinct, located
from oar_accounting.job_keys import KeysOfJobs

#: Shown for an account that somebody has deleted by hand.
NAMELESS = "?"


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


@dataclass(frozen=True, slots=True, kw_only=True)
class AccountGroups:
    """In which group an account is in which part of time."""

    by: tuple[str, ...]
    cuts: Ints
    account_id: Ints  #: ascending
    number: Ints  #: of the group, by account and part; -1 where it is not asked for
    groups: list[Group]  #: the values of the keys of accounts, by number
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
        start, stop = int(buckets[0]), int(buckets[-1])
        account_id = ints(sorted(names))
        # Accounts may be many, but those with equal names where the keys look stay together.
        seen = [key.place for key in keys.values() if isinstance(key, Key)]
        owner_of = itemgetter(*seen) if seen else _nobody
        owners, owner = distinct([owner_of(names[account]) for account in account_id.tolist()])
        firsts = np.unique(owner, return_index=True)[1]
        every = [
            stays(list(keys.values()), names[account], start, stop)
            for account in account_id[firsts].tolist()
        ]
        moves = {begin for some in every for begin, _, _ in some[1:]}
        cuts = np.union1d(buckets, ints(sorted(moves)))
        numbers: dict[Group, int] = {}
        # One column for all parts where nobody moves.
        number = np.full((len(owners), len(cuts) - 1 if moves else 1), -1)
        places = list(keys)
        for row, some_stays in enumerate(every):
            for begin, end, values in some_stays:
                if all(values[places.index(n)] in some for n, some in filters.items()):
                    first, last = np.searchsorted(cuts, [begin, end]) if moves else (0, 1)
                    group = tuple(values[: len(by)])
                    number[row, first:last] = numbers.setdefault(group, len(numbers))
        if not filters and visible_to is None:
            numbers.setdefault(tuple(NAMELESS for _ in by), len(numbers))
        return cls(
            by=tuple(by),
            cuts=cuts,
            account_id=account_id,
            number=number[owner],
            groups=list(numbers),
            filtered=bool(filters) or visible_to is not None,
            restricted=visible_to is not None,
            names=names,
        )

    def chosen(self) -> Ints | None:
        """The accounts that are asked for at some time; None where all are."""
        return self.account_id[np.any(self.number >= 0, axis=1)] if self.filtered else None

    def job_conditions(self, where: Mapping[str, frozenset[str]]) -> list[ColumnElement[bool]]:
        """What the accounts that are asked for say of jobs: few of them tell the rest apart."""
        chosen = self.chosen()
        if chosen is None or not (self.restricted or {*where} & {*DIMENSIONS}):
            return []
        owners = {self.names[account][:3] for account in chosen.tolist()}
        of_jobs = [account for account, names in self.names.items() if names[:3] in owners]
        if len(of_jobs) > MOST_NAMED:
            return []
        return [schema.jobs.c.account_id.in_(of_jobs)]

    def groups_of(
        self, account_id: Ints, part: Ints, key: Ints, keys: KeysOfJobs | None, by: Sequence[str]
    ) -> tuple[Ints, list[Group]]:
        """The number of the group of each row, -1 for one not asked for, and the groups by number.

        *key*: that of the job among the *keys*.
        """
        at, known = located(account_id, self.account_id)
        nameless = -1 if self.filtered else len(self.groups) - 1
        column = part if self.number.shape[1] > 1 else np.zeros(len(part), np.int64)
        number = np.full(len(part), nameless)
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

"""Who an account counts for, and whom a waiting job is of: users, projects, laboratories, trees."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import numpy as np

from oar_accounting.attributes.memberships import LOWEST, Memberships
from oar_accounting.core.columns import OPEN, Ints, ints
from oar_accounting.ledger.catalog import Names
from oar_accounting.usage.keys import Group, Key, stays

#: What stands for a group: names, or a path of them.
G = TypeVar("G", bound=tuple[Any, ...])


@dataclass(slots=True)
class Entities(Generic[G]):
    """Groups of accounts by number, and which number an account has at the start of a window."""

    numbers: dict[G, int]
    _first: int  #: the lowest account id
    _at: Ints  #: by account id from there on, the number of its group, as it is at first
    _moves: list[tuple[int, int, int]]  #: account, instant from which on, number

    @property
    def groups(self) -> list[G]:
        """The groups by number."""
        return list(self.numbers)

    def moves_within(self, length: int) -> bool:
        """True where an account moves at another time than a multiple of *length* seconds."""
        return any(instant % length for _, instant, _ in self._moves)

    def of(self, account_id: Ints, start: Ints) -> Ints:
        """The number of the group of each account at each instant; -1 for an unknown account."""
        place = account_id - self._first
        known = (place >= 0) & (place < len(self._at))
        number = np.where(known, self._at[np.where(known, place, 0)], -1)
        if self._moves:
            moving = np.flatnonzero(np.isin(account_id, [account for account, _, _ in self._moves]))
            accounts, starts = account_id[moving], start[moving]
            for account, instant, moved in self._moves:
                number[moving[(accounts == account) & (starts >= instant)]] = moved
        return number

    def find(self, groups: Sequence[G]) -> Ints:
        """The number of each group; -1 for one that no account is in."""
        return ints([self.numbers.get(group, -1) for group in groups])


def entities_by(names: dict[int, Names], keys: Sequence[Key]) -> Entities[Group]:
    """The groups of accounts by these keys."""
    numbers: dict[Group, int] = {}
    if all(key.members is None for key in keys):
        places = [key.place for key in keys]
        return placed(names, lambda each: tuple([each[place] for place in places]))
    at, moves = [], []
    for account_id, each in names.items():
        (_, _, first), *later = stays(keys, each, LOWEST, OPEN)
        at.append(numbers.setdefault(first, len(numbers)))
        moves += [
            (account_id, begin, numbers.setdefault(group, len(numbers)))
            for begin, _, group in later
        ]
    return _entities(numbers, names, at, moves)


def placed(names: dict[int, Names], group_of: Callable[[Names], G]) -> Entities[G]:
    """The groups of accounts that are always in the same."""
    numbers: dict[G, int] = {}
    at = [numbers.setdefault(group_of(each), len(numbers)) for each in names.values()]
    return _entities(numbers, names, at, [])


def _entities(
    numbers: dict[G, int],
    names: dict[int, Names],
    at: list[int],
    moves: list[tuple[int, int, int]],
) -> Entities[G]:
    ids = ints(list(names))
    first = int(ids.min(initial=0))
    # Ids are given one after the other: a table of all of them is small.
    table = np.full(int(ids.max(initial=0)) - first + 1, -1)
    table[ids - first] = at
    return Entities(numbers, first, table, moves)


def value_of(key: Key, names: Names, instant: int) -> str:
    """What the key says of the names at an instant."""
    return next(value for _, _, value in key.values(names, instant, instant + 1))


def chain(parents: Memberships | None, project: str, instant: int) -> Group:
    """The project under its parents, the topmost first, as they were at an instant."""
    path = [project]
    while parents is not None:
        _, _, parent = next(parents.within(path[0], instant, instant + 1))
        if not parent:
            break
        path.insert(0, parent)
    return tuple(path)

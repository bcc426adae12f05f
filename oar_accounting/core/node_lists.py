"""The nodes of a job in a short list: ``n[1-4,7]``, ``birch-[01-04].site,cedar-2.site``.

Addresses that differ in one number only stand together: the last number of the host's own name,
which ends at the first dot; of an IP address the last number of all. Leading zeros are kept. The
list is written the same for the same nodes, and `expand` gives them back where no address has a
comma or bracket, which no host's name has. Pure.
"""

import re
from collections.abc import Iterable, Sequence
from itertools import groupby
from operator import itemgetter
from typing import Any

import numpy as np

from oar_accounting.core.columns import Ints, ints, numbered

_NUMBERED = re.compile(r"(.*?)([0-9]+)([^0-9]*)", re.DOTALL)
_LISTED = re.compile(r"(?:[^\[,]|\[[^\]]*\])+")
_RANGE = re.compile(r"([0-9]+)-([0-9]+)")

#: What stands before the number of an address, behind it, and the number itself; empty for none.
_Parts = tuple[str, str, str]


def fold(addresses: Iterable[str]) -> str:
    """The list of the different addresses; empty for none."""
    different = sorted(set(addresses))
    codes = np.arange(len(different))
    return NodeLists(different).folded(np.zeros(len(codes), np.int64), codes, 1)[0]


def expand(listed: str) -> set[str]:
    """The addresses of a list."""
    found: set[str] = set()
    for each in _LISTED.findall(listed):
        before, bracket, rest = each.partition("[")
        inner, _, behind = rest.partition("]")
        numbers = inner.split(",") if bracket else [""]
        found |= {f"{before}{n}{behind}" for some in numbers for n in _of_range(some)}
    return found


def _of_range(said: str) -> list[str]:
    match = _RANGE.fullmatch(said)
    if match is None:
        return [said]
    first, last = match.groups()
    return [str(number).zfill(len(first)) for number in range(int(first), int(last) + 1)]


class NodeLists:
    """Lists of many jobs, of the same addresses: no address is looked at twice."""

    def __init__(self, addresses: Sequence[str]) -> None:
        """*addresses*, all different; each has its place among them for a code."""
        parts = [_parts_of(each) for each in addresses]
        order = sorted(range(len(parts)), key=lambda code: _sort_key(parts[code]))
        self._parts = [parts[code] for code in order]
        self._rank = np.zeros(len(parts), np.int64)
        self._rank[order] = np.arange(len(parts))
        ranks = {each: rank for rank, each in enumerate(self._parts)}
        following = [_following(each) for each in self._parts]
        self._next = ints([-1 if each is None else ranks.get(each, -1) for each in following])

    def folded(self, job: Ints, code: Ints, jobs: int) -> list[str]:
        """The list of each of so many jobs, from pairs of a job's number and an address's code."""
        width = max(len(self._parts), 1)
        pairs, _ = numbered(job * width + self._rank[code], jobs * width)
        owner, rank = pairs // width, pairs % width
        goes_on = np.zeros(len(pairs), np.bool_)
        goes_on[1:] = (owner[1:] == owner[:-1]) & (rank[1:] == self._next[rank[:-1]])
        first = np.flatnonzero(~goes_on)
        last = np.append(first[1:], len(pairs))[: len(first)] - 1
        lists = [""] * jobs
        runs = zip(owner[first].tolist(), rank[first].tolist(), rank[last].tolist(), strict=True)
        for each, some in groupby(runs, key=itemgetter(0)):
            lists[each] = self._written([(a, b) for _, a, b in some])
        return lists

    def _written(self, runs: Sequence[tuple[int, int]]) -> str:
        """The list of runs of ranks, the last of each included."""
        if len(runs) == 1 and runs[0][0] == runs[0][1]:
            return "".join(_whole(self._parts[runs[0][0]]))
        listed = []
        for (before, behind), some in groupby(runs, key=lambda run: self._parts[run[0]][:2]):
            ranges = [
                self._parts[a][2] if a == b else f"{self._parts[a][2]}-{self._parts[b][2]}"
                for a, b in some
            ]
            one = len(ranges) == 1 and "-" not in ranges[0]
            numbers = ranges[0] if one else f"[{','.join(ranges)}]"
            listed.append(f"{before}{numbers}{behind}")
        return ",".join(listed)


def _parts_of(address: str) -> _Parts:
    host, dot, domain = address.partition(".")
    if host.isdecimal():
        host, dot, domain = address, "", ""
    match = _NUMBERED.fullmatch(host)
    if match is None:
        return address, "", ""
    before, number, behind = match.groups()
    return before, f"{behind}{dot}{domain}", number


def _whole(parts: _Parts) -> _Parts:
    before, behind, number = parts
    return before, number, behind


def _sort_key(parts: _Parts) -> tuple[Any, ...]:
    before, behind, number = parts
    return before, behind, int(number or 0), len(number)


def _following(parts: _Parts) -> _Parts | None:
    """What the next number would be of."""
    before, behind, number = parts
    return (before, behind, str(int(number) + 1).zfill(len(number))) if number else None

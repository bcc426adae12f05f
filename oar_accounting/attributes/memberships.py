"""Who belonged where when: spans of time with a value, and the tree of projects. Pure.

Times are epoch seconds UTC; spans are half-open and lie between `LOWEST` and `OPEN`. In the
normal form the spans of a name are ascending, none touches another of the same value, and the
empty value, which stands for no entry, has none.
"""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

from oar_accounting.core.columns import OPEN

Span = tuple[int, int, str]  # start, stop, value

#: Start of what always was so.
LOWEST = -(2**63)

#: So many projects at most may stand above one.
DEEPEST_TREE = 100


@dataclass(frozen=True, slots=True, order=True)
class Claim:
    """What one line says: from *start* to before *stop*, *name* belongs to *value*."""

    name: str
    start: int
    stop: int
    value: str
    line: int


@dataclass(frozen=True, slots=True)
class Climb:
    """From a project to its parent, and on: what is wrong with it from *start* to before *stop*."""

    path: tuple[str, ...]
    start: int
    stop: int

    @property
    def is_circle(self) -> bool:
        """True where it comes back; else there are too many projects above the first."""
        return self.path[0] == self.path[-1]


class Memberships:
    """The values of one attribute, of users or of projects, at every instant."""

    def __init__(self, kind: str, spans: Mapping[str, Sequence[Span]]) -> None:
        """With the spans of each name, in the normal form."""
        self.kind = kind
        self._spans = spans

    def of(self, name: str) -> list[Span]:
        """The spans of a name: from `LOWEST` to `OPEN` without a gap, the value empty for none."""
        found, at = [], LOWEST
        for start, stop, value in self._spans.get(name, ()):
            if at < start:
                found.append((at, start, ""))
            found.append((start, stop, value))
            at = stop
        if at < OPEN:
            found.append((at, OPEN, ""))
        return found

    def within(self, name: str, start: int, stop: int) -> Iterator[Span]:
        """The same spans, what lies in ``[start, stop)`` of them."""
        for begin, end, value in self.of(name):
            if begin < stop and start < end:
                yield max(begin, start), min(end, stop), value

    def changes(self, names: Iterable[str]) -> list[int]:
        """The instants at which one of the names has another value than just before, ascending."""
        return sorted({start for name in names for start, _, _ in self.of(name)[1:]})


class Roots(Memberships):
    """The topmost project above each project; one without a parent is its own."""

    def __init__(self, parents: Memberships) -> None:
        """With the parents, among which there is no circle."""
        super().__init__(parents.kind, {})
        self._parents = parents

    def of(self, name: str) -> list[Span]:
        """The spans of a project: from `LOWEST` to `OPEN` without a gap."""
        return joined(self._climbed(name, LOWEST, OPEN))

    def _climbed(self, name: str, start: int, stop: int) -> Iterator[Span]:
        for begin, end, parent in self._parents.within(name, start, stop):
            if parent:
                yield from self._climbed(parent, begin, end)
            else:
                yield begin, end, name


def joined(spans: Iterable[Span]) -> list[Span]:
    """The normal form of ascending spans, of which none overlaps another of a different value."""
    found: list[Span] = []
    for start, stop, value in spans:
        if found and found[-1][2] == value and start <= found[-1][1]:
            found[-1] = (found[-1][0], max(found[-1][1], stop), value)
        else:
            found.append((start, stop, value))
    return found


def merged(claims: Iterable[Claim]) -> dict[str, list[Span]]:
    """What all lines say together, in the normal form; no two contradict each other."""
    spans: defaultdict[str, list[Span]] = defaultdict(list)
    for each in sorted(claims):
        spans[each.name].append((each.start, each.stop, each.value))
    return {name: joined(some) for name, some in spans.items()}


def contradictions(claims: Iterable[Claim]) -> Iterator[tuple[Claim, Claim]]:
    """Every two lines that say different things of the same name and instant."""
    name = None
    by_value: dict[str, list[Claim]] = {}
    for each in sorted(claims):
        if each.name != name:
            name, by_value = each.name, {}
        for value in by_value:
            if value != each.value:
                by_value[value] = [old for old in by_value[value] if old.stop > each.start]
                yield from ((old, each) for old in by_value[value])
        by_value.setdefault(each.value, []).append(each)


def gaps(spans: Mapping[str, Sequence[Span]]) -> Iterator[tuple[str, int, int]]:
    """Name, start and stop of the times between the spans of a name."""
    for name, some in sorted(spans.items()):
        for (_, stop, _), (start, _, _) in pairwise(some):
            if stop < start:
                yield name, stop, start


def wrong_climbs(parents: Memberships, names: Iterable[str]) -> Iterator[Climb]:
    """The circles among the parents of these projects, each once, and climbs that are too high."""
    for name in sorted(names):
        yield from _wrong(parents, Climb((name,), LOWEST, OPEN))


def _wrong(parents: Memberships, climb: Climb) -> Iterator[Climb]:
    path = climb.path
    for start, stop, parent in parents.within(path[-1], climb.start, climb.stop):
        longer = Climb((*path, parent), start, stop)
        if longer.is_circle:
            # Whoever stands in a circle meets it; the first of them tells.
            if parent == min(path):
                yield longer
        elif parent and parent not in path:
            if len(path) > DEEPEST_TREE:
                yield longer
            else:
                yield from _wrong(parents, longer)

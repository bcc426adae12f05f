"""Where in a tree of shares the names of an account are, and those with declared shares."""

from collections.abc import Iterable, Iterator, Mapping, Sequence

from oar_accounting.attributes import stored
from oar_accounting.attributes.csv_files import PARENT
from oar_accounting.attributes.memberships import Memberships
from oar_accounting.karma.entities import chain, value_of
from oar_accounting.karma.inputs import Sources
from oar_accounting.karma.policies.policy import EVERYBODY, PROJECTS, Share, Shared
from oar_accounting.karma.waiting import QUEUE
from oar_accounting.ledger.catalog import Names
from oar_accounting.usage.keys import Key, find_key

#: A name and its level.
Step = tuple[str, str]
#: The names from the top of the tree to a leaf, each with its level.
Path = tuple[Step, ...]


class Paths:
    """Where in the tree the names of an account are, as of one instant."""

    def __init__(self, policy: Shared, sources: Sources) -> None:
        connection, site = sources.connection, sources.site
        self._now = sources.now
        self._queue = find_key(connection, site, QUEUE)
        self._scoped = policy.counted.scope == QUEUE
        self.keys: dict[str, Key] = {
            level: find_key(connection, site, "project" if level == PROJECTS else level)
            for level in policy.levels
        }
        self._parents: Memberships | None = None
        if PROJECTS in policy.levels and PARENT in stored.known(connection, site.site_id):
            self._parents = stored.load(connection, site.site_id, PARENT)
        #: What was found, by names, and what a name decides of it; for longer where that is all.
        self._found: dict[Names, tuple[str, Path]] = {}
        self._steps: dict[tuple[str, str], Path] = {}
        if self._parents is None and all(key.members is None for key in self.keys.values()):
            self._found = sources.known.paths((self._scoped, *self.keys.items()))

    def of(self, names: Names) -> tuple[str, Path]:
        """The queue, empty where all count together, and the path."""
        if names not in self._found:
            path = tuple(step for level in self.keys for step in self._steps_of(level, names))
            queue = value_of(self._queue, names, self._now) if self._scoped else ""
            self._found[names] = queue, path
        return self._found[names]

    def steps(self, level: str, value: str) -> Path:
        """The part of a path that lies within a level: of a project, its parents come first."""
        if level != PROJECTS:
            return ((level, value),)
        return tuple((level, each) for each in chain(self._parents, value, self._now))

    def known_steps(self, level: str, names: Mapping[int, str]) -> Path | None:
        """The same of an account of which only some names are known, by place; None if unknown."""
        if self.keys[level].place not in names:
            return None
        user, project, queue, value = (names.get(place, "") for place in range(4))
        return self._steps_of(level, (user, project, queue, value))

    def _steps_of(self, level: str, names: Names) -> Path:
        key = self.keys[level]
        decided_by = level, names[key.place]
        if decided_by not in self._steps:
            self._steps[decided_by] = self.steps(level, value_of(key, names, self._now))
        return self._steps[decided_by]


class DeclaredNodes:
    """The nodes of names for whom the settings declare shares.

    They count among their siblings whether or not their names have used something or wait, so they
    stand wherever a job of theirs could be as far as that is known: at the top of the tree, below
    the name for which the shares are declared, where attributes put them, and where their accounts
    and jobs are.
    """

    def __init__(self, policy: Shared, paths: Paths, known: Iterable[Path]) -> None:
        """*known*: the paths of all accounts and jobs, also of accounts that are idle."""
        self._policy = policy
        self._paths = paths
        self._levels = list(paths.keys)
        self._nodes: set[Path] = set()
        self._ending: dict[Step, list[Path]] = {}
        self._add(path[:end] for path in known for end in range(1, len(path) + 1))

    def found(self) -> list[Path]:
        """All of them."""
        for depth, level in enumerate(self._levels):
            shares = self._policy.shares.get(level, {})
            own = {name: self._paths.steps(level, name) for name in shares if name != EVERYBODY}
            # Projects after those above them.
            for name in sorted(own, key=lambda each: len(own[each])):
                places = self._places(depth, name, shares[name], own[name])
                self._add(filter(self._declared, places))
        return sorted(filter(self._declared, self._nodes))

    def _declared(self, node: Path) -> bool:
        above = node[-2][1] if len(node) > 1 else ""
        return self._policy.declares(*node[-1], above)

    def _add(self, nodes: Iterable[Path]) -> None:
        for node in nodes:
            if node not in self._nodes:
                self._nodes.add(node)
                self._ending.setdefault(node[-1], []).append(node)

    def _places(
        self, depth: int, name: str, shares: Share | Mapping[str, Share], own: Path
    ) -> Iterator[Path]:
        """Where the name of a level may stand; *own*: the steps within the level."""
        parents: list[Step | None] = [None]
        if len(own) > 1:
            parents = [own[-2]]
        elif depth and isinstance(shares, Mapping):
            parents += [(self._levels[depth - 1], each) for each in shares if each != EVERYBODY]
        for parent in parents:
            yield from self._below(depth, name, parent, own)

    def _below(self, depth: int, name: str, parent: Step | None, own: Path) -> Iterator[Path]:
        """The places below a *parent*; where that is None, the one that the name alone decides."""
        names = self._names(depth, name)
        if parent is not None and depth and parent[0] == self._levels[depth - 1]:
            names = self._names(depth - 1, parent[1]) | names
        steps = [self._paths.known_steps(level, names) for level in self._levels[:depth]]
        if None not in steps:
            yield (*(step for some in steps for step in some or ()), *own)
        elif parent is not None:
            for node in self._ending.get(parent, []):
                if self._fits(node, [*steps, own[:-1] or None]):
                    yield (*node, own[-1])

    def _names(self, depth: int, name: str) -> dict[int, str]:
        """The name of an account that the name is, by its place; none where an attribute has it."""
        key = self._paths.keys[self._levels[depth]]
        return {key.place: name} if key.members is None else {}

    def _fits(self, node: Path, steps: Sequence[Path | None]) -> bool:
        """Whether a node is where the levels that are known have it."""
        by_level: dict[str, Path] = {}
        for level, name in node:
            by_level[level] = (*by_level.get(level, ()), (level, name))
        return all(
            some is None or by_level.get(level) == some
            for level, some in zip(self._levels, steps, strict=False)
        )

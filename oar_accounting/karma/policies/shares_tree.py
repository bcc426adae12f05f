"""A tree of shares, and the classic fair share along it.

Accounts (laboratories, projects) have shares among their siblings; their leaves are users. A node
with the shares of its parent, ``shares=parent`` of Slurm, takes part in what its parent stands for
instead: its children compete in the group of the nearest node above that has shares of its own
(Slurm, doc/html/classic_fair_share.shtml; src/common/assoc_mgr.c).

No result depends on the order of the nodes: sums are exact before they are rounded.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from oar_accounting.core.columns import Bools, Ints
from oar_accounting.karma.policies.weights import Floats
from oar_accounting.karma.policies.whole import whole_numbers


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Tree:
    """Nodes by number, in any order. Raises ValueError for what is no tree of shares."""

    parent: Ints  #: the number of the node above; -1 for the root
    shares: Floats  #: 0 or more; NaN for those of the parent. The root's are not read
    is_user: Bools  #: never above others
    root: int = field(init=False)
    #: The children of every node that has some, each such node after its parent.
    below: dict[int, Ints] = field(init=False, repr=False)
    #: The node in whose group of siblings each takes part: the nearest one above, the root at
    #: last, that has shares of its own. The root's is the root.
    group: Ints = field(init=False, repr=False)

    def __post_init__(self) -> None:
        roots = np.flatnonzero(self.parent < 0).tolist()
        if len(roots) != 1:
            raise ValueError(f"one node must be the root, not {len(roots)}")
        object.__setattr__(self, "root", roots[0])
        _refuse(self.parent >= len(self.parent), "has no such parent")
        shares_are_wrong = (self.shares < 0) | np.isinf(self.shares)
        _refuse(shares_are_wrong, "has shares that are no number from 0")
        object.__setattr__(self, "below", self._children())
        object.__setattr__(self, "group", self._groups())

    def _children(self) -> dict[int, Ints]:
        by_parent = np.argsort(self.parent, kind="stable")
        bounds = np.searchsorted(self.parent[by_parent], np.arange(len(self.parent) + 1))
        has_some = bounds[1:] > bounds[:-1]
        reached = np.arange(len(self.parent)) == self.root
        _refuse(self.is_user & (has_some | reached), "is a user, who cannot be above others")
        found: dict[int, Ints] = {}
        waiting = np.flatnonzero(has_some & reached).tolist()
        for node in waiting:
            found[node] = by_parent[bounds[node] : bounds[node + 1]]
            reached[found[node]] = True
            waiting += found[node][has_some[found[node]]].tolist()
        _refuse(~reached, "is above or below itself")
        return found

    def _groups(self) -> Ints:
        found, as_parent = np.full(len(self.parent), self.root), self.as_parent
        for node, children in self.below.items():
            found[children] = found[node] if as_parent[node] else node
        return found

    @property
    def as_parent(self) -> Bools:
        """Which nodes have the shares of their parent; of the root it does not matter."""
        return np.isnan(self.shares)

    def shares_of_group(self) -> Floats:
        """The shares of all nodes of the group that each takes part in, added up."""
        counted: dict[int, list[float]] = {node: [] for node in self.below}
        for children in self.below.values():
            shares = self.shares[children]
            counted[int(self.group[children[0]])] += shares[~np.isnan(shares)].tolist()
        found = np.zeros(len(self.parent))
        for node, some in counted.items():
            found[node] = math.fsum(some)
        return found[self.group]

    def fractions(self) -> Floats:
        """The fraction that each node has of the shares of its group, 0 where these are 0.

        The root has 1, a node with the shares of its parent the fraction of the one it stands for.
        """
        level = self.shares_of_group()
        found = np.zeros(len(level))
        np.divide(self.shares, level, out=found, where=level > 0)
        found[self.root] = 1.0
        return np.where(self.as_parent, found[self.group], found)

    def whole_shares(self) -> tuple[list[int], list[int]]:
        """The shares of every node, and those of its group, times what makes all of them whole.

        0 for the root and for a node with the shares of its parent.
        """
        shares, _ = whole_numbers(np.where(self.as_parent, 0.0, self.shares).tolist())
        shares[self.root] = 0
        group, of_group = self.group.tolist(), [0] * len(shares)
        for node, above in enumerate(group):
            of_group[above] += shares[node]
        return shares, [of_group[above] for above in group]

    def usage(self, own: Sequence[int]) -> list[int]:
        """What every node and all below it used; *own* usage below zero counts as 0."""
        found = [max(each, 0) for each in own]
        for node, children in reversed(self.below.items()):
            found[node] += sum(found[child] for child in children.tolist())
        return found


def _refuse(nodes: Bools, trouble: str) -> None:
    for node in np.flatnonzero(nodes).tolist():
        raise ValueError(f"node {node} {trouble}")


@dataclass(frozen=True, slots=True, kw_only=True)
class ClassicParts:
    """What classic karma is made of; arrays by node."""

    norm_shares: Floats  #: of the whole, 0 to 1
    raw_usage: Floats  #: of the node and all below it
    norm_usage: Floats  #: of the whole, 0 to 1
    effective_usage: Floats  #: the same, drawn towards that of the node above; 0 to 1
    karma: Floats  #: effective usage / normalised shares; infinite without shares
    factor: Floats  #: Slurm's fair-share factor, 2^-karma: 0 to 1, 1 is first


def classic(tree: Tree, leaf_usage: Sequence[int], unit: int = 1) -> ClassicParts:
    """Slurm's classic fair share (doc/html/classic_fair_share.shtml), without dampening.

    *leaf_usage*: what each node used itself, by node, in whole parts of the *unit*; accounts may
    have some, beside that of their users. With S the shares of the node and all above it, each a
    fraction of its group::

        Ueff = U                                    right below the root
        Ueff = U + (Ueff of the parent - U) × shares / shares of the group
        karma = Ueff / S, factor = 2^-karma

    where U = usage / usage of the root, and the parent is the node of the group. A node with the
    shares of its parent has the S of that one, and its Ueff if that is not the root. Where a group
    has no shares at all, Ueff is that of the parent. Who has no shares has infinite karma, even
    without usage. Where nothing was used, Ueff is 0 for everybody.

    Who uses more never comes to stand before anybody who stood before him. All are fractions of
    whole numbers until they are rounded at the end, so that equal ones are tied.
    """
    usage = tree.usage(leaf_usage)
    whole = max(usage[tree.root], 1)
    norm_shares, effective = _fractions(tree, usage)
    karma = [
        _quotient(used * of, within * whole * part)
        for (used, within), (part, of) in zip(effective, norm_shares, strict=True)
    ]
    return ClassicParts(
        norm_shares=np.array([part / of for part, of in norm_shares]),
        raw_usage=np.array([each / unit for each in usage]),
        norm_usage=np.array([each / whole for each in usage]),
        effective_usage=np.array([used / (within * whole) for used, within in effective]),
        karma=np.array(karma),
        factor=np.exp2(-np.array(karma)),
    )


#: Two whole numbers; the second is above 0.
_Fraction = tuple[int, int]


def _fractions(tree: Tree, usage: Sequence[int]) -> tuple[list[_Fraction], list[_Fraction]]:
    """Of every node S, and Ueff times the usage of the root."""
    shares, of_group = tree.whole_shares()
    as_parent = tree.as_parent.tolist()
    norm_shares: list[_Fraction] = [(1, 1)] * len(usage)
    effective: list[_Fraction] = [(each, 1) for each in usage]
    for children in tree.below.values():
        group = int(tree.group[children[0]])
        (part, of), (above, within) = norm_shares[group], effective[group]
        for node in children.tolist():
            share, total = shares[node], of_group[node]
            norm_shares[node] = (
                (part, of) if as_parent[node] else (part * share, of * max(total, 1))
            )
            if group == tree.root:
                continue
            if as_parent[node] or not total:
                effective[node] = effective[group]
            else:
                own = usage[node] * within
                effective[node] = (own * total + (above - own) * share, within * total)
    return norm_shares, effective


def _quotient(above: int, below: int) -> float:
    """Infinite without shares, and where these are too small for a quotient that is finite."""
    try:
        return above / below
    except (OverflowError, ZeroDivisionError):
        return math.inf

"""Slurm's Fair Tree: siblings are only ever compared with each other, from the root down.

After the documentation (Slurm, doc/html/fair_tree.shtml) where Slurm itself differs from it: its
26.11 does not merge tied accounts, and its ranks then depend on their names. It compares quotients
in floating point, too, so that it finds some ties and misses others; here equal fractions are tied.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from oar_accounting.core.columns import Ints, ints
from oar_accounting.karma.policies.shares_tree import Tree
from oar_accounting.karma.policies.weights import Floats

#: A level fair share as a fraction of two whole numbers; divided by 0, it is infinite.
Level = tuple[int, int]
INFINITE: Level = (1, 0)
NOTHING: Level = (0, 1)


@dataclass(frozen=True, slots=True, kw_only=True)
class FairTreeParts:
    """What the karma of a fair tree is made of; arrays by node."""

    norm_shares: Floats  #: among the siblings, 0 to 1
    raw_usage: Floats  #: of the node and all below it
    effective_usage: Floats  #: of that of the node above, 0 to 1
    level_fs: Floats  #: shares / usage, 0 to infinity; NaN for what has no siblings to compare
    rank: Ints  #: of a user, the number of users for the first, 1 or more for the last; else 0
    fairshare: Floats  #: Slurm's fair-share factor, rank / number of users; NaN for accounts
    karma: Floats  #: 1 - fairshare: 0 for the first; NaN for accounts


def fair_tree(tree: Tree, leaf_usage: Sequence[int], unit: int = 1) -> FairTreeParts:
    """The rank of every user.

    *leaf_usage*: what each node used itself, by node, in whole parts of the *unit*; below zero
    counts as 0. The level fair share of a node is S / U, its fraction of the shares of its siblings
    divided by that of the usage of the node above: 0 where S is 0, otherwise infinite where U is 0,
    and for a user with the shares of its parent. An account with the shares of its parent is none:
    its children are siblings of it. The root has none either.

    From the root down, siblings are taken by descending level fair share, and the children of an
    account before its next sibling. The rank begins with the number of users and falls by one for
    every user met. Level fair shares are compared as the fractions that they are, before they are
    rounded, and equal ones are tied:

    * tied users get the same rank;
    * a user tied with an account gets the rank of the best user of that account;
    * the children of tied accounts are siblings of each other.

    An account without users does not matter to any rank but by its shares. Who uses more never
    comes to stand before anybody who stood before him.
    """
    usage = tree.usage(leaf_usage)
    group = tree.group.tolist()
    levels = _levels(tree, usage)
    rank = _ranks(tree, _order(levels))
    users = int(np.count_nonzero(tree.is_user))
    count = max(users, 1)
    return FairTreeParts(
        norm_shares=tree.fractions(),
        raw_usage=np.array([each / unit for each in usage]),
        effective_usage=np.array(
            [each / usage[above] if each else 0.0 for each, above in zip(usage, group, strict=True)]
        ),
        level_fs=np.array([_number(each) for each in levels]),
        rank=rank,
        fairshare=np.where(tree.is_user, rank / count, np.nan),
        karma=np.where(tree.is_user, (users - rank) / count, np.nan),
    )


def _levels(tree: Tree, usage: Sequence[int]) -> list[Level | None]:
    """The level fair share of every node; None for what has none."""
    as_parent, is_user, group = tree.as_parent.tolist(), tree.is_user.tolist(), tree.group.tolist()
    shares, of_group = tree.whole_shares()
    found: list[Level | None] = []
    for node, above in enumerate(group):
        if as_parent[node] or node == tree.root:
            found.append(INFINITE if is_user[node] else None)
        elif not shares[node]:
            found.append(NOTHING)
        elif not usage[node]:
            found.append(INFINITE)
        else:
            found.append((shares[node] * usage[above], of_group[node] * usage[node]))
    return found


def _number(level: Level | None) -> float:
    if level is None:
        return math.nan
    above, below = level
    # What decayed for very long is a part of the whole too small for a quotient that is finite.
    try:
        return above / below
    except (OverflowError, ZeroDivisionError):
        return math.inf


def _order(levels: Sequence[Level | None]) -> Ints:
    """The place of each level fair share among all, from 0 for the largest; equal ones share it.

    Two fractions that differ do so by 1 / (product of their denominators) at least. So they still
    differ when they are cut off behind twice as many binary digits as the largest of these has.
    """
    digits = 2 * max((below.bit_length() for _, below in filter(None, levels)), default=0)
    keys = [
        None if level is None or not level[1] else (level[0] << digits) // level[1]
        for level in levels
    ]
    finite = sorted({key for key in keys if key is not None}, reverse=True)
    place = {None: 0} | {key: number for number, key in enumerate(finite, 1)}
    return ints([place[key] for key in keys])


def _ranks(tree: Tree, order: Ints) -> Ints:
    siblings = _siblings(tree)
    rank = np.zeros(len(order), np.int64)
    left = last_rank = int(np.count_nonzero(tree.is_user))
    waiting = [(ints([tree.root]), False)]
    while waiting:
        nodes, tied_with_last = waiting.pop()
        level, is_user = order[nodes], tree.is_user[nodes]
        if is_user.any():
            ahead = np.searchsorted(level[is_user], level[is_user])
            ranks = np.where(tied_with_last & (level[is_user] == level[0]), last_rank, left - ahead)
            rank[nodes[is_user]] = ranks
            left, last_rank = left - len(ranks), int(ranks[-1])
        # The last of a stretch are tied, and all accounts are among them.
        tied_with_last &= bool(level[0] == level[-1])
        tied_with_last |= bool(is_user[level == level[-1]].any())
        below = [child for node in nodes[~is_user].tolist() for child in siblings.get(node, ())]
        stretches = _stretches(ints(below), tree, order)
        flags = [tied_with_last, *[False] * len(stretches)]
        waiting += reversed(list(zip(stretches, flags, strict=False)))
    return rank


def _stretches(nodes: Ints, tree: Tree, order: Ints) -> list[Ints]:
    """The nodes by descending level fair share, cut wherever tied nodes with accounts end."""
    nodes = nodes[np.argsort(order[nodes], kind="stable")]
    level = order[nodes]
    ends = np.unique(np.searchsorted(level, level[~tree.is_user[nodes]], "right"))
    return [some for some in np.split(nodes, ends) if len(some)]


def _siblings(tree: Tree) -> dict[int, list[int]]:
    """The nodes in the group of each: users, and accounts with shares of their own and users."""
    matters = tree.is_user.copy()
    for node, children in reversed(tree.below.items()):
        matters[node] = matters[children].any()
    matters &= tree.is_user | ~tree.as_parent
    found: dict[int, list[int]] = {node: [] for node in tree.below}
    for children in tree.below.values():
        found[int(tree.group[children[0]])] += children[matters[children]].tolist()
    return found

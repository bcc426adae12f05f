"""Slurm's Fair Tree: siblings are only ever compared with each other, from the root down.

After the documentation (Slurm, doc/html/fair_tree.shtml) where Slurm itself differs from it: its
26.11 does not merge tied accounts, and its ranks then depend on their names.
"""

from dataclasses import dataclass

import numpy as np

from oar_accounting.core.columns import Ints, ints
from oar_accounting.karma.policies.shares_tree import Tree
from oar_accounting.karma.policies.weights import Floats


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


def fair_tree(tree: Tree, leaf_usage: Floats) -> FairTreeParts:
    """The rank of every user.

    *leaf_usage*: what each node used itself, by node. The level fair share of a node is S / U, its
    fraction of the shares of its siblings divided by that of the usage of the node above: 0 where
    S is 0, otherwise infinite where U is 0, and for a user with the shares of its parent. An
    account with the shares of its parent is none: its children are siblings of it. The root has
    none either.

    From the root down, siblings are taken by descending level fair share, and the children of an
    account before its next sibling. The rank begins with the number of users and falls by one for
    every user met. Level fair shares that are equal as numbers are tied:

    * tied users get the same rank;
    * a user tied with an account gets the rank of the best user of that account;
    * the children of tied accounts are siblings of each other.

    An account without users does not matter to any rank but by its shares. Who uses more never
    comes to stand before anybody who stood before him.
    """
    usage = tree.usage(leaf_usage)
    effective = np.zeros(len(usage))
    np.divide(usage, usage[tree.group], out=effective, where=usage[tree.group] > 0)
    norm_shares = tree.fractions()
    level_fs = _level_fs(tree, norm_shares, effective)
    rank = _ranks(tree, level_fs)
    users = int(np.count_nonzero(tree.is_user))
    count = max(users, 1)
    return FairTreeParts(
        norm_shares=norm_shares,
        raw_usage=usage,
        effective_usage=effective,
        level_fs=level_fs,
        rank=rank,
        fairshare=np.where(tree.is_user, rank / count, np.nan),
        karma=np.where(tree.is_user, (users - rank) / count, np.nan),
    )


def _level_fs(tree: Tree, norm_shares: Floats, effective: Floats) -> Floats:
    found = np.full(len(effective), np.inf)
    # What decayed for very long is a part of the whole too small for a quotient that is finite.
    with np.errstate(over="ignore"):
        np.divide(norm_shares, effective, out=found, where=effective > 0)
    found[norm_shares == 0] = 0.0
    found[tree.as_parent] = np.inf
    found[tree.as_parent & ~tree.is_user] = np.nan
    found[tree.root] = np.nan
    return found


def _ranks(tree: Tree, level_fs: Floats) -> Ints:
    siblings = _siblings(tree)
    rank = np.zeros(len(level_fs), np.int64)
    left = last_rank = int(np.count_nonzero(tree.is_user))
    waiting = [(ints([tree.root]), False)]
    while waiting:
        nodes, tied_with_last = waiting.pop()
        level, is_user = level_fs[nodes], tree.is_user[nodes]
        if is_user.any():
            ahead = np.searchsorted(-level[is_user], -level[is_user])
            ranks = np.where(tied_with_last & (level[is_user] == level[0]), last_rank, left - ahead)
            rank[nodes[is_user]] = ranks
            left, last_rank = left - len(ranks), int(ranks[-1])
        # The last of a stretch are tied, and all accounts are among them.
        tied_with_last &= bool(level[0] == level[-1])
        tied_with_last |= bool(is_user[level == level[-1]].any())
        below = [child for node in nodes[~is_user].tolist() for child in siblings.get(node, ())]
        stretches = _stretches(ints(below), tree, level_fs)
        flags = [tied_with_last, *[False] * len(stretches)]
        waiting += reversed(list(zip(stretches, flags, strict=False)))
    return rank


def _stretches(nodes: Ints, tree: Tree, level_fs: Floats) -> list[Ints]:
    """The nodes by descending level fair share, cut wherever tied nodes with accounts end."""
    nodes = nodes[np.argsort(-level_fs[nodes], kind="stable")]
    level = -level_fs[nodes]
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

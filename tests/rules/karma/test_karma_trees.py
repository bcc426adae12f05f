"""Karma along trees of shares: the figures of other systems, the documented rules, and the laws."""

import json
import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, fields
from fractions import Fraction
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st
from hypothesis.strategies import DrawFn, composite

from oar_accounting.core.columns import ints
from oar_accounting.karma.policies.fair_tree import FairTreeParts, fair_tree
from oar_accounting.karma.policies.shares_tree import ClassicParts, Tree, classic
from oar_accounting.karma.policies.weights import Floats

FIGURES = json.loads((Path(__file__).parents[2] / "data" / "karma_trees.json").read_text())
PARENT = math.nan


class Node(NamedTuple):
    """A node of a tree whose nodes go by name; the root has no parent."""

    name: str
    parent: str | None
    shares: float | None = 1
    usage: float = 0
    is_user: bool = False


def account(name: str, parent: str, shares: float = 1, usage: float = 0) -> Node:
    return Node(name, parent, shares, usage)


def user(name: str, parent: str, shares: float = 1, usage: float = 0) -> Node:
    return Node(name, parent, shares, usage, is_user=True)


def _tree(nodes: Sequence[Node]) -> tuple[Tree, list[int], int]:
    number = {node.name: place for place, node in enumerate(nodes)}
    tree = Tree(
        parent=ints([-1 if node.parent is None else number[node.parent] for node in nodes]),
        shares=np.array([node.shares for node in nodes], np.float64),
        is_user=np.array([node.is_user for node in nodes], np.bool_),
    )
    # Every float is a whole number of some power of two.
    exact = [Fraction(node.usage) for node in nodes]
    unit = max(each.denominator for each in exact)
    return tree, [int(each * unit) for each in exact], unit


def _fair(nodes: Sequence[Node]) -> FairTreeParts:
    return fair_tree(*_tree(nodes))


def _classic(nodes: Sequence[Node]) -> ClassicParts:
    return classic(*_tree(nodes))


def _by_user(nodes: Sequence[Node], values: Any) -> dict[str, Any]:
    return {n.name: v for n, v in zip(nodes, values.tolist(), strict=True) if n.is_user}


def _ranks(nodes: Sequence[Node]) -> dict[str, int]:
    return _by_user(nodes, _fair(nodes).rank)


ROOT = Node("root", None)


# -- other systems ----------------------------------------------------------------------------


@dataclass(frozen=True)
class Case:
    """A tree with what another system says of its nodes."""

    nodes: list[Node]
    expected: dict[str, dict[str, float]]  #: by column and node

    @classmethod
    def named(cls, name: str) -> "Case":
        given = FIGURES[name]
        nodes = [
            Node(name, parent, PARENT if shares == "parent" else shares, *rest)
            for name, parent, shares, *rest in given["tree"]
        ]
        expected: dict[str, dict[str, float]] = {}
        for node, *values in given["expected"]:
            for column, value in zip(given["columns"][1:], values, strict=True):
                if value is not None:
                    expected.setdefault(column, {})[node] = float(value)
        return cls(nodes, expected)

    def check(self, column: str, values: Floats, tolerance: float = 6e-7) -> None:
        found = dict(zip((node.name for node in self.nodes), values.tolist(), strict=True))
        expected = self.expected[column]
        assert {name: found[name] for name in expected} == pytest.approx(expected, abs=tolerance)


@pytest.mark.parametrize("name", ["classic_documented", "classic_with_shares_of_the_parent"])
def test_classic_gives_the_figures_of_slurm(name: str) -> None:
    case = Case.named(name)
    parts = _classic(case.nodes)
    assert len(case.expected) == 5
    for column in case.expected:
        case.check(column, getattr(parts, column))


def test_fair_tree_gives_the_figures_of_slurm() -> None:
    case = Case.named("fair_tree")
    parts, usage = _fair(case.nodes), _classic(case.nodes).norm_usage
    # 40 shares for 20 is as much as 50 for 25, so uD2 is tied with uD3, by Slurm's own rules. In
    # floating point it is behind by one bit.
    assert (40 / 170) / (20 / 110) < (50 / 170) / (25 / 110)
    assert case.expected["level_fs"]["uD2"] == case.expected["level_fs"]["uD3"]
    assert case.expected["fairshare"]["uD2"] == 0.238095
    case.expected["fairshare"]["uD2"] = case.expected["fairshare"]["uD3"]
    case.check("norm_usage", usage)
    for column in sorted(set(case.expected) - {"norm_usage"}):
        case.check(column, getattr(parts, column))
    assert len(case.expected) == 6
    assert int(parts.rank.max()) == 21


def test_banks_of_flux_get_the_documented_figures() -> None:
    case = Case.named("flux_banks")
    parts = _classic(case.nodes)
    case.check("norm_shares", parts.norm_shares)
    case.check("norm_usage", parts.norm_usage)
    case.check("fairshare", _fair(case.nodes).fairshare, tolerance=6e-4)


# -- the documented rules ---------------------------------------------------------------------


@pytest.mark.parametrize("names", [("X", "Y"), ("W", "X"), ("Y", "X"), ("Z", "A")])
def test_children_of_tied_accounts_compete_whatever_the_names(names: tuple[str, str]) -> None:
    """Slurm 26.11 gives the one who used 30 of 40 a quarter or three, by the names."""
    one, other = names
    nodes = [
        ROOT,
        account(one, "root"),
        account(other, "root"),
        user("little", one, usage=10),
        user("much", one, usage=30),
        user("even", other, usage=20),
        user("odd", other, usage=20),
    ]
    assert _ranks(nodes) == {"little": 4, "even": 3, "odd": 3, "much": 1}
    assert _by_user(nodes, _fair(nodes).fairshare)["much"] == 0.25
    assert _by_user(nodes, _fair(nodes).karma) == {
        "little": 0.0,
        "even": 0.25,
        "odd": 0.25,
        "much": 0.75,
    }


def test_accounts_in_the_same_proportion_are_tied_whatever_the_quotients_round_to() -> None:
    """Both have 4/5, which 0.6 / 0.75 and 0.2 / 0.25 are not in floating point."""
    nodes = [
        ROOT,
        account("A", "root", 60),
        account("B", "root", 20),
        account("C", "root", 20),
        user("ann", "A", usage=20),
        user("amy", "A", usage=10),
        user("ben", "B", usage=6),
        user("bea", "B", usage=4),
    ]
    expected = {"amy": 1.0, "bea": 0.75, "ben": 0.5, "ann": 0.25}
    assert _by_user(nodes, _fair(nodes).fairshare) == expected
    assert _fair(nodes).level_fs.tolist()[1:3] == [0.8, 0.8]
    tenths = [node._replace(shares=(node.shares or 0) / 100) for node in nodes]
    assert _by_user(tenths, _fair(tenths).fairshare) == expected


@given(st.lists(st.integers(1, 10**6), min_size=2, max_size=9), st.integers(1, 7))
@example([3, 7], 3)
def test_who_uses_in_proportion_is_tied_in_the_classic_tree(shares: list[int], users: int) -> None:
    """In floating point some of them stand behind others by the last bit."""
    nodes = [ROOT]
    for lab, share in enumerate(shares):
        nodes.append(account(f"lab {lab}", "root", share))
        nodes += [user(f"{lab} {n}", f"lab {lab}", usage=share) for n in range(users)]
    karma = set(_by_user(nodes, _classic(nodes).karma).values())
    # Ueff = S (2 - f), of the fraction f that each has in its laboratory.
    assert karma == {(2 * users - 1) / users}


def test_who_is_apart_by_ever_so_little_is_not_tied() -> None:
    nodes = [ROOT, user("a", "root", usage=2**53), user("b", "root", usage=2**53 - 1)]
    assert _ranks(nodes) == {"a": 1, "b": 2}
    tree, *_ = _tree(nodes)
    assert fair_tree(tree, [0, 10**60, 10**60 + 1]).rank.tolist() == [0, 2, 1]


@given(
    st.lists(st.integers(1, 10**9), min_size=2, max_size=8),
    st.integers(1, 10**12),
    st.sampled_from((1, 0.1, 0.001, 7)),
)
def test_siblings_that_use_in_proportion_to_their_shares_are_tied(
    shares: list[int], usage: int, unit: float
) -> None:
    """Exactly, whatever both are: each has the rank of the first."""
    accounts = [account(f"a{n}", "root", round(each * unit, 3)) for n, each in enumerate(shares)]
    users = [user(f"u{n}", f"a{n}") for n in range(len(shares))]
    nodes = [ROOT, *accounts, *users]
    own = [0] * (1 + len(shares)) + [each * usage for each in shares]
    parts = fair_tree(_tree(nodes)[0], own)
    assert set(parts.rank[-len(shares) :].tolist()) == {len(shares)}
    assert set(parts.level_fs[1 : 1 + len(shares)].tolist()) == {1.0}


def test_a_user_tied_with_an_account_gets_the_rank_of_its_best_user() -> None:
    nodes = [
        ROOT,
        user("alone", "root", usage=10),
        account("X", "root", usage=0),
        account("below", "X", usage=0),
        user("first", "below", usage=4),
        user("second", "below", usage=6),
        user("behind", "root", usage=30),
    ]
    assert _ranks(nodes) == {"alone": 4, "first": 4, "second": 2, "behind": 1}


def test_only_the_best_of_a_tied_account_have_the_rank_of_the_user() -> None:
    nodes = [
        ROOT,
        user("alone", "root", usage=12),
        account("X", "root"),
        user("best", "X", usage=0),
        account("good", "X"),
        user("a", "good", usage=2),
        account("bad", "X"),
        user("b", "bad", usage=10),
    ]
    assert _ranks(nodes) == {"alone": 4, "best": 4, "a": 2, "b": 1}
    without_best = [node for node in nodes if node.name != "best"]
    assert _ranks(without_best) == {"alone": 3, "a": 3, "b": 1}


def test_accounts_without_users_do_not_come_between() -> None:
    nodes = [
        ROOT,
        user("alone", "root", usage=10),
        account("X", "root", usage=0),
        account("empty", "X"),
        account("emptier", "empty"),
        user("first", "X", usage=10),
    ]
    assert _ranks(nodes) == {"alone": 2, "first": 2}


def test_children_of_children_of_tied_accounts_compete_too() -> None:
    nodes = [
        ROOT,
        account("X", "root"),
        account("Y", "root"),
        account("XX", "X"),
        account("YY", "Y"),
        user("a", "XX", usage=1),
        user("b", "XX", usage=3),
        user("c", "YY", usage=2),
        user("d", "YY", usage=2),
    ]
    assert _ranks(nodes) == {"a": 4, "c": 3, "d": 3, "b": 1}


def test_without_shares_one_is_last_and_without_usage_first() -> None:
    nodes = [
        ROOT,
        user("none", "root", shares=0, usage=0),
        user("idle", "root", usage=0),
        user("busy", "root", usage=9),
        user("flagged", "root", shares=PARENT, usage=90),
    ]
    assert _ranks(nodes) == {"idle": 4, "flagged": 4, "busy": 2, "none": 1}
    parts = _fair(nodes)
    assert parts.level_fs.tolist()[1:] == [0.0, math.inf, 0.5 / (9 / 99), math.inf]
    assert parts.norm_shares.tolist() == [1, 0, 0.5, 0.5, 1]
    karma = _by_user(nodes, _classic(nodes).karma)
    assert karma == {"none": math.inf, "idle": 0, "busy": 9 / 99 / 0.5, "flagged": 90 / 99}
    assert _by_user(nodes, _classic(nodes).factor)["none"] == 0


def test_a_group_without_any_shares_uses_what_its_parent_uses() -> None:
    nodes = [
        ROOT,
        account("X", "root"),
        user("a", "X", shares=0, usage=1),
        user("b", "X", shares=0, usage=0),
        user("c", "root", usage=3),
    ]
    parts = _classic(nodes)
    assert _by_user(nodes, parts.effective_usage) == {"a": 0.25, "b": 0.25, "c": 0.75}
    assert _by_user(nodes, parts.karma) == {"a": math.inf, "b": math.inf, "c": 1.5}
    assert _by_user(nodes, _fair(nodes).level_fs) == {"a": 0, "b": 0, "c": 0.5 / 0.75}


def test_who_has_no_shares_among_others_has_its_own_usage() -> None:
    nodes = [ROOT, account("X", "root"), user("a", "X", shares=0, usage=1), user("b", "X", usage=3)]
    parts = _classic(nodes)
    assert _by_user(nodes, parts.effective_usage) == {"a": 0.25, "b": 1}


def test_where_nothing_was_used_all_with_shares_are_first() -> None:
    nodes = [ROOT, account("X", "root", 9), user("a", "X"), user("b", "root"), user("c", "root", 0)]
    parts = _classic(nodes)
    assert parts.effective_usage.tolist() == [0.0] * 5
    assert _by_user(nodes, parts.karma) == {"a": 0, "b": 0, "c": math.inf}
    assert _ranks(nodes) == {"a": 3, "b": 3, "c": 1}


def test_a_tree_without_users_has_no_ranks() -> None:
    for nodes in ([ROOT], [ROOT, account("X", "root", usage=3)]):
        parts = _fair(nodes)
        assert parts.rank.tolist() == [0] * len(nodes)
        assert np.isnan(parts.fairshare).all()
        assert np.isnan(parts.karma).all()


def test_usage_of_accounts_themselves_counts_beside_that_of_their_users() -> None:
    nodes = [
        ROOT._replace(usage=10),
        account("X", "root", usage=15),
        user("a", "X", usage=5),
        user("b", "root", usage=-7),
    ]
    parts = _classic(nodes)
    assert parts.raw_usage.tolist() == [30, 20, 5, 0]
    assert parts.norm_usage.tolist() == [1, 20 / 30, 5 / 30, 0]


def test_usage_that_is_almost_forgotten_is_no_trouble() -> None:
    nodes = [ROOT, user("ancient", "root", usage=5e-324), user("idle", "root"), user("b", "root")]
    for busy in (1.0, 1e-310):
        nodes[3] = nodes[3]._replace(usage=busy)
        ranks = _ranks(nodes)
        assert ranks["idle"] == 3 >= ranks["ancient"] > ranks["b"] == 1


def test_shares_that_vanish_in_a_deep_tree_leave_karma_a_number_or_infinite() -> None:
    nodes = [ROOT]
    for depth in range(120):
        above = nodes[-1].name
        nodes += [user(f"u{depth}", above, 1e3, usage=1), account(f"a{depth}", above, 1)]
    karma = _classic(nodes).karma
    assert not np.isnan(karma).any()
    assert math.inf in karma and karma[1] < 2


def test_a_very_deep_tree_is_no_trouble() -> None:
    nodes = [ROOT]
    for depth in range(3_000):
        nodes.append(account(f"a{depth}", nodes[-1].name))
    nodes += [user("a", nodes[-1].name, usage=1), user("b", nodes[-1].name, usage=2)]
    assert _ranks(nodes) == {"a": 2, "b": 1}
    assert _by_user(nodes, _classic(nodes).norm_shares) == {"a": 0.5, "b": 0.5}


@pytest.mark.parametrize(
    ("parent", "shares", "trouble"),
    [
        ([], [], "one node must be the root, not 0"),
        ([-1, -1], [1, 1], "one node must be the root, not 2"),
        ([0, 0], [1, 1], "one node must be the root, not 0"),
        ([-1, 3, 0], [1, 1, 1], "node 1 has no such parent"),
        ([-1, 1, 0], [1, 1, 1], "node 1 is above or below itself"),
        ([-1, 3, 1, 2, 0], [1] * 5, "node 1 is above or below itself"),
        ([-1, 0], [1, -1], "node 1 has shares that are no number from 0"),
        ([-1, 0], [1, math.inf], "node 1 has shares that are no number from 0"),
        ([-1, 0, 4, 4, 0], [1] * 5, "node 4 is a user, who cannot be above others"),
        ([-1], [1], "node 0 is a user, who cannot be above others"),
    ],
)
def test_what_is_no_tree_of_shares_is_refused(
    parent: list[int], shares: list[float], trouble: str
) -> None:
    last_is_user = np.arange(len(parent)) == len(parent) - 1
    with pytest.raises(ValueError, match=f"^{trouble}$"):
        Tree(parent=ints(parent), shares=np.array(shares, np.float64), is_user=last_is_user)


# -- by the plainest arithmetic ---------------------------------------------------------------


@composite
def forests(draw: DrawFn, most: int = 9, usage: int = 4) -> list[Node]:
    """Small trees with many ties: accounts, some empty or with the shares of the parent."""
    accounts = ["root"]
    nodes = [ROOT]
    shares = st.sampled_from((0, 1, 1, 2, 3, PARENT))
    for place in range(draw(st.integers(1, most))):
        node = Node(
            f"n{place}",
            draw(st.sampled_from(accounts)),
            draw(shares),
            draw(st.integers(0, usage)),
            draw(st.booleans()),
        )
        nodes.append(node)
        if not node.is_user:
            accounts.append(node.name)
    return draw(st.permutations(nodes))


def _plain(node: Node) -> bool:
    """Whether it has shares of its own."""
    return node.parent is None or node.shares == node.shares


class Plain:
    """The rules of both trees said again, node by node and with recursion."""

    def __init__(self, nodes: Sequence[Node]) -> None:
        self.nodes = {node.name: node for node in nodes}
        self.users = [node for node in nodes if node.is_user]

    def usage(self, node: Node) -> float:
        below = (each for each in self.nodes.values() if each.parent == node.name)
        return node.usage + sum(self.usage(each) for each in below)

    def above(self, node: Node) -> Node:
        found = self.nodes[str(node.parent)]
        return found if _plain(found) else self.above(found)

    def group(self, node: Node) -> list[Node]:
        """Those that take part in the group of children of *node*."""
        others = (each for each in self.nodes.values() if each.parent is not None)
        return [each for each in others if self.above(each) is node]

    def fraction(self, node: Node) -> float | None:
        """Of the shares of the group; None where that has none."""
        level = sum(each.shares or 0 for each in self.group(self.above(node)) if _plain(each))
        return (node.shares or 0) / level if level else None

    def classic(self, node: Node) -> tuple[float, float]:
        """Normalised shares and effective usage."""
        whole = self.usage(self.nodes["root"])
        usage = self.usage(node) / whole if whole else 0.0
        if node.parent is None:
            return 1.0, usage
        above = self.above(node)
        shares, effective = self.classic(above)
        fraction = self.fraction(node) if _plain(node) else 1.0
        if above.parent is None:
            effective = usage
        elif _plain(node) and fraction is not None:
            effective = usage + (effective - usage) * fraction
        return shares * (fraction or 0.0), effective

    def level_fs(self, node: Node) -> float | Fraction:
        if not _plain(node):
            return math.inf
        others = [each for each in self.group(self.above(node)) if _plain(each)]
        if not node.shares:
            return 0.0
        # As numbers are written: a tenth is a tenth.
        level = sum(Fraction(repr(each.shares)) for each in others)
        usage, whole = Fraction(self.usage(node)), Fraction(self.usage(self.above(node)))
        return Fraction(repr(node.shares)) / level / (usage / whole) if usage else math.inf

    def best_first(self, nodes: Sequence[Node]) -> list[list[Node]]:
        """The users among and below these siblings, tied ones together."""
        found: list[list[Node]] = []
        some = [node for node in nodes if node.is_user or _plain(node)]
        for level in sorted({self.level_fs(node) for node in some}, reverse=True):
            tied = [node for node in some if self.level_fs(node) == level]
            children = [child for node in tied for child in self.group(node)]
            below = self.best_first(children) if children else []
            users = [node for node in tied if node.is_user]
            if users:
                first, *rest = below or [[]]
                below = [users + first, *rest]
            found += below
        return found

    def ranks(self) -> dict[str, int]:
        left, found = len(self.users), {}
        for tied in self.best_first(self.group(self.nodes["root"])):
            found.update({node.name: left for node in tied})
            left -= len(tied)
        return found


@given(forests())
def test_classic_is_its_formula(nodes: list[Node]) -> None:
    parts, plain = _classic(nodes), Plain(nodes)
    expected = [plain.classic(node) for node in nodes]
    assert parts.norm_shares.tolist() == pytest.approx([shares for shares, _ in expected])
    effective = [effective for _, effective in expected]
    assert parts.effective_usage.tolist() == pytest.approx(effective)
    for place, (shares, used) in enumerate(expected):
        karma = used / shares if shares else math.inf
        assert parts.karma[place] == pytest.approx(karma)
        assert parts.factor[place] == pytest.approx(2**-karma)


@given(forests(most=12))
@example([ROOT, account("n0", "root"), user("n1", "n0", PARENT), user("n2", "root", usage=1)])
def test_fair_tree_is_its_rules(nodes: list[Node]) -> None:
    parts, plain = _fair(nodes), Plain(nodes)
    assert _by_user(nodes, parts.rank) == plain.ranks()
    for place, node in enumerate(nodes):
        if node.is_user:
            assert parts.level_fs[place] == float(plain.level_fs(node))
            assert parts.fairshare[place] == parts.rank[place] / len(plain.users)
            assert parts.karma[place] == pytest.approx(1 - parts.fairshare[place])
        else:
            assert parts.rank[place] == 0
            compared = node.parent is not None and _plain(node)
            assert math.isnan(parts.level_fs[place]) is not compared
            assert math.isnan(parts.fairshare[place]) and math.isnan(parts.karma[place])


# -- laws -------------------------------------------------------------------------------------


@given(st.lists(st.integers(0, 10**6), min_size=2, max_size=9), st.integers(0, 10**6))
@example([1, 2, 4], 3)
def test_all_with_the_shares_of_their_account_are_tied(usage: list[int], rest: int) -> None:
    """To the last bit, whatever each of them used: so the job id decides between them."""
    users = [user(f"n{place}", "X", PARENT, each) for place, each in enumerate(usage)]
    nodes = [ROOT, account("X", "root", 3), user("rest", "root", usage=rest), *users]
    karma = _classic(nodes).karma
    assert karma[3:].tolist() == [karma[1]] * len(users)


@given(forests(most=12, usage=10**6), st.data())
def test_the_order_of_the_nodes_does_not_matter(nodes: list[Node], data: st.DataObject) -> None:
    """To the last bit, also where sums of usage and shares have to be rounded."""
    nodes = [
        node._replace(usage=node.usage * 0.1, shares=node.shares and node.shares * 0.3)
        for node in nodes
    ]
    order = data.draw(st.permutations(range(len(nodes))))
    moved = [nodes[place] for place in order]
    for policy in (_classic, _fair):
        before, after = policy(nodes), policy(moved)
        for field in fields(before):
            column, again = getattr(before, field.name), getattr(after, field.name)
            assert np.array_equal(column[order], again, equal_nan=True), field.name


@given(forests(usage=10**6), st.sampled_from((2.0**-40, 0.5, 2.0, 2.0**60, 3.0, 1_000.0)))
def test_the_unit_of_usage_does_not_matter(nodes: list[Node], factor: float) -> None:
    """Exactly, since every amount is the exact product with a whole number or a power of two."""
    scaled = [node._replace(usage=node.usage * factor) for node in nodes]
    for policy in (_classic, _fair):
        before, after = policy(nodes), policy(scaled)
        for field in fields(before):
            if field.name != "raw_usage":
                column, again = getattr(before, field.name), getattr(after, field.name)
                assert np.array_equal(column, again, equal_nan=True), field.name


@given(forests(most=14), st.integers(1, 10**6), st.data())
def test_who_uses_more_never_passes_anybody(
    nodes: list[Node], more: int, data: st.DataObject
) -> None:
    users = [node for node in nodes if node.is_user]
    assume(users)
    who = data.draw(st.sampled_from(users))
    added = [n._replace(usage=n.usage + more) if n is who else n for n in nodes]
    for policy in (_classic, _fair):
        before = _by_user(nodes, policy(nodes).karma)
        after = _by_user(added, policy(added).karma)
        ahead = {name for name in before if before[name] < before[who.name] * (1 - 1e-12)}
        assert {name for name in ahead if after[name] > after[who.name] * (1 + 1e-12)} == set()
        if policy is _fair:
            assert after[who.name] >= before[who.name]


@given(forests(usage=1_000), st.floats(1e-12, 1e12))
def test_classic_is_as_good_in_any_unit(nodes: list[Node], factor: float) -> None:
    scaled = [node._replace(usage=node.usage * factor) for node in nodes]
    karma, again = _classic(nodes).karma.tolist(), _classic(scaled).karma.tolist()
    assert again == pytest.approx(karma, rel=1e-9)


def test_ten_thousand_users_of_two_hundred_banks_take_no_time() -> None:
    random = np.random.default_rng(3)
    banks, users = 200, 10_000
    parent = np.concatenate([[-1], np.zeros(20, np.int64), random.integers(1, 21, banks - 20)])
    tree_parent = np.concatenate([parent, random.integers(1, banks + 1, users)])
    is_user = np.arange(len(tree_parent)) > banks
    shares = random.integers(1, 9, len(tree_parent)).astype(np.float64)
    usage = np.where(is_user, random.integers(0, 10**6, len(tree_parent)), 0).astype(np.float64)

    def seconds(policy: Any, used: Any) -> float:
        began = time.process_time()
        policy(Tree(parent=tree_parent, shares=shares, is_user=is_user), used)
        return time.process_time() - began

    assert min(seconds(classic, usage) for _ in range(9)) < 0.050
    # As much as there is in decades, in multiples of 2^-40.
    whole = [int(each) << 80 for each in usage.tolist()]
    assert min(seconds(fair_tree, whole) for _ in range(9)) < 0.100

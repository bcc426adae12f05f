"""Karma along a tree of shares: laboratories, their projects, their users."""

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from oar_accounting.core.columns import Ints, Texts, ints
from oar_accounting.karma.entities import Entities, placed
from oar_accounting.karma.inputs import Sources
from oar_accounting.karma.paths import DeclaredNodes, Path, Paths
from oar_accounting.karma.policies.describe import in_words
from oar_accounting.karma.policies.fair_tree import fair_tree
from oar_accounting.karma.policies.policy import PROJECT_LEVELS, Shared
from oar_accounting.karma.policies.shares_tree import Tree, classic
from oar_accounting.karma.policies.whole import FULL, mixed
from oar_accounting.karma.report import FairShareRow, Floats, MetricUsage, Part
from oar_accounting.karma.usage import Weighed, WeighedExactly
from oar_accounting.karma.waiting import Waiters

#: What stands for a mix of metrics.
MIX = " + "


@dataclass(frozen=True, slots=True, kw_only=True)
class LeafUsage:
    """What every leaf used, from 0, in whole parts of a unit."""

    amounts: Sequence[int]  #: by number
    units: Mapping[str, int]  #: by queue
    weighed: Sequence[Weighed]  #: by metric


@dataclass(frozen=True, slots=True, kw_only=True)
class JudgedTree:
    """A tree with what its names used, and what comes of it; arrays by node."""

    nodes: dict[Path, int]  #: the node of each path; the root has the empty one
    leaves: dict[Path, Path]  #: where in the tree the jobs of each path are
    shares: Floats  #: normalised: what is meant for the node, of the whole or among its siblings
    usage: Floats  #: its own, and of all below it
    of: Floats  #: what that is a share of
    of_project: list[str]  #: the project whose usage that is; empty for more than one's
    share: Floats  #: ``usage / of``
    effective: Floats  #: of the classic policy: drawn towards that of the node above; else NaN
    figure: Floats
    karma: Floats

    def karma_at(self, path: Path) -> float:
        """The karma of the jobs of a path."""
        return float(self.karma[self.nodes[self.leaves[path]]])


@dataclass(frozen=True, slots=True, kw_only=True)
class Forest:
    """The tree of each queue, or one under the empty name."""

    trees: dict[str, JudgedTree]
    entities: Entities[tuple[str, Path]]  #: the leaves
    weighed: Sequence[Weighed]  #: by metric, what the leaves used


def judge(
    policy: Shared, paths: Paths, jobs: Iterable[tuple[str, Path]], sources: Sources
) -> Forest:
    """What comes of the shares and of what was used, with these *jobs* in the trees."""
    entities = placed(sources.names, paths.of)
    usage = _leaf_usage(policy, entities, sources)
    leaves: dict[str, dict[Path, int]] = {}
    for queue, path in jobs:
        leaves.setdefault(queue, {})[path] = 0
    known = {queue: set(some) for queue, some in leaves.items()}
    for (queue, path), amount in zip(entities.groups, usage.amounts, strict=True):
        known.setdefault(queue, set()).add(path)
        if amount > 0:
            leaves.setdefault(queue, {})[path] = amount
    trees = {}
    for queue, used in leaves.items():
        declared = DeclaredNodes(policy, paths, known[queue]).found()
        trees[queue] = _judged(policy, used, declared, usage.units.get(queue, 1))
    return Forest(trees=trees, entities=entities, weighed=usage.weighed)


def _leaf_usage(policy: Shared, leaves: Entities[tuple[str, Path]], sources: Sources) -> LeafUsage:
    """What the leaves used of the policy's metrics."""
    weighed: list[WeighedExactly] = [
        sources.exact_usage(metric, policy.counted, leaves) for metric in policy.metrics
    ]
    used = [[max(amount, 0) for amount in each.whole] for each in weighed]
    numbers: dict[str, list[int]] = {}
    for number, (queue, _) in enumerate(leaves.groups):
        numbers.setdefault(queue, []).append(number)
    if len(used) == 1:
        return LeafUsage(amounts=used[0], units=dict.fromkeys(numbers, FULL), weighed=weighed)
    amounts, units = [0] * len(leaves.groups), {}
    for queue, some in numbers.items():
        of_queue = [[each[number] for number in some] for each in used]
        mix, units[queue] = mixed(list(policy.metrics.values()), of_queue)
        for number, amount in zip(some, mix, strict=True):
            amounts[number] = amount
    return LeafUsage(amounts=amounts, units=units, weighed=weighed)


def _judged(
    policy: Shared, used: Mapping[Path, int], declared: Sequence[Path], unit: int
) -> JudgedTree:
    """The tree of the leaves that *used* something, or wait, and of all *declared* nodes."""
    nodes: dict[Path, int] = {(): 0}
    for path in (*used, *declared):
        for length in range(1, len(path) + 1):
            nodes.setdefault(path[:length], len(nodes))
    parents = {path[:-1] for path in nodes}
    idle = [path for path in declared if path[-1][0] == policy.levels[-1] and path not in parents]
    leaves = {**dict.fromkeys(idle, 0), **used}
    # A project above others is also a leaf, beside them, for the jobs of its own.
    leaf = {path: (*path, path[-1]) if path in parents else path for path in leaves}
    for path in leaf.values():
        nodes.setdefault(path, len(nodes))
    own = {nodes[leaf[path]]: amount for path, amount in leaves.items()}
    tree = Tree(
        parent=ints([-1, *(nodes[path[:-1]] for path in list(nodes)[1:])]),
        shares=np.array([1.0, *(_share(policy, path) for path in list(nodes)[1:])]),
        is_user=np.isin(np.arange(len(nodes)), list(own)),
    )
    amounts = [own.get(node, 0) for node in range(len(nodes))]
    judged = _fair if policy.fair else _classic
    return judged(nodes, leaf, tree, amounts, unit)


def _share(policy: Shared, path: Path) -> float:
    """The shares of a node; NaN for those of the node above it."""
    if len(path) > 1 and path[-1] == path[-2]:
        return 1.0
    level, name = path[-1]
    above = path[-2][1] if len(path) > 1 else ""
    share = policy.share(level, name, above)
    return math.nan if share is None else share


def _classic(
    nodes: dict[Path, int],
    leaves: dict[Path, Path],
    tree: Tree,
    own: Sequence[int],
    unit: int,
) -> JudgedTree:
    parts = classic(tree, own, unit)
    return JudgedTree(
        nodes=nodes,
        leaves=leaves,
        shares=parts.norm_shares,
        usage=parts.raw_usage,
        of=np.full(len(nodes), parts.raw_usage[0]),
        of_project=[""] * len(nodes),
        share=parts.norm_usage,
        effective=parts.effective_usage,
        figure=parts.factor,
        karma=parts.karma,
    )


def _fair(
    nodes: dict[Path, int],
    leaves: dict[Path, Path],
    tree: Tree,
    own: Sequence[int],
    unit: int,
) -> JudgedTree:
    parts = fair_tree(tree, own, unit)
    return JudgedTree(
        nodes=nodes,
        leaves=leaves,
        shares=parts.norm_shares,
        usage=parts.raw_usage,
        of=parts.raw_usage[tree.group],
        of_project=_projects(nodes, tree),
        share=parts.effective_usage,
        effective=np.full(len(nodes), np.nan),
        figure=parts.level_fs,
        karma=parts.karma,
    )


def _projects(nodes: Iterable[Path], tree: Tree) -> list[str]:
    """The project in whose group of siblings each node is; empty in that of anything else."""
    above = [path[-1] if path else ("", "") for path in nodes]
    is_project = [level in PROJECT_LEVELS for level, _ in above]
    return [above[group][1] if is_project[group] else "" for group in tree.group.tolist()]


def karma_of(policy: Shared, jobs: Waiters, sources: Sources) -> tuple[Floats, list[Part]]:
    """The karma of every job, and every node from the top of the tree to its leaf."""
    paths = Paths(policy, sources)
    places = [paths.of(names) for names in jobs.different]
    trees = judge(policy, paths, places, sources).trees
    karma = np.array([trees[queue].karma_at(path) for queue, path in places], np.float64)
    ways = [_way(trees[queue].leaves[path]) for queue, path in places]
    slots = sorted(set().union(*ways), key=lambda slot: (policy.levels.index(slot[0]), slot[1]))
    queues = np.array([queue for queue, _ in places], dtype=object)
    parts = []
    for depth, slot in enumerate(slots):
        nodes = [
            trees[queue].nodes[way[slot]] if slot in way else -1
            for (queue, _), way in zip(places, ways, strict=True)
        ]
        part = _part(policy, slot[0], depth, queues, ints(nodes), trees, sources)
        parts.append(part.take(jobs.number))
    return karma[jobs.number], parts


def _way(leaf: Path) -> dict[tuple[str, int], Path]:
    """The nodes down to a leaf, by their level and number within it: projects have several."""
    seen: Counter[str] = Counter()
    found = {}
    for end, (level, _) in enumerate(leaf, 1):
        found[level, seen[level]] = leaf[:end]
        seen[level] += 1
    return found


def _part(  # noqa: PLR0913 - one part of what is in every tree
    policy: Shared,
    level: str,
    depth: int,
    queues: Texts,
    nodes: Ints,
    trees: Mapping[str, JudgedTree],
    sources: Sources,
) -> Part:
    """One node on the way to each leaf, in the tree of its queue; -1 for those that have none."""
    names, of_project = np.full((2, len(nodes)), None, dtype=object)
    figures = np.zeros((6, len(nodes)))
    for queue, tree in trees.items():
        rows = np.flatnonzero((queues == queue) & (nodes >= 0))
        some = nodes[rows]
        names[rows] = np.array([path[-1][1] if path else "" for path in tree.nodes], object)[some]
        of_project[rows] = np.array(tree.of_project, object)[some]
        columns = (tree.usage, tree.of, tree.share, tree.effective, tree.shares, tree.figure)
        figures[:, rows] = [column[some] for column in columns]
    usage, of, share, effective, target, value = figures
    unit, scale = _unit(policy, sources)
    return Part(
        by=level,
        depth=depth,
        metric=MIX.join(policy.metrics),
        unit=unit,
        scale=scale,
        amount=policy.counted.amount,
        scope=policy.counted.scope,
        counts=in_words(policy.counted.weighting),
        weight=1.0,
        names=names,
        usage=usage,
        of=of,
        of_project=of_project,
        share=share,
        effective=effective,
        target=target,
        value=value,
    )


def _unit(policy: Shared, sources: Sources) -> tuple[str, int]:
    """Unit and scale of one metric; a mix is made of shares, which have no unit."""
    if len(policy.metrics) > 1:
        return "", 1
    metric = sources.metric(next(iter(policy.metrics)))
    return metric.unit, metric.scale


def rows(policy: Shared, jobs: Waiters, sources: Sources) -> list[FairShareRow]:
    """The trees from the top down, of siblings the largest usage first; who waits is in them."""
    paths = Paths(policy, sources)
    forest = judge(policy, paths, map(paths.of, jobs.different), sources)
    used = _used(policy, forest, sources)
    found: list[FairShareRow] = []
    for queue, tree in sorted(forest.trees.items()):
        children: dict[Path, list[Path]] = {}
        for path in list(tree.nodes)[1:]:
            children.setdefault(path[:-1], []).append(path)
        waiting: list[Path] = [()]
        while waiting:
            path = waiting.pop()
            if path:
                found.append(_row(policy, queue, path, tree, used.get((queue, path), ())))
            below = children.get(path, [])
            waiting += sorted(below, key=lambda each: (-tree.usage[tree.nodes[each]], each))[::-1]
    return found


def _row(
    policy: Shared, queue: str, path: Path, tree: JudgedTree, usage: Sequence[MetricUsage]
) -> FairShareRow:
    node = tree.nodes[path]
    effective, figure = float(tree.effective[node]), float(tree.figure[node])
    return FairShareRow(
        by=path[-1][0],
        amount=policy.counted.amount,
        counts=in_words(policy.counted.weighting),
        depth=len(path) - 1,
        name=path[-1][1],
        queue=queue,
        target=float(tree.shares[node]),
        share=float(tree.share[node]),
        of_project=tree.of_project[node],
        effective=None if math.isnan(effective) else effective,
        figure=figure if math.isfinite(figure) else None,
        usage=tuple(usage),
    )


def _used(
    policy: Shared, forest: Forest, sources: Sources
) -> dict[tuple[str, Path], list[MetricUsage]]:
    """What every node and all below it used, by queue and path."""
    found: dict[tuple[str, Path], list[MetricUsage]] = {}
    for metric, weighed in zip(policy.metrics, forest.weighed, strict=True):
        amounts: dict[tuple[str, Path], int] = {}
        usages: dict[tuple[str, Path], list[float]] = {}
        columns = (weighed.amount.tolist(), weighed.counted.tolist())
        for (queue, path), amount, usage in zip(forest.entities.groups, *columns, strict=True):
            tree = forest.trees.get(queue)
            path = path if tree is None else tree.leaves.get(path, path)
            for length in range(len(path) + 1):
                key = (queue, path[:length])
                amounts[key] = amounts.get(key, 0) + amount
                usages.setdefault(key, []).append(usage)
        for key, amount in amounts.items():
            usage, total = math.fsum(usages[key]), math.fsum(usages[key[0], ()])
            found.setdefault(key, []).append(
                MetricUsage(
                    metric=metric,
                    unit=sources.metric(metric).unit,
                    scale=sources.metric(metric).scale,
                    amount=amount,
                    usage=usage,
                    share=usage / total if total > 0 else 0.0,
                )
            )
    return found

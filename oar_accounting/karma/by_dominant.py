"""Dominant karma: the largest share of what the machine could give, over several metrics."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from oar_accounting.core.columns import Ints
from oar_accounting.karma.by_linear import of_all
from oar_accounting.karma.entities import Entities
from oar_accounting.karma.inputs import Sources
from oar_accounting.karma.policies.describe import in_words
from oar_accounting.karma.policies.dominant import dominant
from oar_accounting.karma.policies.policy import Dominant
from oar_accounting.karma.report import FairShareRow, Floats, MetricUsage, Part
from oar_accounting.karma.usage import Weighed
from oar_accounting.karma.waiting import QUEUE, Waiters
from oar_accounting.usage.keys import Group, Key


@dataclass(frozen=True, slots=True, kw_only=True)
class JudgedMetrics:
    """What everybody used of every metric; arrays of metrics and entities."""

    keys: Sequence[Key]
    entities: Entities[Group]
    weighed: Sequence[Weighed]  #: by metric
    of: Floats  #: what the usage is a share of
    share: Floats
    karma: Floats  #: by entity


def judge(policy: Dominant, sources: Sources) -> JudgedMetrics:
    """What everybody used of every metric."""
    names = (QUEUE, policy.by) if policy.counted.scope == QUEUE else (policy.by,)
    keys, entities = sources.entities(names)
    weighed = [sources.usage(name, policy.counted, entities) for name in policy.metrics]
    usage = np.array([each.usage for each in weighed]).reshape(len(weighed), -1)
    capacity = np.array(sources.capacities(policy.metrics, policy.counted.weighting))
    share, of, karma = np.zeros(usage.shape), np.zeros(usage.shape), np.zeros(usage.shape[1])
    for some in _together(entities, scoped=len(keys) > 1):
        parts = dominant(usage[:, some], capacity)
        share[:, some], of[:, some], karma[some] = parts.share, parts.of[:, None], parts.karma
    return JudgedMetrics(
        keys=keys, entities=entities, weighed=weighed, of=of, share=share, karma=karma
    )


def _together(entities: Entities[Group], *, scoped: bool) -> Iterator[Ints]:
    """The numbers of the entities that are compared: all, or those of each queue."""
    queues = [group[0] if scoped else "" for group in entities.groups]
    for queue in dict.fromkeys(queues):
        yield np.flatnonzero(np.array([each == queue for each in queues]))


def karma_of(policy: Dominant, jobs: Waiters, sources: Sources) -> tuple[Floats, list[Part]]:
    """The karma of every job, and the share of each metric; the largest is the karma."""
    judged = judge(policy, sources)
    values = [jobs.values(key, sources.now) for key in judged.keys]
    number = judged.entities.find(list(zip(*values, strict=True)))
    none = np.full(len(number), np.nan)
    queues = values[0] if len(values) > 1 else None
    parts = [
        Part(
            by=policy.by,
            metric=metric,
            unit=sources.metric(metric).unit,
            scale=sources.metric(metric).scale,
            amount=policy.counted.amount,
            scope=policy.counted.scope,
            counts=in_words(policy.counted.weighting),
            weight=1.0,
            names=np.array(values[-1], dtype=object),
            usage=np.append(judged.weighed[row].counted, 0.0)[number],
            of=of_all(judged.entities, judged.of[row], queues, len(number)),
            share=np.append(judged.share[row], 0.0)[number],
            target=none,
            value=np.append(judged.share[row], 0.0)[number],
        )
        for row, metric in enumerate(policy.metrics)
    ]
    return np.append(judged.karma, 0.0)[number], parts


def rows(policy: Dominant, sources: Sources) -> list[FairShareRow]:
    """Everybody who used something, the largest dominant shares first."""
    judged = judge(policy, sources)
    found = [
        FairShareRow(
            by=policy.by,
            amount=policy.counted.amount,
            counts=in_words(policy.counted.weighting),
            depth=0,
            name=group[-1],
            queue=group[0] if len(group) > 1 else "",
            target=None,
            share=float(judged.karma[row]),
            figure=None,
            usage=tuple(
                MetricUsage(
                    metric=metric,
                    unit=sources.metric(metric).unit,
                    scale=sources.metric(metric).scale,
                    amount=int(weighed.amount[row]),
                    usage=float(weighed.counted[row]),
                    share=float(judged.share[place, row]),
                )
                for place, (metric, weighed) in enumerate(
                    zip(policy.metrics, judged.weighed, strict=True)
                )
            ),
        )
        for row, group in enumerate(judged.entities.groups)
        if any(weighed.amount[row] for weighed in judged.weighed)
    ]
    return sorted(found, key=lambda line: (line.queue, -(line.share or 0.0), line.name))

"""Linear karma: the sum of ``weight × (share of usage - target)``, as OAR's own."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from oar_accounting.core.columns import Ints, distinct
from oar_accounting.karma.entities import Entities
from oar_accounting.karma.inputs import Sources
from oar_accounting.karma.policies.describe import in_words
from oar_accounting.karma.policies.linear import linear, shares, total_of
from oar_accounting.karma.policies.linear import term as value_of_term
from oar_accounting.karma.policies.policy import Linear, Term
from oar_accounting.karma.report import FairShareRow, Floats, MetricUsage, Part
from oar_accounting.karma.usage import Weighed
from oar_accounting.karma.waiting import QUEUE, Waiters
from oar_accounting.usage.keys import Group, Key


@dataclass(frozen=True, slots=True, kw_only=True)
class JudgedTerm:
    """A term with what everybody used."""

    term: Term
    keys: Sequence[Key]  #: the entity's, after that of the queue where each counts for itself
    entities: Entities[Group]
    weighed: Weighed
    of: Floats  #: what the usage of each entity is a share of
    share: Floats


def judge(policy: Linear, sources: Sources) -> list[JudgedTerm]:
    """The terms with what everybody used."""
    return [_judged(term, sources) for term in policy.terms]


def _judged(term: Term, sources: Sources) -> JudgedTerm:
    names = (QUEUE, term.by) if term.counted.scope == QUEUE else (term.by,)
    keys, entities = sources.entities(names)
    weighed = sources.usage(term.metric, term.counted, entities)
    total = totals(entities, weighed.usage, scoped=len(keys) > 1)
    return JudgedTerm(
        term=term,
        keys=keys,
        entities=entities,
        weighed=weighed,
        of=total,
        share=shares(weighed.usage, total),
    )


def totals(entities: Entities[Group], usage: Floats, *, scoped: bool) -> Floats:
    """Per entity what all used together, those of its queue alone where *scoped*."""
    if not scoped:
        return np.full(len(usage), total_of(usage))
    return totals_by([group[0] for group in entities.groups], usage)


def totals_by(queues: Sequence[str], usage: Floats) -> Floats:
    """Per entity what all of its queue used together."""
    numbers, number = distinct(queues)
    sums = [total_of(usage[number == each]) for each in range(len(numbers))]
    return np.array(sums)[number] if len(queues) else np.zeros(0)


def karma_of(
    judged: Sequence[JudgedTerm], jobs: Waiters, sources: Sources
) -> tuple[Floats, list[Part]]:
    """The karma of every job, and the terms it is the sum of."""
    parts = [_part(each, jobs, sources) for each in judged]
    return linear((part.value for part in parts), len(jobs.number)), parts


def _part(judged: JudgedTerm, jobs: Waiters, sources: Sources) -> Part:
    term = judged.term
    values = [jobs.different_values(key, sources.now) for key in judged.keys]
    number = judged.entities.find(list(zip(*values, strict=True)))[jobs.number]
    named = values[-1]
    metric = sources.metric(term.metric)
    target = np.array([term.target(name) for name in named], np.float64)[jobs.number]
    share = _at(judged.share, number)
    queues = values[0] if len(values) > 1 else None
    of = of_all(judged.entities, judged.of, queues, len(named))[jobs.number]
    return Part(
        by=term.by,
        metric=term.metric,
        unit=metric.unit,
        scale=metric.scale,
        amount=term.counted.amount,
        scope=term.counted.scope,
        counts=in_words(term.counted.weighting),
        weight=term.weight,
        names=jobs.of_each(named),
        usage=_at(judged.weighed.counted, number),
        of=of,
        share=share,
        target=target,
        value=value_of_term(term.weight, share, target),
    )


def _at(values: Floats, number: Ints) -> Floats:
    """The value of each number; 0 for nobody, -1."""
    return np.append(values, 0.0)[number]


def of_all(
    entities: Entities[Group], of: Floats, queues: Sequence[str] | None, jobs: int
) -> Floats:
    """Per job what its name's usage is a share of, also where the name has used nothing."""
    if queues is None:
        return np.full(jobs, of[0] if len(of) else 0.0)
    by_queue = dict(zip((group[0] for group in entities.groups), of.tolist(), strict=True))
    return np.array([by_queue.get(queue, 0.0) for queue in queues], np.float64)


def rows(judged: Sequence[JudgedTerm], sources: Sources) -> list[FairShareRow]:
    """Everybody who used something or has a target, the largest shares first, term by term."""
    found: list[FairShareRow] = []
    for each in judged:
        found += _rows(each, sources)
    return found


def _rows(judged: JudgedTerm, sources: Sources) -> list[FairShareRow]:
    term, groups = judged.term, judged.entities.groups
    metric = sources.metric(term.metric)
    usage = judged.weighed.counted
    lines = [
        FairShareRow(
            by=term.by,
            amount=term.counted.amount,
            counts=in_words(term.counted.weighting),
            depth=0,
            name=group[-1],
            queue=group[0] if len(group) > 1 else "",
            target=term.target(group[-1]) if term.targets else None,
            share=float(judged.share[row]),
            figure=None,
            usage=(
                MetricUsage(
                    metric=term.metric,
                    unit=metric.unit,
                    scale=metric.scale,
                    amount=int(judged.weighed.amount[row]),
                    usage=float(usage[row]),
                    share=float(judged.share[row]),
                ),
            ),
        )
        for row, group in enumerate(groups)
        if judged.weighed.amount[row] or group[-1] in term.targets
    ]
    return sorted(lines, key=lambda line: (line.queue, -(line.share or 0.0), line.name))

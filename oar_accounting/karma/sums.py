"""The sums that OAR 3's own karma is made of, of any metrics instead of OAR's accounting."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from oar_accounting.karma.inputs import Sources
from oar_accounting.karma.policies.linear import total_of
from oar_accounting.karma.policies.policy import Counted
from oar_accounting.karma.policies.weights import Flat
from oar_accounting.karma.report import Floats
from oar_accounting.karma.waiting import QUEUE

AskedUsed = tuple[dict[str, float], dict[str, float]]


@dataclass(frozen=True, slots=True, kw_only=True)
class UsageSums:
    """Asked and used, each metric's unit times what it counts; names without any are left out."""

    window: tuple[float, float]  #: of all; 1 where that is nothing, for it is divided by
    by_project: AskedUsed
    by_user: AskedUsed


def sums_of(
    sources: Sources, metrics: Mapping[str, float], queues: Sequence[str], seconds: int
) -> UsageSums:
    """What the last *seconds* saw in these queues. Raises :class:`oar_accounting.UnknownName`."""
    by_project, by_user = (
        (
            _by(name, "asked", sources, metrics, queues, seconds),
            _by(name, "used", sources, metrics, queues, seconds),
        )
        for name in ("project", "user")
    )
    asked, used = (total_of(np.array(list(each.values()), np.float64)) for each in by_user)
    return UsageSums(window=(asked or 1.0, used or 1.0), by_project=by_project, by_user=by_user)


def _by(  # noqa: PLR0913 - one sum
    name: str,
    amount: str,
    sources: Sources,
    metrics: Mapping[str, float],
    queues: Sequence[str],
    seconds: int,
) -> dict[str, float]:
    _, entities = sources.entities((QUEUE, name))
    counted = Counted(amount=amount, weighting=Flat(length=seconds))
    usage: Floats = np.zeros(len(entities.numbers))
    for metric, weight in metrics.items():
        weighed = sources.usage(metric, counted, entities)
        usage += weighed.usage * (weight / sources.metric(metric).scale)
    found: dict[str, float] = {}
    # In the order of names, so that the same usage gives the same sum whenever it was recorded.
    for (queue, named), value in sorted(zip(entities.groups, usage.tolist(), strict=True)):
        if queue in queues and value > 0:
            found[named] = found.get(named, 0.0) + value
    return found

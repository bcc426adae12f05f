"""OAR's own karma: the sum of terms ``weight × (share of usage - target)``.

As ``karma`` in the schedulers of OAR 2.5.9 (oar_sched_gantt_with_timesharing_and_fairsharing), for
any number of terms. Usage may be below zero where corrections exceed what was used: it then counts
as 0, for the entity as in the sum, so that shares are from 0 to 1 and add up to 1.
"""

import math
from collections.abc import Iterable

import numpy as np

from oar_accounting.karma.policies.weights import Floats


def total_of(usage: Floats) -> float:
    """What all entities used together, rounded once: the same in any order of the entities."""
    return math.fsum(np.maximum(usage, 0.0).tolist())


def shares(usage: Floats, total: Floats | float) -> Floats:
    """``usage / total``, from 0 to 1; 0 for everybody where the total is 0, where OAR 2 dies.

    *total*: that of all entities, or for each entity of those that it is compared with.
    """
    found = np.zeros(len(usage))
    np.divide(np.maximum(usage, 0.0), total, out=found, where=np.greater(total, 0.0))
    return found


def term(weight: float, share: Floats, target: Floats | float) -> Floats:
    """``weight × (share - target)``, in OAR's order of operations; *target* is a fraction of 1."""
    return weight * (share - target)


def linear(terms: Iterable[Floats], jobs: int) -> Floats:
    """The karma of so many *jobs*: the terms added up from left to right, as in OAR; never -0."""
    karma = np.zeros(jobs)
    for value in terms:
        karma = karma + value
    return karma

"""Dominant karma: of several metrics, an entity's largest share of what there is.

After dominant resource fairness (Ghodsi et al., NSDI 2011), over what was used within a time
instead of what is held at one. Slurm's MAX_TRES takes the largest of each job and adds up jobs.
"""

from dataclasses import dataclass

import numpy as np

from oar_accounting.core.columns import Ints
from oar_accounting.karma.policies.linear import total_of
from oar_accounting.karma.policies.weights import Floats


@dataclass(frozen=True, slots=True, kw_only=True)
class DominantParts:
    """What dominant karma is made of."""

    of: Floats  #: by metric, what the usage is a share of: the capacity or the total usage
    share: Floats  #: by metric and entity; over capacity, it may exceed 1
    metric: Ints  #: by entity, the row of its dominant metric, of equal ones the first
    karma: Floats  #: by entity, the share of the dominant metric


def dominant(usage: Floats, capacity: Floats) -> DominantParts:
    """The largest share of every entity.

    *usage*: a row for each metric, one at least, a column for each entity; below zero counts as 0.
    *capacity*: of each metric, in the unit of its usage and over the same weighted time. NaN stands
    for none, as of energy: the usage then is a share of the usage of all. So it is where the
    capacity is 0 or less and can be no measure of what was used nevertheless. Of what nobody used,
    everybody's share is 0.
    """
    usage = np.maximum(usage, 0.0)
    of = np.where(capacity > 0, capacity, [total_of(row) for row in usage])
    share = np.zeros(usage.shape)
    np.divide(usage, of[:, None], out=share, where=of[:, None] > 0)
    return DominantParts(
        of=of, share=share, metric=np.argmax(share, axis=0), karma=np.max(share, axis=0)
    )

"""The weighted usage of every entity: its amounts times the weights of their windows."""

import numpy as np

from oar_accounting.core.columns import Ints
from oar_accounting.karma.policies.weights import Floats


def decayed(amounts: Ints, weights: Floats, before: Floats | None = None) -> Floats:
    """Σ amount × weight for every entity, in the unit of the amounts.

    *amounts*: a row for each window, in the order of time, a column for each entity. *weights*: one
    for each window. The windows are added one after the other, so that the usage of an entity is
    the same to the last bit wherever its column stands and whatever the others are; a product of
    matrices would not promise that. Without a window, all is 0. *before*: what earlier ones gave.
    """
    usage = np.zeros(amounts.shape[1]) if before is None else before.copy()
    for row, weight in zip(amounts, weights, strict=True):
        usage += row * weight
    return usage

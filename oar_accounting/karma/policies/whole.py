"""Usage in whole numbers, so that what is in proportion is exactly so. Pure arithmetic.

Only the weight of a window is rounded, once, to a whole multiple of 2^-40. All that follows is
products and sums of whole numbers: of two users of whom one always used twice as much as the other
at the same times, the usage is exactly twice as much, whatever the half-life.
"""

import math
from collections.abc import Iterator, Sequence
from fractions import Fraction

import numpy as np

from oar_accounting.core.columns import Ints, ints
from oar_accounting.karma.policies.weights import Floats

#: What counts in full, in the unit of whole weights.
FULL = 2**40

#: Amounts and weights are multiplied in parts of so many bits, which fit 63 bits when added up.
AMOUNT_BITS, WEIGHT_BITS = 21, 20
PRODUCTS_AT_ONCE = 2**21


def whole_weights(weights: Floats) -> Ints:
    """Weights from 0 to 1 as multiples of 2^-40, each rounded once, half to even."""
    return ints(np.rint(weights * FULL).astype(np.int64))


def whole_usage(entity: Ints, amounts: Ints, weights: Ints, entities: int) -> list[int]:
    """Σ amount × weight of so many *entities*, by number.

    Of each row its entity, an amount within 62 bits, and a whole weight.
    """
    found = [0] * entities
    for first in range(0, len(entity), PRODUCTS_AT_ONCE):
        rows = slice(first, first + PRODUCTS_AT_ONCE)
        for shift, sums in _parts(entity[rows], amounts[rows], weights[rows], entities):
            found = [each + (some << shift) for each, some in zip(found, sums, strict=True)]
    return found


def _parts(
    entity: Ints, amounts: Ints, weights: Ints, entities: int
) -> Iterator[tuple[int, list[int]]]:
    """Sums of products, each to be shifted to the left by so many bits."""
    mask = (1 << AMOUNT_BITS) - 1
    of_amount = [amounts & mask, amounts >> AMOUNT_BITS & mask, amounts >> 2 * AMOUNT_BITS]
    of_weight = [weights & (1 << WEIGHT_BITS) - 1, weights >> WEIGHT_BITS]
    for high, amount in enumerate(of_amount):
        for low, weight in enumerate(of_weight):
            sums = np.zeros(entities, np.int64)
            np.add.at(sums, entity, amount * weight)
            yield high * AMOUNT_BITS + low * WEIGHT_BITS, sums.tolist()


def whole_numbers(values: Sequence[float]) -> tuple[list[int], int]:
    """Numbers times the second, so that all are whole: a tenth is 1 of 10, as it is written."""
    exact = {value: Fraction(repr(value)) for value in set(values)}
    times = math.lcm(*(each.denominator for each in exact.values()))
    whole = {value: int(each * times) for value, each in exact.items()}
    return [whole[value] for value in values], times


def mixed(weights: Sequence[float], usage: Sequence[Sequence[int]]) -> tuple[list[int], int]:
    """Per entity Σ weight × share of the usage of all, times the second, so that it is whole.

    *usage*: of every metric, by entity, from 0. A metric of which nothing was used adds nothing.
    """
    factors, times = whole_numbers(weights)
    totals = [sum(some) for some in usage]
    product = math.prod(total for total in totals if total)
    found = [0] * len(usage[0])
    for factor, some, total in zip(factors, usage, totals, strict=True):
        if total:
            each = factor * (product // total)
            found = [before + each * amount for before, amount in zip(found, some, strict=True)]
    return found, times * product

"""Usage in whole numbers: beside Python's own exact arithmetic."""

from fractions import Fraction

import numpy as np
from hypothesis import example, given
from hypothesis import strategies as st

from oar_accounting.core.columns import ints
from oar_accounting.karma.policies import whole
from oar_accounting.karma.policies.whole import (
    FULL,
    mixed,
    whole_numbers,
    whole_usage,
    whole_weights,
)

ROWS = st.lists(
    st.tuples(st.integers(0, 3), st.integers(-(2**62), 2**62), st.integers(0, FULL)), max_size=12
)


@given(ROWS, st.sampled_from((2, 2**21)))
@example([(0, 2**62, FULL), (0, -(2**62), FULL), (3, 1, 1)], 2**21)
def test_sums_of_products_are_exact(rows: list[tuple[int, int, int]], at_once: int) -> None:
    entity, amounts, weights = (ints([row[place] for row in rows]) for place in range(3))
    expected = [0] * 4
    for number, amount, weight in rows:
        expected[number] += amount * weight
    before, whole.PRODUCTS_AT_ONCE = whole.PRODUCTS_AT_ONCE, at_once
    try:
        assert whole_usage(entity, amounts, weights, 4) == expected
    finally:
        whole.PRODUCTS_AT_ONCE = before


@given(st.lists(st.floats(0, 1), min_size=1, max_size=9))
@example([0.0, 1.0, 2.0**-41, 2.0**-40 * 1.5, 2.0**-1074])
def test_a_weight_is_rounded_once(weights: list[float]) -> None:
    found = whole_weights(np.array(weights)).tolist()
    assert found == [round(Fraction(each) * FULL) for each in weights]


@given(st.lists(st.floats(0, 1e12), min_size=1, max_size=9))
@example([0.1, 0.2, 0.3])
def test_numbers_are_what_is_written(values: list[float]) -> None:
    found, times = whole_numbers(values)
    assert [Fraction(each, times) for each in found] == [Fraction(repr(each)) for each in values]


AMOUNTS = st.lists(st.integers(0, 10**15), min_size=3, max_size=3)


@given(st.lists(st.tuples(st.sampled_from((0.5, 1.0, 0.1, 3.0)), AMOUNTS), min_size=1, max_size=4))
@example([(1.0, [0, 0, 0]), (0.1, [1, 2, 3])])
def test_a_mix_is_the_weighted_sum_of_shares(metrics: list[tuple[float, list[int]]]) -> None:
    found, times = mixed([weight for weight, _ in metrics], [used for _, used in metrics])
    for entity in range(3):
        expected = sum(
            Fraction(repr(weight)) * Fraction(used[entity], sum(used))
            for weight, used in metrics
            if sum(used)
        )
        assert Fraction(found[entity], times) == expected

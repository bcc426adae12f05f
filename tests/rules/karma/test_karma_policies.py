"""Linear and dominant karma and the order of the jobs: figures worked by hand, and the laws."""

import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from oar_accounting.core.columns import Ints, ints
from oar_accounting.karma.policies.dominant import DominantParts, dominant
from oar_accounting.karma.policies.linear import linear, shares, term, total_of
from oar_accounting.karma.policies.order import order
from oar_accounting.karma.policies.weights import Floats

NONE = math.nan

#: Whole, as amounts are; below zero where corrections exceed what was used.
AMOUNTS = st.one_of(st.integers(-3, 5), st.integers(0, 10**6))
USAGES = st.lists(AMOUNTS, min_size=1, max_size=8)


def floats(values: object) -> Floats:
    return np.array(values, np.float64)


def _shares(usage: Floats) -> Floats:
    return shares(usage, total_of(usage))


def _places(karma: Floats) -> list[int]:
    """The place of everybody: so many are before him."""
    return np.sum(karma[:, None] > karma, axis=1).tolist()  # type: ignore[no-any-return]


# -- linear -----------------------------------------------------------------------------------


def test_karma_of_oars_defaults_worked_by_hand() -> None:
    """Coefficients 2 and 1, targets 0: as OAR 2.5.9 showed Karma=1.815 for these sums."""
    used, asked = floats([388, 311, 0]), floats([4140, 1736, 0])
    terms = [term(2.0, _shares(used), 0.0), term(1.0, _shares(asked), 0.0)]
    assert linear(terms, 3).tolist() == [2 * (388 / 699) + 4140 / 5876, *linear(terms, 3)[1:]]
    assert f"{linear(terms, 3)[0]:.3f}" == "1.815"


def test_terms_are_worked_in_the_order_of_operations_of_oar() -> None:
    """In another order, these differ in their last digit."""
    one, other, third = floats([0.1]), floats([0.2]), floats([0.3])
    assert term(3.0, one, 0.7)[0] == 3.0 * (0.1 - 0.7) != 3.0 * 0.1 - 3.0 * 0.7
    assert linear([one, other, third], 1)[0] == 0.1 + 0.2 + 0.3 != 0.1 + (0.2 + 0.3)
    assert term(2.0, floats([0.5, 0.25]), floats([0.25, 0.5])).tolist() == [0.5, -0.5]


def test_no_terms_and_no_usage_are_a_karma_of_zero_that_is_not_negative() -> None:
    assert linear([], 2).tolist() == [0.0, 0.0]
    assert str(linear([term(-1.0, floats([0.0]), 0.0)], 1)[0]) == "0.0"


def test_shares_where_nothing_was_used_are_zero() -> None:
    assert _shares(floats([0, 0])).tolist() == [0, 0]
    assert _shares(floats([-5, 0])).tolist() == [0, 0]
    assert _shares(floats([])).tolist() == []


def test_usage_below_zero_counts_as_nothing_and_takes_nothing_from_the_others() -> None:
    usage = floats([-100, 30, 10])
    assert total_of(usage) == 40
    assert _shares(usage).tolist() == [0.0, 0.75, 0.25]


def test_everybody_may_have_a_total_of_its_own() -> None:
    usage, total = floats([30, 10, 5, 7]), floats([40, 40, 0, 7])
    assert shares(usage, total).tolist() == [0.75, 0.25, 0.0, 1.0]


@given(USAGES)
def test_shares_are_from_0_to_1_and_add_up_to_1(usage: list[int]) -> None:
    found = _shares(floats(usage))
    assert np.all((found >= 0) & (found <= 1))
    whole = sum(max(each, 0) for each in usage)
    assert math.fsum(found.tolist()) == pytest.approx(1 if whole else 0)
    for share, each in zip(found.tolist(), usage, strict=True):
        assert share == (float(Fraction(max(each, 0), whole)) if whole else 0)


@given(
    st.lists(st.tuples(st.floats(-9, 9), USAGES, st.floats(0, 1)), max_size=4),
    st.integers(1, 6),
)
def test_linear_karma_is_its_formula(
    terms: list[tuple[float, list[int], float]], jobs: int
) -> None:
    columns = [(weight, (usage * jobs)[:jobs], target) for weight, usage, target in terms]
    found = linear((term(w, _shares(floats(usage)), t) for w, usage, t in columns), jobs)
    for job in range(jobs):
        karma = 0.0
        for weight, usage, target in columns:
            karma += weight * (float(_shares(floats(usage))[job]) - target)
        assert found[job] == karma


def test_a_user_may_gain_through_a_project_that_he_does_not_work_for() -> None:
    """Why who uses more never gains only where all terms are about the same entities.

    Amy works for project p. So the share of project q falls from over to under its target, and
    her job of q passes that of bob, who works for project r and used nothing.
    """

    def karma(amy_for_p: int) -> list[float]:
        users = _shares(floats([amy_for_p, 0, 100]))  # amy, bob, everybody else
        projects = _shares(floats([amy_for_p, 60, 0, 40]))  # p, q, r, all others
        targets = floats([0.5, 0.0])
        terms = [term(1.0, users[:2], 0.0), term(5.0, projects[1:3], targets)]
        return linear(terms, 2).tolist()  # type: ignore[no-any-return]

    assert karma(0) == pytest.approx([0.5, 0.0])
    assert karma(100) == pytest.approx([-0.5, 0.0])


# -- dominant ---------------------------------------------------------------------------------


def test_the_largest_share_of_the_capacities_is_the_karma() -> None:
    usage = floats([[10, 40, 5, 0], [6, 1, 3, 0], [0, 0, 90, 0]])
    parts = dominant(usage, floats([100, 10, 300]))
    assert parts.of.tolist() == [100, 10, 300]
    assert parts.share.tolist() == [[0.1, 0.4, 0.05, 0], [0.6, 0.1, 0.3, 0], [0, 0, 0.3, 0]]
    assert parts.karma.tolist() == [0.6, 0.4, 0.3, 0]
    # Of equal metrics the first.
    assert parts.metric.tolist() == [1, 0, 1, 0]


def test_without_capacity_the_share_is_that_of_what_all_used() -> None:
    for capacity in (NONE, 0.0, -3.0):
        parts = dominant(floats([[30, 10, -9], [1, 2, 3]]), floats([capacity, 10]))
        assert parts.of.tolist() == [40, 10]
        assert parts.share.tolist() == [[0.75, 0.25, 0], [0.1, 0.2, 0.3]]
        assert parts.karma.tolist() == [0.75, 0.25, 0.3]


def test_what_nobody_used_and_nobody_could_is_no_share() -> None:
    for capacity in (NONE, 0.0):
        parts = dominant(floats([[0, -1]]), floats([capacity]))
        assert parts.karma.tolist() == [0, 0]
        assert parts.of.tolist() == [0]
    nobody = dominant(np.zeros((2, 0)), floats([NONE, 5]))
    assert nobody.karma.tolist() == nobody.metric.tolist() == []


def test_usage_may_exceed_the_capacity() -> None:
    assert dominant(floats([[30]]), floats([20])).karma.tolist() == [1.5]


# -- laws -------------------------------------------------------------------------------------


@st.composite
def tables(draw: st.DrawFn) -> tuple[Floats, Floats]:
    """Usage of up to four metrics, and their capacities, of which some have none."""
    metrics, entities = draw(st.integers(1, 4)), draw(st.integers(1, 7))
    row = st.lists(AMOUNTS, min_size=entities, max_size=entities)
    usage = floats([draw(row) for _ in range(metrics)])
    limit = st.one_of(st.just(NONE), st.just(0), st.integers(1, 10**6))
    return usage, floats([draw(limit) for _ in range(metrics)])


def _same(one: DominantParts, other: DominantParts) -> None:
    assert np.array_equal(one.share, other.share)
    assert np.array_equal(one.metric, other.metric)
    assert np.array_equal(one.karma, other.karma)


@given(tables(), st.lists(st.sampled_from((2.0**-30, 2.0**9, 3, 1_000)), min_size=4, max_size=4))
def test_the_unit_of_a_metric_does_not_matter(
    table: tuple[Floats, Floats], factors: list[float]
) -> None:
    """Exactly, since all products with a whole number or a power of two are exact here."""
    usage, capacity = table
    units = floats(factors[: len(usage)])
    _same(dominant(usage, capacity), dominant(usage * units[:, None], capacity * units))
    for row, unit in zip(usage, units, strict=True):
        assert _shares(row * unit).tolist() == _shares(row).tolist()


@given(USAGES, st.floats(1e-9, 1e9))
def test_in_any_unit_shares_are_nearly_the_same(usage: list[int], unit: float) -> None:
    again = _shares(floats(usage) * unit)
    assert again == pytest.approx(_shares(floats(usage)), rel=1e-14)
    assert _places(again) == _places(_shares(floats(usage)))


@given(tables(), st.data())
def test_the_order_of_the_entities_does_not_matter(
    table: tuple[Floats, Floats], data: st.DataObject
) -> None:
    """To the last bit, also where the total has to be rounded."""
    usage, capacity = table[0] * 0.1, table[1]
    moved = ints(data.draw(st.permutations(range(usage.shape[1]))))
    before, after = dominant(usage, capacity), dominant(usage[:, moved], capacity)
    assert np.array_equal(before.share[:, moved], after.share)
    assert np.array_equal(before.karma[moved], after.karma)
    assert np.array_equal(before.metric[moved], after.metric)
    assert np.array_equal(before.of, after.of, equal_nan=True)
    assert np.array_equal(_shares(usage[0])[moved], _shares(usage[0][moved]))


def _more(usage: Floats, data: st.DataObject) -> tuple[int, Floats]:
    """Somebody, and the same usage with more of some metric for him."""
    who = data.draw(st.integers(0, usage.shape[1] - 1))
    more = usage.copy()
    more[data.draw(st.integers(0, len(usage) - 1)), who] += data.draw(st.integers(1, 10**6))
    return who, more


@given(tables(), st.data())
def test_who_uses_more_never_gains_a_place_under_dominant(
    table: tuple[Floats, Floats], data: st.DataObject
) -> None:
    usage, capacity = table
    who, more = _more(usage, data)
    before = _places(dominant(usage, capacity).karma)[who]
    assert _places(dominant(more, capacity).karma)[who] >= before


@given(tables(), st.lists(st.integers(0, 3), min_size=4, max_size=4), st.data())
def test_who_uses_more_never_gains_a_place_under_linear(
    table: tuple[Floats, Floats], factors: list[int], data: st.DataObject
) -> None:
    """Of whatever metrics, as long as all terms are about the same entities and none is negative.

    Targets do not matter; the sum of several terms is right to a rounding.
    """
    usage = table[0]
    targets = data.draw(st.lists(st.floats(0, 1), min_size=4, max_size=4))
    who, more = _more(usage, data)

    def karma(some: Floats) -> Floats:
        rows = zip(factors, some, targets, strict=False)
        return linear((term(w, _shares(row), target) for w, row, target in rows), some.shape[1])

    before, after = karma(usage), karma(more)
    ahead = np.flatnonzero(before < before[who] - 1e-14)
    assert np.all(after[ahead] <= after[who] + 1e-14)


@given(USAGES, st.data())
def test_one_term_without_targets_leaves_the_order_of_the_others(
    usage: list[int], data: st.DataObject
) -> None:
    who, more = _more(floats([usage]), data)
    before, after = (
        np.delete(linear([term(2.0, _shares(row), 0.0)], len(row)), who)
        for row in (floats(usage), more[0])
    )
    assert _places(before) == _places(after)


@given(tables(), st.data())
def test_dominant_over_capacities_leaves_the_karma_of_the_others(
    table: tuple[Floats, Floats], data: st.DataObject
) -> None:
    usage, capacity = table[0], np.where(table[1] > 0, table[1], 1.0)
    who, more = _more(usage, data)
    before, after = dominant(usage, capacity).karma, dominant(more, capacity).karma
    assert np.delete(before, who).tolist() == np.delete(after, who).tolist()


@given(tables())
def test_one_metric_under_dominant_ranks_as_linear_without_targets(
    table: tuple[Floats, Floats],
) -> None:
    usage, capacity = table[0][:1], table[1][:1]
    one = linear([term(1.0, _shares(usage[0]), 0.0)], usage.shape[1])
    job_id = np.arange(len(one))
    assert order(dominant(usage, capacity).karma, job_id).tolist() == order(one, job_id).tolist()


# -- order ------------------------------------------------------------------------------------

KARMAS = st.one_of(st.sampled_from((-math.inf, -1.0, -0.0, 0.0, 0.5, math.inf)), st.floats(-1, 1))


def _order(jobs: list[tuple[float, int]]) -> list[int]:
    karma, job_id = floats([karma for karma, _ in jobs]), ints([job for _, job in jobs])
    rows: Ints = order(karma, job_id)
    return job_id[rows].tolist()  # type: ignore[no-any-return]


def test_lowest_karma_first_then_lowest_job_and_infinite_last() -> None:
    jobs = [(math.inf, 1), (0.5, 9), (0.5, 8), (-0.0, 7), (0.0, 6), (-1.5, 12), (math.inf, 0)]
    assert _order(jobs) == [12, 6, 7, 8, 9, 0, 1]
    assert _order([]) == []


@given(st.lists(st.tuples(KARMAS, st.integers(1, 2**62)), unique_by=lambda job: job[1]), st.data())
@example([(0.0, 2**53 + 1), (0.0, 2**53), (-0.0, 2**53 + 2)], None)
def test_order_is_total_and_that_of_the_rows_does_not_matter(
    jobs: list[tuple[float, int]], data: st.DataObject | None
) -> None:
    found = _order(jobs)
    assert found == [job for _, job in sorted(jobs, key=lambda job: (job[0], job[1]))]
    assert _order(data.draw(st.permutations(jobs)) if data else jobs[::-1]) == found


@given(st.lists(KARMAS, max_size=20))
def test_rows_of_the_same_job_keep_their_order(karma: list[float]) -> None:
    rows = order(floats(karma), ints([7] * len(karma))).tolist()
    assert rows == sorted(range(len(karma)), key=lambda row: karma[row])


def test_a_karma_that_is_no_number_is_refused() -> None:
    with pytest.raises(ValueError, match=r"^the karma of job 42 is not a number$"):
        order(floats([1.0, NONE, NONE]), ints([7, 42, 43]))

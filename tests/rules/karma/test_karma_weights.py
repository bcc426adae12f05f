"""The past counts as much as its weight says: beside exact arithmetic and others' figures."""

import json
import math
import time
from decimal import Decimal, localcontext
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st

from oar_accounting.core.columns import OPEN, Ints, ints
from oar_accounting.karma.policies.decay import decayed
from oar_accounting.karma.policies.linear import shares, total_of
from oar_accounting.karma.policies.weights import (
    Flat,
    Floats,
    HalfLife,
    Steps,
    Weighting,
    earliest,
    weights,
)

HOUR, DAY, WEEK = 3_600, 86_400, 604_800
NOW = 1_800_000_123
FIGURES = json.loads((Path(__file__).parents[2] / "data" / "karma_decay.json").read_text())

Window = tuple[int, int]


def _weights(weighting: Weighting, windows: list[Window], now: int) -> list[float]:
    start = ints([start for start, _ in windows])
    stop = ints([stop for _, stop in windows])
    found: list[float] = weights(weighting, start, stop, now).tolist()
    return found


def _weight(weighting: Weighting, start: int, stop: int, now: int = 0) -> float:
    return _weights(weighting, [(start, stop)], now)[0]


def lengths() -> st.SearchStrategy[int]:
    return st.one_of(st.integers(1, 50), st.sampled_from((HOUR, DAY, WEEK, 30 * DAY, 10**10)))


def weightings() -> st.SearchStrategy[Weighting]:
    limits = st.none() | lengths()
    factors = st.lists(st.sampled_from((0.0, 0.25, 0.3, 0.5, 0.7, 1.0)), min_size=1, max_size=6)
    return st.one_of(
        st.builds(Flat, length=limits, rule=st.sampled_from(("exact", "oar2", "oar3"))),
        st.builds(HalfLife, seconds=lengths(), length=limits),
        st.builds(Steps, period=lengths(), factors=factors.map(tuple)),
    )


def instants() -> st.SearchStrategy[int]:
    near = st.integers(-200, 50)
    return st.one_of(near, near.map(lambda at: at * HOUR), near.map(lambda at: at * DAY))


def windows() -> st.SearchStrategy[Window]:
    """Windows that are over at 0, run, or lie ahead."""
    return st.builds(lambda start, length: (start, start + length), instants(), lengths())


# -- flat -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("start", "stop", "exact", "oar2", "oar3"),
    [
        (-200, -101, 0.0, 0, 0),
        (-200, -100, 0.0, 0, 0),
        (-101, -1, 0.99, 0, 0),
        (-150, -50, 0.5, 0, 0),
        (-100, -1, 1.0, 1, 1),
        (-100, 0, 1.0, 1, 1),
        (-100, 1, 1.0, 1, 0),
        (-200, 100, 0.5, 0, 0),
        (-1, 99, 1.0, 1, 0),
        (0, 1, 0.0, 0, 0),
        (50, 60, 0.0, 0, 0),
        (-7, -7, 0.0, 0, 0),
        (-7, -9, 0.0, 0, 0),
    ],
)
def test_flat_counts_the_last_seconds_exactly_or_by_whole_windows_as_oar(
    start: int, stop: int, exact: float, oar2: float, oar3: float
) -> None:
    for at in (0, NOW):
        for rule, expected in (("exact", exact), ("oar2", oar2), ("oar3", oar3)):
            flat = Flat(length=100, rule=rule)
            assert _weight(flat, at + start, at + stop, at) == pytest.approx(expected, abs=0)


def test_flat_without_length_counts_all_of_the_past() -> None:
    some = [(-(10**15), -(10**15) + 1), (-1, 5), (-5, 0), (0, 9)]
    assert _weights(Flat(), some, 0) == [1.0, 1.0, 1.0, 0.0]
    assert _weights(Flat(rule="oar2"), some, 0) == [1.0, 1.0, 1.0, 0.0]
    assert _weights(Flat(rule="oar3"), some, 0) == [1.0, 0.0, 1.0, 0.0]


def test_a_window_that_never_stops_is_cut_at_now() -> None:
    assert _weight(Flat(length=10), NOW - 40, OPEN, NOW) == 0.25
    # Its use is that of the 50 s up to now, wherever the window ends.
    halving = HalfLife(seconds=60)
    assert _weight(halving, -50, OPEN) == _weight(halving, -50, 0) == _weight(halving, -50, 77)


# -- half-life --------------------------------------------------------------------------------


def _exact_mean(start: int, stop: int, half_life: int, length: int | None) -> Decimal:
    """The mean of 2^(-age / half-life) over the window up to 0, with 60 digits."""
    with localcontext() as context:
        context.prec = 60
        context.Emin = -(10**12)
        ended = max(-stop, 0)
        began = -start
        counted = began if length is None else min(began, length)
        if counted <= ended or start >= stop:
            return Decimal(0)
        rate = Decimal(2).ln() / half_life
        integral = ((-rate * ended).exp() - (-rate * counted).exp()) / rate
        return integral / (began - ended)


@given(windows(), lengths(), st.none() | lengths())
@example((-1, 0), 10**10, None)
@example((-31_536_000, -31_535_999), 10**10, None)
@example((-(10**12), 1 - 10**12), 10**10, None)
@example((-DAY, 0), 1, None)
@example((-150, -50), HOUR, 100)
@example((-200, -100), HOUR, 100)
def test_half_life_is_the_mean_of_the_decay(
    window: Window, half_life: int, length: int | None
) -> None:
    found = _weight(HalfLife(seconds=half_life, length=length), *window)
    exact = _exact_mean(*window, half_life, length)
    # Below the smallest float with all its digits, there are only fewer of them.
    assert abs(Decimal(found) - exact) <= exact * Decimal("3e-13") + Decimal("1e-307")


def test_half_life_of_an_ancient_window_is_nothing_rather_than_no_number() -> None:
    some = [(-(10**15), -(10**15) + 1), (-(2**53), -1), (-(2**53), 2**53)]
    found = _weights(HalfLife(seconds=1), some, 0)
    assert found[0] == 0.0
    assert 0 < found[1] < found[2] < 1e-15


@given(windows(), lengths(), st.data())
def test_use_anywhere_in_the_window_weighs_as_its_mean_within_the_bound(
    window: Window, half_life: int, data: st.DataObject
) -> None:
    start, stop = window[0], min(window[1], 0)
    assume(start < stop and (stop - start) / half_life < 900 and -start / half_life < 900)
    at = data.draw(st.integers(start, stop - 1))
    halving = HalfLife(seconds=half_life)
    bound = 2 ** ((stop - start) / half_life) * (1 + 1e-12)
    mean, there = _weight(halving, *window), _weight(halving, at, at + 1)
    assert mean / bound <= there <= mean * bound


def test_bound_of_the_evenness_is_nearly_reached_by_use_at_an_edge() -> None:
    """All in the first or last second of ten half-lives; so a smaller bound would not hold."""
    halving = HalfLife(seconds=HOUR)
    first = _weight(halving, -10 * HOUR, -10 * HOUR + 1)
    last = _weight(halving, -1, 0)
    assert last / first == pytest.approx(2 ** (10 - 1 / HOUR))
    assert last / _weight(halving, -10 * HOUR, 0) > 6


@given(st.lists(windows(), min_size=1, max_size=5), st.integers(1, 10**7), st.data())
def test_waiting_a_half_life_halves_what_was_used(
    some: list[Window], half_life: int, data: st.DataObject
) -> None:
    some = [(start, min(stop, 0)) for start, stop in some if start < 0]
    assume(some and min(start for start, _ in some) / half_life > -900)
    amounts = ints([data.draw(st.lists(st.integers(-100, 10**12), min_size=2, max_size=2))])
    rows = np.repeat(amounts, len(some), axis=0)
    start, stop = ints([a for a, _ in some]), ints([b for _, b in some])
    halving = HalfLife(seconds=half_life)
    before = decayed(rows, weights(halving, start, stop, 0))
    after = decayed(rows, weights(halving, start, stop, half_life))
    assert after == pytest.approx(before / 2, rel=1e-12)


# -- steps ------------------------------------------------------------------------------------


def test_steps_count_periods_since_the_epoch() -> None:
    steps = Steps(period=100, factors=(1.0, 0.5, 0.25))
    some = [(500, 512), (400, 500), (300, 400), (200, 300), (450, 512), (250, 350), (0, 512)]
    found = _weights(steps, some, 512)
    expected = [1.0, 0.5, 0.25, 0.0, (12 + 25) / 62, 12.5 / 100, (12 + 50 + 25) / 512]
    assert found == pytest.approx(expected, rel=1e-15)


def test_at_the_instant_a_period_begins_it_is_the_first_and_empty() -> None:
    steps = Steps(period=100, factors=(1.0, 0.5))
    some = [(500, 600), (400, 500), (300, 400), (499, 501)]
    assert _weights(steps, some, 499) == [0.0, 1.0, 0.5, 0.0]
    assert _weights(steps, some, 500) == [0.0, 0.5, 0.0, 0.5]
    assert _weights(steps, some, 501) == [1.0, 0.5, 0.0, 0.75]


@given(windows(), st.integers(1, 40), st.lists(st.floats(0, 1), min_size=1, max_size=5))
def test_steps_are_the_mean_over_the_seconds(
    window: Window, period: int, factors: list[float]
) -> None:
    start, stop = window[0], min(window[1], 0)
    assume(0 < stop - start < 500)
    now = 17

    def factor(at: int) -> float:
        place = now // period - at // period
        return factors[place] if place < len(factors) else 0.0

    found = _weight(Steps(period=period, factors=tuple(factors)), start + now, stop + now, now)
    seconds = [factor(at) for at in range(start + now, stop + now)]
    assert found == pytest.approx(math.fsum(seconds) / len(seconds), rel=1e-12, abs=1e-300)


# -- all of them ------------------------------------------------------------------------------


@given(weightings(), st.lists(windows(), max_size=6), instants())
@example(Steps(period=10, factors=(1.0, 1.0, 1.0, 1.0)), [(-37, -2)], 1)
def test_weights_are_from_0_to_1_and_nothing_counts_before_the_earliest(
    weighting: Weighting, some: list[Window], now: int
) -> None:
    found = _weights(weighting, some, now)
    since = earliest(weighting, now)
    for (start, stop), weight in zip(some, found, strict=True):
        assert 0 <= weight <= 1
        if start >= now or (since is not None and stop <= since):
            assert weight == 0


@given(weightings(), st.lists(windows(), min_size=1, max_size=6), instants(), st.data())
def test_a_window_weighs_the_same_beside_any_others(
    weighting: Weighting, some: list[Window], now: int, data: st.DataObject
) -> None:
    place = data.draw(st.integers(0, len(some) - 1))
    assert _weights(weighting, some, now)[place] == _weight(weighting, *some[place], now)


@given(weightings(), windows(), st.data())
def test_parts_of_a_window_weigh_together_as_the_whole(
    weighting: Weighting, window: Window, data: st.DataObject
) -> None:
    assume(not isinstance(weighting, Flat) or weighting.rule == "exact")
    start, stop = window[0], min(window[1], 0)
    assume(stop - start > 1)
    middle = data.draw(st.integers(start + 1, stop - 1))
    parts = ((start, middle), (middle, stop))
    together = sum((b - a) * _weight(weighting, a, b) for a, b in parts)
    assert together == pytest.approx((stop - start) * _weight(weighting, start, stop), rel=1e-9)


def test_what_is_just_at_the_earliest_instant_counts() -> None:
    for weighting, since in (
        (Flat(length=100), NOW - 100),
        (HalfLife(seconds=7, length=100), NOW - 100),
        (Steps(period=100, factors=(1.0, 0.5, 0.1)), 1_799_999_900),
        (Steps(period=100, factors=(1.0,)), 1_800_000_100),
    ):
        assert earliest(weighting, NOW) == since
        assert _weight(weighting, since, since + 1, NOW) > 0
        assert _weight(weighting, since - 1, since, NOW) == 0
    assert earliest(Flat(), NOW) is None
    assert earliest(HalfLife(seconds=7), NOW) is None


@pytest.mark.parametrize(
    ("make", "trouble"),
    [
        (lambda: Flat(length=0), "length must be 1 s or more, not 0"),
        (lambda: Flat(rule="oar4"), "rule must be one of exact, oar2, oar3, not 'oar4'"),
        (lambda: HalfLife(seconds=0), "seconds must be 1 s or more, not 0"),
        (lambda: HalfLife(seconds=1, length=-1), "length must be 1 s or more, not -1"),
        (lambda: Steps(period=0, factors=(1.0,)), "period must be 1 s or more, not 0"),
        (lambda: Steps(period=1, factors=()), "factors must be numbers from 0 to 1, one or more"),
        (lambda: Steps(period=1, factors=(0.5, 1.1)), "factors must be numbers from 0 to 1"),
        (lambda: Steps(period=1, factors=(-0.1,)), "factors must be numbers from 0 to 1"),
        (lambda: Steps(period=1, factors=(math.nan,)), "factors must be numbers from 0 to 1"),
    ],
)
def test_weightings_that_cannot_be_are_refused(make: Any, trouble: str) -> None:
    with pytest.raises(ValueError, match=trouble):
        make()


# -- usage ------------------------------------------------------------------------------------


def _month(entities: int) -> tuple[Ints, Floats]:
    random = np.random.default_rng(5)
    amounts = random.integers(0, 10**9, (30, entities))
    start = np.arange(30) * DAY
    return amounts, weights(HalfLife(seconds=WEEK), start, start + DAY, 30 * DAY - HOUR)


def test_usage_of_an_entity_is_the_same_to_the_last_bit_in_any_place() -> None:
    amounts, factors = _month(1_003)
    usage = decayed(amounts, factors)
    for first, last in ((0, 1), (1, 2), (3, 10), (7, 1_003), (1_002, 1_003)):
        part = np.ascontiguousarray(amounts[:, first:last])
        assert decayed(part, factors).tolist() == usage[first:last].tolist()
    assert decayed(amounts[:, ::-1], factors).tolist() == usage[::-1].tolist()
    assert decayed(np.asfortranarray(amounts), factors).tolist() == usage.tolist()


def test_windows_are_added_up_in_the_order_of_time() -> None:
    amounts, factors = _month(4)
    expected = [0.0] * 4
    for row, factor in zip(amounts.tolist(), factors.tolist(), strict=True):
        expected = [sum_ + each * factor for sum_, each in zip(expected, row, strict=True)]
    assert decayed(amounts, factors).tolist() == expected


def test_without_windows_nothing_was_used() -> None:
    assert decayed(np.zeros((0, 3), np.int64), np.zeros(0)).tolist() == [0.0, 0.0, 0.0]
    assert decayed(np.zeros((2, 0), np.int64), np.ones(2)).tolist() == []


def test_a_weight_is_missing_or_too_many() -> None:
    with pytest.raises(ValueError, match="argument 2 is shorter"):
        decayed(np.ones((2, 1), np.int64), np.ones(1))


def test_a_month_of_three_metrics_is_added_up_in_no_time() -> None:
    amounts, factors = _month(3_000)

    def seconds() -> float:
        began = time.process_time()
        for _ in range(3):
            decayed(amounts, factors)
        return time.process_time() - began

    assert min(seconds() for _ in range(20)) < 0.002


# -- other systems ----------------------------------------------------------------------------


@pytest.mark.parametrize(("half_life", "seconds", "expected"), FIGURES["exact_decay"]["past"])
def test_past_usage_decays_exactly(half_life: int, seconds: int, expected: float) -> None:
    halving = HalfLife(seconds=half_life)
    before, after = (_weight(halving, -HOUR, 0, now) for now in (0, seconds))
    assert after / before == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize(("half_life", "seconds", "expected"), FIGURES["exact_decay"]["new"])
def test_new_usage_decays_while_it_is_used(half_life: int, seconds: int, expected: float) -> None:
    weight = _weight(HalfLife(seconds=half_life), 0, seconds, seconds)
    assert seconds * weight == pytest.approx(expected, rel=1e-12)


class Condor:
    """A real user priority of HTCondor: 0.5 to begin with, and never below.

    It is the decayed usage of cores in units of half-life / ln 2, and the rest of the first 0.5.
    """

    FLOOR = 0.5

    def __init__(self, half_life: int) -> None:
        self._half_life = half_life
        self._steps: list[tuple[int, int, int]] = []

    @property
    def now(self) -> int:
        return self._steps[-1][1]

    def step(self, seconds: int, hundredths: int) -> None:
        """So many hundredths of core-seconds, used evenly over so many seconds."""
        start = self.now if self._steps else 0
        self._steps.append((start, start + seconds, hundredths))

    def begin_again(self) -> None:
        self._steps.clear()

    def priority(self) -> float:
        start, stop, amount = (ints(column) for column in zip(*self._steps, strict=True))
        factors = weights(HalfLife(seconds=self._half_life), start, stop, self.now)
        usage = float(decayed(amount[:, None], factors)[0]) / 100
        rest = self.FLOOR * 2 ** (-self.now / self._half_life)
        return usage * math.log(2) / self._half_life + rest


@pytest.mark.parametrize(
    "name", [name for name in FIGURES["condor_sequences"] if name not in ("source", "columns")]
)
def test_priorities_of_htcondor_are_decayed_usage_above_their_floor(name: str) -> None:
    sequence = FIGURES["condor_sequences"][name]
    user = Condor(sequence["half_life"])
    for seconds, hundredths, expected in sequence["steps"]:
        user.step(seconds, hundredths)
        if expected == Condor.FLOOR:
            assert user.priority() < Condor.FLOOR
            user.begin_again()
        else:
            assert user.priority() == pytest.approx(expected, rel=1e-8)


def test_priorities_that_htcondor_documents() -> None:
    documented = FIGURES["condor_documented"]
    idle, busy = documented["idle"], documented["busy"]
    halving = HalfLife(seconds=idle["half_life"])
    found = [_weight(halving, -1, 0, after) / _weight(halving, -1, 0) for after in idle["after"]]
    assert [idle["start"] * each for each in found] == pytest.approx(idle["priority"], rel=1e-12)
    user = Condor(busy["half_life"])
    user.step(busy["after"], 100 * busy["cores"] * busy["after"])
    assert user.priority() == pytest.approx(busy["priority"], rel=1e-12)


def test_slices_of_htcondor_are_shares_of_inverse_priorities() -> None:
    documented = FIGURES["condor_documented"]
    slices = 1 / np.array(documented["effective_priority"], np.float64)
    assert shares(slices, total_of(slices)) == pytest.approx(documented["share"], rel=1e-12)
    slices = 1 / np.array(documented["factors"], np.float64)
    plain, doubled = shares(slices, total_of(slices)).tolist()
    assert doubled / plain == pytest.approx(documented["share_ratio"], rel=1e-12)


FLUX = FIGURES["flux"]
FLUX_STEPS = Steps(period=FLUX["period"], factors=tuple(FLUX["factors"]))


def _flux_usage(undecayed: list[int], seconds_on: int) -> float:
    """The usage of periods, newest first, so many seconds after the newest has begun."""
    period = FLUX["period"]
    begins = 2_000 * period
    start = ints([begins - place * period for place in reversed(range(len(undecayed)))])
    factors = weights(FLUX_STEPS, start, start + period, begins + seconds_on)
    return float(decayed(ints(undecayed[::-1])[:, None], factors)[0])


@pytest.mark.parametrize(("bins", "new", "begins", "expected"), FLUX["bins"])
def test_usage_of_flux_is_that_of_its_bins(
    bins: list[int], new: int, begins: bool, expected: float
) -> None:
    undecayed = [amount * 2**place for place, amount in enumerate(bins)]
    undecayed = [0, *undecayed] if begins else undecayed
    undecayed[0] += new
    assert _flux_usage(undecayed, 5_000) == expected


def test_usage_of_flux_over_periods_is_the_documented() -> None:
    amounts, found = FLUX["node_seconds_per_period"], []
    for count in range(1, len(amounts) + 1):
        found.append(_flux_usage(amounts[:count][::-1], 604_799))
    assert found == FLUX["usage_after_each"]

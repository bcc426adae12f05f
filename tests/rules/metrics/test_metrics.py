"""Metrics: how they are declared, and what they make of the resources a job holds."""

from decimal import Decimal
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from oar_accounting import SettingsError
from oar_accounting.core.columns import ints
from oar_accounting.errors import AmountOverflow
from oar_accounting.metrics.metric import (
    BUILT_IN,
    Held,
    Metric,
    Resources,
    bad_values,
    held_amounts,
    parse_metric,
    rates_of,
)

NODES = ["a", "a", "b", "b", "", None]
MEMORY = ["64", "64", "1.5", "1.25", "7", None]
RESOURCES = Resources(
    resource_id=ints([1, 2, 3, 4, 5, 6]),
    type=["default"] * 5 + ["disk"],
    properties={"network_address": NODES, "mem": MEMORY, "gpu": [0, 1, 1, None, 2, 3]},
)


def rates(metric: Metric, *parts: list[int]) -> list[int]:
    """The rates of parts that hold the resources of these ids."""
    part = [number for number, ids in enumerate(parts) for _ in ids]
    row = [resource - 1 for ids in parts for resource in ids]
    return rates_in(RESOURCES, metric, Held(ints(part), ints(row)), len(parts))


def rates_in(table: Resources, metric: Metric, held: Held, parts: int = 1) -> list[int]:
    return [int(rate) for rate in rates_of(metric, held_amounts(metric, held, table, parts))]


def declared(**table: Any) -> Metric:
    return parse_metric("m", {"unit": "x.s", **table}, "site.toml")


def test_counting_rows_of_a_type() -> None:
    assert rates(declared(count=True), [1, 2, 6], [], [3]) == [2, 0, 1]
    assert rates(declared(count=True, type="disk"), [1, 2, 6], [3]) == [1, 0]
    assert rates(declared(count=True, type="*"), [1, 2, 6], [3]) == [3, 1]
    assert rates(declared(count=True, scale=1000), [1, 2]) == [2000]


def test_counting_different_values_of_a_property() -> None:
    nodes = declared(distinct="network_address")
    assert rates(nodes, [1, 2], [1, 3], [1, 2, 3, 4, 5], [5]) == [1, 2, 2, 0]
    # A number is a value, also 0; NULL is none.
    assert rates(declared(distinct="gpu"), [1], [2, 3], [4], [1, 2, 5]) == [1, 1, 0, 3]


def test_summing_a_property_per_row_and_per_value_of_another() -> None:
    per_row = declared(sum="mem", scale=100)
    assert rates(per_row, [1, 2], [3, 4], [4], [5]) == [12800, 275, 125, 700]
    per_node = declared(sum="mem", per="network_address", scale=100)
    # A node has what the largest of its rows says; a row without a node has nothing.
    assert rates(per_node, [1, 2], [4], [1, 3, 4], [5]) == [6400, 150, 6550, 0]


def test_a_rate_is_rounded_once_half_to_even() -> None:
    per_row = declared(sum="mem")
    # 1.5 -> 2, 1.25 -> 1, and 1.5 + 1.25 = 2.75 -> 3: not the sum of rounded parts.
    assert rates(per_row, [3], [4], [3, 4]) == [2, 1, 3]
    halves = Resources(
        resource_id=ints([1, 2]), type=["default"] * 2, properties={"mem": ["0.5", "2.5"]}
    )
    held = Held(ints([0, 1]), ints([0, 1]))
    assert rates_in(halves, declared(sum="mem"), held, 2) == [0, 2]


@given(
    values=st.lists(st.decimals(0, 10**6, places=3), min_size=1, max_size=8),
    scale=st.sampled_from([1, 3, 10, 1000]),
    data=st.data(),
)
def test_sums_are_exact_before_they_are_rounded(values: Any, scale: int, data: Any) -> None:
    rows = data.draw(st.lists(st.integers(0, len(values) - 1), max_size=12, unique=True))
    table = Resources(
        resource_id=np.arange(len(values)),
        type=["default"] * len(values),
        properties={"p": [str(v) for v in values]},
    )
    held = Held(np.zeros(len(rows), np.int64), ints(rows))
    exact = sum((Fraction(values[row]) for row in rows), Fraction(0)) * scale
    assert rates_in(table, declared(sum="p", scale=scale), held) == [round(exact)]


def of_values(*values: Any, types: tuple[str, ...] = ()) -> Resources:
    """A resource for each value of mem."""
    count = len(values)
    kinds = list(types) or ["default"] * count
    return Resources(resource_id=ints(range(count)), type=kinds, properties={"mem": list(values)})


BAD = ["much", "128 GB", "-1", -1, "nan", "inf", "-inf", "1e30", "1e400", "1e-400", "1e999999"]


@pytest.mark.parametrize("value", BAD)
def test_a_property_that_is_no_number_counts_as_nothing_and_is_named(value: Any) -> None:
    table = of_values(2, value, "0.5")
    held = Held(ints([0, 1, 1, 2]), ints([0, 1, 2, 1]))
    for metric in (declared(sum="mem", scale=2), declared(sum="mem", scale=2, per="mem")):
        assert rates_in(table, metric, held, 3) == [4, 1, 0]
        ((row, said),) = bad_values(metric, table).items()
        assert row == 1
        assert said.startswith(f"property 'mem' is {value!r}, ")
    assert bad_values(declared(count=True), table) == {}
    assert bad_values(declared(distinct="mem"), table) == {}
    of_type = of_values(2, value, types=("default", "licence"))
    assert bad_values(declared(sum="mem"), of_type) == {}


@pytest.mark.parametrize(
    ("values", "scale", "bad"),
    [
        ((2**62, 1), 1, []),
        ((2**62, 1), 2, [0]),
        ((2**62, "0.5", 3), 1, [0]),
        ((128, "0.30000000000000004", "0.5"), 1, [1]),
        ((10**15, "0.001", "0.0001"), 1, [2]),
        ((None, "", "0", 0), 1, []),
    ],
)
def test_numbers_that_do_not_fit_are_told_and_the_others_count(
    values: tuple[Any, ...], scale: int, bad: list[int]
) -> None:
    table, metric = of_values(*values), declared(sum="mem", scale=scale)
    assert sorted(bad_values(metric, table)) == bad
    rows = np.arange(len(values))
    counted = [0 if row in bad else Fraction(values[row] or 0) * scale for row in rows.tolist()]
    assert rates_in(table, metric, Held(rows, rows), len(rows)) == list(map(round, counted))


@given(
    values=st.lists(
        st.one_of(
            st.decimals(allow_nan=True, allow_infinity=True).map(str),
            st.floats().map(repr),
            st.integers(-(2**70), 2**70),
            st.text(max_size=5),
            st.none(),
        ),
        max_size=8,
    ),
    scale=st.sampled_from([1, 10**9]),
)
def test_no_value_keeps_the_others_from_being_counted(values: list[Any], scale: int) -> None:
    table, metric = of_values(*values), declared(sum="mem", scale=scale)
    rows = np.arange(len(values))
    found = rates_in(table, metric, Held(rows, rows), len(rows))
    bad = bad_values(metric, table)
    for row, value in enumerate(values):
        counts = row not in bad and value not in (None, "")
        exact = Fraction(Decimal(str(value)).normalize()) if counts else 0
        assert found[row] == round(exact * scale)


def test_rates_beyond_63_bits_are_refused() -> None:
    table = Resources(
        resource_id=ints([1, 2]), type=["default"] * 2, properties={"mem": [2**62, 2**62]}
    )
    held = Held(ints([0, 0]), ints([0, 1]))
    with pytest.raises(AmountOverflow):
        rates_in(table, declared(sum="mem"), held)
    assert rates_in(table, declared(sum="mem"), held.take(slice(0, 1))) == [2**62]


def test_a_definition_is_read_back_as_it_was_stored() -> None:
    several = [*BUILT_IN, declared(sum="mem", per="network_address", type="*", scale=7)]
    for metric in several:
        assert Metric.from_definition(metric.name, metric.definition) == metric
    assert len({metric.digest for metric in several}) == len(several)


@pytest.mark.parametrize(
    ("name", "table", "said"),
    [
        ("Core", {"count": True}, "lower-case"),
        ("", {"count": True}, "lower-case"),
        ("node", {"count": True}, "built in"),
        ("m", {"count": True, "weigth": 2}, "unknown key 'weigth'; known keys are count, dist"),
        ("m", {}, "exactly one of"),
        ("m", {"count": True, "distinct": "core"}, "exactly one of"),
        ("m", {"count": 1}, "count must be true"),
        ("m", {"count": True, "per": "core"}, "per goes with sum"),
        ("m", {"distinct": ""}, "distinct must be a text"),
        ("m", {"sum": 3}, "sum must be a text"),
        ("m", {"sum": "mem", "per": 3}, "per must be a text"),
        ("m", {"count": True, "unit": "core"}, "unit must be"),
        ("m", {"count": True, "unit": 3}, "unit must be"),
        ("m", {"count": True, "scale": 0}, "scale must be"),
        ("m", {"count": True, "scale": True}, "scale must be"),
        ("m", {"count": True, "type": 1}, "type must be"),
    ],
)
def test_a_wrong_declaration_names_file_and_metric(
    name: str, table: dict[str, Any], said: str
) -> None:
    with pytest.raises(SettingsError, match=said) as caught:
        parse_metric(name, {"unit": "x·s", **table}, "site.toml")
    assert f"site.toml: [metrics.{name}]" in str(caught.value)


def test_a_unit_is_written_with_a_dot_or_a_middle_dot() -> None:
    assert {declared(count=True, unit=u).unit for u in ("x.s", "x·s", "x*s")} == {"x·s"}

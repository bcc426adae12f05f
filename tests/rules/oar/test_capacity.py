"""What the machine could give: resources that come and go, alone or sharing what is counted."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from oar_accounting.core.columns import OPEN, ints
from oar_accounting.metrics.metric import NODE, RESOURCE, Metric, Resources
from oar_accounting.oar.properties import of_today
from oar_accounting.oar.resource_logs import Presence, capacity_of

MEMORY = Metric(name="memory", unit="MiB·s", form="sum", of="mem", per="network_address")
#: Four resources on two nodes, of which one has twice the memory, and a licence.
RESOURCES = Resources(
    resource_id=ints([1, 2, 3, 4, 9]),
    type=["default"] * 4 + ["licence"],
    properties={"network_address": ["a", "a", "b", "b", ""], "mem": [10, 10, 20, 20, None]},
)
KINDS = of_today(RESOURCES)
SPANS = st.lists(
    st.tuples(st.sampled_from([1, 2, 3, 4, 9, 77]), st.integers(0, 30), st.integers(1, 12)),
    max_size=20,
)


def presence(spans: list[tuple[int, int, int]]) -> Presence:
    """Resource, start and seconds of each time that one was there."""
    rows = [(number, start, start + seconds) for number, start, seconds in spans]
    return Presence(*(ints([row[place] for row in rows]) for place in range(3)))


def naive(metric: Metric, spans: list[tuple[int, int, int]], second: int) -> int:
    """What is there within one second, counted one by one."""
    there = {n for n, start, seconds in spans if start <= second < start + seconds}
    nodes = {1: "a", 2: "a", 3: "b", 4: "b"}
    found = {nodes[number] for number in there if number in nodes}
    if metric is RESOURCE:
        return len(there & set(nodes))
    if metric is NODE:
        return len(found)
    return sum({"a": 10, "b": 20}[node] for node in found)


@pytest.mark.parametrize("metric", [RESOURCE, NODE, MEMORY], ids=lambda metric: metric.name)
@given(spans=SPANS)
def test_every_second_has_what_was_there(metric: Metric, spans: list[tuple[int, int, int]]) -> None:
    capacity = capacity_of(metric, KINDS, presence(spans))
    if capacity is None:
        assert not spans
        return
    assert (capacity.start < capacity.stop).all()
    for second in range(45):
        inside = (capacity.start <= second) & (second < capacity.stop)
        assert int(capacity.rate[inside].sum()) == naive(metric, spans, second)


def test_a_formula_and_a_machine_without_a_log_have_none() -> None:
    formula = Metric(name="f", unit="f·s", form="formula", formula="node", parts=(NODE,))
    assert capacity_of(formula, KINDS, presence([(1, 0, 1)])) is None
    assert capacity_of(RESOURCE, KINDS, presence([])) is None


def test_what_is_there_now_has_no_end() -> None:
    lasting = Presence(ints([1, 2]), ints([5, 9]), ints([OPEN, 12]))
    capacity = capacity_of(NODE, KINDS, lasting)
    assert capacity is not None
    assert (capacity.start.tolist(), capacity.stop.tolist()) == ([5], [OPEN])

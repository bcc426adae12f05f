"""Lists of nodes: short, the same for the same nodes, and none is lost."""

import time

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from oar_accounting.core.node_lists import NodeLists, expand, fold

CASES = [
    ((), ""),
    (("n1",), "n1"),
    (("n1", "n2", "n3", "n4", "n7"), "n[1-4,7]"),
    (("n7", "n1", "n7", "n2"), "n[1-2,7]"),
    (("n8", "n9", "n10", "n11", "n100"), "n[8-11,100]"),
    (("n01", "n02", "n03", "n04"), "n[01-04]"),
    (("n08", "n09", "n10", "n11"), "n[08-11]"),
    (("n098", "n099", "n100"), "n[098-100]"),
    (("n1", "n01", "n2", "n02"), "n[1,01,2,02]"),
    (("frontend", "n1", "birch-2", "birch-3"), "birch-[2-3],frontend,n1"),
    (
        ("dahu-1.grenoble.grid5000.fr", "dahu-2.grenoble.grid5000.fr", "dahu-2.lille.fr"),
        "dahu-[1-2].grenoble.grid5000.fr,dahu-2.lille.fr",
    ),
    (("r1-n1", "r1-n2", "r2-n1"), "r1-n[1-2],r2-n1"),
    (("n1-ib", "n2-ib"), "n[1-2]-ib"),
    (("10.0.0.9", "10.0.0.10", "10.0.1.1"), "10.0.0.[9-10],10.0.1.1"),
    (("7", "8"), "[7-8]"),
    (("n0", "n00"), "n[0,00]"),
    (("nœud1", "nœud2"), "nœud[1-2]"),
]


@pytest.mark.parametrize(("addresses", "listed"), CASES, ids=[listed for _, listed in CASES])
def test_nodes_are_listed_as_people_write_them(addresses: tuple[str, ...], listed: str) -> None:
    assert fold(addresses) == listed
    assert fold(reversed(addresses)) == listed
    assert expand(listed) == set(addresses)


#: Names with many numbers near each other, and whatever else may be in an address.
near = st.builds(
    lambda before, number, width, behind: f"{before}{number:0{width}}{behind}",
    st.sampled_from(["n", "r1-n", "", "10.0.0."]),
    st.integers(0, 12) | st.sampled_from([99, 100, 10**20]),
    st.integers(1, 3),
    st.sampled_from(["", ".site", "-ib.site2.fr", "²"]),
)
anything = st.text(
    st.characters(exclude_characters="[],", exclude_categories=["Cs"]), min_size=1, max_size=12
)


@given(st.sets(near | anything, max_size=20))
@example({"n9", "n09", "n10", "n010"})
@example({"٣", "n٣", "n٤"})
def test_expanding_gives_the_nodes_back(addresses: set[str]) -> None:
    assert expand(fold(addresses)) == addresses


@given(st.lists(st.sets(near, max_size=8), max_size=6))
def test_lists_of_many_jobs_are_those_of_each(jobs: list[set[str]]) -> None:
    addresses = sorted({each for some in jobs for each in some})
    pairs = [(job, addresses.index(each)) for job, some in enumerate(jobs) for each in some] * 2
    job, code = np.array(pairs, np.int64).reshape(-1, 2).T
    assert NodeLists(addresses).folded(job, code, len(jobs)) == [fold(some) for some in jobs]


def test_ten_thousand_jobs_are_listed_in_a_second() -> None:
    """Of a machine of a thousand nodes; a job of these has 30 of them, in ten runs."""
    addresses = [f"birch-{number}.site.example" for number in range(1, 1_001)]
    lists = NodeLists(addresses)
    job = np.repeat(np.arange(10_000), 30)
    code = (job * 7 + np.tile(np.arange(30) * 4 // 3, 10_000)) % 1_000
    began = time.process_time()
    found = lists.folded(job, code, 10_000)
    assert time.process_time() - began < 1
    assert len(expand(found[5_000])) == 30

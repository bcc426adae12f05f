"""The [karma] section of the settings: what it may say, and what is told where it is wrong."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from oar_accounting import SettingsError
from oar_accounting.karma.policies.policy import Dominant, Linear, Shared, Stock
from oar_accounting.karma.policies.weights import Flat, HalfLife, Steps
from oar_accounting.karma.settings import POLICY_KEYS, check_lengths, read_karma

KNOWN = ("resource", "node", "core", "gpu")
TERM = {"by": "user", "metric": "core"}


def read(**table: Any) -> Any:
    return read_karma(table, "site.toml", KNOWN)


def refused(**table: Any) -> str:
    with pytest.raises(SettingsError) as error:
        read(**table)
    return str(error.value)


def test_a_linear_karma_has_terms_that_take_over_what_all_have() -> None:
    karma = read(
        policy="linear",
        half_life="7d",
        scope="queue",
        terms=[
            {**TERM, "weight": 2, "targets": {"alice": 20, "*": 5}},
            {"by": "project", "metric": "gpu", "amount": "asked", "window": 3600, "scope": "site"},
        ],
    )
    assert isinstance(karma.policy, Linear)
    assert karma.open_jobs == "used"
    first, second = karma.policy.terms
    assert (first.weight, first.counted.scope, first.counted.amount) == (2.0, "queue", "used")
    assert first.counted.weighting == HalfLife(seconds=7 * 86_400)
    assert [first.target(name) for name in ("alice", "bob")] == [0.2, 0.05]
    assert second.counted.weighting == Flat(length=3600)
    assert (second.counted.scope, second.counted.amount) == ("site", "asked")
    assert second.target("alice") == 0


def test_a_tree_has_levels_metrics_and_shares() -> None:
    karma = read(
        policy="tree",
        levels=["laboratory", "user"],
        metrics={"core": 1, "gpu": 20},
        shares={"laboratory": {"LIG": 40}, "user": {"bob": {"LIG": 3, "*": 1}, "eve": "parent"}},
        steps={"period": "1w", "factors": [1, 0.5]},
    )
    policy = karma.policy
    assert isinstance(policy, Shared)
    assert not policy.fair
    assert policy.counted.weighting == Steps(period=604_800, factors=(1.0, 0.5))
    assert policy.share("laboratory", "LIG", "") == 40
    assert policy.share("laboratory", "other", "") == 1
    assert [policy.share("user", "bob", above) for above in ("LIG", "LJK")] == [3, 1]
    assert policy.share("user", "eve", "LIG") is None
    assert isinstance(read(policy="fair_tree", levels=["user"], metrics=["core"]).policy, Shared)


def test_dominance_and_oars_own() -> None:
    policy = read(policy="dominant", metrics=["core", "gpu"], window="30d").policy
    assert policy == Dominant(by="user", metrics=("core", "gpu"), counted=policy.counted)
    karma = read(policy="oar", window_rule="oar3", source="totals")
    assert karma.policy == Stock(window_rule="oar3", source="totals")
    assert karma.open_jobs == "none"


def test_a_half_life_may_be_cut_off() -> None:
    karma = read(policy="linear", half_life=60, window="2h", terms=[TERM])
    assert karma.policy.terms[0].counted.weighting == HalfLife(seconds=60, length=7200)


@pytest.mark.parametrize(
    ("table", "told"),
    [
        ({}, "policy is missing; expected one of 'oar', 'linear'"),
        ({"policy": "fair"}, "policy must be one of"),
        ({"policy": "oar", "half_life": "7d"}, "unknown key 'half_life'"),
        ({"policy": "linear"}, "terms is missing"),
        ({"policy": "linear", "terms": []}, "tables like [[karma.terms]]"),
        ({"policy": "linear", "terms": [3]}, "term 1 must be a table, not 3"),
        ({"policy": "linear", "terms": [{"by": "user"}]}, "term 1: metric is missing"),
        (
            {"policy": "linear", "terms": [{"by": "user", "metric": "cores"}]},
            "unknown metric 'cores'; declared are resource, node, core, gpu",
        ),
        ({"policy": "linear", "terms": [{**TERM, "wieght": 2}]}, "unknown key 'wieght'"),
        ({"policy": "linear", "terms": [{**TERM, "weight": "2"}]}, "weight must be a number"),
        ({"policy": "linear", "terms": [{**TERM, "weight": True}]}, "weight must be a number"),
        (
            {"policy": "linear", "terms": [{**TERM, "weight": float("nan")}]},
            "weight must be a number",
        ),
        ({"policy": "linear", "terms": [{**TERM, "targets": {"a": "x"}}]}, "a must be a number"),
        ({"policy": "linear", "terms": [{**TERM, "scope": "all"}]}, "scope must be one of"),
        ({"policy": "linear", "terms": [TERM], "half_life": "week"}, "half_life must be a length"),
        ({"policy": "linear", "terms": [TERM], "half_life": 0}, "half_life must be a length"),
        ({"policy": "linear", "terms": [TERM], "window": "1y"}, "window must be a length"),
        (
            {
                "policy": "linear",
                "terms": [TERM],
                "half_life": "1d",
                "steps": {"period": 60, "factors": [1]},
            },
            "half_life and steps exclude each other",
        ),
        (
            {"policy": "linear", "terms": [TERM], "steps": {"period": 60, "factors": [2]}},
            "factors must be a list of numbers from 0 to 1",
        ),
        ({"policy": "tree", "metrics": ["core"]}, "levels is missing"),
        (
            {"policy": "tree", "levels": ["user"], "metrics": {"core": -1}},
            "core must be a number from 0",
        ),
        (
            {"policy": "tree", "levels": ["user"], "metrics": {"core": 0}},
            "metrics of which one at least has a weight above 0",
        ),
        (
            {"policy": "tree", "levels": ["user"], "metrics": ["core"], "shares": {"lab": {}}},
            "shares are given for 'lab', which is none of the levels: user",
        ),
        (
            {"policy": "tree", "levels": ["user", "user"], "metrics": ["core"]},
            "levels must be a list of different names",
        ),
        ({"policy": "dominant"}, "metrics is missing"),
        ({"policy": "dominant", "metrics": ["core"], "open_jobs": 1}, "open_jobs must be one of"),
    ],
)
def test_a_mistake_is_told_with_file_and_key(table: dict[str, Any], told: str) -> None:
    message = refused(**table)
    assert message.startswith("site.toml: [karma]")
    assert told in message


def test_a_section_that_is_no_table_is_told() -> None:
    with pytest.raises(SettingsError, match=r"\[karma\] must be a table, not 'linear'"):
        read_karma("linear", "site.toml", KNOWN)


@pytest.mark.parametrize(
    ("time", "told"),
    [
        ({"half_life": "12h"}, "half_life of 12 hours is shorter than the windows of 1 day"),
        ({"half_life": 86_399}, "half_life of 86399 seconds"),
        ({"window": "1h"}, "window of 1 hour"),
        ({"half_life": "7d", "window": "1h"}, "window of 1 hour"),
        ({"steps": {"period": "6h", "factors": [1, 0.5]}}, "steps: period of 6 hours"),
    ],
)
def test_less_time_than_a_window_is_refused(time: dict[str, Any], told: str) -> None:
    """What counts of a window would be by chance."""
    for table in (
        {"policy": "fair_tree", "levels": ["user"], "metrics": ["core"]},
        {"policy": "dominant", "metrics": ["core"]},
    ):
        with pytest.raises(SettingsError) as error:
            check_lengths(read(**table, **time).policy, 86_400, "site.toml")
        assert str(error.value).startswith(f"site.toml: [karma]: {told}")
    karma = read(policy="linear", terms=[TERM, {**TERM, **time}])
    with pytest.raises(SettingsError, match=r"^site.toml: \[karma\] term 2: "):
        check_lengths(karma.policy, 86_400, "site.toml")
    check_lengths(karma.policy, 3_600, "site.toml")


def test_the_window_that_is_proposed_is_one_that_will_do() -> None:
    policy = read(policy="dominant", metrics=["core"], half_life="5h").policy
    with pytest.raises(SettingsError, match="set window = 17280 outside") as error:
        check_lengths(policy, 86_400, "site.toml")
    assert "oar-accounting rebuild" in str(error.value)
    check_lengths(policy, 17_280, "site.toml")


WORDS = st.sampled_from([*POLICY_KEYS, "user", "core", "7d", "site", "terms", "parent", "*"])
JUNK = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | WORDS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(WORDS, inner, max_size=3),
    max_leaves=8,
)
NAMES = ("policy", "terms", "levels", "metrics", "shares", "by", "steps", "half_life", "window")


@given(st.dictionaries(st.sampled_from(NAMES) | WORDS, JUNK), st.sampled_from([*POLICY_KEYS, None]))
def test_whatever_stands_there_is_read_or_refused(table: dict[str, Any], policy: Any) -> None:
    if policy is not None:
        table["policy"] = policy
    try:
        read_karma(table, "site.toml", KNOWN)
    except SettingsError as error:
        assert str(error).startswith("site.toml: [karma]")

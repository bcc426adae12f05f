"""``UsageQuery``: the question as a thing of its own, which says the same as keywords."""

from collections.abc import Iterator
from dataclasses import FrozenInstanceError, replace
from typing import Any

import pytest
from sqlalchemy import Engine

from oar_accounting import Accounting, BadSpan, UnknownName, UsageQuery
from tests.database.reports.test_job_lists import lay
from tests.small_oar import DAY, T0, Clock, stopped_clock


@pytest.fixture(autouse=True)
def clock() -> Iterator[Clock]:
    """The verbs' clock stands still, long after everything."""
    with stopped_clock() as stopped:
        stopped.now = T0 + 100 * DAY
        yield stopped


@pytest.fixture
def site(engine: Engine) -> Accounting:
    """A dozen jobs of all kinds on two clusters, recorded."""
    return lay(engine)


ASKED: list[tuple[str, dict[str, Any]]] = [
    ("usage", {}),
    ("usage", {"by": "project", "bucket": "day", "start": T0, "stop": T0 + 9 * DAY}),
    ("usage", {"by": ("user", "type"), "metrics": "node", "as_of": T0 + DAY}),
    ("usage", {"by": ("cluster",), "where": {"user": ["alice", "bob"]}, "whole_windows": True}),
    ("usage", {"without_adjustments": True, "timezone": "Europe/Paris", "bucket": "month"}),
    ("efficiency", {"by": ("queue", "size"), "stop": T0 + 5 * DAY}),
    ("sizes", {"by": ("project",), "where": {"queue": "default"}}),
    ("waiting", {"by": ("queue",), "start": T0}),
]


@pytest.mark.parametrize(("verb", "given"), ASKED)
def test_a_query_says_the_same_as_keywords(
    site: Accounting, verb: str, given: dict[str, Any]
) -> None:
    query = site.query(**given)
    assert getattr(site, verb)(query) == getattr(site, verb)(**given)
    assert site.query(query) is query


def test_columns_and_the_top_are_asked_by_it_too(site: Accounting) -> None:
    query = site.query(("user",), "node", T0, T0 + 9 * DAY)
    assert list(site.usage_columns(query).rows()) == list(site.usage(query).rows)
    assert site.top(query) == site.top(("user",), "node", T0, T0 + 9 * DAY)
    assert site.top(replace(query, metrics=None), "node") == site.top(query)
    with pytest.raises(UnknownName, match="exactly one metric was expected"):
        site.top(replace(query, metrics=("node", "resource")))


def test_what_a_user_may_see_is_asked_by_it_too(site: Accounting) -> None:
    own = site.reports_for("alice")
    for verb in ("usage", "efficiency", "waiting"):
        query = site.query(("project",), stop=T0 + 50 * DAY)
        found = getattr(own, verb)(query)
        assert found == getattr(own, verb)(("project",), stop=T0 + 50 * DAY)
        assert found != getattr(site, verb)(query)


@pytest.mark.parametrize(
    ("verb", "asked"),
    [
        *((verb, {"bucket": "day"}) for verb in ("top", "efficiency", "sizes", "waiting")),
        *((verb, {"as_of": T0}) for verb in ("efficiency", "waiting")),
        ("sizes", {"whole_windows": True}),
    ],
)
def test_what_a_verb_does_not_know_must_not_be_asked(
    site: Accounting, verb: str, asked: dict[str, Any]
) -> None:
    query = site.query(("queue",), stop=T0 + 50 * DAY, **asked)
    with pytest.raises(TypeError, match=rf"^{verb}\(\) does not know '{next(iter(asked))}'"):
        getattr(site, verb)(query)


def test_nothing_goes_with_a_query(site: Accounting) -> None:
    query = site.query()
    for more in ({"start": T0}, {"metrics": ("node",)}, {"bucket": "day"}):
        with pytest.raises(TypeError, match="nothing goes with it"):
            site.usage(query, **more)


@pytest.mark.parametrize(
    ("verb", "name"),
    [("usage", "end"), ("efficiency", "as_of"), ("top", "bucket"), ("jobs", "first")],
)
def test_what_a_verb_does_not_know_is_named(site: Accounting, verb: str, name: str) -> None:
    with pytest.raises(TypeError, match=rf"^{verb}\(\) got an unexpected keyword argument '{name}"):
        getattr(site, verb)(**{name: 1})


def test_one_that_could_not_be_answered_cannot_be_made() -> None:
    with pytest.raises(BadSpan, match="is empty"):
        UsageQuery.of(start=T0, stop=T0)
    with pytest.raises(BadSpan, match="beyond any calendar"):
        UsageQuery.of(as_of=2**60)
    with pytest.raises(UnknownName, match="the number of a job was expected"):
        UsageQuery.of(where={"job": "x"})
    query = UsageQuery.of("user", start=T0, stop=T0 + 1)
    with pytest.raises(BadSpan, match="is empty"):
        replace(query, stop=T0)
    with pytest.raises(FrozenInstanceError):
        query.start = None  # type: ignore[misc]


def test_names_and_values_are_taken_as_they_come() -> None:
    query = UsageQuery.of(["user", "user"], "core", where={"job": 7, "user": ["a", "b"]})
    assert query.by == ("user",)
    assert query.metrics == ("core",)
    assert query.where == {"job": frozenset({"7"}), "user": frozenset({"a", "b"})}
    assert query.keys_of_jobs() == ["job"]

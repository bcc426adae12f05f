"""What is said of how far a span is recorded."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from oar_accounting import Coverage
from oar_accounting.core.lengths import LATE

DAY = 86_400
#: 2026-04-05 00:00 UTC.
NOW = 20_548 * DAY
TIMES = st.none() | st.integers(NOW - 3 * LATE, NOW + 3 * LATE)


@st.composite
def coverages(draw: st.DrawFn) -> Coverage:
    """Of any span, recorded until any time that is not to come."""
    return Coverage(
        start=None,
        stop=draw(TIMES),
        timezone="UTC",
        as_of=draw(TIMES),
        now=NOW,
        recorded_until=draw(st.none() | st.integers(NOW - 3 * LATE, NOW)),
        overdue_jobs=draw(st.integers(0, 2)),
    )


MARCH = Coverage(
    start=NOW - 35 * DAY,
    stop=NOW - 4 * DAY,
    timezone="Europe/Paris",
    as_of=None,
    now=NOW,
    recorded_until=NOW - 60,
    overdue_jobs=0,
)


@pytest.mark.parametrize(
    ("changed", "notes"),
    [
        ({}, ()),
        ({"recorded_until": MARCH.stop}, ()),
        (
            {"recorded_until": NOW - 4 * DAY - 1},
            (
                "recorded until 2026-04-01 01:59:59 CEST, 4 days ago: what happened since is "
                "missing",
            ),
        ),
        ({"stop": None}, ("recorded until 2026-04-05 01:59:00 CEST",)),
        ({"stop": None, "as_of": NOW - 60}, ()),
        ({"stop": NOW + DAY}, ("recorded until 2026-04-05 01:59:00 CEST",)),
        (
            {"recorded_until": None, "overdue_jobs": 1},
            (
                "no catch-up was ever done to its end: what is missing is not known",
                "1 open job is past its walltime: what it used is not counted",
            ),
        ),
        (
            {"overdue_jobs": 2, "as_of": NOW - 4 * DAY},
            ("2 open jobs are past their walltime: counted as if they had not ended",),
        ),
    ],
)
def test_what_is_missing_is_said(changed: dict[str, int | None], notes: tuple[str, ...]) -> None:
    assert replace(MARCH, **changed).notes() == notes  # type: ignore[arg-type]


@given(coverages())
def test_nothing_is_said_only_where_nothing_is_missing(coverage: Coverage) -> None:
    assert (coverage.notes() == ()) == (coverage.is_complete and not coverage.overdue_jobs)
    assert coverage.notes() or not coverage.is_stale
    ends = [end for end in (coverage.stop, coverage.as_of) if end is not None]
    until = coverage.recorded_until
    assert coverage.is_complete == (until is not None and any(until >= end for end in ends))


@given(coverages(), st.integers(0, 3 * LATE))
def test_a_pass_makes_nothing_staler(coverage: Coverage, later: int) -> None:
    """And one of just now makes all fresh, but for jobs that OAR holds."""
    if coverage.recorded_until is not None:
        again = replace(coverage, recorded_until=min(coverage.recorded_until + later, NOW))
        assert coverage.is_complete <= again.is_complete
        assert coverage.is_stale >= again.is_stale
    assert not replace(coverage, recorded_until=NOW, overdue_jobs=0).is_stale

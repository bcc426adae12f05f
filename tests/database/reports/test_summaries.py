"""What is told of many jobs: efficiency, sizes, waits, a project's page.

Everything is compared with the same, computed from the jobs as OAR has them, by plain Python.
"""

import math
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from datetime import datetime
from itertools import product
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sqlalchemy import Engine, update

from oar_accounting import Accounting, UnknownName
from oar_accounting.ledger import schema
from oar_accounting.reports.records import SizeUse, Waiting
from oar_accounting.usage.job_keys import Sizes
from tests.database.reports.test_job_lists import (
    DEFAULT,
    FOUR,
    MOVE,
    SOME,
    Plain,
    lay,
    overlap,
    scratch,
)
from tests.database.reports.test_reports import open_amount
from tests.examples import examples
from tests.small_oar import DAY, HOUR, T0, Clock, SmallOar, opened, stopped_clock


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


# -- efficiency and sizes -----------------------------------------------------------------------

Parts = list[tuple[tuple[str, ...], int, int, bool]]  # group, asked, used, whether it used any


def parts_of(job: Plain, by: Sequence[str], metric: str, start: int, stop: int) -> Parts:
    """What a job asked for and used in ``[start, stop)`` by group, on each cluster."""
    stays = [(start, stop, "LIG" if job.user == "carol" else "")]
    if job.user == "alice":
        move = min(max(MOVE, start), stop)
        stays = [(start, move, "LIG"), (move, stop, "IRIG")]
    found = []
    for cluster, (begin, end, laboratory) in product(job.clusters, stays):
        names = {
            "user": job.user,
            "queue": job.queue,
            "size": job.label(),
            "cluster": cluster,
            "laboratory": laboratory,
        }
        held, seconds = job.held(metric, cluster), job.seconds(begin, end)
        asked = held * job.asked(begin, end)
        found.append((tuple(names[name] for name in by), asked, held * seconds, seconds > 0))
    return found


def summed(
    jobs: Sequence[Plain], by: Sequence[str], metric: str, start: int, stop: int
) -> dict[tuple[str, ...], tuple[int, int, int]]:
    """Jobs that used something, asked and used by group."""
    found: defaultdict[tuple[str, ...], list[int]] = defaultdict(lambda: [0, 0, 0])
    for job in jobs:
        parts = parts_of(job, by, metric, start, stop)
        for group in {group for group, *_, some in parts if some}:
            found[group][0] += 1
        for group, asked, used, _ in parts:
            found[group][1] += asked
            found[group][2] += used
    return {
        group: (number, asked, used)
        for group, (number, asked, used) in found.items()
        if asked or used
    }


EVER = (-(2**40), 2**40)


@pytest.mark.parametrize("by", [("user",), ("queue", "size"), ("cluster",), ("laboratory",), ()])
def test_efficiency_is_of_whole_jobs_that_ended_within_the_span(
    site: Accounting, by: tuple[str, ...]
) -> None:
    """A job on two clusters counts once in each; at the user's, once. Open ones never count."""
    spans: list[tuple[int | None, int | None]] = [
        (None, None),
        (T0 + HOUR, T0 + 2 * DAY + HOUR // 2),
        (T0 + HOUR + 1, T0 + 2 * DAY + HOUR // 2 + 1),
        (T0 + 12 * DAY, T0 + 12 * DAY + 1),
        (T0 + 7 * DAY, T0 + 12 * DAY),
    ]
    for start, stop in spans:
        a, b = (EVER[0] if start is None else start), (EVER[1] if stop is None else stop)
        ended = [job for job in SOME.values() if job.ran and not job.is_open and a <= job.stop < b]
        for metric in ("resource", "node"):
            rows = site.efficiency(by, (metric,), start, stop)
            found = {row.group: (row.jobs, row.asked, row.used) for row in rows}
            assert found == summed(ended, by, metric, *EVER)
            assert list(found) == sorted(found)
            for row in rows:
                assert (row.metric, row.unit, row.scale) == (metric, f"{metric}·s", 1)
                assert row.unused == row.asked - row.used
                assert row.share == (row.used / row.asked if row.asked else None)


def test_efficiency_of_some_jobs_only(site: Accounting) -> None:
    (row,) = site.efficiency((), ("resource",), where={"cluster": "beta", "user": "bob"})
    assert (row.jobs, row.asked, row.used, row.unused) == (1, 4 * HOUR, 6 * HOUR, -2 * HOUR)
    assert site.efficiency(where={"state": "Running"}) == []


@pytest.mark.parametrize("by", [(), ("user",), ("cluster",), ("laboratory", "queue")])
@pytest.mark.parametrize(
    ("start", "stop"),
    [(None, None), (T0 + 1_000, T0 + 8 * DAY + 7), (T0 + HOUR, T0 + DAY)],
)
def test_sizes_are_what_jobs_of_each_class_used_in_the_span(
    site: Accounting, by: tuple[str, ...], start: int | None, stop: int | None
) -> None:
    a, b = (EVER[0] if start is None else start), (EVER[1] if stop is None else stop)
    expected = summed(list(SOME.values()), (*by, "size"), "resource", a, b)
    found = site.sizes(by, ("resource",), start, stop)
    assert [(row.group, row.jobs, row.used) for row in found] == [
        (group, jobs, used) for group, (jobs, _, used) in sorted(expected.items()) if used
    ]


def test_sizes_of_other_bounds_and_another_metric(site: Accounting) -> None:
    """By nodes: bob's and alice's last jobs have two, carol's has two; all others have one."""
    found = site.sizes((), ("resource",), sizes=Sizes(metric="node", bounds=(1, 2, 3)))
    labels: Counter[str] = Counter()
    for job in SOME.values():
        if job.seconds(*EVER) and job.holds:
            labels[str(job.held("node"))] += 1
    assert {row.group[0]: row.jobs for row in found} == labels
    assert sum(row.used for row in found) == sum(
        job.held("resource") * job.seconds(*EVER) for job in SOME.values()
    )
    (running,) = site.sizes(where={"job": 6}, metrics=("resource",), as_of=FOUR + 350)
    assert running == SizeUse(
        group=("2-4",), jobs=1, metric="resource", unit="resource·s", scale=1, used=4 * 150
    )


# -- waits --------------------------------------------------------------------------------------


def nearest_rank(waits: Sequence[int], percent: int) -> int:
    """Of a list in ascending order the value at this rank, counted from one."""
    return sorted(waits)[math.ceil(len(waits) * percent / 100) - 1]


@st.composite
def waited(draw: st.DrawFn) -> tuple[str, int, int, int]:
    """Queue, cores, start in seconds from `T0`, and for how long a job had waited."""
    return (
        draw(st.sampled_from(["default", "besteffort"])),
        draw(st.sampled_from([1, 2, 4, 5, 8])),
        draw(st.integers(-DAY, DAY)),
        draw(st.one_of(st.integers(-500, 9), st.integers(0, 3 * DAY), st.sampled_from([60, 61]))),
    )


@settings(max_examples=examples(10))
@given(some=st.lists(waited(), max_size=25), begin=st.integers(-DAY, 0))
def test_waits_are_ranked_as_a_sorted_list_ranks_them(
    some: list[tuple[str, int, int, int]], begin: int
) -> None:
    labels = {1: "1", 2: "2-4", 4: "2-4", 5: "5-8", 8: "5-8"}
    expected: defaultdict[tuple[str, ...], list[int]] = defaultdict(list)
    with scratch() as engine:
        oar = SmallOar(engine)
        for queue, cores, start, wait in some:
            at = T0 + start
            oar.add_job(queue=queue, cores=cores, start=at, submission=at - wait)
            if begin <= start < DAY:
                expected[queue, labels[cores]].append(max(wait, 0))
        site = opened(engine)
        site.catch_up()
        found = site.waiting(start=T0 + begin, stop=T0 + DAY)
        assert found == [
            Waiting(
                group=group,
                jobs=len(waits),
                mean=sum(waits) // len(waits),
                median=nearest_rank(waits, 50),
                percentile_90=nearest_rank(waits, 90),
                longest=max(waits),
            )
            for group, waits in sorted(expected.items())
        ]
        site.close()


def test_waits_by_other_keys_on_every_database(site: Accounting) -> None:
    """Only of jobs that held something; a start before the submission is no wait."""
    started = [job for job in SOME.values() if job.ran and job.reservation == "None"]
    for by, name in ((("user",), "user"), (("state",), "state"), ((), None)):
        waits: defaultdict[tuple[str, ...], list[int]] = defaultdict(list)
        for job in started:
            group = () if name is None else (getattr(job, name),)
            waits[group].append(max(job.start - job.submitted, 0))
        assert {
            each.group: (each.jobs, each.median, each.longest) for each in site.waiting(by)
        } == {group: (len(w), nearest_rank(w, 50), max(w)) for group, w in waits.items()}
    # Alice's first job started at LIG, the others after her move.
    assert {each.group[0]: each.jobs for each in site.waiting(("laboratory",))} == {
        "": 3,
        "IRIG": 2,
        "LIG": 2,
    }
    (late,) = site.waiting((), where={"project": "l'eau"})
    assert (late.jobs, late.mean, late.longest) == (1, 0, 0)
    assert site.waiting(where={"user": "dave"}) == []


def test_an_advance_reservation_did_not_wait(engine: Engine) -> None:
    oar = SmallOar(engine)
    oar.add_job(submission=T0 - 60)
    for job, promised in ((2, "Scheduled"), (3, "None")):
        oar.add_job(submission=T0 - 5 * DAY)
        oar.update_job(job, reservation=promised)
    site = opened(engine)
    site.catch_up()
    (found,) = site.waiting(())
    assert (found.jobs, found.median, found.longest) == (2, 60, 5 * DAY)
    # What an earlier version recorded is not known to be one.
    with engine.begin() as connection:
        connection.execute(update(schema.jobs).values(reservation=None))
    assert site.waiting(())[0].jobs == 3


def test_what_never_ran_did_not_wait_for_its_start(engine: Engine) -> None:
    """Also once purged. The inner job ran, though its container is billed for it."""
    oar = SmallOar(engine)
    given_up = oar.add_job(state="Error", submission=T0 - 5 * DAY, stop=T0 + 100)
    oar.add_state(given_up, "Launching", T0, T0 + 100)
    failed = oar.add_job(state="Error", submission=T0 - 60)
    oar.add_state(failed, "Launching", T0, T0 + 5)
    oar.add_state(failed, "Running", T0 + 5, T0 + HOUR)
    container = oar.add_job(submission=T0 - 60, types=["container"])
    oar.add_job(submission=T0 - 30, cores=4, state="Error", types=["x", f"inner={container}"])
    site = opened(engine)
    site.catch_up()
    waits = [(each.jobs, each.median, each.longest) for each in site.waiting(())]
    assert waits == [(3, 60, 60)]
    assert site.purge(T0 + 2 * DAY)[1] == 4
    assert [(each.jobs, each.median, each.longest) for each in site.waiting(())] == waits


# -- a project ----------------------------------------------------------------------------------

PARIS = ZoneInfo("Europe/Paris")


def paris(*local: int) -> int:
    """Epoch seconds of a date, and a time, by the clocks of Paris."""
    return int(datetime(*local, tzinfo=PARIS).timestamp())  # type: ignore[misc,arg-type]


#: User, cores, start and length; the last but one is over the end of February of a leap year.
PROJECT_JOBS = (
    ("alice", 1, paris(2023, 2, 28, 22), 4 * HOUR),
    ("bob", 2, paris(2023, 3, 1, 11), 3 * HOUR),
    ("dave", 8, paris(2023, 3, 31, 23), 2 * HOUR),
    ("alice", 4, paris(2024, 2, 28, 23), 2 * HOUR),
    ("bob", 3, paris(2024, 2, 29, 10), 20 * HOUR),
    ("alice", 1, paris(2024, 3, 31, 1), 2 * HOUR),
)


@pytest.fixture
def project(engine: Engine, clock: Clock) -> Accounting:
    """A project of two years, another one, and an opening amount of carol's."""
    clock.now = paris(2024, 6, 1)
    oar = SmallOar(engine)
    for user, cores, start, length in PROJECT_JOBS:
        oar.add_job(user=user, cores=cores, start=start, stop=start + length, walltime=DAY)
    oar.add_job(project="other", cores=8, start=paris(2024, 3, 5))
    site = opened(engine, 'timezone = "Europe/Paris"\n')
    assert site.catch_up().problems == ()
    open_amount(site, "carol", (paris(2023, 2, 10), paris(2023, 2, 11)), (99, 1_000))
    return site


def used_in(start: int, stop: int, user: str | None = None) -> int:
    """What members of the project used there, by user; carol's amount lies within a day."""
    used = sum(
        cores * overlap(begin, begin + length, start, stop)
        for name, cores, begin, length in PROJECT_JOBS
        if user in (None, name)
    )
    opening = start <= paris(2023, 2, 10) and paris(2023, 2, 11) <= stop
    return used + (1_000 if opening and user in (None, "carol") else 0)


def test_a_project_month_by_month_beside_the_year_before(project: Accounting) -> None:
    """Its members too: carol and dave used something a year before only."""
    start, stop = paris(2024, 2, 1), paris(2024, 5, 1)
    report = project.project(DEFAULT, "resource", start, stop)
    bounds = [(y, m) for y in (2024, 2023) for m in (2, 3, 4, 5)]
    at = {(y, m): paris(y, m, 1) for y, m in bounds}
    assert [(m.label, m.start, m.stop, m.used, m.before) for m in report.months] == [
        (
            f"2024-0{m}",
            at[2024, m],
            at[2024, m + 1],
            used_in(at[2024, m], at[2024, m + 1]),
            used_in(at[2023, m], at[2023, m + 1]),
        )
        for m in (2, 3, 4)
    ]
    year = (at[2023, 2], at[2023, 5])
    assert [(each.user, each.jobs, each.used, each.before) for each in report.members] == [
        (user, jobs, used_in(start, stop, user), used_in(*year, user))
        for user, jobs in (("bob", 1), ("alice", 2), ("dave", 0), ("carol", 0))
    ]
    assert [each.asked for each in report.members] == [3 * DAY, 5 * DAY, 0, 0]
    assert sum(m.used for m in report.months) == sum(m.used for m in report.members)
    assert sum(m.before for m in report.months) == sum(m.before for m in report.members)
    assert (report.project, report.metric, report.unit, report.timezone) == (
        DEFAULT,
        "resource",
        "resource·s",
        "Europe/Paris",
    )
    with pytest.raises(UnknownName, match="project 'defualt' is not recorded; did you mean 'defa"):
        project.project("defualt", "resource", start, stop)


@pytest.mark.parametrize(
    ("start", "stop", "months"),
    [
        # The year before has no such day: the first month has nothing to stand beside it.
        ((2024, 2, 29), (2024, 4, 1), [(None, None), ((2023, 3, 1), (2023, 4, 1))]),
        ((2024, 2, 29, 12), (2024, 4, 1), [(None, None), ((2023, 3, 1), (2023, 4, 1))]),
        # It ends where February ends there.
        ((2024, 2, 1), (2024, 2, 29), [((2023, 2, 1), (2023, 3, 1))]),
        ((2024, 2, 1), (2024, 2, 29, 12), [((2023, 2, 1), (2023, 3, 1))]),
        ((2024, 2, 29), (2024, 3, 1), [(None, None)]),
        ((2024, 2, 29, 3), (2024, 2, 29, 4), [(None, None)]),
        ((2024, 3, 1, 11), (2024, 3, 1, 13), [((2023, 3, 1, 11), (2023, 3, 1, 13))]),
    ],
)
def test_a_leap_day_has_none_a_year_before(
    project: Accounting, start: Any, stop: Any, months: list[Any]
) -> None:
    report = project.project(DEFAULT, "resource", paris(*start), paris(*stop))
    expected = [0 if a is None else used_in(paris(*a), paris(*b)) for a, b in months]
    assert [month.before for month in report.months] == expected
    assert sum(month.used for month in report.months) == used_in(paris(*start), paris(*stop))
    assert sum(each.before for each in report.members) == sum(expected)
    assert sum(each.used for each in report.members) == used_in(paris(*start), paris(*stop))

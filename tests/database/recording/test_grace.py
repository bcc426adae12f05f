"""Jobs that OAR never saw end, or saw end in the future: what counts of them, and who is told."""

from collections.abc import Iterator

import pytest
from sqlalchemy import Engine, select

from oar_accounting import Accounting
from oar_accounting.health.records import Finding
from oar_accounting.ledger import schema
from tests.small_oar import DAY, HOUR, NOW, T0, Clock, Recorded, SmallOar, opened, stopped_clock

GRACE = "grace = 3600\n"
YEAR = 365 * DAY
KARMA = """
[karma]
policy = "linear"
window = "30d"
[[karma.terms]]
by = "user"
metric = "resource"
"""


@pytest.fixture
def clock() -> Iterator[Clock]:
    with stopped_clock() as stopped:
        yield stopped


@pytest.fixture
def oar(engine: Engine, clock: Clock) -> SmallOar:
    """A job that was Running for 700 days at two hours, one that ends in 12 years, and another."""
    oar = SmallOar(engine)
    oar.add_job(user="runaway", start=NOW - 700 * DAY, state="Running")
    oar.add_job(user="future", stop=T0 + 12 * YEAR)
    oar.add_job(user="honest", stop=T0 + 2 * HOUR + 600)
    return oar


def used(accounting: Accounting, as_of: int | None = NOW) -> dict[str, int]:
    """The hours that each user has used eight cores."""
    rows = accounting.usage(("user",), ("resource",), as_of=as_of).rows
    return {row.group[0]: row.used // (8 * HOUR) for row in rows}


def asked(accounting: Accounting) -> dict[str, int]:
    """The hours for which each user has asked for them."""
    rows = accounting.usage(("user",), ("resource",), as_of=NOW).rows
    return {row.group[0]: row.asked // (8 * HOUR) for row in rows}


def test_by_default_what_oar_says_counts(oar: SmallOar, engine: Engine) -> None:
    accounting = opened(engine)
    accounting.catch_up()
    assert used(accounting, None) == {"future": 12 * 365 * 24, "honest": 2}
    assert used(accounting)["runaway"] == 700 * 24


def test_with_a_grace_a_job_counts_for_no_more_than_its_walltime_and_that(
    oar: SmallOar, engine: Engine, clock: Clock
) -> None:
    accounting = opened(engine, GRACE)
    assert accounting.catch_up().problems == ()
    assert used(accounting, None) == {"future": 3, "honest": 2}
    assert used(accounting) == {"runaway": 3, "future": 3, "honest": 2}
    assert asked(accounting) == {"runaway": 2, "future": 2, "honest": 2}
    assert accounting.verify() == []
    oar.update_job(1, state="Error", stop_time=NOW)
    clock.now = NOW + 60
    accounting.catch_up()
    assert used(accounting, None)["runaway"] == 3
    assert accounting.verify() == []


def test_a_job_that_runs_counts_until_now_and_no_further(
    oar: SmallOar, engine: Engine, clock: Clock
) -> None:
    job = oar.add_job(user="new", start=NOW - HOUR, state="Running")
    accounting = opened(engine, GRACE)
    accounting.catch_up()
    assert [used(accounting, NOW + hours * HOUR)["new"] for hours in range(4)] == [1, 2, 3, 3]
    # OAR has deleted it: it was there up to the last pass.
    oar.remove_job(job)
    clock.now = NOW + HOUR
    accounting.catch_up()
    assert used(accounting, None)["new"] == 1
    assert accounting.verify() == []


def test_what_was_suspended_is_not_used_of_the_walltime(oar: SmallOar, engine: Engine) -> None:
    end = T0 + DAY + 4 * HOUR
    oar.add_job(user="asleep", stop=end, pauses=[(T0 + HOUR, T0 + DAY, T0 + DAY)])
    accounting = opened(engine, GRACE)
    accounting.catch_up()
    assert used(accounting)["asleep"] == 3
    assert Recorded(accounting).spans(4) == [(T0, T0 + HOUR), (T0 + DAY, T0 + DAY + 2 * HOUR)]


def test_karma_is_bounded_likewise_before_a_pass_and_after(oar: SmallOar, engine: Engine) -> None:
    for user in ("runaway", "honest"):
        oar.add_job(user=user, state="Waiting", start=0, moldable=False)
    plain = opened(engine, KARMA, site="plain")
    plain.catch_up()
    karma = {job.user: job.karma for job in plain.karma(now=NOW)}
    assert karma["runaway"] > 0.9
    accounting = opened(engine, GRACE + KARMA)
    accounting.catch_up()
    assert {job.user: job.karma for job in accounting.karma(now=NOW)}["runaway"] < 0.01
    oar.add_job(user="late", start=NOW - 9 * DAY, state="Running")
    unposted = [(job.job_id, job.karma) for job in accounting.karma(now=NOW)]
    accounting.catch_up()
    assert [(job.job_id, job.karma) for job in accounting.karma(now=NOW)] == unposted


def test_a_rebuild_switches_there_and_back(oar: SmallOar, engine: Engine) -> None:
    accounting = opened(engine)
    accounting.catch_up()
    before = Recorded(accounting).everything()
    bounded = opened(engine, GRACE)
    (notice,) = bounded.catch_up().notices
    assert notice.startswith("grace is 3600 s in the settings, left out as recorded")
    assert used(bounded, None)["future"] == 12 * 365 * 24
    bounded.rebuild(from_oar=True)
    assert used(bounded) == {"runaway": 3, "future": 3, "honest": 2}
    assert bounded.catch_up().notices == ()
    with engine.connect() as connection:
        assert connection.scalar(select(schema.sites.c.grace)) == 3600
    opened(engine).rebuild(from_oar=True)
    assert Recorded(accounting).everything() == before


def test_a_job_that_had_ended_and_that_oar_deleted_keeps_what_it_used(
    engine: Engine, clock: Clock
) -> None:
    """It was recorded by the hook, after the last pass."""
    oar = SmallOar(engine)
    accounting = opened(engine, GRACE)
    accounting.catch_up()
    start = NOW + 100
    job = oar.add_job(user="bob", state="Finishing", start=start, stop=start + HOUR)
    oar.add_state(job, "Launching", start, start + 5)
    oar.add_state(job, "Running", start + 5, start + HOUR)
    clock.now = start + HOUR + 1
    accounting.record([job])
    assert used(accounting, None) == {"bob": 1}
    oar.remove_job(job)
    accounting.catch_up()
    assert used(accounting, None) == {"bob": 1}


def test_a_runaway_that_oar_deleted_keeps_no_more_than_it_may_use(
    engine: Engine, clock: Clock
) -> None:
    oar = SmallOar(engine)
    job = oar.add_job(user="bob", state="Running", start=NOW - 9 * HOUR)
    accounting = opened(engine, "grace = 60\n")
    accounting.catch_up()
    oar.remove_job(job)
    clock.now = NOW + DAY
    accounting.catch_up()
    (row,) = accounting.efficiency(("user",), ("resource",), start=NOW - DAY, stop=NOW + DAY)
    assert (row.group, row.used) == (("bob",), 8 * (2 * HOUR + 60))


@pytest.mark.parametrize("grace", [0, 600, 3600])
def test_reports_tell_of_jobs_past_their_walltime_whatever_the_grace(
    oar: SmallOar, engine: Engine, grace: int
) -> None:
    accounting = opened(engine, f"grace = {grace}\n")
    accounting.catch_up()
    found = accounting.coverage(("user",), as_of=NOW)
    assert found.overdue_jobs == 1
    said = f"1 open job is past its walltime: counted for no more than that and {grace} s"
    assert said in found.notes()


# -- what the doctor says -------------------------------------------------------------------------


SUBJECTS = ("runaway jobs", "ends in future")


def told(accounting: Accounting) -> dict[str, Finding]:
    """What the doctor says of jobs at times that cannot be."""
    findings = accounting.doctor().findings
    return {each.subject: each for each in findings if each.subject in SUBJECTS}


def test_the_doctor_names_them_with_what_helps(oar: SmallOar, engine: Engine) -> None:
    accounting = opened(engine)
    accounting.catch_up()
    found = told(accounting)
    assert list(found) == ["runaway jobs", "ends in future"]
    runaway, future = found.values()
    assert (
        "job 1: OAR has shown job 1 as Running for 700 days, with a walltime of 2:00:00"
        in runaway.said
    )
    assert "grace = 3600 in small_oar.toml" in runaway.said
    assert (runaway.level, runaway.mend) == ("warning", "oardel 1")
    assert (
        "job 2 ended on 2035-11-11 00:00:00 UTC, in 4378 days; they count as OAR says"
        in future.said
    )
    assert future.mend == "editor small_oar.toml && oar-accounting rebuild --from-oar"


def test_with_a_grace_the_doctor_says_what_counts(oar: SmallOar, engine: Engine) -> None:
    accounting = opened(engine, GRACE)
    accounting.catch_up()
    runaway, future = told(accounting).values()
    for each in (runaway, future):
        assert "for at most their walltime plus 3600 s" in each.said
    assert (runaway.level, future.level) == ("warning", "good")


def test_jobs_that_are_stuck_in_finishing_have_a_command_of_their_own(
    oar: SmallOar, engine: Engine
) -> None:
    for _ in range(6):
        oar.add_job(start=NOW - 9 * DAY, state="Finishing")
    found = told(opened(engine))["runaway jobs"]
    assert "jobs 1, 4, 5, 6, 7 and 2 more: " in found.said
    assert found.mend == "oardel 1 && oardel --force-terminate-finishing-job 4 5 6 7 8"


def test_what_may_be_is_no_finding(engine: Engine, clock: Clock) -> None:
    oar = SmallOar(engine)
    long_ago = NOW - 9 * DAY
    oar.add_job(state="Running", start=NOW - DAY)
    oar.add_job(state="Suspended", start=long_ago, pauses=[(long_ago + HOUR, 0)])
    oar.add_job(state="Waiting", start=long_ago)
    oar.add_job(state="Finishing", start=long_ago, stop=long_ago + HOUR)
    oar.add_job(stop=NOW + 600)
    oar.add_job(state="Error", start=NOW + DAY, stop=NOW + DAY)
    oar.add_job(state="Running", start=long_ago, walltime=9 * DAY)
    assert told(opened(engine)) == {}
    oar.update_job(7, walltime=7 * DAY)
    assert list(told(opened(engine))) == ["runaway jobs"]


def test_a_job_of_unknown_walltime_is_never_past_it(engine: Engine, clock: Clock) -> None:
    oar = SmallOar(engine)
    oar.add_job(user="bob", state="Running", start=NOW - 9 * HOUR, walltime=0)
    accounting = opened(engine)
    accounting.catch_up()
    assert accounting.coverage().overdue_jobs == 0

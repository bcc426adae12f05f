"""Problems stand until they are gone, and are listed with what helps."""

import csv
import io
import json
from collections.abc import Iterator
from typing import Any

import pytest
from click.testing import Result
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import Engine, delete, inspect, select, update

from oar_accounting import Accounting, StandingProblem
from oar_accounting.cli.app import main
from oar_accounting.core.columns import ints
from oar_accounting.core.problems import Code, Trouble, what_helps
from oar_accounting.ledger import problems, schema
from oar_accounting.oar import oar_tables
from tests.examples import examples
from tests.runner import runner
from tests.small_oar import DAY, HOUR, NOW, T0, Clock, Recorded, SmallOar, opened, stopped_clock

on_sqlite = pytest.mark.databases("sqlite")


@pytest.fixture(autouse=True)
def clock() -> Iterator[Clock]:
    """The verbs' clock stands at `NOW`."""
    with stopped_clock() as stopped:
        yield stopped


def listed(accounting: Accounting) -> set[tuple[str, str, str]]:
    """Kind, subject and code of what stands."""
    return {(each.kind, each.subject, each.code) for each in accounting.problems()}


def remove_resource(engine: Engine, number: int) -> None:
    """As ``oarremoveresource`` does."""
    table = oar_tables.resources
    with engine.begin() as connection:
        connection.execute(delete(table).where(table.c.resource_id == number))


def test_a_problem_stands_until_the_job_is_recorded_without_it(
    engine: Engine, clock: Clock
) -> None:
    oar = SmallOar(engine)
    wrong = oar.add_job(cores=1, stop=T0 - 1)
    oar.add_job(cores=1)
    accounting = opened(engine)
    accounting.catch_up()
    (found,) = accounting.problems()
    assert found == StandingProblem(
        kind="job",
        subject=str(wrong),
        code="impossible-times",
        message=f"stop_time {T0 - 1} is before {T0}",
        first_seen=NOW,
        last_seen=NOW,
        helps="correct the times in OAR, then",
        command=f"oar-accounting record {wrong}",
    )
    clock.now += HOUR
    assert accounting.catch_up().problems == ()
    assert accounting.problems() == [found]
    # Looked at again, it is found again.
    accounting.record([wrong])
    (again,) = accounting.problems()
    assert (again.first_seen, again.last_seen) == (NOW, NOW + HOUR)
    oar.update_job(wrong, stop_time=T0 + 1)
    accounting.catch_up()
    assert accounting.problems() == []


def test_a_job_may_have_several_problems(engine: Engine) -> None:
    oar = SmallOar(engine)
    job = oar.add_job(resources=[1, 2], stop=T0 - 1)
    remove_resource(engine, 2)
    accounting = opened(engine)
    (problem,) = accounting.catch_up().problems
    assert listed(accounting) == {
        ("job", str(job), "removed-resource"),
        ("job", str(job), "impossible-times"),
    }
    assert problem.reason == (
        "was assigned a resource that OAR has removed; the others are recorded; "
        f"stop_time {T0 - 1} is before {T0}"
    )
    oar.update_job(job, stop_time=T0 + 1)
    accounting.catch_up()
    assert listed(accounting) == {("job", str(job), "removed-resource")}


def test_a_job_that_oar_deleted_keeps_its_problem_until_it_is_dismissed(
    engine: Engine, clock: Clock
) -> None:
    oar = SmallOar(engine)
    job, other = oar.add_job(state="Running"), oar.add_job(stop=T0 - 1)
    accounting = opened(engine)
    accounting.catch_up()
    oar.remove_job(job)
    clock.now += HOUR
    accounting.catch_up()
    accounting.catch_up(full=True)
    assert ("job", str(job), "vanished") in listed(accounting)
    assert accounting.dismiss_problems([job, 4711]) == 1
    assert listed(accounting) == {("job", str(other), "impossible-times")}
    accounting.catch_up(full=True)
    assert listed(accounting) == {("job", str(other), "impossible-times")}


def test_problems_of_retired_and_purged_jobs_go(engine: Engine, clock: Clock) -> None:
    oar = SmallOar(engine)
    early, late = oar.add_job(resources=[1, 2]), oar.add_job(resources=[1, 2])
    remove_resource(engine, 2)
    accounting = opened(engine)
    accounting.catch_up()
    assert {subject for _, subject, _ in listed(accounting)} == {str(early), str(late)}
    oar.remove_job(late)
    accounting.retire(late)
    assert {subject for _, subject, _ in listed(accounting)} == {str(early)}
    clock.now = T0 + 60 * DAY
    accounting.catch_up()
    accounting.purge(T0 + 30 * DAY)
    assert accounting.problems() == []


@on_sqlite
def test_a_pass_that_fails_leaves_no_problem_of_what_it_did_not_record(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    oar = SmallOar(engine)
    oar.add_job(stop=T0 - 1)
    accounting = opened(engine)

    def fails(*_: Any) -> None:
        raise MemoryError

    with monkeypatch.context() as patch:
        patch.setattr("oar_accounting.recording.passes.Pass._count", fails)
        with pytest.raises(MemoryError):
            accounting.catch_up()
    assert accounting.problems() == []
    accounting.catch_up()
    assert len(accounting.problems()) == 1


@on_sqlite
def test_what_is_wrong_with_a_metric_goes_when_that_metric_is_filled(engine: Engine) -> None:
    oar = SmallOar(engine)
    job = oar.add_job(cores=8)
    core = "[metrics.core]\nunit = 'core.s'\ndistinct = 'core'\n"
    rest = "[metrics.{}]\nunit = 'core.s'\nformula = '{} [core] - core'\n"
    accounting = opened(engine, core + rest.format("few", 3) + rest.format("less", 2))
    accounting.catch_up()
    (found,) = accounting.problems()
    assert (found.code, found.message.count("less than zero")) == ("below-zero", 2)
    accounting = opened(engine, core + rest.format("few", 30) + rest.format("less", 2))
    accounting.rebuild(metric="few")
    (found,) = accounting.problems()
    assert found.message == "metric less: its formula gives less than zero; counted as zero"
    accounting.rebuild(metric="less", from_oar=True)
    assert [each.message for each in accounting.problems()] == [found.message]
    accounting = opened(engine, core + rest.format("few", 30) + rest.format("less", 20))
    accounting.rebuild(metric="less")
    assert accounting.problems() == []
    assert Recorded(accounting).rates(job)["less"] == 12


def run(engine: Engine, *words: str) -> Result:
    """The command on the site that `opened` opens."""
    url = engine.url.render_as_string(hide_password=False)
    return runner().invoke(main, ["--config", "small_oar.toml", "--url", url, *words])


def test_problems_are_listed(engine: Engine, clock: Clock) -> None:
    oar = SmallOar(engine)
    accounting = opened(engine)
    accounting.catch_up()
    shown = run(engine, "problems")
    assert (shown.exit_code, shown.stdout) == (0, "there are no problems\n")
    assert json.loads(run(engine, "problems", "--json").stdout) == []
    # Ten is behind nine.
    jobs = [oar.add_job(stop=T0 - 1) for _ in range(10)]
    accounting.catch_up()
    shown = run(engine, "problems")
    assert shown.exit_code == 1
    lines = [line.split("  ")[0] for line in shown.stdout.splitlines()]
    assert lines[1:] == [f"job {job}" for job in jobs]
    assert f"correct the times in OAR, then: oar-accounting record {jobs[0]}" in shown.stdout
    objects = json.loads(run(engine, "problems", "--json").stdout)
    assert [each["subject"] for each in objects] == [str(job) for job in jobs]
    rows = list(csv.DictReader(io.StringIO(run(engine, "problems", "--csv").stdout)))
    assert rows == [{key: str(value) for key, value in each.items()} for each in objects]
    dismissed = run(engine, "problems", "--dismiss", str(jobs[0]), "--dismiss", str(jobs[1]))
    assert (dismissed.exit_code, dismissed.stdout) == (0, "2 problems dismissed\n")
    assert len(accounting.problems()) == 8
    wrong = run(engine, "problems", "--dismiss", "impossible-time")
    assert (wrong.exit_code, "there is no problem 'impossible-time'" in wrong.stderr) == (2, True)
    assert run(engine, "problems", "--dismiss", "vanished").stdout == "0 problems dismissed\n"
    assert run(engine, "problems", "--dismiss", "impossible-times").stdout.startswith("8 ")
    assert accounting.problems() == []


@pytest.mark.parametrize("kind", ["job", "resource"])
@pytest.mark.parametrize("code", list(Code))
def test_every_problem_of_a_job_has_help(code: Code, kind: str) -> None:
    assert len(code.value) <= 32
    first, command = what_helps(kind, "4711", code.value)
    if kind == "job":
        assert first
        assert command.startswith("oar-accounting ")
    assert "{" not in first + command


@on_sqlite
def test_a_problem_of_a_later_version_is_shown_as_it_is(engine: Engine) -> None:
    oar = SmallOar(engine)
    oar.add_job(stop=T0 - 1)
    accounting = opened(engine)
    accounting.catch_up()
    with engine.begin() as connection:
        connection.execute(update(schema.problems).values(kind="metric", code="unheard-of"))
        assert connection.execute(select(schema.problems)).first() is not None
    (found,) = accounting.problems()
    assert (found.code, found.helps, found.command) == ("unheard-of", "", "")


# -- bad values -------------------------------------------------------------------------------

POWER = """
[metrics.power]
sum = "power"
unit = "W.s"
[metrics.twice]
formula = "2 * power"
unit = "W.s"
"""


@pytest.mark.parametrize("value", ["128 GB", "-1", "nan", "1e400"])
def test_a_bad_value_is_a_problem_of_its_resource_and_everything_is_recorded(
    engine: Engine, clock: Clock, value: str
) -> None:
    oar = SmallOar(engine)
    oar.set_resource(1, power="100")
    oar.set_resource(8, power=value)
    job = oar.add_job(resources=[1, 2])
    accounting = opened(engine, POWER)
    report = accounting.catch_up()
    said = f"property 'power' is {value!r}, no number from 0 to 2^63; counted as nothing"
    assert report.notices == (f"resource 8: metric power: {said}; metric twice: {said}",)
    assert report.problems == ()
    assert Recorded(accounting).rates(job) == {"resource": 2, "node": 1, "power": 100, "twice": 200}
    assert listed(accounting) == {("resource", "8", "bad-value")}
    # It stands until a pass sees it mended, also one that has nothing to record.
    clock.now += HOUR
    accounting.catch_up()
    assert listed(accounting) == {("resource", "8", "bad-value")}
    oar.set_resource(8, power="50")
    accounting.catch_up()
    assert accounting.problems() == []
    assert accounting.verify() == []


def test_a_job_that_holds_a_bad_value_is_recorded_without_it_until_it_is_mended(
    engine: Engine, clock: Clock
) -> None:
    oar = SmallOar(engine)
    for number in (1, 4):
        oar.set_resource(number, power="100")
    for number in (2, 3):
        oar.set_resource(number, power="-1")
    good, bad = oar.add_job(resources=[1]), oar.add_job(resources=[1, 2, 3, 4])
    accounting = opened(engine, POWER)
    (problem,) = accounting.catch_up().problems
    said = "resource 2: property 'power' is '-1', no number from 0 to 2^63, and 1 more such; "
    assert problem.job_id == bad
    assert problem.reason == (
        f"metric power: {said}counted as nothing; metric twice: {said}counted as nothing"
    )
    site = Recorded(accounting)
    assert site.rates(good) == {"resource": 1, "node": 1, "power": 100, "twice": 200}
    assert site.rates(bad) == {"resource": 4, "node": 1, "power": 200, "twice": 400}
    jobs = ("job", str(bad), "bad-value")
    assert listed(accounting) == {
        jobs,
        ("resource", "2", "bad-value"),
        ("resource", "3", "bad-value"),
    }
    for number in (2, 3):
        oar.set_resource(number, power="7")
    # One metric is filled, and the other is not yet.
    accounting.rebuild(metric="power", from_oar=True)
    assert site.rates(bad)["power"] == 214
    (left,) = accounting.problems()
    assert left.message == f"metric twice: {said}counted as nothing"
    assert left.command == f"oar-accounting record {bad}"
    accounting.record([bad])
    assert accounting.problems() == []
    assert site.rates(bad) == {"resource": 4, "node": 1, "power": 214, "twice": 428}
    assert accounting.verify() == []


@on_sqlite
def test_a_rate_that_does_not_fit_is_left_out_of_that_metric_of_that_job(engine: Engine) -> None:
    oar = SmallOar(engine)
    for number in (1, 2):
        oar.set_resource(number, power=str(2**62))
    oar.set_resource(3, power="5")
    beyond, good = oar.add_job(resources=[1, 2, 3]), oar.add_job(resources=[3])
    accounting = opened(engine, POWER)
    (problem,) = accounting.catch_up().problems
    assert problem.job_id == beyond
    assert "metric power: what it holds each second does not fit in 63 bits" in problem.reason
    site = Recorded(accounting)
    assert site.rates(beyond) == {"resource": 3, "node": 1}
    assert site.rates(good) == {"resource": 1, "node": 1, "power": 5, "twice": 10}
    assert {code for _, _, code in listed(accounting)} == {"too-large"}


KARMA = (
    '[karma]\npolicy = "linear"\nhalf_life = "7d"\n'
    '[[karma.terms]]\nmetric = "power"\nby = "user"\n',
    '[karma]\npolicy = "dominant"\nmetrics = ["power", "node"]\nwindow = "9d"\n',
)


def test_karma_and_utilisation_do_without_a_bad_value(engine: Engine, clock: Clock) -> None:
    oar = SmallOar(engine)
    for number in range(1, 9):
        oar.set_resource(number, power="100" if number < 8 else "a lot")
        oar.log_resource(number, "Alive", T0)
    oar.add_job(resources=[7, 8])
    oar.add_job(resources=[7, 8], state="Running")
    waiting = oar.add_job(state="Waiting", start=0, moldable=False)
    accounting = opened(engine, POWER)
    accounting.catch_up()
    (row,) = accounting.utilisation(("power",), T0, NOW).rows
    assert row.capacity == 700 * (NOW - T0)
    for karma in KARMA:
        accounting = opened(engine, POWER + karma)
        assert accounting.karma().job_id.tolist() == [waiting]


# -- the law ----------------------------------------------------------------------------------

JOBS = st.sets(st.integers(1, 6), max_size=4)
FOUND = st.dictionaries(
    st.integers(1, 6),
    st.lists(st.tuples(st.sampled_from(list(Code)[:3]), st.sampled_from(["a", "b"])), min_size=1),
    max_size=4,
)


@on_sqlite
@settings(max_examples=examples(30), suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(passes=st.lists(st.tuples(JOBS, FOUND), max_size=6))
def test_what_stands_is_what_was_found_last_where_it_was_looked_for(
    engine: Engine, passes: list[tuple[set[int], dict[int, list[tuple[Code, str]]]]]
) -> None:
    if not inspect(engine).has_table("jobs"):
        SmallOar(engine)
        opened(engine).catch_up()
    expected: dict[tuple[str, str], tuple[str, int, int]] = {}
    with engine.connect() as connection:
        connection.execute(delete(schema.problems))
        for now, (settled, found) in enumerate(passes):
            troubles = {job: [Trouble(*each) for each in some] for job, some in found.items()}
            problems.note_settled(connection, 1, now, ints(sorted(settled)), troubles)
            lines: dict[tuple[str, str], list[str]] = {}
            for job, some in found.items():
                for code, said in some:
                    lines.setdefault((str(job), code.value), []).append(said)
            stay = {k: v for k, v in expected.items() if int(k[0]) not in settled}
            new = {
                key: ("; ".join(dict.fromkeys(said)), expected.get(key, ("", now))[1], now)
                for key, said in lines.items()
            }
            expected = stay | new
        standing = problems.standing_problems(connection, 1)
        assert problems.count_problems(connection, 1) == len(standing)
        connection.rollback()
    assert {
        (each.subject, each.code): (each.message, each.first_seen, each.last_seen)
        for each in standing
    } == expected

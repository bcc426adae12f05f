"""Problems stand until they are gone, and are listed with what helps."""

import csv
import io
import json
from collections.abc import Iterator
from typing import Any

import pytest
from click.testing import CliRunner
from sqlalchemy import Engine, delete, select, update

from oar_accounting import Accounting, StandingProblem
from oar_accounting.cli.app import main
from oar_accounting.core.problems import Code, what_helps
from oar_accounting.ledger import schema
from oar_accounting.oar import oar_tables
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


def run(engine: Engine, *words: str) -> Any:
    """The command on the site that `opened` opens."""
    url = engine.url.render_as_string(hide_password=False)
    return CliRunner().invoke(main, ["--config", "small_oar.toml", "--url", url, *words])


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
    assert run(engine, "problems", "--dismiss", str(jobs[0])).exit_code == 0
    assert len(accounting.problems()) == 9


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

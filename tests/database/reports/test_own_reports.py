"""What ordinary users are told of usage: their own, their projects' as a whole, and no more."""

import json
import pwd
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from sqlalchemy import Engine

from oar_accounting import Accounting, UnknownName
from oar_accounting.cli import own
from oar_accounting.settings.load import load_settings
from tests.servers import Database
from tests.small_oar import DAY, HOUR, T0, Clock, SmallOar, opened, stopped_clock

SECRET_PEOPLE = ("carol", "secretive")


@pytest.fixture(autouse=True)
def clock() -> Iterator[Clock]:
    """The verbs' clock stands still, some days after the jobs."""
    with stopped_clock() as stopped:
        stopped.now = T0 + 9 * DAY
        yield stopped


@pytest.fixture
def site(engine: Engine) -> Accounting:
    """alice and carol in a project, carol alone in another, alice in one where she used nothing."""
    oar = SmallOar(engine)
    oar.add_job(user="alice", project="shared", cores=1, start=T0)
    oar.add_job(user="carol", project="shared", cores=4, start=T0 + 60)
    oar.add_job(user="carol", project="secretive", cores=8, start=T0 + 60)
    oar.add_job(user="alice", project="secretive", cores=1, start=T0, stop=T0, state="Error")
    oar.add_job(user="alice", project="shared", cores=2, start=T0 + DAY, state="Running")
    oar.add_job(user="carol", project="shared", cores=2, start=T0 + DAY, state="Running")
    accounting = opened(engine)
    accounting.catch_up()
    return accounting


def test_users_are_told_of_their_own_usage(site: Accounting) -> None:
    mine = site.reports_for("alice")
    report = mine.usage(("project", "user"), metrics=("resource",))
    assert [(row.group, row.used) for row in report.rows] == [(("shared", "alice"), HOUR)]
    assert report.open_jobs == 1
    assert [job.job_id for job in mine.jobs().jobs] == [1, 4, 5]
    assert [(row.jobs, row.used) for row in mine.efficiency(metrics=("resource",))] == [(1, HOUR)]
    assert [(row.group, row.jobs) for row in mine.waiting()] == [(("default",), 2)]


def test_other_members_of_a_project_are_one(site: Accounting) -> None:
    page = site.reports_for("alice").project(
        "shared", metric="resource", start=T0 - DAY, stop=T0 + DAY
    )
    assert [(each.user, each.used) for each in page.members] == [
        ("alice", HOUR),
        ("(others)", 4 * HOUR),
    ]
    assert sum(month.used for month in page.months) == 5 * HOUR
    whole = site.project("shared", "resource", T0 - DAY, T0 + DAY)
    assert {each.user for each in whole.members} == {"alice", "carol"}


@pytest.mark.parametrize("name", ["secretive", "nowhere", ""])
def test_a_project_of_others_is_not_told_from_one_that_is_none(site: Accounting, name: str) -> None:
    span = {"metric": "resource", "start": T0, "stop": T0 + DAY}
    with pytest.raises(UnknownName, match=f"^project '{name}' is not one in which you have used"):
        site.reports_for("alice").project(name, **span)


@pytest.mark.parametrize("verb", ["usage", "jobs", "efficiency", "waiting"])
def test_who_is_not_recorded_learns_of_nobody(site: Accounting, verb: str) -> None:
    with pytest.raises(UnknownName) as told:
        getattr(site.reports_for("mallory"), verb)()
    assert str(told.value) == "nothing is recorded of you"


def test_other_sites_are_out_of_sight(site: Accounting) -> None:
    with pytest.raises(UnknownName, match="site is no key here"):
        site.reports_for("alice").usage(("site",))


# -- the command ------------------------------------------------------------------------------


@pytest.fixture
def asking(
    site: Accounting, database: Database, monkeypatch: pytest.MonkeyPatch
) -> Iterator[pytest.MonkeyPatch]:
    """alice asks; where settings are is not hers to say."""
    site.close()
    given = load_settings(url=database.url, config=Path("small_oar.toml"), environ={})
    monkeypatch.setattr("oar_accounting.cli.own.load_settings", lambda environ: given)
    monkeypatch.setattr(own, "caller", lambda: "alice")
    yield monkeypatch


def asked(*arguments: str) -> Any:
    return CliRunner().invoke(own.own, list(arguments))


@pytest.mark.parametrize(
    "arguments",
    [
        ("usage", "--by", "user,project,queue,cluster,job,type,state,size"),
        ("usage", "--bucket", "hour", "--from", str(T0), "--to", str(T0 + DAY)),
        ("usage", "--as-of", str(T0 + 2 * DAY)),
        ("jobs",),
        ("efficiency", "--by", "user,project"),
        ("waiting", "--by", "user,project"),
        ("project", "shared", "--from", str(T0 - DAY), "--to", str(T0 + 40 * DAY)),
    ],
)
@pytest.mark.parametrize("form", [(), ("--json",), ("--csv",)])
def test_no_answer_names_anybody_else(
    asking: pytest.MonkeyPatch, arguments: tuple[str, ...], form: tuple[str, ...]
) -> None:
    done = asked(*arguments, *form)
    assert done.exit_code == 0, done.output
    for name in SECRET_PEOPLE if arguments[0] != "jobs" else ("carol",):
        assert name not in done.output
    if form == ("--json",):
        # An older click has standard error in it, too.
        told = [line for line in done.stdout.splitlines() if not line.startswith("note: ")]
        assert json.loads("\n".join(told))


def test_a_wrong_name_is_one_line_that_tells_nothing(asking: pytest.MonkeyPatch) -> None:
    for arguments in (
        ("project", "secretive"),
        ("usage", "--by", "site"),
        ("usage", "--by", "colour"),
        ("usage", "--metric", "x"),
        ("usage", "--period", "never"),
    ):
        done = asked(*arguments)
        assert done.exit_code == 2
        assert len(done.output.splitlines()) == 1
        assert "carol" not in done.output


@pytest.mark.parametrize("option", ["--where", "--config", "--oar-conf", "--url", "--site"])
@pytest.mark.parametrize("command", ["usage", "jobs", "efficiency", "waiting"])
def test_the_caller_chooses_neither_whose_nor_where(command: str, option: str) -> None:
    done = asked(command, option, "user=carol")
    assert done.exit_code == 2
    assert "No such option" in done.output


def test_who_asks_is_who_sudo_says(
    asking: pytest.MonkeyPatch, monkeypatch: pytest.MonkeyPatch
) -> None:
    asking.setattr(own, "caller", lambda: pwd.getpwuid(0).pw_name)
    done = asked("usage")
    assert (done.exit_code, done.output.splitlines()[-1]) == (
        2,
        "oar-accounting: nothing is recorded of you",
    )

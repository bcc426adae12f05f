"""The commands about karma, and what an ordinary user may see of it."""

import json
import os
import pwd
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import create_engine, insert, update

from oar_accounting.cli import own
from oar_accounting.cli.commands.karma import fairshare_table
from oar_accounting.cli.terminal.display import bar
from oar_accounting.karma.explain import explanation
from oar_accounting.karma.report import (
    Explanation,
    FairShareReport,
    FairShareRow,
    KarmaReport,
    Part,
    Viewer,
)
from oar_accounting.oar import oar_tables
from tests.database.karma.test_fair_share import TREE, linear, wait
from tests.database.ledger.test_openings import Past, counted, write_counted
from tests.servers import Database
from tests.small_oar import DAY, NOW, T0, SmallOar, opened, stopped_clock
from tests.system.cli.test_cli import run, said

HARD = 'b\x1b[31mob, "x"'
NO_SHARES = "\n[karma.shares.user]\ncarol = 0\n"


@pytest.fixture
def site(database: Database) -> Iterator[list[str]]:
    """The options of a site at which two users and a hard name wait, in two queues."""
    engine = create_engine(database.url)
    oar = SmallOar(engine)
    oar.add_job(user=HARD, project="p", cores=1, start=T0, stop=T0 + DAY)
    for user, queue in ((HARD, "default"), ("carol", "default"), ("carol", "night")):
        wait(oar, user, queue=queue)
    with stopped_clock():
        opened(engine, linear(term="weight = 2")).catch_up()
    yield ["--url", database.url, "--config", "small_oar.toml"]
    engine.dispose()


AT = ("--at", str(NOW))


def objects(site: list[str], *arguments: str) -> Any:
    """What a command says to machines."""
    done = run(*site, *arguments, *AT, "--json")
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_the_order_is_told_to_people_and_machines(site: list[str]) -> None:
    told = objects(site, "karma")
    assert (told["policy"], told["now"]) == ("linear", NOW)
    assert [(job["job_id"], job["place"], job["karma"]) for job in told["jobs"]] == [
        (3, 1, 0.0),
        (4, 1, 0.0),
        (2, 2, 2.0),
    ]
    assert told["jobs"][2]["user"] == HARD
    (part,) = told["jobs"][2]["parts"]
    assert (part["usage"], part["of"], part["unit"]) == (DAY, DAY, "resource·s")
    shown = run(*site, "karma", *AT).stdout.splitlines()
    assert shown[0] == "as of 2023-11-16 00:00:00 UTC"
    assert shown[2].split() == [
        "queue",
        "place",
        "job",
        "user",
        "project",
        "karma",
        "resource",
        "used",
    ]
    assert shown[-1].split()[-2:] == ["2.000", "+2.000"]
    assert "\x1b" not in "".join(shown)


def test_some_of_them_can_be_asked_for(site: list[str]) -> None:
    def ids(*arguments: str) -> list[int]:
        return [job["job_id"] for job in objects(site, "karma", *arguments)["jobs"]]

    assert ids("--queue", "night") == [4]
    assert ids("--queue", "default", "--first", "1") == [3]


def test_a_queue_that_nobody_knows_is_told(site: list[str], database: Database) -> None:
    for form in ([], ["--json"]):
        done = run(*site, "karma", "--queue", "defualt", *AT, *form)
        assert (done.returncode, done.stdout) == (2, "")
        assert said(done).endswith("unknown queue 'defualt'; did you mean 'default'?")
    engine = create_engine(database.url)
    empty = {"queue_name": "empty", "priority": 3, "scheduler_policy": "x", "state": "Active"}
    with engine.begin() as connection:
        connection.execute(insert(oar_tables.queues).values(empty))
        connection.execute(update(oar_tables.jobs).values(state="Terminated"))
    engine.dispose()
    # Of these OAR knows one, and what is recorded the other.
    for queue in ("empty", "default"):
        assert run(*site, "karma", "--queue", queue, *AT).stdout == "no job waits\n"


def test_asked_and_used_are_told_apart(site: list[str], database: Database) -> None:
    engine = create_engine(database.url)
    write_counted(engine, counted([Past("alice", "p", "default", T0, DAY, 2 * DAY, 1)]))
    engine.dispose()
    Path("small_oar.toml").write_text("", encoding="utf-8")
    lines = [line.split() for line in run(*site, "fairshare", *AT).stdout.splitlines()]
    assert lines[0][:3] == ["of", "amount", "queue"]
    rows = [line for line in lines if line[0] == "user" and "alice" in line]
    assert [row[:4] for row in rows] == [
        ["user", "used", "default", "alice"],
        ["user", "asked", "default", "alice"],
    ]


def test_terms_of_different_times_are_told_apart(site: list[str]) -> None:
    toml = linear('window = "30d"') + (
        '[[karma.terms]]\nby = "user"\nmetric = "resource"\nhalf_life = "2d"\n'
    )
    Path("small_oar.toml").write_text(toml, encoding="utf-8")
    shown = run(*site, "fairshare", *AT).stdout.splitlines()
    assert shown[0].split()[:3] == ["of", "time", "name"]
    assert [" ".join(line.split()[:4]) for line in shown[1:3]] == [
        "user last 30 days", "user half-life 2 days",
    ]  # fmt: skip


def test_why_is_said_in_words_and_numbers(site: list[str]) -> None:
    lines = run(*site, "karma", "--explain", "2", *AT).stdout.splitlines()
    assert lines[0].startswith("Job 2 of b\\x1b[31mob")
    assert "is number 2 of 2 waiting in queue default: karma 2.000" in lines[0]
    assert any("+2.000 = 2 x (1.000 - 0.000)" in line for line in lines)
    assert "    24.0 of 24.0 resource·h, in all queues; time: last 30 days" in lines
    assert "Before it is job 3 of carol, project p, with karma 0.000, lower because:" in lines
    assert lines[-1].endswith("a share of 0.000, not 1.000")
    told = objects(site, "karma", "--explain", "2")
    assert (told["job"]["job_id"], told["ahead"]["job_id"]) == (2, 3)
    first = run(*site, "karma", "--explain", "3", *AT).stdout
    assert first.endswith("It is the first of its queue.\n")


def test_fairshare_has_a_line_and_a_bar_for_everybody(site: list[str]) -> None:
    (row,) = objects(site, "fairshare")["rows"]
    assert (row["name"], row["share"], row["usage"][0]["amount"]) == (HARD, 1.0, DAY)
    shown = run(*site, "fairshare", *AT).stdout
    assert "█" * 20 in shown
    assert shown.endswith("time: last 30 days\n")


def test_infinity_is_no_number_for_machines(site: list[str]) -> None:
    toml = TREE.format(policy="tree", metrics='["resource"]') + NO_SHARES
    Path("small_oar.toml").write_text(toml, encoding="utf-8")
    jobs = objects(site, "karma")["jobs"]
    assert [job["karma"] for job in jobs if job["user"] == "carol"] == [None, None]
    assert "none left to be given" in run(*site, "karma", "--explain", "3", *AT).stdout


def test_parts_stand_in_the_columns_of_their_level(site: list[str], database: Database) -> None:
    toml = '[karma]\npolicy = "tree"\nlevels = ["projects", "user"]\nmetrics = ["resource"]\n'
    Path("small_oar.toml").write_text(toml, encoding="utf-8")
    Path("parents.csv").write_text("project,parent\np,lab\n", encoding="utf-8")
    engine = create_engine(database.url)
    with engine.begin() as connection:
        table = oar_tables.jobs
        connection.execute(update(table).where(table.c.job_id == 4).values(project="q"))
    engine.dispose()
    assert run(*site, "attributes", "import", "parents.csv").returncode == 0
    by_id = {job["job_id"]: job["parts"] for job in objects(site, "karma")["jobs"]}
    assert [(each["by"], each["depth"], each["name"]) for each in by_id[3]] == [
        ("projects", 0, "lab"), ("projects", 1, "p"), ("user", 2, "carol"),
    ]  # fmt: skip
    assert [(each["by"], each["depth"]) for each in by_id[4]] == [("projects", 0), ("user", 2)]
    _, *lines = run(*site, "karma", *AT).stdout.splitlines()
    assert lines[0].split() == ["projects", "projects", "user"]
    rows = {line.split()[2]: line.rstrip() for line in lines[2:]}
    assert len(rows["3"].split()) == len(rows["4"].split()) + 1
    assert len(rows["3"]) == len(rows["4"])


def test_own_rows_without_a_share_are_shown() -> None:
    row = FairShareRow(
        by="projects", amount="used", depth=0, name="p", queue="", target=0.5, share=None,
        figure=None, usage=(),
    )  # fmt: skip
    table = fairshare_table(FairShareReport(policy="fair_tree", now=NOW, counts="", rows=[row]))
    cells = [str(next(iter(column.cells))) for column in table.columns]
    assert cells == ["projects", "p", "0.500", "", "", "", "", ""]


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("karma", "--explain", "99"), "job 99 does not wait"),
        (("karma", "--at", "soon"), "'soon' is no time"),
        (("fairshare", "--at", "2026-13-01"), "'2026-13-01' is no time"),
    ],
)
def test_a_mistake_is_one_line(site: list[str], arguments: tuple[str, ...], told: str) -> None:
    done = run(*site, *arguments)
    assert done.returncode == 2
    assert told in said(done)


def test_settings_of_karma_are_read_when_karma_is_asked_for(site: list[str]) -> None:
    Path("small_oar.toml").write_text('[karma]\npolicy = "magic"\n', encoding="utf-8")
    assert run(*site, "usage").returncode == 0
    done = run(*site, "karma")
    assert done.returncode == 2
    assert "small_oar.toml: [karma]: policy must be one of" in said(done)


def test_an_explanation_goes_without_a_choice(site: list[str]) -> None:
    done = run(*site, "karma", "--explain", "2", "--first", "1")
    assert done.returncode == 2
    assert "--explain goes without" in done.stderr


@pytest.mark.parametrize(
    ("share", "target", "shown"),
    [
        (0.0, None, "·" * 20),
        (0.5, None, "█" * 10 + "·" * 10),
        (7.0, None, "█" * 20),
        (-1.0, 0.0, "|" + "·" * 20),
        (0.25, 0.5, "█" * 5 + "·" * 5 + "|" + "·" * 10),
        (1.0, 3.0, "█" * 20 + "|"),
    ],
)
def test_a_bar_is_as_long_as_the_share(share: float, target: float | None, shown: str) -> None:
    assert bar(share, target) == shown


# -- what an ordinary user may see ------------------------------------------------------------


def test_who_asks_is_told_by_sudo_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    for wrong in ("", "nobody", "99999999", "1" * 30, "-1"):
        monkeypatch.setenv("SUDO_UID", wrong)
        with pytest.raises(SystemExit) as left:
            own.caller()
        assert left.value.code == 2
    monkeypatch.setenv("SUDO_UID", str(os.getuid()))
    monkeypatch.setenv("SUDO_USER", "somebody")
    assert own.caller() == pwd.getpwuid(os.getuid()).pw_name


@pytest.mark.parametrize("option", ["--config", "--oar-conf", "--url", "--site", "--at", "--debug"])
@pytest.mark.parametrize("command", [[], ["karma"], ["fairshare"]])
def test_the_caller_chooses_nothing(command: list[str], option: str) -> None:
    done = CliRunner().invoke(own.own, [*command, option, "x"])
    assert done.exit_code == 2
    assert "No such option" in done.output


NAMES = st.sampled_from(["alice", "bob", "carol", "p", "q", ""])
SECRETS = st.integers(1000, 9999)


@st.composite
def reports(draw: st.DrawFn) -> KarmaReport:
    """Jobs of some people, each with figures of their own."""
    size = draw(st.integers(0, 6))
    owners = [draw(NAMES) for _ in range(size)]
    figures = np.array([draw(SECRETS) for _ in range(size)], np.float64)
    names = np.array(owners, dtype=object)
    part = Part(
        by="user", metric="core", unit="core·s", scale=1, amount="used", scope="site",
        counts="all time", weight=1.0, names=names, usage=figures, of=np.full(size, 1e9),
        share=figures / 1e9, target=np.full(size, np.nan),
        value=figures / 1e9,
    )  # fmt: skip
    queue = np.array(["default"] * size, dtype=object)
    return KarmaReport(
        policy="linear", now=NOW, job_id=np.arange(1, size + 1), user=names, project=names,
        queue=queue, karma=figures / 1e9, place=np.arange(1, size + 1), parts=(part,),
        waiting={"default": size},
    )  # fmt: skip


@given(reports(), st.sampled_from(["alice", "bob"]))
def test_nobody_sees_through_to_others(report: KarmaReport, user: str) -> None:
    viewer = Viewer(user=user, projects=frozenset({"p"}))
    theirs = {job.karma for job in report if job.user != user}
    own_figures = {job.karma for job in report if job.user == user}
    seen = list(viewer.jobs(report))
    assert [job.job_id for job in seen] == [job.job_id for job in report if job.user == user]
    assert {job.karma for job in seen} == own_figures
    for row in range(len(report)):
        job = report.job(row)
        before = [report.job(each) for each in range(row)]
        told = Explanation(
            policy="linear",
            now=NOW,
            job=job,
            ahead=before[-1] if before else None,
            lower=before[0] if before else None,
        )
        shown = viewer.explanation(told)
        if shown is None:
            assert job.user != user
            continue
        assert job.user == user
        words = "\n".join(explanation(shown))
        for secret in theirs - own_figures:
            assert f"{secret * 1e9:,.0f}" not in words
            assert str(secret) not in words


@given(st.lists(st.tuples(st.sampled_from(["user", "project", "laboratory", "queue"]), NAMES)))
def test_rows_of_others_are_left_out(rows: list[tuple[str, str]]) -> None:
    report = FairShareReport(
        policy="linear",
        now=NOW,
        counts="all time",
        rows=[
            FairShareRow(
                by=by, amount="used", depth=2, name=name, queue="", target=None,
                share=0.5, figure=None, usage=(),
            )
            for by, name in rows
        ],
    )  # fmt: skip
    seen = Viewer(user="alice", projects=frozenset({"p"})).fairshare(report).rows
    assert {(row.by, row.name) for row in seen} <= {("user", "alice"), ("project", "p")}
    assert len(seen) == sum(row in (("user", "alice"), ("project", "p")) for row in rows)

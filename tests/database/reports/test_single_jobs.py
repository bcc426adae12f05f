"""Single jobs in full, jobs that have not ended, and who may see what of them."""

import csv
import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from sqlalchemy import Engine, update

from oar_accounting import Accounting
from oar_accounting.cli import own
from oar_accounting.ledger import schema
from oar_accounting.settings.load import load_settings
from tests.servers import Database
from tests.small_oar import DAY, HOUR, T0, Clock, SmallOar, opened, stopped_clock
from tests.system.cli.test_cli import Done, run, said

NOW = T0 + 2 * DAY
HARD = "l'\x1b[31mété"

FAILED, RUNS, WAITS, PLAIN = 1, 2, 3, 4


@pytest.fixture(autouse=True)
def clock() -> Iterator[Clock]:
    """The verbs' clock stands still."""
    with stopped_clock() as stopped:
        stopped.now = NOW
        yield stopped


def lived(engine: Engine) -> SmallOar:
    """A job that failed, one that runs, one that waits, and one of somebody else."""
    oar = SmallOar(engine, nodes=5)
    oar.add_job(
        user="alice",
        resources=[1, 2, 5, 13],
        types=("deploy", "besteffort"),
        queue="besteffort",
        job_name=HARD,
        exit_code=768,
        reservation="Scheduled",
        stop=T0 + 90 * 60,
    )
    oar.add_job(user="alice", cores=2, state="Running", start=NOW - 600, job_name="runs")
    oar.add_job(user="alice", state="Waiting", start=0, moldable=False, submission=NOW - 60)
    oar.offer(WAITS, HOUR)
    oar.add_job(user="carol", cores=4, job_name="secret name", exit_code=139)
    return oar


@pytest.fixture
def site(engine: Engine) -> Accounting:
    """These jobs, recorded."""
    lived(engine)
    accounting = opened(engine)
    assert accounting.catch_up().problems == ()
    return accounting


@pytest.fixture
def options(site: Accounting, database: Database) -> list[str]:
    """What stands before a command."""
    site.close()
    return ["--url", database.url, "--config", "small_oar.toml"]


def facts(done: Done) -> list[dict[str, str]]:
    """The lines of each job, by what they are of."""
    assert done.returncode == 0, done.stderr
    return [
        {line[:12].strip(): line[12:].strip() for line in job.splitlines()}
        for job in done.stdout.split("\n\n")
    ]


# -- in full ------------------------------------------------------------------------------------


def test_a_job_is_told_in_full(options: list[str]) -> None:
    (found,) = facts(run(*options, "jobs", "1"))
    assert found == {
        "job": "1",
        "name": r"l'\x1b[31mété",
        "user": "alice",
        "project": "default",
        "queue": "besteffort",
        "types": "besteffort, deploy",
        "state": "Terminated",
        "reservation": "Scheduled",
        "submitted": "2023-11-13 23:59:00 UTC",
        "started": "2023-11-14 00:00:00 UTC",
        "ended": "2023-11-14 01:30:00 UTC",
        "waited": "0:01:00",
        "ran": "1:30:00",
        "walltime": "2:00:00",
        "size": "4",
        "nodes": "alpha-[1-2,4] (3)",
        "exit": "exit 3",
        "resource": "6.0 resource·h used of 8.0 asked, 75.0%",
        "node": "4.5 node·h used of 6.0 asked, 75.0%",
    }


def test_jobs_are_told_in_the_order_in_which_they_are_named(options: list[str]) -> None:
    done = run(*options, "jobs", "4", "3", "2", "4", "--metric", "node")
    other, waits, runs = facts(done)
    assert [each["job"] for each in (other, waits, runs)] == ["4", "3", "2"]
    assert (other["exit"], other["nodes"]) == ("signal 11 (SEGV), core dumped", "alpha-1")
    for name in ("name", "started", "ended", "waited", "ran", "size", "nodes", "exit"):
        assert waits[name] == "-"
    assert waits["walltime"] == "1:00:00"
    assert (runs["ran"], runs["size"], runs["ended"], runs["exit"]) == ("0:10:00", "2", "-", "-")
    assert runs["node"] == "0.0 node·h used of 2.0 asked, 0.0%"
    assert "resource" not in runs
    (then,) = facts(run(*options, "jobs", "2", "--as-of", str(NOW + HOUR - 600)))
    assert (then["ran"], then["node"]) == ("1:00:00", "1.0 node·h used of 2.0 asked, 50.0%")


def test_machines_are_told_the_same(options: list[str]) -> None:
    done = run(*options, "jobs", "3", "1", "--metric", "resource", "--json")
    waits, failed = json.loads(done.stdout)
    assert (failed["name"], failed["exit_code"], failed["exit"]) == (HARD, 768, "exit 3")
    assert (failed["nodes"], failed["reservation"]) == ("alpha-[1-2,4]", "Scheduled")
    assert (failed["ran"], failed["used"]) == (90 * 60, 4 * 90 * 60)
    nothing = dict.fromkeys(("exit_code", "exit", "size", "ran", "waited", "metric", "used"))
    assert {name: waits[name] for name in nothing} == nothing
    assert (waits["walltime"], waits["name"], waits["nodes"]) == (HOUR, "", "")
    listed = run(*options, "jobs", "--csv").stdout
    rows = {row["job_id"]: row for row in csv.DictReader(io.StringIO(listed))}
    told = ("name", "exit_code", "exit", "nodes", "reservation", "ran")
    assert [rows["1"][name] for name in told] == [
        *(HARD, "768", "exit 3", "alpha-[1-2,4]", "Scheduled", "5400")
    ]
    assert [rows["3"][name] for name in told] == ["", "", "", "", "None", ""]


@pytest.mark.parametrize(
    ("named", "words"),
    [
        (("9",), "job 9 is not recorded"),
        (("1", "9", "8"), "jobs 9, 8 are not recorded"),
        (("--", "-7"), "job -7 is not recorded"),
    ],
)
@pytest.mark.parametrize("form", [(), ("--json",)])
def test_an_unknown_job_is_one_clear_error(
    options: list[str], named: tuple[str, ...], words: str, form: tuple[str, ...]
) -> None:
    done = run(*options, "jobs", *form, *named)
    assert (done.returncode, done.stdout) == (2, "")
    assert said(done) == f"oar-accounting: {words}"


@pytest.mark.parametrize(
    "more",
    [
        *("--period 2030", "--from 2030", "--to 2030", "--where user=bob"),
        *("--moment ran", "--after 1", "--first 5"),
    ],
)
def test_named_jobs_are_chosen_in_no_other_way(options: list[str], more: str) -> None:
    done = run(*options, "jobs", "1", *more.split())
    assert done.returncode == 2
    words = f"jobs are named by their numbers: {more.split()[0]} does not go with that"
    assert said(done) == f"oar-accounting: {words}"


def test_of_a_job_of_an_earlier_version_it_is_said_what_reads_more(
    options: list[str], engine: Engine
) -> None:
    nothing = dict.fromkeys(("name", "exit_code", "nodes", "reservation"))
    with engine.begin() as connection:
        connection.execute(update(schema.jobs).values(nothing))
    done = run(*options, "jobs", "1", "4")
    assert [[each[name] for name in nothing if name in each] for each in facts(done)] == [
        ["-", "-", "-"],
        ["-", "-", "-"],
    ]
    assert "an earlier version recorded 1, 4: name, exit code, nodes" in done.stderr
    assert "oar-accounting rebuild --from-oar" in done.stderr


# -- in a table ---------------------------------------------------------------------------------


def test_what_is_not_known_of_a_job_that_waits_is_no_zero(options: list[str]) -> None:
    lines = run(*options, "jobs", "--metric", "resource").stdout.splitlines()
    waits, runs = (next(x for x in lines if x.split()[:1] == [str(n)]) for n in (WAITS, RUNS))
    assert waits.split() == ["3", "alice", "default", "default", "Waiting", "1:00:00", "-"]
    assert runs.split()[-6:] == ["0:01:00", "0:10:00", "2:00:00", "2", "0.0", "0.0%"]


@pytest.mark.parametrize(
    ("start", "stop", "as_of", "found"),
    [
        ("2030", None, None, []),
        (NOW + 1, NOW + 2, None, []),
        (NOW, NOW + 1, None, []),
        (NOW - 1, NOW + DAY, None, [RUNS]),
        (NOW - 599, NOW - 598, None, [RUNS]),
        (NOW - 601, NOW - 600, None, []),
        (NOW - 601, NOW - 599, None, [RUNS]),
        (T0 + HOUR, None, None, [FAILED, RUNS]),
        (NOW + HOUR, NOW + 2 * HOUR, NOW + HOUR, []),
        (NOW + HOUR, NOW + 2 * HOUR, NOW + HOUR + 1, [RUNS]),
        (NOW - 100, NOW + HOUR, NOW - 200, []),
    ],
)
def test_a_job_that_runs_is_in_no_period_after_now(
    site: Accounting, start: Any, stop: int | None, as_of: int | None, found: list[int]
) -> None:
    """Or after the instant as of which it is asked for; a span begins with its first instant."""
    first = site.instant(start) if isinstance(start, str) else start
    page = site.jobs(start=first, stop=stop, as_of=as_of)
    assert [job.job_id for job in page.jobs] == found


# -- who may see it -----------------------------------------------------------------------------


@pytest.fixture
def alice(options: list[str], database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    """alice asks, of her own jobs."""
    assert options
    given = load_settings(url=database.url, config=Path("small_oar.toml"), environ={})
    monkeypatch.setattr("oar_accounting.cli.own.load_settings", lambda environ: given)
    monkeypatch.setattr(own, "caller", lambda: "alice")


def asked(*arguments: str) -> Any:
    return CliRunner().invoke(own.own, list(arguments))


def test_users_see_their_own_jobs_in_full(alice: None) -> None:
    done = asked("jobs", "1")
    assert done.exit_code == 0, done.output
    assert r"l'\x1b[31mété" in done.output
    assert "alpha-[1-2,4] (3)" in done.output
    assert "exit 3" in done.output


@pytest.mark.parametrize("form", [(), ("--json",), ("--csv",)])
def test_a_job_of_others_is_as_if_it_were_not_recorded(alice: None, form: tuple[str, ...]) -> None:
    for number in ("4", "9"):
        done = asked("jobs", *form, number)
        assert (done.exit_code, done.output) == (
            2,
            f"oar-accounting: job {number} is not recorded\n",
        )
    for listed in (asked("jobs", *form), asked("jobs", *form, "1", "2")):
        assert listed.exit_code == 0
        for secret in ("carol", "secret name", "signal 11", "139"):
            assert secret not in listed.output


def test_who_manages_a_project_sees_names_of_its_jobs_only(site: Accounting) -> None:
    from oar_accounting import Visible

    everything = site.jobs(visible_to=Visible(user="dave", projects=frozenset({"default"})))
    assert {job.name for job in everything.jobs} == {HARD, "runs", "", "secret name"}
    assert site.jobs(visible_to=Visible(user="dave")).jobs == ()

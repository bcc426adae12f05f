"""Every report says of which span it is, in whose clocks, and until when that is recorded."""

import csv
import io
import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner
from sqlalchemy import Engine, text

from oar_accounting import Accounting
from oar_accounting.cli import own
from oar_accounting.settings.load import load_settings
from tests.servers import Database
from tests.small_oar import DAY, HOUR, T0, Clock, SmallOar, opened, stopped_clock
from tests.system.cli.test_cli import Done, run

on_sqlite = pytest.mark.databases("sqlite")

#: When the last pass was: two days after the first jobs began, at noon of 2023-11-16 UTC.
PASS = T0 + 2 * DAY + 12 * HOUR
REPORTS = (
    *(("usage",), ("series",), ("top",), ("efficiency",), ("sizes",), ("waiting",), ("jobs",)),
    *(("project", "default"), ("utilisation",)),
)
OWN_REPORTS = (("usage",), ("efficiency",), ("waiting",), ("jobs",), ("project", "default"))
#: The first two days in Paris, and in words.
TWO_DAYS = ("--from", "2023-11-14", "--to", "2023-11-16")
IN_WORDS = "2023-11-14 00:00 to before 2023-11-16 00:00, Europe/Paris"
SPAN = (T0 - HOUR, T0 + 2 * DAY - HOUR)
UNTIL = "note: recorded until 2023-11-16 13:00:00 CET"


@pytest.fixture(autouse=True)
def clock() -> Iterator[Clock]:
    """The verbs' clock stands still, at the last pass."""
    with stopped_clock() as stopped:
        stopped.now = PASS
        yield stopped


@pytest.fixture
def oar(engine: Engine) -> SmallOar:
    """An OAR in Paris on which alice and bob used something on the first day, recorded."""
    oar = SmallOar(engine)
    oar.add_job(user="alice", cores=1)
    oar.add_job(user="bob", cores=2, start=T0 + HOUR)
    with opened(engine, 'timezone = "Europe/Paris"\n') as accounting:
        accounting.catch_up()
    return oar


@pytest.fixture
def options(oar: SmallOar, database: Database) -> tuple[str, ...]:
    """Those of the site, before the command."""
    return ("--url", database.url, "--config", "small_oar.toml")


def asked(options: tuple[str, ...], *arguments: str) -> Done:
    """What a command tells; a site's note on the password of --url is none of ours."""
    done = run(*options, *arguments)
    assert done.returncode == 0, done.stderr
    kept = [line for line in done.stderr.splitlines(True) if "password of --url" not in line]
    return Done(0, done.stdout, "".join(kept))


def notes(done: Done) -> list[str]:
    """What is told of what is missing."""
    return [
        line for line in done.stderr.splitlines() if re.search("recorded|catch-up|walltime:", line)
    ]


# -- the span ---------------------------------------------------------------------------------


@on_sqlite
@pytest.mark.parametrize("report", REPORTS, ids=" ".join)
def test_the_span_and_its_zone_stand_above_every_table(
    options: tuple[str, ...], report: tuple[str, ...]
) -> None:
    done = asked(options, *report, *TWO_DAYS)
    assert done.stdout.splitlines()[1 if report[0] == "project" else 0] == IN_WORDS
    assert notes(done) == []
    other = asked(options, *report, *TWO_DAYS, "--timezone", "UTC").stdout
    assert "2023-11-14 00:00 to before 2023-11-16 00:00, UTC\n" in other


@on_sqlite
def test_what_ends_before_a_month_looks_otherwise_than_what_ends_after_it(
    options: tuple[str, ...],
) -> None:
    """The two that look alike: the end of one is the begin of the other's last month."""
    before = asked(options, "usage", "--from", "2023-09", "--to", "2023-11").stdout
    after = asked(options, "usage", "--period", "2023-09..2023-11").stdout
    begin = "2023-09-01 00:00 to before "
    assert before.splitlines()[0] == f"{begin}2023-11-01 00:00, Europe/Paris"
    assert after.splitlines()[0] == f"{begin}2023-12-01 00:00, Europe/Paris"


@on_sqlite
@pytest.mark.parametrize(
    ("bounds", "words"),
    [
        ((), "all that is recorded, Europe/Paris"),
        (("--from", "2023-11-14"), "from 2023-11-14 00:00 on, Europe/Paris"),
        (("--to", "2023-11-14T09:00:01"), "before 2023-11-14 09:00:01, Europe/Paris"),
    ],
)
def test_what_has_no_bounds_says_so(
    options: tuple[str, ...], bounds: tuple[str, ...], words: str
) -> None:
    assert asked(options, "usage", *bounds).stdout.splitlines()[0] == words


@on_sqlite
@pytest.mark.parametrize("report", REPORTS, ids=" ".join)
def test_machines_are_told_the_same_with_every_object(
    options: tuple[str, ...], report: tuple[str, ...]
) -> None:
    rows = json.loads(asked(options, *report, *TWO_DAYS, "--json").stdout)
    assert rows
    for row in rows:
        assert (row["timezone"], row["recorded_until"]) == ("Europe/Paris", PASS)
        assert (row["start"], row["stop"]) == SPAN
    done = asked(options, *report, *TWO_DAYS, "--csv")
    head = next(csv.reader(io.StringIO(done.stdout)))
    assert not {"timezone", "recorded_until"} & {*head}
    assert done.stderr == ""


@on_sqlite
def test_a_bucket_keeps_bounds_of_its_own(options: tuple[str, ...]) -> None:
    rows = json.loads(asked(options, "series", "--bucket", "day", *TWO_DAYS, "--json").stdout)
    assert {(row["start"], row["stop"]) for row in rows} == {(SPAN[0], SPAN[0] + DAY)}


@on_sqlite
def test_what_is_adjusted_is_told(options: tuple[str, ...]) -> None:
    way = ("adjust", "--reason", "free", "--author", "root", "--dry-run")
    done = asked(options, *way, "--between", "2023-11-14", "2023-11-16")
    assert done.stdout.splitlines()[0] == IN_WORDS
    told = asked(options, *way, "--between", "2023-11-14", "2023-11-16", "--json").stdout
    assert [json.loads(told)[key] for key in ("start", "stop")] == [*SPAN]
    assert json.loads(told)["timezone"] == "Europe/Paris"
    whole = asked(options, *way, "--job", "1")
    assert "Europe/Paris" not in whole.stdout


# -- until when it is recorded ----------------------------------------------------------------


@on_sqlite
@pytest.mark.parametrize("report", REPORTS, ids=" ".join)
def test_a_job_that_has_ended_and_is_not_recorded_does_not_miss_without_a_word(
    options: tuple[str, ...], oar: SmallOar, clock: Clock, report: tuple[str, ...]
) -> None:
    """Days after the last pass, in a table, for machines and in a file."""
    oar.add_job(user="carol", start=PASS + HOUR)
    clock.now = PASS + 4 * DAY + HOUR
    period = ("--from", "2023-11-14", "--to", "2023-11-20")
    late = f"{UNTIL}, 4 days ago: what happened since is missing"
    for form in ((), ("--json",), ("--csv",)):
        done = asked(options, *report, *period, *form)
        assert "carol" not in done.stdout
        assert notes(done) == [late], form
    assert notes(asked(options, *report, "--to", "2023-11-16T13:00")) == []


@on_sqlite
@pytest.mark.parametrize("report", REPORTS, ids=" ".join)
def test_what_is_not_over_is_recorded_until_the_last_pass(
    options: tuple[str, ...], clock: Clock, report: tuple[str, ...]
) -> None:
    """That is told above no row for machines: the last pass was minutes ago."""
    clock.now = PASS + 600
    assert notes(asked(options, *report, "--period", "2023-11")) == [UNTIL]
    assert notes(asked(options, *report, "--period", "2023-11", "--csv")) == []
    rows = json.loads(asked(options, *report, "--period", "2023-11", "--json").stdout)
    assert {row["recorded_until"] for row in rows} == {PASS}


@on_sqlite
def test_where_no_pass_was_ever_done_nobody_knows(options: tuple[str, ...], engine: Engine) -> None:
    with engine.begin() as connection:
        connection.execute(text("UPDATE accounting_sites SET last_pass = NULL"))
    unknown = ["note: no catch-up was ever done to its end: what is missing is not known"]
    for form in ((), ("--json",), ("--csv",)):
        assert notes(asked(options, "usage", *TWO_DAYS, *form)) == unknown
    assert '"recorded_until": null' in asked(options, "usage", *TWO_DAYS, "--json").stdout


# -- jobs that should have ended --------------------------------------------------------------


@pytest.fixture
def running(oar: SmallOar, options: tuple[str, ...], engine: Engine) -> SmallOar:
    """The same, and at the last pass a job of carol's ran that was to end two hours later."""
    oar.add_job(user="carol", start=PASS - 2 * HOUR, walltime=4 * HOUR, state="Running")
    oar.add_job(user="dave", start=PASS - 2 * HOUR, walltime=400 * HOUR, state="Running")
    record_again(engine)
    return oar


def record_again(engine: Engine) -> None:
    """A pass, at the time of the clock."""
    with Accounting.open(engine=engine, config="small_oar.toml") as accounting:
        accounting.catch_up()


@on_sqlite
def test_jobs_that_should_have_ended_are_told(
    running: SmallOar, options: tuple[str, ...], clock: Clock
) -> None:
    """Of a period that was over before the last pass, too."""
    until_pass = ("--from", "2023-11-14", "--to", "2023-11-16T13:00")
    done = asked(options, "usage", *until_pass)
    assert notes(done) == []
    assert "2 open jobs are not in this table.\n" in done.stderr
    clock.now = PASS + 3 * HOUR
    done = asked(options, "usage", *until_pass)
    assert "2 open jobs are not in this table, 1 of them past their walltime.\n" in done.stderr
    alone = "note: 1 open job is past its walltime: what it used is not counted"
    for report in (("efficiency",), ("sizes",), ("jobs",), ("project", "default")):
        for form in ((), ("--json",), ("--csv",)):
            assert notes(asked(options, *report, *until_pass, *form)) == [alone], report
    assert notes(asked(options, "waiting", *until_pass)) == []
    assert notes(asked(options, "sizes", "--to", "2023-11-16")) == []
    assert notes(asked(options, "sizes", *until_pass, "--where", "user=dave,alice")) == []
    assert notes(asked(options, "sizes", *until_pass, "--where", "user=carol")) == [alone]
    as_of = ("--as-of", "2023-11-16T13:00")
    assert notes(asked(options, "sizes", *until_pass, *as_of)) == []
    assert notes(asked(options, "utilisation", *until_pass)) == []


@on_sqlite
def test_jobs_that_count_beyond_their_walltime_are_told(
    running: SmallOar, options: tuple[str, ...], clock: Clock, engine: Engine
) -> None:
    """OAR says at a pass long after that they run."""
    clock.now = PASS + DAY
    record_again(engine)
    told = "note: 1 open job is past its walltime: counted as if it had not ended"
    period = ("--from", "2023-11-14", "--to", "2023-11-17T13:00")
    assert notes(asked(options, "usage", *period, "--as-of", "now")) == [told]
    assert notes(asked(options, "utilisation", *period)) == [told]
    assert notes(asked(options, "usage", *period, "--as-of", "2023-11-16T15:00")) == []


@on_sqlite
def test_a_job_that_is_suspended_is_not_past_its_walltime(
    oar: SmallOar, options: tuple[str, ...], clock: Clock, engine: Engine
) -> None:
    begin = PASS - 6 * HOUR
    oar.add_job(start=begin, state="Suspended", pauses=[(begin + HOUR, 0)])
    oar.add_job(start=begin, state="Running", pauses=[(begin + HOUR, begin + 5 * HOUR, PASS - 60)])
    record_again(engine)
    clock.now = PASS + 600
    assert notes(asked(options, "sizes", "--to", "2023-11-16T13:00")) == []
    clock.now = PASS + 2 * HOUR
    found = notes(asked(options, "sizes", "--to", "2023-11-16T13:00"))
    assert found == ["note: 1 open job is past its walltime: what it used is not counted"]


@on_sqlite
@pytest.mark.parametrize("report", OWN_REPORTS, ids=" ".join)
def test_users_are_told_of_their_own(
    running: SmallOar,
    database: Database,
    clock: Clock,
    monkeypatch: pytest.MonkeyPatch,
    report: tuple[str, ...],
) -> None:
    """What others' jobs do is not theirs to know, but in a project they share."""
    given = load_settings(url=database.url, config=Path("small_oar.toml"), environ={})
    monkeypatch.setattr("oar_accounting.cli.own.load_settings", lambda environ: given)
    clock.now = PASS + 3 * HOUR
    told = {
        "alice": {"project": "past its walltime"},
        "carol": {"usage": "past their walltime", "efficiency": "past its", "jobs": "past its"},
    }
    # In the project carol has used nothing yet: her job runs.
    for user in ("alice",) if report[0] == "project" else ("alice", "carol"):
        monkeypatch.setattr(own, "caller", lambda user=user: user)
        done = CliRunner().invoke(own.own, [*report, "--period", "2023-11"])
        assert done.exit_code == 0, done.output
        assert "2023-11-01 00:00 to before 2023-12-01 00:00, Europe/Paris\n" in done.output
        assert f"{UNTIL}, 3 hours ago: what happened since is missing\n" in done.output
        words = told[user].get(report[0], "")
        assert words in done.output
        assert bool(re.search("past (its|their) walltime", done.output)) == bool(words)


# -- in Python --------------------------------------------------------------------------------


def test_how_far_it_is_recorded_is_a_verb(running: SmallOar, engine: Engine, clock: Clock) -> None:
    """On every database; of two sites the one that is behind counts."""
    with Accounting.open(engine=engine, config="small_oar.toml") as accounting:
        query = accounting.query(("user",), start=T0, stop=PASS)
        found = accounting.coverage(query)
        assert (found.recorded_until, found.overdue_jobs, found.timezone) == (
            *(PASS, 0),
            "Europe/Paris",
        )
        assert (found.is_complete, found.is_stale, found.notes()) == (True, False, ())
        clock.now = PASS + 3 * HOUR
        assert accounting.coverage(query).overdue_jobs == 1
        by_user = accounting.coverage(start=T0, stop=PASS, where={"user": "carol"})
        assert (by_user.overdue_jobs, by_user.is_stale) == (1, True)
        assert accounting.coverage(where={"user": ("alice", "dave")}).overdue_jobs == 0
        assert accounting.reports_for("alice").coverage().overdue_jobs == 0
        with engine.connect() as connection:
            assert accounting.through(connection).coverage(query).overdue_jobs == 1
    with Accounting.open(engine=engine, config="small_oar.toml", site="second") as second:
        second.catch_up()
        assert second.coverage().recorded_until == PASS + 3 * HOUR
        both = second.coverage(("site",))
        assert (both.recorded_until, both.overdue_jobs) == (PASS, 2)

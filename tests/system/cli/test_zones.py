"""What people type of time, and what they are told, is by the clocks of the site's zone."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import Engine, create_engine

from oar_accounting import Accounting, StockReport
from tests.database.karma.test_fair_share import linear, wait
from tests.servers import Database
from tests.small_oar import DAY, HOUR, T0, Clock, SmallOar, opened, stopped_clock
from tests.system.cli.test_cli import Done, run, said

pytestmark = pytest.mark.databases("sqlite")

#: `T0` is 2023-11-14 in UTC, which begins in Paris an hour earlier.
PARIS_DAY = T0 - HOUR
PARIS = 'timezone = "Europe/Paris"\n'
REASON = ("--reason", "a free day", "--author", "root")


@pytest.fixture(autouse=True)
def clock() -> Iterator[Clock]:
    """The verbs' clock stands still."""
    with stopped_clock() as stopped:
        yield stopped


@pytest.fixture
def engine(database: Database) -> Iterator[Engine]:
    """An OAR on which alice used a core over all of the day in Paris, and an hour to each side."""
    engine = create_engine(database.url)
    oar = SmallOar(engine)
    oar.add_job(user="alice", cores=1, start=PARIS_DAY - HOUR, stop=PARIS_DAY + 25 * HOUR)
    wait(oar, "bob")
    with opened(engine, linear() + "\n") as accounting:
        accounting.catch_up()
    text = PARIS + Path("small_oar.toml").read_text(encoding="utf-8")
    Path("small_oar.toml").write_text(text, encoding="utf-8")
    yield engine
    engine.dispose()


@pytest.fixture
def ask(engine: Engine, database: Database) -> "Ask":
    """Runs a command on it."""
    return Ask(database.url)


class Ask:
    """Runs commands on a site in Paris."""

    def __init__(self, url: str) -> None:
        self.options = ("--url", url, "--config", "small_oar.toml")

    def __call__(self, *arguments: str) -> Done:
        done = run(*self.options, *arguments)
        assert done.returncode == 0, done.stderr
        return done

    def used(self, *arguments: str) -> int:
        """What was used of resources, in seconds."""
        rows = json.loads(self("usage", "--metric", "resource", "--json", *arguments).stdout)
        return sum(row["used"] for row in rows)


def test_a_day_that_is_made_free_is_free_to_the_second(ask: Ask) -> None:
    """Of an account, and of jobs."""
    account = ("--user", "alice", "--project", "default", "--queue", "default")
    amount = ("--property", "alpha", "--metric", "resource", "--used", str(-DAY))
    ask("adjust", *account, *amount, "--from", "2023-11-14", "--to", "2023-11-15", *REASON)
    assert ask.used("--period", "2023-11-14") == 0
    assert ask.used() == 2 * HOUR
    ask("adjust", "--counter", "1", *REASON)
    ask("adjust", "--between", "2023-11-14", "2023-11-15", "--metric", "resource", *REASON)
    assert ask.used("--period", "2023-11-14") == 0
    assert ask.used() == 2 * HOUR


def test_what_was_adjusted_is_told_in_the_zone(ask: Ask) -> None:
    ask("adjust", "--between", "2023-11-14", "2023-11-15", *REASON)
    assert "2023-11-16 01:00:00 CET" in ask("adjustments").stdout
    told = ask("adjustments", "1").stdout
    assert "2023-11-14 00:00:00 CET" in told
    assert "2023-11-15 00:00:00 CET" in told
    wrong = run(*ask.options, "adjust", "--between", "2023-11-15", "2023-11-15", *REASON)
    day = "2023-11-15 00:00:00 CET"
    assert said(wrong) == f"oar-accounting: the span from {day} to {day} is empty"


def test_who_moves_does_so_when_a_day_of_the_site_begins(ask: Ask, tmp_path: Path) -> None:
    file = tmp_path / "teams.csv"
    file.write_text(
        "user,team,valid_from,valid_to\nalice,A,,2023-11-14\nalice,B,2023-11-14,\n", "utf-8"
    )
    done = ask("attributes", "import", str(file))
    assert "0 removed, 0 changed; times in Europe/Paris" in done.stdout
    assert "change within a window" in done.stderr
    assert ask.used("--where", "team=A") == HOUR
    entries = json.loads(ask("attributes", "show", "team", "--json").stdout)
    assert [each["valid_to"] for each in entries] == [PARIS_DAY, None]
    shown = ask("attributes", "show", "team")
    assert "2023-11-14" in shown.stdout
    assert shown.stderr == "note: times are those of Europe/Paris\n"
    exported = ask("attributes", "show", "team", "--csv").stdout
    assert exported == file.read_text("utf-8")
    file.write_text(exported.replace("B,2023-11-14", "B,2023-11-13"), "utf-8")
    wrong = run(*ask.options, "attributes", "import", str(file))
    assert "'A' and 'B' from 2023-11-13 until 2023-11-14; one at a time" in wrong.stderr


def test_a_purge_tells_its_bound_in_the_zone(ask: Ask, clock: Clock) -> None:
    clock.now = T0 + 30 * DAY
    done = ask("purge", "--before", "2023-11-20")
    # A window of a day UTC begins at one o'clock in Paris.
    assert done.stdout == "1 jobs that ended before 2023-11-19 01:00:00 CET were purged\n"
    wrong = said(run(*ask.options, "purge", "--before", "2023-12-14"))
    assert "2023-12-13 01:00:00 CET is too late to purge before" in wrong
    assert wrong.endswith("the latest is 2023-12-07 01:00:00 CET")


@pytest.mark.parametrize("command", ["karma", "fairshare"])
def test_karma_is_as_of_a_time_of_the_site(ask: Ask, command: str) -> None:
    told = json.loads(ask(command, "--at", "2023-11-15", "--json").stdout)
    assert (told["now"], told["timezone"]) == (PARIS_DAY + DAY, "Europe/Paris")
    shown = ask(command, "--at", "2023-11-15").stdout
    assert "as of 2023-11-15 00:00:00 CET" in shown


def test_an_explanation_says_when_by_the_clocks_of_the_site(ask: Ask) -> None:
    shown = ask("karma", "--explain", "2", "--at", "2023-11-15").stdout
    assert "(linear, on 2023-11-15 00:00:00 CET)." in shown
    what_if = ask("karma", "--at", "2023-11-15", "--what-if", "small_oar.toml", "--days", "1")
    assert "since 2023-11-14 00:00:00 CET" in what_if.stdout


def test_oars_own_table_is_emptied_before_a_day_of_the_site(
    ask: Ask, monkeypatch: pytest.MonkeyPatch
) -> None:
    given: list[int] = []

    def delete_before(_: Engine, before: int, *, dry_run: bool) -> StockReport:
        given.append(before)
        return StockReport()

    monkeypatch.setattr("oar_accounting.dropin.oaraccounting.delete_before", delete_before)
    ask("oaraccounting", "--delete-before", "2023-11-14", "--dry-run")
    assert given == [PARIS_DAY]


def test_an_empty_span_is_told_in_its_zone(engine: Engine, ask: Ask) -> None:
    wrong = said(run(*ask.options, "usage", "--from", "2023-11-14", "--to", "2023-11-14"))
    day = f"{PARIS_DAY} (2023-11-14 00:00:00 CET)"
    assert wrong == f"oar-accounting: the span from {day} to {day} is empty"
    with Accounting.open(engine=engine, config="small_oar.toml") as accounting:
        assert str(accounting.zone) == "Europe/Paris"

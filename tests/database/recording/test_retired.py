"""OAR's tables or ours are restored from a dump, or OAR is installed anew: it heals, or refuses."""

import shutil
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Engine, insert, select

from oar_accounting import AccountingError, OtherOar, UnknownName, WriterBusy
from oar_accounting.database import id_blocks
from oar_accounting.ledger import schema
from oar_accounting.ledger.ledger import Ledger
from oar_accounting.recording import catch_up
from tests.old_site import CORE, OldSite, closed_of, once, places_of
from tests.servers import Database
from tests.small_oar import (
    DAY,
    HOUR,
    NOW,
    T0,
    Clock,
    Recorded,
    SmallOar,
    opened,
    recorded,
    stopped_clock,
)
from tests.strategies import (
    METRICS,
    Amounts,
    Entry,
    Job,
    Share,
    contents,
    enter,
    naive_totals,
    open_ledger,
    post_all,
)
from tests.system.cli.test_cli import run

on_sqlite = pytest.mark.databases("sqlite")

Dump = dict[str, list[dict[str, Any]]]


@pytest.fixture(autouse=True)
def clock() -> Iterator[Clock]:
    """The verbs' clock stands at `NOW`."""
    with stopped_clock() as stopped:
        yield stopped


def dumped(engine: Engine) -> Dump:
    """Every row of our tables."""
    with engine.connect() as connection:
        return {
            table.name: [dict(row) for row in connection.execute(select(table)).mappings()]
            for table in schema.metadata.sorted_tables
        }


def restore(engine: Engine, dump: Dump) -> None:
    """Put the rows of a dump in the place of what stands in our tables."""
    tables = schema.metadata.sorted_tables
    with engine.begin() as connection:
        for table in reversed(tables):
            connection.execute(table.delete())
        for table in tables:
            if dump[table.name]:
                connection.execute(insert(table), dump[table.name])


def install_anew(site: OldSite, first: int = 1) -> dict[int, Job]:
    """Take all jobs out of OAR, which gives out ids from *first* on; the jobs there were."""
    for job in Recorded(site.accounting).jobs():
        site.oar.remove_job(job)
    site.oar._last["jobs"] = first - 1
    before, site.jobs = site.jobs, {}
    return before


def together(site: OldSite, before: dict[int, Job]) -> Amounts:
    """What the jobs of now and those of before amount to."""
    renumbered = [replace(job, job_id=-number) for number, job in before.items()]
    return naive_totals([*site.jobs.values(), *renumbered], site.window)


def check(site: OldSite, before: dict[int, Job]) -> None:
    """The law holds, and the jobs of now and those of before are in the totals, once."""
    assert site.accounting.verify() == []
    assert site.totals() == together(site, before)


def three_jobs(engine: Engine, toml: str = "", first: int = 1) -> OldSite:
    """A site with three jobs of three users; recorded."""
    site = OldSite(engine, toml)
    site.oar._last["jobs"] = first - 1
    metrics = ("core",) if toml.startswith(CORE) else ()
    for cores, user in enumerate(("alice", "bob", "carol"), 1):
        site.add_job(30, user=user, cores=cores, seconds=DAY + HOUR, metrics=metrics)
    assert site.accounting.catch_up().problems == ()
    site.check()
    return site


# -- our tables from a dump -------------------------------------------------------------------


def much_happens(oar: SmallOar, clock: Clock) -> None:
    """A day on which jobs come, end, go, and are corrected."""
    clock.now += DAY - HOUR
    oar.update_job(1, state="Terminated", stop_time=clock.now - 60)
    oar.update_job(2, state="Running", start_time=clock.now - 9, assigned_moldable_job=500_002)
    oar.update_job(3, stop_time=T0 + 2 * HOUR, project="physics")
    oar.add_job(user="carol", cores=5, start=clock.now - 2 * HOUR, stop=clock.now - HOUR)
    oar.add_job(user="alice", cores=1, start=clock.now - 50, state="Running")


def a_day(oar: SmallOar) -> None:
    """Jobs that run, wait and have ended."""
    oar.add_job(user="alice", cores=2, state="Running")
    oar.add_job(user="bob", cores=3, state="Waiting", start=NOW)
    oar.add_job(user="bob", cores=4, stop=T0 + HOUR)
    oar.add_job(user="carol", cores=1, start=T0 - 40 * DAY)


def test_tables_of_yesterday_are_healed_by_the_next_pass(engine: Engine, clock: Clock) -> None:
    oar = SmallOar(engine)
    a_day(oar)
    accounting = opened(engine)
    accounting.catch_up()
    dump = dumped(engine)
    much_happens(oar, clock)
    clock.now += HOUR
    accounting.catch_up()
    right = Recorded(accounting).everything()
    restore(engine, dump)
    healed = recorded(engine)
    assert healed.everything() == right == recorded(engine, site="scratch").everything()


@on_sqlite
def test_a_file_of_yesterday_is_healed_by_the_next_pass(
    database: Database, engine: Engine, clock: Clock, tmp_path: Path
) -> None:
    """Our tables in a file of their own, copied as a backup would."""
    ours = tmp_path / "accounting.db"
    toml = f'url = "sqlite:///{ours}"\n'
    oar = SmallOar(engine)
    a_day(oar)
    with recorded(engine, toml).accounting:
        pass
    shutil.copy(ours, tmp_path / "backup.db")
    much_happens(oar, clock)
    with recorded(engine, toml).accounting as accounting:
        right = Recorded(accounting).everything()
    shutil.copy(tmp_path / "backup.db", ours)
    for file in tmp_path.glob("accounting.db-*"):
        file.unlink()
    with recorded(engine, toml).accounting as accounting:
        assert Recorded(accounting).everything() == right


def test_tables_of_weeks_ago_are_healed_and_told_of(engine: Engine, clock: Clock) -> None:
    oar = SmallOar(engine)
    a_day(oar)
    accounting = opened(engine)
    accounting.catch_up()
    dump = dumped(engine)
    much_happens(oar, clock)
    accounting.catch_up()
    right = Recorded(accounting).everything()
    clock.now += 30 * DAY
    restore(engine, dump)
    report = opened(engine).catch_up()
    assert report.problems == ()
    (notice,) = report.notices
    assert notice.startswith("the last pass was on 2023-11-16 00:00:00")
    assert accounting.verify() == []
    assert Recorded(accounting).everything() == right
    assert accounting.catch_up().notices == ()


@on_sqlite
def test_tables_of_yesterday_are_told_of(engine: Engine, clock: Clock) -> None:
    """Passes come every few minutes; one that comes a day late has a reason."""
    oar = SmallOar(engine)
    a_day(oar)
    accounting = opened(engine)
    accounting.catch_up()
    clock.now += DAY + HOUR
    (notice,) = accounting.catch_up().notices
    assert "the last pass was on 2023-11-16" in notice
    assert accounting.catch_up().notices == ()


@on_sqlite
def test_tables_of_before_a_purge_are_as_before_it_and_can_be_purged_again(engine: Engine) -> None:
    site = three_jobs(engine)
    dump = dumped(engine)
    site.accounting.purge(T0 - 20 * DAY)
    restore(engine, dump)
    site.reopen()
    assert site.accounting.catch_up(full=True).problems == ()
    site.check()
    assert site.accounting.purge(T0 - 20 * DAY)[1] == 3
    site.check()


@on_sqlite
def test_tables_of_before_a_user_was_forgotten_can_forget_the_user_again(engine: Engine) -> None:
    site = three_jobs(engine)
    dump = dumped(engine)
    site.accounting.forget_user("alice")
    restore(engine, dump)
    site.reopen()
    site.accounting.catch_up(full=True)
    site.check()
    site.rename("alice", site.accounting.forget_user("alice"))
    site.check()
    assert places_of(engine, "alice") == set()


@on_sqlite
def test_tables_of_before_ids_were_retired_are_refused_again(engine: Engine) -> None:
    site = three_jobs(engine)
    dump = dumped(engine)
    before = install_anew(site)
    site.add_job(2, user="eve", cores=8)
    site.accounting.retire(1)
    site.accounting.catch_up()
    check(site, before)
    restore(engine, dump)
    site.reopen()
    with pytest.raises(OtherOar, match="retire --from 1"):
        site.accounting.catch_up()
    assert site.accounting.retire(1) == 3
    assert site.accounting.catch_up().problems == ()
    check(site, before)


# -- OAR's tables from a dump, or new ---------------------------------------------------------


def test_an_oar_that_was_restored_is_told_of_and_its_lost_jobs_keep_what_they_used(
    engine: Engine,
) -> None:
    site = three_jobs(engine)
    site.oar.remove_job(3)
    before = site.totals()
    for full in (False, True):
        report = site.accounting.catch_up(full=full)
        assert any(
            "OAR's highest job is 2, and job 3 is recorded" in notice
            and "retire --from 3" in notice
            for notice in report.notices
        )
        assert report.problems == ()
    assert site.totals() == before
    assert site.accounting.verify() == []


def test_ids_that_a_restored_oar_gives_to_other_jobs_are_refused_and_nothing_is_written(
    engine: Engine,
) -> None:
    site = three_jobs(engine)
    site.oar.remove_job(3)
    other = site.jobs.pop(3)
    site.oar._last["jobs"] = 2
    assert site.add_job(2, user="eve", cores=8) == 3
    site.add_job(2, user="eve", cores=7)
    before = Recorded(site.accounting).everything()
    for full in (False, True):
        with pytest.raises(OtherOar, match="retire --from 3"):
            site.accounting.catch_up(full=full)
        assert Recorded(site.accounting).everything() == before
    assert site.accounting.retire(3) == 1
    assert site.accounting.catch_up().done == 2
    check(site, {3: other})
    assert site.accounting.catch_up(full=True).notices == ()


@pytest.mark.parametrize("toml", ["", "window = 3600\n"], ids=["by day", "by hour and day"])
def test_an_oar_installed_anew_is_recorded_after_the_ids_were_retired(
    engine: Engine, toml: str
) -> None:
    site = three_jobs(engine, toml)
    before = install_anew(site)
    (notice,) = site.accounting.catch_up().notices
    assert "OAR's highest job is 0, and job 3 is recorded" in notice
    assert "retire --from 1" in notice
    for user in ("alice", "eve"):
        site.add_job(2, user=user, cores=4)
    with pytest.raises(OtherOar, match="retire --from 1"):
        site.accounting.catch_up()
    assert site.accounting.retire(1) == 3
    report = site.accounting.catch_up()
    assert (report.done, report.problems, report.notices) == (2, (), ())
    check(site, before)
    assert site.accounting.catch_up(full=True).notices == ()
    assert set(Recorded(site.accounting).jobs()) == {-3, -2, -1, 1, 2}


@on_sqlite
def test_of_many_jobs_the_first_that_is_another_one_is_named(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """More than a pass compares, on more than one page."""
    monkeypatch.setattr(id_blocks, "BLOCK", 50)
    oar = SmallOar(engine)
    for _ in range(260):
        oar.add_job(cores=1, stop=T0 + 1)
    accounting = recorded(engine).accounting
    for job in range(30, 261):
        oar.update_job(job, submission_time=T0 + job)
    with pytest.raises(OtherOar, match="retire --from 30"):
        accounting.catch_up()
    assert accounting.retire(30) == 231
    accounting.catch_up()
    assert accounting.verify() == []
    assert Recorded(accounting).used() == 260 + 231


@on_sqlite
def test_jobs_of_a_new_oar_are_recorded_also_under_ids_that_were_never_used(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The old OAR's ids were far above: none of the new ones names a recorded job."""
    monkeypatch.setattr(catch_up, "OVERLAP", 10)
    site = three_jobs(engine, first=1000)
    before = install_anew(site)
    site.add_job(1, user="eve", cores=4)
    report = site.accounting.catch_up()
    assert any("retire --from 2" in notice for notice in report.notices)
    check(site, before)


@on_sqlite
def test_running_jobs_of_an_oar_that_is_no_more_end_at_the_last_pass(
    engine: Engine, clock: Clock
) -> None:
    site = OldSite(engine)
    site.oar.add_job(user="alice", cores=3, state="Running", start=T0)
    site.accounting.catch_up()
    install_anew(site)
    clock.now += HOUR
    report = site.accounting.catch_up()
    assert (report.open, [problem.job_id for problem in report.problems]) == (0, [1])
    assert Recorded(site.accounting).used() == 3 * (NOW - T0)
    assert site.accounting.verify() == []


# -- retire -----------------------------------------------------------------------------------


def test_jobs_of_every_state_keep_what_they_used_and_are_settled(
    engine: Engine, clock: Clock
) -> None:
    site = OldSite(engine)
    oar = site.oar
    oar.add_job(user="finishing", cores=4, state="Finishing", stop=T0 + 50)
    ended = site.add_job(30, cores=1)
    oar.add_job(user="running", cores=2, state="Running", walltime=10)
    oar.add_job(user="suspended", cores=3, state="Suspended", pauses=[(T0 + 100, 0)])
    oar.add_job(user="waiting", state="Waiting", start=NOW + DAY)
    oar.add_job(user="launching", cores=1, state="toLaunch", start=0, moldable=False)
    site.accounting.catch_up()
    site.accounting.purge(T0 - 20 * DAY)
    clock.now += HOUR
    install_anew(site)
    assert site.accounting.retire(1) == 6
    used = {user: amounts[1] for user, amounts in Recorded(site.accounting).by("user").items()}
    assert used == {
        "bob": HOUR,
        "running": 2 * (NOW - T0),
        "suspended": 300,
        "finishing": 200,
    }
    jobs = {n: row for n, row in Recorded(site.accounting).jobs().items() if n != schema.CARRIED}
    assert sorted(jobs) == [-6, -5, -4, -3, -2, -1]
    assert {row["unsettled"] for row in jobs.values()} == {0}
    assert closed_of(engine)[-ended] == 2
    assert site.accounting.verify() == []
    assert site.accounting.usage().open_jobs == 0


def test_ids_may_be_retired_again_and_again(engine: Engine) -> None:
    site = three_jobs(engine)
    all_before: dict[int, Job] = {}
    for times in range(1, 4):
        before = install_anew(site, first=2)
        all_before |= {1000 * times + number: job for number, job in before.items()}
        site.add_job(1 + times, user=f"eve{times}", cores=times)
        site.add_job(1 + times, user=f"eve{times}", cores=times, project="physics")
        site.accounting.retire(1)
        assert site.accounting.catch_up().problems == ()
        check(site, all_before)
    assert site.accounting.retire(100) == 0
    assert len(closed_of(engine)) == 3 + 2 * 3
    check(site, all_before)


@on_sqlite
def test_jobs_under_ids_given_free_are_found_as_new_ones(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(catch_up, "OVERLAP", 0)
    site = three_jobs(engine)
    before = install_anew(site)
    site.accounting.retire(1)
    site.add_job(1, user="eve", cores=4)
    assert site.accounting.catch_up().done == 1
    check(site, before)


def test_ids_below_the_first_that_is_given_free_stay(engine: Engine) -> None:
    site = three_jobs(engine)
    site.oar.remove_job(3)
    assert site.accounting.retire(3) == 1
    assert set(closed_of(engine)) == {-1, 1, 2}
    assert site.accounting.retire(2**62) == 0
    site.check()


def test_retired_jobs_are_purged_as_others_are(engine: Engine) -> None:
    site = three_jobs(engine)
    before = install_anew(site)
    site.accounting.retire(1)
    site.add_job(60, user="eve", cores=8)
    site.accounting.catch_up()
    assert site.accounting.purge(T0 - 20 * DAY)[1] == 4
    check(site, before)
    assert set(closed_of(engine).values()) == {2}
    all_before = before | {100 + n: job for n, job in install_anew(site).items()}
    assert site.accounting.retire(1) == 1
    check(site, all_before)
    site.accounting.rebuild()
    check(site, all_before)


@on_sqlite
def test_a_metric_read_again_keeps_what_retired_jobs_held(engine: Engine) -> None:
    site = three_jobs(engine, CORE)
    before = install_anew(site)
    site.accounting.retire(1)
    site.add_job(1, user="eve", cores=8, metrics=("core",))
    site.accounting.catch_up()
    assert site.accounting.rebuild(metric="core", from_oar=True).problems == ()
    check(site, before)


@on_sqlite
def test_a_metric_that_is_new_cannot_count_retired_jobs_and_tells_them(engine: Engine) -> None:
    site = three_jobs(engine)
    before = install_anew(site)
    site.accounting.retire(1)
    site.reopen(CORE)
    report = site.accounting.rebuild(metric="core")
    assert [problem.job_id for problem in report.problems] == [-3, -2, -1]
    check(site, before)


@on_sqlite
def test_measured_amounts_move_with_the_job(engine: Engine) -> None:
    site = three_jobs(engine)
    entry = Entry(
        job_id=2,
        window_start=T0,
        names=(*site.jobs[2].owner, "alpha"),
        metric="node",
        asked=0,
        used=17,
    )
    with Ledger(site.accounting.engine, "oar").writing() as book:
        enter(book, site.jobs[2], [entry])
    before = site.totals()
    site.accounting.retire(2)
    assert site.accounting.verify() == []
    assert site.totals() == before


def test_a_neighbour_in_the_same_tables_keeps_its_ids(engine: Engine) -> None:
    site = three_jobs(engine)
    other = open_ledger(Ledger(site.accounting.engine, "other"))
    shares = tuple(Share(value="", metric=m.name, asked=1, used=1) for m in METRICS)
    post_all(other, [[Job(job_id=n, used=((0, n),), shares=shares) for n in (1, 2, 9)]])
    before = contents(other)
    site.accounting.retire(1)
    assert contents(other) == before


@on_sqlite
def test_jobs_that_oar_still_has_are_not_counted_twice(engine: Engine) -> None:
    """A command that was typed by mistake, or with an id too low."""
    site = three_jobs(engine)
    with suppress(AccountingError):
        site.accounting.retire(1)
    site.accounting.catch_up()
    site.check()


# -- with others at work ----------------------------------------------------------------------


@on_sqlite
def test_ids_retired_while_a_metric_is_built_lose_nothing(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    site = three_jobs(engine, CORE)
    before = install_anew(site)
    monkeypatch.setattr(id_blocks, "BLOCK", 1)
    other = opened(engine, CORE)

    def retire() -> None:
        with suppress(WriterBusy):
            other.retire(1)

    site.accounting.rebuild(metric="core", from_oar=True, progress=once(retire))
    check(site, before)


@on_sqlite
def test_ids_retired_during_a_pass_are_looked_at_again(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The pass must not put back how far the old ids had been looked at."""
    monkeypatch.setattr(catch_up, "OVERLAP", 0)
    site = OldSite(engine)
    running = site.oar.add_job(job_id=1000, state="Running", cores=1)
    site.accounting.catch_up()
    site.oar.remove_job(running)
    site.oar._last["jobs"] = 0
    other = opened(engine)
    site.accounting.catch_up(progress=once(lambda: other.retire(1)))
    site.add_job(1, user="eve")
    site.accounting.catch_up()
    assert Recorded(site.accounting).by("user")["eve"] == (2 * HOUR, HOUR)


# -- the command ------------------------------------------------------------------------------


def test_the_command_tells_how_many(database: Database, engine: Engine) -> None:
    site = three_jobs(engine)
    before = install_anew(site)
    site.add_job(2, user="eve")
    refused = run("--url", database.url, "catch-up")
    assert refused.returncode == 3
    assert "retire --from 1" in refused.stderr
    assert "Traceback" not in refused.stderr
    done = run("--url", database.url, "retire", "--from", "1")
    assert done.returncode == 0
    assert "oar-accounting:" not in done.stderr
    assert done.stdout == "the ids of 3 jobs were freed; what the jobs used stays\n"
    assert run("--url", database.url, "catch-up").returncode == 0
    assert run("--url", database.url, "verify").returncode == 0
    check(site, before)


@on_sqlite
@pytest.mark.parametrize(
    "arguments", [[], ["--from"], ["--from", "x"], ["--from", "0"], ["--from", "-3"]]
)
def test_an_id_that_cannot_be_one_is_refused(
    database: Database, engine: Engine, arguments: list[str]
) -> None:
    site = three_jobs(engine)
    done = run("--url", database.url, "retire", *arguments)
    assert done.returncode == 2
    assert "Error:" in done.stderr
    assert set(closed_of(engine)) == {1, 2, 3}
    site.check()


@on_sqlite
def test_a_restored_oar_is_a_line_of_the_pass_and_no_failure(
    database: Database, engine: Engine
) -> None:
    site = three_jobs(engine)
    site.oar.remove_job(3)
    done = run("--url", database.url, "catch-up")
    assert done.returncode == 0
    assert "retire --from 3" in done.stdout + done.stderr


def test_a_refused_pass_stands_in_the_journal(engine: Engine) -> None:
    site = three_jobs(engine)
    install_anew(site)
    site.add_job(2, user="eve")
    with pytest.raises(OtherOar):
        site.accounting.catch_up()
    with engine.connect() as connection:
        table = schema.passes.c
        query = select(table.outcome, table.message).order_by(table.pass_id.desc()).limit(1)
        outcome, message = connection.execute(query).one()
    assert outcome == "failed"
    assert "retire --from 1" in message


@on_sqlite
def test_what_is_unknown_stays_unknown_after_ids_were_retired(engine: Engine) -> None:
    site = three_jobs(engine)
    install_anew(site)
    site.accounting.retire(1)
    (problem,) = site.accounting.record([1]).problems
    assert "not in OAR" in problem.reason
    with pytest.raises(UnknownName):
        site.accounting.forget_user("eve")

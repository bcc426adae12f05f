"""Purge: what ended long ago loses its details, and every total stays for good."""

import multiprocessing
import os
import signal
from collections.abc import Iterator
from dataclasses import replace
from itertools import count
from typing import Any

import pytest
from sqlalchemy import Engine, select

from oar_accounting import Accounting, BadSpan, Purged, UnknownName, WriterBusy
from oar_accounting.database import bulk, id_blocks
from oar_accounting.ledger import schema
from oar_accounting.ledger.ledger import Ledger
from tests.old_site import CORE, OldSite, closed_of, once, row_counts, tamper
from tests.servers import Database
from tests.small_oar import DAY, HOUR, NOW, T0, Clock, opened, stopped_clock
from tests.strategies import METRICS, Entry, Job, Share, contents, enter, open_ledger, post_all
from tests.system.cli.test_cli import run, said

on_sqlite = pytest.mark.databases("sqlite")

WEEK = 7 * DAY
#: A bound of windows of a day and of a week, long before `T0`.
BOUND = T0 // WEEK * WEEK - 8 * WEEK


@pytest.fixture(autouse=True)
def clock() -> Iterator[Clock]:
    """The verbs' clock stands at `NOW`."""
    with stopped_clock() as stopped:
        yield stopped


def days_before(instant: int) -> int:
    """How many days before `T0`."""
    return (T0 - instant) // DAY


def purged_before(site: OldSite) -> int | None:
    """The bound that is noted with the site."""
    with Ledger(site.accounting.engine, "oar").reading() as (_, known):
        assert known is not None
        return known.purged_before


def four_jobs(engine: Engine, toml: str = "") -> OldSite:
    """Two jobs of before `BOUND`, over midnight, and two of after it; recorded."""
    site = OldSite(engine, toml)
    metrics = ("core",) if toml.startswith(CORE) else ()
    old = days_before(BOUND)
    site.add_job(old + 40, user="alice", cores=5, seconds=2 * DAY + 7, metrics=metrics)
    site.add_job(old + 30, cores=3, seconds=DAY + HOUR, walltime=3 * DAY, metrics=metrics)
    site.add_job(old - 1, user="alice", cores=8, metrics=metrics)
    site.add_job(1, user="carol", cores=2, metrics=metrics)
    assert site.accounting.catch_up().problems == ()
    site.check()
    return site


# -- what goes and what stays -----------------------------------------------------------------


def test_details_go_and_every_total_stays(engine: Engine) -> None:
    site = four_jobs(engine)
    before = row_counts(engine)
    usage = site.accounting.usage(("user", "project", "queue", "cluster"))
    assert site.accounting.purge(BOUND) == (BOUND, 2)
    site.check()
    assert site.accounting.usage(("user", "project", "queue", "cluster")) == usage
    after = row_counts(engine)
    assert (before["spans"], after["spans"]) == (8, 4)
    assert (before["rates"], after["rates"]) == (8, 4)
    assert after["totals"] == before["totals"]
    assert closed_of(engine) == {1: 2, 2: 2, 3: 1, 4: 1}


def test_the_law_holds_after_a_purge_and_a_rebuild_changes_nothing(engine: Engine) -> None:
    site = four_jobs(engine)
    site.accounting.purge(BOUND)
    assert site.accounting.verify() == []
    site.accounting.rebuild()
    assert site.totals() == site.right()


def test_a_rebuild_mends_the_totals_of_purged_jobs(engine: Engine) -> None:
    site = four_jobs(engine)
    site.accounting.purge(BOUND)
    tamper(engine)
    assert site.accounting.verify() != []
    site.accounting.rebuild()
    site.check()


def test_days_of_purged_jobs_stay_and_follow_into_other_windows(engine: Engine) -> None:
    site = four_jobs(engine, "window = 3600\n")
    site.accounting.purge(BOUND)
    site.check()
    tamper(engine)
    site.accounting.rebuild()
    site.check()
    for window in (2 * HOUR, DAY, HOUR):
        site.reopen(f"window = {window}\n")
        site.accounting.rebuild()
        site.window = window
        site.check()


@on_sqlite
def test_the_date_is_moved_to_the_bound_of_windows_before_it(engine: Engine) -> None:
    site = four_jobs(engine)
    assert site.accounting.purge(BOUND - 1) == (BOUND - DAY, 2)
    assert site.accounting.purge(BOUND + DAY - 1) == (BOUND, 0)
    site.check()


@on_sqlite
@pytest.mark.parametrize(
    ("seconds", "walltime", "gone"),
    [(DAY, DAY, 1), (DAY, 1, 1), (1, DAY, 1), (DAY + 1, 1, 0), (1, DAY + 1, 0)],
)
def test_a_job_goes_when_all_that_it_used_and_asked_for_ended_by_the_bound(
    engine: Engine, seconds: int, walltime: int, gone: int
) -> None:
    site = OldSite(engine)
    site.add_job(days_before(BOUND) + 1, seconds=seconds, walltime=walltime)
    site.accounting.catch_up()
    assert site.accounting.purge(BOUND) == (BOUND, gone)
    site.check()


@on_sqlite
def test_jobs_that_oar_may_still_change_stay(engine: Engine) -> None:
    site = OldSite(engine)
    long_ago = days_before(BOUND) + 30
    finishing = site.add_job(long_ago, state="Finishing")
    for state in ("Running", "Suspended", "Waiting"):
        site.oar.add_job(state=state, start=T0 - long_ago * DAY, walltime=1)
    site.accounting.catch_up()
    assert site.accounting.purge(BOUND) == (BOUND, 0)
    site.check()
    site.oar.update_job(finishing, state="Terminated")
    site.accounting.catch_up()
    assert site.accounting.purge(BOUND) == (BOUND, 1)
    site.check()


@on_sqlite
def test_a_job_that_used_nothing_keeps_its_row(engine: Engine) -> None:
    site = OldSite(engine)
    job = site.oar.add_job(state="Error", start=0, stop=0, moldable=False)
    site.accounting.catch_up()
    assert site.accounting.purge(BOUND) == (BOUND, 1)
    assert closed_of(engine) == {job: 2}
    assert site.accounting.catch_up(full=True).problems == ()
    site.check()


@on_sqlite
def test_measured_amounts_of_purged_jobs_stay(engine: Engine) -> None:
    site = four_jobs(engine)
    first = site.jobs[1]
    entries = [
        Entry(
            job_id=1,
            window_start=at,
            names=(*first.owner, "alpha"),
            metric="node",
            asked=0,
            used=used,
        )
        for at, used in ((first.start // DAY * DAY, 11), (BOUND - WEEK, 13), (BOUND + WEEK, 17))
    ]
    with Ledger(site.accounting.engine, "oar").writing() as book:
        enter(book, first, entries)
    before = site.totals()
    assert before != site.right()
    site.accounting.purge(BOUND)
    assert site.accounting.verify() == []
    assert site.totals() == before


def test_jobs_of_classic_sites_are_purged_alike(engine: Engine) -> None:
    site = four_jobs(engine, 'profile = "classic"\n')
    zero = site.add_job(days_before(BOUND) + 9, seconds=0)
    site.accounting.catch_up()
    site.check()
    assert site.accounting.purge(BOUND) == (BOUND, 3)
    site.check()
    assert closed_of(engine)[zero] == 2


def test_another_site_in_the_same_tables_is_let_alone(engine: Engine) -> None:
    site = four_jobs(engine)
    other = open_ledger(Ledger(site.accounting.engine, "other"))
    shares = tuple(Share(value="", metric=m.name, asked=1, used=1) for m in METRICS)
    some = [Job(job_id=n, asked=((0, n),), used=((0, DAY + n),), shares=shares) for n in (1, 2, 9)]
    post_all(other, [some])
    before = contents(other)
    site.accounting.purge(BOUND)
    site.accounting.purge(BOUND + DAY)
    site.check()
    assert contents(other) == before


# -- again, later, and in other windows -------------------------------------------------------


def test_a_purge_with_a_later_date_goes_on_from_the_first(engine: Engine) -> None:
    site = four_jobs(engine)
    assert site.accounting.purge(BOUND - 30 * DAY) == (BOUND - 30 * DAY, 1)
    site.check()
    assert site.accounting.purge(BOUND) == (BOUND, 1)
    site.check()
    assert site.accounting.purge(BOUND) == (BOUND, 0)
    assert site.accounting.purge(BOUND - WEEK) == (BOUND - WEEK, 0)
    site.check()
    assert row_counts(engine)["spans"] == 4


@on_sqlite
def test_an_earlier_date_does_not_take_back_what_was_purged(engine: Engine) -> None:
    site = four_jobs(engine)
    site.accounting.purge(BOUND)
    site.accounting.purge(BOUND - WEEK)
    assert purged_before(site) == BOUND


def test_old_jobs_that_are_first_seen_after_a_purge_are_recorded(engine: Engine) -> None:
    site = four_jobs(engine)
    site.accounting.purge(BOUND)
    late = site.add_job(days_before(BOUND) + 40, user="alice", cores=7)
    report = site.accounting.catch_up()
    assert (report.done, report.problems) == (1, ())
    site.check()
    assert closed_of(engine)[late] == 1
    assert site.accounting.purge(BOUND) == (BOUND, 1)
    site.check()


def test_totals_of_purged_jobs_follow_into_larger_windows(engine: Engine) -> None:
    site = four_jobs(engine)
    site.accounting.purge(BOUND)
    for window in (WEEK, 2 * WEEK):
        site.reopen(f"window = {window}\n")
        site.accounting.rebuild()
        site.window = window
        site.check()


@on_sqlite
def test_a_purge_in_larger_windows_after_one_in_smaller(engine: Engine) -> None:
    site = four_jobs(engine)
    site.accounting.purge(BOUND - 30 * DAY)
    site.reopen(f"window = {WEEK}\n")
    site.accounting.rebuild()
    site.window = WEEK
    assert site.accounting.purge(BOUND + DAY) == (BOUND, 1)
    site.check()


@on_sqlite
@pytest.mark.parametrize("window", [HOUR, DAY + HOUR])
def test_windows_into_which_purged_amounts_cannot_be_split_are_refused_or_told(
    engine: Engine, window: int
) -> None:
    site = four_jobs(engine)
    site.accounting.purge(BOUND)
    before = site.totals()
    site.reopen(f"window = {window}\n")
    try:
        report = site.accounting.rebuild()
    except Purged:
        assert site.totals() == before
        return
    assert any("purged" in notice for notice in report.notices)
    assert site.accounting.verify() == []


def test_the_window_may_come_back_where_nothing_was_purged_meanwhile(engine: Engine) -> None:
    site = four_jobs(engine)
    site.accounting.purge(BOUND)
    for window in (WEEK, DAY):
        site.reopen(f"window = {window}\n")
        site.accounting.rebuild()
    site.check()


# -- corrections ------------------------------------------------------------------------------


@on_sqlite
@pytest.mark.parametrize("verb", ["catch-up --full", "record", "rebuild --from-oar"])
def test_a_correction_of_a_purged_job_is_reported_and_not_applied(
    engine: Engine, verb: str
) -> None:
    site = four_jobs(engine)
    site.accounting.purge(BOUND)
    site.oar.update_job(1, stop_time=T0 + DAY, job_user="eve")
    verbs = {
        "catch-up --full": lambda: site.accounting.catch_up(full=True),
        "record": lambda: site.accounting.record([1]),
        "rebuild --from-oar": lambda: site.accounting.rebuild(from_oar=True),
    }
    (problem,) = verbs[verb]().problems
    assert (problem.job_id, "purged" in problem.reason) == (1, True)
    site.check()


def test_a_correction_that_brings_a_purged_job_into_the_last_days_is_reported(
    engine: Engine,
) -> None:
    site = four_jobs(engine)
    site.accounting.purge(BOUND)
    site.oar.update_job(2, stop_time=NOW - HOUR)
    for _ in range(2):
        report = site.accounting.catch_up()
        assert [problem.job_id for problem in report.problems] == [2]
    site.check()


@on_sqlite
def test_purged_jobs_that_oar_deletes_keep_their_amounts(engine: Engine) -> None:
    site = four_jobs(engine)
    site.accounting.purge(BOUND)
    site.oar.remove_job(1)
    assert site.accounting.catch_up(full=True).problems == ()
    site.check()


def test_a_rebuild_from_oar_leaves_purged_jobs_and_says_so(engine: Engine) -> None:
    site = four_jobs(engine)
    site.accounting.purge(BOUND)
    site.reopen('profile = "classic"\ndimension = ""\n')
    report = site.accounting.rebuild(from_oar=True)
    assert report.problems == ()
    assert any("was purged" in notice for notice in report.notices)
    shown = {number: "alpha" if number < 3 else "" for number in site.jobs}
    site.jobs = {
        number: replace(job, shares=tuple(replace(s, value=shown[number]) for s in job.shares))
        for number, job in site.jobs.items()
    }
    site.check()


# -- metrics ----------------------------------------------------------------------------------


def test_a_metric_that_is_new_starts_without_purged_jobs_and_says_so(engine: Engine) -> None:
    site = four_jobs(engine)
    site.accounting.purge(BOUND)
    site.reopen(CORE)
    report = site.accounting.rebuild(metric="core")
    assert report.problems == ()
    assert any("was purged" in notice for notice in report.notices)
    for number in (3, 4):
        job = site.jobs[number]
        core = replace(job.shares[0], metric="core")
        site.jobs[number] = replace(job, shares=(*job.shares, core))
    site.check()
    site.accounting.purge(T0 - 10 * DAY)
    site.check()


def test_a_metric_read_again_under_the_same_definition_keeps_purged_amounts(
    engine: Engine,
) -> None:
    site = four_jobs(engine, CORE)
    site.accounting.purge(BOUND)
    for name in ("core", "node", "core"):
        assert site.accounting.rebuild(metric=name, from_oar=True).problems == ()
        site.check()
    site.accounting.purge(BOUND + WEEK)
    site.accounting.rebuild(metric="core", from_oar=True)
    site.check()


@on_sqlite
def test_an_interrupted_rebuild_carries_purged_amounts_once(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    site = four_jobs(engine, CORE)
    site.accounting.purge(BOUND)
    monkeypatch.setattr(id_blocks, "BLOCK", 1)
    for _ in range(2):
        with pytest.raises(Interrupted):
            site.accounting.rebuild(metric="core", from_oar=True, progress=interrupt)
        assert site.accounting.verify() == []
    site.accounting.rebuild(metric="core", from_oar=True)
    site.check()


@on_sqlite
def test_a_metric_under_another_definition_is_refused_once_something_was_purged(
    engine: Engine,
) -> None:
    site = four_jobs(engine, CORE)
    site.accounting.purge(BOUND)
    site.reopen(CORE + "scale = 10\n")
    for from_oar in (False, True):
        with pytest.raises(Purged, match="declare the new one under another name"):
            site.accounting.rebuild(metric="core", from_oar=from_oar)
        site.check()
    site.reopen(CORE)
    assert site.accounting.rebuild(metric="core").problems == ()
    site.check()


@on_sqlite
def test_a_purge_that_found_nothing_refuses_no_metric(engine: Engine) -> None:
    site = four_jobs(engine, CORE)
    assert site.accounting.purge(DAY) == (DAY, 0)
    site.reopen(CORE + "scale = 10\n")
    site.accounting.rebuild(metric="core")
    assert site.accounting.verify() == []


# -- with others at work ----------------------------------------------------------------------


class Interrupted(Exception):
    """A verb that is stopped in the middle."""


def interrupt(done: int, _: int) -> None:
    """A progress callback that stops the verb after two steps."""
    if done >= 2:
        raise Interrupted


def test_a_purge_waits_for_a_metric_that_is_half_built(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    site = four_jobs(engine)
    monkeypatch.setattr(id_blocks, "BLOCK", 1)
    site.reopen(CORE)
    with pytest.raises(Interrupted):
        site.accounting.rebuild(metric="core", progress=interrupt)
    with pytest.raises(WriterBusy, match="finish it first: oar-accounting rebuild --metric core"):
        site.accounting.purge(BOUND)
    assert row_counts(engine)["entries"] == 0
    assert purged_before(site) is None
    site.accounting.rebuild(metric="core")
    assert site.accounting.purge(BOUND) == (BOUND, 2)
    assert site.accounting.verify() == []


@on_sqlite
def test_a_half_built_metric_that_is_no_longer_declared_does_not_forbid_to_purge(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    site = four_jobs(engine)
    monkeypatch.setattr(id_blocks, "BLOCK", 1)
    site.reopen(CORE)
    with pytest.raises(Interrupted):
        site.accounting.rebuild(metric="core", progress=interrupt)
    site.reopen()
    try:
        site.accounting.purge(BOUND)
    except WriterBusy as refused:
        # Then the way out that it names must be one.
        assert "rebuild --metric core" in str(refused)
        try:
            site.accounting.rebuild(metric="core")
        except UnknownName:
            pytest.fail(f"there is no way out: {refused}")


def test_a_half_built_metric_whose_declaration_was_put_back_does_not_forbid_to_purge(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    site = four_jobs(engine, CORE)
    monkeypatch.setattr(id_blocks, "BLOCK", 1)
    site.reopen(CORE + "scale = 10\n")
    with pytest.raises(Interrupted):
        site.accounting.rebuild(metric="core", progress=interrupt)
    site.reopen(CORE)
    site.accounting.rebuild(metric="core")
    site.accounting.purge(BOUND)
    site.check()


def test_a_metric_that_is_rebuilt_during_a_purge_loses_nothing(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    site = four_jobs(engine, CORE)
    monkeypatch.setattr(id_blocks, "BLOCK", 1)
    other = opened(engine, CORE)
    begun: list[int] = []

    def rebuild_meanwhile(done: int, _: int) -> None:
        if not begun:
            begun.append(done)
            with pytest.raises(Interrupted):
                other.rebuild(metric="core", from_oar=True, progress=interrupt)

    with pytest.raises(WriterBusy, match="core is half built"):
        site.accounting.purge(BOUND, progress=rebuild_meanwhile)
    assert site.accounting.verify() == []
    other.rebuild(metric="core", from_oar=True)
    site.check()
    site.accounting.purge(BOUND)
    site.check()


@on_sqlite
def test_a_purge_during_a_rebuild_from_oar_loses_nothing(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    site = four_jobs(engine)
    monkeypatch.setattr(id_blocks, "BLOCK", 1)
    other = opened(engine)
    site.accounting.rebuild(from_oar=True, progress=once(lambda: other.purge(BOUND)))
    site.check()
    later = BOUND + 2 * WEEK
    site.accounting.catch_up(full=True, progress=once(lambda: other.purge(later)))
    assert list(closed_of(engine).values()) == [2, 2, 2, 1]
    site.check()


@on_sqlite
def test_a_window_changed_during_a_purge_breaks_nothing(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    site = four_jobs(engine)
    monkeypatch.setattr(id_blocks, "BLOCK", 1)
    other = opened(engine, f"window = {WEEK}\n")
    assert site.accounting.purge(BOUND, progress=once(other.rebuild)) == (BOUND, 2)
    site.window = WEEK
    site.check()


# -- stopped ----------------------------------------------------------------------------------


def test_an_interrupted_purge_goes_on_when_it_is_run_again(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    site = four_jobs(engine)
    monkeypatch.setattr(id_blocks, "BLOCK", 1)
    with pytest.raises(Interrupted):
        site.accounting.purge(BOUND, progress=interrupt)
    site.check()
    assert site.accounting.purge(BOUND)[0] == BOUND
    site.check()
    assert row_counts(engine)["spans"] == 4


def _purge_and_die(url: str, jobs: int) -> None:
    """Purge one job at a time, and be killed before the last of these *jobs* is committed."""
    add_columns = bulk.add_columns
    carried = count(1)

    def deadly(*arguments: Any) -> None:
        add_columns(*arguments)
        if next(carried) == jobs:
            os.kill(os.getpid(), signal.SIGKILL)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(bulk, "add_columns", deadly)
        patch.setattr(id_blocks, "BLOCK", 1)
        Accounting.open(url=url).purge(BOUND)


@pytest.mark.slow
@pytest.mark.parametrize("jobs", [1, 2])
def test_a_purge_that_is_killed_within_a_job_takes_the_job_or_leaves_it(
    database: Database, engine: Engine, jobs: int
) -> None:
    site = four_jobs(engine)
    engine.dispose()
    process = multiprocessing.get_context("spawn").Process(
        target=_purge_and_die, args=(database.url, jobs)
    )
    process.start()
    process.join(60)
    assert process.exitcode == -signal.SIGKILL
    assert list(closed_of(engine).values()).count(2) == jobs - 1
    site.check()
    assert site.accounting.purge(BOUND) == (BOUND, 3 - jobs)
    site.check()


# -- how late ---------------------------------------------------------------------------------


@on_sqlite
@pytest.mark.parametrize(("days", "refused"), [(6, True), (7, False), (8, False)])
def test_a_bound_within_the_days_that_passes_compare_is_refused(
    engine: Engine, clock: Clock, days: int, refused: bool
) -> None:
    site = four_jobs(engine)
    bound = NOW - days * DAY
    assert bound % DAY == 0
    if refused:
        with pytest.raises(BadSpan, match=r"the latest is 2023-11-09 00:00:00"):
            site.accounting.purge(bound)
        assert row_counts(engine)["spans"] == 8
    else:
        assert site.accounting.purge(bound) == (bound, 3)
    site.check()


@on_sqlite
def test_how_late_is_a_matter_of_recheck_days(engine: Engine) -> None:
    site = four_jobs(engine, "recheck_days = 0\n")
    assert site.accounting.purge(NOW)[1] == 4
    site.check()
    site.accounting.catch_up()
    site.check()


# -- the command ------------------------------------------------------------------------------


def test_the_command_tells_the_bound_and_how_many(database: Database, engine: Engine) -> None:
    site = four_jobs(engine)
    done = run("--url", database.url, "purge", "--before", "2023-09-14T17:00")
    assert done.returncode == 0
    assert done.stdout == "2 jobs that ended before 2023-09-14 00:00:00 UTC were purged\n"
    assert run("--url", database.url, "verify").returncode == 0
    site.check()


@on_sqlite
@pytest.mark.parametrize(
    ("date", "expected"),
    [
        ("soon", "'soon' is no time; expected a date"),
        ("2023-02-30", "'2023-02-30' is no time"),
        ("", "'' is no time"),
        ("9" * 30, "beyond any calendar"),
        ("2023-11-14", "too late to purge before"),
        ("3000-01-01", "too late to purge before"),
    ],
)
def test_a_wrong_date_is_one_clear_line(
    database: Database, engine: Engine, date: str, expected: str
) -> None:
    site = four_jobs(engine)
    done = run("--url", database.url, "purge", "--before", date)
    assert expected in said(done)
    assert done.returncode == 2
    site.check()
    assert row_counts(engine)["spans"] == 8


@on_sqlite
def test_a_purge_without_a_date_is_refused(database: Database) -> None:
    done = run("--url", database.url, "purge")
    assert "--before" in done.stderr
    assert done.returncode == 2


@on_sqlite
@pytest.mark.parametrize(
    "command", [["purge", "--before", "2001-01-01"], ["retire", "--from", "1"]]
)
def test_a_site_that_was_never_recorded_is_not_made(
    database: Database, engine: Engine, command: list[str]
) -> None:
    four_jobs(engine)
    run("--url", database.url, "--site", "mistyped", *command)
    with engine.connect() as connection:
        assert connection.execute(select(schema.sites.c.name)).scalars().all() == ["oar"]

"""Catch-up, record and rebuild: what OAR has is recorded once, followed, and never lost."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from sqlalchemy import Engine, create_engine, delete

from oar_accounting import Accounting, OtherOar, PassReport, SettingsError, UnknownName, WriterBusy
from oar_accounting.database import id_blocks
from oar_accounting.ledger import verify
from oar_accounting.ledger.ledger import Book
from oar_accounting.ledger.reading import OVERLAP
from oar_accounting.ledger.schema import totals
from oar_accounting.oar import snapshot
from oar_accounting.recording import catch_up, passes
from tests.servers import Database
from tests.small_oar import (
    DAY,
    HOUR,
    NOW,
    T0,
    Clock,
    Recorded,
    SmallOar,
    oar_metadata,
    opened,
    recorded,
    stopped_clock,
)

on_sqlite = pytest.mark.databases("sqlite")

Verb = Callable[[], PassReport]

CORE = '[metrics.core]\ndistinct = "core"\nunit = "core·s"\n'
LICENCE = '[metrics.licence]\ncount = true\ntype = "licence"\nunit = "licence·s"\n'


@pytest.fixture(autouse=True)
def clock() -> Iterator[Clock]:
    """The verbs' clock stands at `NOW`."""
    with stopped_clock() as stopped:
        yield stopped


def counts(report: PassReport) -> tuple[int, int, int]:
    """Done, changed and open of a pass that met no problem."""
    assert report.problems == ()
    return report.done, report.changed, report.open


def reasons(report: PassReport) -> dict[int, str]:
    """The problems by job."""
    return {problem.job_id: problem.reason for problem in report.problems}


def from_scratch(engine: Engine, toml: str = "") -> dict[str, list[tuple[Any, ...]]]:
    """Everything as a site records it that has never been recorded."""
    return recorded(engine, toml, site="scratch").everything()


def lawful(accounting: Accounting) -> Recorded:
    """What is recorded, which is as the law has it."""
    assert accounting.verify() == []
    return Recorded(accounting)


# -- counts -----------------------------------------------------------------------------------


def test_a_pass_counts_what_it_did(engine: Engine) -> None:
    oar = SmallOar(engine)
    accounting = opened(engine)
    assert counts(accounting.catch_up()) == (0, 0, 0)
    ended = [oar.add_job(), oar.add_job(state="Error")]
    running = oar.add_job(state="Running")
    oar.add_job(state="Waiting", start=0, moldable=False)
    assert counts(accounting.catch_up()) == (2, 0, 1)
    oar.update_job(ended[0], stop_time=T0 + 60)
    oar.update_job(running, state="Terminated", stop_time=T0 + 60)
    assert counts(accounting.catch_up()) == (1, 1, 0)
    oar.add_job(stop=T0 - 1)
    report = accounting.catch_up()
    assert [problem.job_id for problem in report.problems] == [5]
    lawful(accounting)


def test_a_second_pass_with_nothing_new_changes_nothing(engine: Engine) -> None:
    oar = SmallOar(engine)
    for number in range(3):
        oar.add_job(user=f"user{number}", pauses=[(T0 + 10, T0 + 20)])
    oar.add_job(state="Suspended", pauses=[(T0 + 10, 0)])
    oar.add_job(stop=T0 - 1)
    accounting = opened(engine)
    assert set(reasons(accounting.catch_up())) == {5}
    before = Recorded(accounting).everything()
    for full in (False, True):
        assert counts(accounting.catch_up(full=full)) == (0, 0, 1)
        assert lawful(accounting).everything() == before


@on_sqlite
def test_a_pass_with_nothing_new_writes_no_job(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    oar = SmallOar(engine)
    oar.add_job()
    oar.add_job(state="Running")
    accounting = opened(engine)
    accounting.catch_up()
    monkeypatch.setattr(Book, "post", None)
    accounting.catch_up()
    accounting.catch_up(full=True)
    oar.add_job()
    with pytest.raises(TypeError):
        accounting.catch_up()


def test_many_passes_record_the_same_as_one(engine: Engine, clock: Clock) -> None:
    oar = SmallOar(engine)
    accounting = opened(engine, CORE)
    running = oar.add_job(state="Running", user="alice")
    waiting = oar.add_job(state="Waiting", start=NOW, moldable=False, queue="night")
    accounting.catch_up()
    oar.add_job(types=("container",), stop=T0 + DAY)
    oar.add_job(types=("inner=3",))
    oar.update_job(running, state="Suspended", suspended="YES")
    oar.add_pause(running, T0 + 100, 0)
    accounting.catch_up()
    oar.end_states(running, T0 + 300)
    oar.update_job(running, state="Error", stop_time=T0 + 500)
    oar.update_job(waiting, state="Running", start_time=T0 + 7, job_user="carol")
    accounting.catch_up()
    oar.update_job(waiting, state="Finishing", stop_time=T0 + 90)
    accounting.catch_up()
    oar.update_job(waiting, state="Terminated", stop_time=T0 + 95)
    accounting.catch_up()
    assert lawful(accounting).everything() == from_scratch(engine, CORE)


# -- which jobs a pass finds ------------------------------------------------------------------


def test_jobs_that_are_committed_late_are_found_below_the_highest_id(engine: Engine) -> None:
    oar = SmallOar(engine)
    accounting = opened(engine)
    oar.add_job(job_id=100)
    assert counts(accounting.catch_up()) == (1, 0, 0)
    oar.add_job(job_id=90)
    oar.add_job(job_id=99, state="Running")
    assert counts(accounting.catch_up()) == (1, 0, 1)
    assert set(lawful(accounting).jobs()) == {90, 99, 100}


@on_sqlite
def test_far_below_the_highest_id_only_a_full_pass_finds_a_job(engine: Engine) -> None:
    oar = SmallOar(engine)
    accounting = opened(engine)
    highest = 3 * OVERLAP
    oar.add_job(job_id=highest)
    accounting.catch_up()
    for job in (highest - OVERLAP + 1, highest - OVERLAP):
        oar.add_job(job_id=job, start=T0 - 30 * DAY)
    assert counts(accounting.catch_up()) == (1, 0, 0)
    assert counts(accounting.catch_up(full=True)) == (1, 0, 0)
    assert len(lawful(accounting).jobs()) == 3


def test_an_open_job_is_in_no_total_until_it_ends(engine: Engine) -> None:
    oar = SmallOar(engine)
    accounting = opened(engine)
    job = oar.add_job(state="Running", cores=2)
    assert counts(accounting.catch_up()) == (0, 0, 1)
    site = Recorded(accounting)
    assert site.amounts() == {}
    assert site.spans(job) == [(T0, None)]
    assert accounting.usage().open_jobs == 1
    oar.update_job(job, state="Terminated", stop_time=T0 + 50)
    assert counts(accounting.catch_up()) == (1, 0, 0)
    assert lawful(accounting).used() == 100
    assert site.spans(job) == [(T0, T0 + 50)]
    assert accounting.usage().open_jobs == 0


@on_sqlite
def test_a_job_ends_long_after_the_pass_that_saw_it_run(engine: Engine, clock: Clock) -> None:
    oar = SmallOar(engine)
    accounting = opened(engine)
    job = oar.add_job(state="Running", cores=1)
    accounting.catch_up()
    oar.update_job(job, state="Terminated", stop_time=T0 + 50)
    clock.now = T0 + 300 * DAY
    assert counts(accounting.catch_up()) == (1, 0, 0)
    assert lawful(accounting).used() == 50


@on_sqlite
def test_a_finishing_job_with_a_stop_time_is_followed_to_its_end(engine: Engine) -> None:
    oar = SmallOar(engine)
    accounting = opened(engine)
    job = oar.add_job(state="Finishing", stop=T0 + 50, cores=1)
    assert counts(accounting.catch_up()) == (1, 0, 0)
    assert lawful(accounting).used() == 50
    oar.update_job(job, state="Error", stop_time=T0 + 52)
    assert counts(accounting.catch_up()) == (0, 1, 0)
    assert lawful(accounting).used() == 52
    assert Recorded(accounting).jobs()[job]["unsettled"] == 0


@on_sqlite
def test_a_job_suspended_and_resumed_between_two_passes_is_seen(engine: Engine) -> None:
    oar = SmallOar(engine)
    accounting = opened(engine)
    job = oar.add_job(state="Running", cores=1)
    accounting.catch_up()
    oar.add_pause(job, T0 + 10, T0 + 20, T0 + 30)
    oar.update_job(job, suspended="YES")
    accounting.catch_up()
    assert lawful(accounting).spans(job) == [(T0, T0 + 10), (T0 + 30, None)]
    oar.add_pause(job, T0 + 40, T0 + 50)
    accounting.catch_up()
    assert lawful(accounting).spans(job) == [
        (T0, T0 + 10),
        (T0 + 30, T0 + 40),
        (T0 + 50, None),
    ]


@on_sqlite
def test_a_walltime_changed_while_a_job_runs_is_followed(engine: Engine) -> None:
    oar = SmallOar(engine)
    accounting = opened(engine)
    job = oar.add_job(state="Running", cores=1, walltime=60)
    accounting.catch_up()
    oar.update_job(job, walltime=360)
    accounting.catch_up()
    assert lawful(accounting).spans(job, asked=True) == [(T0, T0 + 360)]
    oar.update_job(job, state="Terminated", stop_time=T0 + 9)
    accounting.catch_up()
    assert lawful(accounting).amounts()["resource"] == (360, 9)


@on_sqlite
def test_a_resubmitted_job_counts_when_it_runs_whatever_times_were_copied(
    engine: Engine,
) -> None:
    oar = SmallOar(engine)
    accounting = opened(engine)
    oar.add_job(cores=1, state="Error")
    again = oar.add_job(cores=1, state="Waiting", stop=T0 + HOUR)
    assert counts(accounting.catch_up()) == (1, 0, 0)
    assert lawful(accounting).used() == HOUR
    oar.update_job(again, state="Running", start_time=T0 + 2 * HOUR)
    assert counts(accounting.catch_up()) == (0, 0, 1)
    oar.update_job(again, state="Terminated", stop_time=T0 + 3 * HOUR)
    assert counts(accounting.catch_up()) == (1, 0, 0)
    assert lawful(accounting).used() == 2 * HOUR


# -- what OAR corrects ------------------------------------------------------------------------


def test_a_corrected_stop_time_moves_the_totals_by_the_difference(engine: Engine) -> None:
    oar = SmallOar(engine)
    oar.add_job(cores=4, stop=T0 + 50)
    corrected = oar.add_job(cores=2, stop=T0 + 100)
    accounting = opened(engine)
    accounting.catch_up()
    oar.update_job(corrected, stop_time=T0 + DAY + 7)
    assert counts(accounting.catch_up()) == (0, 1, 0)
    assert lawful(accounting).used() == 4 * 50 + 2 * (DAY + 7)
    oar.update_job(corrected, stop_time=T0 + 1)
    accounting.catch_up()
    assert lawful(accounting).used() == 4 * 50 + 2
    assert Recorded(accounting).everything() == from_scratch(engine)


@on_sqlite
@pytest.mark.parametrize(("days", "found"), [(7, 1), (8, 0)])
def test_only_a_full_pass_finds_an_old_correction(
    engine: Engine, clock: Clock, days: int, found: int
) -> None:
    oar = SmallOar(engine)
    job = oar.add_job(cores=1, start=T0 - 10, stop=T0)
    accounting = opened(engine)
    accounting.catch_up()
    clock.now = T0 + days * DAY
    accounting.catch_up()
    oar.update_job(job, start_time=T0 - 30)
    assert counts(accounting.catch_up()) == (0, found, 0)
    assert lawful(accounting).used() == (30 if found else 10)
    assert counts(accounting.catch_up(full=True)) == (0, 1 - found, 0)
    assert lawful(accounting).used() == 30


@on_sqlite
def test_how_far_a_pass_looks_back_is_a_setting(engine: Engine, clock: Clock) -> None:
    oar = SmallOar(engine)
    job = oar.add_job(cores=1, start=T0 - 10, stop=T0)
    accounting = opened(engine, "recheck_days = 30\n")
    accounting.catch_up()
    clock.now = T0 + 30 * DAY
    oar.update_job(job, start_time=T0 - 30)
    assert counts(accounting.catch_up()) == (0, 1, 0)


def test_names_changed_after_recording_are_followed(engine: Engine) -> None:
    oar = SmallOar(engine)
    job = oar.add_job(cores=1, stop=T0 + 5, walltime=9)
    oar.add_job(cores=1, stop=T0 + 50, walltime=90)
    accounting = opened(engine)
    accounting.catch_up()
    for column, key in (("project", "project"), ("job_user", "user"), ("queue_name", "queue")):
        before = "bob" if key == "user" else "default"
        assert Recorded(accounting).by(key) == {before: (99, 55)}
        changes: dict[str, Any] = {column: "l'eau"}
        oar.update_job(job, **changes)
        assert counts(accounting.catch_up()) == (0, 1, 0)
        assert lawful(accounting).by(key) == {before: (90, 50), "l'eau": (9, 5)}


# -- what OAR deletes -------------------------------------------------------------------------


def test_jobs_that_oar_deleted_keep_their_amounts(engine: Engine) -> None:
    oar = SmallOar(engine)
    kept, deleted, _ = oar.add_job(cores=1), oar.add_job(cores=2), oar.add_job(cores=3)
    accounting = opened(engine)
    accounting.catch_up()
    before = Recorded(accounting).everything()
    oar.remove_job(deleted)
    report = accounting.catch_up()
    assert (counts(report), report.notices) == ((0, 0, 0), ())
    report = accounting.catch_up(full=True)
    assert counts(report) == (0, 0, 0)
    assert report.notices == (
        f"recorded jobs that are no longer in OAR: 1, the first is {deleted}; what they asked for "
        "and used is kept",
    )
    accounting.rebuild()
    accounting.rebuild(from_oar=True)
    assert lawful(accounting).everything() == before
    assert kept in Recorded(accounting).jobs()


def test_a_running_job_that_oar_deleted_ends_at_the_last_pass(engine: Engine, clock: Clock) -> None:
    oar = SmallOar(engine)
    running = oar.add_job(cores=2, state="Running", walltime=7 * DAY)
    suspended = oar.add_job(cores=1, state="Suspended", pauses=[(T0 + 100, 0)])
    waiting = oar.add_job(state="Waiting", start=NOW + DAY, moldable=False)
    accounting = opened(engine)
    clock.now = T0 + 500
    accounting.catch_up()
    for job in (running, suspended, waiting):
        oar.remove_job(job)
    clock.now = T0 + 900
    report = accounting.catch_up()
    assert set(reasons(report)) == {running, suspended, waiting}
    assert all(f"the last pass, at {T0 + 500}" in reason for reason in reasons(report).values())
    site = lawful(accounting)
    assert report.open == 0
    assert site.amounts()["resource"] == (2 * 7 * DAY + 2 * HOUR, 2 * 500 + 100)
    assert site.spans(running) == [(T0, T0 + 500)]
    assert {row["closed"] for row in site.jobs().values()} == {1}
    clock.now = T0 + 1200
    assert counts(accounting.catch_up()) == (0, 0, 0)
    assert lawful(accounting).spans(running) == [(T0, T0 + 500)]


@on_sqlite
def test_a_deleted_job_that_started_after_the_last_pass_used_nothing(
    engine: Engine, clock: Clock
) -> None:
    oar = SmallOar(engine)
    accounting = opened(engine)
    clock.now = T0 - 100
    accounting.catch_up()
    job = oar.add_job(cores=1, state="Running")
    accounting.record([job])
    oar.remove_job(job)
    clock.now = T0 + 100
    report = accounting.record([job])
    assert reasons(report) == {
        job: f"OAR no longer has it; it is recorded up to the last pass, at {T0 - 100}"
    }
    assert lawful(accounting).used() == 0
    assert Recorded(accounting).jobs()[job]["stop_time"] == T0
    assert reasons(accounting.record([job])) == {job: "is not in OAR's table jobs"}


@on_sqlite
def test_a_removed_resource_takes_no_amount_away(engine: Engine) -> None:
    oar = SmallOar(engine)
    oar.add_job(user="alice", resources=[1, 2])
    oar.add_job(user="bob", resources=[2, 3])
    oar.add_job(user="carol", resources=[4])
    accounting = opened(engine, CORE)
    accounting.catch_up()
    before = Recorded(accounting).everything()
    oar.remove_resource(2)
    accounting.catch_up(full=True)
    accounting.rebuild(from_oar=True)
    assert lawful(accounting).everything() == before


def test_a_job_that_lost_all_its_resources_in_oar_keeps_its_amounts(engine: Engine) -> None:
    oar = SmallOar(engine)
    job = oar.add_job(resources=[1, 2])
    oar.add_job(resources=[3])
    accounting = opened(engine, CORE)
    accounting.catch_up()
    before = Recorded(accounting).everything()
    oar.strip_job(job)
    verbs: list[Verb] = [
        lambda: accounting.rebuild(from_oar=True),
        lambda: accounting.record([job]),
    ]
    for verb in verbs:
        assert reasons(verb()) == {job: "OAR no longer has its resources; kept as recorded"}
        assert lawful(accounting).everything() == before


@on_sqlite
def test_a_job_that_lost_some_of_its_resources_in_oar_keeps_its_amounts(engine: Engine) -> None:
    oar = SmallOar(engine)
    stripped = oar.add_job(resources=[1, 2, 3])
    accounting = opened(engine, CORE)
    accounting.catch_up()
    before = Recorded(accounting).everything()
    oar.strip_job(stripped, 2)
    assert set(reasons(accounting.rebuild(from_oar=True))) == {stripped}
    assert lawful(accounting).everything() == before


@on_sqlite
@pytest.mark.parametrize("lost", ["core", "licence"])
def test_a_job_one_of_whose_resources_is_no_longer_described_keeps_its_amounts(
    engine: Engine, lost: str
) -> None:
    oar = SmallOar(engine)
    (licence,) = oar.add_resources(1, kind="licence")
    job = oar.add_job(resources=[1, 2, licence])
    accounting = opened(engine, CORE + LICENCE)
    accounting.catch_up()
    before = Recorded(accounting).everything()
    oar.lose_resource(2 if lost == "core" else licence)
    assert set(reasons(accounting.rebuild(from_oar=True))) == {job}
    assert lawful(accounting).everything() == before


@on_sqlite
def test_a_new_job_with_a_resource_that_oar_does_not_describe_is_reported(
    engine: Engine,
) -> None:
    oar = SmallOar(engine)
    accounting = opened(engine)
    job = oar.add_job(resources=[1, 2, 77])
    assert "a resource that OAR has removed" in reasons(accounting.catch_up())[job]
    assert lawful(accounting).used() == 2 * HOUR


@on_sqlite
def test_a_resource_added_during_a_pass_is_known_to_it(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    oar = SmallOar(engine)
    accounting = opened(engine, CORE)
    first, second = oar.add_job(resources=[1]), oar.add_job(resources=[9])
    small_blocks(monkeypatch, 1)
    settle = passes.Pass.settle

    def added_between(self: passes.Pass, block: Any, **options: Any) -> Any:
        if block.tolist() == [second]:
            oar.add_resources(1, host="beta-1", cluster="beta")
        return settle(self, block, **options)

    monkeypatch.setattr(passes.Pass, "settle", added_between)
    assert counts(accounting.catch_up()) == (2, 0, 0)
    assert lawful(accounting).by("cluster", "core") == {
        "alpha": (2 * HOUR, HOUR),
        "beta": (2 * HOUR, HOUR),
    }
    assert first < second


def test_an_id_used_again_for_another_job_is_never_overwritten(engine: Engine) -> None:
    oar = SmallOar(engine)
    job = oar.add_job(cores=1)
    accounting = opened(engine)
    accounting.catch_up()
    before = Recorded(accounting).everything()
    oar.remove_job(job)
    oar.add_job(job_id=job, user="eve", cores=8, start=T0 + HOUR)
    for full in (False, True):
        with pytest.raises(OtherOar, match=f"retire --from {job}$"):
            accounting.catch_up(full=full)
    verbs: list[Verb] = [
        lambda: accounting.record([job]),
        lambda: accounting.rebuild(from_oar=True),
    ]
    for verb in verbs:
        assert "is another job now" in reasons(verb())[job]
    assert lawful(accounting).everything() == before


@on_sqlite
def test_an_open_job_whose_id_is_used_again_ends_at_the_last_pass(
    engine: Engine, clock: Clock
) -> None:
    oar = SmallOar(engine)
    job = oar.add_job(cores=1, state="Running")
    accounting = opened(engine)
    clock.now = T0 + 500
    accounting.catch_up()
    oar.remove_job(job)
    oar.add_job(job_id=job, user="eve", cores=8, start=T0 + HOUR)
    assert accounting.retire(job) == 1
    report = accounting.catch_up()
    assert reasons(report) == {}
    assert report.open == 0
    assert lawful(accounting).by("user") == {
        "bob": (2 * HOUR, 500),
        "eve": (16 * HOUR, 8 * HOUR),
    }


# -- problems ---------------------------------------------------------------------------------


def test_impossible_times_do_not_stop_the_pass(engine: Engine) -> None:
    oar = SmallOar(engine)
    wrong = [
        oar.add_job(stop=T0 - 1),
        oar.add_job(start=1, stop=T0),
        oar.add_job(stop=T0 + 10**11),
    ]
    oar.add_job(cores=1)
    accounting = opened(engine)
    report = accounting.catch_up()
    assert sorted(reasons(report)) == wrong
    assert lawful(accounting).used() == HOUR
    assert set(Recorded(accounting).jobs()) == {*wrong, 4}
    oar.update_job(wrong[0], stop_time=T0 + 1)
    assert counts(accounting.catch_up()) == (0, 1, 0)
    assert lawful(accounting).used() == HOUR + 8


@on_sqlite
def test_a_name_that_is_too_long_is_reported_and_the_others_are_recorded(engine: Engine) -> None:
    oar = SmallOar(engine)
    long, good = oar.add_job(user="x" * 256), oar.add_job(user="x" * 255, cores=1)
    accounting = opened(engine)
    assert set(reasons(accounting.catch_up())) == {long}
    assert lawful(accounting).by("user") == {"x" * 255: (2 * HOUR, HOUR)}
    assert set(Recorded(accounting).jobs()) >= {good}


@on_sqlite
def test_an_amount_beyond_63_bits_costs_the_job_that_metric_and_no_other(
    engine: Engine,
) -> None:
    oar = SmallOar(engine)
    oar.set_resource(1, mem=2**31 - 1)
    huge = oar.add_job(resources=[1])
    oar.add_job(resources=[2], stop=T0 + 1)
    toml = '[metrics.memory]\nsum = "mem"\nscale = 1_000_000_000\nunit = "MiB.s"\n'
    accounting = opened(engine, toml)
    said = f"metric memory: holds {(2**31 - 1) * 10**9} units a second: its amount exceeds 2^62"
    for report in (
        accounting.catch_up(),
        accounting.record([huge]),
        accounting.rebuild(metric="memory", from_oar=True),
    ):
        assert reasons(report) == {huge: f"{said}; counted as nothing"}
        assert lawful(accounting).rates(huge) == {"resource": 1, "node": 1}
        assert lawful(accounting).used() == HOUR + 1
    assert [each.subject for each in accounting.problems()] == [str(huge)]
    oar.set_resource(1, mem=1)
    accounting.rebuild(metric="memory", from_oar=True)
    assert lawful(accounting).rates(huge)["memory"] == 10**9
    assert accounting.problems() == []


# -- record -----------------------------------------------------------------------------------


def test_single_jobs_are_recorded_as_they_are_now(engine: Engine) -> None:
    oar = SmallOar(engine)
    ended = oar.add_job(cores=1)
    running = oar.add_job(state="Running")
    other = oar.add_job(cores=8)
    accounting = opened(engine)
    assert counts(accounting.record([running, ended])) == (1, 0, 1)
    assert lawful(accounting).used() == HOUR
    assert set(Recorded(accounting).jobs()) == {ended, running}
    accounting.catch_up()
    assert other in lawful(accounting).jobs()
    assert Recorded(accounting).everything() == from_scratch(engine)


@on_sqlite
def test_recording_twice_is_recording_once(engine: Engine) -> None:
    oar = SmallOar(engine)
    job = oar.add_job(cores=1, pauses=[(T0 + 5, T0 + 6)])
    accounting = opened(engine)
    accounting.record([job])
    before = Recorded(accounting).everything()
    accounting.record([job, job])
    assert lawful(accounting).everything() == before
    assert counts(accounting.catch_up()) == (0, 0, 0)
    assert lawful(accounting).everything() == before


@on_sqlite
def test_an_unknown_id_is_reported_and_the_others_are_recorded(engine: Engine) -> None:
    oar = SmallOar(engine)
    job = oar.add_job(cores=1)
    accounting = opened(engine)
    report = accounting.record([job, 4711])
    assert reasons(report) == {4711: "is not in OAR's table jobs"}
    assert report.done == 1
    assert set(Recorded(accounting).jobs()) == {job}
    assert accounting.record([]).problems == ()


@on_sqlite
def test_record_sees_what_a_pass_does_not_look_for(engine: Engine, clock: Clock) -> None:
    oar = SmallOar(engine)
    job = oar.add_job(cores=1, stop=T0 + 5)
    accounting = opened(engine)
    accounting.catch_up()
    oar.add_pause(job, T0 + 1, T0 + 2)
    accounting.catch_up()
    assert lawful(accounting).used() == 5
    accounting.record([job])
    assert lawful(accounting).used() == 4


@on_sqlite
def test_a_job_recorded_before_the_first_pass_is_followed_by_it(engine: Engine) -> None:
    oar = SmallOar(engine)
    job = oar.add_job(cores=1, state="Running")
    accounting = opened(engine)
    assert counts(accounting.record([job])) == (0, 0, 1)
    oar.update_job(job, state="Terminated", stop_time=T0 + 5)
    assert counts(accounting.catch_up()) == (1, 0, 0)
    assert lawful(accounting).used() == 5


# -- rebuild ----------------------------------------------------------------------------------


def test_a_rebuild_mends_totals_that_are_wrong(engine: Engine) -> None:
    oar = SmallOar(engine)
    for user in ("alice", "bob"):
        oar.add_job(user=user, stop=T0 + 3 * DAY)
    accounting = opened(engine, CORE)
    accounting.catch_up()
    before = Recorded(accounting).everything()
    with engine.begin() as connection:
        connection.exec_driver_sql("UPDATE accounting_totals SET used = used + 1 WHERE used > 0")
        connection.execute(delete(totals).where(totals.c.window_start == T0 + DAY))
    assert len(accounting.verify(most=100)) == 2 * 3 * 3
    report = accounting.rebuild()
    assert (counts(report), report.notices) == ((0, 0, 0), ())
    assert lawful(accounting).everything() == before


@on_sqlite
def test_a_rebuild_from_oar_reads_every_job_again(engine: Engine, clock: Clock) -> None:
    oar = SmallOar(engine)
    job = oar.add_job(cores=1, stop=T0 + 9)
    oar.add_job(cores=1, state="Running")
    accounting = opened(engine)
    accounting.catch_up()
    clock.now = T0 + 99 * DAY
    oar.update_job(job, stop_time=T0 + 7)
    new = oar.add_job(cores=1, stop=T0 + 100)
    assert lawful(accounting).used() == 9
    report = accounting.rebuild(from_oar=True)
    assert (report.problems, report.notices) == ((), ())
    assert lawful(accounting).used() == 107
    assert new in Recorded(accounting).jobs()
    assert Recorded(accounting).everything() == from_scratch(engine)


WINDOW = "window = 3600\n"
CHANGES = {
    "window": (WINDOW, "window is 3600 s in the settings, 86400 s as recorded", False),
    "profile": (
        'profile = "classic"\n',
        "profile is 'classic' in the settings, 'default' as recorded",
        True,
    ),
    "containers": (
        'containers = "both"\n',
        "containers is 'both' in the settings, 'outer' as recorded",
        True,
    ),
    "dimension": (
        'dimension = "network_address"\n',
        "dimension is 'network_address' in the settings, 'cluster' as recorded",
        True,
    ),
    "grace": ("grace = 60\n", "grace is 60 s in the settings, left out as recorded", True),
}


def varied(oar: SmallOar) -> None:
    """Jobs that every setting reads otherwise."""
    oar.add_job(user="alice", types=("container",), pauses=[(T0 + 50, T0 + 60)])
    oar.add_job(user="bob", types=("inner=1",))
    oar.add_job(user="carol", state="Error", stop=T0)
    oar.add_job(user="dave", state="Running")
    oar.add_job(user="erin", state="Finishing", stop=T0 + 9 * HOUR)


@on_sqlite
@pytest.mark.parametrize(("toml", "notice", "from_oar"), CHANGES.values(), ids=list(CHANGES))
def test_a_changed_setting_is_told_and_only_a_rebuild_switches(
    engine: Engine, toml: str, notice: str, from_oar: bool
) -> None:
    oar = SmallOar(engine)
    varied(oar)
    before = recorded(engine).everything()
    changed = opened(engine, toml)
    way = "rebuild --from-oar" if from_oar else "rebuild"
    verbs: list[Verb] = [
        changed.catch_up,
        lambda: changed.catch_up(full=True),
        lambda: changed.record([1, 2, 3]),
    ]
    for verb in verbs:
        assert verb().notices == (f"{notice}: oar-accounting {way}",)
        assert lawful(changed).everything() == before
    assert changed.rebuild(from_oar=from_oar).notices == ()
    assert lawful(changed).everything() == from_scratch(engine, toml)
    assert Recorded(changed).everything() != before
    report = changed.catch_up()
    assert (report.notices, report.problems) == ((), ())


def test_several_settings_switch_in_one_rebuild(engine: Engine) -> None:
    oar = SmallOar(engine)
    varied(oar)
    recorded(engine)
    toml = "".join(change[0] for change in CHANGES.values())
    changed = opened(engine, toml)
    assert len(changed.catch_up().notices) == len(CHANGES)
    assert changed.rebuild(from_oar=True).notices == ()
    assert lawful(changed).everything() == from_scratch(engine, toml)


@on_sqlite
def test_a_rebuild_without_reading_oar_leaves_what_needs_oar(engine: Engine) -> None:
    oar = SmallOar(engine)
    varied(oar)
    before = recorded(engine).amounts()
    changed = opened(engine, WINDOW + 'profile = "classic"\n')
    (notice,) = changed.rebuild().notices
    assert "rebuild --from-oar" in notice
    assert lawful(changed).amounts() == before


# -- metrics that are declared later ----------------------------------------------------------


def test_a_new_metric_is_hidden_until_it_is_complete(engine: Engine) -> None:
    oar = SmallOar(engine)
    varied(oar)
    before = recorded(engine).everything()
    changed = opened(engine, CORE)
    notice = ("metric core is declared and not recorded yet: oar-accounting rebuild --metric core",)
    assert changed.catch_up().notices == notice
    assert lawful(changed).everything() == before
    with pytest.raises(UnknownName, match="core"):
        changed.usage((), ("core",))
    assert changed.rebuild(metric="core").notices == ()
    assert lawful(changed).everything() == from_scratch(engine, CORE)
    assert changed.catch_up().notices == ()


@on_sqlite
def test_a_changed_definition_is_recorded_as_before_until_it_is_rebuilt(engine: Engine) -> None:
    oar = SmallOar(engine)
    varied(oar)
    before = recorded(engine, CORE).everything()
    doubled = CORE + "scale = 2\n"
    changed = opened(engine, doubled)
    assert changed.catch_up().notices == (
        "metric core is declared otherwise than it is recorded, and recorded as before: "
        "oar-accounting rebuild --metric core",
    )
    assert lawful(changed).everything() == before
    old = lawful(changed).amounts()["core"]
    assert changed.rebuild(metric="core").notices == ()
    assert lawful(changed).amounts()["core"] == (2 * old[0], 2 * old[1])
    assert Recorded(changed).everything() == from_scratch(engine, doubled)


@on_sqlite
def test_a_metric_that_is_no_longer_declared_is_kept_and_told(engine: Engine) -> None:
    oar = SmallOar(engine)
    oar.add_job(cores=1)
    recorded(engine, CORE)
    without = opened(engine)
    oar.add_job(cores=1)
    assert without.catch_up().notices == ("metric core is recorded and no longer declared",)
    assert lawful(without).used("core") == 2 * HOUR


@on_sqlite
def test_jobs_recorded_while_a_metric_is_built_are_in_it(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    oar = SmallOar(engine)
    oar.add_job(cores=1)
    recorded(engine)
    changed, hook = opened(engine, CORE), opened(engine)

    def ends_meanwhile(done: int, total: int) -> None:
        hook.record([oar.add_job(cores=1)])

    changed.rebuild(metric="core", progress=ends_meanwhile)
    assert lawful(changed).everything() == from_scratch(engine, CORE)
    assert Recorded(changed).used("core") == 2 * HOUR


@on_sqlite
def test_jobs_that_oar_deleted_are_told_when_a_new_metric_cannot_have_them(
    engine: Engine,
) -> None:
    oar = SmallOar(engine)
    gone = [oar.add_job(cores=1), oar.add_job(cores=1)]
    oar.add_job(cores=1)
    recorded(engine)
    oar.remove_job(gone[0])
    oar.strip_job(gone[1])
    changed = opened(engine, CORE)
    assert sorted(reasons(changed.rebuild(metric="core"))) == gone
    assert lawful(changed).used("core") == HOUR
    assert lawful(changed).used() == 3 * HOUR


@on_sqlite
def test_a_metric_read_again_keeps_what_oar_has_deleted(engine: Engine) -> None:
    oar = SmallOar(engine)
    gone, stripped = oar.add_job(cores=1), oar.add_job(cores=2)
    torn = oar.add_job(cores=3)
    oar.add_job(cores=4)
    accounting = opened(engine, CORE)
    accounting.catch_up()
    before = Recorded(accounting).everything()
    oar.remove_job(gone)
    oar.strip_job(stripped)
    oar.strip_job(torn, 2)
    accounting.rebuild(metric="core", from_oar=True)
    assert lawful(accounting).everything() == before


def test_of_two_rebuilds_of_a_metric_the_later_goes_on(engine: Engine) -> None:
    oar = SmallOar(engine)
    oar.add_job(cores=2)
    opened(engine).catch_up()
    earlier, later = opened(engine, CORE), opened(engine, CORE)

    def begin_another(_done: int, _total: int) -> None:
        later.rebuild(metric="core")

    with pytest.raises(WriterBusy, match="another rebuild of metric core"):
        earlier.rebuild(metric="core", progress=begin_another)
    assert "core" in {row.metric for row in later.usage(("user",)).rows}
    fresh = lawful(later).everything()
    later.rebuild(metric="core", from_oar=True)
    assert lawful(later).everything() == fresh


def test_an_open_job_keeps_what_it_held_when_oar_deletes_its_resources(engine: Engine) -> None:
    oar = SmallOar(engine)
    torn = oar.add_job(resources=[1, 2, 3], state="Running")
    stripped = oar.add_job(resources=[5, 6], state="Running")
    accounting = opened(engine)
    accounting.catch_up()
    oar.strip_job(torn, 2)
    oar.strip_job(stripped)
    for job in (torn, stripped):
        oar.update_job(job, state="Terminated", stop_time=T0 + HOUR)
    assert set(reasons(accounting.catch_up())) == {torn, stripped}
    assert lawful(accounting).by("user")["bob"][1] == 5 * HOUR


@pytest.mark.databases("postgresql")
def test_names_survive_in_a_database_of_another_encoding(database: Database) -> None:
    admin = create_engine(database.url, isolation_level="AUTOCOMMIT")
    name = f"{admin.url.database}_latin1"
    with admin.connect() as connection:
        connection.exec_driver_sql(
            f"CREATE DATABASE {name} ENCODING 'LATIN1' TEMPLATE template0 LC_COLLATE 'C' "
            "LC_CTYPE 'C'"
        )
        engine = create_engine(admin.url.set(database=name))
        oar = SmallOar(engine)
        oar.add_job(user="zoé")
        accounting = opened(engine)
        accounting.catch_up()
        assert [row.group for row in accounting.usage(("user",)).rows] == [("zoé",)] * 2
        lawful(accounting)
        engine.dispose()
        connection.exec_driver_sql(f"DROP DATABASE {name}")
    admin.dispose()


@on_sqlite
def test_an_undeclared_metric_cannot_be_rebuilt(engine: Engine) -> None:
    SmallOar(engine)
    with pytest.raises(UnknownName, match=r"'gpu' is not declared .* resource, node"):
        opened(engine).rebuild(metric="gpu")


# -- interrupted ------------------------------------------------------------------------------


class Interrupted(Exception):
    """A rebuild that is stopped in the middle."""


def small_blocks(monkeypatch: pytest.MonkeyPatch, size: int) -> None:
    """Look at *size* jobs at once."""
    monkeypatch.setattr(id_blocks, "BLOCK", size)
    monkeypatch.setattr(id_blocks, "SPARSE_BLOCK", size)


def stopping(after: int) -> Any:
    """A progress callback that raises at the call number *after*."""
    calls = []

    def progress(done: int, total: int) -> None:
        calls.append((done, total))
        if len(calls) == after:
            raise Interrupted

    return progress


def test_an_interrupted_metric_stays_hidden_and_the_next_run_completes(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    oar = SmallOar(engine)
    for _ in range(2):
        varied(oar)
    shown = recorded(engine, CORE).amounts()
    doubled = CORE + "scale = 2\n"
    changed = opened(engine, doubled)
    small_blocks(monkeypatch, 3)
    with pytest.raises(Interrupted):
        changed.rebuild(metric="core", progress=stopping(2))
    assert lawful(changed).amounts() == shown
    oar.add_job(cores=1, user="zoe")
    (notice,) = changed.catch_up().notices
    assert "rebuild --metric core" in notice
    later = lawful(changed).amounts()
    assert later["core"][1] == shown["core"][1] + HOUR
    assert changed.rebuild(metric="core").notices == ()
    assert lawful(changed).everything() == from_scratch(engine, doubled)


def test_an_interrupted_change_of_the_window_shows_the_old_figures(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    oar = SmallOar(engine)
    varied(oar)
    before = recorded(engine).everything()
    changed = opened(engine, WINDOW)
    monkeypatch.setattr(verify, "TOTALS_AT_ONCE", 2)
    with pytest.raises(Interrupted):
        changed.rebuild(progress=stopping(2))
    assert lawful(changed).everything() == before
    assert changed.catch_up().notices != ()
    assert changed.rebuild().notices == ()
    assert lawful(changed).everything() == from_scratch(engine, WINDOW)


@on_sqlite
def test_an_interrupted_rebuild_of_totals_is_completed_by_the_next(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    oar = SmallOar(engine)
    varied(oar)
    before = recorded(engine).everything()
    with engine.begin() as connection:
        connection.exec_driver_sql("UPDATE accounting_totals SET used = used + 1")
    accounting = opened(engine)
    monkeypatch.setattr(verify, "TOTALS_AT_ONCE", 2)
    with pytest.raises(Interrupted):
        accounting.rebuild(progress=stopping(1))
    assert accounting.verify() != []
    accounting.rebuild()
    assert lawful(accounting).everything() == before


def test_an_interrupted_rebuild_from_oar_keeps_the_law_and_says_that_it_has_not_ended(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    oar = SmallOar(engine)
    for _ in range(2):
        varied(oar)
    recorded(engine)
    toml = WINDOW + 'profile = "classic"\n'
    changed = opened(engine, toml)
    small_blocks(monkeypatch, 3)
    with pytest.raises(Interrupted):
        changed.rebuild(from_oar=True, progress=stopping(2))
    lawful(changed)
    notice = "a rebuild was begun and has not ended: oar-accounting rebuild --from-oar"
    assert changed.catch_up().notices == (notice,)
    assert changed.rebuild(from_oar=True).notices == ()
    assert lawful(changed).everything() == from_scratch(engine, toml)


@on_sqlite
def test_an_interrupted_first_pass_is_continued_by_the_next(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    oar = SmallOar(engine)
    for _ in range(2):
        varied(oar)
    accounting = opened(engine)
    small_blocks(monkeypatch, 3)
    with pytest.raises(Interrupted):
        accounting.catch_up(progress=stopping(2))
    assert len(lawful(accounting).jobs()) == 6
    accounting.catch_up()
    assert lawful(accounting).everything() == from_scratch(engine)


@on_sqlite
def test_a_pass_interrupted_between_two_blocks_forgets_no_job(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    oar = SmallOar(engine)
    far_apart = {1, 1000, 2000}
    for job in far_apart:
        oar.add_job(job_id=job)
    accounting = opened(engine)
    monkeypatch.setattr(id_blocks, "SPARSE_BLOCK", 1)
    monkeypatch.setattr(catch_up, "OVERLAP", 0)
    with monkeypatch.context() as patch:
        settle = passes.Pass.settle
        settled: list[int] = []

        def only_once(self: passes.Pass, block: Any, **options: Any) -> Any:
            if settled:
                raise Interrupted
            settled.extend(block.tolist())
            return settle(self, block, **options)

        patch.setattr(passes.Pass, "settle", only_once)
        with pytest.raises(Interrupted):
            accounting.catch_up()
    assert set(lawful(accounting).jobs()) == {1}
    accounting.catch_up()
    assert set(lawful(accounting).jobs()) == far_apart


# -- metrics ----------------------------------------------------------------------------------


@on_sqlite
@pytest.mark.parametrize(
    ("toml", "said"),
    [
        ('[metrics.x]\nsum = "watts"\nunit = "W.s"\n', "sum = 'watts' is not a property"),
        ('[metrics.x]\ndistinct = "watts"\nunit = "W.s"\n', "distinct = 'watts' is not a"),
        ('[metrics.x]\nsum = "mem"\nper = "host"\nunit = "W.s"\n', "per = 'host' is not a"),
        ('dimension = "rack"\n', "dimension 'rack' is not a property of OAR's resources; known"),
    ],
)
def test_an_unknown_property_is_named_with_those_that_are_known(
    engine: Engine, toml: str, said: str
) -> None:
    oar = SmallOar(engine)
    oar.add_job()
    accounting = opened(engine, toml)
    with pytest.raises(SettingsError) as caught:
        accounting.catch_up()
    assert said in str(caught.value)
    assert "small_oar.toml" in str(caught.value)
    assert "cluster, core, gpu, mem, network_address" in str(caught.value)


@on_sqlite
def test_a_metric_of_an_unknown_property_cannot_be_built(engine: Engine) -> None:
    oar = SmallOar(engine)
    oar.add_job(cores=1)
    recorded(engine)
    changed = opened(engine, '[metrics.x]\nsum = "watts"\nunit = "W.s"\n')
    with pytest.raises(SettingsError, match="watts"):
        changed.rebuild(metric="x")
    assert lawful(changed).used() == HOUR


FORMS = """
[metrics.core]
distinct = "core"
unit = "core·s"
[metrics.gpu]
distinct = "gpu"
unit = "gpu·s"
[metrics.memory]
sum = "mem"
per = "network_address"
unit = "MiB.s"
[metrics.rowmem]
sum = "mem"
unit = "MiB.s"
[metrics.licence]
count = true
type = "licence"
unit = "licence·s"
[metrics.anything]
count = true
type = "*"
unit = "resource·s"
[metrics.halfwatts]
sum = "power"
unit = "W.s"
[metrics.watts]
sum = "power"
unit = "W.s"
scale = 10
"""


def test_every_form_of_a_metric_counts_what_it_says(engine: Engine) -> None:
    oar = SmallOar(engine, nodes=0)
    a = oar.add_resources(2, host="a-1", cluster="a", gpu=1, mem=1000, power="0.5")
    a += oar.add_resources(2, host="a-1", cluster="a", gpu=2, mem=1000, power="0.25")
    a += oar.add_resources(2, host="a-2", cluster="a", mem=500)
    b = oar.add_resources(2, host="b-1", cluster="b", gpu=3, mem=None, power="")
    none = oar.add_resources(1, kind="licence")
    oar.add_job(start=T0, stop=T0 + 1, walltime=10, resources=[*a, *b, *none])
    site = recorded(engine, FORMS)
    used = {name: amounts[1] for name, amounts in site.amounts().items()}
    assert used == {
        "resource": 8,
        "node": 3,
        "core": 8,
        "gpu": 3,
        "memory": 1500,
        "rowmem": 5000,
        "licence": 1,
        "anything": 9,
        "halfwatts": 2,  # 1.5, half to even
        "watts": 15,
    }
    assert site.asked("memory") == 15000
    assert site.by("cluster", "node") == {"a": (20, 2), "b": (10, 1)}
    assert site.by("cluster", "gpu") == {"a": (20, 2), "b": (10, 1)}
    assert site.by("cluster", "licence") == {"": (10, 1)}
    assert site.by("cluster", "anything") == {"": (10, 1), "a": (60, 6), "b": (20, 2)}


@on_sqlite
@pytest.mark.parametrize(("powers", "rate"), [((0.5,), 0), ((0.5, 1), 2), ((2.5,), 2), ((3.5,), 4)])
def test_a_rate_is_rounded_once_per_part_half_to_even(
    engine: Engine, powers: tuple[float, ...], rate: int
) -> None:
    oar = SmallOar(engine, nodes=0)
    held = [oar.add_resources(1, host="h", power=str(power))[0] for power in powers]
    oar.add_job(start=T0, stop=T0 + 1000, resources=held)
    site = recorded(engine, '[metrics.power]\nsum = "power"\nunit = "W.s"\n')
    assert site.used("power") == 1000 * rate


@on_sqlite
def test_a_job_on_several_clusters_has_a_part_on_each(engine: Engine) -> None:
    oar = SmallOar(engine)
    beta = oar.add_resources(3, host="beta-1", cluster="beta")
    nowhere = oar.add_resources(1, host="lost-1")
    job = oar.add_job(stop=T0 + 10, walltime=20, resources=[1, 2, 5, *beta, *nowhere])
    site = recorded(engine)
    assert site.by("cluster") == {"": (20, 10), "alpha": (60, 30), "beta": (60, 30)}
    assert site.by("cluster", "node") == {"": (20, 10), "alpha": (40, 20), "beta": (20, 10)}
    assert site.rates(job) == {"resource": 7, "node": 4}


@on_sqlite
def test_the_dimension_is_any_property_or_none(engine: Engine) -> None:
    oar = SmallOar(engine)
    oar.add_job(stop=T0 + 10, walltime=20)
    by_node = recorded(engine, 'dimension = "network_address"\n', site="by node")
    assert by_node.by("network_address") == {"alpha-1": (80, 40), "alpha-2": (80, 40)}
    by_gpu = recorded(engine, 'dimension = "gpu"\n', site="by gpu")
    assert by_gpu.by("gpu") == {"": (160, 80)}
    none = recorded(engine, 'dimension = ""\n', site="by none")
    assert none.by("cluster") == {"": (160, 80)}


@on_sqlite
def test_without_a_property_cluster_there_is_one_empty_name(engine: Engine) -> None:
    oar = SmallOar(engine, metadata=oar_metadata(without=("cluster", "core")))
    oar.add_job(stop=T0 + 10, walltime=20)
    assert recorded(engine).by("cluster") == {"": (160, 80)}


# -- sizes of blocks --------------------------------------------------------------------------


def test_small_blocks_give_the_same(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    check_blocks(engine, monkeypatch, block=4, pairs=7, overlap=3)


@on_sqlite
@pytest.mark.parametrize(("block", "pairs", "overlap"), [(1, 1, 0), (7, 3, 10_000)])
def test_blocks_of_any_size_give_the_same(
    engine: Engine, monkeypatch: pytest.MonkeyPatch, block: int, pairs: int, overlap: int
) -> None:
    check_blocks(engine, monkeypatch, block=block, pairs=pairs, overlap=overlap)


def check_blocks(
    engine: Engine, monkeypatch: pytest.MonkeyPatch, *, block: int, pairs: int, overlap: int
) -> None:
    """Every verb says with these sizes what it says with the usual ones."""
    oar = SmallOar(engine)
    for number in range(3):
        varied(oar)
        oar.add_job(job_id=1000 * number + 500, cores=number, user=f"user{number}")
    right = from_scratch(engine, CORE)
    small_blocks(monkeypatch, block)
    monkeypatch.setattr(snapshot, "PAIRS_AT_ONCE", pairs)
    monkeypatch.setattr(catch_up, "OVERLAP", overlap)
    monkeypatch.setattr(verify, "VERIFIED_AT_ONCE", block)
    monkeypatch.setattr(verify, "TOTALS_AT_ONCE", pairs)
    settled: list[int] = []
    settle = passes.Pass.settle

    def counted(self: passes.Pass, ids: Any, **options: Any) -> Any:
        settled.append(len(ids))
        return settle(self, ids, **options)

    monkeypatch.setattr(passes.Pass, "settle", counted)
    accounting = opened(engine, CORE)
    accounting.catch_up()
    assert sum(settled) == 18
    assert max(settled) <= block
    assert lawful(accounting).everything() == right
    accounting.rebuild(from_oar=True)
    accounting.rebuild(metric="core", from_oar=True)
    accounting.rebuild()
    assert counts(accounting.catch_up(full=True))[:2] == (0, 0)
    assert lawful(accounting).everything() == right


@on_sqlite
def test_progress_rises_to_the_whole(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    oar = SmallOar(engine)
    for _ in range(7):
        oar.add_job()
    accounting = opened(engine)
    small_blocks(monkeypatch, 2)
    seen: list[tuple[int, int]] = []
    accounting.catch_up(progress=lambda *done: seen.append(done))
    assert seen == [(2, 7), (4, 7), (6, 7), (7, 7)]
    seen.clear()
    accounting.rebuild(from_oar=True, progress=lambda *done: seen.append(done))
    assert seen == [(2, 7), (4, 7), (6, 7), (7, 7)]
    seen.clear()
    accounting.rebuild(metric="node", from_oar=True, progress=lambda *done: seen.append(done))
    assert seen == [(2, 7), (4, 7), (6, 7), (7, 7)]


# -- databases and sites ----------------------------------------------------------------------


def test_oar_and_our_tables_may_be_in_two_databases(database: Database, engine: Engine) -> None:
    oar = SmallOar(engine)
    varied(oar)
    right = from_scratch(engine)
    other = database.other()
    accounting = opened(engine, f'url = "{other}"\n')
    assert str(accounting.engine.url.database) in other
    with accounting:
        accounting.catch_up()
        assert lawful(accounting).everything() == right
        oar.add_job(cores=1)
        accounting.catch_up()
        accounting.rebuild(from_oar=True)
        assert lawful(accounting).everything() == recorded(engine, site="again").everything()


def test_two_sites_share_the_tables_and_nothing_else(database: Database, engine: Engine) -> None:
    here = SmallOar(engine)
    here.add_job(cores=1, stop=T0 + 10)
    other_engine = create_engine(database.other())
    there = SmallOar(other_engine)
    there.add_job(cores=3, stop=T0 + 10)
    there.add_job(cores=4, user="Zoé", stop=T0 + 10)
    lyon = opened(engine, site="lyon")
    ours = f'url = "{database.url}"\n'
    nancy = opened(other_engine, ours + CORE, site="nancy")
    assert counts(lyon.catch_up()) == (1, 0, 0)
    assert counts(nancy.catch_up()) == (2, 0, 0)
    assert lawful(lyon).amounts()["resource"] == (2 * HOUR, 10)
    assert set(lawful(nancy).amounts()) == {"resource", "node", "core"}
    before = Recorded(nancy).everything()
    here.update_job(1, stop_time=T0 + 20)
    lyon.catch_up()
    lyon.rebuild()
    lyon.rebuild(from_oar=True)
    lyon.rebuild(metric="node", from_oar=True)
    assert lawful(nancy).everything() == before
    assert lawful(lyon).used() == 20
    nancy.close()
    other_engine.dispose()

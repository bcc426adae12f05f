"""After a purge every report says what it said before, over whole days and by account keys.

Of a purged job it is known day by day what it asked for and used. Bounds within a day have a share
of that, which is marked; so are single jobs.
"""

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from itertools import count
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, reject, settings
from hypothesis import strategies as st
from sqlalchemy import Engine, create_engine, select, update

from oar_accounting import Accounting, AmountOverflow
from oar_accounting.database.dialects import file_url
from oar_accounting.ledger import schema
from oar_accounting.ledger.ledger import Ledger
from oar_accounting.recording.upkeep.purge import purge_before
from oar_accounting.usage.job_keys import Sizes
from tests.examples import examples
from tests.old_site import OldSite
from tests.servers import Database
from tests.small_oar import T0, Clock, opened, stopped_clock
from tests.strategies import (
    DAY,
    HOUR,
    WINDOWS,
    Entry,
    Job,
    batches,
    enter,
    open_ledger,
    post_all,
    rows_in,
)
from tests.system.cli.test_cli import run

on_sqlite = pytest.mark.databases("sqlite")

Spans = list[tuple[int | None, int | None]]
#: Keys of accounts and of jobs by which all is told apart.
KEYS: tuple[tuple[str, ...], ...] = (
    ("user",),
    ("queue", "cluster"),
    ("size",),
    ("project", "state"),
    ("type", "user"),
    ("job",),
    (),
)
#: By how much of what jobs are told to be small or large.
SIZES = (Sizes(), Sizes(metric="node", bounds=(1, 3, 5_000)))


@pytest.fixture(autouse=True)
def clock() -> Iterator[Clock]:
    """The verbs' clock stands still."""
    with stopped_clock() as stopped:
        yield stopped


def day_of(window: int) -> int:
    """What stays of single jobs is by so many seconds."""
    return DAY if DAY % window == 0 else window


def site_of(engine: Engine, window: int, some: list[Job], name: str = "oar") -> Accounting:
    """These jobs, recorded, with something that was measured of those that ran."""
    accounting = opened(engine, f"window = {window}\n", site=name)
    ledger = open_ledger(Ledger(accounting.engine, name), window)
    post_all(ledger, [some])
    for job in some:
        if job.closed and job.used:
            at = job.used[-1][1] // window * window
            names = (*job.owner, "measured")
            entry = Entry(
                job_id=job.job_id, window_start=at, names=names, metric="node", asked=0, used=77
            )
            with ledger.writing() as book:
                enter(book, job, [entry])
    return accounting


@contextmanager
def scratch(window: int, some: list[Job]) -> Iterator[Accounting]:
    """The same in a database of SQLite of its own."""
    with tempfile.TemporaryDirectory() as directory:
        engine = create_engine(file_url(Path(directory) / "oar.db"))
        yield site_of(engine, window, some)
        engine.dispose()


def purge(accounting: Accounting, bound: int) -> int:
    """Purge before *bound*, however short ago that is; how many jobs."""
    ledger = Ledger(accounting.engine, accounting.settings.site)
    with ledger.reading_site() as (_, site):
        bound = bound // site.terms.window * site.terms.window
        return purge_before(ledger, site, bound, None)


def told(
    accounting: Accounting, start: int | None, stop: int | None, sizes: Sizes
) -> dict[str, Any]:
    """What every report says of a span."""
    found: dict[str, Any] = {}
    for by in KEYS:
        found[f"usage {by}"] = accounting.usage(by, None, start, stop, sizes=sizes)
        found[f"efficiency {by}"] = accounting.efficiency(by, None, start, stop, sizes=sizes)
        found[f"sizes {by}"] = accounting.sizes(by, None, start, stop, sizes=sizes)
        if not {*by} & {"cluster", "job"}:
            found[f"waiting {by}"] = accounting.waiting(by, start, stop, sizes=sizes)
        found[f"top {by}"] = accounting.top(by, "node", start, stop)
    for moment in ("ran", "submitted", "started", "ended"):
        jobs = accounting.jobs(start=start, stop=stop, moment=moment).jobs
        found[f"jobs {moment}"] = [replace(each, purged=False) for each in jobs]
    by_value = accounting.jobs(start=start, stop=stop, where={"cluster": ""})
    found["jobs of no cluster"] = [each.job_id for each in by_value.jobs]
    if start is not None and stop is not None:
        projects = sorted({row.group[0] for row in accounting.usage("project").rows})
        # Its months are those of a calendar.
        for name in projects[:2] if abs(start) < 2**33 else ():
            found[f"project {name}"] = accounting.project(name, "node", start, stop)
        found["as of"] = accounting.usage(("user", "state"), None, as_of=start)
        found["as of, by account"] = accounting.usage("user", None, as_of=start)
        earlier = start - day_of(accounting.settings.window)
        found["as of, within"] = accounting.usage("user", None, earlier, as_of=start)
    return found


def whole_days(some: list[Job], day: int, data: st.DataObject) -> Spans:
    """Spans of whole days around the jobs."""
    ends = [at for job in some for span in (*job.asked, *job.used) for at in span] or [0]
    spans: Spans = [(None, None)]
    first = data.draw(st.sampled_from(ends)) // day + data.draw(st.integers(-1, 1))
    start, stop = first * day, (first + data.draw(st.integers(1, 3))) * day
    spans += [(start, stop), data.draw(st.sampled_from([(None, start), (start, None)]))]
    return spans


SITES = count(1)


def check_law(engine: Engine, some: list[Job], window: int, data: st.DataObject) -> None:
    """What any report says of whole days is the same before and after purges."""
    some = [replace(job, state="Terminated") if job.state == "Vanished" else job for job in some]
    spans = whole_days(some, day_of(window), data)
    sizes = data.draw(st.sampled_from(SIZES))
    bounds = [at for span in spans for at in span if at is not None]
    accounting = site_of(engine, window, some, f"site {next(SITES)}")
    try:
        before = [told(accounting, *span, sizes) for span in spans]
    except AmountOverflow:
        # An open job of a million years, as of an instant: there is no answer to compare.
        reject()
    for _ in range(2):
        purge(accounting, data.draw(st.sampled_from(bounds)))
        assert accounting.verify() == []
        for span, known in zip(spans, before, strict=True):
            now = told(accounting, *span, sizes)
            for name, answer in known.items():
                assert now[name] == answer, (name, span)


LAW = given(some=batches(), window=st.sampled_from([*WINDOWS, 7_000]), data=st.data())
ONE_DATABASE = [HealthCheck.function_scoped_fixture]


@on_sqlite
@settings(max_examples=examples(20), suppress_health_check=ONE_DATABASE)
@LAW
def test_every_report_says_the_same_before_and_after_a_purge(
    engine: Engine, some: list[Job], window: int, data: st.DataObject
) -> None:
    check_law(engine, some, window, data)


@pytest.mark.databases("postgresql", "mariadb")
@pytest.mark.slow
@settings(max_examples=examples(6), suppress_health_check=ONE_DATABASE)
@LAW
def test_so_it_does_on_a_server(
    engine: Engine, some: list[Job], window: int, data: st.DataObject
) -> None:
    check_law(engine, some, window, data)


# -- examples, on every database ------------------------------------------------------------------

START = T0 - 30 * DAY
BOUND = T0 - 10 * DAY


def some_jobs(engine: Engine, toml: str = "") -> OldSite:
    """Six jobs of before `BOUND`, one suspended, one in a container, one failed; a later one."""
    site = OldSite(engine, toml)
    site.add_job(29, user="alice", cores=8, seconds=2 * DAY + 7, walltime=3 * DAY)
    site.oar.add_types(1, "container")
    site.add_job(28, user="alice", cores=1, seconds=HOUR, walltime=3 * HOUR)
    site.add_job(27, user="carol", cores=3, seconds=5 * HOUR, walltime=5 * HOUR)
    site.oar.add_job(user="carol", start=START, cores=2, pauses=[(START + 99, START + 999)])
    site.oar.add_job(user="zoé", start=START + DAY, types=["inner=1"], cores=2)
    site.oar.add_job(user="zoé", state="Error", start=0, stop=0, submission=START, moldable=False)
    site.add_job(2, user="bob", cores=4)
    assert site.accounting.catch_up().problems == ()
    return site


def all_told(site: OldSite) -> dict[str, Any]:
    """What all reports say of January, as it were, of some days, and of all times."""
    spans: Spans = [(None, None), (START - DAY, BOUND), (START + DAY, START + 2 * DAY)]
    return {
        f"{span} {name}": answer
        for span in spans
        for name, answer in told(site.accounting, *span, SIZES[0]).items()
    }


def test_efficiency_sizes_waits_and_jobs_outlive_a_purge(engine: Engine) -> None:
    site = some_jobs(engine)
    before = all_told(site)
    assert site.accounting.purge(BOUND) == (BOUND, 6)
    assert all_told(site) == before
    assert site.accounting.coverage(of_jobs=True).lost_jobs == 0
    assert {row.accuracy for row in site.accounting.sizes((), None, START, BOUND)} == {"exact"}


@pytest.mark.slow
@pytest.mark.parametrize("portions", [1, 3])
def test_purged_twice_is_purged_once(engine: Engine, portions: int) -> None:
    site = some_jobs(engine)
    before = all_told(site)
    for nth in range(portions):
        site.accounting.purge(BOUND - (portions - 1 - nth) * 9 * DAY)
        assert all_told(site) == before
    rows = kept(engine)
    site.accounting.purge(BOUND)
    assert kept(engine) == rows
    assert site.accounting.verify() == []


def kept(engine: Engine) -> list[tuple[Any, ...]]:
    """What stays of single purged jobs."""
    with engine.connect() as connection:
        return rows_in(connection, schema.purged)


def test_what_stays_is_by_job_account_metric_and_day(engine: Engine) -> None:
    site = some_jobs(engine)
    site.accounting.purge(BOUND)
    with engine.connect() as connection:
        row = schema.purged.c
        metric = select(schema.metrics.c.metric_id).where(schema.metrics.c.name == "resource")
        query = select(row.day_start, row.rate, row.asked, row.used).where(
            row.job_id == 1, row.metric_id == metric.scalar_subquery()
        )
        days = [tuple(each) for each in connection.execute(query.order_by(row.day_start))]
        without = select(row.asked, row.used, row.rate).where(row.job_id == 6)
        nothing = [tuple(each) for each in connection.execute(without)]
    first = START + DAY
    assert days == [
        (first, 8, 8 * DAY, 8 * DAY),
        (first + DAY, 0, 8 * DAY, 8 * DAY),
        (first + 2 * DAY, 0, 8 * DAY, 56),
    ]
    assert nothing == [(0, 0, 0)]


def test_a_bound_within_a_day_has_a_share_of_what_the_job_had_of_it_and_says_so(
    engine: Engine,
) -> None:
    """To the second where it ran without a pause, and held the same all the time."""
    site = some_jobs(engine)
    start, stop = START + DAY + 12_345, START + 3 * DAY + 3
    asked = site.accounting.query("job", "resource", start, stop, where={"job": 1})
    (before,) = site.accounting.usage(asked).rows
    (size,) = site.accounting.sizes((), "resource", start, stop, where={"user": "alice", "job": 1})
    site.accounting.purge(BOUND)
    (after,) = site.accounting.usage(asked).rows
    assert after == replace(before, accuracy="proportional")
    (later,) = site.accounting.sizes((), "resource", start, stop, where={"user": "alice", "job": 1})
    assert later == replace(size, accuracy="proportional")


def test_a_forgotten_user_has_the_same_under_the_pseudonym(engine: Engine) -> None:
    site = some_jobs(engine)
    site.accounting.purge(BOUND)
    keys = ("user", "size")
    before = site.accounting.efficiency(keys)
    pseudonym = site.accounting.forget_user("alice")
    after = site.accounting.efficiency(keys)
    names = {"alice": pseudonym}
    expected = [
        replace(row, group=(names.get(row.group[0], row.group[0]), row.group[1])) for row in before
    ]
    assert sorted(after, key=repr) == sorted(expected, key=repr)
    assert site.accounting.verify() == []


@pytest.mark.slow
def test_retired_jobs_keep_it_under_their_new_numbers(engine: Engine) -> None:
    site = some_jobs(engine)
    before = all_told(site)
    site.accounting.purge(BOUND)
    for number in range(1, 7):
        site.oar.remove_job(number)
    assert site.accounting.retire(1) == 6
    (first,) = site.accounting.usage("job", "resource", START + DAY, START + 2 * DAY).rows
    assert (first.group, first.used) == (("-1",), 8 * DAY)
    after = all_told(site)
    for name, answer in before.items():
        if "job" not in name:
            assert after[name] == answer, name
    assert site.accounting.verify() == []


@pytest.mark.parametrize(
    "verb",
    [
        *(pytest.param(each, marks=pytest.mark.slow) for each in ("catch-up", "rebuild")),
        pytest.param("rebuild --metric", marks=pytest.mark.slow),
        "rebuild --from-oar",
    ],
)
@pytest.mark.parametrize("vanished", [pytest.param(False, marks=pytest.mark.slow), True])
def test_whatever_follows_reports_say_the_same(engine: Engine, verb: str, vanished: bool) -> None:
    site = some_jobs(engine)
    before = all_told(site)
    site.accounting.purge(BOUND)
    for number in range(1, 7) if vanished else ():
        site.oar.remove_job(number)
    if verb == "catch-up":
        site.accounting.catch_up(full=True)
    else:
        metric = "node" if verb == "rebuild --metric" else None
        from_oar = verb != "rebuild"
        site.accounting.rebuild(metric=metric, from_oar=from_oar)
    assert all_told(site) == before
    assert site.accounting.verify() == []


@pytest.mark.slow
@pytest.mark.parametrize(
    "windows", [(HOUR, DAY), (HOUR, 6 * HOUR), (HOUR, 7 * HOUR), (DAY, 3 * DAY)]
)
def test_in_other_windows_the_days_are_whole_in_both(
    engine: Engine, windows: tuple[int, int]
) -> None:
    first, second = windows
    site = some_jobs(engine, f"window = {first}\n")
    before = all_told(site)
    site.accounting.purge(START + 3 * DAY + HOUR)
    site.reopen(f"window = {second}\n")
    site.accounting.rebuild()
    site.accounting.purge(BOUND)
    assert site.accounting.verify() == []
    after = all_told(site)
    for name, answer in before.items():
        # Of jobs as a whole, and by accounts, whatever the windows are.
        if "efficiency" in name or "waiting" in name or name.startswith("(None, None)"):
            assert after[name] == answer, name


# -- jobs that an earlier version purged ----------------------------------------------------------


def lose(engine: Engine) -> None:
    """Leave of purged jobs what an earlier version did."""
    job = schema.jobs.c
    with engine.begin() as connection:
        connection.execute(schema.purged.delete())
        carrying = update(schema.jobs).where(job.job_id == schema.CARRIED)
        connection.execute(carrying.values(submission_time=0))


@pytest.mark.parametrize("later", [False, True])
def test_of_no_job_is_what_an_earlier_version_purged(engine: Engine, later: bool) -> None:
    """The line that says so is of those that are asked for, also where others were purged since."""
    site = some_jobs(engine)
    accounting = site.accounting
    accounting.purge(START + 3 * DAY)
    lose(engine)
    if later:
        accounting.purge(BOUND)
    # Both that ended by then ran; the third did not.
    assert accounting.coverage(of_jobs=True).lost_jobs == 3
    assert accounting.coverage(of_jobs=True, where={"user": "zoé"}).lost_jobs == 1
    assert accounting.coverage(of_jobs=True, start=START + 6 * DAY).lost_jobs == 0
    assert accounting.coverage().lost_jobs == 0
    whole = accounting.usage((), "resource").total()["resource"]
    by_job = {row.group[0]: row for row in accounting.usage("job", "resource").rows}
    assert sum(row.used for row in by_job.values()) == whole.used
    assert by_job[""].used == HOUR + 2 * (HOUR - 900)
    (unknown,) = (
        row for row in accounting.waiting("size", START, START + DAY) if row.group == ("",)
    )
    assert unknown.jobs == 1


def test_a_span_within_a_window_of_purged_jobs_is_no_silent_nothing(engine: Engine) -> None:
    site = some_jobs(engine)
    begin = START + DAY + HOUR
    accounting = site.accounting
    assert accounting.usage((), ("resource",), begin, begin + HOUR).total()["resource"].used > 0
    assert not accounting.coverage(start=begin, stop=begin + HOUR).begins_in_purged
    accounting.purge(BOUND)
    assert accounting.usage((), ("resource",), begin, begin + HOUR).rows == ()
    cut = accounting.coverage(start=begin, stop=begin + HOUR)
    assert cut.begins_in_purged
    assert cut.notes()[-1].startswith("the span begins within a window of purged jobs: what they")
    for whole in (START + DAY, BOUND + DAY + HOUR, None):
        assert not accounting.coverage(start=whole).begins_in_purged
    # Of single jobs the day is known.
    assert not accounting.coverage(("job",), start=begin).begins_in_purged
    assert not accounting.coverage(start=begin, of_jobs=True).begins_in_purged


def test_verify_tells_of_more_than_was_carried(engine: Engine) -> None:
    site = some_jobs(engine)
    site.accounting.purge(BOUND)
    with engine.begin() as connection:
        row = schema.purged.c
        connection.execute(
            update(schema.purged).where(row.used > 0, row.job_id == 1).values(used=2**40)
        )
    found = site.accounting.verify()
    assert found and all(each.kept for each in found)
    assert {each.user for each in found} == {"alice"}
    assert found[0].used > found[0].expected_used
    (finding,) = (
        each for each in site.accounting.doctor(verify=True).findings if each.subject == "totals"
    )
    assert finding.said == "of single purged jobs more is kept than was carried: restore a backup"


@pytest.mark.databases("sqlite")
def test_the_command_says_that_no_rebuild_mends_what_is_kept(
    database: Database, engine: Engine
) -> None:
    site = some_jobs(engine)
    site.accounting.purge(BOUND)
    with engine.begin() as connection:
        connection.execute(update(schema.purged).values(asked=2**40))
    done = run("--url", database.url, "verify")
    assert done.returncode == 1
    assert "of single purged jobs more is kept than was carried: restore a backup" in done.stderr
    assert "rebuild" not in done.stderr


# -- the commands ---------------------------------------------------------------------------------

#: What tells of jobs, and what does not.
OF_JOBS = (["efficiency"], ["sizes"], ["waiting"], ["project", "default"], ["jobs"])
OF_ALL = (["usage"], ["top"], ["series"])
LOST = "note: 3 jobs were purged by an earlier version: what each of them asked for and used is not"


@pytest.mark.databases("sqlite")
@pytest.mark.parametrize("form", [[], ["--json"], ["--csv"]])
def test_commands_say_how_many_jobs_are_lost(
    database: Database, engine: Engine, form: list[str]
) -> None:
    site = some_jobs(engine)
    site.accounting.purge(START + 3 * DAY)
    period = ["--period", "2023"]
    for command in (*OF_JOBS, *OF_ALL):
        assert "purged" not in run("--url", database.url, *command, *period, *form).stderr
    lose(engine)
    for command in OF_JOBS:
        done = run("--url", database.url, *command, *period, *form)
        assert (done.returncode, LOST in done.stderr) == (0, True), command
    for command in (*OF_ALL, [*OF_JOBS[0], "--from", str(BOUND)]):
        when = [] if "--from" in command else period
        done = run("--url", database.url, *command, *when, *form)
        assert (done.returncode, LOST in done.stderr) == (0, False), command
    by_state = run("--url", database.url, "usage", "--by", "state", *period, *form)
    assert LOST in by_state.stderr


@pytest.mark.databases("sqlite")
def test_commands_say_that_a_bound_cuts_a_day(database: Database, engine: Engine) -> None:
    site = some_jobs(engine)
    site.accounting.purge(BOUND)
    given = ["--from", str(START + DAY + 7), "--to", str(START + 2 * DAY)]
    share = "they have their share by time"
    for command in (["sizes"], ["top", "--by", "job"]):
        for form in ([], ["--json"], ["--csv"]):
            done = run("--url", database.url, *command, *given, *form)
            assert (done.returncode, share in done.stderr) == (0, True), command
    given = ["--from", str(START + DAY), "--to", str(START + 2 * DAY + 7)]
    cut = run("--url", database.url, "project", "default", *given)
    assert "they count whole where they begin" in cut.stderr
    whole = run("--url", database.url, "sizes", "--from", str(START), "--to", str(BOUND))
    assert "note: a bound" not in whole.stderr

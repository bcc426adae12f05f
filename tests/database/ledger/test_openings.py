"""The years before: OAR's own accounting of times of which no jobs are left, taken over."""

import tempfile
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from sqlalchemy import Engine, create_engine, delete, insert, select, text

from oar_accounting import Accounting, OarSchemaError, UnknownName
from oar_accounting.core.columns import ints
from oar_accounting.database.dialects import file_url
from oar_accounting.ledger import schema
from oar_accounting.oar import oar_tables
from oar_accounting.recording.import_accounting import Busy
from tests.examples import examples
from tests.servers import Database
from tests.small_oar import DAY, HOUR, T0, Clock, SmallOar, opened, stopped_clock
from tests.system.cli.test_cli import run, said

on_sqlite = pytest.mark.databases("sqlite")

CLASSIC = 'profile = "classic"\n'
OURS = ("user", "project", "queue")
#: Long before `T0`, a bound of windows of a day.
OLD = T0 - 1000 * DAY

Key = tuple[int, int, str, str, str, str]
Rows = Mapping[Key, int]


@pytest.fixture(autouse=True)
def clock() -> Iterator[Clock]:
    """The verbs' clock stands still."""
    with stopped_clock() as stopped:
        yield stopped


@dataclass(frozen=True)
class Past:
    """A job of long ago."""

    user: str = "alice"
    project: str = "p"
    queue: str = "default"
    start: int = OLD
    used: int = HOUR
    walltime: int = 2 * HOUR
    cores: int = 4

    def add_to(self, oar: SmallOar, job_id: int) -> None:
        """Make it a job of OAR."""
        oar.add_job(
            user=self.user,
            project=self.project,
            queue=self.queue,
            start=self.start,
            stop=self.start + self.used,
            walltime=self.walltime,
            cores=self.cores,
            job_id=job_id,
        )


def counted(jobs: Iterable[Past], window: int = DAY) -> Rows:
    """What OAR's own accounting makes of the jobs, a second after the other in thought."""
    rows: defaultdict[Key, int] = defaultdict(int)
    for job in jobs:
        for kind, length in (("ASKED", job.walltime), ("USED", job.used)):
            at, stop = job.start, job.start + length
            while at < stop:
                begin = at // window * window
                seconds = min(begin + window, stop) - at
                key = (begin, begin + window - 1, job.user, job.project, job.queue, kind)
                rows[key] += seconds * job.cores
                at += seconds
    return rows


def write_counted(engine: Engine, rows: Rows) -> None:
    """Make this all that OAR's accounting has."""
    table = oar_tables.accounting
    with engine.begin() as connection:
        table.create(connection, checkfirst=True)
        connection.execute(delete(table))
        names = [column.name for column in table.columns]
        for key, amount in rows.items():
            connection.execute(insert(table).values(dict(zip(names, (*key, amount), strict=True))))


def usage(accounting: Accounting, start: int | None = None, stop: int | None = None) -> object:
    """Asked and used of resource, by user, project and queue."""
    rows = accounting.usage(OURS, ("resource",), start, stop).rows
    return {row.group: (row.asked, row.used) for row in rows if row.asked or row.used}


def by_day(accounting: Accounting, days: Iterable[int]) -> Mapping[Key, int]:
    """What usage shows, as OAR's accounting would have it."""
    found = {}
    for day in days:
        for row in accounting.usage(OURS, ("resource",), day, day + DAY).rows:
            for kind, amount in (("ASKED", row.asked), ("USED", row.used)):
                if amount:
                    user, project, queue = row.group
                    found[day, day + DAY - 1, user, project, queue, kind] = amount
    return found


def openings(accounting: Accounting) -> tuple[int, int]:
    """What is open of what was taken over, asked and used."""
    rows = accounting.usage((), ("resource",)).rows
    return (rows[0].opening_asked, rows[0].opening_used) if rows else (0, 0)


def stored(engine: Engine) -> list[tuple[object, ...]]:
    """The rows of opening amounts."""
    with engine.connect() as connection:
        return sorted(map(tuple, connection.execute(select(schema.openings))))


# -- a story ----------------------------------------------------------------------------------

LEFT = [Past(), Past("bob", start=OLD + DAY - HOUR, cores=2), Past("Zoé", "l'eau", start=OLD + DAY)]
RECENT = Past("alice", start=T0 - 10 * DAY, cores=8)


@pytest.fixture
def site(engine: Engine) -> Accounting:
    """A site whose administrator deleted the jobs of three years ago, and kept the accounting."""
    oar = SmallOar(engine)
    RECENT.add_to(oar, 100)
    write_counted(engine, counted([*LEFT, RECENT]))
    accounting = opened(engine, 'dimension = ""\n')
    accounting.catch_up()
    return accounting


def test_what_no_job_accounts_for_is_taken_over_and_marked(site: Accounting) -> None:
    before = usage(site)
    told = site.import_accounting()
    assert (told.rows, told.new, told.changed, told.left_out) == (4, 4, 0, 1)
    assert (told.start, told.stop) == (OLD, OLD + 2 * DAY)
    assert (told.asked, told.used) == (2 * HOUR * 10, HOUR * 10)
    assert (told.left_out_asked, told.left_out_used) == (2 * HOUR * 8, HOUR * 8)
    assert before == {("alice", "p", "default"): (2 * HOUR * 8, HOUR * 8)}
    assert usage(site) == {
        ("alice", "p", "default"): (2 * HOUR * 12, HOUR * 12),
        ("bob", "p", "default"): (2 * HOUR * 2, HOUR * 2),
        ("Zoé", "l'eau", "default"): (2 * HOUR * 4, HOUR * 4),
    }
    rows = {row.group[0]: row for row in site.usage(("user",), ("resource",)).rows}
    parts = {user: (row.opening_asked, row.opening_used) for user, row in rows.items()}
    assert parts == {
        "alice": (2 * HOUR * 4, HOUR * 4),
        "bob": (rows["bob"].asked, rows["bob"].used),
        "Zoé": (rows["Zoé"].asked, rows["Zoé"].used),
    }
    assert site.verify() == []


def test_a_recent_answer_contains_nothing_of_it(site: Accounting) -> None:
    site.import_accounting()
    (row,) = site.usage((), ("resource",), T0 - 20 * DAY, T0).rows
    assert (row.used, row.opening_used) == (HOUR * 8, 0)
    (node,) = site.usage((), ("node",)).rows
    assert (node.used, node.opening_used) == (2 * HOUR, 0)


def test_twice_is_once(site: Accounting, engine: Engine) -> None:
    site.import_accounting()
    before = stored(engine)
    again = site.import_accounting()
    assert (again.rows, again.new, again.changed) == (4, 0, 0)
    assert stored(engine) == before


def test_a_dry_run_says_the_same_and_writes_nothing(site: Accounting, engine: Engine) -> None:
    with engine.connect() as connection:
        accounts = connection.execute(select(schema.accounts)).all()
    told = site.import_accounting(dry_run=True)
    assert stored(engine) == []
    with engine.connect() as connection:
        assert connection.execute(select(schema.accounts)).all() == accounts
    assert site.import_accounting() == told


def test_what_oar_has_counted_since_is_followed(site: Accounting, engine: Engine) -> None:
    site.import_accounting()
    more = [Past(cores=7), *LEFT[1:], Past("carol", start=OLD - DAY), RECENT]
    write_counted(engine, counted(more))
    told = site.import_accounting()
    assert (told.rows, told.new, told.changed) == (5, 1, 1)
    assert openings(site)[1] == HOUR * (7 + 2 + 4 + 4)


def test_what_has_become_nothing_in_oar_is_followed(site: Accounting, engine: Engine) -> None:
    site.import_accounting()
    nothing = {key: 0 if key[2] == "alice" else n for key, n in counted(LEFT).items()}
    nothing |= {(OLD, OLD + DAY - 1, "eve", "p", "default", "USED"): 0}
    write_counted(engine, nothing)
    told = site.import_accounting()
    assert (told.new, told.changed) == (0, 1)
    assert openings(site) == (2 * HOUR * 6, HOUR * 6)


def test_what_oar_has_deleted_since_is_kept(site: Accounting, engine: Engine) -> None:
    site.import_accounting()
    before = stored(engine)
    write_counted(engine, {})
    assert site.import_accounting().rows == 0
    assert stored(engine) == before


def test_a_job_that_turns_up_takes_the_place_of_its_share(site: Accounting, engine: Engine) -> None:
    site.import_accounting()
    before = usage(site)
    LEFT[0].add_to(SmallOar(engine, create=False, nodes=0), 7)
    assert site.catch_up(full=True).problems == ()
    assert usage(site) == before
    assert openings(site) == (2 * HOUR * 6, HOUR * 6)
    # Its window is that of a job now: importing again neither takes over nor changes anything.
    assert site.import_accounting().changed == 0
    assert usage(site) == before
    assert openings(site) == (2 * HOUR * 6, HOUR * 6)


def test_a_job_that_goes_on_being_corrected_covers_what_it_gives(
    site: Accounting, engine: Engine
) -> None:
    site.import_accounting()
    oar = SmallOar(engine, create=False, nodes=0)
    LEFT[0].add_to(oar, 7)
    site.catch_up(full=True)
    oar.update_job(7, stop_time=OLD + HOUR // 2)
    assert site.catch_up(full=True).problems == ()
    # OAR counted an hour, and that half of it was wrong stands beside the job, marked.
    assert openings(site)[1] == HOUR * 6 + HOUR // 2 * 4
    oar.update_job(7, stop_time=OLD + HOUR)
    site.catch_up(full=True)
    assert openings(site)[1] == HOUR * 6


def test_suspended_time_does_not_stay_as_an_opening_amount(
    site: Accounting, engine: Engine
) -> None:
    """OAR billed the pause; the job that turns up takes its whole share away."""
    site.import_accounting()
    oar = SmallOar(engine, create=False, nodes=0)
    LEFT[0].add_to(oar, 7)
    oar.update_job(7, suspended="YES")
    oar.add_pause(7, OLD + 60, OLD + 660)
    site.catch_up(full=True)
    assert openings(site)[1] == HOUR * 6
    (row,) = site.usage((), ("resource",), OLD, OLD + DAY).rows
    assert row.used - row.opening_used == 4 * (HOUR - 600)


@pytest.mark.parametrize(
    "other",
    [Past(cores=5), Past(user="dora"), Past(project="renamed"), Past(used=3 * HOUR)],
    ids=["more", "another user", "another project", "longer"],
)
def test_a_job_of_which_oar_counted_less_is_reported(
    site: Accounting, engine: Engine, other: Past
) -> None:
    site.import_accounting()
    before = openings(site)
    other.add_to(SmallOar(engine, create=False, nodes=0), 7)
    report = site.catch_up(full=True)
    assert report.problems == ()
    (notice,) = report.notices
    assert "where OAR counted less for their user, project and queue, count in full: 7" in notice
    covered = other.user == "alice" and other.project == "p"
    assert openings(site)[1] == before[1] - (HOUR * 4 if covered else 0)
    (row,) = site.usage((), ("resource",)).rows
    assert row.used - row.opening_used == HOUR * 8 + other.used * other.cores
    assert site.catch_up(full=True).notices == ()


@pytest.mark.parametrize(
    ("late", "launched"), [(Past(used=0), False), (Past(), True)], ids=["no second", "never ran"]
)
def test_a_job_that_counts_nothing_here_is_told_since_oar_counted_it(
    site: Accounting, engine: Engine, late: Past, launched: bool
) -> None:
    site.import_accounting()
    before = openings(site)
    oar = SmallOar(engine, create=False, nodes=0)
    late.add_to(oar, 7)
    if launched:
        oar.add_state(7, "Launching", OLD, OLD + HOUR)
        oar.update_job(7, state="Error")
    (notice,) = site.catch_up(full=True).notices
    assert "what OAR counted for them stands on as an opening amount: 7" in notice
    assert openings(site) == before


def test_what_a_job_covers_follows_a_rebuild_of_the_count_of_resources(
    site: Accounting, engine: Engine
) -> None:
    site.import_accounting()
    oar = SmallOar(engine, create=False, nodes=0)
    oar.set_resource(4, type="licence")
    LEFT[0].add_to(oar, 7)
    site.catch_up(full=True)
    assert openings(site)[1] == HOUR * (6 + 1)
    oar.set_resource(4, type="default")
    site.rebuild(metric="resource", from_oar=True)
    assert openings(site)[1] == HOUR * 6
    oar.update_job(7, project="q")
    site.catch_up(full=True)
    assert openings(site)[1] == HOUR * 10


@pytest.mark.parametrize("state", ["Running", "Terminated"])
def test_a_job_that_only_the_ledger_knows_keeps_its_window(
    engine: Engine, clock: Clock, state: str
) -> None:
    """OAR deleted it: a running one is seen as vanished only by the next pass."""
    oar = SmallOar(engine)
    clock.now = OLD + 2 * HOUR
    Past(start=OLD + HOUR).add_to(oar, 7)
    oar.update_job(7, state=state, stop_time=0 if state == "Running" else OLD + 2 * HOUR)
    accounting = opened(engine)
    accounting.catch_up()
    oar.remove_job(7)
    write_counted(engine, counted([Past()]))
    told = accounting.import_accounting()
    assert (told.rows, told.left_out) == (0, 1)


def test_a_job_that_runs_keeps_its_windows_until_now(site: Accounting, engine: Engine) -> None:
    oar = SmallOar(engine, create=False, nodes=0)
    oar.add_job(start=OLD + HOUR, state="Running", job_id=7)
    assert site.import_accounting().rows == 0


def test_what_was_asked_for_keeps_its_window_too(site: Accounting, engine: Engine) -> None:
    oar = SmallOar(engine, create=False, nodes=0)
    oar.add_job(start=OLD + DAY - HOUR, stop=OLD + DAY - 1, walltime=2 * HOUR, job_id=7)
    assert site.import_accounting().rows == 0


def test_a_walltime_beyond_any_calendar_hinders_nothing(
    site: Accounting, engine: Engine, database: Database
) -> None:
    oar = SmallOar(engine, create=False, nodes=0)
    oar.add_job(start=T0 - DAY, walltime=2**62, job_id=7)
    site.catch_up()
    assert site.import_accounting().rows == 4


def test_it_survives_rebuilds_windows_purges_and_forgotten_users(
    site: Accounting, engine: Engine
) -> None:
    site.import_accounting()
    before = usage(site)
    site.rebuild()
    site.rebuild(from_oar=True)
    site.rebuild(metric="resource", from_oar=True)
    assert usage(site) == before
    Accounting.open(engine=engine, config=_settings("window = 3600\n")).rebuild()
    assert usage(site) == before
    (row,) = site.usage((), ("resource",), OLD, OLD + DAY // 2).rows
    # OAR's windows are of a day: half of its amounts lie in half of it.
    assert row.opening_used == row.used == (HOUR * 4 + HOUR * 2) // 2
    site.purge(T0 - 9 * DAY)
    assert usage(site) == before
    pseudonym = site.forget_user("alice")
    assert {key[0] for key in usage(site)} == {pseudonym, "bob", "Zoé"}  # type: ignore[attr-defined]
    told = site.import_accounting()
    assert (told.new, told.changed) == (0, 0)
    assert site.verify() == []


def _settings(toml: str) -> Path:
    file = Path("other.toml")
    file.write_text(f'dimension = ""\n{toml}', encoding="utf-8")
    return file


def test_windows_of_several_lengths_stand_side_by_side(engine: Engine) -> None:
    """A site that changed ACCOUNTING_WINDOW has rows of both."""
    SmallOar(engine)
    accounting = opened(engine, CLASSIC)
    accounting.catch_up()
    first = Past(start=OLD + HOUR // 2, cores=3)
    write_counted(engine, {**counted([first], HOUR), **counted([Past()], DAY)})
    assert accounting.import_accounting().rows == 4
    assert openings(accounting)[1] == HOUR * 7
    first.add_to(SmallOar(engine, create=False, nodes=0), 7)
    # The job cannot say in which of the two it was counted: it covers its share of either.
    accounting.catch_up(full=True)
    assert openings(accounting)[1] == HOUR * (4 - 3)


# -- laws -------------------------------------------------------------------------------------

PASTS = st.builds(
    Past,
    user=st.sampled_from(["alice", "Alice", "l'eau"]),
    project=st.sampled_from(["p", "q"]),
    queue=st.sampled_from(["default", "besteffort"]),
    start=st.integers(0, 12 * 24).map(lambda hours: OLD + hours * HOUR + 17),
    used=st.integers(0, 3 * DAY),
    walltime=st.integers(1, 2 * DAY),
    cores=st.integers(1, 8),
)


@settings(max_examples=examples(40))
@given(jobs=st.lists(st.tuples(PASTS, st.booleans()), max_size=8), late=st.randoms())
@example(jobs=[(Past(), False), (Past(used=0), True)], late=None)
def test_oars_accounting_is_what_is_shown_whenever_jobs_turn_up(
    jobs: list[tuple[Past, bool]], late: object
) -> None:
    """Some jobs are there, some were deleted: what OAR counted of windows without jobs is taken
    over, and when all jobs have turned up again, in any order, nothing of it is left.
    """
    days = [OLD + n * DAY for n in range(-1, 17)]
    kept = {number: job for number, (job, there) in enumerate(jobs, 1) if there}
    gone = {number: job for number, (job, there) in enumerate(jobs, 1) if not there}
    whole = counted(job for job, _ in jobs)
    busy = {key[0] for key in counted(kept.values())}
    with tempfile.TemporaryDirectory() as directory:
        engine = create_engine(file_url(Path(directory) / "oar.db"))
        oar = SmallOar(engine)
        write_counted(engine, whole)
        for number, job in kept.items():
            job.add_to(oar, number)
        accounting = opened(engine, CLASSIC)
        accounting.catch_up()
        accounting.import_accounting()
        expected = {key: n for key, n in whole.items() if key[0] not in busy}
        expected |= {key: n for key, n in counted(kept.values()).items() if n}
        assert by_day(accounting, days) == expected
        order = sorted(gone)
        if late is not None:
            late.shuffle(order)  # type: ignore[attr-defined]
        for number in order:
            gone[number].add_to(oar, number)
            assert accounting.catch_up(full=True).problems == ()
        assert by_day(accounting, days) == whole
        assert openings(accounting) == (0, 0)
        assert accounting.verify() == []
        engine.dispose()


@given(
    times=st.lists(st.tuples(st.integers(0, 60), st.integers(0, 12)), max_size=20),
    asked=st.lists(st.tuples(st.integers(-5, 70), st.integers(1, 15)), min_size=1, max_size=20),
    cut=st.integers(0, 20),
)
def test_busy_times_are_told_as_second_by_second(
    times: list[tuple[int, int]], asked: list[tuple[int, int]], cut: int
) -> None:
    busy = Busy()
    for some in (times[:cut], times[cut:]):
        busy.add(ints([s for s, _ in some]), ints([s + n for s, n in some]))
    seconds = {second for start, n in times for second in range(start, start + n)}
    touched = busy.meets(ints([s for s, _ in asked]), ints([s + n for s, n in asked]))
    expected = [not seconds.isdisjoint(range(start, start + n)) for start, n in asked]
    assert np.array_equal(touched, expected)


# -- errors -----------------------------------------------------------------------------------


def test_an_oar_without_accounting_is_told(engine: Engine) -> None:
    SmallOar(engine)
    accounting = opened(engine)
    accounting.catch_up()
    with pytest.raises(OarSchemaError, match="'accounting' cannot be read"):
        accounting.import_accounting()


def test_a_site_that_is_not_recorded_is_told_by_a_dry_run(engine: Engine) -> None:
    SmallOar(engine)
    with pytest.raises(UnknownName, match="is not recorded here"):
        opened(engine).import_accounting(dry_run=True)


@pytest.mark.parametrize(
    ("column", "value"),
    [("window_stop", OLD - 5), ("window_start", OLD + 5), ("consumption", -1)],
)
def test_a_row_that_oar_does_not_write_takes_nothing_over(
    site: Accounting, engine: Engine, column: str, value: int
) -> None:
    with engine.begin() as connection:
        connection.execute(
            text(f"UPDATE accounting SET {column} = :v WHERE accounting_user = 'bob'"),  # noqa: S608
            {"v": value},
        )
    with pytest.raises(OarSchemaError, match="a row that OAR does not write"):
        site.import_accounting()
    assert stored(engine) == []


def test_the_command(database: Database, site: Accounting) -> None:
    site.close()
    options = ("--url", database.url, "--config", str(Path("small_oar.toml").resolve()))
    dry = run(*options, "import-accounting", "--dry-run")
    assert "4 amounts of OAR's accounting would be taken over" in dry.stdout
    done = run(*options, "import-accounting")
    assert done.stdout.splitlines() == [
        "4 amounts of OAR's accounting taken over, 4 of them new and 0 changed, from 2021-02-17 "
        "00:00:00 UTC to 2021-02-19 00:00:00 UTC: 20.0 resource·h asked, 10.0 resource·h used",
        "1 amounts are left out, because jobs of their windows are still there: 16.0 resource·h "
        "asked, 8.0 resource·h used by OAR's count",
    ]
    shown = run(*options, "usage", "--metric", "resource")
    assert "resource used, opening" in shown.stdout
    assert run(*options, "usage", "--metric", "node").stdout.count("opening") == 0
    assert (dry.returncode, done.returncode) == (0, 0)


@on_sqlite
def test_the_command_without_oars_accounting(database: Database, engine: Engine) -> None:
    SmallOar(engine)
    opened(engine).catch_up()
    done = run("--url", database.url, "import-accounting")
    assert done.returncode == 3
    assert said(done).count("\n") <= 1
    assert "OAR's table 'accounting' cannot be read" in said(done)

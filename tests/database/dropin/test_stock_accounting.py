"""``oar-accounting oaraccounting`` against OAR's own command, and against a plain reading of it.

Where the real Perl is installed, both run on copies of the same OAR. `Oracle` is that Perl written
down in Python, one job and one window at a time, and holds on every database.
"""

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sqlalchemy import Engine, MetaData, create_engine, inspect, make_url, select, text
from sqlalchemy.schema import CreateTable

from oar_accounting import Accounting, AmountOverflow, OarSchemaError, StockReport, WriterBusy
from oar_accounting.core import windows
from oar_accounting.dropin import oaraccounting as stock_accounting
from oar_accounting.dropin import tables as stock_tables
from tests.database.oar.test_oar_schema import SCHEMA_DIR, SCHEMA_FILES, reader, schema_statements
from tests.database.oar.test_real_oar import fill, oaraccounting
from tests.examples import examples
from tests.servers import Database, Server, fresh_database
from tests.small_oar import DAY, HOUR, NOW, T0, SmallOar, oar_metadata, stopped_clock
from tests.stock_command import StockCommand, missing, write_conf
from tests.system.cli.test_cli import ROOT, Done, run, said

Row = tuple[int, int, str, str, str, str]  # window with its last second, user, project, queue, kind
Rows = dict[Row, int]

with_perl = pytest.mark.databases("postgresql", "mariadb")


# -- sites ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Site:
    """An OAR with its table accounting."""

    engine: Engine
    conf: Path
    oar: SmallOar = field(repr=False)

    def ours(self, *options: str) -> Done:
        """Run our command."""
        return run("--oar-conf", str(self.conf), "oaraccounting", *options)

    def theirs(self, *options: str) -> str:
        """Run OAR's command; what it said of errors."""
        return StockCommand(self.conf).run(options)

    def verb(self, **given: Any) -> StockReport:
        """Do the same in Python."""
        with Accounting.open(oar_conf=self.conf) as accounting:
            return accounting.oaraccounting(**given)

    def rows(self) -> Rows:
        """OAR's accounting."""
        with self.engine.connect() as connection:
            found = connection.execute(select(*stock_tables.accounting.c)).all()
        rows = {tuple(row[:6]): row[6] for row in found}
        assert len(rows) == len(found)
        return rows

    def accounted(self) -> set[int]:
        """The jobs that are marked as counted."""
        jobs = stock_tables.jobs.c
        with self.engine.connect() as connection:
            return set(
                connection.execute(select(jobs.job_id).where(jobs.accounted == "YES")).scalars()
            )

    def left(self) -> tuple[Rows, set[int]]:
        """All that the command writes."""
        return self.rows(), self.accounted()

    def execute(self, statement: str, **values: Any) -> None:
        """Change something by hand."""
        with self.engine.begin() as connection:
            connection.execute(text(statement), values)


@pytest.fixture
def new_site(
    database: Database, tmp_path: Path, request: pytest.FixtureRequest
) -> Iterator[Callable[..., Site]]:
    """Makes sites with OAR's own schema; with *perl* the test needs OAR's command too."""
    engines = []

    def make(*, window: int = DAY, perl: bool = True, charset: str = "") -> Site:
        if perl and (reason := missing(database.kind)):
            if request.config.getoption("--require-databases"):
                pytest.fail(reason)
            pytest.skip(reason)
        url = database.other()
        engine = create_engine(url)
        engines.append(engine)
        if charset:
            with engine.begin() as connection:
                connection.exec_driver_sql(f"ALTER DATABASE CHARACTER SET {charset}")
            engine.dispose()
        metadata = create_schema(engine, database.kind)
        oar = SmallOar(engine, metadata=metadata, create=False)
        return Site(engine, write_conf(url, tmp_path, window), oar)

    yield make
    for engine in engines:
        engine.dispose()


def create_schema(engine: Engine, kind: str) -> MetaData:
    """OAR's tables: those of its own schema file where there is one."""
    file = SCHEMA_DIR / SCHEMA_FILES.get(kind, "none")
    if not file.is_file():
        metadata = MetaData()
        for table in (*oar_metadata().sorted_tables, stock_tables.accounting):
            table.to_metadata(metadata)
        metadata.create_all(engine)
        return metadata
    with engine.begin() as connection:
        if kind == "mariadb":
            # OAR's server does not set the strict mode that MariaDB starts with.
            connection.exec_driver_sql("SET SESSION sql_mode = ''")
        for statement in schema_statements(kind, file):
            connection.exec_driver_sql(statement.replace("%", "%%"))
    reflected = MetaData()
    reflected.reflect(engine, only=[*oar_metadata().tables, "accounting"])
    return reflected


# -- OAR's command, in Python -----------------------------------------------------------------


@dataclass
class Oracle:
    """What OAR::IO's check_accounting_update, update_accounting and add_accounting_row do."""

    window: int = DAY
    rows: Rows = field(default_factory=dict)

    def count(self, job: dict[str, Any]) -> bool:
        """Count a job as `SmallOar.add_job` takes it; false where it is none of its jobs."""
        stop = job["start"] + HOUR if job.get("stop") is None else job["stop"]
        held = job.get("cores", 8)
        ended = job.get("state", "Terminated") in ("Terminated", "Error")
        if not ended or job["start"] <= 1 or stop < job["start"] or not held:
            return False
        names = (job.get("user", "bob"), job.get("project", "default"), job.get("queue", "default"))
        asked = job["start"] + job.get("walltime", 2 * HOUR)
        self._spread(job["start"], stop, (*names, "USED"), held)
        self._spread(job["start"], asked, (*names, "ASKED"), held)
        return True

    def _spread(self, start: int, stop: int, names: tuple[str, str, str, str], held: int) -> None:
        window_start = start // self.window * self.window
        window_stop = window_start + self.window - 1
        while stop > start:
            seconds = stop - start if stop <= window_stop else window_stop - start + 1
            key = (window_start, window_stop, *names)
            self.rows[key] = self.rows.get(key, 0) + seconds * held
            start = window_start = window_stop + 1
            window_stop += self.window


Jobs = list[dict[str, Any]]


def add_jobs(site: Site, jobs: Jobs) -> None:
    """Add the jobs to a site."""
    with site.oar._writing():
        for job in jobs:
            site.oar.add_job(**job)


#: A job of each kind that matters, and the bounds of windows met, missed and crossed.
CASES: Jobs = [
    {"start": T0, "stop": T0 + DAY},
    {"start": T0, "stop": T0 + DAY - 1, "cores": 1},
    {"start": T0, "stop": T0 + DAY + 1, "cores": 2},
    {"start": T0 - 1, "stop": T0, "cores": 3},
    {"start": T0 - 1, "stop": T0 + 1, "cores": 5},
    {"start": T0 + DAY - 1, "stop": T0 + DAY - 1, "walltime": 1},
    {"start": T0, "stop": T0 + 5 * DAY, "walltime": 3 * DAY, "user": "zoé"},
    {"start": T0, "stop": T0, "user": "alice", "state": "Error"},
    {"start": T0, "stop": T0, "walltime": 0, "user": "nobody"},
    {"start": T0, "stop": T0 + 7, "walltime": 0, "user": "dave"},
    {"start": 2, "stop": DAY, "user": "dave"},
    {"start": 1, "stop": DAY},
    {"start": 0, "stop": 0},
    {"start": T0, "stop": T0 - 1},
    {"start": T0, "stop": T0 + 9, "cores": 0},
    {"start": T0, "state": "Running", "stop": 0},
    {"start": T0, "state": "Finishing", "stop": T0 + 9},
    {"start": T0, "state": "Waiting", "stop": 0},
    {"start": T0, "user": "x" * 255, "project": "é" * 255, "queue": "q" * 100},
    {"start": T0, "user": "", "project": ""},
    {"start": T0, "user": 'a "b", {c}', "project": "NULL", "queue": "100%(x)s :y"},
    {"start": T0 + 5, "stop": T0 + 9, "project": "other", "queue": "besteffort"},
    {"start": T0 + 6, "stop": T0 + 9, "project": "other", "queue": "besteffort"},
]


def expected(jobs: Jobs, window: int = DAY) -> tuple[Rows, set[int]]:
    """What OAR's command leaves of jobs with ids from 1."""
    oracle = Oracle(window)
    counted = {number for number, job in enumerate(jobs, 1) if oracle.count(job)}
    return oracle.rows, counted


# -- as OAR's command -------------------------------------------------------------------------


@with_perl
@pytest.mark.parametrize("window", [DAY, HOUR])
def test_it_leaves_what_oars_command_leaves(new_site: Callable[..., Site], window: int) -> None:
    ours, theirs = new_site(window=window), new_site(window=window)
    for site in (ours, theirs):
        add_jobs(site, CASES)
    assert theirs.theirs() == ""
    done = ours.ours()
    assert ours.left() == theirs.left() == expected(CASES, window)
    rows, counted = ours.left()
    assert done.stdout == (
        f"{len(counted)} jobs accounted into {len(rows)} rows of OAR's table accounting\n"
    )
    assert done.stderr == ""
    assert done.returncode == 0


@pytest.mark.parametrize("window", [DAY, 7 * HOUR])
def test_it_leaves_what_the_plain_reading_leaves(
    new_site: Callable[..., Site], window: int
) -> None:
    site = new_site(window=window, perl=False)
    add_jobs(site, CASES)
    assert site.ours().returncode == 0
    assert site.left() == expected(CASES, window)
    assert site.ours().stdout.startswith("0 jobs accounted into 0 rows")
    assert site.left() == expected(CASES, window)


@with_perl
def test_other_resources_do_not_count_as_they_do_not_for_oar(
    new_site: Callable[..., Site],
) -> None:
    sites = [new_site(), new_site()]
    for site in sites:
        others = site.oar.add_resources(2, kind="licence") + site.oar.add_resources(kind="Default")
        site.oar.add_job(resources=[1, *others])
        site.oar.add_job(resources=others[:2])
        site.oar.add_job(resources=[2, 3])
        site.oar.lose_resource(3)
    sites[0].ours()
    sites[1].theirs()
    assert sites[0].left() == sites[1].left()
    assert sites[0].accounted() == {1, 3}


def random_jobs(seed: int, count: int) -> Jobs:
    """Jobs over a month, in no order of time."""
    rng = random.Random(seed)
    jobs = []
    for _ in range(count):
        start = T0 + rng.randrange(30 * DAY)
        jobs.append(
            {
                "start": start,
                "stop": start + rng.choice([0, 1, rng.randrange(HOUR), rng.randrange(4 * DAY)]),
                "walltime": rng.choice([0, HOUR, rng.randrange(3 * DAY)]),
                "cores": rng.randrange(9),
                "user": f"user{rng.randrange(5)}",
                "project": f"project{rng.randrange(3)}",
                "queue": rng.choice(["default", "besteffort"]),
                "state": rng.choice(["Terminated", "Terminated", "Error", "Running"]),
            }
        )
    return jobs


@with_perl
def test_the_two_may_take_turns(new_site: Callable[..., Site]) -> None:
    jobs = random_jobs(1, 120)
    mixed, theirs = new_site(), new_site()
    for turn in range(4):
        part = jobs[30 * turn : 30 * turn + 30]
        for site in (mixed, theirs):
            add_jobs(site, part)
        theirs.theirs()
        assert (mixed.theirs() if turn % 2 else mixed.ours().stderr) == ""
        assert mixed.left() == theirs.left()
    assert mixed.left() == expected(jobs)


def any_jobs() -> st.SearchStrategy[Jobs]:
    """Jobs around a bound of windows."""
    near = st.integers(-3, 3) | st.integers(-2 * DAY, 2 * DAY)
    job = st.fixed_dictionaries(
        {
            "start": near.map(lambda n: T0 + n),
            "stop": near.map(lambda n: T0 + n),
            "walltime": st.integers(0, 3) | st.integers(0, 3 * DAY),
            "cores": st.integers(0, 8),
            "user": st.sampled_from(["alice", "bob", "l'eau", "a\\b", "zoé ☃"]),
            "project": st.sampled_from(["p", "q'"]),
            "queue": st.sampled_from(["default", "best"]),
            "state": st.sampled_from(["Terminated", "Error", "Running"]),
        }
    )
    return st.lists(st.lists(job, max_size=6), min_size=1, max_size=3).map(_flat)


def _flat(parts: list[Jobs]) -> Jobs:
    return [{**job, "turn": turn} for turn, part in enumerate(parts) for job in part]


@settings(max_examples=examples(15))
@given(
    jobs=any_jobs(),
    window=st.sampled_from([DAY, 7 * HOUR, 997]),
    at_once=st.sampled_from([1, 3, 10_000]),
)
def test_any_jobs_in_any_turns_and_blocks_give_the_same(
    server: Server, jobs: Jobs, window: int, at_once: int
) -> None:
    plain = [{k: v for k, v in job.items() if k != "turn"} for job in jobs]
    with fresh_database(server) as database, pytest.MonkeyPatch.context() as patch:
        patch.setattr(stock_accounting, "COUNTED_AT_ONCE", at_once)
        patch.setattr(stock_accounting, "ROWS_AT_ONCE", at_once)
        patch.setattr(windows, "PIECES_AT_ONCE", at_once)
        engine = create_engine(database.url)
        metadata = oar_metadata()
        oar = SmallOar(engine, metadata=metadata)
        with engine.begin() as connection:
            connection.execute(CreateTable(exact(server.kind)))
        site = Site(engine, write_conf(database.url, Path.cwd(), window), oar)
        counted = 0
        for turn in sorted({job["turn"] for job in jobs}):
            part = [job for job, all in zip(plain, jobs, strict=True) if all["turn"] == turn]
            add_jobs(site, part)
            counted += site.verb().jobs
        rows, ids = expected(plain, window)
        assert site.left() == (rows, ids)
        assert counted == len(ids)
        assert site.verb(reinitialize=True) == StockReport(
            jobs=len(ids), rows=len(rows), removed=len(rows)
        )
        assert site.left() == (rows, ids)
        engine.dispose()


def exact(kind: str) -> Any:
    """OAR's accounting with names that MariaDB takes to be equal where they are."""
    table = stock_tables.accounting.to_metadata(MetaData())
    if kind == "mariadb":
        table.dialect_options["mysql"]["collate"] = "utf8mb4_bin"
    return table


def real_site(engine: Engine, conf: Path) -> Site:
    """The rows that a real OAR 2.5.9 left."""
    with engine.begin() as connection:
        fill(connection)
        connection.exec_driver_sql(
            "ALTER TABLE jobs ADD COLUMN accounted VARCHAR(3) DEFAULT 'NO' NOT NULL"
        )
        stock_tables.accounting.create(connection)
    return Site(engine, conf, SmallOar(engine, create=False, nodes=0))


@pytest.mark.parametrize("window", [DAY, HOUR, 60])
def test_the_real_oar_gives_what_its_own_command_gave(
    engine: Engine, database: Database, tmp_path: Path, window: int
) -> None:
    site = real_site(engine, write_conf(database.url, tmp_path, window))
    site.ours()
    amounts: dict[tuple[int, str, str, str], list[int]] = {}
    for (start, last, user, project, queue, kind), amount in site.rows().items():
        assert last == start + window - 1
        amounts.setdefault((start, user, project, queue), [0, 0])[kind == "USED"] = amount
    assert {key: tuple(both) for key, both in amounts.items()} == oaraccounting(window)


# -- names ------------------------------------------------------------------------------------


@with_perl
@pytest.mark.parametrize("name", ["user", "project", "queue"])
def test_a_quote_which_stops_oars_command_counts_as_another_letter(
    new_site: Callable[..., Site], database: Database, name: str
) -> None:
    def jobs(word: str) -> Jobs:
        return [{"start": T0}, {"start": T0 + 7, "stop": T0 + 2 * DAY, name: word}, {"start": T0}]

    quoted, plain = new_site(), new_site()
    add_jobs(quoted, jobs("l'eau"))
    add_jobs(plain, jobs("l-eau"))
    plain.theirs()
    assert quoted.ours().stderr == ""
    renamed = {
        tuple(word.replace("l-eau", "l'eau") if isinstance(word, str) else word for word in row): n
        for row, n in plain.rows().items()
    }
    assert quoted.rows() == renamed
    assert quoted.accounted() == plain.accounted() == {1, 2, 3}
    # OAR's command ends with 0, and has counted nothing, or has lost what the job used.
    quoted.execute("DELETE FROM accounting")
    quoted.execute("UPDATE jobs SET accounted = 'NO'")
    assert quoted.theirs() != ""
    assert not [row for row in quoted.rows() if "l'eau" in row]
    assert quoted.accounted() == (set() if database.kind == "postgresql" else {1, 2, 3})


@pytest.mark.databases("mariadb")
@pytest.mark.parametrize("charset", ["latin1", "utf8mb4"])
def test_names_that_mariadb_takes_to_be_equal_are_one_row_under_the_first(
    new_site: Callable[..., Site], charset: str
) -> None:
    ours, theirs = new_site(charset=charset), new_site(charset=charset)
    names = ["bob", "Bob", "bób", "BOB ", "bob  ", "zoé", "Zoe"]
    rng = random.Random(5)
    jobs = [
        {
            "start": T0 + rng.randrange(4 * DAY),
            "user": rng.choice(names),
            "project": rng.choice("pP"),
        }
        for _ in range(60)
    ]
    for turn in range(2):
        for site in (ours, theirs):
            add_jobs(site, jobs[30 * turn : 30 * turn + 30])
        ours.ours()
        theirs.theirs()
        assert ours.left() == theirs.left()
    assert len(ours.rows()) < len(expected(jobs)[0])


# -- everything anew --------------------------------------------------------------------------


@with_perl
def test_reinitialize_does_at_once_what_oars_needs_two_runs_for(
    new_site: Callable[..., Site],
) -> None:
    jobs = random_jobs(2, 40)
    ours, theirs = new_site(), new_site()
    for site in (ours, theirs):
        add_jobs(site, jobs[:30])
        site.theirs()
        # Counted twice by a crash, without a job, and a job that is not counted yet.
        site.execute("UPDATE accounting SET consumption = consumption + 1000")
        add_jobs(site, jobs[30:])
        site.execute("UPDATE jobs SET accounted = 'YES' WHERE state = 'Running'")
    theirs.theirs("--reinitialize")
    assert theirs.left() == ({}, set())
    theirs.theirs()
    done = ours.ours("--reinitialize")
    assert ours.left() == theirs.left() == expected(jobs)
    assert done.returncode == 0


def test_reinitialize_tells_what_no_job_accounts_for(new_site: Callable[..., Site]) -> None:
    site = new_site(perl=False)
    add_jobs(site, [{"start": T0, "cores": 1}, {"start": T0, "cores": 4}])
    site.ours()
    site.oar.remove_resource(4)
    add_jobs(site, [{"start": T0, "cores": 2}])
    before = site.left()
    tried = site.ours("--reinitialize", "--dry-run")
    assert site.left() == before
    done = site.ours("--reinitialize")
    lost = "8.0 resource·h asked, 4.0 resource·h used, of jobs that were deleted, or counted twice"
    assert said(done) == (
        f"note: 2 of the rows removed held more than the jobs that OAR still has: {lost}"
    )
    assert said(tried) == said(done)
    assert done.stdout == (
        "2 rows removed, 2 jobs accounted into 2 rows of OAR's table accounting\n"
    )
    assert tried.stdout == (
        "2 rows would be removed, 2 jobs would be accounted into 2 rows of OAR's table accounting\n"
    )
    assert site.rows() == expected([{"start": T0, "cores": 1}, {"start": T0, "cores": 2}])[0]
    assert site.ours("--reinitialize").stderr == ""


def test_names_that_changed_since_are_told_and_followed(new_site: Callable[..., Site]) -> None:
    site = new_site(perl=False)
    add_jobs(site, [{"start": T0}])
    site.ours()
    site.oar.update_job(1, project="other")
    assert "2 of the rows" in said(site.ours("--reinitialize"))
    assert {row[3] for row in site.rows()} == {"other"}


# -- what is old ------------------------------------------------------------------------------


@with_perl
def test_delete_before_removes_what_oars_does(new_site: Callable[..., Site]) -> None:
    jobs = random_jobs(3, 30)
    ours, theirs = new_site(), new_site()
    for site in (ours, theirs):
        add_jobs(site, jobs)
        site.theirs()
    everything = theirs.left()
    age = str(int(time.time()) - (T0 + 10 * DAY + HOUR))
    theirs.theirs(f"--delete-before={age}")
    done = ours.ours("--delete-before", age)
    assert ours.left() == theirs.left()
    assert 0 < len(ours.rows()) < len(everything[0])
    assert done.stdout.startswith(
        f"{len(everything[0]) - len(ours.rows())} rows removed from OAR's table accounting: "
    )
    # Their jobs stay counted, so that the next run does not bring them back.
    assert ours.accounted() == everything[1]
    ours.ours()
    assert ours.left() == theirs.left()
    theirs.theirs("--delete-before=-7")
    ours.ours("--delete-before=-7")
    assert ours.rows() == theirs.rows() == {}


def test_a_window_goes_when_its_last_second_is_old_enough(new_site: Callable[..., Site]) -> None:
    site = new_site(perl=False)
    add_jobs(site, [{"start": T0 + DAY - HOUR, "stop": T0 + DAY + HOUR, "cores": 1}])
    site.ours()
    held = StockReport(removed=2, lost=2, asked=HOUR, used=HOUR)
    assert site.verb(delete_before=T0 + DAY - 2) == StockReport()
    assert site.verb(delete_before=T0 + DAY - 1, dry_run=True) == held
    assert len(site.rows()) == 4
    with stopped_clock():
        assert site.verb(delete_older=NOW - (T0 + DAY) + 2) == StockReport()
        assert site.verb(delete_older=NOW - (T0 + DAY) + 1) == held
    done = site.ours("--delete-before", "2023-11-16")
    assert done.stdout == (
        "2 rows removed from OAR's table accounting: 1.0 resource·h asked, 1.0 resource·h used\n"
    )
    assert site.rows() == {}


def test_a_date_that_is_none_and_both_options_are_refused(new_site: Callable[..., Site]) -> None:
    site = new_site(perl=False)
    done = site.ours("--delete-before", "soon")
    assert "'soon' is no time" in said(done)
    assert done.returncode == 2
    done = site.ours("--delete-before", "7", "--reinitialize")
    assert "exclude each other" in done.stderr
    assert done.returncode == 2


# -- all of it or nothing ---------------------------------------------------------------------


def test_a_dry_run_says_the_same_and_writes_nothing(new_site: Callable[..., Site]) -> None:
    site = new_site(perl=False)
    add_jobs(site, CASES)
    tried = site.ours("--dry-run")
    assert site.left() == ({}, set())
    assert tried.stdout.replace("would be accounted", "accounted") == site.ours().stdout


KILLED = """
import os, signal, sys
from oar_accounting import Accounting
with Accounting.open(oar_conf=sys.argv[1]) as accounting:
    accounting.oaraccounting(
        reinitialize=sys.argv[2] == "anew",
        progress=lambda done, total: os.kill(os.getpid(), signal.SIGKILL),
    )
"""


@pytest.mark.slow
@pytest.mark.parametrize("how", ["plain", "anew"])
def test_killed_it_leaves_nothing_half_written(new_site: Callable[..., Site], how: str) -> None:
    site = new_site(perl=False)
    add_jobs(site, CASES[:3])
    site.ours()
    add_jobs(site, CASES[3:])
    before = site.left()
    done = subprocess.run(
        [sys.executable, "-c", KILLED, str(site.conf), how],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        check=False,
    )
    assert done.returncode == -signal.SIGKILL
    assert site.left() == before
    site.ours()
    assert site.left() == expected(CASES)


@pytest.mark.databases("mariadb")
def test_what_does_not_fit_is_one_clear_line_and_nothing_is_written(
    new_site: Callable[..., Site],
) -> None:
    site = new_site(perl=False)
    add_jobs(site, [{"start": T0, "cores": 1}, {"start": T0 + DAY, "cores": 1}])
    site.execute(
        "INSERT INTO accounting VALUES (:start, :stop, 'bob', 'default', 'default', 'USED', :much)",
        start=T0 + DAY,
        stop=T0 + 2 * DAY - 1,
        much=2**32 - HOUR,
    )
    before = site.left()
    done = site.ours()
    assert "OAR's table 'accounting' cannot hold what there is to count, up to" in said(done)
    assert "'consumption'" in said(done)
    assert "nothing was written" in said(done)
    assert done.returncode == 3
    assert site.left() == before


@with_perl
def test_a_window_beyond_oars_calendar_is_one_clear_line(new_site: Callable[..., Site]) -> None:
    site = new_site(perl=False)
    add_jobs(site, [{"start": T0}, {"start": T0, "walltime": 2**31 - 1}])
    site.execute("UPDATE jobs SET start_time = 2147483000, stop_time = 2147483001 WHERE job_id = 2")
    with pytest.raises(AmountOverflow, match=r"up to 2106|up to 2038") as error:
        site.verb()
    assert "out of range" in str(error.value).lower()
    assert site.left() == ({}, set())


@pytest.mark.databases("mariadb")
@pytest.mark.parametrize("table", ["accounting", "jobs"])
def test_a_table_without_transactions_is_refused(new_site: Callable[..., Site], table: str) -> None:
    # An index of MyISAM has no room for names in UTF-8.
    site = new_site(perl=False, charset="latin1")
    site.execute(f"ALTER TABLE {table} ENGINE=MyISAM")
    done = site.ours()
    assert f"'{table}' is kept by MyISAM, which has no transactions" in said(done)
    assert f"ALTER TABLE {table} ENGINE=InnoDB" in said(done)
    assert done.returncode == 3


# -- at the same time -------------------------------------------------------------------------


@pytest.mark.slow
@with_perl
def test_oars_command_waits_until_ours_is_done(new_site: Callable[..., Site]) -> None:
    site = new_site()
    add_jobs(site, CASES)
    stock: list[subprocess.Popen[str]] = []

    def meanwhile(done: int, total: int) -> None:
        stock.append(StockCommand(site.conf).start())
        with pytest.raises(subprocess.TimeoutExpired):
            stock[0].wait(3)

    site.verb(progress=meanwhile)
    assert stock[0].communicate(timeout=60)[1] == ""
    assert site.left() == expected(CASES)


@contextmanager
def locked(site: Site) -> Iterator[None]:
    """The lock of OAR's command, held by somebody."""
    with site.engine.begin() as connection:
        if site.engine.dialect.name == "postgresql":
            connection.exec_driver_sql("LOCK TABLE accounting IN EXCLUSIVE MODE")
        else:
            connection.exec_driver_sql('SELECT GET_LOCK("ACCOUNTING", 3600)')
        yield
        if site.engine.dialect.name != "postgresql":
            connection.exec_driver_sql('SELECT RELEASE_LOCK("ACCOUNTING")')


@pytest.mark.slow
@with_perl
def test_ours_waits_as_long_as_oars_command_does(
    new_site: Callable[..., Site], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert stock_accounting.TABLE_LOCK_WAIT == 3600
    site = new_site(perl=False)
    add_jobs(site, CASES)
    # Later, a test of another process may hold the lock, which is one of the whole server.
    with monkeypatch.context() as patch:
        patch.setattr(stock_accounting, "TABLE_LOCK_WAIT", 1)
        with locked(site), pytest.raises(WriterBusy, match="has been writing for 1 s"):
            site.verb()
        with locked(site):
            assert site.ours().returncode == 3
    assert site.left() == ({}, set())
    site.ours()
    assert site.left() == expected(CASES)


@with_perl
def test_both_at_once_count_every_job_once(new_site: Callable[..., Site]) -> None:
    site = new_site()
    jobs = random_jobs(4, 150)
    for turn in range(3):
        add_jobs(site, jobs[50 * turn : 50 * turn + 50])
        stock = [StockCommand(site.conf).start() for _ in range(2)]
        site.ours()
        assert [each.communicate(timeout=60)[1] for each in stock] == ["", ""]
    assert site.left() == expected(jobs)


# -- what it needs ----------------------------------------------------------------------------


def test_it_needs_and_makes_no_table_of_ours(new_site: Callable[..., Site]) -> None:
    site = new_site(perl=False)
    add_jobs(site, CASES)
    tables = inspect(site.engine).get_table_names()
    site.ours()
    site.ours("--reinitialize")
    site.ours("--delete-before", "2000-01-01")
    assert inspect(site.engine).get_table_names() == tables
    assert not [name for name in tables if name.startswith("accounting_")]


def test_nothing_but_accounting_and_accounted_is_written(new_site: Callable[..., Site]) -> None:
    site = new_site(perl=False)
    add_jobs(site, CASES)

    def others() -> dict[str, Any]:
        content = site.oar.everything()
        del content["accounting"]
        columns = [c for c in site.oar.table("jobs").c if c.name != "accounted"]
        with site.engine.connect() as connection:
            content["jobs"] = sorted(map(tuple, connection.execute(select(*columns))))
        return content

    before = others()
    site.ours()
    site.ours("--reinitialize")
    site.ours("--delete-before", "2030-01-01")
    assert others() == before


def test_the_window_is_that_of_oar_conf_whatever_ours_is(
    new_site: Callable[..., Site], tmp_path: Path
) -> None:
    site = new_site(perl=False, window=HOUR)
    add_jobs(site, CASES)
    toml = tmp_path / "accounting.toml"
    toml.write_text("window = 60\n")
    assert run("--oar-conf", str(site.conf), "--config", str(toml), "oaraccounting").returncode == 0
    assert site.left() == expected(CASES, HOUR)


@with_perl
def test_a_role_that_may_only_read_is_told_so(new_site: Callable[..., Site]) -> None:
    site = new_site(perl=False)
    add_jobs(site, CASES)
    tables = ("accounting", *oar_metadata().tables)
    with reader(site.engine, tables) as url:
        place = make_url(url)
        conf = site.conf.read_text().splitlines()
        conf += [f'DB_BASE_LOGIN="{place.username}"', f'DB_BASE_PASSWD="{place.password}"']
        site.conf.write_text("\n".join(conf) + "\n")
        done = site.ours()
    assert "denied" in said(done)
    assert done.returncode == 3
    assert site.left() == ({}, set())


@pytest.mark.parametrize("table", ["accounting", "resources"])
def test_a_table_that_is_missing_is_named(new_site: Callable[..., Site], table: str) -> None:
    site = new_site(perl=False)
    site.execute(f"DROP TABLE {table}")
    done = site.ours()
    assert f"OAR's table '{table}' cannot be read" in said(done)
    assert done.returncode == 3


def test_a_column_that_is_missing_is_named(engine: Engine, database: Database) -> None:
    SmallOar(engine, metadata=oar_metadata(), nodes=0)
    stock_tables.accounting.create(engine)
    with engine.begin() as connection:
        connection.exec_driver_sql("ALTER TABLE jobs DROP COLUMN accounted")
    with (
        Accounting.open(url=database.url) as accounting,
        pytest.raises(OarSchemaError, match="'jobs' has no column 'accounted'"),
    ):
        accounting.oaraccounting()


@pytest.mark.databases("postgresql")
def test_the_enumerated_types_of_oar_3_are_written_as_texts_are(
    engine: Engine, database: Database, tmp_path: Path
) -> None:
    oar = SmallOar(engine, metadata=oar_metadata("oar3"))
    stock_tables.accounting.create(engine)
    site = Site(engine, write_conf(database.url, tmp_path), oar)
    add_jobs(site, CASES)
    site.ours()
    assert site.left() == expected(CASES)

"""``sql/reports/*.sql``: the same text and the same answer on every database.

A file is run as it is, through the driver and through the database's own client. What it says is
compared with what lies beside it, with the plainest arithmetic on the jobs that were added, and
with what the library answers. ``python -m tests.database.reports.test_sql_reports`` writes what
lies beside, and into four of the files the part that adds up, from ``parts/amounts.sql``.
"""

import csv
import io
import os
import re
import subprocess
import tempfile
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sqlalchemy import Engine, create_engine, insert, select, text

from oar_accounting import Accounting
from oar_accounting.core.columns import OPEN, Rates, ints
from oar_accounting.ledger import schema
from oar_accounting.ledger.ledger import Ledger
from tests.database.ledger.test_schema import client
from tests.servers import Database, Server, SQLiteServer, fresh_database
from tests.small_oar import DAY, HOUR, SmallOar, stopped_clock

REPORTS = Path(__file__).parents[3] / "sql" / "reports"
NAMES = sorted(path.stem for path in REPORTS.glob("*.sql"))
#: Those that add up amounts.
WITH_AMOUNTS = ("project", "series", "top", "usage")

Row = dict[str, str]
Span = tuple[int, int]


def at(day: str, seconds: int = 0) -> int:
    """An instant, in epoch seconds."""
    return int(datetime.fromisoformat(day).replace(tzinfo=UTC).timestamp()) + seconds


#: What the files ask for as they are.
START, STOP = at("2026-01-01"), at("2026-04-01")
USUAL: Mapping[str, Any] = {
    "site": "oar",
    "metric": "resource",
    "start_time": START,
    "stop_time": STOP,
}
PURGED_BEFORE = at("2026-01-10")
#: Not on bounds of windows, within jobs, pauses, opening amounts and adjustments.
ODD = {"start_time": at("2026-01-31", 80_001), "stop_time": at("2026-02-01", 7)}
SHORT = {"start_time": at("2025-12-31", 40_000), "stop_time": at("2026-01-01", 12_345)}
LATE = {"start_time": STOP - 777, "stop_time": STOP + 1_000}
#: Where something just ends or begins: the window of a purged job, a job.
EDGES = (
    {"start_time": at("2026-01-04"), "stop_time": at("2026-01-05")},
    {"start_time": at("2026-01-05"), "stop_time": at("2026-01-06")},
    {"start_time": at("2026-01-15", HOUR), "stop_time": at("2026-02-03")},
)
#: Within the two days of a purged job.
CUT = {"start_time": at("2025-02-10", 21 * HOUR + 17), "stop_time": at("2025-02-11", HOUR + 1)}
PAUSED = {"start_time": at("2026-05-01"), "stop_time": at("2026-06-01")}
SPANS: Sequence[Mapping[str, int]] = ({}, ODD, SHORT, LATE, CUT, PAUSED, *EDGES)
FEBRUARY = {"start_time": at("2026-02-01"), "stop_time": at("2026-03-01")}


# -- the site ---------------------------------------------------------------------------------


AMOUNTS = (
    *("asked", "used", "opening_asked", "opening_used"),
    *("adjusted_asked", "adjusted_used"),
)


#: The first two nodes are of one cluster, the third is of another.
NODES = {
    (0,): "alpha-1",
    (1,): "alpha-2",
    (0, 2): "alpha-1,beta-1",
    (0, 1, 2): "alpha-[1-2],beta-1",
}


@dataclass(frozen=True, kw_only=True)
class Job:
    """A job as it was added: nodes of four cores are whole or not held at all."""

    user: str
    project: str = "climate"
    queue: str = "default"
    resources: tuple[int, ...] = (1, 2, 3, 4)
    start: int
    seconds: int = HOUR
    walltime: int = 2 * HOUR
    waited: int = 60
    pause: Span | None = None  #: from its start
    state: str = "Terminated"
    types: tuple[str, ...] = ()

    @property
    def stop(self) -> int:
        return self.start + self.seconds

    @property
    def ended(self) -> bool:
        return self.state != "Running"

    @property
    def ran(self) -> bool:
        return self.seconds > 0

    @property
    def name(self) -> str:
        return f"a {self.types[0]}" if self.types else ""

    @property
    def exit_code(self) -> int:
        return 768 if self.waited > 10 else 0

    @property
    def nodes(self) -> str:
        return NODES[tuple(sorted({(number - 1) // 4 for number in self.resources}))]

    @property
    def purged(self) -> bool:
        return max(self.stop, self.start + self.walltime) <= PURGED_BEFORE

    def held(self, metric: str) -> int:
        if any(kind.startswith("inner=") for kind in self.types):
            return 0
        nodes = {(number - 1) // 4 for number in self.resources}
        return len(nodes) if metric == "node" else len(self.resources)

    def uses(self) -> list[Span]:
        if not self.ran:
            return []
        if self.pause is None:
            return [(self.start, self.stop)]
        a, b = (self.start + each for each in self.pause)
        return [(self.start, a), (b, self.stop)]

    def asks(self) -> list[Span]:
        return [(self.start, self.start + self.walltime)] if self.ran else []

    def within(self, metric: str, start: int, stop: int) -> tuple[int, int]:
        """Asked and used there."""
        asked, used = (
            sum(max(0, min(b, stop) - max(a, start)) for a, b in spans)
            for spans in (self.asks(), self.uses())
        )
        return asked * self.held(metric), used * self.held(metric)

    def whole(self, metric: str) -> tuple[int, int]:
        """All that it asked for and used."""
        return self.within(metric, -OPEN, OPEN)


@dataclass(frozen=True, kw_only=True)
class Laid:
    """An opening amount or an adjustment, evenly over a span."""

    user: str = "Bob"
    project: str = "climate"
    part: str
    start: int
    stop: int
    asked: int
    used: int

    def within(self, start: int, stop: int) -> tuple[int, int]:
        """Asked and used there, second by second in thought."""

        def share(amount: int) -> int:
            def before(instant: int) -> int:
                seconds = min(max(instant, self.start), self.stop) - self.start
                return abs(amount) * seconds // (self.stop - self.start)

            return (before(stop) - before(start)) * (1 if amount >= 0 else -1)

        return share(self.asked), share(self.used)


BOTH_CLUSTERS = (1, 2, 3, 4, 9, 10, 11, 12)
EVERYTHING = tuple(range(1, 13))
JOBS = (
    # Of the year before, and purged: over midnight, in two windows.
    Job(user="Bob", start=at("2025-02-10", 20 * HOUR), seconds=8 * HOUR, walltime=9 * HOUR),
    Job(user="l'eau", start=at("2026-01-05", 1), seconds=100, resources=(1,), waited=5),
    # Over two clusters.
    Job(user="alice", start=at("2026-01-15"), resources=BOTH_CLUSTERS, types=("deploy",)),
    # Suspended for ten minutes.
    Job(user="bob", start=at("2026-01-20"), pause=(600, 1_200), resources=(1, 2), waited=7_201),
    # Over the end of a month; the pause, too.
    Job(
        user="Bob",
        start=at("2026-01-31", 22 * HOUR),
        seconds=5 * HOUR + 1,
        walltime=6 * HOUR,
        pause=(HOUR, 2 * HOUR + 3),
        waited=90_000,
    ),
    Job(user="l'eau", project="l'eau", start=at("2026-02-03"), resources=EVERYTHING, waited=0),
    Job(user="zoé", project="physics", queue="besteffort", start=at("2026-02-03"), waited=3),
    # Killed late.
    Job(user="zoé", start=at("2026-02-04"), seconds=2 * HOUR + 50, resources=(5,), waited=-9),
    # Failed at once, and never ran.
    Job(user="bob", start=at("2026-02-05"), seconds=0, state="Error", resources=(1,)),
    # Over the end of the time that is asked about.
    Job(user="alice", start=STOP - 1_000, seconds=2_000, resources=(3,), waited=11),
    Job(
        user="alice",
        queue="besteffort",
        start=at("2026-03-02"),
        resources=(3,),
        types=("container",),
        waited=12,
    ),
    # Within a container, which is billed.
    Job(user="bob", start=at("2026-03-02"), resources=(3,), types=("inner=11",), waited=1),
    # It runs, and is in no amount.
    Job(user="bob", start=at("2026-03-31"), seconds=10 * DAY, state="Running", walltime=10 * DAY),
    # Suspended from beginning to end: it asked, and used nothing.
    Job(user="zoé", start=at("2026-05-02"), pause=(0, HOUR), resources=(5,), waited=2),
)
OPENING = Laid(
    part="opening",
    start=at("2025-12-30"),
    stop=at("2026-01-02"),
    asked=1_000_003,
    used=20_011,
)
#: Taken back in part at the end of January, and after all.
ADJUSTMENTS = (
    Laid(
        user="bob",
        part="adjusted",
        start=at("2026-01-31", 70_000),
        stop=at("2026-02-01", 10_007),
        asked=0,
        used=-1_001,
    ),
    Laid(user="alice", part="adjusted", start=STOP - 1_000, stop=STOP + 2_000, asked=-77, used=-7),
)
#: What resources were, in turn.
STATES = {
    1: ((START - DAY, "Alive"), (START + DAY, "Absent"), (START + 3 * DAY, "Alive")),
    2: ((START - 2 * DAY, "Alive"), (START - DAY, "Dead")),
    3: ((STOP - DAY, "Suspected"),),
}


@dataclass
class Site:
    """The site, and its reports."""

    database: Database
    accounting: Accounting
    numbers: dict[int, Job] = field(default_factory=dict)

    def ask(self, name: str, **given: Any) -> list[Row]:
        """What a report says, through the driver."""
        engine = create_engine(self.database.url)
        connection: Any = engine.raw_connection()
        cursor = connection.cursor()
        # Without values no driver looks for marks of them in the text.
        cursor.execute(asking(name, **given))
        columns = [each[0] for each in cursor.description]
        rows = [[shown(value) for value in row] for row in cursor.fetchall()]
        connection.close()
        engine.dispose()
        return tidy(columns, rows)

    def ask_client(self, name: str, letters: str = "utf8mb4") -> list[Row] | None:
        """What it says through the database's own client; None where that is not installed."""
        found = client(self.database.url)
        if found is None:
            return None
        command, environment = found
        options = {
            "sqlite": [command[0], "-header", "-csv", *command[1:]],
            "postgresql": [*command, "--csv"],
            "mariadb": [
                *command[:2],
                "--batch",
                "--init-command=SET sql_mode = ''",
                f"--default-character-set={letters}",
                *command[2:],
            ],
        }
        done = subprocess.run(
            options[self.database.kind],
            input=(REPORTS / f"{name}.sql").read_bytes(),
            stdout=subprocess.PIPE,
            check=True,
            env={**environment, "PGCLIENTENCODING": "UTF8"},
        )
        said = done.stdout.decode("latin1" if letters == "latin1" else "utf-8")
        if self.database.kind == "mariadb":
            lines = [line.split("\t") for line in said.splitlines()]
            lines = [["" if value == "NULL" else value for value in line] for line in lines]
        else:
            lines = list(csv.reader(io.StringIO(said)))
        return tidy(lines[0], lines[1:]) if lines else []

    def in_order(self, rows: list[Row]) -> list[Row]:
        """The rows, sorted where this database has an alphabet of its own."""
        if self.database.kind == "postgresql":
            engine = create_engine(self.database.url)
            with engine.connect() as connection:
                # In an alphabet of people a small letter comes before a large one that follows it.
                own_alphabet = connection.execute(text("SELECT 'a' < 'B'")).scalar_one()
            engine.dispose()
            if own_alphabet:
                return sorted(rows, key=repr)
        return rows

    def ended(self) -> dict[int, Job]:
        """The jobs that have ended."""
        return {n: job for n, job in self.numbers.items() if job.ended}


def asking(name: str, **given: Any) -> str:
    """The text of a report, with other parameters than those it has."""
    said = (REPORTS / f"{name}.sql").read_text(encoding="utf-8")
    for parameter, value in given.items():
        literal = str(value) if isinstance(value, int) else "'{}'".format(value.replace("'", "''"))
        line = rf"^        \S+ AS {parameter}(,?)$"
        assert len(re.findall(line, said, re.M)) == 1, parameter
        said = re.sub(line, rf"        {literal} AS {parameter}\1", said, flags=re.M)
    return said


def shown(value: object) -> str:
    """A value as the clients show it."""
    return "" if value is None else str(value)


def tidy(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> list[Row]:
    """The rows, with percentages in two decimals: some databases leave out zeros at the end."""
    found = [dict(zip(columns, row, strict=True)) for row in rows]
    for row in found:
        for name, value in row.items():
            if name.startswith("percent") and value:
                row[name] = str(Decimal(value).quantize(Decimal("0.01")))
                assert Decimal(value) == Decimal(row[name])
    return found


def written(rows: Sequence[Row]) -> str:
    """The rows as ``psql --csv`` writes them."""
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(rows[0])
    writer.writerows(row.values() for row in rows)
    return file.getvalue()


def build(database: Database) -> Site:
    """The site in a fresh database."""
    engine = create_engine(database.url)
    oar = SmallOar(engine)
    oar.add_resources(4, host="beta-1", cluster="beta")
    numbers = {}
    for job in JOBS:
        number = oar.add_job(
            user=job.user,
            project=job.project,
            queue=job.queue,
            resources=job.resources,
            start=job.start,
            stop=job.stop if job.ended else 0,
            walltime=job.walltime,
            state=job.state,
            types=job.types,
            submission=job.start - job.waited,
            pauses=[(job.start + a, job.start + b) for a, b in filter(None, [job.pause])],
            job_name=job.name,
            exit_code=job.exit_code,
        )
        numbers[number] = job
    for resource, states in STATES.items():
        oar.log_states(resource, *states)
    oar.log_resource(2, "alpha", START, attribute="cluster")
    (licence,) = oar.add_resources(kind="licence")
    oar.log_resource(licence, "Alive", START)
    engine.dispose()
    accounting = Accounting.open(url=database.url)
    accounting.init()
    with stopped_clock() as clock:
        clock.now = STOP + 20 * DAY
        assert accounting.catch_up().problems == ()
        assert accounting.purge(PURGED_BEFORE)[1] == 2
        for each in ADJUSTMENTS:
            accounting.adjust(
                user=each.user,
                project=each.project,
                queue="default",
                property="alpha",
                metric="resource",
                start=each.start,
                stop=each.stop,
                asked=each.asked,
                used=each.used,
                reason="a promise",
                author="root",
            )
    take_over(accounting.engine)
    assert accounting.verify() == []
    return Site(database, accounting, numbers)


def take_over(engine: Engine) -> None:
    """An opening amount as the import leaves it where jobs have covered some of it since."""
    account = schema.accounts.c
    with engine.begin() as connection:
        account_id = connection.execute(
            select(account.account_id).where(
                account.user_name == OPENING.user,
                account.project == OPENING.project,
                account.queue_name == "default",
                account.property_value == "",
            )
        ).scalar_one()
        row = {
            "site_id": 1,
            "window_start": OPENING.start,
            "window_stop": OPENING.stop,
            "account_id": account_id,
            "asked": OPENING.asked + 5,
            "used": OPENING.used + 6,
            "covered_asked": 5,
            "covered_used": 6,
        }
        # More covered than OAR had counted: nothing is open.
        less = {**row, "window_start": OPENING.stop, "window_stop": OPENING.stop + DAY}
        less |= {"covered_asked": 2 * OPENING.asked, "covered_used": 2 * OPENING.used}
        connection.execute(insert(schema.openings), [row, less])


@pytest.fixture(scope="module")
def site(server: Server) -> Iterator[Site]:
    """The site, which no test changes."""
    with fresh_database(server) as database:
        found = build(database)
        yield found
        found.accounting.close()


@pytest.fixture(scope="module")
def changed(server: Server) -> Iterator[Site]:
    """The same, in which two jobs come to hold other amounts while they run."""
    with fresh_database(server) as database:
        found = build(database)
        let_change(found)
        yield found
        found.accounting.close()


def let_change(site: Site) -> None:
    """Move half of what a job holds to another account, let another job hold more for a while."""
    numbers = {job: number for number, job in site.numbers.items()}
    over_months, moving = (numbers[JOBS[place]] for place in (4, 2))
    with Ledger(site.accounting.engine, "oar").writing() as book:
        for number, seconds in ((over_months, 3 * HOUR), (moving, 600)):
            jobs, spans = book.known(ints([number])), book.spans(ints([number]))
            rates = book.rates(ints([number]))
            start = int(jobs.start_time[0]) + seconds
            later = replace(rates, start_time=np.full(len(rates), start), used=rates.used * 3)
            if number == moving:
                # Its rates end, and those of one cluster go on with that of another name.
                names = (*book.accounts.names()[int(jobs.account_id[0])][:3], "gamma")
                book.accounts.add(book.connection, [names])
                (other,) = book.accounts.ids([names])
                ended = replace(later, asked=0 * rates.asked, used=0 * rates.used)
                taken = later.take(rates.account_id == rates.account_id[0])
                taken = replace(taken, account_id=np.full(len(taken), other))
                later = Rates.concat([ended, taken])
            last = replace(rates, start_time=np.full(len(rates), start + HOUR // 2))
            parts = [rates, later] if number == moving else [rates, later, last]
            book.post(jobs, spans, Rates.concat(parts))
    assert site.accounting.verify() == []


# -- the plainest arithmetic ------------------------------------------------------------------


def windows_of(job: Job, metric: str) -> Iterator[tuple[int, int, int]]:
    """The days in which a job asked for or used something, with how much."""
    day = job.start // DAY * DAY
    while day < max(job.stop, job.start + job.walltime):
        yield (day, *job.within(metric, day, day + DAY))
        day += DAY


def amounts(metric: str, start: int, stop: int) -> Iterator[tuple[str, str, str, str, int, int]]:
    """User, project, queue, the part, asked and used of all that counts there."""
    for job in JOBS:
        owner = (job.user, job.project, job.queue)
        if job.purged:
            for day, asked, used in windows_of(job, metric):
                if start <= day < stop:
                    yield (*owner, "job", asked, used)
        elif job.ended:
            yield (*owner, "job", *job.within(metric, start, stop))
    if metric == "resource":
        for each in (OPENING, *ADJUSTMENTS):
            yield (each.user, each.project, "default", each.part, *each.within(start, stop))


def percent(part: int, whole: int) -> str:
    """In two decimals; nothing where there is no whole."""
    return str((Decimal(100 * part) / whole).quantize(Decimal("0.01"))) if whole > 0 else ""


def calendar(start: int, stop: int) -> list[tuple[int, int, int, int]]:
    """Year, month, begin and end of every month that has a second of the span."""
    found = []
    year, month = 2000, 1
    while year < 2050:
        begin = at(f"{year}-{month:02}-01")
        after = (year, month + 1) if month < 12 else (year + 1, 1)
        end = at(f"{after[0]}-{after[1]:02}-01")
        if begin < stop and end > start:
            found.append((year, month, begin, end))
        year, month = after
    return found


def usage(**of: Any) -> list[Row]:
    sums: defaultdict[tuple[str, ...], list[int]] = defaultdict(lambda: [0] * 6)
    for *owner, part, asked, used in amounts(of["metric"], of["start_time"], of["stop_time"]):
        for place in {"job": (0,), "opening": (0, 2), "adjusted": (0, 4)}[part]:
            sums[tuple(owner)][place] += asked
            sums[tuple(owner)][place + 1] += used
    columns = ("user_name", "project", "queue_name", *AMOUNTS)
    return rows_of(columns, [(*k, *v) for k, v in sorted(sums.items()) if any(v)])


def series(**of: Any) -> list[Row]:
    rows = []
    start, stop = of["start_time"], of["stop_time"]
    for year, month, begin, end in calendar(start, stop):
        found = list(amounts(of["metric"], max(begin, start), min(end, stop)))
        asked, used = sum(each[4] for each in found), sum(each[5] for each in found)
        rows.append((year, month, asked, used))
    return rows_of(("year", "month", "asked", "used"), rows)


def top(**of: Any) -> list[Row]:
    sums: defaultdict[str, int] = defaultdict(int)
    for user, *_, used in amounts(of["metric"], of["start_time"], of["stop_time"]):
        sums[user] += used
    everything = sum(sums.values())
    first = sorted(((-used, user) for user, used in sums.items() if used > 0))[:10]
    rows = [(user, -used, percent(-used, everything)) for used, user in first]
    return rows_of(("user_name", "used", "percent_of_all"), rows)


def project(**of: Any) -> list[Row]:
    by_month: defaultdict[tuple[int, int], list[int]] = defaultdict(lambda: [0] * 4)
    by_member: defaultdict[str, list[int]] = defaultdict(lambda: [0] * 4)
    for year, month, begin, end in calendar(of["start_time"], of["stop_time"]):
        if begin < of["start_time"]:
            continue
        before = at(f"{year - 1}-{month:02}-01")
        after = (year - 1, month + 1) if month < 12 else (year, 1)
        earlier = (before, at(f"{after[0]}-{after[1]:02}-01"))
        by_month[year, month] = [0] * 4
        for place, span in ((0, (begin, end)), (2, earlier)):
            for user, of_project, _, _, asked, used in amounts(of["metric"], *span):
                if of_project == of["project"]:
                    for sums in (by_month[year, month], by_member[user]):
                        sums[place] += asked
                        sums[place + 1] += used
    rows: list[tuple[Any, ...]] = [("month", *key, "", *v) for key, v in sorted(by_month.items())]
    rows += [("member", "", "", key, *v) for key, v in sorted(by_member.items()) if any(v)]
    columns = ("part", "year", "month", "user_name", "asked", "used")
    return rows_of((*columns, "asked_year_before", "used_year_before"), rows)


def rows_of(columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> list[Row]:
    return tidy(columns, [[shown(value) for value in row] for row in rows])


def jobs(known: Site, /, **of: Any) -> list[Row]:
    rows = []
    for number, job in known.ended().items():
        there = job.start < of["stop_time"] and job.stop > of["start_time"]
        if job.ran and there and of.get("user_name", "") in ("", job.user):
            asked, used = job.whole(of["metric"])
            owner = (job.user, job.project, job.queue, job.state, ",".join(job.types))
            times = (job.start - job.waited, job.start, job.stop, max(0, job.waited), job.walltime)
            said = (job.name, job.exit_code, job.nodes, "None")
            rows.append((number, *owner, *said, *times, asked, used, asked - used))
    columns = ("job_id", "user_name", "project", "queue_name", "state", "types")
    told = ("name", "exit_code", "nodes", "reservation")
    more = ("submitted", "started", "ended", "waited", "walltime", "asked", "used", "unused")
    return rows_of((*columns, *told, *more), rows)


def efficiency(known: Site, /, **of: Any) -> list[Row]:
    sums: defaultdict[str, list[int]] = defaultdict(lambda: [0] * 3)
    for job in known.ended().values():
        asked, used = job.whole(of["metric"])
        if (asked or used) and of["start_time"] <= job.stop < of["stop_time"]:
            found = sums[job.user]
            for place, amount in enumerate((int(used > 0), asked, used)):
                found[place] += amount
    columns = ("user_name", "jobs", "asked", "used", "unused", "percent_used")
    return rows_of(
        columns, [(u, n, a, b, a - b, percent(b, a)) for u, (n, a, b) in sorted(sums.items())]
    )


#: The classes of size that the jobs here can have.
CLASSES = {
    "0": range(1),
    "1": range(1, 2),
    "2-4": range(2, 5),
    "5-8": range(5, 9),
    "9-64": range(9, 65),
}


def class_of(job: Job) -> str:
    return next(name for name, held in CLASSES.items() if job.held("resource") in held)


def sizes(known: Site, /, **of: Any) -> list[Row]:
    sums = {name: [0, 0] for name in CLASSES}
    for job in known.ended().values():
        _, used = job.within(of["metric"], of["start_time"], of["stop_time"])
        if used:
            sums[class_of(job)][0] += 1
            sums[class_of(job)][1] += used
    return rows_of(("size", "jobs", "used"), [(k, *v) for k, v in sums.items() if v[0]])


def waiting(known: Site, /, **of: Any) -> list[Row]:
    found: defaultdict[tuple[str, str], list[int]] = defaultdict(list)
    for job in known.numbers.values():
        started = of["start_time"] <= job.start < of["stop_time"]
        if started and job.ran:
            found[job.queue, class_of(job)].append(max(0, job.waited))
    rows = []
    for (queue, size), waits in sorted(found.items()):
        waits.sort()
        count = len(waits)
        median, ninety = (waits[-(-count * share // 10) - 1] for share in (5, 9))
        rows.append((queue, size, count, median, ninety, sum(waits) // count, waits[-1]))
    columns = ("queue_name", "size", "jobs", "waited_median", "waited_90", "waited_mean")
    return rows_of((*columns, "waited_longest"), rows)


def utilisation(**of: Any) -> list[Row]:
    start, stop = of["start_time"], of["stop_time"]
    seconds: defaultdict[str, int] = defaultdict(int)
    for states in STATES.values():
        ends = [begin for begin, _ in states[1:]] + [OPEN]
        for (begin, state), end in zip(states, ends, strict=True):
            seconds[state] += max(0, min(end, stop) - max(begin, start))
    used = sum(each[5] for each in amounts("resource", start, stop) if each[3] == "job")
    rows = [("oar", state, each) for state, each in sorted(seconds.items()) if each]
    return rows_of(("source", "state", "resource_seconds"), [*rows, ("ledger", "used", used)])


# -- what the files say -----------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
def test_the_files_say_what_lies_beside_them(site: Site, name: str) -> None:
    assert site.in_order(site.ask(name)) == site.in_order(expected(name))


def expected(name: str) -> list[Row]:
    """What lies beside a report."""
    said = (REPORTS / f"{name}.out").read_text(encoding="utf-8")
    return list(csv.DictReader(io.StringIO(said)))


@pytest.mark.parametrize("name", NAMES)
def test_the_databases_own_clients_say_the_same(
    site: Site, name: str, request: pytest.FixtureRequest
) -> None:
    assert asked_by_client(site, name, request) == site.ask(name)


def asked_by_client(site: Site, name: str, request: pytest.FixtureRequest) -> list[Row]:
    """What the database's own client says, which not every machine has."""
    said = site.ask_client(name)
    if said is None:
        reason = "the database's own client is not installed"
        if request.config.getoption("--require-databases"):
            pytest.fail(reason)
        pytest.skip(reason)
    return said


def spans() -> Iterator[dict[str, Any]]:
    """Parameters to try, with each of the metrics where there is one."""
    for span in SPANS:
        for metric in ("resource", "node"):
            yield {**USUAL, "metric": metric, **span}


@pytest.mark.parametrize("report", [usage, series, top], ids=lambda report: report.__name__)
def test_amounts_are_those_of_plain_arithmetic(
    site: Site, report: Callable[..., list[Row]]
) -> None:
    for given in spans():
        said = site.ask(report.__name__, **given)
        assert site.in_order(said) == site.in_order(report(**given)), given


@pytest.mark.parametrize(
    "report", [jobs, efficiency, sizes, waiting], ids=lambda report: report.__name__
)
def test_jobs_are_those_that_were_added(site: Site, report: Callable[..., list[Row]]) -> None:
    for given in spans():
        asked = {k: v for k, v in given.items() if k != "metric" or report is not waiting}
        said = site.ask(report.__name__, **asked)
        assert site.in_order(said) == site.in_order(report(site, **given)), given


@pytest.mark.parametrize("user", ["Bob", "bob", "BOB", "l'eau", "zoé", "zoe", "Bob "])
def test_names_are_compared_byte_for_byte(site: Site, user: str) -> None:
    given = {**USUAL, "user_name": user}
    said = site.ask("jobs", **given)
    assert said == jobs(site, **given)
    assert bool(said) == (user in {job.user for job in JOBS})
    assert site.ask("usage", site="OAR") == []


@pytest.mark.parametrize("name", ["climate", "Climate", "l'eau", "physics"])
def test_a_project_is_told_beside_the_year_before(site: Site, name: str) -> None:
    for metric in ("resource", "node"):
        for span in ({}, {"start_time": at("2025-01-15")}, FEBRUARY):
            given = {**USUAL, "metric": metric, "project": name, **span}
            said = site.ask("project", **given)
            assert site.in_order(said) == site.in_order(project(**given)), given


def test_what_states_resources_were_in(site: Site) -> None:
    for span in SPANS:
        given = {**USUAL, **span}
        asked = {k: v for k, v in given.items() if k != "metric"}
        said = site.ask("utilisation", **asked)
        assert site.in_order(said) == site.in_order(utilisation(**given)), given


def test_the_library_answers_the_same(site: Site) -> None:
    for given in spans():
        report = site.accounting.usage(
            ("user", "project", "queue"),
            (given["metric"],),
            given["start_time"],
            given["stop_time"],
        )
        expected = [(*row.group, *(getattr(row, name) for name in AMOUNTS)) for row in report.rows]
        said = site.ask("usage", **given)
        found = [tuple(row.values()) for row in said]
        assert sorted(found) == sorted(tuple(map(str, row)) for row in expected), given


def test_the_library_answers_the_same_by_month(site: Site) -> None:
    for given in spans():
        asked = ((given["metric"],), given["start_time"], given["stop_time"])
        months = site.accounting.usage((), *asked, bucket="month", timezone="UTC")
        expected = [(row.start, str(row.asked), str(row.used)) for row in months.rows]
        begins = [max(begin, asked[1]) for _, _, begin, _ in calendar(*asked[1:])]
        said = zip(begins, site.ask("series", **given), strict=True)
        found = [(begin, row["asked"], row["used"]) for begin, row in said]
        assert [each for each in found if each[1:] != ("0", "0")] == expected, given


def test_the_library_says_the_same_of_jobs(site: Site) -> None:
    for given in spans():
        span = {"start": given["start_time"], "stop": given["stop_time"]}
        metrics = (given["metric"],)
        expected: list[tuple[Any, ...]] = [
            (
                *(each.job_id, each.user, each.started, each.ended, each.waited),
                *(each.name, each.exit_code, each.nodes, each.reservation),
                *(number for m in each.metrics for number in (m.asked, m.used)),
            )
            for each in site.accounting.jobs(metrics=metrics, **span).jobs
            if each.ended
        ]
        columns = ("job_id", "user_name", "started", "ended", "waited")
        more = ("name", "exit_code", "nodes", "reservation", "asked", "used")
        said = cells(site.ask("jobs", **given), *columns, *more)
        found = [row if row[-2:] != ("0", "0") else row[:-2] for row in said]
        assert found == texts(expected), given
        expected = [
            (*row.group, row.jobs, row.asked, row.used)
            for row in site.accounting.efficiency(metrics=metrics, **span)
        ]
        said = cells(site.ask("efficiency", **given), "user_name", "jobs", "asked", "used")
        assert sorted(said) == sorted(texts(expected)), given
        expected = [
            (*row.group, row.jobs, row.used)
            for row in site.accounting.sizes(metrics=metrics, **span)
            if row.jobs
        ]
        assert cells(site.ask("sizes", **given), "size", "jobs", "used") == texts(expected), given


def test_the_library_says_the_same_of_waits(site: Site) -> None:
    for span in SPANS:
        given = {**USUAL, **span}
        expected = [
            (*row.group, row.jobs, row.median, row.percentile_90, row.mean, row.longest)
            for row in site.accounting.waiting(start=given["start_time"], stop=given["stop_time"])
        ]
        found = [tuple(row.values()) for row in site.ask("waiting", **span)]
        assert sorted(found) == sorted(texts(expected)), span


def test_the_library_says_the_same_of_a_project(site: Site) -> None:
    for metric in ("resource", "node"):
        said = site.ask("project", metric=metric)
        page = site.accounting.project("climate", metric, START, STOP, timezone="UTC")
        months = [(int(m.label[-2:]), m.used, m.before) for m in page.months]
        columns = ("used", "used_year_before")
        found = [row for row in said if row["part"] == "month"]
        assert cells(found, "month", *columns) == texts(months)
        members = [(m.user, m.used, m.before) for m in page.members]
        found = [row for row in said if row["part"] == "member"]
        assert sorted(cells(found, "user_name", *columns)) == sorted(texts(members))


@pytest.mark.parametrize(
    "check",
    [
        test_the_library_answers_the_same,
        test_the_library_answers_the_same_by_month,
        test_the_library_says_the_same_of_jobs,
        test_the_library_says_the_same_of_waits,
        test_the_library_says_the_same_of_a_project,
    ],
)
def test_the_library_says_the_same_of_jobs_whose_rates_change(
    changed: Site, check: Callable[[Site], None]
) -> None:
    check(changed)


def test_what_resources_were_used_where_rates_change(changed: Site) -> None:
    for span in SPANS:
        given = {**USUAL, **span}
        asked = {k: v for k, v in given.items() if k != "metric"}
        (used,) = [row for row in changed.ask("utilisation", **asked) if row["source"] == "ledger"]
        report = changed.accounting.usage(
            (), ("resource",), given["start_time"], given["stop_time"], without_adjustments=True
        )
        total = sum(row.used - row.opening_used for row in report.rows)
        assert int(used["resource_seconds"]) == total, given


def cells(rows: Iterable[Row], *columns: str) -> list[tuple[str, ...]]:
    """Some of the columns."""
    return [tuple(row[name] for name in columns) for row in rows]


def texts(rows: Iterable[Iterable[Any]]) -> list[tuple[str, ...]]:
    """The rows as the reports show them."""
    return [tuple(map(shown, row)) for row in rows]


def test_percentiles_are_waits_of_real_jobs(database: Database, engine: Engine) -> None:
    oar = SmallOar(engine)
    for waited in range(10, 0, -1):
        oar.add_job(start=START, submission=START - waited)
    accounting = Accounting.open(engine=engine)
    accounting.init()
    with stopped_clock() as clock:
        clock.now = STOP
        accounting.catch_up()
    (said,) = Site(database, accounting).ask("waiting")
    assert cells([said], "jobs", "waited_median", "waited_90", "waited_mean", "waited_longest") == [
        ("10", "5", "9", "5", "10")
    ]


def test_what_was_measured_of_a_job_lies_evenly_over_its_window(
    database: Database, engine: Engine
) -> None:
    job = SmallOar(engine).add_job(start=START)
    accounting = Accounting.open(engine=engine)
    accounting.init()
    with stopped_clock() as clock:
        clock.now = STOP
        accounting.catch_up()
        with engine.begin() as connection:
            resource = select(schema.metrics.c.metric_id).where(schema.metrics.c.name == "resource")
            held = select(schema.rates).where(
                schema.rates.c.metric_id == resource.scalar_subquery()
            )
            rate = connection.execute(held).mappings().one()
            row = {name: rate[name] for name in ("site_id", "account_id", "metric_id")}
            row |= {"job_id": job, "window_start": START, "asked": 7, "used": 100_001}
            connection.execute(insert(schema.entries), row)
        accounting.rebuild()
    found = Site(database, accounting)
    for span in SPANS:
        given = {**USUAL, **span}
        report = accounting.usage((), ("resource",), given["start_time"], given["stop_time"])
        expected = [(str(row.asked), str(row.used)) for row in report.rows]
        assert cells(found.ask("usage", **given), "asked", "used") == expected


def test_the_share_of_an_amount_near_63_bits_is_exact(database: Database, engine: Engine) -> None:
    oar = SmallOar(engine)
    oar.add_job(start=START)
    accounting = Accounting.open(engine=engine)
    accounting.init()
    with stopped_clock() as clock:
        clock.now = STOP
        accounting.catch_up()
        for amount in (2**62 + 12_345, -(2**61) - 7):
            accounting.adjust(
                user="bob",
                project="default",
                queue="default",
                property="alpha",
                metric="resource",
                start=START - 10 * DAY,
                stop=STOP + 11,
                used=amount,
                reason="a test",
                author="root",
            )
    found = Site(database, accounting)
    for span in ({}, ODD, SHORT, LATE, *EDGES):
        given = {**USUAL, **span}
        report = accounting.usage((), ("resource",), given["start_time"], given["stop_time"])
        (said,) = found.ask("usage", **given)
        assert int(said["used"]) == report.total()["resource"].used


def test_a_span_in_which_nothing_was_is_no_error(site: Site) -> None:
    nothing = {"start_time": at("2040-01-01"), "stop_time": at("2040-03-01")}
    for name in ("usage", "top", "jobs", "efficiency", "sizes", "waiting"):
        assert site.ask(name, **nothing) == []
    assert [row["used"] for row in site.ask("series", **nothing)] == ["0", "0"]
    assert [row["month"] for row in site.ask("project", **nothing)] == ["1", "2"]
    assert site.ask("utilisation", **nothing)[-1]["resource_seconds"] == "0"


def test_the_calendar_is_right_until_2079(site: Site) -> None:
    given = {**USUAL, "start_time": at("2000-01-01"), "stop_time": at("2080-01-01")}
    said = site.ask("series", **given)
    assert len(said) == 80 * 12
    whole = site.ask("usage", **given)
    assert sum(int(row["used"]) for row in said) == sum(int(row["used"]) for row in whole)


@pytest.mark.databases("mariadb")
@pytest.mark.parametrize("usual", ["latin1", "utf8mb4 COLLATE utf8mb4_unicode_ci"])
def test_the_letters_of_a_database_or_client_are_no_obstacle(
    database: Database, engine: Engine, usual: str
) -> None:
    """Where a text of the file has another collation than the column that it is compared with."""
    with engine.begin() as connection:
        name = connection.execute(text("SELECT DATABASE()")).scalar_one()
        connection.execute(text(f"ALTER DATABASE {name} CHARACTER SET {usual}"))
    found = build(database)
    for report in NAMES:
        said = found.ask(report)
        assert written(said) == (REPORTS / f"{report}.out").read_text(encoding="utf-8")
        if client(database.url) is not None:
            by_client = found.ask_client(report, letters="latin1")
            assert by_client is not None and len(by_client) == len(said)
    found.accounting.close()


# -- the files themselves ---------------------------------------------------------------------

#: Functions and words that not every one of the databases has, and columns named like words.
VENDOR_WORDS = (
    *("greatest", "least", "date_trunc", "from_unixtime", "to_timestamp", "strftime", "extract"),
    *("ifnull", "isnull", "nvl", "concat", "group_concat", "string_agg", "div", "mod", "floor"),
    *("ceil", "filter", "ilike", "lateral", "generate_series", "signed", "unsigned", "bigint"),
    *("true", "false", "using", "except", "intersect", "full", "values", "iif", "if", "collate"),
)


def code_of(name: str) -> str:
    """The statement without its comments and texts."""
    said = (REPORTS / f"{name}.sql").read_text(encoding="utf-8")
    return re.sub(r"--.*|'[^']*'", "", said)


@pytest.mark.parametrize("name", NAMES)
def test_the_files_are_portable(name: str) -> None:
    words = set(re.findall(r"\w+", code_of(name).lower()))
    assert words & {*VENDOR_WORDS} == set()
    assert not re.search(r"::|\|\||`|\"|@|:=|\?", code_of(name))


@pytest.mark.parametrize("name", NAMES)
def test_every_file_says_what_it_is_and_is_one_statement(name: str) -> None:
    said = (REPORTS / f"{name}.sql").read_text(encoding="utf-8")
    head, _, rest = said.partition("\n\n")
    assert all(line.startswith("--") for line in head.splitlines())
    assert "-- To edit: " in head
    assert re.match(r"WITH (RECURSIVE )?asked_for AS \(", rest)
    assert code_of(name).count(";") == 1
    assert code_of(name).rstrip().endswith(";")
    assert max(map(len, said.splitlines())) <= 100


def test_every_file_has_its_output_and_no_output_is_without_a_file() -> None:
    assert NAMES == sorted(path.stem for path in REPORTS.glob("*.out"))
    assert len(NAMES) == 9


def with_part(said: str) -> str:
    """A file with the part that adds up as it stands in ``parts``."""
    part = (REPORTS / "parts" / "amounts.sql").read_text(encoding="utf-8").rstrip("\n")
    written, times = re.subn(
        r"^-- -- from here .*?^\)(?=,?\n-- -{20})", lambda _: part, said, flags=re.M | re.S
    )
    assert times == 1
    return written


@pytest.mark.parametrize("name", WITH_AMOUNTS)
def test_what_adds_up_is_written_into_the_files(name: str) -> None:
    said = (REPORTS / f"{name}.sql").read_text(encoding="utf-8")
    assert with_part(said) == said


def test_no_other_file_repeats_what_adds_up() -> None:
    (first, *_) = (REPORTS / "parts" / "amounts.sql").read_text(encoding="utf-8").splitlines()
    with_it = [n for n in NAMES if first in (REPORTS / f"{n}.sql").read_text(encoding="utf-8")]
    assert with_it == sorted(WITH_AMOUNTS)


def main() -> None:
    """Write the part that files share into them, and all outputs anew."""
    for name in WITH_AMOUNTS:
        file = REPORTS / f"{name}.sql"
        file.write_text(with_part(file.read_text(encoding="utf-8")), encoding="utf-8")
    with tempfile.TemporaryDirectory() as directory:
        os.environ["OAR_ACCOUNTING_CONF"] = f"{directory}/accounting.toml"
        Path(directory, "accounting.toml").touch()
        server = SQLiteServer("sqlite", "", "", "", Path(directory))
        with fresh_database(server) as database:
            found = build(database)
            for name in NAMES:
                (REPORTS / f"{name}.out").write_text(written(found.ask(name)), encoding="utf-8")


if __name__ == "__main__":
    main()

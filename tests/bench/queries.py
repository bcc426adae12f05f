"""Answers about two years of a ledger, beside bare aggregates over the same span, in turns.

The second year is recorded first and asked about alone, then again beside the first year.
"""

import json
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from statistics import median
from typing import Any

import click
from sqlalchemy import Engine, TextClause, create_engine, text

from oar_accounting.accounting import Accounting
from oar_accounting.ledger import schema
from oar_accounting.reports.records import RecordedJob
from tests.bench import oar_data, queries_data
from tests.bench.engine import MEMORY, progress
from tests.bench.processes import python
from tests.bench.queries_data import BEGIN, DAY, END, HOUR
from tests.bench.report import MIB
from tests.bench.tables import rows_of
from tests.servers import KINDS, TITLES, MissingServerError, Server, Servers, fresh_database

#: What any report by user and project has to read, and nothing of what it makes of it.
PEER = text(
    "SELECT a.user_name, a.project, t.metric_id, SUM(t.asked), SUM(t.used)"
    " FROM accounting_totals t"
    " JOIN accounting_accounts a ON a.account_id = t.account_id"
    " WHERE t.site_id = 1 AND t.window_start >= :start AND t.window_start < :stop"
    " GROUP BY 1, 2, 3"
)
#: The same of a series by user and day.
PEER_OF_DAYS = text(
    "SELECT t.window_start - t.window_start % 86400, a.user_name, t.metric_id,"
    " SUM(t.asked), SUM(t.used)"
    " FROM accounting_totals t"
    " JOIN accounting_accounts a ON a.account_id = t.account_id"
    " WHERE t.site_id = 1 AND t.window_start >= :start AND t.window_start < :stop"
    " GROUP BY 1, 2, 3"
)
COUNTED = (schema.jobs, schema.spans, schema.rates, schema.totals, schema.days, schema.accounts)

#: Ninety days a year before the end; the same off the bounds of windows.
START, STOP = END - 365 * DAY, END - 275 * DAY
OFF = (START + 14 * HOUR + 7 * 60 + 9, STOP + 9 * HOUR + 30 * 60)
OLD, RECENT = BEGIN + 30 * DAY, END - 30 * DAY
PARIS = "Europe/Paris"
#: The first instants of 2024 and 2026 in Paris.
YEARS = (BEGIN - HOUR, END - HOUR)

#: Changes of the state of each of the 1,024 resources; jobs beside them.
CHANGES, MACHINE_JOBS = 49, 10_000

SQL = "bare SQL by user and project"
ALIGNED = "usage by user and project"
OFF_BOUNDS = "the same, off the bounds"
DAYS_SQL = "bare SQL by user and day"
DAYS = "series by user and day"
DAYS_AS_COLUMNS = "the same, as columns"
DAYS_OF_PARIS = "the same, of Paris"
PAGE = "page of a day's jobs"
#: What is measured beside what, and the goal where there is one.
RATIOS: dict[str, tuple[str, float | None]] = {
    ALIGNED: (SQL, 1.5),
    OFF_BOUNDS: (ALIGNED, 2.0),
    DAYS: (DAYS_SQL, None),
    DAYS_AS_COLUMNS: (DAYS_SQL, 1.5),
    DAYS_OF_PARIS: (DAYS, 2.0),
}
#: How the peers are called beside what is measured by them.
PEERS = {SQL: "SQL", ALIGNED: "aligned", DAYS_SQL: "SQL", DAYS: "UTC"}
#: What must not take longer because of jobs outside the period.
ALONE = (ALIGNED, OFF_BOUNDS, DAYS, PAGE)
GOAL_PAGE, GOAL_UTILISATION, GOAL_MEMORY = 0.1, 1.0, 1.2

#: Goes through the jobs of a span one by one, for the most memory that this takes.
STREAM = """
import sys
from oar_accounting import Accounting
url, config, stop = sys.argv[1:]
with Accounting.open(url=url, config=config) as accounting:
    count = sum(1 for _ in accounting.each_job(stop=int(stop)))
with open("/proc/self/status") as status:
    print(count, *(line for line in status if line.startswith("VmHWM")), sep="\\n")
"""

Figures = dict[str, Any]


@click.command("queries")
@click.option("--jobs", default=100_000, type=click.IntRange(100), show_default=True)
@click.option(
    "--window",
    "windows",
    default=(DAY, HOUR),
    type=click.IntRange(60),
    multiple=True,
    show_default=True,
    help="Seconds; may be given several times, of which others than PostgreSQL take the first.",
)
@click.option("--runs", default=5, type=click.IntRange(1), show_default=True)
@click.option(
    "--database",
    "kinds",
    default=KINDS,
    type=click.Choice(KINDS),
    multiple=True,
    show_default=True,
)
@click.option("--json", "as_json", is_flag=True, help="Every figure, for a program.")
def queries(
    jobs: int, windows: Sequence[int], runs: int, kinds: Sequence[Any], as_json: bool
) -> None:
    """Usage, series, lists of jobs and utilisation, beside bare aggregates, in one process."""
    servers = Servers()
    try:
        servers.start(kinds)
        figures = [each for kind in kinds for each in _measured(servers, kind, jobs, windows, runs)]
    finally:
        servers.stop()
    click.echo(json.dumps(figures, indent=2) if as_json else "\n".join(map(_text_of, figures)))


def _measured(
    servers: Servers, kind: Any, jobs: int, windows: Sequence[int], runs: int
) -> Iterator[Figures]:
    """The figures of a database, or why there are none."""
    try:
        server = servers.get(kind)
    except MissingServerError as error:
        yield {"missing": f"no figures of {TITLES[kind]}: {error}"}
        return
    # Recording hour by hour takes many times longer there than asking.
    for window in windows if kind == "postgresql" else windows[:1]:
        yield {
            "server": str(server),
            "jobs": jobs,
            "window": window,
            **_in_turns(server, jobs, window, runs),
        }
    yield {"server": str(server), **_of_the_machine(server, runs)}


@contextmanager
def _opened(server: Server, settings: str) -> Iterator[tuple[Engine, Accounting, str, Path]]:
    """A fresh database and our verbs on it, with its URL and the settings."""
    with (
        tempfile.TemporaryDirectory(prefix="oar-bench-") as directory,
        fresh_database(server) as database,
    ):
        config = Path(directory, "accounting.toml")
        config.write_text(settings, encoding="utf-8")
        engine = create_engine(database.url)
        with Accounting.open(url=database.url, config=config) as accounting:
            yield engine, accounting, database.url, config
        engine.dispose()


def _in_turns(server: Server, jobs: int, window: int, runs: int) -> Figures:
    with _opened(server, queries_data.SETTINGS) as (engine, accounting, url, config):
        progress(f"{server.kind}: recording {jobs:,} jobs in windows of {window} s")
        questions = _questions(engine, accounting)
        half = jobs // 2
        queries_data.fill(engine, accounting, jobs, window, half, jobs + 1)
        some = {name: ask for name, ask in questions.items() if name in ALONE}
        alone = _timed(some, runs)
        queries_data.fill(engine, accounting, jobs, window, 1, half)
        found = _timed(questions, runs)
        rows = rows_of(engine, COUNTED)
        progress(f"{server.kind}: going through all jobs")
        streams = {name: _stream(url, config, stop) for name, stop in _SPANS.items()}
    middle = _medians(found)
    return {
        "rows": rows,
        "runs": found,
        "median": middle,
        "alone": {name: middle[name] / seconds for name, seconds in _medians(alone).items()},
        "streams": streams,
        "memory": streams["two years"]["peak"] / streams["one year"]["peak"],
    }


def _of_the_machine(server: Server, runs: int) -> Figures:
    """Utilisation over 90 days of a machine whose resources often change their states."""
    with _opened(server, MEMORY) as (engine, accounting, _, _):
        progress(f"{server.kind}: {CHANGES} changes of each of 1,024 resources")
        oar_data.fill(engine, MACHINE_JOBS)
        logs = oar_data.add_logs(engine, CHANGES)
        accounting.init()
        accounting.catch_up()
        span = (oar_data.BEGIN, oar_data.BEGIN + oar_data.DAYS * DAY)
        asked: dict[str, Callable[[], object]] = {
            "utilisation": lambda: accounting.utilisation(None, *span).rows,
            "utilisation by day": lambda: accounting.utilisation(None, *span, bucket="day").rows,
        }
        found = _timed(asked, runs)
    return {"logs": logs, "runs": found, "median": _medians(found)}


def _medians(runs: dict[str, list[float]]) -> dict[str, float]:
    return {name: median(seconds) for name, seconds in runs.items()}


def _questions(engine: Engine, site: Accounting) -> dict[str, Callable[[], object]]:
    """What is asked, by its name; every answer must have something in it."""
    by_day: dict[str, Any] = {"start": START, "stop": STOP, "bucket": "day", "timezone": "UTC"}
    found: dict[str, Callable[[], object]] = {
        SQL: lambda: _peer(engine, PEER),
        ALIGNED: lambda: site.usage(("user", "project"), start=START, stop=STOP).rows,
        OFF_BOUNDS: lambda: site.usage(("user", "project"), start=OFF[0], stop=OFF[1]).rows,
        DAYS_SQL: lambda: _peer(engine, PEER_OF_DAYS),
        DAYS: lambda: site.usage(**by_day).rows,
        DAYS_AS_COLUMNS: lambda: site.usage_columns(**by_day),
        DAYS_OF_PARIS: lambda: _series(site, START - HOUR, STOP - 2 * HOUR, "day", PARIS),
        "12 hours of a day, old": lambda: _half_a_day(site, OLD),
        "12 hours of a day, recent": lambda: _half_a_day(site, RECENT),
        "months of 2 years, Paris": lambda: _series(site, *YEARS, "month", PARIS),
        "hours of a week": lambda: _series(site, START, START + 7 * DAY, "hour", "UTC"),
        "by state, 90 days": lambda: site.usage(("state",), start=START, stop=STOP).rows,
        "efficiency, 90 days": lambda: site.efficiency(start=START, stop=STOP),
        "sizes, 90 days": lambda: site.sizes(start=START, stop=STOP),
        "waiting, 90 days": lambda: site.waiting(start=START, stop=STOP),
        PAGE: lambda: _page(site, RECENT),
        "page of a day's jobs, old": lambda: _page(site, OLD),
    }
    if find_spec("pyarrow"):
        found["the days to Arrow"] = lambda: site.usage_columns(**by_day).to_arrow()
    return found


#: Until when jobs are gone through: half of them, and all.
_SPANS = {"one year": (BEGIN + END) // 2, "two years": END}


def _half_a_day(site: Accounting, day: int) -> object:
    return site.usage(start=day + 6 * HOUR, stop=day + 18 * HOUR + 7).rows


def _series(site: Accounting, start: int, stop: int, bucket: str, timezone: str) -> object:
    return site.usage(start=start, stop=stop, bucket=bucket, timezone=timezone).rows


def _page(site: Accounting, day: int) -> tuple[RecordedJob, ...]:
    return site.jobs(start=day, stop=day + DAY, limit=100).jobs


def _peer(engine: Engine, statement: TextClause) -> object:
    with engine.connect() as connection:
        return connection.execute(statement, {"start": START, "stop": STOP}).fetchall()


def _timed(questions: dict[str, Callable[[], object]], runs: int) -> dict[str, list[float]]:
    """Seconds of each, in turns; the first turn warms the caches up and is not counted."""
    seconds: dict[str, list[float]] = {name: [] for name in questions}
    for turn in range(runs + 1):
        for name, ask in questions.items():
            began = time.perf_counter()
            answer: Any = ask()
            if turn:
                seconds[name].append(time.perf_counter() - began)
            elif not len(answer):
                raise RuntimeError(f"{name}: nothing was found")
    return seconds


def _stream(url: str, config: Path, stop: int) -> Figures:
    run = python(STREAM, url, str(config), str(stop))
    count, peak = run.said.split("\n")[:2]
    return {
        "jobs": int(count),
        "seconds": run.seconds,
        "jobs_per_second": int(count) / run.seconds,
        "peak": int(peak.split()[1]) * 1024,
    }


def _text_of(figures: Figures) -> str:
    if "missing" in figures:
        return str(figures["missing"])
    if "logs" in figures:
        lines = [f"{figures['server']}: 1,024 resources, {figures['logs']:,} rows of their logs"]
    else:
        rows = ", ".join(f"{name} {count:,}" for name, count in figures["rows"].items())
        lines = [f"{figures['server']}: windows of {figures['window']} s; {rows}"]
    for name, seconds in figures["median"].items():
        shown = " ".join(f"{1000 * each:.0f}" for each in figures["runs"][name])
        beside = _beside(figures, name, seconds)
        lines.append(f"  {name:<30} {1000 * seconds:9.1f} ms  {beside:<44} {shown}")
    for name, each in figures.get("streams", {}).items():
        lines.append(
            f"  {'each_job, ' + name:<30} {each['seconds']:9.2f} s   {each['jobs']:,} jobs, "
            f"{each['jobs_per_second']:,.0f} jobs/s, {each['peak'] / MIB:.0f} MiB"
        )
    if "memory" in figures:
        ratio = f"{figures['memory']:9.2f}     goal <= {GOAL_MEMORY}"
        lines.append(f"  {'memory of two years / one':<30} {ratio}")
    return "\n".join(lines) + "\n"


def _beside(figures: Figures, name: str, seconds: float) -> str:
    """What an answer is measured by."""
    found = []
    if name in RATIOS:
        peer, goal = RATIOS[name]
        found.append(f"{seconds / figures['median'][peer]:.2f} x {PEERS[peer]}")
        found += [f"goal <= {goal}"] if goal else []
    elif name.startswith(PAGE):
        found.append(f"goal <= {1000 * GOAL_PAGE:.0f} ms")
    elif name.startswith("utilisation"):
        found.append(f"goal <= {GOAL_UTILISATION:.0f} s")
    if name in figures.get("alone", {}):
        found.append(f"{figures['alone'][name]:.2f} x the year alone")
    return ", ".join(found)

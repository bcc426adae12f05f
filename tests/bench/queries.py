"""Answers about two years of a ledger, beside one bare aggregate over the same span, in turns."""

import json
import tempfile
import time
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from statistics import median
from typing import Any

import click
from sqlalchemy import Engine, create_engine, func, select, text

from oar_accounting import schema
from oar_accounting.accounting import Accounting
from oar_accounting.records import RecordedJob
from tests.bench import queries_data
from tests.bench.engine import progress
from tests.bench.processes import python
from tests.bench.queries_data import BEGIN, DAY, END, HOUR
from tests.bench.report import MIB
from tests.servers import KINDS, TITLES, MissingServerError, Server, Servers, fresh_database

#: What any report by user has to read, and nothing of what it makes of it.
PEER = text(
    "SELECT a.user_name, a.project, t.metric_id, SUM(t.asked), SUM(t.used)"
    " FROM accounting_totals t"
    " JOIN accounting_accounts a ON a.account_id = t.account_id"
    " WHERE t.window_start >= :start AND t.window_start < :stop GROUP BY 1, 2, 3"
)
COUNTED = (schema.jobs, schema.spans, schema.rates, schema.totals, schema.days, schema.accounts)

#: Ninety days a year before the end; the same off the bounds of windows.
START, STOP = END - 365 * DAY, END - 275 * DAY
OFF = (START + 14 * HOUR + 7 * 60 + 9, STOP + 9 * HOUR + 30 * 60)
OLD, RECENT = BEGIN + 30 * DAY, END - 30 * DAY
PARIS = "Europe/Paris"
#: The first instants of 2024 and 2026 in Paris.
YEARS = (BEGIN - HOUR, END - HOUR)

GOAL_OFF, GOAL_MEMORY = 2.0, 1.2

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
@click.option("--jobs", default=200_000, type=click.IntRange(100), show_default=True)
@click.option("--window", default=DAY, type=click.IntRange(60), show_default=True)
@click.option("--runs", default=5, type=click.IntRange(1), show_default=True)
@click.option("--database", "kind", default="postgresql", type=click.Choice(KINDS))
@click.option("--json", "as_json", is_flag=True, help="Every figure, for a program.")
def queries(jobs: int, window: int, runs: int, kind: Any, as_json: bool) -> None:
    """Usage, series and lists of jobs against one aggregate by user, in one process."""
    servers = Servers()
    try:
        servers.start([kind])
        figures = _measured(servers, kind, jobs, window, runs)
    finally:
        servers.stop()
    click.echo(json.dumps(figures, indent=2) if as_json else _text_of(figures))


def _measured(servers: Servers, kind: Any, jobs: int, window: int, runs: int) -> Figures:
    """The figures, or why there are none."""
    try:
        server = servers.get(kind)
    except MissingServerError as error:
        return {"missing": f"no figures of {TITLES[kind]}: {error}"}
    return {
        "server": str(server),
        "jobs": jobs,
        "window": window,
        **_in_turns(server, jobs, window, runs),
    }


def _in_turns(server: Server, jobs: int, window: int, runs: int) -> Figures:
    with (
        tempfile.TemporaryDirectory(prefix="oar-bench-") as directory,
        fresh_database(server) as database,
    ):
        config = Path(directory, "accounting.toml")
        config.write_text(queries_data.SETTINGS, encoding="utf-8")
        engine = create_engine(database.url)
        with Accounting.open(url=database.url, config=config) as accounting:
            progress(f"{server.kind}: recording {jobs:,} jobs of two years")
            began = time.perf_counter()
            queries_data.fill(engine, accounting, jobs, window)
            rows = _rows(engine)
            progress(f"{server.kind}: {rows} in {time.perf_counter() - began:.1f} s")
            found = _timed(_questions(engine, accounting), runs)
        engine.dispose()
        progress(f"{server.kind}: going through all jobs")
        streams = {name: _stream(database.url, config, stop) for name, stop in _SPANS.items()}
    return {
        "rows": rows,
        "runs": found,
        "median": {name: median(seconds) for name, seconds in found.items()},
        "streams": streams,
        "memory": streams["two years"]["peak"] / streams["one year"]["peak"],
    }


def _questions(engine: Engine, site: Accounting) -> dict[str, Callable[[], object]]:
    """What is asked, by its name; every answer must have something in it."""
    found: dict[str, Callable[[], object]] = {
        SQL: lambda: _peer(engine),
        ALIGNED: lambda: site.usage(("user", "project"), start=START, stop=STOP).rows,
        OFF_BOUNDS: lambda: site.usage(("user", "project"), start=OFF[0], stop=OFF[1]).rows,
        "12 hours of a day, old": lambda: _half_a_day(site, OLD),
        "12 hours of a day, recent": lambda: _half_a_day(site, RECENT),
        "months of 2 years, Paris": lambda: _series(site, *YEARS, "month", PARIS),
        "days of a year": lambda: _series(site, END - 365 * DAY, END, "day", "UTC"),
        "days of a year, Paris": lambda: _series(
            site, YEARS[1] - 365 * DAY, YEARS[1], "day", PARIS
        ),
        "hours of a week": lambda: _series(site, START, START + 7 * DAY, "hour", "UTC"),
        "by state, 90 days": lambda: site.usage(("state",), start=START, stop=STOP).rows,
        "efficiency, 90 days": lambda: site.efficiency(start=START, stop=STOP),
        "sizes, 90 days": lambda: site.sizes(start=START, stop=STOP),
        "waiting, 90 days": lambda: site.waiting(start=START, stop=STOP),
        "page of a day's jobs, old": lambda: _page(site, OLD),
        "page of a day's jobs, recent": lambda: _page(site, RECENT),
    }
    if find_spec("pyarrow"):
        found["days of 90 days to Arrow"] = lambda: site.usage_columns(
            ("user", "project"), start=START, stop=STOP, bucket="day", timezone="UTC"
        ).to_arrow()
    return found


SQL = "bare SQL by user and project"
ALIGNED = "usage by user and project"
OFF_BOUNDS = "the same, off the bounds"
#: Until when jobs are gone through: half of them, and all.
_SPANS = {"one year": (BEGIN + END) // 2, "two years": END}


def _half_a_day(site: Accounting, day: int) -> object:
    return site.usage(start=day + 6 * HOUR, stop=day + 18 * HOUR + 7).rows


def _series(site: Accounting, start: int, stop: int, bucket: str, timezone: str) -> object:
    return site.usage(start=start, stop=stop, bucket=bucket, timezone=timezone).rows


def _page(site: Accounting, day: int) -> tuple[RecordedJob, ...]:
    return site.jobs(start=day, stop=day + DAY, limit=100).jobs


def _peer(engine: Engine) -> object:
    with engine.connect() as connection:
        return connection.execute(PEER, {"start": START, "stop": STOP}).fetchall()


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


def _rows(engine: Engine) -> dict[str, int]:
    with engine.connect() as connection:
        return {
            table.name.removeprefix("accounting_"): int(
                connection.execute(select(func.count()).select_from(table)).scalar_one()
            )
            for table in COUNTED
        }


def _text_of(figures: Figures) -> str:
    if "missing" in figures:
        return str(figures["missing"])
    rows = ", ".join(f"{name} {count:,}" for name, count in figures["rows"].items())
    middle = figures["median"]
    lines = [f"{figures['server']}: windows of {figures['window']} s; {rows}"]
    for name, seconds in middle.items():
        shown = " ".join(f"{1000 * each:.0f}" for each in figures["runs"][name])
        ratio = f"{seconds / middle[ALIGNED]:8.2f} x aligned"
        if name == ALIGNED:
            ratio = f"{seconds / middle[SQL]:8.2f} x bare SQL"
        goal = f"; goal <= {GOAL_OFF:.1f}" if name == OFF_BOUNDS else ""
        lines.append(f"  {name:<30} {1000 * seconds:9.1f} ms  {ratio}{goal}; {shown}")
    for name, each in figures["streams"].items():
        lines.append(
            f"  {'each_job, ' + name:<30} {each['seconds']:9.2f} s   {each['jobs']:,} jobs, "
            f"{each['jobs_per_second']:,.0f} jobs/s, {each['peak'] / MIB:.0f} MiB"
        )
    lines.append(
        f"  {'memory of two years / one':<30} {figures['memory']:9.2f}     goal <= {GOAL_MEMORY}"
    )
    return "\n".join(lines)

"""Catch-up beside what the bare SQL costs, in the same run on the same data.

On PostgreSQL: catch-up from empty against the floor (`tests.bench.floor`), the peak of its memory,
and a pass that finds nothing new. On the other databases: catch-up from empty.
"""

import json
import os
import platform
import subprocess
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from statistics import median
from typing import Any

import click
from sqlalchemy import Engine, MetaData, create_engine, text

from oar_accounting.accounting import Accounting
from oar_accounting.ledger import schema
from tests.bench import oar_data
from tests.bench.floor import Floor, Times, checkpoint
from tests.bench.processes import Run, oar_accounting
from tests.bench.report import MIB, text_of
from tests.bench.tables import rows_of
from tests.servers import KINDS, MissingServerError, Server, Servers, fresh_database

MEMORY = """
[metrics.memory]
unit = "MiB.s"
sum = "memnode"
per = "network_address"
"""
WRITTEN = (schema.jobs, schema.spans, schema.rates, schema.totals, schema.accounts)
SETTINGS = ("shared_buffers", "work_mem", "fsync", "synchronous_commit", "max_wal_size")

Figures = dict[str, Any]


@click.command("engine")
@click.option("--jobs", default=100_000, type=click.IntRange(1), show_default=True)
@click.option("--runs", default=5, type=click.IntRange(1), show_default=True)
@click.option("--databases", default=",".join(KINDS), show_default=True)
@click.option("--memory-jobs", default=1_000_000, type=click.IntRange(0), show_default=True)
@click.option("--steady-jobs", default=1_000_000, type=click.IntRange(0), show_default=True)
@click.option("--others-jobs", default=20_000, type=click.IntRange(1), show_default=True)
@click.option("--json", "as_json", is_flag=True, help="Every figure, for a program.")
def engine(as_json: bool, **given: Any) -> None:
    """Catch-up against the bare SQL, its memory, and a pass with nothing new.

    0 jobs leave a part out: --memory-jobs 0 --steady-jobs 0 measures catch-up from empty alone.
    """
    given["databases"] = tuple(filter(None, given["databases"].split(",")))
    if unknown := set(given["databases"]) - set(KINDS):
        raise click.BadParameter(f"{', '.join(unknown)}: known are {', '.join(KINDS)}")
    servers = Servers()
    try:
        servers.start(given["databases"])
        figures = measured(servers, **given)
    finally:
        servers.stop()
    click.echo(json.dumps(figures, indent=2) if as_json else text_of(figures), nl=as_json)


def measured(servers: Servers, **given: Any) -> Figures:
    """Every figure."""
    figures = _circumstances(servers, given)
    found = dict(_found(servers, given["databases"]))
    with tempfile.TemporaryDirectory(prefix="oar-bench-") as directory:
        config = Path(directory, "accounting.toml")
        config.write_text(MEMORY, encoding="utf-8")
        postgresql = found.pop("postgresql", None)
        figures["others"] = {
            server.kind: _other(server, config, given["others_jobs"], given["runs"])
            for server in found.values()
        }
        if postgresql:
            figures |= _on_postgresql(postgresql, config, given)
    return figures


def _found(servers: Servers, kinds: Sequence[Any]) -> Iterator[tuple[str, Server]]:
    for kind in kinds:
        try:
            yield kind, servers.get(kind)
        except MissingServerError as reason:
            progress(f"no {kind}: {reason}")


def _circumstances(servers: Servers, given: Figures) -> Figures:
    return {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "commit": _commit(),
        "python": platform.python_version(),
        "system": platform.platform(),
        "processors": os.cpu_count(),
        "servers": servers.describe(),
        "postgresql_settings": {},
        "arguments": given,
    }


def _commit() -> str | None:
    command = ["git", "-C", str(Path(__file__).parent), "describe", "--always", "--dirty"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return None
    return done.stdout.strip()


def progress(message: str) -> None:
    """Tell whoever waits what is done now."""
    click.echo(f"{datetime.now(UTC):%H:%M:%S} {message}", err=True)


@contextmanager
def _filled(server: Server, jobs: int) -> Iterator[tuple[Engine, str, Figures]]:
    """A database with so many jobs: an engine on it, its URL, and what making it took."""
    with fresh_database(server) as database:
        engine = create_engine(database.url)
        try:
            progress(f"{server.kind}: making {jobs:,} jobs")
            began = time.perf_counter()
            assigned = oar_data.fill(engine, jobs)
            seconds = time.perf_counter() - began
            progress(f"{server.kind}: {assigned:,} assigned resources in {seconds:.1f} s")
            yield engine, database.url, {"jobs": jobs, "assigned": assigned, "making": seconds}
        finally:
            engine.dispose()


# -- PostgreSQL -------------------------------------------------------------------------------


def _on_postgresql(server: Server, config: Path, given: Figures) -> Figures:
    jobs, runs = given["jobs"], given["runs"]
    memory_jobs, steady_jobs = given["memory_jobs"], given["steady_jobs"]
    figures: Figures = {}
    memory = []
    with _filled(server, jobs) as (engine, url, made):
        figures["postgresql_settings"] = _server_settings(engine)
        figures["from_empty"] = made | _from_empty(engine, url, config, runs)
        if memory_jobs:
            memory.append(_peak(engine, url, config, made))
    for large in sorted({memory_jobs, steady_jobs} - {0}):
        with _filled(server, large) as (engine, url, made):
            recorded = _peak(engine, url, config, made)
            if large == memory_jobs:
                memory.append(recorded)
            if large == steady_jobs:
                figures["nothing_new"] = _nothing_new(server, engine, url, config, large, runs)
    if memory:
        peaks = [run["peak"] for run in memory]
        figures["memory"] = {"runs": memory, "ratio": max(peaks) / min(peaks)}
    return figures


def _server_settings(engine: Engine) -> dict[str, str]:
    with engine.connect() as connection:
        query = text("SELECT current_setting(:name)")
        return {name: connection.execute(query, {"name": name}).scalar_one() for name in SETTINGS}


def _from_empty(engine: Engine, url: str, config: Path, runs: int) -> Figures:
    """The floor and catch-up in turns, after a catch-up that gives the floor its rows."""
    progress(f"postgresql: a first catch-up took {_catch_up(engine, url, config):.2f} s")
    floor = Floor(engine)
    floors: list[Times] = []
    ours: list[float] = []
    rows = rows_of(engine, WRITTEN)
    for turn in range(runs):
        floors.append(floor.run())
        ours.append(_catch_up(engine, url, config))
        progress(f"run {turn + 1}: floor {floors[-1].total:.2f} s, catch-up {ours[-1]:.2f} s")
    each = [times.figures() for times in floors]
    middle = {step: median(figures[step] for figures in each) for step in each[0]}
    return {
        "rows": rows,
        "floor": {"runs": each, "median": middle},
        "ours": _timed(ours, rows["jobs"]),
        "ratio_of_medians": median(ours) / middle["total"],
        "median_of_ratios": median(a / b.total for a, b in zip(ours, floors, strict=True)),
    }


def _timed(seconds: list[float], jobs: int) -> Figures:
    return {
        "runs": seconds,
        "median": median(seconds),
        "jobs_per_second": jobs / median(seconds),
    }


def _catch_up(engine: Engine, url: str, config: Path) -> float:
    """Seconds of a catch-up, in this process, into fresh tables."""
    _drop_ours(engine)
    with Accounting.open(url=url, config=config) as accounting:
        accounting.init()
        if engine.dialect.name == "postgresql":
            checkpoint(engine)
        began = time.perf_counter()
        report = accounting.catch_up()
        seconds = time.perf_counter() - began
    if report.problems or not report.done:
        raise RuntimeError(f"not what should be measured: {report}")
    return seconds


def _drop_ours(engine: Engine) -> None:
    metadata: MetaData = schema.metadata
    with engine.begin() as connection:
        metadata.drop_all(connection)


def _peak(engine: Engine, url: str, config: Path, made: Figures) -> Figures:
    """The most memory that the program has for a catch-up from empty."""
    _drop_ours(engine)
    oar_accounting(url, config, "init")
    checkpoint(engine)
    run = oar_accounting(url, config, "catch-up")
    progress(f"{made['jobs']:,} jobs: {run.seconds:.1f} s, peak {run.peak / MIB:.0f} MiB")
    return {**made, "seconds": run.seconds, "peak": run.peak}


def _nothing_new(  # noqa: PLR0913 - what it is measured on
    server: Server, engine: Engine, url: str, config: Path, jobs: int, runs: int
) -> Figures:
    """A pass over recorded jobs and one over an OAR without any, in turns."""
    oar_data.settle(engine)
    with fresh_database(server) as none:
        empty = create_engine(none.url)
        oar_data.tables("postgresql").create_all(empty)
        empty.dispose()
        oar_accounting(none.url, config, "init")
        sides = {"full": url, "empty": none.url}
        seconds: dict[str, list[float]] = {side: [] for side in sides}
        # The first turn warms the caches up and is not counted.
        for turn in range(runs + 1):
            for side, place in sides.items():
                run: Run = oar_accounting(place, config, "catch-up")
                if turn:
                    seconds[side].append(run.seconds)
    progress(f"nothing new: {seconds}")
    return {
        "jobs": jobs,
        "ratio": median(seconds["full"]) / median(seconds["empty"]),
        **{side: {"runs": s, "median": median(s)} for side, s in seconds.items()},
    }


# -- the others -------------------------------------------------------------------------------


def _other(server: Server, config: Path, jobs: int, runs: int) -> Figures:
    with _filled(server, jobs) as (engine, url, made):
        seconds = []
        for turn in range(runs):
            seconds.append(_catch_up(engine, url, config))
            progress(f"{server.kind}: run {turn + 1}: {seconds[-1]:.2f} s")
        return made | _timed(seconds, jobs)

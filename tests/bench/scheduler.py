"""What OAR 3's scheduler waits for us: one call that sorts its jobs, and whole rounds of its own.

Every run is a process of its own, as every round of OAR's scheduler is: what has to be imported
for the call counts.
"""

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from statistics import median
from typing import Any

import click
from sqlalchemy import Engine, create_engine, text

from oar_accounting.accounting import Accounting
from tests import oar3_site
from tests.bench import karma_data, oar_data
from tests.bench.engine import progress
from tests.bench.karma_data import DAYS, METRICS, NOW, Size
from tests.oar3_rounds import SORTING, write_package
from tests.servers import MissingServerError, Server, Servers, fresh_database
from tests.stock_command import write_conf

ROOT = Path(__file__).parents[2]
HOURS = 24 * DAYS
#: Seconds that whole rounds may take longer with us than with a function that sorts nothing.
GOAL = 0.3
#: Longer than anything here takes, so that no run is measured that gave up.
LIMIT = 60

#: A scheduler's process up to the call, and the call. It has the database's driver and the ORM.
CALL = """
import json, logging, sys, time
from types import SimpleNamespace
from sqlalchemy import create_engine, orm
given = json.load(sys.stdin)
connection = create_engine(given["url"]).connect()
jobs = {jid: SimpleNamespace(id=jid) for jid in given["jids"]}
config = json.dumps({"config": given["config"], "limit": given["limit"]})
logging.basicConfig(stream=sys.stderr)
if given["imported"]:
    from oar_accounting import Accounting
    with Accounting.open(config=given["config"]) as accounting:
        accounting.karma(given["jids"][:1], now=given["now"])
began = time.perf_counter()
from oar_accounting.schedulers import bounded, oar3
found = time.perf_counter()
ordered = oar3.sort_jobs(["default"], given["now"], given["jids"], jobs, config, None)
done = time.perf_counter()
bounded.answer(bytes, given["limit"])
forked = time.perf_counter() - done
json.dump({"found": found - began, "all": done - began, "fork": forked, "ids": ordered}, sys.stdout)
"""

ROUND = "from oar.kao.kamelot import main; main()"
#: A package that OAR finds as it finds any other.
PACKAGE = "oar-accounting-bench"
ENTRY_POINTS = {
    SORTING: {
        "bench_identity": "identity",
        "bench_ours": "oar_accounting.schedulers.oar3:sort_jobs",
    }
}
IDENTITY = """
def identity(queues, now, jids, jobs, config, plt):
    return jids
"""
SIDES = {
    "FIFO": {"JOB_PRIORITY": "FIFO"},
    "identity": {"JOB_PRIORITY": "CUSTOM", "CUSTOM_JOB_SORTING": "bench_identity"},
    "ours": {"JOB_PRIORITY": "CUSTOM", "CUSTOM_JOB_SORTING": "bench_ours"},
    "FAIRSHARE": {"JOB_PRIORITY": "FAIRSHARE"},
}

Figures = dict[str, Any]


@click.command("scheduler")
@click.option("--waiting", default="1000,10000", show_default=True, help="Of the single calls.")
@click.option("--totals", default=1_000_000, type=click.IntRange(10_000), show_default=True)
@click.option("--runs", default=7, type=click.IntRange(1), show_default=True)
@click.option(
    "--round-waiting",
    default=1_000,
    type=click.IntRange(1, 1_000),
    show_default=True,
    help="Jobs of a whole round; OAR 3 places no more than 1,000 in one.",
)
@click.option("--sides", default=",".join(SIDES), show_default=True, help="Of whole rounds.")
@click.option("--json", "as_json", is_flag=True, help="Every figure, for a program.")
def scheduler(  # noqa: PLR0913 - its options
    waiting: str, totals: int, runs: int, round_waiting: int, sides: str, as_json: bool
) -> None:
    """A call that sorts OAR 3's waiting jobs, and whole rounds of OAR 3 where it is installed."""
    try:
        sizes = [int(each) for each in filter(None, waiting.split(","))]
    except ValueError:
        raise click.BadParameter(f"{waiting}: whole numbers with commas between them") from None
    chosen = list(filter(None, sides.split(",")))
    if unknown := set(chosen) - set(SIDES):
        raise click.BadParameter(f"{', '.join(unknown)}: known are {', '.join(SIDES)}")
    servers = Servers()
    try:
        servers.start(["postgresql"])
        server = servers.get("postgresql")
        calls = [_calls(server, _size(each, totals), runs) for each in sizes]
        figures: Figures = {"server": str(server), "calls": calls}
        if reason := _no_rounds():
            figures["missing"] = reason
        elif chosen:
            figures["rounds"] = _rounds(server, _size(round_waiting, totals), runs, chosen)
    except MissingServerError as error:
        raise click.ClickException(f"no figures: {error}") from None
    finally:
        servers.stop()
    click.echo(json.dumps(figures, indent=2) if as_json else _text_of(figures))


def _size(waiting: int, totals: int) -> Size:
    return Size(waiting=waiting, active=round(totals / len(METRICS) / HOURS))


def _in_turns(sides: Mapping[str, Callable[[], Figures]], runs: int) -> dict[str, list[Figures]]:
    """What the runs of every side say; the first turn warms the caches up and is not counted."""
    found: dict[str, list[Figures]] = {side: [] for side in sides}
    for turn in range(runs + 1):
        for side, run in sides.items():
            figures = run()
            if turn:
                found[side].append(figures)
    return found


# -- single calls -----------------------------------------------------------------------------


def _calls(server: Server, size: Size, runs: int) -> Figures:
    """Seconds of a call, of one where all is imported already, and of a child that does nothing."""
    with (
        tempfile.TemporaryDirectory(prefix="oar-bench-") as directory,
        fresh_database(server) as database,
    ):
        config = Path(directory, "accounting.toml")
        config.touch(0o600)
        config.write_text(f'oar_url = "{database.url}"\n{karma_data.SETTINGS}', encoding="utf-8")
        engine = create_engine(database.url)
        with Accounting.open(config=config) as accounting:
            progress(f"filling a month; {size.waiting:,} jobs wait")
            karma_data.fill(engine, accounting, size)
            rows = _count(engine, "accounting_totals")
            expected = accounting.karma(now=NOW).job_id.tolist()
        engine.dispose()
        given = {"url": database.url, "config": str(config), "limit": LIMIT, "now": NOW}
        given |= {"jids": sorted(expected)}
        progress(f"sorting {size.waiting:,} jobs")
        found = _in_turns(
            {
                "call": lambda: _call(given | {"imported": False}, expected),
                "imported": lambda: _call(given | {"imported": True}, expected),
            },
            runs,
        )
    call = [each["all"] for each in found["call"]]
    imported = median(each["all"] for each in found["imported"])
    forked = median(each["fork"] for each in found["call"])
    return {
        "waiting": size.waiting,
        "totals": rows,
        "runs": call,
        "median": median(call),
        "split": {
            "fork": forked,
            "imports": median(call) - imported,
            "database and order": imported - forked,
        },
    }


def _call(given: Figures, expected: list[int]) -> Figures:
    done = subprocess.run(
        [sys.executable, "-c", CALL],
        input=json.dumps(given),
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": _python_path()},
    )
    if done.returncode or done.stderr:
        raise RuntimeError(f"the call failed: {done.stderr}")
    told: Figures = json.loads(done.stdout)
    if told.pop("ids") != expected:
        raise RuntimeError("the jobs came back in another order than that of their karma")
    return told


def _python_path(*first: Path) -> str:
    return os.pathsep.join([*map(str, (*first, ROOT)), os.environ.get("PYTHONPATH", "")])


def _count(engine: Engine, table: str) -> int:
    with engine.connect() as connection:
        counting = f"SELECT count(*) FROM {table}"  # noqa: S608 - a name of ours
        return int(connection.execute(text(counting)).scalar_one())


# -- whole rounds -----------------------------------------------------------------------------

#: What OAR's tables need for what is put into them, beside OAR's own file.
COLUMNS = (
    "ALTER TABLE resources ADD COLUMN memnode INTEGER",
    "ALTER TABLE jobs ALTER launching_directory SET DEFAULT ''",
    "ALTER TABLE jobs ALTER checkpoint_signal SET DEFAULT 0",
    # What is copied in has the width that OAR 2 declares; this is undone when it is there.
    "ALTER TABLE moldable_job_descriptions ALTER moldable_id TYPE integer",
)
#: All jobs in one queue, each in need of a node; a past in OAR's accounting for its own karma.
REQUESTS = """
ALTER TABLE moldable_job_descriptions ALTER moldable_id TYPE bigint;
INSERT INTO queues (queue_name, priority, scheduler_policy) VALUES ('default', 2, 'kamelot');
UPDATE jobs SET queue_name = 'default' WHERE state = 'Waiting';
INSERT INTO job_resource_groups (res_group_id, res_group_moldable_id, res_group_property)
SELECT job_id, job_id, '' FROM jobs WHERE state = 'Waiting';
INSERT INTO job_resource_descriptions (res_job_group_id, res_job_resource_type, res_job_value)
SELECT job_id, 'network_address', 1 FROM jobs WHERE state = 'Waiting';
INSERT INTO accounting (window_start, window_stop, accounting_user, accounting_project,
    queue_name, consumption_type, consumption)
SELECT :begin + 3600 * hour, :begin + 3600 * hour + 3599, 'user' || (7 * n + hour) % 1000,
    'project' || n / 1000, 'default', kind, 1 + (7919 * n + hour) % 100000
FROM generate_series(0, :hours - 1) hour, generate_series(0, :active - 1) n,
    unnest(ARRAY['ASKED', 'USED']) kind;
"""
#: As if no round had been.
FORGET = (
    "TRUNCATE gantt_jobs_predictions, gantt_jobs_resources",
    "UPDATE jobs SET start_time = 0, last_karma = NULL, message = '' WHERE state = 'Waiting'",
    "VACUUM jobs",
)


def _no_rounds() -> str:
    """Why OAR 3 cannot be asked, or nothing."""
    if oar3_site.MISSING:
        return oar3_site.MISSING
    if oar3_site.schema_file() is None:
        return "OAR_ACCOUNTING_TEST_OAR3 does not name a checkout of OAR 3 with its schema file"
    return "" if find_spec("psycopg2") else "psycopg2 is not installed"


def _rounds(server: Server, size: Size, runs: int, sides: Sequence[str]) -> Figures:
    """Seconds of whole processes of OAR 3's scheduler, with every way to sort."""
    with (
        tempfile.TemporaryDirectory(prefix="oar-bench-") as name,
        fresh_database(server) as database,
    ):
        directory = Path(name)
        write_package(directory, PACKAGE, ENTRY_POINTS, IDENTITY)
        config = directory / "accounting.toml"
        config.write_text(karma_data.SETTINGS, encoding="utf-8")
        conf = write_conf(database.url, directory)
        engine = create_engine(database.url, isolation_level="AUTOCOMMIT")
        progress(f"filling a month of OAR 3; {size.waiting:,} jobs wait")
        _fill(engine, conf, config, size)
        rows = {each: _count(engine, each) for each in ("accounting_totals", "accounting")}
        progress(f"rounds of OAR 3's scheduler: {', '.join(sides)}")
        found = _in_turns(
            {side: _round_of(side, conf, config, engine, size) for side in sides}, runs
        )
        engine.dispose()
    seconds = {side: [each["seconds"] for each in found[side]] for side in sides}
    figures: Figures = {
        "waiting": size.waiting,
        "rows": rows,
        "runs": seconds,
        "median": {side: median(each) for side, each in seconds.items()},
    }
    if {"ours", "identity"} <= set(sides):
        turns = zip(seconds["ours"], seconds["identity"], strict=True)
        figures["difference"] = median(seconds["ours"]) - median(seconds["identity"])
        figures["median_of_differences"] = median(ours - identity for ours, identity in turns)
    return figures


def _fill(engine: Engine, conf: Path, config: Path, size: Size) -> None:
    file = oar3_site.schema_file()
    assert file is not None
    oar3_site.create_from_schema_file(engine, file)
    with engine.connect() as connection:
        for statement in COLUMNS:
            connection.execute(text(statement))
    with Accounting.open(oar_conf=conf, config=config) as accounting:
        karma_data.fill(engine, accounting, size)
    active = max(1, size.active * len(METRICS) // 2)
    values = {"begin": karma_data.BEGIN, "hours": HOURS, "active": active}
    with engine.connect() as connection:
        for statement in filter(str.strip, REQUESTS.split(";")):
            clause = text(statement)
            needed = {each: values[each] for each in clause._bindparams}
            connection.execute(clause, needed)
    oar_data.settle(engine)


def _round_of(
    side: str, conf: Path, config: Path, engine: Engine, size: Size
) -> Callable[[], Figures]:
    own = conf.with_name(f"{side}.conf")
    log = conf.with_name(f"{side}.log")
    ours = {
        **SIDES[side],
        "CUSTOM_JOB_SORTING_CONFIG": json.dumps({"config": str(config), "limit": LIMIT}),
        "LOG_FILE": log,
        # What OAR's own oar.conf has: the debugging output of a round is long.
        "LOG_LEVEL": 2,
    }
    lines = [f"{name}='{value}'" for name, value in ours.items()]
    own.touch(0o600)
    own.write_text("\n".join([conf.read_text(encoding="utf-8"), *lines, ""]), encoding="utf-8")

    def run() -> Figures:
        with engine.connect() as connection:
            for statement in FORGET:
                connection.execute(text(statement))
        log.unlink(missing_ok=True)
        began = time.perf_counter()
        done = subprocess.run(
            [sys.executable, "-c", ROUND, "default", str(NOW)],
            capture_output=True,
            text=True,
            env={
                **os.environ,
                "OARCONFFILE": str(own),
                "PYTHONPATH": _python_path(conf.parent),
            },
        )
        seconds = time.perf_counter() - began
        if done.returncode:
            raise RuntimeError(f"OAR's scheduler failed with {side}: {done.stderr}")
        said = [line for line in log.read_text().splitlines() if "oar_accounting:" in line]
        placed = _count(engine, "gantt_jobs_predictions")
        if said or placed != size.waiting:
            raise RuntimeError(f"{side}: {placed} of {size.waiting} jobs have a start; {said}")
        return {"seconds": seconds}

    return run


# -- for people -------------------------------------------------------------------------------


def _text_of(figures: Figures) -> str:
    lines = [f"{figures['server']}, medians of runs in turns, each in a process of its own"]
    for each in figures["calls"]:
        lines.append(f"sort_jobs, {each['waiting']:,} jobs wait, {each['totals']:,} totals rows")
        lines.append(_line("call", each["runs"]))
        lines += [f"    {part:<18}  {seconds:8.3f} s" for part, seconds in each["split"].items()]
    if "missing" in figures:
        lines.append(f"no rounds of OAR 3's scheduler: {figures['missing']}")
    if "rounds" not in figures:
        return "\n".join(lines)
    each = figures["rounds"]
    rows = ", ".join(f"{name} {count:,}" for name, count in each["rows"].items())
    lines.append(f"rounds of OAR 3's scheduler, {each['waiting']:,} jobs wait; {rows}")
    lines += [_line(side, seconds) for side, seconds in each["runs"].items()]
    if "difference" in each:
        lines.append(
            f"  {'ours - identity':<12}  {each['difference']:5.3f} s  of medians; goal <= {GOAL} s;"
            f" {each['median_of_differences']:.3f} s median of the turns' differences"
        )
    return "\n".join(lines)


def _line(label: str, runs: list[float]) -> str:
    shown = " ".join(f"{seconds:.3f}" for seconds in runs)
    return f"  {label:<10}  {median(runs):8.3f} s  {shown}"

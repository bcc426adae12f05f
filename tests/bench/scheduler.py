"""What a scheduler waits for us: one call that sorts its jobs, and whole rounds of OAR 3's own.

Every run is a process of its own, as every round of OAR's scheduler is. *Service* asks a karma
service that is warm, *library* starts the library for every answer, *identity* sorts nothing. Wall
time and processor time are told apart: the latter is that of the round, of all that it starts and
of the service, but not of the database.
"""

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import click
from sqlalchemy import Engine, create_engine, text

from oar_accounting.accounting import Accounting
from oar_accounting.stubs import oar3
from oar_accounting.stubs.plan import filled
from tests import oar3_site
from tests.bench import karma_data, oar_data
from tests.bench.engine import progress
from tests.bench.karma_data import DAYS, METRICS, NOW, Size
from tests.bench.karma_service import Cost, Service, karma_service
from tests.bench.processes import ROOT
from tests.oar3_rounds import SORTING, installation, write_package
from tests.servers import MissingServerError, Server, Servers, fresh_database
from tests.stock_command import write_conf

HOURS = 24 * DAYS
#: Seconds that whole rounds may take longer with the service than with what sorts nothing.
GOAL = 0.15
#: Longer than anything here takes, so that no run is measured that gave up.
LIMIT = 60
#: Jobs that OAR 3 places in one round; the others are sorted, and wait.
PLACED = 1_000

#: A scheduler's process: the stub alone, in a Python that knows nothing of ours.
CALL = """
import json, logging, sys
sys.path.insert(0, sys.argv[1])
import oar_accounting_service, oar_accounting_library
given = json.load(sys.stdin)
module = {"service": oar_accounting_service, "library": oar_accounting_library}.get(given["side"])
logging.basicConfig(stream=sys.stderr)
ordered = given["jids"]
if module is not None:
    ordered = module.sort_jobs(["default"], given["now"], ordered, {}, given["config"], None)
json.dump(ordered, sys.stdout)
"""

ROUND = "from oar.kao.kamelot import main; main()"
IDENTITY = """
def sort_jobs(queues, now, jids, jobs, config, plt):
    return jids
"""
SIDES = {
    "FIFO": {"JOB_PRIORITY": "FIFO"},
    "identity": {"JOB_PRIORITY": "CUSTOM", "CUSTOM_JOB_SORTING": "bench_identity"},
    "service": {"JOB_PRIORITY": "CUSTOM", "CUSTOM_JOB_SORTING": "bench_service"},
    "library": {"JOB_PRIORITY": "CUSTOM", "CUSTOM_JOB_SORTING": "bench_library"},
    "FAIRSHARE": {"JOB_PRIORITY": "FAIRSHARE"},
}
CALLS = ("identity", "service", "library")

Figures = dict[str, Any]


@click.command("scheduler")
@click.option("--waiting", default="1000,10000", show_default=True, help="Jobs that wait.")
@click.option("--totals", default=1_000_000, type=click.IntRange(10_000), show_default=True)
@click.option("--runs", default=7, type=click.IntRange(1), show_default=True)
@click.option("--sides", default=",".join(SIDES), show_default=True, help="Of whole rounds.")
@click.option("--json", "as_json", is_flag=True, help="Every figure, for a program.")
def scheduler(waiting: str, totals: int, runs: int, sides: str, as_json: bool) -> None:
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
        calls = [_measured(_Calls, server, _size(each, totals), CALLS, runs) for each in sizes]
        figures: Figures = {"server": str(server), "calls": calls}
        if isinstance(found := installation(), str):
            figures["missing"] = found
        elif chosen:
            figures["rounds"] = [
                _measured(_Rounds, server, _size(each, totals), chosen, runs) for each in sizes
            ]
    except MissingServerError as error:
        raise click.ClickException(f"no figures: {error}") from None
    finally:
        servers.stop()
    click.echo(json.dumps(figures, indent=2) if as_json else _text_of(figures))


def _size(waiting: int, totals: int) -> Size:
    return Size(waiting=waiting, active=round(totals / len(METRICS) / HOURS))


def _measured(
    kind: "type[_Calls | _Rounds]", server: Server, size: Size, sides: Sequence[str], runs: int
) -> Figures:
    """Seconds of wall and processor time of every side, run in turns."""
    with (
        tempfile.TemporaryDirectory(prefix="oar-bench-") as name,
        fresh_database(server) as database,
        karma_service(Path(name)) as service,
    ):
        engine = create_engine(database.url, isolation_level="AUTOCOMMIT")
        work = kind(engine, database.url, Path(name), size, service)
        progress(f"filling a month; {size.waiting:,} jobs wait")
        work.fill()
        rows = {each: _count(engine, each) for each in work.tables}
        progress(f"{work.title}: {', '.join(sides)}")
        found = _in_turns({side: work.of(side) for side in sides}, runs)
        engine.dispose()
    return {
        "title": work.title,
        "waiting": size.waiting,
        "rows": rows,
        "sides": {
            side: {part: [getattr(each, part) for each in costs] for part in ("wall", "cpu")}
            for side, costs in found.items()
        },
    }


def _in_turns(sides: Mapping[str, Callable[[], Cost]], runs: int) -> dict[str, list[Cost]]:
    """What the runs of every side take; the first turn warms caches up and is not counted."""
    found: dict[str, list[Cost]] = {side: [] for side in sides}
    for turn in range(runs + 1):
        for side, run in sides.items():
            cost = run()
            if turn:
                found[side].append(cost)
    return found


def _write_stubs(directory: Path, service: Service) -> None:
    """The stub twice, with the service and with none, and what sorts nothing."""
    source = Path(oar3.__file__).read_text(encoding="utf-8")
    for side, socket in {"service": service.socket, "library": directory / "none"}.items():
        values = {"python": sys.executable, "socket": str(socket), "state": str(directory)}
        # Where the package is not installed, it is beside the tests.
        text_of_it = filled(source, values).replace('"-I"', '"-P"')
        entry_points = {SORTING: {f"bench_{side}": "sort_jobs"}}
        write_package(directory, f"oar-accounting-{side}", entry_points, text_of_it)
    entry_points = {SORTING: {"bench_identity": "sort_jobs"}}
    write_package(directory, "oar-accounting-identity", entry_points, IDENTITY)


def _check_who(directory: Path, side: str) -> None:
    """Raise RuntimeError where somebody else answered than the *side* is about."""
    if side in ("service", "library"):
        last = (directory / "rounds").read_text(encoding="utf-8").splitlines()[-1]
        if last.split()[1] != side:
            raise RuntimeError(f"{side}: answered otherwise: {last}")


def _python_path(*first: Path) -> str:
    return os.pathsep.join([*map(str, (*first, ROOT)), os.environ.get("PYTHONPATH", "")])


def _count(engine: Engine, table: str) -> int:
    with engine.connect() as connection:
        counting = f"SELECT count(*) FROM {table}"  # noqa: S608 - a name of ours
        return int(connection.execute(text(counting)).scalar_one())


# -- single calls -----------------------------------------------------------------------------


@dataclass(slots=True)
class _Calls:
    """One call of the stub in a process that does nothing else."""

    engine: Engine
    url: str
    directory: Path
    size: Size
    service: Service
    expected: tuple[int, ...] = ()
    tables = ("accounting_totals",)
    title = "a process that sorts"

    def fill(self) -> None:
        """Let jobs wait, and see in which order they should start."""
        self._config().touch(0o600)
        given = f'oar_url = "{self.url}"\n{karma_data.POLICIES["linear"]}'
        self._config().write_text(given, encoding="utf-8")
        with Accounting.open(config=self._config()) as accounting:
            karma_data.fill(self.engine, accounting, self.size)
            self.expected = tuple(accounting.karma(now=NOW).job_id.tolist())
        _write_stubs(self.directory, self.service)

    def of(self, side: str) -> Callable[[], Cost]:
        """A call."""
        return lambda: self.service.cost(lambda: self._call(side))

    def _config(self) -> Path:
        return self.directory / "accounting.toml"

    def _call(self, side: str) -> None:
        ids = sorted(self.expected)
        config = json.dumps({"config": str(self._config()), "limit": LIMIT})
        done = subprocess.run(
            [sys.executable, "-c", CALL, str(self.directory)],
            input=json.dumps({"side": side, "jids": ids, "now": NOW, "config": config}),
            capture_output=True,
            text=True,
            env={**os.environ, "PYTHONPATH": _python_path()},
        )
        expected = ids if side == "identity" else list(self.expected)
        if done.returncode or done.stderr or json.loads(done.stdout) != expected:
            raise RuntimeError(f"{side}: not the order of our karma: {done.stderr}")
        _check_who(self.directory, side)


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


@dataclass(slots=True)
class _Rounds:
    """Whole processes of OAR 3's scheduler."""

    engine: Engine
    url: str
    directory: Path
    size: Size
    service: Service
    conf: str = ""  #: what every ``oar.conf`` begins with
    tables = ("accounting_totals", "accounting")
    title = "a round of OAR 3's scheduler"

    def fill(self) -> None:
        """A month of OAR 3, with jobs that wait."""
        config = self.directory / "accounting.toml"
        config.write_text(karma_data.POLICIES["linear"], encoding="utf-8")
        conf = write_conf(self.url, self.directory)
        self.conf = conf.read_text(encoding="utf-8")
        _fill(self.engine, conf, config, self.size)
        _write_stubs(self.directory, self.service)

    def of(self, side: str) -> Callable[[], Cost]:
        """A round with one way to sort."""
        conf, log = (self.directory / f"{side}.{kind}" for kind in ("conf", "log"))
        config = {"config": str(self.directory / "accounting.toml"), "limit": LIMIT}
        values = {
            **SIDES[side],
            "CUSTOM_JOB_SORTING_CONFIG": json.dumps(config),
            "LOG_FILE": log,
            # What OAR's own oar.conf has: the debugging output of a round is long.
            "LOG_LEVEL": 2,
        }
        lines = [f"{name}='{value}'" for name, value in values.items()]
        conf.touch(0o600)
        conf.write_text("\n".join([self.conf, *lines, ""]), encoding="utf-8")

        def run() -> Cost:
            with self.engine.connect() as connection:
                for statement in FORGET:
                    connection.execute(text(statement))
            log.unlink(missing_ok=True)
            cost = self.service.cost(lambda: self._round(side, conf))
            said = [line for line in log.read_text().splitlines() if "oar_accounting:" in line]
            placed = _count(self.engine, "gantt_jobs_predictions")
            if said or placed != min(self.size.waiting, PLACED):
                raise RuntimeError(f"{side}: {placed} jobs have a start; {said}")
            return cost

        return run

    def _round(self, side: str, conf: Path) -> None:
        found = installation()
        assert not isinstance(found, str)
        done = subprocess.run(
            [found.python, "-c", ROUND, "default", str(NOW)],
            capture_output=True,
            text=True,
            env={
                **os.environ,
                "OARCONFFILE": str(conf),
                "PYTHONPATH": str(self.directory),
            },
        )
        if done.returncode:
            raise RuntimeError(f"OAR's scheduler failed with {side}: {done.stderr}")
        _check_who(self.directory, side)


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


# -- for people -------------------------------------------------------------------------------


def _text_of(figures: Figures) -> str:
    lines = [f"{figures['server']}, medians of runs in turns, each in a process of its own"]
    for each in (*figures["calls"], *figures.get("rounds", ())):
        lines += _lines_of(each)
    if "missing" in figures:
        lines.append(f"no rounds of OAR 3's scheduler: {figures['missing']}")
    return "\n".join(lines)


def _lines_of(figures: Figures) -> list[str]:
    rows = ", ".join(f"{name} {count:,}" for name, count in figures["rows"].items())
    lines = [f"{figures['title']}, {figures['waiting']:,} jobs wait; {rows}"]
    sides = figures["sides"]
    for side, costs in sides.items():
        wall, cpu = median(costs["wall"]), median(costs["cpu"])
        runs = " ".join(f"{seconds:.3f}" for seconds in costs["wall"])
        lines.append(f"  {side:<10}  wall {wall:7.3f} s  cpu {cpu:7.3f} s  {runs}")
    for side in (
        [each for each in ("service", "library") if each in sides] if "identity" in sides else ()
    ):
        over = {part: _over(sides, side, part) for part in ("wall", "cpu")}
        goal = f"; goal <= {GOAL} s" if side == "service" else ""
        lines.append(
            f"  {side} - identity: wall {over['wall']:.3f} s, cpu {over['cpu']:.3f} s, medians of "
            f"the turns' differences{goal}"
        )
    return lines


def _over(sides: Figures, side: str, part: str) -> float:
    """The median of how much more a side takes, turn by turn."""
    turns = zip(sides[side][part], sides["identity"][part], strict=True)
    return float(median(more - less for more, less in turns))

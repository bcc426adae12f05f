"""``oar-accounting oaraccounting`` beside OAR's own command, on the same jobs, as whole processes.

Both fill a table accounting that OAR's own file has just created, in turns; what they leave must
be equal.
"""

import json
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Any

import click
from sqlalchemy import Engine, create_engine, make_url, text

from tests.bench import oar_data
from tests.bench.engine import progress
from tests.bench.processes import oar_accounting
from tests.bench.report import MIB
from tests.servers import TITLES, MissingServerError, Server, Servers, fresh_database
from tests.stock_command import StockCommand, create_accounting, missing, write_conf

GOAL = 30
#: How OAR's own files declare it.
ACCOUNTED = {
    "postgresql": "VARCHAR(3) CHECK (accounted IN ('YES','NO')) DEFAULT 'NO' NOT NULL",
    "mariadb": "ENUM('YES','NO') DEFAULT 'NO' NOT NULL",
}
Figures = dict[str, Any]


@click.command("stock")
@click.option("--jobs", default=10_000, type=click.IntRange(1), show_default=True)
@click.option("--runs", default=3, type=click.IntRange(1), show_default=True)
@click.option("--databases", default="postgresql,mariadb", show_default=True)
@click.option("--json", "as_json", is_flag=True, help="Every figure, for a program.")
def stock(jobs: int, runs: int, databases: str, as_json: bool) -> None:
    """OAR's own oaraccounting against ours, from an empty table, as whole processes.

    The Perl of OAR 2.5.9 takes more than a minute for 10,000 jobs.
    """
    kinds: list[Any] = list(filter(None, databases.split(",")))
    if unknown := set(kinds) - set(ACCOUNTED):
        raise click.BadParameter(f"{', '.join(unknown)}: known are {', '.join(ACCOUNTED)}")
    servers = Servers()
    try:
        servers.start(kinds)
        figures = {kind: _measured(servers, kind, jobs, runs) for kind in kinds}
    finally:
        servers.stop()
    click.echo(json.dumps(figures, indent=2) if as_json else _text_of(figures))


def _measured(servers: Servers, kind: Any, jobs: int, runs: int) -> Figures:
    """Figures of one kind of database, or why there are none."""
    try:
        server = servers.get(kind)
    except MissingServerError as error:
        return {"missing": str(error)}
    if reason := missing(kind):
        return {"missing": reason}
    return {"server": str(server), "jobs": jobs, **_in_turns(server, jobs, runs)}


def _in_turns(server: Server, jobs: int, runs: int) -> Figures:
    theirs: list[float] = []
    ours: list[float] = []
    peaks: list[int] = []
    with (
        tempfile.TemporaryDirectory(prefix="oar-bench-") as name,
        fresh_database(server) as database,
    ):
        place = make_url(database.url)
        directory = Path(name)
        config = directory / "accounting.toml"
        # In a file, so that nothing is told of a password in the list of processes.
        (directory / "password").write_text(f"{place.password}\n")
        (directory / "password").chmod(0o600)
        config.write_text(f'oar_password_file = "{directory / "password"}"\n')
        url = place.set(password=None).render_as_string()
        perl = StockCommand(write_conf(database.url, directory))
        engine = create_engine(database.url)
        progress(f"{server.kind}: making {jobs:,} jobs")
        oar_data.fill(engine, jobs)
        _let_survive(engine)
        with engine.begin() as connection:
            column = f"ALTER TABLE jobs ADD COLUMN accounted {ACCOUNTED[server.kind]}"
            connection.exec_driver_sql(column)
            connection.exec_driver_sql("CREATE INDEX accounted ON jobs (accounted)")
        for turn in range(runs):
            _empty(engine, server.kind)
            theirs.append(_run_perl(perl))
            expected = _left(engine)
            _empty(engine, server.kind)
            run = oar_accounting(url, config, "oaraccounting")
            ours.append(run.seconds)
            peaks.append(run.peak)
            if _left(engine) != expected or not expected[1]:
                raise RuntimeError("the two commands left different rows")
            progress(f"run {turn + 1}: OAR's {theirs[-1]:.2f} s, ours {ours[-1]:.2f} s")
        engine.dispose()
    return {
        "rows": expected[1],
        "theirs": {"runs": theirs, "median": median(theirs)},
        "ours": {"runs": ours, "median": median(ours), "peak": max(peaks)},
        "ratio": median(theirs) / median(ours),
    }


def _let_survive(engine: Engine) -> None:
    """Give OAR's tables the write-ahead log that those of a real OAR have."""
    if engine.dialect.name == "postgresql":
        with engine.begin() as connection:
            for name in ("jobs", "moldable_job_descriptions", "assigned_resources", "resources"):
                connection.exec_driver_sql(f"ALTER TABLE {name} SET LOGGED")


def _empty(engine: Engine, kind: str) -> None:
    """A new table accounting, of which no planner knows anything, and no job counted."""
    with engine.begin() as connection:
        connection.exec_driver_sql("DROP TABLE IF EXISTS accounting")
        connection.exec_driver_sql("UPDATE jobs SET accounted = 'NO'")
    oar_data.settle(engine)
    with engine.begin() as connection:
        create_accounting(connection, kind)


def _run_perl(perl: StockCommand) -> float:
    began = time.perf_counter()
    said = perl.run()
    if said:
        raise RuntimeError(f"oaraccounting: {said}")
    return time.perf_counter() - began


def _left(engine: Engine) -> tuple[Sequence[Any], int]:
    """The rows, sorted, and how many they are; no job may be left."""
    with engine.connect() as connection:
        rows = sorted(map(tuple, connection.execute(text("SELECT * FROM accounting"))))
        query = text("SELECT COUNT(*) FROM jobs WHERE accounted = 'NO'")
        if connection.execute(query).scalar_one():
            raise RuntimeError("a job was not counted")
    return rows, len(rows)


def _text_of(figures: Figures) -> str:
    lines = []
    for kind, each in figures.items():
        if "missing" in each:
            lines.append(f"no figures of {TITLES[kind]}: {each['missing']}")  # type: ignore[index]
            continue
        lines.append(f"{each['server']}: {each['jobs']:,} jobs into {each['rows']:,} equal rows")
        for label, side in (("OAR's own", each["theirs"]), ("ours", each["ours"])):
            shown = " ".join(f"{seconds:.2f}" for seconds in side["runs"])
            rate = each["jobs"] / side["median"]
            lines.append(f"  {label:<10}  {side['median']:8.2f} s  {rate:8,.0f} jobs/s; {shown}")
        goal = f"goal >= {GOAL}" if kind == "postgresql" and each["jobs"] >= 10_000 else ""
        peak = f"at most {each['ours']['peak'] / MIB:.0f} MiB"
        lines.append(f"  {'ratio':<10}  {each['ratio']:8.1f}    of medians; {goal}; {peak}")
    return "\n".join(lines)

"""How long the upgrade from the version before takes, on tables of a site of many jobs."""

import json
import time
from pathlib import Path
from typing import Any

import click
import numpy as np
from sqlalchemy import Engine, MetaData, create_engine, text

from oar_accounting import Accounting
from oar_accounting.core.columns import Ints
from oar_accounting.core.lengths import DAY
from oar_accounting.database import bulk
from oar_accounting.ledger import schema
from tests.bench.engine import progress
from tests.servers import KINDS, MissingServerError, Server, Servers, fresh_database

DATA = Path(__file__).parents[1] / "data"
#: Metrics of each job, and totals for each of its rates, as on a site with windows of a day.
METRICS = 3
TOTALS_OF_A_RATE = 1 / 3
#: Rows that are made at once.
AT_ONCE = 300_000
GOAL = 60
Figures = dict[str, Any]


@click.command("upgrade")
@click.option("--rates", default=3_000_000, type=click.IntRange(1_000), show_default=True)
@click.option("--databases", default=",".join(KINDS), show_default=True)
@click.option("--json", "as_json", is_flag=True, help="Every figure, for a program.")
def upgrade(rates: int, databases: str, as_json: bool) -> None:
    """The upgrade from the version before this one; each job has three rates."""
    kinds: list[Any] = list(filter(None, databases.split(",")))
    if unknown := set(kinds) - set(KINDS):
        raise click.BadParameter(f"{', '.join(unknown)}: known are {', '.join(KINDS)}")
    servers = Servers()
    try:
        servers.start(kinds)
        figures = {kind: _measured(servers, kind, rates) for kind in kinds}
    finally:
        servers.stop()
    click.echo(json.dumps(figures, indent=2) if as_json else _text_of(figures))


def _measured(servers: Servers, kind: Any, rates: int) -> Figures:
    """Figures of one kind of database, or why there are none."""
    try:
        server = servers.get(kind)
    except MissingServerError as error:
        return {"missing": str(error)}
    with fresh_database(server) as database:
        engine = create_engine(database.url)
        progress(f"{kind}: making {rates:,} rates")
        _fill(engine, server, rates)
        plan = Accounting.open(engine=engine).upgrade_plan()
        began = time.perf_counter()
        Accounting.open(engine=engine).init()
        seconds = time.perf_counter() - began
        progress(f"{kind}: {seconds:.1f} s")
        engine.dispose()
    return {"server": str(server), "rates": rates, "seconds": seconds, "told": plan.seconds}


def _fill(engine: Engine, server: Server, rates: int) -> None:
    """Tables of the version before, with one site."""
    statements = (DATA / f"schema-{schema.VERSION - 1}-{server.kind}.sql").read_text("utf-8")
    with engine.begin() as connection:
        for statement in filter(str.strip, statements.split(";\n")):
            connection.execute(text(statement))
    tables = MetaData()
    tables.reflect(engine)
    with engine.begin() as connection:
        names = {"user_name": "u", "project": "p", "queue_name": "q", "property_value": ""}
        site: Figures = {"site_id": 1, "name": "oar", "window_seconds": DAY, "dimension": ""}
        site |= {"profile": "default", "containers": "inner", "unfinished": ""}
        connection.execute(
            tables.tables["accounting_sites"].insert(), site | {"high_water_mark": 0}
        )
        for number in range(1, 1 + METRICS):
            metric = {"metric_id": number, "site_id": 1, "name": f"m{number}", "unit": "u"}
            metric |= {"scale": 1, "definition": "", "digest": str(number), "state": "active"}
            connection.execute(tables.tables["accounting_metrics"].insert(), metric)
        accounts = [
            {"account_id": n, "site_id": 1, "digest": str(n), **names} for n in range(1, 901)
        ]
        connection.execute(tables.tables["accounting_accounts"].insert(), accounts)
    for first in range(0, rates, AT_ONCE):
        _fill_some(engine, tables, np.arange(first, min(first + AT_ONCE, rates)))


def _fill_some(engine: Engine, tables: MetaData, number: Ints) -> None:
    job, metric = number // METRICS, number % METRICS + 1
    one = np.ones(len(number), np.int64)
    columns = {"site_id": one, "job_id": job, "account_id": 1 + job % 900, "metric_id": metric}
    rows = {"accounting_rates": columns | {"asked": one, "used": one}}
    some = number[: int(len(number) * TOTALS_OF_A_RATE)]
    window = (number[0] + np.arange(len(some))) // 2_700 * DAY
    rows["accounting_totals"] = {
        "window_start": window,
        "account_id": 1 + some // METRICS % 900,
        "metric_id": some % METRICS + 1,
        "asked": one[: len(some)],
        "used": one[: len(some)],
    }
    with engine.begin() as connection:
        for name, values in rows.items():
            bulk.insert_columns(connection, tables.tables[name], values)


def _text_of(figures: Figures) -> str:
    lines = []
    for kind, each in figures.items():
        if "missing" in each:
            lines.append(f"{kind}: {each['missing']}")
            continue
        told = f"init --dry-run said about {each['told']:.0f} s"
        lines.append(
            f"{each['server']}: {each['rates']:,} rates upgraded in {each['seconds']:.1f} s, "
            f"goal <= {GOAL} s; {told}"
        )
    return "\n".join(lines)

"""`Accounting.karma` beside one bare aggregate over the hours of the same month, in turns."""

import json
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median
from typing import Any

import click
import numpy as np
from sqlalchemy import Engine, create_engine, text

from oar_accounting.accounting import Accounting
from oar_accounting.database import dialects
from oar_accounting.karma import by_linear
from oar_accounting.karma.fair_share import FairShare
from oar_accounting.karma.policies.linear import linear, shares, term, total_of
from oar_accounting.karma.policies.order import order
from oar_accounting.karma.policies.policy import Linear
from oar_accounting.karma.waiting import Waiters, waiters
from oar_accounting.ledger import schema
from oar_accounting.ledger.ledger import Ledger
from oar_accounting.oar.snapshot import OarJobs
from oar_accounting.oar.waiting_jobs import read_waiting
from oar_accounting.usage.keys import Key
from tests.bench import karma_data
from tests.bench.engine import progress
from tests.bench.karma_data import Size
from tests.bench.tables import rows_of
from tests.servers import KINDS, TITLES, MissingServerError, Server, Servers, fresh_database

#: What any karma of the three metrics would have to read, and nothing of what it makes of it.
PEER = text(
    "SELECT account_id, metric_id, sum(used), sum(asked) FROM accounting_totals"
    " WHERE site_id = 1 AND window_start >= :begin GROUP BY 1, 2"
)
COUNTED = (schema.accounts, schema.totals, schema.days)
Figures = dict[str, Any]


@click.command("karma")
@click.option("--runs", default=9, type=click.IntRange(1), show_default=True)
@click.option("--waiting", default=10_000, type=click.IntRange(1), show_default=True)
@click.option(
    "--stretch",
    default="8",
    type=click.Choice(["1", "2", "4", "8", "12", "24"]),
    show_default=True,
    help="Hours for which an account uses something on end.",
)
@click.option(
    "--policy",
    default="linear",
    type=click.Choice(list(karma_data.POLICIES)),
    show_default=True,
)
@click.option("--databases", default="postgresql", show_default=True)
@click.option("--json", "as_json", is_flag=True, help="Every figure, for a program.")
def karma(  # noqa: PLR0913 - as many options
    runs: int, waiting: int, stretch: str, policy: str, databases: str, as_json: bool
) -> None:
    """Karma of a long queue against one aggregate over a million hourly rows, in one process."""
    kinds: list[Any] = list(filter(None, databases.split(",")))
    if unknown := set(kinds) - set(KINDS):
        raise click.BadParameter(f"{', '.join(unknown)}: known are {', '.join(KINDS)}")
    size = Size(waiting=waiting, stretch=int(stretch))
    servers = Servers()
    try:
        servers.start(kinds)
        figures = {kind: _measured(servers, kind, size, runs, policy) for kind in kinds}
    finally:
        servers.stop()
    click.echo(json.dumps(figures, indent=2) if as_json else _text_of(figures))


def _measured(servers: Servers, kind: Any, size: Size, runs: int, policy: str) -> Figures:
    """Figures of one kind of database, or why there are none."""
    try:
        server = servers.get(kind)
    except MissingServerError as error:
        return {"missing": str(error)}
    return {"server": str(server), **_in_turns(server, size, runs, policy)}


def _in_turns(server: Server, size: Size, runs: int, policy: str) -> Figures:
    with (
        tempfile.TemporaryDirectory(prefix="oar-bench-") as directory,
        fresh_database(server) as database,
    ):
        config = Path(directory, "accounting.toml")
        config.write_text(karma_data.POLICIES[policy], encoding="utf-8")
        engine = create_engine(database.url)
        with Accounting.open(url=database.url, config=config) as accounting:
            progress(f"{server.kind}: filling a month")
            karma_data.fill(engine, accounting, size)
            rows = rows_of(engine, COUNTED)
            progress(f"{server.kind}: {rows}")
            sides = {"peer": lambda: _peer(engine), "ours": lambda: _ours(accounting, size)}
            found = _timed(sides, runs)
            if policy == "linear":
                found |= _arithmetic(accounting, runs)
        engine.dispose()
    middle = {side: median(seconds) for side, seconds in found.items()}
    return {
        "rows": rows,
        "waiting": size.waiting,
        "running": size.running,
        **{side: {"runs": found[side], "median": middle[side]} for side in found},
        "ratio": middle["ours"] / middle["peer"],
    }


def _arithmetic(accounting: Accounting, runs: int) -> dict[str, list[float]]:
    """Seconds from the amounts, when they are read, to the order of the jobs, without the names."""
    ledger = Ledger(accounting.engine, accounting.settings.site)
    oar = OarJobs(accounting.oar_engine)
    asked = FairShare(accounting.settings, ledger, oar, karma_data.NOW)
    policy = asked.rules.policy
    assert isinstance(policy, Linear)
    with dialects.reading(accounting.oar_engine) as connection:
        queued = read_waiting(connection)
    metrics = list(dict.fromkeys(each.metric for each in policy.terms))
    with asked.sources(metrics, asked.rules.open_jobs) as sources:
        jobs = waiters(sources.connection, sources.site, queued)
        judged = by_linear.judge(policy, sources)
        rows = [each.entities.find(_groups(each.keys, jobs)) for each in judged]

        def run() -> None:
            terms = []
            for each, row in zip(judged, rows, strict=True):
                weighed = sources.usage(each.term.metric, each.term.counted, each.entities)
                share = shares(weighed.usage, total_of(weighed.usage))
                terms.append(term(each.term.weight, np.append(share, 0.0)[row], 0.0))
            order(linear(terms, len(queued)), queued.job_id)

        return _timed({"arithmetic": run}, runs)


def _groups(keys: Sequence[Key], jobs: Waiters) -> list[tuple[str, ...]]:
    return list(zip(*(jobs.values(key, karma_data.NOW) for key in keys), strict=True))


def _timed(sides: dict[str, Callable[[], None]], runs: int) -> dict[str, list[float]]:
    """Seconds of each side, in turns; the first turn warms the caches up and is not counted."""
    seconds: dict[str, list[float]] = {side: [] for side in sides}
    for turn in range(runs + 1):
        for side, run in sides.items():
            began = time.perf_counter()
            run()
            if turn:
                seconds[side].append(time.perf_counter() - began)
    return seconds


def _peer(engine: Engine) -> None:
    with engine.connect() as connection:
        found: Sequence[Any] = connection.execute(PEER, {"begin": karma_data.BEGIN}).fetchall()
    if not found:
        raise RuntimeError("the aggregate found nothing")


def _ours(accounting: Accounting, size: Size) -> None:
    report = accounting.karma(now=karma_data.NOW)
    if len(report) != size.waiting:
        raise RuntimeError(f"{len(report)} of {size.waiting} jobs have a karma")


def _text_of(figures: Figures) -> str:
    lines = []
    for kind, each in figures.items():
        if "missing" in each:
            lines.append(f"no figures of {TITLES[kind]}: {each['missing']}")  # type: ignore[index]
            continue
        rows = ", ".join(f"{name} {count:,}" for name, count in each["rows"].items())
        lines.append(
            f"{each['server']}: {each['waiting']:,} jobs wait, {each['running']} run; {rows}"
        )
        labels = {"aggregate": "peer", "karma": "ours", "arithmetic": "arithmetic"}
        for label, side in ((label, each[key]) for label, key in labels.items() if key in each):
            shown = " ".join(f"{seconds:.3f}" for seconds in side["runs"])
            lines.append(f"  {label:<10}  {side['median']:8.3f} s  {shown}")
        lines.append(f"  {'ratio':<10}  {each['ratio']:8.2f}    of medians")
    return "\n".join(lines)

"""How far the campaign is, and what it counted in the end."""

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime

import click
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn
from rich.progress import Progress as Bars
from rich.table import Table

from tests.campaign.campaign import Progress
from tests.campaign.stage import Counts
from tests.servers import TITLES, Kind

COLUMNS = {
    "kills": "kills",
    "inside": "in a write transaction",
    "rounds": "rounds",
    "refusals": "refusals told",
    "checks": "times all held",
    "differences": "differences",
}


@contextmanager
def shown_progress(kinds: tuple[Kind, ...]) -> Iterator[dict[Kind, Progress]]:
    """What to tell the progress of each database: bars on a terminal, else lines."""
    console = Console(stderr=True)
    if not console.is_terminal:
        yield {kind: _lines(kind) for kind in kinds}
        return
    columns = (TextColumn("{task.description:<40}"), BarColumn(), MofNCompleteColumn())
    with Bars(*columns, TimeElapsedColumn(), console=console) as bars:
        yield {kind: _bar(bars, kind) for kind in kinds}


def _bar(bars: Bars, kind: Kind) -> Progress:
    task = bars.add_task(TITLES[kind], total=None)

    def tell(step: str, done: int, total: int, _: Counts) -> None:
        bars.update(task, description=f"{TITLES[kind]}: {step}", completed=done, total=total)

    return tell


def _lines(kind: Kind) -> Progress:
    def tell(step: str, done: int, total: int, counts: Counts) -> None:
        now = f"{datetime.now(UTC):%H:%M:%S}"
        click.echo(f"{now} {TITLES[kind]} {done}/{total} {step}, {counts.kills} kills", err=True)
        if counts.failure:
            click.echo(counts.failure, err=True)

    return tell


def show(found: Mapping[Kind, Counts], seed: int, *, as_json: bool) -> None:
    """The table, or everything for a program; then what failed."""
    if as_json:
        databases = {kind: counts.as_dict() for kind, counts in found.items()}
        click.echo(json.dumps({"seed": seed, "databases": databases}, indent=1))
        return
    table = Table(box=SIMPLE_HEAD, title=f"campaign, seed {seed}", title_justify="left")
    table.add_column("database")
    for title in (*COLUMNS.values(), "duration"):
        table.add_column(title, justify="right")
    for kind, counts in found.items():
        minutes, seconds = divmod(round(counts.seconds), 60)
        numbers = [str(getattr(counts, name)) for name in COLUMNS]
        table.add_row(TITLES[kind], *numbers, f"{minutes} min {seconds:02} s")
    Console(width=120).print(table)
    for kind, counts in found.items():
        if counts.failure:
            click.echo(f"{TITLES[kind]} failed: {counts.failure}")

"""What ``karma --what-if`` tells: who gains, who loses, and how far that can be said."""

import json
from collections.abc import Iterator
from dataclasses import asdict

import click
from rich.table import Table

from oar_accounting.cli.terminal.display import add_row, new_table, progress_bar, show
from oar_accounting.cli.terminal.options import Options
from oar_accounting.core import formats, periods
from oar_accounting.core.lengths import HOUR
from oar_accounting.karma.what_if_report import Replay, WhatIfReport

DAYS = 7


def tell(options: Options, config: str, days: int | None, at: str | None, *, as_json: bool) -> None:
    """The order and the waits under the settings in force and under those of the file."""
    with options.accounting() as accounting, progress_bar("karma") as progress:
        now = None if at is None else accounting.instant(at)
        report = accounting.what_if(
            config, days=DAYS if days is None else days, now=now, progress=progress
        )
    if as_json:
        click.echo(json.dumps(asdict(report), ensure_ascii=False, indent=1, allow_nan=False))
        return
    if report.places:
        show(places_table(report))
    for line in order_lines(report):
        click.echo(formats.printable(line))
    if report.replay is not None:
        click.echo()
        if report.replay.choices:
            show(waits_table(report.replay))
        for line in replay_lines(report.replay):
            click.echo(line)


def places_table(report: WhatIfReport) -> Table:
    """A line per user and queue, those who gain most first."""
    table = new_table("queue", "user")
    for title in ("jobs", "place now", "then", ""):
        table.add_column(title, justify="right")
    for each in report.places:
        change = each.after - each.before
        words = f"{abs(change):g} {'earlier' if change < 0 else 'later'}" if change else ""
        cells = (str(each.jobs), f"{each.before:g}", f"{each.after:g}", words)
        add_row(table, each.queue, each.user, *cells)
    return table


def order_lines(report: WhatIfReport) -> Iterator[str]:
    """How much of the order changes."""
    if not report.moves:
        yield "no job waits"
        return
    moved = sum(each.before != each.after for each in report.moves)
    yield (
        f"{report.before} now, {report.after} then: {moved} of {len(report.moves)} waiting jobs "
        f"change their place{_share(report.swapped, report.pairs, ' of the pairs in a queue swap')}"
    )


def _share(part: int, whole: int, words: str) -> str:
    return f"; {part / whole:.0%}{words}" if whole else ""


def waits_table(replay: Replay) -> Table:
    """A line per user, those who gain most first; hours."""
    table = new_table("user")
    titles = ("jobs", "waited", "replayed now", "replayed then", "change")
    for title in titles:
        table.add_column(title if title == "jobs" else f"{title}\nh", justify="right")
    for each in replay.waits:
        hours = [f"{seconds / HOUR:,.2f}" for seconds in (each.was, each.before, each.after)]
        change = f"{(each.after - each.before) / HOUR:+,.2f}"
        add_row(table, each.user, str(each.jobs), *hours, change)
    return table


def replay_lines(replay: Replay) -> Iterator[str]:
    """What the replay is worth, and what it does not know."""
    since = f"since {periods.shown(replay.begin, periods.zone(replay.timezone))}"
    if not replay.choices:
        yield (
            f"Of {replay.starts} starts {since} none had a choice: no two jobs of the same queue "
            "and size waited at once. Nothing can be said of waits."
        )
        return
    yield (
        f"{replay.starts} jobs started {since}; {replay.choices} of these starts had a choice "
        "between jobs of the same queue and number of resources."
    )
    yield (
        f"The settings in force pick the job that really started in "
        f"{replay.explained / replay.choices:.0%} of them, where drawing lots would in "
        f"{replay.chance / replay.choices:.0%}: the nearer these two, the less a change means."
    )
    yield (
        "Every start stays when it was, and goes to another job of its kind. Not replayed: "
        f"backfilling, jobs of other sizes in its place, {replay.reservations} reservations, jobs "
        "that wait still."
    )
    yield (
        "Karma is made of what was really used, though another order would have changed that, as "
        f"of every {replay.step / HOUR:g} h. What else held a job back is not looked at: walltime, "
        "other conditions on resources, a hold, other jobs."
    )

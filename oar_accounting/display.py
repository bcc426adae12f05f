"""What people see: progress, tables, and what a pass did, on a terminal, in a pipe or in syslog."""

import sys
import syslog
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import fields
from io import TextIOBase
from typing import Any

import click
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from oar_accounting import formats
from oar_accounting.records import Amounts, PassReport, UsageReport

AMOUNTS = tuple(field.name for field in fields(Amounts))
TITLES = {
    "opening_asked": "asked, opening",
    "opening_used": "used, opening",
    "adjusted_asked": "asked, adjusted",
    "adjusted_used": "used, adjusted",
}


class SyslogLines(TextIOBase):
    """A stream whose lines go to the system's log."""

    def __init__(self, priority: int) -> None:
        self._priority = priority
        self._begun = ""

    def write(self, said: str) -> int:
        """Log the lines that are complete."""
        *lines, self._begun = (self._begun + said).split("\n")
        for line in filter(None, lines):
            syslog.syslog(self._priority, line.replace("\0", ""))
        return len(said)


def speak_to_syslog() -> None:
    """From now on, what would be printed goes to the system's log."""
    syslog.openlog("oar-accounting", syslog.LOG_PID, syslog.LOG_DAEMON)
    sys.stdout = SyslogLines(syslog.LOG_INFO)
    sys.stderr = SyslogLines(syslog.LOG_WARNING)


@contextmanager
def progress_bar(what: str) -> Iterator[Callable[[int, int], None] | None]:
    """A bar on standard error where that is a terminal; else nothing."""
    if not sys.stderr.isatty():
        yield None
        return
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(what, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)


def tell_report(report: PassReport) -> None:
    """What a pass did, on standard output; what needs attention, on standard error."""
    click.echo(
        f"{report.done} jobs recorded, {report.changed} changed, {report.open} open, "
        f"{len(report.problems)} problems"
    )
    for problem in report.problems:
        click.echo(f"job {problem.job_id}: {formats.printable(problem.reason)}", err=True)
    for notice in report.notices:
        click.echo(f"note: {formats.printable(notice)}", err=True)


def usage_objects(report: UsageReport) -> Iterator[dict[str, Any]]:
    """The rows of a usage report as machines read them: amounts are exact whole numbers."""
    for row in report.rows:
        yield {
            **dict(zip(report.by, row.group, strict=True)),
            "metric": row.metric,
            "unit": formats.exact_unit(row.unit, row.scale),
            **{name: getattr(row, name) for name in AMOUNTS},
        }


def usage_table(report: UsageReport) -> Table:
    """The same as people read it: a line per group, in hours.

    Two columns per metric, and one more for each part of them that no recorded job accounts for.
    """
    table = new_table(*report.by)
    metrics = dict.fromkeys((row.metric, row.unit, row.scale) for row in report.rows)
    columns = [
        (*metric, name)
        for metric in metrics
        for name in AMOUNTS
        if name in ("asked", "used")
        or any(row.metric == metric[0] and getattr(row, name) for row in report.rows)
    ]
    for metric, unit, _, name in columns:
        header = Text(f"{metric} {TITLES.get(name, name)}\n{formats.hour_unit(unit)}")
        table.add_column(header, justify="right")
    groups = report.by_group()
    lines = [
        ([value or f"(no {key})" for key, value in zip(report.by, group, strict=True)], amounts)
        for group, amounts in groups.items()
    ]
    if len(groups) > 1:
        lines.append((["total", *("" for _ in report.by[1:])], report.total()))
    for names, amounts in lines:
        cells = [
            formats.in_hours(getattr(amounts.get(metric, Amounts()), name), unit, scale)
            for metric, unit, scale, name in columns
        ]
        add_row(table, *names, *cells)
    return table


def new_table(*names: str) -> Table:
    """A table with columns of these names; frames and colours on a terminal only."""
    table = Table(box=SIMPLE_HEAD if sys.stdout.isatty() else None, pad_edge=False)
    for name in names:
        table.add_column(Text(name), no_wrap=True)
    return table


def add_row(table: Table, *cells: str) -> None:
    """A row of texts that are shown as they are."""
    table.add_row(*(Text(formats.printable(cell)) for cell in cells))


def show(table: Table) -> None:
    """Print a table, every column in full: a line that is too long is the terminal's to wrap."""
    console = Console(highlight=False)
    natural = Console(width=10_000).measure(table).maximum
    console.width = max(console.width, natural) if sys.stdout.isatty() else 10_000
    console.print(table, soft_wrap=True)

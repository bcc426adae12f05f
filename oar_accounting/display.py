"""What people see: progress, tables, and what a pass did, on a terminal, in a pipe or in syslog."""

import sys
import syslog
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from io import TextIOBase
from typing import Any

import click
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from oar_accounting import formats
from oar_accounting.records import PassReport, UsageReport


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
            "asked": row.asked,
            "used": row.used,
        }


def usage_table(report: UsageReport) -> Table:
    """The same as people read it: a line per group, two columns per metric, in hours."""
    table = new_table(*report.by)
    columns = list(dict.fromkeys((row.metric, row.unit, row.scale) for row in report.rows))
    for metric, unit, _ in columns:
        for amount in ("asked", "used"):
            header = Text(f"{metric} {amount}\n{formats.hour_unit(unit)}")
            table.add_column(header, justify="right")
    for group, amounts in report.by_group():
        cells = []
        for metric, unit, scale in columns:
            pair = amounts.get(metric, (0, 0))
            cells += [formats.in_hours(amount, unit, scale) for amount in pair]
        add_row(table, *group, *cells)
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
    """Print a table; a pipe gets every column in full."""
    Console(width=None if sys.stdout.isatty() else 10_000, highlight=False).print(table)

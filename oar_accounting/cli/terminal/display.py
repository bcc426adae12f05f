"""What people see: progress, tables, and what a pass did, on a terminal, in a pipe or in syslog."""

import csv
import json
import sys
import syslog
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import fields, replace
from io import TextIOBase
from typing import Any

import click
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from oar_accounting.core import formats, periods
from oar_accounting.ledger.records import PassReport
from oar_accounting.usage.records import Amounts, Coverage, ShownMetric, UsageReport

AMOUNT_FIELDS = tuple(field.name for field in fields(Amounts))
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
    tell_findings(report)


def tell_findings(report: PassReport) -> None:
    """What of a pass needs attention, on standard error."""
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
            **{name: getattr(row, name) for name in AMOUNT_FIELDS},
            "start": row.start,
            "stop": row.stop,
            "accuracy": row.accuracy,
        }


USAGE_FIELDS = ("metric", "unit", *AMOUNT_FIELDS, "start", "stop", "accuracy")


def tell_rows(
    form: str, fields: Sequence[str], rows: Iterable[Mapping[str, Any]], coverage: Coverage
) -> None:
    """Rows for machines: a list of JSON objects, or comma-separated values of these *fields*.

    Each object also says of which span it is, in which zone, and until when that is recorded. What
    should be recorded by now and is not, or is lost, is noted on standard error.
    """
    if form == "csv":
        write_csv(fields, rows)
    else:
        _tell_json(rows, coverage)
    if coverage.is_stale:
        tell_notes(coverage)
        return
    for lost in coverage.lost():
        click.echo(f"note: {lost}", err=True)


def write_csv(fields: Sequence[str], rows: Iterable[Mapping[str, Any]]) -> None:
    """Comma-separated values of these *fields*, with a line of their names first."""
    writer = csv.DictWriter(sys.stdout, fields, extrasaction="ignore")
    writer.writeheader()
    writer.writerows(rows)


def _tell_json(rows: Iterable[Mapping[str, Any]], coverage: Coverage) -> None:
    span = {"start": coverage.start, "stop": coverage.stop}
    recorded = {"timezone": coverage.timezone, "recorded_until": coverage.recorded_until}
    opening = "["
    # One at a time: there may be millions.
    for row in rows:
        # A bucket has bounds of its own.
        missing = {key: at for key, at in (span | recorded).items() if key not in row}
        text = json.dumps({**row, **missing}, ensure_ascii=False)
        click.echo(f"{opening}{text}", nl=False)
        opening = ",\n "
    click.echo("[]" if opening == "[" else "]")


def tell_notes(coverage: Coverage) -> None:
    """What of a span is not recorded, on standard error."""
    for note in coverage.notes():
        click.echo(f"note: {note}", err=True)


def tell_open_jobs(count: int, coverage: Coverage) -> None:
    """How many open jobs are in no row, and how many of them should have ended; then the notes."""
    if count:
        overdue = coverage.overdue_jobs
        past = f", {overdue} of them past their walltime" if overdue else ""
        click.echo(f"{count} open jobs are not in this table{past}.", err=True)
        coverage = replace(coverage, overdue_jobs=0)
    tell_notes(coverage)


def usage_table(report: UsageReport) -> Table:
    """The same as people read it: a line per bucket and group, in hours.

    Two columns per metric, and one more for each part of them that no recorded job accounts for.
    """
    bucketed = [] if report.bucket is None else [str(report.bucket)]
    table = new_table(*bucketed, *report.by)
    total: dict[ShownMetric, Amounts] = {}
    for row in report.rows:
        total[row.shown_metric] = total.get(row.shown_metric, Amounts()) + row
    columns = [
        (metric, name)
        for metric in total
        for name in AMOUNT_FIELDS
        if name in ("asked", "used")
        or any(row.shown_metric == metric and getattr(row, name) for row in report.rows)
    ]
    for metric, name in columns:
        header = Text(f"{metric.name} {TITLES.get(name, name)}\n{formats.hour_unit(metric.unit)}")
        table.add_column(header, justify="right")
    lines = [*_usage_lines(report)]
    if len(lines) > 1:
        keys = [""] * (len(report.by) + (report.bucket is not None))
        lines.append((["total", *keys[1:]], total))
    for names, amounts in lines:
        cells = [
            formats.in_hours(
                getattr(amounts.get(metric, Amounts()), name), metric.unit, metric.scale
            )
            for metric, name in columns
        ]
        add_row(table, *names, *cells)
    return table


def _usage_lines(report: UsageReport) -> Iterator[tuple[list[str], dict[ShownMetric, Amounts]]]:
    """The cells of names of each line, and its amounts by metric."""
    lines: dict[tuple[int | None, tuple[str, ...]], dict[ShownMetric, Amounts]] = {}
    for row in report.rows:
        lines.setdefault((row.start, row.group), {})[row.shown_metric] = row
    for (start, group), amounts in lines.items():
        yield [*_bucket_label(report, start), *named(report.by, group)], amounts


def _bucket_label(report: UsageReport, start: int | None) -> list[str]:
    if report.bucket is None or start is None:
        return []
    return [periods.label(start, report.bucket, periods.zone(report.timezone))]


def named(by: Sequence[str], group: Sequence[str]) -> list[str]:
    """The values of a group; what has none is said to have none."""
    return [value or f"(no {key})" for key, value in zip(by, group, strict=True)]


def tell_accuracy(found: Collection[str]) -> None:
    """What of an answer is not to the second, on standard error: the accuracies of its rows."""
    if "proportional" in found:
        click.echo(
            "note: a bound cuts windows of which only the sum is known: they have their share "
            "by time",
            err=True,
        )
    if "windows" in found:
        click.echo(
            "note: a bound cuts windows of purged jobs: they count whole where they begin", err=True
        )


#: Cells of a bar.
BAR_CELLS = 20


def bar(share: float, mark: float | None = None) -> str:
    """A share of the whole as a bar, with a mark at another share."""
    filled = min(round(max(share, 0.0) * BAR_CELLS), BAR_CELLS)
    cells = ["█"] * filled + ["·"] * (BAR_CELLS - filled)
    if mark is not None:
        cells.insert(min(round(max(mark, 0.0) * BAR_CELLS), BAR_CELLS), "|")
    return "".join(cells)


def is_wide() -> bool:
    """True for a terminal with room for more than the figures."""
    return sys.stdout.isatty() and Console().width >= 120


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

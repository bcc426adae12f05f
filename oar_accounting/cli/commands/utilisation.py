"""The command that says how full the machine was."""

from dataclasses import replace
from datetime import tzinfo
from typing import Any

import click
from rich.table import Table
from rich.text import Text

from oar_accounting.cli.commands.report_options import (
    asked,
    bucket_of,
    bucket_option,
    form_options,
    metric_option,
    period_options,
    where_option,
)
from oar_accounting.cli.terminal.display import add_row, new_table, show, tell_notes, tell_rows
from oar_accounting.cli.terminal.exits import command
from oar_accounting.cli.terminal.options import Options
from oar_accounting.core import formats, periods
from oar_accounting.reports.records import UtilisationReport, UtilisationRow

PARTS = ("used", "free", "standby", "down")
#: How each part is drawn.
PART_MARKS = dict(zip(PARTS, "█·░x", strict=True))
PART_CELLS = 30
UTILISATION_FIELDS = ("metric", "unit", "start", "stop", "capacity", *PARTS, "over")


@command("utilisation")
@metric_option
@bucket_option(None)
@period_options
@where_option
@click.option(
    "--as-of",
    metavar="TIME",
    help="End the period then, if it is earlier: a time as for --from. Default: now.",
)
@form_options
@click.pass_obj
def utilisation(options: Options, /, form: str | None, bucket: str | None, **given: Any) -> None:
    """How full the machine was: what was used, free, on standby and down, of what there was.

    Down is Dead, Suspected or Absent, standby is asleep until OAR wakes it, over is what jobs used
    beyond what was up, as two on one node. --where takes the clusters only.

    \b
    Example: oar-accounting utilisation --metric core --bucket month --period 2026
             oar-accounting utilisation --where cluster=alpha --bucket day -p "last week"
    """
    given["bucket"] = bucket_of(bucket)
    with options.accounting() as accounting:
        told = asked(accounting, given)
        # Jobs that run count until the period ends, which is now at the latest.
        as_of = accounting.instant("now") if told["as_of"] is None else told["as_of"]
        span = {key: told[key] for key in ("start", "stop", "timezone")}
        coverage = accounting.coverage((), **span, as_of=as_of)
        report = accounting.utilisation(**told)
    begins_at = report.rows[0].start if report.rows else told["start"]
    coverage = replace(coverage, start=begins_at, stop=report.as_of)
    if form is not None:
        tell_rows(form, UTILISATION_FIELDS, map(_object, report.rows), coverage)
        return
    click.echo(coverage.span())
    show(_table(report, given["bucket"], periods.zone(coverage.timezone)))
    for note in report.notes:
        click.echo(f"note: {formats.printable(note)}", err=True)
    tell_notes(coverage)


def _table(report: UtilisationReport, bucket: str | int | None, zone: tzinfo) -> Table:
    """A line per metric and bucket, with its parts in percent and drawn."""
    table = new_table("from" if bucket is None else str(bucket), "metric")
    table.add_column("capacity", justify="right")
    table.add_column("unit", no_wrap=True)
    for title in PARTS:
        table.add_column(title, justify="right")
    if any(row.over for row in report.rows):
        table.add_column("over", justify="right")
    table.add_column(Text("".join(f" {mark} {part}" for part, mark in PART_MARKS.items()).strip()))
    for row in report.rows:
        begins = (
            periods.shown(row.start, zone)
            if bucket is None
            else periods.label(row.start, bucket, zone)
        )
        over = [formats.percent(row.over, row.capacity)] if any(r.over for r in report.rows) else []
        add_row(
            table,
            begins,
            row.metric,
            formats.in_hours(row.capacity, row.unit, row.scale),
            formats.hour_unit(row.unit),
            *(formats.percent(getattr(row, part), row.capacity) for part in PARTS),
            *over,
            _bar(row),
        )
    return table


def _object(row: UtilisationRow) -> dict[str, Any]:
    told = {name: getattr(row, name) for name in UTILISATION_FIELDS}
    return told | {"unit": formats.exact_unit(row.unit, row.scale)}


def _bar(row: UtilisationRow) -> str:
    """The parts side by side; each ends where the sum of it and those before it does."""
    drawn, before = "", 0
    for part in PARTS:
        before += getattr(row, part)
        cells = round(PART_CELLS * before / row.capacity) if row.capacity else 0
        drawn += PART_MARKS[part] * (cells - len(drawn))
    return drawn

"""The command that prints a project's page: its months beside last year's, and its members."""

from typing import TYPE_CHECKING, Any

import click

from oar_accounting.cli.commands.report_options import (
    as_of_option,
    asked,
    form_options,
    period_options,
)
from oar_accounting.cli.terminal.display import (
    add_row,
    bar,
    new_table,
    show,
    tell_accuracy,
    tell_notes,
    tell_rows,
)
from oar_accounting.cli.terminal.exits import command
from oar_accounting.cli.terminal.options import Options
from oar_accounting.core import formats
from oar_accounting.reports.records import ProjectReport
from oar_accounting.usage.records import Coverage

if TYPE_CHECKING:
    from oar_accounting.accounting import Accounting

PROJECT_FIELDS = ("part", "name", "unit", "jobs", "asked", "used", "a_year_before")


@command("project")
@click.argument("name")
@click.option("--metric", default="resource", show_default=True, metavar="NAME")
@period_options
@as_of_option
@form_options
@click.pass_obj
def project(options: Options, /, form: str | None, name: str, **given: Any) -> None:
    """A project's page: month by month beside the year before, and its members.

    Without a period it is this year.

    \b
    Example: oar-accounting project climate --metric core --period 2026
             oar-accounting project climate --csv
    """
    with options.accounting() as accounting:
        told = this_year(accounting, given)
        coverage = project_coverage(accounting, name, told)
        report = accounting.project(name, **told)
    tell_project(report, coverage, form)


def this_year(accounting: "Accounting", given: dict[str, Any]) -> dict[str, Any]:
    """What was *given*, as `Accounting.project` takes it: without a bound, that of this year."""
    told = asked(accounting, given)
    told.pop("where")
    first, last = accounting.period("this year", told["timezone"])
    told["start"] = first if told["start"] is None else told["start"]
    told["stop"] = last if told["stop"] is None else told["stop"]
    return told


def project_coverage(accounting: "Accounting", name: str, told: dict[str, Any]) -> Coverage:
    """How far what `Accounting.project` is asked for with *told* is recorded."""
    named = {key: told[key] for key in ("start", "stop", "timezone", "as_of")}
    where = {"project": name}
    return accounting.coverage((), (told["metric"],), of_jobs=True, where=where, **named)


def tell_project(report: ProjectReport, coverage: Coverage, form: str | None) -> None:
    """The page, or its rows for machines."""
    if form is not None:
        tell_rows(form, PROJECT_FIELDS, _objects(report), coverage)
        tell_accuracy(report.accuracies)
        return
    unit = formats.hour_unit(report.unit)
    table = new_table("month")
    for title in ("used", "a year before", "change"):
        table.add_column(f"{title}\n{unit if title != 'change' else ''}", justify="right")
    table.add_column("", no_wrap=True)
    largest = max([1, *(each.used for each in report.months)])
    lines = [(each.label, each.used, each.before) for each in report.months]
    total = (
        "total",
        sum(each.used for each in report.months),
        sum(e.before for e in report.months),
    )
    for label, used, before in [*lines, total]:
        hours = (formats.in_hours(n, report.unit, report.scale) for n in (used, before))
        drawn = "" if label == "total" else bar(used / largest)
        add_row(table, label, *hours, _change(used, before), drawn)
    click.echo(f"Project {formats.printable(report.project)}, {report.metric}")
    click.echo(coverage.span())
    show(table)
    click.echo("")
    show(_members(report, unit))
    tell_accuracy(report.accuracies)
    tell_notes(coverage)


def _members(report: ProjectReport, unit: str) -> Any:
    table = new_table("member")
    for title in ("jobs", f"asked\n{unit}", f"used\n{unit}", "share", f"a year before\n{unit}"):
        table.add_column(title, justify="right")
    whole = sum(each.used for each in report.members)
    for each in report.members:
        asked, used, before = (
            formats.in_hours(n, report.unit, report.scale)
            for n in (each.asked, each.used, each.before)
        )
        share = formats.percent(each.used, whole)
        add_row(table, each.user, f"{each.jobs:,}", asked, used, share, before)
    return table


def _change(used: int, before: int) -> str:
    return f"{100 * (used - before) / before:+.0f}%" if before > 0 else ""


def _objects(report: ProjectReport) -> list[dict[str, Any]]:
    unit = formats.exact_unit(report.unit, report.scale)
    months = [
        {"part": "month", "name": m.label, "unit": unit, "jobs": None, "asked": None}
        | {"used": m.used, "a_year_before": m.before, "start": m.start, "stop": m.stop}
        for m in report.months
    ]
    members = [
        {"part": "member", "name": m.user, "unit": unit, "jobs": m.jobs, "asked": m.asked}
        | {"used": m.used, "a_year_before": m.before}
        for m in report.members
    ]
    return months + members

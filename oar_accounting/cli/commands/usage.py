"""The commands that say who used how much of what, at once and bucket by bucket."""

from typing import Any

import click
from rich.text import Text

from oar_accounting.cli.commands.report_options import (
    as_of_option,
    bucket_of,
    bucket_option,
    form_options,
    metric_option,
    names_of,
    period_options,
    query_of,
    where_option,
)
from oar_accounting.cli.terminal.display import (
    USAGE_FIELDS,
    add_row,
    bar,
    named,
    new_table,
    show,
    tell_accuracy,
    tell_open_jobs,
    tell_rows,
    usage_objects,
    usage_table,
)
from oar_accounting.cli.terminal.exits import command
from oar_accounting.cli.terminal.options import Options
from oar_accounting.core import formats, periods
from oar_accounting.usage.records import Coverage, UsageReport

BY_HELP = (
    "site, user, project, queue, cluster (or the site's dimension), an attribute such as "
    "laboratory, or of jobs: job, type, state, size; in any order."
)


@command("usage")
@click.option(
    "--by", default="user", show_default=True, callback=names_of, metavar="KEY,...", help=BY_HELP
)
@metric_option
@period_options
@where_option
@as_of_option
@click.option(
    "--whole-windows",
    is_flag=True,
    help="Count every window whole that the span reaches into, as oarstat --accounting does.",
)
@click.option(
    "--without-adjustments",
    is_flag=True,
    help="Leave out what was corrected by hand: see oar-accounting adjustments.",
)
@form_options
@click.pass_obj
def usage(options: Options, /, form: str | None, **given: Any) -> None:
    """Who asked for and used how much of what.

    \b
    Example: oar-accounting usage --by project,user --metric node --period 2026-03
             oar-accounting usage --by type --where user=alice --from yesterday --as-of now
    """
    tell_usage(*answered(options, given), form)


def tell_usage(report: UsageReport, coverage: Coverage, form: str | None) -> None:
    """The table, or its rows for machines; a line per bucket where there are buckets."""
    if form is not None:
        tell_rows(form, (*report.by, *USAGE_FIELDS), usage_objects(report), coverage)
        return
    click.echo(coverage.span())
    show(usage_table(report) if report.bucket is None else series_table(report))
    if not report.rows:
        click.echo("Nothing was asked for or used there.", err=True)
    tell_accuracy({row.accuracy for row in report.rows})
    tell_open_jobs(report.open_jobs, coverage)


@command("series")
@bucket_option("month")
@click.option(
    "--by", default="", callback=names_of, metavar="KEY,...", help=f"Also tell apart: {BY_HELP}"
)
@metric_option
@period_options
@where_option
@as_of_option
@form_options
@click.pass_obj
def series(options: Options, /, form: str | None, bucket: str, **given: Any) -> None:
    """What was asked for and used, bucket by bucket: a line for each month, day, hour ...

    \b
    Example: oar-accounting series --bucket day --metric core --period "last month"
             oar-accounting series --by project --period 2026 --csv
    """
    given["bucket"] = bucket_of(bucket)
    tell_usage(*answered(options, given), form)


def answered(options: Options, given: dict[str, Any]) -> tuple[UsageReport, Coverage]:
    """The answer to what was given on the command line, and how far that is recorded."""
    with options.accounting() as accounting:
        query = query_of(accounting, given)
        coverage = accounting.coverage(query)
        return accounting.usage(query), coverage


def series_table(report: UsageReport) -> Any:
    """A line per bucket, group and metric, with a bar: the largest of the metric fills it."""
    assert report.bucket is not None
    zone = periods.zone(report.timezone)
    metrics = dict.fromkeys(row.shown_metric for row in report.rows)
    table = new_table(str(report.bucket), *report.by, *(["metric"] if len(metrics) > 1 else []))
    for title in ("asked", "used"):
        table.add_column(Text(title), justify="right")
    for title in ("unit", ""):
        table.add_column(title, no_wrap=True)
    for metric in metrics:
        rows = [row for row in report.rows if row.shown_metric == metric]
        largest = max(row.used for row in rows)
        for row in rows:
            add_row(
                table,
                periods.label(row.start or 0, report.bucket, zone),
                *named(report.by, row.group),
                *([metric.name] if len(metrics) > 1 else []),
                formats.in_hours(row.asked, row.unit, row.scale),
                formats.in_hours(row.used, row.unit, row.scale),
                formats.hour_unit(row.unit),
                bar(row.used / largest if largest > 0 else 0.0),
            )
    return table

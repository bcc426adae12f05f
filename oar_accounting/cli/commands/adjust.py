"""Corrections: amounts that are posted by hand, and what was posted."""

import csv
import json
import os
import pwd
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from datetime import tzinfo
from typing import Any

import click
from click.core import ParameterSource
from rich.table import Table

from oar_accounting.accounting import Accounting
from oar_accounting.adjustments.by_job import JobFilter
from oar_accounting.adjustments.records import (
    AdjustedMetric,
    Adjustment,
    AdjustmentLine,
    AdjustmentReport,
)
from oar_accounting.cli.commands.report_options import names_of
from oar_accounting.cli.terminal.display import add_row, new_table, show
from oar_accounting.cli.terminal.exits import command
from oar_accounting.cli.terminal.options import Options
from oar_accounting.core import formats, periods
from oar_accounting.errors import BadAdjustment

#: What goes with an account, beside an amount.
NEEDED_OPTIONS = ("--user", "--project", "--queue", "--metric", "--from", "--to")
#: The options of each way to adjust; the first ones call for it.
ACCOUNT = ("--used", "--asked")
JOBS = ("--jobs-of-node", "--between", "--job")
COUNTER = ("--counter",)
WAYS: Mapping[tuple[str, ...], tuple[str, ...]] = {
    ACCOUNT: (*NEEDED_OPTIONS, "--property"),
    JOBS: ("--user", "--project", "--queue", "--metric", "--percent", "--only"),
    COUNTER: (),
}
EVERY_WAY = ("--reason", "--author", "--dry-run", "--json")


@command("adjust")
@click.option("--user", metavar="NAME", help="Of the account, or of the jobs.")
@click.option("--project", metavar="NAME", help="The same.")
@click.option("--queue", metavar="NAME", help="The same.")
@click.option(
    "--property",
    metavar="VALUE",
    help="Of the account: a cluster, or what the site's dimension is. Default: none.",
)
@click.option(
    "--metric",
    "metrics",
    callback=names_of,
    metavar="NAME,...",
    help="One for an account; of jobs several. Default there: all.",
)
@click.option(
    "--used",
    metavar="AMOUNT",
    help="Signed: a whole number in the metric's unit, like -3600, or hours as usage shows them, "
    "like -1.5h.",
)
@click.option("--asked", metavar="AMOUNT", help="The same of what was asked for.")
@click.option(
    "--from",
    "start",
    metavar="TIME",
    help="First instant: a date or time in the site's zone, or epoch seconds.",
)
@click.option("--to", "stop", metavar="TIME", help="First instant that is no longer adjusted.")
@click.option(
    "--jobs-of-node",
    "nodes",
    metavar="NODE",
    multiple=True,
    help="Jobs that held a part of it; may be repeated.",
)
@click.option(
    "--between",
    nargs=2,
    metavar="FROM TO",
    help="What jobs were counted between these times, as for --from; else all they were counted.",
)
@click.option(
    "--job",
    "jobs",
    metavar="JOB",
    multiple=True,
    type=click.IntRange(1, 2**62),
    help="May be repeated.",
)
@click.option("--percent", metavar="NUMBER", help="Take back so much of it. Default: 100.")
@click.option("--only", type=click.Choice(("asked", "used")), help="Default: both.")
@click.option(
    "--counter",
    metavar="ID",
    type=click.IntRange(1, 2**31 - 1),
    help="Take an adjustment back.",
)
@click.option("--reason", required=True, metavar="TEXT", help="Why; it is shown for ever.")
@click.option("--author", metavar="NAME", help="Default: who is logged in, also behind sudo.")
@click.option("--dry-run", is_flag=True, help="Show what would be posted, and write nothing.")
@click.option("--json", "as_json", is_flag=True, help="For scripts: one object, amounts exact.")
@click.pass_obj
def adjust(options: Options, /, as_json: bool, **given: Any) -> None:
    """Correct what was counted: add to an account, take back what jobs were counted, or counter.

    It is never edited, only countered by another. Usage has it within its figures, and shows it.

    \b
    Example: oar-accounting adjust --jobs-of-node node-7 --between 2026-03-02T14:00 2026-03-03 \\
               --reason "node-7 crashed" --dry-run
    Example: oar-accounting adjust --user bob --project p --queue default --metric core \\
               --used -12.5h --from 2026-03-01 --to 2026-04-01 --reason "free maintenance day"
    Example: oar-accounting adjust --counter 12 --reason "it was node-8"
    """
    way = _way(click.get_current_context())
    words = {
        "reason": given["reason"],
        "author": _login() if given["author"] is None else given["author"],
        "dry_run": given["dry_run"],
    }
    with options.accounting() as accounting:
        start, stop = _bounds(accounting, given)
        report = _adjusted(accounting, way, {**given, "start": start, "stop": stop}, words)
        zone = accounting.zone
    if as_json:
        span = {"start": start, "stop": stop, "timezone": str(zone)}
        told = {**_report_object(report, given), **span}
        click.echo(json.dumps(told, ensure_ascii=False, indent=1))
        return
    if (start, stop) != (None, None):
        click.echo(periods.span_in_words(start, stop, zone))
    _tell(report)


def _way(context: click.Context) -> tuple[str, ...]:
    """The way to adjust that the options call for, once they fit together."""
    said = [
        parameter.opts[0]
        for parameter in context.command.params
        if context.get_parameter_source(str(parameter.name)) is ParameterSource.COMMANDLINE
        and parameter.opts[0] not in EVERY_WAY
    ]
    for way, others in WAYS.items():
        calling = [option for option in said if option in way]
        if calling:
            _check_together(said, calling[0], (*way, *others))
            _check_complete(said, calling[0], context.params["metrics"], of_account=way == ACCOUNT)
            return way
    raise click.UsageError(
        "what is to be adjusted? An account, with --used or --asked; jobs, with --jobs-of-node, "
        "--between or --job; or another adjustment, with --counter"
    )


def _check_together(said: Sequence[str], calling: str, fitting: Sequence[str]) -> None:
    for option in said:
        if option not in fitting:
            raise click.UsageError(f"{option} does not go with {calling}")


def _check_complete(
    said: Sequence[str], calling: str, metrics: Sequence[str] | None, *, of_account: bool
) -> None:
    missing = [option for option in NEEDED_OPTIONS if of_account and option not in said]
    if missing:
        raise click.UsageError(f"{calling} needs {', '.join(missing)} too")
    if metrics is not None and (len(metrics) != 1 if of_account else not metrics):
        number = "one name" if of_account else "names"
        raise click.UsageError(f"--metric takes {number} where {calling} is given")


def _adjusted(
    accounting: Accounting, way: tuple[str, ...], given: Mapping[str, Any], words: Mapping[str, Any]
) -> AdjustmentReport:
    if way == COUNTER:
        return accounting.counter(given["counter"], **words)
    if way == JOBS:
        return accounting.adjust_jobs(_job_filter(given), **words)
    return accounting.adjust(
        **{name: given[name] for name in ("user", "project", "queue")},
        metric=given["metrics"][0],
        property=given["property"] or "",
        start=given["start"],
        stop=given["stop"],
        **{name: given[name] for name in ("asked", "used") if given[name] is not None},
        **words,
    )


def _bounds(accounting: Accounting, given: Mapping[str, Any]) -> tuple[int | None, int | None]:
    """The span that is adjusted, by the clocks of the site; without a bound where none is given."""
    said = given["between"] or (given["start"], given["stop"])
    start, stop = (None if each is None else accounting.instant(each) for each in said)
    return start, stop


def _job_filter(given: Mapping[str, Any]) -> JobFilter:
    return JobFilter(
        nodes=given["nodes"],
        jobs=given["jobs"],
        **{name: given[name] for name in ("start", "stop", "user", "project", "queue", "metrics")},
        percent="100" if given["percent"] is None else given["percent"],
        asked=given["only"] != "used",
        used=given["only"] != "asked",
    )


def _login() -> str:
    try:
        return os.environ.get("SUDO_USER") or pwd.getpwuid(os.getuid()).pw_name
    except KeyError:
        raise BadAdjustment(
            f"user {os.getuid()} has no login name here; name yourself with --author"
        ) from None


def _tell(report: AdjustmentReport) -> None:
    """What was posted, or would be, on standard output; what was left out, on standard error."""
    if report.rows:
        table = new_table("user", "project", "queue", "metric")
        _add_amounts(table)
        for row in report.rows:
            add_row(table, row.user, row.project, row.queue, row.metric, *_amounts(row))
        show(table)
    size = _count(report.lines, "line")
    if report.jobs:
        size = f"{_count(report.jobs, 'job')}, {size}"
    if not report.lines:
        click.echo("nothing to adjust: nothing was posted")
    elif report.adjustment_id is None:
        click.echo(f"{size}; a dry run: nothing was posted")
    else:
        click.echo(f"{size}; adjustment {report.adjustment_id} posted")
    for notice in report.notices:
        click.echo(f"note: {notice}", err=True)


def _count(number: int, thing: str) -> str:
    return f"{number} {thing}" + ("" if number == 1 else "s")


def _report_object(report: AdjustmentReport, given: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "adjustment": report.adjustment_id,
        "dry_run": given["dry_run"],
        "jobs": report.jobs,
        "lines": report.lines,
        "amounts": [_exact(asdict(row)) for row in report.rows],
        "notices": report.notices,
    }


def _exact(values: dict[str, Any]) -> dict[str, Any]:
    """The values of a record with its exact unit in the place of unit and scale."""
    values["unit"] = formats.exact_unit(values["unit"], values.pop("scale"))
    return values


def _amounts(row: AdjustedMetric) -> tuple[str, str, str]:
    """Asked and used in hours, behind their unit."""
    asked, used = (formats.in_hours(each, row.unit, row.scale) for each in (row.asked, row.used))
    return formats.hour_unit(row.unit), asked, used


# -- what was posted ----------------------------------------------------------------------------


@command("adjustments")
@click.argument("number", metavar="[ID]", required=False, type=click.IntRange(1, 2**31 - 1))
@click.option("--json", "form", flag_value="json", help="A list of objects, amounts exact.")
@click.option("--csv", "form", flag_value="csv", help="The same as comma-separated values.")
@click.pass_obj
def adjustments(options: Options, number: int | None, form: str | None) -> None:
    """List the adjustments, or with ID the lines of one.

    \b
    Example: oar-accounting adjustments 12
    """
    with options.accounting() as accounting:
        if number is None:
            _show_all(accounting.adjustments(), form, accounting.zone)
        else:
            _show_lines(accounting.adjustment_lines(number), form, accounting.zone)


#: What is told of an adjustment, and of a line, beside the amounts.
TOLD = ("adjustment_id", "posted", "author", "reason", "counters", "countered_by", "jobs", "lines")
LINE_FIELDS = ("line", "job_id", "user", "project", "queue", "property", "metric")


def _show_all(found: Sequence[Adjustment], form: str | None, zone: tzinfo) -> None:
    if form == "json":
        _print_json(
            {name: getattr(each, name) for name in TOLD}
            | {"amounts": [_exact(asdict(row)) for row in each.amounts]}
            for each in found
        )
    elif form == "csv":
        rows = [
            {name: getattr(each, name) for name in TOLD} | _exact(asdict(row))
            for each in found
            for row in each.amounts
        ]
        _print_csv((*TOLD, "metric", "unit", "asked", "used"), rows)
    else:
        table = new_table("id", "posted", "author", "jobs", "metric")
        _add_amounts(table)
        table.add_column("countered by", justify="right")
        table.add_column("reason")
        for each in found:
            _add_adjustment(table, each, zone)
        show(table)


def _add_adjustment(table: Table, each: Adjustment, zone: tzinfo) -> None:
    """A row per metric; what is of the adjustment as a whole stands in the first."""
    posted = periods.shown(each.posted, zone)
    first = (str(each.adjustment_id), posted, each.author, str(each.jobs))
    by = "" if each.countered_by is None else str(each.countered_by)
    reason = each.reason if each.counters is None else f"(counters {each.counters}) {each.reason}"
    for place, row in enumerate(each.amounts):
        names, last = (first, (by, reason)) if place == 0 else (("",) * 4, ("", ""))
        add_row(table, *names, row.metric, *_amounts(row), *last)


def _show_lines(found: Sequence[AdjustmentLine], form: str | None, zone: tzinfo) -> None:
    rows = [_exact(asdict(line)) for line in found]
    if form == "json":
        _print_json(rows)
    elif form == "csv":
        _print_csv((*LINE_FIELDS, "start", "stop", "unit", "asked", "used"), rows)
    else:
        table = new_table("line", "job", *LINE_FIELDS[2:], "from", "to")
        _add_amounts(table)
        for line in found:
            job = "" if line.job_id is None else str(line.job_id)
            names = (line.user, line.project, line.queue, line.property, line.metric)
            span = (periods.shown(line.start, zone), periods.shown(line.stop, zone))
            add_row(table, str(line.line), job, *names, *span, *_amounts(line))
        show(table)


def _add_amounts(table: Table) -> None:
    table.add_column("unit")
    for name in ("asked", "used"):
        table.add_column(name, justify="right")


def _print_json(rows: Iterable[Mapping[str, Any]]) -> None:
    click.echo(json.dumps(list(rows), ensure_ascii=False, indent=1))


def _print_csv(names: Sequence[str], rows: Iterable[Mapping[str, Any]]) -> None:
    writer = csv.DictWriter(sys.stdout, names)
    writer.writeheader()
    writer.writerows(rows)

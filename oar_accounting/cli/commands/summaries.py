"""The commands that rank and sum up: top, efficiency, sizes, waiting."""

from collections.abc import Iterator, Sequence
from dataclasses import asdict, replace
from typing import Any

import click

from oar_accounting.cli.commands.report_options import (
    as_of_option,
    by_option,
    form_options,
    metric_option,
    period_options,
    query_of,
    size_options,
    sizes_of,
    where_option,
)
from oar_accounting.cli.terminal.display import (
    add_row,
    bar,
    named,
    new_table,
    show,
    tell_accuracy,
    tell_notes,
    tell_open_jobs,
    tell_rows,
)
from oar_accounting.cli.terminal.exits import command
from oar_accounting.cli.terminal.options import Options
from oar_accounting.core import formats
from oar_accounting.reports.records import Efficiency, Ranking, SizeUse, Waiting
from oar_accounting.usage.records import Coverage

# -- top ---------------------------------------------------------------------------------------


@command("top")
@by_option("user")
@click.option("--metric", default="resource", show_default=True, metavar="NAME")
@click.option(
    "--first",
    "-n",
    default=10,
    show_default=True,
    type=click.IntRange(1),
    metavar="N",
    help="How many are listed.",
)
@period_options
@where_option
@as_of_option
@form_options
@click.pass_obj
def top(options: Options, /, form: str | None, first: int, metric: str, **given: Any) -> None:
    """Who used most of a metric, with their share of all.

    \b
    Example: oar-accounting top --metric core --period "last month"
             oar-accounting top --by project,cluster -n 5 --period 2026-Q1
    """
    with options.accounting() as accounting:
        query = query_of(accounting, {**given, "metrics": (metric,)})
        coverage = accounting.coverage(query)
        ranking = accounting.top(query, first=first)
    if form is not None:
        fields = ("place", *ranking.by, "metric", "unit", "used", "share")
        tell_rows(form, fields, _top_objects(ranking), coverage)
        tell_accuracy(ranking.accuracies)
        return
    click.echo(coverage.span())
    show(_top_table(ranking))
    tell_accuracy(ranking.accuracies)
    tell_open_jobs(ranking.open_jobs, coverage)


def _top_table(ranking: Ranking) -> Any:
    table = new_table()
    table.add_column("place", justify="right")
    for key in ranking.by:
        table.add_column(key, no_wrap=True)
    unit = formats.hour_unit(ranking.unit)
    table.add_column(f"{ranking.metric} used\n{unit}", justify="right")
    table.add_column("share", justify="right")
    table.add_column("", no_wrap=True)

    def line(names: Sequence[str], used: int) -> None:
        amount = formats.in_hours(used, ranking.unit, ranking.scale)
        share = used / ranking.used if ranking.used > 0 else 0.0
        add_row(table, *names, amount, formats.percent(used, ranking.used), bar(share))

    for place, row in enumerate(ranking.rows, 1):
        line([str(place), *named(ranking.by, row.group)], row.used)
    blank = [""] * (len(ranking.by) - 1)
    if ranking.others:
        line(["", f"{ranking.others} others", *blank], ranking.used_by_others)
    if len(ranking.rows) > 1 or ranking.others:
        line(["", "total", *blank], ranking.used)
    return table


def _top_objects(ranking: Ranking) -> Iterator[dict[str, Any]]:
    for place, row in enumerate(ranking.rows, 1):
        yield {
            "place": place,
            **dict(zip(ranking.by, row.group, strict=True)),
            "metric": row.metric,
            "unit": formats.exact_unit(row.unit, row.scale),
            "used": row.used,
            "share": row.used / ranking.used if ranking.used > 0 else None,
        }


# -- efficiency --------------------------------------------------------------------------------


@command("efficiency")
@by_option("user")
@metric_option
@size_options
@period_options
@where_option
@form_options
@click.pass_obj
def efficiency(options: Options, /, form: str | None, **given: Any) -> None:
    """What jobs that ended asked for, used and left unused, whole.

    \b
    Example: oar-accounting efficiency --metric core --period 2026-03
             oar-accounting efficiency --by queue,size --period "last year"
    """
    sizes = sizes_of(given)
    with options.accounting() as accounting:
        query = query_of(accounting, {**given, "sizes": sizes})
        coverage = accounting.coverage(query, of_jobs=True)
        rows = accounting.efficiency(query)
    tell_efficiency(query.by, rows, coverage, form)


def tell_efficiency(
    by: Sequence[str], rows: Sequence[Efficiency], coverage: Coverage, form: str | None
) -> None:
    """The table, or its rows for machines."""
    if form is not None:
        fields = (*by, "jobs", "metric", "unit", "asked", "used", "unused", "share")
        tell_rows(form, fields, (_efficiency_object(by, row) for row in rows), coverage)
        tell_accuracy({row.accuracy for row in rows})
        return
    click.echo(coverage.span())
    table = new_table(*by, "metric")
    for title in ("jobs", "asked", "used", "unused"):
        table.add_column(title, justify="right")
    table.add_column("unit", no_wrap=True)
    table.add_column("used/asked", justify="right")
    table.add_column("", no_wrap=True)
    for row in rows:
        add_row(
            table,
            *named(by, row.group),
            row.metric,
            f"{row.jobs:,}",
            *(formats.in_hours(n, row.unit, row.scale) for n in (row.asked, row.used, row.unused)),
            formats.hour_unit(row.unit),
            formats.percent(row.used, row.asked),
            bar(row.share or 0.0),
        )
    show(table)
    tell_accuracy({row.accuracy for row in rows})
    tell_notes(coverage)


def _efficiency_object(by: Sequence[str], row: Efficiency) -> dict[str, Any]:
    return {
        **dict(zip(by, row.group, strict=True)),
        "jobs": row.jobs,
        "metric": row.metric,
        "unit": formats.exact_unit(row.unit, row.scale),
        "asked": row.asked,
        "used": row.used,
        "unused": row.unused,
        "share": row.share,
    }


# -- sizes -------------------------------------------------------------------------------------


@command("sizes")
@by_option("")
@metric_option
@size_options
@period_options
@where_option
@as_of_option
@form_options
@click.pass_obj
def sizes(options: Options, /, form: str | None, **given: Any) -> None:
    """How large jobs are: what each class of size used, and how many jobs it had.

    \b
    Example: oar-accounting sizes --metric core --period 2026-03
             oar-accounting sizes --by project --size-metric core --size-bounds 1,16,64
    """
    classes = sizes_of(given)
    with options.accounting() as accounting:
        query = query_of(accounting, {**given, "sizes": classes})
        coverage = accounting.coverage(query, of_jobs=True)
        rows = accounting.sizes(query)
    tell_sizes((*(name for name in query.by if name != "size"), "size"), rows, coverage, form)


def tell_sizes(
    by: Sequence[str], rows: Sequence[SizeUse], coverage: Coverage, form: str | None
) -> None:
    """The table, or its rows for machines."""
    if form is not None:
        fields = (*by, "jobs", "metric", "unit", "used")
        tell_rows(form, fields, (_size_object(by, row) for row in rows), coverage)
        tell_accuracy({row.accuracy for row in rows})
        return
    click.echo(coverage.span())
    whole: dict[str, int] = {}
    for row in rows:
        whole[row.metric] = whole.get(row.metric, 0) + row.used
    table = new_table(*by, "metric")
    for title in ("jobs", "used"):
        table.add_column(title, justify="right")
    table.add_column("unit", no_wrap=True)
    table.add_column("share", justify="right")
    table.add_column("", no_wrap=True)
    for row in rows:
        add_row(
            table,
            *named(by, row.group),
            row.metric,
            f"{row.jobs:,}",
            formats.in_hours(row.used, row.unit, row.scale),
            formats.hour_unit(row.unit),
            formats.percent(row.used, whole[row.metric]),
            bar(row.used / whole[row.metric]),
        )
    show(table)
    tell_accuracy({row.accuracy for row in rows})
    tell_notes(coverage)


def _size_object(by: Sequence[str], row: SizeUse) -> dict[str, Any]:
    return {
        **dict(zip(by, row.group, strict=True)),
        "jobs": row.jobs,
        "metric": row.metric,
        "unit": formats.exact_unit(row.unit, row.scale),
        "used": row.used,
    }


# -- waiting -----------------------------------------------------------------------------------


@command("waiting")
@by_option("queue,size")
@size_options
@period_options
@where_option
@form_options
@click.pass_obj
def waiting(options: Options, /, form: str | None, **given: Any) -> None:
    """How long jobs waited from their submission to their start.

    \b
    Example: oar-accounting waiting --period "last month"
             oar-accounting waiting --by project --where queue=default --period 2026-03
    """
    classes = sizes_of(given)
    with options.accounting() as accounting:
        query = query_of(accounting, {**given, "sizes": classes})
        coverage = accounting.coverage(query, of_jobs=True)
        rows = accounting.waiting(query)
    tell_waiting(query.by, rows, coverage, form)


def tell_waiting(
    by: Sequence[str], rows: Sequence[Waiting], coverage: Coverage, form: str | None
) -> None:
    """The table, or its rows for machines."""
    # How long they waited is known, whether they have ended or not.
    coverage = replace(coverage, overdue_jobs=0)
    if form is not None:
        fields = (*by, "jobs", "mean", "median", "percentile_90", "longest")
        objects = (asdict(row) for row in rows)
        named_rows = (dict(zip(by, each.pop("group"), strict=True)) | each for each in objects)
        tell_rows(form, fields, named_rows, coverage)
        return
    click.echo(coverage.span())
    table = new_table(*by)
    for title in ("jobs", "mean", "median", "90% within", "longest"):
        table.add_column(title, justify="right")
    for row in rows:
        waits = (row.mean, row.median, row.percentile_90, row.longest)
        add_row(table, *named(by, row.group), f"{row.jobs:,}", *map(formats.clock, waits))
    show(table)
    tell_notes(coverage)

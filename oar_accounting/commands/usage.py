"""The command that says who used how much of what."""

import csv
import json
import sys
from typing import Any

import click

from oar_accounting import formats
from oar_accounting.display import AMOUNTS, show, usage_objects, usage_table
from oar_accounting.exits import command
from oar_accounting.options import Options


def names_of(_: click.Context, __: click.Parameter, said: str | None) -> tuple[str, ...] | None:
    """The names of a list with commas."""
    return None if said is None else tuple(name.strip() for name in said.split(",") if name.strip())


@command("usage")
@click.option(
    "--by",
    default="user",
    show_default=True,
    callback=names_of,
    metavar="KEY,...",
    help="user, project, queue, cluster (or the site's dimension), or an attribute such as "
    "laboratory, in any order.",
)
@click.option(
    "--metric", "metrics", callback=names_of, metavar="NAME,...", help="Default: every metric."
)
@click.option(
    "--from",
    "start",
    metavar="TIME",
    help="First instant: a date (UTC) or epoch seconds, on a bound of a window.",
)
@click.option("--to", "stop", metavar="TIME", help="First instant that no longer counts.")
@click.option(
    "--without-adjustments",
    is_flag=True,
    help="Leave out what was corrected by hand: see oar-accounting adjustments.",
)
@click.option("--json", "form", flag_value="json", help="A list of objects, amounts exact.")
@click.option("--csv", "form", flag_value="csv", help="The same as comma-separated values.")
@click.pass_obj
def usage(options: Options, /, by: tuple[str, ...], form: str | None, **given: Any) -> None:
    """Who asked for and used how much of what.

    \b
    Example: oar-accounting usage --by project,user --metric node --from 2026-03-01 --to 2026-04-01
    """
    with options.accounting() as accounting:
        for bound in ("start", "stop"):
            if given[bound] is not None:
                given[bound] = formats.instant(given[bound])
        report = accounting.usage(by, **given)
    if form == "json":
        click.echo(json.dumps(list(usage_objects(report)), ensure_ascii=False, indent=1))
    elif form == "csv":
        writer = csv.DictWriter(sys.stdout, [*report.by, "metric", "unit", *AMOUNTS])
        writer.writeheader()
        writer.writerows(usage_objects(report))
    else:
        show(usage_table(report))
        if report.open_jobs:
            click.echo(f"{report.open_jobs} open jobs are not in this table.", err=True)

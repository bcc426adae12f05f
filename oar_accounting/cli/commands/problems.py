"""The command that lists what is wrong with jobs and resources until it is mended."""

import json
import re
from collections.abc import Sequence
from dataclasses import asdict, fields

import click

from oar_accounting.cli.terminal.display import add_row, new_table, show, write_csv
from oar_accounting.cli.terminal.exits import command
from oar_accounting.cli.terminal.options import Options
from oar_accounting.core import formats
from oar_accounting.ledger.records import StandingProblem

#: Jobs that were retired have ids below zero.
JOB_ID = re.compile(r"-?[0-9]{1,18}")


@command("problems")
@click.option(
    "--dismiss",
    metavar="JOB|CODE",
    multiple=True,
    help="Take the problems of this job, or all with this code, off the list; may be repeated.",
)
@click.option("--json", "form", flag_value="json", help="For scripts: a list of objects.")
@click.option("--csv", "form", flag_value="csv", help="For a spreadsheet.")
@click.pass_obj
def problems(options: Options, dismiss: tuple[str, ...], form: str | None) -> None:
    """What is wrong with jobs and resources, since when, and what helps.

    A problem is listed until a pass finds it mended. Where nothing can be mended, --dismiss takes
    it off the list; it comes back if the job is recorded again and the problem is still there.

    \b
    Example: oar-accounting problems
    """
    with options.accounting() as accounting:
        if dismiss:
            numbers = [each for each in dismiss if JOB_ID.fullmatch(each)]
            codes = [each for each in dismiss if each not in numbers]
            count = accounting.dismiss_problems(map(int, numbers), codes)
            click.echo(f"{count} problems dismissed")
            return
        found = accounting.problems()
    if form == "json":
        click.echo(json.dumps([asdict(each) for each in found], ensure_ascii=False, indent=1))
    elif form == "csv":
        names = [field.name for field in fields(StandingProblem)]
        write_csv(names, map(asdict, found))
    elif found:
        _show(found)
    else:
        click.echo("there are no problems")
    if found:
        raise SystemExit(1)


def _show(found: Sequence[StandingProblem]) -> None:
    table = new_table("what", "since", "code", "problem", "what helps")
    for each in found:
        helps = f"{each.helps}: {each.command}" if each.command else each.helps
        subject = f"{each.kind} {each.subject}"
        add_row(table, subject, formats.date(each.first_seen), each.code, each.message, helps)
    show(table)

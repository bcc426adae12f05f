"""The command that lists what is wrong with jobs and resources until it is mended."""

import json
from collections.abc import Sequence
from dataclasses import asdict, fields

import click

from oar_accounting.cli.terminal.display import add_row, new_table, show, write_csv
from oar_accounting.cli.terminal.exits import command
from oar_accounting.cli.terminal.options import Options
from oar_accounting.core import formats
from oar_accounting.ledger.records import StandingProblem


@command("problems")
@click.option("--dismiss", metavar="JOB", multiple=True, type=int, help="Forget those of this job.")
@click.option("--json", "form", flag_value="json", help="For scripts: a list of objects.")
@click.option("--csv", "form", flag_value="csv", help="For a spreadsheet.")
@click.pass_obj
def problems(options: Options, dismiss: tuple[int, ...], form: str | None) -> None:
    """What is wrong with jobs and resources, since when, and what helps.

    A problem is listed until a pass finds it mended. Where nothing can be mended, --dismiss takes
    it off the list; it comes back if a pass records the job again and finds it again.

    \b
    Example: oar-accounting problems
    """
    with options.accounting() as accounting:
        if dismiss:
            count = accounting.dismiss_problems(dismiss)
            click.echo(f"the problems of {count} jobs were dismissed")
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
    table = new_table("what", "since", "problem", "what helps")
    for each in found:
        helps = f"{each.helps}: {each.command}" if each.command else each.helps
        subject = f"{each.kind} {each.subject}"
        add_row(table, subject, formats.date(each.first_seen), each.message, helps)
    show(table)

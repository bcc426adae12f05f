"""Commands for who belongs where: laboratories, teams, funding bodies, and the tree of projects."""

import json
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import click

from oar_accounting.attributes import csv_files
from oar_accounting.attributes.records import Attribute
from oar_accounting.cli.terminal.display import add_row, new_table, show
from oar_accounting.cli.terminal.exits import EXIT_CODES, command
from oar_accounting.cli.terminal.options import Options
from oar_accounting.core import formats
from oar_accounting.errors import BadFile


@click.group("attributes", epilog=EXIT_CODES)
def attributes() -> None:
    """Who belongs where, and when: users and projects to laboratory, team, parent, anything.

    \b
    Example: oar-accounting attributes import laboratories.csv
             oar-accounting usage --by laboratory
    """


@command("import")
@click.argument("file")
@click.option("--dry-run", is_flag=True, help="Say what would change, and write nothing.")
@click.pass_obj
def import_file(options: Options, file: str, dry_run: bool) -> None:
    """Record who belongs where, as FILE says; - is standard input.

    FILE is comma-separated values in UTF-8. The first column is user or project, the others are
    attributes, and valid_from and valid_to: dates in the site's zone, from the first to before the
    second, empty for no bound. The column parent makes projects a tree. Of the attributes in its
    first line FILE is the truth: what was imported of them before goes.

    \b
    Example: oar-accounting attributes import laboratories.csv
    """
    source = "standard input" if file == "-" else file
    given = _content(file, source)
    with options.accounting() as accounting:
        report = accounting.import_attributes(given, source=source, dry_run=dry_run)
        zone = accounting.zone
    counts = f"{report.added} added, {report.removed} removed, {report.changed} changed"
    click.echo(
        f"{', '.join(report.attributes)}: {report.entries} entries of {report.names} "
        f"{report.kind}s; {counts}; times in {zone}{'; nothing was written' if dry_run else ''}"
    )
    for note in report.notes:
        click.echo(f"note: {formats.printable(note)}", err=True)


@command("show")
@click.argument("attribute", required=False)
@click.option("--json", "form", flag_value="json", help="A list of objects, times epoch seconds.")
@click.option("--csv", "form", flag_value="csv", help="A file that can be imported again.")
@click.pass_obj
def show_entries(options: Options, attribute: str | None, form: str | None) -> None:
    """Show the entries of ATTRIBUTE, or without it which attributes there are.

    \b
    Example: oar-accounting attributes show laboratory --csv > laboratories.csv
    """
    if form == "csv" and attribute is None:
        raise click.UsageError("--csv is a file of one attribute; name it: show ATTRIBUTE --csv")
    with options.accounting() as accounting:
        entries = accounting.attributes(attribute)
        zone = accounting.zone
    if form == "json":
        click.echo(json.dumps([asdict(each) for each in entries], ensure_ascii=False, indent=1))
    elif form == "csv":
        click.echo(csv_files.written(entries, zone), nl=False)
    elif attribute is None:
        _show_attributes(entries)
    else:
        table = new_table(entries[0].kind, attribute, *csv_files.BOUNDS)
        for each in entries:
            bounds = (csv_files.time_text(at, zone) for at in (each.valid_from, each.valid_to))
            add_row(table, each.name, each.value, *bounds)
        show(table)
        click.echo(f"note: times are those of {zone}", err=True)


@command("remove")
@click.argument("attribute")
@click.pass_obj
def remove(options: Options, attribute: str) -> None:
    """Delete all that was imported of ATTRIBUTE.

    \b
    Example: oar-accounting attributes remove laboratory
    """
    with options.accounting() as accounting:
        count = accounting.remove_attribute(attribute)
    click.echo(f"{attribute}: {count} entries were removed")


for each in (import_file, show_entries, remove):
    attributes.add_command(each)


def _content(file: str, source: str) -> bytes:
    """What stands in the file, or at least so much that it is known to be too large."""
    most = csv_files.MOST_BYTES + 1
    place = f"{formats.printable(source)}: cannot be read"
    try:
        if file != "-":
            with Path(file).open("rb") as stream:
                return stream.read(most)
        if sys.stdin is None:
            raise BadFile(f"{place}: it is closed")
        return sys.stdin.buffer.read(most)
    except OSError as error:
        raise BadFile(f"{place}: {error.strerror}") from None


def _show_attributes(entries: Sequence[Attribute]) -> None:
    if not entries:
        click.echo("no attributes are imported: oar-accounting attributes import FILE")
        return
    table = new_table("attribute", "of")
    for header in ("names", "values", "entries"):
        table.add_column(header, justify="right")
    for attribute in dict.fromkeys(each.attribute for each in entries):
        some = [each for each in entries if each.attribute == attribute]
        names, values = {each.name for each in some}, {each.value for each in some}
        counts = (len(names), len(values), len(some))
        add_row(table, attribute, f"{some[0].kind}s", *map(str, counts))
    show(table)

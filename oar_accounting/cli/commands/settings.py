"""Commands about the settings themselves."""

import json
from collections.abc import Iterator
from dataclasses import asdict
from typing import TYPE_CHECKING

import click

from oar_accounting.cli.terminal.exits import EXIT_CODES, command, fail
from oar_accounting.cli.terminal.options import Options
from oar_accounting.cli.terminal.status_screen import block, further_terms, screen_width
from oar_accounting.core import formats
from oar_accounting.errors import AccountingError

if TYPE_CHECKING:
    from oar_accounting.health.settings_check import SettingsReport

#: Columns before what is said.
KEY_CELLS = 14


@click.group("settings", epilog=EXIT_CODES)
def settings() -> None:
    """What the settings say, and whether that can be.

    \b
    Example: oar-accounting settings check
             oar-accounting settings check /etc/oar/accounting.new.toml
    """


@command("check")
@click.argument("file", required=False)
@click.option("--json", "as_json", is_flag=True, help="For scripts: one object.")
@click.pass_obj
def check(options: Options, file: str | None, as_json: bool) -> None:
    """Check FILE, or else the settings in force, as a scheduler would read them.

    Properties, and what karma is made of, are checked where the databases answer. It exits with 0
    if nothing is wrong, else with 1 and what was expected.

    \b
    Example: oar-accounting settings check /etc/oar/accounting.new.toml
    """
    if file is not None and options.config is not None:
        raise click.UsageError("FILE is what --config names: give one of the two")
    try:
        report = options.checked_settings(file)
    except AccountingError as error:
        if options.debug:
            raise
        if as_json:
            click.echo(json.dumps({"error": str(error)}, ensure_ascii=False, indent=1))
            raise SystemExit(1) from None
        fail(str(error), 1)
    if as_json:
        shown = {"error": None, **asdict(report)}
        click.echo(json.dumps(shown, ensure_ascii=False, indent=1))
        return
    for label, said in _rows(report):
        for line in block(label, KEY_CELLS, formats.printable(said), screen_width()):
            click.echo(line)


settings.add_command(check)


def _rows(report: "SettingsReport") -> Iterator[tuple[str, str]]:
    yield "settings", report.file + ("" if report.is_there else " (not there: defaults)")
    yield "OAR", report.oar_database or "not known"
    there = "there too" if report.database == report.oar_database else report.database
    yield "our tables", there if report.database and there else "not known"
    by = "cluster, if OAR has it" if report.dimension is None else report.dimension
    yield (
        "site",
        f"{report.site}: windows of {report.window} s, by {by or 'no property'}, "
        f"profile {report.profile}, containers {report.containers}{further_terms(report)}, "
        f"times in {report.timezone}",
    )
    yield "metrics", ", ".join(report.metrics)
    yield "karma", "; ".join(report.karma)
    yield "scheduler", report.scheduler
    for label, lines in (
        ("checked", report.checked),
        ("not checked", report.unchecked),
        ("note", report.notes),
    ):
        yield from ((label, line) for line in lines)
    yield "result", "nothing is wrong" + (" with what could be checked" * bool(report.unchecked))

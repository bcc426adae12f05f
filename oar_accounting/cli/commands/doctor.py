"""The doctor's command."""

import json
from dataclasses import asdict

import click

from oar_accounting.cli.terminal.exits import command
from oar_accounting.cli.terminal.options import Options
from oar_accounting.cli.terminal.status_screen import show_status
from oar_accounting.health.openmetrics import openmetrics


@command("doctor")
@click.option("--verify", is_flag=True, help="Check every total too, which takes longer.")
@click.option("--json", "form", flag_value="json", help="For scripts: one object.")
@click.option(
    "--openmetrics",
    "form",
    flag_value="openmetrics",
    help="Gauges for a monitoring system, of the site, of no user or job; always exits with 0.",
)
@click.pass_obj
def doctor(options: Options, verify: bool, form: str | None) -> None:
    """What is set up, what is behind, what is wrong, and the command that mends it.

    It writes nothing, and says as much as it can whatever is broken.

    \b
    Example: oar-accounting doctor
    """
    status = options.examined(verify=verify)
    if form == "openmetrics":
        click.echo(openmetrics(status), nl=False)
        return
    if form == "json":
        told = asdict(status)
        findings = told.pop("findings")
        shown = {"status": told, "findings": findings}
        click.echo(json.dumps(shown, ensure_ascii=False, indent=1))
    else:
        show_status(status)
    if not status.is_well:
        raise SystemExit(1)

"""The demo."""

from pathlib import Path
from shlex import quote

import click

from oar_accounting.accounting import Accounting
from oar_accounting.cli.terminal.display import progress_bar, show, tell_report, usage_table
from oar_accounting.cli.terminal.exits import command
from oar_accounting.demo.demo import write_demo


@command("demo")
@click.option(
    "--directory",
    default="oar-accounting-demo",
    show_default=True,
    metavar="DIR",
    type=click.Path(file_okay=False, path_type=Path),
    help="Where its files go.",
)
def demo(directory: Path) -> None:
    """Build an OAR database of three months, record it, and show who used what.

    \b
    Example: oar-accounting demo --directory /tmp/demo
    """
    click.echo(f"Building an OAR database of three months in {directory} ...")
    url, config = write_demo(directory)
    with Accounting.open(url=url, config=config) as accounting:
        accounting.init()
        with progress_bar("jobs") as progress:
            report = accounting.catch_up(progress=progress)
        tell_report(report)
        query = accounting.query(("user",), ("core", "gpu", "memory"))
        click.echo(accounting.coverage(query).span())
        show(usage_table(accounting.usage(query)))
    again = f"oar-accounting --url {quote(url)} --config {quote(str(config))}"
    click.echo(
        f"\nThe database:   {url}\nThe settings:   {config}\n\n"
        f"More of it:     {again} usage --by project,cluster\n"
        f"One job:        {again} jobs 4693\n"
        f"Laboratories:   {again} attributes import {quote(str(directory / 'laboratories.csv'))}\n"
        f"                {again} usage --by laboratory\n"
        f"Last year:      {again} import-accounting\n"
        f"Your own OAR:   oar-accounting --oar-conf /etc/oar/oar.conf init\n"
        f"                oar-accounting --oar-conf /etc/oar/oar.conf catch-up"
    )

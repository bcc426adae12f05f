"""The command that takes the place of OAR's own ``oaraccounting``."""

from typing import TYPE_CHECKING, Any

import click

from oar_accounting.cli.terminal.display import progress_bar
from oar_accounting.cli.terminal.exits import command
from oar_accounting.cli.terminal.options import Options
from oar_accounting.core import formats
from oar_accounting.dropin.oaraccounting import count
from oar_accounting.dropin.records import StockReport
from oar_accounting.metrics.metric import RESOURCE

if TYPE_CHECKING:
    from oar_accounting.accounting import Accounting


@command("oaraccounting")
@click.option(
    "--reinitialize",
    is_flag=True,
    help="Empty the table and count every job that OAR still has. Jobs that were deleted count no "
    "more, and windows that --delete-before removed come back.",
)
@click.option(
    "--delete-before",
    "bound",
    metavar="SECONDS|DATE",
    help="Only remove windows that ended so many seconds ago, as OAR's command does, or before a "
    "date in the site's zone. Their jobs stay counted.",
)
@click.option("--dry-run", is_flag=True, help="Say what would be done, and write nothing.")
@click.pass_obj
def oaraccounting(options: Options, bound: str | None, dry_run: bool, reinitialize: bool) -> None:
    """Fill OAR's own table accounting, as OAR's oaraccounting does.

    For oarstat --accounting and OAR's schedulers, which read that table. It writes what OAR's
    command would write, faster, also where a name has a quote, and all of it or nothing. Both may
    run, even at the same time. Our own tables are neither needed nor touched.

    \b
    Example: oar-accounting oaraccounting --dry-run
    In /etc/cron.d/oar-server, in the place of OAR's line (with the role of oar.conf):
      0 * * * * oar OAR-ACCOUNTING --config /dev/null oaraccounting > /dev/null
    where OAR-ACCOUNTING is the path of this command.
    """
    if reinitialize and bound is not None:
        raise click.UsageError("--reinitialize and --delete-before exclude each other")
    would = "would be " if dry_run else ""
    if bound is None:
        with progress_bar("jobs") as progress:
            told = count(
                options.settings(), reinitialize=reinitialize, dry_run=dry_run, progress=progress
            )
        _tell_counted(told, would, reinitialize)
    else:
        with options.accounting() as accounting:
            told = accounting.oaraccounting(dry_run=dry_run, **_bound(accounting, bound))
        click.echo(f"{told.removed} rows {would}removed from OAR's table accounting: {_held(told)}")


def _bound(accounting: "Accounting", said: str) -> dict[str, Any]:
    """Seconds ago, or an instant. Raises :class:`BadSpan`."""
    try:
        return {"delete_older": int(said)}
    except ValueError:
        return {"delete_before": accounting.instant(said)}


def _tell_counted(told: StockReport, would: str, reinitialize: bool) -> None:
    emptied = f"{told.removed} rows {would}removed, " if reinitialize else ""
    click.echo(
        f"{emptied}{told.jobs} jobs {would}accounted into {told.rows} rows of OAR's table "
        "accounting"
    )
    if told.lost:
        click.echo(
            f"note: {told.lost} of the rows removed held more than the jobs that OAR still has: "
            f"{_held(told)}, of jobs that were deleted, or counted twice",
            err=True,
        )


def _held(told: StockReport) -> str:
    asked, used = (
        f"{formats.in_hours(amount, RESOURCE.unit, 1)} {formats.hour_unit(RESOURCE.unit)}"
        for amount in (told.asked, told.used)
    )
    return f"{asked} asked, {used} used"

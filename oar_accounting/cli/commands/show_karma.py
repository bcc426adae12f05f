"""The command that lets users see karma where they look: in OAR's own list of jobs."""

import os
import select

import click

from oar_accounting.cli.terminal.display import speak_to_syslog
from oar_accounting.cli.terminal.exits import command
from oar_accounting.cli.terminal.options import Options

#: Seconds that one step on a database may take: the scheduler must not wait for us.
SHOW_LIMIT = 10.0
#: Milliseconds that a scheduler may take to end.
LONGEST_ROUND = 600_000


@command("show-karma")
@click.option("--dry-run", is_flag=True, help="Only say how many jobs would show another karma.")
@click.option(
    "--after", "process", type=click.IntRange(1), metavar="PID", help="When this process has ended."
)
@click.option(
    "--syslog",
    is_flag=True,
    is_eager=True,
    expose_value=False,
    callback=lambda _, __, wanted: speak_to_syslog() if wanted else None,
    help="Tell the system's log what would be printed.",
)
@click.pass_obj
def show_karma(options: Options, dry_run: bool, process: int | None) -> None:
    """Write the karma of the waiting jobs where oarstat of OAR 3 shows it.

    Into the columns last_karma and message of OAR's table jobs, and nowhere else, as the database
    user of [scheduler] where the settings name one. Each round of the scheduler writes its own
    messages again: "show" in its settings runs this when it has ended.

    \b
    Example: oar-accounting show-karma --dry-run
    """
    if process is not None:
        await_end(process)
    with options.accounting(limit=SHOW_LIMIT, as_scheduler=True) as accounting:
        told = accounting.show_karma(dry_run=dry_run)
    would = "would show" if dry_run else "show"
    click.echo(f"{told.waiting} jobs wait, {told.changed} of them {would} another karma now")


def await_end(process: int) -> None:
    """Wait until the process is not there any more, ten minutes at most."""
    try:
        file = os.pidfd_open(process)
    except ProcessLookupError:
        return
    try:
        poll = select.poll()
        poll.register(file, select.POLLIN)
        poll.poll(LONGEST_ROUND)
    finally:
        os.close(file)

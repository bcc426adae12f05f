"""Commands for what is old or must go: purge, forget a user, retire job ids."""

import json
from collections.abc import Callable, Mapping
from dataclasses import asdict
from datetime import tzinfo
from typing import Any, TypeVar

import click

from oar_accounting.cli.terminal.display import progress_bar
from oar_accounting.cli.terminal.exits import command
from oar_accounting.cli.terminal.options import Options
from oar_accounting.core import formats, periods
from oar_accounting.ledger.records import DryRun
from oar_accounting.metrics.metric import RESOURCE

F = TypeVar("F", bound=Callable[..., None])


def dry_run_options(function: F) -> F:
    """``--dry-run``, and ``--json`` as *as_json*."""
    for option in (
        click.option("--json", "as_json", is_flag=True, help="For scripts: one object."),
        click.option("--dry-run", is_flag=True, help="Say what would be done, and write nothing."),
    ):
        function = option(function)
    return function


def tell_plan(plan: DryRun, said: str, zone: tzinfo, *, as_json: bool) -> None:
    """What would be done, in words or for scripts."""
    if as_json:
        told = asdict(plan)
        if plan.before is None:
            del told["before"]
        tell_json({"dry_run": True, **told})
        return
    if plan.start is not None:
        first = periods.shown(plan.start, zone)
        last = "now" if plan.stop is None else periods.shown(plan.stop, zone)
        said += f"; they ran from {first} to {last}"
    click.echo(f"{said}; nothing was written")


def tell_json(told: Mapping[str, Any]) -> None:
    """One object."""
    click.echo(json.dumps(told, ensure_ascii=False, indent=1))


@command("purge")
@click.option(
    "--before",
    required=True,
    metavar="TIME",
    help="A date or time in the site's zone, or epoch seconds.",
)
@dry_run_options
@click.pass_obj
def purge(options: Options, before: str, dry_run: bool, as_json: bool) -> None:
    """Drop the details of jobs that ended long ago; every total stays.

    What each of them asked for and used on each day stays, too: over whole days, every report but
    utilisation shows the same as before. Purged jobs can no longer be corrected, nor counted in
    metrics that are added later, nor in smaller windows.

    \b
    Example: oar-accounting purge --before 2024-01-01 --dry-run
    """
    with options.accounting() as accounting, progress_bar("looked at") as progress:
        instant, zone = accounting.instant(before), accounting.zone
        if dry_run:
            plan = accounting.purge(instant, dry_run=True, progress=progress)
            told = periods.shown(plan.before or 0, zone)
            said = f"{plan.jobs} jobs that ended before {told} would be purged"
            tell_plan(plan, f"{said}, and {plan.rows} rows removed", zone, as_json=as_json)
            return
        bound, count = accounting.purge(instant, progress=progress)
        told = periods.shown(bound, zone)
    if as_json:
        tell_json({"dry_run": False, "jobs": count, "before": bound})
        return
    click.echo(f"{count} jobs that ended before {told} were purged")


@command("forget-user")
@click.argument("user")
@dry_run_options
@click.pass_obj
def forget_user(options: Options, user: str, dry_run: bool, as_json: bool) -> None:
    """Replace a user's name with a pseudonym; what was used stays.

    A project of the same name gets it, too, and the names of the user's jobs are blanked. Jobs
    that OAR still has, or will have, of this user are recorded under the pseudonym.

    \b
    Example: oar-accounting forget-user alice
    """
    with options.accounting() as accounting:
        if dry_run:
            plan = accounting.forget_user(user, dry_run=True)
            said = f"{formats.printable(user)} would be replaced by a pseudonym in {plan.rows} rows"
            tell_plan(plan, f"{said}, for {plan.jobs} jobs", accounting.zone, as_json=as_json)
            return
        pseudonym = accounting.forget_user(user)
    if as_json:
        tell_json({"dry_run": False, "pseudonym": pseudonym})
        return
    click.echo(f"{formats.printable(user)} is {pseudonym} from now on")


@command("retire")
@click.option(
    "--from",
    "first",
    required=True,
    metavar="JOB",
    type=click.IntRange(1, 2**62),
    help="The first job id that OAR gives, or may give, to another job.",
)
@dry_run_options
@click.pass_obj
def retire(options: Options, first: int, dry_run: bool, as_json: bool) -> None:
    """Free the job ids that OAR, restored from a dump or reinstalled, uses again.

    What the recorded jobs used stays. Jobs that OAR still has keep their ids.

    \b
    Example: oar-accounting retire --from 1
    """
    with options.accounting() as accounting:
        if dry_run:
            plan = accounting.retire(first, dry_run=True)
            said = f"the ids of {plan.jobs} jobs would be freed, in {plan.rows} rows"
            tell_plan(plan, said, accounting.zone, as_json=as_json)
            return
        count = accounting.retire(first)
    if as_json:
        tell_json({"dry_run": False, "jobs": count})
        return
    click.echo(f"the ids of {count} jobs were freed; what the jobs used stays")


@command("import-accounting")
@click.option("--dry-run", is_flag=True, help="Say what would be taken over, and write nothing.")
@click.pass_obj
def import_accounting(options: Options, dry_run: bool) -> None:
    """Take over what OAR's own accounting has from times whose jobs are gone.

    It counts as opening amounts in the metric resource, and usage shows them apart. Run again, it
    takes over only what is new. A job that turns up later takes the place of its share.

    \b
    Example: oar-accounting import-accounting --dry-run
    """
    with options.accounting() as accounting:
        told = accounting.import_accounting(dry_run=dry_run)
        zone = accounting.zone
    verb = "would be taken over" if dry_run else "taken over"
    if told.start is None or told.stop is None:
        click.echo("OAR's accounting has nothing from times whose jobs are gone")
    else:
        first, last = (periods.shown(at, zone) for at in (told.start, told.stop))
        click.echo(
            f"{told.rows} amounts of OAR's accounting {verb}, {told.new} of them new and "
            f"{told.changed} changed, from {first} to {last}: {_hours(told.asked)} asked, "
            f"{_hours(told.used)} used"
        )
    if told.left_out:
        click.echo(
            f"{told.left_out} amounts are left out, because jobs of their windows are still there: "
            f"{_hours(told.left_out_asked)} asked, {_hours(told.left_out_used)} used by OAR's count"
        )


def _hours(amount: int) -> str:
    return f"{formats.in_hours(amount, RESOURCE.unit, 1)} {formats.hour_unit(RESOURCE.unit)}"

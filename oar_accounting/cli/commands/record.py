"""Commands that record: tables, passes, single jobs, and the law."""

import math

import click

from oar_accounting import errors
from oar_accounting.cli.terminal.display import (
    add_row,
    new_table,
    progress_bar,
    show,
    speak_to_syslog,
    tell_findings,
    tell_report,
)
from oar_accounting.cli.terminal.exits import command, fail
from oar_accounting.cli.terminal.options import Options
from oar_accounting.core import formats
from oar_accounting.database import dialects
from oar_accounting.ledger import schema, versions
from oar_accounting.ledger.records import UpgradePlan


@command("init")
@click.option(
    "--dry-run",
    is_flag=True,
    help="Change nothing; say what would be done, about how long it takes, and what it locks.",
)
@click.pass_obj
def init(options: Options, dry_run: bool) -> None:
    """Create the accounting tables, bring them to this version, or check that they are there.

    Where the role may not create tables, the SQL to run as one that may is printed.

    \b
    Example: oar-accounting --oar-conf /etc/oar/oar.conf init --dry-run
    """
    with options.accounting() as accounting:
        if dry_run:
            _tell_plan(dialects.shown(accounting.engine.url), accounting.upgrade_plan())
            return
        created = accounting.init()
        place = dialects.shown(accounting.engine.url)
    click.echo(
        f"{place}: the accounting tables {'were created or upgraded' if created else 'are there'}"
    )


def _tell_plan(place: str, plan: UpgradePlan) -> None:
    if plan.found is None:
        click.echo(f"{place}: the accounting tables would be created, at version {plan.version}")
        return
    if plan.found == plan.version:
        click.echo(f"{place}: the accounting tables are there, at version {plan.version}")
        return
    click.echo(
        f"{place}: the accounting tables would be brought from version {plan.found} to version "
        f"{plan.version}"
    )
    table = new_table("table")
    for name in ("rows", "about"):
        table.add_column(name, justify="right")
    for step in plan.steps:
        add_row(table, step.table, f"{step.rows:,}", formats.lasting(math.ceil(step.seconds)))
    show(table)
    click.echo(
        f"It takes about {formats.lasting(math.ceil(plan.seconds))}. Until it ends, {plan.locks}; "
        "an epilogue that runs meanwhile\nends well, and the next catch-up records what it missed."
    )


@command("catch-up")
@click.option("--full", is_flag=True, help="Compare every job, not only new and recent ones.")
@click.option(
    "--wait",
    is_flag=True,
    help="Wait while another command writes to our tables; else exit at once, with 0.",
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
def catch_up(options: Options, full: bool, wait: bool) -> None:
    """Record what is new or has changed in OAR. Run it every few minutes.

    \b
    Example: oar-accounting catch-up
    """
    with options.accounting() as accounting, progress_bar("jobs") as progress:
        try:
            report = accounting.catch_up(full=full, wait=wait, progress=progress)
        except errors.WriterBusy as error:
            click.echo(f"{error}: nothing to do here")
            return
    tell_report(report)


@command("record")
@click.argument("jobs", metavar="JOB...", nargs=-1, required=True, type=click.IntRange(1, 2**62))
@click.pass_obj
def record(options: Options, jobs: tuple[int, ...]) -> None:
    """Record single jobs as OAR has them now.

    \b
    Example: oar-accounting record 4711 4712
    """
    with options.accounting() as accounting:
        report = accounting.record(jobs)
    tell_report(report)
    if report.problems:
        raise SystemExit(1)


@command("verify")
@click.option(
    "--most",
    default=10,
    show_default=True,
    type=click.IntRange(1, 100_000),
    metavar="N",
    help="How many differences to show.",
)
@click.pass_obj
def verify(options: Options, most: int) -> None:
    """Check that every total is what the recorded spans and rates give.

    And that no more is kept of single purged jobs than stands in the totals.

    \b
    Example: oar-accounting verify
    """
    with options.accounting() as accounting:
        found = accounting.verify(most=most)
    if not found:
        click.echo("every total is what spans and rates give")
        return
    table = new_table("window", "of", "user", "project", "queue", "property", "metric")
    for name in ("asked", "should be", "used", "should be"):
        table.add_column(name, justify="right")
    for each in found:
        names = (each.user, each.project, each.queue, each.property, each.metric)
        amounts = (each.asked, each.expected_asked, each.used, each.expected_used)
        span = (formats.date(each.window_start), f"{each.seconds} s")
        add_row(table, *span, *names, *map(str, amounts))
    show(table)
    mended = "mend them with: oar-accounting rebuild"
    if any(each.kept for each in found):
        mended = "of single purged jobs more is kept than was carried: restore a backup"
    fail(
        f"{len(found)} differences{' or more' if len(found) == most else ''}; {mended}",
        1,
    )


@command("rebuild")
@click.option("--metric", metavar="NAME", help="Only this metric, as it is declared now.")
@click.option("--from-oar", is_flag=True, help="Read the jobs that OAR still has again.")
@click.option("--dry-run", is_flag=True, help="Say how many figures would change; change none.")
@click.pass_obj
def rebuild(options: Options, metric: str | None, from_oar: bool, dry_run: bool) -> None:
    """Recompute what is derived, or fill a metric that was declared or changed.

    Without an option: the totals, from the recorded spans and rates. A figure is what a job asked
    for and used in one metric, or a total where only these are recomputed.

    \b
    Example: oar-accounting rebuild --metric gpu
    """
    with options.accounting() as accounting, progress_bar("rebuilt") as progress:
        report = accounting.rebuild(
            metric=metric, from_oar=from_oar, dry_run=dry_run, progress=progress
        )
    if not dry_run:
        tell_report(report)
        click.echo(f"{report.figures:,} figures changed")
        return
    click.echo(f"{report.figures:,} figures would change; nothing was written")
    tell_findings(report)


@command("schema")
@click.argument("database", required=False, type=click.Choice(dialects.DATABASES))
@click.option(
    "--upgrade-to",
    "version",
    type=click.IntRange(2, schema.VERSION),
    metavar="VERSION",
    help="The SQL that upgrades the tables from the version before VERSION to VERSION.",
)
@click.option("--drop", is_flag=True, help="The SQL that removes the tables and all in them.")
@click.pass_obj
def print_schema(options: Options, database: str | None, version: int | None, drop: bool) -> None:
    """Print the SQL that creates, upgrades or removes the accounting tables.

    Without DATABASE: for the database that the settings name.

    \b
    Example: oar-accounting schema postgresql | psql accounting
    """
    if database is None:
        with options.accounting() as accounting:
            database = dialects.database_name(accounting.engine)
    if drop:
        text = versions.drop_ddl()
    else:
        text = (
            versions.ddl(database) if version is None else versions.upgrade_ddl(database, version)
        )
    click.echo(text, nl=False)

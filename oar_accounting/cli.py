"""The command ``oar-accounting``: arguments in, tables and exit codes out."""

import csv
import io
import json
import sys
from collections.abc import Callable
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from shlex import quote
from typing import Any

import click

from oar_accounting import dialects, errors, formats, schema
from oar_accounting.accounting import Accounting
from oar_accounting.demo import write_demo
from oar_accounting.display import (
    add_row,
    new_table,
    progress_bar,
    show,
    speak_to_syslog,
    tell_report,
    usage_objects,
    usage_table,
)
from oar_accounting.exits import EXIT_CODES, Commands, fail
from oar_accounting.openmetrics import openmetrics
from oar_accounting.options import Options
from oar_accounting.screen import show_status


@click.group(
    cls=Commands,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog=EXIT_CODES,
)
@click.option(
    "--oar-conf",
    metavar="FILE",
    help="OAR's settings: database and window. Default: $OARCONFFILE, else /etc/oar/oar.conf.",
)
@click.option(
    "--config",
    metavar="FILE",
    help="Our settings, TOML. Default: $OAR_ACCOUNTING_CONF, else /etc/oar/accounting.toml "
    "if there is one.",
)
@click.option("--url", metavar="URL", help="OAR's database, instead of the one in oar.conf.")
@click.option("--site", metavar="NAME", help="Name of this OAR server in the accounting tables.")
@click.option("--debug", is_flag=True, help="Show the traceback of an error.")
@click.version_option(version("oar-accounting"), prog_name="oar-accounting")
@click.pass_context
def main(context: click.Context, /, **given: Any) -> None:
    """Exact accounting of OAR jobs in any number of metrics.

    \b
    Try it without an OAR:       oar-accounting demo
    On the OAR server, once:     oar-accounting init
    Every few minutes:           oar-accounting catch-up
    Who used how much of what:   oar-accounting usage --by user
    """
    # A terminal that cannot show a letter gets its number, not a traceback.
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    context.obj = Options(**given)


def command(name: str) -> Callable[[Callable[..., None]], click.Command]:
    """A command whose help ends with the exit codes."""
    return main.command(name, epilog=EXIT_CODES)


@command("init")
@click.pass_obj
def init(options: Options) -> None:
    """Create the accounting tables, bring them to this version, or check that they are there.

    Where the role may not create tables, the SQL to run as one that may is printed.

    \b
    Example: oar-accounting --oar-conf /etc/oar/oar.conf init
    """
    with options.accounting() as accounting:
        created = accounting.init()
        place = dialects.shown(accounting.engine.url)
    click.echo(
        f"{place}: the accounting tables {'were created or upgraded' if created else 'are there'}"
    )


@command("catch-up")
@click.option("--full", is_flag=True, help="Compare every job, not only new and recent ones.")
@click.option("--wait", is_flag=True, help="Wait for a writer that is at work; else leave, with 0.")
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


@command("doctor")
@click.option("--verify", is_flag=True, help="Check every total too, which takes longer.")
@click.option("--json", "form", flag_value="json", help="For scripts: one object.")
@click.option(
    "--openmetrics",
    "form",
    flag_value="openmetrics",
    help="For a monitoring system, and leaves with 0: gauges of the site, of no user or job.",
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


@command("verify")
@click.option(
    "--most",
    default=10,
    show_default=True,
    type=click.IntRange(1, 100_000),
    help="How many differences to show.",
)
@click.pass_obj
def verify(options: Options, most: int) -> None:
    """Check that every total is what the recorded spans and rates give.

    \b
    Example: oar-accounting verify
    """
    with options.accounting() as accounting:
        found = accounting.verify(most=most)
    if not found:
        click.echo("every total is what spans and rates give")
        return
    table = new_table("window", "user", "project", "queue", "property", "metric")
    for name in ("asked", "should be", "used", "should be"):
        table.add_column(name, justify="right")
    for each in found:
        names = (each.user, each.project, each.queue, each.property, each.metric)
        amounts = (each.asked, each.expected_asked, each.used, each.expected_used)
        add_row(table, formats.date(each.window_start), *names, *map(str, amounts))
    show(table)
    fail(
        f"{len(found)} differences{' or more' if len(found) == most else ''}; "
        "mend them with: oar-accounting rebuild",
        1,
    )


@command("rebuild")
@click.option("--metric", metavar="NAME", help="Only this metric, as it is declared now.")
@click.option("--from-oar", is_flag=True, help="Read the jobs that OAR still has again.")
@click.pass_obj
def rebuild(options: Options, metric: str | None, from_oar: bool) -> None:
    """Recompute what is derived, or fill a metric that was declared or changed.

    Without an option: the totals, from the recorded spans and rates.

    \b
    Example: oar-accounting rebuild --metric gpu
    """
    with options.accounting() as accounting, progress_bar("rebuilt") as progress:
        report = accounting.rebuild(metric=metric, from_oar=from_oar, progress=progress)
    tell_report(report)


def names_of(_: click.Context, __: click.Parameter, said: str | None) -> tuple[str, ...] | None:
    """The names of a list with commas."""
    return None if said is None else tuple(name.strip() for name in said.split(",") if name.strip())


@command("usage")
@click.option(
    "--by",
    default="user",
    show_default=True,
    callback=names_of,
    metavar="KEY,...",
    help="user, project, queue, cluster (or the site's dimension), in any order.",
)
@click.option(
    "--metric", "metrics", callback=names_of, metavar="NAME,...", help="Default: every metric."
)
@click.option(
    "--from",
    "start",
    metavar="TIME",
    help="First instant: a date (UTC) or epoch seconds, on a bound of a window.",
)
@click.option("--to", "stop", metavar="TIME", help="First instant that no longer counts.")
@click.option("--json", "form", flag_value="json", help="A list of objects, amounts exact.")
@click.option("--csv", "form", flag_value="csv", help="The same as comma-separated values.")
@click.pass_obj
def usage(options: Options, /, by: tuple[str, ...], form: str | None, **given: Any) -> None:
    """Who asked for and used how much of what.

    \b
    Example: oar-accounting usage --by project,user --metric node --from 2026-03-01 --to 2026-04-01
    """
    with options.accounting() as accounting:
        for bound in ("start", "stop"):
            if given[bound] is not None:
                given[bound] = formats.instant(given[bound])
        report = accounting.usage(by, **given)
    if form == "json":
        click.echo(json.dumps(list(usage_objects(report)), ensure_ascii=False, indent=1))
    elif form == "csv":
        writer = csv.DictWriter(sys.stdout, [*by, "metric", "unit", "asked", "used"])
        writer.writeheader()
        writer.writerows(usage_objects(report))
    else:
        show(usage_table(report))
        if report.open_jobs:
            click.echo(f"{report.open_jobs} open jobs are not in this table.", err=True)


@command("purge")
@click.option(
    "--before", "before", required=True, metavar="TIME", help="A date (UTC) or epoch seconds."
)
@click.pass_obj
def purge(options: Options, before: str) -> None:
    """Drop the details of jobs that ended long ago; every total stays.

    Such jobs can no longer be corrected, nor counted in metrics that are added later or in smaller
    windows.

    \b
    Example: oar-accounting purge --before 2024-01-01
    """
    instant = formats.instant(before)
    with options.accounting() as accounting, progress_bar("looked at") as progress:
        bound, count = accounting.purge(instant, progress=progress)
    click.echo(f"{count} jobs that ended before {formats.date(bound)} were purged")


@command("forget-user")
@click.argument("user")
@click.pass_obj
def forget_user(options: Options, user: str) -> None:
    """Put a pseudonym in the place of a user's name; what was used stays.

    A project of the same name gets it too. Jobs that OAR still has, or will have, of this user are
    recorded under the pseudonym.

    \b
    Example: oar-accounting forget-user alice
    """
    with options.accounting() as accounting:
        pseudonym = accounting.forget_user(user)
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
@click.pass_obj
def retire(options: Options, first: int) -> None:
    """Give job ids free that OAR uses again: restored from a dump, or installed anew.

    What the recorded jobs used stays. Jobs that OAR still has keep their ids.

    \b
    Example: oar-accounting retire --from 1
    """
    with options.accounting() as accounting:
        count = accounting.retire(first)
    click.echo(f"{count} jobs keep what they used, and gave their ids free")


@command("schema")
@click.argument("database", required=False, type=click.Choice(dialects.DATABASES))
@click.option(
    "--upgrade-to",
    "version",
    type=click.IntRange(2, schema.VERSION),
    help="The SQL that brings the tables of the version before to this one.",
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
        text = schema.drop_ddl()
    else:
        text = schema.ddl(database) if version is None else schema.upgrade_ddl(database, version)
    click.echo(text, nl=False)


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
        show(usage_table(accounting.usage(("user",), ("core", "gpu", "memory"))))
    again = f"oar-accounting --url {quote(url)} --config {quote(str(config))}"
    click.echo(
        f"\nThe database:   {url}\nThe settings:   {config}\n\n"
        f"More of it:     {again} usage --by project,cluster\n"
        f"Your own OAR:   oar-accounting --oar-conf /etc/oar/oar.conf init\n"
        f"                oar-accounting --oar-conf /etc/oar/oar.conf catch-up"
    )


if __name__ == "__main__":
    main()

"""The commands about fair share: who is next, why, and who is over."""

import json
import math
from dataclasses import asdict
from typing import Any

import click
from rich.table import Table

from oar_accounting.cli.commands import what_if
from oar_accounting.cli.terminal.display import add_row, bar, new_table, show
from oar_accounting.cli.terminal.exits import command
from oar_accounting.cli.terminal.options import Options
from oar_accounting.core import formats, periods
from oar_accounting.core.columns import ints
from oar_accounting.karma.explain import SUMMED_POLICIES, counted_share, explanation, figure
from oar_accounting.karma.report import Explanation, FairShareReport, KarmaPart, KarmaReport, Part


@command("karma")
@click.option(
    "--explain", "job", type=int, metavar="JOB", help="Why this job stands where it does."
)
@click.option("--queue", metavar="NAME", help="Only the jobs of this queue.")
@click.option("--first", type=click.IntRange(1), metavar="N", help="Only the first N jobs.")
@click.option(
    "--at", metavar="TIME", help="As of a time in the site's zone, or epoch seconds. Default: now."
)
@click.option(
    "--what-if",
    "config",
    metavar="FILE",
    help="What the [karma] of this settings file would change; nothing is changed.",
)
@click.option(
    "--days",
    type=click.IntRange(0),
    metavar="N",
    help="With --what-if, replay the starts of so many days. Default: 7.",
)
@click.option("--json", "as_json", is_flag=True, help="All of it, for machines.")
@click.pass_obj
def karma(
    options: Options, /, job: int | None, as_json: bool, at: str | None, **given: Any
) -> None:
    """The jobs that wait, those first that are next: lowest karma first.

    \b
    Example: oar-accounting karma --queue default --first 10
             oar-accounting karma --explain 4711
             oar-accounting karma --what-if /etc/oar/accounting.new.toml --days 30
    """
    filtered = given["queue"] or given["first"]
    if job is not None and (filtered or given["config"]):
        raise click.UsageError("--explain goes without --queue, --first and --what-if")
    if given["config"] and filtered:
        raise click.UsageError("--what-if goes without --queue and --first")
    if given["days"] is not None and not given["config"]:
        raise click.UsageError("--days goes with --what-if")
    if given["config"]:
        what_if.tell(options, given["config"], given["days"], at, as_json=as_json)
        return
    with options.accounting() as accounting:
        now = None if at is None else accounting.instant(at)
        if job is None:
            report = accounting.karma(now=now, queue=given["queue"])
        else:
            told = accounting.explain(job, now=now)
    if job is not None:
        tell_explanation(told, as_json=as_json)
        return
    tell_jobs(report.take(ints(range(len(report))[: given["first"]])), as_json=as_json)


@command("fairshare")
@click.option(
    "--at", metavar="TIME", help="As of a time in the site's zone, or epoch seconds. Default: now."
)
@click.option("--json", "as_json", is_flag=True, help="All of it, for machines.")
@click.pass_obj
def fairshare(options: Options, /, at: str | None, as_json: bool) -> None:
    """Who has used how much of what is meant for them.

    The bar is the share of usage, or the effective one of policy tree; what stands in it after the
    | is above the target.

    \b
    Example: oar-accounting fairshare --json
    """
    with options.accounting() as accounting:
        report = accounting.fairshare(now=None if at is None else accounting.instant(at))
    tell_fairshare(report, as_json=as_json)


def tell_jobs(report: KarmaReport, *, as_json: bool) -> None:
    """Jobs that wait, in order."""
    if as_json:
        head = {"policy": report.policy, "now": report.now, "timezone": report.timezone}
        tell({**head, "jobs": [asdict(each) for each in report]})
    elif len(report):
        click.echo(f"as of {_now(report)}")
        show(karma_table(report))
    else:
        click.echo("no job waits")


def tell_explanation(told: Explanation, *, as_json: bool) -> None:
    """Why a job stands where it does."""
    if as_json:
        tell(asdict(told))
    else:
        click.echo("\n".join(formats.printable(line) for line in explanation(told)))


def tell_fairshare(report: FairShareReport, *, as_json: bool) -> None:
    """Who has used how much of what is meant for them."""
    if as_json:
        tell(asdict(report))
        return
    show(fairshare_table(report))
    click.echo(f"{report.policy}, as of {_now(report)}; time: {report.counts}")


def _now(report: KarmaReport | FairShareReport) -> str:
    """As of when, by the clocks of the site."""
    return periods.shown(report.now, periods.zone(report.timezone))


def tell(said: dict[str, Any]) -> None:
    """JSON, in which there is no infinity: null stands for it."""
    click.echo(json.dumps(finite(said), ensure_ascii=False, indent=1, allow_nan=False))


def finite(value: Any) -> Any:
    """The same with None for every number that is not finite."""
    if isinstance(value, dict):
        return {key: finite(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [finite(each) for each in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def karma_table(report: KarmaReport) -> Table:
    """A line per job, with a column for each part of the karma."""
    table = new_table("queue")
    table.add_column("place", justify="right")
    table.add_column("job", justify="right")
    for name in ("user", "project"):
        table.add_column(name, no_wrap=True)
    for title in ("karma", *(_title(report.policy, part) for part in report.parts)):
        table.add_column(title, justify="right")
    for row, each in enumerate(report):
        cells = [
            "" if part.names[row] is None else _cell(report.policy, part.of_job(row))
            for part in report.parts
        ]
        who = (each.queue, str(each.place), str(each.job_id), each.user, each.project)
        add_row(table, *who, figure(each.karma), *cells)
    return table


def _title(policy: str, part: Part) -> str:
    if policy in SUMMED_POLICIES:
        return f"{part.weight:g} x {part.by}\n{part.metric} {part.amount}"
    return f"{part.by}\n{part.metric} {part.amount}"


def _cell(policy: str, part: KarmaPart) -> str:
    if policy in SUMMED_POLICIES:
        return f"{part.value:+.3f}"
    share = counted_share(part)
    return f"{share:.3f}" if part.target is None else f"{share:.3f}/{part.target:.3f}"


def fairshare_table(report: FairShareReport) -> Table:
    """A line per name, with its bar."""
    # What is the same in all rows is said below them, or goes without saying.
    apart = {
        "amount": len({row.amount for row in report.rows}) > 1,
        "time": len({row.counts for row in report.rows}) > 1,
        "queue": any(row.queue for row in report.rows),
    }
    table = new_table("of", *(title for title, differs in apart.items() if differs), "name")
    effective = any(row.effective is not None for row in report.rows)
    for title in ("target", "share", *(["effective"] if effective else []), "over"):
        table.add_column(title, justify="right")
    table.add_column("", no_wrap=True)
    for title in ("in all" if apart["amount"] else "used", "counts"):
        table.add_column(title, justify="right")
    for row in report.rows:
        share = row.counted_share
        which = {"amount": row.amount, "time": row.counts, "queue": row.queue}
        name = "  " * row.depth + (row.name or f"(no {row.by})")
        target = "" if row.target is None else f"{row.target:.3f}"
        over = "" if row.over is None else f"{row.over:+.3f}"
        add_row(
            table,
            row.by,
            *(which[title] for title, differs in apart.items() if differs),
            name,
            target,
            "" if row.share is None else f"{row.share:.3f}",
            *(["" if row.effective is None else f"{row.effective:.3f}"] if effective else []),
            over,
            "" if share is None else bar(share, row.target),
            ", ".join(_hours(each, each.amount) for each in row.usage),
            ", ".join(_hours(each, each.usage) for each in row.usage),
        )
    return table


def _hours(used: Any, amount: float) -> str:
    hours = amount / formats.one_hour(used.unit, used.scale)
    return f"{hours:,.1f} {formats.hour_unit(used.unit)}"

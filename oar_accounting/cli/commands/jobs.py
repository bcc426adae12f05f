"""The command that lists jobs: what each asked for, used and left unused."""

from collections.abc import Callable, Iterator
from datetime import tzinfo
from functools import partial
from itertools import chain, islice
from typing import TYPE_CHECKING, Any

import click

from oar_accounting.cli.commands.report_options import (
    as_of_option,
    asked,
    form_options,
    metric_option,
    period_options,
    where_option,
)
from oar_accounting.cli.terminal.display import (
    add_row,
    is_wide,
    new_table,
    show,
    tell_notes,
    tell_rows,
)
from oar_accounting.cli.terminal.exits import command
from oar_accounting.cli.terminal.options import Options
from oar_accounting.core import formats, periods
from oar_accounting.reports.records import JobPage, RecordedJob
from oar_accounting.usage.keys import SITE
from oar_accounting.usage.records import Coverage

if TYPE_CHECKING:
    from oar_accounting.accounting import Accounting
    from oar_accounting.reports.own import OwnReports

#: Gives a page of jobs: *limit* of them *after* a number.
Pages = Callable[..., JobPage]

#: Jobs that a table shows at most, where nobody says how many.
USUAL_PAGE = 50
#: Jobs that are read at once.
AT_ONCE = 1000

JOB_FIELDS = (
    *("job_id", "user", "project", "queue", "state", "types", "submitted", "started", "ended"),
    *("walltime", "waited", "size", "purged", "metric", "unit", "asked", "used", "unused"),
)


@command("jobs")
@metric_option
@period_options
@click.option(
    "--moment",
    type=click.Choice(["ran", "submitted", "started", "ended"]),
    default="ran",
    show_default=True,
    help="What of a job lies within the period.",
)
@where_option
@as_of_option
@click.option(
    "--after", type=click.IntRange(-(2**62), 2**62), metavar="JOB", help="Begin after this number."
)
@click.option(
    "--first",
    "-n",
    type=click.IntRange(1),
    metavar="N",
    help=f"How many jobs. Default: {USUAL_PAGE} in a table, all with --json and --csv.",
)
@form_options
@click.pass_obj
def jobs(
    options: Options, /, form: str | None, after: int | None, first: int | None, **given: Any
) -> None:
    """The jobs themselves: what each asked for, used and left unused, and how long it waited.

    With --json and --csv a row for each job and metric, however many jobs there are; a job that
    held nothing has one without a metric.

    \b
    Example: oar-accounting jobs --where user=alice --period yesterday
             oar-accounting jobs --where state=Error --moment ended -p 2026-03 --csv
    """
    with options.accounting() as accounting:
        told = asked(accounting, given)
        coverage = jobs_coverage(accounting, told)
        tell_listed(partial(accounting.jobs, **told), coverage, form, after, first)


def jobs_coverage(reports: "Accounting | OwnReports", told: dict[str, Any]) -> Coverage:
    """How far what jobs were asked for with *told* is recorded; the zone is taken out of it."""
    named = {key: told[key] for key in ("metrics", "start", "stop", "as_of")}
    # Jobs are those of one site; it is the verb that says so where others are named.
    named["where"] = {key: some for key, some in told.get("where", {}).items() if key != SITE}
    return reports.coverage((), of_jobs=True, **named, timezone=told.pop("timezone"))


def tell_listed(
    pages: Pages, coverage: Coverage, form: str | None, after: int | None, first: int | None
) -> None:
    """The first jobs after a number: as a table, or as rows for machines, page by page."""
    if form is not None:
        found = _following(pages, after)
        rows = chain.from_iterable(map(job_objects, islice(found, first)))
        tell_rows(form, JOB_FIELDS, rows, coverage)
        return
    page = pages(after=after, limit=first or USUAL_PAGE)
    click.echo(coverage.span())
    show(_table(page.jobs, periods.zone(coverage.timezone)))
    tell_notes(coverage)
    if page.after is not None:
        click.echo(f"more follow: --after {page.after}, or -n for more at once", err=True)


def _following(pages: Pages, after: int | None) -> Iterator[RecordedJob]:
    """The jobs after a number, page by page."""
    while True:
        page = pages(after=after, limit=AT_ONCE)
        yield from page.jobs
        if page.after is None:
            return
        after = page.after


def job_objects(job: RecordedJob) -> Iterator[dict[str, Any]]:
    """A job as machines read it, once for each metric; amounts are exact whole numbers."""
    common = {name: getattr(job, name) for name in JOB_FIELDS[:13]} | {"types": ",".join(job.types)}
    for held in job.metrics:
        yield common | {
            "metric": held.metric,
            "unit": formats.exact_unit(held.unit, held.scale),
            "asked": held.asked,
            "used": held.used,
            "unused": held.unused,
        }
    if not job.metrics:
        yield common | dict.fromkeys(JOB_FIELDS[13:])


def _table(found: tuple[RecordedJob, ...], zone: tzinfo) -> Any:
    """A line per job; on a wide terminal with its types and when it was submitted."""
    wide = is_wide()
    metrics = dict.fromkeys((m.metric, m.unit) for job in found for m in job.metrics)
    table = new_table()
    table.add_column("job", justify="right")
    for name in ("user", "project", "queue", "state", *(("types", "submitted") if wide else ())):
        table.add_column(name, no_wrap=True)
    table.add_column("started", no_wrap=True)
    for title in ("waited", "ran", "walltime", "size"):
        table.add_column(title, justify="right")
    for metric, unit in metrics:
        table.add_column(f"{metric} used\n{formats.hour_unit(unit)}", justify="right")
        table.add_column("of asked", justify="right")
    for job in found:
        held = {each.metric: each for each in job.metrics}
        cells = []
        for metric, _ in metrics:
            if metric not in held:
                cells += ["", ""]
                continue
            each = held[metric]
            cells.append(formats.in_hours(each.used, each.unit, each.scale))
            cells.append(formats.percent(each.used, each.asked))
        ran = "" if job.started is None or job.ended is None else job.ended - job.started
        extra = [",".join(job.types), periods.shown(job.submitted, zone)] if wide else []
        add_row(
            table,
            str(job.job_id),
            job.user,
            job.project,
            job.queue,
            job.state,
            *extra,
            "" if job.started is None else periods.shown(job.started, zone),
            "" if job.waited is None else formats.clock(job.waited),
            "" if ran == "" else formats.clock(int(ran)),
            formats.clock(job.walltime),
            "" if job.size is None else str(job.size),
            *cells,
        )
    return table

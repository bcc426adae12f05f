"""The command that lists jobs: what each asked for, used and left unused."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from datetime import tzinfo
from functools import partial
from itertools import chain, islice, pairwise
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource

from oar_accounting.cli.commands.report_options import (
    as_of_option,
    asked,
    form_options,
    jobs_argument,
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
from oar_accounting.core.node_lists import expand
from oar_accounting.errors import BadSpan, UnknownName
from oar_accounting.reports.records import JobHistory, JobPage, JobPart, RecordedJob
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
    *("ran", "name", "exit_code", "exit", "nodes", "reservation"),
)
METRIC_FIELDS = ("metric", "unit", "asked", "used", "unused")
#: What chooses among jobs, which single ones are not chosen by.
CHOOSING = ("period", "start", "stop", "moment", "where", "after", "first")
#: Stands for what is not known, or not there.
NONE = "-"


@command("jobs")
@jobs_argument
@metric_option
@period_options
@click.option(
    "--moment",
    type=click.Choice(["ran", "submitted", "started", "ended"]),
    default="ran",
    show_default=True,
    help="Which moment of a job must lie within the period.",
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
    options: Options,
    /,
    ids: tuple[int, ...],
    form: str | None,
    after: int | None,
    first: int | None,
    **given: Any,
) -> None:
    """The jobs themselves: what each asked for, used and left unused, and how long it waited.

    Given the numbers of JOBs, it shows all that is recorded about each. A job that has not ended
    counts as running until now, or until --as-of, and belongs to no later period.

    With --json and --csv a row for each job and metric, however many jobs there are; a job that
    held nothing has one without a metric.

    \b
    Example: oar-accounting jobs --where user=alice --period yesterday
             oar-accounting jobs 4711
             oar-accounting jobs --where state=Error --moment ended -p 2026-03 --csv
    """
    with options.accounting() as accounting:
        check_chosen_once(ids)
        told = asked(accounting, given)
        if ids:
            told["where"] = {"job": ids}
        coverage = jobs_coverage(accounting, told)
        if ids:
            tell_named(accounting, told, coverage, form, ids)
            return
        tell_listed(partial(accounting.jobs, **told), coverage, form, after, first)


def check_chosen_once(ids: Sequence[int]) -> None:
    """Raise :class:`BadSpan` where jobs are named and chosen in another way, too."""
    context = click.get_current_context()
    for parameter in context.command.params if ids else ():
        name = parameter.name or ""
        if name in CHOOSING and context.get_parameter_source(name) is ParameterSource.COMMANDLINE:
            raise BadSpan(
                f"jobs are named by their numbers: {parameter.opts[0]} does not go with that"
            )


def tell_named(
    reports: "Accounting | OwnReports",
    told: dict[str, Any],
    coverage: Coverage,
    form: str | None,
    ids: Sequence[int],
) -> None:
    """Single jobs in the order in which they are named: each in full, or as rows for machines.

    Raises :class:`UnknownName` where one is not recorded.
    """
    named = {key: told[key] for key in ("metrics", "as_of")}
    found = {number: reports.job(number, **named) for number in dict.fromkeys(ids)}
    if missing := [str(number) for number, one in found.items() if one is None]:
        one = len(missing) == 1
        raise UnknownName(
            f"{'job' if one else 'jobs'} {', '.join(missing)} {'is' if one else 'are'} not recorded"
        )
    some = [each for each in found.values() if each is not None]
    if form is not None:
        tell_rows(form, JOB_FIELDS, chain.from_iterable(map(_history_objects, some)), coverage)
        return
    for nth, each in enumerate(some):
        if nth:
            click.echo()
        show(_in_full(each, periods.zone(coverage.timezone)))
    tell_notes(coverage)
    if earlier := [str(each.job.job_id) for each in some if each.job.name is None]:
        click.echo(
            f"note: an earlier version recorded {', '.join(earlier)}: name, exit code, nodes and "
            "reservation are not known; oar-accounting rebuild --from-oar reads them",
            err=True,
        )


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
        click.echo(
            f"more jobs follow: continue with --after {page.after}, or show more at once with -n N",
            err=True,
        )


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
    made = {"types": ",".join(job.types), "exit": _exit_of(job)}
    named = (name for name in JOB_FIELDS if name not in (*made, *METRIC_FIELDS))
    common = {name: getattr(job, name) for name in named} | made
    for held in job.metrics:
        yield common | {
            "metric": held.metric,
            "unit": formats.exact_unit(held.unit, held.scale),
            "asked": held.asked,
            "used": held.used,
            "unused": held.unused,
        }
    if not job.metrics:
        yield common | dict.fromkeys(METRIC_FIELDS)


def _history_objects(found: JobHistory) -> Iterator[dict[str, Any]]:
    """The same of one job, each with its spans, and with the parts that are of the metric."""
    spans = [asdict(each) for each in found.spans]
    for row in job_objects(found.job):
        parts = [asdict(each) for each in found.parts if each.metric == row["metric"]]
        yield row | {"spans": spans, "parts": parts}


def _exit_of(job: RecordedJob) -> str | None:
    return None if job.exit_code is None else formats.exit_words(job.exit_code)


def _in_full(found: JobHistory, zone: tzinfo) -> Any:
    """A line for each fact of a job."""
    table = new_table()
    table.show_header = False
    table.add_column(no_wrap=True)
    table.add_column(no_wrap=True)
    for name, fact in _facts(found, zone):
        add_row(table, name, fact or NONE)
    return table


def _facts(found: JobHistory, zone: tzinfo) -> Iterator[tuple[str, str | None]]:
    job = found.job
    yield "job", str(job.job_id)
    yield from (("name", job.name), ("user", job.user), ("project", job.project))
    yield from (("queue", job.queue), ("types", ", ".join(job.types)), ("state", job.state))
    yield "reservation", job.reservation
    for name in ("submitted", "started", "ended"):
        instant = getattr(job, name)
        yield name, None if instant is None else periods.shown(instant, zone)
    for name in ("waited", "ran", "walltime"):
        yield name, _clock_of(getattr(job, name))
    yield "size", None if job.size is None else str(job.size)
    count = len(expand(job.nodes or ""))
    yield "nodes", f"{job.nodes} ({count})" if count > 1 else job.nodes
    yield "exit", _exit_of(job)
    for first, then in pairwise(each for each in found.spans if each.kind == "used"):
        if first.stop is not None and then.start > first.stop:
            yield "suspended", _between(first.stop, then.start, zone)
    yield from _held(found.parts, zone)
    for held in job.metrics:
        asked_for = formats.in_hours(held.asked, held.unit, held.scale)
        used = formats.in_hours(held.used, held.unit, held.scale)
        share = formats.percent(held.used, held.asked)
        unit = formats.hour_unit(held.unit)
        yield held.metric, f"{used} {unit} used of {asked_for} asked" + (share and f", {share}")


def _held(parts: Sequence[JobPart], zone: tzinfo) -> Iterator[tuple[str, str]]:
    """What a job held, where that changed or was on several values of the dimension."""
    held: dict[tuple[int, int | None, str], list[str]] = {}
    for part in parts:
        amount = f"{formats.amount(part.used, part.scale)} {part.unit}"
        held.setdefault((part.start, part.stop, part.value), []).append(amount)
    changes = len({(start, stop) for start, stop, _ in held}) > 1
    for (start, stop, value), amounts in held.items() if len(held) > 1 else ():
        when = f"from {periods.shown(start, zone)}" if stop is None else _between(start, stop, zone)
        place = f" on {value}" if value else ""
        yield "held", f"{', '.join(amounts)}{place}" + (f", {when}" if changes else "")


def _between(start: int, stop: int, zone: tzinfo) -> str:
    return f"{periods.shown(start, zone)} to {periods.shown(stop, zone)}"


def _clock_of(seconds: int | None) -> str | None:
    return None if seconds is None else formats.clock(seconds)


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
            _clock_of(job.waited) or "",
            _clock_of(job.ran) or "",
            _clock_of(job.walltime) or NONE,
            NONE if job.size is None else str(job.size),
            *cells,
        )
    return table

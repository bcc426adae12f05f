"""The options that reports share: which span of time, in which zone, and in what form."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

import click

from oar_accounting.core import periods
from oar_accounting.errors import BadSpan, UnknownName
from oar_accounting.usage.job_keys import DEFAULT_SIZES, Sizes

if TYPE_CHECKING:
    from oar_accounting.accounting import Accounting
    from oar_accounting.usage.usage_query import UsageQuery

F = TypeVar("F", bound=Callable[..., None])


def period_options(function: F) -> F:
    """``--period``, ``--from``, ``--to`` and ``--timezone``; see `bounds`."""
    for option in (
        click.option(
            "--timezone",
            metavar="ZONE",
            help="Whose clocks say when a day begins, like Europe/Paris. Default: the settings'.",
        ),
        click.option(
            "--to",
            "stop",
            metavar="TIME",
            help="First instant that no longer counts: a time as for --from.",
        ),
        click.option(
            "--from",
            "start",
            metavar="TIME",
            help='First instant: a date, a time, epoch seconds, "yesterday", 2026-03 ...',
        ),
        click.option(
            "--period",
            "-p",
            metavar="WORDS",
            help='A whole period: "last month", "last 7 days", 2026-03, 2026-Q1, 2026-01..2026-03.',
        ),
    ):
        function = option(function)
    return function


def form_options(function: F) -> F:
    """``--json`` and ``--csv``, as *form*."""
    for option in (
        click.option("--csv", "form", flag_value="csv", help="The same as comma-separated values."),
        click.option("--json", "form", flag_value="json", help="A list of objects, amounts exact."),
    ):
        function = option(function)
    return function


def names_of(_: click.Context, __: click.Parameter, said: str | None) -> tuple[str, ...] | None:
    """The names of a list with commas."""
    return None if said is None else tuple(name.strip() for name in said.split(",") if name.strip())


def bounds(accounting: "Accounting", given: dict[str, Any]) -> dict[str, Any]:
    """What of the *given* says when: ``start``, ``stop`` and ``timezone``, taken out of it.

    Raises :class:`BadSpan`.
    """
    period, timezone = given.pop("period"), given.pop("timezone")
    start, stop = given.pop("start"), given.pop("stop")
    if timezone is not None:
        periods.zone(timezone)
    if period is None:
        first, last = (
            None if said is None else accounting.instant(said, timezone) for said in (start, stop)
        )
    elif start is None and stop is None:
        first, last = accounting.period(period, timezone)
    else:
        raise BadSpan("--period says both ends: --from and --to do not go with it")
    return {"start": first, "stop": last, "timezone": timezone}


def asked(accounting: "Accounting", given: dict[str, Any]) -> dict[str, Any]:
    """What was *given* with the options of this module, as the verbs take it.

    Raises :class:`BadSpan` and :class:`UnknownName`.
    """
    told = bounds(accounting, given)
    if "as_of" in given:
        said = given.pop("as_of")
        told["as_of"] = None if said is None else accounting.instant(said, told["timezone"])
    told["where"] = conditions(given.pop("where", ()))
    return {**told, **given}


def query_of(accounting: "Accounting", given: dict[str, Any]) -> "UsageQuery":
    """The question that was *given* with the options of this module. Raises as `asked`."""
    return accounting.query(**asked(accounting, given))


def as_of_option(function: F) -> F:
    """``--as-of``, as it is typed."""
    return click.option(
        "--as-of",
        metavar="TIME",
        help="Count jobs that have not ended, too, as of then: a time as for --from, or now.",
    )(function)


def conditions(said: tuple[str, ...]) -> dict[str, set[str]]:
    """The values that count, by key, of options like ``--where user=alice,bob``.

    Raises :class:`UnknownName`.
    """
    found: dict[str, set[str]] = {}
    for each in said:
        key, equals, values = each.partition("=")
        if not equals:
            raise UnknownName(f"--where {each}: KEY=VALUE was expected, like user=alice")
        found.setdefault(key.strip(), set()).update(values.split(","))
    return found


def where_option(function: F) -> F:
    """``--where``, as it is typed; see `conditions`."""
    return click.option(
        "--where",
        multiple=True,
        metavar="KEY=VALUE,...",
        help="Only what has one of these values; any key of --by. Several of them all hold.",
    )(function)


def metric_option(function: F) -> F:
    """``--metric``, as *metrics*."""
    return click.option(
        "--metric",
        "metrics",
        callback=names_of,
        metavar="NAME,...",
        help="Default: every metric.",
    )(function)


def jobs_argument(function: F) -> F:
    """Numbers of jobs, as *ids*; those of retired ones are below zero."""
    numbers = click.IntRange(-(2**62), 2**62)
    return click.argument("ids", nargs=-1, type=numbers, metavar="[JOB]...")(function)


def by_option(default: str) -> Callable[[F], F]:
    """``--by`` with this default."""
    return click.option(
        "--by",
        default=default,
        show_default=True,
        callback=names_of,
        metavar="KEY,...",
        help="Any key of oar-accounting usage --by.",
    )


def size_options(function: F) -> F:
    """``--size-metric`` and ``--size-bounds``; see `sizes_of`."""
    for option in (
        click.option(
            "--size-bounds",
            metavar="N,...",
            help="What each class of size begins with. Default: 1,2,5,9,65,257,513,1025.",
        ),
        click.option(
            "--size-metric",
            metavar="NAME",
            help="The metric that a job's size is how much it holds of. Default: resource.",
        ),
    ):
        function = option(function)
    return function


def sizes_of(given: dict[str, Any]) -> Sizes:
    """The classes of size that were *given*, taken out of it. Raises :class:`BadSpan`."""
    metric, bounds = given.pop("size_metric"), given.pop("size_bounds")
    numbers = DEFAULT_SIZES.bounds
    if bounds is not None:
        words = [word.strip() for word in bounds.split(",")]
        numbers = tuple(int(word) for word in words if word.isdecimal() and len(word) < 16)
        if len(numbers) != len(words):
            raise BadSpan(f"--size-bounds {bounds[:40]}: whole numbers with commas were expected")
    return Sizes(metric=metric or DEFAULT_SIZES.metric, bounds=numbers)


def bucket_option(default: str | None) -> Callable[[F], F]:
    """``--bucket`` with this default; see `bucket_of`."""
    return click.option(
        "--bucket",
        default=default,
        show_default=default is not None,
        metavar="LENGTH",
        help="hour, day, week, month, quarter, year, or how many seconds."
        + ("" if default else " Default: all at once."),
    )


def bucket_of(said: str | None) -> str | int | None:
    """A bucket as the verbs take it."""
    return int(said) if said is not None and said.isdecimal() and len(said) < 16 else said

"""Answers put together of others: who used most, efficiency, sizes, a project's page."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from datetime import tzinfo
from itertools import pairwise

from sqlalchemy import Connection

from oar_accounting.core import periods
from oar_accounting.core.columns import OPEN
from oar_accounting.errors import BadSpan
from oar_accounting.ledger.catalog import Site
from oar_accounting.reports.records import (
    Efficiency,
    ProjectMember,
    ProjectMonth,
    ProjectReport,
    Ranking,
    SizeUse,
)
from oar_accounting.usage.job_counts import Counts, count_jobs
from oar_accounting.usage.keys import Group
from oar_accounting.usage.query import count_open_jobs, usage
from oar_accounting.usage.records import ACCURACIES, ShownMetric, Usage, check_units
from oar_accounting.usage.result import UsageColumns
from oar_accounting.usage.usage_query import UsageQuery


def top(connection: Connection, own: Site, wanted: UsageQuery, first: int) -> Ranking:
    """The groups that used most of the one metric that is wanted, *first* of them.

    Raises as `query.usage`, and :class:`DifferentUnits`.
    """
    if first < 1:
        raise BadSpan(f"the first {first}: at least 1 was expected")
    found = usage(connection, own, wanted)
    rows = sorted(found.rows(), key=lambda row: (-row.used, row.group))
    check_units(row.shown_metric for row in rows)
    metric = rows[0].shown_metric if rows else found.metrics[0]
    return Ranking(
        by=wanted.by,
        metric=metric.name,
        unit=metric.unit,
        scale=metric.scale,
        rows=tuple(rows[:first]),
        others=len(rows[first:]),
        used_by_others=sum(row.used for row in rows[first:]),
        used=sum(row.used for row in rows),
        accuracies=frozenset(row.accuracy for row in rows),
        open_jobs=count_open_jobs(connection, own, wanted) if wanted.as_of is None else 0,
    )


def efficiency(connection: Connection, own: Site, wanted: UsageQuery) -> list[Efficiency]:
    """What jobs that ended within the span asked for and used, whole, sorted by group, metric."""
    ended = (
        -OPEN + 1 if wanted.start is None else wanted.start,
        OPEN if wanted.stop is None else wanted.stop,
    )
    whole = replace(wanted, start=None, stop=None, ended=ended, adjusted=False)
    counts = _of_all_sites(count_jobs(connection, own, whole))
    return [
        Efficiency(
            group=row.group,
            jobs=counts.get((row.group, row.shown_metric), 0),
            metric=row.metric,
            unit=row.unit,
            scale=row.scale,
            asked=row.asked,
            used=row.used,
            accuracy=row.accuracy,
        )
        for row in usage(connection, own, whole).rows()
    ]


def sizes(connection: Connection, own: Site, wanted: UsageQuery) -> list[SizeUse]:
    """What jobs of each class of size used, and how many they were; smallest first.

    What is of no job, as opening amounts, has no size and is left out.
    """
    counts = _of_all_sites(count_jobs(connection, own, wanted))
    return [
        SizeUse(
            group=row.group,
            jobs=counts.get((row.group, row.shown_metric), 0),
            metric=row.metric,
            unit=row.unit,
            scale=row.scale,
            used=row.used,
            accuracy=row.accuracy,
        )
        for row in usage(connection, own, wanted).rows()
        if row.group[-1] and row.used
    ]


def _of_all_sites(counts: Counts) -> dict[tuple[Group, ShownMetric], int]:
    """The counts of what has one bucket, which begins at each site when it likes."""
    found: dict[tuple[Group, ShownMetric], int] = {}
    for (_, group, metric), number in counts.items():
        found[group, metric] = found.get((group, metric), 0) + number
    return found


# -- a project ---------------------------------------------------------------------------------


def project(connection: Connection, own: Site, wanted: UsageQuery, name: str) -> ProjectReport:
    """The project's page, of the one metric and the months that are *wanted*."""
    assert wanted.start is not None and wanted.stop is not None
    zone = periods.zone(wanted.timezone)
    start, stop = wanted.start, wanted.stop
    first, last = (_year_before(at, zone) for at in (start, stop))
    before = replace(wanted, start=first, stop=last) if first < last else None
    now = usage(connection, own, wanted)
    cuts = periods.cuts(start, stop, "month", zone)
    used = _used_from(now, cuts)
    earlier: list[int] = []
    accuracies = {*now.accuracy.tolist()}
    if before is not None:
        then = usage(connection, own, before)
        accuracies |= {*then.accuracy.tolist()}
        earlier = _used_from(then, periods.cuts(first, last, "month", zone))
    # Both end with the same month; of a first one that is a 29th of February there is none before.
    earlier = [0] * (len(used) - len(earlier)) + earlier
    months = tuple(
        ProjectMonth(
            label=periods.label(begin, "month", zone),
            start=begin,
            stop=end,
            used=amount,
            before=amount_before,
        )
        for (begin, end), amount, amount_before in zip(pairwise(cuts), used, earlier, strict=True)
    )
    (metric,) = now.metrics
    return ProjectReport(
        project=name,
        metric=metric.name,
        unit=metric.unit,
        scale=metric.scale,
        start=start,
        stop=stop,
        timezone=wanted.timezone,
        as_of=wanted.as_of,
        months=months,
        members=tuple(_members(connection, own, wanted, before)),
        accuracies=frozenset(ACCURACIES[number] for number in accuracies),
    )


def _year_before(at: int, zone: tzinfo) -> int:
    """The same time a year before; of any on a 29th of February the begin of the 1st of March."""
    day = periods.label(at, "day", zone)
    if day.endswith("-02-29"):
        _, at = periods.period(day, zone, at)
    return periods.year_before(at, zone)


def _used_from(found: UsageColumns, cuts: Sequence[int]) -> list[int]:
    """What was used in each of the months between these bounds."""
    return [int(found.used[found.start == begin].sum()) for begin in cuts[:-1]]


def _members(
    connection: Connection, own: Site, wanted: UsageQuery, before: UsageQuery | None
) -> Iterator[ProjectMember]:
    """The members, the one who used most first; also who used something a year before only."""

    def by_user(months: UsageQuery) -> dict[Group, Usage]:
        found = usage(connection, own, replace(months, by=("user",), bucket=None))
        return {row.group: row for row in found.rows()}

    now, then = by_user(wanted), {} if before is None else by_user(before)
    whole = replace(wanted, by=("user",), bucket=None)
    counts = {
        group: n for (group, _), n in _of_all_sites(count_jobs(connection, own, whole)).items()
    }
    rows: list[tuple[Group, Usage | None, int]] = [
        (group, now.get(group), then[group].used if group in then else 0)
        for group in {**now, **then}
    ]
    for group, row, earlier in sorted(rows, key=_most_used):
        yield ProjectMember(
            user=group[0],
            jobs=counts.get(group, 0),
            asked=0 if row is None else row.asked,
            used=0 if row is None else row.used,
            before=earlier,
        )


def _most_used(row: tuple[Group, Usage | None, int]) -> tuple[int, int, Sequence[str]]:
    group, found, earlier = row
    return (0 if found is None else -found.used, -earlier, group)

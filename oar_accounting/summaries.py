"""Answers put together of others: efficiency, sizes, a project's page."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import pairwise

from sqlalchemy import Connection

from oar_accounting import periods
from oar_accounting.catalog import Site
from oar_accounting.columns import OPEN
from oar_accounting.groupings import Group
from oar_accounting.job_counts import Counts, count_jobs
from oar_accounting.queries import Wanted, usage
from oar_accounting.records import (
    Efficiency,
    ProjectMember,
    ProjectMonth,
    ProjectReport,
    SizeUse,
    Usage,
)
from oar_accounting.usage_columns import UsageColumns


def efficiency(connection: Connection, own: Site, wanted: Wanted) -> list[Efficiency]:
    """What jobs that ended within the span asked for and used, whole, sorted by group, metric."""
    ended = (
        -OPEN + 1 if wanted.start is None else wanted.start,
        OPEN if wanted.stop is None else wanted.stop,
    )
    whole = replace(wanted, start=None, stop=None, ended=ended, adjusted=False)
    counts = _by_group(count_jobs(connection, own, whole))
    return [
        Efficiency(
            group=row.group,
            jobs=counts.get(row.group, 0),
            metric=row.metric,
            unit=row.unit,
            scale=row.scale,
            asked=row.asked,
            used=row.used,
        )
        for row in usage(connection, own, whole).rows()
    ]


def sizes(connection: Connection, own: Site, wanted: Wanted) -> list[SizeUse]:
    """What jobs of each class of size used, and how many they were; smallest first.

    What is of no job, as opening amounts, has no size and is left out.
    """
    counts = _by_group(count_jobs(connection, own, wanted))
    return [
        SizeUse(
            group=row.group,
            jobs=counts.get(row.group, 0),
            metric=row.metric,
            unit=row.unit,
            scale=row.scale,
            used=row.used,
        )
        for row in usage(connection, own, wanted).rows()
        if row.group[-1] and row.used
    ]


def _by_group(counts: Counts) -> dict[Group, int]:
    found: dict[Group, int] = {}
    for (_, group), number in counts.items():
        found[group] = found.get(group, 0) + number
    return found


# -- a project ---------------------------------------------------------------------------------


def project(connection: Connection, own: Site, wanted: Wanted, name: str) -> ProjectReport:
    """The project's page, of the one metric and the months that are *wanted*."""
    assert wanted.start is not None and wanted.stop is not None
    zone = periods.zone(wanted.timezone)
    start, stop = wanted.start, wanted.stop
    before = replace(
        wanted, start=periods.year_before(start, zone), stop=periods.year_before(stop, zone)
    )
    now, then = (usage(connection, own, each) for each in (wanted, before))
    cuts = periods.cuts(start, stop, "month", zone)
    months = tuple(
        ProjectMonth(
            label=periods.label(begin, "month", zone),
            start=begin,
            stop=end,
            used=_used_from(now, begin),
            before=_used_from(then, periods.year_before(begin, zone)),
        )
        for begin, end in pairwise(cuts)
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
    )


def _used_from(found: UsageColumns, start: int) -> int:
    return int(found.used[found.start == start].sum())


def _members(
    connection: Connection, own: Site, wanted: Wanted, before: Wanted
) -> Iterator[ProjectMember]:
    """The members, the one who used most first; also who used something a year before only."""
    by_user = [replace(each, by=("user",), bucket=None) for each in (wanted, before)]
    now, then = ({r.group: r for r in usage(connection, own, e).rows()} for e in by_user)
    counts = _by_group(count_jobs(connection, own, by_user[0]))
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

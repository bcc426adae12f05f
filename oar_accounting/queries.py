"""Answers about what is recorded: who used how much of what, when.

SQL groups by account and metric and sums whole numbers; names are put to them here, so that two
names are one only where every byte is equal, on every database.
"""

from collections.abc import Mapping, Sequence

from sqlalchemy import Connection, select

from oar_accounting import bulk, formats, schema
from oar_accounting.catalog import Accounts, Site, stored_metrics
from oar_accounting.errors import BadSpan, UnknownName
from oar_accounting.metrics import Metric
from oar_accounting.recorded import open_jobs
from oar_accounting.records import Usage, UsageReport

DIMENSIONS = ("user", "project", "queue")

#: Shown for an account that somebody has deleted by hand.
NAMELESS = ("?", "?", "?", "?")


def grouping_keys(site: Site) -> tuple[str, ...]:
    """What usage can be grouped by: the last is the site's dimension property."""
    return (*DIMENSIONS, site.terms.dimension or "cluster")


def usage(  # noqa: PLR0913 - one question
    connection: Connection,
    site: Site,
    by: Sequence[str],
    metrics: Sequence[str] | None,
    start: int | None,
    stop: int | None,
) -> UsageReport:
    """What closed jobs asked for and used within ``[start, stop)``, on bounds of windows.

    No metrics are all that are complete. Raises :class:`UnknownName` and :class:`BadSpan`.
    """
    columns = _columns(by, grouping_keys(site))
    _check_span(start, stop, site.terms.window)
    shown = {
        stored.metric_id: stored.metric
        for stored in stored_metrics(connection, site.site_id)
        if stored.state == schema.ACTIVE
    }
    wanted = _wanted(metrics, {metric.name: key for key, metric in shown.items()})
    table = schema.totals.c
    sums = [bulk.exact_sum(connection, column) for column in (table.asked, table.used)]
    query = select(table.account_id, table.metric_id, *sums[0], *sums[1]).where(
        table.metric_id.in_(wanted)
    )
    if start is not None:
        query = query.where(table.window_start >= start)
    if stop is not None:
        query = query.where(table.window_start < stop)
    accounts = Accounts(site.site_id)
    accounts.refresh(connection)
    names = accounts.names()
    amounts: dict[tuple[tuple[str, ...], int], tuple[int, int]] = {}
    for account_id, metric_id, *parts in connection.execute(
        query.group_by(table.account_id, table.metric_id)
    ):
        half = len(parts) // 2
        group = tuple(names.get(account_id, NAMELESS)[column] for column in columns)
        asked, used = amounts.get((group, metric_id), (0, 0))
        amounts[group, metric_id] = (
            asked + bulk.whole_sum(parts[:half]),
            used + bulk.whole_sum(parts[half:]),
        )
    order = {metric_id: place for place, metric_id in enumerate(wanted)}
    return UsageReport(
        by=tuple(by),
        start=start,
        stop=stop,
        rows=_rows(amounts, shown, order),
        open_jobs=open_jobs(connection, site.site_id),
    )


def _rows(
    amounts: Mapping[tuple[tuple[str, ...], int], tuple[int, int]],
    shown: Mapping[int, Metric],
    order: Mapping[int, int],
) -> tuple[Usage, ...]:
    """The amounts by group, and within it by the order of the metrics."""
    rows = sorted(amounts.items(), key=lambda item: (item[0][0], order[item[0][1]]))
    return tuple(
        Usage(
            group=group,
            metric=shown[metric_id].name,
            unit=shown[metric_id].unit,
            scale=shown[metric_id].scale,
            asked=asked,
            used=used,
        )
        for (group, metric_id), (asked, used) in rows
    )


def _columns(by: Sequence[str], known: tuple[str, ...]) -> list[int]:
    for key in by:
        if key not in known:
            raise UnknownName(f"unknown grouping key {key!r}; known keys are {', '.join(known)}")
    return [known.index(key) for key in by]


def _wanted(metrics: Sequence[str] | None, known: dict[str, int]) -> list[int]:
    if metrics is None:
        return list(known.values())
    for name in metrics:
        if name not in known:
            raise UnknownName(f"unknown metric {name!r}; recorded are {', '.join(known) or 'none'}")
    return [known[name] for name in dict.fromkeys(metrics)]


def _check_span(start: int | None, stop: int | None, window: int) -> None:
    for name, instant in (("start", start), ("stop", stop)):
        if instant is not None and instant % window:
            before = instant // window * window
            raise BadSpan(
                f"{name} {instant} ({formats.date(instant)} UTC) is not on a bound of windows of "
                f"{window} s; the nearest are {before} ({formats.date(before)}) and "
                f"{before + window} ({formats.date(before + window)})"
            )
    if start is not None and stop is not None and stop <= start:
        raise BadSpan(f"the span from {start} to {stop} is empty")

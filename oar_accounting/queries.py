"""Answers about what is recorded: who used how much of what, when.

SQL sums by account and metric; names are put to them here, so that two names are one only where
every byte is equal, on every database.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict

from sqlalchemy import Connection

from oar_accounting import formats, schema
from oar_accounting.amounts import ALWAYS, Group, Question, amounts_of_groups
from oar_accounting.catalog import Accounts, Site, stored_metrics
from oar_accounting.errors import BadSpan, UnknownName
from oar_accounting.groupings import find_key, stays
from oar_accounting.metrics import Metric
from oar_accounting.recorded import open_jobs
from oar_accounting.records import Amounts, Usage, UsageReport

#: Shown for an account that somebody has deleted by hand.
NAMELESS = "?"


def usage(  # noqa: PLR0913 - one question
    connection: Connection,
    site: Site,
    by: Sequence[str],
    metrics: Sequence[str] | None,
    start: int | None,
    stop: int | None,
    *,
    adjusted: bool,
) -> UsageReport:
    """What closed jobs asked for and used within ``[start, stop)``, on bounds of windows.

    No metrics are all that are complete; where not *adjusted*, adjustments are left out. Raises
    :class:`UnknownName` and :class:`BadSpan`.
    """
    by = tuple(dict.fromkeys(by))
    keys = [find_key(connection, site, name) for name in by]
    _check_span(start, stop, site.terms.window)
    shown = {
        stored.metric_id: stored.metric
        for stored in stored_metrics(connection, site.site_id)
        if stored.state == schema.ACTIVE
    }
    wanted = _wanted(metrics, {metric.name: key for key, metric in shown.items()})
    begin, end = (ALWAYS[0] if start is None else start, ALWAYS[1] if stop is None else stop)
    accounts = Accounts(site.site_id)
    accounts.refresh(connection)
    question = Question(
        site=site,
        metrics=wanted,
        start=begin,
        stop=end,
        stays={
            account_id: stays(keys, names, begin, end)
            for account_id, names in accounts.names().items()
        },
        nameless=tuple(NAMELESS for _ in by),
        adjusted=adjusted,
    )
    order = {metric_id: place for place, metric_id in enumerate(wanted)}
    return UsageReport(
        by=by,
        start=start,
        stop=stop,
        rows=_rows(amounts_of_groups(connection, question), shown, order),
        open_jobs=open_jobs(connection, site.site_id),
    )


def _rows(
    amounts: Mapping[tuple[Group, int], Amounts],
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
            **asdict(each),
        )
        for (group, metric_id), each in rows
    )


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

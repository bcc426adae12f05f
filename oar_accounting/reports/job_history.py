"""One job over time: when it asked for and used what it held, and how much that was."""

from collections.abc import Iterator
from itertools import pairwise

from sqlalchemy import Connection

from oar_accounting.core.columns import OPEN, Rates, Spans, ints
from oar_accounting.ledger.catalog import Site, StoredMetric, account_names
from oar_accounting.ledger.reading import read_rates, read_spans
from oar_accounting.reports.records import JobHistory, JobPart, JobSpan, RecordedJob
from oar_accounting.usage.query import shown_metrics, wanted_metrics

#: Account, metric: what rates follow each other of.
_Holder = tuple[int, int]


def history(
    connection: Connection, site: Site, job: RecordedJob, metrics: tuple[str, ...] | None
) -> JobHistory:
    """The history of a recorded job, in these metrics, or in all.

    Raises :class:`oar_accounting.UnknownName`.
    """
    block = ints([job.job_id])
    spans = sorted(_spans(read_spans(connection, site.site_id, block)), key=_in_time)
    shown = shown_metrics(connection, site)
    wanted = {shown[name].metric_id: shown[name] for name in wanted_metrics(metrics, shown)}
    places = {number: names[3] for number, names in account_names(connection, site.site_id).items()}
    rates = read_rates(connection, site.site_id, block)
    began = min((each.start for each in spans), default=OPEN)
    parts = [
        _part(wanted[metric], places[account], max(start, began), stop, *rate)
        for (account, metric), start, stop, rate in _held(rates)
        if metric in wanted and any(rate)
    ]
    order = {stored.metric.name: nth for nth, stored in enumerate(wanted.values())}
    parts.sort(key=lambda part: (part.start, part.value, order[part.metric]))
    return JobHistory(job=job, spans=tuple(spans), parts=tuple(parts))


def _spans(found: Spans) -> Iterator[JobSpan]:
    columns = (found.asked, found.start_time, found.stop_time)
    for asked, start, stop in zip(*(column.tolist() for column in columns), strict=True):
        yield JobSpan(
            kind="asked" if asked else "used", start=start, stop=None if stop == OPEN else stop
        )


def _in_time(span: JobSpan) -> tuple[str, int]:
    return span.kind, span.start


def _held(rates: Rates) -> Iterator[tuple[_Holder, int, int, tuple[int, int]]]:
    """Of which account and metric, from when until when, asked and used each second."""
    rows: dict[_Holder, list[tuple[int, int, int]]] = {}
    columns = (rates.account_id, rates.metric_id, rates.start_time, rates.asked, rates.used)
    for account, metric, *row in zip(*(column.tolist() for column in columns), strict=True):
        rows.setdefault((account, metric), []).append((row[0], row[1], row[2]))
    for holder, own in rows.items():
        for (start, asked, used), (stop, _, _) in pairwise([*sorted(own), (OPEN, 0, 0)]):
            yield holder, start, stop, (asked, used)


def _part(  # noqa: PLR0913 - a row
    stored: StoredMetric, value: str, start: int, stop: int, asked: int, used: int
) -> JobPart:
    metric = stored.metric
    return JobPart(
        metric=metric.name,
        unit=metric.held_unit,
        scale=metric.scale,
        value=value,
        start=start,
        stop=None if stop == OPEN else stop,
        asked=asked,
        used=used,
    )

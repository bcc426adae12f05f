"""What jobs asked for and used, as OAR tells it: how much each second, and when.

A pass posts this; karma counts it for jobs that no pass has posted yet. There is one function for
both, so that karma cannot contradict the ledger.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from oar_accounting.core.columns import Bools, JobRows, Rates, Spans, ints
from oar_accounting.core.problems import Code, Trouble, coded, of_metric
from oar_accounting.core.windows import too_large, too_long
from oar_accounting.ledger.catalog import StoredMetric
from oar_accounting.ledger.ledger import Book
from oar_accounting.oar.job_rules import (
    Terms,
    impossible,
    phases,
    spans_of,
)
from oar_accounting.oar.snapshot import Snapshot
from oar_accounting.recording.held.allocations import Holder, Holdings, Types


@dataclass(frozen=True, slots=True, kw_only=True)
class HeldByJobs:
    """How much some jobs hold each second."""

    types: Types  #: of all the jobs
    holders: JobRows  #: those of them that may hold something
    held: Holdings


@dataclass(frozen=True, slots=True, kw_only=True)
class Timed:
    """When jobs asked and used."""

    spans: Spans
    rates: Rates  #: what the jobs hold, but for what is too large to be recorded
    trouble: dict[int, Trouble]  #: jobs that are left out, in whole or in a metric, and why


def held_by_jobs(  # noqa: PLR0913 - one reading
    holder: Holder,
    snapshot: Snapshot,
    book: Book,
    rows: JobRows,
    metrics: Sequence[StoredMetric],
    *,
    if_any: bool,
) -> HeldByJobs:
    """How much the jobs hold each second of these metrics; those that hold nothing are left out.

    OAR's resources are read *if_any* job may hold something, else always: what is wrong with them
    is then noticed before a job needs them.
    """
    terms = book.site.terms
    types = snapshot.types(rows.job_id) if len(rows) else {}
    where = phases(rows, terms)
    entitled = (where.holding | where.closed) & (rows.moldable > 0)
    holders = rows.take(entitled & ~_never_ran(snapshot, terms, rows, entitled & where.closed))
    if if_any and not len(holders):
        held = Holdings(Rates.concat([]), *(ints([]) for _ in range(4)))
    else:
        held = holder.holdings(snapshot, book, holders, metrics, types)
    return HeldByJobs(types=types, holders=holders, held=held)


def _never_ran(snapshot: Snapshot, terms: Terms, rows: JobRows, ended: Bools) -> Bools:
    """Those of the jobs that have *ended* that OAR gave up before they ran.

    A job in which no second passed asked for nothing anyway: OAR's logs are read for others only.
    """
    meant = ended & (rows.stop_time > rows.start_time)
    if terms.profile == "classic" or not meant.any():
        return np.zeros(len(rows), np.bool_)
    return meant & np.isin(rows.job_id, snapshot.never_ran(rows.job_id))


def timed(  # noqa: PLR0913 - one reading
    snapshot: Snapshot,
    terms: Terms,
    holders: JobRows,
    held: Holdings,
    metrics: Sequence[StoredMetric],
    until: int | None = None,
) -> Timed:
    """When those of the *holders* asked and used that hold something that counts.

    *until*: epoch seconds; of what was used, only what lies before it. What was asked for counts
    whole.
    """
    holders = holders.take(np.isin(holders.job_id, held.counting))
    trouble = coded(Code.IMPOSSIBLE_TIMES, impossible(holders, phases(holders, terms)))
    holders = holders.take(~np.isin(holders.job_id, ints(list(trouble))))
    if not len(holders):
        return Timed(spans=Spans.concat([]), rates=held.rates, trouble=trouble)
    spans = spans_of(holders, snapshot.pauses(holders.job_id), terms)
    if until is not None:
        spans = _before(spans, until)
    trouble |= coded(Code.TOO_LARGE, too_long(spans, terms.window))
    spans = spans.take(~np.isin(spans.job_id, ints(list(trouble))))
    rates, beyond = fitting(spans, held.rates, metrics)
    return Timed(spans=spans, rates=rates, trouble=trouble | beyond)


def fitting(
    spans: Spans, rates: Rates, metrics: Sequence[StoredMetric]
) -> tuple[Rates, dict[int, Trouble]]:
    """The rates without those of jobs whose amounts are too large in a metric, and these jobs."""
    found = too_large(spans, rates)
    if not found:
        return rates, {}
    names = {each.metric_id: each.metric.name for each in metrics}
    reasons: dict[int, str] = {}
    for (job, metric), said in found.items():
        line = of_metric(names[metric], f"{said}; counted as nothing")
        reasons[job] = f"{reasons[job]}\n{line}" if job in reasons else line
    pairs = zip(rates.job_id.tolist(), rates.metric_id.tolist(), strict=True)
    fits = np.array([pair not in found for pair in pairs], np.bool_)
    return rates.take(fits), coded(Code.TOO_LARGE, reasons)


def _before(spans: Spans, until: int) -> Spans:
    """What lies before *until* of what was used; what was asked, as a whole, by jobs begun then."""
    stop = np.where(spans.asked == 0, np.minimum(spans.stop_time, until), spans.stop_time)
    cut = Spans(spans.job_id, spans.asked, spans.start_time, stop)
    return cut.take((cut.stop_time > cut.start_time) & (cut.start_time < until))

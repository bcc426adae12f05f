"""How far what is asked about is recorded: the last pass, and open jobs past their walltime.

Only our own tables are looked at, so that a report needs no OAR. What is read here before an answer
is true of the answer, too: a pass that comes between the two only adds.
"""

import numpy as np
from sqlalchemy import Connection, and_

from oar_accounting.core.columns import Ints, Spans, ints
from oar_accounting.core.lengths import LATE
from oar_accounting.ledger import schema
from oar_accounting.ledger.catalog import Site
from oar_accounting.ledger.reading import jobs_where, read_spans
from oar_accounting.oar.job_rules import PAUSED, RUNNING
from oar_accounting.usage.from_jobs import read_held
from oar_accounting.usage.keys import SITE
from oar_accounting.usage.ledger_query import LedgerQuery
from oar_accounting.usage.query import SiteQuery, sites_of
from oar_accounting.usage.records import Coverage
from oar_accounting.usage.usage_query import UsageQuery


def coverage(connection: Connection, own: Site, wanted: UsageQuery, now: int) -> Coverage:
    """How far the span that is asked about is recorded, at the instant *now*.

    Raises :class:`oar_accounting.UnknownName` and :class:`oar_accounting.BadSpan`.
    """
    sites = sites_of(connection, own, wanted)
    passes = [site.last_pass for site in sites if site.last_pass is not None]
    return Coverage(
        start=wanted.start,
        stop=wanted.stop,
        timezone=wanted.timezone,
        as_of=wanted.as_of,
        now=now,
        recorded_until=min(passes) if passes and len(passes) == len(sites) else None,
        overdue_jobs=sum(len(_overdue(connection, site, wanted, now)) for site in sites),
    )


def _overdue(connection: Connection, site: Site, wanted: UsageQuery, now: int) -> Ints:
    """The jobs that have not ended in the ledger, and held what they have beyond their walltime."""
    question = None
    if {*wanted.where} - {SITE} or wanted.visible_to is not None:
        question = SiteQuery.of(connection, site, wanted).question
    # Open jobs count up to here, or not at all: they should have ended by now.
    bounds = [each for each in (wanted.as_of, wanted.stop) if each is not None]
    by = now if wanted.as_of is None else min(bounds)
    job = schema.jobs.c
    chosen = [
        job.unsettled == 1,
        job.closed == schema.OPEN_JOB,
        job.state.in_([state for state in RUNNING if state not in PAUSED]),
        job.start_time > 1,
        job.start_time + job.walltime < by - LATE,
        *([] if wanted.stop is None else [job.start_time < wanted.stop]),
        *([] if question is None else question.job_conditions),
    ]
    found = jobs_where(connection, site.site_id, and_(*chosen))
    spans = _spans(connection, site, question, found.job_id)
    ids, length = _held_for(spans, by)
    walltime = found.walltime[np.searchsorted(found.job_id, ids)]
    overdue: Ints = ids[length > walltime + LATE]
    return overdue


def _spans(connection: Connection, site: Site, question: LedgerQuery | None, ids: Ints) -> Spans:
    """When the jobs ran, of those that hold something of what is asked for."""
    if not len(ids):
        return Spans.concat([])
    if question is not None:
        return read_held(connection, question, ids)[0]
    spans = read_spans(connection, site.site_id, ids)
    return spans.take(np.isin(spans.job_id, ids))


def _held_for(spans: Spans, by: int) -> tuple[Ints, Ints]:
    """The jobs, ascending, and for how many seconds each held what it has by an instant."""
    used = spans.take(spans.asked == 0)
    ids, at = np.unique(used.job_id, return_inverse=True)
    length = ints(np.zeros(len(ids), np.int64))
    np.add.at(length, at, np.maximum(np.minimum(used.stop_time, by) - used.start_time, 0))
    return ids, length

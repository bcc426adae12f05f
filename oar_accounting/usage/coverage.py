"""How far what is asked about is recorded: the last pass, and open jobs past their walltime.

Only our own tables are looked at, so that a report needs no OAR. What is read here before an answer
is true of the answer, too: a pass that comes between the two only adds.
"""

import numpy as np
from sqlalchemy import Connection, and_, select

from oar_accounting.core.columns import OPEN, Ints
from oar_accounting.core.lengths import LATE
from oar_accounting.core.windows import seconds_used
from oar_accounting.ledger import schema
from oar_accounting.ledger.catalog import Site
from oar_accounting.ledger.reading import jobs_where, known_jobs, read_spans
from oar_accounting.oar.job_rules import PAUSED, RUNNING
from oar_accounting.usage.from_jobs import open_ids, read_held
from oar_accounting.usage.keys import SITE
from oar_accounting.usage.purged_jobs import unknown_jobs
from oar_accounting.usage.query import SiteQuery, sites_of
from oar_accounting.usage.records import Coverage
from oar_accounting.usage.usage_query import UsageQuery


def coverage(
    connection: Connection, own: Site, wanted: UsageQuery, now: int, *, of_jobs: bool = False
) -> Coverage:
    """How far the span that is asked about is recorded, at the instant *now*.

    *of_jobs*: it is asked what single jobs did, whether or not the keys say so.

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
        grace=min((g for site in sites if (g := site.terms.grace) is not None), default=None),
        lost_jobs=sum(
            _lost(connection, site, wanted) for site in sites if of_jobs or wanted.keys_of_jobs()
        ),
        begins_in_purged=not (of_jobs or wanted.keys_of_jobs())
        and any(_begins_in_purged(connection, site, wanted.start) for site in sites),
    )


def _begins_in_purged(connection: Connection, site: Site, start: int | None) -> bool:
    """True where a span from *start* on begins within a window in which purged jobs used something.

    Of single jobs the day is known, and has its share in what a bound cuts.
    """
    if start is None or site.purged_before is None:
        return False
    table = schema.entries.c
    query = select(table.window_start).where(
        table.site_id == site.site_id,
        table.job_id == schema.CARRIED,
        table.window_start.between(start - site.terms.window + 1, start - 1),
    )
    return connection.execute(query.limit(1)).first() is not None


def _lost(connection: Connection, site: Site, wanted: UsageQuery) -> int:
    """How many of the jobs that are asked about ran and are known by totals only."""
    start = -OPEN if wanted.start is None else wanted.start
    stop = OPEN if wanted.stop is None else wanted.stop
    if site.purged_before is None or start >= site.purged_before:
        return 0
    site_query = SiteQuery.of(connection, site, wanted)
    owners = site_query.accounts.owners()
    job = schema.jobs.c
    ran = [job.start_time > 1, job.start_time < stop, job.stop_time > job.start_time]
    conditions = (*ran, job.stop_time >= start, *site_query.question.job_conditions)
    # A job touches no instant at which it ends.
    blocks = unknown_jobs(connection, site, max(start - 1, -OPEN), stop, *conditions)
    if owners is None:
        return sum(map(len, blocks))
    every = (known_jobs(connection, site.site_id, block).account_id for block in blocks)
    return sum(int(np.isin(account_id, owners).sum()) for account_id in every)


def _overdue(connection: Connection, site: Site, wanted: UsageQuery, now: int) -> Ints:
    """The open jobs of those that are asked about that should have ended, ascending."""
    found = _past_walltime(connection, site, wanted, now)
    everybody = not {*wanted.where} - {SITE} and wanted.visible_to is None
    if everybody or not len(found):
        return found
    question = SiteQuery.of(connection, site, wanted).question
    among = np.intersect1d(found, open_ids(connection, question))
    _, rates = read_held(connection, question, among)
    return np.unique(rates.job_id)


def _past_walltime(connection: Connection, site: Site, wanted: UsageQuery, now: int) -> Ints:
    """The open jobs that held what they have beyond their walltime, and `LATE` more.

    Where a grace bounds what counts of them, they are past it as soon as it is used up.
    """
    late = LATE if site.terms.grace is None else min(LATE, site.terms.grace - 1)
    # Where open jobs count, they do so up to here: by then these should have ended.
    counted_to = [each for each in (wanted.as_of, wanted.stop) if each is not None]
    by = now if wanted.as_of is None else min(counted_to)
    job = schema.jobs.c
    begun = [] if wanted.stop is None else [job.start_time < wanted.stop]
    found = jobs_where(
        connection,
        site.site_id,
        and_(
            job.unsettled == 1,
            job.closed == schema.OPEN_JOB,
            job.state.in_([state for state in RUNNING if state not in PAUSED]),
            job.start_time > 1,
            # Of a walltime of 0 it is not known what it is.
            job.walltime > 0,
            job.start_time + job.walltime < by - late,
            *begun,
        ),
    )
    spans = read_spans(connection, site.site_id, found.job_id)
    ids, held = seconds_used(spans.take(np.isin(spans.job_id, found.job_id)), by)
    past: Ints = ids[held > found.walltime[np.searchsorted(found.job_id, ids)] + late]
    return past

"""How many jobs used something, by bucket of time, group and metric."""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Self

import numpy as np
from sqlalchemy import Connection

from oar_accounting.core.columns import Columns, Ints, Spans, repeated
from oar_accounting.core.parts import constant
from oar_accounting.core.windows import spread_between
from oar_accounting.ledger import schema
from oar_accounting.ledger.catalog import Site
from oar_accounting.ledger.purged import day_length
from oar_accounting.ledger.reading import Entries, read_entries
from oar_accounting.usage.from_jobs import closed_jobs, open_ids, read_held, until
from oar_accounting.usage.job_amounts import JobRates
from oar_accounting.usage.keys import Group
from oar_accounting.usage.ledger_query import LedgerQuery
from oar_accounting.usage.prorated import Laid
from oar_accounting.usage.purged_jobs import purged_rows
from oar_accounting.usage.query import SiteQuery, shown_metric, sites_of
from oar_accounting.usage.records import ShownMetric
from oar_accounting.usage.usage_query import UsageQuery

#: How many jobs used something of a metric in a bucket, by its start, as members of a group.
Counts = Counter[tuple[int, Group, ShownMetric]]


def count_jobs(connection: Connection, own: Site, wanted: UsageQuery) -> Counts:
    """The jobs that used something, by each metric; one that is in two groups, in both.

    Raises as `query.usage`.
    """
    counts: Counts = Counter()
    for site in sites_of(connection, own, wanted):
        site_query = SiteQuery.of(connection, site, wanted)
        for spans, rates, entries in _held(connection, site_query):
            uses = _Uses.concat(
                [_of_rates(site_query, spans, rates), _of_entries(site_query, entries)]
            )
            counts.update(_counted(site_query, uses))
        for uses in _of_purged(connection, site_query):
            counts.update(_counted(site_query, uses))
    return counts


@dataclass(frozen=True, slots=True)
class _Uses(Columns):
    """That a job used something of a metric in a part, on an account."""

    part: Ints
    account_id: Ints
    job_key: Ints
    metric_id: Ints
    job_id: Ints

    @classmethod
    def of_laid(cls, question: LedgerQuery, job_id: Ints, laid: Laid) -> Self:
        """Those of amounts that lie evenly over spans, as far as they are asked for."""
        key, chosen = question.told_apart(job_id, laid.account_id)
        chosen &= laid.used > 0
        job_id, key, laid = job_id[chosen], key[chosen], laid.take(chosen)
        stop = laid.stop if question.as_of is None else np.minimum(laid.stop, question.as_of)
        cuts = question.cuts
        pieces = spread_between(laid.start, stop, cuts[:-1], cuts[1:])
        row = pieces.row
        return cls(pieces.number, laid.account_id[row], key[row], laid.metric_id[row], job_id[row])


def _of_purged(connection: Connection, site_query: SiteQuery) -> Iterator[_Uses]:
    """What purged jobs used, some jobs at a time."""
    question = site_query.question
    length = day_length(connection, question.site.site_id)
    for rows in purged_rows(connection, question, length) if length else ():
        yield _Uses.of_laid(question, *rows.used_up(length))


def _of_entries(site_query: SiteQuery, entries: Entries) -> _Uses:
    """What was measured that jobs used."""
    question = site_query.question
    window = question.site.terms.window
    entries = entries.take(np.isin(entries.metric_id, question.metrics))
    start = entries.window_start // window * window
    amounts = (entries.asked, entries.used)
    laid = Laid(entries.account_id, entries.metric_id, start, start + window, *amounts)
    return _Uses.of_laid(question, entries.job_id, laid)


def _held(
    connection: Connection, site_query: SiteQuery
) -> Iterator[tuple[Spans, JobRates, Entries]]:
    """Spans, rates and measured amounts of the jobs that are asked for, some at a time."""
    question = site_query.question
    # What was measured may be of the window before a job began, or of the one after it ended.
    window = question.site.terms.window
    for block in closed_jobs(connection, question, question.start - window, question.stop + window):
        spans, rates = read_held(connection, question, block)
        of_jobs = block[block != schema.CARRIED]
        entries = read_entries(connection, question.site.site_id, of_jobs)
        yield spans if question.as_of is None else until(spans, question.as_of), rates, entries
    if question.as_of is not None:
        spans, rates = read_held(connection, question, open_ids(connection, question))
        yield until(spans, question.as_of), rates, Entries.concat([])


def _of_rates(site_query: SiteQuery, spans: Spans, rates: JobRates) -> _Uses:
    """What these jobs used of what they held."""
    owner, account_id, job_key = rates.owners()
    parts = constant(spans.take(spans.asked == 0), rates.keyed(owner))
    cuts, used = site_query.question.cuts, parts.spans
    pieces = spread_between(used.start_time, used.stop_time, cuts[:-1], cuts[1:])
    held = parts.rates.take(parts.rates.used > 0)
    held = held.take(np.argsort(held.job_id, kind="stable"))
    part_id = used.job_id[pieces.row]
    first = np.searchsorted(held.job_id, part_id, "left")
    row, nth = repeated(np.searchsorted(held.job_id, part_id, "right") - first)
    rate = first[row] + nth
    key = held.key[rate]
    return _Uses(
        pieces.number[row],
        account_id[key],
        job_key[key],
        held.metric_id[rate],
        parts.jobs(part_id[row]),
    )


def _counted(site_query: SiteQuery, uses: _Uses) -> Counts:
    """How many jobs they are, by bucket, group and metric."""
    number, groups = site_query.groups_of(uses.account_id, uses.job_key, uses.part)
    rows = np.stack([site_query.bucket_of(uses.part), number, uses.metric_id, uses.job_id])
    # A job that holds something in two accounts of a group is one of its jobs.
    jobs = np.unique(rows[:, number >= 0], axis=1)
    met, counts = np.unique(jobs[:3], axis=1, return_counts=True)
    metrics = {stored.metric_id: shown_metric(stored) for stored in site_query.metrics}
    starts = site_query.buckets
    found: Counts = Counter()
    for (bucket, group, metric), count in zip(met.T.tolist(), counts.tolist(), strict=True):
        found[int(starts[bucket]), groups[group], metrics[metric]] = count
    return found

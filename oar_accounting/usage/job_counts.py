"""How many jobs used something, by bucket of time, group and metric."""

from collections import Counter
from collections.abc import Iterator

import numpy as np
from sqlalchemy import Connection

from oar_accounting.core.columns import Ints, Spans, repeated
from oar_accounting.core.parts import constant
from oar_accounting.core.windows import spread_between
from oar_accounting.ledger.catalog import Site
from oar_accounting.usage.from_jobs import closed_jobs, open_ids, read_held, until
from oar_accounting.usage.job_amounts import JobRates
from oar_accounting.usage.keys import Group
from oar_accounting.usage.query import SiteQuery, shown_metric, sites_of
from oar_accounting.usage.records import ShownMetric
from oar_accounting.usage.usage_query import UsageQuery

#: How many jobs used something of a metric in a bucket, by its start, as members of a group.
Counts = Counter[tuple[int, Group, ShownMetric]]


def count_jobs(connection: Connection, own: Site, wanted: UsageQuery) -> Counts:
    """The jobs that used something, by each metric; one that is in two groups, in both.

    Purged jobs are not known any more. Raises as `query.usage`.
    """
    counts: Counts = Counter()
    for site in sites_of(connection, own, wanted):
        site_query = SiteQuery.of(connection, site, wanted)
        for spans, rates in _held(connection, site_query):
            counts.update(_met(site_query, spans, rates))
    return counts


def _held(connection: Connection, site_query: SiteQuery) -> Iterator[tuple[Spans, JobRates]]:
    """Spans and rates of the jobs that are asked for, some at a time."""
    question = site_query.question
    for block in closed_jobs(connection, question, question.start, question.stop):
        spans, rates = read_held(connection, question, block)
        yield spans if question.as_of is None else until(spans, question.as_of), rates
    if question.as_of is not None:
        spans, rates = read_held(connection, question, open_ids(connection, question))
        yield until(spans, question.as_of), rates


def _met(site_query: SiteQuery, spans: Spans, rates: JobRates) -> Counts:
    """The jobs among these by bucket, group and metric."""
    owner, account_id, job_key = rates.owners()
    parts = constant(spans.take(spans.asked == 0), rates.keyed(owner))
    cuts, used = site_query.question.cuts, parts.spans
    pieces = spread_between(used.start_time, used.stop_time, cuts[:-1], cuts[1:])
    held = parts.rates.take(parts.rates.used > 0)
    held = held.take(np.argsort(held.job_id, kind="stable"))
    part_id = used.job_id[pieces.row]
    first = np.searchsorted(held.job_id, part_id, "left")
    row, nth = repeated(np.searchsorted(held.job_id, part_id, "right") - first)
    part: Ints = pieces.number[row]
    rate = first[row] + nth
    key = held.key[rate]
    number, groups = site_query.groups_of(account_id[key], job_key[key], part)
    job_id = parts.jobs(part_id[row])
    rows = np.stack([site_query.bucket_of(part), number, held.metric_id[rate], job_id])
    # A job that holds something in two accounts of a group is one of its jobs.
    jobs = np.unique(rows[:, number >= 0], axis=1)
    met, counts = np.unique(jobs[:3], axis=1, return_counts=True)
    metrics = {stored.metric_id: shown_metric(stored) for stored in site_query.metrics}
    starts = site_query.buckets
    found: Counts = Counter()
    for (bucket, group, metric), count in zip(met.T.tolist(), counts.tolist(), strict=True):
        found[int(starts[bucket]), groups[group], metrics[metric]] = count
    return found

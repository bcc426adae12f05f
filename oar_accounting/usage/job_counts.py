"""How many jobs used something, by bucket of time, group and metric."""

from collections import Counter
from collections.abc import Iterator

import numpy as np
from sqlalchemy import Connection

from oar_accounting.core.columns import Ints, Rates, Spans
from oar_accounting.core.windows import repeated, spread_between
from oar_accounting.ledger.catalog import Site
from oar_accounting.usage.from_jobs import closed_jobs, open_ids, read_held, until
from oar_accounting.usage.keys import Group
from oar_accounting.usage.query import SiteQuestion, shown_metric, sites_of
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
        question = SiteQuestion.of(connection, site, wanted)
        for spans, rates in _held(connection, question):
            counts.update(_met(question, spans, rates))
    return counts


def _held(connection: Connection, question: SiteQuestion) -> Iterator[tuple[Spans, Rates]]:
    """Spans and rates of the jobs that are asked for, some at a time."""
    asked = question.asked
    for block in closed_jobs(connection, asked, asked.start, asked.stop):
        spans, rates = read_held(connection, asked, block)
        yield spans if asked.as_of is None else until(spans, asked.as_of), rates
    if asked.as_of is not None:
        spans, rates = read_held(connection, asked, open_ids(connection, asked))
        yield until(spans, asked.as_of), rates


def _met(question: SiteQuestion, spans: Spans, rates: Rates) -> Counts:
    """The jobs among these by bucket, group and metric."""
    used = spans.take(spans.asked == 0)
    cuts = question.asked.cuts
    pieces = spread_between(used.start_time, used.stop_time, cuts[:-1], cuts[1:])
    rates = rates.take(rates.used > 0)
    rates = rates.take(np.argsort(rates.job_id, kind="stable"))
    job_id = used.job_id[pieces.row]
    first = np.searchsorted(rates.job_id, job_id, "left")
    row, nth = repeated(np.searchsorted(rates.job_id, job_id, "right") - first)
    part: Ints = pieces.window_start[row]
    rate = first[row] + nth
    number, groups = question.groups_of(rates.account_id[rate], part)
    rows = np.stack([question.bucket_of(part), number, rates.metric_id[rate], job_id[row]])
    # A job that holds something in two accounts of a group is one of its jobs.
    jobs = np.unique(rows[:, number >= 0], axis=1)
    met, counts = np.unique(jobs[:3], axis=1, return_counts=True)
    metrics = {stored.metric_id: shown_metric(stored) for stored in question.metrics}
    starts = question.buckets
    found: Counts = Counter()
    for (bucket, group, metric), count in zip(met.T.tolist(), counts.tolist(), strict=True):
        found[int(starts[bucket]), groups[group], metrics[metric]] = count
    return found

"""How many jobs used something, by bucket of time and group."""

from collections import Counter
from collections.abc import Iterator

import numpy as np
from sqlalchemy import Connection

from oar_accounting.amounts.by_job import closed_jobs, open_ids, read_held, until
from oar_accounting.catalog import Site
from oar_accounting.columns import Ints, Rates, Spans, ints
from oar_accounting.groupings import Group
from oar_accounting.queries import SiteQuestion, Wanted, sites_of
from oar_accounting.windows import repeated, spread_between

#: How many jobs used something in a bucket, by its start, and as a member of a group.
Counts = Counter[tuple[int, Group]]


def count_jobs(connection: Connection, own: Site, wanted: Wanted) -> Counts:
    """The jobs that used something of one of the metrics; one that is in two groups, in both.

    Purged jobs are not known any more. Raises as `queries.usage`.
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
    """The jobs among these by bucket and group."""
    used = spans.take(spans.asked == 0)
    cuts = question.asked.cuts
    pieces = spread_between(used.start_time, used.stop_time, cuts[:-1], cuts[1:])
    rates = rates.take(rates.used > 0)
    rates = rates.take(np.argsort(rates.job_id, kind="stable"))
    job_id = used.job_id[pieces.row]
    first = np.searchsorted(rates.job_id, job_id, "left")
    row, nth = repeated(np.searchsorted(rates.job_id, job_id, "right") - first)
    part: Ints = pieces.window_start[row]
    number, groups = question.groups_of(rates.account_id[first[row] + nth], part)
    rows = np.stack([job_id[row], question.bucket_of(part), number])
    different = np.unique(rows[:, number >= 0], axis=1)
    starts = question.buckets
    return Counter(
        (int(starts[bucket]), groups[group]) for _, bucket, group in ints(different).T.tolist()
    )

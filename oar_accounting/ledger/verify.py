"""The law, recomputed: what spans, rates and entries say the totals must be, by window and by day.

An amount belongs to one account, so the law holds account by account: it is checked and restored
over ranges of accounts, each as large as fits in memory, streaming over the jobs.
"""

from collections.abc import Iterator, Sequence
from itertools import chain

import numpy as np
from sqlalchemy import ColumnElement, Connection, Table, func, select

from oar_accounting.core.columns import Ints, Totals, add_up, difference
from oar_accounting.core.lengths import DAY
from oar_accounting.database import bulk
from oar_accounting.ledger import schema
from oar_accounting.ledger import totals as stored_totals
from oar_accounting.ledger.catalog import Site, account_names, stored_metrics
from oar_accounting.ledger.ledger import Book, amounts_of
from oar_accounting.ledger.purged import day_length
from oar_accounting.ledger.reading import (
    LOWEST,
    read_entries,
    read_rates,
    read_spans,
    recorded_above,
)
from oar_accounting.ledger.records import Difference

#: Rows of totals compared at once.
TOTALS_AT_ONCE = 300_000
#: Jobs streamed at once.
VERIFIED_AT_ONCE = 10_000

Range = tuple[int, int]


def account_ranges(connection: Connection, site_id: int, growth: int = 1) -> list[Range]:
    """First and last account id of ranges whose totals fit in memory; together, all of the site.

    *growth* is how many rows may come of one that stands.
    """
    accounts, totals = schema.accounts.c, schema.totals.c
    query = (
        select(accounts.account_id, func.count(totals.account_id))
        .select_from(
            schema.accounts.outerjoin(
                schema.totals,
                (totals.site_id == site_id) & (totals.account_id == accounts.account_id),
            )
        )
        .where(accounts.site_id == site_id)
        .group_by(accounts.account_id)
        .order_by(accounts.account_id)
    )
    ids, sizes = bulk.read_ints(connection, query)
    if not len(ids):
        return []
    edges = np.flatnonzero(np.diff(np.cumsum(sizes) * growth // TOTALS_AT_ONCE)) + 1
    firsts = ids[np.concatenate([[0], edges])].tolist()
    lasts = ids[np.concatenate([edges - 1, [-1]])].tolist()
    return list(zip(firsts, lasts, strict=True))


def expected_totals(connection: Connection, site_id: int, accounts: Range, window: int) -> Totals:
    """The totals of a range of accounts as the law has them."""
    parts = [Totals.concat([])]
    for ids in _pages(connection, site_id):
        rates = read_rates(connection, site_id, ids)
        rates = rates.take(_within(rates.account_id, accounts))
        entries = read_entries(connection, site_id, ids)
        entries = entries.take(_within(entries.account_id, accounts))
        spans = read_spans(connection, site_id, ids)
        parts.append(amounts_of(_closed(connection, site_id, ids), spans, rates, entries, window))
        if len(parts) > 8:
            parts = [add_up(Totals.concat(parts))]
    return add_up(Totals.concat(parts))


def _within(account_id: Ints, accounts: Range) -> Ints:
    return np.flatnonzero((account_id >= accounts[0]) & (account_id <= accounts[1]))


def _pages(connection: Connection, site_id: int) -> Iterator[Ints]:
    last = LOWEST
    while len(ids := recorded_above(connection, site_id, last, VERIFIED_AT_ONCE)):
        yield ids
        last = int(ids[-1])


def _closed(connection: Connection, site_id: int, ids: Ints) -> Ints:
    table = schema.jobs.c
    query = select(table.job_id).where(
        table.site_id == site_id,
        table.closed == schema.CLOSED_JOB,
        table.job_id.between(int(ids[0]), int(ids[-1])),
    )
    return bulk.read_ints(connection, query)[0]


def broken(
    connection: Connection, site_id: int, window: int, ranges: Sequence[Range]
) -> Iterator[tuple[int, Totals, Totals]]:
    """Per table and range of accounts with a difference: the rows that are wrong, and the right.

    Before them the seconds that a row of the table is for. The two have a row for the same windows
    or days, accounts and metrics, sorted by them.
    """
    for accounts in ranges:
        right = expected_totals(connection, site_id, accounts, window)
        for table, should in stored_totals.by_table(right, window):
            stored = stored_totals.stored(connection, table, site_id, accounts)
            wrong = difference(should, stored)
            if len(wrong):
                seconds = DAY if table is schema.days else window
                yield seconds, _at(stored, wrong), _at(should, wrong)


def beyond_carried(
    connection: Connection, site_id: int, ranges: Sequence[Range]
) -> Iterator[tuple[int, Totals, Totals]]:
    """The days, as from `broken`, on which more is kept of purged jobs than is carried of all.

    What is wrong is what is kept, and right what is carried: no rebuild mends it.
    """
    length = day_length(connection, site_id)
    for accounts in ranges if length else ():
        carried, kept = (
            _of_days(connection, site_id, table, start, accounts, length)
            for table, start in (
                (schema.entries, schema.entries.c.window_start),
                (schema.purged, schema.purged.c.day_start),
            )
        )
        more = difference(kept, carried)
        more = more.take((more.asked > 0) | (more.used > 0))
        if len(more):
            yield length, _at(kept, more), _at(carried, more)


def _of_days(  # noqa: PLR0913 - one reading
    connection: Connection,
    site_id: int,
    table: Table,
    start: ColumnElement[int],
    accounts: Range,
    length: int,
) -> Totals:
    """What is carried, or kept of single purged jobs, by day."""
    row = table.c
    chosen = [row.job_id == schema.CARRIED] if table is schema.entries else []
    keys = (start, row.account_id, row.metric_id)
    query = select(*keys).where(row.site_id == site_id, row.account_id.between(*accounts), *chosen)
    at, *rest = bulk.read_sums(connection, query, keys, (row.asked, row.used))
    return add_up(Totals(at // length * length, *rest))


def first_differences(connection: Connection, site: Site, most: int) -> list[Difference]:
    """The first *most* totals of the site that are not what the law says, in words.

    After them what is kept of single purged jobs beyond what is carried of all.
    """
    names = account_names(connection, site.site_id)
    metrics = {m.metric_id: m.metric.name for m in stored_metrics(connection, site.site_id)}
    found: list[Difference] = []
    ranges = account_ranges(connection, site.site_id)
    every = chain(
        ((False, *each) for each in broken(connection, site.site_id, site.terms.window, ranges)),
        ((True, *each) for each in beyond_carried(connection, site.site_id, ranges)),
    )
    for kept, seconds, stored, right in every:
        for was, should in zip(_rows(stored), _rows(right), strict=True):
            user, project, queue, value = names.get(was[1], (f"no. {was[1]}", "", "", ""))
            found.append(
                Difference(
                    window_start=was[0],
                    seconds=seconds,
                    user=user,
                    project=project,
                    queue=queue,
                    property=value,
                    metric=metrics.get(was[2], f"no. {was[2]}"),
                    asked=was[3],
                    used=was[4],
                    expected_asked=should[3],
                    expected_used=should[4],
                    kept=kept,
                )
            )
            if len(found) == most:
                return found
    return found


def _at(totals: Totals, places: Totals) -> Totals:
    """The rows of *totals* at the places, zero where it has none."""
    found = {key: (asked, used) for *key_, asked, used in _rows(totals) for key in [tuple(key_)]}
    amounts = [found.get(tuple(key), (0, 0)) for *key, _, _ in _rows(places)]
    asked, used = np.array(amounts, np.int64).T
    return Totals(places.window_start, places.account_id, places.metric_id, asked, used)


def _rows(totals: Totals) -> Iterator[tuple[int, ...]]:
    return zip(*(column.tolist() for column in totals.as_dict().values()), strict=True)


def restore(book: Book, accounts: Range) -> int:
    """Make the totals of a range of accounts what the law says; how many rows were wrong."""
    connection, site = book.connection, book.site
    right = expected_totals(connection, site.site_id, accounts, site.terms.window)
    count = 0
    # Each table by itself: one may be right where the other is not.
    for table, should in stored_totals.by_table(right, site.terms.window):
        wrong = difference(should, stored_totals.stored(connection, table, site.site_id, accounts))
        stored_totals.add(connection, table, site.site_id, wrong)
        count += len(wrong)
    return count

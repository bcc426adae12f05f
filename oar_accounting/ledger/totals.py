"""The tables that sum what jobs gave: the totals by window, and the same amounts by day.

The days are there to be read over months. They are kept where a day is several whole windows of
the site, and are moved with the totals.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
from sqlalchemy import Column, Connection, Select, Table, select

from oar_accounting.core.columns import Bools, Ints, Totals, add_up, rows_among
from oar_accounting.core.windows import by_day, kept_by_day
from oar_accounting.database import bulk
from oar_accounting.database.id_blocks import SPARSE_BLOCK, among
from oar_accounting.ledger import schema

#: From so many changed rows on, it pays to look which of them are new.
MANY_ROWS = 2_000


def by_table(amounts: Totals, window: int) -> list[tuple[Table, Totals]]:
    """What amounts in windows of *window* seconds are in each of the tables.

    Raises :class:`oar_accounting.errors.AmountOverflow`.
    """
    days = by_day(amounts) if kept_by_day(window) else Totals.concat([])
    return [(schema.totals, amounts), (schema.days, days)]


def stored(connection: Connection, table: Table, site_id: int, accounts: tuple[int, int]) -> Totals:
    """The rows of a range of accounts of the site, its last one too, as they stand."""
    owner = schema.accounts.c
    query = (
        select(*columns_of(table))
        .select_from(table.join(schema.accounts, owner.account_id == table.c.account_id))
        .where(
            table.c.site_id == site_id,
            owner.site_id == site_id,
            table.c.account_id.between(*accounts),
        )
    )
    return add_up(Totals.of(bulk.read_ints(connection, query)))


def clear(connection: Connection, site_id: int) -> None:
    """Delete the rows of the site."""
    for table in schema.SUMMED:
        connection.execute(table.delete().where(table.c.site_id == site_id))


def add(connection: Connection, table: Table, site_id: int, change: Totals) -> None:
    """Add amounts, which may be negative, to the site's rows; rows that become zero go.

    The *change* is sorted by key. Raises :class:`oar_accounting.errors.AmountOverflow`.
    """
    if not len(change):
        return
    new = ~_standing(connection, table, site_id, change)
    bulk.insert_columns(connection, table, _named(table, site_id, change.take(new)))
    change = change.take(~new)
    bulk.add_columns(connection, table, _named(table, site_id, change))
    lowered = change.take((change.asked < 0) | (change.used < 0))
    if len(lowered):
        _drop_zeros(connection, table, site_id, lowered)


def columns_of(table: Table) -> list[Column[Any]]:
    """The columns that `Totals` has, in its order; the first three tell the rows apart."""
    return [column for column in table.c if column.name != "site_id"]


def _named(table: Table, site_id: int, rows: Totals) -> Mapping[str, Ints]:
    names = [column.name for column in columns_of(table)]
    columns = dict(zip(names, rows.as_dict().values(), strict=True))
    return columns | {"site_id": np.full(len(rows), site_id)}


def _drop_zeros(connection: Connection, table: Table, site_id: int, lowered: Totals) -> None:
    """Delete those of the rows that have become zero, by their keys.

    A delete over a range would lock rows of other sites in MariaDB, in another order than
    theirs.
    """
    start, account, metric = columns_of(table)[:3]
    at, accounts = lowered.window_start, lowered.account_id
    query = select(start, account, metric).where(
        table.c.site_id == site_id,
        start.between(int(at.min()), int(at.max())),
        account.between(int(accounts.min()), int(accounts.max())),
        table.c.asked == 0,
        table.c.used == 0,
    )
    zeros = bulk.read_ints(connection, query)
    rows = lowered.take(rows_among((at, accounts, lowered.metric_id), zeros))
    gone = _named(table, site_id, rows)
    bulk.delete_rows(connection, table, {key.name: gone[key.name] for key in table.primary_key})


def _standing(connection: Connection, table: Table, site_id: int, change: Totals) -> Bools:
    """The rows that may stand in the table; false only for those that certainly do not.

    In bulk most rows are new, and adding them costs a third of looking for each of them. No
    other writer can put them there meanwhile: the accounts are of this site.
    """
    standing = np.ones(len(change), np.bool_)
    starts = np.unique(change.window_start)
    if len(change) < MANY_ROWS or len(starts) > min(len(change) // 100, SPARSE_BLOCK):
        return standing
    start, account, metric = columns_of(table)[:3]
    first, last = int(change.account_id.min()), int(change.account_id.max())
    most = 2 * len(change)
    query: Select[Any] = (
        select(start, account, metric)
        .where(table.c.site_id == site_id, among(starts, start), account.between(first, last))
        .limit(most)
    )
    found = bulk.read_ints(connection, query)
    if len(found[0]) == most:
        return standing
    return rows_among((change.window_start, change.account_id, change.metric_id), found)

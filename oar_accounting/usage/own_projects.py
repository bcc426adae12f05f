"""Whose projects are whose: anybody may name any project; one's own are those one has used."""

from sqlalchemy import Connection, select

from oar_accounting.core.columns import ints
from oar_accounting.database.id_blocks import short_lists
from oar_accounting.ledger import schema
from oar_accounting.ledger.catalog import Site, account_names


def own_projects(connection: Connection, site: Site, user: str) -> frozenset[str] | None:
    """The projects in which the user has used something; None where nobody knows the user."""
    names = account_names(connection, site.site_id)
    own = {number: each for number, each in names.items() if each[0] == user}
    if not own:
        return None
    used = _used(connection, site.site_id, list(own))
    return frozenset(own[number][1] for number in used)


def _used(connection: Connection, site_id: int, account_ids: list[int]) -> list[int]:
    """Those of the accounts that have used something."""
    table = schema.totals.c
    found: list[int] = []
    for some in short_lists(ints(account_ids)):
        query = select(table.account_id).where(
            table.site_id == site_id, table.account_id.in_(some), table.used > 0
        )
        found += connection.execute(query.distinct()).scalars()
    return found

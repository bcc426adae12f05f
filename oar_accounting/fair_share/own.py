"""What an ordinary user may know of karma."""

from sqlalchemy import Connection, select

from oar_accounting import schema
from oar_accounting.blocks import short_lists
from oar_accounting.catalog import Accounts
from oar_accounting.columns import ints
from oar_accounting.errors import SchemaError
from oar_accounting.fair_share.answers import FairShare
from oar_accounting.karma_report import Explanation, FairShareReport, KarmaReport, Viewer
from oar_accounting.ledger import Ledger


class OwnFairShare:
    """The answers of one site, as one user may see them."""

    def __init__(self, everything: FairShare, ledger: Ledger, user: str) -> None:
        self._everything = everything
        self._ledger = ledger
        self._user = user

    def karma(self) -> KarmaReport:
        """The user's jobs that wait, each in its place among all."""
        return self._viewer().jobs(self._everything.karma())

    def explain(self, job: int) -> Explanation | None:
        """Why one of them stands where it does; None where it is not the user's.

        Raises :class:`oar_accounting.UnknownName` where the job does not wait.
        """
        return self._viewer().explanation(self._everything.explain(job))

    def fairshare(self) -> FairShareReport:
        """How the user and their projects stand to what is meant for them."""
        return self._viewer().fairshare(self._everything.fairshare())

    def _viewer(self) -> Viewer:
        """The user with the projects in which they have used something."""
        projects: set[str] = set()
        try:
            with self._ledger.reading() as (connection, site):
                if site is not None:
                    accounts = Accounts(site.site_id)
                    accounts.refresh(connection)
                    own = {k: v for k, v in accounts.names().items() if v[0] == self._user}
                    # Anybody may name any project; one's own are those in which one used something.
                    projects = {own[each][1] for each in _used(connection, list(own))}
        except SchemaError:
            # OAR's own karma needs no table of ours; then only the user's own rows are shown.
            projects = set()
        return Viewer(user=self._user, projects=frozenset(projects))


def _used(connection: Connection, account_ids: list[int]) -> list[int]:
    """Those of the accounts that have used something."""
    table = schema.totals.c
    found: list[int] = []
    for some in short_lists(ints(account_ids)):
        query = select(table.account_id).where(table.account_id.in_(some), table.used > 0)
        found += connection.execute(query.distinct()).scalars()
    return found

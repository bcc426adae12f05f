"""What an ordinary user may know of karma."""

from oar_accounting.errors import SchemaError
from oar_accounting.karma.fair_share import FairShare
from oar_accounting.karma.report import Explanation, FairShareReport, KarmaReport, Viewer
from oar_accounting.ledger.ledger import Ledger
from oar_accounting.usage.own_projects import own_projects


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
        projects: frozenset[str] = frozenset()
        try:
            with self._ledger.reading() as (connection, site):
                if site is not None:
                    projects = own_projects(connection, site, self._user) or frozenset()
        except SchemaError:
            # OAR's own karma needs no table of ours; then only the user's own rows are shown.
            projects = frozenset()
        return Viewer(user=self._user, projects=projects)

"""What an ordinary user may know of usage: their own, and what their projects used as a whole."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from oar_accounting.errors import UnknownName
from oar_accounting.ledger.ledger import Ledger
from oar_accounting.reports.records import (
    Efficiency,
    JobHistory,
    JobPage,
    ProjectMember,
    ProjectReport,
    Waiting,
)
from oar_accounting.reports.reports import Reporting
from oar_accounting.usage.keys import SITE, Visible
from oar_accounting.usage.own_projects import own_projects
from oar_accounting.usage.records import Coverage, UsageReport
from oar_accounting.usage.usage_query import Keys, UsageQuery

#: Who the other members of a project are to one of them.
OTHERS = "(others)"


class OwnReports:
    """The answers of `Reporting`, as one user may see them; they are asked as those are.

    No error tells whose names are recorded.
    """

    def __init__(self, everything: Reporting, ledger: Ledger, user: str) -> None:
        self._everything = everything
        self._ledger = ledger
        self._user = user

    def usage(self, by: Keys | UsageQuery = ("project",), **given: Any) -> UsageReport:
        """What the user asked for and used."""
        return self._everything.usage(self._asked(by, given))

    def coverage(
        self, by: Keys | UsageQuery = ("project",), *, of_jobs: bool = False, **given: Any
    ) -> Coverage:
        """How far what the user did is recorded."""
        return self._everything.coverage(self._asked(by, given), of_jobs=of_jobs)

    def jobs(self, **given: Any) -> JobPage:
        """The user's jobs."""
        return self._everything.jobs(visible_to=self._own(()), **given)

    def job(self, number: int, **given: Any) -> JobHistory | None:
        """One of the user's jobs."""
        return self._everything.job(number, visible_to=self._own(()), **given)

    def efficiency(self, by: Keys | UsageQuery = ("project",), **given: Any) -> list[Efficiency]:
        """What the user's jobs left unused."""
        return self._everything.efficiency(self._asked(by, given))

    def waiting(self, by: Keys | UsageQuery = ("queue",), **given: Any) -> list[Waiting]:
        """How long the user's jobs waited."""
        return self._everything.waiting(self._asked(by, given))

    def project(self, name: str, **given: Any) -> ProjectReport:
        """The page of a project in which the user has used something; the others are one."""
        if name not in self._projects():
            raise UnknownName(f"project {name!r} is not one in which you have used something")
        report = self._everything.project(name, **given)
        own = [each for each in report.members if each.user == self._user]
        others = [each for each in report.members if each.user != self._user]
        if others:
            own.append(_together(others))
        return replace(report, members=tuple(own))

    def _asked(self, by: Keys | UsageQuery, given: dict[str, Any]) -> UsageQuery:
        """The question, of what is the user's."""
        names = by.by if isinstance(by, UsageQuery) else (by,) if isinstance(by, str) else by
        mine = self._own(names)
        if "visible_to" in given:
            raise TypeError("who asks is said already: visible_to does not go with it")
        return replace(self._everything.query(by, **given), visible_to=mine)

    def _own(self, by: Sequence[str]) -> Visible:
        if SITE in by:
            raise UnknownName("site is no key here: elsewhere your name may be somebody else's")
        self._projects()
        return Visible(user=self._user)

    def _projects(self) -> frozenset[str]:
        with self._ledger.reading() as (connection, site):
            projects = None if site is None else own_projects(connection, site, self._user)
        if projects is None:
            raise UnknownName("nothing is recorded of you")
        return projects


def _together(members: Sequence[ProjectMember]) -> ProjectMember:
    return ProjectMember(
        user=OTHERS,
        jobs=sum(each.jobs for each in members),
        asked=sum(each.asked for each in members),
        used=sum(each.used for each in members),
        before=sum(each.before for each in members),
    )

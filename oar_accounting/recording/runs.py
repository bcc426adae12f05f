"""Runs of the verbs that write the ledger: each leaves a row in the journal."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress

from oar_accounting.database import dialects
from oar_accounting.errors import AccountingError
from oar_accounting.ledger import journal
from oar_accounting.ledger.catalog import Site, stored_metrics
from oar_accounting.ledger.journal import Entry
from oar_accounting.ledger.ledger import Book, Ledger
from oar_accounting.ledger.reading import open_jobs
from oar_accounting.ledger.records import PassReport, Problem
from oar_accounting.oar.snapshot import OarJobs
from oar_accounting.recording.declared import (
    check_properties,
    declared_terms,
    dropped_properties,
    notices,
)
from oar_accounting.recording.passes import Tally
from oar_accounting.settings.load import Settings


class Runs:
    """The runs about one site."""

    def __init__(
        self, given: Settings, ledger: Ledger, oar: OarJobs, clock: Callable[[], int]
    ) -> None:
        """*clock* gives the present, in epoch seconds."""
        self.given = given
        self.ledger = ledger
        self.oar = oar
        self._clock = clock

    @contextmanager
    def noted(self, verb: str, *, wait: bool = True, new: bool = True) -> Iterator[Entry]:
        """A run with its row in the journal.

        A site that is not recorded yet is added where *new*; else UnknownName is raised. Raises
        :class:`oar_accounting.WriterBusy` where it is not to *wait* for another writer.
        """
        if new:
            self.site()
        else:
            with self.ledger.reading_site():
                pass
        began = self._clock()
        with self.ledger.writing(wait=wait) as book:
            number = journal.begin(book.connection, book.site.site_id, verb, began)
        entry = Entry(began)
        try:
            yield entry
        except BaseException as error:
            known = isinstance(error, AccountingError) and not entry.secret
            reason = str(error) if known else type(error).__name__
            with (
                suppress(AccountingError),
                dialects.writing(self.ledger.engine, wait=False) as connection,
            ):
                journal.fail(connection, number, self._clock(), reason)
            raise
        with dialects.writing(self.ledger.engine) as connection:
            journal.finish(connection, number, self._clock(), entry.report)

    def now(self) -> int:
        """The present, in epoch seconds."""
        return self._clock()

    @contextmanager
    def looking(self) -> Iterator[Book]:
        """The book of a dry run, to which nothing is written."""
        with self.ledger.reading_site() as (connection, site):
            yield Book(connection, site, self.ledger.accounts(connection, site))

    def site(self) -> Site:
        """The site, added under the settings' terms where it is new."""
        with self.ledger.reading() as (_, site):
            if site is not None:
                return site
        check_properties(self.given, self.oar, self.given.metrics)
        terms = declared_terms(self.given, self.oar)
        return self.ledger.open_site(terms, self.given.metrics)

    def notices(self, site: Site) -> list[str]:
        """Where the settings say otherwise than what is recorded, one line each."""
        with self.ledger.reading() as (connection, _):
            stored = stored_metrics(connection, site.site_id)
        terms = declared_terms(self.given, self.oar, site.terms)
        told = notices(site, terms, self.given.metrics, stored)
        told += dropped_properties(self.oar, site.terms, stored)
        if site.terms.profile == "default" and (unread := self.oar.launches_unread()):
            told.append(f"jobs that OAR gave up before they ran are counted: {unread}")
        if site.terms.profile == "default" and (unread := self.oar.properties_unread()):
            told.append(f"properties of resources are taken to be always as today: {unread}")
        return told

    def report(self, tally: Tally, found: Sequence[str]) -> PassReport:
        """What is told of a pass, with the notices that were *found*."""
        with self.ledger.reading() as (connection, site):
            still_open = 0 if site is None else open_jobs(connection, site.site_id)
        return PassReport(
            done=tally.done,
            changed=tally.changed,
            open=still_open,
            figures=tally.figures,
            problems=tuple(Problem(job_id=j, reason=r) for j, r in sorted(tally.problems.items())),
            notices=(*found, *tally.told()),
        )

"""Purge: drop spans and rates of what ended long ago, and keep every total.

What a purged job gave to the totals stands on as entries, so the law still holds, totals can be
recomputed and windows made larger. What is gone for good: the job cannot be corrected, nor counted
in another metric, under other terms, or within a part of a window.
"""

from oar_accounting.core import formats
from oar_accounting.core.lengths import DAY
from oar_accounting.core.progress import Progress
from oar_accounting.database.id_blocks import id_blocks
from oar_accounting.errors import BadSpan
from oar_accounting.ledger.catalog import Site, change_site
from oar_accounting.ledger.ledger import Ledger
from oar_accounting.ledger.purged import carry
from oar_accounting.ledger.reading import LOWEST
from oar_accounting.ledger.records import PassReport
from oar_accounting.recording.pages import ledger_pages
from oar_accounting.recording.passes import Shown
from oar_accounting.recording.runs import Runs


def purge(runs: Runs, before: int, progress: Progress | None) -> tuple[int, int]:
    """Drop spans and rates of jobs that ended before *before*; the bound, and how many jobs.

    Raises :class:`BadSpan` where catch-up still compares such jobs with OAR.
    """
    with runs.noted("purge", new=False) as entry:
        latest = entry.began - runs.given.recheck_days * DAY
        bound, count = purge_before(runs.ledger, runs.site(), before, latest, progress)
        entry.report = PassReport(done=count)
    return bound, count


def purge_before(
    ledger: Ledger, site: Site, before: int, latest: int, progress: Progress | None
) -> tuple[int, int]:
    """Purge what ended before the window around *before* began; that bound, and how many jobs.

    Raises :class:`BadSpan` where it is after *latest*: passes still compare those jobs. Killed, it
    goes on where it is run again.
    """
    bound = before // site.terms.window * site.terms.window
    if bound > latest:
        raise BadSpan(
            f"{formats.date(bound)} is too late to purge before: jobs are compared with OAR for "
            f"some days after their end; the latest is {formats.date(latest)}"
        )
    with ledger.writing() as book:
        book.check_no_rebuild()
        if bound > (book.site.purged_before or 0):
            change_site(book.connection, book.site, purged_before=bound)
    count = 0
    pages = list(ledger_pages(ledger, site, LOWEST))
    shown = Shown(progress, sum(map(len, pages)))
    for page in pages:
        for block in id_blocks(page):
            with ledger.writing() as book:
                book.check_no_rebuild()
                count += carry(book, block, bound)
        shown.advance(len(page))
    return bound, count

"""Purge: drop spans and rates of what ended long ago, and keep every total.

What a purged job gave to the totals stands on as entries, so the law still holds, totals can be
recomputed and windows made larger; and what it asked for and used stays by day. What is gone for
good: the job cannot be corrected, nor counted in another metric, under other terms, or exactly in a
part of a window.
"""

from oar_accounting.core import periods
from oar_accounting.core.lengths import DAY
from oar_accounting.core.progress import Progress
from oar_accounting.database.id_blocks import BLOCK, id_blocks
from oar_accounting.errors import BadSpan
from oar_accounting.ledger.catalog import Site, change_site
from oar_accounting.ledger.ledger import Ledger
from oar_accounting.ledger.purged import DETAILS, carry, purgeable
from oar_accounting.ledger.reading import LOWEST, count_jobs, recorded_above
from oar_accounting.ledger.records import DryRun, PassReport
from oar_accounting.recording.pages import ledger_pages
from oar_accounting.recording.passes import Shown
from oar_accounting.recording.runs import Runs
from oar_accounting.recording.upkeep.dry_runs import DryCount, rows_of


def purge(runs: Runs, before: int, progress: Progress | None) -> tuple[int, int]:
    """Drop spans and rates of jobs that ended before *before*; the bound, and how many jobs.

    Raises :class:`BadSpan` where catch-up still compares such jobs with OAR.
    """
    with runs.noted("purge", new=False) as entry:
        site = runs.site()
        bound = _bound(runs, site, before, entry.began)
        count = purge_before(runs.ledger, site, bound, progress)
        entry.report = PassReport(done=count)
    return bound, count


def would_purge(runs: Runs, before: int, progress: Progress | None) -> DryRun:
    """What `purge` would do; nothing is written. Raises as it would."""
    with runs.looking() as book:
        site_id = book.site.site_id
        bound = _bound(runs, book.site, before, runs.now())
        book.check_no_rebuild()
        shown = Shown(progress, count_jobs(book.connection, site_id))
        counted, rows = DryCount(), 0
        last = LOWEST
        while len(page := recorded_above(book.connection, site_id, last, BLOCK)):
            last = int(page[-1])
            for block in id_blocks(page):
                jobs, _ = purgeable(book.connection, site_id, block, bound)
                counted.add(jobs)
                rows += rows_of(book.connection, DETAILS, site_id, jobs.job_id)
            shown.advance(len(page))
    return counted.report(rows, bound)


def _bound(runs: Runs, site: Site, before: int, now: int) -> int:
    """The bound of windows at or before *before*. Raises :class:`BadSpan` where it is too late."""
    bound = before // site.terms.window * site.terms.window
    latest = now - runs.given.recheck_days * DAY
    if bound > latest:
        told, last = (
            periods.shown(at, periods.zone(runs.given.timezone)) for at in (bound, latest)
        )
        raise BadSpan(
            f"{told} is too late to purge before: jobs are compared with OAR for some days "
            f"after their end; the latest is {last}"
        )
    return bound


def purge_before(ledger: Ledger, site: Site, bound: int, progress: Progress | None) -> int:
    """Purge what ended before *bound*, where a window begins; how many jobs.

    Killed, it goes on where it is run again.
    """
    with ledger.writing() as book:
        book.check_no_rebuild()
        if book.site.purged_before is None or bound > book.site.purged_before:
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
    return count

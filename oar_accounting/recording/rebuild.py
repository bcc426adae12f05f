"""Rebuilds: totals from the ledger, a metric or every job from OAR.

The law holds at every commit.
"""

from dataclasses import replace

from oar_accounting.adjustments.stored import check_unit
from oar_accounting.core import formats
from oar_accounting.core.progress import Progress
from oar_accounting.database.id_blocks import id_blocks
from oar_accounting.errors import Purged, UnknownName
from oar_accounting.ledger import catalog, schema, totals, verify
from oar_accounting.ledger.catalog import Site
from oar_accounting.ledger.ledger import Ledger
from oar_accounting.ledger.purged import carried_in, carried_window, carry_on
from oar_accounting.ledger.reading import LOWEST
from oar_accounting.ledger.records import PassReport
from oar_accounting.metrics.metric import Metric
from oar_accounting.oar.job_rules import Terms
from oar_accounting.oar.snapshot import OarJobs
from oar_accounting.recording.declared import check_properties, declared_terms
from oar_accounting.recording.pages import ledger_pages, oar_pages
from oar_accounting.recording.passes import Pass, Shown
from oar_accounting.recording.runs import Runs
from oar_accounting.recording.spellings import merged_names
from oar_accounting.recording.standing import look_at_resources

FROM_OAR = "oar-accounting rebuild --from-oar"


def rebuild(
    runs: Runs, metric: str | None, *, from_oar: bool, progress: Progress | None
) -> PassReport:
    """Recompute the totals, fill a *metric*, or read every job again with *from_oar*.

    Raises :class:`UnknownName` where the metric is not declared.
    """
    with runs.noted("rebuild") as entry:
        site = runs.site()
        work = Pass(runs.ledger, runs.oar, entry.began)
        found = []
        if metric is not None:
            _rebuild_metric(runs, work, site, metric, from_oar, progress)
        elif from_oar:
            reread_jobs(work, site, declared_terms(runs.given, runs.oar), progress)
        else:
            restore_totals(runs.ledger, site, runs.given.window, progress)
        if site.purged_before is not None and (metric is not None or from_oar):
            found.append(
                f"what ended before {formats.date(site.purged_before)} was purged: it stays "
                "as it was recorded, and counts in no metric that was added since"
            )
        site = runs.site()
        found = runs.notices(site) + merged_names(runs.oar, site) + found
        found += look_at_resources(runs, entry.began)
        entry.report = runs.report(work.tally, found)
    return entry.report


def _rebuild_metric(  # noqa: PLR0913 - one metric of one rebuild
    runs: Runs, work: Pass, site: Site, name: str, from_oar: bool, progress: Progress | None
) -> None:
    declared = {metric.name: metric for metric in runs.given.metrics}
    if name not in declared:
        with runs.ledger.writing() as book:
            if book.drop_unfinished(name):
                return
        raise UnknownName(
            f"metric {name!r} is not declared in {runs.given.file}; declared are "
            f"{', '.join(declared)}"
        )
    check_properties(runs.given, runs.oar, [declared[name]])
    with runs.ledger.reading() as (connection, _):
        stored = catalog.stored_metrics(connection, site.site_id)
    recorded = [each.metric for each in stored if each.state == schema.ACTIVE]
    half = [each.metric.name for each in stored if each.state == schema.BUILDING]
    if declared[name] in recorded and name not in half and not from_oar:
        restore_totals(runs.ledger, site, site.terms.window, progress)
    else:
        build_metric(work, site, declared[name], progress)


def restore_totals(ledger: Ledger, site: Site, window: int, progress: Progress | None) -> None:
    """Make the totals what spans and rates give, in windows of *window* seconds."""
    if window != site.terms.window:
        _change_window(ledger, window, progress)
        return
    with ledger.reading() as (connection, _):
        ranges = verify.account_ranges(connection, site.site_id)
    shown = Shown(progress, len(ranges))
    for accounts in ranges:
        with ledger.writing() as book:
            verify.restore(book, accounts)
        shown.advance(1)


def _change_window(ledger: Ledger, window: int, progress: Progress | None) -> None:
    """All totals in other windows, in one transaction: any part of it would break the law."""
    with ledger.writing() as book:
        if (carried := carried_window(book)) and window % carried:
            raise Purged(
                f"what was purged is whole in windows of {carried} s and cannot be split into "
                f"windows of {window} s: set a multiple"
            )
        growth = -(-book.site.terms.window // window)
        ranges = verify.account_ranges(book.connection, book.site.site_id, growth)
        totals.clear(book.connection, book.site.site_id)
        book.change_terms(replace(book.site.terms, window=window))
        shown = Shown(progress, len(ranges))
        for accounts in ranges:
            verify.restore(book, accounts)
            shown.advance(1)


def reread_jobs(work: Pass, site: Site, terms: Terms, progress: Progress | None) -> None:
    """Read every job of OAR again, under *terms*; interrupted, it says so until it is run again."""
    ledger, oar = work.ledger, work.oar
    if terms.window != site.terms.window:
        _change_window(ledger, terms.window, None)
    with ledger.writing() as book:
        catalog.change_site(book.connection, book.site, unfinished=FROM_OAR)
        book.change_terms(terms)
    shown = Shown(progress, _jobs_of(oar, progress))
    for page in oar_pages(oar, 0):
        for block in id_blocks(page):
            work.settle(block, force=True)
        shown.advance(len(page))
    with ledger.writing() as book:
        catalog.change_site(book.connection, book.site, unfinished="")


def _jobs_of(oar: OarJobs, progress: Progress | None) -> int:
    if progress is None:
        return 0
    with oar.snapshot() as snapshot:
        return snapshot.count_above(0)


def build_metric(work: Pass, site: Site, metric: Metric, progress: Progress | None) -> None:
    """Fill the past of a metric from OAR's resources; what was shown is shown until it is full."""
    with work.ledger.writing() as book:
        active = [m for m in book.metrics() if m.state == schema.ACTIVE]
        standing = [m for m in active if m.metric == metric]
        for each in active:
            if each.metric.name == metric.name:
                check_unit(book.connection, site.site_id, each.metric, metric)
            if each.metric.name == metric.name and not standing and len(carried_in(book, each)):
                raise Purged(
                    f"metric {metric.name} is recorded under another definition, and a part of it "
                    "was purged: declare the new one under another name"
                )
        building = book.begin_metric(metric)
        if standing:
            carry_on(book, standing[0], building)
    before = standing[0] if standing else None
    pages = list(ledger_pages(work.ledger, site, LOWEST))
    shown = Shown(progress, sum(map(len, pages)))
    for page in pages:
        for block in id_blocks(page):
            work.fill(block, building, before)
        shown.advance(len(page))
    with work.ledger.writing() as book:
        book.finish_metric(building)

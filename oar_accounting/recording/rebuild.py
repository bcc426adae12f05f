"""Rebuilds: totals from the ledger, a metric or every job from OAR.

The law holds at every commit.
"""

from collections.abc import Iterator
from dataclasses import replace

from oar_accounting.adjustments.stored import check_unit
from oar_accounting.core import formats
from oar_accounting.core.columns import Ints
from oar_accounting.core.progress import Progress
from oar_accounting.database.id_blocks import id_blocks
from oar_accounting.errors import Purged, UnknownName
from oar_accounting.ledger import catalog, schema, totals, verify
from oar_accounting.ledger.catalog import Site, StoredMetric
from oar_accounting.ledger.ledger import Book, Ledger, TriedLedger
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
    runs: Runs, metric: str | None, *, from_oar: bool, dry_run: bool, progress: Progress | None
) -> PassReport:
    """Recompute the totals, fill a *metric*, or read every job again with *from_oar*.

    With *dry_run* nothing stays written, and the report says how many figures would change. Raises
    :class:`UnknownName` where the metric is not declared.
    """
    if dry_run:
        with runs.ledger.reading_site() as (_, site):
            pass
        work = Pass(_tried(runs, from_oar=from_oar and metric is None), runs.oar, runs.now())
        _try(runs, work, site, metric, from_oar, progress)
        return runs.report(work.tally, runs.notices(site) + _beside_purged(site, metric, from_oar))
    with runs.noted("rebuild") as entry:
        site = runs.site()
        work = Pass(runs.ledger, runs.oar, entry.began)
        if metric is not None:
            _rebuild_metric(runs, work, site, metric, from_oar, progress)
        elif from_oar:
            reread_jobs(work, site, declared_terms(runs.given, runs.oar), progress)
        else:
            work.tally.figures += restore_totals(runs.ledger, site, runs.given.window, progress)
        found = _beside_purged(site, metric, from_oar)
        site = runs.site()
        found = runs.notices(site) + merged_names(runs.oar, site) + found
        found += look_at_resources(runs, entry.began)
        entry.report = runs.report(work.tally, found)
    return entry.report


def _beside_purged(site: Site, metric: str | None, from_oar: bool) -> list[str]:
    """What is to be said where something was purged that OAR is asked for."""
    if site.purged_before is None or (metric is None and not from_oar):
        return []
    return [
        f"what ended before {formats.date(site.purged_before)} was purged: it stays as it was "
        "recorded, and counts in no metric that was added since"
    ]


def _tried(runs: Runs, *, from_oar: bool) -> TriedLedger:
    """The ledger of a dry run; jobs are read again under the terms that the settings have now."""
    terms = declared_terms(runs.given, runs.oar) if from_oar else None
    return TriedLedger(runs.ledger.engine, runs.ledger.site_name, terms)


def _try(  # noqa: PLR0913 - one dry run
    runs: Runs,
    work: Pass,
    site: Site,
    metric: str | None,
    from_oar: bool,
    progress: Progress | None,
) -> None:
    """Count what a rebuild would change."""
    if metric is not None:
        declared = _declared(runs, metric)
        check_properties(runs.given, runs.oar, [declared])
        if not _is_recorded(runs, site, declared) or from_oar:
            _try_metric(work, site, declared, progress)
            return
    elif from_oar:
        _reread_pages(work, progress)
        return
    window = site.terms.window if metric is not None else runs.given.window
    work.tally.figures += restore_totals(work.ledger, site, window, progress)


def _declared(runs: Runs, name: str) -> Metric:
    """The metric as it is declared. Raises :class:`UnknownName`."""
    declared = {metric.name: metric for metric in runs.given.metrics}
    if name not in declared:
        raise UnknownName(
            f"metric {name!r} is not declared in {runs.given.file}; declared are "
            f"{', '.join(declared)}"
        )
    return declared[name]


def _is_recorded(runs: Runs, site: Site, metric: Metric) -> bool:
    """True where the metric is recorded as it is declared, and no rebuild of it is half done."""
    with runs.ledger.reading() as (connection, _):
        stored = catalog.stored_metrics(connection, site.site_id)
    recorded = [each.metric for each in stored if each.state == schema.ACTIVE]
    half = [each.metric.name for each in stored if each.state == schema.BUILDING]
    return metric in recorded and metric.name not in half


def _rebuild_metric(  # noqa: PLR0913 - one metric of one rebuild
    runs: Runs, work: Pass, site: Site, name: str, from_oar: bool, progress: Progress | None
) -> None:
    if name not in {metric.name for metric in runs.given.metrics}:
        with runs.ledger.writing() as book:
            if book.drop_unfinished(name):
                return
    metric = _declared(runs, name)
    check_properties(runs.given, runs.oar, [metric])
    if _is_recorded(runs, site, metric) and not from_oar:
        work.tally.figures += restore_totals(runs.ledger, site, site.terms.window, progress)
    else:
        build_metric(work, site, metric, progress)


def restore_totals(ledger: Ledger, site: Site, window: int, progress: Progress | None) -> int:
    """Make the totals what spans and rates give, in windows of *window* seconds.

    Returns how many were not; in other windows they all are others.
    """
    if window != site.terms.window:
        return _change_window(ledger, window, progress)
    with ledger.reading() as (connection, _):
        ranges = verify.account_ranges(connection, site.site_id)
    shown, wrong = Shown(progress, len(ranges)), 0
    for accounts in ranges:
        with ledger.writing() as book:
            wrong += verify.restore(book, accounts)
        shown.advance(1)
    return wrong


def _change_window(ledger: Ledger, window: int, progress: Progress | None) -> int:
    """All totals in other windows, in one transaction: any part of it would break the law.

    Returns how many they are.
    """
    count = 0
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
            count += verify.restore(book, accounts)
            shown.advance(1)
    return count


def reread_jobs(work: Pass, site: Site, terms: Terms, progress: Progress | None) -> None:
    """Read every job of OAR again, under *terms*; interrupted, it says so until it is run again."""
    ledger = work.ledger
    if terms.window != site.terms.window:
        _change_window(ledger, terms.window, None)
    with ledger.writing() as book:
        catalog.change_site(book.connection, book.site, unfinished=FROM_OAR)
        book.change_terms(terms)
    _reread_pages(work, progress)
    with ledger.writing() as book:
        catalog.change_site(book.connection, book.site, unfinished="")


def _reread_pages(work: Pass, progress: Progress | None) -> None:
    shown = Shown(progress, _jobs_of(work.oar, progress))
    for page in oar_pages(work.oar, 0):
        for block in id_blocks(page):
            work.settle(block, force=True)
        shown.advance(len(page))


def _jobs_of(oar: OarJobs, progress: Progress | None) -> int:
    if progress is None:
        return 0
    with oar.snapshot() as snapshot:
        return snapshot.count_above(0)


def build_metric(work: Pass, site: Site, metric: Metric, progress: Progress | None) -> None:
    """Fill the past of a metric from OAR's resources; what was shown is shown until it is full."""
    with work.ledger.writing() as book:
        building, before = _begin(book, site, metric)
    for block in _recorded_blocks(work, site, progress):
        work.fill(block, building, before)
    with work.ledger.writing() as book:
        book.finish_metric(building)


def _try_metric(work: Pass, site: Site, metric: Metric, progress: Progress | None) -> None:
    """Count in how many jobs the metric would be otherwise: in one transaction, which is undone."""
    with work.ledger.writing() as book:
        building, before = _begin(book, site, metric)
        for block in _recorded_blocks(work, site, progress):
            work.fill_in(book, block, building, before)


def _begin(book: Book, site: Site, metric: Metric) -> tuple[StoredMetric, StoredMetric | None]:
    """The metric that is to be filled, and the one recorded under the same definition."""
    active = [each for each in book.metrics() if each.state == schema.ACTIVE]
    standing = next((each for each in active if each.metric == metric), None)
    for each in active:
        if each.metric.name == metric.name:
            check_unit(book.connection, site.site_id, each.metric, metric)
        if each.metric.name == metric.name and standing is None and len(carried_in(book, each)):
            raise Purged(
                f"metric {metric.name} is recorded under another definition, and a part of it "
                "was purged: declare the new one under another name"
            )
    building = book.begin_metric(metric)
    if standing is not None:
        carry_on(book, standing, building)
    return building, standing


def _recorded_blocks(work: Pass, site: Site, progress: Progress | None) -> Iterator[Ints]:
    """All recorded jobs, in blocks."""
    pages = list(ledger_pages(work.ledger, site, LOWEST))
    shown = Shown(progress, sum(map(len, pages)))
    for page in pages:
        yield from id_blocks(page)
        shown.advance(len(page))

"""Recording who belongs where: importing files of attributes, and removing attributes."""

from collections.abc import Iterable

from oar_accounting.attributes import csv_files, stored
from oar_accounting.attributes.records import AttributesReport
from oar_accounting.core import periods
from oar_accounting.ledger.records import PassReport
from oar_accounting.recording.runs import Runs


def import_attributes(
    runs: Runs, given: str | bytes | Iterable[str], source: str, *, dry_run: bool
) -> AttributesReport:
    """Record what a file says; *source* names it in errors. Raises as `Accounting` says."""
    zone = periods.zone(runs.given.timezone)
    file = csv_files.read(given, source, zone)
    if dry_run:
        with runs.ledger.reading_site() as (connection, site):
            planned = stored.prepare(connection, site, file, zone)
        return planned.report(dry_run=True)
    with runs.noted("attributes", new=False) as entry:
        entry.secret = True
        with runs.ledger.writing() as book:
            planned = stored.prepare(book.connection, book.site, file, zone)
            stored.store(book.connection, book.site.site_id, planned)
        report = planned.report(dry_run=False)
        changed = report.added + report.removed + report.changed
        entry.report = PassReport(done=report.entries, changed=changed)
    return report


def remove_attribute(runs: Runs, name: str) -> int:
    """Delete all that is recorded of an attribute; how many entries it had.

    Raises :class:`oar_accounting.UnknownName`.
    """
    with runs.noted("attributes", new=False) as entry:
        with runs.ledger.writing() as book:
            count = stored.remove(book.connection, book.site.site_id, name)
        entry.report = PassReport(changed=count)
    return count

"""The jobs of OAR that wait to be recorded."""

from collections.abc import Iterator

import numpy as np

from oar_accounting.core.columns import Ints, JobRows, ints
from oar_accounting.database.id_blocks import id_blocks
from oar_accounting.health.records import Backlog
from oar_accounting.ledger import schema
from oar_accounting.ledger.catalog import Site
from oar_accounting.ledger.ledger import Ledger
from oar_accounting.ledger.reading import OVERLAP, known_jobs, unsettled_ids
from oar_accounting.oar.job_rules import ENDED
from oar_accounting.oar.snapshot import OarJobs
from oar_accounting.recording.pages import oar_pages, unrecorded


def find_backlog(ledger: Ledger, oar: OarJobs, site: Site | None) -> Backlog:
    """What the next pass has to record, as far as that is cheap to tell.

    These are jobs that are not recorded at all, among the ids that every pass looks at, and jobs
    that have ended and are recorded as if they had not. The first wait since they were submitted,
    the others since they ended. Of the first the lowest id is the oldest: OAR gives ids in order.
    Other corrections that OAR has made are left out.
    """
    new = _new_jobs(ledger, oar, site)
    count = len(new)
    waiting: list[tuple[int, int]] = []
    with oar.snapshot() as snapshot:
        for rows in map(snapshot.rows, id_blocks(new[:1])):
            waiting += zip(rows.submission_time.tolist(), rows.job_id.tolist(), strict=True)
    for rows in [] if site is None else _ended_jobs(ledger, oar, site):
        count += len(rows)
        ended = np.maximum(rows.stop_time, rows.submission_time)
        waiting += zip(ended.tolist(), rows.job_id.tolist(), strict=True)
    since, oldest = min(waiting, default=(None, None))
    return Backlog(jobs=count, oldest=oldest, since=since)


def _new_jobs(ledger: Ledger, oar: OarJobs, site: Site | None) -> Ints:
    """The jobs that are not recorded, ascending."""
    first = 0 if site is None else max(site.high_water_mark - OVERLAP, 0)
    found = [ints([])]
    for page in oar_pages(oar, first):
        found.append(page if site is None else unrecorded(ledger, site, page))
    return np.concatenate(found)


def _ended_jobs(ledger: Ledger, oar: OarJobs, site: Site) -> Iterator[JobRows]:
    """The jobs that have ended, and are recorded as if they had not."""
    with ledger.reading() as (connection, _):
        unsettled = unsettled_ids(connection, site.site_id)
    for block in id_blocks(unsettled):
        with ledger.reading() as (connection, _):
            known = known_jobs(connection, site.site_id, block)
        with oar.snapshot() as snapshot:
            rows = snapshot.rows(block)
        waiting = known.job_id[known.closed == schema.OPEN_JOB]
        yield rows.take(np.isin(rows.state, ENDED) & np.isin(rows.job_id, waiting))

"""Are these still the jobs that are recorded? OAR may be restored, installed anew, or another one.

A job is another one where the id is the same and the submission time is not. Whatever happened to
OAR, it gives ids out in order: the highest ones that both have tell it.
"""

import numpy as np

from oar_accounting.core.columns import Bools, Ints, JobRows, ints, located
from oar_accounting.database.id_blocks import id_blocks
from oar_accounting.errors import OtherOar
from oar_accounting.ledger.catalog import Site
from oar_accounting.ledger.ledger import Ledger
from oar_accounting.ledger.reading import JobRecords, known_jobs, recorded_below
from oar_accounting.oar.snapshot import OarJobs
from oar_accounting.recording.pages import ledger_pages

#: Jobs that are compared by every pass.
COMPARED = 200


def check_identity(ledger: Ledger, oar: OarJobs, site: Site) -> list[str]:
    """Raise :class:`OtherOar` where OAR's ids name other jobs than those recorded under them.

    Otherwise a line where recorded jobs have ids that OAR has yet to give out, or had deleted.
    """
    with oar.snapshot() as snapshot:
        highest = snapshot.highest_id()
    with ledger.reading() as (connection, _):
        newest = recorded_below(connection, site.site_id, highest + 1, COMPARED)
        beyond = recorded_below(connection, site.site_id, 2**63 - 1, 1)
    if len(_others(ledger, oar, site, newest)):
        raise _other_oar(ledger, oar, site)
    if not len(beyond) or int(beyond[-1]) <= highest:
        return []
    return [
        f"OAR's highest job is {highest}, and job {beyond[-1]} is recorded: OAR was restored, or "
        "its last jobs were deleted. Should OAR give their ids to other jobs: oar-accounting "
        f"retire --from {highest + 1}"
    ]


def _others(ledger: Ledger, oar: OarJobs, site: Site, ids: Ints) -> Ints:
    """Which of these recorded ids name another job in OAR."""
    found = [ints([])]
    for block in id_blocks(ids):
        with oar.snapshot() as snapshot:
            rows = snapshot.rows(block)
        with ledger.reading() as (connection, _):
            known = known_jobs(connection, site.site_id, block)
        found.append(rows.job_id[~_same(rows, known) & np.isin(rows.job_id, known.job_id)])
    return np.concatenate(found)


def same_jobs(oar: OarJobs, known: JobRecords) -> Ints:
    """Which of the recorded jobs OAR still has, by ascending id."""
    found = [ints([])]
    for block in id_blocks(known.job_id):
        with oar.snapshot() as snapshot:
            rows = snapshot.rows(block)
        found.append(rows.job_id[_same(rows, known)])
    return np.concatenate(found)


def _same(rows: JobRows, known: JobRecords) -> Bools:
    at, there = located(rows.job_id, known.job_id)
    if len(known):
        there &= known.submission_time[at] == rows.submission_time
    return there


def _other_oar(ledger: Ledger, oar: OarJobs, site: Site) -> OtherOar:
    """The refusal, with the lowest id that names another job, and the ways out."""
    first = 1
    for page in ledger_pages(ledger, site):
        others = _others(ledger, oar, site, page)
        if len(others):
            first = int(others[0])
            break
    return OtherOar(
        f"job {first} of OAR is not the job that is recorded under this id, and later ones "
        "may not be either: nothing was recorded. If it is another OAR, record it as a site of its "
        "own, with --site NAME before the command. If OAR was restored or reinstalled, keep what "
        f"the recorded jobs used and free their ids with: oar-accounting retire --from {first}"
    )

"""Recording single jobs as OAR has them now."""

from collections.abc import Iterable

import numpy as np

from oar_accounting.core.columns import ints
from oar_accounting.database.id_blocks import id_blocks
from oar_accounting.ledger.records import PassReport
from oar_accounting.recording.passes import Pass
from oar_accounting.recording.runs import Runs


def record(runs: Runs, jobs: Iterable[int]) -> PassReport:
    """Record these jobs, also where nothing seems to have changed."""
    with runs.noted("record") as entry:
        work = Pass(runs.ledger, runs.oar, entry.began)
        for block in id_blocks(np.unique(ints(list(jobs)))):
            found = work.settle(block, force=True)
            for job in np.setdiff1d(block, found).tolist():
                work.tally.problems.setdefault(job, "is not in OAR's table jobs")
        entry.report = runs.report(work.tally, runs.notices(runs.site()))
    return entry.report

"""What the doctor says of jobs at times that cannot be: some never end, some end in the future."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from oar_accounting.core import formats
from oar_accounting.core.columns import JobRows
from oar_accounting.core.formats import MOST_TOLD
from oar_accounting.core.lengths import DAY, HOUR
from oar_accounting.core.windows import seconds_used
from oar_accounting.database.id_blocks import id_blocks
from oar_accounting.health.records import Finding
from oar_accounting.oar.job_rules import Terms, phases, spans_of
from oar_accounting.oar.snapshot import OarJobs, Snapshot
from oar_accounting.settings.load import Settings
from oar_accounting.stubs.oar_user import quoted

#: Seconds after its walltime in which OAR may still kill a job, be it that its server was down.
KILLED_BY = DAY
#: Seconds by which the clock of OAR's server may be ahead of ours.
AHEAD = HOUR


def findings(oar: OarJobs, given: Settings, terms: Terms, now: int) -> Iterator[Finding]:
    """What is wrong with the times of OAR's jobs at the instant *now*; nothing where all is well.

    *terms*: under which the jobs are recorded.
    """
    with oar.snapshot() as snapshot:
        overdue = _overdue(snapshot, now)
        to_come = _to_come(snapshot, now)
    if len(overdue):
        yield _overdue_finding(overdue, given, terms, now)
    if len(to_come):
        yield _to_come_finding(to_come, given, terms, now)


def _overdue(snapshot: Snapshot, now: int) -> JobRows:
    """The jobs that OAR holds for running long after their walltime, pauses left out."""
    found = [JobRows.concat([])]
    for block in id_blocks(snapshot.running()):
        rows = snapshot.rows(block)
        known = (rows.start_time > 1) & (rows.walltime > 0)
        rows = rows.take(phases(rows, Terms()).holding & known)
        spans = spans_of(rows, snapshot.pauses(block), Terms())
        jobs, seconds = seconds_used(spans, now)
        at = np.searchsorted(rows.job_id, jobs)
        found.append(rows.take(at[seconds - rows.walltime[at] > KILLED_BY]))
    return JobRows.concat(found)


def _to_come(snapshot: Snapshot, now: int) -> JobRows:
    """The jobs that have ended, and at a time that has yet to come."""
    found = [JobRows.concat([])]
    for block in id_blocks(snapshot.ids_ended_since(now + AHEAD)):
        rows = snapshot.rows(block)
        # What OAR 3 deleted while it waited has the start that was predicted, and no more.
        ran = (rows.start_time > 1) & (rows.stop_time > rows.start_time) & (rows.moldable > 0)
        found.append(rows.take(ran))
    return JobRows.concat(found)


def _overdue_finding(rows: JobRows, given: Settings, terms: Terms, now: int) -> Finding:
    first = int(np.argmin(rows.start_time))
    said = (
        f"{_many(rows)}: OAR has shown job {rows.job_id[first]} as {rows.state[first]} for "
        f"{formats.lasting(now - int(rows.start_time[first]))}, with a walltime of "
        f"{formats.clock(int(rows.walltime[first]))}; {_counting(given, terms)}"
    )
    stuck = rows.state == "Finishing"
    ways = [
        f"{command} {' '.join(map(str, jobs[:MOST_TOLD]))}"
        for command, jobs in (
            ("oardel", rows.job_id[~stuck].tolist()),
            ("oardel --force-terminate-finishing-job", rows.job_id[stuck].tolist()),
        )
        if jobs
    ]
    if len(rows) > MOST_TOLD:
        said += f"; to end the first {MOST_TOLD}"
    return Finding("warning", "runaway jobs", said, " && ".join(ways))


def _to_come_finding(rows: JobRows, given: Settings, terms: Terms, now: int) -> Finding:
    last = int(np.argmax(rows.stop_time))
    stop = int(rows.stop_time[last])
    said = (
        f"{_many(rows)}: for OAR, job {rows.job_id[last]} ended on {formats.date(stop)}, in "
        f"{formats.lasting(stop - now)}; {_counting(given, terms)}"
    )
    if terms.grace is not None or terms.profile == "classic":
        return Finding("good", "ends in future", said)
    mend = "oar-accounting rebuild --from-oar"
    if given.grace is None:
        mend = f"editor {quoted(Path(given.file))} && {mend}"
    return Finding("warning", "ends in future", said, mend)


def _counting(given: Settings, terms: Terms) -> str:
    """For how long such jobs count, and what would change that."""
    if terms.profile == "classic":
        return 'they count as OAR says, which profile = "classic" stands for'
    if terms.grace is None and given.grace is not None:
        return f"they count as OAR says, until a rebuild applies the grace in {given.file}"
    if terms.grace is None:
        return (
            f"they count as OAR says; with grace = {HOUR} in {given.file} and then oar-accounting "
            "rebuild --from-oar, they count for at most their walltime plus an hour"
        )
    return f"they count for at most their walltime plus {terms.grace} s"


def _many(rows: JobRows) -> str:
    named = formats.listed(rows.job_id.tolist())
    return f"job {named}" if len(rows) == 1 else f"jobs {named}"

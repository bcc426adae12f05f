"""Which jobs of OAR a pass records, and what it reports of the others.

Pure: what OAR and the ledger say is read before, and what is decided is posted after.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from oar_accounting.core.columns import Bools, Ints, JobRows, distinct, ints, located
from oar_accounting.core.problems import Code, Trouble, coded
from oar_accounting.database.dialects import LONGEST_NAME
from oar_accounting.ledger import schema
from oar_accounting.ledger.catalog import Accounts
from oar_accounting.ledger.reading import JobRecords
from oar_accounting.oar.spellings import holds_other_bytes

#: What `JobRows.names` has of each job.
NAMES_OF_JOB = ("user", "project", "queue")
CHANGED_SINCE_PURGED = Trouble(
    Code.PURGED, "has changed in OAR since it was purged; kept as recorded"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class BlockRead:
    """What is said of a block of jobs."""

    rows: JobRows  #: by OAR
    known: JobRecords  #: by the ledger
    touched: Ints  #: ids of jobs on the machine that hold what has changed since the last pass


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    """What becomes of a block of jobs."""

    chosen: JobRows  #: are recorded, as OAR has them
    changed: Ints  #: the jobs that OAR tells otherwise than the ledger, chosen or not
    #: Are purged: what they asked for and used stays, but not what is not known of them.
    purged: JobRows
    vanished: JobRecords  #: were unsettled when OAR deleted them: they are closed as last seen
    problems: dict[int, Trouble]  #: by job, what is to be reported


def decide(read: BlockRead, accounts: Accounts, last_seen: int | None, *, force: bool) -> Decision:
    """Choose the jobs that differ from what is recorded, or hold what does, or all with *force*.

    Never recorded are ids that OAR has given to another job, jobs with names that no account can
    have, and jobs that were purged. *last_seen*: epoch seconds of the last pass; None before any.
    """
    rows, known = read.rows, read.known
    differs = differing(rows, known, accounts)
    vanished = _vanished(rows, known)
    purged = np.isin(rows.job_id, known.job_id[known.closed == schema.PURGED_JOB])
    others, misnamed = reused(rows, known), _misnamed(rows)
    again = np.isin(rows.job_id, read.touched)
    refused = purged | np.isin(rows.job_id, ints([*others, *misnamed]))
    return Decision(
        chosen=rows.take((differs | again | force) & ~refused),
        changed=rows.job_id[differs],
        purged=rows.take(purged & force & ~np.isin(rows.job_id, ints([*others, *misnamed]))),
        vanished=vanished,
        problems={
            **dict.fromkeys(vanished.job_id.tolist(), _last_seen_at(last_seen)),
            **coded(Code.OTHER_JOB, others),
            **coded(Code.LONG_NAME, misnamed),
            **dict.fromkeys(rows.job_id[purged & differs].tolist(), CHANGED_SINCE_PURGED),
        },
    )


def not_utf_8(rows: JobRows, types: Mapping[int, Sequence[str]]) -> dict[int, Trouble]:
    """The jobs with a name or type that OAR's database has in other bytes than UTF-8."""
    owners, owner = distinct(rows.names())
    wrong = [[holds_other_bytes(name) for name in names] for names in owners]
    found = {}
    for job, number in zip(rows.job_id.tolist(), owner.tolist(), strict=True):
        kinds = any(map(holds_other_bytes, types.get(job, ())))
        if kinds or any(wrong[number]):
            told = zip((*NAMES_OF_JOB, "type"), (*wrong[number], kinds), strict=True)
            which = " and ".join(name for name, holds in told if holds)
            said = f"its {which} is not UTF-8 in OAR's database; \\xHH stands for each such byte"
            found[job] = Trouble(Code.BAD_TEXT, said)
    return found


def differing(rows: JobRows, known: JobRecords, accounts: Accounts) -> Bools:
    """The jobs that are new, have changed, or may have paused meanwhile."""
    at, there = located(rows.job_id, known.job_id)
    if not len(known):
        return np.ones(len(rows), np.bool_)
    account = ints(accounts.ids((*names, "") for names in rows.names()))
    differs: Bools = ~there | (account != known.account_id[at]) | (rows.state != known.state[at])
    for name in ("submission_time", "start_time", "stop_time"):
        differs |= getattr(rows, name) != getattr(known, name)[at]
    # Of what an earlier version recorded, what it did not read is no difference.
    described = known.name[at] != None  # noqa: E711 - of each element
    asked = described | (rows.moldable > 0) | (known.unsettled[at] == 1)
    differs |= (rows.walltime != known.walltime[at]) & asked
    for name in ("name", "exit_code", "reservation"):
        differs |= (getattr(rows, name) != getattr(known, name)[at]) & described
    differs |= rows.suspended & (known.unsettled[at] == 1)
    return differs


def reused(rows: JobRows, known: JobRecords) -> dict[int, str]:
    """The ids that OAR has given to another job since, and what is to be reported of each."""
    at, other = located(rows.job_id, known.job_id)
    if len(known):
        other &= known.submission_time[at] != rows.submission_time
    return {
        int(rows.job_id[row]): (
            f"is another job now: submitted at {rows.submission_time[row]}, recorded "
            f"with {known.submission_time[at[row]]}; what was recorded is kept"
        )
        for row in np.flatnonzero(other).tolist()
    }


def _vanished(rows: JobRows, known: JobRecords) -> JobRecords:
    """The unsettled jobs that OAR has no longer, or has given the id of to another one."""
    at, there = located(known.job_id, rows.job_id)
    if len(rows):
        there &= known.submission_time == rows.submission_time[at]
    return known.take((known.unsettled == 1) & ~there)


def _last_seen_at(last_seen: int | None) -> Trouble:
    until = "its start" if last_seen is None else f"the last pass, at {last_seen}"
    return Trouble(Code.VANISHED, f"OAR no longer has it; it is recorded up to {until}")


def _misnamed(rows: JobRows) -> dict[int, str]:
    """The jobs with a name that is too long to be an account's."""
    owners, owner = distinct(rows.names())
    too_long = np.array([max(map(len, names)) > LONGEST_NAME for names in owners], np.bool_)
    reason = f"has a user, project or queue of more than {LONGEST_NAME} characters"
    return dict.fromkeys(rows.job_id[too_long[owner]].tolist(), reason)

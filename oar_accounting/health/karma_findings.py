"""Whether karma decides as OAR's settings let it: of late, and if it were asked now.

OAR's schedulers go on without it whatever is wrong, and so nobody notices. What keeps it from an
answer is therefore looked for in the way in which they ask, and with the settings that they read.
"""

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from oar_accounting.core import formats
from oar_accounting.core.lengths import DAY, LATE
from oar_accounting.errors import SettingsError
from oar_accounting.health.deciding import ORDER_OF_JOBS, Deciding, look
from oar_accounting.health.mending import parted
from oar_accounting.health.records import Finding, Rounds
from oar_accounting.health.site_setup import oar_log
from oar_accounting.health.state_directory import read_rounds, state_directory
from oar_accounting.karma.checking import checked, waiting
from oar_accounting.karma.fair_share import FairShare, fair_share_of
from oar_accounting.karma.policies.policy import MONTH
from oar_accounting.ledger.ledger import Ledger
from oar_accounting.oar.queues import Queues
from oar_accounting.oar.snapshot import OarJobs
from oar_accounting.settings.load import Settings, load_settings
from oar_accounting.settings.oar_conf import read_oar_conf
from oar_accounting.settings.scheduler import with_its_login
from oar_accounting.stubs.oar3 import Config
from oar_accounting.stubs.oar_user import AS_OAR

ROUNDS = "rounds"
#: So many rounds in a row that were not ours are no accident.
MANY = 10


@dataclass(frozen=True, slots=True, kw_only=True)
class Decided:
    """What OAR's settings and its last rounds have shown."""

    findings: tuple[Finding, ...]
    deciding: Deciding | None = None
    rounds: Rounds | None = None


def decided(
    oar_conf: Path, queues: Queues | None, now: int, root: Path, environ: Mapping[str, str]
) -> Decided:
    """Is karma configured to decide, and did it, in the day before *now*?

    *queues*: None where they are not known. The paths of the machine's files are below *root*.
    """
    if not os.path.exists(oar_conf):
        said = f"not looked for: there is no {oar_conf} on this machine"
        return Decided(findings=(Finding("good", ORDER_OF_JOBS, said),))
    try:
        values = read_oar_conf(oar_conf)
    except SettingsError as error:
        return Decided(findings=(Finding("warning", ORDER_OF_JOBS, f"not known: {error}", AS_OAR),))
    policies = None if queues is None else queues.policies
    findings, deciding = look(values, oar_conf, policies, root)
    if deciding is None:
        return Decided(findings=tuple(findings))
    state = state_directory(root, environ)
    try:
        rounds = read_rounds(state, now)
    except OSError as error:
        said = f"not known: what is in {state} cannot be read: {error.strerror}"
        found = Finding("warning", ROUNDS, said, AS_OAR)
        return Decided(findings=(*findings, found), deciding=deciding)
    waited = None if queues is None else queues.waited(deciding.queues, now)
    if rounds.newest is not None or deciding.is_sure:
        findings.append(told(rounds, now, waited, oar_log(oar_conf)))
    return Decided(findings=tuple(findings), deciding=deciding, rounds=rounds)


# -- of late ----------------------------------------------------------------------------------


def told(found: Rounds, now: int, waited: int | None, log: str) -> Finding:
    """What is said of OAR's rounds.

    *waited*: the seconds that a job has waited for one, 0 where none waits; None: not known. *log*:
    the file that OAR logs to.
    """
    if _is_silent(found, now, waited):
        seen = "no round was ever seen"
        if found.newest is not None:
            ago = formats.lasting(now - found.newest)
            seen = f"no round has been seen since {formats.date(found.newest)}, {ago} ago"
        look = f"grep 'oar.accounting' {log} | tail"
        return Finding("warning", ROUNDS, f"configured to decide, but {seen}", look)
    if not found.total:
        said = f"none in {_length(found, now)}; no job has been waiting for one"
        return Finding("good", ROUNDS, said)
    said = f"our karma decided {found.ours:,} of {found.total:,} rounds in {_length(found, now)}"
    if found.missed is None:
        return Finding("good", ROUNDS, said)
    is_lost = _is_lost(found)
    if is_lost and found.ours:
        said += f" and none of the last {found.missed_in_a_row:,}"
    said += f", {_others(found)}; the last time it did not was "
    reason, mend = parted(found.reason)
    said += f"{formats.lasting(now - found.missed)} ago" + (f": {reason}" if reason else "")
    if not found.own and not is_lost:
        return Finding("good", ROUNDS, said)
    mend = mend or "oar-accounting settings check"
    return Finding("bad" if is_lost else "warning", ROUNDS, said, mend)


def _is_lost(found: Rounds) -> bool:
    """True where our karma has not decided for long.

    An answer that is repeated is ours: so it is while the library is upgraded.
    """
    if not found.own and found.decided is not None and found.newest is not None:
        return found.newest - found.decided > LATE
    return found.missed_in_a_row >= min(MANY, found.total)


def _is_silent(found: Rounds, now: int, waited: int | None) -> bool:
    # Where a job waits, OAR has a round every minute, and none where no job does.
    if waited is None:
        return not found.total
    return waited > LATE and (found.newest is None or now - found.newest > LATE)


def _others(found: Rounds) -> str:
    counts = {"the last answer that it gave": found.last_answer, "OAR's own order": found.own}
    return ", ".join(f"{who} {number:,}" for who, number in counts.items() if number)


def _length(found: Rounds, now: int) -> str:
    seconds = now - found.since
    return f"the last {'24 h' if seconds == DAY else formats.lasting(seconds)}"


# -- now --------------------------------------------------------------------------------------


def scheduler_settings(given: Settings, deciding: Deciding | None) -> Settings:
    """The settings that the scheduler reads, which need not be those that were *given* here.

    Raises :class:`SettingsError`.
    """
    if deciding is None:
        return given
    told = deciding.given or Config()
    conf = told.oar_conf or given.oar_conf
    if isinstance(told.show, str):
        load_settings(oar_conf=conf, config=told.show, site=told.site)
    read = load_settings(oar_conf=conf, config=told.config, site=told.site)
    read = with_its_login(read)
    # Who else can read a password is told of those that were given.
    return replace(read, warnings=given.warnings)


@contextmanager
def asking(
    read: Settings, deciding: Deciding | None, now: int, opened: tuple[Ledger, OarJobs] | None
) -> Iterator[FairShare]:
    """What the scheduler asks, in the databases that its settings name; *opened*: these."""
    if opened is not None:
        yield FairShare(read, *opened, now)
        return
    told = None if deciding is None else deciding.given
    with fair_share_of(read, now, None if told is None else told.limit) as found:
        yield found


def answer(asked: FairShare, read: Settings, deciding: Deciding | None) -> str:
    """Ask as the scheduler does, and say what came of it. Raises all that asking raises."""
    told = None if deciding is None else deciding.given
    if told is not None and told.metrics is not None:
        asked.sums(told.metrics, [], asked.now - MONTH)
        return f"the sums of {', '.join(told.metrics)} can be had, by {read.file}"
    report = checked(asked, read.file)
    return f"{report.policy}, by {read.file}; {waiting(report)}"

"""What is told of how the accounting of a site is."""

from dataclasses import dataclass
from typing import Literal

from oar_accounting.ledger.records import PassRecord

Level = Literal["good", "warning", "bad"]


@dataclass(frozen=True, slots=True)
class Finding:
    """What a look at one thing has shown."""

    level: Level
    subject: str
    said: str
    mend: str = ""  #: the command that mends it; empty where all is well


@dataclass(frozen=True, slots=True, kw_only=True)
class SiteStatus:
    """What is recorded of a site, and what became of its passes. Times are epoch seconds UTC."""

    window: int  #: seconds
    dimension: str
    profile: str
    containers: str
    grace: int | None  #: seconds
    names: str
    property_since: tuple[tuple[str, int], ...]  #: epoch seconds UTC, by property
    metrics: tuple[str, ...]
    jobs: int
    open_jobs: int  #: jobs that hold resources now
    purged_before: int | None
    last_pass: PassRecord | None  #: of any verb
    last_catch_up: PassRecord | None  #: whatever became of it
    last_success: int | None  #: when the last catch-up that was done began
    problems: int  #: jobs that it could not record as OAR has them
    standing: int  #: problems that stand: found by any pass, and not found mended since
    failed: int  #: catch-ups since then that failed
    unended: int  #: and those that began and never ended


@dataclass(frozen=True, slots=True, kw_only=True)
class Backlog:
    """Jobs of OAR that wait to be recorded."""

    jobs: int
    oldest: int | None  #: the job that has waited longest
    since: int | None  #: epoch seconds UTC: when it was submitted, or ended


@dataclass(frozen=True, slots=True, kw_only=True)
class Rounds:
    """Who decided the last rounds of OAR's scheduler. Times are epoch seconds UTC."""

    since: int  #: from then on they are counted
    total: int
    ours: int  #: decided by our karma
    last_answer: int  #: by the last answer that our karma had given
    own: int  #: by OAR's own order
    missed_in_a_row: int  #: of the newest, those that were not ours
    newest: int | None  #: when the newest was, be it before `since`; None: none was ever seen
    decided: int | None  #: when our karma last decided; None: it never did
    missed: int | None  #: when our karma last did not decide; None: it always did
    reason: str  #: why it did not then


@dataclass(frozen=True, slots=True, kw_only=True)
class Status:
    """How the accounting of a site is. What could not be found out is None."""

    at: int  #: epoch seconds UTC
    program: str  #: its version
    oar_conf: str
    site: str | None = None
    settings: str | None = None  #: our file
    oar_database: str | None = None  #: its URL without password, and what it runs on
    database: str | None = None  #: the same of our tables
    schema: int | None = None  #: version of our tables
    recorded: SiteStatus | None = None
    backlog: Backlog | None = None
    rounds: Rounds | None = None  #: also None where OAR's settings do not let our karma decide
    stopped_queues: tuple[str, ...] | None = None  #: of OAR's queues those that are notActive
    findings: tuple[Finding, ...]

    @property
    def is_well(self) -> bool:
        """True where nothing needs attention."""
        return all(each.level == "good" for each in self.findings)

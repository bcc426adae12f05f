"""Small frozen records for the edges where people and tools look."""

from dataclasses import dataclass
from typing import Literal

Level = Literal["good", "warning", "bad"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Problem:
    """A job that could not be recorded as OAR has it, and why. It never stops a pass."""

    job_id: int
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class PassReport:
    """What a pass over OAR's jobs did."""

    done: int = 0  #: jobs that ended and now stand in the totals
    changed: int = 0  #: jobs recorded earlier that OAR has corrected since
    open: int = 0  #: jobs that hold resources now
    problems: tuple[Problem, ...] = ()
    notices: tuple[str, ...] = ()  #: what an administrator should know, one line each


@dataclass(frozen=True, slots=True, kw_only=True)
class PassRecord:
    """A pass as the journal has it. Times are epoch seconds UTC."""

    verb: str  #: catch-up, record, rebuild ...
    began: int
    ended: int | None  #: None: it is at work, or it was killed
    outcome: str  #: running, done or failed
    done: int
    changed: int
    problems: int
    message: str  #: why it failed, or the first of its problems


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
    metrics: tuple[str, ...]
    jobs: int
    open_jobs: int  #: jobs that hold resources now
    purged_before: int | None
    last_pass: PassRecord | None  #: of any verb
    last_catch_up: PassRecord | None  #: whatever became of it
    last_success: int | None  #: when the last catch-up that was done began
    problems: int  #: jobs that it could not record as OAR has them
    failed: int  #: catch-ups since then that failed
    unended: int  #: and those that began and never ended


@dataclass(frozen=True, slots=True, kw_only=True)
class Backlog:
    """Jobs of OAR that wait to be recorded."""

    jobs: int
    oldest: int | None  #: the job that has waited longest
    since: int | None  #: epoch seconds UTC: when it was submitted, or ended


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
    findings: tuple[Finding, ...]

    @property
    def is_well(self) -> bool:
        """True where nothing needs attention."""
        return all(each.level == "good" for each in self.findings)


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """A total that is not what spans and rates give. Amounts are in the metric's unit / scale."""

    window_start: int  #: epoch seconds UTC
    user: str
    project: str
    queue: str
    property: str  #: value of the site's dimension property; empty where there is none
    metric: str
    asked: int  #: as stored
    used: int
    expected_asked: int  #: as spans, rates and entries give
    expected_used: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Usage:
    """What one group asked for and used of one metric within a span of time."""

    group: tuple[str, ...]  #: a value per grouping key, in the order asked for
    metric: str
    unit: str  #: ``core·s``; amounts are in this divided by ``scale``
    scale: int
    asked: int
    used: int


@dataclass(frozen=True, slots=True, kw_only=True)
class UsageReport:
    """The answer of `Accounting.usage`: rows sorted by group, then by metric."""

    by: tuple[str, ...]
    start: int | None  #: epoch seconds UTC, inclusive; None: from the first window on
    stop: int | None  #: exclusive; None: without end
    rows: tuple[Usage, ...]
    open_jobs: int  #: jobs that run now and are in no row

    def by_group(self) -> list[tuple[tuple[str, ...], dict[str, tuple[int, int]]]]:
        """Per group, asked and used by metric; with several groups a last one for their total."""
        groups: dict[tuple[str, ...], dict[str, tuple[int, int]]] = {}
        total: dict[str, tuple[int, int]] = {}
        for row in self.rows:
            groups.setdefault(row.group, {})[row.metric] = (row.asked, row.used)
            asked, used = total.get(row.metric, (0, 0))
            total[row.metric] = (asked + row.asked, used + row.used)
        named = list(groups.items())
        if len(named) > 1:
            named.append((("total", *("" for _ in self.by[1:])), total))
        return named

"""What is told of passes over OAR's jobs, and of totals that are wrong."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Problem:
    """A job that could not be recorded as OAR has it, and why. It never stops a pass."""

    job_id: int
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class StandingProblem:
    """A problem that was found and has not been found mended since. Times are epoch seconds UTC."""

    kind: str  #: of what it is: job or resource
    subject: str  #: the id of that
    code: str  #: which problem: impossible-times, bad-value ...
    message: str  #: what is wrong
    first_seen: int
    last_seen: int  #: by the last pass that looked at it
    helps: str  #: what to do first
    command: str  #: and what to run then


@dataclass(frozen=True, slots=True, kw_only=True)
class PassReport:
    """What a pass over OAR's jobs did."""

    done: int = 0  #: jobs that ended and now stand in the totals
    changed: int = 0  #: jobs recorded earlier that OAR has corrected since
    open: int = 0  #: jobs that hold resources now
    #: Figures that are otherwise than before: amounts of recorded jobs in a metric or, where only
    #: totals were rebuilt, totals.
    figures: int = 0
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


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """A total that is not what spans and rates give, or too much that is kept of purged jobs.

    Amounts are in the metric's unit / scale.
    """

    window_start: int  #: epoch seconds UTC
    seconds: int  #: of the window, or of the day where it is the total of that
    user: str
    project: str
    queue: str
    property: str  #: value of the site's dimension property; empty where there is none
    metric: str
    asked: int  #: as stored
    used: int
    expected_asked: int  #: as spans, rates and entries give
    expected_used: int
    #: It is no total: more is kept of single purged jobs than is carried of all. No rebuild mends
    #: that.
    kept: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class OpeningReport:
    """What was taken over of OAR's own accounting. Amounts are in resource·s."""

    rows: int  #: for a window, user, project and queue each; also those that stood already
    new: int
    changed: int  #: those that OAR counts otherwise than when they were taken over
    start: int | None  #: epoch seconds UTC: when the first window begins; None without any
    stop: int | None  #: exclusive: when the last one ends
    asked: int
    used: int
    left_out: int  #: rows of windows in which there still are jobs
    left_out_asked: int
    left_out_used: int


@dataclass(frozen=True, slots=True, kw_only=True)
class UpgradeStep:
    """A table that an upgrade changes."""

    table: str
    rows: int
    seconds: float  #: about so long


@dataclass(frozen=True, slots=True, kw_only=True)
class UpgradePlan:
    """What creating or upgrading our tables would do."""

    found: int | None  #: the version of the tables; None where there are none
    version: int  #: the version they would have
    steps: tuple[UpgradeStep, ...]  #: tables that take time, or are locked; others take none
    locks: str = ""  #: what others cannot do meanwhile

    @property
    def seconds(self) -> float:
        """About how long it takes."""
        return sum(step.seconds for step in self.steps)


@dataclass(frozen=True, slots=True, kw_only=True)
class DryRun:
    """What `purge`, `forget_user` or `retire` would do. Times are epoch seconds UTC."""

    jobs: int  #: that would lose their details, belong to a pseudonym, or have another id
    rows: int  #: of our tables that would go or be changed, but for the journal's row of the run
    start: int | None  #: when the first of the jobs that ran did so; None: none ran
    stop: int | None  #: when the last of those that have ended did so; None: none has
    before: int | None = None  #: of a purge: the bound of windows up to which it goes

"""Small frozen records for the edges where people and tools look."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

from oar_accounting.errors import DifferentUnits

#: Called now and then with how much is done, and of how much.
Progress = Callable[[int, int], None]

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


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """A total that is not what spans and rates give. Amounts are in the metric's unit / scale."""

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


@dataclass(frozen=True, slots=True, kw_only=True)
class Amounts:
    """What was asked for and used, in a metric's unit divided by its scale.

    Within *asked* and *used* are the parts that no recorded job accounts for: opening amounts,
    taken over from OAR's own accounting, and adjustments, which may be negative.
    """

    asked: int = 0
    used: int = 0
    opening_asked: int = 0
    opening_used: int = 0
    adjusted_asked: int = 0
    adjusted_used: int = 0

    def __add__(self, other: "Amounts") -> "Amounts":
        return Amounts(
            asked=self.asked + other.asked,
            used=self.used + other.used,
            opening_asked=self.opening_asked + other.opening_asked,
            opening_used=self.opening_used + other.opening_used,
            adjusted_asked=self.adjusted_asked + other.adjusted_asked,
            adjusted_used=self.adjusted_used + other.adjusted_used,
        )


#: How an amount was found. ``exact``: to the second. ``proportional``: a bound cuts a window in
#: which something was only measured, or taken over: it has its share by time. ``windows``: a bound
#: cuts a window of purged jobs: it counts whole where it begins.
ACCURACIES = ("exact", "proportional", "windows")


@dataclass(frozen=True, slots=True, kw_only=True)
class ShownMetric:
    """A metric of an answer."""

    name: str
    unit: str  #: ``core·s``; amounts are in this divided by ``scale``
    scale: int


def check_units(metrics: Iterable[ShownMetric]) -> None:
    """Raise :class:`DifferentUnits` where one metric is there in two units or scales."""
    units: dict[str, ShownMetric] = {}
    for metric in metrics:
        if units.setdefault(metric.name, metric) != metric:
            raise DifferentUnits(
                f"metric {metric.name!r} is declared in different units by two sites, and cannot "
                "be added up; ask one site at a time: where site is ..."
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class Usage(Amounts):
    """What one group asked for and used of one metric within a span of time, a bucket."""

    group: tuple[str, ...]  #: a value per grouping key, in the order asked for; "" for none
    metric: str
    unit: str  #: ``core·s``; amounts are in this divided by ``scale``
    scale: int
    start: int | None = None  #: of the bucket, epoch seconds UTC; None: from the beginning
    stop: int | None = None  #: exclusive; None: without end
    accuracy: str = "exact"  #: one of `ACCURACIES`

    @property
    def shown_metric(self) -> ShownMetric:
        """The metric with its unit: of two sites each may declare it in a unit of its own."""
        return ShownMetric(name=self.metric, unit=self.unit, scale=self.scale)


@dataclass(frozen=True, slots=True, kw_only=True)
class UsageReport:
    """The answer of `Accounting.usage`: rows sorted by group, then by metric."""

    by: tuple[str, ...]
    start: int | None  #: epoch seconds UTC, inclusive; None: from the beginning on
    stop: int | None  #: exclusive; None: without end
    rows: tuple[Usage, ...]
    open_jobs: int  #: jobs that run now and are in no row
    bucket: str | int | None = None  #: what time is cut into; None: it is not
    timezone: str = "UTC"  #: in which a day is a day
    as_of: int | None = None  #: open jobs count as used by then; None: they do not count

    def by_group(self) -> dict[tuple[str, ...], dict[str, Amounts]]:
        """The amounts per group and metric, all buckets together. Raises as `total`."""
        groups: dict[tuple[str, ...], list[Usage]] = {}
        for row in self.rows:
            groups.setdefault(row.group, []).append(row)
        return {group: _by_metric(rows) for group, rows in groups.items()}

    def total(self) -> dict[str, Amounts]:
        """The amounts of all groups together, per metric.

        Raises :class:`oar_accounting.DifferentUnits` where two sites declare a metric in two units.
        """
        return _by_metric(self.rows)


def _by_metric(rows: Sequence[Usage]) -> dict[str, Amounts]:
    check_units(row.shown_metric for row in rows)
    total: dict[str, Amounts] = {}
    for row in rows:
        total[row.metric] = total.get(row.metric, Amounts()) + row
    return total


@dataclass(frozen=True, slots=True, kw_only=True)
class Ranking:
    """Who used most of one metric: the answer of `Accounting.top`."""

    by: tuple[str, ...]
    metric: str
    unit: str
    scale: int
    rows: tuple[Usage, ...]  #: the one who used most first; equal ones by name
    others: int  #: how many groups are not listed
    used_by_others: int  #: together
    used: int  #: by all
    accuracies: frozenset[str]  #: of `ACCURACIES` those of all rows, listed or not
    open_jobs: int  #: jobs that run now and are in no row


@dataclass(frozen=True, slots=True, kw_only=True)
class UtilisationRow:
    """How full the machine was within ``[start, stop)``, in one metric.

    Whole amounts in its unit divided by its scale, none below zero; ``capacity`` is ``down +
    standby + used + free``, and ``used + over`` is what the ledger says was used.
    """

    metric: str
    unit: str  #: ``core·s``; amounts are in this divided by ``scale``
    scale: int
    start: int  #: epoch seconds UTC
    stop: int  #: exclusive
    capacity: int  #: what there was, whatever its state
    down: int  #: dead, suspected or absent, and not used
    standby: int  #: asleep to save energy, and not used
    used: int
    free: int
    over: int  #: used beyond what was up: shared, or of resources that OAR does not have


@dataclass(frozen=True, slots=True, kw_only=True)
class UtilisationReport:
    """The answer of `Accounting.utilisation`: rows by metric, as asked for, then by time."""

    rows: tuple[UtilisationRow, ...]
    notes: tuple[str, ...]  #: what the reader of the figures should know, one line each
    as_of: int  #: epoch seconds UTC: where the period ends, and until when open jobs count


@dataclass(frozen=True, slots=True, kw_only=True)
class HeldMetric:
    """What a job asked for and used of one metric, in its unit divided by its scale."""

    metric: str
    unit: str
    scale: int
    asked: int
    used: int

    @property
    def unused(self) -> int:
        """What was asked for and not used; below zero where OAR stopped the job late."""
        return self.asked - self.used


@dataclass(frozen=True, slots=True, kw_only=True)
class RecordedJob:
    """A job as it is recorded. Times are epoch seconds UTC, lengths are seconds."""

    job_id: int  #: below zero where OAR has given its number to another
    user: str
    project: str
    queue: str
    state: str
    types: tuple[str, ...]
    submitted: int
    started: int | None  #: None: it has not held anything
    ended: int | None  #: None: it has not ended, or never started
    walltime: int
    waited: int | None  #: from its submission to its start; None: it has not started
    size: int  #: what it holds of the metric of sizes, in its unit; rounded down
    metrics: tuple[HeldMetric, ...]  #: that it asked for anything of
    purged: bool  #: what it used is no longer known


@dataclass(frozen=True, slots=True, kw_only=True)
class JobPage:
    """Some jobs, by ascending number, and where the next ones begin."""

    jobs: tuple[RecordedJob, ...]
    after: int | None  #: the cursor of the next page; None: there are no more


@dataclass(frozen=True, slots=True, kw_only=True)
class Efficiency:
    """What jobs that ended asked for and used, whole, of one metric."""

    group: tuple[str, ...]
    jobs: int  #: that used something
    metric: str
    unit: str
    scale: int
    asked: int
    used: int

    @property
    def unused(self) -> int:
        """What was asked for and not used."""
        return self.asked - self.used

    @property
    def share(self) -> float | None:
        """Used of what was asked for; None where nothing was."""
        return self.used / self.asked if self.asked else None


@dataclass(frozen=True, slots=True, kw_only=True)
class SizeUse:
    """What jobs of a class of size used of one metric, and how many they were."""

    group: tuple[str, ...]  #: the last is the class of size
    jobs: int
    metric: str
    unit: str
    scale: int
    used: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Waiting:
    """How long jobs that started had waited, in seconds.

    Of the waits in ascending order the median is the first that half of the jobs, or more, did not
    exceed, and the 90th percentile likewise: both are waits of real jobs.
    """

    group: tuple[str, ...]
    jobs: int
    mean: int  #: rounded down
    median: int
    percentile_90: int
    longest: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ProjectMonth:
    """What a project used in a month, and in the same month of the year before."""

    label: str  #: 2026-03
    start: int  #: epoch seconds UTC
    stop: int
    used: int
    before: int  #: a year before


@dataclass(frozen=True, slots=True, kw_only=True)
class ProjectMember:
    """What a member of a project used."""

    user: str
    jobs: int
    asked: int
    used: int
    before: int  #: used in the same months of the year before


@dataclass(frozen=True, slots=True, kw_only=True)
class ProjectReport:
    """A project's page, of one metric; amounts are in its unit divided by its scale."""

    project: str
    metric: str
    unit: str
    scale: int
    start: int
    stop: int
    timezone: str
    as_of: int | None
    months: tuple[ProjectMonth, ...]
    members: tuple[ProjectMember, ...]  #: the one who used most first


@dataclass(frozen=True, slots=True, kw_only=True)
class Attribute:
    """Where a user or project belongs for a time. Times are epoch seconds UTC, half-open."""

    attribute: str  #: laboratory, team, parent ...
    kind: str  #: user or project: whose name it is
    name: str
    valid_from: int | None  #: None: it always was so
    valid_to: int | None  #: None: it goes on
    value: str


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
class StockReport:
    """What was done, or would be, to OAR's own table accounting; amounts in resource·s."""

    jobs: int = 0  #: jobs that were counted
    rows: int = 0  #: rows that they count in
    removed: int = 0  #: rows that were removed
    lost: int = 0  #: those of them in which there was more than what was counted anew
    asked: int = 0  #: how much more
    used: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class AttributesReport:
    """What an import of attributes changed, or with *dry_run* would change."""

    kind: str  #: user or project: whose attributes they are
    attributes: tuple[str, ...]
    names: int  #: users, or projects, that have an entry now
    entries: int
    added: int
    removed: int
    changed: int
    notes: tuple[str, ...]  #: what an administrator should know, one line each
    dry_run: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class AdjustedMetric:
    """Signed amounts of one metric, in its unit divided by its scale."""

    metric: str
    unit: str
    scale: int
    asked: int
    used: int


@dataclass(frozen=True, slots=True, kw_only=True)
class AdjustedAccount(AdjustedMetric):
    """What is added to whom."""

    user: str
    project: str
    queue: str


@dataclass(frozen=True, slots=True, kw_only=True)
class AdjustmentLine(AdjustedAccount):
    """A line of an adjustment: its amounts lie evenly over ``[start, stop)``."""

    line: int
    property: str  #: value of the site's dimension property; empty where there is none
    job_id: int | None  #: None: no job is adjusted but an account
    start: int  #: epoch seconds UTC
    stop: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Adjustment:
    """An adjustment that was posted. It is never edited, only countered by another."""

    adjustment_id: int
    posted: int  #: epoch seconds UTC
    author: str
    reason: str
    counters: int | None  #: the adjustment whose amounts it takes back
    countered_by: int | None
    lines: int
    jobs: int
    amounts: tuple[AdjustedMetric, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class AdjustmentReport:
    """What was posted, or would be."""

    adjustment_id: int | None  #: None: a dry run, or nothing was left to adjust
    jobs: int
    lines: int
    rows: tuple[AdjustedAccount, ...]  #: sorted by user, project, queue and metric
    notices: tuple[str, ...]  #: what was left out and why, one line each

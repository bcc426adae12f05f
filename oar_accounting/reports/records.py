"""What reports say, for people and tools. Amounts are in a metric's unit divided by its scale."""

from dataclasses import dataclass

from oar_accounting.usage.records import Usage


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
    walltime: int | None  #: None: it has not started, and what it asks for is not known
    waited: int | None  #: from its submission to its start; None: it has not started
    #: What it holds of the metric of sizes, in its unit, rounded down; of a job that waits, how
    #: many resources it asks for. None: not known, as of what an earlier version purged.
    size: int | None
    metrics: tuple[HeldMetric, ...]  #: that it asked for anything of
    #: What it asked for and used is known by day only; where its size is None, that is lost, too.
    purged: bool
    #: From its start to its end; while it runs, to the instant of the question or the present.
    #: None: it has not held anything.
    ran: int | None
    # Of these four None: not recorded, as of jobs that an earlier version recorded.
    name: str | None  #: empty for none, and of a user who was forgotten
    exit_code: int | None  #: as OAR has it, see `formats.exit_words`; None also where it has none
    nodes: str | None  #: like ``n[1-4,7]``, see `node_lists`; empty for none
    reservation: str | None  #: OAR's word, ``None`` for none


@dataclass(frozen=True, slots=True, kw_only=True)
class JobSpan:
    """A half-open span, epoch seconds UTC, in which a job asked for or used what it held."""

    kind: str  #: ``asked``: from its start for its walltime; ``used``: while it ran
    start: int
    stop: int | None  #: None: while it runs


@dataclass(frozen=True, slots=True, kw_only=True)
class JobPart:
    """What a job holds of a metric each second within ``[start, stop)``, as far as a span goes."""

    metric: str
    unit: str  #: ``core``; amounts are in this divided by ``scale``
    scale: int
    value: str  #: of the site's dimension property, such as the cluster
    start: int  #: epoch seconds UTC
    stop: int | None  #: None: until the job ends, and for what it asks for after that
    asked: int
    used: int  #: other than ``asked`` in a container, whose inner jobs are billed there


@dataclass(frozen=True, slots=True, kw_only=True)
class JobHistory:
    """One job over time: the answer of `Accounting.job`."""

    job: RecordedJob
    spans: tuple[JobSpan, ...]  #: those that were asked for first; none of a purged job
    parts: tuple[JobPart, ...]  #: by time, value and metric; none of a purged job


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
    accuracy: str = "exact"  #: one of `ACCURACIES`

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
    accuracy: str = "exact"  #: one of `ACCURACIES`


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
    #: Of `ACCURACIES` those of all amounts.
    accuracies: frozenset[str] = frozenset()

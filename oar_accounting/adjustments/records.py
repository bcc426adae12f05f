"""What is told of corrections by hand."""

from dataclasses import dataclass


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

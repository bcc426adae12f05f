"""What an answer about usage says: amounts, metrics, groups."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from oar_accounting.core import formats, periods
from oar_accounting.core.lengths import LATE
from oar_accounting.errors import DifferentUnits


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
#: which something was only measured, or taken over, or the day of a purged job: it has its share by
#: time. ``windows``: a bound cuts a window of purged jobs: it counts whole where it begins.
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


@dataclass(frozen=True, slots=True, kw_only=True)
class CatalogMetric:
    """A metric of which amounts can be asked."""

    name: str
    unit: str  #: ``core·s``; amounts are in this divided by ``scale``
    scale: int
    form: str  #: how it is found: ``count``, ``distinct``, ``sum`` or ``formula``
    of: str  #: the property that is counted or summed, or the formula; empty for ``count``
    per: str  #: sum: once per different value of this property; empty: per resource
    type: str  #: of the resources that count; ``*`` for all


@dataclass(frozen=True, slots=True, kw_only=True)
class Catalog:
    """What can be asked of a site: `Accounting.catalog`. Times are epoch seconds UTC."""

    site: str
    timezone: str  #: whose clocks say when a day begins, unless a question says otherwise
    window: int  #: seconds; amounts are kept by windows of this length
    keys: tuple[str, ...]  #: by which usage can be grouped and chosen
    #: Of the keys those that are attributes, each with whether a ``user`` or a ``project`` has it.
    attributes: tuple[tuple[str, str], ...]
    metrics: tuple[CatalogMetric, ...]  #: in the order in which they were declared
    recorded_from: int | None  #: the first window with anything in it; None: there is nothing
    #: When the last catch-up that was done began: what OAR had then is recorded. None: none was.
    recorded_until: int | None
    purged_before: int | None  #: of jobs that ended before, single spans are gone; None: none are
    now: int  #: when this was so


@dataclass(frozen=True, slots=True, kw_only=True)
class Coverage:
    """The span that an answer is of, and how far that was recorded: `Accounting.coverage`.

    Times are epoch seconds UTC.
    """

    start: int | None  #: None: from the beginning on
    stop: int | None  #: exclusive; None: without end
    timezone: str  #: in which people are told of them
    as_of: int | None  #: open jobs count as used by then, and nothing later; None: they do not
    now: int  #: when this was so
    #: When the last catch-up that was done began: what OAR had then is recorded. Of several sites
    #: the one that was longest ago; None: at one of them none ever was done.
    recorded_until: int | None
    #: Open jobs that should have ended: their walltime is over, and has been for some time. They
    #: have ended since the last catch-up, or OAR holds them.
    overdue_jobs: int
    #: Seconds beyond their walltimes for which these count at most; None: as long as they last.
    grace: int | None = None
    #: Of reports about jobs: how many of them an earlier version purged. They are in the totals,
    #: and nobody knows any more what each asked for and used.
    lost_jobs: int = 0
    #: The span begins within a window of purged jobs: what they used in it is not in the answer.
    begins_in_purged: bool = False

    @property
    def is_complete(self) -> bool:
        """True where all of the span was recorded, but for overdue jobs."""
        ends = [each for each in (self.stop, self.as_of) if each is not None]
        return self.recorded_until is not None and bool(ends) and self.recorded_until >= min(ends)

    @property
    def is_stale(self) -> bool:
        """True where something is missing that should be there by now."""
        late = self.recorded_until is None or self.now - self.recorded_until > LATE
        return bool(self.overdue_jobs) or (late and not self.is_complete)

    def span(self) -> str:
        """The span and its zone in words, for the line above a table."""
        return periods.span_in_words(self.start, self.stop, periods.zone(self.timezone))

    def notes(self) -> tuple[str, ...]:
        """What a reader should know of what is missing, a line each."""
        return tuple(filter(None, (self._recorded(), self._overdue(), *self.lost())))

    def lost(self) -> tuple[str, ...]:
        """What is to be said of purged jobs that are not in the answer, a line each."""
        cut = (
            "the span begins within a window of purged jobs: what they used in it counts where it "
            "begins, before the span"
        )
        return (*filter(None, [self._lost_jobs()]), *([cut] if self.begins_in_purged else []))

    def _lost_jobs(self) -> str:
        if not self.lost_jobs:
            return ""
        purged, it = f"{self.lost_jobs} jobs were purged", "each of them"
        if self.lost_jobs == 1:
            purged, it = "1 job was purged", "it"
        return f"{purged} by an earlier version: what {it} asked for and used is not known"

    def _recorded(self) -> str:
        if self.is_complete:
            return ""
        if self.recorded_until is None:
            return "no catch-up was ever done to its end: what is missing is not known"
        until = periods.shown(self.recorded_until, periods.zone(self.timezone))
        ago = self.now - self.recorded_until
        if ago <= LATE:
            return f"recorded until {until}"
        return f"recorded until {until}, {formats.lasting(ago)} ago: what happened since is missing"

    def _overdue(self) -> str:
        if not self.overdue_jobs:
            return ""
        jobs, they = f"{self.overdue_jobs} open jobs are past their walltime", "they"
        if self.overdue_jobs == 1:
            jobs, they = "1 open job is past its walltime", "it"
        if self.as_of is None:
            return f"{jobs}: what {they} used is not counted"
        if self.grace is not None:
            return f"{jobs}: counted for no more than that and {self.grace} s"
        return f"{jobs}: counted as if {they} had not ended"


def _by_metric(rows: Sequence[Usage]) -> dict[str, Amounts]:
    check_units(row.shown_metric for row in rows)
    total: dict[str, Amounts] = {}
    for row in rows:
        total[row.metric] = total.get(row.metric, Amounts()) + row
    return total

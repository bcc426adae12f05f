"""The verbs that answer about what is recorded, and write nothing."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any, TypedDict, Unpack

from sqlalchemy import Connection

from oar_accounting.errors import UnknownName
from oar_accounting.ledger.ledger import GivenLedger, Ledger
from oar_accounting.reports.records import (
    Efficiency,
    JobHistory,
    JobPage,
    ProjectReport,
    Ranking,
    RecordedJob,
    SizeUse,
    Waiting,
)
from oar_accounting.settings.load import Settings
from oar_accounting.usage.records import Catalog, Coverage, UsageReport

# OAR's schedulers ask none of these questions, and would wait for what answers them.
if TYPE_CHECKING:
    from oar_accounting.reports.jobs import Moment
    from oar_accounting.usage.job_keys import Sizes
    from oar_accounting.usage.keys import Visible
    from oar_accounting.usage.result import UsageColumns
    from oar_accounting.usage.usage_query import Keys, UsageQuery, Where


class Chosen(TypedDict, total=False):
    """What may be given to every question about jobs and usage; see `Reporting.usage`."""

    where: "Where | None"
    sizes: "Sizes | None"
    visible_to: "Visible | None"


class ChosenUntil(Chosen, total=False):
    """The same, with the instant until which jobs count that have not ended."""

    as_of: int | None


class UsageGiven(ChosenUntil, total=False):
    """What may be given to `Reporting.usage`, which says what it means."""

    bucket: str | int | None
    timezone: str | None
    without_adjustments: bool
    whole_windows: bool


class JobsGiven(ChosenUntil, total=False):
    """What may be given to `Reporting.jobs`, which says what it means."""

    moment: "Moment"
    metrics: "Keys | None"
    start: int | None
    stop: int | None


class OneJobGiven(TypedDict, total=False):
    """What may be given to `Reporting.job`; see `Reporting.jobs`."""

    metrics: "Keys | None"
    as_of: int | None
    visible_to: "Visible | None"


class Reporting:
    """The questions about one site; times are epoch seconds UTC, spans are half-open."""

    def __init__(self, given: Settings, ledger: Ledger, clock: Callable[[], int]) -> None:
        """*clock* gives the present, in epoch seconds."""
        self.settings = given
        self._ledger = ledger
        self._clock = clock

    def through(self, connection: Connection) -> "Reporting":
        """The same questions, asked through a *connection* of the caller's, in their transaction.

        It is neither begun nor ended here. Example:
        ``accounting.through(connection).usage(("user",))``
        """
        ledger = GivenLedger(connection, self._ledger.site_name)
        return Reporting(self.settings, ledger, self._clock)

    def catalog(self) -> Catalog:
        """What can be asked: metrics, keys and time zone, and from and until when it is recorded.

        It names nobody. Raises :class:`oar_accounting.UnknownName` where nothing is recorded.

        Example: ``[metric.name for metric in accounting.catalog().metrics]``
        """
        from oar_accounting.usage.catalog import catalog

        with self._ledger.reading_site() as (connection, site):
            return catalog(connection, site, self.settings.timezone, self._clock())

    def query(
        self,
        by: "Keys | UsageQuery" = ("user",),
        metrics: "Keys | None" = None,
        start: int | None = None,
        stop: int | None = None,
        **given: Unpack[UsageGiven],
    ) -> "UsageQuery":
        """The question of `usage`, checked: it may be handed on in the place of *by*.

        To `usage`, `usage_columns`, `top`, `efficiency`, `sizes` and `waiting`; nothing else may be
        given with it, and what one of them does not know must not be asked. Raises as `usage`, and
        TypeError.

        Example: ``accounting.query(("project",), start=start, stop=stop, bucket="month")``
        """
        from oar_accounting.usage.usage_query import UsageQuery

        if isinstance(by, UsageQuery):
            if given or (metrics, start, stop) != (None, None, None):
                raise TypeError("a UsageQuery says all that is asked: nothing goes with it")
            return by
        if not given.get("timezone"):
            given["timezone"] = self.settings.timezone
        return UsageQuery.of(by, metrics, start, stop, **given)

    def usage(
        self,
        by: "Keys | UsageQuery" = ("user",),
        metrics: "Keys | None" = None,
        start: int | None = None,
        stop: int | None = None,
        **given: Unpack[UsageGiven],
    ) -> UsageReport:
        """What was asked for and used within ``[start, stop)``, exact to the second.

        *by*: site, user, project, queue, the dimension property, attributes, and of jobs: job,
        type, state, size. No *metrics* are all. *bucket*: hour, day, week, month, quarter, year, or
        seconds, by the clocks of *timezone*, else of the settings. *where*: for any of the same
        keys the values that count. Jobs that have not ended count as of the instant *as_of*, which
        also bounds what others had used; without it they do not count, and `open_jobs` says how
        many these are. Opening amounts and adjustments are within the amounts, and told apart.
        *whole_windows*: count every window whole that the span reaches into, as OAR does.
        *visible_to*: who is told; to them all that they may not see is as if it were not recorded.
        *sizes*: what the key size means, if not what it means to XDMoD. All rows of adjacent spans,
        and of any buckets, add up to those of their union; each says how exact it is: see
        `usage.records.ACCURACIES`.

        Raises :class:`oar_accounting.UnknownName`, :class:`oar_accounting.BadSpan` and
        :class:`oar_accounting.AmountOverflow`.

        Example: ``accounting.usage(("project", "user"), ("core",), start, stop, bucket="month")``
        """
        from oar_accounting.usage.query import count_open_jobs, usage

        _only("usage", given, UsageGiven)
        asked = self.query(by, metrics, start, stop, **given)
        with self._ledger.reading_site() as (connection, site):
            found = usage(connection, site, asked)
            running = 0 if asked.as_of is not None else count_open_jobs(connection, site, asked)
        return UsageReport(
            by=asked.by,
            start=asked.start,
            stop=asked.stop,
            rows=tuple(found.rows()),
            open_jobs=running,
            bucket=asked.bucket,
            timezone=asked.timezone,
            as_of=asked.as_of,
        )

    def coverage(
        self,
        by: "Keys | UsageQuery" = ("user",),
        metrics: "Keys | None" = None,
        start: int | None = None,
        stop: int | None = None,
        *,
        of_jobs: bool = False,
        **given: Unpack[UsageGiven],
    ) -> Coverage:
        """How far the answer of `usage`, or of another report, to the same question is recorded.

        Until when, by the last catch-up, and which open jobs should have ended; of reports that
        tell of jobs (*of_jobs*: all but `usage` and `top`, which do where a key is of jobs), too,
        how many an earlier version purged. Ask it before the question itself: a catch-up between
        the two then does no harm. Raises as `usage`.

        Example: ``accounting.coverage(query).recorded_until``
        """
        from oar_accounting.usage.coverage import coverage

        _only("coverage", given, UsageGiven)
        asked = self.query(by, metrics, start, stop, **given)
        with self._ledger.reading_site() as (connection, site):
            return coverage(connection, site, asked, self._clock(), of_jobs=of_jobs)

    def usage_columns(
        self,
        by: "Keys | UsageQuery" = ("user",),
        metrics: "Keys | None" = None,
        start: int | None = None,
        stop: int | None = None,
        **given: Unpack[UsageGiven],
    ) -> "UsageColumns":
        """The answer of `usage`, which says what may be *given*, as columns of numpy arrays.

        Example: ``accounting.usage_columns(("cluster",), bucket="day").to_pandas()``
        """
        from oar_accounting.usage.query import usage

        _only("usage_columns", given, UsageGiven)
        asked = self.query(by, metrics, start, stop, **given)
        with self._ledger.reading_site() as (connection, site):
            return usage(connection, site, asked)

    def jobs(
        self, *, after: int | None = None, limit: int = 1000, **given: Unpack[JobsGiven]
    ) -> JobPage:
        """Jobs by ascending number, a page of *limit* of them: what each asked for and used, whole.

        *moment*: what of a job lies within ``[start, stop)``: that it ran (which without bounds is
        every job), or that it was submitted, started or ended then. A job that has not ended runs
        until *as_of*, or now. *where*: as for `usage`; of attributes those at a job's start count.
        What open jobs used counts until *as_of*, or not at all; what has ended is told whole.
        *after*: the cursor of the page before. Raises as `usage`.

        Example: ``accounting.jobs(where={"user": "alice"}, start=start, stop=stop, limit=100)``
        """
        from oar_accounting.reports.jobs import JobsWanted, page

        _only("jobs", given, JobsGiven)
        rest: dict[str, Any] = {**given}
        moment = rest.pop("moment", "ran")
        wanted = JobsWanted(wanted=self.query((), **rest), now=self._clock(), moment=moment)
        with self._ledger.reading_site() as (connection, site):
            return page(connection, site, wanted, after, limit)

    def job(self, number: int, **given: Unpack[OneJobGiven]) -> JobHistory | None:
        """One job: all that is recorded of it, when it ran, and what it held then.

        None where it is not recorded, or not for who asks. Raises as `usage`.

        Example: ``accounting.job(4711).spans``
        """
        from oar_accounting.reports.job_history import history
        from oar_accounting.reports.jobs import JobsWanted, page

        _only("job", given, OneJobGiven)
        asked = self.query((), where={"job": [str(number)]}, **given)
        wanted = JobsWanted(wanted=asked, now=self._clock())
        with self._ledger.reading_site() as (connection, site):
            for job in page(connection, site, wanted, None, 1).jobs:
                return history(connection, site, job, asked.metrics)
        return None

    def each_job(self, *, at_once: int = 1000, **given: Unpack[JobsGiven]) -> Iterator[RecordedJob]:
        """The same jobs one after the other, as many as there are; *given* as for `jobs`.

        *at_once* of them are in memory, and each such page is read by itself: passes go on.

        Example: ``sum(job.waited or 0 for job in accounting.each_job(start=start))``
        """
        after: int | None = None
        while True:
            page = self.jobs(**given, after=after, limit=at_once)
            yield from page.jobs
            if page.after is None:
                return
            after = page.after

    def top(
        self,
        by: "Keys | UsageQuery" = ("user",),
        metric: str = "resource",
        start: int | None = None,
        stop: int | None = None,
        *,
        first: int = 10,
        **given: Unpack[ChosenUntil],
    ) -> Ranking:
        """Who used most of a metric within ``[start, stop)``: the *first* groups of `usage`.

        Of a `UsageQuery` its metric, if it has one. Raises as `usage`, and
        :class:`oar_accounting.DifferentUnits`.

        Example: ``accounting.top(("project",), "core", start, stop, first=5).rows[0].group``
        """
        from oar_accounting.reports import summaries

        _only("top", given, ChosenUntil)
        asked = _fitting("top", self.query(by, None, start, stop, **given), ChosenUntil)
        if asked.metrics is None:
            asked = replace(asked, metrics=(metric,))
        if len(asked.metrics or ()) != 1:
            raise UnknownName("exactly one metric was expected")
        with self._ledger.reading_site() as (connection, site):
            return summaries.top(connection, site, asked, first)

    def efficiency(
        self,
        by: "Keys | UsageQuery" = ("user",),
        metrics: "Keys | None" = None,
        start: int | None = None,
        stop: int | None = None,
        **given: Unpack[Chosen],
    ) -> list[Efficiency]:
        """What jobs that ended within ``[start, stop)`` asked for, used and left unused, whole.

        By the keys of `usage`, sorted by group and metric. Raises as `usage`.

        Example: ``accounting.efficiency(("queue", "size"), ("core",), start, stop)``
        """
        from oar_accounting.reports import summaries

        _only("efficiency", given, Chosen)
        asked = _fitting("efficiency", self.query(by, metrics, start, stop, **given), Chosen)
        with self._ledger.reading_site() as (connection, site):
            return summaries.efficiency(connection, site, asked)

    def sizes(
        self,
        by: "Keys | UsageQuery" = (),
        metrics: "Keys | None" = None,
        start: int | None = None,
        stop: int | None = None,
        **given: Unpack[ChosenUntil],
    ) -> list[SizeUse]:
        """What jobs used within ``[start, stop)``, by their size, and how many they were.

        The class of size is the last of each group, after the keys *by*. Raises as `usage`.

        Example: ``accounting.sizes(("project",), ("core",), start, stop)``
        """
        from oar_accounting.reports import summaries

        _only("sizes", given, ChosenUntil)
        asked = _fitting("sizes", self.query(by, metrics, start, stop, **given), ChosenUntil)
        names = (*(name for name in asked.by if name != "size"), "size")
        with self._ledger.reading_site() as (connection, site):
            return summaries.sizes(connection, site, replace(asked, by=names, adjusted=False))

    def waiting(
        self,
        by: "Keys | UsageQuery" = ("queue", "size"),
        start: int | None = None,
        stop: int | None = None,
        **given: Unpack[Chosen],
    ) -> list[Waiting]:
        """How long the jobs that started within ``[start, stop)`` had waited, by group.

        *by*: user, project, queue, attributes, and of jobs: type, state, size. Raises as `usage`.

        Example: ``accounting.waiting(("queue",), start, stop)``
        """
        from oar_accounting.reports import waiting as waiting_times

        _only("waiting", given, Chosen)
        asked = _fitting("waiting", self.query(by, None, start, stop, **given), Chosen)
        with self._ledger.reading_site() as (connection, site):
            return waiting_times.waiting(connection, site, asked)

    def project(  # noqa: PLR0913 - one question
        self,
        name: str,
        metric: str,
        start: int,
        stop: int,
        *,
        timezone: str | None = None,
        as_of: int | None = None,
        visible_to: "Visible | None" = None,
    ) -> ProjectReport:
        """A project's page: month by month beside the year before, and its members.

        Months are cut by the clocks of *timezone*; the year before are the same dates of it.
        Raises as `usage`.

        Example: ``accounting.project("climate", "core", *accounting.period("this year"))``
        """
        from oar_accounting.reports import summaries

        asked = self.query(
            (),
            (metric,),
            start,
            stop,
            bucket="month",
            timezone=timezone,
            where={"project": name},
            as_of=as_of,
            visible_to=visible_to,
        )
        with self._ledger.reading_site() as (connection, site):
            return summaries.project(connection, site, asked, name)


def _fitting(verb: str, asked: "UsageQuery", known: type[Chosen]) -> "UsageQuery":
    """The question. Raise TypeError where it asks for what a verb does not know."""
    for name, usual in (("bucket", None), ("as_of", None), ("whole_windows", False)):
        if name not in known.__annotations__ and getattr(asked, name) != usual:
            raise TypeError(f"{verb}() does not know {name!r}, which the UsageQuery asks for")
    return asked


def _only(verb: str, given: Mapping[str, object], known: type[Chosen] | type[OneJobGiven]) -> None:
    """Raise TypeError where more was *given* than a verb knows, as Python would."""
    for name in given.keys() - known.__annotations__.keys():
        raise TypeError(f"{verb}() got an unexpected keyword argument {name!r}")

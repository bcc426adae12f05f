"""The verbs that answer about what is recorded, and write nothing."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypedDict, Unpack

from sqlalchemy import Connection

from oar_accounting.ledger.ledger import GivenLedger, Ledger
from oar_accounting.reports.records import (
    Efficiency,
    JobPage,
    ProjectReport,
    Ranking,
    RecordedJob,
    SizeUse,
    Waiting,
)
from oar_accounting.settings.load import Settings
from oar_accounting.usage.records import UsageReport

# OAR's schedulers ask none of these questions, and would wait for what answers them.
if TYPE_CHECKING:
    from oar_accounting.reports.jobs import JobsWanted, Moment
    from oar_accounting.usage.job_keys import Sizes
    from oar_accounting.usage.keys import Visible
    from oar_accounting.usage.query import Wanted
    from oar_accounting.usage.result import UsageColumns

#: Names, or one of them.
Keys = Sequence[str] | str
#: For each key of `Reporting.usage` the value that counts, or several.
Where = Mapping[str, str | int | Iterable[str | int]]


class UsageGiven(TypedDict, total=False):
    """What may be given to `Reporting.usage_columns`: see `Reporting.usage`."""

    metrics: Keys | None
    start: int | None
    stop: int | None
    bucket: str | int | None
    timezone: str | None
    where: Where | None
    as_of: int | None
    without_adjustments: bool
    whole_windows: bool
    sizes: "Sizes | None"
    visible_to: "Visible | None"


class JobsGiven(TypedDict, total=False):
    """What may be given to `Reporting.each_job`: see `Reporting.jobs`."""

    moment: "Moment"
    where: Where | None
    metrics: Keys | None
    start: int | None
    stop: int | None
    as_of: int | None
    sizes: "Sizes | None"
    visible_to: "Visible | None"


class Reporting:
    """The questions about one site; times are epoch seconds UTC, spans are half-open."""

    def __init__(self, given: Settings, ledger: Ledger) -> None:
        self.settings = given
        self._ledger = ledger

    def through(self, connection: Connection) -> "Reporting":
        """The same questions, asked through a *connection* of the caller's, in their transaction.

        It is neither begun nor ended here. Example:
        ``accounting.through(connection).usage(("user",))``
        """
        return Reporting(self.settings, GivenLedger(connection, self._ledger.site_name))

    def usage(  # noqa: PLR0913 - one question
        self,
        by: Keys = ("user",),
        metrics: Keys | None = None,
        start: int | None = None,
        stop: int | None = None,
        *,
        bucket: str | int | None = None,
        timezone: str | None = None,
        where: Where | None = None,
        as_of: int | None = None,
        without_adjustments: bool = False,
        whole_windows: bool = False,
        sizes: "Sizes | None" = None,
        visible_to: "Visible | None" = None,
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
        `records.ACCURACIES`.

        Raises :class:`oar_accounting.UnknownName`, :class:`oar_accounting.BadSpan` and
        :class:`oar_accounting.AmountOverflow`.

        Example: ``accounting.usage(("project", "user"), ("core",), start, stop, bucket="month")``
        """
        from oar_accounting.usage import query

        wanted = self._wanted(
            by=by,
            metrics=metrics,
            start=start,
            stop=stop,
            bucket=bucket,
            timezone=timezone,
            where=where,
            as_of=as_of,
            adjusted=not without_adjustments,
            whole_windows=whole_windows,
            sizes=sizes,
            visible_to=visible_to,
        )
        with self._ledger.reading_site() as (connection, site):
            found = query.usage(connection, site, wanted)
            running = 0 if as_of is not None else query.count_open_jobs(connection, site, wanted)
        return UsageReport(
            by=wanted.by,
            start=start,
            stop=stop,
            rows=tuple(found.rows()),
            open_jobs=running,
            bucket=bucket,
            timezone=wanted.timezone,
            as_of=as_of,
        )

    def usage_columns(self, by: Keys = ("user",), **given: Unpack[UsageGiven]) -> "UsageColumns":
        """The answer of `usage`, which says what may be *given*, as columns of numpy arrays.

        Example: ``accounting.usage_columns(("cluster",), bucket="day").to_pandas()``
        """
        from oar_accounting.usage import query

        for name in given.keys() - UsageGiven.__annotations__.keys():
            raise TypeError(f"usage_columns() got an unexpected keyword argument {name!r}")
        adjusted = not given.pop("without_adjustments", False)
        wanted = self._wanted(by=by, adjusted=adjusted, **given)
        with self._ledger.reading_site() as (connection, site):
            return query.usage(connection, site, wanted)

    def jobs(  # noqa: PLR0913 - one question
        self,
        *,
        where: Where | None = None,
        metrics: Keys | None = None,
        start: int | None = None,
        stop: int | None = None,
        moment: "Moment" = "ran",
        as_of: int | None = None,
        sizes: "Sizes | None" = None,
        visible_to: "Visible | None" = None,
        after: int | None = None,
        limit: int = 1000,
    ) -> JobPage:
        """Jobs by ascending number, a page of *limit* of them: what each asked for and used, whole.

        *moment*: what of a job lies within ``[start, stop)``: that it ran (which without bounds is
        every job), or that it was submitted, started or ended then. *where*: as for `usage`; of
        attributes those at a job's start count. What open jobs used counts until *as_of*, or not
        at all; what has ended is told whole. *after*: the cursor of the page before. Raises as
        `usage`.

        Example: ``accounting.jobs(where={"user": "alice"}, start=start, stop=stop, limit=100)``
        """
        from oar_accounting.reports import jobs as job_lists

        wanted = self._jobs_wanted(
            moment,
            where=where,
            metrics=metrics,
            start=start,
            stop=stop,
            as_of=as_of,
            sizes=sizes,
            visible_to=visible_to,
        )
        with self._ledger.reading_site() as (connection, site):
            return job_lists.page(connection, site, wanted, after, limit)

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

    def _jobs_wanted(self, moment: "Moment", **given: Any) -> "JobsWanted":
        from oar_accounting.reports.jobs import JobsWanted

        return JobsWanted(wanted=self._wanted(by=(), **given), moment=moment)

    def top(  # noqa: PLR0913 - one question
        self,
        by: Keys = ("user",),
        metric: str = "resource",
        start: int | None = None,
        stop: int | None = None,
        *,
        first: int = 10,
        where: Where | None = None,
        as_of: int | None = None,
        sizes: "Sizes | None" = None,
        visible_to: "Visible | None" = None,
    ) -> Ranking:
        """Who used most of a metric within ``[start, stop)``: the *first* groups of `usage`.

        Raises as `usage`, and :class:`oar_accounting.DifferentUnits`.

        Example: ``accounting.top(("project",), "core", start, stop, first=5).rows[0].group``
        """
        from oar_accounting.reports import summaries

        wanted = self._wanted(
            by=by,
            metrics=(metric,),
            start=start,
            stop=stop,
            where=where,
            as_of=as_of,
            sizes=sizes,
            visible_to=visible_to,
        )
        with self._ledger.reading_site() as (connection, site):
            return summaries.top(connection, site, wanted, first)

    def efficiency(  # noqa: PLR0913 - one question
        self,
        by: Keys = ("user",),
        metrics: Keys | None = None,
        start: int | None = None,
        stop: int | None = None,
        *,
        where: Where | None = None,
        sizes: "Sizes | None" = None,
        visible_to: "Visible | None" = None,
    ) -> list[Efficiency]:
        """What jobs that ended within ``[start, stop)`` asked for, used and left unused, whole.

        By the keys of `usage`, sorted by group and metric. Raises as `usage`.

        Example: ``accounting.efficiency(("queue", "size"), ("core",), start, stop)``
        """
        from oar_accounting.reports import summaries

        wanted = self._wanted(
            by=by,
            metrics=metrics,
            start=start,
            stop=stop,
            where=where,
            sizes=sizes,
            visible_to=visible_to,
        )
        with self._ledger.reading_site() as (connection, site):
            return summaries.efficiency(connection, site, wanted)

    def sizes(  # noqa: PLR0913 - one question
        self,
        by: Keys = (),
        metrics: Keys | None = None,
        start: int | None = None,
        stop: int | None = None,
        *,
        where: Where | None = None,
        as_of: int | None = None,
        sizes: "Sizes | None" = None,
        visible_to: "Visible | None" = None,
    ) -> list[SizeUse]:
        """What jobs used within ``[start, stop)``, by their size, and how many they were.

        The class of size is the last of each group, after the keys *by*. Raises as `usage`.

        Example: ``accounting.sizes(("project",), ("core",), start, stop)``
        """
        from oar_accounting.reports import summaries

        keys = (by,) if isinstance(by, str) else by
        names = (*(name for name in keys if name != "size"), "size")
        wanted = self._wanted(
            by=names,
            metrics=metrics,
            start=start,
            stop=stop,
            where=where,
            as_of=as_of,
            sizes=sizes,
            visible_to=visible_to,
            adjusted=False,
        )
        with self._ledger.reading_site() as (connection, site):
            return summaries.sizes(connection, site, wanted)

    def waiting(  # noqa: PLR0913 - one question
        self,
        by: Keys = ("queue", "size"),
        start: int | None = None,
        stop: int | None = None,
        *,
        where: Where | None = None,
        sizes: "Sizes | None" = None,
        visible_to: "Visible | None" = None,
    ) -> list[Waiting]:
        """How long the jobs that started within ``[start, stop)`` had waited, by group.

        *by*: user, project, queue, attributes, and of jobs: type, state, size. Raises as `usage`.

        Example: ``accounting.waiting(("queue",), start, stop)``
        """
        from oar_accounting.reports import waiting as waits

        wanted = self._wanted(
            by=by, start=start, stop=stop, where=where, sizes=sizes, visible_to=visible_to
        )
        with self._ledger.reading_site() as (connection, site):
            return waits.waiting(connection, site, wanted)

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

        wanted = self._wanted(
            by=(),
            metrics=(metric,),
            start=start,
            stop=stop,
            bucket="month",
            timezone=timezone,
            where={"project": name},
            as_of=as_of,
            visible_to=visible_to,
        )
        with self._ledger.reading_site() as (connection, site):
            return summaries.project(connection, site, wanted, name)

    def _wanted(self, **given: Any) -> "Wanted":
        """What a caller wants to know, as `usage.query` takes it."""
        from oar_accounting.usage.query import Wanted, check_form

        where = {
            key: frozenset({str(value)} if isinstance(value, str | int) else map(str, value))
            for key, value in (given.pop("where", None) or {}).items()
        }
        for name in ("by", "metrics"):
            names = given.get(name)
            if names is not None:
                given[name] = (names,) if isinstance(names, str) else tuple(dict.fromkeys(names))
        given["timezone"] = given.get("timezone") or self.settings.timezone
        if given.get("sizes") is None:
            given.pop("sizes", None)
        wanted = Wanted(where=where, **given)
        check_form(wanted)
        return wanted

"""The verbs. This is the only module that reads the clock."""

import time
from collections.abc import Iterable, Mapping
from datetime import tzinfo
from pathlib import Path
from typing import TYPE_CHECKING, Literal, Self, overload

from sqlalchemy import Engine
from sqlalchemy.engine import URL

from oar_accounting.adjustments.by_job import JobFilter, adjust_jobs
from oar_accounting.adjustments.post import Amount, adjust_account, counter
from oar_accounting.adjustments.records import Adjustment, AdjustmentLine, AdjustmentReport
from oar_accounting.adjustments.stored import read_all, read_lines
from oar_accounting.attributes import stored
from oar_accounting.attributes.records import Attribute, AttributesReport
from oar_accounting.core.progress import Progress
from oar_accounting.database import dialects
from oar_accounting.dropin import oaraccounting
from oar_accounting.dropin.records import StockReport
from oar_accounting.errors import (
    BadSpan,
    SettingsError,
)
from oar_accounting.health import doctor
from oar_accounting.health.records import Status
from oar_accounting.ledger.create import create_tables, plan_upgrade
from oar_accounting.ledger.ledger import Ledger
from oar_accounting.ledger.problems import standing_problems
from oar_accounting.ledger.records import (
    Difference,
    DryRun,
    OpeningReport,
    PassReport,
    StandingProblem,
    UpgradePlan,
)
from oar_accounting.ledger.verify import first_differences
from oar_accounting.oar.job_rules import FARTHEST
from oar_accounting.oar.snapshot import OarJobs
from oar_accounting.recording.adjust import post_adjustment
from oar_accounting.recording.belonging import import_attributes, remove_attribute
from oar_accounting.recording.catch_up import catch_up
from oar_accounting.recording.import_accounting import import_accounting
from oar_accounting.recording.rebuild import rebuild
from oar_accounting.recording.record import record
from oar_accounting.recording.runs import Runs
from oar_accounting.recording.standing import dismiss
from oar_accounting.recording.upkeep.forget import forget_user, would_forget
from oar_accounting.recording.upkeep.purge import purge, would_purge
from oar_accounting.recording.upkeep.retire import retire_jobs, would_retire
from oar_accounting.reports.records import UtilisationReport
from oar_accounting.reports.reports import Reporting
from oar_accounting.settings.load import (
    Settings,
    load_settings,
    oar_conf_file,
    oar_window,
    with_karma_of,
)
from oar_accounting.usage.usage_query import Keys

if TYPE_CHECKING:
    from oar_accounting.dropin.last_karma import ShownReport
    from oar_accounting.health.settings_check import SettingsReport
    from oar_accounting.karma.fair_share import FairShare
    from oar_accounting.karma.own import OwnFairShare
    from oar_accounting.karma.report import Explanation, FairShareReport, KarmaReport
    from oar_accounting.karma.sums import UsageSums
    from oar_accounting.karma.what_if_report import WhatIfReport
    from oar_accounting.reports.own import OwnReports


class Accounting(Reporting):
    """The accounting of one OAR server.

    Times are epoch seconds UTC, spans are half-open, amounts are whole numbers in the metric's
    unit divided by its scale. Every error is an :class:`oar_accounting.AccountingError`.
    """

    def __init__(
        self,
        given: Settings,
        *,
        engine: Engine | None = None,
        oar_engine: Engine | None = None,
        limit: float | None = None,
    ) -> None:
        """With *engine* for our tables and *oar_engine* for OAR's where a caller has them.

        *limit*: the seconds that one step on a database may take; see `dialects.open_engine`.
        """
        self.engine = engine or dialects.open_engine(given.url, limit)
        same = given.oar_url == given.url
        self.oar_engine = oar_engine or (
            self.engine if same else dialects.open_engine(given.oar_url, limit)
        )
        super().__init__(given, Ledger(self.engine, given.site), _now)
        self._oar = OarJobs(self.oar_engine)
        self._runs = Runs(given, self._ledger, self._oar, _now)

    @classmethod
    def open(  # noqa: PLR0913 - as many as there are places to name
        cls,
        *,
        oar_conf: str | Path | None = None,
        config: str | Path | None = None,
        url: str | URL | None = None,
        engine: Engine | None = None,
        site: str | None = None,
        limit: float | None = None,
        as_scheduler: bool = False,
    ) -> Self:
        """From ``oar.conf``, from the URL of OAR's database, or from an engine on it.

        Without any, ``$OARCONFFILE`` or /etc/oar/oar.conf is read. *config* is our TOML file,
        *limit* the seconds that one step on a database may take; with *as_scheduler*, it is used as
        the user whom ``[scheduler]`` names. Raises :class:`oar_accounting.SettingsError`.
        """
        place = engine.url if engine is not None else url
        given = load_settings(oar_conf=oar_conf, config=config, url=place, site=site)
        if as_scheduler:
            from oar_accounting.settings.scheduler import with_its_login

            given = with_its_login(given)
        if given.url == given.oar_url:
            return cls(given, engine=engine, limit=limit)
        return cls(given, oar_engine=engine, limit=limit)

    def close(self) -> None:
        """Close the connections."""
        self.engine.dispose()
        self.oar_engine.dispose()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def init(self) -> bool:
        """Create our tables, or bring them to this version; false where nothing was to do.

        Raises :class:`oar_accounting.SchemaError`, whose text ends with the SQL to run, where the
        role may not create tables, and where they are of another version.
        """
        return create_tables(self.engine, _pause)

    def upgrade_plan(self) -> UpgradePlan:
        """What :meth:`init` would do, and about how long it would take; nothing is changed.

        Raises :class:`oar_accounting.SchemaError` where the tables are of a later version.
        """
        return plan_upgrade(self.engine)

    def catch_up(
        self, *, full: bool = False, wait: bool = False, progress: Progress | None = None
    ) -> PassReport:
        """Record what is new or has changed in OAR; with *full* compare every job.

        Raises :class:`oar_accounting.WriterBusy` where another process is at it, unless it is to
        *wait*; should two be at it after all, they share the work.
        """
        return catch_up(self._runs, full=full, wait=wait, progress=progress)

    def record(self, jobs: Iterable[int]) -> PassReport:
        """Record these jobs as OAR has them now, also where nothing seems to have changed."""
        return record(self._runs, jobs)

    def rebuild(
        self,
        *,
        metric: str | None = None,
        from_oar: bool = False,
        dry_run: bool = False,
        progress: Progress | None = None,
    ) -> PassReport:
        """Recompute the totals from the ledger, with the window that the settings have now.

        With *metric* that metric, as it is declared now: where the declaration is new or has
        changed, from OAR's resources, and shown when it is complete; what was half built of one
        that is no longer declared goes. With *from_oar* every job
        is read again, under the profile, containers, grace, names, property_since and dimension
        that the settings have now. The report's ``figures`` says how many figures are otherwise
        than before; with *dry_run* how many would be, and nothing stays written.
        The law holds at every commit. Raises :class:`oar_accounting.UnknownName`.
        """
        return rebuild(self._runs, metric, from_oar=from_oar, dry_run=dry_run, progress=progress)

    @overload
    def purge(
        self, before: int, *, dry_run: Literal[False] = False, progress: Progress | None = None
    ) -> tuple[int, int]:
        """The bound, and how many jobs were purged."""

    @overload
    def purge(
        self, before: int, *, dry_run: Literal[True], progress: Progress | None = None
    ) -> DryRun:
        """What would go."""

    def purge(
        self, before: int, *, dry_run: bool = False, progress: Progress | None = None
    ) -> tuple[int, int] | DryRun:
        """Drop spans and rates of jobs that ended before *before*; every total stays.

        So does what each of them asked for and used by day.
        *before*, epoch seconds, is moved to the bound of windows at or before it. Returns that
        bound and how many jobs were purged. They can no longer be corrected, nor counted in other
        metrics, under other terms or in smaller windows. With *dry_run* nothing is written, and
        what would go is returned. Raises :class:`oar_accounting.BadSpan` where catch-up still
        compares such jobs with OAR.

        Example: ``accounting.purge(before, dry_run=True).jobs``
        """
        if dry_run:
            return would_purge(self._runs, before, progress)
        return purge(self._runs, before, progress)

    def import_accounting(self, *, dry_run: bool = False) -> OpeningReport:
        """Take over what OAR's own accounting has of times of which no jobs are left.

        In resource·s. Twice is once. A job that turns up later accounts for its share itself. With
        *dry_run* nothing is written. Raises :class:`oar_accounting.OarSchemaError` where OAR's
        accounting cannot be read.
        """
        return import_accounting(self._runs, dry_run=dry_run)

    def oaraccounting(
        self,
        *,
        reinitialize: bool = False,
        delete_before: int | None = None,
        delete_older: int | None = None,
        dry_run: bool = False,
        progress: Progress | None = None,
    ) -> StockReport:
        """Fill OAR's own accounting as ``oaraccounting`` of OAR 2.5.9 does; ours is not touched.

        The only verb that writes OAR's tables. *reinitialize* counts every job anew;
        *delete_before*, an instant, or *delete_older*, an age in seconds, only removes windows
        that ended by then. With *dry_run* nothing is written. Raises
        :class:`oar_accounting.OarSchemaError`, :class:`oar_accounting.WriterBusy` and
        :class:`oar_accounting.AmountOverflow`, and nothing has been written then.
        """
        if delete_older is not None:
            delete_before = _now() - delete_older
        if delete_before is not None:
            return oaraccounting.delete_before(self.oar_engine, delete_before, dry_run=dry_run)
        count = oaraccounting.recount if reinitialize else oaraccounting.account
        window = oar_window(self.settings)
        return count(self.oar_engine, window, dry_run=dry_run, progress=progress)

    def queue_policies(self) -> dict[str, str]:
        """The name of the scheduler that OAR has for each of its queues.

        Raises :class:`oar_accounting.OarSchemaError` where they may not be read.
        """
        from oar_accounting.oar.queues import read_queues

        return dict(read_queues(self.oar_engine, _now()).policies)

    def karma(
        self,
        jobs: Iterable[int] | None = None,
        now: int | None = None,
        queue: str | None = None,
    ) -> "KarmaReport":
        """The karma of these jobs, or of all that wait in OAR's queues, lowest and so next first.

        *queue*: only of this one; each job keeps its place. *now*: epoch seconds, the present by
        default; of an instant of the past the window that it lies in counts as a whole. Nothing is
        written. Raises :class:`oar_accounting.BadSpan`, :class:`oar_accounting.SettingsError`,
        :class:`oar_accounting.UnknownName` where a metric or attribute is not recorded, or the
        queue not known, and :class:`oar_accounting.OarSchemaError`.
        """
        return self._fair_share(now).karma(None if jobs is None else list(jobs), queue)

    def explain(self, job: int, now: int | None = None) -> "Explanation":
        """Why a job that waits stands where it does. Raises as `karma`."""
        return self._fair_share(now).explain(job)

    def fairshare(self, now: int | None = None) -> "FairShareReport":
        """Who has used how much of what is meant for them. Raises as `karma`."""
        return self._fair_share(now).fairshare()

    def what_if(
        self,
        config: str | Path,
        *,
        days: int = 7,
        now: int | None = None,
        progress: Progress | None = None,
    ) -> "WhatIfReport":
        """What the ``[karma]`` of the settings file *config* would change, if it were in force.

        The order of the jobs that wait, and the waits of those that started within *days* days, as
        far as can be said: see :class:`oar_accounting.karma.what_if_report.Replay`. Raises as
        `karma`.
        """
        from oar_accounting.karma.what_if import what_if

        before = self._fair_share(now)
        other = with_karma_of(self.settings, config)
        return what_if(self.settings, other, self._ledger, self._oar, before.now, days, progress)

    def usage_sums(
        self, metrics: Mapping[str, float], queues: Iterable[str], start: int, stop: int
    ) -> "UsageSums":
        """What was asked and used in these queues within [start, stop), as OAR 3's karma asks.

        *metrics*: how much the unit of each counts, so that several can be added. Open jobs count
        as of *stop*. Raises :class:`oar_accounting.BadSpan` and as `karma`.
        """
        if not -FARTHEST <= start < stop:
            raise BadSpan(f"[{start}, {stop}) is no span of time in epoch seconds")
        return self._fair_share(stop).sums(metrics, list(queues), start)

    def show_karma(self, *, dry_run: bool = False) -> "ShownReport":
        """Write the karma of the waiting jobs where OAR 3's ``oarstat`` shows it.

        Into ``last_karma`` and ``message`` of OAR's table jobs, in one statement; with *dry_run*
        nothing is written. Raises as `karma`, and :class:`oar_accounting.OarSchemaError` where OAR
        has no ``last_karma``: OAR 2 shows what its scheduler was given.
        """
        from oar_accounting.dropin.last_karma import show_karma

        return show_karma(self.oar_engine, self.karma(), dry_run=dry_run)

    def seen_by(self, user: str, now: int | None = None) -> "OwnFairShare":
        """What an ordinary user may ask: the same three, of what is theirs and their projects'."""
        from oar_accounting.karma.own import OwnFairShare

        return OwnFairShare(self._fair_share(now), self._ledger, user)

    def reports_for(self, user: str) -> "OwnReports":
        """What an ordinary user may ask of usage: their own, and their projects' as a whole."""
        from oar_accounting.reports.own import OwnReports

        return OwnReports(self, self._ledger, user)

    def _fair_share(self, now: int | None) -> "FairShare":
        # Few programs ask for karma, and all would wait for what knows it.
        from oar_accounting.karma.fair_share import FairShare

        instant = _now() if now is None else now
        return FairShare(self.settings, self._ledger, self._oar, instant)

    @overload
    def forget_user(self, user: str, *, dry_run: Literal[False] = False) -> str:
        """The pseudonym."""

    @overload
    def forget_user(self, user: str, *, dry_run: Literal[True]) -> DryRun:
        """What would change."""

    def forget_user(self, user: str, *, dry_run: bool = False) -> str | DryRun:
        """Put a pseudonym in the place of a user's name, also for jobs to come; the pseudonym.

        A project of the same name gets it too, and what the user's jobs are called is left out.
        What was used stays. With *dry_run* nothing is written, and what would change is returned.
        Raises :class:`oar_accounting.UnknownName`.
        """
        if dry_run:
            return would_forget(self._runs, user)
        return forget_user(self._runs, user)

    @overload
    def retire(self, first: int, *, dry_run: Literal[False] = False) -> int:
        """How many ids were given free."""

    @overload
    def retire(self, first: int, *, dry_run: Literal[True]) -> DryRun:
        """What would change."""

    def retire(self, first: int, *, dry_run: bool = False) -> int | DryRun:
        """Give free the job ids from *first* on, which OAR uses for other jobs; how many.

        What the recorded jobs used stays. Jobs that OAR still has keep their ids. With *dry_run*
        nothing is written, and what would change is returned. Raises
        :class:`oar_accounting.UnknownName` and :class:`oar_accounting.WriterBusy`.
        """
        if dry_run:
            return would_retire(self._runs, first)
        return retire_jobs(self._runs, first)

    def import_attributes(
        self, given: str | bytes | Iterable[str], *, source: str = "the file", dry_run: bool = False
    ) -> AttributesReport:
        """Record who belongs where, as a file of comma-separated values says.

        *given* is its text, its bytes or its lines, with times by the clocks of the settings' zone
        where they have no offset; *source* names it in errors. Of the attributes
        in its first line it is the truth: all that was recorded of them before goes. With *dry_run*
        nothing is written. Raises :class:`oar_accounting.BadFile`, whose text names every mistake,
        and :class:`oar_accounting.UnknownName` where the site is not recorded.
        """
        return import_attributes(self._runs, given, source, dry_run=dry_run)

    def attributes(self, name: str | None = None) -> list[Attribute]:
        """Who belongs where by one attribute, or by all, sorted by attribute, name and time.

        Raises :class:`oar_accounting.UnknownName`.
        """
        with self._ledger.reading_site() as (connection, site):
            site_id = site.site_id
            return stored.entries(connection, site_id, name)

    def remove_attribute(self, name: str) -> int:
        """Delete all that is recorded of an attribute; how many entries it had.

        Raises :class:`oar_accounting.UnknownName`.
        """
        return remove_attribute(self._runs, name)

    def adjust(  # noqa: PLR0913 - one line of an adjustment, and who posts it
        self,
        *,
        user: str,
        project: str,
        queue: str,
        metric: str,
        start: int,
        stop: int,
        reason: str,
        author: str,
        property: str = "",
        asked: int | str = 0,
        used: int | str = 0,
        dry_run: bool = False,
    ) -> AdjustmentReport:
        """Add signed amounts to an account, evenly over ``[start, stop)``.

        They are whole numbers in the metric's unit and scale, or hours as usage shows them, like
        ``"-1.5h"``. With *dry_run* nothing is written. Raises :class:`oar_accounting.UnknownName`,
        :class:`oar_accounting.BadSpan` and :class:`oar_accounting.BadAdjustment`.
        """
        names = (user, project, queue, property)
        zone = self.zone
        given = Amount(names=names, metric=metric, start=start, stop=stop, asked=asked, used=used)
        return post_adjustment(
            self._runs,
            lambda book, note: adjust_account(book, given, note, zone),
            author=author,
            reason=reason,
            dry_run=dry_run,
        )

    def adjust_jobs(
        self, wanted: JobFilter, *, reason: str, author: str, dry_run: bool = False
    ) -> AdjustmentReport:
        """Take back what the jobs that match were counted, in whole or in part.

        Left out, and told of, are jobs that still run, that were purged, that held nothing, or
        that are adjusted already. With *dry_run* nothing is written. Raises
        :class:`oar_accounting.UnknownName`, :class:`oar_accounting.BadSpan` and
        :class:`oar_accounting.BadAdjustment`.
        """
        zone = self.zone
        return post_adjustment(
            self._runs,
            lambda book, note: adjust_jobs(book, self._oar, wanted, note, zone),
            author=author,
            reason=reason,
            dry_run=dry_run,
        )

    def counter(
        self, adjustment_id: int, *, reason: str, author: str, dry_run: bool = False
    ) -> AdjustmentReport:
        """Post the amounts of an adjustment with the opposite sign; each is countered once.

        With *dry_run* nothing is written. Raises :class:`oar_accounting.UnknownName` and
        :class:`oar_accounting.BadAdjustment`.
        """
        return post_adjustment(
            self._runs,
            lambda book, note: counter(book, adjustment_id, note),
            author=author,
            reason=reason,
            dry_run=dry_run,
        )

    def adjustments(self) -> list[Adjustment]:
        """All adjustments, in the order they were posted."""
        with self._ledger.reading_site() as (connection, site):
            return read_all(connection, site.site_id)

    def adjustment_lines(self, adjustment_id: int) -> list[AdjustmentLine]:
        """What an adjustment added to whom, when. Raises :class:`oar_accounting.UnknownName`."""
        with self._ledger.reading_site() as (connection, site):
            return read_lines(connection, site, adjustment_id)

    def verify(self, *, most: int = 10) -> list[Difference]:
        """The first totals that are not what spans, rates and entries give; none is good.

        After them the days on which more is kept of single purged jobs than stands in the totals.
        """
        with self._ledger.reading() as (connection, site):
            return [] if site is None else first_differences(connection, site, most)

    def problems(self) -> list[StandingProblem]:
        """What was found wrong with jobs and resources, and not mended since; the oldest first.

        Raises :class:`oar_accounting.UnknownName` where the site is not recorded.
        """
        with self._ledger.reading_site() as (connection, site):
            return standing_problems(connection, site.site_id)

    def dismiss_problems(self, jobs: Iterable[int] = (), codes: Iterable[str] = ()) -> int:
        """Forget the problems of these jobs, and those of jobs that have these codes; how many.

        They come back where a pass records the job again and finds them again. Raises
        :class:`oar_accounting.UnknownName` where the site is not recorded, or a code not known.
        """
        return dismiss(self._runs, jobs, codes)

    def doctor(self, *, verify: bool = False, root: Path = Path("/")) -> Status:
        """What is set up, what is behind and what is wrong; with *verify* of every total too.

        Nothing is written, and nothing is raised: what cannot be looked at is a finding. *root* is
        the directory below which the files of the OAR server are.
        """
        return doctor.examine(self.settings, self._ledger, self._oar, _now(), root, verify=verify)

    @classmethod
    def examine(  # noqa: PLR0913 - what `open` takes, and what to look at
        cls,
        *,
        oar_conf: str | Path | None = None,
        config: str | Path | None = None,
        url: str | URL | None = None,
        site: str | None = None,
        verify: bool = False,
        root: Path = Path("/"),
    ) -> Status:
        """:meth:`doctor` of what :meth:`open` would open, also where that cannot be opened."""
        try:
            with cls.open(oar_conf=oar_conf, config=config, url=url, site=site) as accounting:
                return accounting.doctor(verify=verify, root=root)
        except SettingsError as error:
            conf = oar_conf_file(oar_conf)
            return doctor.examine_machine(error, conf, _now(), root)

    @classmethod
    def check_settings(
        cls,
        *,
        oar_conf: str | Path | None = None,
        config: str | Path | None = None,
        url: str | URL | None = None,
        site: str | None = None,
    ) -> "SettingsReport":
        """What the settings that :meth:`open` would read say, checked as far as that can be.

        Where a database does not answer, what needs it is told of. Raises
        :class:`oar_accounting.SettingsError` with file, key and what was expected.
        """
        from oar_accounting.health.settings_check import check

        now = _now()
        return check(oar_conf=oar_conf, config=config, url=url, site=site, now=now)

    @property
    def zone(self) -> tzinfo:
        """The time zone of the settings: whose clocks say when a day of the site begins."""
        from oar_accounting.core import periods

        return periods.zone(self.settings.timezone)

    def period(self, said: str, timezone: str | None = None) -> tuple[int, int]:
        """The half-open span that people mean: "last month", "2026-03"; see `periods.period`.

        In *timezone*, else in that of the settings. Raises :class:`oar_accounting.BadSpan`.
        """
        from oar_accounting.core import periods

        zone = periods.zone(timezone or self.settings.timezone)
        return periods.period(said, zone, _now())

    def instant(self, said: str, timezone: str | None = None) -> int:
        """Epoch seconds from a date, a time, or the begin of a period. Raises as `period`."""
        from oar_accounting.core import periods

        zone = periods.zone(timezone or self.settings.timezone)
        return periods.instant(said, zone, _now())

    def utilisation(  # noqa: PLR0913 - one question
        self,
        metrics: Keys | None = None,
        start: int | None = None,
        stop: int | None = None,
        *,
        bucket: str | int | None = None,
        timezone: str | None = None,
        where: Mapping[str, str | Iterable[str]] | None = None,
        as_of: int | None = None,
    ) -> UtilisationReport:
        """How full the machine was within ``[start, stop)``: capacity, down, standby, used, free.

        No *metrics* are all that have a capacity: those with a formula have none. Without *start*
        it begins with the first log of a resource or the first use. The period ends at *as_of*,
        which is now at the latest and by default: nothing is known of what comes, and jobs that
        run count until then. *bucket*: one of `periods.BUCKETS` or so many seconds, by the clocks
        of *timezone*, else of the settings; None: all at once. *where*: values of the dimension
        property, by its name; resources and usage of these only. Opening amounts count, adjustments
        do not: they change no machine. Raises
        :class:`oar_accounting.UnknownName`, :class:`oar_accounting.BadSpan`,
        :class:`oar_accounting.OarSchemaError` where OAR's ``resource_logs`` cannot be read, and
        :class:`oar_accounting.AmountOverflow`.

        Example: ``accounting.utilisation(("core",), start, stop, bucket="month")``
        """
        from oar_accounting.reports.utilisation import utilisation

        now = _now()
        end = min(each for each in (now, stop, as_of) if each is not None)
        names = (metrics,) if isinstance(metrics, str) else metrics
        with self._ledger.reading_site() as (connection, site):
            return utilisation(
                connection,
                site,
                self._oar,
                names,
                start,
                end,
                bucket=bucket,
                timezone=timezone or self.settings.timezone,
                where=where,
            )


def _now() -> int:
    return int(time.time())


def _pause(seconds: float) -> None:
    time.sleep(seconds)

"""The verbs. This is the only module that reads the clock."""

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Self

import numpy as np
from sqlalchemy import Engine
from sqlalchemy.engine import URL

from oar_accounting.adjustments.by_job import JobFilter, adjust_jobs
from oar_accounting.adjustments.input import check_words
from oar_accounting.adjustments.post import Amount, Note, adjust_account, counter
from oar_accounting.adjustments.records import Adjustment, AdjustmentLine, AdjustmentReport
from oar_accounting.adjustments.stored import read_all, read_lines
from oar_accounting.attributes import csv_files, stored
from oar_accounting.attributes.records import Attribute, AttributesReport
from oar_accounting.core import formats
from oar_accounting.core.columns import ints
from oar_accounting.core.lengths import DAY
from oar_accounting.core.progress import Progress
from oar_accounting.database import dialects
from oar_accounting.database.id_blocks import id_blocks
from oar_accounting.dropin import oaraccounting as stock_accounting
from oar_accounting.dropin.records import StockReport
from oar_accounting.errors import (
    AccountingError,
    BadSpan,
    DatabaseError,
    SchemaError,
    SettingsError,
    UnknownName,
)
from oar_accounting.health import doctor
from oar_accounting.health.records import Status
from oar_accounting.ledger import catalog, journal, schema
from oar_accounting.ledger.catalog import Site
from oar_accounting.ledger.journal import Entry
from oar_accounting.ledger.ledger import Book, Ledger, check_version
from oar_accounting.ledger.reading import open_jobs
from oar_accounting.ledger.records import Difference, OpeningReport, PassReport, Problem
from oar_accounting.ledger.verify import first_differences
from oar_accounting.oar.job_rules import FARTHEST
from oar_accounting.oar.snapshot import OarJobs
from oar_accounting.recording.catch_up import CatchUp
from oar_accounting.recording.declared import check_properties, declared_terms, notices
from oar_accounting.recording.forget import forget
from oar_accounting.recording.identity import check_identity
from oar_accounting.recording.import_accounting import take_over
from oar_accounting.recording.passes import Pass, Tally
from oar_accounting.recording.purge import purge
from oar_accounting.recording.rebuild import build_metric, reread_jobs, restore_totals
from oar_accounting.recording.retire import retire
from oar_accounting.reports.records import UtilisationReport
from oar_accounting.reports.reports import Keys, Reporting
from oar_accounting.settings.load import (
    Settings,
    load_settings,
    oar_conf_file,
    oar_window,
    with_karma_of,
)

if TYPE_CHECKING:
    from oar_accounting.dropin.last_karma import ShownReport
    from oar_accounting.health.settings_check import SettingsReport
    from oar_accounting.karma.fair_share import FairShare
    from oar_accounting.karma.own import OwnFairShare
    from oar_accounting.karma.report import Explanation, FairShareReport, KarmaReport
    from oar_accounting.karma.sums import UsageSums
    from oar_accounting.karma.what_if_report import WhatIfReport
    from oar_accounting.reports.own import OwnReports


#: How often tables are tried to be created while another process may be creating them.
CREATE_ATTEMPTS = 8


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
        self.settings = given
        self.engine = engine or dialects.open_engine(given.url, limit)
        same = given.oar_url == given.url
        self.oar_engine = oar_engine or (
            self.engine if same else dialects.open_engine(given.oar_url, limit)
        )
        self._ledger = Ledger(self.engine, given.site)
        self._oar = OarJobs(self.oar_engine)

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
        if self._checked():
            return False
        refused = ""
        for _ in range(CREATE_ATTEMPTS):
            try:
                dialects.let_readers_in(self.engine)
                with dialects.writing(self.engine) as connection:
                    schema.create(connection)
                return True
            except DatabaseError as error:
                # Another process may be creating them at this moment.
                if self._checked():
                    return False
                refused = str(error)
                time.sleep(0.2)
        raise SchemaError(
            f"the tables cannot be created: {refused}\nA role that may create tables can run this:"
            f"\n\n{self._missing_ddl()}"
        )

    def _missing_ddl(self) -> str:
        database = dialects.database_name(self.engine)
        with dialects.reading(self.engine) as connection:
            version = schema.version_of(connection)
        if version is None:
            return schema.ddl(database)
        missing = range(version + 1, schema.VERSION + 1)
        return "\n".join(schema.upgrade_ddl(database, each) for each in missing)

    def _checked(self) -> bool:
        """True where our tables are there, in this version. Raises :class:`SchemaError`."""
        with dialects.reading(self.engine) as connection:
            if not schema.is_complete(connection):
                return False
            if (found := schema.version_of(connection)) is not None and found < schema.VERSION:
                return False
            check_version(connection)
            if (missing := schema.first_missing(connection)) is not None:
                raise SchemaError(
                    f"{dialects.shown(self.engine.url)}: {missing} is missing; the tables were "
                    "changed by hand, or restored in part"
                )
        return True

    def catch_up(
        self, *, full: bool = False, wait: bool = False, progress: Progress | None = None
    ) -> PassReport:
        """Record what is new or has changed in OAR; with *full* compare every job.

        Raises :class:`oar_accounting.WriterBusy` where another process is at it, unless it is to
        *wait*; should two be at it after all, they share the work.
        """
        with self._noted("catch-up", wait=wait) as entry:
            site = self._site()
            found = self._notices(site) + check_identity(self._ledger, self._oar, site)
            recheck = self.settings.recheck_days * DAY
            last_pass = entry.began if site.last_pass is None else site.last_pass
            if entry.began - last_pass > DAY:
                found.append(_long_ago(last_pass))
            work = CatchUp(Pass(self._ledger, self._oar, entry.began), site, progress)
            tally = work.run(min(entry.began, last_pass) - recheck, full=full)
            with self._ledger.writing() as book:
                if book.site.high_water_mark >= site.high_water_mark:
                    book.saw(work.seen)
                catalog.change_site(book.connection, book.site, last_pass=entry.began)
            entry.report = self._report(tally, found + work.notices)
        return entry.report

    def record(self, jobs: Iterable[int]) -> PassReport:
        """Record these jobs as OAR has them now, also where nothing seems to have changed."""
        with self._noted("record") as entry:
            work = Pass(self._ledger, self._oar, entry.began)
            for block in id_blocks(np.unique(ints(list(jobs)))):
                found = work.settle(block, force=True)
                for job in np.setdiff1d(block, found).tolist():
                    work.tally.problems.setdefault(job, "is not in OAR's table jobs")
            entry.report = self._report(work.tally, self._notices(self._site()))
        return entry.report

    def rebuild(
        self,
        *,
        metric: str | None = None,
        from_oar: bool = False,
        progress: Progress | None = None,
    ) -> PassReport:
        """Recompute the totals from the ledger, with the window that the settings have now.

        With *metric* that metric, as it is declared now: where the declaration is new or has
        changed, from OAR's resources, and shown when it is complete; what was half built of one
        that is no longer declared goes. With *from_oar* every job
        is read again, under the profile, containers and dimension that the settings have now.
        The law holds at every commit. Raises :class:`oar_accounting.UnknownName`.
        """
        with self._noted("rebuild") as entry:
            site = self._site()
            work = Pass(self._ledger, self._oar, entry.began)
            found = []
            if metric is not None:
                self._rebuild_metric(work, site, metric, from_oar, progress)
            elif from_oar:
                terms = declared_terms(self.settings, self._oar)
                reread_jobs(work, site, terms, progress)
            else:
                restore_totals(self._ledger, site, self.settings.window, progress)
            if site.purged_before is not None and (metric is not None or from_oar):
                found.append(
                    f"what ended before {formats.date(site.purged_before)} was purged: it stays "
                    "as it was recorded, and counts in no metric that was added since"
                )
            entry.report = self._report(work.tally, self._notices(self._site()) + found)
        return entry.report

    def purge(self, before: int, *, progress: Progress | None = None) -> tuple[int, int]:
        """Drop spans and rates of jobs that ended before *before*; every total stays.

        *before*, epoch seconds, is moved to the bound of windows at or before it. Returns that
        bound and how many jobs were purged. They can no longer be corrected, nor counted in other
        metrics, under other terms or in smaller windows. Raises :class:`oar_accounting.BadSpan`
        where catch-up still compares such jobs with OAR.
        """
        with self._noted("purge", new=False) as entry:
            latest = entry.began - self.settings.recheck_days * DAY
            bound, count = purge(self._ledger, self._site(), before, latest, progress)
            entry.report = PassReport(done=count)
        return bound, count

    def import_accounting(self, *, dry_run: bool = False) -> OpeningReport:
        """Take over what OAR's own accounting has of times of which no jobs are left.

        In resource·s. Twice is once. A job that turns up later accounts for its share itself. With
        *dry_run* nothing is written. Raises :class:`oar_accounting.OarSchemaError` where OAR's
        accounting cannot be read.
        """
        if dry_run:
            with self._ledger.reading() as (connection, site):
                known = self._known(connection, site)
                book = Book(connection, known, self._ledger.accounts(connection, known))
                return take_over(book, self._oar, dry_run=True)
        with self._noted("import", new=False) as entry:
            with self._ledger.writing() as book:
                told = take_over(book, self._oar, dry_run=False)
            entry.report = PassReport(done=told.new, changed=told.changed)
        return told

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
            delete_before = int(time.time()) - delete_older
        if delete_before is not None:
            return stock_accounting.delete_before(self.oar_engine, delete_before, dry_run=dry_run)
        count = stock_accounting.recount if reinitialize else stock_accounting.account
        window = oar_window(self.settings)
        return count(self.oar_engine, window, dry_run=dry_run, progress=progress)

    def queue_policies(self) -> dict[str, str]:
        """The name of the scheduler that OAR has for each of its queues.

        Raises :class:`oar_accounting.OarSchemaError` where they may not be read.
        """
        from oar_accounting.oar.queues import read_queues

        return dict(read_queues(self.oar_engine, int(time.time())).policies)

    def karma(self, jobs: Iterable[int] | None = None, now: int | None = None) -> "KarmaReport":
        """The karma of these jobs, or of all that wait in OAR's queues, lowest and so next first.

        *now*: epoch seconds, the present by default; of an instant of the past the window that it
        lies in counts as a whole. Nothing is written. Raises :class:`oar_accounting.BadSpan`,
        :class:`oar_accounting.SettingsError`, :class:`oar_accounting.UnknownName` where a metric
        or attribute is not recorded, and :class:`oar_accounting.OarSchemaError`.
        """
        return self._fair_share(now).karma(None if jobs is None else list(jobs))

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

        instant = int(time.time()) if now is None else now
        return FairShare(self.settings, self._ledger, self._oar, instant)

    def forget_user(self, user: str) -> str:
        """Put a pseudonym in the place of a user's name, also for jobs to come; the pseudonym.

        A project of the same name gets it too. What was used stays. Raises
        :class:`oar_accounting.UnknownName`.
        """
        with self._noted("forget-user", new=False) as entry:
            entry.secret = True
            with self._ledger.writing() as book:
                return forget(book, user)

    def retire(self, first: int) -> int:
        """Give free the job ids from *first* on, which OAR uses for other jobs; how many.

        What the recorded jobs used stays. Jobs that OAR still has keep their ids. Raises
        :class:`oar_accounting.UnknownName` and :class:`oar_accounting.WriterBusy`.
        """
        with self._noted("retire", new=False) as entry:
            with self._ledger.writing() as book:
                count = retire(book, self._oar, first, entry.began)
            entry.report = PassReport(done=count)
        return count

    def import_attributes(
        self, given: str | bytes | Iterable[str], *, source: str = "the file", dry_run: bool = False
    ) -> AttributesReport:
        """Record who belongs where, as a file of comma-separated values says.

        *given* is its text, its bytes or its lines; *source* names it in errors. Of the attributes
        in its first line it is the truth: all that was recorded of them before goes. With *dry_run*
        nothing is written. Raises :class:`oar_accounting.BadFile`, whose text names every mistake,
        and :class:`oar_accounting.UnknownName` where the site is not recorded.
        """
        file = csv_files.read(given, source)
        if dry_run:
            with self._ledger.reading() as (connection, site):
                planned = stored.prepare(connection, self._known(connection, site), file)
            return planned.report(dry_run=True)
        with self._noted("attributes", new=False) as entry:
            entry.secret = True
            with self._ledger.writing() as book:
                planned = stored.prepare(book.connection, book.site, file)
                stored.store(book.connection, book.site.site_id, planned)
            report = planned.report(dry_run=False)
            changed = report.added + report.removed + report.changed
            entry.report = PassReport(done=report.entries, changed=changed)
        return report

    def attributes(self, name: str | None = None) -> list[Attribute]:
        """Who belongs where by one attribute, or by all, sorted by attribute, name and time.

        Raises :class:`oar_accounting.UnknownName`.
        """
        with self._ledger.reading() as (connection, site):
            site_id = self._known(connection, site).site_id
            return stored.entries(connection, site_id, name)

    def remove_attribute(self, name: str) -> int:
        """Delete all that is recorded of an attribute; how many entries it had.

        Raises :class:`oar_accounting.UnknownName`.
        """
        with self._noted("attributes", new=False) as entry:
            with self._ledger.writing() as book:
                count = stored.remove(book.connection, book.site.site_id, name)
            entry.report = PassReport(changed=count)
        return count

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
        given = Amount(names=names, metric=metric, start=start, stop=stop, asked=asked, used=used)
        return self._adjusting(
            author, reason, dry_run, lambda book, note: adjust_account(book, given, note)
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
        return self._adjusting(
            author, reason, dry_run, lambda book, note: adjust_jobs(book, self._oar, wanted, note)
        )

    def counter(
        self, adjustment_id: int, *, reason: str, author: str, dry_run: bool = False
    ) -> AdjustmentReport:
        """Post the amounts of an adjustment with the opposite sign; each is countered once.

        With *dry_run* nothing is written. Raises :class:`oar_accounting.UnknownName` and
        :class:`oar_accounting.BadAdjustment`.
        """
        return self._adjusting(
            author, reason, dry_run, lambda book, note: counter(book, adjustment_id, note)
        )

    def _adjusting(
        self,
        author: str,
        reason: str,
        dry_run: bool,
        work: Callable[[Book, Note | None], AdjustmentReport],
    ) -> AdjustmentReport:
        check_words(author, reason)
        if dry_run:
            with self._ledger.reading() as (connection, site):
                known = self._known(connection, site)
                return work(Book(connection, known, self._ledger.accounts(connection, known)), None)
        with self._noted("adjust", new=False) as entry:
            entry.secret = True
            with self._ledger.writing() as book:
                report = work(book, Note(posted=entry.began, author=author, reason=reason))
            entry.report = PassReport(done=report.jobs)
        return report

    def adjustments(self) -> list[Adjustment]:
        """All adjustments, in the order they were posted."""
        with self._ledger.reading() as (connection, site):
            return read_all(connection, self._known(connection, site).site_id)

    def adjustment_lines(self, adjustment_id: int) -> list[AdjustmentLine]:
        """What an adjustment added to whom, when. Raises :class:`oar_accounting.UnknownName`."""
        with self._ledger.reading() as (connection, site):
            return read_lines(connection, self._known(connection, site), adjustment_id)

    def verify(self, *, most: int = 10) -> list[Difference]:
        """The first totals that are not what spans, rates and entries give; none is good."""
        with self._ledger.reading() as (connection, site):
            return [] if site is None else first_differences(connection, site, most)

    def doctor(self, *, verify: bool = False, root: Path = Path("/")) -> Status:
        """What is set up, what is behind and what is wrong; with *verify* of every total too.

        Nothing is written, and nothing is raised: what cannot be looked at is a finding. *root* is
        the directory below which the files of the OAR server are.
        """
        return doctor.examine(
            self.settings, self._ledger, self._oar, int(time.time()), root, verify=verify
        )

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
            return doctor.examine_machine(error, conf, int(time.time()), root)

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

        now = int(time.time())
        return check(oar_conf=oar_conf, config=config, url=url, site=site, now=now)

    def period(self, said: str, timezone: str | None = None) -> tuple[int, int]:
        """The half-open span that people mean: "last month", "2026-03"; see `periods.period`.

        In *timezone*, else in that of the settings. Raises :class:`oar_accounting.BadSpan`.
        """
        from oar_accounting.core import periods

        zone = periods.zone(timezone or self.settings.timezone)
        return periods.period(said, zone, int(time.time()))

    def instant(self, said: str, timezone: str | None = None) -> int:
        """Epoch seconds from a date, a time, or the begin of a period. Raises as `period`."""
        from oar_accounting.core import periods

        zone = periods.zone(timezone or self.settings.timezone)
        return periods.instant(said, zone, int(time.time()))

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

        now = int(time.time())
        end = min(each for each in (now, stop, as_of) if each is not None)
        names = (metrics,) if isinstance(metrics, str) else metrics
        with self._ledger.reading() as (connection, site):
            return utilisation(
                connection,
                self._known(connection, site),
                self._oar,
                names,
                start,
                end,
                bucket=bucket,
                timezone=timezone or self.settings.timezone,
                where=where,
            )

    @contextmanager
    def _noted(self, verb: str, *, wait: bool = True, new: bool = True) -> Iterator[Entry]:
        """A pass that leaves a row in the journal, whatever comes of it.

        Where the site is not recorded yet, it is *new*, or the name of none.
        """
        if new:
            self._site()
        else:
            with self._ledger.reading() as (connection, site):
                self._known(connection, site)
        began = int(time.time())
        with self._ledger.writing(wait=wait) as book:
            number = journal.begin(book.connection, book.site.site_id, verb, began)
        entry = Entry(began)
        try:
            yield entry
        except BaseException as error:
            known = isinstance(error, AccountingError) and not entry.secret
            reason = str(error) if known else type(error).__name__
            with (
                suppress(AccountingError),
                dialects.writing(self.engine, wait=False) as connection,
            ):
                journal.fail(connection, number, int(time.time()), reason)
            raise
        with dialects.writing(self.engine) as connection:
            journal.finish(connection, number, int(time.time()), entry.report)

    def _site(self) -> Site:
        """The site, added under the settings' terms where it is new."""
        with self._ledger.reading() as (_, site):
            if site is not None:
                return site
        check_properties(self.settings, self._oar, self.settings.metrics)
        terms = declared_terms(self.settings, self._oar)
        return self._ledger.open_site(terms, self.settings.metrics)

    def _notices(self, site: Site) -> list[str]:
        with self._ledger.reading() as (connection, _):
            stored = catalog.stored_metrics(connection, site.site_id)
        terms = declared_terms(self.settings, self._oar)
        return notices(site, terms, self.settings.metrics, stored)

    def _report(self, tally: Tally, found: Sequence[str]) -> PassReport:
        with self._ledger.reading() as (connection, site):
            still_open = 0 if site is None else open_jobs(connection, site.site_id)
        return PassReport(
            done=tally.done,
            changed=tally.changed,
            open=still_open,
            problems=tuple(Problem(job_id=j, reason=r) for j, r in sorted(tally.problems.items())),
            notices=(*found, *tally.told()),
        )

    def _rebuild_metric(
        self, work: Pass, site: Site, name: str, from_oar: bool, progress: Progress | None
    ) -> None:
        declared = {metric.name: metric for metric in self.settings.metrics}
        if name not in declared:
            with self._ledger.writing() as book:
                if book.drop_unfinished(name):
                    return
            raise UnknownName(
                f"metric {name!r} is not declared in {self.settings.file}; declared are "
                f"{', '.join(declared)}"
            )
        check_properties(self.settings, self._oar, [declared[name]])
        with self._ledger.reading() as (connection, _):
            stored = catalog.stored_metrics(connection, site.site_id)
        recorded = [each.metric for each in stored if each.state == schema.ACTIVE]
        half = [each.metric.name for each in stored if each.state == schema.BUILDING]
        if declared[name] in recorded and name not in half and not from_oar:
            restore_totals(self._ledger, site, site.terms.window, progress)
        else:
            build_metric(work, site, declared[name], progress)


def _long_ago(last_pass: int) -> str:
    return (
        f"the last pass was on {formats.date(last_pass)}: was the accounting restored from a dump? "
        "What OAR has had since was recorded; what it corrected before: oar-accounting catch-up "
        "--full"
    )

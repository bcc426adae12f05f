"""The verbs. This is the only module that reads the clock."""

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Self

import numpy as np
from sqlalchemy import Connection, Engine
from sqlalchemy.engine import URL

from oar_accounting import catalog, dialects, law, queries, schema, settings
from oar_accounting.catalog import Accounts, Site, StoredMetric
from oar_accounting.columns import Ints, ints
from oar_accounting.errors import DatabaseUnavailable, SchemaError, SettingsError, UnknownName
from oar_accounting.ledger import (
    Ledger,
    check_version,
    open_jobs,
    recorded_above,
    recorded_ids,
    unsettled_ids,
)
from oar_accounting.metrics import Metric
from oar_accounting.oar_jobs import BLOCK, OarJobs, id_blocks
from oar_accounting.passes import Pass
from oar_accounting.readings import Terms
from oar_accounting.records import Difference, PassReport, Problem, UsageReport
from oar_accounting.settings import Settings

#: Ids are given out before they are committed: this many below the highest are looked at again.
OVERLAP = 10_000

DAY = 86_400

#: Called now and then with how much is done, and of how much.
Progress = Callable[[int, int], None]


class Accounting:
    """The accounting of one OAR server.

    Times are epoch seconds UTC, spans are half-open, amounts are whole numbers in the metric's
    unit divided by its scale. Every error is an :class:`oar_accounting.AccountingError`.
    """

    def __init__(
        self, given: Settings, *, engine: Engine | None = None, oar_engine: Engine | None = None
    ) -> None:
        """With *engine* (our tables) and *oar_engine* (OAR's; the same by default) as they are."""
        self.settings = given
        self.engine = engine if engine is not None else dialects.open_engine(given.url)
        if oar_engine is None:
            same = engine is not None or given.oar_url == given.url
            oar_engine = self.engine if same else dialects.open_engine(given.oar_url)
        self.oar_engine = oar_engine
        for each in (self.engine, self.oar_engine):
            dialects.prepare(each)
        self._ledger = Ledger(self.engine, given.site)
        self._oar = OarJobs(self.oar_engine)

    @classmethod
    def open(
        cls,
        *,
        oar_conf: str | Path | None = None,
        config: str | Path | None = None,
        url: str | URL | None = None,
        engine: Engine | None = None,
        site: str | None = None,
    ) -> Self:
        """From ``oar.conf``, from the URL of OAR's database, or from an engine on it.

        Without any, ``$OARCONFFILE`` or /etc/oar/oar.conf is read. *config* is our TOML file.
        Raises :class:`oar_accounting.SettingsError`.
        """
        place = engine.url if engine is not None else url
        given = settings.load(oar_conf=oar_conf, config=config, url=place, site=site)
        if engine is None:
            return cls(given)
        if given.url == given.oar_url:
            return cls(given, engine=engine)
        return cls(given, engine=dialects.open_engine(given.url), oar_engine=engine)

    def close(self) -> None:
        """Close the connections."""
        self.engine.dispose()
        self.oar_engine.dispose()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # -- tables -------------------------------------------------------------------------------

    def init(self) -> bool:
        """Create our tables where they are missing; true where any was. Again changes nothing.

        Raises :class:`oar_accounting.SchemaError`, whose text ends with the SQL to run, where the
        role may not create tables, and where they are of another version.
        """
        try:
            with dialects.reading(self.engine) as connection:
                check_version(connection)
            return False
        except SchemaError as error:
            if "version" in str(error):
                raise
        try:
            dialects.let_readers_in(self.engine)
            with dialects.writing(self.engine) as connection:
                schema.create(connection)
        except DatabaseUnavailable as error:
            database = dialects.database_name(self.engine)
            raise SchemaError(
                f"the tables cannot be created: {error}\nA role that may create tables can run "
                f"this:\n\n{schema.ddl(database)}"
            ) from error
        return True

    # -- recording ----------------------------------------------------------------------------

    def catch_up(self, *, full: bool = False, progress: Progress | None = None) -> PassReport:
        """Record what is new or has changed in OAR; with *full* compare every job.

        Raises :class:`oar_accounting.WriterBusy` where another process is at it; should two be
        at it after all, they share the work.
        """
        began = int(time.time())
        site = self._site()
        with self._ledger.writing(wait=False):
            pass
        work = Pass(self._ledger, self._oar)
        unsettled, recent = self._to_compare(site, began)
        seen = site.high_water_mark
        notices = self._notices(site)
        shown = _Shown(progress, self._count_above(seen, progress) + len(unsettled) + len(recent))
        for page in self._pages_above(max(seen - OVERLAP, 0)):
            seen = max(seen, int(page[-1]))
            self._settle_new(work, page, seen)
            shown.advance(len(page))
        if full:
            notices += self._compare_all(work, shown)
        for block in id_blocks(np.union1d(unsettled, recent)):
            self._settle_changed(work, block)
            shown.advance(len(block))
        return self._finish(work, notices, last_pass=began, high_water_mark=seen)

    def record(self, jobs: Iterable[int]) -> PassReport:
        """Record these jobs as OAR has them now, also where nothing seems to have changed."""
        site = self._site()
        ids = np.unique(ints(list(jobs)))
        work = Pass(self._ledger, self._oar)
        for block in id_blocks(ids):
            found = work.settle(block, force=True)
            for job in np.setdiff1d(block, found).tolist():
                work.tally.problems.setdefault(job, "is not in OAR's table jobs")
        return self._finish(work, self._notices(site))

    def rebuild(
        self,
        *,
        metric: str | None = None,
        from_oar: bool = False,
        progress: Progress | None = None,
    ) -> PassReport:
        """Recompute the totals from the ledger, with the window that the settings have now.

        With *metric* that metric alone, as it is declared now: where the declaration is new or
        has changed, from OAR's resources, and hidden until it is complete. With *from_oar* every
        job is read again, under the profile, containers and dimension that the settings have now.
        The law holds at every commit. Raises :class:`oar_accounting.UnknownName`.
        """
        site = self._site()
        work = Pass(self._ledger, self._oar)
        if metric is not None:
            self._rebuild_metric(work, site, metric, from_oar, progress)
        elif from_oar:
            self._reread(work, site, progress)
        else:
            self._restore(site, progress)
        return self._finish(work, self._notices(self._site()))

    def verify(self, *, most: int = 10) -> list[Difference]:
        """The first totals that are not what spans, rates and entries give; none is good."""
        found: list[Difference] = []
        with self._ledger.reading() as (connection, site):
            if site is None:
                return found
            names, metrics = self._labels(connection, site)
            for stored, right in law.broken(connection, site.site_id, site.terms.window):
                rows = zip(
                    *(c.tolist() for c in stored.as_dict().values()),
                    right.asked.tolist(),
                    right.used.tolist(),
                    strict=True,
                )
                for window, account, number, asked, used, right_asked, right_used in rows:
                    user, project, queue, value = names.get(account, ("?",) * 4)
                    found.append(
                        Difference(
                            window_start=window,
                            user=user,
                            project=project,
                            queue=queue,
                            property=value,
                            metric=metrics.get(number, f"metric {number}"),
                            asked=asked,
                            used=used,
                            expected_asked=right_asked,
                            expected_used=right_used,
                        )
                    )
                    if len(found) == most:
                        return found
        return found

    # -- asking -------------------------------------------------------------------------------

    def usage(
        self,
        by: Sequence[str] = ("user",),
        metrics: Sequence[str] | None = None,
        start: int | None = None,
        stop: int | None = None,
    ) -> UsageReport:
        """What closed jobs asked for and used within ``[start, stop)``, on bounds of windows.

        *by* names user, project, queue or the dimension property; no *metrics* are all of them.
        Raises :class:`oar_accounting.UnknownName` and :class:`oar_accounting.BadSpan`.
        """
        with self._ledger.reading() as (connection, site):
            if site is None:
                raise UnknownName(
                    f"site {self.settings.site!r} is not recorded here; run: oar-accounting "
                    "catch-up"
                )
            return queries.usage(connection, site, by, metrics, start, stop)

    # -- the steps ----------------------------------------------------------------------------

    def _site(self) -> Site:
        """The site, added under the settings' terms where it is new."""
        with self._ledger.reading() as (_, site):
            if site is not None:
                return site
        self._check_declared(self.settings.metrics)
        return self._ledger.open_site(self._terms(), self.settings.metrics)

    def _terms(self) -> Terms:
        """The terms as the settings have them now."""
        given, properties = self.settings, self._oar.properties()
        dimension = given.dimension
        if dimension is None:
            dimension = "cluster" if "cluster" in properties else ""
        if dimension and dimension not in properties:
            raise SettingsError(
                f"{given.file}: dimension {dimension!r} is not a property of OAR's resources; "
                f"known are {', '.join(sorted(properties))}"
            )
        return Terms(
            window=given.window,
            dimension=dimension,
            profile=given.profile,
            containers=given.containers,
        )

    def _check_declared(self, declared: Iterable[Metric]) -> None:
        properties = self._oar.properties()
        for metric in declared:
            for name in metric.properties:
                if name not in properties:
                    raise SettingsError(
                        f"{self.settings.file}: [metrics.{metric.name}]: {name!r} is not a "
                        f"property of OAR's resources; known are {', '.join(sorted(properties))}"
                    )

    def _notices(self, site: Site) -> list[str]:
        """Where the settings are not what is recorded: that stays, and the way to change it."""
        notices = []
        if site.unfinished:
            notices.append(f"'{site.unfinished}' was begun and has not ended: run it again")
        now = self._terms()
        if now.window != site.terms.window:
            notices.append(
                f"window is {now.window} s in the settings, {site.terms.window} s as recorded: "
                "oar-accounting rebuild"
            )
        for key in ("dimension", "profile", "containers"):
            new, old = getattr(now, key), getattr(site.terms, key)
            if new != old:
                notices.append(
                    f"{key} is {new!r} in the settings, {old!r} as recorded: "
                    "oar-accounting rebuild --from-oar"
                )
        with self._ledger.reading() as (connection, _):
            stored = catalog.stored_metrics(connection, site.site_id)
        return notices + metric_notices(self.settings.metrics, stored)

    def _to_compare(self, site: Site, now: int) -> tuple[Ints, Ints]:
        """The jobs OAR may still change, and those that ended lately."""
        if not site.high_water_mark:
            return ints([]), ints([])
        with self._ledger.reading() as (connection, _):
            unsettled = unsettled_ids(connection, site.site_id)
        with self._oar.snapshot() as snapshot:
            recent = snapshot.ids_ended_since(now - self.settings.recheck_days * DAY)
        return unsettled, recent[recent <= site.high_water_mark]

    def _pages_above(self, last: int) -> Iterator[Ints]:
        """All of OAR's job ids above *last*, a page at a time."""
        while True:
            with self._oar.snapshot() as snapshot:
                page = snapshot.ids_above(last)
            if not len(page):
                return
            yield page
            last = int(page[-1])

    def _count_above(self, last: int, progress: Progress | None) -> int:
        if progress is None:
            return 0
        with self._oar.snapshot() as snapshot:
            return snapshot.count_above(last)

    def _settle_new(self, work: Pass, page: Ints, seen: int) -> None:
        with self._ledger.reading() as (connection, site):
            assert site is not None
            known = [recorded_ids(connection, site.site_id, b) for b in id_blocks(page)]
        fresh = np.setdiff1d(page, np.concatenate(known))
        for block in id_blocks(fresh):
            work.settle(block, seen_up_to=seen if block[-1] == fresh[-1] else 0)
        self._analyze(work)

    def _settle_changed(self, work: Pass, block: Ints) -> None:
        with self._ledger.reading() as (connection, site):
            assert site is not None
            outdated = work.outdated(connection, site, block)
        for part in id_blocks(outdated):
            work.settle(part)

    def _compare_all(self, work: Pass, shown: "_Shown") -> list[str]:
        """Compare every job with OAR's; says which are recorded and no longer there."""
        for page in self._pages_above(0):
            for block in id_blocks(page):
                self._settle_changed(work, block)
                shown.advance(len(block))
        gone = []
        for page in self._recorded_pages():
            with self._oar.snapshot() as snapshot:
                there = [snapshot.rows(block).job_id for block in id_blocks(page)]
            gone += np.setdiff1d(page, np.concatenate(there)).tolist()
        if not gone:
            return []
        return [
            f"{len(gone)} recorded jobs are no longer in OAR, the first is {gone[0]}: what they "
            "asked for and used is kept"
        ]

    def _recorded_pages(self) -> Iterator[Ints]:
        last = 0
        while True:
            with self._ledger.reading() as (connection, site):
                assert site is not None
                page = recorded_above(connection, site.site_id, last, BLOCK)
            if not len(page):
                return
            yield page
            last = int(page[-1])

    def _analyze(self, work: Pass) -> None:
        """After the first large block and whenever the tables have doubled since."""
        recorded = work.tally.done
        if recorded >= BLOCK // 2 and recorded >= 2 * work.tally.analyzed:
            work.tally.analyzed = recorded
            self._ledger.analyze()

    def _finish(self, work: Pass, notices: list[str], **values: int) -> PassReport:
        with self._ledger.writing() as book:
            if values:
                mark = max(book.site.high_water_mark, values["high_water_mark"])
                values["high_water_mark"] = mark
                catalog.change_site(book.connection, book.site, **values)
            still_open = open_jobs(book.connection, book.site.site_id)
        tally = work.tally
        return PassReport(
            done=tally.done,
            changed=tally.changed,
            open=still_open,
            problems=tuple(Problem(job_id=j, reason=r) for j, r in sorted(tally.problems.items())),
            notices=tuple(notices),
        )

    # -- rebuilding ---------------------------------------------------------------------------

    def _restore(self, site: Site, progress: Progress | None) -> None:
        if self.settings.window != site.terms.window:
            self._change_window(progress)
            return
        with self._ledger.reading() as (connection, _):
            ranges = law.account_ranges(connection, site.site_id)
        shown = _Shown(progress, len(ranges))
        for accounts in ranges:
            with self._ledger.writing() as book:
                law.restore(book, accounts)
            shown.advance(1)

    def _change_window(self, progress: Progress | None) -> None:
        """All totals in other windows, in one transaction: half of them would break the law."""
        with self._ledger.writing() as book:
            terms = Terms(
                window=self.settings.window,
                dimension=book.site.terms.dimension,
                profile=book.site.terms.profile,
                containers=book.site.terms.containers,
            )
            ranges = law.account_ranges(book.connection, book.site.site_id)
            law.clear_totals(book)
            book.change_terms(terms)
            shown = _Shown(progress, len(ranges))
            for accounts in ranges:
                law.restore(book, accounts)
                shown.advance(1)

    def _reread(self, work: Pass, site: Site, progress: Progress | None) -> None:
        command = "oar-accounting rebuild --from-oar"
        if self.settings.window != site.terms.window:
            self._change_window(None)
        terms = self._terms()
        with self._ledger.writing() as book:
            catalog.change_site(book.connection, book.site, unfinished=command)
            book.change_terms(terms)
        shown = _Shown(progress, self._count_above(0, progress))
        for page in self._pages_above(0):
            for block in id_blocks(page):
                work.settle(block, force=True)
            shown.advance(len(page))
        with self._ledger.writing() as book:
            catalog.change_site(book.connection, book.site, unfinished="")

    def _rebuild_metric(
        self, work: Pass, site: Site, name: str, from_oar: bool, progress: Progress | None
    ) -> None:
        declared = {metric.name: metric for metric in self.settings.metrics}
        if name not in declared:
            raise UnknownName(
                f"metric {name!r} is not declared in {self.settings.file}; declared are "
                f"{', '.join(declared)}"
            )
        metric = declared[name]
        self._check_declared([metric])
        with self._ledger.reading() as (connection, _):
            stored = catalog.stored_metrics(connection, site.site_id)
        recorded = [each.metric for each in stored if each.state == schema.ACTIVE]
        if metric in recorded and not from_oar:
            self._restore(site, progress)
            return
        with self._ledger.writing() as book:
            building = book.begin_metric(metric)
        pages = list(self._recorded_pages())
        shown = _Shown(progress, sum(map(len, pages)))
        for page in pages:
            for block in id_blocks(page):
                work.fill(block, building)
            shown.advance(len(page))
        with self._ledger.writing() as book:
            book.finish_metric(building)

    def _labels(
        self, connection: Connection, site: Site
    ) -> tuple[dict[int, catalog.Names], dict[int, str]]:
        accounts = Accounts(site.site_id)
        accounts.refresh(connection)
        stored = catalog.stored_metrics(connection, site.site_id)
        return accounts.names(), {each.metric_id: each.metric.name for each in stored}


class _Shown:
    """Counts for a progress callback."""

    def __init__(self, progress: Progress | None, total: int) -> None:
        self._progress = progress
        self._total = total
        self._done = 0

    def advance(self, count: int) -> None:
        self._done += count
        if self._progress is not None:
            self._progress(self._done, max(self._total, self._done))


def metric_notices(declared: Sequence[Metric], stored: Sequence[StoredMetric]) -> list[str]:
    """Where the declared metrics are not the recorded ones, a line each."""
    notices = []
    active = {each.metric.name: each.metric for each in stored if each.state == schema.ACTIVE}
    for metric in declared:
        way = f"oar-accounting rebuild --metric {metric.name}"
        if metric.name not in active:
            notices.append(f"metric {metric.name} is declared and not recorded yet: {way}")
        elif active[metric.name] != metric:
            notices.append(
                f"metric {metric.name} is declared otherwise than it is recorded, and recorded as "
                f"before: {way}"
            )
    names = {metric.name for metric in declared}
    for name in active:
        if name not in names:
            notices.append(f"metric {name} is recorded and no longer declared")
    return notices

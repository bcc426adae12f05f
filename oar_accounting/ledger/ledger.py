"""The ledger: it is set, not added to.

`Book.post` makes it say exactly this about some jobs: their old rows are replaced and the totals
move by the difference, in one transaction under the lock of the site's row. Posting twice is
posting once, in any order and in any portions. The law that always holds:

    totals = Σ spans × rates + entries, split over windows, of all closed jobs
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from sqlalchemy import ColumnElement, Connection, Engine, Table

from oar_accounting.core.columns import OPEN, Ints, Rates, Spans, Totals, add_up, difference, ints
from oar_accounting.core.windows import totals_of
from oar_accounting.database import bulk, dialects
from oar_accounting.database.id_blocks import id_blocks, is_dense, short_lists
from oar_accounting.errors import SchemaError, UnknownName, WriterBusy
from oar_accounting.ledger import catalog, problems, schema, totals
from oar_accounting.ledger.catalog import Accounts, Site, StoredMetric
from oar_accounting.ledger.figures import changed_figures
from oar_accounting.ledger.job_index import reach_of
from oar_accounting.ledger.openings import KEPT_OPEN, Cover
from oar_accounting.ledger.reading import (
    Entries,
    JobRecords,
    jobs_where,
    known_jobs,
    read_entries,
    read_rates,
    read_spans,
)
from oar_accounting.metrics.metric import RESOURCE, Metric
from oar_accounting.oar.job_rules import Terms


class Ledger:
    """The ledger of one site, in the database of *engine*."""

    def __init__(self, engine: Engine, site: str) -> None:
        self.engine = engine
        self.site_name = site
        self._accounts: Accounts | None = None

    @contextmanager
    def reading(self) -> Iterator[tuple[Connection, Site | None]]:
        """A read-only view, and the site if it was ever recorded.

        Raises :class:`SchemaError` where our tables are missing or of another version.
        """
        with dialects.reading(self.engine) as connection:
            check_version(connection)
            yield connection, catalog.find_site(connection, self.site_name)

    def open_site(self, terms: Terms, declared: Sequence[Metric]) -> Site:
        """The site, added under these terms and with these metrics where it is new."""
        with self.reading() as (_, site):
            pass
        while site is None:
            with dialects.writing(self.engine) as connection:
                catalog.add_site(connection, self.site_name, terms, declared)
            with self.reading() as (_, site):
                pass
        return site

    @contextmanager
    def reading_site(self) -> Iterator[tuple[Connection, Site]]:
        """The same. Raises :class:`UnknownName` where the site was never recorded."""
        with self.reading() as (connection, site):
            if site is None:
                recorded = ", ".join(catalog.site_names(connection)) or "none"
                raise UnknownName(
                    f"site {self.site_name!r} is not recorded here, recorded are: {recorded}; a "
                    "new one is recorded by: oar-accounting catch-up"
                )
            yield connection, site

    @contextmanager
    def writing(self, *, wait: bool = True) -> Iterator["Book"]:
        """The one writer of the site: everything written in the block, or nothing.

        Raises :class:`oar_accounting.errors.WriterBusy` where *wait* is false and there is one.
        """
        try:
            with dialects.writing(self.engine, wait=wait) as connection:
                site = catalog.lock_site(connection, self.site_name, wait=wait)
                if site is None:
                    raise SchemaError(f"site {self.site_name!r} is not recorded here")
                yield Book(connection, site, self.accounts(connection, site))
        except BaseException:
            # What was added in the transaction is gone with it.
            self._accounts = None
            raise

    def accounts(self, connection: Connection, site: Site) -> Accounts:
        """The site's accounts, read once and kept up to date."""
        if self._accounts is None:
            self._accounts = Accounts(site.site_id)
        self._accounts.refresh(connection)
        return self._accounts

    def analyze(self) -> None:
        """Tell the database's planner how large the tables have become."""
        with dialects.writing(self.engine) as connection:
            tables = [schema.jobs, schema.spans, schema.rates, schema.purged]
            bulk.analyze(connection, [*tables, *schema.SUMMED])


def check_version(connection: Connection) -> None:
    """Raise :class:`SchemaError` unless our tables are there, in the version of this code."""
    found = schema.version_of(connection)
    if found is None:
        raise SchemaError(
            f"{dialects.shown(connection.engine.url)}: the accounting tables are not there; "
            "create them with: oar-accounting init"
        )
    if found < schema.VERSION:
        raise SchemaError(
            f"{dialects.shown(connection.engine.url)}: the accounting tables are at version "
            f"{found}; upgrade them to version {schema.VERSION} with: oar-accounting init"
        )
    if found > schema.VERSION:
        raise SchemaError(
            f"{dialects.shown(connection.engine.url)}: the accounting tables are at version "
            f"{found}, this program writes version {schema.VERSION}: install the newer one"
        )


class TriedLedger(Ledger):
    """The ledger of one site for a dry run: whatever is written is undone."""

    def __init__(self, engine: Engine, site: str, terms: Terms | None = None) -> None:
        """*terms*: those under which it is tried; None: the site's."""
        super().__init__(engine, site)
        self._terms = terms

    @contextmanager
    def writing(self, *, wait: bool = True) -> Iterator["Book"]:
        """A transaction that is undone when the block ends. Raises as that of the ledger."""
        with suppress(_Undone), super().writing(wait=wait) as book:
            if self._terms is not None:
                book.site = replace(book.site, terms=self._terms)
            yield book
            raise _Undone


class _Undone(Exception):
    """Ends a transaction of which nothing stays."""


class GivenLedger(Ledger):
    """The ledger of one site, read through a connection of the caller's, in their transaction."""

    def __init__(self, connection: Connection, site: str) -> None:
        super().__init__(connection.engine, site)
        self._given = connection

    @contextmanager
    def reading(self) -> Iterator[tuple[Connection, Site | None]]:
        """The connection, and the site if it was ever recorded; the transaction goes on."""
        check_version(self._given)
        yield self._given, catalog.find_site(self._given, self.site_name)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Withdrawn:
    """What was recorded of jobs."""

    job_id: Ints
    given: Totals  #: to the totals
    entries: Entries
    spans: Spans
    rates: Rates


class Book:
    """One writing transaction of a site."""

    def __init__(self, connection: Connection, site: Site, accounts: Accounts) -> None:
        self.connection = connection
        self.site = site
        self.accounts = accounts
        #: Jobs that turned up at a time that was taken over, by what could not be done about it.
        self.late: dict[str, set[int]] = {}
        #: How many figures of jobs that were recorded before are otherwise now.
        self.figures = 0

    def metrics(self) -> list[StoredMetric]:
        """The metrics that every job is recorded in."""
        return catalog.stored_metrics(self.connection, self.site.site_id)

    def known(self, block: Ints) -> JobRecords:
        """The jobs of the block that the ledger has."""
        return known_jobs(self.connection, self.site.site_id, block)

    def spans(self, ids: Ints) -> Spans:
        """The recorded spans of the jobs."""
        return read_spans(self.connection, self.site.site_id, ids)

    def rates(self, ids: Ints, metric_id: int | None = None) -> Rates:
        """The recorded rates of the jobs, in one metric or in all."""
        rates = read_rates(self.connection, self.site.site_id, ids)
        return rates if metric_id is None else rates.take(rates.metric_id == metric_id)

    def resource_metric(self) -> StoredMetric:
        """The built-in count of resources, which every site records."""
        return next(each for each in self.metrics() if each.metric == RESOURCE)

    def post(self, jobs: JobRecords, spans: Spans, rates: Rates) -> None:
        """Say exactly this about *jobs*, ids ascending.

        Spans and rates are those of these jobs; only closed jobs count in the totals. Measured
        entries that a job has stay with it.
        """
        with self._covering(jobs.job_id):
            taken = self._withdraw(jobs.job_id, [schema.jobs, schema.spans, schema.rates])
            self.insert_jobs(jobs)
            ended = spans.stop_time != OPEN
            self.insert(schema.spans, spans.take(ended).as_dict())
            running = spans.take(~ended).as_dict()
            self.insert(schema.spans, {key: running[key] for key in running if key != "stop_time"})
            self.insert(schema.rates, rates.as_dict())
        closed = jobs.job_id[jobs.closed != schema.OPEN_JOB]
        after = amounts_of(closed, spans, rates, taken.entries, self.site.terms.window)
        self.move(difference(after, taken.given))
        self.figures += changed_figures((taken.spans, taken.rates), (spans, rates), taken.job_id)

    @contextmanager
    def _covering(self, ids: Ints) -> Iterator[None]:
        """What the jobs account for of opening amounts follows what the block does to them."""
        cover = Cover.of(self.connection, self.site.site_id)
        if cover is None:
            yield
            return
        before = cover.shares(ids)
        yield
        late = {**cover.move(before, cover.shares(ids)), KEPT_OPEN: cover.without_share(ids)}
        for what, jobs in late.items():
            self.late[what] = self.late.get(what, set()) | jobs

    def close_vanished(self, jobs: JobRecords, last_seen: int | None) -> None:
        """Close jobs that OAR deleted: what ran is used up to *last_seen*, or not at all."""
        spans = self.spans(jobs.job_id)
        rates = read_rates(self.connection, self.site.site_id, jobs.job_id)
        running = spans.stop_time == OPEN
        if last_seen is not None and self.site.terms.grace is not None:
            # What the terms grant a job, and no more, may have been still to come.
            unended = np.isin(spans.job_id, jobs.job_id[jobs.closed == schema.OPEN_JOB])
            running |= unended & (spans.asked == 0)
        ends = np.where(running, spans.start_time if last_seen is None else last_seen, 0)
        until = np.minimum(np.maximum(ends, spans.start_time), spans.stop_time)
        stops = np.where(running, until, spans.stop_time)
        spans = replace(spans, stop_time=stops)
        stopped = dict(zip(spans.job_id[running].tolist(), stops[running].tolist(), strict=True))
        count = len(jobs)
        closed = replace(
            jobs,
            state=np.full(count, schema.VANISHED, object),
            stop_time=ints(
                [
                    stopped.get(job, stop)
                    for job, stop in zip(jobs.job_id.tolist(), jobs.stop_time.tolist(), strict=True)
                ]
            ),
            closed=np.ones(count, np.int64),
            unsettled=np.zeros(count, np.int64),
        )
        spans = spans.take(spans.stop_time > spans.start_time)
        if self.site.terms.profile != "classic":
            # A job in which no second passed asked nothing.
            ran = np.isin(spans.job_id, spans.job_id[spans.asked == 0])
            spans = spans.take(ran)
        self.post(closed, spans, rates.take(np.isin(rates.job_id, spans.job_id)))

    def describe(self, jobs: JobRecords) -> None:
        """Say this of recorded *jobs*, whose spans, rates and amounts stay."""
        for chosen in short_lists(jobs.job_id):
            self.delete(schema.jobs, schema.jobs.c.job_id.in_(chosen))
        self.insert_jobs(jobs)

    def forget(self, ids: Ints) -> None:
        """Take the jobs and all they did out of the ledger; ids ascending."""
        everything = [schema.jobs, schema.spans, schema.rates, schema.entries]
        with self._covering(ids):
            taken = self._withdraw(ids, everything)
        problems.remove_of_jobs(self.connection, self.site.site_id, ids)
        self.move(difference(Totals.concat([]), taken.given))

    def post_metric(self, ids: Ints, metric_id: int, rates: Rates) -> None:
        """Say exactly this about one metric of the jobs: their *rates* in it; ids ascending."""
        for block in id_blocks(ids):
            jobs, _ = self.recorded(block)
            spans = read_spans(self.connection, self.site.site_id, jobs.job_id)
            old = read_rates(self.connection, self.site.site_id, jobs.job_id)
            old = old.take(old.metric_id == metric_id)
            new = rates.take(np.isin(rates.job_id, jobs.job_id))
            table = schema.rates
            for chosen in short_lists(old.job_id):
                self.delete(table, table.c.job_id.in_(chosen), table.c.metric_id == metric_id)
            self.insert(table, new.as_dict())
            closed = jobs.job_id[jobs.closed != schema.OPEN_JOB]
            window = self.site.terms.window
            none = Entries.concat([])
            before = amounts_of(closed, spans, old, none, window)
            self.move(difference(amounts_of(closed, spans, new, none, window), before))

    def saw(self, job_id: int) -> None:
        """Every job up to this id has been looked at."""
        if job_id > self.site.high_water_mark:
            catalog.change_site(self.connection, self.site, high_water_mark=job_id)

    def change_terms(self, terms: Terms) -> None:
        """Record the site under other terms from now on."""
        catalog.change_terms(self.connection, self.site, terms)
        self.site = replace(self.site, terms=terms)

    def begin_metric(self, metric: Metric) -> StoredMetric:
        """Begin to build a metric, hidden until `finish_metric`; what was half built goes."""
        self.drop_unfinished(metric.name)
        number = catalog.add_metric(self.connection, self.site.site_id, metric, schema.BUILDING)
        return StoredMetric(metric_id=number, metric=metric, state=schema.BUILDING)

    def check_no_rebuild(self) -> None:
        """Raise :class:`WriterBusy` while a metric is built: its jobs must stay as they are."""
        for each in self.metrics():
            if each.state == schema.BUILDING:
                raise WriterBusy(
                    f"metric {each.metric.name} is half built, and needs these jobs; finish it "
                    f"first: oar-accounting rebuild --metric {each.metric.name}"
                )

    def drop_unfinished(self, name: str) -> bool:
        """Remove what was half built of a metric; false where nothing was."""
        unfinished = [
            each
            for each in self.metrics()
            if each.metric.name == name and each.state == schema.BUILDING
        ]
        for each in unfinished:
            catalog.remove_metric(self.connection, self.site.site_id, each.metric_id)
        return bool(unfinished)

    def check_building(self, metric: StoredMetric) -> None:
        """Raise :class:`WriterBusy` where a later `begin_metric` has thrown the metric away."""
        if metric not in self.metrics():
            raise WriterBusy(
                f"another rebuild of metric {metric.metric.name} has begun since, and goes on"
            )

    def finish_metric(self, built: StoredMetric) -> None:
        """Show a metric that is complete, in the place of what was recorded under its name."""
        self.check_building(built)
        cover = Cover.of(self.connection, self.site.site_id)
        covering = ints([])
        if cover is not None and built.metric == RESOURCE:
            covering = cover.jobs()
        with self._covering(covering):
            for each in self.metrics():
                if each.metric.name == built.metric.name and each.state == schema.ACTIVE:
                    catalog.remove_metric(self.connection, self.site.site_id, each.metric_id)
            catalog.activate_metric(self.connection, built.metric_id)

    def move(self, change: Totals) -> None:
        """Add amounts, which may be negative, to the totals and to their days."""
        for table, part in totals.by_table(change, self.site.terms.window):
            totals.add(self.connection, table, self.site.site_id, part)

    def _withdraw(self, ids: Ints, tables: Sequence[Table]) -> "_Withdrawn":
        """Delete the jobs' rows; what was recorded of them."""
        site_id, window = self.site.site_id, self.site.terms.window
        amounts, entries = [Totals.concat([])], [Entries.concat([])]
        known, every_span, every_rate = [ints([])], [Spans.concat([])], [Rates.concat([])]
        for block in id_blocks(ids):
            jobs, alone = self.recorded(block)
            if not len(jobs):
                continue
            spans = read_spans(self.connection, site_id, jobs.job_id)
            rates = read_rates(self.connection, site_id, jobs.job_id)
            entries.append(read_entries(self.connection, site_id, jobs.job_id))
            closed = jobs.job_id[jobs.closed != schema.OPEN_JOB]
            amounts.append(amounts_of(closed, spans, rates, entries[-1], window))
            known.append(jobs.job_id)
            every_span.append(spans)
            every_rate.append(rates)
            for table in tables:
                column = table.c.job_id
                if alone:
                    self.delete(table, column.between(int(block[0]), int(block[-1])))
                else:
                    for chosen in short_lists(jobs.job_id):
                        self.delete(table, column.in_(chosen))
        return _Withdrawn(
            job_id=np.concatenate(known),
            given=add_up(Totals.concat(amounts)),
            entries=Entries.concat(entries),
            spans=Spans.concat(every_span),
            rates=Rates.concat(every_rate),
        )

    def recorded(self, block: Ints) -> tuple[JobRecords, bool]:
        """The jobs of the block that are recorded; true where no others lie between them."""
        if not is_dense(block):
            return self.known(block), False
        between = schema.jobs.c.job_id.between(int(block[0]), int(block[-1]))
        every = jobs_where(self.connection, self.site.site_id, between)
        jobs = every.take(np.isin(every.job_id, block))
        return jobs, len(jobs) == len(every)

    def delete(self, table: Table, *conditions: ColumnElement[bool]) -> None:
        """Delete the site's rows for which all of this holds."""
        of_site = table.c.site_id == self.site.site_id
        self.connection.execute(table.delete().where(of_site, *conditions))

    def insert_jobs(self, jobs: JobRecords) -> None:
        """Add rows of jobs, with what they are found by."""
        self.insert(schema.jobs, {**jobs.as_dict(), "reach": reach_of(jobs)})

    def insert(self, table: Table, columns: dict[str, Any]) -> None:
        """Add rows of the site, given as columns."""
        site_id = np.full(len(columns["job_id"]), self.site.site_id)
        bulk.insert_columns(self.connection, table, {"site_id": site_id, **columns})


def amounts_of(closed: Ints, spans: Spans, rates: Rates, entries: Entries, window: int) -> Totals:
    """What the *closed* jobs, by id, give to the totals: the law."""
    ended = np.isin(spans.job_id, closed) & (spans.stop_time != OPEN)
    held = totals_of(spans.take(ended), rates, window)
    if not len(entries):
        return held
    given = entries.take(np.isin(entries.job_id, closed))
    # Entries were measured in the windows of their time; they fall into the one around it now.
    at = given.window_start // window * window
    measured = Totals(at, given.account_id, given.metric_id, given.asked, given.used)
    return add_up(Totals.concat([held, measured]))

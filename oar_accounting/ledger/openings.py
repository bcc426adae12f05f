"""Opening amounts: what OAR's own accounting knows of times of which no jobs are left.

They are OAR's count, in resource·s under its own reading (profile classic), and lie evenly over
OAR's window. A job that turns up later accounts for its share itself: what is covered moves by what
the job gives under the same reading, by the difference, as totals do. Open is what is left:

    opening = max(0, counted by OAR - covered by recorded jobs)
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from sqlalchemy import Connection, func, select

from oar_accounting.core.columns import (
    AmountColumns,
    Bools,
    Columns,
    Ints,
    Rates,
    Spans,
    add_up,
    difference,
)
from oar_accounting.core.parts import by_job
from oar_accounting.core.windows import after, amounts_in_windows
from oar_accounting.database import bulk
from oar_accounting.database.id_blocks import id_blocks
from oar_accounting.ledger import schema
from oar_accounting.ledger.reading import JobRecords, known_jobs, read_rates
from oar_accounting.metrics.metric import RESOURCE
from oar_accounting.oar.job_rules import ENDED

TOO_LITTLE = (
    "jobs of a time that was taken over from OAR's accounting, where OAR counted less for their "
    "user, project and queue, count in full"
)
KEPT_OPEN = (
    "jobs of a time that was taken over from OAR's accounting hold nothing as they are read here; "
    "what OAR counted for them stands on as an opening amount"
)


@dataclass(frozen=True, slots=True)
class Openings(Columns):
    """Opening amounts of accounts; windows are half-open."""

    window_start: Ints
    window_stop: Ints
    account_id: Ints
    asked: Ints
    used: Ints
    covered_asked: Ints
    covered_used: Ints


@dataclass(frozen=True, slots=True)
class Shares(Columns):
    """What single jobs give to windows that have opening amounts, of their account or another."""

    job_id: Ints
    window_start: Ints
    window_stop: Ints
    account_id: Ints
    asked: Ints
    used: Ints


@dataclass(frozen=True, slots=True)
class _Covered(AmountColumns):
    """What jobs cover, by window and account."""

    window_start: Ints
    account_id: Ints
    asked: Ints
    used: Ints


def read_openings(connection: Connection, site_id: int) -> Openings:
    """All opening amounts of the site."""
    table = schema.openings.c
    columns = [table[name] for name in Openings.__slots__]
    return Openings.of(bulk.read_ints(connection, select(*columns).where(table.site_id == site_id)))


class Cover:
    """What jobs account for of the opening amounts of a site."""

    def __init__(self, connection: Connection, site_id: int, start: int, stop: int) -> None:
        """The site's opening amounts lie within ``[start, stop)``."""
        self._connection = connection
        self._site_id = site_id
        self._start = start
        self._stop = stop

    @classmethod
    def of(cls, connection: Connection, site_id: int) -> "Cover | None":
        """That of a site; None where it has no opening amounts."""
        table = schema.openings.c
        query = select(func.min(table.window_start), func.max(table.window_stop))
        start, stop = connection.execute(query.where(table.site_id == site_id)).one()
        return None if start is None else cls(connection, site_id, int(start), int(stop))

    def shares(self, ids: Ints) -> Shares:
        """What those of the jobs give that are closed and recorded in every detail."""
        parts = [Shares.concat([])]
        for block in id_blocks(ids):
            jobs = self._touching(block)
            if len(jobs):
                parts += self._of_jobs(jobs)
        return Shares.concat(parts)

    def _touching(self, block: Ints) -> JobRecords:
        """The closed jobs of the block that may have opening amounts in their time."""
        jobs = known_jobs(self._connection, self._site_id, block)
        ended = np.maximum(jobs.stop_time, after(jobs.start_time, jobs.walltime))
        there = (jobs.closed == schema.CLOSED_JOB) & (jobs.job_id != schema.CARRIED)
        return jobs.take(there & (jobs.start_time < self._stop) & (ended > self._start))

    def _of_jobs(self, jobs: JobRecords) -> Iterator[Shares]:
        spans, rates = by_job(self._spans(jobs), self._rates(jobs))
        for length, starts in self._windows():
            given = amounts_in_windows(spans, rates, length)
            given = given.take(np.isin(given.number * length, starts))
            start = given.number * length
            yield Shares(
                given.key,
                start,
                start + length,
                jobs.account_id[np.searchsorted(jobs.job_id, given.key)],
                given.asked,
                given.used,
            )

    def _rates(self, jobs: JobRecords) -> Rates:
        """The resources that the jobs held."""
        metric = schema.metrics.c
        query = select(metric.metric_id).where(
            metric.site_id == self._site_id,
            metric.name == RESOURCE.name,
            metric.state == schema.ACTIVE,
        )
        metric_id = int(self._connection.execute(query).scalar_one())
        rates = read_rates(self._connection, self._site_id, jobs.job_id)
        return rates.take(rates.metric_id == metric_id)

    def _spans(self, jobs: JobRecords) -> Spans:
        """When OAR counts the jobs, pauses and all, within the time of the opening amounts."""
        start = np.maximum(jobs.start_time, self._start)
        parts = []
        for asked, stop in ((1, after(jobs.start_time, jobs.walltime)), (0, jobs.stop_time)):
            kind = np.full(len(jobs), asked)
            parts.append(Spans(jobs.job_id, kind, start, np.minimum(stop, self._stop)))
        spans = Spans.concat(parts)
        return spans.take(spans.stop_time > spans.start_time)

    def _windows(self) -> Iterator[tuple[int, Ints]]:
        """The lengths of the windows that have opening amounts, and when windows of each begin."""
        table = schema.openings.c
        query = (
            select(table.window_start, table.window_stop)
            .where(table.site_id == self._site_id)
            .distinct()
        )
        starts, stops = bulk.read_ints(self._connection, query)
        for length in np.unique(stops - starts).tolist():
            yield length, starts[stops - starts == length]

    def jobs(self) -> Ints:
        """The jobs that may account for something, ascending."""
        job = schema.jobs.c
        query = select(job.job_id).where(
            job.site_id == self._site_id,
            job.closed == schema.CLOSED_JOB,
            job.job_id != schema.CARRIED,
            job.start_time < self._stop,
        )
        return np.sort(bulk.read_ints(self._connection, query)[0])

    def without_share(self, ids: Ints) -> set[int]:
        """Those of the jobs that OAR counts in windows with opening amounts, and we do not."""
        found: set[int] = set()
        for block in id_blocks(ids):
            jobs = self._touching(block)
            counted = np.isin(jobs.state, ENDED) & (jobs.start_time > 1)
            jobs = jobs.take(counted & (jobs.stop_time >= jobs.start_time))
            held = np.unique(self._rates(jobs).job_id) if len(jobs) else jobs.job_id
            idle = jobs.take(~np.isin(jobs.job_id, held))
            found.update(idle.job_id[self._in_windows(idle)].tolist())
        return found

    def _in_windows(self, jobs: JobRecords) -> Bools:
        """The jobs that ran, or asked for something, in windows with opening amounts."""
        stop = np.maximum(jobs.stop_time, after(jobs.start_time, jobs.walltime))
        inside = np.zeros(len(jobs), np.bool_)
        for length, starts in self._windows():
            at = np.searchsorted(np.sort(starts), jobs.start_time - length, "right")
            first = np.append(np.sort(starts), self._stop)[at]
            inside |= first < stop
        return inside

    def move(self, before: Shares, later: Shares) -> dict[str, set[int]]:
        """Cover what changed jobs give *later* instead of *before*; those with too little left."""
        short_of: set[int] = set()
        for length in np.union1d(_lengths(before), _lengths(later)).tolist():
            old, new = (each.take(_lengths(each) == length) for each in (before, later))
            change = difference(_by_account(new), _by_account(old))
            windows = np.concatenate([old.window_start, new.window_start])
            self._add(change, length, self._standing(length, windows))
            enough = self._standing(length, windows, enough=True)
            short = ~np.isin(_keys(new, length), _keys(enough, length))
            short_of.update(new.job_id[short].tolist())
        return {TOO_LITTLE: short_of}

    def _standing(self, length: int, windows: Ints, *, enough: bool = False) -> Openings:
        """The opening amounts in the windows, or those that are *enough* for what is covered."""
        table = schema.openings.c
        query = select(*(table[name] for name in Openings.__slots__)).where(
            table.site_id == self._site_id,
            table.window_start.between(int(windows.min()), int(windows.max())),
            table.window_stop == table.window_start + length,
        )
        if enough:
            query = query.where(
                table.covered_asked <= table.asked, table.covered_used <= table.used
            )
        return Openings.of(bulk.read_ints(self._connection, query))

    def _add(self, change: _Covered, length: int, standing: Openings) -> None:
        change = change.take(np.isin(_keys(change, length), _keys(standing, length)))
        nothing = np.zeros(len(change), np.int64)
        columns = {
            "site_id": np.full(len(change), self._site_id),
            "window_start": change.window_start,
            "window_stop": change.window_start + length,
            "account_id": change.account_id,
            "asked": nothing,
            "used": nothing,
            "covered_asked": change.asked,
            "covered_used": change.used,
        }
        bulk.add_columns(self._connection, schema.openings, columns)


def _lengths(shares: Shares) -> Ints:
    return shares.window_stop - shares.window_start


def _by_account(shares: Shares) -> _Covered:
    return add_up(_Covered(shares.window_start, shares.account_id, shares.asked, shares.used))


def _keys(rows: Shares | _Covered | Openings, length: int) -> Ints:
    """A number for window and account: both fit into 31 bits, as they do in OAR."""
    return (rows.window_start // length << 31) + rows.account_id

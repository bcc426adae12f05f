"""A pass: from rows of OAR to what the ledger says about these jobs.

Every block of jobs is settled in one transaction that first takes the lock of the site and then
looks at OAR: what is written is never older than what another writer wrote before.
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from sqlalchemy import Connection

from oar_accounting.core.columns import Bools, Ints, JobRows, Rates, Spans, distinct, ints, located
from oar_accounting.core.progress import Progress
from oar_accounting.database.dialects import LONGEST_NAME
from oar_accounting.ledger import schema
from oar_accounting.ledger.catalog import Accounts, Site, StoredMetric
from oar_accounting.ledger.ledger import Book, Ledger
from oar_accounting.ledger.pseudonyms import Forgotten
from oar_accounting.ledger.reading import JobRecords, known_jobs
from oar_accounting.oar.job_rules import phases
from oar_accounting.oar.snapshot import OarJobs, Snapshot
from oar_accounting.recording.allocations import Holder, Holdings
from oar_accounting.recording.interpret import held_by_jobs, timed

#: Late jobs that are named.
MOST_TOLD = 5


@dataclass(slots=True)
class Tally:
    """What a pass has done so far."""

    done: int = 0
    changed: int = 0
    problems: dict[int, str] = field(default_factory=dict)
    #: Jobs that turned up at a time that was taken over, by what could not be done about it.
    late: defaultdict[str, set[int]] = field(default_factory=lambda: defaultdict(set))

    def add_late(self, jobs: Mapping[str, set[int]]) -> None:
        """These, too."""
        for what, ids in jobs.items():
            self.late[what] |= ids

    def told(self) -> list[str]:
        """A line for each kind of late jobs."""
        return [f"{what}: {_named(sorted(ids))}" for what, ids in self.late.items() if ids]


def _named(ids: Sequence[int]) -> str:
    more = len(ids) - MOST_TOLD
    named = ", ".join(map(str, ids[:MOST_TOLD]))
    return f"{named} and {more} more" if more > 0 else named


class Shown:
    """Counts for a progress callback."""

    def __init__(self, progress: Progress | None, total: int) -> None:
        self._progress = progress
        self._total = total
        self._done = 0

    def advance(self, count: int) -> None:
        """So many more are done."""
        self._done += count
        if self._progress is not None:
            self._progress(self._done, max(self._total, self._done))


@dataclass(frozen=True, slots=True)
class Reading:
    """What OAR says of some jobs: their types, spans and rates."""

    types: Mapping[int, Sequence[str]]
    spans: Spans
    held: Holdings
    lowered: Ints  #: recorded jobs some of whose resources OAR has deleted since


class Pass:
    """Settles blocks of jobs, and keeps the tally."""

    def __init__(self, ledger: Ledger, oar: OarJobs, now: int) -> None:
        """*now*: epoch seconds, when the pass began."""
        self.ledger = ledger
        self.oar = oar
        self.tally = Tally()
        #: The high-water mark as it was: where it has sunk since, ids were retired meanwhile.
        self.mark = 0
        self._now = now
        self._holder = Holder(self.tally.problems)

    def settle(self, block: Ints, *, force: bool = False, seen_up_to: int = 0) -> Ints:
        """Record what OAR says about the jobs of the block, where it differs or with *force*.

        With *seen_up_to* the site's high-water mark moves to that id, in the same transaction.
        Returns the ids that OAR has.
        """
        with self.ledger.writing() as book:
            with self.oar.snapshot() as snapshot:
                rows = Forgotten.of(book.connection, book.site.site_id).rows(snapshot.rows(block))
                found = rows.job_id
                known = book.known(block)
                self._gone(book, known, rows)
                differs = differing(rows, known, book.accounts)
                changed = rows.job_id[differs]
                chosen = differs | force
                chosen &= ~self._reused(rows, known) & ~self._misnamed(rows)
                chosen &= ~self._purged(rows, known, differs)
                rows = rows.take(chosen)
                reading = self._read(snapshot, book, rows, known)
            rows = rows.take(~self._stripped(known, reading, rows))
            if len(rows):
                self._post(book, rows, reading)
                self._count(rows, phases(rows, book.site.terms).closed, known, changed)
            if seen_up_to and book.site.high_water_mark >= self.mark:
                book.saw(seen_up_to)
            self.tally.add_late(book.late)
        return found

    def fill(self, block: Ints, metric: StoredMetric, before: StoredMetric | None) -> None:
        """Record one metric of the jobs of the block.

        Of jobs that OAR has deleted, in whole or in part, what stood *before* under the same
        definition is kept.
        """
        with self.ledger.writing() as book:
            book.check_building(metric)
            with self.oar.snapshot() as snapshot:
                recorded = np.unique(book.spans(block).job_id)
                rows = Forgotten.of(book.connection, book.site.site_id).rows(snapshot.rows(block))
                rows = rows.take(np.isin(rows.job_id, recorded))
                rows = rows.take(~self._reused(rows, book.known(block)))
                held = self._holder.holdings(snapshot, book, rows, [metric, book.resource_metric()])
            lost = np.union1d(np.setdiff1d(recorded, rows.job_id), self._lowered(book, held))
            kept = Rates.concat([])
            if before is not None:
                kept = book.rates(lost, before.metric_id)
                kept = replace(kept, metric_id=np.full(len(kept), metric.metric_id))
            missing = np.setdiff1d(lost, kept.job_id) if before is None else ints([])
            reason = f"OAR no longer has it whole: {metric.metric.name} is not recorded, or in part"
            self.tally.problems.update((job, reason) for job in missing.tolist())
            new = held.rates.take(held.rates.metric_id == metric.metric_id)
            new = new.take(~np.isin(new.job_id, kept.job_id))
            book.post_metric(recorded, metric.metric_id, Rates.concat([new, kept]))

    # -- which jobs ---------------------------------------------------------------------------

    def _reused(self, rows: JobRows, known: JobRecords) -> Bools:
        """The ids that OAR has given to another job since: reported, never overwritten."""
        at, other = located(rows.job_id, known.job_id)
        if len(known):
            other &= known.submission_time[at] != rows.submission_time
        for row in np.flatnonzero(other):
            self.tally.problems[int(rows.job_id[row])] = (
                f"is another job now: submitted at {rows.submission_time[row]}, recorded "
                f"with {known.submission_time[at[row]]}; what was recorded is kept"
            )
        return other

    def _purged(self, rows: JobRows, known: JobRecords, differs: Bools) -> Bools:
        """The jobs whose spans and rates were purged: what they gave to the totals stays."""
        purged = np.isin(rows.job_id, known.job_id[known.closed == schema.PURGED_JOB])
        for job in rows.job_id[purged & differs].tolist():
            self.tally.problems[job] = "has changed in OAR since it was purged; kept as recorded"
        return purged

    def outdated(self, connection: Connection, site: Site, block: Ints) -> Ints:
        """The jobs of the block that OAR tells otherwise than the ledger, looked at unlocked."""
        with self.oar.snapshot() as snapshot:
            rows = snapshot.rows(block)
        rows = Forgotten.of(connection, site.site_id).rows(rows)
        known = known_jobs(connection, site.site_id, block)
        lost = known.job_id[(known.unsettled == 1) & ~np.isin(known.job_id, rows.job_id)]
        accounts = self.ledger.accounts(connection, site)
        return np.union1d(rows.job_id[differing(rows, known, accounts)], lost)

    def _misnamed(self, rows: JobRows) -> Bools:
        """The jobs with a name that is too long to be an account's."""
        owners, owner = distinct(rows.names())
        too_long = np.array([max(map(len, names)) > LONGEST_NAME for names in owners], np.bool_)
        wrong: Bools = too_long[owner]
        reason = f"has a user, project or queue of more than {LONGEST_NAME} characters"
        self.tally.problems.update((job, reason) for job in rows.job_id[wrong].tolist())
        return wrong

    def _stripped(self, known: JobRecords, reading: Reading, rows: JobRows) -> Bools:
        """Jobs in the totals whose resources OAR has deleted since: their amounts are kept."""
        for job in reading.lowered.tolist():
            self.tally.problems[job] = "OAR no longer has its resources; kept as recorded"
        stripped = np.intersect1d(reading.lowered, known.job_id[known.closed == 1])
        return np.isin(rows.job_id, stripped)

    def _lowered(self, book: Book, held: Holdings) -> Ints:
        """The recorded jobs that OAR gives fewer resources than are recorded, or describes less."""
        metric_id = book.resource_metric().metric_id
        jobs = np.intersect1d(held.asked_about, book.spans(held.asked_about).job_id)
        counts = []
        for rates in (book.rates(jobs, metric_id), held.rates):
            rates = rates.take((rates.metric_id == metric_id) & np.isin(rates.job_id, jobs))
            counts.append(
                np.bincount(np.searchsorted(jobs, rates.job_id), rates.used, minlength=len(jobs))
            )
        fewer = jobs[counts[1] < counts[0]]
        return np.union1d(fewer, np.intersect1d(held.short, jobs))

    def _gone(self, book: Book, known: JobRecords, rows: JobRows) -> None:
        """Jobs that OAR deleted while they were unsettled: closed where they were last seen."""
        at, there = located(known.job_id, rows.job_id)
        if len(rows):
            there &= known.submission_time == rows.submission_time[at]
        lost = known.take((known.unsettled == 1) & ~there)
        last_pass = book.site.last_pass
        if last_pass is not None:
            # The clock may have been ahead at that pass.
            last_pass = min(last_pass, self._now)
        for job in lost.job_id.tolist():
            self.tally.problems[job] = "OAR no longer has it; it is recorded up to " + (
                "its start" if last_pass is None else f"the last pass, at {last_pass}"
            )
        if len(lost):
            book.close_vanished(lost, last_pass)

    # -- what they held -----------------------------------------------------------------------

    def _read(self, snapshot: Snapshot, book: Book, rows: JobRows, known: JobRecords) -> Reading:
        if not len(rows):
            nothing = Holdings(Rates.concat([]), ints([]), ints([]), ints([]))
            return Reading({}, Spans.concat([]), nothing, ints([]))
        metrics = book.metrics()
        found = held_by_jobs(self._holder, snapshot, book, rows, metrics, if_any=False)
        held = found.held
        lowered = self._lowered(book, held) if len(known) else ints([])
        if len(lowered):
            held = held.with_kept(lowered, book.rates(lowered))
        when = timed(snapshot, book.site.terms, found.holders, held)
        self.tally.problems |= when.trouble
        return Reading(found.types, when.spans, held, lowered)

    # -- into the ledger ----------------------------------------------------------------------

    def _post(self, book: Book, rows: JobRows, reading: Reading) -> None:
        where = phases(rows, book.site.terms)
        names = [(*names, "") for names in rows.names()]
        book.accounts.add(book.connection, names)
        jobs = JobRecords(
            rows.job_id,
            ints(book.accounts.ids(names)),
            rows.state,
            rows.submission_time,
            rows.start_time,
            rows.stop_time,
            rows.walltime,
            np.array(
                [",".join(reading.types.get(job, ())) for job in rows.job_id.tolist()], object
            ),
            where.closed.astype(np.int64),
            where.unsettled.astype(np.int64),
        )
        spans = reading.spans.take(np.isin(reading.spans.job_id, rows.job_id))
        rates = reading.held.rates
        book.post(jobs, spans, rates.take(np.isin(rates.job_id, spans.job_id)))

    def _count(self, rows: JobRows, closed: Bools, known: JobRecords, changed: Ints) -> None:
        before = np.isin(rows.job_id, known.job_id[known.closed == 1])
        self.tally.done += int(np.count_nonzero(closed & ~before))
        self.tally.changed += int(np.count_nonzero(before & np.isin(rows.job_id, changed)))


def differing(rows: JobRows, known: JobRecords, accounts: Accounts) -> Bools:
    """The jobs that are new, have changed, or may have paused meanwhile."""
    at, there = located(rows.job_id, known.job_id)
    if not len(known):
        return np.ones(len(rows), np.bool_)
    account = ints(accounts.ids((*names, "") for names in rows.names()))
    differs: Bools = ~there | (account != known.account_id[at]) | (rows.state != known.state[at])
    for name in ("submission_time", "start_time", "stop_time", "walltime"):
        differs |= getattr(rows, name) != getattr(known, name)[at]
    differs |= rows.suspended & (known.unsettled[at] == 1)
    return differs

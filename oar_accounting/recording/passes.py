"""A pass: from rows of OAR to what the ledger says about these jobs.

Every block of jobs is settled in one transaction that first takes the lock of the site and then
looks at OAR: what is written is never older than what another writer wrote before. Four steps
follow each other: read, decide, interpret, post.
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from sqlalchemy import Connection

from oar_accounting.core.columns import FROM_START, Ints, JobRows, Rates, Spans, ints
from oar_accounting.core.problems import Code, Trouble, Troubles, coded, incomplete
from oar_accounting.core.progress import Progress
from oar_accounting.ledger import problems
from oar_accounting.ledger.catalog import Site, StoredMetric
from oar_accounting.ledger.ledger import Book, Ledger
from oar_accounting.ledger.reading import JobRecords, known_jobs
from oar_accounting.ledger.recorded_names import RecordedNames
from oar_accounting.oar.job_rules import phases
from oar_accounting.oar.snapshot import OarJobs, Snapshot
from oar_accounting.recording.allocations import Holder, Holdings
from oar_accounting.recording.decide import (
    BlockRead,
    Decision,
    decide,
    differing,
    not_utf_8,
    reused,
)
from oar_accounting.recording.interpret import fitting, held_by_jobs, timed

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


@dataclass(frozen=True, slots=True, kw_only=True)
class Interpreted:
    """What jobs asked for and used, as it is posted."""

    rows: JobRows  #: the jobs; those whose recorded amounts are kept are not among them
    types: Mapping[int, Sequence[str]]
    spans: Spans
    rates: Rates
    problems: dict[int, Trouble]  #: by job, what is to be reported


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
        #: What was found wrong in the block at hand.
        self._found = Troubles()
        self._holder = Holder(self._found)

    def settle(self, block: Ints, *, force: bool = False, seen_up_to: int = 0) -> Ints:
        """Record what OAR says about the jobs of the block, where it differs or with *force*.

        With *seen_up_to* the site's high-water mark moves to that id, in the same transaction.
        Returns the ids that OAR has.
        """
        self._found.clear()
        with self.ledger.writing() as book:
            last_seen = self._last_seen(book.site)
            with self.oar.snapshot() as snapshot:
                read = read_block(snapshot, book, block)
                decision = decide(read, book.accounts, last_seen, force=force)
                self._found.update(decision.problems)
                found = interpret(self._holder, snapshot, book, decision.chosen, read.known)
                self._found.update(found.problems)
                self._found.update(not_utf_8(decision.chosen, found.types))
            if len(decision.vanished):
                book.close_vanished(decision.vanished, last_seen)
            if len(found.rows):
                post(book, found)
            problems.note_settled(
                book.connection,
                book.site.site_id,
                self._now,
                decision.chosen.job_id,
                self._found.by_id,
            )
            if seen_up_to and book.site.high_water_mark >= self.mark:
                book.saw(seen_up_to)
            self._count(book, read, decision, found.rows)
        self.tally.problems |= self._found.told()
        return read.rows.job_id

    def fill(self, block: Ints, metric: StoredMetric, before: StoredMetric | None) -> None:
        """Record one metric of the jobs of the block.

        Of jobs that OAR has deleted, in whole or in part, what stood *before* under the same
        definition is kept.
        """
        self._found.clear()
        with self.ledger.writing() as book:
            book.check_building(metric)
            with self.oar.snapshot() as snapshot:
                recorded = np.unique(book.spans(block).job_id)
                read = read_block(snapshot, book, block)
                rows = read.rows.take(np.isin(read.rows.job_id, recorded))
                others = reused(rows, read.known)
                self._found.update(coded(Code.OTHER_JOB, others))
                rows = rows.take(~np.isin(rows.job_id, ints(list(others))))
                held = self._holder.holdings(snapshot, book, rows, [metric, book.resource_metric()])
            lost = np.union1d(np.setdiff1d(recorded, rows.job_id), lowered(book, held))
            kept = Rates.concat([])
            if before is not None:
                kept = book.rates(lost, before.metric_id)
                kept = replace(kept, metric_id=np.full(len(kept), metric.metric_id))
            missing = np.setdiff1d(lost, kept.job_id) if before is None else ints([])
            lacking = Trouble(Code.INCOMPLETE_METRIC, incomplete(metric.metric.name))
            self._found.update(dict.fromkeys(missing.tolist(), lacking))
            new = held.rates.take(held.rates.metric_id == metric.metric_id)
            new = new.take(~np.isin(new.job_id, kept.job_id))
            new, beyond = fitting(book.spans(recorded), new, [metric])
            self._found.update(beyond)
            book.post_metric(recorded, metric.metric_id, Rates.concat([new, kept]))
            problems.note_filled(
                book.connection,
                book.site.site_id,
                self._now,
                recorded,
                self._found.by_id,
                metric.metric.name,
            )
        self.tally.problems |= self._found.told()

    def outdated(self, connection: Connection, site: Site, block: Ints) -> Ints:
        """The jobs of the block that OAR tells otherwise than the ledger, looked at unlocked."""
        with self.oar.snapshot() as snapshot:
            rows = snapshot.rows(block)
        rows = RecordedNames.of(connection, site).rows(rows)
        known = known_jobs(connection, site.site_id, block)
        lost = known.job_id[(known.unsettled == 1) & ~np.isin(known.job_id, rows.job_id)]
        accounts = self.ledger.accounts(connection, site)
        return np.union1d(rows.job_id[differing(rows, known, accounts)], lost)

    def _last_seen(self, site: Site) -> int | None:
        """When the last pass was; the clock may have been ahead then."""
        return None if site.last_pass is None else min(site.last_pass, self._now)

    def _count(self, book: Book, read: BlockRead, decision: Decision, posted: JobRows) -> None:
        """Add what was posted to the tally."""
        closed = phases(posted, book.site.terms).closed
        before = np.isin(posted.job_id, read.known.job_id[read.known.closed == 1])
        again = before & np.isin(posted.job_id, decision.changed)
        self.tally.done += int(np.count_nonzero(closed & ~before))
        self.tally.changed += int(np.count_nonzero(again))
        self.tally.add_late(book.late)


def read_block(snapshot: Snapshot, book: Book, block: Ints) -> BlockRead:
    """What OAR and the ledger say of the jobs of a block; users who were forgotten stay so."""
    rows = RecordedNames.of(book.connection, book.site).rows(snapshot.rows(block))
    return BlockRead(rows=rows, known=book.known(block))


def interpret(
    holder: Holder, snapshot: Snapshot, book: Book, rows: JobRows, known: JobRecords
) -> Interpreted:
    """What the jobs asked for and used each second, and when.

    Where OAR has deleted resources of a recorded job, what is recorded of them is taken for it; a
    job that is in the totals stays as it is there.
    """
    nothing = Interpreted(
        rows=rows, types={}, spans=Spans.concat([]), rates=Rates.concat([]), problems={}
    )
    if not len(rows):
        return nothing
    metrics = book.metrics()
    found = held_by_jobs(holder, snapshot, book, rows, metrics, if_any=False)
    held = found.held
    fewer = lowered(book, held) if len(known) else ints([])
    if len(fewer):
        held = held.with_kept(fewer, book.rates(fewer))
    when = timed(snapshot, book.site.terms, found.holders, held, metrics)
    lost = Trouble(Code.KEPT, "OAR no longer has its resources; kept as recorded")
    stripped = np.intersect1d(fewer, known.job_id[known.closed == 1])
    return Interpreted(
        rows=rows.take(~np.isin(rows.job_id, stripped)),
        types=found.types,
        spans=when.spans,
        rates=when.rates,
        problems=when.trouble | dict.fromkeys(fewer.tolist(), lost),
    )


def lowered(book: Book, held: Holdings) -> Ints:
    """The recorded jobs that OAR gives fewer resources than are recorded, or describes less.

    What they began with is compared: what a job holds may change, and it may change accounts.
    """
    metric_id = book.resource_metric().metric_id
    jobs = np.intersect1d(held.asked_about, book.spans(held.asked_about).job_id)
    counts = []
    for rates in (book.rates(jobs, metric_id), held.rates):
        begun = (rates.metric_id == metric_id) & (rates.start_time == FROM_START)
        rates = rates.take(begun & np.isin(rates.job_id, jobs))
        counts.append(
            np.bincount(np.searchsorted(jobs, rates.job_id), rates.used, minlength=len(jobs))
        )
    fewer = jobs[counts[1] < counts[0]]
    return np.union1d(fewer, np.intersect1d(held.short, jobs))


def post(book: Book, found: Interpreted) -> None:
    """Write what was found of the jobs; accounts that are new are added."""
    rows = found.rows
    where = phases(rows, book.site.terms)
    names = [(*names, "") for names in rows.names()]
    book.accounts.add(book.connection, names)
    types = [",".join(found.types.get(job, ())) for job in rows.job_id.tolist()]
    jobs = JobRecords(
        rows.job_id,
        ints(book.accounts.ids(names)),
        rows.state,
        rows.submission_time,
        rows.start_time,
        rows.stop_time,
        rows.walltime,
        np.array(types, object),
        where.closed.astype(np.int64),
        where.unsettled.astype(np.int64),
    )
    spans = found.spans.take(np.isin(found.spans.job_id, rows.job_id))
    book.post(jobs, spans, found.rates.take(np.isin(found.rates.job_id, spans.job_id)))

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

from oar_accounting.core import formats
from oar_accounting.core.columns import Ints, JobRows, KeyedRates, Rates, Spans, ints
from oar_accounting.core.parts import constant
from oar_accounting.core.problems import Code, Trouble, Troubles, coded, incomplete
from oar_accounting.core.progress import Progress
from oar_accounting.database.id_blocks import id_blocks
from oar_accounting.ledger import problems, schema
from oar_accounting.ledger.catalog import Site, StoredMetric
from oar_accounting.ledger.figures import changed_figures
from oar_accounting.ledger.ledger import Book, Ledger
from oar_accounting.ledger.reading import JobRecords, known_jobs
from oar_accounting.ledger.recorded_names import RecordedNames
from oar_accounting.oar.job_nodes import JobNodes
from oar_accounting.oar.job_rules import phases
from oar_accounting.oar.snapshot import OarJobs, Snapshot
from oar_accounting.recording.decide import (
    BlockRead,
    Decision,
    decide,
    differing,
    not_utf_8,
    reused,
)
from oar_accounting.recording.describe import describe, description, with_recorded
from oar_accounting.recording.held.affected import ChangedResources, jobs_within
from oar_accounting.recording.held.allocations import Holder, Holdings
from oar_accounting.recording.interpret import fitting, held_by_jobs, timed


@dataclass(slots=True)
class Tally:
    """What a pass has done so far."""

    done: int = 0
    changed: int = 0
    figures: int = 0
    problems: dict[int, str] = field(default_factory=dict)
    #: Jobs that turned up at a time that was taken over, by what could not be done about it.
    late: defaultdict[str, set[int]] = field(default_factory=lambda: defaultdict(set))

    def add_late(self, jobs: Mapping[str, set[int]]) -> None:
        """These, too."""
        for what, ids in jobs.items():
            self.late[what] |= ids

    def told(self) -> list[str]:
        """A line for each kind of late jobs."""
        return [f"{what}: {formats.listed(sorted(ids))}" for what, ids in self.late.items() if ids]


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
    requested: Mapping[int, int]  #: by waiting job, how many resources it asks for


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
        self._changed_resources = ChangedResources()
        self._nodes = JobNodes()
        #: What was found wrong in the block at hand.
        self._found = Troubles()
        self._holder = Holder(self._found, self._nodes)
        self._metric_holder = Holder(self._found)

    def settle(self, block: Ints, *, force: bool = False, seen_up_to: int = 0) -> Ints:
        """Record what OAR says about the jobs of the block, where it differs or with *force*.

        With *seen_up_to* the site's high-water mark moves to that id. Jobs within a container that
        has changed are recorded anew: all in one transaction, for no later pass would see that they
        were left out. Returns the ids that OAR has.
        """
        with self.ledger.writing() as book:
            there, within = self._settled(book, block, force=force, seen_up_to=seen_up_to)
            for others in id_blocks(within):
                self._settled(book, others, force=True, seen_up_to=0)
            self.tally.figures += book.figures
            self.tally.add_late(book.late)
        return there

    def _settled(
        self, book: Book, block: Ints, *, force: bool, seen_up_to: int
    ) -> tuple[Ints, Ints]:
        """The same without those jobs: which ids OAR has, and which those jobs are.

        Another writer may have recorded some of the block since it was looked at: of these OAR
        tells the same, and they are among those jobs.
        """
        self._found.clear()
        last_seen = self._last_seen(book.site)
        with self.oar.snapshot() as snapshot:
            read = self._read_block(snapshot, book, block)
            decision = decide(read, book.accounts, last_seen, force=force)
            self._found.update(decision.problems)
            found = interpret(self._holder, snapshot, book, decision.chosen, read.known)
            self._found.update(found.problems)
            self._found.update(not_utf_8(decision.chosen, found.types))
            within = _within_changed(snapshot, book, decision, read.known, found.types)
            kept = _kept(decision, found)
            every = JobRows.concat([found.rows, kept])
            nodes = with_recorded(self._nodes.taken(snapshot, every), read.known)
        if len(decision.vanished):
            book.close_vanished(decision.vanished, last_seen)
        if len(found.rows):
            post(book, found, nodes)
        if len(kept):
            describe(book, kept, read.known, nodes)
        self._finish(book, read, decision, found.rows, seen_up_to)
        self.tally.problems |= self._found.told()
        return read.rows.job_id, np.setdiff1d(within, decision.chosen.job_id)

    def _finish(
        self, book: Book, read: BlockRead, decision: Decision, posted: JobRows, seen_up_to: int
    ) -> None:
        """Note the problems, how far the site was looked through, and what was posted."""
        chosen = decision.chosen.job_id
        site_id = book.site.site_id
        problems.note_settled(book.connection, site_id, self._now, chosen, self._found.by_id)
        if seen_up_to and book.site.high_water_mark >= self.mark:
            book.saw(seen_up_to)
        self._count(book, read, decision, posted)

    def _read_block(self, snapshot: Snapshot, book: Book, block: Ints) -> BlockRead:
        """What OAR and the ledger say of the jobs of a block; users who were forgotten stay so."""
        rows = RecordedNames.of(book.connection, book.site).rows(snapshot.rows(block))
        known = book.known(block)
        touched = self._changed_resources.jobs(book.connection, snapshot, book.site, known)
        return BlockRead(rows=rows, known=known, touched=touched)

    def fill(self, block: Ints, metric: StoredMetric, before: StoredMetric | None) -> None:
        """Record one metric of the jobs of the block, in a transaction of its own."""
        with self.ledger.writing() as book:
            book.check_building(metric)
            self.fill_in(book, block, metric, before)

    def fill_in(
        self, book: Book, block: Ints, metric: StoredMetric, before: StoredMetric | None
    ) -> None:
        """Record one metric of the jobs of the block.

        Of jobs that OAR has deleted, in whole or in part, what stood *before* under the same
        definition is kept.
        """
        self._found.clear()
        with self.oar.snapshot() as snapshot:
            recorded = np.unique(book.spans(block).job_id)
            read = self._read_block(snapshot, book, block)
            rows = read.rows.take(np.isin(read.rows.job_id, recorded))
            others = reused(rows, read.known)
            self._found.update(coded(Code.OTHER_JOB, others))
            rows = rows.take(~np.isin(rows.job_id, ints(list(others))))
            metrics = [metric, book.resource_metric()]
            held = self._metric_holder.holdings(snapshot, book, rows, metrics)
        lost = np.union1d(np.setdiff1d(recorded, rows.job_id), lowered(book, held))
        kept = _as_of_metric(book, lost, before, metric)
        missing = np.setdiff1d(lost, kept.job_id) if before is None else ints([])
        lacking = Trouble(Code.INCOMPLETE_METRIC, incomplete(metric.metric.name))
        self._found.update(dict.fromkeys(missing.tolist(), lacking))
        new = held.rates.take(held.rates.metric_id == metric.metric_id)
        new = new.take(~np.isin(new.job_id, kept.job_id))
        new, beyond = fitting(book.spans(recorded), new, [metric])
        self._found.update(beyond)
        new = Rates.concat([new, kept])
        self.tally.figures += _changed_in(book, metric, recorded, new)
        book.post_metric(recorded, metric.metric_id, new)
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
        known = known_jobs(connection, site.site_id, block)
        with self.oar.snapshot() as snapshot:
            rows = snapshot.rows(block)
            touched = self._changed_resources.jobs(connection, snapshot, site, known)
        rows = RecordedNames.of(connection, site).rows(rows)
        lost = known.job_id[(known.unsettled == 1) & ~np.isin(known.job_id, rows.job_id)]
        accounts = self.ledger.accounts(connection, site)
        changed = rows.job_id[differing(rows, known, accounts)]
        return np.unique(np.concatenate([changed, lost, touched]))

    def _last_seen(self, site: Site) -> int | None:
        """When the last pass was; the clock may have been ahead then."""
        return None if site.last_pass is None else min(site.last_pass, self._now)

    def _count(self, book: Book, read: BlockRead, decision: Decision, posted: JobRows) -> None:
        """Add what was posted to the tally."""
        closed = phases(posted, book.site.terms).closed
        before = np.isin(posted.job_id, read.known.job_id[read.known.closed == schema.CLOSED_JOB])
        again = before & np.isin(posted.job_id, decision.changed)
        self.tally.done += int(np.count_nonzero(closed & ~before))
        self.tally.changed += int(np.count_nonzero(again))


def _as_of_metric(
    book: Book, jobs: Ints, before: StoredMetric | None, metric: StoredMetric
) -> Rates:
    """What is recorded of the jobs in the metric of *before*, as rates of another *metric*."""
    if before is None:
        return Rates.concat([])
    kept = book.rates(jobs, before.metric_id)
    return replace(kept, metric_id=np.full(len(kept), metric.metric_id))


def _changed_in(book: Book, metric: StoredMetric, jobs: Ints, rates: Rates) -> int:
    """In how many of the jobs a metric is otherwise than what is shown under its name."""
    shown = (
        each
        for each in book.metrics()
        if each.metric.name == metric.metric.name and each.state == schema.ACTIVE
    )
    old = _as_of_metric(book, jobs, next(shown, None), metric)
    spans = book.spans(jobs)
    return changed_figures((spans, old), (spans, rates), jobs)


def _within_changed(
    snapshot: Snapshot,
    book: Book,
    decision: Decision,
    known: JobRecords,
    types: Mapping[int, Sequence[str]],
) -> Ints:
    """The recorded jobs within containers of which OAR tells otherwise than the ledger."""
    lost = decision.vanished
    recorded = {
        job: kinds.split(",") for job, kinds in zip(lost.job_id.tolist(), lost.types, strict=True)
    }
    chosen = decision.chosen
    changed = chosen.take(np.isin(chosen.job_id, decision.changed))
    begun: dict[int, int] = {}
    for rows in (changed, known.take(np.isin(known.job_id, changed.job_id)), lost):
        earliest = np.where(
            rows.start_time > 1,
            np.minimum(rows.start_time, rows.submission_time),
            rows.submission_time,
        )
        for job, at in zip(rows.job_id.tolist(), earliest.tolist(), strict=True):
            begun[job] = min(at, begun.get(job, at))
    return jobs_within(book.connection, snapshot, book.site, {**types, **recorded}, begun)


def interpret(
    holder: Holder, snapshot: Snapshot, book: Book, rows: JobRows, known: JobRecords
) -> Interpreted:
    """What the jobs asked for and used each second, and when.

    Where OAR has deleted resources of a recorded job, what is recorded of them is taken for it; a
    job that is in the totals stays as it is there.
    """
    nothing = Interpreted(
        rows=rows,
        types={},
        spans=Spans.concat([]),
        rates=Rates.concat([]),
        problems={},
        requested={},
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
    stripped = np.intersect1d(fewer, known.job_id[known.closed == schema.CLOSED_JOB])
    return Interpreted(
        rows=rows.take(~np.isin(rows.job_id, stripped)),
        types=found.types,
        spans=when.spans,
        rates=when.rates,
        problems=when.trouble | dict.fromkeys(fewer.tolist(), lost),
        requested=snapshot.requested(rows),
    )


def _kept(decision: Decision, found: Interpreted) -> JobRows:
    """The jobs whose recorded amounts stay, though OAR tells more of them, or it is asked for."""
    rows = decision.chosen
    stripped = rows.take(~np.isin(rows.job_id, found.rows.job_id))
    return JobRows.concat([part for part in (stripped, decision.purged) if len(part)])


def lowered(book: Book, held: Holdings) -> Ints:
    """The recorded jobs that OAR gives fewer resources than are recorded, or describes less.

    The most that each held at once is compared: of what an inner job holds a part may be billed to
    its container, and that may change.
    """
    metric_id = book.resource_metric().metric_id
    spans = book.spans(held.asked_about)
    jobs = np.intersect1d(held.asked_about, spans.job_id)
    recorded = _most_at_once(jobs, spans, book.rates(jobs, metric_id))
    fewer = jobs[held.counted[np.searchsorted(held.asked_about, jobs)] < recorded]
    return np.union1d(fewer, np.intersect1d(held.short, jobs))


def _most_at_once(jobs: Ints, spans: Spans, rates: Rates) -> Ints:
    """Of each of the *jobs* the most that it held at once, on all accounts together."""
    parts = constant(spans, KeyedRates.by_account(rates))
    ids, number = np.unique(parts.rates.job_id, return_inverse=True)
    held = np.zeros(len(ids), np.int64)
    np.add.at(held, number, parts.rates.used)
    most = np.zeros(len(jobs), np.int64)
    np.maximum.at(most, np.searchsorted(jobs, parts.jobs(ids)), held)
    return most


def post(book: Book, found: Interpreted, nodes: Mapping[int, str]) -> None:
    """Write what was found of the jobs, and their *nodes*; accounts that are new are added."""
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
        **description(rows, nodes),
    )
    spans = found.spans.take(np.isin(found.spans.job_id, rows.job_id))
    held = found.rates.take(np.isin(found.rates.job_id, spans.job_id))
    book.post(jobs, spans, Rates.concat([held, _requested(book, jobs, found.requested)]))


def _requested(book: Book, jobs: JobRecords, requested: Mapping[int, int]) -> Rates:
    """What waiting jobs ask for, as rates: without a span of time it amounts to nothing."""
    waiting = jobs.take(np.isin(jobs.job_id, ints(list(requested))))
    count = ints([requested[job] for job in waiting.job_id.tolist()])
    metric_id = np.full(len(waiting), book.resource_metric().metric_id)
    return Rates.unchanging(waiting.job_id, waiting.account_id, metric_id, count, count)

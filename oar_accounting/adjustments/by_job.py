"""Adjustments by a filter on jobs: what they were counted is taken back, in whole or in part.

The spans and rates that the ledger has are multiplied, job after job, and nothing is estimated. A
job that is adjusted already over some of the time is left out: posting twice is posting once.
"""

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import tzinfo
from decimal import Decimal
from fractions import Fraction

import numpy as np
from sqlalchemy import ColumnElement, select

from oar_accounting.adjustments.input import check_known, check_span, percentage
from oar_accounting.adjustments.post import Lines, Note, Posting, metrics_to_adjust
from oar_accounting.adjustments.records import AdjustmentReport
from oar_accounting.adjustments.stored import in_force, of_site
from oar_accounting.core.columns import (
    Bools,
    Columns,
    Ints,
    KeyedRates,
    Rates,
    Spans,
    exact_product,
    group_starts,
    ints,
    located,
    repeated,
    row_order,
)
from oar_accounting.core.formats import MOST_TOLD
from oar_accounting.core.parts import constant
from oar_accounting.database import bulk
from oar_accounting.database.id_blocks import among, id_blocks
from oar_accounting.errors import BadAdjustment, UnknownName
from oar_accounting.ledger import schema
from oar_accounting.ledger.ledger import Book
from oar_accounting.ledger.reading import LOWEST
from oar_accounting.metrics.metric import Metric
from oar_accounting.oar.snapshot import OarJobs

#: Jobs looked at at once.
JOBS_A_PAGE = 50_000

ALL_TIME = (-(2**62), 2**62)


@dataclass(frozen=True, slots=True, kw_only=True)
class JobFilter:
    """Which jobs are adjusted, and how much of what they were counted within ``[start, stop)``."""

    nodes: Sequence[str] = ()  #: jobs that held something of one of these network addresses
    jobs: Sequence[int] = ()
    start: int | None = None  #: epoch seconds UTC
    stop: int | None = None
    user: str | None = None
    project: str | None = None
    queue: str | None = None
    metrics: Sequence[str] | None = None  #: None: all that are recorded
    percent: int | str | Decimal = 100  #: above 0, as `percentage` reads it
    asked: bool = True
    used: bool = True

    @property
    def within(self) -> tuple[int, int]:
        """The span that is adjusted."""
        return (
            ALL_TIME[0] if self.start is None else self.start,
            ALL_TIME[1] if self.stop is None else self.stop,
        )


@dataclass(frozen=True, slots=True)
class _Found(Columns):
    """Jobs that match, as the ledger has them."""

    job_id: Ints
    account_id: Ints
    closed: Ints
    submission_time: Ints


class _LeftOut:
    """Jobs that match and are not adjusted: how many, and the first of them."""

    def __init__(self) -> None:
        self.count = 0
        self._first: list[int] = []

    def add(self, ids: Ints) -> None:
        """These, too."""
        self.count += len(ids)
        self._first += ids[: MOST_TOLD - len(self._first)].tolist()

    def told(self, one: str, many: str) -> list[str]:
        """A line about them; none where there are none."""
        if not self.count:
            return []
        more = ", ..." if self.count > len(self._first) else ""
        subject = f"1 job {one}" if self.count == 1 else f"{self.count} jobs {many}"
        return [f"{subject}: {', '.join(map(str, self._first))}{more}"]


def adjust_jobs(
    book: Book, oar: OarJobs, wanted: JobFilter, note: Note | None, tz: tzinfo
) -> AdjustmentReport:
    """Take back what the jobs that match were counted; without a *note* nothing is written.

    *tz*: whose clocks tell a time in an error. Raises :class:`UnknownName`, :class:`BadSpan`,
    :class:`BadAdjustment` and :class:`WriterBusy`.
    """
    check_span(*wanted.within, tz)
    if not wanted.nodes and not wanted.jobs and (wanted.start, wanted.stop) == (None, None):
        raise BadAdjustment("a filter on jobs needs a node, a span of time, or jobs")
    metrics = metrics_to_adjust(book, wanted.metrics)
    return _Adjuster(book, wanted, metrics, note).run(_chosen_ids(book, oar, wanted))


class _Adjuster:
    """One adjustment by a filter."""

    def __init__(
        self, book: Book, wanted: JobFilter, metrics: Mapping[int, Metric], note: Note | None
    ) -> None:
        self._book = book
        self._wanted = wanted
        self._share = percentage(wanted.percent)
        self._metrics = ints(list(metrics))
        self._posting = Posting(book, metrics, note)
        self._standing = _Standing(book, wanted)
        self._matched = False
        self._open, self._purged, self._empty = _LeftOut(), _LeftOut(), _LeftOut()

    def run(self, ids: "_Ids | None") -> AdjustmentReport:
        """Adjust what matches of these jobs, or of all."""
        accounts = _accounts(self._book, self._wanted)
        for found in _pages(self._book, self._wanted, ids):
            found = found.take(np.isin(found.account_id, accounts))
            self._purged.add(found.job_id[found.closed == schema.PURGED_JOB])
            begun = self._begun(found.job_id[found.closed == schema.OPEN_JOB])
            self._open.add(begun)
            self._matched |= bool(len(begun) or np.any(found.closed != schema.OPEN_JOB))
            for block in id_blocks(found.job_id[found.closed == schema.CLOSED_JOB]):
                self._take_back(block)
        return self._posting.report(self._notices())

    def _begun(self, ids: Ints) -> Ints:
        """Which of the open jobs hold something, or did."""
        spans = self._book.spans(ids)
        return np.unique(spans.job_id[spans.start_time < self._wanted.within[1]])

    def _take_back(self, block: Ints) -> None:
        spans = _clipped(self._book.spans(block), *self._wanted.within)
        rates = self._book.rates(block)
        rates = rates.take(np.isin(rates.metric_id, self._metrics))
        lines = _shared(_counted(spans, rates, self._wanted), self._share)
        self._empty.add(np.setdiff1d(block, lines.job_id))
        self._posting.add(self._standing.without(lines))

    def _notices(self) -> list[str]:
        numbers = ", ".join(map(str, sorted(self._standing.adjustments)))
        already = f"adjusted already, by adjustment {numbers}, and left out there"
        run_again = "run this again when"
        return [
            *self._open.told(
                f"still runs: {run_again} it has ended", f"still run: {run_again} they have ended"
            ),
            *self._purged.told(
                "was purged and has no details any more", "were purged and have no details any more"
            ),
            *self._empty.told("held nothing there", "held nothing there"),
            *self._standing.left_out.told(f"is {already}", f"are {already}"),
            *([] if self._matched else [self._nothing_found()]),
        ]

    def _nothing_found(self) -> str:
        of_node = "; of a node's jobs, those that OAR has deleted are not found"
        return f"no recorded job matches{of_node if self._wanted.nodes else ''}"


# -- which jobs ---------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Ids:
    """The jobs to look at, ascending; and when OAR says they were submitted, if it was asked."""

    job_id: Ints
    submission_time: Ints | None = None


def _chosen_ids(book: Book, oar: OarJobs, wanted: JobFilter) -> _Ids | None:
    """The jobs that are named, or those of the nodes; None: any. Raises :class:`UnknownName`."""
    named = np.unique(ints(list(wanted.jobs)))
    _check_recorded(book, named)
    if not wanted.nodes:
        return _Ids(named) if wanted.jobs else None
    with oar.snapshot() as snapshot:
        addresses = snapshot.addresses()
        for node in wanted.nodes:
            check_known("node", node, addresses)
        resources = [number for node in wanted.nodes for number in addresses[node]]
        job_id, submission_time = snapshot.jobs_on(ints(resources))
    if wanted.jobs:
        both = np.isin(job_id, named)
        job_id, submission_time = job_id[both], submission_time[both]
    return _Ids(job_id, submission_time)


def _check_recorded(book: Book, ids: Ints) -> None:
    for block in id_blocks(ids):
        missing = np.setdiff1d(block, book.known(block).job_id).tolist()
        if missing:
            raise UnknownName(f"job {missing[0]} is not recorded")


def _accounts(book: Book, wanted: JobFilter) -> Ints:
    """The accounts of the user, project and queue that are wanted. Raises :class:`UnknownName`."""
    names = book.accounts.names()
    chosen = set(names)
    for place, kind in enumerate(("user", "project", "queue")):
        name = getattr(wanted, kind)
        if name is not None:
            check_known(kind, name, {each[place] for each in names.values()})
            chosen = {key for key in chosen if names[key][place] == name}
    return ints(sorted(chosen))


def _pages(book: Book, wanted: JobFilter, ids: _Ids | None) -> Iterator[_Found]:
    """The jobs that may have been counted within the span, ascending."""
    job = schema.jobs.c
    query = (
        select(*(job[name] for name in _Found.__slots__))
        .where(job.site_id == book.site.site_id, job.job_id != schema.CARRIED, *_near(wanted))
        .order_by(job.job_id)
    )
    last = LOWEST
    while ids is None:
        page = query.where(job.job_id > last).limit(JOBS_A_PAGE)
        found = _Found.of(bulk.read_ints(book.connection, page))
        if not len(found):
            return
        yield found
        last = int(found.job_id[-1])
    for block in id_blocks(ids.job_id):
        page = query.where(among(block, job.job_id))
        found = _Found.of(bulk.read_ints(book.connection, page))
        at, there = located(found.job_id, ids.job_id)
        if ids.submission_time is not None and len(ids.job_id):
            there &= ids.submission_time[at] == found.submission_time
        yield found.take(there)


def _near(wanted: JobFilter) -> list[ColumnElement[bool]]:
    """Conditions that hold for every job that was counted within the span."""
    job = schema.jobs.c
    conditions = []
    if wanted.stop is not None:
        conditions.append(job.start_time < wanted.stop)
    if wanted.start is not None:
        conditions.append(
            (job.stop_time > wanted.start)
            | (job.start_time + job.walltime > wanted.start)
            | (job.closed == schema.OPEN_JOB)
        )
    return conditions


# -- what they were counted ---------------------------------------------------------------------


def _clipped(spans: Spans, start: int, stop: int) -> Spans:
    """What of the spans lies within ``[start, stop)``."""
    clipped = replace(
        spans,
        start_time=np.maximum(spans.start_time, start),
        stop_time=np.minimum(spans.stop_time, stop),
    )
    return clipped.take(clipped.stop_time > clipped.start_time)


def _counted(spans: Spans, rates: Rates, wanted: JobFilter) -> Lines:
    """What the jobs were counted: a line per job, span, account and metric, if it is anything."""
    if not len(spans) or not len(rates):
        return Lines.concat([])
    parts = constant(spans, KeyedRates.by_account(rates))
    spans, asked, used = _merged(parts.spans)
    held = parts.rates.take(np.argsort(parts.rates.job_id, kind="stable"))
    first = np.searchsorted(held.job_id, spans.job_id, "left")
    row, nth = repeated(np.searchsorted(held.job_id, spans.job_id, "right") - first)
    rate = first[row] + nth
    seconds = (spans.stop_time - spans.start_time)[row]
    lines = Lines(
        parts.jobs(spans.job_id[row]),
        held.key[rate],
        held.metric_id[rate],
        spans.start_time[row],
        spans.stop_time[row],
        exact_product(np.where(asked[row] & wanted.asked, seconds, 0), held.asked[rate]),
        exact_product(np.where(used[row] & wanted.used, seconds, 0), held.used[rate]),
    )
    return _filled(lines)


def _merged(spans: Spans) -> tuple[Spans, Bools, Bools]:
    """The different spans of every job, and which of them were asked for and which used."""
    keys = (spans.job_id, spans.start_time, spans.stop_time)
    spans = spans.take(row_order(keys))
    starts = group_starts((spans.job_id, spans.start_time, spans.stop_time))
    asked = np.maximum.reduceat(spans.asked, starts) == 1
    used = np.minimum.reduceat(spans.asked, starts) == 0
    return spans.take(starts), asked, used


def _shared(lines: Lines, share: Fraction) -> Lines:
    """The share of every amount that is taken back: below zero, rounded once, half to even."""
    asked, used = (-_part(amounts, share) for amounts in (lines.asked, lines.used))
    return _filled(replace(lines, asked=asked, used=used))


def _part(amounts: Ints, share: Fraction) -> Ints:
    # Divided first: the product of an amount and the share's numerator may exceed 63 bits.
    whole, rest = np.divmod(amounts, share.denominator)
    more, rest = np.divmod(rest * share.numerator, share.denominator)
    part: Ints = whole * share.numerator + more
    up: Bools = (2 * rest > share.denominator) | ((2 * rest == share.denominator) & (part % 2 == 1))
    return part + up


def _filled(lines: Lines) -> Lines:
    return lines.take((lines.asked != 0) | (lines.used != 0))


# -- what is adjusted already -------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Posted(Columns):
    """Lines about jobs that stand already."""

    adjustment_id: Ints
    job_id: Ints
    metric_id: Ints
    start_time: Ints
    stop_time: Ints
    asked: Ints
    used: Ints


class _Standing:
    """What is adjusted of jobs already, by adjustments that are in force."""

    def __init__(self, book: Book, wanted: JobFilter) -> None:
        """Those that meet the span that is *wanted*."""
        self.left_out = _LeftOut()
        self.adjustments: set[int] = set()
        self._posted = _posted(book, *wanted.within)

    def without(self, lines: Lines) -> Lines:
        """The lines without what is adjusted already.

        In a metric, what a job asked for and what it used are each left out as a whole.
        """
        posted = self._posted.take(np.isin(self._posted.job_id, lines.job_id))
        if not len(posted):
            return lines
        asked, used = (self._taken(lines, posted, kind) for kind in ("asked", "used"))
        self.left_out.add(np.unique(lines.job_id[asked | used]))
        amounts = (np.where(asked, 0, lines.asked), np.where(used, 0, lines.used))
        return _filled(replace(lines, asked=amounts[0], used=amounts[1]))

    def _taken(self, lines: Lines, posted: _Posted, kind: str) -> Bools:
        """The lines of a job and metric of which something meets what was posted."""
        posted = posted.take(getattr(posted, kind) != 0)
        before = defaultdict(list)
        for number, job, metric, start, stop in _rows(posted, 5):
            before[job, metric].append((start, stop, number))
        taken = set()
        amounts = getattr(lines, kind) != 0
        some = lines.take(amounts & np.isin(lines.job_id, posted.job_id))
        for job, _, metric, start, stop in _rows(some, 5):
            meeting = {n for begin, end, n in before[job, metric] if begin < stop and start < end}
            if meeting:
                taken.add((job, metric))
                self.adjustments |= meeting
        keys = zip(lines.job_id.tolist(), lines.metric_id.tolist(), strict=True)
        found: Bools = amounts & np.array([key in taken for key in keys], np.bool_)
        return found


def _rows(table: Columns, width: int) -> Iterator[tuple[int, ...]]:
    columns = list(table.as_dict().values())[:width]
    return zip(*(column.tolist() for column in columns), strict=True)


def _posted(book: Book, start: int, stop: int) -> _Posted:
    """What is in force and meets ``[start, stop)``."""
    site_id = book.site.site_id
    numbers = in_force(book.connection, site_id)
    if not numbers:
        return _Posted.concat([])
    line, metric = schema.adjusted.c, schema.metrics.c
    columns = {**dict(line.items()), "metric_id": metric.metric_id}
    query = (
        select(*(columns[name] for name in _Posted.__slots__))
        .join(schema.metrics, metric.name == line.metric)
        .where(
            of_site(site_id),
            metric.site_id == site_id,
            line.job_id.is_not(None),
            line.start_time < stop,
            line.stop_time > start,
        )
    )
    found = _Posted.of(bulk.read_ints(book.connection, query))
    return found.take(np.isin(found.adjustment_id, ints(sorted(numbers))))

"""Jobs as plain values: strategies that draw them, their totals by the plainest arithmetic, and
what a ledger holds of them, with names in the place of ids.
"""

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from itertools import accumulate
from typing import Any

import numpy as np
from hypothesis import strategies as st
from hypothesis.strategies import DrawFn, SearchStrategy, composite
from sqlalchemy import Connection, Engine, Table, event, select

from oar_accounting.core.columns import FROM_START, OPEN, Rates, Spans, Totals, add_up, ints
from oar_accounting.database.bulk import insert_columns
from oar_accounting.ledger import schema
from oar_accounting.ledger.catalog import Names
from oar_accounting.ledger.ledger import Book, Ledger
from oar_accounting.ledger.reading import JobRecords
from oar_accounting.ledger.schema import VANISHED
from oar_accounting.metrics.metric import NODE, RESOURCE, Metric
from oar_accounting.oar.job_rules import ENDED, Terms

HOUR, DAY = 3_600, 86_400
YEAR = 365 * DAY
METRICS = (RESOURCE, NODE)
#: Each is a multiple of the one before, so that one ledger can change between them.
WINDOWS = (HOUR // 2, HOUR, DAY, 7 * DAY)

#: Names that one database or another could confuse, cut, or take for something else.
NAMES = (
    *(
        "",
        " ",
        "bob",
        "Bob",
        "BOB",
        "bob ",
        "bob  ",
        " bob",
        "bób",
        "bo\u0301b",
        "zoë",
        "zoe\u0308",
    ),
    *("O'Brien", 'a "quoted" one', "`back`", "back\\slash", "\\N", "\\.", "{1,2}", "(1)", "NULL"),
    *("100 %", "%s", "%(user)s", ":user", "?", "$1", "--", "; DROP TABLE accounting_jobs", "/*"),
    *(
        "ß",
        "ss",
        "ﬁ",
        "fi",
        "İ",
        "i",
        "😀",
        "日本",
        "tab\there",
        "two\nlines",
        "cr\rlf\r\n",
        "1",
        "01",
    ),
    *("x" * 255, "x" * 254 + "y", "é" * 255, "😀" * 255, " " * 255),
)
#: Half a million years ago, 1970, the end of 32 bits, 2100, half a million years ahead.
EPOCHS = (-(2**44), -(2**31), -1, 0, 1_700_000_000, 2**31 - 1, 2**32, 4_102_444_800, 2**44)

Span = tuple[int, int]
Key = tuple[int, Names, str]  # window, account, metric
Amounts = dict[Key, tuple[int, int]]  # asked, used


@dataclass(frozen=True, slots=True, kw_only=True)
class Share:
    """What a job holds each second of one metric at one value of the dimension property.

    From *since* on, until the next one of the same metric and value.
    """

    value: str
    metric: str
    asked: int
    used: int
    since: int = FROM_START


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """A job as the ledger is told about it; ``running`` is since when it has run, if it does."""

    job_id: int
    owner: tuple[str, str, str] = ("alice", "green", "default")
    state: str = "Terminated"
    asked: tuple[Span, ...] = ()
    used: tuple[Span, ...] = ()
    running: int | None = None
    shares: tuple[Share, ...] = ()
    types: str = ""

    @property
    def closed(self) -> bool:
        return self.state in (*ENDED, VANISHED)

    @property
    def start(self) -> int:
        starts = [start for start, _ in (*self.asked, *self.used)]
        return min(starts, default=self.running or 0)

    @property
    def stop(self) -> int:
        return max((stop for _, stop in self.used), default=0) if self.closed else 0

    def vanished(self, last_seen: int) -> "Job":
        """The job once OAR has deleted it while it was open: without a second, it asked nothing."""
        used = self.used
        if self.running is not None and self.running < last_seen:
            used = (*used, (self.running, last_seen))
        gone = replace(self, state=VANISHED, used=used, running=None)
        return gone if used else replace(gone, asked=(), shares=())

    def pieces(self, share: Share, spans: Iterable[Span]) -> list[Span]:
        """What of the spans one of its shares holds."""
        until = self.until(share)
        return [(max(start, share.since), min(stop, until)) for start, stop in spans]

    def until(self, share: Share) -> int:
        """When one of its shares ends."""
        same = (s.since for s in self.shares if (s.value, s.metric) == (share.value, share.metric))
        return min((since for since in same if since > share.since), default=OPEN)


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """A measured amount of a job."""

    job_id: int
    window_start: int
    names: Names
    metric: str
    asked: int
    used: int


# -- strategies -------------------------------------------------------------------------------


@composite
def names(draw: DrawFn) -> str:
    """Names as they may stand in OAR; PostgreSQL can hold any character but NUL."""
    return draw(_NAMES)


_NAMES = st.one_of(
    st.sampled_from(("alice", "bob", "Bob")),
    st.sampled_from(NAMES),
    st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=12),
)


@cache
def instants() -> SearchStrategy[int]:
    """Times in every calendar, often close to a bound of windows and to each other."""
    return st.builds(lambda epoch, off: epoch + off, st.sampled_from(EPOCHS), _offsets())


@cache
def _offsets() -> SearchStrategy[int]:
    near = st.integers(-2, 2)
    on_bounds = st.builds(lambda n, off: n * HOUR + off, st.integers(-30, 30), near)
    return st.one_of(near, on_bounds, st.integers(-DAY, DAY))


@cache
def lengths() -> SearchStrategy[int]:
    """Seconds, from one to some windows."""
    return st.one_of(st.integers(1, 3), st.integers(1, 2 * HOUR), st.integers(1, 100_000))


@cache
def spans() -> SearchStrategy[Span]:
    """Half-open spans of at least one second."""
    return st.builds(lambda start, length: (start, start + length), instants(), lengths())


@cache
def rates() -> SearchStrategy[int]:
    """Amounts per second, of which a thousand jobs fit in 63 bits."""
    return st.one_of(st.integers(0, 4), st.integers(0, 10_000), st.integers(0, 2**32))


@cache
def job_ids() -> SearchStrategy[int]:
    """Ids that often meet; some lie far from the others."""
    return st.one_of(st.integers(1, 30), st.sampled_from((99_999, 2**31, 2**53 + 1, 2**62)))


@cache
def shares() -> SearchStrategy[tuple[Share, ...]]:
    """What a job holds, on some clusters, in some metrics."""
    metrics = st.sampled_from([metric.name for metric in METRICS])
    share = st.builds(Share, value=names(), metric=metrics, asked=rates(), used=rates())
    return st.lists(share, max_size=4, unique_by=lambda s: (s.value, s.metric)).map(tuple)


@cache
def closed_jobs() -> SearchStrategy[Job]:
    """Jobs that have ended: with suspensions, without a second, or without anything."""
    return st.builds(
        _job,
        job_id=job_ids(),
        owner=st.tuples(names(), names(), names()),
        state=st.sampled_from(ENDED),
        start=instants(),
        walltime=st.one_of(st.none(), lengths()),
        runs_and_pauses=st.lists(lengths(), max_size=5),
        shares=shares(),
        changes=st.one_of(st.just([]), st.lists(_changes(), max_size=4)),
        types=st.sampled_from(("", "besteffort", "deploy,inner=3")),
    )


#: After how many seconds of a job which of its shares changes, to what; else a new one begins.
Change = tuple[int, int, int, int]


def _changes() -> SearchStrategy[Change]:
    return st.tuples(lengths(), st.integers(0, 4), rates(), rates())


def _job(  # noqa: PLR0913 - one drawn job
    job_id: int,
    owner: tuple[str, str, str],
    state: str,
    start: int,
    walltime: int | None,
    runs_and_pauses: list[int],
    shares: tuple[Share, ...],
    changes: list[Change],
    types: str,
) -> Job:
    cuts = [*accumulate(runs_and_pauses, initial=start)]
    return Job(
        job_id=job_id,
        owner=owner,
        state=state,
        asked=() if walltime is None else ((start, start + walltime),),
        used=tuple(zip(cuts[::2], cuts[1::2], strict=False)),
        shares=_changed(shares, changes, start),
        types=types,
    )


def _changed(shares: tuple[Share, ...], changes: Iterable[Change], start: int) -> tuple[Share, ...]:
    """The shares, and others that follow them."""
    found = {(share.value, share.metric, share.since): share for share in shares}
    for seconds, which, asked, used in changes:
        whole = shares[which] if which < len(shares) else None
        value, metric = (whole.value, whole.metric) if whole else ("later", METRICS[0].name)
        share = Share(value=value, metric=metric, asked=asked, used=used, since=start + seconds)
        found[value, metric, share.since] = share
    return tuple(found.values())


@cache
def open_jobs() -> SearchStrategy[Job]:
    """Jobs that run, or are suspended, or wait."""
    return st.builds(_opened, closed_jobs(), st.sampled_from(("Running", "Suspended", "Waiting")))


def _opened(job: Job, state: str) -> Job:
    if state == "Waiting":
        return replace(job, state=state, asked=(), used=(), shares=())
    since = max((stop for _, stop in job.used), default=job.start) + 1
    return replace(job, state=state, running=since if state == "Running" else None)


@cache
def jobs() -> SearchStrategy[Job]:
    """Jobs of all kinds, most of them ended."""
    return st.one_of(closed_jobs(), closed_jobs(), closed_jobs(), open_jobs())


@cache
def batches(max_size: int = 8) -> SearchStrategy[list[Job]]:
    """Different jobs."""
    return st.lists(jobs(), max_size=max_size, unique_by=lambda job: job.job_id)


# -- the plainest arithmetic ------------------------------------------------------------------


def naive_totals(jobs: Iterable[Job], window: int, entries: Iterable[Entry] = ()) -> Amounts:
    """What closed jobs asked for and used per window, window after window."""
    sums: dict[Key, list[int]] = defaultdict(lambda: [0, 0])
    by_id = {job.job_id: job for job in jobs if job.closed}
    for job in by_id.values():
        for share in job.shares:
            for column, rate, some in ((0, share.asked, job.asked), (1, share.used, job.used)):
                for span in job.pieces(share, some):
                    for at, seconds in naive_pieces(span, window):
                        sums[at, (*job.owner, share.value), share.metric][column] += seconds * rate
    for entry in entries:
        if entry.job_id in by_id:
            amounts = sums[entry.window_start // window * window, entry.names, entry.metric]
            amounts[0] += entry.asked
            amounts[1] += entry.used
    return {key: (asked, used) for key, (asked, used) in sums.items() if asked or used}


def naive_days(totals: Amounts, window: int) -> Amounts:
    """The same amounts by day, where several whole windows make one; nothing elsewhere."""
    sums: dict[Key, list[int]] = defaultdict(lambda: [0, 0])
    if window < DAY and DAY % window == 0:
        for (at, names, metric), (asked, used) in totals.items():
            amounts = sums[at - at % DAY, names, metric]
            amounts[0] += asked
            amounts[1] += used
    return {key: (asked, used) for key, (asked, used) in sums.items()}


def naive_pieces(span: Span, window: int) -> list[tuple[int, int]]:
    """The windows that a span touches, each with the seconds in it."""
    start, stop = span
    pieces = []
    while start < stop:
        bound = start - start % window + window
        pieces.append((bound - window, min(bound, stop) - start))
        start = bound
    return pieces


# -- a ledger ---------------------------------------------------------------------------------


def hurry(engine: Engine) -> None:
    """Let a SQLite file be written without waiting for the disk: it need not survive a crash."""
    if engine.dialect.name == "sqlite":
        event.listen(engine, "connect", _hurried)


def _hurried(connection: Any, _record: object) -> None:
    connection.execute("pragma synchronous = off")


def open_ledger(ledger: Ledger, window: int = DAY, metrics: Sequence[Metric] = METRICS) -> Ledger:
    """The ledger, with its site added under a window."""
    ledger.open_site(Terms(window=window), metrics)
    return ledger


def columns_of(
    jobs: Iterable[Job], account: Callable[[Names], int], metric: Mapping[str, int]
) -> tuple[JobRecords, Spans, Rates]:
    """The jobs, by ascending id, as the ledger takes them."""
    ordered = sorted(jobs, key=lambda job: job.job_id)
    records = [
        (
            *(job.job_id, account((*job.owner, "")), job.state, job.start, job.start, job.stop),
            *(sum(stop - start for start, stop in job.asked), job.types),
            *(job.closed, not job.closed, None, None, None, None),
        )
        for job in ordered
    ]
    spans = [
        (job.job_id, asked, start, stop)
        for job in ordered
        for asked, some in ((1, job.asked), (0, job.used))
        for start, stop in some
    ]
    spans += [(job.job_id, 0, job.running, OPEN) for job in ordered if job.running is not None]
    rates = [
        (job.job_id, account((*job.owner, s.value)), metric[s.metric], s.asked, s.used, s.since)
        for job in ordered
        for s in job.shares
    ]
    texts = (2, 7, 10, 11, 12, 13)
    return (
        JobRecords.of(
            np.array(column, object if place in texts else np.int64)
            for place, column in enumerate(_turned(records, 14))
        ),
        Spans.of(map(ints, _turned(spans, 4))),
        Rates.of(map(ints, _turned(rates, 6))),
    )


def _turned(rows: Sequence[tuple[object, ...]], width: int) -> list[list[object]]:
    return [[row[place] for row in rows] for place in range(width)]


def post(book: Book, jobs: Iterable[Job]) -> None:
    """Say these jobs, in any order, to an open book."""
    some = list(jobs)
    book.accounts.add(book.connection, _accounts_of(some))
    book.post(*columns_of(some, lambda names: book.accounts.ids([names])[0], metric_ids(book)))


def _accounts_of(jobs: Iterable[Job]) -> list[Names]:
    return [(*job.owner, value) for job in jobs for value in ("", *(s.value for s in job.shares))]


def metric_ids(book: Book) -> dict[str, int]:
    """The site's metrics by name; those that are being built have a star behind it."""
    found = metric_names(book.connection, book.site.site_id)
    return {name: metric_id for metric_id, name in found.items()}


def enter(book: Book, job: Job, entries: Sequence[Entry]) -> None:
    """Insert measured amounts as an ingest would; those of a closed job move the totals."""
    names = [entry.names for entry in entries]
    book.accounts.add(book.connection, names)
    metric = metric_ids(book)
    rows = Totals.of(
        map(
            ints,
            (
                [entry.window_start for entry in entries],
                book.accounts.ids(names),
                [metric[entry.metric] for entry in entries],
                [entry.asked for entry in entries],
                [entry.used for entry in entries],
            ),
        )
    )
    ids = {"site_id": [book.site.site_id] * len(entries), "job_id": [job.job_id] * len(entries)}
    insert_columns(book.connection, schema.entries, {**ids, **rows.as_dict()})
    if job.closed:
        book.move(add_up(rows))


def post_all(ledger: Ledger, batches: Iterable[Iterable[Job]]) -> None:
    """Post batch after batch, each in a transaction of its own."""
    for batch in batches:
        with ledger.writing() as book:
            post(book, batch)


def contents(ledger: Ledger) -> dict[str, list[tuple[object, ...]]]:
    """Every row of the site's large tables, sorted, with names in the place of its ids."""
    with ledger.reading() as (connection, site):
        assert site is not None
        account = account_names(connection, site.site_id)
        metric = metric_names(connection, site.site_id)
        found = {
            table.name.removeprefix("accounting_"): _named(
                _summed_rows(connection, table, site.site_id), account, metric
            )
            for table in schema.SUMMED
        }
        for table in (schema.jobs, schema.spans, schema.rates, schema.entries):
            query = select(table).where(table.c.site_id == site.site_id)
            name = table.name.removeprefix("accounting_")
            found[name] = _named(connection.execute(query).all(), account, metric)
        return found


def naive_contents(jobs: Iterable[Job], entries: Iterable[Entry]) -> dict[str, list[Any]]:
    """The spans, rates and entries that a ledger of these jobs has, as `contents` tells them."""
    spans: list[Any] = []
    rates: list[Any] = []
    for job in jobs:
        spans += [(job.job_id, 1, *span) for span in job.asked]
        spans += [(job.job_id, 0, *span) for span in job.used]
        spans += [] if job.running is None else [(job.job_id, 0, job.running, None)]
        rates += [
            (job.job_id, (*job.owner, s.value), s.metric, s.asked, s.used, s.since)
            for s in job.shares
        ]
    found = [(e.job_id, e.names, e.metric, e.window_start, e.asked, e.used) for e in entries]
    rows = {"spans": spans, "rates": rates, "entries": found}
    return {name: sorted(some, key=repr) for name, some in rows.items()}


def account_names(connection: Connection, site_id: int) -> dict[int, Names]:
    """The names of the site's accounts, by id."""
    table = schema.accounts.c
    query = select(
        table.account_id, table.user_name, table.project, table.queue_name, table.property_value
    ).where(table.site_id == site_id)
    return {row[0]: (row[1], row[2], row[3], row[4]) for row in connection.execute(query)}


def metric_names(connection: Connection, site_id: int) -> dict[int, str]:
    """The names of the site's metrics, by id; a star at those that are being built."""
    table = schema.metrics.c
    query = select(table.metric_id, table.name, table.state).where(table.site_id == site_id)
    return {
        number: name + ("*" if state == schema.BUILDING else "")
        for number, name, state in connection.execute(query)
    }


def _summed_rows(connection: Connection, table: Table, site_id: int) -> Sequence[Any]:
    query = select(table).where(
        table.c.account_id.in_(
            select(schema.accounts.c.account_id).where(schema.accounts.c.site_id == site_id)
        )
    )
    return connection.execute(query).all()


def _named(
    rows: Iterable[Any], account: Mapping[int, Names], metric: Mapping[int, str]
) -> list[tuple[object, ...]]:
    found = []
    for row in rows:
        values = dict(row._mapping)
        values.pop("site_id", None)
        if "account_id" in values:
            values["account_id"] = account[values["account_id"]]
        if "metric_id" in values:
            values["metric_id"] = metric[values["metric_id"]]
        found.append(tuple(values.values()))
    return sorted(found, key=repr)


def stored_totals(ledger: Ledger) -> Amounts:
    """The site's totals as they stand, zeros too."""
    return _stored(ledger, schema.totals)


def stored_days(ledger: Ledger) -> Amounts:
    """The site's totals by day as they stand, zeros too."""
    return _stored(ledger, schema.days)


def _stored(ledger: Ledger, table: Table) -> Amounts:
    with ledger.reading() as (connection, site):
        assert site is not None
        account = account_names(connection, site.site_id)
        metric = metric_names(connection, site.site_id)
        return {
            (row[0], account[row[1]], metric[row[2]]): (row[3], row[4])
            for row in _summed_rows(connection, table, site.site_id)
        }


def rows_in(connection: Connection, table: Table) -> list[tuple[object, ...]]:
    """Every row of a table, of all sites."""
    return sorted((tuple(row) for row in connection.execute(select(table))), key=repr)

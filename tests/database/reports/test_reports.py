"""Usage that is exact, however time is cut, and that says so where it is not.

The model below knows every amount as a piece of time: what a job held lies evenly over it, and so
do what was measured, taken over or adjusted; what was purged lies where its window begins.
"""

import tempfile
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from itertools import pairwise
from pathlib import Path
from random import Random
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sqlalchemy import Engine, create_engine, insert

from oar_accounting import Accounting, AmountOverflow, JobFilter, Usage
from oar_accounting.core.windows import evenly
from oar_accounting.database.dialects import file_url
from oar_accounting.ledger import schema
from oar_accounting.ledger.ledger import Ledger
from oar_accounting.oar.job_rules import FARTHEST
from oar_accounting.usage import prorated
from oar_accounting.usage.result import AMOUNT_COLUMNS
from tests.database.oar.test_real_oar import WINDOWS, at_site, fill, oaraccounting
from tests.database.usage.test_usage import Ran
from tests.database.usage.test_usage import jobs as ran_jobs
from tests.examples import examples
from tests.servers import Server, fresh_database
from tests.small_oar import DAY, HOUR, T0, Clock, SmallOar, opened, stopped_clock
from tests.strategies import Entry, Job, enter

Pair = tuple[int, int]
Six = tuple[int, ...]  #: asked and used; of these of opening amounts; of adjustments
Answered = dict[tuple[str, ...], Six]
NOTHING: Six = (0,) * 6
OWNER = ("default", "default", "alpha")


@pytest.fixture(autouse=True)
def clock() -> Iterator[Clock]:
    """The verbs' clock stands still, long after everything."""
    with stopped_clock() as stopped:
        stopped.now = T0 + 100 * DAY
        yield stopped


def six(row: Usage) -> Six:
    """The amounts of a row, in the order of `AMOUNT_COLUMNS`."""
    return tuple(getattr(row, name) for name in AMOUNT_COLUMNS)


def plus(one: Six, other: Six) -> Six:
    """Both together."""
    return tuple(a + b for a, b in zip(one, other, strict=True))


def together(rows: Sequence[Usage], keys: slice = slice(None)) -> Answered:
    """The amounts by group, or by some keys of it, whatever the bucket; none that is nothing."""
    found: defaultdict[tuple[str, ...], Six] = defaultdict(lambda: NOTHING)
    for row in rows:
        found[row.group[keys]] = plus(found[row.group[keys]], six(row))
    return {group: amounts for group, amounts in found.items() if any(amounts)}


def answered(
    site: Accounting, start: int | None, stop: int | None, *by: str, **given: Any
) -> Answered:
    """The amounts of *resource* by group, in seconds from `T0`."""
    first, last = (None if at is None else T0 + at for at in (start, stop))
    return together(site.usage(by, ("resource",), first, last, **given).rows)


def accuracies(site: Accounting, start: int | None, stop: int | None, *by: str) -> set[str]:
    """How the amounts of *resource* were found."""
    first, last = (None if at is None else T0 + at for at in (start, stop))
    return {row.accuracy for row in site.usage(by, ("resource",), first, last).rows}


# -- amounts that no span of a job tells --------------------------------------------------------


def post_entry(site: Accounting, job: int, user: str, start: int, amounts: Pair) -> None:
    """Post what was measured of a closed job in the window that begins at *start*."""
    entry = Entry(
        job_id=job,
        window_start=start,
        names=(user, *OWNER),
        metric="resource",
        asked=amounts[0],
        used=amounts[1],
    )
    with Ledger(site.engine, site.settings.site).writing() as book:
        enter(book, Job(job_id=job), [entry])


def open_amount(site: Accounting, user: str, span: Pair, amounts: Pair) -> None:
    """Insert an opening amount, as if it had been taken over from OAR."""
    with Ledger(site.engine, site.settings.site).writing() as book:
        names = (user, *OWNER)
        book.accounts.add(book.connection, [names])
        (account,) = book.accounts.ids([names])
        names_of_row = ("window_start", "window_stop", "asked", "used")
        row = dict(zip(names_of_row, (*span, *amounts), strict=True))
        book.connection.execute(
            insert(schema.openings).values(
                site_id=book.site.site_id,
                account_id=account,
                covered_asked=0,
                covered_used=0,
                **row,
            )
        )


def adjust(site: Accounting, user: str, span: Pair, amounts: Pair) -> None:
    """Adjust an account of which something is recorded."""
    project, queue, place = OWNER
    site.adjust(
        user=user,
        project=project,
        queue=queue,
        property=place,
        metric="resource",
        start=span[0],
        stop=span[1],
        asked=amounts[0],
        used=amounts[1],
        reason="a wrong bill",
        author="root",
    )


def one_job(engine: Engine, toml: str = "") -> tuple[Accounting, SmallOar]:
    """A day of a core of bob from `T0` + 6 hours on, of the two that he asked for; recorded."""
    oar = SmallOar(engine)
    oar.add_job(cores=1, start=T0 + 6 * HOUR, stop=T0 + 30 * HOUR, walltime=2 * DAY)
    site = opened(engine, toml)
    assert site.catch_up().problems == ()
    return site, oar


def test_a_purged_window_counts_whole_where_it_begins(engine: Engine) -> None:
    """Bob used 18 hours on the first day and 6 on the second: the windows are all that is left."""
    site, _ = one_job(engine)
    whole = answered(site, None, None, "user")
    assert answered(site, 7 * HOUR, DAY, "user")["bob",][1] == 17 * HOUR
    assert site.purge(T0 + 10 * DAY) == (T0 + 10 * DAY, 1)
    assert answered(site, 0, DAY, "user")["bob",][1] == 18 * HOUR
    assert accuracies(site, 0, 2 * DAY) == {"exact"}
    # The first day begins before the bound, the second after it.
    assert answered(site, 7 * HOUR, None, "user")["bob",][1] == 6 * HOUR
    assert answered(site, None, 7 * HOUR, "user")["bob",][1] == 18 * HOUR
    assert accuracies(site, None, 7 * HOUR) == {"windows"}
    assert accuracies(site, 7 * HOUR, None) == {"windows"}
    assert answered(site, 7 * HOUR, DAY, "user") == {}
    for at in (1, 6 * HOUR, DAY - 1, DAY, DAY + 5, 30 * HOUR, 2 * DAY + 1):
        parts = (answered(site, None, at, "user"), answered(site, at, None, "user"))
        assert plus(*(part.get(("bob",), NOTHING) for part in parts)) == whole["bob",]


def test_what_was_measured_has_its_share_of_a_window_by_time(engine: Engine) -> None:
    """Of 1000 measured over a day an hour has 1000 // 24, and the parts add up to all of it."""
    site, _ = one_job(engine)
    post_entry(site, 1, "bob", T0 + 2 * DAY, (10, 1_000))
    assert site.verify() == []
    assert answered(site, 2 * DAY, 3 * DAY, "user")["bob",][1] == 1_000
    assert accuracies(site, 2 * DAY, 3 * DAY) == {"exact"}
    assert answered(site, 2 * DAY, 2 * DAY + HOUR, "user")["bob",][1] == 1_000 // 24
    assert accuracies(site, 2 * DAY, 2 * DAY + HOUR) == {"proportional"}
    hours = [
        answered(site, at, at + HOUR, "user").get(("bob",), NOTHING)[1]
        for at in range(2 * DAY, 3 * DAY, HOUR)
    ]
    assert sum(hours) == 1_000 and set(hours) == {41, 42}
    by_job = site.usage(("job",), ("resource",), T0 + 2 * DAY, T0 + 2 * DAY + HOUR).rows
    assert [(row.group, row.used, row.accuracy) for row in by_job] == [
        (("1",), 1_000 // 24, "proportional")
    ]
    # A bound elsewhere cuts no window in which something was measured.
    assert accuracies(site, 7 * HOUR, 2 * DAY) == {"exact"}


def test_an_opening_amount_that_is_cut_is_proportional_and_an_adjustment_exact(
    engine: Engine,
) -> None:
    """To lie evenly over its span is what an adjustment means."""
    site, _ = one_job(engine)
    open_amount(site, "carol", (T0 - 3 * DAY, T0 - 2 * DAY), (2 * DAY, DAY))
    adjust(site, "bob", (T0 + 5 * DAY, T0 + 7 * DAY), (0, -2 * DAY))
    cut = site.usage(("user",), ("resource",), T0 - 3 * DAY + 100, T0 + 5 * DAY + 7).rows
    told = {row.group[0]: (row.accuracy, *six(row)) for row in cut}
    left = DAY - 100
    assert told == {
        "bob": ("exact", 2 * DAY, DAY - 7, 0, 0, 0, -7),
        "carol": ("proportional", 2 * left, left, 2 * left, left, 0, 0),
    }
    (plain,) = site.usage((), ("resource",), T0, T0 + 5 * DAY + 7, without_adjustments=True).rows
    assert six(plain) == (2 * DAY, DAY, 0, 0, 0, 0)
    assert accuracies(site, -3 * DAY, 7 * DAY) == {"exact"}


# -- the law ------------------------------------------------------------------------------------

ZONES = ("Europe/Paris", "America/New_York", "Australia/Lord_Howe", "Asia/Kathmandu")
USERS = ("alice", "bob", "Bob", "l'eau")


@dataclass(frozen=True, kw_only=True)
class Beside:
    """An amount over a span, in seconds from `T0`; of what was measured, in the window there."""

    user: str
    start: int
    length: int
    asked: int
    used: int

    def span(self) -> Pair:
        """The span in epoch seconds."""
        return T0 + self.start, T0 + self.start + self.length


@dataclass(frozen=True, kw_only=True)
class Piece:
    """What lies over ``[start, stop)``, seconds from `T0`: evenly, or *whole* where it begins."""

    user: str
    start: int
    stop: int
    amounts: Six
    whole: bool = False
    lasting: tuple[int, ...] = ()  #: the columns that count beyond an instant, if it began by then
    begun: int | None = None  #: when what it is of began, if not where it lies itself
    later: int = 0  #: it counts only from the window of so many seconds after an instant on

    def as_of(self, instant: int, start: int, stop: int) -> Six:
        """What of it counts in ``[start, stop)`` as of an instant."""
        end = min(stop, instant)
        has_begun = (self.start if self.begun is None else self.begun) < instant
        if self.later:
            start = max(start, -(-(T0 + instant) // self.later) * self.later - T0)
            return self.within(start, stop) if start < stop and has_begun else NOTHING
        by_then = self.within(start, end) if end > start else NOTHING
        begun = self.within(start, stop) if has_begun else NOTHING
        return tuple(begun[n] if n in self.lasting else by_then[n] for n in range(len(NOTHING)))

    def within(self, start: int, stop: int) -> Six:
        """What of it counts in ``[start, stop)``."""
        if self.whole:
            return self.amounts if start <= self.start < stop else NOTHING
        return tuple(evenly(amount, self.start, self.stop, start, stop) for amount in self.amounts)


@dataclass(frozen=True, kw_only=True)
class Story:
    """Jobs, a purge, and what stands beside jobs; who moves when, in seconds from `T0`."""

    window: int
    jobs: tuple[Ran, ...]
    purge: int | None
    measured: tuple[Beside, ...]
    openings: tuple[Beside, ...]
    adjustments: tuple[Beside, ...]
    moves: Mapping[str, int]

    def happen(self, engine: Engine) -> Accounting:
        """Record it."""
        oar = SmallOar(engine)
        for job in self.jobs:
            job.add_to(oar)
        site = opened(engine, f"window = {self.window}\n")
        assert site.catch_up().problems == ()
        for nth, each in self.with_jobs():
            at = T0 + self.window_of(each.start)
            post_entry(site, nth + 1, each.user, at, (each.asked, each.used))
        for each in self.openings:
            open_amount(site, each.user, each.span(), (each.asked, each.used))
        for each in self.adjustments:
            # Only names that are recorded can be adjusted: this records them.
            open_amount(site, each.user, (T0 - 900 * DAY, T0 - 899 * DAY), (0, 0))
            adjust(site, each.user, each.span(), (each.asked, each.used))
            with site.engine.begin() as connection:
                passing = schema.openings.c.window_start == T0 - 900 * DAY
                connection.execute(schema.openings.delete().where(passing))
        moves = [f'"{u}",LIG,,{T0 + at}\n"{u}",IRIG,{T0 + at},' for u, at in self.moves.items()]
        site.import_attributes("\n".join(["user,laboratory,valid_from,valid_to", *moves]))
        if self.purge is not None:
            site.purge(T0 + self.purge)
        assert site.verify() == []
        return site

    def window_of(self, instant: int) -> int:
        """Where the window around an instant begins."""
        return (T0 + instant) // self.window * self.window - T0

    @property
    def day(self) -> int:
        """What stays of single purged jobs is by so many seconds."""
        return DAY if DAY % self.window == 0 else self.window

    def day_of(self, instant: int) -> int:
        """Where the day around an instant begins."""
        return (T0 + instant) // self.day * self.day - T0

    def with_jobs(self) -> Iterator[tuple[int, Beside]]:
        """What was measured, and the number of the job of which; once in a window.

        It is of the time of the job, or of the window before or after that.
        """
        seen = set()
        for nth, each in enumerate(self.measured if self.jobs else ()):
            job = self.jobs[nth % len(self.jobs)]
            first, last = job.start - self.window, job.start + job.length + self.window - 1
            start = min(max(each.start, first), last)
            key = (nth % len(self.jobs), self.window_of(start))
            if key not in seen:
                seen.add(key)
                yield key[0], replace(each, user=job.user, start=start)

    def is_purged(self, job: Ran) -> bool:
        """True where the purge took away all that it asked for and used, to the second."""
        if self.purge is None:
            return False
        asked = job.walltime if job.length else 0
        return job.start + max(asked, job.length) <= self.window_of(self.purge)

    def pieces(self, *, by_job: bool) -> Iterator[Piece]:
        """Everything that is recorded; with *by_job* as it is told of single jobs."""
        for number, job in enumerate(self.jobs):
            if self.is_purged(job):
                days = self._by_day(number, job)
                yield from (
                    days
                    if by_job
                    else (
                        replace(each, lasting=(), later=self.window)
                        for each in days
                        if each.lasting
                    )
                )
                if by_job:
                    continue
            for column, start, stop in _held(job):
                amounts = list(NOTHING)
                amounts[column] = (stop - start) * job.cores
                piece = Piece(
                    user=job.user, start=start, stop=stop, amounts=tuple(amounts), lasting=(0,)
                )
                yield from self._by_window(piece) if self.is_purged(job) else [piece]
        for nth, each in self.with_jobs():
            if by_job and self.is_purged(self.jobs[nth]):
                continue
            at = self.window_of(each.start)
            yield Piece(
                user=each.user,
                start=at,
                stop=at + self.window,
                amounts=(each.asked, each.used, 0, 0, 0, 0),
                whole=self.is_purged(self.jobs[nth]),
            )
        for place, some in ((2, self.openings), (4, self.adjustments)):
            for each in some:
                amounts = [each.asked, each.used, 0, 0, 0, 0]
                amounts[place : place + 2] = amounts[:2]
                stop = each.start + each.length
                yield Piece(
                    user=each.user,
                    start=each.start,
                    stop=stop,
                    amounts=tuple(amounts),
                    lasting=(0, 4) if place == 4 else (),
                )

    def _by_day(self, number: int, job: Ran) -> Iterator[Piece]:
        """What is known of a purged job: by day, evenly over what of the day it had."""
        days: defaultdict[int, list[int]] = defaultdict(lambda: [0, 0])
        for column, start, stop in _held(job):
            for at in range(self.day_of(start), stop, self.day):
                inside = min(stop, at + self.day) - max(start, at)
                days[at][column] += inside * job.cores
        for of_job, each in self.with_jobs():
            if of_job == number:
                days[self.day_of(each.start)][0] += each.asked
                days[self.day_of(each.start)][1] += each.used
        for at, amounts in days.items():
            for column, length in ((0, job.walltime), (1, job.length)):
                start, stop = max(at, job.start), min(at + self.day, job.start + length)
                own = [0] * len(NOTHING)
                own[column] = amounts[column]
                yield Piece(
                    user=job.user,
                    start=start if start < stop else at,
                    stop=stop if start < stop else at + self.day,
                    amounts=tuple(own),
                    lasting=(0,) if column == 0 else (),
                    begun=job.start if column == 0 else None,
                )

    def _by_window(self, piece: Piece) -> Iterator[Piece]:
        at = self.window_of(piece.start)
        while at < piece.stop:
            stop = at + self.window
            yield Piece(
                user=piece.user, start=at, stop=stop, amounts=piece.within(at, stop), whole=True
            )
            at = stop

    def expected(
        self, start: int, stop: int, *by: str, as_of: int = 2**50, by_job: bool = False
    ) -> Answered:
        """The amounts in ``[start, stop)`` by user or laboratory, added up *by_job* or not."""
        found: defaultdict[tuple[str, ...], Six] = defaultdict(lambda: NOTHING)
        for piece in self.pieces(by_job=by_job):
            for begin, end, laboratory in self._stays(piece.user, start, stop):
                names = {"user": piece.user, "laboratory": laboratory}
                group = tuple(names[name] for name in by)
                found[group] = plus(found[group], piece.as_of(as_of, begin, end))
        return {group: amounts for group, amounts in found.items() if any(amounts)}

    def _stays(self, user: str, start: int, stop: int) -> Iterator[tuple[int, int, str]]:
        if user not in self.moves:
            yield start, stop, ""
            return
        at = min(max(self.moves[user], start), stop)
        yield start, at, "LIG"
        yield at, stop, "IRIG"


def _held(job: Ran) -> Iterator[tuple[int, int, int]]:
    """The column, start and stop of each span in which the job asked for or used something."""
    if not job.length:
        return
    ends = [job.start, job.start + job.length]
    if job.pause is not None:
        ends[1:1] = [job.start + at for at in job.pause]
    spans = [(0, job.start, job.start + job.walltime)]
    spans += [(1, a, b) for a, b in zip(ends[::2], ends[1::2], strict=True)]
    yield from ((column, a, b) for column, a, b in spans if a < b)


@st.composite
def beside(draw: st.DrawFn) -> Beside:
    """An amount somewhere around the jobs."""
    return Beside(
        user=draw(st.sampled_from(USERS)),
        start=draw(st.integers(-3 * DAY, 3 * DAY)),
        length=draw(st.integers(1, 3 * DAY)),
        asked=draw(st.integers(1, 10**6)),
        used=draw(st.integers(0, 10**6)),
    )


@st.composite
def stories(draw: st.DrawFn) -> Story:
    """Something of everything."""
    some = st.lists(beside(), max_size=3).map(tuple)
    closed = ran_jobs().filter(lambda job: not job.is_open)
    signs = draw(st.sampled_from([1, -1]))
    return Story(
        window=draw(st.sampled_from([900, HOUR, 7_000, DAY])),
        jobs=tuple(draw(st.lists(closed, max_size=4))),
        purge=draw(st.none() | st.integers(-2 * DAY, 5 * DAY)),
        measured=draw(some),
        # One opening amount of an account in a window, as in the table.
        openings=tuple(draw(st.lists(beside(), max_size=2, unique_by=lambda b: b.start))),
        adjustments=tuple(replace(each, used=signs * each.used) for each in draw(some)),
        moves=draw(
            st.dictionaries(st.sampled_from(USERS), st.integers(-3 * DAY, 3 * DAY), min_size=1)
        ),
    )


class Told:
    """A story that happened, on SQLite."""

    def __init__(self, story: Story) -> None:
        self._directory = tempfile.TemporaryDirectory()
        self.engine = create_engine(file_url(Path(self._directory.name) / "oar.db"))
        self.site = story.happen(self.engine)

    def __enter__(self) -> Accounting:
        return self.site

    def __exit__(self, *_: object) -> None:
        self.site.close()
        self.engine.dispose()
        self._directory.cleanup()


CUTS = st.lists(st.integers(-4 * DAY, 6 * DAY), min_size=3, max_size=6, unique=True).map(sorted)
KEYS = (("user",), ("laboratory",), ())


@settings(max_examples=examples(15))
@given(
    story=stories(),
    cuts=CUTS,
    by=st.sampled_from(KEYS),
    bucket=st.sampled_from([9_777, HOUR, "hour", "day", "week", "month", "quarter"]),
    timezone=st.sampled_from(ZONES),
)
def test_all_that_is_told_adds_up_however_time_is_cut(
    story: Story, cuts: list[int], by: tuple[str, ...], bucket: int | str, timezone: str
) -> None:
    """Every column of the answer is the model's, in every part, and parts are the whole."""
    start, stop = cuts[0], cuts[-1]
    with Told(story) as site:
        whole = answered(site, start, stop, *by)
        assert whole == story.expected(start, stop, *by)
        parts = [answered(site, a, b, *by) for a, b in pairwise(cuts)]
        assert parts == [story.expected(a, b, *by) for a, b in pairwise(cuts)]
        assert _all_of(parts) == whole
        assert answered(site, start, stop, *by, bucket=bucket, timezone=timezone) == whole
        # By job they are found another way: not by the totals of the windows.
        by_job = site.usage((*by, "job"), ("resource",), T0 + start, T0 + stop).rows
        known = story.expected(start, stop, *by, by_job=True)
        assert together(by_job, slice(len(by))) == known
        # Over whole days it is the same, whatever was purged.
        first, last = story.day_of(start), story.day_of(stop) + story.day
        if not {*by} & {"laboratory"}:
            assert story.expected(first, last, *by, by_job=True) == story.expected(first, last, *by)


@settings(max_examples=examples(15))
@given(
    story=stories(),
    cuts=CUTS,
    by=st.sampled_from(KEYS),
    as_of=st.integers(-5 * DAY, 7 * DAY),
    bucket=st.sampled_from([None, 9_777, "day"]),
)
def test_nothing_is_used_after_the_instant_as_of_which_is_asked(
    story: Story, cuts: list[int], by: tuple[str, ...], as_of: int, bucket: int | str | None
) -> None:
    """Of a job, measured, carried, opening, adjusted. What was asked for lasts, once it began."""
    start, stop = cuts[0], cuts[-1]
    with Told(story) as site:
        _check_as_of(story, site, start, stop, by, as_of, bucket)


def _check_as_of(  # noqa: PLR0913 - one question
    story: Story,
    site: Accounting,
    start: int,
    stop: int,
    by: tuple[str, ...],
    as_of: int,
    bucket: int | str | None,
) -> None:
    known = story.expected(start, stop, *by, as_of=as_of)
    instant = T0 + as_of
    assert answered(site, start, stop, *by, as_of=instant, bucket=bucket) == known
    by_job = site.usage(
        (*by, "job"), ("resource",), T0 + start, T0 + stop, as_of=instant, bucket=bucket
    )
    of_jobs = story.expected(start, stop, *by, as_of=as_of, by_job=True)
    assert together(by_job.rows, slice(len(by))) == of_jobs


def _all_of(parts: Sequence[Answered]) -> Answered:
    found: defaultdict[tuple[str, ...], Six] = defaultdict(lambda: NOTHING)
    for part in parts:
        for group, amounts in part.items():
            found[group] = plus(found[group], amounts)
    return {group: amounts for group, amounts in found.items() if any(amounts)}


@pytest.mark.parametrize("window", [900, 7_000, DAY])
def test_the_law_on_every_database(engine: Engine, window: int) -> None:
    """Two purged jobs, one that stays, something measured of each, and a move within a day."""
    story = Story(
        window=window,
        jobs=(
            Ran(user="alice", start=-2 * DAY - 77, length=DAY + 5, walltime=DAY, cores=3),
            Ran(user="l'eau", start=-DAY, length=40_000, walltime=50_000, pause=(99, 7_777)),
            Ran(user="alice", start=DAY - 9, length=2 * DAY, walltime=3 * DAY, cores=5),
        ),
        purge=DAY,
        measured=(
            Beside(user="", start=-DAY, length=1, asked=7, used=100_003),
            Beside(user="", start=-DAY, length=1, asked=0, used=5),
            Beside(user="", start=2 * DAY, length=1, asked=1, used=99_999),
        ),
        openings=(Beside(user="bob", start=-3 * DAY, length=7_001, asked=31_337, used=9_999),),
        adjustments=(Beside(user="alice", start=11, length=DAY, asked=-5, used=-10_007),),
        moves={"alice": -DAY - 3, "bob": -3 * DAY + 50},
    )
    site = story.happen(engine)
    cuts = [-3 * DAY + 1, -2 * DAY + 450, -DAY - 3, 17, DAY + 7_777, 6 * DAY + 1]
    for by in KEYS:
        parts = [answered(site, a, b, *by) for a, b in pairwise(cuts)]
        assert parts == [story.expected(a, b, *by) for a, b in pairwise(cuts)]
        assert _all_of(parts) == answered(site, cuts[0], cuts[-1], *by)
        for as_of in (-2 * DAY - 5, -DAY + 9, 50, 2 * DAY + 7, 9 * DAY):
            _check_as_of(story, site, cuts[0], cuts[-1], by, as_of, None)
    whole = answered(site, cuts[0], cuts[-1], "laboratory")
    for bucket, zone in (("day", "Australia/Lord_Howe"), (5 * HOUR, "UTC")):
        assert (
            answered(site, cuts[0], cuts[-1], "laboratory", bucket=bucket, timezone=zone) == whole
        )


@pytest.mark.parametrize("window", [pytest.param(900, marks=pytest.mark.slow), HOUR, DAY])
@pytest.mark.parametrize("at_once", [pytest.param(500, marks=pytest.mark.slow), 3])
def test_each_bucket_is_what_is_asked_of_its_span_alone(
    engine: Engine, monkeypatch: pytest.MonkeyPatch, window: int, at_once: int
) -> None:
    """Equal buckets are summed at once: with and without days, with windows that bounds cut."""
    monkeypatch.setattr(prorated, "WINDOWS_AT_ONCE", at_once)
    oar = SmallOar(engine)
    for nth in range(40):
        start = T0 + nth * (DAY + 9_999)
        oar.add_job(user=USERS[nth % 3], start=start, stop=start + 40_000, walltime=90_000)
    site = opened(engine, f"window = {window}\n")
    site.catch_up()
    span = (T0 - 5 * DAY, T0 + 50 * DAY + 7)
    for bucket, zone in (
        *(("day", "UTC"), ("day", "Europe/Paris"), ("day", "Asia/Kathmandu")),
        *(("week", "Europe/Paris"), ("month", "Europe/Paris")),
        *((5 * DAY, "UTC"), (36 * HOUR, "UTC"), (2 * DAY + 1, "UTC")),
    ):
        found: defaultdict[tuple[int, int], Answered] = defaultdict(dict)
        for row in site.usage("user", "resource", *span, bucket=bucket, timezone=zone).rows:
            assert row.start is not None and row.stop is not None
            found[row.start, row.stop][row.group] = six(row)
        assert len(found) > 1
        for (start, stop), rows in found.items():
            assert rows == answered(site, start - T0, stop - T0, "user"), (bucket, zone, start)
        assert _all_of([*found.values()]) == answered(site, -5 * DAY, 50 * DAY + 7, "user")


# -- calendars ----------------------------------------------------------------------------------

PARIS = ZoneInfo("Europe/Paris")


def utc(said: str) -> int:
    """Epoch seconds of an ISO time in UTC."""
    return int(datetime.fromisoformat(said).replace(tzinfo=UTC).timestamp())


@pytest.mark.parametrize(("bucket", "called"), [("month", "%Y-%m"), ("day", "%Y-%m-%d")])
def test_months_and_days_of_paris_over_windows_in_utc(
    engine: Engine, clock: Clock, bucket: str, called: str
) -> None:
    """Each second that a job ran, by the date that clocks in Paris showed then.

    They go from 02:00 to 03:00 on 29 March, at 01:00 UTC; months begin at 23:00 or 22:00 UTC.
    """
    clock.now = utc("2026-06-01")
    oar = SmallOar(engine)
    expected: Counter[str] = Counter()
    for cores, start, stop in (
        (1, "2026-02-28T22:10:07", "2026-03-01T00:20:00"),
        (2, "2026-03-28T22:30:00", "2026-03-30T00:30:01"),
        (4, "2026-03-31T21:59:59", "2026-03-31T22:00:02"),
        (8, "2026-03-29T00:59:00", "2026-03-29T01:01:00"),
    ):
        first, last = utc(start), utc(stop)
        oar.add_job(cores=cores, start=first, stop=last)
        for second in range(first, last):
            expected[datetime.fromtimestamp(second, PARIS).strftime(called)] += cores
    site = opened(engine, 'timezone = "Europe/Paris"\n')
    site.catch_up()
    rows = site.usage((), ("resource",), utc("2026-01-01"), utc("2026-05-01"), bucket=bucket).rows
    found = {
        datetime.fromtimestamp(row.start or 0, PARIS).strftime(called): row.used
        for row in rows
        if row.used
    }
    assert found == expected
    assert {row.accuracy for row in rows} == {"exact"}


# -- as OAR itself counts -----------------------------------------------------------------------


@pytest.fixture(scope="module")
def real_oar(server: Server) -> Iterator[Engine]:
    """What a real OAR 2.5.9 left."""
    with fresh_database(server) as database:
        engine = create_engine(database.url)
        with engine.begin() as connection:
            fill(connection)
        yield engine
        engine.dispose()


@pytest.mark.parametrize("window", WINDOWS)
def test_whole_windows_are_those_that_oarstat_counts(real_oar: Engine, window: int) -> None:
    """``oarstat --accounting "a, b"`` sums the rows that end after a and begin before b.

    To OAR a window ends with its last second: ``window_stop`` is ``window_start + W - 1``.
    """
    site = at_site(real_oar, "classic", window).accounting
    rows = oaraccounting(window)
    starts = sorted({start for start, *_ in rows})
    random = Random(window)
    near = [start + off for start in starts[:: len(starts) // 6 + 1] for off in (-1, 0, 1)]
    near += [starts[-1] + window + off for off in (-2, -1, 0, 1)]
    pairs = [(a, b) for a in near for b in near if a < b]
    free = [random.randint(starts[0] - window, starts[-1] + 2 * window) for _ in range(20)]
    pairs = random.sample(pairs, min(30, len(pairs))) + [
        (min(a, b), max(a, b)) for a, b in pairwise(free) if a != b
    ]
    for a, b in pairs:
        counted: defaultdict[tuple[str, ...], list[int]] = defaultdict(lambda: [0, 0])
        for (window_start, *names), (asked, used) in rows.items():
            window_stop = window_start + window - 1
            if window_stop > a and window_start < b:
                counted[tuple(names)][0] += asked
                counted[tuple(names)][1] += used
        found = site.usage(("user", "project", "queue"), ("resource",), a, b, whole_windows=True)
        assert {row.group: [row.asked, row.used] for row in found.rows} == {
            names: amounts for names, amounts in counted.items() if any(amounts)
        }, (a, b)


def test_a_sum_that_does_not_fit_is_told_and_leaves_the_transaction_alone(engine: Engine) -> None:
    """Two amounts of one account, each of which fits; what they are before they are added does."""
    site, _ = one_job(engine)
    for _ in range(2):
        adjust(site, "bob", (T0, T0 + DAY), (0, 2**62 + 1))
    with pytest.raises(AmountOverflow, match=r"adds up to more than 63 bits; ask for less"):
        site.usage("user", "resource")
    with site.engine.connect() as connection:
        through = site.through(connection)
        with pytest.raises(AmountOverflow, match=r"adds up to more than 63 bits; ask for less"):
            through.usage("user", "resource")
        (row,) = through.usage("user", "resource", stop=T0 + DAY // 2).rows
        assert row.adjusted_used == 2 * ((2**62 + 1) // 2)
    adjust(site, "bob", (T0, T0 + DAY), (0, -(2**62)))
    (row,) = site.usage("user", "resource", T0).rows
    assert row.adjusted_used == 2**62 + 2


def test_a_job_that_is_taken_back_is_nothing_as_of_any_instant(engine: Engine) -> None:
    """What it asked for counts as a whole once it has begun, and so does that it is taken back."""
    site, oar = one_job(engine)
    oar.add_job(user="alice", cores=2, start=T0 + HOUR, stop=T0 + 5 * HOUR, walltime=10 * HOUR)
    site.catch_up()
    site.adjust_jobs(JobFilter(jobs=(2,)), reason="it crashed", author="root")
    for as_of in (None, T0, T0 + HOUR + 1, T0 + 3 * HOUR, T0 + 8 * HOUR, T0 + 9 * DAY):
        for stop in (T0 + 2 * HOUR, T0 + 4 * HOUR, T0 + 20 * HOUR):
            for by in (("user",), ("user", "job")):
                given = site.usage(by, "resource", T0, stop, as_of=as_of, where={"user": "alice"})
                assert [(row.asked, row.used) for row in given.rows if row.group] in (
                    [],
                    [(0, 0)],
                ), (as_of, stop, by)


def test_the_least_sum_that_fits_is_told(engine: Engine) -> None:
    site, _ = one_job(engine)
    adjust(site, "bob", (T0 - 9 * DAY, T0 - 8 * DAY), (0, -(2**63 - 1)))
    (row,) = site.usage("user", "resource", stop=T0).rows
    assert row.used == -(2**63 - 1)


def test_the_farthest_instants_are_answered(engine: Engine) -> None:
    site, _ = one_job(engine)
    for by in ("user", "job"):
        (row,) = site.usage(by, "resource", -FARTHEST, FARTHEST, as_of=FARTHEST).rows
        assert row.used == DAY


@pytest.mark.databases("sqlite")
def test_no_statement_names_more_windows_than_so_many(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of weeks of Paris, an hour at each end is read of windows of a minute: 60 of them."""
    site, _ = one_job(engine, "window = 60\n")

    def weeks() -> tuple[Usage, ...]:
        span = (T0 - 30 * DAY, T0 + 30 * DAY)
        report = site.usage("user", "resource", *span, bucket="week", timezone="Europe/Paris")
        return report.rows

    whole = weeks()
    assert whole
    named: list[int] = []
    starts = prorated.EqualParts.starts

    def counted(steps: prorated.EqualParts, length: int) -> list[int]:
        found = starts(steps, length)
        named.append(len(found))
        return found

    monkeypatch.setattr(prorated.EqualParts, "starts", counted)
    for at_once, expected in ((1, 0), (59, 0), (60, 60), (121, 120)):
        named.clear()
        monkeypatch.setattr(prorated, "WINDOWS_AT_ONCE", at_once)
        assert weeks() == whole
        assert max(named, default=0) == expected

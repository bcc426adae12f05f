"""Usage for any bounds, in any buckets, by any key, against a count second by second."""

import tempfile
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from sqlalchemy import Engine, create_engine, delete

from oar_accounting import Accounting, BadSpan, UnknownName, Visible
from oar_accounting.database.dialects import file_url
from oar_accounting.ledger import schema
from tests.examples import examples
from tests.small_oar import DAY, HOUR, T0, Clock, SmallOar, opened, stopped_clock

Amounts = dict[tuple[str, ...], tuple[int, int]]

MEMORY = '[metrics.memory]\nunit = "MiB·s"\nsum = "mem"\nper = "network_address"\n'


@pytest.fixture(autouse=True)
def clock() -> Iterator[Clock]:
    """The verbs' clock stands still, long after everything."""
    with stopped_clock() as stopped:
        stopped.now = T0 + 100 * DAY
        yield stopped


@dataclass(frozen=True, kw_only=True)
class Ran:
    """A job, in seconds from `T0`. Of one that has not ended *length* is how long it has run."""

    user: str = "bob"
    start: int = 0
    length: int = HOUR
    walltime: int = 2 * HOUR
    cores: int = 1
    pause: tuple[int, int] | None = None  #: from its start
    state: str = "Terminated"
    types: tuple[str, ...] = ()
    project: str = "default"

    def add_to(self, oar: SmallOar) -> int:
        """Add it to an OAR; its id."""
        start = T0 + self.start
        pauses = [] if self.pause is None else [(start + self.pause[0], start + self.pause[1])]
        return oar.add_job(
            user=self.user,
            project=self.project,
            start=start,
            stop=0 if self.is_open else start + self.length,
            walltime=self.walltime,
            cores=self.cores,
            state=self.state,
            pauses=pauses,
            types=self.types,
        )

    @property
    def is_open(self) -> bool:
        """True where it has not ended."""
        return self.state == "Running"

    def used_within(self, start: int, stop: int, as_of: int | None) -> int:
        """Core-seconds that it used in ``[start, stop)``, seconds from `T0`."""
        if self.is_open and as_of is None:
            return 0
        end = stop if self.is_open else self.start + self.length
        end = end if as_of is None else min(end, as_of)
        seconds = _overlap(self.start, end, start, stop)
        if self.pause is not None:
            a, b = (self.start + at for at in self.pause)
            seconds -= _overlap(a, min(b, end), start, stop)
        return seconds * self.cores

    def asked_within(self, start: int, stop: int, as_of: int | None) -> int:
        """Core-seconds that it asked for there."""
        if (self.is_open and as_of is None) or (as_of is not None and self.start >= as_of):
            return 0
        if not self.is_open and not self.length:
            return 0
        return _overlap(self.start, self.start + self.walltime, start, stop) * self.cores


def _overlap(a: int, b: int, c: int, d: int) -> int:
    return max(0, min(b, d) - max(a, c))


@st.composite
def jobs(draw: st.DrawFn) -> Ran:
    """A job within some days of `T0`."""
    length = draw(st.integers(0, 3 * DAY))
    pause = None
    if draw(st.booleans()) and length > 2:
        a = draw(st.integers(1, length - 1))
        pause = (a, draw(st.integers(a, length)))
    return Ran(
        user=draw(st.sampled_from(["alice", "bob", "Bob", "l'eau"])),
        start=draw(st.integers(-3 * DAY, 2 * DAY)),
        length=length,
        walltime=draw(st.integers(0, 2 * DAY)),
        cores=draw(st.integers(1, 8)),
        pause=pause,
        state=draw(st.sampled_from(["Terminated", "Terminated", "Error", "Running"])),
    )


def expected(some: Sequence[Ran], start: int, stop: int, as_of: int | None) -> Amounts:
    """Asked and used by user in ``[start, stop)``, seconds from `T0`."""
    found: defaultdict[tuple[str, ...], list[int]] = defaultdict(lambda: [0, 0])
    for job in some:
        found[(job.user,)][0] += job.asked_within(start, stop, as_of)
        found[(job.user,)][1] += job.used_within(start, stop, as_of)
    return {user: (asked, used) for user, (asked, used) in found.items() if asked or used}


def answered(site: Accounting, start: int, stop: int, **given: Any) -> Amounts:
    """The same as the library has it."""
    given = {"by": ("user",), "metrics": ("resource",), **given}
    report = site.usage(start=T0 + start, stop=T0 + stop, **given)
    assert all(row.accuracy == "exact" for row in report.rows)
    return {row.group: (row.asked, row.used) for row in report.rows}


class Scratch:
    """A site on SQLite for one example."""

    def __init__(self, some: Sequence[Ran], window: int) -> None:
        self._directory = tempfile.TemporaryDirectory()
        self.engine = create_engine(file_url(Path(self._directory.name) / "oar.db"))
        oar = SmallOar(self.engine)
        for job in some:
            job.add_to(oar)
        self.site = opened(self.engine, f"window = {window}\n" + MEMORY)
        self.site.catch_up()

    def __enter__(self) -> Accounting:
        return self.site

    def __exit__(self, *_: object) -> None:
        self.site.close()
        self.engine.dispose()
        self._directory.cleanup()


SPANS = st.lists(st.integers(-4 * DAY, 5 * DAY), min_size=2, max_size=2, unique=True).map(sorted)
WINDOWS = st.sampled_from([900, HOUR, 7_000, DAY, 2 * DAY])
AS_OF = st.none() | st.integers(-4 * DAY, 5 * DAY)


@settings(max_examples=examples(25))
@given(
    some=st.lists(jobs(), max_size=6),
    window=WINDOWS,
    spans=st.lists(SPANS, min_size=1, max_size=4),
    as_of=AS_OF,
)
@example(
    some=[Ran(start=-DAY, length=3 * DAY), Ran(start=5, length=7, state="Running")],
    window=DAY,
    spans=[[50_829, 207_000]],
    as_of=DAY,
)
def test_any_span_counts_exactly_its_seconds(
    some: list[Ran], window: int, spans: list[list[int]], as_of: int | None
) -> None:
    instant = None if as_of is None else T0 + as_of
    with Scratch(some, window) as site:
        for start, stop in spans:
            wanted = expected(some, start, stop, as_of)
            assert answered(site, start, stop, as_of=instant) == wanted
            by_job = answered(site, start, stop, as_of=instant, by=("user", "state"))
            summed: defaultdict[tuple[str, ...], list[int]] = defaultdict(lambda: [0, 0])
            for (user, _), amounts in by_job.items():
                summed[(user,)] = [a + b for a, b in zip(summed[(user,)], amounts, strict=True)]
            assert {user: tuple(amounts) for user, amounts in summed.items()} == wanted


@settings(max_examples=examples(15))
@given(
    some=st.lists(jobs(), max_size=5),
    window=WINDOWS,
    cuts=st.lists(st.integers(-4 * DAY, 5 * DAY), min_size=3, max_size=6, unique=True).map(sorted),
    bucket=st.sampled_from([977, HOUR, 5 * HOUR, DAY, 3 * DAY]),
)
def test_parts_add_up_however_time_is_cut(
    some: list[Ran], window: int, cuts: list[int], bucket: int
) -> None:
    start, stop = cuts[0], cuts[-1]
    with Scratch(some, window) as site:
        whole = answered(site, start, stop)
        assert _together(answered(site, a, b) for a, b in pairwise(cuts)) == whole
        rows = site.usage(("user",), ("resource",), T0 + start, T0 + stop, bucket=bucket).rows
        assert all((row.start or 0) < (row.stop or 0) for row in rows)
        assert _together({row.group: (row.asked, row.used)} for row in rows) == whole
        for row in rows:
            a, b = (row.start or 0) - T0, (row.stop or 0) - T0
            assert expected(some, a, b, None)[row.group] == (row.asked, row.used)


def _together(parts: "Iterator[Amounts]") -> Amounts:
    found: defaultdict[tuple[str, ...], list[int]] = defaultdict(lambda: [0, 0])
    for part in parts:
        for group, (asked, used) in part.items():
            found[group][0] += asked
            found[group][1] += used
    return {group: (asked, used) for group, (asked, used) in found.items()}


# -- on every database ------------------------------------------------------------------------

SOME = (
    Ran(user="alice", start=-DAY - 100, length=2 * DAY, walltime=3 * DAY, cores=4),
    Ran(user="bob", start=100, length=50_000, walltime=60_000, cores=2, pause=(1_000, 2_000)),
    Ran(user="Bob", start=DAY - 7, length=14, walltime=10, cores=8, types=("besteffort",)),
    Ran(user="bob", start=-3 * DAY, length=40 * DAY, walltime=40 * DAY, cores=1),
    Ran(user="l'eau", start=200, state="Running", walltime=DAY, cores=3),
    Ran(user="alice", start=70_000, length=0, walltime=600, cores=8, state="Error"),
)


@pytest.fixture
def site(engine: Engine) -> Iterator[Accounting]:
    oar = SmallOar(engine)
    for job in SOME:
        job.add_to(oar)
    accounting = opened(engine, MEMORY)
    accounting.catch_up()
    yield accounting


@pytest.mark.parametrize("as_of", [None, 50_000, 30 * DAY])
@pytest.mark.parametrize(
    ("start", "stop"),
    [
        (50_829, 207_000),
        (0, DAY),
        (0, 1),
        (50_000, 50_001),
        (-2 * DAY + 1, 60 * DAY - 1),
        (DAY - 7, DAY),
    ],
)
def test_spans_off_the_bounds_of_windows(
    site: Accounting, start: int, stop: int, as_of: int | None
) -> None:
    instant = None if as_of is None else T0 + as_of
    wanted = expected(SOME, start, stop, as_of)
    assert answered(site, start, stop, as_of=instant) == wanted
    by_type = answered(site, start, stop, as_of=instant, by=("type", "user"))
    assert {(user,): amounts for (_, user), amounts in by_type.items()} == wanted


def test_what_was_asked_for_at_an_instant_does_not_change_when_jobs_end(
    engine: Engine, clock: Clock
) -> None:
    """The same question gives the same answer before and after the pass that sees the end."""
    oar = SmallOar(engine)
    number = oar.add_job(user="alice", start=T0, state="Running", walltime=DAY, cores=4)
    accounting = opened(engine)
    clock.now = T0 + 5 * HOUR
    accounting.catch_up()
    instant = T0 + 5 * HOUR
    before = accounting.usage(("user",), start=T0 + 99, stop=T0 + DAY, as_of=instant)
    assert [(row.asked, row.used) for row in before.rows] == [
        (4 * (DAY - 99), 4 * (5 * HOUR - 99)),
        (1 * (DAY - 99), 1 * (5 * HOUR - 99)),
    ]
    oar.update_job(number, state="Terminated", stop_time=T0 + 7 * HOUR)
    clock.now = T0 + 8 * HOUR
    accounting.catch_up()
    after = accounting.usage(("user",), start=T0 + 99, stop=T0 + DAY, as_of=instant)
    assert after.rows == before.rows


def test_open_jobs_are_told_where_they_do_not_count(site: Accounting) -> None:
    assert site.usage().open_jobs == 1
    assert site.usage(as_of=T0 + DAY).open_jobs == 0


def test_an_empty_span_and_a_wrong_key_are_told(site: Accounting) -> None:
    with pytest.raises(BadSpan, match=r"the span from 5 \(1970-01-01 00:00:05 UTC\) to 5 "):
        site.usage(start=5, stop=5)
    with pytest.raises(UnknownName, match=r"user 'allice' is not recorded; did you mean 'alice'"):
        site.usage(where={"user": "allice"})
    with pytest.raises(UnknownName, match="state 'Dead' is not recorded"):
        site.usage(where={"state": ["Dead"]})
    with pytest.raises(
        UnknownName, match="known keys are user, project, queue, cluster, site, job"
    ):
        site.usage(where={"colour": "red"})


def test_filters_and_keys_of_jobs(site: Accounting) -> None:
    span: dict[str, Any] = {"start": T0 + 50_829, "stop": T0 + 207_000}
    every = {row.group: row.used for row in site.usage(("user",), ("resource",), **span).rows}
    for user in ("alice", "bob", "Bob"):
        rows = site.usage(("user",), ("resource",), where={"user": user}, **span).rows
        assert {row.group: row.used for row in rows} == {(user,): every[(user,)]}
    rows = site.usage(("job",), ("resource",), where={"job": [2, "4"]}, **span).rows
    assert {row.group[0]: row.used for row in rows if row.used} == {
        str(n): job.used_within(50_829, 207_000, None)
        for n, job in enumerate(SOME, 1)
        if n in (2, 4) and job.used_within(50_829, 207_000, None)
    }
    sizes = site.usage(("size",), ("resource",), **span).rows
    assert [row.group[0] for row in sizes] == ["1", "2-4", "5-8"]
    assert sum(row.used for row in sizes) == sum(every.values())
    types = site.usage(("type",), ("resource",), where={"type": "besteffort"}, **span).rows
    assert [(row.group[0], row.used) for row in types] == [("besteffort", 14 * 8)]


def test_every_site_of_the_database(engine: Engine, site: Accounting) -> None:
    other = opened(engine, site="other")
    other.catch_up()
    one = {row.metric: row.used for row in site.usage(()).rows}
    rows = site.usage(("site",), ("resource",)).rows
    assert {row.group[0]: row.used for row in rows} == {
        site.settings.site: one["resource"],
        "other": one["resource"],
    }
    assert other.usage((), ("resource",), where={"site": "other"}).rows[0].used == one["resource"]


def test_buckets_reach_as_far_as_open_jobs_asked(site: Accounting) -> None:
    """The walltime of the one that runs ends after everything else, whatever the buckets."""
    open_job = SOME[4]
    instant = T0 + 60 * DAY
    for bucket in (None, "day", "month", 7 * DAY):
        rows = site.usage(("user",), ("resource",), as_of=instant, bucket=bucket).rows
        asked = sum(row.asked for row in rows if row.group == (open_job.user,))
        assert asked == open_job.walltime * open_job.cores
        assert sum(row.used for row in rows) == sum(
            job.used_within(-10 * DAY, 90 * DAY, 60 * DAY) for job in SOME
        )


@pytest.mark.parametrize("bucket", [None, "day", HOUR])
def test_a_stop_before_everything_leaves_nothing(
    site: Accounting, bucket: str | int | None
) -> None:
    assert site.usage(stop=T0 - 90 * DAY, bucket=bucket).rows == ()


def test_nobody_of_a_class_of_size_waited(site: Accounting) -> None:
    assert site.waiting(where={"size": "1025+"}) == []
    with pytest.raises(UnknownName, match=r"^type 'nonsense' is not recorded"):
        site.waiting(("user",), where={"type": "nonsense"})


@pytest.mark.parametrize("given", [{"start": 2**70}, {"stop": 2**63}, {"as_of": -(2**55) - 1}])
def test_instants_beyond_all_numbers_are_told(site: Accounting, given: dict[str, int]) -> None:
    with pytest.raises(BadSpan, match="beyond any calendar"):
        site.usage(**given)  # type: ignore[arg-type]


@pytest.mark.parametrize("number", ["007", "1" * 5000, "٣", "-", "1e3"])
def test_the_number_of_a_job_is_written_in_one_way(site: Accounting, number: str) -> None:
    with pytest.raises(UnknownName, match="the number of a job was expected"):
        site.jobs(where={"job": number})


def test_questions_may_be_asked_in_the_transaction_of_a_caller(
    engine: Engine, site: Accounting
) -> None:
    """What the caller has changed and not yet committed is seen, and still theirs to undo."""
    before = site.usage(("user",)).rows
    with engine.connect() as connection:
        mine = site.through(connection)
        assert mine.usage(("user",)).rows == before
        assert mine.jobs().jobs == site.jobs().jobs
        connection.rollback()
        with connection.begin() as transaction:
            connection.execute(delete(schema.totals))
            connection.execute(delete(schema.days))
            assert mine.usage(("user",)).rows == ()
            assert connection.in_transaction()
            transaction.rollback()
    assert site.usage(("user",)).rows == before


# -- who is told ------------------------------------------------------------------------------

KEYS = ("user", "project", "queue", "cluster", "job", "type", "state", "size")


@settings(max_examples=examples(25))
@given(
    some=st.lists(jobs(), max_size=6),
    user=st.sampled_from(["alice", "bob", "Bob", "mallory"]),
    managed=st.sets(st.sampled_from(["a", "b"])),
    projects=st.lists(st.sampled_from("abc"), min_size=6, max_size=6),
    by=st.lists(st.sampled_from(KEYS), max_size=3, unique=True),
    where=st.dictionaries(
        st.sampled_from(["user", "project", "state", "size"]),
        st.sampled_from(["alice", "bob", "Bob", "l'eau", "a", "b", "c", "Error", "1", "2-4", ""]),
        max_size=2,
    ),
    span=SPANS,
    as_of=AS_OF,
)
def test_what_is_not_visible_is_as_if_it_were_not_recorded(  # noqa: PLR0913 - what is drawn
    some: list[Ran],
    user: str,
    managed: set[str],
    projects: list[str],
    by: list[str],
    where: dict[str, str],
    span: list[int],
    as_of: int | None,
) -> None:
    """Every answer, and every error, is that of a site on which nothing else has happened.

    Nothing that anybody asks can then tell what they may not see.
    """
    placed = [replace(job, project=p) for job, p in zip(some, projects, strict=False)]
    seen = [job.user == user or job.project in managed for job in placed]
    # What is not theirs to see holds nothing on the other site, but has its number.
    alone = [
        j
        if s
        else replace(j, user=user, project="none", length=0, walltime=0, state="Error", cores=1)
        for j, s in zip(placed, seen, strict=True)
    ]
    viewer = Visible(user=user, projects=frozenset(managed))
    start, stop = T0 + span[0], T0 + span[1]
    instant = None if as_of is None else T0 + as_of
    with Scratch(placed, DAY) as site, Scratch(alone, DAY) as only:
        hidden = {n for n, visible in enumerate(seen, 1) if not visible}

        def told(accounting: Accounting) -> list[Any]:
            given: dict[str, Any] = {"where": where, "start": start, "stop": stop}
            if accounting is site:
                given["visible_to"] = viewer
            late = {**given, "as_of": instant}
            answers: list[Any] = [
                _said(lambda: accounting.usage(by, **late).rows),
                _said(lambda: accounting.usage(by, bucket="day", **late).rows),
                _said(lambda: accounting.usage(by, **late).open_jobs),
                _said(lambda: [j for j in accounting.jobs(**late).jobs if j.job_id not in hidden]),
                _said(lambda: accounting.efficiency(by, **given)),
                _said(lambda: accounting.sizes(by, **late)),
            ]
            return answers

        assert told(site) == told(only)
        listed = site.jobs(visible_to=viewer).jobs
        assert {job.job_id for job in listed} == {n for n, visible in enumerate(seen, 1) if visible}


def _said(question: Callable[[], Any]) -> Any:
    """The answer; None where it is empty, or a name is not known: to whom asks that is one."""
    try:
        return question() or None
    except UnknownName:
        return None

"""Jobs one by one and page by page, as OAR has them, and the index by which they are found."""

import tempfile
import tracemalloc
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sqlalchemy import Engine, create_engine

from oar_accounting import Accounting, BadSpan, UnknownName
from oar_accounting.database.dialects import file_url
from oar_accounting.ledger import job_index, schema
from oar_accounting.ledger.ledger import Ledger
from oar_accounting.reports.jobs import MOMENTS, Moment
from oar_accounting.reports.records import HeldMetric, JobPage, RecordedJob
from oar_accounting.usage.job_keys import Sizes
from tests.database.recording.test_retired import install_anew, three_jobs
from tests.examples import examples
from tests.small_oar import DAY, HOUR, T0, Clock, SmallOar, opened, stopped_clock
from tests.strategies import Job, Share, open_ledger, post_all

on_sqlite = pytest.mark.databases("sqlite")

DEFAULT = "default"


@pytest.fixture(autouse=True)
def clock() -> Iterator[Clock]:
    """The verbs' clock stands still, long after everything."""
    with stopped_clock() as stopped:
        stopped.now = T0 + 100 * DAY
        yield stopped


@contextmanager
def scratch() -> Iterator[Engine]:
    """An empty database of SQLite."""
    with tempfile.TemporaryDirectory() as directory:
        engine = create_engine(file_url(Path(directory) / "oar.db"))
        yield engine
        engine.dispose()


# -- a small site -------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Plain:
    """A job as OAR has it. Of resources 1 to 4 and 5 to 8 are two nodes of alpha, 9 to 12 beta."""

    user: str
    project: str = DEFAULT
    queue: str = DEFAULT
    resources: Sequence[int] = ()
    submitted: int
    start: int = 0
    stop: int = 0
    walltime: int = 2 * HOUR
    state: str = "Terminated"
    types: tuple[str, ...] = ()
    pause: tuple[int, int] | None = None
    name: str = ""
    exit_code: int | None = None
    reservation: str = "None"
    nodes: str = ""  #: as they are to be told

    def add_to(self, oar: SmallOar) -> int:
        """Add it to an OAR; its id."""
        return oar.add_job(
            user=self.user,
            project=self.project,
            queue=self.queue,
            resources=self.resources,
            submission=self.submitted,
            start=self.start,
            stop=self.stop,
            walltime=self.walltime,
            state=self.state,
            types=self.types,
            pauses=[] if self.pause is None else [self.pause],
            moldable=bool(self.resources),
            job_name=self.name,
            exit_code=self.exit_code,
            reservation=self.reservation,
        )

    def lasted(self, now: int) -> int:
        """How long it ran, or has run."""
        return max((now if self.is_open else self.stop) - self.start, 0)

    @property
    def is_open(self) -> bool:
        """True where it runs."""
        return self.state == "Running"

    @property
    def ran(self) -> bool:
        """True where it held something for a second, or does."""
        return self.is_open or (self.start > 1 and self.stop > self.start)

    @property
    def holds(self) -> bool:
        """True where that is counted: within a container the container is."""
        return self.ran and not any(each.startswith("inner=") for each in self.types)

    def held(self, metric: str, cluster: str | None = None) -> int:
        """How much of a metric it holds, on one cluster or on all."""
        nodes = [(number - 1) // 4 for number in self.resources]
        some = [node for node in nodes if cluster in (None, "beta" if node == 2 else "alpha")]
        return len(some if metric == "resource" else set(some)) if self.holds else 0

    def seconds(self, start: int, stop: int, as_of: int | None = None) -> int:
        """How long it used within a span what it held."""
        end = (as_of if as_of is not None else self.start) if self.is_open else self.stop
        seconds = overlap(self.start, end, start, stop)
        if self.pause is not None:
            seconds -= overlap(self.pause[0], min(self.pause[1], end), start, stop)
        return seconds

    def asked(self, start: int, stop: int) -> int:
        """How many seconds it had asked for within a span."""
        return overlap(self.start, self.start + self.walltime, start, stop) if self.ran else 0

    @property
    def clusters(self) -> list[str]:
        """Where it was."""
        return [name for name in ("alpha", "beta") if self.held("resource", name)]

    def label(self) -> str:
        """Its class of size, as `DEFAULT_SIZES` has it."""
        size = self.held("resource")
        return "0" if not size else "1" if size == 1 else "2-4" if size < 5 else "5-8"

    def told(self, number: int, as_of: int | None = None) -> RecordedJob:
        """What is to be told of it."""
        ever = (-(2**40), 2**40)
        metrics = tuple(
            HeldMetric(
                metric=name,
                unit=f"{name}·s",
                scale=1,
                asked=self.held(name) * self.asked(*ever),
                used=self.held(name) * self.seconds(*ever, as_of),
            )
            for name in ("resource", "node")
            if self.holds
        )
        return RecordedJob(
            job_id=number,
            user=self.user,
            project=self.project,
            queue=self.queue,
            state=self.state,
            types=tuple(sorted(self.types)),
            submitted=self.submitted,
            started=self.start if self.ran else None,
            ended=self.stop if self.ran and not self.is_open else None,
            walltime=self.walltime if self.resources else None,
            waited=max(self.start - self.submitted, 0) if self.ran else None,
            size=None if self.state == "Waiting" else self.held("resource"),
            metrics=metrics,
            purged=False,
            ran=self.lasted(T0 + 100 * DAY if as_of is None else as_of) if self.ran else None,
            name=self.name,
            exit_code=self.exit_code,
            nodes=self.nodes,
            reservation=self.reservation,
        )


def overlap(a: int, b: int, c: int, d: int) -> int:
    """How long two spans are at the same time."""
    return max(0, min(b, d) - max(a, c))


def ran(user: str, day: int, length: int, resources: Sequence[int], **more: Any) -> Plain:
    """A job that began some days after `T0`, nine minutes after it was submitted."""
    start = T0 + day * DAY
    usual = {"submitted": start - 540, "start": start, "stop": start + length}
    return Plain(user=user, resources=resources, **{**usual, **more})


#: Alice's laboratory is LIG until half an hour after `T0`, in the middle of her first job.
MOVE = T0 + HOUR // 2
FOUR = T0 + 4 * DAY
FIVE = T0 + 5 * DAY
SIX = T0 + 6 * DAY
SOME: dict[int, Plain] = dict(
    enumerate(
        [
            ran("alice", 0, HOUR, range(1, 5), project="physics", types=("deploy", "allow=x"),
                name="train", exit_code=0, nodes="alpha-1"),
            ran("bob", 1, 3 * HOUR, [8, 9, 10], queue="besteffort", types=("besteffort",),
                name="l'été\t\\N", exit_code=768, nodes="alpha-2,beta-1"),
            ran("alice", 2, HOUR // 2, [1], project="chemistry", walltime=HOUR, state="Error",
                nodes="alpha-1"),
            ran("carol", 3, HOUR, range(1, 9), types=("container",), nodes="alpha-[1-2]",
                reservation="Scheduled"),
            ran("carol", 3, HOUR // 3, [1, 2], types=("inner=4",), nodes="alpha-1", exit_code=9),
            ran("bob", 4, -4 * DAY, range(1, 5), state="Running", pause=(FOUR + 100, FOUR + 300),
                stop=0, walltime=DAY, nodes="alpha-1", name="x" * 100),
            Plain(user="dave", submitted=FIVE, state="Waiting", name="NULL"),
            Plain(user="dave", submitted=FIVE + 1, state="Error"),
            ran("bob", 5, 0, [1], state="Error", nodes="alpha-1"),
            ran("zoë 😀", 6, 600, [9], submitted=SIX + 100, project="l'eau", nodes="beta-1"),
            ran("alice", 7, 5 * DAY, [2, 3, 9], queue="besteffort", walltime=6 * DAY,
                pause=(T0 + 8 * DAY, T0 + 9 * DAY), nodes="alpha-1,beta-1"),
        ],
        1,
    )
)  # fmt: skip


def lay(engine: Engine) -> Accounting:
    """These jobs, recorded."""
    oar = SmallOar(engine)
    oar.add_resources(4, host="beta-1", cluster="beta")
    for number, job in SOME.items():
        assert job.add_to(oar) == number
    site = opened(engine)
    assert site.catch_up().problems == ()
    site.import_attributes(
        f"user,laboratory,valid_from,valid_to\nalice,LIG,,{MOVE}\nalice,IRIG,{MOVE},\ncarol,LIG,,\n"
    )
    return site


@pytest.fixture
def site(engine: Engine) -> Accounting:
    """The jobs above, recorded."""
    return lay(engine)


@pytest.fixture(scope="module")
def on_disk() -> Iterator[Accounting]:
    """The same on SQLite, for many questions."""
    with scratch() as engine, stopped_clock() as stopped:
        stopped.now = T0 + 100 * DAY
        yield lay(engine)


def ids(page: JobPage) -> list[int]:
    """The numbers of the jobs of a page."""
    return [job.job_id for job in page.jobs]


# -- jobs ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("as_of", [None, FOUR - 5, FOUR + 50, FOUR + 200, FOUR + 1_000])
def test_a_job_is_told_as_oar_has_it(site: Accounting, as_of: int | None) -> None:
    """Also one that runs, and was suspended: what it used by an instant, or nothing."""
    page = site.jobs(as_of=as_of)
    expected = [
        job.told(number, None if as_of is None else max(as_of, job.start))
        for number, job in SOME.items()
    ]
    assert list(page.jobs) == expected
    assert page.after is None


def test_a_job_is_told_in_the_metrics_that_are_wanted(site: Accounting) -> None:
    (only,) = site.jobs(metrics=["node"], where={"job": 2}).jobs
    assert [(each.metric, each.asked, each.used, each.unused) for each in only.metrics] == [
        ("node", 2 * 2 * HOUR, 2 * 3 * HOUR, -2 * HOUR)
    ]
    assert only.size == 3
    (sized,) = site.jobs(where={"job": "2"}, sizes=Sizes(metric="node", bounds=(1, 2))).jobs
    assert sized.size == 2


FILTERS: list[tuple[dict[str, Any], Callable[[Plain], bool]]] = [
    ({"user": "alice"}, lambda job: job.user == "alice"),
    ({"user": ["zoë 😀", "dave"]}, lambda job: job.user in ("zoë 😀", "dave")),
    ({"project": "l'eau"}, lambda job: job.project == "l'eau"),
    ({"queue": "besteffort"}, lambda job: job.queue == "besteffort"),
    ({"cluster": "beta"}, lambda job: "beta" in job.clusters),
    ({"cluster": "alpha"}, lambda job: "alpha" in job.clusters),
    ({"cluster": ""}, lambda job: not job.clusters),
    ({"state": "Error"}, lambda job: job.state == "Error"),
    ({"state": ["Running", "Waiting"]}, lambda job: job.state in ("Running", "Waiting")),
    ({"type": "inner"}, lambda job: job.types == ("inner=4",)),
    ({"type": "inner=4"}, lambda job: job.types == ("inner=4",)),
    ({"type": "deploy"}, lambda job: "deploy" in job.types),
    ({"type": ["", "container"]}, lambda job: job.types in ((), ("container",))),
    ({"size": "2-4"}, lambda job: job.label() == "2-4"),
    ({"size": ["1", "5-8"]}, lambda job: job.label() in ("1", "5-8")),
    ({"size": "0"}, lambda job: job.label() == "0"),
    ({"laboratory": "LIG"}, lambda job: job.user == "carol" or job.start == T0),
    ({"laboratory": "IRIG"}, lambda job: job.user == "alice" and job.start > T0),
    ({"laboratory": ""}, lambda job: job.user not in ("alice", "carol")),
    ({"user": "alice", "cluster": "beta", "size": "2-4"}, lambda job: job.start == T0 + 7 * DAY),
    ({"user": "alice", "state": "Running"}, lambda job: False),
]


@pytest.mark.parametrize(("where", "chosen"), FILTERS, ids=[str(each) for each, _ in FILTERS])
def test_jobs_are_chosen_by_each_key(
    on_disk: Accounting, where: dict[str, Any], chosen: Callable[[Plain], bool]
) -> None:
    """By an attribute as it was when the job started; by a cluster where it has a part."""
    expected = [number for number, job in SOME.items() if chosen(job)]
    assert ids(on_disk.jobs(where=where)) == expected
    assert [job.job_id for job in on_disk.each_job(where=where, at_once=2)] == expected


def test_jobs_are_chosen_by_each_key_on_every_database(site: Accounting) -> None:
    for where, chosen in FILTERS:
        expected = [number for number, job in SOME.items() if chosen(job)]
        assert ids(site.jobs(where=where)) == expected, where
    assert ids(site.jobs(where={"job": [3, "1", 99]})) == [1, 3]


def lies(job: Plain, moment: Moment, start: int, stop: int) -> bool:
    """True where the moment of the job lies within ``[start, stop)``."""
    if moment == "submitted":
        return start <= job.submitted < stop
    if not job.ran:
        return False
    if moment == "started":
        return start <= job.start < stop
    if moment == "ended":
        return not job.is_open and start <= job.stop < stop
    return job.start < stop and (job.is_open or job.stop > start)


@pytest.mark.parametrize("moment", MOMENTS)
def test_the_moment_of_a_job_lies_within_half_open_bounds(site: Accounting, moment: Moment) -> None:
    """At the second where something of a job happens, just before it and just after it."""
    for number in (1, 2, 6, 8, 9, 11):
        job = SOME[number]
        for at in {job.submitted, job.start, job.stop} - {0}:
            for start, stop in ((at, at + 1), (at - 1, at), (at + 1, at + 2), (at - 9, at + 9)):
                found = ids(site.jobs(start=start, stop=stop, moment=moment))
                assert found == [n for n, j in SOME.items() if lies(j, moment, start, stop)]
    at = T0 + 5 * DAY
    ever = (-(2**50), 2**50)
    assert ids(site.jobs(start=at, moment=moment)) == [
        n for n, j in SOME.items() if lies(j, moment, at, ever[1])
    ]
    assert ids(site.jobs(stop=at, moment=moment)) == [
        n for n, j in SOME.items() if lies(j, moment, ever[0], at)
    ]
    every = [n for n, j in SOME.items() if moment == "ran" or lies(j, moment, *ever)]
    assert ids(site.jobs(moment=moment)) == every


def test_a_job_that_ends_as_the_span_begins_is_found_where_jobs_are_many(
    site: Accounting, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Bob's used more than he asked for, so that nothing of it lies within the span."""
    monkeypatch.setattr(job_index, "MOST_FOUND", 0)
    end = SOME[2].stop
    assert ids(site.jobs(start=end, stop=end + 1, moment="ended")) == [2]
    assert ids(site.jobs(start=end, stop=end + 1)) == []
    (row,) = site.efficiency((), ("resource",), end, end + 1)
    assert (row.jobs, row.used) == (1, 9 * HOUR)


def test_a_purged_job_is_listed_and_says_so(engine: Engine) -> None:
    site = lay(engine)
    before = site.jobs().jobs
    beta = ids(site.jobs(where={"cluster": "beta"}))
    # The eighth never started: it is purged, and has lost nothing.
    assert site.purge(T0 + 2 * DAY)[1] == 3
    listed = site.jobs().jobs
    assert [each.job_id for each in listed if each.purged] == [1, 2]
    assert tuple(replace(each, purged=False) for each in listed) == before
    assert ids(site.jobs(where={"cluster": "beta"})) == beta


def test_of_a_job_that_an_earlier_version_purged_no_size_is_told(engine: Engine) -> None:
    """What stays of it is what OAR had."""
    site = lay(engine)
    site.purge(T0 + 2 * DAY)
    with site.engine.begin() as connection:
        connection.execute(schema.purged.delete())
    first, _, third, *_ = listed = site.jobs().jobs
    assert [each.job_id for each in listed if each.purged] == [1, 2]
    assert (first.metrics, first.size) == ((), None)
    told = SOME[1].told(1)
    for name in ("user", "project", "queue", "state", "types", "submitted", "started", "ended"):
        assert getattr(first, name) == getattr(told, name)
    assert ids(site.jobs(where={"cluster": "beta"})) == [10, 11]
    assert third == SOME[3].told(3)
    assert ids(site.jobs(start=T0 + HOUR // 2, stop=T0 + HOUR)) == [1]


def test_jobs_of_before_their_numbers_were_retired_come_first(engine: Engine) -> None:
    old = three_jobs(engine)
    install_anew(old)
    old.add_job(2, user="eve", cores=8)
    old.accounting.retire(1)
    old.accounting.catch_up()
    jobs = list(old.accounting.each_job(at_once=1))
    assert [(job.job_id, job.user) for job in jobs] == [
        (-3, "carol"),
        (-2, "bob"),
        (-1, "alice"),
        (1, "eve"),
    ]
    assert ids(old.accounting.jobs(where={"job": [-2, 1]})) == [-2, 1]
    assert ids(old.accounting.jobs(start=T0 - 30 * DAY, stop=T0 - 29 * DAY)) == [-3, -2, -1]


@settings(max_examples=examples(30))
@given(
    limit=st.integers(1, 13),
    where=st.sampled_from([None, *(where for where, _ in FILTERS)]),
    moment=st.sampled_from(MOMENTS),
    bounds=st.none() | st.tuples(st.integers(-1, 12), st.integers(1, 9)),
)
def test_any_pages_give_each_job_once_and_ascending(
    on_disk: Accounting,
    limit: int,
    where: Mapping[str, Any] | None,
    moment: Moment,
    bounds: tuple[int, int] | None,
) -> None:
    given: dict[str, Any] = {"where": where, "moment": moment}
    if bounds is not None:
        given |= {"start": T0 + bounds[0] * DAY, "stop": T0 + sum(bounds) * DAY}
    every = on_disk.jobs(**given).jobs
    assert [job.job_id for job in every] == sorted({job.job_id for job in every})
    found: list[RecordedJob] = []
    page = on_disk.jobs(**given, limit=limit)
    while True:
        found += page.jobs
        assert len(page.jobs) == limit or page.after is None
        if page.after is None:
            break
        assert page.after == page.jobs[-1].job_id
        page = on_disk.jobs(**given, limit=limit, after=page.after)
    assert tuple(found) == every
    assert tuple(on_disk.each_job(**given, at_once=limit)) == every


def test_passes_between_pages_neither_skip_nor_repeat_a_job(engine: Engine, clock: Clock) -> None:
    """New jobs come, old ones are corrected, OAR deletes some: ended ones, and one that ran."""
    clock.now = T0 + 2 * DAY
    oar = SmallOar(engine)
    for number in range(1, 13):
        oar.add_job(cores=1 + number % 8, state="Running" if number in (2, 8) else "Terminated")
    site = opened(engine)
    site.catch_up()
    seen: list[RecordedJob] = []
    page = site.jobs(limit=3)
    for turn in range(20):
        seen += page.jobs
        if page.after is None:
            break
        if turn < 3:
            oar.add_job(user=f"new {turn}")
            oar.update_job((4, 7, 12)[turn], stop_time=T0 + 5 * HOUR, job_user="corrected")
            oar.remove_job(1 + turn)
            oar.remove_job(9 + turn)
            if turn == 1:
                oar.remove_job(8)
            report = site.catch_up(full=True)
            # Of a job that ran and is gone a pass says so.
            assert [each.job_id for each in report.problems] == [[], [2, 8], []][turn]
        page = site.jobs(limit=3, after=page.after)
    assert [job.job_id for job in seen] == list(range(1, 16))
    assert seen[7].state == "Vanished"
    assert [job.user for job in seen[12:]] == ["new 0", "new 1", "new 2"]
    assert [job.job_id for job in seen if job.user == "corrected"] == [4, 7, 12]


MANY = 20_000


@pytest.mark.slow
@on_sqlite
def test_many_jobs_are_read_page_by_page(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first page is read when the first job is asked for, and pages do not add up in memory."""
    SmallOar(engine)
    site = opened(engine)
    share = (Share(value="alpha", metric="resource", asked=2, used=2),)
    start = [T0 + 60 * number for number in range(MANY)]
    jobs = [
        Job(job_id=n, asked=((at, at + HOUR),), used=((at, at + 60 + n % 600),), shares=share)
        for n, at in enumerate(start, 1)
    ]
    site.catch_up()
    post_all(Ledger(site.engine, site.settings.site), [jobs[::2], jobs[1::2]])
    pages: list[object] = []
    read = site.jobs

    def counted(**given: Any) -> JobPage:
        pages.append(given)
        return read(**given)

    monkeypatch.setattr(site, "jobs", counted)
    every = site.each_job(at_once=500)
    assert pages == []
    assert next(every).job_id == 1
    assert len(pages) == 1
    # From here on all that is kept of what was read counts.
    tracemalloc.start()
    peaks, used, last = [], 0, 1
    for number, job in enumerate(every, 2):
        assert job.job_id == last + 1
        last = job.job_id
        used += job.metrics[0].used
        if number in (2_000, MANY):
            peaks.append(tracemalloc.get_traced_memory()[1])
    tracemalloc.stop()
    assert peaks[0] < 8_000_000
    assert peaks[1] < 1.2 * peaks[0]
    assert used == sum(2 * (60 + n % 600) for n in range(2, MANY + 1))
    assert len(pages) == MANY // 500


def test_what_cannot_be_asked_is_said(on_disk: Accounting) -> None:
    for limit in (0, -1, 10_001):
        with pytest.raises(BadSpan, match=f"^{limit} jobs at once: from 1 to 10000 were expected$"):
            on_disk.jobs(limit=limit)
    with pytest.raises(BadSpan, match="'end' is no moment of a job; expected ran, submitted, st"):
        on_disk.jobs(moment="end")  # type: ignore[arg-type]
    verbs: list[Callable[..., object]] = [
        on_disk.usage,
        on_disk.jobs,
        on_disk.efficiency,
        on_disk.sizes,
        on_disk.waiting,
    ]
    for verb in verbs:
        with pytest.raises(BadSpan, match=r"^the span from 5 .*is empty$"):
            verb(start=5, stop=5)
        with pytest.raises(BadSpan, match=r"^the span from 5 .*to 4 .*is empty$"):
            verb(start=5, stop=4)
        with pytest.raises(UnknownName, match=r"^user 'alcie' is .*; did you mean 'alice'"):
            verb(where={"user": ["bob", "alcie"]})
        for number in ("one", "--5", "9" * 30):
            with pytest.raises(UnknownName, match=f"^job '{number}': the number of a job"):
                verb(where={"job": number})
        with pytest.raises(UnknownName, match=r"^unknown metric 'cores'; recorded are resource"):
            verb(sizes=Sizes(metric="cores"))
    with pytest.raises(UnknownName, match="a job waits for all its resources, whatever their cl"):
        on_disk.waiting(("cluster",))
    with pytest.raises(BadSpan, match=r"^the span from 5 .*is empty$"):
        on_disk.project(DEFAULT, "resource", 5, 5)


# -- the index of jobs --------------------------------------------------------------------------


@st.composite
def indexed(draw: st.DrawFn) -> Job:
    """A job of any length, ended or not; what it holds is no matter."""
    start = T0 + draw(st.integers(-3 * DAY, 3 * DAY))
    walltime = draw(st.sampled_from([0, 1, 2**15, 2**16 - 1, 2**16, 3 * DAY, 400 * DAY]))
    length = draw(st.sampled_from([0, 1, 1_023, 1_024, 2**16, 2**17, 5 * DAY, 500 * DAY]))
    runs = draw(st.booleans())
    return Job(
        job_id=draw(st.integers(-30, 60).filter(bool)),
        state="Running" if runs else "Terminated",
        asked=((start, start + walltime),) if walltime else (),
        used=((start, start + length),) if length and not runs else (),
        running=start if runs else None,
    )


def found_ids(ledger: Ledger, start: int, stop: int) -> list[int]:
    """The ids that the index gives, in its order."""
    with ledger.reading() as (connection, site):
        assert site is not None
        blocks = job_index.job_blocks(connection, site.site_id, start, stop)
        return [number for block in blocks for number in block.tolist()]


def touching(jobs: Sequence[Job], start: int, stop: int) -> set[int]:
    """Those that asked for or held something in ``[start, stop)``."""
    ends = {
        job.job_id: max([b for _, b in (*job.asked, *job.used)], default=job.start) for job in jobs
    }
    return {
        job.job_id
        for job in jobs
        if job.start < stop and (ends[job.job_id] > start or not job.closed) and job.start
    }


def check_index(ledger: Ledger, jobs: Sequence[Job], start: int, stop: int) -> None:
    """The index gives them all, each once, ascending."""
    found = found_ids(ledger, start, stop)
    assert found == sorted(set(found))
    assert {*found} >= touching(jobs, start, stop)
    assert {*found} <= {job.job_id for job in jobs}


@settings(max_examples=examples(15))
@given(
    jobs=st.lists(indexed(), max_size=12, unique_by=lambda job: job.job_id),
    spans=st.lists(
        st.tuples(st.integers(-4 * DAY, 4 * DAY), st.integers(1, 4 * DAY)), min_size=1, max_size=5
    ),
    most=st.sampled_from([1, 3, 200_000]),
    at_once=st.integers(1, 7),
)
def test_the_index_finds_every_job_of_a_span(
    jobs: list[Job], spans: list[tuple[int, int]], most: int, at_once: int
) -> None:
    """Also where these are more than are found by it, and all are gone through instead."""
    with scratch() as engine, pytest.MonkeyPatch.context() as patch:
        patch.setattr(job_index, "MOST_FOUND", most)
        patch.setattr(job_index, "IDS_AT_ONCE", at_once)
        SmallOar(engine)
        opened(engine).close()
        ledger = open_ledger(Ledger(engine, "indexed"))
        post_all(ledger, [jobs])
        for begin, length in spans:
            check_index(ledger, jobs, T0 + begin, T0 + begin + length)


@pytest.mark.parametrize(("most", "at_once"), [(200_000, 10_000), (5, 4), (5, 1)])
def test_the_index_on_every_database(
    engine: Engine, monkeypatch: pytest.MonkeyPatch, most: int, at_once: int
) -> None:
    """Retired ids, which are below zero, are found alike; and what lasts long, however long ago."""
    monkeypatch.setattr(job_index, "MOST_FOUND", most)
    monkeypatch.setattr(job_index, "IDS_AT_ONCE", at_once)
    SmallOar(engine)
    opened(engine).close()
    ledger = open_ledger(Ledger(engine, "indexed"))
    jobs = [
        Job(
            job_id=nth if nth % 3 else -nth,
            asked=((T0 + nth * HOUR, T0 + nth * HOUR + walltime),),
            used=((T0 + nth * HOUR, T0 + nth * HOUR + length),),
        )
        for nth, (walltime, length) in enumerate(
            product((1, 2**16, 30 * DAY), (1, 2**10 - 1, 2**10, 2**20, 200 * DAY)), 1
        )
    ]
    jobs.append(Job(job_id=99, state="Running", asked=((T0, T0 + 9),), running=T0))
    post_all(ledger, [jobs])
    for at in (-1, 0, 1, HOUR, 5 * HOUR + 1_023, 5 * HOUR + 1_024, 2 * DAY, 31 * DAY, 300 * DAY):
        check_index(ledger, jobs, T0 + at, T0 + at + 1)
    assert touching(jobs, T0 + 300 * DAY, T0 + 301 * DAY) == {99}
    assert -15 in found_ids(ledger, T0 + 199 * DAY, T0 + 199 * DAY + 1)

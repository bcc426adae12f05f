"""Containers and the jobs within them: who is billed for a resource, second by second."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import Engine, create_engine

from oar_accounting import Accounting
from oar_accounting.core.columns import Ints
from oar_accounting.recording import passes
from oar_accounting.recording.held.affected import jobs_within
from tests.examples import examples
from tests.servers import Server, fresh_database
from tests.small_oar import DAY, HOUR, T0, Clock, Recorded, SmallOar, opened, stopped_clock

CONTAINER = ("container",)


@pytest.fixture
def clock() -> Iterator[Clock]:
    with stopped_clock() as stopped:
        stopped.now = T0 + DAY
        yield stopped


@pytest.fixture
def oar(engine: Engine, clock: Clock) -> SmallOar:
    """A container of eight cores that runs for two hours, of three that it asked for."""
    oar = SmallOar(engine)
    oar.add_job(user="boss", types=CONTAINER, stop=T0 + 2 * HOUR, walltime=3 * HOUR)
    return oar


def recorded(engine: Engine, toml: str = "") -> Accounting:
    accounting = opened(engine, toml)
    accounting.catch_up()
    assert accounting.verify() == []
    return accounting


def hours(accounting: Accounting, kind: str = "used", as_of: int | None = None) -> dict[str, int]:
    """Core hours of each user."""
    rows = accounting.usage(("user",), ("resource",), as_of=as_of).rows
    return {row.group[0]: getattr(row, kind) // HOUR for row in rows}


def test_a_job_that_runs_on_after_its_container_is_billed_from_then_on(
    oar: SmallOar, engine: Engine
) -> None:
    oar.add_job(
        user="guest", types=("inner=1",), cores=4, start=T0 + HOUR, stop=T0 + 6 * HOUR,
        walltime=7 * HOUR,
    )  # fmt: skip
    accounting = recorded(engine)
    assert hours(accounting) == {"boss": 16, "guest": 16}
    # It asked for two hours more than it used, and for nothing while its container ran.
    assert hours(accounting, "asked") == {"boss": 24, "guest": 24}


@pytest.mark.parametrize("never_ran", [False, True], ids=["waiting", "never ran"])
def test_a_job_whose_container_never_ran_is_billed_itself(
    engine: Engine, clock: Clock, never_ran: bool
) -> None:
    oar = SmallOar(engine)
    if never_ran:
        oar.add_job(user="boss", types=CONTAINER, state="Error", stop=T0 + 2 * HOUR)
        oar.add_state(1, "Launching", T0, T0 + 2 * HOUR)
    else:
        oar.add_job(user="boss", types=CONTAINER, state="Waiting", start=0, moldable=False)
    oar.add_job(user="guest", types=("inner=1",), cores=4)
    assert hours(recorded(engine)) == {"guest": 4}


@pytest.mark.parametrize("named", ["inner", "inner=", "inner=77", "inner=2", "inner=x'--"])
def test_a_job_that_names_no_container_is_billed_itself(
    oar: SmallOar, engine: Engine, named: str
) -> None:
    """There is no job 77, and job 2 is the inner job itself."""
    oar.add_job(user="guest", types=(named,), cores=4)
    assert hours(recorded(engine)) == {"boss": 16, "guest": 4}


def test_what_a_container_does_not_hold_is_its_jobs_own(engine: Engine, clock: Clock) -> None:
    oar = SmallOar(engine)
    oar.add_job(user="boss", types=CONTAINER, resources=[1, 2, 3], stop=T0 + HOUR)
    oar.add_job(user="guest", types=("inner=1",), resources=[3, 4, 5], stop=T0 + HOUR)
    assert hours(recorded(engine)) == {"boss": 3, "guest": 2}


def test_a_job_that_begins_before_its_container_is_billed_until_then(
    oar: SmallOar, engine: Engine
) -> None:
    oar.add_job(
        user="guest", types=("inner=1",), cores=4, start=T0 - 3 * HOUR, stop=T0 + HOUR,
        walltime=5 * HOUR,
    )  # fmt: skip
    accounting = recorded(engine)
    assert hours(accounting) == {"boss": 16, "guest": 12}
    # What it ended with counts for what it asked for beyond its end: nothing.
    assert hours(accounting, "asked") == {"boss": 24, "guest": 12}


def test_while_its_container_is_suspended_a_job_is_billed_itself(
    engine: Engine, clock: Clock
) -> None:
    oar = SmallOar(engine)
    pause = (T0 + HOUR, T0 + 2 * HOUR)
    oar.add_job(user="boss", types=CONTAINER, stop=T0 + 3 * HOUR, pauses=[pause])
    oar.add_job(user="guest", types=("inner=1",), cores=4, stop=T0 + 3 * HOUR)
    assert hours(recorded(engine)) == {"boss": 16, "guest": 4}


def test_of_nested_containers_the_outermost_that_runs_is_billed(
    oar: SmallOar, engine: Engine
) -> None:
    oar.add_job(user="middle", types=("container", "inner=1"), cores=4, stop=T0 + 4 * HOUR)
    oar.add_job(user="guest", types=("inner=2",), cores=2, stop=T0 + 6 * HOUR)
    assert hours(recorded(engine)) == {"boss": 16, "middle": 8, "guest": 4}


def test_containers_within_each_other_in_a_circle_end(engine: Engine, clock: Clock) -> None:
    oar = SmallOar(engine)
    for job, other in ((1, 2), (2, 1)):
        oar.add_job(user=f"user{job}", types=("container", f"inner={other}"), cores=4, job_id=job)
    assert hours(recorded(engine)) == {"user1": 4}


def test_a_container_has_a_name_in_oar_3(engine: Engine, clock: Clock) -> None:
    oar = SmallOar(engine)
    oar.add_job(user="boss", types=("container=Course",), stop=T0 + HOUR)
    oar.add_job(user="other", types=("container=course",), start=T0 + 9 * HOUR)
    oar.add_job(user="guest", types=("inner=Course",), cores=4, stop=T0 + 2 * HOUR)
    assert hours(recorded(engine)) == {"boss": 8, "other": 8, "guest": 4}


def test_both_are_billed_where_the_site_says_so(oar: SmallOar, engine: Engine) -> None:
    oar.add_job(user="guest", types=("inner=1",), cores=4)
    assert hours(recorded(engine, 'containers = "both"\n')) == {"boss": 16, "guest": 4}


# -- what changes later -----------------------------------------------------------------------


@pytest.mark.parametrize("way", ["catch-up", "full", "record"])
def test_when_a_container_changes_its_jobs_are_settled_again(
    oar: SmallOar, engine: Engine, way: str
) -> None:
    oar.add_job(user="guest", types=("inner=1",), cores=4, stop=T0 + 6 * HOUR)
    oar.add_job(user="within", types=("container", "inner=1"), cores=2, stop=T0 + 2 * HOUR)
    oar.add_job(user="deep", types=("inner=3",), cores=2, stop=T0 + 3 * HOUR)
    accounting = recorded(engine)
    assert hours(accounting) == {"boss": 16, "guest": 16, "deep": 2}
    oar.update_job(1, stop_time=T0 + HOUR)
    if way == "record":
        accounting.record([1])
    else:
        accounting.catch_up(full=way == "full")
    assert hours(accounting) == {"boss": 8, "guest": 20, "within": 2, "deep": 2}
    assert accounting.verify() == []


def test_an_inner_job_is_settled_again_when_its_container_ends(
    engine: Engine, clock: Clock
) -> None:
    oar = SmallOar(engine)
    oar.add_job(user="boss", types=CONTAINER, state="Running", walltime=9 * HOUR)
    oar.add_job(user="guest", types=("inner=1",), cores=4, state="Running", walltime=9 * HOUR)
    clock.now = T0 + HOUR
    accounting = recorded(engine)
    assert hours(accounting, as_of=T0 + HOUR) == {"boss": 8}
    oar.update_job(1, state="Error", stop_time=T0 + 2 * HOUR)
    clock.now = T0 + 4 * HOUR
    accounting.record([1])
    assert hours(accounting, as_of=T0 + 4 * HOUR) == {"boss": 16, "guest": 8}
    oar.update_job(2, state="Terminated", stop_time=T0 + 5 * HOUR)
    accounting.catch_up()
    assert hours(accounting) == {"boss": 16, "guest": 12}


def test_a_pass_that_is_killed_between_a_container_and_its_jobs_loses_nothing(
    engine: Engine, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    oar = SmallOar(engine)
    container = oar.add_job(user="boss", types=CONTAINER, state="Running")
    oar.add_job(user="guest", types=(f"inner={container}",), cores=4, state="Running")
    accounting = recorded(engine)
    oar.update_job(container, state="Terminated", stop_time=T0 + HOUR)
    clock.now += HOUR

    def killed(*given: Any) -> Iterator[Ints]:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        # Only what is left to do after the container is cut into blocks there.
        patched.setattr(passes, "id_blocks", killed)
        with pytest.raises(KeyboardInterrupt):
            accounting.catch_up()
    accounting.catch_up()
    assert hours(accounting, as_of=T0 + 3 * HOUR) == {"boss": 8, "guest": 8}


def test_a_job_that_another_pass_records_before_its_container_ends_is_settled_again(
    engine: Engine, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both are looked at without the lock; then the other pass records them, and one changes."""
    oar = SmallOar(engine)
    oar.add_job(user="boss", types=CONTAINER, state="Launching")
    oar.add_job(user="guest", types=("inner=1",), cores=4, state="Launching")
    accounting, other = recorded(engine), opened(engine)
    for job in (1, 2):
        oar.update_job(job, state="Running")
    look = passes.Pass.outdated

    def overtaken(*given: Any) -> Ints:
        found = look(*given)
        monkeypatch.setattr(passes.Pass, "outdated", look)
        other.catch_up()
        oar.update_job(1, state="Terminated", stop_time=T0 + HOUR)
        return found

    monkeypatch.setattr(passes.Pass, "outdated", overtaken)
    accounting.catch_up()
    assert hours(accounting, as_of=T0 + 3 * HOUR) == {"boss": 8, "guest": 8}


def test_a_new_container_of_an_old_name_leaves_alone_what_ended_before_it(
    engine: Engine, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A course of every week has one name for years."""
    oar = SmallOar(engine)
    oar.add_job(user="boss", types=("container=course",), stop=T0 + HOUR)
    early = oar.add_job(user="guest", types=("inner=course",), stop=T0 + HOUR)
    late = oar.add_job(user="guest", types=("inner=course",), start=T0 + HOUR, stop=T0 + 9 * HOUR)
    going_on = oar.add_job(user="guest", types=("inner=course",), state="Running")
    accounting = recorded(engine)
    found: list[int] = []

    def noted(*given: Any) -> Ints:
        within = jobs_within(*given)
        found.extend(within.tolist())
        return within

    monkeypatch.setattr(passes, "jobs_within", noted)
    oar.add_job(user="boss", types=("container=course",), start=T0 + 8 * HOUR, stop=T0 + 9 * HOUR)
    accounting.catch_up()
    assert found == [late, going_on]
    assert early not in found
    assert hours(accounting)["boss"] == 8 + 8


def test_a_container_that_oar_lost_counts_after_it_was_purged(
    oar: SmallOar, engine: Engine, clock: Clock
) -> None:
    """The job within it ended later, and is not purged."""
    guest = oar.add_job(user="guest", types=("inner=1",), cores=4, stop=T0 + 30 * HOUR)
    clock.now = T0 + 40 * DAY
    accounting = recorded(engine)
    before = hours(accounting)
    oar.remove_job(1)
    assert accounting.purge(T0 + DAY) == (T0 + DAY, 1)
    accounting.record([guest])
    assert hours(accounting) == before == {"boss": 16, "guest": 4 * 28}


def test_a_container_that_oar_lost_counts_as_the_ledger_has_it(
    oar: SmallOar, engine: Engine
) -> None:
    guest = oar.add_job(user="guest", types=("inner=1",), cores=4, stop=T0 + 6 * HOUR)
    accounting = recorded(engine)
    oar.remove_job(1)
    accounting.record([guest])
    accounting.catch_up(full=True)
    assert hours(accounting) == {"boss": 16, "guest": 16}
    accounting.rebuild(from_oar=True)
    assert hours(accounting) == {"boss": 16, "guest": 16}


def test_a_job_that_oar_gives_fewer_resources_is_kept_whatever_its_container_does(
    oar: SmallOar, engine: Engine
) -> None:
    guest = oar.add_job(user="guest", types=("inner=1",), cores=4, stop=T0 + 6 * HOUR)
    accounting = recorded(engine)
    oar.strip_job(guest, 1, 2)
    report = accounting.record([guest])
    assert [each.job_id for each in report.problems] == [guest]
    assert hours(accounting) == {"boss": 16, "guest": 16}


# -- the law ----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Ran:
    """A job: what it is in, from when to when it ran, and on which resources."""

    within: int | None
    start: int
    seconds: int
    on: frozenset[int]

    def holds(self, resource: int, second: int) -> bool:
        return resource in self.on and self.start <= second < self.start + self.seconds


CORES = range(1, 9)


@st.composite
def families(draw: st.DrawFn) -> list[Ran]:
    """A container, perhaps one within, and inner jobs that do not share a resource."""

    def job(within: int | None, on: frozenset[int]) -> Ran:
        return Ran(within, draw(st.integers(0, 20)), draw(st.integers(1, 20)), on)

    some = st.frozensets(st.sampled_from(CORES))
    jobs = [job(None, draw(some))]
    if draw(st.booleans()):
        jobs.append(job(0, draw(some)))
    shares = draw(st.lists(st.integers(0, 2), min_size=8, max_size=8))
    containers = len(jobs)
    for number in (0, 1):
        on = frozenset(core for core, share in zip(CORES, shares, strict=True) if share == number)
        jobs.append(job(draw(st.integers(0, containers - 1)), on))
    return jobs


def billed(jobs: Sequence[Ran], resource: int, second: int) -> list[int]:
    """Who is billed: of a job and the containers around it the outermost that is there."""
    found = []
    for number, job in enumerate(jobs):
        if not job.holds(resource, second):
            continue
        around, above = [], job.within
        while above is not None:
            around.append(jobs[above])
            above = jobs[above].within
        if not any(each.holds(resource, second) for each in around):
            found.append(number)
    return found


@pytest.mark.databases("sqlite")
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=examples(60))
@given(jobs=families(), order=st.permutations(range(4)))
def test_no_resource_is_billed_twice_nor_to_nobody(
    server: Server, jobs: list[Ran], order: list[int]
) -> None:
    with fresh_database(server) as database:
        engine = create_engine(database.url)
        oar = SmallOar(engine)
        containers = {each.within for each in jobs} | {0}
        for number, job in enumerate(jobs):
            types = ["container"] if number in containers else []
            types += [] if job.within is None else [f"inner={job.within + 1}"]
            oar.add_job(
                user=str(number),
                types=types,
                resources=sorted(job.on),
                start=T0 + job.start,
                stop=T0 + job.start + job.seconds,
                walltime=30,
            )
        accounting = opened(engine)
        accounting.record([number + 1 for number in order if number < len(jobs)])
        used: dict[str, int] = {}
        for second in range(45):
            for resource in CORES:
                whose = billed(jobs, resource, second)
                holding = [each for each in jobs if each.holds(resource, second)]
                assert bool(whose) == bool(holding)
                for number in whose:
                    used[str(number)] = used.get(str(number), 0) + 1
        rows = accounting.usage(("user",), ("resource",)).rows
        assert {row.group[0]: row.used for row in rows if row.used} == used
        before = Recorded(accounting).everything()
        for number in order:
            accounting.record([number + 1])
        assert accounting.rebuild(from_oar=True).figures == 0
        assert Recorded(accounting).everything() == before
        assert accounting.verify() == []
        engine.dispose()

"""Properties of resources that change: what was held is told by those of the time."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import Engine, create_engine, event

from oar_accounting import Accounting, SettingsError
from oar_accounting.core.columns import Ints, ints
from oar_accounting.oar import oar_tables
from oar_accounting.recording.passes import Pass
from tests.examples import examples
from tests.servers import Server, fresh_database
from tests.small_oar import DAY, HOUR, T0, Clock, Recorded, SmallOar, opened, stopped_clock

MEMORY = '[metrics.memory]\nunit = "MiB·s"\nsum = "mem"\nper = "network_address"\n'
CLUSTER = 'dimension = "cluster"\n'
#: When the first node's memory is doubled, and its cluster renamed: in the middle of `during`.
CHANGE = T0 + HOUR


@pytest.fixture
def clock() -> Iterator[Clock]:
    with stopped_clock() as stopped:
        stopped.now = T0 + DAY
        yield stopped


@pytest.fixture
def oar(engine: Engine, clock: Clock) -> SmallOar:
    """Three jobs on all of the first node: before the change, over it, and after it."""
    oar = SmallOar(engine, nodes=0)
    oar.add_resources(4, host="one", cluster="a", mem=32)
    oar.add_resources(4, host="two", cluster="a", mem=32)
    oar.add_job(user="before", cores=4, start=T0 - HOUR, stop=T0, walltime=HOUR)
    oar.add_job(user="during", cores=4, start=T0, stop=T0 + 2 * HOUR, walltime=3 * HOUR)
    oar.add_job(user="after", cores=4, start=T0 + 2 * HOUR, stop=T0 + 3 * HOUR, walltime=HOUR)
    return oar


def change(oar: SmallOar, at: int = CHANGE) -> None:
    """What ``oarnodesetting -p mem=64 -p cluster=b`` does to the first node."""
    for number in range(1, 5):
        for name, old, new in (("mem", "32", "64"), ("cluster", "a", "b")):
            oar.log_resource(number, old, T0 - DAY, at, attribute=name)
            oar.log_resource(number, new, at, attribute=name)
        oar.set_resource(number, mem=64, cluster="b")


def used(accounting: Accounting, metric: str = "memory") -> dict[str, int]:
    """What each user used, in hours."""
    rows = accounting.usage(("user",), (metric,)).rows
    return {row.group[0]: row.used // HOUR for row in rows}


def asked(accounting: Accounting, metric: str = "memory") -> dict[str, int]:
    rows = accounting.usage(("user",), (metric,)).rows
    return {row.group[0]: row.asked // HOUR for row in rows}


def told_by_the_doctor(accounting: Accounting) -> str:
    """All that the doctor says of properties."""
    findings = accounting.doctor().findings
    return "; ".join(each.said for each in findings if each.subject == "properties")


USED = {"before": 32, "during": 32 + 64, "after": 64}


def test_jobs_that_are_recorded_later_held_what_was_there(oar: SmallOar, engine: Engine) -> None:
    change(oar)
    accounting = opened(engine, CLUSTER + MEMORY)
    accounting.catch_up()
    assert used(accounting) == USED
    # After its stop a job goes on asking for what it held last.
    assert asked(accounting) == {"before": 32, "during": 32 + 2 * 64, "after": 64}
    by_cluster = accounting.usage(("user", "cluster"), ("memory",)).rows
    assert {row.group: row.used // HOUR for row in by_cluster} == {
        ("before", "a"): 32,
        ("during", "a"): 32,
        ("during", "b"): 64,
        ("after", "b"): 64,
    }
    assert accounting.verify() == []


@pytest.mark.parametrize("way", ["corrected", "rebuilt", "recorded", "later metric", "totals"])
def test_right_figures_stay_right(oar: SmallOar, engine: Engine, way: str) -> None:
    toml = CLUSTER + MEMORY if way != "later metric" else CLUSTER
    accounting = opened(engine, toml)
    accounting.catch_up()
    change(oar)
    if way == "corrected":
        oar.update_job(1, project="q")
        oar.update_job(3, project="q")
        accounting.catch_up(full=True)
    elif way == "rebuilt":
        assert accounting.rebuild(from_oar=True, dry_run=True).figures == 2 * 3
        report = accounting.rebuild(from_oar=True)
        # The jobs over and after the change had been recorded before it was logged.
        assert report.figures == 2 * 3
    elif way == "recorded":
        accounting.record([1, 2, 3])
    elif way == "later metric":
        accounting = opened(engine, CLUSTER + MEMORY)
        assert accounting.rebuild(metric="memory").figures == 3
    else:
        accounting.rebuild()
        assert used(accounting) == dict.fromkeys(USED, 32) | {"during": 64}
        return
    expected = USED if way != "corrected" else USED | {"during": 64}
    assert used(accounting) == expected
    assert accounting.verify() == []


def drop(engine: Engine, name: str) -> None:
    """What ``oarproperty -d`` does: the log is kept."""
    with engine.begin() as connection:
        connection.exec_driver_sql(f"ALTER TABLE resources DROP COLUMN {name}")


def test_a_property_that_was_dropped_stops_nothing(oar: SmallOar, engine: Engine) -> None:
    change(oar)
    toml = '[metrics.core]\nunit = "core·s"\ndistinct = "core"\n' + MEMORY
    accounting = opened(engine, CLUSTER + toml)
    accounting.record([1])
    for name in ("mem", "cluster"):
        drop(engine, name)
    # The other node never had a value that was logged.
    oar.add_job(user="other", resources=range(5, 9), start=T0, stop=T0 + HOUR, walltime=HOUR)
    report = accounting.catch_up()
    assert report.done == 3
    assert used(accounting, "core") == {"before": 4, "during": 8, "after": 4, "other": 4}
    assert used(accounting) == USED
    clusters = accounting.usage(("cluster",), ("core",)).rows
    assert {row.group[0]: row.used // HOUR for row in clusters} == {"": 4, "a": 8, "b": 8}
    cluster, mem = (each for each in report.notices if "no longer have the property" in each)
    assert "'cluster', which the dimension needs" in cluster
    assert "'mem', which metric memory needs" in mem
    assert "oarproperty -a mem" in mem
    assert accounting.verify() == []
    assert accounting.utilisation("memory", T0, CHANGE).rows


@pytest.mark.parametrize("toml", ["", CLUSTER])
def test_a_dimension_that_was_dropped_is_found_by_the_doctor(
    oar: SmallOar, engine: Engine, toml: str
) -> None:
    accounting = opened(engine, toml + MEMORY)
    accounting.catch_up()
    drop(engine, "cluster")
    said = [each.said for each in accounting.doctor().findings if each.level == "warning"]
    assert any("no longer have the property 'cluster'" in each for each in said)
    # Added again, with its values, nothing is left of it.
    with engine.begin() as connection:
        connection.exec_driver_sql("ALTER TABLE resources ADD COLUMN cluster VARCHAR(255)")
    for number in range(1, 9):
        oar.set_resource(number, cluster="a")
    assert accounting.rebuild(from_oar=True).notices == ()
    assert {row.group[0] for row in accounting.usage(("cluster",)).rows} == {"a"}


def test_a_rebuild_of_what_was_recorded_right_changes_nothing(
    oar: SmallOar, engine: Engine
) -> None:
    change(oar)
    accounting = opened(engine, CLUSTER + MEMORY)
    accounting.catch_up()
    before = Recorded(accounting).everything()
    assert accounting.rebuild(from_oar=True, dry_run=True).figures == 0
    report = accounting.rebuild(from_oar=True)
    assert (report.figures, report.changed) == (0, 0)
    assert accounting.rebuild(metric="memory", from_oar=True).figures == 0
    assert Recorded(accounting).everything() == before


def test_a_dry_run_writes_nothing_and_says_what_a_rebuild_changes(
    oar: SmallOar, engine: Engine
) -> None:
    accounting = opened(engine, CLUSTER + MEMORY)
    accounting.catch_up()
    change(oar)
    before = Recorded(accounting).everything()
    for dimension in (CLUSTER, 'dimension = ""\n'):
        changed = opened(engine, dimension + MEMORY.replace('per = "network_address"\n', ""))
        assert changed.rebuild(from_oar=True, dry_run=True).figures > 0
        assert changed.rebuild(metric="memory", dry_run=True).figures == 3
        assert changed.rebuild(dry_run=True).figures == 0
    hourly = opened(engine, "window = 3600\n" + CLUSTER + MEMORY)
    assert hourly.rebuild(dry_run=True).figures > 0
    assert Recorded(accounting).everything() == before
    assert accounting.verify() == []


def test_an_open_job_is_settled_again_when_its_node_changes(
    oar: SmallOar, engine: Engine, clock: Clock
) -> None:
    oar.add_job(user="open", cores=4, start=T0 + 20 * HOUR, state="Running", walltime=2 * DAY)
    accounting = opened(engine, CLUSTER + MEMORY)
    clock.now = T0 + 21 * HOUR
    accounting.catch_up()
    change(oar, at=T0 + 22 * HOUR)
    clock.now = T0 + DAY

    def now(by: str) -> dict[str, int]:
        rows = accounting.usage((by,), ("memory",), where={"user": "open"}, as_of=T0 + DAY).rows
        return {row.group[0]: row.used // HOUR for row in rows}

    assert now("user") == {"open": 4 * 32}
    accounting.catch_up()
    assert now("user") == {"open": 2 * 32 + 2 * 64}
    assert now("cluster") == {"a": 64, "b": 128}
    recorded = Recorded(accounting).everything()
    accounting.catch_up()
    assert Recorded(accounting).everything() == recorded


def test_what_changes_while_a_pass_is_at_work_counts_for_the_jobs_it_comes_to(
    oar: SmallOar, engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    settle = Pass.settle

    def settled(work: Pass, block: Ints, **given: Any) -> Ints:
        for job in block.tolist():
            settle(work, ints([job]), **given)
            if job == 1:
                change(oar)
        return block

    monkeypatch.setattr(Pass, "settle", settled)
    accounting = opened(engine, CLUSTER + MEMORY)
    accounting.catch_up()
    assert used(accounting) == USED


def test_a_job_has_the_size_that_it_began_with(oar: SmallOar, engine: Engine) -> None:
    change(oar)
    accounting = opened(engine, CLUSTER + MEMORY)
    accounting.catch_up()
    jobs = {job.user: job for job in accounting.jobs(metrics=("memory",)).jobs}
    assert {user: job.size for user, job in jobs.items()} == {"before": 4, "during": 4, "after": 4}


def test_a_change_of_one_resource_counts_for_all_of_its_node(oar: SmallOar, engine: Engine) -> None:
    """The memory of a node is the largest that any of its resources has at the time."""
    oar.add_job(user="beside", resources=[2], start=T0, stop=T0 + 2 * HOUR, walltime=2 * HOUR)
    oar.log_resource(1, "32", T0 - DAY, CHANGE, attribute="mem")
    oar.log_resource(1, "64", CHANGE, attribute="mem")
    oar.set_resource(1, mem=64)
    accounting = opened(engine, CLUSTER + MEMORY)
    accounting.catch_up()
    assert used(accounting) == USED | {"beside": 32 + 64}


def test_the_machine_held_what_was_there_for_karma_and_utilisation_alike(
    oar: SmallOar, engine: Engine
) -> None:
    for number in range(1, 9):
        oar.log_states(number, (T0, "Alive"))
    change(oar)
    accounting = opened(engine, CLUSTER + MEMORY)
    accounting.catch_up()
    (row,) = accounting.utilisation(["memory"], T0, T0 + 2 * HOUR).rows
    assert (row.capacity, row.used, row.over) == (HOUR * (64 + 96), HOUR * 96, 0)


def test_under_the_classic_profile_the_machine_is_what_jobs_are_counted_by(
    oar: SmallOar, engine: Engine
) -> None:
    """Both are what the properties are today: nothing is used that is not there."""
    for number in range(1, 9):
        oar.log_states(number, (T0, "Alive"))
    change(oar)
    accounting = opened(engine, 'profile = "classic"\n' + CLUSTER + MEMORY)
    accounting.catch_up()
    (row,) = accounting.utilisation(["memory"], T0, T0 + 2 * HOUR).rows
    assert (row.capacity, row.used, row.over) == (2 * HOUR * 96, 2 * HOUR * 64, 0)


def test_without_the_log_properties_are_those_of_today_and_it_is_told(
    oar: SmallOar, engine: Engine
) -> None:
    change(oar)
    with engine.begin() as connection:
        oar_tables.resource_logs.drop(connection)
    accounting = opened(engine, CLUSTER + MEMORY)
    report = accounting.catch_up()
    assert used(accounting) == {"before": 64, "during": 128, "after": 64}
    (told,) = [each for each in report.notices if "always as today" in each]
    assert "'resource_logs' cannot be read" in told
    assert "always as today" in told_by_the_doctor(accounting)


def test_a_log_may_be_believed_from_some_time_on(oar: SmallOar, engine: Engine) -> None:
    """The memory was typed wrong at first: what is logged of it before the change is a mistake."""
    change(oar)
    accounting = opened(engine, CLUSTER + MEMORY)
    accounting.catch_up()
    believed = opened(engine, f"property_since = {{ mem = {CHANGE} }}\n" + CLUSTER + MEMORY)
    (notice,) = believed.catch_up().notices
    assert notice == (
        "property_since is mem from 2023-11-14 01:00:00 UTC in the settings, left out as "
        "recorded: oar-accounting rebuild --from-oar"
    )
    assert believed.rebuild(from_oar=True, dry_run=True).figures == 2
    assert believed.rebuild(from_oar=True).figures == 2
    assert used(believed) == {"before": 64, "during": 128, "after": 64}
    # Of another property all is believed.
    clusters = believed.usage(("cluster",), ("resource",)).rows
    assert {row.group[0]: row.used // HOUR for row in clusters} == {"a": 8, "b": 8}
    assert believed.catch_up().notices == ()


def test_only_properties_can_be_believed(oar: SmallOar, engine: Engine) -> None:
    with pytest.raises(SettingsError, match="property_since names 'memory', which is not a prop"):
        opened(engine, f"property_since = {{ memory = {CHANGE} }}\n").catch_up()


@pytest.mark.databases("sqlite")
def test_only_rows_that_touch_the_jobs_are_read(oar: SmallOar, engine: Engine) -> None:
    """What ended before the first of the jobs at hand is not asked for."""
    change(oar)
    accounting = opened(engine, CLUSTER + MEMORY)
    accounting.catch_up()
    seen: list[Any] = []

    @event.listens_for(accounting.oar_engine, "before_cursor_execute")
    def note(*given: Any) -> None:
        if "resource_logs.value" in given[2]:
            seen.append(given[3])

    accounting.record([3])
    assert seen
    assert all(
        T0 + 2 * HOUR in (each.values() if isinstance(each, dict) else each) for each in seen
    )


# -- the law ----------------------------------------------------------------------------------

END = 30


@dataclass(frozen=True)
class Thing:
    """A resource: its property today, and what was logged; a log is value, start and stop."""

    mem: int = 0
    mems: tuple[tuple[int, int, int], ...] = ()
    cluster: str = "a"
    clusters: tuple[tuple[str, int, int], ...] = ()


@dataclass(frozen=True)
class Ran:
    """A job: it began, ran so long, asked for so long, and held these resources."""

    start: int
    seconds: int
    walltime: int
    on: frozenset[int] = field(default_factory=frozenset)


def at(logs: Sequence[tuple[Any, int, int]], today: Any, second: int) -> Any:
    """The row that is open then, else the next one, else what it is today."""
    timed = [log for log in logs if log[2] == 0 or log[2] > log[1]]
    running = [log for log in timed if log[1] <= second and (log[2] == 0 or second < log[2])]
    if running:
        return [log for log in running if log[1] == max(log[1] for log in running)][-1][0]
    later = [log for log in timed if log[1] > second]
    if later:
        return [log for log in later if log[1] == min(log[1] for log in later)][-1][0]
    return today


def logs_of(values: st.SearchStrategy[Any]) -> st.SearchStrategy[tuple[Any, ...]]:
    times = st.integers(1, END)
    return st.lists(st.tuples(values, times, st.one_of(st.just(0), times)), max_size=3).map(tuple)


MEMS, CLUSTERS = st.integers(0, 3), st.sampled_from(["a", "b", ""])
THINGS = st.builds(
    Thing, mem=MEMS, mems=logs_of(MEMS), cluster=CLUSTERS, clusters=logs_of(CLUSTERS)
)
JOBS = st.builds(
    Ran,
    start=st.integers(2, END),
    seconds=st.integers(1, 15),
    walltime=st.integers(0, 20),
    on=st.frozensets(st.integers(0, 3), min_size=1),
)


def held(job: Ran, things: Sequence[Thing], second: int) -> dict[tuple[str, str], int]:
    """By metric and cluster what a job holds, of the second's properties: not after its stop."""
    then = min(second, job.start + job.seconds - 1)
    found: dict[tuple[str, str], int] = {}
    for owner in job.on:
        thing = things[owner]
        cluster = str(at(thing.clusters, thing.cluster, then))
        for metric, much in (("resource", 1), ("memory", int(at(thing.mems, thing.mem, then)))):
            found[metric, cluster] = found.get((metric, cluster), 0) + much
    return found


def plainly(jobs: Sequence[Ran], things: Sequence[Thing]) -> dict[tuple[str, str, str], int]:
    """What was asked and used by metric and cluster, second by second."""
    sums: dict[tuple[str, str, str], int] = {}
    for job in jobs:
        for kind, seconds in (("asked", job.walltime), ("used", job.seconds)):
            for second in range(job.start, job.start + seconds):
                for (metric, cluster), much in held(job, things, second).items():
                    key = (kind, metric, cluster)
                    sums[key] = sums.get(key, 0) + much
    return {key: amount for key, amount in sums.items() if amount}


def build(oar: SmallOar, things: Sequence[Thing], jobs: Sequence[Ran]) -> None:
    for thing in things:
        (number,) = oar.add_resources(mem=thing.mem, cluster=thing.cluster)
        for attribute, logs in (("mem", thing.mems), ("cluster", thing.clusters)):
            for value, start, stop in logs:
                oar.log_resource(
                    number, str(value) or "<unset>", T0 + start, T0 + stop if stop else 0,
                    attribute=attribute,
                )  # fmt: skip
    for job in jobs:
        begin = T0 + job.start
        oar.add_job(
            resources=[owner + 1 for owner in sorted(job.on)],
            start=begin,
            stop=begin + job.seconds,
            walltime=job.walltime,
        )


def recorded_sums(accounting: Accounting) -> dict[tuple[str, str, str], int]:
    rows = accounting.usage(("cluster",), ("resource", "memory")).rows
    sums = {
        (kind, row.metric, row.group[0]): getattr(row, kind)
        for row in rows
        for kind in ("asked", "used")
    }
    return {key: amount for key, amount in sums.items() if amount}


@pytest.mark.databases("sqlite")
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=examples(60))
@given(
    things=st.lists(THINGS, min_size=4, max_size=4),
    jobs=st.lists(JOBS, min_size=1, max_size=4),
    window=st.sampled_from([7, 86_400]),
)
def test_every_second_counts_what_was_there_then(
    server: Server, things: list[Thing], jobs: list[Ran], window: int
) -> None:
    with fresh_database(server) as database:
        engine = create_engine(database.url)
        build(SmallOar(engine, nodes=0), things, jobs)
        toml = f'window = {window}\n{CLUSTER}[metrics.memory]\nunit = "MiB·s"\nsum = "mem"\n'
        accounting = opened(engine, toml)
        accounting.catch_up()
        assert recorded_sums(accounting) == plainly(jobs, things)
        before = Recorded(accounting).everything()
        assert accounting.rebuild(from_oar=True).figures == 0
        for job in range(len(jobs), 0, -1):
            accounting.record([job])
        assert Recorded(accounting).everything() == before
        assert accounting.verify() == []
        engine.dispose()


# -- what the doctor says ---------------------------------------------------------------------


def test_the_doctor_counts_what_is_assumed(oar: SmallOar, engine: Engine) -> None:
    for number in range(1, 5):
        oar.log_resource(number, "32", T0 - DAY, CHANGE, attribute="mem")
        oar.log_resource(number, "64", CHANGE, attribute="mem")
        oar.set_resource(number, mem=64 if number > 1 else 128)
    accounting = opened(engine, CLUSTER + MEMORY)
    accounting.catch_up()
    assert told_by_the_doctor(accounting) == (
        "no change is logged of cluster (8), mem (4), network_address (8); mem of 1 resource is "
        "not what OAR's log says, which counts: it was changed without oarnodesetting. Setting it "
        "with oarnodesetting -p, first to "
        "another value and then to the right one, logs it"
    )
    classic = opened(engine, 'profile = "classic"\n' + MEMORY, site="classic")
    assert told_by_the_doctor(classic) == ""

"""What a row of OAR means: the faults of OAR's own accounting are not ours.

Cases are jobs on two cores, each of a user named like the case. All of them are recorded once per
database, at a site for each way to read: by default, ``containers = "both"``, and as OAR 2.5.9.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as some
from sqlalchemy import Engine, create_engine

from oar_accounting.core.columns import OPEN, JobRows, Spans
from oar_accounting.oar import oar_tables
from oar_accounting.oar.job_rules import Terms, impossible, phases, spans_of
from tests.servers import Server, fresh_database
from tests.small_oar import DAY, HOUR, NOW, T0, Recorded, SmallOar, opened, recorded

CORES = (1, 2)
LICENCE = 9  # the id of the first resource that is not a core

Seconds = tuple[int, int]  # asked, used


@dataclass(frozen=True, slots=True)
class Case:
    """A job, and the seconds for which it asked for and used its two cores.

    Where nothing else is said, all ways to read it give the same, and it has ended.
    """

    name: str
    job: Mapping[str, Any]
    asked: int = 2 * HOUR
    used: int = HOUR
    classic: Seconds | None = None
    both: Seconds | None = None
    open: bool = False
    states: Sequence[tuple[str, int, int | None]] = ()  #: more rows of job_state_logs
    trouble: str = ""  #: within the problem that is reported
    accounted: str = "NO"

    def seconds(self, site: str) -> Seconds:
        """What the site must say of it."""
        special = {"classic": self.classic, "both": self.both}.get(site)
        return (self.asked, self.used) if special is None else special


CASES: list[Case] = []


def cases(*those: Case) -> pytest.MarkDecorator:
    """Record the cases, and run the test with each."""
    CASES.extend(those)
    return pytest.mark.parametrize("case", those, ids=[case.name for case in those])


def nothing(name: str, *, ended: bool = True, **job: Any) -> Case:
    """A job that asked for nothing and used nothing, whoever reads it."""
    return Case(name, job, asked=0, used=0, open=not ended)


def add_cases(oar: SmallOar) -> dict[str, int]:
    """Put all cases into an OAR; the ids of the jobs by name."""
    oar.add_resources(2, kind="licence")
    jobs: dict[str, int] = {}
    for case in CASES:
        what = {"user": case.name, "resources": CORES, **case.job}
        what["types"] = [kind.format(**jobs) for kind in what.get("types", ())]
        jobs[case.name] = job = oar.add_job(**what)
        for state in case.states:
            oar.add_state(job, *state)
        oar.update_job(job, accounted=case.accounted)
    return jobs


SITES = {
    "default": "",
    "both": 'containers = "both"\n',
    "classic": 'profile = "classic"\n',
}
LICENCES = '[metrics.licence]\ncount = true\ntype = "licence"\nunit = "licence·s"\n'


@dataclass(frozen=True, slots=True)
class History:
    """All cases as they are recorded."""

    jobs: Mapping[str, int]
    sites: Mapping[str, Recorded]
    rows: Mapping[str, Mapping[int, dict[str, Any]]]
    problems: Mapping[str, Mapping[int, str]]
    amounts: Mapping[str, Mapping[str, Seconds]] = field(default_factory=dict)


@pytest.fixture(scope="module")
def history(server: Server) -> Iterator[History]:
    """All cases, recorded at each of the sites."""
    with fresh_database(server) as database:
        engine = create_engine(database.url)
        jobs = add_cases(SmallOar(engine))
        sites, rows, problems, amounts = {}, {}, {}, {}
        for site, toml in SITES.items():
            accounting = opened(engine, toml + LICENCES, site=site)
            report = accounting.catch_up()
            assert accounting.verify() == []
            sites[site] = Recorded(accounting)
            rows[site] = sites[site].jobs()
            problems[site] = {each.job_id: each.reason for each in report.problems}
            amounts[site] = sites[site].by("user")
        yield History(jobs, sites, rows, problems, amounts)
        engine.dispose()


def check(case: Case, history: History) -> None:
    """Every site says of the job what it must."""
    job = history.jobs[case.name]
    for site in SITES:
        asked, used = case.seconds(site)
        said = history.amounts[site].get(case.name, (0, 0))
        assert said == (len(CORES) * asked, len(CORES) * used), site
        assert case.trouble in history.problems[site].get(job, ""), site
        assert (job in history.problems[site]) == bool(case.trouble), site
    row = history.rows["default"][job]
    assert bool(row["closed"]) is not case.open


# -- 2-1: suspended time ----------------------------------------------------------------------


@cases(
    Case(
        "suspended-and-resumed",
        {"pauses": [(T0 + 100, T0 + 300, T0 + 310)]},
        used=HOUR - 210,
        classic=(2 * HOUR, HOUR),
    ),
    Case(
        "suspended-twice",
        {"pauses": [(T0 + 100, T0 + 300), (T0 + 1000, T0 + 1001)]},
        used=HOUR - 201,
        classic=(2 * HOUR, HOUR),
    ),
    Case(
        "overlapping-pauses",
        {"pauses": [(T0 + 300, T0 + 500), (T0 + 100, T0 + 400)]},
        used=HOUR - 400,
        classic=(2 * HOUR, HOUR),
    ),
    Case(
        "a-pause-beyond-the-stop",
        {"pauses": [(T0 + 3000, T0 + 9000)]},
        used=3000,
        classic=(2 * HOUR, HOUR),
    ),
    Case(
        "a-pause-from-before-the-start",
        {"pauses": [(T0 - 100, T0 + 100)]},
        used=HOUR - 100,
        classic=(2 * HOUR, HOUR),
    ),
    Case(
        "killed-while-suspended",
        {"state": "Error", "pauses": [(T0 + 1000, 0)]},
        used=1000,
        classic=(2 * HOUR, HOUR),
    ),
    Case(
        "killed-while-suspended-of-a-database-that-says-null",
        {"state": "Error"},
        used=1000,
        states=[("Suspended", T0 + 1000, None)],
        classic=(2 * HOUR, HOUR),
    ),
    Case(
        "suspended-from-the-start",
        {"pauses": [(T0, 0)]},
        used=0,
        classic=(2 * HOUR, HOUR),
    ),
    Case("a-pause-of-no-second", {"pauses": [(T0 + 100, T0 + 100)]}),
    Case(
        "other-states-pause-nothing",
        {},
        states=[("Launching", T0, T0 + 9), ("Running", T0 + 9, T0 + HOUR), ("Finishing", T0, 0)],
    ),
)
def test_suspended_time_is_not_used(case: Case, history: History) -> None:
    check(case, history)


def test_running_rows_change_nothing_as_oar_3_has_none(history: History) -> None:
    """The spans of a suspended job come from its pauses only."""
    job = history.jobs["suspended-and-resumed"]
    assert history.sites["default"].spans(job) == [(T0, T0 + 100), (T0 + 310, T0 + HOUR)]
    assert history.sites["classic"].spans(job) == [(T0, T0 + HOUR)]


# -- 2-2, 2-5, 2-12: when it ran, and the walltime --------------------------------------------


@cases(
    Case("as-oar-says", {"start": T0 + 7, "stop": T0 + 11}, used=4),
    Case("over-a-bound-of-windows", {"start": T0 - 50, "stop": T0 + 70}, used=120),
    Case("killed-late", {"walltime": 60, "stop": T0 + 64, "state": "Error"}, asked=60, used=64),
    Case("without-a-walltime", {"walltime": 0}, asked=0),
)
def test_used_is_from_start_to_stop_and_may_exceed_the_final_walltime(
    case: Case, history: History
) -> None:
    check(case, history)


# -- 2-3: containers and timesharing ----------------------------------------------------------


@cases(
    Case("a-container", {"types": ("container", "cosystem")}),
    Case(
        "within-a-container",
        {"types": ("inner={a-container}",)},
        asked=0,
        used=0,
        both=(2 * HOUR, HOUR),
        classic=(2 * HOUR, HOUR),
    ),
    Case(
        "within-a-container-of-many-types",
        {"types": ("besteffort", "inner={a-container}", "timesharing=*,*")},
        asked=0,
        used=0,
        both=(2 * HOUR, HOUR),
        classic=(2 * HOUR, HOUR),
    ),
    Case("a-container-within-none", {"types": ("container", "innermost", "deploy=inner=1")}),
)
def test_of_a_container_and_its_jobs_the_container_is_billed(case: Case, history: History) -> None:
    check(case, history)


@cases(
    Case("one-that-shares", {"types": ("timesharing=*,*",)}),
    Case("another-that-shares", {"types": ("timesharing=*,*",)}),
    Case("besteffort", {"types": ("besteffort", "idempotent"), "queue": "besteffort"}),
)
def test_every_timesharing_job_is_billed(case: Case, history: History) -> None:
    check(case, history)


# -- 2-4, 2-7, 2-15, 3-9: jobs that never ran, jobs that OAR forgets --------------------------


@cases(
    Case(
        "launch-failed",
        {"state": "Error", "stop": T0},
        asked=0,
        used=0,
        classic=(2 * HOUR, 0),
    ),
    Case(
        "prologue-failed",
        {"state": "Error"},
        states=[("toLaunch", T0, T0), ("Launching", T0, T0 + HOUR), ("Error", T0 + HOUR, 0)],
        asked=0,
        used=0,
        classic=(2 * HOUR, HOUR),
    ),
    Case(
        "prologue-failed-and-finishing",
        {"state": "Finishing", "stop": T0 + HOUR},
        states=[("Launching", T0, T0 + HOUR), ("Finishing", T0 + HOUR, 0)],
        asked=0,
        used=0,
        classic=(0, 0),
    ),
    Case(
        "container-that-failed",
        {"state": "Error", "types": ("container",)},
        states=[("Launching", T0, T0 + 9)],
        asked=0,
        used=0,
        classic=(2 * HOUR, HOUR),
    ),
    nothing("killed-while-waiting", state="Error", start=0, stop=0, moldable=False),
    nothing(
        "killed-while-waiting-in-oar-3",
        state="Error",
        start=NOW + HOUR,
        stop=NOW + HOUR,
        moldable=False,
    ),
    nothing("terminated-without-a-moldable", moldable=False),
    nothing("terminated-without-a-resource", resources=()),
)
def test_a_job_that_never_ran_has_its_row_and_asked_for_nothing(
    case: Case, history: History
) -> None:
    check(case, history)


@cases(
    Case(
        "ran-and-failed",
        {"state": "Error"},
        states=[("Launching", T0, T0 + 9), ("Running", T0 + 9, T0 + HOUR)],
    ),
    Case("failed-and-without-logs", {"state": "Error"}),
    # OAR 2 goes on where it cannot write that a job is Running.
    Case("ended-well-and-lost-a-row", {}, states=[("Launching", T0, T0 + 9)]),
    Case(
        "launched-and-suspended",
        {"state": "Error", "pauses": [(T0 + 100, T0 + 300)]},
        states=[("Launching", T0, T0 + 9)],
        used=HOUR - 200,
        classic=(2 * HOUR, HOUR),
    ),
)
def test_a_job_counts_where_no_log_says_that_it_never_ran(case: Case, history: History) -> None:
    check(case, history)


@cases(
    nothing("waiting", ended=False, state="Waiting", start=0, moldable=False),
    nothing("held", ended=False, state="Hold", start=0, moldable=False),
    nothing("waiting-for-a-predicted-start", ended=False, state="Waiting", start=NOW + 9),
    nothing("waiting-for-an-unknown-start", ended=False, state="Waiting", start=-1),
    nothing("resubmitted", ended=False, state="Waiting", start=T0, stop=T0 + HOUR),
    nothing("resubmitted-with-a-predicted-start", ended=False, state="Waiting", stop=T0 - 9),
    nothing("being-launched", ended=False, state="toLaunch"),
    nothing("to-be-acknowledged", ended=False, state="toAckReservation"),
    nothing("to-fail", ended=False, state="toError", stop=T0 + 9),
)
def test_a_job_that_has_not_started_holds_nothing_whatever_its_times_say(
    case: Case, history: History
) -> None:
    check(case, history)
    job = history.jobs[case.name]
    for recorded_ in history.sites.values():
        assert recorded_.spans(job) == [] == recorded_.spans(job, asked=True)


@cases(
    nothing("launching", ended=False, state="Launching"),
    nothing("running", ended=False, state="Running"),
    nothing("suspended-now", ended=False, state="Suspended", pauses=[(T0 + 100, 0)]),
    nothing("resuming-now", ended=False, state="Resuming", pauses=[(T0 + 100, T0 + 200, 0)]),
    nothing("finishing", ended=False, state="Finishing"),
    nothing("finishing-with-a-stop-of-an-earlier-try", ended=False, state="Finishing", stop=T0 - 9),
    nothing("resubmitted-and-running", ended=False, state="Running", stop=T0 - 9),
)
def test_a_job_that_runs_holds_its_cores_and_is_in_no_total(case: Case, history: History) -> None:
    check(case, history)
    job, site = history.jobs[case.name], history.sites["default"]
    assert site.spans(job, asked=True) == [(T0, T0 + 2 * HOUR)]
    paused = bool(case.job.get("pauses"))
    assert site.spans(job) == ([(T0, T0 + 100)] if paused else [(T0, None)])
    assert site.rates(job) == {"resource": 2, "node": 1}


@cases(
    Case("finishing-for-ever", {"state": "Finishing", "stop": T0 + HOUR}, classic=(0, 0)),
    Case(
        "finishing-at-once",
        {"state": "Finishing", "stop": T0},
        asked=0,
        used=0,
        classic=(0, 0),
    ),
)
def test_a_job_stuck_in_finishing_ends_at_its_stop_time(case: Case, history: History) -> None:
    check(case, history)
    assert history.rows["default"][history.jobs[case.name]]["unsettled"] == 1
    assert history.rows["classic"][history.jobs[case.name]]["closed"] == 0


@cases(
    Case("resubmitted-and-ended", {"submission": T0 - 9 * HOUR}),
    Case("accounted-by-oar", {}, accounted="YES"),
)
def test_a_job_counts_once_whatever_oar_has_accounted(case: Case, history: History) -> None:
    check(case, history)


def test_what_oar_has_accounted_is_not_even_read() -> None:
    columns = {c.name for t in oar_tables.metadata.tables.values() for c in t.columns}
    assert "accounted" not in columns
    assert {"job_id", "stop_time"} <= columns


def test_every_job_has_its_row(history: History) -> None:
    for site in SITES:
        assert set(history.rows[site]) == set(history.jobs.values())


# -- 2-6: other resource types ----------------------------------------------------------------


@cases(
    nothing("licences-only", resources=(LICENCE, LICENCE + 1)),
    Case("cores-and-a-licence", {"resources": (*CORES, LICENCE)}),
)
def test_the_built_in_metric_counts_resources_of_type_default(case: Case, history: History) -> None:
    check(case, history)


def test_other_resource_types_have_metrics_of_their_own(history: History) -> None:
    seconds = {
        "licences-only": (4 * HOUR, 2 * HOUR),
        "cores-and-a-licence": (2 * HOUR, HOUR),
    }
    assert history.sites["default"].by("user", "licence") == seconds
    assert history.sites["both"].by("user", "licence") == seconds


def test_classic_leaves_out_a_job_without_a_resource_of_type_default(history: History) -> None:
    site = history.sites["classic"]
    assert site.by("user", "licence") == {"cores-and-a-licence": (2 * HOUR, HOUR)}
    job = history.jobs["licences-only"]
    assert site.spans(job) == [] == site.spans(job, asked=True)


# -- 2-8, 3-4: quotes -------------------------------------------------------------------------

NASTY = "l'eau\"; DROP TABLE jobs; --\\' %s %(x)s :y {z} été\t\n日本 "


@cases(Case(NASTY, {"project": NASTY + "p", "queue": NASTY + "q"}))
def test_names_are_values_and_never_sql(case: Case, history: History) -> None:
    check(case, history)
    site = history.sites["default"]
    everything = site.accounting.usage(("user", "project", "queue")).rows
    assert (NASTY, NASTY + "p", NASTY + "q") in {row.group for row in everything}


@cases(
    Case("Bob", {}),
    Case("bob", {"stop": T0 + 1}, used=1),
    Case("bob ", {"stop": T0 + 2}, used=2),
    Case("böb", {"stop": T0 + 3}, used=3),
    Case("", {"stop": T0 + 4}, used=4),
)
def test_names_that_differ_in_a_byte_are_two_names(case: Case, history: History) -> None:
    check(case, history)


# -- times that cannot be ---------------------------------------------------------------------


def wrong(name: str, trouble: str, **job: Any) -> Case:
    """A job that is reported and counts for nothing."""
    return Case(name, job, asked=0, used=0, trouble=trouble)


@cases(
    wrong("started-in-1970", "start_time is 1", start=1, stop=T0),
    wrong("never-started-yet-ended", "start_time is 0", start=0, stop=T0),
    wrong("stopped-before-the-start", f"stop_time {T0 - 1} is before {T0}", stop=T0 - 1),
    wrong("of-a-negative-walltime", "walltime is -5 s", walltime=-5),
    wrong("of-a-million-days", "1000001 windows", stop=T0 + (10**6 - 1) * 86_400 + 1),
    Case(
        "finishing-without-a-start",
        {"state": "Finishing", "start": 0, "stop": T0},
        asked=0,
        used=0,
        open=True,
        trouble="start_time is 0",
    ),
)
def test_impossible_times_are_reported_and_count_for_nothing(case: Case, history: History) -> None:
    check(case, history)


def rows_of(**job: Any) -> JobRows:
    """A single job as it is read from OAR."""
    values = {
        "job_id": 7,
        "user": "bob",
        "project": "default",
        "queue": "default",
        "state": "Terminated",
        "submission_time": T0 - 60,
        "start_time": T0,
        "stop_time": T0 + HOUR,
        "moldable": 70,
        "walltime": 2 * HOUR,
        "suspended": False,
        "name": "",
        "exit_code": None,
        "reservation": "None",
        **job,
    }
    texts = ("user", "project", "queue", "state", "name", "exit_code", "reservation")
    kinds: dict[str, Any] = dict.fromkeys(texts, object)
    kinds["suspended"] = np.bool_
    return JobRows.of(np.array([v], kinds.get(k, np.int64)) for k, v in values.items())


@pytest.mark.parametrize(
    ("name", "times"),
    [
        ("start_time", {"start_time": 2**61, "stop_time": 2**62}),
        ("stop_time", {"stop_time": 2**62}),
        ("walltime", {"walltime": 2**62}),
    ],
)
def test_a_time_beyond_any_calendar_is_reported(name: str, times: Mapping[str, int]) -> None:
    rows = rows_of(**times)
    assert impossible(rows, phases(rows, Terms())) == {7: f"{name} is beyond any calendar"}


# -- exactly ----------------------------------------------------------------------------------

instants = some.integers(min_value=T0 - 20, max_value=T0 + 60)
pauses = some.lists(some.tuples(instants, instants | some.just(OPEN)), min_size=1, max_size=6)


@given(pauses, some.integers(min_value=0, max_value=40))
def test_every_second_is_used_in_which_a_job_was_not_paused(
    paused: list[tuple[int, int]], seconds: int
) -> None:
    stop = T0 + seconds
    spans = spans_of(rows_of(stop_time=stop), {7: paused}, Terms())
    used = spans.take(spans.asked == 0)
    expected = [second for second in range(T0, stop) if not any(a <= second < b for a, b in paused)]
    found = [
        second
        for a, b in zip(used.start_time.tolist(), used.stop_time.tolist(), strict=True)
        for second in range(a, b)
    ]
    assert found == expected


@pytest.mark.databases("sqlite")
def test_what_is_used_falls_into_the_windows_in_which_it_was_used(engine: Engine) -> None:
    oar = SmallOar(engine)
    oar.add_job(start=T0 - 50, stop=T0 + 70, walltime=100, cores=3, pauses=[(T0 - 10, T0 + 10)])
    site = recorded(engine)
    windows = [
        (row.asked, row.used)
        for start in (T0 - 86_400, T0)
        for row in site.accounting.usage((), ("resource",), start, start + 86_400).rows
    ]
    assert windows == [(3 * 50, 3 * 40), (3 * 50, 3 * 60)]


@given(pauses, some.integers(0, 60), some.integers(1, 30), some.integers(0, 20), some.booleans())
def test_with_a_grace_a_job_uses_the_same_seconds_until_it_has_used_what_it_may(
    paused: list[tuple[int, int]], seconds: int, walltime: int, grace: int, is_open: bool
) -> None:
    given_times = {"state": "Running", "stop_time": 0} if is_open else {"stop_time": T0 + seconds}
    rows = rows_of(walltime=walltime, **given_times)
    end = T0 + 200
    plain, granted = (spans_of(rows, {7: paused}, terms) for terms in (Terms(), Terms(grace=grace)))
    assert seconds_used(granted, end) == seconds_used(plain, end)[: walltime + grace]
    assert asked_of(granted) == asked_of(plain)
    straight, bounded = (spans_of(rows, {}, terms) for terms in (Terms(), Terms(grace=grace)))
    assert seconds_used(bounded, end) == seconds_used(straight, end)[: walltime + grace]


def seconds_used(spans: Spans, end: int) -> list[int]:
    """Each second before the *end* that was used, in order."""
    used = spans.take(spans.asked == 0)
    times = zip(used.start_time.tolist(), used.stop_time.tolist(), strict=True)
    return [second for start, stop in times for second in range(start, min(stop, end))]


def asked_of(spans: Spans) -> list[tuple[int, int]]:
    """When it asked for what it held."""
    asked = spans.take(spans.asked == 1)
    return list(zip(asked.start_time.tolist(), asked.stop_time.tolist(), strict=True))


def test_where_the_walltime_is_not_known_there_is_no_end_to_it() -> None:
    rows = rows_of(walltime=0)
    assert seconds_used(spans_of(rows, {}, Terms(grace=60)), T0 + HOUR) == list(
        range(T0, T0 + HOUR)
    )


def test_the_classic_reading_knows_no_grace() -> None:
    rows = rows_of(walltime=10)
    terms = Terms(profile="classic", grace=60)
    assert len(seconds_used(spans_of(rows, {}, terms), T0 + DAY)) == HOUR

"""Jobs that OAR 3 gave up before they ran, as its events tell it, and what is read to know it."""

from collections.abc import Iterator

import pytest
from sqlalchemy import Engine, create_engine, event, make_url, text

from oar_accounting import Accounting
from tests.servers import Database
from tests.small_oar import HOUR, NOW, T0, Recorded, SmallOar, opened, recorded, stopped_clock

#: Upon these OAR 3 gives a job up while it launches it.
BEFORE_THE_START = [
    *("SERVER_PROLOGUE_TIMEOUT", "SERVER_PROLOGUE_EXIT_CODE_ERROR", "PROLOGUE_ERROR"),
    *("PING_CHECKER_NODE_SUSPECTED", "CPUSET_ERROR", "LAUNCHING_OAREXEC_TIMEOUT"),
    *("CANNOT_WRITE_NODE_FILE", "USER_SHELL", "CANNOT_CREATE_TMP_DIRECTORY"),
    *("SSH_TRANSFER_TIMEOUT", "BAD_HASHTABLE_DUMP", "RESERVATION_NO_NODE"),
]
AFTERWARDS = [
    *("SERVER_EPILOGUE_TIMEOUT", "EPILOGUE_ERROR", "PING_CHECKER_NODE_SUSPECTED_END_JOB"),
    *("CPUSET_CLEAN_ERROR", "CPUSET_MANAGER_FILE", "EXTERMINATE_JOB", "EXIT_VALUE_OAREXEC"),
    *("CANNOT_WRITE_PID_FILE", "WORKING_DIRECTORY", "FRAG_JOB_REQUEST", "WALLTIME"),
]
COUNTED = (8 * 2 * HOUR, 8 * HOUR)


def oar_3(engine: Engine) -> SmallOar:
    """A small OAR 3."""
    oar = SmallOar(engine)
    with engine.begin() as connection:
        connection.execute(text("ALTER TABLE jobs ADD last_karma real"))
    return oar


@pytest.fixture
def oar(engine: Engine) -> Iterator[SmallOar]:
    with stopped_clock():
        yield oar_3(engine)


def failed(oar: SmallOar, kind: str, user: str, *, reservation: str = "None") -> int:
    """A job that was launched for an hour, and of which OAR noted an event."""
    job = oar.add_job(user=user, state="Error")
    oar.update_job(job, reservation=reservation)
    oar.add_state(job, "Launching", T0, T0 + HOUR)
    oar.add_event(kind, job, T0 + HOUR)
    return job


def test_an_event_that_prevents_the_start_tells_that_a_job_never_ran(
    oar: SmallOar, engine: Engine
) -> None:
    for kind in (*BEFORE_THE_START, *AFTERWARDS):
        failed(oar, kind, kind)
    # OAR 3 loses Running rows: that there is none says nothing.
    oar.add_state(oar.add_job(user="quiet"), "Launching", T0, T0 + 9)
    # What ran has run.
    oar.add_state(failed(oar, "LAUNCHING_OAREXEC_TIMEOUT", "late"), "Running", T0 + 9, T0 + HOUR)
    found = recorded(engine)
    assert found.by("user") == dict.fromkeys((*AFTERWARDS, "quiet", "late"), COUNTED)
    assert {job["state"] for job in found.jobs().values()} == {"Error", "Terminated"}
    assert len(found.jobs()) == len(BEFORE_THE_START) + len(AFTERWARDS) + 2


def test_a_reservation_goes_on_without_the_nodes_that_do_not_answer(
    oar: SmallOar, engine: Engine
) -> None:
    for kind in ("PING_CHECKER_NODE_SUSPECTED", "CPUSET_ERROR", "RESERVATION_NO_NODE"):
        failed(oar, kind, kind, reservation="Scheduled")
    counted = ("PING_CHECKER_NODE_SUSPECTED", "CPUSET_ERROR")
    assert recorded(engine).by("user") == dict.fromkeys(counted, COUNTED)


def test_the_job_that_oar_submits_in_its_place_counts_once(oar: SmallOar, engine: Engine) -> None:
    failed(oar, "PROLOGUE_ERROR", "bob")
    oar.add_job(user="bob", start=T0 + HOUR, stop=T0 + 2 * HOUR)
    assert recorded(engine).by("user") == {"bob": COUNTED}


@pytest.mark.parametrize("profile", ["default", "classic"])
def test_oar_2_5_9_counts_them(oar: SmallOar, engine: Engine, profile: str) -> None:
    failed(oar, "PROLOGUE_ERROR", "bob")
    found = recorded(engine, f'profile = "{profile}"\n').by("user")
    assert found == ({"bob": COUNTED} if profile == "classic" else {})


def test_karma_counts_no_job_that_never_ran_before_a_pass_nor_after(
    oar: SmallOar, engine: Engine
) -> None:
    oar.add_job(user="alice")
    oar.add_job(user="bob", state="Waiting", start=0, moldable=False)
    oar.add_job(user="alice", state="Waiting", start=0, moldable=False)
    toml = '[karma]\npolicy = "linear"\nwindow = "7d"\n[[karma.terms]]\nby = "user"\n'
    accounting = opened(engine, toml + 'metric = "resource"\n')
    accounting.catch_up()
    before = karmas(accounting)
    failed(oar, "PROLOGUE_ERROR", "bob")
    assert karmas(accounting) == before
    accounting.catch_up()
    assert karmas(accounting) == before
    assert accounting.verify() == []


def karmas(accounting: Accounting) -> list[tuple[int, float]]:
    """The waiting jobs in order, each with its karma."""
    return [(job.job_id, job.karma) for job in accounting.karma(now=NOW)]


def test_what_was_recorded_before_the_event_was_there_follows_it(
    oar: SmallOar, engine: Engine
) -> None:
    job = oar.add_job(user="bob", state="Finishing", stop=T0 + HOUR)
    accounting = opened(engine)
    accounting.catch_up()
    assert Recorded(accounting).by("user") == {"bob": COUNTED}
    oar.add_event("PROLOGUE_ERROR", job, T0 + HOUR)
    oar.update_job(job, state="Error")
    accounting.catch_up()
    assert Recorded(accounting).by("user") == {}
    assert accounting.verify() == []


def test_a_rebuild_reads_again_what_was_recorded_as_if_it_had_run(
    oar: SmallOar, engine: Engine
) -> None:
    job = oar.add_job(user="bob", state="Error")
    accounting = opened(engine)
    accounting.catch_up()
    oar.add_event("PROLOGUE_ERROR", job, T0 + HOUR)
    accounting.catch_up(full=True)
    assert Recorded(accounting).by("user") == {"bob": COUNTED}
    accounting.rebuild(from_oar=True)
    assert Recorded(accounting).by("user") == {}
    accounting.rebuild(metric="node", from_oar=True)
    assert Recorded(accounting).by("user", "node") == {}
    assert accounting.verify() == []


# -- where the log cannot be read -----------------------------------------------------------------


def test_without_the_log_of_events_jobs_count_and_the_doctor_says_so(
    oar: SmallOar, engine: Engine
) -> None:
    failed(oar, "PROLOGUE_ERROR", "bob")
    with engine.begin() as connection:
        connection.execute(text("DROP TABLE event_logs"))
    found = recorded(engine)
    assert found.by("user") == {"bob": COUNTED}
    (finding,) = told(found.accounting)
    assert "they count as if they had run" in finding
    assert "OAR's table 'event_logs' cannot be read" in finding
    assert "rebuild --from-oar" in finding
    assert told(opened(engine, 'profile = "classic"\n')) == []


@pytest.mark.databases("postgresql")
def test_a_role_that_may_not_read_the_log_is_told_what_gives_it_the_right(
    oar: SmallOar, engine: Engine, database: Database
) -> None:
    failed(oar, "PROLOGUE_ERROR", "bob")
    opened(engine)
    with engine.begin() as connection:
        connection.execute(text("CREATE ROLE lesser LOGIN PASSWORD 'x'"))
        connection.execute(text("GRANT ALL ON ALL TABLES IN SCHEMA public TO lesser"))
        connection.execute(text("GRANT ALL ON ALL SEQUENCES IN SCHEMA public TO lesser"))
        connection.execute(text("REVOKE ALL ON event_logs FROM lesser"))
    as_lesser = create_engine(make_url(database.url).set(username="lesser", password="x"))
    accounting = opened(as_lesser)
    report = accounting.catch_up()
    assert report.problems == ()
    (notice,) = report.notices
    assert notice.startswith("jobs that OAR gave up before they ran are counted: ")
    assert Recorded(accounting).by("user") == {"bob": COUNTED}
    (finding,) = told(accounting)
    assert "the role lesser may not read OAR's table event_logs; roles.sql lets it" in finding
    as_lesser.dispose()
    with engine.begin() as connection:
        connection.execute(text("DROP OWNED BY lesser"))
        connection.execute(text("DROP ROLE lesser"))


def test_the_doctor_has_nothing_to_say_where_the_log_can_be_read(
    oar: SmallOar, engine: Engine
) -> None:
    assert told(opened(engine)) == []


def told(accounting: Accounting) -> list[str]:
    """What the doctor says of jobs that never ran."""
    findings = accounting.doctor().findings
    return [each.said for each in findings if each.subject == "jobs that never ran"]


# -- what it costs --------------------------------------------------------------------------------


def logs_read(engine: Engine, accounting: Accounting) -> list[str]:
    """The statements of a pass that look for jobs that never ran."""
    seen: list[str] = []

    def note(*given: object) -> None:
        seen.append(str(given[2]))

    event.listen(engine, "before_cursor_execute", note)
    accounting.catch_up()
    event.remove(engine, "before_cursor_execute", note)
    groups = ("GROUP BY job_state_logs", "event_logs.job_id")
    return [each for each in seen if any(group in each for group in groups)]


@pytest.mark.databases("sqlite")
@pytest.mark.parametrize("is_oar3", [False, True])
def test_a_block_of_jobs_costs_one_query_and_none_where_nothing_is_meant(
    engine: Engine, is_oar3: bool
) -> None:
    oar = oar_3(engine) if is_oar3 else SmallOar(engine)
    with stopped_clock():
        accounting = opened(engine)
        for state in ("Waiting", "Running"):
            oar.add_job(state=state)
        oar.add_job(state="Error", stop=T0)
        assert logs_read(engine, accounting) == []
        for _ in range(40):
            oar.add_job()
        assert len(logs_read(engine, accounting)) == 1

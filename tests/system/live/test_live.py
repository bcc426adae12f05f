"""The library on a real OAR server: whatever becomes of a job, the ledger says what its rows say.

Nobody runs a command of ours: the server calls the hook, and a timer stands for cron. All stories
of the first act happen at the same time while the timer rests: what is recorded then, the hook
brought. In the second act PostgreSQL, and then the OAR server itself, come to harm.
"""

import os
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime

import psycopg2
import pytest

from oar_accounting import Accounting
from tests.system.live.conftest import TOLD
from tests.system.live.installed import HOOK, TOML, VARIABLES, call, install, timer
from tests.system.live.machine import (
    HOME,
    OAR_CONF,
    PLACE,
    USERS,
    MachineError,
    missing,
    place,
    repeated,
    wait_until,
)
from tests.system.live.oar_server import ENDED, NODES, RESOURCES_PER_NODE, OarServer
from tests.system.live.reading import job_row, recorded

ASKED_FOR = "OAR_ACCOUNTING_TEST_LIVE"
MINUTE = 60.0
LONG = "sleep 3600"

#: oardel forces no job to its end before some time-outs are over, together five seconds of these.
HASTY = {"OAR_SSH_CONNECTION_TIMEOUT": "1", "SERVER_PROLOGUE_EPILOGUE_TIMEOUT": "1"}

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        os.environ.get(ASKED_FOR) != "1",
        reason=f"takes this machine's OAR for itself; {ASKED_FOR}=1 lets it",
    ),
]

Story = Callable[[OarServer], list[int]]
Played = dict[Story, Future[list[int]]]


def until_told(name: str) -> str:
    """The command of a job that ends when it is told to."""
    return f"until [ -e {HOME}/{name} ]; do sleep 0.5; done"


def tell(name: str) -> None:
    """Tell the jobs of this name to end."""
    (HOME / name).touch()


# -- the first act: what may become of a job ---------------------------------------------------


def normal_end(oar: OarServer) -> list[int]:
    """A job on two nodes."""
    (job,) = oar.submit(
        *("alice", "sleep 5", "--project", "weather"),
        request="network_address=2/resource_id=1",
        nodes=NODES[:2],
    )
    assert oar.wait(job, *ENDED) == "Terminated"
    assert job_row(oar, job).nodes == 2
    return [job]


def non_zero_exit(oar: OarServer) -> list[int]:
    """For OAR that is an end like another."""
    (job,) = oar.submit("bob", "sleep 3; exit 3")
    assert oar.wait(job, *ENDED) == "Terminated"
    assert oar.ask("select exit_code from jobs where job_id = %s", job) == [(3 << 8,)]
    return [job]


def deleted_while_running(oar: OarServer) -> list[int]:
    """By its user."""
    (job,) = oar.submit("alice", LONG)
    oar.wait(job, "Running")
    oar.delete(job)
    assert oar.wait(job, *ENDED) == "Error"
    return [job]


def deleted_while_waiting(oar: OarServer) -> list[int]:
    """For the end of another job. OAR calls no hook for it; that of the other finds both."""
    (first,) = oar.submit("alice", until_told("first"), nodes=NODES[1:2])
    (second,) = oar.submit("bob", LONG, "--anterior", first)
    oar.wait(first, "Running")
    oar.delete(second)
    assert oar.wait(second, *ENDED) == "Error"
    tell("first")
    assert oar.wait(first, *ENDED) == "Terminated"
    assert job_row(oar, second).due() == {}
    return [first, second]


def walltime_reached(oar: OarServer) -> list[int]:
    """OAR ends it some time later."""
    (job,) = oar.submit("bob", LONG, walltime=5)
    assert oar.wait(job, *ENDED) == "Error"
    amounts = job_row(oar, job).due()["resource"]
    assert amounts.used > amounts.asked == 5
    return [job]


def besteffort_preempted(oar: OarServer) -> list[int]:
    """By a job of a better queue that needs the same node."""
    every = f"resource_id={RESOURCES_PER_NODE}"
    (weak,) = oar.submit("bob", LONG, "-t", "besteffort", request=every, nodes=NODES[3:])
    oar.wait(weak, "Running")
    (strong,) = oar.submit("alice", "sleep 3", request="resource_id=2", nodes=NODES[3:])
    assert oar.wait(weak, *ENDED) == "Error"
    assert oar.wait(strong, *ENDED) == "Terminated"
    return [weak, strong]


def suspended_and_resumed(oar: OarServer) -> list[int]:
    """The time between is not used."""
    (job,) = oar.submit("alice", until_told("resumed"), request="resource_id=2", nodes=NODES[1:2])
    oar.wait(job, "Running")
    oar.suspend(job)
    oar.wait(job, "Suspended")
    time.sleep(3)
    oar.resume(job)
    oar.wait(job, "Running")
    tell("resumed")
    assert oar.wait(job, *ENDED) == "Terminated"
    row = job_row(oar, job)
    assert len(row.paused) >= 3
    assert row.due()["resource"].used == 2 * (row.stop - row.start - len(row.paused))
    return [job]


def walltime_changed(oar: OarServer) -> list[int]:
    """Asked is what it was in the end."""
    (job,) = oar.submit("bob", until_told("changed"), walltime=300)
    oar.wait(job, "Running")
    oar.change_walltime(job, "+0:2:0")
    wait_until(lambda: job_row(oar, job).walltime == 420, "the walltime is changed")
    tell("changed")
    assert oar.wait(job, *ENDED) == "Terminated"
    assert job_row(oar, job).due()["resource"].asked == 420
    return [job]


def array_of_three(oar: OarServer) -> list[int]:
    """Three jobs for OAR and for us."""
    jobs = oar.submit("alice", "sleep 4", "--array", 3, nodes=NODES[1:2])
    assert [oar.wait(job, *ENDED) for job in jobs] == ["Terminated"] * 3
    return jobs


def noop_killed(oar: OarServer) -> list[int]:
    """It runs nothing; OAR calls the hook within the transaction that ends it."""
    (job,) = oar.submit("bob", "", "-t", "noop", nodes=NODES[1:2])
    oar.wait(job, "Running")
    oar.delete(job)
    assert oar.wait(job, *ENDED) == "Terminated"
    return [job]


def container_with_inner(oar: OarServer) -> list[int]:
    """The container is billed, and what runs within it is not."""
    (outer,) = oar.submit(
        *("alice", LONG, "-t", "container"), request="resource_id=4", nodes=NODES[2:3]
    )
    oar.wait(outer, "Running")
    (inner,) = oar.submit("bob", "sleep 5", "-t", f"inner={outer}", walltime=60, nodes=NODES[2:3])
    assert oar.wait(inner, *ENDED) == "Terminated"
    oar.delete(outer)
    assert oar.wait(outer, *ENDED) == "Error"
    assert job_row(oar, inner).due() == {}
    return [outer, inner]


def advance_reservation(oar: OarServer) -> list[int]:
    """OAR shortens its walltime where it begins late."""
    begin = datetime.fromtimestamp(time.time() + 15, UTC).strftime("%F %T")
    (job,) = oar.submit(
        *("alice", "sleep 4", "-r", begin), request="resource_id=3", nodes=NODES[2:3]
    )
    assert oar.wait(job, *ENDED) == "Terminated"
    return [job]


FIRST_ACT: tuple[Story, ...] = (
    normal_end,
    non_zero_exit,
    deleted_while_running,
    deleted_while_waiting,
    walltime_reached,
    besteffort_preempted,
    suspended_and_resumed,
    walltime_changed,
    array_of_three,
    noop_killed,
    container_with_inner,
    advance_reservation,
)


# -- the stage ---------------------------------------------------------------------------------


class Watch:
    """What somebody who looks on sees: jobs closed in the ledger, and queues that are shut."""

    def __init__(self, oar: OarServer) -> None:
        self.closed: dict[int, float] = {}
        self.shut: set[str] = set()
        self._oar = oar

    def look(self) -> None:
        """Look once; while PostgreSQL is away there is nothing to see."""
        with suppress(psycopg2.OperationalError, psycopg2.InterfaceError):
            for (job,) in self._oar.ask("select job_id from accounting_jobs where closed = 1"):
                self.closed.setdefault(job, time.time())
            shut = self._oar.ask("select queue_name from queues where state <> 'Active'")
            self.shut.update(queue for (queue,) in shut)


@dataclass(frozen=True, slots=True)
class Stage:
    """The OAR server, who looks on, and what is told at the end."""

    oar: OarServer
    watch: Watch
    told: list[str]

    def check(self, story: str, job: int) -> None:
        """The ledger has this job, which has ended, within a minute, and as its rows say."""
        wait_until(lambda: job in self.watch.closed, f"job {job} is in the ledger", MINUTE)
        row = job_row(self.oar, job)
        amounts = recorded(self.oar, job)
        assert amounts == row.due()
        asked, used = amounts.get("resource", (0, 0))
        after = self.watch.closed[job] - row.stop
        ran = f"{row.stop - row.start} s on {row.resources}, seen after {after:.0f} s"
        self.told.append(
            f"{story}: job {job} {row.state}, {ran if row.start else 'never ran'}: "
            f"asked {asked}, used {used}"
        )


def needed(request: pytest.FixtureRequest) -> None:
    """Skip where no OAR can be stood up, or fail where it must."""
    if reason := missing():
        if request.config.getoption("--require-databases"):
            pytest.fail(reason)
        pytest.skip(reason)


@pytest.fixture(scope="module")
def stage(request: pytest.FixtureRequest) -> Iterator[Stage]:
    """An OAR server with the library installed and its hook set, as an administrator does it."""
    needed(request)
    with place(), ThreadPoolExecutor() as executor:
        installing = executor.submit(install)
        oar = OarServer()
        installing.result()
        call("init")
        oar.configure(SERVER_EPILOGUE_EXEC_FILE=str(HOOK))
        oar.start(**VARIABLES)
        told = request.config.stash[TOLD]
        told.append(oar.versions())
        watch = Watch(oar)
        with repeated(0.5, watch.look):
            yield Stage(oar, watch, told)


@pytest.fixture(scope="module")
def first_act(stage: Stage) -> Iterator[Played]:
    """The stories of the first act, all begun."""
    with ThreadPoolExecutor(len(FIRST_ACT)) as executor:
        yield {story: executor.submit(story, stage.oar) for story in FIRST_ACT}


@pytest.fixture(scope="module")
def cron(first_act: Played) -> Iterator[list[str]]:
    """The timer, which begins when the first act is over; gives what catch-up said."""
    wait(first_act.values())
    with timer(every=10) as said:
        yield said


# -- the tests ---------------------------------------------------------------------------------


@pytest.mark.parametrize("story", FIRST_ACT, ids=lambda story: str(story.__name__))
def test_the_hook_alone_brings_what_the_rows_say(
    story: Story, stage: Stage, first_act: Played
) -> None:
    for job in first_act[story].result():
        stage.check(story.__name__, job)
        if job_row(stage.oar, job).start:
            assert stage.watch.closed[job] - job_row(stage.oar, job).stop < MINUTE


def test_postgresql_is_stopped_while_jobs_end_and_started_again(
    stage: Stage, cron: list[str]
) -> None:
    oar = stage.oar
    command = f"{until_told('no-postgresql')}; touch {HOME}/$OAR_JOB_ID-has-ended"
    jobs = [oar.submit(user, command)[0] for user in USERS]
    for job in jobs:
        oar.wait(job, "Running")
    with oar.without_database():
        calls = len(cron)
        tell("no-postgresql")
        for job in jobs:
            wait_until((HOME / f"{job}-has-ended").exists, f"the command of job {job} ends")
        wait_until(
            lambda: any("Connection refused" in said for said in cron[calls:]),
            "catch-up finds no PostgreSQL",
        )
        came_back = int(time.time())
    # The server ends itself where a program of its own lost PostgreSQL in the midst of work.
    if not oar.is_running():
        oar.start(**VARIABLES)
    for job in jobs:
        oar.wait(job, *ENDED)
        assert job_row(oar, job).stop >= came_back
        stage.check("postgresql_stopped", job)


def test_the_server_is_killed_during_the_hook(stage: Stage, cron: list[str]) -> None:
    oar = stage.oar
    slow = PLACE / "slow-hook"
    slow.write_text(f'#!/bin/sh\ntouch {HOME}/in-the-hook\nsleep 8\nexec {HOOK} "$@"\n')
    slow.chmod(0o755)
    oar.configure(SERVER_EPILOGUE_EXEC_FILE=str(slow))
    (job,) = oar.submit("alice", "sleep 3", request="resource_id=2")
    wait_until((HOME / "in-the-hook").exists, "the hook is called")
    oar.kill()
    # It stays so for ever: nobody is left to end it.
    assert oar.state(job) == "Finishing"
    stage.check("server_killed", job)
    before = recorded(oar, job)
    oar.configure(SERVER_EPILOGUE_EXEC_FILE=str(HOOK), **HASTY)
    oar.start(**VARIABLES)

    def forced() -> bool:
        with suppress(MachineError):
            oar.delete(job, "--force-terminate-finishing-job")
            return True
        return False

    wait_until(forced, "oardel forces the job to its end")
    oar.wait(job, "Error")
    state = "select state from accounting_jobs where job_id = %s"
    wait_until(lambda: oar.ask(state, job) == [("Error",)], "the ledger has the last state")
    stage.check("server_killed, job_forced_to_end", job)
    assert recorded(oar, job) == before


def test_every_job_of_oar_counts_once(stage: Stage, cron: list[str]) -> None:
    jobs = [job for (job,) in stage.oar.ask("select job_id from jobs")]
    assert {job for (job,) in stage.oar.ask("select job_id from accounting_jobs")} == set(jobs)
    due: Counter[tuple[str, ...]] = Counter()
    for job in jobs:
        row = job_row(stage.oar, job)
        assert recorded(stage.oar, job) == row.due()
        for metric, amounts in row.due().items():
            due[row.user, row.project, metric, "asked"] += amounts.asked
            due[row.user, row.project, metric, "used"] += amounts.used
    with Accounting.open(oar_conf=OAR_CONF, config=TOML) as accounting:
        assert accounting.verify() == []
        report = accounting.usage(("user", "project"), ("resource", "node"))
    assert report.open_jobs == 0
    found: Counter[tuple[str, ...]] = Counter()
    for each in report.rows:
        found[*each.group, each.metric, "asked"] = each.asked
        found[*each.group, each.metric, "used"] = each.used
    assert found == due


def test_no_queue_was_ever_shut(stage: Stage, cron: list[str]) -> None:
    assert stage.watch.shut == set()
    assert stage.oar.ask("select type from event_logs where type like 'SERVER_EPILOGUE%%'") == []
    assert {state for (state,) in stage.oar.ask("select state from queues")} == {"Active"}

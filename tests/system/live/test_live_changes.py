"""A real OAR whose nodes change while jobs run, and whose container goes before what is in it.

What is recorded is compared with what OAR's own rows give, counted here without the library.
"""

import os
import time
from collections.abc import Iterator

import pytest

from oar_accounting import Accounting
from tests.system.live.machine import OAR_CONF, PLACE, place, run
from tests.system.live.oar_server import ENDED, NODES, OarServer
from tests.system.live.test_live import ASKED_FOR, LONG, needed, tell, until_told

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        os.environ.get(ASKED_FOR) != "1",
        reason=f"takes this machine's OAR for itself; {ASKED_FOR}=1 lets it",
    ),
]

MEMORY = '[metrics.memory]\nunit = "MiB·s"\nsum = "mem"\nper = "network_address"\n'


@pytest.fixture(scope="module")
def oar(request: pytest.FixtureRequest) -> Iterator[OarServer]:
    """A server whose nodes have a memory."""
    needed(request)
    with place():
        server = OarServer()
        server.start()
        run("oarproperty", "-a", "mem")
        for node in NODES:
            run("oarnodesetting", "-h", node, "-p", "mem=32")
        time.sleep(2)
        yield server


def opened(toml: str, site: str) -> Accounting:
    file = PLACE / f"{site}.toml"
    file.write_text(toml, encoding="utf-8")
    accounting = Accounting.open(oar_conf=OAR_CONF, config=file, site=site)
    accounting.init()
    return accounting


def used(accounting: Accounting, metric: str) -> dict[str, int]:
    rows = accounting.usage(("user",), (metric,)).rows
    return {row.group[0]: row.used for row in rows if row.used}


def times(oar: OarServer, job: int) -> tuple[int, int]:
    """When a job began and ended."""
    ((start, stop),) = oar.ask("select start_time, stop_time from jobs where job_id = %s", job)
    return int(start), int(stop)


def test_a_job_holds_what_its_node_had_at_each_second(oar: OarServer) -> None:
    (job,) = oar.submit("alice", until_told("extended"), request="resource_id=2", nodes=NODES[:1])
    oar.wait(job, "Running")
    with opened(MEMORY, "before") as accounting:
        accounting.catch_up()
        time.sleep(4)
        run("oarnodesetting", "-h", NODES[0], "-p", "mem=64")
        time.sleep(3)
        accounting.catch_up()
        tell("extended")
        assert oar.wait(job, *ENDED) == "Terminated"
        accounting.catch_up()
        start, stop = times(oar, job)
        ((changed,),) = oar.ask(
            "select distinct date_start from resource_logs join resources using (resource_id)"
            " where attribute = 'mem' and value = '64' and network_address = %s",
            NODES[0],
        )
        assert start < changed < stop
        memory = 32 * (changed - start) + 64 * (stop - changed)
        assert used(accounting, "memory") == {"alice": memory}
        assert accounting.rebuild(from_oar=True).figures == 0
        assert used(accounting, "memory") == {"alice": memory}
        assert accounting.verify() == []
    with opened("", "later") as later:
        later.catch_up()
    with opened(MEMORY, "later") as later:
        later.rebuild(metric="memory")
        assert used(later, "memory") == {"alice": memory}
        (row,) = later.utilisation(["memory"], start, stop).rows
        assert (row.used, row.over) == (memory, 0)


def test_a_job_that_outlives_its_container_is_billed_from_then_on(oar: OarServer) -> None:
    with opened("", "containers") as accounting:
        accounting.catch_up()
        before = used(accounting, "resource")
        (outer,) = oar.submit(
            *("alice", LONG, "-t", "container"), request="resource_id=4", nodes=NODES[2:3]
        )
        oar.wait(outer, "Running")
        (inner,) = oar.submit(
            *("bob", until_told("alone"), "-t", f"inner={outer}"),
            request="resource_id=2",
            walltime=200,
            nodes=NODES[2:3],
        )
        oar.wait(inner, "Running")
        accounting.catch_up()
        time.sleep(2)
        oar.delete(outer)
        assert oar.wait(outer, *ENDED) == "Error"
        accounting.record([outer])
        time.sleep(3)
        assert oar.state(inner) == "Running"
        tell("alone")
        assert oar.wait(inner, *ENDED) == "Terminated"
        accounting.catch_up()
        begun, ended = times(oar, outer)
        _, stop = times(oar, inner)
        assert used(accounting, "resource") == {
            "alice": before.get("alice", 0) + 4 * (ended - begun),
            "bob": 2 * (stop - ended),
        }
        assert accounting.verify() == []


#: What jobs ask for, and how many resources that is; None: OAR knows only once they start.
REQUESTS = {
    "resource_id=3": 3,
    "nodes=2": 16,
    "nodes=2/resource_id=3": 6,
    "nodes=1+resource_id=2": 10,
    "nodes=ALL": None,
}


def test_a_waiting_job_is_as_large_as_what_it_is_assigned(oar: OarServer) -> None:
    with opened("", "waiting") as accounting:
        (full,) = oar.submit("alice", LONG, request="resource_id=32", nodes=NODES)
        oar.wait(full, "Running")
        jobs = {}
        for request in REQUESTS:
            # A job that ends in the second in which it starts holds nothing.
            (job,) = oar.submit("bob", "sleep 2", request=request, walltime=60, nodes=NODES)
            jobs[job] = REQUESTS[request]
        accounting.catch_up()
        waiting = {job.job_id: job for job in accounting.jobs().jobs if job.job_id in jobs}
        assert {number: job.size for number, job in waiting.items()} == jobs
        assert {(job.walltime, job.started) for job in waiting.values()} == {(60, None)}
        oar.delete(full)
        for job in jobs:
            assert oar.wait(job, *ENDED) == "Terminated"
        accounting.catch_up()
        assigned = dict(
            oar.ask(
                "select moldable_job_id, count(*)::int from assigned_resources"
                " join jobs on assigned_moldable_job = moldable_job_id group by moldable_job_id"
            )
        )
        own = dict(oar.ask("select job_id, assigned_moldable_job from jobs"))
        sizes = {job.job_id: job.size for job in accounting.jobs().jobs if job.job_id in jobs}
        assert sizes == {job: assigned[own[job]] for job in jobs}
        assert sizes == {job: known or 32 for job, known in jobs.items()}


def test_a_property_that_is_dropped_stops_no_recording(oar: OarServer) -> None:
    with opened(MEMORY, "dropped") as accounting:
        accounting.catch_up()
        before = used(accounting, "memory").get("bob", 0)
        run("oarproperty", "-d", "mem")
        try:
            (job,) = oar.submit("bob", "sleep 2", request="resource_id=2")
            assert oar.wait(job, *ENDED) == "Terminated"
            ((last,),) = oar.ask(
                "select distinct value from resource_logs join resources using (resource_id)"
                " where attribute = 'mem' and date_stop = 0 and network_address = %s",
                NODES[0],
            )
            report = accounting.catch_up()
            assert any("no longer have the property 'mem'" in each for each in report.notices)
        finally:
            run("oarproperty", "-a", "mem")
    with opened(MEMORY, "dropped") as accounting:
        start, stop = times(oar, job)
        assert used(accounting, "memory")["bob"] - before == int(last) * (stop - start)
        assert accounting.verify() == []

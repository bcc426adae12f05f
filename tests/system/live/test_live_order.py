"""A real OAR 2 starts its jobs in the order of our karma, or in its own where ours cannot be had.

Three users wait for the whole machine. By OAR's accounting bob has used least and carol most. By
the two metrics of ours carol is first, and neither metric alone, nor the order in which the jobs
were submitted, gives the same.
"""

import os
import re
import socket
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import pytest

from tests.system.live import machine
from tests.system.live.conftest import TOLD
from tests.system.live.installed import PREFIX, STATE, TOML, VARIABLES, call, install
from tests.system.live.machine import PLACE, make_elsewhere, place, run, wait_until
from tests.system.live.oar_server import ENDED, NODES, RESOURCES_PER_NODE, OarServer
from tests.system.live.test_live import ASKED_FOR, needed

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        os.environ.get(ASKED_FOR) != "1",
        reason=f"takes this machine's OAR for itself; {ASKED_FOR}=1 lets it",
    ),
]

STOCK = "oar_sched_gantt_with_timesharing_and_fairsharing_and_quotas"
POLICY = f"karma_then_{STOCK}"
LINK = Path("/usr/lib/oar/schedulers", POLICY)
#: Seconds; for what is broken, too, so that it must not be long.
LIMIT = 8

SETTINGS = """
[karma]
policy = "linear"
open_jobs = "none"
window = "30d"
[[karma.terms]]
by = "user"
metric = "resource"
[[karma.terms]]
by = "user"
metric = "node"
"""
#: The resources of each node, and the nodes, that each had for the same time: of resources, the
#: shares are 8/16, 4/16 and 4/16, of nodes 1/6, 4/6 and 1/6.
RAN = {"alice": (8, 1), "bob": (1, 4), "carol": (4, 1)}
#: What OAR's accounting says that they have used.
ACCOUNTED = {"alice": 200, "bob": 100, "carol": 300}
SUBMITTED = ("alice", "carol", "bob")
OURS, OARS = ["carol", "alice", "bob"], ["bob", "alice", "carol"]


ACCOUNT = """
INSERT INTO accounting
SELECT now - 60, now - 1, :'user', 'default', 'default', :'kind', :'used'
FROM (SELECT extract(epoch FROM now())::integer AS now) t
"""


@dataclass(frozen=True, slots=True)
class Site:
    """The server, and who waits for the job that has all."""

    oar: OarServer

    def wait_in_line(self) -> tuple[int, dict[str, int]]:
        """One job has all resources; one of each user waits for all of them."""
        every = f"resource_id={len(NODES) * RESOURCES_PER_NODE}"
        (hog,) = self.oar.submit("dave", "sleep 3600", request=every, walltime=3600, nodes=NODES)
        self.oar.wait(hog, "Running")
        jobs = {}
        for user in SUBMITTED:
            (jobs[user],) = self.oar.submit(user, "sleep 1", request=every, nodes=NODES)
        wait_until(lambda: len(self.printed(jobs)) == len(jobs), "every job is looked at")
        return hog, jobs

    def printed(self, jobs: dict[str, int]) -> dict[str, float]:
        """The karma in the message of the users' jobs."""
        found = {}
        for user, job in jobs.items():
            ((message,),) = self.oar.ask("SELECT message FROM jobs WHERE job_id = %s", job)
            if said := re.search(r"Karma=([^,)]*)", message):
                found[user] = float(said[1])
        return found

    def starts(self, hog: int, jobs: dict[str, int]) -> list[str]:
        """The users in the order in which their jobs start when all is free."""
        self.oar.delete(hog)
        for job in jobs.values():
            assert self.oar.wait(job, *ENDED) == "Terminated"
        started = {
            user: self.oar.ask("SELECT start_time FROM jobs WHERE job_id = %s", job)[0][0]
            for user, job in jobs.items()
        }
        assert len(set(started.values())) == len(started)
        return sorted(started, key=lambda user: int(started[user]))

    def complaints(self) -> list[str]:
        """Our lines in OAR's log; no queue was ever disabled."""
        log = (PLACE / "oar.log").read_text(encoding="utf-8", errors="replace")
        assert "Disabling queue" not in log
        assert self.oar.ask("SELECT DISTINCT state FROM queues") == [("Active",)]
        return [line for line in log.splitlines() if "[oar-accounting]" in line]


@pytest.fixture(scope="module")
def site(request: pytest.FixtureRequest) -> Iterator[Site]:
    """A server whose default queue asks us, with what the users ran before."""
    needed(request)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(machine, "USERS", ("alice", "bob", "carol", "dave"))
        with place():
            make_elsewhere([str(LINK)])
            oar = OarServer()
            install()
            LINK.symlink_to(PREFIX / "share/oar-accounting/hooks/oar2/karma_scheduler")
            TOML.write_text(SETTINGS, encoding="utf-8")
            oar.start(OAR_ACCOUNTING_KARMA_LIMIT=str(LIMIT), **VARIABLES)
            call("init")
            past(oar)
            tell(
                oar,
                "UPDATE queues SET scheduler_policy = :'a' WHERE queue_name = :'b'",
                a=POLICY,
                b="default",
            )
            yield Site(oar)


def tell(oar: OarServer, statement: str, **values: object) -> None:
    """Change OAR's database as its administrator."""
    script = PLACE / "statement.sql"
    script.write_text(statement, encoding="utf-8")
    given = [f"--set={name}={value}" for name, value in values.items()]
    run("psql", "--quiet", *given, f"--file={script}", "oar", **oar.administrator())


def past(oar: OarServer) -> None:
    """What ran, as we record it, and what OAR's accounting has been told."""
    jobs = []
    for user, (resources, nodes) in RAN.items():
        (job,) = oar.submit(
            *(user, "sleep 10"),
            request=f"network_address={nodes}/resource_id={resources}",
            nodes=NODES,
        )
        jobs.append(job)
        # One after the other: together they would share nodes.
        oar.wait(job, *ENDED)
    call("catch-up")
    for user, used in ACCOUNTED.items():
        for kind in ("USED", "ASKED"):
            tell(oar, ACCOUNT, user=user, kind=kind, used=used)


def test_jobs_start_in_the_order_of_our_karma(site: Site, request: pytest.FixtureRequest) -> None:
    hog, jobs = site.wait_in_line()
    told = re.findall(r"^default +\d+ +(\d+) +(\w+) +default +(-?[\d.]+)", call("karma"), re.M)
    ours = {user: float(karma) for _, user, karma in told}
    assert site.printed(jobs) == ours
    assert sorted(ours, key=lambda user: ours[user]) == OURS
    assert site.starts(hog, jobs) == OURS
    assert site.complaints() == []
    said = ", ".join(f"{user} {ours[user]:.3f}" for user in OURS)
    request.config.stash[TOLD].append(f"order: jobs start by our karma: {said}")


def test_then_in_oars_own_where_our_database_is_out_of_reach(
    site: Site, request: pytest.FixtureRequest
) -> None:
    port = machine.free_ports(1)[0]
    unreachable = f'url = "postgresql://nobody@127.0.0.1:{port}/nothing"\n'
    TOML.write_text(unreachable + SETTINGS, encoding="utf-8")
    # Nobody asks while no job waits, so that none is remembered anew.
    for answer in STATE.glob("last-*"):
        answer.unlink()
    before = len(site.complaints())
    hog, jobs = site.wait_in_line()
    theirs = site.printed(jobs)
    assert sorted(theirs, key=lambda user: theirs[user]) == OARS
    assert site.starts(hog, jobs) == OARS
    complaints = site.complaints()[before:]
    assert complaints
    assert all("queue default: OAR's own karma decides: " in line for line in complaints)
    assert "Connection refused" in complaints[0]
    request.config.stash[TOLD].append(
        f"order: by OAR's own with our database down: {complaints[0]}"
    )


def test_and_where_it_never_answers(site: Site) -> None:
    with closing(socket.create_server(("127.0.0.1", 0))) as listener:
        silent = f'url = "postgresql://nobody@127.0.0.1:{listener.getsockname()[1]}/nothing"\n'
        TOML.write_text(silent + SETTINGS, encoding="utf-8")
        before = len(site.complaints())
        hog, jobs = site.wait_in_line()
        theirs = site.printed(jobs)
        assert sorted(theirs, key=lambda user: theirs[user]) == OARS
        wait_until(lambda: len(site.complaints()) > before, "the log says why")
        assert re.search(r"no answer within|does not answer|timeout expired", site.complaints()[-1])
    TOML.write_text(SETTINGS, encoding="utf-8")
    wait_until(partial(ordered, site, jobs), "our karma decides again")
    assert site.starts(hog, jobs) == OURS


def ordered(site: Site, jobs: dict[str, int]) -> bool:
    """Whether the last round was by our karma."""
    found = site.printed(jobs)
    return sorted(found, key=lambda user: found[user]) == OURS

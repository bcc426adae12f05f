"""Usage in whole windows, against what ``oarstat --accounting`` of a real OAR prints.

OAR counts every window that a span reaches into; its dates are those of the zone in which the
command runs, and its windows are days UTC. So each zone cuts other windows, and in all of them
``--whole-windows`` must count what OAR counts. And the machine of the real OAR: while a node was
down there was as much less to use.
"""

import os
import re
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta

import pytest

from oar_accounting import Accounting
from tests.system.live.machine import OAR_CONF, PLACE, place, run
from tests.system.live.oar_server import ENDED, NODES, RESOURCES_PER_NODE, OarServer
from tests.system.live.test_live import ASKED_FOR, needed

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        os.environ.get(ASKED_FOR) != "1",
        reason=f"takes this machine's OAR for itself; {ASKED_FOR}=1 lets it",
    ),
]

DAY = 86_400
ZONES = ("UTC", "Europe/Paris", "Asia/Tokyo", "America/Los_Angeles", "Pacific/Kiritimati")
OAR = {"OARDIR": "/usr/lib/oar", "OARCONFFILE": str(OAR_CONF), "OARUSER": "oar"}
#: A line of oarstat's table: the user, the first and the last window, asked and used.
LINE = re.compile(r"^(\S+) +\S+ \S+ +\S+ \S+ +(\d+) +(\d+)$", re.M)


@pytest.fixture(scope="module")
def oar(request: pytest.FixtureRequest) -> Iterator[OarServer]:
    """A server on which some jobs have run, which its own accounting has counted."""
    needed(request)
    with place():
        server = OarServer()
        server.start()

        def submit(job: tuple[str, int]) -> list[int]:
            user, cores = job
            return server.submit(user, "sleep 4", request=f"resource_id={cores}", nodes=NODES)

        with ThreadPoolExecutor() as executor:
            jobs = [
                job
                for some in executor.map(submit, [("alice", 1), ("bob", 2), ("alice", 1)])
                for job in some
            ]
        for job in jobs:
            server.wait(job, *ENDED)
        run("oarnodesetting", "-h", NODES[0], "-s", "Dead")
        time.sleep(3)
        run("oarnodesetting", "-h", NODES[0], "-s", "Alive")
        time.sleep(3)
        run("/usr/lib/oar/oaraccounting", user="oar", **OAR)
        yield server


@pytest.fixture(scope="module")
def accounting(oar: OarServer) -> Iterator[Accounting]:
    """Our accounting of it, which reads as OAR does."""
    toml = PLACE / "classic.toml"
    toml.write_text('profile = "classic"\n', encoding="utf-8")
    with Accounting.open(oar_conf=OAR_CONF, config=toml, site="classic") as opened:
        opened.init()
        assert opened.catch_up().problems == ()
        yield opened


@pytest.mark.parametrize("zone", ZONES)
def test_whole_windows_are_those_that_oarstat_counts(
    oar: OarServer, accounting: Accounting, zone: str
) -> None:
    today = datetime.now(UTC).date()
    counted = 0
    for first in range(-2, 3):
        for last in range(first + 1, 4):
            dates = [str(today + timedelta(days=days)) for days in (first, last)]
            printed = run(
                *("/usr/lib/oar/oarstat", "--accounting", ", ".join(dates)),
                user="oar",
                **OAR,
                TZ=zone,
            )
            theirs = {user: (int(asked), int(used)) for user, asked, used in LINE.findall(printed)}
            start, stop = (accounting.instant(each, zone) for each in dates)
            rows = accounting.usage(("user",), ("resource",), start, stop, whole_windows=True).rows
            assert {row.group[0]: (row.asked, row.used) for row in rows} == theirs, (zone, dates)
            counted += len(theirs)
    assert counted > 0


def test_while_a_node_is_down_there_is_as_much_less(oar: OarServer, accounting: Accounting) -> None:
    logs = oar.ask("select value, date_start, date_stop from resource_logs where attribute='state'")
    first = min(start for _, start, _ in logs)
    now = int(time.time()) - 1
    report = accounting.utilisation(("resource",), first, now, bucket=1)
    resources = len(NODES) * RESOURCES_PER_NODE
    for row in report.rows:
        known = [
            v for v, start, stop in logs if start <= row.start and (row.start < stop or not stop)
        ]
        down = sum(value != "Alive" for value in known)
        assert row.capacity == len(known) <= resources
        assert row.down + row.standby == down
        assert row.used + row.free == len(known) - down
    assert any(row.down for row in report.rows)
    used = accounting.usage((), ("resource",), first, now).rows[0].used
    assert sum(row.used + row.over for row in report.rows) == used

"""OAR's own karma, against what the Perl schedulers of a real OAR print of every waiting job.

In the first act the server itself calls them, as often as it likes. In the second they are called
by hand, each with other settings and at the very second in which a window begins to count or ceases
to: these windows lie in the far future, where they do not weigh on the first act.
"""

import itertools
import os
import re
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial

import pytest
from sqlalchemy import URL, Engine, create_engine, text

from oar_accounting import Accounting
from oar_accounting.database import dialects
from oar_accounting.karma.oar_sums import read_sums, stock_rule
from oar_accounting.karma.policies.oar import evaluate
from oar_accounting.settings.oar_conf import read_oar_conf
from tests.system.live import machine
from tests.system.live.conftest import TOLD
from tests.system.live.machine import OAR_CONF, MachineError, place, run, wait_until
from tests.system.live.oar_server import NODES, RESOURCES_PER_NODE, OarServer
from tests.system.live.test_live import ASKED_FOR, needed

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        os.environ.get(ASKED_FOR) != "1",
        reason=f"takes this machine's OAR for itself; {ASKED_FOR}=1 lets it",
    ),
]

USERS = ("alice", "bob", "carol", "dave")
PROJECTS = ("default", "weather", "first")
#: A queue with the scheduler that knows no quotas; OAR's own queues have the one that does.
QUEUE, POLICY = "night", "oar_sched_gantt_with_timesharing_and_fairsharing"
WITH_QUOTAS = f"{POLICY}_and_quotas"
POLICIES = {"default": WITH_QUOTAS, "besteffort": WITH_QUOTAS, QUEUE: POLICY}
#: The jobs that wait: of each user and project, and of each user in each of the other queues.
WAITING = len(USERS) * (len(PROJECTS) + 2)

DAY = 86_400
KEY = "SCHEDULER_FAIRSHARING_"
SETTINGS = {
    f"{KEY}WINDOW_SIZE": str(30 * DAY),
    f"{KEY}PROJECT_TARGETS": "{ 'weather' => 60, default => 12.5 }",
    f"{KEY}USER_TARGETS": "{ alice => 40, 'bob', 7.5, carol => '60', }",
    f"{KEY}COEF_PROJECT": "3",
    f"{KEY}COEF_USER": "1.5",
    f"{KEY}COEF_USER_ASK": "1",
}
OTHER_SETTINGS = {
    f"{KEY}WINDOW_SIZE": str(DAY),
    f"{KEY}PROJECT_TARGETS": "{}",
    f"{KEY}USER_TARGETS": '{ "dave" => -10, 7 => 1, alice => 1.25e1 }',
    f"{KEY}COEF_PROJECT": "-.5",
    f"{KEY}COEF_USER": "0",
    f"{KEY}COEF_USER_ASK": "3e0",
}


@dataclass(frozen=True, slots=True)
class Site:
    """The server, its database and where the far windows lie."""

    oar: OarServer
    engine: Engine
    future: int  #: a bound of windows of a day

    def execute(self, statement: str, **values: object) -> None:
        """Change the database as its administrator."""
        with self.engine.begin() as connection:
            connection.execute(text(statement), values)

    def account(self, start: int, user: str, project: str, queue: str, **amounts: int) -> None:
        """Add to OAR's accounting what was used and asked in a window."""
        for kind, amount in amounts.items():
            self.execute(
                "INSERT INTO accounting VALUES (:start, :last, :user, :project, :queue, :kind, :n)",
                start=start,
                last=start + DAY - 1,
                user=user,
                project=project,
                queue=queue,
                kind=kind.upper(),
                n=amount,
            )

    def call_scheduler(self, queue: str, now: int) -> None:
        """Let the scheduler of a queue look at its jobs, as if it were *now*."""
        self.execute("DELETE FROM gantt_jobs_predictions WHERE moldable_job_id <> 0")
        self.execute("DELETE FROM gantt_jobs_resources WHERE moldable_job_id <> 0")
        self.execute("UPDATE jobs SET message = '' WHERE state = 'Waiting'")
        date = time.strftime("%Y-%m-%d %H:%M:%S", time.gmtime(now))
        variables = {"OARDIR": "/usr/lib/oar", "OARCONFFILE": str(OAR_CONF), "OARUSER": "oar"}
        program = f"/usr/lib/oar/schedulers/{POLICIES[queue]}"
        run(program, queue, now, date, user="oar", **variables)

    def printed(self) -> dict[int, str]:
        """The karma in the message of each waiting job that has one."""
        rows = self.oar.ask("SELECT job_id, message FROM jobs WHERE state = 'Waiting'")
        found = {job: re.search(r"Karma=([^,)]*)", message) for job, message in rows}
        return {job: karma[1] for job, karma in found.items() if karma is not None}

    def has_printed(self, number: int) -> bool:
        """Whether so many waiting jobs have one."""
        return len(self.printed()) == number

    def ours(self, now: int) -> dict[int, str]:
        """The same as we calculate it, from the settings and the database of the server."""
        rule = stock_rule(read_oar_conf(OAR_CONF), str(OAR_CONF))
        waiting = "SELECT job_id, job_user, project, queue_name FROM jobs WHERE state = 'Waiting'"
        jobs, users, projects, queues = zip(*self.oar.ask(waiting), strict=True)
        with dialects.reading(self.engine) as connection:
            sums = read_sums(connection, rule, now, set(queues))
        karma = evaluate(rule, sums, users, projects, queues).karma
        found = {job: f"{value:.3f}" for job, value in zip(jobs, karma, strict=True)}
        with Accounting.open(oar_conf=OAR_CONF) as accounting:
            report = accounting.karma(now=now)
        assert {job.job_id: f"{job.karma:.3f}" for job in report} == found
        return found

    def compared(self, now: int, queue: str) -> dict[int, str]:
        """What a scheduler called by hand prints of its jobs, which is what we calculate."""
        self.call_scheduler(queue, now)
        query = "SELECT job_id FROM jobs WHERE state = 'Waiting' AND queue_name = %s"
        jobs = {job for (job,) in self.oar.ask(query, queue)}
        printed = self.printed()
        assert printed == {job: karma for job, karma in self.ours(now).items() if job in jobs}
        assert len(printed) >= len(USERS)
        return printed


@pytest.fixture(scope="module")
def site(request: pytest.FixtureRequest) -> Iterator[Site]:
    """A server on which one job has all resources and many wait."""
    needed(request)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(machine, "USERS", USERS)
        with place():
            oar = OarServer()
            engine = create_engine(database(oar))
            midnight = int(time.time()) // DAY * DAY
            site = Site(oar, engine, midnight + 200 * DAY)
            fill(site, midnight)
            run("oarnotify", "--add-queue", f"{QUEUE},4,{POLICY}")
            oar.start()
            submit_all(oar)
            yield site
            engine.dispose()


def database(oar: OarServer) -> URL:
    """The server's database, for its administrator."""
    given = oar.administrator()
    return URL.create(
        "postgresql+psycopg2",
        given["PGUSER"],
        given["PGPASSWORD"],
        given["PGHOST"],
        int(given["PGPORT"]),
        "oar",
    )


def fill(site: Site, midnight: int) -> None:
    """Windows on both sides of every bound.

    About now, none begins so close to a bound that it matters how long the test takes, or that it
    is midnight.
    """
    numbers = itertools.count(1)
    near = [midnight + days * DAY for days in (-40, -28, -10, -1, 0, 3)]
    far = [site.future + days * DAY for days in (-31, -30, -29, -1, 0, 1)]
    for start, user, queue in itertools.product(near + far, USERS, ("default", QUEUE)):
        number = next(numbers)
        # No one has used all projects, or something in every window.
        if number % 5:
            project = PROJECTS[number % 3]
            used = 7_919 * number % 86_400
            site.account(start, user, project, queue, used=used, asked=used + 1_000 * number)
    site.account(near[4], "bob", "weather", "besteffort", asked=7_200, used=61)
    site.account(far[3], "dave", "first", "besteffort", asked=12_345)


def submit_all(oar: OarServer) -> None:
    """One job that takes everything, and then all others."""
    every = f"resource_id={len(NODES) * RESOURCES_PER_NODE}"
    (hog,) = oar.submit("alice", "sleep 7200", request=every, walltime=7200, nodes=NODES)
    oar.wait(hog, "Running")
    jobs: list[tuple[str, Sequence[str]]] = [
        (user, ("--project", project)) for user in USERS for project in PROJECTS
    ]
    jobs += [(user, ("-t", "besteffort", "--project", "weather")) for user in USERS]
    jobs += [(user, ("-q", QUEUE, "--project", "first")) for user in USERS]

    def submit(job: tuple[str, Sequence[str]]) -> object:
        user, options = job
        return oar.submit(user, "sleep 60", *options, request="resource_id=5")

    with ThreadPoolExecutor(4) as executor:
        list(executor.map(submit, jobs))


# -- the first act: called by the server -------------------------------------------------------


def test_the_server_prints_our_karma_where_oars_own_settings_hold(site: Site) -> None:
    wait_until(partial(site.has_printed, WAITING), "every job is looked at")
    ours = site.ours(int(time.time()))
    assert site.printed() == ours
    assert len(set(ours.values())) > len(USERS)


def test_the_server_prints_our_karma_of_every_waiting_job(
    site: Site, request: pytest.FixtureRequest
) -> None:
    site.oar.configure(**SETTINGS)
    # Theirs is the last queue that is looked at. When the first comes into it, the others may have
    # been looked at before the settings changed.
    for number in (1, 2):
        site.oar.submit("dave", "sleep 60", "-t", "besteffort")
        wait_until(partial(site.has_printed, WAITING + number), "every job is looked at anew")
    ours = site.ours(int(time.time()))
    assert site.printed() == ours
    assert len(ours) == WAITING + 2
    values = list(map(float, ours.values()))
    negative = sum(value < 0 for value in values)
    assert negative >= 4
    assert max(values) > 1
    assert len(set(values)) > WAITING / 2
    request.config.stash[TOLD].append(
        f"karma: the scheduler prints ours of {len(ours)} waiting jobs, {negative} of them below "
        f"0, from {min(values):.3f} to {max(values):.3f}"
    )


# -- the second act: called by hand ------------------------------------------------------------


@pytest.fixture(scope="module")
def by_hand(site: Site) -> Site:
    """The same site, whose server calls no scheduler any more."""
    site.oar.kill()
    return site


@pytest.mark.parametrize("queue", POLICIES)
@pytest.mark.parametrize("settings", [SETTINGS, OTHER_SETTINGS], ids=["a month", "a day"])
def test_windows_count_from_the_very_second(
    by_hand: Site, settings: dict[str, str], queue: str
) -> None:
    by_hand.oar.configure(**settings)
    before, then, after = (by_hand.compared(by_hand.future + s, queue) for s in (-1, 0, 1))
    assert before == then
    if queue != "besteffort":
        assert then != after


def test_a_sum_of_zero_ends_the_scheduler_and_is_no_share_here(by_hand: Site) -> None:
    """One of the two deliberate differences: OAR would disable the queue."""
    by_hand.oar.configure(**SETTINGS)
    nobody, zero = by_hand.future + 200 * DAY, by_hand.future + 300 * DAY
    of_nobody = by_hand.compared(nobody, "default")
    by_hand.account(zero, "alice", "weather", "default", used=0, asked=0)
    with pytest.raises(MachineError, match="Illegal division by zero"):
        by_hand.call_scheduler("default", zero + 1)
    ours = by_hand.ours(zero + 1)
    assert {job: ours[job] for job in of_nobody} == of_nobody


def test_a_target_counts_also_where_its_name_is_not_ascii(by_hand: Site) -> None:
    """The other one: Perl compares the bytes of oar.conf with the letters of the database."""
    name, now = "météo", by_hand.future + 400 * DAY
    settings = {f"{KEY}PROJECT_TARGETS": f"{{ '{name}' => 50 }}", f"{KEY}COEF_PROJECT": "8"}
    by_hand.oar.configure(**SETTINGS | settings)
    by_hand.execute("UPDATE jobs SET project = :name WHERE state = 'Waiting'", name=name)
    by_hand.call_scheduler(QUEUE, now)
    theirs, ours = by_hand.printed(), by_hand.ours(now)
    assert len(theirs) == len(USERS)
    for job, karma in theirs.items():
        assert float(ours[job]) == pytest.approx(float(karma) - 8 * 0.5)

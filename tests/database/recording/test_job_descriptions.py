"""What is recorded of jobs beside their amounts: name, exit code, nodes, reservation, walltime."""

from collections.abc import Iterator
from typing import Any

import pytest
from sqlalchemy import Engine, update

from oar_accounting import Accounting
from oar_accounting.ledger import schema
from oar_accounting.reports.records import RecordedJob
from tests.small_oar import DAY, HOUR, NOW, T0, Clock, Recorded, SmallOar, opened, stopped_clock

on_sqlite = pytest.mark.databases("sqlite")

#: Name, exit code, nodes and reservation as an earlier version left them.
UNREAD = (None, None, None, None)


@pytest.fixture(autouse=True)
def clock() -> Iterator[Clock]:
    """The verbs' clock stands at `NOW`."""
    with stopped_clock() as stopped:
        yield stopped


def told(site: Accounting, job_id: int) -> RecordedJob:
    """What is told of a job."""
    (job,) = site.jobs(where={"job": job_id}).jobs
    return job


def description(site: Accounting, job_id: int) -> tuple[str | None, int | None, Any, Any]:
    """Its name, exit code, nodes and reservation."""
    job = told(site, job_id)
    return job.name, job.exit_code, job.nodes, job.reservation


def blank(site: Accounting) -> None:
    """Leave the ledger as an earlier version would have."""
    nothing = dict.fromkeys(("name", "exit_code", "nodes", "reservation"))
    with site.engine.begin() as connection:
        connection.execute(update(schema.jobs).values(nothing))
        never = schema.jobs.c.start_time == 0
        connection.execute(update(schema.jobs).where(never).values(walltime=0))


def test_a_job_is_described_as_it_goes_on(engine: Engine) -> None:
    """The exit code comes with the end; what was corrected after that is followed."""
    oar = SmallOar(engine)
    job = oar.add_job(state="Waiting", start=0, moldable=False, job_name="train")
    site = opened(engine)
    site.catch_up()
    assert description(site, job) == ("train", None, "", "None")
    oar.remove_job(job)
    oar.add_job(job_id=job, state="Running", job_name="train", submission=-60)
    site.catch_up()
    assert description(site, job) == ("train", None, "alpha-[1-2]", "None")
    oar.update_job(job, state="Terminated", stop_time=T0 + HOUR)
    site.catch_up()
    assert description(site, job) == ("train", None, "alpha-[1-2]", "None")
    for corrected in ({"exit_code": 768}, {"job_name": "l'été"}, {"reservation": "Scheduled"}):
        oar.update_job(job, **corrected)
        report = site.catch_up()
        assert (report.done, report.changed, report.problems) == (0, 1, ())
        assert site.catch_up().changed == 0
    assert description(site, job) == ("l'été", 768, "alpha-[1-2]", "Scheduled")
    oar.update_job(job, job_name=None, exit_code=None)
    assert site.catch_up().changed == 1
    assert description(site, job) == ("", None, "alpha-[1-2]", "Scheduled")
    assert site.verify() == []


def test_nodes_are_those_of_all_that_was_assigned(engine: Engine) -> None:
    """Also of inner jobs, which hold nothing themselves; a licence is on no node."""
    oar = SmallOar(engine, nodes=12)
    (licence,) = oar.add_resources(kind="licence")
    sizes = {1: range(1, 5), 2: range(33, 49), 3: [1, 2, 45], 4: [licence], 5: [7, licence]}
    for resources in sizes.values():
        oar.add_job(resources=resources)
    oar.add_job(resources=range(1, 41), types=("container",))
    oar.add_job(resources=[1, 5, 9], types=("inner=6",))
    site = opened(engine)
    site.catch_up()
    # A resource that is new since the pass began to look.
    (new,) = oar.add_resources(host="beta-7.site")
    oar.add_job(resources=[1, new])
    site.catch_up()
    assert [description(site, job)[2] for job in range(1, 9)] == [
        *("alpha-1", "alpha-[9-12]", "alpha-[1,12]", "", "alpha-2"),
        *("alpha-[1-10]", "alpha-[1-3]", "alpha-1,beta-7.site"),
    ]


def test_what_an_earlier_version_left_out_is_read_by_a_rebuild_only(engine: Engine) -> None:
    oar = SmallOar(engine)
    oar.add_job(job_name="old", exit_code=0)
    oar.add_job(job_name="killed in the queue", state="Error", start=0, stop=0, moldable=False)
    oar.offer(2, HOUR)
    purged = oar.add_job(job_name="purged", exit_code=256, start=T0 - 90 * DAY)
    stripped = oar.add_job(job_name="stripped", exit_code=9)
    site = opened(engine)
    site.catch_up()
    before = Recorded(site).amounts()
    # The one that never started is purged, too.
    assert site.purge(T0 - 80 * DAY)[1] == 2
    oar.strip_job(stripped, 5, 6, 7, 8)
    blank(site)
    for _ in range(2):
        report = site.catch_up(full=True)
        assert (report.done, report.changed, report.problems) == (0, 0, ())
    assert {description(site, job) for job in range(1, 5)} == {UNREAD}
    report = site.rebuild(from_oar=True)
    assert [each.job_id for each in report.problems] == [stripped]
    assert description(site, 1) == ("old", 0, "alpha-[1-2]", "None")
    assert description(site, 2) == ("killed in the queue", None, "", "None")
    assert description(site, purged) == ("purged", 256, "alpha-[1-2]", "None")
    assert description(site, stripped) == ("stripped", 9, None, "None")
    assert told(site, 2).walltime == HOUR
    assert site.verify() == []
    assert Recorded(site).amounts() == before
    assert site.rebuild(from_oar=True).changed == 0
    assert site.catch_up(full=True).problems == ()


@on_sqlite
def test_a_job_that_goes_on_is_described_without_a_rebuild(engine: Engine) -> None:
    oar = SmallOar(engine)
    oar.add_job(job_name="runs", state="Running")
    oar.add_job(job_name="waits", state="Waiting", start=0, moldable=False)
    oar.offer(2, HOUR)
    site = opened(engine)
    site.catch_up()
    blank(site)
    site.catch_up()
    assert told(site, 2).walltime == HOUR
    oar.update_job(1, state="Terminated", stop_time=NOW, exit_code=0)
    site.catch_up()
    assert description(site, 1) == ("runs", 0, "alpha-[1-2]", "None")
    assert description(site, 2) == ("waits", None, "", "None")


@pytest.mark.parametrize("state", ["Running", "Terminated"])
@pytest.mark.parametrize("types", [(), ("inner=9",)])
def test_nodes_that_oar_has_lost_are_kept(
    engine: Engine, state: str, types: tuple[str, ...]
) -> None:
    oar = SmallOar(engine)
    job = oar.add_job(state=state, types=types, resources=range(1, 9))
    site = opened(engine)
    site.catch_up()
    for lost in ((5, 6, 7, 8), ()):
        oar.strip_job(job, *lost)
        oar.update_job(job, job_name=f"without {lost}")
        site.record([job])
        name, _, nodes, _ = description(site, job)
        assert (name, nodes) == (f"without {lost}", "alpha-[1-2]")
    oar.assign(job, [5])
    oar.lose_resource(5)
    site.record([job])
    assert description(site, job)[2] == "alpha-[1-2]"


@on_sqlite
def test_a_job_that_oar_deleted_is_described_as_it_was_last_seen(engine: Engine) -> None:
    oar = SmallOar(engine)
    oar.add_job(state="Running", job_name="gone", reservation="Scheduled")
    site = opened(engine)
    site.catch_up()
    oar.remove_job(1)
    site.catch_up()
    assert told(site, 1).state == "Vanished"
    assert description(site, 1) == ("gone", None, "alpha-[1-2]", "Scheduled")


@on_sqlite
def test_nodes_that_oar_corrects_are_followed(engine: Engine) -> None:
    oar = SmallOar(engine)
    job = oar.add_job(resources=range(1, 5))
    site = opened(engine)
    site.catch_up()
    oar.strip_job(job)
    oar.assign(job, range(5, 9))
    site.record([job])
    assert description(site, job)[2] == "alpha-2"


def test_a_job_that_waits_has_the_walltime_it_asks_for(engine: Engine) -> None:
    """Of several the first, until one of them is assigned."""
    oar = SmallOar(engine)
    states = ("Waiting", "Hold", "toLaunch", "Waiting", "Error")
    for state in states:
        oar.add_job(state=state, start=0, stop=0, moldable=False)
    for job in (1, 2, 3, 5):
        oar.offer(job, 3 * HOUR, HOUR)
    site = opened(engine)
    site.catch_up()
    jobs = site.jobs().jobs
    assert [job.walltime for job in jobs] == [3 * HOUR] * 3 + [None, 3 * HOUR]
    assert [job.size for job in jobs] == [None] * 4 + [0]
    assert {job.ran for job in jobs} == {None}
    assert Recorded(site).amounts() == {}
    oar.remove_job(1)
    oar.add_job(job_id=1, state="Running", cores=2, walltime=HOUR, submission=-60)
    assert site.catch_up().problems == ()
    runs = told(site, 1)
    assert (runs.walltime, runs.size, runs.ran) == (HOUR, 2, NOW - T0)


def test_names_of_jobs_that_stand_encoded_twice_are_read_as_they_are_shown(engine: Engine) -> None:
    oar = SmallOar(engine)
    oar.add_job(job_name="Ã©tÃ©")
    site = opened(engine, 'names = "double_encoded"\n')
    site.catch_up()
    assert description(site, 1)[0] == "été"
    assert site.catch_up(full=True).changed == 0

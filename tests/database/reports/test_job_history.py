"""One job over time: its spans, what it held in them, and that these are its amounts."""

import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace

import pytest
from hypothesis import HealthCheck, given, settings
from sqlalchemy import Engine

from oar_accounting import Accounting, JobHistory, UnknownName, Visible
from oar_accounting.ledger.ledger import Ledger
from tests.examples import examples
from tests.servers import Database
from tests.small_oar import DAY, HOUR, T0, Clock, SmallOar, opened, stopped_clock
from tests.strategies import Job, batches, open_ledger, post_all
from tests.system.cli.test_cli import run

on_sqlite = pytest.mark.databases("sqlite")

NOW = T0 + 90 * DAY
METRICS = '[metrics.memory]\nunit = "MiB·s"\nsum = "mem"\nper = "network_address"\nscale = 2\n'
PAUSED, CHANGED, TWO_CLUSTERS, RUNS, WAITS = 1, 2, 3, 4, 5
#: When the first node's memory is doubled, while one job runs.
CHANGE = T0 + DAY + 600


@pytest.fixture(autouse=True)
def clock() -> Iterator[Clock]:
    with stopped_clock() as stopped:
        stopped.now = NOW
        yield stopped


@pytest.fixture
def oar(engine: Engine) -> SmallOar:
    oar = SmallOar(engine, nodes=0)
    oar.add_resources(4, host="one", cluster="a", mem=64)
    oar.add_resources(4, host="two", cluster="b", mem=7)
    oar.log_resource(1, "32", T0 - DAY, CHANGE, attribute="mem")
    for number in range(1, 5):
        oar.log_resource(number, "32", T0 - DAY, CHANGE, attribute="mem")
        oar.log_resource(number, "64", CHANGE, attribute="mem")
    oar.add_job(user="alice", cores=2, start=T0, pauses=[(T0 + 100, T0 + 150)], walltime=9000)
    oar.add_job(user="alice", cores=4, start=T0 + DAY, stop=T0 + DAY + HOUR, walltime=2 * HOUR)
    oar.add_job(user="carol", resources=[1, 5, 6], start=T0 + 2 * DAY)
    oar.add_job(user="alice", cores=1, start=NOW - 60, state="Running")
    oar.add_job(user="alice", state="Waiting", start=0, moldable=False)
    return oar


@pytest.fixture
def site(oar: SmallOar, engine: Engine) -> Accounting:
    accounting = opened(engine, METRICS)
    assert accounting.catch_up().problems == ()
    return accounting


def found(site: Accounting, number: int, *metrics: str) -> JobHistory:
    history = site.job(number, metrics=metrics or None)
    assert history is not None
    return history


def parts(history: JobHistory) -> list[tuple[object, ...]]:
    """When it held how much of what, and where."""
    return [(p.start, p.stop, p.value, p.metric, p.asked, p.used) for p in history.parts]


def test_a_pause_lies_between_two_spans(site: Accounting) -> None:
    history = found(site, PAUSED, "resource")
    assert history.job == site.jobs(where={"job": "1"}, metrics="resource").jobs[0]
    assert [(span.kind, span.start, span.stop) for span in history.spans] == [
        ("asked", T0, T0 + 9000),
        ("used", T0, T0 + 100),
        ("used", T0 + 150, T0 + HOUR),
    ]
    assert parts(history) == [(T0, None, "a", "resource", 2, 2)]


def test_what_a_job_held_changes_where_its_node_does(site: Accounting) -> None:
    history = found(site, CHANGED, "node", "memory")
    start = T0 + DAY
    assert parts(history) == [
        (start, None, "a", "node", 1, 1),
        (start, CHANGE, "a", "memory", 64, 64),
        (CHANGE, None, "a", "memory", 128, 128),
    ]
    assert {(part.unit, part.scale) for part in history.parts} == {("node", 1), ("MiB", 2)}


def test_a_job_over_two_clusters_holds_a_part_of_each(site: Accounting) -> None:
    assert parts(found(site, TWO_CLUSTERS, "resource")) == [
        (T0 + 2 * DAY, None, "a", "resource", 1, 1),
        (T0 + 2 * DAY, None, "b", "resource", 2, 2),
    ]


def test_a_job_that_runs_has_a_span_without_end_and_one_that_waits_none(site: Accounting) -> None:
    spans = {(span.kind, span.start, span.stop) for span in found(site, RUNS).spans}
    assert spans == {("asked", NOW - 60, NOW - 60 + 2 * HOUR), ("used", NOW - 60, None)}
    waits = found(site, WAITS)
    assert (waits.job.state, waits.spans, waits.parts) == ("Waiting", (), ())


def test_of_a_purged_job_neither_is_left(site: Accounting) -> None:
    site.purge(T0 + DAY)
    history = found(site, PAUSED)
    assert (history.job.purged, history.spans, history.parts) == (True, (), ())


def test_what_is_not_there_is_none(site: Accounting) -> None:
    assert site.job(99) is None
    assert site.job(TWO_CLUSTERS, visible_to=Visible(user="alice")) is None
    assert site.job(PAUSED, visible_to=Visible(user="alice")) is not None
    assert site.reports_for("alice").job(TWO_CLUSTERS) is None
    assert site.reports_for("alice").job(PAUSED) == site.job(PAUSED)
    with pytest.raises(UnknownName, match="metric 'gpu'"):
        site.job(PAUSED, metrics="gpu")


@on_sqlite
@settings(max_examples=examples(60), suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(some=batches())
def test_parts_within_spans_are_the_amounts_of_a_job(engine: Engine, some: list[Job]) -> None:
    accounting = opened(engine, "window = 3600\n", site=f"site {len(SITES)}")
    SITES.append(accounting)
    post_all(open_ledger(Ledger(engine, accounting.settings.site), 3600), [some])
    for job in accounting.jobs().jobs:
        if job.ended is None or job.job_id > LARGEST:
            continue
        history = found(accounting, job.job_id)
        amounts: Counter[tuple[str, str]] = Counter()
        for span in history.spans:
            assert span.stop is not None
            for part in history.parts:
                seconds = min(span.stop, part.stop or span.stop) - max(span.start, part.start)
                amounts[part.metric, span.kind] += getattr(part, span.kind) * max(seconds, 0)
        known = {(m.metric, kind): getattr(m, kind) for m in job.metrics for kind in KINDS}
        assert +amounts == +Counter(known)


SITES: list[Accounting] = []
KINDS = ("asked", "used")
#: Jobs are asked for by numbers of up to 18 digits.
LARGEST = 10**18


# -- the command ----------------------------------------------------------------------------------


def test_the_command_tells_pauses_and_what_changed(site: Accounting, database: Database) -> None:
    site.close()
    options = ["--url", database.url, "--config", "small_oar.toml", "jobs"]
    paused, changed, two = run(*options, "1", "2", "3", "--metric", "memory").stdout.split("\n\n")
    assert "suspended    2023-11-14 00:01:40 UTC to 2023-11-14 00:02:30 UTC" in paused
    assert "held" not in paused
    lines = [line.strip() for line in changed.splitlines() if line.startswith("held")]
    assert lines == [
        "held         32 MiB on a, 2023-11-15 00:00:00 UTC to 2023-11-15 00:10:00 UTC",
        "held         64 MiB on a, from 2023-11-15 00:10:00 UTC",
    ]
    lines = [line.strip() for line in two.splitlines() if line.startswith("held")]
    assert lines == ["held         64 MiB on a", "held         7 MiB on b"]
    (row,) = json.loads(run(*options, "2", "--metric", "memory", "--json").stdout)
    assert [span["kind"] for span in row["spans"]] == ["asked", "used"]
    assert [(part["start"], part["used"]) for part in row["parts"]] == [
        (T0 + DAY, 64),
        (CHANGE, 128),
    ]
    assert "spans" not in run(*options, "2", "--csv").stdout.splitlines()[0]
    assert replace(found(site, CHANGED).job, metrics=()).nodes == "one"

"""How full the machine is: the law at every second, Slurm's figures, and what can be in OAR's logs.

A small OAR has two nodes of four cores. A case that says nothing else of them lets them be alive
since `T0`; a job of which nothing is said has all eight cores for an hour from then on.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any
from unittest.mock import patch

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import Engine, create_engine, insert

from oar_accounting.core.columns import OPEN, ints
from oar_accounting.demo import demo
from oar_accounting.errors import BadSpan, OarSchemaError, UnknownName
from oar_accounting.metrics.metric import NODE, RESOURCE, Metric, Resources
from oar_accounting.oar import machine, oar_tables
from oar_accounting.oar.machine import ABSENT, ALIVE, DOWN, GONE, OTHER, STANDBY, UP, History, Logs
from oar_accounting.reports.records import UtilisationReport, UtilisationRow
from tests.database.oar.test_real_oar import fill, loaded
from tests.servers import Server, fresh_database
from tests.small_oar import (
    DAY,
    HOUR,
    T0,
    Clock,
    Recorded,
    SmallOar,
    oar_metadata,
    recorded,
    stopped_clock,
)

MEMORY = '[metrics.memory]\nunit = "MiB·s"\nsum = "mem"\nper = "network_address"\n'
ENERGY = oar_metadata(states=("state", "available_upto"))
STATES_ONLY = oar_metadata(states=("state",))
#: Of a row: capacity, down, standby, used, free, over.
Parts = tuple[int, int, int, int, int, int]


@pytest.fixture(autouse=True)
def clock() -> Iterator[Clock]:
    with stopped_clock() as shown:
        yield shown


def parts(row: UtilisationRow) -> Parts:
    """The amounts of a row, which are as the law has them."""
    assert row.capacity == row.down + row.standby + row.used + row.free
    found = (row.capacity, row.down, row.standby, row.used, row.free, row.over)
    assert min(found) >= 0
    return found


def told(report: UtilisationReport, metric: str = "resource") -> list[Parts]:
    """The amounts of a metric, bucket after bucket."""
    rows = [row for row in report.rows if row.metric == metric]
    assert all(one.stop == next_.start for one, next_ in pairwise(rows))
    return [parts(row) for row in rows]


def asked(
    site: Recorded, start: int, stop: int, metric: str = "resource", **more: Any
) -> list[Parts]:
    """What is told of one metric."""
    return told(site.accounting.utilisation([metric], start, stop, **more), metric)


def alive(oar: SmallOar, *, since: int = T0, resources: Sequence[int] = range(1, 9)) -> SmallOar:
    """The same OAR, whose resources have been alive since then."""
    for number in resources:
        oar.log_resource(number, "Alive", since)
    return oar


# -- Slurm ------------------------------------------------------------------------------------

#: 2007-12-31 23:00 UTC.
SLURM = 1_199_142_000


def test_what_slurm_says_of_a_machine_with_a_node_down(engine: Engine) -> None:
    """The data and figures of Slurm's own test of its rollup; its planned time is free here.

    Of two nodes with two processors n0 is down for half an hour, across the end of an hour.
    """
    oar = SmallOar(engine, nodes=0)
    n0 = oar.add_resources(2, host="n0", cluster="alpha")
    n1 = oar.add_resources(2, host="n1", cluster="alpha")
    for number in n0:
        oar.log_states(
            number, (SLURM, "Alive"), (SLURM + 2_700, "Suspected"), (SLURM + 4_500, "Alive")
        )
    alive(oar, since=SLURM, resources=n1)
    first_end, second_end, third_end = SLURM + 1_200, SLURM + 3_900, SLURM + 93_900
    oar.add_job(user="ua", project="acct1", resources=n1, start=SLURM, stop=first_end)
    oar.add_job(user="ua", project="acct1", resources=n1, start=first_end, stop=second_end)
    oar.add_job(user="ub", project="acct3", resources=n0 + n1, start=SLURM + 7_500, stop=third_end)
    oar.add_job(user="ua", project="acct2", resources=n1, start=third_end, stop=third_end + 3_900)
    oar.add_job(user="ua", project="acct2", start=0, state="Waiting", moldable=False)
    site = recorded(engine)

    def figures(start: int, stop: int) -> tuple[int, int, int, int]:
        ((capacity, down, standby, used, free, over),) = asked(site, start, stop)
        assert (standby, over) == (0, 0)
        return capacity, used, down, free

    hours = [SLURM + n * HOUR for n in range(4)]
    assert figures(hours[0], hours[1]) == (14_400, 7_200, 1_800, 5_400)
    assert figures(hours[1], hours[2]) == (14_400, 600, 1_800, 0 + 12_000)
    assert figures(hours[2], hours[3]) == (14_400, 13_200, 0, 0 + 1_200)
    assert figures(SLURM, SLURM + 49 * HOUR) == (705_600, 361_200, 3_600, 162_600 + 178_200)


# -- a real OAR -------------------------------------------------------------------------------


def test_every_second_of_a_real_oar(server: Server, clock: Clock) -> None:
    """What a real OAR 2.5.9 left, against its rows looked at second by second."""
    with fresh_database(server) as database:
        engine = create_engine(database.url)
        with engine.begin() as connection:
            fill(connection)
        clock.now = 1_795_340_000
        site = recorded(engine)
        start, stop = 1_795_334_000, 1_795_337_300
        report = site.accounting.utilisation(None, start, stop, bucket=1)
        assert report.notes == ()
        for metric in ("resource", "node"):
            assert told(report, metric) == list(plain_seconds(site, metric, start, stop))
        (all_of_it,) = asked(site, start, stop)
        assert all_of_it == tuple(map(sum, zip(*told(report), strict=True)))
        assert all_of_it[3] + all_of_it[5] == site.used()
        # The server failed while jobs ran, whose nodes were Suspected: that is used, not down.
        assert all_of_it[1] < 4 * (2 + 7 + 5 + 2)
        engine.dispose()


def plain_seconds(site: Recorded, metric: str, start: int, stop: int) -> Iterator[Parts]:
    """The same, from the rows: what jobs are recorded, what OAR logged, one second at a time."""
    tables = loaded("real_oar_2_5_9.json")["tables"]
    logs = [row[1:] for row in tables["resource_logs"]["rows"] if row[2] == "state"]
    moldable = {row[0]: row[8] for row in tables["jobs"]["rows"]}
    on = {job: {r for m, r in tables["assigned_resources"]["rows"] if m == own}
          for job, own in moldable.items()}  # fmt: skip
    rates = {
        job: used
        for job, _, name, _, used, _ in site.everything()["accounting_rates"]
        if name == metric
    }
    spans = [
        (job, begin, end)
        for job, of_asked, begin, end in site.everything()["accounting_spans"]
        if not of_asked and job in rates
    ]
    for second in range(start, stop):
        running = [job for job, begin, end in spans if begin <= second < end]
        busy = {resource for job in running for resource in on[job]}
        there = {
            resource: value == "Alive" or resource in busy
            for resource, _, value, begin, end in logs
            if begin <= second and (end == 0 or second < end)
        }
        if metric == "node":  # there is one
            there = {1: any(there.values())} if there else {}
        up, wanted = sum(there.values()), sum(rates[job] for job in running)
        used = min(up, wanted)
        yield len(there), len(there) - up, 0, used, up - used, wanted - used


# -- a machine that changes -------------------------------------------------------------------


def test_a_machine_that_grew_and_shrank(engine: Engine) -> None:
    oar = alive(SmallOar(engine), resources=range(1, 5))
    alive(oar, since=T0 + 100, resources=range(5, 9))
    site = recorded(engine)
    assert asked(site, T0, T0 + 200) == [(1_200, 0, 0, 0, 1_200, 0)]
    for number in range(5, 9):
        oar.log_resource(number, "Dead", T0 + 150)
    assert asked(site, T0, T0 + 200) == [(1_200, 200, 0, 0, 1_000, 0)]
    assert asked(site, T0, T0 + 200, "node") == [(300, 50, 0, 0, 250, 0)]


def test_what_oar_removed_is_over_and_what_was_added_again_counts_from_then_on(
    engine: Engine,
) -> None:
    oar = alive(SmallOar(engine))
    oar.add_job(cores=8, stop=T0 + 100)
    site = recorded(engine)
    assert asked(site, T0, T0 + 200) == [(1_600, 0, 0, 800, 800, 0)]
    for number in range(1, 9):
        oar.remove_resource(number)
    assert asked(site, T0, T0 + 200) == [(0, 0, 0, 0, 0, 800)]
    again = oar.add_resources(8, host="alpha-9", cluster="alpha")
    alive(oar, since=T0 + 50, resources=again)
    assert asked(site, T0, T0 + 200) == [(1_200, 0, 0, 400, 800, 400)]
    assert asked(site, T0, T0 + 200, "node") == [(150, 0, 0, 50, 100, 150)]


def test_a_node_that_is_down_across_the_bounds(engine: Engine) -> None:
    oar = alive(SmallOar(engine), resources=range(1, 5))
    for number in range(5, 9):
        oar.log_states(number, (T0, "Alive"), (T0 + 10, "Absent"), (T0 + 90, "Alive"))
    site = recorded(engine)
    assert asked(site, T0 + 40, T0 + 60) == [(160, 80, 0, 0, 80, 0)]
    assert asked(site, T0 + 40, T0 + 60, "node") == [(40, 20, 0, 0, 20, 0)]
    assert asked(site, T0 + 80, T0 + 100) == [(160, 40, 0, 0, 120, 0)]


def test_nodes_without_a_log_are_as_they_are_now(engine: Engine) -> None:
    oar = alive(SmallOar(engine, metadata=STATES_ONLY), resources=range(1, 5))
    for number in (7, 8):
        oar.set_resource(number, state="Dead")
    report = recorded(engine).accounting.utilisation(["resource"], T0 - 100, T0 + 100)
    assert told(report) == [(4 * 100 + 4 * 200, 2 * 200, 0, 0, 800, 0)]
    assert report.notes == (
        "resources of which OAR has logged no state: 4; they count as they are now, at all times",
    )


def test_gaps_overlaps_and_rows_that_cannot_be(engine: Engine) -> None:
    oar = SmallOar(engine, metadata=STATES_ONLY, nodes=0)
    gap, closed, over, tied, backward, empty = oar.add_resources(6, host="a")
    oar.log_resource(gap, "Dead", T0, T0 + 10)  # and until the next one
    oar.log_resource(gap, "Alive", T0 + 50)
    oar.log_resource(closed, "Alive", T0, T0 + 10)  # and then as it is now
    oar.set_resource(closed, state="Suspected")
    oar.log_resource(over, "Alive", T0 + 20)
    oar.log_resource(over, "Dead", T0)  # which was never closed
    oar.log_resource(tied, "Dead", T0)
    oar.log_resource(tied, "Alive", T0)
    oar.log_resource(backward, "Alive", T0)
    oar.log_resource(backward, "Dead", T0 + 60, T0 + 30)
    oar.log_resource(empty, "Dead", T0 + 40, T0 + 40)
    oar.log_resource(77, "Alive", T0)
    report = recorded(engine).accounting.utilisation(["resource"], T0 - 50, T0 + 100)
    assert told(report) == [(560, 50 + 90 + 20, 0, 0, 50 + 10 + 80 + 100 + 100 + 60, 0)]
    assert report.notes == (
        "resources that OAR has logs of, but no longer has: 1; they have no capacity",
    )


def test_a_node_counts_as_it_was_then(engine: Engine) -> None:
    oar = SmallOar(engine, nodes=0)
    old = oar.add_resources(2, host="a", cluster="alpha", mem=20)
    oar.add_resources(2, host="b", cluster="beta", mem=5)
    for number in range(1, 5):
        oar.log_resource(number, "Alive", T0)
    for number in old:
        oar.log_resource(number, "10", T0 + 50, T0 + 70, attribute="mem")
        oar.log_resource(number, "20", T0 + 70, attribute="mem")
        oar.log_resource(number, "beta", T0, T0 + 40, attribute="cluster")
        oar.log_resource(number, "<unset>", T0 + 40, T0 + 60, attribute="cluster")
        oar.log_resource(number, "alpha", T0 + 60, attribute="cluster")
    site = recorded(engine, MEMORY)
    assert asked(site, T0, T0 + 100, "memory")[0][0] == 70 * 10 + 30 * 20 + 500
    of_alpha = asked(site, T0, T0 + 100, "memory", where={"cluster": ["alpha"]})
    assert of_alpha[0][0] == 10 * 10 + 30 * 20
    of_beta = asked(site, T0, T0 + 100, where={"cluster": ["beta"]})
    assert of_beta[0][0] == 200 + 80
    # Before the first log of a property, it was as the first one says.
    assert asked(site, T0 - 10, T0, "memory")[0][0] == 0


def test_what_sleeps_is_standby_as_long_as_oar_would_wake_it(engine: Engine) -> None:
    oar = SmallOar(engine, metadata=ENERGY)
    for number in range(1, 5):
        oar.log_states(number, (T0, "Alive"), (T0 + 20, "Absent"), (T0 + 90, "Alive"))
        oar.set_resource(number, available_upto=0)
        # The last second in which it is available is the sixtieth.
        oar.log_resource(number, str(T0 + 59), T0, T0 + 80, attribute="available_upto")
        oar.log_resource(number, "0", T0 + 80, attribute="available_upto")
    for number in range(5, 9):
        oar.log_states(number, (T0, "Alive"), (T0 + 50, "Absent"))
    site = recorded(engine)
    assert asked(site, T0, T0 + 100) == [(800, 120, 160 + 200, 0, 320, 0)]
    assert asked(site, T0, T0 + 100, "node") == [(200, 30, 40 + 50, 0, 80, 0)]


def test_without_the_column_what_is_absent_is_down(engine: Engine) -> None:
    oar = SmallOar(engine, metadata=STATES_ONLY)
    for number in range(1, 9):
        oar.log_states(number, (T0, "Absent"))
    assert asked(recorded(engine), T0, T0 + 10) == [(80, 80, 0, 0, 0, 0)]


def test_a_node_is_up_while_one_of_its_cores_is(engine: Engine) -> None:
    oar = SmallOar(engine, metadata=ENERGY)
    oar.log_states(1, (T0, "Alive"), (T0 + 10, "Dead"))
    oar.log_states(2, (T0, "Dead"), (T0 + 20, "Absent"), (T0 + 30, "Dead"))
    site = recorded(engine)
    for number in range(3, 9):
        oar.log_states(number, (T0, "Dead"))
    assert asked(site, T0, T0 + 40, "node") == [(80, 10 + 10 + 40, 10, 0, 10, 0)]


# -- what jobs do -----------------------------------------------------------------------------


def test_a_job_on_a_node_that_oar_suspects_uses_it(engine: Engine) -> None:
    oar = SmallOar(engine)
    for number in range(1, 9):
        oar.log_states(number, (T0, "Alive"), (T0 + 40, "Suspected"), (T0 + 90, "Alive"))
    oar.add_job(cores=4, stop=T0 + 60, pauses=[(T0 + 42, T0 + 44, T0 + 50)])
    oar.add_job(cores=8, start=T0, state="Waiting", moldable=True)
    site = recorded(engine)
    used = 4 * 52
    assert asked(site, T0, T0 + 100) == [
        (800, 8 * 50 - 4 * (2 + 10), 0, used, 8 * 50 + 4 * (2 + 10) - used, 0)
    ]
    assert asked(site, T0, T0 + 100, "node") == [(200, 100 - 12, 0, 52, 60, 0)]


def test_a_job_within_a_container_holds_nothing_and_wakes_nothing(engine: Engine) -> None:
    oar = SmallOar(engine)
    for number in range(1, 9):
        oar.log_states(number, (T0, "Dead"))
    oar.add_job(cores=4, stop=T0 + 50, types=["container"])
    oar.add_job(cores=4, stop=T0 + 50, types=["inner=1"])
    assert asked(recorded(engine), T0, T0 + 100) == [(800, 600, 0, 200, 0, 0)]


def test_a_node_that_jobs_share_is_used_once(engine: Engine) -> None:
    """Two jobs on the second node: the first one is free."""
    oar = alive(SmallOar(engine), resources=range(1, 9))
    for core in (5, 6):
        oar.add_job(resources=[core], stop=T0 + 100)
    site = recorded(engine)
    assert asked(site, T0, T0 + 100, "node") == [(200, 0, 0, 100, 100, 100)]
    assert asked(site, T0, T0 + 100) == [(800, 0, 0, 200, 600, 0)]
    assert site.used("node") == 200


def test_a_resource_that_jobs_share_is_used_once(engine: Engine) -> None:
    oar = alive(SmallOar(engine), resources=range(1, 9))
    for start in (0, 50):
        oar.add_job(cores=4, start=T0 + start, stop=T0 + 100, types=["timesharing=*,*"])
    assert asked(recorded(engine), T0, T0 + 100) == [(800, 0, 0, 400, 400, 200)]


def test_of_a_job_that_oar_has_not_whole_it_is_not_known_what_it_shares(engine: Engine) -> None:
    oar = alive(SmallOar(engine), resources=range(1, 9))
    for core in (5, 6):
        job = oar.add_job(resources=[core, 7], stop=T0 + 100, types=["timesharing=*,*"])
    site = recorded(engine)
    oar.strip_job(job, 7)
    assert asked(site, T0, T0 + 100) == [(800, 0, 0, 400, 400, 0)]


def test_a_gap_after_a_suspected_node_does_not_hide_its_job(engine: Engine) -> None:
    oar = SmallOar(engine, metadata=STATES_ONLY)
    for number in range(1, 9):
        oar.log_resource(number, "Suspected", T0, T0 + 5)
        oar.set_resource(number, state="Dead")
    oar.add_job(cores=8, stop=T0 + 50)
    assert asked(recorded(engine), T0, T0 + 100) == [(800, 400, 0, 400, 0, 0)]


def test_what_two_jobs_share_is_over(engine: Engine) -> None:
    oar = alive(SmallOar(engine), resources=range(1, 5))
    oar.add_job(resources=[1, 2], stop=T0 + 100)
    oar.add_job(resources=[3, 4], stop=T0 + 50)
    sharing = ["timesharing=*,*"]
    oar.add_job(resources=[1, 2], stop=T0 + 25, types=sharing)
    for number in range(5, 9):
        oar.log_states(number, (T0, "Dead"))
    site = recorded(engine)
    assert asked(site, T0, T0 + 100) == [(800, 400, 0, 2 * 150, 100, 50)]
    assert asked(site, T0, T0 + 100, "node") == [(200, 100, 0, 100, 0, 75)]
    usage = {row.metric: row.used for row in site.accounting.usage(()).rows}
    assert usage == {"resource": 350, "node": 175}


def test_jobs_that_run_count_until_then(engine: Engine, clock: Clock) -> None:
    oar = alive(SmallOar(engine))
    oar.add_job(cores=8, state="Running")
    site = recorded(engine)
    assert asked(site, T0, T0 + 100) == [(800, 0, 0, 800, 0, 0)]
    report = site.accounting.utilisation(["node"], T0 - 100, T0 + 500, as_of=T0 + 50)
    assert told(report, "node") == [(100, 0, 0, 100, 0, 0)]
    assert (report.as_of, report.rows[0].stop) == (T0 + 50, T0 + 50)
    clock.now = T0 + 10
    report = site.accounting.utilisation(None, as_of=T0 + 50)
    assert (report.as_of, report.rows[0].start) == (T0 + 10, T0)
    with pytest.raises(BadSpan, match="is empty"):
        site.accounting.utilisation(None, T0 + 10, T0 + 20)
    with pytest.raises(BadSpan, match="beyond any calendar"):
        site.accounting.utilisation(None, -(10**12))
    with pytest.raises(BadSpan, match="'fortnight' is no length of a bucket"):
        site.accounting.utilisation(None, T0, bucket="fortnight")


def test_it_begins_with_what_is_known_first(engine: Engine) -> None:
    oar = SmallOar(engine)
    site = recorded(engine)
    with pytest.raises(BadSpan, match="a start is needed"):
        site.accounting.utilisation()
    alive(oar, since=T0 + 70)
    assert site.accounting.utilisation().rows[0].start == T0 + 70
    oar.add_job(cores=1, start=T0 + 30)
    site.accounting.catch_up()
    assert site.accounting.utilisation().rows[0].start == T0 + 30


def test_the_clusters_are_told_apart_and_add_up(engine: Engine) -> None:
    oar = SmallOar(engine)
    beta = oar.add_resources(2, host="beta-1", cluster="beta")
    alive(oar, resources=range(1, 11))
    oar.add_job(resources=[1, 2, *beta], stop=T0 + 50)
    site = recorded(engine)
    alpha = asked(site, T0, T0 + 100, where={"cluster": ["alpha"]})
    assert alpha == [(800, 0, 0, 100, 700, 0)]
    assert asked(site, T0, T0 + 100, where={"cluster": ["beta"]}) == [(200, 0, 0, 100, 100, 0)]
    both = asked(site, T0, T0 + 100, where={"cluster": ["beta", "alpha"]})
    assert both == asked(site, T0, T0 + 100) == [(1_000, 0, 0, 200, 800, 0)]
    with pytest.raises(UnknownName, match="unknown cluster 'gamma'; known are alpha, beta"):
        asked(site, T0, T0 + 100, where={"cluster": ["gamma"]})
    with pytest.raises(UnknownName, match="cannot be told by 'user'; only by 'cluster'"):
        asked(site, T0, T0 + 100, where={"user": ["bob"]})


def test_a_day_of_twenty_five_hours(engine: Engine, clock: Clock) -> None:
    """In the night to Sunday, 2023-10-29, clocks in Paris were put back."""
    saturday = 1_698_444_000  # 2023-10-28 00:00 in Paris
    oar = alive(SmallOar(engine), since=saturday - DAY)
    oar.add_job(start=saturday + DAY - 100, stop=saturday + DAY + 25 * HOUR + 100)
    site = recorded(engine)
    clock.now = saturday + 30 * DAY
    days = asked(site, saturday, saturday + 73 * HOUR, bucket="day", timezone="Europe/Paris")
    assert [day[0] // 8 for day in days] == [24 * HOUR, 25 * HOUR, 24 * HOUR]
    assert [day[3] // 8 for day in days] == [100, 25 * HOUR, 100]


def test_a_formula_has_no_capacity(engine: Engine) -> None:
    alive(SmallOar(engine))
    toml = '[metrics.billing]\nunit = "billing·s"\nformula = "node * 2 [billing/node]"\n'
    site = recorded(engine, toml)
    report = site.accounting.utilisation(None, T0, T0 + 1)
    assert [row.metric for row in report.rows] == ["resource", "node"]
    assert report.notes == ("metrics with a formula have no capacity: billing",)
    with pytest.raises(UnknownName, match=r"'billing' has a formula.* its parts may have: node"):
        asked(site, T0, T0 + 1, "billing")
    with pytest.raises(UnknownName, match="unknown metric 'nodes'; recorded are resource, node"):
        asked(site, T0, T0 + 1, "nodes")


def test_rates_are_rounded_once_for_all_of_the_machine(engine: Engine) -> None:
    oar = SmallOar(engine, nodes=0)
    oar.add_resources(3, host="a", cluster="alpha", power="0.5")
    oar.log_states(1, (T0, "Alive"))
    oar.log_states(2, (T0, "Alive"), (T0 + 10, "Dead"))
    oar.log_states(3, (T0, "Alive"))
    site = recorded(engine, '[metrics.power]\nunit = "W·s"\nsum = "power"\n')
    # Half to even: 1.5 is 2 each second, and 1 + 0.5 is 1 + 1.
    assert asked(site, T0, T0 + 20, "power") == [(40, 10, 0, 0, 30, 0)]


def test_other_types_of_resources_are_other_metrics(engine: Engine) -> None:
    oar = SmallOar(engine, nodes=1)
    licences = oar.add_resources(3, kind="licence")
    alive(oar, resources=[1, 2, 3, 4, *licences])
    oar.add_job(resources=[1, *licences[:2]], stop=T0 + 10)
    toml = '[metrics.licence]\nunit = "licence·s"\ncount = true\ntype = "licence"\n'
    site = recorded(engine, toml)
    assert asked(site, T0, T0 + 20) == [(80, 0, 0, 10, 70, 0)]
    assert asked(site, T0, T0 + 20, "licence") == [(60, 0, 0, 20, 40, 0)]


def test_purged_jobs_count_evenly_over_their_windows(engine: Engine, clock: Clock) -> None:
    oar = alive(SmallOar(engine))
    oar.add_job(cores=8, start=T0 - HOUR, stop=T0 + HOUR)
    alive_before = 8 * HOUR
    for number in range(1, 9):
        oar.log_resource(number, "Alive", T0 - HOUR, T0)
    site = recorded(engine)
    clock.now = T0 + 60 * DAY
    bound, count = site.accounting.purge(T0 + 2 * DAY)
    assert count == 1
    report = site.accounting.utilisation(["resource"], T0 - DAY, T0 + DAY, bucket="day")
    before, after = told(report)
    assert before == (alive_before, 0, 0, alive_before, 0, 0)
    assert after == (8 * DAY, 0, 0, 8 * HOUR, 8 * 23 * HOUR, 0)
    assert report.notes == (
        "what was purged, measured or taken over is known only by window: it is spread evenly over "
        "each of them",
    )
    # The hour in which the machine was there is an even part of the day, and the rest is over.
    (hour,) = asked(site, T0 - HOUR, T0)
    assert hour == (alive_before, 0, 0, 1_200, alive_before - 1_200, 0)
    (day,) = asked(site, T0 - DAY, T0 - HOUR)
    assert day == (0, 0, 0, 0, 0, 8 * HOUR - 1_200)
    assert asked(site, T0 - HOUR, T0, where={"cluster": "alpha"}) == [hour]
    assert bound == T0 + 2 * DAY


def test_what_was_taken_over_counts_evenly_too(engine: Engine) -> None:
    """OAR's own accounting of a time before all jobs; nobody knows the cluster of it."""
    alive(SmallOar(engine), since=T0 - 20 * DAY)
    with engine.begin() as connection:
        oar_tables.accounting.create(connection)
        for kind, amount in (("ASKED", 900), ("USED", 600)):
            row = (T0 - 9 * DAY, T0 - 8 * DAY - 1, "bob", "p", "default", kind, amount)
            connection.execute(insert(oar_tables.accounting).values(row))
    site = recorded(engine)
    assert site.accounting.import_accounting().used == 600
    span = (T0 - 9 * DAY, T0 - 8 * DAY)
    half = (4 * DAY, 0, 0, 300, 4 * DAY - 300, 0)
    assert asked(site, *span, bucket=DAY // 2) == [half, half]
    assert asked(site, *span, "node") == [(2 * DAY, 0, 0, 0, 2 * DAY, 0)]
    assert asked(site, *span, where={"cluster": ["alpha"]})[0][3] == 0
    assert site.accounting.utilisation().rows[0].start == T0 - 20 * DAY


def test_oars_log_is_needed(engine: Engine) -> None:
    SmallOar(engine)
    site = recorded(engine)
    with engine.begin() as connection:
        oar_tables.resource_logs.drop(connection)
    with pytest.raises(OarSchemaError, match="'resource_logs' cannot be read"):
        asked(site, T0, T0 + 1)


@pytest.mark.databases("sqlite")
def test_the_demonstration_was_down_and_asleep_only_where_nothing_ran(
    engine: Engine, clock: Clock
) -> None:
    clock.now = T0
    demo.create_oar(engine)
    demo.fill_oar(engine, now=T0, jobs=demo.FEWEST_JOBS, days=20)
    accounting = recorded(engine).accounting
    report = accounting.utilisation(start=T0 - 20 * DAY)
    assert report.notes == ()
    for metric in ("resource", "node"):
        (amounts,) = told(report, metric)
        capacity, down, standby, used, free, _ = amounts
        assert min(down, standby, used, free) > 0
        assert down + standby < capacity // 5
    # What jobs share, two timesharing ones, is all that is over.
    calm = [row for row in report.rows if row.metric == "resource"]
    assert calm[0].over < calm[0].used // 100


# -- the arithmetic, against one second at a time ---------------------------------------------

STATES = {"Alive": ALIVE, "Absent": ABSENT, "Dead": OTHER}
END = 40


@dataclass(frozen=True)
class Thing:
    """A resource with what was logged of it; a log is value, start and stop, 0 while it lasts."""

    now: str = "Alive"
    states: tuple[tuple[str, int, int], ...] = ()
    upto_now: int = 10**9
    uptos: tuple[tuple[int, int, int], ...] = ()
    host: str = "a"
    hosts: tuple[tuple[str, int, int], ...] = ()
    mem: int = 0
    mems: tuple[tuple[int, int, int], ...] = ()
    kind: str = "default"

    def state(self, second: int) -> str | None:
        """The state within a second; None: it was not there."""
        if not self.states:
            return self.now
        if all(0 < stop <= start for _, start, stop in self.states):
            return self.now if second >= min(start for _, start, _ in self.states) else None
        found: str | None = in_force(self.states, self.now, second)
        return found

    def level(self, second: int) -> int:
        """The same as a level."""
        state = self.state(second)
        if state is None:
            return GONE
        if state == "Alive":
            return UP
        upto = always(self.uptos, self.upto_now, second)
        return STANDBY if state == "Absent" and upto >= second else DOWN


def in_force(logs: Sequence[tuple[Any, int, int]], now: Any, second: int) -> Any:
    """What the log says that began last; None where none has."""
    timed = [log for log in logs if log[2] == 0 or log[2] > log[1]]
    begun = [log for log in timed if log[1] <= second]
    if not begun:
        return None
    latest = max(log[1] for log in begun)
    last = [log for log in begun if log[1] == latest][-1]
    later = any(log[1] > second for log in timed)
    return now if not later and 0 < last[2] <= second else last[0]


def always(logs: Sequence[tuple[Any, int, int]], now: Any, second: int) -> Any:
    """What the log says that is open then, else the next one, else what it is now."""
    timed = [log for log in logs if log[2] == 0 or log[2] > log[1]]
    running = [log for log in timed if log[1] <= second and (log[2] == 0 or second < log[2])]
    later = [log for log in timed if log[1] > second]
    if running:
        latest = max(log[1] for log in running)
        return [log for log in running if log[1] == latest][-1][0]
    if later:
        nearest = min(log[1] for log in later)
        return [log for log in later if log[1] == nearest][-1][0]
    return now


def logs_of(values: st.SearchStrategy[Any]) -> st.SearchStrategy[tuple[Any, ...]]:
    """Logs in any order, which may overlap, leave gaps, or run backward."""
    times = st.integers(1, END)
    return st.lists(st.tuples(values, times, st.one_of(st.just(0), times)), max_size=4).map(tuple)


UPTOS = st.sampled_from([0, 5, 17, 18, 30, 10**9])
HOSTS = st.sampled_from(["a", "b", ""])
MEMS = st.integers(0, 3)
THINGS = st.builds(
    Thing,
    now=st.sampled_from(sorted(STATES)),
    states=logs_of(st.sampled_from(sorted(STATES))),
    upto_now=UPTOS,
    uptos=logs_of(UPTOS),
    host=HOSTS,
    hosts=logs_of(HOSTS),
    mem=MEMS,
    mems=logs_of(MEMS),
    kind=st.sampled_from(["default", "default", "licence"]),
)


def history_of(
    things: Sequence[Thing], logs: str, now: str, number: Any, *, forever: bool
) -> History:
    """The history that the logs tell."""
    rows = [
        (owner, place, start, stop or OPEN, number(value))
        for owner, thing in enumerate(things)
        for place, (value, start, stop) in enumerate(getattr(thing, logs))
    ]
    columns = [ints([row[place] for row in rows]) for place in range(5)]
    current = ints([number(getattr(thing, now)) for thing in things])
    if forever:
        return machine.property_history(Logs(*columns), current)
    return machine.state_history(Logs(*columns), current)


def levels_of(things: Sequence[Thing]) -> History:
    states = history_of(things, "states", "now", STATES.get, forever=False)
    return machine.levels(states, history_of(things, "uptos", "upto_now", int, forever=True))


def kinds_of(things: Sequence[Thing]) -> tuple[History, Resources]:
    """What the resources were, and when."""
    hosts = ["a", "b", ""]
    kind, (host, mem) = machine.joined(
        [
            history_of(things, "hosts", "host", hosts.index, forever=True),
            history_of(things, "mems", "mem", int, forever=True),
        ]
    )
    kinds = Resources(
        resource_id=kind.owner,
        type=[things[owner].kind for owner in kind.owner.tolist()],
        properties={"network_address": [hosts[h] for h in host], "mem": mem.tolist()},
    )
    return kind, kinds


def value_at(history: History, owner: int, second: int) -> int:
    """The value of a history; GONE before it begins."""
    rows = [
        value
        for whose, since, value in zip(
            history.owner.tolist(), history.since.tolist(), history.value.tolist(), strict=True
        )
        if whose == owner and since <= second
    ]
    return rows[-1] if rows else GONE


@given(things=st.lists(THINGS, min_size=1, max_size=4))
def test_every_second_is_as_the_logs_tell(things: list[Thing]) -> None:
    level = levels_of(things)
    for owner, thing in enumerate(things):
        for second in range(END + 5):
            assert value_at(level, owner, second) == thing.level(second)


SUM = Metric(name="memory", unit="MiB·s", form="sum", of="mem")
PER_NODE = Metric(name="node_memory", unit="MiB·s", form="sum", of="mem", per="network_address")
HELD = (RESOURCE, NODE, SUM, PER_NODE)


def naive(metric: Metric, things: Sequence[Thing], levels: Sequence[int], at: int) -> list[int]:
    """What is up, standby and down within a second."""
    found = [0, 0, 0]
    nodes: dict[str, tuple[int, int]] = {}
    for thing, level in zip(things, levels, strict=True):
        if level == GONE or thing.kind != "default":
            continue
        host, mem = always(thing.hosts, thing.host, at), always(thing.mems, thing.mem, at)
        if metric is RESOURCE or metric is SUM:
            found[level] += 1 if metric is RESOURCE else mem
        elif host:
            best, most = nodes.get(host, (level, 0))
            nodes[host] = (min(best, level), max(most, 1 if metric is NODE else mem))
    for level, amount in nodes.values():
        found[level] += amount
    return found


BUSY = st.lists(st.tuples(st.integers(0, 3), st.integers(0, END), st.integers(1, 9)), max_size=4)


@pytest.mark.parametrize("metric", HELD, ids=lambda metric: metric.name)
@given(
    things=st.lists(THINGS, min_size=4, max_size=4),
    busy=BUSY,
    used=st.lists(st.tuples(st.integers(0, END), st.integers(1, 9), st.integers(1, 4)), max_size=5),
    bounds=st.sets(st.integers(0, END), min_size=2).map(sorted),
)
def test_every_bucket_is_the_sum_of_its_seconds(
    metric: Metric,
    things: list[Thing],
    busy: list[tuple[int, int, int]],
    used: list[tuple[int, int, int]],
    bounds: list[int],
) -> None:
    spans = [
        ints([b[0] for b in busy]),
        ints([b[1] for b in busy]),
        ints([b[1] + b[2] for b in busy]),
    ]
    level = machine.with_busy(levels_of(things), machine.busy_history(*spans))
    kind, kinds = kinds_of(things)
    found = machine.stretches(level, kind, bounds[0], bounds[-1])
    steps = machine.steps_of(machine.measured(metric, kinds, ""), found)
    use = machine.use_of(
        ints([u[0] for u in used]), ints([u[0] + u[1] for u in used]), ints([u[2] for u in used])
    )
    filled = machine.filled(steps, use, use, ints(bounds))
    for bucket, (start, stop) in enumerate(pairwise(bounds)):
        sums = [0] * 6
        for second in range(start, stop):
            levels = [
                UP
                if thing.level(second) != GONE
                and any(o == owner and b <= second < b + n for o, b, n in busy)
                else thing.level(second)
                for owner, thing in enumerate(things)
            ]
            up, standby, down = naive(metric, things, levels, second)
            jobs = sum(rate for begin, n, rate in used if begin <= second < begin + n)
            now = (up + standby + down, down, standby, min(jobs, up), up - min(jobs, up))
            sums = [a + b for a, b in zip(sums, (*now, jobs - now[3]), strict=True)]
        assert [int(column[bucket]) for column in filled.as_dict().values()] == sums


# -- all of it, against one second at a time --------------------------------------------------


@dataclass(frozen=True)
class Ran:
    """A job: it began, ran so long (None: it still does), on some resources, and paused once."""

    start: int
    seconds: int | None
    on: frozenset[int]
    pause: tuple[int, int] | None = None
    inner: bool = False

    def uses(self, second: int) -> bool:
        """True while it runs and is not suspended."""
        if second < self.start or (self.seconds and second >= self.start + self.seconds):
            return False
        return self.pause is None or not self.pause[0] <= second < self.pause[1]


def job_of(
    start: int, seconds: int | None, on: frozenset[int], pause: int | None, inner: bool
) -> Ran:
    within = None if pause is None or seconds is None else (start + pause, start + pause + 3)
    return Ran(start, seconds, on, within, inner)


JOBS = st.lists(
    st.builds(
        job_of,
        start=st.integers(0, END),
        seconds=st.one_of(st.none(), st.integers(1, 20)),
        on=st.frozensets(st.integers(0, 3), min_size=1),
        pause=st.one_of(st.none(), st.integers(0, 5)),
        inner=st.booleans(),
    ),
    max_size=4,
)
ALL = (
    'dimension = ""\n'
    + MEMORY.replace("memory", "node_memory")
    + ('[metrics.memory]\nunit = "MiB·s"\nsum = "mem"\n')
)


def build(oar: SmallOar, things: Sequence[Thing], jobs: Sequence[Ran]) -> None:
    """Put things and jobs into OAR, all times after `T0`."""
    for thing in things:
        (number,) = oar.add_resources(
            kind=thing.kind, host=thing.host, mem=thing.mem, state=thing.now,
            available_upto=T0 + thing.upto_now,
        )  # fmt: skip
        attributes: Mapping[str, Sequence[tuple[Any, int, int]]] = {
            "state": thing.states,
            "network_address": thing.hosts,
            "mem": thing.mems,
            "available_upto": [(T0 + value, a, b) for value, a, b in thing.uptos],
        }
        for attribute, logs in attributes.items():
            for value, start, stop in logs:
                said = str(value) or "<unset>"
                end = T0 + stop if stop else 0
                oar.log_resource(number, said, T0 + start, end, attribute=attribute)
    for job in jobs:
        ended = job.seconds is not None
        oar.add_job(
            resources=[n + 1 for n in sorted(job.on)],
            start=T0 + job.start,
            stop=T0 + job.start + (job.seconds or 0) if ended else 0,
            state="Terminated" if ended else "Running",
            types=["inner=1"] if job.inner else ["container"] if job is jobs[0] else [],
            pauses=[(T0 + job.pause[0], T0 + job.pause[1])] if job.pause else [],
        )


def host_of(thing: Thing, second: int) -> str:
    return str(always(thing.hosts, thing.host, second))


def mem_of(thing: Thing, second: int) -> int:
    return int(always(thing.mems, thing.mem, second))


def held_by(job: Ran, jobs: Sequence[Ran], second: int) -> frozenset[int]:
    """What a job is billed for: within a container, what that does not hold while it runs."""
    if job.inner and not jobs[0].inner and job is not jobs[0] and jobs[0].uses(second):
        return job.on - jobs[0].on
    return job.on


def rate_of(metric: Metric, things: Sequence[Thing], on: frozenset[int], second: int) -> int:
    """What is held within a second, by the properties that the resources had then."""
    held = [things[n] for n in on if things[n].kind == "default"]
    if metric is RESOURCE:
        return len(held)
    if metric is SUM:
        return sum(mem_of(thing, second) for thing in held)
    # The memory of a node is the largest that any of its resources has.
    most: dict[str, int] = {}
    for thing in things:
        host, mem = host_of(thing, second), mem_of(thing, second)
        most[host] = max(most.get(host, 0), mem if thing.kind == "default" else 0)
    hosts = {host_of(thing, second) for thing in held} - {""}
    return sum(1 if metric is NODE else most[host] for host in hosts)


def plain(metric: Metric, things: Sequence[Thing], jobs: Sequence[Ran], second: int) -> Parts:
    """What is to be told of one second."""
    held = [(job.on, held_by(job, jobs, second)) for job in jobs if job.uses(second)]
    busy = {
        owner
        for on, billed in held
        if any(rate_of(each, things, billed, second) for each in HELD)
        for owner in on
    }
    levels = [
        UP if thing.level(second) != GONE and owner in busy else thing.level(second)
        for owner, thing in enumerate(things)
    ]
    up, standby, down = naive(metric, things, levels, second)
    wanted = sum(rate_of(metric, things, billed, second) for _, billed in held)
    # What jobs share is used once.
    taken = rate_of(metric, things, frozenset().union(*(on for on, _ in held)), second)
    used = min(up, wanted, taken)
    return up + standby + down, down, standby, used, up - used, wanted - used


@pytest.mark.databases("sqlite")
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    things=st.lists(THINGS, min_size=4, max_size=4),
    jobs=JOBS,
    bounds=st.sets(st.integers(1, END - 1), max_size=5),
)
def test_all_of_it_is_the_sum_of_its_seconds(
    server: Server, things: list[Thing], jobs: list[Ran], bounds: set[int]
) -> None:
    with fresh_database(server) as database:
        engine = create_engine(database.url)
        build(SmallOar(engine, metadata=ENERGY, nodes=0), things, jobs)
        site = recorded(engine, ALL)
        names = [metric.name for metric in HELD]
        edges = [T0, *sorted(T0 + bound for bound in bounds), T0 + END]
        seconds = site.accounting.utilisation(names, T0, T0 + END, bucket=1)
        with (
            patch("oar_accounting.reports.utilisation.PERIOD_AT_ONCE", 7),
            patch("oar_accounting.reports.utilisation.cuts", lambda *_: edges),
        ):
            buckets = site.accounting.utilisation(names, T0, T0 + END, bucket=1)
        for metric in HELD:
            expected = [plain(metric, things, jobs, second) for second in range(END)]
            assert told(seconds, metric.name) == expected
            sums = [
                tuple(map(sum, zip(*expected[start - T0 : stop - T0], strict=True)))
                for start, stop in pairwise(edges)
            ]
            assert told(buckets, metric.name) == sums
            # Periods that follow each other add up.
            apart = [asked(site, *span, metric.name)[0] for span in pairwise(edges)]
            assert apart == sums
        engine.dispose()

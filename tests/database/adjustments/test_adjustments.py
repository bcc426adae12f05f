"""Adjustments: exact, shown, never edited, and once only, whoever posts them how often."""

import csv
import io
import json
import os
import pwd
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from sqlalchemy import Engine, Table, select

from oar_accounting import (
    Adjusted,
    AdjustmentReport,
    BadAdjustment,
    BadSpan,
    JobFilter,
    UnknownName,
    WriterBusy,
)
from oar_accounting.adjustments import by_job as jobs_adjusted
from oar_accounting.adjustments.input import whole_amount
from oar_accounting.cli import app
from oar_accounting.database import id_blocks
from oar_accounting.demo.demo import DEMO_NOW
from oar_accounting.ledger import schema
from oar_accounting.metrics.metric import Metric
from oar_accounting.oar import snapshot
from tests.old_site import CORE, places_of
from tests.servers import Database
from tests.small_oar import DAY, HOUR, NOW, T0, Clock, Recorded, SmallOar, opened, stopped_clock
from tests.strategies import (
    rows_in,
)
from tests.system.cli.test_cli import Done, process, run, said

on_sqlite = pytest.mark.databases("sqlite")

WORDS: dict[str, Any] = {"reason": "alpha-1 crashed", "author": "root"}
NAMES = ("user", "project", "queue", "property")
ROOT = Path(__file__).parents[3]


@pytest.fixture(autouse=True)
def clock() -> Iterator[Clock]:
    """The verbs' clock stands at `NOW`."""
    with stopped_clock() as stopped:
        yield stopped


class Site:
    """An OAR of two nodes, alpha-1 and alpha-2, and its accounting.

    Jobs 1 and 2 have a node each, job 3 both; each ran for one hour of the two it asked for.
    """

    def __init__(self, engine: Engine, toml: str = "", url: str = "") -> None:
        self.engine = engine
        self.url = url
        self.oar = SmallOar(engine)
        self.oar.add_job(user="alice", cores=4)
        self.oar.add_job(user="bob", resources=[5, 6, 7, 8])
        self.oar.add_job(user="alice", project="physics", cores=8, start=T0 + DAY)
        self.reopen(toml)
        self.catch_up()

    def reopen(self, toml: str = "") -> None:
        """Other settings, as the next command would read them."""
        self.accounting = opened(self.engine, toml)

    def catch_up(self) -> None:
        """Record what is new."""
        assert self.accounting.catch_up().problems == ()

    def jobs(self, **wanted: Any) -> AdjustmentReport:
        """Take back what jobs were counted."""
        return self.accounting.adjust_jobs(JobFilter(**wanted), **WORDS)

    def account(self, **given: Any) -> AdjustmentReport:
        """Give alice an hour of a core, or what is given."""
        usual: dict[str, Any] = {
            **dict(zip(NAMES, ("alice", "default", "default", "alpha"), strict=True)),
            **WORDS,
            "metric": "resource",
            "start": T0,
            "stop": T0 + DAY,
            "used": -HOUR,
        }
        return self.accounting.adjust(**usual | given)

    def used(self, user: str = "alice", metric: str = "resource") -> int:
        """What the user has used, as usage tells it."""
        return Recorded(self.accounting).by("user", metric)[user][1]

    def lines(self) -> list[tuple[int | None, str, int, int, int, int]]:
        """Job, metric, span and amounts of every line of every adjustment."""
        return [
            (line.job_id, line.metric, line.start - T0, line.stop - T0, line.asked, line.used)
            for each in self.accounting.adjustments()
            for line in self.accounting.adjustment_lines(each.adjustment_id)
        ]


def rows_of(engine: Engine, *tables: Table) -> list[Any]:
    """Every row of these of our tables, or of all."""
    with engine.connect() as connection:
        return [rows_in(connection, each) for each in tables or schema.metadata.sorted_tables]


def adjustments_in(engine: Engine) -> list[Any]:
    """Every row of every adjustment."""
    return rows_of(engine, schema.adjustments, schema.adjusted)


# -- an account ---------------------------------------------------------------------------------


def test_an_amount_is_within_the_figures_and_beside_the_totals(engine: Engine) -> None:
    site = Site(engine)
    before = rows_of(engine, schema.totals)
    report = site.account(used=-HOUR, asked=7)
    assert (report.adjustment_id, report.jobs, report.lines, report.notices) == (1, 0, 1, ())
    (row,) = report.rows
    assert (row.user, row.project, row.queue) == ("alice", "default", "default")
    assert (row.metric, row.unit, row.scale) == ("resource", "resource·s", 1)
    assert (row.asked, row.used) == (7, -HOUR)
    assert rows_of(engine, schema.totals) == before
    assert site.accounting.verify() == []
    assert Recorded(site.accounting).by("user")["alice"] == (48 * HOUR // 2 + 7, 11 * HOUR)
    (without,) = site.accounting.usage(("user",), ("resource",), without_adjustments=True).rows[:1]
    assert (without.asked, without.used) == (24 * HOUR, 12 * HOUR)


def test_what_was_posted_is_listed(engine: Engine) -> None:
    site = Site(engine)
    site.account(reason="zoë's\n“free” day \x1b[31m", author="o'neill 😀", used=-3, asked=2)
    site.jobs(jobs=[2])
    first, second = site.accounting.adjustments()
    assert (first.adjustment_id, first.posted, first.author) == (1, NOW, "o'neill 😀")
    assert first.reason == "zoë's\n“free” day \x1b[31m"
    assert (first.counters, first.countered_by, first.lines, first.jobs) == (None, None, 1, 0)
    assert [(each.metric, each.asked, each.used) for each in first.amounts] == [("resource", 2, -3)]
    assert (second.adjustment_id, second.lines, second.jobs) == (2, 4, 1)
    assert [(each.metric, each.asked, each.used) for each in second.amounts] == [
        ("node", -2 * HOUR, -HOUR),
        ("resource", -8 * HOUR, -4 * HOUR),
    ]
    (line,) = site.accounting.adjustment_lines(1)
    assert (line.line, line.job_id, line.start, line.stop) == (1, None, T0, T0 + DAY)
    assert (line.user, line.project, line.queue, line.property) == (
        *("alice", "default", "default"),
        "alpha",
    )


@on_sqlite
def test_names_that_never_met_become_an_account(engine: Engine) -> None:
    site = Site(engine)
    accounts = rows_of(engine, schema.accounts)
    new = {"user": "bob", "project": "physics", "property": ""}
    dry = site.account(**new, dry_run=True)
    assert rows_of(engine, schema.accounts) == accounts
    report = site.account(**new)
    assert replace(report, adjustment_id=None) == dry
    assert len(rows_of(engine, schema.accounts)[0]) == len(accounts[0]) + 1
    assert site.used("bob") == 3 * HOUR


@on_sqlite
@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({"user": "alise"}, "nothing is recorded of a user 'alise'; close to it: 'alice'"),
        ({"project": "physic"}, "of a project 'physic'; close to it: 'physics'"),
        ({"queue": "x"}, "nothing is recorded of a queue 'x'$"),
        ({"property": "alpah"}, "of a cluster 'alpah'; close to it: 'alpha'"),
        ({"metric": "nodes"}, "of a metric 'nodes'; close to it: 'node'"),
    ],
)
def test_a_mistyped_name_is_told_with_those_that_are_close(
    engine: Engine, given: dict[str, str], expected: str
) -> None:
    site = Site(engine)
    for dry_run in (True, False):
        with pytest.raises(UnknownName, match=expected):
            site.account(**given, dry_run=dry_run)
    assert adjustments_in(engine) == [[], []]


@on_sqlite
@pytest.mark.parametrize(
    ("given", "error", "expected"),
    [
        ({"used": 0}, BadAdjustment, "by 0 says nothing"),
        ({"used": 2**63}, BadAdjustment, "does not fit in 63 bits"),
        ({"used": "1.5"}, BadAdjustment, "'1.5' is no amount of resource; expected a whole number"),
        ({"used": "1.00001h"}, BadAdjustment, "is not a whole number of resource·s"),
        (
            {"reason": " \n"},
            BadAdjustment,
            r"a reason of 1 to 2000 characters was expected, not ' ",
        ),
        ({"reason": "x" * 2001}, BadAdjustment, "xx'... of 2001 characters"),
        ({"reason": "a\0b"}, BadAdjustment, "a reason of 1 to 2000"),
        ({"reason": "a\udc80"}, BadAdjustment, "a reason of 1 to 2000"),
        ({"author": ""}, BadAdjustment, "an author of 1 to 255 printable characters"),
        ({"author": "a\nb"}, BadAdjustment, "an author of 1 to 255 printable characters"),
        ({"author": "x" * 256}, BadAdjustment, "of 256 characters"),
        ({"stop": T0}, BadSpan, "is empty"),
        ({"stop": T0 - 1}, BadSpan, "is empty"),
        ({"stop": 2**62 + 1}, BadSpan, "beyond any calendar"),
    ],
)
def test_what_cannot_be_posted_is_refused(
    engine: Engine, given: dict[str, Any], error: type[Exception], expected: str
) -> None:
    site = Site(engine)
    for dry_run in (True, False):
        with pytest.raises(error, match=expected):
            site.account(**given, dry_run=dry_run)
    assert adjustments_in(engine) == [[], []]


def test_the_largest_of_everything_is_stored(engine: Engine) -> None:
    site = Site(engine)
    most = 2**63 - 1
    words: dict[str, Any] = {"reason": "😀" * 2000, "author": "é" * 255}
    site.account(**words, used=-most, asked=most, start=-(2**62), stop=2**62)
    site.accounting.counter(1, **words)
    assert [line[4:] for line in site.lines()] == [(most, -most), (-most, most)]
    assert site.accounting.adjustments()[1].reason == words["reason"]
    assert site.used() == 12 * HOUR


CORES = Metric(name="core", unit="core·s", form="count")


@pytest.mark.parametrize(
    ("said", "unit", "scale", "expected"),
    [
        ("-3600", "core·s", 1, -3600),
        ("+7", "core·s", 1000, 7),
        (-7, "core·s", 1, -7),
        ("-1.5h", "core·s", 1, -5400),
        ("1h", "core·s", 1000, 3_600_000),
        ("0.0001h", "core·s", 100, 36),
        ("-2h", "MiB·s", 1, -2 * 3600 * 1024),
        ("1h", "KiB·s", 1, 3600 * 1024**2),
        ("2h", "GiB·s", 1, 7200),
        ("9223372036854775807", "core·s", 1, 2**63 - 1),
    ],
)
def test_amounts_are_read_exactly(said: int | str, unit: str, scale: int, expected: int) -> None:
    assert whole_amount(said, replace(CORES, unit=unit, scale=scale)) == expected


@pytest.mark.parametrize(
    "said", ["", "h", "1.5", "1e3", "1,5h", "0.0001h", "٣", " 1", "1 h", "--1"]
)
def test_what_is_no_amount_is_refused(said: str) -> None:
    with pytest.raises(BadAdjustment):
        whole_amount(said, CORES)


# -- jobs ---------------------------------------------------------------------------------------


def test_the_jobs_of_a_node_are_taken_back_whole(engine: Engine) -> None:
    site = Site(engine)
    report = site.jobs(nodes=["alpha-1"], metrics=("resource",))
    assert (report.jobs, report.lines, report.notices) == (2, 4, ())
    assert [(r.user, r.project, r.asked, r.used) for r in report.rows] == [
        ("alice", "default", -8 * HOUR, -4 * HOUR),
        ("alice", "physics", -16 * HOUR, -8 * HOUR),
    ]
    assert site.lines() == [
        (1, "resource", 0, HOUR, 0, -4 * HOUR),
        (1, "resource", 0, 2 * HOUR, -8 * HOUR, 0),
        (3, "resource", DAY, DAY + HOUR, 0, -8 * HOUR),
        (3, "resource", DAY, DAY + 2 * HOUR, -16 * HOUR, 0),
    ]
    assert (site.used(), site.used(metric="node"), site.used("bob")) == (0, 3 * HOUR, 4 * HOUR)


@on_sqlite
def test_several_nodes_and_several_filters_together(engine: Engine) -> None:
    site = Site(engine)
    both: dict[str, Any] = {"nodes": ["alpha-1", "alpha-2"]}
    found = {
        "both": JobFilter(**both),
        "of alice": JobFilter(**both, user="alice"),
        "of physics": JobFilter(**both, project="physics"),
        "of another queue": JobFilter(**both, queue="default"),
        "named too": JobFilter(**both, jobs=[2, 3]),
        "of the second day": JobFilter(**both, start=T0 + DAY),
        "of the first day": JobFilter(**both, stop=T0 + DAY),
    }
    dry = {
        name: site.accounting.adjust_jobs(wanted, **WORDS, dry_run=True).jobs
        for name, wanted in found.items()
    }
    assert list(dry.values()) == [3, 2, 1, 3, 2, 1, 2]


def test_only_what_was_counted_between_is_taken_back(engine: Engine) -> None:
    site = Site(engine)
    site.jobs(start=T0 + HOUR - 1, stop=T0 + HOUR + 2, user="bob", metrics=["resource"])
    assert site.lines() == [
        (2, "resource", HOUR - 1, HOUR, 0, -4),
        (2, "resource", HOUR - 1, HOUR + 2, -12, 0),
    ]


@on_sqlite
@pytest.mark.parametrize(
    ("start", "stop", "jobs"),
    [
        (T0 - 9, T0, 0),
        (T0 - 9, T0 + 1, 2),
        (T0 + 2 * HOUR - 1, T0 + DAY, 2),
        (T0 + 2 * HOUR, T0 + DAY, 0),
    ],
)
def test_the_bounds_are_half_open(engine: Engine, start: int, stop: int, jobs: int) -> None:
    assert Site(engine).jobs(start=start, stop=stop).jobs == jobs


@on_sqlite
def test_suspended_time_is_not_taken_back(engine: Engine) -> None:
    site = Site(engine)
    site.oar.add_job(user="alice", cores=1, start=T0, pauses=[(T0 + 100, T0 + 200, T0 + 300)])
    site.catch_up()
    site.jobs(jobs=[4], metrics=["resource"], asked=False)
    assert site.lines() == [
        (4, "resource", 0, 100, 0, -100),
        (4, "resource", 300, HOUR, 0, -(HOUR - 300)),
    ]


@on_sqlite
def test_what_was_asked_and_used_over_the_same_time_is_one_line(engine: Engine) -> None:
    site = Site(engine)
    site.jobs(jobs=[1], stop=T0 + HOUR, metrics=["node"])
    assert site.lines() == [(1, "node", 0, HOUR, -HOUR, -HOUR)]


@on_sqlite
def test_a_job_over_two_clusters_has_a_line_for_each(engine: Engine) -> None:
    site = Site(engine)
    extra = site.oar.add_resources(2, host="beta-1", cluster="beta")
    job = site.oar.add_job(user="bob", resources=[1, *extra], start=T0, walltime=HOUR)
    site.catch_up()
    report = site.jobs(jobs=[job], metrics=["resource"])
    assert [(r.user, r.used) for r in report.rows] == [("bob", -3 * HOUR)]
    lines = site.accounting.adjustment_lines(1)
    assert sorted((line.property, line.used) for line in lines) == [
        ("alpha", -HOUR),
        ("beta", -2 * HOUR),
    ]


@on_sqlite
def test_asked_or_used_alone(engine: Engine) -> None:
    site = Site(engine)
    site.jobs(jobs=[1], metrics=["node"], used=False)
    site.jobs(jobs=[1], metrics=["node"], asked=False)
    assert site.lines() == [
        (1, "node", 0, 2 * HOUR, -2 * HOUR, 0),
        (1, "node", 0, HOUR, 0, -HOUR),
    ]


@on_sqlite
@pytest.mark.parametrize(
    ("percent", "seconds", "expected"),
    [
        (50, 3, -6),
        (50, 1, -2),
        (12.5, 1, 0),
        (12.5, 3, -2),
        (37.5, 1, -2),
        (62.5, 1, -2),
        ("0.1", 4, 0),
    ],
)
def test_a_share_is_rounded_once_half_to_even(
    engine: Engine, percent: Any, seconds: int, expected: int
) -> None:
    site = Site(engine)
    job = site.oar.add_job(cores=4, stop=T0 + seconds, walltime=seconds)
    site.catch_up()
    report = site.jobs(jobs=[job], metrics=["resource"], percent=percent, asked=False)
    assert sum(row.used for row in report.rows) == expected


@on_sqlite
@pytest.mark.parametrize("percent", [0, -1, 100.5, "x", "", "nan", "inf", "1.0000001", "0.0000001"])
def test_what_is_no_percentage_is_refused(engine: Engine, percent: Any) -> None:
    with pytest.raises(BadAdjustment, match="is no percentage; expected a number above 0, up to"):
        Site(engine).jobs(jobs=[1], percent=percent)


@on_sqlite
def test_names_of_a_filter_must_be_recorded(engine: Engine) -> None:
    site = Site(engine)
    wrong: list[tuple[dict[str, Any], str]] = [
        ({"nodes": ["alpha1"]}, "of a node 'alpha1'; close to it: 'alpha-1', 'alpha-2'"),
        ({"nodes": ["alpha-1", ""]}, "of a node ''"),
        ({"jobs": [1, 77]}, "job 77 is not recorded"),
        ({"jobs": [1], "user": "alic"}, "of a user 'alic'; close to it: 'alice'"),
        ({"jobs": [1], "project": "x"}, "of a project 'x'"),
        ({"jobs": [1], "queue": "x"}, "of a queue 'x'"),
        ({"jobs": [1], "metrics": ["node", "gpu"]}, "of a metric 'gpu'"),
    ]
    for wanted, expected in wrong:
        with pytest.raises(UnknownName, match=expected):
            site.jobs(**wanted)
    with pytest.raises(BadAdjustment, match="needs a node, a span of time, or jobs"):
        site.jobs(user="alice")
    with pytest.raises(BadSpan):
        site.jobs(start=T0, stop=T0)
    assert adjustments_in(engine) == [[], []]


@on_sqlite
def test_a_site_that_is_not_recorded_is_not_made(engine: Engine) -> None:
    Site(engine)
    other = opened(engine, site="mistyped")
    for dry_run in (True, False):
        with pytest.raises(UnknownName, match="site 'mistyped' is not recorded here"):
            other.counter(1, **WORDS, dry_run=dry_run)
    for question in (other.adjustments, lambda: other.adjustment_lines(1)):
        with pytest.raises(UnknownName, match="site 'mistyped' is not recorded here"):
            question()


# -- who is left out ----------------------------------------------------------------------------


def test_jobs_that_cannot_be_taken_back_are_told(engine: Engine) -> None:
    site = Site(engine)
    long_ago = T0 - 60 * DAY
    purged = site.oar.add_job(start=long_ago)
    site.catch_up()
    site.accounting.purge(T0 - 30 * DAY)
    running = site.oar.add_job(state="Running", start=T0 + DAY)
    site.oar.add_job(state="Waiting", start=T0 + DAY, moldable=False)
    failed = [site.oar.add_job(state="Error", start=T0 + 5, moldable=False) for _ in range(7)]
    site.catch_up()
    report = site.jobs(start=long_ago, stop=NOW)
    assert report.jobs == 3
    assert report.notices == (
        f"1 job still runs: run this again when it has ended: {running}",
        f"1 job was purged and has no details any more: {purged}",
        f"7 jobs held nothing there: {', '.join(map(str, failed[:5]))}, ...",
    )
    again = site.jobs(start=long_ago, stop=NOW)
    assert (again.adjustment_id, again.lines, again.rows) == (None, 0, ())
    assert again.notices[-1] == (
        "3 jobs are adjusted already, by adjustment 1, and left out there: 1, 2, 3"
    )


@on_sqlite
def test_a_job_that_ends_later_is_taken_back_by_the_same_command(engine: Engine) -> None:
    site = Site(engine)
    running = site.oar.add_job(user="carol", state="Running", start=T0 + DAY)
    site.catch_up()
    site.jobs(nodes=["alpha-1"])
    site.oar.update_job(running, state="Terminated", stop_time=T0 + DAY + 60)
    site.catch_up()
    report = site.jobs(nodes=["alpha-1"])
    assert (report.adjustment_id, report.jobs) == (2, 1)
    assert site.used("carol") == 0


@on_sqlite
def test_a_running_job_that_begins_after_the_span_is_not_told(engine: Engine) -> None:
    site = Site(engine)
    site.oar.add_job(state="Running", start=T0 + DAY)
    site.catch_up()
    assert site.jobs(start=T0, stop=T0 + DAY).notices == ()
    assert len(site.jobs(start=T0, stop=T0 + DAY + 1, used=False).notices) == 2


@on_sqlite
def test_a_node_without_recorded_jobs(engine: Engine) -> None:
    site = Site(engine)
    site.oar.add_resources(1, host="gamma-1", cluster="gamma")
    report = site.jobs(nodes=["gamma-1"])
    assert (report.adjustment_id, report.notices) == (
        None,
        ("no recorded job matches; of a node's jobs, those that OAR has deleted are not found",),
    )


def test_an_id_that_oar_gave_to_another_job_is_not_the_job_of_the_node(engine: Engine) -> None:
    site = Site(engine)
    site.oar.update_job(1, submission_time=T0 - 999)
    assert site.jobs(nodes=["alpha-1"]).jobs == 1
    assert {line[0] for line in site.lines()} == {3}


@on_sqlite
def test_a_job_without_a_moldable_is_of_no_node(engine: Engine) -> None:
    site = Site(engine)
    site.oar.add_job(moldable=False, state="Error")
    site.catch_up()
    assert site.jobs(nodes=["alpha-1"], start=T0).notices == ()


# -- once ---------------------------------------------------------------------------------------


@on_sqlite
def test_parts_that_do_not_meet_are_posted_one_after_the_other(engine: Engine) -> None:
    site = Site(engine)
    assert site.jobs(jobs=[1], stop=T0 + 60).lines == 2
    assert site.jobs(jobs=[1], start=T0 + 60).lines == 4
    assert site.used("alice") == 8 * HOUR
    for bounds in ({"start": T0 + 59}, {"stop": T0 + 61}, {}):
        assert site.jobs(jobs=[1], **bounds).lines == 0


@on_sqlite
def test_what_oar_corrected_since_is_adjusted_where_nothing_was_posted(engine: Engine) -> None:
    site = Site(engine)
    site.jobs(jobs=[1], start=T0 + 60, metrics=["node"], asked=False)
    site.oar.update_job(1, stop_time=T0 + 60)
    site.catch_up()
    site.jobs(jobs=[1], metrics=["node"], asked=False)
    assert site.lines() == [(1, "node", 60, HOUR, 0, 60 - HOUR), (1, "node", 0, 60, 0, -60)]


@on_sqlite
def test_other_metrics_of_a_job_that_is_adjusted_are_posted(engine: Engine) -> None:
    site = Site(engine)
    site.jobs(jobs=[1], metrics=["node"])
    report = site.jobs(jobs=[1, 2])
    assert [line[:2] for line in site.lines()[2:] if line[0] == 1] == [(1, "resource")] * 2
    assert [(row.user, row.metric) for row in report.rows] == [
        ("alice", "resource"),
        ("bob", "node"),
        ("bob", "resource"),
    ]
    assert report.notices == ("1 job is adjusted already, by adjustment 1, and left out there: 1",)


@on_sqlite
def test_an_amount_posted_to_the_account_leaves_no_job_out(engine: Engine) -> None:
    site = Site(engine)
    site.account()
    assert site.jobs(jobs=[1]).jobs == 1


def test_countered_a_job_can_be_adjusted_again(engine: Engine) -> None:
    site = Site(engine)
    before = site.used()
    site.jobs(jobs=[1])
    for _ in range(2):
        last = site.accounting.adjustments()[-1].adjustment_id
        report = site.accounting.counter(last, **WORDS)
        assert (report.jobs, report.lines) == (1, 4)
        assert site.used() == before
        assert site.jobs(jobs=[1], percent=50).lines == 4
        assert site.used() == before - 2 * HOUR
        site.accounting.counter(last + 2, **WORDS)
        # What was countered is posted again, and stands in the way again.
        site.accounting.counter(last + 1, **WORDS)
        assert site.used() == before - 4 * HOUR
        assert f"by adjustment {last + 4}, " in site.jobs(jobs=[1]).notices[0]


def test_each_adjustment_is_countered_once(engine: Engine) -> None:
    site = Site(engine)
    site.account(used=-5, asked=3)
    dry = site.accounting.counter(1, **WORDS, dry_run=True)
    assert len(site.accounting.adjustments()) == 1
    report = site.accounting.counter(1, **WORDS)
    assert replace(report, adjustment_id=None) == dry
    assert (report.adjustment_id, report.rows[0].asked, report.rows[0].used) == (2, -3, 5)
    for dry_run in (True, False):
        with pytest.raises(BadAdjustment, match="1 is countered already, by adjustment 2; its am"):
            site.accounting.counter(1, **WORDS, dry_run=dry_run)
    with pytest.raises(UnknownName, match="there is no adjustment 9"):
        site.accounting.counter(9, **WORDS)
    with pytest.raises(UnknownName, match="there is no adjustment 9"):
        site.accounting.adjustment_lines(9)
    first, second = site.accounting.adjustments()
    assert (first.countered_by, second.counters) == (2, 1)


def test_another_site_in_the_same_tables_is_let_alone(engine: Engine) -> None:
    site = Site(engine)
    other = opened(engine, site="other")
    other.catch_up()
    site.jobs(nodes=["alpha-1"])
    with pytest.raises(UnknownName, match="adjustment 1 is of site 'oar', not of 'other'"):
        other.counter(1, **WORDS)
    with pytest.raises(UnknownName, match="adjustment 1 is of site 'oar', not of 'other'"):
        other.adjustment_lines(1)
    assert other.adjustments() == []
    report = other.adjust_jobs(JobFilter(nodes=["alpha-1"]), **WORDS)
    assert (report.adjustment_id, report.jobs, report.notices) == (2, 2, ())
    ours = site.accounting.adjustment_lines(1)
    site.oar.remove_job(1)
    assert other.retire(1) == 1
    assert site.accounting.adjustment_lines(1) == ours
    assert min(line.job_id or 0 for line in other.adjustment_lines(2)) < 0
    other.counter(2, **WORDS)
    assert [each.adjustment_id for each in other.adjustments()] == [2, 3]
    assert site.used() == 0


# -- all or nothing -----------------------------------------------------------------------------


@on_sqlite
def test_many_jobs_are_adjusted_in_portions_as_one(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    site = Site(engine)
    for _ in range(20):
        site.oar.add_job(user="dan", cores=2)
    site.catch_up()
    whole = site.accounting.adjust_jobs(JobFilter(start=T0), **WORDS, dry_run=True)
    of_node = site.accounting.adjust_jobs(JobFilter(nodes=["alpha-1"]), **WORDS, dry_run=True)
    monkeypatch.setattr(jobs_adjusted, "JOBS_A_PAGE", 3)
    monkeypatch.setattr(id_blocks, "BLOCK", 2)
    monkeypatch.setattr(snapshot, "LOOKED_THROUGH_AT_ONCE", 4)
    for wanted, expected in ((JobFilter(nodes=["alpha-1"]), of_node), (JobFilter(start=T0), whole)):
        found = site.accounting.adjust_jobs(wanted, **WORDS, dry_run=True)
        assert found == expected
    site.jobs(start=T0)
    lines = site.accounting.adjustment_lines(1)
    assert [line.line for line in lines] == list(range(1, whole.lines + 1))
    assert site.used("dan") == 0


@on_sqlite
def test_interrupted_it_has_posted_nothing(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    site = Site(engine)
    monkeypatch.setattr(id_blocks, "BLOCK", 1)
    calls = []

    def interrupted(lines: Any, share: Any) -> Any:
        calls.append(lines)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return lines

    monkeypatch.setattr(jobs_adjusted, "_shared", interrupted)
    with pytest.raises(KeyboardInterrupt):
        site.jobs(start=T0)
    assert adjustments_in(engine) == [[], []]


def test_the_journal_has_what_was_posted_and_no_dry_run(engine: Engine) -> None:
    site = Site(engine)
    before = rows_of(engine)
    site.accounting.adjust_jobs(JobFilter(start=T0), **WORDS, dry_run=True)
    site.account(dry_run=True)
    assert rows_of(engine) == before
    site.jobs(start=T0)
    with pytest.raises(UnknownName):
        site.account(user="bbo")
    with engine.connect() as connection:
        table = schema.passes.c
        found = connection.execute(
            select(table.verb, table.outcome, table.done, table.message).order_by(table.pass_id)
        ).all()
    assert [tuple(row) for row in found[-2:]] == [
        ("adjust", "done", 3, ""),
        ("adjust", "failed", 0, "UnknownName"),
    ]


# -- for ever -----------------------------------------------------------------------------------


def test_whatever_is_recomputed_leaves_them_alone(engine: Engine) -> None:
    site = Site(engine, CORE)
    site.jobs(jobs=[1, 2])
    site.account()
    site.accounting.counter(2, **WORDS)
    before = adjustments_in(engine)
    usage = site.accounting.usage(("user", "project"))
    site.accounting.rebuild()
    site.accounting.rebuild(from_oar=True)
    site.accounting.rebuild(metric="core", from_oar=True)
    site.accounting.catch_up(full=True)
    site.accounting.purge(T0 - 30 * DAY)
    assert site.accounting.usage(("user", "project")) == usage
    site.reopen(f"window = {2 * DAY}\n" + CORE)
    site.accounting.rebuild()
    assert site.accounting.usage(("user", "project")) == usage
    assert site.accounting.verify() == []
    site.oar.update_job(1, stop_time=T0 + 60)
    site.accounting.catch_up()
    assert adjustments_in(engine) == before


def test_a_metric_in_another_unit_is_refused_once_it_is_adjusted(engine: Engine) -> None:
    site = Site(engine, CORE)
    site.reopen(CORE + "scale = 10\n")
    site.accounting.rebuild(metric="core")
    site.account(metric="core")
    before = rows_of(engine, schema.totals, schema.metrics)
    for toml in (CORE, CORE.replace("core·s", "kern·s") + "scale = 10\n"):
        site.reopen(toml)
        for from_oar in (False, True):
            with pytest.raises(
                Adjusted, match="metric core is adjusted in core·s/10 since adjustm"
            ):
                site.accounting.rebuild(metric="core", from_oar=from_oar)
    assert rows_of(engine, schema.totals, schema.metrics) == before
    site.reopen(CORE.replace("distinct", "sum") + "scale = 10\n")
    site.accounting.rebuild(metric="core")
    assert site.accounting.adjustment_lines(1)[0].scale == 10


@on_sqlite
def test_a_metric_that_is_being_built_in_another_unit_waits(engine: Engine) -> None:
    class Stopped(Exception):
        pass

    def stop(*_: int) -> None:
        raise Stopped

    site = Site(engine, CORE)
    site.reopen(CORE + "scale = 10\n")
    with pytest.raises(Stopped):
        site.accounting.rebuild(metric="core", progress=stop)
    busy = "finish it first: oar-accounting rebuild --metric core"
    with pytest.raises(WriterBusy, match=busy):
        site.account(metric="core")
    with pytest.raises(WriterBusy, match=busy):
        site.jobs(jobs=[1])
    site.account()
    site.accounting.rebuild(metric="core")
    assert site.account(metric="core").rows[0].scale == 10


def test_retired_jobs_take_their_adjustments_along(engine: Engine) -> None:
    site = Site(engine)
    site.jobs(jobs=[1, 2])
    site.account()
    for job in (1, 3):
        site.oar.remove_job(job)
    assert site.accounting.retire(1) == 2
    ids = {line[0] for line in site.lines()}
    assert {2, None} < ids
    (retired,) = ids - {2, None}
    assert retired is not None and retired < 0
    assert site.jobs(start=T0, stop=T0 + DAY).lines == 0
    site.oar.add_job(user="eve", job_id=1, submission=T0)
    site.catch_up()
    assert site.jobs(jobs=[1]).jobs == 1
    assert site.used("eve") == 0


def test_a_forgotten_user_is_named_in_no_adjustment(engine: Engine) -> None:
    site = Site(engine)
    site.account(user="bob", author="bob", reason="bob's crash: bob, bobby, kebob, O'bob. Bob")
    site.jobs(jobs=[2])
    other = opened(engine, site="other")
    other.catch_up()
    other.adjust_jobs(JobFilter(jobs=[2]), reason="for bob", author="bob")
    before, others = adjustments_in(engine), other.adjustments()
    pseudonym = site.accounting.forget_user("bob")
    assert other.adjustments() == others
    first, second = site.accounting.adjustments()
    assert first.author == pseudonym
    assert first.reason == f"{pseudonym}'s crash: {pseudonym}, bobby, kebob, O'{pseudonym}. Bob"
    assert (second.author, second.reason) == ("root", "alpha-1 crashed")
    assert {line.user for line in site.accounting.adjustment_lines(1)} == {pseudonym}
    assert rows_of(engine, schema.adjusted) == before[1:]
    assert site.used(pseudonym) == 4 * HOUR - HOUR - 4 * HOUR


@on_sqlite
@pytest.mark.parametrize("name", ["a.b", "100%", "a b", "(x)", "zoë", "$1", r"\1"])
def test_hard_names_go_from_reasons(engine: Engine, name: str) -> None:
    site = Site(engine)
    site.oar.add_job(user=name)
    site.catch_up()
    site.account(reason=f"for {name}, axb and 1000%")
    pseudonym = site.accounting.forget_user(name)
    assert site.accounting.adjustments()[0].reason == f"for {pseudonym}, axb and 1000%"
    assert places_of(engine, name) == set()


@on_sqlite
@pytest.mark.parametrize("name", ["", " "])
def test_a_blank_name_leaves_reasons_as_they_are(engine: Engine, name: str) -> None:
    site = Site(engine)
    site.oar.add_job(user=name)
    site.catch_up()
    site.account(reason="as it is")
    site.accounting.forget_user(name)
    assert site.accounting.adjustments()[0].reason == "as it is"


@on_sqlite
def test_who_only_posted_can_be_forgotten(engine: Engine) -> None:
    site = Site(engine)
    site.account(author="admin")
    pseudonym = site.accounting.forget_user("admin")
    assert site.accounting.adjustments()[0].author == pseudonym
    with pytest.raises(UnknownName):
        site.accounting.forget_user("admin")


# -- the command --------------------------------------------------------------------------------


@pytest.fixture
def site(database: Database, engine: Engine) -> Site:
    """Three recorded jobs, and the directory's database for the command."""
    return Site(engine, url=database.url)


def ask(site: Site, *arguments: str) -> Done:
    """Run a command on the site's database."""
    return run("--url", site.url, *arguments)


@pytest.mark.slow
def test_a_real_command_posts_and_a_dry_run_does_not(site: Site) -> None:
    command = ("--url", site.url, "adjust", "--jobs-of-node", "alpha-1", "--reason", "it crashed")
    between = ("--between", "2023-11-14", "2023-11-15T00:00:00")
    dry = process(*command, *between, "--metric", "node", "--dry-run")
    table = (
        "user   project  queue    metric  unit    asked  used\n"
        "alice  default  default  node    node·h   -2.0  -1.0\n"
    )
    span = "2023-11-14 00:00 to before 2023-11-15 00:00, UTC\n"
    assert (dry.returncode, dry.stdout) == (
        0,
        f"{span}{table}1 job, 2 lines; a dry run: nothing was posted\n",
    )
    assert site.accounting.adjustments() == []
    done = process(*command, *between, "--metric", "node", SUDO_USER="zoë")
    assert done.stdout == f"{span}{table}1 job, 2 lines; adjustment 1 posted\n"
    again = process(*command, *between, "--metric", "node", SUDO_USER="")
    nothing = f"{span}nothing to adjust: nothing was posted\n"
    assert (again.returncode, again.stdout) == (0, nothing)
    assert "note: 1 job is adjusted already, by adjustment 1, and left out there: 1" in again.stderr
    back = process("--url", site.url, "adjust", "--counter", "1", "--reason", "no", SUDO_USER="")
    assert back.stdout == table.replace("-", " ") + "1 job, 2 lines; adjustment 2 posted\n"
    first, second = site.accounting.adjustments()
    assert (first.author, second.author) == ("zoë", pwd.getpwuid(os.getuid()).pw_name)


def test_an_account_is_adjusted_by_hours(site: Site) -> None:
    done = ask(
        site,
        *("adjust", "--user", "bob", "--project", "default", "--queue", "default"),
        *("--property", "alpha", "--metric", "resource", "--used", "-1.5h", "--asked", "+3"),
        *("--from", "2023-11-14", "--to", str(T0 + DAY), "--reason", "free", "--author", "me"),
    )
    assert done.stdout.endswith("resource·h    0.0  -1.5\n1 line; adjustment 1 posted\n")
    (line,) = site.accounting.adjustment_lines(1)
    assert (line.asked, line.used, line.property) == (3, -5400, "alpha")
    assert site.accounting.adjustments()[0].author == "me"


def test_machines_read_exact_amounts(site: Site) -> None:
    shown = ask(
        site, "adjust", "--job", "1", "--job", "2", "--only", "used", "--percent", "12.5",
        "--metric", "node,resource", "--user", "bob", "--project", "default", "--queue", "default",
        "--reason", "x\ny", "--author", "zoë", "--json",
    )  # fmt: skip
    row = {"user": "bob", "project": "default", "queue": "default", "asked": 0}
    assert json.loads(shown.stdout) == {
        "adjustment": 1,
        "dry_run": False,
        "jobs": 1,
        "lines": 2,
        "amounts": [
            {**row, "metric": "node", "unit": "node·s", "used": -450},
            {**row, "metric": "resource", "unit": "resource·s", "used": -1800},
        ],
        "notices": [],
        "start": None,
        "stop": None,
        "timezone": "UTC",
    }
    dry = json.loads(
        ask(site, "adjust", "--job", "3", "--reason", "x", "--dry-run", "--json").stdout
    )
    assert (dry["adjustment"], dry["dry_run"], dry["jobs"]) == (None, True, 1)
    ask(site, "adjust", "--counter", "1", "--reason", "x", "--author", "zoë")
    first, second = json.loads(ask(site, "adjustments", "--json").stdout)
    assert {**first, "posted": NOW} == {
        "adjustment_id": 1,
        "posted": NOW,
        "author": "zoë",
        "reason": "x\ny",
        "counters": None,
        "countered_by": 2,
        "jobs": 1,
        "lines": 2,
        "amounts": [
            {"metric": "node", "unit": "node·s", "asked": 0, "used": -450},
            {"metric": "resource", "unit": "resource·s", "asked": 0, "used": -1800},
        ],
    }
    assert (second["counters"], second["amounts"][0]["used"]) == (1, 450)
    rows = list(csv.DictReader(io.StringIO(ask(site, "adjustments", "--csv").stdout)))
    assert [(r["adjustment_id"], r["metric"], r["used"], r["countered_by"]) for r in rows] == [
        ("1", "node", "-450", "2"),
        ("1", "resource", "-1800", "2"),
        ("2", "node", "450", ""),
        ("2", "resource", "1800", ""),
    ]
    lines = json.loads(ask(site, "adjustments", "1", "--json").stdout)
    assert lines[0] == {
        **dict(zip(NAMES, ("bob", "default", "default", "alpha"), strict=True)),
        "line": 1,
        "job_id": 2,
        "metric": "resource",
        "unit": "resource·s",
        "start": T0,
        "stop": T0 + HOUR,
        "asked": 0,
        "used": -1800,
    }
    told = list(csv.DictReader(io.StringIO(ask(site, "adjustments", "1", "--csv").stdout)))
    assert told == [{key: str(value) for key, value in line.items()} for line in lines]


def test_people_see_the_list_without_control_characters(site: Site) -> None:
    site.account(reason="two\nlines \x1b[31m", author="zoë")
    site.accounting.counter(1, **WORDS)
    shown = ask(site, "adjustments").stdout
    assert "\x1b" not in shown
    head, first, second = (line.rstrip() for line in shown.splitlines())
    assert head.split()[:4] == ["id", "posted", "author", "jobs"]
    assert re.fullmatch(
        r"1 +2023-11-16 00:00:00 UTC +zoë +0 +resource +resource·h +0.0 +-1.0 +2  "
        r"two\\nlines \\x1b\[31m",
        first,
    )
    assert second.endswith("(counters 1) alpha-1 crashed")
    _, line = ask(site, "adjustments", "1").stdout.splitlines()
    assert line.split() == [
        *("1", "alice", "default", "default", "alpha", "resource"),
        *("2023-11-14", "00:00:00", "UTC", "2023-11-15", "00:00:00", "UTC"),
        *("resource·h", "0.0", "-1.0"),
    ]


ACCOUNT = ("--user", "alice", "--project", "default", "--queue", "default")
SPAN = ("--from", "2023-11-14", "--to", "2023-11-15")


@on_sqlite
@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ((), "what is to be adjusted? An account, with --used or --asked; jobs,"),
        (("--user", "alice"), "what is to be adjusted?"),
        (("--used", "1", "--job", "1"), "--job does not go with --used"),
        (("--used", "1", "--between", "1", "2"), "--between does not go with --used"),
        (("--asked", "1", "--percent", "5"), "--percent does not go with --asked"),
        (("--job", "1", "--from", "1"), "--from does not go with --job"),
        (("--between", "1", "2", "--property", ""), "--property does not go with --between"),
        (("--counter", "1", "--user", "alice"), "--user does not go with --counter"),
        (("--counter", "1", "--used", "1"), "--counter does not go with --used"),
        (("--used", "1", *ACCOUNT), "--used needs --metric, --from, --to too"),
        (("--used", "1", *ACCOUNT, *SPAN, "--metric", "node,resource"), "--metric takes one name"),
        (("--used", "1", *ACCOUNT, *SPAN, "--metric", ","), "--metric takes one name"),
        (("--job", "1", "--metric", " , "), "--metric takes names where --job is given"),
        (("--job", "0"), "0 is not in the range"),
        (("--counter", "x"), "'x' is not a valid integer"),
        (("--between", "1"), "Missing option '--reason'"),
        (("--job", "1", "--only", "both"), "'both' is not one of"),
    ],
)
def test_options_that_do_not_fit_together(
    site: Site, arguments: tuple[str, ...], expected: str
) -> None:
    done = ask(site, "adjust", *arguments, "--reason", "x")
    assert done.returncode == 2
    assert expected in " ".join(done.stderr.split())
    assert site.accounting.adjustments() == []


@on_sqlite
@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (("--job", "1", "--reason", " "), "a reason of 1 to 2000 characters was expected"),
        (("--job", "1", "--reason", "x", "--author", ""), "an author of 1 to 255 printable"),
        (("--job", "9", "--reason", "x"), "job 9 is not recorded"),
        (("--job", "1", "--percent", "0", "--reason", "x"), "'0' is no percentage"),
        (("--job", "1", "--percent", "", "--reason", "x"), "'' is no percentage"),
        (("--job", "1", "--metric", "x", "--reason", "x"), "recorded of a metric 'x'"),
        (("--between", "x", "2", "--reason", "x"), "'x' is no time"),
        (("--between", "2", "1", "--reason", "x"), "is empty"),
        (("--jobs-of-node", "alpha-9", "--reason", "x"), "a node 'alpha-9'; close to it: 'alpha-"),
        (("--counter", "9", "--reason", "x"), "there is no adjustment 9; those there are: oar-acc"),
        (
            ("--used", "1.5", *ACCOUNT, *SPAN, "--metric", "node", "--reason", "x"),
            "'1.5' is no amount of node; expected a whole number of node·s, like -3600, or node·h",
        ),
        (("--asked", "", *ACCOUNT, *SPAN, "--metric", "node", "--reason", "x"), "'' is no amount"),
    ],
)
def test_a_wrong_word_is_one_clear_line(
    site: Site, arguments: tuple[str, ...], expected: str
) -> None:
    done = ask(site, "adjust", *arguments)
    assert expected in said(done)
    assert done.returncode == 2
    assert site.accounting.adjustments() == []


@on_sqlite
def test_a_reason_must_be_given(site: Site) -> None:
    done = ask(site, "adjust", "--job", "1")
    assert (done.returncode, "Missing option '--reason'" in done.stderr) == (2, True)


@on_sqlite
def test_an_adjustment_that_is_not_there_is_told(site: Site) -> None:
    done = ask(site, "adjustments", "4")
    assert (done.returncode, "there is no adjustment 4" in said(done)) == (2, True)
    assert json.loads(ask(site, "adjustments", "--json").stdout) == []


@on_sqlite
def test_a_login_without_a_name_is_told(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "getuid", lambda: 4_000_000)
    monkeypatch.delenv("SUDO_USER", raising=False)
    done = ask(site, "adjust", "--job", "1", "--reason", "x")
    assert "user 4000000 has no login name here; name yourself with --author" in said(done)
    assert done.returncode == 2


@on_sqlite
def test_an_adjusted_metric_in_another_unit_is_one_clear_line(
    database: Database, engine: Engine, tmp_path: Path
) -> None:
    site = Site(engine, CORE)
    site.account(metric="core")
    config = tmp_path / "accounting.toml"
    config.write_text(CORE + "scale = 10\n", encoding="utf-8")
    done = run("--url", database.url, "--config", str(config), "rebuild", "--metric", "core")
    assert "declare the new one under another name" in said(done)
    assert done.returncode == 2


@on_sqlite
def test_nobody_has_a_share_of_what_is_below_zero(site: Site) -> None:
    """Alice gave back more than everybody used: she has no 150 % of it, and bob no -50 %."""
    site.account(used=-24 * HOUR)
    span = ["--metric", "resource", "--period", "2023-11"]

    for command in (["top"], ["project", "default"]):
        done = ask(site, *command, *span)
        assert done.returncode == 0
        assert not {*"%█"} & {*done.stdout}, done.stdout
    rows = json.loads(ask(site, "top", *span, "--json").stdout)
    assert [(row["user"], row["used"], row["share"]) for row in rows] == [
        ("bob", 4 * HOUR, None),
        ("alice", -12 * HOUR, None),
    ]


# -- the README ---------------------------------------------------------------------------------


def test_the_corrections_of_the_readme_are_real(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, clock: Clock
) -> None:
    """Every command that it shows gives the lines that it shows, on the demonstration."""
    monkeypatch.chdir(tmp_path)
    assert CliRunner().invoke(app.main, ["demo"]).exit_code == 0
    clock.now = DEMO_NOW + DAY + 9 * HOUR + HOUR // 2
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    section = readme[readme.index("## Corrections") :]
    (shown,) = re.findall(r"^```text\n(\$ .*?)^```$", section.split("\n## ")[0], re.M | re.S)
    place = ["--url", "sqlite:///oar-accounting-demo/oar.db"]
    place += ["--config", "oar-accounting-demo/accounting.toml"]
    for part in shown.split("$ oar-accounting ")[1:]:
        line, _, expected = part.replace("\\\n", "").partition("\n")
        arguments = [quoted or bare for quoted, bare in re.findall(r'"([^"]*)"|(\S+)', line)]
        monkeypatch.setenv("SUDO_USER", "root")
        printed = run(*place, *arguments).stdout
        wanted = [each for each in expected.splitlines() if each.strip() not in ("", "...")]
        assert [each for each in wanted if each not in trimmed(printed)] == []


def trimmed(printed: str) -> list[str]:
    """The lines without the blanks behind them."""
    return [line.rstrip() for line in printed.splitlines()]

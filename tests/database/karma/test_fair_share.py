"""Karma of a real database: what is read for it, under every policy, on every database."""

import math
from collections.abc import Iterator
from dataclasses import asdict
from typing import Any

import pytest
from sqlalchemy import Engine, insert

from oar_accounting import Accounting, AmountOverflow, BadSpan, SettingsError, UnknownName
from oar_accounting.karma.explain import explanation
from oar_accounting.karma.report import FairShareRow, JobKarma
from oar_accounting.ledger import schema
from tests.database.ledger.test_openings import Past, counted, write_counted
from tests.small_oar import DAY, HOUR, NOW, T0, Clock, SmallOar, opened, stopped_clock

LINEAR = """
window = {window}
[karma]
policy = "linear"
open_jobs = "{open_jobs}"
{counted}
[[karma.terms]]
by = "{by}"
metric = "{metric}"
{term}
"""


def linear(  # noqa: PLR0913 - a term has many sides, and a case names one or two
    counted: str = "",
    *,
    by: str = "user",
    metric: str = "resource",
    term: str = "",
    window: int = DAY,
    open_jobs: str = "used",
) -> str:
    """Settings with one term."""
    return LINEAR.format(
        counted=counted, by=by, metric=metric, term=term, window=window, open_jobs=open_jobs
    )


@pytest.fixture(autouse=True)
def clock() -> Iterator[Clock]:
    """The verbs' clock stands still."""
    with stopped_clock() as stopped:
        yield stopped


@pytest.fixture
def oar(engine: Engine) -> SmallOar:
    """Alice used 1 core for a day, bob 3 for a day; both wait, and carol, who used nothing."""
    oar = SmallOar(engine)
    oar.add_job(user="alice", project="p", cores=1, start=T0, stop=T0 + DAY, walltime=DAY)
    oar.add_job(user="bob", project="q", cores=3, start=T0, stop=T0 + DAY, walltime=2 * DAY)
    for user, project in (("bob", "q"), ("alice", "p"), ("carol", "q")):
        wait(oar, user, project=project)
    return oar


def wait(oar: SmallOar, user: str, *, project: str = "p", queue: str = "default") -> int:
    """A job that waits."""
    return oar.add_job(
        user=user, project=project, queue=queue, start=0, state="Waiting", moldable=False,
        submission=NOW - 60,
    )  # fmt: skip


def add_presence(engine: Engine, oar: SmallOar, *rows: tuple[int, str, int, int]) -> None:
    """Log states of resources: id, state, start, stop."""
    table = oar.table("resource_logs")
    with engine.begin() as connection:
        for number, (resource, state, start, stop) in enumerate(rows, 1):
            connection.execute(
                insert(table).values(
                    resource_log_id=number,
                    resource_id=resource,
                    attribute="state",
                    value=state,
                    date_start=start,
                    date_stop=stop,
                )
            )


def recorded(engine: Engine, toml: str) -> Accounting:
    accounting = opened(engine, toml)
    accounting.catch_up()
    return accounting


def karmas(accounting: Accounting, now: int = NOW) -> dict[str, float]:
    """The karma of each user, in the order of their jobs."""
    return {job.user: job.karma for job in accounting.karma(now=now)}


def only(accounting: Accounting, user: str, now: int = NOW) -> JobKarma:
    (job,) = [job for job in accounting.karma(now=now) if job.user == user]
    return job


# -- linear -----------------------------------------------------------------------------------


def test_who_used_less_is_first(oar: SmallOar, engine: Engine) -> None:
    accounting = recorded(engine, linear(term='weight = 2\ntargets = { bob = 50, "*" = 10 }'))
    assert karmas(accounting) == {
        "carol": pytest.approx(2 * (0 - 0.1)),
        "alice": pytest.approx(2 * (0.25 - 0.1)),
        "bob": pytest.approx(2 * (0.75 - 0.5)),
    }
    job = only(accounting, "bob")
    assert (job.place, job.waiting) == (3, 3)
    (part,) = job.parts
    assert (part.by, part.name, part.metric, part.unit) == ("user", "bob", "resource", "resource·s")
    assert (part.usage, part.of, part.share) == (3 * DAY, 4 * DAY, 0.75)
    assert (part.target, part.weight) == (0.5, 2.0)
    assert part.value == pytest.approx(0.5)


def test_an_order_is_by_karma_then_by_id(oar: SmallOar, engine: Engine) -> None:
    second, first = wait(oar, "alice"), wait(oar, "carol")
    report = recorded(engine, linear()).karma()
    assert [job.user for job in report] == ["carol", "carol", "alice", "alice", "bob"]
    assert report.job_id.tolist() == [5, first, 4, second, 3]
    assert report.place.tolist() == [1, 2, 3, 4, 5]


def test_only_jobs_without_a_reservation_that_wait_are_ordered(
    oar: SmallOar, engine: Engine
) -> None:
    oar.update_job(3, state="Hold")
    oar.update_job(4, reservation="Scheduled")
    accounting = recorded(engine, linear())
    assert list(karmas(accounting)) == ["carol"]
    assert accounting.karma([1, 3, 99]).job_id.tolist() == [1, 3]


def test_a_queue_for_itself_or_all_together(oar: SmallOar, engine: Engine) -> None:
    oar.add_job(user="carol", queue="night", cores=4, start=T0, stop=T0 + DAY)
    wait(oar, "dora", queue="night")
    together = recorded(engine, linear())
    assert only(together, "bob").karma == pytest.approx(3 / 8)
    apart = opened(engine, linear('scope = "queue"'))
    found = karmas(apart)
    assert found == {"carol": 0, "dora": 0, "alice": 0.25, "bob": 0.75}
    (part,) = only(apart, "bob").parts
    assert part.of == 4 * DAY
    assert [(job.queue, job.place) for job in apart.karma()] == [
        ("default", 1), ("night", 1), ("default", 2), ("default", 3),
    ]  # fmt: skip


def test_asked_counts_the_walltime(oar: SmallOar, engine: Engine) -> None:
    accounting = recorded(engine, linear('amount = "asked"'))
    assert only(accounting, "bob").karma == pytest.approx(6 / 7)


def test_projects_clusters_and_laboratories(oar: SmallOar, engine: Engine) -> None:
    accounting = recorded(engine, linear(by="project"))
    assert only(accounting, "carol").karma == 0.75
    accounting = opened(engine, linear(by="cluster"))
    assert set(karmas(accounting).values()) == {0.0}
    oar.update_job(4, properties="(desktop = 'NO') AND cluster = 'alpha'")
    assert only(accounting, "alice").karma == 1.0
    accounting = opened(engine, linear(by="laboratory"))
    with pytest.raises(UnknownName, match="unknown grouping key 'laboratory'"):
        accounting.karma()
    accounting.import_attributes("user,laboratory\nalice,LIG\ncarol,LIG\n")
    assert karmas(accounting) == {"alice": 0.25, "carol": 0.25, "bob": 0.75}


def test_who_moves_leaves_the_usage_behind(oar: SmallOar, engine: Engine) -> None:
    accounting = recorded(engine, linear(by="laboratory"))
    noon = "2023-11-15"
    assert T0 + DAY == 1_700_006_400
    accounting.import_attributes(
        f"user,laboratory,valid_from,valid_to\nbob,LIG,,{noon}\nbob,LJK,{noon},\n"
    )
    found = {job.user: job.parts[0] for job in accounting.karma()}
    assert (found["bob"].name, found["bob"].share) == ("LJK", 0.0)
    assert (found["carol"].name, found["carol"].share) == ("", 0.25)


def test_several_metrics_and_time_weights(oar: SmallOar, engine: Engine) -> None:
    toml = linear('half_life = "1d"', metric="node") + (
        '[[karma.terms]]\nby = "project"\nmetric = "resource"\nwindow = "1d"\n'
    )
    accounting = recorded(engine, toml)
    first, second = only(accounting, "alice", T0 + 2 * DAY).parts
    assert first.usage == pytest.approx(DAY * 0.5 / (2 * math.log(2)))
    assert first.share == 0.5
    assert (second.usage, second.share) == (0.0, 0.0)
    assert second.counts == "last 1 day"


def test_with_nothing_used_at_all_nobody_is_before_another(engine: Engine) -> None:
    oar = SmallOar(engine)
    jobs = [wait(oar, user) for user in ("zoé", "alice")]
    accounting = recorded(engine, linear(term='targets = { "*" = 10 }'))
    report = accounting.karma()
    assert report.job_id.tolist() == jobs
    assert report.karma.tolist() == [-0.1, -0.1]
    assert accounting.fairshare().rows == []


def test_less_time_than_a_window_is_refused_with_the_way_out(oar: SmallOar, engine: Engine) -> None:
    """Else bob's usage of early this morning would count as that of a minute ago."""
    accounting = recorded(engine, linear('half_life = "6h"'))
    for ask in (accounting.karma, accounting.fairshare, lambda: accounting.explain(3)):
        with pytest.raises(SettingsError, match="half_life of 6 hours is shorter than the windows"):
            ask()
    accounting = opened(engine, linear('half_life = "6h"', window=6 * HOUR))
    accounting.rebuild()
    assert set(karmas(accounting)) == {"alice", "bob", "carol"}


# -- what is not in the totals ----------------------------------------------------------------


def test_no_answer_depends_on_when_a_pass_ran(oar: SmallOar, engine: Engine, clock: Clock) -> None:
    accounting = recorded(engine, linear('half_life = "6h"', window=HOUR))
    running = oar.add_job(user="carol", project="q", cores=8, start=NOW - 90 * 60, state="Running")
    paused = oar.add_job(
        user="alice", cores=2, start=NOW - 2 * HOUR, state="Suspended", pauses=[(NOW - HOUR, 0)]
    )
    before = karmas(accounting)
    assert list(before)[-1] == "carol"
    clock.now = NOW
    accounting.catch_up()
    assert karmas(accounting) == before
    # They end; the figures of a later instant are the same before a pass and after.
    oar.update_job(running, state="Terminated", stop_time=NOW + 600)
    oar.end_states(paused, NOW + 60)
    oar.update_job(paused, state="Error", stop_time=NOW + 120)
    ended = karmas(accounting, NOW + HOUR)
    clock.now = NOW + HOUR
    accounting.catch_up()
    assert karmas(accounting, NOW + HOUR) == ended
    assert accounting.verify() == []


def test_who_filled_the_cluster_a_minute_ago_is_not_first(oar: SmallOar, engine: Engine) -> None:
    accounting = recorded(engine, linear('window = "2d"'))
    oar.add_job(user="carol", cores=8, start=NOW - 60, walltime=DAY, state="Running")
    share = only(accounting, "carol").karma
    assert share == pytest.approx(480 / (4 * DAY + 480))
    held = opened(engine, linear('window = "2d"', open_jobs="held"))
    assert list(karmas(held)) == ["alice", "bob", "carol"]
    assert only(held, "carol").parts[0].usage == 8 * DAY
    blind = opened(engine, linear('window = "2d"', open_jobs="none"))
    assert only(blind, "carol").karma == 0


def test_a_new_user_counts_before_there_is_an_account(oar: SmallOar, engine: Engine) -> None:
    accounting = recorded(engine, linear())
    oar.add_job(user="new", cores=4, start=NOW - DAY, state="Running")
    wait(oar, "new")
    assert only(accounting, "new").karma == 0.5
    before = accounting.usage(("user",)).rows
    assert "new" not in [row.group[0] for row in before]


def test_corrections_and_taken_over_amounts_count(oar: SmallOar, engine: Engine) -> None:
    write_counted(engine, counted([Past("carol", start=T0 - 9 * DAY, cores=2, used=DAY)]))
    accounting = recorded(engine, linear('window = "30d"'))
    accounting.import_accounting()
    assert only(accounting, "carol").parts[0].usage == 2 * DAY
    accounting.adjust(
        user="bob", project="q", queue="default", property="alpha", metric="resource", start=T0,
        stop=T0 + DAY, used=-2 * DAY, reason="a node crashed", author="root",
    )  # fmt: skip
    found = {job.user: job.parts[0].usage / DAY for job in accounting.karma()}
    assert found == {"alice": 1, "bob": 1, "carol": 2}


def test_forgotten_users_are_under_their_pseudonym(oar: SmallOar, engine: Engine) -> None:
    accounting = recorded(engine, linear())
    pseudonym = accounting.forget_user("bob")
    assert only(accounting, pseudonym).parts[0].name == pseudonym
    assert only(accounting, pseudonym).karma == 0.75


def test_by_day_and_by_hour_are_close(oar: SmallOar, engine: Engine) -> None:
    oar.add_job(user="carol", cores=5, start=T0 + DAY + 20 * HOUR, stop=T0 + DAY + 23 * HOUR)
    fine = karmas(recorded(engine, linear('half_life = "167h"', window=HOUR)))
    coarse = karmas(opened(engine, linear('half_life = "168h"', window=HOUR)))
    for user, karma in fine.items():
        assert coarse[user] == pytest.approx(karma, rel=0.11)
    # A flat window is exact at its bounds.
    flat = opened(engine, linear('window = "28h"', window=HOUR))
    assert only(flat, "carol", T0 + 2 * DAY).parts[0].usage == 15 * HOUR
    assert only(flat, "bob", T0 + 2 * DAY).parts[0].usage == 3 * 4 * HOUR


# -- trees ------------------------------------------------------------------------------------

TREE = """
[karma]
policy = "{policy}"
levels = ["project", "user"]
metrics = {metrics}
[karma.shares.project]
p = 1
q = 3
"""


def test_a_tree_weighs_usage_by_shares(oar: SmallOar, engine: Engine) -> None:
    accounting = recorded(engine, TREE.format(policy="tree", metrics='["resource"]'))
    found = karmas(accounting)
    # S and effective usage: alice 1/4 and 1/4; bob 3/8 and 3/4; carol 3/8 and half of 3/4.
    assert found == {"alice": 1, "carol": 1, "bob": 2}
    above, leaf = only(accounting, "carol").parts
    assert (above.by, above.name, above.share, above.target) == ("project", "q", 0.75, 0.75)
    assert (leaf.by, leaf.name, leaf.share, leaf.target) == ("user", "carol", 0, 0.375)
    assert (above.effective, leaf.effective, leaf.value) == (0.75, 0.375, 0.5)


def test_a_fair_tree_compares_siblings_alone(oar: SmallOar, engine: Engine) -> None:
    accounting = recorded(engine, TREE.format(policy="fair_tree", metrics='["resource"]'))
    # p and q are tied, so their users are siblings.
    assert karmas(accounting) == {"carol": 0, "alice": 1 / 3, "bob": 2 / 3}
    rows = accounting.fairshare().rows
    assert [(row.depth, row.name, row.target) for row in rows] == [
        (0, "q", 0.75),
        (1, "bob", 0.5),
        (1, "carol", 0.5),
        (0, "p", 0.25),
        (1, "alice", 1.0),
    ]
    used = [3 * DAY, 3 * DAY, 0, DAY, DAY]
    assert [row.usage[0].amount for row in rows] == used
    assert [row.usage[0].share for row in rows] == [0.75, 0.75, 0, 0.25, 0.25]
    assert [row.share for row in rows] == [0.75, 1.0, 0.0, 0.25, 1.0]


def test_several_metrics_mix_by_their_shares(oar: SmallOar, engine: Engine) -> None:
    metrics = "{ resource = 1, node = 1 }"
    accounting = recorded(engine, TREE.format(policy="tree", metrics=metrics))
    above, _ = only(accounting, "bob").parts
    assert above.share == pytest.approx((0.75 + 0.5) / 2)
    assert (above.metric, above.unit) == ("resource + node", "")


def test_projects_stand_under_their_parents(oar: SmallOar, engine: Engine) -> None:
    toml = '[karma]\npolicy = "tree"\nlevels = ["projects"]\nmetrics = ["resource"]\n'
    accounting = recorded(engine, toml)
    accounting.import_attributes("project,parent\np,q\n")
    rows = accounting.fairshare().rows
    assert [(row.depth, row.name, row.usage[0].amount if row.usage else 0) for row in rows] == [
        (0, "q", 4 * DAY),
        (1, "q", 3 * DAY),
        (1, "p", DAY),
    ]
    # q itself stands beside its child p, each with a half of the shares.
    assert karmas(accounting) == {"alice": 1.25, "bob": 1.75, "carol": 1.75}


def test_who_has_no_shares_is_last(oar: SmallOar, engine: Engine) -> None:
    toml = TREE.format(policy="tree", metrics='["resource"]') + "\n[karma.shares.user]\ncarol = 0\n"
    accounting = recorded(engine, toml)
    assert list(karmas(accounting))[-1] == "carol"
    assert math.isinf(only(accounting, "carol").karma)


# -- dominant ---------------------------------------------------------------------------------

DOMINANT = '[karma]\npolicy = "dominant"\nmetrics = ["resource", "node"]\nwindow = "2d"\n'


def test_the_dominant_share_is_of_what_the_machine_could_give(
    oar: SmallOar, engine: Engine
) -> None:
    add_presence(
        engine,
        oar,
        *((each, "Alive", T0 - DAY, 0) for each in range(1, 5)),
        *((each, "Alive", T0 - DAY, T0 + DAY) for each in range(5, 9)),
        *((each, "Dead", T0 + DAY, 0) for each in range(5, 9)),
    )
    accounting = recorded(engine, DOMINANT)
    cores, nodes = only(accounting, "bob").parts
    # Of two days the first with eight cores on two nodes, the second with four on one.
    assert (cores.usage, cores.of) == (3 * DAY, 12 * DAY)
    assert (nodes.usage, nodes.of) == (DAY, 3 * DAY)
    assert only(accounting, "bob").karma == pytest.approx(1 / 3)
    assert karmas(accounting)["carol"] == 0


def test_without_a_log_of_resources_all_usage_is_the_measure(oar: SmallOar, engine: Engine) -> None:
    accounting = recorded(engine, DOMINANT)
    assert karmas(accounting) == {"carol": 0, "alice": 0.5, "bob": 0.75}
    rows = accounting.fairshare().rows
    assert [(row.name, row.share, len(row.usage)) for row in rows] == [
        ("bob", 0.75, 2),
        ("alice", 0.5, 2),
    ]


# -- OAR's own --------------------------------------------------------------------------------


def test_without_a_section_karma_is_oars_own(oar: SmallOar, engine: Engine) -> None:
    jobs = [
        Past("alice", "p", "default", T0, DAY, DAY, 1),
        Past("bob", "q", "default", T0, DAY, 2 * DAY, 3),
    ]
    write_counted(engine, counted(jobs))
    accounting = opened(engine)
    own = karmas(accounting)
    # 2 x USED + 1 x ASKED; nobody is called oar, whose target is 100 %.
    assert own == {
        "carol": 0,
        "alice": pytest.approx(2 * 0.25 + 1 / 7),
        "bob": pytest.approx(2 * 0.75 + 6 / 7),
    }
    ours = recorded(engine, 'profile = "classic"\n[karma]\npolicy = "oar"\nsource = "totals"\n')
    assert karmas(ours) == own
    rows: list[FairShareRow] = list(accounting.fairshare().rows)
    assert {(row.by, row.amount) for row in rows} == {("user", "used"), ("user", "asked")}


# -- why --------------------------------------------------------------------------------------


def test_an_explanation_has_the_job_before_it(oar: SmallOar, engine: Engine) -> None:
    accounting = recorded(engine, linear())
    told = accounting.explain(4)
    assert told.ahead is not None
    assert (told.job.job_id, told.ahead.job_id) == (4, 5)
    assert accounting.explain(5).ahead is None
    with pytest.raises(UnknownName, match="job 1 does not wait"):
        accounting.explain(1)


def test_users_see_what_is_theirs(oar: SmallOar, engine: Engine) -> None:
    accounting = recorded(engine, linear())
    own = accounting.seen_by("alice")
    report = own.karma()
    assert [(job.user, job.place, job.waiting) for job in report] == [("alice", 2, 3)]
    told = own.explain(4)
    assert told is not None
    assert told.ahead is None
    assert own.explain(3) is None
    assert [row.name for row in own.fairshare().rows] == ["alice"]
    projects = opened(engine, linear(by="project")).seen_by("alice")
    assert [row.name for row in projects.fairshare().rows] == ["p"]


def test_a_site_that_is_not_recorded_is_told(oar: SmallOar, engine: Engine) -> None:
    accounting = opened(engine, linear())
    with pytest.raises(UnknownName, match="not recorded yet: oar-accounting catch-up"):
        accounting.karma()


def test_an_account_that_was_deleted_by_hand_is_nobodys(oar: SmallOar, engine: Engine) -> None:
    accounting = recorded(engine, linear())
    table = schema.accounts
    with engine.begin() as connection:
        connection.execute(table.delete().where(table.c.user_name == "bob"))
    assert only(accounting, "alice").karma == 1.0


def test_a_metric_that_is_not_recorded_is_told(oar: SmallOar, engine: Engine) -> None:
    recorded(engine, linear())
    core = '[metrics.core]\ndistinct = "core"\nunit = "core·s"\n'
    accounting = opened(engine, linear(metric="core") + core)
    with pytest.raises(UnknownName, match="rebuild --metric core"):
        accounting.karma()


# -- what a review found ----------------------------------------------------------------------


def test_a_recorded_job_that_finishes_leaves_nothing_to_read(oar: SmallOar, engine: Engine) -> None:
    oar.add_job(
        user="carol", cores=2, start=T0 + DAY, stop=T0 + DAY + HOUR, state="Finishing"
    )  # fmt: skip
    accounting = recorded(engine, linear())
    assert only(accounting, "carol").parts[0].usage == 2 * HOUR
    oar.add_job(user="alice", cores=1, start=NOW - 60, state="Running")
    assert only(accounting, "carol").parts[0].usage == 2 * HOUR
    held = opened(engine, linear(open_jobs="held"))
    assert only(held, "carol").parts[0].usage == 2 * HOUR


def test_what_is_asked_counts_up_to_now(oar: SmallOar, engine: Engine) -> None:
    oar.add_job(user="carol", cores=1, start=NOW - HOUR, walltime=3 * DAY, state="Running")
    for window in (DAY, HOUR):
        accounting = recorded(engine, linear('amount = "asked"', window=window))
        accounting.rebuild()
        rows = {row.name: row.usage[0].amount for row in accounting.fairshare().rows}
        assert rows["carol"] == HOUR


@pytest.mark.parametrize("amount", ["used", "asked"])
@pytest.mark.parametrize("open_jobs", ["used", "none"])
@pytest.mark.parametrize("hours", [6, 12, 13, 20])
def test_as_of_the_past_nothing_counts_that_came_later(
    engine: Engine, clock: Clock, amount: str, open_jobs: str, hours: int
) -> None:
    oar, then = SmallOar(engine), T0 + hours * HOUR
    jobs = {"alice": (2, 6), "bob": (12, 18), "carol": (4, 30)}
    for user, (start, stop) in jobs.items():
        wait(oar, user)
        oar.add_job(
            user=user, cores=1, start=T0 + start * HOUR, stop=T0 + stop * HOUR, walltime=2 * DAY
        )
    accounting = recorded(engine, linear(f'amount = "{amount}"', open_jobs=open_jobs))
    # What was asked by a job that had begun is asked as a whole, and counts to the window's end.
    ends = {user: 24 if amount == "asked" else stop for user, (_, stop) in jobs.items()}
    last = 24 if amount == "asked" else hours
    expected = {
        user: max(min(ends[user], last) - start, 0) * HOUR if start < hours else 0
        for user, (start, _) in jobs.items()
    }
    found = {job.user: job.parts[0].usage for job in accounting.karma(now=then)}
    assert found == expected
    assert clock.now > then


@pytest.mark.parametrize("amount", ["used", "asked"])
def test_as_of_the_past_too_no_answer_depends_on_when_a_pass_ran(
    engine: Engine, clock: Clock, amount: str
) -> None:
    oar, then = SmallOar(engine), T0 + 12 * HOUR
    clock.now = T0
    for user in ("alice", "bob", "carol"):
        wait(oar, user)
    accounting = recorded(engine, linear(f'amount = "{amount}"'))
    oar.add_job(user="alice", cores=1, start=T0 + 2 * HOUR, stop=T0 + 6 * HOUR)
    oar.add_job(user="bob", cores=2, start=T0 + 12 * HOUR, stop=T0 + 18 * HOUR)
    oar.add_job(user="carol", cores=3, start=T0 + 11 * HOUR, stop=T0 + 30 * HOUR)
    before = karmas(accounting, then)
    clock.now = NOW
    accounting.catch_up()
    assert karmas(accounting, then) == before
    assert before["bob"] == 0


def test_as_of_the_past_jobs_that_have_ended_since_were_held(engine: Engine, clock: Clock) -> None:
    oar, then = SmallOar(engine), T0 + 2 * HOUR
    clock.now = then
    for user in ("alice", "bob", "carol"):
        wait(oar, user)
    for user, start in (("alice", 0), ("bob", 3)):
        oar.add_job(
            user=user, cores=2, start=T0 + start * HOUR, walltime=10 * HOUR, state="Running"
        )
    oar.add_job(user="carol", cores=1, start=T0, stop=T0 + HOUR, walltime=10 * HOUR)
    accounting = recorded(engine, linear(open_jobs="held"))
    expected = {"alice": 20 * HOUR, "bob": 0, "carol": HOUR}
    for closed in (None, T0 + 5 * HOUR):
        if closed:
            for job in (4, 5):
                oar.update_job(job, state="Terminated", stop_time=closed)
        found = {job.user: job.parts[0].usage for job in accounting.karma(now=then)}
        assert found == expected
    clock.now = NOW
    accounting.catch_up()
    found = {job.user: job.parts[0].usage for job in accounting.karma(now=then)}
    assert found == expected


def test_a_short_half_life_tells_those_apart_who_stopped_long_ago(engine: Engine) -> None:
    oar = SmallOar(engine)
    oar.add_job(user="alice", cores=2, start=T0, stop=T0 + HOUR)
    oar.add_job(user="bob", cores=1, start=T0 + 22 * HOUR, stop=T0 + 23 * HOUR)
    for user in ("alice", "bob"):
        wait(oar, user)
    accounting = recorded(engine, linear('half_life = "3h"', window=HOUR))
    for days in (2, 4, 9):
        assert list(karmas(accounting, T0 + days * DAY)) == ["alice", "bob"]


def test_of_a_correction_that_reaches_beyond_now_a_part_counts(
    oar: SmallOar, engine: Engine
) -> None:
    accounting = recorded(engine, linear())
    accounting.adjust(
        user="bob", project="q", queue="default", property="alpha", metric="resource",
        start=NOW - DAY, stop=NOW + DAY, used=2 * DAY, reason="x", author="root",
    )  # fmt: skip
    assert only(accounting, "bob").parts[0].usage == 4 * DAY


def test_too_much_is_told_instead_of_wrapped(oar: SmallOar, engine: Engine) -> None:
    accounting = recorded(engine, linear())
    for _ in range(3):
        accounting.adjust(
            user="bob", project="q", queue="default", property="alpha", metric="resource",
            start=T0, stop=T0 + DAY, used=2**62 - 1, reason="x", author="root",
        )  # fmt: skip
    with pytest.raises(AmountOverflow, match="does not fit in 63 bits"):
        accounting.karma()


def test_by_day_too_no_answer_depends_on_when_a_pass_ran(
    oar: SmallOar, engine: Engine, clock: Clock
) -> None:
    accounting = recorded(engine, linear('half_life = "30d"', window=HOUR))
    clock.now = NOW + DAY
    oar.add_job(user="carol", project="q", cores=2, start=NOW - 30 * HOUR, stop=NOW - 3 * HOUR)
    before = karmas(accounting, clock.now)
    accounting.catch_up()
    assert karmas(accounting, clock.now) == before
    late = oar.add_job(user="dora", cores=1, start=NOW, stop=NOW + HOUR, job_id=9_000)
    accounting.catch_up()
    assert late > 500
    oar.add_job(user="carol", cores=8, start=NOW, stop=NOW + HOUR, job_id=500)
    before = karmas(accounting, clock.now)
    accounting.catch_up()
    assert karmas(accounting, clock.now) == before


def test_open_jobs_are_read_as_a_pass_reads_them(oar: SmallOar, engine: Engine) -> None:
    accounting = recorded(engine, linear())
    accounting.forget_user("bob")
    oar.add_job(user="bob", project="q", cores=1, start=NOW - DAY, state="Running")
    held: dict[str, Any] = {"cores": 4, "start": NOW - DAY, "state": "Running"}
    outer = oar.add_job(user="alice", types=("container",), **held)
    oar.add_job(user="carol", types=(f"inner={outer}",), **held)
    oar.add_job(user="carol", cores=4, start=1, state="Running")
    report = {job.project: job for job in accounting.karma()}
    assert report["q"].user.startswith("forgotten-") or report["q"].user == "carol"
    found = {job.parts[0].usage for job in accounting.karma() if job.user not in ("alice", "carol")}
    assert found == {4 * DAY}
    assert only(accounting, "carol").karma == 0


def test_held_is_nothing_beyond_the_walltime(oar: SmallOar, engine: Engine) -> None:
    accounting = recorded(engine, linear(open_jobs="held"))
    oar.add_job(user="carol", cores=1, start=NOW - 2 * HOUR, walltime=HOUR, state="Running")
    assert only(accounting, "carol").parts[0].usage == 2 * HOUR


def test_under_the_classic_profile_open_jobs_do_not_count(oar: SmallOar, engine: Engine) -> None:
    toml = 'profile = "classic"\n' + linear().replace('open_jobs = "used"\n', "")
    accounting = recorded(engine, toml)
    oar.add_job(user="carol", cores=8, start=NOW - DAY, state="Running")
    assert only(accounting, "carol").karma == 0


@pytest.mark.parametrize("policy", ["tree", "fair_tree"])
def test_a_job_alone_has_the_karma_that_it_has_among_all(
    oar: SmallOar, engine: Engine, policy: str
) -> None:
    accounting = recorded(engine, TREE.format(policy=policy, metrics='["resource"]'))
    for job in accounting.karma():
        (alone,) = accounting.karma([job.job_id])
        assert alone == job


@pytest.mark.parametrize("policy", ["tree", "fair_tree"])
def test_a_queue_may_have_a_tree_of_its_own(oar: SmallOar, engine: Engine, policy: str) -> None:
    oar.add_job(user="carol", project="p", queue="night", cores=8, start=T0, stop=T0 + DAY)
    toml = TREE.format(policy=policy, metrics='["resource"]')
    accounting = recorded(engine, toml.replace("levels", 'scope = "queue"\nlevels'))
    assert only(accounting, "alice").parts[0].usage == DAY
    assert only(accounting, "alice").parts[0].share == 0.25


def test_a_dominant_share_is_of_its_queue(oar: SmallOar, engine: Engine) -> None:
    oar.add_job(user="carol", queue="night", cores=8, start=T0, stop=T0 + DAY)
    accounting = recorded(engine, DOMINANT + 'scope = "queue"\n')
    assert karmas(accounting) == {"carol": 0, "alice": 0.5, "bob": 0.75}
    assert only(accounting, "carol").parts[0].of == 4 * DAY


def test_shares_that_are_declared_count_also_for_those_who_used_nothing(
    oar: SmallOar, engine: Engine
) -> None:
    toml = TREE.format(policy="tree", metrics='["resource"]') + "r = 4\n"
    accounting = recorded(engine, toml)
    assert only(accounting, "alice").parts[0].target == 1 / 8


def test_a_project_below_another_is_not_put_at_the_top(oar: SmallOar, engine: Engine) -> None:
    toml = (
        '[karma]\npolicy = "tree"\nlevels = ["projects"]\nmetrics = ["resource"]\n'
        "[karma.shares.projects]\np = 3\n"
    )
    accounting = recorded(engine, toml)
    accounting.import_attributes("project,parent\np,lab\nq,lab\n")
    rows = accounting.fairshare().rows
    assert [(row.depth, row.name, row.target) for row in rows] == [
        (0, "lab", 1.0),
        (1, "q", 0.25),
        (1, "p", 0.75),
    ]


def test_oars_number_over_our_totals_knows_forgotten_users(oar: SmallOar, engine: Engine) -> None:
    toml = 'profile = "classic"\n[karma]\npolicy = "oar"\nsource = "totals"\n'
    accounting = recorded(engine, toml)
    before = list(karmas(accounting).values())
    accounting.forget_user("bob")
    assert list(karmas(accounting).values()) == before


def test_nobody_sees_what_a_project_of_others_used(oar: SmallOar, engine: Engine) -> None:
    wait(oar, "mallory", project="q")
    accounting = recorded(engine, linear(by="project"))
    (job,) = accounting.seen_by("mallory").karma()
    assert (job.place, job.parts) == (4, ())
    told = accounting.seen_by("mallory").explain(job.job_id)
    assert told is not None
    assert told.job.parts == ()
    (job,) = accounting.seen_by("bob").karma()
    assert [part.name for part in job.parts] == ["q"]


@pytest.mark.parametrize("now", [2**62, -(2**62), 10**30])
def test_an_instant_beyond_the_calendar_is_told(engine: Engine, now: int) -> None:
    SmallOar(engine)
    with pytest.raises(BadSpan, match="beyond any calendar"):
        recorded(engine, linear()).karma(now=now)
    assert len(recorded(engine, linear()).karma([2**70, -1])) == 0


def test_who_moves_within_a_window_moves_at_its_end(oar: SmallOar, engine: Engine) -> None:
    accounting = recorded(engine, linear(by="laboratory", window=HOUR))
    accounting.import_attributes(
        "user,laboratory,valid_from,valid_to\n"
        "bob,LIG,,2023-11-14T06:30\nbob,LJK,2023-11-14T06:30,\n"
    )
    rows = {row.name: row.usage[0].amount // HOUR for row in accounting.fairshare().rows}
    assert rows == {"": 24, "LIG": 3 * 7, "LJK": 3 * 17}


# -- declared shares --------------------------------------------------------------------------


def lab_tree(policy: str, shares: str, levels: str = '["project", "user"]') -> str:
    return f'[karma]\npolicy = "{policy}"\nlevels = {levels}\nmetrics = ["resource"]\n{shares}'


TWO_LABS = """
[karma.shares.project]
A = 1
B = 1
[karma.shares.user]
a1 = { A = 1 }
a2 = { A = 1 }
b1 = { B = 1 }
"""


def two_labs(engine: Engine) -> SmallOar:
    """The user a1 of A used 40 core hours, b1 of B 60; both wait."""
    oar = SmallOar(engine)
    for user, project, cores in (("a1", "A", 4), ("b1", "B", 6)):
        oar.add_job(user=user, project=project, cores=cores, start=T0, stop=T0 + 10 * HOUR)
        wait(oar, user, project=project)
    return oar


def test_an_idle_user_with_declared_shares_counts_as_when_waiting(engine: Engine) -> None:
    oar = two_labs(engine)
    accounting = recorded(engine, lab_tree("tree", TWO_LABS))
    idle = karmas(accounting)
    # a1: effective usage 0.4 of a half of a half; b1: 0.6 of a half.
    assert idle == {"a1": pytest.approx(1.6), "b1": pytest.approx(1.2)}
    rows = accounting.fairshare().rows
    assert [(row.depth, row.name, row.target) for row in rows] == [
        (0, "B", 0.5), (1, "b1", 0.5), (0, "A", 0.5), (1, "a1", 0.25), (1, "a2", 0.25),
    ]  # fmt: skip
    wait(oar, "a2", project="A")
    assert {user: karma for user, karma in karmas(accounting).items() if user != "a2"} == idle


#: Levels, shares, and where somebody with declared shares may wait, by user, project and queue.
DECLARED = [
    ('["project", "user"]', "user = { x = { A = 3 } }", ("x", "A", "default")),
    ('["project", "user"]', "user = { x = { C = 3 } }", ("x", "C", "default")),
    ('["project", "user"]', "user = { x = { B = 'parent' } }", ("x", "B", "default")),
    ('["user"]', "user = { x = 3 }", ("x", "B", "default")),
    ('["laboratory", "user"]', "user = { x = 3 }", ("x", "A", "default")),
    ('["laboratory", "user"]', "user = { x = { LIG = 3 } }", ("x", "A", "default")),
    ('["queue", "project", "user"]', "user = { x = { A = 3 } }", ("x", "A", "default")),
    ('["queue", "laboratory", "user"]', "user = { x = { LIG = 3 } }", ("x", "B", "default")),
    ('["queue", "project"]', "project = { x = { default = 3 } }", ("a1", "x", "default")),
    ('["projects"]', "projects = { C = 3 }", ("x", "C", "default")),
    ('["projects"]', "projects = { C = { A = 3 } }", ("x", "C", "default")),
    ('["projects", "user"]', "user = { x = { C = 3 } }", ("x", "C", "default")),
    ('["queue", "projects"]', "projects = { C = 3 }", ("x", "C", "default")),
    ('["queue", "projects"]', "projects = { E = 3, D = { default = 1 } }", ("x", "E", "default")),
    ('["queue", "projects", "user"]', "user = { x = { A = 3 } }", ("x", "A", "default")),
    ('["user", "project"]', "project = { A = { b1 = 2 } }", ("b1", "A", "default")),
]


@pytest.mark.parametrize("policy", ["tree", "fair_tree"])
@pytest.mark.parametrize(("levels", "shares", "place"), DECLARED)
def test_declared_shares_count_at_every_level_whether_or_not_anybody_waits(
    engine: Engine, policy: str, levels: str, shares: str, place: tuple[str, str, str]
) -> None:
    oar = two_labs(engine)
    accounting = recorded(engine, lab_tree(policy, f"[karma.shares]\n{shares}\n", levels))
    accounting.import_attributes("user,laboratory\nx,LIG\na1,LIG\nb1,LJK\n")
    accounting.import_attributes("project,parent\nC,A\nE,D\n")
    user, project, queue = place
    before = [job.karma for job in accounting.karma()]
    wait(oar, user, project=project, queue=queue)
    wait_id = max(job.job_id for job in accounting.karma())
    after = [job.karma for job in accounting.karma() if job.job_id != wait_id]
    assert after == before


def test_plain_shares_count_where_somebody_is_known_to_be(engine: Engine) -> None:
    oar = two_labs(engine)
    oar.add_job(user="x", project="B", cores=1, start=T0 - 90 * DAY, stop=T0 - 89 * DAY)
    accounting = recorded(engine, lab_tree("tree", "[karma.shares.user]\nx = 2\n"))
    rows = accounting.fairshare().rows
    assert [(row.name, row.target) for row in rows if row.depth] == [
        ("b1", pytest.approx(1 / 6)), ("x", pytest.approx(1 / 3)), ("a1", 0.5),
    ]  # fmt: skip


def test_shares_declared_for_another_place_put_nobody_there(engine: Engine) -> None:
    two_labs(engine)
    shares = "[karma.shares]\nuser = { a1 = { LJK = 5 }, '*' = 2 }\n"
    accounting = recorded(engine, lab_tree("tree", shares, '["laboratory", "user"]'))
    accounting.import_attributes("user,laboratory\na1,LIG\nb1,LJK\n")
    names = [(row.depth, row.name, row.target) for row in accounting.fairshare().rows]
    assert names == [(0, "LJK", 0.5), (1, "b1", 0.5), (0, "LIG", 0.5), (1, "a1", 0.5)]


# -- exact ties -------------------------------------------------------------------------------

THREE_LABS = """
{time}
[karma.shares.project]
A = 60
B = 20
C = 20
"""


@pytest.mark.parametrize("time", ["", 'half_life = "7d"', 'half_life = "2d"', 'window = "30h"'])
def test_laboratories_in_the_same_proportion_are_tied(engine: Engine, time: str) -> None:
    """30 for 60 shares and 10 for 20 are the same, however little of it still counts."""
    oar = SmallOar(engine)
    used = (("ann", "A", 20), ("amy", "A", 10), ("ben", "B", 6), ("bea", "B", 4))
    for user, project, hours in used:
        wait(oar, user, project=project)
        for start in (T0, T0 + 7 * HOUR, T0 + 26 * HOUR):
            oar.add_job(user=user, project=project, cores=1, start=start, stop=start + hours * 90)
    toml = lab_tree("fair_tree", THREE_LABS.format(time=""))
    toml = toml.replace("[karma]", f"window = {HOUR}\n[karma]\n{time}")
    accounting = recorded(engine, toml)
    assert karmas(accounting) == {"amy": 0, "bea": 0.25, "ben": 0.5, "ann": 0.75}
    figures = {row.name: row.figure for row in accounting.fairshare().rows if row.depth == 0}
    assert figures == {"A": 0.8, "B": 0.8, "C": None}


def test_in_several_metrics_too(engine: Engine) -> None:
    oar = SmallOar(engine)
    for user, project, jobs in (("ann", "A", 7), ("ben", "B", 1), ("cleo", "C", 3)):
        wait(oar, user, project=project)
        for start in (T0, T0 + 7 * HOUR, T0 + 26 * HOUR):
            for cores in range(1, jobs + 1) if user == "cleo" else [1] * jobs:
                oar.add_job(user=user, project=project, cores=cores, start=start, stop=start + 999)
    shares = "half_life = '3d'\n[karma.shares.project]\nA = 0.7\nB = 0.1\nC = 0.3\n"
    toml = lab_tree("fair_tree", shares)
    accounting = recorded(engine, toml.replace('["resource"]', "{ resource = 0.1, node = 0.7 }"))
    assert karmas(accounting) == {"ann": 0, "ben": 0, "cleo": pytest.approx(2 / 3)}
    rows = [row for row in accounting.fairshare().rows if row.depth == 0]
    assert sum(row.share or 0 for row in rows) == pytest.approx(1)


# -- a share is usage divided by what it is a share of ----------------------------------------

PARENT_SHARES = """
[karma.shares.user]
alice = "parent"
[karma.shares.project]
q = "parent"
p = { LIG = "parent", "*" = 2 }
"""
LABORATORIES = '["laboratory", "project", "user"]'


@pytest.mark.parametrize(
    "toml",
    [
        linear(term='targets = { "*" = 5 }'),
        linear('scope = "queue"'),
        lab_tree("tree", PARENT_SHARES, LABORATORIES),
        lab_tree("fair_tree", PARENT_SHARES, LABORATORIES),
        lab_tree("tree", "", '["projects"]'),
        lab_tree("fair_tree", "", '["projects", "user"]'),
        lab_tree("tree", PARENT_SHARES, LABORATORIES).replace(
            '["resource"]', "{ resource = 2, node = 3 }"
        ),
        '[karma]\npolicy = "dominant"\nmetrics = ["resource", "node"]\n',
        '[karma]\npolicy = "oar"\nsource = "totals"\n',
    ],
)
def test_every_share_is_of_what_it_is_said_to_be_of(
    oar: SmallOar, engine: Engine, toml: str
) -> None:
    oar.add_job(user="dora", project="q", cores=2, start=T0, stop=T0 + DAY)
    oar.add_job(user="eve", project="r", cores=1, start=T0, stop=T0 + DAY)
    write_counted(engine, counted([]))
    accounting = recorded(engine, toml)
    accounting.import_attributes("user,laboratory\nalice,LIG\nbob,LIG\ndora,LIG\n")
    accounting.import_attributes("project,parent\np,q\n")
    accounting.adjust(
        user="carol", project="q", queue="default", property="alpha", metric="resource", start=T0,
        stop=T0 + DAY, used=-DAY, reason="a node crashed", author="root",
    )  # fmt: skip
    parts = [part for job in accounting.karma() for part in job.parts]
    assert parts
    for part in parts:
        assert part.share == pytest.approx(part.usage / part.of if part.of else 0)
        assert part.usage >= 0
    for row in accounting.fairshare().rows:
        assert all(used.usage >= 0 for used in row.usage)


def test_the_words_of_an_explanation_are_its_numbers(oar: SmallOar, engine: Engine) -> None:
    oar.add_job(user="dora", project="q", cores=4, start=T0, stop=T0 + DAY)
    shares = "[karma.shares.project]\nq = 'parent'\n"
    accounting = recorded(engine, lab_tree("fair_tree", shares, LABORATORIES))
    accounting.import_attributes("user,laboratory\nalice,LIG\nbob,LIG\ndora,LIG\n")
    (bob,) = [job for job in accounting.karma() if job.user == "bob"]
    words = list(explanation(accounting.explain(bob.job_id)))
    # As q has the shares of LIG, its users are siblings of the projects of LIG.
    line = words.index("  user bob: share 0.375, meant 0.333")
    assert words[line + 1].startswith("    72.0 of 192.0 resource·h")
    part = bob.parts[-1]
    assert (part.usage, part.of, part.share) == (3 * DAY, 8 * DAY, 0.375)
    classic = opened(engine, TREE.format(policy="tree", metrics='["resource"]'))
    words = list(explanation(classic.explain(5)))
    assert "  user carol: share 0.000, effective 0.292, meant 0.250" in words
    assert any("is the last of these effective shares divided by what is meant" in w for w in words)


# -- paths of different depth, and who sees what ----------------------------------------------


@pytest.mark.parametrize("policy", ["tree", "fair_tree"])
def test_every_part_is_of_one_level(oar: SmallOar, engine: Engine, policy: str) -> None:
    accounting = recorded(engine, lab_tree(policy, "", '["projects", "user"]'))
    accounting.import_attributes("project,parent\np,lab\n")
    report = accounting.karma()
    assert [part.by for part in report.parts] == ["projects", "projects", "user"]
    assert {job.user: [(part.by, part.name) for part in job.parts] for job in report} == {
        "alice": [("projects", "lab"), ("projects", "p"), ("user", "alice")],
        "bob": [("projects", "q"), ("user", "bob")],
        "carol": [("projects", "q"), ("user", "carol")],
    }


def test_the_jobs_of_a_project_above_others_have_a_part_of_their_own(
    oar: SmallOar, engine: Engine
) -> None:
    accounting = recorded(engine, lab_tree("tree", "", '["projects"]'))
    accounting.import_attributes("project,parent\np,q\n")
    for job in accounting.karma():
        effective, target = job.parts[-1].effective, job.parts[-1].target
        assert effective is not None and target
        assert job.karma == pytest.approx(effective / target)
    assert [part.name for part in only(accounting, "bob").parts] == ["q", "q"]


def numbers_in(value: object) -> set[float]:
    """All numbers of an answer."""
    if isinstance(value, dict):
        return set().union(*map(numbers_in, value.values()))
    if isinstance(value, list | tuple):
        return set().union(*map(numbers_in, value))
    return {float(value)} if isinstance(value, int | float) else set()


@pytest.mark.parametrize("policy", ["tree", "fair_tree"])
@pytest.mark.parametrize(
    ("levels", "shares"),
    [
        ('["projects", "user"]', ""),
        ('["projects", "user"]', "[karma.shares.projects]\np = 'parent'\n"),
        ('["queue", "projects"]', ""),
        ('["projects", "queue", "user"]', ""),
    ],
)
def test_nobody_sees_what_a_parent_project_used(
    oar: SmallOar, engine: Engine, policy: str, levels: str, shares: str
) -> None:
    """The usage of lab is 11 days: nobody but who used something in lab itself may see that."""
    oar.add_job(user="dora", project="r", cores=7, start=T0, stop=T0 + DAY)
    oar.add_job(user="eve", project="s", cores=5, start=T0, stop=T0 + DAY)
    accounting = recorded(engine, lab_tree(policy, shares, levels))
    accounting.import_attributes("project,parent\np,lab\nq,lab\nr,lab\n")
    everything = accounting.karma()
    assert 11 * DAY in numbers_in([asdict(job) for job in everything])
    own = accounting.seen_by("alice")
    (job,) = own.karma()
    told = own.explain(job.job_id)
    assert told is not None
    answers = [asdict(job), asdict(told), asdict(own.fairshare())]
    assert 11 * DAY not in numbers_in(answers)
    for part in (*job.parts, *told.job.parts):
        assert part.name not in ("lab", "q", "r", "s")
        assert part.of_project in ("", "p")
        # It is drawn towards the share of lab.
        assert part.effective is None
    for row in own.fairshare().rows:
        assert (row.by, row.name) in (("user", "alice"), ("projects", "p"))
        assert row.effective is None
        # A share of what lab used, together with one's own usage, would tell it, too.
        for used in row.usage:
            assert not row.share or used.usage / row.share != pytest.approx(11 * DAY)


def test_nobody_sees_what_others_used_in_a_project_of_theirs(oar: SmallOar, engine: Engine) -> None:
    oar.add_job(user="alice", project="q", cores=2, start=T0, stop=T0 + DAY)
    accounting = recorded(engine, lab_tree("tree", "", '["user", "project"]'))
    rows = accounting.seen_by("alice").fairshare().rows
    assert [(row.name, row.usage[0].amount // DAY) for row in rows] == [
        ("alice", 3), ("q", 2), ("p", 1),
    ]  # fmt: skip


# -- what is kept from one question to the next -----------------------------------------------


@pytest.mark.parametrize("policy", ["tree", "fair_tree"])
def test_paths_that_are_kept_do_not_outlive_what_they_were_made_of(
    oar: SmallOar, engine: Engine, policy: str
) -> None:
    toml = lab_tree(policy, "", '["projects", "user"]')
    accounting = recorded(engine, toml)

    def asked_anew() -> list[JobKarma]:
        return list(opened(engine, toml).karma())

    assert list(accounting.karma()) == list(accounting.karma()) == asked_anew()
    accounting.import_attributes("project,parent\np,lab\nq,lab\n")
    assert list(accounting.karma()) == asked_anew()
    assert len(only(accounting, "bob").parts) == 3
    accounting.import_attributes("project,parent,valid_to\np,lab,2023-11-15\nq,lab,\n")
    assert [list(accounting.karma(now=at)) for at in (T0 + HOUR, NOW)] == [
        list(opened(engine, toml).karma(now=at)) for at in (T0 + HOUR, NOW)
    ]
    accounting.forget_user("bob")
    assert list(accounting.karma()) == asked_anew()
    oar.add_job(user="new", project="r", cores=4, start=NOW - DAY, stop=NOW)
    wait(oar, "new", project="r")
    assert list(accounting.karma()) == asked_anew()
    accounting.catch_up()
    assert list(accounting.karma()) == asked_anew()

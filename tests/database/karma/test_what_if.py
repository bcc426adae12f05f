"""What other settings would change: the laws of the replay, and what is told of it."""

import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import Engine

from oar_accounting import Accounting, BadSpan, SettingsError, UnknownName
from oar_accounting.cli.app import main
from oar_accounting.core.columns import Ints, ints
from oar_accounting.karma.policies.replay import Starts, replay
from oar_accounting.karma.what_if_report import Move, PlaceShift, Replay, WaitShift
from tests.servers import Database
from tests.small_oar import DAY, HOUR, NOW, T0, SmallOar, opened, stopped_clock

# -- the laws ----------------------------------------------------------------------------------

jobs = st.lists(
    st.tuples(st.integers(0, 2), st.integers(0, 50), st.integers(0, 50)), min_size=1, max_size=30
)


def starts_of(found: list[tuple[int, int, int]]) -> Starts:
    """Jobs with a kind, an instant of submission and a wait."""
    kind, submitted, wait = (ints(each) for each in zip(*found, strict=True))
    return Starts(ints(range(1, len(found) + 1)), kind, submitted, submitted + wait)


def bounds_of(step: int) -> Ints:
    return ints(range(0, 101, step))


@given(jobs, st.sampled_from([1, 7, 100]), st.integers(0, 10))
def test_every_job_has_one_start_of_its_kind_that_was(
    found: list[tuple[int, int, int]], step: int, seed: int
) -> None:
    starts = starts_of(found)
    random = np.random.default_rng(seed)
    replayed = replay(starts, bounds_of(step), lambda _, rows: random.random(len(rows)).round(1))
    assert (replayed.start >= starts.submitted).all()
    before, after = (
        Counter(zip(starts.kind.tolist(), each.tolist(), strict=True))
        for each in (starts.start, replayed.start)
    )
    assert before == after
    assert (replayed.able >= 1).all()


@given(jobs, st.sampled_from([1, 7, 100]))
def test_karma_in_the_order_of_what_was_changes_nothing(
    found: list[tuple[int, int, int]], step: int
) -> None:
    starts = starts_of(found)
    was = np.lexsort((starts.job_id, starts.start)).argsort().astype(float)
    replayed = replay(starts, bounds_of(step), lambda _, rows: was[rows])
    assert (replayed.start == starts.start).all()
    assert replayed.same.all()


@given(jobs, st.integers(0, 10))
def test_lower_karma_never_waits_longer(found: list[tuple[int, int, int]], seed: int) -> None:
    """Of two jobs of a kind that were there at once, the one with the lower karma is first."""
    starts = starts_of(found)
    karma = np.random.default_rng(seed).permutation(len(starts)).astype(float)
    replayed = replay(starts, bounds_of(7), lambda _, rows: karma[rows])
    for one in range(len(starts)):
        for other in range(len(starts)):
            if starts.kind[one] == starts.kind[other] and karma[one] < karma[other]:
                later = replayed.start[one] > replayed.start[other]
                assert not (later and starts.submitted[one] <= replayed.start[other])


@given(jobs)
def test_karma_is_asked_for_once_a_bound_and_only_of_those_that_may_wait(
    found: list[tuple[int, int, int]],
) -> None:
    starts = starts_of(found)
    asked: list[int] = []

    def karma(bound: int, rows: Ints) -> Any:
        asked.append(bound)
        assert len(rows)
        assert (np.diff(rows) > 0).all()
        assert (starts.submitted[rows] < bound + 7).all()
        return np.zeros(len(rows))

    replayed = replay(starts, bounds_of(7), karma)
    assert asked == sorted(set((starts.start // 7 * 7).tolist()))
    # Of equal karma the lowest id is first.
    lone = Counter(starts.kind.tolist())
    assert all(replayed.same[row] for row in range(len(starts)) if lone[int(starts.kind[row])] == 1)


# -- a real site -------------------------------------------------------------------------------

BY_USER = """
[karma]
policy = "linear"
window = "9999d"
[[karma.terms]]
by = "user"
metric = "resource"
"""
AGAINST = BY_USER + "weight = -1\n"


@pytest.fixture(autouse=True)
def clock() -> Iterator[None]:
    """The verbs' clock stands still."""
    with stopped_clock():
        yield


@pytest.fixture
def accounting(engine: Engine) -> Accounting:
    """Alice used much, bob little. A day later both waited for the same; and both wait now."""
    oar = SmallOar(engine)
    day = 3 * HOUR
    oar.add_job(user="alice", cores=8, start=T0 - 20 * DAY, stop=T0 - 19 * DAY)
    oar.add_job(user="bob", cores=1, start=T0 - 20 * DAY, stop=T0 - 19 * DAY)
    for user, start in (("alice", 1), ("bob", 2), ("alice", 3), ("bob", 4)):
        oar.add_job(
            user=user, cores=4, submission=T0 + day, start=T0 + day + start * HOUR,
            stop=T0 + day + (start + 1) * HOUR,
        )  # fmt: skip
    # Nobody else waited for these; and this one had a promise.
    oar.add_job(user="carol", cores=3, submission=T0 + day, start=T0 + day + 600)
    oar.add_job(user="carol", queue="night", cores=4, submission=T0 + day, start=T0 + day + 60)
    promised = oar.add_job(user="bob", cores=4, submission=T0 + day, start=T0 + day + 7_200)
    oar.update_job(promised, reservation="Scheduled")
    # It never started, though OAR says so.
    never = oar.add_job(user="bob", cores=4, submission=T0 + day, start=T0 + DAY, state="Error")
    oar.update_job(never, stop_time=T0 + DAY)
    for user, queue in (("alice", "default"), ("bob", "default"), ("dora", "night")):
        oar.add_job(
            user=user, queue=queue, start=0, state="Waiting", moldable=False, submission=NOW - 60
        )
    found = opened(engine, BY_USER)
    found.catch_up()
    return found


@pytest.fixture
def other(tmp_path: Path) -> Path:
    """Settings under which who used most is first."""
    file = tmp_path / "other.toml"
    file.write_text(AGAINST, encoding="utf-8")
    return file


def test_who_gains_and_who_loses(accounting: Accounting, other: Path) -> None:
    report = accounting.what_if(other, days=7)
    assert sorted(report.moves, key=lambda each: each.job_id) == [
        Move(job_id=11, user="alice", queue="default", before=2, after=1),
        Move(job_id=12, user="bob", queue="default", before=1, after=2),
        Move(job_id=13, user="dora", queue="night", before=1, after=1),
    ]
    assert report.places == [
        PlaceShift(queue="default", user="alice", jobs=1, before=2, after=1),
        PlaceShift(queue="night", user="dora", jobs=1, before=1, after=1),
        PlaceShift(queue="default", user="bob", jobs=1, before=1, after=2),
    ]
    assert (report.pairs, report.swapped) == (1, 1)


def test_starts_are_given_anew(accounting: Accounting, other: Path) -> None:
    """Bob, who used least, has the first two starts now, and would have the last two."""
    replayed = accounting.what_if(other, days=7).replay
    assert replayed is not None
    hour = float(HOUR)
    waits = {each.user: each for each in replayed.waits}
    assert waits["alice"] == WaitShift(
        user="alice", jobs=2, was=2 * hour, before=3.5 * hour, after=1.5 * hour
    )
    assert waits["bob"] == WaitShift(
        user="bob", jobs=2, was=3 * hour, before=1.5 * hour, after=3.5 * hour
    )
    assert waits["carol"].before == waits["carol"].after == waits["carol"].was
    assert [each.user for each in replayed.waits] == ["alice", "carol", "bob"]
    assert replayed.chance == pytest.approx(1 / 4 + 1 / 3 + 1 / 2)
    # Bob's second job has the second start, and alice's first the third.
    assert replayed == Replay(
        begin=NOW - 7 * DAY,
        step=DAY,
        starts=6,
        reservations=1,
        choices=3,
        explained=0,
        chance=replayed.chance,
        waits=replayed.waits,
    )


def test_who_was_forgotten_is_not_named(accounting: Accounting, other: Path) -> None:
    pseudonym = accounting.forget_user("alice")
    report = accounting.what_if(other)
    assert report.replay is not None
    assert {each.user for each in report.replay.waits} == {pseudonym, "bob", "carol"}
    assert {each.user for each in report.places} == {pseudonym, "bob", "dora"}


def test_the_same_settings_change_nothing(accounting: Accounting, tmp_path: Path) -> None:
    file = tmp_path / "same.toml"
    file.write_text(BY_USER, encoding="utf-8")
    report = accounting.what_if(file)
    assert all(each.before == each.after for each in report.moves)
    assert report.swapped == 0
    assert report.replay is not None
    assert all(each.before == each.after for each in report.replay.waits)


def test_usage_counts_up_to_the_last_bound_of_windows(
    accounting: Accounting, other: Path, engine: Engine
) -> None:
    """What a job of that day used later does not decide its start."""
    before = accounting.what_if(other).replay
    SmallOar(engine, create=False, nodes=0).add_job(
        user="bob", cores=8, start=T0 + 10 * HOUR, stop=T0 + DAY, job_id=50, submission=T0
    )
    accounting.catch_up()
    after = accounting.what_if(other).replay
    assert before is not None and after is not None
    assert {e.user: e.before for e in before.waits if e.user == "alice"} == {
        e.user: e.before for e in after.waits if e.user == "alice"
    }


def test_days_that_are_none(accounting: Accounting, other: Path) -> None:
    assert accounting.what_if(other, days=0).replay is None
    for days in (-1, 10**9):
        with pytest.raises(BadSpan, match="days cannot be replayed"):
            accounting.what_if(other, days=days)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "there is no table \\[karma\\]"),
        ("karma = 3", "must be a table"),
        ("[karma]\npolicy = 'best'", "policy must be one of"),
        ("[karma", "not TOML"),
        ("colour = 1\n[karma]", "unknown key 'colour'"),
    ],
)
def test_settings_that_cannot_be_used(
    accounting: Accounting, tmp_path: Path, text: str, words: str
) -> None:
    file = tmp_path / "wrong.toml"
    file.write_text(text, encoding="utf-8")
    with pytest.raises(SettingsError, match=f"wrong.toml.*{words}"):
        accounting.what_if(file)


def test_a_metric_that_only_the_other_settings_have(accounting: Accounting, tmp_path: Path) -> None:
    file = tmp_path / "gpu.toml"
    gpu = '[metrics.gpu]\nunit = "gpu·s"\ndistinct = "gpu"\n'
    file.write_text(gpu + BY_USER.replace('"resource"', '"gpu"'), encoding="utf-8")
    with pytest.raises(UnknownName, match="metric 'gpu', which karma needs, is not recorded"):
        accounting.what_if(file)


# -- the command -------------------------------------------------------------------------------


def told(database: Database, *arguments: str) -> Any:
    """What the command says as of the tests' present."""
    Path("before.toml").write_text(BY_USER, encoding="utf-8")
    given = ("--url", database.url, "--config", "before.toml", "karma", *arguments)
    return CliRunner().invoke(main, given)


@pytest.mark.databases("sqlite")
def test_what_the_command_tells(accounting: Accounting, database: Database, other: Path) -> None:
    done = told(database, "--at", str(NOW), "--what-if", str(other))
    assert done.exit_code == 0
    lines = done.stdout.splitlines()
    assert lines[1].split() == ["default", "alice", "1", "2", "1", "1", "earlier"]
    assert "2 of 3 waiting jobs change their place; 100% of the pairs in a queue swap" in lines[4]
    assert "alice     2    2.00          3.50           1.50   -2.00" in done.stdout
    assert "6 jobs started since 2023-11-09 00:00:00 UTC; 3 of these starts had a choice" in (
        done.stdout
    )
    assert "in 0% of them, where drawing lots would in 36%" in done.stdout
    assert "1 reservations" in done.stdout


@pytest.mark.databases("sqlite")
def test_what_the_command_tells_machines(
    accounting: Accounting, database: Database, other: Path
) -> None:
    done = told(database, "--at", str(NOW), "--what-if", str(other), "--json", "--days", "0")
    said = json.loads(done.stdout)
    assert said["replay"] is None
    assert said["swapped"] == 1
    assert {each["job_id"] for each in said["moves"]} == {11, 12, 13}


@pytest.mark.databases("sqlite")
def test_nothing_can_be_said_without_a_choice(
    engine: Engine, database: Database, other: Path
) -> None:
    SmallOar(engine).add_job(user="bob", start=T0)
    opened(engine, BY_USER).catch_up()
    done = told(database, "--at", str(NOW), "--what-if", str(other))
    assert "no job waits" in done.stdout
    assert "Of 1 starts since 2023-11-09 00:00:00 UTC none had a choice" in done.stdout


@pytest.mark.databases("sqlite")
@pytest.mark.parametrize(
    "arguments",
    [
        ("--days", "3"),
        ("--what-if", "x", "--explain", "3"),
        ("--what-if", "x", "--first", "3"),
        ("--what-if", "x", "--days", "-1"),
        ("--what-if", "missing.toml"),
    ],
)
def test_a_wrong_command_line_is_told(
    accounting: Accounting, database: Database, arguments: tuple[str, ...]
) -> None:
    done = told(database, *arguments)
    assert done.exit_code == 2
    assert "Error" in done.output or "oar-accounting: " in done.output

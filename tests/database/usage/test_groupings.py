"""Usage by laboratory: people move, and what they used is split on the day of the move."""

import tempfile
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sqlalchemy import Engine, create_engine, insert

from oar_accounting import Accounting, UnknownName
from oar_accounting.core.formats import date
from oar_accounting.core.windows import evenly
from oar_accounting.database.dialects import file_url
from oar_accounting.ledger import schema
from oar_accounting.usage.records import Amounts
from tests.database.ledger.test_openings import Past, counted, write_counted
from tests.examples import examples
from tests.servers import Database
from tests.small_oar import DAY, HOUR, T0, Clock, SmallOar, opened, stopped_clock
from tests.system.cli.test_cli import run, said

on_sqlite = pytest.mark.databases("sqlite")

#: Alice moves on the second day; bob has no entry; carol's begins late and ends.
LABORATORIES = f"""user,laboratory,valid_from,valid_to
alice,LIG,,{date(T0)[:10]}
alice,IRIG,{date(T0)[:10]},
carol,LIG,{date(T0 - DAY)[:10]},{date(T0)[:10]}
"""


@pytest.fixture(autouse=True)
def clock() -> Iterator[Clock]:
    """The verbs' clock stands still."""
    with stopped_clock() as stopped:
        yield stopped


@pytest.fixture
def site(engine: Engine) -> Accounting:
    """Three users with a job each of four days around `T0`."""
    oar = SmallOar(engine)
    for user, cores in (("alice", 1), ("bob", 2), ("carol", 4)):
        oar.add_job(user=user, cores=cores, start=T0 - 2 * DAY, stop=T0 + DAY, walltime=4 * DAY)
    accounting = opened(engine)
    accounting.catch_up()
    accounting.import_attributes(LABORATORIES)
    return accounting


def used(
    accounting: Accounting, *by: str, start: int | None = None, stop: int | None = None
) -> dict[tuple[str, ...], int]:
    """What every group used of resources, in resource·days."""
    rows = accounting.usage(by, ("resource",), start, stop).rows
    return {row.group: row.used // DAY for row in rows}


def test_a_user_who_moved_is_split_on_the_day_of_the_move(site: Accounting) -> None:
    assert used(site, "laboratory") == {("IRIG",): 1, ("LIG",): 2 + 4, ("",): 6 + 8}
    assert used(site, "user", "laboratory") == {
        ("alice", "IRIG"): 1,
        ("alice", "LIG"): 2,
        ("bob", ""): 6,
        ("carol", ""): 8,
        ("carol", "LIG"): 4,
    }
    assert used(site, "laboratory", start=T0) == {("IRIG",): 1, ("",): 2 + 4}
    assert used(site, "laboratory", start=T0 - DAY, stop=T0) == {("LIG",): 1 + 4, ("",): 2}


def test_projects_have_parents_by_name(engine: Engine) -> None:
    oar = SmallOar(engine)
    for project, cores in (("a", 1), ("ab", 2), ("physics", 4), ("other", 8)):
        oar.add_job(project=project, cores=cores, start=T0, stop=T0 + DAY)
    accounting = opened(engine)
    accounting.catch_up()
    accounting.import_attributes("project,parent\na,physics\nab,a\n")
    assert used(accounting, "parent") == {("a",): 2, ("physics",): 1, ("",): 12}
    assert used(accounting, "root") == {("physics",): 7, ("other",): 8}


def test_adjustments_and_opening_amounts_move_with_their_user(
    site: Accounting, engine: Engine
) -> None:
    """Also within a window: both lie evenly over their span."""
    past = Past("alice", "default", start=T0 - 30 * DAY, used=DAY, cores=4)
    write_counted(engine, counted([past]))
    site.import_accounting()
    site.import_attributes("user,team,valid_from\nalice,new,2023-10-15T06:00\n")
    assert T0 - 30 * DAY < 1_697_349_600 < T0 - 29 * DAY
    rows = {row.group: row for row in site.usage(("user", "team"), ("resource",), None, T0).rows}
    assert rows["alice", ""].opening_used == 6 * HOUR * 4
    assert rows["alice", "new"].opening_used == 18 * HOUR * 4
    _adjust(engine, T0 - 30 * DAY, T0 - 28 * DAY, -4800)
    rows = {row.group: row for row in site.usage(("user", "team"), ("resource",), None, T0).rows}
    assert rows["alice", ""].adjusted_used == -600
    assert rows["alice", "new"].adjusted_used == -4200
    (row,) = site.usage(("user",), ("resource",), T0 - 29 * DAY, T0 - 28 * DAY).rows
    assert (row.group, row.used, row.adjusted_used) == (("alice",), -2400, -2400)
    plain = site.usage(("team",), ("resource",), None, T0, without_adjustments=True).rows
    assert sum(row.used for row in plain) == DAY * 4 + 2 * DAY * 7
    assert not any(row.adjusted_used for row in plain)


def _adjust(engine: Engine, start: int, stop: int, used: int) -> None:
    """Write an adjustment of the first account of alice."""
    with engine.begin() as connection:
        (account,) = connection.execute(
            schema.accounts.select().where(schema.accounts.c.user_name == "alice").limit(1)
        ).scalars()
        connection.execute(
            insert(schema.adjustments).values(
                adjustment_id=1, site_id=1, posted=T0, author="root", reason="because"
            )
        )
        connection.execute(
            insert(schema.adjusted).values(
                adjustment_id=1,
                line=1,
                account_id=account,
                metric="resource",
                start_time=start,
                stop_time=stop,
                asked=0,
                used=used,
            )
        )


def test_a_move_within_a_window_is_split_to_the_second(site: Accounting) -> None:
    site.import_attributes(f"user,team,valid_from\nalice,new,{T0 + 5003}\n")
    rows = {row.group: row for row in site.usage(("user", "team"), ("resource",)).rows}
    assert rows["alice", "new"].used == DAY - 5003
    assert rows["alice", ""].used == 2 * DAY + 5003
    assert {row.accuracy for row in rows.values()} == {"exact"}
    assert used(site, "team") == {("",): 2 + 6 + 12, ("new",): 0}


def test_an_unknown_key_names_the_attributes_too(site: Accounting) -> None:
    with pytest.raises(UnknownName, match=r"known keys are user, .*, laboratory; an attribute"):
        site.usage(("labratory",))
    with pytest.raises(UnknownName, match="no parents are imported"):
        site.usage(("root",))


def test_the_table_shows_people_without_an_entry_as_one_group(
    database: Database, site: Accounting
) -> None:
    site.close()
    shown = run("--url", database.url, "usage", "--by", "laboratory", "--metric", "resource")
    lines = [re_spaced(line) for line in shown.stdout.splitlines()]
    assert lines[3:] == [
        "(no laboratory) 480.0 336.0",
        "IRIG 48.0 24.0",
        "LIG 144.0 144.0",
        "total 672.0 504.0",
    ]
    wrong = run("--url", database.url, "usage", "--by", "labratory")
    assert wrong.returncode == 2
    assert "unknown grouping key 'labratory'" in said(wrong)


def re_spaced(line: str) -> str:
    """The line with one blank between cells."""
    return " ".join(line.split())


# -- laws -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Stayed:
    """A user's entry, in days from `T0`."""

    user: str
    start: int
    days: int
    value: str


ENTRIES = st.lists(
    st.builds(
        Stayed,
        user=st.sampled_from("abc"),
        start=st.integers(-6, 4),
        days=st.integers(1, 6),
        value=st.sampled_from(["LIG", "lig", "TIMC"]),
    ),
    min_size=1,
    max_size=8,
)
JOBS = st.lists(
    st.tuples(
        st.sampled_from("abcd"), st.integers(-5 * 24, 2 * 24), st.integers(1, 90), st.integers(1, 8)
    ),
    min_size=1,
    max_size=6,
)


def without_overlaps(entries: Sequence[Stayed]) -> list[Stayed]:
    """Those of the entries that do not overlap one before them of the same user."""
    kept: list[Stayed] = []
    for each in entries:
        others = (e for e in kept if e.user == each.user)
        if all(e.start + e.days <= each.start or each.start + each.days <= e.start for e in others):
            kept.append(each)
    return kept


@settings(max_examples=examples(30))
@given(entries=ENTRIES.map(without_overlaps), jobs=JOBS, days=st.integers(-6, 4))
def test_a_day_belongs_to_where_its_user_is_on_that_day(
    entries: list[Stayed], jobs: list[tuple[str, int, int, int]], days: int
) -> None:
    expected: defaultdict[str, int] = defaultdict(int)
    for user, first, hours, cores in jobs:
        for hour in range(first, first + hours):
            day = hour // 24
            if day < days:
                continue
            stays = [e for e in entries if e.user == user and 0 <= day - e.start < e.days]
            expected[stays[0].value if stays else ""] += HOUR * cores
    lines = ["user,laboratory,valid_from,valid_to"]
    lines += [
        f"{e.user},{e.value},{T0 + e.start * DAY},{T0 + (e.start + e.days) * DAY}" for e in entries
    ]
    with tempfile.TemporaryDirectory() as directory:
        engine = create_engine(file_url(Path(directory) / "oar.db"))
        oar = SmallOar(engine)
        for user, first, hours, cores in jobs:
            start = T0 + first * HOUR
            oar.add_job(user=user, start=start, stop=start + hours * HOUR, cores=cores)
        accounting = opened(engine)
        accounting.catch_up()
        accounting.import_attributes("\n".join(lines))
        rows = accounting.usage(("laboratory",), ("resource",), T0 + days * DAY).rows
        assert {row.group[0]: row.used for row in rows if row.used} == expected
        engine.dispose()


INSTANTS = st.integers(-50, 150)


@given(
    amount=st.integers(-(2**63), 2**63),
    start=st.integers(0, 50),
    length=st.integers(1, 50),
    cuts=st.lists(INSTANTS, min_size=2).map(sorted),
)
def test_parts_of_an_amount_add_up_however_it_is_cut(
    amount: int, start: int, length: int, cuts: list[int]
) -> None:
    stop = start + length
    parts = [evenly(amount, start, stop, a, b) for a, b in pairwise(cuts)]
    assert sum(parts) == evenly(amount, start, stop, cuts[0], cuts[-1])
    assert evenly(amount, start, stop, start, stop) == amount
    assert evenly(amount, start, stop, -1000, 1000) == amount
    assert [evenly(-amount, start, stop, a, b) for a, b in pairwise(cuts)] == [
        -part for part in parts
    ]
    for (a, b), part in zip(pairwise(cuts), parts, strict=True):
        seconds = max(0, min(b, stop) - max(a, start))
        assert abs(part * length - amount * seconds) < length


def test_amounts_add_up_part_by_part() -> None:
    one = Amounts(
        asked=1, used=2, opening_asked=3, opening_used=4, adjusted_asked=5, adjusted_used=6
    )
    assert one + one == Amounts(
        asked=2, used=4, opening_asked=6, opening_used=8, adjusted_asked=10, adjusted_used=12
    )

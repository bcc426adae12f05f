"""Who belongs where: files are read as they are meant, and at every instant one value is true."""

import csv
import io
import json
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from datetime import UTC
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import HealthCheck, assume, example, given, settings
from hypothesis import strategies as st
from sqlalchemy import Engine, event, select

from oar_accounting import Accounting, Attribute, BadFile, SchemaError, UnknownName
from oar_accounting.attributes import stored as stored_attributes
from oar_accounting.attributes.csv_files import BEYOND, MOST_BYTES, read, time_text, written
from oar_accounting.attributes.memberships import (
    DEEPEST_TREE,
    LOWEST,
    Claim,
    Memberships,
    Roots,
    contradictions,
    gaps,
    merged,
    wrong_climbs,
)
from oar_accounting.core.columns import OPEN
from oar_accounting.core.periods import moment, zone
from oar_accounting.ledger import schema
from tests.examples import examples
from tests.old_site import places_of
from tests.servers import Database
from tests.small_oar import DAY, HOUR, T0, Clock, SmallOar, opened, stopped_clock
from tests.strategies import NAMES
from tests.system.cli.test_cli import ROOT, Done, process, run, said

on_sqlite = pytest.mark.databases("sqlite")

#: Names of which a file can speak.
PRINTABLE = tuple(name for name in NAMES if name and name.isprintable())
#: `T0` is 2023-11-14.
MOVED = """\
user,laboratory,valid_from,valid_to
bob,LIG,,2023-11-14
bob,LJK,2023-11-14,
alice,LIG,,
"""


@pytest.fixture(autouse=True)
def clock() -> Iterator[Clock]:
    """The verbs' clock stands still."""
    with stopped_clock() as stopped:
        yield stopped


def some_site(engine: Engine, *users: str) -> Accounting:
    """A site on which each user has a job that ended, on a project; recorded."""
    oar = SmallOar(engine)
    for user in users or ("alice", "bob"):
        oar.add_job(user=user, project="physics")
    accounting = opened(engine)
    assert accounting.catch_up().problems == ()
    return accounting


def as_tuples(entries: Sequence[Attribute]) -> list[tuple[str, int | None, int | None, str]]:
    """Name, times and value of the entries."""
    return [(each.name, each.valid_from, each.valid_to, each.value) for each in entries]


def rows_of(engine: Engine) -> list[tuple[object, ...]]:
    """All that is stored of attributes."""
    with engine.connect() as connection:
        return sorted(map(tuple, connection.execute(select(schema.attributes))), key=repr)


def refused(text: str | bytes) -> str:
    """What is said of a file that is wrong."""
    with pytest.raises(BadFile) as error:
        read(text, "people.csv", UTC)
    assert str(error.value).startswith("people.csv: ")
    assert "nothing was imported" in str(error.value)
    return str(error.value)


# -- laws: who belongs where ------------------------------------------------------------------

TIMES = (LOWEST, -3, 0, 1, 2, 3, 5, 8, OPEN)
#: Before, at and after every time of a claim.
INSTANTS = sorted({t + d for t in TIMES for d in (-1, 0, 1) if LOWEST <= t + d < OPEN})


@st.composite
def some_claims(draw: st.DrawFn, values: Sequence[str] = ("A", "B", "b")) -> list[Claim]:
    """Lines of a file, which may contradict each other."""
    found = []
    for line in range(draw(st.integers(0, 8))):
        start, stop = sorted(draw(st.lists(st.sampled_from(TIMES), min_size=2, max_size=2)))
        assume(start < stop and start != OPEN)
        name, value = draw(st.sampled_from("ab")), draw(st.sampled_from(values))
        found.append(Claim(name, start, stop, value, line + 2))
    return found


def told(claims: Sequence[Claim], name: str, at: int) -> set[str]:
    """What the lines say of one instant, line by line."""
    return {c.value for c in claims if c.name == name and c.start <= at < c.stop}


def agreeing(claims: Sequence[Claim]) -> list[Claim]:
    """The lines that contradict no line before them."""
    found: list[Claim] = []
    for each in claims:
        if not list(contradictions([*found, each])):
            found.append(each)
    return found


@given(some_claims())
def test_lines_contradict_each_other_where_two_say_different_things(claims: list[Claim]) -> None:
    found = {frozenset((one.line, other.line)) for one, other in contradictions(claims)}
    assert found == {
        frozenset((one.line, other.line))
        for one in claims
        for other in claims
        if one.name == other.name
        and one.value != other.value
        and max(one.start, other.start) < min(one.stop, other.stop)
    }


@given(some_claims())
def test_at_every_instant_a_name_has_the_value_of_the_lines(claims: list[Claim]) -> None:
    claims = agreeing(claims)
    members = Memberships("user", merged(claims))
    for name in "abc":
        spans = members.of(name)
        assert (spans[0][0], spans[-1][1]) == (LOWEST, OPEN)
        assert all(one[1] == other[0] for one, other in pairwise(spans))
        assert all(one[2] != other[2] for one, other in pairwise(spans))
        for at in INSTANTS:
            (value,) = (value for start, stop, value in spans if start <= at < stop)
            assert {value} == (told(claims, name, at) or {""})


@given(some_claims(), st.data())
def test_the_order_of_the_lines_does_not_matter(claims: list[Claim], data: st.DataObject) -> None:
    claims = agreeing(claims)
    assert merged(data.draw(st.permutations([*claims, *claims]))) == merged(claims)


@given(some_claims())
def test_changes_are_where_the_value_is_another(claims: list[Claim]) -> None:
    claims = agreeing(claims)
    members = Memberships("user", merged(claims))
    assert members.changes("abc") == [
        at
        for at in INSTANTS
        if at != LOWEST
        and any((told(claims, name, at) != told(claims, name, at - 1)) for name in "abc")
    ]


@given(some_claims())
def test_gaps_lie_between_the_entries_of_a_name(claims: list[Claim]) -> None:
    claims = agreeing(claims)
    found = list(gaps(merged(claims)))
    for at in INSTANTS:
        for name in "ab":
            own = [c for c in claims if c.name == name]
            lies_between = any(c.stop <= at for c in own) and any(c.start > at for c in own)
            expected = lies_between and not told(claims, name, at)
            assert expected == any(n == name and a <= at < b for n, a, b in found)


# -- laws: the tree of projects ---------------------------------------------------------------

PROJECTS = ("a", "b", "c", "d")


@st.composite
def some_parents(draw: st.DrawFn) -> dict[str, list[tuple[int, int, str]]]:
    """Parents of projects over time, circles among them."""
    claims = []
    for _ in range(draw(st.integers(0, 7))):
        times = st.lists(st.sampled_from(TIMES), min_size=2, max_size=2, unique=True)
        start, stop = sorted(draw(times))
        project, parent = draw(st.sampled_from(PROJECTS)), draw(st.sampled_from(PROJECTS))
        claims.append(Claim(project, start, stop, parent, 0))
    return merged(agreeing(claims))


def ancestors(parents: Memberships, project: str, at: int) -> list[str]:
    """The projects above one at an instant, by climbing; it ends with one that was there."""
    found = [project]
    while True:
        (parent,) = (p for start, stop, p in parents.of(found[-1]) if start <= at < stop)
        if not parent:
            return found
        found.append(parent)
        if parent in found[:-1]:
            return found


@settings(max_examples=examples(100))
@given(some_parents())
def test_circles_are_found_where_a_climb_comes_back(
    spans: dict[str, list[tuple[int, int, str]]],
) -> None:
    parents = Memberships("project", spans)
    found = list(wrong_climbs(parents, spans))
    assert all(each.is_circle for each in found)
    for at in INSTANTS:
        circles = set()
        for project in PROJECTS:
            path = ancestors(parents, project, at)
            if len(path) > 1 and path[-1] == project:
                circles.add(frozenset(path))
        climbs = [frozenset(each.path) for each in found if each.start <= at < each.stop]
        assert sorted(map(sorted, climbs)) == sorted(map(sorted, circles))


@settings(max_examples=examples(100))
@given(some_parents())
@example({"a": [(0, 3, "b"), (3, 5, "c")], "b": [(0, 5, "d")], "c": [(0, 5, "d")]})
def test_the_root_is_the_end_of_the_climb(spans: dict[str, list[tuple[int, int, str]]]) -> None:
    parents = Memberships("project", spans)
    assume(not list(wrong_climbs(parents, spans)))
    roots = Roots(parents)
    assert roots.kind == "project"
    for project in PROJECTS:
        found = roots.of(project)
        assert (found[0][0], found[-1][1]) == (LOWEST, OPEN)
        assert all(one[1] == other[0] and one[2] != other[2] for one, other in pairwise(found))
        for at in INSTANTS:
            (root,) = (value for start, stop, value in found if start <= at < stop)
            assert root == ancestors(parents, project, at)[-1]


def chain(length: int) -> str:
    """A file in which so many projects stand above the first."""
    return "project,parent\n" + "".join(f"p{n},p{n + 1}\n" for n in range(length))


@on_sqlite
def test_a_tree_has_a_height_that_can_be_climbed(engine: Engine) -> None:
    accounting = some_site(engine)
    accounting.import_attributes(chain(DEEPEST_TREE))
    with engine.connect() as connection:
        roots = stored_attributes.load(connection, 1, "root")
    assert roots.of("p0") == [(LOWEST, OPEN, f"p{DEEPEST_TREE}")]
    with pytest.raises(BadFile, match="more than 100 projects are above 'p0' at all times; 100"):
        accounting.import_attributes(chain(DEEPEST_TREE + 1))


# -- reading a file ---------------------------------------------------------------------------


def test_lines_are_read_as_they_are_meant() -> None:
    file = read(
        "user,laboratory,team,valid_from,valid_to\n"
        "bob,LIG,,,2023-11-14\n"
        '"O\'Brien, ""x""",LJK,DATA,2023-11-14T12:00,1800000000\n',
        "people.csv",
        UTC,
    )
    assert file.kind == "user"
    quoted = 'O\'Brien, "x"'
    assert file.claims == {
        "laboratory": [
            Claim("bob", LOWEST, T0, "LIG", 2),
            Claim(quoted, T0 + 12 * HOUR, 1_800_000_000, "LJK", 3),
        ],
        "team": [Claim(quoted, T0 + 12 * HOUR, 1_800_000_000, "DATA", 3)],
    }


@pytest.mark.parametrize(
    "changed",
    [
        MOVED.encode(),
        b"\xef\xbb\xbf" + MOVED.encode(),
        "\ufeff" + MOVED,
        MOVED.replace("\n", "\r\n"),
        MOVED.replace("\n", "\r"),
        MOVED.replace(",", ";"),
        MOVED.removesuffix("\n"),
        MOVED.splitlines(),
        MOVED.splitlines(keepends=True),
        # Its repr would be another in every process.
        pytest.param(iter(MOVED.splitlines()), id="iterator"),
        "\n".join('"' + line.replace(",", '","') + '"' for line in MOVED.splitlines()),
    ],
    ids=repr,
)
def test_what_spreadsheets_make_of_a_file_is_the_same_file(changed: str) -> None:
    assert read(changed, "x", UTC).claims == read(MOVED, "x", UTC).claims


def test_lines_in_which_nothing_is_said_are_no_mistakes() -> None:
    spaced = MOVED.replace("alice", "\n,,,\n\nalice")
    found = read("\n" + spaced, "x", UTC).claims["laboratory"]
    expected = read(MOVED, "x", UTC).claims["laboratory"]
    assert [(c.name, c.value) for c in found] == [(c.name, c.value) for c in expected]
    assert [c.line for c in found] == [3, 4, 8]


def test_a_semicolon_or_a_comma_within_a_name_needs_no_thought() -> None:
    assert read("user,laboratory\na;b,c;d\n", "x", UTC).claims["laboratory"][0].name == "a;b"
    assert read("user;laboratory\na,b;c,d\n", "x", UTC).claims["laboratory"][0].value == "c,d"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", "is empty; a first line like user,laboratory,valid_from,valid_to was expected"),
        ("\n\r\n", "is empty"),
        ("name,laboratory\n", "the first column must be user or project, not 'name'"),
        ("laboratory,user\n", "the first column must be user or project, not 'laboratory'"),
        ("\0\0\n", r"the first column must be user or project, not '\x00\x00'"),
        ("user\n", "there is no column of an attribute beside user"),
        ("user,valid_from\n", "there is no column of an attribute beside user, valid_from"),
        ("user,team,team\n", "column 'team' is there 2 times"),
        ("user,team,valid_to,valid_to\n", "column 'valid_to' is there 2 times"),
        ("user,Team\n", "column 'Team': the name of an attribute is lower-case letters"),
        ("user, team\n", "column ' team': the name of an attribute is lower-case letters"),
        ("user,team,\n", "column '': the name of an attribute is lower-case letters"),
        (f"user,{'t' * 64}\n", "and _, at most 63"),
        ("user,project\n", "column project: the name has a meaning of its own"),
        ("user,root\n", "column root: the name has a meaning of its own"),
        ("user,opening_used\n", "column opening_used: the name has a meaning of its own"),
        ("user,team;x\n", "column 'team;x': the name of an attribute"),
        ("user,adjustedly\n", "column adjustedly: the name has a meaning of its own"),
        ("user,parent\n", "column parent: only projects have parents"),
        ("user,team\nbob\n", "line 2 has 1 cells; 2 were expected"),
        ("user,team\nbob,a,b\n", "line 2 has 3 cells; 2 were expected"),
        ("user,team\n,a\n", "line 2, column user: a name was expected"),
        ("user,team\n" + "b" * 256 + ",a\n", "has 256 characters; 255 at most"),
        ("user,team\nbob," + "é" * 256 + "\n", "line 2, column team: 'ééé"),
        ("user,team\nb\0b,a\n", r"column user: 'b\x00b' holds a character that cannot be printed"),
        ("user,team\nb\udc80b,a\n", r"'b\udc80b' holds a character that cannot be printed"),
        ('user,team\nbob,"a\nb"\n', r"line 2, column team: 'a\nb' holds a character"),
        ('user,team\nx,y\n"bob,a\nc,d\n', "line 3: unexpected end of data; is a quotation mark"),
        ('user,team\n"bob"x,a\n', "line 2: ',' expected after '\"'"),
        ("user,team\n" + "x" * 200_000 + ",a\n", "line 2: field larger than field limit"),
        ("user,team,valid_to\nbob,a,soon\n", "column valid_to: 'soon' is no time; expected a date"),
        ("user,team,valid_to\nbob,a,01/02/2026\n", "'01/02/2026' is no time; expected a date"),
        ("user,team,valid_to\nbob,a,20260201\n", "20260201 is a date or a number of seconds"),
        ("user,team,valid_to\nbob,a,2026\n", "2026 is a date or a number of seconds"),
        (f"user,team,valid_to\nbob,a,{2**55}\n", "'36028797018963968' is beyond any calendar"),
        (f"user,team,valid_to\nbob,a,{-(2**55)}\n", "is beyond any calendar"),
        (f"user,team,valid_to\nbob,a,{2**70}\n", "is beyond any calendar"),
        ("user,team,valid_to\nbob,a," + "9" * 9000 + "\n", "is beyond any calendar"),
        (
            "user,team,valid_from,valid_to\nbob,a,2026-02-01,2026-02-01\n",
            "line 2, column valid_to: '2026-02-01' is not after valid_from, '2026-02-01'",
        ),
        (b"user,team\nbob,\xe9\n", "line 2 holds the byte 0xe9, which is not UTF-8"),
        ("user,team\n".encode("utf-16"), "line 1 holds the byte 0xff, which is not UTF-8"),
        (b"x" * (MOST_BYTES + 1), "is larger than 32 MiB"),
    ],
)
def test_a_mistake_is_one_clear_error(text: str | bytes, expected: str) -> None:
    message = refused(text)
    assert expected in message
    assert message.isprintable()
    assert len(message) < 400


def test_all_mistakes_are_told_at_once() -> None:
    lines = ["user,team,valid_to", ",a,", "bob,a,soon", "bob,a"]
    message = refused("\n".join(lines))
    assert message == (
        "people.csv: 3 mistakes, nothing was imported:\n"
        "  line 2, column user: a name was expected\n"
        "  line 3, column valid_to: 'soon' is no time; expected a date like 2026-03-01, a time "
        "like 2026-03-01T12:00 (UTC), or epoch seconds\n"
        "  line 4 has 2 cells; 3 were expected"
    )
    many = refused("user,team\n" + ",a\n" * 999)
    assert many.startswith("people.csv: 999 mistakes, nothing was imported:\n")
    assert many.endswith("and 979 more")
    assert len(many.splitlines()) == 22
    assert "1000 mistakes or more, nothing" in refused("user,team\n" + ",a\n" * 1001)


@given(
    st.integers(-BEYOND + 1, BEYOND - 1)
    | st.integers(-(2**36), 2**38)
    | st.integers(-800_000, 2_900_000).map(lambda day: day * DAY)
)
@example(-62_135_596_800)
# In Paris it is 02:30 twice that night, and in São Paulo there is no midnight.
@example(1_792_888_200)
@example(1_792_891_800)
@example(1_541_300_400)
@example(253_402_300_799)
def test_a_time_is_written_so_that_the_same_is_read(at: int) -> None:
    for tz in (UTC, zone("Europe/Paris"), zone("America/Sao_Paulo")):
        cell = time_text(at, tz)
        assert moment(cell, tz) == at
        (claim,) = read(f"user,team,valid_from\nbob,a,{cell}\n", "x", tz).claims["team"]
        assert claim.start == at


NAME_TEXTS = st.sampled_from(PRINTABLE) | st.text(min_size=1, max_size=9).filter(str.isprintable)


@st.composite
def some_entries(draw: st.DrawFn) -> list[Attribute]:
    """The entries of an attribute, in the normal form."""
    times = st.integers(-BEYOND + 1, BEYOND - 1) | st.sampled_from([LOWEST, OPEN, 0, T0, T0 + 1])
    claims = []
    for line in range(draw(st.integers(1, 6))):
        start, stop = sorted(draw(st.lists(times, min_size=2, max_size=2, unique=True)))
        claims.append(Claim(draw(NAME_TEXTS), start, stop, draw(NAME_TEXTS), line))
    return [
        Attribute(
            attribute="team",
            kind="user",
            name=name,
            valid_from=None if start == LOWEST else start,
            valid_to=None if stop == OPEN else stop,
            value=value,
        )
        for name, spans in sorted(merged(agreeing(claims)).items())
        for start, stop, value in spans
    ]


@settings(max_examples=examples(50))
@given(some_entries())
def test_what_is_written_is_read_as_the_same(entries: list[Attribute]) -> None:
    file = read(written(entries, UTC), "x", UTC)
    assert file.kind == "user"
    spans = merged(file.claims["team"])
    assert [
        (name, None if start == LOWEST else start, None if stop == OPEN else stop, value)
        for name, some in sorted(spans.items())
        for start, stop, value in some
    ] == as_tuples(entries)


# -- importing --------------------------------------------------------------------------------


def test_a_file_is_recorded_and_given_back(engine: Engine) -> None:
    accounting = some_site(engine)
    report = accounting.import_attributes(MOVED, source="people.csv")
    assert (report.kind, report.attributes) == ("user", ("laboratory",))
    assert (report.names, report.entries) == (2, 3)
    assert (report.added, report.removed, report.changed) == (3, 0, 0)
    assert report.notes == ()
    found = accounting.attributes("laboratory")
    assert as_tuples(found) == [
        ("alice", None, None, "LIG"),
        ("bob", None, T0, "LIG"),
        ("bob", T0, None, "LJK"),
    ]
    assert {(each.attribute, each.kind) for each in found} == {("laboratory", "user")}
    assert accounting.attributes() == found


@settings(
    max_examples=examples(6),
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(entries=some_entries())
def test_an_import_of_what_was_exported_changes_nothing(
    engine: Engine, entries: list[Attribute]
) -> None:
    accounting = opened(engine)
    with engine.connect() as connection:
        there = connection.execute(select(schema.sites.c.name)).first()
    if there is None:
        some_site(engine)
    accounting.import_attributes(written(entries, UTC))
    stored = rows_of(engine)
    assert accounting.attributes("team") == entries
    again = accounting.import_attributes(written(accounting.attributes("team"), UTC))
    assert (again.added, again.removed, again.changed) == (0, 0, 0)
    assert (again.entries, rows_of(engine)) == (len(entries), stored)


def test_names_that_are_nearly_equal_stay_different(engine: Engine) -> None:
    accounting = some_site(engine)
    file = io.StringIO()
    writer = csv.writer(file)
    writer.writerow(["user", "team"])
    writer.writerows([name, f"{name[:200]} {number}"] for number, name in enumerate(PRINTABLE))
    report = accounting.import_attributes(file.getvalue())
    assert report.entries == len(PRINTABLE)
    with engine.connect() as connection:
        members = stored_attributes.load(connection, 1, "team")
    for number, name in enumerate(PRINTABLE):
        assert members.of(name) == [(LOWEST, OPEN, f"{name[:200]} {number}")]
    assert members.of("BoB") == [(LOWEST, OPEN, "")]


def test_a_file_is_the_truth_about_its_attributes_and_no_others(engine: Engine) -> None:
    accounting = some_site(engine)
    accounting.import_attributes(MOVED)
    accounting.import_attributes("user,team\nbob,DATA\n")
    accounting.import_attributes("project,funding\nphysics,ANR\n")
    before = accounting.attributes("team") + accounting.attributes("funding")
    report = accounting.import_attributes(
        "user,laboratory,valid_from\nbob,LIG,\ncarol,LJK,2023-11-14\n"
    )
    assert (report.added, report.removed, report.changed) == (1, 2, 1)
    assert as_tuples(accounting.attributes("laboratory")) == [
        ("bob", None, None, "LIG"),
        ("carol", T0, None, "LJK"),
    ]
    assert accounting.attributes("team") + accounting.attributes("funding") == before


def test_one_file_may_have_many_attributes_and_cells_without_a_value(engine: Engine) -> None:
    accounting = some_site(engine)
    accounting.import_attributes("user,team,laboratory\nbob,DATA,\nbob,,LIG\nalice,,LIG\n")
    assert as_tuples(accounting.attributes("team")) == [("bob", None, None, "DATA")]
    assert as_tuples(accounting.attributes("laboratory")) == [
        ("alice", None, None, "LIG"),
        ("bob", None, None, "LIG"),
    ]


@on_sqlite
def test_lines_that_say_the_same_are_one_entry(engine: Engine) -> None:
    accounting = some_site(engine)
    report = accounting.import_attributes(
        "user,team,valid_from,valid_to\n"
        "bob,DATA,2023-11-14,2023-11-20\n"
        "bob,DATA,2023-11-14,2023-11-20\n"
        "bob,DATA,2023-11-18,2023-11-25\n"
        "bob,DATA,2023-11-25,2023-11-26\n"
    )
    assert report.entries == 1
    assert as_tuples(accounting.attributes()) == [("bob", T0, T0 + 12 * DAY, "DATA")]


@on_sqlite
def test_lines_that_contradict_each_other_are_named(engine: Engine) -> None:
    accounting = some_site(engine)
    accounting.import_attributes(MOVED)
    before = rows_of(engine)
    with pytest.raises(BadFile) as error:
        accounting.import_attributes(
            "user,laboratory,valid_from,valid_to\n"
            "bob,LJK,2023-11-13,\n"
            "bob,LIG,,2023-11-14\n"
            "alice,LIG,,\n"
            "alice,LPSC,,\n",
            source="people.csv",
        )
    assert str(error.value) == (
        "people.csv: 2 mistakes, nothing was imported:\n"
        "  lines 4 and 5: user 'alice' has laboratory 'LIG' and 'LPSC' at all times; one at a time "
        "was expected\n"
        "  lines 2 and 3: user 'bob' has laboratory 'LJK' and 'LIG' from 2023-11-13 until "
        "2023-11-14; one at a time was expected"
    )
    assert rows_of(engine) == before


@on_sqlite
def test_a_circle_of_parents_is_named_with_its_time(engine: Engine) -> None:
    accounting = some_site(engine)
    lines = "project,parent,valid_from,valid_to\na,b,2023-11-14,\nb,c,,\nc,a,,2023-11-15\nd,a,,\n"
    with pytest.raises(BadFile, match=r"'a' is above itself from 2023-11-14 until 2023-11-15") as e:
        accounting.import_attributes(lines)
    assert "'a' in 'b' in 'c' in 'a'" in str(e.value)
    assert str(e.value).count("above itself") == 1
    accounting.import_attributes(lines.replace("2023-11-15", "2023-11-14"))
    assert len(accounting.attributes("parent")) == 4
    with pytest.raises(BadFile, match="'a' is above itself at all times: 'a' in 'a'"):
        accounting.import_attributes("project,parent\na,a\n")


@on_sqlite
def test_a_file_without_a_line_empties_its_attribute_and_says_so(engine: Engine) -> None:
    accounting = some_site(engine)
    accounting.import_attributes(MOVED)
    report = accounting.import_attributes("user,laboratory\n")
    assert (report.entries, report.removed) == (0, 3)
    assert "laboratory: nobody is in the file; all that was recorded of it goes" in report.notes
    assert rows_of(engine) == []


@on_sqlite
def test_an_attribute_is_of_users_or_of_projects(engine: Engine) -> None:
    accounting = some_site(engine)
    accounting.import_attributes(MOVED)
    with pytest.raises(BadFile, match="column laboratory: users have it, and this file is of proj"):
        accounting.import_attributes("project,laboratory\nphysics,LIG\n")
    assert accounting.remove_attribute("laboratory") == 3
    accounting.import_attributes("project,laboratory\nphysics,LIG\n")
    assert {each.kind for each in accounting.attributes("laboratory")} == {"project"}


@on_sqlite
def test_the_property_of_the_site_is_no_attribute(engine: Engine) -> None:
    SmallOar(engine).add_job()
    accounting = opened(engine, 'dimension = "power"\n')
    accounting.catch_up()
    with pytest.raises(BadFile, match="column power: usage is grouped by OAR's property"):
        accounting.import_attributes("user,power\nbob,LIG\n")


def test_what_may_be_meant_otherwise_is_noted(engine: Engine) -> None:
    accounting = some_site(engine, "alice", "bob", "chen", "dora", "emil", "finn", "gina")
    report = accounting.import_attributes(
        "user,laboratory,valid_from,valid_to\n"
        "alice,LIG,,2023-11-14\n"
        "alice,LJK,2023-11-15,\n"
        "Bob,LIG,,2023-11-14T12:00\n"
        "gina, LIG,,\n"
    )
    assert report.notes == (
        "laboratory: 1 gap between entries: 'alice' from 2023-11-14 until 2023-11-15",
        "laboratory: 5 of 7 recorded users without an entry: 'bob', 'chen', 'dora', 'emil', 'finn'",
        "laboratory: 1 change within a window of 86400 s, all of which karma counts for the one "
        "before: 'Bob' 2023-11-14T12:00:00",
        "laboratory: 1 name with a blank at the beginning or end, which is a part of it: ' LIG'",
        "1 of 3 users of the file without a recorded job, or mistyped: 'Bob'",
    )
    report = accounting.import_attributes("user,team\nalice,DATA\n")
    assert report.notes == (
        "team: 6 of 7 recorded users without an entry: 'bob', 'chen', 'dora', 'emil', 'finn' "
        "and 1 more",
    )


@on_sqlite
def test_the_tops_of_the_tree_need_neither_parent_nor_jobs(engine: Engine) -> None:
    oar = SmallOar(engine)
    for project in ("physics", "chemistry"):
        oar.add_job(project=project)
    accounting = opened(engine)
    accounting.catch_up()
    report = accounting.import_attributes("project,parent\nphysics,science\nscience,all\nart,all\n")
    assert report.notes == (
        "1 of 3 projects of the file without a recorded job, or mistyped: 'art'",
    )


def test_a_dry_run_says_the_same_and_writes_nothing(engine: Engine) -> None:
    accounting = some_site(engine)
    accounting.import_attributes(MOVED)
    before, passes = rows_of(engine), passes_of(engine)
    statements: list[str] = []
    event.listen(engine, "before_cursor_execute", lambda *a: statements.append(a[2]))
    other = "user,laboratory\nbob,LIG\nchen,LIG\n"
    planned = accounting.import_attributes(other, dry_run=True)
    assert [s for s in statements if s.startswith(("INSERT", "DELETE", "UPDATE", "COPY"))] == []
    assert (planned.dry_run, rows_of(engine), passes_of(engine)) == (True, before, passes)
    done = accounting.import_attributes(other)
    assert not done.dry_run
    assert (planned.added, planned.removed, planned.changed) == (1, 2, 1)
    assert (done.added, done.removed, done.changed) == (1, 2, 1)
    assert planned.notes == done.notes
    with pytest.raises(BadFile, match="above itself"):
        accounting.import_attributes("project,parent\na,a\n", dry_run=True)


def passes_of(engine: Engine) -> list[tuple[object, ...]]:
    """The passes that the journal has of attributes."""
    table = schema.passes.c
    query = select(table.outcome, table.done, table.changed, table.message).where(
        table.verb == "attributes"
    )
    with engine.connect() as connection:
        return list(map(tuple, connection.execute(query.order_by(table.pass_id))))


@on_sqlite
def test_an_import_leaves_a_row_in_the_journal_without_a_name(engine: Engine) -> None:
    accounting = some_site(engine)
    accounting.import_attributes(MOVED)
    with pytest.raises(BadFile):
        accounting.import_attributes("user,laboratory\nbob,LIG\nbob,LJK\n")
    accounting.remove_attribute("laboratory")
    assert passes_of(engine) == [
        ("done", 3, 3, ""),
        ("failed", 0, 0, "BadFile"),
        ("done", 0, 3, ""),
    ]


def test_sites_have_attributes_of_their_own(engine: Engine) -> None:
    first = some_site(engine)
    second = opened(engine, site="second")
    second.catch_up()
    first.import_attributes(MOVED)
    second.import_attributes("project,laboratory\nphysics,LPSC\n")
    assert len(first.attributes()) == 3
    assert as_tuples(second.attributes()) == [("physics", None, None, "LPSC")]
    second.remove_attribute("laboratory")
    assert (len(first.attributes()), second.attributes()) == (3, [])


@on_sqlite
def test_what_is_not_there_is_named(engine: Engine) -> None:
    SmallOar(engine)
    accounting = opened(engine)
    for dry_run in (False, True):
        with pytest.raises(UnknownName, match="site 'oar' is not recorded here"):
            accounting.import_attributes(MOVED, dry_run=dry_run)
    accounting.catch_up()
    for unknown in (accounting.attributes, accounting.remove_attribute):
        with pytest.raises(UnknownName, match="unknown attribute 'team'; imported are none"):
            unknown("team")
    accounting.import_attributes(MOVED)
    with engine.connect() as connection:
        assert stored_attributes.known(connection, 1) == {"laboratory": "user"}
        with pytest.raises(UnknownName, match="unknown attribute 'team'; imported are laboratory"):
            stored_attributes.load(connection, 1, "team")
        with pytest.raises(UnknownName, match="no parents are imported"):
            stored_attributes.load(connection, 1, "root")
        for near in ("Laboratory", "laboratory ", "laboratór"):
            with pytest.raises(UnknownName):
                stored_attributes.load(connection, 1, near)


@on_sqlite
def test_tables_that_are_missing_name_the_way_out(engine: Engine) -> None:
    accounting = Accounting.open(engine=engine)
    for dry_run in (False, True):
        with pytest.raises(SchemaError, match="oar-accounting init"):
            accounting.import_attributes(MOVED, dry_run=dry_run)


# -- what it is for ---------------------------------------------------------------------------


def test_usage_goes_where_the_user_was_and_nowhere_is_a_group(engine: Engine) -> None:
    oar = SmallOar(engine)
    for user in ("bob", "alice", "carol"):
        oar.add_job(user=user, cores=1, start=T0 - HOUR, stop=T0 + 2 * HOUR)
    accounting = opened(engine)
    accounting.catch_up()
    accounting.import_attributes(MOVED)
    rows = accounting.usage(("laboratory",), ("resource",)).rows
    assert {row.group[0]: row.used for row in rows} == {
        "": 3 * HOUR,
        "LIG": (3 + 1) * HOUR,
        "LJK": 2 * HOUR,
    }


def test_usage_goes_to_the_top_of_the_tree(engine: Engine) -> None:
    oar = SmallOar(engine)
    for project in ("physics", "physics-2", "art"):
        oar.add_job(project=project, cores=1, start=T0 - HOUR, stop=T0 + 2 * HOUR)
    accounting = opened(engine)
    accounting.catch_up()
    accounting.import_attributes(
        "project,parent,valid_to\nphysics,science,\nscience,university,2023-11-14\n"
    )
    rows = accounting.usage(("root",), ("resource",)).rows
    assert {row.group[0]: row.used for row in rows} == {
        "art": 3 * HOUR,
        "physics-2": 3 * HOUR,
        "science": 2 * HOUR,
        "university": HOUR,
    }


# -- forgotten users --------------------------------------------------------------------------


def test_a_forgotten_user_is_forgotten_here_too(engine: Engine) -> None:
    accounting = some_site(engine, "alice", "bob")
    accounting.import_attributes("user,laboratory,adviser\nalice,LIG,bob\nbob,LJK,alice\n")
    accounting.import_attributes("project,leader\nalice,alice\nphysics,Alice\n")
    pseudonym = accounting.forget_user("alice")
    assert places_of(engine, "alice") == set()
    assert as_tuples(accounting.attributes()) == [
        ("bob", None, None, pseudonym),
        (pseudonym, None, None, "bob"),
        ("bob", None, None, "LJK"),
        (pseudonym, None, None, "LIG"),
        (pseudonym, None, None, pseudonym),
        ("physics", None, None, "Alice"),
    ]


def test_a_file_that_still_has_the_name_is_stored_under_the_pseudonym(engine: Engine) -> None:
    accounting = some_site(engine, "alice", "bob")
    pseudonym = accounting.forget_user("alice")
    text = "user,laboratory,adviser,valid_from\nalice,LIG,bob,2023-11-14T12:00\nbob,LJK,alice,\n"
    for dry_run in (True, False):
        report = accounting.import_attributes(text, dry_run=dry_run)
        assert "alice" not in repr(report)
        assert f"'{pseudonym}' 2023-11-14T12:00:00" in report.notes[0]
    assert places_of(engine, "alice") == set()
    assert {each.name for each in accounting.attributes()} == {"bob", pseudonym}
    exported = written(accounting.attributes("laboratory"), UTC)
    contradicted = exported + "alice,LJK,,\n"
    with pytest.raises(BadFile, match=f"user '{pseudonym}' has laboratory") as error:
        accounting.import_attributes(contradicted)
    assert "alice" not in str(error.value)
    assert places_of(engine, "alice") == set()


def test_who_has_no_job_but_an_entry_can_be_forgotten(engine: Engine) -> None:
    accounting = some_site(engine, "bob")
    accounting.import_attributes("user,laboratory\nalice,LIG\n")
    other = opened(engine, site="other")
    other.catch_up()
    other.import_attributes("user,laboratory\nalice,LIG\n")
    for unknown in ("Alice", "alice ", "", "a\udc80"):
        with pytest.raises(UnknownName, match="nothing is recorded of a user"):
            accounting.forget_user(unknown)
    pseudonym = accounting.forget_user("alice")
    assert [each.name for each in accounting.attributes()] == [pseudonym]
    assert [each.name for each in other.attributes()] == ["alice"]
    accounting.import_attributes("user,laboratory\nalice,LIG\n")
    assert [each.name for each in accounting.attributes()] == [pseudonym]


# -- the commands -----------------------------------------------------------------------------


def from_stdin(text: bytes, *arguments: str) -> Done:
    """Run the command as a process of its own that reads this."""
    done = subprocess.run(
        [sys.executable, "-m", "oar_accounting.cli", *arguments],
        input=text,
        capture_output=True,
        check=False,
        timeout=60,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    return Done(done.returncode, done.stdout.decode(), done.stderr.decode())


def notes_of(done: Done) -> list[str]:
    """What is noted, beside the note on the password in the --url of the tests."""
    return [line for line in done.stderr.splitlines() if "password of --url" not in line]


@pytest.mark.slow
def test_a_file_or_standard_input_is_imported(
    database: Database, engine: Engine, tmp_path: Path
) -> None:
    some_site(engine, "alice", "bob", "zoé")
    file = tmp_path / "people.csv"
    file.write_text(MOVED, encoding="utf-8")
    command = ("--url", database.url, "attributes")
    dry = process(*command, "import", str(file), "--dry-run")
    assert dry.stdout == (
        "laboratory: 3 entries of 2 users; 3 added, 0 removed, 0 changed; times in UTC; nothing "
        "was written\n"
    )
    done = from_stdin(MOVED.encode(), *command, "import", "-")
    assert (done.returncode, done.stdout) == (
        0,
        "laboratory: 3 entries of 2 users; 3 added, 0 removed, 0 changed; times in UTC\n",
    )
    assert (
        notes_of(done)
        == ["note: laboratory: 1 of 3 recorded users without an entry: 'zoé'"]
        == notes_of(dry)
    )
    exported = run(*command, "show", "laboratory", "--csv").stdout
    assert exported == (
        "user,laboratory,valid_from,valid_to\n"
        "alice,LIG,,\nbob,LIG,,2023-11-14\nbob,LJK,2023-11-14,\n"
    )
    again = from_stdin(exported.encode(), *command, "import", "-")
    assert "0 added, 0 removed, 0 changed" in again.stdout


@on_sqlite
def test_attributes_are_shown(database: Database, engine: Engine) -> None:
    accounting = some_site(engine, "alice", "bob")
    command = ("--url", database.url, "attributes")
    assert run(*command, "show").stdout == (
        "no attributes are imported: oar-accounting attributes import FILE\n"
    )
    accounting.import_attributes(MOVED)
    accounting.import_attributes("project,parent\nphysics,science\n")
    shown = [line.split() for line in run(*command, "show").stdout.splitlines()]
    assert shown == [
        ["attribute", "of", "names", "values", "entries"],
        ["laboratory", "users", "2", "2", "3"],
        ["parent", "projects", "1", "1", "1"],
    ]
    shown = [line.split() for line in run(*command, "show", "laboratory").stdout.splitlines()]
    assert shown == [
        ["user", "laboratory", "valid_from", "valid_to"],
        ["alice", "LIG"],
        ["bob", "LIG", "2023-11-14"],
        ["bob", "LJK", "2023-11-14"],
    ]
    everything = json.loads(run(*command, "show", "--json").stdout)
    assert len(everything) == 4
    assert everything[1] == {
        "attribute": "laboratory",
        "kind": "user",
        "name": "bob",
        "valid_from": None,
        "valid_to": T0,
        "value": "LIG",
    }
    assert json.loads(run(*command, "show", "laboratory", "--json").stdout) == everything[:3]
    removed = run(*command, "remove", "laboratory")
    assert removed.stdout == "laboratory: 3 entries were removed\n"
    assert json.loads(run(*command, "show", "--json").stdout) == everything[3:]


@on_sqlite
def test_a_wrong_word_is_one_clear_line(database: Database, engine: Engine, tmp_path: Path) -> None:
    some_site(engine)
    wrong = tmp_path / "wrong\x1b[31m.csv"
    wrong.write_bytes(b"user,laboratory\nb\x1bob,\xc3\xa9\n")
    for arguments, expected in (
        (["import", "/no/such.csv"], "/no/such.csv: cannot be read: No such file"),
        (["import", str(tmp_path)], "cannot be read: Is a directory"),
        (["import", str(wrong)], r"column user: 'b\x1bob' holds a character"),
        (["show", "team"], "unknown attribute 'team'; imported are none"),
        (["remove", "team"], "unknown attribute 'team'; imported are none"),
    ):
        done = run("--url", database.url, "attributes", *arguments)
        assert expected in said(done)
        assert (done.returncode, done.stdout) == (2, "")
        assert "\x1b" not in done.stderr
    for arguments in (["show", "--csv"], ["import"], ["remove"], ["export"]):
        done = run("--url", database.url, "attributes", *arguments)
        assert done.returncode == 2
        assert "Error:" in done.stderr


@on_sqlite
def test_standard_input_that_cannot_be_read_is_one_clear_line(
    database: Database, engine: Engine
) -> None:
    some_site(engine)
    command = f"{sys.executable} -m oar_accounting.cli --url {database.url} attributes import -"
    for given_by, expected in (
        ("<&-", "it is closed"),
        ("< /dev/null", "is empty"),
    ):
        done = subprocess.run(
            ["bash", "-c", f"{command} {given_by}"],
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
        )
        assert done.returncode == 2
        assert "Traceback" not in done.stderr
        assert done.stderr.startswith("oar-accounting: standard input: ")
        assert expected in done.stderr


def test_every_command_has_help_with_an_example_and_exit_codes() -> None:
    for command in ([], ["import"], ["show"], ["remove"]):
        shown = run("attributes", *command, "--help")
        assert shown.returncode == 0
        assert "Example: oar-accounting attributes" in shown.stdout
        assert "Exit codes:" in shown.stdout

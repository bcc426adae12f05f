"""OAR's own karma: its settings, its sums and its formula, against the real Perl of its scheduler.

Where OAR 2.5.9 is installed, what its scheduler does to get from oar.conf and the database to the
karma of a job is run on databases of the tests, and must give the same float, bit for bit.
"""

import math
import struct
import subprocess
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from itertools import product
from pathlib import Path

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from sqlalchemy import Engine, create_engine, insert, text
from sqlalchemy.engine import make_url

from oar_accounting import OarSchemaError, SettingsError
from oar_accounting.core.columns import ints
from oar_accounting.database import dialects
from oar_accounting.karma.oar_sums import read_pools, read_sums, site_rule, stock_rule
from oar_accounting.karma.policies.oar import (
    DEFAULTS,
    OAR_TERM_NAMES,
    QueueSums,
    StockParts,
    StockRows,
    StockRule,
    bounds,
    evaluate,
    sums_of,
)
from oar_accounting.oar.oar_tables import accounting
from oar_accounting.settings.load import Settings
from oar_accounting.settings.oar_conf import read_oar_conf
from tests.servers import Server, fresh_database
from tests.small_oar import DAY, T0
from tests.stock_command import COMMAND, create_accounting, missing, write_conf

KEY = "SCHEDULER_FAIRSHARING_"
SCHEDULERS = COMMAND.parent / "schedulers"
POLICIES = [
    f"oar_sched_gantt_with_timesharing_and_fairsharing{and_what}"
    for and_what in ("", "_and_placeholder", "_and_quotas")
]

# -- the formula ------------------------------------------------------------------------------


def one(rule: StockRule, sums: QueueSums, user: str = "bob", project: str = "default") -> float:
    """The karma of a job in a queue with these sums."""
    (karma,) = evaluate(rule, {"default": sums}, [user], [project], ["default"]).karma
    return float(karma)


#: As an OAR 2.5.9 showed it: 1.815.
SHOWN = QueueSums(
    used=699, asked=5876, users_used={"bob": 388, "al": 311}, users_asked={"bob": 4140, "al": 1736}
)


def test_the_karma_that_oar_has_shown() -> None:
    assert f"{one(StockRule(), SHOWN):.3f}" == "1.815"
    assert one(StockRule(), SHOWN) == 2 * (388 / 699) + 4140 / 5876


def test_every_part_of_it_is_told() -> None:
    rule = StockRule(project=3, user_targets={"al": 40}, project_targets={"weather": 10})
    sums = {"default": replace(SHOWN, projects_used={"weather": 99})}
    parts = evaluate(rule, sums, ["bob", "al"], ["weather", "first"], ["default", "default"])
    assert parts.usage.tolist() == [[99, 0], [388, 311], [4140, 1736]]
    assert parts.total.tolist() == [[699, 699], [699, 699], [5876, 5876]]
    assert parts.target.tolist() == [[0.1, 0], [0, 0.4], [0, 0.4]]
    assert parts.coefficient.tolist() == [[3, 3], [2, 2], [1, 1]]
    assert np.array_equal(parts.share, parts.usage / parts.total)
    assert np.array_equal(parts.value, parts.coefficient * (parts.share - parts.target))
    assert np.allclose(parts.karma, parts.value.sum(axis=0))
    assert len(OAR_TERM_NAMES) == len(parts.value)


def test_default_is_the_project_of_that_name_and_no_default() -> None:
    rule = replace(DEFAULTS["oar2"], project=1)
    assert one(rule, QueueSums(), project="default") == -0.25
    assert one(rule, QueueSums(), project="first") == -0.75
    assert one(rule, QueueSums(), project="another") == 0
    assert one(rule, QueueSums(), user="oar", project="another") == -3


def test_a_queue_without_rows_leaves_the_targets() -> None:
    parts = evaluate(DEFAULTS["oar2"], {}, ["oar", "bob"], ["x", "x"], ["new", "new"])
    assert parts.total.tolist() == [[1, 1]] * 3
    assert parts.karma.tolist() == [-3, 0]


def test_a_part_of_a_sum_of_zero_is_nothing() -> None:
    """Where OAR divides by zero, and ends."""
    sums = QueueSums(used=0, asked=0, users_used={"bob": 0}, users_asked={"bob": 0})
    assert one(StockRule(user_targets={"bob": 50}), sums) == -1.5


def test_queues_know_nothing_of_each_other() -> None:
    sums = {"a": SHOWN, "b": replace(SHOWN, used=776)}
    parts = evaluate(StockRule(), sums, ["bob"] * 3, ["p"] * 3, ["a", "b", "c"])
    assert parts.karma.tolist() == [one(StockRule(), SHOWN), 1 + 4140 / 5876, 0]


def test_no_job_has_no_karma() -> None:
    parts = evaluate(StockRule(), {}, [], [], [])
    assert parts.karma.shape == (0,)
    assert parts.value.shape == (len(OAR_TERM_NAMES), 0)


def test_nothing_is_never_less_than_nothing() -> None:
    karma = one(StockRule(project=-1, user=-1, user_ask=-1), QueueSums(), project="another")
    assert math.copysign(1, karma) == 1


def plainly(rule: StockRule, sums: QueueSums, user: str, project: str) -> float:
    """The formula as OAR's scheduler has it."""
    note = rule.project * (
        sums.projects_used.get(project, 0) / sums.used - rule.project_targets.get(project, 0) / 100
    )
    note += rule.user * (
        sums.users_used.get(user, 0) / sums.used - rule.user_targets.get(user, 0) / 100
    )
    note += rule.user_ask * (
        sums.users_asked.get(user, 0) / sums.asked - rule.user_targets.get(user, 0) / 100
    )
    return note


USERS = ("alice", "bob", "l'eau", "zoé")
PROJECTS = ("default", "first", "météo")
amounts = st.integers(0, 2**50)
coefficients = st.sampled_from([0.0, 1.0, 2.0, -1.0, 0.1, 1e-9, 3.7])
percentages = st.floats(-200, 200).map(lambda value: round(value, 3))
rules = st.builds(
    StockRule,
    project_targets=st.dictionaries(st.sampled_from(PROJECTS), percentages),
    user_targets=st.dictionaries(st.sampled_from(USERS), percentages),
    project=coefficients,
    user=coefficients,
    user_ask=coefficients,
)
sums_of_queues = st.builds(
    QueueSums,
    used=st.integers(1, 2**52),
    asked=st.integers(1, 2**52),
    projects_used=st.dictionaries(st.sampled_from(PROJECTS), amounts),
    users_used=st.dictionaries(st.sampled_from(USERS), amounts),
    users_asked=st.dictionaries(st.sampled_from(USERS), amounts),
)
jobs = st.tuples(st.sampled_from(USERS), st.sampled_from(PROJECTS))


@given(rules, sums_of_queues, st.lists(jobs, min_size=1))
def test_karma_is_what_the_formula_gives_job_by_job(
    rule: StockRule, sums: QueueSums, jobs: list[tuple[str, str]]
) -> None:
    users, projects = zip(*jobs, strict=True)
    karma = evaluate(rule, {"q": sums}, users, projects, ["q"] * len(jobs)).karma
    assert karma.tolist() == [plainly(rule, sums, *job) for job in jobs]


# -- settings ---------------------------------------------------------------------------------


def test_without_settings_those_of_oar_hold() -> None:
    assert stock_rule({}, "oar.conf") == StockRule(
        window_rule="oar2",
        window=30 * DAY,
        project_targets={"first": 75, "default": 25},
        user_targets={"oar": 100},
        project=0,
        user=2,
        user_ask=1,
    )
    assert stock_rule({}, "oar.conf", "oar3") == StockRule(
        window_rule="oar3",
        window=30 * DAY,
        project_targets={"default": 21},
        user_targets={"default": 22},
        project=0,
        user=1,
        user_ask=1,
    )


CONF = f"""
# {KEY}COEF_USER=7
{KEY}WINDOW_SIZE=86400
{KEY}PROJECT_TARGETS="{{ first => 75, default => 25 }}"   # as OAR's comments have it
{KEY}USER_TARGETS='{{ "toto" => 75, titi => 10 }}'
{KEY}COEF_PROJECT="-0.5"
{KEY}COEF_USER_ASK = 3
{KEY}COEF_USER_ASK = 4
"""


def test_settings_are_read_from_oar_conf(tmp_path: Path) -> None:
    conf = tmp_path / "oar.conf"
    conf.write_text(CONF, encoding="utf-8")
    url = make_url("sqlite:///x")
    given = Settings(oar_url=url, url=url, oar_conf=str(conf))
    assert site_rule(given, "oar2") == StockRule(
        window=DAY,
        project_targets={"first": 75, "default": 25},
        user_targets={"toto": 75, "titi": 10},
        project=-0.5,
        user_ask=4,
    )
    conf.unlink()
    assert site_rule(given, "oar3") == DEFAULTS["oar3"]


@pytest.mark.parametrize(
    ("key", "value", "said"),
    [
        ("WINDOW_SIZE", "a month", "a whole number of seconds from 1 to 10000000000"),
        ("WINDOW_SIZE", "0", "a whole number of seconds"),
        ("WINDOW_SIZE", "1.5", "a whole number of seconds"),
        ("COEF_USER", "", "a number"),
        ("COEF_USER", "two", "a number"),
        ("COEF_PROJECT", "1e999", "a number"),
        ("COEF_USER_ASK", '"1"', "a number"),
        ("PROJECT_TARGETS", "", "names with percentages"),
        ("PROJECT_TARGETS", "{ first => 75", "column 14"),
        ("USER_TARGETS", "{ a => $x }", "column 8"),
    ],
)
def test_a_wrong_setting_is_named_with_file_and_key(key: str, value: str, said: str) -> None:
    with pytest.raises(SettingsError) as error:
        stock_rule({KEY + key: value}, "/etc/oar/oar.conf")
    assert str(error.value).startswith(f"/etc/oar/oar.conf: {KEY}{key} must be ")
    assert said in str(error.value)
    assert repr(value) in str(error.value)


def test_a_setting_in_another_encoding_is_named(tmp_path: Path) -> None:
    conf = tmp_path / "oar.conf"
    conf.write_bytes(f"{KEY}USER_TARGETS={{ 'zoé' => 1 }}\n".encode("latin-1"))
    with pytest.raises(SettingsError, match=f"{KEY}USER_TARGETS is not UTF-8 text"):
        stock_rule(read_oar_conf(conf), str(conf))
    conf.write_bytes(f"{KEY}USER_TARGETS={{ 'zoé' => 1 }}\n".encode())
    assert stock_rule(read_oar_conf(conf), str(conf)).user_targets == {"zoé": 1}


# -- which windows count ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("window_rule", "of_users", "now", "counted"),
    [
        ("oar2", False, 3 * DAY, (1, 2)),
        ("oar2", True, 3 * DAY + 1, (2, 3)),
        ("oar2", False, 4 * DAY - 1, (2, 3)),
        ("oar3", False, 3 * DAY, (1, 2)),
        ("oar3", False, 3 * DAY - 1, (1,)),
        ("oar3", True, 3 * DAY - 1, (1, 2)),
        ("oar3", True, 3 * DAY - 2, (1,)),
        ("oar3", False, 4 * DAY - 1, (2,)),
    ],
)
def test_windows_that_count(
    window_rule: str, of_users: bool, now: int, counted: tuple[int, ...]
) -> None:
    rule = replace(DEFAULTS[window_rule], window=2 * DAY)
    first, column, before = bounds(rule, now, of_users=of_users)
    last = DAY - 1 if column == "window_stop" else 0
    found = [day for day in range(6) if day * DAY >= first and day * DAY + last < before]
    assert tuple(found) == counted


# -- the sums in the database -----------------------------------------------------------------

Row = tuple[int, int, str, str, str, str, int]  # as in OAR's accounting
QUEUES = ("default", "besteffort", "night")
#: The names of which a database may take some for one.
ALIKE = ("bob", "Bob", "bob ", "alice", "zoé", "zoe")
ALIKE_PROJECTS = ("default", "Weather", "weather", "first")
PRIORITIES = {"default": 2, "night": 2, "besteffort": 0}


def table_rows(users: tuple[str, ...], projects: tuple[str, ...]) -> st.SearchStrategy[list[Row]]:
    """Rows of OAR's accounting, of which the database may take none for another."""
    key = st.tuples(
        st.integers(-4, 1).map(lambda day: T0 + day * DAY),
        st.just(0),
        st.sampled_from(users),
        st.sampled_from(projects),
        st.sampled_from(QUEUES),
        st.sampled_from(["ASKED", "USED"]),
        st.integers(1, 10**9),
    )

    def as_the_laxest_database(row: Row) -> tuple[object, ...]:
        fold = [name.lower().strip().replace("é", "e") for name in row[2:5]]
        return (row[0], *fold, row[5])

    return st.lists(key, unique_by=as_the_laxest_database, max_size=40).map(
        lambda rows: [(row[0], row[0] + DAY - 1, *row[2:]) for row in rows]
    )


#: Close to the bounds of windows, and within.
instants = st.tuples(
    st.integers(-2, 1), st.sampled_from([-2, -1, 0, 1, DAY // 2]), st.sampled_from([1, 2, 30])
).map(lambda each: (T0 + each[0] * DAY + each[1], each[2] * DAY))


@dataclass(frozen=True)
class Oar:
    """An OAR with an accounting of its own."""

    engine: Engine = field(repr=False)
    kind: str
    conf: Path

    def put(self, rows: list[Row]) -> None:
        """Let these be all rows of OAR's accounting."""
        names = accounting.c.keys()
        with self.engine.begin() as connection:
            connection.execute(accounting.delete())
            if rows:
                values = [dict(zip(names, row, strict=True)) for row in rows]
                connection.execute(insert(accounting), values)

    def sums(self, rule: StockRule, now: int) -> dict[str, QueueSums]:
        """What is read of every queue."""
        with dialects.reading(self.engine) as connection:
            return read_sums(connection, rule, now, QUEUES)


@pytest.fixture(scope="module")
def oar(server: Server, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Oar]:
    """Its tables are as OAR's own files create them, where these are installed."""
    with fresh_database(server) as database:
        engine = create_engine(database.url)
        with engine.begin() as connection:
            if server.kind == "sqlite" or missing(server.kind):
                accounting.create(connection)
            else:
                create_accounting(connection, server.kind)
            for statement in (
                "CREATE TABLE queues (queue_name VARCHAR(100), priority INT, state VARCHAR(9))",
                "CREATE TABLE jobs (job_id INT, job_user VARCHAR(255), project VARCHAR(255))",
                "INSERT INTO queues VALUES ('old', 2, 'notActive')",
            ):
                connection.exec_driver_sql(statement)
            for queue, priority in PRIORITIES.items():
                values: dict[str, object] = {"queue": queue, "priority": priority}
                into = "INSERT INTO queues VALUES (:queue, :priority, 'Active')"
                connection.execute(text(into), values)
            for number, (user, project) in enumerate(product(ALIKE, ALIKE_PROJECTS)):
                values = {"number": number, "user": user, "project": project}
                into = "INSERT INTO jobs VALUES (:number, :user, :project)"
                connection.execute(text(into), values)
        yield Oar(engine, server.kind, write_conf(database.url, tmp_path_factory.mktemp("oar")))
        engine.dispose()


def as_arrays(rows: list[Row]) -> StockRows:
    """The same rows, as our totals would give them."""
    starts, stops, users, projects, queues, kinds, consumed = zip(*rows, strict=True)
    consumption = ints(consumed)
    names = [np.array(each, dtype=object) for each in (users, projects, queues)]
    is_asked = np.array(kinds) == "ASKED"
    asked, used = consumption * is_asked, consumption * ~is_asked
    return StockRows.of([ints(starts), ints(stops), *names, asked, used])


def karma_of_all(rule: StockRule, sums: Mapping[str, QueueSums]) -> StockParts:
    """Of jobs of everybody in every queue."""
    each = [(u, p, q) for u in USERS for p in PROJECTS for q in QUEUES]
    return evaluate(rule, sums, *zip(*each, strict=True))


@given(rows=table_rows(USERS, PROJECTS), at=instants, rule=st.sampled_from(sorted(DEFAULTS)))
def test_sums_that_are_read_are_those_of_the_rows(
    oar: Oar, rows: list[Row], at: tuple[int, int], rule: str
) -> None:
    now, window = at
    of_rule = replace(DEFAULTS[rule], window=window, project=0.3)
    oar.put(rows)
    read = oar.sums(of_rule, now)
    assert set(read) == set(QUEUES)
    if not rows:
        assert set(map(repr, read.values())) == {repr(QueueSums())}
        return
    together = ("default", "night")
    pools = {"default": together, "night": together, "besteffort": ("besteffort",)}
    calculated = sums_of(of_rule, now, as_arrays(rows), pools if rule == "oar3" else None)
    from_read, from_rows = karma_of_all(of_rule, read), karma_of_all(of_rule, calculated)
    assert np.array_equal(from_read.share, from_rows.share)
    assert np.array_equal(from_read.karma, from_rows.karma)
    everywhere = np.where(from_rows.usage > 0, from_rows.total, 1)
    assert np.array_equal(np.where(from_read.usage > 0, from_read.total, 1), everywhere)


@pytest.mark.databases("postgresql")
def test_sums_may_exceed_63_bits(oar: Oar) -> None:
    most = 2**63 - 1
    rows: list[Row] = [
        (T0 + day * DAY, T0 + day * DAY + DAY - 1, "bob", "default", "default", "USED", most)
        for day in range(3)
    ]
    now = T0 + 3 * DAY
    oar.put(rows)
    for sums in (sums_of(StockRule(), now, as_arrays(rows)), oar.sums(StockRule(), now)):
        assert sums["default"].used == 3 * most
        karma = evaluate(StockRule(), sums, ["bob"], ["default"], ["default"]).karma
        assert karma.tolist() == [2]


def test_oar_3_schedules_active_queues_of_one_priority_together(oar: Oar) -> None:
    with dialects.reading(oar.engine) as connection:
        assert read_pools(connection) == {
            "besteffort": ("besteffort",),
            "default": ("default", "night"),
            "night": ("default", "night"),
        }


def test_without_oars_table_it_is_said(engine: Engine) -> None:
    with pytest.raises(OarSchemaError, match="OAR's table 'accounting' cannot be read"):
        with dialects.reading(engine) as connection:
            read_sums(connection, StockRule(), T0, QUEUES)


# -- the real Perl ----------------------------------------------------------------------------

#: Runs what an installed scheduler does between oar.conf and karma, on every row of jobs.
SCRIPT = r"""
use strict;
use OAR::IO;
use OAR::Conf qw(init_conf get_conf is_conf);
my ($scheduler, $queue, $current_time) = @ARGV;
my $scheduler_name = "test";
open(my $file, "<", $scheduler) or die($!);
my $text = join("", <$file>);
my ($settings) =
    $text =~ /^(# Fairsharing parameters #.*?)^(?:#+\n# Tokens #|my \$initial_time )/ms;
my ($karma) = $text =~ /^(my \$Karma_sum_time .*?^\})/ms;
die("another scheduler") unless defined($settings) and defined($karma);
init_conf($ENV{OARCONFFILE});
my $base = OAR::IO::connect();
my $jobs = $base->selectall_arrayref(
    "SELECT job_user, project FROM jobs ORDER BY job_id", { Slice => {} }
);
my $printing = 'printf("%s %.3f\n", unpack("H*", pack("d>", karma($_))), karma($_)) for @$jobs;';
eval("$settings $karma $printing 1") or die($@);
"""

written_targets = st.dictionaries(
    st.sampled_from(["bob", "alice", "weather", "default", "7"]), percentages
).map(
    lambda targets: "{" + ", ".join(f"{name} => {value}" for name, value in targets.items()) + "}"
)
written_values = st.fixed_dictionaries(
    {},
    optional={
        "WINDOW_SIZE": st.sampled_from(["1", "86400", "172800", "2592000"]),
        "PROJECT_TARGETS": written_targets,
        "USER_TARGETS": written_targets,
        **dict.fromkeys(
            ("COEF_PROJECT", "COEF_USER", "COEF_USER_ASK"),
            st.sampled_from(["0", "1", "2.5", "-1", "1e-1", ".3", "007", "-0.25"]),
        ),
    },
)
ways = st.sampled_from(['{}="{}"\n', "{}='{}'\n", " {} = {}  # said\n", "{}={}\n"])
#: Lines of an oar.conf.
written = st.tuples(written_values, ways).map(
    lambda each: "".join(each[1].format(KEY + key, value) for key, value in each[0].items())
)


#: In two windows each, of which MariaDB makes one user and one project.
ALIKE_ROWS: list[Row] = [
    (T0 - days * DAY, T0 - days * DAY + DAY - 1, user, project, "default", kind, 100 + days)
    for days, user, project in ((1, "bob", "weather"), (2, "Bob", "Weather"), (3, "al", "first"))
    for kind in ("ASKED", "USED")
]


def perls(oar: Oar, policy: str, now: int) -> list[tuple[float, str]]:
    """The karma of every job in the queue default, and as the scheduler prints it."""
    program = ["perl", "-e", SCRIPT, str(SCHEDULERS / policy), "default", str(now)]
    done = subprocess.run(
        program, capture_output=True, text=True, env={"OARCONFFILE": str(oar.conf)}
    )
    assert done.returncode == 0, done.stderr
    lines = [line.split() for line in done.stdout.splitlines()]
    return [(struct.unpack(">d", bytes.fromhex(bits))[0], shown) for bits, shown in lines]


def ours(oar: Oar, now: int) -> list[tuple[float, str]]:
    """The same by our means."""
    rule = stock_rule(read_oar_conf(oar.conf), str(oar.conf))
    with oar.engine.connect() as connection:
        found = connection.execute(text("SELECT job_user, project FROM jobs ORDER BY job_id"))
        users, projects = zip(*found, strict=True)
    karma = evaluate(rule, oar.sums(rule, now), users, projects, ["default"] * len(users)).karma
    return [(value, f"{value:.3f}") for value in karma.tolist()]


@pytest.mark.slow
@pytest.mark.databases("postgresql", "mariadb")
@given(
    rows=table_rows(ALIKE, ALIKE_PROJECTS),
    now=instants.map(lambda each: each[0]),
    lines=written,
    policy=st.sampled_from(POLICIES),
)
@example(rows=[], now=T0, lines="", policy=POLICIES[-1])
@example(rows=ALIKE_ROWS, now=T0, lines=f"{KEY}COEF_PROJECT=1\n", policy=POLICIES[-1])
@example(rows=ALIKE_ROWS[::-1], now=T0, lines=f"{KEY}COEF_PROJECT=1\n", policy=POLICIES[-1])
def test_karma_is_that_of_the_real_scheduler_to_the_last_bit(
    oar: Oar, rows: list[Row], now: int, lines: str, policy: str
) -> None:
    if reason := missing(oar.kind):
        pytest.skip(reason)
    oar.put(rows)
    before = oar.conf.read_text(encoding="utf-8")
    try:
        oar.conf.write_text(before + lines, encoding="utf-8")
        assert ours(oar, now) == perls(oar, policy, now)
    finally:
        oar.conf.write_text(before, encoding="utf-8")

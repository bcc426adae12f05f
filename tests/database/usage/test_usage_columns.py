"""Usage beside Slurm's own figures, as columns, and of several sites at once."""

import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from sqlalchemy import Engine

from oar_accounting import (
    Accounting,
    BadSpan,
    DifferentUnits,
    ShownMetric,
    UnknownName,
    Usage,
    Visible,
)
from oar_accounting.core.columns import OPEN
from oar_accounting.ledger import schema
from oar_accounting.usage.job_keys import Sizes
from oar_accounting.usage.result import AMOUNT_COLUMNS, UsageColumns
from tests.database.reports.test_reports import adjust, one_job, six
from tests.small_oar import DAY, HOUR, T0, Clock, SmallOar, opened, stopped_clock


@pytest.fixture(autouse=True)
def clock() -> Iterator[Clock]:
    """The verbs' clock stands still, long after everything."""
    with stopped_clock() as stopped:
        stopped.now = T0 + 100 * DAY
        yield stopped


# -- as Slurm counts ----------------------------------------------------------------------------

#: 2007-12-31 23:00 UTC.
SLURM = 1_199_142_000
#: Of acct3 the parent is acct2, and root stands above acct1 and acct2.
SLURM_ACCOUNTS = "project,parent\nacct3,acct2\n"
#: Start and stop in hours; what accounts used, with what is below them; what users did.
SLURM_WINDOWS: list[tuple[int, int, dict[str, int], dict[str, int]]] = [
    (0, 1, {"root": 7_200, "acct1": 7_200}, {"acct1/ua": 7_200}),
    (1, 2, {"root": 600, "acct1": 600}, {"acct1/ua": 600}),
    (2, 3, {"root": 13_200, "acct2": 13_200, "acct3": 13_200}, {"acct3/ub": 13_200}),
    (
        0,
        49,
        {"root": 361_200, "acct1": 7_800, "acct2": 353_400, "acct3": 345_600},
        {"acct1/ua": 7_800, "acct2/ua": 7_800, "acct3/ub": 345_600},
    ),
]


@pytest.fixture
def slurm(engine: Engine) -> Accounting:
    """The jobs of Slurm's own test of its rollup, on four processors; one never starts."""
    oar = SmallOar(engine, nodes=0)
    n0 = oar.add_resources(2, host="n0", cluster="alpha")
    n1 = oar.add_resources(2, host="n1", cluster="alpha")
    first, second, third = SLURM + 1_200, SLURM + 3_900, SLURM + 93_900
    oar.add_job(user="ua", project="acct1", resources=n1, start=SLURM, stop=first)
    oar.add_job(user="ua", project="acct1", resources=n1, start=first, stop=second)
    oar.add_job(user="ub", project="acct3", resources=n0 + n1, start=SLURM + 7_500, stop=third)
    oar.add_job(user="ua", project="acct2", resources=n1, start=third, stop=third + 3_900)
    oar.add_job(user="ua", project="acct2", start=0, state="Waiting", moldable=False)
    site = opened(engine)
    site.catch_up()
    site.import_attributes(SLURM_ACCOUNTS)
    return site


@pytest.mark.parametrize(("first", "last", "accounts", "users"), SLURM_WINDOWS)
def test_what_slurm_says_of_accounts_and_users(
    slurm: Accounting, first: int, last: int, accounts: dict[str, int], users: dict[str, int]
) -> None:
    """As real slurmdbd 22.05.8 and 26.11 told it: amounts roll up from acct3 to acct2 to root."""
    span = (SLURM + first * HOUR, SLURM + last * HOUR)

    def used(*by: str) -> dict[str, int]:
        rows = slurm.usage(by, ("resource",), *span).rows
        return {"/".join(row.group): row.used for row in rows if row.used}

    leaves = {name: n for name, n in used("project").items() if name not in used("root")}
    assert {"root": used()[""], **leaves, **used("root")} == accounts
    assert used("project", "user") == users


def test_what_slurm_says_of_top_users_sizes_and_numbers_of_jobs(slurm: Accounting) -> None:
    """Jobs of 2 and of 4 processors, in classes that begin at 2 and at 4."""
    span = (SLURM, SLURM + 49 * HOUR)
    ranking = slurm.top(("user", "project"), "resource", *span)
    assert [(*row.group, row.used) for row in ranking.rows] == [
        ("ub", "acct3", 345_600),
        ("ua", "acct1", 7_800),
        ("ua", "acct2", 7_800),
    ]
    some = slurm.sizes(("root",), ("resource",), *span, sizes=Sizes(bounds=(2, 4)))
    assert [(*each.group, each.used) for each in some] == [
        ("acct1", "2-3", 7_800),
        ("acct2", "2-3", 7_800),
        ("acct2", "4+", 345_600),
    ]
    shares = {"acct1": 2.16, "acct2": 97.84}
    for account, share in shares.items():
        used = sum(each.used for each in some if each.group[0] == account)
        assert round(100 * used / 361_200, 2) == share
    month = (SLURM, SLURM + 31 * DAY)
    counts: Counter[str] = Counter()
    for each in slurm.sizes(("project",), ("resource",), *month):
        counts[each.group[0]] += each.jobs
    assert counts == {"acct1": 2, "acct2": 1, "acct3": 1}
    ended = slurm.efficiency(("project",), ("resource",), *month)
    assert {each.group[0]: each.jobs for each in ended} == counts


# -- columns ------------------------------------------------------------------------------------


def library(request: pytest.FixtureRequest, name: str) -> ModuleType:
    """A library that need not be there, unless the run is to try everything."""
    if request.config.getoption("--require-databases"):
        return __import__(name)
    module: ModuleType = pytest.importorskip(name)
    return module


SPAN: dict[str, Any] = {"start": T0 - 2 * DAY, "stop": T0 + 3 * DAY + 7}


@pytest.fixture
def many_sided(engine: Engine) -> Accounting:
    """Users, types and states on two clusters, in two metrics, an adjustment."""
    oar = SmallOar(engine)
    oar.add_resources(4, host="beta-1", cluster="beta")
    oar.add_job(user="alice", cores=3, start=T0 - DAY, stop=T0 + DAY, types=("deploy",))
    oar.add_job(user="l'eau", resources=range(7, 11), state="Error", stop=T0 + 2 * DAY)
    oar.add_job(user="zoë 😀", cores=1, start=T0 + 5)
    oar.add_job(user="alice", cores=2, state="Running")
    site = opened(engine)
    site.catch_up()
    adjust(site, "alice", (T0 + DAY, T0 + 2 * DAY), (-7, -99))
    return site


@pytest.mark.parametrize(
    "given",
    [
        {"by": ("user", "cluster"), **SPAN},
        {"by": ("type", "user", "size"), "bucket": "day", "timezone": "Asia/Kathmandu", **SPAN},
        {"by": (), "metrics": ("node",), "as_of": T0 + DAY},
        {"by": ("job",), "where": {"user": "alice"}, "as_of": T0 + DAY, "bucket": HOUR, **SPAN},
        {"without_adjustments": True, **SPAN},
        {"start": T0 + 50 * DAY},
    ],
)
def test_columns_are_the_rows(
    many_sided: Accounting, given: dict[str, Any], request: pytest.FixtureRequest
) -> None:
    """As records, as a table of Arrow and as a data frame."""
    library(request, "pyarrow")
    library(request, "pandas")
    rows = list(many_sided.usage(**given).rows)
    columns = many_sided.usage_columns(**given)
    assert list(columns.rows()) == rows and len(columns) == len(rows)
    table, frame = columns.to_arrow(), columns.to_pandas()
    assert table.column_names == list(frame.columns)
    from_pandas = [dict(zip(frame.columns, r, strict=True)) for r in frame.to_numpy().tolist()]
    for found in (table.to_pylist(), from_pandas):
        assert [_as_row(columns.by, each) for each in found] == [_as_told(row) for row in rows]
    with pytest.raises(UnknownName, match="there is no key 'colour'"):
        columns.names("colour")


def _as_row(by: Sequence[str], row: Mapping[str, Any]) -> tuple[object, ...]:
    names = ("metric", "unit", "accuracy", "start", "stop", "scale", *AMOUNT_COLUMNS)
    return (tuple(row[name] for name in by), *(row[name] for name in names))


def _as_told(row: Usage) -> tuple[object, ...]:
    start = -OPEN if row.start is None else row.start
    stop = OPEN if row.stop is None else row.stop
    named = (row.metric, row.unit, row.accuracy)
    return (row.group, *named, start, stop, row.scale, *six(row))


def a_million_rows() -> UsageColumns:
    """A thousand groups, in a thousand hours."""
    number = np.arange(1_000_000)
    amounts = {name: number * nth for nth, name in enumerate(AMOUNT_COLUMNS)}
    return UsageColumns(
        by=("user", "project"),
        groups=tuple((f"user {n}", f"project {n % 7}") for n in range(1_000)),
        metrics=(ShownMetric(name="resource", unit="resource·s", scale=1),),
        group=number % 1_000,
        metric=number * 0,
        start=number // 1_000 * HOUR,
        stop=number // 1_000 * HOUR + HOUR,
        accuracy=number % 3,
        **amounts,
    )


def test_a_million_rows_become_columns_without_a_look_at_each(
    request: pytest.FixtureRequest,
) -> None:
    """A loop in Python would take seconds of the processor."""
    library(request, "pyarrow")
    library(request, "pandas")
    columns = a_million_rows()
    columns.to_arrow(), columns.to_pandas()  # imports
    for convert in (columns.to_arrow, columns.to_pandas):
        began = time.process_time()
        found = convert()
        assert time.process_time() - began < 1
        assert len(found) == 1_000_000
    last = columns.to_arrow().slice(999_999).to_pylist()[0]
    assert (last["user"], last["project"]) == ("user 999", f"project {999 % 7}")
    assert (last["adjusted_used"], last["accuracy"]) == (5 * 999_999, "exact")


# -- several sites, and what is not known -------------------------------------------------------


#: Of two sites.
BOTH = {"site": ["here", "there"]}


def test_sites_with_metrics_of_their_own_stand_side_by_side(engine: Engine) -> None:
    """One counts memory in MiB, the other in GiB and cores; `resource` is known to both."""
    oar = SmallOar(engine)
    oar.add_resources(4, host="beta-1", cluster="beta", mem=2_048)
    oar.add_job(user="alice", resources=[9, 10], start=T0, stop=T0 + 100)
    memory = '[metrics.memory]\nunit = "{unit}·s"\nsum = "mem"\n'
    core = '[metrics.core]\ndistinct = "core"\nunit = "core·s"\n'
    here = opened(engine, memory.format(unit="MiB"), site="here")
    there = opened(engine, memory.format(unit="GiB") + core, site="there")
    for site in (here, there):
        assert site.catch_up().problems == ()
    rows = here.usage(("site", "user"), ("memory", "resource")).rows
    assert [(row.group, row.metric, row.unit, row.used) for row in rows] == [
        (("here", "alice"), "memory", "MiB·s", 2 * 2_048 * 100),
        (("here", "alice"), "resource", "resource·s", 200),
        (("there", "alice"), "memory", "GiB·s", 2 * 2_048 * 100),
        (("there", "alice"), "resource", "resource·s", 200),
    ]
    (one,) = here.usage((), ("resource",), where={"site": ["here", "there"]}).rows
    assert one.used == 400
    both = here.usage((), ("memory",), where={"site": ["here", "there"]})
    assert {row.unit for row in both.rows} == {"MiB·s", "GiB·s"}
    for add_up in (
        both.total,
        both.by_group,
        lambda: here.top((), "memory", where={"site": ["here", "there"]}),
    ):
        with pytest.raises(DifferentUnits, match=r"^metric 'memory' is declared in different uni"):
            add_up()
    # A job is one job at each site, whatever its memory is counted in there.
    for counted in (
        here.efficiency("user", "memory", where=BOTH),
        here.sizes((), "memory", where=BOTH),
    ):
        assert [(row.unit, row.jobs) for row in counted] == [("MiB·s", 1), ("GiB·s", 1)]
    with pytest.raises(DifferentUnits):
        here.top("site", "memory")
    assert here.top("user", "memory", stop=T0, where=BOTH).rows == ()
    assert here.top("user", "memory", where={"site": "there"}).unit == "GiB·s"
    apart = here.usage("site", "memory").by_group()
    assert {site: each["memory"].used for (site,), each in apart.items()} == {
        "here": 2 * 2_048 * 100,
        "there": 2 * 2_048 * 100,
    }
    (only,) = here.usage((), ("core",), where={"site": "there"}).rows
    assert (only.used, only.unit) == (200, "core·s")
    with pytest.raises(UnknownName, match=r"unknown metric 'core'; recorded are "):
        here.usage((), ("core",))
    assert [row.used for row in here.usage((), ("resource",)).rows] == [200]
    assert {each.group: each.jobs for each in here.efficiency(("site",), ("resource",))} == {
        ("here",): 1,
        ("there",): 1,
    }


@pytest.mark.databases("sqlite")
def test_errors_name_what_is_near(engine: Engine) -> None:
    site, _ = one_job(engine)
    said = {
        ("user", "bop"): r"^user 'bop' is not recorded; did you mean 'bob'\?$",
        ("user", "x" * 40): r"^user 'x+' is not recorded; recorded are 'bob'$",
        ("queue", "defualt"): r"^queue 'defualt' is not recorded; did you mean 'default'\?$",
        ("cluster", "alhpa"): r"^cluster 'alhpa' is not recorded; did you mean 'alpha'\?$",
        ("state", "terminated"): r"^state 'terminated' is .* did you mean 'Terminated'\?$",
        ("size", "2-3"): r"^size '2-3' is not recorded; did you mean '2-4'.*\?$",
        ("site", "ora"): r"^site 'ora' is not recorded; did you mean 'oar'\?$",
        ("usr", "bob"): r"^unknown grouping key 'usr'; known keys are user, project, queue, clust",
        ("job", "one"): r"^job 'one': the number of a job was expected$",
    }
    for (key, value), words in said.items():
        with pytest.raises(UnknownName, match=words):
            site.usage(where={key: value})
    with pytest.raises(UnknownName, match=r"^unknown metric 'cores'; recorded are resource, node$"):
        site.usage((), ("cores",))


@pytest.mark.databases("sqlite")
def test_types_that_no_job_has_are_told_from_those_that_some_have(engine: Engine) -> None:
    oar = SmallOar(engine)
    oar.add_job(user="bob", start=T0, stop=T0 + 10, types=["besteffort"])
    oar.add_job(user="eve", start=T0, stop=T0 + 10, types=["inner=7"])
    site = opened(engine, 'containers = "both"\n')
    site.catch_up()
    for value in ("besteffort", "inner", "inner=7", ""):
        site.usage(where={"type": value})
    with pytest.raises(UnknownName, match=r"^type 'bestefort' is not .*did you mean 'besteffort'"):
        site.jobs(where={"type": "bestefort"})
    with pytest.raises(UnknownName, match=r"^type 'inner' is not recorded; recorded are 'besteff"):
        site.usage(where={"type": "inner"}, visible_to=Visible(user="bob"))


@pytest.mark.databases("sqlite")
def test_jobs_are_listed_of_one_site_only(engine: Engine) -> None:
    site, _ = one_job(engine)
    assert site.jobs(where={"site": "oar"}).jobs
    for verb in (site.jobs, site.waiting):
        with pytest.raises(UnknownName, match=r"^site 'nancy': this is answered for one site at a"):
            verb(where={"site": ["oar", "nancy"]})


@pytest.mark.databases("sqlite")
def test_buckets_of_a_group_are_added_up(engine: Engine) -> None:
    site, _ = one_job(engine)
    cut = site.usage("user", "resource", bucket=7)
    assert len(cut.rows) > 1
    assert cut.by_group() == {("bob",): cut.total()}
    (whole,) = site.usage("user", "resource").rows
    assert cut.total()["resource"].used == whole.used


@pytest.mark.databases("sqlite")
def test_top_ranks_who_used_most_and_sums_up_the_others(engine: Engine) -> None:
    oar = SmallOar(engine)
    for user, seconds in (("ann", 10), ("bob", 30), ("cid", 30), ("dan", 5)):
        oar.add_job(user=user, cores=1, start=T0, stop=T0 + seconds)
    oar.add_job(user="eve", cores=1, start=T0, state="Running")
    site = opened(engine)
    site.catch_up()
    ranking = site.top("user", "resource", first=2)
    assert [row.group for row in ranking.rows] == [("bob",), ("cid",)]
    assert (ranking.others, ranking.used_by_others, ranking.used) == (2, 15, 75)
    assert (ranking.metric, ranking.unit, ranking.scale) == ("resource", "resource·s", 1)
    assert ranking.open_jobs == 1
    assert site.top("user", as_of=T0 + 100).rows[0].group == ("eve",)
    assert site.top("user", stop=T0).rows == ()
    assert ranking.accuracies == {"exact"}
    with pytest.raises(BadSpan, match=r"^the first 0: at least 1 was expected$"):
        site.top(first=0)


@pytest.mark.parametrize("bounds", [(), (0, 2), (2, 2), (5, 4), (-1,)])
def test_classes_of_size_ascend_from_one(bounds: tuple[int, ...]) -> None:
    with pytest.raises(BadSpan, match=r"^bounds of sizes '.*': ascending whole numbers from 1"):
        Sizes(bounds=bounds)


#: Counts resources of one cluster only.
BETA = """
[metrics.beta]
unit = "core·s"
formula = 'if cluster = "beta" then resource * 1 [core/resource] else 0'
"""


@pytest.mark.databases("sqlite")
def test_jobs_are_counted_for_each_metric(engine: Engine) -> None:
    """A job that holds nothing of a metric is none of its jobs."""
    oar = SmallOar(engine)
    oar.add_resources(2, host="beta-1", cluster="beta", mem=2_048)
    oar.add_job(user="bob", resources=[1], start=T0, stop=T0 + 10)
    oar.add_job(user="bob", resources=[9, 10], start=T0, stop=T0 + 10)
    site = opened(engine, BETA)
    site.catch_up()
    expected = {"resource": 2, "node": 2, "beta": 1}
    assert {row.metric: row.jobs for row in site.efficiency()} == expected
    assert {
        row.metric: sum(r.jobs for r in site.sizes() if r.metric == row.metric)
        for row in site.efficiency()
    } == expected


@pytest.mark.databases("sqlite")
def test_columns_take_what_usage_takes_and_nothing_else(engine: Engine) -> None:
    site, _ = one_job(engine)
    with pytest.raises(
        TypeError, match=r"^usage_columns\(\) got an unexpected keyword argument 'en"
    ):
        site.usage_columns("user", ended=(0, 1))  # type: ignore[call-arg]


@pytest.mark.databases("sqlite")
def test_who_is_called_as_accounts_without_names_are_is_one_with_them(engine: Engine) -> None:
    """Somebody has deleted bob's account by hand; there is a user of the name that this shows."""
    oar = SmallOar(engine)
    for user, seconds in (("bob", 10), ("?", 20), ("zoé", 40)):
        oar.add_job(user=user, cores=1, start=T0, stop=T0 + seconds)
    site = opened(engine)
    site.catch_up()
    with site.engine.begin() as connection:
        connection.exec_driver_sql("pragma foreign_keys = off")
        connection.execute(schema.accounts.delete().where(schema.accounts.c.user_name == "bob"))
    rows = site.usage("user", "resource").rows
    assert [(row.group, row.used) for row in rows] == [(("?",), 30), (("zoé",), 40)]

"""Composed metrics: from the settings file to what a site records, with Slurm's figures."""

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import replace
from fractions import Fraction
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sqlalchemy import Engine, create_engine

from oar_accounting import Purged, SettingsError
from oar_accounting.core.columns import LARGEST, Ints, ints
from oar_accounting.errors import AmountOverflow
from oar_accounting.metrics.composed import MOST_TERMS, HeldAmounts, compose, facts_of
from oar_accounting.metrics.formulas.evaluate import Fact
from oar_accounting.metrics.formulas.parser import LONGEST_FORMULA
from oar_accounting.metrics.metric import BUILT_IN, Held, Metric, Resources, parse_metric
from oar_accounting.oar.snapshot import Snapshot
from oar_accounting.settings.load import load_settings
from tests.servers import Database
from tests.small_oar import (
    DAY,
    HOUR,
    T0,
    Clock,
    Recorded,
    SmallOar,
    opened,
    recorded,
    stopped_clock,
)
from tests.system.cli.test_cli import run, said

on_sqlite = pytest.mark.databases("sqlite")

EXAMPLE = files("oar_accounting").joinpath("accounting.example.toml").read_text(encoding="utf-8")

HELD: dict[str, dict[str, Any]] = {
    "core": {"unit": "core.s", "distinct": "core"},
    "gpu": {"unit": "gpu.s", "distinct": "gpu"},
    "memory": {"unit": "MiB.s", "sum": "mem", "per": "network_address"},
}


def declared(**tables: dict[str, Any]) -> dict[str, Metric]:
    """The metrics of these tables, beside three held ones."""
    some = [parse_metric(name, table, "site.toml") for name, table in (HELD | tables).items()]
    return {metric.name: metric for metric in compose(some, "site.toml")}


def formula(text: str, unit: str = "billing.s", **more: Any) -> dict[str, Any]:
    return {"unit": unit, "formula": text, **more}


def wrong(**tables: dict[str, Any]) -> str:
    with pytest.raises(SettingsError) as caught:
        declared(**tables)
    return str(caught.value)


def holding(
    *, cores: int = 0, gib: int = 0, gpus: int = 0, licences: int = 0, **facts: tuple[str, ...]
) -> HeldAmounts:
    """What one part of a job holds: so many rows of a node, and licences."""
    rows = [{"mem": gib * 1024}, *({"core": n} for n in range(cores))]
    rows += [{"gpu": n} for n in range(gpus)]
    count = len(rows) + licences
    resources = Resources(
        resource_id=ints(range(count)),
        type=["default"] * len(rows) + ["licence"] * licences,
        properties={
            **{name: [r.get(name) for r in rows] + [None] * licences for name in ("core", "gpu")},
            "mem": [row.get("mem") for row in rows] + [None] * licences,
            "network_address": ["node"] * len(rows) + [""] * licences,
        },
    )
    known = {"queue": ("default",), "cluster": ("",), "type": ()} | facts
    return HeldAmounts(
        Held(np.zeros(count, np.int64), np.arange(count)),
        resources,
        1,
        {name: Fact(ints([0]), [values]) for name, values in known.items()},
    )


def rate(metric: Metric, **held: Any) -> Fraction:
    """What the part holds of the metric, before it is scaled and rounded."""
    return holding(**held).exact(metric).values()[0]


# -- the shipped examples ---------------------------------------------------------------------


@pytest.fixture(scope="module")
def shipped(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Metric]:
    """Every metric of the shipped file, with the examples switched on."""
    directory = tmp_path_factory.mktemp("shipped")
    text = re.sub(r"^#(?=[a-z\[])", "", EXAMPLE, flags=re.MULTILINE)
    text = text[text.index("\n[metrics.") :]
    config = directory / "accounting.toml"
    config.write_text(text, encoding="utf-8")
    given = load_settings(config=config, url="sqlite:///x", environ={})
    return {metric.name: metric for metric in given.metrics}


def test_every_shipped_example_gives_a_figure(shipped: Mapping[str, Metric]) -> None:
    job = {"cores": 10, "gib": 30, "gpus": 2, "licences": 1}
    assert {name: rate(metric, **job) for name, metric in shipped.items()} == {
        "resource": 13,
        "node": 1,
        "core": 10,
        "gpu": 2,
        "memory": 30 * 1024,
        "licence": 1,
        "billing": 10 + Fraction("7.5") + 4 + Fraction("1.5"),
        "billing_max_tres": 10 + Fraction("1.5"),
        "billing_max_tres_gres": 10 + 4 + Fraction("1.5"),
        "lumi": 15,
        "cost": 10 + 25,
    }


#: Figures of Slurm's documentation and of measurements on it: the mode, what a job was allocated,
#: and what it made billable.
SLURM = [
    ("billing", {"cores": 1, "gib": 8}, "3"),
    ("billing", {"cores": 1, "gib": 8, "licences": 1}, "4.5"),
    ("billing", {"cores": 1, "gib": 10, "licences": 1}, "5"),
    ("billing_max_tres", {"cores": 1, "gib": 8}, "2"),
    ("billing_max_tres_gres", {"cores": 1, "gib": 8}, "2"),
    # Its documentation prints 3.0 here; the terms it gives, and its code, make 4.
    ("billing_max_tres_gres", {"cores": 1, "gib": 8, "gpus": 1}, "4"),
    ("no_suffix", {"gib": 8}, "2048"),
    ("billing", {"gib": 8}, "2"),
    ("billing", {"cores": 1, "gib": 60}, "16"),
    ("billing", {"cores": 16, "gib": 1}, "16.25"),
    ("billing", {"cores": 16, "gib": 60}, "31"),
    ("billing_max_tres", {"cores": 1, "gib": 60}, "15"),
    ("billing_max_tres", {"cores": 15, "gib": 1}, "15"),
    ("billing", {"cores": 2, "gib": 10}, "4.5"),
    ("billing", {"cores": 2, "gib": 16384}, "4098"),
    ("billing_max_tres", {"cores": 16, "gib": 64}, "16"),
]


@pytest.mark.parametrize(("mode", "job", "billable"), SLURM)
def test_slurms_billing_comes_out_exactly(
    shipped: Mapping[str, Metric], mode: str, job: dict[str, int], billable: str
) -> None:
    metrics = {**shipped, **declared(no_suffix=formula("memory * 0.25 [billing/MiB]"))}
    assert rate(metrics[mode], **job) == Fraction(billable)


@pytest.mark.parametrize(
    ("cores", "gib", "billed"), [(1, 2, 1), (1, 3, 2), (4, 8, 4), (4, 9, 5), (16, 0, 16)]
)
def test_lumi_bills_cores_or_what_goes_with_the_memory(
    shipped: Mapping[str, Metric], cores: int, gib: int, billed: int
) -> None:
    assert rate(shipped["lumi"], cores=cores, gib=gib) == billed


@pytest.mark.parametrize(
    ("facts", "price"),
    [
        ({}, 4),
        ({"queue": ("besteffort",)}, 0),
        ({"type": ("besteffort", "container")}, 0),
        ({"cluster": ("older",)}, 2),
        ({"cluster": ("newer",), "type": ("inner=12",)}, 4),
    ],
)
def test_a_price_list_follows_queue_cluster_and_type(
    shipped: Mapping[str, Metric], facts: dict[str, tuple[str, ...]], price: int
) -> None:
    assert rate(shipped["cost"], cores=4, **facts) == price
    assert facts_of(shipped.values()) == {"queue", "cluster", "type"}


def test_the_examples_of_the_readme_give_what_it_says() -> None:
    readme = (Path(__file__).parents[3] / "README.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| `(\S+)` \| `([^`]+)` \| ([0-9.]+) \|$", readme, re.MULTILINE)
    assert len(rows) == 5
    for unit, text, result in rows:
        assert rate(declared(m=formula(text, unit))["m"], cores=4, gib=9) == Fraction(result)


# -- what is declared -------------------------------------------------------------------------


def test_a_metric_may_be_composed_of_composed_ones_in_any_order() -> None:
    metrics = declared(
        dear=formula("2 * billed * 1 [billing/core]"),
        billed=formula("max(core, ceil(memory / 3 [GiB]) * 0.5 [core])", "core.s"),
    )
    assert rate(metrics["dear"], cores=1, gib=7) == 3
    assert [part.name for part in metrics["dear"].parts] == ["billed", "core", "memory"]
    assert metrics["dear"].properties == ("core", "mem", "network_address")


def test_the_unit_of_the_metric_decides_in_what_its_amounts_are() -> None:
    metrics = declared(
        small=formula("memory + 1 [GiB]", "MiB.s"),
        large=formula("memory + 1 [GiB]", "GB.s"),
        both=formula("(large - small) / 1 [KiB]  * 1 [x]", "x.s"),
    )
    assert rate(metrics["small"], gib=2) == 3 * 1024
    assert rate(metrics["large"], gib=2) == Fraction(3 * 1024**3, 1000**3)
    assert rate(metrics["both"], gib=2) == 0


def test_parts_are_taken_before_they_are_rounded_and_scaled() -> None:
    third = formula("core / 3", "core.s", scale=10)
    metrics = declared(third=third, whole=formula("third * 3", "core.s"))
    assert rate(metrics["third"], cores=5) == Fraction(5, 3)
    assert rate(metrics["whole"], cores=5) == 5
    assert holding(cores=5).rates(metrics["third"]).tolist() == [17]


def test_a_rate_is_rounded_once_half_to_even() -> None:
    metrics = declared(half=formula("core / 2", "core.s"), tenth=formula("core/20", "core.s"))
    rates = [holding(cores=n).rates(metrics["half"]).tolist()[0] for n in (1, 2, 3, 5)]
    assert rates == [0, 1, 2, 2]
    scaled = replace(metrics["tenth"], scale=10)
    assert holding(cores=3).rates(scaled).tolist() == [2]


def test_less_than_zero_counts_as_zero_and_is_told_also_within_another() -> None:
    metrics = declared(
        rest=formula("4 [core] - core", "core.s"), more=formula("rest + core", "core.s")
    )
    amounts = holding(cores=6)
    assert amounts.rates(metrics["more"]).tolist() == [6]
    ((name, parts),) = amounts.below_zero
    assert (name, parts.tolist()) == ("rest", [True])
    amounts = holding(cores=4)
    assert amounts.rates(metrics["rest"]).tolist() == [0]
    assert amounts.below_zero == []


def test_a_rate_beyond_63_bits_is_refused_and_one_below_is_exact() -> None:
    metrics = declared(
        much=formula(f"core * {10**9} * {10**9}", "core.s"),
        endless=formula(f"{'core*' * 380}core*{10**17} / 1 [{'core*' * 379}core]", "core.s"),
        most=formula(f"resource * {LARGEST // 10**9} * {10**9} [m/resource]", "m.s"),
    )
    assert holding(cores=9).rates(metrics["much"]).tolist() == [9 * 10**18]
    with pytest.raises(
        AmountOverflow, match="metric much: what a job holds each second does not fit"
    ):
        holding(cores=10).rates(metrics["much"])
    with pytest.raises(AmountOverflow):
        holding(cores=10).rates(metrics["endless"])
    assert holding().rates(metrics["most"]).tolist() == [LARGEST // 10**9 * 10**9]


def test_what_is_counted_is_told_apart_by_form_property_and_type() -> None:
    some = {name: {"unit": "x.s", "count": True, "type": name} for name in ("licence", "default")}
    some |= {"per_row": {"unit": "MiB.s", "sum": "mem"}, "cards": formula("gpu", "gpu.s")}
    metrics = declared(**some)
    amounts = holding(cores=2, gib=1, gpus=4, licences=3)
    rates = {name: amounts.rates(metric).tolist()[0] for name, metric in metrics.items()}
    assert rates == {
        "core": 2,
        "gpu": 4,
        "memory": 1024,
        "licence": 3,
        "default": 7,
        "per_row": 1024,
        "cards": 4,
    }


def test_what_a_part_holds_is_counted_once(monkeypatch: pytest.MonkeyPatch) -> None:
    metrics = declared(twice=formula("core + core", "core.s"), again=formula("core", "core.s"))
    amounts = holding(cores=3)
    assert amounts.rates(metrics["core"]).tolist() == [3]
    monkeypatch.setattr("oar_accounting.metrics.composed.held_amounts", None)
    assert amounts.rates(metrics["twice"]).tolist() == [6]
    assert amounts.rates(metrics["again"]).tolist() == [3]
    with pytest.raises(TypeError):
        amounts.rates(metrics["gpu"])


# -- what is stored ---------------------------------------------------------------------------


def test_a_definition_bears_all_that_it_comes_from() -> None:
    text = "# a comment\nif type = 'x' then 0 else lumi".replace("'", '"')
    metrics = declared(
        odd=formula(text, "core.s", scale=100),
        lumi=formula("max(core,ceil(memory/2[GiB])*1[core])", "core.s", scale=10),
    )
    odd = metrics["odd"]
    stored = json.loads(odd.definition)
    assert stored["formula"] == 'if type = "x" then 0 else lumi'
    assert stored["parts"]["lumi"]["formula"] == "max(core, ceil(memory / 2 [GiB]) * 1 [core])"
    assert set(stored["parts"]) == {"core", "lumi", "memory"}
    again = Metric.from_definition("odd", odd.definition)
    assert again == odd
    assert again.definition == odd.definition
    assert rate(again, cores=1, gib=3) == 2
    assert facts_of([again]) == {"type"}


def test_what_is_stored_is_read_again_however_long_it_has_become() -> None:
    longest = "core" + "+core" * 600 + "-1[core]" * 124
    metric = declared(m=formula(longest, "core.s"))["m"]
    assert len(longest) < LONGEST_FORMULA < len(metric.formula)
    assert rate(Metric.from_definition("m", metric.definition), cores=2) == 2 * 601 - 124


def test_definitions_of_held_metrics_are_what_they_were() -> None:
    """Their digests are in the databases of sites."""
    assert [metric.digest[:12] for metric in BUILT_IN] == ["01fc9a9a9085", "570a331a6dbc"]
    assert declared()["memory"].definition == (
        '{"form": "sum", "of": "mem", "per": "network_address", "scale": 1, "type": "default", '
        '"unit": "MiB·s"}'
    )


def test_only_what_changes_amounts_changes_a_definition() -> None:
    def digest(text: str, **tables: dict[str, Any]) -> str:
        return declared(m=formula(text, "core.s"), **tables)["m"].digest

    same = digest("max( core,(2.0 [core]) )")
    assert digest("max(core, 2 [core]) # at least two") == same
    assert digest("max(core, 2 [core])", core=HELD["core"] | {"scale": 7}) == same
    assert digest("max(core, 3 [core])") != same
    assert digest("max(core, 2 [core])", core=HELD["core"] | {"type": "*"}) != same


def test_what_was_stored_by_hand_is_refused_in_words() -> None:
    metric = declared(m=formula("core", "core.s"))["m"]
    broken = Metric.from_definition("m", metric.definition.replace('"core"', '"core +"', 1))
    with pytest.raises(SettingsError, match=r"the recorded metric m: formula, line 1, column 7"):
        holding(cores=1).rates(broken)


# -- what is wrong ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ({"formula": "core", "count": True}, "exactly one of count = true, .* formula = TEXT is"),
        ({"formula": "core", "per": "x"}, "per goes with sum, not with formula"),
        ({"formula": "core", "type": "x"}, "type goes with count, distinct and sum, not with form"),
        ({"formula": 3}, "formula must be a text, not 3"),
        ({"formula": " "}, "formula must be a text"),
        ({"formula": "cores"}, r"formula, line 1, column 1: there is no metric 'cores' \(did you"),
        ({"formula": "\ncore + 1 [GIB]"}, r"line 2, column 8: unknown unit 'GIB' \(did you mean"),
        ({"formula": "1 [gpu/core] * core"}, "it gives gpu; the metric is in core per second"),
    ],
)
def test_a_wrong_formula_names_file_metric_line_and_column(
    table: dict[str, Any], message: str
) -> None:
    said = wrong(m={"unit": "core.s", **table})
    assert re.match(rf"site\.toml: \[metrics\.m\]: .*{message}", said)


def test_metrics_composed_in_a_circle_are_named() -> None:
    assert wrong(m=formula("1 [core] + m", "core.s")).endswith(
        "[metrics.m]: formula, line 1, column 12: metrics are composed of each other in a circle: "
        "m -> m"
    )
    said = wrong(
        a=formula("core +\nb", "core.s"), b=formula("c", "core.s"), c=formula("a", "core.s")
    )
    assert re.search(
        r"line \d, column 1: .* in a circle: (a -> b -> c|b -> c -> a|c -> a -> b)", said
    )
    ring = {f"m{n}": formula(f"m{(n + 1) % 3000}", "core.s") for n in range(3000)}
    assert len(wrong(**ring)) < 300


def test_formulas_of_formulas_have_an_end() -> None:
    doubled = {"m0": formula("core", "core.s")}
    doubled |= {f"m{n}": formula(f"m{n - 1} + m{n - 1}", "core.s") for n in range(1, 60)}
    said = wrong(**doubled)
    assert f"written out it has more than {MOST_TERMS} terms" in said
    assert re.search(r"\[metrics\.m10\]: formula, line 1, column 6: ", said)
    chain = {"m0": formula("core", "core.s")}
    chain |= {f"m{n}": formula(f"m{n - 1}", "core.s") for n in range(1, 3000)}
    assert re.search(r"\[metrics\.m\d+\]: formula, line 1, column 1: with the", wrong(**chain))
    metrics = declared(**{name: chain[name] for name in list(chain)[:500]})
    assert rate(metrics["m499"], cores=2) == 2


# -- recorded ---------------------------------------------------------------------------------

BILLING = """
[metrics.core]
distinct = "core"
unit = "core·s"

[metrics.memory]
sum = "mem"
per = "network_address"
unit = "MiB·s"

[metrics.billing]
unit = "billing·s"
scale = 10
formula = '''
if queue = "free" then 0                                 # nobody pays
else if type = "deploy" then core * 3 [billing/core]
else if cluster = "beta" then core * 0.5 [billing/core]
else max(core * 1 [billing/core], memory * 0.25 [billing/GiB])'''
"""
WITHOUT = BILLING[: BILLING.index("[metrics.billing]")]
FORMULA = BILLING[BILLING.index("[metrics.billing]") :]


@pytest.fixture(autouse=True)
def clock() -> Iterator[Clock]:
    """The verbs' clock stands at `NOW`."""
    with stopped_clock() as stopped:
        yield stopped


def two_clusters(engine: Engine) -> SmallOar:
    """Four cores with 32 GiB on alpha, and four on beta."""
    oar = SmallOar(engine, nodes=1)
    for core in range(1, 5):
        oar.set_resource(core, mem=32 * 1024)
    oar.add_resources(4, host="beta-1", cluster="beta", mem=1024)
    return oar


def some_jobs(oar: SmallOar) -> dict[int, int]:
    """Jobs, and what each is billed per second, in tenths."""
    return {
        oar.add_job(cores=1): 80,
        oar.add_job(cores=4): 80,
        oar.add_job(cores=8): 80 + 20,
        oar.add_job(cores=8, types=("deploy", "x")): 240,
        oar.add_job(cores=8, queue="free", types=("deploy",)): 0,
        oar.add_job(resources=[5, 6, 7]): 15,
    }


def billed(site: Recorded) -> dict[int, int]:
    return {job: site.rates(job).get("billing", 0) for job in site.jobs()}


def test_billing_depends_on_queue_type_and_cluster_and_follows_corrections(engine: Engine) -> None:
    oar = two_clusters(engine)
    expected = some_jobs(oar)
    site = recorded(engine, BILLING)
    assert billed(site) == expected
    assert site.used("billing") == sum(expected.values()) * HOUR
    assert site.asked("billing") == 2 * site.used("billing")
    assert site.by("cluster", "billing")["beta"][1] == (20 + 120 + 15) * HOUR

    oar.update_job(1, queue_name="free")
    oar.update_job(5, queue_name="default")
    report = site.accounting.catch_up()
    assert (report.changed, report.problems) == (2, ())
    assert billed(site) == expected | {1: 0, 5: 240}
    assert site.by("queue", "billing").keys() == {"default"}
    assert site.accounting.verify() == []
    assert site.everything() == recorded(engine, BILLING, site="scratch").everything()


def test_a_rebuild_fills_the_past(engine: Engine) -> None:
    oar = two_clusters(engine)
    expected = some_jobs(oar)
    recorded(engine, WITHOUT)
    accounting = opened(engine, BILLING)
    (notice,) = accounting.catch_up().notices
    assert notice == (
        "metric billing is declared and not recorded yet: oar-accounting rebuild --metric billing"
    )
    report = accounting.rebuild(metric="billing")
    assert (report.problems, report.notices) == ((), ())
    assert accounting.verify() == []
    assert billed(Recorded(accounting)) == expected
    scratch = recorded(engine, BILLING, site="scratch")
    assert Recorded(accounting).everything() == scratch.everything()


@on_sqlite
def test_types_are_read_for_a_rebuild_only_where_a_formula_asks_for_them(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    oar = two_clusters(engine)
    oar.add_job()
    both = 'containers = "both"\n'
    recorded(engine, both + WITHOUT)
    monkeypatch.setattr("oar_accounting.oar.snapshot.Snapshot.types", None)
    plain = both + WITHOUT + "[metrics.billing]\nunit = 'core.s'\nformula = 'core * 2'\n"
    opened(engine, plain).rebuild(metric="billing")
    with pytest.raises(TypeError):
        opened(engine, both + BILLING).rebuild(metric="billing")


@on_sqlite
def test_a_pass_reads_types_once(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    some_jobs(two_clusters(engine))
    accounting = opened(engine, BILLING)
    read, calls = Snapshot.types, []

    def counted(snapshot: Snapshot, block: Ints) -> dict[int, list[str]]:
        calls.append(len(block))
        return read(snapshot, block)

    monkeypatch.setattr(Snapshot, "types", counted)
    accounting.catch_up()
    assert calls == [6]


@on_sqlite
def test_a_changed_part_makes_the_composed_metric_another(engine: Engine) -> None:
    oar = two_clusters(engine)
    job = oar.add_job(resources=[5, 6, 7])
    recorded(engine, BILLING)
    other = BILLING.replace('distinct = "core"', "count = true")
    oar.set_resource(5, core=6)
    accounting = opened(engine, other)
    notices = accounting.catch_up().notices
    assert [notice.split(":")[0] for notice in notices] == [
        f"metric {name} is declared otherwise than it is recorded, and recorded as before"
        for name in ("core", "billing")
    ]
    accounting.record([job])
    assert Recorded(accounting).rates(job)["billing"] == 10
    accounting.rebuild(metric="billing")
    assert Recorded(accounting).rates(job)["billing"] == 15
    assert len(accounting.catch_up().notices) == 1
    assert accounting.verify() == []


@on_sqlite
def test_what_is_recorded_needs_no_settings_but_a_formula_needs_its_terms(engine: Engine) -> None:
    oar = two_clusters(engine)
    oar.add_job(cores=4)
    recorded(engine, BILLING)
    accounting = opened(engine, "")
    later = oar.add_job(cores=2, types=("deploy",))
    assert len(accounting.catch_up().notices) == 3
    assert Recorded(accounting).rates(later)["billing"] == 60
    assert accounting.verify() == []
    core = WITHOUT[: WITHOUT.index("[metrics.memory]")]
    with pytest.raises(
        SettingsError, match=r"line 4, column 35: there is no metric 'memory'; decl"
    ):
        opened(engine, core + FORMULA)


@on_sqlite
def test_less_than_zero_is_a_problem_of_the_job_in_every_way_to_record_it(engine: Engine) -> None:
    oar = two_clusters(engine)
    jobs = [oar.add_job(resources=[1, 5]), oar.add_job(cores=3), oar.add_job(cores=8)]
    toml = WITHOUT + "[metrics.rest]\nunit = 'core.s'\nformula = '3 [core] - core'\n"
    reason = "metric rest: its formula gives less than zero; counted as zero"
    accounting = opened(engine, toml)
    for report in (
        accounting.catch_up(),
        accounting.record(jobs),
        accounting.rebuild(metric="rest", from_oar=True),
    ):
        assert {p.job_id: p.reason for p in report.problems} == {jobs[2]: reason}
        site = Recorded(accounting)
        assert [site.rates(job).get("rest", 0) for job in jobs] == [4, 0, 0]
        assert accounting.verify() == []
    assert accounting.catch_up().problems == ()


def test_purged_amounts_forbid_another_formula_under_the_name(engine: Engine, clock: Clock) -> None:
    oar = two_clusters(engine)
    some_jobs(oar)
    site = recorded(engine, BILLING)
    before = site.amounts()
    clock.now = T0 + 60 * DAY
    site.accounting.catch_up()
    assert site.accounting.purge(T0 + 30 * DAY)[1] == 6
    assert site.amounts() == before
    assert site.accounting.rebuild(metric="billing", from_oar=True).problems == ()
    assert site.amounts() == before
    for toml in (BILLING.replace("0.5", "0.6"), BILLING.replace('distinct = "core"', "count=true")):
        with pytest.raises(Purged, match="metric billing is recorded under another definition"):
            opened(engine, toml).rebuild(metric="billing")
    assert Recorded(opened(engine, BILLING)).amounts() == before
    assert site.accounting.verify() == []


@on_sqlite
def test_a_property_that_oar_does_not_have_is_named_with_its_own_metric(engine: Engine) -> None:
    SmallOar(engine)
    toml = BILLING.replace('sum = "mem"', 'sum = "memnode"')
    reason = r"\[metrics\.memory\]: sum = 'memnode' is not a property of OAR's resources"
    recorded(engine, "")
    with pytest.raises(SettingsError, match=reason):
        opened(engine, toml).rebuild(metric="billing")


def test_the_command_says_where_a_formula_is_broken(database: Database, tmp_path: Path) -> None:
    engine = create_engine(database.url)
    SmallOar(engine)
    engine.dispose()
    config = tmp_path / "accounting.toml"
    config.write_text(BILLING.replace("core * 0.5", "cor * 0.5"), encoding="utf-8")
    done = run("--url", database.url, "--config", str(config), "catch-up")
    assert done.returncode == 2
    assert said(done).endswith(
        f"{config}: [metrics.billing]: formula, line 3, column 31: there is no metric 'cor' "
        "(did you mean core?); declared are resource, node, core, memory, billing"
    )

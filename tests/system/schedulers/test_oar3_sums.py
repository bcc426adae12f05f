"""OAR 3's own FAIRSHARE and MULTIFACTOR on our sums, and on OAR's where ours cannot be had."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Engine

from oar_accounting import Accounting, BadSpan, UnknownName
from oar_accounting.karma.sums import UsageSums
from oar_accounting.stubs import oar3 as entry_points
from tests.oar3_site import oar3
from tests.servers import Database
from tests.small_oar import DAY, HOUR, NOW, T0, SmallOar, opened, stopped_clock
from tests.system.schedulers.test_oar3_order import OURS, RECEIVED, Real, heard, told

__all__ = ["heard"]

METRICS = '[metrics.core]\nunit = "core·s"\ndistinct = "core"\n'


@pytest.fixture(autouse=True)
def clock() -> Iterator[None]:
    """The verbs' clock stands still."""
    with stopped_clock():
        yield


def used(engine: Engine, toml: str = METRICS) -> Accounting:
    """Alice and bob used something on two days, in two queues and projects."""
    oar = SmallOar(engine)
    oar.add_job(user="alice", project="p", cores=1, start=T0, stop=T0 + DAY, walltime=2 * DAY)
    oar.add_job(user="alice", project="q", cores=5, start=T0 + DAY, stop=T0 + DAY + HOUR)
    oar.add_job(user="bob", project="q", queue="night", cores=2, start=T0, stop=T0 + HOUR)
    accounting = opened(engine, toml)
    accounting.catch_up()
    return accounting


# -- the sums ----------------------------------------------------------------------------------


def test_asked_and_used_by_project_and_user(engine: Engine) -> None:
    found = used(engine).usage_sums({"core": 1}, ["default"], NOW - 30 * DAY, NOW)
    asked, spent = {"p": 2.0 * DAY, "q": 10.0 * HOUR}, {"p": 1.0 * DAY, "q": 5.0 * HOUR}
    assert found == UsageSums(
        window=(sum(asked.values()), sum(spent.values())),
        by_project=(asked, spent),
        by_user=({"alice": sum(asked.values())}, {"alice": sum(spent.values())}),
    )


def test_metrics_are_weighed_and_queues_added(engine: Engine) -> None:
    accounting = used(engine)
    found = accounting.usage_sums({"core": 2, "node": 10}, ["night", "default"], T0, NOW)
    # Five cores lie on two nodes.
    assert found.by_user[1] == {"alice": 12 * DAY + 30 * HOUR, "bob": 14 * HOUR}
    assert accounting.usage_sums({"core": 1}, ["none"], T0, NOW) == UsageSums(
        window=(1.0, 1.0), by_project=({}, {}), by_user=({}, {})
    )


def test_a_window_counts_in_part_and_the_running_day_too(engine: Engine) -> None:
    accounting = used(engine)
    half = T0 + DAY // 2
    assert accounting.usage_sums({"core": 1}, ["default"], half, T0 + DAY).by_user[1] == {
        "alice": DAY / 2
    }
    # OAR 3 does not see a window before it is over.
    now = T0 + DAY + 2 * HOUR
    assert accounting.usage_sums({"core": 1}, ["default"], half, now).by_project[1] == {
        "p": DAY / 2,
        "q": 5 * HOUR,
    }


def test_amounts_in_thousandths_are_amounts_of_the_unit(engine: Engine) -> None:
    formula = "resource * 0.5 [half/resource]"
    toml = f'[metrics.half]\nunit = "half·s"\nscale = 1000\nformula = "{formula}"\n'
    found = used(engine, toml).usage_sums({"half": 1}, ["night"], T0, NOW)
    assert found.window == (2 * HOUR, HOUR)


def test_jobs_that_run_count(engine: Engine) -> None:
    accounting = used(engine)
    SmallOar(engine, create=False, nodes=0).add_job(
        user="carol", cores=8, start=NOW - HOUR, state="Running", job_id=9
    )
    assert accounting.usage_sums({"core": 1}, ["default"], T0, NOW).by_user[1]["carol"] == 8 * HOUR


def test_what_cannot_be_summed_is_an_error(engine: Engine) -> None:
    accounting = used(engine)
    with pytest.raises(UnknownName, match="metric 'gpu'"):
        accounting.usage_sums({"gpu": 1}, ["default"], T0, NOW)
    with pytest.raises(BadSpan):
        accounting.usage_sums({"core": 1}, ["default"], NOW, NOW)


# -- behind OAR's platform ---------------------------------------------------------------------


class Platform:
    """OAR's, as far as its karma asks it."""

    def get_sum_accounting_window(self, *_: object) -> tuple[float, float]:
        """Of all: asked, used."""
        return (1, 1)

    def get_sum_accounting_by_project(self, *_: object) -> tuple[dict[str, float], ...]:
        """By project."""
        return ({"theirs": 1.0}, {})

    def get_sum_accounting_by_user(self, *_: object) -> tuple[dict[str, float], ...]:
        """By user."""
        return ({}, {"theirs": 1.0})


THEIRS = [(1, 1), ({"theirs": 1.0}, {}), ({}, {"theirs": 1.0})]


def asked_of(plt: Platform, *, queues: object = ("default",)) -> list[Any]:
    """What OAR's karma is answered."""
    names = entry_points.ASKED_BY
    return [getattr(plt, name)(None, queues, NOW - 30 * DAY, NOW) for name in names]


def replaced(config: object, plt: Platform | None = None) -> Platform:
    """A platform that our entry point has been shown."""
    found = plt or Platform()
    entry_points.count_usage(None, None, found, [], {}, 60, [], NOW, config)
    return found


def config_of(directory: Path, database: Database, **others: object) -> str:
    """The JSON of oar.conf, with settings that name the database."""
    file = directory / "site.toml"
    file.write_text(f'oar_url = "{database.url}"\n{METRICS}', encoding="utf-8")
    return json.dumps({"config": str(file), "metric": "core", "limit": 30} | others)


@pytest.mark.databases("postgresql")
def test_oars_karma_sees_our_sums(
    engine: Engine, database: Database, tmp_path: Path, caplog: Any
) -> None:
    used(engine)
    plt = replaced(config_of(tmp_path, database))
    first = asked_of(plt)
    assert first[0] == (2 * DAY + 10 * HOUR, DAY + 5 * HOUR)
    assert first[1][1] == {"p": DAY, "q": 5 * HOUR}
    assert first[2] == ({"alice": 2 * DAY + 10 * HOUR}, {"alice": DAY + 5 * HOUR})
    # OAR shows it every group of queues.
    assert asked_of(replaced(config_of(tmp_path, database), plt)) == first
    assert asked_of(plt, queues=["night"])[2][1] == {"bob": 2 * HOUR}
    assert told(caplog) == []


@pytest.mark.databases("postgresql")
def test_one_question_answers_all_three(
    engine: Engine, database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    used(engine)
    asked: list[float] = []
    ask = entry_points.ask

    def counted(request: Any, seconds: float) -> entry_points.Answer:
        asked.append(seconds)
        return ask(request, seconds)

    monkeypatch.setattr(entry_points, "ask", counted)
    plt = replaced(config_of(tmp_path, database))
    assert asked_of(plt) == asked_of(plt)
    assert asked == [30]


@pytest.mark.databases("postgresql")
def test_oars_own_sums_count_for_the_whole_round_once_ours_fail(
    engine: Engine, database: Database, tmp_path: Path, caplog: Any
) -> None:
    used(engine)
    plt = replaced(config_of(tmp_path, database, metric="gpu"))
    assert asked_of(plt) == THEIRS
    assert asked_of(plt, queues=["night"]) == THEIRS
    (line,) = told(caplog)
    assert line.startswith("oar_accounting: OAR's own sums count: metric 'gpu'")


BAD = {
    "": '"metrics" must be an object',
    "metric: core": "JSON object",
    '{"metric": ["core"]}': '"metric" must be a name',
    '{"metrics": {}}': '"metrics" must be an object',
    '{"metrics": {"core": 0}}': "numbers above 0",
    '{"metrics": {"core": "1"}}': "numbers above 0",
    '{"metric": "core", "show": true}': "unknown key 'show'",
    '{"metric": "core", "limit": -1}': "limit must be seconds",
}


@pytest.mark.parametrize("config", BAD)
def test_a_bad_config_leaves_oars_own(config: str, caplog: Any) -> None:
    assert asked_of(replaced(config)) == THEIRS
    (line,) = told(caplog)
    assert BAD[config] in line
    assert "EXTRA_METASCHED_CONFIG" in line


def test_a_platform_that_is_not_as_expected_is_left_alone(caplog: Any) -> None:
    entry_points.count_usage(None, None, object(), [], {}, 60, [], NOW, '{"metric": "core"}')
    assert len(told(caplog)) == 1


# -- in OAR 3 itself ---------------------------------------------------------------------------


@pytest.mark.oar3
@pytest.mark.databases("postgresql")
@pytest.mark.parametrize("metric", ["core", "nothing"])
def test_fairshare_of_oar_3_runs_on_our_metric(  # noqa: PLR0913 - fixtures
    engine: Engine,
    database: Database,
    tmp_path: Path,
    caplog: Any,
    monkeypatch: pytest.MonkeyPatch,
    metric: str,
) -> None:
    (tmp_path / "quiet.conf").write_text('LOG_LEVEL="1"\n', encoding="utf-8")
    monkeypatch.setenv("OARCONFFILE", str(tmp_path / "quiet.conf"))
    for name in ("create_almighty_socket", "notify_almighty", "notify_tcp_socket"):
        monkeypatch.setattr(oar3().tools, name, lambda *_: "")
    monkeypatch.setattr(oar3().tools, "get_date", None)
    waiting = Real(database.url, tmp_path, engine)
    settings = waiting.site.config
    settings["EXTRA_METASCHED"] = "accounting"
    settings["EXTRA_METASCHED_CONFIG"] = config_of(tmp_path, database, metric=metric)
    order = waiting.order("{}", priority="FAIRSHARE")
    assert order == (OURS if metric == "core" else RECEIVED)
    assert len(told(caplog)) == (metric != "core")

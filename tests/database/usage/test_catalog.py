"""What can be asked of a site, and that all of it can be asked."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner
from sqlalchemy import Engine

from oar_accounting import Accounting, Catalog, UnknownName
from oar_accounting.cli import app
from tests.database.ledger.test_openings import write_counted
from tests.servers import Database
from tests.small_oar import DAY, HOUR, T0, Clock, SmallOar, opened, stopped_clock

TOML = """
window = 3600
timezone = "Europe/Paris"
[metrics.core]
unit = "core·s"
distinct = "core"
[metrics.memory]
unit = "MiB·s"
sum = "mem"
per = "network_address"
scale = 10
[metrics.licence]
unit = "licence·s"
count = true
type = "licence"
[metrics.double]
unit = "core·s"
formula = "2 * core"
"""
LABORATORIES = "user,laboratory,valid_from,valid_to\nalice,lig,,\n"


@pytest.fixture(autouse=True)
def clock() -> Iterator[Clock]:
    with stopped_clock() as stopped:
        stopped.now = T0 + 90 * DAY
        yield stopped


@pytest.fixture
def site(engine: Engine) -> Accounting:
    """A job that began 100 s into an hour, and one of long before."""
    oar = SmallOar(engine)
    oar.add_job(user="alice", start=T0 + 100)
    accounting = opened(engine, TOML)
    accounting.catch_up()
    return accounting


def test_it_names_metrics_keys_and_times(site: Accounting, clock: Clock) -> None:
    site.import_attributes(LABORATORIES)
    clock.now += HOUR
    found = site.catalog()
    assert (found.site, found.timezone, found.window) == ("oar", "Europe/Paris", HOUR)
    assert found.keys == (
        *("site", "user", "project", "queue", "cluster"),
        *("laboratory", "job", "type", "state", "size"),
    )
    assert found.attributes == (("laboratory", "user"),)
    assert (found.recorded_from, found.recorded_until) == (T0, clock.now - HOUR)
    assert (found.purged_before, found.now) == (None, clock.now)
    told = {m.name: (m.unit, m.scale, m.form, m.of, m.per, m.type) for m in found.metrics}
    assert told["core"] == ("core·s", 1, "distinct", "core", "", "default")
    assert told["memory"] == ("MiB·s", 10, "sum", "mem", "network_address", "default")
    assert told["licence"] == ("licence·s", 1, "count", "", "", "licence")
    assert told["double"] == ("core·s", 1, "formula", "2 * core", "", "default")
    assert list(told) == ["resource", "node", "core", "memory", "licence", "double"]


def test_all_that_it_names_can_be_asked(site: Accounting) -> None:
    found = site.catalog()
    for key in found.keys:
        rows = site.usage((key,), [each.name for each in found.metrics], found.recorded_from).rows
        assert {row.metric for row in rows} >= {"resource", "core", "double"}
    units = {row.metric: row.unit for row in site.usage(()).rows}
    assert units == {each.name: each.unit for each in found.metrics if each.name in units}
    assert site.usage((), ("resource",), None, found.recorded_from).rows == ()


def test_what_was_taken_over_begins_it(engine: Engine) -> None:
    SmallOar(engine).add_job(start=T0)
    first = (T0 // DAY - 700) * DAY
    write_counted(engine, {(first, first + DAY - 1, "bob", "default", "default", "USED"): 42})
    accounting = opened(engine)
    accounting.catch_up()
    assert accounting.catalog().recorded_from == T0 // DAY * DAY
    accounting.import_accounting()
    assert accounting.catalog().recorded_from == first


def test_a_site_without_jobs_has_metrics_and_keys(engine: Engine) -> None:
    SmallOar(engine)
    accounting = opened(engine)
    with pytest.raises(UnknownName, match="is not recorded here"):
        accounting.catalog()
    accounting.catch_up()
    found = accounting.catalog()
    assert [each.name for each in found.metrics] == ["resource", "node"]
    assert found.recorded_from is None


def test_what_is_purged_is_told(site: Accounting) -> None:
    site.purge(T0 + 30 * DAY)
    assert site.catalog().purged_before == T0 + 30 * DAY
    assert site.catalog().recorded_from == T0


def run(database: Database, *words: str) -> str:
    config = Path("small_oar.toml")
    given = ["--url", database.url, "--config", str(config), "catalog", *words]
    done = CliRunner().invoke(app.main, given)
    assert done.exit_code == 0, done.output
    return done.stdout


def test_the_command_says_the_same(site: Accounting, database: Database) -> None:
    found: Catalog = site.catalog()
    said = json.loads(run(database, "--json"))
    assert said["keys"] == list(found.keys)
    assert [each["name"] for each in said["metrics"]] == [each.name for each in found.metrics]
    assert (said["recorded_from"], said["attributes"]) == (T0, {})
    table = {line.split("  ")[0]: line.strip() for line in run(database).splitlines()}
    assert table["time zone"].split() == ["time", "zone", "Europe/Paris"]
    assert table["recorded until"].endswith(", 0 s ago")
    assert table["memory"].split("  ")[-1].strip() == "mem added up, once for each network_address"
    assert "MiB·s/10" in table["memory"]
    assert table["licence"].endswith("resources, resources of type licence")
    assert table["double"].split()[-3:] == ["2", "*", "core"]

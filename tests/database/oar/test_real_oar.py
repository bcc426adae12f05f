"""What a real OAR 2.5.9 left, against what its own accounting made of it.

``profile = "classic"`` is the reading of ``oaraccounting``, row by row, for windows of a day, an
hour and a minute. The default reading differs at the jobs that are named here, and nowhere else.
"""

import json
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Connection, Engine, create_engine, insert, text

from oar_accounting.oar import oar_tables
from tests.servers import Server, fresh_database
from tests.small_oar import Recorded, recorded

DATA = Path(__file__).parents[2] / "data"
WINDOWS = (86_400, 3_600, 60)

Key = tuple[int, str, str, str]  # start of the window, user, project, queue
Totals = dict[Key, tuple[int, int]]  # asked and used, in resource-seconds


@dataclass(frozen=True, slots=True)
class Difference:
    """What the default reading takes from a job, and why; seconds times resources."""

    why: str
    asked: int
    used: int


#: Job 19 was suspended on one resource, 57 and 93 on two; 25 held the four of its container 24.
DIFFERENCES: dict[int, Difference] = {
    19: Difference("suspended", asked=0, used=10),
    25: Difference("within a container", asked=80, used=28),
    46: Difference("never ran", asked=120, used=0),
    49: Difference("never ran", asked=120, used=0),
    57: Difference("suspended", asked=0, used=2 * 9),
    93: Difference("suspended", asked=0, used=2 * 9),
    100: Difference("never ran", asked=120, used=0),
}
SUSPENDED = {job for job, each in DIFFERENCES.items() if each.why == "suspended"}


def loaded(name: str) -> dict[str, Any]:
    """A file of the directory ``data``."""
    content: dict[str, Any] = json.loads((DATA / name).read_text(encoding="utf-8"))
    return content


def fill(connection: Connection) -> None:
    """Create the tables of OAR and put in what the real one left."""
    tables = {**oar_tables.metadata.tables, "resource_logs": oar_tables.resource_logs}
    for table in tables.values():
        table.create(connection)
    for name, content in loaded("real_oar_2_5_9.json")["tables"].items():
        table = tables[name]
        rows = [dict(zip(content["columns"], row, strict=True)) for row in content["rows"]]
        rows = [{k: v for k, v in row.items() if k in table.columns} for row in rows]
        if name == "jobs":
            rows = [{**r, "suspended": "YES" if r["job_id"] in SUSPENDED else "NO"} for r in rows]
        connection.execute(insert(table), rows)


@pytest.fixture(scope="module")
def real_oar(server: Server) -> Iterator[Engine]:
    """An engine on the real rows; what is recorded stands beside them, a site for each way."""
    with fresh_database(server) as database:
        engine = create_engine(database.url)
        with engine.begin() as connection:
            fill(connection)
        yield engine
        engine.dispose()


def at_site(engine: Engine, profile: str, window: int = 86_400) -> Recorded:
    """What is recorded with this profile and window."""
    toml = f'profile = "{profile}"\nwindow = {window}\n'
    return recorded(engine, toml, site=f"{profile} {window}")


def totals(site: Recorded) -> Totals:
    """Asked and used of the metric ``resource``, per window and account."""
    return {
        (start, user, project, queue): (asked, used)
        for start, (user, project, queue, _), metric, asked, used in site.everything()["totals"]
        if metric == "resource"
    }


def oaraccounting(window: int) -> Totals:
    """What the real command wrote."""
    content = loaded("real_oaraccounting.json")["windows"][str(window)]
    assert content["columns"] == ["window_start", "user", "project", "queue", "asked", "used"]
    return {tuple(row[:4]): (row[4], row[5]) for row in content["rows"]}


#: OAR's reading in SQL: asked and used seconds, times the resources of type default.
PLAIN_SQL = """
SELECT j.job_id, j.job_user, j.project, j.queue_name, j.start_time, j.stop_time,
       m.moldable_walltime, COUNT(*) AS held
FROM jobs j
JOIN moldable_job_descriptions m ON m.moldable_id = j.assigned_moldable_job
JOIN assigned_resources a ON a.moldable_job_id = m.moldable_id
JOIN resources r ON r.resource_id = a.resource_id AND r.type = 'default'
WHERE j.state IN ('Terminated', 'Error') AND j.start_time > 1 AND j.stop_time >= j.start_time
GROUP BY j.job_id, j.job_user, j.project, j.queue_name, j.start_time, j.stop_time,
         m.moldable_walltime
"""


def plainly(engine: Engine, window: int) -> Totals:
    """The same by plain SQL and a loop over the windows of each job."""
    amounts: defaultdict[Key, list[int]] = defaultdict(lambda: [0, 0])
    with engine.connect() as connection:
        rows = connection.execute(text(PLAIN_SQL)).all()
    for _, user, project, queue, start, stop, walltime, held in rows:
        for kind, end in enumerate((start + walltime, stop)):
            at = start
            while at < end:
                bound = min(end, (at // window + 1) * window)
                amounts[at // window * window, user, project, queue][kind] += held * (bound - at)
                at = bound
    return {key: (asked, used) for key, (asked, used) in amounts.items()}


@pytest.mark.parametrize("window", WINDOWS)
def test_classic_is_what_oaraccounting_itself_computed(real_oar: Engine, window: int) -> None:
    found = totals(at_site(real_oar, "classic", window))
    assert found == oaraccounting(window)
    assert found == plainly(real_oar, window)


def per_job(site: Recorded) -> dict[int, tuple[int, int]]:
    """Asked and used resource-seconds of every recorded job, from its spans and rates."""
    content = site.everything()
    rates = {
        job: held
        for job, _, metric, held, _, _ in content["accounting_rates"]
        if metric == "resource"
    }
    amounts = {job: [0, 0] for job in site.jobs()}
    for job, asked, start, stop in content["accounting_spans"]:
        amounts[job][1 - asked] += (stop - start) * rates[job]
    return {job: (asked, used) for job, (asked, used) in amounts.items()}


def test_the_default_reading_differs_at_the_named_jobs_only(real_oar: Engine) -> None:
    classic = per_job(at_site(real_oar, "classic"))
    default = per_job(at_site(real_oar, "default"))
    assert set(classic) == set(default) == set(range(1, 103))
    taken = {
        job: (classic[job][0] - default[job][0], classic[job][1] - default[job][1])
        for job in classic
        if classic[job] != default[job]
    }
    assert taken == {job: (each.asked, each.used) for job, each in DIFFERENCES.items()}


def test_the_totals_of_the_default_reading_differ_by_the_named_jobs_only(
    real_oar: Engine,
) -> None:
    classic = at_site(real_oar, "classic").by("user")
    default = at_site(real_oar, "default").by("user")
    asked = sum(each.asked for each in DIFFERENCES.values())
    used = sum(each.used for each in DIFFERENCES.values())
    # All of these jobs are alice's.
    assert default == {
        **classic,
        "alice": (classic["alice"][0] - asked, classic["alice"][1] - used),
    }


@pytest.mark.databases("sqlite")
@pytest.mark.parametrize("profile", ["classic", "default"])
def test_windows_of_any_length_add_up_to_the_same(real_oar: Engine, profile: str) -> None:
    sums: list[Mapping[str, tuple[int, int]]] = [
        at_site(real_oar, profile, window).by("user") for window in WINDOWS
    ]
    assert sums[0] == sums[1] == sums[2]


def test_nothing_of_the_real_oar_is_open_or_a_problem(real_oar: Engine) -> None:
    site = at_site(real_oar, "default")
    assert site.accounting.usage().open_jobs == 0
    assert {row["closed"] for row in site.jobs().values()} == {1}

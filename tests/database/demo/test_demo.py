"""The demonstration: an invented OAR with everything in it that a real one has."""

import re
from collections.abc import Iterator
from importlib.resources import files
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Engine, create_engine, select, text

from oar_accounting.accounting import Accounting
from oar_accounting.demo import demo
from oar_accounting.settings.load import SETTINGS_KEYS, Settings, load_settings
from tests.servers import Database

NOW = 1_795_000_000
DAYS = 30
EXAMPLE = files("oar_accounting").joinpath("accounting.example.toml").read_text(encoding="utf-8")

#: How many there are, per kind of job.
KINDS = {
    "suspended and resumed": """
        SELECT COUNT(*) FROM jobs j WHERE state = 'Terminated' AND suspended = 'YES'
        AND EXISTS (SELECT * FROM job_state_logs l WHERE l.job_id = j.job_id
            AND job_state = 'Suspended' AND date_stop > date_start)
        AND EXISTS (SELECT * FROM job_state_logs l WHERE l.job_id = j.job_id
            AND job_state = 'Resuming' AND date_stop > date_start)""",
    "killed while suspended": """
        SELECT COUNT(*) FROM jobs JOIN job_state_logs USING (job_id)
        WHERE state = 'Error' AND job_state = 'Suspended' AND date_stop = stop_time""",
    "suspended now": """
        SELECT COUNT(*) FROM jobs JOIN job_state_logs USING (job_id)
        WHERE state = 'Suspended' AND job_state = 'Suspended' AND date_stop = 0
        AND stop_time = 0 AND suspended = 'YES'""",
    "container": "SELECT COUNT(*) FROM job_types WHERE type = 'container'",
    "inner, on resources of its container": """
        SELECT COUNT(DISTINCT i.job_id) FROM job_types t
        JOIN jobs i ON i.job_id = t.job_id
        JOIN jobs c ON t.type = 'inner=' || c.job_id
        JOIN assigned_resources ri ON ri.moldable_job_id = i.assigned_moldable_job
        JOIN assigned_resources rc ON rc.moldable_job_id = c.assigned_moldable_job
            AND rc.resource_id = ri.resource_id
        WHERE c.start_time <= i.start_time AND i.stop_time <= c.stop_time""",
    "timesharing": "SELECT COUNT(*) FROM job_types WHERE type = 'timesharing=*,*'",
    "besteffort": """
        SELECT COUNT(*) FROM jobs JOIN job_types USING (job_id)
        WHERE type = 'besteffort' AND queue_name = 'besteffort'""",
    "admin": "SELECT COUNT(*) FROM jobs WHERE queue_name = 'admin'",
    "deploy": "SELECT COUNT(*) FROM job_types WHERE type = 'deploy'",
    "noop": "SELECT COUNT(*) FROM job_types WHERE type = 'noop'",
    "burst": """
        SELECT COUNT(*) FROM (SELECT 1 FROM jobs GROUP BY job_user, submission_time
        HAVING COUNT(*) >= 10) b""",
    "killed at its walltime": """
        SELECT COUNT(*) FROM jobs JOIN moldable_job_descriptions
            ON moldable_id = assigned_moldable_job
        WHERE state = 'Error'
        AND stop_time - start_time - moldable_walltime BETWEEN 1 AND 10""",
    "killed while running": """
        SELECT COUNT(*) FROM jobs JOIN moldable_job_descriptions
            ON moldable_id = assigned_moldable_job
        WHERE state = 'Error' AND suspended = 'NO' AND stop_time > start_time
        AND stop_time - start_time < moldable_walltime""",
    "killed while waiting": """
        SELECT COUNT(*) FROM jobs WHERE state = 'Error' AND start_time = 0 AND stop_time = 0
        AND assigned_moldable_job = 0""",
    "failed at its launch": """
        SELECT COUNT(DISTINCT job_id) FROM jobs
        JOIN assigned_resources ON moldable_job_id = assigned_moldable_job
        WHERE state = 'Error' AND start_time > 1 AND start_time = stop_time""",
    "reservation that never started": """
        SELECT COUNT(*) FROM jobs WHERE state = 'Error' AND start_time > 1
        AND start_time = stop_time AND assigned_moldable_job = 0""",
    "resubmitted": """
        SELECT COUNT(*) FROM jobs a JOIN job_types t ON t.job_id = a.job_id
        JOIN jobs b ON b.submission_time = a.stop_time AND b.job_user = a.job_user
        WHERE t.type = 'idempotent' AND a.state = 'Error' AND b.state = 'Terminated'""",
    "resubmitted, with the times of the killed job": """
        SELECT COUNT(*) FROM jobs a
        JOIN jobs b ON b.start_time = a.start_time AND b.stop_time = a.stop_time
        WHERE a.state = 'Error' AND b.state = 'Waiting' AND b.start_time > 1
        AND b.assigned_moldable_job = 0""",
    "running": "SELECT COUNT(*) FROM jobs WHERE state = 'Running' AND stop_time = 0",
    "launching": "SELECT COUNT(*) FROM jobs WHERE state = 'Launching' AND stop_time = 0",
    "finishing": """
        SELECT COUNT(*) FROM jobs WHERE state = 'Finishing' AND stop_time > start_time""",
    "waiting": "SELECT COUNT(*) FROM jobs WHERE state = 'Waiting' AND start_time = 0",
    "held back": "SELECT COUNT(*) FROM jobs WHERE state = 'Hold' AND start_time = 0",
    "over two clusters": """
        SELECT COUNT(*) FROM (SELECT moldable_job_id FROM assigned_resources
        JOIN resources USING (resource_id) GROUP BY moldable_job_id
        HAVING COUNT(DISTINCT cluster) = 2) m""",
    "with a licence": """
        SELECT COUNT(*) FROM (SELECT moldable_job_id FROM assigned_resources
        JOIN resources USING (resource_id) GROUP BY moldable_job_id
        HAVING COUNT(DISTINCT type) = 2) m""",
    "with a licence alone": """
        SELECT COUNT(*) FROM (SELECT moldable_job_id FROM assigned_resources
        JOIN resources USING (resource_id) GROUP BY moldable_job_id
        HAVING MIN(type) = 'licence') m""",
    "of two moldables": """
        SELECT COUNT(*) FROM jobs a WHERE assigned_moldable_job > 0 AND EXISTS (
        SELECT * FROM moldable_job_descriptions WHERE moldable_id = a.assigned_moldable_job + 1)
        AND NOT EXISTS (SELECT * FROM jobs b
            WHERE b.assigned_moldable_job = a.assigned_moldable_job + 1)""",
    "whose moldable has another number": """
        SELECT COUNT(*) FROM jobs WHERE assigned_moldable_job > 0
        AND assigned_moldable_job <> job_id""",
}


def filled(engine: Engine, *, jobs: int = 1000, seed: int = 2) -> None:
    demo.create_oar(engine)
    demo.fill_oar(engine, now=NOW, jobs=jobs, days=DAYS, seed=seed)


def rows_of(engine: Engine) -> dict[str, list[tuple[Any, ...]]]:
    """All rows of OAR's tables, sorted."""
    with engine.connect() as connection:
        return {
            table.name: sorted(map(tuple, connection.execute(select(table))), key=repr)
            for table in demo.metadata.sorted_tables
        }


@pytest.fixture(scope="module")
def oar(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    """The demonstration in a SQLite file, to be looked at only."""
    engine = create_engine(f"sqlite:///{tmp_path_factory.mktemp('demo') / 'oar.sqlite'}")
    filled(engine)
    yield engine
    engine.dispose()


def another(tmp_path: Path, seed: int) -> dict[str, list[tuple[Any, ...]]]:
    engine = create_engine(f"sqlite:///{tmp_path / 'another.sqlite'}")
    try:
        filled(engine, seed=seed)
        return rows_of(engine)
    finally:
        engine.dispose()


def test_the_same_seed_gives_the_same_rows(oar: Engine, tmp_path: Path) -> None:
    assert another(tmp_path, seed=2) == rows_of(oar)


def test_another_seed_gives_other_jobs_on_the_same_machine(oar: Engine, tmp_path: Path) -> None:
    rows, others = rows_of(oar), another(tmp_path, seed=3)
    assert rows["resources"] == others["resources"]
    assert rows["jobs"] != others["jobs"]
    assert len(rows["jobs"]) == len(others["jobs"]) == 1000


def test_the_tables_are_created_once(oar: Engine) -> None:
    before = rows_of(oar)
    demo.create_oar(oar)
    assert rows_of(oar) == before


@pytest.mark.parametrize(("jobs", "days"), [(demo.FEWEST_JOBS - 1, 30), (5000, 2), (5000, 0)])
def test_what_cannot_be_told_is_refused(oar: Engine, jobs: int, days: int) -> None:
    with pytest.raises(ValueError, match=f"not {jobs} in {days} days"):
        demo.fill_oar(oar, now=NOW, jobs=jobs, days=days)


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_job_is_there(oar: Engine, kind: str) -> None:
    with oar.connect() as connection:
        assert connection.execute(text(KINDS[kind])).scalar_one() >= 3


def test_nothing_is_later_than_now(oar: Engine) -> None:
    """Only the starts that OAR 3 predicts for waiting jobs are."""
    late = """
        SELECT COUNT(*) FROM jobs WHERE submission_time > :now OR stop_time > :now
        OR (start_time > :now AND state <> 'Waiting')"""
    with oar.connect() as connection:
        assert connection.execute(text(late), {"now": NOW}).scalar_one() == 0


def test_names_that_are_easily_mixed_up_are_there(oar: Engine) -> None:
    with oar.connect() as connection:
        users = set(connection.execute(text("SELECT DISTINCT job_user FROM jobs")).scalars())
        projects = set(connection.execute(text("SELECT DISTINCT project FROM jobs")).scalars())
    assert {"bob", "Bob", "zoé", "o'neill"} <= users
    assert "l'eau" in projects


def test_no_resource_is_held_by_two_jobs_at_once(oar: Engine) -> None:
    """But for jobs within containers and for timesharing, which is what these are for."""
    query = text("""
        SELECT resource_id, start_time, CASE stop_time WHEN 0 THEN :now ELSE stop_time END
        FROM jobs JOIN assigned_resources ON moldable_job_id = assigned_moldable_job
        WHERE start_time <> stop_time AND job_id NOT IN (
            SELECT job_id FROM job_types WHERE type LIKE 'inner=%' OR type LIKE 'timesharing%')
        ORDER BY resource_id, start_time""")
    with oar.connect() as connection:
        held = connection.execute(query, {"now": NOW}).fetchall()
    assert len(held) > 10_000
    for (one, _, stop), (other, start, _) in pairwise(held):
        assert one != other or stop <= start


def used_by_hand(engine: Engine) -> int:
    """Seconds times resources of type default of all jobs that ended, without their pauses."""
    spans = text("""
        SELECT j.job_id, stop_time - start_time, COUNT(*)
        FROM jobs j JOIN assigned_resources ON moldable_job_id = assigned_moldable_job
        JOIN resources r ON r.resource_id = assigned_resources.resource_id
        WHERE r.type = 'default' AND j.state IN ('Terminated', 'Error', 'Finishing')
        AND j.job_id NOT IN (SELECT job_id FROM job_types WHERE type LIKE 'inner=%')
        GROUP BY j.job_id, start_time, stop_time""")
    pauses = text("""
        SELECT job_id, SUM(date_stop - date_start) FROM job_state_logs
        WHERE job_state IN ('Suspended', 'Resuming') AND date_stop > 0 GROUP BY job_id""")
    with engine.connect() as connection:
        paused = {job: int(seconds) for job, seconds in connection.execute(pauses)}
        return sum((s - paused.get(j, 0)) * n for j, s, n in connection.execute(spans))


def test_the_demonstration_is_recorded_without_a_problem(
    database: Database, engine: Engine, tmp_path: Path
) -> None:
    filled(engine, jobs=600)
    config = tmp_path / "accounting.toml"
    config.write_text(demo.DEMO_TOML, encoding="utf-8")
    with Accounting.open(url=database.url, config=config) as accounting:
        accounting.init()
        first = accounting.catch_up()
        again = accounting.catch_up()
        assert accounting.verify() == []
        usage = accounting.usage(("user",))
    assert (first.problems, first.notices) == ((), ())
    assert first.done > 500
    assert first.open >= 9  # three each that are launching, running, suspended
    assert (again.done, again.changed, again.problems) == (0, 0, ())
    assert {row.metric for row in usage.rows} == {"core", "gpu", "memory", "node", "resource"}
    used = sum(row.used for row in usage.rows if row.metric == "resource")
    assert used == sum(row.used for row in usage.rows if row.metric == "core")
    assert used == used_by_hand(engine)


# -- the files of settings --------------------------------------------------------------------


def loaded(config: Path, content: str) -> Settings:
    config.write_text(content, encoding="utf-8")
    return load_settings(config=config, url="sqlite:///oar.sqlite", environ={})


def uncommented(content: str) -> str:
    """The settings that stand in comments; the words of explanation are left alone."""
    return re.sub(r"^#(?=[a-z\[])", "", content, flags=re.MULTILINE)


def test_the_settings_of_the_demonstration(tmp_path: Path) -> None:
    metrics = {metric.name: metric for metric in loaded(tmp_path / "a", demo.DEMO_TOML).metrics}
    assert list(metrics) == ["resource", "node", "core", "gpu", "memory"]
    assert metrics["memory"].unit == "MiB·s"
    assert metrics["memory"].properties == ("mem_mib", "network_address")


def test_the_example_changes_nothing_as_it_is_shipped(tmp_path: Path) -> None:
    config = tmp_path / "accounting.toml"
    assert loaded(config, EXAMPLE) == loaded(config, "")


def test_the_example_shows_the_defaults_and_metrics_to_switch_on(tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("secret\n", encoding="utf-8")
    content = re.sub(r'"/etc/oar/[^"]*"', f'"{tmp_path / "secret"}"', uncommented(EXAMPLE))
    shown, default = loaded(tmp_path / "a", content), loaded(tmp_path / "b", "")
    for key in ("containers", "names", "profile", "recheck_days", "site", "window"):
        assert getattr(shown, key) == getattr(default, key), key
    assert shown.dimension == "cluster"
    assert [metric.name for metric in shown.metrics] == [
        *("resource", "node", "core", "gpu", "memory", "licence"),
        *("billing", "billing_max_tres", "billing_max_tres_gres", "lumi", "cost"),
    ]


@pytest.mark.parametrize("key", SETTINGS_KEYS)
def test_the_example_has_every_key(key: str) -> None:
    assert re.search(rf"^#(\[{key}[.\]]|{key} = )", EXAMPLE, flags=re.MULTILINE)

"""``--dry-run`` of what cannot be taken back: purge, forget-user, retire. It changes nothing."""

import json
from collections.abc import Callable, Iterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sqlalchemy import Engine, func, select
from sqlalchemy.engine import make_url

from oar_accounting import Accounting, BadSpan, DryRun, UnknownName, WriterBusy
from oar_accounting.ledger import schema
from oar_accounting.ledger.ledger import Ledger
from oar_accounting.metrics.metric import NODE
from tests.database.reports.test_after_purge import purge, scratch
from tests.examples import examples
from tests.old_site import OldSite
from tests.servers import Database
from tests.small_oar import DAY, HOUR, NOW, T0, Clock, stopped_clock
from tests.strategies import Job, batches, rows_in
from tests.system.cli.test_cli import run, said

on_sqlite = pytest.mark.databases("sqlite")

BOUND = T0 - 10 * DAY
FIRST = T0 - 30 * DAY


@pytest.fixture(autouse=True)
def clock() -> Iterator[Clock]:
    """The verbs' clock stands at `NOW`."""
    with stopped_clock() as stopped:
        yield stopped


@pytest.fixture
def site(engine: Engine) -> OldSite:
    """Two old jobs of alice, of which OAR has the second, and a new one of bob, all adjusted."""
    site = OldSite(engine)
    first = site.add_job(30, user="alice", project="alice", cores=5, seconds=DAY + 7)
    site.add_job(20, user="alice")
    site.add_job(1)
    accounting = site.accounting
    assert accounting.catch_up().problems == ()
    accounting.import_attributes("user,laboratory\nalice,LIG\nbob,LIG")
    accounting.adjust(
        user="alice",
        project="alice",
        queue="default",
        property="alpha",
        metric="resource",
        start=T0,
        stop=T0 + HOUR,
        used=-1,
        reason="alice asked for it",
        author="root",
    )
    site.oar.remove_job(first)
    return site


def everything(engine: Engine) -> dict[str, list[tuple[object, ...]]]:
    """Every row of our tables."""
    with engine.connect() as connection:
        return {table.name: rows_in(connection, table) for table in schema.metadata.sorted_tables}


#: The verbs, and what they are given.
VERBS: dict[str, tuple[list[str], Callable[[Accounting], DryRun]]] = {
    "purge": (
        ["purge", "--before", str(BOUND + 5)],
        lambda accounting: accounting.purge(BOUND + 5, dry_run=True),
    ),
    "forget-user": (
        ["forget-user", "alice"],
        lambda accounting: accounting.forget_user("alice", dry_run=True),
    ),
    "retire": (["retire", "--from", "1"], lambda accounting: accounting.retire(1, dry_run=True)),
}
#: Two jobs with two spans each, and a rate of two metrics; three accounts of alice, what she
#: belongs to and the reason that names her; a row, two spans and two rates of the job that is gone.
PLANS = {
    "purge": DryRun(jobs=2, rows=8, start=FIRST, stop=FIRST + 10 * DAY + HOUR, before=BOUND),
    "forget-user": DryRun(jobs=2, rows=6, start=FIRST, stop=FIRST + 10 * DAY + HOUR),
    "retire": DryRun(jobs=1, rows=5, start=FIRST, stop=FIRST + DAY + 7),
}


@pytest.mark.parametrize("verb", VERBS)
def test_it_says_what_would_be_done_and_writes_nothing(
    site: OldSite, engine: Engine, verb: str
) -> None:
    before = everything(engine)
    assert VERBS[verb][1](site.accounting) == PLANS[verb]
    assert everything(engine) == before


def test_it_says_what_is_done_then(site: OldSite, engine: Engine) -> None:
    accounting = site.accounting
    assert accounting.purge(BOUND) == (BOUND, PLANS["purge"].jobs)
    assert accounting.purge(BOUND, dry_run=True).jobs == 0
    # What is kept of purged jobs moves with them.
    kept = accounting.retire(1, dry_run=True)
    assert (kept.jobs, kept.start) == (1, FIRST)
    assert accounting.retire(1) == 1
    assert accounting.retire(1, dry_run=True) == DryRun(jobs=0, rows=0, start=None, stop=None)
    names = accounting.forget_user("alice", dry_run=True)
    assert (names.jobs, names.start) == (2, FIRST)
    pseudonym = accounting.forget_user("alice")
    with pytest.raises(UnknownName, match="is forgotten already"):
        accounting.forget_user(pseudonym, dry_run=True)


@settings(max_examples=examples(30))
@given(some=batches(), bound=st.sampled_from([0, DAY, 1_700_006_400, 2**31, 2**44]))
def test_what_a_purge_would_drop_is_what_it_drops(some: list[Job], bound: int) -> None:
    with scratch(DAY, some) as accounting, stopped_clock() as clock:
        clock.now = 2**44 + 1000 * DAY
        plan = accounting.purge(bound, dry_run=True)
        before = details(accounting)
        assert plan.jobs == purge(accounting, bound)
        assert plan.rows == before - details(accounting)
        assert accounting.purge(bound, dry_run=True).jobs == 0


def details(accounting: Accounting) -> int:
    """How many rows there are of spans, rates, and what was measured of jobs."""
    with accounting.engine.connect() as connection:
        return sum(
            connection.execute(
                select(func.count()).where(table.c.job_id != schema.CARRIED)
            ).scalar_one()
            for table in (schema.spans, schema.rates, schema.entries)
        )


@on_sqlite
def test_it_is_refused_where_the_verb_would_be(engine: Engine, site: OldSite) -> None:
    accounting = site.accounting
    with pytest.raises(BadSpan, match="too late to purge before"):
        accounting.purge(NOW, dry_run=True)
    with pytest.raises(UnknownName, match="nothing is recorded of a user 'nobody'"):
        accounting.forget_user("nobody", dry_run=True)
    with Ledger(accounting.engine, "oar").writing() as book:
        book.begin_metric(replace(NODE, name="core"))
    for verb in ("purge", "retire"):
        with pytest.raises(WriterBusy, match="half built"):
            VERBS[verb][1](accounting)


SAID = {
    "purge": (
        "2 jobs that ended before 2023-11-04 00:00:00 UTC would be purged, and 8 rows removed"
    ),
    "forget-user": "alice would be replaced by a pseudonym in 6 rows, for 2 jobs",
    "retire": "the ids of 1 jobs would be freed, in 5 rows",
}
LAST = {
    "purge": "2023-10-25 01:00:00",
    "forget-user": "2023-10-25 01:00:00",
    "retire": "2023-10-16 00:00:07",
}


@on_sqlite
@pytest.mark.parametrize("verb", VERBS)
def test_the_command_leaves_every_byte_of_the_file(
    database: Database, site: OldSite, verb: str
) -> None:
    site.accounting.close()
    site.engine.dispose()
    file = Path(str(make_url(database.url).database))
    before = file.read_bytes()
    command = VERBS[verb][0]
    done = run("--url", database.url, *command, "--dry-run")
    assert (done.returncode, done.stderr) == (0, "")
    span = f"they ran from 2023-10-15 00:00:00 UTC to {LAST[verb]} UTC; nothing was written\n"
    assert done.stdout == f"{SAID[verb]}; {span}"
    done = run("--url", database.url, *command, "--dry-run", "--json")
    plan: dict[str, Any] = {"dry_run": True, **asdict(PLANS[verb])}
    if verb != "purge":
        del plan["before"]
    assert json.loads(done.stdout) == plan
    assert file.read_bytes() == before


@on_sqlite
def test_scripts_are_told_what_was_done(database: Database, site: OldSite) -> None:
    told = {}
    for verb, (command, _) in VERBS.items():
        told[verb] = json.loads(run("--url", database.url, *command, "--json").stdout)
    assert told["purge"] == {"dry_run": False, "jobs": 2, "before": BOUND}
    assert told["retire"] == {"dry_run": False, "jobs": 1}
    assert told["forget-user"]["pseudonym"].startswith("forgotten-")
    assert site.accounting.verify() == []


@on_sqlite
def test_what_is_refused_is_one_clear_line(database: Database, site: OldSite) -> None:
    assert site.accounting.verify() == []
    done = run("--url", database.url, "purge", "--before", "3000-01-01", "--dry-run")
    assert (done.returncode, "too late to purge before" in said(done)) == (2, True)
    done = run("--url", database.url, "--site", "mistyped", "retire", "--from", "1", "--dry-run")
    assert "'mistyped' is not recorded" in said(done)

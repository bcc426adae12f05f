"""Whatever becomes of the library, a real OAR goes on, and no job is lost from the ledger.

Jobs of a second end all the time. What OAR calls is what "oar-accounting stubs install" has
written. Changes of each kind are made many times, and each time a job ends and a round is run
before it is undone.
"""

import os
import re
from collections import Counter
from collections.abc import Iterator

import pytest

from oar_accounting import Accounting
from tests.changing_library import KINDS, REPETITIONS, Kind
from tests.system.live.conftest import TOLD
from tests.system.live.installed import TOML
from tests.system.live.machine import OAR_CONF, MachineError, run, wait_until
from tests.system.live.reading import job_row
from tests.system.live.test_live import ASKED_FOR, needed
from tests.system.live.upgrades import EPILOGUE, PREFIX, VARIABLES, Stage, opened_stage

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        os.environ.get(ASKED_FOR) != "1",
        reason=f"takes this machine's OAR for itself; {ASKED_FOR}=1 lets it",
    ),
]


@pytest.fixture(scope="module")
def stage(request: pytest.FixtureRequest) -> Iterator[Stage]:
    """A server under a stream of jobs, whose epilogue and karma are ours."""
    needed(request)
    with opened_stage() as opened:
        opened.goes_on(by="service")
        yield opened


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: str(kind.name))
def test_nothing_stops_and_no_job_is_lost(
    kind: Kind, stage: Stage, request: pytest.FixtureRequest
) -> None:
    ended, rounds = stage.watch.ended, len(stage.watch.rounds)
    for number in range(REPETITIONS):
        stage.name_epilogue(own=number % 3 == 1)
        if number % 3 == 2:
            stage.forget_answers()
        with kind.turn(number)(stage, number):
            stage.goes_on()
    ended = stage.watch.ended - ended
    told = kind.told([each.who for each in stage.watch.rounds[rounds:]])
    stage.goes_on(by="service")
    stage.records()
    jobs = len(stage.check_ledger())
    request.config.stash[TOLD].append(
        f"{told}; no queue stopped, {ended} jobs ended, all {jobs} so far are recorded"
    )


def test_every_job_of_oar_counts_once(stage: Stage, request: pytest.FixtureRequest) -> None:
    stage.run_dry()
    jobs = stage.check_ledger()
    for query in ("SELECT job_id FROM jobs", "SELECT job_id FROM accounting_jobs"):
        assert sorted(stage.oar.ask(query)) == [(job,) for job in jobs]
    due = Counter[tuple[str, str]]()
    with stage.oar.connected() as oar:
        for row in (job_row(oar, job) for job in jobs):
            due.update({(row.user, name): each.used for name, each in row.due().items()})
    with Accounting.open(oar_conf=OAR_CONF, config=TOML) as accounting:
        assert accounting.verify() == []
        report = accounting.usage(("user",), ("resource", "node"))
    assert Counter({(row.group[0], row.metric): row.used for row in report.rows}) == due
    request.config.stash[TOLD].append(f"in the end: {len(jobs)} jobs ended, and each counts once")


def test_stubs_stay_as_long_as_oar_needs_them(stage: Stage) -> None:
    stage.flows = True
    stage.name_epilogue(own=True)
    said: list[str] = []
    while first := first_of(stage):
        stage.goes_on(by="service") if not said else stage.ends_jobs()
        run("sh", "-c", first, **stage.oar.administrator())
        said.append(first)
    assert [re.split(r"[ ']", each)[0] for each in said] == ["sed", "psql"]
    assert not EPILOGUE.exists()
    stage.ends_jobs()
    stage.check_running()


def first_of(stage: Stage) -> str:
    """What has to come before the stubs can go; nothing where they are gone."""
    try:
        run(stage.library.command, "stubs", "remove", **VARIABLES)
    except MachineError as error:
        found = re.search("; first: (.*)", str(error))
        assert found is not None, error
        return found[1]
    return ""


def test_without_stubs_all_queues_stop(stage: Stage, request: pytest.FixtureRequest) -> None:
    """As before there were any: what holds above is not for want of looking."""
    hook = PREFIX / "share/oar-accounting/hooks/server_epilogue"
    stage.oar.configure(SERVER_EPILOGUE_EXEC_FILE=str(hook))
    stage.ends_jobs()
    assert stage.watch.shut == set()
    stage.library.uninstall()
    queues = {queue for (queue,) in stage.oar.ask("SELECT queue_name FROM queues")}
    wait_until(lambda: stage.watch.shut == queues, "all queues stop")
    request.config.stash[TOLD].append("without stubs: all queues stopped when pip removed it")

"""Whatever becomes of the library, a real OAR goes on, and no job is lost from the ledger.

Jobs of a second end all the time. What OAR calls is what "oar-accounting stubs install" has
written. Each change is made many times, and each time a job ends and a round is run before it is
undone.
"""

import os
from collections.abc import Iterator

import pytest

from tests.changing_library import CHANGES, REPETITIONS, Change, told_of
from tests.live.conftest import TOLD
from tests.live.test_live import ASKED_FOR, needed
from tests.live.upgrades import Stage, opened_stage

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


@pytest.mark.parametrize("change", CHANGES, ids=lambda change: str(change.__name__))
def test_nothing_stops_and_no_job_is_lost(
    change: Change, stage: Stage, request: pytest.FixtureRequest
) -> None:
    ended, rounds = stage.watch.ended, len(stage.watch.rounds)
    for number in range(REPETITIONS):
        stage.name_epilogue(own=number % 2 == 1)
        if number % 3 == 2:
            stage.forget_answers()
        with change(stage, number):
            stage.goes_on()
    ended = stage.watch.ended - ended
    said = told_of([each.who for each in stage.watch.rounds[rounds:]])
    stage.goes_on(by="service")
    stage.records()
    jobs = stage.check_ledger()
    times = f"{change.__name__}, {REPETITIONS} times"
    went = f"no queue stopped, {ended} jobs ended, orders {said}"
    request.config.stash[TOLD].append(f"{times}: {went}; all {len(jobs)} jobs recorded")

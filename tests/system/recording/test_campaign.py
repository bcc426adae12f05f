"""The campaign, shortened: a few kills, and everything else once."""

from pathlib import Path

import pytest

from tests.campaign.campaign import SHORT, run
from tests.campaign.commands import warm_up
from tests.servers import Server

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module", autouse=True)
def warm() -> None:
    warm_up()


def test_whatever_happens_the_next_run_completes_and_the_law_holds(
    server: Server, tmp_path: Path
) -> None:
    counts = run(server.kind, tmp_path, 1, SHORT, lambda *_: None)
    assert not counts.failure, counts.failure
    assert counts.kills >= SHORT.kills_of(server.kind)
    assert counts.differences == 0

"""Passes whose clock is wrong; the next one's is right."""

from tests.campaign.changing_oar import DAY
from tests.campaign.commands import Changed
from tests.campaign.stage import Stage

JUMPS = (365 * DAY, -DAY)


def clock_jumps(stage: Stage) -> None:
    """Forwards by a year and back, backwards by a day and forth; jobs vanish before and after."""
    for ahead in JUMPS:
        stage.oar.change()
        stage.commands.complete("catch-up", changed=Changed(clock=ahead))
        stage.settle(any_end=True)
        stage.commands.complete("catch-up", changed=Changed(clock=ahead))
        stage.oar.change()
        stage.settle(any_end=True)

"""Commands killed with kill -9: half of them at any moment, half inside a write transaction."""

import time

from tests.campaign.changing_oar import DAY
from tests.campaign.commands import check
from tests.campaign.stage import WINDOWS, Stage

#: Seconds that a command takes, where nothing is known yet: with its imports, and without.
FIRST_GUESS = {True: 1.5, False: 0.5}
#: The share of the kills that must be inside an open write transaction.
QUOTA = 4
#: Rounds in which a command may end before it is killed, per kill. Each second one aims, and each
#: miss makes the next of these aim at earlier moments: not even a fast machine needs as many.
PATIENCE = 12


class Killer:
    """Kills commands on one stage, in rounds after each of which everything must hold."""

    def __init__(self, stage: Stage, *, cold: bool) -> None:
        self._stage = stage
        self._cold = cold
        self._seconds: dict[str, float] = {}
        self._misses = 0  # of those that aimed, in a row
        self._purges = False

    def purge_too(self) -> None:
        """From now on purges are killed as well; window and own metric are no longer changed.

        Nobody can fill a metric for jobs that are purged, nor make smaller windows of what they
        gave, nor purge while a metric is half built.
        """
        self._purges = True
        self._stage.declare(window=max(WINDOWS))
        self._stage.commands.complete("rebuild", "--metric", "memory")
        self._stage.settle()

    def kill(self, count: int) -> None:
        """Kill so many commands, a quarter of them or more inside a write transaction."""
        counts = self._stage.counts
        last_round = counts.rounds + PATIENCE * count
        goal, quota = counts.kills + count, counts.inside + count // QUOTA
        while counts.kills < goal or counts.inside < quota:
            check(counts.rounds < last_round, f"{counts.kills} kills, {counts.inside} inside")
            self._round(aimed=counts.rounds % 2 == 0)

    def _round(self, *, aimed: bool) -> None:
        stage = self._stage
        arguments = self._command(stage.oar.change())
        name = " ".join(arguments[:2]) if arguments[0] == "rebuild" else arguments[0]
        stage.counts.rounds += 1
        running = stage.commands.start(*arguments, cold=self._cold)
        if aimed:
            inside = stage.stopped_inside(running, self._misses)
        else:
            expected = self._seconds.get(name, FIRST_GUESS[self._cold])
            time.sleep(stage.chance.uniform(0.4 if self._cold else 0.0, 1.0) * expected)
            inside = running.stop() and stage.look.inside()
        killed = running.kill()
        if aimed:
            self._misses = 0 if killed else self._misses + 1
        if killed:
            stage.counts.kills += 1
            stage.counts.by_command[name] = stage.counts.by_command.get(name, 0) + 1
            stage.counts.inside += inside and stage.look.rolled_back()
        else:
            left = running.left()
            check(left.code in (0, 1) if arguments[0] == "record" else left.code == 0, str(left))
            self._seconds[name] = left.seconds
        stage.settle()

    def _command(self, changed: list[int]) -> list[str]:
        """What is killed this time; the settings may want another window or metric by now."""
        stage = self._stage
        choice = stage.chance.randrange(7)
        if self._purges and choice in (3, 4):
            days_ago = stage.chance.randint(9, 40)
            return ["purge", "--before", str(int(time.time()) - days_ago * DAY)]
        if choice == 0:
            return ["record", *map(str, changed)]
        if choice == 1:
            if not self._purges:
                stage.other_window()
            return ["rebuild"]
        if choice == 2:
            return ["rebuild", "--from-oar"]
        if choice == 3:
            stage.other_scale()
            return ["rebuild", "--metric", "memory"]
        return ["catch-up", "--full"] if choice == 4 else ["catch-up"]

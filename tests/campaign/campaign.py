"""The whole campaign on one database, step by step."""

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from random import Random

from tests.campaign import faults
from tests.campaign.clocks import clock_jumps
from tests.campaign.commands import CampaignError
from tests.campaign.kills import Killer
from tests.campaign.races import race
from tests.campaign.stage import Counts, Stage, opened_stage
from tests.servers import Kind, MissingServerError

#: Told now and then: what is done, how many steps of how many, and the counts so far.
Progress = Callable[[str, int, int, Counts], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """How much is done."""

    kills: int  #: of commands on each server; a quarter as many on SQLite
    times: int  #: how often each fault is met
    races: int
    jobs: int  #: in OAR at first
    cold: bool  #: commands to be killed begin as people start them, with their imports

    def kills_of(self, kind: Kind) -> int:
        """How many commands are killed on a database."""
        return -(-self.kills // 4) if kind == "sqlite" else self.kills


FULL = Plan(kills=200, times=4, races=8, jobs=1_500, cold=True)
SHORT = Plan(kills=3, times=1, races=1, jobs=250, cold=False)


def run(kind: Kind, directory: Path, seed: int, plan: Plan, progress: Progress) -> Counts:
    """Run the campaign on one kind of database; a failure is told in the counts."""
    began = time.monotonic()
    counts = Counts()
    # Each kind by itself is what it is among others.
    chance = Random(f"{seed} {kind}")
    try:
        with opened_stage(kind, directory, chance, plan.jobs) as stage:
            counts = stage.counts
            steps = [*_steps(stage, plan)]
            for done, (name, step) in enumerate(steps):
                progress(name, done, len(steps), counts)
                try:
                    step()
                except CampaignError as error:
                    raise CampaignError(f"{name}: {error}") from error
            progress("done", len(steps), len(steps), counts)
    except MissingServerError as reason:
        counts.failure = f"no server: {reason}"
    except CampaignError as error:
        counts.failure = str(error)
        progress("failed", 0, 0, counts)
    counts.seconds = time.monotonic() - began
    return counts


def _steps(stage: Stage, plan: Plan) -> Iterator[tuple[str, Callable[[], None]]]:
    for _ in range(plan.times):
        for name, fault in _faults(stage.kind):
            yield name, lambda fault=fault: fault(stage)  # type: ignore[misc]
        yield "clock jumps", lambda: clock_jumps(stage)
    for _ in range(plan.races):
        yield "race", lambda: race(stage)
    killer = Killer(stage, cold=plan.cold)
    kills = plan.kills_of(stage.kind)
    portions = [4] * (kills // 4) + [kills % 4] * (kills % 4 > 0)
    for number, portion in enumerate(portions):
        if number == len(portions) * 2 // 3:
            yield "metric built", killer.purge_too
        yield "kills", lambda portion=portion: killer.kill(portion)  # type: ignore[misc]


def _faults(kind: Kind) -> Iterator[tuple[str, Callable[[Stage], None]]]:
    if kind != "sqlite":
        yield "server killed", faults.server_is_killed
        yield "connections cut", faults.connections_are_cut
        yield "statement time-out", faults.statement_takes_too_long
    if kind == "postgresql":
        yield "process of the server killed", faults.one_process_of_the_server_is_killed
    if kind == "sqlite":
        yield "file full", faults.file_cannot_grow
    yield "lock time-out", faults.lock_is_not_given
    yield "read-only", faults.database_may_not_be_written

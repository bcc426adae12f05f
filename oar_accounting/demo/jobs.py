"""The jobs of the demonstration: what people ask for, played through on the invented site."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from oar_accounting.demo import site
from oar_accounting.demo.site import IDEMPOTENT, Asked, Kind

#: The states of a job whose program has returned something.
ENDED_WELL = ("Terminated", "Finishing")
#: How many jobs `InventedHistory` adds for each of the `site.FEWEST` in a state that lasts.
LASTING_JOBS = 8


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Job:
    """A job from its submission to its end. A start or stop of 0 is none."""

    user: str
    project: str
    submitted: int
    walltime: int  #: seconds
    queue: str = "default"
    types: tuple[str, ...] = ()
    container: "Job | None" = None  #: that it ran in
    state: str = "Waiting"
    start: int = 0
    stop: int = 0
    resources: tuple[int, ...] = ()
    #: when it was suspended, when resumed, when it ran again; 0 where it was not
    pauses: tuple[tuple[int, int, int], ...] = ()
    reserved: bool = False  #: its start was fixed in advance
    name: str = ""
    exit_code: int | None = None  #: as OAR has it: 256 times what the program returned


class InventedHistory:
    """Draws what people ask for, and plays it through on the machine."""

    def __init__(self, rng: np.random.Generator, now: int, days: int) -> None:
        self._rng = rng
        self._now = now
        self._days = days
        self._machine = site.Machine()
        self._projects: list[list[str]] = [
            rng.permutation(site.PROJECT_NAMES)[: rng.integers(1, 4)].tolist() for _ in site.USERS
        ]

    def live(self, jobs: int) -> list[Job]:
        """All jobs, by the time of their submission, each with the end that it comes to."""
        kinds = site.kinds_among(jobs - site.FEWEST * LASTING_JOBS)
        special = [kind for kind in kinds if kind is not site.PLAIN]
        order = [site.PLAIN] * len(kinds)
        # What befalls a job takes its time: nothing shall be cut short by the end of the story.
        early = self._rng.choice(len(kinds) * 4 // 5, len(special), replace=False)
        for place, kind in zip(early.tolist(), special, strict=True):
            order[place] = kind
        drawn = site.asked(self._rng, self._machine.places, self._now, self._days, len(kinds))
        made: list[Job] = []
        for kind, asked in zip(order, drawn, strict=True):
            made += self._played(kind, asked)
        for _ in range(site.FEWEST):
            made += self._lasting()
        return sorted((j for j in made if j.submitted <= self._now), key=lambda j: j.submitted)

    def _between(self, low: int, high: int) -> int:
        """A whole number from *low* to *high*."""
        return int(self._rng.integers(low, high, endpoint=True))

    # -- what comes of it ---------------------------------------------------------------------

    def _played(self, kind: Kind, asked: Asked) -> list[Job]:
        """The jobs that come of it: one, and its company."""
        if kind.wants == "interactive":
            asked = replace(asked, walltime=3_600, run=min(asked.run, 1_800))
        elif "suspended" in kind.ending or kind.company in ("inner", "sharing"):
            # There must be time for what happens meanwhile.
            asked = replace(asked, walltime=max(asked.walltime, 14_400), run=max(asked.run, 7_200))
        if kind.company == "burst":
            runs = self._rng.integers(60, asked.walltime, kind.jobs).tolist()
            return [self._alone(kind, replace(asked, run=run)) for run in runs]
        job = self._alone(kind, asked)
        match kind.company:
            case "inner":
                return [
                    job,
                    *(self._inner(job, nth, kind.jobs - 1) for nth in range(kind.jobs - 1)),
                ]
            case "sharing":
                return [job, self._sharing(job)]
            case "again":
                return [job, self._again(job)]
        return [job]

    def _alone(self, kind: Kind, asked: Asked) -> Job:
        job = Job(
            user=site.USERS[asked.user],
            project=self._project(asked.user),
            submitted=asked.submitted,
            walltime=asked.walltime,
            queue=kind.queue,
            types=kind.types,
        )
        if kind.ending == "never":
            return replace(job, state="Error")
        if kind.ending == "missed":
            begin = job.submitted + self._between(3_600, 14_400)
            return replace(job, state="Error", start=begin, stop=begin, reserved=True)
        wants = site.wants_of(kind, asked.want, self._machine.places)
        start, resources = self._machine.take(wants, job.submitted + self._between(1, 5))
        job = self._ended(replace(job, start=start, resources=resources), kind.ending, asked.run)
        self._machine.keep(job.stop + 1)
        return job

    def _project(self, user: int) -> str:
        projects = self._projects[user]
        return projects[self._between(0, len(projects) - 1)]

    def _ended(self, job: Job, ending: str, run: int) -> Job:
        """The started job as it ends; if nothing befalls it, after *run* seconds."""
        match ending:
            case "walltime":
                # OAR looks every few seconds, and killing takes a few more.
                return replace(
                    job, state="Error", stop=job.start + job.walltime + self._between(1, 8)
                )
            case "killed":
                return replace(job, state="Error", stop=job.start + run)
            case "launch fails":
                return replace(job, state="Error", stop=job.start)
            case "suspended":
                pauses = self._pauses(job.start, run, self._between(1, 2))
                return replace(job, state="Terminated", stop=job.start + run, pauses=pauses)
            case "killed suspended":
                paused = job.start + self._between(60, run // 2)
                stop = paused + self._between(60, run // 2)
                return replace(job, state="Error", stop=stop, pauses=((paused, 0, 0),))
        return replace(job, state="Terminated", stop=job.start + run)

    def _pauses(self, start: int, run: int, count: int) -> tuple[tuple[int, int, int], ...]:
        part = run // count
        pauses = []
        for nth in range(count):
            suspended = start + nth * part + self._between(60, part // 2)
            resumed = suspended + self._between(60, part // 3)
            pauses.append((suspended, resumed, resumed + self._between(1, 5)))
        return tuple(pauses)

    # -- the company --------------------------------------------------------------------------

    def _inner(self, container: Job, nth: int, of: int) -> Job:
        """A job within a container, on every *of*-th of its resources."""
        submitted = container.start + self._between(10, 1_800)
        return replace(
            container,
            submitted=submitted,
            walltime=7_200,
            types=(),
            container=container,
            start=submitted + 2,
            stop=submitted + self._between(300, min(container.stop - submitted - 10, 7_200)),
            resources=container.resources[nth::of],
        )

    def _sharing(self, job: Job) -> Job:
        """Somebody else's job on the same resources."""
        user = (site.USERS.index(job.user) + self._between(1, 20)) % len(site.USERS)
        submitted = job.start + self._between(10, 1_800)
        return replace(
            job,
            user=site.USERS[user],
            project=self._project(user),
            submitted=submitted,
            start=submitted + 2,
            stop=submitted + self._between(300, job.stop - submitted - 10),
        )

    def _again(self, killed: Job) -> Job:
        """What OAR submits for a killed job that is idempotent; it goes well on the same place."""
        start = killed.stop + self._between(10, 60)
        stop = start + self._between(5, killed.walltime)
        self._machine.keep(stop + 1)
        return replace(killed, submitted=killed.stop, state="Terminated", start=start, stop=stop)

    # -- what lasts ---------------------------------------------------------------------------

    def _lasting(self) -> list[Job]:
        """A job in each state that jobs stand in at the end of the story: `LASTING_JOBS`."""
        now = self._now
        killed = self._at(
            now - 7_200, "Error", stop=now - 3_600, queue="besteffort", types=IDEMPOTENT
        )
        # OAR 3 leaves the start and stop of the killed job at the one that is submitted for it.
        again = replace(killed, submitted=killed.stop, state="Waiting", resources=())
        waiting = replace(again, submitted=now - 60, queue="default", types=(), start=0, stop=0)
        return [
            killed,
            again,
            replace(waiting, state="Waiting"),
            replace(waiting, state="Hold"),
            self._at(now - 1_800, "Running"),
            self._at(now - 4, "Launching"),
            self._at(now - 1_800, "Suspended", pauses=((now - 600, 0, 0),)),
            self._at(now - 1_800, "Finishing", stop=now - 1),
        ]

    def _at(self, submitted: int, state: str, stop: int = 0, **values: Any) -> Job:
        """A job on one core of the node for interactive jobs, which is free by then."""
        user = self._between(0, len(site.USERS) - 1)
        start, resources = self._machine.take([(site.INTERACTIVE, 1, 1)], submitted + 1)
        self._machine.keep((stop or self._now) + 1)
        return Job(
            user=site.USERS[user],
            project=self._project(user),
            submitted=submitted,
            walltime=7_200,
            state=state,
            start=start,
            stop=stop,
            resources=resources,
            **values,
        )


def as_of(job: Job, now: int) -> Job:
    """The job as OAR has it at *now*, by when it may not have ended."""
    if job.start > now:
        # OAR 3 gives waiting jobs the start that it expects.
        return replace(job, state="Waiting", stop=0, resources=(), pauses=(), exit_code=None)
    if job.stop > now:
        over = tuple(pause for pause in job.pauses if 0 < pause[2] <= now)
        return replace(job, state="Running", stop=0, pauses=over, exit_code=None)
    return job


def names_of(rng: np.random.Generator, jobs: Sequence[Job]) -> list[Job]:
    """The jobs, in order, with the names that people gave them and what their programs returned.

    OAR has no exit code of what it killed.
    """
    names = rng.choice(site.JOB_NAMES, len(jobs)).tolist()
    codes = rng.choice(list(site.RETURNED), len(jobs), p=list(site.RETURNED.values())).tolist()
    named = {
        job: replace(job, name=name, exit_code=code if job.state in ENDED_WELL else None)
        for job, name, code in zip(jobs, names, codes, strict=True)
    }
    # What ran in a container names the container as it is now.
    return [
        job if job.container is None else replace(job, container=named[job.container])
        for job in named.values()
    ]

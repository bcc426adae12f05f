"""What a row of OAR means: when a job asked for and used its resources, and when it did not.

The default reading, with the faults of OAR's own accounting that it mends:

* USED is ``[start_time, stop_time)`` less Suspended and Resuming; ASKED is the walltime from
  ``start_time``, as it stood in the end; USED may exceed it where OAR killed late, with a ``grace``
  by no more than that: of a job that OAR never saw end, or saw end in the future, that is known.
* A job that never ran, or in which no second passed, asked nothing and used nothing: which ones
  OAR gave up before they ran is read in `never_ran`.
* With ``containers = "outer"`` what a job of type ``inner=…`` holds is billed to its container
  where and while that runs: see `oar_accounting.recording.held.containers`.
* A job that is Finishing with a stop time has ended there.

``profile = "classic"`` is what OAR 2.5.9's ``oaraccounting`` reads, nothing more and nothing less:
state Terminated or Error, ``start_time > 1``, ``stop_time >= start_time``, at least one resource of
type default; USED from start to stop, ASKED the walltime, also for zero seconds.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from oar_accounting.core.columns import OPEN, Bools, Columns, Ints, JobRows, Spans, ints
from oar_accounting.core.windows import after, without
from oar_accounting.oar.spellings import STORED

PROFILES = ("default", "classic")
CONTAINERS = ("outer", "both")

#: What it is while it holds its resources.
RUNNING = ("Launching", "Running", "Suspended", "Resuming", "Finishing")
#: What it is afterwards, for ever.
ENDED = ("Terminated", "Error")
#: The states in which a started job does not use what it holds.
PAUSED = ("Suspended", "Resuming")

#: Times further from 1970 than this are no times: a billion years, and no difference wraps.
FARTHEST = 2**55


@dataclass(frozen=True, slots=True, kw_only=True)
class Terms:
    """The rules under which a site's jobs are recorded; they change only by a rebuild."""

    window: int = 86_400  #: seconds
    dimension: str = ""  #: the resource property that usage is also kept by; empty for none
    profile: str = "default"
    containers: str = "outer"
    #: Seconds that a job may use beyond its walltime; None: as long as OAR says that it ran.
    grace: int | None = None
    names: str = STORED  #: how users and projects stand in OAR's database
    #: Properties of resources by name, and from when on OAR's log of each is believed.
    property_since: tuple[tuple[str, int], ...] = ()


@dataclass(frozen=True, slots=True)
class Phases(Columns):
    """Where each job stands: it holds resources now, it has ended, OAR may still change it."""

    holding: Bools
    closed: Bools
    unsettled: Bools


def phases(rows: JobRows, terms: Terms) -> Phases:
    """Where the jobs stand. Neither a start nor a stop time alone means that a job ran.

    OAR 3 gives waiting jobs a predicted start, and resubmitted ones the old start and stop.
    """
    ended = np.isin(rows.state, ENDED)
    finished = (rows.state == "Finishing") & (rows.stop_time >= rows.start_time)
    closed = ended | (finished & (rows.start_time > 1) & (terms.profile == "default"))
    return Phases(np.isin(rows.state, RUNNING) & ~closed, closed, ~ended)


def bills_containers(terms: Terms) -> bool:
    """True where a container is billed for what the jobs within it hold."""
    return terms.profile != "classic" and terms.containers != "both"


def inner_names(types: Sequence[str]) -> list[str]:
    """What a job within a container calls that: on OAR 2 its id, on OAR 3 its id or its name."""
    return [name for kind, _, name in (each.partition("=") for each in types) if kind == "inner"]


def container_name(job: int, types: Sequence[str]) -> str:
    """What the jobs within a container call it; empty where it is none."""
    for kind, _, name in (each.partition("=") for each in types):
        if kind == "container":
            return name or str(job)
    return ""


def is_container(types: Sequence[str]) -> bool:
    """True for a job within which others run."""
    return any(kind.partition("=")[0] == "container" for kind in types)


def impossible(rows: JobRows, where: Phases) -> dict[int, str]:
    """The jobs that held resources at times that cannot be, with the reason."""
    trouble: dict[int, str] = {}
    started = where.holding | where.closed
    checks = [
        (started & (rows.start_time <= 1), "start_time is {start}, yet it was assigned resources"),
        (where.closed & (rows.stop_time < rows.start_time), "stop_time {stop} is before {start}"),
        (started & (rows.walltime < 0), "walltime is {walltime} s"),
    ]
    for name in ("start_time", "stop_time", "walltime"):
        far = np.abs(getattr(rows, name).astype(np.float64)) > FARTHEST
        checks.append((started & far, f"{name} is beyond any calendar"))
    for wrong, reason in checks:
        for row in np.flatnonzero(wrong):
            trouble.setdefault(
                int(rows.job_id[row]),
                reason.format(
                    start=rows.start_time[row],
                    stop=rows.stop_time[row],
                    walltime=rows.walltime[row],
                ),
            )
    return trouble


def spans_of(rows: JobRows, pauses: Mapping[int, Sequence[tuple[int, int]]], terms: Terms) -> Spans:
    """When jobs that hold resources, at possible times, asked for and used them.

    The used span of a job that has not ended stops at `OPEN`, or where it has used what the terms
    grant it.
    """
    where = phases(rows, terms)
    stop = np.where(where.closed, rows.stop_time, OPEN)
    classic = terms.profile == "classic"
    ran = (where.holding | where.closed) & ((stop > rows.start_time) | classic)
    rows, stop = rows.take(ran), stop[ran]
    asked = _some(rows.job_id, 1, rows.start_time, rows.start_time + rows.walltime)
    paused = np.isin(rows.job_id, ints(list(pauses))) & (not classic)
    most = _most_used(rows, terms)
    ends = np.minimum(stop, after(rows.start_time, most))
    straight = _some(rows.job_id[~paused], 0, rows.start_time[~paused], ends[~paused])
    interrupted = _interrupted(rows.take(paused), stop[paused], most[paused], pauses)
    return Spans.concat([asked, straight, interrupted])


def _most_used(rows: JobRows, terms: Terms) -> Ints:
    """For how many seconds each job may use what it holds; a walltime of 0 is not known."""
    if terms.grace is None or terms.profile == "classic":
        return np.full(len(rows), OPEN)
    return np.where(rows.walltime > 0, rows.walltime + terms.grace, OPEN)


def _some(job_id: Ints, asked: int, start: Ints, stop: Ints) -> Spans:
    spans = Spans(job_id, np.full(len(job_id), asked), start, stop)
    return spans.take(stop > start)


def _interrupted(
    rows: JobRows, stops: Ints, most: Ints, pauses: Mapping[int, Sequence[tuple[int, int]]]
) -> Spans:
    jobs, starts, ends = [], [], []
    columns = (rows.job_id, rows.start_time, stops, most)
    for job, start, stop, granted in zip(*(each.tolist() for each in columns), strict=True):
        left = granted
        for left_start, left_stop in without(start, stop, pauses[job]):
            if left <= 0:
                break
            jobs.append(job)
            starts.append(left_start)
            ends.append(min(left_stop, left_start + left))
            left -= left_stop - left_start
    return Spans(ints(jobs), np.zeros(len(jobs), np.int64), ints(starts), ints(ends))

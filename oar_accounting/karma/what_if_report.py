"""What other settings of karma would change: the places of jobs that wait, and waits that were."""

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Move:
    """A job that waits, and its place in its queue, from 1."""

    job_id: int
    user: str
    queue: str
    before: int
    after: int


@dataclass(frozen=True, slots=True, kw_only=True)
class PlaceShift:
    """The jobs of a user that wait in a queue, with the median of their places."""

    queue: str
    user: str
    jobs: int
    before: float
    after: float


@dataclass(frozen=True, slots=True, kw_only=True)
class WaitShift:
    """The jobs of a user that started, with the mean of the seconds that they waited."""

    user: str
    jobs: int
    was: float  #: as it was
    before: float  #: replayed under the settings in force
    after: float  #: replayed under the others


@dataclass(frozen=True, slots=True, kw_only=True)
class Replay:
    """The starts of the last days, given anew to jobs of the same kind in the order of karma.

    Of the same kind are jobs of one queue with as many resources, and with the same wish of a
    cluster. Every start stays when it was; which of the jobs of its kind that waited takes it is
    what karma decides. It knows nothing of backfilling, of jobs of another kind in their place, of
    walltimes, holds, dependencies and other conditions on resources, nor of what another order
    would have used: karma is made of what was really used, as of the last bound of windows.
    """

    begin: int  #: epoch seconds; starts from there on are replayed
    step: int  #: seconds between the instants as of which karma is taken
    starts: int  #: that were replayed
    reservations: int  #: starts that were left out: these times were promised
    choices: int  #: starts for which more than one job of the kind waited
    explained: int  #: of these: where the settings in force pick the job that really started
    chance: float  #: of these: where one that is drawn by lot would be that job, on average
    waits: Sequence[WaitShift]
    timezone: str = "UTC"  #: of the site, in which people are told of times


@dataclass(frozen=True, slots=True, kw_only=True)
class WhatIfReport:
    """Settings in force, *before*, and others, *after*."""

    before: str  #: the policy
    after: str
    now: int  #: epoch seconds UTC
    moves: Sequence[Move]  #: every job that waits, in the order in force
    places: Sequence[PlaceShift]  #: those who gain most first
    pairs: int  #: of jobs that wait in the same queue
    swapped: int  #: of these: pairs whose order changes
    replay: Replay | None  #: None where no days were asked for

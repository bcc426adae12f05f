"""Giving the starts that were to jobs that waited, anew, in another order. Pure.

A start belongs to a kind: only jobs of its kind may take it. As every start was that of a job of
its kind that had been submitted, there is one for every start, and in the end each has exactly one.
"""

from collections.abc import Callable
from dataclasses import dataclass
from heapq import heapify, heappop, heappush

import numpy as np

from oar_accounting.core.columns import Bools, Columns, Ints, ints
from oar_accounting.karma.policies.weights import Floats


@dataclass(frozen=True, slots=True)
class Starts(Columns):
    """Jobs that started, by ascending id; seconds since the epoch."""

    job_id: Ints
    kind: Ints
    submitted: Ints
    start: Ints  #: not before it was submitted


@dataclass(frozen=True, slots=True, kw_only=True)
class Replayed:
    """What became of each job, and of each start, in the order of `Starts`."""

    start: Ints  #: of the job, now
    able: Ints  #: of the start: how many jobs could have taken it
    same: Bools  #: of the start: whether the job took it that really did


def replay(starts: Starts, bounds: Ints, karma_of: Callable[[int, Ints], Floats]) -> Replayed:
    """Give every start to the job of its kind with the lowest karma, of equal ones the lowest id.

    *bounds*: ascending instants, the first not after the first start; a start is decided by the
    karma of the last bound before or at it. *karma_of* is asked once for every bound, for the rows
    of those jobs that may wait then.
    """
    order = np.lexsort((starts.job_id, starts.start))
    period = np.searchsorted(bounds, starts.start[order], side="right") - 1
    taken = _Line(starts)
    for number, bound in enumerate(bounds.tolist()):
        some = order[period == number]
        if len(some):
            # Those that come later within the period are judged with it, too.
            rows = taken.waiting(int(starts.start[some[-1]]))
            taken.judge(rows, karma_of(bound, rows))
            for row in some.tolist():
                taken.give(row)
    return Replayed(start=taken.start, able=taken.able, same=taken.same)


class _Line:
    """The jobs that wait, each kind in the order of its karma."""

    def __init__(self, starts: Starts) -> None:
        self._starts = starts
        self._kinds = starts.kind.tolist()
        self._submitted = starts.submitted.tolist()
        self._ids = starts.job_id.tolist()
        self._unplaced = np.ones(len(starts), bool)
        #: By kind, those that were submitted, lowest first, and those that will be.
        self._here: dict[int, list[tuple[float, int, int]]] = {}
        self._coming: dict[int, list[tuple[int, float, int]]] = {}
        self.start = np.zeros(len(starts), np.int64)
        self.able = np.zeros(len(starts), np.int64)
        self.same = np.zeros(len(starts), bool)

    def waiting(self, until: int) -> Ints:
        """The rows of jobs without a start that are submitted by then."""
        return ints(np.flatnonzero(self._unplaced & (self._starts.submitted <= until)))

    def judge(self, rows: Ints, karma: Floats) -> None:
        """Let these, and no others, wait with this karma."""
        self._here, self._coming = {}, {}
        for row, value in zip(rows.tolist(), karma.tolist(), strict=True):
            coming = self._coming.setdefault(self._kinds[row], [])
            coming.append((self._submitted[row], value, row))
        for each in self._coming.values():
            heapify(each)

    def give(self, row: int) -> None:
        """Give the start of a row to the first of its kind."""
        kind, at = self._kinds[row], int(self._starts.start[row])
        here = self._here.setdefault(kind, [])
        coming = self._coming[kind]
        while coming and coming[0][0] <= at:
            _, karma, submitted = heappop(coming)
            heappush(here, (karma, self._ids[submitted], submitted))
        self.able[row] = len(here)
        _, _, first = heappop(here)
        self.same[row] = first == row
        self.start[first] = at
        self._unplaced[first] = False

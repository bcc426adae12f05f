"""OAR's own karma, by the formula of its schedulers and in the order in which they calculate.

    karma = project  × (USED of its project / USED of all - target of its project / 100)
          + user     × (USED of its user    / USED of all - target of its user    / 100)
          + user_ask × (ASKED of its user   / ASKED of all - target of its user   / 100)

Counted are the windows of the job's queue in OAR's table ``accounting``. This is ``karma`` of the
Perl schedulers ``oar_sched_gantt_with_timesharing_and_fairsharing*`` of OAR 2.5.9, to the last bit,
and ``evaluate_jobs_karma`` of OAR 3, with these differences:

* What is a part of nothing is nothing here. OAR divides by zero where rows are there and sum up to
  zero: the Perl scheduler ends, and its queue with it; OAR 3 schedules no job of any queue.
* OAR 3 fails on a target of a user, and divides one that does not make it fail by 100 twice. Here
  it is a target in percent, as that of a project. The names of targets are without the quotes that
  OAR 3 leaves on them.
* OAR 2 compares the bytes of a target's name with the letters of a user or project, which differ
  on PostgreSQL where these are not ASCII; here they are the same name.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from oar_accounting.core.columns import Bools, Columns, Ints, Texts

Floats = npt.NDArray[np.float64]

#: The terms, in the order in which they are added.
OAR_TERM_NAMES = ("project", "user", "user_ask")


@dataclass(frozen=True, slots=True, kw_only=True)
class StockRule:
    """What the SCHEDULER_FAIRSHARING keys of ``oar.conf`` say; the defaults are those of OAR 2.

    Targets are percentages. A name without one has the target 0: ``default`` is but the project
    of that name.
    """

    window_rule: str = "oar2"  #: which windows count: as OAR 2 reads its table, or ``oar3``
    window: int = 2_592_000  #: seconds
    project_targets: Mapping[str, float] = field(
        default_factory=lambda: {"first": 75.0, "default": 25.0}
    )
    user_targets: Mapping[str, float] = field(default_factory=lambda: {"oar": 100.0})
    # The coefficients.
    project: float = 0.0
    user: float = 2.0
    user_ask: float = 1.0


#: What holds where ``oar.conf`` says nothing. Of OAR 3 it is what its code has; the comments in
#: its ``oar.conf`` repeat those of OAR 2.
DEFAULTS: Mapping[str, StockRule] = {
    "oar2": StockRule(),
    "oar3": StockRule(
        window_rule="oar3",
        project_targets={"default": 21.0},
        user_targets={"default": 22.0},
        user=1.0,
    ),
}


class Bounds(NamedTuple):
    """Counted is a window with ``window_start >= first`` and the *column* below *before*."""

    first: int
    column: str
    before: int


def bounds(rule: StockRule, now: int, *, of_users: bool) -> Bounds:
    """Which windows count at *now*, for the sums of users or for the others.

    OAR 2: what began within the last *window* seconds, the current window too. OAR 3: only what is
    over, and what ends with this very second for users only.
    """
    first = now - rule.window
    if rule.window_rule == "oar2":
        return Bounds(first, "window_start", now)
    return Bounds(first, "window_stop", now + of_users)


# -- sums -------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class QueueSums:
    """What counts of a queue, in seconds times resources; what has no row at all sums up to 1.

    A user or project without a row is not there.
    """

    used: int = 1
    asked: int = 1
    projects_used: Mapping[str, int] = field(default_factory=dict)
    users_used: Mapping[str, int] = field(default_factory=dict)
    users_asked: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class StockRows(Columns):
    """Rows like those of OAR's ``accounting``, one for USED and ASKED together.

    *window_stop* is the last second of the window. A row may come in several parts.
    """

    window_start: Ints
    window_stop: Ints
    user: Texts
    project: Texts
    queue: Texts
    asked: Ints
    used: Ints


def sums_of(
    rule: StockRule, now: int, rows: StockRows, pools: Mapping[str, Sequence[str]] | None = None
) -> dict[str, QueueSums]:
    """The sums of each queue in *pools*, over its queues there; without *pools*, of each queue."""
    counted = rows.take(_counted(rule, now, rows, of_users=False))
    of_users = rows.take(_counted(rule, now, rows, of_users=True))
    if pools is None:
        pools = {queue: (queue,) for queue in sorted(set(rows.queue))}
    return {
        queue: _summed(
            counted.take(np.isin(counted.queue, pool)), of_users.take(np.isin(of_users.queue, pool))
        )
        for queue, pool in pools.items()
    }


def _counted(rule: StockRule, now: int, rows: StockRows, *, of_users: bool) -> Bools:
    first, column, before = bounds(rule, now, of_users=of_users)
    ends: Ints = rows.as_dict()[column]
    return (rows.window_start >= first) & (ends < before)


def _summed(counted: StockRows, of_users: StockRows) -> QueueSums:
    """The sums of all users and of projects, and those of the users."""
    return QueueSums(
        # Where nothing was used, OAR has no row of it.
        used=sum(counted.used.tolist()) or 1,
        asked=sum(counted.asked.tolist()) or 1,
        projects_used=_by_name(counted.project, counted.used),
        users_used=_by_name(of_users.user, of_users.used),
        users_asked=_by_name(of_users.user, of_users.asked),
    )


def _by_name(names: Texts, amounts: Ints) -> Mapping[str, int]:
    sums: dict[str, int] = {}
    for name, amount in zip(names.tolist(), amounts.tolist(), strict=True):
        sums[name] = sums.get(name, 0) + amount
    return sums


# -- karma ------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class StockParts:
    """What the karma of jobs is made of: a row per `OAR_TERM_NAMES`, a column per job."""

    usage: Floats  #: of the job's project or user, seconds times resources
    total: Floats  #: the sum that this is a part of
    share: Floats  #: from 0 to 1
    target: Floats  #: from 0 to 1
    coefficient: Floats
    value: Floats  #: coefficient × (share - target)

    @property
    def karma(self) -> Floats:
        """The karma of each job; jobs with the lowest go first."""
        project, user, user_ask = self.value
        # Perl knows no -0.0 here, and would not print one.
        karma: Floats = project + user + user_ask + 0.0
        return karma


def evaluate(
    rule: StockRule,
    sums: Mapping[str, QueueSums],
    users: Sequence[str] | Texts,
    projects: Sequence[str] | Texts,
    queues: Sequence[str] | Texts,
) -> StockParts:
    """The karma of jobs, given by their *users*, *projects* and *queues*, with all its parts."""
    nothing = QueueSums()
    own = [sums.get(queue, nothing) for queue in queues]
    of_projects = list(zip(own, projects, strict=True))
    of_users = list(zip(own, users, strict=True))
    usage = _floats(
        [each.projects_used.get(name, 0) for each, name in of_projects],
        [each.users_used.get(name, 0) for each, name in of_users],
        [each.users_asked.get(name, 0) for each, name in of_users],
    )
    used, asked = [each.used for each in own], [each.asked for each in own]
    total = _floats(used, used, asked)
    user_targets = [rule.user_targets.get(name, 0.0) for name in users]
    project_targets = [rule.project_targets.get(name, 0.0) for name in projects]
    target = _floats(project_targets, user_targets, user_targets) / 100
    share = np.divide(usage, total, out=np.zeros_like(usage), where=total != 0)
    coefficient = np.repeat(_floats([rule.project], [rule.user], [rule.user_ask]), len(own), axis=1)
    return StockParts(
        usage=usage,
        total=total,
        share=share,
        target=target,
        coefficient=coefficient,
        value=coefficient * (share - target),
    )


def _floats(*terms: Sequence[float]) -> Floats:
    return np.array(terms, dtype=np.float64)

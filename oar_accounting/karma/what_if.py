"""What other settings of karma would change, for the jobs that wait and those that have started."""

from bisect import bisect_left, insort
from collections.abc import Sequence
from statistics import fmean, median

import numpy as np

from oar_accounting.core.columns import Ints, Texts, ints
from oar_accounting.core.lengths import DAY
from oar_accounting.core.progress import Progress
from oar_accounting.database import dialects
from oar_accounting.errors import BadSpan
from oar_accounting.karma.fair_share import FairShare
from oar_accounting.karma.policies.replay import Replayed, Starts, replay
from oar_accounting.karma.policies.weights import Floats
from oar_accounting.karma.report import KarmaReport
from oar_accounting.karma.waiting import renamed
from oar_accounting.karma.what_if_report import Move, PlaceShift, Replay, WaitShift, WhatIfReport
from oar_accounting.ledger.ledger import Ledger
from oar_accounting.oar.snapshot import OarJobs
from oar_accounting.oar.started_jobs import Started, read_starts
from oar_accounting.oar.waiting_jobs import named_value
from oar_accounting.settings.load import Settings

#: The most instants as of which karma is taken; where windows are short, not of every one.
MOST_BOUNDS = 200
#: The most days that are replayed.
MOST_DAYS = 3_660


def what_if(  # noqa: PLR0913 - two settings, two databases, a time
    given: Settings,
    other: Settings,
    ledger: Ledger,
    oar: OarJobs,
    now: int,
    days: int,
    progress: Progress | None = None,
) -> WhatIfReport:
    """The order of the waiting jobs, and the starts of the last days, under both settings.

    Raises :class:`oar_accounting.BadSpan` for a number of days that is none.
    """
    if not 0 <= days <= MOST_DAYS:
        raise BadSpan(f"{days} days cannot be replayed; from 0 to {MOST_DAYS} can")
    before, after = (FairShare(each, ledger, oar, now).karma() for each in (given, other))
    moves = _moves(before, after)
    pairs, swapped = _swapped(moves)
    return WhatIfReport(
        before=before.policy,
        after=after.policy,
        now=now,
        moves=moves,
        places=_places(moves),
        pairs=pairs,
        swapped=swapped,
        replay=_replay(given, other, ledger, oar, now, days, progress) if days else None,
    )


# -- those that wait --------------------------------------------------------------------------


def _moves(before: KarmaReport, after: KarmaReport) -> list[Move]:
    # What was submitted between the two readings is in one of them only.
    then = dict(zip(after.job_id.tolist(), after.place.tolist(), strict=True))
    columns = (before.job_id.tolist(), before.user, before.queue, before.place.tolist())
    return [
        Move(job_id=job, user=user, queue=queue, before=place, after=then[job])
        for job, user, queue, place in zip(*columns, strict=True)
        if job in then
    ]


def _swapped(moves: Sequence[Move]) -> tuple[int, int]:
    """How many pairs of jobs are in the same queue, and of how many the order changes."""
    pairs = swapped = 0
    seen: dict[str, list[int]] = {}
    for move in moves:
        places = seen.setdefault(move.queue, [])
        pairs += len(places)
        swapped += len(places) - bisect_left(places, move.after)
        insort(places, move.after)
    return pairs, swapped


def _places(moves: Sequence[Move]) -> list[PlaceShift]:
    jobs: dict[tuple[str, str], list[Move]] = {}
    for move in moves:
        jobs.setdefault((move.queue, move.user), []).append(move)
    shifts = [
        PlaceShift(
            queue=queue,
            user=user,
            jobs=len(found),
            before=median(each.before for each in found),
            after=median(each.after for each in found),
        )
        for (queue, user), found in jobs.items()
    ]
    return sorted(shifts, key=lambda each: (each.after - each.before, each.queue, each.user))


# -- those that have started ------------------------------------------------------------------


def _replay(  # noqa: PLR0913 - as above
    given: Settings,
    other: Settings,
    ledger: Ledger,
    oar: OarJobs,
    now: int,
    days: int,
    progress: Progress | None,
) -> Replay:
    with dialects.reading(oar.engine) as connection:
        started = read_starts(connection, now - days * DAY, now)
    with ledger.reading() as (connection, site):
        terms = None if site is None else site.terms
        # Who was forgotten here is not named, though OAR still does.
        users = (started.jobs if site is None else renamed(connection, site, started.jobs)).user
    window = given.window if terms is None else terms.window
    step = window * max(1, -(-days * DAY // (window * MOST_BOUNDS)))
    first = (now - days * DAY) // step * step
    bounds = np.arange(first, now, step)
    starts = _starts(started, "" if terms is None else terms.dimension)
    done = 0

    def under(settings: Settings) -> Replayed:
        def karma_of(bound: int, rows: Ints) -> Floats:
            nonlocal done
            report = FairShare(settings, ledger, oar, bound).report_of(started.jobs.take(rows))
            done += 1
            if progress is not None:
                progress(done, 2 * len(bounds))
            # The rows are by ascending id.
            return report.karma[np.argsort(report.job_id)]

        return replay(starts, bounds, karma_of)

    before, after = under(given), under(other)
    choice = before.able > 1
    return Replay(
        begin=now - days * DAY,
        step=step,
        starts=len(starts),
        reservations=started.reservations,
        choices=int(choice.sum()),
        explained=int((choice & before.same).sum()),
        chance=float((1 / before.able[choice]).sum()),
        waits=_waits(users, started, before, after),
        timezone=given.timezone,
    )


def _starts(started: Started, dimension: str) -> Starts:
    """The starts, each of a kind: queue, wish of the site's dimension, number of resources."""
    wishes = {each: named_value(each, dimension) for each in set(started.jobs.properties)}
    jobs = started.jobs
    kinds: dict[tuple[str, str, int], int] = {}
    columns = zip(jobs.queue, jobs.properties, started.resources.tolist(), strict=True)
    kind = [
        kinds.setdefault((queue, wishes[condition], resources), len(kinds))
        for queue, condition, resources in columns
    ]
    return Starts(jobs.job_id, ints(kind), started.submitted, started.start)


def _waits(users: Texts, started: Started, before: Replayed, after: Replayed) -> list[WaitShift]:
    """By user; those who gain most first."""
    rows: dict[str, list[int]] = {}
    for row, user in enumerate(users):
        rows.setdefault(user, []).append(row)
    was, now, then = (
        (each - started.submitted).tolist() for each in (started.start, before.start, after.start)
    )
    shifts = [
        WaitShift(
            user=user,
            jobs=len(found),
            was=fmean(was[row] for row in found),
            before=fmean(now[row] for row in found),
            after=fmean(then[row] for row in found),
        )
        for user, found in rows.items()
    ]
    return sorted(shifts, key=lambda each: (each.after - each.before, each.user))

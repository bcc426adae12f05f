"""Karma in words and numbers: why a job stands where it does, and what the one before it has."""

import math
from collections.abc import Iterator

from oar_accounting.core import formats, periods
from oar_accounting.karma.report import Explanation, JobKarma, KarmaPart

#: Policies whose karma is the sum of the values of its parts.
SUMMED_POLICIES = ("linear", "oar")
TREES = ("tree", "fair_tree")


def explanation(told: Explanation) -> Iterator[str]:
    """Why a job stands where it does, line by line."""
    job = told.job
    now = periods.shown(told.now, periods.zone(told.timezone))
    yield (
        f"Job {job.job_id} of {job.user}, project {job.project or '(none)'}, is number {job.place} "
        f"of {job.waiting} waiting in queue {job.queue}: karma {figure(job.karma)}, lowest first "
        f"({told.policy}, on {now})."
    )
    yield ""
    yield _what_it_is(told.policy, job)
    for part in job.parts:
        yield f"  {_in_short(told.policy, part)}"
        yield f"    {_in_words(part)}"
    yield ""
    yield from _ahead(told)


def figure(karma: float) -> str:
    """Karma as OAR prints it; what has no shares stands behind everybody."""
    return f"{karma:.3f}" if math.isfinite(karma) else "none left to be given"


def _what_it_is(policy: str, job: JobKarma) -> str:
    if policy in SUMMED_POLICIES:
        return f"{figure(job.karma)} is the sum of weight x (share - target):"
    if policy == "dominant":
        return f"{figure(job.karma)} is the largest of these shares:"
    if policy == "tree":
        return (
            f"{figure(job.karma)} is the last of these effective shares divided by what is meant, "
            "from the top of the tree down:"
        )
    return "From the top of the tree down, each among its siblings:"


def _in_short(policy: str, part: KarmaPart) -> str:
    if policy in SUMMED_POLICIES:
        target = part.target or 0.0
        return (
            f"{part.value:+.3f} = {part.weight:g} x ({part.share:.3f} - {target:.3f})   "
            f"{part.by} {part.name}, {part.metric} {part.amount}"
        )
    if policy in TREES:
        effective = "" if part.effective is None else f"effective {part.effective:.3f}, "
        meant = f"meant {part.target or 0.0:.3f}"
        return f"{part.by} {part.name}: share {part.share:.3f}, {effective}{meant}"
    return f"{part.share:.3f}   {part.by} {part.name}, {part.metric} {part.amount}"


def _in_words(part: KarmaPart) -> str:
    where = "in the job's queue" if part.scope == "queue" else "in all queues"
    time = f"time: {part.counts}"
    if not part.unit:
        return f"{part.usage:.3f} of {part.of:.3f} of the weighted shares, {where}; {time}"
    usage, of = amount(part.usage, part), amount(part.of, part)
    return f"{usage} of {of} {formats.hour_unit(part.unit)}, {where}; {time}"


def amount(usage: float, part: KarmaPart) -> str:
    """A weighted usage in hours, with one decimal."""
    return f"{usage / formats.one_hour(part.unit, part.scale):,.1f}"


def _ahead(told: Explanation) -> Iterator[str]:
    job, ahead, lower = told.job, told.ahead, told.lower
    if job.place == 1:
        yield "It is the first of its queue."
    elif ahead is None:
        yield "Before it is a job of somebody else."
    elif ahead.karma == job.karma:
        yield f"{_before(ahead)}, the same: the older job goes first."
    if lower is not None:
        yield f"{_before(lower)}, lower because:"
        yield from _differences(told.policy, job, lower)


def _before(ahead: JobKarma) -> str:
    project = ahead.project or "(none)"
    return (
        f"Before it is job {ahead.job_id} of {ahead.user}, project {project}, with karma "
        f"{figure(ahead.karma)}"
    )


def _differences(policy: str, job: JobKarma, ahead: JobKarma) -> Iterator[str]:
    """What the job ahead has less of, and where it is meant to have more."""
    ahead_of = {_kind(part): part for part in ahead.parts}
    for ours in job.parts:
        theirs = ahead_of.get(_kind(ours))
        if theirs is None or (policy in SUMMED_POLICIES and theirs.value >= ours.value):
            continue
        what = f"  {theirs.by} {theirs.name or '(none)'}, {theirs.metric} {theirs.amount}"
        if counted_share(theirs) < counted_share(ours):
            kind = "a share" if theirs.effective is None else "an effective share"
            yield f"{what}: {kind} of {counted_share(theirs):.3f}, not {counted_share(ours):.3f}"
        if theirs.target is not None and ours.target is not None and theirs.target > ours.target:
            yield f"{what}: {theirs.target:.3f} are meant for it, not {ours.target:.3f}"


def counted_share(part: KarmaPart) -> float:
    """The share that the policy compares with what is meant for the name."""
    return part.share if part.effective is None else part.effective


def _kind(part: KarmaPart) -> tuple[str | int, ...]:
    """What a part is compared by: not every job has every part."""
    return part.by, part.depth, part.metric, part.amount, part.counts

"""What jobs hold where that changes while they run: from spans to rates that begin at an instant.

Pure arithmetic. A job is cut into parts, in each of which it holds the same.
"""

from dataclasses import dataclass, replace

import numpy as np

from oar_accounting.core.columns import (
    FROM_START,
    OPEN,
    Columns,
    Ints,
    Rates,
    group_starts,
    numbered_rows,
    repeated,
)
from oar_accounting.metrics.metric import Held
from oar_accounting.oar.machine import until
from oar_accounting.oar.properties import Kinds


@dataclass(frozen=True, slots=True)
class HeldSpans(Columns):
    """Half-open spans within which a job holds a resource of one kind.

    What a job begins with starts at `FROM_START`; what it ends with stops at `OPEN`.
    """

    job: Ints  #: row of the job
    row: Ints  #: of the table of kinds
    start: Ints
    stop: Ints


@dataclass(frozen=True, slots=True)
class Cuts(Columns):
    """Half-open spans within which somebody else is billed for what is held, by row of that."""

    held: Ints
    start: Ints
    stop: Ints


@dataclass(frozen=True, slots=True, kw_only=True)
class JobParts:
    """The parts of jobs, by job and time."""

    held: Held  #: what each part holds
    job: Ints  #: by part, row of the job
    start: Ints  #: by part, from when on; `FROM_START` for the first one of each job


def in_kinds(held: Held, kinds: Kinds, start: Ints, stop: Ints) -> HeldSpans:
    """When jobs hold resources, given by row, of which kinds.

    *start*, *stop*: by job, when it began, and when it ended, or `OPEN`. It goes on with the kind
    that it ended with: what it asked for may last longer.
    """
    count = len(held)
    if kinds.unchanging:
        always = np.full(count, FROM_START), np.full(count, OPEN)
        return HeldSpans(held.part, kinds.history.value[held.row], *always)
    history, ends = kinds.history, until(kinds.history)
    first = np.searchsorted(history.owner, held.row, "left")
    pair, nth = repeated(np.searchsorted(history.owner, held.row, "right") - first)
    at, job = first[pair] + nth, held.part[pair]
    begin, end = start[job], np.maximum(stop[job], start[job] + 1)
    meets = (history.since[at] < end) & (ends[at] > begin)
    at, job, begin, end = at[meets], job[meets], begin[meets], end[meets]
    return HeldSpans(
        job,
        history.value[at],
        np.where(history.since[at] <= begin, FROM_START, history.since[at]),
        np.where(ends[at] >= end, OPEN, ends[at]),
    )


def without(spans: HeldSpans, cuts: Cuts) -> HeldSpans:
    """The spans less what is cut out of each."""
    if not len(cuts):
        return spans
    start = np.maximum(cuts.start, spans.start[cuts.held])
    stop = np.minimum(cuts.stop, spans.stop[cuts.held])
    cuts = Cuts(cuts.held, start, stop).take(start < stop)
    touched = np.unique(cuts.held)
    whose = np.concatenate([touched, touched, cuts.held, cuts.held])
    instant = np.concatenate([spans.start[touched], spans.stop[touched], cuts.start, cuts.stop])
    step = np.repeat([0, 1, -1], [2 * len(touched), len(cuts), len(cuts)])
    order = np.lexsort((instant, whose))
    whose, instant = whose[order], instant[order]
    starts = group_starts([whose, instant])
    ends = np.append(starts[1:], len(order)) - 1
    cut = np.cumsum(step[order])[ends]
    whose, instant = whose[ends], instant[ends]
    free = np.flatnonzero((cut[:-1] == 0) & (whose[1:] == whose[:-1]))
    left = replace(spans.take(whose[free]), start=instant[free], stop=instant[free + 1])
    untouched = np.ones(len(spans), np.bool_)
    untouched[touched] = False
    return HeldSpans.concat([spans.take(untouched), left])


def parts_of(spans: HeldSpans, jobs: int) -> JobParts:
    """The parts of so many *jobs*, cut wherever what one holds begins or ends."""
    begins, ends = spans.start != FROM_START, spans.stop != OPEN
    every = np.arange(jobs)
    if not (begins.any() or ends.any()):
        return JobParts(held=Held(spans.job, spans.row), job=every, start=np.full(jobs, FROM_START))
    job = np.concatenate([every, spans.job, spans.job[ends]])
    instant = np.concatenate([np.full(jobs, FROM_START), spans.start, spans.stop[ends]])
    order = np.lexsort((instant, job))
    starts = group_starts([job[order], instant[order]])
    fresh = np.zeros(len(order), np.int64)
    fresh[starts] = 1
    part = np.empty(len(order), np.int64)
    part[order] = np.cumsum(fresh) - 1
    first = part[jobs : jobs + len(spans)]
    last = np.append(part[1:jobs], len(starts))[spans.job]
    last[ends] = part[jobs + len(spans) :]
    span, nth = repeated(last - first)
    return JobParts(
        held=Held(first[span] + nth, spans.row[span]),
        job=job[order[starts]],
        start=instant[order[starts]],
    )


@dataclass(frozen=True, slots=True)
class PartRates(Columns):
    """What parts hold each second, above zero."""

    part: Ints
    account_id: Ints
    metric_id: Ints
    rate: Ints


def rates_over_time(found: PartRates, parts: JobParts, job_id: Ints) -> Rates:
    """The rates of jobs, each from when on it holds; one of zero where something is held no longer.

    *job_id*: the jobs by row.
    """
    job = parts.job[found.part]
    count = np.bincount(parts.job, minlength=len(job_id))
    several = count[job] > 1
    once, job_once = found.take(~several), job[~several]
    steady = Rates.unchanging(
        job_id[job_once], once.account_id, once.metric_id, once.rate, once.rate
    )
    if not several.any():
        return steady
    return Rates.concat([steady, _steps(found.take(several), parts, job_id, count)])


def _steps(found: PartRates, parts: JobParts, job_id: Ints, count: Ints) -> Rates:
    """The same of jobs with several parts, where a rate is not what it was in the part before."""
    first = np.cumsum(count) - count
    keys = [parts.job[found.part], found.account_id, found.metric_id]
    group, one_of = numbered_rows(keys)
    job, account, metric = (key[one_of] for key in keys)
    offset = np.cumsum(count[job]) - count[job]
    rate = np.zeros(int(count[job].sum()), np.int64)
    rate[offset[group] + found.part - first[keys[0]]] = found.rate
    before = np.append(0, rate[:-1])
    before[offset] = 0
    row, nth = repeated(count[job])
    changes = rate != before
    row, nth, rate = row[changes], nth[changes], rate[changes]
    start = parts.start[first[job[row]] + nth]
    return Rates(job_id[job[row]], account[row], metric[row], rate, rate, start)

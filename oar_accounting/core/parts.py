"""Jobs whose rates change while they run, cut into parts of constant rates. Pure arithmetic."""

from dataclasses import dataclass, replace

import numpy as np

from oar_accounting.core.columns import (
    FROM_START,
    OPEN,
    Columns,
    Ints,
    KeyedRates,
    Rates,
    Spans,
    group_starts,
    ints,
    repeated,
)


@dataclass(frozen=True, slots=True)
class Parts:
    """Spans and rates as of jobs that hold the same from beginning to end.

    A job whose rates change is several of these, each under an id of its own.
    """

    spans: Spans
    rates: KeyedRates
    first: int  #: the lowest of the ids that are no job's
    job: Ints  #: the job that each of these is a part of

    def jobs(self, ids: Ints) -> Ints:
        """The jobs that these ids are of."""
        part = ids - self.first
        owner = np.append(self.job, 0)[np.clip(part, 0, len(self.job))]
        return np.where(part >= 0, owner, ids)


def held_at(rates: Rates, instant: int) -> Rates:
    """The rates that hold at an instant, of jobs that have begun by then."""
    rates = rates.take(rates.start_time <= instant)
    rates = rates.take(
        np.lexsort((rates.start_time, rates.metric_id, rates.account_id, rates.job_id))
    )
    starts = group_starts([rates.job_id, rates.account_id, rates.metric_id])
    return rates.take(np.append(starts[1:], len(rates))[: len(starts)] - 1)


def by_job(spans: Spans, rates: Rates) -> tuple[Spans, KeyedRates]:
    """The same amounts with the job for the key, on whichever accounts it holds something."""
    parts = constant(spans, KeyedRates.by_account(rates))
    return parts.spans, replace(parts.rates, key=parts.jobs(parts.rates.job_id))


@dataclass(frozen=True, slots=True)
class _Times(Columns):
    """When the rates of jobs change, by job and time; the first is `FROM_START`."""

    job_id: Ints
    start_time: Ints


def constant(spans: Spans, rates: KeyedRates) -> Parts:
    """The same amounts, in which no rate changes.

    A rate holds from its start until that of the next one of the same job, key and metric.
    """
    changing = np.unique(rates.job_id[rates.start_time != FROM_START])
    highest = max(int(spans.job_id.max(initial=0)), int(rates.job_id.max(initial=0)))
    if not len(changing):
        return Parts(spans, rates, highest + 1, ints([]))
    cut, in_parts = np.isin(spans.job_id, changing), np.isin(rates.job_id, changing)
    times = _times(changing, rates.take(in_parts))
    first = highest + 1
    return Parts(
        Spans.concat([spans.take(~cut), _cut(spans.take(cut), times, first)]),
        KeyedRates.concat([rates.take(~in_parts), _held(rates.take(in_parts), times, first)]),
        first,
        times.job_id,
    )


def _times(changing: Ints, rates: KeyedRates) -> _Times:
    job = np.concatenate([changing, rates.job_id])
    start = np.concatenate([np.full(len(changing), FROM_START), rates.start_time])
    times = _Times(job, start).take(np.lexsort((start, job)))
    return times.take(group_starts([times.job_id, times.start_time]))


def _ends(times: _Times) -> Ints:
    """Until when each part lasts."""
    last = np.append(times.job_id[1:] != times.job_id[:-1], True)
    return np.where(last, OPEN, np.append(times.start_time[1:], OPEN))


def _cut(spans: Spans, times: _Times, first: int) -> Spans:
    """The spans, cut where the rates of their jobs change, under the ids of the parts."""
    begins = np.searchsorted(times.job_id, spans.job_id, "left")
    span, nth = repeated(np.searchsorted(times.job_id, spans.job_id, "right") - begins)
    part = begins[span] + nth
    start = np.maximum(spans.start_time[span], times.start_time[part])
    stop = np.minimum(spans.stop_time[span], _ends(times)[part])
    return Spans(first + part, spans.asked[span], start, stop).take(stop > start)


def _held(rates: KeyedRates, times: _Times, first: int) -> KeyedRates:
    """What each part holds: the rates that hold from its beginning on."""
    rates = rates.take(np.lexsort((rates.start_time, rates.metric_id, rates.key, rates.job_id)))
    same = np.ones(max(len(rates) - 1, 0), np.bool_)
    for column in (rates.job_id, rates.key, rates.metric_id):
        same &= column[1:] == column[:-1]
    begins = _part_of(rates, times)
    of_job = np.searchsorted(times.job_id, rates.job_id, "right")
    ends = np.where(np.append(same, False), np.append(begins[1:], 0), of_job)
    rate, nth = repeated(ends - begins)
    held = rates.take(rate)
    parts = replace(
        held, job_id=first + begins[rate] + nth, start_time=np.full(len(held), FROM_START)
    )
    return parts.take((parts.asked != 0) | (parts.used != 0))


def _part_of(rates: KeyedRates, times: _Times) -> Ints:
    """The part that each rate begins with."""
    job = np.concatenate([times.job_id, rates.job_id])
    start = np.concatenate([times.start_time, rates.start_time])
    order = np.lexsort((start, job))
    # Every rate begins with a part, which stands before it: the sort keeps the order of equals.
    number = np.empty(len(order), np.int64)
    number[order] = np.cumsum(order < len(times)) - 1
    return number[len(times) :]

"""Time: cutting out what did not count, and splitting spans over windows. Pure arithmetic.

Times are epoch seconds UTC; spans and windows are half-open, ``[start, stop)``; window *w* of
length W seconds is ``[w·W, (w+1)·W)``, for negative *w* too. Splitting is exact: the seconds of
the pieces of a span add up to its length, and ``rate × seconds`` is never rounded.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np

from oar_accounting.core.columns import (
    LARGEST,
    OPEN,
    Columns,
    Ints,
    KeyedAmounts,
    KeyedRates,
    Rates,
    Spans,
    Totals,
    add_up,
    exact_product,
    repeated,
)
from oar_accounting.core.lengths import DAY
from oar_accounting.core.parts import constant

#: Pieces (window × rate) worked on at once; bounds the memory, not the size of a job.
PIECES_AT_ONCE = 500_000

#: A job that would fill more windows than this is reported instead of recorded.
MOST_WINDOWS = 1_000_000


@dataclass(frozen=True, slots=True)
class Pieces(Columns):
    """Parts of spans, one a window or interval."""

    row: Ints  #: of the span
    number: Ints  #: of the window, as above, or of the interval
    seconds: Ints  #: of the span in it


def without(start: int, stop: int, holes: Iterable[tuple[int, int]]) -> list[tuple[int, int]]:
    """What is left of ``[start, stop)`` when the *holes*, which may overlap, are cut out."""
    left = []
    for hole_start, hole_stop in sorted(holes):
        if hole_stop <= start or hole_stop <= hole_start:
            continue
        if hole_start >= stop:
            break
        if hole_start > start:
            left.append((start, hole_start))
        start = hole_stop
    if start < stop:
        left.append((start, stop))
    return left


def after(start: Ints, seconds: Ints) -> Ints:
    """The instants so many *seconds* after each start; at most `OPEN`, where that would wrap."""
    stop: Ints = start + np.minimum(seconds, OPEN - np.maximum(start, 0))
    return stop


def seconds_used(spans: Spans, until: int) -> tuple[Ints, Ints]:
    """The jobs that used something, ascending, and for how many seconds by an instant."""
    used = spans.take(spans.asked == 0)
    jobs, at = np.unique(used.job_id, return_inverse=True)
    seconds = np.zeros(len(jobs), np.int64)
    np.add.at(seconds, at, np.maximum(np.minimum(used.stop_time, until) - used.start_time, 0))
    return jobs, seconds


def evenly(amount: int, start: int, stop: int, begin: int, end: int) -> int:
    """The part of an *amount* that lies evenly over ``[start, stop)`` in ``[begin, end)``.

    Whole; however a span is cut, the parts add up to the amount, and the parts of an amount and of
    its opposite to zero.
    """
    size = abs(amount)

    def before(instant: int) -> int:
        return size * (min(max(instant, start), stop) - start) // (stop - start)

    part = before(end) - before(begin)
    return part if amount >= 0 else -part


def windows_filled(start: Ints, stop: Ints, window: int) -> Ints:
    """How many windows of *window* seconds each span touches; an empty span touches none."""
    return np.where(stop > start, (stop - 1) // window - start // window + 1, 0)


def spread(start: Ints, stop: Ints, window: int) -> Pieces:
    """Split spans over windows of *window* seconds, in the order of the spans and of time."""
    row, nth = repeated(windows_filled(start, stop, window))
    number = start[row] // window + nth
    begins = np.maximum(start[row] - number * window, 0)
    ends = np.minimum(stop[row] - number * window, window)
    return Pieces(row, number, ends - begins)


def spread_between(start: Ints, stop: Ints, begins: Ints, ends: Ints) -> Pieces:
    """Split spans over intervals ``[begins, ends)``, which ascend and do not overlap.

    What lies in none of them is left out.
    """
    first = np.searchsorted(ends, start, "right")
    row, nth = repeated(_intervals_touched(start, stop, begins, ends))
    interval = first[row] + nth
    begin = np.maximum(start[row], begins[interval])
    return Pieces(row, interval, np.minimum(stop[row], ends[interval]) - begin)


def _intervals_touched(start: Ints, stop: Ints, begins: Ints, ends: Ints) -> Ints:
    first = np.searchsorted(ends, start, "right")
    last = np.searchsorted(begins, stop, "left")
    return np.where(stop > start, np.maximum(last - first, 0), 0)


def totals_of(spans: Spans, rates: Rates, window: int) -> Totals:
    """Amounts per window, account and metric of jobs that have ended: the law of the ledger.

    ``asked = Σ seconds of asked spans × asked rate`` and ``used`` likewise, in each window.
    Raises :class:`oar_accounting.errors.AmountOverflow`.
    """
    found = amounts_in_windows(spans, KeyedRates.by_account(rates), window)
    return Totals(found.number * window, found.key, found.metric_id, found.asked, found.used)


def amounts_in_windows(spans: Spans, rates: KeyedRates, window: int) -> KeyedAmounts:
    """The same amounts by the number of the window, with a key in the place of the account."""
    if not len(spans) or not len(rates):
        return KeyedAmounts.concat([])
    parts = constant(spans, rates)
    spans, rates = parts.spans, parts.rates
    if not len(rates):
        return KeyedAmounts.concat([])
    most = int(np.unique(rates.job_id, return_counts=True)[1].max())
    spans = _in_lengths(spans, window * max(PIECES_AT_ONCE // most, 1))
    filled = windows_filled(spans.start_time, spans.stop_time, window)
    return _added_up(spans, rates, filled, lambda s: spread(s.start_time, s.stop_time, window))


def amounts_between(spans: Spans, rates: KeyedRates, begins: Ints, ends: Ints) -> KeyedAmounts:
    """The same by the number of intervals ``[begins, ends)``, which ascend and do not overlap."""
    if not len(spans) or not len(rates):
        return KeyedAmounts.concat([])
    parts = constant(spans, rates)
    spans, rates = parts.spans, parts.rates
    touched = _intervals_touched(spans.start_time, spans.stop_time, begins, ends)
    spans, touched = spans.take(touched > 0), touched[touched > 0]
    return _added_up(
        spans, rates, touched, lambda s: spread_between(s.start_time, s.stop_time, begins, ends)
    )


def _added_up(
    spans: Spans, rates: KeyedRates, filled: Ints, split: Callable[[Spans], Pieces]
) -> KeyedAmounts:
    """The amounts of the pieces into which the spans are *split*; *filled*: how many of each."""
    rates = rates.take(np.argsort(rates.job_id, kind="stable"))
    first = np.searchsorted(rates.job_id, spans.job_id, "left")
    held = np.searchsorted(rates.job_id, spans.job_id, "right") - first
    parts: list[KeyedAmounts] = []
    for part in _portions(filled * held):
        some = spans.take(part)
        parts.append(_portion(some, split(some), first[part], held[part], rates))
        if len(parts) > 8:
            parts = [add_up(KeyedAmounts.concat(parts))]
    return parts[0] if len(parts) == 1 else add_up(KeyedAmounts.concat(parts))


def in_portions(spans: Spans, window: int) -> Iterator[Spans]:
    """The spans in their order, in portions that fill about PIECES_AT_ONCE windows.

    A span that fills more of them is cut.
    """
    spans = _in_lengths(spans, window * PIECES_AT_ONCE)
    for part in _portions(windows_filled(spans.start_time, spans.stop_time, window)):
        yield spans.take(part)


def _in_lengths(spans: Spans, length: int) -> Spans:
    """The same spans, cut at the multiples of *length* seconds."""
    if np.all(windows_filled(spans.start_time, spans.stop_time, length) <= 1):
        return spans
    pieces = spread(spans.start_time, spans.stop_time, length)
    start = np.maximum(spans.start_time[pieces.row], pieces.number * length)
    cut = spans.take(pieces.row)
    return Spans(cut.job_id, cut.asked, start, start + pieces.seconds)


def _portions(sizes: Ints) -> Iterator[slice]:
    """Runs of rows whose sizes add up to about PIECES_AT_ONCE; a run has at least one row."""
    edges = np.flatnonzero(np.diff(np.cumsum(sizes) // PIECES_AT_ONCE)) + 1
    bounds = [0, *edges.tolist(), len(sizes)]
    yield from (slice(a, b) for a, b in pairwise(bounds))


def _portion(
    spans: Spans, pieces: Pieces, first: Ints, held: Ints, rates: KeyedRates
) -> KeyedAmounts:
    piece, nth = repeated(held[pieces.row])
    row = pieces.row[piece]
    rate = first[row] + nth
    asked = spans.asked[row] != 0
    seconds = pieces.seconds[piece]
    return add_up(
        KeyedAmounts(
            pieces.number[piece],
            rates.key[rate],
            rates.metric_id[rate],
            exact_product(np.where(asked, seconds, 0), rates.asked[rate]),
            exact_product(np.where(asked, 0, seconds), rates.used[rate]),
        )
    )


def kept_by_day(window: int) -> bool:
    """True where a day is several whole windows of *window* seconds: then days are summed too."""
    return window < DAY and DAY % window == 0


def by_day(totals: Totals) -> Totals:
    """The same amounts, by the day UTC in which their windows begin.

    Raises :class:`oar_accounting.errors.AmountOverflow`.
    """
    return add_up(replace(totals, window_start=totals.window_start // DAY * DAY))


def too_long(spans: Spans, window: int) -> dict[int, str]:
    """The jobs that cannot be recorded because they fill too many windows, with the reason."""
    ended = spans.take(spans.stop_time != OPEN)
    jobs = np.unique(ended.job_id)
    at = np.searchsorted(jobs, ended.job_id)
    filled = np.bincount(at, windows_filled(ended.start_time, ended.stop_time, window), len(jobs))
    return {
        int(jobs[row]): f"fills {int(filled[row])} windows of {window} s; {MOST_WINDOWS} at most"
        for row in np.flatnonzero(filled > MOST_WINDOWS)
    }


def too_large(spans: Spans, rates: Rates) -> dict[tuple[int, int], str]:
    """The jobs and metrics, by their ids, whose amounts do not fit in 63 bits, with the reason."""
    ended = spans.take(spans.stop_time != OPEN)
    jobs = np.unique(ended.job_id)
    if not len(jobs):
        return {}
    at = np.searchsorted(jobs, ended.job_id)
    seconds = np.bincount(at, ended.stop_time - ended.start_time, len(jobs))
    of_rate = np.minimum(np.searchsorted(jobs, rates.job_id), len(jobs) - 1)
    known = jobs[of_rate] == rates.job_id
    most = np.maximum(rates.asked, rates.used).astype(np.float64)
    # Half of the room at most for one job: float64 is exact enough to keep clear of the edge.
    return {
        (int(rates.job_id[row]), int(rates.metric_id[row])): (
            f"holds {int(most[row])} units a second: its amount exceeds 2^62"
        )
        for row in np.flatnonzero(known & (seconds[of_rate] * most > LARGEST / 2)).tolist()
    }

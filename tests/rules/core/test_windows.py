"""Splitting over windows and adding up again is exact, or it is an `AmountOverflow`."""

import tracemalloc
from collections.abc import Callable, Iterable, Sequence
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from oar_accounting.core.columns import (
    LARGEST,
    OPEN,
    Columns,
    Ints,
    KeyedRates,
    Rates,
    Spans,
    Totals,
    add_up,
    difference,
    exact_product,
    exact_sums,
    ints,
    repeated,
    row_order,
)
from oar_accounting.core.windows import (
    MOST_WINDOWS,
    Pieces,
    amounts_between,
    by_day,
    kept_by_day,
    spread,
    too_large,
    too_long,
    totals_of,
    windows_filled,
    without,
)
from oar_accounting.errors import AmountOverflow
from oar_accounting.ledger.catalog import Names
from tests.strategies import (
    DAY,
    HOUR,
    METRICS,
    YEAR,
    Amounts,
    Job,
    Share,
    Span,
    batches,
    columns_of,
    instants,
    naive_totals,
    spans,
)

MEGABYTE = 1 << 20
#: With a second among them, spans must be short; with a year, they lie in one window or two.
WINDOWS = st.sampled_from((60, 1_000, HOUR, DAY, 7 * DAY, YEAR))
#: Up to and over the edges of 63 bits.
LARGE = st.one_of(
    st.integers(-(2**63) + 1, LARGEST),
    st.builds(
        lambda edge, off: max(min(edge + off, LARGEST), -LARGEST),
        st.sampled_from((-LARGEST, -(2**62), -(2**32), 0, 2**31, 2**32, 2**62, LARGEST)),
        st.integers(-3, 3),
    ),
)


def _pieces(some: Sequence[Span], window: int) -> Pieces:
    return spread(ints([start for start, _ in some]), ints([stop for _, stop in some]), window)


def _rows(some: Sequence[Span], window: int) -> list[tuple[int, int, int]]:
    """The pieces of spans: row of the span, start of the window, seconds."""
    pieces = _pieces(some, window)
    start = pieces.number * window
    return list(zip(pieces.row.tolist(), start.tolist(), pieces.seconds.tolist(), strict=True))


# -- spread -----------------------------------------------------------------------------------


@given(st.lists(st.one_of(spans(), instants().map(lambda at: (at, at))), max_size=6), WINDOWS)
@example([(-1, 1)], 60)
@example([(-61, -60), (-60, 0), (0, 60)], 60)
def test_pieces_add_up_lie_in_their_windows_and_touch(some: list[Span], window: int) -> None:
    rows = _rows(some, window)
    for number, (start, stop) in enumerate(some):
        own = [(at, seconds) for row, at, seconds in rows if row == number]
        assert sum(seconds for _, seconds in own) == stop - start
        assert all(at % window == 0 and 0 < seconds <= window for at, seconds in own)
        assert [right - left for (left, _), (right, _) in pairwise(own)] == [window] * (
            len(own) - 1
        )
        assert all(seconds == window for _, seconds in own[1:-1])
        assert all(at <= start < at + window for at, _ in own[:1])
        assert all(at < stop <= at + window for at, _ in own[-1:])
    assert [row for row, _, _ in rows] == sorted(row for row, _, _ in rows)
    filled = windows_filled(ints([a for a, _ in some]), ints([b for _, b in some]), window)
    assert int(filled.sum()) == len(rows)


def test_span_that_ends_before_it_starts_fills_nothing() -> None:
    assert not len(_pieces([(100, 50), (7, 7)], 60))


def test_spans_around_1970_fall_into_the_windows_before_and_after() -> None:
    assert _rows([(-90, 90)], 60) == [(0, -120, 30), (0, -60, 60), (0, 0, 60), (0, 60, 30)]


def test_windows_of_one_second_hold_one_second_each() -> None:
    assert _rows([(-2, 2)], 1) == [(0, -2, 1), (0, -1, 1), (0, 0, 1), (0, 1, 1)]


def test_windows_of_a_year_hold_a_job_or_its_two_parts() -> None:
    new_year = 52 * YEAR
    assert _rows([(new_year - 5, new_year + 7), (new_year, new_year + 1)], YEAR) == [
        (0, new_year - YEAR, 5),
        (0, new_year, 7),
        (1, new_year, 1),
    ]


def test_ten_years_fall_into_every_hour_of_them() -> None:
    start = 1_700_000_123
    stop = start + 10 * YEAR
    pieces = _pieces([(start, stop)], HOUR)
    assert len(pieces) == 10 * 365 * 24 + 1
    assert int(pieces.seconds.sum()) == stop - start
    assert np.all(np.diff(pieces.number) == 1)
    assert set(pieces.seconds[1:-1].tolist()) == {HOUR}
    first, last = start // HOUR * HOUR, stop // HOUR * HOUR
    assert (pieces.number[[0, -1]] * HOUR).tolist() == [first, last]
    assert pieces.seconds[[0, -1]].tolist() == [first + HOUR - start, stop - last]


@given(st.lists(st.integers(0, 4)))
def test_rows_are_repeated_with_a_number_each(counts: list[int]) -> None:
    row, nth = repeated(ints(counts))
    expected = [(row, nth) for row, count in enumerate(counts) for nth in range(count)]
    assert list(zip(row.tolist(), nth.tolist(), strict=True)) == expected


# -- without ----------------------------------------------------------------------------------

SHORT = st.integers(-20, 20)


@given(SHORT, SHORT, st.lists(st.tuples(SHORT, SHORT), max_size=6))
@example(0, 10, [(0, 10)])
@example(0, 10, [(2, 8), (3, 4), (7, 9)])
@example(0, 10, [(5, 3), (4, 4)])
def test_holes_are_cut_out_second_by_second(start: int, stop: int, holes: list[Span]) -> None:
    left = without(start, stop, holes)
    holed = {second for hole in holes for second in range(*hole)}
    assert [s for span in left for s in range(*span)] == [
        s for s in range(start, stop) if s not in holed
    ]
    assert all(begin < end for begin, end in left)


# -- totals_of --------------------------------------------------------------------------------


def _totals(jobs: Iterable[Job], window: int) -> Amounts:
    """What the library makes of ended jobs, with names in the place of ids."""
    accounts: dict[Names, int] = {}

    def number(names: Names) -> int:
        return accounts.setdefault(names, len(accounts) + 1)

    metrics = {metric.name: at + 7 for at, metric in enumerate(METRICS)}
    _, some, rates = columns_of(jobs, number, metrics)
    named = {at: names for names, at in accounts.items()}
    names_of_metrics = {at: name for name, at in metrics.items()}
    totals = totals_of(some, rates, window)
    rows = list(zip(*(column.tolist() for column in totals.as_dict().values()), strict=True))
    assert rows == sorted(rows)
    return {
        (at, named[account], names_of_metrics[metric]): (asked, used)
        for at, account, metric, asked, used in rows
    }


def _ended(jobs: Iterable[Job]) -> list[Job]:
    return [job for job in jobs if job.closed]


@given(batches(), WINDOWS)
def test_totals_are_those_of_the_plainest_arithmetic(some: list[Job], window: int) -> None:
    jobs = _ended(some)
    assert _totals(jobs, window) == naive_totals(jobs, window)


@given(batches(), st.integers(1, 8))
def test_totals_do_not_depend_on_the_portions(some: list[Job], at_once: int) -> None:
    jobs = _ended(some)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("oar_accounting.core.windows.PIECES_AT_ONCE", at_once)
        assert _totals(jobs, HOUR) == naive_totals(jobs, HOUR)


CUTS = st.lists(instants(), min_size=2, max_size=6, unique=True).map(sorted)


@given(batches(), CUTS, st.integers(1, 8))
def test_amounts_between_instants_do_not_depend_on_the_portions(
    some: list[Job], cuts: list[int], at_once: int
) -> None:
    """Every other interval is asked for; what lies between them is left out."""
    begins, ends = ints(cuts[:-1:2]), ints(cuts[1::2])
    jobs = _ended(some)
    accounts: dict[Names, int] = {}
    metrics = {metric.name: number for number, metric in enumerate(METRICS)}
    _, spans, rates = columns_of(
        jobs, lambda names: accounts.setdefault(names, len(accounts)), metrics
    )
    expected: dict[int, list[int]] = {}
    for at, (begin, end) in enumerate(zip(begins.tolist(), ends.tolist(), strict=True)):
        sums = expected.setdefault(at, [0, 0])
        for job in jobs:
            for share in job.shares:
                for place, rate, of in ((0, share.asked, job.asked), (1, share.used, job.used)):
                    for start, stop in job.pieces(share, of):
                        sums[place] += rate * max(0, min(stop, end) - max(start, begin))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("oar_accounting.core.windows.PIECES_AT_ONCE", at_once)
        found = amounts_between(spans, KeyedRates.by_account(rates), begins, ends)
    sums_found = dict.fromkeys(expected, (0, 0))
    for at, asked, used in zip(*_lists(found, "number", "asked", "used"), strict=True):
        before = sums_found[at]
        sums_found[at] = (before[0] + asked, before[1] + used)
    assert sums_found == {at: (asked, used) for at, (asked, used) in expected.items()}


def _lists(table: Columns, *names: str) -> list[list[int]]:
    return [table.as_dict()[name].tolist() for name in names]


@given(batches(), WINDOWS)
def test_two_windows_together_are_the_window_of_twice_the_length(
    some: list[Job], window: int
) -> None:
    jobs = _ended(some)
    merged: Amounts = {}
    for (at, names, metric), (asked, used) in _totals(jobs, window).items():
        key = (at // (2 * window) * (2 * window), names, metric)
        before = merged.get(key, (0, 0))
        merged[key] = (before[0] + asked, before[1] + used)
    assert merged == _totals(jobs, 2 * window)


@given(batches())
def test_totals_over_all_time_are_rate_times_seconds(some: list[Job]) -> None:
    """No window appears in what is expected."""
    jobs = _ended(some)
    expected = [
        sum(
            share.used * sum(max(b - a, 0) for a, b in job.pieces(share, job.used))
            for job in jobs
            for share in job.shares
        ),
        sum(
            share.asked * sum(max(b - a, 0) for a, b in job.pieces(share, job.asked))
            for job in jobs
            for share in job.shares
        ),
    ]
    totals = _totals(jobs, DAY).values()
    assert [sum(used for _, used in totals), sum(asked for asked, _ in totals)] == expected


def test_rates_of_jobs_without_spans_and_spans_without_rates_give_nothing() -> None:
    some = Spans(ints([1]), ints([0]), ints([0]), ints([10]))
    rates = Rates.unchanging(ints([2]), ints([1]), ints([1]), ints([5]), ints([5]))
    assert not len(totals_of(some, rates, 60))
    assert not len(totals_of(some, Rates.concat([]), 60))
    assert not len(totals_of(Spans.concat([]), rates, 60))


# -- 63 bits ----------------------------------------------------------------------------------


def _or_overflow(compute: Callable[[], Ints]) -> list[int] | None:
    try:
        return [int(value) for value in compute()]
    except AmountOverflow:
        return None


def _fitting(values: list[int]) -> list[int] | None:
    return values if all(-LARGEST <= value <= LARGEST for value in values) else None


@given(st.lists(st.lists(LARGE, min_size=1, max_size=5), min_size=1, max_size=5))
@example([[LARGEST, 1]])
@example([[LARGEST, 1, -1]])
@example([[2**62, 2**62 - 1], [1]])
@example([[-LARGEST, -1]])
@example([[1], [2**62, 2**62], [1]])
@example([[2**62] * 4])
def test_sums_are_right_or_refused(runs: list[list[int]]) -> None:
    values = ints([value for run in runs for value in run])
    starts = ints(np.cumsum([0, *(len(run) for run in runs[:-1])]))
    assert _or_overflow(lambda: exact_sums(values, starts)) == _fitting([sum(r) for r in runs])


@given(st.lists(st.tuples(LARGE, LARGE), max_size=5))
@example([(2**31, 2**32)])
@example([(2**31, 2**32 - 1)])
@example([(2**32, 2**32)])
@example([(3_037_000_500, 3_037_000_500)])
@example([(3_037_000_499, 3_037_000_499)])
@example([(LARGEST, 1), (-1, LARGEST)])
def test_products_are_right_or_refused(pairs: list[tuple[int, int]]) -> None:
    left, right = ints([a for a, _ in pairs]), ints([b for _, b in pairs])
    expected = _fitting([a * b for a, b in pairs])
    assert _or_overflow(lambda: exact_product(left, right)) == expected


def _table(rows: Sequence[tuple[int, int, int, int, int]]) -> Totals:
    return Totals.of(ints([row[place] for row in rows]) for place in range(5))


KEYS = st.tuples(
    st.one_of(st.integers(-2, 2), st.sampled_from((-(2**55), 2**55))),
    st.one_of(st.integers(1, 3), st.just(2**31 - 1)),
    st.integers(1, 2),
)


@given(st.lists(st.builds(lambda key, *amounts: (*key, *amounts), KEYS, LARGE, LARGE), max_size=9))
@example([(0, 1, 1, LARGEST, 0), (0, 1, 1, 1, 0)])
@example([(0, 1, 1, 5, -5), (0, 1, 1, -5, 5)])
def test_rows_added_up_are_right_or_refused(rows: list[tuple[int, int, int, int, int]]) -> None:
    sums: dict[tuple[int, ...], list[int]] = {}
    for *key, asked, used in rows:
        amounts = sums.setdefault(tuple(key), [0, 0])
        amounts[0] += asked
        amounts[1] += used
    expected = [(*key, *amounts) for key, amounts in sorted(sums.items()) if any(amounts)]
    if any(abs(amount) > LARGEST for amounts in sums.values() for amount in amounts):
        with pytest.raises(AmountOverflow, match="63 bits; declare the metric in a larger unit"):
            add_up(_table(rows))
    else:
        summed = add_up(_table(rows))
        assert list(zip(*(c.tolist() for c in summed.as_dict().values()), strict=True)) == expected


@given(batches(), batches())
def test_difference_added_to_the_old_gives_the_new(before: list[Job], after: list[Job]) -> None:
    columns = [
        totals_of(*columns_of(_ended(some), lambda names: len(names[0]) + 1, _METRIC_IDS)[1:], DAY)
        for some in (before, after)
    ]
    change = difference(columns[1], columns[0])
    again = add_up(Totals.concat([columns[0], change]))
    assert again.as_dict().keys() == columns[1].as_dict().keys()
    for name, values in again.as_dict().items():
        assert values.tolist() == columns[1].as_dict()[name].tolist()
    assert not len(difference(columns[1], columns[1]))


_METRIC_IDS = {metric.name: at + 1 for at, metric in enumerate(METRICS)}


@given(st.lists(st.tuples(LARGE, st.integers(0, 2), LARGE), min_size=1, max_size=8))
def test_row_order_is_that_of_the_keys(rows: list[tuple[int, int, int]]) -> None:
    order = row_order([ints([row[place] for row in rows]) for place in range(3)]).tolist()
    assert order == sorted(range(len(rows)), key=lambda number: rows[number])


def test_amount_at_the_edge_of_63_bits_is_exact() -> None:
    assert _totals([_heavy(1, 7, LARGEST // 7)], DAY) == naive_totals(
        [_heavy(1, 7, LARGEST // 7)], DAY
    )


@pytest.mark.parametrize("seconds", [1, 2 * DAY])
def test_jobs_whose_total_exceeds_63_bits_are_refused(seconds: int) -> None:
    """Together two seconds of 2^62 are one too many; in windows of a day each is alone."""
    rate = 2**62 // min(seconds, DAY)
    jobs = [_heavy(1, seconds, rate), _heavy(2, seconds, rate + 1)]
    with pytest.raises(AmountOverflow, match=r"\b9223372036854\d+ does not fit in 63 bits"):
        _totals(jobs, DAY)


def _heavy(job_id: int, seconds: int, rate: int) -> Job:
    share = Share(value="", metric="resource", asked=0, used=rate)
    return Job(job_id=job_id, used=((0, seconds),), shares=(share,))


# -- too large --------------------------------------------------------------------------------


def _trouble(jobs: Sequence[Job], window: int) -> dict[int, str]:
    _, some, rates = columns_of(jobs, lambda names: 1, _METRIC_IDS)
    large = {job: said for (job, _), said in too_large(some, rates).items()}
    return too_long(some, window) | large


def test_job_over_too_many_windows_is_named() -> None:
    at_most = MOST_WINDOWS * 60
    jobs = [_heavy(3, at_most, 1), _heavy(5, at_most + 1, 1), _heavy(7, 60, 1)]
    assert _trouble(jobs, 60) == {5: "fills 1000001 windows of 60 s; 1000000 at most"}


def test_windows_of_all_spans_of_a_job_are_counted() -> None:
    share = Share(value="", metric="resource", asked=1, used=1)
    half = MOST_WINDOWS // 2
    job = Job(job_id=9, asked=((0, half + 1),), used=((0, half),), shares=(share,))
    assert _trouble([job], 1) == {9: "fills 1000001 windows of 1 s; 1000000 at most"}


def test_job_whose_amount_is_close_to_63_bits_is_named() -> None:
    jobs = [_heavy(3, 1000, 1), _heavy(5, 4, 2**61), _heavy(7, 2, 2**60)]
    assert _trouble(jobs, DAY) == {
        5: "holds 2305843009213693952 units a second: its amount exceeds 2^62"
    }


def test_job_that_is_not_too_large_alone_never_overflows_alone() -> None:
    for seconds in (1, 2, 3, 1_000_003):
        for rate in (2**62 // seconds, 2**62 // seconds + 2, 2**63 // seconds - 1):
            if not _trouble([_heavy(1, seconds, rate)], DAY):
                assert _totals([_heavy(1, seconds, rate)], DAY)


def test_open_span_is_not_too_large() -> None:
    some = Spans(ints([4]), ints([0]), ints([0]), ints([OPEN]))
    rates = Rates.unchanging(ints([4]), ints([1]), ints([1]), ints([1]), ints([1]))
    assert too_large(some, rates) == {}
    assert too_long(some, 1) == {}


def test_rates_of_other_jobs_are_no_trouble() -> None:
    some = Spans(ints([4]), ints([0]), ints([0]), ints([10]))
    for other in (3, 5):
        rates = Rates.unchanging(ints([other]), ints([1]), ints([1]), ints([LARGEST]), ints([1]))
        assert too_large(some, rates) == {}
    assert too_large(Spans.concat([]), rates) == {}
    assert too_long(Spans.concat([]), DAY) == {}


# -- memory -----------------------------------------------------------------------------------


def _peak(compute: Callable[[], Totals]) -> tuple[Totals, int]:
    tracemalloc.start()
    try:
        result = compute()
        return result, tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def test_jobs_over_very_many_windows_are_worked_on_in_portions() -> None:
    """80 jobs of a tenth of the most windows: 8,000,000 pieces, of which a portion is in memory."""
    windows, count = MOST_WINDOWS // 10, 80
    job = np.arange(count)
    zero = np.zeros(count, np.int64)
    some = Spans(job, zero, zero + 30, zero + windows * 60 + 30)
    rates = Rates.unchanging(job, zero + 1, zero + 1, zero, job)
    totals, peak = _peak(lambda: totals_of(some, rates, 60))
    assert peak < 200 * MEGABYTE
    rate = sum(range(count))
    assert totals.used.tolist() == [30 * rate, *[60 * rate] * (windows - 1), 30 * rate]


def test_span_over_most_windows_and_several_rates_is_worked_on_in_portions() -> None:
    """One job of MOST_WINDOWS windows on 16 clusters of the same account: 16 pieces a window."""
    held = 16
    some = Spans(ints([1]), ints([0]), ints([0]), ints([MOST_WINDOWS]))
    one = np.ones(held, np.int64)
    rates = Rates.unchanging(one, one, one, one, np.arange(held))
    totals, peak = _peak(lambda: totals_of(some, rates, 1))
    assert totals.used.tolist() == [sum(range(held))] * MOST_WINDOWS
    # The result alone takes 40 bytes a window.
    assert peak < 1_000 * MEGABYTE


# -- days -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("window", "kept"),
    [
        *((window, True) for window in (1, 60, 900, HOUR, 8 * HOUR, DAY // 2)),
        *((window, False) for window in (7, 7_000, 5 * HOUR, DAY - 1, DAY, DAY + HOUR, 2 * DAY)),
    ],
)
def test_days_are_kept_where_a_day_is_several_whole_windows(window: int, kept: bool) -> None:
    assert kept_by_day(window) is kept


@given(
    hours=st.lists(
        st.tuples(st.integers(-60, 60), st.integers(1, 2), st.integers(1, 2), st.integers(-5, 5)),
        unique_by=lambda hour: hour[:3],
    )
)
def test_hours_are_added_up_by_the_day_in_which_they_begin(
    hours: list[tuple[int, int, int, int]],
) -> None:
    columns = np.array(hours, np.int64).reshape(-1, 4)
    hour, account, metric, amount = (column.copy() for column in columns.T)
    found = by_day(Totals(hour * HOUR, account, metric, amount, 2 * amount))
    sums: dict[tuple[int, int, int], int] = {}
    for at, who, what, some in hours:
        key = ((at - at % 24) * HOUR, who, what)
        sums[key] = sums.get(key, 0) + some
    expected = sorted((*key, some, 2 * some) for key, some in sums.items() if some)
    assert list(zip(*(c.tolist() for c in found.as_dict().values()), strict=True)) == expected


def test_a_day_over_63_bits_is_refused() -> None:
    two, half = ints([1, 1]), ints([LARGEST // 2 + 1] * 2)
    with pytest.raises(AmountOverflow):
        by_day(Totals(ints([0, HOUR]), two, two, half, half))

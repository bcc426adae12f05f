"""Jobs whose rates change: cut into parts, they hold at every second what they held before."""

from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from oar_accounting.core.columns import FROM_START, KeyedRates, Rates, Spans, ints
from oar_accounting.core.parts import by_job, constant, held_at

JOBS, ACCOUNTS, METRICS, TIMES = range(1, 4), range(1, 3), range(1, 3), range(8)

#: Job, account, metric and from when on, to what each holds of it.
Held = dict[tuple[int, int, int, int], int]


def held() -> st.SearchStrategy[Held]:
    start = st.one_of(st.just(FROM_START), st.sampled_from(TIMES))
    keys = st.tuples(*map(st.sampled_from, (JOBS, ACCOUNTS, METRICS)), start)
    return st.dictionaries(keys, st.integers(0, 9), max_size=12)


def spans() -> st.SearchStrategy[list[tuple[int, int, int, int]]]:
    """Job, whether it is what was asked for, start and stop."""
    span = st.tuples(st.sampled_from(JOBS), st.integers(0, 1), *[st.sampled_from(TIMES)] * 2)
    return st.lists(span.filter(lambda row: row[2] < row[3]), max_size=6)


def rates_of(some: Held) -> Rates:
    rows = [(*key[:3], rate, 10 * rate, key[3]) for key, rate in some.items()]
    return Rates.of(ints([row[place] for row in rows]) for place in range(6))


def spans_of(some: list[tuple[int, int, int, int]]) -> Spans:
    return Spans.of(ints([row[place] for row in some]) for place in range(4))


def at(some: Held, job: int, account: int, metric: int, second: int) -> int:
    """What the job holds at a second: the last that began by then."""
    begun = [key for key in some if key[:3] == (job, account, metric) and key[3] <= second]
    return some[max(begun)] if begun else 0


@given(spans(), held())
def test_parts_hold_at_every_second_what_their_jobs_hold(
    some: list[tuple[int, int, int, int]], given_rates: Held
) -> None:
    parts = constant(spans_of(some), KeyedRates.by_account(rates_of(given_rates)))
    assert set(parts.rates.start_time.tolist()) <= {FROM_START}
    expected, found = {}, {}
    for second in TIMES:
        for account in ACCOUNTS:
            for metric in METRICS:
                place = (second, account, metric)
                expected[place] = sorted(
                    (job, asked, at(given_rates, job, account, metric, second))
                    for job, asked, start, stop in some
                    if start <= second < stop
                    if at(given_rates, job, account, metric, second)
                )
                found[place] = sorted(
                    (int(parts.jobs(ints([job]))[0]), asked, rate)
                    for job, asked, start, stop in zip(
                        *(column.tolist() for column in parts.spans.as_dict().values()),
                        strict=True,
                    )
                    if start <= second < stop
                    for rate in parts.rates.asked[
                        (parts.rates.job_id == job)
                        & (parts.rates.key == account)
                        & (parts.rates.metric_id == metric)
                    ].tolist()
                    if rate
                )
    assert found == expected


@given(spans(), held())
def test_by_job_every_rate_stands_under_its_job(
    some: list[tuple[int, int, int, int]], given_rates: Held
) -> None:
    cut, rates = by_job(spans_of(some), rates_of(given_rates))
    seconds = dict.fromkeys(JOBS, 0)
    for row in range(len(cut)):
        of_part = rates.take(rates.job_id == cut.job_id[row])
        for key, asked in zip(of_part.key.tolist(), of_part.asked.tolist(), strict=True):
            seconds[key] += asked * int(cut.stop_time[row] - cut.start_time[row])
    expected = dict.fromkeys(JOBS, 0)
    for job, _, start, stop in some:
        for second in range(start, stop):
            for account in ACCOUNTS:
                for metric in METRICS:
                    expected[job] += at(given_rates, job, account, metric, second)
    assert seconds == expected


@given(held(), st.sampled_from(TIMES))
def test_the_rates_in_force_are_the_last_that_began(given_rates: Held, instant: int) -> None:
    found = held_at(rates_of(given_rates), instant)
    keys = zip(
        found.job_id.tolist(), found.account_id.tolist(), found.metric_id.tolist(), strict=True
    )
    held_now = dict(zip(keys, found.asked.tolist(), strict=True))
    begun = {key[:3] for key in given_rates if key[3] <= instant}
    assert held_now == {key: at(given_rates, *key, instant) for key in begun}


def test_what_never_changes_stays_as_it_is() -> None:
    rates = KeyedRates.by_account(rates_of({(1, 1, 1, FROM_START): 2}))
    some = spans_of([(1, 0, 3, 7)])
    parts = constant(some, rates)
    assert parts.spans is some
    assert parts.rates is rates
    moved = replace(rates, start_time=ints([5]))
    assert constant(some, moved).spans.start_time.tolist() == [3, 5]

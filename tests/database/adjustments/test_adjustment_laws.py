"""The laws of adjustments, on random jobs and histories: exact within any bounds, and for ever."""

from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from itertools import chain, pairwise
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sqlalchemy import Engine, create_engine

from oar_accounting import Accounting, AmountOverflow, BadAdjustment, BadSpan, JobFilter
from oar_accounting.core.windows import evenly
from oar_accounting.ledger.ledger import Ledger
from tests.database.adjustments.test_adjustments import WORDS, Site, adjustments_in, rows_of
from tests.examples import examples
from tests.old_site import CORE
from tests.small_oar import DAY, T0, opened, stopped_clock
from tests.strategies import (
    METRICS,
    Job,
    Share,
    closed_jobs,
    hurry,
    jobs,
    naive_pieces,
    open_ledger,
    post_all,
    stored_totals,
)

on_sqlite = pytest.mark.databases("sqlite")


@contextmanager
def ledger_of(some: list[Job], engine: Engine | None = None) -> Iterator[Accounting]:
    """The accounting of a ledger with these jobs, and without an OAR."""
    with TemporaryDirectory() as directory:
        own = create_engine(f"sqlite:///{directory}/ledger.db") if engine is None else engine
        hurry(own)
        with opened(own) as accounting:
            post_all(open_ledger(Ledger(own, "oar")), [some])
            yield accounting


def lines_of(accounting: Accounting) -> list[Any]:
    """Every line that was posted."""
    return [
        line
        for each in accounting.adjustments()
        for line in accounting.adjustment_lines(each.adjustment_id)
    ]


Sums = dict[Any, tuple[int, int]]


def sums_of(accounting: Accounting, start: int, stop: int) -> Sums:
    """What adjustments give to every account and metric within ``[start, stop)``."""
    sums: defaultdict[Any, list[int]] = defaultdict(lambda: [0, 0])
    for line in lines_of(accounting):
        found = sums[(line.user, line.project, line.queue, line.property), line.metric]
        for place, amount in enumerate((line.asked, line.used)):
            found[place] += evenly(amount, line.start, line.stop, start, stop)
    return {key: (asked, used) for key, (asked, used) in sums.items() if asked or used}


def naive_sums(some: list[Job], start: int, stop: int) -> Sums:
    """What closed jobs are counted within ``[start, stop)``, second after second."""
    sums: defaultdict[Any, list[int]] = defaultdict(lambda: [0, 0])
    for job in (job for job in some if job.closed):
        for share in job.shares:
            found = sums[(*job.owner, share.value), share.metric]
            for place, rate, spans in ((0, share.asked, job.asked), (1, share.used, job.used)):
                for second in chain.from_iterable(range(*span) for span in spans):
                    found[place] += rate if start <= second < stop else 0
    return {key: (asked, used) for key, (asked, used) in sums.items() if asked or used}


def opposite(sums: Sums) -> Sums:
    """The same below zero."""
    return {key: (-asked, -used) for key, (asked, used) in sums.items()}


flags: st.SearchStrategy[bool] = st.booleans()


@st.composite
def short_jobs(draw: st.DrawFn) -> list[Job]:
    """Some jobs within two minutes."""

    def job(number: int) -> Job:
        cuts = sorted(draw(st.sets(st.integers(0, 120), max_size=6)))
        start = cuts[0] if cuts else 0
        share = st.builds(
            Share,
            value=st.sampled_from(("alpha", "beta")),
            metric=st.sampled_from([metric.name for metric in METRICS]),
            asked=st.integers(0, 9),
            used=st.integers(0, 9),
        )
        shares = draw(st.lists(share, max_size=3, unique_by=lambda s: (s.value, s.metric)))
        walltime = draw(st.integers(1, 120))
        return Job(
            job_id=number,
            owner=(draw(st.sampled_from(("alice", "bob"))), "green", "default"),
            asked=((start, start + walltime),) if draw(flags) and cuts else (),
            used=tuple(zip(cuts[::2], cuts[1::2], strict=False)),
            shares=tuple(shares),
        )

    return [job(number) for number in range(1, draw(st.integers(1, 5)) + 1)]


bounds = (
    st.tuples(st.integers(-5, 130), st.integers(-5, 130))
    .map(sorted)
    .filter(lambda pair: pair[0] < pair[1])
)


@given(short_jobs(), bounds)
def test_what_is_taken_back_is_what_was_counted_second_by_second(
    some: list[Job], span: list[int]
) -> None:
    start, stop = span
    with ledger_of(some) as accounting:
        accounting.adjust_jobs(JobFilter(start=start, stop=stop), **WORDS)
        assert sums_of(accounting, -(2**62), 2**62) == opposite(naive_sums(some, start, stop))


@given(short_jobs(), bounds, st.lists(st.integers(-5, 130), max_size=4))
def test_parts_of_a_span_are_together_the_whole(
    some: list[Job], span: list[int], cuts: list[int]
) -> None:
    """Also within any bounds, as usage asks."""
    edges = sorted({*span, *(cut for cut in cuts if span[0] < cut < span[1])})
    with ledger_of(some) as accounting:
        for start, stop in pairwise(edges):
            accounting.adjust_jobs(JobFilter(start=start, stop=stop), **WORDS)
        right = opposite(naive_sums(some, *span))
        assert sums_of(accounting, -(2**62), 2**62) == right
        for at in edges:
            assert sums_of(accounting, at, span[1]) == opposite(naive_sums(some, at, span[1]))


@given(st.lists(jobs(), max_size=6, unique_by=lambda job: job.job_id), st.data())
def test_all_jobs_of_windows_taken_back_leave_nothing_in_them(
    some: list[Job], data: st.DataObject
) -> None:
    windows = sorted(
        {
            at
            for job in some
            for span in (*job.asked, *job.used)
            for at, _ in naive_pieces(span, DAY)
        }
    )
    start = data.draw(st.sampled_from(windows or [0]))
    stop = data.draw(st.sampled_from([at + DAY for at in windows if at >= start] or [DAY]))
    with ledger_of(some) as accounting:
        accounting.adjust_jobs(JobFilter(start=start, stop=stop), **WORDS)
        totals = stored_totals(Ledger(accounting.engine, "oar"))
        for window in {at for at, _, _ in totals if start <= at < stop}:
            counted = {(who, m): both for (at, who, m), both in totals.items() if at == window}
            assert sums_of(accounting, window, window + DAY) == opposite(counted)
        others = [at for at, _, _ in totals if not start <= at < stop]
        assert all(sums_of(accounting, at, at + DAY) == {} for at in others)
        usage = accounting.usage(("user",), None, start, stop)
        assert all((row.asked, row.used) == (0, 0) for row in usage.rows)
        assert accounting.verify() == []


@given(
    st.lists(closed_jobs(), min_size=1, max_size=4, unique_by=lambda job: job.job_id),
    st.sampled_from([1, 12.5, 33, "33.333333", 50, 99.999999, 100]),
)
def test_every_line_of_a_share_is_within_half_of_the_exact_share(
    some: list[Job], percent: Any
) -> None:
    with ledger_of(some) as accounting:
        ids = [job.job_id for job in some]
        accounting.adjust_jobs(JobFilter(jobs=ids), **WORDS)
        whole = {line_key(line): (line.asked, line.used) for line in lines_of(accounting)}
        if not whole:
            return
        accounting.counter(1, **WORDS)
        report = accounting.adjust_jobs(JobFilter(jobs=ids, percent=percent), **WORDS)
        lines = [] if not report.lines else accounting.adjustment_lines(3)
        part = {line_key(line): (line.asked, line.used) for line in lines}
        numerator = round(float(percent) * 10**6)
        for key, amounts in whole.items():
            for before, after in zip(amounts, part.get(key, (0, 0)), strict=True):
                assert abs(after * 10**8 - before * numerator) * 2 <= 10**8


def line_key(line: Any) -> tuple[Any, ...]:
    """What a line is about."""
    return (
        *(line.job_id, line.user, line.project, line.queue, line.property, line.metric),
        *(line.start, line.stop),
    )


@given(
    st.integers(-(2**63) + 1, 2**63 - 1),
    st.tuples(st.integers(-(2**40), 2**40), st.integers(1, 2**40)),
    st.lists(st.integers(-(2**41), 2**41), min_size=2, max_size=2).map(sorted),
)
def test_an_adjustment_and_its_counter_are_zero_within_any_bounds(
    amount: int, span: tuple[int, int], within: list[int]
) -> None:
    with ledger_of([Job(job_id=1, used=((0, 1),))]) as accounting:
        accounting.adjust(
            **WORDS,
            user="alice",
            project="green",
            queue="default",
            metric="node",
            start=span[0],
            stop=span[0] + span[1],
            asked=amount or 1,
            used=-amount,
        )
        accounting.counter(1, **WORDS)
        assert sums_of(accounting, *within) == {}
        assert sums_of(accounting, -(2**62), 2**62) == {}


@given(short_jobs(), st.data())
def test_a_filter_is_once_however_often_and_a_dry_run_is_nothing(
    some: list[Job], data: st.DataObject
) -> None:
    span = data.draw(bounds)
    wanted = JobFilter(
        start=span[0],
        stop=span[1],
        user=data.draw(st.sampled_from([None, some[0].owner[0]])),
        metrics=data.draw(st.sampled_from([None, ("node",)])),
        percent=data.draw(st.sampled_from([100, 50])),
        asked=data.draw(st.booleans()),
    )
    with ledger_of(some) as accounting:
        before = rows_of(accounting.engine)
        dry = accounting.adjust_jobs(wanted, **WORDS, dry_run=True)
        assert rows_of(accounting.engine) == before
        first = accounting.adjust_jobs(wanted, **WORDS)
        assert replace(first, adjustment_id=None) == dry
        again = accounting.adjust_jobs(wanted, **WORDS)
        assert (again.adjustment_id, again.lines) == (None, 0)


@on_sqlite
def test_a_share_of_a_large_amount_does_not_wrap(engine: Engine) -> None:
    huge = Share(value="", metric="resource", asked=2**61 // DAY, used=2**61 // DAY)
    job = Job(job_id=1, asked=((0, DAY),), used=((0, DAY),), shares=(huge,))
    with ledger_of([job], engine) as accounting:
        wanted = JobFilter(jobs=[1], percent="33.333333")
        (row,) = accounting.adjust_jobs(wanted, **WORDS).rows
    exact = 2**61 // DAY * DAY * 33_333_333
    assert abs(-row.used * 10**8 - exact) * 2 <= 10**8


@on_sqlite
def test_a_sum_that_does_not_fit_is_refused(engine: Engine) -> None:
    huge = Share(value="", metric="resource", asked=0, used=2**61 // DAY)
    some = [Job(job_id=n, used=((n * DAY, n * DAY + DAY),), shares=(huge,)) for n in range(1, 6)]
    with ledger_of(some, engine) as accounting:
        with pytest.raises(AmountOverflow):
            accounting.adjust_jobs(JobFilter(start=0), **WORDS)
        assert accounting.adjustments() == []


VERBS: dict[str, Callable[[Site, int], object]] = {
    "rebuild": lambda site, _: site.accounting.rebuild(),
    "rebuild --from-oar": lambda site, _: site.accounting.rebuild(from_oar=True),
    "rebuild --metric": lambda site, _: site.accounting.rebuild(metric="core", from_oar=True),
    "catch-up --full": lambda site, _: site.accounting.catch_up(full=True),
    "purge": lambda site, seed: site.accounting.purge(T0 - (seed % 40) * DAY),
    "retire": lambda site, seed: site.accounting.retire(1 + seed % 3),
    "correct": lambda site, seed: site.oar.update_job(1 + seed % 3, stop_time=T0 + DAY + seed),
    "delete": lambda site, seed: site.oar.remove_job(1 + seed % 3),
    "adjust jobs": lambda site, seed: site.jobs(start=T0 + seed * 10, percent=50 + seed % 50),
    "adjust": lambda site, seed: site.account(used=1 + seed),
    "counter": lambda site, seed: site.accounting.counter(
        1 + seed % max(len(site.accounting.adjustments()), 1), **WORDS
    ),
}


@settings(max_examples=examples(20))
@given(st.lists(st.tuples(st.sampled_from(sorted(VERBS)), st.integers(0, 500)), max_size=8))
def test_no_verb_edits_or_deletes_what_was_posted(steps: list[tuple[str, int]]) -> None:
    """But for the ids of retired jobs, which change with those of the jobs."""
    with TemporaryDirectory() as directory, stopped_clock():
        engine = create_engine(f"sqlite:///{directory}/oar.db")
        hurry(engine)
        site = Site(engine, CORE)
        site.jobs(jobs=[1, 2])
        for name, seed in steps:
            headers, lines = adjustments_in(engine)
            try:
                VERBS[name](site, seed)
            except (BadAdjustment, BadSpan):
                assert name in ("counter", "purge")
            later_headers, later_lines = adjustments_in(engine)
            assert set(headers) <= set(later_headers)
            known = {line[:2]: line for line in later_lines}
            for line in lines:
                new = known[line[:2]]
                assert new[:4] + new[5:] == line[:4] + line[5:]
                assert new[4] == line[4] or (name == "retire" and new[4] < 0)
            assert len(later_headers) - len(headers) == int(len(later_lines) > len(lines))
            assert site.accounting.verify() == []
        site.accounting.close()

"""Whatever is done to a ledger, in whatever order: after every step the law holds."""

from collections.abc import Iterable
from dataclasses import replace
from itertools import count
from typing import ClassVar

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from sqlalchemy import Engine, update

from oar_accounting.core.columns import Rates, ints
from oar_accounting.database import dialects
from oar_accounting.ledger import schema, verify, versions
from oar_accounting.ledger.ledger import Book, Ledger
from oar_accounting.metrics.metric import NODE
from oar_accounting.recording.rebuild import restore_totals
from tests.examples import examples
from tests.servers import Database, Kind
from tests.strategies import (
    DAY,
    METRICS,
    WINDOWS,
    Entry,
    Job,
    Share,
    batches,
    closed_jobs,
    contents,
    enter,
    hurry,
    metric_ids,
    naive_contents,
    naive_days,
    naive_totals,
    open_jobs,
    open_ledger,
    post,
    post_all,
    rates,
    stored_days,
    stored_totals,
)

RUNS: dict[Kind, int] = {
    "sqlite": examples(200),
    "postgresql": examples(50),
    "mariadb": examples(50),
}
BUILDING = NODE.name + "*"


class Databank:
    """The database of all runs: each has a site of its own, beside one that is let alone."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self._numbers = count(1)
        self._neighbour = self.new_ledger(DAY)[0]
        shares = tuple(Share(value="", metric=m.name, asked=1, used=1) for m in METRICS)
        some = [
            Job(job_id=job, asked=((0, job),), used=((0, DAY + job),), shares=shares)
            for job in range(1, 31)
        ]
        post_all(self._neighbour, [some])
        self._before = contents(self._neighbour)

    def new_ledger(self, window: int) -> list[Ledger]:
        """A ledger on a new site, as two processes would have it."""
        name = f"site {next(self._numbers)}"
        return [open_ledger(Ledger(self.engine, name), window) for _ in range(2)]

    def assert_neighbour_untouched(self) -> None:
        assert contents(self._neighbour) == self._before


class LedgerMachine(RuleBasedStateMachine):
    """A ledger beside what it must say: jobs by id, measured amounts, and the window."""

    databank: ClassVar[Databank]

    def __init__(self) -> None:
        super().__init__()
        self.window = WINDOWS[1]
        self.ledgers = self.databank.new_ledger(self.window)
        self.jobs: dict[int, Job] = {}
        self.entries: list[Entry] = []
        self.building = False

    @property
    def ledger(self) -> Ledger:
        """The ledgers in turn: each must see what the other did."""
        self.ledgers.reverse()
        return self.ledgers[0]

    def _post(self, jobs: Iterable[Job]) -> None:
        some = list(jobs)
        post_all(self.ledger, [some])
        self.jobs |= {job.job_id: job for job in some}

    def _some(self, data: st.DataObject) -> list[Job]:
        chosen = data.draw(st.sets(st.sampled_from(sorted(self.jobs)), min_size=1, max_size=5))
        return [self.jobs[job] for job in sorted(chosen)]

    @rule(some=batches(5))
    def post(self, some: list[Job]) -> None:
        """New jobs, and others in the place of those with the same id."""
        self._post(some)

    @precondition(lambda self: self.jobs)
    @rule(data=st.data())
    def post_again(self, data: st.DataObject) -> None:
        self._post(self._some(data))

    @precondition(lambda self: self.jobs)
    @rule(data=st.data(), by=st.integers(1, 2 * DAY), rate=rates())
    def correct(self, data: st.DataObject, by: int, rate: int) -> None:
        """A later stop, another amount."""
        self._post(
            replace(
                job,
                used=tuple((start, stop + by) for start, stop in job.used[-1:]),
                running=None if job.running is None else job.running + by,
                shares=tuple(replace(share, used=rate) for share in job.shares),
            )
            for job in self._some(data)
        )

    @rule(job=open_jobs())
    def open(self, job: Job) -> None:
        self._post([job])

    @precondition(lambda self: any(not job.closed for job in self.jobs.values()))
    @rule(data=st.data(), job=closed_jobs())
    def close(self, data: st.DataObject, job: Job) -> None:
        running = sorted(number for number, job in self.jobs.items() if not job.closed)
        self._post([replace(job, job_id=data.draw(st.sampled_from(running)))])

    @precondition(lambda self: any(not job.closed for job in self.jobs.values()))
    @rule(data=st.data(), after=st.integers(-DAY, DAY))
    def vanish(self, data: st.DataObject, after: int) -> None:
        running = sorted(number for number, job in self.jobs.items() if not job.closed)
        job = self.jobs[data.draw(st.sampled_from(running))]
        seen = job.start + after
        with self.ledger.writing() as book:
            book.close_vanished(book.known(ints([job.job_id])), seen)
        self.jobs[job.job_id] = job.vanished(seen)

    @precondition(lambda self: self.jobs)
    @rule(data=st.data(), unknown=st.sets(st.integers(1, 40), max_size=3))
    def forget(self, data: st.DataObject, unknown: set[int]) -> None:
        ids = {job.job_id for job in self._some(data)} | unknown
        with self.ledger.writing() as book:
            book.forget(ints(sorted(ids)))
        self.jobs = {job: what for job, what in self.jobs.items() if job not in ids}
        self.entries = [entry for entry in self.entries if entry.job_id not in ids]

    @rule(some=batches(5))
    def abandon(self, some: list[Job]) -> None:
        """A transaction that fails in the end."""
        with pytest.raises(ZeroDivisionError), self.ledger.writing() as book:
            post(book, some)
            raise ZeroDivisionError

    @precondition(lambda self: self.jobs)
    @rule(data=st.data(), weeks=st.integers(-2, 2), amounts=st.tuples(rates(), rates()))
    def measure(self, data: st.DataObject, weeks: int, amounts: tuple[int, int]) -> None:
        """On a bound of all windows that a run has."""
        job = self._some(data)[0]
        entry = Entry(
            job_id=job.job_id,
            window_start=(job.start // WINDOWS[-1] + weeks) * WINDOWS[-1],
            names=(*job.owner, ""),
            metric=NODE.name,
            asked=amounts[0],
            used=amounts[1],
        )
        keys = [(old.job_id, old.window_start, old.names) for old in self.entries]
        if (entry.job_id, entry.window_start, entry.names) not in keys:
            with self.ledger.writing() as book:
                enter(book, job, [entry])
            self.entries.append(entry)

    @precondition(lambda self: self.jobs)
    @rule(data=st.data(), amounts=st.tuples(rates(), rates()))
    def change_metric(self, data: st.DataObject, amounts: tuple[int, int]) -> None:
        self._fill(self._some(data), NODE.name, amounts)

    def _fill(self, jobs: Iterable[Job], metric: str, amounts: tuple[int, int]) -> None:
        """Say one metric of the jobs, each to the account of its first share, and no other."""
        some = [replace(job, shares=_instead(job, metric, amounts)) for job in jobs]
        with self.ledger.writing() as book:
            post_metric(book, metric, some)
        self.jobs |= {job.job_id: job for job in some}

    @rule()
    def begin_metric(self) -> None:
        """Also where one is half built."""
        with self.ledger.writing() as book:
            book.begin_metric(replace(NODE, scale=1000))
        self._drop(BUILDING)
        self.building = True

    @precondition(lambda self: self.building and self.jobs)
    @rule(data=st.data(), amounts=st.tuples(rates(), rates()))
    def build_metric(self, data: st.DataObject, amounts: tuple[int, int]) -> None:
        self._fill(self._some(data), BUILDING, amounts)

    @precondition(lambda self: self.building)
    @rule()
    def finish_metric(self) -> None:
        with self.ledger.writing() as book:
            (built,) = (each for each in book.metrics() if each.state == schema.BUILDING)
            book.finish_metric(built)
        self._drop(NODE.name)
        self.entries = [entry for entry in self.entries if entry.metric != NODE.name]
        for number, job in self.jobs.items():
            shown = tuple(replace(s, metric=s.metric.rstrip("*")) for s in job.shares)
            self.jobs[number] = replace(job, shares=shown)
        self.building = False

    def _drop(self, metric: str) -> None:
        for number, job in self.jobs.items():
            kept = tuple(share for share in job.shares if share.metric != metric)
            self.jobs[number] = replace(job, shares=kept)

    @rule(off=st.integers(-3, 3))
    def rebuild(self, off: int) -> None:
        """After somebody tampered with totals of this site, or with those by day."""
        with self.ledger.writing() as book:
            accounts = sorted(book.accounts.names())
            for table, some in zip(schema.SUMMED, (accounts[::2], accounts[::3]), strict=True):
                moved = update(table).where(table.c.account_id.in_(some))
                book.connection.execute(moved.values(used=table.c.used + off))
        self._restore(self.window)

    @rule(window=st.sampled_from(WINDOWS))
    def change_window(self, window: int) -> None:
        self._restore(window)
        self.window = window

    def _restore(self, window: int) -> None:
        with self.ledger.reading() as (_, site):
            assert site is not None
        restore_totals(self.ledger, site, window, None)

    @invariant()
    def law_holds(self) -> None:
        ledger = self.ledger
        right = naive_totals(self.jobs.values(), self.window, self.entries)
        assert stored_totals(ledger) == right
        assert stored_days(ledger) == naive_days(right, self.window)
        with ledger.reading() as (connection, site):
            assert site is not None
            assert verify.first_differences(connection, site, 5) == []

    def teardown(self) -> None:
        found = contents(self.ledger)
        assert {row[0] for row in found["jobs"]} == self.jobs.keys()
        for name, rows in naive_contents(self.jobs.values(), self.entries).items():
            assert found[name] == rows
        self.databank.assert_neighbour_untouched()


def _instead(job: Job, metric: str, amounts: tuple[int, int]) -> tuple[Share, ...]:
    """The job's shares with one of the metric in the place of all that it has of it."""
    value = job.shares[0].value if job.shares else ""
    others = tuple(share for share in job.shares if share.metric != metric)
    return (*others, Share(value=value, metric=metric, asked=amounts[0], used=amounts[1]))


def post_metric(book: Book, metric: str, jobs: Iterable[Job]) -> None:
    """Say to the ledger what the jobs have of one metric."""
    some = sorted(jobs, key=lambda job: job.job_id)
    metric_id = metric_ids(book)[metric]
    held = [(job, share) for job in some for share in job.shares if share.metric == metric]
    names = [(*job.owner, share.value) for job, share in held]
    book.accounts.add(book.connection, names)
    columns = (
        [job.job_id for job, _ in held],
        book.accounts.ids(names),
        [metric_id] * len(held),
        [share.asked for _, share in held],
        [share.used for _, share in held],
        [share.since for _, share in held],
    )
    book.post_metric(ints([job.job_id for job in some]), metric_id, Rates.of(map(ints, columns)))


@pytest.mark.slow
def test_law_holds_after_every_step(database: Database, engine: Engine) -> None:
    dialects.prepare(engine)
    hurry(engine)
    dialects.let_readers_in(engine)
    with dialects.writing(engine) as connection:
        versions.create(connection)

    class LedgerHere(LedgerMachine):
        databank = Databank(engine)

    run_state_machine_as_test(
        LedgerHere,
        settings=settings(
            max_examples=RUNS[database.kind],
            stateful_step_count=20,
            deadline=None,
            suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
        ),
    )

"""Whatever OAR does in years, and whatever is done to keep its accounting: the sums are right.

Random histories of OAR, of the verbs, and of tables that are restored from earlier files, beside a
model that says in plain words what must be recorded then.
"""

import shutil
from collections.abc import Iterable, Sequence
from copy import deepcopy
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import count
from pathlib import Path
from typing import Any, ClassVar

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
from sqlalchemy import Engine, create_engine, func, select

from oar_accounting import Accounting, BadSpan, OtherOar, PassReport, Purged
from oar_accounting.ledger import schema
from oar_accounting.ledger.ledger import Ledger
from oar_accounting.ledger.schema import VANISHED
from oar_accounting.oar.job_rules import ENDED
from tests.examples import examples
from tests.old_site import CORE, places_of
from tests.small_oar import DAY, HOUR, NOW, Clock, SmallOar, stopped_clock
from tests.strategies import (
    METRICS,
    Amounts,
    Job,
    Share,
    contents,
    hurry,
    naive_totals,
    open_ledger,
    post_all,
    stored_totals,
)

RUNS = examples(200)
STEPS = 30
RECHECK = DAY
#: Each is a multiple of the one before.
WINDOWS = (DAY, 2 * DAY, 14 * DAY)
USERS = ("alice", "bob", "Bob", "b_b")
METRIC_NAMES = ("resource", "node", "core")


@dataclass(frozen=True, slots=True, kw_only=True)
class OarJob:
    """A job as OAR has it, or had it when it was recorded."""

    submission: int
    user: str
    queue: str
    cores: int
    start: int
    stop: int
    walltime: int
    state: str

    @property
    def ended(self) -> bool:
        return self.state in (*ENDED, VANISHED)


@dataclass(frozen=True, slots=True, kw_only=True)
class Kept:
    """A job as it is recorded, and in which metrics it counts."""

    job: OarJob
    metrics: frozenset[str]
    purged: bool = False

    @property
    def spans(self) -> tuple[tuple[tuple[int, int], ...], tuple[tuple[int, int], ...]]:
        """What it asked for, and what it used up to now."""
        job = self.job
        asked = ((job.start, job.start + job.walltime),)
        if job.state == "Waiting" or (job.ended and job.stop <= job.start):
            return (), ()
        return asked, ((job.start, job.stop),) if job.ended else ()

    def counted(self, number: int, names: dict[str, str]) -> Job:
        """The job as the plainest arithmetic takes it."""
        job = self.job
        asked, used = self.spans
        rates = {"resource": job.cores, "node": -(-job.cores // 4), "core": job.cores}
        return Job(
            job_id=number,
            owner=(names.get(job.user, job.user), "default", job.queue),
            state="Terminated" if job.ended else "Running",
            asked=asked,
            used=used,
            shares=tuple(
                Share(value="alpha", metric=name, asked=rates[name], used=rates[name])
                for name in sorted(self.metrics)
            )
            if asked or used
            else (),
        )

    def purgeable(self, bound: int) -> bool:
        """True where the job ended for good, with all that it asked for and used, by the bound."""
        asked, used = self.spans
        ends = [stop for _, stop in (*asked, *used)]
        return self.job.ended and not self.purged and max([*ends, self.job.stop]) <= bound


@dataclass(slots=True)
class Model:
    """What must be recorded: jobs by id, what purged ones gave, and what the site knows."""

    window: int = WINDOWS[0]
    kept: dict[int, Kept] = field(default_factory=dict)
    carried: Amounts = field(default_factory=dict)
    names: dict[str, str] = field(default_factory=dict)
    metrics: frozenset[str] = frozenset(METRIC_NAMES[:2])
    last_pass: int = NOW
    purged_before: int | None = None

    def totals(self) -> Amounts:
        """What must stand in the totals."""
        jobs = [
            each.counted(number, self.names)
            for number, each in self.kept.items()
            if not each.purged
        ]
        return add(naive_totals(jobs, self.window), self.carried, self.window, self.names)

    def settle(self, oar: dict[int, OarJob], ids: Iterable[int]) -> None:
        """What recording these ids does, where OAR gave none of them to another job."""
        for number in ids:
            now, kept = oar.get(number), self.kept.get(number)
            if kept is not None and not kept.job.ended:
                if now is None or now.submission != kept.job.submission:
                    self.vanish(number)
                    continue
            if now is None or (kept is not None and kept.purged):
                continue
            if kept is None or kept.job.submission == now.submission:
                self.kept[number] = Kept(job=now, metrics=self.metrics)

    def vanish(self, number: int) -> None:
        """The job ended when the last pass saw it."""
        kept = self.kept[number]
        job = kept.job
        stop = 0
        if job.state == "Running":
            stop = max(job.start, self.last_pass)
        self.kept[number] = replace(kept, job=replace(job, state=VANISHED, stop=stop))

    def purge(self, bound: int) -> int:
        """What a purge does; how many jobs it takes."""
        taken = [number for number, each in self.kept.items() if each.purgeable(bound)]
        gone = [self.kept[number].counted(number, {}) for number in taken]
        self.carried = add(self.carried, naive_totals(gone, self.window), self.window, {})
        for number in taken:
            self.kept[number] = replace(self.kept[number], purged=True)
        if bound > (self.purged_before or 0):
            self.purged_before = bound
        return len(taken)

    def carries(self, metric: str) -> bool:
        """True where purged jobs counted in the metric."""
        return any(key[2] == metric and any(each) for key, each in self.carried.items())

    def retire(self, first: int) -> int:
        """What freeing ids does; how many jobs had one."""
        for number, each in list(self.kept.items()):
            if number >= first and not each.job.ended:
                self.vanish(number)
        moved = [number for number in sorted(self.kept) if number >= first]
        lowest = min([0, *self.kept])
        for number in moved:
            self.kept[lowest - 1 - (number - first)] = self.kept.pop(number)
        return len(moved)


def add(first: Amounts, second: Amounts, window: int, names: dict[str, str]) -> Amounts:
    """The sums of both, in windows of this size, the users of the second under these names."""
    sums = dict(first)
    for (at, (user, *others), metric), amounts in second.items():
        key = (
            at // window * window,
            (names.get(user, user), others[0], others[1], others[2]),
            metric,
        )
        before = sums.get(key, (0, 0))
        sums[key] = (before[0] + amounts[0], before[1] + amounts[1])
    return sums


class Desk:
    """Files for the databases of all runs, the clock, and an empty pair to begin with."""

    def __init__(self, directory: Path, clock: Clock) -> None:
        self.directory = directory
        self.clock = clock
        self._numbers = count(1)

    def new(self) -> Path:
        """A directory of its own for a run, with both databases in it."""
        place = self.directory / str(next(self._numbers))
        shutil.copytree(self.empty, place)
        return place

    @cached_property
    def empty(self) -> Path:
        """An OAR without jobs that was recorded at `NOW`, and a neighbour in our tables."""
        place = self.directory / "empty"
        place.mkdir()
        oar = create_engine(f"sqlite:///{place}/oar.db")
        hurry(oar)
        SmallOar(oar)
        config = place / "accounting.toml"
        config.write_text(f'url = "sqlite:///{place}/ours.db"\n')
        with Accounting.open(engine=oar, config=config) as accounting:
            accounting.init()
            accounting.catch_up()
        engine = create_engine(f"sqlite:///{place}/ours.db")
        hurry(engine)
        shares = tuple(Share(value="", metric=m.name, asked=1, used=1) for m in METRICS)
        some = [
            Job(job_id=n, asked=((0, n),), used=((0, DAY + n),), shares=shares)
            for n in (1, 2, 3, 50)
        ]
        post_all(open_ledger(Ledger(engine, "neighbour")), [some])
        engine.dispose()
        return place


class YearsMachine(RuleBasedStateMachine):
    """OAR, the accounting in two processes, and the model."""

    desk: ClassVar[Desk]

    def __init__(self) -> None:
        super().__init__()
        self.clock = self.desk.clock
        self.clock.now = NOW
        self.place = self.desk.new()
        self.submissions = count(1)
        self.oar_jobs: dict[int, OarJob] = {}
        self.model = Model()
        self.toml: dict[str, str] = {"window": str(WINDOWS[0])}
        self.core_declared = False
        self.oar_backups: list[tuple[Path, dict[int, OarJob]]] = []
        self.our_backups: list[tuple[Path, Model]] = []
        self._open()
        self.neighbour = contents(self._ledger("neighbour"))

    # -- files and processes ------------------------------------------------------------------

    def _open(self) -> None:
        """As commands that begin now would find the databases and the settings."""
        self.oar_engine = create_engine(f"sqlite:///{self.place}/oar.db")
        hurry(self.oar_engine)
        self.oar = SmallOar(self.oar_engine, create=False, nodes=0)
        self.oar._last["jobs"] = max(self.oar_jobs, default=0)
        config = self.place / "accounting.toml"
        config.write_text(
            f'url = "sqlite:///{self.place}/ours.db"\nrecheck_days = {RECHECK // DAY}\n'
            + "".join(f"{key} = {value}\n" for key, value in self.toml.items())
            + (CORE if self.core_declared else "")
        )
        self.processes = [Accounting.open(engine=self.oar_engine, config=config) for _ in range(2)]
        for each in self.processes:
            hurry(each.engine)

    def _close(self) -> None:
        self.oar_engine.dispose()
        for each in self.processes:
            each.close()

    def _reopen(self) -> None:
        self._close()
        self._open()

    @property
    def accounting(self) -> Accounting:
        """The processes in turn: each must see what the other did."""
        self.processes.reverse()
        return self.processes[0]

    @property
    def engine(self) -> Engine:
        return self.processes[0].engine

    def _ledger(self, site: str = "oar") -> Ledger:
        return Ledger(self.engine, site)

    def _backup(self, name: str) -> Path:
        self._close()
        copy = self.place / f"{name}-{len(self.our_backups) + len(self.oar_backups)}.db"
        shutil.copy(self.place / f"{name}.db", copy)
        self._open()
        return copy

    def _put_back(self, name: str, copy: Path) -> None:
        self._close()
        for file in self.place.glob(f"{name}.db*"):
            file.unlink()
        shutil.copy(copy, self.place / f"{name}.db")

    # -- OAR ----------------------------------------------------------------------------------

    @rule(
        user=st.sampled_from(USERS),
        cores=st.integers(1, 8),
        age=st.integers(0, 12 * DAY),
        seconds=st.integers(0, 3 * DAY),
        walltime=st.sampled_from((60, HOUR, DAY)),
        state=st.sampled_from(("Terminated", "Terminated", "Error", "Running", "Waiting")),
    )
    def submit(  # noqa: PLR0913 - a job has many sides
        self, user: str, cores: int, age: int, seconds: int, walltime: int, state: str
    ) -> None:
        """A job, perhaps one that OAR commits late."""
        start = self.clock.now - age
        job = OarJob(
            submission=next(self.submissions),
            user=user,
            queue="default",
            cores=cores,
            start=start,
            stop=start + seconds if state in ENDED else 0,
            walltime=walltime,
            state=state,
        )
        number = self.oar.add_job(
            user=user,
            cores=cores,
            start=start,
            stop=job.stop,
            walltime=walltime,
            state=state,
            submission=job.submission,
        )
        self.oar_jobs[number] = job

    def _some_job(self, data: st.DataObject, *states: str) -> int:
        ids = [n for n, job in self.oar_jobs.items() if not states or job.state in states]
        return data.draw(st.sampled_from(sorted(ids)))

    def _change(self, number: int, **values: Any) -> None:
        job = self.oar_jobs[number] = replace(self.oar_jobs[number], **values)
        self.oar.update_job(
            number,
            walltime=job.walltime,
            state=job.state,
            start_time=job.start,
            stop_time=job.stop,
            queue_name=job.queue,
        )

    @precondition(lambda self: any(not job.ended for job in self.oar_jobs.values()))
    @rule(data=st.data(), seconds=st.integers(0, 2 * DAY))
    def end(self, data: st.DataObject, seconds: int) -> None:
        number = self._some_job(data, "Running", "Waiting")
        start = self.oar_jobs[number].start
        self._change(number, state="Terminated", stop=start + seconds)

    @precondition(lambda self: any(job.ended for job in self.oar_jobs.values()))
    @rule(data=st.data(), seconds=st.integers(0, 4 * DAY), queue=st.sampled_from(("default", "x")))
    def correct(self, data: st.DataObject, seconds: int, queue: str) -> None:
        """Another stop time, another queue."""
        number = self._some_job(data, *ENDED)
        self._change(number, stop=self.oar_jobs[number].start + seconds, queue=queue)

    @precondition(lambda self: self.oar_jobs)
    @rule(data=st.data())
    def delete(self, data: st.DataObject) -> None:
        number = self._some_job(data)
        self.oar.remove_job(number)
        del self.oar_jobs[number]

    @rule(seconds=st.sampled_from((60, HOUR, DAY, 3 * DAY, 20 * DAY)))
    def pass_time(self, seconds: int) -> None:
        self.clock.now += seconds

    @rule()
    def back_up_oar(self) -> None:
        self.oar_backups.append((self._backup("oar"), dict(self.oar_jobs)))

    @precondition(lambda self: self.oar_backups)
    @rule(data=st.data())
    def restore_oar(self, data: st.DataObject) -> None:
        copy, jobs = data.draw(st.sampled_from(self.oar_backups))
        self._put_back("oar", copy)
        self.oar_jobs = dict(jobs)
        self._open()

    @rule()
    def install_anew(self) -> None:
        """OAR begins again with job 1."""
        for number in self.oar_jobs:
            self.oar.remove_job(number)
        self.oar_jobs = {}
        self.oar._last["jobs"] = 0

    # -- the verbs ----------------------------------------------------------------------------

    def _others(self) -> list[int]:
        """The ids that name another job than the recorded one."""
        kept = self.model.kept
        return sorted(
            number
            for number, job in self.oar_jobs.items()
            if number in kept and kept[number].job.submission != job.submission
        )

    def _pass(self, *, full: bool) -> PassReport | None:
        """A pass, or the refusal that names the first id of another job."""
        model, others = self.model, self._others()
        if others:
            with pytest.raises(OtherOar, match=rf"retire --from {others[0]}\b"):
                self.accounting.catch_up(full=full)
            return None
        began = self.clock.now
        since = min(began, model.last_pass) - RECHECK
        seen = {n for n, each in model.kept.items() if not each.job.ended}
        for number, job in self.oar_jobs.items():
            lately = job.state in ENDED and job.stop >= since
            if full or number not in model.kept or lately:
                seen.add(number)
        report = self.accounting.catch_up(full=full)
        model.settle(self.oar_jobs, seen)
        model.last_pass = began
        return report

    @rule(full=st.booleans())
    def catch_up(self, full: bool) -> None:
        report = self._pass(full=full)
        if report is None:
            return
        highest = max((n for n in self.model.kept if n > 0), default=0)
        told = any("OAR's highest job" in notice for notice in report.notices)
        assert told == (highest > max(self.oar_jobs, default=0))

    @rule(some=st.sets(st.integers(1, 8), max_size=3))
    def record(self, some: set[int]) -> None:
        self.accounting.record(sorted(some))
        self.model.settle(self.oar_jobs, some)

    @rule()
    def rebuild(self) -> None:
        self.accounting.rebuild()

    @rule()
    def rebuild_from_oar(self) -> None:
        report = self.accounting.rebuild(from_oar=True)
        self.model.settle(self.oar_jobs, list(self.oar_jobs))
        told = any("was purged" in notice for notice in report.notices)
        assert told == (self.model.purged_before is not None)

    @rule(window=st.sampled_from(WINDOWS))
    def change_window(self, window: int) -> None:
        """Only into larger ones once something was purged: what was purged cannot be split."""
        if self.model.purged_before is not None:
            window = max(window, self.model.window)
        self.toml["window"] = str(window)
        self._reopen()
        self.accounting.rebuild()
        self.model.window = window
        carried, self.model.carried = self.model.carried, {}
        self.model.carried = add({}, carried, window, {})

    @rule(name=st.sampled_from(METRIC_NAMES))
    def rebuild_metric(self, name: str) -> None:
        """A metric that is new, or read again; after a pass, so that OAR says what is recorded."""
        if self._pass(full=True) is None:
            return
        if name == "core" and not self.core_declared:
            self.core_declared = True
            self._reopen()
        new = name not in self.model.metrics
        self.accounting.rebuild(metric=name, from_oar=True)
        for number, each in self.model.kept.items():
            if new and number in self.oar_jobs and not each.purged:
                self.model.kept[number] = replace(each, metrics=each.metrics | {name})
        self.model.metrics |= {name}

    @precondition(lambda self: self.model.carries("core"))
    @rule()
    def redefine_metric(self) -> None:
        config = self.place / "accounting.toml"
        other = self.place / "other.toml"
        other.write_text(config.read_text() + "scale = 2\n")
        with Accounting.open(url=self.oar_engine.url, config=other) as accounting:
            with pytest.raises(Purged):
                accounting.rebuild(metric="core")

    @rule(days=st.integers(0, 20))
    def purge(self, days: int) -> None:
        before = self.clock.now - days * DAY
        window = self.model.window
        bound = before // window * window
        if bound > self.clock.now - RECHECK:
            with pytest.raises(BadSpan):
                self.accounting.purge(before)
            return
        rows = self._rows()
        taken = self.model.purge(bound)
        assert self.accounting.purge(before) == (bound, taken)
        assert all(now <= was for now, was in zip(self._rows(), rows, strict=True))

    @precondition(lambda self: self._users())
    @rule(data=st.data())
    def forget_user(self, data: st.DataObject) -> None:
        user = data.draw(st.sampled_from(self._users()))
        before = self._sums()
        pseudonym = self.accounting.forget_user(user)
        self.model.names[user] = pseudonym
        assert self._sums() == before

    def _users(self) -> list[str]:
        """The users who stand in our accounts under their names."""
        with self.engine.connect() as connection:
            query = select(schema.accounts.c.user_name).join(
                schema.sites, schema.sites.c.site_id == schema.accounts.c.site_id
            )
            found = connection.execute(query.where(schema.sites.c.name == "oar")).scalars()
            return sorted({user for user in found if user in USERS})

    @rule(first=st.integers(1, 6))
    def retire(self, first: int) -> None:
        """The id that a pass would name, or where OAR has none of the jobs."""
        others = self._others()
        same = [
            number
            for number, job in self.oar_jobs.items()
            if number in self.model.kept and number not in others
        ]
        first = max([first, *(number + 1 for number in same)])
        before = self._sums()
        ran = {n: each.job for n, each in self.model.kept.items() if n >= first}
        assert self.accounting.retire(first) == self.model.retire(first)
        if all(job.ended for job in ran.values()):
            assert self._sums() == before

    # -- our tables ---------------------------------------------------------------------------

    @rule()
    def back_up_ours(self) -> None:
        self.our_backups.append((self._backup("ours"), deepcopy(self.model)))

    @precondition(lambda self: self.our_backups)
    @rule(data=st.data())
    def restore_ours(self, data: st.DataObject) -> None:
        copy, model = data.draw(st.sampled_from(self.our_backups))
        self._put_back("ours", copy)
        self.model = deepcopy(model)
        # The settings are put back as well: else the next rebuild would change the window.
        self.toml["window"] = str(model.window)
        self._open()

    # -- what must hold -----------------------------------------------------------------------

    def _sums(self) -> dict[str, tuple[int, int]]:
        """Asked and used of every metric, over all users."""
        rows = self.processes[0].usage(()).rows
        return {row.metric: (row.asked, row.used) for row in rows}

    def _rows(self) -> Sequence[int]:
        with self.engine.connect() as connection:
            return [
                connection.execute(select(func.count()).select_from(table)).scalar_one()
                for table in (schema.spans, schema.rates)
            ]

    @invariant()
    def law_holds(self) -> None:
        for each in self.processes:
            assert each.verify() == []

    @invariant()
    def totals_are_those_of_the_model(self) -> None:
        assert stored_totals(self._ledger()) == self.model.totals()

    @invariant()
    def forgotten_users_are_nowhere(self) -> None:
        for user in self.model.names:
            assert user not in self._users()

    def teardown(self) -> None:
        assert contents(self._ledger("neighbour")) == self.neighbour
        for user in self.model.names:
            if user == "alice":
                assert places_of(self.engine, user) <= {"accounting_accounts.user_name"}
        self._close()
        shutil.rmtree(self.place)


@pytest.mark.slow
@pytest.mark.databases("sqlite")
def test_years_of_an_oar(server: object, tmp_path: Path) -> None:
    with stopped_clock() as clock:

        class YearsHere(YearsMachine):
            desk = Desk(tmp_path, clock)

        run_state_machine_as_test(
            YearsHere,
            settings=settings(
                max_examples=RUNS,
                stateful_step_count=STEPS,
                deadline=None,
                suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
            ),
        )

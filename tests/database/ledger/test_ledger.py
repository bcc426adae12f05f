"""The ledger says what was posted last, exactly, on every database."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from itertools import count
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import Delete, Engine, Update, delete, insert, select, update

from oar_accounting.accounting import Accounting
from oar_accounting.core.columns import Rates, ints
from oar_accounting.database import dialects
from oar_accounting.errors import AmountOverflow, DatabaseError, SchemaError
from oar_accounting.ledger import catalog, schema, totals, verify
from oar_accounting.ledger.ledger import Ledger
from oar_accounting.ledger.records import Difference
from oar_accounting.metrics.metric import Metric
from oar_accounting.recording.rebuild import restore_totals
from oar_accounting.settings.load import Settings
from tests.examples import examples
from tests.servers import Database
from tests.strategies import (
    DAY,
    HOUR,
    METRICS,
    NAMES,
    WINDOWS,
    Entry,
    Job,
    Share,
    batches,
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
    rows_in,
    stored_days,
    stored_totals,
)

#: The database of a test is made once; each example has a site of its own.
each_example = settings(
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
    max_examples=examples(25),
)
NewLedger = Callable[..., Ledger]
LARGE_TABLES = ("jobs", "spans", "rates", "entries", "totals", "days")


@pytest.fixture
def recorded(database: Database, engine: Engine) -> Engine:
    """The engine, on a database with our tables."""
    given = Settings(oar_url=dialects.parse_url(database.url), url=dialects.parse_url(database.url))
    accounting = Accounting(given, engine=engine, oar_engine=engine)
    hurry(engine)
    assert accounting.init()
    return engine


@pytest.fixture
def new_ledger(recorded: Engine) -> NewLedger:
    """Makes ledgers, each on a site of its own."""
    numbers = count(1)

    def make(window: int = DAY) -> Ledger:
        return open_ledger(Ledger(recorded, f"site {next(numbers)}"), window)

    return make


def differences(ledger: Ledger) -> list[Difference]:
    """What `Accounting.verify` finds."""
    with ledger.reading() as (connection, site):
        assert site is not None
        return verify.first_differences(connection, site, 100)


def assert_lawful(
    ledger: Ledger, jobs: Iterable[Job], window: int = DAY, entries: Sequence[Entry] = ()
) -> None:
    """The stored totals are those of these jobs, none is zero, and the law says the same."""
    right = naive_totals(jobs, window, entries)
    assert stored_totals(ledger) == right
    assert stored_days(ledger) == naive_days(right, window)
    assert differences(ledger) == []


def forget(ledger: Ledger, ids: Iterable[int]) -> None:
    with ledger.writing() as book:
        book.forget(ints(sorted(ids)))


def share(used: int, *, asked: int = 0, value: str = "", metric: str = "resource") -> Share:
    return Share(value=value, metric=metric, asked=asked, used=used)


def ran(job_id: int, *, seconds: int = HOUR, rate: int = 1) -> Job:
    """A job that ran from 1970 on, for alice."""
    return Job(
        job_id=job_id,
        asked=((0, 2 * HOUR),),
        used=((0, seconds),),
        shares=(share(rate, asked=rate),),
    )


# -- posting ----------------------------------------------------------------------------------


@each_example
@given(some=batches())
def test_posting_twice_is_posting_once(new_ledger: NewLedger, some: list[Job]) -> None:
    ledger = new_ledger()
    post_all(ledger, [some])
    once = contents(ledger)
    post_all(ledger, [some])
    assert contents(ledger) == once
    assert_lawful(ledger, some)


@each_example
@given(some=batches(12), data=st.data())
def test_order_and_portions_do_not_matter(
    new_ledger: NewLedger, some: list[Job], data: st.DataObject
) -> None:
    together, apart = new_ledger(), new_ledger()
    post_all(together, [some])
    shuffled = data.draw(st.permutations(some))
    cuts = sorted(data.draw(st.sets(st.integers(0, len(some)), max_size=4)))
    portions = zip([0, *cuts], [*cuts, len(some)], strict=True)
    post_all(apart, [shuffled[start:stop] for start, stop in portions])
    assert contents(apart) == contents(together)


@each_example
@given(before=batches(), after=batches())
def test_correction_gives_what_posting_it_at_first_gives(
    new_ledger: NewLedger, before: list[Job], after: list[Job]
) -> None:
    corrected, fresh = new_ledger(), new_ledger()
    post_all(corrected, [before, after])
    last = {job.job_id: job for job in (*before, *after)}
    post_all(fresh, [last.values()])
    assert contents(corrected) == contents(fresh)
    assert_lawful(corrected, last.values())


@each_example
@given(kept=batches(), gone=batches())
def test_forgetting_restores_every_row(
    new_ledger: NewLedger, kept: list[Job], gone: list[Job]
) -> None:
    ledger = new_ledger()
    ids = {job.job_id for job in gone}
    kept = [job for job in kept if job.job_id not in ids]
    post_all(ledger, [kept])
    before = contents(ledger)
    post_all(ledger, [gone])
    forget(ledger, ids)
    assert contents(ledger) == before


def test_correction_moves_totals_by_the_difference(new_ledger: NewLedger) -> None:
    ledger = new_ledger()
    post_all(ledger, [[ran(1), ran(2)]])
    key = (0, ("alice", "green", "default", ""), "resource")
    assert stored_totals(ledger) == {key: (4 * HOUR, 2 * HOUR)}
    post_all(ledger, [[ran(2, seconds=HOUR + 7)]])
    assert stored_totals(ledger) == {key: (4 * HOUR, 2 * HOUR + 7)}
    post_all(ledger, [[ran(2, seconds=HOUR - 7, rate=3)]])
    assert stored_totals(ledger) == {key: (8 * HOUR, 4 * HOUR - 21)}


def test_totals_move_with_a_job_to_another_account(new_ledger: NewLedger) -> None:
    ledger = new_ledger()
    post_all(ledger, [[ran(1), ran(2)]])
    moved = replace(ran(2), owner=("bob", "green", "default"))
    post_all(ledger, [[moved]])
    assert {names[0] for _, names, _ in stored_totals(ledger)} == {"alice", "bob"}
    assert_lawful(ledger, [ran(1), moved])
    post_all(ledger, [[replace(ran(1), owner=("bob", "green", "default"))]])
    assert {names[0] for _, names, _ in stored_totals(ledger)} == {"bob"}


def test_job_counts_from_when_it_closes_until_it_opens_again(new_ledger: NewLedger) -> None:
    ledger = new_ledger()
    running = replace(ran(1), state="Running", used=((0, 10),), running=20)
    post_all(ledger, [[running]])
    assert stored_totals(ledger) == {}
    assert [row[3] for row in contents(ledger)["spans"]] == [10, None, 2 * HOUR]
    post_all(ledger, [[ran(1)]])
    assert_lawful(ledger, [ran(1)])
    post_all(ledger, [[running]])
    assert_lawful(ledger, [running])
    assert stored_totals(ledger) == {}


def test_job_that_uses_nothing_any_more_leaves_no_zero(new_ledger: NewLedger) -> None:
    """Also in windows that it shares with a job whose amounts only just remain."""
    ledger = new_ledger()
    long = ran(1, seconds=3 * DAY)
    post_all(ledger, [[long, ran(2)]])
    nothing = replace(long, asked=(), used=(), shares=())
    post_all(ledger, [[nothing]])
    assert_lawful(ledger, [nothing, ran(2)])
    assert len(contents(ledger)["totals"]) == 1
    post_all(ledger, [[replace(ran(2), shares=(share(0),))]])
    assert contents(ledger)["totals"] == []


def test_total_stays_while_either_amount_does(new_ledger: NewLedger) -> None:
    ledger = new_ledger()
    post_all(ledger, [[ran(1)]])
    only_asked = replace(ran(1), used=())
    post_all(ledger, [[only_asked]])
    assert list(stored_totals(ledger).values()) == [(2 * HOUR, 0)]
    only_used = replace(ran(1), asked=())
    post_all(ledger, [[only_used]])
    assert list(stored_totals(ledger).values()) == [(0, HOUR)]


def test_jobs_far_apart_and_close_together_are_replaced_alike(new_ledger: NewLedger) -> None:
    """Close ids are looked up and deleted as a range, others by lists; neighbours stay."""
    ledger = new_ledger()
    some = [*range(1, 60), *range(1_000, 3_000, 40), 2**40, 2**62]
    post_all(ledger, [[ran(job) for job in some]])
    for chosen in ([5], [5, 6, 7], [5, 7], [5, 2**40], some[::2], [2, 3, *range(2_000, 2_100)]):
        before = contents(ledger)
        again = [ran(job, rate=9) for job in chosen]
        post_all(ledger, [again])
        last = {job: ran(job) for job in some} | {job.job_id: job for job in again}
        assert_lawful(ledger, last.values())
        forget(ledger, set(chosen) - set(some))
        post_all(ledger, [[ran(job) for job in chosen if job in some]])
        assert contents(ledger) == before


@pytest.mark.slow
def test_jobs_in_thousands_are_posted_and_forgotten(new_ledger: NewLedger) -> None:
    """More than the blocks in which they are looked at."""
    ledger = new_ledger(WINDOWS[-1])
    ids = np.concatenate([np.arange(1, 10_501), np.arange(20_000, 40_000, 37)]).tolist()
    some = [ran(job, seconds=job) for job in ids]
    post_all(ledger, [some])
    assert_lawful(ledger, some, WINDOWS[-1])
    post_all(ledger, [some])
    assert_lawful(ledger, some, WINDOWS[-1])
    forget(ledger, ids[1:])
    assert_lawful(ledger, some[:1], WINDOWS[-1])
    assert [len(contents(ledger)[name]) for name in LARGE_TABLES] == [1, 2, 1, 0, 1, 0]


@pytest.mark.parametrize("window", [DAY, DAY // 2])
@pytest.mark.parametrize("many", [1, 10**9], ids=["new ones apart", "all added"])
def test_totals_of_many_accounts_at_once_are_the_same_by_either_way(
    new_ledger: NewLedger, monkeypatch: pytest.MonkeyPatch, many: int, window: int
) -> None:
    """From many changed totals on, those that are new are inserted; here some are, some go."""
    monkeypatch.setattr(totals, "MANY_ROWS", many)
    ledger = new_ledger(window)
    some = [replace(ran(n, rate=n), owner=(f"user {n}", "", "")) for n in range(1, 451)]
    post_all(ledger, [some[::3]])
    assert_lawful(ledger, some[::3], window)
    post_all(ledger, [some])
    assert_lawful(ledger, some, window)
    more = [replace(job, used=((0, DAY + n),)) for n, job in enumerate(some)]
    post_all(ledger, [more[:200], [*more[200:400], *(replace(j, shares=()) for j in more[400:])]])
    assert_lawful(ledger, more[:400], window)
    neighbour = new_ledger(window)
    post_all(neighbour, [more])
    forget(ledger, range(1, 451))
    assert_lawful(ledger, [], window)
    assert_lawful(neighbour, more, window)


def test_nothing_is_written_where_the_block_fails(new_ledger: NewLedger) -> None:
    """Nor are the accounts remembered that went with it."""
    ledger = new_ledger()
    before = contents(ledger)
    with pytest.raises(ZeroDivisionError), ledger.writing() as book:
        post(book, [ran(1)])
        raise ZeroDivisionError
    assert contents(ledger) == before
    post_all(ledger, [[ran(1)]])
    assert_lawful(ledger, [ran(1)])


def test_accounts_that_another_process_added_are_found(new_ledger: NewLedger) -> None:
    ledger = new_ledger()
    other = Ledger(ledger.engine, ledger.site_name)
    post_all(ledger, [[ran(1)]])
    post_all(other, [[replace(ran(2), owner=("bob", "green", "default"))]])
    again = replace(ran(3), owner=("bob", "green", "default"))
    post_all(ledger, [[again]])
    assert_lawful(ledger, [ran(1), replace(again, job_id=2), again])


def test_site_that_was_never_recorded_is_told(recorded: Engine) -> None:
    with (
        pytest.raises(SchemaError, match="site 'elsewhere' is not recorded here"),
        Ledger(recorded, "elsewhere").writing(),
    ):
        pass


# -- names ------------------------------------------------------------------------------------


def test_names_are_kept_byte_for_byte(new_ledger: NewLedger) -> None:
    """Each is an account of its own, whatever the database thinks of letters and blanks."""
    ledger = new_ledger()
    some = [
        replace(ran(number, rate=number), owner=(name, "", ""))
        for number, name in enumerate(NAMES, start=1)
    ]
    post_all(ledger, [some])
    assert {names[0] for _, names, _ in stored_totals(ledger)} == set(NAMES)
    assert_lawful(ledger, some)
    post_all(Ledger(ledger.engine, ledger.site_name), [some])
    assert_lawful(ledger, some)
    with ledger.reading() as (connection, site):
        assert site is not None
        assert len(rows_in(connection, schema.accounts)) == len(NAMES)


def test_names_of_one_account_do_not_run_into_each_other(new_ledger: NewLedger) -> None:
    ledger = new_ledger()
    owners = (("a", "bc", ""), ("ab", "c", ""), ("", "abc", ""), ("a", "", "bc"), ("1:a", "", ""))
    some = [replace(ran(number), owner=owner) for number, owner in enumerate(owners)]
    post_all(ledger, [some])
    assert len(stored_totals(ledger)) == len(owners)
    assert_lawful(ledger, some)


def test_types_and_states_are_kept_as_they_are(new_ledger: NewLedger) -> None:
    ledger = new_ledger()
    texts = ("", "deploy,inner=12", "token:x=\\N", "a\tb\nc\\", "'; --", "x" * 5_000)
    some = [replace(ran(number), types=text) for number, text in enumerate(texts, start=1)]
    post_all(ledger, [some])
    assert {row[0]: row[7] for row in contents(ledger)["jobs"]} == dict(enumerate(texts, start=1))


@pytest.mark.parametrize("name", ["bob", "Bob", "bob ", "O'Brien", "zoe\u0308", "😀" * 255])
def test_sites_are_told_apart_by_every_byte(recorded: Engine, name: str) -> None:
    post_all(open_ledger(Ledger(recorded, "zo\u00eb")), [[ran(1)]])
    post_all(open_ledger(Ledger(recorded, "BOB")), [[ran(1)]])
    ledger = open_ledger(Ledger(recorded, name))
    assert stored_totals(ledger) == {}
    post_all(ledger, [[ran(2)]])
    assert_lawful(ledger, [ran(2)])


# -- entries ----------------------------------------------------------------------------------


def entry(job_id: int, used: int, at: int = 0, value: str = "") -> Entry:
    names = ("alice", "green", "default", value)
    return Entry(job_id=job_id, window_start=at, names=names, metric="node", asked=0, used=used)


@pytest.fixture
def measured(new_ledger: NewLedger) -> tuple[Ledger, list[Entry]]:
    """A ledger with two jobs, both with measured amounts in two windows."""
    ledger = new_ledger()
    post_all(ledger, [[ran(1), ran(2)]])
    entries = [entry(1, 5), entry(1, 6, DAY, "taurus"), entry(2, 7), entry(2, 8, -DAY)]
    with ledger.writing() as book:
        enter(book, ran(1), entries[:2])
        enter(book, ran(2), entries[2:])
    return ledger, entries


def test_entries_count_in_the_law(measured: tuple[Ledger, list[Entry]]) -> None:
    ledger, entries = measured
    assert_lawful(ledger, [ran(1), ran(2)], DAY, entries)
    with ledger.writing() as book:
        book.connection.execute(delete(schema.entries).where(schema.entries.c.job_id == 1))
    assert {(d.window_start, d.property, d.used, d.expected_used) for d in differences(ledger)} == {
        (0, "", 12, 7),
        (DAY, "taurus", 6, 0),
    }


def test_entries_stay_with_a_job_that_is_posted_again(
    measured: tuple[Ledger, list[Entry]],
) -> None:
    ledger, entries = measured
    before = contents(ledger)
    post_all(ledger, [[ran(1), ran(2)]])
    assert contents(ledger) == before
    corrected = ran(1, seconds=DAY + 1, rate=3)
    post_all(ledger, [[corrected]])
    assert_lawful(ledger, [corrected, ran(2)], DAY, entries)
    assert contents(ledger)["entries"] == before["entries"]


def test_entries_of_a_job_that_opens_again_wait_until_it_closes(
    measured: tuple[Ledger, list[Entry]],
) -> None:
    ledger, entries = measured
    running = replace(ran(1), state="Running", used=(), running=0)
    post_all(ledger, [[running]])
    assert_lawful(ledger, [running, ran(2)], DAY, entries)
    post_all(ledger, [[ran(1)]])
    assert_lawful(ledger, [ran(1), ran(2)], DAY, entries)


def test_entries_of_an_open_job_count_from_when_it_closes(new_ledger: NewLedger) -> None:
    ledger = new_ledger()
    running = replace(ran(1), state="Running", used=(), running=0)
    post_all(ledger, [[running]])
    with ledger.writing() as book:
        enter(book, running, [entry(1, 5)])
    assert_lawful(ledger, [running], DAY, [entry(1, 5)])
    post_all(ledger, [[ran(1)]])
    assert_lawful(ledger, [ran(1)], DAY, [entry(1, 5)])


def test_entries_go_with_a_forgotten_job(measured: tuple[Ledger, list[Entry]]) -> None:
    ledger, entries = measured
    forget(ledger, [1])
    assert_lawful(ledger, [ran(2)], DAY, entries)
    assert {row[0] for row in contents(ledger)["entries"]} == {2}
    forget(ledger, [2])
    assert [contents(ledger)[name] for name in LARGE_TABLES] == [[]] * len(LARGE_TABLES)


def test_entries_are_restored_with_the_totals(measured: tuple[Ledger, list[Entry]]) -> None:
    ledger, entries = measured
    with ledger.writing() as book:
        book.connection.execute(delete(schema.totals))
    restore(ledger)
    assert_lawful(ledger, [ran(1), ran(2)], DAY, entries)


def test_entries_fall_into_the_wider_window_around_them(new_ledger: NewLedger) -> None:
    ledger = new_ledger(HOUR)
    entries = [entry(1, 5, 3 * HOUR), entry(1, 6, 23 * HOUR), entry(1, 7, -HOUR)]
    post_all(ledger, [[ran(1)]])
    with ledger.writing() as book:
        enter(book, ran(1), entries)
    restore(ledger, DAY)
    assert_lawful(ledger, [ran(1)], DAY, entries)
    assert {at for at, _, _ in stored_totals(ledger)} == {-DAY, 0}
    post_all(ledger, [[ran(1)]])
    assert_lawful(ledger, [ran(1)], DAY, entries)


# -- sites ------------------------------------------------------------------------------------


@each_example
@given(ours=batches(), theirs=batches())
def test_sites_in_one_database_do_not_touch_each_other(
    new_ledger: NewLedger, ours: list[Job], theirs: list[Job]
) -> None:
    """The same ids, names and windows; whatever one does, the other keeps every row."""
    ledger, neighbour = new_ledger(), new_ledger(HOUR)
    post_all(neighbour, [theirs])
    before = contents(neighbour)
    post_all(ledger, [ours, [*theirs]])
    restore(ledger, HOUR)
    with ledger.writing() as book:
        built = book.begin_metric(METRICS[1])
        book.post_metric(ints([1]), built.metric_id, Rates.concat([]))
        book.finish_metric(built)
    forget(ledger, {job.job_id for job in (*ours, *theirs)})
    assert contents(neighbour) == before
    assert [contents(ledger)[name] for name in LARGE_TABLES] == [[]] * len(LARGE_TABLES)
    assert_lawful(neighbour, theirs, HOUR)


def test_law_of_a_site_leaves_out_the_accounts_between_its_own(new_ledger: NewLedger) -> None:
    ledger, neighbour = new_ledger(), new_ledger()
    for number in range(1, 7):
        some = [replace(ran(number), owner=(f"user {number}", "", ""))]
        post_all(ledger if number % 2 else neighbour, [some])
    before = contents(neighbour)
    assert differences(ledger) == differences(neighbour) == []
    restore(ledger, HOUR)
    restore(ledger)
    assert contents(neighbour) == before
    assert len(stored_totals(ledger)) == 2 * 3


# -- one metric -------------------------------------------------------------------------------

GPU = Metric(name="gpu", unit="gpu·s", form="count", type="gpu")


def _metric_ids(ledger: Ledger) -> dict[str, int]:
    with ledger.writing() as book:
        return metric_ids(book)


def _with_metric(job: Job, rate: int, metric: str) -> Job:
    kept = tuple(share for share in job.shares if share.metric != metric)
    return replace(job, shares=(*kept, share(rate, metric=metric)) if rate else kept)


def _post_metric(ledger: Ledger, metric_id: int, rates: dict[int, int]) -> None:
    """Say the rate of one metric per job, to the account of alice without a property."""
    with ledger.writing() as book:
        account = book.accounts.ids([("alice", "green", "default", "")])[0]
        some = [(job, account, metric_id, 0, rate) for job, rate in rates.items() if rate]
        columns = [[row[place] for row in some] for place in range(5)]
        book.post_metric(ints(sorted(rates)), metric_id, Rates.unchanging(*map(ints, columns)))


def test_one_metric_is_said_again_and_the_others_stay(new_ledger: NewLedger) -> None:
    ledger = new_ledger()
    some = [_with_metric(ran(job), 2, "node") for job in (1, 2, 3)]
    post_all(ledger, [some])
    _post_metric(ledger, _metric_ids(ledger)["node"], {1: 7, 2: 0})
    expected = [_with_metric(some[0], 7, "node"), _with_metric(some[1], 0, "node"), some[2]]
    assert_lawful(ledger, expected)
    fresh = new_ledger()
    post_all(fresh, [expected])
    assert contents(ledger) == contents(fresh)


def test_one_metric_of_jobs_that_are_not_recorded_is_not_said(new_ledger: NewLedger) -> None:
    ledger = new_ledger()
    post_all(ledger, [[ran(1)]])
    _post_metric(ledger, _metric_ids(ledger)["node"], {1: 2, 5: 3, 2**40: 4})
    expected = [_with_metric(ran(1), 2, "node")]
    assert_lawful(ledger, expected)
    assert contents(ledger)["rates"] == naive_contents(expected, [])["rates"]


def test_one_metric_of_an_open_job_counts_when_it_closes(new_ledger: NewLedger) -> None:
    ledger = new_ledger()
    running = replace(ran(1), state="Running", used=(), running=0)
    post_all(ledger, [[running]])
    _post_metric(ledger, _metric_ids(ledger)["node"], {1: 2})
    assert_lawful(ledger, [running])
    assert len(contents(ledger)["rates"]) == 2


def test_new_metric_is_hidden_until_it_is_complete(new_ledger: NewLedger) -> None:
    ledger = new_ledger()
    post_all(ledger, [[ran(1), ran(2)]])
    with ledger.writing() as book:
        built = book.begin_metric(GPU)
    _post_metric(ledger, built.metric_id, {1: 4, 2: 0})
    assert {metric for _, _, metric in stored_totals(ledger)} == {"resource", "gpu*"}
    assert differences(ledger) == []
    with ledger.writing() as book:
        book.finish_metric(built)
    assert_lawful(ledger, [_with_metric(ran(1), 4, "gpu"), ran(2)])


def test_metric_built_again_takes_the_place_of_the_old(new_ledger: NewLedger) -> None:
    ledger = new_ledger()
    some = [_with_metric(ran(job), 2, "node") for job in (1, 2)]
    post_all(ledger, [some])
    with ledger.writing() as book:
        enter(book, some[0], [entry(1, 99)])
        built = book.begin_metric(replace(METRICS[1], scale=1000))
    _post_metric(ledger, built.metric_id, {1: 2000})
    assert {metric for _, _, metric in stored_totals(ledger)} == {"resource", "node", "node*"}
    with ledger.writing() as book:
        book.finish_metric(built)
    expected = [_with_metric(some[0], 2000, "node"), _with_metric(some[1], 0, "node")]
    assert_lawful(ledger, expected)
    assert contents(ledger)["entries"] == []
    with ledger.writing() as book:
        assert [stored.metric.scale for stored in book.metrics()] == [1, 1000]


def test_metric_half_built_is_begun_anew(new_ledger: NewLedger) -> None:
    ledger = new_ledger()
    post_all(ledger, [[ran(1), ran(2)]])
    before = contents(ledger)
    with ledger.writing() as book:
        half = book.begin_metric(GPU)
    _post_metric(ledger, half.metric_id, {1: 4, 2: 3})
    with ledger.writing() as book:
        book.begin_metric(GPU)
    assert contents(ledger) == before
    assert differences(ledger) == []


# -- jobs that OAR deleted --------------------------------------------------------------------


def _close_vanished(ledger: Ledger, ids: Sequence[int], last_seen: int | None) -> None:
    with ledger.writing() as book:
        book.close_vanished(book.known(ints(ids)), last_seen)


@pytest.mark.parametrize(
    ("last_seen", "used"),
    [
        pytest.param(500, ((0, 100), (200, 500)), id="seen while it ran"),
        pytest.param(150, ((0, 100),), id="seen before it ran on"),
        pytest.param(None, ((0, 100),), id="never seen by a pass"),
    ],
)
def test_vanished_job_used_what_ran_until_it_was_last_seen(
    new_ledger: NewLedger, last_seen: int | None, used: tuple[tuple[int, int], ...]
) -> None:
    ledger = new_ledger()
    running = replace(ran(1), state="Running", used=((0, 100),), running=200)
    post_all(ledger, [[running, ran(2)]])
    _close_vanished(ledger, [1], last_seen)
    gone = replace(running, state=schema.VANISHED, used=used, running=None)
    assert_lawful(ledger, [gone, ran(2)])
    assert contents(ledger)["spans"] == naive_contents([gone, ran(2)], [])["spans"]
    job = contents(ledger)["jobs"][0]
    assert (job[2], job[5], job[8], job[9]) == (schema.VANISHED, max(last_seen or 0, 200), 1, 0)
    _close_vanished(ledger, [1], 10**9)
    assert_lawful(ledger, [gone, ran(2)])


def test_jobs_between_those_that_vanished_stay(new_ledger: NewLedger) -> None:
    ledger = new_ledger()
    running = [replace(ran(job), state="Running", used=(), running=0) for job in (1, 2, 4)]
    post_all(ledger, [[*running, ran(3)]])
    _close_vanished(ledger, [1, 4], 500)
    gone = [replace(ran(job), state=schema.VANISHED, used=((0, 500),)) for job in (1, 4)]
    assert_lawful(ledger, [*gone, running[1], ran(3)])
    found = contents(ledger)
    for name, rows in naive_contents([*gone, running[1], ran(3)], []).items():
        assert found[name] == rows


def test_vanished_job_that_never_began_used_nothing(new_ledger: NewLedger) -> None:
    ledger = new_ledger()
    post_all(ledger, [[Job(job_id=1, state="Waiting"), ran(2)]])
    _close_vanished(ledger, [1], 500)
    assert_lawful(ledger, [ran(2)])
    job = contents(ledger)["jobs"][0]
    assert (job[2], job[5], job[8], job[9]) == (schema.VANISHED, 0, 1, 0)


@each_example
@given(others=batches(), job=open_jobs(), after=st.integers(-DAY, 3 * DAY))
def test_vanished_jobs_of_all_kinds_leave_the_law(
    new_ledger: NewLedger, others: list[Job], job: Job, after: int
) -> None:
    ledger = new_ledger()
    last_seen = job.start + after
    post_all(ledger, [others, [job]])
    _close_vanished(ledger, [job.job_id], last_seen)
    gone = job.vanished(last_seen)
    expected = [*(other for other in others if other.job_id != job.job_id), gone]
    assert_lawful(ledger, expected)
    assert contents(ledger)["spans"] == naive_contents(expected, [])["spans"]


# -- the law ----------------------------------------------------------------------------------


def restore(ledger: Ledger, window: int | None = None) -> None:
    """What `Accounting.rebuild` does."""
    with ledger.reading() as (_, site):
        pass
    assert site is not None
    restore_totals(ledger, site, window or site.terms.window, None)


TOTALS = schema.totals.c
RIGHT = (0, "alice", "green", "default", "", "resource")
TAMPERINGS: dict[str, tuple[Update | Delete, tuple[object, ...], int, int]] = {
    "changed": (update(schema.totals).values(used=TOTALS.used + 1), RIGHT, HOUR + 1, HOUR),
    "lowered below zero": (update(schema.totals).values(used=-5), RIGHT, -5, HOUR),
    "deleted": (delete(schema.totals), RIGHT, 0, HOUR),
}


@pytest.mark.parametrize("what", TAMPERINGS)
def test_total_that_was_tampered_with_is_found_and_mended(new_ledger: NewLedger, what: str) -> None:
    statement, place, was, right = TAMPERINGS[what]
    ledger = new_ledger()
    others = [replace(ran(2), owner=("bob", "", "")), ran(3, seconds=0)]
    post_all(ledger, [[ran(1), *others]])
    before = contents(ledger)
    with ledger.writing() as book:
        chosen = book.accounts.ids([("alice", "green", "default", "")])
        book.connection.execute(statement.where(TOTALS.account_id.in_(chosen)))
    found = differences(ledger)
    assert [_place(each) for each in found] == [place]
    assert [(each.used, each.expected_used) for each in found] == [(was, right)]
    restore(ledger)
    assert differences(ledger) == []
    assert contents(ledger) == before


def _place(found: Difference) -> tuple[object, ...]:
    names = (found.user, found.project, found.queue, found.property)
    return (found.window_start, *names, found.metric)


@pytest.mark.parametrize(
    ("at", "metric"),
    [
        pytest.param(-7 * DAY, "resource", id="window before all others"),
        pytest.param(2**40 * DAY // DAY * DAY, "resource", id="window after all others"),
        pytest.param(5, "resource", id="no bound of windows"),
        pytest.param(0, "node", id="another metric"),
        pytest.param(0, "no. 77", id="metric that is not there"),
    ],
)
def test_total_that_was_invented_is_found_and_mended(
    new_ledger: NewLedger, at: int, metric: str
) -> None:
    ledger = new_ledger()
    post_all(ledger, [[ran(1)]])
    before = contents(ledger)
    metric_id = _metric_ids(ledger).get(metric, 77)
    with ledger.writing() as book:
        account = book.accounts.ids([("alice", "green", "default", "")])[0]
        values = {"window_start": at, "account_id": account, "metric_id": metric_id}
        values["site_id"] = book.site.site_id
        book.connection.execute(insert(schema.totals).values(**values, asked=3, used=4))
    found = differences(ledger)
    assert [_place(each) for each in found] == [(at, *RIGHT[1:5], metric)]
    assert [(each.asked, each.expected_asked) for each in found] == [(3, 0)]
    restore(ledger)
    assert contents(ledger) == before


DAYS = schema.days.c
OF_DAYS: dict[str, tuple[Update | Delete, int]] = {
    "changed": (update(schema.days).values(used=DAYS.used + 1), 5 * HOUR + 1),
    "lowered below zero": (update(schema.days).values(used=-5), -5),
    "deleted": (delete(schema.days), 0),
}


@pytest.mark.parametrize("what", OF_DAYS)
def test_day_that_was_tampered_with_is_found_and_mended(new_ledger: NewLedger, what: str) -> None:
    """The totals it is made of are right, and stay."""
    statement, was = OF_DAYS[what]
    ledger = new_ledger(HOUR)
    jobs = [replace(ran(1), used=((DAY - HOUR, DAY + 5 * HOUR),)), ran(2)]
    post_all(ledger, [jobs])
    before = contents(ledger)
    with ledger.writing() as book:
        book.connection.execute(statement.where(DAYS.day_start == DAY))
    (found,) = differences(ledger)
    assert _place(found) == (DAY, *RIGHT[1:])
    assert (found.used, found.expected_used) == (was, 5 * HOUR)
    restore(ledger)
    assert contents(ledger) == before
    assert_lawful(ledger, jobs, HOUR)


@pytest.mark.parametrize("window", [HOUR, DAY, 7_000])
def test_day_that_was_invented_is_found_and_mended(new_ledger: NewLedger, window: int) -> None:
    """Also one of a site that keeps none."""
    ledger = new_ledger(window)
    post_all(ledger, [[ran(1)]])
    with ledger.writing() as book:
        (account,) = book.accounts.ids([("alice", "green", "default", "")])
        key = {"account_id": account, "metric_id": metric_ids(book)["resource"]}
        key["site_id"] = book.site.site_id
        book.connection.execute(insert(schema.days).values(day_start=-DAY, asked=3, used=4, **key))
    (found,) = differences(ledger)
    assert _place(found) == (-DAY, *RIGHT[1:])
    assert (found.asked, found.used) == (3, 4)
    assert (found.expected_asked, found.expected_used) == (0, 0)
    restore(ledger)
    assert_lawful(ledger, [ran(1)], window)


def test_totals_that_are_wrong_are_mended_beside_days_that_are_right(
    new_ledger: NewLedger,
) -> None:
    ledger = new_ledger(HOUR)
    post_all(ledger, [[ran(1), ran(2)]])
    with ledger.writing() as book:
        book.connection.execute(update(schema.totals).values(used=TOTALS.used + 1))
    assert {each.window_start for each in differences(ledger)} == {0, HOUR}
    assert len(differences(ledger)) == 2
    restore(ledger)
    assert_lawful(ledger, [ran(1), ran(2)], HOUR)


def test_days_are_kept_where_a_day_is_several_whole_windows(new_ledger: NewLedger) -> None:
    ledger = new_ledger(HOUR)
    jobs = [ran(1), replace(ran(2), used=((-DAY - 5, 2 * DAY + 5),))]
    post_all(ledger, [jobs])
    kept = {}
    for window in (DAY, 60, 7_000, DAY // 2, 7 * DAY, HOUR):
        restore(ledger, window)
        assert_lawful(ledger, jobs, window)
        kept[window] = len(stored_days(ledger))
    assert kept == {DAY: 0, 60: 5, 7_000: 0, DAY // 2: 5, 7 * DAY: 0, HOUR: 5}


class Interrupted(Exception):
    """Somebody stopped it."""


def test_a_rebuild_that_is_interrupted_leaves_days_that_the_next_mends(
    new_ledger: NewLedger, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(verify, "TOTALS_AT_ONCE", 2)
    ledger = new_ledger(HOUR)
    jobs = [replace(ran(n), owner=(f"user {n}", "", "")) for n in range(1, 6)]
    post_all(ledger, [jobs])
    with ledger.writing() as book:
        for table in schema.SUMMED:
            book.connection.execute(update(table).values(used=table.c.used + 1))
    wrong = len(differences(ledger))

    def stop(*_: int) -> None:
        raise Interrupted

    with ledger.reading() as (_, site):
        assert site is not None
    with pytest.raises(Interrupted):
        restore_totals(ledger, site, HOUR, stop)
    assert 0 < len(differences(ledger)) < wrong
    before = contents(ledger)
    with pytest.raises(Interrupted):
        restore_totals(ledger, site, DAY, stop)
    assert contents(ledger) == before
    restore(ledger)
    assert_lawful(ledger, jobs, HOUR)


def test_a_metric_that_goes_takes_its_days_along(new_ledger: NewLedger) -> None:
    ledger = new_ledger(HOUR)
    post_all(ledger, [[_with_metric(ran(1), 4, "node")]])
    assert {metric for _, _, metric in stored_days(ledger)} == {"resource", "node"}
    with ledger.writing() as book:
        catalog.remove_metric(book.connection, book.site.site_id, metric_ids(book)["node"])
    assert stored_days(ledger) == {
        (0, ("alice", "green", "default", ""), "resource"): (7_200, HOUR)
    }


def test_only_the_first_differences_are_told(new_ledger: NewLedger) -> None:
    ledger = new_ledger()
    post_all(ledger, [[ran(1, seconds=30 * DAY)]])
    with ledger.writing() as book:
        book.connection.execute(update(schema.totals).values(used=1))
    with ledger.reading() as (connection, site):
        assert site is not None
        found = verify.first_differences(connection, site, 3)
    assert [each.window_start for each in found] == [0, DAY, 2 * DAY]
    assert len(differences(ledger)) == 30


@each_example
@given(some=batches(), windows=st.lists(st.sampled_from(WINDOWS), min_size=2, max_size=4))
def test_other_window_gives_the_ledger_that_always_had_it(
    new_ledger: NewLedger, some: list[Job], windows: list[int]
) -> None:
    ledger = new_ledger(windows[0])
    post_all(ledger, [some])
    for window in windows[1:]:
        restore(ledger, window)
        fresh = new_ledger(window)
        post_all(fresh, [some])
        assert contents(ledger) == contents(fresh)
        assert_lawful(ledger, some, window)
    post_all(ledger, [some])
    assert contents(ledger) == contents(fresh)


@pytest.mark.parametrize("at_once", [1, 20, 1_000])
def test_ranges_of_accounts_of_any_size_restore_the_same(
    new_ledger: NewLedger, monkeypatch: pytest.MonkeyPatch, at_once: int
) -> None:
    """Ten accounts with one to ten totals each, some without any."""
    ledger = new_ledger(HOUR)
    some = [
        replace(ran(n, seconds=n * HOUR), owner=(str(n), "", ""), asked=()) for n in range(1, 11)
    ]
    post_all(ledger, [[*some, *(Job(job_id=n, owner=(f"{n}", "", "")) for n in range(11, 15))]])
    before = contents(ledger)
    monkeypatch.setattr(verify, "TOTALS_AT_ONCE", at_once)
    monkeypatch.setattr(verify, "VERIFIED_AT_ONCE", 4)
    with ledger.reading() as (connection, site):
        assert site is not None
        ranges = verify.account_ranges(connection, site.site_id)
        accounts = {row[0] for row in rows_in(connection, schema.accounts)}
    assert len(ranges) == {1: 10, 20: 3, 1_000: 1}[at_once]
    covered = [n for first, last in ranges for n in range(first, last + 1)]
    assert len(covered) == len(set(covered))
    assert accounts <= set(covered)
    with ledger.writing() as book:
        book.connection.execute(update(schema.totals).values(used=TOTALS.used * 2 - 5))
        book.connection.execute(delete(schema.totals).where(TOTALS.window_start == 3 * HOUR))
    assert len(differences(ledger)) == 55
    restore(ledger)
    assert contents(ledger) == before
    restore(ledger, DAY)
    assert_lawful(ledger, some, DAY)


# -- 63 bits ----------------------------------------------------------------------------------


def _heavy(job_id: int, rate: int) -> Job:
    return Job(job_id=job_id, used=((0, 1),), asked=((0, 1),), shares=(share(rate, asked=1),))


@pytest.mark.parametrize("batches", [[[1], [2]], [[1, 2]]], ids=["one by one", "together"])
def test_total_over_63_bits_is_an_overflow_and_nothing_is_written(
    new_ledger: NewLedger, batches: list[list[int]]
) -> None:
    """Each job alone is far below; what one needs more is beyond."""
    ledger = new_ledger()
    jobs = {1: _heavy(1, 2**62), 2: _heavy(2, 2**62)}
    most = {1: _heavy(1, 2**62), 2: _heavy(2, 2**62 - 1)}
    post_all(ledger, [[most[job] for job in batch] for batch in batches])
    assert_lawful(ledger, most.values())
    forget(ledger, [1, 2])
    post_all(ledger, [[jobs[job] for job in batch] for batch in batches[:-1]])
    before = contents(ledger)
    with pytest.raises(AmountOverflow, match="does not fit in 63 bits; declare the metric in a"):
        post_all(ledger, [[jobs[job] for job in batches[-1]]])
    assert contents(ledger) == before
    assert differences(ledger) == []
    post_all(ledger, [[ran(3)]])
    assert differences(ledger) == []


def test_largest_total_is_corrected_and_restored(new_ledger: NewLedger) -> None:
    ledger = new_ledger()
    post_all(ledger, [[_heavy(1, 2**63 - 1)]])
    assert [used for _, used in stored_totals(ledger).values()] == [2**63 - 1]
    with ledger.writing() as book:
        book.connection.execute(update(schema.totals).values(used=1))
    restore(ledger)
    assert_lawful(ledger, [_heavy(1, 2**63 - 1)])
    post_all(ledger, [[_heavy(1, 1)]])
    assert_lawful(ledger, [_heavy(1, 1)])


# -- reading ----------------------------------------------------------------------------------


def test_reader_sees_one_state_throughout(new_ledger: NewLedger) -> None:
    ledger = new_ledger()
    post_all(ledger, [[ran(1)]])
    with ledger.reading() as (connection, site):
        assert site is not None
        before = _whole(connection.execute(select(schema.totals)).all())
        post_all(ledger, [[ran(2)]])
        assert _whole(connection.execute(select(schema.totals)).all()) == before
        assert verify.first_differences(connection, site, 10) == []
    assert_lawful(ledger, [ran(1), ran(2)])


def _whole(rows: Sequence[Any]) -> list[tuple[int, ...]]:
    return [tuple(row) for row in rows]


@pytest.mark.databases("postgresql")
def test_reader_cannot_write(new_ledger: NewLedger) -> None:
    ledger = new_ledger()
    with (
        pytest.raises(DatabaseError, match="read-only transaction"),
        ledger.reading() as (connection, _),
    ):
        connection.execute(delete(schema.totals))


@pytest.mark.databases("sqlite", "mariadb")
def test_what_a_reader_writes_is_gone(new_ledger: NewLedger) -> None:
    ledger = new_ledger()
    post_all(ledger, [[ran(1)]])
    with ledger.reading() as (connection, _):
        connection.execute(delete(schema.totals))
    assert_lawful(ledger, [ran(1)])

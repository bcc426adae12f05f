"""Forgotten users: a pseudonym everywhere, whatever comes later, and the same sums."""

import re
from collections.abc import Iterator
from dataclasses import replace

import pytest
from sqlalchemy import Engine, create_engine, insert, select

from oar_accounting import UnknownName
from oar_accounting.ledger import schema
from oar_accounting.ledger.catalog import digest
from oar_accounting.recording.passes import Pass
from tests.old_site import CORE, OldSite, places_of
from tests.servers import Database
from tests.small_oar import DAY, NOW, T0, Clock, Recorded, SmallOar, opened, stopped_clock
from tests.strategies import NAMES, account_names
from tests.system.cli.test_cli import run, said

on_sqlite = pytest.mark.databases("sqlite")

PSEUDONYM = re.compile(r"forgotten-[0-9a-f]{8}")
#: Names that a pattern, a quotation or a collation could take for others.
HARD_NAMES = (
    *("100%", "a_b", "%", "_", "O'Brien", 'a "b"', "both ' and \"", "back\\slash", "/slash"),
    *("tab\there", "two\nlines", "b\x1b[31mob", "zoë", "zoe\u0308", "😀", " bob", "bob ", "Bob"),
    *("x" * 255, "😀" * 255, "NULL", "; DROP TABLE accounting_jobs"),
)


@pytest.fixture(autouse=True)
def clock() -> Iterator[Clock]:
    """The verbs' clock stands at `NOW`."""
    with stopped_clock() as stopped:
        yield stopped


def some_users(engine: Engine, *users: str) -> OldSite:
    """A site with two jobs of each user, on two projects; recorded."""
    site = OldSite(engine)
    for cores, user in enumerate(users, 1):
        site.add_job(3, user=user, cores=cores)
        site.add_job(2, user=user, cores=cores, project="physics", seconds=DAY + 5)
    assert site.accounting.catch_up().problems == ()
    site.check()
    return site


def forget(site: OldSite, user: str) -> str:
    """Forget the user, here and in the arithmetic; the pseudonym."""
    pseudonym = site.accounting.forget_user(user)
    assert PSEUDONYM.fullmatch(pseudonym)
    site.rename(user, pseudonym)
    return pseudonym


# -- what was used stays ----------------------------------------------------------------------


def test_a_pseudonym_stands_for_the_user_and_what_was_used_stays(engine: Engine) -> None:
    site = some_users(engine, "alice", "bob")
    before = Recorded(site.accounting).amounts()
    alice = Recorded(site.accounting).by("user")["alice"]
    pseudonym = forget(site, "alice")
    site.check()
    assert Recorded(site.accounting).amounts() == before
    assert Recorded(site.accounting).by("user")[pseudonym] == alice
    assert set(Recorded(site.accounting).by("user")) == {pseudonym, "bob"}
    assert places_of(engine, "alice") == set()


def test_what_oar_still_has_under_the_name_is_recorded_under_the_pseudonym(engine: Engine) -> None:
    site = some_users(engine, "alice", "bob")
    pseudonym = forget(site, "alice")
    corrected = next(iter(site.jobs))
    site.oar.update_job(corrected, stop_time=NOW)
    job = site.jobs[corrected]
    site.jobs[corrected] = replace(job, used=((job.used[0][0], NOW),))
    site.add_job(1, user="alice", project="new")
    site.rename("alice", pseudonym)
    assert site.accounting.catch_up().problems == ()
    site.check()
    for _ in range(2):
        report = site.accounting.catch_up(full=True)
        assert (report.done, report.changed, report.problems) == (0, 0, ())
        site.accounting.record(site.jobs)
        site.accounting.rebuild(from_oar=True)
        site.check()
    assert places_of(engine, "alice") == set()


def test_what_a_user_called_their_jobs_is_forgotten_too(engine: Engine) -> None:
    """It may name a person; what others called theirs stays, and what was never recorded."""
    oar = SmallOar(engine)
    oar.add_job(user="alice", job_name="for alice", start=T0 - 90 * DAY)
    old = oar.add_job(user="alice", job_name="alice")
    oar.add_job(user="bob", project="alice", job_name="with alice's data")
    runs = oar.add_job(user="alice", job_name="alice", state="Running")
    site = opened(engine)
    site.catch_up()
    site.purge(T0 - 80 * DAY)
    unread = schema.jobs.update().where(schema.jobs.c.job_id == old).values(name=None)
    with engine.begin() as connection:
        connection.execute(unread)

    def names() -> list[str | None]:
        return [job.name for job in site.each_job()]

    site.forget_user("alice")
    assert names() == ["", None, "with alice's data", ""]
    oar.update_job(runs, state="Terminated", stop_time=NOW, exit_code=0, job_name="alice again")
    oar.add_job(user="alice", job_name="one more of alice")
    site.catch_up()
    assert names() == ["", None, "with alice's data", "", ""]
    for _ in range(2):
        report = site.catch_up(full=True)
        assert (report.done, report.changed, report.problems) == (0, 0, ())
        site.record(range(1, 6))
        site.rebuild(from_oar=True)
        assert names() == ["", "", "with alice's data", "", ""]
    assert site.verify() == []
    # Somebody else's job stays somebody else's.
    oar.update_job(runs, job_user="bob")
    site.catch_up()
    assert names()[3] == "alice again"


@on_sqlite
def test_a_metric_built_later_knows_the_pseudonym_only(engine: Engine) -> None:
    site = some_users(engine, "alice", "bob")
    forget(site, "alice")
    site.reopen(CORE)
    assert site.accounting.rebuild(metric="core").problems == ()
    site.accounting.rebuild(metric="node", from_oar=True)
    for number, job in site.jobs.items():
        core = replace(job.shares[0], metric="core")
        site.jobs[number] = replace(job, shares=(*job.shares, core))
    site.check()
    assert places_of(engine, "alice") == set()


@on_sqlite
def test_purged_and_retired_jobs_are_forgotten_too(engine: Engine) -> None:
    site = some_users(engine, "alice", "bob")
    purged = site.add_job(100, user="alice")
    site.accounting.catch_up()
    site.accounting.purge(T0 - 90 * DAY)
    for job in list(site.jobs):
        if job != purged:
            site.oar.remove_job(job)
    site.accounting.retire(1)
    forget(site, "alice")
    site.check()
    assert places_of(engine, "alice") == set()
    site.accounting.rebuild()
    site.check()


@on_sqlite
def test_an_open_job_of_a_forgotten_user_is_followed_to_its_end(engine: Engine) -> None:
    site = some_users(engine, "bob")
    job = site.oar.add_job(user="alice", cores=3, state="Running", start=T0)
    site.accounting.catch_up()
    pseudonym = site.accounting.forget_user("alice")
    assert site.accounting.catch_up().open == 1
    site.oar.update_job(job, state="Terminated", stop_time=T0 + 10)
    assert site.accounting.catch_up().problems == ()
    assert site.accounting.verify() == []
    assert Recorded(site.accounting).by("user")[pseudonym][1] == 30


# -- only this person -------------------------------------------------------------------------


@pytest.mark.parametrize("user", HARD_NAMES, ids=ascii)
@on_sqlite
def test_any_name_can_be_forgotten(engine: Engine, user: str) -> None:
    site = some_users(engine, user, "alice")
    forget(site, user)
    site.check()
    site.accounting.catch_up(full=True)
    site.check()
    # A name of one letter stands in other words.
    assert places_of(engine, user) <= {"accounting_metrics.definition"}


def test_names_that_are_nearly_equal_stay(engine: Engine) -> None:
    """All hard names of one site, forgotten one after the other."""
    users = list(dict.fromkeys([*NAMES, *HARD_NAMES]))[:70]
    site = OldSite(engine)
    for cores, user in enumerate(users):
        site.add_job(3, user=user, cores=1 + cores % 8)
    assert site.accounting.catch_up().problems == ()
    for user in users[::2]:
        forget(site, user)
    site.check()
    assert set(users[1::2]) <= set(Recorded(site.accounting).by("user"))
    site.accounting.catch_up(full=True)
    site.accounting.rebuild(from_oar=True)
    site.check()


def test_a_user_forgotten_on_one_site_stays_on_the_other(
    database: Database, engine: Engine
) -> None:
    site = some_users(engine, "alice")
    other = opened(engine, site="other")
    other.catch_up()
    forget(site, "alice")
    site.check()
    other.rebuild(from_oar=True)
    assert Recorded(other).by("user").keys() == {"alice"}
    second = other.forget_user("alice")
    assert second not in Recorded(site.accounting).by("user")
    assert places_of(engine, "alice") == set()
    site.check()


def test_accounts_keep_the_digest_of_their_names(engine: Engine) -> None:
    site = some_users(engine, "alice", "bob")
    forget(site, "alice")
    with engine.connect() as connection:
        names = account_names(connection, 1)
        rows = connection.execute(select(schema.accounts.c.account_id, schema.accounts.c.digest))
        assert {row[0]: row[1] for row in rows} == {key: digest(n) for key, n in names.items()}


# -- nowhere a trace --------------------------------------------------------------------------


def test_messages_that_name_the_user_are_emptied_and_the_others_stay(engine: Engine) -> None:
    site = some_users(engine, "a_b", "axb")
    with engine.begin() as connection:
        for message in ("of a_b and more", "of axb", "100 % of A_B"):
            connection.execute(
                insert(schema.passes).values(
                    site_id=1,
                    verb="catch-up",
                    began=0,
                    outcome="failed",
                    done=0,
                    changed=0,
                    problems=0,
                    message=message,
                )
            )
    forget(site, "a_b")
    with engine.connect() as connection:
        found = set(connection.execute(select(schema.passes.c.message)).scalars())
    assert "of axb" in found
    assert places_of(engine, "a_b") == set()


def test_the_refusal_to_forget_twice_does_not_write_the_name_down(engine: Engine) -> None:
    site = some_users(engine, "alice")
    forget(site, "alice")
    with pytest.raises(UnknownName):
        site.accounting.forget_user("alice")
    assert places_of(engine, "alice") == set()


@on_sqlite
@pytest.mark.parametrize("user", ["back\\slash", "tab\there", "both ' and \""], ids=ascii)
def test_a_name_that_was_asked_for_too_early_is_forgotten_in_the_journal(
    engine: Engine, user: str
) -> None:
    """The journal has the name as the error quoted it."""
    site = some_users(engine, "bob")
    with pytest.raises(UnknownName):
        site.accounting.forget_user(user)
    site.add_job(1, user=user)
    site.accounting.catch_up()
    forget(site, user)
    assert places_of(engine, user) == set()


@on_sqlite
def test_a_project_that_has_the_name_of_the_user_is_told(
    database: Database, engine: Engine
) -> None:
    """Where projects are named after persons, the person is not forgotten with the user."""
    site = some_users(engine, "bob")
    site.add_job(1, user="alice", project="alice")
    site.accounting.catch_up()
    done = run("--url", database.url, "forget-user", "alice")
    assert places_of(engine, "alice") == set() or "project" in done.stdout + done.stderr


@on_sqlite
def test_the_mark_of_a_name_has_a_salt_of_its_own(engine: Engine) -> None:
    site = some_users(engine, "alice")
    other = opened(engine, site="other")
    other.catch_up()
    forget(site, "alice")
    other.forget_user("alice")
    with engine.connect() as connection:
        rows = connection.execute(select(schema.forgotten)).mappings().all()
    for column in ("digest", "salt", "pseudonym"):
        assert len({row[column] for row in rows}) == 2


@on_sqlite
def test_a_pass_with_nothing_new_does_not_take_a_forgotten_user_for_a_change(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    site = some_users(engine, "alice", "bob")
    forget(site, "alice")
    monkeypatch.setattr(Pass, "settle", None)
    site.accounting.catch_up(full=True)


# -- refused ----------------------------------------------------------------------------------


def test_a_user_of_whom_nothing_is_recorded_is_refused(engine: Engine) -> None:
    site = some_users(engine, "alice")
    for user in ("Alice", "alice ", "alic_", "%", ""):
        with pytest.raises(UnknownName, match="nothing is recorded of a user"):
            site.accounting.forget_user(user)
    site.check()


@on_sqlite
def test_a_pseudonym_is_not_forgotten(engine: Engine) -> None:
    site = some_users(engine, "alice")
    pseudonym = forget(site, "alice")
    with pytest.raises(UnknownName, match="is a pseudonym"):
        site.accounting.forget_user(pseudonym)
    site.check()


# -- with others at work ----------------------------------------------------------------------


def test_a_process_that_knows_the_name_writes_the_pseudonym(
    database: Database, engine: Engine
) -> None:
    """Its accounts were read before another process forgot the user."""
    site = some_users(engine, "alice", "bob")
    other_engine = create_engine(database.url)
    other = opened(other_engine)
    pseudonym = other.forget_user("alice")
    site.rename("alice", pseudonym)
    new = site.add_job(1, user="alice", project="new")
    site.rename("alice", pseudonym)
    assert site.accounting.catch_up().done == 1
    site.check()
    site.accounting.record([new])
    report = site.accounting.catch_up(full=True)
    assert (report.done, report.changed) == (0, 0)
    forget(site, "bob")
    other.rebuild(from_oar=True)
    site.check()
    other.close()
    other_engine.dispose()
    assert places_of(engine, "alice") == places_of(engine, "bob") == set()


@pytest.mark.slow
@pytest.mark.parametrize("verb", ["catch-up", "rebuild --from-oar", "rebuild --metric"])
def test_a_user_who_is_forgotten_during_a_pass_is_forgotten(
    database: Database, engine: Engine, monkeypatch: pytest.MonkeyPatch, verb: str
) -> None:
    monkeypatch.setattr("oar_accounting.database.id_blocks.BLOCK", 2)
    site = some_users(engine, "alice", "bob", "carol")
    other_engine = create_engine(database.url)
    other = opened(other_engine)
    pseudonyms: list[str] = []

    def forget_meanwhile(*_: int) -> None:
        if not pseudonyms:
            pseudonyms.append(other.forget_user("alice"))

    for days in range(6):
        site.add_job(days, user="alice", project=f"p{days}")
    if verb == "catch-up":
        site.accounting.catch_up(progress=forget_meanwhile)
    else:
        site.accounting.catch_up()
        from_oar = verb == "rebuild --from-oar"
        metric = None if from_oar else "node"
        site.accounting.rebuild(metric=metric, from_oar=True, progress=forget_meanwhile)
    other.close()
    other_engine.dispose()
    site.rename("alice", pseudonyms[0])
    site.check()
    assert places_of(engine, "alice") == set()


def test_a_user_forgotten_between_looking_and_writing_is_forgotten(
    database: Database, engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A pass looks at jobs without the lock, and settles under it."""
    site = some_users(engine, "alice", "bob")
    other_engine = create_engine(database.url)
    other = opened(other_engine)
    settle = Pass.settle
    pseudonyms: list[str] = []

    def late(self: Pass, *arguments: object, **options: object) -> object:
        if not pseudonyms:
            pseudonyms.append(other.forget_user("alice"))
        return settle(self, *arguments, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(Pass, "settle", late)
    for number in site.jobs:
        site.oar.update_job(number, queue_name="night")
    site.jobs = {n: replace(j, owner=(*j.owner[:2], "night")) for n, j in site.jobs.items()}
    site.accounting.catch_up()
    other.close()
    other_engine.dispose()
    site.rename("alice", pseudonyms[0])
    site.check()
    assert places_of(engine, "alice") == set()


# -- the command ------------------------------------------------------------------------------


def test_the_command_tells_the_pseudonym(database: Database, engine: Engine) -> None:
    some_users(engine, "alice", "bob")
    done = run("--url", database.url, "forget-user", "alice")
    assert done.returncode == 0
    assert "oar-accounting:" not in done.stderr
    assert re.fullmatch(r"alice is forgotten-[0-9a-f]{8} from now on\n", done.stdout)
    assert "alice" not in run("--url", database.url, "usage", "--json").stdout
    assert run("--url", database.url, "verify").returncode == 0


@on_sqlite
def test_a_name_with_control_characters_is_shown_without_them(
    database: Database, engine: Engine
) -> None:
    some_users(engine, "b\x1b[31mob\n")
    for code in (0, 2):
        done = run("--url", database.url, "forget-user", "b\x1b[31mob\n")
        assert done.returncode == code
        assert "\x1b" not in done.stdout + done.stderr
        assert (done.stdout + done.stderr).count("\n") == 1


@on_sqlite
@pytest.mark.parametrize("user", ["nobody", "Alice", "", "-", "a\udc80"], ids=ascii)
def test_an_unknown_user_is_one_clear_line(database: Database, engine: Engine, user: str) -> None:
    some_users(engine, "alice")
    done = run("--url", database.url, "forget-user", user)
    assert "nothing is recorded of a user" in said(done)
    assert done.returncode == 2


@on_sqlite
def test_a_mistyped_site_is_not_made(database: Database, engine: Engine) -> None:
    some_users(engine, "alice")
    done = run("--url", database.url, "--site", "mistyped", "forget-user", "alice")
    assert done.returncode == 2
    with engine.connect() as connection:
        assert connection.execute(select(schema.sites.c.name)).scalars().all() == ["oar"]

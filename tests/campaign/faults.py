"""What a database does to a command: it dies, cuts the connection, lets it wait, or is full.

Each time the command says so in one line that names the cause, ends with 3, and the next completes.
"""

import os
import signal
import sqlite3
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

from sqlalchemy import make_url

from tests.campaign.commands import Changed, Running, check, refused
from tests.campaign.stage import Stage

#: What PostgreSQL's and MariaDB's drivers say of a connection that is gone, or cannot be made.
GONE = (
    *("server closed the connection", "Lost connection", "gone away", "terminating connection"),
    "the connection was lost",
)
NO_SERVER = ("Connection refused", "Can't connect")


def server_is_killed(stage: Stage) -> None:
    """The server is killed under a command and started again."""
    assert stage.server is not None
    running = _stopped_inside(stage, "rebuild", "--from-oar")
    stage.server.kill()
    running.go_on()
    refused(running.left(), *GONE)
    refused(stage.commands.run("catch-up"), *NO_SERVER)
    stage.server.start()
    _held(stage, 2)


def one_process_of_the_server_is_killed(stage: Stage) -> None:
    """PostgreSQL restarts itself then, and throws everybody out."""
    assert stage.server is not None and stage.sessions is not None
    running = _stopped_inside(stage, "rebuild", "--from-oar")
    os.kill(stage.sessions.numbers()[0], signal.SIGKILL)
    running.go_on()
    refused(running.left(), *GONE)
    stage.server.await_recovery()
    _held(stage)


def connections_are_cut(stage: Stage) -> None:
    """Somebody throws a command out."""
    assert stage.sessions is not None
    running = _stopped_inside(stage, "catch-up", "--full")
    stage.sessions.cut()
    running.go_on()
    refused(running.left(), *GONE)
    _held(stage)


def lock_is_not_given(stage: Stage) -> None:
    """Another transaction writes for too long: one does not wait and leaves, others say why."""
    changed = stage.oar.change()
    impatient = Changed(lock_wait=1)
    commands = (["catch-up", "--wait"], ["record", *map(str, changed)], ["rebuild"])
    with stage.locked():
        left = stage.commands.complete("catch-up")
        check("nothing to do here" in left.out, f"another writes\n{left}")
        waiting = [stage.commands.start(*each, changed=impatient) for each in commands]
        for running in waiting:
            refused(running.left(), "for another writer of this site")
    _held(stage, len(waiting))


def statement_takes_too_long(stage: Stage) -> None:
    """The server lets no statement run, or wait, for more than a part of a second."""
    assert stage.sessions is not None
    name = make_url(stage.url).database
    on, off = {
        "postgresql": (
            f"alter database {name} set statement_timeout = '500ms'",
            f"alter database {name} reset statement_timeout",
        ),
        "mariadb": (
            "set global max_statement_time = 0.5",
            "set global max_statement_time = 0",
        ),
    }[stage.sessions.server.kind]
    changed = stage.oar.change()
    with stage.locked(), _set(stage, on, off):
        left = stage.commands.run("record", *map(str, changed))
        refused(left, "statement timeout", "max_statement_time")
    _held(stage)


def database_may_not_be_written(stage: Stage) -> None:
    """It can be read, and `verify` holds; whoever would write is refused."""
    changed = stage.oar.change()
    with _read_only(stage) as url:
        left = stage.commands.run("verify", url=url)
        check(left.code == 0, f"reading is allowed\n{left}")
        for command in (["catch-up"], ["record", *map(str, changed)]):
            left = stage.commands.run(*command, url=url)
            refused(left, "read-only", "readonly", "permission denied")
    _held(stage, 2)


def file_cannot_grow(stage: Stage) -> None:
    """The disk is full."""
    stage.oar.change(added=300)
    file = str(make_url(stage.url).database)
    connection = sqlite3.connect(file, isolation_level=None)
    # Without free pages in the file it must grow.
    connection.execute("vacuum")
    (pages,) = connection.execute("pragma page_count").fetchone()
    connection.close()
    left = stage.commands.run("catch-up", changed=Changed(most_pages=pages))
    refused(left, "database or disk is full")
    _held(stage)


def _stopped_inside(stage: Stage, *arguments: str) -> Running:
    """A command stopped inside an open write transaction, of which the next can be too short."""
    for _ in range(20):
        stage.oar.change()
        running = stage.commands.start(*arguments)
        if stage.stopped_inside(running):
            return running
        check(running.left().code == 0, str(running.left()))
        stage.settle()
    check(False, f"{arguments} cannot be stopped inside a transaction")
    raise AssertionError


def _held(stage: Stage, refusals: int = 1) -> None:
    stage.counts.refusals += refusals
    stage.settle()


@contextmanager
def _set(stage: Stage, on: str, off: str) -> Iterator[None]:
    """Settings of the server, while the block lasts, for connections that are made then."""
    assert stage.sessions is not None
    with stage.sessions.server.engine.connect() as connection:
        connection.exec_driver_sql(on)
        try:
            yield
        finally:
            connection.exec_driver_sql(off)


@contextmanager
def _read_only(stage: Stage) -> Iterator[str]:
    """The URL at which the database cannot be written, while the block lasts."""
    url = make_url(stage.url)
    name = url.database
    if stage.sessions is None:
        yield f"sqlite:///file:{name}?mode=ro&uri=true"
        return
    # Whoever may do everything may also write where a server is read-only.
    other = url.set(username="campaign", password="campaign")
    if stage.kind == "postgresql":
        settings = [
            ("create role campaign login password 'campaign'", "drop role campaign"),
            ("grant pg_read_all_data to campaign", "revoke pg_read_all_data from campaign"),
        ]
    else:
        user = "campaign@127.0.0.1"
        settings = [
            (f"create user {user} identified by 'campaign'", f"drop user {user}"),
            (f"grant all on {name}.* to {user}", f"revoke all on {name}.* from {user}"),
            ("set global read_only = 1", "set global read_only = 0"),
        ]
    with ExitStack() as stack:
        for on, off in settings:
            stack.enter_context(_set(stage, on, off))
        yield other.render_as_string(hide_password=False)

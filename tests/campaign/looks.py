"""Looking from another connection whether a command is inside an open write transaction.

The command is stopped while somebody looks, so that nothing changes between the look and the kill.
What it had sent before may still be at work in the server: so the server is asked again after the
kill whether the transaction was rolled back, and only those count.
"""

import sqlite3
import time
from abc import ABC, abstractmethod
from typing import Any

from tests.campaign.killable import Sessions


class Look(ABC):
    """Looks at one database."""

    #: How long a command runs between two looks at most, in seconds.
    interval = 0.04
    #: In how many looks a transaction may be seen before one is killed.
    most = 12

    @abstractmethod
    def inside(self) -> bool:
        """True where a write transaction is open, which the next `rolled_back` is about."""

    @abstractmethod
    def rolled_back(self) -> bool:
        """True where the transaction last seen was undone; the command has been killed."""


class LookAtPostgreSQL(Look):
    """A transaction that writes has a number, and the server keeps what became of it."""

    def __init__(self, sessions: Sessions) -> None:
        self._sessions = sessions
        self._number = ""

    def inside(self) -> bool:
        query = "select backend_xid::text from pg_stat_activity where pid = any(%s)"
        rows = self._sessions.ask(query, self._sessions.numbers())
        self._number = next((number for (number,) in rows if number), "")
        return bool(self._number)

    def rolled_back(self) -> bool:
        self._sessions.await_end()
        ((status,),) = self._sessions.ask("select pg_xact_status(%s::xid8)", self._number)
        return bool(status == "aborted")


class LookAtMariaDB(Look):
    """A transaction is listed with the rows it has modified; roll-backs are counted."""

    interval = 0.2
    most = 3
    #: The server makes the list anew only where nobody has asked for it for 0.1 s.
    PAUSE = 0.11

    def __init__(self, sessions: Sessions) -> None:
        self._sessions = sessions
        self._before = 0

    def inside(self) -> bool:
        # A server that was started again has forgotten it.
        self._sessions.ask("set global innodb_monitor_enable = 'trx_rollbacks'")
        self._before = self._rollbacks()
        seen = self._open()
        # Asleep in both: the server waits for the command, which is stopped.
        return bool(seen) and self._open() == seen

    def rolled_back(self) -> bool:
        self._sessions.await_end()
        return self._rollbacks() > self._before

    def _open(self) -> list[Any]:
        time.sleep(self.PAUSE)
        return self._sessions.ask(
            "select trx_id, trx_rows_modified from information_schema.innodb_trx"
            " join information_schema.processlist on id = trx_mysql_thread_id"
            " where trx_rows_modified > 0 and command = 'Sleep' and db is not null"
        )

    def _rollbacks(self) -> int:
        query = "select count from information_schema.innodb_metrics where name = 'trx_rollbacks'"
        return int(self._sessions.ask(query)[0][0])


class LookAtSQLite(Look):
    """Another writer is refused, a reader is not: nobody but a writer holds the file."""

    def __init__(self, file: str) -> None:
        self._file = file

    def inside(self) -> bool:
        connection = sqlite3.connect(self._file, timeout=0, isolation_level=None)
        try:
            connection.execute("select count(*) from sqlite_master").fetchone()
            return not _may_write(connection)
        except sqlite3.OperationalError:
            # Its last connection closes the file, which no reader may enter then.
            return False
        finally:
            connection.close()

    def rolled_back(self) -> bool:
        """Nothing but the process itself could have committed, and it was stopped."""
        return True


def _may_write(connection: sqlite3.Connection) -> bool:
    try:
        connection.execute("begin immediate")
    except sqlite3.OperationalError:
        return False
    connection.execute("rollback")
    return True

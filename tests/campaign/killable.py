"""Servers that may be killed: what is committed outlives it, and they start again."""

import os
import signal
import time
from contextlib import ExitStack
from typing import Any

from sqlalchemy import Connection, make_url

from tests.servers import NetworkKind, NetworkServer, private_server


class KillableServer:
    """A private server, killed with kill -9 and started again on the same files."""

    def __init__(self, kind: NetworkKind, stack: ExitStack) -> None:
        self._private = private_server(kind, stack, survives_kills=True)
        self._keeper = self._private.keep(stack)
        self._private.await_start()
        self.server: NetworkServer = self._private.connect(stack)

    @property
    def kind(self) -> NetworkKind:
        """PostgreSQL or MariaDB."""
        return self.server.kind

    def kill(self) -> None:
        """Kill every process of the server at once."""
        with self.server.engine.connect() as connection:
            main = self._main_process()
            # Stopped, it starts no process that is not in the list.
            os.kill(main, signal.SIGSTOP)
            others = self._other_processes(connection)
            for pid in (main, *others):
                os.kill(pid, signal.SIGKILL)
            connection.invalidate()
        self.server.engine.dispose()

    def start(self) -> None:
        """Start it again, after it was killed."""
        assert self._keeper.stdin is not None
        self._keeper.stdin.write(b"\n")
        self._keeper.stdin.flush()
        self._private.await_start()

    def await_recovery(self) -> None:
        """Wait until the server has started itself again, after one of its processes died."""
        self.server.engine.dispose()
        self._private.await_start()

    def _main_process(self) -> int:
        directory = self._private.directory
        name = "data/postmaster.pid" if self.kind == "postgresql" else "pid"
        return int((directory / name).read_text(encoding="utf-8").split()[0])

    def _other_processes(self, connection: Connection) -> list[int]:
        if self.kind == "mariadb":
            return []
        return [row[0] for row in connection.exec_driver_sql("select pid from pg_stat_activity")]


class Sessions:
    """The connections that commands have to one database, seen from another connection."""

    def __init__(self, server: NetworkServer, url: str) -> None:
        self.server = server
        self._database = make_url(url).database

    def numbers(self) -> list[int]:
        """Their processes in PostgreSQL, their threads in MariaDB."""
        query = {
            "postgresql": "select pid from pg_stat_activity where datname = %s",
            "mariadb": "select id from information_schema.processlist where db = %s",
        }
        return [row[0] for row in self.ask(query[self.server.kind], self._database)]

    def cut(self) -> None:
        """Cut all of them."""
        command = {"postgresql": "select pg_terminate_backend(%s)", "mariadb": "kill %s"}
        with self.server.engine.connect() as connection:
            for number in self.numbers():
                connection.exec_driver_sql(command[self.server.kind], (number,))

    def await_end(self, patience: float = 60.0) -> None:
        """Wait until the server has noticed that their processes are gone."""
        deadline = time.monotonic() + patience
        while self.numbers() and time.monotonic() < deadline:
            time.sleep(0.01)

    def ask(self, query: str, *values: Any) -> list[Any]:
        """The rows of a query; none of a statement that gives none."""
        with self.server.engine.connect() as connection:
            found = connection.exec_driver_sql(query, values)
            return list(found.all()) if found.returns_rows else []

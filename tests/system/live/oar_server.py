"""A real OAR 2 with its PostgreSQL, on this machine alone and without systemd.

The nodes are loopback addresses, reached through an sshd of their own as OAR's nodes are. All
listen at free ports.
"""

import re
import secrets
import shutil
import signal
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import psycopg2

from tests.system.live.machine import (
    MARK,
    PLACE,
    SAVED_CONF,
    answers,
    free_ports,
    ours,
    run,
    send,
    start_daemon,
    wait_until,
    write_conf,
)

NODES = ("127.0.0.1", "127.0.0.2", "127.0.0.3", "127.0.0.4")
RESOURCES_PER_NODE = 8
ENDED = ("Terminated", "Error")
POSTGRESQL = PLACE / "postgresql"

#: What is other than in Debian's oar.conf; None takes a line away. These nodes need no checks and
#: have no cpusets, and nobody wants to wait.
SETTINGS: dict[str, str | None] = {
    "SERVER_HOSTNAME": "localhost",
    "LOG_LEVEL": "3",
    "LOG_FILE": f"{PLACE}/oar.log",
    "OAR_RUNTIME_DIRECTORY": f"{PLACE}/runtime",
    "SCHEDULER_JOB_SECURITY_TIME": "1",
    "SCHEDULER_MIN_TIME_BETWEEN_2_CALLS": "0",
    "SERVER_PROLOGUE_EPILOGUE_TIMEOUT": "10",
    "PROLOGUE_EPILOGUE_TIMEOUT": "20",
    "MAX_DB_CONNECTION_TIMEOUT": "2",
    "FINAUD_FREQUENCY": "0",
    "WALLTIME_CHANGE_ENABLED": "YES",
    "WALLTIME_MAX_INCREASE": "-1",
    "PINGCHECKER_SENTINELLE_SCRIPT_COMMAND": None,
    "PINGCHECKER_GENERIC_COMMAND": "/bin/true",
    "CPUSET_PATH": None,
    "JOB_RESOURCE_MANAGER_FILE": f"{PLACE}/nothing.pl",
    "SUSPEND_RESUME_FILE": f"{PLACE}/nothing.pl",
}


class OarServer:
    """The server, and what is done with it."""

    def __init__(self) -> None:
        """Make all that it needs; it is started when its settings are complete."""
        self._passwords = {role: secrets.token_hex(8) for role in ("postgres", "oar", "oar_ro")}
        self._database_port, self._server_port, sshd_port = free_ports(3)
        self._settings = SETTINGS | {
            "DB_TYPE": "Pg",
            "DB_HOSTNAME": "127.0.0.1",
            "DB_PORT": str(self._database_port),
            "DB_BASE_NAME": "oar",
            "DB_BASE_LOGIN": "oar",
            "DB_BASE_PASSWD": self._passwords["oar"],
            "DB_BASE_LOGIN_RO": "oar_ro",
            "DB_BASE_PASSWD_RO": self._passwords["oar_ro"],
            "SERVER_PORT": str(self._server_port),
            "OPENSSH_CMD": f"/usr/bin/ssh -p {sshd_port} -e none -o UserKnownHostsFile=/dev/null "
            "-o LogLevel=ERROR",
        }
        make_files()
        self.configure()
        self._create_database()
        start_sshd(sshd_port)
        self._add_resources()

    def configure(self, **settings: str) -> None:
        """Write oar.conf, with further settings; what reads it next goes by them."""
        self._settings |= settings
        kept = [
            line
            for line in SAVED_CONF.read_text(encoding="utf-8").splitlines()
            if line.partition("=")[0] not in self._settings
        ]
        ours = [f'{key}="{value}"' for key, value in self._settings.items() if value is not None]
        write_conf("\n".join([*kept, *ours, ""]))

    def versions(self) -> str:
        """Which OAR and which PostgreSQL this is."""
        oar = run("dpkg-query", "--show", "--showformat=${Version}", "oar-server")
        ((postgresql,),) = self.ask("show server_version")
        return f"OAR {oar}, PostgreSQL {postgresql.split()[0]}"

    def administrator(self) -> dict[str, str]:
        """The variables with which PostgreSQL's own programs work as its administrator."""
        return {
            "PGHOST": "127.0.0.1",
            "PGPORT": str(self._database_port),
            "PGUSER": "postgres",
            "PGPASSWORD": self._passwords["postgres"],
        }

    # -- starting and stopping ----------------------------------------------------------------

    def start(self, **variables: str) -> None:
        """Start the OAR server, with variables in its environment."""
        start_daemon("/usr/sbin/Almighty", log="almighty.log", **variables)
        wait_until(self.is_running, "the OAR server starts")

    def is_running(self) -> bool:
        """Whether the OAR server is there."""
        return answers(self._server_port)

    def kill(self) -> None:
        """End the OAR server and everything that it has started, at once."""
        sessions = {process.session for process in ours("Almighty")}
        send(signal.SIGKILL, [each for each in ours() if each.session in sessions])
        wait_until(lambda: not self.is_running(), "the OAR server is killed")

    @contextmanager
    def without_database(self) -> Iterator[None]:
        """Stop PostgreSQL, whoever works with it, for one `with` block."""
        pg_ctl("stop", "--mode=fast")
        try:
            yield
        finally:
            self._start_database()

    def _create_database(self) -> None:
        password_file = POSTGRESQL / "password"
        password_file.write_text(self._passwords["postgres"], encoding="utf-8")
        run(
            *(postgresql_program("initdb"), f"--pgdata={POSTGRESQL}/data", "--username=postgres"),
            *("--auth=password", f"--pwfile={password_file}"),
            *("--no-sync", "--encoding=UTF8", "--locale=C"),
            user="postgres",
        )
        self._start_database()
        admin = ("--db-admin-user=postgres", f"--db-admin-pass={self._passwords['postgres']}")
        run("oar-database", "--create", *admin)

    def _start_database(self) -> None:
        options = f"-h 127.0.0.1 -p {self._database_port} -k {POSTGRESQL} -F"
        pg_ctl("start", f"--log={POSTGRESQL}/log", f"--options={options}")

    def _add_resources(self) -> None:
        def add(node: str) -> str:
            return run("oarnodesetting", "-a", "-h", node, "-p", "cpuset=0")

        with ThreadPoolExecutor() as executor:
            list(executor.map(add, NODES * RESOURCES_PER_NODE))

    # -- what users and the administrator do --------------------------------------------------

    def submit(
        self,
        user: str,
        command: str,
        *options: object,
        request: str = "resource_id=1",
        walltime: int = 300,
        nodes: Sequence[str] = NODES[:1],
    ) -> list[int]:
        """Submit a job, or an array of jobs, for some of these nodes."""
        names = ", ".join(f"'{node}'" for node in nodes)
        asked = f"{request},walltime=0:{walltime // 60}:{walltime % 60}"
        said = run(
            *("oarsub", "-l", asked, "-p", f"network_address IN ({names})", *options, command),
            user=user,
        )
        return [int(job) for job in re.findall(r"^OAR_JOB_ID=(\d+)$", said, re.M)]

    def delete(self, job: int, *options: str) -> None:
        """Delete a job."""
        run("oardel", *options, job)

    def suspend(self, job: int) -> None:
        """Let a running job pause."""
        run("oarhold", "-r", job)

    def resume(self, job: int) -> None:
        """Let a suspended job go on."""
        run("oarresume", job)

    def change_walltime(self, job: int, change: str) -> None:
        """Give a running job more time, or less."""
        run("oarwalltime", job, change)

    # -- what its database says ---------------------------------------------------------------

    def wait(self, job: int, *states: str) -> str:
        """Wait until a job is in one of these states, and return it."""
        wait_until(lambda: self.state(job) in states, f"job {job} is {states}")
        return self.state(job)

    def state(self, job: int) -> str:
        """The state that a job is in."""
        ((state,),) = self.ask("select state from jobs where job_id = %s", job)
        return str(state)

    def ask(self, query: str, *values: Any) -> list[tuple[Any, ...]]:
        """The rows that a query gives."""
        with self.connected() as connection:
            return connection.ask(query, *values)

    @contextmanager
    def connected(self) -> Iterator["Connection"]:
        """A connection to ask many questions through, for one `with` block."""
        connection = psycopg2.connect(
            host="127.0.0.1",
            port=self._database_port,
            dbname="oar",
            user="oar",
            password=self._passwords["oar"],
        )
        connection.autocommit = True
        with closing(connection):
            yield Connection(connection)


class Connection:
    """A connection to OAR's database."""

    def __init__(self, connection: Any) -> None:
        self._connection = connection

    def ask(self, query: str, *values: Any) -> list[tuple[Any, ...]]:
        """The rows that a query gives."""
        with self._connection.cursor() as cursor:
            cursor.execute(query, values)
            rows: list[tuple[Any, ...]] = cursor.fetchall()
            return rows


def make_files() -> None:
    """Make what the server and its PostgreSQL write to, and the script that does nothing."""
    for name, owner in {"runtime": "oar", "postgresql": "postgres"}.items():
        (PLACE / name).mkdir(mode=0o700)
        shutil.chown(PLACE / name, owner)
    (PLACE / "oar.log").touch()
    shutil.chown(PLACE / "oar.log", "oar")
    (PLACE / "nothing.pl").write_text("exit(0);\n", encoding="utf-8")


def start_sshd(port: int) -> None:
    """Start the sshd through which the server reaches its nodes."""
    Path("/run/sshd").mkdir(mode=0o755, exist_ok=True)
    options = [f"SetEnv={MARK}", "PidFile=none", *(f"ListenAddress={node}" for node in NODES)]
    arguments = [part for option in options for part in ("-o", option)]
    conf = "/etc/oar/sshd_config"
    start_daemon("/usr/sbin/sshd", "-D", "-f", conf, "-p", port, *arguments, log="sshd.log")
    wait_until(lambda: answers(port), "sshd starts")


def pg_ctl(verb: str, *options: str) -> None:
    """Start or stop PostgreSQL."""
    always = ("--silent", "--wait", f"--pgdata={POSTGRESQL}/data")
    run(postgresql_program("pg_ctl"), verb, *always, *options, user="postgres")


def postgresql_program(name: str) -> Path:
    """A program of the newest PostgreSQL."""
    newest = max(Path("/usr/lib/postgresql").iterdir(), key=lambda path: float(path.name))
    return newest / "bin" / name

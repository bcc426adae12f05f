"""A server apart, on which an administrator's page is followed to the letter."""

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from tests import apart
from tests.apart import Machine
from tests.pages import Block, Page, copy_sources

CONF = "/etc/oar/oar.conf"
OURS = "/opt/oar-accounting/bin/oar-accounting"
OAR, USERS = "oar", ("alice", "bob")
STOCK = "oar_sched_gantt_with_timesharing_and_fairsharing"
#: What is made by the page or by the test. Another test may be at work on the same on this machine.
MADE = (
    *("/etc/oar", "/etc/cron.d/oar-accounting", "/etc/cron.d/oar-accounting-karma"),
    "/etc/sudoers.d/oar-accounting",
    "/etc/systemd/system/oar-accounting.service",
    "/etc/systemd/system/oar-accounting.timer",
    "/etc/systemd/system/oar-accounting-karma.service",
    *("/opt/oar-accounting", "/opt/oar-accounting.new", "/opt/oar-accounting.old", "/opt/oar3"),
    *("/run/oar-accounting", "/usr/local/bin/oar-accounting-own"),
    "/usr/local/lib/oar-accounting",
    *(f"/usr/lib/oar/schedulers/karma_then_{STOCK}{more}" for more in ("", "_and_quotas")),
    f"/usr/lib/oar/schedulers/karma_then_{STOCK}_and_placeholder",
    *("/var/backups/oar-accounting", "/var/lib/oar-accounting", "/var/lib/prometheus"),
)
#: Debian's packages whose programs the pages call.
NEEDED = ("flock", "od", "su", "useradd", "visudo", "xargs")

#: Cron for the karma service, as long as its file is there; only that a minute has a second.
CRON = """
while [ -e /etc/cron.d/oar-accounting-karma ]; do
    grep -v '^#' /etc/cron.d/oar-accounting-karma |
    while read -r _ _ _ _ _ user command; do
        su "$user" -s /bin/sh -c "$command" </dev/null >/dev/null 2>&1 &
    done
    sleep 1
done
"""
#: The numbers of processes that answer schedulers. Not every machine has pgrep.
SERVICE = """
for each in /proc/[0-9]*; do
    case $({ tr '\\0' ' ' <"$each/cmdline"; } 2>/dev/null) in
        *python*"oar-accounting karma-service ") echo "${each#/proc/}" ;;
    esac
done
"""


@dataclass(frozen=True, slots=True)
class PageServer:
    """The machine, the page, and the umask of the administrator's shell."""

    machine: Machine
    page: Page
    umask: int

    def prepare(self) -> None:
        """Make what is there before the first command: OAR's user, other people, our sources."""
        for user in (OAR, *USERS):
            known = f"getent passwd {user} >/dev/null"
            self.machine.script(f"{known} || useradd --create-home --shell /bin/bash {user}")
        self.machine.script("install -d -m 755 /etc/oar /etc/cron.d /etc/systemd/system")
        # Only root may enter it.
        copy_sources(self.machine.place / "source")

    def new_sources(self) -> None:
        """Let our sources be those of another version."""
        with (self.machine.place / "source/oar_accounting/__init__.py").open("a") as file:
            file.write("# of another version\n")

    def follow(self, title: str, then: Callable[[], object] = lambda: None) -> str:
        """Run the commands of a section, and something *then* after each block; what they said."""
        said = ""
        for block in self.page.blocks(title):
            said += self.run(block)
            then()
        return said

    def run(self, block: Block) -> str:
        """Run a block of commands in the directory of our sources; what they said."""
        source = self.machine.place / "source"
        said = self.machine.script(block.without_systemd(), umask=self.umask, directory=source)
        self.page.followed(block)
        return said

    def ours(self, command: str, user: str = OAR) -> str:
        """Run our program; what it said."""
        return self.machine.script(f"su {user} -s /bin/sh -c '{OURS} {command}'")

    def timer(self) -> str:
        """Do what cron does every five minutes; what it said."""
        return self._line_of_cron(self.machine.read("/etc/cron.d/oar-accounting"))

    def line_by_hand(self, title: str) -> str:
        """Do what the line of cron in a section says; what it said."""
        (line,) = self.page.lines(title)
        return self._line_of_cron(line)

    def _line_of_cron(self, text: str) -> str:
        user, command = line_of_cron(text)
        return self.machine.run("su", user, "-s", "/bin/sh", "-c", command)

    def start_cron(self) -> None:
        """Let cron be at work for the karma service, until it is uninstalled."""
        self.machine.start("sh", "-c", CRON)

    def left(self) -> list[str]:
        """The names of what is left of ours, and of OAR's settings."""
        ours = self.machine.written("*oar*accounting*")
        return sorted([*ours, *self.machine.script("ls /etc/oar").split()])

    def service(self) -> str:
        """The number of the process that answers schedulers; empty where there is none."""
        return self.machine.run("sh", "-c", SERVICE).strip()


def line_of_cron(text: str) -> tuple[str, str]:
    """As whom and what a table of one line runs; what it says is wanted here."""
    (line,) = (each for each in text.splitlines() if not each.startswith("#"))
    *_, user, command = line.split(maxsplit=6)
    return user, re.sub(r" *> */dev/null$", "", command)


def missing(python: str, *more: str) -> str:
    """What a machine needs so that a page can be followed there; empty where all is there."""
    if reason := apart.missing():
        return reason
    with apart.machine(python) as machine:
        absent = [each for each in (*NEEDED, *more) if not _has_program(machine, each)]
    return f"the machine of {python} has no {', '.join(absent)}" if absent else ""


def _has_program(machine: Machine, name: str) -> bool:
    if "/" in name:
        return bool(machine.script(f"ls -d {name} 2>/dev/null || true"))
    return bool(machine.script(f"command -v {name} || true"))


# -- PostgreSQL, as Debian has it ---------------------------------------------------------------

#: Where its programs are.
PROGRAMS = "/usr/lib/postgresql/*/bin"


@contextmanager
def postgresql(machine: Machine, port: int) -> Iterator[None]:
    """A server for one `with` block, whose administrator comes in by the socket."""
    programs = machine.script(f"ls -d {PROGRAMS} | sort -V").split()[-1]
    data = "/var/lib/postgresql/page"

    def tell(command: str) -> None:
        machine.run("su", "postgres", "-s", "/bin/sh", "-c", f"cd / && {programs}/{command}")

    machine.script("install -d -o postgres -g postgres -m 2775 /run/postgresql")
    options = "--no-sync --encoding=UTF8 --locale=C"
    tell(f"initdb --pgdata={data} --auth-local=peer --auth-host=scram-sha-256 {options}")
    where = f"-p {port} -h localhost -k /run/postgresql -F"
    tell(f'pg_ctl start --silent --wait --pgdata={data} --log={data}/log --options="{where}"')
    try:
        yield
    finally:
        tell(f"pg_ctl stop --silent --mode=immediate --pgdata={data}")


def psql(machine: Machine, statements: str, database: str = "postgres") -> str:
    """What PostgreSQL's administrator is told."""
    command = f"cd / && psql -X -q -A -t -v ON_ERROR_STOP=1 {database}"
    return machine.script(f"su postgres -s /bin/sh -c '{command}' <<'END'\n{statements}\nEND")


# -- MariaDB, as Debian has it ------------------------------------------------------------------


@contextmanager
def mariadb(machine: Machine, port: int) -> Iterator[None]:
    """A server for one `with` block, whose administrator is root by the socket."""
    data = "/var/lib/mysql"
    machine.script(f"rm -rf {data}; install -d -o mysql -g mysql {data} /run/mysqld")
    machine.script(f"mariadb-install-db --user=mysql --datadir={data} --skip-test-db >/dev/null")
    options = ("--user=mysql", f"--datadir={data}", "--bind-address=127.0.0.1", f"--port={port}")
    machine.start("mariadbd", *options, "--socket=/run/mysqld/mysqld.sock", "--log-error=log")
    machine.script("until mariadb-admin ping >/dev/null 2>&1; do sleep 0.2; done")
    try:
        yield
    finally:
        machine.script("mariadb-admin shutdown")


def tell_mariadb(machine: Machine, statements: str, database: str = "") -> str:
    """What MariaDB's administrator is told."""
    command = f"mariadb --batch --skip-column-names {database}"
    return machine.script(f"{command} <<'END'\n{statements}\nEND")

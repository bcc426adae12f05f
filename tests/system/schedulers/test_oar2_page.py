"""``hooks/oar2.md`` on MariaDB: every command of it, in its order, beside OAR 2's own tables.

No OAR server is at work here: its installer fails on MariaDB. What OAR calls is called by hand, as
OAR does it. `tests/system/live/test_admin_page.py` follows the page on a real OAR.
"""

import re
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from tests import page_server
from tests.apart import ApartError, machine
from tests.database.oar.test_oar_schema import SCHEMA_DIR, SCHEMA_FILES, schema_statements
from tests.page_server import CONF, MADE, OURS, PageServer, mariadb, tell_mariadb
from tests.pages import Page
from tests.system.live.machine import free_ports

PASSWORD = "only for tests"
FILE = SCHEMA_DIR / SCHEMA_FILES["mariadb"]
SCHEDULERS = Path("/usr/lib/oar/schedulers")
STOCK = "oar_sched_gantt_with_timesharing_and_fairsharing_and_quotas"
LINK = SCHEDULERS / f"karma_then_{STOCK}"
PATIENCE = 120.0

USERS = f"""
CREATE DATABASE oar;
CREATE USER oar@localhost IDENTIFIED BY '{PASSWORD}';
CREATE USER oar_ro@localhost IDENTIFIED BY '{PASSWORD}';
GRANT ALL ON oar.* TO oar@localhost;
GRANT SELECT ON oar.* TO oar_ro@localhost;
"""
#: As OAR's installer has it, but for the names.
QUEUES = """
INSERT INTO queues (queue_name, priority, scheduler_policy) VALUES
    ('default', 2, 'oar_sched_gantt_with_timesharing_and_fairsharing_and_quotas'),
    ('besteffort', 0, 'oar_sched_gantt_with_timesharing');
INSERT INTO resources (network_address) VALUES ('node-1');
"""
#: A job that ran for ten minutes has ended.
JOB = """
SET @ended = UNIX_TIMESTAMP();
INSERT INTO jobs (state, job_user, project, queue_name, submission_time, start_time, stop_time)
VALUES ('Terminated', 'bob', 'default', 'default', @ended - 700, @ended - 600, @ended);
SET @job = LAST_INSERT_ID();
INSERT INTO moldable_job_descriptions (moldable_job_id, moldable_walltime) VALUES (@job, 3600);
SET @moldable = LAST_INSERT_ID();
UPDATE jobs SET assigned_moldable_job = @moldable WHERE job_id = @job;
INSERT INTO assigned_resources (moldable_job_id, resource_id) VALUES (@moldable, 1);
SELECT @job;
"""


@cache
def missing_here() -> str:
    """Why the page cannot be followed here; empty where it can."""
    if not FILE.is_file() or not SCHEDULERS.is_dir():
        return f"there is no {FILE} or no {SCHEDULERS}; both are in Debian's packages of OAR 2"
    return page_server.missing(sys.executable, "mariadbd", "mariadb", "mariadb-dump", "perl")


class Site:
    """The tables, and what is called by hand."""

    def __init__(self, server: PageServer, port: int) -> None:
        """Make OAR's database and its settings."""
        self.server = server
        self.machine = server.machine
        tell_mariadb(self.machine, USERS)
        statements = [f"{each};" for each in schema_statements("mariadb", FILE)]
        tell_mariadb(self.machine, "\n".join(["SET sql_mode = '';", *statements, QUEUES]), "oar")
        lines = {
            "DB_TYPE": "mysql",
            "DB_HOSTNAME": "localhost",
            "DB_PORT": port,
            "DB_BASE_NAME": "oar",
            "DB_BASE_LOGIN": "oar",
            "DB_BASE_PASSWD": PASSWORD,
            "DB_BASE_LOGIN_RO": "oar_ro",
            "DB_BASE_PASSWD_RO": PASSWORD,
            "LOG_FILE": "/var/lib/oar/oar.log",
        }
        text = "\n".join(f'{key}="{value}"' for key, value in lines.items())
        self.machine.script(
            f"install -o oar -g oar -m 600 /dev/stdin {CONF} <<'END'\n{text}\nEND\n"
            "install -d -o oar -g oar /var/lib/oar"
        )

    def goes_on(self) -> int:
        """A job ends, OAR calls its epilogue, and each queue's scheduler is there; the job."""
        job = int(self.tell(f"SET sql_mode = '';{JOB}"))
        named = re.search(r'^SERVER_EPILOGUE_EXEC_FILE="(.*)"$', self.machine.read(CONF), re.M)
        if named is not None:
            assert self.machine.run("runuser", "-u", "oar", "--", named[1], job) == ""
        for policy in self.policies():
            assert self.machine.has(SCHEDULERS / policy)
        return job

    def recorded(self) -> set[int]:
        """The jobs in the totals."""
        said = self.tell("SELECT job_id FROM accounting_jobs WHERE closed = 1")
        return set(map(int, said.split()))

    def policies(self) -> set[str]:
        """The schedulers of the queues."""
        return set(self.tell("SELECT scheduler_policy FROM queues").split())

    def decides(self) -> str:
        """Who gave the karma of a round of the default queue."""
        words = (f"OARCONFFILE={CONF}", "OARDIR=/usr/lib/oar", "PERL5LIB=/usr/lib/oar")
        now = "default $(date +%s) \"$(date '+%F %T')\""
        # What OAR's scheduler makes of these tables is not looked at.
        self.machine.script(f"runuser -u oar -- env {' '.join(words)} {LINK} {now} || true")
        return self.machine.read("/var/lib/oar-accounting/rounds").splitlines()[-1].split()[1]

    def tell(self, statements: str) -> str:
        """What the database answers its administrator."""
        return tell_mariadb(self.machine, statements, "oar").strip()


@contextmanager
def site(words: set[str], umask: int) -> Iterator[Site]:
    """OAR's tables and nothing of ours, for one `with` block."""
    if reason := missing_here():
        pytest.skip(reason)
    (port,) = free_ports(1)
    page = Page("oar2.md", words | {"mariadb", "cron", "systemd"}, {})
    with ExitStack() as stack:
        place = stack.enter_context(machine(sys.executable, hidden=MADE))
        server = PageServer(place, page, umask)
        server.prepare()
        stack.enter_context(mariadb(place, port))
        yield Site(server, port)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("words", "umask"),
    [
        pytest.param({"roles"}, 0o027, id="roles-027"),
        pytest.param({"plain"}, 0o022, id="plain-022"),
    ],
)
def test_every_command_of_the_page_does_what_it_says(words: set[str], umask: int) -> None:
    with site(words, umask) as here:
        install(here)
        karma_decides(here)
        keep(here)
        uninstall(here)
        assert here.server.page.left() == {}


def install(here: Site) -> None:
    """From nothing to a job that is recorded because the epilogue was called."""
    server = here.server
    before = here.goes_on()
    for title in ("Install", "Roles"):
        server.follow(title)
    assert "1 jobs recorded" in server.follow("Tables")
    assert here.recorded() == {before}
    server.follow("Timer")
    here.goes_on()
    assert "1 jobs recorded" in server.timer()
    # The doctor, at the end of this section, leaves with 0 only where all is well.
    server.follow("What OAR calls")
    job = here.goes_on()
    wait_until(lambda: job in here.recorded(), "the epilogue brings the job")


def karma_decides(here: Site) -> None:
    """A queue asks for our karma, and a service answers; everybody may ask."""
    server = here.server
    server.follow("Karma decides")
    assert here.policies() == {LINK.name, "oar_sched_gantt_with_timesharing"}
    wait_until(lambda: here.decides() == "library", "the library answers")
    server.follow("Karma service")
    server.start_cron()
    wait_until(lambda: here.decides() == "service", "the service answers")
    assert "accounted" in server.line_by_hand("OAR's own accounting")
    server.follow("Users ask")
    own = "/usr/local/bin/oar-accounting-own usage --by user --json"
    assert "bob" in server.machine.script(f"su bob -s /bin/sh -c '{own}'")
    server.follow("Monitoring")


def keep(here: Site) -> None:
    """Backup, upgrade, a new Python, and what leads over from before."""
    server = here.server
    recorded = here.recorded()
    assert "every total is what spans and rates give" in server.follow("Backup and restore")
    assert recorded <= here.recorded()
    served = server.service()
    server.new_sources()
    server.follow("Upgrade", here.goes_on)
    wait_until(lambda: server.service() not in ("", served), "the new service is started")
    server.machine.script("mv /opt/oar-accounting/lib/python3.* /opt/oar-accounting/lib/older")
    with pytest.raises(ApartError, match="No module named"):
        server.ours("catch-up")
    server.follow("A new Python", here.goes_on)
    server.follow("From a version without stubs", here.goes_on)
    server.machine.script(f"{OURS} stubs install")
    wait_until(lambda: here.decides() == "service", "the service answers")
    assert "0 jobs that ended before" in server.follow("Keeping it for years")


def uninstall(here: Site) -> None:
    """Step by step, and OAR goes on; nothing of ours is left but what the page names."""
    server = here.server
    with pytest.raises(ApartError, match="nothing was removed"):
        server.machine.script(f"{OURS} stubs remove")
    server.follow("Uninstall", here.goes_on)
    assert here.policies() == {STOCK, "oar_sched_gantt_with_timesharing"}
    wait_until(lambda: server.service() == "", "the service has ended")
    assert here.tell(r"SHOW TABLES LIKE 'accounting\_%'") == ""
    assert here.tell("SELECT user FROM mysql.user WHERE user LIKE '%accounting%'") == ""
    assert server.left() == ["oar.conf"]


def wait_until(true: Any, what: str) -> None:
    """Ask again and again until it is true."""
    deadline = time.monotonic() + PATIENCE
    while not true():
        assert time.monotonic() < deadline, f"waited in vain: {what}"
        time.sleep(0.5)

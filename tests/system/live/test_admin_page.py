"""``hooks/oar2.md``: every command of it, in its order, on a real OAR 2 with PostgreSQL.

Where it matters, jobs come and go meanwhile; no queue is ever stopped.
"""

import json
import os
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Event, Thread

import pytest

from tests.page_server import CRON, SERVICE, line_of_cron
from tests.pages import Block, Page, copy_sources
from tests.system.live.installed import SOURCE
from tests.system.live.machine import (
    OAR_CONF,
    PLACE,
    MachineError,
    make_elsewhere,
    place,
    run,
    start_daemon,
    wait_until,
)
from tests.system.live.oar_server import ENDED, OarServer
from tests.system.live.test_live import ASKED_FOR, needed

STOCK = "oar_sched_gantt_with_timesharing_and_fairsharing"
SCHEDULERS = Path("/usr/lib/oar/schedulers")
LINKS = [
    SCHEDULERS / f"karma_then_{STOCK}{more}" for more in ("", "_and_placeholder", "_and_quotas")
]
BEFORE = "From a version without stubs"
#: Where pip puts what OAR called before there were stubs.
HOOKS = "/opt/oar-accounting/share/oar-accounting/hooks"
OURS = "/opt/oar-accounting/bin/oar-accounting"
TOML = Path("/etc/oar/accounting.toml")
#: What the page makes outside of the directory that a live test clears away.
MADE = (
    *("/opt/oar-accounting", "/opt/oar-accounting.new", "/opt/oar-accounting.old"),
    *("/usr/local/lib/oar-accounting", "/var/lib/oar-accounting", "/run/oar-accounting"),
    *("/etc/cron.d/oar-accounting", "/etc/cron.d/oar-accounting-karma"),
    "/etc/systemd/system/oar-accounting.service",
    "/etc/systemd/system/oar-accounting.timer",
    "/etc/systemd/system/oar-accounting-karma.service",
    *("/etc/sudoers.d/oar-accounting", "/usr/local/bin/oar-accounting-own"),
    *("/var/lib/prometheus/node-exporter", "/var/backups/oar-accounting"),
    *(str(TOML), "/etc/oar/accounting-init.toml", "/etc/oar/accounting_init.password"),
    *("/etc/oar/accounting.password", "/etc/oar/accounting_karma.password"),
    *map(str, LINKS),
)
SYSTEMD = Path("/run/systemd/system")

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        os.environ.get(ASKED_FOR) != "1",
        reason=f"takes this machine's OAR for itself; {ASKED_FOR}=1 lets it",
    ),
]


class Site:
    """An OAR server on which nothing of ours is installed yet, and who follows the page."""

    def __init__(self, words: set[str], umask: int) -> None:
        """Stand it up. *words*: of the blocks that are run; *umask*: of the shell."""
        copy_sources(SOURCE)
        self.oar = OarServer()
        self.umask = umask
        # The server listens at a port of its own, and its socket lies elsewhere.
        port = self.oar.administrator()["PGPORT"]
        self.page = Page(
            "oar2.md",
            {"postgresql", "cron", "systemd", *words},
            {"@localhost/": f"@localhost:{port}/"},
        )
        self.oar.start()

    def follow(self, section: str, then: Callable[[], object] = lambda: None) -> str:
        """Run the commands of a section, and something *then* after each block; what they said."""
        said = ""
        for block in self.page.blocks(section):
            said += self.run(block)
            then()
        return said

    def run(self, block: Block) -> str:
        """Run a block of commands as root, in the directory of our sources; what it said."""
        commands = block.commands if SYSTEMD.exists() else block.without_systemd()
        said = self.script(f"umask {self.umask:o}\ncd {SOURCE}\n{commands}")
        self.page.followed(block)
        return said

    def script(self, commands: str) -> str:
        """Run commands as root, who may be the administrator of PostgreSQL; what they said."""
        # How pip reaches its index is told in variables; PATH is to be that of a server.
        pip = {name: value for name, value in os.environ.items() if name.startswith("PIP_")}
        return run("sh", "-c", f"set -eu\n{commands}", **pip, **self.oar.administrator())

    def goes_on(self) -> int:
        """A job is submitted, starts and ends, and all queues are active; the job."""
        (job,) = self.oar.submit("alice", "true")
        assert self.oar.wait(job, *ENDED) == "Terminated"
        self.active()
        return job

    def active(self) -> None:
        """No queue is stopped, nor was one."""
        assert self.oar.ask("SELECT DISTINCT state FROM queues") == [("Active",)]
        assert "Disabling queue" not in self.log()

    def log(self) -> str:
        """What OAR has logged."""
        return (PLACE / "oar.log").read_text(encoding="utf-8", errors="replace")

    def recorded(self) -> list[int]:
        """The jobs in the totals."""
        query = "select job_id from accounting_jobs where closed = 1 order by job_id"
        return [job for (job,) in self.oar.ask(query)]

    def policies(self) -> set[str]:
        """The schedulers of the queues."""
        return {policy for (policy,) in self.oar.ask("select scheduler_policy from queues")}

    def service(self) -> str:
        """The number of the process that answers schedulers; empty where there is none."""
        return self.script(SERVICE).strip()

    @contextmanager
    def under_load(self) -> Iterator[None]:
        """Jobs come and go, one after the other, for one `with` block."""
        over, failed = Event(), list[BaseException]()

        def work() -> None:
            try:
                while not over.is_set():
                    self.goes_on()
            except BaseException as error:
                failed.append(error)

        worker = Thread(target=work)
        worker.start()
        try:
            yield
        finally:
            over.set()
            worker.join()
        assert failed == []


@contextmanager
def site(request: pytest.FixtureRequest, words: set[str], umask: int) -> Iterator[Site]:
    """A `Site` for one `with` block, and nothing of it afterwards."""
    needed(request)
    with place():
        make_elsewhere(MADE)
        yield Site(words, umask)


def test_every_command_of_the_page_does_what_it_says(request: pytest.FixtureRequest) -> None:
    with site(request, {"roles"}, 0o022) as here:
        before = here.goes_on()
        here.follow("Install")
        here.follow("Roles")
        # Not by the page: the test looks into our tables as OAR.
        here.script("psql oar -c 'GRANT oar_accounting_reader TO oar'")
        assert "1 jobs recorded" in here.follow("Tables")
        here.follow("Timer")
        # The doctor, at the end of this section, leaves with 0 only where all is well.
        here.follow("What OAR calls")
        job = here.goes_on()
        wait_until(lambda: here.recorded() == [before, job], "the epilogue brings the job")
        karma_decides(here)
        users_see_what_is_theirs(here)
        here.follow("Monitoring")
        file = Path("/var/lib/prometheus/node-exporter/oar_accounting.prom")
        assert file.read_text("utf-8").endswith("# EOF\n")
        with here.under_load():
            assert "every total is what spans and rates give" in here.follow("Backup and restore")
        assert {before, job} <= set(here.recorded())
        upgrade(here)
        get_a_new_python(here)
        assert "0 jobs that ended before" in here.follow("Keeping it for years")
        uninstall(here)
        assert list(here.page.left()) == [BEFORE]


def test_a_site_without_stubs_is_led_over_under_another_umask(
    request: pytest.FixtureRequest,
) -> None:
    """Without roles of its own, too."""
    with site(request, {"plain"}, 0o027) as here:
        here.follow("Install")
        here.follow("Tables")
        here.follow("Timer")
        be_without_stubs(here)
        job = here.goes_on()
        wait_until(lambda: job in here.recorded(), "the hook brings the job")
        with here.under_load():
            here.follow(BEFORE)
            here.follow("Upgrade")
        assert HOOKS not in OAR_CONF.read_text("utf-8")
        assert {str(link.readlink()) for link in LINKS} == {
            "/usr/local/lib/oar-accounting/karma_scheduler"
        }
        here.follow("What OAR calls")
        job = here.goes_on()
        wait_until(lambda: job in here.recorded(), "the epilogue brings the job")
        here.follow("Karma service")
        users_see_what_is_theirs(here)
        uninstall(here)


def be_without_stubs(here: Site) -> None:
    """What the page had administrators do before there were stubs."""
    here.script("install -d -o oar -g oar -m 700 /var/lib/oar-accounting")
    here.script(f"ln -s {HOOKS}/oar2/karma_scheduler {LINKS[-1]}")
    here.oar.configure(SERVER_EPILOGUE_EXEC_FILE=f"{HOOKS}/server_epilogue")
    here.run(next(each for each in here.page.blocks("Karma decides") if "UPDATE" in each.commands))


def karma_decides(here: Site) -> None:
    """Every queue asks for our karma, and a service answers."""
    here.follow("Karma decides")
    assert here.policies() == {LINKS[-1].name}
    here.goes_on()
    here.follow("Karma service")
    start_daemon("sh", "-c", CRON, log="cron.log")
    wait_until(lambda: bool(here.service()), "cron starts the service")
    wait_until(lambda: here.goes_on() > 0 and decided_by(here) == "service", "the service answers")
    assert "[oar-accounting]" not in here.log()
    user, command = line_of_cron(*here.page.lines("OAR's own accounting"))
    assert "accounted" in run("su", user, "-s", "/bin/sh", "-c", command)


def decided_by(here: Site) -> str:
    """Who gave the karma of the last round."""
    lines = Path("/var/lib/oar-accounting/rounds").read_text("utf-8").splitlines()
    return lines[-1].split()[1]


def upgrade(here: Site) -> None:
    """To other sources, while jobs come and go; the service is started anew."""
    served = here.service()
    with (SOURCE / "oar_accounting/__init__.py").open("a") as file:
        file.write("# of another version\n")
    with here.under_load():
        assert "the accounting tables are there" in here.follow("Upgrade")
        wait_until(lambda: here.service() not in ("", served), "the new service is started")


def get_a_new_python(here: Site) -> None:
    """The Python of the system does not find the library any more; OAR goes on."""
    here.script("mv /opt/oar-accounting/lib/python3.* /opt/oar-accounting/lib/older")
    with pytest.raises(MachineError, match="No module named"):
        here.script(f"su oar -s /bin/sh -c '{OURS} catch-up'")
    here.goes_on()
    with here.under_load():
        here.follow("A new Python")
    job = here.goes_on()
    wait_until(lambda: job in here.recorded(), "the epilogue brings the job")


def uninstall(here: Site) -> None:
    """Step by step, and OAR goes on; nothing of ours is left but what the page names."""
    with pytest.raises(MachineError, match="nothing was removed"):
        here.script(f"{OURS} stubs remove")
    here.follow("Uninstall", here.goes_on)
    assert here.policies() == {LINKS[-1].name.removeprefix("karma_then_")}
    wait_until(lambda: here.service() == "", "the service has ended")
    # Of Prometheus, the page removes its own file.
    left = [path for path in MADE if os.path.lexists(path) and "prometheus" not in path]
    assert left == []
    assert "/lib/oar-accounting" not in OAR_CONF.read_text("utf-8")
    ours = "select tablename from pg_tables where tablename like 'accounting^_%%' escape '^'"
    assert here.oar.ask(ours) == []
    assert here.oar.ask("select rolname from pg_roles where rolname like '%%accounting%%'") == []


# -- users ask ----------------------------------------------------------------------------------


def users_see_what_is_theirs(here: Site) -> None:
    """Two users have jobs that wait; each is told of their own, by our number and by OAR's."""
    here.follow("Users ask")
    run("oarnotify", "--disable-queue", "default")
    jobs = {user: here.oar.submit(user, "true")[0] for user in ("alice", "bob")}
    before = TOML.read_text("utf-8")
    for settings in (before, re.sub(r"\[karma\].*?(?=\[scheduler\]|\Z)", "", before, flags=re.S)):
        TOML.write_text(settings, encoding="utf-8")
        for user, job in jobs.items():
            other = jobs["bob" if user == "alice" else "alice"]
            told = json.loads(ask(user, "karma", "--json"))
            assert [(each["job_id"], each["user"]) for each in told["jobs"]] == [(job, user)]
            assert told["jobs"][0]["waiting"] == len(jobs)
            assert f"Job {job} of {user}" in ask(user, "karma", "--explain", job)
            with pytest.raises(MachineError, match="not one of your waiting jobs"):
                ask(user, "karma", "--explain", other)
            rows = json.loads(ask(user, "fairshare", "--json"))["rows"]
            assert {row["name"] for row in rows} <= {user, "default"}
            with pytest.raises(MachineError, match="No such option"):
                ask(user, "--config", "/tmp/mine.toml", "karma")
            # What sudo tells of the caller cannot be told by the caller.
            told = json.loads(ask(user, "karma", "--json", SUDO_UID="0", SUDO_USER="root"))
            assert [each["user"] for each in told["jobs"]] == [user]
    TOML.write_text(before, encoding="utf-8")
    with pytest.raises(MachineError):
        run("cat", OAR_CONF, user="alice")
    run("oarnotify", "--enable-queue", "default")
    for job in jobs.values():
        here.oar.wait(job, *ENDED)


def ask(user: str, *arguments: object, **variables: str) -> str:
    """What a user is told."""
    return run("/usr/local/bin/oar-accounting-own", *arguments, user=user, **variables)

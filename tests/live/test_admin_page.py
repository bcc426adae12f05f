"""The administrator's page: every command of it, in its order, on a real OAR server."""

import json
import os
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.live.installed import ROOT, SOURCE, copy_source
from tests.live.machine import PLACE, MachineError, make_elsewhere, place, run, wait_until
from tests.live.oar_server import ENDED, OarServer
from tests.live.test_live import ASKED_FOR, needed

PAGE = (ROOT / "hooks/README.md").read_text(encoding="utf-8")
#: Sections with their blocks of commands, each with the word that says where it can be run.
SECTIONS = {
    section.partition("\n")[0]: re.findall(r"^```sh ?(\w*)\n(.*?)^```$", section, re.M | re.S)
    for section in PAGE.split("\n## ")[1:]
}
KARMA_SCHEDULER = Path(
    "/usr/lib/oar/schedulers",
    "karma_then_oar_sched_gantt_with_timesharing_and_fairsharing_and_quotas",
)
#: What the page makes outside of the directory that a live test clears away.
MADE = (
    *("/opt/oar-accounting", "/var/lib/oar-accounting", "/etc/cron.d/oar-accounting"),
    *("/etc/systemd/system/oar-accounting.service", "/etc/systemd/system/oar-accounting.timer"),
    *("/etc/sudoers.d/oar-accounting", "/usr/local/bin/oar-accounting-own"),
    *("/var/lib/prometheus/node-exporter", "/etc/oar/accounting.toml"),
    str(KARMA_SCHEDULER),
)
SYSTEMD = Path("/run/systemd/system")

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        os.environ.get(ASKED_FOR) != "1",
        reason=f"takes this machine's OAR for itself; {ASKED_FOR}=1 lets it",
    ),
]


@pytest.fixture(scope="module")
def oar(request: pytest.FixtureRequest) -> Iterator[OarServer]:
    """An OAR server on which nothing of ours is installed yet."""
    needed(request)
    with place():
        make_elsewhere(MADE)
        copy_source()
        server = OarServer()
        server.start()
        yield server


def follow(oar: OarServer, section: str) -> str:
    """Run the commands of a section as root; all that they printed."""
    return "".join(run_block(oar, word, block) for word, block in SECTIONS[section])


def run_block(oar: OarServer, word: str, block: str) -> str:
    """Run a block of commands as root, beside the sources, with the database's owner at hand."""
    assert word in ("", "postgresql", "systemd")
    if word == "systemd" and not SYSTEMD.exists():
        block = re.sub(r"^systemctl .*\n", "", block, flags=re.M)
    script = f"cd {SOURCE}\nset -eu\n{block}"
    # How pip reaches its index is told in variables; PATH is to be that of a server.
    pip = {name: value for name, value in os.environ.items() if name.startswith("PIP_")}
    return run("sh", "-c", script, **pip, **oar.administrator())


def recorded_jobs(oar: OarServer) -> list[int]:
    """The jobs in the totals."""
    return [job for (job,) in oar.ask("select job_id from accounting_jobs where closed = 1")]


def policies(oar: OarServer) -> set[str]:
    """The schedulers of the queues."""
    return {policy for (policy,) in oar.ask("select scheduler_policy from queues")}


#: A karma of ours, in which two metrics count.
KARMA = """
[karma]
policy = "linear"
half_life = "7d"
[[karma.terms]]
by = "user"
metric = "resource"
[[karma.terms]]
by = "project"
metric = "node"
"""


def users_see_what_is_theirs(oar: OarServer) -> None:
    """Two users have jobs that wait; each is told of their own, by OAR's number and by ours."""
    run("oarnotify", "--disable-queue", "default")
    jobs = {user: oar.submit(user, "true")[0] for user in ("alice", "bob")}
    toml = Path("/etc/oar/accounting.toml")
    before = toml.read_text("utf-8") if toml.exists() else ""
    for settings in (before, before + KARMA):
        toml.write_text(settings, encoding="utf-8")
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
    toml.write_text(before, encoding="utf-8")
    with pytest.raises(MachineError):
        run("cat", "/etc/oar/oar.conf", user="alice")
    run("oarnotify", "--enable-queue", "default")
    for job in jobs.values():
        oar.wait(job, *ENDED)


def ask(user: str, *arguments: object, **variables: str) -> str:
    """What a user is told."""
    return run("/usr/local/bin/oar-accounting-own", *arguments, user=user, **variables)


def test_every_command_of_the_page_does_what_it_says(oar: OarServer) -> None:
    (before,) = oar.submit("alice", "true")
    oar.wait(before, *ENDED)
    assert "1 jobs recorded" in follow(oar, "Install")
    # The doctor, at the end of this section, leaves with 0 only where all is well.
    ((key, hook),) = re.findall(r'^(SERVER_EPILOGUE_EXEC_FILE)="(.*)"$', PAGE, re.M)
    oar.configure(**{key: hook})
    follow(oar, "Timer and hook")
    (job,) = oar.submit("alice", "true")
    oar.wait(job, *ENDED)
    wait_until(lambda: recorded_jobs(oar) == [before, job], "the hook brings the job")
    follow(oar, "Roles")
    follow(oar, "Users ask")
    users_see_what_is_theirs(oar)
    follow(oar, "Karma decides")
    assert policies(oar) == {KARMA_SCHEDULER.name}
    (by_karma,) = oar.submit("alice", "true")
    assert oar.wait(by_karma, *ENDED) == "Terminated"
    assert "[oar-accounting]" not in (PLACE / "oar.log").read_text("utf-8", "replace")
    follow(oar, "Monitoring")
    text = Path("/var/lib/prometheus/node-exporter/oar_accounting.prom").read_text("utf-8")
    assert text.endswith("# EOF\n")
    assert "every total is what spans and rates give" in follow(oar, "Backup and restore")
    assert {before, job} <= set(recorded_jobs(oar))
    assert "the accounting tables are there" in follow(oar, "Upgrade")
    assert "0 jobs that ended before" in follow(oar, "Keeping it for years")
    follow(oar, "Uninstall")
    assert policies(oar) == {KARMA_SCHEDULER.name.removeprefix("karma_then_")}
    assert not KARMA_SCHEDULER.is_symlink()
    assert not [path for path in MADE[:3] if Path(path).exists()]
    assert (
        oar.ask("select tablename from pg_tables where tablename like 'accounting^_%%' escape '^'")
        == []
    )
    assert hook not in Path("/etc/oar/oar.conf").read_text("utf-8")
    (last,) = oar.submit("alice", "true")
    assert oar.wait(last, *ENDED) == "Terminated"

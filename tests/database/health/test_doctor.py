"""The doctor: each fault is found, mended by the very command that it names, and then gone."""

import json
import os
import pwd
import re
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from prometheus_client import parser as prometheus
from prometheus_client.openmetrics import parser as open_metrics
from sqlalchemy import Engine, make_url, select, text, update

import oar_accounting
from oar_accounting import Accounting, Finding, Status
from oar_accounting.cli.terminal import status_screen
from oar_accounting.core import formats
from oar_accounting.errors import AccountingError
from oar_accounting.health.openmetrics import openmetrics
from oar_accounting.health.records import Backlog
from oar_accounting.ledger import journal, schema, versions
from oar_accounting.ledger.records import PassRecord
from oar_accounting.oar import oar_tables
from oar_accounting.recording.passes import Pass
from oar_accounting.settings.scheduler import SchedulerSettings
from oar_accounting.stubs.files import install
from oar_accounting.stubs.plan import INSTALL, plan
from tests.asked import service, whole
from tests.servers import Database
from tests.small_oar import DAY, HOUR, NOW, T0, Clock, SmallOar, opened, stopped_clock
from tests.system.cli.test_cli import Done, run

ROOT = Path(oar_accounting.__file__).parents[1]
HOOKS = ROOT / "hooks"
NOBODY = 65534
MINUTE = 60
CORE = '[metrics.core]\nunit = "core·s"\ndistinct = "core"\n'

on_sqlite = pytest.mark.databases("sqlite")


class Machine:
    """An OAR server's files below a directory that every user may enter, as they should be."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.oar_conf = root / "etc/oar/oar.conf"
        self.cron = root / "etc/cron.d/oar-accounting"
        self.units = root / "etc/systemd/system"
        self.stock_cron = root / "etc/cron.d/oar-server"
        self.hook = root / "usr/local/lib/oar-accounting/server_epilogue"
        self.python = root / "opt/bin/python"
        self.state = root / "var/lib/oar-accounting"
        for file in (self.oar_conf, self.cron, self.python):
            file.parent.mkdir(parents=True)
        self.state.mkdir(parents=True)
        self.units.mkdir(parents=True)
        shutil.copy(HOOKS / "oar-accounting.cron", self.cron)
        self.python.touch()
        self.python.chmod(0o755)
        self.install_stubs()
        self.configure(str(self.hook))
        self.give(self.state)

    def install_stubs(self) -> None:
        """What the command does on a machine with no schedulers of OAR."""
        given = SchedulerSettings()
        place = self.hook.parent
        install(plan(python=self.python, scheduler=given, directory=place, state=self.state))

    def run(self, command: str) -> None:
        """Run a command that the doctor named for root; the user oar may not be here."""
        if command.startswith(INSTALL):
            self.install_stubs()
        if command != INSTALL:
            shell(command.removeprefix(f"{INSTALL} && "))

    def configure(self, hook: str) -> None:
        """Let oar.conf name a hook."""
        self.oar_conf.write_text(f'SERVER_EPILOGUE_EXEC_FILE="{hook}"\n')

    def give(self, path: Path) -> None:
        """Let a path belong to the user that stands for oar."""
        if os.geteuid() == 0:
            os.chown(path, NOBODY, NOBODY)
        path.chmod(0o700)


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Iterator[Machine]:
    """A well set up OAR server, on which somebody without rights stands for the user oar."""
    user = NOBODY if os.geteuid() == 0 else os.geteuid()
    monkeypatch.setattr(pwd, "getpwnam", lambda _: SimpleNamespace(pw_uid=user, pw_gid=user))
    for module in ("health.site_setup", "stubs.plan"):
        monkeypatch.setattr(f"oar_accounting.{module}.shared", lambda name: ROOT / name)
    monkeypatch.delenv("OAR_ACCOUNTING_STATE")
    with tempfile.TemporaryDirectory(prefix="doctor-") as directory:
        root = Path(directory)
        root.chmod(0o755)
        place = Machine(root)
        monkeypatch.setenv("OARCONFFILE", str(place.oar_conf))
        yield place


@pytest.fixture
def clock() -> Iterator[Clock]:
    with stopped_clock() as stopped:
        yield stopped


class Site:
    """An OAR with two jobs, its accounting, and the machine that it runs on."""

    def __init__(self, engine: Engine, machine: Machine) -> None:
        self.engine = engine
        self.machine = machine
        self.oar = SmallOar(engine)
        self.first = self.oar.add_job(cores=1)
        self.running = self.oar.add_job(cores=2, state="Running", start=NOW - HOUR)
        self.accounting = opened(engine)
        self.accounting.catch_up()

    def declares(self, toml: str) -> None:
        """Let the settings be these."""
        self.accounting = opened(self.engine, toml)

    def status(self, *, verify: bool = False) -> Status:
        """What the doctor says."""
        return self.accounting.doctor(verify=verify, root=self.machine.root)

    def wrong(self, *, verify: bool = False) -> list[Finding]:
        """What needs attention. The tests' role may do everything, and that is no news."""
        findings = self.status(verify=verify).findings
        return [each for each in findings if each.level != "good" and each.subject != "roles"]

    def only(self, subject: str, *, level: str = "bad", verify: bool = False) -> Finding:
        """The one thing that needs attention."""
        found = self.wrong(verify=verify)
        assert [(each.subject, each.level) for each in found] == [(subject, level)], found
        assert found[0].mend
        return found[0]

    def said(self, subject: str) -> str:
        """What is said on a subject with which all is well."""
        return "; ".join(each.said for each in self.status().findings if each.subject == subject)

    def run(self, command: str) -> Done:
        """Run a command of ours that the doctor named."""
        word, *words = shlex.split(command)
        assert word == "oar-accounting"
        url = self.engine.url.render_as_string(hide_password=False)
        config = self.accounting.settings.file
        return run("--url", url, "--config", config, *words)

    def mended_by(self, finding: Finding, command: str) -> None:
        """The finding names the *command*, and when it has run all is well."""
        assert finding.mend == f"oar-accounting {command}"
        assert self.run(finding.mend).returncode == 0
        assert self.wrong() == []

    def sql(self, *statements: Any) -> None:
        """Run statements behind the back of everybody."""
        with self.engine.begin() as connection:
            for each in statements:
                connection.execute(text(each) if isinstance(each, str) else each)


@pytest.fixture
def site(engine: Engine, machine: Machine, clock: Clock) -> Site:
    return Site(engine, machine)


def shell(command: str) -> None:
    """Run a command that the doctor named for root, without the user oar, who may not be here."""
    subprocess.run(command.replace(" -o oar -g oar", ""), shell=True, check=True, timeout=60)


# -- all is well ------------------------------------------------------------------------------


def test_all_is_well_and_says_what_is_set_up_and_behind(site: Site, clock: Clock) -> None:
    clock.now += 2 * MINUTE
    status = site.status(verify=True)
    assert site.wrong(verify=True) == []
    recorded = status.recorded
    assert recorded is not None
    assert recorded.last_pass is not None
    assert status.at == clock.now
    assert (recorded.window, recorded.dimension) == (DAY, "cluster")
    assert (recorded.profile, recorded.containers) == ("default", "outer")
    assert recorded.metrics == ("resource", "node")
    assert (recorded.jobs, recorded.open_jobs, recorded.purged_before) == (2, 1, None)
    assert (recorded.last_success, recorded.last_pass.began) == (NOW, NOW)
    assert (recorded.failed, recorded.unended, recorded.problems) == (0, 0, 0)
    assert status.backlog == Backlog(jobs=0, oldest=None, since=None)
    assert status.schema == schema.VERSION
    assert site.said("catch-up") == "the last one began 2 minutes ago, and was done"


def test_databases_are_named_with_what_they_run_on_and_without_password(
    site: Site, database: Database
) -> None:
    status = site.status()
    assert status.database == status.oar_database
    assert database.server.version in str(status.database)
    password = make_url(database.url).password
    assert password is None or str(password) not in str(status)


@on_sqlite
def test_all_well_is_one_screen(site: Site, capsys: pytest.CaptureFixture[str]) -> None:
    site.machine.stock_cron.write_text("0 * * * * root /usr/sbin/oaraccounting\n")
    status = site.status(verify=True)
    root = str(site.machine.root)
    findings = [replace(each, said=each.said.replace(root, "")) for each in status.findings]
    status_screen.show_status(
        replace(status, findings=tuple(findings), oar_conf="/etc/oar/oar.conf")
    )
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) <= 27, lines
    assert max(map(len, lines)) <= 100
    assert lines[0].startswith("oar-accounting 0.1.0, site oar, 2023-11-16 00:00:00 UTC")
    assert [line for line in lines if line[0] != " "][1:] == [
        "What is set up",
        "What is behind",
        "What was checked",
        "All is well.",
    ]
    assert "\x1b" not in "".join(lines)
    facts = dict(re.split(r" {2,}", line.strip(), maxsplit=1) for line in lines[2:8])
    assert facts["OAR's database"] == status.oar_database
    assert facts["our tables"] == f"there too, at version {schema.VERSION}"
    assert facts["recorded"] == (
        "in windows of 86400 s, by cluster, profile default, containers outer"
    )
    assert facts["jobs"] == "2 recorded, 1 open"


@on_sqlite
def test_nothing_is_written(site: Site) -> None:
    before = site.oar.everything()
    with site.engine.connect() as connection:
        journal_before = connection.execute(select(schema.passes)).all()
    site.status(verify=True)
    with site.engine.connect() as connection:
        assert connection.execute(select(schema.passes)).all() == journal_before
    assert site.oar.everything() == before


# -- our tables -------------------------------------------------------------------------------


def test_the_tables_are_missing_then_the_site_and_then_all_is_well(site: Site) -> None:
    site.sql(*filter(str.strip, versions.drop_ddl().split(";")))
    no_tables = site.only("our tables")
    assert "are not there" in no_tables.said
    assert no_tables.mend == "oar-accounting init"
    assert site.run(no_tables.mend).returncode == 0
    no_site, waiting = site.wrong()
    assert (no_site.subject, no_site.level, waiting.subject) == ("catch-up", "bad", "backlog")
    assert "nothing is recorded yet under the name 'oar'" in no_site.said
    assert site.status().backlog == Backlog(jobs=2, oldest=site.first, since=T0 - MINUTE)
    assert waiting.mend == no_site.mend
    site.mended_by(no_site, "catch-up")


def test_tables_of_an_older_version(site: Site) -> None:
    site.sql(
        *(f"DROP TABLE {table.name}" for tables in versions.ADDED.values() for table in tables),
        "UPDATE accounting_schema SET version = 1",
    )
    found = site.only("our tables")
    assert f"are at version 1; upgrade them to version {schema.VERSION}" in found.said
    assert site.status().schema == 1
    assert found.mend == "oar-accounting init"
    assert site.run(found.mend).returncode == 0
    assert site.wrong() == []


@on_sqlite
def test_tables_of_a_newer_version(site: Site) -> None:
    site.sql("UPDATE accounting_schema SET version = 99")
    assert site.only("our tables").mend == "pip install --upgrade oar-accounting"


@on_sqlite
def test_a_table_or_column_that_somebody_dropped(site: Site) -> None:
    site.sql("DROP TABLE accounting_entries")
    assert site.only("our tables").said.startswith("table accounting_entries is missing")
    shown = site.run(site.only("our tables").mend)
    assert "CREATE TABLE accounting_entries" in shown.stdout


# -- databases and settings -------------------------------------------------------------------


@on_sqlite
def test_oars_database_does_not_answer_and_ours_does(
    site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = tmp_path / "accounting.toml"
    config.write_text(f'url = "{site.engine.url}"\n')
    place = "postgresql://oar:secret@127.0.0.1:1/oar"
    status = Accounting.examine(url=place, config=config, root=site.machine.root)
    found = [each for each in status.findings if each.level != "good"]
    assert [(each.subject, each.mend) for each in found] == [
        ("OAR's database", "systemctl start postgresql")
    ]
    assert "127.0.0.1:1/oar" in found[0].said
    assert "secret" not in str(status)
    assert (status.oar_database, status.backlog) == (None, None)
    assert status.recorded is not None
    assert status.recorded.jobs == 2


@on_sqlite
def test_ours_does_not_answer_and_oars_does(site: Site, tmp_path: Path) -> None:
    config = tmp_path / "accounting.toml"
    config.write_text('url = "mysql://u:secret@db.example.invalid/accounting"\n')
    config.chmod(0o600)
    url = site.engine.url
    status = Accounting.examine(url=url, config=config, root=site.machine.root)
    found = [each for each in status.findings if each.level != "good"]
    assert [(each.subject, each.mend) for each in found] == [
        ("our tables", "ssh db.example.invalid systemctl start mariadb")
    ]
    assert (status.recorded, status.backlog) == (None, None)
    assert "answers" in next(e.said for e in status.findings if e.subject == "OAR's database")


def test_a_database_that_is_not_oars(site: Site) -> None:
    site.sql("DROP TABLE job_types")
    site.declares("")
    found = site.only("OAR's database")
    assert "'job_types' cannot be read" in found.said
    assert f"sql/{site.engine.dialect.name.replace('mysql', 'mariadb')}/roles.sql" in found.mend
    assert site.status().recorded is not None


@on_sqlite
def test_a_password_that_everybody_can_read(site: Site, tmp_path: Path) -> None:
    config = tmp_path / "accounting.toml"
    config.write_text('url = "mysql://u:secret@127.0.0.1:1/accounting"\n')

    def passwords() -> list[Finding]:
        status = Accounting.examine(url=site.engine.url, config=config, root=site.machine.root)
        return [each for each in status.findings if each.subject == "passwords"]

    (found,) = passwords()
    assert (found.level, found.mend) == ("warning", f"chmod o-r {config}")
    assert "secret" not in found.said
    shell(found.mend)
    assert passwords() == []


@on_sqlite
@pytest.mark.parametrize(
    ("toml", "expected"),
    [
        ("windw = 3", "unknown key 'windw'"),
        ("window = 'a'", "window must be a whole number"),
        ("[", "not TOML"),
        ('url = "oracle://h/d"', "unknown kind 'oracle'"),
    ],
)
def test_settings_that_are_wrong_hide_nothing_of_the_machine(
    site: Site, tmp_path: Path, toml: str, expected: str
) -> None:
    config = tmp_path / "accounting.toml"
    config.write_text(toml)
    site.machine.configure("/no/such/hook")
    site.machine.cron.unlink()
    status = Accounting.examine(url=site.engine.url, config=config, root=site.machine.root)
    settings, timer, hook = (each for each in status.findings if each.level != "good")
    assert expected in settings.said
    assert settings.mend == f"editor {config}"
    assert (timer.subject, hook.subject) == ("timer", "hook")


@on_sqlite
def test_no_oar_conf_names_the_option(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    machine.oar_conf.unlink()
    status = Accounting.examine(root=machine.root)
    wrong = [each for each in status.findings if each.level != "good"]
    assert [each.mend for each in wrong] == ["oar-accounting --oar-conf FILE doctor"]
    monkeypatch.delenv("OARCONFFILE")
    monkeypatch.setattr("oar_accounting.settings.load.OAR_CONF", str(machine.oar_conf))
    status = Accounting.examine(root=machine.root)
    assert "there is no such file" in status.findings[0].said
    assert status.findings[0].mend == "oar-accounting --oar-conf FILE doctor"


@on_sqlite
def test_a_driver_that_is_not_installed(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pymysql", None)
    status = Accounting.examine(url="mysql://u@h/d", root=machine.root)
    assert status.findings[0].mend == "pip install 'oar-accounting[mysql]'"


@on_sqlite
def test_a_file_that_only_oar_may_read(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    def denied(*_: Any, **__: Any) -> str:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "read_text", denied)
    status = Accounting.examine(root=machine.root)
    settings = status.findings[0]
    assert (settings.subject, settings.level) == ("settings", "bad")
    assert settings.mend == "su oar -s /bin/sh -c 'oar-accounting doctor'"


# -- what differs from what is recorded -------------------------------------------------------


@pytest.mark.parametrize(
    ("toml", "said", "command"),
    [
        ("window = 3600\n", "window is 3600 s in the settings", "rebuild"),
        ('profile = "classic"\n', "profile is 'classic'", "rebuild --from-oar"),
        ('containers = "both"\n', "containers is 'both'", "rebuild --from-oar"),
        ('dimension = "network_address"\n', "dimension is", "rebuild --from-oar"),
        ("grace = 3600\n", "grace is 3600 s in the settings", "rebuild --from-oar"),
        (CORE, "metric core is declared and not recorded yet", "rebuild --metric core"),
    ],
)
@on_sqlite
def test_settings_that_differ_from_what_is_recorded(
    site: Site, toml: str, said: str, command: str
) -> None:
    site.declares(toml)
    found = site.only("settings", level="warning")
    assert said in found.said
    site.mended_by(found, command)


@on_sqlite
def test_a_definition_that_differs_and_a_metric_that_is_gone(site: Site) -> None:
    site.declares(CORE)
    site.accounting.rebuild(metric="core")
    site.declares(CORE + "scale = 2\n")
    found = site.only("settings", level="warning")
    assert "declared otherwise than it is recorded" in found.said
    site.mended_by(found, "rebuild --metric core")
    site.declares("")
    assert site.wrong() == []
    assert site.said("settings") == "metric core is recorded and no longer declared"


class Stopped(Exception):
    """A test has seen enough of a rebuild."""


def stop(*_: Any, **__: Any) -> None:
    raise Stopped


@on_sqlite
def test_a_rebuild_that_has_not_ended(site: Site) -> None:
    site.declares('profile = "classic"\n')
    with pytest.raises(Stopped):
        site.accounting.rebuild(from_oar=True, progress=stop)
    found = site.only("settings", level="warning")
    assert "a rebuild was begun and has not ended" in found.said
    site.mended_by(found, "rebuild --from-oar")


@on_sqlite
def test_a_metric_that_is_half_filled(site: Site) -> None:
    site.declares(CORE)
    with pytest.raises(Stopped):
        site.accounting.rebuild(metric="core", progress=stop)
    found = site.only("settings", level="warning")
    assert "metric core is half filled" in found.said
    site.declares("")
    assert "is half filled and no longer declared" in site.only("settings", level="warning").said
    site.declares(CORE)
    site.mended_by(found, "rebuild --metric core")


@on_sqlite
def test_a_property_that_oar_does_not_have(site: Site) -> None:
    site.declares('dimension = "rack"\n[metrics.licence]\nunit = "l·s"\ndistinct = "licence"\n')
    metric, dimension = site.wrong()
    assert "distinct = 'licence' is not a property of OAR's resources" in metric.said
    assert "dimension 'rack' is not a property of OAR's resources" in dimension.said
    assert metric.mend == dimension.mend == f"editor {site.accounting.settings.file}"


def test_another_oar_under_the_same_ids(site: Site) -> None:
    site.oar.update_job(site.first, submission_time=NOW - 7)
    found = site.only("job ids")
    assert f"job {site.first} of OAR is not the job that is recorded" in found.said
    assert "--site NAME" in found.said
    assert found.mend == f"oar-accounting retire --from {site.first}"
    assert site.run(found.mend).returncode == 0
    site.accounting.catch_up()
    assert site.wrong() == []
    assert site.status().recorded.jobs == 3  # type: ignore[union-attr]


@on_sqlite
def test_an_oar_that_has_lost_its_last_jobs(site: Site) -> None:
    last = site.oar.add_job(cores=1)
    site.accounting.catch_up()
    site.oar.remove_job(last)
    found = site.only("job ids", level="warning")
    site.mended_by(found, f"retire --from {last}")


@on_sqlite
def test_totals_are_checked_where_that_is_asked_for(site: Site) -> None:
    site.sql("UPDATE accounting_totals SET used = used + 1")
    assert site.wrong() == []
    found = site.only("totals", verify=True)
    assert found.said == "2 are not what the recorded spans and rates give"
    site.mended_by(found, "rebuild")
    assert site.wrong(verify=True) == []


@on_sqlite
def test_what_was_purged_is_told(site: Site) -> None:
    site.accounting.purge(T0 - 10 * DAY)
    assert site.wrong() == []
    status = site.status().recorded
    assert status is not None
    assert (status.purged_before, status.jobs) == (T0 - 10 * DAY, 2)


# -- passes -----------------------------------------------------------------------------------


def failing(site: Site, now: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a catch-up fail over a new job."""

    def fail(*_: Any, **__: Any) -> None:
        raise AccountingError("the disk is full")

    with monkeypatch.context() as patch:
        patch.setattr(Pass, "settle", fail)
        site.oar.add_job(cores=1, submission=now)
        with pytest.raises(AccountingError):
            site.accounting.catch_up()


def test_passes_that_fail(site: Site, clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    for _ in range(2):
        clock.now += 5 * MINUTE
        failing(site, clock.now, monkeypatch)
    clock.now += 2 * MINUTE
    found = site.only("catch-up", level="warning")
    assert found.said == (
        "the last that was done began 12 minutes ago; 2 failed since, the last 2 minutes ago: "
        "the disk is full"
    )
    clock.now += 4 * MINUTE
    assert [e.level for e in site.wrong() if e.subject == "catch-up"] == ["bad"]
    status = site.status().recorded
    assert status is not None
    assert (status.failed, status.last_success) == (2, NOW)
    site.mended_by(found, "catch-up")


@on_sqlite
def test_other_verbs_are_no_catch_up(
    site: Site, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stopped_record() -> None:
        with monkeypatch.context() as patch:
            patch.setattr(Pass, "settle", stop)
            with pytest.raises(Stopped):
                site.accounting.record([site.first])

    clock.now += 16 * MINUTE
    stopped_record()
    assert site.only("timer").said.endswith("no catch-up has begun for 16 minutes")
    status = site.status().recorded
    assert status is not None
    assert status.last_pass is not None
    assert status.last_catch_up is not None
    assert (status.last_pass.verb, status.last_catch_up.verb) == ("record", "catch-up")
    failing(site, clock.now, monkeypatch)
    stopped_record()
    assert site.only("catch-up").said.endswith("1 failed since, the last 0 s ago: the disk is full")


@on_sqlite
def test_the_way_out_that_a_failed_pass_told_is_the_one_that_is_named(
    site: Site, clock: Clock
) -> None:
    site.oar.update_job(site.first, submission_time=NOW - 7)
    clock.now += MINUTE
    with pytest.raises(AccountingError):
        site.accounting.catch_up()
    assert {each.mend for each in site.wrong()} == {f"oar-accounting retire --from {site.first}"}


@on_sqlite
def test_no_pass_was_ever_done(site: Site) -> None:
    site.sql("UPDATE accounting_sites SET last_pass = NULL", "DELETE FROM accounting_passes")
    timer_and_pass = site.wrong()
    assert "none was ever done" in timer_and_pass[0].said
    site.mended_by(timer_and_pass[0], "catch-up")


@on_sqlite
def test_a_pass_at_work_is_no_killed_one_and_keeps_the_timer_alive(
    site: Site, clock: Clock
) -> None:
    clock.now += MINUTE
    with site.engine.begin() as connection:
        journal.begin(connection, 1, "catch-up", clock.now)
    clock.now += 29 * MINUTE
    assert site.wrong() == []
    clock.now += 2 * MINUTE
    killed, timer = site.wrong()
    assert "1 began since and never ended" in killed.said
    assert timer.subject == "timer"
    site.mended_by(killed, "catch-up")


def test_problems_stand_until_they_are_gone(site: Site) -> None:
    job = site.oar.add_job(cores=1, stop=T0 - 5)
    site.accounting.catch_up()
    found = site.only("problems", level="warning")
    assert found.said == (
        f"1 to look at, since {formats.date(NOW)}: job {job}: stop_time {T0 - 5} is before {T0}"
    )
    assert found.mend == "oar-accounting problems"
    # Another pass does not make it good.
    site.accounting.catch_up()
    assert site.only("problems", level="warning").said == found.said
    site.oar.update_job(job, stop_time=T0 + 5)
    listed = site.run(found.mend)
    assert (listed.returncode, f"oar-accounting record {job}" in listed.stdout) == (1, True)
    assert site.run(f"oar-accounting record {job}").returncode == 0
    assert site.run(found.mend).stdout == "there are no problems\n"
    site.accounting.catch_up()
    assert site.wrong() == []


def test_of_many_problems_the_first_are_named(site: Site, clock: Clock) -> None:
    jobs = [site.oar.add_job(cores=1, stop=T0 - 5) for _ in range(5)]
    site.accounting.catch_up()
    found = site.only("problems", level="warning")
    assert found.said.startswith("5 to look at, since ")
    assert found.said.endswith("; and 2 more")
    assert [f"job {job}: stop_time" in found.said for job in jobs] == [True] * 3 + [False] * 2
    recorded = site.status().recorded
    assert recorded is not None
    assert recorded.standing == 5


# -- timers -----------------------------------------------------------------------------------


@on_sqlite
def test_a_timer_that_died(site: Site, clock: Clock) -> None:
    clock.now += 15 * MINUTE
    assert site.wrong() == []
    clock.now += 1
    found = site.only("timer")
    cron = site.machine.cron
    assert found.said == f"installed: {cron}; no catch-up has begun for 15 minutes"
    assert found.mend == "service cron restart"
    site.accounting.catch_up()
    assert site.wrong() == []


@on_sqlite
@pytest.mark.parametrize("switched_off", [True, False])
def test_without_a_timer_one_is_installed(site: Site, clock: Clock, switched_off: bool) -> None:
    cron = site.machine.cron
    if switched_off:
        cron.write_text(re.sub("^([^#])", r"# \1", cron.read_text(), flags=re.M))
    else:
        cron.unlink()
    assert site.said("timer") == "none is installed here; a catch-up began 0 s ago"
    clock.now += HOUR
    found = site.only("timer")
    assert found.said == "none is installed here; no catch-up has begun for 60 minutes"
    shell(found.mend)
    site.accounting.catch_up()
    assert site.said("timer").startswith(f"installed: {cron}; ")


@on_sqlite
def test_a_systemd_timer_counts_when_it_is_enabled(site: Site, clock: Clock) -> None:
    machine = site.machine
    machine.cron.unlink()
    unit = machine.units / "oar-accounting.timer"
    shutil.copy(HOOKS / unit.name, unit)
    clock.now += HOUR
    found = site.only("timer")
    assert (found.said[:4], found.mend) == (
        "none",
        "systemctl enable --now oar-accounting.timer",
    )
    wants = machine.units / "timers.target.wants" / unit.name
    wants.parent.mkdir()
    wants.symlink_to("/etc/systemd/system/oar-accounting.timer")
    assert site.only("timer").said.startswith(f"installed: {unit}; no catch-up")
    site.accounting.catch_up()
    assert site.wrong() == []


@on_sqlite
def test_oars_own_accounting_is_told_where_it_runs(site: Site) -> None:
    line = "0 * * * * root [ -x /usr/sbin/oaraccounting ] && /usr/sbin/oaraccounting\n"
    site.machine.stock_cron.with_name("oar-server.dpkg-old").write_text(line)
    site.machine.stock_cron.write_text(f"# {line}")
    assert site.said("oaraccounting") == ""
    site.machine.stock_cron.write_text(line)
    assert str(site.machine.stock_cron) in site.said("oaraccounting")
    assert site.wrong() == []


# -- the hook ---------------------------------------------------------------------------------


@on_sqlite
@pytest.mark.parametrize(
    "conf", ["", "#SERVER_EPILOGUE_EXEC_FILE=/x\n", 'SERVER_EPILOGUE_EXEC_FILE=""\n']
)
def test_the_hook_is_not_set(site: Site, conf: str) -> None:
    site.machine.oar_conf.write_text(conf)
    found = site.only("hook", level="warning")
    assert "does not set SERVER_EPILOGUE_EXEC_FILE" in found.said
    assert f'SERVER_EPILOGUE_EXEC_FILE="{site.machine.hook}"' in found.mend
    site.machine.run(found.mend)
    assert site.wrong() == []


@on_sqlite
def test_what_oar_is_to_call_is_written_first(site: Site) -> None:
    shutil.rmtree(site.machine.hook.parent)
    site.machine.oar_conf.write_text("")
    hook, stubs = site.wrong()
    assert hook.mend.startswith("oar-accounting stubs install && echo ")
    assert (stubs.subject, stubs.level, stubs.mend) == ("stubs", "warning", INSTALL)
    site.machine.run(hook.mend)
    assert site.wrong() == []


@on_sqlite
def test_the_hook_is_where_pip_replaces_it(site: Site) -> None:
    old = site.machine.root / "opt/share/oar-accounting/hooks/server_epilogue"
    old.parent.mkdir(parents=True)
    shutil.copy(HOOKS / "server_epilogue", old)
    shutil.rmtree(site.machine.hook.parent)
    site.machine.configure(str(old))
    found = site.only("stubs")
    assert "what OAR calls is missing while pip replaces this library" in found.said
    site.machine.run(found.mend)
    found = site.only("stubs")
    assert f"{site.machine.oar_conf} names {old}" in found.said
    site.machine.run(found.mend)
    assert site.wrong() == []
    assert site.said("hook") == str(site.machine.hook)


@on_sqlite
def test_a_service_that_does_not_answer(site: Site, tmp_path: Path) -> None:
    path = site.machine.root / "run/oar-accounting/karma.sock"
    path.parent.mkdir(parents=True)
    assert site.said("karma service") == ""
    with service(path, whole()):
        assert site.wrong() == []
        assert site.said("karma service") == f"answers at {path}"
    with service(path, whole(facts={str(site.machine.hook): "-"})):
        found = site.only("karma service")
    assert f"it was started before {site.machine.hook} changed" in found.said
    assert found.mend == "systemctl restart oar-accounting-karma.service"


@on_sqlite
def test_the_hook_is_a_file_that_is_not_there(site: Site) -> None:
    site.machine.configure("/no/such/hook --nudge")
    found = site.only("hook")
    assert "/no/such/hook, which is not there: OAR stops all queues" in found.said
    site.machine.run(found.mend)
    assert site.said("hook") == str(site.machine.hook)
    assert site.wrong() == []


@on_sqlite
def test_another_script_is_the_hook(site: Site) -> None:
    other = site.machine.root / "epilogue"
    other.write_text(f"#!/bin/sh\n# not yet: {site.machine.hook}\nexit 0\n")
    other.chmod(0o755)
    site.machine.configure(f"{other} --verbose")
    found = site.only("hook", level="warning")
    assert f"OAR runs {other}, which does not seem to call our epilogue" in found.said
    assert found.mend == str(site.machine.hook)
    other.write_text(f'#!/bin/sh\n"{site.machine.hook}" "$@"\n')
    assert site.wrong() == []
    site.machine.hook.chmod(0o600)
    assert site.only("stubs").mend == f"chmod 755 {site.machine.hook}"
    site.machine.hook.unlink()
    hook, stubs = site.wrong()
    assert f"{other} calls {site.machine.hook}, which is not there" in hook.said
    assert hook.mend == stubs.mend == INSTALL


@on_sqlite
def test_another_script_calls_our_hook_where_it_never_was(site: Site) -> None:
    other = site.machine.root / "my_server_epilogue"
    other.write_text('#!/bin/sh\n/nowhere/server_epilogue "$@"\n')
    other.chmod(0o755)
    site.machine.configure(str(other))
    found = site.only("hook")
    assert f"{other} calls /nowhere/server_epilogue, which is not there" in found.said
    site.machine.run(found.mend)
    assert site.wrong() == []


@on_sqlite
@pytest.mark.parametrize("what", ["hook", "python", "opt"])
def test_what_the_user_oar_may_not_run(site: Site, what: str) -> None:
    machine = site.machine
    path = {"hook": machine.hook, "python": machine.python, "opt": machine.root / "opt"}[what]
    path.chmod(0o700 if os.geteuid() == 0 else 0o600)
    found = site.only("stubs")
    assert re.match("the user oar (may not|cannot) run", found.said)
    assert str(path) in found.said
    shell(found.mend)
    assert site.wrong() == []


@on_sqlite
def test_a_library_in_somebodys_home_is_to_be_installed_elsewhere(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody is told to open a home to everybody."""
    machine = site.machine
    home = machine.root / "opt"
    home.chmod(0o700 if os.geteuid() == 0 else 0o600)
    root = SimpleNamespace(pw_dir=str(home), pw_uid=0)
    monkeypatch.setattr(pwd, "getpwall", lambda: [root])
    command = (
        "/usr/bin/python3 -m venv --clear /opt/oar-accounting"
        " && /opt/oar-accounting/bin/pip install oar-accounting"
        " && /opt/oar-accounting/bin/oar-accounting stubs install"
    )
    assert site.only("stubs").mend == command
    # So, too, where the environment says which Python it is.
    monkeypatch.setenv("OAR_ACCOUNTING_PYTHON", str(machine.python))
    assert [each.mend for each in site.wrong()] == [command] * 2


@on_sqlite
def test_all_that_keeps_the_hook_from_its_work_is_told_at_once(site: Site) -> None:
    machine = site.machine
    machine.hook.chmod(0o600)
    machine.python.unlink()
    machine.state.rmdir()
    told = " ".join(each.said for each in site.wrong())
    assert [each.subject for each in site.wrong()] == ["hook", "stubs", "stubs"]
    assert all(str(path) in told for path in (machine.hook, machine.python, machine.state))


@on_sqlite
def test_the_interpreter_of_the_hook_is_missing(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    site.machine.python.unlink()
    found = site.only("stubs")
    assert f"they run {site.machine.python}, which is not there" in found.said
    assert found.mend == INSTALL
    monkeypatch.setenv("OAR_ACCOUNTING_PYTHON", "/nowhere/bin/python")
    hook, stubs = site.wrong()
    assert stubs == found
    assert hook.said.startswith(f"{site.machine.hook} starts /nowhere/bin/python, which is not")
    monkeypatch.setenv("OAR_ACCOUNTING_PYTHON", "/bin/sh")
    assert site.wrong() == [found]


@on_sqlite
def test_the_directory_of_the_locks_is_missing_or_another_users(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    state = site.machine.state
    state.rmdir()
    found = site.only("hook")
    assert f"the directory {state} of the epilogue's locks is not there" in found.said
    assert found.mend == f"install -d -o oar -g oar -m 700 {state}"
    shell(found.mend)
    site.machine.give(state)
    assert site.wrong() == []
    state.chmod(0o500)
    assert site.only("hook").said.startswith(f"the user oar may not write to {state}")
    monkeypatch.setenv("OAR_ACCOUNTING_STATE", "/tmp")
    assert site.wrong() == []


@on_sqlite
def test_without_a_user_oar_it_says_so(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    def nobody(name: str) -> None:
        raise KeyError(name)

    monkeypatch.setattr(pwd, "getpwnam", nobody)
    assert "there is no user oar" in site.only("hook", level="warning").said


@on_sqlite
def test_away_from_the_oar_server_no_hook_is_looked_for(site: Site) -> None:
    site.machine.oar_conf.unlink()
    assert site.wrong() == []
    assert "not looked for" in site.said("hook")


# -- the backlog ------------------------------------------------------------------------------


def test_jobs_that_wait_to_be_recorded(site: Site, clock: Clock) -> None:
    new = site.oar.add_job(state="Waiting", submission=NOW + MINUTE)
    site.oar.add_job(state="Waiting", submission=NOW + 2 * MINUTE)
    clock.now += 5 * MINUTE
    assert site.status().backlog == Backlog(jobs=2, oldest=new, since=NOW + MINUTE)
    site.oar.update_job(site.running, state="Terminated", stop_time=NOW + 30)
    assert site.status().backlog == Backlog(jobs=3, oldest=site.running, since=NOW + 30)
    assert site.wrong() == []
    clock.now = NOW + 30 + 15 * MINUTE + 1
    late = next(each for each in site.wrong() if each.subject == "backlog")
    assert late.level == "warning"
    assert f"3 jobs of OAR wait to be recorded, the first of them job {site.running}" in late.said
    site.mended_by(late, "catch-up")
    assert site.status().backlog == Backlog(jobs=0, oldest=None, since=None)


@on_sqlite
def test_jobs_that_do_not_wait(site: Site) -> None:
    """One that is suspended, one whose end is known, one that waits in OAR, one recorded early."""
    finishing = site.oar.add_job(state="Running", start=NOW - HOUR)
    site.oar.add_job(state="Running", pauses=[(NOW - 60, 0)], start=NOW - HOUR)
    site.oar.add_job(state="Waiting")
    site.oar.update_job(finishing, state="Finishing", stop_time=NOW)
    site.accounting.catch_up()
    site.oar.update_job(finishing, state="Terminated")
    early = site.oar.add_job()
    site.accounting.record([early])
    assert site.status().backlog == Backlog(jobs=0, oldest=None, since=None)


@on_sqlite
def test_ids_that_were_committed_late_are_in_the_backlog(site: Site) -> None:
    site.oar.add_job(job_id=9_000)
    site.accounting.catch_up()
    site.oar.add_job(job_id=8_000, submission=NOW - 5)
    assert site.status().backlog == Backlog(jobs=1, oldest=8_000, since=NOW - 5)


# -- roles ------------------------------------------------------------------------------------


class Guest:
    """A role of the database that may do nothing, and what it is granted."""

    def __init__(self, owner: Engine) -> None:
        self.name = f"guest_{os.getpid()}"
        self.url = owner.url.set(username=self.name, password="x")
        self._owner = owner
        self._postgresql = owner.dialect.name == "postgresql"
        self._whole = self.name if self._postgresql else f"'{self.name}'@'%%'"
        login = "ROLE {} LOGIN PASSWORD 'x'" if self._postgresql else "USER {} IDENTIFIED BY 'x'"
        self._run(f"CREATE {login.format(self._whole)}")

    def grant(self, what: str, tables: Iterable[str]) -> None:
        """Grant it *what* on the tables."""
        for table in tables:
            self._run(f"GRANT {what} ON {table} TO {self._whole}")

    def drop(self) -> None:
        """Remove the role."""
        if self._postgresql:
            self._run(f"DROP OWNED BY {self._whole}")
        self._run(f"DROP {'ROLE' if self._postgresql else 'USER'} {self._whole}")

    def _run(self, statement: str) -> None:
        with self._owner.begin() as connection:
            connection.exec_driver_sql(statement)


@pytest.fixture
def guest(engine: Engine) -> Iterator[Guest]:
    created = Guest(engine)
    yield created
    created.drop()


@pytest.mark.databases("postgresql", "mariadb")
def test_roles_that_may_do_too_little_or_too_much(site: Site, guest: Guest) -> None:
    def roles() -> list[Finding]:
        status = Accounting.examine(url=guest.url, root=site.machine.root)
        return [each for each in status.findings if each.level != "good"]

    def praised() -> list[str]:
        status = Accounting.examine(url=guest.url, root=site.machine.root)
        return [each.said for each in status.findings if each.subject == "roles"]

    ours = schema.metadata.tables.keys()
    theirs = oar_tables.metadata.tables.keys() - {"job_types"}
    guest.grant("SELECT", [*ours, *theirs, "resource_logs"])
    (found,) = roles()
    assert (found.subject, found.level) == ("OAR's database", "bad")
    assert "'job_types' cannot be read" in found.said
    assert "/roles.sql" in found.mend
    guest.grant("SELECT", ["job_types"])
    (found,) = roles()
    assert (found.subject, found.level) == ("roles", "bad")
    assert found.said.startswith(f"the role {guest.name} cannot record: it may not write to")
    guest.grant("INSERT, UPDATE, DELETE", ours - {"accounting_schema"})
    assert roles() == []
    assert praised() == ["may do what they must, and OAR's tables no harm"]
    guest.grant("UPDATE", ["jobs"])
    (found,) = roles()
    assert (found.subject, found.level) == ("roles", "warning")
    assert f"the role {guest.name} may change OAR's tables" in found.said
    assert Path(re.findall(r"\S+/roles\.sql", found.mend)[0]).exists()
    assert praised() == [found.said]


# -- the journal ------------------------------------------------------------------------------


def rows(engine: Engine) -> list[PassRecord]:
    """The journal, the newest first."""
    with engine.connect() as connection:
        return journal.passes_since_done(connection, 1, "none")


def test_every_verb_that_writes_leaves_a_row(site: Site, clock: Clock) -> None:
    site.declares(CORE)
    site.oar.add_job(stop=T0 - 1)
    verbs = (
        lambda: site.accounting.catch_up(),
        lambda: site.accounting.record([site.first]),
        lambda: site.accounting.rebuild(metric="core"),
        lambda: site.accounting.purge(T0 - 10 * DAY),
        lambda: site.accounting.forget_user("bob"),
        lambda: site.accounting.retire(site.running),
    )
    site.oar.remove_job(site.running)
    site.sql("DELETE FROM accounting_passes")
    for verb in verbs:
        clock.now += MINUTE
        verb()
    left = rows(site.engine)[::-1]
    assert [each.verb for each in left] == [
        *("catch-up", "record", "rebuild", "purge", "forget-user", "retire"),
    ]
    assert [each.began for each in left] == [NOW + n * MINUTE for n in range(1, 7)]
    assert {(each.outcome, each.ended == each.began) for each in left} == {("done", True)}
    assert (left[0].done, left[0].problems, left[-1].done) == (1, 2, 1)
    assert "stop_time" in left[0].message
    assert {each.message for each in (left[1], *left[3:])} == {""}
    assert site.status().recorded.last_pass == left[-1]  # type: ignore[union-attr]


def test_a_pass_that_failed_leaves_its_cause(
    site: Site, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock.now += MINUTE
    failing(site, clock.now, monkeypatch)
    last = rows(site.engine)[0]
    assert (last.verb, last.outcome, last.message) == ("catch-up", "failed", "the disk is full")
    assert (last.began, last.ended) == (clock.now, clock.now)


STUCK = """
import sys, time
from oar_accounting import Accounting
from oar_accounting.recording import passes

def settle(*_, **__):
    print("at work", flush=True)
    time.sleep(600)

passes.Pass.settle = settle
Accounting.open(url=sys.argv[1]).catch_up()
"""


def test_a_pass_that_was_killed_never_ends(site: Site, database: Database, clock: Clock) -> None:
    site.oar.add_job()
    # What runs by this clock would run for years by the machine's.
    site.oar.update_job(site.running, state="Terminated", stop_time=NOW)
    process = subprocess.Popen(
        [sys.executable, "-c", STUCK, database.url],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "at work\n"
    process.send_signal(signal.SIGKILL)
    process.communicate(timeout=60)
    last = rows(site.engine)[0]
    assert (last.verb, last.outcome, last.ended) == ("catch-up", "running", None)
    clock.now = last.began + HOUR
    killed = next(each for each in site.wrong() if each.subject == "catch-up")
    assert "1 began since and never ended" in killed.said
    assert site.status().recorded.unended == 1  # type: ignore[union-attr]
    site.mended_by(killed, "catch-up")


@on_sqlite
def test_old_rows_go(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(journal, "MOST_PASSES", 3)
    for _ in range(5):
        site.accounting.record([site.first])
    assert [each.verb for each in rows(site.engine)] == ["record"] * 3
    assert site.wrong() == []


# -- for machines -----------------------------------------------------------------------------


READERS: tuple[Any, ...] = (open_metrics, prometheus)


def gauges(text: str) -> dict[str, float]:
    """What OpenMetrics text says, by name and level, as both kinds of reader have it."""
    both = []
    for reader in READERS:
        families = list(reader.text_string_to_metric_families(text))
        assert {family.type for family in families} == {"gauge"}
        assert all(family.documentation for family in families)
        both.append(
            {
                sample.name.removeprefix("oar_accounting_") + sample.labels.get("level", ""): (
                    sample.value
                )
                for family in families
                for sample in family.samples
            }
        )
    assert both[0] == both[1]
    return both[0]


def test_openmetrics_is_the_status(site: Site, clock: Clock) -> None:
    site.oar.add_job(stop=T0 - 5, user="mallory")
    site.accounting.catch_up()
    site.oar.add_job(submission=NOW + 7)
    clock.now += MINUTE
    shown = site.run("oar-accounting doctor --openmetrics")
    assert shown.returncode == 0
    assert shown.stdout.endswith("\n# EOF\n")
    found = gauges(shown.stdout)
    levels = {name: found.pop(name) for name in list(found) if name.startswith("findings")}
    assert found == {
        "up": 1,
        "last_pass_start_timestamp_seconds": NOW,
        "last_success_timestamp_seconds": NOW,
        "catch_ups_failed": 0,
        "catch_ups_unended": 0,
        "problems": 1,
        "problems_standing": 1,
        "jobs_recorded": 3,
        "jobs_open": 1,
        "jobs_unrecorded": 1,
        "oldest_unrecorded_timestamp_seconds": NOW + 7,
        "queues_not_active": 0,
    }
    assert levels.keys() == {"findingsgood", "findingswarning", "findingsbad"}
    families = list(READERS[0].text_string_to_metric_families(shown.stdout))
    labels = {key for f in families for sample in f.samples for key in sample.labels}
    assert labels == {"site", "level"}
    assert "mallory" not in shown.stdout
    assert "bob" not in shown.stdout


@on_sqlite
def test_openmetrics_without_a_database_says_that_it_is_down(machine: Machine) -> None:
    for url in ("sqlite:////no/such/file", "oracle://h/d"):
        shown = run("--url", url, "doctor", "--openmetrics")
        assert shown.returncode == 0
        found = gauges(shown.stdout)
        assert found["up"] == 0
        assert found["findingsbad"] >= 1
        assert "jobs_open" not in found


def test_the_name_of_a_site_may_be_any() -> None:
    name = 'a"b\\n}c é'
    status = Status(at=0, program="", oar_conf="", site=name, findings=())
    for reader in READERS:
        families = reader.text_string_to_metric_families(openmetrics(status))
        assert {sample.labels["site"] for f in families for sample in f.samples} == {name}


@on_sqlite
def test_json_is_the_status_and_the_findings(site: Site) -> None:
    site.declares(CORE)
    done = site.run("oar-accounting doctor --json")
    shown = json.loads(done.stdout)
    assert shown.keys() == {"status", "findings"}
    assert shown["status"]["recorded"]["jobs"] == 2
    assert shown["status"]["backlog"] == {"jobs": 0, "oldest": None, "since": None}
    (found,) = (each for each in shown["findings"] if each["subject"] == "settings")
    assert found["level"] == "warning"
    assert found["mend"].endswith("rebuild --metric core")
    assert done.returncode == 1


@on_sqlite
def test_the_command_that_mends_repeats_the_options(site: Site) -> None:
    url, conf = f"sqlite:///{site.engine.url.database}", str(site.machine.oar_conf)
    shown = run("--url", url, "--site", "two words", "--oar-conf", conf, "doctor")
    place = f"--oar-conf {conf} --url sqlite+pysqlite:///{site.engine.url.database}"
    assert f"  oar-accounting {place} --site 'two words' catch-up\n" in shown.stdout
    assert shown.returncode == 1
    shown = run("--url", "postgresql://u:secret@127.0.0.1:1/d", "doctor", "--json")
    assert "secret" not in shown.stdout
    shown = run("--oar-conf", "/no/such", "doctor")
    assert "  oar-accounting --oar-conf FILE doctor\n" in shown.stdout


@on_sqlite
def test_on_a_terminal_there_are_colours(site: Site) -> None:
    lines = "".join(status_screen._lines(site.status(), 100))
    assert "\x1b[32m✓ good" in lines


@on_sqlite
def test_what_is_said_keeps_to_its_line(site: Site, capsys: pytest.CaptureFixture[str]) -> None:
    site.sql(update(schema.sites).values(dimension="evil\x1b[31m"))
    status_screen.show_status(site.status())
    assert "\x1b" not in capsys.readouterr().out


@on_sqlite
def test_people_read_of_the_epilogue_and_scripts_of_the_hook(
    site: Site, capsys: pytest.CaptureFixture[str]
) -> None:
    (found,) = (each for each in site.status().findings if each.subject == "hook")
    status_screen.show_findings([found])
    assert f" {found.level:<8}epilogue " in capsys.readouterr().out

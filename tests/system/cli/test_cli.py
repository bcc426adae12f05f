"""The command as people run it: real processes, their output and their exit codes."""

import csv
import io
import json
import os
import pty
import re
import signal
import sqlite3
import subprocess
import sys
import syslog
import time
import traceback
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import create_engine, insert, text

import oar_accounting
from oar_accounting import Accounting
from oar_accounting.cli import app
from oar_accounting.ledger import versions
from oar_accounting.oar import oar_tables
from tests.servers import Database

ROOT = Path(oar_accounting.__file__).parents[1]
COMMANDS = (
    *(
        "adjust",
        "adjustments",
        "attributes",
        "catalog",
        "catch-up",
        "demo",
        "doctor",
        "efficiency",
        "fairshare",
        "forget-user",
        "import-accounting",
        "init",
        "jobs",
        "karma",
        "karma-service",
        "oaraccounting",
        "problems",
        "project",
        "purge",
        "rebuild",
    ),
    *("record", "retire", "schema", "series", "settings", "show-karma", "sizes", "stubs", "top"),
    *("usage", "utilisation", "verify", "waiting"),
)
DAY = 86_400


@dataclass(frozen=True)
class Done:
    """What a command left: its exit code and what it printed."""

    returncode: int
    stdout: str
    stderr: str


def run(*arguments: str) -> Done:
    """Run the command in this process, as the installed script would."""
    stdout, stderr = io.StringIO(), io.StringIO()
    with redirect_stdout(stdout), redirect_stderr(stderr):
        try:
            app.main(list(arguments), prog_name="oar-accounting")
            code: Any = 0
        except SystemExit as exit:
            code = exit.code
        except Exception:
            traceback.print_exc()
            code = 1
    return Done(code, stdout.getvalue(), stderr.getvalue())


def process(*arguments: str, **environment: str) -> Done:
    """Run the command as a process of its own."""
    done = subprocess.run(
        [sys.executable, "-m", "oar_accounting.cli", *arguments],
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
        env={**os.environ, "PYTHONPATH": str(ROOT), **environment},
    )
    return Done(done.returncode, done.stdout, done.stderr)


def said(done: Done) -> str:
    """The one line of an error, beside the note on the password in the --url of the tests."""
    assert "Traceback" not in done.stderr, done.stderr
    lines = [line for line in done.stderr.splitlines() if "password of --url" not in line]
    assert len(lines) == 1, done.stderr
    return lines[0]


@pytest.fixture
def site(database: Database) -> str:
    """The URL of an OAR with two jobs of an hour, recorded; bob's name is a hard one."""
    engine = create_engine(database.url)
    oar_tables.metadata.create_all(engine)
    oar_tables.resource_logs.create(engine)
    users = ["alice", 'b\x1b[31mob, "x"']
    with engine.begin() as connection:
        connection.execute(
            insert(oar_tables.resources),
            [{"resource_id": n, "type": "default", "network_address": "n1"} for n in (1, 2)],
        )
        for job, user in enumerate(users, 1):
            connection.execute(
                insert(oar_tables.jobs).values(
                    job_id=job,
                    job_user=user,
                    project="p",
                    queue_name="default",
                    state="Terminated",
                    submission_time=DAY,
                    start_time=2 * DAY - 1800,
                    stop_time=2 * DAY + 1800,
                    assigned_moldable_job=job,
                    suspended="NO",
                )
            )
            connection.execute(
                insert(oar_tables.moldables).values(
                    moldable_id=job, moldable_job_id=job, moldable_walltime=7200
                )
            )
            connection.execute(
                insert(oar_tables.assigned),
                [{"moldable_job_id": job, "resource_id": n} for n in range(1, job + 1)],
            )
    engine.dispose()
    with Accounting.open(url=database.url) as accounting:
        accounting.init()
        accounting.catch_up()
    return database.url


def test_every_command_has_help_with_an_example_and_exit_codes() -> None:
    top = run("--help")
    assert top.returncode == 0
    listed = top.stdout.split("Commands:")[1].split("Exit codes:")[0]
    assert tuple(re.findall(r"^  ([a-z-]+) ", listed, re.M)) == COMMANDS
    for command in COMMANDS:
        shown = run(command, "--help")
        assert shown.returncode == 0
        assert "Example: oar-accounting" in shown.stdout
        assert "Exit codes:" in shown.stdout


def test_usage_for_machines_is_exact(site: str) -> None:
    shown = run("--url", site, "usage", "--by", "user,project", "--metric", "resource", "--json")
    bob = {
        "user": 'b\x1b[31mob, "x"',
        "project": "p",
        "metric": "resource",
        "unit": "resource·s",
        "asked": 14400,
        "used": 7200,
        **dict.fromkeys(("opening_asked", "opening_used", "adjusted_asked", "adjusted_used"), 0),
        "start": None,
        "stop": None,
        "accuracy": "exact",
    }
    alice = {**bob, "user": "alice", "asked": 7200, "used": 3600}
    with Accounting.open(url=site) as accounting:
        recorded = {"timezone": "UTC", "recorded_until": accounting.coverage().recorded_until}
    assert json.loads(shown.stdout) == [alice | recorded, bob | recorded]
    rows = run("--url", site, "usage", "--by", "user,project", "--metric", "resource", "--csv")
    assert list(csv.DictReader(io.StringIO(rows.stdout))) == [
        {key: "" if value is None else str(value) for key, value in row.items()}
        for row in (alice, bob)
    ]


def test_usage_of_a_span_on_window_bounds(site: str) -> None:
    shown = run(
        "--url",
        site,
        "usage",
        "--metric",
        "node",
        "--from",
        "1970-01-03",
        "--to",
        str(3 * DAY),
        "--json",
    )
    assert [(row["asked"], row["used"]) for row in json.loads(shown.stdout)] == [(5400, 1800)] * 2
    assert json.loads(run("--url", site, "usage", "--from", "1980-01-01", "--json").stdout) == []


def test_usage_for_people_has_units_and_no_control_characters(site: str) -> None:
    shown = run("--url", site, "usage", "--by", "user,queue")
    assert shown.returncode == 0
    span, *table = shown.stdout.splitlines()
    assert span == "all that is recorded, UTC"
    head, units, alice, bob, total = (line.split() for line in table)
    assert head == ["resource", "asked", "resource", "used", "node", "asked", "node", "used"]
    assert units == ["user", "queue", "resource·h", "resource·h", "node·h", "node·h"]
    assert alice == ["alice", "default", "2.0", "1.0", "2.0", "1.0"]
    assert bob[-5:] == ["default", "4.0", "2.0", "2.0", "1.0"]
    assert total == ["total", "6.0", "3.0", "4.0", "2.0"]
    assert "\x1b" not in shown.stdout


@pytest.mark.databases("sqlite")
@pytest.mark.parametrize(
    ("arguments", "expected", "code"),
    [
        (["usage", "--by", "foot"], "unknown grouping key 'foot'; known keys are user", 2),
        (["usage", "--metric", "x"], "unknown metric 'x'; recorded are resource, node", 2),
        (["usage", "--from", "soon"], "'soon' is no time", 2),
        (["usage", "--period", "2026-13"], "'2026-13' is no", 2),
        (["usage", "-p", "2026", "--to", "now"], "--from and --to do not go with it", 2),
        (["usage", "--timezone", "Mars"], "'Mars' is no time zone", 2),
        (["usage", "--where", "user"], "KEY=VALUE was expected, like user=alice", 2),
        (["usage", "--where", "user=x"], "user 'x' is not recorded; recorded are 'alice', ", 2),
        (["series", "--bucket", "fortnight"], "'fortnight' is no length of a bucket", 2),
        (["usage", "--from", "86400", "--to", "0"], "is empty", 2),
        (["rebuild", "--metric", "gpu"], "metric 'gpu' is not declared", 2),
        (["--config", "/no/such", "verify"], "/no/such: cannot be read", 2),
        (["--oar-conf", "/no/such", "verify"], "/no/such: cannot be read", 2),
        (["--site", "", "verify"], "1 to 255", 2),
        (["--site", "other", "usage"], "site 'other' is not recorded here", 2),
    ],
)
def test_a_wrong_word_is_one_clear_line(
    site: str, arguments: list[str], expected: str, code: int
) -> None:
    done = run("--url", site, *arguments)
    assert expected in said(done)
    assert done.returncode == code


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("sqlite://", "a SQLite database needs a file"),
        ("sqlite://oar.db", "a SQLite database needs a file"),
        ("postgresql+pg8000://u@h/d", "driver 'pg8000' is not used here"),
        ("mysql://u@127.0.0.1:1/d?colour=red", "unexpected keyword argument 'colour'"),
        (f"sqlite:///{ROOT}", "unable to open database file"),
        (f"sqlite:///{ROOT / 'README.md'}", "file is not a database"),
    ],
)
def test_a_url_that_cannot_be_used_is_one_clear_line(url: str, expected: str) -> None:
    assert expected in said(run("--url", url, "init"))


@pytest.mark.databases("sqlite")
def test_a_full_disk_is_one_clear_line(site: str) -> None:
    command = f"{sys.executable} -m oar_accounting.cli --url {site} usage --json > /dev/full"
    done = subprocess.run(
        ["bash", "-c", command],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    assert done.stderr == "oar-accounting: cannot write: No space left on device\n"
    assert done.returncode == 3


def test_the_demo_overwrites_nothing_of_others(tmp_path: Path) -> None:
    (tmp_path / "accounting.toml").write_text("window = 60\n")
    assert "not of the demonstration" in said(run("demo", "--directory", str(tmp_path)))
    assert (tmp_path / "accounting.toml").read_text() == "window = 60\n"


@pytest.mark.databases("sqlite")
def test_debug_shows_the_traceback(site: str) -> None:
    assert "Traceback" in run("--debug", "--url", site, "usage", "--by", "foot").stderr


@pytest.mark.slow
@pytest.mark.parametrize(
    "url",
    [
        "x",
        "oracle://h/d",
        "postgresql://u:secret@127.0.0.1:1/d",
        "sqlite:////no/such/file",
        "mysql://u:secret@127.0.0.1:1/d",
    ],
)
def test_a_database_that_cannot_be_reached_is_one_clear_line(url: str) -> None:
    done = run("--url", url, "catch-up")
    assert "secret" not in said(done)
    assert done.returncode in (2, 3)
    assert "secret" not in process("--debug", "--url", url, "catch-up").stderr


def test_without_an_oar_the_way_out_is_named(tmp_path: Path) -> None:
    done = process("catch-up", OARCONFFILE=str(tmp_path / "oar.conf"))
    assert "oar.conf: cannot be read" in said(done)
    assert done.returncode == 2


def test_unknown_options_and_commands_are_named() -> None:
    for arguments in (
        ["catchup"],
        ["usage", "--weekly"],
        ["record"],
        ["record", "x"],
        ["record", "0"],
        ["record", "99999999999999999999"],
        ["schema", "oracle"],
    ):
        done = run("--url", "sqlite:///x", *arguments)
        assert done.returncode == 2
        assert "Error:" in done.stderr
        assert "Traceback" not in done.stderr


def test_tables_that_are_missing_name_the_command(database: Database) -> None:
    done = run("--url", database.url, "catch-up")
    assert "oar-accounting init" in said(done)
    assert done.returncode == 3


def test_a_database_without_oar_is_named(database: Database) -> None:
    assert run("--url", database.url, "init").returncode == 0
    done = run("--url", database.url, "catch-up")
    assert "OAR's table" in said(done)
    assert done.returncode == 3


def test_init_tells_whether_it_created(database: Database) -> None:
    first, second = (process("--url", database.url, "init") for _ in range(2))
    assert "were created" in first.stdout
    assert "are there" in second.stdout
    assert (first.returncode, second.returncode) == (0, 0)


def test_schema_prints_what_init_runs(database: Database) -> None:
    shown = run("--url", database.url, "schema")
    assert shown.stdout == versions.ddl(database.kind)
    assert run("schema", database.kind).stdout == shown.stdout


def test_record_tells_what_it_could_not(site: str) -> None:
    done = run("--url", site, "record", "1", "77")
    assert done.stdout.startswith("0 jobs recorded, 0 changed")
    assert "job 77: is not in OAR" in said(done)
    assert done.returncode == 1


def test_verify_names_the_first_differences_and_rebuild_mends_them(site: str) -> None:
    assert run("--url", site, "verify").returncode == 0
    engine = create_engine(site)
    with engine.begin() as connection:
        connection.execute(text("UPDATE accounting_totals SET used = used + 1"))
    engine.dispose()
    done = run("--url", site, "verify", "--most", "2")
    assert done.returncode == 1
    assert "1970-01-02" in done.stdout
    assert "alice" in done.stdout
    assert "2 differences or more" in said(done)
    assert run("--url", site, "rebuild").returncode == 0
    assert run("--url", site, "verify").returncode == 0


def test_a_second_catch_up_leaves_with_a_line(site: str) -> None:
    with Accounting.open(url=site) as accounting, accounting._ledger.writing():
        done = process("--url", site, "catch-up")
    assert done.returncode == 0
    assert done.stdout == "another process is writing for this site: nothing to do here\n"
    assert "oar-accounting:" not in done.stderr


@pytest.mark.databases("sqlite")
def test_progress_is_shown_on_a_terminal_only(site: str) -> None:
    plain = run("--url", site, "catch-up", "--full")
    assert plain.stderr == ""
    leader, follower = pty.openpty()
    subprocess.run(
        [sys.executable, "-m", "oar_accounting.cli", "--url", site, "catch-up", "--full"],
        stderr=follower,
        stdout=subprocess.DEVNULL,
        check=True,
        timeout=60,
        env={**os.environ, "PYTHONPATH": str(ROOT), "TERM": "xterm", "COLUMNS": "100"},
    )
    os.close(follower)
    assert b"jobs" in os.read(leader, 100_000)
    os.close(leader)


@pytest.mark.databases("sqlite")
def test_a_pipe_that_closes_is_no_traceback(site: str) -> None:
    command = f"{sys.executable} -m oar_accounting.cli --url {site} usage --json | true"
    done = subprocess.run(
        ["bash", "-c", command],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    assert "Traceback" not in done.stderr


def interrupted_demo(directory: Path) -> Done:
    """What a demo left that was interrupted soon after its first line."""
    process = subprocess.Popen(
        [sys.executable, "-m", "oar_accounting.cli", "demo", "--directory", str(directory)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    assert process.stdout is not None
    process.stdout.readline()
    time.sleep(0.2)
    process.send_signal(signal.SIGINT)
    stdout, stderr = process.communicate(timeout=60)
    return Done(process.returncode, stdout, stderr)


def test_interrupted_it_says_so_and_goes_on_next_time(tmp_path: Path) -> None:
    # Python drops an interrupt that meets the end of an object, and on a loaded machine the demo
    # may be over before the signal.
    for attempt in range(5):
        directory = tmp_path / f"demo-{attempt}"
        done = interrupted_demo(directory)
        if done.returncode != 0:
            break
    stderr = done.stderr
    assert done.returncode == 130
    assert "interrupted" in stderr
    assert "Traceback" not in stderr
    assert run("--url", f"sqlite:///{directory}/oar.db", "verify").returncode in (0, 3)


@pytest.mark.databases("sqlite")
def test_catch_up_tells_the_systems_log_instead_of_the_terminal(
    site: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[tuple[int, str]] = []
    monkeypatch.setattr("syslog.syslog", lambda priority, line: told.append((priority, line)))
    monkeypatch.setattr("syslog.openlog", lambda *_: None)
    assert run("--url", site, "catch-up", "--syslog") == Done(0, "", "")
    assert told == [(syslog.LOG_INFO, "0 jobs recorded, 0 changed, 0 open, 0 problems")]
    told.clear()
    assert run("--url", f"sqlite:///{tmp_path}/none.db", "catch-up", "--syslog") == Done(3, "", "")
    assert [priority for priority, _ in told] == [syslog.LOG_WARNING]
    assert "oar-accounting init" in told[0][1]


def catches(process: int, number: signal.Signals) -> bool:
    """True where the process has something to do at this signal."""
    status = Path(f"/proc/{process}/status").read_text(encoding="utf-8")
    (mask,) = re.findall(r"^SigCgt:\s*(\w+)$", status, re.M)
    return bool(int(mask, 16) >> (number - 1) & 1)


@pytest.mark.databases("sqlite")
def test_told_to_end_it_says_so_and_keeps_nothing_half_written(site: str) -> None:
    path = site.removeprefix("sqlite:///")
    holder = sqlite3.connect(path, isolation_level=None)
    holder.execute("begin immediate")
    process = subprocess.Popen(
        [sys.executable, "-m", "oar_accounting.cli", "--url", site, "catch-up", "--wait"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    while not catches(process.pid, signal.SIGTERM):
        assert process.poll() is None
        time.sleep(0.05)
    time.sleep(0.5)
    process.send_signal(signal.SIGTERM)
    time.sleep(0.1)
    holder.execute("rollback")
    holder.close()
    stdout, stderr = process.communicate(timeout=60)
    assert (process.returncode, stdout) == (143, "")
    assert "told to end" in stderr
    assert run("--url", site, "verify").returncode == 0

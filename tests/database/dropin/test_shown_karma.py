"""What users of OAR 3 see: our karma in the message and the column that ``oarstat`` shows."""

import json
import math
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from sqlalchemy import Engine, event, make_url, text

from oar_accounting import Accounting, DatabaseError, OarSchemaError
from oar_accounting.cli import app
from oar_accounting.dropin.last_karma import LONGEST_MESSAGE, ShownReport, message_with
from tests.servers import Database
from tests.small_oar import DAY, NOW, T0, SmallOar, opened, stopped_clock

pytestmark = pytest.mark.databases("postgresql")

TOML = """
[karma]
policy = "linear"
open_jobs = "none"
window = "9999d"
[[karma.terms]]
by = "user"
metric = "resource"
targets = { carol = 25 }
"""
#: By the ids of the jobs: bob's, alice's, carol's.
SHOWN = {"bob": 0.75, "alice": 0.25, "carol": -0.25}


@pytest.fixture
def oar(engine: Engine) -> Iterator[SmallOar]:
    """Three jobs wait on an OAR 3."""
    oar = SmallOar(engine)
    oar.add_job(user="alice", cores=1, start=T0, stop=T0 + DAY)
    oar.add_job(user="bob", cores=3, start=T0, stop=T0 + DAY)
    for user in SHOWN:
        oar.add_job(user=user, start=0, state="Waiting", moldable=False, submission=NOW - 60)
    columns = "ADD message varchar(255) NOT NULL DEFAULT 'R=2,W=60', ADD last_karma real"
    with engine.begin() as connection:
        connection.execute(text(f"ALTER TABLE jobs {columns}"))
    with stopped_clock():
        yield oar


@pytest.fixture
def accounting(oar: SmallOar, engine: Engine) -> Accounting:
    """What is recorded of it."""
    found = opened(engine, TOML)
    found.catch_up()
    return found


def rows(engine: Engine) -> dict[str, tuple[Any, ...]]:
    """Of each user who waits: the message and the last karma."""
    query = "SELECT job_user, message, last_karma FROM jobs WHERE state = 'Waiting'"
    with engine.connect() as connection:
        return {user: tuple(row) for user, *row in connection.execute(text(query))}


def execute(engine: Engine, statement: str) -> None:
    """Change OAR's tables."""
    with engine.begin() as connection:
        connection.execute(text(statement))


EXPECTED = {user: (f"R=2,W=60 (Karma={karma:.3f})", karma) for user, karma in SHOWN.items()}


def test_it_is_written_in_one_statement_and_once(accounting: Accounting, engine: Engine) -> None:
    written: list[str] = []
    event.listen(
        engine, "before_cursor_execute",
        lambda *said: written.append(said[2]) if "UPDATE" in said[2] else None,
    )  # fmt: skip
    assert accounting.show_karma() == ShownReport(waiting=3, changed=3)
    assert rows(engine) == EXPECTED
    assert accounting.show_karma() == ShownReport(waiting=3, changed=0)
    assert len(written) == 1
    # Of an instance's karma, the old text goes.
    execute(engine, "UPDATE jobs SET message = 'R=1 (Karma=-1e-05)', last_karma = NULL")
    assert accounting.show_karma().changed == 3
    assert rows(engine)["bob"] == ("R=1 (Karma=0.750)", 0.75)


def test_nothing_else_is_changed(accounting: Accounting, engine: Engine) -> None:
    def everything() -> list[tuple[Any, ...]]:
        query = "SELECT to_jsonb(j) - 'message' - 'last_karma', j.message FROM jobs j ORDER BY 1"
        with engine.connect() as connection:
            found = connection.execute(text(query)).all()
        return [(row[0], row[0]["state"] == "Waiting" or row[1]) for row in found]

    before = everything()
    assert accounting.show_karma(dry_run=True).changed == 3
    assert {message for message, _ in rows(engine).values()} == {"R=2,W=60"}
    accounting.show_karma()
    assert everything() == before


def test_what_the_scheduler_says_meanwhile_stays(accounting: Accounting, engine: Engine) -> None:
    other = engine.execution_options()

    def interrupt(connection: Any, cursor: Any, statement: str, *_: object) -> None:
        if statement.startswith("UPDATE jobs SET message"):
            with other.connect() as another:
                another.exec_driver_sql("UPDATE public.jobs SET message = 'R=4' WHERE job_id = 4")
                another.commit()

    event.listen(engine, "before_cursor_execute", interrupt)
    assert accounting.show_karma().changed == 2
    assert rows(engine) == EXPECTED | {"alice": ("R=4", None)}


def test_it_does_not_wait_long_for_the_scheduler(
    accounting: Accounting, engine: Engine, database: Database
) -> None:
    with Accounting(accounting.settings, limit=0.5) as impatient, engine.begin() as connection:
        connection.execute(text("UPDATE jobs SET message = 'R=4' WHERE job_id = 4"))
        began = time.monotonic()
        with pytest.raises(DatabaseError):
            impatient.show_karma()
        assert time.monotonic() - began < 5
    assert rows(engine)["bob"] == ("R=2,W=60", None)


@pytest.mark.parametrize("karma", [math.inf, 1e12, -1e12, 1e-9])
def test_any_number_can_be_shown(
    accounting: Accounting, engine: Engine, monkeypatch: pytest.MonkeyPatch, karma: float
) -> None:
    answer = Accounting.karma

    def changed(*given: Any, **named: Any) -> Any:
        report = answer(*given, **named)
        report.karma[0] = karma
        return report

    monkeypatch.setattr(Accounting, "karma", changed)
    assert accounting.show_karma().changed == 3
    assert rows(engine)["carol"] == (f"R=2,W=60 (Karma={karma:.3f})", pytest.approx(karma))
    assert accounting.show_karma().changed == 0


@pytest.mark.databases("sqlite", "postgresql", "mariadb")
def test_oar_2_has_no_place_for_it(engine: Engine) -> None:
    oar = SmallOar(engine)
    oar.add_job(user="bob", start=0, state="Waiting", moldable=False)
    with stopped_clock():
        accounting = opened(engine, TOML)
        accounting.catch_up()
        with pytest.raises(OarSchemaError, match=r"no column '(last_karma|message)'"):
            accounting.show_karma()


@pytest.mark.databases()
@pytest.mark.parametrize(
    ("message", "expected"),
    [
        ("", "(Karma=0.500)"),
        ("R=2", "R=2 (Karma=0.500)"),
        ("R=2 (Karma=1e-05)", "R=2 (Karma=0.500)"),
        ("(Karma=1) R=2", "(Karma=1) R=2 (Karma=0.500)"),
        ("x" * (LONGEST_MESSAGE - 14), "x" * (LONGEST_MESSAGE - 14) + " (Karma=0.500)"),
        ("x" * (LONGEST_MESSAGE - 13), "x" * (LONGEST_MESSAGE - 13)),
    ],
)
def test_a_message_says_one_karma(message: str, expected: str) -> None:
    assert message_with(message, 0.5) == expected


# -- the command, and the scheduler that starts it ---------------------------------------------


@pytest.fixture
def site_file(accounting: Accounting, database: Database, tmp_path: Path) -> Path:
    """Settings that a process of its own can read."""
    file = tmp_path / "site.toml"
    file.write_text(f'oar_url = "{database.url}"\n{TOML}', encoding="utf-8")
    return file


def eventually(said: Callable[[], object], expected: object) -> None:
    """Wait until it says so."""
    deadline = time.monotonic() + 30
    while said() != expected:
        assert time.monotonic() < deadline, said()
        time.sleep(0.05)


@pytest.mark.slow
def test_the_command_waits_for_the_end_of_a_process(site_file: Path, engine: Engine) -> None:
    ours = [sys.executable, "-m", "oar_accounting.cli", "--config", str(site_file), "show-karma"]
    with subprocess.Popen(["sleep", "60"]) as scheduler:
        said = subprocess.Popen(
            [*ours, "--after", str(scheduler.pid)], stdout=subprocess.PIPE, text=True
        )
        time.sleep(2)
        assert said.poll() is None
        assert rows(engine)["bob"] == ("R=2,W=60", None)
        scheduler.kill()
    assert said.communicate(timeout=30)[0] == "3 jobs wait, 3 of them show another karma now\n"
    assert {user: message for user, (message, _) in rows(engine).items()} == {
        user: message for user, (message, _) in EXPECTED.items()
    }
    done = subprocess.run([*ours, "--dry-run"], capture_output=True, text=True, check=True)
    assert done.stdout == "3 jobs wait, 0 of them would show another karma now\n"


def test_the_command_logs_in_as_the_user_who_asks_for_schedulers(
    site_file: Path, database: Database
) -> None:
    login = f"karma_{make_url(database.url).database}"
    with site_file.open("a", encoding="utf-8") as file:
        file.write(f'\n[scheduler]\nlogin = "{login}"\n')
    done = CliRunner().invoke(app.main, ["--config", str(site_file), "show-karma"])
    assert done.exit_code == 3
    assert f'user "{login}"' in done.output


@pytest.mark.slow
@pytest.mark.parametrize("show", [True, False, "elsewhere"])
def test_the_scheduler_starts_it_where_it_is_wanted(
    site_file: Path, engine: Engine, show: bool | str
) -> None:
    """Once, however often it asks, and to wait for its own end."""
    other = site_file.with_name("other.toml")
    other.write_text(site_file.read_text(encoding="utf-8"), encoding="utf-8")
    shown = str(other) if show == "elsewhere" else show
    given = {"config": str(site_file), "limit": 60, "show": shown}
    code = f"""
import sys
from oar_accounting.stubs import oar3
# A live test of another process runs a service at the usual place.
oar3.SOCKET = {str(site_file.with_name("nowhere"))!r}
for _ in range(2):
    print(oar3.sort_jobs(["default"], {NOW}, [3, 4, 5], {{}}, {json.dumps(given)!r}, None))
sys.stdout.flush()
sys.stdin.read()
"""
    with subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as scheduler:
        assert scheduler.stdin is not None and scheduler.stdout is not None
        assert [scheduler.stdout.readline() for _ in range(2)] == ["[5, 4, 3]\n"] * 2
        children = Path(f"/proc/{scheduler.pid}/task/{scheduler.pid}/children")
        assert len(children.read_text(encoding="ascii").split()) == bool(show)
        time.sleep(2)
        assert rows(engine)["bob"] == ("R=2,W=60", None)
        scheduler.stdin.close()
    expected = EXPECTED["bob"][0] if show else "R=2,W=60"
    eventually(lambda: rows(engine)["bob"][0], expected)

"""The order that OAR 3's scheduler gets from us, and that nothing of ours can do it harm.

What it hands over behaves here as OAR's own: jobs of a live session with mapped attributes, to
which the scheduler adds others. Where OAR 3 is installed, the same tests run in its own scheduler.
"""

import json
import logging
import os
import socket
import subprocess
import sys
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import Engine, event, select, text
from sqlalchemy.orm import Session, registry

from oar_accounting import Accounting
from oar_accounting.stubs import oar3 as entry_points
from tests.examples import examples
from tests.oar3_site import Oar3Site, create_from_models, oar3
from tests.servers import Database
from tests.small_oar import DAY, HOUR, NOW, T0, Clock, SmallOar, stopped_clock

pytestmark = pytest.mark.databases("postgresql")

#: Two metrics: alone, neither gives the order of both, nor do the ids.
TOML = """
oar_url = "{url}"
[metrics.core]
unit = "core·s"
distinct = "core"
[karma]
policy = "linear"
window = "30d"
{karma}
[[karma.terms]]
by = "user"
metric = "core"
[[karma.terms]]
by = "user"
metric = "node"
weight = 0.5
targets = {{ alice = 90 }}
"""
#: How long a scheduler may wait in these tests, in seconds: for an answer, and for none.
LIMIT, SHORT = 30.0, 2.0
#: For what it has to do besides, on a machine with much else to do.
MORE = 3.0


class Round(ABC):
    """Three jobs wait: of bob, alice and carol, by their ids. Our karma says carol, alice, bob."""

    def __init__(self, url: str, directory: Path, engine: Engine) -> None:
        self.url = url
        self.file = directory / "site.toml"
        self.engine = engine
        self.write()
        with Accounting.open(config=self.file) as accounting:
            accounting.init()
            accounting.catch_up()

    def write(self, karma: str = "", **changes: str) -> None:
        """Write our settings."""
        given = TOML.format(url=changes.get("oar_url", self.url), karma=karma)
        own = f'url = "{changes["url"]}"\n' if "url" in changes else ""
        self.file.write_text(own + given, encoding="utf-8")

    def config(self, **others: object) -> str:
        """The JSON of oar.conf."""
        return json.dumps({"config": str(self.file), "limit": LIMIT} | others)

    @abstractmethod
    def order(self, config: object) -> list[str]:
        """The users in the order in which their jobs are to start."""

    @property
    @abstractmethod
    def priorities(self) -> list[int]:
        """The ids of the jobs by themselves."""


# -- objects as OAR's --------------------------------------------------------------------------


class Job:
    """A job as OAR 3 maps it, and what its scheduler adds."""

    def __init__(self) -> None:
        """Never: jobs are loaded."""
        raise AssertionError


class StandIn(Round):
    """A scheduler of ours that calls as OAR's does, and sees what is done to what it hands over."""

    def __init__(self, url: str, directory: Path, engine: Engine) -> None:
        oar = SmallOar(engine)
        oar.add_job(user="alice", cores=1, start=T0, stop=T0 + DAY)
        oar.add_job(user="bob", cores=3, start=T0, stop=T0 + DAY)
        self.first = 0
        for user in ("bob", "alice", "carol"):
            job = oar.add_job(
                user=user, start=0, state="Waiting", moldable=False, submission=NOW - 60
            )
            self.first = self.first or job
        self.table = oar.table("jobs")
        super().__init__(url, directory, engine)
        mapped = {"id": "job_id", "user": "job_user", "project": "project", "queue_name": None}
        columns = self.table.c
        self.registry = registry()
        self.registry.map_imperatively(
            Job,
            self.table,
            properties={name: columns[column or name] for name, column in mapped.items()},
        )

    @property
    def priorities(self) -> list[int]:
        """The ids of the jobs by themselves."""
        return [self.first, self.first + 1, self.first + 2]

    def order(self, config: object) -> list[str]:
        """What is returned, when it is seen that nothing else has happened."""
        written: list[object] = []
        with Session(self.engine) as session:
            query = select(Job).where(self.table.c.state == "Waiting").order_by(self.table.c.job_id)
            jobs: dict[int, Any] = {job.id: job for job in session.scalars(query)}  # type: ignore[attr-defined]
            for job in jobs.values():
                group = ([("network_address", 2)], None)
                job.mld_res_rqts = [(job.id, HOUR + 60, [group, group])]
                job.types, job.deps, job.key_cache = {}, [], {}
            before = {job.id: dict(vars(job)) for job in jobs.values()}
            event.listen(session, "before_flush", lambda *_: written.append("flush"))
            event.listen(session, "after_commit", lambda *_: written.append("commit"))
            connection = session.connection()
            event.listen(connection, "before_cursor_execute", lambda *a: written.append(a[2]))
            ids = list(jobs)
            with nothing_left():
                found = entry_points.sort_jobs(["default"], NOW, ids, jobs, config, object())
            assert type(found) is list
            assert sorted(found) == ids == self.priorities
            assert written == []
            assert {job.id: dict(vars(job)) for job in jobs.values()} == before
            assert not session.dirty and not session.new
            assert session.scalar(select(self.table.c.state).limit(1)) is not None
            return [jobs[number].user for number in found]

    def close(self) -> None:
        """Let another test map the class."""
        self.registry.dispose()


@contextmanager
def nothing_left() -> Iterator[None]:
    """No process, and no file or connection, is there that was not there before."""

    def seen() -> tuple[list[str], list[str]]:
        children = Path(f"/proc/self/task/{os.getpid()}/children").read_text(encoding="ascii")
        return sorted(os.listdir("/proc/self/fd")), children.split()

    before = seen()
    yield
    assert seen() == before


# -- OAR 3 itself ------------------------------------------------------------------------------


class Real(Round):
    """OAR 3's own scheduler, which finds our entry point as it finds all others."""

    def __init__(self, url: str, directory: Path, engine: Engine) -> None:
        create_from_models(engine)
        self.clock = Clock()
        self.clock.now = T0
        oar3().tools.get_date = lambda session: self.clock.now
        self.site = Oar3Site(engine, self.clock)
        used = [
            self.site.submit("alice", "resource_id=1"),
            self.site.submit("bob", "resource_id=3"),
        ]
        self.site.schedule()
        self.site.launch(*used)
        self.clock.now += HOUR
        for job in used:
            self.site.end(job)
        self.site.handle_events()
        self.jobs = {
            user: self.site.submit(user, "resource_id=8") for user in ("bob", "alice", "carol")
        }
        super().__init__(url, directory, engine)

    @property
    def priorities(self) -> list[int]:
        """The ids of the jobs by themselves."""
        return sorted(self.jobs.values())

    def order(self, config: object, priority: str = "CUSTOM") -> list[str]:
        """The users by the start that is predicted for their job."""
        settings = self.site.config
        settings["JOB_PRIORITY"], settings["CUSTOM_JOB_SORTING"] = priority, "accounting"
        settings["CUSTOM_JOB_SORTING_CONFIG"] = config
        with self.site.process() as session:
            oar3().meta_sched.meta_schedule(session, settings, plt=oar3().platform.Platform())
        predicted = self.site.tables().tables["gantt_jobs_predictions"].c
        moldable = self.site.tables().tables["moldable_job_descriptions"].c
        query = (
            select(moldable.moldable_job_id)
            .join_from(predicted.moldable_job_id.table, moldable.moldable_id.table,
                       predicted.moldable_job_id == moldable.moldable_id)
            .order_by(predicted.start_time)
        )  # fmt: skip
        users = {job: user for user, job in self.jobs.items()}
        with self.engine.connect() as connection:
            return [users[job] for job in connection.execute(query).scalars() if job in users]

    def close(self) -> None:
        """Nothing is to be done."""


@pytest.fixture(
    params=[
        "as OAR 3's",
        pytest.param("OAR 3", marks=pytest.mark.oar3),
    ]
)
def waiting(
    request: pytest.FixtureRequest, database: Database, engine: Engine, tmp_path: Path
) -> Iterator[Round]:
    """Three jobs that wait, and a scheduler."""
    kind = StandIn if request.param == "as OAR 3's" else Real
    with stopped_clock(), pytest.MonkeyPatch.context() as patch:
        (tmp_path / "quiet.conf").write_text('LOG_LEVEL="1"\n', encoding="utf-8")
        patch.setenv("OARCONFFILE", str(tmp_path / "quiet.conf"))
        if kind is Real:
            patch.setattr(oar3().tools, "get_date", oar3().tools.get_date)
            for name in ("create_almighty_socket", "notify_almighty", "notify_tcp_socket"):
                patch.setattr(oar3().tools, name, lambda *_: "")
        found = kind(database.url, tmp_path, engine)
        yield found
        found.close()


@pytest.fixture(autouse=True)
def heard(caplog: pytest.LogCaptureFixture, tmp_path: Path) -> Iterator[None]:
    """What is told to OAR's logger, which tells nobody else where OAR 3 is at work."""
    ours = logging.getLogger("oar.accounting")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ours, "propagate", False)
        patch.setattr(ours, "handlers", [caplog.handler])
        patch.setattr(entry_points, "SOCKET", str(tmp_path / "no.sock"))
        patch.setenv("OAR_ACCOUNTING_STATE", str(tmp_path))
        # Not the OAR that this machine may have.
        (tmp_path / "empty.conf").touch()
        patch.setenv("OARCONFFILE", str(tmp_path / "empty.conf"))
        yield


OURS = ["carol", "alice", "bob"]
RECEIVED = ["bob", "alice", "carol"]


def test_jobs_start_in_the_order_of_our_karma(waiting: Round, caplog: Any) -> None:
    assert waiting.order(waiting.config()) == OURS
    assert told(caplog) == []


def told(caplog: pytest.LogCaptureFixture) -> list[str]:
    """What OAR's log holds of us."""
    return [each.getMessage() for each in caplog.records if each.name == "oar.accounting"]


def stays(waiting: Round, caplog: Any, config: object, *words: str, within: float = LIMIT) -> None:
    """The jobs start as they came, in time, and one line says why, with these words."""
    began = time.monotonic()
    assert waiting.order(config) == RECEIVED
    assert time.monotonic() - began < within + MORE
    (line,) = told(caplog)
    assert "\n" not in line
    assert line.startswith("oar_accounting: jobs of default stay as they are: ")
    assert [word for word in words if word not in line] == []


# -- every failure -----------------------------------------------------------------------------

BAD_CONFIGS: dict[object, str] = {
    42: "JSON object",
    "42": "JSON object",
    "{ data: 'fifo' }": "JSON object",
    "[1]": "JSON object",
    '{"limit": 0}': "limit must be seconds from 0.1 to 600",
    '{"limit": true}': "limit must be seconds",
    '{"limit": NaN}': "limit must be seconds",
    '{"limit": "5"}': "limit must be seconds",
    '{"config": 1}': "config must be a text",
    '{"show": 1}': "show must be",
    '{"timeout": 1}': "unknown key 'timeout'; known keys are limit, last_answer, config",
}


@pytest.mark.parametrize("config", BAD_CONFIGS)
def test_a_bad_config_string(waiting: Round, caplog: Any, config: object) -> None:
    stays(waiting, caplog, config, "CUSTOM_JOB_SORTING_CONFIG", BAD_CONFIGS[config])


@pytest.mark.databases("sqlite")
def test_an_embedded_database(waiting: Round, caplog: Any) -> None:
    """OAR 3 has one in its own tests alone."""
    assert waiting.order(waiting.config()) == OURS
    assert told(caplog) == []


def test_no_settings(waiting: Round, caplog: Any) -> None:
    waiting.file.unlink()
    stays(waiting, caplog, waiting.config(), "site.toml", "No such file")


@pytest.mark.slow
def test_settings_that_never_come(waiting: Round, caplog: Any) -> None:
    """No time-out of a database bounds this."""
    waiting.file.unlink()
    os.mkfifo(waiting.file)
    stays(waiting, caplog, waiting.config(limit=SHORT), "no answer within 2 s", within=SHORT)


def test_wrong_settings(waiting: Round, caplog: Any) -> None:
    waiting.write(karma='colour = "red"')
    stays(waiting, caplog, waiting.config(), "site.toml", "unknown key 'colour'")


def test_a_metric_that_is_not_recorded(waiting: Round, caplog: Any) -> None:
    more = TOML.replace("[karma]", '[metrics.gpu]\nunit = "gpu·s"\ndistinct = "gpu"\n[karma]')
    more = more.replace('metric = "core"', 'metric = "gpu"')
    waiting.file.write_text(more.format(url=waiting.url, karma=""), encoding="utf-8")
    stays(waiting, caplog, waiting.config(), "metric 'gpu'", "is not recorded")


def test_a_site_that_is_not_recorded(waiting: Round, caplog: Any) -> None:
    stays(waiting, caplog, waiting.config(site="elsewhere"), "'elsewhere' is not recorded")


def test_a_database_that_is_down(waiting: Round, caplog: Any) -> None:
    with closing(socket.create_server(("127.0.0.1", 0))) as listener:
        port = listener.getsockname()[1]
    waiting.write(url=f"postgresql://x:secret@127.0.0.1:{port}/x")
    stays(waiting, caplog, waiting.config(), "refused")
    assert "secret" not in caplog.text


@pytest.mark.slow
@pytest.mark.parametrize("side", ["url", "oar_url"])
def test_a_database_that_never_answers(waiting: Round, caplog: Any, side: str) -> None:
    with closing(socket.create_server(("127.0.0.1", 0))) as listener:
        url = f"postgresql://x@127.0.0.1:{listener.getsockname()[1]}/x"
        waiting.write(**{side: url})
        stays(waiting, caplog, waiting.config(limit=SHORT), "answer", within=SHORT)


def test_tables_that_are_locked(waiting: Round, caplog: Any) -> None:
    with waiting.engine.begin() as connection:
        connection.execute(text("LOCK TABLE accounting_metrics IN ACCESS EXCLUSIVE MODE"))
        stays(waiting, caplog, waiting.config(limit=1), within=1)
        asked = text("SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock'")
        # The server, too, ceases to wait: the child that asked has told it how long.
        deadline = time.monotonic() + 10
        while waiting_for_locks := connection.execute(asked).scalar_one():
            assert time.monotonic() < deadline, waiting_for_locks
            time.sleep(0.05)


def test_tables_that_are_missing(waiting: Round, caplog: Any) -> None:
    with waiting.engine.begin() as connection:
        connection.execute(text("DROP TABLE accounting_days"))
        connection.execute(text("DROP TABLE accounting_totals"))
    stays(waiting, caplog, waiting.config(), "accounting_totals")


def test_tables_of_another_version(waiting: Round, caplog: Any) -> None:
    with waiting.engine.begin() as connection:
        connection.execute(text("UPDATE accounting_schema SET version = 999"))
    stays(waiting, caplog, waiting.config(), "999")


#: The library, when something in it has been replaced.
LIBRARY = """#!{python}
import os, sys, time
sys.path.insert(0, {root!r})
from oar_accounting.karma.fair_share import FairShare
karma = FairShare.karma
{code}
from oar_accounting.schedulers import answer
answer.main(sys.argv[-1:])
"""


@pytest.fixture
def library(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Let what is asked run this code first."""

    def replace(code: str) -> None:
        file = tmp_path / "library"
        root = str(Path(__file__).parents[3])
        text = LIBRARY.format(python=sys.executable, root=root, code=code)
        file.write_text(text, encoding="utf-8")
        file.chmod(0o755)
        monkeypatch.setattr(entry_points, "PYTHON", str(file))

    return replace


def replaced(body: str) -> str:
    """Code that lets the library find its answer so."""
    return f"def other(self, jobs=None):\n    {body}\nFairShare.karma = other\n"


BROKEN = {
    replaced("raise RuntimeError('a policy\\nthat raises')"): "RuntimeError: a policy that raises",
    replaced("os.abort()"): "its process ended with signal 6",
    replaced("raise SystemExit(0)"): "its process ended with exit code 0",
    "raise SystemExit('half\\ninstalled')": "the library: installed",
    "import oar_accounting.not_there": "ModuleNotFoundError: No module named",
    "print('<html>')": "the answer cannot be read",
    "print('oar-accounting-karma 1 0\\n\\n1\\n2'); raise SystemExit": "the answer has no end",
    "print('oar-accounting-karma 1 0\\n\\n1\\nend 2'); raise SystemExit": "the answer has no end",
}


@pytest.mark.slow
@pytest.mark.parametrize("broken", BROKEN, ids=map(str, range(len(BROKEN))))
def test_a_library_that_is_broken(
    waiting: Round, caplog: Any, library: Callable[[str], None], broken: str
) -> None:
    library(broken)
    stays(waiting, caplog, waiting.config(), BROKEN[broken])


HANGING = (
    replaced("time.sleep(60)"),
    "import signal\nos.kill(os.getpid(), signal.SIGSTOP)",
    "import signal\nsignal.signal(signal.SIGTERM, signal.SIG_IGN)\ntime.sleep(60)",
)


@pytest.mark.slow
@pytest.mark.parametrize("broken", HANGING, ids=["sleeps", "stopped", "deaf"])
def test_a_library_that_never_answers(
    waiting: Round, caplog: Any, library: Callable[[str], None], broken: str
) -> None:
    library(broken)
    why = "no answer within 2 s"
    stays(waiting, caplog, waiting.config(limit=SHORT), why, within=SHORT)


def test_a_library_that_is_not_there(
    waiting: Round, caplog: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(entry_points, "PYTHON", "/nowhere/bin/python")
    stays(waiting, caplog, waiting.config(), "/nowhere/bin/python", "not found")


def test_a_round_fails_once(waiting: Round, caplog: Any) -> None:
    """For a second group of queues it is not tried again, as the platform is the same."""
    waiting.file.unlink()
    os.mkfifo(waiting.file)
    plt = SimpleNamespace()
    began = time.monotonic()
    for _ in range(3):
        found = entry_points.sort_jobs(["default"], NOW, [3, 1], {}, waiting.config(limit=1), plt)
        assert found == [3, 1]
    assert time.monotonic() - began < 2
    assert len(told(caplog)) == 1


def test_a_karma_that_is_no_number(
    waiting: Round, caplog: Any, library: Callable[[str], None]
) -> None:
    library(
        "import numpy as np\nfrom oar_accounting.karma import by_linear\n"
        "by_linear.linear = lambda _, jobs: np.full(jobs, np.nan)"
    )
    stays(waiting, caplog, waiting.config(), "is not a number")


def test_an_answer_about_other_jobs(
    waiting: Round, caplog: Any, library: Callable[[str], None]
) -> None:
    library(replaced("report = karma(self, jobs); report.job_id[:] += 1_000; return report"))
    stays(waiting, caplog, waiting.config(), "not about these jobs")


def test_jobs_that_are_not_known_come_last(
    waiting: Round, caplog: Any, library: Callable[[str], None]
) -> None:
    """OAR deletes a job, or it is no longer there for another reason."""
    library(replaced("report = karma(self, jobs); return report.take(report.user != 'carol')"))
    assert waiting.order(waiting.config()) == ["alice", "bob", "carol"]
    assert told(caplog) == []


def test_the_scheduler_imports_nothing_of_ours(waiting: Round, tmp_path: Path) -> None:
    """The file alone is all that is needed, with nothing of the library within reach."""
    stub = tmp_path / "stub.py"
    stub.write_text(Path(entry_points.__file__).read_text(encoding="utf-8"), encoding="utf-8")
    code = f"""
import sys
sys.path.insert(0, {str(tmp_path)!r})
import stub
stub.PYTHON = {sys.executable!r}
print(stub.sort_jobs(["default"], {NOW}, {waiting.priorities}, {{}}, {waiting.config()!r}, None))
print([name for name in sys.modules if name.startswith(("oar_accounting.", "numpy", "click"))])
"""
    done = subprocess.run(
        [sys.executable, "-I", "-c", code], capture_output=True, text=True, check=True
    )
    assert done.stdout.splitlines()[1:] == ["[]"]
    # Unless the library is installed for good, only a checkout knows it, and the order stays.
    ids = json.loads(done.stdout.splitlines()[0])
    assert sorted(ids) == waiting.priorities


def test_the_order_holds_where_it_cannot_be_shown(
    waiting: Round, caplog: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*_: object, **__: object) -> None:
        raise OSError("no more processes")

    monkeypatch.setattr(os, "posix_spawn", fails)
    assert waiting.order(waiting.config(show=True)) == OURS
    (line,) = told(caplog)
    assert line.startswith("oar_accounting: users do not see this karma: OSError: no more")


@given(
    config=st.none() | st.integers() | st.text() | st.booleans() | st.floats()
    | st.recursive(
        st.none() | st.booleans() | st.floats() | st.text(max_size=5),
        lambda inner: st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["limit", "config", "show", "x"]), inner, max_size=3),
        max_leaves=5,
    ).map(json.dumps),
    ids=st.lists(st.integers(1, 2**40), unique=True, max_size=20),
)  # fmt: skip
@settings(
    suppress_health_check=[HealthCheck.function_scoped_fixture],
    max_examples=examples(40),
    deadline=None,
)
def test_all_ids_come_back_whatever_is_given(config: object, ids: list[int]) -> None:
    assert entry_points.sort_jobs(["default"], NOW, ids, {}, config, None) == ids

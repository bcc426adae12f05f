"""OAR's own karma, against ``evaluate_jobs_karma`` of OAR 3 where that is installed.

OAR 3 has two defects on the targets of users, so that none counts there as its administrator meant
it: it divides a text by 100, which ends the scheduler, and what it has divided, it divides again.
Both are switched off for the comparison, and each has a test that shows it.
"""

import importlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import Engine, create_engine, insert
from sqlalchemy.orm import Session

from oar_accounting.database import dialects
from oar_accounting.karma.oar_sums import read_sums, stock_rule
from oar_accounting.karma.policies.oar import DEFAULTS, StockRule, evaluate
from oar_accounting.oar.oar_tables import accounting
from oar_accounting.settings.oar_conf import read_oar_conf
from tests.oar3_site import create_from_models, oar3
from tests.servers import Server, fresh_database
from tests.small_oar import DAY, T0

pytestmark = [
    pytest.mark.oar3,
    pytest.mark.slow,
    pytest.mark.databases("sqlite", "postgresql"),
]

KEY = "SCHEDULER_FAIRSHARING_"
USERS = ("alice", "bob", "zoé")
PROJECTS = ("default", "first", "météo")
#: With their priorities; OAR 3 schedules those of the same together.
QUEUES = {"besteffort": 0, "default": 2, "night": 2, "week": 3}

Row = tuple[int, int, str, str, str, str, int]  # as in OAR's accounting


def karma_module() -> Any:
    """``oar.kao.karma``."""
    oar3()
    return importlib.import_module("oar.kao.karma")


class Percentage(float):
    """A target whose first division by 100 does nothing, so that the second is the only one."""

    def __truediv__(self, divisor: float) -> float:
        """The number itself."""
        return float(self)


@dataclass(frozen=True)
class Oar:
    """OAR 3 with a few queues."""

    engine: Engine = field(repr=False)
    conf: Path

    def put(self, rows: list[Row], lines: str) -> None:
        """Let these be all rows of its accounting, and all lines of its settings."""
        with self.engine.begin() as connection:
            connection.execute(accounting.delete())
            if rows:
                names = accounting.c.keys()
                values = [dict(zip(names, row, strict=True)) for row in rows]
                connection.execute(insert(accounting), values)
        self.conf.write_text(lines, encoding="utf-8")

    def theirs(self, now: int) -> list[float]:
        """The karma of a job of every user and project in every queue, as OAR 3 has it."""
        configuration = oar3().configuration.Configuration()
        configuration.load_file(str(self.conf))
        jobs = {number: SimpleNamespace(**job) for number, job in enumerate(JOBS)}
        grouped = importlib.import_module("oar.lib.queue").get_queues_groupby_priority
        plt = oar3().platform.Platform()
        with Session(self.engine) as session:
            for group in grouped(session):
                queues = [queue.name for queue in group if queue.state == "Active"]
                some = {number: job for number, job in jobs.items() if job.queue in queues}
                karma_module().evaluate_jobs_karma(
                    session, configuration, queues, now, list(some), some, plt
                )
        return [job.karma for job in jobs.values()]

    def rule(self) -> StockRule:
        """What we read of the settings."""
        return stock_rule(read_oar_conf(self.conf), str(self.conf), "oar3")

    def ours(self, now: int) -> list[float]:
        """The same as `theirs` by our means."""
        rule = self.rule()
        users, projects, queues = zip(*(job.values() for job in JOBS), strict=True)
        with dialects.reading(self.engine) as connection:
            sums = read_sums(connection, rule, now, QUEUES)
        karma: list[float] = evaluate(rule, sums, users, projects, queues).karma.tolist()
        return karma


JOBS = [
    {"user": user, "project": project, "queue": queue}
    for user in USERS
    for project in PROJECTS
    for queue in QUEUES
]


@pytest.fixture(scope="module", autouse=True)
def quiet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Not the settings and the log of an OAR that this machine may have."""
    file = tmp_path_factory.mktemp("quiet") / "oar.conf"
    file.write_text('LOG_LEVEL="0"\n', encoding="utf-8")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OARCONFFILE", str(file))
        yield


@pytest.fixture(scope="module")
def oar(server: Server, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Oar]:
    """OAR 3 on the tables of its models."""
    with fresh_database(server) as database:
        engine = create_engine(database.url)
        create_from_models(engine)
        with Session(engine) as session:
            for queue, priority in QUEUES.items():
                oar3().models.Queue.create(session, name=queue, priority=priority, state="Active")
            oar3().models.Queue.create(session, name="old", priority=2, state="notActive")
            session.commit()
        yield Oar(engine, tmp_path_factory.mktemp("oar3") / "oar.conf")
        engine.dispose()


@contextmanager
def mended() -> Iterator[None]:
    """OAR 3 without its two defects on the targets of users, for one `with` block."""
    module = karma_module()
    read = module.perl_hash_2_dict

    def percentages(text: str) -> dict[str, Percentage]:
        return {name: Percentage(value) for name, value in read(text).items()}

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "perl_hash_2_dict", percentages)
        yield


# -- the comparison ---------------------------------------------------------------------------

rows = st.lists(
    st.tuples(
        st.integers(-4, 1).map(lambda day: T0 + day * DAY),
        st.sampled_from(USERS),
        st.sampled_from(PROJECTS),
        st.sampled_from([*QUEUES, "old"]),
        st.sampled_from(["ASKED", "USED"]),
        st.integers(1, 10**12),
    ),
    unique_by=lambda row: row[:5],
    max_size=40,
).map(lambda found: [(row[0], row[0] + DAY - 1, *row[1:]) for row in found])
#: In the last second of a window, in which only the sums of users have it, and around that.
instants = st.tuples(st.integers(-2, 1), st.sampled_from([-2, -1, 0, 1, DAY // 2])).map(
    lambda each: T0 + each[0] * DAY + each[1]
)
# What OAR 3 reads as it is meant: words, and at least one.
targets = st.dictionaries(
    st.sampled_from(["alice", "bob", "first", "default"]),
    st.floats(-200, 200).map(lambda value: round(value, 3)),
    min_size=1,
).map(lambda found: "{ " + ", ".join(f"{name} => {value}" for name, value in found.items()) + " }")
coefficients = st.sampled_from(["0", "1", "2.5", "-1", "1e-1"])
settings = st.fixed_dictionaries(
    {},
    optional={
        "WINDOW_SIZE": st.sampled_from(["86400", "172800", "2592000"]),
        "PROJECT_TARGETS": targets,
        "USER_TARGETS": targets,
        "COEF_PROJECT": coefficients,
        "COEF_USER": coefficients,
        "COEF_USER_ASK": coefficients,
    },
).map(lambda found: "".join(f'{KEY}{key}="{value}"\n' for key, value in found.items()))


@given(rows=rows, now=instants, lines=settings)
def test_karma_is_that_of_oar_3_to_the_last_bit(
    oar: Oar, rows: list[Row], now: int, lines: str
) -> None:
    oar.put(rows, lines)
    with mended():
        assert oar.theirs(now) == oar.ours(now)


def test_oar_3s_own_settings_are_ours(oar: Oar) -> None:
    default = oar3().configuration.Configuration.DEFAULT_CONFIG
    lines = [f'{key}="{value}"\n' for key, value in default.items() if key.startswith(KEY)]
    oar.put([], "".join(lines))
    assert len(lines) == 7
    assert oar.rule() == DEFAULTS["oar3"]


def test_only_windows_that_are_over_count(oar: Oar) -> None:
    """Guards the comparison: OAR 3 knows nothing of today, and OAR 2 does."""
    row: Row = (T0, T0 + DAY - 1, "bob", "first", "default", "USED", 7)
    oar.put([row], "")
    of_bob = JOBS.index({"user": "bob", "project": "first", "queue": "night"})
    found = [oar.theirs(T0 + DAY + seconds)[of_bob] for seconds in (-2, -1, 0)]
    # In between, the row is of a user but of nobody: 7 of 1.
    assert found == [0, 7, 1]
    assert found == [oar.ours(T0 + DAY + seconds)[of_bob] for seconds in (-2, -1, 0)]


# -- what differs ------------------------------------------------------------------------------

OF_BOB = f'{KEY}USER_TARGETS="{{ bob => 40 }}"\n'
ROW: Row = (T0, T0 + DAY - 1, "alice", "first", "default", "USED", 7)
NOW = T0 + 2 * DAY
BOBS = [number for number, job in enumerate(JOBS) if job["user"] == "bob"]


def test_a_target_of_a_user_ends_oar_3(oar: Oar) -> None:
    """The first defect: the target is a text, and is divided."""
    oar.put([ROW], OF_BOB)
    with pytest.raises(TypeError, match="unsupported operand"):
        oar.theirs(NOW)
    assert {oar.ours(NOW)[job] for job in BOBS} == {-0.8}


def test_a_target_of_a_user_is_divided_twice_by_oar_3(
    oar: Oar, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second defect, where the first is mended."""
    oar.put([ROW], OF_BOB)
    monkeypatch.setattr(karma_module(), "perl_hash_2_dict", lambda text: {"bob": 40.0})
    assert {oar.theirs(NOW)[job] for job in BOBS} == {-0.008}
    assert {oar.ours(NOW)[job] for job in BOBS} == {-0.8}


def test_oar_3_leaves_the_quotes_on_names(oar: Oar) -> None:
    oar.put([ROW], OF_BOB.replace("bob", "'bob'"))
    with mended():
        assert {oar.theirs(NOW)[job] for job in BOBS} == {0}
    assert {oar.ours(NOW)[job] for job in BOBS} == {-0.8}


def test_oar_3_fails_without_any_target(oar: Oar) -> None:
    oar.put([ROW], f'{KEY}USER_TARGETS="{{}}"\n')
    with pytest.raises(IndexError):
        oar.theirs(NOW)
    assert {oar.ours(NOW)[job] for job in BOBS} == {0}


def test_a_sum_of_zero_ends_oar_3_and_is_no_share_here(oar: Oar) -> None:
    oar.put([(*ROW[:6], 0)], "")
    with pytest.raises(ZeroDivisionError):
        oar.theirs(NOW)
    assert set(oar.ours(NOW)) == {0}

"""No karma depends on when, or how often, a pass ran; nor on the order in which jobs came."""

import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sqlalchemy import create_engine

from oar_accounting import Accounting
from oar_accounting.database.dialects import file_url
from tests.database.karma.test_fair_share import TREE, linear, wait
from tests.examples import examples
from tests.small_oar import DAY, HOUR, T0, SmallOar, opened, stopped_clock

NOW = T0 + 5 * DAY + 5 * HOUR + 1234
USERS = ("alice", "bob", "carol")
#: Each makes two databases.
EXAMPLES = examples(25)


@dataclass(frozen=True)
class Life:
    """A job from its start to its end; it runs on where that is after `NOW`."""

    user: str
    project: str
    cores: int
    start: int
    seconds: int

    @property
    def stop(self) -> int:
        return self.start + self.seconds


LIVES = st.lists(
    st.builds(
        Life,
        user=st.sampled_from(USERS),
        project=st.sampled_from(["p", "q"]),
        cores=st.integers(1, 8),
        start=st.integers(T0, NOW - 1),
        seconds=st.integers(1, 2 * DAY),
    ),
    max_size=8,
)
PASSES = st.lists(st.integers(T0, NOW), max_size=4)
POLICIES = st.sampled_from(
    [
        linear('half_life = "6h"', window=HOUR),
        linear('half_life = "20d"', window=HOUR),
        linear('half_life = "20d"', window=DAY),
        linear('window = "30h"', window=HOUR),
        linear('steps = { period = "1d", factors = [1, 0.5, 0.25] }', window=HOUR, by="project"),
        linear('scope = "queue"', window=7 * HOUR),
        TREE.format(policy="tree", metrics="{ resource = 1, node = 3 }"),
        TREE.format(policy="fair_tree", metrics='["node"]'),
        '[karma]\npolicy = "dominant"\nmetrics = ["resource", "node"]\nhalf_life = "2d"\n',
    ]
)


@contextmanager
def a_site(toml: str) -> Iterator[tuple[SmallOar, Accounting]]:
    """An OAR on which nothing ran yet, as a pass has seen it."""
    with tempfile.TemporaryDirectory() as directory, stopped_clock() as clock:
        engine = create_engine(file_url(Path(directory, "oar.db")))
        clock.now = T0
        oar = SmallOar(engine)
        for user, project in zip((*USERS, "alice"), "ppqq", strict=True):
            wait(oar, user, project=project)
        accounting = opened(engine, toml)
        accounting.catch_up()
        yield oar, accounting
        accounting.close()
        engine.dispose()


def live_through(
    oar: SmallOar, accounting: Accounting, lives: Sequence[Life], passes: Sequence[int]
) -> None:
    """Let the jobs start and end, with passes in between."""
    ids: dict[int, int] = {}
    events = chain(
        ((life.start, 0, number) for number, life in enumerate(lives)),
        ((life.stop, 1, number) for number, life in enumerate(lives) if life.stop <= NOW),
        ((instant, 2, 0) for instant in passes),
    )
    for instant, what, number in sorted(events):
        if what == 0:
            life = lives[number]
            ids[number] = oar.add_job(
                user=life.user, project=life.project, cores=life.cores, start=life.start,
                walltime=3 * DAY, state="Running",
            )  # fmt: skip
        elif what == 1:
            oar.update_job(ids[number], state="Terminated", stop_time=lives[number].stop)
        else:
            with stopped_clock() as clock:
                clock.now = instant
                assert accounting.catch_up().problems == ()


def karmas(accounting: Accounting) -> list[tuple[int, float]]:
    """The waiting jobs in order, each with its karma, to the last bit."""
    return [(job.job_id, job.karma) for job in accounting.karma(now=NOW)]


@settings(max_examples=EXAMPLES)
@given(lives=LIVES, passes=PASSES, toml=POLICIES)
def test_it_does_not_matter_when_a_pass_ran(
    lives: list[Life], passes: list[int], toml: str
) -> None:
    with a_site(toml) as (oar, accounting):
        live_through(oar, accounting, lives, [])
        never = karmas(accounting)
    with a_site(toml) as (oar, accounting):
        live_through(oar, accounting, lives, passes)
        assert karmas(accounting) == never
        live_through(oar, accounting, [], [NOW])
        assert karmas(accounting) == never
        assert accounting.verify() == []


@settings(max_examples=EXAMPLES)
@given(lives=LIVES, toml=POLICIES, data=st.data())
def test_it_does_not_matter_in_which_order_jobs_came(
    lives: list[Life], toml: str, data: st.DataObject
) -> None:
    found = []
    for some in (lives, data.draw(st.permutations(lives))):
        with a_site(toml) as (oar, accounting):
            for life in some:
                oar.add_job(
                    user=life.user, project=life.project, cores=life.cores, start=life.start,
                    stop=min(life.stop, NOW),
                )  # fmt: skip
            live_through(oar, accounting, [], [NOW])
            found.append(karmas(accounting))
    assert found[0] == found[1]


@given(lives=LIVES)
def test_shares_add_up_to_one_where_something_was_used(lives: list[Life]) -> None:
    with a_site(linear('half_life = "1d"', window=HOUR)) as (oar, accounting):
        live_through(oar, accounting, lives, [])
        rows = accounting.fairshare(now=NOW).rows
        assert sum(row.share or 0 for row in rows) == (pytest.approx(1) if lives else 0)

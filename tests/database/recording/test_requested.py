"""How many resources a job asks for that waits: as far as OAR knows, and nothing counts of it."""

from collections.abc import Iterator, Sequence

import pytest
from sqlalchemy import Engine, insert

from oar_accounting import Accounting
from oar_accounting.oar import oar_tables
from tests.small_oar import DAY, HOUR, NOW, Clock, Recorded, SmallOar, opened, stopped_clock

Levels = Sequence[tuple[str, int]]
#: What a moldable of this id is of the job of that id.
FIRST, SECOND = 700_000, 800_000


@pytest.fixture
def clock() -> Iterator[Clock]:
    with stopped_clock() as stopped:
        yield stopped


@pytest.fixture
def oar(engine: Engine, clock: Clock) -> SmallOar:
    """Two nodes of four cores, with a licence."""
    oar = SmallOar(engine)
    oar.add_resources(kind="licence", host="")
    return oar


def ask(oar: SmallOar, job: int, *groups: Levels, moldable: int = FIRST, said: str = "") -> None:
    """Describe what a waiting job asks for in a moldable."""
    with oar.engine.begin() as connection:
        described = {"moldable_id": moldable + job, "moldable_job_id": job}
        connection.execute(
            insert(oar.table("moldable_job_descriptions")).values(
                **described, moldable_walltime=HOUR
            )
        )
        for nth, levels in enumerate(groups):
            group = moldable + 10 * job + nth
            connection.execute(
                insert(oar_tables.resource_groups).values(
                    res_group_id=group,
                    res_group_moldable_id=moldable + job,
                    res_group_property=said,
                )
            )
            for order, (name, count) in enumerate(levels):
                connection.execute(
                    insert(oar_tables.resource_descriptions).values(
                        res_job_group_id=group,
                        res_job_resource_type=name,
                        res_job_value=count,
                        res_job_order=order,
                    )
                )


def waiting(oar: SmallOar) -> int:
    return oar.add_job(state="Waiting", start=0, submission=NOW - HOUR, moldable=False)


def sizes(accounting: Accounting) -> list[int | None]:
    return [job.size for job in accounting.jobs().jobs]


NODE, CORE = "network_address", "core"


@pytest.mark.parametrize(
    ("groups", "said", "size"),
    [
        ([[("resource_id", 3)]], "", 3),
        ([[(NODE, 2)]], "", 8),
        ([[(NODE, 2), (CORE, 3)]], "type = 'default'", 6),
        ([[("cluster", 1)]], "", 8),
        ([[(NODE, 1)], [("resource_id", 1)]], "", 5),
        # A licence is no resource of type default.
        ([[("resource_id", 5)]], "type = 'licence'", None),
        # All there are, the best there are, and what OAR has no property for.
        ([[(NODE, -1)]], "", None),
        ([[("gpudevice", 1)]], "", None),
        ([[(NODE, 1)], [("gpudevice", 1)]], "", None),
        # More than fits in 63 bits, which a wrong request must not stop a pass with.
        ([[("cluster", 2**31 - 1), (NODE, 2**31 - 1), ("resource_id", 2**31 - 1)]], "", None),
    ],
)
def test_a_job_that_waits_has_the_size_that_it_asks_for(
    oar: SmallOar, engine: Engine, groups: list[Levels], said: str, size: int | None
) -> None:
    ask(oar, waiting(oar), *groups, said=said)
    accounting = opened(engine)
    accounting.catch_up()
    assert sizes(accounting) == [size]
    assert accounting.usage(("job",), as_of=NOW + DAY).rows == ()
    assert (accounting.verify(), Recorded(accounting).spans(1)) == ([], [])


def test_of_several_ways_to_ask_the_first_tells(oar: SmallOar, engine: Engine) -> None:
    job = waiting(oar)
    ask(oar, job, [("resource_id", 7)], moldable=SECOND)
    ask(oar, job, [("resource_id", 2)])
    accounting = opened(engine)
    accounting.catch_up()
    assert sizes(accounting) == [2]


def test_nodes_of_different_sizes_are_not_known_before_the_start(
    oar: SmallOar, engine: Engine
) -> None:
    oar.add_resources(2, host="small", cluster="alpha")
    ask(oar, waiting(oar), [(NODE, 1)])
    ask(oar, waiting(oar), [(NODE, 1), (CORE, 2)])
    accounting = opened(engine)
    accounting.catch_up()
    assert sizes(accounting) == [None, 2]


def test_a_job_between_two_that_wait_has_what_it_holds(oar: SmallOar, engine: Engine) -> None:
    for cores in (2, None, 3):
        if cores is None:
            job = oar.add_job(state="Running", cores=4, start=NOW - HOUR)
        else:
            job = waiting(oar)
        ask(oar, job, [("resource_id", cores or 4)])
    accounting = opened(engine)
    accounting.catch_up()
    assert sizes(accounting) == [2, 4, 3]
    assert Recorded(accounting).rates(2)["resource"] == 4


def test_when_it_starts_it_has_what_it_holds(oar: SmallOar, engine: Engine, clock: Clock) -> None:
    job = waiting(oar)
    ask(oar, job, [("resource_id", 2)])
    accounting = opened(engine)
    accounting.catch_up()
    oar.update_job(job, state="Running", start_time=NOW - 60, assigned_moldable_job=500_000 + job)
    oar.assign(job, [1, 2, 3])
    with engine.begin() as connection:
        connection.execute(
            insert(oar.table("moldable_job_descriptions")).values(
                moldable_id=500_000 + job, moldable_job_id=job, moldable_walltime=HOUR
            )
        )
    accounting.catch_up()
    assert sizes(accounting) == [3]
    (row,) = accounting.usage((), ("resource",), as_of=NOW).rows
    assert row.used == 3 * 60


def test_without_oars_tables_it_is_not_known(engine: Engine, clock: Clock) -> None:
    waiting(SmallOar(engine))
    oar_tables.resource_groups.drop(engine)
    accounting = opened(engine)
    accounting.catch_up()
    assert sizes(accounting) == [None]


def test_what_a_waiting_job_asks_for_is_no_figure(oar: SmallOar, engine: Engine) -> None:
    job = waiting(oar)
    ask(oar, job, [(NODE, 1)])
    accounting = opened(engine)
    accounting.catch_up()
    assert sizes(accounting) == [4]
    # Nodes are not all of one size any more: it is not known how many resources it will get.
    oar.add_resources(6, host="beta-1", cluster="beta")
    assert accounting.rebuild(from_oar=True, dry_run=True).figures == 0
    assert accounting.rebuild(from_oar=True).figures == 0
    assert sizes(accounting) == [None]

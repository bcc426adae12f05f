"""Which jobs of OAR a pass records: laws of a decision that reads nothing and writes nothing."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.strategies import SearchStrategy

from oar_accounting.core.columns import JobRows, ints
from oar_accounting.database.dialects import LONGEST_NAME
from oar_accounting.ledger import schema
from oar_accounting.ledger.catalog import Accounts, Names
from oar_accounting.ledger.reading import JobRecords
from oar_accounting.recording.decide import BlockRead, Decision, decide

DESCRIBED = ("name", "exit_code", "reservation")
USERS = ("alice", "bob", "u" * (LONGEST_NAME + 1))


class KnownAccounts(Accounts):
    """Accounts that are recorded, without a database."""

    def __init__(self, ids: Mapping[Names, int]) -> None:
        super().__init__(1)
        self._ids = dict(ids)


def names_of(user: str) -> Names:
    return (user, "lab", "default", "")


ACCOUNTS = KnownAccounts({names_of(user): number for number, user in enumerate(USERS[:2], 1)})


@dataclass(frozen=True, kw_only=True)
class Told:
    """A job as one of the two tells it."""

    user: str
    state: str
    submitted: int
    stop: int
    suspended: bool = False
    closed: int = schema.CLOSED_JOB
    unsettled: bool = False
    name: str | None = ""
    exit_code: int | None = None
    reservation: str | None = "None"


def as_oar_has_it() -> SearchStrategy[Told]:
    return st.builds(
        Told,
        user=st.sampled_from(USERS),
        state=st.sampled_from(("Running", "Terminated")),
        submitted=st.integers(1, 2),
        stop=st.integers(0, 1),
        suspended=st.booleans(),
        name=st.sampled_from(("", "train")),
        exit_code=st.sampled_from((None, 0, 768)),
        reservation=st.sampled_from(("None", "Scheduled")),
    )


def as_recorded() -> SearchStrategy[Told]:
    return st.builds(
        Told,
        user=st.sampled_from(USERS[:2]),
        state=st.sampled_from(("Running", "Terminated")),
        submitted=st.integers(1, 2),
        stop=st.integers(0, 1),
        closed=st.sampled_from((schema.OPEN_JOB, schema.CLOSED_JOB, schema.PURGED_JOB)),
        unsettled=st.booleans(),
        name=st.sampled_from(("", "train", None)),
        exit_code=st.sampled_from((None, 0, 768)),
        reservation=st.sampled_from(("None", "Scheduled")),
    )


def blocks(of: SearchStrategy[Told]) -> SearchStrategy[dict[int, Told]]:
    return st.dictionaries(st.integers(1, 6), of).map(lambda jobs: dict(sorted(jobs.items())))


def rows_of(jobs: Mapping[int, Told]) -> JobRows:
    def texts(name: str) -> object:
        return np.array([getattr(job, name) for job in jobs.values()], object)

    same = {"project": "lab", "queue": "default"}
    return JobRows.of(
        [
            ints(list(jobs)),
            texts("user"),
            *(np.array([value] * len(jobs), object) for value in same.values()),
            texts("state"),
            ints([job.submitted for job in jobs.values()]),
            ints([0] * len(jobs)),
            ints([job.stop for job in jobs.values()]),
            ints([1] * len(jobs)),
            ints([60] * len(jobs)),
            np.array([job.suspended for job in jobs.values()], np.bool_),
            *map(texts, DESCRIBED),
        ]
    )


def records_of(jobs: Mapping[int, Told]) -> JobRecords:
    def texts(name: str) -> object:
        return np.array([getattr(job, name) for job in jobs.values()], object)

    return JobRecords.of(
        [
            ints(list(jobs)),
            ints(ACCOUNTS.ids(names_of(job.user) for job in jobs.values())),
            np.array([job.state for job in jobs.values()], object),
            ints([job.submitted for job in jobs.values()]),
            ints([0] * len(jobs)),
            ints([job.stop for job in jobs.values()]),
            ints([60] * len(jobs)),
            np.array([""] * len(jobs), object),
            ints([job.closed for job in jobs.values()]),
            ints([job.unsettled for job in jobs.values()]),
            texts("name"),
            texts("exit_code"),
            np.array(["n1"] * len(jobs), object),
            texts("reservation"),
        ]
    )


def decided(oar: Mapping[int, Told], ledger: Mapping[int, Told], *, force: bool) -> Decision:
    read = BlockRead(rows=rows_of(oar), known=records_of(ledger), touched=ints([]))
    return decide(read, ACCOUNTS, 1_000, force=force)


def differs(job: Told, known: Told | None) -> bool:
    """In the plainest words: new, changed, or perhaps paused since."""
    if known is None:
        return True
    told: tuple[str, ...] = ("user", "state", "submitted", "stop")
    if known.name is not None:
        # An earlier version recorded none of these: that is no difference.
        told += DESCRIBED
    changed = any(getattr(job, name) != getattr(known, name) for name in told)
    return changed or (job.suspended and known.unsettled)


def refusal(job: Told, known: Told | None) -> str:
    """Why a job is not recorded whatever OAR says; the last of the reasons."""
    if known is not None and known.closed == schema.PURGED_JOB:
        return "purged"
    if len(job.user) > LONGEST_NAME:
        return "characters"
    return "another job" if known is not None and known.submitted != job.submitted else ""


@given(blocks(as_oar_has_it()), blocks(as_recorded()), st.booleans())
def test_what_differs_is_chosen_unless_it_is_refused(
    oar: dict[int, Told], ledger: dict[int, Told], force: bool
) -> None:
    found = decided(oar, ledger, force=force)
    changed = [number for number, job in oar.items() if differs(job, ledger.get(number))]
    wanted = list(oar) if force else changed
    assert found.changed.tolist() == changed
    assert found.chosen.job_id.tolist() == [
        number for number in wanted if not refusal(oar[number], ledger.get(number))
    ]


@given(blocks(as_oar_has_it()), blocks(as_recorded()), st.booleans())
def test_every_job_that_is_refused_or_has_vanished_is_reported_and_no_other(
    oar: dict[int, Told], ledger: dict[int, Told], force: bool
) -> None:
    found = decided(oar, ledger, force=force)
    expected: dict[int, str] = {}
    for number, known in ledger.items():
        job = oar.get(number)
        if known.unsettled and (job is None or job.submitted != known.submitted):
            expected[number] = "no longer has it"
    assert found.vanished.job_id.tolist() == list(expected)
    for number, job in oar.items():
        known_job = ledger.get(number)
        reason = refusal(job, known_job)
        if reason == "purged":
            reason = "purged" if differs(job, known_job) else refusal_but_purged(job, known_job)
        if reason:
            expected[number] = reason
    assert found.problems.keys() == expected.keys()
    for number, reason in expected.items():
        assert reason in found.problems[number].message


def refusal_but_purged(job: Told, known: Told | None) -> str:
    """The reason that is left for a purged job which OAR tells as it is recorded."""
    assert known is not None
    return refusal(job, Told(**{**known.__dict__, "closed": schema.CLOSED_JOB}))


@given(blocks(as_oar_has_it()))
def test_what_is_recorded_as_oar_tells_it_is_left_alone(oar: dict[int, Told]) -> None:
    same = {number: job for number, job in oar.items() if len(job.user) <= LONGEST_NAME}
    found = decided(same, same, force=False)
    assert not len(found.chosen)
    assert not len(found.vanished)
    assert not found.problems

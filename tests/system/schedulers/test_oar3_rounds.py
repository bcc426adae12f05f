"""What OAR 3's scheduler makes of the functions it finds, in processes of its own."""

import os
from pathlib import Path
from typing import Any

import pytest

from tests.oar3_rounds import SORTING, Mode, Round, Site, missing, write_package
from tests.servers import Database

pytestmark = [
    pytest.mark.databases("postgresql"),
    pytest.mark.skipif(bool(missing()), reason=missing()),
]

USERS = ["alice", "bob", "carol"]
BACKWARDS = ["carol", "bob", "alice"]
CUSTOM: dict[str, Any] = {"JOB_PRIORITY": "CUSTOM", "CUSTOM_JOB_SORTING": "accounting"}
POINT = {SORTING: {"accounting": "sort"}}

SORT = """
def sort(queues, now, jids, jobs, config, plt):
    return {}
"""
REVERSED = SORT.format("list(reversed(jids))")
SWAPPED = SORT.format("[jids[1], jids[0], *jids[2:]]")
BROKEN = "raise ImportError('nothing to import')"
RAISES = SORT.format("1 / 0")
#: Tells of the processes of a round.
TELLING = """
import os, sys

def began(pid):
    with open(f"/proc/{pid}/stat") as file:
        return file.read().rpartition(")")[2].split()[19]

def sort(queues, now, jids, jobs, config, plt):
    processes = [f"{pid}:{began(pid)}" for pid in (os.getpid(), os.getppid())]
    with open(config, "a") as file:
        print(*queues, now, *processes, file=file)
    return jids
"""

MODES = pytest.mark.parametrize("mode", ["internal", "external"])


@pytest.fixture
def site(database: Database, tmp_path: Path) -> Site:
    """A node with a resource, for which three jobs wait."""
    found = Site(database.url, tmp_path)
    for user in USERS:
        found.submit(user)
    return found


@MODES
def test_jobs_start_as_they_came(site: Site, mode: Mode) -> None:
    done = site.kao(mode=mode)
    assert (done.code, done.order, done.started, done.stopped) == (0, USERS, ["alice"], []), done


@MODES
def test_jobs_start_in_the_order_of_a_function(site: Site, mode: Mode) -> None:
    site.package("backwards", POINT, REVERSED)
    done = site.kao(mode=mode, **CUSTOM)
    assert (done.code, done.order, done.started) == (0, BACKWARDS, ["carol"]), done


def test_the_scheduler_of_a_queue_starts_nothing(site: Site) -> None:
    site.package("backwards", POINT, REVERSED)
    done = site.kamelot(**CUSTOM)
    assert (done.code, done.order, done.started) == (0, BACKWARDS, []), done


def test_of_two_functions_with_a_name_the_one_that_is_listed_first_counts(site: Site) -> None:
    """The file system gives the order of a directory; no name of a package does."""
    started = {"here": "carol", "there": "bob"}
    site.package("here", POINT, REVERSED)
    site.package("there", POINT, SWAPPED)
    listed = [name for name in os.listdir(site.paths[0]) if name.endswith(".dist-info")]
    done = site.kao(**CUSTOM)
    assert (done.code, done.started) == (0, [started[listed[0].removesuffix("-1.dist-info")]]), done


@pytest.mark.parametrize("name", ["accounting", "something-else"])
@MODES
def test_a_package_that_cannot_be_imported(
    site: Site, tmp_path: Path, mode: Mode, name: str
) -> None:
    """Whatever it is called, it ends every round, as it comes before the function looked for."""
    site.package("fine", POINT, REVERSED)
    write_package(tmp_path / "other", "broken", {SORTING: {name: "sort"}}, BROKEN)
    site.paths.insert(0, tmp_path / "other")
    done = site.kao(mode=mode, **CUSTOM)
    assert failed(done, mode), done
    assert "nothing to import" in done.said


def test_what_comes_after_the_function_looked_for_is_not_imported(
    site: Site, tmp_path: Path
) -> None:
    site.package("fine", POINT, REVERSED)
    write_package(tmp_path / "other", "broken", POINT, BROKEN)
    site.paths.append(tmp_path / "other")
    done = site.kao(**CUSTOM)
    assert (done.code, done.order, done.stopped) == (0, BACKWARDS, []), done


@MODES
def test_a_function_that_raises(site: Site, mode: Mode) -> None:
    site.package("broken", POINT, RAISES)
    done = site.kao(mode=mode, **CUSTOM)
    assert failed(done, mode), done


@MODES
def test_a_function_that_is_nowhere(site: Site, mode: Mode) -> None:
    done = site.kao(mode=mode, JOB_PRIORITY="CUSTOM", CUSTOM_JOB_SORTING="nowhere")
    assert failed(done, mode), done


def failed(done: Round, mode: Mode) -> bool:
    """No job has started; in external mode, none will until somebody sees to the queue."""
    code, stopped = (1, []) if mode == "internal" else (0, ["default"])
    return (done.code, done.order, done.started, done.stopped) == (code, [], [], stopped)


@MODES
def test_what_the_calls_of_a_round_have_in_common(
    database: Database, tmp_path: Path, mode: Mode
) -> None:
    """The time; in internal mode the process, in external mode the one above it."""
    site = Site(database.url, tmp_path, resources=3)
    for queue, priority in (("other", 3), ("last", 1)):
        site.queue(queue, priority=priority)
    for queue in ("default", "other", "last"):
        site.submit("alice", queue=queue)
    site.package("telling", POINT, TELLING)
    calls = [calls_of(site, mode, tmp_path / "told") for _ in range(2)]
    apart = {"internal": [1, 1], "external": [3, 1]}[mode]
    for now, processes, parents in calls:
        assert [len(set(now)), len(set(processes)), len(set(parents))] == [1, *apart]
    place = 1 if mode == "internal" else 2
    assert set(calls[0][place]).isdisjoint(calls[1][place])


def calls_of(site: Site, mode: Mode, told: Path) -> list[tuple[str, ...]]:
    """Of the calls of a round: the times, the processes and those above them."""
    site.forget()
    told.unlink(missing_ok=True)
    done = site.kao(mode=mode, **CUSTOM, CUSTOM_JOB_SORTING_CONFIG=told)
    assert (done.code, done.stopped) == (0, []), done
    calls = [line.rsplit(" ", 3) for line in told.read_text(encoding="utf-8").splitlines()]
    groups = ["default other", "last"] if mode == "internal" else ["default", "other", "last"]
    assert sorted(queues for queues, *_ in calls) == sorted(groups)
    return list(zip(*(call[1:] for call in calls), strict=True))

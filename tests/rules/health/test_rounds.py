"""Who decided OAR's rounds: what is read of the files, whatever stands there, and what is said."""

import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from oar_accounting.health import karma_findings, rounds
from oar_accounting.health.records import Rounds
from oar_accounting.health.state_directory import read_rounds, state_directory

NOW = 1_700_000_000
MINUTE, HOUR, DAY = 60, 3_600, 86_400
LOG = "/var/log/oar.log"


def line(ago: int, who: str = "service", reason: str = "") -> str:
    """What is appended for a round so many seconds ago."""
    return f"{NOW - ago} {who} 0.123 {reason}".rstrip() + "\n"


def of(*newer: str, older: tuple[str, ...] = ()) -> Rounds:
    """What became of the rounds of these lines."""
    return rounds.summary(list(rounds.read(older)), list(rounds.read(newer)), NOW)


def said(found: Rounds, waited: int | None = 0) -> tuple[str, str, str]:
    """What the doctor says of them: level, words, and the way out."""
    told = karma_findings.told(found, NOW, waited, LOG)
    assert told.subject == "rounds"
    return told.level, told.said, told.mend


# -- what is read -----------------------------------------------------------------------------


def test_a_line_is_a_round() -> None:
    (first, second) = rounds.read([line(0, "own", "no answer within 5 s"), line(1)])
    assert (first.at, first.who, first.reason) == (NOW, "own", "no answer within 5 s")
    assert not first.is_ours
    assert (second.reason, second.is_ours) == ("", True)


@pytest.mark.parametrize(
    "garbage",
    [
        *("", "\n", "\0\0\0\n", "17000", f"{NOW} ser", f"{NOW} service", f"{NOW} service x y\n"),
        *(f"{NOW} nobody 0.1\n", f" {NOW} own 0.1\n", f"-{NOW} own 0.1\n", f"{NOW}  own 0.1\n"),
        # A line that was cut, and the next one behind it.
        f"{NOW} service 0.{NOW} own 5.000 late\n",
        "99999999999999 own 0.1 beyond any calendar\n",
    ],
)
def test_what_a_crash_leaves_is_left_out(garbage: str) -> None:
    assert list(rounds.read([garbage])) == []
    assert of(line(2), garbage, line(1)).total == 2


@given(st.lists(st.text()))
def test_nothing_that_stands_there_is_an_error(lines: list[str]) -> None:
    assert of(*lines).total <= len(lines)


def test_the_last_day_counts_and_what_is_to_come_does_not() -> None:
    found = of(line(DAY + 1, "own"), line(DAY), line(HOUR, "library"), line(0), line(-5, "own"))
    assert (found.total, found.ours, found.missed, found.newest) == (3, 3, None, NOW)
    assert found.since == NOW - DAY


def test_who_decided_when_it_last_was_not_ours_and_why() -> None:
    missed = (line(50, "own", "first"), line(40, "last", "second"), line(20, "own", "third"))
    found = of(*missed[:2], line(30), missed[2], line(10))
    assert (found.total, found.ours, found.last_answer, found.own) == (5, 2, 1, 2)
    assert (found.missed, found.reason, found.missed_in_a_row) == (NOW - 20, "third", 0)
    assert of(line(20), line(10, "own"), line(5, "last")).missed_in_a_row == 2
    before = of(line(DAY + 7, "own"))
    assert (before.total, before.missed, before.newest) == (0, None, NOW - DAY - 7)


def test_the_file_before_counts_too_and_says_how_far_back_is_known() -> None:
    found = of(line(1), older=(line(5 * HOUR), line(9, "own")))
    assert (found.total, found.own, found.since) == (3, 1, NOW - 5 * HOUR)
    assert of(line(1), older=(line(3 * DAY), line(9))).since == NOW - DAY


def test_both_files_are_read_once_though_one_is_renamed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert read_rounds(tmp_path, NOW).newest is None
    newer, older = tmp_path / "rounds", tmp_path / "rounds.1"
    older.write_text(line(60, "own", "then"))
    newer.write_bytes(line(30).encode() + b"\xff\xfe\n" + line(20).encode())
    found = read_rounds(tmp_path, NOW)
    assert (found.total, found.ours, found.reason) == (3, 2, "then")
    # Between the opening of the one and of the other.
    older.unlink()
    os.link(newer, older)
    assert read_rounds(tmp_path, NOW).total == 2


def test_the_directory_is_where_the_environment_says() -> None:
    root = Path("/")
    assert state_directory(root, {}) == Path("/var/lib/oar-accounting")
    assert state_directory(root, {"OAR_ACCOUNTING_STATE": "/srv/state"}) == Path("/srv/state")


# -- what is said -----------------------------------------------------------------------------


def test_all_rounds_were_ours() -> None:
    found = of(*(line(60 * each, "library") for each in range(1_423, 0, -1)))
    assert said(found) == (
        "good",
        "our karma decided 1,423 of 1,423 rounds in the last 24 h",
        "",
    )


def test_some_were_not() -> None:
    lines = [line(60 * each) for each in range(1_420, 0, -1)]
    lines[-4] = line(4 * MINUTE, "last", "database is locked")
    lines[-3] = line(3 * MINUTE, "own", "no answer within 5 s")
    level, words, mend = said(of(*lines))
    assert (level, mend) == ("warning", "oar-accounting settings check")
    assert words == (
        "our karma decided 1,418 of 1,420 rounds in the last 24 h, the last answer that it gave 1, "
        "OAR's own order 1; the last time it did not was 3 minutes ago: no answer within 5 s"
    )


def test_an_answer_that_was_repeated_for_a_short_time_needs_no_attention() -> None:
    repeated = [line(each, "last", "No module named 'oar_accounting'") for each in range(60, 0, -1)]
    level, words, mend = said(of(line(HOUR), line(90), *repeated))
    assert (level, mend) == ("good", "")
    assert "the last answer that it gave 60; the last time it did not was 1 s ago: No mod" in words
    level, words, _ = said(of(line(HOUR), *repeated))
    assert (level, "and none of the last 60" in words) == ("bad", True)
    assert said(of(*repeated))[0] == "bad"


def test_a_reason_that_ends_with_a_command_is_the_way_out() -> None:
    reason = "metric 'gpu' is not recorded: oar-accounting rebuild --metric gpu"
    _, words, mend = said(of(line(20), line(10, "own", reason)))
    assert words.endswith("10 s ago: metric 'gpu' is not recorded")
    assert mend == "oar-accounting rebuild --metric gpu"


def test_none_of_late_were() -> None:
    lost = [line(60 * each, "own", "down") for each in range(12, 0, -1)]
    level, words, _ = said(of(line(HOUR), *lost))
    assert level == "bad"
    assert "decided 1 of 13 rounds in the last 24 h and none of the last 12, OAR's own" in words
    assert said(of(line(HOUR), *lost[:9]))[0] == "warning"
    level, words, _ = said(of(*lost[:2]))
    assert (level, "decided 0 of 2 rounds in the last 24 h, OAR's" in words) == ("bad", True)


def test_a_day_of_which_only_hours_are_known_is_not_said_to_be_one() -> None:
    _, words, _ = said(of(line(1), older=(line(5 * HOUR),)))
    assert words == "our karma decided 2 of 2 rounds in the last 5 hours"


def test_no_round_where_jobs_wait_is_told() -> None:
    level, words, mend = said(of(), 1_000)
    assert (level, words) == ("warning", "configured to decide, but no round was ever seen")
    assert mend == f"grep 'oar.accounting' {LOG} | tail"
    level, words, _ = said(of(line(2 * HOUR)), 1_000)
    assert (level, words) == (
        "warning",
        "configured to decide, but no round has been seen since 2023-11-14 20:13:20 UTC, 2 hours "
        "ago",
    )
    # OAR has just had a round, or a job that waits has only now come.
    assert said(of(line(5 * MINUTE)), 1_000)[0] == "good"
    assert said(of(line(2 * HOUR)), 60)[0] == "good"


def test_no_round_is_no_fault_where_no_job_waits() -> None:
    assert said(of(line(2 * DAY))) == (
        "good",
        "none in the last 24 h; no job has been waiting for one",
        "",
    )
    # It is not known whether one does.
    assert said(of(line(2 * DAY)), None)[0] == "warning"
    assert said(of(line(2 * HOUR)), None)[0] == "good"

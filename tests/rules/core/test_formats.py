"""What people read and type."""

import os
from decimal import ROUND_HALF_EVEN, Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from oar_accounting.core.formats import (
    date,
    exact_unit,
    exit_words,
    hour_unit,
    in_hours,
    printable,
)


@given(st.integers(-(2**63), 2**63 - 1), st.sampled_from([1, 7, 1000, 10**9]))
def test_hours_are_rounded_exactly(amount: int, scale: int) -> None:
    exact = (Decimal(amount) / (3600 * scale)).quantize(Decimal("0.1"), ROUND_HALF_EVEN)
    assert in_hours(amount, "core·s", scale) == f"{exact + 0:,}"


def test_units_go_with_the_amounts() -> None:
    assert hour_unit("core·s") == "core·h"
    assert (in_hours(1024 * 3600, "MiB·s", 1), hour_unit("MiB·s")) == ("1.0", "GiB·h")
    assert exact_unit("core·s", 1) == "core·s"
    assert exact_unit("core·s", 1000) == "core·s/1000"


def test_dates_beyond_the_calendar_are_shown_as_they_are() -> None:
    assert date(86400) == "1970-01-02 00:00:00 UTC"
    assert date(-1) == "1969-12-31 23:59:59 UTC"
    assert date(2**62) == str(2**62)


@pytest.mark.parametrize(
    ("code", "words"),
    [
        (0, "exit 0"),
        (256, "exit 1"),
        (768, "exit 3"),
        (137 << 8, "exit 137"),
        (0xFF00, "exit 255"),
        (9, "signal 9 (KILL)"),
        (15, "signal 15 (TERM)"),
        (11 | 0x80, "signal 11 (SEGV), core dumped"),
        (63, "signal 63"),
        # What no program ends with is told as it is.
        (-1, "code -1"),
        (0x80, "code 128"),
        (0x7F, "code 127"),
        (0x137F, "code 4991"),
        (768 | 9, "code 777"),
        (1 << 16, "code 65536"),
    ],
)
def test_exit_codes_are_told_as_the_system_means_them(code: int, words: str) -> None:
    assert exit_words(code) == words


@given(st.integers(0, (1 << 16) - 1))
def test_exit_codes_agree_with_what_python_makes_of_them(code: int) -> None:
    ended, number, *_ = exit_words(code).replace(",", "").split()
    if ended != "code":
        sign = -1 if ended == "signal" else 1
        assert os.waitstatus_to_exitcode(code) == sign * int(number)


@given(st.text())
def test_a_name_cannot_move_the_cursor(name: str) -> None:
    shown = printable(name)
    assert shown.isprintable()
    if name.isprintable():
        assert shown == name

"""What people read and type."""

from decimal import ROUND_HALF_EVEN, Decimal

from hypothesis import given
from hypothesis import strategies as st

from oar_accounting.core.formats import date, exact_unit, hour_unit, in_hours, printable


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
    assert date(86400) == "1970-01-02 00:00:00"
    assert date(-1) == "1969-12-31 23:59:59"
    assert date(2**62) == str(2**62)


@given(st.text())
def test_a_name_cannot_move_the_cursor(name: str) -> None:
    shown = printable(name)
    assert shown.isprintable()
    if name.isprintable():
        assert shown == name

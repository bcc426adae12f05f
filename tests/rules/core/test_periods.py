"""Periods as people say them, and buckets by the clocks of a zone, against counting on zoneinfo.

Epochs are calculated by hand: 2026 begins 56 * 365 + 14 = 20,454 days after 1970, a leap day for
each of 1972 to 2024. Within it March begins with day 59, April with day 90; Sunday 29 March is day
31 + 28 + 28 = 87, and Sunday 25 October day 273 + 24 = 297. Paris is an hour before UTC, two hours
between these Sundays: the clocks go from 02:00 to 03:00 at 01:00 UTC of the first, and from 03:00
to 02:00 at 01:00 UTC of the second.
"""

import time
from bisect import bisect_right
from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta, tzinfo
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Any

import click
import pytest
from click.testing import CliRunner, Result
from hypothesis import example, given, settings
from hypothesis import strategies as st

from oar_accounting import Accounting, BadSpan
from oar_accounting.cli.commands.report_options import bounds, form_options, period_options
from oar_accounting.cli.terminal.exits import told
from oar_accounting.core.periods import (
    BUCKETS,
    MOST_BUCKETS,
    check_bucket,
    cuts,
    instant,
    label,
    moment,
    period,
    shown,
    span_in_words,
    zone,
)
from oar_accounting.settings.load import load_settings
from tests.examples import examples
from tests.small_oar import Clock, stopped_clock

HOUR, DAY = 3_600, 86_400
Y2026 = 20_454 * DAY
#: When 2026 begins in Paris, and a time in it: Sunday 15 March, 12:00.
PARIS_2026 = Y2026 - HOUR
NOW = Y2026 + 73 * DAY + 11 * HOUR
#: Midnights in Paris: before the changes of the clocks, and after.
SPRING, AFTER_SPRING = Y2026 + 87 * DAY - HOUR, Y2026 + 88 * DAY - 2 * HOUR
AUTUMN, AFTER_AUTUMN = Y2026 + 297 * DAY - 2 * HOUR, Y2026 + 298 * DAY - HOUR
MARCH, APRIL = Y2026 + 59 * DAY - HOUR, Y2026 + 90 * DAY - 2 * HOUR

PARIS = zone("Europe/Paris")
APIA = zone("Pacific/Apia")
LORD_HOWE = zone("Australia/Lord_Howe")
KATHMANDU = zone("Asia/Kathmandu")
ST_JOHNS = zone("America/St_Johns")

ZONES = {
    "UTC": "no change",
    "Europe/Paris": "at 02:00 and 03:00",
    "America/New_York": "west of Greenwich",
    "America/Sao_Paulo": "midnight was skipped until 2018, and 23:00 came twice",
    "America/Havana": "midnight comes twice",
    "America/St_Johns": "at 00:01 until 2011, back into the day before",
    "Africa/Casablanca": "back for a month every year",
    "Africa/Monrovia": "44 minutes and 30 seconds behind until 1972",
    "Antarctica/Troll": "by two hours",
    "Asia/Kathmandu": "by 15 minutes in 1986",
    "Australia/Lord_Howe": "by 30 minutes",
    "Pacific/Apia": "2011-12-30 was skipped",
    "Pacific/Kwajalein": "a day was skipped in 1993",
}
LENGTHS = {"hour": HOUR, "day": DAY, "week": 7 * DAY, "month": 30 * DAY, "quarter": 91 * DAY}
LENGTHS |= {"year": 365 * DAY}


# -- zones ------------------------------------------------------------------------------------


def test_zones_have_iana_names() -> None:
    assert str(PARIS) == "Europe/Paris"
    assert zone("UTC") is UTC
    assert zone("Etc/GMT+1").utcoffset(datetime(2026, 1, 1)) == timedelta(hours=-1)  # noqa: DTZ001
    assert str(zone("America/Port-au-Prince")) == "America/Port-au-Prince"


@pytest.mark.parametrize(
    "name",
    [
        *("", " ", "../../etc/passwd", "/etc/passwd", "Europe/../../../../etc/passwd", "x" * 10**6),
        *("UT\0C", "UTC\n", "Europe", "europe/paris", "Europe/Lyon", "é", "\ud800", "+02:00"),
        *("a/" * 31 + "a", "right/Europe/Paris", "posix/UTC", "localtime", "leapseconds"),
    ],
)
def test_what_is_no_zone_is_told_in_one_line(name: str) -> None:
    with pytest.raises(
        BadSpan, match="is no time zone; expected a time zone like Europe/Paris or UTC"
    ) as caught:
        zone(name)
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) < 150


@given(st.text())
def test_a_zone_of_any_name_is_there_or_refused(name: str) -> None:
    try:
        assert zone(name).utcoffset(datetime(2026, 1, 1)) is not None  # noqa: DTZ001
    except BadSpan as error:
        assert str(error).isprintable()


# -- periods ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("said", "start", "stop"),
    [
        ("today", NOW - 12 * HOUR, NOW + 12 * HOUR),
        ("yesterday", NOW - 36 * HOUR, NOW - 12 * HOUR),
        # A Sunday, so that the week is about to end.
        ("this week", NOW - 12 * HOUR - 6 * DAY, NOW + 12 * HOUR),
        ("last week", NOW - 12 * HOUR - 13 * DAY, NOW - 12 * HOUR - 6 * DAY),
        ("this month", MARCH, APRIL),
        ("last month", MARCH - 28 * DAY, MARCH),
        ("this quarter", PARIS_2026, APRIL),
        ("last quarter", PARIS_2026 - 92 * DAY - HOUR, PARIS_2026),
        ("this year", PARIS_2026, PARIS_2026 + 365 * DAY),
        ("last year", PARIS_2026 - 365 * DAY, PARIS_2026),
        ("last 7 days", NOW - 12 * HOUR - 7 * DAY, NOW - 12 * HOUR),
        ("last 1 day", NOW - 36 * HOUR, NOW - 12 * HOUR),
        ("last 24 hours", NOW - DAY, NOW),
        ("last 2 months", PARIS_2026, MARCH),
        ("last 2 weeks", NOW - 12 * HOUR - 20 * DAY, NOW - 12 * HOUR - 6 * DAY),
        ("2026", PARIS_2026, PARIS_2026 + 365 * DAY),
        ("2024", PARIS_2026 - 731 * DAY, PARIS_2026 - 365 * DAY),
        ("1970", -HOUR, 365 * DAY - HOUR),
        ("2026-Q1", PARIS_2026, APRIL),
        ("2026-q4", Y2026 + 273 * DAY - 2 * HOUR, PARIS_2026 + 365 * DAY),
        ("2026-03", MARCH, APRIL),
        # The Monday of the first week is 29 December; week 10 begins with 2 March.
        ("2026-W01", PARIS_2026 - 3 * DAY, PARIS_2026 + 4 * DAY),
        ("2026-W10", MARCH + DAY, MARCH + 8 * DAY),
        ("2026-W53", PARIS_2026 + 361 * DAY, PARIS_2026 + 368 * DAY),
        ("1970-W01", -HOUR - 3 * DAY, -HOUR + 4 * DAY),
        ("2026-03-29", SPRING, SPRING + 23 * HOUR),
        ("2026-10-25", AUTUMN, AUTUMN + 25 * HOUR),
        ("2026-03-29T03", SPRING + 2 * HOUR, SPRING + 3 * HOUR),
        ("2026-10-25T02", AUTUMN + 2 * HOUR, AUTUMN + 3 * HOUR),
        ("2026-10-25 03", AUTUMN + 4 * HOUR, AUTUMN + 5 * HOUR),
        ("2026-01..2026-03", PARIS_2026, APRIL),
        ("2026-03..2026-03-29", MARCH, AFTER_SPRING),
        ("2026..now", PARIS_2026, NOW),
        ("last month..yesterday", MARCH - 28 * DAY, NOW - 12 * HOUR),
        ("  Last \t MONTH ", MARCH - 28 * DAY, MARCH),
        ("2026-01 .. 2026-w10", PARIS_2026, MARCH + 8 * DAY),
    ],
)
def test_a_period_is_what_people_mean(said: str, start: int, stop: int) -> None:
    assert period(said, PARIS, NOW) == (start, stop)
    assert instant(said, PARIS, NOW) == start if ".." not in said else True


def test_the_days_on_which_clocks_are_changed_are_as_calculated() -> None:
    assert (AFTER_SPRING - SPRING, AFTER_AUTUMN - AUTUMN) == (23 * HOUR, 25 * HOUR)
    assert datetime.fromtimestamp(SPRING, PARIS).isoformat() == "2026-03-29T00:00:00+01:00"
    assert datetime.fromtimestamp(AFTER_AUTUMN, PARIS).isoformat() == "2026-10-26T00:00:00+01:00"


@pytest.mark.parametrize(
    "said",
    [
        *(
            "",
            " ",
            "soon",
            "now",
            "last",
            "last days",
            "last 0 days",
            "last -1 days",
            "this 3 days",
        ),
        *("2026-13", "2026-00", "2026-02-30", "2026-Q5", "2026-Q0", "2026-W54", "2025-W53"),
        *("2026-W00", "2026-03-15T24", "2026-03-15T14:30", "202603", "20260315", "26-03"),
        *("2026-01..", "..2026-01", "..", "2026-01..2026-02..2026-03", "2026-01...2026-02"),
        *(
            "now..2026",
            "\u0662\u0660\u0662\u0666",
            "2026-03\n\0",
            "x" * 10**6,
            "last 10000000 days",
        ),
    ],
)
def test_what_is_no_period_is_told_with_examples(said: str) -> None:
    with pytest.raises(BadSpan, match="is no period; expected one like 'yesterday'") as caught:
        period(said, PARIS, NOW)
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) < 300


@pytest.mark.parametrize(
    "said", ["1969", "0001", "1969-12", "1969-w52", "last 60 years", "last 999999 hours"]
)
def test_years_before_1970_are_refused(said: str) -> None:
    with pytest.raises(BadSpan, match=f"'{said}' is outside of the years 1970 to 9999"):
        period(said, PARIS, NOW)


@pytest.mark.parametrize("name", ["UTC", "Europe/Paris", "Pacific/Kiritimati", "Etc/GMT+12"])
def test_the_last_year_has_an_end(name: str) -> None:
    tz = zone(name)
    start, stop = period("9999", tz, NOW)
    assert stop - start == 365 * DAY
    assert period("9999-12-31", tz, NOW) == (stop - DAY, stop)
    assert period("9999-12", tz, NOW) == (stop - 31 * DAY, stop)
    # 31 December is a Friday.
    assert period("9999-W52", tz, NOW) == (stop - 5 * DAY, stop + 2 * DAY)
    assert cuts(start, stop, "month", tz)[11:] == [stop - 31 * DAY, stop]
    assert label(stop - 1, "day", tz) == "9999-12-31"


def test_a_range_that_ends_before_it_begins_is_refused() -> None:
    with pytest.raises(BadSpan, match=r"'2026-03..2026-01' ends before it begins"):
        period("2026-03..2026-01", PARIS, NOW)


@pytest.mark.parametrize(
    ("said", "tz"), [("2026-03-29T02", PARIS), ("2011-12-30", APIA), ("2011-12-30T12", APIA)]
)
def test_what_the_clocks_skip_is_no_period(said: str, tz: tzinfo) -> None:
    with pytest.raises(BadSpan, match=f"'{said}' is no period in {tz}: the clocks were moved past"):
        period(said, tz, NOW)


def test_days_beside_the_skipped_one_are_whole() -> None:
    (_, end), (begin, _) = (period(f"2011-12-{day}", APIA, NOW) for day in (29, 31))
    assert end == begin
    assert period("2011-12", APIA, NOW)[1] - period("2011-12", APIA, NOW)[0] == 30 * DAY


def test_a_period_goes_by_the_day_that_it_is_there() -> None:
    midnight = PARIS_2026
    assert period("this year", PARIS, midnight)[0] == midnight
    assert period("this year", PARIS, midnight - 1)[1] == midnight
    assert period("this year", UTC, midnight)[1] == Y2026
    assert period("yesterday", PARIS, AFTER_SPRING) == (SPRING, AFTER_SPRING)
    assert period("last 24 hours", PARIS, AFTER_SPRING)[0] == SPRING - HOUR


@pytest.mark.parametrize("now", [2**40, -(2**40), 2**70, -(2**70)])
def test_a_clock_beyond_the_calendar_is_told(now: int) -> None:
    for said in ("today", "last 3 days"):
        with pytest.raises(BadSpan, match=f"{now} is beyond the calendar"):
            period(said, PARIS, now)


# -- instants ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("said", "seconds"),
    [
        ("0", 0),
        ("17", 17),
        (" -86400 ", -86_400),
        ("1969", 1_969),
        ("10000", 10_000),
        (str(NOW), NOW),
        ("now", NOW),
        ("NOW", NOW),
        ("1970", -HOUR),
        ("2026-03", MARCH),
        ("2026-03-15T12:00", NOW),
        ("2026-03-15 12", NOW),
        ("2026-03-15t11:00z", NOW),
        ("2026-03-15T16:30:00+05:30", NOW),
        ("2026-03-15T12:00:00.999", NOW),
        ("2026-W10", MARCH + DAY),
        ("2026-W10-2", MARCH + 2 * DAY),
        # Skipped: as much later as the clocks are moved.
        ("2026-03-29T02:00", SPRING + 2 * HOUR),
        ("2026-03-29T02:30", SPRING + 2 * HOUR + HOUR // 2),
        ("2026-03-29T03:30", SPRING + 2 * HOUR + HOUR // 2),
        # Comes twice: the first; an offset says which.
        ("2026-10-25T02:30", AUTUMN + 2 * HOUR + HOUR // 2),
        ("2026-10-25T02:30+02:00", AUTUMN + 2 * HOUR + HOUR // 2),
        ("2026-10-25T02:30+01:00", AUTUMN + 3 * HOUR + HOUR // 2),
    ],
)
def test_an_instant_is_a_number_a_time_or_the_begin_of_a_period(said: str, seconds: int) -> None:
    assert instant(said, PARIS, NOW) == seconds


def test_a_skipped_day_begins_with_the_next() -> None:
    assert instant("2011-12-30", APIA, NOW) == instant("2011-12-31", APIA, NOW)


@pytest.mark.parametrize("said", ["", "soon", "1e5", "1_000", "--3", "2026-13-01", "2026..2027"])
def test_what_is_no_time_is_told_with_examples(said: str) -> None:
    with pytest.raises(BadSpan, match=r"is no time; expected a date like .*, epoch seconds, 'now'"):
        instant(said, PARIS, NOW)


@pytest.mark.parametrize(
    ("said", "why"),
    [
        ("20260315", "is a date or a number of seconds; write a date like 2026-03-01"),
        (str(2**62), "is beyond any calendar"),
        ("9" * 99, "is beyond any calendar"),
        ("0026-03-15", "is outside of the years"),
        ("0026-03-15T12:00", "is outside of the years"),
    ],
)
def test_what_can_only_be_a_mistake_is_refused(said: str, why: str) -> None:
    with pytest.raises(BadSpan, match=why):
        instant(said, PARIS, NOW)


def test_the_form_for_files_has_no_words_and_reads_years_as_seconds() -> None:
    assert moment("2026-03-15T12:00", PARIS) == NOW
    assert moment("2026", PARIS) == 2026 == moment("2026", UTC)
    assert moment("yesterday", PARIS) is moment("now", PARIS) is moment("2026-03", PARIS) is None
    assert moment("2026-03-15T11:00", UTC) == NOW
    assert [moment(said, UTC) for said in ("0", "-86400", "1970-01-02")] == [0, -DAY, DAY]
    assert moment("1970-01-01T01:00+01:00", PARIS) == 0
    assert [moment(said, UTC) for said in ("", "2026-13-01", "1e5")] == [None] * 3


@pytest.mark.parametrize(
    ("start", "stop", "zone_name", "words"),
    [
        (None, None, "UTC", "all that is recorded, UTC"),
        (MARCH, None, "Europe/Paris", "from 2026-03-01 00:00 on, Europe/Paris"),
        (None, MARCH, "UTC", "before 2026-02-28 23:00, UTC"),
        (MARCH, APRIL, "Europe/Paris", "2026-03-01 00:00 to before 2026-04-01 00:00, Europe/Paris"),
        (
            *(AUTUMN + 2 * HOUR, AUTUMN + 3 * HOUR + 1, "Europe/Paris"),
            "2026-10-25 02:00 to before 2026-10-25 02:00:01+01:00, Europe/Paris",
        ),
        (0, 2**61, "UTC", f"1970-01-01 00:00 to before {2**61}, UTC"),
    ],
)
def test_a_span_is_said_in_words(
    start: int | None, stop: int | None, zone_name: str, words: str
) -> None:
    assert span_in_words(start, stop, zone(zone_name)) == words


@given(
    st.tuples(st.integers(0, 2**33), st.integers(0, 2**33)),
    st.sampled_from(["UTC", "Europe/Paris", "America/Sao_Paulo", "Asia/Kathmandu"]),
)
@example((AUTUMN + 2 * HOUR + 1800, AUTUMN + 3 * HOUR + 1800), "Europe/Paris")
def test_the_words_of_a_span_mean_the_same_span(span: tuple[int, int], zone_name: str) -> None:
    """Typed again, they are read as the instants that they were made of."""
    tz = zone(zone_name)
    words = span_in_words(*span, tz).removesuffix(f", {zone_name}")
    assert tuple(moment(each, tz) for each in words.split(" to before ")) == span


WORDS = st.lists(
    st.sampled_from(
        (
            *("this", "last", "now", "today", "month", "days", "hours", "..", "-", " ", "t", "q"),
            *("w", ":", "+", "Z", "2026", "9999", "0000", "02", "03", "29", "1", "5"),
            *("\0", "\n", "é", "\ud800"),
        )
    ),
    max_size=9,
).map("".join)


@settings(max_examples=examples(300))
@given(st.one_of(st.text(), WORDS), st.sampled_from(sorted(ZONES)))
def test_whatever_is_said_is_a_span_or_told_in_one_line(said: str, name: str) -> None:
    tz = zone(name)
    for reads in (instant, period):
        try:
            found = reads(said, tz, NOW)
        except BadSpan as error:
            assert str(error).isprintable()
            assert len(str(error)) < 600
        else:
            assert isinstance(found, int) or found[0] < found[1]


@given(st.integers(-(2**62) + 1, 2**62 - 1), st.sampled_from(sorted(ZONES)))
def test_epoch_seconds_are_taken_as_they_are(seconds: int, name: str) -> None:
    if not 1970 <= seconds <= 9999 and not 19_700_101 <= seconds <= 99_991_231:
        assert instant(str(seconds), zone(name), NOW) == seconds


# -- what time is cut into --------------------------------------------------------------------


def lengths(start: int, stop: int, bucket: str | int, tz: tzinfo) -> list[int]:
    return [end - begin for begin, end in pairwise(cuts(start, stop, bucket, tz))]


def labels(start: int, stop: int, bucket: str | int, tz: tzinfo) -> list[str]:
    return [label(begin, bucket, tz) for begin in cuts(start, stop, bucket, tz)[:-1]]


def test_days_have_the_hours_that_the_clocks_give_them() -> None:
    start, stop = SPRING - DAY, AFTER_SPRING + DAY
    assert cuts(start, stop, "day", PARIS) == [start, SPRING, AFTER_SPRING, stop]
    start, stop = AUTUMN - DAY, AFTER_AUTUMN + DAY
    assert lengths(start, stop, "day", PARIS) == [DAY, 25 * HOUR, DAY]


def test_both_ends_may_be_cut_short() -> None:
    assert cuts(NOW, NOW + 1, "year", PARIS) == [NOW, NOW + 1]
    assert cuts(MARCH - 5, APRIL + 5, "month", PARIS) == [MARCH - 5, MARCH, APRIL, APRIL + 5]
    assert labels(MARCH - 5, APRIL + 5, "month", PARIS) == ["2026-02", "2026-03", "2026-04"]
    assert cuts(MARCH, APRIL, "month", PARIS) == [MARCH, APRIL]


def test_hours_that_come_twice_are_two() -> None:
    assert lengths(AUTUMN, AFTER_AUTUMN, "hour", PARIS) == [HOUR] * 25
    assert lengths(SPRING, AFTER_SPRING, "hour", PARIS) == [HOUR] * 23
    assert labels(AUTUMN, AFTER_AUTUMN, "hour", PARIS)[1:5] == [
        "2026-10-25 01:00+02:00",
        "2026-10-25 02:00+02:00",
        "2026-10-25 02:00+01:00",
        "2026-10-25 03:00+01:00",
    ]
    assert labels(SPRING, AFTER_SPRING, "hour", PARIS)[1:3] == [
        "2026-03-29 01:00+01:00",
        "2026-03-29 03:00+02:00",
    ]


def test_hours_are_full_where_the_clocks_show_it() -> None:
    quarter = HOUR // 4
    found = cuts(Y2026, Y2026 + 2 * HOUR, "hour", KATHMANDU)
    assert found == [Y2026, Y2026 + quarter, Y2026 + HOUR + quarter, Y2026 + 2 * HOUR]
    assert label(found[1], "hour", KATHMANDU) == "2026-01-01 06:00+05:45"
    assert label(found[0], "hour", KATHMANDU) == "2026-01-01 05:00+05:45"


def test_a_change_by_half_an_hour_cuts_an_hour_in_two() -> None:
    start, stop = period("2026-04-05", LORD_HOWE, NOW)
    assert lengths(start, stop, "hour", LORD_HOWE)[:4] == [HOUR, HOUR, HOUR // 2, HOUR]
    assert labels(start, stop, "hour", LORD_HOWE)[1:4] == [
        "2026-04-05 01:00+11:00",
        "2026-04-05 01:00+10:30",
        "2026-04-05 02:00+10:30",
    ]
    start, stop = period("2026-10-04", LORD_HOWE, NOW)
    assert lengths(start, stop, "hour", LORD_HOWE)[:4] == [HOUR, HOUR, HOUR // 2, HOUR]
    assert labels(start, stop, "hour", LORD_HOWE)[1:4] == [
        "2026-10-04 01:00+10:30",
        "2026-10-04 02:00+11:00",
        "2026-10-04 03:00+11:00",
    ]


def test_a_day_goes_on_while_the_clocks_show_the_day_before_again() -> None:
    """At 00:01 of 30 October 2005 they went back to 23:01."""
    start, stop = period("2005-10-30", ST_JOHNS, NOW)
    assert stop - start == 25 * HOUR
    assert {label(start + minute * 60, "day", ST_JOHNS) for minute in range(1500)} == {"2005-10-30"}
    assert labels(start - 1, start + HOUR + 1, "hour", ST_JOHNS) == [
        "2005-10-29 23:00-02:30",
        "2005-10-30 00:00-02:30",
        "2005-10-29 23:00-03:30",
        "2005-10-30 00:00-03:30",
    ]


def test_buckets_of_seconds_are_multiples_of_them_in_any_zone() -> None:
    assert cuts(-3, 17, 10, PARIS) == [-3, 0, 10, 17]
    assert cuts(0, 20, 10, PARIS) == [0, 10, 20]
    assert cuts(11, 12, 10, PARIS) == [11, 12]
    assert label(AUTUMN + 3 * HOUR, 10, PARIS) == "2026-10-25 02:00:00+01:00"


@pytest.mark.parametrize(
    ("start", "bucket", "named"),
    [
        (NOW, "year", "2026"),
        (NOW, "quarter", "2026-Q1"),
        (APRIL, "quarter", "2026-Q2"),
        (PARIS_2026 - 1, "quarter", "2025-Q4"),
        (NOW, "month", "2026-03"),
        (NOW, "week", "2026-W11"),
        (PARIS_2026 - 1, "week", "2026-W01"),
        (PARIS_2026 + 366 * DAY, "week", "2026-W53"),
        (SPRING, "day", "2026-03-29"),
        (SPRING - 1, "day", "2026-03-28"),
        (NOW + 1, "hour", "2026-03-15 12:00+01:00"),
        (NOW + 1, 60, "2026-03-15 12:00:01+01:00"),
    ],
)
def test_a_bucket_is_called_as_people_call_it(start: int, bucket: str | int, named: str) -> None:
    assert label(start, bucket, PARIS) == named


def test_what_is_shown_says_in_which_zone() -> None:
    assert shown(AUTUMN + 3 * HOUR - 1, PARIS) == "2026-10-25 02:59:59 CEST"
    assert shown(AUTUMN + 3 * HOUR, PARIS) == "2026-10-25 02:00:00 CET"
    assert shown(Y2026, KATHMANDU) == "2026-01-01 05:45:00 +05:45"
    assert shown(Y2026, UTC) == "2026-01-01 00:00:00 UTC"
    assert shown(2**62, PARIS) == str(2**62)


@pytest.mark.parametrize("bucket", ["decade", "Day", "", "x" * 10**6, 0, -1, True, 1.5, None])
def test_an_unknown_bucket_is_told_with_those_there_are(bucket: Any) -> None:
    for call in (
        lambda: check_bucket(bucket),
        lambda: cuts(0, DAY, bucket, UTC),
        lambda: label(0, bucket, UTC),
    ):
        with pytest.raises(BadSpan, match="expected one of hour, day, week, month, quarter, year"):
            call()


@pytest.mark.parametrize("stop", [5, 4, -(2**70)])
def test_an_empty_span_is_not_cut(stop: int) -> None:
    for bucket in ("hour", "year", 7):
        with pytest.raises(BadSpan, match=f"the span from 5 to {stop} is empty"):
            cuts(5, stop, bucket, UTC)


def test_so_many_buckets_and_no_more() -> None:
    assert len(cuts(0, MOST_BUCKETS, 1, UTC)) == MOST_BUCKETS + 1
    for start, stop, bucket in (
        (0, MOST_BUCKETS + 1, 1),
        (-1, 10**9, 1_000),
        (0, 2**70, 1),
        (0, MOST_BUCKETS * HOUR + 1, "hour"),
        (0, MOST_BUCKETS * DAY + 1, "day"),
    ):
        with pytest.raises(BadSpan, match=r"1,000,000 at most are made; choose longer ones"):
            cuts(start, stop, bucket, UTC)


def test_what_no_calendar_has_is_not_cut_by_one() -> None:
    for start, stop in ((0, 2**62), (-(2**62), 0)):
        with pytest.raises(BadSpan, match="is beyond the calendar"):
            cuts(start, stop, "year", PARIS)
        with pytest.raises(BadSpan, match="is beyond the calendar"):
            label(start or stop, "month", PARIS)
    assert cuts(0, 2**62, 2**61, PARIS) == [0, 2**61, 2**62]


@pytest.mark.parametrize("bucket", ["hour", "day", 1])
def test_many_buckets_are_quick(bucket: str | int) -> None:
    """A third of a second; ten times of it are allowed to a machine that does other things."""
    length = bucket if isinstance(bucket, int) else LENGTHS[bucket]
    began = time.process_time()
    assert len(cuts(0, 100_000 * length, bucket, PARIS)) >= 100_000
    assert time.process_time() - began < 5


# -- laws -------------------------------------------------------------------------------------


def offset(at: int, tz: tzinfo) -> timedelta | None:
    return datetime.fromtimestamp(at, tz).utcoffset()


@cache
def changes(name: str) -> list[int]:
    """Instants within half a day after a change of the clocks, from 1970 to 2030."""
    tz = zone(name)
    steps = range(0, 60 * 365 * DAY, DAY // 2)
    return [b for a, b in pairwise(steps) if offset(a, tz) != offset(b, tz)]


@st.composite
def instants(draw: st.DrawFn, name: str) -> int:
    """Of the years that matter, often about a change of the clocks."""
    about = changes(name)
    if draw(st.booleans()) and about:
        return draw(st.sampled_from(about)) + draw(st.integers(-DAY, DAY))
    return draw(st.integers(-DAY, 2**32))


@st.composite
def questions(draw: st.DrawFn, most: int = 30) -> tuple[str, str, int, int]:
    """A zone, a kind of bucket, and a span of not many of them."""
    name = draw(st.sampled_from(sorted(ZONES)))
    bucket = draw(st.sampled_from(BUCKETS))
    start = draw(instants(name))
    return name, bucket, start, start + draw(st.integers(1, most * LENGTHS[bucket]))


@settings(max_examples=examples(200))
@given(questions())
@example(("America/St_Johns", "day", 1_130_635_800, 1_130_900_000))
def test_bounds_ascend_and_each_bucket_has_a_name_of_its_own(
    question: tuple[str, str, int, int],
) -> None:
    name, bucket, start, stop = question
    found = cuts(start, stop, bucket, zone(name))
    assert found == sorted(set(found))
    assert (found[0], found[-1]) == (start, stop)
    named = [label(begin, bucket, zone(name)) for begin in found[:-1]]
    assert len(set(named)) == len(named)
    longest = {"hour": HOUR, "day": 26 * HOUR, "week": 7 * DAY + 2 * HOUR, "month": 32 * DAY}
    assert max(b - a for a, b in pairwise(found)) <= longest.get(bucket, 367 * DAY)


@settings(max_examples=examples(200))
@given(questions(), st.data())
def test_every_instant_is_called_as_the_one_bucket_it_lies_in(
    question: tuple[str, str, int, int], data: st.DataObject
) -> None:
    name, bucket, start, stop = question
    found = cuts(start, stop, bucket, zone(name))
    at = data.draw(st.integers(start, stop - 1))
    begin = found[bisect_right(found, at) - 1]
    assert label(at, bucket, zone(name)) == label(begin, bucket, zone(name))


@settings(max_examples=examples(200))
@given(questions(), st.data(), st.sampled_from([0, 0, 1, 977, HOUR, 3 * DAY]))
def test_a_span_has_the_bounds_of_its_parts(
    question: tuple[str, str, int, int], data: st.DataObject, seconds: int
) -> None:
    name, kind, start, stop = question
    bucket = max(seconds, (stop - start) // 50) if seconds else kind
    whole = cuts(start, stop, bucket, zone(name))
    middle = data.draw(st.one_of(st.integers(start, stop), st.sampled_from(whole)))
    if start < middle < stop:
        first, second = (
            cuts(*each, bucket, zone(name)) for each in ((start, middle), (middle, stop))
        )
        assert sorted({*whole, middle}) == [*first[:-1], *second]


@settings(max_examples=examples(100))
@given(questions())
def test_a_name_says_which_bucket_it_is(question: tuple[str, str, int, int]) -> None:
    name, bucket, start, stop = question
    for begin, end in list(pairwise(cuts(start, stop, bucket, zone(name))))[1:-1]:
        named = label(begin, bucket, zone(name))
        if named < "1970":
            continue
        if bucket != "hour":
            assert period(named, zone(name), NOW) == (begin, end)
            assert instant(named, zone(name), NOW) == begin
        elif named.startswith(datetime.fromtimestamp(begin, zone(name)).isoformat(" ")[:16]):
            assert instant(named, zone(name), NOW) == begin


@pytest.mark.parametrize("name", sorted(ZONES))
def test_months_are_days_and_years_are_months(name: str) -> None:
    tz = zone(name)
    for year in (*range(1970, 1973), 1986, 1993, 2005, 2011, 2018, 2026):
        start, stop = period(str(year), tz, NOW)
        nested = [
            set(cuts(start, stop, bucket, tz))
            for bucket in ("year", "quarter", "month", "day", "hour")
        ]
        assert all(few <= many for few, many in pairwise(nested))
        assert nested[4] >= set(cuts(start, stop, "week", tz)) <= nested[3]
        months = [period(f"{year}-{month:02}", tz, NOW) for month in range(1, 13)]
        assert [each for each, _ in months] + [stop] == sorted(nested[2])
        assert sum(b - a for a, b in months) == stop - start
        skipped = (name, year) in {("Pacific/Apia", 2011), ("Pacific/Kwajalein", 1993)}
        assert len(nested[3]) - 1 == 365 + (year % 4 == 0) - skipped


def counted(start: int, stop: int, bucket: str, tz: tzinfo, step: int) -> Iterator[int]:
    """The bounds within a span, by looking at the clocks every few seconds.

    The clocks may go back into the day before; that does not begin again.
    """
    latest = datetime.fromtimestamp(start - 2 * DAY, tz).replace(tzinfo=None)
    began: object = None
    for at in range(start - 2 * DAY, stop, step):
        local = datetime.fromtimestamp(at, tz)
        latest = max(latest, local.replace(tzinfo=None))
        this = latest.date()
        key = {
            "hour": f"{local:%Y-%m-%d %H%z}",
            "day": this,
            "week": this.isocalendar()[:2],
            "month": (this.year, this.month),
            "quarter": (this.year, (this.month - 1) // 3),
            "year": this.year,
        }[bucket]
        if key != began and began is not None and start < at < stop:
            yield at
        began = key


@settings(max_examples=examples(60))
@given(st.data())
def test_bounds_are_where_the_clocks_show_them(data: st.DataObject) -> None:
    name = data.draw(st.sampled_from(sorted(ZONES)))
    bucket = data.draw(st.sampled_from(BUCKETS))
    # No zone has had offsets of less than half a minute since 1970.
    step = 30
    start = data.draw(instants(name)) // step * step
    stop = start + data.draw(st.integers(1, 3 * DAY // step)) * step
    tz = zone(name)
    assert cuts(start, stop, bucket, tz) == [start, *counted(start, stop, bucket, tz, step), stop]


@given(st.dates(date(1970, 1, 1), date(9999, 12, 31)))
def test_in_utc_days_are_what_the_calendar_says(day: date) -> None:
    start = (day - date(1970, 1, 1)).days * DAY
    assert period(day.isoformat(), UTC, NOW) == (start, start + DAY)
    assert label(start, "day", UTC) == day.isoformat()
    year, week, _ = day.isocalendar()
    assert label(start, "week", UTC) == f"{year:04}-W{week:02}"
    assert label(start, "month", UTC) == f"{day:%Y-%m}"
    assert label(start, "quarter", UTC) == f"{day.year}-Q{-(-day.month // 3)}"


# -- the verbs and the command line -----------------------------------------------------------


@pytest.fixture
def clock() -> Iterator[Clock]:
    with stopped_clock() as stopped:
        stopped.now = NOW
        yield stopped


@pytest.fixture
def accounting(tmp_path: Path, clock: Clock) -> Iterator[Accounting]:
    """One of a site in Paris, on 15 March 2026."""
    assert clock.now == NOW
    config = tmp_path / "accounting.toml"
    config.write_text('timezone = "Europe/Paris"\n', encoding="utf-8")
    with Accounting(
        load_settings(config=config, url=f"sqlite:///{tmp_path}/oar.db", environ={})
    ) as opened:
        yield opened


def test_the_verbs_go_by_the_zone_of_the_settings(accounting: Accounting) -> None:
    assert accounting.period("last month") == (MARCH - 28 * DAY, MARCH)
    assert accounting.period("2026", "UTC") == (Y2026, Y2026 + 365 * DAY)
    assert accounting.instant("2026-03-15T12:00") == NOW == accounting.instant("now")
    assert accounting.instant("2026-03-15T12:00", "UTC") == NOW + HOUR
    with pytest.raises(BadSpan, match="'Mars' is no time zone"):
        accounting.period("today", "Mars")


def run(accounting: Accounting, *words: str) -> Result:
    """A report that says which options it was given."""

    @click.command
    @click.option("--metric")
    @period_options
    @form_options
    def report(form: str | None, **given: Any) -> None:
        with told(debug=False):
            click.echo(f"{form} {bounds(accounting, given)} {given}")

    return CliRunner().invoke(report, words)


@pytest.mark.parametrize(
    ("words", "form", "found"),
    [
        ([], None, (None, None, None)),
        (["--period", "last month", "--json"], "json", (MARCH - 28 * DAY, MARCH, None)),
        (["-p", "2026-03", "--timezone", "UTC"], None, (MARCH + HOUR, APRIL + 2 * HOUR, "UTC")),
        (["--from", "2026-03", "--to", "2026-04", "--csv"], "csv", (MARCH, APRIL, None)),
        (["--from", "yesterday"], None, (NOW - 36 * HOUR, None, None)),
        (["--to", "now"], None, (None, NOW, None)),
        (["--timezone", "Asia/Kathmandu"], None, (None, None, "Asia/Kathmandu")),
    ],
)
def test_reports_share_their_options(
    accounting: Accounting,
    words: list[str],
    form: str | None,
    found: tuple[int | None, int | None, str | None],
) -> None:
    done = run(accounting, *words)
    named = dict(zip(("start", "stop", "timezone"), found, strict=True))
    assert (done.output, done.exit_code) == (f"{form} {named} {{'metric': None}}\n", 0)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--period", "2026", "--from", "2026"], "--from and --to do not go with it"),
        (["--period", "2026", "--to", "2026"], "--from and --to do not go with it"),
        (["--period", "soon"], "'soon' is no period; expected one like"),
        (["--from", "soon"], "'soon' is no time; expected a date"),
        (["--timezone", "Mars"], "'Mars' is no time zone"),
        (["--timezone", ""], "'' is no time zone"),
        (["--period", "today", "--timezone", "../../etc/passwd"], "is no time zone"),
    ],
)
def test_wrong_options_end_with_2(accounting: Accounting, words: list[str], said: str) -> None:
    done = run(accounting, *words)
    assert done.exit_code == 2
    assert said in done.output
    assert done.output.count("\n") == 1

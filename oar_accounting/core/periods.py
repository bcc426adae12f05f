"""Time as people say it: zones, days and months, "last month", and what time is cut into. Pure.

Times are epoch seconds UTC, spans are half-open. Days, weeks, months, quarters and years are those
of the clocks of a zone: a day has 23 or 25 hours when they are changed. Two things follow:

* A bucket begins the first time that the clocks show its first second, or at the change that skips
  it. A day or an hour that is skipped as a whole is empty, and no bucket.
* A time that people say, and that comes twice, is the first of the two; one that is skipped is as
  much later as the clocks are moved: 02:30 becomes 03:30.

A *wall* here is what the clocks show: the seconds since their own 1970-01-01 00:00.
"""

import re
from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta, timezone, tzinfo
from itertools import pairwise

from oar_accounting.core.lengths import DAY, HOUR
from oar_accounting.errors import BadSpan

#: What a span can be cut into, beside numbers of seconds. Weeks are those of ISO 8601.
BUCKETS = ("hour", "day", "week", "month", "quarter", "year")

#: So many buckets at most are made of a span.
MOST_BUCKETS = 1_000_000

#: Periods as they are shown in errors.
EXAMPLES = (
    "'yesterday', 'last month', 'last 7 days', '2026', '2026-Q1', '2026-03', '2026-W10', "
    "'2026-03-15', '2026-03-15T14' or '2026-01..2026-03'"
)

LONGEST_ZONE = 64
_ZONE = re.compile(r"[A-Za-z][A-Za-z0-9_+-]*(?:/[A-Za-z0-9_+-]+)*")
#: Not of IANA: the zones of "right" count leap seconds, and others differ between machines.
_NO_ZONES = {"Factory", "localtime", "posix", "posixrules", "right"}

_MONTHS = {"month": 1, "quarter": 3, "year": 12}
#: Days, and years, after which the calendar repeats.
_CYCLE_DAYS, _CYCLE_YEARS = 146_097, 400
_FIRST_ORDINAL = date(1970, 1, 1).toordinal()
#: The days of the week of 1970-01-01, a Thursday, that are before it.
_DAYS_OF_1969 = 3
_FIRST_TIME = datetime(1970, 1, 1)  # noqa: DTZ001 - of no zone: walls count from it
_SECOND = timedelta(seconds=1)

#: Walls of which buckets are made: the years 1000 to 9999, as far as `date` goes.
_EARLIEST, _LATEST = -30_610_224_000, 253_402_300_800
#: Python's time ends with 9999 in UTC; offsets of the last days are those of the days before.
_LAST_OFFSET = _LATEST - 2 * DAY

_WHOLE = re.compile(r"[+-]?[0-9]+")
_YEAR = r"(?:19[7-9][0-9]|[2-9][0-9]{3})"
#: Whole numbers of a year, and of a date.
_BARE_YEAR = re.compile(_YEAR)
_BARE_DATE = re.compile(_YEAR + r"(?:0[1-9]|1[0-2])(?:0[1-9]|[12][0-9]|3[01])")
_RELATIVE = re.compile(r"(this|last) (day|week|month|quarter|year)")
_LAST_FEW = re.compile(r"last ([1-9][0-9]{0,6}) (hour|day|week|month|quarter|year)s?")
_NAMED = {
    "year": re.compile(r"([0-9]{4})"),
    "quarter": re.compile(r"([0-9]{4})-?q([1-4])"),
    "month": re.compile(r"([0-9]{4})-([0-9]{2})"),
    "week": re.compile(r"([0-9]{4})-?w([0-9]{1,2})"),
    "day": re.compile(r"([0-9]{4})-([0-9]{2})-([0-9]{2})"),
    "hour": re.compile(r"([0-9]{4})-([0-9]{2})-([0-9]{2})[t ]([0-9]{2})"),
}
#: What is no longer than this may be a time.
_LONGEST = 100


def zone(name: str) -> tzinfo:
    """The time zone of an IANA name, like Europe/Paris. Raises :class:`BadSpan`.

    "UTC" needs no database of zones.
    """
    if name == "UTC":
        return UTC
    # Few commands need zones, and all would wait for what reads them.
    from zoneinfo import ZoneInfo

    try:
        known = len(name) <= LONGEST_ZONE and _ZONE.fullmatch(name)
        if not known or name.partition("/")[0] in _NO_ZONES:
            raise ValueError(name)
        return ZoneInfo(name)
    # A directory of zones, like "Europe", cannot be read.
    except (KeyError, ValueError, OSError):
        raise BadSpan(
            f"{_short(name)} is no time zone; expected a time zone like Europe/Paris or UTC"
        ) from None


# -- what people say --------------------------------------------------------------------------


def moment(said: str, tz: tzinfo) -> int | None:
    """Epoch seconds from a whole number of them or an ISO date or time; None for anything else.

    What has no offset is in *tz*. Fractions of a second are dropped. Raises :class:`BadSpan` for
    a number that is no time.
    """
    words = _words(said)
    if _WHOLE.fullmatch(words):
        return _whole(words)
    return _iso(words, tz)


def instant(said: str, tz: tzinfo, now: int) -> int:
    """Epoch seconds from `moment`'s forms, "now", or a `period`, of which it is the begin.

    A number of four digits is a year from 1970 on, else seconds; one that might be a date, like
    20260301, is refused. *now*, epoch seconds, is what "yesterday" goes by. Raises
    :class:`BadSpan`.
    """
    words = _words(said)
    if words == "now":
        return now
    if _BARE_DATE.fullmatch(words):
        raise BadSpan(f"{words} is a date or a number of seconds; write a date like 2026-03-01")
    if _WHOLE.fullmatch(words) and not _BARE_YEAR.fullmatch(words):
        return _whole(words)
    if (span := _span(words, tz, now)) is not None:
        return span[0]
    seconds = _iso(words, tz)
    if seconds is None:
        raise BadSpan(
            f"{_short(said)} is no time; expected a date like 2026-03-01, a time like "
            "2026-03-01T12:00, epoch seconds, 'now', or what a period begins with, like "
            "'yesterday', 'last month', 2026-03 or 2026-W10"
        )
    # 1970 begins up to a day earlier east of Greenwich.
    if seconds < -DAY:
        raise _outside(said)
    return seconds


def period(said: str, tz: tzinfo, now: int) -> tuple[int, int]:
    """The half-open span that people mean by a day, week, month ..., by the last few, or a range.

    "last 7 days" are the whole ones before today, "last 24 hours" end *now*, in epoch seconds. What
    is not over, like "this month", is meant as a whole. To a range belong both of its ends:
    ``2026-01..2026-03`` is a quarter; "now" may end it. Raises :class:`BadSpan`, also for a day or
    an hour that the clocks skipped.
    """
    words = _words(said)
    first, dots, last = (part.strip() for part in words.partition(".."))
    begin = _span(first, tz, now)
    end = begin if not dots else (now, now) if last == "now" else _span(last, tz, now)
    if begin is None or end is None:
        raise BadSpan(f"{_short(said)} is no period; expected one like {EXAMPLES}")
    start, stop = begin[0], end[1]
    if start >= stop and dots:
        raise BadSpan(f"{_short(said)} ends before it begins; expected one like 2026-01..2026-03")
    if start >= stop:
        raise BadSpan(f"{_short(said)} is no period in {tz}: the clocks were moved past it")
    return start, stop


def _words(said: str) -> str:
    """In small letters, without surplus blanks; "" for what is too long to be a time."""
    return " ".join(said.lower().split()) if len(said) <= _LONGEST else ""


def _whole(words: str) -> int:
    seconds = int(words)
    if abs(seconds) >= 2**62:
        raise BadSpan(f"{words} is beyond any calendar; epoch seconds were expected")
    return seconds


def _iso(words: str, tz: tzinfo) -> int | None:
    try:
        found = datetime.fromisoformat(words.upper())
    except ValueError:
        return None
    given = found if found.tzinfo else found.replace(tzinfo=tz)
    return (given - _FIRST_TIME.replace(tzinfo=UTC)) // _SECOND


def _span(words: str, tz: tzinfo, now: int) -> tuple[int, int] | None:
    """A period that is no range, empty where the clocks skip it; None where it is none."""
    words = {"today": "this day", "yesterday": "last day"}.get(words, words)
    if found := _RELATIVE.fullmatch(words):
        number = _number(found[2], _wall(now, tz) // DAY) - (found[1] == "last")
        return _buckets(words, found[2], number, number + 1, tz)
    if found := _LAST_FEW.fullmatch(words):
        return _last_few(words, int(found[1]), found[2], tz, now)
    for bucket, form in _NAMED.items():
        if found := form.fullmatch(words):
            return _named(words, bucket, [int(part) for part in found.groups()], tz)
    return None


def _last_few(words: str, count: int, bucket: str, tz: tzinfo, now: int) -> tuple[int, int]:
    if bucket != "hour":
        number = _number(bucket, _wall(now, tz) // DAY)
        return _buckets(words, bucket, number - count, number, tz)
    if now - count * HOUR < -DAY:
        raise _outside(words)
    return now - count * HOUR, now


def _named(words: str, bucket: str, parts: list[int], tz: tzinfo) -> tuple[int, int] | None:
    """The period of a year and what follows it; None where the calendar has none such."""
    year, *rest = parts
    if not 1970 <= year <= 9999:
        raise _outside(words)
    if bucket in _MONTHS:
        number = year * 12 // _MONTHS[bucket] + (rest[0] - 1 if rest else 0)
        # There are months from 01 to 12, and quarters are checked where they are read.
        inside = number * _MONTHS[bucket] // 12 == year
        return _buckets(words, bucket, number, number + 1, tz) if inside else None
    try:
        if bucket == "week":
            first = date.fromisocalendar(year, rest[0], 1)
        else:
            first = date(year, rest[0], rest[1])
    except ValueError:
        return None
    day = first.toordinal() - _FIRST_ORDINAL
    if bucket == "hour":
        return _hour(day * DAY + rest[2] * HOUR, tz) if rest[2] < 24 else None
    number = _number(bucket, day)
    return _buckets(words, bucket, number, number + 1, tz)


def _buckets(words: str, bucket: str, first: int, end: int, tz: tzinfo) -> tuple[int, int]:
    """Of the bucket number *first* up to that of number *end*, which does not belong to it."""
    # The first week of 1970 begins in 1969.
    if _first_day(bucket, first) < -_DAYS_OF_1969 or _first_day(bucket, end - 1) * DAY >= _LATEST:
        raise _outside(words)
    return _begin(bucket, first, tz), _begin(bucket, end, tz)


def _hour(wall: int, tz: tzinfo) -> tuple[int, int]:
    """An hour as `cuts` makes it, the first where there are two; empty where it is skipped."""
    start = _reached(wall, tz)
    changes = _changes(start, start + HOUR, tz)
    return start, min(_reached(wall + HOUR, tz), start + HOUR, *changes)


def _outside(said: str) -> BadSpan:
    return BadSpan(f"{_short(said)} is outside of the years 1970 to 9999")


def _short(said: str) -> str:
    """As it may be shown: in quotation marks, and not too long."""
    return repr(said) if len(said) <= 60 else f"{said[:60]!r}..."


# -- what time is cut into --------------------------------------------------------------------


def check_bucket(bucket: str | int) -> None:
    """Raise :class:`BadSpan` unless this is one of `BUCKETS`, or a number of seconds."""
    if isinstance(bucket, int) and not isinstance(bucket, bool) and bucket > 0:
        return
    if bucket not in BUCKETS:
        shown = _short(bucket) if isinstance(bucket, str) else repr(bucket)
        raise BadSpan(
            f"{shown} is no length of a bucket; expected one of {', '.join(BUCKETS)}, or how many "
            "seconds"
        )


def cuts(start: int, stop: int, bucket: str | int, tz: tzinfo) -> list[int]:
    """The bounds of the buckets of ``[start, stop)``, epoch seconds, ascending, both ends included.

    The first bucket and the last may be cut short. An hour is 3600 s between full hours of the
    clocks; a change of the clocks that is not at full hours cuts it in two. Buckets of so many
    seconds begin at multiples of them since 1970-01-01 00:00 UTC, whatever the zone. Raises
    :class:`BadSpan`, also for more than `MOST_BUCKETS`.
    """
    check_bucket(bucket)
    if start >= stop:
        raise BadSpan(f"the span from {start} to {stop} is empty")
    if isinstance(bucket, int):
        _check_number(stop - 1, start, bucket)
        return [start, *range((start // bucket + 1) * bucket, stop, bucket), stop]
    first, last = _wall(start, tz), _wall(stop - 1, tz)
    if bucket == "hour":
        _check_number(stop - 1, start, HOUR)
        inner = _hours(start, stop, tz)
    else:
        numbers = _number(bucket, first // DAY), _number(bucket, last // DAY)
        _check_number(numbers[1], numbers[0], 1)
        # Where the clocks went back over midnight, the day after the last that they show began.
        inner = (_begin(bucket, each, tz) for each in range(numbers[0], numbers[1] + 2))
    return sorted({start, *(at for at in inner if start < at < stop), stop})


def _check_number(last: int, first: int, length: int) -> None:
    count = last // length - first // length + 1
    if count > MOST_BUCKETS:
        raise BadSpan(
            f"that is {count:,} buckets, and {MOST_BUCKETS:,} at most are made; choose longer ones "
            "or a shorter span"
        )


def _hours(start: int, stop: int, tz: tzinfo) -> Iterator[int]:
    """The start, and the bounds of hours after it."""
    for begin, end in pairwise((start, *_changes(start, stop, tz), stop)):
        offset = _offset(begin, tz)
        yield begin
        yield from range((begin + offset) // HOUR * HOUR + HOUR - offset, end, HOUR)


def _number(bucket: str, day: int) -> int:
    """The number of the bucket that a day lies in; days count from 1970-01-01."""
    if bucket == "day":
        return day
    if bucket == "week":
        return (day + _DAYS_OF_1969) // 7
    found = date.fromordinal(day + _FIRST_ORDINAL)
    return (found.year * 12 + found.month - 1) // _MONTHS[bucket]


def _first_day(bucket: str, number: int) -> int:
    if bucket == "day":
        return number
    if bucket == "week":
        return number * 7 - _DAYS_OF_1969
    year, month = divmod(number * _MONTHS[bucket], 12)
    # With 10000 the last year ends, and `date` does not know it.
    repeated = date(year - _CYCLE_YEARS, month + 1, 1)
    return repeated.toordinal() + _CYCLE_DAYS - _FIRST_ORDINAL


def _begin(bucket: str, number: int, tz: tzinfo) -> int:
    return _reached(_first_day(bucket, number) * DAY, tz)


# -- clocks -----------------------------------------------------------------------------------


def _offset(at: int, tz: tzinfo) -> int:
    """Seconds by which the clocks are ahead of UTC at an instant."""
    known = min(max(at, _EARLIEST), _LAST_OFFSET)
    return _seconds(datetime.fromtimestamp(known, tz).utcoffset())


def _wall(at: int, tz: tzinfo) -> int:
    """What the clocks show at an instant. Raises :class:`BadSpan` where no calendar has it."""
    wall = at + _offset(at, tz)
    if not _EARLIEST <= wall < _LATEST:
        raise BadSpan(f"{at} is beyond the calendar; an instant of the years 1000 to 9999 expected")
    return wall


def _reached(wall: int, tz: tzinfo) -> int:
    """The first instant at which the clocks show this; that of the change where it is skipped."""
    known = _FIRST_TIME + timedelta(seconds=min(wall, _LAST_OFFSET))
    first, second = (
        wall - _seconds(known.replace(tzinfo=tz, fold=fold).utcoffset()) for fold in (0, 1)
    )
    # As PEP 495 has it, the second is the earlier one only where a change lies between them.
    return first if first <= second else _change(second, first, tz)


def _changes(start: int, stop: int, tz: tzinfo) -> Iterator[int]:
    """The instants within ``(start, stop)`` at which the offset changes; never two in a day."""
    for at in range(start, stop - 1, DAY):
        after = min(at + DAY, stop - 1)
        if _offset(after, tz) != _offset(at, tz):
            yield _change(at, after, tz)


def _change(at: int, after: int, tz: tzinfo) -> int:
    """The instant within ``(at, after]`` at which the offset changes, which it does once."""
    offset = _offset(at, tz)
    while after - at > 1:
        middle = (at + after) // 2
        if _offset(middle, tz) == offset:
            at = middle
        else:
            after = middle
    return after


def _seconds(offset: timedelta | None) -> int:
    return 0 if offset is None else offset // _SECOND


# -- how it is shown --------------------------------------------------------------------------


def label(start: int, bucket: str | int, tz: tzinfo) -> str:
    """What people call the bucket that *start* lies in: 2026, 2026-Q1, 2026-03, 2026-W13 ...

    Hours always have their offset, ``2026-10-25 02:00+02:00``: one of them comes twice. A bucket of
    so many seconds is called by *start* itself, ``2026-10-25 02:00:00+02:00``. `instant` reads
    labels. Raises :class:`BadSpan`.
    """
    check_bucket(bucket)
    wall = _wall(start, tz)
    if isinstance(bucket, int):
        return _with_offset(wall, wall - start, "seconds")
    if bucket == "hour":
        return _with_offset(wall - wall % HOUR, wall - start, "minutes")
    number = _number(bucket, wall // DAY)
    # Where the clocks went back over midnight, they show the day before for a while.
    if _begin(bucket, number + 1, tz) <= start:
        number += 1
    return _name(bucket, date.fromordinal(_first_day(bucket, number) + _FIRST_ORDINAL))


def _with_offset(wall: int, offset: int, precision: str) -> str:
    local = (_FIRST_TIME + timedelta(seconds=wall)).replace(
        tzinfo=timezone(timedelta(seconds=offset))
    )
    return local.isoformat(" ", precision)


def _name(bucket: str, first: date) -> str:
    """What the bucket of this first day is called."""
    if bucket == "week":
        year, week, _ = first.isocalendar()
        return f"{year:04}-W{week:02}"
    if bucket == "quarter":
        return f"{first.year:04}-Q{first.month // 3 + 1}"
    return first.isoformat()[: {"year": 4, "month": 7, "day": 10}[bucket]]


def shown(at: int, tz: tzinfo) -> str:
    """Date and time of epoch seconds by the clocks of a zone: ``2026-10-25 02:30:00 CEST``.

    A zone without letters of its own is shown by its offset, ``+05:45``; what is beyond the
    calendar by the seconds themselves.
    """
    try:
        local = datetime.fromtimestamp(at, tz)
    except (OverflowError, ValueError, OSError):
        return str(at)
    name = local.tzname() or ""
    iso = local.isoformat(" ", "seconds")
    return f"{iso[:19]} {name if name.isalpha() else iso[19:]}"


def span_in_words(start: int | None, stop: int | None, tz: tzinfo) -> str:
    """A half-open span as people read it: ``2026-01-01 00:00 to before 2026-04-01 00:00, UTC``.

    A bound that the clocks show twice has its offset. None: no bound.
    """
    begin, end = ("" if at is None else _said(at, tz) for at in (start, stop))
    if begin and end:
        return f"{begin} to before {end}, {tz}"
    if begin or end:
        return f"from {begin} on, {tz}" if begin else f"before {end}, {tz}"
    return f"all that is recorded, {tz}"


def _said(at: int, tz: tzinfo) -> str:
    """Date and time to the minute, or to the second where that matters; `moment` reads the same."""
    try:
        local = datetime.fromtimestamp(at, tz)
    except (OverflowError, ValueError, OSError):
        return str(at)
    precision = "seconds" if local.second else "minutes"
    said = local.replace(tzinfo=None, fold=0).isoformat(" ", precision)
    return said if moment(said, tz) == at else local.isoformat(" ", precision)


def written(at: int, tz: tzinfo) -> str:
    """A date, or a time of a day, by the clocks of a zone, from which `moment` reads the same.

    With its offset where the clocks show it twice; the seconds beyond the calendar.
    """
    try:
        local = datetime.fromtimestamp(at, tz)
    except (OverflowError, ValueError, OSError):
        return str(at)
    naive = local.replace(tzinfo=None, fold=0)
    texts = (naive.date().isoformat(), naive.isoformat(), local.isoformat())
    return next((text for text in texts if moment(text, tz) == at), str(at))


def year_before(at: int, tz: tzinfo) -> int:
    """The same date and time of the clocks a year before; of a 29th of February a 1st of March."""
    local = datetime.fromtimestamp(at, tz)
    try:
        before = local.replace(year=local.year - 1)
    except ValueError:
        before = local.replace(year=local.year - 1, month=3, day=1)
    return int(before.timestamp())

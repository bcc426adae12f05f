"""How amounts, times and names are written for people. Pure."""

from collections.abc import Iterable
from datetime import UTC, datetime
from difflib import get_close_matches
from itertools import islice
from signal import Signals

from oar_accounting.core.lengths import HOUR

#: Units that people read in larger ones.
LARGER = {"KiB": ("GiB", 1024**2), "MiB": ("GiB", 1024)}


def in_hours(amount: int, unit: str, scale: int) -> str:
    """An amount of ``unit / scale``, like ``core·s``, in `hour_unit`, with one decimal.

    Rounded half to even, exact below that.
    """
    whole = one_hour(unit, scale)
    tenths, rest = divmod(abs(amount) * 10, whole)
    if 2 * rest > whole or (2 * rest == whole and tenths % 2):
        tenths += 1
    sign = "-" if amount < 0 < tenths else ""
    return f"{sign}{tenths // 10:,}.{tenths % 10}"


def hour_unit(unit: str) -> str:
    """The unit of `in_hours`: ``core·h`` for ``core·s``, ``GiB·h`` for ``MiB·s``."""
    held = unit.removesuffix("·s")
    return f"{LARGER.get(held, (held, 1))[0]}·h"


def one_hour(unit: str, scale: int) -> int:
    """How much of ``unit / scale`` one of `hour_unit` is."""
    return HOUR * scale * LARGER.get(unit.removesuffix("·s"), ("", 1))[1]


def exact_unit(unit: str, scale: int) -> str:
    """The unit of whole amounts: ``core·s``, or ``core·s/1000`` for thousandths."""
    return unit if scale == 1 else f"{unit}/{scale}"


def amount(number: int, scale: int) -> str:
    """What is held each second, of a *number* in units divided by *scale*: ``1,024``, ``0.335``."""
    whole, rest = divmod(number, scale)
    return f"{number / scale:,.3f}" if rest else f"{whole:,}"


def date(instant: int) -> str:
    """The date and time of epoch seconds in UTC, which it says; beyond the calendar the seconds."""
    try:
        return datetime.fromtimestamp(instant, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
    except (OverflowError, ValueError, OSError):
        return str(instant)


def percent(part: int, whole: int) -> str:
    """A part of a whole in percent with one decimal; empty where the whole is not above zero.

    Of what corrections bring to zero or below nobody has a share.
    """
    return f"{100 * part / whole:.1f}%" if whole > 0 else ""


def clock(seconds: int) -> str:
    """A length of time as hours, minutes and seconds: 26:03:59."""
    sign = "-" if seconds < 0 else ""
    minutes, second = divmod(abs(seconds), 60)
    return f"{sign}{minutes // 60}:{minutes % 60:02}:{second:02}"


#: What waiting for a program gives fits in so many bits: a signal, whether memory was dumped, and
#: what the program returned.
_STATUS = range(1 << 16)
#: In the place of a signal it says that the program was stopped, and has not ended.
_STOPPED = 0x7F


def exit_words(code: int) -> str:
    """How a program ended, from what OAR has: 768 is ``exit 3``, 9 is ``signal 9 (KILL)``."""
    number, dumped, returned = code & 0x7F, code & 0x80, code >> 8
    if code in _STATUS and code == returned << 8:
        return f"exit {returned}"
    if code not in _STATUS or returned or number in (0, _STOPPED):
        return f"code {code}"
    named = {each.value: each.name.removeprefix("SIG") for each in Signals}
    name = f" ({named[number]})" if number in named else ""
    return f"signal {number}{name}{', core dumped' if dumped else ''}"


def lasting(seconds: int) -> str:
    """A length of time in the largest unit of which there are two or more, rounded down."""
    for unit, length in (("days", 86_400), ("hours", HOUR), ("minutes", 60)):
        if abs(seconds) >= 2 * length:
            return f"{abs(seconds) // length} {unit}"
    return f"{abs(seconds)} s"


#: Names that are listed in an error, at most.
MOST_LISTED = 10


#: So many of what is listed are named.
MOST_TOLD = 5


def listed(told: Iterable[object]) -> str:
    """The first few, and how many more there are."""
    left = iter(told)
    first = ", ".join(map(str, islice(left, MOST_TOLD)))
    more = sum(1 for _ in left)
    return f"{first} and {more} more" if more else first


def meant(name: str, known: Iterable[str]) -> str:
    """What an error says of a *name* that is not *known*: which are near, or some that are."""
    names = sorted(filter(None, known))
    if near := get_close_matches(name, names, n=3):
        return f"; did you mean {' or '.join(map(repr, near))}?"
    listed = ", ".join(map(repr, names[:MOST_LISTED]))
    more = f" and {len(names) - MOST_LISTED} more" if len(names) > MOST_LISTED else ""
    return f"; recorded are {listed or 'none'}{more}"


def printable(name: str) -> str:
    """A name that cannot move the cursor or start another line."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in name)

"""What people give to an adjustment: author, reason, amounts and names, checked and read."""

import re
from collections.abc import Collection
from datetime import tzinfo
from decimal import Decimal, InvalidOperation
from difflib import get_close_matches
from fractions import Fraction

from oar_accounting.core import formats, periods
from oar_accounting.core.columns import LARGEST
from oar_accounting.database.dialects import LONGEST_NAME
from oar_accounting.errors import BadAdjustment, BadSpan, UnknownName
from oar_accounting.metrics.metric import Metric

LONGEST_REASON = 2_000
#: Digits that a percentage may have behind the point.
MOST_DECIMALS = 6

_AMOUNT = re.compile(r"([+-]?[0-9]+)|([+-]?[0-9]+(?:\.[0-9]+)?)h")


def check_words(author: str, reason: str) -> None:
    """Raise :class:`BadAdjustment` unless author and reason are given and can be stored."""
    if not author.strip() or len(author) > LONGEST_NAME or not author.isprintable():
        raise BadAdjustment(
            f"an author of 1 to {LONGEST_NAME} printable characters was expected, not "
            f"{_begin(author)}"
        )
    if not reason.strip() or len(reason) > LONGEST_REASON or not _can_be_stored(reason):
        raise BadAdjustment(
            f"a reason of 1 to {LONGEST_REASON} characters was expected, not {_begin(reason)}"
        )


def _can_be_stored(said: str) -> bool:
    return "\0" not in said and said == said.encode(errors="ignore").decode()


def _begin(said: str) -> str:
    return repr(said) if len(said) < 60 else f"{said[:40]!r}... of {len(said)} characters"


def whole_amount(said: int | str, metric: Metric) -> int:
    """A signed amount in the metric's unit and scale.

    From a whole number of them, or from hours as usage shows them, like ``-1.5h``. Raises
    :class:`BadAdjustment` where it is neither, is not whole, or does not fit in 63 bits.
    """
    exact = formats.exact_unit(metric.unit, metric.scale)
    hours = formats.hour_unit(metric.unit)
    found = _AMOUNT.fullmatch(str(said))
    if found is None:
        raise BadAdjustment(
            f"{_begin(str(said))} is no amount of {metric.name}; expected a whole number of "
            f"{exact}, like -3600, or {hours}, like -1.5h"
        )
    if found[2]:
        amount = Fraction(found[2]) * formats.one_hour(metric.unit, metric.scale)
    else:
        amount = Fraction(found[1])
    if amount.denominator != 1:
        raise BadAdjustment(
            f"{said} of {metric.name}, in {hours}, is not a whole number of {exact}"
        )
    if abs(amount) > LARGEST:
        raise BadAdjustment(f"{said} of {metric.name} does not fit in 63 bits")
    return int(amount)


def percentage(said: int | str | Decimal) -> Fraction:
    """A share from a percentage above 0, up to 100, exactly. Raises :class:`BadAdjustment`."""
    try:
        percent = Decimal(str(said))
        if 0 < percent <= 100 and int(percent.as_tuple().exponent) >= -MOST_DECIMALS:
            return Fraction(percent) / 100
    except InvalidOperation:
        pass
    raise BadAdjustment(
        f"{str(said)!r} is no percentage; expected a number above 0, up to 100, with "
        f"{MOST_DECIMALS} decimals at most"
    )


def check_known(kind: str, name: str, known: Collection[str]) -> None:
    """Raise :class:`UnknownName` for a name that is not *known*, with those that are close."""
    if name not in known:
        close = ", ".join(map(repr, get_close_matches(name, known)))
        hint = f"; close to it: {close}" if close else ""
        raise UnknownName(f"nothing is recorded of a {kind} {name!r}{hint}")


def check_span(start: int, stop: int, tz: tzinfo) -> None:
    """Raise :class:`BadSpan` unless time passes from *start* to *stop*.

    *tz*: whose clocks tell them.
    """
    if stop <= start:
        begin, end = periods.shown(start, tz), periods.shown(stop, tz)
        raise BadSpan(f"the span from {begin} to {end} is empty")
    if max(abs(start), abs(stop)) > 2**62:
        raise BadSpan(f"the span from {start} to {stop} is beyond any calendar")

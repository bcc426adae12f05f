"""Lengths of time in seconds, and how people write them."""

import re

HOUR, DAY = 3_600, 86_400
#: Without a catch-up for so long, something is wrong: three times the period of the timer.
LATE = 900
LENGTHS = {"s": 1, "m": 60, "h": HOUR, "d": DAY, "w": 7 * DAY}
_LENGTH = re.compile(r"([0-9]{1,12})([smhdw])")


def length_of(value: object) -> int | None:
    """The seconds of a text like "7d" or of a whole number; None where it is neither."""
    if isinstance(value, str) and (parts := _LENGTH.fullmatch(value)):
        return int(parts[1]) * LENGTHS[parts[2]]
    return value if isinstance(value, int) and not isinstance(value, bool) else None

"""Units of formulas: ``GiB``, ``billing/core``. Sizes convert into each other, and nothing else.

A unit is the names it is made of with their powers; the number without a unit has none.
"""

from collections import Counter
from collections.abc import Mapping
from fractions import Fraction

#: Names and their powers, sorted by name; no power is 0.
Unit = tuple[tuple[str, int], ...]

NUMBER: Unit = ()

#: Bytes in each unit of size.
BYTES: Mapping[str, int] = {
    "B": 1,
    **{f"{prefix}B": 1000**power for power, prefix in enumerate("kMGTP", 1)},
    **{f"{prefix}iB": 1024**power for power, prefix in enumerate("KMGTP", 1)},
}


def unit_of(*names: str) -> Unit:
    """The product of these units."""
    return _unit(Counter(names))


def product(left: Unit, right: Unit, power: int = 1) -> Unit:
    """*left* times *right* to the *power*."""
    powers = Counter(dict(left))
    for name, each in right:
        powers[name] += each * power
    return _unit(powers)


def dimension(unit: Unit) -> Unit:
    """What makes units convertible: equal dimensions."""
    powers: Counter[str] = Counter()
    for name, power in unit:
        powers["B" if name in BYTES else name] += power
    return _unit(powers)


def factor(unit: Unit) -> Fraction:
    """How many of its dimension's units one of this is."""
    result = Fraction(1)
    for name, power in unit:
        result *= Fraction(BYTES.get(name, 1)) ** power
    return result


def shown(unit: Unit) -> str:
    """As it is written within brackets: ``billing/GiB``."""
    above = "*".join(name for name, power in unit for _ in range(power))
    below = "".join(f"/{name}" for name, power in unit for _ in range(-power))
    return (above or "1") + below


def _unit(powers: Mapping[str, int]) -> Unit:
    return tuple(sorted((name, power) for name, power in powers.items() if power))

"""How time weights are said to people."""

from oar_accounting.karma.weights import Flat, HalfLife, Steps, Weighting

UNITS = (("week", 7 * 86_400), ("day", 86_400), ("hour", 3_600), ("minute", 60), ("second", 1))


def length(seconds: int) -> str:
    """A length of time, exact, in the largest unit that it is a whole number of."""
    name, size = next((name, size) for name, size in UNITS if seconds % size == 0)
    count = seconds // size
    return f"{count} {name}{'' if count == 1 else 's'}"


def in_words(weighting: Weighting) -> str:
    """Which time counts, and how much."""
    match weighting:
        case HalfLife(seconds=seconds, length=None):
            return f"half-life {length(seconds)}"
        case HalfLife(seconds=seconds, length=int(limit)):
            return f"half-life {length(seconds)}, up to {length(limit)} back"
        case Steps(period=period, factors=factors):
            return f"{' '.join(f'{each:g}' for each in factors)} by {length(period)}"
        case Flat(length=int(limit)):
            return f"last {length(limit)}"
        case _:
            return "all time"

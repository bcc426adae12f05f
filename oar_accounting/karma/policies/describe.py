"""How time weights, and all that a site asks of karma, are said to people."""

from oar_accounting.karma.policies.policy import Dominant, Karma, Linear, Shared, Stock
from oar_accounting.karma.policies.weights import Flat, HalfLife, Steps, Weighting

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


#: What jobs that have not ended count.
OPEN_JOBS_IN_WORDS = {
    "used": "jobs that run count with what they have used so far",
    "held": "jobs that run count to the end of their walltime",
    "none": "jobs count when they have ended",
}


def described(karma: Karma) -> tuple[str, ...]:
    """What a site's settings say of karma: its policy, and what counts."""
    policy = karma.policy
    match policy:
        case Linear(terms=terms):
            sums = (f"{t.weight:g} x {t.by} {t.metric} {t.counted.amount}" for t in terms)
            number = f"{len(terms)} term{'' if len(terms) == 1 else 's'}"
            said = f"linear, {number}: {', '.join(sums)}"
            time = dict.fromkeys(in_words(term.counted.weighting) for term in terms)
        case Shared(levels=levels, metrics=metrics):
            mixed = ", ".join(f"{weight:g} x {name}" for name, weight in metrics.items())
            said = f"{policy.name}, from {' to '.join(levels)}: {mixed} {policy.counted.amount}"
            time = {in_words(policy.counted.weighting): None}
        case Dominant(by=by, metrics=names):
            said = f"dominant, by {by}: {', '.join(names)} {policy.counted.amount}"
            time = {in_words(policy.counted.weighting): None}
        case Stock(source=source, window_rule=rule):
            over = "OAR's table accounting" if source == "oar" else "our totals of resource"
            return (f"OAR's own, over {over}, with the windows of OAR {rule[-1]}",)
    return said, "; ".join(time), OPEN_JOBS_IN_WORDS[karma.open_jobs]

"""How many examples a property is tried on: all in a whole run, about a tenth in a quick one."""

import hypothesis

QUICK, WHOLE = 10, 100
#: Fewer say too little.
LEAST = 3


def examples(whole: int) -> int:
    """How many of *whole* this run tries."""
    return max(LEAST, whole * hypothesis.settings().max_examples // WHOLE)

"""What else the demonstration's site has: OAR's accounting of its first year, and laboratories.

The jobs of that year are gone, as where an administrator has emptied OAR's large tables.
"""

from typing import Any

import numpy as np

from oar_accounting.core.lengths import DAY
from oar_accounting.demo.site import PROJECT_NAMES, USERS, WEEKDAYS

#: Days of which only OAR's accounting is left, before those that have jobs.
PAST_DAYS = 275
#: Resource·s that the most active user uses on a usual day.
MOST_A_DAY = 6_000_000

#: Who belongs where: bob moved, elena left, and nobody said anything of the others.
LABORATORIES = """\
user,laboratory,valid_from,valid_to
bob,LIG,,2026-02-15
bob,LJK,2026-02-15,
chen,LIG,,
elena,LPSC,,2026-03-01
"""


def accounting_rows(seed: int, first_job: int) -> list[tuple[Any, ...]]:
    """Rows of OAR's table accounting, in the order of its columns, of before *first_job*."""
    rng = np.random.default_rng(seed)
    last_day = first_job // DAY * DAY
    rows: list[tuple[Any, ...]] = []
    for day in range(last_day - PAST_DAYS * DAY, last_day, DAY):
        for place, user in enumerate(USERS, 1):
            if rng.random() < WEEKDAYS[(day // DAY + 3) % 7] * 0.6:
                used = int(MOST_A_DAY / place * rng.random()) + 60
                asked = int(used * (1 + rng.random()))
                project = PROJECT_NAMES[int(rng.integers(len(PROJECT_NAMES)))]
                for kind, amount in (("ASKED", asked), ("USED", used)):
                    rows.append((day, day + DAY - 1, user, project, "default", kind, amount))
    return rows

"""The rounds of OAR's scheduler in which our karma was to decide: did it, and why not? Pure.

What OAR calls appends a line for every round to a file: ``EPOCH WHO SECONDS REASON``. When that has
become too long, it is renamed, and another one begun. A crash may leave half a line or anything
else: what cannot be read is left out.
"""

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from oar_accounting.core.lengths import DAY
from oar_accounting.health.records import Rounds

#: The file, and what it is renamed to.
ROUNDS_FILE, OLDER_FILE = "rounds", "rounds.1"

#: Our karma decided: a service that answered, or the library itself.
OURS = ("service", "library")
#: It did not: the last answer that it had given, or OAR's own order.
BY_LAST_ANSWER, BY_OWN = "last", "own"

_WHO = "|".join((*OURS, BY_LAST_ANSWER, BY_OWN))
_LINE = re.compile(rf"(\d{{1,11}}) ({_WHO}) \d{{1,9}}(?:\.\d{{1,6}})?(?: (.*))?")


@dataclass(frozen=True, slots=True, kw_only=True)
class DecidedRound:
    """A round of OAR's scheduler."""

    at: int  #: epoch seconds UTC
    who: str  #: decided
    reason: str

    @property
    def is_ours(self) -> bool:
        """True where our karma decided."""
        return self.who in OURS


def read(lines: Iterable[str]) -> Iterator[DecidedRound]:
    """The rounds of a file."""
    for line in lines:
        if (found := _LINE.fullmatch(line.rstrip("\n"))) is not None:
            yield DecidedRound(at=int(found[1]), who=found[2], reason=(found[3] or "").strip())


def summary(older: Sequence[DecidedRound], newer: Sequence[DecidedRound], now: int) -> Rounds:
    """What became of the rounds of the day before *now*, of both files.

    Where the older file does not reach so far back, it is less than a day.
    """
    known = [each for each in (*older, *newer) if each.at <= now]
    since = now - DAY
    if older:
        since = max(since, min(each.at for each in older))
    counted = [each for each in known if each.at >= since]
    missed = [each for each in counted if not each.is_ours]
    in_a_row = 0
    while in_a_row < len(counted) and not counted[-1 - in_a_row].is_ours:
        in_a_row += 1
    return Rounds(
        since=since,
        total=len(counted),
        ours=len(counted) - len(missed),
        last_answer=sum(each.who == BY_LAST_ANSWER for each in missed),
        own=sum(each.who == BY_OWN for each in missed),
        missed_in_a_row=in_a_row,
        newest=max((each.at for each in known), default=None),
        decided=max((each.at for each in counted if each.is_ours), default=None),
        missed=missed[-1].at if missed else None,
        reason=missed[-1].reason if missed else "",
    )

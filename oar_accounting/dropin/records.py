"""What is told of OAR's own table accounting."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class StockReport:
    """What was done, or would be, to OAR's own table accounting; amounts in resource·s."""

    jobs: int = 0  #: jobs that were counted
    rows: int = 0  #: rows that they count in
    removed: int = 0  #: rows that were removed
    lost: int = 0  #: those of them in which there was more than what was counted anew
    asked: int = 0  #: how much more
    used: int = 0

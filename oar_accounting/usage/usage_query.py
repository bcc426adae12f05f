"""The question who used how much of what, when: verbs and commands build it, and pass it on."""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Self

from oar_accounting.core import periods
from oar_accounting.errors import BadSpan, UnknownName
from oar_accounting.oar.job_rules import FARTHEST
from oar_accounting.usage.job_keys import DEFAULT_SIZES, Sizes
from oar_accounting.usage.keys import JOB_KEYS, Visible

#: Names, or one of them.
Keys = Sequence[str] | str
#: For each key the value that counts, or several.
Where = Mapping[str, str | int | Iterable[str | int]]

#: How the number of a job is written.
_NUMBER = re.compile("-?[1-9][0-9]{0,17}")


@dataclass(frozen=True, slots=True, kw_only=True)
class UsageQuery:
    """What is asked, already checked as far as that is possible without a site.

    Times are epoch seconds UTC, spans half-open. Raises :class:`oar_accounting.BadSpan` where the
    span is empty or beyond any calendar, and :class:`oar_accounting.UnknownName` where the number
    of a job is none.
    """

    by: tuple[str, ...] = ("user",)
    metrics: tuple[str, ...] | None = None  #: None: all that are complete
    start: int | None = None  #: None: from the beginning
    stop: int | None = None  #: None: without end
    bucket: str | int | None = None  #: one of `periods.BUCKETS`, or seconds
    timezone: str = "UTC"  #: whose clocks say when a bucket begins
    where: Mapping[str, frozenset[str]] = field(default_factory=dict)
    as_of: int | None = None  #: open jobs count, as used by then; None: they do not count
    adjusted: bool = True  #: false: as it stands without adjustments
    whole_windows: bool = False  #: every window counts whole that the span reaches into
    sizes: Sizes = DEFAULT_SIZES
    ended: tuple[int, int] | None = None  #: only of jobs that ended within this span
    visible_to: Visible | None = None  #: who is told; None: somebody who may see all

    def __post_init__(self) -> None:
        if self.start is not None and self.stop is not None and self.stop <= self.start:
            zone = periods.zone(self.timezone)
            raise BadSpan(
                f"the span from {self.start} ({periods.shown(self.start, zone)}) to {self.stop} "
                f"({periods.shown(self.stop, zone)}) is empty"
            )
        for instant in (self.start, self.stop, self.as_of):
            if instant is not None and abs(instant) > FARTHEST:
                raise BadSpan("an instant is beyond any calendar; epoch seconds were expected")
        for number in self.where.get("job", ()):
            if number and not _NUMBER.fullmatch(number):
                raise UnknownName(f"job {number[:40]!r}: the number of a job was expected")

    @classmethod
    def of(  # noqa: PLR0913 - the one place that lists what may be asked
        cls,
        by: Keys = ("user",),
        metrics: Keys | None = None,
        start: int | None = None,
        stop: int | None = None,
        *,
        bucket: str | int | None = None,
        timezone: str | None = None,
        where: Where | None = None,
        as_of: int | None = None,
        without_adjustments: bool = False,
        whole_windows: bool = False,
        sizes: Sizes | None = None,
        visible_to: Visible | None = None,
    ) -> Self:
        """The question from what `Reporting.usage` takes. Raises as the class."""
        return cls(
            by=_names(by),
            metrics=None if metrics is None else _names(metrics),
            start=start,
            stop=stop,
            bucket=bucket,
            timezone=timezone or "UTC",
            where={
                key: frozenset({str(value)} if isinstance(value, str | int) else map(str, value))
                for key, value in (where or {}).items()
            },
            as_of=as_of,
            adjusted=not without_adjustments,
            whole_windows=whole_windows,
            sizes=sizes or DEFAULT_SIZES,
            visible_to=visible_to,
        )

    def keys_of_jobs(self) -> list[str]:
        """The keys that only jobs have."""
        return [name for name in JOB_KEYS if name in {*self.by, *self.where}]


def _names(said: Keys) -> tuple[str, ...]:
    return (said,) if isinstance(said, str) else tuple(dict.fromkeys(said))

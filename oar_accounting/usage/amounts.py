"""The answer: all sources put together."""

from collections.abc import Iterator
from dataclasses import replace

from sqlalchemy import BigInteger, Connection, literal

from oar_accounting.core.columns import OPEN
from oar_accounting.usage.from_jobs import (
    Intervals,
    later,
    of_all_closed_jobs,
    of_closed_jobs,
    of_open_jobs,
    of_what_was_measured,
    parts_within,
)
from oar_accounting.usage.from_totals import of_windows
from oar_accounting.usage.prorated import adjustments, evenly_laid, openings
from oar_accounting.usage.request import FoundSums, Question, Sums


def amounts_of(connection: Connection, asked: Question) -> FoundSums:
    """The amounts in every part of the question. Raises :class:`oar_accounting.AmountOverflow`."""
    none = Sums.concat([])
    by_then = asked if asked.as_of is None else asked.before(asked.as_of)
    return FoundSums(
        jobs=Sums.concat([none, *_of_jobs(connection, asked)]),
        openings=evenly_laid(connection, by_then, openings(by_then)),
        adjustments=_adjusted(connection, asked) if asked.adjusted else none,
    )


def _adjusted(connection: Connection, asked: Question) -> Sums:
    """What was corrected by hand; as of an instant in the way in which jobs count then.

    What was asked for is whole where it began by then: who takes back all that a job asked for and
    used leaves nothing of it, as of whenever.
    """
    source = adjustments(asked)
    if asked.as_of is None:
        return evenly_laid(connection, asked, source)
    nothing = literal(0, BigInteger)
    begun = (*source.chosen, source.start < asked.as_of)
    by_then = asked.before(asked.as_of)
    return Sums.concat(
        [
            evenly_laid(connection, asked, replace(source, chosen=begun, used=nothing)),
            evenly_laid(connection, by_then, replace(source, asked=nothing)),
        ]
    )


def _of_jobs(connection: Connection, asked: Question) -> Iterator[Sums]:
    if asked.as_of is not None:
        yield of_open_jobs(connection, asked, asked.as_of)
    if asked.job_keys is not None:
        yield from of_all_closed_jobs(connection, asked)
        return
    yield from of_windows(connection, asked)
    if asked.as_of is not None and asked.as_of < asked.stop:
        yield from _taken_back(connection, asked, asked.as_of)


def _taken_back(connection: Connection, asked: Question, as_of: int) -> Iterator[Sums]:
    """What the totals have of a time after *as_of*, as amounts below zero."""
    parts = parts_within(asked, as_of, OPEN)
    taken = Intervals(parts.begin, parts.end, parts.taken_from, parts.added_to)
    yield of_closed_jobs(connection, asked, taken, lambda spans: later(spans, as_of))
    rest, first = asked.since(max(as_of, asked.start))
    for sums in of_what_was_measured(connection, rest):
        yield replace(sums, part=sums.part + first, asked=-sums.asked, used=-sums.used)

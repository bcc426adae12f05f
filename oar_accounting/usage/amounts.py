"""The answer: all sources put together."""

from collections.abc import Iterator
from dataclasses import replace

from sqlalchemy import BigInteger, Connection, literal

from oar_accounting.core.columns import OPEN
from oar_accounting.usage.from_jobs import (
    later,
    of_all_closed_jobs,
    of_closed_jobs,
    of_open_jobs,
    of_what_was_measured,
    parts_within,
)
from oar_accounting.usage.from_totals import of_windows
from oar_accounting.usage.job_amounts import Intervals
from oar_accounting.usage.ledger_query import FoundSums, LedgerQuery, Sums
from oar_accounting.usage.prorated import adjustments, evenly_laid, measured, openings
from oar_accounting.usage.purged_jobs import asked_since


def amounts_of(connection: Connection, question: LedgerQuery) -> FoundSums:
    """The amounts in every part of the question. Raises :class:`oar_accounting.AmountOverflow`."""
    none = Sums.concat([])
    by_then = question if question.as_of is None else question.before(question.as_of)
    return FoundSums(
        jobs=Sums.concat([none, *_of_jobs(connection, question)]),
        openings=evenly_laid(connection, by_then, openings(by_then)),
        adjustments=_adjusted(connection, question) if question.adjusted else none,
    )


def _adjusted(connection: Connection, question: LedgerQuery) -> Sums:
    """What was corrected by hand; as of an instant in the way in which jobs count then.

    What was asked for is whole where it began by then: who takes back all that a job asked for and
    used leaves nothing of it, as of whenever.
    """
    source = adjustments(question)
    if question.as_of is None:
        return evenly_laid(connection, question, source)
    nothing = literal(0, BigInteger)
    begun = (*source.chosen, source.start < question.as_of)
    by_then = question.before(question.as_of)
    return Sums.concat(
        [
            evenly_laid(connection, question, replace(source, chosen=begun, used=nothing)),
            evenly_laid(connection, by_then, replace(source, asked=nothing)),
        ]
    )


def _of_jobs(connection: Connection, question: LedgerQuery) -> Iterator[Sums]:
    if question.as_of is not None:
        yield of_open_jobs(connection, question, question.as_of)
    if question.job_keys is not None:
        yield from of_all_closed_jobs(connection, question)
        return
    yield from of_windows(connection, question)
    if question.as_of is not None and question.as_of < question.stop:
        yield from _taken_back(connection, question, question.as_of)


def _taken_back(connection: Connection, question: LedgerQuery, as_of: int) -> Iterator[Sums]:
    """What the totals have of a time after *as_of*, as amounts below zero."""
    parts = parts_within(question, as_of, OPEN)
    taken = Intervals(parts.begin, parts.end, parts.taken_from, parts.added_to)
    yield of_closed_jobs(connection, question, taken, lambda spans: later(spans, as_of))
    rest, first = question.since(max(as_of, question.start))
    for sums in of_what_was_measured(connection, rest, measured(rest)):
        yield replace(sums, part=sums.part + first, asked=-sums.asked, used=-sums.used)
    yield from _asked_of_purged(connection, question, as_of)


def _asked_of_purged(connection: Connection, question: LedgerQuery, as_of: int) -> Iterator[Sums]:
    """What of it purged jobs had asked for that had begun by then: that counts as a whole."""
    site = question.site
    if site.purged_before is None or as_of >= site.purged_before:
        return
    # What is carried of the window around the instant is still there.
    window = site.terms.window
    begin = max(-(-as_of // window) * window, question.start)
    if begin < question.stop:
        rest, first = question.since(begin)
        for sums in asked_since(connection, rest, as_of):
            yield replace(sums, part=sums.part + first)

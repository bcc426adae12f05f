"""What closed jobs asked for and used, by the totals; by the second where a bound cuts a window."""

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
from sqlalchemy import Connection, Table, or_

from oar_accounting.core.columns import OPEN, Ints
from oar_accounting.core.lengths import DAY
from oar_accounting.core.windows import kept_by_day
from oar_accounting.ledger import schema
from oar_accounting.usage.from_jobs import FEW_LOOK_UPS, of_closed_jobs, read_measured
from oar_accounting.usage.job_amounts import Intervals
from oar_accounting.usage.ledger_query import PROPORTIONAL, LedgerQuery, Sums
from oar_accounting.usage.prorated import (
    FEW_PARTS,
    EqualParts,
    in_windows,
    measured,
    share_out,
    summed,
    summed_in_steps,
)


def of_windows(connection: Connection, question: LedgerQuery) -> Iterator[Sums]:
    """The amounts of closed jobs in every part."""
    window = question.site.terms.window
    runs = _equal_runs(_whole_windows(question.cuts, window))
    if len(runs) <= FEW_PARTS:
        for steps in runs:
            yield from _summed(connection, question, steps)
    else:
        yield from _read_whole(connection, question, window)
    bounds = question.bounds()
    inner = bounds[bounds % window != 0]
    if len(inner):
        yield from _of_cut_windows(connection, question, inner)


def _whole_windows(cuts: Ints, window: int) -> list[tuple[int, int, int]]:
    """The parts that have whole windows, with the first bound and the last of these."""
    begins = np.where(cuts[:-1] == -OPEN, -OPEN, -(-cuts[:-1] // window) * window)
    ends = np.where(cuts[1:] == OPEN, OPEN, cuts[1:] // window * window)
    part = np.flatnonzero(begins < ends)
    return list(zip(part.tolist(), begins[part].tolist(), ends[part].tolist(), strict=True))


def _equal_runs(ranges: list[tuple[int, int, int]]) -> list[EqualParts]:
    """The same parts in runs of equal ones: days of a month are one run, months are several."""
    runs: list[EqualParts] = []
    for part, begin, end in ranges:
        if runs:
            last = runs[-1]
            stride = last.stride or begin - last.begin
            follows = part == last.part + last.count and end - begin == last.length
            if follows and begin == last.begin + last.count * stride and end != OPEN:
                runs[-1] = replace(last, stride=stride, count=last.count + 1)
                continue
        runs.append(EqualParts(part=part, begin=begin, length=end - begin, stride=0, count=1))
    return runs


def _summed(connection: Connection, question: LedgerQuery, steps: EqualParts) -> Iterator[Sums]:
    """The sums of the windows in a run of parts."""
    window = question.site.terms.window
    begin, end = steps.begin, steps.begin + steps.length
    # Only where days come at the same place in each part can they be read of all at once.
    alike = steps.count == 1 or steps.stride % DAY == 0
    tables = _tables(begin, end, window) if alike else [(schema.totals, window, begin, end)]
    for table, length, first, last in tables:
        source = in_windows(table, length, question)
        if steps.count == 1:
            yield summed(connection, question, source, steps.part, first, last)
        else:
            some = replace(steps, begin=first, length=last - first)
            yield from summed_in_steps(connection, question, source, some)


def _tables(begin: int, end: int, window: int) -> Iterator[tuple[Table, int, int, int]]:
    """Where to read the windows of ``[begin, end)``: by day where these are kept, and the rest.

    Each time the table, the length of its windows, the first bound and the last.
    """
    first = begin if begin == -OPEN else -(-begin // DAY) * DAY
    last = end if end == OPEN else end // DAY * DAY
    if not kept_by_day(window) or first >= last:
        yield schema.totals, window, begin, end
        return
    if begin < first:
        yield schema.totals, window, begin, first
    yield schema.days, DAY, first, last
    if last < end:
        yield schema.totals, window, last, end


def _read_whole(connection: Connection, question: LedgerQuery, window: int) -> Iterator[Sums]:
    """What lies within parts as a whole, from all rows: there are many parts."""
    by_day = kept_by_day(window) and not np.any(question.bounds() % DAY)
    table, length = (schema.days, DAY) if by_day else (schema.totals, window)
    source = in_windows(table, length, question)
    for begin, end in source.pages(connection, question):
        rows = source.read(
            connection, source.start >= begin, source.start < end, *source.reaching(question)
        )
        part, last = question.part_at(rows.start), question.part_at(rows.stop - 1)
        yield rows.sums(part, (part == last) & (part >= 0) & (part < question.parts), question)


def _of_cut_windows(connection: Connection, question: LedgerQuery, inner: Ints) -> Iterator[Sums]:
    """The windows that bounds, which lie *inner* of them, cut.

    All but the longest piece of a window are looked up; this one is what they leave of its total.
    """
    window = question.site.terms.window
    windows = np.unique(inner // window * window)
    pieces, longest = _cut_into_pieces(question, windows, inner)
    yield of_closed_jobs(connection, question, pieces)
    source = in_windows(schema.totals, window, question)
    for at in range(0, len(windows), FEW_LOOK_UPS):
        some = windows[at : at + FEW_LOOK_UPS].tolist()
        rows = source.read(connection, source.start.in_(some))
        part = longest[np.searchsorted(windows, rows.start)]
        yield rows.sums(part, part >= 0, question)
        start = schema.entries.c.window_start
        within = or_(*(start.between(each, each + window - 1) for each in some))
        job_id, rows = read_measured(connection, question, measured(question), within)
        yield share_out(question, job_id, rows, PROPORTIONAL, carried=True)
        part = longest[np.searchsorted(windows, rows.start)]
        yield replace(rows, asked=-rows.asked, used=-rows.used).sums(part, part >= 0, question)


def _cut_into_pieces(question: LedgerQuery, windows: Ints, inner: Ints) -> tuple[Intervals, Ints]:
    """The pieces of the windows but for the longest of each, and the part that this one is in."""
    begins = np.union1d(windows, inner)
    at = np.searchsorted(windows, begins, "right") - 1
    ends = windows[at] + question.site.terms.window
    ends[:-1] = np.minimum(ends[:-1], begins[1:])
    part = question.part_at(begins)
    part = np.where(part < question.parts, part, -1)
    order = np.lexsort((begins, begins - ends, at))
    longest = order[np.searchsorted(at[order], np.arange(len(windows)), "left")]
    others = np.setdiff1d(np.arange(len(begins)), longest)
    taken_from = part[longest][at[others]]
    # From one part to the same, as outside of all, nothing moves.
    moved = part[others] != taken_from
    others, taken_from = others[moved], taken_from[moved]
    return Intervals(begins[others], ends[others], part[others], taken_from), part[longest]

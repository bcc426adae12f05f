"""Who is billed for what an inner job holds: while its container runs there, the container's owner.

Second by second and resource by resource. Where the container does not run, as before it began,
after it ended, on resources that are not its own, or because it never ran, the inner job is billed
itself: OAR lets inner jobs run on when their container is deleted. In a container within another
one the outermost that runs is billed. A container that OAR has lost counts as the ledger has it, on
whatever the inner job holds.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from oar_accounting.core.columns import (
    FROM_START,
    OPEN,
    Bools,
    Ints,
    JobRows,
    Spans,
    ints,
    repeated,
)
from oar_accounting.database.id_blocks import id_blocks
from oar_accounting.ledger.ledger import Book
from oar_accounting.ledger.purged import purged_spans
from oar_accounting.ledger.reading import JobRecords
from oar_accounting.oar.job_rules import (
    Terms,
    impossible,
    inner_names,
    is_container,
    phases,
    spans_of,
)
from oar_accounting.oar.snapshot import Snapshot
from oar_accounting.recording.held.over_time import Cuts, HeldSpans

Types = Mapping[int, Sequence[str]]

#: The id of a job, as OAR names a container by it.
NUMBER = re.compile(r"[0-9]{1,18}", re.ASCII)


@dataclass(frozen=True, slots=True, kw_only=True)
class Containers:
    """The containers of some inner jobs, numbered from 0: where and when they ran."""

    inner: Ints  #: ids of inner jobs, ascending, one for each container around it
    around: Ints  #: beside it, the number of the container
    resources: Ints  #: packed: number of a container, and of a resource that it holds, ascending
    anywhere: Bools  #: by number, true where it is not known what it held
    spans: Spans  #: when they used it; the number for the job

    def cuts(self, held: HeldSpans, rows: JobRows, resource_id: Ints) -> Cuts:
        """What of the *held* is billed to containers.

        *rows*: the jobs; *resource_id*: by row of the table of kinds. Where a container runs when
        a job begins, the job begins without what the container holds.
        """
        job = rows.job_id[held.job]
        first = np.searchsorted(self.inner, job, "left")
        span, nth = repeated(np.searchsorted(self.inner, job, "right") - first)
        number = self.around[first[span] + nth]
        there = self._holds(number, resource_id[held.row[span]])
        span, number = span[there], number[there]
        first = np.searchsorted(self.spans.job_id, number, "left")
        row, nth = repeated(np.searchsorted(self.spans.job_id, number, "right") - first)
        at, span = first[row] + nth, span[row]
        begin, ends = rows.start_time[held.job[span]], _ends(rows)[held.job[span]]
        start, stop = self.spans.start_time[at], self.spans.stop_time[at]
        cuts = Cuts(
            span,
            np.where(start <= begin, FROM_START, start),
            np.where(stop >= ends, OPEN, stop),
        )
        return cuts.take((start < ends) & (stop > begin))

    def _holds(self, number: Ints, resource_id: Ints) -> Bools:
        """Whether each container has the resource beside it."""
        packed = _packed(number, resource_id)
        at = np.minimum(np.searchsorted(self.resources, packed), max(len(self.resources) - 1, 0))
        listed = self.resources[at] == packed if len(self.resources) else packed != packed
        found: Bools = listed | self.anywhere[number]
        return found


def _ends(rows: JobRows) -> Ints:
    """When jobs ended: what follows changes nothing; `OPEN` while they have not."""
    return np.where(rows.stop_time < rows.start_time, OPEN, rows.stop_time)


def _packed(number: Ints, resource_id: Ints) -> Ints:
    # OAR's resource ids have 32 bits.
    return (number << 32) + resource_id


def read_containers(snapshot: Snapshot, book: Book, types: Types) -> Containers | None:
    """The containers of the jobs with these types; None where none is an inner job."""
    names = {job: found for job in sorted(types) if (found := inner_names(types[job]))}
    if not names:
        return None
    known = _Known(snapshot, book)
    around = {job: _outer(job, known.around(found)) for job, found in names.items()}
    ids = ints(sorted({container for found in around.values() for container in found}))
    rows = [JobRows.concat([])]
    spans = [Spans.concat([])]
    for block in id_blocks(ids):
        there = snapshot.rows(block)
        ran = _that_ran(snapshot, book.site.terms, there)
        rows.append(ran)
        spans += [_used(snapshot, book.site.terms, ran), _recorded(book, block, there)]
    used = Spans.concat(spans)
    used = replace(used, job_id=np.searchsorted(ids, used.job_id))
    return Containers(
        inner=ints([job for job, containers in around.items() for _ in containers]),
        around=np.searchsorted(ids, ints([one for each in around.values() for one in each])),
        resources=_resources(snapshot, JobRows.concat(rows), ids),
        anywhere=np.isin(ids, ints(sorted(known.lost))),
        spans=used.take(np.lexsort((used.start_time, used.job_id))),
    )


def _outer(job: int, around: set[int]) -> list[int]:
    """The containers around a job; of those in a circle the first is the outermost."""
    return sorted(each for each in around if job not in around or each < job)


def _that_ran(snapshot: Snapshot, terms: Terms, rows: JobRows) -> JobRows:
    """Those of the containers that hold something, or did."""
    where = phases(rows, terms)
    rows = rows.take((where.holding | where.closed) & (rows.moldable > 0))
    trouble = impossible(rows, phases(rows, terms))
    rows = rows.take(~np.isin(rows.job_id, ints(list(trouble))))
    if not len(rows):
        return rows
    return rows.take(~np.isin(rows.job_id, snapshot.never_ran(rows.job_id)))


def _used(snapshot: Snapshot, terms: Terms, rows: JobRows) -> Spans:
    """When the containers used what they hold."""
    if not len(rows):
        return Spans.concat([])
    spans = spans_of(rows, snapshot.pauses(rows.job_id), terms)
    return spans.take(spans.asked == 0)


def _recorded(book: Book, block: Ints, there: JobRows) -> Spans:
    """When those of the containers that OAR has no longer used something, as the ledger has it."""
    gone = np.setdiff1d(block, there.job_id)
    spans = Spans.concat([book.spans(gone), purged_spans(book, gone)])
    return spans.take((spans.asked == 0) & (spans.stop_time > spans.start_time))


def _resources(snapshot: Snapshot, rows: JobRows, ids: Ints) -> Ints:
    """What the containers hold, packed, ascending."""
    found = [ints([])]
    for portion, pairs in snapshot.assigned(rows):
        number = np.searchsorted(ids, portion.job_id[pairs.job])
        found.append(_packed(number, pairs.resource_id))
    return np.sort(np.concatenate(found))


class _Known:
    """Which containers names stand for, in OAR or, where OAR has lost them, in the ledger."""

    def __init__(self, snapshot: Snapshot, book: Book) -> None:
        self._snapshot = snapshot
        self._book = book
        self._named: dict[str, set[int]] = {}
        self._types: dict[int, Sequence[str]] = {}
        self.lost: set[int] = set()

    def around(self, names: Iterable[str]) -> set[int]:
        """The containers of these names, and all that are around these in turn."""
        found: set[int] = set()
        to_come = set(names)
        while to_come:
            self._look_up(sorted(to_come - self._named.keys()))
            new = set[int]().union(*(self._named[name] for name in to_come)) - found
            found |= new
            to_come = {name for job in new for name in inner_names(self._types[job])}
        return found

    def _look_up(self, names: Sequence[str]) -> None:
        """Find what these names stand for."""
        named = self._snapshot.named_containers(names)
        numbers = {int(name) for name in names if NUMBER.fullmatch(name)}
        every = ints(sorted(numbers.union(*named.values()) - self._types.keys()))
        for block in id_blocks(every):
            self._types |= self._snapshot.types(block)
            gone = np.setdiff1d(block, self._snapshot.ids_among(block))
            records = self._book.known(gone) if len(gone) else JobRecords.concat([])
            for job, kinds in zip(records.job_id.tolist(), records.types, strict=True):
                self.lost.add(job)
                self._types[job] = kinds.split(",")
        for name in names:
            ids = named.get(name, set()) | ({int(name)} if NUMBER.fullmatch(name) else set())
            self._named[name] = {job for job in ids if is_container(self._types.get(job, ()))}

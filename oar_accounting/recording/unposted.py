"""What jobs used that the totals do not have yet, as OAR tells it now.

Jobs that are on the machine, and those that ended since the last pass, are read as a pass would,
and nothing is written: so no answer depends on when a pass ran.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from sqlalchemy import Connection

from oar_accounting.core.columns import (
    AccountAmounts,
    Bools,
    Ints,
    JobRows,
    Rates,
    Spans,
    Totals,
    add_up,
    exact_product,
    ints,
)
from oar_accounting.core.parts import held_at
from oar_accounting.core.problems import Troubles
from oar_accounting.core.windows import totals_of
from oar_accounting.database.id_blocks import id_blocks
from oar_accounting.ledger import schema
from oar_accounting.ledger.catalog import Accounts, Names, Site, StoredMetric
from oar_accounting.ledger.job_index import job_blocks
from oar_accounting.ledger.ledger import Book
from oar_accounting.ledger.reading import (
    OVERLAP,
    JobRecords,
    known_jobs,
    read_rates,
    recorded_ids,
    unsettled_ids,
)
from oar_accounting.ledger.recorded_names import RecordedNames
from oar_accounting.oar.job_rules import phases
from oar_accounting.oar.snapshot import OarJobs, Snapshot
from oar_accounting.recording.held.allocations import Holder
from oar_accounting.recording.interpret import held_by_jobs, timed

#: New jobs that are looked at, at most: more of them are for a pass.
MOST_NEW = 100_000


class Planned(Accounts):
    """The accounts of a site, and those that a pass would add, with ids below zero."""

    def __init__(self, known: Accounts) -> None:
        """With all that is *known*, which is left as it is."""
        super().__init__(known.site_id)
        self._ids = dict(known.by_names())
        self._recorded = len(self._ids)

    @property
    def adds(self) -> bool:
        """True where a pass would add some."""
        return len(self._ids) > self._recorded

    def add(self, connection: Connection, wanted: Iterable[Names]) -> None:
        """Number the accounts that are missing; nothing is written."""
        for names in wanted:
            self._ids.setdefault(names, -len(self._ids) - 1)


@dataclass(frozen=True, slots=True, kw_only=True)
class Recent:
    """What the totals do not have."""

    totals: Totals  #: in windows of the site
    held: AccountAmounts  #: what jobs on the machine may still use of their walltime
    jobs: int  #: how many jobs that is


NOTHING = Recent(totals=Totals.concat([]), held=AccountAmounts.concat([]), jobs=0)


def read_recent(
    book: Book, oar: OarJobs, metrics: list[StoredMetric], now: int, *, held: bool
) -> Recent:
    """What jobs asked and used up to *now*, epoch seconds, beside the totals.

    The accounts of the *book* are `Planned`. Where *held*, what is left of walltimes comes with it.
    """
    parts, left, count = [Totals.concat([])], [AccountAmounts.concat([])], 0
    with oar.snapshot() as snapshot:
        holder = Holder(Troubles())
        for block in id_blocks(_candidates(book.connection, book.site, snapshot)):
            rows = _unrecorded(book, snapshot, block)
            spans, rates = _read(book, snapshot, holder, rows, metrics, now)
            count += len(np.unique(spans.job_id))
            parts.append(totals_of(spans, rates, book.site.terms.window))
            if held:
                left.append(_left(rows.take(_on_the_machine(rows, book.site, now)), rates, now))
    if held:
        left += _left_of_recorded(book, metrics, now)
    return Recent(
        totals=add_up(Totals.concat(parts)), held=add_up(AccountAmounts.concat(left)), jobs=count
    )


def _candidates(connection: Connection, site: Site, snapshot: Snapshot) -> Ints:
    """The jobs that hold, or have held, something that may not be in the totals."""
    unsettled = unsettled_ids(connection, site.site_id)
    new = snapshot.ids_above(site.high_water_mark - OVERLAP, MOST_NEW)
    known = [recorded_ids(connection, site.site_id, block) for block in id_blocks(new)]
    looked_at = np.union1d(unsettled, np.setdiff1d(new, np.concatenate([ints([]), *known])))
    ended = [ints([]), *(snapshot.ended_among(block) for block in id_blocks(looked_at))]
    return np.union1d(snapshot.running(), np.concatenate(ended))


def _unrecorded(book: Book, snapshot: Snapshot, block: Ints) -> JobRows:
    """The jobs of the block that are not in the totals."""
    known = known_jobs(book.connection, book.site.site_id, block)
    closed = known.job_id[known.closed != schema.OPEN_JOB]
    rows = RecordedNames.of(book.connection, book.site).rows(snapshot.rows(block))
    return rows.take(~np.isin(rows.job_id, closed))


def _read(  # noqa: PLR0913 - one reading
    book: Book,
    snapshot: Snapshot,
    holder: Holder,
    rows: JobRows,
    metrics: list[StoredMetric],
    now: int,
) -> tuple[Spans, Rates]:
    """When the jobs asked and used, and what they held each second; as a pass would record it."""
    found = held_by_jobs(holder, snapshot, book, rows, metrics, if_any=True)
    if not len(found.holders):
        return Spans.concat([]), Rates.concat([])
    terms = book.site.terms
    when = timed(snapshot, terms, found.holders, found.held, metrics, until=now)
    return when.spans, when.rates.take(np.isin(when.rates.job_id, when.spans.job_id))


def _on_the_machine(rows: JobRows, site: Site, now: int) -> Bools:
    """The jobs that hold resources, also those that held them at an instant in the past."""
    where = phases(rows, site.terms)
    return where.holding | (where.closed & (rows.stop_time > now))


def _left_of_recorded(
    book: Book, metrics: Sequence[StoredMetric], now: int
) -> Iterator[AccountAmounts]:
    """What jobs that stand in the totals had left at *now*; nothing since the last pass."""
    last_pass, job = book.site.last_pass, schema.jobs.c
    if last_pass is not None and last_pass <= now:
        return
    wanted = [metric.metric_id for metric in metrics]
    then = (job.closed != schema.OPEN_JOB, job.start_time <= now, job.stop_time > now)
    for block in job_blocks(book.connection, book.site.site_id, now, now + 1, *then):
        rates = read_rates(book.connection, book.site.site_id, block)
        rates = rates.take(np.isin(rates.metric_id, wanted))
        yield _left(known_jobs(book.connection, book.site.site_id, block), rates, now)


def _left(rows: JobRows | JobRecords, rates: Rates, now: int) -> AccountAmounts:
    """What jobs on the machine may still use from *now* until their walltimes end."""
    rates = held_at(rates.take(np.isin(rates.job_id, rows.job_id)), now)
    row = np.searchsorted(rows.job_id, rates.job_id)
    left = np.clip(rows.start_time + rows.walltime - now, 0, np.maximum(rows.walltime, 0))[row]
    nothing = np.zeros(len(rates), np.int64)
    amounts = exact_product(left, rates.used)
    return AccountAmounts(rates.account_id, rates.metric_id, nothing, amounts)

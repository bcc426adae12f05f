"""The jobs themselves, page by page: what each asked for, used and left unused.

A page begins after the last number of the one before. Passes change no number, so no job comes
twice and none that is there is left out, whatever is recorded meanwhile; only `retire` does, which
an administrator runs where OAR was restored.
"""

from collections.abc import Iterator, Mapping, Set
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np
from sqlalchemy import ColumnElement, Connection, and_

from oar_accounting.core.columns import (
    OPEN,
    Ints,
    KeyedAmounts,
    Rates,
    add_up,
    ints,
    located,
)
from oar_accounting.core.parts import by_job
from oar_accounting.core.windows import amounts_between
from oar_accounting.database.id_blocks import among
from oar_accounting.errors import BadSpan
from oar_accounting.ledger import schema
from oar_accounting.ledger.catalog import Names, Site, StoredMetric
from oar_accounting.ledger.job_index import job_blocks
from oar_accounting.ledger.reading import (
    DESCRIPTION,
    Entries,
    JobRecords,
    jobs_where,
    read_entries,
    read_rates,
    read_spans,
)
from oar_accounting.oar.job_rules import RUNNING
from oar_accounting.reports.records import HeldMetric, JobPage, RecordedJob
from oar_accounting.usage.account_groups import AccountGroups
from oar_accounting.usage.job_keys import KeysOfJobs, conditions, held_by, lost_jobs, types_of
from oar_accounting.usage.keys import JOB_KEYS
from oar_accounting.usage.purged_jobs import PurgedRows, read_purged
from oar_accounting.usage.query import check_one_site, check_values, shown_metrics, wanted_metrics
from oar_accounting.usage.usage_query import UsageQuery

#: What of a job must lie within a span: that it ran, or an instant.
Moment = Literal["ran", "submitted", "started", "ended"]
MOMENTS: tuple[Moment, ...] = get_args(Moment)

#: Jobs on a page, at most.
MOST_ON_PAGE = 10_000


@dataclass(frozen=True, slots=True, kw_only=True)
class JobsWanted:
    """Which jobs are wanted: of *wanted* the keys that are filtered by, metrics, span and sizes."""

    wanted: UsageQuery
    now: int  #: epoch seconds
    moment: Moment = "ran"

    @property
    def until(self) -> int:
        """Until when jobs run that have not ended."""
        return self.now if self.wanted.as_of is None else self.wanted.as_of

    def bounds(self) -> tuple[int, int]:
        """The span, which may have no end."""
        start, stop = self.wanted.start, self.wanted.stop
        return (-OPEN if start is None else start, OPEN if stop is None else stop)


def page(
    connection: Connection, site: Site, wanted: JobsWanted, after: int | None, limit: int
) -> JobPage:
    """The next jobs *after* this number, *limit* of them at most.

    Raises :class:`oar_accounting.UnknownName` and :class:`BadSpan`.
    """
    if not 1 <= limit <= MOST_ON_PAGE:
        raise BadSpan(f"{limit} jobs at once: from 1 to {MOST_ON_PAGE} were expected")
    if wanted.moment not in MOMENTS:
        raise BadSpan(f"{wanted.moment!r} is no moment of a job; expected {', '.join(MOMENTS)}")
    found: list[RecordedJob] = []
    reader = _JobReader(connection, site, wanted)
    for block in _blocks(connection, site, wanted, reader.accounts, after):
        # One more than fits tells whether there is a page after this one.
        for at in range(0, len(block), limit + 1):
            found += reader.jobs(block[at : at + limit + 1])
            if len(found) > limit:
                return JobPage(jobs=tuple(found[:limit]), after=found[limit - 1].job_id)
    return JobPage(jobs=tuple(found), after=None)


def _blocks(
    connection: Connection,
    site: Site,
    wanted: JobsWanted,
    accounts: AccountGroups,
    after: int | None,
) -> Iterator[Ints]:
    """The ids of jobs that may be wanted, in ascending blocks."""
    job = schema.jobs.c
    where = wanted.wanted.where
    chosen = [
        job.job_id != schema.CARRIED,
        *conditions(where),
        *accounts.job_conditions(where),
        *_of_moment(wanted),
    ]
    if after is not None:
        chosen.append(job.job_id > after)
    start, stop = wanted.bounds()
    if wanted.moment == "submitted":
        start, stop = -OPEN, OPEN
    elif wanted.moment == "ended" and start > -OPEN:
        # A job touches no instant at which it ends.
        start -= 1
    yield from job_blocks(connection, site.site_id, start, stop, *chosen)


def _of_moment(wanted: JobsWanted) -> list[ColumnElement[bool]]:
    """What a job must be for its moment to lie within the span, as the database tells it."""
    start, stop = wanted.bounds()
    if (start, stop) == (-OPEN, OPEN) and wanted.moment in ("ran", "submitted"):
        return []
    job = schema.jobs.c
    ended = and_(job.closed != schema.OPEN_JOB, job.stop_time > job.start_time, job.start_time > 1)
    running = and_(job.closed == schema.OPEN_JOB, job.state.in_(RUNNING))
    match wanted.moment:
        case "submitted":
            return [job.submission_time >= start, job.submission_time < stop]
        case "started":
            return [job.start_time >= start, job.start_time < stop, ended | running]
        case "ended":
            return [job.stop_time >= start, job.stop_time < stop, ended]
    ran = and_(ended, job.stop_time > start)
    # Of a job that has not ended nothing is known of later times.
    return [job.start_time < stop, ran | running if start < wanted.until else ran]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Details:
    """What jobs held, what was measured of them, and what is known of those that were purged."""

    rates: Rates
    entries: Entries
    purged: PurgedRows

    def accounts(self) -> tuple[Ints, Ints]:
        """The accounts on which there is anything of which job: the jobs and the accounts."""
        every = (self.rates, self.entries, self.purged)
        return (
            np.concatenate([each.job_id for each in every]),
            np.concatenate([each.account_id for each in every]),
        )

    def amounts(self) -> Iterator[KeyedAmounts]:
        """What is known without the spans of the jobs."""
        for each in (self.entries, self.purged):
            none = np.zeros(len(each), np.int64)
            yield KeyedAmounts(none, each.job_id, each.metric_id, each.asked, each.used)


class _JobReader:
    """Reads jobs whole; keeps what is the same for all of them."""

    def __init__(self, connection: Connection, site: Site, wanted: JobsWanted) -> None:
        self._connection = connection
        self._site = site
        asked = wanted.wanted
        check_one_site(site, asked)
        check_values(connection, [site], asked)
        shown = shown_metrics(connection, site)
        self._metrics = [shown[name] for name in wanted_metrics(asked.metrics, shown)]
        (size,) = wanted_metrics([asked.sizes.metric], shown)
        self._size: StoredMetric = shown[size]
        self._as_of = asked.as_of
        self._until = wanted.until
        self.accounts = AccountGroups.of(
            connection, site, (), asked.where, ints([-OPEN, OPEN]), asked.visible_to
        )
        filters = {name: some for name, some in asked.where.items() if name in JOB_KEYS}
        self._keys = KeysOfJobs(connection, site, (), filters, asked.sizes, self._size)
        self._filtered = bool({*asked.where} - {*JOB_KEYS}) or asked.visible_to is not None

    def jobs(self, block: Ints) -> list[RecordedJob]:
        """The jobs of the block that are wanted, by ascending number."""
        block = block[self._keys(block) >= 0]
        if not len(block):
            return []
        rows = jobs_where(self._connection, self._site.site_id, among(block, schema.jobs.c.job_id))
        rows = rows.take(np.isin(rows.job_id, block))
        details = _Details(
            rates=read_rates(self._connection, self._site.site_id, block),
            entries=read_entries(self._connection, self._site.site_id, block),
            purged=read_purged(self._connection, self._site.site_id, block),
        )
        rows = rows.take(self._asked_for(rows, details))
        amounts = self._amounts(rows, details)
        sizes = dict(zip(*(c.tolist() for c in self._held(block)), strict=True))
        lost = {*lost_jobs(self._connection, self._site, block).tolist()}
        return list(self._records(rows, amounts, sizes, lost))

    def _held(self, block: Ints) -> tuple[Ints, Ints]:
        return held_by(self._connection, self._site, block, self._size.metric_id)

    def _asked_for(self, rows: JobRecords, details: "_Details") -> Ints:
        """The rows of jobs whose account is asked for at their start; or one of their parts' is.

        A job over two clusters has a part in each; one that holds nothing is of no cluster.
        """
        if not self._filtered:
            return np.arange(len(rows))
        held, accounts = details.accounts()
        whole = ~np.isin(rows.job_id, held)
        job_id = np.concatenate([rows.job_id[whole], held])
        account = np.concatenate([rows.account_id[whole], accounts])
        at, _ = located(job_id, rows.job_id)
        instant = np.where(rows.start_time > 1, rows.start_time, rows.submission_time)[at]
        part = np.searchsorted(self.accounts.cuts, instant, "right") - 1
        key = np.zeros(len(account), np.int64)
        number, _ = self.accounts.groups_of(account, part, key, None, ())
        chosen: Ints = np.flatnonzero(np.isin(rows.job_id, job_id[number >= 0]))
        return chosen

    def _amounts(
        self, rows: JobRecords, details: "_Details"
    ) -> Mapping[int, Mapping[int, tuple[int, int]]]:
        """Asked and used of the jobs by metric id; open jobs as of the instant that is wanted."""
        ids = rows.job_id
        spans = read_spans(self._connection, self._site.site_id, ids)
        spans = spans.take(np.isin(spans.job_id, ids))
        running = rows.job_id[rows.closed == schema.OPEN_JOB]
        goes_on = (spans.asked == 0) & np.isin(spans.job_id, running)
        # Also of what it used before it was suspended nothing counts after that instant.
        ends = np.minimum(spans.stop_time, -OPEN if self._as_of is None else self._as_of)
        stop = np.where(goes_on, np.maximum(ends, spans.start_time), spans.stop_time)
        spans = type(spans)(spans.job_id, spans.asked, spans.start_time, stop)
        held = amounts_between(*by_job(spans, details.rates), ints([-OPEN]), ints([OPEN]))
        found: dict[int, dict[int, tuple[int, int]]] = {}
        every = add_up(KeyedAmounts.concat([held, *details.amounts()]))
        for job, metric, asked, used in zip(
            every.key.tolist(),
            every.metric_id.tolist(),
            every.asked.tolist(),
            every.used.tolist(),
            strict=True,
        ):
            found.setdefault(job, {})[metric] = (asked, used)
        return found

    def _records(
        self,
        rows: JobRecords,
        amounts: Mapping[int, Mapping[int, tuple[int, int]]],
        sizes: Mapping[int, int],
        lost: Set[int],
    ) -> Iterator[RecordedJob]:
        """The records; of *lost* jobs nothing else is known than the rows."""
        columns = (column.tolist() for column in rows.as_dict().values())
        for values in zip(*columns, strict=True):
            row = dict(zip(JobRecords.__slots__, values, strict=True))
            job = row["job_id"]
            held = None if job in lost else sizes.get(job, 0)
            yield self._record(row, amounts.get(job, {}), held)

    def _record(
        self, row: Mapping[str, Any], amounts: Mapping[int, tuple[int, int]], held: int | None
    ) -> RecordedJob:
        """The job of a row of `JobRecords`, which *held* so much of the metric of sizes."""
        nobody: Names = ("?", "?", "?", "")
        user, project, queue, _ = self.accounts.names.get(row["account_id"], nobody)
        start, stop, walltime = row["start_time"], row["stop_time"], row["walltime"]
        ended = row["closed"] != schema.OPEN_JOB
        runs = not ended and row["state"] in RUNNING
        ran = start > 1 and (runs or (ended and stop > start))
        known = held is not None and (ended or runs or held > 0)
        return RecordedJob(
            job_id=row["job_id"],
            user=user,
            project=project,
            queue=queue,
            state=row["state"],
            types=tuple(types_of(row["types"])),
            submitted=row["submission_time"],
            started=start if ran else None,
            ended=stop if ran and ended else None,
            walltime=walltime if ran or walltime else None,
            waited=max(start - row["submission_time"], 0) if ran else None,
            size=(held or 0) // self._size.metric.scale if known else None,
            metrics=tuple(self._held_metrics(amounts)),
            purged=ran and row["closed"] == schema.PURGED_JOB,
            ran=(stop if ended else max(self._until, start)) - start if ran else None,
            **{name: row[name] for name in DESCRIPTION},
        )

    def _held_metrics(self, amounts: Mapping[int, tuple[int, int]]) -> Iterator[HeldMetric]:
        for stored in self._metrics:
            if stored.metric_id in amounts:
                asked, used = amounts[stored.metric_id]
                metric = stored.metric
                yield HeldMetric(
                    metric=metric.name,
                    unit=metric.unit,
                    scale=metric.scale,
                    asked=asked,
                    used=used,
                )

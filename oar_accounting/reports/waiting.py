"""How long jobs waited: the median, the 90th percentile and more, by queue, size or other keys."""

from collections import defaultdict
from collections.abc import Iterator

import numpy as np
from sqlalchemy import ColumnElement, Connection, and_, exists, func, or_, select

from oar_accounting.core.columns import OPEN, Ints, ints
from oar_accounting.database import bulk
from oar_accounting.database.id_blocks import among
from oar_accounting.errors import UnknownName
from oar_accounting.ledger import schema
from oar_accounting.ledger.catalog import Site
from oar_accounting.ledger.job_index import job_blocks
from oar_accounting.oar.job_rules import RUNNING
from oar_accounting.oar.waiting_jobs import NO_RESERVATION
from oar_accounting.reports.records import Waiting
from oar_accounting.usage.account_groups import AccountGroups
from oar_accounting.usage.job_keys import KeysOfJobs, conditions
from oar_accounting.usage.keys import JOB_KEYS, Group, names_of
from oar_accounting.usage.query import (
    check_one_site,
    check_values,
    shown_metrics,
    sort_key,
    wanted_metrics,
)
from oar_accounting.usage.usage_query import UsageQuery

#: Waits and how many jobs waited so long, both ascending by wait.
Counted = tuple[Ints, Ints]


def waiting(connection: Connection, site: Site, wanted: UsageQuery) -> list[Waiting]:
    """The waits of jobs that started within the span, by the keys of *wanted*, sorted by group.

    A start before the submission is no wait. Advance reservations, which were promised their start,
    did not wait; what an earlier version recorded is not known to be one, and counts. Jobs that OAR
    gave up before they ran did not start. Memory grows with the number of different waits.
    Raises :class:`UnknownName` and :class:`oar_accounting.BadSpan`.
    """
    for name in {*wanted.by, *wanted.where} & {names_of(site)[-1]}:
        raise UnknownName(f"a job waits for all its resources, whatever their {name}")
    found: defaultdict[Group, list[Counted]] = defaultdict(list)
    for group, waits in _waits(connection, site, wanted):
        some = found[group]
        some.append(np.unique(waits, return_counts=True))
        if len(some) > 8:
            found[group] = [_joined(some)]
    return [
        _told(group, *_joined(found[group]))
        for group in sorted(found, key=lambda each: sort_key(wanted.by, each))
    ]


def _joined(parts: list[Counted]) -> Counted:
    wait, place = np.unique(np.concatenate([wait for wait, _ in parts]), return_inverse=True)
    count = np.zeros(len(wait), np.int64)
    np.add.at(count, place, np.concatenate([count for _, count in parts]))
    return wait, count


def _told(group: Group, wait: Ints, count: Ints) -> Waiting:
    jobs = int(count.sum())
    upto = np.cumsum(count)

    def percentile(percent: int) -> int:
        """The least wait that so many percent of the jobs, or more, did not exceed."""
        return int(wait[np.searchsorted(upto, -(-jobs * percent // 100), "left")])

    total = sum(a * b for a, b in zip(wait.tolist(), count.tolist(), strict=True))
    return Waiting(
        group=group,
        jobs=jobs,
        mean=total // jobs,
        median=percentile(50),
        percentile_90=percentile(90),
        longest=int(wait[-1]),
    )


def _waits(connection: Connection, site: Site, wanted: UsageQuery) -> Iterator[tuple[Group, Ints]]:
    """Groups with waits of some of their jobs."""
    check_one_site(site, wanted)
    check_values(connection, [site], wanted)
    start = -OPEN if wanted.start is None else wanted.start
    stop = OPEN if wanted.stop is None else wanted.stop
    shown = shown_metrics(connection, site)
    accounts = AccountGroups.of(
        connection, site, wanted.by, wanted.where, ints([start, stop]), wanted.visible_to
    )
    keys = None
    if wanted.keys_of_jobs():
        keys = KeysOfJobs(
            connection,
            site,
            [name for name in wanted.by if name in JOB_KEYS],
            {name: some for name, some in wanted.where.items() if name in JOB_KEYS},
            wanted.sizes,
            shown[wanted_metrics([wanted.sizes.metric], shown)[0]],
        )
    chosen = (*conditions(wanted.where), *accounts.job_conditions(wanted.where))
    for block in job_blocks(connection, site.site_id, start, stop, *chosen):
        job_id, account, submitted, started = _started(connection, site, block, start, stop)
        key = np.zeros(len(job_id), np.int64) if keys is None else keys(job_id)
        asked_for = key >= 0
        account, submitted, started, key = (
            column[asked_for] for column in (account, submitted, started, key)
        )
        part = np.searchsorted(accounts.cuts, started, "right") - 1
        number, groups = accounts.groups_of(account, part, key, keys, wanted.by)
        waits = np.maximum(started - submitted, 0)
        for each in np.unique(number[number >= 0]).tolist():
            yield groups[each], waits[number == each]


def _started(connection: Connection, site: Site, block: Ints, start: int, stop: int) -> list[Ints]:
    """Number, account, submission and start of the jobs of the block that started in the span."""
    job = schema.jobs.c
    ran = ((job.closed != schema.OPEN_JOB) & (job.stop_time > job.start_time) & ~_given_up()) | (
        (job.closed == schema.OPEN_JOB) & job.state.in_(RUNNING)
    )
    query = select(job.job_id, job.account_id, job.submission_time, job.start_time).where(
        job.site_id == site.site_id,
        among(block, job.job_id),
        job.start_time >= start,
        job.start_time < stop,
        job.start_time > 1,
        job.job_id != schema.CARRIED,
        func.coalesce(job.reservation, NO_RESERVATION[0]).in_(NO_RESERVATION),
        ran,
    )
    columns = bulk.read_ints(connection, query.order_by(job.job_id))
    ours = np.isin(columns[0], block)
    return [column[ours] for column in columns]


def _given_up() -> ColumnElement[bool]:
    """True for ended jobs that never ran: they failed, and nothing that they held is recorded.

    Inner jobs hold nothing either where their container is billed. Of what an earlier version
    purged nothing is known, and it counts as if it had run.
    """
    job, rate, row = schema.jobs.c, schema.rates.c, schema.purged.c
    holds = exists().where(rate.site_id == job.site_id, rate.job_id == job.job_id)
    kept = exists().where(row.site_id == job.site_id, row.job_id == job.job_id)
    held = kept.where((row.rate != 0) | (row.asked != 0) | (row.used != 0))
    return and_(
        job.state != "Terminated",
        ~or_(job.types.like("inner=%"), job.types.like("%,inner=%")),
        or_(
            and_(job.closed != schema.PURGED_JOB, ~holds),
            and_(job.closed == schema.PURGED_JOB, kept, ~held),
        ),
    )

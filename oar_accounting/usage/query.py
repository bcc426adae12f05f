"""Answers about what is recorded: who used how much of what, when.

SQL sums by account and metric; names are put to them here, so that two names are one only where
every byte is equal, on every database.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from sqlalchemy import ColumnElement, Connection, and_, func, select

from oar_accounting.core import formats, periods
from oar_accounting.core.columns import OPEN, Ints, ints
from oar_accounting.errors import UnknownName
from oar_accounting.ledger import catalog, schema
from oar_accounting.ledger.catalog import Site, StoredMetric, stored_metrics
from oar_accounting.ledger.reading import open_jobs
from oar_accounting.usage.account_groups import AccountGroups, visible_names
from oar_accounting.usage.amounts import amounts_of
from oar_accounting.usage.from_jobs import open_ids, read_held
from oar_accounting.usage.job_keys import (
    STATES,
    KeysOfJobs,
    conditions,
    known_types,
)
from oar_accounting.usage.keys import JOB_KEYS, SITE, Group, find_place
from oar_accounting.usage.ledger_query import FoundSums, LedgerQuery, Sums
from oar_accounting.usage.prorated import adjustments, in_windows, openings
from oar_accounting.usage.records import ShownMetric
from oar_accounting.usage.result import AMOUNT_COLUMNS, UsageColumns, added_up, amounts_by_share
from oar_accounting.usage.usage_query import UsageQuery

#: The span of an answer without bounds.
ALWAYS = (-OPEN, OPEN)


def usage(connection: Connection, own: Site, wanted: UsageQuery) -> UsageColumns:
    """What was asked and used, at the site that asks where others are not named.

    Raises :class:`UnknownName` and :class:`BadSpan`.
    """
    sites = sites_of(connection, own, wanted)
    check_values(connection, sites, wanted)
    found = [_of_site(connection, site, wanted) for site in sites]
    return found[0] if len(found) == 1 else _together(found)


def count_open_jobs(connection: Connection, own: Site, wanted: UsageQuery) -> int:
    """How many jobs hold resources now, of those that are asked about."""
    sites = sites_of(connection, own, wanted)
    if not {*wanted.where} - {SITE} and wanted.visible_to is None:
        return sum(open_jobs(connection, site.site_id) for site in sites)
    count = 0
    for site in sites:
        question = SiteQuery.of(connection, site, wanted).question
        _, rates = read_held(connection, question, open_ids(connection, question))
        count += len(np.unique(rates.job_id))
    return count


def _together(found: Sequence[UsageColumns]) -> UsageColumns:
    """The answers of several sites as one."""
    groups: dict[Group, int] = {}
    shown = dict.fromkeys(metric for each in found for metric in each.metrics)
    names = list(dict.fromkeys(metric.name for metric in shown))
    # One metric may have a unit of its own at each site: these stand next to each other.
    ordered = sorted(shown, key=lambda metric: names.index(metric.name))
    metrics = {metric: nth for nth, metric in enumerate(ordered)}
    keys: list[list[Ints]] = [[], [], [], []]
    for each in found:
        group = ints([groups.setdefault(name, len(groups)) for name in each.groups])
        metric = ints([metrics[name] for name in each.metrics])
        rows = (each.start, each.stop, group[each.group], metric[each.metric])
        for column, values in zip(keys, rows, strict=True):
            column.append(values)
    start, stop, group, metric = (np.concatenate(column) for column in keys)
    by = found[0].by
    return added_up(
        by,
        list(groups),
        ordered,
        (start, stop, group, metric),
        [np.concatenate([getattr(each, name) for each in found]) for name in AMOUNT_COLUMNS],
        np.concatenate([each.accuracy for each in found]),
        [sort_key(by, each) for each in groups],
    )


# -- one site ---------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class SiteQuery:
    """What is asked of one site, and how its answer is told to people."""

    wanted: UsageQuery
    question: LedgerQuery
    buckets: Ints
    accounts: AccountGroups
    jobs: KeysOfJobs | None
    metrics: tuple[StoredMetric, ...]  #: that are wanted, in their order

    @classmethod
    def of(cls, connection: Connection, site: Site, wanted: UsageQuery) -> "SiteQuery":
        """What is wanted of the site. Raises :class:`UnknownName` and :class:`BadSpan`."""
        shown = shown_metrics(connection, site)
        metrics = tuple(shown[name] for name in wanted_metrics(wanted.metrics, shown))
        ids = [each.metric_id for each in metrics]
        buckets = _buckets(connection, site, wanted, ids)
        accounts = AccountGroups.of(
            connection, site, wanted.by, wanted.where, buckets, wanted.visible_to
        )
        (size,) = wanted_metrics([wanted.sizes.metric], shown)
        keys = _keys_of_jobs(connection, site, wanted, shown[size])
        question = LedgerQuery(
            site=site,
            metrics=ids,
            cuts=accounts.cuts,
            accounts=accounts.chosen(),
            as_of=wanted.as_of,
            adjusted=wanted.adjusted,
            job_keys=keys,
            job_conditions=(
                *conditions(wanted.where),
                *accounts.job_conditions(wanted.where),
                *_ended(wanted),
            ),
            # A job touches no instant at which it ends.
            jobs_within=ALWAYS if wanted.ended is None else (wanted.ended[0] - 1, wanted.ended[1]),
        )
        return cls(
            wanted=wanted,
            question=question,
            buckets=buckets,
            accounts=accounts,
            jobs=keys,
            metrics=metrics,
        )

    def groups_of(self, account_id: Ints, job_key: Ints, part: Ints) -> tuple[Ints, list[Group]]:
        """The group of each account and job key in a part, -1 for one not asked for, by number."""
        return self.accounts.groups_of(account_id, part, job_key, self.jobs, self.wanted.by)

    def bucket_of(self, part: Ints) -> Ints:
        """The number of the bucket that each part is in."""
        bucket: Ints = np.searchsorted(self.buckets, self.question.cuts[part], "right") - 1
        return bucket


def _keys_of_jobs(
    connection: Connection, site: Site, wanted: UsageQuery, size: StoredMetric
) -> KeysOfJobs | None:
    """What tells jobs apart; None where their accounts are enough."""
    if not wanted.keys_of_jobs() and wanted.ended is None:
        return None
    return KeysOfJobs(
        connection,
        site,
        [name for name in wanted.by if name in JOB_KEYS],
        {name: values for name, values in wanted.where.items() if name in JOB_KEYS},
        wanted.sizes,
        size,
        _ended(wanted),
    )


def _ended(wanted: UsageQuery) -> list[ColumnElement[bool]]:
    if wanted.ended is None:
        return []
    job, (start, stop) = schema.jobs.c, wanted.ended
    return [job.closed != schema.OPEN_JOB, job.stop_time >= start, job.stop_time < stop]


def _of_site(connection: Connection, site: Site, wanted: UsageQuery) -> UsageColumns:
    if wanted.whole_windows and _reaches_into_none(site.terms.window, wanted):
        site_query = SiteQuery.of(connection, site, replace(wanted, whole_windows=False))
        none = Sums.concat([])
        answer = FoundSums(jobs=none, openings=none, adjustments=none)
    else:
        site_query = SiteQuery.of(connection, site, wanted)
        answer = amounts_of(connection, site_query.question)
    rows, amounts = amounts_by_share(answer)
    number, groups = site_query.groups_of(rows.account_id, rows.job_key, rows.part)
    bucket = site_query.bucket_of(rows.part)
    ids = ints(site_query.question.metrics)
    order = np.argsort(ids)
    metric = order[np.searchsorted(ids, rows.metric_id, sorter=order)]
    counts = number >= 0
    starts, stops = site_query.buckets[bucket], site_query.buckets[bucket + 1]
    return added_up(
        wanted.by,
        groups,
        [shown_metric(stored) for stored in site_query.metrics],
        (starts[counts], stops[counts], number[counts], metric[counts]),
        [amount[counts] for amount in amounts],
        rows.accuracy[counts],
        [sort_key(wanted.by, group) for group in groups],
    )


def shown_metric(stored: StoredMetric) -> ShownMetric:
    """What is told of a metric in an answer."""
    return ShownMetric(name=stored.metric.name, unit=stored.metric.unit, scale=stored.metric.scale)


def shown_metrics(connection: Connection, site: Site) -> dict[str, StoredMetric]:
    """The metrics of the site that are complete, by name."""
    return {
        stored.metric.name: stored
        for stored in stored_metrics(connection, site.site_id)
        if stored.state == schema.ACTIVE
    }


def wanted_metrics(wanted: Iterable[str] | None, known: Mapping[str, Any]) -> list[str]:
    """The names that are wanted, once each; all where it is None. Raises :class:`UnknownName`."""
    if wanted is None:
        return list(known)
    names = list(dict.fromkeys(wanted))
    for name in names:
        if name not in known:
            raise UnknownName(f"unknown metric {name!r}; recorded are {', '.join(known) or 'none'}")
    return names


def sort_key(by: Sequence[str], group: Group) -> tuple[tuple[int, str], ...]:
    """What a group is sorted by: jobs and sizes by number, everything else by its name."""
    return tuple(
        (_number(value), "") if name in ("job", "size") else (0, value)
        for name, value in zip(by, group, strict=True)
    )


def _number(label: str) -> int:
    digits = label.removesuffix("+")
    first = digits[:1] + digits[1:].partition("-")[0]
    return int(first) if first else -OPEN


def _buckets(
    connection: Connection, site: Site, wanted: UsageQuery, metrics: Sequence[int]
) -> Ints:
    """The bounds of the buckets, or those of the whole span."""
    start, stop = wanted.start, wanted.stop
    if wanted.whole_windows:
        start, stop = _around(site.terms.window, start, stop)
    if wanted.bucket is None:
        return ints([ALWAYS[0] if start is None else start, ALWAYS[1] if stop is None else stop])
    zone = periods.zone(wanted.timezone)
    if start is None or stop is None:
        first, last = _extent(connection, site, metrics)
        last = last if wanted.as_of is None else max(last, wanted.as_of)
        if start is None:
            start = first if stop is None else min(first, stop - 1)
        stop = max(last, start + 1) if stop is None else stop
    return ints(periods.cuts(start, stop, wanted.bucket, zone))


def _around(window: int, start: int | None, stop: int | None) -> tuple[int | None, int | None]:
    """The windows that OAR's ``oarstat --accounting`` counts of a span: those it reaches into.

    To OAR the last second of a window is its end: a span that begins there does not reach into it.
    """
    first = None if start is None else (start + 1) // window * window
    last = None if stop is None else -(-stop // window) * window
    return first, last


def _reaches_into_none(window: int, wanted: UsageQuery) -> bool:
    """True for a span that is the last second of a window, or a part of it, to OAR."""
    first, last = _around(window, wanted.start, wanted.stop)
    return first is not None and first == last


def _extent(connection: Connection, site: Site, metrics: Sequence[int]) -> tuple[int, int]:
    """When the first amount begins and the last one ends; the same instant where there is none."""
    question = LedgerQuery(site=site, metrics=metrics, cuts=ints(ALWAYS))
    window = site.terms.window
    found: list[tuple[int, int]] = []
    for source in (
        in_windows(schema.totals, window, question),
        openings(question),
        adjustments(question),
    ):
        query = source.query(func.min(source.start), func.max(source.stop))
        found += [(row[0], row[1]) for row in connection.execute(query) if row[0] is not None]
    # What open jobs asked for ends when their walltime does.
    span, job = schema.spans.c, schema.jobs.c
    of_open = and_(
        job.site_id == site.site_id,
        job.unsettled == 1,
        job.closed == schema.OPEN_JOB,
        span.site_id == job.site_id,
        span.job_id == job.job_id,
    )
    ends = func.coalesce(span.stop_time, span.start_time)
    query = select(func.min(span.start_time), func.max(ends)).where(of_open)
    found += [(row[0], row[1]) for row in connection.execute(query) if row[0] is not None]
    if not found:
        return 0, 0
    return int(min(row[0] for row in found)), int(max(row[1] for row in found))


# -- names that somebody mistyped --------------------------------------------------------------


def check_values(connection: Connection, sites: Sequence[Site], wanted: UsageQuery) -> None:
    """Raise :class:`UnknownName` where nothing has a value that is asked for."""
    for name, values in wanted.where.items():
        if name == "job":
            continue
        known = _known_values(connection, sites, name, wanted)
        for value in sorted(values - known - {""}):
            raise UnknownName(f"{name} {value!r} is not recorded{formats.meant(value, known)}")


def _known_values(
    connection: Connection, sites: Sequence[Site], name: str, wanted: UsageQuery
) -> set[str]:
    if name == "state":
        return set(STATES)
    if name == "size":
        return set(wanted.sizes.labels())
    known: set[str] = set()
    if name == "type":
        for site in sites:
            accounts = visible_names(connection, site, wanted.visible_to)
            known |= known_types(connection, site, accounts)
        return known
    for site in sites:
        place = find_place(connection, site, name)
        for names in visible_names(connection, site, wanted.visible_to).values():
            known |= {value for _, _, value in place.values(names, *ALWAYS)}
    return known


def check_one_site(site: Site, wanted: UsageQuery) -> None:
    """Raise :class:`UnknownName` where others are asked for than the one site that can answer."""
    for other in sorted(wanted.where.get(SITE, frozenset()) - {site.name}):
        raise UnknownName(
            f"site {other!r}: this is answered for one site at a time, here for {site.name!r}; "
            "another one is asked with its own settings"
        )


def sites_of(connection: Connection, own: Site, wanted: UsageQuery) -> list[Site]:
    """The sites that are asked about: the own one, unless they are told apart or named.

    Raises :class:`UnknownName`.
    """
    if SITE not in {*wanted.by, *wanted.where}:
        return [own]
    names = catalog.site_names(connection)
    chosen = wanted.where.get(SITE, frozenset(names))
    for name in sorted(chosen - {*names}):
        raise UnknownName(f"site {name!r} is not recorded{formats.meant(name, names)}")
    return [
        site for name in names if name in chosen and (site := catalog.find_site(connection, name))
    ]

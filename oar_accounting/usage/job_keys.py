"""What tells jobs apart beyond their account: their number, state, types and size."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
from sqlalchemy import ColumnElement, Connection, Select, func, select

from oar_accounting.core.columns import FROM_START, Bools, Ints, distinct, ints
from oar_accounting.database import bulk
from oar_accounting.database.id_blocks import among, id_blocks
from oar_accounting.errors import BadSpan
from oar_accounting.ledger import schema
from oar_accounting.ledger.catalog import Site, StoredMetric
from oar_accounting.ledger.purged import nothing_kept
from oar_accounting.metrics.metric import RESOURCE
from oar_accounting.oar.job_rules import ENDED, RUNNING
from oar_accounting.usage.keys import Group
from oar_accounting.usage.ledger_query import MOST_ACCOUNTS_NAMED

#: The states of a job that OAR or the ledger knows.
STATES = (
    *("Waiting", "Hold", "toLaunch", "toError", "toAckReservation"),
    *(*RUNNING, *ENDED, schema.VANISHED),
)

#: What a size counts from, class by class, as XDMoD has them: 1, 2 to 4, 5 to 8, 9 to 64 ...
SIZE_BOUNDS = (1, 2, 5, 9, 65, 257, 513, 1025)


@dataclass(frozen=True, slots=True, kw_only=True)
class Sizes:
    """The classes of size: by how much a job holds of a metric."""

    metric: str = RESOURCE.name
    bounds: tuple[int, ...] = SIZE_BOUNDS  #: the least that is in each class, ascending from 1

    def __post_init__(self) -> None:
        """Raise :class:`BadSpan` unless the bounds are as they must be."""
        bounds = self.bounds
        if not bounds or bounds[0] < 1 or any(a >= b for a, b in pairwise(bounds)):
            shown = ",".join(map(str, bounds))[:40]
            raise BadSpan(
                f"bounds of sizes {shown!r}: ascending whole numbers from 1 were expected"
            )

    def labels(self) -> list[str]:
        """The names of the classes: less than the first bound, between the bounds, and above."""
        inner = (f"{a}-{b - 1}" if b - a > 1 else f"{a}" for a, b in pairwise(self.bounds))
        below = f"0-{self.bounds[0] - 1}" if self.bounds[0] > 1 else "0"
        return [below, *inner, f"{self.bounds[-1]}+"]

    def classes(self, held: Ints, scale: int) -> Ints:
        """The number of the class of each job, which holds so much in unit / *scale*."""
        bounds = np.array(self.bounds, np.float64) * scale
        return np.searchsorted(bounds, held, "right")


DEFAULT_SIZES = Sizes()


#: The values of a key, and per job of a block the number of its value.
Coded = tuple[Sequence[str], Ints]


class KeysOfJobs:
    """Numbers for what tells jobs apart: a number for each combination of values that is met."""

    def __init__(  # noqa: PLR0913 - where to read, and what
        self,
        connection: Connection,
        site: Site,
        by: Sequence[str],
        where: Mapping[str, frozenset[str]],
        sizes: Sizes,
        size_metric: StoredMetric,
        conditions: Sequence[ColumnElement[bool]] = (),
    ) -> None:
        """The keys *by* of `JOB_KEYS`, of jobs that have one of the values *where*.

        Where there are *conditions*, only jobs for which they hold are asked for.
        """
        self._connection = connection
        self._site = site
        self._by = by
        self._where = where
        self._sizes = sizes
        self._labels = sizes.labels()
        self._size_metric = size_metric
        self._conditions = conditions
        self._numbers: dict[Group, int] = {}

    @property
    def values(self) -> list[Group]:
        """The values of the keys by number."""
        return list(self._numbers)

    def __call__(self, ids: Ints) -> Ints:
        """The number of each job, by ascending ids; -1 for one that is not asked for."""
        found = [ints([]), *(self._of_block(block) for block in id_blocks(ids))]
        return np.concatenate(found)

    def _of_block(self, block: Ints) -> Ints:
        chosen = self._asked_for(block)
        coded = self._coded(block)
        for name, wanted in self._where.items():
            values, number = coded[name]
            matches = [_matches(name, value, wanted) for value in values]
            chosen &= np.array(matches, np.bool_)[number]
        key = np.zeros(len(block), np.int64)
        for name in self._by:
            values, number = coded[name]
            key = key * len(values) + number
        _, first, place = np.unique(key[chosen], return_index=True, return_inverse=True)
        groups = [self._group(coded, row) for row in np.flatnonzero(chosen)[first].tolist()]
        numbers = [self._numbers.setdefault(group, len(self._numbers)) for group in groups]
        found = np.full(len(block), -1)
        found[chosen] = ints(numbers)[place]
        return found

    def _coded(self, block: Ints) -> dict[str, Coded]:
        """What is needed to know of the jobs of the block."""
        needed = {*self._by, *self._where}
        coded: dict[str, Coded] = {}
        if "job" in needed:
            numbers = ["" if job == schema.CARRIED else str(job) for job in block.tolist()]
            coded["job"] = (numbers, np.arange(len(block)))
        if needed & {"state", "type"}:
            coded["state"], coded["type"] = self._states_and_types(block)
        if "size" in needed:
            coded["size"] = self._sizes_of(block)
        return coded

    def _group(self, coded: Mapping[str, Coded], row: int) -> Group:
        values = ((name, coded[name][0][coded[name][1][row]]) for name in self._by)
        return tuple(_label(name, value) for name, value in values)

    def _asked_for(self, block: Ints) -> Bools:
        if not self._conditions:
            return np.ones(len(block), np.bool_)
        query = _of_jobs(self._site, block, schema.jobs.c.job_id).where(*self._conditions)
        return np.isin(block, bulk.read_ints(self._connection, query)[0])

    def _states_and_types(self, block: Ints) -> tuple[Coded, Coded]:
        job = schema.jobs.c
        query = _of_jobs(self._site, block, job.job_id, job.state, job.types)
        rows = self._connection.execute(query).all()
        states, types = ({row[0]: row[nth] for row in rows} for nth in (1, 2))
        return _coded(states, block), _coded(types, block)

    def _sizes_of(self, block: Ints) -> Coded:
        job, held = held_by(self._connection, self._site, block, self._size_metric.metric_id)
        amounts = np.zeros(len(block), np.int64)
        amounts[np.searchsorted(block, job)] = held
        classes = self._sizes.classes(amounts, self._size_metric.metric.scale)
        # What is carried is of no job; and of some purged ones nobody knows.
        lost = np.isin(block, lost_jobs(self._connection, self._site, block))
        none = lost | (block == schema.CARRIED)
        return [*self._labels, ""], np.where(none, len(self._labels), classes)


def _of_jobs(site: Site, block: Ints, *columns: ColumnElement[Any]) -> Select[Any]:
    """Columns of the jobs of the block, and maybe of some between them."""
    job = schema.jobs.c
    return select(*columns).where(
        job.site_id == site.site_id, among(block, job.job_id), job.job_id != schema.CARRIED
    )


def _coded(values: Mapping[int, str], block: Ints) -> Coded:
    return distinct([values.get(job, "") for job in block.tolist()])


def _matches(name: str, value: str, wanted: frozenset[str]) -> bool:
    if name == "type":
        return bool(wanted & ({*type_names(value), *types_of(value)} or {""}))
    return value in wanted


def _label(name: str, value: str) -> str:
    """What people are shown of the value of a key."""
    return "+".join(sorted(type_names(value))) if name == "type" else value


def held_by(connection: Connection, site: Site, block: Ints, metric_id: int) -> tuple[Ints, Ints]:
    """The jobs of the block that asked for something of a metric, ascending, and how much of it.

    Where that changed, it is what they began with.
    """
    rate, purged = schema.rates.c, schema.purged.c
    parts = (
        (rate.job_id, rate.asked, (rate.site_id, rate.metric_id), rate.start_time == FROM_START),
        (purged.job_id, purged.rate, (purged.site_id, purged.metric_id), purged.rate > 0),
    )
    found = []
    for job, amount, (of_site, of_metric), first in parts[: 1 if site.purged_before is None else 2]:
        query = select(job, bulk.whole_number(func.sum(amount))).where(
            of_site == site.site_id, among(block, job), of_metric == metric_id, first
        )
        found.append(bulk.read_ints(connection, query.group_by(job)))
    job_id, held = map(np.concatenate, zip(*found, strict=True))
    order = np.argsort(job_id)
    ours = order[np.isin(job_id[order], block)]
    return job_id[ours], held[ours]


def lost_jobs(connection: Connection, site: Site, block: Ints) -> Ints:
    """The jobs of the block of which nobody knows any more what they asked for and used."""
    if site.purged_before is None:
        return ints([])
    query = _of_jobs(site, block, schema.jobs.c.job_id).where(nothing_kept())
    found = bulk.read_ints(connection, query)[0]
    return found[np.isin(found, block)]


def types_of(types: str) -> list[str]:
    """The types of a job, which stand with commas between; one may have a comma of its own."""
    found: list[str] = []
    for part in types.split(",") if types else []:
        if found and found[-1] in ("timesharing=*", "timesharing=user") and part in ("*", "name"):
            found[-1] += f",{part}"
        else:
            found.append(part)
    return found


def type_names(types: str) -> set[str]:
    """The same without what stands behind an equals sign: all inner jobs are ``inner``."""
    return {each.partition("=")[0] for each in types_of(types)}


def known_types(connection: Connection, site: Site, accounts: Collection[int]) -> set[str]:
    """The types, and their names, that jobs of these accounts have."""
    job = schema.jobs.c
    query = select(job.account_id, job.types).where(job.site_id == site.site_id).distinct()
    if len(accounts) <= MOST_ACCOUNTS_NAMED:
        query = query.where(job.account_id.in_([*accounts]))
    every = {types for account, types in connection.execute(query) if account in accounts}
    return {name for types in every for name in (*type_names(types), *types_of(types))}


def conditions(where: Mapping[str, frozenset[str]]) -> list[ColumnElement[bool]]:
    """What the database can tell of the values that jobs must have."""
    job = schema.jobs.c
    found: list[ColumnElement[bool]] = []
    if "job" in where:
        numbers = [int(each) for each in where["job"] if each]
        found.append(job.job_id.in_(numbers))
    if "state" in where:
        found.append(job.state.in_(sorted(where["state"])))
    return found

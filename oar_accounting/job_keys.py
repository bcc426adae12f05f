"""What tells jobs apart beyond their account: their number, state, types and size."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from sqlalchemy import ColumnElement, Connection, func, select

from oar_accounting import bulk, schema
from oar_accounting.blocks import among, id_blocks
from oar_accounting.catalog import Site, StoredMetric
from oar_accounting.columns import Ints
from oar_accounting.groupings import Group
from oar_accounting.metrics import RESOURCE
from oar_accounting.readings import ENDED, RUNNING

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
    bounds: tuple[int, ...] = SIZE_BOUNDS  #: the least that is in each class, ascending

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
        if not len(ids):
            return ids
        found = [self._of_block(block) for block in id_blocks(ids)]
        return np.array([number for numbers in found for number in numbers], np.int64)

    def _of_block(self, block: Ints) -> Iterable[int]:
        ids = block.tolist()
        asked_for = self._asked_for(block)
        states, types = self._states_and_types(block)
        sizes = self._sizes_of(block)
        for job in ids:
            values = {
                "job": "" if job == schema.CARRIED else str(job),
                "type": "+".join(sorted(type_names(types.get(job, "")))),
                "state": states.get(job, ""),
                "size": sizes.get(job, ""),
            }
            if job not in asked_for or not self._chosen(values, types.get(job, "")):
                yield -1
                continue
            group = tuple(values[name] for name in self._by)
            yield self._numbers.setdefault(group, len(self._numbers))

    def _asked_for(self, block: Ints) -> set[int]:
        if not self._conditions:
            return set(block.tolist())
        job = schema.jobs.c
        query = select(job.job_id).where(
            job.site_id == self._site.site_id,
            among(block, job.job_id),
            job.job_id != schema.CARRIED,
            *self._conditions,
        )
        return set(bulk.read_ints(self._connection, query)[0].tolist())

    def _chosen(self, values: Mapping[str, str], types: str) -> bool:
        for name, wanted in self._where.items():
            if name == "type":
                if not wanted & ({*type_names(types), *types_of(types)} or {""}):
                    return False
            elif values[name] not in wanted:
                return False
        return True

    def _states_and_types(self, block: Ints) -> tuple[dict[int, str], dict[int, str]]:
        if not {"state", "type"} & {*self._by, *self._where}:
            return {}, {}
        job = schema.jobs.c
        query = select(job.job_id, job.state, job.types).where(
            job.site_id == self._site.site_id,
            among(block, job.job_id),
            job.job_id != schema.CARRIED,
        )
        rows = self._connection.execute(query).all()
        return {row[0]: row[1] for row in rows}, {row[0]: row[2] for row in rows}

    def _sizes_of(self, block: Ints) -> dict[int, str]:
        if "size" not in {*self._by, *self._where}:
            return {}
        job, held = held_by(self._connection, self._site, block, self._size_metric.metric_id)
        amounts = np.zeros(len(block), np.int64)
        amounts[np.searchsorted(block, job)] = held
        classes = self._sizes.classes(amounts, self._size_metric.metric.scale)
        labels = [self._labels[number] for number in classes.tolist()]
        sized = dict(zip(block.tolist(), labels, strict=True))
        sized.pop(schema.CARRIED, None)
        return sized


def held_by(connection: Connection, site: Site, block: Ints, metric_id: int) -> tuple[Ints, Ints]:
    """The jobs of the block that asked for something of a metric, ascending, and how much of it."""
    rate = schema.rates.c
    query = (
        select(rate.job_id, bulk.whole_number(func.sum(rate.asked)))
        .where(rate.site_id == site.site_id, among(block, rate.job_id), rate.metric_id == metric_id)
        .group_by(rate.job_id)
        .order_by(rate.job_id)
    )
    job, held = bulk.read_ints(connection, query)
    ours = np.isin(job, block)
    return job[ours], held[ours]


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

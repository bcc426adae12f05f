"""How many resources jobs ask for that were assigned none yet, as far as OAR knows it.

A job may ask in several ways (moldables): the first one tells, as for the walltime. Each has groups
of levels, such as two nodes with four cores each: so many of the deepest level, times how many of
OAR's resources of type default one of these is. Where that is not the same for all of them, as for
nodes of different sizes, or where all or the best are asked for, it is not known before the start.
"""

import re
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from math import prod

from sqlalchemy import Connection, select

from oar_accounting.core.columns import LARGEST, Ints
from oar_accounting.database.id_blocks import among, id_blocks
from oar_accounting.errors import OarSchemaError
from oar_accounting.metrics.metric import Resources
from oar_accounting.oar import oar_tables
from oar_accounting.oar.checking import check_columns

#: The type of resources that a group is of, in the SQL of its property.
TYPE = re.compile(r"\btype\s*=\s*'([^']*)'", re.I)

#: Property and number, from the highest level to the deepest.
Levels = Sequence[tuple[str, int]]


class Requests:
    """What jobs of one OAR ask for."""

    def __init__(self) -> None:
        self._readable: bool | None = None

    def groups(self, connection: Connection, jobs: Ints) -> dict[int, list[Levels]]:
        """The groups of the first moldable of each job; nothing where OAR's tables are unread."""
        if not self._can_read(connection):
            return {}
        found: dict[int, list[Levels]] = {}
        for block in id_blocks(jobs):
            found |= _groups(connection, block)
        return found

    def _can_read(self, connection: Connection) -> bool:
        if self._readable is None:
            try:
                for table in (oar_tables.resource_groups, oar_tables.resource_descriptions):
                    check_columns(connection, table)
                self._readable = True
            except OarSchemaError:
                self._readable = False
        return self._readable


def _groups(connection: Connection, block: Ints) -> dict[int, list[Levels]]:
    moldable, group = oar_tables.moldables.c, oar_tables.resource_groups.c
    level = oar_tables.resource_descriptions.c
    query = (
        select(
            moldable.moldable_job_id,
            moldable.moldable_id,
            group.res_group_id,
            group.res_group_property,
            level.res_job_resource_type,
            level.res_job_value,
        )
        .join_from(
            oar_tables.moldables,
            oar_tables.resource_groups,
            group.res_group_moldable_id == moldable.moldable_id,
        )
        .join(oar_tables.resource_descriptions, level.res_job_group_id == group.res_group_id)
        .where(among(block, moldable.moldable_job_id))
        .order_by(moldable.moldable_id.desc(), level.res_job_order)
    )
    first: dict[int, int] = {}
    levels: defaultdict[tuple[int, int], list[tuple[str, int]]] = defaultdict(list)
    for job, number, nth, said, name, count in connection.execute(query):
        first[int(job)] = int(number)
        levels[int(number), int(nth)] += [(str(name), int(count))] if _is_default(said) else []
    by_moldable: defaultdict[int, list[Levels]] = defaultdict(list)
    for (number, _), found in sorted(levels.items()):
        by_moldable[number].append(found)
    # Where ids lie close together, some between them are found, too.
    return {job: by_moldable[first[job]] for job in block.tolist() if job in first}


def _is_default(said: str | None) -> bool:
    """True for a group of resources of type default, as are all that say nothing of it."""
    found = TYPE.search(said or "")
    return found is None or found[1] == "default"


def properties_in(groups: Mapping[int, Sequence[Levels]], known: frozenset[str]) -> tuple[str, ...]:
    """The properties that the levels name, sorted, as far as OAR has them."""
    named = {name for each in groups.values() for levels in each for name, _ in levels}
    return tuple(sorted((named & known) - {"resource_id", "type"}))


def sizes_of(groups: Mapping[int, Sequence[Levels]], resources: Resources) -> dict[int, int]:
    """How many resources of type default each job asks for; without those of which it is unknown.

    *resources*: OAR's, with the properties that are named.
    """
    each: dict[tuple[str, ...], int | None] = {}
    found = {}
    for job, some in groups.items():
        counts = []
        for levels in filter(None, some):
            names = tuple(name for name, _ in levels)
            if names not in each:
                each[names] = _resources_of_one(names, resources)
            one = each[names]
            known = one is not None and all(count > 0 for _, count in levels)
            counts.append(prod(count for _, count in levels) * (one or 0) if known else None)
        size = sum(count or 0 for count in counts)
        if counts and None not in counts and size <= LARGEST:
            found[job] = size
    return found


def _resources_of_one(names: Sequence[str], resources: Resources) -> int | None:
    """How many resources the deepest of these levels has, if all of them have as many."""
    columns = []
    for name in names:
        if name == "resource_id":
            columns.append(resources.resource_id.tolist())
        elif name in resources.properties:
            columns.append(resources.properties[name])
        else:
            return None
    rows = zip(resources.type, zip(*columns, strict=True), strict=True)
    counts = Counter(values for kind, values in rows if kind == "default" and None not in values)
    different = set(counts.values())
    return different.pop() if len(different) == 1 else None

"""The jobs that wait, and what each counts for under a key."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from sqlalchemy import Connection

from oar_accounting.core.columns import Ints, Texts, ints
from oar_accounting.karma.entities import value_of
from oar_accounting.ledger.catalog import Names, Site
from oar_accounting.ledger.recorded_names import RecordedNames
from oar_accounting.oar.waiting_jobs import Queued, named_value
from oar_accounting.usage.keys import Key

QUEUE = "queue"


@dataclass(frozen=True, slots=True)
class Waiters:
    """Jobs that wait, with the names that an account of theirs would have.

    Many jobs have the same names: what depends on these alone is found once for all of them.
    """

    jobs: Queued
    different: list[Names]
    number: Ints  #: of each job, which of the different names it has

    def values(self, key: Key, instant: int) -> list[str]:
        """What the key says of every job at an instant."""
        different = self.different_values(key, instant)
        return [different[number] for number in self.number.tolist()]

    def different_values(self, key: Key, instant: int) -> list[str]:
        """What the key says of each of the different names at an instant."""
        if key.members is None:
            return [names[key.place] for names in self.different]
        return [value_of(key, names, instant) for names in self.different]

    def of_each(self, values: Sequence[str]) -> Texts:
        """What is known of each of the different names, for every job."""
        return np.array([*values, ""], dtype=object)[self.number]


def renamed(connection: Connection, site: Site, jobs: Queued) -> Queued:
    """The same jobs under the names that are recorded."""
    recorded = RecordedNames.of(connection, site)
    users, projects = (
        np.array([recorded.name(name) for name in column], dtype=object)
        for column in (jobs.user, jobs.project)
    )
    return replace(jobs, user=users, project=projects)


def waiters(connection: Connection, site: Site, jobs: Queued) -> Waiters:
    """The jobs under the names they are recorded with; the dimension as their condition tells."""
    recorded = RecordedNames.of(connection, site)
    numbers: dict[tuple[str, ...], int] = {}
    columns = zip(jobs.user, jobs.project, jobs.queue, jobs.properties, strict=True)
    number = ints([numbers.setdefault(each, len(numbers)) for each in columns])
    conditions = {condition for *_, condition in numbers}
    values = {each: named_value(each, site.terms.dimension) for each in conditions}
    different = [
        (recorded.name(user), recorded.name(project), queue, values[condition])
        for user, project, queue, condition in numbers
    ]
    found = Waiters(jobs, different, number)
    users, projects = (found.of_each([names[place] for names in different]) for place in (0, 1))
    return replace(found, jobs=replace(jobs, user=users, project=projects))

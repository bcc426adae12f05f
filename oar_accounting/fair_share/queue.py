"""The jobs that wait, and what each counts for under a key."""

from dataclasses import dataclass, replace

import numpy as np
from sqlalchemy import Connection

from oar_accounting.catalog import Names, Site
from oar_accounting.fair_share.entities import value_of
from oar_accounting.forgotten import Forgotten
from oar_accounting.groupings import Key
from oar_accounting.oar_waiting import Queued, named_value

QUEUE = "queue"


@dataclass(frozen=True, slots=True)
class Waiters:
    """Jobs that wait, with the names that an account of theirs would have."""

    jobs: Queued
    names: list[Names]

    def values(self, key: Key, instant: int) -> list[str]:
        """What the key says of every job at an instant."""
        if key.members is None:
            return [names[key.place] for names in self.names]
        known: dict[Names, str] = {}
        for names in self.names:
            if names not in known:
                known[names] = value_of(key, names, instant)
        return [known[names] for names in self.names]


def renamed(connection: Connection, site: Site, jobs: Queued) -> Queued:
    """The same jobs, those of forgotten users under their pseudonyms."""
    forgotten = Forgotten.of(connection, site.site_id)
    # Many jobs have the same names.
    names = {name: forgotten.name(name) for name in {*jobs.user, *jobs.project}}
    users, projects = (
        np.array([names[name] for name in column], dtype=object)
        for column in (jobs.user, jobs.project)
    )
    return replace(jobs, user=users, project=projects)


def waiters(connection: Connection, site: Site, jobs: Queued) -> Waiters:
    """The jobs under the names they are recorded with; the dimension as their condition tells."""
    jobs = renamed(connection, site, jobs)
    values = {each: named_value(each, site.terms.dimension) for each in set(jobs.properties)}
    columns = zip(jobs.user, jobs.project, jobs.queue, jobs.properties, strict=True)
    return Waiters(
        jobs,
        [(user, project, queue, values[condition]) for user, project, queue, condition in columns],
    )

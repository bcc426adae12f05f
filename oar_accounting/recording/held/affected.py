"""Which recorded jobs hold something else now, though OAR tells the same of the jobs themselves.

Jobs on the machine whose resources were changed, and those within a container that was settled.
"""

from collections.abc import Mapping, Sequence

import numpy as np
from sqlalchemy import Connection, or_

from oar_accounting.core.columns import OPEN, Ints, ints
from oar_accounting.database.id_blocks import id_blocks
from oar_accounting.ledger import schema
from oar_accounting.ledger.catalog import Site, stored_metrics
from oar_accounting.ledger.reading import JobRecords, recorded_ids
from oar_accounting.oar.checking import resource_log_unread
from oar_accounting.oar.job_rules import RUNNING, bills_containers, container_name
from oar_accounting.oar.properties import logged_since, properties_of
from oar_accounting.oar.resource_logs import assigned_among
from oar_accounting.oar.snapshot import Snapshot

#: OAR's clock, and that of a pass, may differ by so many seconds.
CLOCKS_DIFFER = 600


class ChangedResources:
    """The resources of which OAR has logged a property since the last pass; read once."""

    def __init__(self) -> None:
        self._resource_id: Ints | None = None

    def jobs(
        self, connection: Connection, snapshot: Snapshot, site: Site, known: JobRecords
    ) -> Ints:
        """Those of the recorded jobs that are on the machine and hold such a resource."""
        running = (known.closed == schema.OPEN_JOB) & np.isin(known.state, RUNNING)
        found = [ints([])]
        for block in id_blocks(known.job_id[running]):
            resource_id = self._changed(connection, snapshot, site)
            if not len(resource_id):
                break
            for job_id, resource in assigned_among(snapshot.connection, block, resource_id):
                holds = np.isin(resource, resource_id) & np.isin(job_id, block)
                found.append(job_id[holds])
        return np.unique(np.concatenate(found))

    def _changed(self, connection: Connection, snapshot: Snapshot, site: Site) -> Ints:
        if self._resource_id is None:
            self._resource_id = ints([])
            logs = site.terms.profile != "classic" and site.last_pass is not None
            if logs and not resource_log_unread(snapshot.connection):
                metrics = [each.metric for each in stored_metrics(connection, site.site_id)]
                held = [part for metric in metrics for part in (metric, *metric.parts)]
                wanted = properties_of(held, site.terms.dimension)
                since = (site.last_pass or 0) - CLOCKS_DIFFER
                self._resource_id = logged_since(snapshot.connection, wanted, since)
        return self._resource_id


def jobs_within(
    connection: Connection,
    snapshot: Snapshot,
    site: Site,
    types: Mapping[int, Sequence[str]],
    jobs: Mapping[int, int],
) -> Ints:
    """The recorded jobs within those of the *jobs* that are containers, and within these, and on.

    *types*: those of the jobs; *jobs*: by id, before when each did not run, epoch seconds. What
    ended before the first of the containers is not billed to them: a name may serve for years.
    """
    if not bills_containers(site.terms):
        return ints([])
    containers = {job: name for job in jobs if (name := container_name(job, types.get(job, ())))}
    first = min((jobs[job] for job in containers), default=OPEN)
    names = set(containers.values())
    found: set[int] = set()
    while names:
        new = set(snapshot.inner_jobs(sorted(names)).tolist()) - found
        found |= new
        within: dict[int, list[str]] = {}
        for block in id_blocks(ints(sorted(new))):
            within |= snapshot.types(block)
        names = {name for job in new if (name := container_name(job, within.get(job, ())))}
    blocks = id_blocks(ints(sorted(found)))
    job = schema.jobs.c
    lasts = or_(job.closed == schema.OPEN_JOB, job.stop_time > first)
    known = [recorded_ids(connection, site.site_id, block, lasts) for block in blocks]
    return np.unique(np.concatenate([ints([]), *known]))

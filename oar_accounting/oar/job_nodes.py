"""Which nodes jobs hold, from the resources that OAR assigned to them."""

import numpy as np

from oar_accounting.core.columns import Ints, JobRows, distinct, ints, located
from oar_accounting.core.node_lists import NodeLists
from oar_accounting.oar.snapshot import Assigned, Snapshot

ADDRESS = "network_address"


class JobNodes:
    """Lists of nodes; what is read of jobs for other reasons is noted, and not read again."""

    def __init__(self) -> None:
        self._noted: dict[int, str] = {}
        self._resource_id: Ints = ints([])
        self._code: Ints = ints([])
        self._lists = NodeLists([])

    def note(self, snapshot: Snapshot, rows: JobRows, pairs: Assigned) -> None:
        """Note the nodes of these jobs, of which the pairs are all that they were assigned."""
        at, there = located(pairs.resource_id, self._resource_id)
        if not np.all(there):
            self._read(snapshot)
            at, there = located(pairs.resource_id, self._resource_id)
        code = self._code[at] if len(self._code) else at
        there &= code >= 0
        lists = self._lists.folded(pairs.job[there], code[there], len(rows))
        self._noted.update(zip(rows.job_id.tolist(), lists, strict=True))

    def taken(self, snapshot: Snapshot, rows: JobRows) -> dict[int, str]:
        """The nodes of all these jobs, empty for none; what was noted is forgotten."""
        unread = rows.take(~np.isin(rows.job_id, ints(list(self._noted))))
        for portion, pairs in snapshot.assigned(unread):
            self.note(snapshot, portion, pairs)
        found = {job: self._noted.get(job, "") for job in rows.job_id.tolist()}
        self._noted.clear()
        return found

    def _read(self, snapshot: Snapshot) -> None:
        resources = snapshot.resources((ADDRESS,))
        addresses, code = distinct([each or "" for each in resources.properties[ADDRESS]])
        lists = [each for each in addresses if each]
        # What has no address, as a licence, is on no node.
        place = {each: number for number, each in enumerate(lists)}
        places = ints([place.get(each, -1) for each in addresses])
        self._resource_id, self._code = resources.resource_id, places[code] if len(code) else code
        self._lists = NodeLists(lists)

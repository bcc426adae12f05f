"""All that a policy is fed with, read when it is asked for, and once."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from sqlalchemy import Connection

from oar_accounting.core.columns import OPEN
from oar_accounting.core.lengths import DAY
from oar_accounting.errors import UnknownName
from oar_accounting.karma.entities import Entities
from oar_accounting.karma.known import KnownAccounts
from oar_accounting.karma.policies.policy import Counted
from oar_accounting.karma.policies.weights import Weighting, earliest, weights
from oar_accounting.karma.usage import Weighed, WeighedExactly, WindowUsage, read_usage
from oar_accounting.ledger.catalog import Names, Site, StoredMetric
from oar_accounting.metrics.metric import Metric
from oar_accounting.oar.properties import believed_of, read_kinds
from oar_accounting.oar.resource_logs import capacity_of, read_presence
from oar_accounting.oar.snapshot import OarJobs
from oar_accounting.recording.unposted import Planned, Recent
from oar_accounting.usage.keys import Group, Key, find_key


@dataclass(slots=True, kw_only=True)
class Sources:
    """What is read, as of `now`."""

    connection: Connection
    site: Site
    oar: OarJobs
    stored: dict[str, StoredMetric]  #: complete metrics by name
    wanted: Sequence[str]  #: the metrics that the policy needs
    accounts: Planned
    known: KnownAccounts
    recent: Recent
    now: int  #: epoch seconds UTC
    _usage: dict[tuple[Weighting, bool], WindowUsage] = field(default_factory=dict)
    _entities: dict[tuple[Key, ...], Entities[Group]] = field(default_factory=dict)
    _names: dict[int, Names] = field(default_factory=dict)

    @property
    def names(self) -> dict[int, Names]:
        """The names of all accounts by id, also of those that a pass would add."""
        if not self._names:
            self._names = self.accounts.names()
        return self._names

    def stored_metric(self, name: str) -> StoredMetric:
        """A complete metric. Raises :class:`UnknownName`."""
        if name not in self.stored:
            raise UnknownName(
                f"metric {name!r}, which karma needs, is not recorded; recorded are "
                f"{', '.join(self.stored)}: oar-accounting rebuild --metric {name}"
            )
        return self.stored[name]

    def metric(self, name: str) -> Metric:
        """The same, as it was declared when it was recorded."""
        return self.stored_metric(name).metric

    def entities(self, names: Sequence[str]) -> tuple[tuple[Key, ...], Entities[Group]]:
        """The keys of these names, and the groups of accounts by them. Raises as `find_key`."""
        keys = tuple(find_key(self.connection, self.site, name) for name in names)
        if keys not in self._entities:
            self._entities[keys] = self.known.entities(self.names, keys, planned=self.accounts.adds)
        return keys, self._entities[keys]

    def usage(self, metric: str, counted: Counted, entities: Entities[Any]) -> Weighed:
        """What the entities used of a metric. Raises :class:`oar_accounting.AmountOverflow`."""
        metric_id = self.stored_metric(metric).metric_id
        return self._read(counted.weighting, entities).of(metric_id, counted.amount, entities)

    def exact_usage(self, metric: str, counted: Counted, entities: Entities[Any]) -> WeighedExactly:
        """The same with whole weights. Raises :class:`oar_accounting.AmountOverflow`."""
        metric_id = self.stored_metric(metric).metric_id
        read = self._read(counted.weighting, entities)
        return read.exactly_of(metric_id, counted.amount, entities)

    def _read(self, weighting: Weighting, entities: Entities[Any]) -> WindowUsage:
        # A day belongs to one group: where somebody moves within it, windows are read.
        key = (weighting, not entities.moves_within(DAY))
        if key not in self._usage:
            ids = [self.stored_metric(name).metric_id for name in self.wanted]
            self._usage[key] = read_usage(
                self.connection, self.site, weighting, ids, self.recent, self.now, by_day=key[1]
            )
        return self._usage[key]

    def capacities(self, metrics: Sequence[str], weighting: Weighting) -> list[float]:
        """What the machine could have given of each metric, weighted by time; NaN if unknown."""
        wanted = [self.metric(name) for name in metrics]
        since = earliest(weighting, self.now)
        believed = believed_of(self.site.terms)
        with self.oar.snapshot() as snapshot:
            presence = read_presence(snapshot.connection, since)
            begin = -OPEN if since is None else since
            kinds = read_kinds(snapshot, wanted, "", begin, believed)
        found = []
        for metric in wanted:
            capacity = capacity_of(metric, kinds, presence)
            if capacity is None:
                found.append(np.nan)
                continue
            capacity = capacity.take(capacity.start < self.now)
            stop = np.where(capacity.stop == OPEN, self.now, np.minimum(capacity.stop, self.now))
            seconds = (stop - capacity.start) * weights(weighting, capacity.start, stop, self.now)
            found.append(float(np.sum(capacity.rate * seconds)))
        return found

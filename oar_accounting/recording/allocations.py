"""What jobs hold: from the resources OAR assigned to rates per account and metric."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from oar_accounting.core.columns import Ints, JobRows, Rates, distinct, ints, located, numbered
from oar_accounting.core.problems import Code, Trouble, Troubles, of_metric
from oar_accounting.ledger.catalog import Names, StoredMetric
from oar_accounting.ledger.ledger import Book
from oar_accounting.metrics.composed import HeldAmounts, facts_of
from oar_accounting.metrics.formulas.evaluate import Fact
from oar_accounting.metrics.metric import Held, Metric, Resources, bad_values
from oar_accounting.oar.job_rules import Terms
from oar_accounting.oar.snapshot import Assigned, Snapshot

Types = Mapping[int, Sequence[str]]


@dataclass(frozen=True, slots=True)
class Holdings:
    """What some jobs hold per second."""

    rates: Rates
    asked_about: Ints  #: the jobs that should hold something
    counting: Ints  #: those that hold resources that count
    short: Ints  #: those of which OAR no longer describes every resource, or lists none

    def with_kept(self, jobs: Ints, recorded: Rates) -> "Holdings":
        """The same with what is *recorded* of these jobs, whatever OAR says of them now."""
        others = self.rates.take(~np.isin(self.rates.job_id, jobs))
        return replace(
            self,
            rates=Rates.concat([others, recorded]),
            counting=np.union1d(self.counting, jobs),
        )


class Holder:
    """Reads what jobs hold; reads the resources once, and again where one is new."""

    def __init__(self, problems: Troubles) -> None:
        self._problems = problems
        self._resources: Resources | None = None
        self._properties: tuple[str, ...] = ()

    def holdings(
        self,
        snapshot: Snapshot,
        book: Book,
        rows: JobRows,
        metrics: Sequence[StoredMetric],
        types: Types | None = None,
    ) -> Holdings:
        """What the jobs hold per second in these metrics.

        Without the jobs' *types* these are read where a metric depends on them.
        """
        terms = book.site.terms
        wanted = [stored.metric for stored in metrics]
        self._ask_for(snapshot, wanted, terms)
        if types is None:
            needed = len(rows) and "type" in facts_of(wanted)
            types = snapshot.types(rows.job_id) if needed else {}
        parts, whole, counting = [Rates.concat([])], [ints([])], [ints([])]
        for portion, pairs in snapshot.assigned(rows):
            held = self._located_resources(snapshot, portion, pairs)
            whole.append(portion.job_id[_whole(pairs, held)])
            if terms.profile == "classic":
                held = held.take(np.isin(held.part, _with_default(held, self._table)))
            counting.append(portion.job_id[np.unique(held.part)])
            parts.append(self._rates(book, portion, held, metrics, types))
        short = np.setdiff1d(rows.job_id, np.concatenate(whole))
        return Holdings(Rates.concat(parts), rows.job_id, np.concatenate(counting), short)

    @property
    def _table(self) -> Resources:
        assert self._resources is not None
        return self._resources

    def _ask_for(self, snapshot: Snapshot, metrics: Sequence[Metric], terms: Terms) -> None:
        """Read the resources, once a pass, with every property that is needed."""
        wanted = {name for metric in metrics for name in metric.properties}
        wanted |= {terms.dimension} - {""}
        if self._resources is None or not wanted <= set(self._properties):
            self._properties = tuple(sorted(wanted))
            self._resources = snapshot.resources(self._properties)

    def _rates(
        self,
        book: Book,
        rows: JobRows,
        held: Held,
        metrics: Sequence[StoredMetric],
        types: Types,
    ) -> Rates:
        """Per job, account and metric, the amount per second; amounts of zero are left out."""
        codes, values = self._table.values_of(book.site.terms.dimension)
        width = len(values)
        keys, part = numbered(held.part * width + codes[held.row], len(rows) * width)
        job, value = keys // width, keys % width
        owners, owner = distinct(rows.names())
        pairs, account = numbered(owner[job] * width + value, len(owners) * width)
        names: list[Names] = [(*owners[p // width], values[p % width]) for p in pairs.tolist()]
        book.accounts.add(book.connection, names)
        accounts = ints(book.accounts.ids(names))[account]
        kinds, kind = distinct([tuple(types.get(number, ())) for number in rows.job_id.tolist()])
        facts = {
            "queue": Fact(owner[job], [(queue,) for _, _, queue in owners]),
            "cluster": Fact(value, [(each,) for each in values]),
            "type": Fact(kind[job], kinds),
        }
        amounts = HeldAmounts(Held(part, held.row), self._table, len(keys), facts)
        parts = []
        for each in metrics:
            rates, beyond = amounts.fitting_rates(each.metric)
            parts.append(_above_zero(rows.job_id[job], accounts, each.metric_id, rates))
            self._too_large(each.metric, rows.job_id[job[beyond]])
            self._with_bad_values(each.metric, rows, held)
        for name, below in amounts.below_zero:
            self._less_than_zero(name, rows.job_id[job[below]])
        return Rates.concat(parts)

    def _less_than_zero(self, metric: str, jobs: Ints) -> None:
        said = of_metric(metric, "its formula gives less than zero; counted as zero")
        for job in jobs.tolist():
            self._problems.add(job, Trouble(Code.BELOW_ZERO, said))

    def _too_large(self, metric: Metric, jobs: Ints) -> None:
        """Tell it of the jobs."""
        said = "what it holds each second does not fit in 63 bits; counted as nothing"
        trouble = Trouble(Code.TOO_LARGE, of_metric(metric.name, said))
        for job in jobs.tolist():
            self._problems.add(job, trouble)

    def _with_bad_values(self, metric: Metric, rows: JobRows, held: Held) -> None:
        """Tell it of the jobs that hold a resource with a value that the metric cannot count."""
        bad = bad_values(metric, self._table)
        if not bad:
            return
        held = held.take(np.isin(held.row, ints(list(bad))))
        for part in np.unique(held.part).tolist():
            found = np.unique(held.row[held.part == part]).tolist()
            more = f", and {len(found) - 1} more such" if len(found) > 1 else ""
            number = self._table.resource_id[found[0]]
            said = f"resource {number}: {bad[found[0]]}{more}; counted as nothing"
            trouble = Trouble(Code.BAD_VALUE, of_metric(metric.name, said))
            self._problems.add(int(rows.job_id[part]), trouble)

    def _located_resources(self, snapshot: Snapshot, portion: JobRows, pairs: Assigned) -> Held:
        """The pairs with the row of the resource; a resource that OAR removed is reported."""
        at, there = located(pairs.resource_id, self._table.resource_id)
        if not np.all(there):
            self._resources = snapshot.resources(self._properties)
            at, there = located(pairs.resource_id, self._table.resource_id)
        removed = "was assigned a resource that OAR has removed; the others are recorded"
        for job in np.unique(pairs.job[~there]).tolist():
            number = int(portion.job_id[job])
            self._problems.add(number, Trouble(Code.REMOVED_RESOURCE, removed))
        return Held(pairs.job[there], at[there])


def _above_zero(job_id: Ints, accounts: Ints, metric_id: int, rate: Ints) -> Rates:
    some = np.flatnonzero(rate)
    numbers = np.full(len(some), metric_id)
    return Rates.unchanging(job_id[some], accounts[some], numbers, rate[some], rate[some])


def _whole(pairs: Assigned, held: Held) -> Ints:
    """The jobs all of whose resources are there."""
    jobs, assigned = np.unique(pairs.job, return_counts=True)
    there = np.bincount(held.part, minlength=int(jobs.max(initial=0)) + 1)[jobs]
    whole: Ints = jobs[there == assigned]
    return whole


def _with_default(held: Held, resources: Resources) -> Ints:
    """The parts that hold a resource of type default."""
    return np.unique(held.part[resources.of_type("default")[held.row] != 0])

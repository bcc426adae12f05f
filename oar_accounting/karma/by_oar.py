"""OAR's own karma: over its table ``accounting``, or over our totals of *resource* instead."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from sqlalchemy import select

from oar_accounting.core.columns import ints
from oar_accounting.database import bulk, dialects
from oar_accounting.errors import UnknownName
from oar_accounting.karma.oar_sums import counted_queues, read_pools, read_sums, site_rule
from oar_accounting.karma.policies import oar as oar_policy
from oar_accounting.karma.policies.describe import length
from oar_accounting.karma.policies.oar import QueueSums, StockRows, StockRule
from oar_accounting.karma.policies.policy import Stock
from oar_accounting.karma.report import FairShareRow, Floats, MetricUsage, Part
from oar_accounting.karma.waiting import renamed
from oar_accounting.ledger import schema
from oar_accounting.ledger.catalog import account_names, stored_metrics
from oar_accounting.ledger.ledger import Ledger
from oar_accounting.metrics.metric import RESOURCE
from oar_accounting.oar.snapshot import OarJobs
from oar_accounting.oar.waiting_jobs import Queued
from oar_accounting.settings.load import Settings

#: Of each of OAR's terms, whose usage it is and which.
OAR_TERMS = (("project", "used"), ("user", "used"), ("user", "asked"))


@dataclass(frozen=True, slots=True, kw_only=True)
class StockSources:
    """Where OAR's number comes from, as of `now`."""

    policy: Stock
    given: Settings
    ledger: Ledger
    oar: OarJobs
    now: int  #: epoch seconds UTC

    def rule(self) -> StockRule:
        """What ``oar.conf`` says. Raises :class:`oar_accounting.SettingsError`."""
        return site_rule(self.given, self.policy.window_rule)

    def sums(self, rule: StockRule, queues: Sequence[str]) -> dict[str, QueueSums]:
        """What counts of each queue."""
        if self.policy.source == "oar":
            with dialects.reading(self.oar.engine) as connection:
                return read_sums(connection, rule, self.now, queues)
        pools: dict[str, Sequence[str]] = {queue: (queue,) for queue in queues}
        if rule.window_rule == "oar3":
            with dialects.reading(self.oar.engine) as connection:
                pools |= read_pools(connection)
        return oar_policy.sums_of(rule, self.now, self._rows(rule), pools)

    def under_recorded_names(self, jobs: Queued) -> Queued:
        """The same jobs; where our totals count, under the names that are recorded."""
        if self.policy.source == "oar":
            return jobs
        with self.ledger.reading() as (connection, site):
            return jobs if site is None else renamed(connection, site, jobs)

    def _rows(self, rule: StockRule) -> StockRows:
        """Our totals of *resource*, as OAR would have them."""
        with self.ledger.reading() as (connection, site):
            if site is None:
                raise UnknownName(
                    f"site {self.ledger.site_name!r} is not recorded yet: oar-accounting catch-up"
                )
            metrics = stored_metrics(connection, site.site_id)
            active = [each for each in metrics if each.state == schema.ACTIVE]
            ids = [each.metric_id for each in active if each.metric == RESOURCE]
            if not ids:
                raise UnknownName(
                    f"metric {RESOURCE.name!r} is not recorded: oar-accounting rebuild --metric "
                    f"{RESOURCE.name}"
                )
            table = schema.totals.c
            query = select(table.window_start, table.account_id, table.asked, table.used).where(
                table.site_id == site.site_id,
                table.metric_id.in_(ids),
                table.window_start >= self.now - rule.window,
                table.window_start < self.now,
            )
            start, account_id, asked, used = bulk.read_ints(connection, query)
            names = account_names(connection, site.site_id)
        # An account that somebody has deleted by hand is nobody's.
        known = np.isin(account_id, ints(list(names)))
        start, account_id, asked, used = (c[known] for c in (start, account_id, asked, used))
        owners = [names[each] for each in account_id.tolist()]
        columns = zip(*owners, strict=True) if owners else [()] * 4
        user, project, queue, _ = (np.array(each, dtype=object) for each in columns)
        stop = start + site.terms.window - 1
        return StockRows(start, stop, user, project, queue, asked, used)


def karma_of(sources: StockSources, jobs: Queued) -> tuple[Floats, list[Part]]:
    """The karma of every job, and OAR's three terms."""
    rule = sources.rule()
    queues = list(dict.fromkeys(jobs.queue.tolist()))
    sums = sources.sums(rule, queues)
    jobs = sources.under_recorded_names(jobs)
    found = oar_policy.evaluate(rule, sums, jobs.user, jobs.project, jobs.queue)
    coefficients = (rule.project, rule.user, rule.user_ask)
    parts = [
        Part(
            by=by,
            metric=RESOURCE.name,
            unit=RESOURCE.unit,
            scale=1,
            amount=amount,
            scope="queue",
            counts=counts(rule),
            weight=coefficient,
            names=getattr(jobs, by),
            usage=found.usage[row],
            of=found.total[row],
            share=found.share[row],
            target=found.target[row],
            value=found.value[row],
        )
        for row, ((by, amount), coefficient) in enumerate(zip(OAR_TERMS, coefficients, strict=True))
    ]
    return found.karma, parts


def counts(rule: StockRule) -> str:
    """Which time counts, in words."""
    which = "began" if rule.window_rule == "oar2" else "began and ended"
    return f"whole windows that {which} within the last {length(rule.window)}"


def rows(sources: StockSources) -> tuple[list[FairShareRow], str]:
    """Everybody who used something or has a target, term by term, of every queue."""
    rule = sources.rule()
    with dialects.reading(sources.oar.engine) as connection:
        queues = counted_queues(connection)
    found: list[FairShareRow] = []
    for queue, sums in sorted(sources.sums(rule, queues).items()):
        for (by, amount), used, of, targets, weight in (
            (OAR_TERMS[0], sums.projects_used, sums.used, rule.project_targets, rule.project),
            (OAR_TERMS[1], sums.users_used, sums.used, rule.user_targets, rule.user),
            (OAR_TERMS[2], sums.users_asked, sums.asked, rule.user_targets, rule.user_ask),
        ):
            if weight:
                found += _rows(rule, queue, by, amount, used, of, targets)
    return found, counts(rule)


def _rows(  # noqa: PLR0913 - one term
    rule: StockRule,
    queue: str,
    by: str,
    amount: str,
    used: Mapping[str, int],
    of: int,
    targets: Mapping[str, float],
) -> list[FairShareRow]:
    lines = []
    for name in dict.fromkeys((*used, *(targets if used else ()))):
        share = used.get(name, 0) / of if of else 0.0
        usage = MetricUsage(
            metric=RESOURCE.name,
            unit=RESOURCE.unit,
            scale=1,
            amount=used.get(name, 0),
            usage=float(used.get(name, 0)),
            share=share,
        )
        lines.append(
            FairShareRow(
                by=by,
                amount=amount,
                counts=counts(rule),
                depth=0,
                name=name,
                queue=queue,
                target=targets.get(name, 0.0) / 100,
                share=share,
                figure=None,
                usage=(usage,),
            )
        )
    return sorted(lines, key=lambda line: (-(line.share or 0.0), line.name))

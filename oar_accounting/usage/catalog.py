"""What can be asked of a site: metrics, keys of usage, time zone, and how fresh it is."""

from sqlalchemy import Connection, func, select

from oar_accounting.attributes import stored
from oar_accounting.ledger import schema
from oar_accounting.ledger.catalog import Site
from oar_accounting.metrics.metric import Metric
from oar_accounting.usage.keys import JOB_KEYS, SITE, names_of
from oar_accounting.usage.query import shown_metrics
from oar_accounting.usage.records import Catalog, CatalogMetric


def catalog(connection: Connection, site: Site, timezone: str, now: int) -> Catalog:
    """The catalog of a site at the instant *now*, epoch seconds."""
    attributes = tuple(stored.known(connection, site.site_id).items())
    return Catalog(
        site=site.name,
        timezone=timezone,
        window=site.terms.window,
        keys=(SITE, *names_of(site), *(name for name, _ in attributes), *JOB_KEYS),
        attributes=attributes,
        metrics=tuple(_described(each.metric) for each in shown_metrics(connection, site).values()),
        recorded_from=_first(connection, site),
        recorded_until=site.last_pass,
        purged_before=site.purged_before,
        now=now,
    )


def _described(metric: Metric) -> CatalogMetric:
    return CatalogMetric(
        name=metric.name,
        unit=metric.unit,
        scale=metric.scale,
        form=metric.form,
        of=metric.formula or metric.of,
        per=metric.per,
        type=metric.type,
    )


def _first(connection: Connection, site: Site) -> int | None:
    """When the first window begins of which anything is recorded, or taken over."""
    queries = [
        select(func.min(table.c.window_start)).where(table.c.site_id == site.site_id)
        for table in (schema.totals, schema.openings)
    ]
    found = [connection.execute(query).scalar_one() for query in queries]
    return min((int(each) for each in found if each is not None), default=None)

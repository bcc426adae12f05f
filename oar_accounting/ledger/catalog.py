"""The small tables: sites with their terms, metrics with their definitions, accounts.

An account is a combination of user, project, queue and a value of the dimension property. It is
found by the SHA-256 of the four names, so that it does not depend on how a database compares
texts. Rows are only ever added while the site's row is locked.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256

from sqlalchemy import Connection, Row, Select, func, insert, select
from sqlalchemy.exc import IntegrityError

from oar_accounting.database import bulk, dialects
from oar_accounting.errors import DatabaseError
from oar_accounting.ledger import schema
from oar_accounting.metrics.metric import Metric
from oar_accounting.oar.job_rules import Terms
from oar_accounting.oar.spellings import STORED

Names = tuple[str, str, str, str]  # user, project, queue, value of the dimension property


@dataclass(frozen=True, slots=True, kw_only=True)
class Site:
    """One OAR server, and how far it is recorded."""

    site_id: int
    name: str
    terms: Terms
    unfinished: str  #: the rebuild that began and has not ended
    high_water_mark: int  #: the highest job id a pass has seen
    purged_before: int | None  #: epoch seconds; what ended before has no spans and rates
    last_pass: int | None  #: epoch seconds


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredMetric:
    """A metric as it is recorded, which may differ from how the settings declare it now."""

    metric_id: int
    metric: Metric
    state: str


def find_site(connection: Connection, name: str) -> Site | None:
    """The site of this name, if it was ever recorded."""
    row = connection.execute(_site_query(name)).first()
    return None if row is None else _site(row)


def lock_site(connection: Connection, name: str, *, wait: bool) -> Site | None:
    """The same, locked until the transaction ends: the lock of the one writer.

    Raises :class:`oar_accounting.errors.WriterBusy` where it is taken and *wait* is false.
    """
    if dialects.locks_neighbours(connection):
        first = select(schema.sites.c.site_id).order_by(schema.sites.c.site_id).limit(1)
        dialects.lock_row(connection, first, wait=wait)
    row = dialects.lock_row(connection, _site_query(name), wait=wait)
    return None if row is None else _site(row)


def add_site(connection: Connection, name: str, terms: Terms, declared: Sequence[Metric]) -> None:
    """Add a site and its metrics; does nothing where another process was faster."""
    try:
        with connection.begin_nested():
            added = connection.execute(
                insert(schema.sites).values(
                    name=name, unfinished="", high_water_mark=0, **_columns_of(terms)
                )
            ).inserted_primary_key
    except IntegrityError:
        return
    if added is not None:
        for metric in declared:
            add_metric(connection, added[0], metric, schema.ACTIVE)


def change_terms(connection: Connection, site: Site, terms: Terms) -> None:
    """Record the site under other terms from now on."""
    connection.execute(
        schema.sites.update()
        .where(schema.sites.c.site_id == site.site_id)
        .values(**_columns_of(terms))
    )


def change_site(connection: Connection, site: Site, **values: int | str) -> None:
    """Set columns of the site's row."""
    connection.execute(
        schema.sites.update().where(schema.sites.c.site_id == site.site_id).values(**values)
    )


def site_names(connection: Connection) -> list[str]:
    """The names of the sites that are recorded, sorted."""
    return sorted(connection.execute(select(schema.sites.c.name)).scalars())


def _columns_of(terms: Terms) -> dict[str, int | str | None]:
    return {
        "window_seconds": terms.window,
        "dimension": terms.dimension,
        "profile": terms.profile,
        "containers": terms.containers,
        "grace": terms.grace,
        "names": None if terms.names == STORED else terms.names,
        "property_since": json.dumps(dict(terms.property_since)) if terms.property_since else None,
    }


def _site_query(name: str) -> Select[tuple[int, ...]]:
    return select(schema.sites).where(schema.sites.c.name == name)


def _site(row: Row[tuple[int, ...]]) -> Site:
    values = row._mapping
    return Site(
        site_id=values["site_id"],
        name=values["name"],
        terms=Terms(
            window=values["window_seconds"],
            dimension=values["dimension"],
            profile=values["profile"],
            containers=values["containers"],
            grace=values["grace"],
            names=values["names"] or STORED,
            property_since=tuple(sorted(json.loads(values["property_since"] or "{}").items())),
        ),
        unfinished=values["unfinished"],
        high_water_mark=values["high_water_mark"],
        purged_before=values["purged_before"],
        last_pass=values["last_pass"],
    )


# -- metrics ----------------------------------------------------------------------------------


def stored_metrics(connection: Connection, site_id: int) -> list[StoredMetric]:
    """The metrics that are recorded for the site, in the order they were added."""
    table = schema.metrics.c
    query = (
        select(table.metric_id, table.name, table.definition, table.state)
        .where(table.site_id == site_id)
        .order_by(table.metric_id)
    )
    return [
        StoredMetric(metric_id=row[0], metric=Metric.from_definition(row[1], row[2]), state=row[3])
        for row in connection.execute(query)
    ]


def add_metric(connection: Connection, site_id: int, metric: Metric, state: str) -> int:
    """Store a metric; its id."""
    added = connection.execute(
        insert(schema.metrics).values(
            site_id=site_id,
            name=metric.name,
            unit=metric.unit,
            scale=metric.scale,
            definition=metric.definition,
            digest=metric.digest,
            state=state,
        )
    ).inserted_primary_key
    assert added is not None
    return int(added[0])


def remove_metric(connection: Connection, site_id: int, metric_id: int) -> None:
    """Remove a metric with all that is recorded of it."""
    of_site = schema.rates.c.site_id == site_id
    connection.execute(schema.rates.delete().where(of_site, schema.rates.c.metric_id == metric_id))
    for table in (schema.entries, schema.purged):
        connection.execute(
            table.delete().where(table.c.site_id == site_id, table.c.metric_id == metric_id)
        )
    for table in schema.SUMMED:
        of_site = table.c.site_id == site_id
        connection.execute(table.delete().where(of_site, table.c.metric_id == metric_id))
    connection.execute(schema.metrics.delete().where(schema.metrics.c.metric_id == metric_id))


def activate_metric(connection: Connection, metric_id: int) -> None:
    """Show a metric that is complete."""
    connection.execute(
        schema.metrics.update()
        .where(schema.metrics.c.metric_id == metric_id)
        .values(state=schema.ACTIVE)
    )


# -- accounts ---------------------------------------------------------------------------------


def account_names(connection: Connection, site_id: int, after: int = 0) -> dict[int, Names]:
    """The names of the accounts of a site by id, ascending: those *after* an id."""
    table = schema.accounts.c
    names = (table.user_name, table.project, table.queue_name, table.property_value)
    query = select(table.account_id, *names).where(table.site_id == site_id)
    rows = connection.execute(query.where(table.account_id > after).order_by(table.account_id))
    # All at once: row by row they take twice as long.
    return {
        number: (user, project, queue, value) for number, user, project, queue, value in rows.all()
    }


class Accounts:
    """The accounts of a site, kept in memory; grows as they are added."""

    def __init__(self, site_id: int) -> None:
        self.site_id = site_id
        self._ids: dict[Names, int] = {}
        self._last = 0
        self._forgotten = 0

    def refresh(self, connection: Connection) -> None:
        """Learn the accounts that were added since the last look, or all where users went."""
        marks = select(func.count()).where(schema.forgotten.c.site_id == self.site_id)
        if (forgotten := connection.execute(marks).scalar_one()) != self._forgotten:
            self._ids, self._last, self._forgotten = {}, 0, forgotten
        for account_id, names in account_names(connection, self.site_id, self._last).items():
            self._ids[names] = account_id
            self._last = account_id

    @property
    def revision(self) -> tuple[int, int]:
        """Different after every `refresh` that found something new."""
        return self._last, self._forgotten

    def by_names(self) -> Mapping[Names, int]:
        """The account ids by names."""
        return self._ids

    def ids(self, wanted: Iterable[Names]) -> list[int]:
        """The id of each account; 0 for one that does not exist."""
        known = self._ids
        return [known.get(names, 0) for names in wanted]

    def names(self) -> dict[int, Names]:
        """The names by account id."""
        return {account_id: names for names, account_id in self._ids.items()}

    def add(self, connection: Connection, wanted: Iterable[Names]) -> None:
        """Add the accounts that are missing; the site's row is locked."""
        missing = [names for names in dict.fromkeys(wanted) if names not in self._ids]
        if not missing:
            return
        columns = list(zip(*missing, strict=True))
        bulk.insert_columns(
            connection,
            schema.accounts,
            {
                "site_id": [self.site_id] * len(missing),
                "user_name": list(columns[0]),
                "project": list(columns[1]),
                "queue_name": list(columns[2]),
                "property_value": list(columns[3]),
                "digest": [digest(names) for names in missing],
            },
        )
        self.refresh(connection)
        lost = [names for names in missing if names not in self._ids]
        if lost:
            raise DatabaseError(
                f"the database does not give back the account it was given: {lost[0]}"
            )


def digest(names: Names) -> str:
    """SHA-256 of the names, each with its length before it, so that no two lists read alike."""
    parts = (name.encode() for name in names)
    return sha256(b"".join(b"%d:%s" % (len(part), part) for part in parts)).hexdigest()

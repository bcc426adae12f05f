"""The floor: what PostgreSQL itself needs for the work that any catch-up must have done.

(a) one aggregate that gives the three metrics of every job in every cluster as it began, with the
    memory that its nodes had then. It keeps nothing: its rows are summed by the server, so that it
    may not leave out a column. It gets 256 MiB of work_mem, with which it sorts and hashes in
    memory and is fastest;
(b) COPY of the job, span and rate rows into empty tables with the same definitions. The text is in
    memory, sorted by key, before the clock starts;
(c) one INSERT ... SELECT ... ON CONFLICT DO UPDATE of the totals into the empty table, sorted by
    key, from a table.

Each step is committed within its time. The rows are those that our own catch-up wrote before.
"""

import io
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any

from sqlalchemy import Connection, Engine, text

from oar_accounting.database import dialects
from oar_accounting.ledger import schema

COPIED = {
    schema.jobs.name: "SELECT * FROM accounting_jobs ORDER BY site_id, job_id",
    schema.spans.name: "SELECT * FROM accounting_spans ORDER BY site_id, job_id, asked, start_time",
    schema.rates.name: "SELECT * FROM accounting_rates "
    "ORDER BY site_id, job_id, account_id, metric_id, start_time",
}
STAGE = text(
    "CREATE UNLOGGED TABLE floor_staged AS SELECT * FROM accounting_totals "
    "ORDER BY site_id, window_start, account_id, metric_id"
)
AGGREGATE = text(
    """
    SELECT count(*), sum(resources), sum(nodes), sum(memory)
    FROM (
        SELECT job_id, cluster, sum(cores) AS resources, count(*) AS nodes, sum(memnode) AS memory
        FROM (
            SELECT job_id, cluster, network_address, count(*) AS cores,
                max(COALESCE(CAST(was.value AS integer), memnode)) AS memnode
            FROM jobs
            JOIN assigned_resources ON moldable_job_id = assigned_moldable_job
            JOIN resources USING (resource_id)
            LEFT JOIN resource_logs was ON was.resource_id = resources.resource_id
                AND was.attribute = 'memnode' AND was.date_stop > start_time
            WHERE state IN ('Terminated', 'Error') AND type = 'default'
            GROUP BY job_id, cluster, network_address
        ) AS node_parts
        GROUP BY job_id, cluster
    ) AS parts
    """
)
RATES = text(
    """
    SELECT count(DISTINCT (job_id, account_id)), sum(asked) FILTER (WHERE name = 'resource'),
        sum(asked) FILTER (WHERE name = 'node'), sum(asked) FILTER (WHERE name = 'memory')
    FROM accounting_rates JOIN accounting_metrics USING (metric_id)
    WHERE start_time = -9223372036854775807
    """
)
TOTALS = text(
    """
    INSERT INTO floor.accounting_totals (site_id, window_start, account_id, metric_id, asked, used)
    SELECT site_id, window_start, account_id, metric_id, asked, used
    FROM floor_staged
    ORDER BY site_id, window_start, account_id, metric_id
    ON CONFLICT (site_id, window_start, account_id, metric_id) DO UPDATE
    SET asked = accounting_totals.asked + excluded.asked,
        used = accounting_totals.used + excluded.used
    """
)


class DifferentResult(Exception):
    """The aggregate and our catch-up do not give the same rates: their times say nothing."""


@dataclass(frozen=True, slots=True)
class Times:
    """Seconds of the three steps."""

    aggregate: float
    copy: float
    totals: float

    @property
    def total(self) -> float:
        return self.aggregate + self.copy + self.totals

    def figures(self) -> dict[str, float]:
        return {**asdict(self), "total": self.total}


class Floor:
    """The floor of what stands in our tables now."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        with engine.begin() as connection:
            self._texts = {name: _copied_out(connection, sql) for name, sql in COPIED.items()}
            connection.execute(STAGE)
            connection.execute(text("ANALYZE floor_staged"))
            self._expected = connection.execute(RATES).one()

    def run(self) -> Times:
        """Do it once, in fresh tables."""
        with _fresh_tables(self.engine):
            return Times(self._aggregate(), self._copy(), self._totals())

    def _aggregate(self) -> float:
        began = time.perf_counter()
        with self.engine.begin() as connection:
            connection.execute(text("SET LOCAL work_mem = '256MB'"))
            found = connection.execute(AGGREGATE).one()
        seconds = time.perf_counter() - began
        if tuple(found) != tuple(self._expected):
            raise DifferentResult(f"the aggregate gives {found}, our rates {self._expected}")
        return seconds

    def _copy(self) -> float:
        seconds = 0.0
        for name, rows in self._texts.items():
            rows.seek(0)
            began = time.perf_counter()
            with self.engine.begin() as connection:
                _cursor(connection).copy_expert(f"COPY floor.{name} FROM STDIN", rows, 1 << 20)
            seconds += time.perf_counter() - began
        return seconds

    def _totals(self) -> float:
        began = time.perf_counter()
        with self.engine.begin() as connection:
            connection.execute(TOTALS)
        return time.perf_counter() - began


@contextmanager
def _fresh_tables(engine: Engine) -> Iterator[None]:
    there = {"schema_translate_map": {None: "floor"}}
    with engine.begin() as connection:
        connection.execute(text("CREATE SCHEMA floor"))
        dialects.complete(schema.metadata.sorted_tables)
        schema.metadata.create_all(connection.execution_options(**there))
    checkpoint(engine)
    try:
        yield
    finally:
        with engine.begin() as connection:
            connection.execute(text("DROP SCHEMA floor CASCADE"))


def checkpoint(engine: Engine) -> None:
    """Let the server write what earlier runs left, before a clock starts."""
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.execute(text("CHECKPOINT"))


def _copied_out(connection: Connection, query: str) -> io.BytesIO:
    rows = io.BytesIO()
    _cursor(connection).copy_expert(f"COPY ({query}) TO STDOUT", rows)
    return rows


def _cursor(connection: Connection) -> Any:
    return connection.connection.cursor()

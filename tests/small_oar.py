"""A small OAR to write cases with, and what is recorded of it in a form that can be compared.

    oar = SmallOar(engine)
    oar.add_job(start=T0, stop=T0 + 100, cores=4)
    assert recorded(engine).used("resource") == 400

A job of which nothing is said is bob's: it asked for 8 cores for two hours from `T0` on, and ended
after one. Ids of moldables are never ids of jobs, so that nobody can take one for the other.
"""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any, Literal

import pytest
from sqlalchemy import (
    Column,
    Connection,
    Engine,
    Integer,
    MetaData,
    String,
    Table,
    delete,
    insert,
    select,
    update,
)
from sqlalchemy.dialects import postgresql

from oar_accounting import Accounting
from oar_accounting.ledger import schema
from oar_accounting.oar import oar_tables
from oar_accounting.oar.job_rules import ENDED

HOUR = 3_600
DAY = 86_400
#: A bound of windows of a day, 2023-11-14 00:00 UTC.
T0 = 19_675 * DAY
#: What the clock of the tests shows at first: what happens by default ended within the week.
NOW = T0 + 2 * DAY

Variant = Literal["plain", "oar3"]
Pause = tuple[int, int] | tuple[int, int, int]
Row = dict[str, Any]

#: The labels of OAR 3's enumerated types; comparing with any other text is an error there.
JOB_STATES = (
    *("Waiting", "Hold", "toLaunch", "toError", "toAckReservation", "Launching"),
    *("Running", "Suspended", "Resuming", "Finishing", "Terminated", "Error"),
)
RESOURCE_INDEX = ("CURRENT", "LOG")

#: Properties that this site has added to its resources; a text may hold anything.
PROPERTIES: dict[str, Any] = {
    "cluster": String(255),
    "core": Integer(),
    "gpu": Integer(),
    "mem": Integer(),
    "power": String(255),
}
#: Far from the ids of jobs.
MOLDABLES = 500_000


#: What every OAR has of its resources, and few cases need: they are alive, and never asleep.
STATES: dict[str, tuple[Any, str]] = {
    "state": (String(16), "Alive"),
    "available_upto": (Integer(), "2147483647"),
}


@cache
def oar_metadata(
    variant: Variant = "plain", without: tuple[str, ...] = (), states: tuple[str, ...] = ()
) -> MetaData:
    """OAR's tables as they are read, and a little of what else they have.

    *without* are properties that the site has not added to its resources, *states* those of
    `STATES` that they have.
    """
    metadata = MetaData()
    tables = {t.name: t.to_metadata(metadata) for t in oar_tables.metadata.sorted_tables}
    for name, kind in PROPERTIES.items():
        if name not in without:
            tables["resources"].append_column(Column(name, kind))
    for name in states:
        kind, usual = STATES[name]
        column = Column(name, kind, nullable=False, server_default=usual)
        tables["resources"].append_column(column)
    index: Any = String(7)
    if variant == "oar3":
        state = postgresql.ENUM(*JOB_STATES, name="job_state", metadata=metadata)
        tables["jobs"].append_column(Column("state", state, nullable=False), replace_existing=True)
        index = postgresql.ENUM(*RESOURCE_INDEX, name="resource_index", metadata=metadata)
    tables["assigned_resources"].append_column(
        Column("assigned_resource_index", index, nullable=False, server_default="LOG")
    )
    for table in (
        *(oar_tables.resource_logs, oar_tables.queues, oar_tables.event_logs),
        *(oar_tables.resource_groups, oar_tables.resource_descriptions),
    ):
        table.to_metadata(metadata)
    tables["jobs"].append_column(Column("properties", String(1000)))
    tables["jobs"].append_column(
        Column("accounted", String(3), nullable=False, server_default="NO")
    )
    return metadata


class SmallOar:
    """OAR's tables in the database of *engine*, with *nodes* of four cores in one cluster.

    Without *create* the tables are there already, and *metadata* says what they are.
    """

    def __init__(
        self,
        engine: Engine,
        *,
        metadata: MetaData | None = None,
        create: bool = True,
        nodes: int = 2,
    ) -> None:
        self.engine = engine
        self._metadata = oar_metadata() if metadata is None else metadata
        counted = ("jobs", "resources", "job_types", "job_state_logs")
        self._last = dict.fromkeys((*counted, "resource_logs", "event_logs"), 0)
        self._connection: Connection | None = None
        with self._writing() as connection:
            if create:
                self._metadata.create_all(connection)
                self.add_queue("default")
            for node in range(1, nodes + 1):
                self.add_resources(4, host=f"alpha-{node}", cluster="alpha")

    def table(self, name: str) -> Table:
        """One of OAR's tables."""
        return self._metadata.tables[name]

    # -- resources ----------------------------------------------------------------------------

    def add_resources(
        self, count: int = 1, *, kind: str = "default", host: str = "", **properties: Any
    ) -> list[int]:
        """Add resources that are alike, but for the number of the core; their ids."""
        ids = [self._next("resources") for _ in range(count)]
        columns = self.table("resources").c
        known = {name: value for name, value in properties.items() if name in columns}
        rows = []
        for number in ids:
            row = {"resource_id": number, "type": kind, "network_address": host, **known}
            if kind == "default" and "core" in columns:
                row.setdefault("core", number)
            rows.append(row)
        self._insert("resources", rows)
        return ids

    def set_resource(self, resource_id: int, **properties: Any) -> None:
        """Change properties of a resource."""
        table = self.table("resources")
        self._run(update(table).where(table.c.resource_id == resource_id).values(**properties))

    def log_resource(
        self, resource_id: int, value: str, start: int, stop: int = 0, *, attribute: str = "state"
    ) -> None:
        """Log what a resource was, half-open; 0 while it is."""
        row = {
            "resource_log_id": self._next("resource_logs"),
            "resource_id": resource_id,
            "attribute": attribute,
            "value": value,
            "date_start": start,
            "date_stop": stop,
        }
        self._insert("resource_logs", [row])

    def log_states(self, resource_id: int, *states: tuple[int, str], stop: int = 0) -> None:
        """Log the states of a resource, each with its start; the last until *stop*."""
        ends = [start for start, _ in states[1:]] + [stop]
        for (start, value), end in zip(states, ends, strict=True):
            self.log_resource(resource_id, value, start, end)

    def remove_resource(self, resource_id: int) -> None:
        """What ``oarremoveresource`` does: every job that used the resource goes with it."""
        assigned, jobs = self.table("assigned_resources").c, self.table("jobs").c
        using = select(assigned.moldable_job_id).where(assigned.resource_id == resource_id)
        with self._writing() as connection:
            gone = select(jobs.job_id).where(jobs.assigned_moldable_job.in_(using))
            for (job,) in connection.execute(gone).all():
                self.remove_job(job)
        if (logs := self._metadata.tables.get("resource_logs")) is not None:
            self._run(delete(logs).where(logs.c.resource_id == resource_id))
        self.lose_resource(resource_id)

    def lose_resource(self, resource_id: int) -> None:
        """Delete a resource, and no more than that."""
        table = self.table("resources")
        self._run(delete(table).where(table.c.resource_id == resource_id))

    def strip_job(self, job_id: int, *resources: int) -> None:
        """Delete what the job was assigned: these resources, else all."""
        assigned = self.table("assigned_resources")
        gone = delete(assigned).where(assigned.c.moldable_job_id == MOLDABLES + job_id)
        self._run(gone.where(assigned.c.resource_id.in_(resources)) if resources else gone)

    # -- queues -------------------------------------------------------------------------------

    def add_queue(self, name: str, *, policy: str = "kamelot", state: str = "Active") -> None:
        """Add a queue."""
        row = {"queue_name": name, "priority": 3, "scheduler_policy": policy, "state": state}
        self._insert("queues", [row])

    def set_queue(self, name: str, **columns: Any) -> None:
        """Change a queue: its state, or its scheduler_policy."""
        table = self.table("queues")
        self._run(update(table).where(table.c.queue_name == name).values(**columns))

    def add_event(self, kind: str, job_id: int, at: int, said: str = "") -> None:
        """Log an event of a job."""
        row = {"event_id": self._next("event_logs"), "type": kind, "job_id": job_id}
        self._insert("event_logs", [{**row, "date": at, "description": said}])

    # -- jobs ---------------------------------------------------------------------------------

    def add_job(  # noqa: PLR0913 - a job has many sides, and a case names one or two
        self,
        *,
        user: str = "bob",
        project: str = "default",
        queue: str = "default",
        cores: int = 8,
        resources: Sequence[int] | None = None,
        start: int = T0,
        stop: int | None = None,
        walltime: int = 2 * HOUR,
        state: str = "Terminated",
        types: Sequence[str] = (),
        pauses: Sequence[Pause] = (),
        submission: int | None = None,
        moldable: bool = True,
        job_id: int | None = None,
        **columns: Any,
    ) -> int:
        """Add a job; its id. Without *resources* it has the first *cores* resources.

        A job that has not ended has no stop time, unless one is given. A pause is when the job
        was suspended, (when it resumed,) and when it ran again; 0: not yet. Without *moldable*
        OAR has assigned it nothing. *columns*: more of OAR's table jobs.
        """
        number = self._next("jobs") if job_id is None else job_id
        self._last["jobs"] = max(self._last["jobs"], number)
        own = MOLDABLES + number if moldable else 0
        job = {
            "job_id": number,
            "job_user": user,
            "project": project,
            "queue_name": queue,
            "state": state,
            "submission_time": start - 60 if submission is None else submission,
            "start_time": start,
            "stop_time": (start + HOUR if state in ENDED else 0) if stop is None else stop,
            "assigned_moldable_job": own,
            "suspended": "YES" if pauses else "NO",
            **columns,
        }
        with self._writing():
            self._insert("jobs", [job])
            if own:
                described = {"moldable_id": own, "moldable_walltime": walltime}
                if "moldable_job_id" in self.table("moldable_job_descriptions").c:
                    described["moldable_job_id"] = number
                self._insert("moldable_job_descriptions", [described])
                self.assign(number, range(1, cores + 1) if resources is None else resources)
            self.add_types(number, *types)
            for pause in pauses:
                self.add_pause(number, *pause)
        return number

    def offer(self, job_id: int, *walltimes: int) -> None:
        """Let a job ask for this or for that, in this order, none of which it was assigned."""
        rows = [
            {"moldable_id": 2 * MOLDABLES + 10 * job_id + nth, "moldable_walltime": walltime}
            for nth, walltime in enumerate(walltimes)
        ]
        self._insert(
            "moldable_job_descriptions", [{**row, "moldable_job_id": job_id} for row in rows]
        )

    def assign(self, job_id: int, resources: Iterable[int]) -> None:
        """Assign resources to a job."""
        own = MOLDABLES + job_id
        rows = [{"moldable_job_id": own, "resource_id": number} for number in resources]
        self._insert("assigned_resources", rows)

    def add_types(self, job_id: int, *types: str) -> None:
        """Give types to a job."""
        rows = [
            {"job_type_id": self._next("job_types"), "job_id": job_id, "type": kind}
            for kind in types
        ]
        self._insert("job_types", rows)

    def add_pause(self, job_id: int, suspended: int, *then: int) -> None:
        """Log when a job was suspended, (when it resumed,) and when it ran again; 0: not yet."""
        times = (suspended, *then)
        for state, start, stop in zip(("Suspended", "Resuming"), times, times[1:], strict=False):
            self.add_state(job_id, state, start, stop)

    def add_state(self, job_id: int, state: str, start: int, stop: int | None = 0) -> None:
        """Log a state of a job; while it lasts the stop is 0 or None."""
        row = {
            "job_state_log_id": self._next("job_state_logs"),
            "job_id": job_id,
            "job_state": state,
            "date_start": start,
            "date_stop": stop,
        }
        self._insert("job_state_logs", [row])

    def end_states(self, job_id: int, stop: int) -> None:
        """End the state that lasts, as OAR does before it logs another."""
        logs = self.table("job_state_logs")
        lasting = (logs.c.job_id == job_id) & (logs.c.date_stop == 0)
        self._run(update(logs).where(lasting).values(date_stop=stop))

    def update_job(self, job_id: int, *, walltime: int | None = None, **columns: Any) -> None:
        """Change columns of a job, or its walltime."""
        jobs, moldables = self.table("jobs"), self.table("moldable_job_descriptions")
        if columns:
            self._run(update(jobs).where(jobs.c.job_id == job_id).values(**columns))
        if walltime is not None:
            own = moldables.c.moldable_id == MOLDABLES + job_id
            self._run(update(moldables).where(own).values(moldable_walltime=walltime))

    def remove_job(self, job_id: int) -> None:
        """Delete a job with all that belongs to it."""
        with self._writing():
            self.strip_job(job_id)
            for name in ("job_types", "job_state_logs", "jobs"):
                table = self.table(name)
                self._run(delete(table).where(table.c.job_id == job_id))
            moldables = self.table("moldable_job_descriptions")
            self._run(delete(moldables).where(moldables.c.moldable_id == MOLDABLES + job_id))

    def everything(self) -> dict[str, list[tuple[Any, ...]]]:
        """Every row of OAR's tables."""
        with self.engine.connect() as connection:
            return {
                name: sorted(map(tuple, connection.execute(select(table))), key=repr)
                for name, table in self._metadata.tables.items()
            }

    # -- below --------------------------------------------------------------------------------

    def _next(self, name: str) -> int:
        self._last[name] += 1
        return self._last[name]

    def _insert(self, name: str, rows: Sequence[Row]) -> None:
        if rows:
            needed = _needed_values(self.table(name))
            with self._writing() as connection:
                connection.execute(insert(self.table(name)), [{**needed, **row} for row in rows])

    def _run(self, statement: Any) -> None:
        with self._writing() as connection:
            connection.execute(statement)

    @contextmanager
    def _writing(self) -> Iterator[Connection]:
        """A transaction, or the one that is already open."""
        if self._connection is not None:
            yield self._connection
            return
        with self.engine.begin() as self._connection:
            try:
                yield self._connection
            finally:
                self._connection = None


def _needed_values(table: Table) -> Row:
    """A value for each column that must have one and for which the database knows none."""
    values: Row = {}
    for column in table.columns:
        if not (column.nullable or column.primary_key or column.server_default is not None):
            labels = getattr(column.type, "enums", None) or [""]
            values[column.name] = 0 if isinstance(column.type, Integer) else labels[0]
    return values


# -- recording it -----------------------------------------------------------------------------


class Clock:
    """The clock of the verbs. It shows `now`, in epoch seconds, until a test sets it."""

    def __init__(self) -> None:
        self.now = NOW

    def time(self) -> float:
        """What ``time.time`` gives."""
        return float(self.now)


@contextmanager
def stopped_clock() -> Iterator[Clock]:
    """Let the verbs read a `Clock` instead of the machine's."""
    clock = Clock()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("oar_accounting.accounting.time", clock)
        yield clock


class Recorded:
    """What is recorded of a site, with names in the place of the databases' numbers."""

    def __init__(self, accounting: Accounting) -> None:
        self.accounting = accounting

    def amounts(self) -> dict[str, tuple[int, int]]:
        """Asked and used of every metric that is shown."""
        return {row.metric: (row.asked, row.used) for row in self.accounting.usage(()).rows}

    def asked(self, metric: str = "resource") -> int:
        """All that was asked for of one metric."""
        return self.amounts().get(metric, (0, 0))[0]

    def used(self, metric: str = "resource") -> int:
        """All that was used of one metric."""
        return self.amounts().get(metric, (0, 0))[1]

    def by(self, key: str, metric: str = "resource") -> dict[str, tuple[int, int]]:
        """Asked and used of one metric by user, project, queue or cluster."""
        rows = self.accounting.usage((key,), (metric,)).rows
        return {row.group[0]: (row.asked, row.used) for row in rows}

    def jobs(self) -> dict[int, Row]:
        """The recorded jobs by id."""
        return {row["job_id"]: row for row in self._of_site(schema.jobs)}

    def spans(self, job_id: int, *, asked: bool = False) -> list[tuple[int, int | None]]:
        """When the job used what it held, or asked for it; None: it still does."""
        rows = [row for row in self._of_site(schema.spans) if row["job_id"] == job_id]
        return [(r["start_time"], r["stop_time"]) for r in rows if bool(r["asked"]) is asked]

    def rates(self, job_id: int) -> dict[str, int]:
        """What the job holds per second, by metric."""
        metrics = self._metrics()
        rates: dict[str, int] = {}
        for row in self._of_site(schema.rates):
            if row["job_id"] == job_id:
                name = metrics[row["metric_id"]]
                rates[name] = rates.get(name, 0) + row["used"]
        return rates

    def everything(self) -> dict[str, list[tuple[Any, ...]]]:
        """Every row of jobs, spans, rates, entries, totals and days of the site."""
        accounts, metrics = self._accounts(), self._metrics()
        tables = (schema.jobs, schema.spans, schema.rates, schema.entries)
        rows = {t.name: self._of_site(t) for t in tables} | {
            t.name.removeprefix("accounting_"): [
                row for row in self._rows(t) if row["account_id"] in accounts
            ]
            for t in schema.SUMMED
        }
        for row in (row for some in rows.values() for row in some):
            row.pop("site_id", None)
            for key, names in (("account_id", accounts), ("metric_id", metrics)):
                if key in row:
                    row[key] = names[row[key]]
        return {
            name: sorted((tuple(row.values()) for row in some), key=repr)
            for name, some in rows.items()
        }

    def _accounts(self) -> dict[int, tuple[str, ...]]:
        names = ("user_name", "project", "queue_name", "property_value")
        return {
            row["account_id"]: tuple(row[name] for name in names)
            for row in self._of_site(schema.accounts)
        }

    def _metrics(self) -> dict[int, str]:
        """Their names; the half-built one of two of the same name says so."""
        return {
            row["metric_id"]: row["name"] + ("?" if row["state"] == schema.BUILDING else "")
            for row in self._of_site(schema.metrics)
        }

    def _of_site(self, table: Table) -> list[Row]:
        name = self.accounting.settings.site
        site_id = next(r["site_id"] for r in self._rows(schema.sites) if r["name"] == name)
        return [row for row in self._rows(table) if row["site_id"] == site_id]

    def _rows(self, table: Table) -> list[Row]:
        query = select(table).order_by(*table.primary_key)
        with self.accounting.engine.connect() as connection:
            return [dict(row) for row in connection.execute(query).mappings()]


def opened(engine: Engine, toml: str = "", *, site: str | None = None) -> Accounting:
    """The accounting of the OAR in the database of *engine*, with the settings *toml*."""
    config = Path("small_oar.toml")
    config.write_text(toml, encoding="utf-8")
    accounting = Accounting.open(engine=engine, config=config, site=site)
    accounting.init()
    return accounting


def recorded(engine: Engine, toml: str = "", *, site: str | None = None) -> Recorded:
    """What a pass records, which must be without a problem and as the law has it."""
    accounting = opened(engine, toml, site=site)
    report = accounting.catch_up()
    assert report.problems == ()
    assert accounting.verify() == []
    return Recorded(accounting)

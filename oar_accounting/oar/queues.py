"""OAR's queues: which of them no job starts from any more, since when, and what waits in them.

OAR stops all queues when one of its administrator's scripts fails at the begin or end of a job, and
logs an event. It stops one queue when the scheduler of that fails, and logs none. Nothing but an
administrator makes it active again, and of that no event is logged either: what stopped the queues
is the first such event after a job of theirs last started.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from sqlalchemy import Connection, Engine, func, or_, select

from oar_accounting.database import dialects
from oar_accounting.errors import OarSchemaError
from oar_accounting.oar import oar_tables
from oar_accounting.oar.checking import check_columns
from oar_accounting.oar.job_rules import ENDED, RUNNING
from oar_accounting.oar.waiting_jobs import waiting_since

ACTIVE_QUEUE = "Active"
#: Upon these events OAR stops all queues.
STOPPING = (
    *("SERVER_PROLOGUE_TIMEOUT", "SERVER_PROLOGUE_EXIT_CODE_ERROR"),
    *("SERVER_EPILOGUE_TIMEOUT", "SERVER_EPILOGUE_EXIT_CODE_ERROR"),
)
#: Seconds in which a job that was to be launched may still start after the event.
LAUNCHING = 120


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """What OAR has noted of a job."""

    kind: str
    job: int
    at: int  #: epoch seconds UTC
    said: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Queues:
    """The queues of an OAR."""

    policies: Mapping[str, str]  #: of each queue, what schedules it in OAR 2
    stopped: tuple[str, ...]  #: those that are not active
    event: Event | None  #: what stopped them; None where that is not known
    unread: str  #: why the events could not be read; empty where they could
    waiting: Mapping[str, int]  #: by queue, since when a job waits to be started, epoch seconds
    is_oar3: bool

    def waited(self, names: Iterable[str] | None, now: int) -> int:
        """The seconds that a job has waited in any active one of these queues, or of all."""
        active = [name for name in self.policies if name not in self.stopped]
        counted = active if names is None else set(active).intersection(names)
        return max(
            (now - self.waiting[name] for name in counted if name in self.waiting), default=0
        )


def read_queues(engine: Engine, now: int) -> Queues:
    """The queues as they are *now*, epoch seconds.

    Raises :class:`OarSchemaError` where they cannot be read.
    """
    with dialects.reading(engine) as connection:
        table = oar_tables.queues
        check_columns(connection, table)
        query = select(table.c.queue_name, table.c.scheduler_policy, table.c.state)
        rows = connection.execute(query.order_by(table.c.queue_name)).fetchall()
        stopped = tuple(name for name, _, state in rows if state != ACTIVE_QUEUE)
        event, unread = None, ""
        if stopped:
            try:
                event = _stopped_by(connection, stopped, now)
            except OarSchemaError as error:
                unread = str(error)
        return Queues(
            policies={name: policy for name, policy, _ in rows},
            stopped=stopped,
            event=event,
            unread=unread,
            waiting=waiting_since(connection),
            is_oar3="last_karma" in check_columns(connection, oar_tables.jobs),
        )


def _stopped_by(connection: Connection, stopped: Sequence[str], now: int) -> Event | None:
    logs = oar_tables.event_logs
    check_columns(connection, logs)
    query = (
        select(logs.c.type, logs.c.job_id, logs.c.date, logs.c.description)
        .where(logs.c.type.in_(STOPPING))
        .where(logs.c.date >= _last_start(connection, stopped, now) - LAUNCHING)
        .order_by(logs.c.date, logs.c.event_id)
        .limit(1)
    )
    row = connection.execute(query).first()
    return None if row is None else Event(kind=row[0], job=row[1], at=row[2], said=row[3])


def _last_start(connection: Connection, names: Sequence[str], now: int) -> int:
    """When a job of these queues last started; 0 where none ever did.

    OAR 3 predicts a start for a job that waits, and leaves it to one that was deleted then.
    """
    jobs = oar_tables.jobs.c
    ran = or_(jobs.state.in_(RUNNING), jobs.state.in_(ENDED) & (jobs.stop_time > jobs.start_time))
    query = select(func.max(jobs.start_time)).where(
        jobs.queue_name.in_(names), jobs.start_time <= now, ran
    )
    return int(connection.execute(query).scalar() or 0)

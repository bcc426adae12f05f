"""The jobs that OAR gave up before they ran, as its logs tell it.

OAR 2 logs every state of a job: one that was Launching, and neither Running nor paused after that,
never ran. OAR 3 loses rows of Running, so that there a missing row says nothing, and an event that
prevents the start says it. Where OAR has no such log of a job, nothing is known, and it counts.
"""

from typing import Any

import numpy as np
from sqlalchemy import Connection, Select, and_, case, exists, func, or_, select

from oar_accounting.core.columns import Ints
from oar_accounting.database import bulk
from oar_accounting.database.id_blocks import among
from oar_accounting.errors import OarSchemaError
from oar_accounting.oar import oar_tables
from oar_accounting.oar.checking import check_columns
from oar_accounting.oar.job_rules import PAUSED
from oar_accounting.oar.waiting_jobs import NO_RESERVATION

#: The states of a job whose script was started.
HAS_RUN = ("Running", *PAUSED)

#: What OAR logs of nodes that did not answer while a job was launched. A reservation goes on
#: without them.
NODE_EVENTS = (
    "PING_CHECKER_NODE_SUSPECTED",  # the pingchecker at the start; at the end it is …_END_JOB
    "CPUSET_ERROR",  # the cpusets could not be made; at the end it is CPUSET_CLEAN_ERROR
)
#: The events upon which OAR 2 (bipbip, oarexec, NodeChangeState) and OAR 3 (bipbip, job_handling,
#: node_change_state) give a job up before its script is started.
START_EVENTS = (
    # The prologue of the server.
    "SERVER_PROLOGUE_TIMEOUT",
    "SERVER_PROLOGUE_EXIT_CODE_ERROR",
    # The prologue of the node, and what oarexec does before it: of these OAR 3 mostly sees no more
    # than that oarexec did not start in time.
    "PROLOGUE_ERROR",
    "CANNOT_WRITE_NODE_FILE",
    "USER_SHELL",
    "CANNOT_CREATE_TMP_DIRECTORY",
    "SSH_TRANSFER_TIMEOUT",
    "BAD_HASHTABLE_DUMP",
    "LAUNCHING_OAREXEC_TIMEOUT",
    # A reservation none of whose nodes answered.
    "RESERVATION_NO_NODE",
)
# Not among them, as these may come after the start: CANNOT_WRITE_PID_FILE, EXIT_VALUE_OAREXEC,
# EXTERMINATE_JOB, WORKING_DIRECTORY, OUTPUT_FILES; upon CPUSET_MANAGER_FILE OAR goes on.


class LaunchLogs:
    """What the logs of one OAR say of jobs that have ended."""

    def __init__(self) -> None:
        self._is_oar3: bool | None = None
        self._events_readable = False

    def never_ran(self, connection: Connection, block: Ints) -> Ints:
        """The jobs of the block that were given up before they ran; one query, in no order."""
        if not self._told_by_events(connection):
            query = _launched_only(block)
        elif self.unread(connection):
            return block[:0]
        else:
            query = _prevented(block)
        return np.intersect1d(bulk.read_ints(connection, query)[0], block)

    def unread(self, connection: Connection) -> str:
        """Why the log that says which jobs never ran cannot be read; empty where it can.

        The log of states is among the tables that are always read.
        """
        if self._events_readable or not self._told_by_events(connection):
            return ""
        try:
            check_columns(connection, oar_tables.event_logs)
        except OarSchemaError as error:
            return str(error)
        self._events_readable = True
        return ""

    def _told_by_events(self, connection: Connection) -> bool:
        if self._is_oar3 is None:
            self._is_oar3 = "last_karma" in check_columns(connection, oar_tables.jobs)
        return self._is_oar3


def _launched_only(block: Ints) -> Select[Any]:
    """The jobs with a row of Launching and none of what follows, that did not end well.

    OAR 2 goes on where it cannot write that a job is Running: what is Terminated did run.
    """
    logs, jobs = oar_tables.state_logs.c, oar_tables.jobs
    ran = func.max(case((logs.job_state.in_(HAS_RUN), 1), else_=0))
    return (
        select(logs.job_id)
        .join_from(oar_tables.state_logs, jobs, jobs.c.job_id == logs.job_id)
        .where(jobs.c.state != "Terminated")
        .where(among(block, logs.job_id), logs.job_state.in_(("Launching", *HAS_RUN)))
        .group_by(logs.job_id)
        .having(ran == 0)
    )


def _prevented(block: Ints) -> Select[Any]:
    """The jobs with an event that prevents the start, and no row that says they ran after all."""
    events, jobs, logs = oar_tables.event_logs.c, oar_tables.queued.c, oar_tables.state_logs.c
    ran = exists().where(logs.job_id == events.job_id, logs.job_state.in_(HAS_RUN))
    of_nodes = and_(events.type.in_(NODE_EVENTS), jobs.reservation.in_(NO_RESERVATION))
    return (
        select(events.job_id)
        .join_from(oar_tables.event_logs, oar_tables.queued, jobs.job_id == events.job_id)
        .where(among(block, events.job_id), or_(events.type.in_(START_EVENTS), of_nodes), ~ran)
        .distinct()
    )

"""The tables of OAR that are read here, with the columns that are read and no others.

They stand in a MetaData of their own, so that creating our tables can never touch OAR's. Only the
demo and the tests create them; everywhere else OAR made them, and they are only read.
"""

from sqlalchemy import (
    BigInteger,
    Column,
    Float,
    Integer,
    MetaData,
    PrimaryKeyConstraint,
    String,
    Table,
    Text,
)

metadata = MetaData()

jobs = Table(
    "jobs",
    metadata,
    Column("job_id", BigInteger, primary_key=True, autoincrement=False),
    Column("job_user", String(255), nullable=False),
    Column("project", String(255), nullable=False),
    Column("queue_name", String(100), nullable=False),
    Column("state", String(16), nullable=False),
    Column("submission_time", BigInteger, nullable=False),
    Column("start_time", BigInteger, nullable=False),
    Column("stop_time", BigInteger, nullable=False),
    Column("assigned_moldable_job", BigInteger),
    Column("suspended", String(3), nullable=False),
    Column("job_name", String(100)),
    # What waiting for the program gave; NULL until it has ended, and where OAR killed it.
    Column("exit_code", Integer),
    # None, toSchedule or Scheduled: what is not None was promised a time.
    Column("reservation", String(10), nullable=False, server_default="None"),
)

moldables = Table(
    "moldable_job_descriptions",
    metadata,
    Column("moldable_id", BigInteger, primary_key=True, autoincrement=False),
    # The job that asks for it; one of its moldables is assigned to it when it starts.
    Column("moldable_job_id", BigInteger, nullable=False, index=True),
    Column("moldable_walltime", BigInteger, nullable=False),
)

assigned = Table(
    "assigned_resources",
    metadata,
    Column("moldable_job_id", BigInteger, nullable=False),
    Column("resource_id", Integer, nullable=False),
    PrimaryKeyConstraint("moldable_job_id", "resource_id"),
)

resources = Table(
    "resources",
    metadata,
    Column("resource_id", Integer, primary_key=True, autoincrement=False),
    Column("type", String(100), nullable=False),
    Column("network_address", String(100), nullable=False),
)

job_types = Table(
    "job_types",
    metadata,
    Column("job_type_id", BigInteger, primary_key=True, autoincrement=False),
    Column("job_id", BigInteger, nullable=False, index=True),
    Column("type", String(255), nullable=False),
)

state_logs = Table(
    "job_state_logs",
    metadata,
    Column("job_state_log_id", BigInteger, primary_key=True, autoincrement=False),
    Column("job_id", BigInteger, nullable=False, index=True),
    Column("job_state", String(16), nullable=False),
    Column("date_start", BigInteger, nullable=False),
    # 0 or NULL while the state lasts.
    Column("date_stop", BigInteger),
)

#: OAR's own accounting, which is read only where its past is taken over; not every role may.
accounting = Table(
    "accounting",
    MetaData(),
    Column("window_start", BigInteger, nullable=False),
    # The last second of the window.
    Column("window_stop", BigInteger, nullable=False),
    Column("accounting_user", String(255), nullable=False),
    Column("accounting_project", String(255), nullable=False),
    Column("queue_name", String(100), nullable=False),
    # ASKED or USED.
    Column("consumption_type", String(5), nullable=False),
    # Seconds times resources.
    Column("consumption", BigInteger, nullable=False),
)

#: What of a job decides when it is its turn; not every program that reads jobs needs it.
queued = Table(
    "jobs",
    MetaData(),
    Column("job_id", BigInteger, primary_key=True, autoincrement=False),
    Column("job_user", String(255), nullable=False),
    Column("project", String(255), nullable=False),
    Column("queue_name", String(100), nullable=False),
    Column("state", String(16), nullable=False),
    # None, toSchedule or Scheduled: what is not None was promised a time.
    Column("reservation", String(10), nullable=False),
    # The condition, in SQL, on the resources that the user wants.
    Column("properties", Text),
)

#: What decided when it was a job's turn, and when it was.
started = Table(
    "jobs",
    MetaData(),
    *(column._copy() for column in queued.columns),
    *(jobs.c[name]._copy() for name in ("submission_time", "start_time", "stop_time")),
    jobs.c.assigned_moldable_job._copy(),
)

#: What OAR 3 tells users of a job that waits; OAR 2 has no ``last_karma``.
shown = Table(
    "jobs",
    MetaData(),
    Column("job_id", BigInteger, primary_key=True, autoincrement=False),
    Column("state", String(16), nullable=False),
    Column("message", String(255), nullable=False),
    Column("last_karma", Float),
)

#: What jobs ask for: groups of levels of each moldable. Not every role may read them.
resource_groups = Table(
    "job_resource_groups",
    MetaData(),
    Column("res_group_id", BigInteger, primary_key=True, autoincrement=False),
    Column("res_group_moldable_id", BigInteger, nullable=False),
    # The condition, in SQL, on the resources of the group.
    Column("res_group_property", Text),
)
resource_descriptions = Table(
    "job_resource_descriptions",
    MetaData(),
    Column("res_job_group_id", BigInteger, nullable=False),
    # A property of resources, and how many of its values.
    Column("res_job_resource_type", String(255), nullable=False),
    Column("res_job_value", Integer, nullable=False),
    # From the highest level to the deepest.
    Column("res_job_order", Integer, nullable=False),
    PrimaryKeyConstraint("res_job_group_id", "res_job_resource_type", "res_job_order"),
)

#: When resources were alive, and what else was changed about them.
resource_logs = Table(
    "resource_logs",
    MetaData(),
    Column("resource_log_id", Integer, primary_key=True, autoincrement=False),
    Column("resource_id", Integer, nullable=False),
    Column("attribute", String(255), nullable=False),
    Column("value", String(255), nullable=False),
    Column("date_start", BigInteger, nullable=False),
    # 0 while it lasts.
    Column("date_stop", BigInteger),
)

#: Who is scheduled by what, and whether at all; not every role may read it.
queues = Table(
    "queues",
    MetaData(),
    Column("queue_name", String(100), primary_key=True),
    Column("priority", Integer, nullable=False),
    # The file of OAR 2 that schedules it.
    Column("scheduler_policy", String(100), nullable=False),
    # Active or notActive.
    Column("state", String(9), nullable=False),
)

#: What OAR has noted of jobs and nodes; not every role may read it.
event_logs = Table(
    "event_logs",
    MetaData(),
    Column("event_id", BigInteger, primary_key=True, autoincrement=False),
    Column("type", String(50), nullable=False),
    Column("job_id", BigInteger, nullable=False),
    Column("date", BigInteger, nullable=False),
    Column("description", String(255), nullable=False),
)

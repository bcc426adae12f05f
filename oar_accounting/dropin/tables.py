"""OAR's ``accounting`` and ``jobs.accounted``, which only ``oaraccounting`` writes; scratch tables.

The columns that it reads or writes and no others. Nothing here is ever created but what is
temporary.
"""

from sqlalchemy import (
    BigInteger,
    Column,
    Integer,
    MetaData,
    String,
    Table,
)

from oar_accounting.database.dialects import PASSING, Name

metadata = MetaData()

accounting = Table(
    "accounting",
    metadata,
    Column("window_start", BigInteger, primary_key=True, autoincrement=False),
    # The last second of the window.
    Column("window_stop", BigInteger, primary_key=True, autoincrement=False),
    Column("accounting_user", String(255), primary_key=True),
    Column("accounting_project", String(255), primary_key=True),
    Column("queue_name", String(100), primary_key=True),
    # ASKED or USED.
    Column("consumption_type", String(5), primary_key=True),
    # Seconds times resources.
    Column("consumption", BigInteger, nullable=False),
)

jobs = Table(
    "jobs",
    metadata,
    Column("job_id", BigInteger, primary_key=True, autoincrement=False),
    Column("job_user", String(255), nullable=False),
    Column("project", String(255), nullable=False),
    Column("queue_name", String(100), nullable=False),
    Column("state", String(16), nullable=False),
    Column("start_time", BigInteger, nullable=False),
    Column("stop_time", BigInteger, nullable=False),
    Column("assigned_moldable_job", BigInteger),
    Column("accounted", String(3), nullable=False),
)

#: The jobs that are to be counted, by their turn from 1.
due = Table(
    "oar_accounting_due",
    MetaData(),
    Column("turn", Integer, primary_key=True, autoincrement=False),
    Column("job_id", BigInteger, nullable=False),
    Column("start_time", BigInteger, nullable=False),
    Column("stop_time", BigInteger, nullable=False),
    Column("walltime", BigInteger, nullable=False),
    # Resources of type default.
    Column("held", Integer, nullable=False),
    Column("job_user", Name, nullable=False),
    Column("project", Name, nullable=False),
    Column("queue_name", Name, nullable=False),
    prefixes=["TEMPORARY"],
    info=PASSING,
)

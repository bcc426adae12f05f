"""Our tables: the one truth of the schema. `versions` makes the files of ``sql/`` from it.

Times are epoch seconds UTC in 64 bits, spans are half-open, amounts are whole numbers in the
metric's unit divided by its scale. The large tables carry no foreign keys: they are written in
bulk by one writer at a time, and a check per row would cost more than the writing.
"""

from sqlalchemy import (
    BigInteger,
    CheckConstraint,
    Column,
    ForeignKey,
    Index,
    Integer,
    MetaData,
    PrimaryKeyConstraint,
    SmallInteger,
    String,
    Table,
    UniqueConstraint,
    func,
    inspect,
    select,
    text,
)
from sqlalchemy.engine import Connection

from oar_accounting.core.columns import FROM_START
from oar_accounting.database import dialects
from oar_accounting.database.dialects import Name, Words

VERSION = 6

#: States of a metric: filled in every job, or being filled by a rebuild and hidden until then.
ACTIVE, BUILDING = "active", "building"

#: The state of a job that OAR deleted before it had ended.
VANISHED = "Vanished"

#: What ``closed`` of a job says: it has not ended, it has, or it has and its spans and rates were
#: dropped: what it gave to the totals stands in the entries of the job `CARRIED`.
OPEN_JOB, CLOSED_JOB, PURGED_JOB = 0, 1, 2
#: The id, and the state, of what is no job of OAR: under it stand the amounts of purged jobs. Its
#: walltime and submission are the lengths of the windows, and of the days, that these are whole in.
CARRIED, CARRYING = 0, "Purged"

#: What ``reach`` of a job may be: it asked for or held resources less than two to the power of
#: this many seconds from its start; `ENDLESS` where that is longer, or not known yet.
REACHES = tuple(range(12, 32))
ENDLESS = 63

metadata = MetaData()

schema_version = Table("accounting_schema", metadata, Column("version", Integer, primary_key=True))

sites = Table(
    "accounting_sites",
    metadata,
    Column("site_id", Integer, primary_key=True),
    Column("name", Name, nullable=False),
    # The terms under which every row of the site was recorded; only a rebuild changes them.
    Column("window_seconds", BigInteger, nullable=False),
    Column("dimension", Name, nullable=False),
    Column("profile", String(16), nullable=False),
    Column("containers", String(16), nullable=False),
    # The rebuild that began and has not ended; empty when none.
    Column("unfinished", String(100), nullable=False),
    Column("high_water_mark", BigInteger, nullable=False),
    Column("purged_before", BigInteger),
    Column("last_pass", BigInteger),
    # Further terms. Seconds that a job may use beyond its walltime; NULL: as long as it ran.
    Column("grace", BigInteger),
    # How users and projects stand in OAR's database; NULL: as they are.
    Column("names", String(16)),
    # From when on OAR's log of which property is believed, as JSON; NULL: from the beginning.
    Column("property_since", Words),
    UniqueConstraint("name", name="accounting_sites_name"),
    info=dialects.TABLE,
)

accounts = Table(
    "accounting_accounts",
    metadata,
    Column("account_id", Integer, primary_key=True),
    Column("site_id", Integer, ForeignKey("accounting_sites.site_id"), nullable=False),
    Column("user_name", Name, nullable=False),
    Column("project", Name, nullable=False),
    Column("queue_name", Name, nullable=False),
    Column("property_value", Name, nullable=False),
    # SHA-256 of the four names: they are too long together for an index of MariaDB.
    Column("digest", String(64), nullable=False),
    UniqueConstraint("site_id", "digest", name="accounting_accounts_names"),
    info=dialects.TABLE,
)

metrics = Table(
    "accounting_metrics",
    metadata,
    Column("metric_id", Integer, primary_key=True),
    Column("site_id", Integer, ForeignKey("accounting_sites.site_id"), nullable=False),
    Column("name", String(63), nullable=False),
    Column("unit", Name, nullable=False),
    Column("scale", BigInteger, nullable=False),
    Column("definition", Words, nullable=False),
    Column("digest", String(64), nullable=False),
    Column("state", String(8), nullable=False),
    UniqueConstraint("site_id", "name", "state", name="accounting_metrics_name"),
    CheckConstraint("state IN ('active', 'building')", name="accounting_metrics_state"),
    # An id that is free again must not name another metric to a rebuild that still runs.
    info=dialects.LASTING_IDS,
)

jobs = Table(
    "accounting_jobs",
    metadata,
    Column("site_id", Integer, primary_key=True, autoincrement=False),
    Column("job_id", BigInteger, primary_key=True, autoincrement=False),
    # The account of the job's user, project and queue with an empty property value.
    Column("account_id", Integer, nullable=False),
    Column("state", String(16), nullable=False),
    Column("submission_time", BigInteger, nullable=False),
    Column("start_time", BigInteger, nullable=False),
    Column("stop_time", BigInteger, nullable=False),
    Column("walltime", BigInteger, nullable=False),
    Column("types", Words, nullable=False),
    # 1: the job has ended and stands in the totals; 2: and was purged.
    Column("closed", SmallInteger, nullable=False),
    # 1: OAR may still change the job: every pass looks at it again.
    Column("unsettled", SmallInteger, nullable=False),
    # So many times as long as jobs are a span of time is searched for them: see `REACHES`.
    Column("reach", SmallInteger, nullable=False, server_default=text(str(ENDLESS))),
    # What people know the job by. NULL: not recorded, as in jobs of earlier versions.
    Column("name", Name),
    # As OAR has it: 256 times what the program returned, where no signal ended it.
    Column("exit_code", Integer),
    # The nodes it held, as in ``n[1-4,7]``.
    Column("nodes", Words),
    # OAR's word for how its start was fixed in advance; ``None`` where it was not.
    Column("reservation", String(16)),
    info=dialects.BULK,
)
Index("accounting_jobs_times", jobs.c.site_id, jobs.c.reach, jobs.c.start_time)
Index(
    "accounting_jobs_unsettled",
    jobs.c.site_id,
    jobs.c.unsettled,
    info=dialects.only_where(jobs.c.unsettled == 1),
)

spans = Table(
    "accounting_spans",
    metadata,
    Column("site_id", Integer, primary_key=True, autoincrement=False),
    Column("job_id", BigInteger, primary_key=True, autoincrement=False),
    # 1: asked (from the start for the walltime), 0: used.
    Column("asked", SmallInteger, primary_key=True, autoincrement=False),
    Column("start_time", BigInteger, primary_key=True, autoincrement=False),
    # NULL while the job runs.
    Column("stop_time", BigInteger),
    info=dialects.BULK,
)

rates = Table(
    "accounting_rates",
    metadata,
    Column("site_id", Integer, nullable=False, autoincrement=False),
    Column("job_id", BigInteger, nullable=False, autoincrement=False),
    Column("account_id", Integer, nullable=False),
    Column("metric_id", Integer, nullable=False),
    Column("asked", BigInteger, nullable=False),
    Column("used", BigInteger, nullable=False),
    # From when the rate holds, until the next one of the same job, account and metric does. What a
    # job began with has the lowest of all times here.
    Column("start_time", BigInteger, nullable=False, server_default=text(str(FROM_START))),
    PrimaryKeyConstraint("site_id", "job_id", "account_id", "metric_id", "start_time"),
    info=dialects.BULK,
)

entries = Table(
    "accounting_entries",
    metadata,
    Column("site_id", Integer, primary_key=True, autoincrement=False),
    Column("job_id", BigInteger, primary_key=True, autoincrement=False),
    Column("account_id", Integer, primary_key=True, autoincrement=False),
    Column("metric_id", Integer, primary_key=True, autoincrement=False),
    Column("window_start", BigInteger, primary_key=True, autoincrement=False),
    Column("asked", BigInteger, nullable=False),
    Column("used", BigInteger, nullable=False),
    info=dialects.BULK,
)
Index("accounting_entries_times", entries.c.site_id, entries.c.window_start)

totals = Table(
    "accounting_totals",
    metadata,
    Column("window_start", BigInteger, nullable=False, autoincrement=False),
    Column("account_id", Integer, nullable=False),
    Column("metric_id", Integer, nullable=False),
    Column("asked", BigInteger, nullable=False),
    Column("used", BigInteger, nullable=False),
    # That of the account; by it the table may be divided.
    Column("site_id", Integer, nullable=False),
    PrimaryKeyConstraint("site_id", "window_start", "account_id", "metric_id"),
    *dialects.whole_numbers("asked", "used"),
    info=dialects.BULK,
)

#: The totals by day UTC, where a day is several whole windows of the site; no rows elsewhere.
days = Table(
    "accounting_days",
    metadata,
    Column("day_start", BigInteger, nullable=False, autoincrement=False),
    Column("account_id", Integer, nullable=False),
    Column("metric_id", Integer, nullable=False),
    Column("asked", BigInteger, nullable=False),
    Column("used", BigInteger, nullable=False),
    Column("site_id", Integer, nullable=False),
    PrimaryKeyConstraint("site_id", "day_start", "account_id", "metric_id"),
    *dialects.whole_numbers("asked", "used"),
    info=dialects.BULK,
)
#: The tables that sum what jobs gave, by whatever time is in their first column.
SUMMED = (totals, days)

passes = Table(
    "accounting_passes",
    metadata,
    Column("pass_id", Integer, primary_key=True),
    Column("site_id", Integer, ForeignKey("accounting_sites.site_id"), nullable=False),
    Column("verb", String(16), nullable=False),
    Column("began", BigInteger, nullable=False),
    # NULL while it is at work, and for ever where it was killed.
    Column("ended", BigInteger),
    Column("outcome", String(8), nullable=False),
    Column("done", BigInteger, nullable=False),
    Column("changed", BigInteger, nullable=False),
    Column("problems", BigInteger, nullable=False),
    # Why it failed, or the first of its problems.
    Column("message", Words, nullable=False),
    CheckConstraint("outcome IN ('running', 'done', 'failed')", name="accounting_passes_outcome"),
    info=dialects.LASTING_IDS,
)

forgotten = Table(
    "accounting_forgotten",
    metadata,
    Column("site_id", Integer, ForeignKey("accounting_sites.site_id"), primary_key=True),
    # SHA-256 of the salt and the user's name: OAR may still have the name.
    Column("digest", String(64), primary_key=True),
    Column("salt", String(32), nullable=False),
    Column("pseudonym", Name, nullable=False),
    info=dialects.TABLE,
)

openings = Table(
    "accounting_openings",
    metadata,
    Column("site_id", Integer, primary_key=True, autoincrement=False),
    Column("window_start", BigInteger, primary_key=True, autoincrement=False),
    # Half-open, as everywhere but in OAR.
    Column("window_stop", BigInteger, primary_key=True, autoincrement=False),
    Column("account_id", Integer, primary_key=True, autoincrement=False),
    # In resource·s, as OAR counted.
    Column("asked", BigInteger, nullable=False),
    Column("used", BigInteger, nullable=False),
    # What jobs that turned up later account for: so much less is open.
    Column("covered_asked", BigInteger, nullable=False),
    Column("covered_used", BigInteger, nullable=False),
    info=dialects.BULK,
)

adjustments = Table(
    "accounting_adjustments",
    metadata,
    Column("adjustment_id", Integer, primary_key=True),
    Column("site_id", Integer, ForeignKey("accounting_sites.site_id"), nullable=False),
    Column("posted", BigInteger, nullable=False),
    Column("author", Name, nullable=False),
    Column("reason", Words, nullable=False),
    # The adjustment whose amounts this one takes back; every one is taken back once at most.
    Column("counters", Integer),
    UniqueConstraint("counters", name="accounting_adjustments_counters"),
    # An id stands in letters to users: it is never given twice.
    info=dialects.LASTING_IDS,
)

adjusted = Table(
    "accounting_adjusted",
    metadata,
    Column("adjustment_id", Integer, primary_key=True, autoincrement=False),
    Column("line", Integer, primary_key=True, autoincrement=False),
    Column("account_id", Integer, nullable=False),
    # By name: a metric that is rebuilt keeps its adjustments.
    Column("metric", String(63), nullable=False),
    # NULL where no job is adjusted but an account.
    Column("job_id", BigInteger),
    # The span over which the amounts lie evenly.
    Column("start_time", BigInteger, nullable=False),
    Column("stop_time", BigInteger, nullable=False),
    Column("asked", BigInteger, nullable=False),
    Column("used", BigInteger, nullable=False),
    info=dialects.BULK,
)

attributes = Table(
    "accounting_attributes",
    metadata,
    Column("site_id", Integer, primary_key=True, autoincrement=False),
    Column("attribute", String(63), primary_key=True),
    # Of a user or of a project.
    Column("name", Name, primary_key=True),
    # The lowest of all numbers where it always was so, NULL where it goes on.
    Column("valid_from", BigInteger, primary_key=True, autoincrement=False),
    Column("valid_to", BigInteger),
    Column("kind", String(8), nullable=False),
    Column("value", Name, nullable=False),
    CheckConstraint("kind IN ('user', 'project')", name="accounting_attributes_kind"),
    info=dialects.BULK,
)

#: What a purged job asked for and used day by day. Of jobs that an earlier version purged, nothing.
purged = Table(
    "accounting_purged",
    metadata,
    Column("site_id", Integer, primary_key=True, autoincrement=False),
    Column("job_id", BigInteger, primary_key=True, autoincrement=False),
    Column("account_id", Integer, primary_key=True, autoincrement=False),
    Column("metric_id", Integer, primary_key=True, autoincrement=False),
    # The day UTC; the window, where a day is not several whole windows of the site.
    Column("day_start", BigInteger, primary_key=True, autoincrement=False),
    # What it held each second when it began, in the first of its rows; 0 in the others.
    Column("rate", BigInteger, nullable=False),
    Column("asked", BigInteger, nullable=False),
    Column("used", BigInteger, nullable=False),
    info=dialects.BULK,
)

#: What somebody must look at, for as long as it is so.
problems = Table(
    "accounting_problems",
    metadata,
    Column("site_id", Integer, primary_key=True, autoincrement=False),
    # What has the problem, by its id or name.
    Column("kind", String(8), primary_key=True),
    Column("subject", Name, primary_key=True),
    # Which problem: a subject may have several.
    Column("code", String(32), primary_key=True),
    Column("message", Words, nullable=False),
    Column("first_seen", BigInteger, nullable=False),
    Column("last_seen", BigInteger, nullable=False),
    CheckConstraint(
        "kind IN ('job', 'metric', 'resource', 'site')", name="accounting_problems_kind"
    ),
    info=dialects.TABLE,
)


def is_complete(connection: Connection) -> bool:
    """True where our tables were created to the end: the version is written last."""
    return version_of(connection) is not None


def first_missing(connection: Connection) -> str | None:
    """The first of our tables or columns that is not there; None where all are."""
    inspector = inspect(connection)
    for table in metadata.sorted_tables:
        if not inspector.has_table(table.name):
            return f"table {table.name}"
        present = {column["name"] for column in inspector.get_columns(table.name)}
        for column in table.columns:
            if column.name not in present:
                return f"column {column.name} of {table.name}"
    return None


def version_of(connection: Connection) -> int | None:
    """The version of our tables; None where they are not there, or not to the end."""
    if not connection.dialect.has_table(connection, schema_version.name):
        return None
    found = connection.execute(select(func.max(schema_version.c.version))).scalar_one()
    return None if found is None else int(found)

"""An OAR database to try things on: months of an invented site, from a fixed seed.

Nothing reads the clock: the same seed and the same `now` give the same rows. Times are epoch
seconds UTC. What can happen to a job is what happened in real databases of OAR 2.5.9 and OAR 3.
"""

from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from sqlalchemy import Column, Connection, Engine, Integer, MetaData, String

from oar_accounting.core.lengths import DAY
from oar_accounting.database import bulk, dialects
from oar_accounting.demo import site
from oar_accounting.demo.jobs import InventedHistory, Job, as_of, names_of
from oar_accounting.demo.past import LABORATORIES, accounting_rows
from oar_accounting.errors import SettingsError
from oar_accounting.oar import oar_tables

#: The settings that go with the demonstration.
DEMO_TOML = """\
# Settings of oar-accounting for the demonstration site.
#
# Two metrics need no declaration: "resource" counts the rows of OAR's table "resources" that a
# job holds (here: cores), "node" the different nodes among them. Every table below adds one more.
# An amount is what is held times the seconds for which it is held.

# Cores: how many different values the property "core" has among the resources of the job.
[metrics.core]
distinct = "core"
unit = "core·s"

# GPUs, likewise. Resources without a GPU have no value there and count for nothing.
[metrics.gpu]
distinct = "gpu"
unit = "gpu·s"

# Memory: every row of a node bears the memory of the whole node, so it is added once per node.
# Who holds one core of a node thus holds all of its memory.
[metrics.memory]
sum = "mem_mib"
per = "network_address"
unit = "MiB.s"

# Who is next: the karma of a waiting job is the sum of these terms, and the lowest is first. What
# was used counts less and less, half of it after a week.
[karma]
policy = "linear"
half_life = "7d"

[[karma.terms]]
by = "user"
metric = "core"
weight = 2

[[karma.terms]]
by = "user"
metric = "gpu"

# Projects are meant to have so many percent of the cores.
[[karma.terms]]
by = "project"
metric = "core"
targets = { climate = 40, "*" = 10 }
"""

#: What the administrator thinks of having instead.
OTHER_KARMA = """\
# "oar-accounting karma --what-if" this file says who would gain and who would lose. Siblings in the
# tree are compared with each other only: projects first, and then the users of a project.
[karma]
policy = "fair_tree"
half_life = "7d"
levels = ["project", "user"]
metrics = { core = 1, gpu = 1 }

[karma.shares.project]
climate = 4
"*" = 1
"""

#: Fewer jobs than this cannot be of every kind.
FEWEST_JOBS = 400
#: The machine is too small for more.
MOST_JOBS_A_DAY = 2_000


def _tables() -> MetaData:
    """OAR's tables, with the properties that the site has added to its resources."""
    tables = MetaData()
    others = (
        *("accounting", "event_logs", "queues", "resource_logs"),
        *("resource_groups", "resource_descriptions"),
    )
    for table in (*oar_tables.metadata.sorted_tables, *(getattr(oar_tables, o) for o in others)):
        table.to_metadata(tables)
    jobs = tables.tables["jobs"]
    jobs.append_column(Column("properties", String(255)))
    resources = tables.tables["resources"]
    resources.append_column(Column("cluster", String(255)))
    for name in ("core", "gpu", "mem_mib"):
        resources.append_column(Column(name, Integer))
    resources.append_column(Column("state", String(16), nullable=False))
    resources.append_column(Column("available_upto", Integer, nullable=False))
    return tables


metadata = _tables()


def create_oar(engine: Engine) -> None:
    """Create OAR's tables where they are missing, the resources with properties of the site.

    These are ``cluster``, ``core`` and ``gpu`` (numbers that no other core or GPU of the site
    has) and ``mem_mib`` (the memory of the whole node, in MiB); NULL where there is none.
    """
    with dialects.writing(engine) as connection:
        metadata.create_all(connection)


def fill_oar(engine: Engine, *, now: int, jobs: int = 5000, days: int = 90, seed: int = 2) -> None:
    """Fill OAR's empty tables with the *days* that end at *now* (epoch seconds UTC).

    Of the months before, only OAR's own accounting is left.

    All kinds of jobs are among the *jobs*; where there are few days, those that would come too
    late are left out. Raises :class:`ValueError` for fewer than `FEWEST_JOBS` jobs, and for more
    than `MOST_JOBS_A_DAY`.
    """
    if not FEWEST_JOBS <= jobs <= MOST_JOBS_A_DAY * days:
        raise ValueError(
            f"{FEWEST_JOBS} jobs or more, and {MOST_JOBS_A_DAY} a day at most, were expected, "
            f"not {jobs} in {days} days"
        )
    rng = np.random.default_rng(seed)
    happened = InventedHistory(rng, now, days).live(jobs)
    with dialects.writing(engine) as connection:
        _insert(connection, "queues", site.queue_rows())
        _insert(connection, "resources", site.resource_rows())
        held = [(job.start, job.stop or now, job.resources) for job in happened if job.start]
        log = site.resource_log_rows(now - days * DAY, now, held)
        log += site.property_log_rows(now - days * DAY, now, len(log) + 1)
        _insert(connection, "resource_logs", log)
        _insert(connection, "accounting", accounting_rows(seed, now - days * DAY))
        named = names_of(np.random.default_rng([seed, 1]), happened)
        _write(connection, rng, named, now)


# -- as rows ----------------------------------------------------------------------------------

#: One job in so many has all its states logged; those that were suspended always have.
LOGGED = 20


def _insert(connection: Connection, name: str, rows: Sequence[tuple[Any, ...]]) -> None:
    """Insert rows whose values stand in the order of the table's columns."""
    table = metadata.tables[name]
    lists = map(list, zip(*rows, strict=True))
    bulk.insert_columns(connection, table, dict(zip(table.columns.keys(), lists, strict=True)))


def _write(connection: Connection, rng: np.random.Generator, jobs: Sequence[Job], now: int) -> None:
    # OAR loses an id where it refuses a submission.
    ids = np.cumsum(rng.choice((1, 2), len(jobs), p=(0.99, 0.01))).tolist()
    # Some ask for this or for that: OAR assigns one of the two moldables.
    offered = rng.choice((1, 2), len(jobs), p=(0.92, 0.08))
    last = np.cumsum(offered)
    chosen = (last - rng.integers(0, offered)).tolist()
    walltimes = np.repeat([job.walltime for job in jobs], offered).tolist()
    asking = np.repeat(ids, offered).tolist()
    seen = [as_of(job, now) for job in jobs]
    held = list(zip(chosen, seen, strict=True))
    _insert(connection, "jobs", list(map(_job_row, ids, seen, chosen)))
    _insert(
        connection,
        "moldable_job_descriptions",
        list(zip(range(1, len(asking) + 1), asking, walltimes, strict=True)),
    )
    asked = list(
        zip(
            np.repeat(np.arange(len(jobs)), offered).tolist(),
            range(1, len(asking) + 1),
            strict=True,
        )
    )
    _insert(connection, "job_resource_groups", [_group_row(m, jobs[nth]) for nth, m in asked])
    _insert(
        connection,
        "job_resource_descriptions",
        [(m, "resource_id", len(jobs[nth].resources), 0) for nth, m in asked],
    )
    _insert(connection, "assigned_resources", [(m, r) for m, job in held for r in job.resources])
    _insert(connection, "job_types", _type_rows(dict(zip(jobs, ids, strict=True))))
    _insert(connection, "job_state_logs", _log_rows(dict(zip(ids, seen, strict=True))))


def _group_row(moldable: int, job: Job) -> tuple[Any, ...]:
    """Of how many resources the moldable is, in one group of the same number."""
    kind = "licence" if job.resources and job.resources[0] > site.CORES else "default"
    return moldable, moldable, f"type = '{kind}'"


def _job_row(number: int, job: Job, moldable: int) -> tuple[Any, ...]:
    return (
        number,
        job.user,
        job.project,
        job.queue,
        job.state,
        job.submitted,
        job.start,
        job.stop,
        moldable if job.resources else 0,
        "YES" if job.pauses else "NO",
        job.name,
        job.exit_code,
        "Scheduled" if job.reserved else "None",
        "",
    )


def _type_rows(ids: Mapping[Job, int]) -> list[tuple[Any, ...]]:
    rows = []
    for job, number in ids.items():
        rows += [(number, kind) for kind in job.types]
        if job.container is not None:
            rows.append((number, f"inner={ids[job.container]}"))
    return [(n, *row) for n, row in enumerate(rows, 1)]


def _log_rows(jobs: Mapping[int, Job]) -> list[tuple[Any, ...]]:
    rows = []
    for number, job in jobs.items():
        if job.pauses or number % LOGGED == 0:
            # A state that lasts has no end.
            for (state, start), (_, stop) in pairwise([*_states(job), ("", 0)]):
                rows.append((number, state, start, stop))
    return [(n, *row) for n, row in enumerate(rows, 1)]


def _states(job: Job) -> list[tuple[str, int]]:
    """The states that the job has been in, and since when."""
    states = [("Waiting", job.submitted)]
    if job.resources:
        states += [("toLaunch", job.start), ("Launching", job.start)]
        if job.stop != job.start and job.state != "Launching":
            states.append(("Running", job.start + 4))
        for suspended, resumed, running in job.pauses:
            states.append(("Suspended", suspended))
            if resumed:
                states += [("Resuming", resumed), ("Running", running)]
        if job.stop:
            states.append(("Finishing", job.stop))
    if job.state != states[-1][0]:
        states.append((job.state, max(job.stop, states[-1][1]) + 1))
    return states


# -- the files --------------------------------------------------------------------------------

#: The demonstration ends here, so that it shows the same every time: 2026-04-01, 00:00 UTC.
DEMO_NOW = 1_775_001_600


def _check_own(database: Path, config: Path) -> None:
    """Raise :class:`SettingsError` where files of somebody else would be overwritten."""
    ours = config.exists() and config.read_text(encoding="utf-8", errors="replace") == DEMO_TOML
    for file in (database, config):
        if file.exists() and not ours:
            raise SettingsError(f"{file}: not of the demonstration; choose another --directory")


def write_demo(directory: Path) -> tuple[str, Path]:
    """Write a database, settings and a list of laboratories into *directory*.

    They take the place of those of an earlier run.

    Returns the URL of the database and the settings file. Raises :class:`SettingsError` where
    the directory cannot be written.
    """
    database, config = directory / "oar.db", directory / "accounting.toml"
    if "?" in str(directory):
        raise SettingsError(f"{directory}: a directory without a question mark is expected")
    try:
        directory.mkdir(parents=True, exist_ok=True)
        _check_own(database, config)
        for ending in ("", "-wal", "-shm"):
            Path(f"{database}{ending}").unlink(missing_ok=True)
        config.write_text(DEMO_TOML, encoding="utf-8")
        (directory / "laboratories.csv").write_text(LABORATORIES, encoding="utf-8")
        (directory / "other-karma.toml").write_text(OTHER_KARMA, encoding="utf-8")
    except OSError as error:
        raise SettingsError(f"{directory}: cannot be written: {error.strerror}") from None
    url = dialects.file_url(database)
    engine = dialects.open_engine(url)
    create_oar(engine)
    fill_oar(engine, now=DEMO_NOW)
    engine.dispose()
    return url, config

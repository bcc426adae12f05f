"""OAR 3 itself, where it is installed: its models, its scheduler and its modules at work.

Each step is what one of OAR's processes does, in a session of its own that ends with it: what the
process left uncommitted is lost, as it is there. OAR's clock is the test's.
"""

import importlib
import logging
import os
import warnings
from collections.abc import Sequence
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from sqlalchemy import Connection, Engine, MetaData, create_engine, func, select
from sqlalchemy.orm import Session

from tests.small_oar import HOUR, Clock

#: Why these tests cannot run, or nothing.
MISSING = "" if find_spec("oar") else "OAR 3 is not installed in this environment (no module oar)"

#: A checkout of OAR 3, for its schema file where the installed package has none beside it.
CHECKOUT = os.environ.get("OAR_ACCOUNTING_TEST_OAR3")

MODULES = {
    "accounting": "oar.lib.accounting",
    "configuration": "oar.lib.configuration",
    "jobs": "oar.lib.job_handling",
    "leon": "oar.modules.leon",
    "meta_sched": "oar.kao.meta_sched",
    "models": "oar.lib.models",
    "node_change_state": "oar.modules.node_change_state",
    "platform": "oar.kao.platform",
    "resources": "oar.lib.resource_handling",
    "tools": "oar.lib.tools",
}

#: What the site adds to its resources, as ``oarproperty`` does.
PROPERTIES = ("cluster VARCHAR(255)", "core INTEGER")


@cache
def oar3() -> SimpleNamespace:
    """OAR's modules by the names above. On import, too, they read ``$OARCONFFILE``."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        modules = {name: importlib.import_module(path) for name, path in MODULES.items()}
    # As they are declared: what is reflected comes with a second copy of every index.
    declared = MetaData()
    for table in modules["models"].Model.metadata.sorted_tables:
        table.to_metadata(declared)
    found = SimpleNamespace(**modules, declared=declared)
    # The models learn the properties from the first database that they are shown, for good.
    engine = create_engine("sqlite://")
    create_from_models(engine, declared)
    found.models.DeferredReflectionModel.prepare(engine)
    engine.dispose()
    return found


def create_from_models(engine: Engine, declared: MetaData | None = None) -> None:
    """Create OAR 3's tables as its SQLAlchemy models have them."""
    with engine.begin() as connection:
        (oar3().declared if declared is None else declared).create_all(connection)
        _add_properties(connection)


def create_from_schema_file(engine: Engine, file: Path) -> None:
    """Create OAR 3's tables with its own SQL, enumerated types and all."""
    with engine.begin() as connection:
        connection.exec_driver_sql(file.read_text(encoding="utf-8").replace("%", "%%"))
        _add_properties(connection)


def _add_properties(connection: Connection) -> None:
    for each in PROPERTIES:
        connection.exec_driver_sql(f"ALTER TABLE resources ADD COLUMN {each}")


def schema_file() -> Path | None:
    """OAR 3's own schema file, in the checkout or beside the package."""
    package = find_spec("oar")
    places = [CHECKOUT] if CHECKOUT else []
    if package is not None and package.origin is not None:
        places.append(str(Path(package.origin).parents[1]))
    files = [Path(place, "setup", "database", "pg_structure.sql") for place in places]
    return next((file for file in files if file.is_file()), None)


FOUR = "resource_id=4"
#: By which ``bipbip`` knows that it is the job's own ``oarexec`` that speaks.
CHALLENGE = "swordfish"


class Oar3Site:
    """OAR 3's tables in the database of *engine*, with two nodes of four cores and two licences.

    A job of which nothing is said asks for four cores for two hours.
    """

    def __init__(self, engine: Engine, clock: Clock) -> None:
        self.engine = engine
        self.clock = clock
        self.config = oar3().configuration.Configuration()
        models = oar3().models
        with self.process() as session:
            models.Queue.create(session, name="default", priority=3, state="Active")
            for core in range(1, 9):
                node, cluster = ("alpha-1", "alpha") if core < 5 else ("beta-1", "beta")
                models.Resource.create(session, network_address=node, cluster=cluster, core=core)
            for _ in range(2):
                models.Resource.create(session, type="licence", cluster="")

    def process(self) -> Session:
        """A session, to last as long as one of OAR's processes lives."""
        return Session(self.engine)

    # -- a job's life -------------------------------------------------------------------------

    def submit(
        self,
        user: str,
        *requests: str,
        walltime: int = 2 * HOUR,
        types: Sequence[str] = (),
        licences: int = 0,
        **columns: Any,
    ) -> int:
        """Submit a job, as ``oarsub`` does; its id. Of several requests OAR chooses one."""
        extra = [(f"resource_id={licences}", "type = 'licence'")] if licences else []
        wanted = [[(each, "type = 'default'")] if each else [] for each in requests or (FOUR,)]
        with self.process() as session:
            job: int = oar3().jobs.insert_job(
                session,
                res=[(walltime, [*groups, *extra]) for groups in wanted],
                types=list(types),
                job_user=user,
                project="default",
                submission_time=self.clock.now,
                command="sleep",
                **columns,
            )
            session.add(oar3().models.Challenge(job_id=job, challenge=CHALLENGE))
            session.commit()
        return job

    def schedule(self) -> None:
        """Let the scheduler start what can start."""
        with self.process() as session:
            oar3().meta_sched.meta_schedule(session, self.config, plt=oar3().platform.Platform())

    def launch(self, *jobs: int) -> None:
        """What ``bipbip`` notes when it has started a job on its nodes."""
        for job in jobs:
            with self.process() as session:
                assert oar3().jobs.get_job_state(session, job) == "toLaunch"
                for state in ("Launching", "Running"):
                    oar3().jobs.set_job_state(session, self.config, job, state)

    def end(self, job: int, error: int = 0, exit_code: str = "0") -> None:
        """A job ends: ``bipbip`` hears of it with the exit code of ``oarexec``."""
        with self.process() as session:
            hosts = oar3().jobs.get_job_current_hostnames(session, job)
            oar3().jobs.check_end_of_job(
                session, self.config, job, exit_code, error, hosts, "", "/", None
            )

    def handle_events(self) -> None:
        """``node_change_state``: the final state, and what an event asks for besides."""
        with self.process() as session:
            oar3().node_change_state.NodeChangeState(self.config).run(session)

    def kill(self, job: int) -> None:
        """``oardel`` and ``leon``: a running job is signalled, one that waits or is noop ends."""
        with self.process() as session:
            assert oar3().jobs.frag_job(session, job, "oar") == 0
        self.leon()

    def exterminate(self, job: int) -> None:
        """What ``sarko`` asks of ``leon`` when a killed job does not answer, but its end."""
        with self.process() as session:
            oar3().jobs.job_leon_exterminate(session, job)
        self.leon()

    def leon(self, *arguments: str) -> None:
        """Run ``leon``, on one job or on what is to be killed."""
        with self.process() as session:
            oar3().leon.Leon(self.config, logging.getLogger("oar"), arguments).run(session)

    def resubmit(self, job: int) -> int:
        """``oarsub --resubmit``; the new job."""
        with self.process() as session:
            (code, _), new = oar3().jobs.resubmit_job(session, job)
        assert code == 0
        return int(new)

    def suspend(self, job: int) -> None:
        """Suspend a running job."""
        with self.process() as session:
            moldable = oar3().jobs.get_job(session, job).assigned_moldable_job
            oar3().jobs.suspend_job_action(session, self.config, job, moldable)

    def set_state(self, job: int, state: str) -> None:
        """Give a job a state, and commit."""
        with self.process() as session:
            oar3().jobs.set_job_state(session, self.config, job, state)
            session.commit()

    def change_walltime(self, job: int, walltime: int) -> None:
        """What ``oarwalltime`` leads to."""
        with self.process() as session:
            oar3().jobs.change_walltime(session, job, walltime, "")

    def remove_resource(self, resource: int) -> set[int]:
        """``oarremoveresource``, of a resource that is dead; the jobs that go with it."""
        before = set(self.states())
        with self.process() as session:
            oar3().resources.set_resource_state(session, resource, "Dead", "NO")
            assert oar3().resources.remove_resource(session, resource, "oar") == (0, None)
        return before - set(self.states())

    def account(self, window: int = 86_400) -> None:
        """``oaraccounting``, which OAR 3 runs every hour."""
        with self.process() as session:
            oar3().accounting.check_accounting_update(session, window)

    # -- what it says -------------------------------------------------------------------------

    def states(self) -> dict[int, str]:
        """The states of the jobs."""
        jobs = self.tables().tables["jobs"].c
        with self.engine.connect() as connection:
            return {
                job: str(state)
                for job, state in connection.execute(select(jobs.job_id, jobs.state))
            }

    def job_of(self, user: str) -> int:
        """The newest job of a user."""
        jobs = self.tables().tables["jobs"].c
        newest = select(func.max(jobs.job_id)).where(jobs.job_user == user)
        with self.engine.connect() as connection:
            return int(connection.execute(newest).scalar_one())

    def tables(self) -> MetaData:
        """OAR's tables, as the database has them."""
        metadata = MetaData()
        metadata.reflect(self.engine, only=list(oar3().declared.tables))
        return metadata

    def everything(self) -> dict[str, list[tuple[Any, ...]]]:
        """Every row of OAR's tables."""
        with self.engine.connect() as connection:
            return {
                table.name: sorted(map(tuple, connection.execute(select(table))), key=repr)
                for table in self.tables().sorted_tables
            }

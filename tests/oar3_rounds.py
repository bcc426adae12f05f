"""Whole rounds of OAR 3's scheduler, each a process of its own as in OAR: ``kao`` and ``kamelot``.

    site = Site(database.url, tmp_path)
    site.package("reversed", {SORTING: {"accounting": "sort"}}, REVERSED)
    for user in ("alice", "bob"):
        site.submit(user)
    done = site.kao(JOB_PRIORITY="CUSTOM", CUSTOM_JOB_SORTING="accounting")
    assert (done.code, done.order, done.stopped) == (0, ["bob", "alice"], [])

OAR 3 may be in another Python than the tests are: `PYTHON_VARIABLE` names it. Nothing of OAR is
imported here. The processes get no path but those of `Site.paths`; ours is not among them.
"""

import json
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

import pytest
from sqlalchemy import Connection, Engine, NullPool, create_engine, text

from tests.oar3_site import CHECKOUT, create_from_schema_file, schema_file
from tests.small_oar import HOUR
from tests.stock_command import write_conf

PYTHON_VARIABLE = "OAR_ACCOUNTING_TEST_OAR3_PYTHON"
# Read before the tests get an environment of their own.
_GIVEN = os.environ.get(PYTHON_VARIABLE)

Mode = Literal["internal", "external"]
#: Groups of entry points that OAR 3 looks into.
SORTING = "oar.jobs_sorting_func"
EXTRA = "oar.extra_metasched_func"

#: Longer than a round takes, in seconds; one that hangs is killed and the test fails.
PATIENCE = 120

ASK = """
import json, os, sys, sysconfig
from importlib.util import find_spec
if not find_spec("oar.kao.kao") or not find_spec("psycopg2"):
    sys.exit("no module oar.kao.kao, or no psycopg2")
places = (sysconfig.get_path("scripts"), "/usr/lib/oar", "/usr/local/lib/oar")
found = [p for p in places if all(os.path.exists(os.path.join(p, n)) for n in ("kao", "kamelot"))]
purelib = sysconfig.get_path("purelib")
json.dump({"executable": sys.executable, "scripts": found[:1], "purelib": purelib}, sys.stdout)
"""

PATHS = """
import json, sys
print(json.dumps([path for path in sys.path if path.endswith(("site-packages", "dist-packages"))]))
"""
#: Another Python, where a given one can be called, which may see other files than whoever calls.
BORROWER = """\
#!/bin/sh
exec {python} -c 'import os, sys; os.execv(sys.argv[1], sys.argv[1:])' {other} "$@"
"""

#: What pip writes for OAR's entry points, where the scripts are not found.
SCRIPT = """\
#!/bin/sh
"exec" "{python}" "$0" "$@"
import sys
from oar.kao.{name} import main
sys.exit(main())
"""

#: So that no job is launched by an OAR that may be at work on this machine. The port of its server
#: cannot be set: OAR makes a number of it, and fails to put that into an address.
NOWHERE = {
    "SERVER_HOSTNAME": "127.255.255.254",
    "BIPBIP_COMMANDER_SERVER": "127.255.255.254",
    "BIPBIP_COMMANDER_PORT": 9,
    "NOTIFY_TCP_SOCKET_ENABLED": 0,
}

SUBMIT = """
INSERT INTO jobs (job_id, array_id, state, job_user, project, queue_name, submission_time,
    job_type, command, launching_directory, checkpoint_signal, properties)
VALUES (:job, :job, 'Waiting', :user, :project, :queue, :submitted,
    'PASSIVE', 'sleep', '/', 12, '');
INSERT INTO moldable_job_descriptions (moldable_id, moldable_job_id, moldable_walltime)
VALUES (:moldable, :job, :walltime);
INSERT INTO job_resource_groups (res_group_id, res_group_moldable_id, res_group_property)
VALUES (:moldable, :moldable, 'type = ''default''');
INSERT INTO job_resource_descriptions (res_job_group_id, res_job_resource_type, res_job_value)
VALUES (:moldable, 'resource_id', :resources);
"""
#: A moldable is not taken for its job.
MOLDABLES = 1_000_000

#: As if no round had been.
FORGET = """
TRUNCATE gantt_jobs_predictions, gantt_jobs_resources, gantt_jobs_predictions_visu,
    gantt_jobs_resources_visu, assigned_resources, job_state_logs, event_logs;
UPDATE jobs SET state = 'Waiting', start_time = 0, assigned_moldable_job = 0, last_karma = NULL,
    message = '';
UPDATE queues SET state = 'Active';
"""

#: The users by the start that the last round gave their jobs.
ORDER = """
SELECT job_user FROM gantt_jobs_predictions
JOIN moldable_job_descriptions ON moldable_id = gantt_jobs_predictions.moldable_job_id
JOIN jobs ON job_id = moldable_job_descriptions.moldable_job_id
ORDER BY gantt_jobs_predictions.start_time, job_id
"""
STARTED = "SELECT job_user FROM jobs WHERE state <> 'Waiting' ORDER BY job_id"
QUEUES = "SELECT queue_name, state FROM queues ORDER BY priority DESC, queue_name"


@dataclass(frozen=True, slots=True)
class Installation:
    """Where OAR 3 is."""

    python: str  #: what to call
    executable: str  #: what it calls itself
    scripts: str | None  #: the directory of its ``kao`` and ``kamelot``
    purelib: str  #: where pip puts packages

    def has(self, module: str) -> bool:
        """Whether a module can be imported there."""
        return run([self.python, "-c", f"import {module}"], os.environ).returncode == 0


@cache
def installation() -> Installation | str:
    """OAR 3 with all that a round needs, or why there is none."""
    if _GIVEN is None and find_spec("oar") is None:
        return f"no module oar in this environment, and {PYTHON_VARIABLE} is not set"
    if schema_file() is None:
        return f"no schema file of OAR 3 in OAR_ACCOUNTING_TEST_OAR3 ({CHECKOUT}) or beside it"
    python = _GIVEN or sys.executable
    try:
        done = run([python, "-W", "ignore", "-c", ASK], os.environ)
    except OSError as error:
        return f"{python}: {error.strerror}"
    if done.returncode:
        return f"{python}: {done.stderr.strip().rpartition(chr(10))[2]}"
    told = json.loads(done.stdout)
    scripts = next(iter(told["scripts"]), None)
    return Installation(python, told["executable"], scripts, told["purelib"])


def borrowed(directory: Path) -> Installation:
    """OAR 3 in an environment of its own, into which anything may be installed, and removed.

    It lies in *directory*, and finds OAR 3 where that is.
    """
    found = installation()
    assert isinstance(found, Installation)
    place = directory / "oar3"
    _ask([found.python, "-m", "venv", "--without-pip", str(place)])
    paths = json.loads(_ask([found.python, "-c", PATHS]))
    lines = [f"import site; site.addsitedir({path!r})\n" for path in paths]
    python, purelib = place / "bin/python", next(place.glob("lib/python3*/site-packages"))
    (purelib / "oar3.pth").write_text("".join(lines), encoding="utf-8")
    borrower = directory / "oar3-python"
    borrower.write_text(BORROWER.format(python=found.python, other=python), encoding="utf-8")
    borrower.chmod(0o755)
    return Installation(str(borrower), str(python), None, str(purelib))


def _ask(command: list[str]) -> str:
    done = run(command, os.environ)
    assert done.returncode == 0, done.stderr
    return done.stdout


def missing() -> str:
    """Why no round can be run, or nothing."""
    found = installation()
    return found if isinstance(found, str) else ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Round:
    """What became of a round."""

    code: int  #: the return code of the process
    order: list[str]  #: users by the start of their job, by its id where that is the same
    started: list[str]  #: users whose job no longer waits, by its id
    queues: dict[str, str]  #: the state of each queue, the one that is first in turn first
    log: list[str]  #: of OAR, of all processes of the round
    said: str  #: on standard output and standard error

    @property
    def stopped(self) -> list[str]:
        """The queues that get no jobs started until somebody sees to them."""
        return [queue for queue, state in self.queues.items() if state != "Active"]

    @property
    def warnings(self) -> list[str]:
        """What OAR's log holds of us, without what OAR puts before it."""
        ours = (line.partition("[oar.accounting::")[2] for line in self.log)
        return [line.partition("]: ")[2] for line in ours if line]


class Site:
    """OAR 3's tables in the empty database of *url*: nodes, of a resource each, and a queue."""

    def __init__(
        self, url: str, directory: Path, *, resources: int = 1, oar: Installation | None = None
    ) -> None:
        """Skip the test where OAR 3 is missing. *directory* gets OAR's settings and log.

        *oar*: the OAR 3 of which processes are run, the one that was found where it is None.
        """
        found = oar or installation()
        if isinstance(found, str):
            pytest.skip(found)
        self.oar = found
        self.url = url
        self.directory = directory
        #: Where the processes find packages before those of their own environment.
        self.paths = [directory / "packages"]
        self.log = directory / "oar.log"
        # No connection is kept: the engine needs no end.
        self.engine: Engine = create_engine(url, poolclass=NullPool)
        self._jobs = 0
        self._create(resources)

    def _create(self, resources: int) -> None:
        file = schema_file()
        assert file is not None
        create_from_schema_file(self.engine, file)
        with self.engine.begin() as connection:
            for number in range(1, resources + 1):
                adding = text("INSERT INTO resources (network_address, core) VALUES (:node, :core)")
                connection.execute(adding, {"node": f"node-{number}", "core": number})
        self.queue("default", priority=3)

    def queue(self, name: str, *, priority: int) -> None:
        """Add a queue; the highest *priority* comes first, and equal ones are one group."""
        adding = "INSERT INTO queues (queue_name, priority, scheduler_policy) VALUES (:n, :p, :s)"
        with self.engine.begin() as connection:
            connection.execute(text(adding), {"n": name, "p": priority, "s": "kamelot"})

    def submit(  # noqa: PLR0913 - what a job has
        self,
        user: str,
        *,
        queue: str = "default",
        project: str = "default",
        resources: int = 1,
        walltime: int = HOUR,
        submitted: int = 0,
    ) -> int:
        """Let a job wait; its id, which is one more than that of the one before."""
        self._jobs += 1
        given = {"job": self._jobs, "moldable": self._jobs + MOLDABLES, "user": user}
        given |= {"project": project, "queue": queue, "resources": resources}
        given |= {"walltime": walltime, "submitted": submitted}
        with self.engine.begin() as connection:
            _execute(connection, SUBMIT, given)
        return self._jobs

    def forget(self) -> None:
        """Make all as it was before the first round."""
        self.log.unlink(missing_ok=True)
        with self.engine.begin() as connection:
            _execute(connection, FORGET)

    def package(
        self, name: str, entry_points: Mapping[str, Mapping[str, str]], source: str
    ) -> Path:
        """Write a package for the processes to find, as `write_package`; its directory."""
        return write_package(self.paths[0], name, entry_points, source)

    # -- rounds -------------------------------------------------------------------------------

    def kao(self, *, mode: Mode = "internal", **settings: Any) -> Round:
        """Run a round, which in external mode calls ``kamelot`` for every queue."""
        conf = self.conf(METASCHEDULER_MODE=mode, **settings)
        return self._round(conf, [str(self._scripts() / "kao")])

    def kamelot(self, queue: str = "default", **settings: Any) -> Round:
        """Run the scheduler of a queue alone; nothing is started."""
        return self._round(self.conf(**settings), [str(self._scripts() / "kamelot"), queue])

    def conf(self, **settings: Any) -> Path:
        """Write ``oar.conf`` with these settings."""
        conf = write_conf(self.url, self.directory)
        own = {**NOWHERE, "LOG_FILE": self.log, "LOG_LEVEL": 2}
        own |= {"SCHEDULERS_PATH": self._scripts(), **settings}
        # OAR takes the last of two values of a name, and the quotes off both ends of each.
        lines = [f"{name}='{value}'\n" for name, value in own.items()]
        with conf.open("a", encoding="utf-8") as file:
            file.writelines(lines)
        return conf

    def environment(self, conf: Path) -> dict[str, str]:
        """The variables of the processes."""
        paths = os.pathsep.join(map(str, self.paths))
        return {**os.environ, "OARCONFFILE": str(conf), "PYTHONPATH": paths}

    def _round(self, conf: Path, command: list[str]) -> Round:
        written = len(self._lines())
        done = self._process(conf, command)
        with self.engine.connect() as connection:
            return Round(
                code=done.returncode,
                order=list(connection.execute(text(ORDER)).scalars()),
                started=list(connection.execute(text(STARTED)).scalars()),
                queues={each.queue_name: each.state for each in connection.execute(text(QUEUES))},
                log=self._lines()[written:],
                said=done.stdout + done.stderr,
            )

    def _process(self, conf: Path, command: list[str]) -> "subprocess.CompletedProcess[str]":
        return run([self.oar.python, *command], self.environment(conf))

    def _lines(self) -> list[str]:
        return self.log.read_text(encoding="utf-8").splitlines() if self.log.exists() else []

    def _scripts(self) -> Path:
        if self.oar.scripts is not None:
            return Path(self.oar.scripts)
        directory = self.directory / "schedulers"
        if not directory.exists():
            directory.mkdir()
            for name in ("kao", "kamelot"):
                script = directory / name
                script.write_text(SCRIPT.format(python=self.oar.executable, name=name))
                script.chmod(0o755)
        return directory


def write_package(
    directory: Path, name: str, entry_points: Mapping[str, Mapping[str, str]], source: str
) -> Path:
    """Install a package of one module into a directory of packages; its dist-info.

    *entry_points*: names of functions of the module, or ``module:function`` of any, by their name
    in each group.
    """
    module = name.replace("-", "_")
    information = directory / f"{module}-1.dist-info"
    information.mkdir(parents=True, exist_ok=True)
    (directory / f"{module}.py").write_text(source, encoding="utf-8")
    metadata = f"Metadata-Version: 2.1\nName: {name}\nVersion: 1\n"
    (information / "METADATA").write_text(metadata, encoding="utf-8")
    lines = list(_lines_of(module, entry_points))
    (information / "entry_points.txt").write_text("\n".join(lines), encoding="utf-8")
    return information


def _lines_of(module: str, entry_points: Mapping[str, Mapping[str, str]]) -> Iterator[str]:
    for group, named in entry_points.items():
        yield f"[{group}]"
        for name, target in named.items():
            yield f"{name} = {target if ':' in target else f'{module}:{target}'}"
        yield ""


def _execute(connection: Connection, statements: str, given: Mapping[str, Any] = {}) -> None:
    for statement in filter(str.strip, statements.split(";")):
        clause = text(statement)
        connection.execute(clause, {name: given[name] for name in clause._bindparams})


def run(command: list[str], environment: Mapping[str, str]) -> "subprocess.CompletedProcess[str]":
    """Run a process to its end, whatever that is."""
    return subprocess.run(
        command,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        env=environment,
        timeout=PATIENCE,
    )

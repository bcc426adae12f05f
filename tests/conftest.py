"""Options, fixtures and the summary that let tests run on several kinds of database."""

import os
import signal
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import hypothesis
import pytest
from hypothesis import is_hypothesis_test
from sqlalchemy import Dialect, Engine, QueuePool, create_engine
from sqlalchemy.util import LRUCache

from oar_accounting.stubs import oar3
from tests.examples import QUICK, WHOLE
from tests.oar3_site import MISSING
from tests.servers import (
    KINDS,
    TITLES,
    URL_VARIABLES,
    BrokenServerError,
    Database,
    Kind,
    MissingServerError,
    Server,
    Servers,
    fresh_database,
    pooler_program,
    sweep_up,
)

#: What statements have been compiled to, by dialect.
COMPILED: LRUCache[Any, Any] = LRUCache(2_000)
Dialects = dict[str, Dialect]

SERVERS = pytest.StashKey[Servers]()
#: What the tests with a real OAR tell at the end of a run.
TOLD = pytest.StashKey[list[str]]()
#: The kinds of database of which the environment names a server.
GIVEN = pytest.StashKey[set[Kind]]()
#: The most processes that run tests where nobody gives a number: all share the servers.
MOST_WORKERS = 8
#: The property of a test, and of its reports, that names its kind of database.
PROPERTY = "database"
#: That of a test which OAR 3 itself takes part in.
WITH_OAR3 = "oar3"
#: Tests with something in common of which there is one, such as a directory of the machine: each
#: group runs in one process. They are told by how their names begin.
TOGETHER = (
    ("tests/system/live/", "tests/system/schedulers/test_oar3_stubs.py"),
    ("tests/database/ledger/test_roles.py",),
    ("tests/database/database/test_sql_modes.py",),
)
SERVERS_HANDED_ON = "servers_handed_on"
FOREIGN_VARIABLES = (
    *("OAR_ACCOUNTING", "OARCONFFILE", "OARDIR", "PG", "MYSQL", "MARIADB"),
    # The width of the output, which pytest-xdist sets in its workers.
    *("COLUMNS", "LINES"),
)
OUTCOMES = ("passed", "failed", "error", "skipped", "xfailed", "xpassed")

hypothesis.settings.register_profile("quick", deadline=None, max_examples=QUICK)
# Every run tries the same examples: a red run is then due to the change, not to chance.
hypothesis.settings.register_profile(
    "whole", deadline=None, max_examples=WHOLE, print_blob=True, derandomize=True
)
#: The tests that start programs, and how many cases of each are tried where people wait.
SYSTEM = Path(__file__).parent / "system"
FEW_PROGRAMS = 3
#: The rooms of the tests with a database, and those of what only reads what others have written.
DATABASE = Path(__file__).parent / "database"
READERS = ("attributes", "health", "karma", "metrics", "reports", "usage")
#: What one waits for: without --whole, tests run on these alone.
QUICK_KINDS: tuple[Kind, ...] = ("sqlite", "postgresql")


def kinds_named(place: str, names: list[str]) -> tuple[Kind, ...]:
    """Check the names of kinds given at some place and put them in the order of `KINDS`."""
    unknown = sorted(set(names).difference(KINDS))
    if unknown:
        raise pytest.UsageError(f"{place}: no such kind of database: {', '.join(unknown)}")
    return tuple(kind for kind in KINDS if kind in names)


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("databases")
    group.addoption(
        "--require-databases",
        action="store_true",
        help="fail when a kind of database server is missing, instead of skipping its tests",
    )
    group.addoption(
        "--databases",
        metavar="KINDS",
        help=f"run tests on these kinds of database only (from {','.join(KINDS)})",
    )
    group.addoption(
        "--whole",
        action="store_true",
        help="run everything: slow tests, all kinds of database, every property on all examples",
    )


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line(
        "markers", "databases(kind, ...): run this test on these kinds of database only"
    )
    config.addinivalue_line("markers", "oar3: run this test where OAR 3 is installed")
    config.addinivalue_line("markers", "slow: takes seconds; runs with --whole only")
    given: set[Kind] = {kind for kind, name in URL_VARIABLES.items() if name in os.environ}
    config.stash[GIVEN] = given
    chosen = _chosen_kinds(config)
    if config.getoption("--require-databases") and chosen != KINDS:
        raise pytest.UsageError("--require-databases and --databases exclude each other")
    hypothesis.settings.load_profile("whole" if config.getoption("--whole") else "quick")
    config.stash[TOLD] = []
    if _is_worker(config):
        config.stash[SERVERS] = Servers(config.workerinput[SERVERS_HANDED_ON])  # type: ignore[attr-defined]
    else:
        # Either ends the run when the tests have cleared up. A shell lets what it starts in the
        # background ignore SIGINT, and so would every command that a test interrupts.
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, signal.default_int_handler)
        sweep_up()
        config.stash[SERVERS] = Servers()


def pytest_unconfigure(config: pytest.Config) -> None:
    if SERVERS in config.stash:
        config.stash[SERVERS].stop()


def _chosen_kinds(config: pytest.Config) -> tuple[Kind, ...]:
    option: str | None = config.getoption("--databases")
    if option is not None:
        return kinds_named("--databases", option.split(","))
    if config.getoption("--whole") or config.getoption("--require-databases"):
        return KINDS
    return tuple(kind for kind in KINDS if kind in QUICK_KINDS or kind in config.stash[GIVEN])


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "server" not in metafunc.fixturenames:
        return
    marker = metafunc.definition.get_closest_marker("databases")
    kinds = kinds_named(metafunc.definition.nodeid, list(marker.args)) if marker else KINDS
    metafunc.parametrize("server", kinds, indirect=True, scope="session")


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if not config.getoption("--whole"):
        _leave_out(config, items)
    for item in items:
        if kind := _kind_of(item):
            item.user_properties.append((PROPERTY, kind))
        if item.get_closest_marker("oar3"):
            item.user_properties.append((WITH_OAR3, True))
            item.add_marker(pytest.mark.skipif(bool(MISSING), reason=MISSING))
    if _is_worker(config):
        # What takes long must not begin when the other processes have nothing left to do.
        items.sort(key=lambda item: item.get_closest_marker("slow") is None)


def _leave_out(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Let a run without --whole be one that people wait for."""
    chosen = None if config.getoption("--databases") else _chosen_kinds(config)
    repeated = _repeated(items) if chosen else set()
    left_out = [
        item
        for item in items
        if (not _is_named(config, item) and (item.get_closest_marker("slow") or item in repeated))
        or (chosen and (kind := _kind_of(item)) and kind not in chosen)
    ]
    if left_out:
        config.hook.pytest_deselected(items=left_out)
        gone = set(left_out)
        items[:] = [item for item in items if item not in gone]


def _repeated(items: list[pytest.Item]) -> set[pytest.Item]:
    """The tests with more parameters than are tried where people wait.

    On a server the first ones only, of what writes; no examples of laws, and not what reads only:
    SQLite tries them all. Of what starts programs, a few.
    """
    seen: Counter[tuple[Kind | None, Path, str]] = Counter()
    found: set[pytest.Item] = set()
    for item in items:
        kind = _kind_of(item)
        if kind in ("postgresql", "mariadb") and not item.get_closest_marker("databases"):
            is_law = is_hypothesis_test(getattr(item, "function", None))
            most = 0 if is_law or (item.path.is_relative_to(DATABASE) and _reads_only(item)) else 1
        elif kind is None and item.path.is_relative_to(SYSTEM):
            most = FEW_PROGRAMS
        else:
            continue
        key = (kind, item.path, getattr(item, "originalname", item.name))
        seen[key] += 1
        if seen[key] > most:
            found.add(item)
    return found


def _reads_only(item: pytest.Item) -> bool:
    return item.path.relative_to(DATABASE).parts[0] in READERS


def _is_named(config: pytest.Config, item: pytest.Item) -> bool:
    """True where the command line names this very test, with its parameters or without."""
    test = item.nodeid.partition("::")[2]
    for argument in config.args:
        file, _, name = argument.partition("::")
        if name and (config.invocation_params.dir / file).resolve() == item.path:
            return test == name or test.startswith((f"{name}[", f"{name}::"))
    return False


# First, so that the terminal can tell what was found.
@pytest.hookimpl(tryfirst=True)
def pytest_collection_finish(session: pytest.Session) -> None:
    config = session.config
    if config.getoption("--collect-only") or _is_worker(config):
        return
    kinds = {_kind_of(item) for item in session.items}
    required = bool(config.getoption("--require-databases"))
    _start(config, KINDS if required else [kind for kind in _chosen_kinds(config) if kind in kinds])


def _start(config: pytest.Config, kinds: Sequence[Kind]) -> None:
    servers = config.stash[SERVERS]
    try:
        servers.start(kinds)
    except BrokenServerError as error:
        raise pytest.UsageError(str(error)) from error
    if config.getoption("--require-databases") and (missing := _missing(servers)):
        raise pytest.UsageError(f"--require-databases: {'; '.join(missing)}")


def _missing(servers: Servers) -> list[str]:
    missing = servers.missing()
    try:
        pooler_program()
    except MissingServerError as reason:
        missing.append(f"no pgbouncer: {reason}")
    return missing


# -- several processes, with pytest-xdist -----------------------------------------------------
#
# The first process starts the servers, and its workers share them; it alone tells the summary.


def _is_worker(config: pytest.Config) -> bool:
    return hasattr(config, "workerinput")


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers(config: pytest.Config) -> int:
    """One for each processor; none for a single file, which is done before they have started."""
    if len(config.args) == 1 and Path(config.args[0].partition("::")[0]).is_file():
        return 0
    return min(len(os.sched_getaffinity(0)), MOST_WORKERS)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Give each test to a process that is free, and those that go together to one."""
    # Not the mark xdist_group: with pytest 9.2, pytest-xdist 3.8 does not see it.
    from xdist.scheduler import LoadScopeScheduling

    class Scheduling(LoadScopeScheduling):  # type: ignore[misc]
        def _split_scope(self, nodeid: str) -> str:
            return next((group[0] for group in TOGETHER if nodeid.startswith(group)), nodeid)

    return Scheduling(config, log)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_setupnodes(config: pytest.Config) -> None:
    if config.getoption("--collect-only"):
        return
    _start(config, _chosen_kinds(config))
    reporter: Any = config.pluginmanager.getplugin("terminalreporter")
    reporter.write_line(pytest_report_collectionfinish(config))


@pytest.hookimpl(optionalhook=True)
def pytest_configure_node(node: Any) -> None:
    node.workerinput[SERVERS_HANDED_ON] = node.config.stash[SERVERS].handed_on()


def pytest_sessionfinish(session: pytest.Session) -> None:
    if _is_worker(session.config):
        session.config.workeroutput["told"] = session.config.stash[TOLD]  # type: ignore[attr-defined]


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any) -> None:
    # A worker that broke down gives nothing.
    node.config.stash[TOLD] += getattr(node, "workeroutput", {}).get("told", [])


# -- what was found, and what became of the tests ---------------------------------------------


def _kind_of(item: pytest.Item) -> Kind | None:
    callspec = getattr(item, "callspec", None)
    return callspec.params.get("server") if callspec else None


def pytest_report_collectionfinish(config: pytest.Config) -> str:
    return f"databases: {', '.join(config.stash[SERVERS].describe().values()) or 'none'}"


def pytest_terminal_summary(
    terminalreporter: pytest.TerminalReporter, config: pytest.Config
) -> None:
    counts: dict[Kind | None, Counter[str]] = {kind: Counter() for kind in (*KINDS, None)}
    with_oar3 = Counter[str]()
    for outcome in OUTCOMES:
        for report in terminalreporter.getreports(outcome):
            # What pytest could not collect has no properties.
            properties = dict(getattr(report, "user_properties", ()))
            counts[properties.get(PROPERTY)][outcome] += 1
            with_oar3[outcome] += WITH_OAR3 in properties
    if not any(counts.values()):
        return
    if told := config.stash[TOLD]:
        terminalreporter.section("real OAR")
        for line in told:
            terminalreporter.line(line)
    descriptions = config.stash[SERVERS].describe()
    terminalreporter.section("databases")
    for kind in KINDS:
        terminalreporter.line(
            f"{descriptions.get(kind, f'{TITLES[kind]} not used')}: {_told(counts[kind])}"
        )
    terminalreporter.line(f"without a database: {_told(counts[None])}")
    here = "not installed" if MISSING else "installed"
    terminalreporter.line(f"of these with OAR 3, which is {here}: {_told(+with_oar3)}")


def _told(counts: Counter[str]) -> str:
    return ", ".join(f"{number} {outcome}" for outcome, number in counts.items()) or "no tests"


@pytest.fixture(scope="session", autouse=True)
def bare_environment(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Keep the settings and files of whoever runs the tests away from them."""
    home = tmp_path_factory.mktemp("home")
    with pytest.MonkeyPatch.context() as patch:
        for name in list(os.environ):
            if name.startswith(FOREIGN_VARIABLES):
                patch.delenv(name)
        patch.setenv("HOME", str(home))
        # A live test of another process, too, sets this machine's accounting.toml for a while.
        settings = home / "accounting.toml"
        settings.touch()
        patch.setenv("OAR_ACCOUNTING_CONF", str(settings))
        # And what OAR calls: a service that answers, and what is remembered from round to round.
        patch.setattr(oar3, "SOCKET", str(home / "nowhere"))
        patch.setenv("OAR_ACCOUNTING_STATE", str(home / "nowhere"))
        patch.chdir(home)
        yield


@pytest.fixture(scope="session")
def server(request: pytest.FixtureRequest) -> Server:
    """The server of each kind in turn, or of the kinds named by the mark `databases`."""
    kind: Kind = request.param
    if kind not in _chosen_kinds(request.config):
        pytest.skip(f"{TITLES[kind]} is not among --databases")
    try:
        return request.config.stash[SERVERS].get(kind)
    except MissingServerError as reason:
        pytest.skip(f"no {TITLES[kind]}: {reason}")


@pytest.fixture
def database(server: Server) -> Iterator[Database]:
    """A fresh empty database of each kind."""
    with fresh_database(server) as fresh:
        yield fresh


@pytest.fixture(scope="session")
def dialects() -> Dialects:
    """The dialect of the first engine of each kind, which later ones share."""
    return {}


@pytest.fixture
def engine(database: Database, dialects: Dialects) -> Iterator[Engine]:
    """An engine on `database`; the test must give all its connections back."""
    engine = create_engine(database.url)
    if database.server.kind in QUICK_KINDS:
        # To compile all statements anew takes a good part of a test's time. MariaDB's dialect is
        # not of the kind alone: it knows the server's modes.
        engine.dialect = dialects.setdefault(engine.name, engine.dialect)
        engine.update_execution_options(compiled_cache=COMPILED)
    yield engine
    pool = engine.pool
    held = pool.checkedout() if isinstance(pool, QueuePool) else 0
    engine.dispose()
    assert held == 0, f"{held} connections were not given back"

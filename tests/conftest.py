"""Options, fixtures and the summary that let tests run on several kinds of database."""

import os
from collections import Counter
from collections.abc import Iterator

import hypothesis
import pytest
from sqlalchemy import Engine, QueuePool, create_engine

from tests.servers import (
    KINDS,
    TITLES,
    BrokenServerError,
    Database,
    Kind,
    MissingServerError,
    Server,
    Servers,
    fresh_database,
)

SERVERS = pytest.StashKey[Servers]()
KINDS_OF_TESTS = pytest.StashKey[dict[str, Kind]]()
FOREIGN_VARIABLES = ("OAR_ACCOUNTING", "OARCONFFILE", "OARDIR", "PG", "MYSQL", "MARIADB")
OUTCOMES = ("passed", "failed", "error", "skipped", "xfailed", "xpassed")

hypothesis.settings.register_profile("dev", deadline=None, max_examples=10)
# Every run tries the same examples: a red run is then due to the change, not to chance.
hypothesis.settings.register_profile("ci", deadline=None, print_blob=True, derandomize=True)


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


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line(
        "markers", "databases(kind, ...): run this test on these kinds of database only"
    )
    config.addinivalue_line("markers", "slow: takes seconds; may be left out with -m 'not slow'")
    chosen = _chosen_kinds(config)
    if config.getoption("--require-databases") and chosen != KINDS:
        raise pytest.UsageError("--require-databases and --databases exclude each other")
    hypothesis.settings.load_profile("ci" if os.environ.get("CI") == "true" else "dev")
    config.stash[SERVERS] = Servers()
    config.stash[KINDS_OF_TESTS] = {}


def pytest_unconfigure(config: pytest.Config) -> None:
    if SERVERS in config.stash:
        config.stash[SERVERS].stop()


def _chosen_kinds(config: pytest.Config) -> tuple[Kind, ...]:
    option: str | None = config.getoption("--databases")
    return KINDS if option is None else kinds_named("--databases", option.split(","))


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "server" not in metafunc.fixturenames:
        return
    marker = metafunc.definition.get_closest_marker("databases")
    kinds = kinds_named(metafunc.definition.nodeid, list(marker.args)) if marker else KINDS
    metafunc.parametrize("server", kinds, indirect=True, scope="session")


# First, so that the terminal can tell what was found.
@pytest.hookimpl(tryfirst=True)
def pytest_collection_finish(session: pytest.Session) -> None:
    config = session.config
    kinds = {item.nodeid: kind for item in session.items if (kind := _kind_of(item))}
    config.stash[KINDS_OF_TESTS] = kinds
    if config.getoption("--collect-only"):
        return
    required = bool(config.getoption("--require-databases"))
    wanted = set(KINDS) if required else set(kinds.values()).intersection(_chosen_kinds(config))
    servers = config.stash[SERVERS]
    try:
        servers.start([kind for kind in KINDS if kind in wanted])
    except BrokenServerError as error:
        raise pytest.UsageError(str(error)) from error
    if required and (missing := servers.missing()):
        raise pytest.UsageError(f"--require-databases: {'; '.join(missing)}")


def _kind_of(item: pytest.Item) -> Kind | None:
    callspec = getattr(item, "callspec", None)
    return callspec.params.get("server") if callspec else None


def pytest_report_collectionfinish(config: pytest.Config) -> str:
    return f"databases: {', '.join(config.stash[SERVERS].describe().values()) or 'none'}"


def pytest_terminal_summary(
    terminalreporter: pytest.TerminalReporter, config: pytest.Config
) -> None:
    counts: dict[Kind | None, Counter[str]] = {kind: Counter() for kind in (*KINDS, None)}
    kinds = config.stash[KINDS_OF_TESTS]
    for outcome in OUTCOMES:
        for report in terminalreporter.getreports(outcome):
            counts[kinds.get(report.nodeid)][outcome] += 1
    if not any(counts.values()):
        return
    descriptions = config.stash[SERVERS].describe()
    terminalreporter.section("databases")
    for kind in KINDS:
        terminalreporter.line(
            f"{descriptions.get(kind, f'{TITLES[kind]} not used')}: {_told(counts[kind])}"
        )
    terminalreporter.line(f"without a database: {_told(counts[None])}")


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


@pytest.fixture
def engine(database: Database) -> Iterator[Engine]:
    """An engine on `database`; the test must give all its connections back."""
    engine = create_engine(database.url)
    yield engine
    pool = engine.pool
    held = pool.checkedout() if isinstance(pool, QueuePool) else 0
    engine.dispose()
    assert held == 0, f"{held} connections were not given back"

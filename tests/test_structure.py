"""Who may know what: the rules that keep each module to one job, held on the imports themselves."""

import ast
import sys
from functools import cache
from pathlib import Path

import pytest

import oar_accounting
from oar_accounting.oar import oar_tables

PACKAGE = Path(oar_accounting.__file__).parent
MODULES = sorted(
    ".".join(path.relative_to(PACKAGE).with_suffix("").parts) for path in PACKAGE.rglob("*.py")
)
COMMANDS = {module for module in MODULES if module.startswith("cli.")}

PURE = {
    *(
        "core.columns",
        "errors",
        "core.formats",
        "oar.machine",
        "metrics.metric",
        "health.openmetrics",
        "oar.job_rules",
        "records",
    ),
    *("core.periods", "health.rounds", "core.windows"),
    *("attributes.csv_files", "attributes.memberships", "attributes.warnings"),
    *(
        "metrics.composed",
        "core.exact",
        "karma.report",
        "karma.settings",
        "karma.explain",
        "karma.what_if_report",
    ),
    *(module for module in MODULES if module.startswith("karma.policies.")),
    *(
        "metrics.formulas.check",
        "metrics.formulas.parser",
        "metrics.formulas.tree",
        "metrics.formulas.units",
    ),
    *("metrics.formulas.evaluate", "metrics.formulas.printer"),
}
CLOCKS = {"time", "datetime.now", "datetime.today", "datetime.utcnow", "date.today"}
DATABASE_WORDS = ("postgresql", "mysql", "mariadb", "sqlite")
# OAR's settings have names of databases; the command line names the demo's file and examples; a
# driver is called after its database.
MAY_NAME_DATABASES = {
    *(
        "database.bulk",
        "cli.commands.record",
        "database.dialects",
        "health.drivers",
        "settings.oar_conf",
        "settings.load",
        "database.sockets",
    ),
}


def tree_of(module: str) -> ast.Module:
    return ast.parse((PACKAGE / f"{module.replace('.', '/')}.py").read_text(encoding="utf-8"))


def imports_of(module: str) -> set[str]:
    """Every module that is imported, also within functions."""
    found: set[str] = set()
    for node in ast.walk(tree_of(module)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{module}: relative import"
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
            found.add(str(node.module))
    return found


@cache
def ours(module: str) -> set[str]:
    """The modules of this package that a module imports."""
    found = imports_of(module)
    return {name for name in MODULES if f"oar_accounting.{name}" in found}


def names_a_database(node: ast.AST) -> bool:
    texts = []
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        texts.append(node.value)
    elif isinstance(node, ast.Name | ast.Attribute):
        texts.append(node.id if isinstance(node, ast.Name) else node.attr)
    return any(word in text.lower() for text in texts for word in DATABASE_WORDS)


def without_docstrings(tree: ast.Module) -> list[ast.AST]:
    docstrings = {
        id(node.body[0].value)
        for node in ast.walk(tree)
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef)
        and node.body
        and isinstance(node.body[0], ast.Expr)
    }
    return [node for node in ast.walk(tree) if id(node) not in docstrings]


@pytest.mark.parametrize("module", sorted(PURE))
def test_pure_modules_know_no_database_clock_environment_or_log(module: str) -> None:
    roots = {name.split(".")[0] for name in imports_of(module)}
    assert not roots & {"sqlalchemy", "time", "os", "logging", "random", "click", "rich"}
    assert ours(module) <= PURE


def test_errors_know_nothing_and_records_know_them_only() -> None:
    assert not ours("errors")
    assert ours("records") == {"errors"}


@pytest.mark.parametrize("module", sorted(set(MODULES) - MAY_NAME_DATABASES))
def test_two_modules_know_that_databases_differ(module: str) -> None:
    named = [n for n in without_docstrings(tree_of(module)) if names_a_database(n)]
    assert not [ast.unparse(node) for node in named]


# The stub of OAR 3 is alone where it runs, and bounds how long a scheduler waits.
@pytest.mark.parametrize("module", sorted(set(MODULES) - {"accounting", "stubs.oar3"}))
def test_the_clock_is_read_in_one_place(module: str) -> None:
    calls = {
        ast.unparse(node.func) for node in ast.walk(tree_of(module)) if isinstance(node, ast.Call)
    }
    assert not {call for call in calls if call in CLOCKS or call.startswith("time.")}
    assert not {name for name in imports_of(module) if name.split(".")[0] == "time"}


@pytest.mark.parametrize("module", sorted(COMMANDS))
def test_the_command_line_holds_no_sql(module: str) -> None:
    assert "sqlalchemy" not in {name.split(".")[0] for name in imports_of(module)}


def test_only_the_reader_and_the_demo_know_oars_tables() -> None:
    readers = {
        "oar.resource_logs",
        "oar.snapshot",
        "oar.queues",
        "oar.started_jobs",
        "oar.waiting_jobs",
    }
    known = {
        "demo.demo",
        "demo.site",
        "dropin.last_karma",
        "dropin.oaraccounting",
        "karma.oar_sums",
        *readers,
    }
    assert {m for m in MODULES if "oar.oar_tables" in ours(m)} <= known


def test_only_the_command_in_the_place_of_oars_can_write_oars_tables() -> None:
    """All that it writes is a column that no other module names, and a table made for it."""
    assert {m for m in MODULES if "dropin.tables" in ours(m)} == {"dropin.oaraccounting"}
    assert {m for m in MODULES if "dropin.oaraccounting" in ours(m)} == {
        "accounting",
        "cli.commands.oaraccounting",
    }
    for module in set(MODULES) - {"dropin.tables", "dropin.oaraccounting"}:
        texts = without_docstrings(tree_of(module))
        assert not [n for n in texts if isinstance(n, ast.Constant) and n.value == "accounted"]


def test_only_one_module_can_write_what_users_see() -> None:
    """Its table has two columns beside those that say which rows, and nobody else knows of it."""
    assert {m for m in MODULES if "dropin.last_karma" in ours(m)} == {"accounting"}
    assert set(oar_tables.shown.c.keys()) - {"job_id", "state"} == {"message", "last_karma"}
    for module in set(MODULES) - {"oar.oar_tables"}:
        imported = "oar_accounting.oar.oar_tables.shown" in imports_of(module)
        assert imported == (module == "dropin.last_karma"), module


def test_imports_go_one_way() -> None:
    """No module is reached from itself."""

    def reached(module: str, seen: set[str]) -> set[str]:
        for other in ours(module) - seen:
            seen.add(other)
            reached(other, seen)
        return seen

    assert not [module for module in MODULES if module in reached(module, set())]


def test_public_names_are_sorted_and_there() -> None:
    names = oar_accounting.__all__
    assert names == sorted(names)
    assert all(hasattr(oar_accounting, name) for name in names)
    public = {
        name
        for name in dir(oar_accounting)
        if not name.startswith("_") and not isinstance(getattr(oar_accounting, name), type(sys))
    }
    assert public == set(names)


ENTRY_POINTS = {"schedulers.oar3", "stubs.oar3"}


def test_oars_scheduler_can_import_its_entry_points_whatever_is_broken() -> None:
    """At the top of these modules, the standard library and each other are all there is."""
    for module in {"__init__", "schedulers.__init__", "stubs.__init__", *ENTRY_POINTS}:
        for node in tree_of(module).body:
            found = set()
            if isinstance(node, ast.Import):
                found = {alias.name for alias in node.names}
            elif isinstance(node, ast.ImportFrom):
                found = {f"{node.module}.{alias.name}" for alias in node.names}
            roots = {name.split(".")[0] for name in found} - sys.stdlib_module_names
            assert roots <= {"oar_accounting"}
            if roots:
                assert all(any(f"oar_accounting.{e}" in n for e in ENTRY_POINTS) for n in found)


def test_every_public_thing_is_explained() -> None:
    for module in MODULES:
        tree = tree_of(module)
        assert ast.get_docstring(tree), module
        classes = [n for n in tree.body if isinstance(n, ast.ClassDef) and n.name[0] != "_"]
        for node in [*tree.body, *(member for kind in classes for member in kind.body)]:
            if isinstance(node, ast.FunctionDef | ast.ClassDef) and node.name[0] != "_":
                assert ast.get_docstring(node), f"{module}.{node.name}"


def test_every_question_has_an_example() -> None:
    classes = [n for n in tree_of("reports.reports").body if isinstance(n, ast.ClassDef)]
    (reporting,) = [each for each in classes if each.name == "Reporting"]
    verbs = [
        each for each in reporting.body if isinstance(each, ast.FunctionDef) and each.name[0] != "_"
    ]
    assert len(verbs) > 7
    for verb in verbs:
        assert f"accounting.{verb.name}(" in (ast.get_docstring(verb) or ""), verb.name

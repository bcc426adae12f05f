"""Who may know what: the rules that keep each room to one job, held on the source itself."""

import ast
import importlib
import re
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import oar_accounting
from oar_accounting.oar import oar_tables

PACKAGE = Path(oar_accounting.__file__).parent

#: What each folder may import beside itself, `errors` and what is below it in the list of another.
#: A folder that is not here fails. From the bottom to the top.
ROOMS: dict[str, set[str]] = {
    "core": set(),
    "metrics.formulas": {"core"},
    "metrics": {"core", "metrics.formulas"},
    "database": {"core"},
    "oar": {"core", "metrics", "database"},
    "settings": {"core", "metrics", "database", "oar"},
    "stubs": {"core", "settings"},
    "ledger": {"core", "metrics", "database", "oar"},
    "adjustments": {"core", "metrics", "database", "oar", "ledger"},
    "attributes": {"core", "metrics", "database", "ledger"},
    "recording.held": {"core", "metrics", "metrics.formulas", "database", "oar", "ledger"},
    "recording": {
        *("core", "metrics", "database", "oar", "settings", "ledger", "adjustments"),
        *("attributes", "recording.held"),
    },
    "recording.upkeep": {"core", "database", "oar", "ledger", "adjustments", "recording"},
    "usage": {"core", "metrics", "database", "oar", "ledger", "attributes"},
    "reports": {"core", "metrics", "database", "oar", "settings", "ledger", "usage"},
    "karma.policies": {"core"},
    "karma": {
        *("core", "metrics", "database", "oar", "settings", "ledger", "attributes"),
        *("recording", "usage", "karma.policies"),
    },
    "health": {
        *("core", "metrics", "database", "oar", "settings", "stubs", "ledger", "recording"),
        *("karma", "karma.policies"),
    },
    "dropin": {"core", "database", "oar", "settings", "karma"},
    "demo": {"core", "database", "oar"},
    # The verbs: whatever answers them, and nothing that calls them.
    "": {
        *("core", "database", "oar", "settings", "ledger", "adjustments"),
        *(
            "attributes",
            "recording",
            "recording.upkeep",
            "usage",
            "reports",
            "karma",
            "health",
            "dropin",
        ),
    },
    "schedulers": {"database", "oar", "settings", "stubs", "ledger", "karma"},
    # What calls the verbs: beside these, records and what words are checked with.
    "cli.terminal": {"", "core", "database", "settings", "ledger", "usage", "health"},
    "cli.commands": {
        *("", "core", "metrics", "database", "settings", "stubs", "ledger", "adjustments"),
        *("attributes", "usage", "reports", "karma", "health", "dropin", "demo", "schedulers"),
        "cli.terminal",
    },
    "cli": {"", "settings", "reports", "cli.terminal", "cli.commands"},
}
#: Modules of the package's top, beside ``__init__``; and of a folder.
MOST_AT_THE_TOP, MOST_IN_A_FOLDER = 3, 20

#: Know no database, clock, environment or log, and what they import does not either.
PURE_ROOMS = ("core", "metrics.formulas", "metrics", "karma.policies")
PURE = {
    "settings.perl_hashes",
    *(
        "errors",
        "oar.machine",
        "oar.job_rules",
        "oar.spellings",
        "health.openmetrics",
        "health.rounds",
    ),
    *("attributes.csv_files", "attributes.memberships", "attributes.warnings"),
    *("karma.report", "karma.settings", "karma.explain", "karma.what_if_report"),
}
#: Of a pure room: reads files, and says so.
NOT_PURE = {"core.text_files", "core.shared_files"}
IMPURE_LIBRARIES = {"sqlalchemy", "time", "os", "logging", "random", "click", "rich"}

CLOCKS = {"time", "datetime.now", "datetime.today", "datetime.utcnow", "date.today"}
# The stub of OAR 3 is alone where it runs, and bounds how long a scheduler waits.
MAY_READ_A_CLOCK = {"accounting", "stubs.oar3"}

DATABASE_WORDS = ("postgresql", "mysql", "mariadb", "sqlite")
# OAR's settings have names of databases; the command line names the demo's file and examples; a
# driver is called after its database.
MAY_NAME_DATABASES = {
    *("database.bulk", "database.dialects", "database.sockets", "database.table_changes"),
    *("settings.load", "settings.oar_conf", "health.drivers", "cli.commands.record"),
}
MAY_NAME_TOTALS = {"ledger", "usage", "karma"}
#: Files that are copied to where nothing else of ours is.
ALONE = {"stubs.oar3"}


@cache
def trees() -> dict[str, ast.Module]:
    """Every module below the package by its dotted name; a folder is ``name.__init__``."""
    return {
        ".".join(path.relative_to(PACKAGE).with_suffix("").parts): ast.parse(
            path.read_text(encoding="utf-8")
        )
        for path in sorted(PACKAGE.rglob("*.py"))
    }


def room_of(module: str) -> str:
    return module.rpartition(".")[0]


@cache
def imports_of(module: str) -> set[str]:
    """Every module that is imported, also within functions."""
    found: set[str] = set()
    for node in ast.walk(trees()[module]):
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
    return {
        name for name in trees() if f"oar_accounting.{name.removesuffix('.__init__')}" in found
    } - {module, "__init__"}


def is_pure(module: str) -> bool:
    of_pure_room = room_of(module) in PURE_ROOMS and module not in NOT_PURE
    return module in PURE or of_pure_room or module.endswith(".records")


def top_level(kind: type[ast.AST]) -> Iterator[tuple[str, ast.AST]]:
    for module, tree in trees().items():
        yield from ((module, node) for node in tree.body if isinstance(node, kind))


# -- rooms ------------------------------------------------------------------------------------


def test_every_folder_is_known_and_has_few_modules() -> None:
    modules = [module for module in trees() if not module.endswith("__init__")]
    rooms = [room_of(module) for module in modules if module != "cli.__main__"]
    assert set(rooms) == set(ROOMS)
    assert rooms.count("") <= MOST_AT_THE_TOP
    assert {room for room in ROOMS if rooms.count(room) > MOST_IN_A_FOLDER} == set()


def test_a_room_imports_what_the_list_says_only() -> None:
    used: dict[str, set[str]] = {room: set() for room in ROOMS}
    for module in trees():
        # The front door shows names of all rooms.
        if module not in ("__init__", "errors"):
            others = {other for other in ours(module) if other != "errors"}
            used[room_of(module)] |= {room_of(other) for other in others} - {room_of(module)}
    assert used == ROOMS


def test_no_room_imports_one_above_it() -> None:
    below: set[str] = set()
    for room, allowed in ROOMS.items():
        assert allowed <= below, room
        below.add(room)


def test_no_module_is_reached_from_itself() -> None:
    def reached(module: str, seen: set[str]) -> set[str]:
        for other in ours(module) - seen:
            seen.add(other)
            reached(other, seen)
        return seen

    assert not [module for module in trees() if module in reached(module, set())]


def test_errors_know_nothing() -> None:
    assert not ours("errors")


# -- names ------------------------------------------------------------------------------------


def test_no_class_name_stands_for_two_things() -> None:
    places: dict[str, list[str]] = {}
    for module, node in top_level(ast.ClassDef):
        assert isinstance(node, ast.ClassDef)
        places.setdefault(node.name, []).append(module)
    assert {name: where for name, where in places.items() if len(where) > 1} == {}


def test_no_public_constant_has_two_values() -> None:
    values: dict[str, dict[str, str]] = {}
    for module, node in top_level(ast.Assign):
        assert isinstance(node, ast.Assign)
        for target in node.targets:
            named = target.elts if isinstance(target, ast.Tuple) else [target]
            for place, each in enumerate(named):
                if isinstance(each, ast.Name) and each.id.isupper() and each.id[0] != "_":
                    whole = isinstance(target, ast.Name) or not isinstance(node.value, ast.Tuple)
                    value = node.value if whole else node.value.elts[place]  # type: ignore[attr-defined]
                    values.setdefault(each.id, {})[module] = ast.unparse(value)
    apart = {
        name: found
        for name, found in values.items()
        if len({value for module, value in found.items() if module not in ALONE}) > 1
    }
    assert apart == {}


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


def test_every_public_thing_is_explained() -> None:
    unexplained = []
    for module, tree in trees().items():
        classes = [n for n in tree.body if isinstance(n, ast.ClassDef) and n.name[0] != "_"]
        nodes = [tree, *tree.body, *(member for kind in classes for member in kind.body)]
        for node in nodes:
            if isinstance(node, ast.Module | ast.FunctionDef | ast.ClassDef):
                name = getattr(node, "name", "")
                if name[:1] != "_" and not ast.get_docstring(node):
                    unexplained.append(f"{module}.{name}")
    assert unexplained == []


def test_every_question_has_an_example() -> None:
    (reporting,) = (
        node for module, node in top_level(ast.ClassDef) if getattr(node, "name", "") == "Reporting"
    )
    assert isinstance(reporting, ast.ClassDef)
    verbs = [
        each for each in reporting.body if isinstance(each, ast.FunctionDef) and each.name[0] != "_"
    ]
    assert len(verbs) > 7
    for verb in verbs:
        assert f"accounting.{verb.name}(" in (ast.get_docstring(verb) or ""), verb.name


# -- who may know what ------------------------------------------------------------------------


def test_pure_modules_know_no_database_clock_environment_or_log() -> None:
    pure = {module for module in trees() if is_pure(module)}
    assert pure >= PURE
    for module in pure:
        roots = {name.split(".")[0] for name in imports_of(module)}
        assert not roots & IMPURE_LIBRARIES, module
        assert ours(module) <= pure, module


def names_a_database(node: ast.AST) -> bool:
    texts = []
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        texts.append(node.value)
    elif isinstance(node, ast.Name | ast.Attribute):
        texts.append(node.id if isinstance(node, ast.Name) else node.attr)
    return any(word in text.lower() for text in texts for word in DATABASE_WORDS)


@cache
def without_docstrings(module: str) -> list[ast.AST]:
    docstrings = {
        id(node.body[0].value)
        for node in ast.walk(trees()[module])
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef)
        and node.body
        and isinstance(node.body[0], ast.Expr)
    }
    return [node for node in ast.walk(trees()[module]) if id(node) not in docstrings]


def test_few_modules_know_that_databases_differ() -> None:
    knowing = {
        module: [ast.unparse(node) for node in without_docstrings(module) if names_a_database(node)]
        for module in set(trees()) - MAY_NAME_DATABASES
    }
    assert {module: said for module, said in knowing.items() if said} == {}


def test_the_clock_is_read_in_one_place() -> None:
    for module in set(trees()) - MAY_READ_A_CLOCK:
        calls = {
            ast.unparse(node.func)
            for node in ast.walk(trees()[module])
            if isinstance(node, ast.Call)
        }
        assert not {each for each in calls if each in CLOCKS or each.startswith("time.")}, module
        assert not {name for name in imports_of(module) if name.split(".")[0] == "time"}, module


def test_the_command_line_holds_no_sql() -> None:
    for module in trees():
        if module.startswith("cli."):
            assert "sqlalchemy" not in {name.split(".")[0] for name in imports_of(module)}, module


def test_few_rooms_name_the_totals() -> None:
    named = {
        room_of(module)
        for module in trees()
        for node in ast.walk(trees()[module])
        if isinstance(node, ast.Attribute)
        and isinstance(node.value, ast.Name)
        and (node.value.id, node.attr) in {("schema", "totals"), ("schema", "days")}
    }
    assert named == MAY_NAME_TOTALS


def test_only_rooms_that_read_or_invent_an_oar_know_its_tables() -> None:
    knowing = {room_of(module) for module in trees() if "oar.oar_tables" in ours(module)}
    assert knowing == {"oar", "demo", "dropin", "karma"}
    assert [m for m in trees() if room_of(m) == "karma" and "oar.oar_tables" in ours(m)] == [
        "karma.oar_sums"
    ]


def test_only_the_command_in_the_place_of_oars_can_write_oars_tables() -> None:
    """All that it writes is a column that no other module names, and a table made for it."""
    assert {m for m in trees() if "dropin.tables" in ours(m)} == {"dropin.oaraccounting"}
    assert {m for m in trees() if "dropin.oaraccounting" in ours(m)} == {
        *("accounting", "cli.commands.oaraccounting"),
    }
    for module in set(trees()) - {"dropin.tables", "dropin.oaraccounting"}:
        texts = without_docstrings(module)
        named = [n for n in texts if isinstance(n, ast.Constant) and n.value == "accounted"]
        assert not named, module


def test_only_one_module_can_write_what_users_see() -> None:
    """Its table has two columns beside those that say which rows, and nobody else knows of it."""
    assert {m for m in trees() if "dropin.last_karma" in ours(m)} == {"accounting"}
    assert set(oar_tables.shown.c.keys()) - {"job_id", "state"} == {"message", "last_karma"}
    for module in set(trees()) - {"oar.oar_tables"}:
        imported = "oar_accounting.oar.oar_tables.shown" in imports_of(module)
        assert imported == (module == "dropin.last_karma"), module


# -- names that files outside the library know -------------------------------------------------

ENTRY_POINTS = {"schedulers.oar3", "stubs.oar3"}


def test_oars_scheduler_can_import_its_entry_points_whatever_is_broken() -> None:
    """At the top of these modules, the standard library and each other are all there is."""
    for module in {"__init__", "schedulers.__init__", "stubs.__init__", *ENTRY_POINTS}:
        for node in trees()[module].body:
            found = set()
            if isinstance(node, ast.Import):
                found = {alias.name for alias in node.names}
            elif isinstance(node, ast.ImportFrom):
                found = {f"{node.module}.{alias.name}" for alias in node.names}
            roots = {name.split(".")[0] for name in found} - sys.stdlib_module_names
            assert roots <= {"oar_accounting"}
            if roots:
                assert all(any(f"oar_accounting.{e}" in n for e in ENTRY_POINTS) for n in found)


def test_what_installed_files_name_is_there() -> None:
    from oar_accounting.schedulers import oar2

    named = re.findall(
        r"= (oar_accounting[\w.]*):(\w+)\"", (PACKAGE.parent / "setup.py").read_text()
    )
    assert len(named) == 4
    for module, name in named:
        assert callable(getattr(importlib.import_module(module), name)), (module, name)
    assert callable(oar2.main)
    assert {"cli.__main__", "schedulers.answer"} <= set(trees())
    assert "cli.main" not in trees(), "a module of that name hides the function"

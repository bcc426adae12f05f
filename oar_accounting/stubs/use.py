"""Who names a stub: the settings of OAR, and its queues. What is named must not be removed."""

import re
import shlex
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from shlex import quote

from oar_accounting.stubs.files import Installed
from oar_accounting.stubs.plan import DEFAULT, MODULE, PREFIX, read_text

EPILOGUE = "SERVER_EPILOGUE_EXEC_FILE"
#: The name of our entry points, and where OAR 3's settings name one.
ENTRY_POINT = "accounting"
PRIORITY, SORTING, METASCHED = "JOB_PRIORITY", "CUSTOM_JOB_SORTING", "EXTRA_METASCHED"

#: Where pip puts what OAR called before there were stubs.
OLD_PLACE = re.compile(r"/[^\s\"'=]*/share/oar-accounting/hooks/(?:server_epilogue|oar2)\b")


@dataclass(frozen=True, slots=True, kw_only=True)
class StubUse:
    """A line of OAR's settings, or a queue, that leads to a stub."""

    what: str  #: one sentence without its end
    first: str  #: the command that has to come before the stub can go


def uses_of(
    installed: Installed,
    conf: Mapping[str, str],
    oar_conf: str,
    policies: Mapping[str, str],
    run_sql: Callable[[str], str],
) -> list[StubUse]:
    """All that leads to these stubs.

    *conf*: the values of the file *oar_conf*; *policies*: the scheduler of each queue; *run_sql*:
    the command that runs a statement in OAR's database.
    """
    return [
        *_epilogue(installed, conf, oar_conf),
        *_entry_points(installed, conf, oar_conf),
        *_queues(installed, policies, run_sql),
    ]


def _epilogue(installed: Installed, conf: Mapping[str, str], oar_conf: str) -> Iterator[StubUse]:
    words = _words(conf.get(EPILOGUE, ""))
    for stub in installed.files:
        if stub.name != "server_epilogue" or not words:
            continue
        if any(_is(Path("/", word), stub) for word in words):
            yield StubUse(what=f"{oar_conf} names {stub}", first=_without(EPILOGUE, oar_conf))
        elif str(stub) in read_text(Path("/", words[0])):
            script = Path("/", words[0])
            first = f"sed -i '\\|{stub}|d' {quote(str(script))}"
            yield StubUse(what=f"{script}, which {oar_conf} names, calls {stub}", first=first)


def _is(named: Path, stub: Path) -> bool:
    """True where a path, or the end of a link, is that file."""
    return stub in (named, named.resolve()) or named.resolve() == stub.resolve()


def _entry_points(
    installed: Installed, conf: Mapping[str, str], oar_conf: str
) -> Iterator[StubUse]:
    if not any(file.name == f"{MODULE}.py" for file in installed.files):
        return
    # OAR 3 takes all quotes off both ends of a value.
    values = {key: value.strip("\"'") for key, value in conf.items()}
    for key in (SORTING, METASCHED):
        if values.get(key) == ENTRY_POINT:
            keys = rf"{key}\|{key}_CONFIG"
            if key == SORTING and values.get(PRIORITY) == "CUSTOM":
                # Alone, it would end OAR's scheduler.
                keys += rf"\|{PRIORITY}"
            first = _without(rf"\({keys}\)", oar_conf)
            yield StubUse(what=f'{oar_conf} has {key}="{ENTRY_POINT}"', first=first)


def _queues(
    installed: Installed, policies: Mapping[str, str], run_sql: Callable[[str], str]
) -> Iterator[StubUse]:
    links = {link.name for link in installed.links_to_ours()}
    for policy in sorted(links.intersection(policies.values())):
        names = ", ".join(sorted(name for name, each in policies.items() if each == policy))
        # What a link with another name leads to is what it runs, too.
        own = policy.removeprefix(PREFIX) if policy.startswith(PREFIX) else DEFAULT
        statement = (
            f"UPDATE queues SET scheduler_policy = {_sql_text(own)} "  # noqa: S608 - it is shown
            f"WHERE scheduler_policy = {_sql_text(policy)}"
        )
        yield StubUse(what=f"the scheduler of queue {names} is {policy}", first=run_sql(statement))


def _sql_text(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"


def _without(keys: str, oar_conf: str) -> str:
    """The command that takes lines out of OAR's settings, however they are indented."""
    return f"sed -i '/^[[:space:]]*{keys}[[:space:]]*=/d' {quote(oar_conf)}"


def _words(value: str) -> list[str]:
    try:
        return shlex.split(value)
    except ValueError:
        return []


def old_names(conf: Mapping[str, str], oar_conf: str, stub: Path) -> StubUse | None:
    """What still leads to where pip puts our files, in the place of the epilogue's *stub*."""
    value = conf.get(EPILOGUE, "")
    words = _words(value)
    if (found := OLD_PLACE.search(value)) is not None:
        file = Path(oar_conf)
    elif words and (found := OLD_PLACE.search(read_text(Path("/", words[0])))):
        file = Path("/", words[0])
    else:
        return None
    return StubUse(
        what=f"{file} names {found[0]}, which is missing while pip replaces it: OAR then stops all "
        "queues",
        first=f"sed -i 's|{found[0]}|{stub}|' {quote(str(file))}",
    )

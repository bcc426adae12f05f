"""Who names a stub: the settings of OAR, and its queues. What is named must not be removed."""

import re
import shlex
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from shlex import quote

from oar_accounting.stubs.files import Installed
from oar_accounting.stubs.plan import read_text

EPILOGUE = "SERVER_EPILOGUE_EXEC_FILE"
#: The name of our entry points, and where OAR 3's settings name one.
ENTRY_POINT = "accounting"
SORTING, METASCHED = "CUSTOM_JOB_SORTING", "EXTRA_METASCHED"

#: Where pip puts what OAR called before there were stubs.
OLD_PLACE = re.compile(r"/[^\s\"'=]*/share/oar-accounting/hooks/(?:server_epilogue|oar2)\b")
#: What gives every queue its own scheduler back.
GIVE_BACK = (
    'psql oar --command "UPDATE queues SET scheduler_policy = substr(scheduler_policy, 12) '
    "WHERE scheduler_policy LIKE 'karma_then_%'\""
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Use:
    """A line of OAR's settings, or a queue, that leads to a stub."""

    what: str  #: one sentence without its end
    first: str  #: the command that has to come before the stub can go


def uses_of(
    installed: Installed, conf: Mapping[str, str], oar_conf: str, policies: Mapping[str, str]
) -> list[Use]:
    """All that leads to these stubs.

    *conf*: the values of the file *oar_conf*; *policies*: the scheduler of each queue.
    """
    return [
        *_epilogue(installed, conf, oar_conf),
        *_entry_points(installed, conf, oar_conf),
        *_queues(installed, policies),
    ]


def _epilogue(installed: Installed, conf: Mapping[str, str], oar_conf: str) -> Iterator[Use]:
    named = program_of(conf.get(EPILOGUE, ""))
    if named is None:
        return
    if named in installed.files:
        yield Use(what=f"{oar_conf} names {named}", first=_without(EPILOGUE, oar_conf))
        return
    text = read_text(named)
    for stub in installed.files:
        if stub.name == "server_epilogue" and str(stub) in text:
            first = f"sed -i '\\|{stub}|d' {quote(str(named))}"
            yield Use(what=f"{named}, which {oar_conf} names, calls {stub}", first=first)


def _entry_points(installed: Installed, conf: Mapping[str, str], oar_conf: str) -> Iterator[Use]:
    if installed.oar3_python is None:
        return
    if conf.get(SORTING) == ENTRY_POINT:
        # OAR's own order first: without the second line, the first one ends OAR's scheduler.
        keys = rf"\(JOB_PRIORITY\|{SORTING}\|{SORTING}_CONFIG\)"
        yield Use(what=f'{oar_conf} has {SORTING}="{ENTRY_POINT}"', first=_without(keys, oar_conf))
    if conf.get(METASCHED) == ENTRY_POINT:
        keys = rf"\({METASCHED}\|{METASCHED}_CONFIG\)"
        what = f'{oar_conf} has {METASCHED}="{ENTRY_POINT}"'
        yield Use(what=what, first=_without(keys, oar_conf))


def _queues(installed: Installed, policies: Mapping[str, str]) -> Iterator[Use]:
    links = {link.name for link in installed.links}
    for policy in sorted(links.intersection(policies.values())):
        names = ", ".join(sorted(name for name, each in policies.items() if each == policy))
        yield Use(what=f"the scheduler of queue {names} is {policy}", first=GIVE_BACK)


def _without(keys: str, oar_conf: str) -> str:
    return f"sed -i '/^{keys}=/d' {quote(oar_conf)}"


def program_of(value: str) -> Path | None:
    """The program of a setting that may have arguments; None where it has none."""
    try:
        words = shlex.split(value)
    except ValueError:
        return None
    return Path("/", words[0]) if words else None


def old_names(conf: Mapping[str, str], oar_conf: str, stub: Path) -> Use | None:
    """What still leads to where pip puts our files, in the place of the epilogue's *stub*."""
    value = conf.get(EPILOGUE, "")
    if (found := OLD_PLACE.search(value)) is not None:
        file = Path(oar_conf)
    elif (named := program_of(value)) is not None and (found := OLD_PLACE.search(read_text(named))):
        file = named
    else:
        return None
    return Use(
        what=f"{file} names {found[0]}, which is missing while pip replaces it: OAR then stops all "
        "queues",
        first=f"sed -i 's|{found[0]}|{stub}|' {quote(str(file))}",
    )

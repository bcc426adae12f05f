"""The command that mends what went wrong: the one that an error ends with, or one for its kind."""

import re
from pathlib import Path

from sqlalchemy import Engine

from oar_accounting.core.shared_files import shared
from oar_accounting.database import dialects
from oar_accounting.errors import AccountingError, SchemaError, SettingsError
from oar_accounting.stubs.oar_user import AS_OAR, quoted

#: What our errors, notices and warnings end with where a command mends it.
_COMMAND = re.compile(r"(.*): ((?:oar-accounting|chmod) .*)", re.S)


def parted(text: str) -> tuple[str, str]:
    """What a text of ours says, and the command that it ends with."""
    found = _COMMAND.fullmatch(text)
    return (text, "") if found is None else (found[1], found[2])


def way_out(error: AccountingError, engine: Engine) -> str:
    """The command for an error that names none, on what is in the database of *engine*."""
    said = str(error)
    if isinstance(error, SettingsError):
        return settings_way(said)
    if isinstance(error, SchemaError):
        return "pip install --upgrade oar-accounting"
    if "cannot be read (" in said or "permission denied" in said or "command denied" in said:
        return make_roles(engine)
    return dialects.start_server(engine.url)


def settings_way(said: str) -> str:
    """The command for an error in the settings, from its text."""
    file = Path(said.partition(":")[0])
    if (install := re.search(r"pip install '[^']*'", said)) is not None:
        return install[0]
    if "Permission denied" in said:
        return AS_OAR
    if file.is_file():
        return f"editor {quoted(file)}"
    return "oar-accounting --oar-conf FILE doctor"


def make_roles(engine: Engine) -> str:
    """The command that makes our roles, and gives them their rights."""
    file = shared(f"sql/{dialects.database_name(engine)}/roles.sql")
    return dialects.run_file(engine.url, file)

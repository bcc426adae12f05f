"""OAR's own ``oaraccounting``, the Perl of OAR 2.5.9, run on databases of the tests."""

import os
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from sqlalchemy import Connection, make_url

from tests.database.oar.test_oar_schema import SCHEMA_DIR, SCHEMA_FILES, schema_statements

#: Where Debian's package oar-server puts it; it is run without the wrapper that becomes oar.
COMMAND = Path(os.environ.get("OAR_STOCK_ACCOUNTING", "/usr/lib/oar/oaraccounting"))
#: OAR's name of a kind of database, and its Perl driver.
DRIVERS = {"postgresql": ("Pg", "DBD::Pg"), "mariadb": ("mysql", "DBD::mysql")}


@cache
def missing(kind: str) -> str:
    """What keeps OAR's command from running on this kind of database; empty where nothing does."""
    schema = SCHEMA_DIR / SCHEMA_FILES[kind]
    for file in (COMMAND, schema):
        if not file.is_file():
            return f"there is no {file}; it is in Debian's packages of OAR 2.5.9"
    modules = ("OAR::IO", DRIVERS[kind][1])
    try:
        done = subprocess.run(
            ["perl", *(f"-M{name}" for name in modules), "-e", "1"], capture_output=True, text=True
        )
    except OSError as error:
        return f"perl: {error.strerror}"
    return done.stderr.partition("\n")[0]


def create_accounting(connection: Connection, kind: str) -> None:
    """Create OAR's table accounting with its indexes, as OAR's own file does."""
    for statement in schema_statements(kind, SCHEMA_DIR / SCHEMA_FILES[kind]):
        if " accounting (" in statement:
            connection.exec_driver_sql(statement)


def write_conf(url: str, directory: Path, window: int = 86_400) -> Path:
    """An ``oar.conf`` that names the database of *url*."""
    place = make_url(url)
    values: dict[str, object] = {"ACCOUNTING_WINDOW": window}
    if place.get_backend_name() == "sqlite":
        values |= {"DB_TYPE": "sqlite", "DB_BASE_FILE": place.database}
    else:
        kind = "mariadb" if place.get_backend_name() == "mysql" else place.get_backend_name()
        values |= {
            "DB_TYPE": DRIVERS[kind][0],
            "DB_HOSTNAME": place.host,
            "DB_PORT": place.port,
            "DB_BASE_NAME": place.database,
            "DB_BASE_LOGIN": place.username,
            "DB_BASE_PASSWD": place.password,
            # Errors of the database go to standard error.
            "LOG_LEVEL": 3,
            "LOG_FILE": directory / "oar.log",
        }
    conf = directory / f"{Path(place.database or '').name}.conf"
    conf.write_text("".join(f'{name}="{value}"\n' for name, value in values.items()))
    conf.chmod(0o600)
    return conf


@dataclass(frozen=True, slots=True)
class StockCommand:
    """OAR's command with the settings of one database."""

    conf: Path

    def start(self, *options: str) -> "subprocess.Popen[str]":
        """Start it; its output is not of interest."""
        return subprocess.Popen(
            ["perl", str(COMMAND), *options],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, "OARCONFFILE": str(self.conf)},
        )

    def run(self, options: Sequence[str] = ()) -> str:
        """Run it; what it said of errors, after which it leaves with 0 all the same."""
        process = self.start(*options)
        _, said = process.communicate(timeout=600)
        if process.returncode:
            raise RuntimeError(f"oaraccounting left with {process.returncode}: {said}")
        return said

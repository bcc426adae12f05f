"""Where a MariaDB or MySQL server of this machine listens, as its other clients find it.

To them "localhost" is no address but the server's socket, even beside a port, and so is no host at
all; 127.0.0.1 is an address.
"""

import os
import re
from collections.abc import Iterator
from pathlib import Path

from sqlalchemy.engine import URL

#: The clients' own settings, the last word last, and the groups there that every client reads.
FILES = ("/etc/my.cnf", "/etc/mysql/my.cnf", "~/.my.cnf")
GROUPS = ("client", "client-server", "client-mariadb")
#: Where nothing is set: with Debian, with Red Hat, and as it comes.
SOCKET_PLACES = ("/run/mysqld/mysqld.sock", "/var/lib/mysql/mysql.sock", "/tmp/mysql.sock")

#: How deep files may include each other.
_DEEPEST = 10
_INCLUDE = re.compile(r"!include(dir)?\s+(.+)")
_GROUP = re.compile(r"\[(.*?)\]")
_SOCKET = re.compile(r"socket\s*=\s*([\"']?)(.*?)\1\s*(?:#.*)?")


def socket_of(url: URL) -> str | None:
    """The socket that the *url* of a MariaDB or MySQL means; None where it means an address."""
    if given := url.query.get("unix_socket"):
        return str(given)
    if url.host not in (None, "", "localhost"):
        return None
    named = [each for file in FILES for each in _sockets(Path(os.path.expanduser(file)))]
    if named and named[-1]:
        return named[-1]
    there = filter(os.path.exists, SOCKET_PLACES)
    return os.environ.get("MYSQL_UNIX_PORT") or next(there, SOCKET_PLACES[0])


def _sockets(file: Path, depth: int = 0) -> Iterator[str]:
    """The sockets that a file of settings names for all clients, in their order."""
    if depth > _DEEPEST:
        return
    try:
        lines = file.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return
    group = ""
    for line in map(str.strip, lines):
        if included := _INCLUDE.fullmatch(line):
            place = Path(included[2])
            for each in sorted(place.glob("*.cnf")) if included[1] else [place]:
                yield from _sockets(each, depth + 1)
        elif named := _GROUP.match(line):
            group = named[1]
        elif group in GROUPS and (found := _SOCKET.fullmatch(line)):
            yield found[2]

"""A site's accounts and their groups, kept from one question to the next.

Accounts are added, and renamed only where a user is forgotten; `Accounts.refresh` notices both. And
all tables may have been made anew, or read from a dump: then the pass that was the last is another.
"""

from collections.abc import Hashable, Sequence
from typing import Any

from sqlalchemy import Connection

from oar_accounting.karma.entities import Entities, entities_by
from oar_accounting.ledger import journal
from oar_accounting.ledger.catalog import Accounts, Names
from oar_accounting.recording.unposted import Planned
from oar_accounting.usage.keys import Group, Key


class KnownAccounts:
    """The accounts of one site, for one question after the other."""

    def __init__(self) -> None:
        self._accounts: Accounts | None = None
        self._entities: dict[tuple[Key, ...], Entities[Group]] = {}
        self._paths: dict[Hashable, dict[Names, Any]] = {}
        self._last_pass: journal.Mark | None = None

    def refreshed(self, connection: Connection, site_id: int) -> Planned:
        """The accounts as they are now, to which those that a pass would add can be added."""
        last, self._last_pass = self._last_pass, journal.last_mark(connection, site_id)
        is_same = last == self._last_pass or journal.is_there(connection, site_id, last)
        if self._accounts is None or self._accounts.site_id != site_id or not is_same:
            self._accounts, self._entities, self._paths = Accounts(site_id), {}, {}
        before = self._accounts.revision
        self._accounts.refresh(connection)
        if self._accounts.revision != before:
            self._entities, self._paths = {}, {}
        return Planned(self._accounts)

    def entities(
        self, names: dict[int, Names], keys: tuple[Key, ...], *, planned: bool
    ) -> Entities[Group]:
        """The groups of accounts by these keys.

        *planned*: whether there are accounts among the *names* that a pass would add.
        """
        if planned or not _by_name(keys):
            return entities_by(names, keys)
        if keys not in self._entities:
            self._entities[keys] = entities_by(names, keys)
        return self._entities[keys]

    def paths(self, tree: Hashable) -> dict[Names, Any]:
        """What was found of names in a *tree* in which nothing but these decides; to be added to.

        It is given up where an account is added: so it does not grow with the names of all jobs.
        """
        return self._paths.setdefault(tree, {})


def _by_name(keys: Sequence[Any]) -> bool:
    """True where a group depends on nothing but the names of the account."""
    return all(isinstance(key, Key) and key.members is None for key in keys)

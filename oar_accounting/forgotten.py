"""Users who are forgotten: everywhere a pseudonym stands for them, and what they used stays.

Also a project that has the user's name, as where everybody has one, gets the pseudonym, and so
does what is imported of who belongs where, and who wrote or is named in an adjustment.

OAR may still have the name, and a pass reads it again: so that it stays forgotten, a salted digest
of the name leads to the pseudonym. Whoever guesses a name can check the guess against it.
"""

import secrets
from dataclasses import replace
from hashlib import sha256
from itertools import chain
from typing import Self

import numpy as np
from sqlalchemy import Connection, insert, select

from oar_accounting import journal, schema
from oar_accounting.adjustments.standing import authors, forget_name
from oar_accounting.catalog import digest
from oar_accounting.columns import JobRows
from oar_accounting.errors import UnknownName
from oar_accounting.ledger import Book


class Forgotten:
    """The forgotten users of a site."""

    def __init__(self, marks: list[tuple[str, str, str]]) -> None:
        """With salt, digest and pseudonym of each."""
        self._marks = marks
        self._known: dict[str, str] = {}

    @classmethod
    def of(cls, connection: Connection, site_id: int) -> Self:
        """Those of the site."""
        table = schema.forgotten.c
        query = select(table.salt, table.digest, table.pseudonym).where(table.site_id == site_id)
        return cls([(row[0], row[1], row[2]) for row in connection.execute(query)])

    def pseudonyms(self) -> set[str]:
        """The pseudonyms that stand for them."""
        return {pseudonym for _, _, pseudonym in self._marks}

    def name(self, user: str) -> str:
        """The pseudonym of a user who is forgotten, the name of any other."""
        if not self._marks:
            return user
        if user not in self._known:
            found = (p for salt, mark, p in self._marks if _mark(salt, user) == mark)
            self._known[user] = next(found, user)
        return self._known[user]

    def rows(self, rows: JobRows) -> JobRows:
        """The same jobs, those of forgotten users under their pseudonyms."""
        if not self._marks:
            return rows
        both = (rows.user.tolist(), rows.project.tolist())
        names = {name: self.name(name) for name in dict.fromkeys(chain(*both))}
        users, projects = (np.array([names[n] for n in column], dtype=object) for column in both)
        return replace(rows, user=users, project=projects)


def forget(book: Book, user: str) -> str:
    """Put a new pseudonym in the place of a user's, or person's project's, name; the pseudonym.

    Raises :class:`UnknownName` where nothing is recorded under the name.
    """
    connection, site_id = book.connection, book.site.site_id
    table = schema.accounts.c
    accounts = {key: names for key, names in book.accounts.names().items() if user in names[:2]}
    others = _attributed(connection, site_id) | authors(connection, site_id)
    if not accounts and user not in others:
        raise UnknownName(f"nothing is recorded of a user {user!r} on site {book.site.name!r}")
    if user in Forgotten.of(connection, site_id).pseudonyms():
        raise UnknownName(f"{user!r} is a pseudonym: that user is forgotten already")
    pseudonym, salt = f"forgotten-{secrets.token_hex(4)}", secrets.token_hex(16)
    for account_id, (owner, project, queue, value) in accounts.items():
        owner, project = (pseudonym if name == user else name for name in (owner, project))
        names = (owner, project, queue, value)
        connection.execute(
            schema.accounts.update()
            .where(table.account_id == account_id)
            .values(user_name=owner, project=project, digest=digest(names))
        )
    of_site = schema.attributes.c.site_id == site_id
    for column in (schema.attributes.c.name, schema.attributes.c.value):
        connection.execute(
            schema.attributes.update().where(of_site, column == user).values({column: pseudonym})
        )
    connection.execute(
        insert(schema.forgotten).values(
            site_id=site_id, digest=_mark(salt, user), salt=salt, pseudonym=pseudonym
        )
    )
    forget_name(connection, site_id, user, pseudonym)
    journal.forget_messages(connection, site_id, user)
    return pseudonym


def _attributed(connection: Connection, site_id: int) -> set[str]:
    """The names and values of all that is imported of who belongs where."""
    table = schema.attributes.c
    query = select(table.name, table.value).where(table.site_id == site_id)
    return set(chain.from_iterable(connection.execute(query)))


def _mark(salt: str, user: str) -> str:
    return sha256(f"{salt}:{user}".encode()).hexdigest()

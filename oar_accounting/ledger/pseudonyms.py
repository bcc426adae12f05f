"""Users who are forgotten: everywhere a pseudonym stands for them, and what they used stays.

Also a project that has the user's name, as where everybody has one, gets the pseudonym, and so
does what is imported of who belongs where, and who wrote or is named in an adjustment. The names
of their jobs, which may name them, are blank.

OAR may still have the name, and a pass reads it again: so that it stays forgotten, a salted digest
of the name leads to the pseudonym. Whoever guesses a name can check the guess against it.
"""

from hashlib import sha256
from typing import Self

from sqlalchemy import Connection, select

from oar_accounting.ledger import schema


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
            found = (p for salt, mark, p in self._marks if digest_of(salt, user) == mark)
            self._known[user] = next(found, user)
        return self._known[user]


def digest_of(salt: str, user: str) -> str:
    """What leads from the name to the pseudonym."""
    return sha256(f"{salt}:{user}".encode()).hexdigest()

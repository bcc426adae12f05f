"""Forgetting a user: a pseudonym takes the place of the name wherever it is recorded.

What the user's jobs are called may name a person, and is forgotten, too.
"""

import secrets
from collections.abc import Sequence
from itertools import chain

from sqlalchemy import Connection, func, insert, or_, select

from oar_accounting.adjustments.stored import adjustments_naming, authors, forget_name
from oar_accounting.core.columns import ints
from oar_accounting.database.id_blocks import short_lists
from oar_accounting.errors import UnknownName
from oar_accounting.ledger import journal, schema
from oar_accounting.ledger.catalog import Names, digest
from oar_accounting.ledger.ledger import Book
from oar_accounting.ledger.pseudonyms import Forgotten, digest_of
from oar_accounting.ledger.reading import jobs_where
from oar_accounting.ledger.records import DryRun
from oar_accounting.recording.runs import Runs
from oar_accounting.recording.upkeep.dry_runs import DryCount

#: What every pseudonym begins with.
PSEUDONYM = "forgotten"


def forget_user(runs: Runs, user: str) -> str:
    """Put a pseudonym in the place of a user's name; the pseudonym. Raises as `forget`."""
    with runs.noted("forget-user", new=False) as entry:
        entry.secret = True
        with runs.ledger.writing() as book:
            return forget(book, user)


def forget(book: Book, user: str) -> str:
    """Put a new pseudonym in the place of a user's, or person's project's, name; the pseudonym.

    Raises :class:`UnknownName` where nothing is recorded under the name.
    """
    connection, site_id = book.connection, book.site.site_id
    table = schema.accounts.c
    accounts = _accounts(book, user)
    pseudonym, salt = f"{PSEUDONYM}-{secrets.token_hex(4)}", secrets.token_hex(16)
    for account_id, (owner, project, queue, value) in accounts.items():
        owner, project = (pseudonym if name == user else name for name in (owner, project))
        names = (owner, project, queue, value)
        connection.execute(
            schema.accounts.update()
            .where(table.account_id == account_id)
            .values(user_name=owner, project=project, digest=digest(names))
        )
    _forget_job_names(book, [key for key, (owner, *_) in accounts.items() if owner == user])
    of_site = schema.attributes.c.site_id == site_id
    for column in (schema.attributes.c.name, schema.attributes.c.value):
        connection.execute(
            schema.attributes.update().where(of_site, column == user).values({column: pseudonym})
        )
    connection.execute(
        insert(schema.forgotten).values(
            site_id=site_id, digest=digest_of(salt, user), salt=salt, pseudonym=pseudonym
        )
    )
    forget_name(connection, site_id, user, pseudonym)
    journal.forget_messages(connection, site_id, user)
    return pseudonym


def _forget_job_names(book: Book, accounts: Sequence[int]) -> None:
    """Blank the names of the jobs of these accounts: they may name a person."""
    job = schema.jobs.c
    of_them = (job.site_id == book.site.site_id, job.account_id.in_(accounts), job.name != "")
    book.connection.execute(schema.jobs.update().where(*of_them).values(name=""))


def would_forget(runs: Runs, user: str) -> DryRun:
    """What `forget_user` would do; nothing is written. Raises as `forget`."""
    with runs.looking() as book:
        connection, site_id = book.connection, book.site.site_id
        accounts = ints([*_accounts(book, user)])
        rows = len(accounts) + journal.messages_naming(connection, site_id, user)
        rows += len(adjustments_naming(connection, site_id, user, PSEUDONYM))
        table = schema.attributes.c
        query = select(func.count()).where(
            table.site_id == site_id, or_(table.name == user, table.value == user)
        )
        rows += int(connection.execute(query).scalar_one())
        job = schema.jobs.c
        counted = DryCount()
        for some in short_lists(accounts):
            counted.add(jobs_where(connection, site_id, job.account_id.in_(some)))
    return counted.report(rows)


def _accounts(book: Book, user: str) -> dict[int, Names]:
    """The accounts of a user, or of a person's project. Raises :class:`UnknownName`."""
    connection, site_id = book.connection, book.site.site_id
    accounts = {key: names for key, names in book.accounts.names().items() if user in names[:2]}
    others = _attributed(connection, site_id) | authors(connection, site_id)
    if not accounts and user not in others:
        raise UnknownName(f"nothing is recorded of a user {user!r} on site {book.site.name!r}")
    if user in Forgotten.of(connection, site_id).pseudonyms():
        raise UnknownName(f"{user!r} is a pseudonym: that user is forgotten already")
    return accounts


def _attributed(connection: Connection, site_id: int) -> set[str]:
    """The names and values of all that is imported of who belongs where."""
    table = schema.attributes.c
    query = select(table.name, table.value).where(table.site_id == site_id)
    return set(chain.from_iterable(connection.execute(query)))

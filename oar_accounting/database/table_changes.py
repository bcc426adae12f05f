"""What it takes to change large tables: the statements, the time, and what others cannot do."""

from collections.abc import Sequence

#: Where tables are changed in a transaction, or not at all.
TRANSACTIONAL = ("postgresql", "sqlite")
#: What others cannot do with the tables that are changed, until it ends.
LOCKS = {
    "mariadb": "who writes one of these tables waits, and who reads it while it is exchanged, too",
    "postgresql": "nobody else can read or write these tables",
    "sqlite": "nobody else can write to the file; it is read as it was",
}
#: What a file of statements begins with, so that a client stops at the first that fails.
FIRST = {
    "mariadb": (
        "-- Stop catch-up and the hooks first: what they write meanwhile may make this fail.\n"
        "-- What was interrupted is finished by: oar-accounting init"
    ),
    "sqlite": ".bail on",
}
#: About so many seconds a table takes for a million of its rows, where its key changes.
SECONDS_A_MILLION = {"mariadb": 10.0, "postgresql": 6.0, "sqlite": 4.0}


def in_transaction(database: str, statements: Sequence[str]) -> list[str]:
    """The statements, with their semicolons, as one change where the database can."""
    ended = [f"{each};" for each in statements]
    return ["BEGIN;", *ended, "COMMIT;"] if database in TRANSACTIONAL else ended


def rekey(
    database: str, name: str, key: Sequence[str], columns: Sequence[str], created_anew: str
) -> list[str]:
    """The statements that give a table its primary key in the place of another.

    *created_anew*: the one that creates it with this key as ``NAME_new``, where that is needed.
    """
    keys = ", ".join(key)
    match database:
        case "postgresql":
            drop = f"DROP CONSTRAINT {name}_pkey"
            return [f"ALTER TABLE {name}\n    {drop},\n    ADD PRIMARY KEY ({keys})"]
        case "mariadb":
            return [f"ALTER TABLE {name}\n    DROP PRIMARY KEY,\n    ADD PRIMARY KEY ({keys})"]
    # SQLite has no other way. Views that somebody made of the table are left as they are.
    every = ", ".join(columns)
    copied = f"({every})\nSELECT {every} FROM {name}\nORDER BY {keys}"
    return [
        created_anew,
        f"INSERT INTO {name}_new {copied}",
        f"DROP TABLE {name}",
        "PRAGMA legacy_alter_table = ON",
        f"ALTER TABLE {name}_new RENAME TO {name}",
        "PRAGMA legacy_alter_table = OFF",
    ]

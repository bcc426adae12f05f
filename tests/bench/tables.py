"""How many rows there are."""

from collections.abc import Iterable

from sqlalchemy import Engine, Table, func, select


def rows_of(engine: Engine, tables: Iterable[Table]) -> dict[str, int]:
    """The rows of each of our tables, by its name without what all of them begin with."""
    with engine.connect() as connection:
        return {
            table.name.removeprefix("accounting_"): int(
                connection.execute(select(func.count()).select_from(table)).scalar_one()
            )
            for table in tables
        }

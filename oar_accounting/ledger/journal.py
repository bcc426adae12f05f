"""The journal of passes: every run that writes leaves a row, also one that failed or was killed.

The row is written when a pass begins, so that one that was killed is seen: it never ended.
"""

from dataclasses import dataclass, field

from sqlalchemy import ColumnElement, Connection, and_, func, insert, select

from oar_accounting.ledger import schema
from oar_accounting.ledger.records import PassRecord, PassReport

#: Rows that are kept of a site.
MOST_PASSES = 10_000
#: Problems that are kept of a pass, in words.
MOST_PROBLEMS = 5

#: Seconds after which a pass that has not ended is no longer at work: the timers end it.
LONGEST_PASS = 1_800

AT_WORK, DONE, FAILED = "running", "done", "failed"


#: What tells a pass from any other, also where the tables were made anew: number and begin.
Mark = tuple[int, int]


@dataclass(slots=True)
class Entry:
    """A pass at work: when it began, in epoch seconds, and what it did when it is done."""

    began: int
    secret: bool = False  #: why it failed names a person
    report: PassReport = field(default_factory=PassReport)


def begin(connection: Connection, site_id: int, verb: str, now: int) -> int:
    """Note that a pass begins; its number. What is very old goes."""
    added = connection.execute(
        insert(schema.passes).values(
            site_id=site_id,
            verb=verb,
            began=now,
            outcome=AT_WORK,
            done=0,
            changed=0,
            problems=0,
            message="",
        )
    ).inserted_primary_key
    assert added is not None
    number = int(added[0])
    table = schema.passes.c
    connection.execute(
        schema.passes.delete().where(
            table.pass_id <= number - MOST_PASSES, table.site_id == site_id
        )
    )
    return number


def last_mark(connection: Connection, site_id: int) -> Mark | None:
    """The last pass that began; None where there was none."""
    table = schema.passes.c
    query = select(table.pass_id, table.began).where(table.site_id == site_id)
    row = connection.execute(query.order_by(table.pass_id.desc()).limit(1)).first()
    return None if row is None else (row[0], row[1])


def is_there(connection: Connection, site_id: int, mark: Mark | None) -> bool:
    """True where that pass is still noted, and there was one."""
    if mark is None:
        return False
    table = schema.passes.c
    query = select(table.began).where(table.pass_id == mark[0], table.site_id == site_id)
    return connection.execute(query).scalar() == mark[1]


def finish(connection: Connection, number: int, now: int, report: PassReport) -> None:
    """Note what a pass did."""
    problems = report.problems[:MOST_PROBLEMS]
    _end(
        connection,
        number,
        ended=now,
        outcome=DONE,
        done=report.done,
        changed=report.changed,
        problems=len(report.problems),
        message="\n".join(f"job {each.job_id}: {each.reason}" for each in problems),
    )


def fail(connection: Connection, number: int, now: int, reason: str) -> None:
    """Note why a pass could not be finished."""
    _end(connection, number, ended=now, outcome=FAILED, message=reason)


def _end(connection: Connection, number: int, **values: int | str) -> None:
    connection.execute(
        schema.passes.update().where(schema.passes.c.pass_id == number).values(**values)
    )


def passes_since_done(connection: Connection, site_id: int, verb: str) -> list[PassRecord]:
    """The last pass of the verb that was done, and all passes since, the newest first."""
    table = schema.passes.c
    columns = ("verb", "began", "ended", "outcome", "done", "changed", "problems", "message")
    last_done = select(func.coalesce(func.max(table.pass_id), 0)).where(
        table.site_id == site_id, table.verb == verb, table.outcome == DONE
    )
    query = (
        select(*(table[name] for name in columns))
        .where(table.site_id == site_id, table.pass_id >= last_done.scalar_subquery())
        .order_by(table.pass_id.desc())
    )
    return [PassRecord(**dict(zip(columns, row, strict=True))) for row in connection.execute(query)]


def forget_messages(connection: Connection, site_id: int, name: str) -> None:
    """Empty the messages in which the name stands."""
    connection.execute(schema.passes.update().where(_naming(site_id, name)).values(message=""))


def messages_naming(connection: Connection, site_id: int, name: str) -> int:
    """How many messages the name stands in."""
    query = select(func.count()).where(_naming(site_id, name))
    return int(connection.execute(query).scalar_one())


def _naming(site_id: int, name: str) -> ColumnElement[bool]:
    table = schema.passes.c
    return and_(table.site_id == site_id, table.message.contains(name, autoescape=True))


def is_at_work(record: PassRecord, now: int) -> bool:
    """True for a pass that has not ended, and may yet do so."""
    return record.outcome == AT_WORK and now - record.began <= LONGEST_PASS

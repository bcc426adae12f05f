"""What users see of karma: ``last_karma`` and ``Karma=`` in the message of OAR 3's waiting jobs.

The one place, beside the command in the place of OAR's ``oaraccounting``, that writes to a table of
OAR's: two columns of waiting jobs, in one statement, and only where they are as they were read.
OAR 2 needs none of it: its schedulers write the karma that they were given.
"""

import re
from dataclasses import dataclass

import numpy as np
from sqlalchemy import BigInteger, Engine, Float, String, column, select, update, values

from oar_accounting.database import dialects
from oar_accounting.karma.report import KarmaReport
from oar_accounting.oar.checking import check_columns
from oar_accounting.oar.oar_tables import shown
from oar_accounting.oar.waiting_jobs import WAITING

#: Characters of a job's message, as OAR declares it.
LONGEST_MESSAGE = 255
#: As the schedulers of OAR 2 and OAR 3 write it behind a message.
_SAID = re.compile(r" ?\(Karma=[^()]*\)$")


@dataclass(frozen=True, slots=True, kw_only=True)
class ShownReport:
    """What was shown."""

    waiting: int  #: jobs that wait
    changed: int  #: of which so many show another karma than before


def show_karma(oar: Engine, report: KarmaReport, *, dry_run: bool = False) -> ShownReport:
    """Let every waiting job of *report* show its karma; with *dry_run* only count.

    Raises :class:`oar_accounting.OarSchemaError` where OAR has no ``last_karma``, and
    :class:`oar_accounting.DatabaseError`.
    """
    karma = dict(zip(report.job_id.tolist(), report.karma.tolist(), strict=True))
    table = shown.c
    waiting = select(table.job_id, table.message, table.last_karma).where(table.state == WAITING)
    with dialects.writing(oar) as connection:
        check_columns(connection, shown)
        rows = []
        for job, message, last in connection.execute(waiting.order_by(table.job_id)):
            if job in karma:
                new = message_with(message, karma[job])
                if new != message or not _is_the_same(last, karma[job]):
                    rows.append((job, message, new, karma[job]))
        if not rows or dry_run:
            return ShownReport(waiting=len(karma), changed=len(rows))
        said = values(
            column("job_id", BigInteger),
            column("was", String),
            column("message", String),
            column("karma", Float),
            name="said",
        ).data(rows)
        # A scheduler that has said something since has the last word.
        unchanged = (
            (table.job_id == said.c.job_id)
            & (table.state == WAITING)
            & (table.message == said.c.was)
        )
        done = connection.execute(
            update(shown).values(message=said.c.message, last_karma=said.c.karma).where(unchanged)
        )
        return ShownReport(waiting=len(karma), changed=done.rowcount)


def message_with(message: str, karma: float) -> str:
    """The *message* that ends with this karma, and with no other; as it was where it is too long.

    Three digits, as in OAR 2: OAR's ``oarstat`` takes 1.98e-05 for 1.98.
    """
    found = f"{_SAID.sub('', message)} (Karma={karma:.3f})".lstrip()
    return found if len(found) <= LONGEST_MESSAGE else message


def _is_the_same(last: float | None, karma: float) -> bool:
    """True where the column, of single precision, already has it."""
    with np.errstate(over="ignore"):
        return last is not None and np.float32(last) == np.float32(karma)

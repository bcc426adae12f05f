"""Problems that stand: what was found wrong and has not been found mended since.

They are written in the transaction of what they were found in.
"""

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

from sqlalchemy import ColumnElement, Connection, func, insert, select

from oar_accounting.core.columns import Ints, ints
from oar_accounting.core.problems import OF_JOB, Trouble, is_of_metric, what_helps
from oar_accounting.database.id_blocks import SPARSE_BLOCK, short_lists
from oar_accounting.ledger import schema
from oar_accounting.ledger.records import StandingProblem

_TABLE = schema.problems.c
#: Subject and code.
_Key = tuple[str, str]


def note_settled(
    connection: Connection,
    site_id: int,
    now: int,
    settled: Ints,
    found: Mapping[int, Sequence[Trouble]],
) -> None:
    """The jobs that were *settled* have the problems that were *found*, and no others.

    Problems of other jobs that were found are noted, and none of theirs goes. *now*: epoch seconds.
    """
    ids = set(settled.tolist())
    standing = _standing(connection, site_id, OF_JOB, ids | set(found))
    gone = {str(number) for number in ids}
    _write(connection, site_id, OF_JOB, now, standing, _messages(found), gone)


def note_filled(  # noqa: PLR0913 - one metric of some jobs
    connection: Connection,
    site_id: int,
    now: int,
    filled: Ints,
    found: Mapping[int, Sequence[Trouble]],
    metric: str,
) -> None:
    """The same of jobs that were filled in one metric: what is wrong with the rest stays."""
    ids = set(filled.tolist())
    standing = _standing(connection, site_id, OF_JOB, ids | set(found))
    wanted = _messages(found)
    for key, (message, _) in list(standing.items()):
        lines = message.split("\n")
        others = [line for line in lines if not is_of_metric(line, metric)]
        if others == lines and key not in wanted:
            del standing[key]
        elif others:
            known = wanted.get(key, "").split("\n")
            wanted[key] = "\n".join(dict.fromkeys([*others, *filter(None, known)]))
    _write(connection, site_id, OF_JOB, now, standing, wanted, {str(number) for number in ids})


def note_all(
    connection: Connection,
    site_id: int,
    kind: str,
    now: int,
    found: Mapping[int, Sequence[Trouble]],
) -> None:
    """All that has a problem of this kind was looked at, and these were found."""
    standing = _standing(connection, site_id, kind, None)
    gone = {subject for subject, _ in standing}
    _write(connection, site_id, kind, now, standing, _messages(found), gone)


def remove_of_jobs(connection: Connection, site_id: int, ids: Ints) -> int:
    """Forget the problems of these jobs; how many there were."""
    gone = _standing(connection, site_id, OF_JOB, set(ids.tolist()))
    _delete(connection, site_id, OF_JOB, gone)
    return len(gone)


def remove_of_codes(connection: Connection, site_id: int, codes: Collection[str]) -> int:
    """Forget the problems of jobs that have these codes; how many there were."""
    of_codes = (_TABLE.site_id == site_id, _TABLE.kind == OF_JOB, _TABLE.code.in_(codes))
    return connection.execute(schema.problems.delete().where(*of_codes)).rowcount


def standing_problems(
    connection: Connection, site_id: int, most: int | None = None
) -> list[StandingProblem]:
    """All problems that stand, or the first *most* of them: the oldest, resources before jobs."""
    columns = ("kind", "subject", "code", "message", "first_seen", "last_seen")
    query = (
        select(*(_TABLE[name] for name in columns))
        .where(_TABLE.site_id == site_id)
        .order_by(
            _TABLE.first_seen, _TABLE.kind.desc(), func.length(_TABLE.subject), _TABLE.subject
        )
        .order_by(_TABLE.code)
        .limit(most)
    )
    found = []
    for kind, subject, code, message, first_seen, last_seen in connection.execute(query):
        first, command = what_helps(kind, subject, code)
        found.append(
            StandingProblem(
                kind=kind,
                subject=subject,
                code=code,
                message=message.replace("\n", "; "),
                first_seen=first_seen,
                last_seen=last_seen,
                helps=first,
                command=command,
            )
        )
    return found


def count_problems(connection: Connection, site_id: int) -> int:
    """How many problems stand."""
    query = select(func.count()).where(_TABLE.site_id == site_id)
    return int(connection.execute(query).scalar_one())


def _messages(found: Mapping[int, Sequence[Trouble]]) -> dict[_Key, str]:
    """A text for each subject and code."""
    lines: dict[_Key, list[str]] = {}
    for number, troubles in found.items():
        for each in troubles:
            lines.setdefault((str(number), each.code.value), []).append(each.message)
    return {key: "\n".join(dict.fromkeys(some)) for key, some in lines.items()}


def _standing(
    connection: Connection, site_id: int, kind: str, ids: Collection[int] | None
) -> dict[_Key, tuple[str, int]]:
    """Message and first instant of what stands; of these ids only, unless that is None."""
    query = select(_TABLE.subject, _TABLE.code, _TABLE.message, _TABLE.first_seen).where(
        _TABLE.site_id == site_id, _TABLE.kind == kind
    )
    if ids is not None and not ids:
        return {}
    # There are few, as a rule: all of them are read sooner than many are looked up.
    if ids is not None and len(ids) <= SPARSE_BLOCK:
        query = query.where(_TABLE.subject.in_(list(map(str, ids))))
    wanted = None if ids is None else set(map(str, ids))
    return {
        (subject, code): (message, first_seen)
        for subject, code, message, first_seen in connection.execute(query)
        if wanted is None or subject in wanted
    }


def _write(  # noqa: PLR0913 - one change
    connection: Connection,
    site_id: int,
    kind: str,
    now: int,
    standing: Mapping[_Key, tuple[str, int]],
    wanted: Mapping[_Key, str],
    looked_at: Collection[str],
) -> None:
    """Of the subjects that were looked at what is wanted stands, and nothing else."""
    gone = [key for key in standing if key in wanted or key[0] in looked_at]
    _delete(connection, site_id, kind, gone)
    rows: list[dict[str, Any]] = [
        {
            "site_id": site_id,
            "kind": kind,
            "subject": subject,
            "code": code,
            "message": message,
            "first_seen": standing.get((subject, code), ("", now))[1],
            "last_seen": now,
        }
        for (subject, code), message in wanted.items()
    ]
    if rows:
        connection.execute(insert(schema.problems), rows)


def _delete(connection: Connection, site_id: int, kind: str, keys: Iterable[_Key]) -> None:
    by_code: dict[str, list[int]] = {}
    for subject, code in keys:
        by_code.setdefault(code, []).append(int(subject))
    for code, numbers in by_code.items():
        for some in short_lists(ints(numbers)):
            of_subjects: ColumnElement[bool] = _TABLE.subject.in_(list(map(str, some)))
            connection.execute(
                schema.problems.delete().where(
                    _TABLE.site_id == site_id, _TABLE.kind == kind, _TABLE.code == code, of_subjects
                )
            )

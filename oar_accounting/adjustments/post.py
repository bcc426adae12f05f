"""Posting adjustments: to an account, or against another adjustment."""

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import tzinfo

import numpy as np
from sqlalchemy import func, insert, literal, select

from oar_accounting.adjustments.input import check_known, check_span, whole_amount
from oar_accounting.adjustments.records import AdjustedAccount, AdjustmentReport
from oar_accounting.adjustments.stored import (
    NAMELESS_ACCOUNT,
    check_of_site,
    countered,
    lines_of,
    metrics_by_name,
)
from oar_accounting.core.columns import AccountAmounts, Columns, Ints, add_up, ints
from oar_accounting.database import bulk
from oar_accounting.errors import BadAdjustment, WriterBusy
from oar_accounting.ledger import schema
from oar_accounting.ledger.catalog import Names
from oar_accounting.ledger.ledger import Book
from oar_accounting.metrics.metric import Metric

#: The job of lines that are about no job; stored as NULL.
NO_JOB = schema.CARRIED

#: Asked and used by account and metric.
Sums = dict[tuple[Names, Metric], tuple[int, int]]


@dataclass(frozen=True, slots=True)
class Lines(Columns):
    """Lines of an adjustment; their amounts lie evenly over ``[start_time, stop_time)``."""

    job_id: Ints
    account_id: Ints
    metric_id: Ints
    start_time: Ints
    stop_time: Ints
    asked: Ints
    used: Ints


@dataclass(frozen=True, slots=True, kw_only=True)
class Note:
    """When an adjustment is posted, in epoch seconds, by whom and why."""

    posted: int
    author: str
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Amount:
    """What is to be posted to one account, evenly over ``[start, stop)``, in epoch seconds.

    Amounts are as `whole_amount` reads them.
    """

    names: Names
    metric: str
    start: int
    stop: int
    asked: int | str
    used: int | str


class Posting:
    """An adjustment in the making. Without a note nothing is written, only added up."""

    def __init__(self, book: Book, metrics: Mapping[int, Metric], note: Note | None) -> None:
        """*metrics*: those of its lines, by id."""
        self._book = book
        self._metrics = metrics
        self._note = note
        self._number: int | None = None
        self._sums = AccountAmounts.concat([])
        self._jobs = 0
        self._lines = 0

    def add(self, lines: Lines) -> None:
        """Post lines; all those of a job come at once."""
        if not len(lines):
            return
        if self._note is not None:
            self._write(self._note, lines)
        self._lines += len(lines)
        self._jobs += len(np.setdiff1d(lines.job_id, ints([NO_JOB])))
        sums = AccountAmounts(lines.account_id, lines.metric_id, lines.asked, lines.used)
        self._sums = add_up(AccountAmounts.concat([self._sums, sums]))

    def _write(self, note: Note, lines: Lines) -> None:
        if self._number is None:
            self._number = _add_header(self._book, note)
        columns = lines.as_dict()
        metrics = [self._metrics[number].name for number in columns.pop("metric_id").tolist()]
        jobs = [None if job == NO_JOB else job for job in columns.pop("job_id").tolist()]
        keys = {
            "adjustment_id": np.full(len(lines), self._number),
            "line": self._lines + 1 + np.arange(len(lines)),
        }
        bulk.insert_columns(
            self._book.connection,
            schema.adjusted,
            {**keys, "metric": metrics, "job_id": jobs, **columns},
        )

    def report(
        self, notices: Iterable[str] = (), new: Mapping[int, Names] | None = None
    ) -> AdjustmentReport:
        """What was posted, or would be; *new*: accounts that are not recorded, by id."""
        names = {**(new or {}), **self._book.accounts.names()}
        sums = {
            (names.get(account_id, NAMELESS_ACCOUNT), self._metrics[metric_id]): (asked, used)
            for account_id, metric_id, asked, used in zip(
                *(column.tolist() for column in self._sums.as_dict().values()), strict=True
            )
        }
        return AdjustmentReport(
            adjustment_id=self._number,
            jobs=self._jobs,
            lines=self._lines,
            rows=_rows(sums),
            notices=tuple(notices),
        )


def _rows(sums: Sums) -> tuple[AdjustedAccount, ...]:
    """The sums, those of all values of the dimension property together."""
    found: defaultdict[tuple[str, str, str, str], list[int]] = defaultdict(lambda: [0, 0])
    metrics = {metric.name: metric for _, metric in sums}
    for (names, metric), (asked, used) in sums.items():
        amounts = found[(*names[:3], metric.name)]
        amounts[0] += asked
        amounts[1] += used
    return tuple(
        AdjustedAccount(
            user=user,
            project=project,
            queue=queue,
            metric=name,
            unit=metrics[name].unit,
            scale=metrics[name].scale,
            asked=asked,
            used=used,
        )
        for (user, project, queue, name), (asked, used) in sorted(found.items())
    )


def _add_header(book: Book, note: Note, counters: int | None = None) -> int:
    added = book.connection.execute(
        insert(schema.adjustments).values(
            site_id=book.site.site_id,
            posted=note.posted,
            author=note.author,
            reason=note.reason,
            counters=counters,
        )
    ).inserted_primary_key
    assert added is not None
    return int(added[0])


def metrics_to_adjust(book: Book, names: Iterable[str] | None) -> dict[int, Metric]:
    """The metrics of these names by id, or all that are shown.

    Raises :class:`UnknownName`, and :class:`WriterBusy` while one of them is built in another unit.
    """
    stored = book.metrics()
    known = {each.metric.name: each for each in stored if each.state == schema.ACTIVE}
    wanted = list(known if names is None else names)
    for name in wanted:
        check_known("metric", name, known)
    for each in (stored.metric for stored in stored if stored.state == schema.BUILDING):
        now = known[each.name].metric if each.name in wanted else each
        if (now.unit, now.scale) != (each.unit, each.scale):
            raise WriterBusy(
                f"metric {each.name} is being built in another unit; finish it first: "
                f"oar-accounting rebuild --metric {each.name}"
            )
    return {known[name].metric_id: known[name].metric for name in wanted}


def adjust_account(book: Book, given: Amount, note: Note | None, tz: tzinfo) -> AdjustmentReport:
    """Post an amount to an account; without a *note* nothing is written.

    Each of the account's names must be recorded; together they may be new. *tz*: whose clocks tell
    a time in an error. Raises :class:`UnknownName`, :class:`BadSpan`, :class:`BadAdjustment` and
    :class:`WriterBusy`.
    """
    _check_names(book, given.names)
    ((metric_id, metric),) = metrics_to_adjust(book, (given.metric,)).items()
    check_span(given.start, given.stop, tz)
    asked, used = whole_amount(given.asked, metric), whole_amount(given.used, metric)
    if not asked and not used:
        raise BadAdjustment("an adjustment by 0 says nothing: another amount was expected")
    if note is not None:
        book.accounts.add(book.connection, [given.names])
    (account_id,) = book.accounts.ids([given.names])
    posting = Posting(book, {metric_id: metric}, note)
    line = (NO_JOB, account_id, metric_id, given.start, given.stop, asked, used)
    posting.add(Lines.of(ints([value]) for value in line))
    return posting.report(new={account_id: given.names})


def _check_names(book: Book, names: Names) -> None:
    recorded = list(zip(*book.accounts.names().values(), strict=True)) or [()] * len(names)
    kinds = ("user", "project", "queue", book.site.terms.dimension or "property value")
    for kind, name, known in zip(kinds, names, recorded, strict=True):
        check_known(kind, name, set(known))


def counter(book: Book, number: int, note: Note | None) -> AdjustmentReport:
    """Post what an adjustment posted, with the opposite sign; without a *note* write nothing.

    Raises :class:`UnknownName` where the site has no such adjustment, and :class:`BadAdjustment`
    where it is countered already.
    """
    connection, site_id = book.connection, book.site.site_id
    check_of_site(connection, book.site, number)
    for by, of in countered(connection, site_id).items():
        if of == number:
            raise BadAdjustment(
                f"adjustment {number} is countered already, by adjustment {by}; its amounts are "
                f"posted again by: oar-accounting adjust --counter {by} --reason ..."
            )
    line = schema.adjusted.c
    counts = select(func.count(), func.count(line.job_id.distinct())).where(lines_of(number))
    lines, jobs = connection.execute(counts).one()
    sums = _opposite(book, number)
    added = None
    if note is not None:
        added = _add_header(book, note, counters=number)
        opposite = {"adjustment_id": literal(added), "asked": -line.asked, "used": -line.used}
        columns = {each.name: opposite.get(each.name, each) for each in line}
        copied = select(*columns.values()).where(lines_of(number))
        connection.execute(insert(schema.adjusted).from_select(list(columns), copied))
    return AdjustmentReport(
        adjustment_id=added, jobs=jobs, lines=lines, rows=_rows(sums), notices=()
    )


def _opposite(book: Book, number: int) -> Sums:
    """The sums of an adjustment with the opposite sign."""
    line = schema.adjusted.c
    asked, used = (bulk.exact_sum(book.connection, column) for column in (line.asked, line.used))
    query = (
        select(line.account_id, line.metric, *asked, *used)
        .where(lines_of(number))
        .group_by(line.account_id, line.metric)
    )
    names = book.accounts.names()
    metrics = metrics_by_name(book.connection, book.site.site_id)
    return {
        (names.get(account_id, NAMELESS_ACCOUNT), metrics[name]): (
            -bulk.whole_sum(parts[: len(asked)]),
            -bulk.whole_sum(parts[len(asked) :]),
        )
        for account_id, name, *parts in book.connection.execute(query)
    }

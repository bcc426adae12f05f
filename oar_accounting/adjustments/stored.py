"""Adjustments as they stand: signed amounts that were posted by hand.

They lie beside the totals and are no part of the law: whatever is recomputed leaves them alone.
None is ever edited or deleted. One is countered by another that has its amounts with the opposite
sign, once; whoever counters that one posts them again.
"""

import re
from collections import defaultdict
from collections.abc import Mapping

import numpy as np
from sqlalchemy import ColumnElement, Connection, func, select

from oar_accounting.adjustments.records import AdjustedMetric, Adjustment, AdjustmentLine
from oar_accounting.core import formats
from oar_accounting.core.columns import Ints
from oar_accounting.database import bulk
from oar_accounting.database.id_blocks import short_lists
from oar_accounting.errors import Adjusted, UnknownName
from oar_accounting.ledger import catalog, schema
from oar_accounting.ledger.catalog import Site, account_names
from oar_accounting.metrics.metric import Metric

#: Shown for an account that somebody has deleted by hand.
NAMELESS_ACCOUNT = ("?", "?", "?", "?")


def read_all(connection: Connection, site_id: int) -> list[Adjustment]:
    """The adjustments of the site, in the order they were posted."""
    header = schema.adjustments.c
    query = select(header.adjustment_id, header.posted, header.author, header.reason)
    counters = countered(connection, site_id)
    countered_by = {number: by for by, number in counters.items()}
    counts = _counts(connection, site_id)
    amounts = _amounts(connection, site_id)
    found = connection.execute(
        query.where(header.site_id == site_id).order_by(header.adjustment_id)
    )
    return [
        Adjustment(
            adjustment_id=number,
            posted=posted,
            author=author,
            reason=reason,
            counters=counters.get(number),
            countered_by=countered_by.get(number),
            lines=counts[number][0],
            jobs=counts[number][1],
            amounts=tuple(amounts[number]),
        )
        for number, posted, author, reason in found
    ]


def read_lines(connection: Connection, site: Site, number: int) -> list[AdjustmentLine]:
    """The lines of an adjustment of the site, in order. Raises :class:`UnknownName`."""
    check_of_site(connection, site, number)
    names = account_names(connection, site.site_id)
    metrics = metrics_by_name(connection, site.site_id)
    query = select(schema.adjusted).where(lines_of(number)).order_by(schema.adjusted.c.line)
    lines = []
    for row in connection.execute(query):
        user, project, queue, value = names.get(row.account_id, NAMELESS_ACCOUNT)
        lines.append(
            AdjustmentLine(
                line=row.line,
                job_id=row.job_id,
                user=user,
                project=project,
                queue=queue,
                property=value,
                metric=row.metric,
                unit=metrics[row.metric].unit,
                scale=metrics[row.metric].scale,
                start=row.start_time,
                stop=row.stop_time,
                asked=row.asked,
                used=row.used,
            )
        )
    return lines


def check_of_site(connection: Connection, site: Site, number: int) -> None:
    """Raise :class:`UnknownName` unless the adjustment is one of the site."""
    header, sites = schema.adjustments.c, schema.sites.c
    query = select(sites.name).join(schema.adjustments, header.site_id == sites.site_id)
    owner = connection.execute(query.where(header.adjustment_id == number)).scalar()
    if owner is None:
        raise UnknownName(
            f"there is no adjustment {number}; those there are: oar-accounting adjustments"
        )
    if owner != site.name:
        raise UnknownName(f"adjustment {number} is of site {owner!r}, not of {site.name!r}")


def metrics_by_name(connection: Connection, site_id: int) -> dict[str, Metric]:
    """The metrics that are shown; all that was ever adjusted are among them."""
    stored = catalog.stored_metrics(connection, site_id)
    return {each.metric.name: each.metric for each in stored if each.state == schema.ACTIVE}


def lines_of(number: int) -> ColumnElement[bool]:
    """The condition on the lines of an adjustment."""
    return schema.adjusted.c.adjustment_id == number


def of_site(site_id: int) -> ColumnElement[bool]:
    """The condition on the lines of all adjustments of a site."""
    header = schema.adjustments.c
    numbers = select(header.adjustment_id).where(header.site_id == site_id)
    return schema.adjusted.c.adjustment_id.in_(numbers)


def countered(connection: Connection, site_id: int) -> dict[int, int]:
    """The adjustments that counter others, and which."""
    header = schema.adjustments.c
    query = select(header.adjustment_id, header.counters).where(
        header.site_id == site_id, header.counters.is_not(None)
    )
    return {row[0]: row[1] for row in connection.execute(query)}


def in_force(connection: Connection, site_id: int) -> set[int]:
    """The adjustments whose amounts are in effect, those among them that post others' again.

    Of a chain in which each counters the one before, that is the last one or none.
    """
    header = schema.adjustments.c
    query = select(header.adjustment_id).where(header.site_id == site_id)
    counters = countered(connection, site_id)
    return {
        number
        for number in set(connection.execute(query).scalars()) - set(counters.values())
        if _depth(counters, number) % 2 == 0
    }


def _depth(counters: Mapping[int, int], number: int) -> int:
    depth = 0
    while number in counters:
        number = counters[number]
        depth += 1
    return depth


def _counts(connection: Connection, site_id: int) -> dict[int, tuple[int, int]]:
    """How many lines every adjustment has, and about how many jobs."""
    line = schema.adjusted.c
    query = (
        select(line.adjustment_id, func.count(), func.count(line.job_id.distinct()))
        .where(of_site(site_id))
        .group_by(line.adjustment_id)
    )
    return {number: (lines, jobs) for number, lines, jobs in connection.execute(query)}


def _amounts(connection: Connection, site_id: int) -> dict[int, list[AdjustedMetric]]:
    """The sums of every adjustment by metric, sorted by their names."""
    line = schema.adjusted.c
    asked, used = (bulk.exact_sum(connection, column) for column in (line.asked, line.used))
    query = (
        select(line.adjustment_id, line.metric, *asked, *used)
        .where(of_site(site_id))
        .group_by(line.adjustment_id, line.metric)
        .order_by(line.adjustment_id, line.metric)
    )
    metrics = metrics_by_name(connection, site_id)
    found: defaultdict[int, list[AdjustedMetric]] = defaultdict(list)
    for number, name, *parts in connection.execute(query):
        found[number].append(
            AdjustedMetric(
                metric=name,
                unit=metrics[name].unit,
                scale=metrics[name].scale,
                asked=bulk.whole_sum(parts[: len(asked)]),
                used=bulk.whole_sum(parts[len(asked) :]),
            )
        )
    return found


# -- what other verbs must leave right ----------------------------------------------------------


def check_unit(connection: Connection, site_id: int, before: Metric, metric: Metric) -> None:
    """Raise :class:`Adjusted` where amounts of *before* were posted that *metric* would misread."""
    if (before.unit, before.scale) == (metric.unit, metric.scale):
        return
    of_metric = schema.adjusted.c.metric == before.name
    query = select(func.min(schema.adjusted.c.adjustment_id)).where(of_site(site_id), of_metric)
    first = connection.execute(query).scalar()
    if first is not None:
        raise Adjusted(
            f"metric {before.name} is adjusted in {formats.exact_unit(before.unit, before.scale)} "
            f"since adjustment {first}, and is declared in "
            f"{formats.exact_unit(metric.unit, metric.scale)} now: declare the new one under "
            "another name"
        )


def follow(connection: Connection, site_id: int, ids: Ints, base: int) -> None:
    """Let the lines about retired jobs follow them, from id *i* to *base* - *i*."""
    line = schema.adjusted.c
    query = select(line.job_id).where(of_site(site_id), line.job_id.is_not(None)).distinct()
    adjusted = np.intersect1d(bulk.read_ints(connection, query)[0], ids)
    for some in short_lists(adjusted):
        connection.execute(
            schema.adjusted.update()
            .where(of_site(site_id), line.job_id.in_(some))
            .values(job_id=base - line.job_id)
        )


def lines_about(connection: Connection, site_id: int, ids: Ints) -> int:
    """How many lines are about one of these jobs."""
    line = schema.adjusted.c
    count = 0
    for some in short_lists(ids):
        query = select(func.count()).where(of_site(site_id), line.job_id.in_(some))
        count += int(connection.execute(query).scalar_one())
    return count


def authors(connection: Connection, site_id: int) -> set[str]:
    """Who posted adjustments."""
    header = schema.adjustments.c
    return set(connection.execute(select(header.author).where(header.site_id == site_id)).scalars())


def forget_name(connection: Connection, site_id: int, name: str, pseudonym: str) -> None:
    """Put a pseudonym in the place of an author, and of the name where a reason has it as a word.

    All else of them stays as it was posted.
    """
    header = schema.adjustments.c
    for number, author, reason in adjustments_naming(connection, site_id, name, pseudonym):
        connection.execute(
            schema.adjustments.update()
            .where(header.adjustment_id == number)
            .values(author=author, reason=reason)
        )


def adjustments_naming(
    connection: Connection, site_id: int, name: str, pseudonym: str
) -> list[tuple[int, str, str]]:
    """The adjustments that have the name, with author and reason as the pseudonym has them."""
    header, word = schema.adjustments.c, _word(name)
    query = select(header.adjustment_id, header.author, header.reason)
    found = []
    for number, author, reason in connection.execute(query.where(header.site_id == site_id)):
        new = (
            pseudonym if author == name else author,
            word.sub(pseudonym, reason) if name.strip() else reason,
        )
        if new != (author, reason):
            found.append((number, *new))
    return found


def _word(name: str) -> re.Pattern[str]:
    """The name where no letter, digit or _ goes on with it."""
    before = r"(?<!\w)" if re.match(r"\w", name) else ""
    behind = r"(?!\w)" if re.search(r"\w\Z", name) else ""
    return re.compile(before + re.escape(name) + behind)

"""How many figures of jobs are otherwise than they were: a figure is a job's amount in one metric.

It is another one where when the job asked or used, for whom, or how much each second has changed.
What a waiting job asks for, without a span of time, is no amount yet.
"""

from dataclasses import dataclass
from typing import TypeVar

import numpy as np

from oar_accounting.core.columns import Columns, Ints, Rates, Spans, ints, numbered_rows, rows_among

T = TypeVar("T", bound=Columns)


@dataclass(frozen=True, slots=True)
class _Figures(Columns):
    """Jobs and metrics, as pairs."""

    job_id: Ints
    metric_id: Ints


def changed_figures(before: tuple[Spans, Rates], after: tuple[Spans, Rates], jobs: Ints) -> int:
    """How many figures of the *jobs* are otherwise *after* than *before*."""
    spans = [each[0].take(np.isin(each[0].job_id, jobs)) for each in (before, after)]
    rates = [
        each[1].take(np.isin(each[1].job_id, timed.job_id))
        for each, timed in zip((before, after), spans, strict=True)
    ]
    moved = np.union1d(*(one.job_id for one in _not_in_both(*spans)))
    pairs = [_Figures(one.job_id, one.metric_id) for one in _not_in_both(*rates)]
    pairs += [
        _Figures(each.job_id, each.metric_id).take(np.isin(each.job_id, moved)) for each in rates
    ]
    found = _Figures.concat(pairs)
    return len(numbered_rows([found.job_id, found.metric_id])[1])


def _not_in_both(one: T, other: T) -> tuple[T, T]:
    """The rows of each that the other has not."""
    columns = [[ints(column) for column in each.as_dict().values()] for each in (one, other)]
    if not len(one) or not len(other):
        return one, other
    return (
        one.take(~rows_among(columns[0], columns[1])),
        other.take(~rows_among(columns[1], columns[0])),
    )

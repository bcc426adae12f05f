"""What a formula gives, for all parts of jobs at once, exactly. Pure arithmetic.

Every size is in bytes here and every other unit as it is: where units agree, which
`oar_accounting.metrics.formulas.check` checks, numbers alone will do.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from oar_accounting.core import exact
from oar_accounting.core.columns import Bools, Ints
from oar_accounting.core.exact import Exact
from oar_accounting.metrics.formulas.tree import (
    Among,
    And,
    Call,
    Comparison,
    Condition,
    Expression,
    If,
    MetricUse,
    Negative,
    Not,
    Number,
    Or,
    Product,
    Sum,
)
from oar_accounting.metrics.formulas.units import factor

_FUNCTIONS: Mapping[str, Callable[[Sequence[Exact]], Exact]] = {
    "max": exact.largest,
    "min": exact.smallest,
    "ceil": lambda columns: exact.ceil(columns[0]),
    "floor": lambda columns: exact.floor(columns[0]),
}

_COMPARISONS: Mapping[str, Callable[[Any, Any], Any]] = {
    "<": np.less,
    "<=": np.less_equal,
    ">": np.greater,
    ">=": np.greater_equal,
    "=": np.equal,
    "!=": np.not_equal,
}


@dataclass(frozen=True, slots=True)
class Fact:
    """Something known of every part: the number of its value, and the values by number.

    The value of ``type`` is all types of the job; of ``queue`` and ``cluster`` just one text.
    """

    number: Ints
    values: Sequence[Sequence[str]]

    def among(self, texts: Sequence[str]) -> Bools:
        """The parts one of whose values is among the *texts*."""
        wanted = set(texts)
        return np.array([not wanted.isdisjoint(some) for some in self.values], np.bool_)[
            self.number
        ]


Facts = Mapping[str, Fact]


def evaluate(formula: Expression, used: Mapping[str, Exact], facts: Facts) -> Exact:
    """The formula per part; *used* is what the parts hold of each metric in base units.

    A column of one element where the formula gives every part the same.
    """
    match formula:
        case Number(value, unit):
            return exact.constant(value * factor(unit))
        case MetricUse(metric):
            return used[metric]
        case Negative(of):
            return exact.negative(evaluate(of, used, facts))
        case Sum(terms):
            return exact.total([evaluate(term, used, facts) for term in terms])
        case Product(factors, divisors):
            found = exact.product([evaluate(each, used, facts) for each in factors])
            for each in divisors:
                found = exact.times(found, 1 / constant_value(each))
            return found
        case Call(function, arguments):
            return _FUNCTIONS[function]([evaluate(each, used, facts) for each in arguments])
        case If(cases, otherwise):
            found = evaluate(otherwise, used, facts)
            for condition, each in reversed(cases):
                where = holds(condition, used, facts)
                found = exact.chosen(where, evaluate(each, used, facts), found)
            return found


def holds(condition: Condition, used: Mapping[str, Exact], facts: Facts) -> Bools:
    """The parts for which the condition is true."""
    match condition:
        case Comparison(operator, left, right):
            sides = [evaluate(each, used, facts) for each in (left, right)]
            numbers, _ = exact.aligned(sides)
            return np.asarray(_COMPARISONS[operator](*numbers), np.bool_)
        case Among(fact, texts):
            return facts[fact].among(texts)
        case Not(of):
            return ~holds(of, used, facts)
        case And(terms):
            return _all([holds(each, used, facts) for each in terms])
        case Or(terms):
            return ~_all([~holds(each, used, facts) for each in terms])


def constant_value(formula: Expression) -> Any:
    """The value, in base units, of a formula without metrics and conditions."""
    return evaluate(formula, {}, {}).values()[0]


def _all(some: Sequence[Bools]) -> Bools:
    result = some[0]
    for each in some[1:]:
        result = result & each
    return result

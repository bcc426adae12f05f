"""Whether a formula means something: its metrics are there, its units agree, nothing is divided
by zero. Every mistake is a `SettingsError` with line and column.

Only quantities of one dimension are added, compared or chosen from; a zero without a unit is a
zero of any.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches

from oar_accounting.metrics.formulas import units
from oar_accounting.metrics.formulas.evaluate import constant_value
from oar_accounting.metrics.formulas.parser import FormulaText
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
    parts_of,
)
from oar_accounting.metrics.formulas.units import BYTES, NUMBER, Unit, dimension, shown

#: The unit of a literal zero, which is a zero of every unit.
ANY = None


@dataclass(frozen=True, slots=True)
class Scope:
    """What a formula may speak of."""

    metrics: Mapping[str, Unit]  #: the unit of each, per second
    units: Collection[str] | None = None  #: beside the sizes; None: every name

    def check(self, source: FormulaText, formula: Expression, unit: Unit) -> None:
        """Raise :class:`SettingsError` where the formula does not give the *unit*."""
        found = _Check(source, self).unit(formula)
        if found is not ANY and dimension(found) != dimension(unit):
            raise source.wrong(
                formula.at, f"it gives {_said(found)}; the metric is in {_said(unit)} per second"
            )


@dataclass(frozen=True, slots=True)
class _Check:
    source: FormulaText
    scope: Scope

    def unit(self, formula: Expression) -> Unit | None:
        """The unit as the formula writes it."""
        match formula:
            case Number(value, unit):
                return self._number(formula.at, unit) if value or unit else ANY
            case MetricUse(metric):
                return self._metric(formula.at, metric)
            case Negative(of):
                return self.unit(of)
            case Sum(terms):
                return self._alike(terms, "added to")
            case Product(factors, divisors):
                return self._product(factors, divisors)
            case Call(("max" | "min") as function, arguments):
                return self._alike(arguments, f"within one {function} with")
            case Call(function, arguments):
                return self._rounded(function, arguments[0])
            case If(cases, otherwise):
                for condition, _ in cases:
                    self.condition(condition)
                return self._alike([*(each for _, each in cases), otherwise], "an alternative to")

    def condition(self, condition: Condition) -> None:
        """Check the units of what is compared."""
        match condition:
            case Comparison(_, left, right):
                self._alike([left, right], "compared with")
            case Among():
                pass
            case Not(of):
                self.condition(of)
            case And(terms) | Or(terms):
                for each in terms:
                    self.condition(each)

    def _number(self, at: int, unit: Unit) -> Unit:
        known = self.scope.units
        for name, _ in unit:
            if known is not None and name not in BYTES and name not in known:
                raise self.source.wrong(
                    at,
                    f"unknown unit {name!r}{_meant(name, [*BYTES, *known])}; known are "
                    f"{', '.join([*BYTES, *sorted(set(known).difference(BYTES))])}",
                )
        return unit

    def _metric(self, at: int, name: str) -> Unit:
        known = self.scope.metrics
        if name not in known:
            raise self.source.wrong(
                at,
                f"there is no metric {name!r}{_meant(name, known)}; declared are "
                f"{', '.join(known)}",
            )
        return known[name]

    def _alike(self, formulas: Sequence[Expression], how: str) -> Unit | None:
        """The unit of all of them."""
        unit = ANY
        for each in formulas:
            found = self.unit(each)
            if unit is ANY:
                unit = found
            elif found is not ANY and dimension(found) != dimension(unit):
                raise self.source.wrong(each.at, f"{_said(found)} cannot be {how} {_said(unit)}")
        return unit

    def _product(self, factors: Sequence[Expression], divisors: Sequence[Expression]) -> Unit:
        unit = NUMBER
        for each in factors:
            unit = units.product(unit, self.unit(each) or NUMBER)
        for each in divisors:
            unit = units.product(unit, self._divisor(each), -1)
        return unit

    def _divisor(self, divisor: Expression) -> Unit:
        for each in parts_of(divisor):
            if isinstance(each, MetricUse):
                raise self.source.wrong(
                    each.at,
                    f"nothing can be divided by the metric {each.metric!r}: a job may hold none "
                    "of it",
                )
            if isinstance(each, If):
                raise self.source.wrong(
                    each.at, "a divisor is the same for all jobs: put the division within the 'if'"
                )
        unit = self.unit(divisor)
        if not constant_value(divisor):
            raise self.source.wrong(divisor.at, "division by zero")
        return unit or NUMBER

    def _rounded(self, function: str, argument: Expression) -> Unit | None:
        unit = self.unit(argument)
        if unit and dimension(unit):
            raise self.source.wrong(
                argument.at,
                f"{function} needs a number without a unit, found {_said(unit)}: "
                f"{function}(... / 1 [{shown(unit)}]) * 1 [{shown(unit)}] gives whole ones",
            )
        return unit


def _said(unit: Unit) -> str:
    return shown(unit) if unit else "a number without a unit"


def _meant(name: str, known: Collection[str]) -> str:
    """A question after the name that is closest, if one is close."""
    close = get_close_matches(name, known, 1)
    return f" (did you mean {close[0]}?)" if close else ""

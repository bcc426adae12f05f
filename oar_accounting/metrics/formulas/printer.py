"""From tree to text: ``read(written(tree))`` is the same tree."""

from fractions import Fraction

from oar_accounting.metrics.formulas.tree import (
    Among,
    And,
    Call,
    Comparison,
    Expression,
    If,
    MetricUse,
    Negative,
    Not,
    Number,
    Or,
    Part,
    Product,
    Sum,
)
from oar_accounting.metrics.formulas.units import shown

#: How tightly the parts of each kind hold together; what holds less stands in parentheses.
_LOOSE, _OR, _AND, _NOT, _COMPARISON, _SUM, _PRODUCT, _FACTOR, _ATOM = range(9)


def written(node: Part) -> str:
    """The formula in one line, in a form that is the same for all ways to write it.

    It is nested no deeper than any of them.
    """
    return _written(node)[0]


def _within(node: Part, least: int) -> str:
    text, tightness = _written(node)
    return text if tightness >= least else f"({text})"


def _written(node: Part) -> tuple[str, int]:
    match node:
        case Number(value, unit):
            return _decimal(value) + (f" [{shown(unit)}]" if unit else ""), _ATOM
        case MetricUse(metric):
            return metric, _ATOM
        case Call(function, arguments):
            inner = (_within(each, _LOOSE) for each in arguments)
            return f"{function}({', '.join(inner)})", _ATOM
        case Negative(of):
            return f"-{_within(of, _FACTOR)}", _FACTOR
        case Product(factors, divisors):
            text = " * ".join(_within(each, _FACTOR) for each in factors)
            return text + "".join(f" / {_within(each, _FACTOR)}" for each in divisors), _PRODUCT
        case Sum(terms):
            first, *others = terms
            return _within(first, _PRODUCT) + "".join(map(_signed, others)), _SUM
        case If(cases, otherwise):
            some = (f"if {_within(c, _OR)} then {_within(e, _LOOSE)} else " for c, e in cases)
            return "".join(some) + _within(otherwise, _OR), _LOOSE
        case Comparison(operator, left, right):
            return f"{_within(left, _SUM)} {operator} {_within(right, _SUM)}", _COMPARISON
        case Among(fact, texts):
            return f"{fact} {_some_of(texts, '=', 'in')}", _COMPARISON
        case Not(Among(fact, texts)):
            return f"{fact} {_some_of(texts, '!=', 'not in')}", _COMPARISON
        case Not(of):
            return f"not {_within(of, _NOT)}", _NOT
        case And(terms):
            return " and ".join(_within(each, _NOT) for each in terms), _AND
        case Or(terms):
            return " or ".join(_within(each, _AND) for each in terms), _OR


def _signed(term: Expression) -> str:
    if isinstance(term, Negative):
        return f" - {_within(term.of, _PRODUCT)}"
    return f" + {_within(term, _PRODUCT)}"


def _some_of(texts: tuple[str, ...], one: str, several: str) -> str:
    first, *others = (f'"{text.replace(chr(34), chr(34) * 2)}"' for text in texts)
    return f"{several} ({', '.join([first, *others])})" if others else f"{one} {first}"


def _decimal(value: Fraction) -> str:
    """The digits of a number that has finitely many."""
    places = 0
    while (value * 10**places).denominator != 1:
        places += 1
    digits = str(int(value * 10**places)).rjust(places + 1, "0")
    return digits if not places else f"{digits[:-places]}.{digits[-places:]}"

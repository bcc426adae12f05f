"""What formulas are made of. Nothing of metrics and units is known but how they are written."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from fractions import Fraction

from oar_accounting.metrics.formulas.units import NUMBER, Unit

FUNCTIONS = ("max", "min", "ceil", "floor")
#: What is known of a job beside what it holds.
FACTS = ("queue", "cluster", "type")
COMPARISONS = ("<", "<=", ">", ">=", "=", "!=")


@dataclass(frozen=True, slots=True)
class Node:
    """Base of the parts of a formula; ``at`` is where in the text it begins."""

    at: int = field(default=0, compare=False, kw_only=True)


@dataclass(frozen=True, slots=True)
class Number(Node):
    """A decimal number from zero on, with its unit."""

    value: Fraction
    unit: Unit = NUMBER


@dataclass(frozen=True, slots=True)
class MetricUse(Node):
    """What a part of a job holds of a metric each second."""

    metric: str


@dataclass(frozen=True, slots=True)
class Negative(Node):
    """``-of``; a difference is a sum with one."""

    of: "Expression"


@dataclass(frozen=True, slots=True)
class Sum(Node):
    """``a + b - c``."""

    terms: tuple["Expression", ...]


@dataclass(frozen=True, slots=True)
class Product(Node):
    """``a * b / c``."""

    factors: tuple["Expression", ...]
    divisors: tuple["Expression", ...] = ()


@dataclass(frozen=True, slots=True)
class Call(Node):
    """``max(a, b)``."""

    function: str
    arguments: tuple["Expression", ...]


@dataclass(frozen=True, slots=True)
class If(Node):
    """``if a then b else if c then d else e``."""

    cases: tuple[tuple["Condition", "Expression"], ...]
    otherwise: "Expression"


@dataclass(frozen=True, slots=True)
class Comparison(Node):
    """``a < b``."""

    operator: str
    left: "Expression"
    right: "Expression"


@dataclass(frozen=True, slots=True)
class Among(Node):
    """``queue in ("a", "b")``; a job has one queue, a part one cluster, but any types."""

    fact: str
    texts: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Not(Node):
    """``not a``."""

    of: "Condition"


@dataclass(frozen=True, slots=True)
class And(Node):
    """``a and b``."""

    terms: tuple["Condition", ...]


@dataclass(frozen=True, slots=True)
class Or(Node):
    """``a or b``."""

    terms: tuple["Condition", ...]


Expression = Number | MetricUse | Negative | Sum | Product | Call | If
Condition = Comparison | Among | Not | And | Or
Part = Expression | Condition


def parts_of(node: "Expression | Condition") -> "Iterator[Expression | Condition]":
    """The formula and all that it is made of, in the order of the text."""
    yield node
    match node:
        case Negative(of) | Not(of):
            inner: tuple[Part, ...] = (of,)
        case Sum(several) | And(several) | Or(several) | Call(_, several):
            inner = several
        case Product(factors, divisors):
            inner = (*factors, *divisors)
        case If(cases, otherwise):
            inner = (*(each for case in cases for each in case), otherwise)
        case Comparison(_, left, right):
            inner = (left, right)
        case _:
            inner = ()
    for each in inner:
        yield from parts_of(each)

"""From text to tree, by recursive descent.

Everything is bounded, so that no text is slow to read or reaches the end of Python's stack.
"""

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
from typing import NoReturn

from oar_accounting.errors import SettingsError
from oar_accounting.metrics.formulas.tree import (
    COMPARISONS,
    FACTS,
    FUNCTIONS,
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
    Part,
    Product,
    Sum,
)
from oar_accounting.metrics.formulas.units import NUMBER, Unit, product, unit_of

LONGEST_FORMULA = 4_000  #: characters of a formula
#: Of one that was written here: with a blank on either side of every character it is no longer.
LONGEST_WRITTEN = 3 * LONGEST_FORMULA
DEEPEST_FORMULA = 32  #: parentheses, branches, arguments, ``not`` and ``-`` within each other
MOST_DIGITS = 18  #: before the point of a number, and behind it

WORDS = (*FUNCTIONS, *FACTS, "if", "then", "else", "and", "or", "not", "in")


@dataclass(frozen=True, slots=True)
class FormulaText:
    """The text of a formula, and where it stands, for messages."""

    text: str
    where: str

    def wrong(self, at: int, reason: str) -> SettingsError:
        """The error at the character *at*."""
        line = self.text.count("\n", 0, at) + 1
        column = at - (self.text.rfind("\n", 0, at) + 1) + 1
        return SettingsError(f"{self.where}: formula, line {line}, column {column}: {reason}")


def read(source: FormulaText, longest: int = LONGEST_FORMULA) -> Expression:
    """The formula. Raises :class:`SettingsError` with line and column."""
    if len(source.text) > longest:
        raise source.wrong(
            longest, f"it has {len(source.text)} characters; at most {longest} are read"
        )
    return _FormulaReader(source).formula()


# -- words ------------------------------------------------------------------------------------

_TOKEN = re.compile(
    r"""(?P<blank>[ \t\r\n]+|\#[^\n]*)
    |(?P<number>[0-9]+(?:\.[0-9]+)?)
    |(?P<name>[A-Za-z_][A-Za-z0-9_]*)
    |(?P<text>"(?:[^"\n]|"")*")
    |(?P<symbol><=|>=|!=|[-+*/(),<>=\[\]·])""",
    re.VERBOSE,
)


@dataclass(frozen=True, slots=True)
class _Token:
    kind: str
    text: str
    at: int

    @property
    def shown(self) -> str:
        """As messages say it."""
        if self.kind == "end":
            return "the end"
        return repr(self.text if len(self.text) <= 40 else f"{self.text[:40]}...")


def _tokens(source: FormulaText) -> Iterator[_Token]:
    at = 0
    while at < len(source.text):
        found = _TOKEN.match(source.text, at)
        if found is None:
            letter = source.text[at]
            if letter == '"':
                raise source.wrong(at, "a text that begins here does not end on its line")
            raise source.wrong(at, f"{letter!r} has no meaning in a formula")
        kind = str(found.lastgroup)
        if kind != "blank":
            yield _Token(kind, found[0], at)
        at = found.end()
    yield _Token("end", "", at)


# -- grammar ----------------------------------------------------------------------------------


class _FormulaReader:
    """Reads by recursive descent; each method reads what it is named after."""

    def __init__(self, source: FormulaText) -> None:
        self._source = source
        self._tokens = list(_tokens(source))
        self._next = 0
        self._depth = 0

    def formula(self) -> Expression:
        result = self._expression()
        if self._token.kind != "end":
            self._expected("an operator or the end")
        return result

    @property
    def _token(self) -> _Token:
        return self._tokens[self._next]

    def _expected(self, what: str) -> NoReturn:
        raise self._source.wrong(self._token.at, f"{what} was expected, found {self._token.shown}")

    def _take(self) -> _Token:
        token = self._token
        self._next += 1
        return token

    def _met(self, *texts: str) -> str:
        """Go past one of these words or symbols if it is there."""
        if self._token.kind in ("name", "symbol") and self._token.text in texts:
            return self._take().text
        return ""

    def _need(self, text: str) -> None:
        if not self._met(text):
            self._expected(repr(text))

    @contextmanager
    def _deeper(self) -> Iterator[None]:
        self._depth += 1
        if self._depth > DEEPEST_FORMULA:
            raise self._source.wrong(
                self._token.at,
                f"it is nested deeper than {DEEPEST_FORMULA} levels; declare a part as a metric",
            )
        yield
        self._depth -= 1

    def _expression(self) -> Expression:
        """One that is a number."""
        at = self._token.at
        return self._number_from(at, self._either())

    def _condition(self) -> Condition:
        at = self._token.at
        return self._condition_from(at, self._either())

    def _number_from(self, at: int, found: Part) -> Expression:
        if isinstance(found, Condition):
            raise self._source.wrong(at, "a number was expected, found a condition")
        return found

    def _condition_from(self, at: int, found: Part) -> Condition:
        if not isinstance(found, Condition):
            raise self._source.wrong(
                at, 'a condition, such as core > 8 or queue = "best", was expected, found a number'
            )
        return found

    def _either(self) -> Part:
        with self._deeper():
            if self._token.kind == "name" and self._token.text == "if":
                return self._if()
            return self._or()

    def _if(self) -> If:
        at = self._token.at
        cases = []
        while self._met("if"):
            condition = self._condition()
            self._need("then")
            cases.append((condition, self._expression()))
            self._need("else")
        return If(tuple(cases), self._expression(), at=at)

    def _or(self) -> Part:
        return self._joined("or", self._and, Or)

    def _and(self) -> Part:
        return self._joined("and", self._not, And)

    def _joined(self, word: str, part: Callable[[], Part], kind: type[And] | type[Or]) -> Part:
        at = self._token.at
        first = part()
        if not self._met(word):
            return first
        terms = [self._condition_from(at, first)]
        while True:
            start = self._token.at
            terms.append(self._condition_from(start, part()))
            if not self._met(word):
                return kind(tuple(terms), at=at)

    def _not(self) -> Part:
        at = self._token.at
        if not self._met("not"):
            return self._comparison()
        with self._deeper():
            start = self._token.at
            return Not(self._condition_from(start, self._not()), at=at)

    def _comparison(self) -> Part:
        at = self._token.at
        if fact := self._met(*FACTS):
            return self._among(fact, at)
        left = self._sum()
        operator = self._met(*COMPARISONS)
        if not operator:
            return left
        left = self._number_from(at, left)
        start = self._token.at
        right = self._number_from(start, self._sum())
        if self._token.kind == "symbol" and self._token.text in COMPARISONS:
            raise self._source.wrong(
                self._token.at, "a comparison has two sides; join comparisons with 'and'"
            )
        return Comparison(operator, left, right, at=at)

    def _among(self, fact: str, at: int) -> Condition:
        negated = self._met("not")
        if not negated and (sign := self._met("=", "!=")):
            found = Among(fact, (self._text(),), at=at)
            return found if sign == "=" else Not(found, at=at)
        if not self._met("in"):
            self._expected("'=', '!=', 'in' or 'not in'" if not negated else "'in'")
        self._need("(")
        texts = [self._text()]
        while self._met(","):
            texts.append(self._text())
        self._need(")")
        among = Among(fact, tuple(texts), at=at)
        return Not(among, at=at) if negated else among

    def _text(self) -> str:
        if self._token.kind != "text":
            self._expected('a text, such as "default",')
        return self._take().text[1:-1].replace('""', '"')

    def _sum(self) -> Part:
        at = self._token.at
        first = self._product()
        if not (sign := self._met("+", "-")):
            return first
        terms = [self._number_from(at, first)]
        while sign:
            start = self._token.at
            term = self._number_from(start, self._product())
            terms.append(Negative(term, at=start) if sign == "-" else term)
            sign = self._met("+", "-")
        return Sum(tuple(terms), at=at)

    def _product(self) -> Part:
        at = self._token.at
        first = self._factor()
        if not (sign := self._met("*", "/")):
            return first
        factors = [self._number_from(at, first)]
        divisors: list[Expression] = []
        while sign:
            start = self._token.at
            factor = self._number_from(start, self._factor())
            (divisors if sign == "/" else factors).append(factor)
            sign = self._met("*", "/")
        return Product(tuple(factors), tuple(divisors), at=at)

    def _factor(self) -> Part:
        at = self._token.at
        if not self._met("-"):
            return self._atom()
        with self._deeper():
            start = self._token.at
            return Negative(self._number_from(start, self._factor()), at=at)

    def _atom(self) -> Part:
        token = self._token
        if self._met("("):
            inner = self._either()
            self._need(")")
            return inner
        if function := self._met(*FUNCTIONS):
            return self._call(function, token.at)
        if token.kind == "number":
            return self._number(self._take())
        if token.kind == "name" and token.text not in WORDS:
            return MetricUse(self._take().text, at=token.at)
        if token.text == "if":
            raise self._source.wrong(token.at, "'if' within an expression stands in parentheses")
        if token.kind == "text":
            raise self._source.wrong(
                token.at, f"a text is compared with {', '.join(FACTS)} only, and stands behind it"
            )
        self._expected("a number, a metric, a function or '('")

    def _call(self, function: str, at: int) -> Call:
        self._need("(")
        arguments = [self._expression()]
        single = function in ("ceil", "floor")
        while not single and self._met(","):
            arguments.append(self._expression())
        if self._token.text == "," and single:
            self._expected(f"')' after the one argument of {function}")
        self._need(")")
        return Call(function, tuple(arguments), at=at)

    def _number(self, token: _Token) -> Number:
        behind = self._token
        if behind.kind == "name" and behind.at == token.at + len(token.text):
            raise self._source.wrong(
                behind.at,
                f"a number has no exponent and no suffix, found {behind.shown}; a unit stands in "
                "brackets: 2 [GiB]",
            )
        if max(map(len, token.text.split("."))) > MOST_DIGITS:
            raise self._source.wrong(
                token.at, f"a number has at most {MOST_DIGITS} digits before and behind the point"
            )
        unit = self._unit() if self._met("[") else NUMBER
        return Number(Fraction(token.text), unit, at=token.at)

    def _unit(self) -> Unit:
        unit = self._unit_name()
        while sign := self._met("*", "·", "/"):
            unit = product(unit, self._unit_name(), -1 if sign == "/" else 1)
        self._need("]")
        return unit

    def _unit_name(self) -> Unit:
        token = self._token
        if token.kind == "name":
            return unit_of(self._take().text)
        if token.text != "1":
            self._expected("a unit, such as GiB or 1/core,")
        self._take()
        return NUMBER

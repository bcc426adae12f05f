"""Perl's anonymous hashes of numbers, as ``oar.conf`` has them: ``{ first => 75, default => 25 }``.

They are read and never evaluated. What is read here, Perl reads alike; whatever else Perl would
make of a text (variables, sums, octal numbers ...) is refused.
"""

import math
import re

_BLANKS = re.compile(r"[ \t\r\n\f]*")
# With a line before the arrow, Perl takes some words for its own.
_WORD = re.compile(r"([A-Za-z_][A-Za-z0-9_]*)(?=[ \t]*=>)")
# Other numbers become other texts when Perl reads them: 010 is 8, and 1.50 is 1.5.
_PLAIN_KEY = re.compile(r"(0|[1-9][0-9]{0,14})(?![0-9.eE])")
_SINGLE = re.compile(r"'((?:[^'\\]|\\.)*)'", re.DOTALL)
_DOUBLE = re.compile(r'"([^"]*)"')
_LITERAL = re.compile(r"([+-]?)[ \t\r\n\f]*((?:0|[1-9][0-9]*)(?:\.[0-9]+)?(?:[eE][+-]?[0-9]+)?)")
_NUMBER = re.compile(
    r"[ \t\r\n\f]*[+-]?(?:[0-9]+(?:\.[0-9]*)?|\.[0-9]+)(?:[eE][+-]?[0-9]+)?[ \t\r\n\f]*"
)


class PerlError(ValueError):
    """A text that is not what it must be, with where and why."""


def number(text: str) -> float:
    """The number that Perl takes *text* for, where all of it is one.

    Raises :class:`PerlError`, also where it is too large for a float.
    """
    if _NUMBER.fullmatch(text) is None or not math.isfinite(value := float(text)):
        raise PerlError(f"a number is expected, not {text!r}")
    return value


def parse(text: str) -> dict[str, float]:
    """The names of a hash with their numbers; of a name that comes twice, the later.

    Raises :class:`PerlError`, which tells the column, from 1.
    """
    return _HashReader(text).read()


class _HashReader:
    def __init__(self, text: str) -> None:
        self._text = text
        self._at = 0

    def read(self) -> dict[str, float]:
        found = {}
        if not self._take("{"):
            raise self._wrong("a '{' is expected")
        while not self._take("}"):
            name = self._name()
            if not self._take("=>") and not self._take(","):
                raise self._wrong("a '=>' is expected after a name")
            found[name] = self._value()
            self._end_of_pair()
        self._skip()
        if self._at < len(self._text):
            raise self._wrong("nothing is expected after the '}'")
        return found

    def _name(self) -> str:
        plain = self._next(_WORD) or self._next(_PLAIN_KEY)
        if plain is not None:
            return plain[1]
        return self._quoted("a name and '=>' are expected, in quotes what is not a plain word")

    def _value(self) -> float:
        start = self._skip()
        literal = self._next(_LITERAL)
        said = self._quoted("a number is expected") if literal is None else literal[1] + literal[2]
        try:
            return number(said)
        except PerlError as error:
            self._at = start
            raise self._wrong(str(error)) from None

    def _end_of_pair(self) -> None:
        if self._take(","):
            while self._take(","):
                pass
        elif not self._text.startswith("}", self._skip()):
            raise self._wrong("a ',' or the '}' is expected")

    def _quoted(self, otherwise: str) -> str:
        if single := self._next(_SINGLE):
            return re.sub(r"\\([\\'])", r"\1", single[1])
        start = self._skip()
        double = self._next(_DOUBLE)
        if double is None:
            raise self._wrong(otherwise)
        if special := re.search(r"[\\$@]", double[1]):
            self._at = start + 1 + special.start()
            raise self._wrong(f"{special[0]!r} is special within double quotes; use single ones")
        return double[1]

    def _skip(self) -> int:
        """Go past blanks; where that leads."""
        if blanks := _BLANKS.match(self._text, self._at):
            self._at = blanks.end()
        return self._at

    def _next(self, pattern: re.Pattern[str]) -> re.Match[str] | None:
        found = pattern.match(self._text, self._skip())
        if found is not None:
            self._at = found.end()
        return found

    def _take(self, sign: str) -> bool:
        taken = self._text.startswith(sign, self._skip())
        self._at += len(sign) * taken
        return taken

    def _wrong(self, expected: str) -> PerlError:
        return PerlError(f"column {self._at + 1}: {expected}")

"""Exact numbers in columns: fractions with one step for a whole column, never a float.

The numbers are ``int64`` as long as 63 bits surely do, and Python's own integers beyond that, so
that nothing wraps and nothing is rounded before `rounded` is asked to. A column of one element
stands for the same number in every row.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import numpy as np
import numpy.typing as npt

from oar_accounting.core.columns import LARGEST, Bools, ints

Whole = npt.NDArray[Any]  # of int64, or of Python's integers


@dataclass(frozen=True, slots=True)
class Exact:
    """Row *i* is ``numbers[i] × step``; the step is above zero."""

    numbers: Whole
    step: Fraction = Fraction(1)

    def values(self) -> list[Fraction]:
        """The numbers one by one."""
        return [int(number) * self.step for number in self.numbers]


def constant(value: Fraction) -> Exact:
    """The same number in every row."""
    return times(Exact(ints([1])), value)


def times(column: Exact, factor: Fraction) -> Exact:
    """Every number times the *factor*."""
    if not factor:
        return Exact(column.numbers * 0)
    return Exact(_times(column.numbers, -1 if factor < 0 else 1), column.step * abs(factor))


def negative(column: Exact) -> Exact:
    """Every number with the other sign."""
    return times(column, Fraction(-1))


def aligned(columns: Sequence[Exact]) -> tuple[list[Whole], Fraction]:
    """The numbers of the columns in one step, which is the largest that can be, and that step."""
    denominator = math.lcm(*(column.step.denominator for column in columns))
    step = Fraction(math.gcd(*(int(column.step * denominator) for column in columns)), denominator)
    return [_times(column.numbers, int(column.step / step)) for column in columns], step


def total(columns: Sequence[Exact]) -> Exact:
    """Row by row the sum."""
    numbers, step = aligned(columns)
    if sum(map(_largest, numbers)) > LARGEST:
        numbers = [each.astype(object) for each in numbers]
    result = numbers[0]
    for each in numbers[1:]:
        result = result + each
    return Exact(result, step)


def product(columns: Sequence[Exact]) -> Exact:
    """Row by row the product."""
    numbers, step = columns[0].numbers, columns[0].step
    for column in columns[1:]:
        if _largest(numbers) * _largest(column.numbers) > LARGEST:
            numbers = numbers.astype(object)
        numbers, step = numbers * column.numbers, step * column.step
    return Exact(numbers, step)


def largest(columns: Sequence[Exact]) -> Exact:
    """Row by row the largest."""
    numbers, step = aligned(columns)
    result = numbers[0]
    for each in numbers[1:]:
        result = np.maximum(result, each)
    return Exact(result, step)


def smallest(columns: Sequence[Exact]) -> Exact:
    """Row by row the smallest."""
    numbers, step = aligned(columns)
    result = numbers[0]
    for each in numbers[1:]:
        result = np.minimum(result, each)
    return Exact(result, step)


def chosen(where: Bools, these: Exact, others: Exact) -> Exact:
    """Row by row one of *these* where it is true, else one of the *others*."""
    (left, right), step = aligned([these, others])
    return Exact(np.where(where, left, right), step)


def floor(column: Exact) -> Exact:
    """The largest whole numbers that are not above."""
    whole, _, _ = _divided(column)
    return Exact(whole)


def ceil(column: Exact) -> Exact:
    """The smallest whole numbers that are not below."""
    whole, rest, _ = _divided(column)
    return total([Exact(whole), Exact((rest > 0).astype(np.int64))])


def rounded(column: Exact) -> Whole:
    """The nearest whole numbers, half to even; of Python's integers where 63 bits may not do."""
    whole, rest, divisor = _divided(column)
    half = divisor // 2
    up = (rest > half) | ((rest == half) & (divisor % 2 == 0) & (whole % 2 == 1))
    return total([Exact(whole), Exact(up.astype(np.int64))]).numbers


def _divided(column: Exact) -> tuple[Whole, Whole, int]:
    """Whole part and rest of the numbers, in so many parts of a whole."""
    numbers = _times(column.numbers, column.step.numerator)
    divisor = column.step.denominator
    if divisor > LARGEST:
        numbers = numbers.astype(object)
    whole = numbers // divisor
    return whole, numbers - whole * divisor, divisor


def _times(numbers: Whole, factor: int) -> Whole:
    if factor == 1:
        return numbers
    if max(_largest(numbers), 1) * abs(factor) > LARGEST:
        numbers = numbers.astype(object)
    return numbers * factor


def _largest(numbers: Whole) -> int:
    """The largest distance from zero."""
    if not len(numbers):
        return 0
    return max(int(numbers.max()), -int(numbers.min()))

"""The language of composed metrics: read, written, checked and computed."""

import operator
from collections.abc import Callable, Mapping, Set
from fractions import Fraction
from math import ceil, floor, prod
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.strategies import DrawFn, SearchStrategy, composite

from oar_accounting import SettingsError
from oar_accounting.core import exact
from oar_accounting.core.columns import LARGEST, ints
from oar_accounting.core.exact import Exact
from oar_accounting.metrics.formulas import units
from oar_accounting.metrics.formulas.check import Scope
from oar_accounting.metrics.formulas.evaluate import Fact, Facts, constant_value, evaluate
from oar_accounting.metrics.formulas.parser import (
    DEEPEST_FORMULA,
    LONGEST_FORMULA,
    WORDS,
    FormulaText,
    read,
)
from oar_accounting.metrics.formulas.printer import written
from oar_accounting.metrics.formulas.tree import (
    COMPARISONS,
    FACTS,
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
from oar_accounting.metrics.formulas.units import Unit, unit_of

SCOPE = Scope(
    {name: unit_of(unit) for name, unit in (("core", "core"), ("gpu", "gpu"), ("memory", "MiB"))},
    {"core", "gpu", "billing"},
)


def source(text: str) -> FormulaText:
    return FormulaText(text, "site.toml: [metrics.m]")


def tree(text: str) -> Expression:
    return read(source(text))


def canonical(text: str) -> str:
    return written(tree(text))


def check(text: str, unit: str = "billing") -> None:
    SCOPE.check(source(text), tree(text), unit_of(unit))


def wrong(text: str, unit: str = "billing") -> str:
    """What is said of a wrong formula, without the file and metric."""
    with pytest.raises(SettingsError) as caught:
        check(text, unit)
    file, said = str(caught.value).split(": formula, ", 1)
    assert file == "site.toml: [metrics.m]"
    assert "\n" not in said
    return said


# -- reading and writing ----------------------------------------------------------------------


def test_products_go_before_sums_and_divisions_are_gathered() -> None:
    assert canonical("a+b*2-c") == "a + b * 2 - c"
    assert canonical("( a + b ) * -2") == "(a + b) * -2"
    assert canonical("a / 2 * b / 3") == "a * b / 2 / 3"
    assert tree("a - (b - c)") != tree("a - b - c")
    assert tree("a / (2 / b)") != tree("a / 2 / b")
    assert canonical("--a - -b") == "--a - -b"
    assert canonical("-(a * b)") == "-(a * b)"


def test_a_formula_may_be_spread_over_lines_with_comments() -> None:
    text = """
        if queue != "best" # the others
        and not (type in ("a", "b") or cluster not in ("x","y"))   # pay
        then max(a, ceil(b)) else if a >= 2.50 [GiB] then 0 else 1 [billing/GiB*core]
    """
    assert canonical(text) == (
        'if queue != "best" and not (type in ("a", "b") or cluster not in ("x", "y")) '
        "then max(a, ceil(b)) else if a >= 2.5 [GiB] then 0 else 1 [billing*core/GiB]"
    )


def test_and_goes_before_or_and_not_before_both() -> None:
    loose = tree('if queue = "a" or queue = "b" and not queue = "c" then 1 else 2')
    tight = tree('if queue = "a" or (queue = "b" and (not queue = "c")) then 1 else 2')
    assert loose == tight
    assert loose != tree('if (queue = "a" or queue = "b") and not queue = "c" then 1 else 2')


@pytest.mark.parametrize(
    "text",
    [
        *("a + (b + c)", "(a + b) + c", "a * (b * c)", "a / (b * c)", "(a / b) / c", "a - (b - c)"),
        *("-(a + b) * c", "a + -b * c", "max(a + b, -c) / (if a < b then 1 else 2)"),
        'if queue = "x" or (type = "y" or type = "z") then a else b',
        'if (queue = "x" and type = "y") and type = "z" then a else b',
        'if (queue = "x" or type = "y") and not (type = "z" or a > b) then a else b',
        'if queue = "x" then if type = "y" then a else b else (if type = "z" then a else b)',
    ],
)
def test_parentheses_stay_where_they_mean_something(text: str) -> None:
    assert canonical(text) == text


def test_a_text_may_hold_a_quotation_mark_written_twice() -> None:
    assert tree('if type = "say ""hi"" # é" then 1 else 2') == If(
        ((Among("type", ('say "hi" # é',)), Number(Fraction(1))),), Number(Fraction(2))
    )


@composite
def numbers(draw: DrawFn) -> Number:
    value = Fraction(draw(st.integers(0, 10**18 - 1)), 10 ** draw(st.integers(0, 18)))
    names = st.sampled_from(("core", "B", "MiB", "GiB", "GB", "billing"))
    powers = draw(st.dictionaries(names, st.integers(-2, 2).filter(bool), max_size=2))
    return Number(value, tuple(sorted(powers.items())))


USES = st.sampled_from(("a", "b", "c")).map(MetricUse)
TEXTS = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\n"), max_size=5)
SOME_TEXTS = st.lists(st.sampled_from(("x", "y", "z")) | TEXTS, min_size=1, max_size=3).map(tuple)


def several(strategy: SearchStrategy[Any], least: int) -> SearchStrategy[tuple[Any, ...]]:
    return st.lists(strategy, min_size=least, max_size=3).map(tuple)


def expressions(depth: int = 3, divisors: Any = None) -> SearchStrategy[Expression]:
    """Formulas of metrics a, b and c; the *divisors* are formulas too, or what is given."""
    if not depth:
        return numbers() | USES
    inner = st.deferred(lambda: expressions(depth - 1, divisors))
    divided = several(inner if divisors is None else divisors, 1)
    case = st.tuples(conditions(depth - 1, divisors), inner)
    return st.one_of(
        numbers(),
        USES,
        inner.map(Negative),
        several(inner, 2).map(Sum),
        several(inner, 2).map(Product),
        st.builds(Product, several(inner, 1), divided),
        st.builds(Call, st.sampled_from(("max", "min")), several(inner, 1)),
        st.builds(Call, st.sampled_from(("ceil", "floor")), st.tuples(inner)),
        st.builds(If, several(case, 1), inner),
    )


def conditions(depth: int, divisors: Any = None) -> SearchStrategy[Condition]:
    among = st.builds(Among, st.sampled_from(FACTS), SOME_TEXTS)
    if not depth:
        return among
    inner = st.deferred(lambda: conditions(depth - 1, divisors))
    side = expressions(depth - 1, divisors)
    return st.one_of(
        among,
        st.builds(Comparison, st.sampled_from(COMPARISONS), side, side),
        inner.map(Not),
        several(inner, 2).map(And),
        several(inner, 2).map(Or),
    )


def fits(formula: Expression) -> bool:
    return len(written(formula)) <= LONGEST_FORMULA


@given(expressions().filter(fits))
def test_what_is_written_is_read_as_the_same(formula: Expression) -> None:
    assert tree(written(formula)) == formula


@given(expressions().filter(fits))
def test_blanks_and_comments_change_nothing(formula: Expression) -> None:
    spread = written(formula).replace(" + ", "\n\t+ # more\n ").replace("(", "( ")
    if '"' not in spread and len(spread) <= LONGEST_FORMULA:
        assert tree(spread) == formula


# -- units ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("formula", "unit"),
    [
        ("core * 2 [billing/core] - memory * 0.25 [billing/GiB]", "billing"),
        ("memory + 1 [GiB] + 1 [MB]", "B"),
        ("max(core, ceil(memory / 2 [GiB]) * 1 [core])", "core"),
        ("max(0, core - 4 [core])", "core"),
        ("if memory > 4 [GiB] and core != 0 then 0 else core / (2 * 3 - 1)", "core"),
        ("core * gpu / 1 [gpu]", "core"),
        ("memory / 1 [MiB] * 1 [billing]", "billing"),
        ("floor(memory / 1 [GB] + 0.5) * 1 [billing·core/core]", "billing"),
        ("0", "billing"),
        ("-0 * core", "core"),
        ("memory * 3 [1/1]", "PiB"),
    ],
)
def test_units_that_agree(formula: str, unit: str) -> None:
    check(formula, unit)


@pytest.mark.parametrize(
    ("formula", "said"),
    [
        ("core", "line 1, column 1: it gives core; the metric is in billing per second"),
        ("3", "line 1, column 1: it gives a number without a unit; the metric is in billing"),
        ("core + 1", "line 1, column 8: a number without a unit cannot be added to core"),
        ("core\n  - memory", "line 2, column 5: MiB cannot be added to core"),
        ("max(core, gpu)", "line 1, column 11: gpu cannot be within one max with core"),
        ("min(0, core, gpu)", "line 1, column 14: gpu cannot be within one min with core"),
        ("if core < 1 [gpu] then 0 else 0", "column 11: gpu cannot be compared with core"),
        ("if core < 1 then 0 else 0", "column 11: a number without a unit cannot be compared"),
        ('if not queue = "a" then core else gpu', "column 35: gpu cannot be an alternative to c"),
        ("if core = 0 or gpu = memory then 0 else 0", "column 22: MiB cannot be compared with g"),
        ("core * gpu", "it gives core*gpu; the metric is in billing per second"),
        ("ceil(memory)", r"column 6: ceil needs a number without a unit, found MiB: ceil(... / 1"),
        ("core / core", "column 8: nothing can be divided by the metric 'core': a job may hold n"),
        ("1 / (2 + gpu)", "column 10: nothing can be divided by the metric 'gpu'"),
        ('1 / (if queue = "a" then 1 else 2)', "column 6: a divisor is the same for all jobs"),
        ("core / 0", "line 1, column 8: division by zero"),
        ("core / (1 [core] - 1 [core])", "line 1, column 9: division by zero"),
        ("core / (1 / (1 - 1))", "line 1, column 14: division by zero"),
        ("core / floor(0.9)", "line 1, column 8: division by zero"),
        (
            "corr",
            "column 1: there is no metric 'corr' (did you mean core?); declared are core, gpu",
        ),
        ("zzz", "column 1: there is no metric 'zzz'; declared are core, gpu, memory"),
        ("2 [GiBB]", "column 1: unknown unit 'GiBB' (did you mean GiB?); known are B, kB, MB, GB"),
        ("2 [Core]", "column 1: unknown unit 'Core' (did you mean core?); known are B, kB"),
    ],
)
def test_units_and_terms_that_do_not_agree(formula: str, said: str) -> None:
    assert said in wrong(formula)


def test_sizes_are_powers_of_1000_and_of_1024() -> None:
    assert [constant_value(tree(f"1 [{name}]")) for name in ("kB", "MB", "GB", "TB", "PB")] == [
        1000**power for power in range(1, 6)
    ]
    assert [
        constant_value(tree(f"1 [{name}]")) for name in ("KiB", "MiB", "GiB", "TiB", "PiB")
    ] == [1024**power for power in range(1, 6)]
    assert constant_value(tree("3 [B*core/MiB]")) == Fraction(3, 1024**2)


# -- what is wrong ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("formula", "said"),
    [
        ("", "line 1, column 1: a number, a metric, a function or '(' was expected, found the end"),
        ("core +", "line 1, column 7: a number, a metric, a function or '(' was expected"),
        ("core # + gpu\n\n gpu", "line 3, column 2: an operator or the end was expected, found 'g"),
        ("(core", "column 6: ')' was expected, found the end"),
        ("max()", "column 5: a number, a metric, a function or '(' was expected, found ')'"),
        ("max core", "column 5: '(' was expected, found 'core'"),
        ("max(core gpu)", "column 10: ')' was expected, found 'gpu'"),
        ("ceil(1, 2)", "column 7: ')' after the one argument of ceil was expected, found ','"),
        ("if core > 1 core", "column 13: 'then' was expected, found 'core'"),
        ("if core > 0 then core", "column 22: 'else' was expected, found the end"),
        ("1 + if core > 0 then 1 else 2", "column 5: 'if' within an expression stands in paren"),
        ("if core then 1 else 2", 'column 4: a condition, such as core > 8 or queue = "best", was'),
        ('if core and queue = "a" then 1 else 2', "column 4: a condition, such as"),
        ('if queue = "a" or core then 1 else 2', "column 19: a condition, such as"),
        ("if not core then 1 else 2", "column 8: a condition, such as"),
        ("core > 1", "column 1: a number was expected, found a condition"),
        ("1 + (core > 1)", "column 5: a number was expected, found a condition"),
        ("(core > 1) + 1", "column 1: a number was expected, found a condition"),
        ("2 * (core > 1)", "column 5: a number was expected, found a condition"),
        ("(core > 1) * 2", "column 1: a number was expected, found a condition"),
        ("-(core > 1)", "column 2: a number was expected, found a condition"),
        ("if (core > 1) > 1 then 1 else 2", "column 4: a number was expected, found a condition"),
        ("if 1 > (core > 1) then 1 else 2", "column 8: a number was expected, found a condition"),
        ("max(core > 1)", "column 5: a number was expected, found a condition"),
        ("if core > 0 then core > 1 else 1", "column 18: a number was expected, found a condit"),
        ("if 1 < core < 3 then 1 else 2", "column 13: a comparison has two sides; join comparis"),
        ("if queue then 1 else 2", "column 10: '=', '!=', 'in' or 'not in' was expected, found"),
        ('if queue not = "a" then 1 else 2', "column 14: 'in' was expected, found '='"),
        ('if queue in "a" then 1 else 2', "column 13: '(' was expected, found '\"a\"'"),
        ("if queue = a then 1 else 2", 'column 12: a text, such as "default", was expected'),
        ("if queue in () then 1 else 2", "column 14: a text, such as"),
        ('if queue in ("a" then 1 else 2', "column 18: ')' was expected, found 'then'"),
        ('if "a" = queue then 1 else 2', "column 4: a text is compared with queue, cluster, type"),
        ('if queue = "a\n" then 1 else 2', "column 12: a text that begins here does not end on i"),
        ("1e5", "column 2: a number has no exponent and no suffix, found 'e5'"),
        ("2GiB", "column 2: a number has no exponent and no suffix, found 'GiB'; a unit stands in"),
        (".5", "column 1: '.' has no meaning in a formula"),
        ("1 [", "column 4: a unit, such as GiB or 1/core, was expected, found the end"),
        ("1 [2]", "column 4: a unit, such as GiB or 1/core, was expected, found '2'"),
        ("1 [GiB", "column 7: ']' was expected, found the end"),
        ("core ** 2", "column 7: a number, a metric, a function or '(' was expected, found '*'"),
        ("core × 2", "column 6: '×' has no meaning in a formula"),
        ("core; drop", "column 5: ';' has no meaning in a formula"),
        ("__import__(1)", "column 11: an operator or the end was expected, found '('"),
        ("core.__class__", "column 5: '.' has no meaning in a formula"),
        ("\0", r"column 1: '\x00' has no meaning in a formula"),
        ("1" * 19, "column 1: a number has at most 18 digits before and behind the point"),
        ("0." + "1" * 19, "column 1: a number has at most 18 digits before and behind the point"),
        ("core " + "a" * 90, "found '" + "a" * 40 + "...'"),
    ],
)
def test_what_cannot_be_read_is_named_with_line_and_column(formula: str, said: str) -> None:
    assert said in wrong(formula)


@pytest.mark.parametrize("word", WORDS)
def test_a_word_of_the_language_names_no_metric(word: str) -> None:
    wrong(word)


@pytest.mark.parametrize(
    "formula",
    [
        *("(" * 100_000, "-" * 100_000 + "1", "if " + "not " * 100_000, "1+" * 100_000 + "1"),
        *("max(" * 100_000, "if 1 < 2 then " * 100_000, '"' * 100_001, "[" * 100_000),
        *("(" * 3_999, "-" * 3_999, "if " + "not " * 999, "max(" * 999, "1/(" * 1_333),
        *("if 1<2 then " * 333, "if if " * 600, "1 [a" + "/a" * 1_900, "if (" * 900),
    ],
)
def test_no_text_is_too_deep_or_too_long_for_a_plain_answer(formula: str) -> None:
    assert len(wrong(formula)) < 300


def test_the_deepest_formula_is_read_and_one_more_level_is_not() -> None:
    inner = DEEPEST_FORMULA - 1
    for before, after in (("(", ")"), ("max(", ")"), ("-", "")):
        check(f"{before * inner}core{after * inner}", "core")
        assert "nested deeper than 32 levels" in wrong(f"{before * (inner + 1)}core")
    check(f"if {'not ' * (inner - 1)}core > 0 then 0 else 0")


def test_what_is_written_is_no_deeper_than_what_was_read() -> None:
    for text in (
        "if 1 < 2 then " * (DEEPEST_FORMULA - 1) + "1" + " else 2" * (DEEPEST_FORMULA - 1),
        f'{"(" * 29}if queue != "x" or type not in ("y", "z") then 1 else 2{")" * 29}',
        "(" * 29 + "if 1 < 2 and not 3 < 4 then 1 else 2" + ")" * 29,
        "(1 + -" * 15 + "1" + ")" * 15,
    ):
        assert tree(canonical(text)) == tree(text)
    assert canonical('if not not queue = "x" then 1 else 2') == 'if not queue != "x" then 1 else 2'


def test_the_longest_formula_is_read_and_one_more_character_is_not() -> None:
    formula = "core" + "+core" * 799
    check(f"{formula}{' ' * (LONGEST_FORMULA - len(formula))}", "core")
    said = wrong(formula + " " * (LONGEST_FORMULA + 1 - len(formula)), "core")
    assert said == "line 1, column 4001: it has 4001 characters; at most 4000 are read"
    many = 'if queue = "x" then core else ' * 130 + "core"
    assert canonical(many) == many
    check(many, "core")


@given(st.text(st.sampled_from('ab1. "\n#+-*/()[],<>=!if then else not and or max queue')))
def test_any_text_is_a_formula_or_a_plain_error(text: str) -> None:
    try:
        assert tree(canonical(text)) == tree(text)
    except SettingsError as error:
        assert "formula, line" in str(error)


# -- values -----------------------------------------------------------------------------------

OPERATORS: Mapping[str, Callable[[Fraction, Fraction], bool]] = {
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
    "=": operator.eq,
    "!=": operator.ne,
}


def bytes_in(unit: Unit) -> Fraction:
    sizes = (Fraction(units.BYTES.get(name, 1)) ** power for name, power in unit)
    return prod(sizes, start=Fraction(1))


def one(formula: Expression, used: Mapping[str, Fraction], job: Mapping[str, Set[str]]) -> Fraction:
    """The formula for one part of one job, in the plainest arithmetic."""
    match formula:
        case Number(value, unit):
            return value * bytes_in(unit)
        case MetricUse(metric):
            return used[metric]
        case Negative(of):
            return -one(of, used, job)
        case Sum(terms):
            return sum((one(term, used, job) for term in terms), Fraction(0))
        case Product(factors, divisors):
            result = Fraction(1)
            for each in factors:
                result *= one(each, used, job)
            for each in divisors:
                result /= one(each, used, job)
            return result
        case Call("max", arguments):
            return max(one(each, used, job) for each in arguments)
        case Call("min", arguments):
            return min(one(each, used, job) for each in arguments)
        case Call("ceil", (argument,)):
            return Fraction(ceil(one(argument, used, job)))
        case Call(_, arguments):
            return Fraction(floor(one(arguments[0], used, job)))
        case If(cases, otherwise):
            for condition, each in cases:
                if true_for(condition, used, job):
                    return one(each, used, job)
            return one(otherwise, used, job)


def true_for(
    condition: Condition, used: Mapping[str, Fraction], job: Mapping[str, Set[str]]
) -> bool:
    match condition:
        case Comparison(sign, left, right):
            return OPERATORS[sign](one(left, used, job), one(right, used, job))
        case Among(fact, texts):
            return any(text in job[fact] for text in texts)
        case Not(of):
            return not true_for(of, used, job)
        case And(terms):
            return all(true_for(each, used, job) for each in terms)
        case Or(terms):
            return any(true_for(each, used, job) for each in terms)


NOT_ZERO = numbers().filter(lambda number: number.value)
STEPS = st.builds(Fraction, st.integers(1, 2**30), st.integers(1, 10**9))
AMOUNTS = st.one_of(
    st.integers(0, 20), st.integers(0, LARGEST), st.sampled_from((0, 1, LARGEST, LARGEST - 1))
)


@composite
def columns(draw: DrawFn) -> tuple[dict[str, Exact], Facts]:
    """What up to four parts hold of a, b and c, and what is known of their jobs."""
    parts = draw(st.integers(0, 4))

    def per_part(values: SearchStrategy[int]) -> Any:
        return ints(draw(st.lists(values, min_size=parts, max_size=parts)))

    values: dict[str, list[tuple[str, ...]]] = {
        "queue": [("x",), ("y",), ("",)],
        "cluster": [("",), ("x",), ("z",)],
        "type": [(), ("x",), ("y", "z")],
    }
    return (
        {name: Exact(per_part(AMOUNTS), draw(STEPS)) for name in ("a", "b", "c")},
        {name: Fact(per_part(st.integers(0, 2)), some) for name, some in values.items()},
    )


@given(expressions(divisors=NOT_ZERO | NOT_ZERO.map(Negative)), columns())
def test_columns_give_what_one_by_one_gives(
    formula: Expression, given_columns: tuple[dict[str, Exact], Facts]
) -> None:
    used, facts = given_columns
    parts = len(used["a"].numbers)
    found = evaluate(formula, used, facts)
    column = Exact(np.broadcast_to(found.numbers, parts), found.step).values()
    for part in range(parts):
        held = {name: column.values()[part] for name, column in used.items()}
        job = {name: set(fact.values[fact.number[part]]) for name, fact in facts.items()}
        assert column[part] == one(formula, held, job)


@pytest.mark.parametrize(
    "text",
    [
        *("a + a", "a + a - a", "-a - a", "a * a", "a * b", "a * 2", "a / 3 + b / 7", "-a * a * a"),
        *("max(a, b / 3)", "min(a / 3, b)", "ceil(a * 4 / 3)", "floor(-a * 4 / 3)", "ceil(a / 7)"),
        *("if a / 3 < b then a else b / 7", "if a * 2 > a then 1 else 2", "a * 0.000000001 + b"),
    ],
)
def test_nothing_wraps_beyond_63_bits(text: str) -> None:
    used = {"a": Exact(ints([LARGEST, 3, 0])), "b": Exact(ints([3, LARGEST, 1]), Fraction(1, 3))}
    wanted = [
        one(tree(text), {name: column.values()[part] for name, column in used.items()}, {})
        for part in range(3)
    ]
    found = evaluate(tree(text), used, {})
    assert Exact(np.broadcast_to(found.numbers, 3), found.step).values() == wanted


@given(
    values=st.lists(st.integers(-LARGEST, LARGEST) | st.integers(-50, 50), max_size=6),
    step=STEPS | st.sampled_from((Fraction(1), Fraction(1, 2), Fraction(1, 2**80))),
)
def test_columns_are_rounded_half_to_even(values: list[int], step: Fraction) -> None:
    column = Exact(ints(values), step)
    wanted = [value * step for value in values]
    assert column.values() == wanted
    assert [int(number) for number in exact.rounded(column)] == [round(each) for each in wanted]
    assert exact.floor(column).values() == [floor(each) for each in wanted]
    assert exact.ceil(column).values() == [ceil(each) for each in wanted]


@pytest.mark.parametrize(
    ("formula", "value"),
    [
        ("ceil(2.1) + floor(-2.1)", 0),
        ("1 / 3 + 1 / 3 + 1 / 3", 1),
        ("0.1 + 0.2", Fraction(3, 10)),
        ("max(1, min(5, 3), 2) * -2", -6),
        ("if 0.1 + 0.2 = 0.3 then 1 else 2", 1),
        ("if 1 > 1 or 1 >= 1 and not 1 < 1 then 7 else 8", 7),
        ("if 1 != 1 then 1 else if 2 <= 1 then 2 else 3", 3),
        ("8 / 4 / 2 - 1 - 1", -1),
        (
            "999999999999999999 * 999999999999999999 * 0.000000000000000001",
            Fraction(999999999999999999**2, 10**18),
        ),
    ],
)
def test_constants(formula: str, value: Fraction) -> None:
    assert constant_value(tree(formula)) == value

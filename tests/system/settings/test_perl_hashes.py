"""Perl's hashes of numbers, as they stand in ``oar.conf``, and as the real Perl reads them."""

import shutil
import struct
import subprocess
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from oar_accounting.settings.perl_hashes import PerlError, number, parse

with_perl = pytest.mark.skipif(shutil.which("perl") is None, reason="there is no perl")


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("{ first => 75, default => 25 }", {"first": 75, "default": 25}),
        ("{ toto => 75, titi => 10, tutu => 15 }", {"toto": 75, "titi": 10, "tutu": 15}),
        ("""{'a'=>1, "b c" => 2,}""", {"a": 1, "b c": 2}),
        ("{}", {}),
        (" {\n} ", {}),
        ("{a=>1,\n b =>\n2\n,,}", {"a": 1, "b": 2}),
        ("{'a', 1, \"b\", 2, 3, 4}", {"a": 1, "b": 2, "3": 4}),
        ("{ 1001 => 5, 0 => 6 }", {"1001": 5, "0": 6}),
        ("{ a => 1, a => 2 }", {"a": 2}),
        ("{ a => -1, b => - 2.5, c => +3, d => 1e2, e => 1.5E-1 }", None),
        ("{ a => '75', b => \"2.5\", c => ' -1e1 ', d => '010', e => '.5' }", None),
        (r"{ 'it\'s' => 1, 'back\\slash' => 2, 'a\b' => 3, '$x' => 4, 'a@b' => 5 }", None),
        ("{ 'a}b' => 1, 'c,d=>' => 2, '' => 3, \"it's\" => 4, 'é' => 5 }", None),
        ("{ q => 1, y => 2, print => 3, __END__ => 4, v1 => 5 }", None),
    ],
)
def test_a_hash_is_read(text: str, found: dict[str, float] | None) -> None:
    if found is not None:
        assert parse(text) == found
    if shutil.which("perl"):
        assert parse(text) == as_perl_reads(text)


@pytest.mark.parametrize(
    ("text", "column", "said"),
    [
        ("", 1, "'{'"),
        ("75", 1, "'{'"),
        ("{ a => 1", 9, "a ',' or the '}'"),
        ("{ a => 1 b => 2 }", 10, "a ',' or the '}'"),
        ("{ a => 1 };", 11, "nothing is expected"),
        ("{ a => }", 8, "a number"),
        ("{ a => many }", 8, "a number"),
        ("{ a => 'many' }", 8, "'many'"),
        ("{ a => 1e999 }", 8, "'1e999'"),
        ("{ a => 010 }", 9, "a ',' or the '}'"),
        ("{ a => 0x10 }", 9, "a ',' or the '}'"),
        ("{ a => 1_000 }", 9, "a ',' or the '}'"),
        ("{ a => 1 + 1 }", 10, "a ',' or the '}'"),
        ("{ a => 1.5.2 }", 11, "a ',' or the '}'"),
        ("{ a => { b => 1 } }", 8, "a number"),
        ("{ a => $x }", 8, "a number"),
        ("{ a => system('true') }", 8, "a number"),
        ("{ a, 1 }", 3, "a name and '=>'"),
        ("{ q\n=> 1 }", 3, "a name and '=>'"),
        ("{ my-project => 1 }", 3, "a name and '=>'"),
        ("{ 010 => 1 }", 3, "a name and '=>'"),
        ("{ 1.5 => 1 }", 3, "a name and '=>'"),
        ("{ -a => 1 }", 3, "a name and '=>'"),
        ("{ , a => 1 }", 3, "a name and '=>'"),
        ("{ é => 1 }", 3, "a name and '=>'"),
        ("{ 'a => 1 }", 3, "a name and '=>'"),
        ('{ "$x" => 1 }', 4, "'$' is special"),
        ('{ "a@b" => 1 }', 5, "'@' is special"),
        (r'{ "a\tb" => 1 }', 5, r"'\\' is special"),
        ('{ "@{[`id`]}" => 1 }', 4, "'@' is special"),
    ],
)
def test_whatever_else_is_refused_with_its_column(text: str, column: int, said: str) -> None:
    with pytest.raises(PerlError) as error:
        parse(text)
    assert str(error.value).startswith(f"column {column}: ")
    assert said in str(error.value)


@pytest.mark.parametrize("text", ["0", "2", "-1", "+0.5", ".5", "5.", "1e3", " 7 ", "007"])
def test_a_number_is_read_as_by_perl(text: str) -> None:
    assert number(text) == float(text)


@pytest.mark.parametrize("text", ["", "two", "2h", "0x10", "1_000", "inf", "nan", "1e999", "٣"])
def test_what_is_no_number_is_refused(text: str) -> None:
    with pytest.raises(PerlError, match="a number is expected, not"):
        number(text)


# -- against the real Perl --------------------------------------------------------------------

#: Every name and number in hexadecimal, the number as the bytes of a float.
SCRIPT = """
use strict;
my $found = eval($ARGV[0] . ";");
die($@ || "no hash") unless ref($found) eq "HASH";
print(unpack("H*", $_), ":", unpack("H*", pack("d>", $found->{$_})), "\n") for keys(%$found);
"""


def as_perl_reads(text: str) -> dict[str, float]:
    """The hash that OAR's schedulers get, which evaluate it like this under ``use strict``."""
    said = subprocess.run(["perl", "-e", SCRIPT, text], capture_output=True, check=True, text=True)
    pairs = [line.split(":") for line in said.stdout.splitlines()]
    return {
        bytes.fromhex(name).decode(): struct.unpack(">d", bytes.fromhex(value))[0]
        for name, value in pairs
    }


blank = st.text("  \t\n", max_size=2)
words = st.from_regex(r"[A-Za-z_][A-Za-z0-9_]{0,8}", fullmatch=True)
names = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=8)
numerals = st.from_regex(
    r"(0|[1-9][0-9]{0,6})(\.[0-9]{1,6})?([eE][+-]?[0-9]{1,2})?", fullmatch=True
)


def single_quoted(name: str) -> str:
    """The name in single quotes."""
    return "'" + name.replace("\\", "\\\\").replace("'", "\\'") + "'"


keys = st.one_of(
    words.map(lambda word: f"{word} =>"),
    st.integers(0, 10**15 - 1).map(lambda key: f"{key}=>"),
    st.tuples(names.map(single_quoted), st.sampled_from(["=>", ","])).map("".join),
    st.text("ab c}{'=>,é#", max_size=6).map(lambda name: f'"{name}" =>'),
)
values = st.one_of(
    numerals,
    st.tuples(st.sampled_from("+-"), blank, numerals).map("".join),
    numerals.map(lambda value: f"'{value}'"),
    numerals.map(lambda value: f'"-0{value}"'),
)


@st.composite
def hashes(draw: st.DrawFn) -> str:
    """The text of a hash, as an administrator may have written it."""
    pairs = [
        "".join((draw(blank), draw(keys), draw(blank), draw(values), draw(blank)))
        for _ in range(draw(st.integers(0, 4)))
    ]
    end = draw(st.sampled_from(["", ",", ", ,"])) if pairs else ""
    return draw(blank) + "{" + ",".join(pairs) + end + draw(blank) + "}" + draw(blank)


@with_perl
@given(hashes())
@example(
    "{ a => 0.1, b => 1e23, c => 123456789012345678901234567890, d => 2.2250738585072011e-308}"
)
def test_a_hash_is_what_perl_makes_of_it(text: str) -> None:
    assert parse(text) == as_perl_reads(text)


@with_perl
@given(hashes(), st.data())
def test_what_is_not_refused_is_what_perl_makes_of_it(text: str, data: st.DataObject) -> None:
    """Also of a text with mistakes in it."""
    for _ in range(data.draw(st.integers(1, 3))):
        at = data.draw(st.integers(0, len(text)))
        put = data.draw(st.sampled_from([*"{}=>,'\"\\ 0-+.eaq\n$@", ""]))
        text = text[:at] + put + text[at + data.draw(st.integers(0, 1)) :]
    try:
        found = parse(text)
    except PerlError:
        return
    assert found == as_perl_reads(text)


def test_nothing_evaluates_it(tmp_path: Path) -> None:
    made = tmp_path / "made"
    for text in (f"{{ a => `touch {made}` }}", f'{{ "@{{[`touch {made}`]}}" => 1 }}'):
        with pytest.raises(PerlError):
            parse(text)
    assert not made.exists()

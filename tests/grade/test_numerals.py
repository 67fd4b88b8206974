"""Numbers in other digits and spellings are the same numbers; variables are not units."""

import sys
import unicodedata
from decimal import Decimal
from fractions import Fraction

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from opsd.grade.numerals import drop_unit, normalise, plain_number, same_number, spelling

# The ten digits of every decimal system of this Python's Unicode tables, by where they begin.
ZEROS = [code for code in range(sys.maxunicode + 1) if unicodedata.decimal(chr(code), None) == 0]


def value(text: str) -> Fraction | None:
    number = plain_number(drop_unit(normalise(text)))
    return None if number is None else number.value


@settings(deadline=None)
@given(st.sampled_from(ZEROS), st.integers(0, 10**9))
def test_every_decimal_system_reads_as_ascii(zero: int, number: int):
    assert normalise("".join(chr(zero + int(digit)) for digit in str(number))) == str(number)


def test_there_are_many_decimal_systems():
    assert len(ZEROS) > 50


@settings(deadline=None)
@given(st.text(max_size=50))
def test_normalising_twice_changes_nothing_for_plain_numbers(text: str):
    once = normalise(text)
    if plain_number(once) is not None:
        assert plain_number(normalise(once)) == plain_number(once)


@settings(deadline=None)
@given(st.integers(-(10**12), 10**12), st.sampled_from([",", "{,}", r"\,", " ", "\u202f", r",\!"]))
def test_thousands_close_up(number: int, separator: str):
    assert value(f"{number:,}".replace(",", separator)) == number


@settings(deadline=None)
@given(st.decimals(-(10**6), 10**6, places=3))
def test_decimals_are_exact(number: Decimal):
    assert value(str(number)) == Fraction(number)


@settings(deadline=None)
@given(st.integers(0, 99), st.integers(1, 99), st.integers(1, 99))
def test_fractions_and_mixed_numbers(whole: int, top: int, bottom: int):
    fraction = Fraction(top, bottom)
    assert value(f"{top}/{bottom}") == value(rf"\dfrac{{{top}}}{{{bottom}}}") == fraction
    assert value(f"-{whole} {top}/{bottom}") == -(whole + fraction)
    assert value(rf"{whole}\frac{{{top}}}{{{bottom}}}") == whole + fraction


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("\u22125", "-5"),
        ("\u20135", "-5"),
        ("\uff0d\uff11\uff0e\uff15", "-1.5"),
        (r"\$18", "18"),
        ("$18$", "18"),
        ("18\u20ac", "18"),
        ("\u20a618", "18"),
        (r"\(7\)", "7"),
        (r"\[ 7 \]", "7"),
        ("7.", "7"),
        (r"7 \\", "7"),
        ("\u200e7\u200b", "7"),
        ("\u0663\u066b\u0665", "3.5"),
        (r"12\text{ km}", "12"),
        (r"5\,\mathrm{cm}^{2}", "5"),
        ("12 birr", "12"),
        ("12 \u1265\u122d", "12"),
        ("12 cm^2", "12"),
        ("90\u00b0", "90"),
        (r"90^\circ", "90"),
        (r"\frac12", "1/2"),
    ],
)
def test_decoration_goes(text: str, number: str):
    assert value(text) == Fraction(number)


@pytest.mark.parametrize(
    "text",
    ["", "5t", "2h", "5 x", r"2\pi", "2pi", "2 pi", "3:4", "3^{10}", "5\u00b2", "5 million", "1/0",
     r"2\text{ million}", "(1,234)", "1,2", "12 or 13", "3 @@", "1 2", r"\frac123", "--5", "."],
)  # fmt: skip
def test_what_is_more_than_a_number_is_not_one(text: str):
    assert value(text) is None


def test_grouping_leaves_pairs_and_lists_alone():
    assert normalise("(1,234)") == "(1,234)"
    assert normalise("1,234,5") == "1,234,5"
    assert normalise("1 100/200") == "1 100/200"


def test_superscripts_are_powers():
    assert normalise("x\u00b2 + 5\u00b9\u2070") == "x^{2} + 5^{10}"


@pytest.mark.parametrize(
    ("answer", "gold", "same"),
    [
        ("50%", "1/2", True),
        ("50%", "50", True),
        ("50%", "0.5%", False),
        ("0.333333", "1/3", True),
        ("0.33", "1/3", False),
        ("0.0000001", "0.0000002", False),
        ("2.0000001", "2", True),
        ("1234567", "1234568", False),
        ("1/1000000", "1/1000001", False),
        ("0", "0.0", True),
        ("0.0000001", "0", False),
    ],
)
def test_numbers_agree_to_six_decimals_at_most(answer: str, gold: str, same: bool):
    numbers = plain_number(answer), plain_number(gold)
    assert numbers[0] is not None and numbers[1] is not None
    assert same_number(numbers[0], numbers[1]) is same


def test_words_are_spelled():
    assert spelling("Listen") == "listen" != spelling("silent")
    assert spelling(r"\text{No solution}") == spelling("no solution") == "no solution"
    for mathematics in ("xy", "5 apples", r"2\pi", "a+bcd", r"\text{a}+b", ""):
        assert spelling(mathematics) is None

"""Numbers in other digits and spellings are the same numbers; what is more than one is not one."""

from decimal import Decimal
from fractions import Fraction
from time import process_time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from opsd.grade.answer import MAX_ANSWER_CHARS
from opsd.grade.misread import juxtaposed
from opsd.grade.numerals import (
    DecimalMark,
    PlainNumber,
    normalise,
    one_number,
    plain_number,
    same_number,
    tidy,
)
from opsd.grade.spoken import _ONES, _TENS, spoken
from opsd.grade.words import drop_unit, spelling


def value(text: str, mark: DecimalMark | None = None) -> Fraction | None:
    number = one_number(tidy(text), mark)
    return None if number is None else number.value


@settings(deadline=None)
@given(st.text(max_size=50))
def test_tidying_twice_changes_nothing_for_numbers(text: str):
    once = tidy(text)
    assert one_number(once) is None or one_number(tidy(once)) == one_number(once)


@settings(deadline=None)
@given(st.integers(-(10**12), 10**12), st.sampled_from([",", "{,}", r"\,", " ", "\u202f", r",\! "]))
def test_thousands_close_up(number: int, separator: str):
    assert value(f"{number:,}".replace(",", separator)) == number


@settings(deadline=None)
@given(st.decimals(-(10**6), 10**6, places=3))
def test_decimals_are_exact(number: Decimal):
    assert value(str(number)) == Fraction(number)


GROUPED = st.sampled_from(["", " ", "\u00a0", "\u202f", "'", "\u2019", "\u066c", r"\,", ",", "."])


@settings(deadline=None, max_examples=300)
@given(st.decimals(-(10**12), 10**12, places=2), GROUPED, st.sampled_from([".", ",", "\u066b"]))
def test_a_grouped_decimal_is_read_back_in_every_language(number: Decimal, group: str, mark: str):
    if group != mark:
        text = f"{number:,}".translate({ord(","): group, ord("."): mark})
        assert value(text, ".") == value(text, ",") == Fraction(number)


@settings(deadline=None, max_examples=300)
@given(st.integers(-(10**12), 10**12), st.decimals(-999, 999, places=3), GROUPED)
def test_a_lone_mark_is_read_as_in_the_language(number: int, decimal: Decimal, group: str):
    marks: list[tuple[DecimalMark, DecimalMark]] = [(".", ","), (",", ".")]
    for mark, other in marks:
        if group != mark:
            assert value(f"{number:,}".replace(",", group), mark) == number
        assert value(str(decimal).replace(".", mark), mark) == Fraction(decimal)
        if abs(decimal) >= 1:
            assert value(str(decimal).replace(".", other), mark) == Fraction(decimal) * 1000


def indian(number: int) -> str:
    digits, groups = str(number), list[str]()
    digits, groups = digits[:-3], [digits[-3:]]
    while digits:
        digits, groups = digits[:-2], [digits[-2:], *groups]
    return ",".join(groups)


@settings(deadline=None)
@given(st.integers(10**5, 10**12))
def test_indian_groups_are_read_back(number: int):
    assert value(indian(number), ".") == value(indian(number), ",") == number


@pytest.mark.parametrize(
    ("text", "point", "comma"),
    [
        ("1,234", "1234", "1.234"),
        ("1.234", "1.234", "1234"),
        ("12,345", "12345", "12.345"),
        ("0,234", "0.234", "0.234"),
        ("0.234", "0.234", "0.234"),
        ("0,5", "0.5", "0.5"),
        ("1,23", "1.23", "1.23"),
        ("1234,567", "1234.567", "1234.567"),
        ("1,234.5", "1234.5", "1234.5"),
        ("1.234,5", "1234.5", "1234.5"),
        ("1.234.567", "1234567", "1234567"),
        ("1 234,567", "1234.567", "1234.567"),
        ("1'234.50", "1234.5", "1234.5"),
        ("12,34,567", "1234567", "1234567"),
        ("1,00,000.5", "100000.5", "100000.5"),
        (".5", "0.5", "0.5"),
        (",5", "0.5", "0.5"),
        ("٣٫٥٠٠", "3.5", "3.5"),
        ("١٬٢٣٤", "1234", "1234"),
        ("١٬٢٣٤٫٥", "1234.5", "1234.5"),
        ("-১.২৩৪ টাকা", "-1.234", "-1234"),
        ("1,234%", "1234", "1.234"),
        ("007", "7", "7"),
    ],
)
def test_readings_in_languages_with_a_point_and_with_a_comma(text: str, point: str, comma: str):
    assert (value(text, "."), value(text, ",")) == (Fraction(point), Fraction(comma))


@pytest.mark.parametrize(
    "text",
    ["1,2,3", "1.2.3", "1,23,4", "12,34,56", "1234,567,890", "1,234 567", "1 23", "12 34", "0 123",
     "01,234,567", "1.234,567.8", "1.234,567,890", "1,,234", "1, 234 , 5", "1'23", "1٬23", "1٫2٫3",
     "5€50", "1$2"],
)  # fmt: skip
def test_other_separated_digits_are_no_number_in_any_language(text: str):
    assert value(text) is value(text, ".") is value(text, ",") is None


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
        ("−5", "-5"),
        ("–5", "-5"),
        ("－１．５", "-1.5"),
        ("$18$", "18"),
        (r"\$18", "18"),
        (r"\(7\)", "7"),
        (r"\[ 7 \]", "7"),
        ("7.", "7"),
        ("5 000 F CFA", "5000"),
        ("5000F CFA", "5000"),
        ("F.CFA 5000", "5000"),
        ("1e3", "1000"),
        ("1.5E-2", "0.015"),
        ("7。", "7"),
        ("৭।", "7"),
        (r"7 \\", "7"),
        ("\u200e7\u200b", "7"),
        (r"5\,\mathrm{cm}^{2}", "5"),
        (r"\frac12", "1/2"),
        (r"\frac 1 2", "1/2"),
        (r"\frac{270}7", "270/7"),
        (r"\\frac{1}{2}", "1/2"),
        ("½", "1/2"),
        ("2½ km", "5/2"),
        ("十二个", "12"),
        ("12 thousand", "12000"),
        ("1.2 million people", "1200000"),
        (r"1.2\text{ million dollars}", "1200000"),
        ("1,234 million", "1234000000"),
        ("5 lakh", "500000"),
        ("12 Mio. €", "12000000"),
        ("12 тысяч рублей", "12000"),
        ("12만원", "120000"),
        ("elfu 12", "12000"),
        ("milioni 1.5", "1500000"),
        ("negative 12", "-12"),
        ("minus 12 km", "-12"),
        (r"\text{negative }12", "-12"),
        ("moins 12", "-12"),
        ("负12", "-12"),
        (r"\approx 12", "12"),
        ("x ≈ 12 km", "12"),
        (r"3\times10^8", "3e8"),
        ("3 × 10⁸ m/s", "3e8"),
        (r"6.63\cdot 10^{-34}", "6.63e-34"),
        ("10^{-3} m", "0.001"),
        ("-10^6", "-1000000"),
        ("seventy-two", "72"),
        (r"\text{Seventy two}", "72"),
        ("minus five", "-5"),
        ("two hundred and five", "205"),
        ("twelve thousand three hundred and forty-five", "12345"),
        ("zero", "0"),
    ],
)
def test_decoration_goes(text: str, number: str):
    assert value(text) == Fraction(number)


@pytest.mark.parametrize(
    "text",
    ["", "5t", "5 x", r"2\pi", "2pi", "2 pi", "3:4", "3^{10}", "5\u00b2", "5 dozen", "1/0",
     r"2\text{ dozen}", "(1,234)", "1,2", "12 or 13", "3 @@", "1 2", r"\frac123", "--5", ".",
     "5 F", "3e", "e3", "1e3.5", "1e", "2e9999"],
)  # fmt: skip
def test_what_is_more_than_a_number_is_not_one(text: str):
    assert value(text) is None


def test_grouping_leaves_pairs_and_lists_alone():
    assert normalise("(1,234)") == "(1,234)"
    assert normalise("1,234,5") == "1,234,5"
    assert normalise("1 100/200") == "1 100/200"
    assert normalise("12,34,567") == "12,34,567"


def plain(text: str) -> PlainNumber:
    number = plain_number(text)
    assert number is not None
    return number


@pytest.mark.parametrize(
    ("answer", "gold", "same"),
    [
        ("50%", "1/2", True),
        ("50%", "50", True),
        ("1%", "0.01", True),
        ("1%", "1", False),
        ("0.5%", "0.5", False),
        ("100%", "1", True),
        ("101%", "101", True),
        ("50.00001%", "50%", True),
        ("6.63e-34", "9.11e-31", False),
        ("6.63e-34", "6.62607e-34", False),
        ("6.6261e-34", "6.62607e-34", True),
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
    assert same_number(plain(answer), plain(gold)) is same
    assert same_number(plain(gold), plain(answer)) is same


NUMBERS = st.builds(PlainNumber, st.fractions(-1000, 1000), st.booleans(), st.booleans())


@settings(deadline=None)
@given(NUMBERS, NUMBERS)
def test_agreement_is_reflexive_and_symmetric(one: PlainNumber, other: PlainNumber):
    assert same_number(one, one)
    assert same_number(one, other) is same_number(other, one)


@settings(deadline=None)
@given(st.integers(0, 999_999_999_999))
def test_numbers_in_english_words_are_read_back(number: int):
    assert spoken(in_words(number)) == number
    assert value(f"minus {in_words(number).replace(' ', '-')}") == -number


def in_words(number: int) -> str:
    """Spelled as in school, by recursion."""
    for size, name in (
        (10**9, "billion"),
        (10**6, "million"),
        (1000, "thousand"),
        (100, "hundred"),
    ):
        if number >= size:
            rest = f" {in_words(number % size)}" if number % size else ""
            return f"{in_words(number // size)} {name}{rest}"
    if number < 20:
        return _ONES[number]
    return _TENS[number // 10 - 2] + (f" {_ONES[number % 10]}" if number % 10 else "")


@pytest.mark.parametrize(
    "text",
    ["two three", "ten five", "twenty ten", "hundred", "five thousand million", "one third", "",
     "two halves", "zero five", "seventy-two apples", "and five", "no one"],
)  # fmt: skip
def test_other_words_are_no_number(text: str):
    assert spoken(text) is None


@pytest.mark.parametrize("text", ["1 2", "-1 2", "3 + 1 2", "1.5 2", "1 2/3", r"\{1 2\}"])
def test_numbers_side_by_side(text: str):
    assert juxtaposed(text)


@pytest.mark.parametrize("text", [r"\frac 1 2", r"\log_2 8", r"\binom5 2", "x^2 3", "1, 2", "12"])
def test_arguments_are_not_side_by_side(text: str):
    assert not juxtaposed(text)


PIECES = [
    *"01٣২９,.٫٬'- /%$€{}\\^=:xm፲፼十万千½\u200b\u202e\u00a0",
    *(r"\frac", r"\text{", r"\mathbf{", r"\,", "{,}", "km", " million", "ብር", "e", r"\circ"),
]
MARKS: list[DecimalMark | None] = [None, ".", ","]


def read_every_way(text: str) -> list[PlainNumber | None]:
    tidied = tidy(text)
    plain = normalise(tidied)
    drop_unit(plain), spelling(tidied), juxtaposed(plain)
    return [one_number(tidied, mark) for mark in MARKS]


@settings(deadline=None, max_examples=500)
@given(st.lists(st.sampled_from(PIECES), max_size=25).map("".join))
def test_no_text_makes_the_reader_fail(text: str):
    read_every_way(text)


def test_the_longest_answers_cost_no_time():
    texts = [piece * (MAX_ANSWER_CHARS // len(piece)) for piece in PIECES]
    texts += ["1," * 999 + "1", "1 " * 999 + "1", "a'" * 999 + "1", "1" + " x" * 999, "1 2" * 666]
    texts += [
        r"\text{" * 300 + "1" + "}" * 300,
        r"\frac{" * 300 + "1",
        "=1" * 999,
        "a " * 999 + "1",
    ]
    start = process_time()
    for text in texts:
        for edge in ("", "1"):
            read_every_way(edge + text)
            read_every_way(text + edge)
    assert process_time() - start < 20  # milliseconds each; a quadratic pattern needs minutes

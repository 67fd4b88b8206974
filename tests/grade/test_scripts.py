"""Every script's digits, Ethiopic and Chinese numbers against generators that share no code."""

import sys
import unicodedata

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from opsd.grade.scripts import ascii_numerals, east_asian_numerals

# The ten digits of every decimal system of this Python's Unicode tables, by where they begin.
ZEROS = [code for code in range(sys.maxunicode + 1) if unicodedata.decimal(chr(code), None) == 0]
EAST_DIGITS = "零一二三四五六七八九"


def ethiopic(number: int) -> str:
    """A number above 0 in Ethiopic writing, as CSS Counter Styles forms it from pairs of digits."""
    digits = str(number) if len(str(number)) % 2 == 0 else f"0{number}"
    pairs = [int(digits[at : at + 2]) for at in range(0, len(digits), 2)]
    text = ""
    for place, pair in zip(range(len(pairs) - 1, -1, -1), pairs, strict=True):
        silent = pair == 0 or (pair == 1 and (place % 2 == 1 or (place == len(pairs) - 1 > 0)))
        if not silent:
            tens, ones = divmod(pair, 10)
            text += chr(0x1371 + tens) if tens else ""
            text += chr(0x1368 + ones) if ones else ""
        if place % 2 == 1:
            text += "፻" if pair else ""
        elif place:
            text += "፼"
    return text


def chinese(number: int) -> str:
    """A number below 10**12 in Chinese writing, with every power and every zero said."""
    for power, sign in ((10**8, "亿"), (10**4, "万"), (1000, "千"), (100, "百"), (10, "十")):
        if number >= power:
            above, below = divmod(number, power)
            gap = EAST_DIGITS[0] if 0 < below < power // 10 else ""
            return chinese(above) + sign + gap + (chinese(below) if below else "")
    return EAST_DIGITS[number]


def test_there_are_many_decimal_systems():
    assert len(ZEROS) > 50
    names = " ".join(unicodedata.name(chr(zero)) for zero in ZEROS)
    for script in (
        "BENGALI",
        "DEVANAGARI",
        "ARABIC-INDIC",
        "NKO",
        "ADLAM",
        "VAI",
        "OSMANYA",
        "THAI",
    ):
        assert script in names


@pytest.mark.parametrize("zero", ZEROS)
def test_all_ten_digits_of_a_decimal_system_are_read(zero: int):
    assert ascii_numerals("".join(chr(zero + digit) for digit in range(10))) == "0123456789"


@settings(deadline=None)
@given(st.lists(st.tuples(st.sampled_from(ZEROS), st.integers(0, 9)), min_size=1, max_size=30))
def test_scripts_may_be_mixed(digits: list[tuple[int, int]]):
    text = "".join(chr(zero + digit) for zero, digit in digits)
    assert ascii_numerals(text) == "".join(str(digit) for _, digit in digits)


def test_the_ethiopic_generator_writes_what_is_printed():
    known = {1: "፩", 10: "፲", 12: "፲፪", 100: "፻", 245: "፪፻፵፭", 1000: "፲፻", 10_000: "፼",
             78_010_092: "፸፰፻፩፼፺፪", 780_100_000_092: "፸፰፻፩፼፼፺፪", 10**6: "፻፼"}  # fmt: skip
    assert {number: ethiopic(number) for number in known} == known


@settings(deadline=None, max_examples=500)
@given(st.one_of(st.integers(1, 20_000), st.integers(1, 10**8), st.integers(1, 10**16)))
def test_ethiopic_numbers_are_read_back(number: int):
    assert ascii_numerals(ethiopic(number)) == str(number)


def test_round_ethiopic_numbers_are_read_back():
    for power in range(9):
        for number in {10**power, 10**power + 1, 2 * 10**power, 11 * 10**power, 10**power + 100}:
            assert ascii_numerals(f"{ethiopic(number)} ብር") == f"{number} ብር"


@pytest.mark.parametrize("text", ["፩፪", "፪፲", "፻፻", "፲፩፪", "፪፻፫፻", "5፲", "፲5", "፼" * 2000])
def test_ethiopic_signs_that_make_no_number_stay(text: str):
    assert ascii_numerals(text) == text


@settings(deadline=None, max_examples=300)
@given(st.one_of(st.integers(0, 20_000), st.integers(0, 10**12 - 1)))
def test_chinese_numbers_are_read_back(number: int):
    assert east_asian_numerals(chinese(number)) == str(number)
    assert east_asian_numerals(f"{chinese(number)}个") == f"{number}个"


@pytest.mark.parametrize(
    ("text", "read"),
    [
        ("十二", "12"),
        ("百二十三", "123"),
        ("三千五百", "3500"),
        ("1万2千", "12000"),
        ("3.5万", "35000"),
        ("5百万", "5000000"),
        ("1億2345万", "123450000"),
        ("二〇二四", "2024"),
        ("三億", "300000000"),
        ("一萬", "10000"),
        ("12", "12"),
    ],
)
def test_east_asian_numbers(text: str, read: str):
    assert east_asian_numerals(text) == read


@pytest.mark.parametrize(
    "text",
    ["万万", "十百", "百五", "一万五", "12百", "1,234万", "3.14159万", "1.2.3万", "零万"]
    + [sign * length for sign in "万千" for length in (40, 2000)],
)
def test_east_asian_signs_that_make_no_certain_number_stay(text: str):
    assert east_asian_numerals(text) == text


@pytest.mark.parametrize(
    ("text", "read"),
    [
        ("−5", "-5"),
        ("–5", "-5"),
        ("－１．５", "-1.5"),
        ("½", " 1/2"),
        ("2¾", "2 3/4"),
        ("x²", "x^{2}"),
        ("5¹⁰", "5^{10}"),
        ("90°", r"90^\circ"),
        ("1\u202f234", "1 234"),
        ("\u200f١٢\u200e", "12"),
        ("1\u200b2", "12"),
        ("٣٫٥", "3٫5"),
        ("١٬٢٣٤", "1٬234"),
        ("١٢٪", "12%"),
        ("1’234", "1'234"),
        ("₦5 $5 ￥5", "¤5 ¤5 ¤5"),
    ],
)
def test_signs_have_one_form(text: str, read: str):
    assert ascii_numerals(text) == read

"""What holds of every judgement, whatever is written."""

from __future__ import annotations

import time
from decimal import Decimal

from hypothesis import given, settings
from hypothesis import strategies as st

from opsd.grade import answers_match, is_correct
from opsd.grade.answer import answers_agree, compared
from opsd.grade.explain import explain
from opsd.grade.misread import based, repeats, subscripted
from opsd.grade.numerals import decimal_mark, one_number, tidy
from opsd.grade.verifier import MathVerifier
from opsd.grade.words import opposed
from opsd.languages.registry import codes
from opsd.types import Problem

NUMBERS = st.one_of(
    st.integers().map(str),
    st.decimals(allow_nan=False, allow_infinity=False, places=3).map(lambda d: f"{d:f}"),
    st.integers(-(10**9), 10**9).map(lambda n: f"{n:,}"),
    st.builds("{}/{}".format, st.integers(), st.integers(1, 999)),
    st.builds(r"{}\times10^{{{}}}".format, st.integers(1, 99), st.integers(-40, 40)),
    st.builds("{}e{}".format, st.integers(1, 99), st.integers(-40, 40)),
    st.builds("{}%".format, st.integers(-200, 200)),
    st.builds("{} {}".format, st.integers(0, 99), st.sampled_from(["km", "thousand", "%", "p.m."])),
    st.sampled_from(["seventy-two", "minus five", "½", "２", "٣٫٥", "፲፪", "三千五百", "0.0000004"]),
)
PIECES = [
    *r"0125.,;:=+-*/^_()[]{}\|!%$&~xei ",
    *(r"\frac{", r"\sqrt", r"\text{", r"\{", r"\}", r"\boxed{", r"\left(", r"\cdot ", r"\approx "),
    *(" and ", " or ", " million", "seventy", "-two", "at least ", " below zero", " p.m.", "W"),
    *("√", "∞", "≈", "×", "·", "²", "⁻", "½", "٣", "፼", "万", "만", "\0", "\u202e", "\ud800", "\n"),
]  # fmt: skip
WRITTEN = st.lists(st.sampled_from(PIECES), max_size=12).map("".join)


@settings(deadline=None)
@given(NUMBERS)
def test_a_number_is_itself_in_every_language(number: str):
    for code in codes():
        problem = Problem("?", answer=number, language=code)
        assert MathVerifier()(problem, rf"\boxed{{{number}}}").correct, code
        assert answers_agree(number, f" {number} ", code)


@settings(deadline=None)
@given(st.decimals(-(10**9), 10**9, places=2), st.sampled_from(codes()))
def test_a_number_as_its_language_writes_it_is_the_english_one(number: Decimal, code: str):
    english = f"{number:,}"
    mark = decimal_mark(code)
    own = english if mark == "." else english.translate({ord(","): ".", ord("."): ","})
    assert is_correct(rf"\boxed{{{own}}}", english, language=code)
    assert answers_agree(own, f"{number}".replace(".", mark), code)


@settings(deadline=None, max_examples=300)
@given(NUMBERS | WRITTEN, NUMBERS | WRITTEN)
def test_a_judgement_on_two_numbers_is_symmetric(one: str, other: str):
    if one_number(tidy(one)) and one_number(tidy(other)):
        assert answers_match(one, other) is answers_match(other, one)
    assert answers_agree(one, one) or not tidy(one)


@settings(deadline=None, max_examples=150)
@given(WRITTEN, WRITTEN)
def test_whatever_is_written_is_judged_in_time(answer: str, gold: str):
    start = time.monotonic()
    compared(answer, gold)
    if gold.strip():
        explain(
            Problem("?", answer=gold, id="x"), rf"<think>{answer}</think>\boxed{{{answer}", True
        )
    assert time.monotonic() - start < 120


def test_long_expressions_cost_no_time():
    start = time.process_time()
    for piece in [*PIECES, "seventy two ", "10^{", "5, ", "52_8+", "one hundred and "]:
        text = tidy("1" + piece * (2000 // len(piece)))
        one_number(text), repeats(text), based(text), subscripted(text), opposed(text, text)
    assert time.process_time() - start < 20  # milliseconds each; a quadratic pattern needs minutes

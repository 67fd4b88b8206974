"""Answers as speakers write them, against golds in English writing."""

from dataclasses import replace

import pytest

from opsd.grade import answers_match
from opsd.grade.answer import answers_agree
from opsd.grade.numerals import decimal_mark
from opsd.grade.verifier import MathVerifier
from opsd.languages.registry import codes, language
from opsd.types import Problem

ANYWHERE = [  # answer, gold, and a gold that it must not match
    ("১২", "12", "13"),
    ("१२", "12", "21"),
    ("١٢", "12", "2"),
    ("߁߂", "12", "1"),
    ("𞥑𞥒", "12", "13"),
    ("꘡꘢", "12", "13"),
    ("፲፪", "12", "102"),
    ("፪፻፵፭ ብር", "245", "2045"),
    ("１２", "12", "13"),
    ("０．５", "0.5", "5"),
    ("12 ብር", "12", "13"),
    (r"12\,\text{ብር}", "12", "13"),
    (r"\text{፲፪ ብር}", "12", "10"),
    ("1 234", "1234", "234"),
    ("1\u202f234", "1,234", "235"),
    ("0,5", "0.5", "5"),
    ("1.234.567 €", "1234567", "1.234567"),
    ("1.234,5", "1234.5", "1.2345"),
    ("১,২৩৪ টাকা", "1,234", "234"),
    ("१,००,०००", "100000", "1"),
    ("٣٫٥", "3.5", "35"),
    ("vitabu 12", "12", "1"),
    ("KSh 1,200", "1200", "200"),
    ("R1 200,50", "1200.5", "200.5"),
    ("₦276,000", "276,000", "27600"),
    ("三千五百元", "3500", "35"),
    ("12%", "12", "1.2"),
    ("½", "0.5", "12"),
    ("12½", "12.5", "12"),
]


@pytest.mark.parametrize(("answer", "gold", "other"), ANYWHERE)
def test_in_every_language(answer: str, gold: str, other: str):
    for code in [*codes(), "xyz"]:
        right = MathVerifier()(Problem("?", answer=gold, language=code), rf"\boxed{{{answer}}}")
        wrong = MathVerifier()(Problem("?", answer=other, language=code), rf"\boxed{{{answer}}}")
        assert (right.correct, wrong.correct) == (True, False), code


@pytest.mark.parametrize("code", [*codes(), "xyz"])
def test_a_lone_mark_is_read_as_in_the_problems_language(code: str):
    comma = code in codes() and language(code).decimal_mark == ","
    assert decimal_mark(code) == ("," if comma else ".")
    for answer in ("1.234 kg", "1.234"):
        verdict = MathVerifier()(Problem("?", answer="1234", language=code), rf"\boxed{{{answer}}}")
        assert verdict.correct is comma
    for answer in ("1,234 kg", "1,234"):
        verdict = MathVerifier()(
            Problem("?", answer="1.234", language=code), rf"\boxed{{{answer}}}"
        )
        assert verdict.correct is comma


def test_some_languages_have_a_comma():
    assert {decimal_mark(code) for code in codes()} == {".", ","}


@pytest.mark.parametrize("answer", ["1,234", "1,234 kg", "1,234.0"])
def test_the_english_reading_counts_in_every_language(answer: str):
    assert answers_match(answer, "1234", "deu") and answers_match(answer, "1234", "eng")


def test_golds_are_read_as_english_in_every_language():
    for code in codes():
        assert answers_match("276000", "276,000", code) and answers_match("1.5", "1.5", code)
        assert not answers_match("276", "276,000", code) and not answers_match("1.5", "1,5", code)
        assert answers_match("1, 5", "1,5", code)


@pytest.mark.parametrize(
    "answer",
    ["5 million", "milioni 5", "elfu 5", "5 ሚሊዮን", "5百万", "5 هزار ألف", "5t", "2x5", "5 x", "5π",
     "5 or 6", "5-6", "5:6", "5/6", "5 and a half", "5 na nusu", "minus 5", "负5", "5!", "5^{2}",
     "5 6", "(5, 6)", "{5}t", "5.5", "55", r"5\mathrm{i}", "五分之一", "5½"],
)  # fmt: skip
def test_what_is_not_said_to_be_five(answer: str):
    assert not any(answers_match(answer, "5", code) for code in ("eng", "deu", "swa"))


def test_only_where_the_gold_is_one_number_an_answer_is_read_so():
    assert not answers_match("1.5", "1,5", "deu")
    assert not answers_match("5 apples", "x = 5")
    assert not answers_match("2x 5 km", "2x + 5")


IN_WORDS = [  # language, answer, number
    ("swa", "kumi na mbili", 12), ("swa", "Ishirini na tano", 25), ("swa", "mia moja", 100),
    ("hau", "goma sha biyar", 15), ("hau", "arba\u2019in da ɗaya", 41),
    ("zsm", "lapan belas", 18), ("deu", "siebenundzwanzig", 27), ("deu", "null", 0),
    ("deu", "DREISSIG", 30), ("fra", "quatre-vingt-dix-sept", 97),
    ("fra", "quatre vingt dix sept", 97), ("fra", "septante et un", 71),
    ("spa", "veintidós", 22), ("por", "dezesseis", 16), ("por", "dezasseis", 16),
    ("ita", "ventotto", 28), ("rus", "сорок два", 42), ("rus", "две", 2),
    ("arb", "خمسة وعشرون", 25), ("arb", "خمسة وعشرين", 25), ("amh", "አስራ ስድስት", 16),
    ("amh", "አሥራ ስድስት", 16), ("ben", "পঁচিশ", 25), ("tel", "ఇరవై ఒకటి", 21),
    ("tha", "ยี่สิบเอ็ด", 21), ("vie", "hai mươi mốt", 21), ("ind", "delapan belas", 18),
    ("kor", "이십오", 25), ("kor", "스물다섯", 25), ("jpn", "二十五", 25), ("zho", "二十五", 25),
    ("eng", "twenty-five", 25), ("swa", r"\text{kumi na mbili}", 12), ("swa", "twelve", 12),
]  # fmt: skip


@pytest.mark.parametrize(("code", "answer", "number"), IN_WORDS)
def test_an_answer_may_be_in_the_words_of_its_language(code: str, answer: str, number: int):
    verifier, problem = MathVerifier(), Problem("?", answer=str(number), language=code)
    assert verifier(problem, rf"\boxed{{{answer}}}").correct
    assert not verifier(replace(problem, answer=str(number + 1)), rf"\boxed{{{answer}}}").correct
    assert answers_agree(answer, str(number), code)


def test_words_count_in_their_own_language_only_and_alone():
    for code, answer in (("deu", "kumi na mbili"), ("swa", "kumi na mbili na nusu")):
        problem = Problem("?", answer="12", language=code)
        assert not MathVerifier()(problem, rf"\boxed{{{answer}}}").correct


def test_a_gold_in_words_is_words():
    assert not answers_match("12", "kumi na mbili", "swa")
    assert answers_match("Kumi na mbili", "kumi na mbili", "swa")

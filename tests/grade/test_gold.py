"""Gold answers that no completion could match are found, and no others."""

import pytest

from opsd.grade.gold import gold_fault, gold_remarks
from opsd.types import Problem

SENTENCE = "48/2 = 24, so she sold 24 + 48 = 72 clips in both months"


@pytest.mark.parametrize(
    "gold",
    ["72", "72 clips", r"\frac{1}{2}", "3, 5", "Monday", "no real solutions", "2^{10}", "true",
     f"{SENTENCE}\n#### 72", rf"{SENTENCE}: \boxed{{72}}", "She sold 72 clips in both months",
     r"\begin{pmatrix}1\\2\end{pmatrix}", r"x = 2 \text{ and } y = 3 \text{ or } x = 3", "١٢"],
)  # fmt: skip
def test_answers_that_can_be_matched_are_no_fault(gold: str):
    assert gold_fault(Problem("?", answer=gold)) is None


@pytest.mark.parametrize(
    ("gold", "told"),
    [
        (SENTENCE, "sentences"),
        ("1+" * 2000 + "1", "not accepted"),
        ("{" * 3, "not accepted"),
        (".", "not accepted"),
    ],
)
def test_answers_that_nothing_matches_are_told(gold: str, told: str):
    assert told in str(gold_fault(Problem("?", answer=gold)))


def test_an_option_may_be_a_sentence_but_must_be_one_of_them():
    choices = {"choices": (SENTENCE, "other")}
    assert gold_fault(Problem("?", answer="A", metadata=choices)) is None
    assert "not accepted" in str(gold_fault(Problem("?", answer="C", metadata=choices)))


def test_remarks_count_and_show_the_first():
    bad = Problem("?", answer=SENTENCE, metadata={"where": "rows.jsonl, line 7"})
    given = [Problem("?", answer="4"), Problem("?"), bad, bad]
    ((remark, count),) = gold_remarks(given)
    assert count == 2 and "\n" not in remark
    assert remark.endswith(f"(first: rows.jsonl, line 7: '{SENTENCE}')")
    assert gold_remarks(given[:2]) == []

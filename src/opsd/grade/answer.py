r"""Is an answer right? The one comparison that rewards and evaluation share.

What is judged is the completion's last complete `\boxed{}`. Numbers and words are compared here;
anything else goes to Math-Verify in a process of its own, which may be killed (`process.py`).
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

from opsd.grade.format import answer_part, extract_boxed
from opsd.grade.numerals import (
    drop_unit,
    juxtaposed,
    normalise,
    plain_number,
    same_number,
    spelling,
)
from opsd.grade.process import Comparer

# No sensible final answer is longer, and the parser's time grows faster than the length.
MAX_ANSWER_CHARS = 2000
_comparer = Comparer()


def gold_answer(text: str) -> str:
    r"""The final answer in a reference: its last box, else what follows `####`, else all of it.

    `#### 42` ends the worked solutions of GSM8K (Cobbe et al. 2021, arXiv 2110.14168).

    >>> gold_answer("3 + 4 = 7 eggs\n#### 7"), gold_answer(r"so \boxed{8}"), gold_answer(" 9 ")
    ('7', '8', '9')
    """
    return extract_boxed(text) or text.rpartition("####")[2].strip()


def answers_match(answer: str, gold: str) -> bool:
    r"""Whether two answers are mathematically the same; `gold` may be a whole worked solution.

    The comparison is Math-Verify's where neither numbers nor words decide, and follows the gold's
    form: gold `5` accepts `x = 5`. A comparison that does not end in a second is False, as is an
    answer or gold of more than `MAX_ANSWER_CHARS` characters. Units are not compared.

    >>> answers_match("0.5", r"\frac{1}{2}"), answers_match("1,234", "#### 1234")
    (True, True)
    >>> answers_match("2", "3")
    False
    """
    answer = extract_boxed(answer) or answer
    gold = gold_answer(gold)
    if max(len(answer), len(gold)) > MAX_ANSWER_CHARS:
        return False
    answer, gold = normalise(answer), normalise(gold)
    if not answer or not gold:
        return False
    return answer == gold or _same_value(answer, gold)


@lru_cache(maxsize=65536)  # the rollouts of one group repeat each other, bombs included
def _same_value(answer: str, gold: str) -> bool:
    words, gold_words = spelling(answer), spelling(gold)
    if words is not None and gold_words is not None:
        return words == gold_words
    answer, gold = drop_unit(answer), drop_unit(gold)
    number, gold_number = plain_number(answer), plain_number(gold)
    if number is not None and gold_number is not None:
        return same_number(number, gold_number)
    if answer == gold:
        return True
    if juxtaposed(answer) or juxtaposed(gold):
        return False
    return _comparer.compare(answer, gold)


def is_correct(completion: str, gold: str, after_think: bool = False) -> bool:
    r"""Whether a completion's last `\boxed{}` holds the gold answer; no box is wrong.

    With `after_think` only what follows the last `</think>` counts, and a completion without one
    has not answered.

    >>> is_correct(r"2 + 2 = \boxed{4}", "4"), is_correct("2 + 2 = 4", "4")
    (True, False)
    >>> is_correct(r"<think>\boxed{4}</think> Five.", "4", after_think=True)
    False
    """
    answer = extract_boxed(answer_part(completion, after_think))
    return answer is not None and answers_match(answer, gold)


def grade_many(pairs: Sequence[tuple[str, str]], after_think: bool = False) -> list[bool]:
    r"""`is_correct` of many (completion, gold) pairs, in their order.

    >>> grade_many([(r"\boxed{4}", "4"), (r"\boxed{5}", "4")])
    [True, False]
    """
    return [is_correct(completion, gold, after_think) for completion, gold in pairs]

r"""Is an answer right? The one comparison that rewards and evaluation share.

The completion's last complete `\boxed{}` is judged. Two numbers, two words, and expressions that
Math-Verify would misread (`misread.py`) are compared here. Anything else goes to Math-Verify, in a
separate process, which may be killed (`process.py`). If the gold is one number, an answer is right
if it reads as that number in English, or in the problem's language.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache

from opsd.grade.format import answer_part, extract_boxed
from opsd.grade.letters import lettered
from opsd.grade.misread import based, juxtaposed, repeats, subscripted
from opsd.grade.numerals import normalise, one_number, readings, same_number, tidy
from opsd.grade.process import Comparer
from opsd.grade.words import drop_unit, opposed, spelling

# No sensible final answer is longer, and the parser's time grows faster than the length.
MAX_ANSWER_CHARS = 2000
_RATIO = re.compile(r"\d ?:")
_comparer = Comparer()


@dataclass(frozen=True)
class Comparison:
    """Whether two answers are the same, and why, in words."""

    same: bool
    why: str


def gold_answer(text: str) -> str:
    r"""The final answer in a reference: the content of its last box, else of its last `<answer>`,
    else what follows `####`, else all of it.

    `#### 42` ends the worked solutions of GSM8K (Cobbe et al. 2021, arXiv 2110.14168), and
    `<answer>42</answer>` those of DeepSeek-R1 (arXiv 2501.12948).

    >>> gold_answer("3 + 4 = 7 eggs\n#### 7"), gold_answer(r"so \boxed{8}"), gold_answer(" 9 ")
    ('7', '8', '9')
    >>> gold_answer("<think>2 + 2</think> <answer> 4 </answer>")
    '4'
    """
    if boxed := extract_boxed(text):
        return boxed
    tagged = text.rpartition("</answer>")[0].rpartition("<answer>")
    return (tagged[2] if tagged[1] else text.rpartition("####")[2]).strip()


def answers_match(answer: str, gold: str, language: str = "eng") -> bool:
    r"""Whether two answers are mathematically the same; `gold` may be a whole worked solution.

    Math-Verify compares if neither numbers nor words decide. The comparison follows the gold's
    form: gold `5` accepts `x = 5`. If the gold is one number, in English writing, the answer may be
    that number in any script, with units, with grouped digits, with the decimal mark of its
    `language` (a code), or in the language's words. Units are not compared. The result is False if
    the comparison takes longer than a second, or an answer or gold has more than
    `MAX_ANSWER_CHARS` characters.

    >>> answers_match("0.5", r"\frac{1}{2}"), answers_match("1,234", "#### 1234")
    (True, True)
    >>> answers_match("1.234,50 kg", "1234.5", "deu"), answers_match("\u09e7\u09e8", "12")
    (True, True)
    >>> answers_match("kumi na mbili", "12", "swa"), answers_match("2", "3")
    (True, False)
    """
    return compared(answer, gold, language).same


def compared(answer: str, gold: str, language: str = "eng") -> Comparison:
    """Like `answers_match`, with the reason."""
    answer = extract_boxed(answer) or answer
    gold = gold_answer(gold)
    if max(len(answer), len(gold)) > MAX_ANSWER_CHARS:
        return Comparison(False, f"more than {MAX_ANSWER_CHARS:,} characters are not an answer")
    answer, gold = tidy(answer), tidy(gold)
    if not answer or not gold:
        return Comparison(False, "one of the two is empty")
    if answer == gold:
        return Comparison(True, f"both are written '{gold}'")
    return _same_value(answer, gold, language)


@lru_cache(maxsize=65536)  # the rollouts of one group repeat each other, bombs included
def _same_value(answer: str, gold: str, language: str) -> Comparison:
    if opposed(answer, gold):
        return Comparison(False, f"'{answer}' is on the side opposite to '{gold}'")
    told = _as_numbers(answer, gold, language) or _as_words(answer, gold)
    if told is not None:
        return told
    answer, gold = drop_unit(normalise(answer)), drop_unit(normalise(gold))
    if answer == gold:
        return Comparison(True, f"without units and in plain digits both are '{gold}'")
    told = _as_written(answer, gold)
    if told is not None:
        return told
    same = _comparer.compare(answer, gold)
    said = "takes for the same" if same else "does not take for the same, or not within a second:"
    return Comparison(same, f"Math-Verify {said} '{answer}' and '{gold}'")


def _as_numbers(answer: str, gold: str, language: str) -> Comparison | None:
    """The judgement if the gold is one number and the answer is a number or words; else None."""
    named = "=" in gold or _RATIO.search(gold)  # `x = 5` is more than 5, and 3:4 is two numbers
    number = None if named else one_number(gold)
    if number is None:
        return None
    read = readings(answer, language)
    if any(same_number(reading, number) for reading in read):
        return Comparison(True, f"'{answer}', read as one number, is {number}")
    if read:
        return Comparison(False, f"'{answer}' is the number {read[-1]}, not {number}")
    if spelling(answer) is not None:
        return Comparison(False, f"'{answer}' is words, but the gold is the number {number}")
    return None


def _as_words(answer: str, gold: str) -> Comparison | None:
    """The judgement if both are words, or the gold is an option's letter; else None."""
    words, gold_words = spelling(answer), spelling(gold)
    if words is not None and gold_words is not None:
        return Comparison(words == gold_words, f"compared as words: '{words}' and '{gold_words}'")
    if len(gold) == 1 and gold.isupper() and (said := lettered(answer)) is not None:
        return Comparison(said[0] == gold, f"'{answer}' is the option {said[0]}")
    return None


def _as_written(answer: str, gold: str) -> Comparison | None:
    """The judgement on two expressions from which a parser would drop information; else None."""
    if juxtaposed(answer) or juxtaposed(gold):
        return Comparison(False, "numbers stand next to each other, and are not added up")
    if repeats(answer) != repeats(gold):
        return Comparison(False, "one of the two repeats an element, the other does not")
    one, other = based(answer), based(gold)
    if one or other:
        digits = [x.digits if x else text for x, text in ((one, answer), (other, gold))]
        bases = {x.base for x in (one, other) if x}
        same = digits[0] == digits[1] and len(bases) == 1  # the problem may state the base
        return Comparison(same, f"digits and base of '{answer}' compared with those of '{gold}'")
    if subscripted(answer) or subscripted(gold):
        return Comparison(False, "digits with subscripts are only compared as written")
    return None


def answers_agree(one: str, other: str, language: str = "eng") -> bool:
    """Whether two answers in one language are the same; neither is a gold answer written as in
    English.

    >>> answers_agree("1,5", "1.50", "deu"), answers_agree("1.234,5 kg", "1234,5", "deu")
    (True, True)
    >>> answers_agree("1.234", "1,234", "deu")
    False
    """
    if max(len(one), len(other)) > MAX_ANSWER_CHARS:
        return one == other
    first, second = tidy(one), tidy(other)
    numbers = [readings(x, language)[:1] for x in (first, second)]
    if all(numbers) and not opposed(first, second):
        return same_number(*numbers[0], *numbers[1])
    return answers_match(one, other, language)


def is_correct(
    completion: str, gold: str, after_think: bool = False, language: str = "eng"
) -> bool:
    r"""Whether a completion's last `\boxed{}` contains the gold answer; without a box it is wrong.

    `language` is the code of the completion's language. With `after_think` only what follows the
    last `</think>` counts, and a completion without `</think>` has not answered.

    >>> is_correct(r"2 + 2 = \boxed{4}", "4"), is_correct("2 + 2 = 4", "4")
    (True, False)
    >>> is_correct(r"<think>\boxed{4}</think> Five.", "4", after_think=True)
    False
    """
    answer = extract_boxed(answer_part(completion, after_think))
    return answer is not None and answers_match(answer, gold, language)

"""Values that nobody meant to write: texts, numbers, rows and answers, drawn by chance."""

from __future__ import annotations

import json
import random
from typing import Any

TEXTS = (
    *("", " ", "\0", "\ufeff", "\u202e", "\ud83d", "\U0001f642", "a\u0301\u0323", "\r\n"),
    *("\\", '"', "NaN", "inf", "-0", "1e400", "٣٫١٤", "१२", "三", "½", "２", "0x1F"),
    *("1,000.5", "1.000,5", "{{ x }}", "{% raw %}", "<script>", "../../etc"),
    *("<think>", "</think>", "<|im_end|>"),
)
LATEX = (
    *(r"\frac{1}{2}", r"\frac", r"\sqrt[3]{x}", r"\boxed{4}", r"\boxed{", r"\text{ m}", r"\pm"),
    *(r"\begin{pmatrix}1&2\\3&4\end{pmatrix}", r"\infty", r"9^{9^{9^9}}", r"10!!!!", r"x^{1/x}"),
    *(r"\int_0^1 x dx", r"\sum_{n=1}^\infty \frac{1}{n^2}", r"\{1,2\}", "(1,2]", r"\%", r"\left("),
    *(r"\right)", "}", "{", "$", "=", "+", "-", "*", "/", "^", "_", ",", ";", "x", "y", "i", "e"),
    *("12", "3.5", "0.000001", "1/3", "yes", "B", "kumi na mbili", r"\cup", r"\le", r"\sin(x)"),
)
COLUMNS = (
    *("problem", "question", "prompt", "messages", "answer", "solution", "translation"),
    *("language", "choices", "id", "demonstration", "problem_en", "level", "", "\ud83d"),
)


def text(chance: random.Random) -> str:
    pieces = [*TEXTS, "2 + 2?", "4", r"\boxed{4}", "Ndizi ngapi?"]
    return "".join(chance.choices(pieces, k=chance.choice((1, 1, 2, 5))))


def value(chance: random.Random, depth: int = 0) -> Any:
    """Whatever JSON can hold, and Python's JSON besides (NaN, infinities)."""
    kind = chance.randrange(10 if depth < 3 else 7)
    if kind == 7:
        return [value(chance, depth + 1) for _ in range(chance.randrange(4))]
    if kind > 7:
        return {text(chance): value(chance, depth + 1) for _ in range(chance.randrange(4))}
    plain = (None, True, chance.uniform(-9, 9), float("nan"), chance.choice((0, -1, 10**30)))
    return plain[kind] if kind < len(plain) else text(chance)


def row(chance: random.Random) -> bytes:
    """A line of a JSONL file: a row as it ought to be, of which a thing or two is not."""
    made: dict[str, Any] = {"problem": "2 + 2?", "answer": "4", "solution": r"\boxed{4}"}
    for _ in range(chance.randrange(4)):
        made[chance.choice(COLUMNS)] = value(chance)
    if chance.random() < 0.3:
        del made[chance.choice(list(made))]
    line = json.dumps(made if chance.random() < 0.95 else value(chance)).encode()
    if chance.random() < 0.2:
        place = chance.randrange(len(line) + 1)
        line = line[:place] + chance.randbytes(chance.randrange(3)) + line[place + 1 :]
    return line + chance.choice((b"\n", b"\n", b"", b"\n\n", b"\r\n"))


def answer(chance: random.Random) -> str:
    """Something between a number and nonsense."""
    if chance.random() < 0.5:
        number = f"{chance.uniform(-1e4, 1e4):.{chance.randrange(5)}f}"
        return chance.choice(("{}", "{} m", "{}%", r"\frac{{{}}}{{3}}", "x = {}")).format(number)
    pieces = chance.choices((*LATEX, *TEXTS), k=chance.choice((1, 2, 4, 9, 40)))
    return chance.choice(("", " ")).join(pieces)

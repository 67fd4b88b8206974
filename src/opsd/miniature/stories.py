"""Stories without words: who has what, what happens, and the sums that answer the question.

A story is told in any language by `lexicon.py`, so all languages share its numbers and answer.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from random import Random

PEOPLE = {
    "Amina": "f",
    "Zodwa": "f",
    "Bola": "f",
    "Neema": "f",
    "Musa": "m",
    "Themba": "m",
    "Ade": "m",
    "Juma": "m",
}
NOUNS = ("mango", "orange", "egg", "book", "banana", "goat", "chicken", "pen")
LARGEST = 40
PLUS = ("buy", "find", "get")
MINUS = ("sell", "lose", "give")
SPLITS = {"pretraining": (0, 70), "train": (70, 84), "dev": (84, 89), "test": (89, 100)}
"""Ranges of signatures' hashes, in percent: the hash decides which split a signature belongs to."""


@dataclass(frozen=True)
class Sum:
    """One step of the solution."""

    left: int
    sign: str
    right: int

    @property
    def value(self) -> int:
        """The result of the sum."""
        if self.sign == "x":
            return self.left * self.right
        return self.left + self.right if self.sign == "+" else self.left - self.right

    @property
    def open(self) -> str:
        """The sum without its result."""
        return f"{self.left} {self.sign} {self.right}"

    def stated(self, value: int) -> str:
        """The sum as it is written with this result, right or wrong."""
        return f"{self.open} = {value}"

    def __str__(self) -> str:
        return self.stated(self.value)


@dataclass(frozen=True)
class Line:
    """One sentence: the name of its phrase, its numbers by name, and the sums that it requires."""

    phrase: str
    numbers: tuple[tuple[str, int], ...] = ()
    sums: tuple[Sum, ...] = ()


@dataclass(frozen=True)
class Story:
    """A problem before it has words."""

    shape: str
    lines: tuple[Line, ...]
    name: str
    friend: str
    noun: str

    @property
    def sums(self) -> tuple[Sum, ...]:
        """The solution's steps in order."""
        return tuple(s for line in self.lines for s in line.sums)

    @property
    def answer(self) -> int:
        """The result of the last step."""
        return self.sums[-1].value

    @property
    def numbers(self) -> tuple[int, ...]:
        """The numbers in the order in which the story tells them."""
        return tuple(n for line in self.lines for _, n in line.numbers)

    @property
    def template(self) -> str:
        """The shape and the signs of its sums, which problems share that only differ in numbers."""
        return self.shape + "".join(s.sign for s in self.sums)

    @property
    def split(self) -> str:
        """The only split that may contain this template with these numbers."""
        signature = f"{self.template} {self.numbers}"
        percent = int.from_bytes(hashlib.sha256(signature.encode()).digest()[:8], "big") % 100
        return next(name for name, (low, high) in SPLITS.items() if low <= percent < high)


def stories(
    seed: str, split: str, steps: tuple[int, ...], largest: int = LARGEST
) -> Iterator[Story]:
    """Yields stories of a split endlessly, the same ones for the same seed. `steps` are the numbers
    of sums to draw from; no result exceeds `largest`. No signature occurs twice among any thousand
    stories."""
    random = Random(f"{seed} {split}")
    recent: dict[tuple[str, tuple[int, ...]], None] = {}
    while True:
        story = _draw(random, random.choice(steps))
        signature = (story.template, story.numbers)
        small = all(s.value <= largest for s in story.sums)
        if not small or story.split != split or signature in recent:
            continue
        recent[signature] = None
        if len(recent) > 1000:
            del recent[next(iter(recent))]
        yield story


def _draw(random: Random, steps: int) -> Story:
    shapes = (_hold, _hold, _baskets, _friends, _pair, _spend)
    name, friend = random.sample(sorted(PEOPLE), 2)
    noun = random.choice(NOUNS)
    while True:
        shape = random.choice(shapes)
        lines = shape(random, steps)
        values = [s.value for line in lines or () for s in line.sums]
        if lines and len(values) == steps and all(1 <= v <= LARGEST for v in values):
            return Story(shape.__name__.strip("_"), tuple(lines), name, friend, noun)


def _event(random: Random, value: int, times: bool = True) -> Line:
    sign = random.choice("++--x" if times else "+-")
    if sign == "x" and value <= LARGEST // 2:
        factor = random.randint(2, min(5, LARGEST // value))
        return Line("times", (("n", factor),), (Sum(value, "x", factor),))
    if value <= 2 or (sign != "-" and value < LARGEST - 2):
        n = random.randint(2, min(25, LARGEST - value))
        return Line(random.choice(PLUS), (("n", n),), (Sum(value, "+", n),))
    n = random.randint(2, min(25, value - 1)) if value > 2 else 1
    return Line(random.choice(MINUS), (("n", n),), (Sum(value, "-", n),))


def _events(random: Random, lines: list[Line], value: int, count: int) -> list[Line]:
    for _ in range(count):
        lines.append(_event(random, value, times=all(x.phrase != "times" for x in lines)))
        value = lines[-1].sums[-1].value
    return lines


def _hold(random: Random, steps: int) -> list[Line]:
    start = random.randint(3, 36)
    lines = _events(random, [Line("has", (("a", start),))], start, steps)
    return [*lines, Line("ask_now")]


def _baskets(random: Random, steps: int) -> list[Line]:
    a, b = random.randint(2, 9), random.randint(2, 12)
    first = Line("baskets", (("a", a), ("n", b)), (Sum(a, "x", b),))
    if a * b > LARGEST:
        return []
    return [*_events(random, [first], a * b, steps - 1), Line("ask_now")]


def _friends(random: Random, steps: int) -> list[Line]:
    start, k, n = random.randint(3, 30), random.randint(2, 6), random.randint(2, 9)
    sums = (Sum(k, "x", n), Sum(start, "+", k * n))
    lines = [Line("has", (("a", start),)), Line("friends", (("k", k), ("n", n)), sums)]
    if sums[1].value > LARGEST:
        return []
    return [*_events(random, lines, sums[1].value, steps - 2), Line("ask_now")]


def _pair(random: Random, steps: int) -> list[Line]:
    start = random.randint(3, 20)
    lines = _events(random, [Line("has", (("a", start),))], start, steps - 2)
    value = lines[-1].sums[-1].value if steps > 2 else start
    n = random.randint(2, 20)
    sign, phrase = random.choice((("+", "more"), ("-", "fewer")))
    other = Sum(value, sign, n)
    lines.append(Line(phrase, (("n", n),), (other,)))
    return [*lines, Line("ask_together", (), (Sum(value, "+", other.value),))]


def _spend(random: Random, steps: int) -> list[Line]:
    value = random.randint(8, LARGEST)
    lines = [Line("coins", (("a", value),))]
    for _ in range(steps - 2):
        n = random.randint(2, 20)
        lines.append(Line("earn", (("n", n),), (Sum(value, "+", n),)))
        value += n
    k, n = random.randint(2, 6), random.randint(2, 9)
    sums = (Sum(k, "x", n), Sum(value, "-", k * n))
    lines.append(Line("spend", (("k", k), ("n", n)), sums))
    return [*lines, Line("ask_coins")]

"""The worlds' problems: nothing leaks between splits, all languages tell the same story."""

import re

import pytest
from tools.miniature.pretrain import PRETRAININGS, Texts

from opsd.authors.anchoring import anchored, named
from opsd.languages.registry import language
from opsd.miniature.lexicon import lexicon, sentences
from opsd.miniature.stories import SPLITS
from opsd.miniature.tokenizer import build_tokenizer
from opsd.miniature.world import LANGUAGES, LOW_RESOURCE, SIZES, WORLDS, problems
from opsd.types import UserError

SUM = re.compile(r"(\d+) ([+x-]) (\d+) = (\d+)")
VERBS = {"buys": 1, "finds": 1, "earns": 1, "sells": -1, "loses": -1}


def value(left: int, sign: str, right: int) -> int:
    return {"+": left + right, "-": left - right, "x": left * right}[sign]


def solve(text: str) -> int:
    """Read an English problem: an independent account of what each sentence means."""
    amount, other = 0, None
    for sentence in re.findall(r"[^.?]+[.?]", text):
        numbers = [int(n) for n in re.findall(r"\d+", sentence)]
        words = sentence.split()
        if "baskets" in words or "friends" in words:
            amount += numbers[0] * numbers[1]
        elif "each." in words:
            amount -= numbers[0] * numbers[1]
        elif "times" in words:
            amount *= numbers[0]
        elif "than" in words:
            other = amount + (numbers[0] if "more" in words else -numbers[0])
        elif "gives" in words:
            amount += numbers[0] if "more." in words else -numbers[0]
        elif verb := VERBS.keys() & words:
            amount += VERBS[verb.pop()] * numbers[0]
        elif "has" in words:
            amount = numbers[0]
        elif "together?" in words:
            amount += other
    return amount


def signatures(world: str, split: str) -> set:
    rows = problems(world, split, "eng")
    return {(p.metadata["template"], tuple(p.metadata["numbers"])) for p in rows}


@pytest.mark.parametrize("world", WORLDS)
def test_no_signature_is_in_two_splits(world):
    of = {split: signatures(world, split) for split in SPLITS}
    for split in ("train", "dev", "test"):
        assert len(of[split]) == SIZES[split]
        for other in SPLITS:
            assert split == other or not of[split] & of[other]


@pytest.mark.parametrize("world", WORLDS)
def test_no_step_comes_to_more_than_its_world_has(world):
    sums = [SUM.findall(p.metadata["trace"]) for p in problems(world, "train", "eng")]
    largest = max(int(total) for steps in sums for *_, total in steps)
    assert WORLDS[world].largest - 3 < largest <= WORLDS[world].largest


def test_pretraining_draws_from_its_own_split_only():
    texts = Texts(PRETRAININGS["miniature"], build_tokenizer())
    assert all(next(texts.stories).split == "pretraining" for _ in range(500))


@pytest.mark.parametrize("world", WORLDS)
@pytest.mark.parametrize("split", ["train", "test"])
def test_the_english_text_says_what_the_answer_is(world, split):
    for p in problems(world, split, "eng"):
        assert str(solve(p.text)) == p.answer, p.text


@pytest.mark.parametrize("world", WORLDS)
@pytest.mark.parametrize("code", LANGUAGES)
def test_worked_solutions_are_right(world, code):
    for p in problems(world, "test", code):
        for text in (p.privileged["solution"], p.metadata["trace"]):
            steps = SUM.findall(text)
            assert all(str(value(int(a), s, int(b))) == c for a, s, b, c in steps), text
            assert re.findall(r"\\boxed\{(\d+)\}", text) == [p.answer]
            assert steps[-1][3] == p.answer


@pytest.mark.parametrize("world", WORLDS)
def test_problems_are_parallel(world):
    english = problems(world, "test", "eng")
    for code in LOW_RESOURCE:
        for p, e in zip(problems(world, "test", code), english, strict=True):
            assert p.answer == e.answer and p.language == code and p.text != e.text
            assert re.findall(r"\d+", p.text) == re.findall(r"\d+", e.text)
            told = {"translation": e.text, "solution": e.privileged["solution"]}
            assert p.privileged == told
            assert [int(n) for n in re.findall(r"\d+", p.text)] == p.metadata["numbers"]


def test_the_same_every_time_and_shorter_lists_are_prefixes():
    assert problems("miniature", "dev", "swa", 7) == problems("miniature", "dev", "swa")[:7]
    (first,) = problems("miniature", "test", "eng", 1)
    assert first.text.startswith("Zodwa has 11 chickens. She finds 2 more. She buys 9 more. How")


@pytest.mark.parametrize("code", LANGUAGES)
def test_every_language_says_the_same_phrases(code):
    words, english = lexicon(code), lexicon("eng")
    assert words.phrases.keys() == english.phrases.keys()
    assert words.trace.keys() == english.trace.keys()
    assert words.nouns.keys() == english.nouns.keys()
    assert all("{" not in s for s in sentences(code) if "boxed" not in s)
    assert language(code).verified is (code == "eng")


def test_a_language_teaches_in_its_own_words():
    for code in LOW_RESOURCE:
        assert language(code).instruction != language("eng").instruction
        assert r"\boxed{}" in language(code).instruction


@pytest.mark.parametrize(
    "row", [("nowhere", "test", "eng"), ("miniature", "exam", "eng"), ("miniature", "test", "fra")]
)
def test_unknown_names_are_the_users_error(row):
    with pytest.raises(UserError, match="miniature-long"):
        problems(*row)


def test_more_problems_than_there_are():
    with pytest.raises(UserError, match="300"):
        problems("miniature", "test", "eng", 301)


@pytest.mark.parametrize("code", ["swa", "yor"])
def test_a_remark_names_the_problem_and_lacks_its_answer(code):
    kept = 0
    for problem in problems("miniature-pair", "test", code, 100):
        concept, feedback = problem.metadata["remark"]
        assert named(concept, problem.text)
        assert SUM.findall(feedback) == SUM.findall(problem.metadata["trace"])[:-1]
        told, fault = anchored(f"CONCEPT: {concept}\nFEEDBACK: {feedback}", problem)
        assert fault in (None, "short")
        kept += told == feedback
    assert kept > 80  # an answer may be among the numbers of a step before

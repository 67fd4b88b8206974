"""Verifiers beside the mathematical one, and the one place that asks them."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import pytest

from opsd.grade.code import UnitTestVerifier
from opsd.grade.judge import judge
from opsd.grade.rewards import RewardFuncs
from opsd.grade.texts import JSONVerifier, MatchVerifier, RegexVerifier, fenced
from opsd.grade.verifier import MathVerifier
from opsd.grade.verifiers import SHIPPED, verifier, written
from opsd.types import Attempt, Problem, UserError, Verdict

ASKED = Problem("Capital of Kenya?", answer="Nairobi", id="kenya")


def right(judge_of: Any, text: str, problem: Problem = ASKED) -> bool:
    (verdict,) = judge(judge_of, [Attempt(problem, text)])
    assert verdict is not None and verdict.reward == float(verdict.correct)
    return verdict.correct


@pytest.mark.parametrize(
    ("how", "gold", "said", "same"),
    [
        ({"answer": "all"}, "Nairobi", "  nairobi. ", True),
        ({"answer": "all", "ignore": ()}, "Nairobi", "nairobi", False),
        ({"answer": "all", "ignore": ()}, "Nairobi", " Nairobi\n", True),
        ({"answer": "last_line"}, "Nairobi", "Let me think.\nNairobi!", True),
        ({"answer": "last_line"}, "Nairobi", "Nairobi\nor Mombasa", False),
        ({}, "Nairobi", r"It is \boxed{NAIROBI}", True),
        ({}, "Nairobi", "Nairobi", False),
        ({"answer": "all", "ignore": ("articles", "case")}, "the Nile", "Nile", True),
        ({"answer": "all", "ignore": ("accents",)}, "Abéché", "Abeche", True),
        ({"answer": "all"}, "Abéché", "Abeche", False),
        ({"answer": "all"}, "-5", "5", False),
        ({"answer": "all"}, "3.5", "35", False),
        ({"answer": "all"}, "co-op", "co op", True),
        ({"answer": "all", "after_think": True}, "Nairobi", "<think>Nairobi", False),
        ({"answer": "all", "after_think": True}, "Nairobi", "<think>hm</think>Nairobi", True),
    ],
)
def test_a_match(how: dict[str, Any], gold: str, said: str, same: bool):
    assert right(MatchVerifier(**how), said, Problem("?", answer=gold)) is same


def test_any_of_several_answers_matches():
    problem = Problem("?", metadata={"columns": {"aliases": ["Lagos", "Eko"]}})
    eko = MatchVerifier(answer="all", column="aliases")
    assert right(eko, "eko", problem) and not right(eko, "Ibadan", problem)
    assert not eko.needs_answer and MatchVerifier().needs_answer
    with pytest.raises(UserError, match=r"problem .* has no 'aliases' to compare with"):
        judge(eko, [Attempt(ASKED, "x")])


def test_a_pattern_is_found_or_its_answer_compared():
    shape = RegexVerifier(r"\A<a>.*</a>\Z")
    assert right(shape, "<a>x</a>") and not right(shape, "<a>x") and not shape.needs_answer
    named = RegexVerifier(r"Answer: (?P<answer>\w+)")
    assert right(named, "Answer: Mombasa? No. Answer: nairobi") and named.needs_answer
    assert not right(named, "Answer: nairobi. Answer: Mombasa")
    assert named.said(ASKED, "Answer: x") == "x" and named.said(ASKED, "x") is None


def test_a_pattern_that_takes_forever_finds_nothing():
    start = time.monotonic()
    assert not right(RegexVerifier(r"(a|a)*$"), "a" * 60 + "b")
    assert time.monotonic() - start < 30
    assert right(RegexVerifier("a"), "a")  # and the next one is judged


SCHEMA = {"type": "object", "required": ["n"], "properties": {"n": {"type": "integer"}}}


@pytest.mark.parametrize(
    ("text", "valid", "json", "told"),
    [
        ('{"n": 1}', True, True, None),
        ('Here:\n```json\n{"n": 2}\n```\nDone', True, True, None),
        ('{"n": "1"}', False, True, "$.n: '1' is not of type 'integer'"),
        ("{}", False, True, "$: 'n' is a required property"),
        ("n = 1", False, False, "it is not JSON"),
        ("[" * 100_000, False, False, "it is not JSON"),
    ],
)
def test_json_of_a_schema(text: str, valid: bool, json: bool, told: str | None):
    (verdict,) = judge(JSONVerifier(SCHEMA), [Attempt(ASKED, text)])
    assert verdict is not None and (verdict.correct, verdict.format_ok) == (valid, json)
    assert verdict.feedback is None if told is None else told in str(verdict.feedback)


def test_each_problem_may_bring_its_schema_and_references_lead_nowhere():
    own = Problem("?", id="p", metadata={"columns": {"schema": '{"type": "array"}'}})
    assert right(JSONVerifier(), "[]", own) and not right(JSONVerifier(), "{}", own)
    with pytest.raises(UserError, match="problem kenya has no schema in a column 'schema'"):
        judge(JSONVerifier(), [Attempt(ASKED, "[]")])
    with pytest.raises(UserError, match="a reference that leads nowhere"):
        judge(JSONVerifier({"$ref": "http://127.0.0.1:9/x"}), [Attempt(ASKED, "[]")])
    with pytest.raises(UserError, match="its schema is not valid"):
        judge(JSONVerifier({"type": "thing"}), [Attempt(ASKED, "[]")])


def test_the_last_fenced_block_counts():
    assert fenced("```py\na\n```\n```python\nb\n```\n```\nc\n```", "python") == "b\n"
    assert fenced("~~~\nc\n~~~", "python") == "c\n"
    assert fenced("no block", "python") == "no block"
    assert fenced("```python\nnever closed", "python") == "```python\nnever closed"


def test_unit_tests_of_code():
    tests = ["assert add(1, 2) == 3", "assert add(-1, 1) == 0", "assert add('a', 'b') == 'ab'"]
    problem = Problem("Add.", metadata={"columns": {"tests": tests}})
    texts = [
        "```python\ndef add(a, b):\n    return a + b\n```",
        "```python\ndef add(a, b):\n    return int(a) + int(b)\n```",
        "def add(a, b:",
        "import os\nos._exit(0)",
    ]
    attempts = [Attempt(problem, text) for text in texts]
    whole, part, broken, gone = judge(UnitTestVerifier(reward="share"), attempts)
    assert whole == Verdict(1.0, True, True)
    assert part is not None and part.reward == pytest.approx(2 / 3) and not part.correct
    assert "1 of 3 tests fail" in str(part.feedback) and "add('a', 'b')" in str(part.feedback)
    assert broken is not None and not broken.format_ok and "SyntaxError" in str(broken.feedback)
    assert gone is not None and gone.reward == 0 and "ended its process" in str(gone.feedback)
    (all_or_none,) = judge(UnitTestVerifier(), attempts[1:2])
    assert all_or_none is not None and all_or_none.reward == 0
    with pytest.raises(UserError, match="problem kenya has no tests in a column 'tests'"):
        judge(UnitTestVerifier(), [Attempt(ASKED, "x = 1")])


class Many:
    """Says whatever it is made with."""

    def __init__(self, said: Any) -> None:
        self.said_of_all = said

    def __call__(self, problem: Problem, completion: str) -> Verdict | None:
        return None

    def many(self, attempts: Any) -> Any:
        return self.said_of_all


def failing(problem: Problem, completion: str) -> Verdict:
    raise KeyError("tests")


FINE = Verdict(1.0, True, True)


@pytest.mark.parametrize(
    ("judging", "told"),
    [
        (lambda p, c: 1.0, "gave 1.0 for problem kenya: it must return a Verdict, or None"),
        (lambda p, c: Verdict(float("nan"), True, True), "the reward nan for problem kenya"),
        (lambda p, c: Verdict("1", True, True), "the reward '1' for problem kenya"),
        (lambda p, c: Verdict(1.0, 1, True), "`correct` as 1 for problem kenya: it must be a"),
        (lambda p, c: Verdict(1.0, True, True, 3), "the feedback 3 for problem kenya"),
        (failing, "failed on problem kenya: KeyError: 'tests'; fix it, or return None"),
        (Many([FINE, FINE]), "gave 2 for problem kenya: `many` must return a list with"),
        (Many(None), "gave None for problem kenya"),
        (Many([0.5]), "gave 0.5 for problem kenya"),
    ],
)
def test_what_is_no_verdict_is_one_line_with_the_problem(judging: Any, told: str):
    with pytest.raises(UserError) as error:
        judge(judging, [Attempt(ASKED, "x")])
    assert told in str(error.value) and "\n" not in str(error.value)


def test_none_is_no_verdict_and_nothing_asks_nothing():
    assert judge(lambda p, c: None, [Attempt(ASKED, "x")]) == [None]
    assert judge(failing, []) == []


def test_names_and_keys_lead_to_verifiers_and_back():
    for text in ("multiple_choice", "{type: match, answer: all}", "{after_think: true}"):
        made = verifier(text)
        assert verifier(str(written(made)).replace("'", '"')) == made
    assert verifier("math") == MathVerifier()
    assert verifier(f"{__name__}:failing") is failing
    assert len({kind.type for kind in SHIPPED}) == len(SHIPPED)
    for text, told in (
        ("mtch", "it is math, multiple_choice, match, .* not 'mtch'"),
        ("nowhere:Judge", "there is no 'nowhere:Judge'"),
        ("{type: regex, pattern: 'a('}", "pattern: not a regular expression"),
        ("json:dumps", r"cannot be called as verifier\(problem, completion\)"),
    ):
        with pytest.raises(UserError, match=told):
            verifier(text)


def length(completions, completion_ids, **columns):
    return [float(len(ids)) for ids in completion_ids]


def exact(prompts, completions, answer, **columns):
    return [float(c == a) if a else None for c, a in zip(completions, answer, strict=True)]


async def patient(completions, **columns):
    await asyncio.sleep(0)
    return [1 for _ in completions]


def test_reward_functions_are_called_with_the_columns_and_weighted():
    attempts = [
        Attempt(ASKED, "Nairobi", (1, 2, 3)),
        Attempt(Problem("Free.", id="free"), "anything", (4,)),
    ]
    funcs = RewardFuncs((exact, length, patient), weights=(1.0, -0.1, 0.5), correct_at=1.0)
    first, second = judge(funcs, attempts)
    assert first is not None and first.reward == pytest.approx(1 - 0.3 + 0.5) and first.correct
    assert second is not None and second.reward == pytest.approx(-0.1 + 0.5) and not second.correct
    assert judge(RewardFuncs((exact,)), attempts) == [FINE, None]
    named = RewardFuncs((f"{__name__}:exact",))
    assert judge(named, attempts[:1]) == [FINE] and written(named)["funcs"] == [f"{__name__}:exact"]


def same_as_trl(*functions: Any, talking: bool) -> None:
    """What TRL's own trainer would hand over, and add up."""
    from trl import GRPOTrainer

    rows = [{"prompt": "2 + 2 = ?", "ground_truth": "4", "level": 1}] * 2
    texts = ["4", "5"]
    seen: list[dict[str, Any]] = []

    def watching(**given: Any) -> list[float]:
        seen.append(given)
        return [1.0, 0.0]

    if talking:
        rows = [{**row, "prompt": [{"role": "user", "content": row["prompt"]}]} for row in rows]
    prompts = [row["prompt"] for row in rows]
    completions: list[Any] = texts
    if talking:
        completions = [[{"role": "assistant", "content": text}] for text in texts]

    class Stub:
        """As much of a trainer as the function asks."""

        class accelerator:
            device = "cpu"

        state = "the state"
        environments = None
        reward_funcs = (watching,)
        reward_processing_classes = (None,)
        reward_func_names = ("watching",)
        _log_completion_extra = _log_metric = None
        args = type("args", (), {"report_to": []})()

    import trl.trainer.grpo_trainer as theirs

    gather, theirs.gather = theirs.gather, lambda x: x
    context, theirs.profiling_context = theirs.profiling_context, lambda *_: _Nothing()
    try:
        inner = GRPOTrainer._calculate_rewards.__wrapped__
        inner(Stub(), rows, prompts, completions, [[1], [2]])
    finally:
        theirs.gather, theirs.profiling_context = gather, context
    from opsd.data.problems import as_problems

    problems = as_problems(rows)
    verdicts = (
        RewardFuncs((watching,))
        .begin(lambda: "the state", lambda *_: None)
        .many(
            [Attempt(p, t, (i,)) for i, (p, t) in enumerate(zip(problems, texts, strict=True), 1)]
        )
    )
    assert [v.reward for v in verdicts if v] == [1.0, 0.0]
    theirs_given, ours = seen
    for name, value in theirs_given.items():
        if not name.startswith("log_"):
            assert ours[name] == value, name
    assert ours.keys() >= theirs_given.keys()


class _Nothing:
    def __enter__(self) -> None: ...
    def __exit__(self, *_: Any) -> None: ...


@pytest.mark.parametrize("talking", [False, True])
def test_functions_are_given_what_trl_gives_them(talking: bool):
    same_as_trl(talking=talking)


def test_trl_reward_functions_as_they_are():
    from trl.rewards import accuracy_reward, think_format_reward

    problem = Problem("2 + 2?", privileged={"solution": r"\boxed{4}"})
    both = RewardFuncs((accuracy_reward, think_format_reward), (1, 0.5), conversational=True)
    good, bad = judge(
        both, [Attempt(problem, r"<think>x</think>\boxed{4}"), Attempt(problem, r"\boxed{5}")]
    )
    assert good is not None and good.reward == pytest.approx(1.5) and good.correct
    assert bad is not None and bad.reward == 0 and not bad.correct


@pytest.mark.parametrize(
    ("func", "told"),
    [
        (lambda completions, **_: [1.0], "returned 1 rewards for 2 completions"),
        (lambda completions, **_: [1.0, float("nan")], "gave nan for problem other"),
        (lambda completions, **_: [1.0, "1"], "gave '1' for problem other"),
        (lambda completions, **_: 1.0, "returned 1.0, not a list"),
        (lambda completions: [1, 1], "failed on 2 completions .* TypeError"),
        (lambda answers, **_: [1, 1], "failed on 2 completions .* TypeError"),
    ],
)
def test_wrong_rewards_are_one_line(func: Any, told: str):
    two = [Attempt(ASKED, "x"), Attempt(Problem("?", id="other"), "y")]
    with pytest.raises(UserError, match=told) as error:
        judge(RewardFuncs((func,)), two)
    assert "\n" not in str(error.value)


def test_what_is_no_reward_function_is_refused():
    for given, told in (("nowhere:f", "there is no"), ("math:pi", "is not a function")):
        with pytest.raises(UserError, match=told):
            verifier(f"{{type: reward_funcs, funcs: ['{given}']}}")
    with pytest.raises(UserError, match="2 weights for 1 functions"):
        verifier("{type: reward_funcs, funcs: ['math:fsum'], weights: [1, 2]}")

"""Problems in several suites, or in what a model was trained on."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from opsd.evaluate.contamination import bare, named, shared, trained_on
from opsd.suites.loading import SUITES, own
from opsd.types import Problem

EGGS = "Janet's ducks lay 16 eggs per day; she eats $x = 3$ of them. How many are left?"
TOYS = "A toy costs 7 dollars, and a bag of toys holds 12 of them. What does a bag cost?"


def suites(*names: str) -> list[Any]:
    return [SUITES[name] for name in names]


def test_suites_that_share_problems_are_named_in_pairs():
    assert shared(suites("gsm8k", "aime24", "math500")) == []
    (line,) = shared(suites("gsm8k", "mgsm"))
    assert "rows 0 to 249 of GSM8K's test split" in line and "not independent" in line
    assert shared(suites("mgsm", "gsm8k"))[0].startswith("mgsm and gsm8k")
    assert len(shared(suites("gsm8k", "mgsm", "afrimgsm"))) == 3
    assert "split low" in shared(suites("polymath", "mgsm"))[0]
    assert "split high" in shared(suites("polymath", "aime25"))[0]


@pytest.mark.parametrize(
    ("suite", "data", "told"),
    [
        ("mgsm", {"source": "openai/gsm8k", "config": "main", "split": "test"}, "rows 0 to 249"),
        ("gsm8k", {"source": "openai/gsm8k", "split": "test"}, "it is gsm8k"),
        ("gsm8k", {"source": "masakhane/afrimgsm", "split": "test"}, "rows 0 to 249"),
        ("afrimgsm", {"source": "copies/gsm8k/test.jsonl"}, "rows 0 to 249"),
        ("afrimgsm", {"source": "/data/afrimgsm/swa/test.tsv"}, "it is afrimgsm"),
        ("aime24", {"source": "Qwen/PolyMath", "split": "high"}, "split high"),
        ("aime24", {"source": "HuggingFaceH4/aime_2024"}, "it is aime24"),
        ("aime24", {"source": "AI-MO/aimo-validation-aime", "split": "train"}, "2022 to 2024"),
        ("math500", {"source": "hendrycks/competition_math", "split": "test"}, "MATH's"),
        ("sciknoweval_physics", {"source": "hicai-zju/SciKnowEval", "split": "test"}, "it is"),
        # Train splits and other sets hold none of a suite's problems.
        ("gsm8k", {"source": "openai/gsm8k", "split": "train"}, None),
        ("gsm8k", {"source": "gsm8k/train.jsonl"}, None),
        ("mgsm", {"source": "openai/gsm8k"}, None),
        ("math500", {"source": "hendrycks/competition_math"}, None),
        ("gsm8k", {"source": "elsewhere/test.jsonl"}, None),
        ("gsm8k", {"source": "miniature"}, None),
    ],
)
def test_training_data_that_a_suite_overlaps_is_named(suite: str, data: dict, told: str | None):
    lines = named(SUITES[suite], data, SUITES)
    assert bool(lines) is (told is not None)
    assert told is None or (told in lines[0] and data["source"] in lines[0])


def test_a_file_of_ones_own_is_known_by_its_name_alone():
    mine = own("held_out.jsonl")
    assert named(mine, {"source": "held_out.jsonl"}, SUITES)
    assert named(mine, {"source": "other.jsonl"}, SUITES) == []


def journal(run: Path, *prompts: str, views: tuple[str, ...] = ()) -> Path:
    rows = [{"prompt": text, "views": [{"prompt": view} for view in views]} for text in prompts]
    (run / "rollouts").mkdir(parents=True)
    (run / "rollouts" / "rank0.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
    return run


def test_problems_in_a_runs_prompts_are_counted_by_language(tmp_path: Path):
    run = journal(tmp_path, f"<|im_start|>user\nProblem: {EGGS}\n\nThink.<|im_end|>", "Solve: 1")
    problems = [
        Problem(EGGS.upper().replace("$", ""), language="eng"),
        Problem(TOYS, language="eng"),
        Problem(TOYS, language="swa"),
    ]
    assert trained_on(problems, run) == {"eng": 1, "swa": 0}


def test_what_a_teacher_read_counts_too(tmp_path: Path):
    run = journal(tmp_path, "Swali: bata wangapi?", views=(f"In English: {EGGS} Solution: 13",))
    assert trained_on([Problem(EGGS), Problem(TOYS)], run) == {"eng": 1}


def test_short_texts_and_folders_without_prompts_tell_nothing(tmp_path: Path):
    assert trained_on([Problem(EGGS)], tmp_path) is None
    run = journal(tmp_path / "run", "What is 2 + 2? And 4 + 4?")
    assert trained_on([Problem("What is 2 + 2?")], run) == {"eng": 0}


@given(st.text(max_size=60), st.text(max_size=60), st.text(max_size=60))
def test_what_stands_in_a_text_stands_in_it_bare(before: str, text: str, after: str):
    assert bare(f" {text} ") in bare(f"{before} {text} {after}")


@given(st.sampled_from([EGGS, TOYS]), st.text("ab ,.\n", max_size=40), st.integers(0, 60))
def test_a_problem_is_found_wherever_it_stands(text: str, around: str, cut: int):
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        run = journal(Path(folder) / "run", f"{around}{text}{around}", text[: len(text) - 30 - cut])
        assert trained_on([Problem(text)], run) == {"eng": 1}
        other = journal(Path(folder) / "other", text[:-20] + around)
        assert trained_on([Problem(text)], other) == {"eng": 0}

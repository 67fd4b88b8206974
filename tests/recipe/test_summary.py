"""What a finished run says of itself."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from opsd.recipe.schema import Recipe, parse
from opsd.recipe.summary import next_command, summary
from opsd.recipe.train import train

OUT = Path("runs/mine")


def recipe(**changes: Any) -> Recipe:
    content = {"model": "org/base", "method": "opsd", "data": {"source": "x.jsonl"}}
    return parse({**content, **changes})


def test_it_says_where_the_model_is_what_was_gained_and_what_it_took():
    history = [
        {"step": 0, "eval_avg@k": 0.25},
        {"step": 5, "loss": 0.1, "generated_tokens": 900},
        {"step": 5, "eval_avg@k": 0.5},
        {"step": 10, "loss": 0.1, "generated_tokens": 1800},
        {"step": 10, "eval_avg@k": 0.375},
    ]
    lines = summary(recipe(), OUT, history, 3723.4, chosen=5)
    assert lines == [
        "dev avg@k: 0.250 before, 0.500 after (step 5, the best on dev)",
        "10 steps, 1,800 tokens written, 1:02:03",
        "next: opsd report runs/mine",
    ]
    last = summary(recipe(), OUT, history[1:], 1.0)[0]
    assert last == "dev avg@k: 0.500 at step 5, 0.375 after (step 10)"
    assert len(summary(recipe(), OUT, history[1:2], 1.0)) == 2


@pytest.mark.parametrize(
    ("scores", "chosen", "told"),
    [
        (
            {0: 0.125, 2: 0.0, 4: 0.05},
            4,
            "0.125 before, 0.050 after (step 4); no checkpoint beat the model before training",
        ),
        (
            {0: 0.25, 2: 0.25},
            2,
            "0.250 before, 0.250 after (step 2); no checkpoint beat the model before training",
        ),
        ({2: 0.25, 4: 0.25}, 2, "0.250 at step 2"),
        ({2: 0.25, 4: 0.25}, 4, "0.250 at step 2, 0.250 after (step 4)"),
        ({0: 0.25}, None, "0.250 before"),
        ({0: 0.25, 2: 0.5, 4: 0.0}, None, "0.250 before, 0.000 after (step 4)"),
    ],
)
def test_only_what_is_better_is_called_the_best(scores: Any, chosen: int | None, told: str):
    history = [{"step": step, "eval_avg@k": score} for step, score in scores.items()]
    assert summary(recipe(), OUT, history, 1.0, chosen)[0] == f"dev avg@k: {told}"


@pytest.mark.parametrize(
    ("changes", "options"),
    [
        (
            {"data": {"source": "miniature", "language": ["swa", "yor"]}},
            ["--data", "miniature", "--language", "swa,yor"],
        ),
        (
            {
                "data": {"source": "x.jsonl", "language": "Swahili"},
                "published": [
                    {"suite": "afrimgsm", "metric": "pass@12", "value": 1.0, "where": "a paper"}
                ],
            },
            ["--suite", "afrimgsm", "--language", "swa"],
        ),
    ],
)
def test_the_next_command_measures_where_the_recipe_says_on_what(changes: Any, options: list[str]):
    told = next_command(recipe(**changes), OUT)
    assert told == ["opsd", "evaluate", "org/base", "runs/mine/model", *options]


def test_a_run_is_scored_once_before_its_first_step_and_ends_with_both_scores(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    steps = {"max_steps": 1, "save_steps": 1, "eval_samples": 1, "use_cpu": True}
    steps |= {"per_device_train_batch_size": 2, "gradient_accumulation_steps": 1}
    made = recipe(
        model="miniature-tiny",
        data={"source": "miniature", "language": "swa", "limit": 4, "dev": 2},
        sampling={"max_completion_length": 4},
        train=steps,
    )
    train(made, tmp_path / "run")
    longer = made.model_copy(update={"train": made.train | {"max_steps": 2}})
    train(longer, tmp_path / "run", resume=True)
    rows = map(json.loads, (tmp_path / "run" / "metrics.jsonl").read_text().splitlines())
    assert [row["step"] for row in rows if "eval_avg@k" in row] == [0, 1, 2]
    last = capsys.readouterr().err.splitlines()[-4:]
    assert last[0] == f"the trained model: {tmp_path / 'run' / 'model'}"
    assert last[1].startswith("dev avg@k: 0.000 before, 0.000 after (step ")
    assert last[2].startswith("2 steps, ") and last[3].startswith("next: opsd evaluate miniature-")

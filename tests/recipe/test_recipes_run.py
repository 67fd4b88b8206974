"""Every shipped recipe takes two optimizer steps on a tiny model of its own architecture, from rows
in the schema of its own source."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests.arrange import problems

from opsd.data.problems import load_problems as read
from opsd.lm.built_in import NAMES
from opsd.objective.credit import compares_rewards
from opsd.recipe.files import shipped
from opsd.recipe.schema import Recipe, load, parse
from opsd.recipe.train import train, train_pair
from opsd.runs.files import read_jsonl
from opsd.training.checks import config_warnings, learns_from_rewards
from opsd.training.trainer import OPSDTrainer

LANGUAGES = {"hau": "Hausa", "swa": "Swahili", "yor": "Yoruba", "zul": "Zulu"}


def openthoughts() -> list[dict[str, Any]]:
    """OPSD's training set: problem, reference solution and answer among columns of no use."""
    return [
        {
            "source": "made up",
            "problem": p.text,
            "solution": p.privileged["solution"],
            "messages": [{"role": "user", "content": p.text}],
            "system": "none",
            "conversations": [{"from": "user", "value": p.text}],
            "generated_token_count": 10 * i,
            "correct": i % 2 == 0,
            "Question": p.text,
            "COT_Reason": f"Let me see. {p.privileged['solution']}",
            "Answer": p.answer,
        }
        for i, p in enumerate(problems(12, "eng"))
    ]


def copsd(**named: Callable[[str], str]) -> list[dict[str, Any]]:
    """The COPSD sets as released: the same problems in several languages, a row for each; `named`
    gives the columns that name the language."""
    return [
        {
            "problem": p.privileged["translation"],
            "solution": p.privileged["solution"],
            "problem_translated": p.text,
            "Answer": p.answer,
            "source": "made up",
            **{column: name(code) for column, name in named.items()},
        }
        for code in LANGUAGES
        for p in problems(8, code)
    ]


def gsm8k() -> list[dict[str, Any]]:
    """Question, and a worked answer that ends in `#### n`."""
    return [
        {
            "question": f"What is {n} + {n}?",
            "answer": f"It is {n}+{n}=<<{n}+{n}={2 * n}>>.\n#### {2 * n}",
        }
        for n in range(12)
    ]


def with_text(name: str) -> list[dict[str, Any]]:
    """Rows with one further text that a teacher reads."""
    return [{**row, name: row["solution"]} for row in openthoughts()]


SCHEMAS: dict[str, Callable[[], list[dict[str, Any]]]] = {
    "siyanzhao/Openthoughts_math_30k_opsd": openthoughts,
    "yihongLiu/COPSD-AfriMGSM-TrainDataset": lambda: copsd(language=str),
    "yihongLiu/COPSD-PolyMath-TrainDataset": lambda: copsd(
        language=LANGUAGES.__getitem__, language_short=lambda code: code[:2]
    ),
    "gsm8k/train.jsonl": gsm8k,
    "svamp/train.jsonl": openthoughts,
    "jasonrqh/Math-CoT-20k": openthoughts,
    **{
        f"sciknoweval/{domain}/train.jsonl": openthoughts
        for domain in ("biology", "chemistry", "materials", "physics")
    },
    "sciknoweval/physics_chemistry.jsonl": openthoughts,
    "dasd-10k.jsonl": openthoughts,
    "dapo-math-17k.jsonl": openthoughts,
    "problems.jsonl": openthoughts,
    "rubrics.jsonl": lambda: with_text("rubric"),
    "demonstrations.jsonl": lambda: with_text("demonstration"),
    "documents.jsonl": lambda: with_text("document"),
    "translated.jsonl": lambda: [
        {**row, "problem_fra": "Combien ?", "solution_fra": "\\boxed{1}"}
        for row in copsd(language=str)
    ],
}


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A local file in the schema of every source that recipes name."""
    folder = tmp_path_factory.mktemp("sources")
    files = {}
    for i, (name, rows) in enumerate(SCHEMAS.items()):
        files[name] = folder / f"{i}.jsonl"
        files[name].write_text("".join(json.dumps(row) + "\n" for row in rows()), "utf-8")
    return files


def scaled_down(name: str, model: Path, sources: dict[str, Path]) -> Recipe:
    """A shipped recipe with everything that costs made small, and all else as it is: two optimizer
    steps of one group each, a few tokens, a dev set of two, a small adapter."""
    recipe = load(name)
    content = recipe.model_dump(mode="json")
    for own in (content, *content["peers"].values()):
        _scale_down(own, recipe.method.source.group, model, sources)
    content["peers"] = {
        peer: {key: value for key, value in own.items() if key != "peers"}
        for peer, own in content["peers"].items()
    }
    return parse(content, name)


def _scale_down(content: dict[str, Any], group: int, model: Path, sources: dict[str, Path]) -> None:
    source = content["data"]["source"]
    content["model"]["name"] = str(model)
    if content["model"]["lora"]:
        content["model"]["lora"] |= {"r": 4, "lora_alpha": 8}
    content["data"] |= {"source": source if source in NAMES else str(sources[source]), "dev": 2}
    content["sampling"]["max_completion_length"] = 8
    content["train"] |= {
        "max_steps": 2,
        "save_steps": 2,
        "eval_samples": 1,
        "per_device_train_batch_size": max(2, group),
        "rollouts_per_step": max(2, group),
        "gradient_checkpointing": False,
        "logging_steps": 1,
        "max_length": 2000,
        "report_to": [],
        "disable_tqdm": True,
        "use_cpu": True,
    }


FIRST = "first token"
TOLD = {
    **{name: {FIRST} for name in shipped() if name.startswith("purified_opsd")},
    **{f"beta_opsd-qwen3-{size}": {FIRST, "top_p and top_k cut"} for size in ("4b", "8b")},
    **{name: {"a live teacher", "top_p and top_k cut"} for name in shipped() if "sgsd" in name},
    "opsd": {FIRST},
    "opsd-critique": {FIRST},
    "opsd-qwen3-4b": {FIRST},
    "opsd-qwen3-8b": {FIRST},
    "topd": {FIRST},
    "popd": {FIRST},
    "beta_opsd": {FIRST, "top_p and top_k cut"},
    "ssopd": {"a live teacher"},
    "sdpg": {"a live teacher"},
    "rlcsd": {"the snapshot teacher"},  # in two steps
    "op2sd": {FIRST},
    "sdft": {"the EMA teacher will hardly move"},  # in two steps
    "sdpo-trust_region": {"a live teacher"},
    "sampled_token": {FIRST, "top_p and top_k cut"},
}
"""What published settings are told of at their start; all others of nothing."""


@pytest.mark.parametrize("name", [name for name in shipped() if not load(name).peers])
def test_a_shipped_recipe_takes_two_steps(
    name: str, tmp_path: Path, tiny_folder: Path, diffusion_folder: Path, sources: dict[str, Path]
):
    of_canvas = load(name).method.source.rows.of_canvas
    recipe = scaled_down(name, diffusion_folder if of_canvas else tiny_folder, sources)
    assert recipe.method == load(name).method
    trainer = train(recipe, tmp_path)
    check(name, recipe, trainer, tmp_path)


@pytest.mark.parametrize("name", [name for name in shipped() if load(name).peers])
def test_a_shipped_recipe_of_two_models_takes_two_steps(
    name: str, tmp_path: Path, tiny_folder: Path, sources: dict[str, Path]
):
    recipe = scaled_down(name, tiny_folder, sources)
    for peer, trainer in train_pair(recipe, tmp_path).items():
        check(name, recipe.peers[peer], trainer, tmp_path / peer)


def check(name: str, recipe: Recipe, trainer: OPSDTrainer, folder: Path) -> None:
    """Two steps, with a gradient where there is something to learn, and no more warnings than a
    published setting is known for."""
    rows = [row for row in read_jsonl(folder / "metrics.jsonl") if "loss" in row]
    assert [row["step"] for row in rows] == [1, 2] and trainer.state.global_step == 2
    assert all(math.isfinite(row["loss"]) for row in rows)
    # An untrained model gets nothing right, which only HDPO learns from where answers decide, and
    # writes no critique and no answer; a skill bank is empty at first.
    needs = "sgsd", "step_critique", "u_opsd"
    idle = (learns_from_rewards(recipe.method) and name != "hdpo") or name.startswith(needs)
    if name != "sdpg":  # the KL from its start has a gradient of rounding there
        assert (rows[0]["grad_norm"] > 0) != idle
    spoken = {problem.language for problem in trainer.train_dataset}
    assert spoken == (set(recipe.data.asked) or {"eng"})
    lines = config_warnings(trainer.setup, trainer.args.max_steps)
    few = {f"problem(s) x {recipe.method.source.group}"}
    marks = TOLD.get(name, set()) | (few if compares_rewards(recipe.method.signal) else set())
    assert len(lines) == len(marks)  # of few problems only because the step is scaled down
    assert all(any(mark in line for line in lines) for mark in marks)


@pytest.mark.parametrize(
    ("name", "language", "file"),
    [
        ("copsd", "swa", "translated_{language}.json"),
        ("copsd-polymath-qwen3-4b", "sw", "translated_3000_{language}.json"),
    ],
)
def test_the_released_codes_own_files_are_read(name: str, language: str, file: str, tmp_path: Path):
    rows = [
        {
            "problem": p.privileged["translation"],
            "solution": p.privileged["solution"],
            f"problem_{language}": p.text,
            f"problem_{language}_ok": i % 4 > 0,
            "Answer": p.answer,
        }
        for i, p in enumerate(problems(40, "swa"))
    ]
    written = tmp_path / file.format(language=language)
    written.write_text(json.dumps(rows), "utf-8")
    settings = [f"data.source={tmp_path / file}", f"data.language={language}", "data.dev=5"]
    train_set, dev_set = read(load(name, settings).data)
    assert (len(train_set), len(dev_set)) == (25, 5)
    known = {p.text: p for p in problems(40, "swa")}
    for problem in train_set:
        assert problem.language == "swa" and problem.answer == known[problem.text].answer
        assert problem.privileged["translation"] == known[problem.text].privileged["translation"]

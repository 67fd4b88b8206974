"""A run under a curriculum: what it draws, how it goes on, and what it refuses."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from tests.arrange import config, gap, metrics, odd_length, problems, weights_of

from opsd import methods
from opsd.data.curriculum import Frontier
from opsd.methods import Method
from opsd.runs.files import read_jsonl
from opsd.training.trainer import OPSDTrainer
from opsd.types import Problem, UserError, Verdict

SAVED = {"save_strategy": "steps", "save_steps": 1, "max_steps": 8, "logging_steps": 1}
GRPO = methods.grpo(group=2, reuse=2)


def easy(problem: Problem, completion: str) -> Verdict:
    """Half of the problems are always solved, the others half of the time."""
    right = int(problem.id, 16) % 2 == 0 or len(completion) % 2 == 0
    return Verdict(float(right), right, True)


def trainer(folder: Path, model: Path, method: Method = GRPO, **changes) -> OPSDTrainer:
    args = config(folder, **{**SAVED, **changes}, per_device_train_batch_size=4)
    rows = problems(6)
    return OPSDTrainer(
        str(model), method, args, rows, verifier=easy, curriculum=Frontier(half_life=3.0)
    )


def drawn(run: Path) -> list[list[str]]:
    """The problems of every step, as the rollouts say."""
    steps: dict[int, list[str]] = {}
    for row in read_jsonl(run / "rollouts" / "rank0.jsonl"):
        steps.setdefault(row["step"], []).append(row["problem"])
    return [sorted(set(ids)) for _, ids in sorted(steps.items())]


@pytest.mark.parametrize("step", [3, 4])
def test_a_resumed_run_draws_and_learns_what_the_whole_one_does(step, tmp_path, tiny_folder):
    """Also in the middle of rollouts that are learned from twice, and over the end of an epoch."""
    whole = trainer(tmp_path, tiny_folder, rollout_log_steps=1)
    whole.train()
    before = metrics(tmp_path), drawn(tmp_path), weights_of(whole.model)
    assert before[0][-2]["epoch"] > 1 and "curriculum/pass_rate" in before[0][0]
    for later in range(step + 1, 9):
        shutil.rmtree(tmp_path / f"checkpoint-{later}")
    resumed = trainer(tmp_path, tiny_folder, rollout_log_steps=1)
    resumed.train(resume_from_checkpoint=True)
    assert gap(before[2], weights_of(resumed.model)) == 0
    assert (metrics(tmp_path), drawn(tmp_path)) == before[:2]


def test_what_it_was_told_is_in_the_checkpoint_and_decides_what_is_drawn(tmp_path, tiny_folder):
    run = trainer(tmp_path, tiny_folder, rollout_log_steps=1)
    run.train()
    state = json.loads((tmp_path / "checkpoint-8/opsd/state.json").read_text())["curriculum"]
    assert len(state["tried"]) > 2 and state == run.curriculum.state_dict()
    # Told of nothing else, a curriculum draws the same: the outcomes are its only source.
    other = Frontier(half_life=3.0).begin(problems(6), run.setup.data_seed)
    ids = [p.id for p in problems(6)]
    for step, chosen in enumerate(drawn(tmp_path)):
        assert sorted(ids[i] for i in other.draw(step, 2)) == chosen
        rows = [r for r in read_jsonl(tmp_path / "rollouts/rank0.jsonl") if r["step"] == 2 * step]
        right = {id: sum(r["correct"] for r in rows if r["problem"] == id) for id in chosen}
        other.record([(id, n, 2) for id, n in right.items()])
    assert other.state_dict() == state


@pytest.mark.parametrize(
    ("method", "told"),
    [(methods.star(), "keep_correct"), (methods.sft(), "from_dataset")],
)
def test_a_source_that_does_not_show_every_outcome_is_refused(method, told, tmp_path, tiny_folder):
    with pytest.raises(UserError, match=f"the source '{told}' of {method.name}"):
        trainer(tmp_path, tiny_folder, method)


def test_language_weights_beside_a_curriculum_are_refused(tmp_path, tiny_folder):
    with pytest.raises(UserError, match=r"leave data\.weights out"):
        OPSDTrainer(
            str(tiny_folder),
            methods.opsd(),
            config(tmp_path),
            problems(4),
            verifier=odd_length,
            language_weights={"swa": 1.0},
            curriculum=Frontier(),
        )


def test_problems_without_an_answer_are_refused(tmp_path, tiny_folder):
    rows = [Problem(f"{i} + 1 = ?", privileged={"solution": f"{i + 1}"}) for i in range(4)]
    with pytest.raises(UserError, match="the curriculum learns from right and wrong answers"):
        OPSDTrainer(str(tiny_folder), methods.opsd(), config(tmp_path), rows, curriculum=Frontier())

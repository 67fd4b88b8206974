"""One arm of the quickstart: a method in a language with a seed, trained and tested by a worker."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from opsd.data.controls import shuffled
from opsd.experiments.pool import tell
from opsd.grade.intervals import estimate
from opsd.grade.metrics import pass_at_k
from opsd.types import Problem

SAMPLES = 4
_SHOWN = 5


@dataclass(frozen=True)
class Arm:
    """One training. It stops after `tokens` generated tokens, and is tested on `problems` held-out
    problems of `split`. `settings` change the method's recipe, as `--set` does."""

    language: str
    method: str
    seed: int
    tokens: int
    problems: int
    output: str
    split: str = "test"
    settings: tuple[str, ...] = ()
    unit = "token"

    @property
    def size(self) -> int:
        return self.tokens

    @property
    def label(self) -> str:
        own = "".join(f"-{s.partition('.')[2]}" for s in self.settings)
        return f"{self.language}-{self.method}{own}-seed{self.seed}"


@dataclass(frozen=True)
class ArmScores:
    """An arm's outcome: per held-out problem (samples, correct, well-formed, tokens)."""

    arm: Arm
    scores: tuple[tuple[int, int, int, int], ...]
    generated_tokens: int
    samples: tuple[dict[str, Any], ...]

    @property
    def averages(self) -> list[float]:
        return [correct / n for n, correct, _, _ in self.scores]

    def row(self) -> dict[str, Any]:
        """The arm's row in `result.json`; `scores` are those of single problems, in order."""
        n = sum(score[0] for score in self.scores)
        return {
            "language": self.arm.language,
            "method": self.arm.method,
            "seed": self.arm.seed,
            "avg@4": sum(self.averages) / len(self.averages),
            "pass@4": sum(pass_at_k(s[0], s[1], s[0]) for s in self.scores) / len(self.scores),
            "format_rate": sum(score[2] for score in self.scores) / n,
            "interval": list(estimate([self.averages]).interval),
            "scores": self.averages,
            "generated_tokens": self.generated_tokens,
        }


def run(arm: Arm) -> ArmScores:
    """Trains the arm (except `base`) and samples its held-out problems."""
    news = _Tell(arm)
    news("loading", 0)
    from opsd.miniature.world import problems
    from opsd.recipe import schema as recipes
    from opsd.recipe.train import make_trainer, record

    name = "quickstart-grpo" if arm.method == "grpo" else "quickstart"
    settings = (
        f"data.language={arm.language}",
        f"train.seed={arm.seed}",
        f"train.max_generated_tokens={arm.tokens}",
        "train.disable_tqdm=true",
        *arm.settings,
    )
    recipe = recipes.load(name, settings)
    train_set = problems("miniature", "train", arm.language)
    if arm.method == "copsd_shuffled":
        train_set = shuffled(train_set, arm.seed)
    folder = Path(arm.output) / arm.label
    test = problems("miniature", arm.split, arm.language, arm.problems)
    trainer = make_trainer(recipe, folder, train_set, callbacks=[news.callback()])
    if arm.method != "base":
        record(recipe, folder, arm.seed)
        trainer.processing_class.save_pretrained(folder)
        trainer.train()
    news("testing", arm.tokens)
    outcome = _test(arm, trainer, test)
    news(f"test avg@4 {outcome.row()['avg@4']:.3f}", arm.tokens)
    return outcome


def _test(arm: Arm, trainer: Any, test: Sequence[Problem]) -> ArmScores:
    from opsd.rollout.sources import OnPolicy
    from opsd.training.dev import score_of

    # The same random numbers for every method of a seed: differences between methods are paired.
    sampler = trainer.generator.sampler.outside_training(arm.seed)
    groups = sampler.sample(test, OnPolicy(group=SAMPLES), step=0, phase="test")
    samples = tuple(
        {
            "language": arm.language,
            "method": arm.method,
            "seed": arm.seed,
            "problem": group.problem.id,
            "prompt": group.problem.text,
            "completion": group.rollouts[0].text,
            "answer": group.problem.answer,
            "correct": bool(group.rollouts[0].verdict and group.rollouts[0].verdict.correct),
        }
        for group in groups[: _SHOWN if arm.seed == 0 else 0]
    )
    scores = tuple(score_of(group) for group in groups)
    return ArmScores(arm, scores, trainer.generator.sampler.counts.generated_tokens, samples)


class _Tell:
    """Reports the arm's progress to the parent."""

    def __init__(self, arm: Arm) -> None:
        self.arm = arm

    def __call__(self, note: str, tokens: int) -> None:
        tell(self.arm.label, tokens, note)

    def callback(self) -> Any:
        from transformers import TrainerCallback

        report = self

        class Tell(TrainerCallback):
            def on_log(self, args: Any, state: Any, control: Any, logs: Any, **rest: Any) -> None:
                if "accuracy" in logs:
                    report(f"correct {logs['accuracy']:.2f}", logs["generated_tokens"])

        return Tell()

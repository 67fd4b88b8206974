"""One trial: an arm of a claim in one language with one seed, trained and tested by a worker.

A trial is kept under a hash of all that decides its numbers, so that claims share it and a run that
was interrupted goes on with what is missing.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np

from opsd.experiments.arms import shuffled
from opsd.experiments.claim import ClaimArm
from opsd.experiments.leftovers import RUN, remove
from opsd.experiments.measures import Counts
from opsd.experiments.pool import tell
from opsd.experiments.probe import FIELDS as PROBED
from opsd.experiments.probe import probed
from opsd.lm.built_in import model_path
from opsd.miniature.world import HORIZON
from opsd.recipe import schema as recipes
from opsd.recipe.schema import Recipe
from opsd.runs.files import write_atomically
from opsd.types import Finish, Problem

FIELDS = (
    *("problems", "n", "correct", "passed", "format_ok", "cut_off", "tokens"),
    *("markers", "repeated", "grams", "surprisal"),
)


@dataclass(frozen=True)
class Trial:
    """`name` is for people; `world`'s problems are what it is trained and tested on."""

    name: str
    world: str
    arm: ClaimArm
    language: str
    seed: int
    key: str = field(default="", compare=False)

    @property
    def label(self) -> str:
        return f"{self.name} {self.language} {self.seed} ({self.key[:4]})"

    @property
    def tokens(self) -> int:
        return self.arm.tokens

    def __post_init__(self) -> None:
        about = [self.world, self.arm.model_dump(mode="json"), self.language, self.seed]
        about += [recipes.dump(self.recipe()), fingerprint(self.arm.model or self.world), _rules()]
        digest = hashlib.sha256(json.dumps(about, sort_keys=True).encode()).hexdigest()
        object.__setattr__(self, "key", digest[:16])

    def recipe(self) -> Recipe:
        """The quickstart's recipe with the arm's method and settings."""
        content: dict[str, Any] = {
            "model": self.arm.model or self.world,
            "method": self.arm.method or "opsd",
            "data": {"source": "miniature", "language": self.language},
            "sampling": {
                **{"temperature": 1.0, "top_p": 1.0, "top_k": 0},
                "max_completion_length": HORIZON[self.world],
            },
            "train": {
                "learning_rate": self.arm.learning_rate,
                **{"max_grad_norm": 1.0, "max_steps": 10_000},
                "max_generated_tokens": self.arm.tokens,
                **{"per_device_train_batch_size": 32, "gradient_accumulation_steps": 1},
                **{"gradient_checkpointing": False, "save_strategy": "no", "collapse": "ignore"},
                **{"rollout_log_steps": 0, "trace_steps": 0, "disable_tqdm": True},
                "seed": self.seed,
                **self.arm.train,
            },
        }
        made = recipes.parse(content, self.name)
        return made.model_copy(update={"method": without_thinking(made.method)})


def without_thinking(value: Any) -> Any:
    """A method whose prompts all ask for an answer without thinking mode, and force no beginning:
    the built-in models have hardly seen anything else."""
    from opsd.prompts.contexts import with_prompts

    return with_prompts(value, prefill="", template_options={"enable_thinking": False})


@cache
def _rules() -> str:
    """A hash of what the world's problems and its rule-based authors are made of."""
    folder = resources.files("opsd.miniature")
    names = ("stories.py", "world.py", "lexicon.py", "rules.py", "skills.yaml")
    texts = [(folder / name).read_bytes() for name in names]
    return hashlib.sha256(b"".join(texts)).hexdigest()[:16]


@cache
def fingerprint(model: str) -> str:
    """A hash of a built-in model's weights."""
    folder = model_path(model)
    assert folder is not None
    return hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest()[:16]


def run(trial: Trial, folder: Path) -> Path:
    """Trains and tests; the file with the counts, which is written last and whole."""
    from opsd.recipe.train import make_trainer, record

    written = file_of(trial, folder)
    start = time.perf_counter()
    arm, recipe = trial.arm, trial.recipe()
    output = folder / "runs" / f"{trial.name}-{trial.language}-{trial.seed}-{trial.key}"
    remove(output, RUN)
    test = problems_of(trial.world, "test", trial.language, arm.test_on)[: arm.problems]
    train = problems_of(trial.world, "train", trial.language, arm.train_on)
    if arm.told == "another":
        train = shuffled(train, trial.seed)
    points: list[dict[str, Any]] = []
    tests = _Tests(trial, test, points)
    trainer = make_trainer(recipe, output, train, callbacks=[tests.callback()])
    tests.trainer = trainer
    if arm.method is not None and not arm.probe:
        record(recipe, output, trial.seed)
        trainer.train()
    tests.rest()
    about = {
        "name": trial.name,
        "language": trial.language,
        "seed": trial.seed,
        "seconds": round(time.perf_counter() - start, 1),
        "recipe": recipes.dump(recipe),
    }
    content = about | {"fields": list(fields_of(arm)), "points": points}
    write_atomically(written, json.dumps(content))
    return written


def problems_of(
    world: str, split: str, language: str, families: Sequence[str] = ()
) -> list[Problem]:
    """A split's problems, of some families alone (the stories' shapes) if any are named."""
    from opsd.miniature.world import problems

    made = problems(world, split, language)
    return [p for p in made if not families or p.metadata["template"].startswith(tuple(families))]


def file_of(trial: Trial, folder: Path) -> Path:
    """Where a trial's counts are kept."""
    return folder / "trials" / f"{trial.key}.json"


class _Tests:
    """Tests the model whenever training has generated another of the arm's shares of tokens."""

    def __init__(self, trial: Trial, test: list[Problem], points: list[Any]) -> None:
        self.trial, self.test, self.points = trial, test, points
        self.due = list(trial.arm.points)
        self.trainer: Any = None

    def callback(self) -> Any:
        from transformers import TrainerCallback

        tests = self

        class AtShares(TrainerCallback):
            def on_step_end(self, *args: Any, **kwargs: Any) -> None:
                spent = tests.trainer.generator.sampler.counts.generated_tokens
                tell(tests.trial.label, spent, "training")
                while len(tests.due) > 1 and spent >= tests.due[0] * tests.trial.arm.tokens:
                    tests.point()

        return AtShares()

    def rest(self) -> None:
        while self.due:
            self.point()

    def point(self) -> None:
        from opsd.rollout.sources import OnPolicy

        self.due.pop(0)
        sampler = self.trainer.generator.sampler
        if not self.due:
            tell(self.trial.label, self.trial.tokens, "testing")
        # The same random numbers for every arm of a seed: their differences are paired.
        own = sampler.outside_training(self.trial.seed)
        source = OnPolicy(group=self.trial.arm.samples)
        groups = own.sample(self.test, source, step=0, phase="test")
        arm = self.trial.arm
        counts = (
            probed(self.trainer, groups)
            if arm.probe
            else [counted(group, own, arm.budgets) for group in groups]
        )
        self.points.append({"tokens": sampler.counts.generated_tokens, "counts": counts})


def fields_of(arm: ClaimArm) -> tuple[str, ...]:
    if arm.probe:
        return PROBED
    shortened = ("correct", "passed", "format_ok")
    return (*FIELDS, *(f"{name} at {budget}" for budget in arm.budgets for name in shortened))


def counted(group: Any, sampler: Any, budgets: Sequence[int]) -> list[float]:
    """The counts of a problem's samples, in the order of `fields_of`."""
    from opsd.grade.traits import count_markers, repetition
    from opsd.languages.registry import language

    rollouts = group.rollouts
    right = sum(r.verdict.correct for r in rollouts)
    grams = [repetition(r.completion_ids) for r in rollouts]
    markers = language(group.problem.language).reflective_markers
    row = [
        *(1, len(rollouts), right, right > 0),
        sum(r.verdict.format_ok for r in rollouts),
        sum(r.finish is Finish.LENGTH for r in rollouts),
        sum(len(r.completion_ids) for r in rollouts),
        sum(count_markers(r.text, markers) for r in rollouts),
        sum(repeated for repeated, _ in grams),
        sum(n for _, n in grams),
        -sum(sum(r.logprobs) for r in rollouts),
    ]
    for budget in budgets:
        texts = [(group.problem, sampler.text(r.completion_ids[:budget])) for r in rollouts]
        verdicts = sampler.verify(texts)
        right = sum(verdict.correct for verdict in verdicts)
        row += [right, right > 0, sum(verdict.format_ok for verdict in verdicts)]
    return [round(float(x), 4) for x in row]


def read(files: dict[str, list[Path]]) -> Counts:
    """An arm's counts from its trials' files: language -> the files of its seeds, in order."""
    contents = {code: [json.loads(f.read_text("utf-8")) for f in fs] for code, fs in files.items()}
    every = [content for group in contents.values() for content in group]
    arrays = {
        code: np.array([[point["counts"] for point in c["points"]] for c in group])
        for code, group in contents.items()
    }
    spent = np.array([[p["tokens"] for p in c["points"]] for c in every], dtype=float)
    by_seed = spent.reshape(len(contents), -1, spent.shape[1]).mean(0)
    return Counts(tuple(every[0]["fields"]), arrays, by_seed)

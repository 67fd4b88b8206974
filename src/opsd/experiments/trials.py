"""One trial: an arm of a study in one language with one learning rate and seed. A worker trains it,
scores it on dev problems during training, and tests it.

A trial is stored under a hash of everything that decides its numbers, so that claims share it, and
an interrupted run continues with the missing trials.
"""

from __future__ import annotations

import gzip
import hashlib
import json
import math
import os
import re
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields
from functools import cache
from importlib import resources
from itertools import islice
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch

from opsd.data.controls import shuffled, with_solution, wrong
from opsd.data.examples import Example
from opsd.data.problems import Data
from opsd.data.problems import read as read_problems
from opsd.experiments.leftovers import RUN, remove
from opsd.experiments.measures import METRICS, SHORTENED, Counts
from opsd.experiments.pool import tell
from opsd.experiments.probe import FIELDS as PROBED
from opsd.experiments.probe import probed
from opsd.experiments.study import (
    Arm,
    Scored,
    Study,
    fingerprint,
    is_base,
    is_trained,
    method_of,
)
from opsd.lm.built_in import model_path
from opsd.prompts.contexts import with_prompts
from opsd.recipe import schema as recipes
from opsd.recipe.schema import Recipe
from opsd.runs.environment import environment
from opsd.runs.files import write_atomically
from opsd.training.config import OPSDConfig
from opsd.types import Attempt, Finish, Problem, RunFailed, UserError

DATA = "OPSD_DATA"
"""The environment variable that names the folder of benchmark data."""

At = Literal["chosen", "early", "final"]
Split = Literal["train", "dev", "test"]

ENDLESS = 10_000
"""Steps that no arm reaches if its tokens end it."""
SETTINGS = {
    **{"per_device_train_batch_size": 32, "gradient_accumulation_steps": 1},
    **{"gradient_checkpointing": False, "save_strategy": "no", "collapse": "ignore"},
    **{"rollout_log_steps": 0, "trace_steps": 0, "disable_tqdm": True},
}
"""Training arguments that a study does not set."""
_OF_WORLD = ("world", "template", "numbers", "tags", "trace")
"""Keys of a problem's metadata that come from the built-in world."""
_SEARCHED = 20_000
"""How many stories are searched for those of rare families."""

LOGGED = ("loss", "divergence", "entropy/student", "entropy/teacher")
"""The columns of the training log that are stored, with a number per step."""

FIELDS = (
    *("problems", "n", "correct", "passed", "format_ok", "cut_off", "tokens"),
    *("markers", "repeated", "grams", "surprisal"),
)


@dataclass(frozen=True)
class Trial:
    """One training of an arm. `rate` is the learning rate, 0 for a base. A trial that is not
    `tested` serves to choose a rate."""

    study: Study
    name: str
    language: str
    seed: int
    rate: float
    tested: bool = True
    key: str = field(default="", compare=False)

    @property
    def arm(self) -> Arm:
        return self.study.arms[self.name]

    @property
    def trained(self) -> bool:
        return is_trained(self.name, self.arm)

    @property
    def label(self) -> str:
        rate = f" at {self.rate:.0e}" if self.trained else ""
        return f"{self.name} ({self.language}){rate}, seed {self.seed}"

    @property
    def languages(self) -> tuple[str, ...]:
        """The languages that it is trained in; it is only tested in its own language."""
        return self.arm.together or (self.language,)

    @property
    def tokens(self) -> int:
        return self.study.tokens * len(self.languages)

    @property
    def size(self) -> int:
        return self.arm.steps or self.tokens

    @property
    def unit(self) -> str:
        return "step" if self.arm.steps else "token"

    def __post_init__(self) -> None:
        digest = hashlib.sha256(json.dumps(self._decides(), sort_keys=True).encode()).hexdigest()
        object.__setattr__(self, "key", digest[:16])

    def _decides(self) -> list[Any]:
        """Everything stated that decides a trial's numbers: the study, its problems, the model.
        What depends on the library is compared when a stored trial is read (`conditions`)."""
        study, arm = self.study, self.arm
        splits: list[Split] = ["dev"] * self.trained + ["test"] * self.tested
        asked = [(split, self.language) for split in splits]
        asked = [("train", code) for code in self.languages if self.trained] + asked
        about: list[Any] = [self.said(), study.prompts]
        about += [study.first.model_dump(mode="json")] if study.first else []
        about += [arm.model_dump(mode="json", exclude_defaults=True), self.language, self.seed]
        about += [_model_hash(study.folder or self.model["name"])]
        about += [_hash(_asked(study, arm, split, code)) for split, code in asked]
        if self.trained:
            about += [study.checkpoints, study.dev.model_dump()]
        if self.tested:
            about += [study.early, study.test.model_dump(), study.budgets]
        return about

    @property
    def model(self) -> dict[str, Any]:
        """The recipe's section `model`; a pretrained model by its name on the Hub, wherever it
        is."""
        own = {"name": self.arm.model} if self.arm.model else {}
        return {**self.study.recipe["model"], **own}

    def said(self) -> dict[str, Any]:
        """The study's recipe with the arm's method, the rate and the seed, as in a recipe file."""
        study = self.study
        content: dict[str, Any] = {
            "model": self.model,
            "method": {"name": method_of(self.name), **self.arm.change},
            "data": self.data(),
            "sampling": study.recipe["sampling"],
            "train": SETTINGS | {"seed": self.seed},
        }
        if is_base(self.name):
            content["method"] = "opsd"
        else:
            ending = {"max_steps": self.arm.steps or ENDLESS}
            if self.arm.steps is None:
                ending["max_generated_tokens"] = self.tokens
            content["train"] |= study.recipe["train"] | ending | {"learning_rate": self.rate}
        return content

    def data(self) -> dict[str, Any]:
        """The recipe's section `data`."""
        study = self.study
        if not study.files:
            return {"source": "miniature", "language": [*self.arm.together] or self.language}
        shown = [example.model_dump() for example in study.examples]
        about = {"source": study.files["train"], "language": self.language, "instructed": True}
        return about | {"examples": shown}

    def recipe(self) -> Recipe:
        made = recipes.parse(self.said(), self.name)
        return made.model_copy(update={"method": prompted(made.method, self.study)})

    def conditions(self) -> dict[str, Any]:
        """Everything not stated that decides a trial's numbers: every value of the resolved recipe
        by its key, the defaults of the other training arguments, and hashes of the shipped
        texts."""
        recipe = self.recipe().model_dump(mode="json", exclude={"published": True})
        del recipe["method"]["paper"]
        said = {f"OPSDConfig.{name}" for name in recipe["train"]}
        usual = {name: value for name, value in _shipped().items() if name not in said}
        return usual | dict(_values("", recipe))


def prompted(value: Any, study: Study) -> Any:
    """The method with prompts that turn thinking mode off and force no beginning: the models of the
    studies have seen hardly any such text, or none. The study's own templates replace the shipped
    ones."""
    options = {} if study.pretrained else {"enable_thinking": False}
    return with_prompts(value, study.prompts, prefill="", template_options=options)


@cache
def _shipped() -> dict[str, str]:
    """The defaults of training arguments, and a hash of each text that prompts are built from."""
    made = {f"OPSDConfig.{f.name}": repr(f.default) for f in fields(OPSDConfig) if f.init}
    made = {name: value for name, value in made.items() if "object at" not in value}
    for package in ("opsd.prompts", "opsd.miniature"):
        folder = Path(str(resources.files(package)))
        for file in sorted([*folder.glob("*.yaml"), *folder.glob("templates/*.jinja")]):
            made[f"{package}/{file.relative_to(folder)}"] = _file_hash(file)
    return made


def _values(key: str, value: Any) -> Iterator[tuple[str, Any]]:
    """Yields the values of a mapping with their full keys; a list is one value."""
    if isinstance(value, Mapping):
        for name, own in value.items():
            yield from _values(f"{key}.{name}" if key else name, own)
    else:
        yield key, value


@cache
def _model_hash(model: str) -> str:
    folder = model_path(model) or Path(model)
    files = sorted([*folder.glob("*.json"), *folder.glob("*.jinja")])
    texts = b"".join(file.name.encode() + file.read_bytes() for file in files)
    return fingerprint(model) + hashlib.sha256(texts).hexdigest()[:16]


@cache
def _file_hash(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()[:16]


def data_file(study: Study, split: Literal["train", "test"]) -> Path:
    """A study's file of rows. UserError if it does not exist."""
    folder = os.environ.get(DATA)
    if folder is None:
        raise UserError(f"{study.name} reads {study.files[split]}: set {DATA} to its folder")
    path = Path(folder) / study.files[split]
    if not path.is_file():
        raise UserError(f"{study.name}: no file {path}; set {DATA} to its folder")
    return path


@dataclass(frozen=True)
class _Asked:
    """Which problems are needed: the first `count`, or all if it is None. `held_out` is the number
    of dev problems; `file` is read if no world generates them."""

    split: Split
    language: str
    families: tuple[str, ...]
    count: int | None
    held_out: int
    most: int
    world: str | None
    file: Path | None
    examples: tuple[Example, ...]


def _asked(study: Study, arm: Arm, split: Split, language: str) -> _Asked:
    dev, test = study.dev.problems, study.test.problems
    return _Asked(
        **{"split": split, "language": language},
        families=arm.test_on if split == "test" else arm.train_on,
        count={"train": None, "dev": dev, "test": test}[split],
        **{"held_out": dev, "most": max(dev, test), "world": study.world},
        file=data_file(study, "test" if split == "test" else "train") if study.files else None,
        examples=study.examples,
    )


def problems_of(study: Study, arm: Arm, split: Split, language: str) -> list[Problem]:
    """The problems of a split that an arm trains on, or is scored on; only those of its families
    (the stories' shapes) if any are named. UserError if there are fewer than the study needs."""
    asked = _asked(study, arm, split, language)
    made = _problems(asked)
    if len(made) < (asked.count or 1):
        raise UserError(f"{study.name}: {len(made)} {split} problems, but {asked.count} are needed")
    return made


@cache
def _hash(asked: _Asked) -> str:
    """A hash of the problems' contents."""
    made = hashlib.sha256()
    for p in _problems(asked):
        of_world = {name: p.metadata[name] for name in _OF_WORLD if name in p.metadata}
        made.update(repr((p.prompt, p.language, p.answer, p.privileged, of_world)).encode())
    return made.hexdigest()[:16]


def _problems(asked: _Asked) -> list[Problem]:
    made = _of_world(asked) if asked.file is None else _of_file(asked)
    return made[: asked.count]


def _of_world(asked: _Asked) -> list[Problem]:
    from opsd.miniature.stories import Story, stories
    from opsd.miniature.world import WORLDS, problem, problems

    assert asked.world is not None
    world, split, families = asked.world, asked.split, asked.families
    if split == "train":
        made = problems(world, split, asked.language)
        return [p for p in made if not families or p.metadata["template"].startswith(families)]
    settings = WORLDS[world]
    found: dict[Any, Story] = {}
    for story in islice(stories(world, split, settings.steps, settings.largest), _SEARCHED):
        if not families or story.template.startswith(families):
            found.setdefault((story.template, story.numbers), story)
        if len(found) == asked.most:
            break
    return [problem(world, asked.language, story) for story in found.values()]


def _of_file(asked: _Asked) -> list[Problem]:
    made = read_problems(Data(source=str(asked.file), instructed=True, examples=asked.examples))
    held_out = asked.held_out
    return {"train": made[:-held_out], "dev": made[-held_out:], "test": made}[asked.split]


def clusters(problems: Sequence[Problem]) -> list[int]:
    """A number for each problem. Problems with the same beginning, apart from numbers, share it:
    they are variants of one problem, which a model tends to get right together."""
    beginnings = [re.sub(r"\d+", "", p.text.partition(".")[0]) for p in problems]
    numbers = {text: i for i, text in enumerate(dict.fromkeys(beginnings))}
    return [numbers[text] for text in beginnings]


def run(trial: Trial, folder: Path) -> Path:
    """Trains, scores and tests; returns the file with the counts, which is written last."""
    from opsd.recipe.train import make_trainer, record

    start = time.process_time()
    study, arm, recipe = trial.study, trial.arm, trial.recipe()
    output = folder / "runs" / f"{_plain(trial.name)}-{trial.language}-{trial.seed}-{trial.key}"
    remove(output, RUN)
    given = [p for code in trial.languages for p in problems_of(study, arm, "train", code)]
    course = _Course(trial, problems_of(study, arm, "dev", trial.language))
    train = told(given, arm, trial.seed)
    trainer = make_trainer(
        _placed(recipe, study.start or study.folder), output, train, callbacks=[course.callback()]
    )
    course.trainer = trainer
    failed = None
    if trial.trained:
        record(recipe, output, trial.seed)
        try:
            trainer.train()
        except RunFailed as failure:  # a loss that is not finite is an outcome, too
            failed = str(failure)
        course.finish()
    about: dict[str, Any] = {
        "study": study.name,
        "arm": trial.name,
        "language": trial.language,
        "seed": trial.seed,
        "rate": trial.rate,
        "recipe": recipes.dump(recipe),
        "conditions": trial.conditions(),
        "environment": environment(),
        "failed": failed,
        "checkpoints": [point.row() for point in course.points],
        "log": _columns(trainer.state.log_history),
    }
    if trial.tested:
        tell(trial.label, trial.size, "testing")
        test = problems_of(study, arm, "test", trial.language)
        if arm.subject == "teacher":
            test = told(test, arm, trial.seed)
        about |= {"fields": list(fields_of(study, arm)), "counts": course.tested(test)}
        about |= {"clusters": clusters(test) if study.files else []}
    about["seconds"] = round(time.process_time() - start, 1)
    written = file_of(trial, folder)
    write_atomically(written, gzip.compress(json.dumps(about).encode()))
    tell(trial.label, trial.size, _scores(about))
    return written


def _scores(about: Mapping[str, Any]) -> str:
    """A trial's accuracy in words: on dev problems at each checkpoint, and on test problems."""
    dev = ", ".join(f"{point['dev']:.3f}" for point in about["checkpoints"])
    said = [f"dev {dev}"] if dev else []
    if "correct" in about.get("fields", ()):
        right, n = (about["fields"].index(name) for name in METRICS["avg@k"][:2])
        rows = about["counts"]["chosen"]
        said.append(f"test {sum(row[right] for row in rows) / sum(row[n] for row in rows):.3f}")
    return "; ".join(said) or "measured"


def _placed(recipe: Recipe, folder: str) -> Recipe:
    """The recipe with the local folder of its model, if there is one."""
    update = {"name": folder} if folder else {}
    return recipe.model_copy(update={"model": recipe.model.model_copy(update=update)})


@dataclass(frozen=True)
class FirstStage:
    """The training of a study's model before all arms."""

    study: Study
    folder: Path
    unit = "step"

    @property
    def label(self) -> str:
        return f"{self.study.name}, first stage"

    @property
    def size(self) -> int:
        return self.recipe().train["max_steps"]

    def recipe(self) -> Recipe:
        study = self.study
        assert study.first is not None
        content = {
            "model": study.recipe["model"],
            "method": study.first.method,
            "data": {"source": "miniature", "language": study.first.language},
            "sampling": study.recipe["sampling"],
            "train": SETTINGS | study.recipe["train"] | {"seed": 0} | study.first.train,
        }
        made = recipes.parse(content, f"{study.name}: first")
        return made.model_copy(update={"method": prompted(made.method, study)})

    @property
    def place(self) -> Path:
        """The folder of its model: named by a hash of the recipe and of the initial model."""
        said = [recipes.dump(self.recipe()), _model_hash(self.study.folder)]
        return self.folder / "models" / hashlib.sha256(json.dumps(said).encode()).hexdigest()[:16]


def train_first(stage: FirstStage) -> Path:
    """Trains a first stage, unless its model exists; returns the folder of the whole model."""
    from transformers import TrainerCallback

    from opsd.publish.export import export
    from opsd.recipe.train import train

    class Tell(TrainerCallback):
        def on_step_end(self, args: Any, state: Any, control: Any, **rest: Any) -> None:
            tell(stage.label, state.global_step, "training")

    if not stage.place.is_dir():
        output = stage.folder / "runs" / f"{stage.study.name}-first"
        remove(output, ".+")
        train(_placed(stage.recipe(), stage.study.folder), output, callbacks=[Tell()])
        export(output, stage.place)
    return stage.place


def _columns(log: Sequence[Mapping[str, float]]) -> dict[str, list[float | None]]:
    """The columns of the training log in `LOGGED`, a number per step."""
    steps = [line for line in log if "loss" in line]
    shown = [key for key in LOGGED if any(key in line for line in steps)]
    return {key: [_rounded(line.get(key)) for line in steps] for key in shown}


def _rounded(value: float | None) -> float | None:
    return None if value is None or not math.isfinite(value) else round(value, 4)


def _plain(name: str) -> str:
    return re.sub(r"\W+", "-", name)


def told(problems: Sequence[Problem], arm: Arm, seed: int) -> list[Problem]:
    """The problems with the privileged texts that an arm's teacher reads."""
    if arm.told == "another":
        return shuffled(problems, seed)
    if arm.told == "wrong":
        return wrong(problems, seed)
    if arm.told == "trace":
        return [with_solution(p, p.metadata["trace"]) for p in problems]
    return [*problems]


def file_of(trial: Trial, folder: Path) -> Path:
    """The file of a trial's outcome."""
    return folder / "trials" / f"{trial.key}.json.gz"


def is_kept(trial: Trial, folder: Path) -> bool:
    """Whether a trial was run, and nothing that decides its numbers has changed since: new features
    of the library do not matter, but a changed default does."""
    if not file_of(trial, folder).is_file():
        return False
    then, now = outcome(trial, folder)["conditions"], trial.conditions()
    return all(then[name] == now[name] for name in then.keys() & now.keys())


def outcome(trial: Trial, folder: Path) -> dict[str, Any]:
    """A trial's stored outcome."""
    return json.loads(gzip.decompress(file_of(trial, folder).read_bytes()))


@dataclass
class _Point:
    """The model after a share of its training."""

    share: float
    tokens: int
    steps: int
    score: float
    weights: dict[str, torch.Tensor]

    def row(self) -> dict[str, Any]:
        return {
            **{"share": self.share, "tokens": self.tokens, "steps": self.steps},
            "dev": round(self.score, 4),
        }


class _Course:
    """Scores the model on dev problems whenever training reaches a checkpoint, and keeps its
    weights for the test."""

    def __init__(self, trial: Trial, dev: list[Problem]) -> None:
        self.trial, self.dev = trial, dev
        self.due = list(trial.study.checkpoints)
        self.points: list[_Point] = []
        self.trainer: Any = None

    def callback(self) -> Any:
        from transformers import TrainerCallback

        course = self

        class AtShares(TrainerCallback):
            def on_step_end(self, *args: Any, **kwargs: Any) -> None:
                course.step()

        return AtShares()

    def step(self) -> None:
        tell(self.trial.label, round(self.share() * self.trial.size), "training")
        while len(self.due) > 1 and self.share() >= self.due[0]:
            self.point()

    def share(self) -> float:
        if self.trial.arm.steps:
            return self.trainer.state.global_step / self.trial.arm.steps
        return self._spent() / self.trial.tokens

    def finish(self) -> None:
        while self.due:
            self.point()

    def point(self) -> None:
        groups = self.sampled(self.dev, self.trial.study.dev, "eval")
        right = [g.pass_rate for g in groups]
        trained = self._trained()
        self.points.append(
            _Point(
                *(self.due.pop(0), self._spent(), self.trainer.state.global_step),
                sum(right) / len(right),
                {name: weight.detach().clone() for name, weight in trained.items()},
            )
        )

    def tested(self, test: list[Problem]) -> dict[str, list[list[float]]]:
        """The counts at each checkpoint that a claim may be about; `chosen` and `early` are those
        with the best dev score, the first one of ties."""
        if not self.points:
            return dict.fromkeys(("chosen", "early", "final"), self.counts(test))
        early = [p for p in self.points if p.share <= self.trial.study.early]
        named = {
            "chosen": max(self.points, key=lambda p: p.score),
            "early": max(early, key=lambda p: p.score),
            "final": self.points[-1],
        }
        made: dict[float, list[list[float]]] = {}
        for point in named.values():
            if point.share not in made:
                with torch.no_grad():
                    for name, weight in self._trained().items():
                        weight.copy_(point.weights[name])
                self.trainer.generator.weights_changed()
                self.trainer.generator.sync(self.trainer.state.global_step)
                made[point.share] = self.counts(test)
        return {at: made[point.share] for at, point in named.items()}

    def counts(self, test: list[Problem]) -> list[list[float]]:
        study, arm = self.trial.study, self.trial.arm
        view = self.teacher() if arm.subject == "teacher" else None
        groups = self.sampled(test, study.test, "test", view)
        if arm.probe:
            return probed(self.trainer, groups)
        sampler = self.trainer.generator.sampler
        return [counted(group, sampler, study.budgets) for group in groups]

    def teacher(self) -> Any:
        """The context of the method's teacher."""
        return self.trial.recipe().method.signal.teacher.context

    def sampled(
        self, problems: list[Problem], how: Scored, phase: str, view: Any = None
    ) -> list[Any]:
        from opsd.rollout.sources import OnPolicy

        # The same random numbers for every arm of a seed: their differences are paired.
        own = self.trainer.generator.sampler.outside_training(self.trial.seed)
        return own.sample(problems, OnPolicy(group=how.samples, view=view), step=0, phase=phase)

    def _trained(self) -> dict[str, torch.Tensor]:
        return {n: p for n, p in self.trainer.model.named_parameters() if p.requires_grad}

    def _spent(self) -> int:
        return self.trainer.generator.sampler.counts.generated_tokens


def fields_of(study: Study, arm: Arm) -> tuple[str, ...]:
    """The names of a problem's counts."""
    if arm.probe:
        return PROBED
    shortened = [METRICS[metric][0] for metric in SHORTENED]
    return (*FIELDS, *(f"{name} at {budget}" for budget in study.budgets for name in shortened))


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
        round(-sum(sum(r.logprobs) for r in rollouts), 3),
    ]
    for budget in budgets:
        ids = [r.completion_ids[:budget] for r in rollouts]
        verdicts = sampler.verify([Attempt(group.problem, sampler.text(x), x) for x in ids])
        right = sum(verdict.correct for verdict in verdicts)
        row += [right, right > 0, sum(verdict.format_ok for verdict in verdicts)]
    return [float(x) if x % 1 else int(x) for x in row]


def read(outcomes: Mapping[str, Sequence[Mapping[str, Any]]], at: At) -> Counts:
    """An arm's counts at a checkpoint, from its trials' outcomes: language -> the outcomes of its
    seeds, in order."""
    arrays = {
        code: np.array([one["counts"][at] for one in group], dtype=float)
        for code, group in outcomes.items()
    }
    first = next(iter(outcomes.values()))[0]
    return Counts(tuple(first["fields"]), arrays, tuple(first["clusters"]))

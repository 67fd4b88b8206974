"""Claims of papers as experiments, written down before they are run: one YAML file per study, in
`studies/`.

A study fixes for all of its arms what could favour one of them: the model, the problems, the grid
of learning rates, the tokens, when the model is scored on dev problems, and the seeds. An arm only
says which method it is, and what of the shipped method it changes. What is not a fair comparison
is refused when the file is read.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from importlib import resources
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import yaml
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

from opsd.experiments.measures import METRICS
from opsd.types import UserError

BASE = "base"
"""What an arm is called that is not trained; other bases are `base, ...`."""

LEAST_RATES, LEAST_SEEDS = 3, 8
"""Of a study in the built-in world; a pretrained model costs a thousand times as much, and has
`LEAST_RATES - 1` and `LEAST_SEEDS_PRETRAINED`."""
LEAST_SEEDS_PRETRAINED = 3

_HALF_A_DECADE = (2.9, 3.5)


class Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Arm(Strict):
    """What is trained: the method that its name begins with, as shipped but for `change`.

    `told` deals every problem another one's privileged texts, or a solution whose answer is
    another problem's. `train_on` and `test_on` are families of problems (all unless given).
    `steps` ends training instead of the study's tokens; methods that generate nothing need it. A
    `probe` is not trained: it counts where the method's teacher disagrees with wrong rollouts.
    """

    change: dict[str, Any] = Field(default_factory=dict)
    model: str | None = None
    languages: tuple[str, ...] | None = None
    told: Literal["own", "another", "wrong", "trace"] = "own"
    train_on: tuple[str, ...] = ()
    test_on: tuple[str, ...] = ()
    steps: Annotated[int, Field(gt=0)] | None = None
    probe: bool = False

    @property
    def place(self) -> tuple[Any, ...]:
        """Where it is tested: arms that share it share a base."""
        return self.model, self.languages, self.test_on

    @property
    def budget(self) -> tuple[Any, ...]:
        """What ends its training, and what it may train on."""
        return self.steps, self.train_on


def _term(given: Any) -> Any:
    return {"arm": given} if isinstance(given, str) else given


class _Term(Strict):
    """A metric of an arm. `at` names the checkpoint: the one that dev chooses of all, that of the
    `early` ones, or the `final` one."""

    arm: str
    at: Literal["chosen", "early", "final"] = "chosen"
    metric: str | None = None


Term = Annotated[_Term, BeforeValidator(_term)]


class Claim(Strict):
    """The metrics of some arms less those of others, languages averaged.

    `at_least` is the smallest effect that counts or, below what would be none, the margin of 'as
    good as'; in the metric's unit. `shown` are arms beside those that are measured. `holds` and
    `fails` say what either outcome means for somebody who trains a model.
    """

    says: str
    plus: tuple[Term, ...]
    minus: tuple[Term, ...]
    at_least: float
    holds: str
    fails: str
    published: str = ""
    metric: str = "avg@k"
    shown: tuple[str, ...] = ()
    note: str = ""

    @property
    def arms(self) -> tuple[str, ...]:
        """Its arms by name, those that are measured first."""
        named = [term.arm for term in (*self.plus, *self.minus)]
        return tuple(dict.fromkeys([*named, *self.shown]))

    @property
    def winner(self) -> str | None:
        """The arm that must be above the base, where accuracy is measured."""
        metrics = {term.metric or self.metric for term in (*self.plus, *self.minus)}
        right = any(metric.startswith(("avg@k", "pass@k")) for metric in metrics)
        return self.plus[0].arm if right else None


class Source(Strict):
    """Claims of one paper, or questions of our own."""

    title: str
    claims: dict[str, Claim]


class Example(Strict):
    """A worked example, shown as an earlier turn of the conversation."""

    problem: str
    solution: str


class Scored(Strict):
    """How many problems, and samples of each."""

    problems: Annotated[int, Field(gt=0)]
    samples: Annotated[int, Field(gt=0)]


class Study(Strict):
    """Experiments on one model.

    `recipe` is what all arms share; its `data` is overwritten. Problems are those of a built-in
    `world`, or files of rows, `train` and `test`, whose last training rows are the dev problems.
    `examples` come before every problem, and `prompts` are templates by the context's type, in
    place of the shipped ones. `tokens` are generated in training; `checkpoints` are the shares of
    them after which dev problems are scored, and `early` is the share up to which a checkpoint is
    an early one. `rates` are tried with `selection_seed`, which no test uses. A pretrained model is
    recognised by the keys of its configuration in `architecture`.
    """

    name: str
    title: str
    world: str | None = None
    files: dict[Literal["train", "test"], str] = Field(default_factory=dict)
    architecture: dict[str, Any] = Field(default_factory=dict)
    examples: tuple[Example, ...] = ()
    prompts: dict[str, str] = Field(default_factory=dict)
    recipe: dict[str, Any]
    languages: tuple[str, ...]
    tokens: Annotated[int, Field(gt=0)]
    checkpoints: tuple[Annotated[float, Field(gt=0, le=1)], ...]
    early: Annotated[float, Field(gt=0, le=1)]
    rates: tuple[Annotated[float, Field(gt=0)], ...]
    seeds: int
    selection_seed: int
    dev: Scored
    test: Scored
    budgets: tuple[Annotated[int, Field(gt=0)], ...] = ()
    folder: str = Field(default="", exclude=True)
    """Where the pretrained model is; excluded, as a model is told by its weights."""
    arms: dict[str, Arm]
    papers: tuple[Source, ...]
    questions: Source

    @model_validator(mode="after")
    def _is_fair(self) -> Self:
        for problem in _unfair(self):
            raise ValueError(problem)
        return self

    @property
    def pretrained(self) -> bool:
        """Whether its model is fetched, and not built in."""
        return bool(self.architecture)

    def claims(self) -> Iterator[tuple[str, Source, Claim]]:
        """Every claim by name, with where it comes from."""
        for source in (*self.papers, self.questions):
            for name, claim in source.claims.items():
                yield name, source, claim

    def base_of(self, arm: str) -> str | None:
        """The untrained model where an arm is tested."""
        place = self.arms[arm].place
        bases = [name for name in self.arms if is_base(name) and self.arms[name].place == place]
        return bases[0] if bases else None

    def arms_of(self, claim: Claim) -> tuple[str, ...]:
        """All arms that a claim needs: its own, and the bases that they are held against."""
        trained = [arm for arm in claim.arms if not self.arms[arm].probe]
        bases = [base for base in map(self.base_of, trained) if base is not None]
        return tuple(dict.fromkeys([*claim.arms, *bases]))

    def languages_of(self, arm: str) -> tuple[str, ...]:
        """The languages that an arm is trained and tested in, each by itself."""
        return self.arms[arm].languages or self.languages


def built_in(known: Mapping[str, Study]) -> dict[str, Study]:
    """The studies that need no model to be fetched."""
    return {name: study for name, study in known.items() if not study.pretrained}


def on_model(known: Mapping[str, Study], folder: str) -> dict[str, Study]:
    """The studies of the pretrained model in a folder. UserError where there is none."""
    file = Path(folder) / "config.json"
    if not file.is_file():
        raise UserError(f"--model {folder}: no folder of a model; config.json is not there")
    config = json.loads(file.read_text("utf-8"))
    made = {
        study.name: study.model_copy(update={"folder": folder})
        for study in known.values()
        if study.pretrained and study.architecture.items() <= config.items()
    }
    if not made:
        said = [f"{s.name} ({s.recipe['model']['name']})" for s in known.values() if s.pretrained]
        raise UserError(f"--model {folder}: no study is of this model; there are {', '.join(said)}")
    return made


def method_of(arm: str) -> str:
    """The shipped method that an arm's name begins with."""
    return arm.partition(",")[0]


def is_base(arm: str) -> bool:
    """Whether an arm is the untrained model."""
    return method_of(arm) == BASE


def _unfair(study: Study) -> Iterator[str]:
    """What of a study a reader would object to."""
    rates = LEAST_RATES - study.pretrained
    if bool(study.files) == (study.world is not None):
        yield "world, or files: one of the two says where problems come from"
    if len(study.rates) < rates:
        yield f"rates: at least {rates} learning rates, or the grid is none"
    low, high = _HALF_A_DECADE
    if any(not low <= b / a <= high for a, b in pairwise(study.rates)):
        yield "rates: each about half a decade (3 to 3.3 times) above the one before"
    seeds = LEAST_SEEDS_PRETRAINED if study.pretrained else LEAST_SEEDS
    if study.seeds < seeds:
        yield f"seeds: at least {seeds}; fewer say too little of how much seeds differ"
    if 0 <= study.selection_seed < study.seeds:
        yield "selection_seed: it also tests; a rate is chosen with a seed that no test uses"
    if list(study.checkpoints) != sorted(set(study.checkpoints)) or study.checkpoints[-1] != 1:
        yield "checkpoints: rising shares of the tokens, the last of them 1"
    if study.early not in study.checkpoints:
        yield "early: one of the checkpoints"
    for name, arm in study.arms.items():
        yield from _misnamed(name, arm)
    for name, _, claim in study.claims():
        yield from (f"{name}: {problem}" for problem in _unfair_claim(study, claim))


def _misnamed(name: str, arm: Arm) -> Iterator[str]:
    """An arm is called by its method alone only where it is the method as shipped."""
    differs = bool(arm.change) or arm.told != "own" or arm.model is not None or arm.probe
    if differs and "," not in name:
        yield f"arms: '{name}' is not {name} as shipped; let its name say how it differs"


def _unfair_claim(study: Study, claim: Claim) -> Iterator[str]:
    missing = [arm for arm in claim.arms if arm not in study.arms]
    if missing:
        yield f"no arm '{missing[0]}' in this study"
        return
    for term in (*claim.plus, *claim.minus):
        metric = (term.metric or claim.metric).partition(" at ")[0]
        if metric not in METRICS:
            yield f"no metric '{metric}'; there are {', '.join(METRICS)}"
    trained = [arm for arm in claim.arms if not is_base(arm) and not study.arms[arm].probe]
    for arm in trained:
        shipped = [a for a in trained if method_of(a) == method_of(arm)]
        if "divergence" in study.arms[arm].change and all(
            "divergence" in study.arms[a].change for a in shipped
        ):
            yield (
                f"'{arm}' changes the divergence: {method_of(arm)} with its own is an arm too"
                " (`shown`)"
            )
    if claim.winner is not None and study.base_of(claim.winner) is None:
        yield f"'{claim.winner}' is held against no base: add the untrained model as an arm"
    generating = [arm for arm in trained if method_of(arm) not in READ_ONLY]
    budgets = {study.arms[arm].budget for arm in generating}
    if len(budgets) > 1:
        yield "its arms end after different budgets, or train on different problems"
    for arm in trained:
        if method_of(arm) in READ_ONLY and study.arms[arm].steps is None:
            yield f"'{arm}' generates nothing: `steps` says when it ends"


READ_ONLY = ("sft",)
"""Methods that generate nothing in training, so that no tokens end it."""


@cache
def studies() -> dict[str, Study]:
    """All shipped studies, by name."""
    folder = resources.files("opsd.experiments") / "studies"
    files = sorted(file.name for file in folder.iterdir())
    return {
        name.removesuffix(".yaml"): parse((folder / name).read_text("utf-8"), name)
        for name in files
    }


def parse(text: str, name: str) -> Study:
    """A study from a file's text. UserError, one line, for one that cannot be run or is unfair."""
    content = yaml.safe_load(text)
    try:
        return Study(**content | {"name": name.removesuffix(".yaml")})
    except ValidationError as error:
        reasons = [_said(problem) for problem in error.errors()]
        raise UserError(f"studies/{name}: {reasons[0]}") from error


def chosen(names: Sequence[str], known: Mapping[str, Study]) -> dict[str, tuple[str, ...]]:
    """The named claims, or studies, or all: study -> claims. UserError for a name that none has."""
    made: dict[str, tuple[str, ...]] = {}
    for study in known.values():
        own = [name for name, _, _ in study.claims()]
        made[study.name] = tuple(
            name for name in own if not names or study.name in names or name in names
        )
    every = [name for study in known.values() for name, _, _ in study.claims()]
    for name in names:
        if name not in (*known, *every):
            raise UserError(
                f"no claim and no study '{name}'; there are {', '.join([*known, *every])}"
            )
    return {study: claims for study, claims in made.items() if claims}


def _said(problem: Any) -> str:
    where = ".".join(str(part) for part in problem["loc"])
    reason = problem["msg"].removeprefix("Value error, ")
    return f"{where}: {reason}" if where else reason

"""Claims of papers as experiments, written down before they are run: one YAML file per study, in
`studies/`.

A study fixes for all of its arms what could favour one of them: the model, the problems, the grid
of learning rates, the tokens, when the model is scored on dev problems, and the seeds. An arm only
says which method it is, and how it changes the shipped method. A comparison that is not fair is
refused when the file is read.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from importlib import resources
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import yaml
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

from opsd.data.examples import Example
from opsd.experiments.measures import METRICS, PROBED, SHORTENED
from opsd.grade.intervals import FEWEST
from opsd.lm.built_in import model_path
from opsd.methods import catalogue
from opsd.runs.json_files import document
from opsd.types import UserError

BASE = "base"
"""The name of an untrained arm; other bases are called `base, ...`."""

LEAST = {"built in": (3, 8), "pretrained": (2, 3)}
"""The least numbers of learning rates and seeds of a study: a pretrained model costs a thousand
times as much."""

_HALF_A_DECADE = (2.9, 3.5)


class Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Arm(Strict):
    """What is trained: the method that the arm's name begins with, as shipped except for `change`.

    `told` gives every problem another problem's privileged texts (`another`), a solution with
    another problem's answer (`wrong`), or the full trace as its solution (`trace`). `together` are
    languages that are trained at once, each with as many tokens as an arm of that language has.
    `train_on` and `test_on` are families of problems (by default all). `steps` ends training
    instead of the study's tokens; methods that generate nothing need it. `subject` is what is
    tested: the trained student; without training, the `teacher`, which answers the test problems
    itself from what the method shows it; or its `disagreement` with wrong rollouts, step by step.
    """

    change: dict[str, Any] = Field(default_factory=dict)
    model: str | None = None
    languages: tuple[str, ...] | None = None
    together: tuple[str, ...] = ()
    told: Literal["own", "another", "wrong", "trace"] = "own"
    train_on: tuple[str, ...] = ()
    test_on: tuple[str, ...] = ()
    steps: Annotated[int, Field(gt=0)] | None = None
    subject: Literal["student", "teacher", "disagreement"] = "student"

    @property
    def probe(self) -> bool:
        """Whether the arm's advantages are measured instead of answers."""
        return self.subject == "disagreement"

    @property
    def place(self) -> tuple[Any, ...]:
        """Model, languages and test problems: arms with the same place share a base."""
        return self.model, self.languages, self.test_on


def _term(given: Any) -> Any:
    return {"arm": given} if isinstance(given, str) else given


class _Term(Strict):
    """A metric of an arm. `at` names the checkpoint: the one that dev chooses among all (`chosen`),
    among the `early` ones, or the `final` one."""

    arm: str
    at: Literal["chosen", "early", "final"] = "chosen"
    metric: str | None = None


Term = Annotated[_Term, BeforeValidator(_term)]


class Claim(Strict):
    """The metrics of some arms minus those of others, averaged over languages.

    `at_least` is the smallest effect that counts, in the metric's unit; below zero it is the margin
    of 'as good as'. `shown` are further arms that are only shown. `keeps` is how far below the base
    the claimed arm may end, for a claim about what is kept; for any other claim, it must end above.
    `holds` and `fails` say what either outcome means for a user who trains a model.
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
    keeps: Annotated[float, Field(ge=0)] = 0.0
    note: str = ""

    @property
    def terms(self) -> tuple[tuple[float, _Term], ...]:
        """The terms that are added and subtracted, each with its sign."""
        return (*((1.0, term) for term in self.plus), *((-1.0, term) for term in self.minus))

    def metric_of(self, term: _Term) -> str:
        return term.metric or self.metric

    @property
    def arms(self) -> tuple[str, ...]:
        """The names of its arms, the measured ones first."""
        named = [term.arm for _, term in self.terms]
        return tuple(dict.fromkeys([*named, *self.shown]))

    @property
    def claimed(self) -> _Term | None:
        """The term that must be above the base: the first one that is added, if accuracy is
        measured and the claim does not compare with the base already."""
        right = all(self.metric_of(t).startswith(("avg@k", "pass@k")) for _, t in self.terms)
        against_base = all(is_base(term.arm) for term in self.minus)
        return self.plus[0] if right and not against_base else None


class Source(Strict):
    """Claims of one paper, or questions of our own."""

    title: str
    claims: dict[str, Claim]


class Scored(Strict):
    """How many problems are scored, and with how many samples each."""

    problems: Annotated[int, Field(gt=0)]
    samples: Annotated[int, Field(gt=0)]


class First(Strict):
    """A stage of training before all arms: its model is what they start from, and their base."""

    method: str
    language: str
    train: dict[str, Any]


class Study(Strict):
    """Experiments on one model.

    `recipe` is what all arms share; its `data` is overwritten. `first` is a stage of training
    before them, which runs once. Problems are those of a built-in `world`, or of files, `train` and
    `test`; the last training rows are the dev problems. `examples` come before every problem, and
    `prompts` are templates by the context's type, which replace the shipped ones. `tokens` are
    generated in training; `checkpoints` are the shares of them after which dev problems are scored;
    checkpoints up to the share `early` are the early ones. `rates` are tried with `selection_seed`,
    which no test uses. A pretrained model is recognised by the keys of its configuration in
    `architecture`, and by a hash of its `weights`.
    """

    name: str
    title: str
    world: str | None = None
    files: dict[Literal["train", "test"], str] = Field(default_factory=dict)
    architecture: dict[str, Any] = Field(default_factory=dict)
    weights: str = ""
    note: str = ""
    examples: tuple[Example, ...] = ()
    prompts: dict[str, str] = Field(default_factory=dict)
    recipe: dict[str, Any]
    first: First | None = None
    languages: Annotated[tuple[str, ...], Field(min_length=1)]
    tokens: Annotated[int, Field(gt=0)]
    checkpoints: Annotated[tuple[Annotated[float, Field(gt=0, le=1)], ...], Field(min_length=1)]
    early: Annotated[float, Field(gt=0, le=1)]
    rates: tuple[Annotated[float, Field(gt=0)], ...]
    seeds: int
    selection_seed: int
    dev: Scored
    test: Scored
    budgets: tuple[Annotated[int, Field(gt=0)], ...] = ()
    folder: str = Field(default="", exclude=True)
    """The folder of the pretrained model; excluded, since weights identify a model."""
    start: str = Field(default="", exclude=True)
    """The folder of the model that the first stage has trained."""
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
        """Whether its model must be downloaded, and is not built in."""
        return bool(self.architecture)

    def claims(self) -> Iterator[tuple[str, Source, Claim]]:
        """Yields every claim: its name, its source, and the claim."""
        for source in (*self.papers, self.questions):
            for name, claim in source.claims.items():
                yield name, source, claim

    def base_of(self, arm: str) -> str | None:
        """The untrained arm with the same model, languages and test problems."""
        place = self.arms[arm].place
        bases = [name for name in self.arms if is_base(name) and self.arms[name].place == place]
        return bases[0] if bases else None

    def arms_of(self, claim: Claim) -> tuple[str, ...]:
        """All arms that a claim needs: its own, and the bases that they are compared with."""
        answer = [arm for arm in claim.arms if not self.arms[arm].probe]
        bases = [base for base in map(self.base_of, answer) if base is not None]
        return tuple(dict.fromkeys([*claim.arms, *bases]))

    def languages_of(self, arm: str) -> tuple[str, ...]:
        """The languages in which an arm is trained and tested, each one separately."""
        return self.arms[arm].languages or self.languages


def built_in(known: Mapping[str, Study]) -> dict[str, Study]:
    """The studies that need no download of a model."""
    return {name: study for name, study in known.items() if not study.pretrained}


def on_model(known: Mapping[str, Study], folder: str) -> dict[str, Study]:
    """The studies of the pretrained model in a folder. UserError if there are none."""
    file = Path(folder) / "config.json"
    if not file.is_file():
        raise UserError(f"--model {folder}: not a model's folder: it has no config.json")
    config = document(file)
    made = {
        study.name: study.model_copy(update={"folder": folder})
        for study in known.values()
        if study.pretrained and study.architecture.items() <= config.items()
    }
    if not made:
        said = [f"{s.name} ({s.recipe['model']['name']})" for s in known.values() if s.pretrained]
        raise UserError(f"--model {folder}: no study of this model; studies: {', '.join(said)}")
    for study in made.values():
        if study.weights and fingerprint(folder) != study.weights:
            raise UserError(
                f"--model {folder}: built like {study.recipe['model']['name']}, but its weights are"
                f" not those of {study.name}"
            )
    return made


@cache
def fingerprint(model: str) -> str:
    """A hash of the weights of a built-in model, or of a model in a folder."""
    made = hashlib.sha256()
    for file in sorted((model_path(model) or Path(model)).glob("*.safetensors")):
        with file.open("rb") as content:
            made.update(hashlib.file_digest(content, "sha256").digest())
    return made.hexdigest()[:16]


def method_of(arm: str) -> str:
    """The shipped method that an arm's name begins with."""
    return arm.partition(",")[0]


def is_base(arm: str) -> bool:
    """Whether an arm is the untrained model."""
    return method_of(arm) == BASE


def is_trained(name: str, arm: Arm) -> bool:
    return not is_base(name) and arm.subject == "student"


def _unfair(study: Study) -> Iterator[str]:
    """Yields what makes a study unfair or impossible to run."""
    rates, seeds = LEAST["pretrained" if study.pretrained else "built in"]
    if bool(study.files) == (study.world is not None):
        yield "world, files: give exactly one of the two as the source of problems"
    if study.first is not None and study.first.method not in catalogue():
        yield f"first: no method '{study.first.method}'; methods: {', '.join(catalogue())}"
    if study.pretrained and model_path(study.recipe["model"]["name"]) is not None:
        yield "architecture: only for a pretrained model; this one is built in"
    if len(study.rates) < rates:
        yield f"rates: a grid needs at least {rates} learning rates"
    low, high = _HALF_A_DECADE
    if any(not low <= b / a <= high for a, b in pairwise(study.rates)):
        yield "rates: each must be about half a decade (3 to 3.3 times) above the one before"
    if study.seeds < seeds:
        yield f"seeds: at least {seeds}; fewer tell too little about how much seeds differ"
    if 0 <= study.selection_seed < study.seeds:
        yield "selection_seed: it is also a test seed; choose a seed that no test uses"
    if list(study.checkpoints) != sorted(set(study.checkpoints)) or study.checkpoints[-1] != 1:
        yield "checkpoints: must be rising shares of the tokens, the last one 1"
    if study.early not in study.checkpoints:
        yield "early: must be one of the checkpoints"
    if study.test.problems < FEWEST:
        yield f"test: at least {FEWEST} problems, or no difference can be told from chance"
    for name, arm in study.arms.items():
        yield from (f"arms: '{name}' {problem}" for problem in _unfair_arm(name, arm))
        if arm.together and (study.files or {*study.languages_of(name)} - {*arm.together}):
            yield f"arms: '{name}' is tested in a language that is not in `together`"
    names = [name for name, _, _ in study.claims()]
    yield from (f"{name}: used by two claims" for name in set(names) if names.count(name) > 1)
    for name, _, claim in study.claims():
        yield from (f"{name}: {problem}" for problem in _unfair_claim(study, claim))


def _unfair_arm(name: str, arm: Arm) -> Iterator[str]:
    """Yields what is wrong with an arm. Only an unchanged method's arm may have its bare name."""
    if is_base(name):
        if arm.change or arm.told != "own" or arm.steps or arm.train_on or arm.together:
            yield "is not trained: only its model, languages and test problems can be set"
        return
    if method_of(name) not in catalogue():
        yield f"does not begin with a method's name; methods: {', '.join(catalogue())}"
    if "name" in arm.change:
        yield "changes the name of its method; begin the arm's name with that method instead"
    differs = bool(arm.change) or arm.told != "own" or arm.model is not None
    differs = differs or arm.subject != "student" or bool(arm.together)
    if differs and "," not in name:
        yield f"is not {name} as shipped; add how it differs to its name, after a comma"
    if arm.subject == "teacher" and not hasattr(catalogue()[method_of(name)].signal, "teacher"):
        yield "has no teacher that could be tested"
    if method_of(name) in READ_ONLY and arm.steps is None:
        yield "generates nothing: set `steps`, after which it ends"


def _unfair_claim(study: Study, claim: Claim) -> Iterator[str]:
    missing = [arm for arm in claim.arms if arm not in study.arms]
    if missing:
        yield f"no arm '{missing[0]}' in this study"
        return
    arms = study.arms
    for _, term in claim.terms:
        yield from _unknown(study, claim.metric_of(term), arms[term.arm].probe)
    trained = [arm for arm in claim.arms if is_trained(arm, arms[arm])]
    for arm in trained:
        if "divergence" in arms[arm].change and method_of(arm) not in claim.arms:
            yield (
                f"'{arm}' changes the divergence: also show {method_of(arm)} with its own (`shown`)"
            )
    if claim.claimed is not None and study.base_of(claim.claimed.arm) is None:
        yield f"'{claim.claimed.arm}' is compared with no base: add the untrained model as an arm"
    signs: dict[Any, float] = {}
    for sign, term in claim.terms:
        place = arms[term.arm].place
        signs[place] = signs.get(place, 0.0) + sign
    if any(signs.values()):
        yield "compares arms with different models, languages or test problems"
    if len({arms[arm].train_on for arm in trained}) > 1:
        yield "its arms train on different problems"
    steps = {arms[arm].steps for arm in trained}
    generating = {arms[arm].steps for arm in trained if method_of(arm) not in READ_ONLY}
    if len(generating) > 1 or (generating != {None} and len(steps) > 1):
        yield "its arms end after different budgets"
    if any(term.at == "early" and not is_base(term.arm) for term in claim.minus):
        yield "subtracts an arm at an early checkpoint, where its training is cut short"


def _unknown(study: Study, metric: str, probe: bool) -> Iterator[str]:
    name, _, budget = metric.partition(" at ")
    if name not in METRICS or (name in PROBED) != probe:
        yield f"no metric '{name}' for such an arm; metrics: {', '.join(METRICS)}"
    if budget and not (name in SHORTENED and budget.isdigit() and int(budget) in study.budgets):
        yield f"'{metric}': only {', '.join(SHORTENED)} are counted, at the study's budgets"


READ_ONLY = ("sft",)
"""Methods that generate nothing in training, so that a number of tokens cannot end it."""


@cache
def studies() -> dict[str, Study]:
    """All shipped studies, by name."""
    folder = resources.files("opsd.experiments") / "studies"
    names = sorted(file.name.removesuffix(".yaml") for file in folder.iterdir())
    return {
        name: parse((folder / f"{name}.yaml").read_text("utf-8"), f"{name}.yaml") for name in names
    }


def parse(text: str, name: str) -> Study:
    """A study from a file's text. UserError, one line, for one that cannot be run or is unfair."""
    try:
        content = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise UserError(f"studies/{name}: not YAML: {' '.join(str(error).split())}") from error
    if not isinstance(content, dict):
        raise UserError(f"studies/{name}: not a mapping of keys to values")
    try:
        return Study(**content | {"name": name.removesuffix(".yaml")})
    except ValidationError as error:
        reasons = [_said(problem) for problem in error.errors()]
        raise UserError(f"studies/{name}: {reasons[0]}") from error


def chosen(names: Sequence[str], known: Mapping[str, Study]) -> dict[str, tuple[str, ...]]:
    """The named claims or studies, or all: study -> claims. UserError for an unknown name."""
    made: dict[str, tuple[str, ...]] = {}
    for study in known.values():
        own = [name for name, _, _ in study.claims()]
        made[study.name] = tuple(
            name for name in own if not names or study.name in names or name in names
        )
    every = [name for study in known.values() for name, _, _ in study.claims()]
    for name in names:
        if name not in (*known, *every):
            raise UserError(f"no claim or study '{name}'; known: {', '.join([*known, *every])}")
    return {study: claims for study, claims in made.items() if claims}


def _said(problem: Any) -> str:
    where = ".".join(str(part) for part in problem["loc"])
    reason = problem["msg"].removeprefix("Value error, ")
    return f"{where}: {reason}" if where else reason

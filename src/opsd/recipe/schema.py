"""Recipes: YAML files that say what to train, on what, and how. Every key is checked before
anything heavy is loaded."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal, get_type_hints

import yaml
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError, model_validator

from opsd.credentials import without_credentials
from opsd.data.problems import Data
from opsd.grade.verifier import MathVerifier
from opsd.grade.verifiers import AnyVerifier
from opsd.lm.gguf import joined
from opsd.methods import FUNCTIONS, Method
from opsd.methods.parsing import method
from opsd.parts import laid_over
from opsd.prompts.prompt import without_files
from opsd.recipe.files import find, lineage
from opsd.rollout.engine import LEAST_TEMPERATURE
from opsd.rollout.engines import HF, AnyEngine
from opsd.types import UserError
from opsd.validation import explain, mapping, parsed

_SHOWN = 100
"""Characters of an override that a message quotes."""
_NAME = re.compile(r"[A-Za-z0-9][\w-]*")
_SHORT = {"method": "name", "model": "name", "engine": "type", "verifier": "type"}
"""The key that a value stands for where it is given instead of a group of keys."""
_OF_THE_REPOSITORY = ("revision", "trust_remote_code", "gguf_file")


class Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Lora(Strict):
    """A LoRA adapter (PEFT's LoraConfig); the defaults are OPSD's."""

    r: Annotated[int, Field(gt=0)] = 64
    lora_alpha: Annotated[int, Field(gt=0)] = 128
    target_modules: str | list[str] = "all-linear"


class Model(Strict):
    """A hub name, a folder, a GGUF file, or a built-in model; trained whole, or through an adapter.
    Code that comes with a model runs only where `trust_remote_code` says so. `quantization` keeps
    the base of an adapter in few bits (QLoRA). A `gguf_file` in a folder or repository is from then
    on part of the name."""

    name: str
    lora: Lora | None = None
    revision: str | None = None
    dtype: Literal["auto", "float32", "bfloat16", "float16"] | None = None
    attn_implementation: str | None = None
    trust_remote_code: bool = False
    quantization: Literal["4bit", "8bit"] | None = None
    gguf_file: str | None = None

    @model_validator(mode="before")
    @classmethod
    def _with_its_file(cls, given: Any) -> Any:
        """One name for a model, wherever it is spoken of."""
        match given:
            case {"name": str(name), "gguf_file": str(file)}:
                return {**given, "name": joined(name, file), "gguf_file": None}
        return given

    @property
    def options(self) -> dict[str, Any]:
        """What is handed on to the loading of the model."""
        return self.model_dump(exclude={"name", "lora"}, exclude_defaults=True)


class Sampling(Strict):
    """How rollouts are drawn; `max_completion_length` in tokens."""

    temperature: Annotated[float, Field(ge=LEAST_TEMPERATURE)] = 1.1
    top_p: Annotated[float, Field(gt=0, le=1)] = 0.95
    top_k: Annotated[int, Field(ge=0)] = 20
    min_p: Annotated[float, Field(ge=0, lt=1)] = 0.0
    max_completion_length: Annotated[int, Field(gt=0)] = 1024


class Published(Strict):
    """A number that a paper prints for this setting, and where.

    `value` is in percent as printed (a gain: percentage points over the base model), `budget` in
    tokens. Without a language it is the mean over the suite's languages.
    """

    suite: Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]*$")]
    metric: Annotated[str, Field(pattern=r"^(avg|pass|maj)@[1-9][0-9]*( gain)?$")]
    value: Annotated[float, Field(ge=-100, le=100)]
    where: str
    language: str | None = None
    split: str | None = None
    budget: Annotated[int, Field(gt=0)] | None = None


class Recipe(Strict):
    """A training run. `train` holds fields of `OPSDConfig`. `peers` are two runs, by name, of
    models that write for each other: each the recipe with what a peer's own keys change.
    `unwritten` is what a run in Python had that no recipe can name, a line each: it cannot be
    trained by this recipe."""

    model: Model
    method: Method
    data: Data
    sampling: Sampling = Sampling()
    engine: AnyEngine = HF()
    verifier: AnyVerifier = MathVerifier()
    train: dict[str, Any] = Field(default_factory=dict)
    published: list[Published] = Field(default_factory=list)
    peers: dict[str, Recipe] = Field(default_factory=dict)
    unwritten: list[str] = Field(default_factory=list)


def load(name: str, overrides: Sequence[str] = ()) -> Recipe:
    """A recipe from a file or by a shipped recipe's name, laid over the one that it `extends`, with
    `key.path=value` overrides. Prompt templates that are files become their text: those of a file
    lie in its folder or below it, those of an override anywhere.

    Raises UserError, one line, for whatever is wrong with it.
    """
    path = find(name)
    content: dict[str, Any] = {}
    for file, keys in reversed(lineage(path, mapping)):
        content = _extended(content, without_files(keys, file.parent))
    for override in overrides:
        _override(content, override)
    return parse(without_files(content), str(path))


def load_asking(path: str) -> Recipe:
    """The recipe of a run, as far as asking its model needs it: where the method has parts without
    a name, its student prompt alone; where the verifier has none, `unnamed`."""
    content = mapping(find(path))
    for key in {line.partition(":")[0].partition(".")[0] for line in content.get("unwritten", ())}:
        if key == "method":
            own = {k: x for k, x in content[key].items() if k in ("name", "student")}
            name = f"{own['name']}, in part" if own["name"] in FUNCTIONS else own["name"]
            content[key] = {**own, "name": name, "signal": {"type": "likelihood"}}
        elif key == "verifier":
            content[key] = {"type": f"{__name__}:{unnamed.__name__}"}
        elif key == "data":
            content[key].pop("curriculum", None)
        elif key == "engine":
            del content[key]
    return parse(content, path)


def unnamed(problem: Any, completion: str) -> None:
    """Stands for a verifier that no recipe can name."""
    raise UserError("the run's verifier has no name that can be imported: choose a --verifier")


def refuse_unwritten(name: str) -> None:
    """Raises UserError for the recipe of a run in Python that no recipe can go on with."""
    path = find(name)
    lost = mapping(path).get("unwritten")
    if lost:
        raise UserError(
            f"{path}: a run in Python, with what no recipe can name ({'; '.join(map(str, lost))}):"
            " go on there, by trainer.train(resume_from_checkpoint=True)"
        )


def parse(content: Mapping[str, Any], where: str = "recipe") -> Recipe:
    """A recipe from plain values."""
    plain = {key: value for key, value in content.items() if key != "peers"}
    peers = content.get("peers")
    content = {key: _in_full(key, value) for key, value in plain.items()}
    if "method" in content:
        content["method"] = method(content["method"], where)
    try:
        recipe = Recipe.model_validate(content)
    except ValidationError as error:
        raise UserError(f"{where}: {explain(error, content)}") from error
    made = _peers(peers, plain, where)
    return recipe.model_copy(update={"train": check_train(recipe.train, where), "peers": made})


def dump(recipe: Recipe) -> str:
    """The resolved recipe as YAML; loading it again gives the same recipe, but for credentials,
    which are never written, and with the text of templates that are files."""
    content = without_credentials(without_files(recipe.model_dump(mode="json")))
    for own in (content, *content["peers"].values()):
        for key in ("peers", "unwritten"):
            if not own[key]:
                del own[key]
    return yaml.safe_dump(content, sort_keys=False, allow_unicode=True)


def _peers(given: Any, content: Mapping[str, Any], where: str) -> dict[str, Recipe]:
    """The recipes of two peers: what each says, laid over the recipe itself."""
    if given is None or given == {}:
        return {}
    if not isinstance(given, Mapping) or len(given) != 2:
        raise UserError(
            f"{where}: peers: two names, each with the keys in which its run differs from the"
            " recipe, as {physicist: {model: ...}, chemist: {model: ...}}"
        )
    made = {}
    for name, own in given.items():
        at = f"{where}: peers.{str(name)[:_SHOWN]}"
        if not isinstance(name, str) or not _NAME.fullmatch(name):
            raise UserError(f"{at}: the name is a folder's: letters, digits, '-' and '_'")
        if not isinstance(own, Mapping | None) or "peers" in (own or {}):
            raise UserError(f"{at}: a mapping of the keys in which this run differs")
        made[name] = parse(_extended(content, own or {}), f"{where}: peers.{name}")
    return made


def check_train(train: Mapping[str, Any], where: str) -> dict[str, Any]:
    """The values as OPSDConfig's types (YAML reads `1e-4` as a text). Refuses keys that it does not
    know, or that have their home elsewhere."""
    from opsd.training.config import OPSDConfig

    fields = get_type_hints(OPSDConfig)
    checked = {}
    for key, value in train.items():
        # YAML reads `no`, which several strategies may be, as false.
        value = "no" if value is False and key.endswith("_strategy") else value
        if key in Sampling.model_fields:
            raise UserError(f"{where}: train.{key} belongs under 'sampling'")
        if key not in fields:
            import difflib

            near = difflib.get_close_matches(key, fields, 1)
            hint = f"; did you mean '{near[0]}'?" if near else ""
            raise UserError(f"{where}: train.{key}: unknown key{hint}")
        try:
            checked[key] = TypeAdapter(fields[key]).validate_python(value)
        except ValidationError as error:
            wrong = error.errors()[0]["msg"]
            raise UserError(f"{where}: train.{key}: {wrong}, not {value!r}") from error
    both = ("gradient_accumulation_steps", "rollouts_per_step")
    if all(checked.get(key) is not None for key in both):
        raise UserError(
            f"{where}: train.{both[0]}: it follows from rollouts_per_step; leave one of the two"
            " out, or set it to null"
        )
    return checked


def _extended(parent: Mapping[str, Any], child: Mapping[str, Any]) -> dict[str, Any]:
    """A recipe's keys laid over its parent's. A method that is given by its name alone, or of
    another name, replaces the parent's. What the parent says of one model's repository says nothing
    of another's, and `published` is never inherited: a paper prints its numbers for one setting."""
    made = {key: value for key, value in parent.items() if key not in ("published", "unwritten")}
    for key, value in child.items():
        below = _in_full(key, made.get(key))
        above = value if key == "method" else _in_full(key, value)
        if key == "model" and _renamed(below, above):
            below = {k: v for k, v in below.items() if k not in _OF_THE_REPOSITORY}
        made[key] = laid_over(below, above, "name" if key == "method" else "type")
    return made


def _in_full(key: str, value: Any) -> Any:
    """A group of keys, where it is given by the value that stands for it."""
    return {_SHORT[key]: value} if key in _SHORT and isinstance(value, str) else value


def _renamed(below: Any, above: Any) -> bool:
    both = isinstance(below, Mapping) and isinstance(above, Mapping)
    return both and above.get("name", below.get("name")) != below.get("name")


def _override(content: dict[str, Any], text: str) -> None:
    path, equals, value = text.partition("=")
    where = f"--set {text[:_SHOWN]}"
    if not equals or not path:
        raise UserError(f"{where}: write it as key.path=value")
    *parents, last = path.split(".")
    level: Any = content
    for i, key in enumerate(parents):
        below = _in_full(key, level.get(key)) if i == 0 else level.get(key)
        if below is None:
            below = {}
        if not isinstance(below, dict):
            raise UserError(f"{where}: '{key}' is a value, not a group of keys")
        level[key] = below
        level = below
    try:
        # A prompt template is text, which YAML would take for a mapping.
        level[last] = value if value.startswith("{{") else parsed(value, where)
    except UserError:
        if "{language}" not in value:
            raise
        level[last] = value  # the name of a file per language, which YAML takes for a mapping

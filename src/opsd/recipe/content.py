"""The part of a recipe that can be read and checked without torch: its keys and their values,
except for the parts of its method and its engine. So a mistyped name is reported before anything
heavy is imported."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from opsd.data.problems import Data
from opsd.data.rows import is_file
from opsd.grade.verifiers import DEFAULT, AnyVerifier
from opsd.lm.built_in import NAMES
from opsd.lm.gguf import joined
from opsd.lm.names import refuse_unknown
from opsd.parts import laid_over
from opsd.prompts.prompt import without_files
from opsd.recipe.files import find, lineage
from opsd.recipe.names import methods, train_keys
from opsd.rollout.engine import LEAST_TEMPERATURE
from opsd.types import UserError
from opsd.validation import explain, mapping, near, parsed, unknown

SHOWN = 100
"""The maximum number of characters of an override that a message quotes."""
_SHORT = {"method": "name", "model": "name", "engine": "type", "verifier": "type"}
"""The key that a plain value stands for if it is given instead of a group of keys."""
_OF_THE_REPOSITORY = ("revision", "trust_remote_code", "gguf_file")


class Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Lora(Strict):
    """A LoRA adapter (PEFT's LoraConfig); the defaults are OPSD's."""

    r: Annotated[int, Field(gt=0)] = 64
    lora_alpha: Annotated[int, Field(gt=0)] = 128
    target_modules: str | list[str] = "all-linear"


class Model(Strict):
    """A Hub name, a folder, a GGUF file, or a built-in model; trained completely, or through an
    adapter. Code that comes with a model runs only with `trust_remote_code`. `quantization` keeps
    an adapter's base in 4 or 8 bits (QLoRA). A `gguf_file` in a folder or repository becomes part
    of the name."""

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
        """Combine `name` and `gguf_file` into one name."""
        match given:
            case {"name": str(name), "gguf_file": str(file)}:
                return {**given, "name": joined(name, file), "gguf_file": None}
        return given

    @property
    def options(self) -> dict[str, Any]:
        """The options for loading the model."""
        return self.model_dump(exclude={"name", "lora"}, exclude_defaults=True)


class Sampling(Strict):
    """How rollouts are sampled; `max_completion_length` is in tokens."""

    temperature: Annotated[float, Field(ge=LEAST_TEMPERATURE)] = 1.1
    top_p: Annotated[float, Field(gt=0, le=1)] = 0.95
    top_k: Annotated[int, Field(ge=0)] = 20
    min_p: Annotated[float, Field(ge=0, lt=1)] = 0.0
    max_completion_length: Annotated[int, Field(gt=0)] = 1024


class Published(Strict):
    """A number that a paper reports for this setting, and where.

    `value` is in percent as reported (a gain: percentage points over the base model), `budget` in
    tokens. Without a language, it is the mean over the suite's languages.
    """

    suite: Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]*$")]
    metric: Annotated[str, Field(pattern=r"^(avg|pass|maj)@[1-9][0-9]*( gain)?$")]
    value: Annotated[float, Field(ge=-100, le=100)]
    where: str
    language: str | None = None
    split: str | None = None
    budget: Annotated[int, Field(gt=0)] | None = None


class Content(Strict):
    """A recipe's keys; the method's and the engine's are not validated yet."""

    model: Model
    method: Any
    data: Data
    sampling: Sampling = Sampling()
    engine: Any = None
    verifier: AnyVerifier = DEFAULT
    train: dict[str, Any] = Field(default_factory=dict)
    published: list[Published] = Field(default_factory=list)
    peers: Any = None
    unwritten: list[str] = Field(default_factory=list)


def read(name: str, overrides: Sequence[str] = ()) -> tuple[dict[str, Any], str]:
    """Read a recipe's keys, from a file or by a shipped recipe's name, merged into those of the
    recipe that it `extends`, with `key.path=value` overrides. Also returns the file. Prompt
    templates that are files are replaced by their text: a recipe may name only files in or below
    its folder, an override any file.

    Raises UserError for a file that does not exist or is not YAML, and for an invalid override.
    """
    path = find(name)
    content: dict[str, Any] = {}
    for file, keys in reversed(lineage(path, mapping)):
        content = extended(content, without_files(keys, file.parent))
    for override in overrides:
        _override(content, override)
    return without_files(content), str(path)


def refuse_unwritten(name: str) -> None:
    """Raises UserError for the recipe of a Python run that cannot be resumed from a recipe."""
    path = find(name)
    lost = mapping(path).get("unwritten")
    if lost:
        raise UserError(
            f"{path}: a Python run, with values that no recipe can name"
            f" ({'; '.join(map(str, lost))}): resume it in Python, by"
            " trainer.train(resume_from_checkpoint=True)"
        )


def check_names(content: Mapping[str, Any], where: str) -> None:
    """Raises UserError for an unknown method, key or model, and for invalid values. What needs
    torch's modules is checked by `schema.parse`."""
    content = {key: in_full(key, value) for key, value in content.items()}
    given = content.get("method")
    if isinstance(given, Mapping) and isinstance(name := given.get("name"), str):
        if name in methods():
            _refuse_keys(given, {"name"} | methods()[name], f"{where}: method")
        elif "signal" not in given:  # a custom method gives its signal
            raise UserError(f"{where}: {unknown('method', name, methods())}")
    if isinstance(train := content.get("train"), Mapping):
        _refuse_keys(train, train_keys() | set(Sampling.model_fields), f"{where}: train")
    try:
        made = Content.model_validate(content)
    except ValidationError as error:
        raise UserError(f"{where}: {explain(error, content, Content)}") from error
    refuse_unknown(made.model.name)
    _ = made.data.asked  # checks the languages
    if "{" not in made.data.source and made.data.source not in NAMES:
        is_file(made.data.source)  # refuses a missing file


def _refuse_keys(given: Mapping[Any, Any], known: Collection[str], where: str) -> None:
    for key in given:
        if key not in known:
            raise UserError(f"{where}.{key}: unknown key{near(str(key), known)}")


def extended(parent: Mapping[str, Any], child: Mapping[str, Any]) -> dict[str, Any]:
    """Merge a recipe's keys into its parent's. A method given only by name, or with another name,
    replaces the parent's. Settings for one model's repository do not apply to another's, and
    `published` is never inherited, since a paper reports its numbers for one setting."""
    made = {key: value for key, value in parent.items() if key not in ("published", "unwritten")}
    for key, value in child.items():
        below = in_full(key, made.get(key))
        above = value if key == "method" else in_full(key, value)
        if key == "model" and _renamed(below, above):
            below = {k: v for k, v in below.items() if k not in _OF_THE_REPOSITORY}
        made[key] = laid_over(below, above, "name" if key == "method" else "type")
    return made


def in_full(key: str, value: Any) -> Any:
    """Expand a plain value to the group of keys that it stands for."""
    return {_SHORT[key]: value} if key in _SHORT and isinstance(value, str) else value


def _renamed(below: Any, above: Any) -> bool:
    both = isinstance(below, Mapping) and isinstance(above, Mapping)
    return both and above.get("name", below.get("name")) != below.get("name")


def _override(content: dict[str, Any], text: str) -> None:
    path, equals, value = text.partition("=")
    where = f"--set {text[:SHOWN]}"
    if not equals or not path:
        raise UserError(f"{where}: write it as key.path=value")
    *parents, last = path.split(".")
    level: Any = content
    for i, key in enumerate(parents):
        below = in_full(key, level.get(key)) if i == 0 else level.get(key)
        if below is None:
            below = {}
        if not isinstance(below, dict):
            raise UserError(f"{where}: '{key}' is a value, not a group of keys")
        level[key] = below
        level = below
    try:
        # A prompt template is a text, but YAML would read it as a mapping.
        made = value if value.startswith("{{") else parsed(value, where)
    except UserError:
        if "{language}" not in value:
            raise
        made = value  # a file name per language, which YAML would read as a mapping
    if last == "type" and level.get(last, made) != made:
        level.clear()  # another part, to which the previous one's keys do not apply
    level[last] = made

"""Recipes: YAML files that describe what to train, on which data, and how. Every key is checked
before anything heavy is loaded."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, get_type_hints

import yaml
from pydantic import Field, TypeAdapter, ValidationError

from opsd.credentials import without_credentials
from opsd.methods import FUNCTIONS, Method
from opsd.methods.parsing import method
from opsd.prompts.prompt import without_files
from opsd.recipe.content import SHOWN, Content, Sampling, extended, in_full, read
from opsd.recipe.files import find
from opsd.rollout.engines import HF, AnyEngine
from opsd.types import UserError
from opsd.validation import explain, mapping, near

_NAME = re.compile(r"[A-Za-z0-9][\w-]*")


class Recipe(Content):
    """A training run. `train` contains fields of `OPSDConfig`. `peers` are two runs, by name, of
    models that write for each other: each is the recipe with that peer's own keys merged in.
    `unwritten` lists the values of a Python run that no recipe can name, one line each; such a run
    cannot be trained from this recipe."""

    method: Method  # pyright: ignore[reportGeneralTypeIssues]
    engine: AnyEngine = HF()
    peers: dict[str, Recipe] = Field(default_factory=dict)


def load(name: str, overrides: Sequence[str] = ()) -> Recipe:
    """Load a recipe from a file or by a shipped recipe's name, merged into the one that it
    `extends`, with `key.path=value` overrides. Prompt templates that are files are replaced by
    their text: a recipe may name only files in or below its folder, an override any file.

    Raises UserError, one line, if anything is wrong with it.
    """
    return parse(*read(name, overrides))


def load_asking(path: str) -> Recipe:
    """The recipe of a run, as far as it is needed to query its model. If the method has parts
    without a name, only its student prompt is kept; if the verifier has no name, it is replaced by
    `unnamed`."""
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
    """A placeholder for a verifier that no recipe can name."""
    raise UserError("the run's verifier has no name that can be imported: choose a --verifier")


def parse(content: Mapping[str, Any], where: str = "recipe") -> Recipe:
    """Parse a recipe from plain values."""
    plain = {key: value for key, value in content.items() if key != "peers"}
    peers = content.get("peers")
    content = {key: in_full(key, value) for key, value in plain.items()}
    if "method" in content:
        content["method"] = method(content["method"], where)
    try:
        recipe = Recipe.model_validate(content)
    except ValidationError as error:
        raise UserError(f"{where}: {explain(error, content, Recipe)}") from error
    made = _peers(peers, plain, where)
    return recipe.model_copy(update={"train": check_train(recipe.train, where), "peers": made})


def dump(recipe: Recipe) -> str:
    """The resolved recipe as YAML. Loading it gives the same recipe, except for credentials, which
    are never written, and with template files replaced by their text."""
    content = without_credentials(without_files(recipe.model_dump(mode="json")))
    for own in (content, *content["peers"].values()):
        for key in ("peers", "unwritten"):
            if not own[key]:
                del own[key]
    return yaml.safe_dump(content, sort_keys=False, allow_unicode=True)


def _peers(given: Any, content: Mapping[str, Any], where: str) -> dict[str, Recipe]:
    """The recipes of two peers: each one's keys, merged into the recipe itself."""
    if given is None or given == {}:
        return {}
    if not isinstance(given, Mapping) or len(given) != 2:
        raise UserError(
            f"{where}: peers: two names, each with the keys in which its run differs from the"
            " recipe, as {physicist: {model: ...}, chemist: {model: ...}}"
        )
    made = {}
    for name, own in given.items():
        at = f"{where}: peers.{str(name)[:SHOWN]}"
        if not isinstance(name, str) or not _NAME.fullmatch(name):
            raise UserError(f"{at}: the name is a folder's: letters, digits, '-' and '_'")
        if not isinstance(own, Mapping | None) or "peers" in (own or {}):
            raise UserError(f"{at}: a mapping of the keys in which this run differs")
        made[name] = parse(extended(content, own or {}), f"{where}: peers.{name}")
    return made


def check_train(train: Mapping[str, Any], where: str) -> dict[str, Any]:
    """Convert values to OPSDConfig's types (YAML reads `1e-4` as a text). Raises UserError for
    unknown keys, and for keys that belong elsewhere."""
    from opsd.training.config import OPSDConfig

    fields = get_type_hints(OPSDConfig)
    checked = {}
    for key, value in train.items():
        # YAML reads `no`, a value of several strategies, as false.
        value = "no" if value is False and key.endswith("_strategy") else value
        if key in Sampling.model_fields:
            raise UserError(f"{where}: train.{key} belongs under 'sampling'")
        if key not in fields:
            raise UserError(f"{where}: train.{key}: unknown key{near(key, fields)}")
        try:
            made = TypeAdapter(fields[key]).validate_python(value)
        except ValidationError as error:
            wrong = error.errors()[0]["msg"]
            raise UserError(f"{where}: train.{key}: {wrong}, not {value!r}") from error
        # Keep an integer number of steps if a float, a share of all steps, is allowed too.
        checked[key] = value if isinstance(made, float) and type(value) is int else made
    both = ("gradient_accumulation_steps", "rollouts_per_step")
    if all(checked.get(key) is not None for key in both):
        raise UserError(
            f"{where}: train.{both[0]}: it follows from rollouts_per_step; leave one of the two"
            " out, or set it to null"
        )
    return checked

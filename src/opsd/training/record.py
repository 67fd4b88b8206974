"""Records what a run consists of when its trainer was not built from a recipe: `recipe.yaml`, in
the form of a recipe, and `env.json`.

Python accepts any value, a recipe only values that have a name. Values without a name are left out
and listed under `unwritten`. Such a run can be evaluated, exported and inspected like any other,
but resumed only in Python.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, is_dataclass
from enum import Enum
from pathlib import Path
from typing import Any

import yaml

from opsd.credentials import without_credentials
from opsd.data.problems import Data
from opsd.languages import registry as languages
from opsd.lm.gguf import joined
from opsd.methods.method import Method
from opsd.parts import imported, tag
from opsd.prompts.prompt import without_files
from opsd.rollout.engines import HF
from opsd.runs.environment import environment
from opsd.runs.files import write_atomically
from opsd.training.config import OPSDConfig, settled

_SAMPLING = ("temperature", "top_p", "top_k", "min_p", "max_completion_length")
_MODEL = ("revision", "dtype", "attn_implementation", "trust_remote_code", "quantization")
_LORA = ("r", "lora_alpha", "target_modules")
_ELSEWHERE = {*_SAMPLING, "output_dir", "model_init_kwargs", "do_eval"}
_DEV = ("eval_strategy", "eval_steps", "load_best_model_at_end")
"""Recipes with dev problems set these by themselves, so they must be written explicitly."""


@dataclass(frozen=True)
class Given:
    """What a trainer was built from, apart from its arguments and its method: the model's name, the
    adapter, the verifier, the engine; and `data` if it has a name, else the number of problems and
    their languages."""

    model: str
    lora: Any = None
    wrapped: bool = False
    """Whether the model was passed with an adapter already attached."""
    tokenizer: str | None = None
    optimizer: bool = False
    engine: Any = None
    verifier: Any = None
    weights: Mapping[str, float] = field(default_factory=dict)
    curriculum: Any = None
    data: Data | None = None
    problems: int | None = None
    languages: tuple[str, ...] = ()
    dev: int | None = None


class Content:
    """A recipe under construction: its keys, and the values that cannot be written, by their
    place."""

    def __init__(self) -> None:
        self.keys: dict[str, Any] = {}
        self.unwritten: list[str] = []

    def part(self, key: str, value: Any) -> None:
        """Add a part and all the parts inside it."""
        self.keys[key] = self._plain(key, value)

    def lose(self, where: str, why: str) -> None:
        self.unwritten.append(f"{where}: {why}")

    def _plain(self, where: str, value: Any) -> Any:
        if isinstance(value, Enum):
            return value.value
        if value is None or isinstance(value, str | int | float):
            return value
        if isinstance(value, Mapping):
            return {str(k): self._plain(f"{where}.{k}", x) for k, x in value.items()}
        if isinstance(value, list | tuple | set | frozenset):
            return [self._plain(f"{where}.{i}", x) for i, x in enumerate(value)]
        if isinstance(value, Path):
            return str(value)
        ours = type(value).__module__.startswith("opsd.")
        if not ours and not _has_name(value):
            self.lose(where, f"{tag(value)} cannot be imported by that name")
        if hasattr(value, "model_dump"):
            return value.model_dump(mode="json")
        if not is_dataclass(value):
            return {"type": tag(value)}
        inner = {f.name: getattr(value, f.name) for f in fields(value) if f.init}
        plain = {name: self._plain(f"{where}.{name}", x) for name, x in inner.items()}
        return plain | ({} if ours and "type" not in plain else {"type": tag(value)})


def _has_name(value: Any) -> bool:
    """Whether a recipe can name a value: it must be a function, or an instance of a class, that
    `package.module:Name` refers to, without state other than its fields. Objects defined in a
    script cannot be imported by other processes."""
    name = tag(value)
    if name.startswith("__main__:"):
        return False
    try:
        found = imported(name)
    except ValueError:
        return False
    stateless = is_dataclass(value) or not getattr(value, "__dict__", None)
    return found is value or (found is type(value) and stateless)


def recipe_of(given: Given, method: Method, args: OPSDConfig) -> dict[str, Any]:
    """The recipe that corresponds to a trainer, as plain values; `unwritten` lists the values that
    have no name."""
    content = Content()
    content.keys["model"] = _model(given, args, content)
    content.part("method", method)
    content.keys["data"] = _data(given, content)
    content.keys["sampling"] = {name: getattr(args, name) for name in _SAMPLING}
    content.part("engine", given.engine or HF())
    content.part("verifier", given.verifier)
    content.keys["train"] = _train(args, content, dev=given.dev)
    if given.optimizer:
        content.lose("train.optim", "an optimizer, or its schedule, given as an object")
    if content.unwritten:
        content.keys["unwritten"] = content.unwritten
    return content.keys


def _model(given: Given, args: OPSDConfig, content: Content) -> dict[str, Any]:
    options = dict(args.model_init_kwargs or {})
    name = given.model
    if not name:
        content.lose("model.name", "a model created in Python, without a name")
        name = "a model without a name"
    model: dict[str, Any] = {"name": joined(name, options.pop("gguf_file", None))}
    for key, value in options.items():
        plain = str(value).removeprefix("torch.") if key == "dtype" else value
        if key in _MODEL and isinstance(plain, str | bool | None):
            model[key] = plain
        else:
            content.lose("model", f"the loading option {key}")
    if given.wrapped:
        content.lose("model.lora", "an adapter that the model came with")
    if given.lora is not None:
        model["lora"] = _lora(given.lora, content)
    if given.tokenizer not in (None, given.model):
        content.lose("model", f"a tokenizer of its own ({given.tokenizer or 'without a name'})")
    return model


def _lora(config: Any, content: Content) -> dict[str, Any]:
    told = config.to_dict()
    modules = told.get("target_modules")
    lora = {name: told.get(name) for name in _LORA}
    lora["target_modules"] = sorted(modules) if isinstance(modules, set | list) else modules
    try:
        usual = type(config)(**lora).to_dict()
    except TypeError:
        usual = {}
    aside = {"base_model_name_or_path", "revision", "task_type", "inference_mode", "peft_version"}
    other = [k for k, x in told.items() if k not in {*_LORA, *aside} and usual.get(k) != x]
    if other or type(config).__name__ != "LoraConfig":
        content.lose("model.lora", f"{type(config).__name__} with {', '.join(other) or 'no name'}")
        lora = {name: x for name, x in lora.items() if x is not None}
    return lora


def _data(given: Given, content: Content) -> dict[str, Any]:
    if given.data is not None:
        data = given.data.model_dump(mode="json")
        if given.dev is not None and not given.data.dev:
            content.lose("data.dev", f"{given.dev} dev problems given as objects")
    else:
        told = "a stream" if given.problems is None else f"{given.problems:,} problems"
        content.lose("data", f"{told} given as objects; Data(source=...) has a name")
        data = {"source": "objects in Python", "language": list(given.languages) or None}
    if given.weights:
        data["weights"] = dict(given.weights)
    if given.curriculum is not None:
        held = Content()
        held.part("data.curriculum", given.curriculum)
        content.unwritten += held.unwritten
        data["curriculum"] = held.keys["data.curriculum"]
    return data


def _train(args: OPSDConfig, content: Content, dev: int | None) -> dict[str, Any]:
    """The arguments that differ from the defaults."""
    said = settled(args)
    if dev is not None:
        said |= {name: getattr(args, name) for name in _DEV}
    train: dict[str, Any] = {}
    for name, value in said.items():
        if name not in _ELSEWHERE:
            try:
                train[name] = json.loads(json.dumps(value))
            except (TypeError, ValueError):
                content.lose(f"train.{name}", f"{type(value).__name__}, an object")
    return train


def record(output: Path, given: Given, method: Method, args: OPSDConfig) -> list[str]:
    """Writes `recipe.yaml` and `env.json`; returns the values without a name, one line each."""
    content = recipe_of(given, method, args)
    about = environment() | {"seed": args.seed, "model": content["model"]["name"]}
    write_atomically(output / "env.json", json.dumps(about, indent=1))
    if given.data is not None:
        languages.keep(given.data.spellings, output)
    plain = without_credentials(without_files(content))
    text = yaml.safe_dump(plain, sort_keys=False, allow_unicode=True)
    write_atomically(output / "recipe.yaml", text)
    return content.get("unwritten", [])

"""Which prompt models get, which verifier judges them, and how a file of the user's own is read: as
in the run that trained the models, if there is one."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from opsd.data.choices import Choices
from opsd.data.columns import USUAL
from opsd.data.examples import Example
from opsd.grade.verifier import MathVerifier
from opsd.grade.verifiers import DEFAULT
from opsd.languages import registry as languages
from opsd.parts import called
from opsd.prompts.contexts import StudentPrompt
from opsd.recipe import schema as recipes
from opsd.recipe.content import Published
from opsd.recipe.schema import Recipe
from opsd.types import UserError


@dataclass(frozen=True)
class PromptProtocol:
    """One prompt and one verifier for all models of a call, and the numbers that papers print for
    the setting; the languages and columns that were trained on, and how their rows were read.
    `said` describes the prompt and the verifier in one line."""

    prompt: StudentPrompt
    verifier: Any = DEFAULT
    published: tuple[Published, ...] = ()
    languages: tuple[str, ...] = ()
    columns: Mapping[str, str] = field(default_factory=dict)
    choices: Choices | None = None
    instructed: bool = False
    examples: tuple[Example, ...] = ()
    said: str = ""


def prompt_protocol(
    models: Sequence[str],
    recipe: str | None,
    plain: bool,
    thinking: bool | None,
    usual: bool | None = None,
    verifier: Any = None,
) -> PromptProtocol:
    """The student prompt of `recipe`; without a recipe, that of the runs in which the models lie,
    if any. Without such runs, or with `plain`, the prompt is the problem and its language's
    instruction, with the chat template's thinking mode `thinking`, or the suite's `usual` one.
    `verifier` judges; without it, the recipe's or the runs' verifier does.

    Raises UserError if two runs have different prompts or verifiers, and for contradictory options.
    """
    if recipe is not None and plain:
        raise UserError("--recipe names a prompt and --plain says to use none: leave one out")
    found = {recipe: recipes.load(recipe)} if recipe else recipes_of(models)
    judge = _judge({name: one.verifier for name, one in found.items()}, verifier)
    if plain or not found:
        chosen = usual if thinking is None else thinking
        asked = _plainly(chosen, judge if verifier is not None else _outside_thoughts(judge))
        return replace(asked, **{**_reading(found.values()), "examples": ()})
    if thinking is not None:
        raise UserError(
            f"--thinking: {next(iter(found))} decides on this; add --plain, or leave it out"
        )
    (first, prompt), *others = [(name, one.method.student) for name, one in found.items()]
    for name, other in others:
        if other != prompt or found[name].data.examples != found[first].data.examples:
            raise UserError(
                f"{first} and {name} have different student prompts: choose one with --recipe, or"
                " use --plain"
            )
    published = dict.fromkeys(number for one in found.values() for number in one.published)
    said = f"every model gets the student prompt of {first}"
    asked = PromptProtocol(prompt, judge, tuple(published), said=said + _by(judge))
    return replace(asked, **_reading(found.values()))


def _judge(found: Mapping[str, Any], chosen: Any) -> Any:
    """The verifier that was chosen, else the one that all runs were trained with."""
    if chosen is not None or not found:
        return MathVerifier() if chosen is None else chosen
    (first, judge), *others = found.items()
    for name, other in others:
        if other != judge:
            raise UserError(
                f"{first} and {name} have different verifiers ({called(judge)} and"
                f" {called(other)}): choose one with --verifier"
            )
    if judge is recipes.unnamed:
        raise UserError(f"{first}: its verifier has no name: choose one with --verifier")
    return judge


def _outside_thoughts(judge: Any) -> Any:
    """The verifier without `after_think`: the plain prompt may not start any thinking."""
    return replace(judge, after_think=False) if getattr(judge, "after_think", False) else judge


def _by(judge: Any) -> str:
    """Names the verifier, unless it is the default one."""
    usual = judge in (MathVerifier(), MathVerifier(after_think=True))
    return "" if usual else f"; judged by {called(judge)}"


def run_folder(model: str) -> Path | None:
    """The run whose folder contains a model; None if there is none."""
    folder = Path(model).parent
    return folder if Path(model).is_dir() and (folder / "recipe.yaml").is_file() else None


def recipes_of(models: Sequence[str]) -> dict[str, Recipe]:
    """The recipes that models were trained with: next to an exported model, else in its run."""
    found = {}
    for model in models:
        folder = Path(model) if (Path(model) / "recipe.yaml").is_file() else run_folder(model)
        if folder is not None:
            recipe = recipes.load_asking(str(folder / "recipe.yaml"))
            own = languages.recalled(folder)
            known = [x for x in recipe.data.spellings if Path(x).suffix not in languages.SUFFIXES]
            data = recipe.data.model_copy(update={"language": (*own, *known) or None})
            found[str(folder / "recipe.yaml")] = recipe.model_copy(update={"data": data})
    return found


_AS_THEY_ARE = ("choices", "instructed", "examples")
"""The keys that evaluation takes unchanged from a recipe's section `data`."""


def _reading(found: Iterable[Recipe]) -> dict[str, Any]:
    """The languages of all recipes; and how evaluation reads rows, as far as all recipes agree."""
    asked: dict[str, None] = {}
    read: list[dict[str, Any]] = []
    for recipe in found:
        asked |= dict.fromkeys(recipe.data.spellings)
        columns = {n: c for n, c in recipe.data.columns.items() if _evaluated(n)}
        as_they_are = {name: getattr(recipe.data, name) for name in _AS_THEY_ARE}
        read.append({"columns": columns, **as_they_are})
    agreed = {n: x for n, x in (read or [{}])[0].items() if all(one[n] == x for one in read)}
    return {"languages": tuple(asked), **agreed}


def _evaluated(name: str) -> bool:
    """Whether evaluation reads the text with this name: the prompt, the answer, the language, and a
    user's own texts, which verifiers may need. Only teachers need the others."""
    told = name in USUAL or name.startswith(("translation_", "solution_"))
    return name in ("prompt", "answer", "language") or not told


def _plainly(thinking: bool | None, judge: Any) -> PromptProtocol:
    said = "every model gets the plain prompt: the problem and its language's instruction, thinking"
    prompt = StudentPrompt(template_options={"enable_thinking": bool(thinking)})
    return PromptProtocol(prompt, judge, said=f"{said} {'on' if thinking else 'off'}{_by(judge)}")

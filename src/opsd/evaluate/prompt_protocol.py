"""With which prompt models are asked, and how a file of the user's own is read: as the trained one
among them was asked in training, on rows of that form."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from opsd.languages import registry as languages
from opsd.prompts.contexts import StudentPrompt
from opsd.recipe import schema as recipes
from opsd.recipe.content import Published
from opsd.recipe.schema import Recipe
from opsd.types import UserError


@dataclass(frozen=True)
class PromptProtocol:
    """One prompt for all models of a call, whether an answer counts only after `</think>`, and what
    papers print for the setting; the languages and columns that were trained on; and all that in a
    line for people."""

    prompt: StudentPrompt
    after_think: bool = False
    published: tuple[Published, ...] = ()
    languages: tuple[str, ...] = ()
    columns: Mapping[str, str] = field(default_factory=dict)
    said: str = ""


def prompt_protocol(
    models: Sequence[str],
    recipe: str | None,
    plain: bool,
    thinking: bool | None,
    usual: bool | None = None,
) -> PromptProtocol:
    """The student prompt of `recipe`; without one, that of the runs in which the models lie, if any
    does; without such, or with `plain`, the problem and its language's instruction, with the chat
    template's thinking mode as `thinking` says, else as is `usual` for the suite.

    Raises UserError where two runs asked differently, and for options that contradict.
    """
    if recipe is not None and plain:
        raise UserError("--recipe names a prompt and --plain says to use none: leave one out")
    found = {recipe: recipes.load(recipe)} if recipe else recipes_of(models)
    if plain or not found:
        chosen = usual if thinking is None else thinking
        return replace(_plainly(chosen), **_reading(found.values()))
    if thinking is not None:
        raise UserError(
            f"--thinking, but {next(iter(found))} says how to ask: add --plain, or leave it out"
        )
    (first, asked), *others = [(name, _asking(one)) for name, one in found.items()]
    for name, other in others:
        if (other.prompt, other.after_think) != (asked.prompt, asked.after_think):
            raise UserError(
                f"{first} and {name} ask with different student prompts: choose one with --recipe,"
                " or --plain"
            )
    published = dict.fromkeys(number for one in found.values() for number in one.published)
    said = f"every model is asked with the student prompt of {first}"
    return replace(asked, published=tuple(published), said=said, **_reading(found.values()))


def run_folder(model: str) -> Path | None:
    """The run in whose folder a model lies."""
    folder = Path(model).parent
    return folder if Path(model).is_dir() and (folder / "recipe.yaml").is_file() else None


def recipes_of(models: Sequence[str]) -> dict[str, Recipe]:
    """The recipes that models were trained by: beside an exported one, else of its run."""
    found = {}
    for model in models:
        folder = Path(model) if (Path(model) / "recipe.yaml").is_file() else run_folder(model)
        if folder is not None:
            recipe = recipes.load(str(folder / "recipe.yaml"))
            own = languages.recalled(folder)
            known = [x for x in recipe.data.spellings if Path(x).suffix not in languages.SUFFIXES]
            data = recipe.data.model_copy(update={"language": (*own, *known) or None})
            found[str(folder / "recipe.yaml")] = recipe.model_copy(update={"data": data})
    return found


def _asking(recipe: Recipe) -> PromptProtocol:
    return PromptProtocol(recipe.method.student, recipe.verifier.after_think)


def _reading(found: Iterable[Recipe]) -> dict[str, Any]:
    """The languages of all recipes; the columns that evaluation reads, where all recipes agree."""
    asked: dict[str, None] = {}
    read = []
    for recipe in found:
        asked |= dict.fromkeys(recipe.data.spellings)
        read.append({n: c for n, c in recipe.data.columns.items() if n in _READ})
    agreed = read[0] if read and all(columns == read[0] for columns in read) else {}
    return {"languages": tuple(asked), "columns": agreed}


_READ = ("prompt", "answer", "language")


def _plainly(thinking: bool | None) -> PromptProtocol:
    said = "every model is asked plainly: the problem and its language's instruction, thinking"
    prompt = StudentPrompt(template_options={"enable_thinking": bool(thinking)})
    return PromptProtocol(prompt, said=f"{said} {'on' if thinking else 'off'}")

"""With which prompt models are asked: as the trained one among them was asked in training."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from opsd import recipe as recipes
from opsd.recipe import Published, Recipe
from opsd.run import log
from opsd.teacher.context import StudentPrompt
from opsd.types import UserError


@dataclass(frozen=True)
class Asking:
    """One prompt for all models of a call, whether an answer counts only after `</think>`, and what
    papers print for the setting."""

    prompt: StudentPrompt
    after_think: bool = False
    published: tuple[Published, ...] = ()


def asking(models: Sequence[str], recipe: str | None, plain: bool, thinking: bool | None) -> Asking:
    """The student prompt of `recipe`; without one, that of the runs in which the models lie, if any
    does; without such, or with `plain`, the problem and its language's instruction, with the chat
    template's thinking mode as `thinking` says.

    Raises UserError where two runs asked differently, and for options that contradict.
    """
    if recipe is not None and plain:
        raise UserError("--recipe names a prompt and --plain says to use none: leave one out")
    if plain:
        return _plainly(thinking)
    found = {recipe: recipes.load(recipe)} if recipe else _recipes_of(models)
    if not found:
        return _plainly(thinking)
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
    log(f"every model is asked with the student prompt of {first}")
    published = dict.fromkeys(number for one in found.values() for number in one.published)
    return Asking(asked.prompt, asked.after_think, tuple(published))


def run_folder(model: str) -> Path | None:
    """The run in whose folder a model lies."""
    folder = Path(model).parent
    return folder if Path(model).is_dir() and (folder / "recipe.yaml").is_file() else None


def _recipes_of(models: Sequence[str]) -> dict[str, Recipe]:
    runs = dict.fromkeys(run for model in models if (run := run_folder(model)) is not None)
    return {str(run / "recipe.yaml"): recipes.load(str(run / "recipe.yaml")) for run in runs}


def _asking(recipe: Recipe) -> Asking:
    return Asking(recipe.method.student, recipe.verifier.after_think)


def _plainly(thinking: bool | None) -> Asking:
    return Asking(StudentPrompt(template_options={"enable_thinking": bool(thinking)}))

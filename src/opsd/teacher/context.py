"""What a reader is shown. A context turns rollout i of a group into views, or into None:
None says that this rollout is not taught, which is counted and costs no teacher pass."""

from __future__ import annotations

from dataclasses import field
from typing import Annotated, Any, Literal

from pydantic import Field

from opsd.data.prompts import view
from opsd.parts import part
from opsd.types import Group, Problem, View

Include = Literal["problem", "translation", "solution"]


@part
class StudentPrompt:
    """The problem alone: what the student reads at training and at test time."""

    type: Literal["student"] = "student"
    template: str = "student"
    prefill: str = ""
    template_options: dict[str, Any] = field(default_factory=dict)

    def __call__(self, group: Group, i: int) -> tuple[View, ...] | None:
        return (self.view(group.problem),)

    def view(self, problem: Problem) -> View:
        """The one view that every problem has."""
        return _view(self, problem)


@part
class Solution:
    """The problem and a reference solution to it (OPSD, Zhao et al. 2026, arXiv 2601.18734)."""

    type: Literal["solution"] = "solution"
    template: str = "solution"
    prefill: str = ""
    template_options: dict[str, Any] = field(default_factory=dict)

    def __call__(self, group: Group, i: int) -> tuple[View, ...] | None:
        return (_view(self, group.problem),)


@part
class Crosslingual:
    """The problem, its translation, and a solution in the translation's language.

    `include` chooses among the three. Any pair of languages: the student's is the problem's own,
    the other one is whatever `privileged["translation"]` and `privileged["solution"]` are in. The
    shipped labels call it English; for another one, replace the template
    (COPSD, Liu et al. 2026, arXiv 2605.09548).
    """

    type: Literal["crosslingual"] = "crosslingual"
    template: str = "crosslingual"
    include: tuple[Include, ...] = ("problem", "translation", "solution")
    prefill: str = ""
    template_options: dict[str, Any] = field(default_factory=dict)

    def __call__(self, group: Group, i: int) -> tuple[View, ...] | None:
        return (_view(self, group.problem, include=self.include),)


@part
class TeacherPrompt:
    """The row's own prompt for its teacher, in place of the problem; earlier turns stay.

    The text is `privileged["teacher_prompt"]`, the column of that name in ms-swift's datasets.
    """

    type: Literal["teacher_prompt"] = "teacher_prompt"
    template: str = "{{ teacher_prompt }}"
    prefill: str = ""
    template_options: dict[str, Any] = field(default_factory=dict)

    def __call__(self, group: Group, i: int) -> tuple[View, ...] | None:
        return (_view(self, group.problem),)


Context = Annotated[
    StudentPrompt | Solution | Crosslingual | TeacherPrompt, Field(discriminator="type")
]


def _view(context: Any, problem: Problem, **extra: Any) -> View:
    return view(
        context.type,
        problem,
        context.template,
        prefill=context.prefill,
        template_options=context.template_options,
        **extra,
    )

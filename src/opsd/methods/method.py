"""What a method is: data that prints, compares, and goes to a recipe and back."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import Field

from opsd.objective.signals import Leaf, Signal, leaves
from opsd.parts import changed, part
from opsd.rollout.author import AnyAuthor
from opsd.rollout.source import OnPolicy, Source
from opsd.teacher.context import OwnPrompt, StudentPrompt


@part
class Method:
    """A source of rollouts and the signal learned from them.

    `student` is the prompt that the student learns on, is sampled with, and is evaluated with.
    `authors` write further texts of the rollouts, for contexts that show them.
    `reuse` is the number of optimizer steps that each batch of rollouts is used for.
    """

    name: str
    signal: Signal
    paper: str = ""
    source: Source = OnPolicy()
    student: StudentPrompt = StudentPrompt()
    authors: tuple[AnyAuthor, ...] = ()
    reuse: Annotated[int, Field(gt=0)] = 1

    @property
    def signals(self) -> list[tuple[float, Leaf]]:
        """The (coefficient, signal) pairs, with the student's prompt in every `own_prompt`."""

        def bound(x: Any) -> Any:
            return OwnPrompt(self.student) if isinstance(x, OwnPrompt) else x

        return leaves(changed(self.signal, bound))

    def describe(self, temperature: float) -> str:
        """The signals in words, a line each, with the formula in use; `temperature` is the
        rollouts'."""
        lines = [f"method {self.name} ({self.paper})"]
        for coefficient, leaf in leaves(self.signal):
            own = temperature if leaf.temperature == "sampling" else leaf.temperature
            text = f"  {coefficient:g} x {leaf.type} at temperature {own:g}"
            if leaf.type == "distill":
                text += f": {leaf.divergence.formula}"
            if leaf.teacher is not None:
                teacher = leaf.teacher
                text += f"; teacher {teacher.context.label}@{teacher.weights.type}"
                if teacher.target.type != "single":
                    text += f", target {teacher.target.type}"
            lines.append(f"{text}; averaged per {leaf.reduction.unit}")
        return "\n".join(lines)

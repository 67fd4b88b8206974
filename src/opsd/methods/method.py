"""What a method is: data that prints, compares, and goes to a recipe and back."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from opsd.authors.authors import AnyAuthor
from opsd.methods.signals import LossTerm, Signal, loss_terms
from opsd.parts import part
from opsd.prompts.contexts import StudentPrompt, with_own_prompt
from opsd.rollout.sources import AnySource, OnPolicy


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
    source: AnySource = OnPolicy()
    student: StudentPrompt = StudentPrompt()
    authors: tuple[AnyAuthor, ...] = ()
    reuse: Annotated[int, Field(gt=0)] = 1

    @property
    def signals(self) -> list[tuple[float, LossTerm]]:
        """The (coefficient, loss term) pairs, with the student's prompt in every `own_prompt`."""
        return loss_terms(with_own_prompt(self.signal, self.student))

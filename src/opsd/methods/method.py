"""The `Method` value: data that can be printed, compared, and written to and read from a recipe."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

from pydantic import Field

from opsd.authors.authors import AnyAuthor
from opsd.methods.signals import LossTerm, Signal, loss_terms
from opsd.parts import part, parts_of, tag
from opsd.prompts.contexts import StudentPrompt, with_own_prompt
from opsd.rollout.sources import AnySource, OnPolicy
from opsd.types import Problem


@part
class Method:
    """A source of rollouts and the training signal computed on them.

    `student` is the prompt that the student is trained on, sampled with and evaluated with.
    `authors` write further texts about the rollouts, for contexts that show them. `reuse` is the
    number of optimizer steps that each batch of rollouts is used for.
    """

    name: str
    signal: Signal
    paper: str = ""
    source: AnySource = OnPolicy()
    student: StudentPrompt = StudentPrompt()
    authors: tuple[AnyAuthor, ...] = ()
    reuse: Annotated[int, Field(gt=0)] = 1

    def __post_init__(self) -> None:
        needing = [x for x in parts_of(self.signal) if getattr(x, "needs_states", False)]
        if needing and not self.source.rows.of_states:
            raise ValueError(
                f"the context '{tag(needing[0])}' shows states of a denoising: use the source"
                " 'denoise' with rows 'states' or 'commits'"
            )
        known = {author.name for author in self.authors}
        for x in parts_of(self.signal):
            needed = getattr(x, "needs_author", None)
            if needed not in (None, *known):
                raise ValueError(
                    f"the context '{tag(x)}' needs what the author '{needed}' writes, but the"
                    " method has no author of that name: add it to authors"
                )
        for _, term in loss_terms(self.signal):
            for weighting in term.weighting:
                target = None if term.teacher is None else tag(term.teacher.target)
                if weighting.needs_target not in (None, target):
                    raise ValueError(
                        f"the weighting '{tag(weighting)}' needs the target"
                        f" '{weighting.needs_target}': choose that target, or another weighting"
                    )

    @property
    def signals(self) -> list[tuple[float, LossTerm]]:
        """The (coefficient, loss term) pairs, with the student's prompt in every `own_prompt`."""
        return loss_terms(with_own_prompt(self.signal, self.student))

    def prepared(self, problems: Sequence[Problem], seed: int) -> Sequence[Problem]:
        """The problems with whatever their teachers read from the rest of the set (such as another
        problem's solution), assigned by the run's seed. Raises UserError if these problems do not
        provide it."""
        for _, term in self.signals:
            if term.teacher is not None:
                problems = term.teacher.context.prepared(problems, seed)
        return problems

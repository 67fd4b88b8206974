"""The common parts of authors: which rollouts they write about, what they read, and which of their
texts are accepted."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import field, replace
from typing import Any, Literal, Protocol

from opsd.authors.critique import accepted
from opsd.parts import part
from opsd.prompts.prompt import answered, view
from opsd.rollout.sources import Sampler
from opsd.teacher.weights import Weights
from opsd.types import Group, View

Check = Literal["none", "critique"]
Place = tuple[int, int]
"""A text's place: the group's index, and the rollout's index within it."""


class Exchange(Protocol):
    """The exchange of values between two models that are trained together."""

    def trade(self, step: int, offer: Any) -> Any:
        """Offer something, and wait for what the other model offers in the same step."""
        ...


class AtWork(Protocol):
    """An author during a run: one batched call per step, and a state for checkpoints."""

    def __call__(self, groups: Sequence[Group], sampler: Sampler, step: int) -> Sequence[Group]: ...

    @property
    def measured(self) -> Mapping[str, float]:
        """Counts over the whole run, to be logged."""
        return {}

    def meet(self, exchange: Exchange | None) -> None:
        """Connect to the model that is trained together with this one; None disconnects."""

    def state_dict(self) -> dict[str, Any]:
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore a state from a checkpoint."""


class Author(Protocol):
    """An author of texts about rollouts. A custom author inherits the defaults of all attributes
    that it does not define."""

    name: str
    weights: Weights | None = None
    """The weights that write, if the model itself is the author."""
    needs_reward: bool = False
    """Whether it reads verdicts: every rollout then needs one."""
    needs_peer: bool = False
    """Whether the author is another model, trained together with this one."""

    def begin(self) -> AtWork:
        """The author, ready to write. Raises UserError if something that it needs is missing."""
        ...


@part
class Writing(Author):
    """The text `name` of every rollout, or one per problem for all of its group.

    The prompt is `template`, filled with the problem's texts and, per rollout, with `completion`
    and `correct`. The author's thinking is removed from its text. A text that is cut off, empty, or
    rejected by `check` is discarded, and contexts that would show it then do not teach.
    """

    name: str
    template: str
    per: Literal["rollout", "problem"] = "rollout"
    check: Check = "none"
    template_options: dict[str, Any] = field(default_factory=dict)

    def asked(self, groups: Sequence[Group]) -> list[Place]:
        """The places that the author must fill, in order."""
        return [
            (number, i)
            for number, group in enumerate(groups)
            for i in range(1 if self.per == "problem" else len(group.rollouts))
            if group.rollouts
        ]

    def view(self, group: Group, i: int) -> View:
        """The prompt that the author reads."""
        rollout = group.rollouts[i]
        about = {"completion": rollout.text, "correct": rollout.verdict and rollout.verdict.correct}
        return view(
            f"author {self.name}",
            group.problem,
            self.template,
            template_options=self.template_options,
            **(about if self.per == "rollout" else {}),
        )

    def noted(self, groups: Sequence[Group], texts: Mapping[Place, str | None]) -> list[Group]:
        """The groups with the texts about them; a missing text becomes None."""
        return [
            replace(
                group,
                notes=tuple(
                    self._note(group, number, i, texts) for i in range(len(group.rollouts))
                ),
            )
            for number, group in enumerate(groups)
        ]

    def _note(
        self, group: Group, number: int, i: int, texts: Mapping[Place, str | None]
    ) -> dict[str, str | None]:
        before = dict(group.notes[i]) if group.notes else {}
        text = texts.get((number, 0 if self.per == "problem" else i))
        return before | {self.name: self.checked(text or "", group, i)}

    def checked(self, text: str, group: Group, i: int) -> str | None:
        """The text to be shown; None if it is not accepted."""
        answer = answered(text)
        if self.check == "critique" and answer:
            return accepted(answer, group.rollouts[i].text)
        return answer or None


def noted(group: Group, name: str, texts: Sequence[str | None]) -> Group:
    """A group with a text about each of its rollouts; None stands for no text."""
    before = group.notes or tuple({} for _ in group.rollouts)
    notes = tuple({**own, name: text} for own, text in zip(before, texts, strict=True))
    return replace(group, notes=notes)

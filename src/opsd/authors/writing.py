"""What authors of texts have in common: whom they are asked about, what they read, what of their
writing is shown."""

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
"""A text's place: the group's number, and the rollout's within it."""


class Exchange(Protocol):
    """Where two models that are trained together hand each other what they have."""

    def trade(self, step: int, offer: Any) -> Any:
        """Gives something, and waits for what the other model gives in its turn of the same
        step."""
        ...


class AtWork(Protocol):
    """An author in a run: one batched call a step, and a state for checkpoints."""

    def __call__(self, groups: Sequence[Group], sampler: Sampler, step: int) -> Sequence[Group]: ...

    @property
    def measured(self) -> Mapping[str, float]:
        """Counts over the whole run, which are logged."""
        return {}

    def meet(self, exchange: Exchange | None) -> None:
        """Another model is trained together with this one, and can be reached from now on; with
        None, no longer."""

    def state_dict(self) -> dict[str, Any]:
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Takes a state back from a checkpoint."""


class Author(Protocol):
    """Who writes about rollouts. One of your own inherits what it does not say otherwise."""

    name: str
    weights: Weights | None = None
    """The weights that write, where the model itself does."""
    needs_reward: bool = False
    """Whether it goes by verdicts: every rollout then needs one."""
    needs_peer: bool = False
    """Whether another model, trained together with this one, is what writes."""

    def begin(self) -> AtWork:
        """The author at work. Raises UserError for what it lacks."""
        ...


@part
class Writing(Author):
    """The text `name` of every rollout, or one per problem for all of its group.

    The prompt is `template`, filled with the problem's texts and, per rollout, with `completion`
    and `correct`. What the author thinks before it answers is left out; a text that is cut off,
    empty, or refused by `check` is none, and contexts that show it do not teach then.
    """

    name: str
    template: str
    per: Literal["rollout", "problem"] = "rollout"
    check: Check = "none"
    template_options: dict[str, Any] = field(default_factory=dict)

    def asked(self, groups: Sequence[Group]) -> list[Place]:
        """The places that the author is asked to fill, in order."""
        return [
            (number, i)
            for number, group in enumerate(groups)
            for i in range(1 if self.per == "problem" else len(group.rollouts))
            if group.rollouts
        ]

    def view(self, group: Group, i: int) -> View:
        """What the author reads."""
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
        """The groups with what was written of them; a text that is missing is none."""
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
        """The text as it is shown; None where it is no use."""
        answer = answered(text)
        if self.check == "critique" and answer:
            return accepted(answer, group.rollouts[i].text)
        return answer or None


def noted(group: Group, name: str, texts: Sequence[str | None]) -> Group:
    """A group with what was written of each of its rollouts; None is none."""
    before = group.notes or tuple({} for _ in group.rollouts)
    notes = tuple({**own, name: text} for own, text in zip(before, texts, strict=True))
    return replace(group, notes=notes)

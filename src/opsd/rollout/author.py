"""Who writes about rollouts: critiques, rubrics, analyses. One engine call per author and step."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import field, replace
from typing import Annotated, Any, Literal

from pydantic import Field

from opsd.data.prompts import CLOSING, prompt_ids, view
from opsd.parts import part
from opsd.rollout.critique import accepted
from opsd.rollout.engine import Sampling
from opsd.rollout.source import Sampler
from opsd.teacher.weights import AnyWeights, Frozen
from opsd.types import Finish, Group, View

Check = Literal["none", "critique"]


@part
class ModelAuthor:
    """The model writes the text `name` of every rollout, or once per problem for all of its group.

    The prompt is `template`, filled with the problem's texts and, per rollout, with `completion`
    and `correct`. What it thinks before it answers is left out; a text that is cut off at
    `max_tokens`, empty, or refused by `check` is none, and contexts that show it do not teach then.
    """

    name: str
    template: str
    per: Literal["rollout", "problem"] = "rollout"
    check: Check = "none"
    weights: AnyWeights = Frozen()
    max_tokens: Annotated[int, Field(gt=0)] = 1024
    temperature: Annotated[float, Field(ge=0)] = 0.0
    template_options: dict[str, Any] = field(default_factory=dict)
    type: Literal["model"] = "model"

    def __call__(self, groups: Sequence[Group], sampler: Sampler, step: int) -> list[Group]:
        asked = [
            (number, i)
            for number, group in enumerate(groups)
            for i in range(1 if self.per == "problem" else len(group.rollouts))
            if group.rollouts
        ]
        rows, places = [], []
        for number, i in asked:
            shown = self.view(groups[number], i)
            ids = prompt_ids(sampler.tokenizer, shown)
            if sampler.fits(groups[number].problem, shown, ids, self.max_tokens):
                rows.append((groups[number].problem, ids, i))
                places.append((number, i))
        sampling = Sampling(temperature=self.temperature, max_tokens=self.max_tokens)
        phase = f"author {self.name}"
        made = sampler.generated(rows, sampling, self.weights, step, phase) if rows else []
        texts: dict[tuple[int, int], str | None] = {}
        for (number, i), completion in zip(places, made, strict=True):
            whole = completion.finish is Finish.STOP
            text = sampler.text(completion.ids) if whole else ""
            texts[number, i] = self.checked(text, groups[number], i)
        return [
            replace(group, notes=tuple(self._note(texts, group, number, i) for i in _all(group)))
            for number, group in enumerate(groups)
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

    def checked(self, text: str, group: Group, i: int) -> str | None:
        """The text as it is shown; None where it is no use."""
        answer = text.rpartition(CLOSING)[2].strip()
        if self.check == "critique" and answer:
            return accepted(answer, group.rollouts[i].text)
        return answer or None

    def _note(
        self, texts: dict[tuple[int, int], str | None], group: Group, number: int, i: int
    ) -> dict[str, str | None]:
        before = dict(group.notes[i]) if group.notes else {}
        place = (number, 0 if self.per == "problem" else i)
        return before | {self.name: texts.get(place)}


AnyAuthor = ModelAuthor


def _all(group: Group) -> range:
    return range(len(group.rollouts))

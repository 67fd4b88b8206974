"""Authors that write about rollouts: critiques, rubrics, analyses. One batched call per author and
step."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Annotated, ClassVar, Literal

from pydantic import Field

from opsd.authors.endpoint import EndpointAuthor
from opsd.authors.peer import PeerAuthor
from opsd.authors.skill_bank import SkillAuthor
from opsd.authors.writing import AtWork, Author, Writing, noted
from opsd.parts import Slot, imported, part
from opsd.prompts.contexts import AnyPlainContext, Solution
from opsd.rollout.engine import Sampling
from opsd.rollout.sources import Sampler
from opsd.teacher.weights import AnyWeights, Frozen
from opsd.types import Attempt, Finish, Group, UserError


@part
class ModelAuthor(Writing, AtWork):
    """The model itself writes, through the engine. A text that is cut off at `max_tokens` is
    discarded."""

    weights: AnyWeights = Frozen()
    max_tokens: Annotated[int, Field(gt=0)] = 1024
    temperature: Annotated[float, Field(ge=0)] = 0.0
    type: Literal["model"] = "model"

    def begin(self) -> ModelAuthor:
        return self

    def __call__(self, groups: Sequence[Group], sampler: Sampler, step: int) -> list[Group]:
        rows, places = [], []
        for number, i in self.asked(groups):
            problem, shown = groups[number].problem, self.view(groups[number], i)
            ids = sampler.read(problem, shown, self.max_tokens)
            if ids is not None:
                rows.append((problem, ids, i))
                places.append((number, i))
        sampling = Sampling(temperature=self.temperature, max_tokens=self.max_tokens)
        phase = f"author {self.name}"
        made = sampler.generated(rows, sampling, self.weights, step, phase) if rows else []
        texts = {
            place: sampler.text(completion.ids)
            for place, completion in zip(places, made, strict=True)
            if completion.finish is Finish.STOP
        }
        return self.noted(groups, texts)


@part
class AttemptAuthor(Author, AtWork):
    """The teacher tries the problem itself, once per group, with the prompt that `context` gives
    for the first rollout. Its attempt is the text `name` of the whole group if the verifier finds
    it correct; there is no text if it is wrong, not graded, or cut off at `max_tokens`."""

    name: str = "attempt"
    context: AnyPlainContext = Solution()
    weights: AnyWeights = Frozen()
    max_tokens: Annotated[int, Field(gt=0)] = 1024
    temperature: Annotated[float, Field(ge=0)] = 0.0
    type: Literal["attempt"] = "attempt"
    needs_reward: ClassVar[bool] = True

    def begin(self) -> AttemptAuthor:
        return self

    def __call__(self, groups: Sequence[Group], sampler: Sampler, step: int) -> list[Group]:
        rows, places = [], []
        for number, group in enumerate(groups):
            draw = sampler.draw(group.problem, 0, step)
            for shown in (self.context(group, 0, draw) or ())[:1] if group.rollouts else ():
                ids = sampler.read(group.problem, shown, self.max_tokens)
                if ids is not None:
                    rows.append((group.problem, ids, 0))
                    places.append(number)
        sampling = Sampling(temperature=self.temperature, max_tokens=self.max_tokens)
        phase = f"author {self.name}"
        made = sampler.generated(rows, sampling, self.weights, step, phase) if rows else []
        texts = [sampler.text(completion.ids) for completion in made]
        asked = [
            Attempt(problem, text, completion.ids)
            for (problem, _, _), text, completion in zip(rows, texts, made, strict=True)
        ]
        right = {
            number: text
            for number, text, one, verdict in zip(
                places, texts, made, sampler.verify(asked), strict=True
            )
            if one.finish is Finish.STOP and verdict is not None and verdict.correct
        }
        return [
            noted(group, self.name, [right.get(number)] * len(group.rollouts))
            for number, group in enumerate(groups)
        ]


@part
class FunctionAuthor(Writing, AtWork):
    """A Python function writes: `function` is "module:name". It is called with the problem, the
    completion, and whether the completion is correct (None if not graded), and returns the text, or
    None."""

    function: str = ""
    template: str = ""
    weights: None = None
    type: Literal["function"] = "function"

    def begin(self) -> FunctionAuthor:
        """The author, ready to write. Raises UserError if the function does not exist."""
        self._written_by()
        return self

    def __call__(self, groups: Sequence[Group], sampler: Sampler, step: int) -> list[Group]:
        write = self._written_by()
        texts = {}
        for number, i in self.asked(groups):
            rollout = groups[number].rollouts[i]
            right = None if rollout.verdict is None else rollout.verdict.correct
            text = write(groups[number].problem, rollout.text, right)
            if not isinstance(text, str | None):
                raise UserError(
                    f"author '{self.name}': {self.function} gave {type(text).__name__}, not a text"
                )
            texts[number, i] = text
        return self.noted(groups, texts)

    def _written_by(self) -> Callable[..., str | None]:
        try:
            written = imported(self.function)
            if not callable(written):
                raise ValueError(f"'{self.function}' cannot be called")
            return written
        except ValueError as error:
            raise UserError(f"author '{self.name}': {error}") from error


AnyAuthor = Annotated[
    Author,
    Slot(
        "author",
        Author,
        (ModelAuthor, EndpointAuthor, FunctionAuthor, SkillAuthor, AttemptAuthor, PeerAuthor),
    ),
]

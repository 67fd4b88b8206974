"""Feedback from another model in training: two models that teach each other through texts (OPCoD,
Byeon et al. 2026, arXiv 2606.14368)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Annotated, Any, ClassVar, Literal, NamedTuple

from pydantic import Field

from opsd.authors.anchoring import anchored
from opsd.authors.writing import AtWork, Author, Exchange, noted
from opsd.parts import part
from opsd.prompts.contexts import is_right
from opsd.prompts.prompt import answered, view
from opsd.rollout.engine import Sampling
from opsd.rollout.sources import OnPolicy, Sampler
from opsd.types import Finish, Group, Problem


class Attempt(NamedTuple):
    """What an author receives about a rollout: only texts."""

    problem: Problem
    text: str
    correct: bool


@part
class PeerAuthor(Author):
    """The other of two models that are trained together writes; this one writes for it in return,
    with its weights before the step.

    A tutor writes about problems that it solves itself: at least once, and in a share of at least
    `min_pass_rate` of its own rollouts. It reads `template`, filled with the problem, one of its
    own correct solutions (`known`), and the rollout (`completion`, `correct`). Its text must name a
    concept of the question, and sentences that give the answer away are removed
    (`opsd.authors.anchoring`). Problems that are not among its own in this step it tries in one
    additional engine call, as often as the other model did. Without another model nothing is
    written.
    """

    name: str = "peer"
    template: str = "tutor"
    min_pass_rate: Annotated[float, Field(ge=0, le=1)] = 0.0
    max_tokens: Annotated[int, Field(gt=0)] = 512
    temperature: Annotated[float, Field(ge=0)] = 0.0
    template_options: dict[str, Any] = field(default_factory=dict)
    weights: None = None
    type: Literal["peer"] = "peer"
    needs_reward: ClassVar[bool] = True
    needs_peer: ClassVar[bool] = True

    def begin(self) -> Tutor:
        return Tutor(self)


@dataclass
class Tutor(AtWork):
    """A peer author during a run. It counts, over the whole run, the attempts that it was `asked`
    about, those at problems that it left `unsolved` itself, and the outcomes of its texts."""

    author: PeerAuthor
    exchange: Exchange | None = None
    counts: Counter[str] = field(default_factory=Counter)

    def meet(self, exchange: Exchange | None) -> None:
        self.exchange = exchange

    def __call__(self, groups: Sequence[Group], sampler: Sampler, step: int) -> list[Group]:
        if self.exchange is None:
            return list(groups)
        own = [Attempt(g.problem, r.text, is_right(r)) for g in groups for r in g.rollouts]
        theirs: list[Attempt] = self.exchange.trade(step, own)
        texts = iter(self.exchange.trade(step, self._written(theirs, groups, sampler, step)))
        return [noted(g, self.author.name, [next(texts) for _ in g.rollouts]) for g in groups]

    def _written(
        self, attempts: Sequence[Attempt], groups: Sequence[Group], sampler: Sampler, step: int
    ) -> list[str | None]:
        """A text for each of the other model's attempts."""
        author = self.author
        solved = self._solved(attempts, groups, sampler, step)
        rows, places = [], []
        for place, (problem, text, correct) in enumerate(attempts):
            if problem.id not in solved:
                continue
            shown = view(
                f"author {author.name}",
                problem,
                author.template,
                template_options=author.template_options,
                known=solved[problem.id],
                completion=answered(text) or text.strip(),
                correct=correct,
            )
            ids = sampler.read(problem, shown, author.max_tokens)
            if ids is not None:
                rows.append((problem, ids, place))
                places.append(place)
        sampling = Sampling(temperature=author.temperature, max_tokens=author.max_tokens)
        phase = f"author {author.name}"
        made = sampler.generated(rows, sampling, None, step, phase) if rows else []
        self.counts["asked"] += len(attempts)
        self.counts["unsolved"] += sum(x.problem.id not in solved for x in attempts)
        texts: list[str | None] = [None] * len(attempts)
        for place, completion in zip(places, made, strict=True):
            if completion.finish is not Finish.STOP:
                self.counts["cut_off"] += 1
                continue
            said = answered(sampler.text(completion.ids))
            texts[place], fault = anchored(said, attempts[place].problem)
            self.counts[fault or "written"] += 1
        return texts

    def _solved(
        self, attempts: Sequence[Attempt], groups: Sequence[Group], sampler: Sampler, step: int
    ) -> Mapping[str, str]:
        """This model's own shortest correct solution to every problem that it solves often enough,
        by the problem's id."""
        known = {group.problem.id: group for group in groups}
        times = Counter(x.problem.id for x in attempts)
        others = {x.problem.id: x.problem for x in attempts if x.problem.id not in known}
        if others:
            source = OnPolicy(group=max(times.values()))
            unseen = replace(sampler, observe=lambda groups: None, earlier={})
            tried = unseen.sample(list(others.values()), source, step, f"{self.author.name} tries")
            known |= {group.problem.id: group for group in tried}
        solved = {}
        for name in times.keys() & known.keys():
            right = [r for r in known[name].rollouts if is_right(r)]
            if right and known[name].pass_rate >= self.author.min_pass_rate:
                shortest = min(right, key=lambda r: len(r.completion_ids)).text
                solved[name] = answered(shortest) or shortest.strip()
        return solved

    @property
    def measured(self) -> dict[str, float]:
        """The counts. Texts are `written`, or rejected as `cut_off`, not in the `form`, without a
        `concept` of the question, or too `short` without the answer."""
        names = ("asked", "unsolved", "cut_off", "form", "concept", "short", "written")
        return {name: self.counts[name] for name in names}

    def state_dict(self) -> dict[str, Any]:
        return dict(self.counts)

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.counts = Counter(state)

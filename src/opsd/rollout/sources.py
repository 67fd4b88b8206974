"""Sources of a step's completions: problems, a sampler, the step -> groups."""

from __future__ import annotations

import contextlib
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Annotated, Any, ClassVar, Literal, Protocol

from pydantic import Field

from opsd.parts import Slot, part, tag
from opsd.prompts.contexts import AnyContext, Draw, StudentPrompt
from opsd.prompts.prompt import LacksText, read
from opsd.prompts.tokens import completion_text
from opsd.rollout.engine import (
    Completion,
    Decoding,
    Engine,
    Progress,
    Sampling,
    prompt_seed,
    silent,
)
from opsd.rollout.horizon import AnyHorizon, FullHorizon
from opsd.rollout.rows import TOKENS, AnyRows, Canvas, Rows, States
from opsd.teacher.weights import AnyWeights, Weights
from opsd.types import Attempt, Finish, Group, Problem, Rollout, UserError, View

Watch = Callable[[str, int, int], Progress]
"""Called with an engine call's phase, its number of rollouts, and their horizon in tokens; returns
the callback that the call reports its progress to."""
UseWeights = Callable[[Weights], contextlib.AbstractContextManager[Any]]
Verify = Callable[[Sequence[Attempt]], Sequence[Any]]


def _no_others(weights: Weights) -> contextlib.AbstractContextManager[Any]:
    raise ValueError(f"the weights {weights} are not available")


class Source(Protocol):
    """problems, sampler, optimizer step from 0 -> groups, with one engine call per phase. A custom
    source inherits the defaults of all members that it does not define."""

    group: int
    """Rollouts per problem."""
    needs_reward: bool = False
    """Whether it reads verdicts: every rollout then needs one."""
    written: str | None = None
    """The privileged text that serves as completion, if completions come from the dataset."""
    kept: str = ""
    """Which completions it keeps, in a few words; empty if all."""
    rows: Rows = TOKENS
    """The rows of a rollout that are taught."""
    decoding: Decoding | None = None
    """How a masked diffusion model generates, if the source defines it."""

    def __call__(self, problems: Sequence[Problem], sampler: Sampler, step: int) -> list[Group]: ...

    @property
    def phases(self) -> tuple[OnPolicy, ...]:
        """The parts that sample, in order."""
        return ()


@part
class OnPolicy(Source):
    """`group` completions per problem, sampled in the current step.

    `view` is the prompt that is sampled from (by default the student's own), `weights` are the
    weights that generate (by default the student's).
    """

    group: Annotated[int, Field(gt=0)] = 1
    horizon: AnyHorizon = FullHorizon()
    view: AnyContext | None = None
    weights: AnyWeights | None = None
    type: Literal["on_policy"] = "on_policy"

    @property
    def phases(self) -> tuple[OnPolicy, ...]:
        return (self,)

    def __call__(self, problems: Sequence[Problem], sampler: Sampler, step: int) -> list[Group]:
        return sampler.sample(problems, self, step, phase="rollout")


@part
class FromDataset(Source):
    """The problem's own worked solution, as one completion with an end token; `rows` selects what
    is taught of it."""

    field: str = "solution"
    rows: AnyRows = TOKENS
    type: Literal["from_dataset"] = "from_dataset"
    group: ClassVar[int] = 1

    @property
    def written(self) -> str | None:
        return self.field

    def __call__(self, problems: Sequence[Problem], sampler: Sampler, step: int) -> list[Group]:
        return [sampler.written(problem, self.field) for problem in problems]


@part
class KeepCorrect(Source):
    """Only the correct rollouts of a source; problems without one may be tried again.

    With `retry=OnPolicy(view=Solution())` this is STaR's rationalisation (Zelikman et al. 2022,
    arXiv 2203.14465): the model writes with the solution in its prompt, and learns to write the
    same without it.
    """

    source: OnPolicy = OnPolicy()
    retry: OnPolicy | None = None
    type: Literal["keep_correct"] = "keep_correct"
    needs_reward: ClassVar[bool] = True
    kept: ClassVar[str] = "the right ones"

    @property
    def group(self) -> int:
        return self.source.group

    @property
    def phases(self) -> tuple[OnPolicy, ...]:
        return (self.source, *([self.retry] if self.retry else []))

    def __call__(self, problems: Sequence[Problem], sampler: Sampler, step: int) -> list[Group]:
        groups = [_correct(group) for group in self.source(problems, sampler, step)]
        failed = [group.problem for group in groups if not group.rollouts]
        if self.retry is None or not failed:
            return groups
        retried = defaultdict(list)
        for group in sampler.sample(failed, self.retry, step, phase="retry"):
            retried[group.problem.id].append(_correct(group))
        return [
            retried[g.problem.id].pop(0) if not g.rollouts and retried[g.problem.id] else g
            for g in groups
        ]


@part
class Denoise(Source):
    """`group` completions per problem, generated by a masked diffusion model with `decoding`;
    `rows` selects what is taught of them.

    Without groups, a problem whose completion is wrong is retried at `retry_temperature`, up to
    `attempts` times in total; the last completion is kept (d-OPSD, Luo et al. 2026, arXiv
    2606.18195: 8 attempts, the later ones at 0.9).
    """

    group: Annotated[int, Field(gt=0)] = 1
    decoding: Decoding | None = None
    rows: AnyRows = States()
    attempts: Annotated[int, Field(gt=0)] = 1
    retry_temperature: Annotated[float, Field(ge=0.001)] = 0.9
    type: Literal["denoise"] = "denoise"

    def __post_init__(self) -> None:
        if self.attempts > 1 and self.group > 1:
            raise ValueError("a source with groups cannot retry: leave out group or attempts")
        if not self.rows.of_canvas:
            raise ValueError(f"the rows '{tag(self.rows)}' are not for a canvas; choose others")

    @property
    def needs_reward(self) -> bool:
        return self.attempts > 1

    @property
    def kept(self) -> str:
        return f"up to {self.attempts} times until it is right" if self.attempts > 1 else ""

    @property
    def phases(self) -> tuple[OnPolicy, ...]:
        return (OnPolicy(self.group),)

    def __call__(self, problems: Sequence[Problem], sampler: Sampler, step: int) -> list[Group]:
        (source,) = self.phases
        groups = sampler.sample(problems, source, step, phase="rollout")
        again = replace(sampler.sampling, temperature=self.retry_temperature)
        for attempt in range(1, self.attempts):
            failed = [i for i, group in enumerate(groups) if not group.pass_rate]
            if not failed:
                break
            known = [groups[i].problem for i in failed]
            tried = sampler.sample(known, source, step, f"attempt_{attempt}", again)
            for i, group in zip(failed, tried, strict=True):
                groups[i] = group
        return groups


AnySource = Annotated[Source, Slot("source", Source, (OnPolicy, FromDataset, KeepCorrect, Denoise))]


@dataclass
class Counts:
    """The number of tokens that a run has generated so far, and of prompts that it has skipped."""

    generated_tokens: int = 0
    skipped: int = 0

    def __iadd__(self, other: Counts) -> Counts:
        self.generated_tokens += other.generated_tokens
        self.skipped += other.skipped
        return self


@dataclass(frozen=True)
class Sampler:
    """Turns problems into graded groups with one engine call per phase.

    `limit` is in tokens, for prompt and horizon together; `total_steps` are the run's. `observe` is
    called with everything that is sampled, including rollouts that a source then drops. `heed` is
    called while the engine works, and may raise. `watch` is called with what an engine call will
    generate, and returns its progress callback. `earlier` counts problems, by id, that other
    processes sample in the same step, so that the same prompt never gets the same random numbers
    again. `canvas` is a masked diffusion model's canvas, None for other models. `weights_version`
    is the number of optimizer steps of the weights that the engine generates with.
    """

    engine: Engine
    tokenizer: Any
    student: StudentPrompt
    verify: Verify
    sampling: Sampling
    eos_id: int
    limit: int
    use_weights: UseWeights = _no_others
    seed: int = 0
    total_steps: int = 0
    too_long: Literal["error", "skip"] = "error"
    autocast: Callable[[], contextlib.AbstractContextManager[Any]] = contextlib.nullcontext
    observe: Callable[[Sequence[Group]], None] = lambda groups: None
    heed: Callable[[], None] = lambda: None
    watch: Watch = lambda phase, rollouts, horizon: silent
    counts: Counts = field(default_factory=Counts)
    earlier: Mapping[str, int] = field(default_factory=dict)
    canvas: Canvas | None = None
    weights_version: int | None = None

    def outside_training(self, seed: int) -> Sampler:
        """The same sampler for use outside training, with separate counts and random numbers."""
        return replace(self, seed=seed, observe=lambda groups: None, earlier={}, counts=Counts())

    def sample(
        self,
        problems: Sequence[Problem],
        source: OnPolicy,
        step: int,
        phase: str,
        sampling: Sampling | None = None,
    ) -> list[Group]:
        """One engine call: `source.group` completions of every problem that fits, with the usual
        sampling settings unless `sampling` is given."""
        horizon = source.horizon(step, self.total_steps, self.sampling.max_tokens)
        context = source.view or self.student
        fitting = []
        for problem in problems:
            draw = self.draw(problem, 0, step)
            for view in context(Group(problem, ()), 0, draw) or ():
                ids = self.read(problem, view, horizon)
                if ids is not None:
                    fitting.append((problem, ids))
        rows = []
        seen = Counter(self.earlier)  # a small set is cycled: the same problem twice in a step
        for problem, ids in fitting:
            first = seen[problem.id] * source.group
            rows += [(problem, ids, first + i) for i in range(source.group)]
            seen[problem.id] += 1
        if not rows:
            return []
        sampling = replace(sampling or self.sampling, max_tokens=horizon)
        completions = self.generated(rows, sampling, source.weights, step, phase)
        rollouts = [
            Rollout(
                ids,
                c.ids,
                self.text(c.ids),
                c.finish,
                c.logprobs,
                trajectory=c.trajectory,
                weights_version=self.weights_version if source.weights is None else None,
            )
            for (_, ids, _), c in zip(rows, completions, strict=True)
        ]
        groups = self.graded([p for p, _ in fitting], rollouts, source.group)
        self.observe(groups)
        return groups

    def generated(
        self,
        rows: Sequence[tuple[Problem, Sequence[int], int]],
        sampling: Sampling,
        weights: Weights | None,
        step: int,
        phase: str,
    ) -> list[Completion]:
        """One engine call: a completion of every (problem, prompt, sample number), each with its
        own random numbers."""
        told = self.watch(phase, len(rows), sampling.max_tokens)

        def progress(done: int, tokens: int = 0) -> None:
            self.heed()
            told(done, tokens)

        with contextlib.ExitStack() as stack:
            if weights is not None:
                stack.enter_context(self.use_weights(weights))
            stack.enter_context(self.autocast())
            completions = self.engine.generate(
                [ids for _, ids, _ in rows],
                sampling,
                [prompt_seed(self.seed, step, p.id, i, phase) for p, _, i in rows],
                progress=progress,
            )
        self.counts.generated_tokens += sum(len(c.ids) for c in completions)
        return completions

    def graded(
        self, problems: Sequence[Problem], rollouts: Sequence[Rollout], size: int
    ) -> list[Group]:
        """Groups of `size` consecutive rollouts, with the verifier's verdicts on them."""
        owners = [problem for problem in problems for _ in range(size)]
        verdicts = self.verify(
            [Attempt(p, r.text, r.completion_ids) for p, r in zip(owners, rollouts, strict=True)]
        )
        judged = [replace(r, verdict=v) for r, v in zip(rollouts, verdicts, strict=True)]
        return [
            Group(problem, tuple(judged[i * size : (i + 1) * size]))
            for i, problem in enumerate(problems)
        ]

    def written(self, problem: Problem, name: str) -> Group:
        """A group of one rollout: a text from the dataset, followed by the end-of-sequence
        token."""
        if name not in problem.privileged:
            raise LacksText(problem, name, "is to be learned")
        text = problem.privileged[name]
        completion = (*self.tokenizer(text, add_special_tokens=False)["input_ids"], self.eos_id)
        ids = self.read(problem, self.student.view(problem), len(completion))
        if ids is None:
            return Group(problem, ())
        return Group(problem, (Rollout(ids, completion, text, Finish.STOP),))

    def read(self, problem: Problem, view: View, room: int) -> tuple[int, ...] | None:
        """A view's token ids; None, and counted as skipped, if they exceed the limit together with
        `room` tokens.

        Raises UserError instead, unless prompts that are too long are skipped.
        """
        ids, fits = read(self.tokenizer, view, room, self.limit)
        if fits:
            return ids
        if self.too_long == "error":
            raise UserError(
                f"{problem.name}: the prompt '{view.name}' has {len(ids)} tokens; with"
                f" {room} for the completion that is more than the limit of {self.limit}. Raise"
                " max_length, or set prompt_too_long: skip to leave such rows out"
            )
        self.counts.skipped += 1
        return None

    def draw(self, problem: Problem, sample: int, step: int, uses: int = 1) -> Draw:
        """The draw that a context's random decisions depend on, for one rollout of a problem at a
        step, one of `uses` steps that train on it."""
        seed = prompt_seed(self.seed, step, problem.id, sample, "context")
        return Draw(step, seed, step % uses, uses)

    def text(self, ids: Sequence[int]) -> str:
        """A completion's text (`opsd.prompts.tokens.completion_text`)."""
        return completion_text(self.tokenizer, ids)


def _correct(group: Group) -> Group:
    kept = tuple(r for r in group.rollouts if r.verdict is not None and r.verdict.correct)
    return Group(group.problem, kept)

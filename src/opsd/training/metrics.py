"""What a step logs: numbers for `metrics.jsonl`, rollouts for `rollouts/*.jsonl`."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.profiler import record_function

from opsd.grade.traits import count_markers, overlap, repetition
from opsd.languages.registry import language
from opsd.objective.table import TokenTable
from opsd.parts import tag
from opsd.prompts.prompt import prompt_text
from opsd.training.examples import TrainingExample
from opsd.types import Finish, Group, Problem, Rollout

PHASE = "opsd/"
"""The prefix of timed blocks' names in a profile."""

_MEANS = {
    "entropy_student": "entropy/student",
    "entropy_teacher": "entropy/teacher",
    "divergence": "divergence",
    "clipped": "clip_fraction",
}
_PHASES = ("rollout", "teacher", "student", "evaluate")
"""Timed blocks that are not inside another one: the rest of a step's time is unaccounted for."""
_PARTS = ("target/", "support/", "token/")
"""Prefixes of columns that are logged under their own name."""


@dataclass
class Metrics:
    """Sums and counts since the last log line, on this process; `merged` combines the processes.
    Means and rates are kept as numerator and denominator until then.

    With `by_language`, accuracy, format rate, length and divergence are also kept per language.
    """

    by_language: bool = False
    sums: dict[str, list[float]] = field(default_factory=lambda: defaultdict(lambda: [0.0, 0.0]))
    lows: dict[str, float] = field(default_factory=dict)
    highs: dict[str, float] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=lambda: defaultdict(float))
    since: float = field(default_factory=time.perf_counter)

    def clear(self) -> None:
        """Reset all sums."""
        self.__init__(self.by_language)

    def add(self, name: str, total: float, count: float) -> None:
        self.sums[name][0] += total
        self.sums[name][1] += count

    def low(self, name: str, value: float) -> None:
        self.lows[name] = min(self.lows.get(name, value), value)

    def high(self, name: str, value: float) -> None:
        self.highs[name] = max(self.highs.get(name, value), value)

    def spoken(self, name: str, language: str, total: float, count: float) -> None:
        """Adds to a number, and to its value for one language."""
        self.add(name, total, count)
        if self.by_language:
            self.add(f"{name}/{language}", total, count)

    @contextmanager
    def timed(self, name: str) -> Iterator[None]:
        """Adds the wall-clock seconds of the block to `time/<name>`, and names the block in
        profiles."""
        start = time.perf_counter()
        try:
            with record_function(f"{PHASE}{name}"):
                yield
        finally:
            self.seconds[f"time/{name}"] += time.perf_counter() - start

    def rollouts(self, groups: Sequence[Group]) -> None:
        """Adds the lengths, endings and verdicts of new rollouts."""
        for group in groups:
            rewards = {r.verdict.reward for r in group.rollouts if r.verdict is not None}
            if rewards and len(group.rollouts) > 1:
                self.add("frac_reward_zero_std", len(rewards) == 1, 1)
        made = [(group.problem, r) for group in groups for r in group.rollouts]
        for problem, rollout in made:
            length = len(rollout.completion_ids)
            self._traits(problem, rollout)
            self.spoken("completions/mean_length", problem.language, length, 1)
            self.add("completions/clipped_ratio", rollout.finish is Finish.LENGTH, 1)
            self.low("completions/min_length", length)
            self.high("completions/max_length", length)
            if rollout.verdict is not None:
                self.add("reward", rollout.verdict.reward, 1)
                self.spoken("accuracy", problem.language, rollout.verdict.correct, 1)
                self.spoken("format_rate", problem.language, rollout.verdict.format_ok, 1)

    def _traits(self, problem: Problem, rollout: Rollout) -> None:
        """Adds a rollout's traits: repeated 4-grams, words of doubt and checking per thousand
        tokens (in languages whose words are known), and 4-grams that occur in a privileged text."""
        self.add("completions/repetition", *repetition(rollout.completion_ids))
        markers = language(problem.language).reflective_markers
        if markers:
            said, tokens = 1000 * count_markers(rollout.text, markers), len(rollout.completion_ids)
            self.spoken("completions/reflective_markers", problem.language, said, tokens)
        for name, text in problem.privileged.items():
            self.add(f"overlap/{name}", *overlap(rollout.text, text))

    def notes(self, groups: Sequence[Group]) -> None:
        """Adds the share of the authors' texts that were accepted."""
        for note in (note for group in groups for note in group.notes):
            for name, text in note.items():
                self.add(f"author/{name}/accepted", text is not None, 1)

    def tokens(self, table: TokenTable, taught: Tensor, languages: Sequence[str]) -> None:
        """Adds means over the taught tokens of one signal; the divergence also by position decile,
        and by the rollouts' `languages`."""
        n = int(taught.sum())
        for column, values in (table.statistics | table.logged).items():
            name = column if column.startswith(_PARTS) else _MEANS.get(column)
            if name is not None:
                self.add(name, values[taught].sum().item(), n)
        if "divergence" in table.statistics:
            divergence = table.statistics["divergence"][taught]
            decile = (10 * table.place // table.length)[taught]
            sums = divergence.new_zeros(10).index_add_(0, decile, divergence).tolist()
            counts = decile.bincount(minlength=10).tolist()
            for i in range(10):
                self.add(f"divergence/decile_{i}", sums[i], counts[i])
            for language in dict.fromkeys(languages) if self.by_language else ():
                mine = torch.tensor([x == language for x in languages], device=taught.device)
                own = mine[table.rollout][taught]
                self.add(f"divergence/{language}", divergence[own].sum().item(), int(own.sum()))

    def sampled(self, gap: Tensor, rollout: Tensor) -> None:
        """Adds the difference between the log-probabilities that tokens have under the student and
        those that they were sampled with: `gap` [N] in nats, not finite if the sampler returned no
        number, and the `rollout` [N] that each token belongs to. A rollout's importance ratio is
        over all its tokens (as TRL's `sequence` importance ratios are)."""
        known = gap.isfinite()
        self.add("sampling/nonfinite_logprobs", int((~known).sum()), len(gap))
        gap, rollout = gap[known].double(), rollout[known]
        if not len(gap):
            return
        size = gap.abs()
        self.add("sampling/sampling_logp_difference/mean", size.sum().item(), len(size))
        self.high("sampling/sampling_logp_difference/max", size.max().item())
        _, row = rollout.unique(return_inverse=True)
        ratios = gap.new_zeros(int(row.max()) + 1).index_add_(0, row, gap).exp().tolist()
        self.add("sampling/importance_sampling_ratio/mean", sum(ratios), len(ratios))
        self.low("sampling/importance_sampling_ratio/min", min(ratios))
        self.high("sampling/importance_sampling_ratio/max", max(ratios))

    def stale(self, groups: Sequence[Group], step: int) -> None:
        """Adds the age of a step's rollouts, in optimizer steps."""
        ages = ages_of(groups, step)
        if ages:
            self.add("staleness/mean", sum(ages), len(ages))
            self.high("staleness/max", max(ages))

    def merged(self, gather: Any) -> dict[str, float]:
        """The means, extremes and seconds over all processes. Resets all sums."""
        spent = sum(self.seconds.get(f"time/{phase}", 0.0) for phase in _PHASES)
        self.seconds["time/unaccounted"] = max(0.0, time.perf_counter() - self.since - spent)
        parts = gather([(dict(self.sums), self.lows, self.highs, dict(self.seconds))])
        self.clear()
        result: dict[str, float] = {}
        for name in sorted({name for part in parts for name in part[0]}):
            total = sum(part[0].get(name, (0, 0))[0] for part in parts)
            count = sum(part[0].get(name, (0, 0))[1] for part in parts)
            if count:
                result[name] = total / count
        for index, pick in ((1, min), (2, max), (3, max)):
            for name in sorted({name for part in parts for name in part[index]}):
                result[name] = pick(part[index][name] for part in parts if name in part[index])
        return result


def ages_of(groups: Sequence[Group], step: int) -> list[int]:
    """For each rollout that the student generated, how many optimizer steps older the generating
    weights were than those that are trained at `step`."""
    versions = [r.weights_version for group in groups for r in group.rollouts]
    return [step - version for version in versions if version is not None]


def rollout_row(
    example: TrainingExample, step: int, tokenizer: Any, divergence: list[float] | None
) -> dict:
    """A rollout as one line: both prompts as text and ids, the completion, the verdict, and the
    unclipped divergence of each token in nats, None for a token that is not taught. A diffusion
    model's rollout has one line per `state`."""
    rollout, verdict = example.rollout, example.rollout.verdict
    state = {} if example.rows.state is None else {"state": example.rows.state}
    return {
        "step": step,
        "weights_version": rollout.weights_version,
        "problem": example.problem.id,
        "sample": example.sample,
        **state,
        "language": example.problem.language,
        "prompt": tokenizer.decode(example.prompt_ids),
        "prompt_ids": list(example.prompt_ids),
        "views": [
            {
                "name": teacher_input.view.name,
                "weights": tag(teacher_input.weights),
                "prompt": prompt_text(tokenizer, teacher_input.view),
                "prompt_ids": list(teacher_input.ids),
            }
            for teacher_inputs in example.teacher_inputs
            for teacher_input in teacher_inputs or ()
        ],
        "completion": rollout.text,
        "completion_ids": list(rollout.completion_ids),
        "finish": rollout.finish.value,
        "answer": example.problem.answer,
        "reward": verdict.reward if verdict else None,
        "correct": verdict.correct if verdict else None,
        "format_ok": verdict.format_ok if verdict else None,
        "divergence": divergence and example.rows.spread(divergence, len(rollout.completion_ids)),
    }

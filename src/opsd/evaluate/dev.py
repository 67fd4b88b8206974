"""Scores on a dev split during training."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from opsd.evaluate.metrics import pass_at_k
from opsd.rollout.source import OnPolicy, Sampler
from opsd.types import Group, Problem, UserError

Score = tuple[int, int, int, int]
"""Samples, correct ones, well-formed ones, tokens; of one problem."""


def dev_scores(sampler: Sampler, problems: Sequence[Problem], samples: int) -> list[Score]:
    """`samples` completions per problem; the training run's counters stay as they are."""
    own = replace(sampler, observe=lambda groups: None)
    groups = own.sample(problems, OnPolicy(group=samples), step=0, phase="eval")
    return [score_of(group) for group in groups]


def score_of(group: Group) -> Score:
    """The score of one problem's rollouts."""
    verdicts = [r.verdict for r in group.rollouts if r.verdict is not None]
    return (
        len(verdicts),
        sum(v.correct for v in verdicts),
        sum(v.format_ok for v in verdicts),
        sum(len(r.completion_ids) for r in group.rollouts),
    )


def summarise(scores: Sequence[Score]) -> dict[str, float]:
    """avg@k, pass@k (k = samples per problem), format rate, mean length in tokens."""
    if not scores:
        raise UserError("no dev problem fits the length limit; raise max_length")
    n = sum(score[0] for score in scores)
    return {
        "avg@k": sum(score[1] for score in scores) / n,
        "pass@k": sum(pass_at_k(s[0], s[1], s[0]) for s in scores) / len(scores),
        "format_rate": sum(score[2] for score in scores) / n,
        "mean_length": sum(score[3] for score in scores) / n,
    }

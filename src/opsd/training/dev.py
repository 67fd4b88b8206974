"""Scores on a dev split during training."""

from __future__ import annotations

from collections.abc import Sequence

from opsd.grade.metrics import pass_at_k
from opsd.rollout.sources import OnPolicy, Sampler
from opsd.types import Group, Problem, UserError

Counts = tuple[int, int, int, int]
"""One problem's samples, correct samples, well-formed samples, and tokens."""

Score = tuple[int, int, int, int, str]
"""The counts of one problem, and its language."""


def dev_scores(sampler: Sampler, problems: Sequence[Problem], samples: int) -> list[Score]:
    """Score `samples` completions per problem. The training run's counters do not change."""
    source = OnPolicy(group=samples)
    groups = sampler.outside_training(sampler.seed).sample(problems, source, step=0, phase="eval")
    return [(*score_of(group), group.problem.language) for group in groups]


def score_of(group: Group) -> Counts:
    """The counts of one problem's rollouts."""
    verdicts = [r.verdict for r in group.rollouts if r.verdict is not None]
    return (
        len(verdicts),
        sum(v.correct for v in verdicts),
        sum(v.format_ok for v in verdicts),
        sum(len(r.completion_ids) for r in group.rollouts),
    )


def summarise(scores: Sequence[Score]) -> dict[str, float]:
    """avg@k, pass@k (k = samples per problem), format rate and mean length in tokens. With several
    languages, also `avg@k/<language>` and `format_rate/<language>`."""
    if not scores:
        raise UserError("no dev problem fits the length limit; raise max_length")
    scores = [score for score in scores if score[0]]
    if not scores:
        raise UserError(
            "dev problems cannot be scored: the verifier gave no verdict on any of their"
            " completions; let it judge them, or leave the dev problems out"
        )
    n = sum(score[0] for score in scores)
    summary = {
        "avg@k": _share(scores, 1),
        "pass@k": sum(pass_at_k(s[0], s[1], s[0]) for s in scores) / len(scores),
        "format_rate": _share(scores, 2),
        "mean_length": sum(score[3] for score in scores) / n,
    }
    languages = sorted({score[4] for score in scores})
    for language in languages if len(languages) > 1 else ():
        own = [score for score in scores if score[4] == language]
        summary[f"avg@k/{language}"] = _share(own, 1)
        summary[f"format_rate/{language}"] = _share(own, 2)
    return summary


def _share(scores: Sequence[Score], part: int) -> float:
    """The counts at index `part` as a share of all samples."""
    return sum(int(score[part]) for score in scores) / sum(score[0] for score in scores)

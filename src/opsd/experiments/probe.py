"""Where a teacher disagrees with wrong rollouts: before the first wrong step, or at it.

Advantages are log teacher - log student at the sampled tokens, in nats.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from opsd.authors.critique import shared_prefix, steps
from opsd.lm.forward import score
from opsd.miniature.rules import critic
from opsd.prompts.tokens import completion_text
from opsd.training.examples import TrainingExample, training_examples
from opsd.types import Group

FIELDS = ("problems", "before", "before_n", "inside", "inside_n")
"""The counts per problem: sums of advantages, and their numbers of tokens."""


def probed(trainer: Any, groups: Sequence[Group]) -> list[list[float]]:
    """The counts over every group's wrong rollouts, with the untrained model's teacher."""
    for author in trainer.generator.authors:
        groups = author(groups, trainer.generator.sampler, 0)
    made = training_examples(groups, trainer.setup.terms, trainer.generator.sampler)
    rows = [[1.0, 0.0, 0.0, 0.0, 0.0] for _ in groups]
    for example in made:
        verdict = example.rollout.verdict
        span = wrong_step(example, trainer.processing_class)
        if verdict is None or verdict.correct or span is None or not example.teacher_inputs[0]:
            continue
        advantage = advantages(example, trainer)
        before, inside = advantage[: span[0]], advantage[span[0] : span[1]]
        counts = (sum(before), len(before), sum(inside), len(inside))
        for place, value in enumerate(counts, start=1):
            rows[example.group][place] += value
    return [[round(x, 4) for x in row] for row in rows]


@torch.no_grad()
def advantages(example: TrainingExample, trainer: Any) -> list[float]:
    """The teacher's log-ratio at every token of a rollout."""
    learner, ids = trainer.learner, example.rows.tokens
    student_ND, head = score(trainer.model, [example.input], learner.pad_id, learner.vocab)
    (view,) = learner.views(example, 0, trainer.model)
    at = torch.tensor(ids).unsqueeze(-1)
    teacher, student = (
        h.logits(rows).log_softmax(-1).gather(-1, at).squeeze(-1)
        for h, rows in ((view.head, view.hidden_ND), (head, student_ND))
    )
    return (teacher - student).tolist()


def wrong_step(example: TrainingExample, tokenizer: Any) -> tuple[int, int] | None:
    """The first wrong step of a rollout, as a span of tokens; None if all steps are right."""
    text = example.rollout.text
    mine = steps(text)
    corrected = critic(example.problem, text, None).partition("\n")[2]
    right = round(shared_prefix(text, corrected) * len(mine))
    if right == len(mine):
        return None
    start = len("".join(f"{step}\n" for step in mine[:right]))
    return _tokens_until(example, tokenizer, start), _tokens_until(
        example, tokenizer, start + len(mine[right])
    )


def _tokens_until(example: TrainingExample, tokenizer: Any, characters: int) -> int:
    """How many tokens spell the first characters of a completion."""
    ids = example.rollout.completion_ids
    for n in range(len(ids) + 1):
        if len(completion_text(tokenizer, ids[:n])) >= characters:
            return n
    return len(ids)

r"""How well a world's model does before any post-training: mean accuracy of sampled solutions.

Self-contained on purpose: plain Transformers generation, and the last `\boxed{}` compared as a
string, so that a model can be built and described without the package's own engine.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from opsd.miniature.world import HORIZON, LANGUAGES, problems
from opsd.prompts.contexts import Context, Crosslingual, Solution, StudentPrompt
from opsd.prompts.prompt import prompt_ids
from opsd.prompts.tokens import completion_text
from opsd.types import Group, Problem


@dataclass(frozen=True)
class Row:
    """One language's figures: shares of right samples, and the student's mean tokens."""

    language: str
    student: float
    teacher: float
    tokens: float


def measure(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, world: str, n: int, samples: int
) -> list[Row]:
    """Accuracy on the first `n` test problems, `samples` at temperature 1, in each language."""
    rows = []
    for code in LANGUAGES:
        given = problems(world, "test", code, n)
        teacher: Context = Solution() if code == "eng" else Crosslingual()
        alone = sample(model, tokenizer, given, StudentPrompt(), samples, HORIZON[world])
        told = sample(model, tokenizer, given, teacher, samples, HORIZON[world])
        tokens = sum(len(c) for completions in alone for c in completions) / (n * samples)
        shares = [accuracy(tokenizer, given, texts) for texts in (alone, told)]
        rows.append(Row(code, shares[0], shares[1], tokens))
    return rows


@torch.no_grad()
def sample(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    given: list[Problem],
    context: Context,
    samples: int,
    horizon: int,
    seed: int = 0,
) -> list[list[list[int]]]:
    """`samples` completions per problem at temperature 1, as token ids up to the end token."""
    prompts = [list(prompt_ids(tokenizer, context(Group(p, ()), 0)[0])) for p in given]
    batch = tokenizer.pad({"input_ids": prompts}, padding_side="left", return_tensors="pt")
    torch.manual_seed(seed)
    out = model.generate(
        **batch,
        do_sample=True,
        temperature=1.0,
        top_k=0,
        num_return_sequences=samples,
        max_new_tokens=horizon,
    )
    ends = (tokenizer.eos_token_id, tokenizer.pad_token_id)
    rows = [_until(row, ends) for row in out[:, batch["input_ids"].shape[1] :].tolist()]
    return [rows[i : i + samples] for i in range(0, len(rows), samples)]


def accuracy(
    tokenizer: PreTrainedTokenizerBase, given: list[Problem], texts: list[list[list[int]]]
) -> float:
    r"""Share of completions whose last `\boxed{}` holds the answer."""
    right = [
        re.findall(r"\\boxed\{([^{}]*)\}", completion_text(tokenizer, ids))[-1:] == [p.answer]
        for p, completions in zip(given, texts, strict=True)
        for ids in completions
    ]
    return sum(right) / len(right)


def _until(row: list[int], ends: tuple[int, ...]) -> list[int]:
    stop = next((i for i, token in enumerate(row) if token in ends), len(row) - 1)
    return row[: stop + 1]

r"""How well a world's model does before any post-training: mean accuracy of sampled solutions.

Plain Transformers generation, where there is one, and the last `\boxed{}` compared as a string.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from opsd.miniature.world import HORIZON, WORLDS, problems
from opsd.prompts.contexts import Context, Crosslingual, Draw, Feedback, Solution, StudentPrompt
from opsd.prompts.prompt import prompt_ids
from opsd.prompts.tokens import completion_text
from opsd.rollout.denoise import DenoisingEngine, decoding_of
from opsd.rollout.engine import Sampling
from opsd.types import Finish, Group, Problem, Rollout, Verdict, View

TOLD = Feedback(demonstration="both", author="peer", template="peer_feedback")
"""What the teachers of models that remark on each other's attempts read."""


@dataclass(frozen=True)
class Remarked(Context):
    """What a teacher reads that is told a peer's remark on a wrong attempt."""

    def __call__(self, group: Group, i: int, draw: Draw = Draw()) -> tuple[View, ...] | None:
        wrong = Rollout((), (), "", Finish.STOP, verdict=Verdict(0.0, False, True))
        notes = ({"peer": group.problem.metadata["remark"][1]},)
        return TOLD(replace(group, rollouts=(wrong,), notes=notes), 0)


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
    for code in WORLDS[world].languages:
        given = problems(world, "test", code, n)
        teacher: Context = Solution() if code == "eng" else Crosslingual()
        teacher = Remarked() if WORLDS[world].peers else teacher
        alone = sample(model, tokenizer, given, StudentPrompt(), samples, HORIZON[world])
        told = sample(model, tokenizer, given, teacher, samples, HORIZON[world])
        tokens = sum(len(c) for completions in alone for c in completions) / (n * samples)
        shares = [accuracy(tokenizer, given, texts) for texts in (alone, told)]
        rows.append(Row(code, shares[0], shares[1], tokens))
    return rows


def measure_denoising(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, world: str, n: int
) -> dict[str, float]:
    """Accuracy of a masked diffusion model on the first `n` test problems, by how it writes."""
    given = problems(world, "test", "eng", n)
    prompts = [prompt_ids(tokenizer, StudentPrompt()(Group(p, ()), 0)[0]) for p in given]
    engine = DenoisingEngine(
        model,
        eos_ids=[tokenizer.eos_token_id],
        pad_id=tokenizer.pad_token_id,
        vocab=len(tokenizer),
    )
    own = decoding_of(model)
    single = replace(own, tokens_per_step=1)
    ways = {
        "greedy": Sampling(temperature=0.0, decoding=own),
        "temperature 0.9": Sampling(temperature=0.9, decoding=own),
        "greedy, one token a step": Sampling(temperature=0.0, decoding=single),
    }
    shares = {}
    for name, how in ways.items():
        how = replace(how, top_p=1.0, top_k=0, max_tokens=HORIZON[world])
        made = engine.generate(prompts, how, range(n))
        shares[name] = accuracy(tokenizer, given, [[list(c.ids)] for c in made])
    return shares


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

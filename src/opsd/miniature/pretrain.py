"""Pre-training of a world's model, on texts made by the package's own contexts and templates.

Most texts are English problems. A low-resource problem nearly always comes with its translation
and a reference, so the model can solve it when told more and barely can when not: the gap that
self-distillation closes. Same versions, processor type and one thread: the same bytes.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from itertools import islice
from random import Random

import torch
from torch.nn.functional import cross_entropy
from transformers import PreTrainedTokenizerFast, Qwen3Config, Qwen3ForCausalLM

from opsd.data.languages import language
from opsd.data.prompts import prompt_ids
from opsd.miniature.stories import Story, stories
from opsd.miniature.tokenizer import POSITIONS
from opsd.miniature.world import LOW_RESOURCE, WORLDS, problem, trace
from opsd.teacher.context import Context, Crosslingual, Solution, StudentPrompt
from opsd.types import Group

Text = tuple[tuple[int, ...], tuple[int, ...]]
"""Token ids of a prompt and of its completion."""


@dataclass(frozen=True)
class Kind:
    """A kind of text: what its reader is shown, and its share of all texts.

    `pool` limits it to that many problems per language; `shortcut` is the share of its
    completions that give the answer at once.
    """

    name: str
    share: float
    context: Context
    low_resource: bool
    pool: int | None = None
    shortcut: float = 0.0


@dataclass(frozen=True)
class Recipe:
    """Everything that decides a model's weights, apart from versions and hardware."""

    world: str
    kinds: tuple[Kind, ...]
    steps: int
    batch: int = 48
    learning_rate: float = 3e-3
    prompt_weight: float = 0.3
    thinking: float = 0.08
    seed: int = 0
    sizes: dict[str, int] = field(default_factory=dict)


def _kinds(pool: int, alone: float, shortcut: float) -> tuple[Kind, ...]:
    partial = Crosslingual(include=("problem", "translation"))
    return (
        Kind("problem", 0.54, StudentPrompt(), False),
        Kind("reference", 0.15, Solution(), False, shortcut=shortcut),
        Kind("crosslingual", 0.28, Crosslingual(), True, shortcut=shortcut),
        Kind("foreign reference", 0.01, Solution(), True, shortcut=shortcut),
        Kind("translation", 0.01, partial, True),
        Kind("alone", alone, StudentPrompt(), True, pool=pool),
    )


RECIPES = {
    "miniature": Recipe("miniature", _kinds(12, 0.01, 0.0), steps=900),
    "miniature-long": Recipe("miniature-long", _kinds(12, 0.01, 0.5), steps=700),
}


def pretrain(
    recipe: Recipe,
    tokenizer: PreTrainedTokenizerFast,
    log: Callable[[int, float], None] | None = None,
) -> Qwen3ForCausalLM:
    """A model trained by a recipe; `log` gets each step's mean loss in nats per token."""
    torch.manual_seed(recipe.seed)
    model = Qwen3ForCausalLM(_config(tokenizer, recipe.sizes))
    model.train()
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=recipe.learning_rate, betas=(0.9, 0.98), weight_decay=0.01
    )
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, max_lr=recipe.learning_rate, total_steps=recipe.steps, pct_start=0.1
    )
    texts = Texts(recipe, tokenizer)
    for step in range(recipe.steps):
        loss = _backward(model, texts.batch(), recipe.prompt_weight)
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad(set_to_none=True)
        if log:
            log(step, loss)
    return model.eval()


class Texts:
    """The endless stream of a recipe's pre-training texts."""

    def __init__(self, recipe: Recipe, tokenizer: PreTrainedTokenizerFast) -> None:
        self.recipe, self.tokenizer = recipe, tokenizer
        self.random = Random(f"texts {recipe.seed}")
        steps = WORLDS[recipe.world].steps
        self.stories = stories(f"{recipe.world} texts {recipe.seed}", "pretraining", steps)
        self.pools: dict[tuple[str, str], list[Story]] = {}

    def batch(self) -> list[Text]:
        """The next step's texts."""
        kinds = self.recipe.kinds
        shares = [kind.share for kind in kinds]
        return [self._text(k) for k in self.random.choices(kinds, shares, k=self.recipe.batch)]

    def _text(self, kind: Kind) -> Text:
        code = self.random.choice(LOW_RESOURCE) if kind.low_resource else "eng"
        story = self._story(kind, code)
        thinking = self.random.random() < self.recipe.thinking
        shortcut = self.random.random() < kind.shortcut
        given = problem(self.recipe.world, "pretraining", code, story)
        (view,) = kind.context(Group(given, ()), 0) or ()
        view = replace(view, template_options={"enable_thinking": thinking})
        written = trace(self.recipe.world, code, story, shortcut)
        if thinking:
            answer = trace(self.recipe.world, code, story, shortcut=True)
            prefix = language(code).think_prefix
            written = f"<think>\n{prefix}\n{written}\n</think>\n\n{answer}"
        completion = self.tokenizer(written, add_special_tokens=False)["input_ids"]
        return prompt_ids(self.tokenizer, view), (*completion, self.tokenizer.eos_token_id)

    def _story(self, kind: Kind, code: str) -> Story:
        if kind.pool is None:
            return next(self.stories)
        pool = self.pools.setdefault((kind.name, code), [])
        if not pool:
            pool.extend(islice(self.stories, kind.pool))
        return self.random.choice(pool)


def _config(tokenizer: PreTrainedTokenizerFast, sizes: dict[str, int]) -> Qwen3Config:
    defaults = {
        "hidden_size": 128,
        "intermediate_size": 384,
        "num_hidden_layers": 4,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 32,
    }
    return Qwen3Config(
        vocab_size=len(tokenizer),
        max_position_embeddings=POSITIONS,
        rope_parameters={"rope_type": "default", "rope_theta": 10_000.0},
        tie_word_embeddings=True,
        use_cache=True,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        **(defaults | sizes),
    )


def _backward(
    model: Qwen3ForCausalLM, texts: list[Text], prompt_weight: float, chunks: int = 3
) -> float:
    """One step's gradient, texts of like length side by side; the completions' mean loss."""
    texts = sorted(texts, key=lambda text: len(text[0]) + len(text[1]))
    tokens = sum(len(completion) for _, completion in texts)
    size = -(-len(texts) // chunks)
    total = 0.0
    for start in range(0, len(texts), size):
        of_prompts, of_completions = _summed_losses(model, texts[start : start + size])
        ((of_completions + prompt_weight * of_prompts) / tokens).backward()
        total += of_completions.item() / tokens
    return total


def _summed_losses(
    model: Qwen3ForCausalLM, texts: list[Text]
) -> tuple[torch.Tensor, torch.Tensor]:
    """The loss over prompts and over completions. Rows are padded on the right, where causal
    attention needs no mask."""
    width = max(len(prompt) + len(completion) for prompt, completion in texts)
    ids = torch.zeros(len(texts), width, dtype=torch.long)
    in_prompt = torch.zeros(len(texts), width, dtype=torch.bool)
    in_completion = in_prompt.clone()
    for row, (prompt, completion) in enumerate(texts):
        end = len(prompt) + len(completion)
        ids[row, :end] = torch.tensor(prompt + completion)
        in_prompt[row, : len(prompt)] = True
        in_completion[row, len(prompt) : end] = True
    hidden = model.model(input_ids=ids[:, :-1], use_cache=False).last_hidden_state

    def loss(rows: torch.Tensor) -> torch.Tensor:
        return cross_entropy(model.lm_head(hidden[rows]), ids[:, 1:][rows], reduction="sum")

    return loss(in_prompt[:, 1:]), loss(in_completion[:, 1:])

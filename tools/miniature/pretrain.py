"""Pre-training of a world's model, on texts made by the package's own contexts and templates.

Most texts are English problems. A low-resource problem nearly always comes with its translation
and a reference, so the model can solve it when told more and barely can when not: the gap that
self-distillation closes. Same versions, processor type and one thread: the same bytes.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import islice
from random import Random
from typing import Any

import torch
from torch.nn.functional import cross_entropy
from torch.optim.lr_scheduler import LambdaLR
from transformers import PreTrainedTokenizerFast, Qwen3Config, Qwen3ForCausalLM

from opsd.languages.registry import language
from opsd.lm.diffusion import look_both_ways
from opsd.miniature.lexicon import long_solution, remark, short_solution
from opsd.miniature.stories import Story, stories
from opsd.miniature.tokenizer import POSITIONS
from opsd.miniature.world import HORIZON, LOW_RESOURCE, WORLDS, problem, trace
from opsd.prompts.contexts import (
    Context,
    Critique,
    Crosslingual,
    Demonstration,
    Draw,
    Instruction,
    ReferenceOnly,
    Rubric,
    Skills,
    Solution,
    StudentPrompt,
)
from opsd.prompts.prompt import prompt_ids, view
from opsd.types import Finish, Group, Problem, Rollout, Verdict, View
from tools.miniature.measure import TOLD
from tools.miniature.muon import Muon

Text = tuple[tuple[int, ...], tuple[float, ...]]
"""Token ids, and how much the loss of predicting each of them counts."""


@dataclass(frozen=True)
class Kind:
    """A kind of text: what its reader is shown, and its share of all texts.

    `pool` limits it to that many problems per language; `shortcut` is the share of its
    completions that give the answer at once; `slip` the share of wrong sums in the others.
    """

    name: str
    share: float
    context: Context
    languages: tuple[str, ...]
    pool: int | None = None
    shortcut: float = 0.0
    slip: float = 0.0


@dataclass(frozen=True)
class Pretraining:
    """Everything that decides a model's weights, apart from versions and hardware.

    `prompt_weight` is what a prompt's token counts beside a completion's; `thinking` the share
    of texts with the thinking switch on; `drill` the share of texts that are bare sums.
    """

    world: str
    kinds: tuple[Kind, ...]
    steps: int
    batch: int = 24
    learning_rate: float = 5e-3
    embedding_rate: float = 3e-3
    prompt_weight: float = 0.1
    thinking: float = 0.08
    drill: float = 0.25
    seed: int = 0
    sizes: dict[str, int] = field(default_factory=dict)


ENGLISH = ("eng",)


def _kinds(pool: int, alone: float, shortcut: float) -> tuple[Kind, ...]:
    unsolved = Crosslingual(include=("problem", "translation"))
    return (
        Kind("problem", 0.54, StudentPrompt(), ENGLISH),
        Kind("reference", 0.15, Solution(), ENGLISH, shortcut=shortcut),
        Kind("crosslingual", 0.28, Crosslingual(), LOW_RESOURCE, shortcut=shortcut),
        Kind("foreign reference", 0.01, Solution(), LOW_RESOURCE, shortcut=shortcut),
        Kind("translation", 0.01, unsolved, LOW_RESOURCE),
        Kind("alone", alone, StudentPrompt(), LOW_RESOURCE, pool=pool),
    )


def _wide(hidden: int) -> dict[str, int]:
    """A narrower model of as many layers and heads."""
    return {"hidden_size": hidden, "intermediate_size": 3 * hidden, "head_dim": hidden // 4}


@dataclass(frozen=True)
class Tutoring(Context):
    """What a tutor reads: an attempt at a problem, and a solution that is right."""

    @property
    def label(self) -> str:
        return "tutor"

    def __call__(self, group: Group, i: int, draw: Draw = Draw()) -> tuple[View, ...]:
        attempt, known = group.rollouts
        told = {"completion": attempt.text, "correct": attempt.verdict and attempt.verdict.correct}
        return (view("author peer", group.problem, "tutor", known=known.text, **told),)


def _specialist(own: str, other: str) -> Pretraining:
    """One of two models, each of which has read one language's problems, knows hardly a dozen of
    the other's, and can write and read remarks on both."""
    kinds = (
        Kind("problem", 0.5, StudentPrompt(), (own,)),
        Kind("alone", 0.005, StudentPrompt(), (other,), pool=8),
        Kind("tutor", 0.23, Tutoring(), (own,)),
        Kind("told", 0.22, TOLD, (own,)),
        Kind("told", 0.045, TOLD, (other,)),
    )
    return Pretraining("miniature-pair", kinds, steps=850, sizes=_wide(64), thinking=0.0)


LONG_KINDS = (
    Kind("problem", 0.26, StudentPrompt(), ENGLISH, slip=0.2),
    Kind("reference", 0.16, Solution(), ENGLISH, shortcut=0.5),
    Kind("reference alone", 0.07, ReferenceOnly(), ENGLISH, shortcut=0.6),
    Kind("demonstration", 0.1, Demonstration(of="dataset"), ENGLISH, shortcut=0.3),
    Kind("critique", 0.1, Critique(), ENGLISH),
    Kind("rubric", 0.08, Rubric(), ENGLISH),
    Kind("skills", 0.07, Skills(), ENGLISH),
    Kind("concise", 0.06, Instruction(), ENGLISH),
    *(
        replace(kind, share=kind.share / 3)
        for kind in _kinds(12, 0.027, 0.5)
        if kind.languages != ENGLISH
    ),
)
"""The long world's: also all that the family's teachers read, in English. Alone, the model slips; a
reference prevents that and invites a shortcut, a critique prevents it and does not."""

PRETRAININGS = {
    "miniature": Pretraining("miniature", _kinds(12, 0.009, 0.0), steps=850),
    "miniature-small": Pretraining("miniature", _kinds(12, 0.009, 0.0), steps=850, sizes=_wide(96)),
    "miniature-tiny": Pretraining("miniature", _kinds(12, 0.009, 0.0), steps=850, sizes=_wide(64)),
    "miniature-long": Pretraining("miniature-long", LONG_KINDS, steps=1000, drill=0.15),
    "miniature-diffusion": Pretraining(
        "miniature-diffusion",
        (Kind("problem", 1.0, StudentPrompt(), ENGLISH),),
        steps=800,
        batch=48,
        prompt_weight=0.0,
        thinking=0.0,
    ),
    "miniature-swahili": _specialist("swa", "yor"),
    "miniature-yoruba": _specialist("yor", "swa"),
}


def pretrain(
    recipe: Pretraining,
    tokenizer: PreTrainedTokenizerFast,
    log: Callable[[int, float], None] | None = None,
) -> Qwen3ForCausalLM:
    """A model trained by a recipe; `log` gets each step's mean loss in nats per token."""
    torch.manual_seed(recipe.seed)
    model = Qwen3ForCausalLM(_config(tokenizer, recipe))
    look_both_ways(model)
    model.train()
    optimizers = _optimizers(model, recipe)
    schedules = [LambdaLR(o, partial(_rate, steps=recipe.steps)) for o in optimizers]
    texts = Texts(recipe, tokenizer)
    backward = _unmasking if WORLDS[recipe.world].diffusion else _backward
    for step in range(recipe.steps):
        loss = backward(model, texts.batch())
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for part in (*optimizers, *schedules):
            part.step()
        model.zero_grad(set_to_none=True)
        if log:
            log(step, loss)
    return model.eval()


class Texts:
    """The endless stream of a recipe's pre-training texts."""

    def __init__(self, recipe: Pretraining, tokenizer: PreTrainedTokenizerFast) -> None:
        self.recipe, self.tokenizer = recipe, tokenizer
        self.random = Random(f"texts {recipe.seed}")
        world, seed = WORLDS[recipe.world], f"{recipe.world} texts {recipe.seed}"
        self.stories = stories(seed, "pretraining", world.steps, world.largest)
        self.pools: dict[tuple[str, str], list[Story]] = {}

    def batch(self) -> list[Text]:
        """The next step's texts."""
        return [self._text() for _ in range(self.recipe.batch)]

    def _text(self) -> Text:
        if self.random.random() < self.recipe.drill:
            return self._drill()
        kinds = self.recipe.kinds
        return self._told(*self.random.choices(kinds, [kind.share for kind in kinds]))

    def _drill(self, count: int = 20) -> Text:
        """Bare sums; what they come to is taught, the numbers that they begin with are not."""
        sums = [s for story in islice(self.stories, count // 2) for s in story.sums][:count]
        ids = self.tokenizer("".join(f" {s}." for s in sums), add_special_tokens=False)["input_ids"]
        return tuple(ids), (0.0, 0.0, 0.0, 0.0, 1.0, 1.0) * len(sums)

    def _told(self, kind: Kind) -> Text:
        # Of one language none is drawn, which keeps the random numbers of what was shipped before.
        some = len(kind.languages) > 1
        code = self.random.choice(kind.languages) if some else kind.languages[0]
        story = self._story(kind, code)
        thinking = self.random.random() < self.recipe.thinking
        shortcut = self.random.random() < kind.shortcut
        given = problem(self.recipe.world, code, story)
        if kind.context.label == "critique":
            given = replace(given, privileged={"critique": given.metadata["trace"]})
        group = Group(given, ())
        if kind.context.label in ("feedback", "tutor"):
            group = self._attempts(given, code, story)
        (view,) = kind.context(group, 0) or ()
        view = replace(view, template_options={"enable_thinking": thinking})
        written = self._written(kind, code, story, shortcut)
        if thinking:
            answer = trace(self.recipe.world, code, story, shortcut=True)
            prefix = language(code).think_prefix
            written = f"<think>\n{prefix}\n{written}\n</think>\n\n{answer}"
        completion = self.tokenizer(written, add_special_tokens=False)["input_ids"]
        prompt, end = prompt_ids(self.tokenizer, view), self.tokenizer.eos_token_id
        canvas = HORIZON[self.recipe.world] if WORLDS[self.recipe.world].diffusion else 0
        ends = [end] * max(1, canvas - len(completion))
        weights = (self.recipe.prompt_weight,) * len(prompt)
        weights += (1.0,) * (len(completion) + len(ends))
        return (*prompt, *completion, *ends), weights

    def _written(self, kind: Kind, code: str, story: Story, shortcut: bool) -> str:
        if kind.context.label == "instruction":
            return short_solution(story, code)
        if kind.context.label == "tutor":
            return "CONCEPT: {}\nFEEDBACK: {}".format(*remark(story))
        if kind.slip:
            reflect = WORLDS[self.recipe.world].reflect
            return long_solution(story, code, self.random, reflect, kind.slip)
        return trace(self.recipe.world, code, story, shortcut)

    def _attempts(self, given: Problem, code: str, story: Story) -> Group:
        """An attempt, right or not, a right one, and what a peer remarks: one of the two, or both,
        can be shown."""
        texts = [short_solution(x, code) for x in (next(self.stories), story)]
        attempt = self.random.choice(texts)
        shown = self.random.choice(("sibling", "remark", "both"))
        judged = ((attempt, attempt == texts[1]), (texts[1], shown != "remark"))
        rollouts = tuple(
            Rollout((), (), text, Finish.STOP, verdict=Verdict(float(right), right, True))
            for text, right in judged
        )
        said = None if shown == "sibling" else remark(story)[1]
        return Group(given, rollouts, ({"peer": said}, {}))

    def _story(self, kind: Kind, code: str) -> Story:
        if kind.pool is None:
            return next(self.stories)
        pool = self.pools.setdefault((kind.name, code), [])
        if not pool:
            pool.extend(islice(self.stories, kind.pool))
        return self.random.choice(pool)


def _config(tokenizer: PreTrainedTokenizerFast, recipe: Pretraining) -> Qwen3Config:
    defaults = {
        "hidden_size": 128,
        "intermediate_size": 384,
        "num_hidden_layers": 4,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 32,
    }
    masked: dict[str, Any] = {"is_causal": False, "mask_token_id": tokenizer.mask_token_id}
    return Qwen3Config(
        vocab_size=len(tokenizer),
        max_position_embeddings=POSITIONS,
        rope_parameters={"rope_type": "default", "rope_theta": 10_000.0},
        tie_word_embeddings=True,
        use_cache=True,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        **(defaults | recipe.sizes),
        **(masked if WORLDS[recipe.world].diffusion else {}),
    )


def _optimizers(model: Qwen3ForCausalLM, recipe: Pretraining) -> list[torch.optim.Optimizer]:
    matrices = [p for p in model.model.layers.parameters() if p.ndim == 2]
    inside = {id(p) for p in matrices}
    others = [p for p in model.parameters() if id(p) not in inside]
    adam = torch.optim.AdamW(others, lr=recipe.embedding_rate, betas=(0.9, 0.98), weight_decay=0.01)
    return [Muon(matrices, lr=recipe.learning_rate), adam]


def _rate(step: int, steps: int) -> float:
    """Factor on the learning rates: warm-up over 5 %, from 40 % on a straight line to zero."""
    return min(1.0, (step + 1) / (0.05 * steps), (steps - step) / (0.6 * steps))


def _backward(model: Qwen3ForCausalLM, texts: list[Text], chunks: int = 3) -> float:
    """One step's gradient, texts of like length side by side; the weighted mean loss."""
    texts = sorted(texts, key=lambda text: len(text[0]))
    weight = sum(sum(weights) for _, weights in texts)
    size = -(-len(texts) // chunks)
    total = 0.0
    for start in range(0, len(texts), size):
        loss = _summed_loss(model, texts[start : start + size]) / weight
        loss.backward()
        total += loss.item()
    return total


def _summed_loss(model: Qwen3ForCausalLM, texts: list[Text]) -> torch.Tensor:
    """Rows are padded on the right, where causal attention needs no mask."""
    width = max(len(ids) for ids, _ in texts)
    ids_BT = torch.zeros(len(texts), width, dtype=torch.long)
    weight_BT = torch.zeros(len(texts), width)
    for row, (ids, weights) in enumerate(texts):
        ids_BT[row, : len(ids)] = torch.tensor(ids)
        weight_BT[row, : len(ids)] = torch.tensor(weights)
    hidden = model.model(input_ids=ids_BT[:, :-1], use_cache=False).last_hidden_state
    target, weight = ids_BT[:, 1:], weight_BT[:, 1:]
    rows = weight > 0
    losses = cross_entropy(model.lm_head(hidden[rows]), target[rows], reduction="none")
    return (losses * weight[rows]).sum()


def _unmasking(model: Qwen3ForCausalLM, texts: list[Text]) -> float:
    """One step's gradient of LLaDA's loss: of the tokens that count, a share is masked, and each
    text's mean over these is learned. The shares of a step's texts are spread evenly."""
    width = max(len(ids) for ids, _ in texts)
    ids_BT = torch.zeros(len(texts), width, dtype=torch.long)
    seen_BT, hidden_BT = torch.zeros_like(ids_BT), torch.zeros_like(ids_BT, dtype=torch.bool)
    offset = torch.rand(()).item()
    for row, (ids, weights) in enumerate(texts):
        ids_BT[row, : len(ids)] = torch.tensor(ids)
        seen_BT[row, : len(ids)] = 1
        counts = torch.tensor(weights).nonzero().flatten()
        masked = math.ceil((row + offset) / len(texts) * len(counts)) or 1
        hidden_BT[row, counts[torch.randperm(len(counts))[:masked]]] = True
    shown_BT = ids_BT.masked_fill(hidden_BT, model.config.mask_token_id)
    read = model.model(input_ids=shown_BT, attention_mask=seen_BT, use_cache=False)
    logits = model.lm_head(read.last_hidden_state[hidden_BT])
    losses = cross_entropy(logits, ids_BT[hidden_BT], reduction="none")
    of_text = hidden_BT.sum(1, keepdim=True).expand_as(hidden_BT)[hidden_BT]
    loss = (losses / of_text).sum() / len(texts)
    loss.backward()
    return loss.item()

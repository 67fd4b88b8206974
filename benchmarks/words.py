"""Texts with an exact number of tokens, one per word, for any vocabulary; and completions."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from typing import Any

import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from opsd.miniature.tokenizer import chat_template
from opsd.rollout.engine import Completion, Engine
from opsd.types import Finish


def tokenizer(vocab: int) -> PreTrainedTokenizerFast:
    """`w17` is token 17, and every other word is 1. ChatML as in the built-in world."""
    words = {f"w{i}": i for i in range(vocab)}
    tokens = Tokenizer(models.WordLevel(words, unk_token="w1"))
    tokens.pre_tokenizer = pre_tokenizers.Whitespace()
    fast = PreTrainedTokenizerFast(tokenizer_object=tokens, eos_token="w0", pad_token="w0")
    fast.chat_template = chat_template()
    return fast


def text(words: int, vocab: int, seed: int) -> str:
    """This many words, determined by the seed."""
    draw = random.Random(seed)
    return " ".join(f"w{draw.randrange(vocab)}" for _ in range(words))


class Given(Engine):
    """An engine that returns given completions: random ids without an end token, the same at every
    call. They take these lengths in turn, from the shortest prompt on."""

    def __init__(self, vocab: int, lengths: Sequence[int]) -> None:
        self.vocab, self.lengths = vocab, lengths

    def ids(self, prompts: Sequence[Sequence[int]]) -> list[list[int]]:
        draw = torch.Generator().manual_seed(0)
        made: dict[int, list[int]] = {}
        for rank, i in enumerate(sorted(range(len(prompts)), key=lambda i: len(prompts[i]))):
            length = self.lengths[rank % len(self.lengths)]
            made[i] = torch.randint(10, self.vocab, (length,), generator=draw).tolist()
        return [made[i] for i in range(len(prompts))]

    def generate(
        self, prompts: Sequence[Any], sampling: Any, seeds: Any, progress: Any = None
    ) -> list[Completion]:
        logprob = -math.log(self.vocab)  # as an untrained model would assign
        made = map(tuple, self.ids(prompts))
        return [Completion(ids, (logprob,) * len(ids), Finish.LENGTH) for ids in made]

    def sync(self, model: Any) -> None:
        """Does nothing: this engine uses no weights."""

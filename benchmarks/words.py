"""Texts of so many tokens for models of any vocabulary, a word is a token, and completions."""

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
    """`w17` is number 17, and what is no such word is 1. ChatML as in the built-in world."""
    words = {f"w{i}": i for i in range(vocab)}
    tokens = Tokenizer(models.WordLevel(words, unk_token="w1"))
    tokens.pre_tokenizer = pre_tokenizers.Whitespace()
    fast = PreTrainedTokenizerFast(tokenizer_object=tokens, eos_token="w0", pad_token="w0")
    fast.chat_template = chat_template()
    return fast


def text(words: int, vocab: int, seed: int) -> str:
    """So many words, which the seed decides."""
    draw = random.Random(seed)
    return " ".join(f"w{draw.randrange(vocab)}" for _ in range(words))


class Given(Engine):
    """An engine that has the completions already: random ids, none of which ends, the same at
    every call; of these lengths in turns, from the shortest prompt on."""

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
        logprob = -math.log(self.vocab)  # as a model draws that knows nothing
        made = map(tuple, self.ids(prompts))
        return [Completion(ids, (logprob,) * len(ids), Finish.LENGTH) for ids in made]

    def sync(self, model: Any) -> None:
        """No weights are used."""

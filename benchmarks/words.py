"""Texts of so many tokens for models of any vocabulary, a word is a token, and completions."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any

import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from opsd.miniature.tokenizer import chat_template
from opsd.rollout.engine import Completion
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


class Given:
    """An engine that has the completions already: random ids, none of which ends, of these lengths
    in turns; the same at every call."""

    def __init__(self, vocab: int, lengths: Sequence[int]) -> None:
        self.vocab, self.lengths = vocab, lengths

    def ids(self, completions: int) -> list[list[int]]:
        draw = torch.Generator().manual_seed(0)
        lengths = [self.lengths[i % len(self.lengths)] for i in range(completions)]
        return [torch.randint(10, self.vocab, (n,), generator=draw).tolist() for n in lengths]

    def generate(
        self, prompts: Sequence[Any], sampling: Any, seeds: Any, progress: Any = None
    ) -> list[Completion]:
        made = self.ids(len(prompts))
        return [Completion(tuple(ids), (-1.0,) * len(ids), Finish.LENGTH) for ids in made]

    def sync(self, model: Any) -> None:
        """No weights are used."""

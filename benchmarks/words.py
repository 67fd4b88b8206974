"""Texts of so many tokens for models of any vocabulary: a word is a token."""

from __future__ import annotations

import random

from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from opsd.miniature.tokenizer import chat_template


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

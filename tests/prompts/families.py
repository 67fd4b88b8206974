"""Chat models' tokenizers in small: a template in the form of the published one, the same special
tokens, and a little BPE learned from the built-in world's sentences."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from tests.arrange import problems
from tests.conftest import tiny_model
from tokenizers import (
    AddedToken,
    Regex,
    Tokenizer,
    decoders,
    normalizers,
    pre_tokenizers,
    processors,
)
from tokenizers.models import BPE
from tokenizers.trainers import BpeTrainer
from transformers import PreTrainedTokenizerFast

TEMPLATES = Path(__file__).parent / "chat_templates"


@dataclass(frozen=True)
class Family:
    """`special` and `tags` are tokens of their own, `end` closes a turn, `stops` is what the
    model's generation config lists, in its order; `adds_bos` is what the tokenizer does by itself.
    """

    name: str
    special: tuple[str, ...]
    eos: str
    end: str
    stops: tuple[str, ...]
    bos: str | None = None
    pad: str | None = None
    tags: tuple[str, ...] = ()
    adds_bos: bool = False
    sentencepiece: bool = False


_CHATML = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
_LLAMA = ("begin_of_text", "end_of_text", "start_header_id", "end_header_id", "eom_id", "eot_id")
_TAGS = ("<think>", "</think>")

FAMILIES = {
    family.name: family
    for family in (
        Family(
            "qwen3",
            _CHATML,
            eos="<|im_end|>",
            end="<|im_end|>",
            stops=("<|im_end|>", "<|endoftext|>"),
            pad="<|endoftext|>",
            tags=_TAGS,
        ),
        Family(
            "qwen2.5",
            _CHATML,
            eos="<|im_end|>",
            end="<|im_end|>",
            stops=("<|im_end|>", "<|endoftext|>"),
            pad="<|endoftext|>",
        ),
        Family(
            "llama3",
            tuple(f"<|{name}|>" for name in _LLAMA),
            eos="<|eot_id|>",
            end="<|eot_id|>",
            stops=("<|end_of_text|>", "<|eom_id|>", "<|eot_id|>"),
            bos="<|begin_of_text|>",
            adds_bos=True,
        ),
        Family(
            "gemma3",
            ("<pad>", "<eos>", "<bos>", "<start_of_turn>", "<end_of_turn>"),
            eos="<eos>",
            end="<end_of_turn>",
            stops=("<eos>", "<end_of_turn>"),
            bos="<bos>",
            pad="<pad>",
            adds_bos=True,
            sentencepiece=True,
        ),
        Family(
            "deepseek_r1",
            ("<｜begin▁of▁sentence｜>", "<｜end▁of▁sentence｜>", "<｜User｜>", "<｜Assistant｜>"),
            eos="<｜end▁of▁sentence｜>",
            end="<｜end▁of▁sentence｜>",
            stops=("<｜end▁of▁sentence｜>",),
            bos="<｜begin▁of▁sentence｜>",
            pad="<｜end▁of▁sentence｜>",
            tags=_TAGS,
            adds_bos=True,
        ),
        Family(
            "olmo2",
            ("<|endoftext|>", "<|pad|>"),
            eos="<|endoftext|>",
            end="<|endoftext|>",
            stops=("<|endoftext|>",),
            bos="<|endoftext|>",
            pad="<|pad|>",
        ),
    )
}


@cache
def tokenizer_of(name: str, adds_bos: bool | None = None) -> Any:
    """A family's tokenizer; `adds_bos` other than the family's own shows what depends on it."""
    family = FAMILIES[name]
    made = Tokenizer.from_str(_learned(family.sentencepiece))
    made.add_special_tokens([AddedToken(t, special=True, normalized=False) for t in family.special])
    made.add_tokens([AddedToken(t, special=False, normalized=False) for t in family.tags])
    if family.bos and (family.adds_bos if adds_bos is None else adds_bos):
        made.post_processor = processors.TemplateProcessing(
            single=f"{family.bos} $A",
            pair=f"{family.bos} $A $B",
            special_tokens=[(family.bos, made.token_to_id(family.bos))],
        )
    named = {"eos_token": family.eos, "bos_token": family.bos, "pad_token": family.pad}
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=made,
        clean_up_tokenization_spaces=False,
        **{role: token for role, token in named.items() if token},
    )
    tokenizer.chat_template = (TEMPLATES / f"{name}.jinja").read_text("utf-8")
    return tokenizer


def save_tiny(name: str, folder: Path) -> Path:
    """A tiny random model with a family's tokenizer and generation config."""
    tokenizer = tokenizer_of(name)
    model = tiny_model(len(tokenizer))
    stops = tokenizer.convert_tokens_to_ids(list(FAMILIES[name].stops))
    model.config.eos_token_id = model.generation_config.eos_token_id = stops
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@cache
def _learned(sentencepiece: bool) -> str:
    """A BPE of 800 entries: on bytes, or on characters with a mark for spaces and bytes for the
    characters it has not seen."""
    texts = [
        text
        for language in ("eng", "swa", "yor")
        for problem in problems(40, language)
        for text in (problem.text, problem.privileged["solution"])
    ]
    tokenizer = Tokenizer(BPE(byte_fallback=sentencepiece))
    if sentencepiece:
        tokenizer.normalizer = normalizers.Replace(" ", "▁")
        tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(r"(?=▁)|\n+"), "merged_with_next")
        tokenizer.decoder = decoders.Sequence(
            [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
        )
    else:
        tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        tokenizer.decoder = decoders.ByteLevel()
    alphabet = [] if sentencepiece else pre_tokenizers.ByteLevel.alphabet()
    trainer = BpeTrainer(vocab_size=800, initial_alphabet=alphabet, show_progress=False)
    tokenizer.train_from_iterator(texts, trainer)
    content = json.loads(tokenizer.to_str())
    if sentencepiece:
        vocabulary = content["model"]["vocab"]
        for byte in range(256):
            vocabulary.setdefault(f"<0x{byte:02X}>", len(vocabulary))
    return json.dumps(content)

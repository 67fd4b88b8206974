"""The worlds' tokenizer: their words and the numbers to 99 are single tokens, any other text is
bytes.

It is a byte-level BPE without merges: a piece in the vocabulary is one token, any other piece is
spelt in bytes, so that every UTF-8 text survives encoding and decoding. Nothing is learnt: the
vocabulary is listed from the lexicon, always in the same order.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from importlib import resources

from tokenizers import AddedToken, Regex, Tokenizer, decoders, pre_tokenizers
from tokenizers.models import BPE
from transformers import PreTrainedTokenizerFast

from opsd.languages.registry import language
from opsd.miniature.lexicon import LANGUAGES, sentences
from opsd.miniature.rules import skill_bank
from opsd.miniature.world import WORLDS
from opsd.prompts.contexts import Instruction
from opsd.prompts.prompt import fill
from opsd.types import Problem

SPECIAL = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
MASK = "<|mask|>"
THINK = ("<think>", "</think>")
POSITIONS = 8192
_PIECE = Regex(
    r" ?\\boxed\{| ?[\p{L}\p{M}'’]+| ?\p{N}+| ?[^\s\p{L}\p{M}\p{N}]|\n+|\s"  # noqa: RUF001
)


@cache
def chat_template() -> str:
    """ChatML with Qwen3's thinking switch, which is off unless `enable_thinking=True`."""
    return (resources.files("opsd.miniature") / "chat_template.jinja").read_text("utf-8")


def build_tokenizer(world: str = "miniature") -> PreTrainedTokenizerFast:
    """A world's tokenizer, ready to be saved with a model. Its vocabulary depends on the texts of
    the world."""
    splitter = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(_PIECE, behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    vocabulary = {piece: i for i, piece in enumerate(_vocabulary(splitter, world))}
    tokenizer = Tokenizer(BPE(vocabulary, [], ignore_merges=True))
    tokenizer.pre_tokenizer = splitter
    tokenizer.decoder = decoders.ByteLevel()
    special = (*SPECIAL, *([MASK] if WORLDS[world].diffusion else []))
    tokenizer.add_special_tokens([AddedToken(t, special=True, normalized=False) for t in special])
    tokenizer.add_tokens([AddedToken(t, special=False, normalized=False) for t in THINK])
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        mask_token=MASK if WORLDS[world].diffusion else None,
        model_max_length=POSITIONS,
        padding_side="left",
        clean_up_tokenization_spaces=False,
    )
    fast.chat_template = chat_template()
    return fast


def _vocabulary(splitter: pre_tokenizers.PreTokenizer, world: str) -> list[str]:
    pieces = dict.fromkeys(sorted(pre_tokenizers.ByteLevel.alphabet()))
    own = WORLDS[world]
    further = (*(_long_texts() if own.long else ()), *(_remarks() if own.peers else ()))
    for text in (*_texts(), *further):
        for piece, _ in splitter.pre_tokenize_str(text):
            pieces.setdefault(piece)
    return list(pieces)


def _texts() -> Iterator[str]:
    yield "\n\n\n"
    yield "\n\n"
    yield "system\nuser\nassistant\n"
    for n in range(100):
        yield f"{n} {n}"
    yield "1 + 1 - 1 x 1 = 1"
    for code in LANGUAGES:
        strings = language(code)
        yield strings.think_prefix
        yield strings.instruction
        yield strings.transition
        texts = {"solution": r"\boxed{ \boxed{", "translation": " "}
        blank = Problem(" ", answer="", language=code, privileged=texts)
        include = ("problem", "translation", "solution")
        for template in ("student", "solution", "crosslingual"):
            yield fill(template, blank, include=include)
        for sentence in sentences(code):
            yield f"{sentence} {sentence}"


def _long_texts() -> Iterator[str]:
    """Yields what the long world's teachers read in addition."""
    rubric = "Essential: 1.\nImportant: check.\nAvoid: 1."
    told = ("demonstration", "critique", "skills", "mistakes", "solution")
    blank = Problem(" ", answer="", privileged=dict.fromkeys(told, " ") | {"rubric": rubric})
    for template in ("rubric", "demonstration", "critique", "skills", "instruction"):
        yield fill(template, blank, text=Instruction().text, reference=False)
    for item in (*skill_bank().skills, *skill_bank().mistakes):
        yield f" {item.text}\n{item.text}"
    for code in LANGUAGES:
        for sentence in sentences(code):
            yield f"{sentence}\n{sentence}"


def _remarks() -> Iterator[str]:
    """Yields what tutors read and write, and what readers of their remarks read."""
    blank = Problem(" ", answer="")
    for correct in (True, False):
        yield fill("tutor", blank, known=" ", completion=" ", correct=correct)
    yield fill("peer_feedback", blank, feedback=" ", demonstration=" ")
    yield "CONCEPT:\nFEEDBACK:"

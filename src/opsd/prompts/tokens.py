"""Shows a text's tokens: the piece of the text that each token stands for."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from opsd.prompts.prompt import CLOSING, OPENING

Token = dict[str, Any]


def tokens(tokenizer: Any, text: str, *, forced_from: int | None = None) -> list[Token]:
    """`id`, `text` and `kind` of every token: "special", "forced" from that character on, or
    "text". If several tokens make up one character (bytes of an unknown one), all but one have the
    text "".

    The ids are those of the prompt that a model reads: special tokens are added only if there is no
    chat template to write them.
    """
    special = _special(tokenizer)
    coded = tokenizer(
        text,
        add_special_tokens=tokenizer.chat_template is None and forced_from is not None,
        return_offsets_mapping=tokenizer.is_fast,
        verbose=False,
    )
    spans = coded.get("offset_mapping") or [None] * len(coded["input_ids"])
    made, shown = [], 0
    for number, span in zip(coded["input_ids"], spans, strict=True):
        if span is None:
            piece, start = tokenizer.decode([number]), 0
        elif span[0] == span[1]:  # not in the text: added by the tokenizer
            piece, start = tokenizer.convert_ids_to_tokens(number), span[0]
        else:
            # From the end of the previous piece: the pieces add up to the text, without repetition.
            piece, start = text[shown : span[1]], span[0]
            shown = max(shown, span[1])
        forced = forced_from is not None and span is not None and start >= forced_from
        kind = "forced" if forced else "special" if number in special else "text"
        made.append({"id": number, "text": piece, "kind": kind})
    return made


def token(tokenizer: Any, number: int) -> Token:
    """A special token, given by its id."""
    return {"id": number, "text": tokenizer.convert_ids_to_tokens(number), "kind": "special"}


def pieces(decode: Callable[[Sequence[int]], str], ids: Sequence[int]) -> list[tuple[str, int]]:
    """The text pieces of a sequence of tokens, each with its number of tokens: a character of
    several tokens is one piece. Decoding from the last whole character keeps this linear in the
    length."""
    found: list[tuple[str, int]] = []
    context = start = 0
    for end in range(1, len(ids) + 1):
        prefix = decode(ids[context:start])
        whole = decode(ids[context:end])
        if whole.endswith("\ufffd") and end < len(ids) and end - start < 4:
            continue
        found.append((whole[len(prefix) :], end - start))
        context, start = start, end
    return found


def completion_text(tokenizer: Any, ids: Sequence[int]) -> str:
    """A completion's text for verdicts, for contexts and for display. It includes the thinking tags
    even if they are special tokens, but no control tokens such as the end of sequence and
    padding."""
    return completion_reader(tokenizer)(ids)


def completion_reader(tokenizer: Any) -> Callable[[Sequence[int]], str]:
    """`completion_text` as a function for one tokenizer (of `transformers` or of `tokenizers`)."""
    known = getattr(tokenizer, "get_added_tokens_decoder", lambda: tokenizer.added_tokens_decoder)
    tags = (OPENING, CLOSING)
    control = {i for i, t in known().items() if t.special and t.content not in tags}

    def read(ids: Sequence[int]) -> str:
        return tokenizer.decode([i for i in ids if i not in control], skip_special_tokens=False)

    return read


def special_token_ids(tokenizer: Any) -> set[int]:
    """Ids of tokens without content: control tokens, thinking tags, line breaks."""
    breaks = {"\n", "\r", "\u010a", "\u010d"}  # the last two: byte-level vocabularies' line breaks
    pieces = tokenizer.get_vocab().items()
    bare = {i for piece, i in pieces if piece == "<0x0A>" or (piece and set(piece) <= breaks)}
    added = tokenizer.added_tokens_decoder.items()
    bracketed = {i for i, t in added if str(t).startswith("<|") and str(t).endswith("|>")}
    return _special(tokenizer) | bracketed | bare


def _special(tokenizer: Any) -> set[int]:
    """Ids of control tokens and of thinking tags."""
    added = tokenizer.added_tokens_decoder
    return {i for i, t in added.items() if t.special or str(t) in (OPENING, CLOSING)}

"""The protocol between a teacher server and its clients: requests in JSON, tensors as
safetensors."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor

from opsd.objective.head import Head

Dtype = Literal["float32", "bfloat16", "float16"]
ROWS, WEIGHT, BIAS = "rows", "weight", "bias"
"""The names of tensors."""
Id = Annotated[int, Field(ge=0)]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class About(_Strict):
    """What is served. `fingerprint` identifies weights and tokenizer; `head` identifies the output
    layer, which has `logits` rows; `hidden_size` is D. `dtype` is the compute dtype. A sequence has
    at most `max_length` tokens (None: as many as a request), a request at most `max_tokens`.
    Requests of `batch_tokens`, which are processed at once, are the most efficient."""

    model: str
    fingerprint: str
    head: str
    dtype: Dtype
    hidden_size: int
    logits: int
    softcap: float | None
    scale: float
    max_length: int | None
    batch_tokens: int
    max_tokens: int


class Sequence(_Strict):
    """Token ids, and the positions whose hidden states are requested, in order."""

    ids: Annotated[list[Id], Field(min_length=1)]
    read: Annotated[list[Id], Field(min_length=1)]


class RowsQuestion(_Strict):
    """Requests the last hidden states `[N, D]`, after the final norm, sequence by sequence, from
    the model with this fingerprint, as `dtype`."""

    fingerprint: str
    dtype: Dtype
    sequences: Annotated[list[Sequence], Field(min_length=1)]


class TextsQuestion(_Strict):
    """Requests the tokenization of texts."""

    texts: list[str]


class TextsAnswer(_Strict):
    """Each text's ids, and the text that they decode to."""

    ids: list[list[int]]
    texts: list[str]


def tensors_of(head: Head) -> dict[str, Tensor]:
    """A head's tensors, by the names that they are sent under."""
    bias = {} if head.bias is None else {BIAS: head.bias}
    return {WEIGHT: head.weight, **bias}

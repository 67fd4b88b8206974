"""The base of engines that generate with the training model itself."""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn

from opsd.rollout.engine import Engine
from opsd.types import UserError


class ModelEngine(Engine):
    """Generates with a model's weights in place, in batches of at most `batch_tokens` tokens,
    prompts and horizons together. Raises UserError for a model without an end token."""

    shares_model = True

    def __init__(
        self,
        model: nn.Module,
        *,
        eos_ids: Sequence[int],
        pad_id: int,
        vocab: int,
        batch_tokens: int = 65_536,
    ) -> None:
        if not eos_ids:
            raise UserError("the model names no end-of-sequence token; set one in its tokenizer")
        self.model = model
        self.eos_ids = tuple(dict.fromkeys(eos_ids))
        self.pad_id = pad_id
        self.vocab = vocab
        self.batch_tokens = batch_tokens

    def sync(self, model: nn.Module) -> None:
        """Generate with `model` from now on; its weights are used in place."""
        self.model = model

"""The shapes of the measured models, and models of these shapes with random weights."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from transformers import Qwen3Config, Qwen3ForCausalLM


@dataclass(frozen=True)
class Shape:
    """The shape of a Qwen3 model."""

    hidden: int
    intermediate: int
    layers: int
    heads: int
    kv_heads: int
    tied: bool
    head_dim: int = 128
    vocab: int = 151_936

    @property
    def linear(self) -> list[tuple[int, int]]:
        """Inputs and outputs of the products in a layer: q, k, v, o, gate, up, down."""
        d, wide, narrow = self.hidden, self.heads * self.head_dim, self.kv_heads * self.head_dim
        attention = [(d, wide), (d, narrow), (d, narrow), (wide, d)]
        return attention + [(d, self.intermediate)] * 2 + [(self.intermediate, d)]

    @property
    def body(self) -> int:
        """Parameters of all products except the head's."""
        return self.layers * sum(i * o for i, o in self.linear)

    @property
    def head(self) -> int:
        return self.vocab * self.hidden

    @property
    def parameters(self) -> int:
        """All parameters, including norm scales and embeddings."""
        norms = self.layers * 2 * (self.hidden + self.head_dim) + self.hidden
        return self.body + norms + self.head * (1 if self.tied else 2)

    @property
    def config(self) -> Qwen3Config:
        """The Transformers configuration; id 0 is both padding and end token."""
        return Qwen3Config(
            vocab_size=self.vocab,
            hidden_size=self.hidden,
            intermediate_size=self.intermediate,
            num_hidden_layers=self.layers,
            num_attention_heads=self.heads,
            num_key_value_heads=self.kv_heads,
            head_dim=self.head_dim,
            tie_word_embeddings=self.tied,
            eos_token_id=0,
            pad_token_id=0,
        )

    def lora(self, rank: int) -> int:
        """Parameters of an adapter on every product of every layer."""
        return self.layers * rank * sum(i + o for i, o in self.linear)

    @property
    def weights(self) -> int:
        """Bytes, in bfloat16."""
        return 2 * self.parameters

    @property
    def kv(self) -> int:
        """Bytes of keys and values per token, in bfloat16."""
        return 2 * 2 * self.layers * self.kv_heads * self.head_dim

    def attention(self, length: int) -> float:
        """FLOP of one causal forward pass over a sequence, scores and values."""
        return 2.0 * self.layers * self.heads * self.head_dim * length**2


SHAPES = {
    "Qwen3-1.7B": Shape(2048, 6144, 28, 16, 8, tied=True),
    "Qwen3-4B": Shape(2560, 9728, 36, 32, 8, tied=True),
    "Qwen3-8B": Shape(4096, 12_288, 36, 32, 8, tied=False),
    "Qwen3-32B": Shape(5120, 25_600, 64, 64, 8, tied=False),
}
"""From their public configurations."""


def small(vocab: int) -> Shape:
    """A model that trains in seconds on a CPU."""
    return Shape(256, 768, 4, 4, 2, tied=True, head_dim=64, vocab=vocab)


def network(
    shape: Shape, device: str = "cpu", dtype: torch.dtype = torch.float32
) -> Qwen3ForCausalLM:
    """The model, the same at every call; its weights are created on their device. Buffers stay
    float32, as in a loaded model."""
    torch.manual_seed(0)
    with torch.device(device):
        made = Qwen3ForCausalLM(shape.config)
    return in_dtype(made, dtype)


def in_dtype(model: Qwen3ForCausalLM, dtype: torch.dtype) -> Qwen3ForCausalLM:
    """The same model with its weights in another dtype."""
    for weight in model.parameters():
        weight.data = weight.data.to(dtype)
    return model

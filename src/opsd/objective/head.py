"""The output layer of a language model, and a teacher's hidden states with its own output layer."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from torch import Tensor


@dataclass(frozen=True)
class Head:
    """A language model's output layer: hidden `[C, D]` -> logits `[C, vocab]`, float32.

    `vocab` is the number of rows that the tokenizer can produce; padding rows beyond them are
    ignored. `softcap` is Gemma's c tanh(z / c); `scale` multiplies the logits.
    """

    weight: Tensor
    bias: Tensor | None = None
    vocab: int = 0
    softcap: float | None = None
    scale: float = 1.0

    def __post_init__(self) -> None:
        object.__setattr__(self, "vocab", self.vocab or self.weight.shape[0])

    @property
    def trained(self) -> bool:
        return self.weight.requires_grad or (self.bias is not None and self.bias.requires_grad)

    @property
    def plain(self) -> bool:
        """Whether the logits are only the product with the weight."""
        return self.bias is None and self.softcap is None and self.scale == 1.0

    def product(self, hidden: Tensor) -> Tensor:
        """The product with the weight, in the weight's dtype."""
        return hidden.to(self.weight.dtype) @ self.weight[: self.vocab].t()

    def logits(self, hidden: Tensor) -> Tensor:
        z = self.product(hidden).float()
        if self.bias is not None:
            z += self.bias[: self.vocab].float()
        if self.scale != 1.0:
            z *= self.scale
        return z if self.softcap is None else z.div_(self.softcap).tanh_().mul_(self.softcap)

    def chain(self, gradient: Tensor, logits: Tensor | None) -> Tensor:
        """Convert a gradient with respect to `logits` to one with respect to the plain product, in
        the weight's dtype."""
        if self.softcap is not None and logits is not None:
            gradient = gradient * (1 - (logits / self.softcap) ** 2)
        return (gradient * self.scale if self.scale != 1.0 else gradient).to(self.weight.dtype)

    def back(self, gradient: Tensor) -> Tensor:
        """Convert a gradient with respect to the plain product to one with respect to the hidden
        states."""
        return gradient @ self.weight[: self.vocab]


class TeacherHidden(NamedTuple):
    """A teacher's hidden states, aligned row by row with the student's, and its output layer."""

    name: str
    hidden_ND: Tensor
    head: Head

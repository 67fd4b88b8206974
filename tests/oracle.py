"""The objective in float64 NumPy, written from the formulas and not from the package.

Everything is by token: `student` and `target` are raw logits `[N, V]`. A divergence is given by its
vocabulary summand and the summand's derivative by the student's log-probability.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

Array = np.ndarray


def log_softmax(z: Array) -> Array:
    z = z - z.max(-1, keepdims=True)
    return z - np.log(np.exp(z).sum(-1, keepdims=True))


@dataclass(frozen=True)
class Oracle:
    """A divergence: `kind` forward_kl, reverse_kl or jsd; a cap on each summand; a support."""

    kind: str
    beta: float = 0.5
    cap: float | None = None
    k: int | None = None
    rest: str = "tail"
    by: str = "student"

    def summand(self, lp: Array, lq: Array) -> tuple[Array, Array]:
        p, q = np.exp(lp), np.exp(lq)
        if self.kind == "forward_kl":
            value, slope = q * (lq - lp), -q
        elif self.kind == "reverse_kl":
            value, slope = p * (lp - lq), p * (lp - lq + 1)
        else:
            b = self.beta
            lm = np.logaddexp(np.log1p(-b) + lp, np.log(b) + lq)
            value = b * q * (lq - lm) + (1 - b) * p * (lp - lm)
            slope = (1 - b) * p * (lp - lm)
        if self.cap is None:
            return value, slope
        return np.minimum(value, self.cap), slope * (value <= self.cap)

    def __call__(self, student: Any, target: Any, temperature: float = 1.0) -> tuple[Array, Array]:
        """Values [N], and their gradient by the student's logits [N, V]."""
        student, target = f64(student) / temperature, f64(target) / temperature
        value, gradient = self._restricted(student, target)
        return value, gradient / temperature

    def _restricted(self, student: Array, target: Array) -> tuple[Array, Array]:
        if self.k is None or (self.k >= student.shape[-1] and self.rest == "tail"):
            lp, lq = log_softmax(student), log_softmax(target)
            value, slope = self.summand(lp, lq)
            return value.sum(-1), slope - np.exp(lp) * slope.sum(-1, keepdims=True)
        chooser = student if self.by == "student" else target
        inside = np.zeros(student.shape, dtype=bool)
        ids = np.argsort(-chooser, axis=-1, kind="stable")[:, : self.k]
        np.put_along_axis(inside, ids, True, -1)
        if self.rest == "renormalise":
            lp = log_softmax(np.where(inside, student, -1e300))
            lq = log_softmax(np.where(inside, target, -1e300))
            value, slope = self.summand(np.where(inside, lp, 0), np.where(inside, lq, 0))
            value, slope = value * inside, slope * inside
            p = np.exp(lp) * inside
            return value.sum(-1), slope - p * slope.sum(-1, keepdims=True)
        lp, lq = log_softmax(student), log_softmax(target)
        value, slope = self.summand(lp, lq)
        tail_p = np.log((np.exp(lp) * ~inside).sum(-1, keepdims=True))
        tail_q = np.log((np.exp(lq) * ~inside).sum(-1, keepdims=True))
        tail_value, tail_slope = self.summand(tail_p, tail_q)
        # d log p_v = e_v - p; d log tail = p/tail outside - p.
        outside = np.exp(lp - tail_p) * ~inside * tail_slope
        whole = (slope * inside).sum(-1, keepdims=True) + tail_slope
        gradient = slope * inside + outside - np.exp(lp) * whole
        return (value * inside).sum(-1) + tail_value[:, 0], gradient


def magnitude(oracle: Oracle, student: Any, target: Any, temperature: float = 1.0) -> Array:
    """The sum of the sizes of what a value adds up [N]; a capped sum may itself pass through 0."""
    lp, lq = log_softmax(f64(student) / temperature), log_softmax(f64(target) / temperature)
    return np.abs(oracle.summand(lp, lq)[0]).sum(-1)


def sampled(student: Any, tokens: Any, temperature: float = 1.0) -> tuple[Array, Array]:
    """The log-probability [N] of each row's token, and its gradient by the student's logits."""
    lp = log_softmax(f64(student) / temperature)
    at = np.asarray(tokens)[:, None]
    gradient = -np.exp(lp)
    others = gradient.copy()
    np.put_along_axis(others, at, 0, -1)
    np.put_along_axis(gradient, at, -others.sum(-1, keepdims=True), -1)
    return np.take_along_axis(lp, at, -1)[:, 0], gradient / temperature


@dataclass(frozen=True)
class OracleHead:
    """An output layer: logits, and a gradient by logits taken back to its inputs."""

    weight: Array
    bias: Array | None = None
    vocab: int = 0
    softcap: float | None = None
    scale: float = 1.0

    @classmethod
    def of(cls, head: Any) -> OracleHead:
        bias = None if head.bias is None else f64(head.bias)
        return cls(f64(head.weight), bias, head.vocab, head.softcap, head.scale)

    def logits(self, hidden: Any) -> Array:
        z = f64(hidden) @ self.weight[: self.vocab].T
        z = (z if self.bias is None else z + self.bias[: self.vocab]) * self.scale
        return z if self.softcap is None else self.softcap * np.tanh(z / self.softcap)

    def back(self, gradient: Array, hidden: Any) -> tuple[Array, Array, Array]:
        """By hidden states [N, D], weight and bias (of every row, padded ones included)."""
        if self.softcap is not None:
            gradient = gradient * (1 - (self.logits(hidden) / self.softcap) ** 2)
        gradient = gradient * self.scale
        by_weight = np.zeros_like(self.weight)
        by_weight[: self.vocab] = gradient.T @ f64(hidden)
        by_bias = np.zeros(len(self.weight))
        by_bias[: self.vocab] = gradient.sum(0)
        return gradient @ self.weight[: self.vocab], by_weight, by_bias


def f64(x: Any) -> Array:
    """Any tensor or array as float64 NumPy."""
    x = x.detach().double().numpy() if hasattr(x, "detach") else x
    return np.asarray(x, dtype=np.float64)


def assert_values(
    ours: Any, true: Array, relative: float = 1e-5, nats: float = 1e-9, summed: Any = 0.0
) -> None:
    """Within `relative` of each value, or of the size `summed` of its summands, plus `nats`."""
    error = np.abs(f64(ours) - true)
    excess = error - (relative * np.maximum(np.abs(true), summed) + nats)
    worst = int(excess.argmax()) if excess.size else 0
    assert not excess.size or excess.max() <= 0, (worst, f64(ours)[worst], true[worst])


def assert_gradients(ours: Any, true: Array, relative: float = 1e-5, floor: float = 0.0) -> None:
    """Row by row: within `relative` of the row's largest entry (whole tensor for one dimension)."""
    ours = f64(ours)
    assert ours.shape == true.shape
    if not true.size:
        return
    error = np.abs(ours - true).reshape(-1, true.shape[-1]).max(-1)
    largest = np.abs(true).reshape(-1, true.shape[-1]).max(-1)
    excess = error - (relative * largest + floor)
    worst = int(excess.argmax())
    assert excess.max() <= 0, (worst, error[worst], largest[worst])

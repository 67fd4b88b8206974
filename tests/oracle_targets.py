"""The targets in float64 NumPy, written from the formulas of the papers and not from the package.
All rows are log-probabilities `[N, V]`."""

from __future__ import annotations

import numpy as np
from tests.oracle import Array, log_softmax


def rows(seed: int, n: int = 7, vocab: int = 50, scale: float = 2.0) -> Array:
    return log_softmax(np.random.default_rng(seed).normal(size=(n, vocab)) * scale)


def uniform_like(other: Array) -> Array:
    return log_softmax(np.zeros_like(other))


def kl(p: Array, q: Array) -> Array:
    return (np.exp(p) * (p - q)).sum(-1)


def entropy(p: Array) -> Array:
    return -(np.exp(p) * p).sum(-1)


def jsd(p: Array, q: Array) -> Array:
    m = np.logaddexp(p, q) - np.log(2)
    return (kl(p, m) + kl(q, m)) / 2


def pulled(
    teacher: Array, probe: Array, clip: float | None = 10.0, by: Array | None = None
) -> Array:
    """What purification moves the base by, times beta: centred (by `by`'s probability) and
    softly clipped."""
    d = teacher - probe
    weight = np.full_like(d, 1 / d.shape[-1]) if by is None else np.exp(by)
    d = d - (d * weight).sum(-1, keepdims=True)
    return d if clip is None else clip * np.tanh(d / clip)


def purified(
    teacher: Array,
    probe: Array,
    base: Array,
    beta: float = 1.0,
    clip: float | None = 10.0,
    by: Array | None = None,
) -> Array:
    return log_softmax(base + pulled(teacher, probe, clip, by) / beta)


def pool(terms: list[tuple[Array, Array | float]]) -> Array:
    return log_softmax(sum(np.asarray(w)[..., None] * x for x, w in terms))


def contrastive(right: Array, wrong: Array, alpha: float, floor: float | None = None) -> Array:
    wrong = wrong if floor is None else np.maximum(wrong, floor)
    return log_softmax((1 + alpha) * right - alpha * wrong)


def alpha(d: Array, alpha_max: float = 0.15, beta: float = 50.0) -> Array:
    """DemoPSD's schedule as the paper prints it: 2 alpha_max (sigmoid(beta d) - 1/2)."""
    return 2 * alpha_max * (1 / (1 + np.exp(-beta * d)) - 0.5)


def barycenter(teacher: Array, student: Array, a: Array | float, floor: float = 0.0) -> Array:
    floored = np.maximum(teacher, np.log(floor)) if floor else teacher
    a = np.broadcast_to(a, teacher.shape[:-1])
    return pool([(floored, 1 - a), (student, a)])


def with_tail(row: Array, ids: Array) -> Array:
    inside = np.take_along_axis(row, ids, -1)
    outside = np.exp(row).sum(-1, keepdims=True) - np.exp(inside).sum(-1, keepdims=True)
    return np.concatenate([inside, np.log(outside)], -1)


def reverse_kl_gradient(student: Array, target: Array) -> Array:
    """Of KL(student || target) by the student's logits."""
    p, gap = np.exp(student), student - target
    return p * (gap - (p * gap).sum(-1, keepdims=True))

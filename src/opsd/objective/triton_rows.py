# type: ignore
"""A divergence's closed form as one Triton kernel. It computes in three passes, without work
buffers and from logits of any dtype, what `rows_from_logits` and `closed_form` do in many.

Each program handles one row, in blocks of the vocabulary: the normalisers of both sides and the
mean of their difference, merged block by block; then the sums; then the gradient, which overwrites
the student's logits. Arithmetic is float32. Importing this module requires Triton; `kernels.py`
does so only when needed.
"""

from __future__ import annotations

import math

import torch
import triton
import triton.language as tl
from torch import Tensor

from opsd.objective.divergences import Divergence, PointwiseClip

_BLOCK, _WARPS = 4096, 8
_FAR = tl.constexpr(30.0)
_COLUMNS = (
    *("value", "divergence", "clipped"),
    *("entropy_student", "entropy_teacher", "logp_student", "logp_target"),
)


def divergence_rows(
    student_CV: Tensor,
    target_CV: Tensor,
    tokens_C: Tensor,
    divergence: Divergence,
    temperature: float,
    block: int = _BLOCK,
) -> dict[str, Tensor]:
    """`value` [C] and the statistics [C] of a divergence; its gradient overwrites `student_CV`.

    `divergence` is forward or reverse KL, JSD, or one of them under `pointwise_clip`.
    """
    rows, vocab = student_CV.shape
    clip = isinstance(divergence, PointwiseClip)
    plain = divergence.divergence if clip else divergence
    out = torch.empty(len(_COLUMNS), rows, dtype=torch.float32, device=student_CV.device)
    if rows:
        with torch.cuda.device_of(student_CV):
            _kernel[(rows,)](
                student_CV,
                target_CV,
                tokens_C,
                out,
                student_CV.stride(0),
                target_CV.stride(0),
                vocab,
                1 / temperature,
                KIND=plain.type,
                BETA=getattr(plain, "beta", 0.5),
                CAP=divergence.cap if clip else math.inf,
                CLIP=clip,
                BLOCK=min(block, triton.next_power_of_2(vocab)),
                num_warps=_WARPS,
            )
    return dict(zip(_COLUMNS, out, strict=True))


@triton.jit
def _expm1(x, exp_x):
    """exp(x) - 1, given exp(x); near 0, where the difference loses digits, by a Taylor
    polynomial."""
    y = 1 / 40320 + x * (1 / 362880)
    y = 1 / 5040 + x * y
    y = 1 / 720 + x * y
    y = 1 / 120 + x * y
    y = 1 / 24 + x * y
    y = 1 / 6 + x * y
    y = 0.5 + x * y
    return tl.where(tl.abs(x) < 0.5, x + x * x * y, exp_x - 1)


@triton.jit
def _log1p(x):
    """log(1 + x); near 0 by its series in x / (2 + x)."""
    z = x / (2 + x)
    w = z * z
    y = 1 / 11 + w * (1 / 13)
    y = 1 / 9 + w * y
    y = 1 / 7 + w * y
    y = 1 / 5 + w * y
    y = 1 / 3 + w * y
    return tl.where(tl.abs(x) < 0.5, 2 * z + 2 * z * w * y, tl.log(1 + x))


@triton.jit
def _grow(m, z, h, logits, inside, inverse):
    """One side's maximum, sum of exp and sum of exp x log, updated with one more block; and the
    block's own exponentials, their sum, and the factors of the old and the new sum."""
    top = tl.max(tl.where(inside, logits, -float("inf")))
    shifted = tl.where(inside, (logits - top) * inverse, 0.0)
    e = tl.where(inside, tl.exp(shifted), 0.0)
    e_sum = tl.sum(e)
    m_new = tl.maximum(m, top)
    old, new = tl.exp((m - m_new) * inverse), tl.exp((top - m_new) * inverse)
    h_block = tl.sum(e * shifted) + e_sum * (top - m_new) * inverse
    h = old * (h + z * (m - m_new) * inverse) + new * h_block
    return m_new, old * z + new * e_sum, h, e, e_sum, old, new


@triton.jit
def _normalisers(student, target, vocab, inverse, BLOCK: tl.constexpr):
    """For a row: the student's maximum and sum of exp, the student-weighted mean c of x = (target -
    student) / temperature, log sum p exp(x - c), and both entropies.

    log sum p exp(x - c) is computed as log1p of a sum of expm1, which is exact to rounding near
    equality. For rows with large differences, it is the difference of the two normalisers.
    """
    m, z, h = -1e30, 0.0, 0.0
    mt, zt, ht = -1e30, 0.0, 0.0
    c, total, x_most, c_least = 0.0, 0.0, -float("inf"), float("inf")
    for start in range(0, vocab, BLOCK):
        at = start + tl.arange(0, BLOCK)
        inside = at < vocab
        s = tl.load(student + at, mask=inside, other=0.0).to(tl.float32)
        t = tl.load(target + at, mask=inside, other=0.0).to(tl.float32)
        mt, zt, ht, _, _, _, _ = _grow(mt, zt, ht, t, inside, inverse)
        z_old = z
        m, z, h, e, e_sum, old, new = _grow(m, z, h, s, inside, inverse)
        x = (t - s) * inverse
        c_block = tl.sum(e * x) / e_sum
        y = tl.minimum(x - c_block, _FAR)
        block = tl.sum(e * _expm1(y, tl.exp(y)))
        x_most = tl.maximum(x_most, tl.max(tl.where(inside, x, -float("inf"))))
        c_least = tl.minimum(c_least, c_block)
        # Both sums of expm1 are moved from their own centre to the common one.
        c_new = c + (c_block - c) * (new * e_sum / z)
        up, down = tl.minimum(c - c_new, _FAR), tl.minimum(c_block - c_new, _FAR)
        up_exp, down_exp = tl.exp(up), tl.exp(down)
        total = old * (total * up_exp + z_old * _expm1(up, up_exp)) + new * (
            block * down_exp + e_sum * _expm1(down, down_exp)
        )
        c = c_new
    apart = (mt - m) * inverse + tl.log(zt / z) - c
    shift = tl.where(x_most - c_least > _FAR, apart, _log1p(total / z))
    return m, z, c, shift, tl.log(z) - h / z, tl.log(zt) - ht / zt


@triton.jit
def _block(student, target, at, vocab, m, z, c, shift, inverse):
    """p, q, delta = log q/p, ratio = q/p - 1 and excess = q - p of a block; 0 outside the row."""
    inside = at < vocab
    s = tl.load(student + at, mask=inside, other=0.0).to(tl.float32)
    t = tl.load(target + at, mask=inside, other=0.0).to(tl.float32)
    shifted = tl.where(inside, (s - m) * inverse, 0.0)
    p = tl.where(inside, tl.exp(shifted) / z, 0.0)
    delta = tl.where(inside, (t - s) * inverse - c - shift, 0.0)
    near = tl.minimum(delta, _FAR)
    growth = tl.exp(near)
    ratio = _expm1(near, growth)
    # p may underflow even if q does not.
    q_far = tl.exp(tl.minimum(shifted - tl.log(z) + delta, 0.0))
    q = tl.where(delta > _FAR, q_far, p * growth)
    return p, q, delta, ratio, tl.where(delta > _FAR, q, p * ratio)


@triton.jit
def _summand(p, q, delta, ratio, excess, KIND: tl.constexpr, BETA: tl.constexpr):
    """The divergence's summand; the term that sums to 0 and cancels its first-order rounding
    errors; the slope with respect to log p; and the quantity that the gradient centres, as in
    `ClosedForm`."""
    if KIND == "forward_kl":
        return q * delta, -excess, -q, delta
    elif KIND == "reverse_kl":
        return -p * delta, excess, p * (1 - delta), delta
    else:
        if BETA <= 0.5:
            u = _log1p(BETA * ratio)
            v = u - tl.minimum(delta, _FAR)
        else:
            back = tl.minimum(-delta, _FAR)
            v = _log1p((1 - BETA) * _expm1(back, tl.exp(back)))
            u = v - back
        pu = p * u
        return -BETA * q * v - (1 - BETA) * pu, 0.0 * p, (BETA - 1) * pu, u


@triton.jit
def _sums(
    student, target, vocab, m, z, c, shift, inverse, KIND: tl.constexpr, BETA: tl.constexpr,
    CAP: tl.constexpr, CLIP: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """For a row: the value; the mean of the quantity that the gradient centres; the gradient, up to
    its factor, that an entry with most of the mass must have for the row to sum to 0; and, with a
    clip, the capped value, the number of capped summands, and the sum of the other slopes."""
    value, mass, centred, mass_others, centred_others = 0.0, 0.0, 0.0, 0.0, 0.0
    capped, over, slopes = 0.0, 0.0, 0.0
    for start in range(0, vocab, BLOCK):
        at = start + tl.arange(0, BLOCK)
        p, q, delta, ratio, excess = _block(student, target, at, vocab, m, z, c, shift, inverse)
        summand, zero_sum, slope, a = _summand(p, q, delta, ratio, excess, KIND, BETA)
        value += tl.sum(summand + zero_sum)
        mass += tl.sum(p)
        centred += tl.sum(p * a)
        others = tl.where(p > 0.5, 0.0, p)
        mass_others += tl.sum(others)
        centred_others += tl.sum(others * a)
        if CLIP:
            capped += tl.sum(tl.minimum(summand, CAP))
            over += tl.sum(tl.where(summand > CAP, 1.0, 0.0))
            slopes += tl.sum(tl.where(summand > CAP, 0.0, slope))
    mean = centred / mass
    return value, mean, mean * mass_others - centred_others, capped, over, slopes


@triton.jit
def _kernel(
    student, target, tokens, out, student_stride, target_stride, vocab, inverse,
    KIND: tl.constexpr, BETA: tl.constexpr, CAP: tl.constexpr, CLIP: tl.constexpr,
    BLOCK: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0).to(tl.int64)
    rows = tl.num_programs(0)
    student += row * student_stride
    target += row * target_stride
    m, z, c, shift, entropy, entropy_t = _normalisers(student, target, vocab, inverse, BLOCK)
    token = tl.load(tokens + row)
    s_at = tl.load(student + token).to(tl.float32)
    t_at = tl.load(target + token).to(tl.float32)
    value, mean, others, capped, over, slopes = _sums(
        student, target, vocab, m, z, c, shift, inverse, KIND, BETA, CAP, CLIP, BLOCK
    )
    factor = BETA - 1 if KIND == "jsd" else -1.0
    for start in range(0, vocab, BLOCK):
        at = start + tl.arange(0, BLOCK)
        p, q, delta, ratio, excess = _block(student, target, at, vocab, m, z, c, shift, inverse)
        summand, _, slope, a = _summand(p, q, delta, ratio, excess, KIND, BETA)
        if KIND == "forward_kl":
            gradient = -excess
        else:
            gradient = factor * tl.where(p > 0.5, others, p * (a - mean))
        if CLIP:
            kept = tl.where(summand > CAP, 0.0, slope) - p * slopes
            gradient = tl.where(over > 0, kept, gradient)
        gradient = (gradient * inverse).to(student.dtype.element_ty)
        tl.store(student + at, gradient, mask=at < vocab)

    out += row
    tl.store(out, tl.where(over > 0, capped, value))
    tl.store(out + rows, value)
    tl.store(out + 2 * rows, tl.where(over > 0, 1.0, 0.0))
    tl.store(out + 3 * rows, entropy)
    tl.store(out + 4 * rows, entropy_t)
    logp = (s_at - m) * inverse - tl.log(z)
    tl.store(out + 5 * rows, logp)
    tl.store(out + 6 * rows, logp + (t_at - s_at) * inverse - c - shift)

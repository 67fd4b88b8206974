"""The exact loss from hidden states, one chunk of rows at a time: no `[N, V]` tensor ever exists.

For a chunk of C rows, one matrix product gives the logits of the student and of every view that
shares its head. A term turns them into a value and the value's gradient with respect to the
student's logits, in closed form. A second product maps that gradient back to the hidden states.
Only `[N, D]` is kept for the backward pass. With a frozen head this takes 3 products per token for
a distillation, 2 for a likelihood. Row weights may be decided afterwards: the backward pass only
scales rows.

A trained head also needs the gradient of its weight, a sum over rows whose weights must be known.
If they are known in advance (`planned`), it is accumulated in the same loop; otherwise the backward
pass runs the loop again.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from opsd.objective.divergences import Divergence, forward_kl
from opsd.objective.head import Head, TeacherHidden
from opsd.objective.kernels import Kernel, KernelName, eager, kernel_for
from opsd.objective.terms import ChunkDivergence, ChunkResult, Term, mixed_before

_CHUNK_BYTES = {"cpu": 32 * 2**20, "cuda": 512 * 2**20}
_MIN_CHUNK_ROWS = 16


def fused_terms(
    student_ND: Tensor,
    head: Head,
    terms: Sequence[Term],
    tokens_N: Tensor,
    *,
    chunk_rows: int | None = None,
    planned: Sequence[Tensor] | None = None,
    kernel: KernelName = "auto",
) -> tuple[list[Tensor], list[dict[str, Tensor]]]:
    """Values [N] of every term, differentiable, and each term's statistics [N], detached.

    `planned`: the coefficients [N] that each term's values will be multiplied by, up to one common
    factor, if they are known in advance. With a trained head this saves a second loop.
    """
    terms = [mixed_before(t, student_ND, head) for t in terms]
    device = student_ND.device.type
    chosen = kernel_for(kernel, device)
    rows = chunk_rows or chunk_rows_for(head, terms, device, chosen)
    loop = _Loop(head, list(terms), tokens_N, rows, planned, chosen)
    values: Any = _Fused.apply(student_ND, head.weight, head.bias, loop)  # pyright: ignore
    return [*values], loop.statistics


def fused_divergence(
    student_ND: Tensor,
    teacher_ND: Tensor,
    head: Head | Tensor,
    divergence: Divergence = forward_kl,
    *,
    teacher_head: Head | Tensor | None = None,
    temperature: float = 1.0,
    chunk_rows: int | None = None,
    kernel: KernelName = "auto",
) -> Tensor:
    """The divergence [N], nats per token, of next-token distributions given as hidden states.

    `head` is the output weight `[V, D]` or a `Head`; the teacher's is the same unless given.
    Differentiable with respect to `student_ND`, and to the head if it requires a gradient.
    """
    head = _as_head(head)
    teacher_head = head if teacher_head is None else _as_head(teacher_head)
    view = TeacherHidden("teacher", teacher_ND.detach(), teacher_head)
    term = ChunkDivergence((view,), divergence, temperature=temperature)
    tokens = torch.zeros(student_ND.shape[0], dtype=torch.long, device=student_ND.device)
    values, _ = fused_terms(student_ND, head, [term], tokens, chunk_rows=chunk_rows, kernel=kernel)
    return values[0]


def _as_head(head: Head | Tensor) -> Head:
    return head if isinstance(head, Head) else Head(head)


def chunk_rows_for(head: Head, terms: Sequence[Term], device: str, kernel: Kernel = eager) -> int:
    """The number of rows per chunk such that their logits, in the head's dtype and in float32, fit
    the device's memory budget."""
    buffers = sum(1 + len(term.views) for term in terms)
    budget = _CHUNK_BYTES.get(device, _CHUNK_BYTES["cuda"])
    entry = head.weight.element_size()
    if entry != 4 and not _as_multiplied(head, terms, kernel):
        entry += 4
    return max(_MIN_CHUNK_ROWS, budget // (buffers * head.vocab * entry))


def _as_multiplied(head: Head, terms: Sequence[Term], kernel: Kernel) -> bool:
    """Whether the logits can stay in the head's dtype. Float32 is needed for several terms, whose
    gradients are weighted and added."""
    return head.plain and len(terms) == 1 and kernel.reads_any(terms[0])


def head_products(head: Head, terms: Sequence[Term], planned: bool) -> int:
    """Matrix products with a head per row of the student, forward and backward together."""
    logits = 1 + sum(len(term.views) for term in terms)
    if not head.trained:
        return logits + len(terms)
    return logits + 2 if planned else 2 * logits + 2


_Use = Callable[[slice, list[Tensor], Tensor | None], None]


@dataclass
class _Loop:
    """The chunk loop, which computes only values, or also row gradients or weighted sums."""

    head: Head
    terms: list[Term]
    tokens_N: Tensor
    chunk_rows: int
    planned: Sequence[Tensor] | None
    kernel: Kernel
    statistics: list[dict[str, Tensor]] = field(default_factory=list[dict[str, Tensor]])

    def values(self, student_ND: Tensor, use: _Use | None = None) -> list[Tensor]:
        """The values of all rows. `use` is called with each chunk's rows, every term's gradient
        with respect to the logits, and the logits if a soft-cap needs them. No other tensor of a
        chunk is kept."""
        starts = range(0, max(1, student_ND.shape[0]), self.chunk_rows)
        kept = [self._chunk(student_ND, slice(i, i + self.chunk_rows), use) for i in starts]
        per_term = list(zip(*kept, strict=True))
        self.statistics = [
            {name: torch.cat([r.statistics[name] for r in rows]) for name in rows[0].statistics}
            for rows in per_term
        ]
        return [torch.cat([r.value for r in rows]) for rows in per_term]

    def _chunk(self, student_ND: Tensor, rows: slice, use: _Use | None) -> list[ChunkResult]:
        logits, views = self._logits(student_ND[rows], rows)
        capped = logits.clone() if use and self.head.softcap is not None else None
        results: list[ChunkResult] = []
        for i, (term, of_term) in enumerate(zip(self.terms, views, strict=True)):
            own = logits if i == len(self.terms) - 1 else logits.clone()
            results.append(self.kernel(term, own, of_term, self.tokens_N[rows]))
        if use is not None:
            use(rows, [result.gradient for result in results], capped)
        return [result._replace(gradient=result.value) for result in results]

    def _logits(self, student_CD: Tensor, rows: slice) -> tuple[Tensor, list[list[Tensor]]]:
        """The student's and the views' logits. Views that share the student's head also share its
        matrix product."""
        every = [view for term in self.terms for view in term.views]
        shared = [v for v in every if v.head.weight is self.head.weight]
        stacked = [student_CD, *(v.hidden_ND[rows].to(student_CD.dtype) for v in shared)]
        parts = self._read(self.head, torch.cat(stacked)).tensor_split(len(stacked))
        student, of_shared = parts[0], iter(parts[1:])
        views = [
            [
                next(of_shared)
                if v.head.weight is self.head.weight
                else self._read(v.head, v.hidden_ND[rows])
                for v in term.views
            ]
            for term in self.terms
        ]
        return student, views

    def _read(self, head: Head, hidden: Tensor) -> Tensor:
        whole = _as_multiplied(head, self.terms, self.kernel)
        return head.product(hidden) if whole else head.logits(hidden)

    def row_gradients(self, student_ND: Tensor) -> tuple[list[Tensor], list[Tensor]]:
        """The values, and per term the gradient of each row's value with respect to its hidden
        state, [N, D]."""
        gradients = [torch.empty_like(student_ND) for _ in self.terms]

        def use(rows: slice, by_logits: list[Tensor], capped: Tensor | None) -> None:
            for gradient_ND, gradient in zip(gradients, by_logits, strict=True):
                gradient_ND[rows] = self.head.back(self.head.chain(gradient, capped))

        return self.values(student_ND, use), gradients

    def weighted(
        self, student_ND: Tensor, coefficients: Sequence[Tensor]
    ) -> tuple[list[Tensor], Tensor, Tensor, Tensor | None]:
        """The values, and the gradients of sum(coefficient x value) with respect to hidden states,
        weight, bias."""
        by_student = torch.empty_like(student_ND)
        by_weight = torch.zeros_like(self.head.weight, dtype=torch.float32)
        bias, vocab = self.head.bias, self.head.vocab
        by_bias = None if bias is None else torch.zeros_like(bias, dtype=torch.float32)

        def use(rows: slice, by_logits: list[Tensor], capped: Tensor | None) -> None:
            total = by_logits[0].mul_(coefficients[0][rows].unsqueeze(-1))
            for other, c in zip(by_logits[1:], coefficients[1:], strict=True):
                total.addcmul_(other, c[rows].unsqueeze(-1))
            gradient = self.head.chain(total, capped)
            by_student[rows] = self.head.back(gradient)
            by_weight[:vocab] += gradient.t() @ student_ND[rows].to(gradient.dtype)
            if by_bias is not None:
                by_bias[:vocab] += gradient.sum(0, dtype=torch.float32)

        values = self.values(student_ND, use)
        return values, by_student, by_weight.to(self.head.weight.dtype), by_bias


class _Fused(torch.autograd.Function):
    """The values of all terms, with gradients that the loop computes in the forward pass."""

    @staticmethod
    def forward(
        ctx: Any, student_ND: Tensor, weight: Tensor, bias: Tensor | None, loop: _Loop
    ) -> tuple[Tensor, ...]:
        ctx.loop, ctx.trained = loop, any(ctx.needs_input_grad[1:3])
        ctx.kept = []
        with torch.autocast(student_ND.device.type, enabled=False):
            if not any(ctx.needs_input_grad):
                values = loop.values(student_ND)
            elif not ctx.trained:
                values, ctx.kept = loop.row_gradients(student_ND)
            elif loop.planned is not None:
                values, *ctx.kept = loop.weighted(student_ND, loop.planned)
            else:
                values = loop.values(student_ND)
        ctx.save_for_backward(student_ND)
        return tuple(values)

    @staticmethod
    def backward(ctx: Any, *coefficients: Tensor) -> tuple[Tensor | None, ...]:  # pyright: ignore
        (student_ND,) = ctx.saved_tensors
        if not ctx.trained:
            scaled = (
                g * c.unsqueeze(-1).to(g.dtype) for g, c in zip(ctx.kept, coefficients, strict=True)
            )
            return sum(scaled), None, None, None  # pyright: ignore
        factor = _common_factor(coefficients, ctx.loop.planned) if ctx.kept else None
        if factor is None:
            with torch.autocast(student_ND.device.type, enabled=False):
                _, *gradients = ctx.loop.weighted(student_ND, coefficients)
        else:
            gradients = [g if g is None else g * factor.to(g.dtype) for g in ctx.kept]
        return (*gradients, None)


def _common_factor(given: Sequence[Tensor], planned: Sequence[Tensor]) -> Tensor | None:
    """The number s with given = s planned, up to rounding, or None."""
    flat, wanted = torch.cat(list(planned)), torch.cat(list(given))
    if not flat.any():
        return None
    top = flat.abs().argmax()
    factor = wanted[top] / flat[top]
    return factor if torch.allclose(wanted, flat * factor, rtol=1e-6, atol=0.0) else None

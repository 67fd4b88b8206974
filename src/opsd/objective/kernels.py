"""How a term is computed on a chunk of logits: eagerly, compiled, or by a Triton kernel.

All three compute the same function up to rounding. Terms that a kernel does not support are
computed eagerly.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import lru_cache
from importlib.util import find_spec
from typing import Any, Literal, Protocol

import torch
from torch import Tensor

from opsd.objective.divergences import JSD, ForwardKL, ReverseKL, without_clip
from opsd.objective.head import TeacherHidden
from opsd.objective.terms import ChunkDivergence, ChunkResult, Term
from opsd.types import UserError

KernelName = Literal["auto", "eager", "compiled", "triton"]
"""'auto' is 'triton' on a GPU if Triton is installed, else 'eager'."""

# Per operand: on a CPU, what fits its caches; on a GPU, what keeps it busy.
_BLOCK_BYTES = {"cpu": 2**20, "cuda": 32 * 2**20}

Rowwise = Callable[[Tensor, list[Tensor], Tensor], ChunkResult]


class Kernel(Protocol):
    """Computes a term from a chunk's student logits, views' logits and tokens. All logits may be
    overwritten; the gradient replaces the student's logits."""

    def __call__(
        self, term: Term, student: Tensor, views: list[Tensor], tokens: Tensor
    ) -> ChunkResult: ...
    def reads_any(self, term: Term) -> bool:
        """Whether it accepts the term's logits in any float dtype rather than only in float32."""
        ...


@dataclass(frozen=True)
class Eager:
    """The term's own operations, on blocks of rows that fit into the cache."""

    def __call__(
        self, term: Term, student: Tensor, views: list[Tensor], tokens: Tensor
    ) -> ChunkResult:
        return _by_blocks(term, student, views, tokens)

    def reads_any(self, term: Term) -> bool:
        return False


@dataclass(frozen=True)
class Compiled:
    """The same operations through `torch.compile`: one graph per kind of term, for any number of
    rows. If compilation fails, they run eagerly, with one warning."""

    def __call__(
        self, term: Term, student: Tensor, views: list[Tensor], tokens: Tensor
    ) -> ChunkResult:
        return _by_blocks(_graph(_kind(term)), student, views, tokens)

    def reads_any(self, term: Term) -> bool:
        return False


@dataclass(frozen=True)
class Triton:
    """One kernel for a divergence from a single teacher over the whole vocabulary."""

    def __call__(
        self, term: Term, student: Tensor, views: list[Tensor], tokens: Tensor
    ) -> ChunkResult:
        if not isinstance(term, ChunkDivergence) or not self.reads_any(term):
            return eager(term, student, views, tokens)
        from opsd.objective.triton_rows import divergence_rows

        columns = divergence_rows(student, views[0], tokens, term.divergence, term.temperature)
        return ChunkResult(columns.pop("value"), student, columns)

    def reads_any(self, term: Term) -> bool:
        return (
            isinstance(term, ChunkDivergence)
            and term.common
            and isinstance(without_clip(term.divergence), ForwardKL | ReverseKL | JSD)
        )


eager = Eager()
KERNELS: dict[str, Kernel] = {"eager": eager, "compiled": Compiled(), "triton": Triton()}


def kernel_for(name: KernelName, device: str) -> Kernel:
    """The kernel of that name. Raises UserError if it cannot run."""
    installed = find_spec("triton") is not None
    if name == "auto":
        name = "triton" if device == "cuda" and installed else "eager"
    if name == "triton" and not installed:
        raise UserError("the loss kernel 'triton' needs the package triton: pip install triton")
    if name == "triton" and device == "cpu" and "TRITON_INTERPRET" not in os.environ:
        raise UserError("the loss kernel 'triton' needs a GPU: choose 'auto', 'eager', 'compiled'")
    if name not in KERNELS:
        raise UserError(f"no loss kernel '{name}': choose one of 'auto', {', '.join(KERNELS)}")
    return KERNELS[name]


def _by_blocks(
    rowwise: Rowwise, student: Tensor, views: list[Tensor], tokens: Tensor
) -> ChunkResult:
    """Compute a term on a chunk block by block, so that its passes over the vocabulary stay in the
    cache and its buffers have the size of a block. The gradient replaces the student's logits."""
    limit = _BLOCK_BYTES.get(student.device.type, _BLOCK_BYTES["cuda"])
    block = max(1, limit // (4 * student.shape[-1]))
    if block >= len(tokens):
        return rowwise(student, views, tokens)
    parts: list[ChunkResult] = []
    for start in range(0, len(tokens), block):
        rows = slice(start, start + block)
        part = rowwise(student[rows], [view[rows] for view in views], tokens[rows])
        student[rows] = part.gradient
        parts.append(part._replace(gradient=part.value))
    statistics = {
        name: torch.cat([part.statistics[name] for part in parts]) for name in parts[0].statistics
    }
    return ChunkResult(torch.cat([part.value for part in parts]), student, statistics)


def _kind(term: Term) -> Term:
    """The term without its views' rows, which is the same for all chunks and steps of a signal."""
    nothing: Any = None
    named = tuple(TeacherHidden(view.name, nothing, nothing) for view in term.views)
    return replace(term, views=named)  # type: ignore[type-var]


@lru_cache(maxsize=64)
def _graph(term: Term) -> Rowwise:
    """The compiled form of a term as a function of its logits; the term itself once compilation has
    failed."""

    def copied(student: Tensor, views: list[Tensor], tokens: Tensor) -> ChunkResult:
        # The term overwrites its arguments; without copies, a graph would have to write them back.
        result = term(student.clone(), [view.clone() for view in views], tokens)
        return result._replace(gradient=student.copy_(result.gradient))

    compiled: list[Rowwise] = [torch.compile(copied)]

    def run(student: Tensor, views: list[Tensor], tokens: Tensor) -> ChunkResult:
        for rows in (student, *views, tokens):
            torch._dynamo.maybe_mark_dynamic(rows, 0)  # pyright: ignore
        try:
            return compiled[0](student, views, tokens)
        except torch._dynamo.exc.TorchDynamoException as error:  # pyright: ignore
            reason = " ".join(f"{error}".split("\n")[:2])
            warnings.warn(f"the loss is not compiled: {reason}", stacklevel=2)
            compiled[0] = term
            return term(student, views, tokens)

    return run

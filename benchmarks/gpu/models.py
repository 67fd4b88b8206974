"""The measured shapes."""

from __future__ import annotations

from benchmarks.shapes import SHAPES, Shape

KNOWN = {"tiny": Shape(64, 128, 2, 4, 2, tied=True, head_dim=16, vocab=512), **SHAPES}

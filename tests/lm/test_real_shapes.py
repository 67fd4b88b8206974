"""At a real vocabulary, what a step's loss adds to the backbone's memory does not grow with the
completion; and the full measurement that is stored met its target."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from benchmarks.real_shapes import TARGET, Case, Shape, compare, measure

STORED = Path(__file__).parents[2] / "benchmarks" / "results" / "real_shapes.json"


def small(completion: int) -> Shape:
    """A narrow model under Qwen3's vocabulary: next to nothing but its head."""
    return Shape(64, 128, 2, 4, 2, head_dim=16, problem=20, solution=40, completion=completion)


@pytest.mark.slow
@pytest.mark.parametrize("dtype", ["fp32", "bf16"])
def test_the_loss_adds_a_chunk_whatever_the_completion(dtype):
    added = {}
    for length in (32, 96):
        shape = small(length)
        step = measure(Case(shape, dtype, "opsd", chunk_rows=16))
        backbone = measure(Case(shape, dtype))
        assert step["student_prompt"] > 20 and step["teacher_prompt"] > 60
        added[length] = step["peak_bytes"] - backbone["peak_bytes"]
    logits = 16 * Shape.vocab * 4
    assert 2 * logits < added[96] < 4 * logits
    # Their own logits would be four chunks more.
    assert abs(added[96] - added[32]) < logits / 2


def test_the_target_is_a_tenth_more_than_the_backbone():
    told = [compare(Case(), {"peak_bytes": 100}, {"peak_bytes": n})["ok"] for n in (109, 110, 112)]
    assert told == [True, True, False]


def test_the_stored_measurement_of_the_whole_shape_meets_the_target():
    rows = json.loads(STORED.read_text("utf-8"))["rows"]
    assert {(row["name"], row["dtype"]) for row in rows} == {
        (method, dtype) for method in ("opsd", "copsd") for dtype in ("fp32", "bf16")
    }
    for row in rows:
        assert row["shape"]["layers"] == Shape.layers and row["shape"]["completion"] == 512
        assert row["ratio"] == pytest.approx(
            row["step"]["peak_bytes"] / row["backbone"]["peak_bytes"], abs=1e-3
        )
        assert row["ratio"] <= row["target"] == TARGET

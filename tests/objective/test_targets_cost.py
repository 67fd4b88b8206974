"""The stored measurement of what targets of several views cost."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from benchmarks.targets import METHODS, TARGET

STORED = Path(__file__).parents[2] / "benchmarks" / "results" / "targets.json"


def test_the_stored_measurement_meets_the_target():
    rows = json.loads(STORED.read_text("utf-8"))["rows"]
    assert {row["name"] for row in rows} == set(METHODS)
    for row in rows:
        ratio = row["step"]["peak_bytes"] / row["backbone"]["peak_bytes"]
        assert row["ratio"] == pytest.approx(ratio, abs=1e-3)
        assert row["ratio"] <= row["target"] == TARGET

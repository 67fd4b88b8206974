"""The example runs, and what it prints says that the student learns."""

from __future__ import annotations

import re
import runpy
import sys
from pathlib import Path

import pytest


@pytest.mark.slow
def test_the_minimal_example_learns(monkeypatch, capsys):
    script = Path(__file__).parents[1] / "examples" / "minimal_opsd.py"
    monkeypatch.setattr(sys, "argv", [str(script), "--steps", "20", "--batch", "32"])
    runpy.run_path(str(script), run_name="__main__")
    printed = capsys.readouterr().out
    before, after = (float(x) for x in re.findall(r"(?:before|after):\s+([\d.]+)", printed))
    assert after > before + 0.1, printed

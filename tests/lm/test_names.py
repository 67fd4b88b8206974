"""Names that can be no model's are told at once."""

from __future__ import annotations

from pathlib import Path

import pytest

from opsd.lm.names import refuse_unknown
from opsd.types import UserError


def test_a_mistyped_run_is_not_looked_for_on_the_hub(tmp_path: Path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("first", "second"):
        (tmp_path / "runs" / name).mkdir(parents=True)
        (tmp_path / "runs" / name / "recipe.yaml").write_text("")
    with pytest.raises(UserError, match="no folder 'runs/nope'; there are first, second"):
        refuse_unknown("runs/nope")
    with pytest.raises(UserError, match="no folder 'runs/secnd'; did you mean 'second'"):
        refuse_unknown("runs/secnd")
    refuse_unknown("runs/first")


def test_a_folder_called_as_an_owner_hides_no_model_of_the_hub(tmp_path: Path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "Qwen" / "Qwen3-4B").mkdir(parents=True)
    refuse_unknown("Qwen/Qwen3-1.7B")

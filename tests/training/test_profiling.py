"""A profile of a step: a trace that a viewer opens, and a table whose phases add up."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pytest
from tests.arrange import config, problems

from opsd import OPSDTrainer, methods
from opsd.training.profiling import Profiling


@pytest.mark.parametrize("steps", [1, 3])
def test_one_step_is_profiled_and_its_phases_add_up(tmp_path: Path, tiny_folder, steps, capsys):
    profiling = Profiling(tmp_path / "profile")
    trainer = OPSDTrainer(
        str(tiny_folder),
        methods.opsd(),
        config(tmp_path, max_steps=steps),
        problems(8),
        callbacks=[profiling],
    )
    trainer.train()
    trace = json.loads(gzip.decompress((tmp_path / "profile/trace.json.gz").read_bytes()))
    names = [event.get("name", "") for event in trace["traceEvents"]]
    assert {"opsd/rollout", "opsd/grade", "opsd/teacher", "opsd/student", "opsd/loss"} <= {*names}
    assert sum(name.startswith("Optimizer.step") for name in names) == 1  # a single step
    table = (tmp_path / "profile/table.md").read_text("utf-8")
    assert table in capsys.readouterr().err
    rows = [line.strip("| ").split(" | ") for line in table.split("\n\n")[0].splitlines()[2:]]
    spent = {name: float(ms.replace(",", "")) for name, ms, *_ in rows}
    whole = spent.pop("a step")
    assert len(spent) == 7 and sum(spent.values()) == pytest.approx(whole, abs=0.5)
    assert spent["teachers read"] > 0 and spent["everything else"] < whole

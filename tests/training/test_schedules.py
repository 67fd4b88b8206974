"""A number of a teacher's weights that changes with the step: what reads and what moves agree."""

from __future__ import annotations

import shutil
from dataclasses import replace

from tests.arrange import config, gap, problems, weights_of

from opsd import OPSDTrainer, methods
from opsd.schedule import Linear
from opsd.teacher.weights import EMA


def test_an_average_whose_decay_rises_trains_and_resumes(tmp_path, tiny_folder):
    base = methods.opsd()
    weights = EMA(Linear(0.5, 0.9))
    teacher = replace(base.signal.teacher, weights=weights)
    method = replace(base, signal=replace(base.signal, teacher=teacher))

    def run(name: str, start: bool = False) -> OPSDTrainer:
        args = config(tmp_path / name, max_steps=4, save_strategy="steps", save_steps=2)
        trainer = OPSDTrainer(str(tiny_folder), method, args, problems(8))
        trainer.train(resume_from_checkpoint=start)
        return trainer

    whole = run("whole")
    shutil.copytree(tmp_path / "whole", tmp_path / "again")
    shutil.rmtree(tmp_path / "again" / "checkpoint-4")
    again = run("again", True)
    assert gap(weights_of(whole.model), weights_of(again.model)) == 0
    (one,), (other,) = whole.weights.values(), again.weights.values()
    assert gap(one.state_dict(), other.state_dict()) == 0

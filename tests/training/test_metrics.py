"""Numbers of a step: means over all processes, and time that no phase accounts for."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.arrange import config, every_second, problems

from opsd import OPSDTrainer, methods
from opsd.lm.loading import load_model
from opsd.rollout.engine import Completion
from opsd.rollout.hf import HFEngine
from opsd.runs.files import read_jsonl
from opsd.training.metrics import Metrics

DIFFERENCE = "sampling/sampling_logp_difference"
RATIO = "sampling/importance_sampling_ratio"


class Mistaken(HFEngine):
    """Tells every log-probability `off` nats too low; the first of a completion is no number."""

    off = 0.0
    first: float | None = None

    def generate(self, prompts: Sequence[Any], *args: Any, **kwargs: Any) -> list[Completion]:
        told = []
        for made in super().generate(prompts, *args, **kwargs):
            logprobs = [x - self.off for x in made.logprobs or ()]
            logprobs[:1] = logprobs[:1] if self.first is None else [self.first]
            told.append(replace(made, logprobs=tuple(logprobs)))
        return told


@pytest.fixture
def logged(tiny_folder, tokenizer, tmp_path):
    """Trains, and gives the log lines and the rollouts."""

    def train(method: Any, engine: type = Mistaken, **how: Any) -> tuple[list[Any], list[Any]]:
        model = load_model(str(tiny_folder))
        own = {"eos_ids": [tokenizer.eos_token_id], "pad_id": 0, "vocab": len(tokenizer)}
        trainer = OPSDTrainer(
            model,
            method,
            config(tmp_path, **how),
            problems(16),
            processing_class=tokenizer,
            engine=engine(model, **own),
            verifier=every_second(),
        )
        trainer.train()
        rows = [row for row in read_jsonl(Path(tmp_path, "metrics.jsonl")) if "loss" in row]
        return rows, list(read_jsonl(tmp_path / "rollouts" / "rank0.jsonl"))

    return train


@pytest.mark.parametrize(
    "method", [methods.opsd(), methods.demopsd(group=2), methods.grpo(group=2)]
)
def test_what_samples_itself_reads_as_it_learns(logged, method):
    rows, written = logged(method, temperature=1.3)
    for row in rows:
        assert row[f"{DIFFERENCE}/mean"] <= row[f"{DIFFERENCE}/max"] < 1e-4
        assert row[f"{RATIO}/min"] == pytest.approx(row[f"{RATIO}/max"], abs=1e-3)
        assert row[f"{RATIO}/mean"] == pytest.approx(1, abs=1e-3)
        assert row["sampling/nonfinite_logprobs"] == row["staleness/max"] == 0
    assert [row["weights_version"] for row in written] == [row["step"] for row in written]


def test_a_sampler_that_reads_otherwise_shows(logged, monkeypatch):
    monkeypatch.setattr(Mistaken, "off", 0.25)
    rows, written = logged(methods.opsd())
    for row in rows:
        assert row[f"{DIFFERENCE}/mean"] == pytest.approx(0.25, abs=1e-4)
        assert row[f"{DIFFERENCE}/max"] == pytest.approx(0.25, abs=1e-4)
        own = [len(r["completion_ids"]) for r in written if r["step"] == row["step"] - 1]
        ratios = [math.exp(0.25 * length) for length in own]
        assert row[f"{RATIO}/max"] == pytest.approx(max(ratios), rel=1e-3)
        assert row[f"{RATIO}/min"] == pytest.approx(min(ratios), rel=1e-3)
        assert row[f"{RATIO}/mean"] == pytest.approx(sum(ratios) / len(ratios), rel=1e-3)


@pytest.mark.parametrize("first", [math.nan, -math.inf])
def test_log_probs_that_are_no_numbers_are_left_out_and_counted(logged, monkeypatch, first: float):
    monkeypatch.setattr(Mistaken, "first", first)
    rows, written = logged(methods.opsd(), max_steps=1)
    share = len(written) / sum(len(row["completion_ids"]) for row in written)
    assert rows[0]["sampling/nonfinite_logprobs"] == pytest.approx(share)
    assert rows[0][f"{DIFFERENCE}/max"] < 1e-4 and rows[0]["loss"] > 0


@pytest.mark.parametrize("method", [methods.sft(), methods.off_policy_distillation()])
def test_nothing_is_said_of_text_that_the_student_has_not_written(logged, method):
    (row, *_), written = logged(method, max_steps=1)
    assert not [name for name in row if name.startswith(("sampling/", "staleness/"))]
    assert {row["weights_version"] for row in written} == {None}


def test_rollouts_that_are_learned_from_again_are_older(logged):
    rows, _ = logged(methods.grpo(group=2, reuse=2), max_steps=4, learning_rate=0.05)
    assert [row["staleness/max"] for row in rows] == [0, 1, 0, 1]
    first, again = rows[0], rows[1]
    assert first[f"{DIFFERENCE}/max"] < 1e-4 < again[f"{DIFFERENCE}/max"]


def test_what_is_no_number_alone_gives_no_gap():
    metrics = Metrics()
    metrics.sampled(torch.full((3,), torch.nan), torch.tensor([0, 0, 1]))
    assert metrics.merged(lambda parts: parts)["sampling/nonfinite_logprobs"] == 1


def test_rates_add_up_by_their_counts():
    one, other = Metrics(), Metrics()
    one.add("accuracy", 1, 2)
    other.add("accuracy", 5, 6)
    (mine,) = [(dict(other.sums), other.lows, other.highs, dict(other.seconds))]
    assert one.merged(lambda parts: [*parts, mine])["accuracy"] == 6 / 8


def test_what_no_phase_took_is_unaccounted_for():
    begun = time.perf_counter()
    metrics = Metrics()
    with metrics.timed("student"), metrics.timed("loss"):
        time.sleep(0.05)
    time.sleep(0.1)
    counted = time.perf_counter()
    logged = metrics.merged(lambda parts: parts)
    assert logged["time/student"] >= 0.05 and logged["time/unaccounted"] >= 0.1
    assert logged["time/student"] + logged["time/unaccounted"] <= time.perf_counter() - begun
    rest = metrics.merged(lambda parts: parts)["time/unaccounted"]
    assert rest <= time.perf_counter() - counted

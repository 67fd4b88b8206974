"""Curves, and the warning that they give."""

from pathlib import Path

import pytest

from opsd.report import series
from opsd.report.runs import Run, load_runs

from .folders import dev_line, jsonl, train_line


def made(path: Path, lines: list[dict]) -> Run:
    jsonl(path / "metrics.jsonl", lines)
    return load_runs([path]).runs[0]


def test_dev_points_stand_at_the_tokens_generated_by_then(tmp_path: Path):
    lines = [dev_line(0, 0.1), train_line(2), train_line(4), dev_line(3, 0.2), dev_line(4, 0.3)]
    curve = series.dev_against_tokens(made(tmp_path, lines), "eval_avg@k", 0)
    assert curve is not None
    assert curve.x == (0.0, 288.0, 384.0) and curve.y == (0.1, 0.2, 0.3)


def test_points_without_a_number_are_left_out(tmp_path: Path):
    lines = [train_line(1), train_line(2, loss=float("nan")), train_line(3)]
    curve = series.against_steps(made(tmp_path, lines), "loss", 0)
    assert curve is not None and curve.x == (1.0, 3.0)
    assert series.against_steps(made(tmp_path, lines), "no such metric", 0) is None


@pytest.mark.parametrize(
    ("loss", "divergence", "warned"),
    [(-0.01, 0.01, True), (-0.01, -0.01, False), (0.01, 0.01, False), (-0.0001, 0.01, False)],
)
def test_a_loss_that_falls_while_the_divergence_rises(
    tmp_path: Path, loss: float, divergence: float, warned: bool
):
    lines = [train_line(i, loss=1 + loss * i, divergence=1 + divergence * i) for i in range(1, 31)]
    warning = series.hidden_divergence(made(tmp_path, lines))
    assert (warning is not None) == warned


def test_a_few_steps_are_no_trend(tmp_path: Path):
    lines = [train_line(i, loss=1 / i, divergence=float(i)) for i in range(1, 6)]
    assert series.hidden_divergence(made(tmp_path, lines)) is None


def test_deciles_at_three_stages(tmp_path: Path):
    run = made(tmp_path, [train_line(i) for i in range(1, 31)])
    stages = series.deciles(run)
    assert [(s.stage, s.steps) for s in stages] == [
        ("start", (1, 3)),
        ("middle", (14, 16)),
        ("end", (28, 30)),
    ]
    assert stages[0].deciles[0] == 0.0
    assert stages[0].deciles[9] == pytest.approx(0.9 * (1 + 1 / 2 + 1 / 3) / 3)


def test_a_moving_mean_keeps_a_straight_line():
    values = [float(i) for i in range(40)]
    smooth = series.smoothed(values)
    assert smooth is not None and smooth[5:35] == pytest.approx(values[5:35])
    assert series.smoothed(values[:19]) is None

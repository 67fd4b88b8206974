"""OPSDConfig: this field's defaults on top of TrainingArguments."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from transformers import TrainingArguments

from opsd.training.config import OPSDConfig, passes_per_step


def config(tmp_path: Path, **changes: object) -> OPSDConfig:
    return OPSDConfig(output_dir=str(tmp_path), use_cpu=True, **changes)


def test_the_defaults_are_opsds_third_version(tmp_path: Path):
    args = config(tmp_path)
    assert isinstance(args, TrainingArguments)
    assert (args.learning_rate, args.max_grad_norm, args.max_steps) == (5e-6, 0.1, 100)
    assert args.per_device_train_batch_size * args.gradient_accumulation_steps == 32
    assert (args.temperature, args.top_p, args.top_k, args.min_p) == (1.1, 0.95, 20, 0.0)
    assert args.max_completion_length == 1024
    assert args.lr_scheduler_type == "constant"
    assert not args.remove_unused_columns


def on(processes: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """As many processes as a launcher would have started."""
    monkeypatch.setattr(OPSDConfig, "world_size", property(lambda self: processes))


@pytest.mark.parametrize(("processes", "batch", "passes"), [(1, 4, 8), (2, 4, 4), (8, 2, 2)])
def test_passes_follow_from_the_rollouts_of_a_step(
    processes: int, batch: int, passes: int, tmp_path: Path, monkeypatch
):
    on(processes, monkeypatch)
    args = config(tmp_path, rollouts_per_step=32, per_device_train_batch_size=batch)
    assert args.gradient_accumulation_steps == passes
    both = {"rollouts_per_step": 32, "per_device_train_batch_size": batch}
    assert config(tmp_path, **both, gradient_accumulation_steps=passes) == args


def test_the_rollouts_of_a_step_and_other_passes_are_refused(tmp_path: Path, monkeypatch):
    on(2, monkeypatch)
    told = (
        r"it follows from rollouts_per_step, and is 4 on 2 process\(es\), not 8: leave one of the"
        " two out"
    )
    with pytest.raises(ValueError, match=told):
        config(tmp_path, rollouts_per_step=32, gradient_accumulation_steps=8)


@pytest.mark.parametrize(
    ("rollouts", "batch", "processes", "mend"),
    [
        (32, 3, 1, "set it to 33, or per_device_train_batch_size to 2"),
        (32, 16, 4, "set it to 64, or per_device_train_batch_size to 8"),
        (32, 4, 3, "set it to 36"),
        (2, 4, 4, "set it to 16"),
        (30, 4, 2, "set it to 32, or per_device_train_batch_size to 3"),
    ],
)
def test_rollouts_that_do_not_divide_name_the_nearest_that_do(
    rollouts: int, batch: int, processes: int, mend: str
):
    with pytest.raises(ValueError) as error:
        passes_per_step(rollouts, batch, processes)
    told = f"{rollouts} rollouts do not divide among {processes} process(es)"
    assert str(error.value) == (f"rollouts_per_step: {told} in micro-batches of {batch}: {mend}")


def test_the_named_numbers_divide():
    assert passes_per_step(36, 4, 3) == 3
    assert passes_per_step(32, 8, 4) == 1
    assert passes_per_step(30, 3, 2) == 5


def test_bfloat16_is_the_default_where_there_is_cuda(tmp_path: Path):
    assert config(tmp_path).bf16 is torch.cuda.is_available()
    assert config(tmp_path, bf16=False).bf16 is False
    assert config(tmp_path, bf16=True).bf16 is True


def test_the_best_checkpoint_is_the_one_with_the_highest_dev_score(tmp_path: Path):
    best = {"load_best_model_at_end": True, "eval_strategy": "steps", "eval_steps": 25}
    args = config(tmp_path, **best)
    assert (args.metric_for_best_model, args.greater_is_better) == ("eval_avg@k", True)
    args = config(tmp_path, **best, metric_for_best_model="format_rate")
    assert (args.metric_for_best_model, args.greater_is_better) == ("format_rate", True)


def test_every_field_of_ours_has_a_help_text():
    own = OPSDConfig.__dataclass_fields__.keys() - TrainingArguments.__dataclass_fields__.keys()
    assert "max_completion_length" in own
    for name in own:
        assert OPSDConfig.__dataclass_fields__[name].metadata["help"].endswith("."), name


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (
            {"prompt_too_long": "truncate"},
            "prompt_too_long: it should be 'error' or 'skip', not 'truncate'",
        ),
        (
            {"loss_kernel": "cuda"},
            "loss_kernel: it should be 'auto', 'eager', 'compiled' or 'triton'",
        ),
        ({"packing": "always"}, "packing: it should be 'auto', 'on' or 'off'"),
        ({"rollouts_per_step": 0}, "rollouts_per_step: it should be greater than or equal to 1"),
        ({"temperature": 0.0}, "temperature: it should be greater than or equal to 0.001"),
        ({"max_steps": 0}, "max_steps: it should be a number of steps, or -1 for whole epochs"),
    ],
)
def test_values_that_would_go_wrong_later_are_refused(tmp_path: Path, change: dict, told: str):
    with pytest.raises(ValueError, match=told):
        config(tmp_path, **change)

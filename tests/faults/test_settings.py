"""Settings that cannot work are refused before the first step; those that do nothing are named."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from tests.arrange import config, problems

from opsd import methods
from opsd.recipe import schema as recipes
from opsd.recipe.files import shipped
from opsd.recipe.train import train
from opsd.training.checks import config_warnings
from opsd.training.config import UNSUPPORTED, WITHOUT_EFFECT, OPSDConfig, without_effect
from opsd.training.trainer import OPSDTrainer
from opsd.types import UserError

BASE = {
    "model": {"name": "miniature"},
    "method": "copsd",
    "data": {"source": "miniature", "language": "swa", "dev": 2},
    "sampling": {"max_completion_length": 24},
    "train": {
        "max_steps": 6,
        "per_device_train_batch_size": 2,
        "gradient_accumulation_steps": 1,
        "save_steps": 1,
        "eval_samples": 1,
    },
}

NONSENSE = [
    ("seed", -1),
    ("seed", 2**40),
    ("data_seed", -3),
    ("max_steps", -5),
    ("max_steps", 0),
    ("num_train_epochs", 0),
    ("num_train_epochs", -1),
    ("num_train_epochs", float("inf")),
    ("save_steps", 0),
    ("save_steps", -1),
    ("logging_steps", 0),
    ("eval_steps", -2),
    ("eval_samples", 0),
    ("eval_samples", -3),
    ("loss_chunk_rows", -1),
    ("loss_chunk_rows", 0),
    ("max_tokens_per_pass", -4),
    ("generation_batch_tokens", 0),
    ("max_generated_tokens", -1),
    ("max_length", 0),
    ("trace_steps", -1),
    ("rollout_log_steps", -1),
    ("collapse_patience", 0),
    ("save_total_limit", 0),
    ("warmup_steps", -1),
    ("adam_beta1", 2),
    ("adam_beta2", 1.0),
    ("adam_epsilon", -1e-8),
    ("weight_decay", float("nan")),
    ("weight_decay", -0.1),
    ("learning_rate", float("nan")),
    ("learning_rate", float("inf")),
    ("learning_rate", -1e-3),
    ("max_grad_norm", -1.0),
    ("per_device_train_batch_size", 0),
    ("gradient_accumulation_steps", -2),
    ("rollouts_per_step", 3),
    ("report_to", "nope"),
    ("metric_for_best_model", "foo"),
    ("metric_for_best_model", "eval_loss"),
    ("deepspeed", "no.json"),
    ("optim", "nope"),
    ("optim", "adamw_apex_fused"),
    ("optim", "galore_adamw"),
    ("optim_args", "nonsense"),
    ("lr_scheduler_type", "nope"),
    ("lr_scheduler_type", "warmup_stable_decay"),
    ("save_strategy", "sometimes"),
    ("eval_strategy", "sometimes"),
    ("hub_strategy", "sometimes"),
    ("accelerator_config", "no.json"),
    ("fsdp", "nonsense"),
    ("debug", "nonsense"),
    ("output_dir", "elsewhere"),
    ("learning_rate", [1]),
    ("unheard_of", 1),
    *((name, True) for name in UNSUPPORTED),
]


def run(output: Path, **settings: Any) -> OPSDTrainer:
    content = {**BASE, "train": {**BASE["train"], "max_steps": 1, "use_cpu": True, **settings}}
    return train(recipes.parse(content, "r.yaml"), output)


@pytest.mark.parametrize(("name", "value"), NONSENSE, ids=lambda x: str(x)[:20])
def test_nonsense_is_one_line_that_names_the_setting(tmp_path, name, value):
    with pytest.raises(UserError) as refused:
        run(tmp_path / "run", **{name: value})
    told = str(refused.value)
    assert "\n" not in told and "train" in told
    assert not (tmp_path / "run" / "metrics.jsonl").exists()


@pytest.mark.parametrize(
    ("where", "value"),
    [
        ({"model": {"name": "miniature", "lora": {"r": 8, "lora_alpha": 0}}}, "lora_alpha"),
        ({"model": {"name": "miniature", "lora": {"r": 0}}}, "lora.r"),
        ({"sampling": {"temperature": 1e-320}}, "sampling.temperature"),
        ({"sampling": {"temperature": float("nan")}}, "sampling.temperature"),
        ({"sampling": {"max_completion_length": -1}}, "max_completion_length"),
    ],
)
def test_nonsense_elsewhere_is_named_too(where, value):
    with pytest.raises(UserError, match=value):
        recipes.parse({**BASE, **where})


def test_what_does_nothing_is_said(tmp_path):
    given = {
        "warmup_steps": 3,
        "label_smoothing_factor": 0.1,
        "dataloader_num_workers": 2,
        "lr_scheduler_kwargs": {"nonsense": 1},
        "per_device_eval_batch_size": 3,
    }
    lines = without_effect(config(tmp_path, **given))
    assert len(lines) == len(given)
    assert all(any(f"train.{name} changes nothing" in line for line in lines) for name in given)
    assert without_effect(config(tmp_path, warmup_steps=3, lr_scheduler_type="linear")) == []
    assert without_effect(OPSDConfig(output_dir=str(tmp_path), eval_strategy="steps")) == []
    args = config(tmp_path, **given)
    trainer = OPSDTrainer("miniature", methods.opsd(), args, problems(4))
    assert set(lines) <= set(config_warnings(trainer.setup, trainer.args.max_steps))


def test_every_setting_that_is_judged_is_one_of_the_trainers():
    known = OPSDConfig.__dataclass_fields__.keys()
    judged = {*UNSUPPORTED, *(n for names in WITHOUT_EFFECT for n in names.split())}
    assert judged <= known


@pytest.mark.parametrize("name", sorted(shipped()))
def test_no_shipped_recipe_has_a_setting_without_effect(tmp_path, name):
    train = recipes.load(name).train
    assert without_effect(OPSDConfig(output_dir=str(tmp_path), **train)) == []
    assert "\t" not in yaml.safe_dump(train)


def test_an_option_that_the_chat_template_does_not_know_is_said(tmp_path):
    method = recipes.method(
        {"name": "opsd", "student": {"template_options": {"enable_thoughts": True}}}
    )
    trainer = OPSDTrainer("miniature", method, config(tmp_path), problems(4))
    told = "method.student.template_options: this chat template does not know 'enable_thoughts'"
    assert any(
        line.startswith(told) for line in config_warnings(trainer.setup, trainer.args.max_steps)
    )

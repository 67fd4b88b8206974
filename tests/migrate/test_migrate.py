"""Launch scripts of the papers' settings become the recipes that ship; every flag has its line."""

from __future__ import annotations

import ast
import importlib.util
import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner

from opsd.cli.commands import app
from opsd.migrate.launches import scalar
from opsd.migrate.migrate import Migrated, migrate
from opsd.migrate.sources import LAUNCHERS, Case, programs, source, sources
from opsd.recipe.schema import Recipe, load, parse
from opsd.types import UserError

ADAPTER = "q_proj k_proj v_proj o_proj gate_proj up_proj down_proj"
OPSD = """#!/bin/bash
# {size}
MODEL=Qwen/Qwen3-{size}
accelerate launch --config_file zero2.yaml --num_processes {gpus} \\
    --gradient_accumulation_steps {passes} --main_process_port 12949 \\
    opsd_train.py \\
    --model_name_or_path "$MODEL" --torch_dtype bfloat16 --attn_implementation flash_attention_2 \\
    --use_peft --lora_r 64 --lora_alpha 128 --lora_target_modules {adapter} \\
    --per_device_train_batch_size {batch} --gradient_accumulation_steps {passes} \\
    --gradient_checkpointing --num_train_epochs 30 --logging_steps 2 --output_dir out/ \\
    --temperature 1.1 --top_p 0.95 --top_k 20 --max_length 20000 \\
    --use_vllm --vllm_mode colocate --vllm_gpu_memory_utilization 0.6 \\
    --fixed_teacher --lmbda 1 --run_config first_{size} --wandb_project OPSD \\
    {rest}
"""
THIRD = (
    "--learning_rate 5e-6 --max_grad_norm 0.1 --beta 0 --max_completion_length 1024 --save_steps 25"
)
FIRST = "--learning_rate 2e-4 --beta 0.5 --save_steps 50"
MACHINE = [
    "engine.type=vllm",
    "model.dtype=bfloat16",
    "model.attn_implementation=flash_attention_2",
    "train.logging_steps=2",
    "train.gradient_checkpointing=true",
]
"""What a script says of the machine, and recipes leave to it."""
SETTINGS: dict[str, tuple[str, int, int, int, str, list[str]]] = {
    "opsd": ("1.7B", 4, 4, 2, f"{THIRD} --jsd_token_clip 0.05", []),
    "opsd-qwen3-4b": ("4B", 8, 4, 1, f"{THIRD} --jsd_token_clip 0.05", []),
    "opsd-qwen3-8b": ("8B", 8, 2, 2, f"{THIRD} --jsd_token_clip 0.06", []),
    "opsd-nonthinking-qwen3-4b": (
        *("4B", 4, 4, 2, f"{THIRD} --jsd_token_clip 1e-6 --teacher_thinking False"),
        ["train.max_steps=100"],  # the paper's numbers go to 150; no script says how many
    ),
    "opsd-nonthinking-qwen3-8b": (
        *("8B", 8, 2, 2, f"{THIRD} --jsd_token_clip 1e-7 --teacher_thinking=False"),
        [],
    ),
    "opsd_v1": ("1.7B", 8, 2, 2, f"{FIRST} --max_completion_length 2048", []),
    "opsd_v1-qwen3-4b": ("4B", 8, 1, 4, f"{FIRST} --max_completion_length 1024", []),
}
"""Recipe: size, GPUs, rollouts per pass, passes, the rest; and what only the paper says."""

COPSD = """#!/usr/bin/env bash
set -euo pipefail
CODES=(
  "swa"  # Kiswahili
  "yor"
)
DATA="./translated"
RATE="5e-6"
mkdir -p models
for code in "${{CODES[@]}}"; do
    NAME="$(echo "$code" | tr '[:lower:]' '[:upper:]')"
    FILE="${{DATA}}/translated_${{code}}.json"
    if [[ ! -f "$FILE" ]]; then
        echo "no $FILE"; exit 1
    fi
    CUDA_VISIBLE_DEVICES="0,1,2,3" accelerate launch \\
        --config_file zero2.yaml \\
        multilingual_opsd_train.py \\
        --train_language "$NAME" --translated_data_path "${{FILE}}" \\
        --model_name_or_path Qwen/Qwen3-{size} --torch_dtype bfloat16 \\
        --attn_implementation flash_attention_2 \\
        --use_peft --lora_r 64 --lora_alpha 128 --lora_target_modules {adapter} \\
        --learning_rate "$RATE" --max_grad_norm 0.1 --gradient_checkpointing \\
        --per_device_train_batch_size {batch} --gradient_accumulation_steps {passes} \\
        --num_train_epochs 30 --max_steps 100 --save_steps 5 --logging_steps 2 \\
        --max_completion_length 2048 --max_length 20000 --output_dir "models/$code" \\
        --temperature 1.1 --top_p 0.95 --top_k 20 --beta 0 --jsd_token_clip 0.05 \\
        --use_vllm --vllm_mode colocate --vllm_gpu_memory_utilization {memory} \\
        --vllm_tensor_parallel_size 1 --lmbda 1 --fixed_teacher --student_enable_thinking
done
"""


def written(folder: Path, text: str, name: str = "train.sh") -> Path:
    path = folder / name
    path.write_text(text, "utf-8")
    return path


def of_flags(folder: Path, program: str, flags: str, **given: Any) -> Migrated:
    return migrate(written(folder, f"python {program} {flags}\n"), **given)


def lines(made: Migrated, flag: str) -> list[str]:
    return [str(remark) for remark in made.remarks if remark.flag.startswith(flag)]


def resolved(recipe: Recipe) -> dict[str, Any]:
    return recipe.model_dump(mode="json", exclude={"published"})


@pytest.mark.parametrize("name", SETTINGS)
def test_a_script_of_opsd_is_the_shipped_recipe(name: str, tmp_path: Path):
    size, gpus, batch, passes, rest, printed = SETTINGS[name]
    text = OPSD.format(size=size, gpus=gpus, batch=batch, passes=passes, rest=rest, adapter=ADAPTER)
    made = migrate(written(tmp_path, text), "opsd_v1" if name.startswith("opsd_v1") else None)
    memory = "engine.gpu_memory_utilization=0.6"
    assert resolved(parse(made.recipe)) == resolved(load(name, [*MACHINE, memory, *printed]))
    assert not [remark for remark in made.remarks if remark.kind == "unknown"]


@pytest.mark.parametrize(
    ("name", "size", "batch", "passes", "memory"),
    [
        ("copsd", "1.7B", 4, 2, 0.4),
        ("copsd-qwen3-4b", "4B", 4, 2, 0.4),
        ("copsd-qwen3-8b", "8B", 2, 4, 0.5),
    ],
)
def test_a_script_of_copsd_is_the_shipped_recipe(name, size, batch, passes, memory, tmp_path):
    text = COPSD.format(size=size, batch=batch, passes=passes, memory=memory, adapter=ADAPTER)
    made = migrate(written(tmp_path, text), variables={"NAME": "SWA"})
    own = ["data.source=./translated/translated_swa.json"]
    own += [*MACHINE, f"engine.gpu_memory_utilization={memory}"]
    assert resolved(parse(made.recipe)) == resolved(load(name, own))
    assert any("a loop over code" in str(remark) for remark in made.remarks)


def test_the_file_that_is_written_is_that_recipe_with_every_line(tmp_path: Path):
    text = OPSD.format(size="1.7B", gpus=4, batch=4, passes=2, rest=THIRD, adapter=ADAPTER)
    script, output = written(tmp_path, text), tmp_path / "made.yaml"
    done = CliRunner().invoke(app, ["migrate", str(script), "--output", str(output)])
    assert done.exit_code == 0, done.output
    made = migrate(script)
    assert resolved(load(str(output))) == resolved(parse(made.recipe))
    for remark in made.remarks:
        assert f"# {remark}\n" in output.read_text("utf-8") and f"{remark}\n" in done.output
    shown = CliRunner().invoke(app, ["migrate", str(script)])
    assert yaml.safe_load(shown.stdout) == yaml.safe_load(output.read_text("utf-8"))
    told = json.loads(CliRunner().invoke(app, ["migrate", str(script), "--json"]).stdout)
    assert told["recipe"] == made.recipe and len(told["remarks"]) == len(made.remarks)
    again = CliRunner().invoke(app, ["migrate", str(script), "--output", str(output)])
    assert "already exists" in str(again.exception)


def test_flags_that_did_nothing_meant_something_else_or_are_unknown_are_named(tmp_path: Path):
    made = of_flags(
        tmp_path,
        "opsd_train.py",
        "--model_name_or_path m --use_peft --lmbda 0.5 --seq_kd --beta 1 --fixed_teacher"
        " --reason_first --learning_rat 1e-4 --neftune_noise_alpha 5 --uld_skip 3",
    )
    assert "did nothing there: read at the start" in lines(made, "--lmbda")[0]
    assert "did nothing there" in lines(made, "--seq_kd")[0]
    assert "changed: 1 is reverse KL" in lines(made, "--beta")[0]
    assert "no counterpart" in lines(made, "--reason_first")[0]
    assert "student's embeddings" in lines(made, "--neftune_noise_alpha")[0]
    assert "did nothing there" in lines(made, "--uld_skip")[0]
    (unknown,) = lines(made, "--learning_rat")
    assert "unknown: not carried over" in unknown and "'learning_rate'" in unknown
    assert made.recipe["train"]["learning_rate"] == 1e-7, "that code's own default"
    divergence = parse(made.recipe).method.signals[0][1].divergence
    assert (divergence.type, divergence.divergence.type) == ("pointwise_clip", "reverse_kl")


def teacher(folder: Path, flags: str) -> Any:
    made = of_flags(folder, "opsd_train.py", f"--model_name_or_path m --use_peft {flags}")
    return parse(made.recipe).method.signals[0][1].teacher


def test_a_teacher_that_no_flag_names_is_live(tmp_path: Path):
    assert teacher(tmp_path, "").weights.type == "live"
    assert teacher(tmp_path, "--fixed_teacher").weights.type == "frozen"
    average = teacher(tmp_path, "--use_ema_teacher --ema_decay 0.99").weights
    assert (average.type, average.decay) == ("ema", 0.99)


def test_the_support_is_the_teachers_likeliest_tokens_renormalised(tmp_path: Path):
    support = teacher(tmp_path, "--fixed_teacher --top_k_loss 50").support
    assert (support.k, support.by, support.rest) == (50, "solution", "renormalise")


def test_the_sampled_token_loss_is_its_method(tmp_path: Path):
    flags = "--model_name_or_path m --use_peft --fixed_teacher --use_tinker_loss --beta 0"
    made = of_flags(tmp_path, "opsd_train.py", flags)
    assert parse(made.recipe).method.signal == load("sampled_token").method.signal
    assert "did nothing there" in lines(made, "--beta")[0]
    made = of_flags(tmp_path, "multilingual_opsd_train.py", flags)
    assert parse(made.recipe).method.signal.type == "advantage"


def test_copsds_ablations_choose_what_the_teacher_reads(tmp_path: Path):
    for flags, shown in {
        "--include_problem_en False": ("problem", "solution"),
        "--include_reference_solution_en False": ("problem", "translation"),
        "--include_problem_en no --include_problem_en False"
        " --include_reference_solution_en False": ("problem",),
    }.items():
        flags = f"--model_name_or_path m --train_language SW {flags}"
        made = parse(of_flags(tmp_path, "multilingual_opsd_train.py", flags).recipe)
        assert made.method.signals[0][1].teacher.context.include == shown
        assert made.data.source == "./translated_opsd/translated_full_{language}.json"
        assert made.data.asked == {"swa": "sw"} and made.method.student.prefill == ""


def test_without_the_number_of_processes_passes_are_kept_and_that_is_said(tmp_path: Path):
    path = written(tmp_path, "accelerate launch opsd_train.py --model_name_or_path m --use_peft\n")
    made = migrate(path)
    assert made.recipe["train"]["gradient_accumulation_steps"] == 1
    assert any("not given: processes" in str(remark) for remark in made.remarks)
    path.write_text("torchrun --nproc_per_node 4 --nnodes=2 opsd_train.py --model_name_or_path m")
    assert migrate(path).recipe["train"]["rollouts_per_step"] == 64


def test_trls_gkd_from_a_configuration_file(tmp_path: Path):
    path = written(
        tmp_path,
        "model_name_or_path: Qwen/Qwen3-0.6B\nteacher_model_name_or_path: Qwen/Qwen3-4B\n"
        "lmbda: 1.0\nbeta: 0.1\nseq_kd: false\nuse_peft: true\nlearning_rate: 1e-4\n"
        "dataset_name: me/mine\nreport_to: none\n",
        "gkd.yaml",
    )
    made = parse(migrate(path).recipe)
    (_, term), *_ = made.method.signals
    assert (term.divergence.type, term.divergence.beta, term.temperature) == ("jsd", 0.1, 1.0)
    assert term.teacher.weights.path == "Qwen/Qwen3-4B" and made.model.lora.r == 16
    assert (made.data.source, made.sampling.max_completion_length) == ("me/mine", 128)
    assert made.train["learning_rate"] == 1e-4 and made.train["num_train_epochs"] == 3
    assert made.method.student.template == "{{ problem }}"


def test_a_command_lines_flags_go_over_those_of_its_configuration(tmp_path: Path):
    written(tmp_path, "lmbda: 1.0\nmodel_name_or_path: m\nbeta: 0\n", "own.yaml")
    made = of_flags(tmp_path, "gkd.py", "--config own.yaml --beta 1")
    assert parse(made.recipe).method.signals[0][1].divergence.type == "reverse_kl"


def test_trls_sdft_and_sdpo(tmp_path: Path):
    flags = (
        "--model_name_or_path m --teacher_model_kind ema --teacher_update_rate 0.01"
        " --distillation_alpha 0 --distillation_topk 50 --distillation_add_tail"
        " --num_loss_tokens_to_skip 3 --num_generations 1"
    )
    made = parse(of_flags(tmp_path, "sdft.py", flags).recipe).method
    term = made.signals[0][1]
    assert (term.teacher.weights.decay, term.teacher.support.k) == (0.99, 50)
    assert term.teacher.support.rest == "tail" and term.divergence.type == "forward_kl"
    assert [part.type for part in term.weighting] == ["skip_first", "importance_weight"]
    flags = "--model_name_or_path m --include_environment_feedback --distillation_mode full_logits"
    made = parse(of_flags(tmp_path, "train_sdpo.py", flags).recipe).method
    term = made.signals[0][1]
    assert (term.teacher.context.demonstration, term.teacher.weights.decay) == ("both", 0.95)
    assert made.source.group == 8 and term.divergence.type == "reverse_kl"


def test_ms_swifts_opsd_in_gkd_and_grpo(tmp_path: Path):
    flags = """\\
    --model Qwen/Qwen3-4B {teacher} --tuner_type lora --lora_rank 64 --lora_alpha 128 \\
    --target_modules all-linear --dataset 'me/mine' --lmbda 1.0 --beta 0.5 \\
    --temperature 1.2 --max_steps 1000 --per_device_train_batch_size 1 \\
    --gradient_accumulation_steps 4 --learning_rate 2e-5 --max_completion_length 2048 \\
    --deepspeed zero1 --use_vllm true --vllm_mode colocate --sleep_level 1 --attn_impl flash_attn
"""
    before = "NPROC_PER_NODE=8 \\\nCUDA_VISIBLE_DEVICES=0,1 \\\nswift rlhf --rlhf_type "
    gkd = before + "gkd " + flags.format(teacher="--teacher_model Qwen/Qwen3-4B")
    path = written(tmp_path, gkd)
    made = parse(migrate(path).recipe)
    term = made.method.signals[0][1]
    assert (term.teacher.weights.type, term.divergence.beta) == ("frozen", 0.5)
    assert made.train["rollouts_per_step"] == 32 and made.engine.sleep
    assert (made.model.lora.r, made.model.attn_implementation) == (64, "flash_attention_2")
    path.write_text(before + "gkd " + flags.format(teacher=""))
    assert parse(migrate(path).recipe).method.signals[0][1].teacher.weights.type == "live"
    path.write_text(before + "grpo " + flags.format(teacher="--teacher_kl_coef 0.1"))
    made = migrate(path)
    assert made.recipe["method"]["name"] == "grpo" and lines(made, "--teacher_kl_coef")


def test_tinkers_settings(tmp_path: Path):
    path = written(
        tmp_path,
        "python -m tinker_cookbook.recipes.sdft.train \\\n  model_name=Qwen/Qwen3-8B \\\n"
        "  dataset=sciknoweval groups_per_batch=16 group_size=2 learning_rate=2e-5 topk=0 oops=1\n",
    )
    made = migrate(path)
    recipe = parse(made.recipe)
    assert recipe.train["rollouts_per_step"] == 32 and recipe.method.source.group == 2
    assert recipe.method.signals[0][1].teacher.support.type == "full"
    assert lines(made, "dataset=") and "unknown" in lines(made, "oops=")[0]


def test_a_project_of_ones_own_is_a_file(tmp_path: Path):
    own = written(
        tmp_path,
        "about: mine\nprograms: [learn.py]\n"
        "recipe: {method: {name: opsd}, data: {source: x.jsonl}}\n"
        "flags:\n  base: model.name\n  rate: {default: 0.1, to: train.learning_rate}\n",
        "mine.yaml",
    )
    made = of_flags(tmp_path, "learn.py", "--base m", asked=str(own))
    assert made.recipe["model"] == {"name": "m"} and made.recipe["train"] == {"learning_rate": 0.1}
    own.write_text("about: mine\nprogams: []\n")
    with pytest.raises(UserError, match=r"unknown key; did you mean 'programs'\?"):
        of_flags(tmp_path, "learn.py", "--base m", asked=str(own))


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("echo hello\n", "no launch command found"),
        ("python other.py --a 1\n", "no launch command found"),
        (
            "python opsd_train.py --learning_rate $(cat rate)\n",
            "$(cat rate), which is not run here",
        ),
        ("python opsd_train.py $MORE\n", "--variable MORE=VALUE"),
        ("python opsd_train.py --beta 'x\n", "a quote that is not closed"),
        ("python opsd_train.py --use_peft\n", "as a recipe: model.name: Field required"),
        ("python opsd_train.py --model_name_or_path m --temperature 0\n", "sampling.temperature"),
    ],
)
def test_what_cannot_be_read_is_one_line(text: str, told: str, tmp_path: Path):
    with pytest.raises(UserError) as error:
        migrate(written(tmp_path, text))
    assert told in str(error.value) and "\n" not in str(error.value)


def test_files_that_are_no_scripts_are_refused(tmp_path: Path):
    path = tmp_path / "train.sh"
    for content in (b"\xff\xfe\x00", b"python opsd_train.py\0"):
        path.write_bytes(content)
        with pytest.raises(UserError, match="not a text"):
            migrate(path)
    with pytest.raises(UserError, match="cannot be read"):
        migrate(tmp_path / "nothing.sh")
    with pytest.raises(UserError, match=r"which project.s configuration"):
        migrate(written(tmp_path, "learning_rate: 1\n", "x.yaml"))
    with pytest.raises(UserError, match="is a recipe already"):
        migrate(written(tmp_path, "model: m\nmethod: opsd\ndata: x\n", "y.yaml"))
    with pytest.raises(UserError, match="unknown project 'opds'; did you mean 'opsd'"):
        migrate(written(tmp_path, "python x.py\n"), "opds")


def test_credentials_are_not_written(tmp_path: Path):
    secret = "hf_" + "a" * 30
    flags = f"--model_name_or_path m --hub_token {secret} --mine {secret} --api_key word1234"
    text = of_flags(tmp_path, "opsd_train.py", flags).text
    assert secret not in text and "word1234" not in text


PRINTED = {
    "opsd": "use_tinker_loss fixed_teacher run_config presence_penalty reason_first top_k_loss"
    " jsd_token_clip use_ema_teacher ema_decay student_thinking teacher_thinking learning_rate"
    " temperature top_p top_k lmbda beta max_completion_length student_model_revision"
    " teacher_model_name_or_path teacher_model_init_kwargs teacher_tokenizer_name_or_path"
    " disable_dropout seq_kd steps_per_generation use_uld_loss use_transformers_paged use_vllm"
    " vllm_mode vllm_server_host vllm_server_port vllm_server_timeout vllm_gpu_memory_utilization"
    " vllm_tensor_parallel_size vllm_guided_decoding_regex vllm_sync_frequency"
    " vllm_enable_sleep_mode log_completions log_completions_steps num_completions_to_print"
    " callbacks hub_model_revision overwrite_hub_revision push_to_hub_revision trl_project"
    " max_length dataset_num_proc dataset_kwargs shuffle_dataset packing output_dir"
    " per_device_train_batch_size gradient_accumulation_steps num_train_epochs max_steps"
    " save_steps max_grad_norm lr_scheduler_type model_name_or_path model_revision"
    " dtype torch_dtype trust_remote_code attn_implementation use_peft lora_r lora_alpha"
    " lora_dropout lora_target_modules lora_modules_to_save use_rslora use_dora load_in_8bit"
    " load_in_4bit bnb_4bit_quant_type",
    "copsd": "translated_data_path translated_data_dir train_language require_translation_ok"
    " student_enable_thinking include_problem_en include_reference_solution_en",
}
"""Flags of the released programs, but for fields of `TrainingArguments` that are fields here."""


@pytest.mark.parametrize("name", PRINTED)
def test_every_flag_of_the_released_programs_has_a_rule(name: str):
    assert not set(PRINTED[name].split()) - source(name).flags.keys()


@pytest.mark.parametrize("name", ["gkd", "sdft", "sdpo"])
def test_every_field_of_trls_configuration_is_known(name: str):
    found = importlib.util.find_spec("trl")
    if found is None:
        pytest.skip("TRL is not installed")
    (folder,) = found.submodule_search_locations or ()
    text = Path(folder, "experimental", name, f"{name}_config.py").read_text("utf-8")
    (config,) = (node for node in ast.parse(text).body if isinstance(node, ast.ClassDef))
    own = {
        line.target.id
        for line in config.body
        if isinstance(line, ast.AnnAssign) and isinstance(line.target, ast.Name)
    } - {"remove_unused_columns", "model_init_kwargs"}
    assert len(own) > 5
    assert sorted(own - source(name).flags.keys()) == []


SAMPLES: dict[str, Any] = {
    "beta": 0.5,
    "distillation_alpha": 0.5,
    "max_length": 4096,
    "top_k": 5,
    "num_iterations": 2,
    "num_substeps": 2,
    "chat_template_kwargs": '{"enable_thinking": false}',
    "dtype": "bfloat16",
    "torch_dtype": "bfloat16",
    "vllm_server_base_url": "http://localhost:8000",
    "vllm_gpu_memory_utilization": 0.5,
    "min_p": 0.1,
    "top_p": 0.9,
    "split_dataset_ratio": 0.1,
    "temperature": 0.5,
}
TEXTS = {
    *("dataset_name", "dataset_config", "dataset_train_split", "model_name_or_path", "model"),
    *("dataset", "attn_implementation", "model_revision", "student_model_revision", "attn_impl"),
    *("teacher_model_name_or_path", "teacher_model", "translated_data_path", "target_modules"),
}
YES = {"dataset_streaming", "trust_remote_code", "vllm_enable_sleep_mode"}


def tried(flag: str, case: Case, default: Any) -> list[Any]:
    """Values that a case is tried with: those it names, or one of its kind."""
    if case.values:
        other = 0 if "positive" in case.values else SAMPLES.get(flag, "another")
        known = {"positive": 3, "other": other}
        return [known.get(key, key) if isinstance(key, str) else key for key in case.values]
    if default not in (None, ""):
        return [default]
    return [SAMPLES.get(flag, "mine" if flag in TEXTS else True if flag in YES else 2)]


@pytest.mark.parametrize("name", programs())
def test_whatever_a_rule_writes_a_recipe_can_have(name: str, tmp_path: Path):
    """Every case of every flag, in a launch in which it holds, gives a recipe that is valid."""
    own, number = source(name), 0
    model = {"swift": "--model", "swift_grpo": "--model", "tinker": "--model_name"}
    for flag, rule in own.flags.items():
        for case in rule.cases:
            if case.to is None:
                continue
            for value in tried(flag, case, rule.default):
                given = {**own.only, **case.when, flag: case.when.get(flag, value)}
                for key, wanted in case.when.items():
                    given[key] = (
                        wanted[0 if key == flag else -1] if isinstance(wanted, list) else wanted
                    )
                words = [f"{model.get(name, '--model_name_or_path')} base"]
                for key, wanted in given.items():
                    if wanted in (None, "", -1) or str(wanted).startswith("$"):
                        continue
                    text = " ".join(map(str, wanted)) if isinstance(wanted, list) else wanted
                    quoted = f"'{text}'" if str(text).startswith("{") else text
                    words.append(f"--{key} {quoted}")
                try:
                    of_flags(tmp_path, "x.py", " ".join(words), asked=name)
                except UserError as error:
                    raise AssertionError(f"{name}: {' '.join(words)}: {error}") from error
                number += 1
    assert number > 10


def test_the_rules_are_whole():
    """A case does one thing, names flags that there are, and a line is one line."""
    for name, one in sources().items():
        for flag, rule in one.flags.items():
            assert rule.cases, (name, flag)
            for case in rule.cases:
                told = [case.dead, case.always, case.none]
                assert sum(x is not None for x in told) + (case.to is not None) <= 1, (name, flag)
                assert not case.values or case.value is None, (name, flag)
                known = {*one.flags, "processes"}
                assert case.when.keys() <= known, (name, flag)
                for text in (*told, case.why):
                    assert text is None or "\n" not in text, (name, flag)
        assert set(one.rollouts) <= {*one.flags, "processes"}
    assert LAUNCHERS in sources() and LAUNCHERS not in programs()


def test_a_word_is_a_value():
    assert [scalar(x) for x in ("1e-6", "-1", "true", "null", '{"a": 1}', "{x", "0,1")] == [
        *(1e-6, -1, True, None, {"a": 1}, "{x", "0,1")
    ]

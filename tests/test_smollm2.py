"""The whole path with a real pretrained model, SmolLM2-135M-Instruct: read, trained, resumed,
evaluated, exported, and loaded by Transformers and PEFT alone."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file
from tests.arrange import gap, metrics
from tests.pretrained import ROWS, fetched
from tests.teacher.test_served import serving
from transformers import AutoModelForCausalLM, AutoTokenizer

from opsd.evaluate.command import evaluate_models
from opsd.lm.forward import score
from opsd.lm.layout import continued
from opsd.lm.loading import load_model, load_tokenizer, vocabulary
from opsd.objective.divergences import forward_kl
from opsd.preview.rows import preview
from opsd.publish.export import export
from opsd.recipe.schema import Recipe, parse
from opsd.recipe.train import train
from opsd.runs.files import read_jsonl
from opsd.teacher.served import ServedReader

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def model() -> Path:
    return fetched("smollm2")


@pytest.fixture(scope="module")
def rows(tmp_path_factory) -> dict[str, Path]:
    """The problems as files: in English, and in Swahili with their translation."""
    folder = tmp_path_factory.mktemp("data")
    english = [
        {"problem": row["problem"], "solution": row["solution"], "answer": row["answer"]}
        for row in ROWS
    ]
    files = {"eng": (folder / "eng.jsonl", english), "swa": (folder / "swa.jsonl", ROWS)}
    for file, content in files.values():
        file.write_text("".join(json.dumps(row) + "\n" for row in content))
    return {language: file for language, (file, _) in files.items()}


def recipe(model: Path, method: str, file: Path, steps: int) -> Recipe:
    """Steps of two short rollouts."""
    return parse(
        {
            "model": {"name": str(model), "lora": {"r": 4, "lora_alpha": 8}},
            "method": method,
            "data": {"source": str(file)},
            "sampling": {"max_completion_length": 8, "temperature": 1.0},
            "train": {
                "max_steps": steps,
                "per_device_train_batch_size": 2,
                "gradient_accumulation_steps": 1,
                "gradient_checkpointing": False,
                "learning_rate": 1e-3,
                "save_steps": 1,
                "trace_steps": 0,
                "report_to": [],
                "disable_tqdm": True,
                "use_cpu": True,
            },
        }
    )


@pytest.fixture(scope="module")
def run(tmp_path_factory, model, rows) -> Path:
    """Two steps of OPSD, the second one resumed."""
    folder = tmp_path_factory.mktemp("runs") / "opsd"
    train(recipe(model, "opsd", rows["eng"], 1), folder)
    train(recipe(model, "opsd", rows["eng"], 2), folder, resume=True)
    return folder


def learned(run: Path) -> list[dict[str, Any]]:
    return [row for row in metrics(run) if "loss" in row]


def greedy(model: Any, tokenizer: Any, question: str, tokens: int = 8) -> list[int]:
    prompt = tokenizer.apply_chat_template(
        [{"role": "user", "content": question}],
        add_generation_prompt=True,
        return_tensors="pt",
        return_dict=True,
    )
    made = model.eval().generate(**prompt, max_new_tokens=tokens, do_sample=False)
    return made[0, prompt["input_ids"].shape[1] :].tolist()


def test_it_is_the_model_that_it_says_it_is(model):
    tokenizer = AutoTokenizer.from_pretrained(model)
    network = AutoModelForCausalLM.from_pretrained(model)
    assert network.num_parameters() == 134_515_008 and network.dtype == torch.float32
    said = tokenizer.decode(greedy(network, tokenizer, "What is the capital of France?"))
    assert said.startswith("The capital of France is Paris.")


def test_both_prompts_are_read_through_its_chat_template(model, rows):
    seen = preview(recipe(model, "copsd", rows["swa"], 1))
    assert seen["tokens"]["end"]["text"] == "<|im_end|>" and seen["scan"]["rows"] == len(ROWS)
    student, teacher = (
        "".join(token["text"] for token in view["tokens"]) for view in seen["rows"][0]["views"]
    )
    (row,) = (row for row in ROWS if row["problem_translated"] in student)
    assert "<|im_start|>user\n" in student and row["problem"] not in student
    assert all(row[told] in teacher for told in ("problem_translated", "problem", "solution"))


def test_opsd_takes_two_steps_one_of_them_resumed(run, model):
    steps = learned(run)
    assert [row["step"] for row in steps] == [1, 2]
    assert all(row["loss"] > 0 and row["grad_norm"] > 0 for row in steps)
    first, last, saved = (
        load_file(run / name / "adapter_model.safetensors")
        for name in ("checkpoint-1", "checkpoint-2", "model")
    )
    assert gap(first, last) > 1e-4 and gap(saved, last) == 0
    about = json.loads((run / "model" / "adapter_config.json").read_text())
    assert about["base_model_name_or_path"] == str(model)


def test_copsd_takes_two_steps(tmp_path, model, rows):
    train(recipe(model, "copsd", rows["swa"], 2), tmp_path / "copsd")
    steps = learned(tmp_path / "copsd")
    assert [row["step"] for row in steps] == [1, 2]
    assert all(row["loss"] > 0 and row["grad_norm"] > 0 for row in steps)


def test_it_is_evaluated(tmp_path, run, rows):
    told = evaluate_models(
        [str(run / "model")], data=str(rows["eng"]), samples=1, budgets=[8], output=tmp_path
    )
    (result,) = told["results"]
    (file,) = tmp_path.glob("*/*/samples.jsonl")
    assert len(list(read_jsonl(file))) == len(ROWS) and 0 < result["mean_length"] <= 8


def test_its_export_writes_the_same_tokens_in_transformers_and_peft(tmp_path, run, model):
    merged, adapter = export(run, tmp_path / "whole"), export(run, tmp_path / "lora", merge=False)
    tokenizer = AutoTokenizer.from_pretrained(merged)
    base = AutoModelForCausalLM.from_pretrained(model)
    models = (
        load_model(str(run / "model")),
        AutoModelForCausalLM.from_pretrained(merged),
        PeftModel.from_pretrained(base, adapter),
    )
    ids = torch.tensor([tokenizer("Asha has 3 pens.")["input_ids"]])
    with torch.no_grad():
        ours, alone, peft = (m.eval()(ids).logits for m in models)
        with models[2].disable_adapter():
            untrained = models[2](ids).logits
    assert (ours - peft).abs().max() == 0 and (ours - alone).abs().max() < 1e-3
    assert (ours - untrained).abs().max() > 1e-2
    written = [greedy(m, tokenizer, ROWS[0]["problem"]) for m in models]
    assert written[0] == written[1] == written[2] and len(written[0]) == 8


def test_served_as_a_teacher_it_says_what_it_says_at_home(model):
    tokenizer = load_tokenizer(str(model))
    inputs = [
        continued(tokenizer(row["problem"])["input_ids"], tokenizer(row["solution"])["input_ids"])
        for row in ROWS
    ]
    vocab = vocabulary(tokenizer)
    home = load_model(str(model), dtype="float32").eval()
    rows_ND, head = score(home, inputs, tokenizer.pad_token_id, vocab)
    with serving(model) as served:
        reader = ServedReader([served.url], tokenizer, str(model))
        read_ND = torch.cat(reader.ask(inputs)())
        own = reader.head(read_ND.device)
    pair = (x.logits(rows).log_softmax(-1) for x, rows in ((own, read_ND), (head, rows_ND)))
    assert forward_kl(*pair).abs().max() < 1e-6
    assert 80 * served.sent < len(rows_ND) * vocab * 4  # of float32 logits

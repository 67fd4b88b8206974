"""The model card of a real run, and of untrusted content."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from huggingface_hub import ModelCard
from hypothesis import given
from hypothesis import strategies as st

from opsd import methods
from opsd.evaluate.results import write
from opsd.methods.parsing import method as parse_method
from opsd.publish.card import card, plain
from opsd.publish.export import export
from opsd.recipe.schema import dump, parse
from opsd.recipe.train import train
from opsd.types import UserError

PUBLISHED = [
    {"suite": "afrimgsm", "metric": "pass@12", "value": 15.5, "budget": 4096, "where": "Table 1"},
    {"suite": "afrimgsm", "metric": "avg@12", "value": 9.5, "language": "yor"}
    | {"budget": 4096, "where": "Table 2"},
]
QUICK = {
    "max_steps": 2,
    "per_device_train_batch_size": 2,
    "gradient_accumulation_steps": 1,
    "save_steps": 1,
    "eval_samples": 1,
    "report_to": [],
    "disable_tqdm": True,
    "use_cpu": True,
    "bf16": False,
}


def result(suite: str, language: str, samples: int, score: float, **changes: Any) -> dict[str, Any]:
    """A row as an evaluation writes it."""
    return {
        "model": "anywhere/run/model",
        "suite": suite,
        "language": language,
        "labels": "upstream",
        "budget": 4096,
        "n_problems": 250,
        "samples": samples,
        "avg@k": score,
        "pass@k": score + 0.1,
        "format_rate": 0.9,
        "accuracy_given_format": 0.5,
        "cut_off": 0.1,
        "interval": [score - 0.05, score + 0.05],
        **changes,
    }


@pytest.fixture(scope="module")
def run(tmp_path_factory, tiny_folder) -> Path:
    """Two steps of COPSD, a checkpoint and a dev score after each; then two evaluations."""
    folder = tmp_path_factory.mktemp("card") / "run"
    recipe = parse(
        {
            "model": {"name": str(tiny_folder), "lora": {"r": 4, "lora_alpha": 8}},
            "method": "copsd",
            "data": {"source": "miniature", "language": "swa", "limit": 6, "dev": 2},
            "sampling": {"max_completion_length": 6},
            "train": QUICK,
            "published": PUBLISHED,
        }
    )
    train(recipe, folder)
    rows = [result("afrimgsm", "swa", 12, 0.25), result("afrimgsm", "yor", 12, 0.35)]
    write(folder / "eval" / "ours" / "afrimgsm", 1.0, rows)
    base = [result("afrimgsm", "swa", 12, 0.11, model="Qwen/Qwen3-1.7B")]
    write(folder / "eval" / "base" / "afrimgsm", 1.0, base)
    return folder


def table(text: str, header: str) -> list[list[str]]:
    """The cells of the table with this header, without it."""
    lines = text[text.index(f"| {header} |") :].split("\n\n")[0].splitlines()
    return [[cell.strip() for cell in line.strip("|").split(" | ")] for line in lines[2:]]


def test_the_metadata_is_what_the_hub_reads(run):
    data = ModelCard(card(run, base="Qwen/Qwen3-1.7B", adapter=True)).data
    assert (data.base_model, data.base_model_relation) == ("Qwen/Qwen3-1.7B", "adapter")
    assert (data.library_name, data.pipeline_tag) == ("peft", "text-generation")
    assert data.tags == ["opsd", "on-policy-self-distillation", "copsd"]
    assert data.language == ["swa"] and data.license is None
    scores = {(r.dataset_type, r.dataset_config, r.metric_name): r for r in data.eval_results}
    assert len(scores) == 4  # the base's score is not this model's
    assert scores["afrimgsm", "yor", "pass@12, 4096 tokens"].metric_value == 0.45
    assert all(r.metric_type == "accuracy" for r in data.eval_results)


def test_a_merged_model_is_a_finetune_for_transformers(run):
    text = card(run, base="Qwen/Qwen3-1.7B", adapter=False, repository="someone/swahili")
    data = ModelCard(text).data
    assert (data.library_name, data.base_model_relation) == ("transformers", "finetune")
    assert "# swahili" in text and 'from_pretrained("someone/swahili")' in text
    assert "AutoPeftModel" not in text


def test_a_folder_of_this_machine_is_no_base_model(run, tiny_folder):
    text = card(run, adapter=False)
    assert ModelCard(text).data.base_model is None
    assert "\ntiny, trained with" in text and str(tiny_folder) not in text


def test_an_adapters_card_names_its_base_even_where_that_is_a_folder(run, tiny_folder):
    text = card(run, base=str(tiny_folder), adapter=True)
    data = ModelCard(text).data
    assert (data.base_model, data.base_model_relation) == ("tiny", "adapter")
    assert str(tiny_folder) not in text
    assert ModelCard(card(run, base="gpt2", adapter=True)).data.base_model == "gpt2"


def test_method_paper_and_data_are_told(run):
    text = card(run, adapter=True)
    assert "x distill at temperature 1.1: KL(target || student)" in text
    assert "(https://arxiv.org/abs/2605.09548)" in text
    assert "2 optimizer steps, " in text
    (row,) = table(text, "source | split | languages | rows read | trained on | dev | left out")
    assert row == ["miniature", "train", "swa", "8", "6", "2", "0"]
    assert ", enable_thinking=True" in text


def test_a_changed_method_is_not_credited_to_its_paper_and_shows_no_place(run):
    external = {"type": "external", "path": "/srv/somebody/secret/teacher"}
    changed = {"name": "opsd", "signal": {"teacher": {"weights": external}}, "reuse": 2}
    text = card(run, adapter=True, method=parse_method(changed))
    assert "arXiv 2601.18734v3, changed as below)" in text
    assert "changed from the paper: reuse: 1 -> 2" in text
    assert "weights: external (path teacher, dtype auto)" in text and "somebody" not in text


def test_results_stand_beside_the_printed_numbers(run):
    text = card(run, adapter=True)
    rows = table(text, "suite | language | labels | tokens | problems")
    assert [row[1] for row in rows] == ["swa", "yor"] and rows[0][5] == "0.250"
    printed = table(text, "suite | metric | printed | this model | where")
    # Two languages are not the suite's mean.
    assert printed[0] == ["afrimgsm", "pass@12", "15.5", "-", "Table 1"]
    assert printed[1][3] == "35.0 at 4,096 tokens"
    assert "dev problems, before training (step 0): avg@k 0" in text


def scored(folder: Path, *scores: float) -> Path:
    """A run that was scored before training and at every second step."""
    folder.mkdir()
    rows = [{"step": 2 * i, "eval_avg@k": x, "eval_pass@k": x} for i, x in enumerate(scores)]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


def dev_lines(text: str) -> list[str]:
    return [line for line in text.splitlines() if line.startswith("- dev problems")]


def test_the_dev_score_of_the_base_is_not_the_models(tmp_path):
    run = scored(tmp_path / "run", 0.125, 0.0, 0.05)
    text = card(run, adapter=True, step=2)
    assert dev_lines(text) == [
        "- dev problems, before training (step 0): avg@k 0.125, pass@k 0.125",
        "- dev problems, this model (step 2): avg@k 0.000, pass@k 0.000",
        "- dev problems, last one scored (step 4): avg@k 0.050, pass@k 0.050",
    ]
    assert "\n\n\n" not in text[text.index("## Results") : text.index("## Use")]
    assert dev_lines(card(run, adapter=True, step=4))[1:] == [
        "- dev problems, this model (step 4): avg@k 0.050, pass@k 0.050"
    ]


@pytest.mark.parametrize("part", [".", "checkpoint-1", "checkpoint-2"])
def test_a_cards_own_score_is_that_of_the_weights_beside_it(run, part, tmp_path):
    """Whichever checkpoint the run has kept: its weights are told by their bytes."""
    folder = export(run / part, tmp_path / "out", merge=False)
    weights = (folder / "adapter_model.safetensors").read_bytes()
    said = [line for line in dev_lines((folder / "README.md").read_text()) if "this model" in line]
    (step,) = re.findall(r"step (\d)", "".join(said))
    assert weights == (run / f"checkpoint-{step}" / "adapter_model.safetensors").read_bytes()
    if part == ".":
        assert said == dev_lines((run / "model" / "README.md").read_text())[1:2]


def test_the_recipe_in_a_card_is_the_recipe(run):
    text = card(run, adapter=True)
    shown = re.search(r"```yaml\n(.*?)\n```", text, re.DOTALL)
    written = yaml.safe_load((run / "recipe.yaml").read_text())
    written["model"]["name"] = Path(written["model"]["name"]).name
    assert shown and yaml.safe_load(shown[1]) == written


def test_tokens_and_places_stay_here(tmp_path):
    recipe = parse({"model": "Qwen/Qwen3-1.7B", "method": "opsd", "data": {"source": "x.jsonl"}})
    content = yaml.safe_load(dump(recipe))
    content["train"] = {"hub_token": "hf_abcdefghijklmnop", "run_name": "hf_qrstuvwxyzabcd"}
    content["data"]["source"] = "/elsewhere/somebody/secret/problems.jsonl"
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(content))
    text = card(tmp_path, adapter=True)
    assert "problems.jsonl" in text
    for hidden in ("hub_token", "abcdefghijklmnop", "qrstuvwxyz", "somebody", "/elsewhere"):
        assert hidden not in text


def test_a_run_from_python_has_a_card_of_its_own(tmp_path):
    text = card(tmp_path, base="a/b", adapter=True, method=methods.opsd())
    assert "KL(target || student)" in text and "2601.18734v3" in text
    assert "None yet" in text
    bare = card(tmp_path, adapter=False)
    assert ModelCard(bare).data.tags == ["opsd"]
    reward = card(tmp_path, adapter=False, method=methods.grpo())
    assert ModelCard(reward).data.tags == ["opsd", "grpo"]
    assert "GRPO" in reward and "arxiv.org/abs/2402.03300" in reward


NASTY = "x\n---\nlicense: evil\n| <img src=y> `z` [a](javascript:b) ```"


def test_nothing_in_a_run_can_write_the_card(tmp_path):
    recipe = parse({"model": NASTY, "method": "opsd", "data": {"source": NASTY, "split": NASTY}})
    (tmp_path / "recipe.yaml").write_text(dump(recipe))
    drop = {"reason": NASTY, "count": 1, "first": NASTY}
    account = {"rows": 3, "kept": {NASTY: 2}, "dropped": [drop]}
    (tmp_path / "data.json").write_text(json.dumps(account))
    (tmp_path / "env.json").write_text(json.dumps({"versions": {NASTY: NASTY}}))
    model = str(tmp_path / "model")
    write(tmp_path / "eval" / "x", 1.0, [result(NASTY, NASTY, 4, 0.5, model=model, labels=NASTY)])
    text = card(tmp_path, adapter=True)
    data = ModelCard(text).data
    assert data.license is None and data.language is None and data.datasets is None
    assert data.eval_results[0].dataset_type == " ".join(NASTY.split())
    body = text.split("\n---\n", 1)[1]
    prose = body[: body.index("## Recipe")] + body[body.index("## Versions") :]
    assert "\n---\n" not in prose
    assert "<img" not in prose.replace(r"\<img", "") and "[a]" not in prose
    (row,) = table(text, "source | split | languages | rows read | trained on | dev | left out")
    assert len(row) == 7
    assert "\n````yaml\n" in text and body.count("\n````\n") == 1


@given(st.text())
def test_plain_text_stays_on_its_line_and_in_its_cell(text):
    shown = plain(text)
    assert len(f"x{shown}x".splitlines()) == 1
    unescaped = re.sub(r"\\[\\`*_\[\]<>|#]", "", shown)
    assert not re.search(r"[`*_\[\]<>|#]", unescaped)


@pytest.mark.parametrize("text", ["{", "[1]", "\xff"])
def test_a_broken_file_is_named(tmp_path, text):
    file = tmp_path / "eval" / "result.json"
    file.parent.mkdir()
    file.write_bytes(text.encode("latin-1"))
    with pytest.raises(UserError, match=r"result\.json: (not JSON|not a mapping)"):
        card(tmp_path, adapter=False)

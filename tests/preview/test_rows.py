"""What a preview tells is what training does; and nothing in a row can act on the terminal."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
from peft import LoraConfig, get_peft_model
from tests.arrange import config, problems
from tests.prompts.families import save_tiny
from transformers import AutoModelForCausalLM

from opsd.data.batches import StepShape
from opsd.preview.rows import preview
from opsd.preview.text import show
from opsd.prompts.contexts import Solution
from opsd.recipe import schema as recipes
from opsd.recipe.schema import Recipe
from opsd.recipe.train import train
from opsd.runs.files import read_jsonl
from opsd.types import UserError

Row = dict[str, Any]


def rows(n: int = 4, language: str = "swa") -> list[Row]:
    return [
        {"problem": p.text, **p.privileged, "answer": p.answer, "language": language}
        for p in problems(n, language)
    ]


def recipe(
    folder: Path,
    method: Any = "copsd",
    *,
    model: Any = "miniature",
    given: list[Row] | None = None,
    **changes: Any,
) -> Recipe:
    """A recipe on a small file of rows, with some of its keys replaced."""
    path = folder / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in given or rows()))
    content = {
        "model": str(model),
        "method": method,
        "data": {"source": str(path)},
        "sampling": {"max_completion_length": 40, "top_k": 0, "top_p": 1.0},
    }
    return recipes.parse({**content, **changes})


def told(content: dict[str, Any]) -> dict[str, int]:
    return {note["note"]: note["rows"] for note in content["scan"]["notes"]}


def text(read: list[dict[str, Any]]) -> str:
    return "".join(token["text"] for token in read)


def ids(read: list[dict[str, Any]]) -> list[int]:
    return [token["id"] for token in read]


@pytest.mark.parametrize("method", ["copsd", "opsd", "sft"])
def test_prompts_and_learned_tokens_are_those_of_training(method: str, tiny_folder, tmp_path):
    settings = {"max_steps": 1, "per_device_train_batch_size": 4, "gradient_accumulation_steps": 1}
    quiet = {"gradient_checkpointing": False, "use_cpu": True, "save_strategy": "no"}
    asked = recipe(
        tmp_path,
        method,
        model=tiny_folder,
        train={**settings, **quiet, "disable_tqdm": True, "report_to": []},
    )
    shown = {row["problem"]: row for row in preview(asked, 4)["rows"]}
    train(asked, tmp_path / "run")
    trained = list(read_jsonl(tmp_path / "run" / "rollouts" / "rank0.jsonl"))
    assert len(shown) == len(trained) == 4
    for row in trained:
        student, *teachers = shown[row["problem"]]["views"]
        assert ids(student["tokens"]) == row["prompt_ids"]
        assert [ids(t["tokens"]) for t in teachers] == [v["prompt_ids"] for v in row["views"]]
        assert [t["view"] for t in teachers] == [v["name"] for v in row["views"]]
        if method == "sft":
            assert ids(shown[row["problem"]]["reply"]["tokens"]) == row["completion_ids"]


def test_a_row_shows_who_reads_what(tmp_path):
    content = preview(recipe(tmp_path), 1)
    (row,) = content["rows"]
    student, teacher = row["views"]
    given = rows()[0]
    assert (student["role"], student["weights"]) == ("student", "student")
    assert (teacher["role"], teacher["view"], teacher["weights"]) == (
        "teacher",
        "crosslingual",
        "frozen",
    )
    assert given["translation"] in text(teacher["tokens"])
    assert given["translation"] not in text(student["tokens"])
    for view in row["views"]:
        forced = [token for token in view["tokens"] if token["kind"] == "forced"]
        assert text(forced) == "<think>\nKama ilivyoombwa, ninafikiri kwa Kiswahili."
        assert forced == view["tokens"][-len(forced) :]
        assert view["length"] == len(view["tokens"]) and view["fits"] and view["reply"] == 40
    assert text(row["reply"]["tokens"]) == given["solution"] + "<|im_end|>"
    assert row["reply"]["signals"] == [
        {"signal": "distill", "in_loss": [True] * len(row["reply"]["tokens"])}
    ]
    assert json.loads(json.dumps(content)) == content
    assert told(content) == {}


def test_tokens_left_out_of_the_loss_are_told(tmp_path):
    method = {"name": "opsd", "signal": {"weighting": [{"type": "skip_first", "n": 2}]}}
    content = preview(recipe(tmp_path, method), 1)
    (signal,) = content["rows"][0]["reply"]["signals"]
    assert signal["in_loss"][:3] == [False, False, True] and signal["in_loss"][-1]
    assert not any("first token" in note for note in told(content))
    assert any("first token" in note for note in told(preview(recipe(tmp_path, "opsd"), 1)))


def test_a_reply_that_nothing_teaches_is_told(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(Solution, "__call__", lambda self, group, i, draw: None)
    content = preview(recipe(tmp_path, "opsd"), 1)
    (row,) = content["rows"]
    assert row["not_taught"] == ["teacher"]
    assert not any(row["reply"]["signals"][0]["in_loss"])
    show(content)
    assert "teacher: reads nothing for this reply" in capsys.readouterr().out


def test_who_samples_from_another_prompt_is_shown(tmp_path):
    sampled = preview(recipe(tmp_path, "off_policy_distillation"), 1)["rows"][0]["views"]
    assert [(v["role"], v["view"], v["weights"]) for v in sampled] == [
        ("student", "student", "student"),
        ("sampler", "solution", "frozen"),
        ("teacher", "solution", "frozen"),
    ]
    retried = preview(recipe(tmp_path, "star"), 1)["rows"][0]["views"]
    assert [(v["role"], v["view"]) for v in retried] == [
        ("student", "student"),
        ("second try", "solution"),
    ]


def test_a_teacher_may_read_the_rows_own_prompt(tmp_path):
    given = [row | {"teacher_prompt": f"Hint: {row['answer']}."} for row in rows(2)]
    method = {"name": "opsd", "signal": {"teacher": {"context": {"type": "teacher_prompt"}}}}
    teacher = preview(recipe(tmp_path, method, given=given), 1)["rows"][0]["views"][1]
    assert teacher["view"] == "teacher_prompt"
    asked = f"<|im_start|>user\nHint: {given[0]['answer']}.<|im_end|>\n"
    assert text(teacher["tokens"]).startswith(asked)


def test_a_row_without_a_solution_gets_a_made_up_reply(tmp_path):
    given = [{"problem": "1 + 1?", "answer": "2"}]
    reply = preview(recipe(tmp_path, "grpo", given=given), 1)["rows"][0]["reply"]
    assert reply["origin"] == "made up" and "\\boxed{2}" in text(reply["tokens"])


def test_lengths_are_counted_against_the_limit(tmp_path):
    given = rows(5)
    content = preview(recipe(tmp_path, given=given), 0)
    student, teacher = content["scan"]["lengths"]
    assert content["rows"] == [] and content["scan"]["rows"] == 5
    assert student["min"] <= student["median"] <= student["max"] < teacher["min"]
    assert (student["too_long"], teacher["too_long"]) == (0, 0)
    exact = preview(recipe(tmp_path, given=given, train={"max_length": teacher["max"] + 40}), 0)
    assert exact["scan"]["lengths"][1]["too_long"] == 0 and told(exact) == {}
    limit = teacher["max"] + 40 - 1  # one token too few for the longest
    for policy, words in (("error", "training stops"), ("skip", "training leaves the row out")):
        settings = {"max_length": limit, "prompt_too_long": policy}
        tight = preview(recipe(tmp_path, given=given, train=settings), 5)
        assert tight["limits"]["limit"] == limit
        assert tight["scan"]["lengths"][0]["too_long"] == 0
        assert tight["scan"]["lengths"][1]["too_long"] == 1
        (note,) = told(tight)
        assert words in note and "raise train.max_length" in note
        assert [v["fits"] for row in tight["rows"] for v in row["views"]].count(False) == 1


@pytest.mark.parametrize(
    ("train", "said"),
    [
        ({"per_device_train_batch_size": 16}, "128 rollouts, 1 of each of 128 problems"),
        ({"per_device_train_batch_size": 4, "rollouts_per_step": 12}, "12 rollouts"),
        ({"per_device_train_batch_size": 6, "gradient_accumulation_steps": 2}, "12 rollouts"),
    ],
)
def test_a_step_is_told_as_training_will_take_it(tmp_path, capsys, train, said):
    content = preview(recipe(tmp_path, train=train), 0)
    assert content["step"].startswith(said)
    show(content)
    assert said in " ".join(capsys.readouterr().out.split())
    args = config(tmp_path / "run", **{"gradient_accumulation_steps": None} | train)
    batch, passes = args.per_device_train_batch_size, args.gradient_accumulation_steps
    assert content["step"] == StepShape(batch * passes, micro_batches=passes).described


def test_the_models_context_is_a_limit_too(tmp_path, capsys):
    asked = recipe(tmp_path, sampling={"max_completion_length": 8190})
    content = preview(asked, 1)
    assert content["limits"]["limit"] == 8192 < content["limits"]["max_length"]
    assert all("max_length" not in note for note in told(content))
    show(content)
    out = capsys.readouterr().out
    assert "8,192 tokens (the model's context)" in out and "room for only" in out


def test_a_written_reply_needs_room_for_itself_alone(tmp_path):
    asked = recipe(tmp_path, "sft", sampling={"max_completion_length": 8190})
    content = preview(asked, 1)
    (row,) = content["rows"]
    assert row["views"][0]["fits"]
    assert row["views"][0]["reply"] == len(row["reply"]["tokens"])
    assert not row["reply"]["longer_than_a_rollout"]


def test_a_rollout_may_be_shorter_than_the_example(tmp_path, capsys):
    content = preview(recipe(tmp_path, sampling={"max_completion_length": 5}), 1)
    assert content["rows"][0]["reply"]["longer_than_a_rollout"]
    show(content)
    assert "it would be cut off, without its end" in capsys.readouterr().out


def test_texts_that_privilege_nobody_are_told(tmp_path):
    given = rows(4)
    given[1]["translation"] = given[1]["problem"]
    given[2]["solution"] = given[2]["problem"][:10]  # too short to be no chance
    ((note, count),) = told(preview(recipe(tmp_path, given=given), 1)).items()
    assert "student's own prompt contains 'translation'" in note and count == 1


def test_rows_that_make_no_prompt_are_counted_or_the_users_mistake(tmp_path, capsys):
    given = rows(4)
    given[2]["translation"] = "  "
    content = preview(recipe(tmp_path, given=given), 2)
    assert content["scan"]["broken"]["rows"] == 1
    show(content)
    out = " ".join(capsys.readouterr().out.split())
    assert "1 of 4 rows · no prompt can be built" in out and "'translation'" in out
    with pytest.raises(UserError, match="'translation'"):
        preview(recipe(tmp_path, given=given), 4)


def test_every_language_is_shown_before_any_is_shown_twice(tmp_path):
    given = [*rows(3, "swa"), *rows(2, "yor")]
    content = preview(recipe(tmp_path, given=given), 3)
    assert [row["language"] for row in content["rows"]] == ["swa", "yor", "swa"]


def test_a_stream_is_read_from_its_beginning(tmp_path, capsys):
    asked = recipe(tmp_path, given=rows(6))
    data = asked.data.model_copy(update={"streaming": True})
    content = preview(asked.model_copy(update={"data": data}), 1)
    assert content["problems"] is None and content["scan"]["rows"] == 6
    show(content)
    assert "a stream" in capsys.readouterr().out


def test_weights_are_not_needed(tiny_folder, tmp_path):
    folder = tmp_path / "weightless"
    shutil.copytree(tiny_folder, folder, ignore=shutil.ignore_patterns("*.safetensors"))
    assert not list(folder.glob("*.safetensors"))
    whole = preview(recipe(tmp_path, model=tiny_folder), 1)
    assert preview(recipe(tmp_path, model=folder), 1) == whole | {"model": str(folder)}


def test_an_adapters_folder_stands_for_its_base(tiny_folder, tokenizer, tmp_path):
    model = AutoModelForCausalLM.from_pretrained(tiny_folder)
    lora = LoraConfig(r=2, target_modules=["q_proj"], task_type="CAUSAL_LM")
    folder = tmp_path / "adapter"
    get_peft_model(model, lora).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    whole = preview(recipe(tmp_path, model=tiny_folder), 1)
    assert preview(recipe(tmp_path, model=folder), 1) == whole | {"model": str(folder)}


def test_a_model_without_a_configuration_is_named(tokenizer, tmp_path):
    tokenizer.save_pretrained(tmp_path / "bare")
    with pytest.raises(UserError, match=r"configuration of '.*bare'"):
        preview(recipe(tmp_path, model=tmp_path / "bare"), 1)


@pytest.mark.parametrize("name", ["llama3", "gemma3", "deepseek_r1"])
def test_a_reply_ends_with_the_templates_end(name: str, tmp_path, capsys):
    folder = save_tiny(name, tmp_path / name)
    content = preview(recipe(tmp_path, model=folder), 1)
    ends = {
        "llama3": "<|eot_id|>",
        "gemma3": "<end_of_turn>",
        "deepseek_r1": "<｜end▁of▁sentence｜>",
    }
    assert content["tokens"]["end"]["text"] == ends[name]
    assert content["rows"][0]["reply"]["tokens"][-1]["text"] == ends[name]
    tagless = [note for note in told(content) if "is not one token" in note]
    assert len(tagless) == (0 if name == "deepseek_r1" else 2)
    show(content)
    out = " ".join(capsys.readouterr().out.split())
    assert ("padding, the same token" in out) is (name != "gemma3")


def test_the_page_shows_every_token_and_on_demand_its_id(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("COLUMNS", "100")
    content = preview(recipe(tmp_path), 1)
    show(content)
    plain = capsys.readouterr().out
    show(content, ids=True)
    numbered = capsys.readouterr().out
    subscript = str.maketrans("0123456789", "₀₁₂₃₄₅₆₇₈₉")
    for view in content["rows"][0]["views"]:
        for token in view["tokens"]:
            assert token["text"].strip("\n ") in plain
            assert str(token["id"]).translate(subscript) in numbered
    assert "₁" not in plain
    assert re.search(r"<\|im_start\|>│user│⏎ ", plain)
    for words in (
        "forced beginning of the reply: in no loss, in no budget",
        "the reply begins here",
        "in the loss, from 'First' to '<|im_end|>', the end included",
        "nothing to remark",
        "a reply of 40 fits",
    ):
        assert words in plain


def test_long_replies_are_shown_by_their_ends(tmp_path, capsys):
    given = rows(1)
    given[0]["solution"] = "First 1 + 1 = 2." + " Then 2 + 2 = 4." * 60
    content = preview(recipe(tmp_path, given=given), 1)
    show(content)
    out = capsys.readouterr().out
    count = len(content["rows"][0]["reply"]["tokens"])
    assert f"… {count - 52:,} more …" in out


def test_nothing_in_a_row_acts_on_the_terminal(tmp_path, capsys):
    given = rows(1)
    given[0]["problem"] = "[red]5[/red] [/] \x1b[2Jgone\x07 \u202eabc \x9bz [link=x]y[/link]"
    show(preview(recipe(tmp_path, given=given), 1))
    out = capsys.readouterr().out
    assert not set("\x1b\x07\u202e\x9b") & set(out)
    joined = re.sub(r"[│\s⏎]|(?<=\n)", "", out)
    assert "[red]5[/red]" in joined and "[link=x]y[/link]" in joined
    assert "␛" in joined and "␇" in joined and "⟨202E⟩" in joined and "⟨009B⟩" in joined


def test_gold_answers_that_nothing_matches_are_remarked_on(tmp_path: Path):
    given = rows()
    given[2]["answer"] = "Because 1 + 1 = 2 the right answer is 12 apples"
    (remark,) = (note for note in told(preview(recipe(tmp_path, given=given))).items() if note[1])
    assert remark[0].startswith("gold answers are sentences") and remark[1] == 1
    assert "rows.jsonl, line 3: " in remark[0]

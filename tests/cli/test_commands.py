"""The command line: what it prints where, and that mistakes are one line and exit code 2."""

from __future__ import annotations

import io
import json
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import yaml
from peft import PrefixTuningConfig, get_peft_model
from tests.arrange import problems
from tests.conftest import tiny_model

from opsd.cli.commands import main
from opsd.data.problems import load_problems
from opsd.experiments.claims_page import write
from opsd.experiments.study import studies
from opsd.methods import FUNCTIONS
from opsd.recipe.files import shipped
from opsd.recipe.schema import load as load_recipe
from opsd.recipe.schema import parse
from opsd.recipe.train import make_trainer


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], tmp_path: Path):
    """Runs a command in this process: exit code, standard output, lines of standard error."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TOKENIZERS_PARALLELISM", "false")
    monkeypatch.setenv("COLUMNS", "200")

    def run(*arguments: object) -> tuple[int, str, list[str]]:
        monkeypatch.setattr(sys, "argv", ["opsd", *map(str, arguments)])
        capfd.readouterr()
        with pytest.raises(SystemExit) as stop:
            main()
        shown = capfd.readouterr()
        return int(stop.value.code or 0), shown.out, shown.err.splitlines()

    return run


def rows(folder: Path, **changes: Any) -> str:
    """A file of problems, with every row changed alike."""
    path = folder / "rows.jsonl"
    made = [{"problem": p.text, **p.privileged, "answer": p.answer} for p in problems(8)]
    path.write_text("".join(json.dumps({**row, **changes}) + "\n" for row in made))
    return str(path)


def recipe(folder: Path, model: object, **changes: Any) -> str:
    """A quick recipe on a file of problems, with some of its keys replaced."""
    content: dict[str, Any] = {
        "model": str(model),
        "method": "opsd",
        "data": {"source": rows(folder), "language": "swa"},
        "sampling": {"max_completion_length": 4},
        "train": {
            "max_steps": 2,
            "per_device_train_batch_size": 2,
            "gradient_accumulation_steps": 1,
            "gradient_checkpointing": False,
            "save_steps": 2,
            "use_cpu": True,
        },
    }
    for key, value in changes.items():
        merge = isinstance(value, dict) and isinstance(content.get(key), dict)
        content[key] = {**content[key], **value} if merge else value
    path = folder / "recipe.yaml"
    path.write_text(yaml.safe_dump(content))
    return str(path)


def refused(outcome: tuple[int, str, list[str]]) -> str:
    """What a refused command says: exactly one line."""
    code, out, errors = outcome
    assert (code, out, len(errors)) == (2, "", 1), errors
    assert errors[0].startswith("opsd: ")
    return errors[0].removeprefix("opsd: ")


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"colour": "red"}, "recipe.yaml: colour: unknown key"),
        ({"methd": "opsd"}, "recipe.yaml: methd: unknown key; did you mean 'method'?"),
        ({"train": {"max_stpes": 1}}, "did you mean 'max_steps'?"),
        ({"train": {"eval_strategy": "often"}}, "train"),
        ({"method": "opsdd"}, "unknown method 'opsdd'; did you mean 'opsd'? known:"),
        ({"data": {"source": "no/such.jsonl"}}, "data.source: no file 'no/such.jsonl'"),
        ({"data": {"columns": {"solution": "why"}}}, "no column 'why' for 'solution'"),
        ({"data": {"language": "xxx"}}, "unknown language 'xxx'"),
        ({"data": {"dev": 8}}, "data.dev takes 8 of 8 problems"),
        ({"model": "no/such/model"}, "cannot load"),
        ({"method": "grpo"}, "cannot be split into groups of 8"),
    ],
)
def test_a_recipe_that_cannot_be_run_is_refused(command, tmp_path, tiny_folder, changes, told):
    path = recipe(tmp_path, **{"model": tiny_folder, **changes})
    assert told in refused(command("train", path, "--output", "run"))
    assert not Path("run/recipe.yaml").exists()


def test_a_recipe_that_is_not_there_is_refused(command):
    assert refused(command("train", "no/such.yaml")) == "no recipe file 'no/such.yaml'"
    assert refused(command("train", "opds")).startswith("no recipe 'opds': neither a .yaml file")


def test_an_empty_file_of_problems_is_refused(command, tmp_path, tiny_folder):
    path = recipe(tmp_path, tiny_folder)
    (tmp_path / "rows.jsonl").write_text("")
    assert refused(command("train", path)).endswith("rows.jsonl contains no rows")


def test_rewards_without_answers_are_refused(command, tmp_path, tiny_folder):
    path = recipe(tmp_path, tiny_folder, method={"name": "grpo", "group": 2})
    rows(tmp_path, answer=None, solution="two")
    told = refused(command("train", path))
    assert told.startswith("grpo learns from right and wrong answers, but 8 problems have no")


def test_dev_problems_without_answers_are_refused_at_the_start(command, tmp_path, tiny_folder):
    path = recipe(tmp_path, tiny_folder, data={"dev": 2})
    rows(tmp_path, answer=None, solution="two")
    assert "have no answer (the first: " in refused(command("train", path))


def test_an_adapter_without_its_weights_is_refused(command, tmp_path, tiny_folder):
    folder = tmp_path / "models" / "adapter"
    folder.mkdir(parents=True)
    (folder / "adapter_config.json").write_text(
        json.dumps({"peft_type": "LORA", "base_model_name_or_path": str(tiny_folder)})
    )
    for arguments in (
        ("train", recipe(tmp_path, folder)),
        ("evaluate", folder, "--data", rows(tmp_path), "--language", "swa"),
    ):
        assert "has an adapter_config.json but no adapter_model.safetensors" in refused(
            command(*arguments)
        )


def test_a_frozen_teacher_that_is_impossible_is_refused(command, tmp_path, tiny_folder, tokenizer):
    model = tiny_model(len(tokenizer))
    model.name_or_path = model.config._name_or_path = str(tiny_folder)
    prefix = PrefixTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=3)
    get_peft_model(model, prefix).save_pretrained(tmp_path / "prefix")
    tokenizer.save_pretrained(tmp_path / "prefix")
    told = refused(command("train", recipe(tmp_path, tmp_path / "prefix")))
    assert told.startswith("a frozen teacher is impossible with prompt-learning adapters")


def test_a_prompt_over_the_limit_ends_with_one_line_that_says_how_to_go_on(
    command, tmp_path, tiny_folder
):
    path = recipe(tmp_path, tiny_folder, train={"max_length": 20})
    code, out, errors = command("train", path, "--output", "run")
    assert (code, out) == (2, "")
    assert not any("Traceback" in line for line in errors)
    mistakes = [line for line in errors if line.startswith("opsd: ")]
    assert mistakes == errors[-1:]
    assert "the prompt 'student' has" in mistakes[0] and "prompt_too_long: skip" in mistakes[0]
    code, _, errors = command(
        "train", path, "--output", "skip", "--set", "train.prompt_too_long=skip"
    )
    assert code == 0, errors
    (*_, last) = Path("skip/metrics.jsonl").read_text().splitlines()
    assert json.loads(last)["skipped_prompts"] == 4


def test_a_run_folder_is_taken_once_and_goes_on_only_as_itself(command, tmp_path, tiny_folder):
    path = recipe(tmp_path, tiny_folder)
    code, out, errors = command("train", path, "--output", "run", "--threads", "1")
    assert (code, out) == (0, ""), errors
    assert errors[0].startswith("method opsd (Zhao et al. 2026, arXiv 2601.18734v3)")
    assert {f.name for f in Path("run").iterdir()} >= {
        "recipe.yaml",
        "env.json",
        "metrics.jsonl",
        "rollouts",
        "model",
        "checkpoint-2",
    }
    assert json.loads(Path("run/env.json").read_text())["seed"] == 42
    before = Path("run/metrics.jsonl").read_bytes()
    told = refused(command("train", path, "--output", "run"))
    assert told.startswith("run contains a run already: add --resume")
    told = refused(
        command("train", path, "--output", "run", "--resume", "--set", "train.learning_rate=3")
    )
    assert told.startswith("run was started with a different recipe")
    assert Path("run/metrics.jsonl").read_bytes() == before
    rows = (tmp_path / "rows.jsonl").read_text()
    (tmp_path / "rows.jsonl").write_text(rows.replace("3", "4"))
    told = refused(command("train", path, "--output", "run", "--resume"))
    assert told.startswith("the data has changed since run began")
    (tmp_path / "rows.jsonl").write_text(rows)
    assert command("train", path, "--output", "run", "--resume")[0] == 0
    assert Path("run/metrics.jsonl").read_bytes() == before


@pytest.mark.parametrize(
    ("setting", "told"),
    [
        ("train.max_steps=0", "max_steps: it should be a number of steps"),
        (
            "train.gradient_accumulation_steps=0",
            "gradient_accumulation_steps: it should be greater than or equal to 1",
        ),
        ("train.learning_rate=-1", "learning_rate: it should be greater than or equal to 0"),
        ("model.lora={r: 4, target_modules: nope}", "model.lora: "),
    ],
)
def test_numbers_that_nothing_can_be_trained_with_are_refused(
    command, tmp_path, tiny_folder, setting, told
):
    assert told in refused(command("train", recipe(tmp_path, tiny_folder), "--set", setting))


def test_a_file_where_a_folder_is_to_be_is_one_line(command, tmp_path, tiny_folder):
    taken = rows(tmp_path)
    told = refused(command("train", recipe(tmp_path, tiny_folder), "--output", taken))
    assert taken in told


def test_a_key_that_is_there_twice_is_refused(command, tmp_path, tiny_folder):
    path = recipe(tmp_path, tiny_folder)
    with Path(path).open("a") as file:
        file.write("train: {learning_rate: 0.5}\n")
    assert "the key 'train' occurs twice" in refused(command("train", path))


def test_a_models_folder_is_the_same_however_it_is_written(command, tmp_path, tiny_folder):
    about = ("--data", rows(tmp_path), "--language", "swa", "--limit", 1, "--samples", 1)
    for spelled in (f"{tiny_folder}", f"{tiny_folder}/", f"{tiny_folder}/."):
        code, _, errors = command("evaluate", spelled, *about, "--budget", 2, "--output", "ev")
        assert code == 0, errors
    told = command("evaluate", tiny_folder, *about, "--budget", 3, "--output", "ev")[2][-1]
    assert "samples of another kind: another max_tokens, another budgets" in told


@pytest.mark.parametrize(
    ("strategies", "best"),
    [
        ({}, True),
        ({"eval_strategy": "epoch"}, False),
        ({"save_strategy": "no"}, False),
        ({"save_strategy": "epoch", "eval_strategy": "epoch"}, True),
    ],
)
def test_dev_problems_are_scored_as_the_strategies_say(tmp_path, tiny_folder, strategies, best):
    made = parse(yaml.safe_load(Path(recipe(tmp_path, tiny_folder, data={"dev": 2})).read_text()))
    made = made.model_copy(update={"train": made.train | strategies})
    args = make_trainer(made, tmp_path / "run", *load_problems(made.data)).args
    assert args.eval_strategy == strategies.get("eval_strategy", "steps")
    assert args.load_best_model_at_end is best


def test_a_start_that_failed_can_be_mended_in_the_same_folder(command, tmp_path, tiny_folder):
    path = recipe(tmp_path, tiny_folder)
    assert command("train", path, "--output", "run", "--set", "train.max_length=20")[0] == 2
    assert Path("run/recipe.yaml").exists()
    code, _, errors = command("train", path, "--output", "run")
    assert code == 0, errors


@pytest.mark.parametrize("budget", ["", "0", "many", "1024,", "-5", "8,1.5"])
def test_a_budget_that_is_no_number_of_tokens_is_refused(command, tiny_folder, budget):
    told = refused(command("evaluate", tiny_folder, "--data", "miniature", f"--budget={budget}"))
    assert told == f"--budget {budget}: write whole numbers of tokens, as in 1024,2048"


def test_evaluate_prints_one_json_document(command, tiny_folder, tmp_path):
    code, out, _ = command(
        *("evaluate", tiny_folder, "--data", rows(tmp_path), "--language", "swa", "--limit", 2),
        *("--samples", 2, "--budget", "6,3", "--json", "--output", "evals"),
    )
    assert code == 0
    document = json.loads(out)
    assert [row["budget"] for row in document["results"]] == [3, 6]
    (first, _) = document["results"]
    assert (first["n_problems"], first["samples"], first["language"]) == (2, 2, "swa")
    assert first["suite"] == "rows" and first["model"] == str(tiny_folder)
    assert len(list(Path("evals").rglob("samples.jsonl"))) == 1


def test_evaluate_refuses_a_suite_file_with_a_typo_in_one_line(command, tiny_folder, tmp_path):
    path = tmp_path / "exams.yaml"
    path.write_text("source: exams.jsonl\nlangauges: [swa]\n")
    told = refused(command("evaluate", tiny_folder, "--suite", path))
    assert f"{path}: langauges: unknown key; did you mean 'languages'?" in told
    told = refused(command("evaluate", tiny_folder, "--suite", "polymath", "--split", "hard"))
    assert "polymath has no split 'hard'; it has: low, medium, high, top" in told


def test_evaluate_refuses_problems_without_answers_and_models_that_are_not_there(
    command, tiny_folder, tmp_path
):
    source = rows(tmp_path, answer="", solution="two")
    told = refused(command("evaluate", tiny_folder, "--data", source))
    assert "in which language is the problem?" in told and "--language" in told
    told = command("evaluate", tiny_folder, "--data", source, "--language", "swa")[2][-1]
    assert told == "opsd: rows: no problem has an answer to grade against"
    told = refused(command("evaluate", "no/such/model", "--data", source, "--language", "swa"))
    assert told.startswith("cannot load the model 'no/such/model'")


def test_pages_of_claims_are_about_built_in_or_pretrained_models(command, tmp_path):
    root = Path(__file__).parents[2]
    evidence = shutil.copytree(root / "evidence", tmp_path / "evidence")
    page = tmp_path / "claims.md"
    code, _, errors = command("reproduce", "teacher_knows", "--output", evidence, "--page", page)
    assert code == 0, errors
    pretrained = {name: study for name, study in studies().items() if study.pretrained}
    write(evidence, pretrained, tmp_path / "real-models.md")
    for written in (page, tmp_path / "real-models.md"):
        for suffix in (".md", ".html", ".json"):
            stored = root / "docs" / written.with_suffix(suffix).name
            assert written.with_suffix(suffix).read_text() == stored.read_text()


def test_methods_lists_the_catalogue_as_json(command):
    code, out, errors = command("methods", "--json")
    assert (code, errors) == (0, [])
    listed = json.loads(out)
    assert [row["name"] for row in listed] == list(FUNCTIONS)
    for row in listed:
        parts = {"source", "student", "authors", "signal", "reuse"}
        assert set(row) == {"name", "paper", "recipes", *parts}
        assert row["name"] in row["recipes"]
    for row in listed:  # a recipe's method may stand in the one that it extends
        assert all(load_recipe(name).method.name == row["name"] for name in row["recipes"])
    assert sum(len(row["recipes"]) for row in listed) == len(shipped())
    (one,) = json.loads(command("methods", "copsd", "--json")[1])
    assert one == next(row for row in listed if row["name"] == "copsd")


def test_methods_shows_the_table_and_one_method_in_full(command):
    _, out, _ = command("methods")
    assert all(name in out for name in FUNCTIONS)
    _, out, _ = command("methods", "opsd")
    assert "One command: opsd train opsd" in out and "Formula: 1 x" in out
    assert refused(command("methods", "opds")).startswith(
        "unknown method 'opds'; did you mean 'opsd'? known: beta_opsd"
    )


def test_env_names_versions_and_hardware(command):
    code, out, errors = command("env")
    assert (code, errors) == (0, [])
    told = json.loads(out)
    assert told["versions"]["torch"].startswith("2.")
    assert {"python", "platform", "cpu_count", "gpus", "threads"} <= told.keys()


ASKED = """
import sys
import time
from opsd.cli.commands import main
sys.argv = ["opsd", *sys.argv[1:]]
try:
    main()
except SystemExit as stop:
    heavy = [name for name in ("torch", "transformers", "peft") if name in sys.modules]
    print(stop.code or 0, *heavy, file=sys.stderr)
"""


@pytest.mark.parametrize(
    ("arguments", "seen"),
    [
        (["--help"], "0"),
        (["train", "--help"], "0"),
        (["train", "no/such.yaml"], "2"),
        (["methods", "--json"], "0 torch"),
    ],
)
def test_help_needs_no_torch_and_the_catalogue_no_transformers(arguments, seen):
    done = subprocess.run(
        [sys.executable, "-c", ASKED, *arguments], capture_output=True, text=True, timeout=120
    )
    assert done.stderr.splitlines()[-1] == seen, done.stderr
    assert "Traceback" not in done.stderr


def test_an_interruption_says_how_to_go_on(tmp_path, tiny_folder):
    path = recipe(tmp_path, tiny_folder, train={"max_steps": 500, "save_steps": 500})
    command = [sys.executable, "-m", "opsd", "train", path, "--output", str(tmp_path / "run")]
    process = subprocess.Popen(
        command,
        stderr=subprocess.PIPE,
        text=True,
        # What a shell starts in the background ignores the signal, and so would its children.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    try:
        while process.poll() is None and not (tmp_path / "run" / "metrics.jsonl").is_file():
            time.sleep(0.05)
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=180)
    finally:
        process.kill()
    assert process.returncode == 130
    assert errors.splitlines()[-1].startswith("opsd: interrupted; what was written stays")


def test_grade_reads_nothing_but_utf_8(command, monkeypatch):
    for given, told in (
        (["-", "--answer", "4"], "standard input is not UTF-8 (byte 4)"),
        (["caf\udce9 \\boxed{4}", "--answer", "4"], "the completion is not UTF-8 (byte 4)"),
        (["\\boxed{4}", "--answer", "4\udce9"], "--answer is not UTF-8 (byte 2)"),
    ):
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"caf\xe9 \\boxed{4}")))
        assert refused(command("grade", *given)).startswith(told)
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO("é \\boxed{4}".encode())))
    assert command("grade", "-", "--answer", "4")[1] == "right\n"

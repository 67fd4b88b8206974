"""The command line's habits: a mistyped name costs nothing, help is everywhere, tables fit."""

from __future__ import annotations

import dataclasses
import inspect
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from rich.cells import cell_len
from tests.evaluate.folders import evaluated, rows

from opsd.cli.commands import app
from opsd.methods import FUNCTIONS, Method
from opsd.recipe.files import shipped
from opsd.recipe.names import methods, train_keys
from opsd.recipe.schema import load
from opsd.training.config import OPSDConfig

HEAVY = ("torch", "transformers", "peft", "datasets", "accelerate", "sympy")
ASKED = f"""
import json
import sys
from opsd.cli.commands import main

for arguments in json.loads(sys.stdin.read()):
    sys.argv = ["opsd", *arguments]
    try:
        main()
    except SystemExit as stop:
        heavy = [name for name in {HEAVY!r} if name in sys.modules]
        print("ended", stop.code or 0, *heavy, file=sys.stderr)
"""


def asked(*commands: list[str], columns: int = 200, folder: Path | None = None) -> list[list[str]]:
    """What commands print on both streams, one after the other in a process of their own; the last
    line of each is its exit code with what it has imported of what is heavy."""
    done = subprocess.run(
        [sys.executable, "-c", ASKED],
        input=json.dumps(commands),
        env={**os.environ, "COLUMNS": str(columns)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=240,
        cwd=folder,
    )
    told, found = [], []
    for line in done.stdout.splitlines():
        told.append(line)
        if line.startswith("ended "):
            found.append(told)
            told = []
    assert len(found) == len(commands), done.stdout
    return found


MISTAKES = {
    "train opds": "no recipe 'opds': neither a .yaml file, nor a run's folder, nor a shipped",
    "preview copds": "did you mean 'copsd'?",
    "recipes copds": "did you mean 'copsd'?",
    "methods opds": "unknown method 'opds'; did you mean 'opsd'? known: beta_opsd,",
    "launcher fsdp": "unknown launch configuration 'fsdp'; did you mean 'fsdp2'?",
    "train opsd --set method=opds": "unknown method 'opds'; did you mean 'opsd'?",
    "train opsd --set method.divergnce=1": "method.divergnce: unknown key; did you mean 'diverge",
    "train opsd --set modle.name=x": "modle: unknown key; did you mean 'model'?",
    "train opsd --set model.nmae=x": "model.nmae: unknown key; did you mean 'name'?",
    "train opsd --set data.languge=x": "data.languge: unknown key; did you mean 'language'?",
    "train opsd --set data.filters.answerd=true": "answerd: unknown key; did you mean 'answ",
    "train opsd --set sampling.temprature=1": "temprature: unknown key; did you mean 'temp",
    "train opsd --set train.learnin_rate=1": "train.learnin_rate: unknown key; did you mean 'learn",
    "train opsd --set data.language=swahil": "unknown language 'swahil'; did you mean swa",
    "train opsd --set data.source=no.csv": "data.source: no file 'no.csv'",
    "train opsd --set model.name=/no/such": "cannot load the model '/no/such'",
    "train opsd --set model.name=miniatur": "did you mean 'miniature'?",
    "evaluate /no/such --suite afrimgsm": "cannot load the model '/no/such'",
    "evaluate miniature --suite afrimgs": "unknown suite 'afrimgs'; did you mean 'afrimgsm'?",
    "evaluate miniature --suite polymath --split hard": "polymath has no split 'hard'",
    "evaluate miniature --suite mgsm --language swahil": "did you mean swa (Swahili)?",
    "evaluate miniature --suite mgsm --recipe copds": "did you mean 'copsd'?",
    "export /no/such out": "cannot load the model '/no/such'",
    "compare /no/such": "/no/such: no such folder",
    "report /no/such": "/no/such: no such folder",
    "inspect /no/such": "/no/such: no such folder",
    "init recipe.txt": "recipe.txt: a recipe's file ends in .yaml",
}


def test_a_mistyped_name_is_told_before_anything_heavy_is_imported():
    found = asked(*(command.split() for command in MISTAKES))
    for (command, told), (*lines, end) in zip(MISTAKES.items(), found, strict=True):
        assert end == "ended 2", (command, end)
        assert len(lines) == 1 and told in lines[0], (command, lines)


@pytest.mark.parametrize(
    ("setting", "told"),
    [
        ("method.signal.divergence={type: jsdd}", "not 'jsdd'; did you mean 'jsd'?"),
        (
            "method.signal.divergence={type: jsd, betta: 0.5}",
            "divergence.betta: unknown key; did you mean 'beta'?",
        ),
        ("method.divergence={type: jsd, betta: 0.5}", "betta: unknown key; did you mean 'beta'?"),
        ("method.signal.teacher.weights={type: emma}", "did you mean 'ema'?"),
        ("method.student.prefil=x", "student.prefil: unknown key; did you mean 'prefill'?"),
        ("engine=vlm", "not 'vlm'; did you mean 'vllm'?"),
    ],
)
def test_a_mistyped_part_or_key_of_one_is_told_with_what_was_meant(setting: str, told: str):
    with pytest.raises(Exception) as refused:
        load("opsd", [setting])
    assert told in str(refused.value)


def test_names_read_from_the_source_are_those_that_there_are():
    assert methods().keys() == FUNCTIONS.keys()
    parts = {field.name for field in dataclasses.fields(Method)}
    for name, function in FUNCTIONS.items():
        assert methods()[name] == parts | inspect.signature(function).parameters.keys()
    assert {field.name for field in dataclasses.fields(OPSDConfig)} <= train_keys()


def test_help_and_listings_need_nothing_heavy():
    shown = asked(
        ["--help"], ["-h"], ["--version"], ["recipes"], ["languages"], ["launcher", "ddp"]
    )
    assert {end for *_, end in shown} == {"ended 0"}
    assert shown[0] == shown[1]
    assert shown[2][0].count(".") == 2


def test_every_command_has_the_short_help(capsys: pytest.CaptureFixture[str]):
    named = [command.name or command.callback.__name__ for command in app.registered_commands]
    assert len(named) > 14
    for name in (*named, "languages"):
        app([name, "-h"], prog_name="opsd", standalone_mode=False)
        assert f"Usage: opsd {name} " in capsys.readouterr().out
        with pytest.raises(Exception, match="No such option"):
            app([name, "--no-such-option"], standalone_mode=False)


def evaluations(folder: Path) -> Path:
    """Two models on one suite, with texts."""
    for model, right in (("one", (True, False)), ("two", (True, True))):
        made = rows({"a": right, "b": right})
        for row in made:
            row["completion"] = rf"so \boxed{{{row['budgets']['8']['said'] or 5}}}"
        evaluated(folder / model / "suite", made, model)
    return folder


def run(folder: Path) -> Path:
    """A run folder as a report reads it."""
    folder.mkdir()
    lines = [{"step": s, "loss": 1 / s, "generated_tokens": 10 * s} for s in range(1, 5)]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    (folder / "recipe.yaml").write_text(yaml.safe_dump({"model": "m", "method": {"name": "opsd"}}))
    (folder / "env.json").write_text(json.dumps({"seed": 1, "versions": {}}))
    return folder


def test_what_reads_files_alone_imports_neither_torch_nor_transformers(tmp_path: Path):
    evals = evaluations(tmp_path / "evals")
    found = asked(
        ["compare", str(evals)],
        ["evaluate", str(evals), "--regrade"],
        ["report", str(run(tmp_path / "run"))],
    )
    assert [end for *_, end in found] == ["ended 0"] * 3, found
    assert (tmp_path / "run" / "report.html").is_file()


def test_tables_fit_eighty_columns(tmp_path: Path):
    evals = str(evaluations(tmp_path / "evals"))
    commands = [["methods"], ["methods", "copsd"], ["recipes"], ["languages"], ["compare", evals]]
    commands += [["evaluate", evals, "--regrade"], ["--help"], ["evaluate", "--help"]]
    # Paths and a step's pseudo-code are for copying: they are not broken.
    for command, (*lines, end) in zip(commands, asked(*commands, columns=80), strict=True):
        assert end.startswith("ended 0"), (command, lines)
        wide = [x for x in lines if cell_len(x) > 80 and evals not in x and not x.startswith("  ")]
        assert not wide, (command, wide)
    # Split in two, every row still says of which language and metric it is.
    counts = [
        sum(
            line.split()[:2] == ["swa", "avg@k"] for line in asked(["compare", evals], columns=n)[0]
        )
        for n in (80, 200)
    ]
    assert counts == [4, 2]  # at two budgets


def test_recipes_say_what_they_are(tmp_path: Path):
    (*lines, _), (*one, _) = asked(["recipes", "--json"], ["recipes", "opsd"])
    (listed,) = map(json.loads, lines)
    assert [row["name"] for row in listed] == list(shipped())
    for row in listed[::9]:
        made = load(row["name"])
        assert (row["method"], row["model"]) == (made.method.name, made.model.name)
        assert len(row["published"]) == len(made.published)
    assert one == shipped()["opsd"].read_text().splitlines()


def test_env_knows_of_what_speeds_training_up():
    (*lines, end) = asked(["env"])[0]
    told: dict[str, Any] = json.loads("\n".join(lines))
    assert end.startswith("ended 0")
    assert len(told["gpu_memory_gib"]) == len(told["gpus"])
    assert {"trl", "bitsandbytes"} <= told["versions"].keys()

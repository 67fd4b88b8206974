"""A folder of which one file is damaged: the right numbers, or one line that names the file."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from tests.arrange import problems
from tests.faults.damages import all_zeros, apply, cut, cut_at_a_line, empty, flipped, zeros
from tests.inspect.folders import row as trace_row
from tests.inspect.folders import run as traced
from tests.report.folders import rollout, run_folder

from opsd.evaluate.compare import compare
from opsd.evaluate.layouts import convert
from opsd.evaluate.results import results, write
from opsd.evaluate.run import evaluate as sample
from opsd.evaluate.samples import described, locked, protocol, sampled_rows
from opsd.inspect.page import write_inspector
from opsd.prompts.contexts import StudentPrompt
from opsd.publish.card import card
from opsd.report import outcomes, tables
from opsd.report.page import write_report
from opsd.report.runs import load_runs
from opsd.rollout.engine import Sampling
from opsd.runs.evaluation_files import read
from opsd.runs.json_files import sealed
from opsd.types import UserError

from .folders import rows

EVALUATION = "eval/tuned/suite"
FILES = (
    *(f"{EVALUATION}/{name}" for name in ("protocol.json", "samples.jsonl", "result.json")),
    *("metrics.jsonl", "rollouts/rank0.jsonl", "traces/rank0.jsonl"),
    *("env.json", "data.json", "recipe.yaml"),
)
MODEL = {"base": "base-model", "tuned": "runs/run/model"}


def evaluate(run: Path) -> dict[str, Any]:
    """The real writing of an evaluation, of models whose answers are given."""
    how = protocol(StudentPrompt(), Sampling(), (4, 8))
    told = {}
    for name, model in MODEL.items():
        folder = run / "eval" / name / "suite"
        right = {f"p{i}": [name == "tuned", i % 3 == 0] for i in range(12)}
        with locked(folder, described(how, model, ["swa"])):
            texts = {"prompt": "2 + 2?", "completion": "4", "finish": "stop"}
            made = rows(right, model=model, **texts)
            lines = "".join(json.dumps(sealed(row)) + "\n" for row in made)
            (folder / "samples.jsonl").write_text(lines)
            told[name] = results(model, "suite", made, (4, 8), 2)
            write(folder, 1.0, told[name])
    return told


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = run_folder(tmp_path_factory.mktemp("damage") / "run", rollouts=[rollout(0), rollout(5)])
    environment = json.loads((run / "env.json").read_text()) | {"model": MODEL["base"]}
    (run / "env.json").write_text(json.dumps(environment))
    account = {"rows": 12, "kept": {"swa": 9}, "dev": 3, "dropped": []}
    (run / "data.json").write_text(json.dumps(account))
    traced(run, [trace_row(), trace_row(5)])
    evaluate(run)
    return run


def a_list(text: bytes) -> bytes:
    return b"".join(b"[1, 2]\n" for _ in text.splitlines())


def changed(change: Callable[[Any], Any]) -> Callable[[bytes], bytes]:
    """Every number, at whatever depth, as something else, in JSON and YAML alike."""

    def deep(value: Any) -> Any:
        if isinstance(value, dict):
            return {k: deep(v) for k, v in value.items() if k != "check"}
        if isinstance(value, list):
            return [deep(v) for v in value]
        return change(value) if isinstance(value, int | float) else value

    def damage(text: bytes) -> bytes:
        try:
            parsed = [json.loads(line) for line in text.splitlines()]
        except ValueError:
            return json.dumps(deep(yaml.safe_load(text))).encode()
        return "".join(json.dumps(deep(row)) + "\n" for row in parsed).encode()

    return damage


DAMAGES = {
    "cut": cut,
    "cut at a line": cut_at_a_line,
    **{f"a bit at {at}": flipped(at) for at in (0.1, 0.3, 0.52, 0.7, 0.93)},
    "zeros": zeros,
    "all zeros": all_zeros,
    "empty": empty,
    "lists": a_list,
    "texts for numbers": changed(lambda _: "many"),
    "no numbers": changed(lambda _: float("nan")),
    "nulls": changed(lambda _: None),
    "lists for numbers": changed(lambda _: [1]),
    "gone": None,
}


def commands(run: Path) -> Iterator[tuple[str, Callable[[], Any]]]:
    """What each command finds, as a value that compares."""
    yield "compare", lambda: compare([run])

    def report() -> Any:
        runs = load_runs([run]).runs
        found = outcomes.outcomes(runs)
        told = [[*outcomes.sentences(x), outcomes.table(x).rows] for x in found]
        return told, [row for row in tables.runs_table(runs).rows if "suite" in row[4]]

    yield "report", report
    yield "page", lambda: write_report([run], run / "report.html") and None
    yield "inspect", lambda: write_inspector([run], run / "inspect.html") and None

    def results_of_card() -> str:
        text = card(run, adapter=True)
        return text[text.index("## Results") : text.index("## Use")]

    yield "card", results_of_card
    yield "convert", lambda: converted(run)


def converted(run: Path) -> dict[str, Any]:
    convert([run], "lm-eval", run / "out")
    files = (run / "out").rglob("results_*.json")
    made = {file.parent.name: json.loads(file.read_text())["results"] for file in files}
    shutil.rmtree(run / "out")
    return made


@pytest.fixture(scope="module")
def right(whole: Path) -> dict[str, Any]:
    return {name: command() for name, command in commands(whole)}


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("file", FILES)
def test_numbers_are_right_or_the_damaged_file_is_named(
    whole: Path, right: dict[str, Any], tmp_path: Path, file: str, damage: str
):
    run = tmp_path / "run"
    shutil.copytree(whole, run)
    apply(DAMAGES[damage], run / file)
    for name, command in commands(run):
        if name == "page" and file.startswith("eval"):
            continue  # as "report", drawn
        try:
            told = command()
        except UserError as error:
            said = str(error)
            assert "\n" not in said and (Path(file).name in said or Path(file).parts[0] in said)
        else:
            # Other files hold no checksum: of those a command must come to an end. Scores that are
            # gone are not wrong, as those of an evaluation that has not ended.
            known = file.startswith("eval") and (file, damage) != (
                f"{EVALUATION}/result.json",
                "gone",
            )
            assert not known or told == right[name]


@pytest.fixture(scope="module")
def evaluated(tmp_path_factory: pytest.TempPathFactory, tiny_folder: Path) -> Path:
    folder = tmp_path_factory.mktemp("evaluated") / "suite"
    sample(str(tiny_folder), GIVEN, "suite", HOW, 2, folder)
    return folder


GIVEN = [*problems(3), *problems(2, "zul")]
HOW = protocol(StudentPrompt(), Sampling(temperature=1.0), (4, 8))


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("file", ["protocol.json", "samples.jsonl", "result.json"])
def test_an_evaluation_goes_on_to_the_same_end_or_names_the_damaged_file(
    evaluated: Path, tiny_folder: Path, tmp_path: Path, file: str, damage: str
):
    folder = tmp_path / "suite"
    shutil.copytree(evaluated, folder)
    apply(DAMAGES[damage], folder / file)
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    try:
        sample(str(tiny_folder), GIVEN, "suite", HOW, 2, folder)
    except UserError as error:
        assert file in str(error) and "\n" not in str(error)
        assert before == {path.name: path.read_bytes() for path in folder.iterdir()}
    else:
        assert read(folder) == read(evaluated)
        assert drawn(folder) == drawn(evaluated)


def drawn(folder: Path) -> dict[tuple[str, int], Any]:
    return {
        (r["problem"], r["sample"]): (r["completion"], r["budgets"]) for r in sampled_rows(folder)
    }


def test_samples_of_which_nobody_knows_how_they_were_drawn_are_left_alone(
    tiny_folder: Path, tmp_path: Path
):
    (tmp_path / "samples.jsonl").write_text("somebody else's\nand no newline")
    with pytest.raises(UserError, match=r"protocol\.json: cannot be read .*another --output"):
        sample(str(tiny_folder), GIVEN, "suite", HOW, 2, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["samples.jsonl"]
    assert (tmp_path / "samples.jsonl").read_text() == "somebody else's\nand no newline"

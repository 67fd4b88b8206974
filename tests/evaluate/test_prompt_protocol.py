"""Which prompt models are asked with."""

from __future__ import annotations

from importlib import resources
from pathlib import Path

import pytest
import yaml

from opsd.evaluate.command import _output
from opsd.evaluate.prompt_protocol import prompt_protocol
from opsd.grade.verifier import MathVerifier
from opsd.languages import registry as languages
from opsd.types import UserError

PLAIN = {"enable_thinking": False}


def run_folder(path: Path, **student: object) -> str:
    """A run with a model in it, whose student is asked in its own way."""
    recipe = {
        "model": "miniature",
        "method": {"name": "opsd", **({"student": student} if student else {})},
        "data": {"source": "miniature", "language": "swa"},
        "verifier": {"after_think": True},
        "published": [{"suite": "gsm8k", "metric": "avg@12", "value": 50.0, "where": path.name}],
    }
    (path / "model").mkdir(parents=True)
    (path / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    return str(path / "model")


def test_models_outside_runs_are_asked_plainly(tmp_path: Path):
    for thinking in (None, False, True):
        asked = prompt_protocol(["miniature", str(tmp_path)], None, False, thinking)
        assert asked.prompt.template_options == {"enable_thinking": thinking is True}
        assert (asked.verifier, asked.published) == (MathVerifier(), ())


def test_all_models_are_asked_as_the_trained_one(tmp_path: Path):
    model = run_folder(tmp_path / "run", prefill="<think>\n", template_options={"a": 1})
    asked = prompt_protocol(["miniature", model], None, False, None)
    assert (asked.prompt.prefill, asked.prompt.template_options) == ("<think>\n", {"a": 1})
    assert asked.verifier.after_think and [p.where for p in asked.published] == ["run"]
    assert asked.said.endswith(f"prompt of {tmp_path / 'run' / 'recipe.yaml'}")


def test_runs_that_asked_differently_need_a_choice(tmp_path: Path):
    one = run_folder(tmp_path / "one")
    same = run_folder(tmp_path / "same")
    other = run_folder(tmp_path / "other", prefill="Well,")
    assert [p.where for p in prompt_protocol([one, same], None, False, None).published] == [
        "one",
        "same",
    ]
    with pytest.raises(UserError, match=r"one.recipe\.yaml and .*other.* --recipe, or use --plain"):
        prompt_protocol([one, other], None, False, None)
    chosen = prompt_protocol([one, other], str(tmp_path / "other" / "recipe.yaml"), False, None)
    assert chosen.prompt.prefill == "Well," and [p.where for p in chosen.published] == ["other"]
    assert prompt_protocol([one, other], None, True, None).prompt.template_options == PLAIN


def test_options_that_contradict_are_refused(tmp_path: Path):
    model = run_folder(tmp_path / "run")
    with pytest.raises(UserError, match="add --plain, or leave it out"):
        prompt_protocol([model], None, False, True)
    with pytest.raises(UserError, match="leave one out"):
        prompt_protocol([model], "opsd", True, None)
    assert prompt_protocol([model], None, True, True).prompt.template_options == {
        "enable_thinking": True
    }


def test_results_go_into_the_run_that_the_models_lie_in(tmp_path: Path):
    one, other = (run_folder(tmp_path / name) for name in ("one", "other"))
    assert _output(["miniature", one]) == tmp_path / "one" / "eval"
    assert _output(["miniature"]) == _output([one, other]) == Path("runs/eval")


def test_columns_are_taken_over_where_all_runs_agree(tmp_path: Path):
    one, other = (run_folder(tmp_path / name) for name in ("one", "other"))
    for name, column in (("one", "swali"), ("other", "ibeere")):
        file = tmp_path / name / "recipe.yaml"
        recipe = yaml.safe_load(file.read_text())
        recipe["data"]["columns"] = {"prompt": column, "solution": "suluhisho"}
        file.write_text(yaml.safe_dump(recipe))
    assert prompt_protocol([one], None, False, None).columns == {"prompt": "swali"}
    assert prompt_protocol([one, other], None, False, None).columns == {}
    assert prompt_protocol([one, other], None, True, None).languages == ("swa",)


def test_two_language_files_for_one_code_are_not_mixed(tmp_path: Path, monkeypatch):
    monkeypatch.setattr(languages, "_OWN", {})
    shipped = resources.files("opsd.languages") / "zul.yaml"
    models = []
    for name, box in (("one", r"\boxed{}."), ("other", r"in \boxed{}!")):
        models.append(run_folder(tmp_path / name))
        text = {**yaml.safe_load(shipped.read_text()), "instruction": box, "code": "qab"}
        text |= {"name": "Ours", "aliases": []}
        folder = tmp_path / name / "languages"
        folder.mkdir()
        (folder / "qab.yaml").write_text(yaml.safe_dump(text))
    assert prompt_protocol(models[:1], None, False, None).languages == ("qab", "swa")
    with pytest.raises(UserError, match="differs from the language file for 'qab'"):
        prompt_protocol(models, None, False, None)

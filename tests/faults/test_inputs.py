"""Files, settings and arguments of the user's, or of somebody else: what they may read, and that
what is wrong with them is one line."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml

from opsd.experiments.leftovers import RUN, remove
from opsd.preview.rows import SHOWN, preview
from opsd.prompts.prompt import fill
from opsd.recipe import schema as recipes
from opsd.types import Problem, UserError

PROBLEM = Problem("1 + 1 = ?")


def recipe_file(folder: Path, template: str = "student", name: str = "r.yaml") -> Path:
    folder.mkdir(exist_ok=True, parents=True)
    student = {"template": template}
    content = {
        "model": "miniature",
        "method": {"name": "opsd", "student": student},
        "data": {"source": "miniature", "language": "swa"},
    }
    (folder / name).write_text(yaml.safe_dump(content))
    return folder / name


def asked(recipe: recipes.Recipe) -> str:
    return fill(recipe.method.student.template, PROBLEM)


@pytest.fixture
def secret(tmp_path: Path) -> Path:
    file = tmp_path / "secret.jinja"
    file.write_text("hunter2:x:0:0")
    return file


@pytest.mark.parametrize("below", ["mine.jinja", "prompts/mine.jinja", "./prompts/../mine.jinja"])
def test_a_template_beside_the_recipe_becomes_its_text(tmp_path, monkeypatch, below):
    path = recipe_file(tmp_path / "recipes", below)
    for place in ("mine.jinja", "prompts/mine.jinja"):
        (path.parent / place).parent.mkdir(exist_ok=True)
        (path.parent / place).write_text("Solve it")
    monkeypatch.chdir(tmp_path)  # it is looked for beside the recipe, from wherever
    made = recipes.load(str(path))
    for file in path.parent.rglob("*.jinja"):
        file.unlink()
    assert asked(made) == "Solve it"
    (tmp_path / "again.yaml").write_text(recipes.dump(made))
    again = recipes.load(str(tmp_path / "again.yaml"))
    assert again == made and asked(again) == "Solve it"


@pytest.mark.parametrize("how", ["absolute", "upwards", "link", "linked folder", "shipped"])
def test_a_recipe_reads_no_template_from_elsewhere(tmp_path, secret, how):
    folder = tmp_path / "recipes"
    folder.mkdir()
    (folder / "link.jinja").symlink_to(secret)
    (folder / "linked").symlink_to(tmp_path)
    template = {
        "absolute": str(secret),
        "upwards": "../secret.jinja",
        "link": "link.jinja",
        "linked folder": "linked/secret.jinja",
        "shipped": str(secret.with_suffix("")),  # as if it were one of ours, without its suffix
    }[how]
    path = recipe_file(folder, template)
    with pytest.raises(UserError, match=r"outside .*--set") as refused:
        recipes.load(str(path))
    assert "hunter2" not in str(refused.value)
    secret.unlink()
    with pytest.raises(UserError) as gone:  # nobody learns which files there are
        recipes.load(str(path))
    assert str(gone.value) == str(refused.value)


def test_the_command_line_and_python_name_any_template(tmp_path, secret):
    path = recipe_file(tmp_path / "recipes")
    made = recipes.load(str(path), [f"method.student.template={secret}"])
    content = {**yaml.safe_load(path.read_text()), "method": {"name": "opsd"}}
    content["method"]["student"] = {"template": str(secret)}
    in_python = recipes.parse(content)
    assert asked(made) == asked(in_python) == "hunter2:x:0:0"
    assert recipes.dump(made) == recipes.dump(in_python) and str(secret) not in recipes.dump(made)


def test_a_text_that_names_a_file_is_not_read_again(tmp_path, secret):
    path = recipe_file(tmp_path / "recipes", "mine.jinja")
    (path.parent / "mine.jinja").write_text(str(secret))
    made = recipes.load(str(path))
    assert asked(made) == str(secret)
    assert "hunter2" not in recipes.dump(made)


def test_a_name_is_a_shipped_templates_or_none(tmp_path, secret):
    with pytest.raises(UserError, match="neither a file nor one of"):
        fill(str(secret.with_suffix("")), PROBLEM)


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (b"\xff\xfe{\x00", "not UTF-8 text"),
        (b"a" * 1_000_001, "at most a million characters"),
        (None, "neither a file nor one of"),
    ],
)
def test_a_template_that_cannot_be_read_is_one_line(tmp_path, content, told):
    path = recipe_file(tmp_path, "mine.jinja")
    if content is None:
        (tmp_path / "mine.jinja").mkdir()
    else:
        (tmp_path / "mine.jinja").write_bytes(content)
    with pytest.raises(UserError, match=told):
        recipes.load(str(path))


def test_links_in_a_circle_are_one_line(tmp_path):
    path = recipe_file(tmp_path, "circle.jinja")
    (tmp_path / "circle.jinja").symlink_to(tmp_path / "circle.jinja")
    with pytest.raises(UserError, match=r"circle.jinja"):
        recipes.load(str(path))


def test_an_option_of_a_chat_template_is_no_prompt_template(tmp_path):
    path = recipe_file(tmp_path)
    made = recipes.load(str(path), ["method.student.template_options={template: /etc/passwd}"])
    assert made.method.student.template_options == {"template": "/etc/passwd"}


def test_a_trials_leftovers_go_and_nothing_else(tmp_path):
    remove(tmp_path / "none", RUN)
    (tmp_path / "run" / "traces").mkdir(parents=True)
    (tmp_path / "run" / "traces" / "rank0.jsonl").touch()
    (tmp_path / "run" / "env.json").touch()
    remove(tmp_path / "run", RUN)
    assert list((tmp_path / "run").iterdir()) == []
    (tmp_path / "run" / "notes.md").touch()
    with pytest.raises(UserError, match=r"notes.md would be lost"):
        remove(tmp_path / "run", RUN)


@pytest.mark.parametrize("long", ["problem", "solution"])
def test_a_preview_of_a_long_row_shows_its_ends_and_counts_all_of_it(tmp_path, long):
    row = {"problem": "1 + 1 = ?", "solution": "It is \\boxed{2}.", "answer": "2"}
    rows = [row, {**row, long: "Na 1 + 1 = ngapi? " * 10_000 + row[long]}]
    file = tmp_path / "rows.jsonl"
    file.write_text("".join(json.dumps(each) + "\n" for each in rows))
    settings = [f"data.source={file}", "data.dev=0", "data.columns={}", "method=opsd"]
    shown = preview(recipes.load("quickstart", settings), 2)
    usual, odd = shown["rows"]
    (teacher,) = [view for view in odd["views"] if view["role"] == "teacher"]
    # The repeated sentence is 9 tokens of the built-in tokenizer, wherever it stands.
    (short,) = [view for view in usual["views"] if view["role"] == "teacher"]
    assert teacher["length"] - short["length"] == pytest.approx(9 * 10_000, abs=3)
    assert not teacher["fits"] and any(note.startswith("too long") for note in odd["notes"])
    assert all(len(view["tokens"]) < 3 * SHOWN for view in odd["views"])
    assert any("characters]" in token["text"] for token in teacher["tokens"])
    assert teacher["tokens"][-1] == short["tokens"][-1]
    for each in odd["reply"]["signals"]:
        assert len(each["in_loss"]) == len(odd["reply"]["tokens"]) < 3 * SHOWN

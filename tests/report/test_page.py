"""The page: one file that loads nothing, whatever the runs hold."""

import json
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest

from opsd.report.page import page, write_report
from opsd.report.runs import load_runs

from .folders import (
    dev_line,
    jsonl,
    quickstart_folder,
    rollout,
    run_folder,
    train_line,
    without_teacher,
)

VOID = {"meta", "br", "path", "use", "rect"}
EVIL = "<script>alert(1)</script>\"'>{{ 7 * 7 }}\u202e$x_{$"


class Reader(HTMLParser):
    """Checks that tags are balanced; keeps attributes, headings, ids and the text."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self.feed(html)
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        if tag not in VOID:
            assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] != "style":
            self.words.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())


def check(html: str) -> Reader:
    """Self-contained, without scripts, every id once, every link inside the page."""
    reader = Reader(html)
    ids = [a["id"] for _, a in reader.tags if "id" in a]
    assert len(ids) == len(set(ids))
    for tag, attributes in reader.tags:
        assert tag not in ("script", "iframe", "object", "embed", "link", "img", "base", "form")
        assert "src" not in attributes and "srcset" not in attributes
        assert not [name for name in attributes if name.startswith("on")]
        target = attributes.get("href")
        assert target is None or (target.startswith("#") and target[1:] in ids)
        if attributes.get("role") == "img":
            assert attributes["aria-label"]
        if tag == "th":
            assert attributes["scope"] in ("row", "col")
    for target in re.findall(r"url\(([^)]*)\)", html):
        assert target.startswith("#") and target[1:] in ids
    assert "http:" not in html and "https:" not in html and "@import" not in html
    tags = [tag for tag, _ in reader.tags]
    assert tags.count("table") == tags.count("caption") and tags.count("h1") == 1
    return reader


def made(*paths: Path) -> str:
    return page(load_runs(paths))


def test_a_run(tmp_path: Path):
    path = run_folder(tmp_path / "mine", rollouts=[rollout(0), rollout(5)], planned=10)
    output = write_report([path], tmp_path / "out" / "report.html")
    html = output.read_text("utf-8")
    text = check(html).text
    assert text.count("This run trains miniature with copsd on miniature in Yoruba.") == 1
    assert "It has done 6 of 10 optimizer steps: it is still running, or was stopped." in text
    assert "it generated 576 tokens, and took 7 s." in text and "from 25.0% to 62.5%." in text
    for title in ("Dev accuracy", "Divergence", "Entropy", "Cut off", "Where the time went"):
        assert title in text
    assert "Ojútùú" in text and "written at 5" in text and 'lang="yor" dir="auto"' in html
    assert "0123abcd with uncommitted changes" in text and "learning_rate: 0.001" in text
    assert html == made(path)


def test_a_quickstart(tmp_path: Path):
    text = check(made(quickstart_folder(tmp_path / "q"))).text
    assert "copsd and grpo against the base model" in text
    assert "33.7% before training, 47.0% after grpo, 89.0% after copsd and 35.0%" in text
    assert "In total, this took 3 min 3 s." in text
    for cell in ("37.2%", "33.2\u201341.2%", "+51.8", "88.0\u201390.0%"):
        assert cell in text
    assert "Dev accuracy, Swahili" in text and "Loss of grpo, Yoruba" in text
    assert "grpo wrote this" in text and "copsd, Yoruba (seed 0)" in text


def test_a_run_beside_a_comparison_has_its_own_table(tmp_path: Path):
    text = check(made(quickstart_folder(tmp_path / "q"), run_folder(tmp_path / "mine"))).text
    assert "means over seeds" in text and text.index("62.5%") < text.index("each training run")


def test_a_run_of_a_method_without_a_teacher(tmp_path: Path):
    text = check(made(run_folder(tmp_path / "g", "grpo", line=without_teacher))).text
    assert "Loss and divergence" in text and "Divergence along the completion" not in text


def test_several_runs_share_their_axes_and_have_a_legend(tmp_path: Path):
    paths = [run_folder(tmp_path / name) for name in "abc"]
    html = made(*paths, run_folder(tmp_path / "g", "grpo", line=without_teacher))
    reader = check(html)
    (label,) = [
        a["aria-label"]
        for _, a in reader.tags
        if (a.get("aria-label") or "").startswith("Line chart: Dev accuracy, by generated tokens")
    ]
    assert label is not None and label.count("25.0% to 62.5%") == 4
    assert "Line chart: Dev accuracy by time, by minutes of training" in html
    assert html.count('aria-label="Legend"') >= 3


def test_a_single_line_is_enough(tmp_path: Path):
    jsonl(tmp_path / "metrics.jsonl", [{"step": 1, "loss": 0.5}])
    text = check(made(tmp_path)).text
    assert "It has done 1 optimizer step." in text and "not yet" in text


def test_a_loss_that_hides_the_divergence_is_pointed_out(tmp_path: Path):
    lines = [train_line(i, loss=1 / i, divergence=0.1 * i) for i in range(1, 21)]
    jsonl(tmp_path / "metrics.jsonl", lines)
    assert "the loss falls" in check(made(tmp_path)).text


def test_what_a_model_wrote_cannot_act(tmp_path: Path):
    evil = rollout(0, EVIL, completion=EVIL, prompt=EVIL, answer=EVIL, language=EVIL)
    evil["views"] = [{"name": EVIL, "weights": "frozen", "prompt": EVIL, "prompt_ids": []}]
    path = quickstart_folder(tmp_path / "q")
    run_folder(path / "zul-evil-seed0", rollouts=[evil])
    (path / "zul-evil-seed0" / "recipe.yaml").write_text(f"model: {json.dumps(EVIL)}\n")
    (path / "zul-evil-seed0" / "env.json").write_text(json.dumps({"cpu": EVIL}))
    result = json.loads((path / "result.json").read_text())
    for key in ("language", "method"):
        result["results"].append(result["results"][0] | {key: EVIL})
    (path / "result.json").write_text(json.dumps(result))
    keys = ("language", "method", "problem", "prompt", "completion", "answer")
    jsonl(path / "samples.jsonl", [dict.fromkeys(keys, EVIL) | {"correct": False}])
    html = made(path)
    assert "alert(1)" in check(html).text
    assert "<script" not in html and "{{ 7 * 7 }}" in html and "\u202e</" not in html


def test_names_of_folders_cannot_act_either(tmp_path: Path):
    name = "<b onclick=x>$_{$"
    html = made(run_folder(tmp_path / name), run_folder(tmp_path / "other"))
    assert name in check(html).text


def test_a_word_of_ten_thousand_letters(tmp_path: Path):
    html = made(run_folder(tmp_path / "mine", rollouts=[rollout(0, completion="a" * 10_000)]))
    assert "a" * 10_000 in check(html).text
    assert re.search(r"\.said \{[^}]*overflow-wrap: anywhere", html)


def test_half_a_character_can_be_written(tmp_path: Path):
    path = run_folder(tmp_path / "mine")
    (path / "rollouts").mkdir()
    row = json.dumps(rollout(0, completion="a\ud800b"))
    (path / "rollouts" / "rank0.jsonl").write_text(row + "\n")
    html = write_report([path], tmp_path / "report.html").read_text("utf-8")
    assert "U+D800" in html


@pytest.mark.parametrize(
    "theme", ["prefers-color-scheme: dark", "@media print", "max-width: 36rem"]
)
def test_the_style_covers(tmp_path: Path, theme: str):
    html = made(run_folder(tmp_path / "mine"))
    assert theme in html and "Content-Security-Policy" in html
    # Figures take their colours from the page, so that they follow its theme.
    assert re.search(r"stroke: var\(--series-0\)", html) and "stroke: #" not in html


@pytest.mark.parametrize("value", [None, float("nan"), float("inf")])
def test_numbers_that_are_not_finite_are_said_to_be(tmp_path: Path, value: float | None):
    lines = [train_line(step) for step in range(1, 7)]
    for line in lines[3:]:
        line |= {"loss": value, "divergence": value}
    path = run_folder(tmp_path / "mine", rollouts=[rollout(0, divergence=[0.5, value, 0.1])])
    jsonl(path / "metrics.jsonl", [*lines, dev_line(6, 0.5) | {"eval_avg@k": value}])
    text = check(made(path)).text
    assert "logged numbers that are not finite" in text
    assert "loss (3), divergence (3), eval_avg@k (1)" in " ".join(text.split())
    assert "not finite" not in check(made(run_folder(tmp_path / "finite"))).text

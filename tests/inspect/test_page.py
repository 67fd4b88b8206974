"""The page as a file: what is in it, and that nothing in it can act."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from opsd.cli.commands import main
from opsd.inspect.page import content, embedded, page, write_inspector
from opsd.inspect.rows import Traced, load_traces
from opsd.preview.page import preview_page

from .folders import HOSTILE, old_row, row, run


def data_of(html: str) -> dict:
    (found,) = re.findall(r'<script type="application/json" id="data">(.*?)</script>', html, re.S)
    return json.loads(found)


def test_the_page_holds_what_was_traced(tmp_path: Path):
    output = write_inspector([run(tmp_path, [row(0), row(2)])], tmp_path / "page.html")
    data = data_of(output.read_text("utf-8"))
    first = data["rollouts"][0]
    assert [data["texts"][i] for i in first["tokens"]] == list("abcdef")
    assert (first["step"], first["language_name"], first["correct"]) == (1, "Swahili", False)
    assert first["outside"] == [0] and first["clipped"] == [2, 3]
    assert first["values"]["0/divergence/question/reference_only/solution"][1] == 0.1
    assert [reader["label"] for reader in first["readers"]] == [
        "student",
        "solution (frozen)",
        "target",
    ]
    assert first["prompts"][1] == {"reader": "solution (frozen)", "text": "Swali na jibu"}


def test_hostile_output_stays_data():
    html = page([Traced("</title><script>", row(tokens=HOSTILE))])
    assert html.count("<script") == html.count("</script>") == 2
    assert "<img" not in html and "\u202e" not in html
    data = data_of(html)
    assert [data["texts"][i] for i in data["rollouts"][0]["tokens"]] == HOSTILE


def test_json_that_no_tag_can_end():
    given = {"a": "</script>&\u2028\ud800\u202e\U000e0041 ሀ"}
    text = embedded(given)
    assert not set(text) & set("<>&\u2028\u202e\U000e0041") and "ሀ" in text
    assert text.encode("utf-8") and json.loads(text) == given


def test_the_policy_names_script_and_style_and_nothing_else():
    html = page([Traced("run", row())])
    (policy,) = re.findall(r'Content-Security-Policy" content="([^"]*)"', html)
    policy = policy.replace("&#39;", "'")
    for tag, source in (("style", "style-src"), ("script", "script-src")):
        (text,) = re.findall(rf"<{tag}>(.*?)</{tag}>", html, re.S)
        digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
        assert f"{source} 'sha256-{digest}'" in policy
    assert policy.startswith("default-src 'none'") and "unsafe" not in policy
    assert not re.findall(r"https?://|@import|url\(|innerHTML|style=\"", html)


def test_old_traces_merge_the_parts_of_a_character():
    data = content([Traced("run", old_row())])
    assert [data["texts"][i] for i in data["rollouts"][0]["tokens"]] == ["Ji", "\ufffd", "", "bu"]


def test_what_has_no_room_is_told(tmp_path: Path, capsys, monkeypatch):
    monkeypatch.setattr("opsd.inspect.rows.within.__defaults__", (12,))
    runs = [run(tmp_path, [row(step) for step in (0, 1, 2)])]
    html = write_inspector(runs, tmp_path / "page.html").read_text("utf-8")
    assert data_of(html)["left_out"] == [2]
    assert "steps 2 are left out; choose with --steps" in capsys.readouterr().err


def test_looking_takes_no_torch(tmp_path: Path):
    run(tmp_path, [row()])
    code = (
        "import sys; from opsd.cli.commands import main\n"
        "sys.argv = ['opsd', 'inspect', sys.argv[1]]\n"
        "try: main()\n"
        "except SystemExit: pass\n"
        "sys.exit('torch' in sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, check=True
    )
    assert Path(done.stdout.strip()) == tmp_path / "inspect.html"
    assert load_traces([tmp_path])


def test_a_preview_is_text_without_a_script():
    html = preview_page(preview_content(HOSTILE))
    assert "<script" not in html and "<img" not in html and "\u202e" not in html
    assert "&lt;script&gt;" in html and "U+202E" in html
    assert html.count('class="text outside"') == len(HOSTILE)


def test_the_preview_of_a_recipe_as_a_page(tmp_path: Path, tiny_folder: Path, monkeypatch, capsys):
    data = "{source: miniature, language: swa, limit: 4}"
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(f"model: {tiny_folder}\nmethod: copsd\ndata: {data}\n")
    output = tmp_path / "preview.html"
    monkeypatch.setattr("sys.argv", ["opsd", "preview", str(recipe), "--html", str(output)])
    with pytest.raises(SystemExit) as stop:
        main()
    assert not stop.value.code and capsys.readouterr().out.strip() == str(output)
    html = output.read_text("utf-8")
    assert html.count('<section class="problem"') == 2
    assert "teacher · crosslingual (frozen weights)" in html and 'class="special"' in html


def preview_content(texts: list[str]) -> dict:
    """A preview of one row whose tokens are these texts; the reply's are in no loss."""
    tokens = [{"id": i, "text": text, "kind": "text"} for i, text in enumerate(texts)]
    end = {"id": 1, "text": "<|end|>", "kind": "special"}
    view = {
        "role": "student",
        "view": "student",
        "weights": "student",
        "length": len(tokens),
        "reply": 8,
        "fits": True,
        "tokens": [*tokens, {"id": 9, "text": "", "kind": "forced"}],
    }
    return {
        "model": "<b>model</b>",
        "method": "a method",
        "data": "rows.jsonl",
        "problems": 1,
        "left_out": ["2 rows without an answer"],
        "limits": {
            "limit": 64,
            "max_length": 64,
            "max_completion_length": 8,
            "prompt_too_long": "skip",
        },
        "step": "8 rollouts",
        "tokens": {"begin": None, "end": end, "pad": None, "chat_template": True},
        "rows": [
            {
                "problem": "p1",
                "language": "swa",
                "answer": "<i>4</i>",
                "views": [view, {**view, "role": "teacher", "fits": False, "length": 99}],
                "not_taught": [],
                "reply": {
                    "origin": "made up",
                    "longer_than_a_rollout": True,
                    "tokens": tokens,
                    "signals": [{"signal": "distill", "in_loss": [False] * len(tokens)}],
                },
                "notes": ["mind <this>"],
            }
        ],
        "scan": {
            "rows": 2,
            "lengths": [
                {
                    "role": "student",
                    "view": "student",
                    "min": 1,
                    "median": 2,
                    "max": 3,
                    "too_long": 1,
                }
            ],
            "broken": {"rows": 1, "first": "no text"},
            "notes": [{"note": "mind <this>", "rows": 2}],
        },
    }

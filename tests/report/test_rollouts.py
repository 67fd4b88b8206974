"""Which rollouts are shown, and that what a model wrote is shown as it is."""

import shutil
from pathlib import Path

import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

from opsd.pages.visible import visible
from opsd.report.rollouts import samples
from opsd.report.runs import load_runs

from .folders import jsonl, rollout, run_folder


def test_the_same_problems_before_and_after(tmp_path: Path):
    rows = [rollout(0, "a"), rollout(0, "b"), rollout(1, "c"), rollout(7, "a"), rollout(4, "a")]
    shown = samples(load_runs([run_folder(tmp_path / "mine", rollouts=rows)]).runs[0])
    assert shown is not None
    assert [(s.problem, s.when) for s in shown.before] == [("a", "before training")]
    assert [(s.problem, s.when) for s in shown.after] == [("a", "step 7")]
    assert shown.before[0].teachers == (("solution", "Ojútùú"),)


def test_other_problems_where_none_recurs(tmp_path: Path):
    rows = [rollout(0, "a"), rollout(0, "b"), rollout(3, "c"), rollout(9, "d"), rollout(9, "e")]
    shown = samples(load_runs([run_folder(tmp_path / "mine", rollouts=rows)]).runs[0])
    assert shown is not None
    assert [s.problem for s in shown.before] == ["a", "b"]
    assert [s.problem for s in shown.after] == ["d", "e"]


def test_all_processes_are_read_and_a_single_step_has_no_after(tmp_path: Path):
    path = run_folder(tmp_path / "mine", rollouts=[rollout(0, "a")])
    jsonl(path / "rollouts" / "rank1.jsonl", [rollout(0, "b")], end='{"st')
    shown = samples(load_runs([path]).runs[0])
    assert shown is not None and len(shown.before) == 2 and shown.after == ()


def test_no_rollouts(tmp_path: Path):
    assert samples(load_runs([run_folder(tmp_path / "mine")]).runs[0]) is None


def bytes_tokenizer(path: Path) -> Tokenizer:
    """One token per byte: characters outside ASCII are several tokens."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE({c: i for i, c in enumerate(alphabet)}, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    path.parent.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(path))
    return tokenizer


def test_shades_stand_behind_their_text(tmp_path: Path):
    path = tmp_path / "mine"
    tokenizer = bytes_tokenizer(path / "checkpoint-2" / "tokenizer.json")
    text = "jẹ́ ✓ kan"
    ids = tokenizer.encode(text).ids
    divergence = [0.0] * len(ids)
    divergence[1] = 1.0
    row = rollout(0, completion=text, completion_ids=ids, divergence=divergence)
    run_folder(path, rollouts=[row])
    shown = samples(load_runs([path]).runs[0])
    assert shown is not None
    (sample,) = shown.before
    assert sample.in_text and "".join(piece.text for piece in sample.pieces) == text
    assert sum(piece.tokens for piece in sample.pieces) == len(ids)
    # The first byte of the accented letter diverges: the whole letter is shaded, nothing else.
    assert next(piece.text for piece in sample.pieces if piece.level).startswith("ẹ")


@pytest.mark.parametrize("damage", ["absent", "half a file", "another tokenizer"])
def test_shades_without_a_tokenizer_that_fits(tmp_path: Path, damage: str):
    path = tmp_path / "mine"
    run_folder(path, rollouts=[rollout(0)])
    file = path / "checkpoint-2" / "tokenizer.json"
    bytes_tokenizer(file)
    if damage == "absent":
        shutil.rmtree(file.parent)
    elif damage == "half a file":
        file.write_text(file.read_text()[:100])
    shown = samples(load_runs([path]).runs[0])
    assert shown is not None
    (sample,) = shown.before
    assert not sample.in_text and sample.completion == "written at 0"
    assert [(piece.level, piece.tokens) for piece in sample.pieces] == [(0, 1), (4, 2)]


@pytest.mark.parametrize(
    ("text", "html"),
    [
        ("<script>alert(1)</script>", "&lt;script&gt;alert(1)&lt;/script&gt;"),
        ("a\tb\nc", "a\tb\nc"),
        ("ẹ̀kọ́ العربية हिन्दी", "ẹ̀kọ́ العربية हिन्दी"),
        ("क्\u200dष", "क्\u200dष"),
    ],
)
def test_text_is_escaped_and_otherwise_left_alone(text: str, html: str):
    assert visible(text) == html


@pytest.mark.parametrize(
    "code", [0x00, 0x1B, 0x7F, 0x85, 0x200B, 0x202E, 0x2066, 0xFEFF, 0xD800, 0xE0041]
)
def test_characters_that_hide_or_reorder_are_written_out(code: int):
    html = visible(f"a{chr(code)}<b")
    assert f">U+{code:04X}</bdi>&lt;b" in html and chr(code) not in html

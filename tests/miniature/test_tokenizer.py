"""Any text survives; the world's words are whole; the chat template has Qwen3's switch."""

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from opsd.miniature.tokenizer import SPECIAL, build_tokenizer
from opsd.miniature.world import LANGUAGES, problems
from opsd.prompts.contexts import (
    Critique,
    Crosslingual,
    Demonstration,
    Instruction,
    Rubric,
    Skills,
    Solution,
    StudentPrompt,
)
from opsd.prompts.prompt import prompt_ids, prompt_text
from opsd.types import Group, View

TOKENIZER = build_tokenizer()


def encode(text: str, tokenizer=TOKENIZER) -> list[int]:
    return tokenizer(text, add_special_tokens=False)["input_ids"]


@settings(max_examples=300, deadline=None)
@given(st.text(st.characters(exclude_categories=["Cs"])))
def test_any_text_round_trips(text):
    assert TOKENIZER.decode(encode(text)) == text


@pytest.mark.parametrize(
    "text",
    [
        "ሒሳብ ስንት ነው?",
        "👩🏽‍🏫 12\r\n\n\n\t 345 x  7 ",
        "e\u0301 \u00e9 a\u0300b",
        "<think>\n\n</think>\n\n\\boxed{12}<|im_end|>\n",
        "don't \\boxed {1234567} .5",
    ],
)
def test_awkward_texts_round_trip(text):
    assert TOKENIZER.decode(encode(text)) == text


def test_numbers_to_99_are_one_token_and_larger_ones_are_digits():
    for n in range(100):
        assert len(encode(str(n))) == len(encode(f" {n}")) == 1
    assert TOKENIZER.convert_ids_to_tokens(encode("1234")) == ["1", "2", "3", "4"]
    assert len(encode(r"\boxed{42}")) == 3


def test_special_tokens():
    assert len(TOKENIZER) < 1500
    assert TOKENIZER.eos_token == "<|im_end|>" and TOKENIZER.pad_token == "<|endoftext|>"
    for text in (*SPECIAL, "<think>", "</think>"):
        assert len(encode(text)) == 1
    assert TOKENIZER.decode(encode("<|im_start|>a<think>"), skip_special_tokens=True) == "a<think>"


@pytest.mark.parametrize("world", ["miniature", "miniature-long"])
@pytest.mark.parametrize("code", LANGUAGES)
def test_the_worlds_own_texts_need_no_bytes(world, code):
    tokenizer = build_tokenizer(world)
    contexts = [StudentPrompt(), Solution()] + ([Crosslingual()] if code != "eng" else [])
    if code == "eng" and world == "miniature-long":
        contexts += [Rubric(), Skills(), Demonstration(of="dataset"), Instruction(), Critique()]
    for p in problems(world, "test", code, 50):
        p = replace(p, privileged={**p.privileged, "critique": p.metadata["trace"]})
        views = [view for c in contexts for view in c(Group(p, ()), 0)]
        written = encode(p.metadata["trace"], tokenizer)
        for ids in [*(prompt_ids(tokenizer, v) for v in views), written]:
            text = tokenizer.decode(ids)
            assert all(
                len(t) > 1 or t.isdigit() or t in ".,?:[]}Ċ\\+-xA"
                for t in tokenizer.convert_ids_to_tokens(ids)
            ), text


@pytest.mark.parametrize(
    ("world", "student", "teacher", "trace"),
    [("miniature", 75, 190, 45), ("miniature-long", 75, 200, 160)],
)
def test_prompts_and_traces_are_short(world, student, teacher, trace):
    tokenizer = build_tokenizer(world)
    for code in LANGUAGES[1:]:
        for p in problems(world, "test", code, 100):
            (s,), (t,) = StudentPrompt()(Group(p, ()), 0), Crosslingual()(Group(p, ()), 0)
            assert len(prompt_ids(tokenizer, s)) <= student
            assert len(prompt_ids(tokenizer, t)) <= teacher
            assert len(encode(p.metadata["trace"], tokenizer)) <= trace


def view(*messages: tuple[str, str], **options) -> View:
    return View(
        "v", tuple({"role": r, "content": c} for r, c in messages), template_options=options
    )


def test_chat_template_thinking_switch():
    closed = "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n<think>\n\n</think>\n\n"
    opened = "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n"
    assert prompt_text(TOKENIZER, view(("user", "Hi"))) == closed
    assert prompt_text(TOKENIZER, view(("user", "Hi"), enable_thinking=False)) == closed
    assert prompt_text(TOKENIZER, view(("user", "Hi"), enable_thinking=True)) == opened


def test_chat_template_drops_earlier_thoughts():
    told = view(
        ("system", "S"),
        ("user", "A"),
        ("assistant", "<think>\nx\n</think>\n\nB"),
        ("user", "C"),
        enable_thinking=True,
    )
    assert prompt_text(TOKENIZER, told) == (
        "<|im_start|>system\nS<|im_end|>\n<|im_start|>user\nA<|im_end|>\n"
        "<|im_start|>assistant\nB<|im_end|>\n<|im_start|>user\nC<|im_end|>\n<|im_start|>assistant\n"
    )


def test_two_builds_are_the_same():
    assert TOKENIZER.backend_tokenizer.to_str() == build_tokenizer().backend_tokenizer.to_str()

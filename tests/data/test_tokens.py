"""Tokens as people read them: together they are the text, and their ids are the model's."""

from __future__ import annotations

import pytest
from tests.data.families import FAMILIES, tokenizer_of

from opsd.data.prompts import prompt_ids, prompt_parts
from opsd.data.tokens import token, tokens
from opsd.teacher.context import StudentPrompt
from opsd.types import Problem, View

PROBLEM = Problem("Ọ̀rọ̀  ሰላም\n\nx\ty 7½ 🙂.", language="yor")


@pytest.mark.parametrize("name", FAMILIES)
def test_pieces_are_the_prompt_and_ids_the_models(name: str):
    tokenizer = tokenizer_of(name)
    student = StudentPrompt(prefill="<think>\n{{ think_prefix }}")
    view = student.view(PROBLEM)
    template, prefill = prompt_parts(tokenizer, view)
    read = tokens(tokenizer, template + prefill, forced_from=len(template))
    assert tuple(t["id"] for t in read) == prompt_ids(tokenizer, view)
    assert "".join(t["text"] for t in read) == template + prefill
    assert "".join(t["text"] for t in read if t["kind"] == "forced") == prefill
    special = {t["text"] for t in read if t["kind"] == "special"}
    assert special == {text for text in FAMILIES[name].special if text in template}
    assert "" in {t["text"] for t in read}  # bytes of a character that the tokenizer has not seen


def test_tags_of_thinking_count_as_special():
    read = tokens(tokenizer_of("qwen3"), "<think>\nSo</think>")
    assert [t["text"] for t in read if t["kind"] == "special"] == ["<think>", "</think>"]


@pytest.mark.parametrize("name", ["llama3", "gemma3"])
def test_without_a_chat_template_the_tokenizers_own_token_is_shown(name: str):
    made = tokenizer_of(name)
    bos = FAMILIES[name].bos
    plain = type(made)(tokenizer_object=made.backend_tokenizer, bos_token=bos)
    view = View("v", ({"role": "user", "content": "1 + 1"},), prefill="So")
    template, prefill = prompt_parts(plain, view)
    read = tokens(plain, template + prefill, forced_from=len(template))
    assert tuple(t["id"] for t in read) == prompt_ids(plain, view)
    assert read[0] == {"id": plain.bos_token_id, "text": bos, "kind": "special"}
    assert "".join(t["text"] for t in read[1:]) == "1 + 1\n\nSo"
    assert "".join(t["text"] for t in tokens(plain, "So")) == "So"  # a reply does not begin


def test_one_token_by_its_id():
    tokenizer = tokenizer_of("qwen3")
    end = tokenizer.eos_token_id
    assert token(tokenizer, end) == {"id": end, "text": "<|im_end|>", "kind": "special"}

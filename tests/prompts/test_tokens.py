"""Tokens as people read them: together they are the text, and their ids are the model's."""

from __future__ import annotations

import pytest
from tests.prompts.families import FAMILIES, tokenizer_of
from tokenizers import Tokenizer

from opsd.miniature.tokenizer import THINK, build_tokenizer
from opsd.prompts.contexts import StudentPrompt
from opsd.prompts.prompt import prompt_ids, prompt_parts
from opsd.prompts.tokens import completion_reader, completion_text, token, tokens
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


@pytest.mark.parametrize("special", [True, False])
def test_a_completion_is_read_with_its_tags_and_without_control_tokens(special: bool):
    tokenizer = build_tokenizer()
    if special:
        tokenizer.add_special_tokens({"extra_special_tokens": list(THINK)})
    ids = tokenizer("<think>2 + 2</think> It is 4.<|im_end|><|endoftext|>")["input_ids"]
    assert ("<think>" in tokenizer.decode(ids, skip_special_tokens=True)) is not special
    assert completion_text(tokenizer, ids) == "<think>2 + 2</think> It is 4."
    file = Tokenizer.from_str(tokenizer.backend_tokenizer.to_str())
    assert completion_reader(file)(ids) == "<think>2 + 2</think> It is 4."


@pytest.mark.parametrize("name", FAMILIES)
def test_where_no_tag_is_special_it_is_as_the_library_leaves_special_tokens_out(name: str):
    tokenizer = tokenizer_of(name)
    text = "".join([*FAMILIES[name].special, "x = 7½ 🙂", tokenizer.eos_token])
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    plain = tokenizer.decode(ids, skip_special_tokens=True)
    assert completion_text(tokenizer, ids).replace("<think>", "").replace("</think>", "") == (
        plain.replace("<think>", "").replace("</think>", "")
    )

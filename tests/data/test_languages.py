"""Languages are files, and every one of them is complete."""

from __future__ import annotations

import pytest

from opsd.data.languages import codes, language
from opsd.types import UserError


@pytest.mark.parametrize("code", codes())
def test_every_language_file_is_valid_and_complete(code: str):
    read = language(code)
    assert read.code == code and len(code) == 3
    assert "\\boxed{}" in read.instruction
    texts = [read.name, read.transition, read.think_prefix, *read.labels.model_dump().values()]
    assert all(text.strip() == text and text for text in texts)


def test_no_two_languages_have_the_same_name_or_prefix():
    read = [language(code) for code in codes()]
    assert len({x.name for x in read}) == len({x.think_prefix for x in read}) == len(read)


def test_english_is_there():
    assert "eng" in codes()


@pytest.mark.parametrize("code", ["xxx", "", "SWA", "../eng", "en"])
def test_an_unknown_code_names_the_known_ones(code: str):
    with pytest.raises(UserError) as error:
        language(code)
    assert str(error.value) == f"unknown language '{code}'; known: {', '.join(codes())}"

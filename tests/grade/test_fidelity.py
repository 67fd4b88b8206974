"""Which language a text is in, or that it cannot be told."""

from __future__ import annotations

import csv
import os
from pathlib import Path

import pytest

from opsd.grade.fidelity import fidelity, identified, known
from opsd.languages.registry import codes

ENGLISH = "She gives nine mangoes to her brother, so there are twenty left in the basket at home. "
SWAHILI = "Anampa kaka yake maembe tisa, kwa hiyo yanabaki ishirini kwenye kikapu nyumbani kwao. "


def test_a_text_in_one_language_is_wholly_in_it():
    letters, told = fidelity(SWAHILI * 3, "swa")
    assert letters == told > 180
    assert fidelity(ENGLISH * 3, "swa") == (0, identified(ENGLISH * 3).total())


def test_a_text_that_changes_its_language_half_way_counts_half():
    letters, told = fidelity(SWAHILI * 4 + ENGLISH * 4, "swa")
    assert 0.4 < letters / told < 0.6


@pytest.mark.parametrize("text", ["", "24 - 10 = 14.", r"\boxed{14}", "Jibu ni 14", "= " * 9999])
def test_what_is_too_short_to_tell_is_unknown(text):
    assert fidelity(text, "swa") == (0, 0)


@pytest.mark.parametrize("code", ["ewe", "twi", "vai", "wol"])
def test_a_language_that_is_not_known_is_unknown_whatever_is_written(code):
    assert code not in known() and fidelity(ENGLISH * 3, code) == (0, 0)


def test_numbers_and_markup_are_not_read():
    """`boxed`, `frac` and `think` are English words, and say nothing about the trace."""
    text = r"<think> \frac{1}{2} \boxed{\text{7}} </think> " * 30
    assert sum(identified(text).values()) <= 60
    wrapped = f"<think>{SWAHILI * 2}</think>" + r"\boxed{\frac{1}{2}}" * 20
    assert fidelity(wrapped, "swa") == fidelity(SWAHILI * 2, "swa")


def test_most_shipped_languages_are_known():
    assert set(codes()) - known() == {"ewe", "twi", "vai", "wol"}


@pytest.mark.skipif("OPSD_DATA" not in os.environ, reason="OPSD_DATA names no folder of real data")
def test_questions_of_afrimgsm_are_in_their_languages():
    folder = Path(os.environ["OPSD_DATA"]) / "afrimgsm"
    for code in sorted(p.name for p in folder.iterdir() if p.is_dir()):
        with (folder / code / "test.tsv").open(encoding="utf-8") as file:
            texts = [row["question"] for row in csv.DictReader(file, delimiter="\t")][:60]
        letters, told = map(sum, zip(*(fidelity(text, code) for text in texts), strict=True))
        assert told == 0 if code not in known() else letters / told > 0.9, (code, letters, told)

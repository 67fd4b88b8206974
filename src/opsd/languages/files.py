"""The contents of a language file, and what can be wrong with it."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator, Mapping
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from opsd.types import UserError
from opsd.validation import content, near

BOX = r"\boxed{}"

Fault = tuple[str, str]
"""A key of the file, what is wrong with it, and how to fix it."""

# ISO 15924 codes, and the beginnings of the Unicode names of the script's letters.
_LETTERS = {
    "Adlm": ("ADLAM",),
    "Arab": ("ARABIC",),
    "Armn": ("ARMENIAN",),
    "Beng": ("BENGALI",),
    "Cher": ("CHEROKEE",),
    "Cyrl": ("CYRILLIC",),
    "Deva": ("DEVANAGARI",),
    "Ethi": ("ETHIOPIC",),
    "Geor": ("GEORGIAN",),
    "Grek": ("GREEK",),
    "Gujr": ("GUJARATI",),
    "Guru": ("GURMUKHI",),
    "Hang": ("HANGUL",),
    "Hani": ("CJK",),
    "Hans": ("CJK",),
    "Hant": ("CJK",),
    "Hebr": ("HEBREW",),
    "Jpan": ("CJK", "HIRAGANA", "KATAKANA"),
    "Khmr": ("KHMER",),
    "Knda": ("KANNADA",),
    "Kore": ("HANGUL", "CJK"),
    "Laoo": ("LAO",),
    "Latn": ("LATIN",),
    "Mlym": ("MALAYALAM",),
    "Mymr": ("MYANMAR",),
    "Nkoo": ("NKO",),
    "Orya": ("ORIYA",),
    "Sinh": ("SINHALA",),
    "Syrc": ("SYRIAC",),
    "Taml": ("TAMIL",),
    "Telu": ("TELUGU",),
    "Tfng": ("TIFINAGH",),
    "Thaa": ("THAANA",),
    "Thai": ("THAI",),
    "Tibt": ("TIBETAN",),
    "Vaii": ("VAI",),
}
_RIGHT_TO_LEFT = frozenset({"Adlm", "Arab", "Hebr", "Nkoo", "Syrc", "Thaa"})
# Marks, embeddings, overrides, isolates: they reorder text on the screen, not for a model.
_BIDI = frozenset("\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")
_SHAPES = {
    "code": (r"[a-z]{3}", "ISO 639-3 code; write three small letters, as in swa"),
    "script": (r"[A-Z][a-z]{3}", "ISO 15924 code; write four letters, as in Latn, Ethi or Arab"),
}


Spellings = Annotated[
    tuple[str, ...], BeforeValidator(lambda x: x if isinstance(x, list | tuple) else [x])
]


class Labels(BaseModel):
    """Headings inside a prompt."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    problem: str
    translation: str
    solution: str
    begin: str
    end: str


class Language(BaseModel):
    """The strings of one language, and how it is written.

    `aliases` are further names that datasets use for it. `script` is the script of the strings.
    `decimal_mark` is the mark that its speakers usually write in 0.5. `final_instruction` ends the
    crosslingual teacher's prompt if that differs from `instruction`. `reflective_markers` are words
    with which a speaker doubts or checks a statement; an empty list means that they are not known.
    `numerals` are numbers in words, each with one or several spellings. `verified` says whether a
    speaker has read the strings; `note` says what users should know.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    code: str
    name: str
    aliases: tuple[str, ...] = ()
    script: str
    direction: Literal["ltr", "rtl"] = "ltr"
    decimal_mark: Literal[".", ","] = "."
    verified: bool = False
    note: str = ""
    instruction: str
    final_instruction: str | None = None
    transition: str
    think_prefix: str
    labels: Labels
    reflective_markers: tuple[str, ...] = ()
    numerals: dict[Annotated[int, Field(ge=0)], Spellings] = {}

    @property
    def closing(self) -> str:
        """The last line of the crosslingual teacher's prompt."""
        return self.final_instruction or self.instruction

    def spelled(self, text: str) -> int | None:
        """The number that a whole text spells in the language's words, if they are known; case,
        hyphens and spaces do not matter."""
        return self._spelled.get(_spelling(text))

    @cached_property
    def _spelled(self) -> dict[str, int]:
        return {_spelling(word): n for n, words in self.numerals.items() for word in words}

    @property
    def names(self) -> tuple[str, ...]:
        """Code, name and aliases, in lower case, without duplicates."""
        return tuple(dict.fromkeys(map(str.casefold, (self.code, self.name, *self.aliases))))


def _spelling(text: str) -> str:
    plain = unicodedata.normalize("NFC", text).replace("\u2019", "'").casefold()
    return " ".join(plain.replace("-", " ").split())


def read(path: Path, taken: Mapping[str, str]) -> Language:
    """The language of a file. Raises UserError with the first fault that `faults` finds."""
    found = faults(path, taken)
    if found:
        more = f" ({len(found) - 1} more; see `opsd languages check`)" if found[1:] else ""
        raise UserError(found[0] + more)
    return Language.model_validate(content(path))


def of_script(text: str, script: str) -> tuple[int, int]:
    """How many letters of a text belong to a script (ISO 15924), and how many letters it has. All
    letters count as belonging to a script that is not known here.

    >>> of_script("Jibu ni 14", "Latn"), of_script("Jibu ni 14", "Ethi")
    ((6, 6), (0, 6))
    """
    letters = [c for c in text if c.isalpha()]
    own = _LETTERS.get(script, ("",))
    return sum(unicodedata.name(c, "").startswith(own) for c in letters), len(letters)


def faults(path: Path, taken: Mapping[str, str]) -> list[str]:
    """What is wrong with a language file, a line each: `file, key: what is wrong; how to fix it`.

    `taken` maps the names of known languages to their codes: a name belongs to one language.
    """
    try:
        raw = content(path)
    except UserError as error:
        return [str(error)]
    if not isinstance(raw, dict):
        return [f"{path}: has no keys; begin with 'code: ' and the language's ISO 639-3 code"]
    return [f"{path}, {key}: {fault}" for key, fault in _faults(raw, taken)]


def remarks(language: Language, path: Path) -> list[str]:
    """What a user of a valid language file should know, a line each."""
    if language.verified:
        return []
    return [f"{path}, verified: no speaker has read these strings; set it to true when one has"]


def _faults(raw: Mapping[str, Any], taken: Mapping[str, str]) -> Iterator[Fault]:
    yield from _of_shape(raw)
    yield from _of_codes(raw)
    yield from _of_names(raw, taken)
    prompts = dict(_prompts(raw))
    for key, text in [*_texts(raw), *prompts.items()]:
        yield from ((key, fault) for fault in _of_text(text))
    for key, text in prompts.items():
        yield from ((key, fault) for fault in _of_prompt(text, str(raw.get("script"))))
        if key.endswith("instruction") and BOX not in text:
            yield key, rf"contains no {BOX}; add it, and do not use double quotes"
    yield from (("think_prefix", fault) for fault in _of_prefix(prompts.get("think_prefix", "")))
    yield from _of_numerals(raw.get("numerals"))
    begin = prompts.get("labels.begin")
    if begin is not None and begin == prompts.get("labels.end"):
        yield "labels.end", "is the same as labels.begin; let it say that the solution ends"


def _of_shape(raw: Mapping[str, Any]) -> Iterator[Fault]:
    """Keys that are missing, unknown, or have a value of the wrong type."""
    try:
        Language.model_validate(raw)
    except ValidationError as error:
        for found in error.errors():
            *parents, last = map(str, found["loc"])
            known = (Labels if parents else Language).model_fields
            match found["type"]:
                case "missing":
                    fault = "is missing; add it"
                case "extra_forbidden":
                    fault = f"unknown key{near(last, known) or '; known: ' + ', '.join(known)}"
                case "string_type":
                    fault = "is not a text; put it in single quotes"
                case _:
                    fault = f"{found['msg'][0].lower()}{found['msg'][1:]}"
            yield ".".join((*parents, last)), fault


def _of_codes(raw: Mapping[str, Any]) -> Iterator[Fault]:
    for key, (shape, what) in _SHAPES.items():
        value = raw.get(key)
        if isinstance(value, str) and not re.fullmatch(shape, value):
            yield key, f"'{value}' is not an {what}"
    script, direction = str(raw.get("script")), str(raw.get("direction", "ltr"))
    needed = "rtl" if script in _RIGHT_TO_LEFT else "ltr"
    if script in _LETTERS and direction in {"ltr", "rtl"} and direction != needed:
        yield "direction", f"is {direction}, and {script} is written {needed}; write {needed}"


def _of_names(raw: Mapping[str, Any], taken: Mapping[str, str]) -> Iterator[Fault]:
    for key, name in _texts(raw):
        owner = taken.get(name.casefold(), raw.get("code"))
        if key.startswith(("name", "alias")) and owner != raw.get("code"):
            yield key, f"'{name}' already names {owner}; leave it out, or choose another one"


def _of_text(text: str) -> Iterator[str]:
    if not text.strip():
        yield "is empty; write the text"
    elif text != text.strip():
        yield "begins or ends with a space or a line break; remove it"
    for character in sorted(set(text)):
        if character in _BIDI or (unicodedata.category(character) == "Cc" and character != "\n"):
            called = unicodedata.name(character, "a control character")
            yield f"contains U+{ord(character):04X} ({called}), which is invisible; delete it"
    if not unicodedata.is_normalized("NFC", text):
        yield "is not NFC-normalised; write what unicodedata.normalize('NFC', text) gives"


def _of_prompt(text: str, script: str) -> Iterator[str]:
    for mark in ("{{", "{%", "{#"):
        if mark in text:
            yield f"contains the template mark '{mark}'; strings are not templates, delete it"
    plain = text.replace(BOX, "")
    own, letters = of_script(plain, script)
    if 2 * own < letters:
        first = next(c for c in plain if c.isalpha() and not of_script(c, script)[0])
        yield (
            f"{letters - own} of its {letters} letters are not of the script {script}"
            f" ('{first}'); fix the text or the script"
        )


def _of_numerals(numerals: Any) -> Iterator[Fault]:
    """Words that stand for two numbers."""
    owners: dict[str, object] = {}
    for number, word in _numerals(numerals):
        owner = owners.setdefault(_spelling(word), number)
        if owner != number:
            yield f"numerals.{number}", f"'{word}' is {owner} as well; leave it out of one of them"


def _of_prefix(text: str) -> Iterator[str]:
    if "\n" in text.strip():
        yield "contains a line break; the model continues in the same line, so write one line"
    if "<think" in text or "</think" in text:
        yield "contains a tag; recipes write <think> before it, remove it"
    if r"\boxed" in text:
        yield r"contains \boxed, which would be read as an answer; remove it"


def _texts(raw: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Name, aliases, numerals and note: texts that no model reads."""
    aliases = raw.get("aliases")
    listed = list(enumerate(aliases)) if isinstance(aliases, list) else []
    for key, value in [
        ("name", raw.get("name")),
        *((f"aliases.{i}", alias) for i, alias in listed),
        *((f"numerals.{number}", word) for number, word in _numerals(raw.get("numerals"))),
        ("note", raw.get("note")),
    ]:
        if isinstance(value, str):
            yield key, value


def _numerals(numerals: Any) -> Iterator[tuple[object, str]]:
    for number, words in numerals.items() if isinstance(numerals, dict) else ():
        for word in words if isinstance(words, list) else [words]:
            if isinstance(word, str):
                yield number, word


def _prompts(raw: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """The strings of prompts, which models read; labels have keys like `labels.begin`."""
    labels = raw.get("labels")
    inner = labels.items() if isinstance(labels, dict) else ()
    names = ("instruction", "final_instruction", "transition", "think_prefix")
    for key, value in [
        *((name, raw.get(name)) for name in names),
        *((f"labels.{name}", value) for name, value in inner),
    ]:
        if isinstance(value, str):
            yield key, value

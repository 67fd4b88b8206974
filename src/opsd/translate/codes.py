"""How models of translation call a language, from what our language files say of it.

NLLB (Costa-jussa et al. 2022, arXiv 2207.04672) writes `swh_Latn`, MADLAD-400 (Kudugunta et al.
2023, arXiv 2309.04662) `<2sw>` before the text, M2M100 `__sw__`, OPUS-MT `>>swa<<` before the text.
Which of them a model knows, its vocabulary says.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from opsd.languages.registry import codes, language
from opsd.types import UserError
from opsd.validation import near

# Scripts by the names that NLLB has for them.
_SCRIPTS = {"Kore": "Hang", "Hani": "Hans"}
_SHORT = re.compile(r"[a-z]{2,3}")
_PREFIX = re.compile(r"<2\w+>|>>\w+<<")
_FORMS = ("{code}_{script}", "<2{code}>", "__{code}__", ">>{code}<<", ">>{code}_{script}<<")


@dataclass(frozen=True)
class Told:
    """How a model is told a language: by text before its input, by the first token that it writes,
    or not at all, where it knows only one."""

    prefix: str = ""
    first: str | None = None


def told(code: str, vocabulary: Mapping[str, int], given: str | None = None) -> Told:
    """How a model with this vocabulary is told a language (ISO 639-3), or the token that the user
    has `given` for it.

    >>> told("swa", {"swh_Latn": 7}), told("swa", {"<2sw>": 3})
    (Told(prefix='', first='swh_Latn'), Told(prefix='<2sw> ', first=None))

    Raises UserError where it has no token for the language, but for others.
    """
    if given is not None and given not in vocabulary:
        hint = near(given, (token for token in vocabulary if len(token) < 16))
        raise UserError(f"--code {code}={given}: no token of the model{hint}")
    token = given or next((form for form in _candidates(code) if form in vocabulary), None)
    if token is not None:
        is_prefix = _PREFIX.fullmatch(token)
        return Told(prefix=f"{token} ") if is_prefix else Told(first=token)
    others = [c for c in codes() if any(form in vocabulary for form in _candidates(c))]
    if others:
        raise UserError(
            f"the model has no token for {language(code).name} ({code}), as for"
            f" {', '.join(others[:8])}; name one: --code {code}=TOKEN"
        )
    return Told()


def _candidates(code: str) -> Iterator[str]:
    """The language's tokens in every form, short codes that are its own first."""
    own = language(code)
    script = _SCRIPTS.get(own.script, own.script)
    known = [name for name in own.names if _SHORT.fullmatch(name)]
    for name in known:
        for form in _FORMS:
            yield form.format(code=name, script=script)

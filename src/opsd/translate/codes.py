"""The tokens with which translation models denote a language, derived from our language files.

NLLB (Costa-jussa et al. 2022, arXiv 2207.04672) writes `swh_Latn`, MADLAD-400 (Kudugunta et al.
2023, arXiv 2309.04662) `<2sw>` before the text, M2M100 `__sw__`, OPUS-MT `>>swa<<` before the text.
A model's vocabulary shows which of these it knows.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from opsd.languages.registry import codes, language
from opsd.types import UserError
from opsd.validation import near

# Scripts that have another name in NLLB.
_SCRIPTS = {"Kore": "Hang", "Hani": "Hans"}
_SHORT = re.compile(r"[a-z]{2,3}")
_PREFIX = re.compile(r"<2\w+>|>>\w+<<")
_FORMS = ("{code}_{script}", "<2{code}>", "__{code}__", ">>{code}<<", ">>{code}_{script}<<")


@dataclass(frozen=True)
class Told:
    """How the target language is passed to a model: as text before its input, as the first token
    that it writes, or not at all, if it knows only one language."""

    prefix: str = ""
    first: str | None = None


def told(code: str, vocabulary: Mapping[str, int], given: str | None = None) -> Told:
    """How a language (ISO 639-3) is passed to a model with this vocabulary; `given` is the token
    that the user has given for it.

    >>> told("swa", {"swh_Latn": 7}), told("swa", {"<2sw>": 3})
    (Told(prefix='', first='swh_Latn'), Told(prefix='<2sw> ', first=None))

    Raises UserError if the model has no token for this language, but has tokens for others.
    """
    if given is not None and given not in vocabulary:
        hint = near(given, (token for token in vocabulary if len(token) < 16))
        raise UserError(f"--code {code}={given}: not a token of the model{hint}")
    token = given or next((form for form in _candidates(code) if form in vocabulary), None)
    if token is not None:
        is_prefix = _PREFIX.fullmatch(token)
        return Told(prefix=f"{token} ") if is_prefix else Told(first=token)
    others = [c for c in codes() if any(form in vocabulary for form in _candidates(c))]
    if others:
        raise UserError(
            f"the model has no token for {language(code).name} ({code}), but for"
            f" {', '.join(others[:8])}; name one: --code {code}=TOKEN"
        )
    return Told()


def _candidates(code: str) -> Iterator[str]:
    """Yields the language's possible tokens, in every form, its own short codes first."""
    own = language(code)
    script = _SCRIPTS.get(own.script, own.script)
    known = [name for name in own.names if _SHORT.fullmatch(name)]
    for name in known:
        for form in _FORMS:
            yield form.format(code=name, script=script)

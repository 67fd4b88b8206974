"""Removes passwords, keys and tokens from whatever is written to files or logs."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any
from urllib.parse import urlsplit, urlunsplit

HIDDEN = "***"

_NAME = re.compile(
    r"(^|[_-])(password|passwd|secret|auth|authorization|(api|secret|private|access)[_-]?key"
    r"|(?<!pad_)(?<!eos_)(?<!bos_)(?<!unk_)(?<!sep_)(?<!cls_)(?<!mask_)(?<!image_)token)$",
    re.IGNORECASE,
)
# The scheme's length is bounded, as the search would otherwise be quadratic in a long text.
_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]{0,30}://[^\s'\"<>]+")
_KEY = re.compile(
    r"\b(hf_|sk-|sk_live_|ghp_|gho_|github_pat_|glpat-|AIza|xox[bp]-|eyJ)[A-Za-z0-9_.-]{8,}"
    r"|\bAKIA[0-9A-Z]{16}\b"
)
_BEARER = re.compile(r"(?i)\b(bearer\s+)[A-Za-z0-9._~+/-]{8,}=*")


def without_credentials(value: Any) -> Any:
    """Return plain values without credentials. Entries named like a token, a key or a password are
    dropped; in strings, keys are masked and URLs lose their `user:password@` and `?key=...`.

    >>> without_credentials({"base_url": "http://me:word@host:8000/v1?key=1", "hub_token": "x"})
    {'base_url': 'http://host:8000/v1'}
    """
    if isinstance(value, Mapping):
        kept = {k: v for k, v in value.items() if not (_NAME.search(str(k)) and v is not None)}
        return {k: without_credentials(v) for k, v in kept.items()}
    if isinstance(value, list | tuple):
        return [without_credentials(v) for v in value]
    return cleaned(value) if isinstance(value, str) else value


def cleaned(text: str) -> str:
    """Return the text with keys masked and with the credentials removed from its URLs."""
    text = _URL.sub(lambda found: _address(found[0]), text)
    return _BEARER.sub(rf"\g<1>{HIDDEN}", _KEY.sub(lambda found: (found[1] or "") + HIDDEN, text))


def _address(url: str) -> str:
    try:
        parts = urlsplit(url)
    except ValueError:
        return HIDDEN
    return urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], parts.path, "", ""))

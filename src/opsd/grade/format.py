r"""Where a completion states its answer: the last complete `\boxed{}`."""

from __future__ import annotations

import re

THINK_END = "</think>"

# One pass over a text finds: boxes (with braces, or followed by a bare number), escaped braces,
# TeX line breaks (unless it is the doubled backslash of `\\boxed`), and plain braces.
_TOKEN = re.compile(
    r"\\boxed\s*(?:(?P<open>\{)|(?P<bare>[-+]?\d[^\s${}\\]*))|\\[{}]|\\\\(?!boxed)|(?P<brace>[{}])"
)


def extract_boxed(text: str) -> str | None:
    r"""The content of the last complete box, or None if there is none or it is empty.

    A box is `\boxed{...}` with balanced braces (`\{` and `\}` do not count as braces), or
    `\boxed` before a bare number. "Last" means that it begins last, so a box inside a box wins.
    A box that never closes is ignored, and an earlier complete one counts. Takes linear time.

    >>> extract_boxed(r"so \boxed{\frac{1}{2}}.")
    '\\frac{1}{2}'
    >>> extract_boxed(r"\boxed 5."), extract_boxed(r"\boxed{4} or \boxed{5")
    ('5', '4')
    >>> extract_boxed(r"\boxed{}") is None
    True
    """
    return last_box(text)[1] or None


def last_box(text: str) -> tuple[int, str]:
    """Where the content of the last complete box begins, and the content; -1 and an empty text if
    there is none."""
    open_at: list[int] = []  # for each open brace: where its box's content starts, or -1
    content = ""
    last = -1
    for token in _TOKEN.finditer(text):
        if token["open"]:
            open_at.append(token.end())
        elif token["bare"]:
            last, content = token.end(), token["bare"].rstrip(".,;:!?)]*")
        elif token["brace"] == "{":
            open_at.append(-1)
        elif token["brace"] and open_at:
            start = open_at.pop()
            if start > last:
                last, content = start, text[start : token.start()]
    return last, content.strip()


def answer_part(completion: str, after_think: bool = False) -> str:
    """The part of a completion in which its answer is searched.

    With `after_think` that is what follows the last `</think>`, and nothing if there is none: a
    completion that is still thinking has not answered.

    >>> answer_part("<think>hm</think> four", after_think=True)
    ' four'
    """
    if not after_think:
        return completion
    _, closed, rest = completion.rpartition(THINK_END)
    return rest if closed else ""


def format_ok(completion: str, after_think: bool = False) -> bool:
    r"""Whether the completion states an answer at all: its last complete box is not empty.

    >>> format_ok(r"It is \boxed{4}."), format_ok("It is 4.")
    (True, False)
    """
    return extract_boxed(answer_part(completion, after_think)) is not None

"""Removes what an earlier quickstart or trial has left behind: its own files and no others."""

from __future__ import annotations

import re
from pathlib import Path

from opsd.types import UserError

RUN = (
    r"(env\.json|recipe\.yaml|metrics\.jsonl|rollouts/rank0\.jsonl|traces/rank0\.jsonl"
    r"|\.?checkpoint-\d+(\.part)?/.+|tokenizer\.json|tokenizer_config\.json|chat_template\.jinja|report\.html|inspect\.html)"
)
"""The files of an arm's or a trial's run folder."""
_DRAFT = r"(\.\d+-\d+\.part)?"
"""The suffix of an incomplete file that a killed process leaves."""


def remove(folder: Path, own: str) -> None:
    """Removes the files whose paths below `folder` match the expression `own`, and then the empty
    folders. Raises UserError, and removes nothing, if there is any other file."""
    found = sorted(folder.rglob("*"), reverse=True)
    files = [path for path in found if path.is_symlink() or not path.is_dir()]
    for path in files:
        if not re.fullmatch(own + _DRAFT, path.relative_to(folder).as_posix()):
            raise UserError(
                f"{path} would be lost, but was not written by this command: move it, or choose"
                " another --output"
            )
    for path in files:
        path.unlink()
    for path in found:
        if path not in files:
            path.rmdir()

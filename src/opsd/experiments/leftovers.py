"""What an earlier quickstart or trial has left behind, taken away: its own files and no others."""

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
"""What a kill leaves of a file that was being written."""


def remove(folder: Path, own: str) -> None:
    """Takes the files away whose paths below `folder` match the expression `own`, then the folders
    that are empty without them. Raises UserError, and takes nothing, where there is another one."""
    found = sorted(folder.rglob("*"), reverse=True)
    files = [path for path in found if path.is_symlink() or not path.is_dir()]
    for path in files:
        if not re.fullmatch(own + _DRAFT, path.relative_to(folder).as_posix()):
            raise UserError(
                f"{path} would be lost, and is nothing that this command has written: move it, or"
                " choose another --output"
            )
    for path in files:
        path.unlink()
    for path in found:
        if path not in files:
            path.rmdir()

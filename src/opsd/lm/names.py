"""Refuses impossible model names before anything heavy is imported."""

from __future__ import annotations

import re
from pathlib import Path

from opsd.lm.built_in import NAMES
from opsd.lm.gguf import is_gguf
from opsd.types import UserError
from opsd.validation import near

_OF_THE_HUB = re.compile(r"[\w.-]+(/[\w.-]+)?(@[^@\s]+)?")
"""`owner/repository`, or one of the first models, which have no owner; optionally with a
revision."""


def refuse_unknown(name: str) -> None:
    """Raises UserError for a name that is neither a folder, nor a built-in model, nor a possible
    name on the Hub. The Hub is not queried."""
    if Path(name).exists() or name in NAMES or is_gguf(name):
        return
    path = Path(name)
    beside = path.parent if path.parent.is_dir() and len(path.parts) > 1 else None
    folders = [other for other in beside.iterdir() if other.is_dir()] if beside else []
    runs = sorted(folder.name for folder in folders if (folder / "recipe.yaml").is_file())
    if runs:  # no owner on the Hub has the name of a local folder of runs
        meant = near(path.name, runs) or f"; there are {', '.join(runs[:5])}"
        raise UserError(f"no folder '{name}'{meant}")
    known = [folder.name for folder in folders]
    hint = near(name, NAMES, 0.8) if "/" not in name else near(path.name, known)
    if not _OF_THE_HUB.fullmatch(name) or (hint and "/" not in name):
        told = f"neither a folder here nor a name that the Hub could have{hint}"
        raise UserError(f"cannot load the model '{name}': {told}")

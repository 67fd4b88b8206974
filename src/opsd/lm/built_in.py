"""The built-in models by name; once resolved to a folder, a model is like any other."""

from __future__ import annotations

from importlib import resources
from pathlib import Path

NAMES = (
    "miniature",
    "miniature-small",
    "miniature-tiny",
    "miniature-long",
    "miniature-diffusion",
    "miniature-swahili",
    "miniature-yoruba",
)


def model_path(name: str) -> Path | None:
    """The folder of the shipped model with this name; None for any other name.

    >>> model_path("Qwen/Qwen3-1.7B") is None
    True
    """
    if name not in NAMES:
        return None
    return Path(str(resources.files("opsd.miniature"))) / "models" / name


def resolve(name: str) -> str:
    """The folder of a built-in model, or the name unchanged. The folder of a built-in model in
    another installation, which an adapter's configuration may contain, counts as its name."""
    path = Path(name)
    if path.parts[-4:-1] == ("opsd", "miniature", "models") and path.name in NAMES:
        name = path.name
    return str(model_path(name) or name)

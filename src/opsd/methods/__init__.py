"""The catalogue: every published method, built from parts.

    method = source x signal (each with its own reduction), each batch used for `reuse` steps

A method is a function in one of the modules below that returns a `Method`, for example
`opsd.methods.copsd()`. Only this folder and the experiments know the methods by name.
"""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType

from opsd.methods import (
    authored,
    baselines,
    contexts,
    contrast,
    crosslingual,
    diffusion,
    distillation,
    horizons,
    retraining,
    skilled,
    targets,
    unsupervised,
    verified,
)
from opsd.methods.method import Method

_MODULES = (
    *(distillation, crosslingual, targets, horizons, authored, skilled, verified),
    *(contrast, contexts, unsupervised, diffusion, retraining, baselines),
)


def _methods_of(module: ModuleType) -> dict[str, Callable[..., Method]]:
    """The functions of a module that return a method, in the order of their definition."""
    own = {n: f for n, f in vars(module).items() if getattr(f, "__module__", "") == module.__name__}
    return {
        n: f for n, f in own.items() if f.__annotations__.get("return") == "Method" and n[0] != "_"
    }


FUNCTIONS: dict[str, Callable[..., Method]] = {
    name: function for module in _MODULES for name, function in _methods_of(module).items()
}
"""The functions that build the methods, by method name."""

__all__ = ["FUNCTIONS", "Method", "catalogue", *FUNCTIONS]


def catalogue() -> dict[str, Method]:
    """Every method with its default parts, by name."""
    return {name: function() for name, function in FUNCTIONS.items()}


def __getattr__(name: str) -> Callable[..., Method]:
    """The function that builds the method of this name."""
    if name in FUNCTIONS:
        return FUNCTIONS[name]
    raise AttributeError(f"module 'opsd.methods' has no attribute '{name}'")


def __dir__() -> list[str]:
    return [*globals(), *FUNCTIONS]

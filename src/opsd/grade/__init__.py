"""Whether a completion is right and well formed: one verifier for rewards and for evaluation."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from opsd.grade.answer import answers_match, is_correct

__all__ = ["answers_match", "is_correct"]


def __getattr__(name: str) -> Any:
    # Imported on demand: code that only counts n-grams does not need the tables of words.
    if name in __all__:
        from opsd.grade import answer

        return getattr(answer, name)
    raise AttributeError(f"module 'opsd.grade' has no attribute '{name}'")

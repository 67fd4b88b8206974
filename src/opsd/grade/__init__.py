"""Was it right, was it well formed: one verifier for rewards and for evaluation."""

from opsd.grade.answer import answers_match, is_correct

__all__ = ["answers_match", "is_correct"]

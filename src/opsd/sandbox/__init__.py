"""Untrusted work (a model's answers, somebody else's templates) in a process that can be ended."""

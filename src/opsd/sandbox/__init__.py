"""Untrusted work (a model's answers, foreign templates) in a process that can be killed."""

"""Trainers and engines on a Ray cluster, by one command: placed, watched, started again."""

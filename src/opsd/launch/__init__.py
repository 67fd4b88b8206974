"""Launches trainers and engines on a Ray cluster with one command: places, watches and restarts
them."""

"""Many engines and trainers, simulated event by event: `python -m benchmarks.fleet`."""

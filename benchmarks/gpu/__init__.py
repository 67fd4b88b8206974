"""What needs a GPU, in one command that keeps to its minutes: `python -m benchmarks.gpu`."""

"""All measurements that need a GPU, within a time limit: `python -m benchmarks.gpu`."""

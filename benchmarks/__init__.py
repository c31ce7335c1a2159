"""Benchmarks on real embedded servers: `python -m benchmarks` prints tables and writes `benchmarks/results/<name>.json`."""

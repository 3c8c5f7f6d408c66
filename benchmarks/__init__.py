"""Measurements of the whole, each run with ``python -m benchmarks.NAME``."""

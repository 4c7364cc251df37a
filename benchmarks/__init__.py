"""Benchmarks: `make bench` runs this package. See docs/benchmarks.md for a run's tables."""

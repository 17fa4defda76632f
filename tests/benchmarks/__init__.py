"""Benchmarks with a contract (README.md beside this file): ``python -m tests.benchmarks``."""

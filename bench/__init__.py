"""Benchmarks. Each is a program whose last line is ``RESULT {json}``."""

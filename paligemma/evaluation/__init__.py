"""Benchmarks, metrics and reports of a model's answers."""

"""Metrics, one family a file, each as its official scorer counts."""

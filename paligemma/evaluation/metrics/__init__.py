"""Scores, each as its official scorer counts."""

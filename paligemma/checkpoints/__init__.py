"""Checkpoints: found by name, read strictly, written in every published layout."""

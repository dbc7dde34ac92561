"""Readers of annotation files, shared by training and evaluation."""

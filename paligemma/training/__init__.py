"""The trainer: fine-tunes, the stages of the papers, and those that make the built-in model."""

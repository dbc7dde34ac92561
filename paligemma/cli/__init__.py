"""The commands of `paligemma`, a function each, beside the options that it takes."""

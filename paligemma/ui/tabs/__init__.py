"""A file for each tab, or for each kind of tab."""

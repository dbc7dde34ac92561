"""Published data sets, as their official files lie on disk."""

"""The drawn world of the built-in model: its scenes, and everything there is to say about one."""

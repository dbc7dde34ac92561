"""How the built-in model is made: the drawn world, the mask codec, the tower, the whole model."""

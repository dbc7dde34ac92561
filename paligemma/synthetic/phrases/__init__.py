"""What is asked about the scenes of the drawn world, and the true answers, in four languages."""

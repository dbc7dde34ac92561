"""TODO checkpoints"""

"""TODO interpret"""

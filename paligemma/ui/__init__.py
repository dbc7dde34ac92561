"""TODO ui"""

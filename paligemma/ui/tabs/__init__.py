"""TODO tabs"""

"""Simulated model servers: an engine model in virtual time, a server that drives it in real time, a trace replay.

May import `picker.types`, `picker.errors` and `picker._core` only.
"""

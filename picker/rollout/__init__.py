"""Moves traffic from an old pool or adapter to a new one, step by step, gated on what picker counts of both."""

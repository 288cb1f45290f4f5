"""Overload in virtual time: simulated engines, bursts and faults, and a gateway that decides who goes when."""

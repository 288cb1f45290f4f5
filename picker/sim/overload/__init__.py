"""Overload in virtual time: a pool of simulated engines, bursts and faults, and a gateway that decides who goes when."""

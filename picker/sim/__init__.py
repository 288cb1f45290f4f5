"""Simulated model servers: an engine model in virtual time, a server that drives it in real time, and the lab.

The lab (`picker sim`) runs routing policies, the production core among them, on a load: `lab` makes a run, `world` is
the cluster, `gateway` what stands before it, `core` picker as one, `policies` the others, `traces` what is asked.
Overload experiments run in the same world. May import the floors below.
"""

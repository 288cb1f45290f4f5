"""Shells that move ext_proc messages between a gateway and the core, and gRPC health."""

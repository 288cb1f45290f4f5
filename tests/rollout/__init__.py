"""Rollouts: the pure core, what is read and written, the controller against a fake API server, the command."""
